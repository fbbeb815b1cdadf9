/* blocks.c - the building blocks by themselves: a pseudo model whose config.json lists them.
 *
 *   {"model_type": "ocelli_blocks", "blocks": [{"name", "op", attributes.., "inputs", "params"}, ...]}
 *
 * Each block runs one op on inputs NAME.INPUT and weights NAME.PARAM and gives NAME.out. With a loss, the loss is the sum over blocks
 * of sum(out * NAME.grad_out). The ops are those that the models use, so what holds here holds there. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../block/transformer.h"
#include "model.h"

typedef struct one_block {
    char name[96], op[40];
    int heads, stride, offset;
    bool causal, training;
    float eps, momentum, theta, smoothing, scale;
    tn_linear_w linear; /* linear and convolution, with lora_A and lora_B beside */
    tn_param lora_a, lora_b;
    tn_norm_w norm;
    tn_batch_norm_w batch_norm;
    bl_attention attention;
} one_block;

typedef struct blocks {
    int n;
    one_block *block;
    tn_lora *lora; /* by parameter id, filled while a forward runs */
} blocks;

enum { MOST_PARAMS = 8 }; /* of one block */

static void destroy(void *p)
{
    blocks *m = p;
    if (m) {
        free(m->block);
        free(m->lora);
    }
    free(m);
}

static int read_block(const ck_config *c, one_block *b, oc_err *err)
{
    const char *name = NULL, *op = NULL;
    if (ck_config_need(c, "name", "a string", err) || ck_config_need(c, "op", "a string", err) ||
        ck_string(c, "name", &name, err) || ck_string(c, "op", &op, err))
        return -1;
    if (strlen(name) >= sizeof b->name - 20 || strlen(op) >= sizeof b->op)
        return ck_config_wrong(c, "name", err, "a shorter name");
    *b = (one_block){.heads = 1, .stride = 1, .eps = 1e-5f, .momentum = 0.1f, .theta = 10000, .scale = 1};
    snprintf(b->name, sizeof b->name, "%s", name);
    snprintf(b->op, sizeof b->op, "%s", op);
    return ck_int(c, "heads", &b->heads, 1, 65536, err) || ck_int(c, "stride", &b->stride, 1, 8192, err) ||
           ck_int(c, "offset", &b->offset, 0, 1 << 30, err) || ck_bool(c, "causal", &b->causal, err) ||
           ck_bool(c, "training", &b->training, err) || ck_float(c, "eps", &b->eps, 0, 1, err) ||
           ck_float(c, "momentum", &b->momentum, 0, 1, err) || ck_float(c, "theta", &b->theta, 1, 1e12f, err) ||
           ck_float(c, "label_smoothing", &b->smoothing, 0, 1, err) || ck_float(c, "scale", &b->scale, -1e6f, 1e6f, err);
}

static void *create(const ck_config *c, oc_err *err)
{
    const ck_config *list = NULL;
    blocks *m = calloc(1, sizeof *m);
    if (!m || ck_config_need(c, "blocks", "a list of blocks", err) || ck_array(c, "blocks", &list, err))
        goto failed;
    m->n = (int)ck_config_size(list);
    m->block = calloc((size_t)m->n + 1, sizeof *m->block);
    m->lora = calloc((size_t)m->n * MOST_PARAMS + 1, sizeof *m->lora);
    if (!m->block || !m->lora)
        goto failed;
    for (int i = 0; i < m->n; i++)
        if (read_block(ck_config_at(list, (size_t)i), &m->block[i], err))
            goto failed;
    return m;
failed:
    bs_err(err, "out of memory: a model");
    destroy(m);
    return NULL;
}

static void sizes(const void *m, md_sizes *s)
{
    (void)m;
    *s = (md_sizes){.bos = -1, .eos = -1, .pad = -1};
}

/* ---- weights: which ones depends on the op, their shapes are the file's --------------------------------------- */

static const struct {
    const char *op, *param;
    size_t at;
    unsigned flags;
} params[] = {
    {"multi_head_attention", "q_proj.weight", offsetof(one_block, attention.q_proj.weight), 0},
    {"multi_head_attention", "q_proj.bias", offsetof(one_block, attention.q_proj.bias), 0},
    {"multi_head_attention", "k_proj.weight", offsetof(one_block, attention.k_proj.weight), 0},
    {"multi_head_attention", "k_proj.bias", offsetof(one_block, attention.k_proj.bias), 0},
    {"multi_head_attention", "v_proj.weight", offsetof(one_block, attention.v_proj.weight), 0},
    {"multi_head_attention", "v_proj.bias", offsetof(one_block, attention.v_proj.bias), 0},
    {"multi_head_attention", "out_proj.weight", offsetof(one_block, attention.out_proj.weight), 0},
    {"multi_head_attention", "out_proj.bias", offsetof(one_block, attention.out_proj.bias), 0},
    {"layer_norm", "weight", offsetof(one_block, norm.weight), 0},
    {"layer_norm", "bias", offsetof(one_block, norm.bias), 0},
    {"rms_norm", "weight", offsetof(one_block, norm.weight), 0},
    {"batch_norm", "weight", offsetof(one_block, batch_norm.weight), 0},
    {"batch_norm", "bias", offsetof(one_block, batch_norm.bias), 0},
    {"batch_norm", "running_mean", offsetof(one_block, batch_norm.running_mean), TN_BUFFER},
    {"batch_norm", "running_var", offsetof(one_block, batch_norm.running_var), TN_BUFFER},
    {"conv2d", "weight", offsetof(one_block, linear.weight), 0},
    {"conv2d", "bias", offsetof(one_block, linear.bias), 0},
    {"lora_linear", "weight", offsetof(one_block, linear.weight), TN_LINEAR},
    {"lora_linear", "bias", offsetof(one_block, linear.bias), 0},
    {"lora_linear", "lora_A", offsetof(one_block, lora_a), 0},
    {"lora_linear", "lora_B", offsetof(one_block, lora_b), 0},
};

static void visit(void *p, tn_visitor *v)
{
    blocks *m = p;
    for (int i = 0; i < m->n; i++) {
        one_block *b = &m->block[i];
        b->norm.bias.id = -1;
        size_t mark = tn_enter(v, "%s.", b->name);
        for (size_t k = 0; k < sizeof params / sizeof params[0]; k++) {
            if (strcmp(params[k].op, b->op) != 0)
                continue;
            tn_param *w = (tn_param *)(void *)((char *)b + params[k].at);
            tn_visit(v, w, params[k].param, params[k].flags | TN_SHAPE_OF_FILE, 0, 0, 0, 0, 0);
        }
        tn_leave(v, mark);
    }
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

typedef struct run {
    tn_ctx *cx;
    one_block *b;
    tn_lora *lora;
    const md_batch *batch;
    md_outputs *out;
} run;

static const md_value *find(const run *r, const char *input)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", r->b->name, input);
    return md_values_find(r->batch->values, name);
}

/* Input `name`, with a gradient when a loss is wanted. */
static tn_t input(run *r, const char *name)
{
    const md_value *v = find(r, name);
    if (!v || v->is_int)
        return tn_fail(r->cx, "%s.%s: expected an input of floats", r->b->name, name);
    tn_t x = tn_input(r->cx, v->f, r->batch->want_loss, v->rank, v->shape);
    if (r->batch->want_loss)
        md_emit(r->cx, r->out, x, "grad.%s.%s", r->b->name, name);
    return x;
}

/* Masks of 64-bit integers become bytes, kept in the arena as long as the tape. */
static const uint8_t *key_mask(run *r)
{
    const md_value *v = find(r, "key_mask");
    if (!v)
        return NULL;
    uint8_t *mask = tn_bytes(r->cx, (size_t)v->count);
    for (long i = 0; mask && i < v->count; i++)
        mask[i] = v->is_int ? v->i[i] != 0 : v->f[i] != 0;
    return mask;
}

static tn_t attention(run *r)
{
    tn_attention_args args = {.heads = r->b->heads, .causal = r->b->causal, .key_mask = key_mask(r), .head_major = true};
    tn_t q = input(r, "q"), k = input(r, "k"), v = input(r, "v");
    /* [B, T, d], as the page's own single head has it, is one head. */
    if (q.rank == 3 && k.rank == 3 && v.rank == 3) {
        args.head_major = false;
        args.heads = 1;
    }
    return tn_attention(r->cx, q, k, v, &args);
}

static tn_t multi_head_attention(run *r)
{
    tn_attention_args args = {.heads = r->b->heads, .causal = r->b->causal, .key_mask = key_mask(r)};
    tn_t x = input(r, "x"), context = find(r, "context") ? input(r, "context") : x;
    return bl_attend(r->cx, &r->b->attention, x, context, &args, (tn_t){0});
}

static tn_t cross_entropy(run *r)
{
    const md_value *target = find(r, "target");
    tn_t logits = input(r, "logits");
    if (!target || !target->is_int || target->count != tn_rows(logits))
        return tn_fail(r->cx, "%s.target: expected one integer a row of logits", r->b->name);
    return tn_cross_entropy(r->cx, logits, target->i, r->b->smoothing);
}

/* The convolution gives channels last; PyTorch's order is [B, O, H, W]. */
static tn_t conv2d(run *r)
{
    tn_t x = tn_conv2d(r->cx, input(r, "x"), &r->b->linear, r->b->stride);
    return tn_channels_first(r->cx, x);
}

static tn_t batch_norm(run *r)
{
    bool before = r->cx->training;
    r->cx->training = r->b->training;
    tn_t y = tn_batch_norm(r->cx, input(r, "x"), &r->b->batch_norm, r->b->momentum, r->b->eps);
    r->cx->training = before;
    return y;
}

static tn_t lora_linear(run *r)
{
    one_block *b = r->b;
    r->lora[b->linear.weight.id] = (tn_lora){.r = (int)b->lora_a.shape[0],
                                             .scale = b->scale,
                                             .a = b->lora_a.v,
                                             .b = b->lora_b.v,
                                             .ga = tn_grad_of(r->cx, &b->lora_a),
                                             .gb = tn_grad_of(r->cx, &b->lora_b)};
    if (b->lora_a.rank != 2 || b->lora_b.rank != 2 || b->lora_a.shape[1] != b->linear.weight.shape[1] ||
        b->lora_b.shape[0] != b->linear.weight.shape[0] || b->lora_b.shape[1] != b->lora_a.shape[0])
        return tn_fail(r->cx, "block '%s': the factors do not fit the weight", b->name);
    const tn_lora *before = r->cx->lora;
    r->cx->lora = r->lora;
    tn_t y = tn_linear(r->cx, input(r, "x"), &b->linear);
    r->cx->lora = before;
    return y;
}

static tn_t layer_norm(run *r) { return tn_layer_norm(r->cx, input(r, "x"), &r->b->norm, r->b->eps); }
static tn_t rms_norm(run *r) { return tn_rms_norm(r->cx, input(r, "x"), &r->b->norm, r->b->eps); }
static tn_t sinusoid(run *r) { return tn_add_sinusoid(r->cx, input(r, "x")); }
static tn_t rope(run *r) { return tn_rope(r->cx, input(r, "x"), r->b->theta, r->b->offset); }
static tn_t softmax(run *r) { return tn_softmax(r->cx, input(r, "x")); }
static tn_t l2_normalize(run *r) { return tn_l2_normalize(r->cx, input(r, "x")); }

static tn_t activation(run *r)
{
    kn_act f;
    const char *name = strcmp(r->b->op, "gelu_tanh") ? r->b->op : "gelu_pytorch_tanh";
    if (!bl_activation(name, &f))
        return tn_fail(r->cx, "block '%s': op '%s' is unknown", r->b->name, r->b->op);
    return tn_act(r->cx, input(r, "x"), f);
}

static const struct {
    const char *op;
    tn_t (*run)(run *r);
} ops[] = {
    {"attention", attention},
    {"multi_head_attention", multi_head_attention},
    {"sinusoidal_position", sinusoid},
    {"rope", rope},
    {"layer_norm", layer_norm},
    {"rms_norm", rms_norm},
    {"batch_norm", batch_norm},
    {"softmax", softmax},
    {"l2_normalize", l2_normalize},
    {"cross_entropy", cross_entropy},
    {"conv2d", conv2d},
    {"lora_linear", lora_linear},
};

static tn_t run_block(run *r)
{
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (!strcmp(ops[i].op, r->b->op))
            return ops[i].run(r);
    return activation(r);
}

/* loss += sum(out * grad_out) */
static tn_t add_to_loss(run *r, tn_t loss, tn_t y)
{
    const md_value *g = find(r, "grad_out");
    if (!g || g->is_int || g->count != tn_size(y))
        return tn_fail(r->cx, "%s.grad_out: expected %ld floats", r->b->name, tn_size(y));
    tn_t term = tn_weighted_sum(r->cx, y, g->f);
    return loss.rank ? tn_sum2(r->cx, loss, 1, term, 1) : term;
}

static void emit_statistics(run *r)
{
    const tn_batch_norm_w *n = &r->b->batch_norm;
    const tn_param *p[] = {&n->running_mean, &n->running_var};
    const char *name[] = {"running_mean", "running_var"};
    for (int i = 0; i < 2 && r->cx->buffers; i++)
        md_emit(r->cx, r->out, tn_input(r->cx, r->cx->buffers[p[i]->id], false, 1, p[i]->shape), "%s.%s", r->b->name, name[i]);
}

static void forward(tn_ctx *cx, const void *p, const md_batch *batch, md_outputs *out)
{
    const blocks *m = p;
    for (int i = 0; i < m->n && !cx->failed; i++) {
        run r = {cx, &m->block[i], m->lora, batch, out};
        tn_t y = run_block(&r);
        md_emit(cx, out, y, "%s.out", r.b->name);
        if (!cx->failed && !strcmp(r.b->op, "cross_entropy"))
            out->item[out->n - 1].scalar = true;
        if (r.b->training)
            emit_statistics(&r);
        if (batch->want_loss)
            out->loss = add_to_loss(&r, out->loss, y);
    }
}

static int prepare(const void *m, const md_values *in, md_batch *b, oc_err *err)
{
    (void)m;
    (void)err;
    b->values = in;
    return 0;
}

static const char *const architectures[] = {"OcelliBlocks", NULL};

const md_family md_blocks = {
    .model_type = "ocelli_blocks",
    .architectures = architectures,
    .create = create,
    .destroy = destroy,
    .visit = visit,
    .sizes = sizes,
    .prepare = prepare,
    .forward = forward,
};
