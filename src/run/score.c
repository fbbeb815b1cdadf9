/* score.c - how likely are answers that are given? */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

/* An answer behind what it begins with. */
typedef struct given {
    tx_ids ids;
    size_t begins; /* of them are no part of the answer */
    long fed;      /* of them were in the sequence before */
    int sequence;  /* -1: none */
    double sum;    /* of log-probabilities */
} given;

typedef struct scoring {
    given *given;
    rn_chooser *chooser;
} scoring;

static void score_next(void *arg, int feed, long index, float *logits)
{
    scoring *s = arg;
    given *a = &s->given[feed];
    int32_t next = a->ids.p[a->fed + index + 1];
    a->sum += (double)logits[next] - rn_log_sum(s->chooser, logits);
}

static int put_answer(const oc_generator *g, given *a, const char *answer, bool whole, oc_err *err)
{
    const rn_speaker *s = &g->speaker;
    a->begins = a->ids.n;
    if (tx_encode(g->tokenizer, answer, strlen(answer), false, &a->ids, err) ||
        (whole && s->eos_n && tx_ids_put(&a->ids, s->eos[0], err)) || rn_check_ids(s->engine->model, &a->ids, err))
        return -1;
    return (long)a->ids.n <= s->context ? 0
                                        : bs_err(err, "prompt and answer have %zu tokens, the context is %ld", a->ids.n, s->context);
}

/* Behind the last id nothing is asked; an answer without ids asks nothing at all. */
static rn_feed feed_of(const given *a, int memory)
{
    long n = (long)a->ids.n - a->fed - 1;
    return (rn_feed){a->sequence, a->ids.p + a->fed, n > 0 ? n : 1, (long)(a->ids.n - a->begins), memory};
}

/* ---- a decoder alone: prompts that begin alike share what is kept -------------------------------------------------- */

static int score_alone(oc_generator *g, const rn_prompt *prompt, const char *answer, bool whole, double *logprob, int *tokens,
                       oc_err *err)
{
    rn_speaker *s = &g->speaker;
    given a = {.sequence = -1};
    int memory, result = -1;
    if (rn_encode_prompt(g, prompt->text, false, &a.ids, err) ||
        (a.sequence = rn_start(g, &a.ids, prompt->pixels, &memory, &a.fed, err)) < 0 || put_answer(g, &a, answer, whole, err))
        goto done;
    scoring k = {&a, &g->chooser[0]};
    rn_feed feed = feed_of(&a, memory);
    result = rn_run_feeds(s, &feed, 1, score_next, &k, err);
    *logprob = a.sum;
    if (tokens)
        *tokens = (int)(a.ids.n - a.begins);
    a.ids.n = result ? 0 : (size_t)tn_sequence_length(s->cache, a.sequence);
    if (a.ids.n) { /* what a pass that failed left there is not to be read */
        rn_keep(s, a.sequence, &a.ids);
        a.sequence = -1;
    }
done:
    if (a.sequence >= 0)
        tn_sequence_close(s->cache, a.sequence);
    tx_ids_clear(&a.ids);
    return result;
}

/* ---- a decoder that looks at what is remembered ----------------------------------------------------------------------- */

static int begin_answer(oc_generator *g, given *a, const tx_ids *beginning, const char *answer, bool whole, oc_err *err)
{
    *a = (given){.sequence = tn_sequence_open(g->speaker.cache, err)};
    if (a->sequence < 0)
        return -1;
    for (size_t i = 0; i < beginning->n; i++)
        if (tx_ids_put(&a->ids, beginning->p[i], err))
            return -1;
    return put_answer(g, a, answer, whole, err);
}

/* As many as the generator takes at the same time. */
static int score_some(oc_generator *g, const tx_ids *beginning, int memory, given *a, rn_feed *feed, const char *const *answers, int n,
                      bool whole, oc_err *err)
{
    scoring k = {a, &g->chooser[0]};
    for (int i = 0; i < n; i++)
        a[i] = (given){.sequence = -1};
    for (int i = 0; i < n; i++) {
        if (begin_answer(g, &a[i], beginning, answers[i], whole, err))
            return -1;
        feed[i] = feed_of(&a[i], memory);
    }
    return rn_run_feeds(&g->speaker, feed, n, score_next, &k, err);
}

static void end_some(oc_generator *g, given *a, int n, double *logprob, int *tokens)
{
    for (int i = 0; i < n; i++) {
        logprob[i] = a[i].sum;
        if (tokens)
            tokens[i] = (int)(a[i].ids.n - a[i].begins);
        if (a[i].sequence >= 0)
            tn_sequence_close(g->speaker.cache, a[i].sequence);
        tx_ids_clear(&a[i].ids);
    }
}

static int score_about(oc_generator *g, const rn_prompt *prompt, const char *const *answers, int n, bool whole, double *logprob,
                       int *tokens, oc_err *err)
{
    rn_speaker *s = &g->speaker;
    tx_ids beginning = {0};
    int memory = -1, sequence = -1, result = -1;
    long have;
    given *a = bs_calloc((size_t)g->batch, sizeof *a, "answers", err);
    rn_feed *feed = a ? bs_calloc((size_t)g->batch, sizeof *feed, "answers", err) : NULL;
    if (!feed || rn_encode_prompt(g, prompt->text, false, &beginning, err))
        goto done;
    sequence = rn_start(g, &beginning, prompt->pixels, &memory, &have, err);
    result = sequence < 0 ? -1 : 0;
    if (sequence >= 0) /* each answer has its own */
        tn_sequence_close(s->cache, sequence);
    for (int at = 0; !result && at < n; at += g->batch) {
        int part = n - at < g->batch ? n - at : g->batch;
        result = score_some(g, &beginning, memory, a, feed, answers + at, part, whole, err);
        end_some(g, a, part, logprob + at, tokens ? tokens + at : NULL);
    }
done:
    if (memory >= 0)
        tn_sequence_close(s->memory, memory);
    tx_ids_clear(&beginning);
    bs_free(feed);
    bs_free(a);
    return result;
}

/* ---- both --------------------------------------------------------------------------------------------------------------- */

int rn_score_all(oc_generator *g, const rn_prompt *prompt, const char *const *answers, int n, bool whole, double *logprob, int *tokens,
                 oc_err *err)
{
    if (g->speaker.memory)
        return score_about(g, prompt, answers, n, whole, logprob, tokens, err);
    for (int i = 0; i < n; i++)
        if (score_alone(g, prompt, answers[i], whole, &logprob[i], tokens ? &tokens[i] : NULL, err))
            return -1;
    return 0;
}

int rn_score(oc_generator *g, const rn_prompt *prompt, const char *answer, bool whole, double *logprob, int *tokens, oc_err *err)
{
    return rn_score_all(g, prompt, &answer, 1, whole, logprob, tokens, err);
}

int oc_score(oc_generator *g, const char *prompt, const char *answer, double *logprob, int *tokens, oc_err *err)
{
    return rn_score(g, &(rn_prompt){prompt, NULL, 0}, answer, false, logprob, tokens, err);
}
