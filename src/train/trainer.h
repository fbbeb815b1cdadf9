/* trainer.h - training a model, whole or by LoRA: batches in, a checkpoint that can be taken up again and a model folder out. What a batch is and what its
 * loss is a task says: pairs of pictures and texts that are told apart (contrastive.c) or say something of each other (grounded.c),
 * texts that are gone on with (next_token.c) or that mean the same (ranking.c). */
#ifndef TR_TRAINER_H
#define TR_TRAINER_H

#include "../data/corpus.h"
#include "../data/loader.h"
#include "../data/sentences.h"
#include "../model/reading.h"
#include "checkpoint.h"
#include "optimizer.h"

/* What a forward and backward run on. */
typedef struct tr_pass {
    const md_model *m;
    const md_lora *lora; /* NULL: whole weights learn */
    md_trainables *t;
    kn_work *work; /* NULL while planning */
    void *arena;
    size_t bytes;
    bool bf16;
} tr_pass;

/* tr_pass's context: begun over its arena, or counting. */
void tr_begin(const tr_pass *p, tn_ctx *cx, bool train);
void tr_begin_plan(const tr_pass *p, const kn_table *kn, int threads, tn_ctx *cx, bool train);

/* b's texts embedded, rows of length 1 [texts, width]. None is filled up, where the model allows it; u, with room for them, lives as long as the tape. */
tn_t tr_embed_texts(tn_ctx *cx, const md_model *m, md_unfilled *u, const md_batch *b);

/* Fails where a batch has no others that one could be told apart from. */
int tr_check_others(long batch, oc_err *err);

/* The loss, or NaN and an error when something failed or it is not finite. */
double tr_checked(const tr_pass *p, const tn_ctx *cx, double loss, oc_err *err);

typedef struct tr_task {
    void *arg;
    const char *unit; /* "pairs", "tokens" */
    long units;       /* of a step */
    /* Batch number `step`, the task's own until the next; NULL and an error. */
    const md_batch *(*next)(void *arg, long step, bs_pool *pool, oc_err *err);
    /* Bytes of the arena for a step. */
    size_t (*plan)(void *arg, const tr_pass *p, const kn_table *kn, int threads);
    /* One forward and backward, adding to the gradients; the loss, or NaN and an error. */
    double (*gradients)(void *arg, const tr_pass *p, const md_batch *b, oc_err *err);
    const tr_kept *kept; /* goes into checkpoints with the weights */
    int kept_n;
} tr_task;

/* Pairs that are told apart: InfoNCE or what the family says. Of `batch` pictures with `texts` texts each, `micro` run at once (0: all), the loss being the whole
 * batch's either way. */
typedef struct tr_contrastive {
    dt_loader *loader;
    const md_model *m;
    long batch, micro;
    int texts;
    float partners;
    float *features;      /* own */
    md_unfilled unfilled; /* the texts that run */
} tr_contrastive;
/* Fills `task`; c and the loader must live as long. */
int tr_contrastive_open(tr_contrastive *c, dt_loader *loader, const md_model *m, long batch, long micro, int texts,
                        float partners, tr_task *task, oc_err *err);
void tr_contrastive_close(tr_contrastive *c);

/* Rows of text whose next tokens are told: cross-entropy, the mean over all tokens of the batch, `micro` rows at once (0: all). */
typedef struct tr_next_token {
    dt_rows *rows;
    long micro;
} tr_next_token;
int tr_next_token_open(tr_next_token *n, dt_rows *rows, long micro, tr_task *task, oc_err *err);

/* Texts that mean the same find each other by their cosine over the temperature. */
typedef struct tr_ranking {
    dt_anchors *lines;
    float temperature;
    md_unfilled unfilled; /* the texts that run */
} tr_ranking;
/* A model of texts alone, which embeds them and says nothing. */
bool tr_ranking_can(const md_model *m);
int tr_ranking_open(tr_ranking *t, dt_anchors *lines, float temperature, tr_task *task, oc_err *err);
void tr_ranking_close(tr_ranking *t);

typedef struct tr_report {
    long step, steps;             /* done, of */
    double loss, norm, lr, scale; /* scale: exp(logit_scale) */
    double per_s, left_s;         /* units a second */
} tr_report;

typedef struct tr_options {
    const char *out;          /* folder of the checkpoint and of what comes out */
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
int tr_train(md_model *m, md_lora *lora, const tr_task *task, kn_work *work, const tr_options *o, oc_err *err);

#endif
