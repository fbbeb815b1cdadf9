/* attention_few.c - attention of few queries, as when text is generated: bound by reading keys and values, so each is read once for
 * all query heads that share it, a stretch that the nearest caches hold at a time.
 *
 * Items are key heads; where those are fewer than the threads want, a round of blocks of KN_KEYS keys, whose softmaxes are kept
 * in slots of scratch and merged in order, or, with a lone key head of few blocks, shares of the query heads that read it. All ways, and
 * attention.c, give the same bits: every sum has the same order. */
#include <math.h>
#include <string.h>

#include "attention.h"

/* Queries; keys of a stretch; softmaxes that a worker's scratch has room for; blocks of keys worth sharing; rows of a share at least. */
enum { FEW = 4, STRETCH = 32, SLOTS = 4, WORTH_SHARING = 4, LEAST_SHARE = 4 };

typedef struct few {
    kn_work *w;
    const kn_attn *a;
    char *scratch;
    size_t each; /* bytes of one worker */
    long b, kv;  /* the key head that is shared, */
    long block;  /* and the block that is the first slot's */
    long keys;   /* of this batch */
} few;

/* One worker's scratch. A row is a query of a head: row g * tq + i is query i of the g-th head that reads these keys. Strips of nr rows lie turned in q. */
typedef struct room {
    float *gathered, *q, *rows, *s;
    kn_partial all, slot[SLOTS];
} room;

static long rows_of(const kn_attn *a) { return a->heads / a->kv_heads * a->tq; }

static size_t lay_partial(kn_partial *p, float *base, long rows, long dv)
{
    *p = (kn_partial){base, base + rows, base + 2 * rows};
    return (size_t)(rows * (dv + 2));
}

static size_t lay(const kn_table *t, const kn_attn *a, room *r, float *base)
{
    long rows = a->heads / a->kv_heads * kn_min(a->tq, FEW);
    size_t n = 0;
    r->gathered = base + n, n += (size_t)(rows * a->dk);
    r->q = base + n, n += (size_t)(kn_round_up(rows, t->nr) * a->dk);
    r->rows = base + n, n += a->pages ? (size_t)(STRETCH * (a->dk > a->dv ? a->dk : a->dv)) : 0;
    r->s = base + n, n += (size_t)(rows * KN_KEYS);
    n += lay_partial(&r->all, base + n, rows, a->dv);
    for (int i = 0; i < SLOTS; i++)
        n += lay_partial(&r->slot[i], base + n, rows, a->dv);
    return (n * sizeof(float) + KN_ROOM_ALIGN - 1) / KN_ROOM_ALIGN * KN_ROOM_ALIGN;
}

static room room_of(const few *f, long worker)
{
    room r;
    lay(f->w->t, f->a, &r, (float *)(void *)(f->scratch + (size_t)worker * f->each));
    return r;
}

bool kn_attn_is_few(const kn_attn *a) { return a->tq <= FEW; }

size_t kn_attn_few_scratch(const kn_table *t, const kn_attn *a)
{
    static float nowhere[1];
    room r;
    return lay(t, a, &r, nowhere);
}

/* ---- a block of keys ---------------------------------------------------------------------------------- */

static void gather_queries(const kn_table *t, const kn_attn *a, long b, long kv, const room *to)
{
    long rows = rows_of(a);
    for (long r = 0; r < rows; r++) {
        long h = kv * (rows / a->tq) + r / a->tq, i = r % a->tq;
        memcpy(to->gathered + r * a->dk, a->q + b * a->q_batch + i * a->q_row + h * a->q_head,
               (size_t)a->dk * sizeof *to->gathered);
    }
    for (long r = 0; r < rows; r += t->nr) {
        long n = kn_min(t->nr, rows - r), width = kn_few_width(t->nr, n);
        memset(to->q + r * a->dk, 0, (size_t)(width * a->dk) * sizeof *to->q);
        t->pack(a->dk, n, width, to->gathered + r * a->dk, a->dk, true, to->q + r * a->dk);
    }
}

/* Bias and masks of row r, whose query is i of head h. */
static void mask_row(const kn_table *t, const kn_attn *a, long b, long h, long i, long j, long n, float *s)
{
    if (a->bias)
        t->add(n, s, a->bias + kn_bias_at(a, b, h, i) + j, s);
    for (long p = 0; a->key_mask && p < n; p++)
        if (kn_key_hidden(a, b, j + p))
            s[p] = -INFINITY;
    long from = kn_from(a, b, i) - j, end = kn_visible(a, b, i) - j;
    for (long p = 0; p < kn_min(from, n); p++)
        s[p] = -INFINITY;
    for (long p = kn_max(end, 0); p < n; p++)
        s[p] = -INFINITY;
}

/* exp of n scores of each row less its largest, and their sums: each is added in order, as down a column, so several at a time. */
static void softmax_rows(const kn_table *t, long rows, long n, float *s, kn_partial to)
{
    enum { TOGETHER = 4 };
    for (long r = 0; r < rows; r++) {
        to.max[r] = t->max(n, s + r * KN_KEYS);
        t->exp_shift(n, s + r * KN_KEYS, to.max[r], s + r * KN_KEYS);
    }
    for (long r = 0, now; r < rows; r += now, s += now * KN_KEYS) {
        float sum[TOGETHER] = {0};
        now = kn_min(TOGETHER, rows - r);
        for (long j = 0; j < n; j++)
            for (long i = 0; i < TOGETHER; i++)
                sum[i] += s[(i < now ? i : 0) * KN_KEYS + j];
        memcpy(to.sum + r, sum, (size_t)now * sizeof *sum);
    }
}

/* While a stretch is computed the next one is fetched: of keys, then of values, then of the next block's keys. */
static void block_scores(const few *f, const room *r, kn_head h, long j, long n)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    for (long p = 0; p < n; p += STRETCH) {
        long now = kn_min(STRETCH, n - p), then = kn_min(STRETCH, n - p - now);
        kn_rows k = kn_key_rows(t, a, h, j + p, now, r->rows);
        kn_rows next = then ? kn_keys_ahead(a, h, j + p + now, then, k) : kn_values_ahead(a, h, j, kn_min(STRETCH, n), k);
        for (long row = 0; row < rows_of(a); row += t->nr)
            t->few_scores(kn_min(t->nr, rows_of(a) - row), now, a->dk, r->q + row * a->dk, k, next, a->scale,
                          r->s + row * KN_KEYS + p, KN_KEYS);
    }
}

static void block_values(const few *f, const room *r, kn_head h, long j, long n, float *y)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    memset(y, 0, (size_t)(rows_of(a) * a->dv) * sizeof *y);
    for (long p = 0; p < n; p += STRETCH) {
        long now = kn_min(STRETCH, n - p), then = kn_min(STRETCH, n - p - now),
             left = kn_min(STRETCH, kn_keys_of(a, h.b) - j - n);
        kn_rows v = kn_value_rows(t, a, h, j + p, now, r->rows);
        kn_rows next = then ? kn_values_ahead(a, h, j + p + now, then, v) : left > 0 ? kn_keys_ahead(a, h, j + n, left, v) : v;
        t->few_values(rows_of(a), now, a->dv, r->s + p, KN_KEYS, v, next, y);
    }
}

/* The softmax of all rows over n keys from j on. */
static void one_block(const few *f, const room *r, long b, long kv, long j, long n, kn_partial to)
{
    const kn_attn *a = f->a;
    long rows = rows_of(a), group = rows / a->tq;
    kn_head h = {b, kv * group, kv};
    block_scores(f, r, h, j, n);
    for (long row = 0; row < rows; row++)
        mask_row(f->w->t, a, b, kv * group + row / a->tq, row % a->tq, j, n, r->s + row * KN_KEYS);
    softmax_rows(f->w->t, rows, n, r->s, to);
    block_values(f, r, h, j, n, to.y);
}

static long keys_of_batch(const kn_attn *a, long b) { return kn_min(kn_visible(a, b, a->tq - 1), kn_kept(a, b)); }

/* The first block that some query sees. */
static long first_block(const kn_attn *a, long b) { return kn_from(a, b, 0) / KN_KEYS; }

static void finish(const few *f, const room *r, long b, long kv)
{
    const kn_attn *a = f->a;
    long group = rows_of(a) / a->tq;
    for (long g = 0; g < group; g++) {
        long row = g * a->tq;
        kn_partial p = {r->all.max + row, r->all.sum + row, r->all.y + row * a->dv};
        kn_partial_finish(f->w->t, a, kn_head_of(a, b, kv * group + g), 0, p, a->tq);
    }
}

/* ---- a key head by one thread ------------------------------------------------------------------------- */

static void head_items(void *arg, long begin, long end, int worker)
{
    const few *f = arg;
    const kn_attn *a = f->a;
    room r = room_of(f, worker);
    for (long item = begin; item < end; item++) {
        long b = item / a->kv_heads, kv = item % a->kv_heads, keys = keys_of_batch(a, b);
        gather_queries(f->w->t, a, b, kv, &r);
        kn_partial_clear(r.all, rows_of(a), a->dv);
        for (long j = first_block(a, b) * KN_KEYS; j < keys; j += KN_KEYS) {
            one_block(f, &r, b, kv, j, kn_min(KN_KEYS, keys - j), r.slot[0]);
            kn_partial_merge(f->w->t, r.all, r.slot[0], rows_of(a), a->dv);
        }
        finish(f, &r, b, kv);
    }
}

/* ---- a key head by all threads ------------------------------------------------------------------------ */

static kn_partial slot_of(const few *f, long i) { return room_of(f, i / SLOTS).slot[i % SLOTS]; }

static void slot_items(void *arg, long begin, long end, int worker)
{
    const few *f = arg;
    room r = room_of(f, worker);
    gather_queries(f->w->t, f->a, f->b, f->kv, &r);
    for (long i = begin; i < end; i++) {
        long j = (f->block + i) * KN_KEYS;
        one_block(f, &r, f->b, f->kv, j, kn_min(KN_KEYS, f->keys - j), slot_of(f, i));
    }
}

static void shared_head(few *f)
{
    const kn_attn *a = f->a;
    long slots = (long)SLOTS * f->w->threads, blocks = (f->keys + KN_KEYS - 1) / KN_KEYS;
    room first = room_of(f, 0);
    kn_partial_clear(first.all, rows_of(a), a->dv);
    for (f->block = first_block(a, f->b); f->block < blocks; f->block += slots) {
        long now = kn_min(slots, blocks - f->block);
        bs_pool_for(f->w->pool, now, 1, slot_items, f);
        for (long i = 0; i < now; i++)
            kn_partial_merge(f->w->t, first.all, slot_of(f, i), rows_of(a), a->dv);
    }
    finish(f, &first, f->b, f->kv);
}

/* How many query heads the busiest thread takes when they are in n shares. */
static long busiest(const kn_attn *a, long n, int threads) { return (n * a->batch + threads - 1) / threads * (a->heads / n); }

/* As if a lone key head were several, all at its place, each read by a share of the query heads. */
static kn_attn in_shares(const kn_attn *a, int threads)
{
    kn_attn shared = *a;
    long shares = 1;
    if (a->kv_heads > 1 || a->tk >= (long)WORTH_SHARING * KN_KEYS)
        return shared;
    for (long n = 2; a->heads / n * a->tq >= LEAST_SHARE; n++)
        if (a->heads % n == 0 && busiest(a, n, threads) < busiest(a, shares, threads))
            shares = n;
    shared.kv_heads = shares;
    shared.k_head = shared.v_head = shared.scale_head = 0;
    return shared;
}

void kn_attn_few(kn_work *w, const kn_attn *whole, void *scratch)
{
    kn_attn shared = in_shares(whole, w->threads);
    const kn_attn *a = &shared;
    few f = {.w = w, .a = a, .scratch = scratch, .each = kn_attn_scratch(w->t, whole)};
    long items = a->batch * a->kv_heads;
    if (items >= 2 * w->threads || a->tk < (long)WORTH_SHARING * KN_KEYS) {
        bs_pool_for(w->pool, items, 1, head_items, &f);
        return;
    }
    for (f.b = 0; f.b < a->batch; f.b++)
        for (f.kv = 0; f.kv < a->kv_heads; f.kv++) {
            f.keys = keys_of_batch(a, f.b);
            shared_head(&f);
        }
}
