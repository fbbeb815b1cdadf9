/* objective_options.c - see objective_options.h. */
#include "objective_options.h"

#include <stdlib.h>
#include <string.h>

enum { PAPERS_QUEUE = 57600 };

cl_objectives cl_objectives_default(void)
{
    return (cl_objectives){.momentum = 0.995f, .alpha = 0.4f, .queue = -1, .length = 30};
}

static int number_of(const char *name, size_t n)
{
    for (int i = 0; i < TR_OBJECTIVES; i++)
        if (strlen(tr_objective_names[i]) == n && !strncmp(name, tr_objective_names[i], n))
            return i;
    return -1;
}

/* "itc,itm=0.5,lm" */
static int read_list(const char *list, float *weight, oc_err *err)
{
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ","), name = strcspn(at, ",=");
        int i = number_of(at, name);
        char *end = (char *)(uintptr_t)(at + n);
        float value = name < n ? strtof(at + name + 1, &end) : 1;
        if (i < 0 || end != at + n || !(value >= 0) || value > 1e6f || (name < n && name + 1 == n))
            return bs_err(err, "--objectives: '%.*s', expected itc, itm, lm, mlm or vqa, with =WEIGHT where it is not 1", (int)n,
                          at);
        weight[i] = value;
        at += n + (at[n] == ',');
    }
    return 0;
}

const char *cl_objectives_given(const cl_objectives *c)
{
    cl_objectives none = cl_objectives_default();
    const struct {
        const char *name;
        bool given;
    } all[] = {{"objectives", c->list != NULL},
               {"momentum", c->momentum < none.momentum || c->momentum > none.momentum},
               {"queue", c->queue != none.queue},
               {"itc-alpha", c->alpha < none.alpha || c->alpha > none.alpha},
               {"text-length", c->length != none.length},
               {"row-noise", c->row_noise > 0},
               {"row-drop", c->row_drop > 0},
               {"prompt", c->prompts.n > 0}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].given)
            return all[i].name;
    return NULL;
}

int cl_objectives_check(const cl_objectives *c, oc_err *err)
{
    float weight[TR_OBJECTIVES] = {0};
    return c->list ? read_list(c->list, weight, err) : 0;
}

/* What pre-training is made of; of a model with none of its parts, answers. */
static void choose(const md_model *m, float *weight)
{
    unsigned can = tr_grounded_can(m);
    bool any = false;
    for (int i = 0; i <= TR_LM; i++)
        any |= (weight[i] = (can >> i) & 1) != 0;
    weight[TR_VQA] = !any && (can >> TR_VQA) & 1;
}

int cl_objectives_read(const cl_objectives *c, const md_model *m, long pairs, long batch, uint64_t seed, bool adapter,
                       tr_grounded_options *o, oc_err *err)
{
    long most = (pairs / batch - 1) * batch;
    *o = (tr_grounded_options){.momentum = adapter ? 0 : c->momentum,
                               .queue = c->queue >= 0         ? c->queue
                                        : most < 0            ? 0
                                        : most < PAPERS_QUEUE ? most
                                                              : PAPERS_QUEUE,
                               .alpha = c->alpha,
                               .ramp = 2 * ((pairs + batch - 1) / batch),
                               .length = c->length,
                               .row_noise = c->row_noise,
                               .row_drop = c->row_drop,
                               .seed = seed,
                               .prompts = c->prompts.p,
                               .prompts_n = c->prompts.n};
    if (adapter && c->queue > 0)
        return bs_err(err, "--queue is %d, expected none: an adapter learns without a teacher (finetune --full has one)",
                      c->queue);
    if (o->queue % batch)
        return bs_err(err, "--queue is %ld, expected a multiple of the batch of %ld", o->queue, batch);
    if (c->list)
        return read_list(c->list, o->weight, err);
    choose(m, o->weight);
    return 0;
}

int cl_objectives_say(const cl_objectives *c, bs_buf *to, oc_err *err)
{
    int result = bs_buf_printf(to, err, " objectives %s momentum %g alpha %g queue %d length %d", c->list ? c->list : "all",
                               (double)c->momentum, (double)c->alpha, c->queue, c->length);
    if (!result && (c->row_noise > 0 || c->row_drop > 0))
        result = bs_buf_printf(to, err, " rows %g %g", (double)c->row_noise, (double)c->row_drop);
    for (int i = 0; !result && i < c->prompts.n; i++)
        result = bs_buf_printf(to, err, " prompt %s", c->prompts.p[i]);
    return result;
}
