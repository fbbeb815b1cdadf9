/* labels.h - things to choose from, as `classify` takes labels and `ask` answers. */
#ifndef CL_LABELS_H
#define CL_LABELS_H

#include "cli.h"

typedef struct cl_labels {
    cl_texts texts;
    bs_buf bytes; /* that they lie in */
} cl_labels;

/* What --NAME says: a file (or -) with one a line, or a list a,b,c, whose comma may be the one that Chinese is written with; two or more, all different.
 * `what` is what an error calls one of them. */
int cl_labels_read(cl_labels *l, const char *name, const char *what, const char *from, oc_err *err);
void cl_labels_clear(cl_labels *l);

#endif
