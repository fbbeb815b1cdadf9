/* reduce.c - sums over many rows, and cross-entropy. Every sum is cut in fixed places, never by the number of threads. */
#include <math.h>
#include <string.h>

#include "scalar.h"
#include "work.h"

enum {
    SUM_ROWS = 64,     /* rows a partial sum of a column takes */
    SUM_COLUMNS = 256, /* columns a thread takes at once */
    SQUARES = 1 << 14, /* floats a partial sum of squares takes */
    LOGITS = 1024,     /* logits whose exponentials are summed at once */
};

/* The sums of blocks of rows, [blocks, n], are added to y in order. */
static void add_blocks(const kn_table *t, long blocks, long n, const float *sums, long ld, float *y)
{
    for (long i = 0; i < blocks; i++)
        t->add(n, y, sums + i * ld, y);
}

typedef struct columns {
    const kn_table *t;
    long rows, n, first, parts; /* the first block of rows of this round; parts of a row */
    const float *x;
    long ld;
    float *partial;
} columns;

/* Items are (block of rows, part of its columns). */
static void sum_blocks(void *arg, long begin, long end, int worker)
{
    const columns *c = arg;
    (void)worker;
    for (long i = begin; i < end; i++) {
        long at = i % c->parts * SUM_COLUMNS, r = (c->first + i / c->parts) * SUM_ROWS, n = kn_min(SUM_COLUMNS, c->n - at);
        float *sums = c->partial + i / c->parts * c->n + at;
        memset(sums, 0, (size_t)n * sizeof *sums);
        c->t->add_rows(kn_min(SUM_ROWS, c->rows - r), n, c->x + r * c->ld + at, c->ld, sums);
    }
}

void kn_column_sums(kn_work *w, long rows, long n, const float *x, long ld, float *y)
{
    long blocks = (rows + SUM_ROWS - 1) / SUM_ROWS, room = n > 0 ? KN_B_FLOATS / n : blocks;
    columns c = {
        .t = w->t, .rows = rows, .n = n, .parts = (n + SUM_COLUMNS - 1) / SUM_COLUMNS, .x = x, .ld = ld, .partial = w->b};
    for (long r = 0; r < rows && room == 0; r += SUM_ROWS) /* a row of millions of numbers */
        w->t->add_rows(kn_min(SUM_ROWS, rows - r), n, x + r * ld, ld, y);
    for (; c.first < blocks && room > 0; c.first += room) {
        long now = kn_min(room, blocks - c.first);
        bs_pool_for(w->pool, now * c.parts, (SUM_COLUMNS + n - 1) / kn_max(n, 1), sum_blocks, &c);
        add_blocks(w->t, now, n, c.partial, n, y);
    }
}

/* One backward of a norm: layer norm's when mean is given, else RMS norm's. */
typedef struct norm {
    const kn_table *t;
    long rows, d, first, width; /* first block of rows of this round; floats of a block's partial sums */
    const float *x, *wt, *mean, *rstd, *dy;
    float *dx, *partial;
    bool dw, db;
} norm;

static void norm_rows(const norm *c, long r, long rows, float *dw, float *db)
{
    long at = r * c->d;
    float *dx = c->dx ? c->dx + at : NULL;
    if (c->mean)
        c->t->layer_norm_backward(rows, c->d, c->x + at, c->wt, c->mean + r, c->rstd + r, c->dy + at, dx, dw, db);
    else
        c->t->rms_norm_backward(rows, c->d, c->x + at, c->wt, c->rstd + r, c->dy + at, dx, dw);
}

static void norm_blocks(void *arg, long begin, long end, int worker)
{
    const norm *c = arg;
    (void)worker;
    for (long i = begin; i < end; i++) {
        long r = (c->first + i) * SUM_ROWS;
        float *p = c->partial + i * c->width;
        memset(p, 0, (size_t)c->width * sizeof *p);
        norm_rows(c, r, kn_min(SUM_ROWS, c->rows - r), c->dw ? p : NULL, c->db ? p + c->width - c->d : NULL);
    }
}

static void norm_backward(kn_work *w, norm *c, float *dw, float *db)
{
    long blocks = (c->rows + SUM_ROWS - 1) / SUM_ROWS;
    c->t = w->t;
    c->dw = dw;
    c->db = db;
    c->width = c->d * ((dw != NULL) + (db != NULL));
    c->partial = w->b;
    long room = c->width > 0 ? KN_B_FLOATS / c->width : blocks;
    if (room == 0) { /* a row of a million numbers: no room for partial sums, and nothing to gain */
        norm_rows(c, 0, c->rows, dw, db);
        return;
    }
    for (c->first = 0; c->first < blocks; c->first += room) {
        long now = kn_min(room, blocks - c->first);
        bs_pool_for(w->pool, now, 1, norm_blocks, c);
        if (dw)
            add_blocks(w->t, now, c->d, w->b, c->width, dw);
        if (db)
            add_blocks(w->t, now, c->d, w->b + c->width - c->d, c->width, db);
    }
}

void kn_layer_norm_backward(kn_work *w, long rows, long d, const float *x, const float *wt, const float *mean, const float *rstd,
                            const float *dy, float *dx, float *dw, float *db)
{
    norm c = {.rows = rows, .d = d, .x = x, .wt = wt, .mean = mean, .rstd = rstd, .dy = dy, .dx = dx};
    norm_backward(w, &c, dw, db);
}

void kn_rms_norm_backward(kn_work *w, long rows, long d, const float *x, const float *wt, const float *rstd, const float *dy,
                          float *dx, float *dw)
{
    norm c = {.rows = rows, .d = d, .x = x, .wt = wt, .rstd = rstd, .dy = dy, .dx = dx};
    norm_backward(w, &c, dw, NULL);
}

typedef struct squares {
    const kn_table *t;
    long n, first;
    const float *x;
    double *partial;
} squares;

static void square_blocks(void *arg, long begin, long end, int worker)
{
    const squares *s = arg;
    (void)worker;
    for (long i = begin; i < end; i++) {
        long at = (s->first + i) * SQUARES;
        s->partial[i] = s->t->sum_squares(kn_min(SQUARES, s->n - at), s->x + at);
    }
}

double kn_sum_squares(kn_work *w, long n, const float *x)
{
    long blocks = (n + SQUARES - 1) / SQUARES, room = KN_B_FLOATS * (long)sizeof(float) / (long)sizeof(double);
    squares s = {.t = w->t, .n = n, .x = x, .partial = (double *)(void *)w->b};
    double sum = 0;
    for (; s.first < blocks; s.first += room) {
        long now = kn_min(room, blocks - s.first);
        bs_pool_for(w->pool, now, 8, square_blocks, &s);
        for (long i = 0; i < now; i++)
            sum += s.partial[i];
    }
    return sum;
}

static double sum_of_exp(const kn_table *t, long n, const float *x, float max)
{
    float e[LOGITS];
    double sum = 0;
    for (long i = 0; i < n; i += LOGITS) {
        long now = kn_min(LOGITS, n - i);
        t->exp_shift(now, x + i, max, e);
        sum += t->sum(now, e);
    }
    return sum;
}

/* With z = logits - max and p = exp(z) / sum: loss = log(sum) - (1-s) z_t - s/n sum(z), its slope p - (1-s)[j = t] - s/n. */
float kn_cross_entropy(const kn_table *t, long n, const float *logits, long target, float smoothing, float scale, float *dlogits)
{
    float max = t->max(n, logits);
    double sum = sum_of_exp(t, n, logits, max), loss = kn_log(sum) - (1.0 - smoothing) * ((double)logits[target] - max);
    if (smoothing != 0)
        loss -= smoothing * (t->sum(n, logits) / (double)n - max);
    if (dlogits) {
        float even = scale * smoothing / (float)n;
        t->exp_shift(n, logits, max, dlogits);
        t->scale(n, (float)(scale / sum), dlogits, dlogits);
        for (long i = 0; even != 0 && i < n; i++)
            dlogits[i] -= even;
        dlogits[target] -= scale * (1 - smoothing);
    }
    return (float)loss;
}

static void zero_piece(void *arg, long begin, long end, int worker)
{
    float *x = arg;
    (void)worker;
    memset(x + begin, 0, (size_t)(end - begin) * sizeof *x);
}

void kn_zero(kn_work *w, long n, float *x) { bs_pool_for(w->pool, n, SQUARES, zero_piece, x); }
