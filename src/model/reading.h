/* reading.h - what several families read alike: pieces of config.json, and the pictures and texts of a batch. */
#ifndef MD_READING_H
#define MD_READING_H

#include "../block/bert_encoder.h"
#include "../block/vit.h"
#include "../text/tokenizer.h"
#include "model.h"

/* ---- config.json; each takes its defaults in what it fills -------------------------------------------------------- */

enum { MD_WIDEST = 65536, MD_DEEPEST = 1024, MD_LONGEST = 1 << 20, MD_MOST_TOKENS = 1 << 26 };

/* architectures[0], left alone where the file names none. It belongs to the root. */
int md_read_architecture(const ck_config *c, const char **name, oc_err *err);
/* hidden_size, intermediate_size, num_attention_heads, layer_norm_eps, hidden_act; num_hidden_layers. */
int md_read_shape(const ck_config *c, bl_layer_shape *s, int *layers, oc_err *err);
/* The same, with the image's, the patches' and the number of channels. The layers are not allocated. */
int md_read_vit(const ck_config *c, bl_vit *v, oc_err *err);
/* The same of BERT's encoder, over BERT-base: with vocab_size, max_position_embeddings, type_vocab_size. */
int md_read_bert(const ck_config *c, bl_bert *m, oc_err *err);
/* The object `name` of c. Old files keep the true values in `name`_dict, which then wins. Neither: c itself, whose values then are the defaults
 * unless the root has them. NULL: an error. */
const ck_config *md_read_part(const ck_config *c, const char *name, oc_err *err);

/* ---- batches from named inputs -------------------------------------------------------------------------------------- */

/* pixel_values [B, channels, size, size] as the tower takes them; they stay the caller's. */
int md_take_pictures(md_batch *b, const md_value *pixels, const bl_vit *v, oc_err *err);
/* input_ids [B, T], T from 1 to `most`, with attention_mask and token_type_ids of the same shape where `in` has them; pooled where `pool` says of m. */
int md_take_texts(md_batch *b, const md_values *in, md_pool_fn *pool, const void *m, long most, oc_err *err);
/* What a dual encoder takes: pictures for `vision` and texts of up to `most` ids, at least one of them, and the targets of a loss where both are given;
 * vision NULL or most 0: that tower is not there. */
int md_take_both(md_batch *b, const md_values *in, const bl_vit *vision, long most, md_pool_fn *pool, const void *m, oc_err *err);

/* ---- batches from ids ------------------------------------------------------------------------------------------------- */

/* Room for `texts` texts of the model, of any length that it takes; md_batch_clear frees it. */
int md_texts_open(md_batch *b, const md_model *m, long texts, oc_err *err);
/* The n texts (n as opened, each of 1 to max_tokens ids), filled up to the longest of them, or to max_tokens where the model reads what they are filled
 * with. pad: the tokenizer's, -1: the model's own. */
void md_texts_put(md_batch *b, const md_model *m, const tx_ids *ids, long n, int pad);
/* Texts of the greatest length for a plan, which reads no values. Owns nothing. */
md_batch md_plan_texts(const md_model *m, long texts);

/* Texts one behind the other, none filled up: a batch of texts for a context with branches. */
typedef struct md_unfilled {
    md_batch batch; /* owns nothing */
    tn_branches all;
    tn_branch *branch;
    int *row, *ids, *types, *pool;
    long room; /* rows */
} md_unfilled;
/* Room for `texts` texts of up to max_tokens ids. */
int md_unfilled_open(md_unfilled *u, const md_model *m, long texts, oc_err *err);
void md_unfilled_close(md_unfilled *u);
/* b's texts (of a plan: the greatest that there may be) without what no place that counts sees; they are u's until the next. b itself where the model reads what texts are
 * filled up with, a mask hides ids in front of others, or they are more than there is room for. */
const md_batch *md_unfill(md_unfilled *u, const md_model *m, const md_batch *b);

#endif
