/* teller.c - see teller.h. */
#include "teller.h"

#include <string.h>

static void refuse(const ev_teller *t, const oc_err *why)
{
    t->talk->failed++;
    if (t->talk->refused)
        t->talk->refused(t->talk->arg, why->text);
}

static int tell(ev_teller *t, const char *const *paths, const char *const *prompts, int n, char **texts, oc_err *errors, oc_err *err)
{
    oc_answer *answers = bs_calloc((size_t)n, sizeof *answers, "texts", err);
    int result = answers ? rn_tell_files(t->generator, paths, prompts, n, t->first, t->how, answers, errors, err) : -1;
    for (int i = 0; answers && i < n; i++) {
        if (!result && !errors[i].text[0] && !(texts[i] = bs_strdup(answers[i].text)))
            result = bs_err(err, "out of memory: a text");
        oc_answer_clear(&answers[i]);
    }
    t->first += n;
    bs_free(answers);
    return result;
}

static int choose(ev_teller *t, const rn_prompt *prompt, double *logprob, char **text, oc_err *err)
{
    int best = 0;
    if (rn_score_all(t->generator, prompt, t->choices, t->choices_n, true, logprob, NULL, err))
        return -1;
    for (int i = 1; i < t->choices_n; i++)
        best = logprob[i] > logprob[best] ? i : best;
    *text = bs_strdup(t->choices[best]);
    return *text ? 0 : bs_err(err, "out of memory: an answer");
}

static int choose_all(ev_teller *t, const char *const *paths, const char *const *prompts, int n, char **texts, oc_err *errors, oc_err *err)
{
    const md_sizes *z = &t->generator->speaker.engine->sizes;
    size_t each = (size_t)(z->channels * z->image_size * z->image_size);
    double *logprob = bs_alloc((size_t)t->choices_n * sizeof *logprob, "answers", err);
    float *pixels = logprob ? rn_load_pictures(t->generator, paths, n, errors, err) : NULL;
    int result = pixels ? 0 : -1;
    for (int i = 0; !result && i < n; i++)
        if (!errors[i].text[0])
            result = choose(t, &(rn_prompt){prompts[i], pixels + (size_t)i * each, 0}, logprob, &texts[i], err);
    bs_free(pixels);
    bs_free(logprob);
    return result;
}

static int say(ev_teller *t, const char *const *paths, const char *const *prompts, int n, char **texts, oc_err *err)
{
    oc_err *errors = bs_calloc((size_t)n, sizeof *errors, "texts", err);
    int result = !errors      ? -1
                 : t->choices ? choose_all(t, paths, prompts, n, texts, errors, err)
                              : tell(t, paths, prompts, n, texts, errors, err);
    for (int i = 0; !result && i < n; i++)
        if (errors[i].text[0])
            refuse(t, &errors[i]);
    bs_free(errors);
    return result;
}

int ev_teller_caption(void *arg, const char *const *paths, int n, char **texts, oc_err *err)
{
    ev_teller *t = arg;
    const char **prompts = bs_alloc((size_t)n * sizeof *prompts, "texts", err);
    for (int i = 0; prompts && i < n; i++)
        prompts[i] = t->prompt;
    int result = prompts ? say(t, paths, prompts, n, texts, err) : -1;
    bs_free(prompts);
    return result;
}

int ev_teller_answer(ev_teller *t, ev_asked *asked, long n, int batch, oc_err *err)
{
    const char **paths = bs_alloc(2 * (size_t)batch * sizeof *paths, "a batch of questions", err);
    const char **prompts = paths ? paths + batch : NULL;
    char **texts = paths ? bs_alloc((size_t)batch * sizeof *texts, "a batch of questions", err) : NULL;
    int result = texts ? 0 : -1;
    for (long at = 0; !result && at < n; at += batch) {
        int part = (int)(n - at < batch ? n - at : batch);
        for (int i = 0; i < part; i++) {
            paths[i] = asked[at + i].image;
            prompts[i] = asked[at + i].question;
            texts[i] = NULL;
        }
        result = say(t, paths, prompts, part, texts, err);
        for (int i = 0; i < part; i++)
            asked[at + i].said = texts[i];
        if (t->talk->progress)
            t->talk->progress(t->talk->arg, "answers", at + part, n);
    }
    bs_free(texts);
    bs_free(paths);
    return result;
}
