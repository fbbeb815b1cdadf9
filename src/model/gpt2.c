/* gpt2.c - GPT-2 (Radford 2019).
 *
 *   ids -> wte + wpe -> n x [x + attn(ln_1(x))  ->  x + mlp(ln_2(x))] -> ln_f -> wte^T -> logits
 *
 * Its linear layers keep their weights [in, out]; queries, keys and values are one of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "language.h"

typedef struct gpt2_layer {
    tn_norm_w ln_1;          /* [width] */
    tn_linear_w c_attn;      /* [width, 3 * width] */
    tn_linear_w attn_c_proj; /* [width, width] */
    tn_norm_w ln_2;          /* [width] */
    tn_linear_w c_fc;        /* [width, hidden] */
    tn_linear_w mlp_c_proj;  /* [hidden, width] */
} gpt2_layer;

typedef struct gpt2 {
    int vocab, positions, width, hidden, heads, layers, bos, eos;
    bool scaled, by_layer; /* scores by 1 / sqrt(width of a head), and by 1 / number of the layer */
    float eps, deviation;
    kn_act act;
    bool has_head; /* GPT2LMHeadModel, not GPT2Model */
    bool tied;
    tn_param wte;      /* [vocab, width] */
    tn_param wpe;      /* [positions, width] */
    gpt2_layer *layer; /* [layers] */
    tn_norm_w ln_f;    /* [width] */
    tn_linear_w lm_head;
} gpt2;

/* ---- configuration ---------------------------------------------------------------------------------------- */

static void destroy(void *p)
{
    gpt2 *m = p;
    if (m)
        free(m->layer);
    free(m);
}

static int read_config(const ck_config *c, gpt2 *m, oc_err *err)
{
    enum { WIDEST = 1 << 20 };
    const char *act = "gelu_new", *architecture = "GPT2LMHeadModel";
    const ck_config *list = NULL;
    if (ck_int(c, "vocab_size", &m->vocab, 1, 1 << 28, err) || ck_int(c, "n_positions", &m->positions, 1, WIDEST, err) ||
        ck_int(c, "n_embd", &m->width, 1, WIDEST, err) || ck_int(c, "n_layer", &m->layers, 1, 1024, err) ||
        ck_int(c, "n_head", &m->heads, 1, WIDEST, err) || ck_int(c, "n_inner", &m->hidden, 1, WIDEST, err) ||
        ck_float(c, "layer_norm_epsilon", &m->eps, 0, 1, err) || ck_float(c, "initializer_range", &m->deviation, 0, 10, err) ||
        ck_string(c, "activation_function", &act, err) || ck_bool(c, "scale_attn_weights", &m->scaled, err) ||
        ck_bool(c, "scale_attn_by_inverse_layer_idx", &m->by_layer, err) || ck_bool(c, "tie_word_embeddings", &m->tied, err) ||
        ck_int(c, "bos_token_id", &m->bos, -1, 1 << 28, err) || ck_int(c, "eos_token_id", &m->eos, -1, 1 << 28, err) ||
        ck_array(c, "architectures", &list, err) ||
        (list && ck_config_size(list) && ck_string(ck_config_at(list, 0), NULL, &architecture, err)))
        return -1;
    m->has_head = !strcmp(architecture, "GPT2LMHeadModel");
    m->hidden = m->hidden ? m->hidden : 4 * m->width;
    if (m->width % m->heads)
        return ck_config_wrong(c, "n_embd", err, "a multiple of the %d heads", m->heads);
    return bl_activation(act, &m->act) ? 0 : ck_config_wrong(c, "activation_function", err, "an activation that Ocelli knows");
}

static void *create(const ck_config *c, oc_err *err)
{
    gpt2 *m = malloc(sizeof *m);
    if (!m) {
        bs_err(err, "out of memory: a model");
        return NULL;
    }
    *m = (gpt2){.vocab = 50257,
                .positions = 1024,
                .width = 768,
                .heads = 12,
                .layers = 12,
                .bos = 50256,
                .eos = 50256,
                .scaled = true,
                .eps = 1e-5f,
                .deviation = 0.02f,
                .tied = true};
    if (read_config(c, m, err))
        goto failed;
    m->layer = calloc((size_t)m->layers, sizeof *m->layer);
    if (m->layer)
        return m;
    bs_err(err, "out of memory: a model");
failed:
    destroy(m);
    return NULL;
}

static void sizes(const void *p, md_sizes *s)
{
    const gpt2 *m = p;
    long context = m->has_head ? m->positions : 0; /* without a head nothing is generated */
    *s = (md_sizes){.context = context, .vocab = m->vocab, .bos = m->bos, .eos = m->eos, .pad = -1};
}

static void cache(const void *p, tn_cache_shape *s)
{
    const gpt2 *m = p;
    s->layers = m->layers;
    s->kv_heads = m->heads;
    s->key = s->value = m->width / m->heads;
}

/* ---- weights ---------------------------------------------------------------------------------------------- */

static void visit(void *p, tn_visitor *v)
{
    gpt2 *m = p;
    size_t all = tn_enter(v, m->has_head ? "transformer." : "%s", "");
    tn_visit(v, &m->wte, "wte.weight", TN_TABLE | (m->has_head && m->tied ? TN_TIED : 0), 2, m->vocab, m->width, 0, 0);
    tn_visit(v, &m->wpe, "wpe.weight", 0, 2, m->positions, m->width, 0, 0);
    for (int i = 0; i < m->layers; i++) {
        gpt2_layer *l = &m->layer[i];
        size_t mark = tn_enter(v, "h.%d.", i);
        tn_visit_norm(v, &l->ln_1, "ln_1", m->width, true);
        tn_visit_conv1d(v, &l->c_attn, "attn.c_attn", 3 * m->width, m->width);
        tn_visit_conv1d(v, &l->attn_c_proj, "attn.c_proj", m->width, m->width);
        tn_visit_norm(v, &l->ln_2, "ln_2", m->width, true);
        tn_visit_conv1d(v, &l->c_fc, "mlp.c_fc", m->hidden, m->width);
        tn_visit_conv1d(v, &l->mlp_c_proj, "mlp.c_proj", m->width, m->hidden);
        tn_leave(v, mark);
    }
    tn_visit_norm(v, &m->ln_f, "ln_f", m->width, true);
    tn_leave(v, all);
    if (m->has_head && !m->tied)
        tn_visit_linear(v, &m->lm_head, "lm_head", m->vocab, m->width, false);
}

/* The hub's oldest files have no prefix. */
static const ck_renaming without_prefix[] = {
    {"wte.weight", "transformer.wte.weight", false}, {"wpe.weight", "transformer.wpe.weight", false},
    {"h.*.*.*", "transformer.h.*.*.*", false},       {"h.*.*.*.*", "transformer.h.*.*.*.*", false},
    {"ln_f.*", "transformer.ln_f.*", false},         {0},
};

static const ck_renaming with_prefix[] = {
    {"transformer.wte.weight", "wte.weight", false}, {"transformer.wpe.weight", "wpe.weight", false},
    {"transformer.h.*.*.*", "h.*.*.*", false},       {"transformer.h.*.*.*.*", "h.*.*.*.*", false},
    {"transformer.ln_f.*", "ln_f.*", false},         {0},
};

static const ck_renaming *renamings(const void *p) { return ((const gpt2 *)p)->has_head ? without_prefix : with_prefix; }

/* What adds to the residual stream starts smaller the deeper the model is (section 2.3 of the paper). */
static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    const gpt2 *m = p;
    bool residual = strstr(name, "c_proj.weight") != NULL;
    md_init_normal(name, n, values, residual ? m->deviation / sqrtf(2 * (float)m->layers) : m->deviation, rng);
}

/* ---- forward ---------------------------------------------------------------------------------------------- */

static tn_t layer(tn_ctx *cx, const gpt2 *m, int i, tn_t x, const md_batch *b)
{
    const gpt2_layer *l = &m->layer[i];
    float scale = m->scaled ? 1 / sqrtf((float)(m->width / m->heads)) : 1;
    tn_attention_args args = {.heads = m->heads,
                              .scale = m->by_layer ? scale / (float)(i + 1) : scale,
                              .causal = true,
                              .key_mask = b->attention_mask,
                              .from = b->from,
                              .layer = i + 1};
    tn_t h = tn_layer_norm(cx, x, &l->ln_1, m->eps), qkv[3];
    tn_split(cx, tn_linear(cx, h, &l->c_attn), 3, (long[]){m->width, m->width, m->width}, qkv);
    x = tn_linear_add(cx, tn_attention(cx, qkv[0], qkv[1], qkv[2], &args), &l->attn_c_proj, x);
    h = tn_layer_norm(cx, x, &l->ln_2, m->eps);
    return tn_linear_add(cx, tn_linear_act(cx, h, &l->c_fc, m->act), &l->mlp_c_proj, x);
}

static tn_t hidden(tn_ctx *cx, const gpt2 *m, const md_batch *b)
{
    tn_t x = tn_embedding(cx, &m->wte, b->input_ids, b->texts, b->length);
    x = tn_add(cx, x, tn_embedding(cx, &m->wpe, b->positions, b->texts, b->length));
    for (int i = 0; i < m->layers; i++) {
        tn_scope scope = tn_begin(cx);
        x = tn_end(cx, scope, x, layer(cx, m, i, x, b));
    }
    return tn_layer_norm(cx, x, &m->ln_f, m->eps);
}

static tn_t logits(tn_ctx *cx, const void *p, const md_batch *b)
{
    const gpt2 *m = p;
    tn_t x = md_wanted(cx, hidden(cx, m, b), b);
    return m->tied ? tn_linear_tied(cx, x, &m->wte) : tn_linear(cx, x, &m->lm_head);
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    if (((const gpt2 *)p)->has_head)
        md_emit_language(cx, out, logits(cx, p, b), b);
    else
        md_emit(cx, out, hidden(cx, p, b), "last_hidden_state");
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const gpt2 *m = p;
    if (b->want_loss && !m->has_head)
        return bs_err(err, "a GPT2Model has no head, so no loss");
    return md_prepare_language(in, m->vocab, m->positions, b, err);
}

static const char *const architectures[] = {"GPT2LMHeadModel", "GPT2Model", NULL};

const md_family md_gpt2 = {
    .model_type = "gpt2",
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
    .logits = logits,
    .lora_targets = "c_attn,c_proj,c_fc",
    .init = init,
};
