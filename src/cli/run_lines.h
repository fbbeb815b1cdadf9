/* run_lines.h - the file of a training run's JSON lines, {"step":N,...} each. */
#ifndef CL_RUN_LINES_H
#define CL_RUN_LINES_H

#include "../base/base.h"

/* Opened for adding lines, each written as soon as it is whole. NULL and an error; fclose() it. */
FILE *cl_metrics_open(const char *path, oc_err *err);
/* Takes away what a killed run wrote after its checkpoint: the lines at the end of later steps than `step`, and one that is not whole. Lines
 * before them, of other runs too, stay; what is no regular file is left alone. */
int cl_metrics_cut(const char *path, long step, oc_err *err);

#endif
