/* transformer.h - the pieces that every transformer is built of: multi-head attention, the MLP, the pre-norm layer. */
#ifndef BL_TRANSFORMER_H
#define BL_TRANSFORMER_H

#include "../tensor/ops.h"

/* Multi-head attention (Vaswani 2017): every head attends with its own slice of q, k and v. */
typedef struct bl_attention {
    tn_linear_w q_proj;   /* [heads * d, width] */
    tn_linear_w k_proj;   /* [heads * d, width of the context] */
    tn_linear_w v_proj;   /* likewise */
    tn_linear_w qkv;      /* [3 width, width] instead of the three, one below the other */
    bool fused;           /* that it is there */
    tn_linear_w out_proj; /* [width, heads * d] */
} bl_attention;

void bl_visit_attention(tn_visitor *v, bl_attention *a, const char *name, long width, long context_width);
/* The same with fused weights, as timm's ViT names them: qkv, projection. */
void bl_visit_fused_attention(tn_visitor *v, bl_attention *a, const char *name, long width);
/* x [B, Tq, width] attends to context [B, Tk, ..]; self-attention when context is x; to what is remembered when args say so. Added to residual unless that
 * has rank 0. */
tn_t bl_attend(tn_ctx *cx, const bl_attention *a, tn_t x, tn_t context, const tn_attention_args *args, tn_t residual);

typedef struct bl_mlp {
    tn_linear_w fc1; /* [hidden, width] */
    tn_linear_w fc2; /* [width, hidden] */
} bl_mlp;

void bl_visit_mlp(tn_visitor *v, bl_mlp *m, const char *name, long width, long hidden);
/* residual + fc2(f(fc1(x))) */
tn_t bl_feed_forward(tn_ctx *cx, const bl_mlp *m, tn_t x, kn_act f, tn_t residual);

/* A pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)). CLIP's and SigLIP's towers, and BLIP's ViT but for names. */
typedef struct bl_layer {
    tn_norm_w layer_norm1;
    bl_attention self_attn;
    tn_norm_w layer_norm2;
    bl_mlp mlp;
} bl_layer;

typedef struct bl_layer_shape {
    long width, hidden, heads;
    kn_act act;
    float eps;
} bl_layer_shape;

/* fused: the attention's weights are. */
void bl_visit_layers(tn_visitor *v, bl_layer *layers, int n, const char *name, const bl_layer_shape *s, bool fused);
/* x [B, T, width] through n layers; x's memory may be reused. */
tn_t bl_layers(tn_ctx *cx, const bl_layer *layers, int n, tn_t x, const bl_layer_shape *s, bool causal, const uint8_t *key_mask);
/* Row pool[b] of each sequence (NULL, where not causal: row 0) of what bl_layers gives, [B, width], to the bit: behind the last layer's keys and values no other row
 * is computed. */
tn_t bl_layers_pooled(tn_ctx *cx, const bl_layer *layers, int n, tn_t x, const bl_layer_shape *s, bool causal,
                      const uint8_t *key_mask, const int *pool);

/* "gelu", "quick_gelu", "gelu_new", ... as config.json's hidden_act spells it; false when unknown. */
bool bl_activation(const char *name, kn_act *f);

#endif
