/* eval_captions.h - `eval caption` and `eval vqa`. */
#ifndef CL_EVAL_CAPTIONS_H
#define CL_EVAL_CAPTIONS_H

#include "naming.h"
#include "telling.h"

typedef struct cl_captioning {
    const cl_command *self;
    const cl_common *common;
    const char *data, *language;
    const char *predictions; /* a file, or NULL: */
    const char *baseline, *train; /* neighbour or embedding, and the pictures that it knows; or NULL: the common switches' model says them */
    const char *out;              /* where captions or answers go; may be NULL */
    const char *prompt;           /* of that model: a caption's beginning; may be NULL */
    const cl_texts *choices;      /* eval vqa: answers to choose from; none: any */
    const oc_generation *how;
} cl_captioning;

/* Both print one line. What could not be read is counted by the talk. */
int cl_eval_captions(const cl_captioning *c, cl_talk *talk, oc_err *err);
int cl_eval_answers(const cl_captioning *c, cl_talk *talk, oc_err *err);

#endif
