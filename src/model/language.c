/* language.c - see language.h. */
#include "language.h"

#include <stdlib.h>
#include <string.h>

/* ---- batches ---------------------------------------------------------------------------------------------- */

static int same_shape(const md_value *x, const md_value *ids, const char *name, oc_err *err)
{
    if (x && (!x->is_int || x->rank != 2 || x->shape[0] != ids->shape[0] || x->shape[1] != ids->shape[1]))
        return bs_err(err, "%s: expected integers of input_ids' shape [%ld,%ld]", name, ids->shape[0], ids->shape[1]);
    return 0;
}

/* The label of the next position. */
static int shift(const md_value *labels, long vocab, md_batch *b, oc_err *err)
{
    b->target = malloc((size_t)labels->count * sizeof *b->target);
    if (!b->target)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < labels->count; i++) {
        int next = (i + 1) % b->length ? labels->i[i + 1] : -100;
        if (next != -100 && (next < 0 || next >= vocab))
            return bs_err(err, "labels: %d is neither -100 nor below the vocabulary of %ld", next, vocab);
        b->target[i] = next;
    }
    b->want_loss = true;
    return 0;
}

int md_prepare_texts(const md_values *in, long context, md_batch *b, oc_err *err)
{
    const md_value *ids = md_values_find(in, "input_ids"), *mask = md_values_find(in, "attention_mask");
    if (!ids || !ids->is_int || ids->rank != 2 || ids->shape[0] < 1 || ids->shape[1] < 1 || ids->shape[1] > context)
        return bs_err(err, "input_ids: expected integers [B,T] with T from 1 to %ld", context);
    if (same_shape(mask, ids, "attention_mask", err))
        return -1;
    b->texts = ids->shape[0];
    b->length = b->furthest = ids->shape[1];
    size_t n = (size_t)ids->count;
    b->input_ids = malloc(n * sizeof *b->input_ids);
    b->positions = malloc(n * sizeof *b->positions);
    b->attention_mask = mask ? malloc(n) : NULL;
    if (!b->input_ids || !b->positions || (mask && !b->attention_mask))
        return bs_err(err, "out of memory: a batch");
    memcpy(b->input_ids, ids->i, n * sizeof *b->input_ids);
    for (size_t i = 0; i < n; i++)
        b->positions[i] = (int)(i % (size_t)b->length);
    for (size_t i = 0; mask && i < n; i++)
        b->attention_mask[i] = mask->i[i] != 0;
    return 0;
}

int md_prepare_language(const md_values *in, long vocab, long context, md_batch *b, oc_err *err)
{
    const md_value *labels = md_values_find(in, "labels");
    if (md_prepare_texts(in, context, b, err) || same_shape(labels, md_values_find(in, "input_ids"), "labels", err))
        return -1;
    if (!labels && b->want_loss)
        return bs_err(err, "labels are missing: without them there is no loss");
    return labels ? shift(labels, vocab, b, err) : 0;
}

tn_t md_wanted(tn_ctx *cx, tn_t x, const md_batch *b) { return b->wanted_n ? tn_pick(cx, x, b->wanted, b->wanted_n) : x; }

void md_emit_language(tn_ctx *cx, md_outputs *out, tn_t logits, const md_batch *b)
{
    md_emit(cx, out, logits, "logits");
    if (b->want_loss)
        out->loss = tn_cross_entropy(cx, tn_reshape(cx, logits, 2, (long[]){tn_rows(logits), tn_last(logits)}), b->target, 0);
}

void md_init_normal(const char *name, long n, float *values, float deviation, bs_rng *rng)
{
    size_t length = strlen(name);
    bool bias = length > 5 && !strcmp(name + length - 5, ".bias");
    bool gain = !bias && (strstr(name, "norm") || strstr(name, "ln_"));
    for (long i = 0; i < n; i++)
        values[i] = gain ? 1 : bias ? 0 : deviation * bs_rng_normal(rng);
}

/* ---- a whole decoder -------------------------------------------------------------------------------------- */

enum { WIDEST = 1 << 20, DEEPEST = 1024 };

static int read_shape(const ck_config *c, const md_lm_defaults *f, bl_decoder *d, int *context, oc_err *err)
{
    int vocab = f->vocab, width = f->width, hidden = f->hidden, heads = f->heads, head = 0;
    int kv = ck_get(c, "num_key_value_heads") ? 0 : f->kv_heads; /* null: as many as heads */
    int window = f->windowed && !ck_get(c, "sliding_window") ? f->window : 0;
    const char *act = "silu";
    d->layers = f->layers;
    d->eps = f->eps;
    d->fused = f->fused;
    *context = f->context;
    if (ck_int(c, "vocab_size", &vocab, 1, 1 << 28, err) || ck_int(c, "hidden_size", &width, 1, WIDEST, err) ||
        ck_int(c, "intermediate_size", &hidden, 1, WIDEST, err) || ck_int(c, "num_hidden_layers", &d->layers, 1, DEEPEST, err) ||
        ck_int(c, "num_attention_heads", &heads, 1, WIDEST, err) || ck_int(c, "num_key_value_heads", &kv, 1, WIDEST, err) ||
        ck_int(c, "head_dim", &head, 1, WIDEST, err) || ck_int(c, "max_position_embeddings", context, 1, 1 << 28, err) ||
        ck_float(c, "rms_norm_eps", &d->eps, 0, 1, err) || ck_string(c, "hidden_act", &act, err) ||
        ck_bool(c, "attention_bias", &d->attention_bias, err) || ck_bool(c, "mlp_bias", &d->mlp_bias, err) ||
        ck_bool(c, "tie_word_embeddings", &d->tied, err) ||
        (f->windowed && ck_int(c, "sliding_window", &window, 1, 1 << 28, err)))
        return -1;
    kv = kv ? kv : heads;
    if (heads % kv)
        return ck_config_wrong(c, "num_key_value_heads", err, "a divisor of the %d heads", heads);
    if (!head && width % heads)
        return ck_config_wrong(c, "hidden_size", err, "a multiple of the %d heads", heads);
    if (!bl_activation(act, &d->act))
        return ck_config_wrong(c, "hidden_act", err, "an activation that Ocelli knows");
    d->vocab = vocab;
    d->width = width;
    d->hidden = hidden;
    d->heads = heads;
    d->kv_heads = kv;
    d->head = head ? head : width / heads;
    d->window = window;
    return 0;
}

/* eos_token_id may be a list; then the first is the model's. */
static int read_tokens(const ck_config *c, md_lm *m, oc_err *err)
{
    const ck_config *eos = ck_get(c, "eos_token_id");
    m->bos = m->eos = m->pad = -1;
    m->deviation = 0.02f;
    if (ck_int(c, "bos_token_id", &m->bos, -1, 1 << 28, err) || ck_int(c, "pad_token_id", &m->pad, -1, 1 << 28, err) ||
        ck_float(c, "initializer_range", &m->deviation, 0, 10, err))
        return -1;
    if (eos && ck_config_kind(eos) == CK_ARRAY)
        return ck_config_size(eos) ? ck_int(ck_config_at(eos, 0), NULL, &m->eos, 0, 1 << 28, err) : 0;
    return ck_int(c, "eos_token_id", &m->eos, -1, 1 << 28, err);
}

void *md_lm_create(const ck_config *c, const md_lm_defaults *defaults, oc_err *err)
{
    md_lm *m = calloc(1, sizeof *m);
    if (!m) {
        bs_err(err, "out of memory: a model");
        return NULL;
    }
    if (read_shape(c, defaults, &m->d, &m->context, err) || read_tokens(c, m, err) ||
        md_read_rotary(c, m->d.head, m->context, defaults->theta, &m->rotary, err))
        goto failed;
    m->d.layer = calloc((size_t)m->d.layers, sizeof *m->d.layer);
    if (m->d.layer)
        return m;
    bs_err(err, "out of memory: a model");
failed:
    md_lm_destroy(m);
    return NULL;
}

void md_lm_destroy(void *p)
{
    md_lm *m = p;
    if (!m)
        return;
    md_rotary_clear(&m->rotary);
    free(m->d.layer);
    free(m);
}

void md_lm_visit(void *p, tn_visitor *v) { bl_visit_decoder(v, &((md_lm *)p)->d); }

void md_lm_sizes(const void *p, md_sizes *s)
{
    const md_lm *m = p;
    *s = (md_sizes){.context = m->context,
                    .far = m->rotary.far ? m->rotary.original : 0,
                    .vocab = m->d.vocab,
                    .bos = m->bos,
                    .eos = m->eos,
                    .pad = m->pad};
}

void md_lm_cache(const void *p, tn_cache_shape *s)
{
    const md_lm *m = p;
    s->layers = m->d.layers;
    s->kv_heads = m->d.kv_heads;
    s->key = s->value = m->d.head;
}

int md_lm_prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const md_lm *m = p;
    return md_prepare_language(in, m->d.vocab, m->context, b, err);
}

tn_t md_lm_logits(tn_ctx *cx, const void *p, const md_batch *b)
{
    const md_lm *m = p;
    bl_places at = {md_rotary_angles(cx, &m->rotary, b), b->attention_mask, b->from};
    tn_t x = tn_embedding(cx, &m->d.embed_tokens, b->input_ids, b->texts, b->length);
    return bl_head(cx, &m->d, md_wanted(cx, bl_decode(cx, &m->d, x, &at), b));
}

void md_lm_forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    md_emit_language(cx, out, md_lm_logits(cx, p, b), b);
}

void md_lm_init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    md_init_normal(name, n, values, ((const md_lm *)p)->deviation, rng);
}
