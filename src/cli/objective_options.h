/* objective_options.h - what train and finetune are told of a model's objectives over pictures and texts (grounded.h). */
#ifndef CL_OBJECTIVE_OPTIONS_H
#define CL_OBJECTIVE_OPTIONS_H

#include "../train/grounded.h"
#include "cli.h"

typedef struct cl_objectives {
    const char *list; /* NAME or NAME=WEIGHT by commas; NULL: all that the model can learn, but mlm and vqa only where it can nothing else */
    float momentum, alpha, row_noise, row_drop;
    int queue, length; /* queue -1: as long as the data allows */
    cl_texts prompts;
} cl_objectives;

cl_objectives cl_objectives_default(void);
/* The first of these switches that was given, without dashes; NULL: none was. */
const char *cl_objectives_given(const cl_objectives *c);
/* Is the list one? What can be told before there is a model. */
int cl_objectives_check(const cl_objectives *c, oc_err *err);
/* Of a run over `pairs` pairs by `batch`; adapter: factors learn, which no teacher follows. */
int cl_objectives_read(const cl_objectives *c, const md_model *m, long pairs, long batch, uint64_t seed, bool adapter,
                       tr_grounded_options *o, oc_err *err);
/* Adds what was asked for to a run's settings. */
int cl_objectives_say(const cl_objectives *c, bs_buf *to, oc_err *err);

#endif
