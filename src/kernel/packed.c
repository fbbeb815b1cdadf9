/* packed.c - weights packed once: strips of nr columns as the micro-kernel reads them, each over the whole of k. */
#include "work.h"

enum { PACK_STRIPS = 8 }; /* so many are one thread's piece */

size_t kn_packed_bytes(const kn_table *t, kn_dtype dtype, long n, long k, long group)
{
    if (dtype != KN_F32)
        return kn_low_bytes(t, dtype, n, k, group);
    return (size_t)kn_round_up(n, t->nr) * (size_t)k * sizeof(float);
}

typedef struct packing {
    const kn_table *t;
    const kn_packed *p;
    const float *x; /* row `first` of the weight; or column, where that lies turned */
    long ld, first, stop;
    bool turned;
    float *scratch;
} packing;

static void pack_strips(void *arg, long begin, long end, int worker)
{
    const packing *a = arg;
    long from = a->first + begin * a->t->nr, to = kn_min(a->first + end * a->t->nr, a->stop);
    (void)worker;
    const float *x = a->x + (from - a->first) * (a->turned ? 1 : a->ld);
    a->t->pack(a->p->k, to - from, a->t->nr, x, a->ld, !a->turned, (float *)a->p->data + from * a->p->k);
}

void kn_pack_rows(kn_work *w, const kn_packed *p, long first, long rows, const float *x, long ld)
{
    if (p->dtype != KN_F32) {
        kn_low_pack(w, p, first, rows, x, ld);
        return;
    }
    packing a = {.t = w->t, .p = p, .x = x, .ld = ld, .first = first, .stop = first + rows};
    if (p->k > 0)
        bs_pool_for(w->pool, (rows + w->t->nr - 1) / w->t->nr, PACK_STRIPS, pack_strips, &a);
}

/* Squares of 16: a line of the cache is read for all of its numbers. */
static void turn(void *arg, long begin, long end, int worker)
{
    enum { SIDE = 16 };
    const packing *a = arg;
    long k = a->p->k, stop = kn_min(end * SIDE, a->stop - a->first);
    (void)worker;
    for (long i = begin * SIDE; i < stop; i += SIDE)
        for (long p = 0; p < k; p++)
            for (long j = i; j < kn_min(i + SIDE, stop); j++)
                a->scratch[j * k + p] = a->x[p * a->ld + j];
}

void kn_pack_turned(kn_work *w, const kn_packed *p, long first, long rows, const float *x, long ld, float *scratch)
{
    packing a = {w->t, p, x, ld, first, first + rows, true, scratch};
    if (p->dtype == KN_F32 && p->k > 0) {
        bs_pool_for(w->pool, (rows + w->t->nr - 1) / w->t->nr, PACK_STRIPS, pack_strips, &a);
    } else {
        bs_pool_for(w->pool, (rows + 15) / 16, 1, turn, &a);
        kn_low_pack(w, p, first, rows, scratch, p->k);
    }
}

void kn_pack_weight(kn_work *w, const kn_packed *p, const float *x, long ld) { kn_pack_rows(w, p, 0, p->n, x, ld); }

void kn_pack_quantized(kn_work *w, const kn_packed *p, const int8_t *q, const float *scale)
{
    kn_low_pack_quantized(w, p, q, scale);
}
