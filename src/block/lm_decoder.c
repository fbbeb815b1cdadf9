/* lm_decoder.c - see lm_decoder.h. */
#include "lm_decoder.h"

static void visit_attention(tn_visitor *v, bl_decoder_layer *l, const bl_decoder *d)
{
    size_t mark = tn_enter(v, "self_attn.");
    long q = d->heads * d->head, kv = d->kv_heads * d->head;
    if (d->fused) {
        tn_visit_linear(v, &l->qkv_proj, "qkv_proj", q + 2 * kv, d->width, d->attention_bias);
    } else {
        tn_visit_linear(v, &l->q_proj, "q_proj", q, d->width, d->attention_bias);
        tn_visit_linear(v, &l->k_proj, "k_proj", kv, d->width, d->attention_bias);
        tn_visit_linear(v, &l->v_proj, "v_proj", kv, d->width, d->attention_bias);
    }
    tn_visit_linear(v, &l->o_proj, "o_proj", d->width, q, d->attention_bias);
    tn_leave(v, mark);
}

static void visit_mlp(tn_visitor *v, bl_decoder_layer *l, const bl_decoder *d)
{
    size_t mark = tn_enter(v, "mlp.");
    if (d->fused) {
        tn_visit_linear(v, &l->gate_up_proj, "gate_up_proj", 2 * d->hidden, d->width, d->mlp_bias);
    } else {
        tn_visit_linear(v, &l->gate_proj, "gate_proj", d->hidden, d->width, d->mlp_bias);
        tn_visit_linear(v, &l->up_proj, "up_proj", d->hidden, d->width, d->mlp_bias);
    }
    tn_visit_linear(v, &l->down_proj, "down_proj", d->width, d->hidden, d->mlp_bias);
    tn_leave(v, mark);
}

void bl_visit_decoder(tn_visitor *v, bl_decoder *d)
{
    tn_visit(v, &d->embed_tokens, "model.embed_tokens.weight", TN_TABLE | (d->tied ? TN_TIED : 0), 2, d->vocab, d->width, 0, 0);
    for (int i = 0; i < d->layers; i++) {
        size_t mark = tn_enter(v, "model.layers.%d.", i);
        tn_visit_norm(v, &d->layer[i].input_layernorm, "input_layernorm", d->width, false);
        visit_attention(v, &d->layer[i], d);
        tn_visit_norm(v, &d->layer[i].post_attention_layernorm, "post_attention_layernorm", d->width, false);
        visit_mlp(v, &d->layer[i], d);
        tn_leave(v, mark);
    }
    tn_visit_norm(v, &d->norm, "model.norm", d->width, false);
    if (!d->tied)
        tn_visit_linear(v, &d->lm_head, "lm_head", d->vocab, d->width, false);
}

static tn_t attend(tn_ctx *cx, const bl_decoder *d, int i, tn_t h, const bl_places *at, tn_t residual)
{
    const bl_decoder_layer *l = &d->layer[i];
    tn_attention_args args = {.heads = d->heads,
                              .kv_heads = d->kv_heads,
                              .causal = true,
                              .key_mask = at->key_mask,
                              .from = at->from,
                              .window = d->window,
                              .layer = i + 1};
    long q = d->heads * d->head, kv = d->kv_heads * d->head;
    tn_t x[3];
    if (d->fused) {
        tn_split(cx, tn_linear(cx, h, &l->qkv_proj), 3, (long[]){q, kv, kv}, x);
    } else {
        tn_linears(cx, h, 3, (const tn_linear_w *[]){&l->q_proj, &l->k_proj, &l->v_proj}, x);
    }
    x[0] = tn_rotate(cx, x[0], d->heads, at->angles);
    x[1] = tn_rotate(cx, x[1], d->kv_heads, at->angles);
    return tn_linear_add(cx, tn_attention(cx, x[0], x[1], x[2], &args), &l->o_proj, residual);
}

static tn_t feed_forward(tn_ctx *cx, const bl_decoder *d, const bl_decoder_layer *l, tn_t h, tn_t residual)
{
    tn_t x[2];
    if (d->fused) {
        tn_split(cx, tn_linear(cx, h, &l->gate_up_proj), 2, (long[]){d->hidden, d->hidden}, x);
    } else {
        tn_linears(cx, h, 2, (const tn_linear_w *[]){&l->gate_proj, &l->up_proj}, x);
    }
    return tn_linear_add(cx, tn_gate(cx, x[0], x[1], d->act), &l->down_proj, residual);
}

tn_t bl_decode(tn_ctx *cx, const bl_decoder *d, tn_t x, const bl_places *at)
{
    for (int i = 0; i < d->layers; i++) {
        const bl_decoder_layer *l = &d->layer[i];
        tn_scope scope = tn_begin(cx);
        tn_t y = attend(cx, d, i, tn_rms_norm(cx, x, &l->input_layernorm, d->eps), at, x);
        y = feed_forward(cx, d, l, tn_rms_norm(cx, y, &l->post_attention_layernorm, d->eps), y);
        x = tn_end(cx, scope, x, y);
    }
    return tn_rms_norm(cx, x, &d->norm, d->eps);
}

tn_t bl_head(tn_ctx *cx, const bl_decoder *d, tn_t x)
{
    return d->tied ? tn_linear_tied(cx, x, &d->embed_tokens) : tn_linear(cx, x, &d->lm_head);
}
