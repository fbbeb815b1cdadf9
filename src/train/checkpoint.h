/* checkpoint.h - everything a run needs to go on bit by bit, in one file that appears whole. */
#ifndef TR_CHECKPOINT_H
#define TR_CHECKPOINT_H

#include "optimizer.h"

/* What a task keeps from step to step beside the weights. */
typedef struct tr_kept {
    const char *name;
    float *v;
    long count;
} tr_kept;

typedef struct tr_state {
    tr_optimizer *a;
    long step;            /* steps done */
    const char *settings; /* as tr_options has it */
    const char *tier;     /* the kernels' name */
    const tr_kept *kept;
    int kept_n;
} tr_state;

/* OUT/checkpoint.safetensors; value.NAME, first.NAME, second.NAME, average.NAME, kept.NAME. */
int tr_checkpoint_write(const tr_state *s, const char *path, oc_err *err);
/* Puts all of it back and sets s->step. 1 when the tier differs (the run goes on, but not bit by bit), -1 and an error when settings or shapes do. */
int tr_checkpoint_read(tr_state *s, const char *path, oc_err *err);

#endif
