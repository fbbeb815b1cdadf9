/* vit.c - a picture's patches as tokens.
 *
 *   pixels [B,C,S,S] -> patches [B,N,width] -> (class token in front) -> + positions -> (pre_layrnorm) -> layers -> post_layernorm */
#include "vit.h"

static bool has_class(const bl_vit *s) { return s->kind != BL_VIT_SIGLIP; }

long bl_vit_tokens(const bl_vit *s)
{
    long side = s->image_size / s->patch_size;
    return side * side + has_class(s);
}

/* BLIP keeps both as batches of one, and its positions are no table. */
static void visit_tokens(tn_visitor *v, bl_vit *s)
{
    long width = s->shape.width, tokens = bl_vit_tokens(s);
    bool blip = s->kind == BL_VIT_BLIP;
    if (blip)
        tn_visit(v, &s->class_embedding, "embeddings.class_embedding", 0, 3, 1, 1, width, 0);
    else if (has_class(s))
        tn_visit(v, &s->class_embedding, "embeddings.class_embedding", 0, 1, width, 0, 0, 0);
    if (blip)
        tn_visit(v, &s->position_embedding, "embeddings.position_embedding", 0, 3, 1, tokens, width, 0);
    else
        tn_visit(v, &s->position_embedding, "embeddings.position_embedding.weight", 0, 2, tokens, width, 0, 0);
}

void bl_visit_vit(tn_visitor *v, bl_vit *s, const char *name)
{
    size_t mark = tn_enter(v, "%s", name);
    long width = s->shape.width;
    visit_tokens(v, s);
    tn_visit(v, &s->patch_embedding.weight, "embeddings.patch_embedding.weight", TN_KERNEL, 4, width, s->channels, s->patch_size,
             s->patch_size);
    s->patch_embedding.bias.id = -1;
    if (s->kind != BL_VIT_CLIP)
        tn_visit(v, &s->patch_embedding.bias, "embeddings.patch_embedding.bias", TN_NO_DECAY, 1, width, 0, 0, 0);
    else
        tn_visit_norm(v, &s->pre_layrnorm, "pre_layrnorm", width, true);
    bl_visit_layers(v, s->layer, s->layers, "encoder.layers.", &s->shape, s->kind == BL_VIT_BLIP);
    tn_visit_norm(v, &s->post_layernorm, "post_layernorm", width, true);
    tn_leave(v, mark);
}

static tn_t tokens(tn_ctx *cx, const bl_vit *s, tn_t pixels)
{
    tn_t x = tn_conv2d(cx, pixels, &s->patch_embedding, s->patch_size);
    x = tn_reshape(cx, x, 3, (long[]){pixels.shape[0], x.shape[1] * x.shape[2], s->shape.width});
    if (has_class(s))
        x = tn_prepend(cx, &s->class_embedding, x);
    x = tn_add_positions(cx, x, &s->position_embedding);
    return s->kind == BL_VIT_CLIP ? tn_layer_norm(cx, x, &s->pre_layrnorm, s->shape.eps) : x;
}

tn_t bl_vit_rows(tn_ctx *cx, const bl_vit *s, tn_t pixels)
{
    return bl_layers(cx, s->layer, s->layers, tokens(cx, s, pixels), &s->shape, false, NULL);
}

tn_t bl_vit_class(tn_ctx *cx, const bl_vit *s, tn_t pixels, tn_t *hidden)
{
    tn_t row;
    if (hidden) {
        *hidden = bl_vit_rows(cx, s, pixels);
        row = tn_select(cx, *hidden, NULL);
    } else {
        row = bl_layers_pooled(cx, s->layer, s->layers, tokens(cx, s, pixels), &s->shape, false, NULL, NULL);
    }
    return tn_layer_norm(cx, row, &s->post_layernorm, s->shape.eps);
}
