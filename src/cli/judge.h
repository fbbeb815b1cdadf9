/* judge.h - hits of a search, ordered anew by a model that looks at picture and words together. */
#ifndef CL_JUDGE_H
#define CL_JUDGE_H

#include "../index/index.h"
#include "cli.h"

typedef struct cl_judge {
    const cl_command *self;
    const cl_common *common;
    oc_engine *engine;
    oc_session *session;
    tx_ids ids; /* the query's */
    float *together; /* [hits] the probability of each hit, in the hits' order; negative: its picture could not be read */
    int failed;
} cl_judge;

enum { CL_JUDGED = 100 }; /* hits, where nothing is said */

/* common's switches but for its model and adapter hold for this model too. */
int cl_judge_open(cl_judge *j, const cl_command *self, const cl_common *common, const char *model, int most, oc_err *err);
void cl_judge_close(cl_judge *j);
/* Orders the first `most` hits by j->together, best first. A picture that cannot be read is told, and stands behind the others. */
int cl_judge_hits(cl_judge *j, const char *root, const char *query, ix_hits *hits, int most, oc_err *err);

#endif
