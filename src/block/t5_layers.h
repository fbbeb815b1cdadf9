/* t5_layers.h - the encoder and the decoder of T5 (Raffel 2020), T5 1.1 and Flan-T5.
 *
 *   x -> n x [x + attention(norm(x))  ->  (decoder: x + attention(norm(x) to what was encoded))  ->  x + feed_forward(norm(x))] -> norm
 *
 * Nothing has a bias, norms are RMS, scores are not scaled. Where a token stands is told by what the first layer's table adds to the scores of all
 * layers; attention to what was encoded is told nothing. */
#ifndef BL_T5_H
#define BL_T5_H

#include "../tensor/ops.h"

typedef struct bl_t5_attention {
    tn_linear_w q, k, v; /* [heads * head, width] */
    tn_linear_w o;       /* [width, heads * head] */
} bl_t5_attention;

typedef struct bl_t5_layer {
    tn_norm_w self_norm; /* [width] */
    bl_t5_attention self;
    tn_norm_w cross_norm; /* of a decoder: to what was encoded */
    bl_t5_attention cross;
    tn_norm_w ff_norm;
    tn_linear_w wi, wi_1; /* [hidden, width]; the second one gates (wi is then wi_0 in the file) */
    tn_linear_w wo;       /* [width, hidden] */
} bl_t5_layer;

typedef struct bl_t5_stack {
    int layers;
    bool decoder;
    bl_t5_layer *layer;
    tn_param relative_attention_bias; /* [buckets, heads] */
    tn_norm_w final_layer_norm;       /* [width] */
} bl_t5_stack;

typedef struct bl_t5_shape {
    long width, heads, head, hidden;
    long buckets, max_distance;
    kn_act act;
    bool gated;
    float eps;
} bl_t5_shape;

/* "block.0.layer.0. ...", "final_layer_norm". */
void bl_visit_t5(tn_visitor *v, bl_t5_stack *t, const bl_t5_shape *s);
/* x [B, T, width] (embedded tokens, or anything in their place) -> [B, T, width]. key_mask [B, T] as attention takes it. */
tn_t bl_t5_encode(tn_ctx *cx, const bl_t5_stack *t, const bl_t5_shape *s, tn_t x, const uint8_t *key_mask);
/* Keys and values of what was encoded [steps, T, width] go into the memory of the context's steps, for the decoder's layers: they are computed once. */
void bl_t5_remember(tn_ctx *cx, const bl_t5_stack *decoder, tn_t encoded);
/* What a decoder looks at. */
typedef struct bl_t5_view {
    tn_t encoded;                /* [B, T, width]; rank 0: the memory of the context's steps */
    const uint8_t *encoded_mask; /* [B, T] */
    const uint8_t *key_mask;     /* of its own tokens [B, L] */
    long furthest;               /* no position is beyond this many */
} bl_t5_view;
/* x [B, L, width] -> [B, L, width]. */
tn_t bl_t5_decode(tn_ctx *cx, const bl_t5_stack *t, const bl_t5_shape *s, tn_t x, const bl_t5_view *view);

#endif
