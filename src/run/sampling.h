/* sampling.h - from logits to the next token. */
#ifndef RN_SAMPLING_H
#define RN_SAMPLING_H

#include "engine.h"

/* Room for choosing among `vocab` tokens; one a thread. */
typedef struct rn_chooser {
    const kn_table *kn;
    long vocab;
    float *share;    /* [vocab] softmax of the logits at hand */
    int *heap;       /* [vocab] */
    unsigned *stamp; /* [vocab] when a token was last seen */
    unsigned now;
    bs_rng rng;
} rn_chooser;

int rn_chooser_open(rn_chooser *c, const kn_table *kn, long vocab, uint64_t seed, oc_err *err);
void rn_chooser_close(rn_chooser *c);
/* Divides what was seen before (multiplies where negative) by `penalty`, each token once (Keskar 2019). */
void rn_penalise(rn_chooser *c, float *logits, const int32_t *seen, size_t n, float penalty);
/* The next token: the largest at temperature 0, else drawn from what top_k, top_p (Holtzman 2020) and min_p (Nguyen 2024) leave, in this order, as
 * transformers does. *logprob is its log-probability by the model alone (after penalties, before temperature). Logits are changed. */
int32_t rn_choose(rn_chooser *c, float *logits, const oc_generation *g, double *logprob);
/* log of the sum of exp of all [vocab]. */
double rn_log_sum(rn_chooser *c, const float *logits);

#endif
