/* eval_captions.h - `eval caption` and `eval vqa`. */
#ifndef CL_EVAL_CAPTIONS_H
#define CL_EVAL_CAPTIONS_H

#include "naming.h"

typedef struct cl_captioning {
    const cl_command *self;
    const cl_common *common;
    const char *data, *language;
    const char *predictions; /* a file, or NULL: */
    const char *baseline, *train,
        *out; /* neighbour or embedding, the pictures that it knows, and where its captions go (may be NULL) */
} cl_captioning;

/* Both print one line. What could not be read is counted by the talk. */
int cl_eval_captions(const cl_captioning *c, cl_talk *talk, oc_err *err);
int cl_eval_answers(const cl_captioning *c, cl_talk *talk, oc_err *err);

#endif
