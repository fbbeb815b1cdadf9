/* postprocess.c - the ids that go round a text, or round two: tokenizer.json's "post_processor". */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

static int put_front(tx_ids *ids, const tx_ids *front, oc_err *err)
{
    tx_ids all = {0};
    for (size_t i = 0; i < front->n + ids->n; i++)
        if (tx_ids_put(&all, i < front->n ? front->p[i] : ids->p[i - front->n], err)) {
            tx_ids_clear(&all);
            return -1;
        }
    tx_ids_clear(ids);
    *ids = all;
    return 0;
}

static int put_back(tx_ids *ids, const tx_ids *back, oc_err *err)
{
    for (size_t i = 0; i < back->n; i++)
        if (tx_ids_put(ids, back->p[i], err))
            return -1;
    return 0;
}

static int good_id(const json_t *o, const char *where, int32_t *id, oc_err *err)
{
    json_int_t value = json_integer_value(o);
    *id = -1;
    if (!json_is_integer(o) || value < 0 || value >= TX_MAX_ID)
        return bs_err(err, "%s: an id from 0 to %d was expected", where, TX_MAX_ID - 1);
    *id = (int32_t)value;
    return 0;
}

static int put_pair(tx_postprocess *z, int32_t id, int32_t type, oc_err *err)
{
    return tx_ids_put(&z->pair, id, err) || tx_ids_put(&z->pair_types, type, err) ? -1 : 0;
}

/* cls first sep (RoBERTa: sep) second sep; BERT tells the second text by its type. */
static int pair_cls_sep(tx_postprocess *z, bool bert, int32_t cls, int32_t sep, oc_err *err)
{
    int32_t second = bert ? 1 : 0;
    z->pair.n = z->pair_types.n = 0;
    z->pairings++;
    return put_pair(z, cls, 0, err) || put_pair(z, TX_FIRST_TEXT, 0, err) || put_pair(z, sep, 0, err) ||
                   (!bert && put_pair(z, sep, 0, err)) || put_pair(z, TX_SECOND_TEXT, second, err) ||
                   put_pair(z, sep, second, err)
               ? -1
               : 0;
}

/* RobertaProcessing and BertProcessing: cls text sep. */
static int read_cls_sep(tx_postprocess *z, const json_t *o, const char *type, tx_ids *before, tx_ids *after, oc_err *err)
{
    int32_t cls, sep;
    char where[64];
    snprintf(where, sizeof where, "post_processor %s", type);
    if (good_id(json_array_get(json_object_get(o, "cls"), 1), where, &cls, err) ||
        good_id(json_array_get(json_object_get(o, "sep"), 1), where, &sep, err))
        return -1;
    if (pair_cls_sep(z, strcmp(type, "BertProcessing") == 0, cls, sep, err))
        return -1;
    return tx_ids_put(before, cls, err) || tx_ids_put(after, sep, err) ? -1 : 0;
}

static int put_special(const json_t *o, const char *name, tx_ids *ids, oc_err *err)
{
    const json_t *list = name ? json_object_get(json_object_get(json_object_get(o, "special_tokens"), name), "ids") : NULL;
    if (!json_is_array(list))
        return bs_err(err, "post_processor TemplateProcessing: the special token '%s' has no ids", name ? name : "");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int32_t id;
        if (good_id(json_array_get(list, i), "post_processor TemplateProcessing", &id, err) || tx_ids_put(ids, id, err))
            return -1;
    }
    return 0;
}

/* "pair" of a template; without one the texts stand side by side. */
static int read_pair(tx_postprocess *z, const json_t *o, oc_err *err)
{
    const json_t *pair = json_object_get(o, "pair");
    if (!json_array_size(pair))
        return 0;
    z->pair.n = z->pair_types.n = 0;
    z->pairings++;
    for (size_t i = 0; i < json_array_size(pair); i++) {
        const json_t *item = json_array_get(pair, i), *text = json_object_get(item, "Sequence");
        const json_t *what = text ? text : json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(what, "id"));
        json_int_t type = json_integer_value(json_object_get(what, "type_id"));
        int32_t id = name && strcmp(name, "B") == 0 ? TX_SECOND_TEXT : TX_FIRST_TEXT;
        size_t first = z->pair.n;
        if (type < 0 || type > 255)
            return bs_err(err, "post_processor TemplateProcessing: a type_id of 'pair' is not in 0..255");
        if (text ? tx_ids_put(&z->pair, id, err) : put_special(o, name, &z->pair, err))
            return -1;
        for (size_t k = first; k < z->pair.n; k++)
            if (tx_ids_put(&z->pair_types, (int32_t)type, err))
                return -1;
    }
    return 0;
}

static int read_template(tx_postprocess *z, const json_t *o, tx_ids *before, tx_ids *after, oc_err *err)
{
    const json_t *single = json_object_get(o, "single");
    int texts = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *special = json_object_get(item, "SpecialToken");
        if (json_object_get(item, "Sequence"))
            texts++;
        else if (put_special(o, json_string_value(json_object_get(special, "id")), texts ? after : before, err))
            return -1;
    }
    if (read_pair(z, o, err))
        return -1;
    return texts == 1 ? 0 : bs_err(err, "post_processor TemplateProcessing: 'single' must be a list with the text once");
}

static int read_one(tx_postprocess *z, const json_t *o, tx_ids *before, tx_ids *after, oc_err *err)
{
    const char *type = tx_json_type(o, "post_processor", err);
    if (!type)
        return -1;
    if (strcmp(type, "ByteLevel") == 0)
        return 0; /* it moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(z, o, before, after, err);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return read_cls_sep(z, o, type, before, after, err);
    return bs_err(err, "post_processor: the type '%s' is not known", type);
}

int tx_postprocess_open(tx_postprocess *z, const json_t *o, oc_err *err)
{
    tx_json_list list = {0};
    int result = tx_json_flatten(o, "post_processor", "processors", &list, err);
    if (!result)
        result = put_pair(z, TX_FIRST_TEXT, 0, err) || put_pair(z, TX_SECOND_TEXT, 1, err) ? -1 : 0;
    for (size_t i = 0; i < list.n && !result; i++) {
        tx_ids before = {0}, after = {0};
        result = read_one(z, list.p[i], &before, &after, err) || put_front(&z->before, &before, err) ||
                         put_back(&z->after, &after, err)
                     ? -1
                     : 0;
        tx_ids_clear(&before);
        tx_ids_clear(&after);
    }
    free(list.p);
    return result;
}

void tx_postprocess_clear(tx_postprocess *z)
{
    tx_ids_clear(&z->before);
    tx_ids_clear(&z->after);
    tx_ids_clear(&z->pair);
    tx_ids_clear(&z->pair_types);
}
