/* nearest.c - exact search: every vector times every query, the best kept. At a million pictures this reads some hundred megabytes and
 * takes less time than loading most models; an approximate index would save little and lose answers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "library.h"

enum { BLOCK = 1024 }; /* vectors that are multiplied at once */

/* The best so far of one query, as a heap whose root is the worst, and the sums that tell how far a hit stands out. */
typedef struct best {
    ix_hit *p;
    int n, top;
    double sum, squares;
} best;

typedef struct search {
    ix_library *l;
    oc_session *s;
    const float *queries;
    int n;
    long width, seen;
    best *best;         /* [n] */
    float *vectors;     /* [BLOCK, width] */
    float *scores;      /* [n, BLOCK] */
    bs_buf paths;       /* of a block, each with its 0 */
    size_t path[BLOCK]; /* where each starts */
    int rows;           /* in the block */
} search;

/* ---- the heap ------------------------------------------------------------------------------------------------------- */

/* Equal scores stand in the order of their paths, so an answer never depends on the order of rows. */
static bool worse(float score, const char *path, const ix_hit *than)
{
    return score < than->score || (score == than->score && strcmp(path, than->path) > 0);
}

static void sink(ix_hit *p, int n, int i)
{
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && worse(p[child + 1].score, p[child + 1].path, &p[child]))
            child++;
        if (!worse(p[child].score, p[child].path, &p[i]))
            return;
        ix_hit swap = p[i];
        p[i] = p[child];
        p[child] = swap;
    }
}

static void rise(ix_hit *p, int i)
{
    for (int parent = (i - 1) / 2; i > 0 && worse(p[i].score, p[i].path, &p[parent]); i = parent, parent = (i - 1) / 2) {
        ix_hit swap = p[i];
        p[i] = p[parent];
        p[parent] = swap;
    }
}

static int offer(best *b, float score, const char *path, oc_err *err)
{
    if (b->n == b->top &&
        !(b->top && worse(b->p[0].score, b->p[0].path, &(ix_hit){.score = score, .path = (char *)(uintptr_t)path})))
        return 0;
    if (b->n < b->top && (b->n & (b->n - 1)) == 0) { /* full at every power of two */
        ix_hit *p = realloc(b->p, (size_t)(b->n ? b->n * 2 : 1) * sizeof *p);
        if (!p)
            return bs_err(err, "out of memory: the best pictures");
        b->p = p;
    }
    char *copy = bs_strdup(path);
    if (!copy)
        return bs_err(err, "out of memory: the best pictures");
    if (b->n < b->top) {
        b->p[b->n] = (ix_hit){.path = copy, .score = score};
        rise(b->p, b->n++);
    } else {
        free(b->p[0].path);
        b->p[0] = (ix_hit){.path = copy, .score = score};
        sink(b->p, b->n, 0);
    }
    return 0;
}

static int better_first(const void *a, const void *b)
{
    const ix_hit *x = a, *y = b;
    return worse(x->score, x->path, y) ? 1 : worse(y->score, y->path, x) ? -1 : 0;
}

/* ---- one block ---------------------------------------------------------------------------------------------------------- */

static int score_block(search *s, oc_err *err)
{
    kn_gemm g = {.m = s->n,
                 .n = s->rows,
                 .k = s->width,
                 .a = s->queries,
                 .lda = s->width,
                 .b = s->vectors,
                 .ldb = s->width,
                 .tb = true,
                 .c = s->scores,
                 .ldc = BLOCK,
                 .alpha = 1};
    kn_gemm_run(s->s->work, &g);
    for (int q = 0; q < s->n; q++)
        for (int i = 0; i < s->rows; i++) {
            float score = s->scores[(size_t)q * BLOCK + (size_t)i];
            const char *path = s->paths.p + s->path[i];
            if (!isfinite(score))
                return bs_err(err, "the vector of '%s' is not finite: remove the database and index the folder again", path);
            s->best[q].sum += (double)score;
            s->best[q].squares += (double)score * (double)score;
            if (offer(&s->best[q], score, path, err))
                return -1;
        }
    s->seen += s->rows;
    s->rows = 0;
    s->paths.n = 0;
    return 0;
}

static int take_row(search *s, sqlite3_stmt *row, oc_err *err)
{
    const char *path = (const char *)sqlite3_column_text(row, 0);
    const void *vector = sqlite3_column_blob(row, 1);
    if (!path || !vector || sqlite3_column_bytes(row, 1) != s->width * (long)sizeof(float))
        return bs_err(err, "cannot use the database '%s': the vector of '%s' has %d bytes, %ld are expected", s->l->path,
                      path ? path : "", sqlite3_column_bytes(row, 1), s->width * (long)sizeof(float));
    memcpy(s->vectors + s->rows * s->width, vector, (size_t)s->width * sizeof(float));
    s->path[s->rows++] = s->paths.n;
    if (bs_buf_put(&s->paths, path, strlen(path) + 1, err))
        return -1;
    return s->rows == BLOCK ? score_block(s, err) : 0;
}

static int read_rows(search *s, const char id[IX_ID], oc_err *err)
{
    sqlite3_stmt *row =
        ix_db_prepare(s->l, "SELECT path, vector FROM picture WHERE model = (SELECT id FROM model WHERE fingerprint = ?)", err);
    int step = SQLITE_DONE, result = row ? 0 : -1;
    if (row)
        sqlite3_bind_text(row, 1, id, -1, SQLITE_STATIC);
    while (!result && (step = sqlite3_step(row)) == SQLITE_ROW)
        result = take_row(s, row, err);
    if (!result && step != SQLITE_DONE)
        result = ix_db_err(s->l, err);
    sqlite3_finalize(row);
    return result ? -1 : s->rows ? score_block(s, err) : 0;
}

/* ---- all ------------------------------------------------------------------------------------------------------------------- */

/* Hands the heap over, sorted. */
static void finish(const search *s, best *b, ix_hits *hits)
{
    double n = s->seen ? (double)s->seen : 1, mean = b->sum / n, variance = b->squares / n - mean * mean;
    double deviation = variance > 1e-12 ? sqrt(variance) : 0;
    if (b->n)
        qsort(b->p, (size_t)b->n, sizeof *b->p, better_first);
    for (int i = 0; i < b->n; i++)
        b->p[i].deviations = deviation > 0 ? (float)(((double)b->p[i].score - mean) / deviation) : 0;
    *hits = (ix_hits){b->p, b->n};
    b->p = NULL;
    b->n = 0;
}

int ix_search(ix_library *l, oc_session *session, const char id[IX_ID], const float *queries, int n, int top, ix_hits *hits,
              oc_err *err)
{
    int result = -1;
    memset(hits, 0, (size_t)n * sizeof *hits);
    search *s = bs_calloc(1, sizeof *s, "a search", err);
    if (!s)
        return -1;
    s->l = l;
    s->s = session;
    s->queries = queries;
    s->n = n;
    s->width = oc_embedding_width(session->engine);
    s->best = bs_calloc((size_t)n, sizeof *s->best, "a search", err);
    s->vectors = bs_calloc(BLOCK, (size_t)s->width * sizeof *s->vectors, "a search", err);
    s->scores = bs_calloc(BLOCK, (size_t)n * sizeof *s->scores, "a search", err);
    if (!s->best || !s->vectors || !s->scores)
        goto done;
    for (int q = 0; q < n; q++)
        s->best[q].top = top;
    if (read_rows(s, id, err))
        goto done;
    for (int q = 0; q < n; q++)
        finish(s, &s->best[q], &hits[q]);
    result = 0;
done:
    for (int q = 0; s->best && q < n; q++) {
        ix_hits left = {s->best[q].p, s->best[q].n};
        ix_hits_clear(&left);
    }
    bs_buf_clear(&s->paths);
    bs_free(s->best);
    bs_free(s->vectors);
    bs_free(s->scores);
    bs_free(s);
    return result;
}

void ix_hits_clear(ix_hits *h)
{
    for (int i = 0; i < h->n; i++)
        free(h->p[i].path);
    free(h->p);
    *h = (ix_hits){0};
}

int ix_vectors_of(ix_library *l, const char id[IX_ID], ix_counts *counts, char name[256], oc_err *err)
{
    *counts = (ix_counts){0};
    name[0] = 0;
    sqlite3_stmt *row = ix_db_prepare(
        l, "SELECT m.fingerprint, m.name, count(*) FROM picture p JOIN model m ON p.model = m.id GROUP BY m.id", err);
    int step = SQLITE_DONE;
    while (row && (step = sqlite3_step(row)) == SQLITE_ROW) {
        const char *fingerprint = (const char *)sqlite3_column_text(row, 0), *of = (const char *)sqlite3_column_text(row, 1);
        bool same = fingerprint && !strcmp(fingerprint, id);
        *(same ? &counts->pictures : &counts->others) += sqlite3_column_int64(row, 2);
        if (of && (same || !counts->pictures))
            snprintf(name, 256, "%s", of);
    }
    int result = !row ? -1 : step == SQLITE_DONE ? 0 : ix_db_err(l, err);
    sqlite3_finalize(row);
    return result;
}
