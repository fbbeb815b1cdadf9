/* vit.h - the vision transformer (Dosovitskiy 2021) of the dual encoders: CLIP's and Chinese-CLIP's with a class token and a norm in front of its
 * layers, SigLIP's with neither. */
#ifndef BL_VIT_H
#define BL_VIT_H

#include "transformer.h"

typedef struct bl_vit {
    bl_layer_shape shape;
    int layers, image_size, patch_size, channels;
    bool class_token;            /* CLIP's kind: with class_embedding and pre_layrnorm, its patches without a bias */
    tn_param class_embedding;    /* [width] */
    tn_linear_w patch_embedding; /* [width, channels, patch, patch] */
    tn_param position_embedding; /* [patches, width], one more for a class token */
    tn_norm_w pre_layrnorm;      /* the checkpoints' own spelling */
    bl_layer *layer;             /* [layers] */
    tn_norm_w post_layernorm;
} bl_vit;

/* Names it as Hugging Face's CLIP does, below `name`. */
void bl_visit_vit(tn_visitor *v, bl_vit *s, const char *name);
/* pixels [B, channels, size, size] -> rows behind the last layer [B, T, width], post_layernorm not yet applied. */
tn_t bl_vit_rows(tn_ctx *cx, const bl_vit *s, tn_t pixels);
/* The class token's row, normed, [B, width]. `hidden` (NULL: not wanted, and then no other row of the last layer is computed) takes what bl_vit_rows
 * gives. */
tn_t bl_vit_class(tn_ctx *cx, const bl_vit *s, tn_t pixels, tn_t *hidden);

#endif
