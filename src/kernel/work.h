/* work.h - inside the portable loops only: the workspace, and products of operands that lie in any of the tile's forms. */
#ifndef KN_WORK_H
#define KN_WORK_H

#include <stdatomic.h>

#include "thirds.h"

/* A tile's sums over k are cut at multiples of this, always: it is part of what a tier's bits mean (thirds.h has its own order). */
enum { KN_KC = 256 };
/* Strips of B that are packed together. */
enum { KN_GROUP = 4 };

/* One thread's scratch. `job` and `block` say which rows of A lie packed in `a` (thirds.c: in its part of
 * the shared floats). `begun` is the span of the running job that this thread has begun,
 * in the upper half, and the next of its chunks: in one number, so that who takes a chunk knows whose it is. `at` is whose chunks this
 * thread takes. Padded to keep threads off each other's lines. */
typedef struct kn_worker {
    float *a, *strip; /* A_FLOATS; KN_KC * KN_GROUP * nr */
    unsigned long job;
    long block;
    _Atomic uint64_t begun;
    struct kn_worker *at;
    char padding[16];
} kn_worker;

struct kn_work {
    const kn_table *t;
    kn_micro fp32;           /* the table's own micro-kernel */
    const kn_micro *bf16;    /* NULL: the CPU has none */
    const kn_thirds *thirds; /* likewise */
    bs_pool *pool;
    int threads;
    long unasked;          /* rows up to which weights are not asked for ahead: the CPU reads in order faster by itself */
    long by_strips;        /* rows up to which several strips of a weight are read at once */
    atomic_long next_span; /* of the running job: the first that nobody has begun */
    unsigned long jobs;    /* so many parallel loops were started; names the packed A of one */
    kn_worker *worker;
    float *b; /* B_FLOATS: the panel of B that all threads share; also partial sums, or tiles of A */
    float *memory;
    size_t bytes;
};
enum { KN_A_FLOATS = 1 << 18, KN_B_FLOATS = 1 << 21, KN_SHARED_BYTES = KN_B_FLOATS * 4 };

/* Element (p, i) of an operand, p along the sum: at[p * step + (i / width) * panel + i % width], width the tile's mr or nr.
 * A matrix whose rows run along p is {x, ld, width}; packed strips of k rows are {p, width, k * width}. */
typedef struct kn_operand {
    const float *at;
    long step, panel;
} kn_operand;

/* c[m, n] = (accumulate ? c : 0) + alpha * sum over k, in blocks of KN_KC. */
void kn_tiles(const kn_table *t, long m, long n, long k, kn_operand a, kn_operand b, float *c, long ldc, float alpha,
              bool accumulate);
/* Packs x, w elements wide and k long, into strips of `width`; p holds round_up(w, width) * k floats. transpose as in
 * kn_table.pack. */
kn_operand kn_pack_strips(const kn_table *t, long k, long w, long width, const float *x, long ld, bool transpose, float *p);

/* A job's items: blocks of rows, each of so many spans of so many chunks of columns. A block's last chunks may lie behind its columns. */
typedef struct kn_items {
    long blocks, spans, chunks;
} kn_items;
typedef struct kn_item {
    long block, chunk; /* of all of the block's */
} kn_item;
/* Fewer blocks than threads are cut into spans, no more than there are threads: each begins one, packs that block and no other, and reads what lies in a row; who
 * has none helps. But a chunk alone wakes nobody. */
kn_items kn_cut(long blocks, long chunks, int threads);
/* So many of `strips` are a chunk, at most `most`, halved until all threads find work to the end. */
long kn_halved_chunk(long blocks, long strips, long most, int threads);
/* A chunk is a multiple of so many strips: of those that are read at once, or of a thread's share where that is less. */
long kn_strips_of_chunk(long at_once, long strips, int threads);
/* Calls prepare(arg, begin, end, worker) for all tiles of the rows at hand, on all threads if their numbers are worth it, and waits. */
void kn_prepare(kn_work *w, long numbers, long tiles, bs_work *prepare, void *arg);
/* Can g and all that is to be computed beside it share an A? */
bool kn_goes_together(const kn_gemm *g);
/* Of products with `each` chunks the one that *chunk is of, which becomes its own; NULL: behind them all. */
const kn_gemm *kn_product_of(const kn_gemm *g, long *chunk, long each);
/* Computes them one after another. */
void kn_run_apart(kn_work *w, const kn_gemm *g);
/* How many products g begins. */
long kn_products(const kn_gemm *g);
/* Calls run(arg, begin, end, worker) on all threads; it takes its end - begin items from kn_next_item(). A thread stays with the span that it has begun, whose
 * operands it has at hand, one chunk after another, then begins one that nobody has, then helps where most is left, and stays there. There are as many calls
 * as items, so that each finds one. */
void kn_share_out(kn_work *w, kn_items of, bs_work *run, void *arg);
kn_item kn_next_item(kn_work *w, kn_worker *me, kn_items of);

/* Row i of the columns [j0, j0 + n): alpha times its sums, what g adds to them, and into C. The sums are used up. */
void kn_finish_row(const kn_table *t, const kn_gemm *g, long i, long j0, long n, float *sum);

/* How many of mr rows a tile uses, so that the last one is not left with few, which take as long as some more. */
static inline int kn_tile_height(int mr, long m)
{
    long tiles = (m + mr - 1) / mr;
    return tiles < mr ? (int)((m + tiles - 1) / tiles) : mr; /* else one odd tile is lost among many */
}

static inline long kn_round_up(long n, long step) { return (n + step - 1) / step * step; }
static inline long kn_min(long a, long b) { return a < b ? a : b; }
static inline long kn_max(long a, long b) { return a > b ? a : b; }

#endif
