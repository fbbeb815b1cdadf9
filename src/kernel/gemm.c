/* gemm.c - the loops around the micro-kernel, as Goto and van de Geijn (2008) and BLIS (Van Zee, van de Geijn 2015) cut them:
 *
 *   columns of B, as many as the shared panel holds  >  a stretch of k  >  pack B together, wait
 *     items: (block of rows) x (chunk of columns), each taken by one thread  >  rows at once  >  KN_KC of k  >  strips of B  >  tiles
 *
 * A thread packs its block of A first, once, and keeps it for the next chunk of the same block. With a single block
 * of rows nobody shares B, so its strips are packed where they are used. A weight that was packed before is read where it lies, whatever the blocks.
 * An element's sum runs over k in order, cut at multiples of KN_KC, whatever the blocks around it are. */
#include <limits.h>
#include <string.h>

#include "work.h"

enum { CHUNK = 512 };           /* columns: with a block of rows, what of C stays in the second cache */
enum { LINE = 16 };             /* floats */
enum { FEW = 512 };             /* rows: they all lie packed in the second cache */
enum { FEW_NUMBERS = 1 << 19 }; /* of A, which every thread of several packs for itself when all rows are one block */
enum { TURNED = 2 }; /* blocks of A that are packed as one where each row of it comes from another page, as in dW = dY^T X */
enum { FIRST_CACHE = 1 << 13 }; /* floats of A that stay there beside a strip of B on its way */
enum { ITEMS = 16 };            /* for each thread, at least: they end together, also when a neighbour slows one of them */

typedef struct job {
    kn_work *w;
    const kn_gemm *g;
    const kn_micro *u; /* the micro-kernel for this product */
    unsigned long id;
    long tall, rows; /* of a tile and of a block of A */
    long at_once;    /* rows of a block: a piece of k of them stays in the second cache */
    long n0, n;      /* the columns at hand */
    long chunk;      /* columns of an item */
    long each;       /* chunks of a product */
    kn_items items;
    long k0, k;  /* the stretch of k at hand, k0 a multiple of KN_KC */
    bool shared; /* B lies packed in w->b */
    bool last;   /* the stretch ends the sum: the epilogue follows */
} job;

static const float *a_at(const kn_gemm *g, long i, long p) { return g->ta ? g->a + p * g->lda + i : g->a + i * g->lda + p; }
static const float *b_at(const kn_gemm *g, long p, long j) { return g->tb ? g->b + j * g->ldb + p : g->b + p * g->ldb + j; }

kn_operand kn_pack_strips(const kn_table *t, long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    t->pack(k, w, width, x, ld, transpose, p);
    return (kn_operand){p, width, k * width};
}

/* Tiles of one strip of B, at most KN_KC long, added to `old` (none: NULL); each asks for its share of the `floats` that are read `next`. */
static void strip_tiles(const kn_micro *u, long m, int n, long k, kn_operand a, long rows, const float *b, long sb, float *c,
                        long ldc, float alpha, const float *old, long ldo, const float *next, long floats)
{
    long tiles = (m + rows - 1) / rows, each = kn_round_up((floats + tiles - 1) / tiles, LINE);
    for (long i = 0, at = 0; i < m; i += rows, a.at += a.panel, at += each)
        u->tile(k, a.at, a.step, b, sb, c + i * ldc, ldc, (int)kn_min(rows, m - i), n, alpha, old ? old + i * ldo : NULL, ldo,
                at < floats ? next + at : NULL, kn_min(each, floats - at));
}

void kn_tiles(const kn_table *t, long m, long n, long k, kn_operand a, kn_operand b, float *c, long ldc, float alpha,
              bool accumulate)
{
    kn_micro u = {.mr = t->mr, .tile = t->gemm_tile};
    for (long p = 0; p == 0 || p < k; p += KN_KC) {
        kn_operand part = {a.at + p * a.step, a.step, a.panel};
        for (long j = 0, strip = 0; j < n; j += t->nr, strip++)
            strip_tiles(&u, m, (int)kn_min(t->nr, n - j), kn_min(KN_KC, k - p), part, t->mr, b.at + p * b.step + strip * b.panel,
                        b.step, c + j, ldc, alpha, accumulate || p > 0 ? c + j : NULL, ldc, NULL, 0);
    }
}

/* What is in C, or the bias, is what its sums begin with. */
static void sums_begin(const kn_gemm *g, long i0, long j0, bool begun, const float **old, long *ldo)
{
    bool from_c = begun || g->accumulate;
    *old = from_c ? g->c + i0 * g->ldc + j0 : g->bias ? g->bias + j0 : NULL;
    *ldo = from_c ? g->ldc : 0;
}

static void epilogue(const kn_table *t, const kn_gemm *g, long i0, long m, long j0, long n)
{
    bool no_sums = g->k == 0;
    for (long i = i0; i < i0 + m; i++) {
        float *c = g->c + i * g->ldc + j0;
        if (no_sums && !g->accumulate)
            memset(c, 0, (size_t)n * sizeof *c);
        if (g->bias && (no_sums || g->accumulate))
            t->add(n, c, g->bias + j0, c);
        if (g->act != KN_NONE)
            t->act(g->act, n, c, c);
        if (g->residual)
            t->add(n, c, g->residual + i * g->ldc + j0, c);
    }
}

void kn_finish_row(const kn_table *t, const kn_gemm *g, long i, long j0, long n, float *sum)
{
    float *c = g->c + i * g->ldc + j0;
    bool act = g->act != KN_NONE;
    if (g->alpha != 1)
        t->scale(n, g->alpha, sum, sum);
    if (g->accumulate)
        t->add(n, sum, c, sum);
    if (g->bias)
        t->add(n, sum, g->bias + j0, act || g->residual ? sum : c);
    if (act)
        t->act(g->act, n, sum, g->residual ? sum : c);
    if (g->residual)
        t->add(n, sum, g->residual + i * g->ldc + j0, c);
    if (!g->bias && !act && !g->residual)
        memcpy(c, sum, (size_t)n * sizeof *c);
}

/* Packs groups of strips of B into the panel: for each KN_KC of the stretch, all strips in a row. */
static void pack_panel(void *arg, long begin, long end, int worker)
{
    const job *j = arg;
    const kn_micro *u = j->u;
    long width = KN_GROUP * u->nr, groups = (j->n + width - 1) / width;
    (void)worker;
    for (long i = begin; i < end; i++) {
        long p = i / groups * KN_KC, column = i % groups * width, k = kn_min(KN_KC, j->k - p);
        u->pack_b(k, kn_min(width, j->n - column), u->nr, b_at(j->g, j->k0 + p, j->n0 + column), j->g->ldb, j->g->tb,
                  j->w->b + p * kn_round_up(j->n, u->nr) + column * k);
    }
}

/* Where the strip of B at `column` of the columns at hand lies packed, p into the stretch of k; NULL: nowhere yet. */
static const float *packed_strip(const job *j, long p, long k, long column)
{
    if (j->g->packed)
        return (const float *)j->g->packed->data + (j->n0 + column) * j->g->k + (j->k0 + p) * j->u->nr;
    return j->shared ? j->w->b + p * kn_round_up(j->n, j->u->nr) + column * k : NULL;
}

/* The same strip; at the head of a group it may be packed now. */
static const float *strip_of_b(const job *j, kn_worker *me, long p, long k, long column, long begin, long end)
{
    const kn_micro *u = j->u;
    const float *packed = packed_strip(j, p, k, column);
    if (packed)
        return packed;
    long in_group = (column - begin) % (KN_GROUP * u->nr);
    if (in_group == 0)
        u->pack_b(k, kn_min(KN_GROUP * u->nr, end - column), u->nr, b_at(j->g, j->k0 + p, j->n0 + column), j->g->ldb, j->g->tb,
                  me->strip);
    return me->strip + in_group * k;
}

/* How many strips of B are read at once. */
static int strips_at_once(const job *j)
{
    return j->g->packed && j->g->m <= kn_min(j->w->by_strips, j->u->mr) ? kn_strips(j->g->m) : 1;
}

/* What a thread reads of packed B after the strip at `column`: the next of the same piece of k, the first of the next, or of the next item. NULL: not packed,
 * or the CPU fetches it faster unasked. */
static const float *next_strip(const job *j, long p, long k, long column, long begin, long end, long *floats)
{
    const float *next = NULL;
    *floats = 0;
    if (j->g->m <= j->w->unasked || strips_at_once(j) > 1)
        return NULL;
    if (column + j->u->nr < end)
        next = packed_strip(j, p, k, column + j->u->nr);
    else if (p + KN_KC < j->k)
        k = kn_min(KN_KC, j->k - p - KN_KC), next = packed_strip(j, p + KN_KC, k, begin);
    else if (end < j->n)
        k = kn_min(KN_KC, j->k), next = packed_strip(j, 0, k, end);
    *floats = next ? k * j->u->nr : 0;
    return next;
}

/* Packs a block of A, a piece of k after the other. */
static void pack_block(const job *j, kn_worker *me, long i0, long m)
{
    for (long p = 0; p < j->k; p += KN_KC)
        j->u->pack_a(kn_min(KN_KC, j->k - p), m, j->tall, a_at(j->g, i0, j->k0 + p), j->g->lda, !j->g->ta, me->a + p * j->rows);
}

/* A piece of k of some rows of an item: they begin `into` its block, which begins with row i0. */
static void one_piece(const job *j, kn_worker *me, long i0, long into, long m, long p, long begin, long end)
{
    const kn_micro *u = j->u;
    const kn_gemm *g = j->g;
    long k = kn_min(KN_KC, j->k - p), i = i0 + into;
    int strips = strips_at_once(j);
    kn_operand a = {me->a + p * j->rows + into * k, j->tall, k * j->tall};
    for (long column = begin, wide, ahead, ldo; column < end; column += wide) {
        long at = j->n0 + column;
        const float *old;
        sums_begin(g, i, at, j->k0 + p > 0, &old, &ldo);
        const float *b = strip_of_b(j, me, p, k, column, begin, end);
        bool together = strips > 1 && column + strips * u->nr <= end;
        wide = together ? strips * u->nr : u->nr;
        if (together) {
            u->strips(k, a.at, b, g->k * u->nr, g->c + i * g->ldc + at, g->ldc, (int)m, g->alpha, old, ldo);
            continue;
        }
        const float *next = next_strip(j, p, k, column, begin, end, &ahead);
        strip_tiles(u, m, (int)kn_min(u->nr, end - column), k, a, j->tall, b, u->nr, g->c + i * g->ldc + at, g->ldc, g->alpha,
                    old, ldo, next, ahead);
    }
}

static void one_item(const job *all, kn_worker *me, kn_item of)
{
    job own = *all, *j = &own;
    j->g = kn_product_of(all->g, &of.chunk, all->each);
    if (!j->g)
        return;
    long i0 = of.block * j->rows, m = kn_min(j->rows, j->g->m - i0);
    long begin = of.chunk * j->chunk, end = kn_min(begin + j->chunk, j->n);
    bool packed = me->job == j->id && me->block == of.block;
    /* Where one tile of rows, all of it in the first cache, reads packed strips once, each is read from end to end: weights come from memory fastest in a row. */
    bool in_a_row = j->g->packed && m <= j->tall && m * j->k <= FIRST_CACHE;
    long width = in_a_row ? strips_at_once(j) * j->u->nr : end - begin;
    if (!packed)
        pack_block(j, me, i0, m);
    for (long into = 0; into < m; into += j->at_once)
        for (long column = begin; column < end; column += width)
            for (long p = 0; p < j->k; p += KN_KC)
                one_piece(j, me, i0, into, kn_min(j->at_once, m - into), p, column, kn_min(column + width, end));
    me->job = j->id;
    me->block = of.block;
    if (j->last)
        epilogue(j->w->t, j->g, i0, m, j->n0 + begin, end - begin);
}

static void run_items(void *arg, long begin, long end, int worker)
{
    const job *j = arg;
    kn_worker *me = &j->w->worker[worker];
    if (j->u->begin)
        j->u->begin();
    for (long k = begin; k < end; k++)
        one_item(j, me, kn_next_item(j->w, me, j->items));
    if (j->u->end)
        j->u->end();
}

/* ---- how it is cut --------------------------------------------------------------------------------------------------- */

/* What a tile of h rows takes, in rows: few take as long as some more, and each tile a row's time besides, for what it reads of B. */
static long cost_of_tile(long h)
{
    enum { LEAST = 4 };
    return h > 0 ? kn_max(h, LEAST) + 1 : 0;
}

/* How tall tiles are best for m rows: the last should not be left with few. */
static long tile_height(const kn_micro *u, long m)
{
    enum { LOWEST = 5, OF_TWO = 4 }; /* tiles of four have too few sums for many of them to be at full speed */
    if (m <= u->mr)
        return m;
    long best = u->mr, least = LONG_MAX;
    for (long h = u->mr; h >= (m <= 2L * u->mr ? OF_TWO : LOWEST); h--) {
        long cost = m / h * cost_of_tile(h) + cost_of_tile(m % h);
        if (cost < least)
            best = h, least = cost;
    }
    return best;
}

/* More of them than rows ask for, where many threads would not find two items each among so few columns. */
static long enough_blocks(long blocks, long strips, int threads)
{
    enum { EACH = 2 };
    long wanted = (EACH * threads + strips - 1) / strips;
    return threads > 1 && wanted > blocks ? wanted : blocks;
}

/* Rows in equal blocks of at most mc, or one of few, or of more where A is turned and every thread has one, or of less where columns are too few for all threads;
 * columns in chunks small enough that every thread finds work to the end. With one block every thread has a span of its own: weights that few rows meet come from
 * memory, which is read fastest in a row. */
static void cut(job *j, long columns)
{
    const kn_micro *u = j->u;
    int threads = j->w->threads;
    j->tall = u->pack_a == u->pack_b ? tile_height(u, j->g->m) : u->mr;
    /* B costs as much to pack as 32 rows to compute: with few rows it is packed once, by the thread that then reads it from its own cache. */
    bool one = !j->g->packed && j->g->m <= FEW && (threads == 1 || j->g->m * j->g->k <= FEW_NUMBERS);
    bool turned = !one && j->g->ta && j->g->m >= threads * TURNED * (long)u->mc;
    long most = one ? FEW : turned ? TURNED * u->mc : u->mc;
    long products = kn_products(j->g), strips = (columns + u->nr - 1) / u->nr;
    long blocks = enough_blocks((j->g->m + most - 1) / most, products * strips, threads);
    long tiles = (j->g->m + j->tall - 1) / j->tall;
    j->rows = (tiles + blocks - 1) / blocks * j->tall;
    j->at_once = turned ? kn_round_up(j->rows / TURNED, j->tall) : j->rows;
    j->n = columns;
    long parts = blocks * products;
    long least = threads > 1 ? (ITEMS * threads + parts - 1) / parts : 1;
    long chunks = kn_max((columns + CHUNK - 1) / CHUNK, least);
    j->chunk = kn_round_up((columns + chunks - 1) / chunks, kn_strips_of_chunk(strips_at_once(j), strips, threads) * u->nr);
    j->each = (columns + j->chunk - 1) / j->chunk;
    j->items = kn_cut((j->g->m + j->rows - 1) / j->rows, products * j->each, threads);
}

/* How much of k fits a worker's A and, with the columns, the shared B; a multiple of KN_KC. All columns if two pieces of them fit: A is packed once for them. */
static long stretch(const job *j)
{
    long by_a = KN_A_FLOATS / j->rows / KN_KC * KN_KC, by_b = KN_B_FLOATS / kn_round_up(j->g->n, j->u->nr) / KN_KC * KN_KC;
    return kn_max(KN_KC, j->shared && by_b >= 2 * KN_KC ? kn_min(by_a, by_b) : by_a);
}

/* How many columns of a stretch of B the shared panel holds; as many each time. */
static long columns_at_hand(const job *j, long step)
{
    long n = j->g->n, most = KN_B_FLOATS / kn_min(step, kn_round_up(j->g->k + 1, KN_KC)) / j->u->nr * j->u->nr;
    long times = j->shared ? (n + most - 1) / kn_max(most, j->u->nr) : 1;
    return kn_round_up((n + times - 1) / times, j->u->nr);
}

static void run_stretch(job *j, bs_pool *pool)
{
    if (j->shared) {
        long width = KN_GROUP * j->u->nr;
        bs_pool_for(pool, (j->n + width - 1) / width * ((j->k + KN_KC - 1) / KN_KC), 1, pack_panel, j);
    }
    kn_share_out(j->w, j->items, run_items, j);
}

/* Packed bf16 needs the last piece of k to be no shorter than its strips' room; it depends on k alone, so that a row's
 * bits do too. */
static const kn_micro *choose(const kn_work *w, const kn_gemm *g)
{
    long tail = g->k % KN_KC;
    return g->bf16 && !g->packed && w->bf16 && g->k >= 32 && (tail == 0 || tail >= 16) ? w->bf16 : &w->fp32;
}

static bool nothing_to_do(const kn_gemm *g) { return g->m <= 0 || g->n <= 0; }
static bool is_low(const kn_gemm *g) { return g->packed && g->packed->dtype != KN_F32; }

void kn_run_apart(kn_work *w, const kn_gemm *g)
{
    for (; g; g = g->also) {
        kn_gemm one = *g;
        one.also = NULL;
        kn_gemm_run(w, &one);
    }
}

void kn_gemm_run(kn_work *w, const kn_gemm *g)
{
    if (g->also && !kn_goes_together(g)) {
        kn_run_apart(w, g);
        return;
    }
    if (nothing_to_do(g))
        return;
    if (is_low(g)) {
        kn_low_run(w, g);
        return;
    }
    job j = {.w = w, .g = g, .u = choose(w, g)};
    if (w->thirds && j.u == &w->fp32 && kn_thirds_take(g)) {
        kn_thirds_run(w, w->thirds, g);
        return;
    }
    cut(&j, g->n);
    j.shared = j.items.blocks > 1 && !g->packed;
    long step = stretch(&j), columns = columns_at_hand(&j, step);
    for (j.n0 = 0; j.n0 < g->n; j.n0 += columns) {
        cut(&j, kn_min(columns, g->n - j.n0));
        for (j.k0 = 0; j.k0 == 0 || j.k0 < g->k; j.k0 += step) {
            j.k = kn_min(step, g->k - j.k0);
            j.last = j.k0 + j.k >= g->k;
            j.id = ++w->jobs;
            run_stretch(&j, w->pool);
        }
    }
}
