/* reading.c - pieces of config.json and of batches that several families share. */
#include "reading.h"

#include <stdlib.h>
#include <string.h>

/* ---- config.json ---------------------------------------------------------------------------------------------------- */

int md_read_architecture(const ck_config *c, const char **name, oc_err *err)
{
    const ck_config *list = NULL;
    if (ck_array(c, "architectures", &list, err))
        return -1;
    return list && ck_config_size(list) ? ck_string(ck_config_at(list, 0), NULL, name, err) : 0;
}

int md_read_shape(const ck_config *c, bl_layer_shape *s, int *layers, oc_err *err)
{
    int width = (int)s->width, hidden = (int)s->hidden, heads = (int)s->heads;
    const char *act = NULL;
    if (ck_int(c, "hidden_size", &width, 1, MD_WIDEST, err) || ck_int(c, "intermediate_size", &hidden, 1, MD_WIDEST * 4, err) ||
        ck_int(c, "num_attention_heads", &heads, 1, MD_WIDEST, err) ||
        ck_int(c, "num_hidden_layers", layers, 1, MD_DEEPEST, err) || ck_float(c, "layer_norm_eps", &s->eps, 0, 1, err) ||
        ck_string(c, "hidden_act", &act, err))
        return -1;
    if (width % heads)
        return ck_config_wrong(c, "num_attention_heads", err, "a divisor of hidden_size %d", width);
    if (act && !bl_activation(act, &s->act))
        return ck_config_wrong(c, "hidden_act", err, "gelu, quick_gelu or another known activation");
    s->width = width;
    s->hidden = hidden;
    s->heads = heads;
    return 0;
}

int md_read_vit(const ck_config *c, bl_vit *v, oc_err *err)
{
    if (md_read_shape(c, &v->shape, &v->layers, err) || ck_int(c, "image_size", &v->image_size, 1, 8192, err) ||
        ck_int(c, "patch_size", &v->patch_size, 1, 8192, err) || ck_int(c, "num_channels", &v->channels, 3, 3, err))
        return -1;
    if (v->patch_size > v->image_size)
        return ck_config_wrong(c, "patch_size", err, "at most image_size %d", v->image_size);
    return 0;
}

int md_read_bert(const ck_config *c, bl_bert *m, oc_err *err)
{
    static const char *const absolute[] = {"absolute", NULL};
    int kind = 0;
    *m = (bl_bert){.shape = {768, 3072, 12, KN_GELU, 1e-12f}, .layers = 12, .positions = 512, .vocab = 30522, .types = 2};
    return md_read_shape(c, &m->shape, &m->layers, err) || ck_int(c, "vocab_size", &m->vocab, 1, MD_MOST_TOKENS, err) ||
                   ck_int(c, "max_position_embeddings", &m->positions, 1, MD_LONGEST, err) ||
                   ck_int(c, "type_vocab_size", &m->types, 1, MD_WIDEST, err) ||
                   ck_choice(c, "position_embedding_type", &kind, absolute, err)
               ? -1
               : 0;
}

const ck_config *md_read_part(const ck_config *c, const char *name, oc_err *err)
{
    const ck_config *sub = NULL;
    char legacy[64];
    snprintf(legacy, sizeof legacy, "%s_dict", name);
    if (ck_object(c, legacy, &sub, err) || (!sub && ck_object(c, name, &sub, err)))
        return NULL;
    return sub ? sub : c;
}

/* ---- batches from named inputs ------------------------------------------------------------------------------------------ */

int md_take_pictures(md_batch *b, const md_value *px, const bl_vit *v, oc_err *err)
{
    long side = v->image_size;
    if (px->is_int || px->rank != 4 || px->shape[1] != v->channels || px->shape[2] != side || px->shape[3] != side)
        return bs_err(err, "pixel_values: expected floats [B,%d,%ld,%ld]", v->channels, side, side);
    b->images = px->shape[0];
    b->channels = px->shape[1];
    b->height = b->width = side;
    b->pixel_values = px->f;
    return 0;
}

/* Integers of the ids' shape, or not there. */
static int check_beside(const md_value *x, const md_value *ids, oc_err *err)
{
    if (!x || (x->is_int && x->rank == 2 && x->shape[0] == ids->shape[0] && x->shape[1] == ids->shape[1]))
        return 0;
    return bs_err(err, "%s: expected integers of input_ids' shape [%ld,%ld]", x->name, ids->shape[0], ids->shape[1]);
}

static int *copy_of(const md_value *x) /* NULL: out of memory */
{
    int *copy = malloc((size_t)x->count * sizeof *copy);
    return copy ? memcpy(copy, x->i, (size_t)x->count * sizeof *copy) : NULL;
}

int md_take_texts(md_batch *b, const md_values *in, md_pool_fn *pool, const void *m, long most, oc_err *err)
{
    const md_value *ids = md_values_find(in, "input_ids"), *mask = md_values_find(in, "attention_mask"),
                   *types = md_values_find(in, "token_type_ids");
    if (!ids->is_int || ids->rank != 2 || ids->shape[1] < 1 || ids->shape[1] > most)
        return bs_err(err, "input_ids: expected integers [B,T] with T from 1 to %ld", most);
    if (check_beside(mask, ids, err) || check_beside(types, ids, err))
        return -1;
    b->texts = ids->shape[0];
    b->length = ids->shape[1];
    b->input_ids = copy_of(ids);
    b->token_types = types ? copy_of(types) : NULL;
    b->attention_mask = mask ? malloc((size_t)ids->count) : NULL;
    b->pool = malloc((size_t)b->texts * sizeof *b->pool);
    if (!b->input_ids || !b->pool || (types && !b->token_types) || (mask && !b->attention_mask))
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < b->texts; i++)
        b->pool[i] = pool(m, ids->i + i * b->length, b->length);
    for (long i = 0; mask && i < ids->count; i++)
        b->attention_mask[i] = mask->i[i] != 0;
    return 0;
}

/* As many pictures as texts, each text's own picture its target. */
static int take_targets(md_batch *b, oc_err *err)
{
    if (b->want_loss && b->images != b->texts)
        return bs_err(err, "the loss needs pairs: there are %ld pictures and %ld texts", b->images, b->texts);
    b->target = malloc((size_t)(b->texts + 1) * sizeof *b->target);
    if (!b->target)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < b->texts; i++)
        b->target[i] = (int)i;
    return 0;
}

int md_take_both(md_batch *b, const md_values *in, const bl_vit *vision, long most, md_pool_fn *pool, const void *m, oc_err *err)
{
    const md_value *px = vision ? md_values_find(in, "pixel_values") : NULL, *ids = most ? md_values_find(in, "input_ids") : NULL;
    if (!px && !ids)
        return bs_err(err, "nothing to run: expected %s%s%s", vision ? "pixel_values" : "",
                      vision && most ? ", input_ids or both" : "", vision ? "" : "input_ids");
    if (b->want_loss && (!vision || !most))
        return bs_err(err, "a tower alone has no loss");
    return (px && md_take_pictures(b, px, vision, err)) || (ids && md_take_texts(b, in, pool, m, most, err)) ||
                   take_targets(b, err)
               ? -1
               : 0;
}

/* ---- batches from ids ------------------------------------------------------------------------------------------------------ */

int md_texts_open(md_batch *b, const md_model *m, long texts, oc_err *err)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    size_t n = (size_t)texts * (size_t)s.max_tokens;
    b->texts = texts;
    b->input_ids = calloc(n, sizeof *b->input_ids);
    b->pool = calloc((size_t)texts, sizeof *b->pool);
    b->attention_mask = s.padding == MD_PADDING_HIDDEN ? calloc(n, 1) : NULL;
    if (b->input_ids && b->pool && (b->attention_mask || s.padding != MD_PADDING_HIDDEN))
        return 0;
    return bs_err(err, "out of memory: a batch of texts");
}

void md_texts_put(md_batch *b, const md_model *m, const tx_ids *ids, long n, int pad)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    bool read = s.padding == MD_PADDING_READ;
    int filler = !read ? 0 : pad >= 0 ? pad : s.pad;
    b->length = read ? s.max_tokens : 1;
    for (long i = 0; i < n; i++)
        b->length = (long)ids[i].n > b->length ? (long)ids[i].n : b->length;
    for (long i = 0; i < n; i++) {
        int *row = b->input_ids + i * b->length;
        long own = (long)ids[i].n;
        for (long k = 0; k < b->length; k++) {
            row[k] = k < own ? ids[i].p[k] : filler;
            if (b->attention_mask)
                b->attention_mask[i * b->length + k] = k < own;
        }
        b->pool[i] = m->family->pool_position(m->m, row, read ? b->length : own);
    }
}

md_batch md_plan_texts(const md_model *m, long texts)
{
    static int somewhere;
    static uint8_t something;
    md_sizes s;
    m->family->sizes(m->m, &s);
    return (md_batch){.texts = texts,
                      .length = s.max_tokens,
                      .pool = &somewhere,
                      .attention_mask = s.padding == MD_PADDING_HIDDEN ? &something : NULL};
}

/* ---- texts that are not filled up ------------------------------------------------------------------------------------------ */

int md_unfilled_open(md_unfilled *u, const md_model *m, long texts, oc_err *err)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    size_t n = (size_t)texts * (size_t)s.max_tokens;
    *u = (md_unfilled){.branch = calloc((size_t)texts, sizeof *u->branch),
                       .row = calloc(n, sizeof *u->row),
                       .ids = calloc(n, sizeof *u->ids),
                       .types = calloc(n, sizeof *u->types),
                       .pool = calloc((size_t)texts, sizeof *u->pool),
                       .room = (long)n};
    if (!u->branch || !u->row || !u->ids || !u->types || !u->pool) {
        md_unfilled_close(u);
        return bs_err(err, "out of memory: a batch of texts");
    }
    for (size_t i = 0; i < n; i++)
        u->row[i] = (int)i;
    return 0;
}

void md_unfilled_close(md_unfilled *u)
{
    free(u->branch);
    free(u->row);
    free(u->ids);
    free(u->types);
    free(u->pool);
    *u = (md_unfilled){0};
}

/* Ids of text i that are seen, all in front; 0: they are not. */
static long seen_in_front(const md_batch *b, md_padding padding, long i)
{
    const uint8_t *mask = b->attention_mask ? b->attention_mask + i * b->length : NULL;
    long n = 0;
    while (n < b->length && (!mask || mask[n]))
        n++;
    for (long k = n; k < b->length; k++)
        if (mask[k])
            return 0;
    if (b->pool[i] >= n)
        return 0;
    return padding == MD_PADDING_UNSEEN ? b->pool[i] + 1 : n;
}

static bool lay_out(md_unfilled *u, md_padding padding, const md_batch *b)
{
    u->all = (tn_branches){.branch = u->branch, .n = (int)b->texts};
    for (long i = 0; i < b->texts; i++) {
        long n = seen_in_front(b, padding, i);
        if (!n || u->all.rows + n > u->room)
            return false;
        u->branch[i] = (tn_branch){u->row + u->all.rows, n, n};
        memcpy(u->ids + u->all.rows, b->input_ids + i * b->length, (size_t)n * sizeof *u->ids);
        if (b->token_types)
            memcpy(u->types + u->all.rows, b->token_types + i * b->length, (size_t)n * sizeof *u->types);
        u->pool[i] = b->pool[i];
        u->all.rows += n;
        u->all.longest = u->all.longest > n ? u->all.longest : n;
    }
    return true;
}

const md_batch *md_unfill(md_unfilled *u, const md_model *m, const md_batch *b)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    bool plan = !b->input_ids;
    if (s.padding == MD_PADDING_READ || (!plan && !lay_out(u, s.padding, b)))
        return b;
    if (plan)
        u->all = (tn_branches){.n = (int)b->texts, .longest = b->length, .rows = b->texts * b->length};
    u->batch = (md_batch){.texts = 1,
                          .length = u->all.rows,
                          .input_ids = u->ids,
                          .token_types = b->token_types ? u->types : NULL,
                          .pool = u->pool,
                          .branches = &u->all};
    return &u->batch;
}
