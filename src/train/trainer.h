/* trainer.h - training a dual encoder, whole or by LoRA: batches in, a checkpoint that can be taken up again and a model folder out. */
#ifndef TR_TRAINER_H
#define TR_TRAINER_H

#include "../data/loader.h"
#include "optimizer.h"

typedef struct tr_report {
    long step, steps;             /* done, of */
    double loss, norm, lr, scale; /* scale: exp(logit_scale) */
    double pairs_per_s, left_s;
} tr_report;

typedef struct tr_options {
    const char *out;          /* folder of the checkpoint and of what comes out */
    int texts;                /* of a picture, as the loader gives them */
    float partners;           /* likewise */
    long batch;               /* pairs whose texts and pictures are told apart */
    long micro;               /* rows run at once, a divisor of batch; 0: batch. The loss is the whole batch's either way */
    float checkpoint_minutes; /* 0: only at the end and when stopped */
    bool export_too;          /* each checkpoint writes the model folder as well */
    bool bf16;                /* products in bf16 where the CPU has them faster; sums, weights and state stay fp32 */
    bool fresh;               /* ignore a checkpoint that is there */
    ck_dtype save_dtype;
    tr_optimizer_options optimizer;
    const char *settings; /* one line that a resumed run must agree with */
    long stop_after;      /* steps of this run; 0: all */
    int (*batch_seen)(void *arg, long step, const md_batch *b,
                      oc_err *err); /* before step number `step` (from 1); -1 ends the run. NULL: nobody looks */
    int (*resumed)(void *arg, long step, oc_err *err); /* before a run goes on after `step`; -1 ends it. NULL: nobody asks */
    void (*report)(void *arg, const tr_report *r);     /* after each step */
    void (*say)(void *arg, const char *text);
    void *arg;
} tr_options;

/* m must own its weights (md_own) unless lora is given, whose factors then learn instead. Returns 0 when all steps are done, 1 when stopped
 * by a signal or stop_after after a checkpoint, -1 and an error. */
int tr_train(md_model *m, md_lora *lora, dt_loader *loader, kn_work *work, const tr_options *o, oc_err *err);

/* One forward and backward of a batch, adding to the gradients; the loss, or NaN and an error. `arena` of tr_plan bytes; of `like` only
 * the numbers of pictures, texts and the partners' weight count. */
size_t tr_plan(const md_model *m, const md_lora *lora, md_trainables *t, const kn_table *kn, int threads, const md_batch *like,
               long micro);
double tr_gradients(const md_model *m, const md_lora *lora, md_trainables *t, kn_work *work, void *arena, size_t bytes,
                    const md_batch *b, long micro, bool bf16, float *features, oc_err *err);
/* Floats of `features` that tr_gradients wants when micro < batch. */
size_t tr_features(const md_model *m, long batch, int texts);

#endif
