/* generate.c - prompts in a batch, each going on until it ends; a prompt that waits takes the place of one that is done. */
#include "generate.h"
#include "match.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

oc_generation oc_generation_default(void)
{
    return (oc_generation){.max_new_tokens = 256, .top_p = 1, .repetition_penalty = 1, .num_beams = 1, .length_penalty = 1};
}

void oc_answer_clear(oc_answer *a)
{
    free(a->ids);
    free(a->text);
    *a = (oc_answer){0};
}

/* ---- a generator ------------------------------------------------------------------------------------------ */

oc_generator *oc_generator_open_with(oc_engine *e, const oc_generator_options *options, oc_err *err)
{
    static const oc_generator_options defaults;
    int batch = options && options->batch > 0 ? options->batch : 1;
    oc_generator *g = bs_calloc(1, sizeof *g, "a generator", err);
    if (!g)
        return NULL;
    g->batch = batch;
    g->chooser = bs_calloc((size_t)batch, sizeof *g->chooser, "a generator", err);
    g->tokenizer = g->chooser ? rn_tokenizer(e, err) : NULL;
    if (!g->tokenizer || rn_speaker_open(&g->speaker, e, options ? options : &defaults, 0, err))
        goto failed;
    for (int i = 0; i < batch; i++)
        if (rn_chooser_open(&g->chooser[i], e->kn, e->sizes.vocab, 0, err))
            goto failed;
    return g;
failed:
    oc_generator_close(g);
    return NULL;
}

oc_generator *oc_generator_open(oc_engine *e, int context, int batch, oc_err *err)
{
    return oc_generator_open_with(e, &(oc_generator_options){.context = context, .batch = batch}, err);
}

void oc_generator_close(oc_generator *g)
{
    if (!g)
        return;
    for (int i = 0; g->chooser && i < g->batch; i++)
        rn_chooser_close(&g->chooser[i]);
    bs_free(g->chooser);
    rn_speaker_close(&g->speaker);
    bs_free(g);
}

int rn_check_ids(const md_model *m, const tx_ids *ids, oc_err *err)
{
    md_sizes s = {0};
    m->family->sizes(m->m, &s);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->p[i] < 0 || ids->p[i] >= s.vocab)
            return bs_err(err, "the tokenizer of '%s' gives id %d, the model knows %ld", m->folder, ids->p[i], s.vocab);
    return 0;
}

/* What an answer begins with: `start`, and the prompt without the tokens that its tokenizer puts around it. */
static int put_beginning(const oc_engine *e, tx_ids *ids, oc_err *err)
{
    if (!ids->n)
        return tx_ids_put(ids, e->sizes.start, err);
    ids->p[0] = e->sizes.start;
    ids->n -= ids->n > 1;
    return 0;
}

static int encode_prompt(const oc_generator *g, const char *prompt, tx_ids *ids, oc_err *err)
{
    const oc_engine *e = g->speaker.engine;
    bool begins = g->speaker.memory && !g->speaker.reads;
    ids->n = 0;
    if ((prompt[0] || !begins) && tx_encode(g->tokenizer, prompt, strlen(prompt), true, ids, err))
        return -1;
    if (begins)
        return put_beginning(e, ids, err);
    if (ids->n && e->sizes.picture_rows && rn_begin_with_enc(e, ids, err))
        return -1;
    if (!ids->n && e->sizes.bos < 0)
        return bs_err(err, "the prompt is empty, and the model '%s' has no token that begins a text", e->model->folder);
    return ids->n ? 0 : tx_ids_put(ids, e->sizes.bos, err);
}

int rn_encode_prompt(const oc_generator *g, const char *prompt, bool cut, tx_ids *ids, oc_err *err)
{
    long most = g->speaker.context - 1;
    if (encode_prompt(g, prompt, ids, err))
        return -1;
    if ((long)ids->n > most && !cut)
        return bs_err(err, "the prompt has %zu tokens, the context is %ld and an answer needs one", ids->n, most + 1);
    if ((long)ids->n > most) {
        memmove(ids->p, ids->p + (long)ids->n - most, (size_t)most * sizeof *ids->p);
        ids->n = (size_t)most;
    }
    return rn_check_ids(g->speaker.engine->model, ids, err);
}

int rn_context_for(oc_engine *e, const char *const *prompts, int n, int new_tokens, oc_err *err)
{
    const tx_tokenizer *t = rn_tokenizer(e, err);
    tx_ids ids = {0};
    size_t longest = 0;
    int result = t ? 0 : -1;
    for (int i = 0; !result && prompts && i < n; i++) {
        ids.n = 0;
        result = prompts[i] ? tx_encode(t, prompts[i], strlen(prompts[i]), true, &ids, err) : 0;
        longest = ids.n > longest ? ids.n : longest;
    }
    tx_ids_clear(&ids);
    long wanted = (long)longest + new_tokens + 1;
    return result ? 0 : (int)(wanted < e->sizes.context ? wanted : e->sizes.context);
}

int rn_start(oc_generator *g, tx_ids *ids, const float *pixels, int *memory, long *have, oc_err *err)
{
    rn_speaker *s = &g->speaker;
    *memory = -1;
    *have = 0;
    if (!s->memory)
        return pixels ? bs_err(err, "the model '%s' does not look at pictures", s->engine->model->folder) : rn_begin(s, ids, have, err);
    *memory = rn_remember(s, ids, pixels, err);
    if (*memory < 0)
        return -1;
    if (s->reads) {
        ids->n = 0;
        if (tx_ids_put(ids, s->engine->sizes.start, err))
            return -1;
    }
    return tn_sequence_open(s->cache, err);
}

/* ---- one answer ------------------------------------------------------------------------------------------- */

/* A prompt and what has followed it so far. */
typedef struct line {
    int number;   /* of the prompt in this call; -1: free */
    int sequence; /* -1: none; likewise memory */
    int memory;
    tx_ids ids;    /* prompt, then answer */
    size_t prompt; /* of them */
    long fed;      /* of them are in the cache */
    tx_stream *stream;
    bs_buf text;
    size_t said;        /* bytes of the text that were heard */
    bool done, stopped; /* stopped: by a stop text */
    bool deaf;          /* who listens wants no more */
} line;

typedef struct job {
    oc_generator *g;
    const oc_generation *how;
    oc_heard *heard;
    void *arg;
    oc_answer *answers;
    int first; /* what the first prompt of this call counts as */
    size_t longest_stop;
    line *line; /* [batch] */
    rn_feed *feed;
    int *at; /* which line a feed is of */
    oc_err *err;
    bool failed; /* inside a callback, said in err */
} job;

static void clear_line(job *j, line *l)
{
    if (l->sequence >= 0)
        tn_sequence_close(j->g->speaker.cache, l->sequence);
    if (l->memory >= 0)
        tn_sequence_close(j->g->speaker.memory, l->memory);
    tx_ids_clear(&l->ids);
    tx_stream_close(l->stream);
    bs_buf_clear(&l->text);
    *l = (line){.number = -1, .sequence = -1, .memory = -1};
}

static int begin_line(job *j, line *l, int number, const rn_prompt *prompt)
{
    l->number = number;
    l->stream = tx_stream_open(j->g->tokenizer, true, j->err);
    if (!l->stream || rn_encode_prompt(j->g, prompt->text, j->how->cut, &l->ids, j->err))
        return bs_err_prefix(j->err, "prompt %d: ", j->first + number + prompt->skipped + 1);
    l->sequence = rn_start(j->g, &l->ids, prompt->pixels, &l->memory, &l->fed, j->err);
    l->prompt = l->ids.n;
    bs_rng_seed(&j->g->chooser[l - j->line].rng, j->how->seed, (uint64_t)(j->first + number + prompt->skipped));
    return l->sequence < 0 ? -1 : 0;
}

/* The first place of a stop in the text from `from` on; -1: there is none. */
static long find_stop(const oc_generation *how, const bs_buf *text, size_t from)
{
    long best = -1;
    for (int i = 0; i < how->stops; i++) {
        const char *at = text->n > from ? strstr(text->p + from, how->stop[i]) : NULL;
        if (at && how->stop[i][0] && (best < 0 || at - text->p < best))
            best = at - text->p;
    }
    return best;
}

/* Everything that no stop can begin in, up to a whole character. */
static size_t certain(const job *j, const line *l)
{
    size_t held = j->longest_stop ? j->longest_stop - 1 : 0, n = l->text.n > held ? l->text.n - held : 0;
    while (n > 0 && n < l->text.n && ((unsigned char)l->text.p[n] & 0xC0) == 0x80)
        n--;
    return n;
}

static void say(job *j, line *l, size_t to)
{
    if (to > l->said && j->heard && !l->deaf && !j->heard(j->arg, l->number, l->text.p + l->said, to - l->said))
        l->done = l->deaf = true;
    l->said = to > l->said ? to : l->said;
}

static int add_text(job *j, line *l, const char *bytes, size_t n)
{
    size_t from = l->text.n > j->longest_stop ? l->text.n - j->longest_stop : 0;
    if (bs_buf_put(&l->text, bytes, n, j->err))
        return -1;
    long stop = find_stop(j->how, &l->text, from);
    if (stop >= 0) {
        l->text.p[l->text.n = (size_t)stop] = 0;
        l->stopped = l->done = j->answers[l->number].ended = true;
    }
    say(j, l, l->done ? l->text.n : certain(j, l));
    return 0;
}

static int add_token(job *j, line *l, int32_t id)
{
    const rn_speaker *s = &j->g->speaker;
    const char *bytes;
    size_t n;
    if (tx_ids_put(&l->ids, id, j->err))
        return -1;
    if (rn_ends(s, id)) /* a special token as a rule, which has no text */
        l->done = j->answers[l->number].ended = true;
    if (tx_stream_push(l->stream, id, &bytes, &n, j->err) || add_text(j, l, bytes, n))
        return -1;
    if (l->ids.n - l->prompt >= (size_t)j->how->max_new_tokens || (long)l->ids.n >= s->context)
        l->done = true;
    return 0;
}

static void choose_next(void *arg, int feed, long index, float *logits)
{
    (void)index;
    job *j = arg;
    line *l = &j->line[j->at[feed]];
    rn_chooser *c = &j->g->chooser[j->at[feed]];
    double logprob;
    rn_penalise(c, logits, l->ids.p, l->ids.n, j->how->repetition_penalty);
    if ((long)(l->ids.n - l->prompt) < j->how->min_new_tokens)
        rn_forbid_end(&j->g->speaker, logits);
    int32_t id = rn_choose(c, logits, j->how, &logprob);
    j->answers[l->number].logprob += logprob;
    j->failed |= add_token(j, l, id) != 0;
}

/* What a stream or a stop held back is said; the sequence is left for prompts that begin alike. */
static int end_line(job *j, line *l)
{
    oc_answer *a = &j->answers[l->number];
    const char *bytes;
    size_t n, count = l->ids.n - l->prompt;
    if (tx_stream_end(l->stream, &bytes, &n, j->err) || (!l->stopped && add_text(j, l, bytes, n)))
        return -1;
    say(j, l, l->text.n);
    a->n = (int)count;
    a->ids = malloc((count + 1) * sizeof *a->ids);
    a->text = bs_strdup(l->text.p ? l->text.p : "");
    if (!a->ids || !a->text)
        return bs_err(j->err, "out of memory: an answer");
    if (count)
        memcpy(a->ids, l->ids.p + l->prompt, count * sizeof *a->ids);
    l->ids.n = (size_t)l->fed;
    if (l->memory < 0) {
        rn_keep(&j->g->speaker, l->sequence, &l->ids);
        l->sequence = -1;
    }
    clear_line(j, l);
    return 0;
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

/* One token for every line that is open; false when there is none. */
static int advance(job *j, bool *any)
{
    int n = 0;
    for (int i = 0; i < j->g->batch; i++) {
        line *l = &j->line[i];
        if (l->number < 0)
            continue;
        l->fed = rn_still(&j->g->speaker, l->sequence, (long)l->ids.n);
        j->feed[n] = (rn_feed){l->sequence, l->ids.p + l->fed, (long)l->ids.n - l->fed, 1, l->memory};
        j->at[n++] = i;
        l->fed = (long)l->ids.n;
    }
    *any = n > 0;
    if (n && rn_run_feeds(&j->g->speaker, j->feed, n, choose_next, j, j->err))
        return -1;
    for (int i = 0; i < j->g->batch && !j->failed; i++)
        if (j->line[i].number >= 0 && j->line[i].done)
            j->failed |= end_line(j, &j->line[i]) != 0;
    return j->failed ? -1 : 0;
}

static int answer_all(job *j, const rn_prompt *prompts, int n)
{
    int next = 0;
    for (bool any = true; any;) {
        for (int i = 0; i < j->g->batch && next < n; i++)
            if (j->line[i].number < 0 && begin_line(j, &j->line[i], next, &prompts[next]))
                return -1;
            else if (j->line[i].number == next)
                next++;
        if (advance(j, &any))
            return -1;
    }
    return 0;
}

static int answer_by_beams(job *j, int number, const rn_prompt *prompt)
{
    oc_answer *a = &j->answers[number];
    tx_ids ids = {0}, best = {0};
    bs_buf text = {0};
    int result = -1;
    if (rn_encode_prompt(j->g, prompt->text, j->how->cut, &ids, j->err)) {
        bs_err_prefix(j->err, "prompt %d: ", j->first + number + prompt->skipped + 1);
        goto done;
    }
    if (rn_beam_search(j->g, &ids, prompt->pixels, j->how, &best, &a->logprob, &a->ended, j->err) ||
        tx_decode(j->g->tokenizer, best.p, best.n, true, &text, j->err))
        goto done;
    long stop = find_stop(j->how, &text, 0);
    if (stop >= 0)
        text.p[text.n = (size_t)stop] = 0;
    a->n = (int)best.n;
    a->ids = best.p;
    a->text = bs_strdup(text.p ? text.p : "");
    if (!a->text) {
        bs_err(j->err, "out of memory: an answer");
        goto done;
    }
    best = (tx_ids){0};
    if (j->heard)
        j->heard(j->arg, number, a->text, strlen(a->text));
    result = 0;
done:
    tx_ids_clear(&ids);
    tx_ids_clear(&best);
    bs_buf_clear(&text);
    return result;
}

static int check(const oc_generator *g, const oc_generation *how, oc_err *err)
{
    if (how->max_new_tokens < 1)
        return bs_err(err, "max_new_tokens is %d, expected 1 or more", how->max_new_tokens);
    if (!(how->temperature >= 0) || !isfinite(how->temperature) || !(how->top_p > 0) || !(how->min_p >= 0) || how->min_p > 1 ||
        !(how->repetition_penalty > 0))
        return bs_err(err, "expected temperature >= 0, top_p > 0, min_p from 0 to 1, repetition_penalty > 0");
    if (how->num_beams > 1 && how->temperature > 0)
        return bs_err(err, "a beam search takes the likeliest: no temperature goes with it");
    if (how->num_beams > g->batch)
        return bs_err(err, "%d beams are more than the %d sequences of this generator", how->num_beams, g->batch);
    return 0;
}

int oc_generate(oc_generator *g, const char *const *prompts, int n, const oc_generation *how, oc_heard *heard, void *arg,
                oc_answer *answers, oc_err *err)
{
    rn_prompt *all = bs_calloc((size_t)n + 1, sizeof *all, "prompts", err);
    for (int i = 0; all && i < n; i++)
        all[i].text = prompts[i];
    int result = all ? rn_generate(g, all, n, 0, how, heard, arg, answers, err) : -1;
    bs_free(all);
    return result;
}

int rn_generate(oc_generator *g, const rn_prompt *prompts, int n, int first, const oc_generation *how, oc_heard *heard,
                void *arg, oc_answer *answers, oc_err *err)
{
    job j = {.g = g, .how = how, .heard = heard, .arg = arg, .answers = answers, .first = first, .err = err};
    int result = -1;
    memset(answers, 0, (size_t)n * sizeof *answers);
    if (check(g, how, err))
        return -1;
    for (int i = 0; i < how->stops; i++)
        j.longest_stop = strlen(how->stop[i]) > j.longest_stop ? strlen(how->stop[i]) : j.longest_stop;
    j.line = bs_calloc((size_t)g->batch, sizeof *j.line, "a batch of texts", err);
    j.feed = bs_calloc((size_t)g->batch, sizeof *j.feed, "a batch of texts", err);
    j.at = bs_calloc((size_t)g->batch, sizeof *j.at, "a batch of texts", err);
    if (!j.line || !j.feed || !j.at)
        goto done;
    for (int i = 0; i < g->batch; i++)
        j.line[i] = (line){.number = -1, .sequence = -1, .memory = -1};
    if (how->num_beams > 1) {
        result = 0;
        for (int i = 0; i < n && !result; i++)
            result = answer_by_beams(&j, i, &prompts[i]);
    } else {
        result = answer_all(&j, prompts, n);
    }
    for (int i = 0; i < g->batch; i++)
        clear_line(&j, &j.line[i]);
done:
    bs_free(j.line);
    bs_free(j.feed);
    bs_free(j.at);
    return result;
}
