/* search_lines.h - the lines of a text file, searched by meaning. */
#ifndef CL_SEARCH_LINES_H
#define CL_SEARCH_LINES_H

#include "cli.h"

typedef struct cl_lines {
    cl_texts texts; /* as they lie in hold */
    bs_buf hold;
    long *number;  /* of each in the file, from 1 */
    float *rows;   /* [lines, width] */
    float *query;  /* [width], the caller's to fill */
    float *scores; /* [lines] */
    long *best;    /* [lines] */
} cl_lines;

/* Embeds every line that is not empty. */
int cl_lines_open(cl_lines *l, const char *path, oc_session *s, const cl_common *common, oc_err *err);
/* The `top` lines whose cosine with l->query is the largest. named: the query stands with them. */
void cl_lines_print(cl_lines *l, oc_session *s, const char *query, bool named, int top, bool json);
void cl_lines_close(cl_lines *l);

#endif
