/* grounded.h - BLIP's objectives (Li 2022): what a picture and its text say of each other, any of them together.
 *
 *   itc   find your own: the cosine of picture and text against those of a slowly moving teacher, of this batch and of a queue of earlier ones; targets are softened by
 *         what the teacher itself thinks (momentum distillation, Li 2021)
 *   itm   do they belong together? each pair, each text with another picture, each picture with another text, the others drawn where the cosines are high
 *   lm    what follows? each token from those before it and the picture
 *   mlm   which words are hidden? from all other words and the picture
 *   vqa   what follows in the answer? from a question that is read while looking at the picture */
#ifndef TR_GROUNDED_H
#define TR_GROUNDED_H

#include "trainer.h"

enum { TR_ITC, TR_ITM, TR_LM, TR_MLM, TR_VQA, TR_OBJECTIVES };

typedef struct tr_grounded_options {
    float weight[TR_OBJECTIVES]; /* of each in the sum; 0: left out */
    float momentum;              /* of the teacher; 0: none, and itc within the batch alone */
    long queue;                  /* pairs that are remembered */
    float alpha;                 /* the teacher's share of the targets, reached ... */
    long ramp;                   /* ... after so many steps */
    long length;                 /* of a text, at most */
    /* Of a picture's rows where the eye learns nothing: noise, in sizes of a row, on all, and the share that is taken away, but never the first. Such an eye may know
     * the pictures that it learned from too well, and what reads its rows then fails on others. */
    float row_noise, row_drop;
    uint64_t seed;
    const char *const *prompts; /* KEY=TEXT: what texts of this language begin with, for lm, itself not learned */
    int prompts_n;
} tr_grounded_options;

/* Their names in the order above; NULL behind the last. */
extern const char *const tr_objective_names[];
/* What the model can learn, 1 << TR_ITC and so on. */
unsigned tr_grounded_can(const md_model *m);

typedef struct tr_grounded tr_grounded;
/* Fills `task`. The batch is the loader's, one text for each picture; pairs tells the languages. m must own its weights (md_own) where there is a teacher. NULL and an
 * error. */
tr_grounded *tr_grounded_open(const tr_grounded_options *o, dt_loader *loader, const dt_pairs *pairs, const tx_tokenizer *tokenizer,
                              const md_model *m, long batch, tr_task *task, oc_err *err);
void tr_grounded_close(tr_grounded *g);
/* The teacher becomes what the model is now: before the first step of a run that is not taken up. */
void tr_grounded_start(tr_grounded *g);
/* What each objective lost in the last step; NaN where it is left out. */
const double *tr_grounded_losses(const tr_grounded *g);

#endif
