/* lm_decoder.h - the decoder of LLaMA (Touvron 2023) and what follows it: Mistral, Phi-3.
 *
 *   ids -> embed_tokens -> n x [x + o_proj(attention(rotary(q, k), v of norm(x)))  ->  x + down(silu(gate(h)) * up(h)), h = norm(x)] -> norm -> lm_head
 *
 * Queries in groups share keys (GQA, Ainslie 2023), norms are RMS, nothing has a bias unless the config says so. */
#ifndef BL_DECODER_H
#define BL_DECODER_H

#include "../tensor/ops.h"

typedef struct bl_decoder_layer {
    tn_norm_w input_layernorm;          /* [width] */
    tn_linear_w q_proj, k_proj, v_proj; /* [heads * d, width], [kv_heads * d, width] twice */
    tn_linear_w qkv_proj;               /* instead: the three, one below the other */
    tn_linear_w o_proj;                 /* [width, heads * d] */
    tn_norm_w post_attention_layernorm; /* [width] */
    tn_linear_w gate_proj, up_proj;     /* [hidden, width] */
    tn_linear_w gate_up_proj;           /* instead: both, one below the other */
    tn_linear_w down_proj;              /* [width, hidden] */
} bl_decoder_layer;

typedef struct bl_decoder {
    long vocab, width, hidden, heads, kv_heads, head;
    int layers;
    kn_act act;
    float eps;
    long window; /* keys that a query sees; 0: all */
    bool fused;  /* qkv_proj and gate_up_proj */
    bool attention_bias, mlp_bias;
    bool tied;               /* lm_head is embed_tokens */
    tn_param embed_tokens;   /* [vocab, width] */
    bl_decoder_layer *layer; /* [layers] */
    tn_norm_w norm;          /* [width] */
    tn_linear_w lm_head;     /* [vocab, width] */
} bl_decoder;

/* Where tokens stand and what they may see. */
typedef struct bl_places {
    tn_angles angles;        /* of every row */
    const uint8_t *key_mask; /* as attention takes them */
    const int *from;
} bl_places;

/* "model.embed_tokens", "model.layers.0. ...", "model.norm", "lm_head". */
void bl_visit_decoder(tn_visitor *v, bl_decoder *d);
/* x [B, T, width] (embedded tokens, or anything in their place) through all layers and the norm. */
tn_t bl_decode(tn_ctx *cx, const bl_decoder *d, tn_t x, const bl_places *at);
/* [.., width] -> [.., vocab]. */
tn_t bl_head(tn_ctx *cx, const bl_decoder *d, tn_t x);

#endif
