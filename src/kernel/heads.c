/* heads.c - products of every head with its own part of a weight: what is left of a key's or value's projection when it is applied to queries, and to sums of
 * rows, instead of to every row that is looked at. Bound by reading the weight once: a matrix whose rows run along the sum is used where it lies. */
#include "work.h"

enum { EACH = 4 }; /* items for every thread, so that they end together */
enum { TALLEST = 16 };
_Static_assert((long)KN_HEAD_MOST * TALLEST <= KN_A_FLOATS, "a tile's rows must fit a worker's room");

typedef struct job {
    kn_work *w;
    const kn_heads *g;
    long tall, rows;  /* of a tile; of A that lie packed at a time */
    long wide, parts; /* columns of an item, and so many of them a head */
} job;

/* Columns [j, j + n) of head h's part, rows [p, p + k) of the sum, a strip or less; packed before, or now into `strip`, or as they lie. */
static kn_operand strip_of(const job *j, long h, long column, long n, long p, long k, float *strip)
{
    const kn_heads *g = j->g;
    const kn_table *t = j->w->t;
    long row = h * g->n + column;
    if (!g->turned)
        return (kn_operand){g->b + (h * g->k + p) * g->n + column, g->n, t->nr};
    if (g->packed && row % t->nr == 0)
        return (kn_operand){(const float *)g->packed->data + row * g->k + p * t->nr, t->nr, 0};
    return kn_pack_strips(t, k, n, t->nr, g->b + row * g->k + p, g->k, true, strip);
}

/* Rows [i0, i0 + m), which lie packed at a, times columns [begin, end) of head h. */
static void one_block(const job *j, kn_worker *me, long h, long i0, long m, kn_operand a, long begin, long end)
{
    const kn_heads *g = j->g;
    const kn_table *t = j->w->t;
    for (long column = begin; column < end; column += t->nr) {
        long n = kn_min(t->nr, end - column);
        float *c = g->c + i0 * g->ldc + h * g->n + column;
        const float *bias = g->bias ? g->bias + h * g->n + column : NULL;
        for (long p = 0; p < g->k; p += KN_KC) {
            long k = kn_min(KN_KC, g->k - p);
            kn_operand b = strip_of(j, h, column, n, p, k, me->strip);
            for (long i = 0; i < m; i += j->tall)
                t->gemm_tile(k, a.at + i / j->tall * a.panel + p * a.step, a.step, b.at, b.step, c + i * g->ldc, g->ldc,
                             (int)kn_min(j->tall, m - i), (int)n, 1, p ? c + i * g->ldc : bias, p ? g->ldc : 0, NULL, 0);
        }
    }
}

static void items(void *arg, long begin, long end, int worker)
{
    const job *j = arg;
    const kn_heads *g = j->g;
    kn_worker *me = &j->w->worker[worker];
    for (long item = begin; item < end; item++) {
        long h = item / j->parts, column = item % j->parts * j->wide;
        for (long i = 0; i < g->m; i += j->rows) {
            long m = kn_min(j->rows, g->m - i);
            kn_operand a = kn_pack_strips(j->w->t, g->k, m, j->tall, g->a + i * g->lda + h * g->k, g->lda, true, me->a);
            one_block(j, me, h, i, m, a, column, kn_min(column + j->wide, g->n));
        }
    }
}

void kn_heads_run(kn_work *w, const kn_heads *g)
{
    if (g->heads <= 0 || g->m <= 0 || g->n <= 0 || g->k <= 0)
        return;
    job j = {.w = w, .g = g, .tall = kn_tile_height(w->t->mr, g->m)};
    long strips = (g->n + w->t->nr - 1) / w->t->nr, parts = kn_min(strips, ((long)EACH * w->threads + g->heads - 1) / g->heads);
    j.rows = kn_max(1, KN_A_FLOATS / g->k / j.tall) * j.tall;
    j.wide = (strips + parts - 1) / parts * w->t->nr;
    j.parts = (g->n + j.wide - 1) / j.wide;
    bs_pool_for(w->pool, g->heads * j.parts, 1, items, &j);
}
