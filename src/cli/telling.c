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

const char *cl_telling_wrong(const oc_generation *how)
{
    if (how->num_beams > 1 && how->temperature > 0)
        return "a beam search takes the likeliest: no --temperature, --top-k or --top-p goes with --num-beams";
    return how->min_new_tokens > how->max_new_tokens ? "--min-new-tokens is more than --max-new-tokens" : NULL;
}

oc_generator *cl_teller_open(oc_engine *e, bool asks, const char *const *prompts, int n, const oc_generation *how, int batch,
                             oc_err *err)
{
    int context = rn_check_eye(e, err) ? 0 : rn_context_for(e, prompts, n, how->max_new_tokens, err);
    int beams = how->num_beams > 1 ? how->num_beams : 0; /* then one picture after the other */
    oc_generator_options o = {.context = context, .batch = beams ? beams : batch, .asks = asks};
    return context ? oc_generator_open_with(e, &o, err) : NULL;
}

int cl_check_teller(const oc_engine *e, bool asks, bool prompted, oc_err *err)
{
    if (rn_check_eye(e, err))
        return -1;
    if (asks && !e->sizes.answers)
        return bs_err(err,
                      "the model '%s' does not answer questions, it only goes on with a text: `ocelli caption --prompt TEXT`",
                      e->model->folder);
    if (asks && e->sizes.never_answered && !e->lora.by_id)
        return bs_err(err,
                      "the model '%s' never learned to answer questions (its config.json: answers is false): `ocelli finetune "
                      "--objectives vqa`",
                      e->model->folder);
    if (!asks && e->sizes.prompt == MD_PROMPT_READ && !prompted)
        return bs_err(err, "the model '%s' answers questions, it does not caption: `ocelli ask`, or a question by --prompt",
                      e->model->folder);
    return 0;
}

void cl_print_flat(const char *text)
{
    for (; *text; text++)
        putchar(*text == '\n' || *text == '\t' || *text == '\r' ? ' ' : *text);
}
