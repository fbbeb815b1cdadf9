/* sharing.c - who of the threads computes what of a job whose items are chunks of spans. */
#include "work.h"

enum { HALF = 32 }; /* bits of kn_worker.begun that count chunks */

/* The next chunk of the span that a thread has begun; none is left when the span has no more than that. */
static kn_item chunk_of(kn_worker *of)
{
    uint64_t taken = atomic_fetch_add(&of->begun, 1);
    return (kn_item){(long)(taken >> HALF), (long)(taken & UINT32_MAX)};
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
    kn_item next = chunk_of(me);
    while (next.chunk >= of.chunks) {
        long span = atomic_load(&w->next_span) < of.spans ? atomic_fetch_add(&w->next_span, 1) : of.spans;
        if (span < of.spans)
            atomic_store(&me->begun, (uint64_t)span << HALF);
        next = chunk_of(span < of.spans ? me : behind(w));
    }
    return next;
}

void kn_share_out(kn_work *w, kn_items of, bs_work *run, void *arg)
{
    atomic_store(&w->next_span, 0);
    for (int i = 0; i < w->threads; i++)
        atomic_store(&w->worker[i].begun, UINT32_MAX / 2);
    bs_pool_for(w->pool, of.spans * of.chunks, 1, run, arg);
}
