/* telling.c - see telling.h. */
#include "telling.h"

static const float UNSAID = -1;

oc_generation cl_telling_start(void)
{
    oc_generation how = oc_generation_default();
    how.max_new_tokens = 20;
    how.temperature = UNSAID;
    return how;
}

void cl_telling_end(oc_generation *how, const cl_common *common)
{
    bool draws = how->top_k > 0 || how->top_p < 1;
    if (how->temperature < 0)
        how->temperature = draws ? 1 : 0;
    how->seed = common->seed;
}

oc_generator *cl_teller_open(oc_engine *e, const char *const *prompts, int n, const oc_generation *how, int batch, oc_err *err)
{
    int context = rn_check_eye(e, err) ? 0 : rn_context_for(e, prompts, n, how->max_new_tokens, err);
    int beams = how->num_beams > 1 ? how->num_beams : 0; /* then one picture after the other */
    return context ? rn_generator_open(e, context, beams ? beams : batch, KN_KV_F32, err) : NULL;
}

int cl_check_teller(const oc_engine *e, bool asks, bool prompted, oc_err *err)
{
    bool answers = e->sizes.prompt == MD_PROMPT_READ;
    if (rn_check_eye(e, err))
        return -1;
    if (asks && !answers)
        return bs_err(err, "the model '%s' does not answer questions, it only goes on with a text: `ocelli caption --prompt TEXT`",
                      e->model->folder);
    if (!asks && answers && !prompted)
        return bs_err(err, "the model '%s' answers questions, it does not caption: `ocelli ask`, or a question by --prompt",
                      e->model->folder);
    return 0;
}

void cl_print_flat(const char *text)
{
    for (; *text; text++)
        putchar(*text == '\n' || *text == '\t' || *text == '\r' ? ' ' : *text);
}
