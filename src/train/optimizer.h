/* optimizer.h - AdamW with decoupled decay, or Muon for the linear layers; warm-up and cosine, clipping, and a moving average of the weights. */
#ifndef TR_OPTIMIZER_H
#define TR_OPTIMIZER_H

#include "../model/model.h"

typedef struct tr_optimizer_options {
    float lr;           /* at the top */
    float final_lr;     /* share of lr at the last step */
    long warmup, steps; /* lr rises from 0 over warmup steps, then falls by half a cosine to the last */
    float beta1, beta2, eps, decay;
    float clip;         /* largest norm of all gradients together; 0: as they are */
    float muon_lr;      /* > 0: linear layers' weights learn by Muon (Jordan 2024) at this rate, on the same curve */
    float embedding_lr; /* factor on the rate of token embeddings and the temperature; 0: 1 */
    bool bf16;          /* Muon's products may round to bf16 */
    float ema;          /* decay of the moving average of the weights; 0: none */
} tr_optimizer_options;

typedef struct tr_optimizer {
    tr_optimizer_options o;
    md_trainables *t;      /* not owned */
    float *first, *second; /* moments, laid out as t->memory */
    float *average;        /* of the weights; NULL: none */
    float *scratch;        /* Muon's matrices */
} tr_optimizer;

int tr_optimizer_open(tr_optimizer *a, const tr_optimizer_options *o, md_trainables *t, oc_err *err);
void tr_optimizer_close(tr_optimizer *a);
/* The rate of step number `step` (from 0). */
double tr_rate(const tr_optimizer_options *o, long step);
/* Uses up the gradients: clips, updates values, average. *norm receives their norm before clipping. -1 when it is not finite: nothing is changed then. */
int tr_optimizer_step(tr_optimizer *a, kn_work *w, long step, double *norm, oc_err *err);

#endif
