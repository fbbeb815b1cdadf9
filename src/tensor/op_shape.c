/* op_shape.c - tokens in, positions on, pieces out. */
#include <math.h>
#include <string.h>

#include "branches.h"

/* ---- embedding -------------------------------------------------------------------------------------------- */

typedef struct embedding_record {
    tn_record head;
    tn_t y;
    const tn_param *table;
    const int *ids;
    int fixed;
} embedding_record;

/* Serial: two rows of a batch may hold the same token. */
static void embedding_backward(tn_ctx *cx, tn_record *self)
{
    embedding_record *r = (embedding_record *)self;
    float *g = tn_grad_of(cx, r->table);
    const float *dy = tn_gradient(cx, r->y);
    long n = tn_rows(r->y), d = tn_last(r->y);
    for (long i = 0; i < n; i++)
        if (r->ids[i] != r->fixed)
            cx->kn->add(d, g + r->ids[i] * d, dy + i * d, g + r->ids[i] * d);
}

static int read_row(tn_ctx *cx, const tn_param *table, long row, float *to)
{
    oc_err err = {0};
    if (cx->table && !cx->table(cx->packed_arg, table->id, row, to, &err))
        return 0;
    tn_fail(cx, "%s", cx->table ? err.text : "embedding: the table is not in memory");
    return -1;
}

tn_t tn_embedding(tn_ctx *cx, const tn_param *table, const int *ids, long b, long t)
{
    return tn_embedding_but(cx, table, ids, b, t, -1);
}

tn_t tn_embedding_but(tn_ctx *cx, const tn_param *table, const int *ids, long b, long t, int fixed)
{
    if (cx->failed)
        return (tn_t){0};
    long d = table->shape[1];
    tn_t y = tn_new(cx, tn_grad_of(cx, table) != NULL, 3, (long[]){b, t, d});
    if (tn_live(cx))
        for (long i = 0; i < b * t; i++) {
            if (ids[i] < 0 || ids[i] >= table->shape[0])
                return tn_fail(cx, "token id %d is not in the vocabulary of %ld", ids[i], table->shape[0]);
            if (table->v)
                memcpy(y.v + i * d, table->v + ids[i] * d, (size_t)d * sizeof(float));
            else if (read_row(cx, table, ids[i], y.v + i * d))
                return (tn_t){0};
        }
    embedding_record *r = y.grad ? tn_push(cx, sizeof *r, embedding_backward) : NULL;
    if (r)
        *r = (embedding_record){r->head, y, table, ids, fixed};
    return y;
}

/* ---- additions ---------------------------------------------------------------------------------------------- */

typedef struct add_record {
    tn_record head;
    tn_t a, b, y;
    const tn_param *p;
    long k; /* elements of p that repeat */
} add_record;

static void add_backward(tn_ctx *cx, tn_record *self)
{
    add_record *r = (add_record *)self;
    long n = tn_size(r->y);
    tn_pass_gradient(cx, r->y, r->a);
    tn_pass_gradient(cx, r->y, r->b);
    float *dp = r->p ? tn_grad_of(cx, r->p) : NULL;
    if (dp)
        kn_column_sums(cx->work, n / r->k, r->k, tn_gradient(cx, r->y), r->k, dp);
}

static tn_t record_add(tn_ctx *cx, tn_t a, tn_t b, tn_t y, const tn_param *p, long k)
{
    add_record *r = y.grad ? tn_push(cx, sizeof *r, add_backward) : NULL;
    if (r)
        *r = (add_record){r->head, a, b, y, p, k};
    return y;
}

typedef struct addition {
    const kn_table *kn;
    const float *a, *b;
    float *y;
    long k, step; /* numbers of a row; from a row of b to the next, 0 where it repeats */
} addition;

static void add_rows(void *arg, long begin, long end, int worker)
{
    const addition *s = arg;
    (void)worker;
    for (long r = begin; r < end; r++)
        s->kn->add(s->k, s->a + r * s->k, s->b + r * s->step, s->y + r * s->k);
}

tn_t tn_add(tn_ctx *cx, tn_t a, tn_t b)
{
    if (cx->failed)
        return (tn_t){0};
    if (tn_size(a) != tn_size(b))
        return tn_fail(cx, "add: %ld and %ld elements", tn_size(a), tn_size(b));
    tn_t y = tn_like(cx, a, a.grad || b.grad);
    addition s = {cx->kn, a.v, b.v, y.v, tn_last(a), tn_last(a)};
    if (tn_live(cx))
        tn_each(cx, tn_rows(a), tn_last(a), add_rows, &s);
    return record_add(cx, a, b, y, NULL, 1);
}

/* k elements of p are added to every k of x. */
static tn_t add_repeating(tn_ctx *cx, tn_t x, const tn_param *p, long k)
{
    long n = tn_size(x);
    if (cx->failed)
        return (tn_t){0};
    if (k < 1 || n % k)
        return tn_fail(cx, "add: %ld elements do not repeat in %ld", k, n);
    tn_t y = tn_like(cx, x, x.grad || tn_grad_of(cx, p));
    addition s = {cx->kn, x.v, p->v, y.v, k, 0};
    if (tn_live(cx))
        tn_each(cx, n / k, k, add_rows, &s);
    return record_add(cx, x, (tn_t){0}, y, p, k);
}

tn_t tn_add_param(tn_ctx *cx, tn_t x, const tn_param *p) { return add_repeating(cx, x, p, tn_size(tn_weight(cx, p))); }

tn_t tn_add_positions(tn_ctx *cx, tn_t x, const tn_param *table)
{
    if (cx->failed)
        return (tn_t){0};
    long width = table->shape[table->rank - 1], rows = table->shape[table->rank - 2];
    if (x.rank != 3 || tn_last(x) != width)
        return tn_fail(cx, "positions: a token is %ld wide, a position %ld", tn_last(x), width);
    if (cx->branches && x.shape[0] == 1 && x.shape[1] == cx->branches->rows)
        return tn_branches_add_positions(cx, x, table);
    if (x.shape[1] > rows)
        return tn_fail(cx, "positions: %ld tokens, the model has %ld positions", x.shape[1], rows);
    return add_repeating(cx, x, table, x.shape[1] * x.shape[2]);
}

tn_t tn_add_sinusoid(tn_ctx *cx, tn_t x)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank < 2)
        return tn_fail(cx, "sinusoidal positions: one dimension has no time");
    if (tn_branches_refused(cx, "sinusoidal positions"))
        return (tn_t){0};
    long d = tn_last(x), t = x.shape[x.rank - 2], rows = tn_rows(x);
    tn_t y = tn_like(cx, x, x.grad);
    if (tn_live(cx))
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < d; i++) {
                double angle = (double)(r % t) * exp(-log(10000.0) * (double)(i / 2 * 2) / (double)d);
                y.v[r * d + i] = x.v[r * d + i] + (float)(i % 2 ? cos(angle) : sin(angle));
            }
    return record_add(cx, x, (tn_t){0}, y, NULL, 1);
}

/* ---- tokens in front, rows out ------------------------------------------------------------------------------- */

typedef struct piece_record {
    tn_record head;
    tn_t x, y;
    const tn_param *p;
    const int *index;
} piece_record;

static void prepend_backward(tn_ctx *cx, tn_record *self)
{
    piece_record *r = (piece_record *)self;
    long b = r->x.shape[0], t = r->x.shape[1], d = r->x.shape[2];
    float *dp = tn_grad_of(cx, r->p), *dx = tn_gradient(cx, r->x);
    for (long i = 0; i < b; i++) {
        const float *dy = tn_gradient(cx, r->y) + i * (t + 1) * d;
        if (dp)
            cx->kn->add(d, dp, dy, dp);
        if (dx)
            tn_accumulate(cx, t * d, dy + d, dx + i * t * d);
    }
}

tn_t tn_prepend(tn_ctx *cx, const tn_param *p, tn_t x)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank != 3 || tn_size(tn_weight(cx, p)) != x.shape[2])
        return tn_fail(cx, "prepend: a token is %ld wide, the one in front %ld", tn_last(x), tn_size(tn_weight(cx, p)));
    if (tn_branches_refused(cx, "prepend"))
        return (tn_t){0};
    long b = x.shape[0], t = x.shape[1], d = x.shape[2];
    tn_t y = tn_new(cx, x.grad || tn_grad_of(cx, p), 3, (long[]){b, t + 1, d});
    if (tn_live(cx))
        for (long i = 0; i < b; i++) {
            memcpy(y.v + i * (t + 1) * d, p->v, (size_t)d * sizeof(float));
            memcpy(y.v + (i * (t + 1) + 1) * d, x.v + i * t * d, (size_t)(t * d) * sizeof(float));
        }
    piece_record *r = y.grad ? tn_push(cx, sizeof *r, prepend_backward) : NULL;
    if (r)
        *r = (piece_record){r->head, x, y, p, NULL};
    return y;
}

static void select_backward(tn_ctx *cx, tn_record *self)
{
    piece_record *r = (piece_record *)self;
    long t = r->x.shape[1], d = r->x.shape[2];
    for (long i = 0; i < r->x.shape[0]; i++) {
        float *dx = tn_gradient(cx, r->x) + (i * t + (r->index ? r->index[i] : 0)) * d;
        cx->kn->add(d, dx, tn_gradient(cx, r->y) + i * d, dx);
    }
}

tn_t tn_select(tn_ctx *cx, tn_t x, const int *index)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank != 3)
        return tn_fail(cx, "select: %d dimensions instead of 3", x.rank);
    if (cx->branches)
        return tn_branches_select(cx, x, index);
    long b = x.shape[0], t = x.shape[1], d = x.shape[2];
    tn_t y = tn_new2(cx, x.grad, b, d);
    if (tn_live(cx))
        for (long i = 0; i < b; i++) {
            long at = index ? index[i] : 0;
            if (at < 0 || at >= t)
                return tn_fail(cx, "select: row %ld of %ld", at, t);
            memcpy(y.v + i * d, x.v + (i * t + at) * d, (size_t)d * sizeof(float));
        }
    piece_record *r = y.grad ? tn_push(cx, sizeof *r, select_backward) : NULL;
    if (r)
        *r = (piece_record){r->head, x, y, NULL, index};
    return y;
}

typedef struct pick_record {
    tn_record head;
    tn_t x, y;
    const int *index;
} pick_record;

/* Serial: a row may be picked twice. */
static void pick_backward(tn_ctx *cx, tn_record *self)
{
    pick_record *r = (pick_record *)self;
    long d = tn_last(r->x);
    float *dx = tn_gradient(cx, r->x);
    const float *dy = tn_gradient(cx, r->y);
    for (long i = 0; i < r->y.shape[0]; i++)
        cx->kn->add(d, dx + r->index[i] * d, dy + i * d, dx + r->index[i] * d);
}

tn_t tn_pick(tn_ctx *cx, tn_t x, const int *index, long n)
{
    if (cx->failed)
        return (tn_t){0};
    long d = tn_last(x), rows = tn_rows(x);
    tn_t y = tn_new2(cx, x.grad, n, d);
    for (long i = 0; tn_live(cx) && i < n; i++) {
        if (index[i] < 0 || index[i] >= rows)
            return tn_fail(cx, "pick: row %d of %ld", index[i], rows);
        memcpy(y.v + i * d, x.v + index[i] * d, (size_t)d * sizeof(float));
    }
    pick_record *r = y.grad ? tn_push(cx, sizeof *r, pick_backward) : NULL;
    if (r)
        *r = (pick_record){r->head, x, y, index};
    return y;
}

enum { MOST_PIECES = 8 };

typedef struct split_record {
    tn_record head;
    tn_t x, y[MOST_PIECES];
    int n;
    const kn_table *kn;
} split_record;

static void split_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const split_record *r = arg;
    for (long row = begin; row < end; row++) {
        const float *x = r->x.v + row * tn_last(r->x);
        for (int i = 0; i < r->n; x += tn_last(r->y[i++]))
            memcpy(r->y[i].v + row * tn_last(r->y[i]), x, (size_t)tn_last(r->y[i]) * sizeof *x);
    }
}

static void join_gradients(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const split_record *r = arg;
    for (long row = begin; row < end; row++) {
        float *g = r->x.g->v + row * tn_last(r->x);
        for (int i = 0; i < r->n; g += tn_last(r->y[i++]))
            r->kn->add(tn_last(r->y[i]), g, r->y[i].g->v + row * tn_last(r->y[i]), g);
    }
}

static void split_backward(tn_ctx *cx, tn_record *self)
{
    split_record *r = (split_record *)self;
    tn_gradient(cx, r->x);
    for (int i = 0; i < r->n; i++)
        tn_gradient(cx, r->y[i]);
    tn_each(cx, tn_rows(r->x), tn_last(r->x), join_gradients, r);
}

void tn_split(tn_ctx *cx, tn_t x, int n, const long *width, tn_t *y)
{
    split_record now = {.x = x, .n = n, .kn = cx->kn};
    long sum = 0;
    for (int i = 0; i < n; i++)
        sum += width[i];
    if (!cx->failed && (n > MOST_PIECES || sum != tn_last(x)))
        tn_fail(cx, "split: %d pieces of %ld in all, of rows of %ld", n, sum, tn_last(x));
    memset(y, 0, (size_t)n * sizeof *y);
    if (cx->failed)
        return;
    for (int i = 0; i < n; i++) {
        tn_t piece = x;
        piece.shape[x.rank - 1] = width[i];
        now.y[i] = y[i] = tn_like(cx, piece, x.grad);
    }
    if (tn_live(cx))
        tn_each(cx, tn_rows(x), sum, split_rows, &now);
    split_record *r = x.grad ? tn_push(cx, sizeof *r, split_backward) : NULL;
    if (r) {
        now.head = r->head;
        *r = now;
    }
}

static void repeat_backward(tn_ctx *cx, tn_record *self)
{
    piece_record *r = (piece_record *)self;
    long k = r->y.shape[1] * r->y.shape[2];
    kn_column_sums(cx->work, r->y.shape[0], k, tn_gradient(cx, r->y), k, tn_grad_of(cx, r->p));
}

tn_t tn_repeat(tn_ctx *cx, const tn_param *p, long b)
{
    long n = tn_size(tn_weight(cx, p)), d = p->rank ? p->shape[p->rank - 1] : 1;
    tn_t y = tn_new(cx, tn_grad_of(cx, p) != NULL, 3, (long[]){b, n / d, d});
    if (tn_live(cx))
        for (long i = 0; i < b; i++)
            memcpy(y.v + i * n, p->v, (size_t)n * sizeof(float));
    piece_record *r = y.grad ? tn_push(cx, sizeof *r, repeat_backward) : NULL;
    if (r)
        *r = (piece_record){.head = r->head, .y = y, .p = p};
    return y;
}

/* ---- columns ------------------------------------------------------------------------------------------------ */

typedef struct columns_record {
    tn_record head;
    tn_t x, y;
    long first;
} columns_record;

static void columns_backward(tn_ctx *cx, tn_record *self)
{
    columns_record *r = (columns_record *)self;
    long d = tn_last(r->x), n = tn_last(r->y);
    for (long i = 0, rows = tn_rows(r->x); i < rows; i++) {
        float *dx = tn_gradient(cx, r->x) + i * d + r->first;
        cx->kn->add(n, dx, tn_gradient(cx, r->y) + i * n, dx);
    }
}

tn_t tn_columns(tn_ctx *cx, tn_t x, long first, long n)
{
    if (cx->failed)
        return (tn_t){0};
    long d = tn_last(x), rows = tn_rows(x);
    if (first < 0 || n < 1 || first > d - n)
        return tn_fail(cx, "columns: %ld from %ld on of %ld", n, first, d);
    tn_t y = x;
    y.shape[y.rank - 1] = n;
    y = tn_like(cx, y, x.grad);
    if (tn_live(cx))
        for (long i = 0; i < rows; i++)
            memcpy(y.v + i * n, x.v + i * d + first, (size_t)n * sizeof(float));
    columns_record *r = y.grad ? tn_push(cx, sizeof *r, columns_backward) : NULL;
    if (r)
        *r = (columns_record){r->head, x, y, first};
    return y;
}

/* ---- one row of many ------------------------------------------------------------------------------------------ */

typedef struct pool_record {
    tn_record head;
    tn_t x, y;
    const uint8_t *mask;
    const tn_branches *branches;
    tn_pooling how;
} pool_record;

/* Rows [begin, end) of x, of which mask keeps n. */
typedef struct kept_rows {
    const uint8_t *mask;
    long begin, end, n;
} kept_rows;

static bool kept(const kept_rows *s, long row) { return !s->mask || s->mask[row]; }

/* Those of sequence b. */
static kept_rows rows_of(const pool_record *r, long b)
{
    long t = r->x.shape[1];
    kept_rows s = {.mask = r->mask, .begin = b * t, .end = (b + 1) * t};
    if (r->branches) {
        s.begin = r->branches->branch[b].row[0];
        s.end = s.begin + r->branches->branch[b].length;
    }
    for (long i = s.begin; i < s.end; i++)
        s.n += kept(&s, i);
    return s;
}

/* The first row of those kept that has the largest value of column j. */
static long largest(const float *x, const kept_rows *s, long d, long j)
{
    long best = -1;
    for (long i = s->begin; i < s->end; i++)
        if (kept(s, i) && (best < 0 || x[i * d + j] > x[best * d + j]))
            best = i;
    return best;
}

static void pool_backward(tn_ctx *cx, tn_record *self)
{
    pool_record *r = (pool_record *)self;
    long d = r->x.shape[2];
    float *dx = tn_gradient(cx, r->x);
    for (long b = 0; b < r->y.shape[0]; b++) {
        const float *dy = tn_gradient(cx, r->y) + b * d;
        kept_rows s = rows_of(r, b);
        for (long i = s.begin; i < s.end && r->how == TN_POOL_MEAN; i++)
            if (kept(&s, i))
                cx->kn->axpy(d, 1 / (float)s.n, dy, dx + i * d);
        for (long j = 0; j < d && s.n && r->how == TN_POOL_MAX; j++)
            dx[largest(r->x.v, &s, d, j) * d + j] += dy[j];
    }
}

static void pool_rows(tn_ctx *cx, const pool_record *r, long b)
{
    kept_rows s = rows_of(r, b);
    long d = r->x.shape[2];
    float *y = r->y.v + b * d;
    memset(y, 0, (size_t)d * sizeof *y);
    for (long i = s.begin; i < s.end && r->how == TN_POOL_MEAN; i++)
        if (kept(&s, i))
            cx->kn->add(d, y, r->x.v + i * d, y);
    if (s.n && r->how == TN_POOL_MEAN)
        cx->kn->scale(d, 1 / (float)s.n, y, y);
    for (long j = 0; j < d && s.n && r->how == TN_POOL_MAX; j++)
        y[j] = r->x.v[largest(r->x.v, &s, d, j) * d + j];
}

tn_t tn_pool(tn_ctx *cx, tn_t x, const uint8_t *mask, tn_pooling how)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank != 3 || (mask && cx->branches))
        return tn_fail(cx, "pool: %s", x.rank != 3 ? "other than 3 dimensions" : "a mask of sequences that are not filled up");
    if (cx->branches && !tn_branches_lie_together(cx, "pool", x))
        return (tn_t){0};
    pool_record r = {.x = x, .mask = mask, .branches = cx->branches, .how = how};
    r.y = tn_new2(cx, x.grad, cx->branches ? cx->branches->n : x.shape[0], x.shape[2]);
    for (long b = 0; b < r.y.shape[0] && tn_live(cx); b++)
        pool_rows(cx, &r, b);
    pool_record *to = r.y.grad ? tn_push(cx, sizeof *to, pool_backward) : NULL;
    if (to) {
        r.head = to->head;
        *to = r;
    }
    return r.y;
}

/* ---- dimensions exchanged --------------------------------------------------------------------------------------- */

/* `to` (or +=) = x [b, m, n] with its last two dimensions exchanged: [b, n, m]. */
static void exchange(long b, long m, long n, const float *x, float *to, bool add)
{
    for (long k = 0; k < b; k++, x += m * n, to += m * n)
        for (long i = 0; i < m; i++)
            for (long j = 0; j < n; j++)
                to[j * m + i] = add ? to[j * m + i] + x[i * n + j] : x[i * n + j];
}

typedef struct exchange_record {
    tn_record head;
    tn_t x, y;
    long b, m, n;
} exchange_record;

static void exchange_backward(tn_ctx *cx, tn_record *self)
{
    (void)cx;
    exchange_record *r = (exchange_record *)self;
    exchange(r->b, r->n, r->m, tn_gradient(cx, r->y), tn_gradient(cx, r->x), true);
}

static tn_t exchanged(tn_ctx *cx, tn_t x, long b, long m, long n, int rank, const long *shape)
{
    tn_t y = tn_new(cx, x.grad, rank, shape);
    if (tn_live(cx))
        exchange(b, m, n, x.v, y.v, false);
    exchange_record *r = y.grad ? tn_push(cx, sizeof *r, exchange_backward) : NULL;
    if (r)
        *r = (exchange_record){r->head, x, y, b, m, n};
    return y;
}

tn_t tn_transpose(tn_ctx *cx, tn_t x)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank != 2)
        return tn_fail(cx, "transpose: %d dimensions instead of 2", x.rank);
    return exchanged(cx, x, 1, x.shape[0], x.shape[1], 2, (long[]){x.shape[1], x.shape[0]});
}

tn_t tn_channels_first(tn_ctx *cx, tn_t x)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank != 4)
        return tn_fail(cx, "channels first: %d dimensions instead of 4", x.rank);
    long pixels = x.shape[1] * x.shape[2];
    return exchanged(cx, x, x.shape[0], pixels, x.shape[3], 4, (long[]){x.shape[0], x.shape[3], x.shape[1], x.shape[2]});
}
