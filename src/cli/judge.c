/* judge.c - see judge.h. */
#include "judge.h"

#include <stdlib.h>
#include <string.h>

#include "../run/match.h"

int cl_judge_open(cl_judge *j, const cl_command *self, const cl_common *common, const char *model, int most, oc_err *err)
{
    enum { BATCH = 8 };
    cl_common own = *common;
    *j = (cl_judge){.self = self, .common = common};
    own.model = model;
    own.lora = NULL;
    own.batch = own.batch ? own.batch : BATCH;
    j->engine = cl_open(&own, err);
    if (j->engine && !oc_can_match(j->engine))
        return bs_err(err, "--rerank: the model '%s' (%s) has no head that matches a picture with a text", model, oc_family(j->engine));
    j->session = j->engine ? oc_session_open(j->engine, err) : NULL;
    j->together = j->session ? bs_alloc((size_t)most * sizeof *j->together, "scores", err) : NULL;
    return j->together ? 0 : -1;
}

void cl_judge_close(cl_judge *j)
{
    tx_ids_clear(&j->ids);
    bs_free(j->together);
    oc_session_close(j->session);
    oc_engine_close(j->engine);
    *j = (cl_judge){0};
}

/* Of n hits from `at` on. */
static int judge_batch(cl_judge *j, const char *root, const ix_hits *hits, int at, int n, char **paths, oc_err *errors, float *logits,
                       oc_err *err)
{
    for (int i = 0; i < n; i++)
        if (!(paths[i] = bs_join(root, hits->p[at + i].path)))
            return bs_err(err, "out of memory: a picture's path");
    if (rn_match_files(j->session, (const char *const *)paths, n, &j->ids, logits, errors, err))
        return -1;
    for (int i = 0; i < n; i++)
        j->together[at + i] = errors[i].text[0] ? -1 : rn_together(logits + 2 * i);
    return 0;
}

static void tell(cl_judge *j, const oc_err *errors, int n)
{
    for (int i = 0; i < n; i++)
        if (errors[i].text[0]) {
            j->failed++;
            cl_fail(j->self, &errors[i]);
        }
}

static int judge_all(cl_judge *j, const char *root, const ix_hits *hits, int n, oc_err *err)
{
    int batch = j->engine->options.max_batch, result = 0;
    char **paths = bs_calloc((size_t)batch, sizeof *paths, "a batch of pictures", err);
    oc_err *errors = paths ? bs_calloc((size_t)batch, sizeof *errors, "a batch of pictures", err) : NULL;
    float *logits = errors ? bs_alloc(2 * (size_t)batch * sizeof *logits, "a batch of pictures", err) : NULL;
    cl_progress progress;
    cl_progress_start(&progress, j->common, "judging");
    for (int at = 0; logits && !result && at < n; at += batch) {
        int part = n - at < batch ? n - at : batch;
        result = judge_batch(j, root, hits, at, part, paths, errors, logits, err);
        cl_progress_end(&progress);
        if (!result)
            tell(j, errors, part);
        for (int i = 0; i < part; i++) {
            free(paths[i]);
            paths[i] = NULL;
        }
        cl_progress_show(&progress, at + part, n);
    }
    cl_progress_end(&progress);
    result = logits ? result : -1;
    bs_free(logits);
    bs_free(errors);
    bs_free(paths);
    return result;
}

/* Equal ones stay as the cosines put them. */
static void put_in_order(const cl_judge *j, ix_hits *hits, int n)
{
    for (int i = 1; i < n; i++) {
        ix_hit hit = hits->p[i];
        float together = j->together[i];
        int k = i;
        for (; k > 0 && together > j->together[k - 1]; k--) {
            hits->p[k] = hits->p[k - 1];
            j->together[k] = j->together[k - 1];
        }
        hits->p[k] = hit;
        j->together[k] = together;
    }
}

int cl_judge_hits(cl_judge *j, const char *root, const char *query, ix_hits *hits, int most, oc_err *err)
{
    int n = hits->n < most ? hits->n : most, cut = 0;
    if (rn_encode_pair(j->engine, query, &j->ids, &cut, err) || judge_all(j, root, hits, n, err))
        return -1;
    put_in_order(j, hits, n);
    return 0;
}
