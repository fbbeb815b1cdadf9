/* beams.c - beam search as transformers runs it: of the best 2 (or 1 + end tokens) times num_beams continuations those that end are kept by score, the best
 * others go on. Beams share the pages of what they have in common. */
#include "generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double NEVER = -1e9;

typedef struct beam {
    int sequence; /* -1: none */
    tx_ids ids;   /* new ones */
    double sum;   /* of log-probabilities; NEVER: no beam yet */
} beam;

typedef struct finished {
    tx_ids ids;
    double sum, score;
    bool real, ended;
} finished;

typedef struct candidate {
    double sum;
    int beam;
    int32_t id;
} candidate;

typedef struct search {
    oc_generator *g;
    const oc_generation *how;
    tx_ids *prompt;
    const float *pixels; /* that it is about; NULL */
    int memory;      /* that all beams look at; -1: none */
    int beams, wide; /* candidates of a step */
    long most;       /* new tokens */
    beam *run, *next;
    finished *end;
    candidate *best; /* [wide], falling */
    int candidates;
    tx_ids *all; /* [beams] the prompt with what followed, where all of it is needed */
    int *at;     /* which beam a feed is of */
    oc_err *err;
    bool failed;
} search;

/* Equal sums: the smaller beam, the smaller id, as in the order of a flat list. */
static void offer(search *s, candidate c)
{
    int i = s->candidates;
    if (i == s->wide && !(c.sum > s->best[i - 1].sum))
        return;
    if (i < s->wide)
        s->candidates++;
    else
        i--;
    for (; i > 0 && c.sum > s->best[i - 1].sum; i--)
        s->best[i] = s->best[i - 1];
    s->best[i] = c;
}

/* Prompt and beam, one behind the other. */
static int whole(const search *s, const beam *b, tx_ids *to)
{
    to->n = 0;
    for (size_t i = 0; i < s->prompt->n + b->ids.n; i++)
        if (tx_ids_put(to, i < s->prompt->n ? s->prompt->p[i] : b->ids.p[i - s->prompt->n], s->err))
            return -1;
    return 0;
}

static void hear(void *arg, int feed, long index, float *logits)
{
    (void)index;
    search *s = arg;
    const beam *b = &s->run[s->at[feed]];
    rn_chooser *c = &s->g->chooser[0];
    double log_sum = rn_log_sum(c, logits);
    for (long i = 0; i < c->vocab; i++)
        logits[i] = (float)((double)logits[i] - log_sum);
    if (s->how->repetition_penalty != 1) {
        tx_ids *all = &s->all[s->at[feed]];
        s->failed |= whole(s, b, all) != 0;
        rn_penalise(c, logits, all->p, all->n, s->how->repetition_penalty);
    }
    if ((long)b->ids.n < s->how->min_new_tokens)
        rn_forbid_end(&s->g->speaker, logits);
    for (long i = 0; i < c->vocab; i++)
        offer(s, (candidate){b->sum + (double)logits[i], s->at[feed], (int32_t)i});
}

static int copy(tx_ids *to, const tx_ids *from, int32_t id, oc_err *err)
{
    to->n = 0;
    for (size_t i = 0; i < from->n; i++)
        if (tx_ids_put(to, from->p[i], err))
            return -1;
    return tx_ids_put(to, id, err);
}

/* A text that is done takes the place of the worst, if it is better. */
static int finish(search *s, const candidate *c, bool ended)
{
    double length = (double)s->run[c->beam].ids.n + 1, score = c->sum / pow(length, (double)s->how->length_penalty);
    if (score <= s->end[s->beams - 1].score)
        return 0;
    finished *last = &s->end[s->beams - 1];
    int i = s->beams - 1;
    if (copy(&last->ids, &s->run[c->beam].ids, c->id, s->err))
        return -1;
    tx_ids ids = last->ids;
    for (; i > 0 && score > s->end[i - 1].score; i--)
        s->end[i] = s->end[i - 1];
    s->end[i] = (finished){ids, c->sum, score, true, ended};
    return 0;
}

static bool is_full(const search *s)
{
    int n = 0;
    while (n < s->beams && s->end[n].real)
        n++;
    return n == s->beams;
}

/* Candidate c goes on as beam n of the next step. */
static int go_on(search *s, const candidate *c, int n)
{
    const beam *from = &s->run[c->beam];
    beam *to = &s->next[n];
    to->sum = c->sum;
    to->sequence =
        tn_sequence_fork(s->g->speaker.cache, from->sequence, tn_sequence_length(s->g->speaker.cache, from->sequence), s->err);
    return to->sequence < 0 ? -1 : copy(&to->ids, &from->ids, c->id, s->err);
}

static void close_beams(search *s, beam *b)
{
    for (int i = 0; i < s->beams; i++) {
        if (b[i].sequence >= 0)
            tn_sequence_close(s->g->speaker.cache, b[i].sequence);
        b[i].sequence = -1;
    }
}

/* Ends and continuations; *more: is a further step worth while? */
static int choose(search *s, bool *more)
{
    int n = 0;
    bool last = (long)s->run[0].ids.n + 1 >= s->most, all_end = true, closed = is_full(s) && s->how->early_stopping;
    for (int i = 0; i < s->candidates; i++) {
        const candidate *c = &s->best[i];
        bool ended = rn_ends(&s->g->speaker, c->id), done = ended || last;
        all_end &= done;
        if (done && i < s->beams && !closed && finish(s, c, ended))
            return -1;
        if (!done && n < s->beams && go_on(s, c, n++))
            return -1;
    }
    close_beams(s, s->run);
    beam *t = s->run;
    s->run = s->next;
    s->next = t;
    for (int i = n; i < s->beams; i++)
        s->run[i].sum = NEVER;
    bool full = is_full(s);
    double length = n ? (double)s->run[0].ids.n : 1,
           possible = n ? s->run[0].sum / pow(length, (double)s->how->length_penalty) : NEVER;
    bool better = !full || possible > s->end[s->beams - 1].score;
    *more = n && better && !all_end && !(full && s->how->early_stopping);
    return 0;
}

static int step(search *s, const rn_feed *feed, int n, bool *more)
{
    s->candidates = 0;
    if (rn_run_feeds(&s->g->speaker, feed, n, hear, s, s->err) || s->failed)
        return -1;
    return choose(s, more);
}

/* The newest token of beam i, or all of it where nothing that was computed holds any longer. */
static int feed_beam(search *s, int i, rn_feed *to)
{
    const beam *b = &s->run[i];
    long n = (long)(s->prompt->n + b->ids.n);
    *to = (rn_feed){b->sequence, b->ids.p + b->ids.n - 1, 1, 1, s->memory};
    if (rn_still(&s->g->speaker, b->sequence, n) == n - 1)
        return 0;
    if (whole(s, b, &s->all[i]))
        return -1;
    *to = (rn_feed){b->sequence, s->all[i].p, n, 1, s->memory};
    return 0;
}

static int run(search *s, rn_feed *feed)
{
    long have = 0;
    bool more = true;
    s->run[0] = (beam){.sequence = rn_start(s->g, s->prompt, s->pixels, &s->memory, &have, s->err)};
    if (s->run[0].sequence < 0)
        return -1;
    s->at[0] = 0;
    feed[0] = (rn_feed){s->run[0].sequence, s->prompt->p + have, (long)s->prompt->n - have, 1, s->memory};
    if (step(s, feed, 1, &more))
        return -1;
    while (more) {
        int n = 0;
        for (int i = 0; i < s->beams; i++)
            if (s->run[i].sequence >= 0) {
                if (feed_beam(s, i, &feed[n]))
                    return -1;
                s->at[n++] = i;
            }
        if (step(s, feed, n, &more))
            return -1;
    }
    return 0;
}

static int open_search(search *s)
{
    size_t n = (size_t)s->beams;
    s->run = bs_calloc(n, sizeof *s->run, "beams", s->err);
    s->next = bs_calloc(n, sizeof *s->next, "beams", s->err);
    s->end = bs_calloc(n, sizeof *s->end, "beams", s->err);
    s->best = bs_calloc((size_t)s->wide, sizeof *s->best, "beams", s->err);
    s->at = bs_calloc(n, sizeof *s->at, "beams", s->err);
    s->all = bs_calloc(n, sizeof *s->all, "beams", s->err);
    if (!s->run || !s->next || !s->end || !s->best || !s->at || !s->all)
        return -1;
    for (int i = 0; i < s->beams; i++) {
        s->run[i] = s->next[i] = (beam){.sequence = -1, .sum = NEVER};
        s->end[i] = (finished){.score = NEVER};
    }
    return 0;
}

static void close_search(search *s)
{
    for (int i = 0; i < s->beams; i++) {
        if (s->end)
            tx_ids_clear(&s->end[i].ids);
        if (s->run && s->next) {
            tx_ids_clear(&s->run[i].ids);
            tx_ids_clear(&s->next[i].ids);
        }
        if (s->all)
            tx_ids_clear(&s->all[i]);
    }
    if (s->run && s->next) {
        close_beams(s, s->run);
        close_beams(s, s->next);
    }
    if (s->memory >= 0)
        tn_sequence_close(s->g->speaker.memory, s->memory);
    bs_free(s->run);
    bs_free(s->next);
    bs_free(s->end);
    bs_free(s->best);
    bs_free(s->at);
    bs_free(s->all);
}

int rn_beam_search(oc_generator *g, tx_ids *prompt, const float *pixels, const oc_generation *how, tx_ids *best, double *logprob, bool *ended,
                   oc_err *err)
{
    rn_speaker *k = &g->speaker;
    search s = {.g = g, .how = how, .prompt = prompt, .pixels = pixels, .memory = -1, .beams = how->num_beams, .err = err};
    bool read = k->reads; /* then the answer begins with one token */
    long room = k->context - (read ? 1 : (long)prompt->n);
    s.most = how->max_new_tokens < room ? how->max_new_tokens : room;
    s.wide = (k->eos_n > 1 ? 1 + k->eos_n : 2) * s.beams;
    rn_feed *feed = bs_calloc((size_t)s.beams, sizeof *feed, "beams", err);
    int result = feed && !open_search(&s) ? run(&s, feed) : -1;
    if (!result) {
        *best = s.end[0].ids;
        *logprob = s.end[0].sum;
        *ended = s.end[0].ended;
        s.end[0].ids = (tx_ids){0};
    }
    close_search(&s);
    bs_free(feed);
    return result;
}
