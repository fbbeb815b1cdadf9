/* branches.h - the ops that look at sequences, in a context with branches (tensor.h): ops.h's own names come here. What learns shares nothing, and its
 * branches must live as long as the tape, as places that are given do. Inside tensor/ only. */
#ifndef TN_BRANCHES_H
#define TN_BRANCHES_H

#include "ops.h"

/* k, v [1, R, ..]; q of all rows, or one of each sequence, which sees all of it or, with last_key, so far. */
tn_t tn_branches_attention(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *args);
tn_t tn_branches_add_positions(tn_ctx *cx, tn_t x, const tn_param *table);
/* Position index[i] of sequence i (NULL: the first): [n, D]. */
tn_t tn_branches_select(tn_ctx *cx, tn_t x, const int *index);
/* For an op that takes each sequence's rows as they lie in x, from branch[i].row[0] on: whether they do, or an error. */
bool tn_branches_lie_together(tn_ctx *cx, const char *op, tn_t x);
/* Of an op that depends on places and knows nothing of branches: whether the context has some, which is an error. */
bool tn_branches_refused(tn_ctx *cx, const char *op);

#endif
