/* perplexity.h - how well a language model foretells a text. */
#ifndef EV_PERPLEXITY_H
#define EV_PERPLEXITY_H

#include "../data/corpus.h"
#include "../run/speaker.h"
#include "vectors.h"

typedef struct ev_perplexity {
    double loss;       /* mean over tokens, natural logarithm */
    double perplexity; /* its exponential */
    long tokens;       /* that were foretold: all but the first of each document */
    long documents;
} ev_perplexity;

/* Documents are read in windows of the speaker's context; each next one begins `stride` further on, and only tokens that no window had before are counted.
 * stride 0: the context, so that windows do not overlap (and the first token of each is not foretold). */
int ev_perplexity_run(rn_speaker *s, const dt_corpus *c, long stride, ev_perplexity *p, ev_talk *talk, oc_err *err);

#endif
