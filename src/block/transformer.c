/* transformer.c - multi-head attention, the MLP, the pre-norm layer. */
#include "transformer.h"

#include <string.h>

void bl_visit_attention(tn_visitor *v, bl_attention *a, const char *name, long width, long context_width)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit_linear(v, &a->q_proj, "q_proj", width, width, true);
    tn_visit_linear(v, &a->k_proj, "k_proj", width, context_width, true);
    tn_visit_linear(v, &a->v_proj, "v_proj", width, context_width, true);
    tn_visit_linear(v, &a->out_proj, "out_proj", width, width, true);
    tn_leave(v, mark);
}

void bl_visit_fused_attention(tn_visitor *v, bl_attention *a, const char *name, long width)
{
    size_t mark = tn_enter(v, "%s", name);
    a->fused = true;
    tn_visit_linear(v, &a->qkv, "qkv", 3 * width, width, true);
    tn_visit_linear(v, &a->out_proj, "projection", width, width, true);
    tn_leave(v, mark);
}

/* Queries, keys and values [B, T, width] of a fused weight; of `rows`, which may be a part of x, the queries alone. */
static void project(tn_ctx *cx, const bl_attention *a, tn_t rows, tn_t x, tn_t *qkv)
{
    long width = tn_last(x);
    tn_split(cx, tn_linear(cx, x, &a->qkv), 3, (long[]){width, width, width}, qkv);
    if (rows.shape[1] != x.shape[1])
        qkv[0] = tn_columns(cx, tn_linear(cx, rows, &a->qkv), 0, width);
}

tn_t bl_attend(tn_ctx *cx, const bl_attention *a, tn_t x, tn_t context, const tn_attention_args *args, tn_t residual)
{
    tn_t qkv[3] = {0};
    if (a->fused)
        project(cx, a, x, context, qkv);
    else {
        const tn_linear_w *all[] = {&a->q_proj, &a->k_proj, &a->v_proj};
        bool itself = context.v == x.v && tn_size(context) == tn_size(x);
        int own = args->memory || !itself ? 1 : 3; /* of x; keys and values that are remembered, or of another context, are not */
        tn_linears(cx, x, own, all, qkv);
        if (!args->memory && !itself)
            tn_linears(cx, context, 2, all + 1, qkv + 1);
    }
    if (args->memory && tn_remembers_rows(cx))
        return tn_linear_add(cx, tn_attention_to_rows(cx, qkv[0], &a->k_proj, &a->v_proj, args), &a->out_proj, residual);
    return tn_linear_add(cx, tn_attention(cx, qkv[0], qkv[1], qkv[2], args), &a->out_proj, residual);
}

void bl_visit_mlp(tn_visitor *v, bl_mlp *m, const char *name, long width, long hidden)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit_linear(v, &m->fc1, "fc1", hidden, width, true);
    tn_visit_linear(v, &m->fc2, "fc2", width, hidden, true);
    tn_leave(v, mark);
}

tn_t bl_feed_forward(tn_ctx *cx, const bl_mlp *m, tn_t x, kn_act f, tn_t residual)
{
    return tn_linear_add(cx, tn_linear_act(cx, x, &m->fc1, f), &m->fc2, residual);
}

void bl_visit_layers(tn_visitor *v, bl_layer *layers, int n, const char *name, const bl_layer_shape *s, bool fused)
{
    for (int i = 0; i < n; i++) {
        size_t mark = tn_enter(v, "%s%d.", name, i);
        if (fused)
            bl_visit_fused_attention(v, &layers[i].self_attn, "self_attn.", s->width);
        else
            bl_visit_attention(v, &layers[i].self_attn, "self_attn.", s->width, s->width);
        tn_visit_norm(v, &layers[i].layer_norm1, "layer_norm1", s->width, true);
        bl_visit_mlp(v, &layers[i].mlp, "mlp.", s->width, s->hidden);
        tn_visit_norm(v, &layers[i].layer_norm2, "layer_norm2", s->width, true);
        tn_leave(v, mark);
    }
}

/* Queries come from `rows`, [B, Tq, width] of x [B, T, width]; h is x normed, `at` the same rows of it. */
static tn_t layer(tn_ctx *cx, const bl_layer *l, tn_t rows, tn_t at, tn_t h, const bl_layer_shape *s,
                  const tn_attention_args *args)
{
    tn_t y = bl_attend(cx, &l->self_attn, at, h, args, rows);
    return bl_feed_forward(cx, &l->mlp, tn_layer_norm(cx, y, &l->layer_norm2, s->eps), s->act, y);
}

tn_t bl_layers(tn_ctx *cx, const bl_layer *layers, int n, tn_t x, const bl_layer_shape *s, bool causal, const uint8_t *key_mask)
{
    tn_attention_args args = {.heads = s->heads, .causal = causal, .key_mask = key_mask};
    for (int i = 0; i < n; i++) {
        tn_scope scope = tn_begin(cx);
        tn_t h = tn_layer_norm(cx, x, &layers[i].layer_norm1, s->eps);
        x = tn_end(cx, scope, x, layer(cx, &layers[i], x, h, h, s, &args));
    }
    return x;
}

/* Row pool[b] of x [B, T, width] as a sequence of one: [B, 1, width]. */
static tn_t one_row(tn_ctx *cx, tn_t x, const int *pool)
{
    x = tn_select(cx, x, pool);
    return tn_reshape(cx, x, 3, (long[]){tn_rows(x), 1, tn_last(x)});
}

tn_t bl_layers_pooled(tn_ctx *cx, const bl_layer *layers, int n, tn_t x, const bl_layer_shape *s, bool causal,
                      const uint8_t *key_mask, const int *pool)
{
    tn_attention_args args = {.heads = s->heads, .key_mask = key_mask, .last_key = causal ? pool : NULL};
    if (causal && !pool)
        return tn_fail(cx, "a causal tower is pooled where its texts end: no places are given");
    x = bl_layers(cx, layers, n - 1, x, s, causal, key_mask);
    tn_scope scope = tn_begin(cx);
    tn_t h = tn_layer_norm(cx, x, &layers[n - 1].layer_norm1, s->eps);
    tn_t y = layer(cx, &layers[n - 1], one_row(cx, x, pool), one_row(cx, h, pool), h, s, &args);
    return tn_end(cx, scope, x, tn_reshape(cx, y, 2, (long[]){tn_rows(y), tn_last(x)}));
}

bool bl_activation(const char *name, kn_act *f)
{
    static const struct {
        const char *name;
        kn_act f;
    } known[] = {{"gelu", KN_GELU},
                 {"quick_gelu", KN_QUICK_GELU},
                 {"gelu_new", KN_GELU_TANH},
                 {"gelu_pytorch_tanh", KN_GELU_TANH},
                 {"gelu_fast", KN_GELU_TANH},
                 {"silu", KN_SILU},
                 {"swish", KN_SILU},
                 {"relu", KN_RELU},
                 {"tanh", KN_TANH}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(name, known[i].name)) {
            *f = known[i].f;
            return true;
        }
    return false;
}
