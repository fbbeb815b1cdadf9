/* thirds.c - the loops around fp32 products whose numbers are split in three (thirds.h):
 *
 *   a stretch of k  >  as many rows of A as the scratch holds, split by each thread for itself, or together and then waited for
 *     items: (block of rows) x (chunk of columns), each taken by one thread  >  a step of k  >  strips of B, split where they are used  >  tiles
 *
 * Tiles add into an item's own sums, which lie tile by tile in the second cache and become rows of C at its end. A step of a strip stays split in the
 * first cache; a weight is held as fp32, once. The order of a sum depends on k alone. */
#include <limits.h>

#include "thirds.h"
#include "work.h"

enum { STEP = 128, STRETCH = 3072 };  /* of k: between visits to the sums; between visits to C */
enum { ROWS = 288, MORE_ROWS = 448 }; /* of an item, but for its last tile; the latter where all their k is short */
enum { SHORT = 1 << 20 };             /* bytes of A, split */
enum { SUMS = 224 };                  /* tiles of an item's sums */
/* With so few tiles of rows all that a step of k needs stays in the first cache, and what is fetched from memory meanwhile does not hold it up. */
enum { FEW_TILES = 4, FEW_STEP = 64 };
enum { ROWS_AHEAD = 4, LINE_FLOATS = 16 }; /* of C, which comes from memory before it is written */
enum { LINE = 12288 };                     /* of a worker's strip: floats for two split pieces, then those of a row */
enum { MOST = 32 };                        /* rows and columns of a tile */
_Static_assert(SUMS *MOST *MOST <= KN_A_FLOATS && LINE + SUMS * MOST <= KN_KC * KN_GROUP * MOST &&
                   2 * STEP * MOST * 6 <= LINE * 4,
               "a worker's scratch is too small");

typedef struct job {
    kn_work *w;
    const kn_thirds *u;
    kn_gemm g;         /* of the stretch at hand: it ends as the product does, or begins from C */
    unsigned long id;  /* of the stretch */
    long k0, k;        /* where it lies */
    uint8_t *a;        /* tiles of rows [row0, row0 + rows) or, where each worker has its `own`, of its block */
    size_t tile, room; /* bytes of a tile of A, and of a worker's own */
    bool own;
    long row0, rows, block, tall; /* the rows at hand; those of an item, a multiple of those of a tile */
    long chunk, each;             /* columns of an item, a multiple of nr; chunks of a product */
    bool few;                     /* tiles of rows */
    long step;                    /* of k */
    kn_items items;
} job;

static size_t split_bytes(const kn_thirds *u, long k) { return (size_t)((k + u->deep - 1) / u->deep * u->split); }
static long tiles_of(const job *j, long rows) { return (rows + j->tall - 1) / j->tall; }

/* Rows [row, row + rows) of those at hand, as tiles. */
static void split_rows(const job *j, long row, long rows, uint8_t *to)
{
    const kn_gemm *g = &j->g;
    for (long end = row + rows; row < end; row += j->tall, to += j->tile) {
        long i = j->row0 + row;
        const float *x = g->ta ? g->a + j->k0 * g->lda + i : g->a + i * g->lda + j->k0;
        j->u->split_a(j->k, kn_min(j->tall, end - row), x, g->lda, g->ta, to);
    }
}

/* Tiles [begin, end) of A. */
static void prepare(void *arg, long begin, long end, int worker)
{
    const job *j = arg;
    (void)worker;
    j->u->begin();
    split_rows(j, begin * j->tall, kn_min(end * j->tall, j->rows) - begin * j->tall, j->a + (size_t)begin * j->tile);
    j->u->end();
}

/* Where the tiles of a block lie; a worker's own are split when it comes to them. */
static const uint8_t *tiles_at(const job *j, kn_worker *me, long block, long rows)
{
    if (!j->own)
        return j->a + (size_t)(block * j->block / j->tall) * j->tile;
    uint8_t *a = j->a + (size_t)(me - j->w->worker) * j->room;
    if (me->job != j->id || me->block != block)
        split_rows(j, block * j->block, rows, a);
    me->job = j->id;
    me->block = block;
    return a;
}

/* An item on its way: its rows, and the steps of its strips in their order. */
typedef struct item {
    long row0, rows, tiles;
    long j0, n, strips, steps;
    const uint8_t *a;
    float *sums;
} item;

/* A step of k of a strip: its column, and k from p of the stretch on. */
typedef struct piece {
    long strip, column, p, k;
} piece;

/* Where few rows read a weight's strip, it is read from end to end; else a step of k of all strips, whose sums are more than the first cache holds. Behind the
 * last piece come those of the next columns. */
static piece piece_of(const job *j, const item *it, long i)
{
    long all = it->strips * it->steps, behind = i >= all ? it->strips : 0;
    i -= behind ? all : 0;
    long strip = behind + (j->few ? i / it->steps : i % it->strips), p = (j->few ? i % it->steps : i / it->strips) * j->step;
    return (piece){strip, it->j0 + strip * j->u->nr, p, kn_max(0, kn_min(j->step, j->k - p))};
}

/* A piece of B as it lies: lines along k, or `turned` rows of columns, ld apart. */
typedef struct strip {
    const float *x;
    long columns, ld;
    bool turned;
} strip;

static strip strip_at(const job *j, piece at)
{
    const kn_gemm *g = &j->g;
    long k = j->k0 + at.p, nr = j->u->nr, n = kn_min(nr, g->n - at.column);
    if (g->packed)
        return (strip){(const float *)g->packed->data + at.column * g->packed->k + k * nr, nr, nr, true};
    return (strip){g->tb ? g->b + at.column * g->ldb + k : g->b + k * g->ldb + at.column, n, g->ldb, !g->tb};
}

static void split_piece(const job *j, piece at, uint8_t *to)
{
    strip b = strip_at(j, at);
    j->u->split_b(at.k, b.columns, b.x, b.ld, b.turned, to);
}

/* How a piece is split a step at a time; all of its rows and columns must be there, and no line has to be turned: else there are no steps. */
static kn_splitting splitting_of(const job *j, piece at, uint8_t *to)
{
    strip b = strip_at(j, at);
    bool whole = b.turned && b.columns == j->u->nr && at.k % j->u->deep == 0;
    return (kn_splitting){b.x, b.ld, to, 0, whole ? (unsigned long)at.k / 2 : 0};
}

/* What of a packed weight is read there. */
static kn_soon weights_at(const job *j, piece at)
{
    if (!j->g.packed || at.column >= j->g.n)
        return (kn_soon){(const uint8_t *)"", 0};
    return (kn_soon){(const uint8_t *)strip_at(j, at).x, at.k * j->u->nr * (long)sizeof(float)};
}

/* All rows of an item by a piece of B; meanwhile the next one is split, and the one behind that asked for. */
static void one_piece(const job *j, const item *it, piece at, const uint8_t *b, kn_splitting *next, kn_soon weights)
{
    const kn_thirds *u = j->u;
    const uint8_t *a = it->a + split_bytes(u, at.p);
    float *sums = it->sums + at.strip * it->tiles * u->sums;
    long of_weights = kn_round_up((weights.bytes + it->tiles - 1) / it->tiles, KN_LINE);
    unsigned long tiles = (unsigned long)it->tiles, of_next = (next->steps + tiles - 1) / tiles;
    for (long i = 0, asked = 0; i < it->rows; i += j->tall, asked += of_weights, a += j->tile, sums += u->sums) {
        kn_meanwhile also = {.next = next, .share = of_next};
        also.weights = (kn_soon){weights.at + asked, kn_min(of_weights, weights.bytes - asked)};
        also.sums = (kn_soon){(const uint8_t *)(sums + u->sums), !j->few && at.p > 0 ? u->sums * (long)sizeof *sums : 0};
        u->tile(at.k, a, b, sums, (int)kn_min(j->tall, it->rows - i), at.p > 0, &also);
    }
}

static void all_pieces(const job *j, const item *it, uint8_t *scratch)
{
    uint8_t *b[2] = {scratch, scratch + split_bytes(j->u, STEP)};
    long pieces = it->strips * it->steps;
    split_piece(j, piece_of(j, it, 0), b[0]);
    for (long i = 0; i < pieces; i++) {
        piece next = piece_of(j, it, i + 1);
        uint8_t *to = b[(i + 1) % 2];
        kn_splitting beside = i + 1 < pieces ? splitting_of(j, next, to) : (kn_splitting){0};
        one_piece(j, it, piece_of(j, it, i), b[i % 2], &beside, weights_at(j, piece_of(j, it, i + 2)));
        if (i + 1 < pieces && !beside.steps)
            split_piece(j, next, to);
    }
}

/* One row by weights that are not split. */
static void all_single(const job *j, const item *it)
{
    for (long i = 0; i < it->strips * it->steps; i++) {
        piece at = piece_of(j, it, i);
        j->u->single(at.k, it->a + split_bytes(j->u, at.p), strip_at(j, at).x, it->sums + at.strip * j->u->sums, at.p > 0,
                     weights_at(j, piece_of(j, it, i + 1)));
    }
}

static void finish(const job *j, const item *it, float *line)
{
    const kn_thirds *u = j->u;
    const kn_gemm *g = &j->g;
    bool plain = g->alpha == 1 && !g->accumulate && !g->bias && g->act == KN_NONE && !g->residual && it->n % u->nr == 0;
    for (long i = 0; i < it->rows; i++) {
        const float *sums = it->sums + i / j->tall * u->sums;
        const float *soon = g->c + (j->row0 + it->row0 + kn_min(i + ROWS_AHEAD, it->rows - 1)) * g->ldc + it->j0;
        for (long column = 0; column < it->n; column += LINE_FLOATS)
            __builtin_prefetch(soon + column, 1);
        float *to = plain ? g->c + (j->row0 + it->row0 + i) * g->ldc + it->j0 : line;
        for (long column = 0; column < it->n; column += u->nr, sums += it->tiles * u->sums)
            u->row(sums, (int)(i % j->tall), to + column);
        if (!plain)
            kn_finish_row(j->w->t, g, j->row0 + it->row0 + i, it->j0, it->n, line);
    }
}

static void one_item(const job *all, kn_worker *me, kn_item of)
{
    const kn_gemm *g = kn_product_of(&all->g, &of.chunk, all->each);
    if (!g)
        return;
    job own = *all, *j = &own;
    j->g = *g;
    item it = {.row0 = of.block * j->block, .j0 = of.chunk * j->chunk, .steps = (j->k + j->step - 1) / j->step, .sums = me->a};
    it.n = kn_min(j->chunk, j->g.n - it.j0);
    it.rows = kn_min(j->block, j->rows - it.row0);
    it.tiles = tiles_of(j, it.rows);
    it.strips = (it.n + j->u->nr - 1) / j->u->nr;
    it.a = tiles_at(j, me, of.block, it.rows);
    if (it.rows == 1 && j->g.packed && j->k % j->u->deep == 0)
        all_single(j, &it);
    else
        all_pieces(j, &it, (uint8_t *)me->strip);
    finish(j, &it, me->strip + LINE);
}

static void run_items(void *arg, long begin, long end, int worker)
{
    const job *j = arg;
    kn_worker *me = &j->w->worker[worker];
    j->u->begin();
    for (long i = begin; i < end; i++)
        one_item(j, me, kn_next_item(j->w, me, j->items));
    j->u->end();
}

/* How many of the strips are a chunk, so that the thread with most to do has least, in eighths of a strip's time: each chunk reads its rows of A anew, and the
 * last may find that no other thread is at work. */
static long best_chunk(long blocks, long strips, long most, int threads)
{
    long best = 1, least = LONG_MAX;
    for (long c = kn_min(most, strips); c > 0; c--) {
        long items = blocks * ((strips + c - 1) / c), rounds = (items + threads - 1) / threads;
        long eighths = 8 * rounds * (c + 1) + c;
        if (eighths < least)
            best = c, least = eighths;
    }
    return best;
}

/* Rows in equal blocks, columns in chunks whose sums fit. */
static void cut(job *j)
{
    long nr = j->u->nr, strips = (j->g.n + nr - 1) / nr;
    long most_rows = kn_max(ROWS, kn_min(MORE_ROWS, SHORT / (long)j->tile * j->tall));
    long blocks = kn_max((j->rows + most_rows - 1) / most_rows, j->own ? j->w->threads : 1);
    if (j->own)
        blocks = kn_round_up(blocks, j->w->threads);
    j->block = kn_round_up((j->rows + blocks - 1) / blocks, j->tall);
    blocks = (j->rows + j->block - 1) / j->block;
    long tiles = tiles_of(j, j->block), most = SUMS / tiles;
    j->few = tiles <= FEW_TILES;
    j->step = j->few ? FEW_STEP : STEP;
    long products = kn_products(&j->g);
    j->chunk = nr * (j->few ? kn_halved_chunk(products, strips, most, j->w->threads) /* few rows read A anew for nothing */
                            : best_chunk(blocks * products, strips, most, j->w->threads));
    j->each = (j->g.n + j->chunk - 1) / j->chunk;
    j->items = kn_cut(blocks, products * j->each, j->w->threads);
}

/* Where there are rows enough for each thread to have blocks of its own, it splits them itself and has them at hand: what another core has just written comes
 * slowly. */
static bool cut_apart(job *j, long m)
{
    enum { EACH = 64 };
    j->rows = m;
    j->room = KN_SHARED_BYTES / (size_t)j->w->threads / KN_LINE * KN_LINE;
    j->own = m >= (long)EACH * j->w->threads;
    if (j->own)
        cut(j);
    j->own = j->own && (size_t)tiles_of(j, j->block) * j->tile <= j->room;
    return j->own;
}

/* Else as many rows come together as the shared scratch has room for. */
static void run_stretch(job *j, long m)
{
    j->tile = split_bytes(j->u, j->k);
    j->id = ++j->w->jobs;
    j->row0 = 0;
    if (cut_apart(j, m)) {
        kn_share_out(j->w, j->items, run_items, j);
        return;
    }
    long most = (long)(KN_SHARED_BYTES / j->tile) * j->tall;
    for (; j->row0 < m; j->row0 += most) {
        j->rows = kn_min(most, m - j->row0);
        cut(j);
        kn_prepare(j->w, j->rows * j->k, tiles_of(j, j->rows), prepare, j);
        kn_share_out(j->w, j->items, run_items, j);
    }
}

/* A stretch that is not the last leaves its sums in C; one that is not the first begins from there. */
static kn_gemm part_of(const kn_gemm *g, bool begins, bool ends)
{
    kn_gemm part = *g;
    if (!begins)
        part.accumulate = true;
    if (!ends)
        part.bias = part.residual = NULL, part.act = KN_NONE;
    return part;
}

void kn_thirds_run(kn_work *w, const kn_thirds *u, const kn_gemm *g)
{
    job j = {.w = w, .u = u, .a = (uint8_t *)w->b, .tall = kn_tile_height(u->mr, g->m)};
    long stretches = (g->k + STRETCH - 1) / STRETCH;
    if (stretches > 1 && g->also) { /* sums that wait in C are of one product */
        kn_run_apart(w, g);
        return;
    }
    long each = kn_round_up((g->k + stretches - 1) / stretches, STEP);
    for (j.k0 = 0; j.k0 < g->k; j.k0 += each) {
        j.k = kn_min(each, g->k - j.k0);
        j.g = part_of(g, j.k0 == 0, j.k0 + j.k >= g->k);
        run_stretch(&j, g->m);
    }
}
