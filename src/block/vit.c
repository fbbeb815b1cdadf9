/* vit.c - a picture's patches as tokens.
 *
 *   pixels [B,C,S,S] -> patches [B,N,width] -> (class token in front) -> + positions -> (pre_layrnorm) -> layers -> post_layernorm */
#include "vit.h"

void bl_visit_vit(tn_visitor *v, bl_vit *s, const char *name)
{
    size_t mark = tn_enter(v, "%s", name);
    long side = s->image_size / s->patch_size, width = s->shape.width;
    if (s->class_token)
        tn_visit(v, &s->class_embedding, "embeddings.class_embedding", 0, 1, width, 0, 0, 0);
    tn_visit(v, &s->patch_embedding.weight, "embeddings.patch_embedding.weight", TN_KERNEL, 4, width, s->channels, s->patch_size,
             s->patch_size);
    s->patch_embedding.bias.id = -1;
    if (!s->class_token)
        tn_visit(v, &s->patch_embedding.bias, "embeddings.patch_embedding.bias", TN_NO_DECAY, 1, width, 0, 0, 0);
    tn_visit(v, &s->position_embedding, "embeddings.position_embedding.weight", 0, 2, side * side + s->class_token, width, 0, 0);
    if (s->class_token)
        tn_visit_norm(v, &s->pre_layrnorm, "pre_layrnorm", width, true);
    bl_visit_layers(v, s->layer, s->layers, "encoder.layers.", &s->shape);
    tn_visit_norm(v, &s->post_layernorm, "post_layernorm", width, true);
    tn_leave(v, mark);
}

static tn_t tokens(tn_ctx *cx, const bl_vit *s, tn_t pixels)
{
    tn_t x = tn_conv2d(cx, pixels, &s->patch_embedding, s->patch_size);
    x = tn_reshape(cx, x, 3, (long[]){pixels.shape[0], x.shape[1] * x.shape[2], s->shape.width});
    if (!s->class_token)
        return tn_add_positions(cx, x, &s->position_embedding);
    x = tn_add_positions(cx, tn_prepend(cx, &s->class_embedding, x), &s->position_embedding);
    return tn_layer_norm(cx, x, &s->pre_layrnorm, s->shape.eps);
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
