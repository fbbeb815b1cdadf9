/* opt.c - OPT (Zhang 2022).
 *
 *   ids -> embed_tokens (-> project_in) + embed_positions -> n x [x + self_attn(norm(x))  ->  x + fc2(relu(fc1(norm(x))))] -> final_layer_norm
 *       (-> project_out) -> embed_tokens^T -> logits
 *
 * Positions count the tokens that the mask keeps, and the table begins with two rows that nothing uses. The 350M model norms after each sum instead of
 * before, and has no final norm. */
#include <stdlib.h>
#include <string.h>

#include "language.h"

enum { OFFSET = 2 };

typedef struct opt {
    int vocab, positions, embedding, layers, bos, eos, pad;
    long width, hidden, heads;
    bool norm_first, ends_with_norm, bias, affine, tied;
    kn_act act;
    float deviation;
    tn_param embed_tokens;               /* [vocab, embedding] */
    tn_param embed_positions;            /* [positions + OFFSET, width] */
    tn_linear_w project_in, project_out; /* [width, embedding], [embedding, width] where those differ */
    bl_layer *layer;                     /* [layers]; layer_norm1 is called self_attn_layer_norm, layer_norm2 final_layer_norm */
    tn_norm_w final_layer_norm;          /* [width] */
    tn_linear_w lm_head;                 /* [vocab, embedding], when not tied */
} opt;

/* ---- configuration ---------------------------------------------------------------------------------------- */

static void destroy(void *p)
{
    opt *m = p;
    if (m)
        free(m->layer);
    free(m);
}

static int read_config(const ck_config *c, opt *m, oc_err *err)
{
    enum { WIDEST = 1 << 20 };
    const char *act = "relu";
    int width = 768, hidden = 3072, heads = 12;
    bool removed = false, norm_first = true, affine = true;
    if (ck_int(c, "vocab_size", &m->vocab, 1, 1 << 28, err) || ck_int(c, "hidden_size", &width, 1, WIDEST, err) ||
        ck_int(c, "num_hidden_layers", &m->layers, 1, 1024, err) || ck_int(c, "ffn_dim", &hidden, 1, WIDEST, err) ||
        ck_int(c, "num_attention_heads", &heads, 1, WIDEST, err) ||
        ck_int(c, "max_position_embeddings", &m->positions, 1, WIDEST, err) || ck_string(c, "activation_function", &act, err) ||
        ck_bool(c, "do_layer_norm_before", &norm_first, err) || ck_bool(c, "_remove_final_layer_norm", &removed, err) ||
        ck_bool(c, "enable_bias", &m->bias, err) || ck_bool(c, "layer_norm_elementwise_affine", &affine, err) ||
        ck_bool(c, "tie_word_embeddings", &m->tied, err) || ck_float(c, "init_std", &m->deviation, 0, 10, err) ||
        ck_int(c, "bos_token_id", &m->bos, -1, 1 << 28, err) || ck_int(c, "eos_token_id", &m->eos, -1, 1 << 28, err) ||
        ck_int(c, "pad_token_id", &m->pad, -1, 1 << 28, err))
        return -1;
    m->width = width;
    m->hidden = hidden;
    m->heads = heads;
    m->embedding = width;
    m->norm_first = norm_first;
    m->ends_with_norm = norm_first && !removed;
    if (ck_int(c, "word_embed_proj_dim", &m->embedding, 1, WIDEST, err))
        return -1;
    if (width % heads)
        return ck_config_wrong(c, "hidden_size", err, "a multiple of the %d heads", heads);
    if (!affine)
        return ck_config_wrong(c, "layer_norm_elementwise_affine", err, "true");
    return bl_activation(act, &m->act) ? 0 : ck_config_wrong(c, "activation_function", err, "an activation that Ocelli knows");
}

static void *create(const ck_config *c, oc_err *err)
{
    opt *m = malloc(sizeof *m);
    if (!m) {
        bs_err(err, "out of memory: a model");
        return NULL;
    }
    *m = (opt){.vocab = 50272,
               .positions = 2048,
               .layers = 12,
               .bos = 2,
               .eos = 2,
               .pad = 1,
               .bias = true,
               .tied = true,
               .deviation = 0.02f};
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
    const opt *m = p;
    *s = (md_sizes){.context = m->positions, .vocab = m->vocab, .bos = m->bos, .eos = m->eos, .pad = m->pad};
}

static void cache(const void *p, tn_cache_shape *s)
{
    const opt *m = p;
    s->layers = m->layers;
    s->kv_heads = m->heads;
    s->key = s->value = m->width / m->heads;
}

/* ---- weights ---------------------------------------------------------------------------------------------- */

static void visit_layer(tn_visitor *v, const opt *m, bl_layer *l)
{
    tn_visit_linear(v, &l->self_attn.q_proj, "self_attn.q_proj", m->width, m->width, m->bias);
    tn_visit_linear(v, &l->self_attn.k_proj, "self_attn.k_proj", m->width, m->width, m->bias);
    tn_visit_linear(v, &l->self_attn.v_proj, "self_attn.v_proj", m->width, m->width, m->bias);
    tn_visit_linear(v, &l->self_attn.out_proj, "self_attn.out_proj", m->width, m->width, m->bias);
    tn_visit_norm(v, &l->layer_norm1, "self_attn_layer_norm", m->width, true);
    tn_visit_linear(v, &l->mlp.fc1, "fc1", m->hidden, m->width, m->bias);
    tn_visit_linear(v, &l->mlp.fc2, "fc2", m->width, m->hidden, m->bias);
    tn_visit_norm(v, &l->layer_norm2, "final_layer_norm", m->width, true);
}

static void visit(void *p, tn_visitor *v)
{
    opt *m = p;
    size_t all = tn_enter(v, "model.decoder.");
    tn_visit(v, &m->embed_tokens, "embed_tokens.weight", TN_TABLE | (m->tied ? TN_TIED : 0), 2, m->vocab, m->embedding, 0, 0);
    tn_visit(v, &m->embed_positions, "embed_positions.weight", 0, 2, m->positions + OFFSET, m->width, 0, 0);
    if (m->embedding != m->width) {
        tn_visit_linear(v, &m->project_in, "project_in", m->width, m->embedding, false);
        tn_visit_linear(v, &m->project_out, "project_out", m->embedding, m->width, false);
    }
    for (int i = 0; i < m->layers; i++) {
        size_t mark = tn_enter(v, "layers.%d.", i);
        visit_layer(v, m, &m->layer[i]);
        tn_leave(v, mark);
    }
    if (m->ends_with_norm)
        tn_visit_norm(v, &m->final_layer_norm, "final_layer_norm", m->width, true);
    tn_leave(v, all);
    if (!m->tied)
        tn_visit_linear(v, &m->lm_head, "lm_head", m->vocab, m->embedding, false);
}

/* The original's names lack the outer "model.". */
static const ck_renaming older[] = {
    {"decoder.*.weight", "model.decoder.*.weight", false},
    {"decoder.*.bias", "model.decoder.*.bias", false},
    {"decoder.layers.*.*.*", "model.decoder.layers.*.*.*", false},
    {"decoder.layers.*.*.*.*", "model.decoder.layers.*.*.*.*", false},
    {0},
};

static const ck_renaming *renamings(const void *p)
{
    (void)p;
    return older;
}

static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    md_init_normal(name, n, values, ((const opt *)p)->deviation, rng);
}

/* ---- forward ---------------------------------------------------------------------------------------------- */

static tn_t layer(tn_ctx *cx, const opt *m, const bl_layer *l, tn_t x, const tn_attention_args *args)
{
    const float eps = 1e-5f;
    tn_t h = m->norm_first ? tn_layer_norm(cx, x, &l->layer_norm1, eps) : x;
    x = bl_attend(cx, &l->self_attn, h, h, args, x);
    if (!m->norm_first)
        x = tn_layer_norm(cx, x, &l->layer_norm1, eps);
    h = m->norm_first ? tn_layer_norm(cx, x, &l->layer_norm2, eps) : x;
    x = bl_feed_forward(cx, &l->mlp, h, m->act, x);
    return m->norm_first ? x : tn_layer_norm(cx, x, &l->layer_norm2, eps);
}

static tn_t logits(tn_ctx *cx, const void *p, const md_batch *b)
{
    const opt *m = p;
    tn_t x = tn_embedding(cx, &m->embed_tokens, b->input_ids, b->texts, b->length);
    if (m->embedding != m->width)
        x = tn_linear(cx, x, &m->project_in);
    x = tn_add(cx, x, tn_embedding(cx, &m->embed_positions, b->positions, b->texts, b->length));
    for (int i = 0; i < m->layers; i++) {
        tn_attention_args args = {
            .heads = m->heads, .causal = true, .key_mask = b->attention_mask, .from = b->from, .layer = i + 1};
        tn_scope scope = tn_begin(cx);
        x = tn_end(cx, scope, x, layer(cx, m, &m->layer[i], x, &args));
    }
    x = md_wanted(cx, x, b);
    if (m->ends_with_norm)
        x = tn_layer_norm(cx, x, &m->final_layer_norm, 1e-5f);
    if (m->embedding != m->width)
        x = tn_linear(cx, x, &m->project_out);
    return m->tied ? tn_linear_tied(cx, x, &m->embed_tokens) : tn_linear(cx, x, &m->lm_head);
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    md_emit_language(cx, out, logits(cx, p, b), b);
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const opt *m = p;
    if (md_prepare_language(in, m->vocab, m->positions, b, err))
        return -1;
    for (long i = 0, seen = 0; i < b->texts * b->length; i++) {
        bool kept = !b->attention_mask || b->attention_mask[i];
        seen = i % b->length ? seen : 0;
        seen += kept;
        b->positions[i] = (kept ? (int)seen - 1 : -1) + OFFSET;
    }
    return 0;
}

/* Where generation counts positions from 0. */
static int place(const void *p, long position)
{
    (void)p;
    return (int)position + OFFSET;
}

static const char *const architectures[] = {"OPTForCausalLM", NULL};

const md_family md_opt = {
    .model_type = "opt",
    .architectures = architectures,
    .can = MD_GENERATES,
    .create = create,
    .destroy = destroy,
    .visit = visit,
    .sizes = sizes,
    .cache = cache,
    .place = place,
    .renamings = renamings,
    .prepare = prepare,
    .forward = forward,
    .logits = logits,
    .lora_targets = "q_proj,k_proj,v_proj,out_proj,fc1,fc2",
    .init = init,
};
