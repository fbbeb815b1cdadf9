/* sharing.c - how a job is cut into chunks of spans of blocks, and who of the threads computes which. */
#include "work.h"

enum { HALF = 32 };     /* bits of kn_worker.begun that count chunks */
enum { FEW = 1 << 15 }; /* numbers that are not worth waking threads for */

kn_items kn_cut(long blocks, long chunks, int threads)
{
    long spans = blocks < threads ? kn_min(threads / kn_max(blocks, 1), kn_max(chunks, 1)) : 1;
    return (kn_items){blocks, spans, (chunks + spans - 1) / spans};
}

long kn_halved_chunk(long blocks, long strips, long most, int threads)
{
    enum { EACH = 8 };
    long wanted = threads > 1 ? EACH * threads : 1, c = kn_min(most, strips);
    while (c > 2 && blocks * ((strips + c - 1) / c) < wanted)
        c = (c + 1) / 2;
    return c;
}

long kn_strips_of_chunk(long at_once, long strips, int threads) { return kn_min(at_once, (strips + threads - 1) / threads); }

void kn_prepare(kn_work *w, long numbers, long tiles, bs_work *prepare, void *arg)
{
    if (numbers <= FEW)
        prepare(arg, 0, tiles, 0);
    else
        bs_pool_for(w->pool, tiles, 1, prepare, arg);
}

bool kn_goes_together(const kn_gemm *g)
{
    for (const kn_gemm *o = g->also; o; o = o->also)
        if (o->m != g->m || o->n != g->n || o->k != g->k || o->a != g->a || o->lda != g->lda || o->ta != g->ta || !g->packed ||
            !o->packed || o->packed->dtype != g->packed->dtype || o->packed->group != g->packed->group)
            return false;
    return true;
}

const kn_gemm *kn_product_of(const kn_gemm *g, long *chunk, long each)
{
    for (; g && *chunk >= each; g = g->also)
        *chunk -= each;
    return g;
}

long kn_products(const kn_gemm *g)
{
    long n = 0;
    for (; g; g = g->also)
        n++;
    return n;
}

typedef struct place {
    long span, chunk;
} place;

/* The next chunk of the span that a thread has begun; none is left when the span has no more than that. */
static place chunk_of(kn_worker *of)
{
    uint64_t taken = atomic_fetch_add(&of->begun, 1);
    return (place){(long)(taken >> HALF), (long)(taken & UINT32_MAX)};
}

/* The thread whose span has most chunks left. */
static kn_worker *behind(const kn_work *w)
{
    kn_worker *best = w->worker;
    uint64_t least = UINT32_MAX;
    for (int i = 0; i < w->threads; i++) {
        uint64_t next = atomic_load(&w->worker[i].begun) & UINT32_MAX;
        if (next < least)
            best = &w->worker[i], least = next;
    }
    return best;
}

kn_item kn_next_item(kn_work *w, kn_worker *me, kn_items of)
{
    place next = chunk_of(me->at);
    long spans = of.blocks * of.spans;
    while (next.chunk >= of.chunks) {
        long span = atomic_load(&w->next_span) < spans ? atomic_fetch_add(&w->next_span, 1) : spans;
        if (span < spans)
            atomic_store(&me->begun, (uint64_t)span << HALF);
        me->at = span < spans ? me : behind(w);
        next = chunk_of(me->at);
    }
    return (kn_item){next.span / of.spans, next.span % of.spans * of.chunks + next.chunk};
}

void kn_share_out(kn_work *w, kn_items of, bs_work *run, void *arg)
{
    atomic_store(&w->next_span, 0);
    for (int i = 0; i < w->threads; i++) {
        w->worker[i].at = &w->worker[i];
        atomic_store(&w->worker[i].begun, UINT32_MAX / 2);
    }
    bs_pool_for(w->pool, of.blocks * of.spans * of.chunks, 1, run, arg);
}
