/* low.c - products with weights packed as bf16, int8 or int4: their forms, and the loops around the micro-kernels of low_*.c.
 *
 *   as many rows of A as the scratch holds, quantised or packed once, together  >  wait
 *     items: (block of rows) x (chunk of columns), each taken by one thread  >  a stretch of k  >  strips of W  >  tiles
 *
 * Tiles add into an item's own sums (int32 or fp32), which stay in the second cache and become rows of C at its end. W is used
 * where it lies. Integers are exact, and other sums run over k in an order that depends on k alone. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "work.h"

enum { LINE = 64, BLOCK = 32, OCT = 8 };             /* int4: k in whole blocks, cut into octs */
enum { SUMS = 1 << 15, ROWS = 120, STRETCH = 1024 }; /* of an item: sums, rows at most, k between visits to the sums */
enum { MANY_SUMS = 1 << 16, MANY_ROWS = 256 };       /* the same where squares multiply: so fast that W, which each block reads anew, must serve more rows */
/* A worker's scratch holds an item's sums, or rows that become integers; what all threads share, the tiles. */
enum { WORKER_BYTES = KN_A_FLOATS * 4 };
/* So many products of bytes, 255 * 127 at most, fit an int32; and a row fits a worker's scratch as floats, words and bytes. */
enum { MAX_K = 1 << 16 };
_Static_assert(MAX_K <= WORKER_BYTES / 7 - 2 * LINE && MANY_SUMS * 4 <= WORKER_BYTES, "a worker's scratch is too small");

/* ---- forms ---------------------------------------------------------------------------------------------- */

/* What a weight's form and the tiles of A that meet it measure. */
typedef struct form {
    kn_dtype dtype;
    const kn_low_int *u;
    const kn_low_bf16 *h;
    int nr, mr;            /* columns of a strip; rows of a tile, at most */
    int tall, places;      /* rows of the tiles at hand, and how far apart a row's units lie */
    long deep;             /* k is filled up to a multiple of it */
    bool squares;          /* tiles of A are cut into squares of 64 bytes along k */
    long k, group, groups; /* int8: one group of all k */
    size_t strip, scales;  /* bytes of a strip of W; the scales of int8 lie behind all strips, at `scales` */
    size_t columns, end;   /* where there is a lift, sums of columns lie there; bytes in all */
    size_t units, tile;    /* bytes of a tile of A: its numbers, and those with scales and starting sums */
} form;

static size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

static size_t strip_bytes(const form *f)
{
    size_t nr = (size_t)f->nr, k = round_up((size_t)f->k, (size_t)f->deep);
    switch (f->dtype) {
    case KN_BF16: return k * nr * sizeof(uint16_t);
    case KN_I8: return k * nr;
    default: return k * nr / 2 + (size_t)f->groups * nr * sizeof(float);
    }
}

static size_t unit_bytes(const form *f)
{
    size_t places = (size_t)f->places, k = round_up((size_t)f->k, (size_t)f->deep);
    switch (f->dtype) {
    case KN_BF16: return f->h->pair == 2 ? (size_t)f->k * places * sizeof(float) : k / 2 * places * sizeof(float);
    case KN_I8: return k / (size_t)f->u->depth * places * sizeof(int32_t);
    default: return k * places;
    }
}

/* Tiles of at most so many rows. Few rows lie close together, so that with a long k they still fit the first cache. */
static void set_height(form *f, int tall)
{
    f->tall = tall;
    f->places = f->squares ? f->mr : tall;
    f->units = unit_bytes(f);
    size_t behind = (size_t)f->groups * (size_t)f->places * (sizeof(float) + sizeof(int32_t));
    f->tile = round_up(f->units + behind, LINE) + LINE; /* never 0; and the same place of two tiles is not 4 KB apart for long */
}

static form form_of(const kn_table *t, kn_dtype dtype, long n, long k, long group)
{
    form f = {.dtype = dtype, .u = kn_low_int_of(t), .h = kn_low_bf16_of(t), .k = k};
    f.nr = dtype == KN_BF16 ? f.h->nr : f.u->nr;
    f.mr = dtype == KN_BF16 ? f.h->mr : dtype == KN_I8 ? f.u->mr8 : f.u->mr4;
    f.squares = dtype == KN_BF16 ? f.h->squares : dtype == KN_I8 && f.u->squares;
    f.deep = dtype == KN_BF16 ? (f.squares ? LINE / 2 : 2) : dtype == KN_I8 ? (f.squares ? LINE : f.u->depth) : BLOCK;
    f.group = dtype == KN_I4 ? group : k;
    f.groups = dtype == KN_I4 ? (k + group - 1) / group : dtype == KN_I8;
    f.strip = round_up(strip_bytes(&f), LINE);
    f.scales = f.strip * (size_t)((n + f.nr - 1) / f.nr);
    size_t of_columns = dtype == KN_I8 ? round_up((size_t)kn_round_up(n, f.nr) * sizeof(float), LINE) : 0;
    f.columns = f.scales + of_columns;
    f.end = f.columns + (f.u->lift ? of_columns : 0);
    set_height(&f, f.mr);
    return f;
}

static form form_of_weight(const kn_table *t, const kn_packed *p) { return form_of(t, p->dtype, p->n, p->k, p->group); }

size_t kn_low_bytes(const kn_table *t, kn_dtype dtype, long n, long k, long group)
{
    form f = form_of(t, dtype, n, k, group);
    return f.tile > KN_SHARED_BYTES || k > MAX_K ? 0 : f.end;
}

/* ---- quantising ----------------------------------------------------------------------------------------- */

/* k numbers become integers of at most `top`; returns their scale. What is not finite makes the scale NaN, so that it is seen. */
static float quantize(const kn_low_int *u, long k, const float *x, float top, int8_t *q)
{
    float most = u->largest(k, x);
    if (!(most > 0 && most <= FLT_MAX)) {
        memset(q, 0, (size_t)k);
        return most == 0 ? 0 : NAN;
    }
    u->round(k, x, fminf(top / most, FLT_MAX), q);
    return most / top;
}

/* The same, so that the largest, the least and 0 are at most KN_STEPS_I8 + 1 apart; `lift` is what the least lacks to 0. Zeros stay zeros. */
static float quantize_apart(const kn_low_int *u, long k, const float *x, int8_t *q, int32_t *lift)
{
    float least, most;
    u->ends(k, x, &least, &most);
    float scale = most / KN_STEPS_I8 - least / KN_STEPS_I8; /* their distance may be infinite */
    *lift = 0;
    if (!(least >= -FLT_MAX && most <= FLT_MAX) || scale == 0) {
        memset(q, 0, (size_t)k);
        return scale == 0 ? 0 : NAN;
    }
    float inverse = fminf(1 / scale, FLT_MAX);
    u->round(k, x, inverse, q);
    *lift = -(int32_t)lrintf(least * inverse);
    return scale;
}

static void quantize_row(const kn_low_int *u, kn_dtype dtype, long k, long group, const float *x, int8_t *q, float *scale)
{
    if (dtype == KN_I8) {
        *scale = quantize(u, k, x, 127, q);
        return;
    }
    for (long p = 0; p < k; p += group)
        scale[p / group] = quantize(u, kn_min(group, k - p), x + p, 7, q + p);
}

static int32_t sum_of(long k, const int8_t *q)
{
    int32_t sum = 0;
    for (long p = 0; p < k; p++)
        sum += q[p];
    return sum;
}

void kn_quantize(kn_dtype dtype, long n, long k, long group, const float *x, long ld, int8_t *q, float *scale)
{
    long groups = dtype == KN_I8 ? 1 : (k + group - 1) / group;
    for (long j = 0; j < n; j++)
        quantize_row(&kn_low_int_generic, dtype, k, group, x + j * ld, q + j * k, scale + j * groups);
}

/* ---- packing W ------------------------------------------------------------------------------------------ */

typedef struct packing {
    kn_work *w;
    const kn_packed *p;
    form f;
    long first, stop; /* rows of W */
    const float *x;   /* row `first`; NULL: from q and scale, which are of all */
    long ld;
    const int8_t *q;
    const float *scale;
} packing;

static int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

static void put_bytes(const form *f, uint8_t *strip, long column, const int8_t *q)
{
    int depth = f->u->depth;
    for (long p = 0; p < f->k; p++)
        strip[(p / depth * f->nr + column) * depth + p % depth] = (uint8_t)(clamp(q[p], -127, 127) + f->u->bias);
}

/* The sum of the weights of column j. */
static int32_t *sum_of_column(const form *f, const kn_packed *p, long j)
{
    return (int32_t *)(void *)((char *)p->data + f->columns) + j;
}

static void put_sum(const form *f, const kn_packed *p, long j, const int8_t *q)
{
    int32_t least = 0; /* -128 counts as -127 */
    for (long i = 0; i < f->k; i++)
        least += q[i] == INT8_MIN;
    *sum_of_column(f, p, j) = sum_of(f->k, q) + least;
}

static void put_nibbles(const form *f, uint8_t *strip, long column, const int8_t *q, const float *scale)
{
    size_t width = (size_t)f->nr, oct = 4 * width;
    for (long p = 0; p < f->k; p++) {
        size_t at =
            (size_t)(p / OCT) * oct + (size_t)(p / f->group) * width * sizeof *scale + 4 * (size_t)column + (size_t)(p % 4);
        strip[at] |= (uint8_t)((clamp(q[p], -8, 7) + 8) << (p % OCT < 4 ? 0 : 4));
    }
    for (long g = 0; g < f->groups; g++) {
        size_t octs = (size_t)kn_min((g + 1) * f->group, kn_round_up(f->k, BLOCK)) / OCT;
        memcpy(strip + octs * oct + ((size_t)g * width + (size_t)column) * sizeof *scale, &scale[g], sizeof *scale);
    }
}

static void put_brains(const form *f, uint16_t *strip, long column, const uint16_t *x)
{
    for (long p = 0; p < f->k; p++)
        strip[(p / 2 * f->nr + column) * 2 + p % 2] = x[p];
}

/* Column j of W^T, a row of W; `scratch` holds its numbers and then its scales. */
static void pack_column(const packing *a, long j, uint8_t *strip, void *scratch)
{
    const form *f = &a->f;
    if (f->dtype == KN_BF16) {
        a->w->t->to_bf16(f->k, a->x + (j - a->first) * a->ld, scratch);
        put_brains(f, (uint16_t *)(void *)strip, j % f->nr, scratch);
        return;
    }
    const int8_t *q = a->x ? scratch : a->q + j * f->k;
    float *own = (float *)((char *)scratch + round_up((size_t)f->k, LINE));
    const float *scale = a->x ? own : a->scale + j * f->groups;
    if (a->x)
        quantize_row(f->u, f->dtype, f->k, f->group, a->x + (j - a->first) * a->ld, scratch, own);
    if (f->dtype == KN_I8) {
        put_bytes(f, strip, j % f->nr, q);
        memcpy((char *)a->p->data + f->scales + (size_t)j * sizeof *scale, scale, sizeof *scale);
        if (f->u->lift)
            put_sum(f, a->p, j, q);
    } else {
        put_nibbles(f, strip, j % f->nr, q, scale);
    }
}

static void pack_strips(void *arg, long begin, long end, int worker)
{
    const packing *a = arg;
    kn_worker *me = &a->w->worker[worker];
    me->block = -1;
    for (long s = a->first / a->f.nr + begin; s < a->first / a->f.nr + end; s++) {
        uint8_t *strip = (uint8_t *)a->p->data + (size_t)s * a->f.strip;
        memset(strip, 0, a->f.strip);
        if (a->f.dtype == KN_I8 && a->f.u->lift)
            memset(sum_of_column(&a->f, a->p, s * a->f.nr), 0, (size_t)a->f.nr * sizeof(int32_t));
        for (long j = s * a->f.nr; j < kn_min((s + 1) * a->f.nr, a->stop); j++)
            pack_column(a, j, strip, me->a);
    }
}

static void pack_all(packing *a)
{
    a->f = form_of_weight(a->w->t, a->p);
    bs_pool_for(a->w->pool, (a->stop - a->first + a->f.nr - 1) / a->f.nr, 1, pack_strips, a);
}

void kn_low_pack(kn_work *w, const kn_packed *p, long first, long rows, const float *x, long ld)
{
    packing a = {.w = w, .p = p, .first = first, .stop = first + rows, .x = x, .ld = ld};
    pack_all(&a);
}

void kn_low_pack_quantized(kn_work *w, const kn_packed *p, const int8_t *q, const float *scale)
{
    packing a = {.w = w, .p = p, .stop = p->n, .q = q, .scale = scale};
    pack_all(&a);
}

/* ---- products ------------------------------------------------------------------------------------------- */

typedef struct job {
    kn_work *w;
    const kn_gemm *g;
    form f;
    char *a;                /* tiles of rows [row0, row0 + rows) */
    long row0, rows, block; /* the rows at hand; those of an item, a multiple of tall */
    long chunk, each;       /* columns of an item, a multiple of nr; chunks of a product */
    kn_items items;
} job;

static char *tile_at(const job *j, long row) { return j->a + (size_t)(row / j->f.tall) * j->f.tile; }

/* Scales [groups][places] and starting sums [groups][places] lie behind a tile's numbers. */
static float *scales_of(const form *f, char *tile) { return (float *)(void *)(tile + f->units); }
static int32_t *starts_of(const form *f, char *tile) { return (int32_t *)(void *)(tile + f->units) + f->groups * f->places; }

/* Four numbers with 0 <= lift < 128 added, which makes them 0 to 127: by their last 7 bits, so that nothing is carried to a neighbour. */
static uint32_t lifted(uint32_t unit, uint32_t lift) { return ((unit & 0x7f7f7f7f) + lift * 0x01010101) & 0x7f7f7f7f; }

static bool makes_words(const form *f) { return f->dtype == KN_I8 && f->u->depth == 2; }

/* Bytes of a row in a tile, filled up with zeros. */
static long row_bytes(const form *f) { return (long)f->units / f->places; }

/* A row's numbers as its tile holds them, in place: made positive, or words made of `q`. */
static void finish_numbers(const form *f, const int8_t *q, uint32_t lift, void *row)
{
    long bytes = row_bytes(f);
    if (makes_words(f))
        for (long p = 0; p < bytes / 2; p++)
            ((int16_t *)row)[p] = q[p];
    else if (lift)
        for (long u = 0; u < bytes / 4; u++)
            ((uint32_t *)row)[u] = lifted(((uint32_t *)row)[u], lift);
}

/* The numbers at q in lines of 64 bytes, as squares take them. */
static void put_lines(const form *f, char *tile, long i, const int8_t *q)
{
    for (long p = 0; p < f->k; p += LINE)
        memcpy(tile + (p / LINE * f->places + i) * LINE, q + p, LINE);
}

/* Row `row` as integers at `q`, with zeros behind; its scales and starting sums go into its tile. Returns its lift. */
static uint32_t quantize_into(const job *j, long row, const float *x, int8_t *q)
{
    const form *f = &j->f;
    char *tile = tile_at(j, row);
    int32_t bias = f->dtype == KN_I4 ? 8 : f->u->bias, lift = 0;
    for (long group = 0, at = row % f->tall; group < f->groups; group++, at += f->places) {
        long p = group * f->group, k = kn_min(f->group, f->k - p);
        bool apart = f->dtype == KN_I8;
        scales_of(f, tile)[at] = apart ? quantize_apart(f->u, k, x, q, &lift) : quantize(f->u, k, x + p, KN_TOP_I4, q + p);
        lift = f->u->lift ? lift : 0;
        starts_of(f, tile)[at] = bias ? -bias * sum_of(k, q + p) : lift;
    }
    memset(q + f->k, 0, LINE);
    return (uint32_t)lift;
}

/* Row `row` of those at hand, where it lies or, when it is a column, gathered. */
static const float *row_of(const job *j, long row, float *scratch)
{
    const kn_gemm *g = j->g;
    if (!g->ta)
        return g->a + (j->row0 + row) * g->lda;
    for (long p = 0; p < g->k; p++)
        scratch[p] = g->a[p * g->lda + j->row0 + row];
    return scratch;
}

/* Where integers of A are made, in bytes of a worker's scratch: a row that is gathered lies at 0, then one of bytes that become words, then all rows
 * of a tile, `each` bytes apart. */
typedef struct room {
    long bytes, rows, each;
} room;

static room room_of(const form *f, bool gathers)
{
    long k = kn_round_up(f->k + LINE, LINE), bytes = gathers ? k * (long)sizeof(float) : 0;
    return makes_words(f) ? (room){bytes, bytes + k, 2 * k} : (room){bytes, bytes, k};
}

/* How many rows of a tile there is room for. */
static int rows_with_room(const form *f, bool gathers)
{
    room b = room_of(f, gathers);
    return (int)kn_min((WORKER_BYTES - b.rows) / b.each, f->mr);
}

/* A tile's rows [row, last) as integers: made one after another, then interleaved as the tier packs floats. */
static void integers(const job *j, long row, long last, void *scratch)
{
    const form *f = &j->f;
    room b = room_of(f, j->g->ta);
    char *tile = tile_at(j, row), *to = (char *)scratch + b.rows;
    for (long i = 0; i < last - row; i++, to += b.each) {
        int8_t *q = (int8_t *)(makes_words(f) ? (char *)scratch + b.bytes : to);
        uint32_t lift = quantize_into(j, row + i, row_of(j, row + i, scratch), q);
        if (f->squares)
            put_lines(f, tile, i, q);
        else
            finish_numbers(f, q, lift, to);
    }
    if (!f->squares)
        j->w->t->pack(row_bytes(f) / 4, last - row, f->places, (float *)(void *)((char *)scratch + b.rows), b.each / 4, true,
                      (float *)(void *)tile);
}

/* Tiles [begin, end) of A. */
static void prepare(void *arg, long begin, long end, int worker)
{
    const job *j = arg;
    kn_worker *me = &j->w->worker[worker];
    const kn_gemm *g = j->g;
    me->block = -1; /* what lay in its scratch is gone */
    for (long t = begin; t < end; t++) {
        long row = t * j->f.tall, last = kn_min(row + j->f.tall, j->rows);
        const float *x = g->ta ? g->a + j->row0 + row : g->a + (j->row0 + row) * g->lda;
        if (j->f.dtype == KN_BF16)
            j->f.h->pack(g->k, last - row, j->f.places, x, g->lda, !g->ta, (float *)(void *)tile_at(j, row));
        else
            integers(j, row, last, me->a);
    }
}

/* How many strips of W are read at once. */
static int strips_at_once(const job *j)
{
    const form *f = &j->f;
    long few = 0;
    switch (f->dtype) {
    case KN_BF16: few = f->h->strips ? KN_HELD : 0; break;
    case KN_I8: few = f->u->strips8 ? KN_HELD_I8 : 0; break;
    default: few = f->u->strips4 ? 1 : 0; break;
    }
    return j->g->m <= kn_min(few, j->w->by_strips) ? kn_strips(j->g->m) : 1;
}

/* One tile of A by the strip of W that begins with a column, or by `together` that are read at once, k from p on. */
static void one_tile(const job *j, char *a, int m, long column, bool together, long p, long step, float *sum, long ld,
                     kn_soon next)
{
    const form *f = &j->f;
    const uint8_t *strip = (const uint8_t *)j->g->packed->data + (size_t)(column / f->nr) * f->strip;
    long far = (long)f->strip;
    if (f->dtype == KN_BF16) {
        const float *at = (const float *)(void *)a + p / 2 * f->places * f->h->pair;
        const uint16_t *b = (const uint16_t *)(const void *)strip + p * f->nr;
        long k = kn_min(step, f->k - p);
        if (together)
            f->h->strips(k, at, f->places, b, far / (long)sizeof *b, sum, ld, m, p > 0);
        else
            f->h->tile(k, at, f->places, b, sum, ld, m, p > 0, next);
    } else if (f->dtype == KN_I8) {
        long depth = f->u->depth, units = (kn_min(step, f->k - p) + depth - 1) / depth;
        const int32_t *at = (const int32_t *)(void *)a + p / depth * f->places, *start = p ? NULL : starts_of(f, a);
        if (together)
            f->u->strips8(units, at, f->places, strip + p * f->nr, far, start, (int32_t *)(void *)sum, ld, m);
        else
            f->u->tile8(units, at, f->places, strip + p * f->nr, start, (int32_t *)(void *)sum, ld, m, next);
    } else {
        long k = kn_round_up(f->k, BLOCK);
        const int32_t *at = (const int32_t *)(void *)a;
        if (together)
            f->u->strips4(k, f->group, at, strip, far, scales_of(f, a), starts_of(f, a), sum);
        else
            f->u->tile4(k, f->group, at, f->places, strip, scales_of(f, a), starts_of(f, a), sum, ld, m, next);
    }
}

/* Integers of int8 to floats: all that follows in one pass where nothing comes in between, else only the product. */
static void finish_integers(const job *j, long row, long j0, long n, float *sum)
{
    const kn_gemm *g = j->g;
    const form *f = &j->f;
    float *c = g->c + (j->row0 + row) * g->ldc + j0;
    const float *residual = g->residual ? g->residual + (j->row0 + row) * g->ldc + j0 : NULL;
    const int32_t *integers = (const int32_t *)(void *)sum;
    kn_low_rescale r = {.s = g->alpha * scales_of(f, tile_at(j, row))[row % f->tall]};
    r.scale = (const float *)(const void *)((const char *)g->packed->data + f->scales) + j0;
    if (f->u->lift) {
        r.lift = starts_of(f, tile_at(j, row))[row % f->tall];
        r.column = sum_of_column(f, g->packed, j0);
    }
    if (!g->accumulate)
        r.bias = g->bias ? g->bias + j0 : NULL;
    if (!g->accumulate && g->act == KN_NONE) {
        r.residual = residual;
        f->u->rescale(n, integers, &r, c);
        return;
    }
    f->u->rescale(n, integers, &r, sum);
    if (g->accumulate)
        return;
    j->w->t->act(g->act, n, sum, residual ? sum : c);
    if (residual)
        j->w->t->add(n, sum, residual, c);
}

static void finish_row(const job *j, long row, long j0, long n, float *sum)
{
    kn_gemm g = *j->g;
    if (j->f.dtype == KN_I8) {
        finish_integers(j, row, j0, n, sum);
        if (!g.accumulate)
            return;
        g.alpha = 1;
    }
    kn_finish_row(j->w->t, &g, j->row0 + row, j0, n, sum);
}

/* So much of k that a strip of W stays in the first cache; all of it where it is read once, from end to end. */
static long stretch(const job *j, long rows) { return rows > j->f.tall ? STRETCH : kn_round_up(j->f.k + 1, STRETCH); }

/* Bytes of a strip of W between k = p and p + step; int4 is never cut. */
static long bytes_of(const form *f, long p, long step)
{
    if (f->dtype == KN_I4)
        return (long)f->strip;
    long left = kn_round_up(f->k, f->deep) - p;
    return left > 0 ? kn_min(left, step) * f->nr * (f->dtype == KN_BF16 ? 2 : 1) : 0;
}

/* What of W lies at a column, k from p to p + step; nothing where the CPU fetches it faster unasked. */
static kn_soon piece(const job *j, long column, long p, long step)
{
    const form *f = &j->f;
    if (j->g->m <= j->w->unasked || strips_at_once(j) > 1)
        return (kn_soon){j->g->packed->data, 0};
    const uint8_t *strip = (const uint8_t *)j->g->packed->data + (size_t)(column / f->nr) * f->strip;
    return (kn_soon){strip + (p ? (size_t)bytes_of(f, 0, p) : 0), bytes_of(f, p, step)};
}

/* All rows of an item by the strips that are read together, or by what there is of them one after another. */
static void strips_by_tiles(const job *j, float *sums, long row0, long rows, long column, long p, long step, kn_soon next)
{
    const form *f = &j->f;
    long strips = strips_at_once(j), stop = kn_min(column + strips * f->nr, j->g->n);
    bool together = strips > 1 && stop > column + (strips - 1) * f->nr;
    long tiles = (rows + f->tall - 1) / f->tall, each = kn_round_up((next.bytes + tiles - 1) / tiles, LINE);
    for (long wide = together ? strips * f->nr : f->nr; column < stop; column += wide, sums += wide)
        for (long i = 0, at = 0; i < rows; i += f->tall, at += each) {
            kn_soon part = {next.at + at, kn_min(each, next.bytes - at)};
            one_tile(j, tile_at(j, row0 + i), (int)kn_min(f->tall, rows - i), column, together, p, step, sums + i * j->chunk,
                     j->chunk, part);
        }
}

/* Where few rows read a strip of W once, it is read from end to end, as it lies; else a stretch of k of all strips, which many rows share. */
static void one_item(const job *all, float *sums, kn_item of)
{
    job own = *all, *j = &own;
    j->g = kn_product_of(all->g, &of.chunk, all->each);
    if (!j->g)
        return;
    const form *f = &j->f;
    long row0 = of.block * j->block, rows = kn_min(j->block, j->rows - row0);
    long j0 = of.chunk * j->chunk, n = kn_min(j->chunk, j->g->n - j0);
    long step = f->dtype == KN_BF16 ? KN_KC : f->dtype == KN_I8 ? stretch(j, rows) : f->k + 1;
    long wide = strips_at_once(j) * f->nr, strips = (n + wide - 1) / wide, steps = f->k ? (f->k + step - 1) / step : 1;
    bool few = rows <= f->tall;
    kn_soon behind = j0 + n < j->g->n ? piece(j, j0 + n, 0, step) : (kn_soon){j->g->packed->data, 0};
    for (long i = 0, c = 0, p = 0; i < strips * steps; i++) {
        long next = i + 1, then = (few ? next / steps : next % strips) * wide, k = (few ? next % steps : next / strips) * step;
        strips_by_tiles(j, sums + c, row0, rows, j0 + c, p, step, next < strips * steps ? piece(j, j0 + then, k, step) : behind);
        c = then;
        p = k;
    }
    for (long i = 0; i < rows; i++)
        finish_row(j, row0 + i, j0, n, sums + i * j->chunk);
}

/* Tiles are asked for between the two, where the micro-kernel wants that said. */
static void begin_tiles(const form *f)
{
    void (*begin)(void) = f->dtype == KN_BF16 ? f->h->begin : f->u->begin;
    if (begin)
        begin();
}

static void end_tiles(const form *f)
{
    void (*end)(void) = f->dtype == KN_BF16 ? f->h->end : f->u->end;
    if (end)
        end();
}

static void run_items(void *arg, long begin, long end, int worker)
{
    const job *j = arg;
    kn_worker *me = &j->w->worker[worker];
    me->block = -1;
    begin_tiles(&j->f);
    for (long k = begin; k < end; k++)
        one_item(j, me->a, kn_next_item(j->w, me, j->items));
    end_tiles(&j->f);
}

/* Rows in equal blocks; columns in chunks whose sums fit, and small enough that every thread finds work. With one block every thread has columns of
 * its own, which it reads one after another. */
static void cut(job *j)
{
    long nr = j->f.nr, most = j->f.squares ? MANY_ROWS : ROWS, sums = j->f.squares ? MANY_SUMS : SUMS;
    long blocks = (j->rows + most - 1) / most;
    j->block = kn_round_up((j->rows + blocks - 1) / blocks, j->f.tall);
    blocks = (j->rows + j->block - 1) / j->block;
    long products = kn_products(j->g);
    j->chunk = nr * kn_halved_chunk(blocks * products, (j->g->n + nr - 1) / nr, sums / j->block / nr, j->w->threads);
    j->chunk = kn_round_up(j->chunk, kn_strips_of_chunk(strips_at_once(j), (j->g->n + nr - 1) / nr, j->w->threads) * nr);
    j->each = (j->g->n + j->chunk - 1) / j->chunk;
    j->items = kn_cut(blocks, products * j->each, j->w->threads);
}

/* As many rows come together as the shared scratch has room for. */
void kn_low_run(kn_work *w, const kn_gemm *g)
{
    job j = {.w = w, .g = g, .f = form_of_weight(w->t, g->packed), .a = (char *)w->b};
    set_height(&j.f, kn_tile_height(j.f.dtype == KN_BF16 ? j.f.mr : rows_with_room(&j.f, g->ta), g->m));
    long most = (long)(KN_SHARED_BYTES / j.f.tile) * j.f.tall;
    for (j.row0 = 0; j.row0 < g->m; j.row0 += most) {
        j.rows = kn_min(most, g->m - j.row0);
        cut(&j);
        kn_prepare(w, j.rows * g->k, (j.rows + j.f.tall - 1) / j.f.tall, prepare, &j);
        kn_share_out(w, j.items, run_items, &j);
    }
}
