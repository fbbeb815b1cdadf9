/* bert_encoder.h - BERT's encoder (Devlin 2019): layers that are normed behind each sum, over words, positions and kinds of segments. */
#ifndef BL_BERT_ENCODER_H
#define BL_BERT_ENCODER_H

#include "transformer.h"

/* norm(x + attention(x)): attention.self.{query,key,value}, attention.output.{dense,LayerNorm}. */
typedef struct bl_bert_attention {
    bl_attention heads;
    tn_norm_w norm;
} bl_bert_attention;

/* norm(y + mlp(y)) behind it: intermediate.dense, output.{dense,LayerNorm}. */
typedef struct bl_bert_layer {
    bl_bert_attention attention;
    bl_mlp mlp;
    tn_norm_w norm;
} bl_bert_layer;

typedef struct bl_bert {
    bl_layer_shape shape;
    int layers, positions, vocab, types;
    bool causal;       /* a token sees itself and those before it */
    tn_param word;     /* [vocab, width] */
    tn_param position; /* [positions, width] */
    tn_param type;     /* [types, width] */
    tn_norm_w norm;
    bl_bert_layer *layer; /* [layers] */
} bl_bert;

/* embeddings.*, encoder.layer.N.* as Hugging Face's BertModel has them, below `name`. */
void bl_visit_bert(tn_visitor *v, bl_bert *m, const char *name);
/* Attention to `context` (x itself, or what another model saw), its sum with x normed. */
tn_t bl_bert_attend(tn_ctx *cx, const bl_bert_attention *a, tn_t x, tn_t context, const tn_attention_args *args, float eps);
/* ids, and the tokens' kinds unless types is NULL (all 0), [B, T]; key_mask [B, T], 1 keeps; -> [B, T, width]. */
tn_t bl_bert_rows(tn_ctx *cx, const bl_bert *m, const int *ids, const int *types, const uint8_t *key_mask, long b, long t);
/* The same rows' first of each sequence, [B, width], to the bit: no other row of the last layer is computed unless `hidden` (may be NULL) takes
 * them all. Not for a causal one, whose first token sees nothing. */
tn_t bl_bert_first(tn_ctx *cx, const bl_bert *m, const int *ids, const int *types, const uint8_t *key_mask, long b, long t,
                   tn_t *hidden);

#endif
