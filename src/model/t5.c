/* t5.c - T5 (Raffel 2020), T5 1.1, Flan-T5 (Chung 2022): an encoder reads a text, a decoder answers.
 *
 *   ids -> shared -> encoder                                    -> encoder_last_hidden_state
 *   decoder ids -> shared -> decoder, which looks at the encoder's -> (scaled) lm_head -> logits
 *
 * T5EncoderModel is the encoder alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../block/t5_layers.h"
#include "language.h"

typedef struct t5 {
    int vocab, context, pad, eos, start;
    bl_t5_shape s;
    bool encoder_only;
    bool scaled;     /* what the decoder gives is divided by sqrt(width) */
    bool may_untie;  /* the file may have an lm_head of its own */
    float factor;    /* of starting values */
    tn_param shared; /* [vocab, width] */
    bl_t5_stack encoder, decoder;
    tn_linear_w lm_head; /* [vocab, width]; absent: shared */
} t5;

/* ---- configuration ---------------------------------------------------------------------------------------- */

enum { WIDEST = 1 << 20, DEEPEST = 1024 };

static void destroy(void *p)
{
    t5 *m = p;
    if (m) {
        free(m->encoder.layer);
        free(m->decoder.layer);
    }
    free(m);
}

/* "relu", "gated-gelu": with a gate, "gelu" was always the approximation. dense_act_fn, where a file says it, is what counts. */
static int read_feed_forward(const ck_config *c, bl_t5_shape *s, oc_err *err)
{
    const char *kind = "relu", *act = NULL;
    if (ck_string(c, "feed_forward_proj", &kind, err) || ck_string(c, "dense_act_fn", &act, err))
        return -1;
    s->gated = !strncmp(kind, "gated-", 6);
    if (!act)
        act = !strcmp(kind, "gated-gelu") ? "gelu_new" : s->gated ? kind + 6 : kind;
    return bl_activation(act, &s->act)
               ? 0
               : ck_config_wrong(c, "feed_forward_proj", err, "relu, gated-gelu or another known activation");
}

/* Once tie_word_embeddings false said two things: the head has its own weights, and nothing is scaled before it. Newer files say the second by
 * scale_decoder_outputs, and always "true" for the first, whatever weights they hold. */
static int read_head(const ck_config *c, t5 *m, oc_err *err)
{
    bool tied = true;
    if (ck_bool(c, "tie_word_embeddings", &tied, err))
        return -1;
    m->scaled = tied;
    m->may_untie = !tied || ck_has(c, "scale_decoder_outputs");
    return ck_bool(c, "scale_decoder_outputs", &m->scaled, err);
}

static int read_config(const ck_config *c, t5 *m, oc_err *err)
{
    int width = 512, heads = 8, head = 64, hidden = 2048, buckets = 32, max_distance = 128;
    const char *architecture = "T5ForConditionalGeneration";
    const ck_config *list = NULL;
    if (ck_int(c, "vocab_size", &m->vocab, 1, 1 << 28, err) || ck_int(c, "d_model", &width, 1, WIDEST, err) ||
        ck_int(c, "d_kv", &head, 1, WIDEST, err) || ck_int(c, "d_ff", &hidden, 1, WIDEST, err) ||
        ck_int(c, "num_heads", &heads, 1, WIDEST, err) || ck_int(c, "num_layers", &m->encoder.layers, 1, DEEPEST, err))
        return -1;
    m->decoder.layers = m->encoder.layers;
    if (ck_int(c, "num_decoder_layers", &m->decoder.layers, 1, DEEPEST, err) ||
        ck_int(c, "relative_attention_num_buckets", &buckets, 4, WIDEST, err) ||
        ck_int(c, "relative_attention_max_distance", &max_distance, 1, WIDEST, err) ||
        ck_float(c, "layer_norm_epsilon", &m->s.eps, 0, 1, err) || ck_float(c, "initializer_factor", &m->factor, 0, 100, err) ||
        ck_int(c, "pad_token_id", &m->pad, 0, 1 << 28, err) || ck_int(c, "eos_token_id", &m->eos, 0, 1 << 28, err))
        return -1;
    m->start = m->pad;
    if (ck_int(c, "decoder_start_token_id", &m->start, 0, 1 << 28, err) || ck_array(c, "architectures", &list, err) ||
        (list && ck_config_size(list) && ck_string(ck_config_at(list, 0), NULL, &architecture, err)))
        return -1;
    if (buckets % 2)
        return ck_config_wrong(c, "relative_attention_num_buckets", err, "an even number");
    if (max_distance <= buckets / 2)
        return ck_config_wrong(c, "relative_attention_max_distance", err, "more than half of the %d buckets", buckets);
    m->encoder_only = !strcmp(architecture, "T5EncoderModel");
    m->decoder.decoder = true;
    m->s.width = width;
    m->s.heads = heads;
    m->s.head = head;
    m->s.hidden = hidden;
    m->s.buckets = buckets;
    m->s.max_distance = max_distance;
    return read_feed_forward(c, &m->s, err) || read_head(c, m, err) ? -1 : 0;
}

static void *create(const ck_config *c, oc_err *err)
{
    t5 *m = calloc(1, sizeof *m);
    if (!m) {
        bs_err(err, "out of memory: a model");
        return NULL;
    }
    /* distances reach as far as one likes: the context is a bound for planning */
    *m = (t5){.vocab = 32128, .context = 1 << 14, .eos = 1, .factor = 1, .s = {.eps = 1e-6f}, .encoder = {.layers = 6}};
    if (read_config(c, m, err))
        goto failed;
    m->encoder.layer = calloc((size_t)m->encoder.layers, sizeof *m->encoder.layer);
    m->decoder.layer = calloc((size_t)m->decoder.layers, sizeof *m->decoder.layer);
    if (m->encoder.layer && m->decoder.layer)
        return m;
    bs_err(err, "out of memory: a model");
failed:
    destroy(m);
    return NULL;
}

static void sizes(const void *p, md_sizes *s)
{
    const t5 *m = p;
    *s = (md_sizes){.context = m->encoder_only ? 0 : m->context,
                    .vocab = m->vocab,
                    .bos = -1,
                    .eos = m->eos,
                    .pad = m->pad,
                    .start = m->start,
                    .prompt = MD_PROMPT_READ};
}

/* The decoder's own keys, and those of what was encoded, have one shape. */
static void cache(const void *p, tn_cache_shape *s)
{
    const t5 *m = p;
    s->layers = m->decoder.layers;
    s->kv_heads = m->s.heads;
    s->key = s->value = m->s.head;
}

/* ---- weights ---------------------------------------------------------------------------------------------- */

static void visit(void *p, tn_visitor *v)
{
    t5 *m = p;
    tn_visit(v, &m->shared, "shared.weight", TN_TABLE | TN_TIED, 2, m->vocab, m->s.width, 0, 0);
    size_t mark = tn_enter(v, "encoder.");
    bl_visit_t5(v, &m->encoder, &m->s);
    tn_leave(v, mark);
    m->lm_head.weight.id = m->lm_head.bias.id = -1;
    if (m->encoder_only)
        return;
    mark = tn_enter(v, "decoder.");
    bl_visit_t5(v, &m->decoder, &m->s);
    tn_leave(v, mark);
    if (m->may_untie)
        tn_visit(v, &m->lm_head.weight, "lm_head.weight", TN_LINEAR | TN_OPTIONAL, 2, m->vocab, m->s.width, 0, 0);
}

static bool has(const char *name, const char *part) { return strstr(name, part) != NULL; }

/* As Mesh TensorFlow draws them: by what goes in, queries smaller by the width of a head, as scores are not scaled. */
static float deviation(const t5 *m, const char *name)
{
    float width = 1 / sqrtf((float)m->s.width), head = 1 / sqrtf((float)m->s.head);
    if (has(name, "shared.") || has(name, "lm_head."))
        return 1;
    if (has(name, ".wo."))
        return 1 / sqrtf((float)m->s.hidden);
    if (has(name, ".q."))
        return width * head;
    return has(name, ".o.") ? head / sqrtf((float)m->s.heads) : width;
}

static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    const t5 *m = p;
    md_init_normal(name, n, values, m->factor * deviation(m, name), rng);
}

/* ---- forward ---------------------------------------------------------------------------------------------- */

static tn_t encode(tn_ctx *cx, const t5 *m, const md_batch *b)
{
    tn_t x = tn_embedding(cx, &m->shared, b->input_ids, b->texts, b->length);
    return bl_t5_encode(cx, &m->encoder, &m->s, x, b->attention_mask);
}

static tn_t head(tn_ctx *cx, const t5 *m, tn_t x)
{
    if (m->scaled)
        x = tn_scale(cx, x, 1 / sqrtf((float)m->s.width));
    return tn_has(&m->lm_head.weight) ? tn_linear(cx, x, &m->lm_head) : tn_linear_tied(cx, x, &m->shared);
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    const t5 *m = p;
    tn_t encoded = encode(cx, m, b);
    md_emit(cx, out, encoded, m->encoder_only ? "last_hidden_state" : "encoder_last_hidden_state");
    if (m->encoder_only)
        return;
    bl_t5_view view = {encoded, b->attention_mask, b->decoder_mask, b->decoder_length};
    tn_t x = tn_embedding(cx, &m->shared, b->decoder_ids, b->texts, b->decoder_length);
    md_emit_language(cx, out, head(cx, m, bl_t5_decode(cx, &m->decoder, &m->s, x, &view)), b);
}

static void remember(tn_ctx *cx, const void *p, const md_batch *b)
{
    const t5 *m = p;
    bl_t5_remember(cx, &m->decoder, encode(cx, m, b));
}

static tn_t logits(tn_ctx *cx, const void *p, const md_batch *b)
{
    const t5 *m = p;
    bl_t5_view view = {.furthest = b->furthest};
    tn_t x = tn_embedding(cx, &m->shared, b->input_ids, b->texts, b->length);
    return head(cx, m, md_wanted(cx, bl_t5_decode(cx, &m->decoder, &m->s, x, &view), b));
}

/* ---- batches ---------------------------------------------------------------------------------------------- */

/* decoder_input_ids, or labels moved on by one behind the start token, -100 as padding. */
static int prepare_decoder(const t5 *m, const md_value *ids, const md_value *labels, md_batch *b, oc_err *err)
{
    const md_value *x = ids ? ids : labels;
    if (!x || !x->is_int || x->rank != 2 || x->shape[0] != b->texts || x->shape[1] < 1 || x->shape[1] > m->context)
        return bs_err(err, "decoder_input_ids or labels: expected integers [%ld,L] with L from 1 to %d", b->texts, m->context);
    b->decoder_length = x->shape[1];
    b->decoder_ids = malloc((size_t)x->count * sizeof *b->decoder_ids);
    if (!b->decoder_ids)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < x->count; i++) {
        int before = ids ? ids->i[i] : i % x->shape[1] ? labels->i[i - 1] : m->start;
        b->decoder_ids[i] = before == -100 && !ids ? m->pad : before;
    }
    return 0;
}

static int prepare_labels(const t5 *m, const md_value *labels, md_batch *b, oc_err *err)
{
    if (!labels->is_int || labels->rank != 2 || labels->shape[0] != b->texts || labels->shape[1] != b->decoder_length)
        return bs_err(err, "labels: expected integers [%ld,%ld]", b->texts, b->decoder_length);
    b->target = malloc((size_t)labels->count * sizeof *b->target);
    if (!b->target)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < labels->count; i++) {
        int id = b->target[i] = labels->i[i];
        if (id != -100 && (id < 0 || id >= m->vocab))
            return bs_err(err, "labels: %d is neither -100 nor below the vocabulary of %d", id, m->vocab);
    }
    b->want_loss = true;
    return 0;
}

static int prepare_mask(const md_value *mask, md_batch *b, oc_err *err)
{
    if (!mask->is_int || mask->rank != 2 || mask->shape[0] != b->texts || mask->shape[1] != b->decoder_length)
        return bs_err(err, "decoder_attention_mask: expected integers [%ld,%ld]", b->texts, b->decoder_length);
    b->decoder_mask = malloc((size_t)mask->count);
    if (!b->decoder_mask)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < mask->count; i++)
        b->decoder_mask[i] = mask->i[i] != 0;
    return 0;
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const t5 *m = p;
    const md_value *labels = md_values_find(in, "labels"), *mask = md_values_find(in, "decoder_attention_mask");
    if (md_prepare_texts(in, m->context, b, err))
        return -1;
    if (m->encoder_only)
        return b->want_loss ? bs_err(err, "a T5EncoderModel has no head, so no loss") : 0;
    if (b->want_loss && !labels)
        return bs_err(err, "labels are missing: without them there is no loss");
    return prepare_decoder(m, md_values_find(in, "decoder_input_ids"), labels, b, err) ||
                   (labels && prepare_labels(m, labels, b, err)) || (mask && prepare_mask(mask, b, err))
               ? -1
               : 0;
}

/* Files of old may hold the table of tokens by either of its users' names. */
static const ck_renaming older[] = {
    {"encoder.embed_tokens.weight", "shared.weight", false},
    {0},
};

static const ck_renaming *renamings(const void *p)
{
    (void)p;
    return older;
}

static const char *const architectures[] = {"T5ForConditionalGeneration", "T5EncoderModel", NULL};

const md_family md_t5 = {
    .model_type = "t5",
    .architectures = architectures,
    .can = MD_GENERATES,
    .create = create,
    .destroy = destroy,
    .visit = visit,
    .sizes = sizes,
    .cache = cache,
    .renamings = renamings,
    .prepare = prepare,
    .forward = forward,
    .remember = remember,
    .logits = logits,
    .lora_targets = "q,v",
    .init = init,
};
