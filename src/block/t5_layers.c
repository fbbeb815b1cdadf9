/* t5_layers.c - see t5_layers.h. */
#include "t5_layers.h"

/* ---- weights ---------------------------------------------------------------------------------------------- */

static void visit_attention(tn_visitor *v, bl_t5_attention *a, const char *name, const bl_t5_shape *s, tn_param *bias)
{
    size_t mark = tn_enter(v, "%s.", name);
    long inner = s->heads * s->head;
    tn_visit_linear(v, &a->q, "q", inner, s->width, false);
    tn_visit_linear(v, &a->k, "k", inner, s->width, false);
    tn_visit_linear(v, &a->v, "v", inner, s->width, false);
    tn_visit_linear(v, &a->o, "o", s->width, inner, false);
    if (bias)
        tn_visit(v, bias, "relative_attention_bias.weight", 0, 2, s->buckets, s->heads, 0, 0);
    tn_leave(v, mark);
}

static void visit_feed_forward(tn_visitor *v, bl_t5_layer *l, const bl_t5_shape *s)
{
    size_t mark = tn_enter(v, "DenseReluDense.");
    tn_visit_linear(v, &l->wi, s->gated ? "wi_0" : "wi", s->hidden, s->width, false);
    if (s->gated)
        tn_visit_linear(v, &l->wi_1, "wi_1", s->hidden, s->width, false);
    tn_visit_linear(v, &l->wo, "wo", s->width, s->hidden, false);
    tn_leave(v, mark);
}

static void visit_layer(tn_visitor *v, bl_t5_stack *t, int i, const bl_t5_shape *s)
{
    bl_t5_layer *l = &t->layer[i];
    int part = 0;
    size_t mark = tn_enter(v, "layer.%d.", part++);
    visit_attention(v, &l->self, "SelfAttention", s, i ? NULL : &t->relative_attention_bias);
    tn_visit_norm(v, &l->self_norm, "layer_norm", s->width, false);
    tn_leave(v, mark);
    if (t->decoder) {
        mark = tn_enter(v, "layer.%d.", part++);
        visit_attention(v, &l->cross, "EncDecAttention", s, NULL);
        tn_visit_norm(v, &l->cross_norm, "layer_norm", s->width, false);
        tn_leave(v, mark);
    }
    mark = tn_enter(v, "layer.%d.", part);
    visit_feed_forward(v, l, s);
    tn_visit_norm(v, &l->ff_norm, "layer_norm", s->width, false);
    tn_leave(v, mark);
}

void bl_visit_t5(tn_visitor *v, bl_t5_stack *t, const bl_t5_shape *s)
{
    for (int i = 0; i < t->layers; i++) {
        size_t mark = tn_enter(v, "block.%d.", i);
        visit_layer(v, t, i, s);
        tn_leave(v, mark);
    }
    tn_visit_norm(v, &t->final_layer_norm, "final_layer_norm", s->width, false);
}

/* ---- layers ----------------------------------------------------------------------------------------------- */

static tn_t attend_self(tn_ctx *cx, const bl_t5_layer *l, const bl_t5_shape *s, tn_t x, const tn_attention_args *args)
{
    tn_t h = tn_rms_norm(cx, x, &l->self_norm, s->eps);
    tn_t qkv[3];
    tn_linears(cx, h, 3, (const tn_linear_w *[]){&l->self.q, &l->self.k, &l->self.v}, qkv);
    return tn_linear_add(cx, tn_attention(cx, qkv[0], qkv[1], qkv[2], args), &l->self.o, x);
}

static tn_t attend_encoded(tn_ctx *cx, const bl_t5_layer *l, int i, const bl_t5_shape *s, tn_t x, const bl_t5_view *view)
{
    tn_attention_args args = {.heads = s->heads, .scale = 1, .key_mask = view->encoded_mask};
    tn_t q = tn_linear(cx, tn_rms_norm(cx, x, &l->cross_norm, s->eps), &l->cross.q), k = {0}, v = {0};
    if (view->encoded.rank) {
        k = tn_linear(cx, view->encoded, &l->cross.k);
        v = tn_linear(cx, view->encoded, &l->cross.v);
    } else
        args.memory = i + 1;
    return tn_linear_add(cx, tn_attention(cx, q, k, v, &args), &l->cross.o, x);
}

static tn_t feed_forward(tn_ctx *cx, const bl_t5_layer *l, const bl_t5_shape *s, tn_t x)
{
    tn_t h = tn_rms_norm(cx, x, &l->ff_norm, s->eps), gated[2];
    if (s->gated) {
        tn_linears(cx, h, 2, (const tn_linear_w *[]){&l->wi, &l->wi_1}, gated);
        h = tn_gate(cx, gated[0], gated[1], s->act);
    } else
        h = tn_linear_act(cx, h, &l->wi, s->act);
    return tn_linear_add(cx, h, &l->wo, x);
}

tn_t bl_t5_encode(tn_ctx *cx, const bl_t5_stack *t, const bl_t5_shape *s, tn_t x, const uint8_t *key_mask)
{
    tn_attention_args args = {.heads = s->heads, .scale = 1, .key_mask = key_mask};
    tn_buckets buckets = {s->buckets, s->max_distance, true};
    args.bias = tn_distance_bias(cx, &t->relative_attention_bias, &buckets, x.shape[1], x.shape[1]);
    for (int i = 0; i < t->layers; i++) {
        tn_scope scope = tn_begin(cx);
        x = tn_end(cx, scope, x, feed_forward(cx, &t->layer[i], s, attend_self(cx, &t->layer[i], s, x, &args)));
    }
    return tn_rms_norm(cx, x, &t->final_layer_norm, s->eps);
}

void bl_t5_remember(tn_ctx *cx, const bl_t5_stack *decoder, tn_t encoded)
{
    for (int i = 0; i < decoder->layers; i++) {
        tn_scope scope = tn_begin(cx);
        const bl_t5_attention *a = &decoder->layer[i].cross;
        tn_remember(cx, tn_linear(cx, encoded, &a->k), tn_linear(cx, encoded, &a->v), i + 1);
        cx->used = scope.used;
    }
}

tn_t bl_t5_decode(tn_ctx *cx, const bl_t5_stack *t, const bl_t5_shape *s, tn_t x, const bl_t5_view *view)
{
    tn_attention_args args = {.heads = s->heads, .scale = 1, .causal = true, .key_mask = view->key_mask};
    tn_buckets buckets = {s->buckets, s->max_distance, false};
    args.bias = tn_distance_bias(cx, &t->relative_attention_bias, &buckets, x.shape[1], view->furthest);
    for (int i = 0; i < t->layers; i++) {
        const bl_t5_layer *l = &t->layer[i];
        tn_scope scope = tn_begin(cx);
        args.layer = i + 1;
        tn_t y = attend_encoded(cx, l, i, s, attend_self(cx, l, s, x, &args), view);
        x = tn_end(cx, scope, x, feed_forward(cx, l, s, y));
    }
    return tn_rms_norm(cx, x, &t->final_layer_norm, s->eps);
}
