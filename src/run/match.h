/* match.h - pairs of pictures and texts, judged by a model's matching head. */
#ifndef RN_MATCH_H
#define RN_MATCH_H

#include "engine.h"

/* The ids of a text that is to be read beside a picture, cut as rn_encode_text cuts; fails when the model has no such head. */
int rn_encode_pair(oc_engine *e, const char *text, tx_ids *ids, int *cut, oc_err *err);
/* Puts [ENC] in the place of the first id, where the engine's options ask for it. */
int rn_begin_with_enc(const oc_engine *e, tx_ids *ids, oc_err *err);
/* logits [n, 2] (apart, together) of n texts, each with the picture of its number, or all with the only one: pixels [images, 3, side, side] as the model's
 * processor gives them, images n or 1; n <= max_batch. */
int rn_match_pixels(oc_session *s, const float *pixels, int images, const tx_ids *texts, int n, float *logits, oc_err *err);
/* The same of one picture and any number of texts. */
int rn_match_texts(oc_session *s, const float *pixels, const tx_ids *texts, int n, float *logits, oc_err *err);
/* The same of a picture file; why: it could not be read, and logits are not written. */
int rn_match_texts_of_file(oc_session *s, const char *path, const tx_ids *texts, int n, float *logits, oc_err *why, oc_err *err);
/* The same of picture files, n <= max_batch, with one text; errors[i] says why file i has none (then its logits are zeros), as rn_embed_files does. */
int rn_match_files(oc_session *s, const char *const *paths, int n, const tx_ids *text, float *logits, oc_err *errors, oc_err *err);
/* A file against n texts, which come as rows of length 1 and as ids (rn_encode_pair; not looked at where itm is NULL): cosines, and probabilities. why: the
 * picture could not be read, and there are neither. */
int rn_match_file(oc_session *s, const char *path, const float *rows, const tx_ids *ids, int n, float *itc, float *itm, oc_err *why,
                  oc_err *err);
/* The probability that two logits give to `together`. */
float rn_together(const float logits[2]);
/* Arena bytes of a pass over b, whose values are not looked at. 0 when the model cannot. */
size_t rn_plan_match(const oc_session *s, const md_batch *b);

#endif
