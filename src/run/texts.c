/* texts.c - texts as rows of embeddings. Where a pass fills its texts up to the longest, those of like length go through the model together; where it does not (texts_shared.c),
 * what they have in common is computed once. */
#include <stdlib.h>
#include <string.h>

#include "../model/reading.h"
#include "texts.h"

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

/* ---- which texts go together ------------------------------------------------------------------------------------- */

static long seen_length(const oc_engine *e, const tx_ids *ids)
{
    const md_model *m = e->model;
    if (e->sizes.padding == MD_PADDING_READ) /* filled up, and all of it is seen */
        return e->sizes.max_tokens;
    return rn_share_beginnings(&e->sizes, e->whole) ? m->family->pool_position(m->m, ids->p, (long)ids->n) + 1L : (long)ids->n;
}

static int longest_first(const void *a, const void *b)
{
    const rn_seen *x = a, *y = b;
    if (x->length != y->length)
        return x->length < y->length ? 1 : -1;
    return (x->text > y->text) - (x->text < y->text);
}

/* Texts that are as long as each other end at end[1], end[2], ... end[n]; end[0] is 0. Cuts them so that the fewest tokens are computed: the group that ends
 * at end[i] begins at end[from[i]]. */
static void group(const rn_seen *texts, int n, const int *end, int *from, long *cost)
{
    enum { PASS = 64 }; /* tokens that take as long as reading the weights once more */
    cost[0] = 0;
    for (int i = 1; i <= n; i++)
        for (int first = 0; first < i; first++) {
            long sum = cost[first] + (end[i] - end[first]) * texts[end[first]].length + PASS;
            if (first == 0 || sum < cost[i]) {
                cost[i] = sum;
                from[i] = first;
            }
        }
}

/* Fills end[1] and so on; their number. */
static int find_ends(const rn_seen *texts, int n, int *end)
{
    int found = 0;
    for (int i = 1; i <= n; i++)
        if (i == n || texts[i].length != texts[i - 1].length)
            end[++found] = i;
    return found;
}

/* Up to max_batch texts. */
typedef struct text_job {
    oc_session *s;
    const tx_ids *ids;
    int *end, *from; /* of group() */
    long *cost;
    tx_ids *group; /* only looked at */
    float *rows;   /* of a group */
    md_batch batch;
} text_job;

static void text_job_close(text_job *j)
{
    md_batch_clear(&j->batch);
    free(j->end);
    free(j->from);
    free(j->cost);
    free(j->group);
    bs_free(j->rows);
}

static int text_job_open(text_job *j, oc_session *s, const tx_ids *ids, int n, oc_err *err)
{
    const oc_engine *e = s->engine;
    size_t room = (size_t)n + 1;
    *j = (text_job){.s = s,
                    .ids = ids,
                    .end = calloc(room, sizeof *j->end),
                    .from = calloc(room, sizeof *j->from),
                    .cost = calloc(room, sizeof *j->cost),
                    .group = calloc(room, sizeof *j->group),
                    .rows = bs_alloc((size_t)n * (size_t)e->sizes.embedding * sizeof *j->rows, "a batch of texts", err),
                    .batch = {.want_hidden = e->whole}};
    if (!j->rows)
        return -1;
    if (!j->end || !j->from || !j->cost || !j->group)
        return bs_err(err, "out of memory: a batch of texts");
    return md_texts_open(&j->batch, e->model, n, err);
}

/* n texts in one pass; their rows go where the texts stood. */
static int embed_group(text_job *j, const rn_seen *texts, int n, float *rows, oc_err *err)
{
    const oc_engine *e = j->s->engine;
    size_t width = (size_t)e->sizes.embedding;
    for (int i = 0; i < n; i++)
        j->group[i] = j->ids[texts[i].text];
    j->batch.texts = n;
    md_texts_put(&j->batch, e->model, j->group, n, rn_pad(e->tokenizer));
    if (rn_embed(j->s, &j->batch, e->model->family->embed_texts, j->rows, err))
        return -1;
    for (int i = 0; i < n; i++)
        memcpy(rows + (size_t)texts[i].text * width, j->rows + (size_t)i * width, width * sizeof *rows);
    return 0;
}

/* They are sorted. */
static int embed_groups(text_job *j, const rn_seen *texts, int n, float *rows, oc_err *err)
{
    int result = 0, lengths = find_ends(texts, n, j->end);
    group(texts, lengths, j->end, j->from, j->cost);
    for (int i = lengths; i > 0 && !result; i = j->from[i])
        result = embed_group(j, texts + j->end[j->from[i]], j->end[i] - j->end[j->from[i]], rows, err);
    return result;
}

static int embed_in_groups(oc_session *s, const tx_ids *ids, rn_seen *texts, int n, float *rows, oc_err *err)
{
    int most = s->engine->options.max_batch;
    text_job j;
    int result = text_job_open(&j, s, ids, n < most ? n : most, err);
    qsort(texts, (size_t)n, sizeof *texts, longest_first);
    for (int at = 0; at < n && !result; at += most)
        result = embed_groups(&j, texts + at, n - at < most ? n - at : most, rows, err);
    text_job_close(&j);
    return result;
}

static int embed_ids(oc_session *s, const tx_ids *ids, int n, float *rows, oc_err *err)
{
    rn_seen *texts = calloc((size_t)n + 1, sizeof *texts);
    if (!texts)
        return bs_err(err, "out of memory: a batch of texts");
    for (int i = 0; i < n; i++)
        texts[i] = (rn_seen){ids[i].p, seen_length(s->engine, &ids[i]), i};
    bool share = rn_share_beginnings(&s->engine->sizes, s->engine->whole);
    int result = share ? rn_embed_shared(s, texts, n, rows, err) : embed_in_groups(s, ids, texts, n, rows, err);
    free(texts);
    return result;
}

int rn_texts_at_once(const oc_engine *e) { return RN_SHORT * e->options.max_batch; }

/* ---- the two ways in --------------------------------------------------------------------------------------------- */

int rn_embed_ids(oc_session *s, const int *ids, int n, int length, float *rows, oc_err *err)
{
    tx_ids *list = calloc((size_t)n, sizeof *list);
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
