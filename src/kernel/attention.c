/* attention.c - scaled dot-product attention (Vaswani et al. 2017), forward, never holding more scores than a strip of queries
 * against a block of keys (Rabe, Staats 2021; Dao et al. 2022):
 *
 *   items: (head, span of queries)  >  block of KN_KEYS keys: pack K and V  >  strip of nr queries:
 *     s[key][query] = K Q^T  >  softmax down the columns  >  P V  >  merge with the blocks before
 *
 * In a strip a key that is hidden is a row, every query is a lane of a vector, and what the softmax leaves is at once the packed
 * left side of probabilities times values; it stays in the first cache. Blocks lie at fixed absolute places, each has its own
 * softmax, and they are merged in order; keys behind the last that a strip sees are left out, as they would add zeros. So the bits
 * of a query depend neither on the queries beside it nor on keys that it does not see. */
#include <math.h>

#include "attention.h"

enum { SPAN = 512 }; /* queries of an item at most: so often are the packed keys used */

typedef struct forward {
    kn_work *w;
    const kn_attn *a;
    char *scratch;
    size_t each; /* bytes of one worker */
    long span;   /* queries an item takes, a multiple of nr */
    long spans;  /* items of a head */
} forward;

/* One worker's scratch: packed queries, rows of keys or values as fp32, both packed, a strip of scores, the bias of one, the
 * softmax so far and that of a block. */
typedef struct room {
    float *q, *rows, *k, *v, *s, *bias;
    kn_partial all, part;
} room;

static long longest_span(const kn_table *t, const kn_attn *a) { return kn_min(kn_round_up(a->tq, t->nr), SPAN); }

static size_t lay(const kn_table *t, const kn_attn *a, room *r, float *base)
{
    long keys = kn_min(a->tk, KN_KEYS), span = longest_span(t, a), wide = kn_round_up(a->dv, t->nr);
    size_t n = 0;
    r->q = base + n, n += (size_t)(span * a->dk);
    r->rows = base + n, n += a->pages ? (size_t)(keys * (a->dk > a->dv ? a->dk : a->dv)) : 0;
    r->k = base + n, n += (size_t)(kn_round_up(keys, t->mr) * a->dk);
    r->v = base + n, n += (size_t)(keys * wide);
    r->s = base + n, n += (size_t)(keys * t->nr);
    r->bias = base + n, n += a->bias ? (size_t)(keys * t->nr) : 0;
    r->all.y = base + n, n += (size_t)(span * a->dv);
    r->all.max = base + n, n += (size_t)span;
    r->all.sum = base + n, n += (size_t)span;
    r->part.y = base + n, n += (size_t)(t->nr * a->dv);
    r->part.max = base + n, n += (size_t)t->nr;
    r->part.sum = base + n, n += (size_t)t->nr;
    return (n * sizeof(float) + KN_ROOM_ALIGN - 1) / KN_ROOM_ALIGN * KN_ROOM_ALIGN;
}

/* Heads that look at the same keys, side by side in rows of queries, are as many more queries of one head: keys are packed once for all. */
static kn_attn as_one_head(const kn_attn *a)
{
    kn_attn one = *a;
    bool side_by_side = a->q_row == a->heads * a->q_head && a->y_row == a->heads * a->y_head;
    if (a->kv_heads > 1 || !side_by_side || a->causal || a->window || a->from || a->bias || a->lse)
        return one;
    one.heads = 1;
    one.tq = a->tq * a->heads;
    one.q_row = a->q_head;
    one.y_row = a->y_head;
    return one;
}

size_t kn_attn_scratch(const kn_table *t, const kn_attn *a)
{
    static float nowhere[1];
    room r;
    kn_attn one = as_one_head(a);
    size_t few = kn_attn_few_scratch(t, a), n = lay(t, &one, &r, nowhere);
    return few > n ? few : n; /* for few queries and for many: it never shrinks as tq grows */
}

/* ---- a strip of queries against a block of keys ------------------------------------------------------- */

typedef struct strip {
    kn_head h;
    long q0, queries;
    long j0, keys; /* the first key of the block, and how many of it the strip sees */
} strip;

static void scores(const kn_table *t, const kn_attn *a, const strip *at, const room *r, const float *q)
{
    for (long j = 0; j < at->keys; j += t->mr)
        t->gemm_tile(a->dk, r->k + j * a->dk, t->mr, q, t->nr, r->s + j * t->nr, t->nr, (int)kn_min(t->mr, at->keys - j),
                     (int)at->queries, a->scale, NULL, 0, NULL, 0);
}

static void add_bias(const kn_table *t, const kn_attn *a, const strip *at, const room *r)
{
    const float *bias = a->bias + kn_bias_at(a, at->h.b, at->h.h, at->q0) + at->j0;
    t->pack(at->keys, at->queries, t->nr, bias, kn_bias_step(a), true, r->bias);
    for (long j = 0; j < at->keys; j++)
        t->add(at->queries, r->s + j * t->nr, r->bias + j * t->nr, r->s + j * t->nr);
}

static void hide(const kn_table *t, const kn_attn *a, const strip *at, const room *r)
{
    bool far = a->window || a->from;
    /* the first key that some query may not see */
    long first = a->key_mask || far ? 0 : kn_visible(a, at->h.b, at->q0) - at->j0;
    for (long j = first < 0 ? 0 : first; j < at->keys; j++) {
        float *s = r->s + j * t->nr;
        long n = 0; /* the first queries of the strip that do not see key j */
        if (kn_key_hidden(a, at->h.b, at->j0 + j))
            n = at->queries;
        else if (a->causal)
            n = kn_min(at->queries, at->j0 + j - (kn_keys_of(a, at->h.b) - a->tq) - at->q0);
        for (long i = 0; i < n; i++)
            s[i] = -INFINITY;
        for (long i = at->queries - 1; far && i >= 0 && kn_from(a, at->h.b, at->q0 + i) > at->j0 + j; i--)
            s[i] = -INFINITY; /* the last ones */
    }
}

/* y = P V; rows in tiles of nearly equal height. */
static void values(const kn_table *t, const kn_attn *a, const strip *at, const room *r, kn_operand v, float *y)
{
    long tiles = (at->queries + t->mr - 1) / t->mr, high = (at->queries + tiles - 1) / tiles;
    for (long e = 0, panel = 0; e < a->dv; e += t->nr, panel++)
        for (long i = 0; i < at->queries; i += high)
            t->gemm_tile(at->keys, r->s + i, t->nr, v.at + panel * v.panel, v.step, y + i * a->dv + e, a->dv,
                         (int)kn_min(high, at->queries - i), (int)kn_min(t->nr, a->dv - e), 1, NULL, 0, NULL, 0);
}

static void softmax_of_strip(const kn_table *t, const kn_attn *a, const strip *at, const room *r, const float *q, kn_operand v,
                             kn_partial to)
{
    scores(t, a, at, r, q);
    if (a->bias)
        add_bias(t, a, at, r);
    if (a->key_mask || a->causal || a->window || a->from)
        hide(t, a, at, r);
    for (long i = 0; i < at->queries; i++) {
        to.max[i] = -INFINITY;
        to.sum[i] = 0;
    }
    t->max_columns(at->keys, at->queries, r->s, t->nr, to.max);
    t->exp_columns(at->keys, at->queries, r->s, t->nr, to.max, to.sum);
    values(t, a, at, r, v, to.y);
}

/* ---- loops -------------------------------------------------------------------------------------------- */

/* Values are packed when several tiles of queries read them, else used where they lie. */
static kn_operand pack_values(const kn_table *t, const kn_attn *a, kn_head h, const room *r, long j, long n, long queries)
{
    kn_rows x = kn_value_rows(t, a, h, j, n, r->rows);
    if (queries <= t->mr)
        return (kn_operand){x.at, x.ld, t->nr};
    return kn_pack_strips(t, n, a->dv, t->nr, x.at, x.ld, false, r->v);
}

/* Answers are written after everything else: their lines are asked for while the scores are computed. */
static void ask_for_answers(const kn_attn *a, kn_head h, long q0, long queries)
{
    enum { LINE_FLOATS = 16 };
    for (long i = q0; i < q0 + queries; i++)
        for (long e = 0; e < a->dv; e += LINE_FLOATS)
            __builtin_prefetch(a->y + h.b * a->y_batch + i * a->y_row + h.h * a->y_head + e, 1);
}

/* n keys from j on, for the queries [first, stop); `merge`: there were blocks before. */
static void one_block(const kn_table *t, const kn_attn *a, kn_head h, const room *r, long j, long n, long first, long stop,
                      bool merge)
{
    kn_rows x = kn_key_rows(t, a, h, j, n, r->rows);
    t->pack(a->dk, n, t->mr, x.at, x.ld, true, r->k);
    kn_operand v = pack_values(t, a, h, r, j, n, stop - first);
    for (long q0 = first; q0 < stop; q0 += t->nr) {
        long queries = kn_min(t->nr, stop - q0), i = q0 - first;
        strip at = {h, q0, queries, j, kn_min(n, kn_visible(a, h.b, q0 + queries - 1) - j)};
        kn_partial all = {r->all.max + i, r->all.sum + i, r->all.y + i * a->dv};
        if (at.keys <= 0 || kn_from(a, h.b, q0) >= j + n)
            continue;
        if (!merge)
            ask_for_answers(a, h, q0, queries);
        softmax_of_strip(t, a, &at, r, r->q + i * a->dk, v, merge ? r->part : all);
        if (merge)
            kn_partial_merge(t, all, r->part, queries, a->dv);
    }
}

static void one_span(const kn_table *t, const kn_attn *a, kn_head h, const room *r, long first, long stop)
{
    long keys = kn_min(kn_visible(a, h.b, stop - 1), kn_kept(a, h.b)), queries = stop - first;
    long from = kn_from(a, h.b, first) / KN_KEYS * KN_KEYS;
    const float *q = a->q + h.b * a->q_batch + first * a->q_row + h.h * a->q_head;
    t->pack(a->dk, queries, t->nr, q, a->q_row, true, r->q);
    kn_partial_clear(r->all, queries, a->dv);
    for (long j = from; j < keys; j += KN_KEYS)
        one_block(t, a, h, r, j, kn_min(KN_KEYS, keys - j), first, stop, j > from);
    kn_partial_finish(t, a, h, first, r->all, queries);
}

static void forward_items(void *arg, long begin, long end, int worker)
{
    const forward *f = arg;
    const kn_attn *a = f->a;
    room r;
    lay(f->w->t, a, &r, (float *)(void *)(f->scratch + (size_t)worker * f->each));
    for (long item = begin; item < end; item++) {
        long head = item / f->spans, first = item % f->spans * f->span;
        one_span(f->w->t, a, kn_head_of(a, head / a->heads, head % a->heads), &r, first, kn_min(a->tq, first + f->span));
    }
}

void kn_attn_forward(kn_work *w, const kn_attn *a, void *scratch)
{
    if (a->tq <= 0)
        return;
    if (kn_attn_is_few(a)) {
        kn_attn_few(w, a, scratch);
        return;
    }
    kn_attn one = as_one_head(a);
    size_t each = kn_attn_scratch(w->t, a);
    a = &one;
    /* A head is cut up to bound the room of an item, or to feed every thread: its keys are packed anew in each piece. */
    long heads = a->batch * a->heads, wanted = heads >= 2 * w->threads ? 1 : (2 * w->threads + heads - 1) / heads;
    long pieces = (a->tq + SPAN - 1) / SPAN;
    pieces = wanted > pieces ? wanted : pieces;
    forward f = {.w = w, .a = a, .scratch = scratch, .each = each};
    f.span = kn_round_up((a->tq + pieces - 1) / pieces, w->t->nr);
    f.spans = (a->tq + f.span - 1) / f.span;
    bs_pool_for(w->pool, heads * f.spans, 1, forward_items, &f);
}

/* Items are (attention, head). Few queries go this way too: attention_few.c gives the same bits. */
static void heads_of_each(void *arg, long begin, long end, int worker)
{
    const forward *f = arg;
    const kn_table *t = f->w->t;
    for (long item = begin; item < end; item++) {
        const kn_attn *a = f->a + item / f->a->heads;
        room r;
        lay(t, a, &r, (float *)(void *)(f->scratch + (size_t)worker * f->each));
        for (long first = 0; first < a->tq; first += SPAN)
            one_span(t, a, kn_head_of(a, 0, item % a->heads), &r, first, kn_min(a->tq, first + SPAN));
    }
}

void kn_attn_forward_each(kn_work *w, const kn_attn *a, long n, void *scratch)
{
    forward f = {.w = w, .a = a, .scratch = scratch};
    if (n == 1) {
        kn_attn_forward(w, a, scratch);
        return;
    }
    for (long i = 0; i < n; i++) {
        size_t needed = kn_attn_scratch(w->t, &a[i]);
        f.each = f.each > needed ? f.each : needed;
    }
    bs_pool_for(w->pool, n * a->heads, 1, heads_of_each, &f);
}
