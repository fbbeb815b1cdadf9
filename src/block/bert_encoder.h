/* bert_encoder.h - BERT's encoder (Devlin 2019): layers that are normed behind each sum, over words, positions and kinds of segments; with attention to
 * what another model saw, and as a decoder, BLIP's text side (Li 2022). */
#ifndef BL_BERT_ENCODER_H
#define BL_BERT_ENCODER_H

#include "transformer.h"

/* norm(x + attention(x)): attention.self.{query,key,value}, attention.output.{dense,LayerNorm}. */
typedef struct bl_bert_attention {
    bl_attention heads;
    tn_norm_w norm;
} bl_bert_attention;

/* Behind it norm(y + crossattention(y, what another model saw)), where the model has that, and norm(z + mlp(z)): crossattention.*,
 * intermediate.dense, output.{dense,LayerNorm}. */
typedef struct bl_bert_layer {
    bl_bert_attention attention, crossattention;
    bl_mlp mlp;
    tn_norm_w norm;
} bl_bert_layer;

typedef struct bl_bert {
    bl_layer_shape shape;
    int layers, positions, vocab, types; /* types 0: tokens have no kinds */
    long context_width;                  /* of the rows that crossattention looks at; 0: there is none */
    int pad;                             /* the token that fills up, whose row of the table learns nothing from being there */
    bool tied;                           /* a head reads the table of words as well */
    tn_param word;                       /* [vocab, width] */
    tn_param position;                   /* [positions, width] */
    tn_param type;                       /* [types, width] */
    tn_norm_w norm;
    bl_bert_layer *layer; /* [layers] */
} bl_bert;

/* What tokens are and see. Arrays are the caller's, as long as the tape. */
typedef struct bl_bert_view {
    const int *types;         /* [B, T] their kinds; NULL: all 0 */
    const int *positions;     /* [B, T] where they stand; NULL: 0, 1, 2, ... */
    const uint8_t *key_mask;  /* [B, T], 1 keeps; NULL keeps all */
    bool causal;              /* a token sees itself and those before it: a decoder, which goes on where the context's sequences do */
    tn_t seen;                /* [B, Tk, context_width] for crossattention; rank 0: it is left out, unless remembered */
    const uint8_t *seen_mask; /* [B, Tk] */
    bool remembered;          /* what is seen lies in the memory of the context's steps */
    const bl_bert_attention *self; /* [layers] instead of the layers' own: a decoder that shares all else with its encoder */
} bl_bert_view;

/* embeddings.*, encoder.layer.N.* as Hugging Face's BertModel has them, below `name`. */
void bl_visit_bert(tn_visitor *v, bl_bert *m, const char *name);
/* self.{query,key,value}, output.{dense,LayerNorm} below `name`. */
void bl_visit_bert_attention(tn_visitor *v, bl_bert_attention *a, const char *name, long width, long context_width);
/* Attention to `context` (x itself, or what another model saw), its sum with x normed. */
tn_t bl_bert_attend(tn_ctx *cx, const bl_bert_attention *a, tn_t x, tn_t context, const tn_attention_args *args, float eps);
/* ids [B, T] -> [B, T, width]. */
tn_t bl_bert_rows(tn_ctx *cx, const bl_bert *m, const int *ids, long b, long t, const bl_bert_view *view);
/* The same rows' first of each sequence, [B, width], to the bit: no other row of the last layer is computed unless `hidden` (may be NULL) takes
 * them all. Not for a causal one, whose first token sees nothing. */
tn_t bl_bert_first(tn_ctx *cx, const bl_bert *m, const int *ids, long b, long t, const bl_bert_view *view, tn_t *hidden);
/* What a decoder will look at [steps, T, context_width] goes into the memory of the context's steps: keys and values, which are computed once, or where the
 * memory is one of rows these themselves, which bl_bert_can_look_at_rows tells of weights and adapter. */
bool bl_bert_can_look_at_rows(const bl_bert *m, const tn_lora *lora);
void bl_bert_remember(tn_ctx *cx, const bl_bert *m, tn_t seen);

#endif
