/* work.c - the workspace: packed operands of every thread, allocated once. */
#include "work.h"

kn_work *kn_work_open(const kn_table *t, bs_pool *pool, oc_err *err)
{
    kn_work *w = bs_calloc(1, sizeof *w, "a kernel workspace", err);
    if (!w)
        return NULL;
    w->t = t;
    w->fp32 = (kn_micro){.mr = t->mr,
                         .nr = t->nr,
                         .mc = t->mc,
                         .tile = t->gemm_tile,
                         .strips = t->gemm_strips,
                         .pack_a = t->pack,
                         .pack_b = t->pack};
    w->bf16 = kn_bf16_micro(t);
    const kn_thirds *thirds = kn_thirds_of(t);
    w->thirds = thirds && thirds->nr == t->nr ? thirds : NULL; /* packed weights are cut by the table's nr */
    w->pool = pool;
    w->threads = bs_pool_threads(pool);
    w->unasked = kn_rows_unasked();
    w->by_strips = kn_rows_by_strips();
    int widest = w->bf16 && w->bf16->nr > t->nr ? w->bf16->nr : t->nr;
    size_t strip = (size_t)KN_KC * KN_GROUP * (size_t)widest, each = KN_A_FLOATS + strip;
    size_t floats = KN_B_FLOATS + each * (size_t)w->threads;
    w->worker = bs_calloc((size_t)w->threads, sizeof *w->worker, "kernel workers", err);
    w->memory = w->worker ? bs_alloc(floats * sizeof *w->memory, "packed operands", err) : NULL;
    if (!w->memory) {
        kn_work_close(w);
        return NULL;
    }
    w->bytes = floats * sizeof *w->memory + (size_t)w->threads * sizeof *w->worker + sizeof *w;
    w->b = w->memory;
    for (int i = 0; i < w->threads; i++) {
        w->worker[i].a = w->memory + KN_B_FLOATS + each * (size_t)i;
        w->worker[i].strip = w->worker[i].a + KN_A_FLOATS;
        w->worker[i].block = -1;
    }
    return w;
}

void kn_work_close(kn_work *w)
{
    if (!w)
        return;
    bs_free(w->memory);
    bs_free(w->worker);
    bs_free(w);
}

size_t kn_work_bytes(const kn_work *w) { return w->bytes; }

const kn_table *kn_work_table(const kn_work *w) { return w->t; }

bs_pool *kn_work_pool(const kn_work *w) { return w->pool; }

bool kn_work_has_bf16(const kn_work *w) { return w->bf16 != NULL; }
