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

typedef struct columns {
    const kn_table *t;
    long rows, n;
    const float *x;
    long ld;
    float *y;
} columns;

static void sum_columns(void *arg, long begin, long end, int worker)
{
    const columns *c = arg;
    (void)worker;
    for (long r = 0; r < c->rows; r += SUM_ROWS)
        c->t->add_rows(kn_min(SUM_ROWS, c->rows - r), end - begin, c->x + r * c->ld + begin, c->ld, c->y + begin);
}

void kn_column_sums(kn_work *w, long rows, long n, const float *x, long ld, float *y)
{
    columns c = {w->t, rows, n, x, ld, y};
    bs_pool_for(w->pool, n, SUM_COLUMNS, sum_columns, &c);
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
        for (long i = 0; i < now; i++) {
            if (dw)
                w->t->add(c->d, dw, w->b + i * c->width, dw);
            if (db)
                w->t->add(c->d, db, w->b + (i + 1) * c->width - c->d, db);
        }
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
