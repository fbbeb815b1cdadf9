/* rerank.h - retrieval in two steps: the nearest by vectors, ordered by a model that looks at picture and text together. */
#ifndef EV_RERANK_H
#define EV_RERANK_H

#include "retrieval.h"

/* Pair i is a picture, a text, their rows of length 1 and two keys (ev_retrieval_of). */
typedef struct ev_ranking {
    const char *const *image, *const *text;
    const float *pictures, *texts;
    const long *keys;
    long n;
} ev_ranking;

/* As BLIP's own evaluation (Li 2022): of each query the first `most` by cosine (ITC) are ordered by cosine plus the logit of `together` (ITM); the others stay
 * behind them. Each picture is looked at once. Fails where the model has no such head, or a picture is gone that was there before. */
int ev_rerank(oc_session *s, const ev_ranking *r, long most, ev_retrieval *out, ev_talk *talk, oc_err *err);

#endif
