/* text_json.c - fields of a tokenizer's JSON, with errors that name them. */
#include <string.h>

#include "text_parts.h"

enum { MAX_NESTING = 8, MAX_FILE = 1 << 29 };

json_t *tx_json_read(const char *path, bool as_real, oc_err *err)
{
    bs_buf text = {0};
    json_error_t why;
    json_t *o = NULL;
    if (bs_read_file(&text, path, MAX_FILE, err))
        goto done;
    o = json_loadb(text.p, text.n, JSON_ALLOW_NUL | (as_real ? JSON_DECODE_INT_AS_REAL : 0), &why);
    if (!o)
        bs_err(err, "cannot read '%s': line %d: %s", path, why.line, why.text);
    else if (!json_is_object(o)) {
        bs_err(err, "cannot read '%s': it must hold one JSON object", path);
        json_decref(o);
        o = NULL;
    }
done:
    bs_buf_clear(&text);
    return o;
}

static const json_t *field(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

int tx_json_bool(const json_t *o, const char *where, const char *key, bool fallback, bool *out, oc_err *err)
{
    const json_t *v = field(o, key);
    if (v && !json_is_boolean(v))
        return bs_err(err, "%s: '%s' must be true or false", where, key);
    *out = v ? json_is_true(v) : fallback;
    return 0;
}

int tx_json_int(const json_t *o, const char *where, const char *key, json_int_t fallback, json_int_t *out, oc_err *err)
{
    const json_t *v = field(o, key);
    if (v && !json_is_integer(v))
        return bs_err(err, "%s: '%s' must be an integer", where, key);
    *out = v ? json_integer_value(v) : fallback;
    return 0;
}

int tx_json_text(const json_t *o, const char *where, const char *key, const char **s, size_t *n, oc_err *err)
{
    const json_t *v = field(o, key);
    if (v && !json_is_string(v))
        return bs_err(err, "%s: '%s' must be a string", where, key);
    *s = v ? json_string_value(v) : NULL;
    *n = v ? json_string_length(v) : 0;
    return 0;
}

int tx_json_need_text(const json_t *o, const char *where, const char *key, const char **s, size_t *n, oc_err *err)
{
    if (tx_json_text(o, where, key, s, n, err))
        return -1;
    return *s ? 0 : bs_err(err, "%s: '%s' is missing", where, key);
}

const char *tx_json_type(const json_t *o, const char *where, oc_err *err)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!type)
        bs_err(err, "%s: an object with a 'type' was expected", where);
    return type;
}

static int flatten(const json_t *o, const char *where, const char *list_key, int depth, tx_json_list *out, oc_err *err)
{
    if (!o || json_is_null(o))
        return 0;
    const char *type = tx_json_type(o, where, err);
    if (!type)
        return -1;
    if (strcmp(type, "Sequence") != 0) {
        if (tx_room((void **)&out->p, &out->cap, out->n + 1, sizeof *out->p, err))
            return -1;
        out->p[out->n++] = o;
        return 0;
    }
    const json_t *list = json_object_get(o, list_key);
    if (!json_is_array(list) || depth == MAX_NESTING)
        return bs_err(err, "%s: a Sequence must have a list '%s', nested at most %d times", where, list_key, MAX_NESTING);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (flatten(json_array_get(list, i), where, list_key, depth + 1, out, err))
            return -1;
    return 0;
}

int tx_json_flatten(const json_t *o, const char *where, const char *list_key, tx_json_list *out, oc_err *err)
{
    return flatten(o, where, list_key, 0, out, err);
}
