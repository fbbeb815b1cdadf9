/* vit.h - the vision transformer (Dosovitskiy 2021) of CLIP, SigLIP and BLIP, which differ in what stands in front of the layers. */
#ifndef BL_VIT_H
#define BL_VIT_H

#include "transformer.h"

/* CLIP's (and Chinese-CLIP's): a class token, patches without a bias, a norm before the layers. SigLIP's: none of these. BLIP's (timm's): a class token, and
 * queries, keys and values by one weight. */
typedef enum bl_vit_kind { BL_VIT_CLIP, BL_VIT_SIGLIP, BL_VIT_BLIP } bl_vit_kind;

typedef struct bl_vit {
    bl_vit_kind kind;
    bl_layer_shape shape;
    int layers, image_size, patch_size, channels;
    tn_param class_embedding;    /* [width] */
    tn_linear_w patch_embedding; /* [width, channels, patch, patch] */
    tn_param position_embedding; /* [patches, width], one more for a class token */
    tn_norm_w pre_layrnorm;      /* the checkpoints' own spelling */
    bl_layer *layer;             /* [layers] */
    tn_norm_w post_layernorm;
} bl_vit;

/* Names it as Hugging Face does, below `name`. */
void bl_visit_vit(tn_visitor *v, bl_vit *s, const char *name);
/* Tokens of a picture. */
long bl_vit_tokens(const bl_vit *s);
/* pixels [B, channels, size, size] -> rows behind the last layer [B, T, width], post_layernorm not yet applied. */
tn_t bl_vit_rows(tn_ctx *cx, const bl_vit *s, tn_t pixels);
/* The class token's row, normed, [B, width]. `hidden` (NULL: not wanted, and then no other row of the last layer is computed) takes what bl_vit_rows
 * gives. */
tn_t bl_vit_class(tn_ctx *cx, const bl_vit *s, tn_t pixels, tn_t *hidden);

#endif
