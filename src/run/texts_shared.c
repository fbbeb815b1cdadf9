/* texts_shared.c - texts of a causal tower, whose rows depend on nothing behind them: each is as long as it is, and what two texts begin with is computed once. The bits
 * are those that each text has by itself. */
#include <stdlib.h>
#include <string.h>

#include "texts.h"

/* A pass: the rows of its texts, one text behind the other. */
typedef struct pass {
    md_batch batch;
    tn_branches branches;
    tn_branch *branch; /* [texts] */
    int *row;          /* [texts, max_tokens] the row of each position */
    float *out;        /* [texts, embedding] */
    int texts;         /* at most; */
    long rows;         /* likewise, together */
} pass;

bool rn_share_beginnings(const md_sizes *s, bool whole) { return !whole && s->padding == MD_PADDING_UNSEEN; }

static void pass_close(pass *p)
{
    md_batch_clear(&p->batch);
    free(p->branch);
    free(p->row);
    bs_free(p->out);
}

static int pass_open(pass *p, const oc_engine *e, int n, oc_err *err)
{
    size_t width = (size_t)e->sizes.embedding, tokens = (size_t)e->sizes.max_tokens;
    rn_most_shared(e->options.max_batch, (long)tokens, &p->branches);
    p->rows = p->branches.rows;
    p->texts = n < p->branches.n ? n : p->branches.n;
    size_t texts = (size_t)p->texts, rows = texts * tokens < (size_t)p->rows ? texts * tokens : (size_t)p->rows;
    p->branch = calloc(texts, sizeof *p->branch);
    p->row = calloc(texts * tokens, sizeof *p->row);
    p->out = bs_alloc(texts * width * sizeof *p->out, "a batch of texts", err);
    p->batch.input_ids = calloc(rows, sizeof *p->batch.input_ids);
    p->batch.positions = calloc(rows, sizeof *p->batch.positions);
    p->batch.pool = calloc(texts, sizeof *p->batch.pool);
    bool all = p->branch && p->row && p->out && p->batch.input_ids && p->batch.positions && p->batch.pool;
    return all ? 0 : bs_err(err, "out of memory: a batch of texts");
}

void rn_most_shared(int batch, long tokens, tn_branches *b)
{
    long rows = batch * tokens, texts = (long)RN_SHORT * batch;
    *b = (tn_branches){.n = (int)(rows < texts ? rows : texts), .longest = tokens, .rows = rows};
}

/* How many ids two texts begin with alike; of the second at least one stays. */
static long alike(const rn_seen *a, const rn_seen *b)
{
    long n = 0, most = a->length < b->length - 1 ? a->length : b->length - 1;
    while (n < most && a->ids[n] == b->ids[n])
        n++;
    return n;
}

static int by_ids(const void *a, const void *b)
{
    const rn_seen *x = a, *y = b;
    for (long i = 0; i < x->length && i < y->length; i++)
        if (x->ids[i] != y->ids[i])
            return x->ids[i] < y->ids[i] ? -1 : 1;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return (x->text > y->text) - (x->text < y->text);
}

/* Text i of the pass, behind the one before it in order. */
static void put(pass *p, const rn_seen *texts, int i, long shared, long tokens)
{
    tn_branches *b = &p->branches;
    int *row = p->row + i * tokens;
    memcpy(row, row - (shared ? tokens : 0), (size_t)shared * sizeof *row);
    for (long k = shared; k < texts[i].length; k++) {
        row[k] = (int)b->rows;
        p->batch.input_ids[b->rows] = texts[i].ids[k];
        p->batch.positions[b->rows++] = (int)k;
    }
    p->branch[i] = (tn_branch){row, texts[i].length, texts[i].length - shared};
    p->batch.pool[i] = (int)b->rows - 1;
    b->longest = b->longest > texts[i].length ? b->longest : texts[i].length;
}

/* The first of n sorted texts, as many as go into a pass; how many. */
static int fill(pass *p, const rn_seen *texts, int n, long tokens)
{
    p->branches = (tn_branches){.branch = p->branch};
    int i = 0;
    for (; i < n && i < p->texts; i++) {
        long shared = i ? alike(&texts[i - 1], &texts[i]) : 0;
        if (p->branches.rows + texts[i].length - shared > p->rows)
            break;
        put(p, texts, i, shared, tokens);
    }
    p->branches.n = i;
    p->batch.texts = i;
    p->batch.branches = &p->branches;
    return i;
}

int rn_embed_shared(oc_session *s, rn_seen *texts, int n, float *rows, oc_err *err)
{
    const oc_engine *e = s->engine;
    size_t width = (size_t)e->sizes.embedding;
    pass p = {0};
    int result = pass_open(&p, e, n, err);
    qsort(texts, (size_t)n, sizeof *texts, by_ids);
    for (int at = 0, now; at < n && !result; at += now) {
        now = fill(&p, texts + at, n - at, e->sizes.max_tokens);
        result = rn_embed(s, &p.batch, e->model->family->embed_texts, p.out, err);
        for (int i = 0; i < now && !result; i++)
            memcpy(rows + (size_t)texts[at + i].text * width, p.out + (size_t)i * width, width * sizeof *rows);
    }
    pass_close(&p);
    return result;
}
