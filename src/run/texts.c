/* texts.c - texts as rows of embeddings. No text is filled up to the length of another, and what the texts of a causal tower begin with is computed once: its rows
 * depend on nothing behind them. The bits are those that each text has by itself. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "../model/reading.h"
#include "engine.h"

/* Texts of a pass, at most, for each of full length that a session has memory for. */
static int short_texts(long batch)
{
    enum { SHORT = 8 };
    return (int)(batch < INT_MAX / SHORT ? SHORT * batch : INT_MAX);
}

int rn_encode_text(const tx_tokenizer *t, const char *text, size_t n, long max, tx_ids *ids, int *cut, oc_err *err)
{
    ids->n = 0;
    if (tx_encode(t, text, n, true, ids, err))
        return -1;
    if (!ids->n && tx_ids_put(ids, 0, err)) /* a tokenizer without special tokens, and nothing said */
        return -1;
    if (ids->n > (size_t)max) {
        ids->p[max - 1] = ids->p[ids->n - 1];
        ids->n = (size_t)max;
        ++*cut;
    }
    return 0;
}

int rn_pad(const tx_tokenizer *t) { return t ? tx_roles_of(t)->pad : -1; }

int rn_texts_at_once(const oc_engine *e) { return short_texts(e->options.max_batch); }

void rn_most_texts(int batch, long tokens, tn_branches *b)
{
    long rows = batch * tokens, texts = short_texts(batch);
    *b = (tn_branches){.n = (int)(rows < texts ? rows : texts), .longest = tokens, .rows = rows};
}

/* ---- what the model sees of a text -------------------------------------------------------------------------------- */

typedef struct seen {
    const tx_ids *ids;
    long length; /* ids that the model sees; behind the text's own it is filled up */
    int text;    /* which of all */
} seen;

/* What stands behind the place that is pooled is left out where nobody looks at it, and what stands in front depends on nothing behind. */
static bool shares_beginnings(const oc_engine *e) { return !e->whole && e->sizes.padding == MD_PADDING_UNSEEN; }

static long seen_length(const oc_engine *e, const tx_ids *ids)
{
    const md_model *m = e->model;
    if (e->sizes.padding == MD_PADDING_READ) /* filled up, and all of it is seen */
        return e->sizes.max_tokens;
    return shares_beginnings(e) ? m->family->pool_position(m->m, ids->p, (long)ids->n) + 1L : (long)ids->n;
}

/* How many ids two texts begin with alike; of the second at least one is left. */
static long alike(const seen *a, const seen *b)
{
    long n = 0, most = a->length < b->length - 1 ? a->length : b->length - 1;
    while (n < most && a->ids->p[n] == b->ids->p[n])
        n++;
    return n;
}

static int by_ids(const void *a, const void *b)
{
    const seen *x = a, *y = b;
    for (long i = 0; i < x->length && i < y->length; i++)
        if (x->ids->p[i] != y->ids->p[i])
            return x->ids->p[i] < y->ids->p[i] ? -1 : 1;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return (x->text > y->text) - (x->text < y->text);
}

/* ---- passes ------------------------------------------------------------------------------------------------------- */

/* Rows of texts, one text behind the other. */
typedef struct pass {
    const oc_engine *engine;
    tn_branches most, now;
    tn_branch *branch; /* [texts] */
    int *row;          /* [texts, max_tokens] the row of each position */
    float *out;        /* [texts, embedding] */
    int filler;        /* the id that stands behind a text's own */
    md_batch batch;
} pass;

static void pass_close(pass *p)
{
    md_batch_clear(&p->batch);
    free(p->branch);
    free(p->row);
    bs_free(p->out);
}

/* n: texts that there are. */
static int pass_open(pass *p, const oc_engine *e, int n, oc_err *err)
{
    size_t tokens = (size_t)e->sizes.max_tokens;
    int pad = rn_pad(e->tokenizer);
    *p = (pass){.engine = e,
                .filler = pad >= 0 ? pad : e->sizes.pad,
                .batch = {.texts = 1, .want_hidden = e->whole, .branches = &p->now}};
    rn_most_texts(e->options.max_batch, (long)tokens, &p->most);
    p->most.n = n < p->most.n ? n : p->most.n;
    size_t texts = (size_t)p->most.n, rows = texts * tokens < (size_t)p->most.rows ? texts * tokens : (size_t)p->most.rows;
    p->branch = calloc(texts, sizeof *p->branch);
    p->row = calloc(texts * tokens, sizeof *p->row);
    p->out = bs_alloc(texts * (size_t)e->sizes.embedding * sizeof *p->out, "a batch of texts", err);
    p->batch.input_ids = calloc(rows, sizeof *p->batch.input_ids);
    p->batch.pool = calloc(texts, sizeof *p->batch.pool);
    bool all = p->branch && p->row && p->out && p->batch.input_ids && p->batch.pool;
    return all ? 0 : bs_err(err, "out of memory: a batch of texts");
}

/* Text i of the pass; `shared` positions of it are those of the one before. */
static void put(pass *p, int i, const seen *text, long shared)
{
    const md_model *m = p->engine->model;
    int *row = p->row + i * p->engine->sizes.max_tokens, *ids = p->batch.input_ids + p->now.rows;
    if (shared)
        memcpy(row, row - p->engine->sizes.max_tokens, (size_t)shared * sizeof *row);
    for (long k = shared; k < text->length; k++) {
        row[k] = (int)p->now.rows++;
        p->batch.input_ids[row[k]] = k < (long)text->ids->n ? text->ids->p[k] : p->filler;
    }
    p->branch[i] = (tn_branch){row, text->length, text->length - shared};
    p->batch.pool[i] = shares_beginnings(p->engine) ? (int)text->length - 1 : m->family->pool_position(m->m, ids, text->length);
    p->now.longest = p->now.longest > text->length ? p->now.longest : text->length;
    p->now.n++;
}

/* The first of n texts, as many as go into a pass. */
static void fill(pass *p, const seen *texts, int n)
{
    p->now = (tn_branches){.branch = p->branch};
    for (int i = 0; i < n && i < p->most.n; i++) {
        long shared = i && shares_beginnings(p->engine) ? alike(&texts[i - 1], &texts[i]) : 0;
        if (p->now.rows + texts[i].length - shared > p->most.rows)
            break;
        put(p, i, &texts[i], shared);
    }
    p->batch.length = p->now.rows;
}

static int run_passes(pass *p, oc_session *s, const seen *texts, int n, float *rows, oc_err *err)
{
    size_t width = (size_t)s->engine->sizes.embedding;
    for (int at = 0; at < n; at += p->now.n) {
        fill(p, texts + at, n - at);
        if (rn_embed(s, &p->batch, s->engine->model->family->embed_texts, p->out, err))
            return -1;
        for (int i = 0; i < p->now.n; i++)
            memcpy(rows + (size_t)texts[at + i].text * width, p->out + (size_t)i * width, width * sizeof *rows);
    }
    return 0;
}

static int embed_ids(oc_session *s, const tx_ids *ids, int n, float *rows, oc_err *err)
{
    seen *texts = calloc((size_t)n + 1, sizeof *texts);
    if (!texts)
        return bs_err(err, "out of memory: a batch of texts");
    for (int i = 0; i < n; i++)
        texts[i] = (seen){&ids[i], seen_length(s->engine, &ids[i]), i};
    if (shares_beginnings(s->engine))
        qsort(texts, (size_t)n, sizeof *texts, by_ids);
    pass p;
    int result = pass_open(&p, s->engine, n, err) || run_passes(&p, s, texts, n, rows, err) ? -1 : 0;
    pass_close(&p);
    free(texts);
    return result;
}

/* ---- the two ways in --------------------------------------------------------------------------------------------- */

int rn_embed_ids(oc_session *s, const int *ids, int n, int length, float *rows, oc_err *err)
{
    if (length < 1 || length > s->engine->sizes.max_tokens)
        return bs_err(err, "texts of %d tokens, the model takes 1 to %ld", length, s->engine->sizes.max_tokens);
    tx_ids *list = calloc((size_t)n + 1, sizeof *list);
    if (!list)
        return bs_err(err, "out of memory: a batch of texts");
    for (int i = 0; i < n; i++) /* only looked at */
        list[i] = (tx_ids){.p = (int32_t *)(uintptr_t)(ids + (long)i * length), .n = (size_t)length};
    int result = embed_ids(s, list, n, rows, err);
    free(list);
    return result;
}

static int embed_texts(oc_session *s, const char *const *texts, int n, float *rows, oc_err *err)
{
    oc_engine *e = s->engine;
    const tx_tokenizer *t = rn_tokenizer(e, err);
    tx_ids *ids = t ? calloc((size_t)n, sizeof *ids) : NULL;
    if (!ids)
        return t ? bs_err(err, "out of memory: a batch of texts") : -1;
    int result = 0;
    for (int i = 0; i < n && !result; i++)
        result = rn_encode_text(t, texts[i], strlen(texts[i]), e->sizes.max_tokens, &ids[i], &s->cut, err);
    if (!result)
        result = embed_ids(s, ids, n, rows, err);
    for (int i = 0; i < n; i++)
        tx_ids_clear(&ids[i]);
    free(ids);
    return result;
}

int oc_embed_texts(oc_session *s, const char *const *texts, int n, float *rows, oc_err *err)
{
    const oc_engine *e = s->engine;
    s->cut = 0;
    for (int i = 0; i < n; i++)
        if (!texts[i])
            return bs_err(err, "text %d is NULL", i);
    if (!(md_can(e->model) & MD_EMBEDS_TEXTS))
        return bs_err(err, "the model '%s' (%s) does not embed texts", e->model->folder, oc_family(e));
    for (int at = 0, most = rn_texts_at_once(e); at < n; at += most) {
        int part = n - at < most ? n - at : most;
        if (embed_texts(s, texts + at, part, rows + (size_t)at * (size_t)e->sizes.embedding, err))
            return -1;
    }
    return 0;
}
