/* retrieval.h - finding pictures by their words and words by their pictures. */
#ifndef EV_RETRIEVAL_H
#define EV_RETRIEVAL_H

#include "vectors.h"

enum { EV_KS = 3 };
extern const int ev_ks[EV_KS]; /* 1, 5, 10: recall is told at these */

/* Shares of queries that find something right among the first k; the middle place of the first right one, counted from 1. */
typedef struct ev_direction {
    double recall[EV_KS], median_rank;
} ev_direction;

typedef struct ev_retrieval {
    ev_direction text_to_image, image_to_text;
    double chance[EV_KS]; /* of an order drawn at random; the same for both directions */
    long pairs;
} ev_retrieval;

/* The first text of every pair in one language against all pictures, and every picture against all those texts. Pairs whose texts are equal, or
 * whose groups are, are right answers to each other. rows, ok: from ev_embed_pairs. Pairs that could not be read or lack the language are left out. */
int ev_retrieval_run(oc_session *s, const dt_pairs *pairs, const float *rows, const bool *ok, int language, ev_retrieval *out,
                     ev_talk *talk, oc_err *err);

/* The same; where `most` is not 0, so many of the nearest are ordered anew (ev_rerank). */
int ev_retrieval_rerun(oc_session *s, const dt_pairs *pairs, const float *rows, const bool *ok, int language, long most,
                       ev_retrieval *out, ev_talk *talk, oc_err *err);

/* The figures alone, from rows [n, width] of length 1; keys [n, 2]: group and text of each pair, negative for none. */
int ev_retrieval_of(kn_work *work, const float *pictures, const float *texts, long n, long width, const long *keys,
                    ev_retrieval *out, oc_err *err);

#endif
