/* order.c - see order.h. */
#include "order.h"

int dt_order_open(dt_order *o, long n, uint64_t seed, oc_err *err)
{
    *o = (dt_order){.p = bs_alloc((size_t)n * sizeof *o->p, "the order of an epoch", err), .n = n, .epoch = -1, .seed = seed};
    return o->p ? 0 : -1;
}

void dt_order_clear(dt_order *o)
{
    bs_free(o->p);
    *o = (dt_order){0};
}

/* Fisher, Yates. */
static void shuffle(dt_order *o, long epoch)
{
    bs_rng r;
    bs_rng_seed(&r, o->seed, 2 * (uint64_t)epoch + 1);
    for (long i = 0; i < o->n; i++)
        o->p[i] = i;
    for (long i = o->n - 1; i > 0; i--) {
        long k = (long)bs_rng_below(&r, (uint32_t)i + 1), t = o->p[i];
        o->p[i] = o->p[k];
        o->p[k] = t;
    }
    o->epoch = epoch;
}

long dt_order_at(dt_order *o, long at)
{
    if (at / o->n != o->epoch)
        shuffle(o, at / o->n);
    return o->p[at % o->n];
}
