/* postprocess.c - the ids that go round a text: tokenizer.json's "post_processor", for one text. */
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

/* RobertaProcessing and BertProcessing: cls text sep. */
static int read_cls_sep(const json_t *o, const char *type, tx_ids *before, tx_ids *after, oc_err *err)
{
    int32_t cls, sep;
    char where[64];
    snprintf(where, sizeof where, "post_processor %s", type);
    if (good_id(json_array_get(json_object_get(o, "cls"), 1), where, &cls, err) ||
        good_id(json_array_get(json_object_get(o, "sep"), 1), where, &sep, err))
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

static int read_template(const json_t *o, tx_ids *before, tx_ids *after, oc_err *err)
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
    return texts == 1 ? 0 : bs_err(err, "post_processor TemplateProcessing: 'single' must be a list with the text once");
}

static int read_one(const json_t *o, tx_ids *before, tx_ids *after, oc_err *err)
{
    const char *type = tx_json_type(o, "post_processor", err);
    if (!type)
        return -1;
    if (strcmp(type, "ByteLevel") == 0)
        return 0; /* it moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(o, before, after, err);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return read_cls_sep(o, type, before, after, err);
    return bs_err(err, "post_processor: the type '%s' is not known", type);
}

int tx_postprocess_open(tx_postprocess *z, const json_t *o, oc_err *err)
{
    tx_json_list list = {0};
    int result = tx_json_flatten(o, "post_processor", "processors", &list, err);
    for (size_t i = 0; i < list.n && !result; i++) {
        tx_ids before = {0}, after = {0};
        result =
            read_one(list.p[i], &before, &after, err) || put_front(&z->before, &before, err) || put_back(&z->after, &after, err)
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
}
