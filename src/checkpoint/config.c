/* config.c - typed reading of JSON with errors that name file, path, what was found and what was expected. */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

enum { FILE_MAX = 64 << 20, PATH_TEXT = 256, VALUE_TEXT = 64 };

struct ck_config {
    json_t *value;
    const ck_config *parent; /* NULL: the root */
    const char *key;         /* of a member, owned by the JSON */
    size_t index;            /* of an element */
    ck_config *children;     /* list of those that were asked for; freed with this */
    ck_config *next;
    ck_config **order; /* by position, made when ck_config_at is first called */
    char *file;        /* the root's only */
};

/* ---- the tree ------------------------------------------------------------------------------------------ */

ck_config *ck_config_parse(const void *bytes, size_t n, const char *name, oc_err *err)
{
    json_error_t why;
    ck_config *c = bs_calloc(1, sizeof *c, "a configuration", err);
    if (!c)
        return NULL;
    c->file = bs_strdup(name);
    if (!c->file) {
        bs_err(err, "out of memory: the name of '%s'", name);
        goto fail;
    }
    if (n > FILE_MAX) {
        bs_err(err, "cannot read '%s': more than %d bytes", name, FILE_MAX);
        goto fail;
    }
    c->value = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &why);
    if (c->value)
        return c;
    bs_err(err, "cannot read '%s': not valid JSON: %s (line %d, column %d)", name, why.text[0] ? why.text : "out of memory",
           why.line, why.column);
fail:
    ck_config_free(c);
    return NULL;
}

ck_config *ck_config_read(const char *path, oc_err *err)
{
    bs_buf text = {0};
    ck_config *c = NULL;
    if (!bs_read_file(&text, path, FILE_MAX, err))
        c = ck_config_parse(text.p, text.n, path, err);
    bs_buf_clear(&text);
    return c;
}

/* The depth is bounded by the parser's limit of 2048. */
void ck_config_free(ck_config *c)
{
    if (!c)
        return;
    for (ck_config *child = c->children, *next; child; child = next) {
        next = child->next;
        ck_config_free(child);
    }
    if (!c->parent)
        json_decref(c->value);
    free(c->order);
    free(c->file);
    bs_free(c);
}

/* A place below c. The tree only grows places, so callers hold it as const. */
static ck_config *new_child(const ck_config *c, const char *key, size_t index, json_t *value)
{
    ck_config *own = (ck_config *)(uintptr_t)c;
    ck_config *child = bs_calloc(1, sizeof *child, "a place in a configuration", NULL);
    if (!child)
        return NULL;
    child->value = value;
    child->parent = c;
    child->key = key;
    child->index = index;
    child->next = own->children;
    own->children = child;
    return child;
}

static json_t *value_of(const ck_config *c, const char *key)
{
    json_t *value = key ? json_object_get(c->value, key) : c->value;
    return json_is_null(value) ? NULL : value;
}

bool ck_has(const ck_config *c, const char *key) { return value_of(c, key) != NULL; }

/* ---- errors -------------------------------------------------------------------------------------------- */

/* "text_config.layers[3].width"; what does not fit is cut. */
static size_t path_of(const ck_config *c, char *text, size_t size)
{
    if (!c->parent)
        return 0;
    size_t at = path_of(c->parent, text, size);
    int n = c->key ? snprintf(text + at, size - at, "%s%s", at ? "." : "", c->key)
                   : snprintf(text + at, size - at, "[%zu]", c->index);
    return n < 0 ? at : at + (size_t)n < size ? at + (size_t)n : size - 1;
}

static const char *file_of(const ck_config *c)
{
    while (c->parent)
        c = c->parent;
    return c->file;
}

/* The value as the file has it, cut to a glance. */
static void value_text(const json_t *value, char text[VALUE_TEXT])
{
    char *all = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    snprintf(text, VALUE_TEXT, "%s", all ? all : "missing");
    if (all && strlen(all) >= VALUE_TEXT)
        memcpy(text + VALUE_TEXT - 4, "...", 4);
    free(all);
}

static void full_path(const ck_config *c, const char *key, char path[PATH_TEXT])
{
    size_t at = path_of(c, path, PATH_TEXT);
    path[at] = 0;
    if (key)
        snprintf(path + at, PATH_TEXT - at, "%s%s", at ? "." : "", key);
    if (!path[0])
        snprintf(path, PATH_TEXT, "the whole");
}

int ck_config_wrong(const ck_config *c, const char *key, oc_err *err, const char *expected, ...)
{
    char path[PATH_TEXT], value[VALUE_TEXT], want[256];
    va_list args;
    va_start(args, expected);
    vsnprintf(want, sizeof want, expected, args);
    va_end(args);
    full_path(c, key, path);
    value_text(key ? json_object_get(c->value, key) : c->value, value);
    return bs_err(err, "'%s': %s is %s, expected %s", file_of(c), path, value, want);
}

int ck_config_need(const ck_config *c, const char *key, const char *what, oc_err *err)
{
    return ck_has(c, key) ? 0 : ck_config_wrong(c, key, err, "%s", what);
}

/* ---- getters ------------------------------------------------------------------------------------------- */

int ck_int64(const ck_config *c, const char *key, int64_t *value, int64_t lo, int64_t hi, oc_err *err)
{
    const json_t *v = value_of(c, key);
    if (!v)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)
        return ck_config_wrong(c, key, err, "an integer from %lld to %lld", (long long)lo, (long long)hi);
    *value = json_integer_value(v);
    return 0;
}

int ck_int(const ck_config *c, const char *key, int *value, int lo, int hi, oc_err *err)
{
    int64_t wide = *value;
    if (ck_int64(c, key, &wide, lo, hi, err))
        return -1;
    *value = (int)wide;
    return 0;
}

int ck_double(const ck_config *c, const char *key, double *value, double lo, double hi, oc_err *err)
{
    const json_t *v = value_of(c, key);
    if (!v)
        return 0;
    double number = json_number_value(v);
    if (!json_is_number(v) || !(number >= lo && number <= hi))
        return ck_config_wrong(c, key, err, "a number from %g to %g", lo, hi);
    *value = number;
    return 0;
}

int ck_float(const ck_config *c, const char *key, float *value, float lo, float hi, oc_err *err)
{
    double wide = *value;
    if (ck_double(c, key, &wide, lo, hi, err))
        return -1;
    *value = (float)wide;
    return 0;
}

int ck_bool(const ck_config *c, const char *key, bool *value, oc_err *err)
{
    const json_t *v = value_of(c, key);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return ck_config_wrong(c, key, err, "true or false");
    *value = json_is_true(v);
    return 0;
}

int ck_string(const ck_config *c, const char *key, const char **value, oc_err *err)
{
    const json_t *v = value_of(c, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return ck_config_wrong(c, key, err, "a string");
    *value = json_string_value(v);
    return 0;
}

int ck_choice(const ck_config *c, const char *key, int *value, const char *const *names, oc_err *err)
{
    const char *text = NULL;
    char list[192] = "";
    if (ck_string(c, key, &text, err))
        return -1;
    if (!text)
        return 0;
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], text)) {
            *value = i;
            return 0;
        }
    for (size_t i = 0, at = 0; names[i] && at < sizeof list; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", names[i]);
    return ck_config_wrong(c, key, err, "one of %s", list);
}

static int get_place(const ck_config *c, const char *key, const ck_config **value, oc_err *err)
{
    *value = key ? ck_get(c, key) : c;
    return *value ? 0 : bs_err(err, "out of memory: a place in '%s'", file_of(c));
}

int ck_object(const ck_config *c, const char *key, const ck_config **value, oc_err *err)
{
    const json_t *v = value_of(c, key);
    if (!v)
        return 0;
    if (!json_is_object(v))
        return ck_config_wrong(c, key, err, "an object");
    return get_place(c, key, value, err);
}

int ck_array(const ck_config *c, const char *key, const ck_config **value, oc_err *err)
{
    const json_t *v = value_of(c, key);
    if (!v)
        return 0;
    if (!json_is_array(v))
        return ck_config_wrong(c, key, err, "an array");
    return get_place(c, key, value, err);
}

/* How many numbers the value holds: n for a single one, which stands for all; 0 absent, -1 anything else. */
static int numbers_of(const ck_config *c, const char *key, int n, oc_err *err)
{
    const json_t *v = value_of(c, key);
    if (!v)
        return 0;
    if (json_is_number(v) || (json_is_array(v) && json_array_size(v) == (size_t)n))
        return n;
    return ck_config_wrong(c, key, err, "an array of %d numbers", n);
}

/* The place of the i-th of them. */
static const ck_config *number_at(const ck_config *c, const char *key, int i, oc_err *err)
{
    const ck_config *place = NULL;
    if (get_place(c, key, &place, err))
        return NULL;
    return json_is_array(place->value) ? ck_config_at(place, (size_t)i) : place;
}

int ck_ints(const ck_config *c, const char *key, int *value, int n, int lo, int hi, oc_err *err)
{
    int found = numbers_of(c, key, n, err);
    for (int i = 0; i < found; i++) {
        const ck_config *place = number_at(c, key, i, err);
        if (!place || (!ck_has(place, NULL) && ck_config_wrong(place, NULL, err, "an integer")) ||
            ck_int(place, NULL, &value[i], lo, hi, err))
            return -1;
    }
    return found < 0 ? -1 : 0;
}

int ck_floats(const ck_config *c, const char *key, float *value, int n, float lo, float hi, oc_err *err)
{
    int found = numbers_of(c, key, n, err);
    for (int i = 0; i < found; i++) {
        const ck_config *place = number_at(c, key, i, err);
        if (!place || (!ck_has(place, NULL) && ck_config_wrong(place, NULL, err, "a number")) ||
            ck_float(place, NULL, &value[i], lo, hi, err))
            return -1;
    }
    return found < 0 ? -1 : 0;
}

/* ---- any kind ------------------------------------------------------------------------------------------ */

const ck_config *ck_get(const ck_config *c, const char *key)
{
    for (const ck_config *child = c->children; child; child = child->next)
        if (child->key && !strcmp(child->key, key))
            return child;
    void *member = json_object_iter_at(c->value, key);
    if (!member)
        return NULL;
    return new_child(c, json_object_iter_key(member), 0, json_object_iter_value(member));
}

ck_kind ck_config_kind(const ck_config *c)
{
    switch (json_typeof(c->value)) {
    case JSON_OBJECT: return CK_OBJECT;
    case JSON_ARRAY: return CK_ARRAY;
    case JSON_STRING: return CK_STRING;
    case JSON_INTEGER: return CK_INTEGER;
    case JSON_REAL: return CK_REAL;
    case JSON_TRUE:
    case JSON_FALSE: return CK_TRUTH;
    default: return CK_NULL;
    }
}

size_t ck_config_size(const ck_config *c)
{
    return json_is_array(c->value) ? json_array_size(c->value) : json_object_size(c->value);
}

static bool make_order(ck_config *c, size_t n)
{
    size_t i = 0;
    const char *key;
    json_t *value;
    ck_config **order = calloc(n, sizeof *order);
    if (!order)
        return false;
    if (json_is_array(c->value)) {
        json_array_foreach(c->value, i, value) order[i] = new_child(c, NULL, i, value);
    } else {
        json_object_foreach(c->value, key, value) order[i++] = new_child(c, key, 0, value);
    }
    c->order = order;
    return true;
}

const ck_config *ck_config_at(const ck_config *c, size_t i)
{
    size_t n = ck_config_size(c);
    ck_config *own = (ck_config *)(uintptr_t)c;
    if (i >= n || (!own->order && !make_order(own, n)))
        return NULL;
    return own->order[i];
}

const char *ck_config_key(const ck_config *c) { return c->key; }

/* ---- writing ------------------------------------------------------------------------------------------- */

/* Bytes of the well-formed UTF-8 sequence at p (Unicode 15, table 3-7), 0 when it is not one. */
static size_t utf8_length(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    size_t n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    unsigned lo = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80, hi = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lo || p[1] > hi)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

bool ck_is_utf8(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    for (size_t n; *p; p += n)
        if (!(n = utf8_length(p)))
            return false;
    return true;
}

int ck_json_string(bs_buf *out, const char *text, oc_err *err)
{
    static const char names[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *plain;
    int bad = bs_buf_put(out, "\"", 1, err);
    for (const unsigned char *p = (const unsigned char *)text; *p && !bad;) {
        size_t n = utf8_length(p);
        if (!n)
            bad = bs_buf_put(out, "\xef\xbf\xbd", 3, err);
        else if ((plain = strchr(names, *p)))
            bad = bs_buf_printf(out, err, "\\%c", letters[plain - names]);
        else if (*p < 0x20)
            bad = bs_buf_printf(out, err, "\\u%04x", *p);
        else
            bad = bs_buf_put(out, p, n, err);
        p += n ? n : 1;
    }
    return bad ? -1 : bs_buf_put(out, "\"", 1, err);
}

int ck_config_copy_with(const char *from, const char *to, const char *key, const char *json, oc_err *err)
{
    ck_config *c = ck_config_read(from, err);
    json_t *value = c ? json_loads(json, JSON_DECODE_ANY, NULL) : NULL;
    char *text = NULL;
    int result = -1;
    if (c && !value)
        bs_err(err, "cannot write '%s': '%s' is not valid JSON", to, key);
    else if (c && json_object_set(c->value, key, value))
        bs_err(err, "cannot copy '%s': it is no JSON object", from);
    else if (c && !(text = json_dumps(c->value, JSON_INDENT(2))))
        bs_err(err, "out of memory: a copy of '%s'", from);
    else if (c)
        result = bs_write_file(to, text, strlen(text), err);
    free(text);
    json_decref(value);
    ck_config_free(c);
    return result;
}
