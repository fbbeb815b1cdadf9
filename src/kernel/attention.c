/* attention.c - scaled dot-product attention (Vaswani et al. 2017), forward and backward, a block of queries at a time.
 *
 * Forward keeps the scores of a block transposed, s[key][query]: a key that is hidden is a row, the softmax runs down columns
 * (every query a lane of a vector), and s is at once the packed left side of probabilities times values. Backward keeps them
 * as p[query][key], the left side of dV = P^T dY and dK = dS^T Q. Sums over keys are cut at fixed absolute places (KN_KC), and
 * the keys behind the last that a block sees are left out: they would add zeros. So the bits of a query depend neither
 * on the queries beside it nor on keys that it does not see. The block's size is for the caches alone. */
#include <math.h>
#include <string.h>

#include "scalar.h"
#include "work.h"

enum { BLOCK = 64, LAST_BLOCK = 96 }; /* queries; what is left, up to LAST_BLOCK, is one block */

/* What both directions know of the (batch, head) at hand. */
typedef struct place {
    long b, h, kv; /* head of the queries, of the keys */
    const float *q, *k, *v;
} place;

static place place_of(const kn_attn *a, long b, long h)
{
    long kv = h / (a->heads / a->kv_heads);
    place p = {.b = b, .h = h, .kv = kv};
    p.q = a->q + b * a->q_batch + h * a->q_head;
    p.k = a->k + b * a->k_batch + kv * a->k_head;
    p.v = a->v + b * a->v_batch + kv * a->v_head;
    return p;
}

static long block_length(long left) { return left <= LAST_BLOCK ? left : BLOCK; }

static long block_count(long tq) { return tq <= LAST_BLOCK ? 1 : 1 + (tq - LAST_BLOCK + BLOCK - 1) / BLOCK; }

/* Keys that a query may see by its place alone: [0, result). */
static long visible(const kn_attn *a, long query)
{
    long end = a->causal ? query + a->tk - a->tq + 1 : a->tk;
    return end < 0 ? 0 : kn_min(end, a->tk);
}

static bool key_hidden(const kn_attn *a, long b, long key) { return a->key_mask && !a->key_mask[b * a->tk + key]; }

/* ---- forward ------------------------------------------------------------------------------------------ */

typedef struct forward {
    kn_work *w;
    const kn_attn *a;
    char *scratch;
    size_t each;   /* bytes of one worker */
    long per_item; /* blocks of queries an item takes */
    long items;    /* items of a head */
} forward;

/* One worker's scratch. */
typedef struct forward_room {
    float *q, *k, *v, *s, *bias, *max, *sum;
    long ld; /* of s */
} forward_room;

static size_t lay_forward(const kn_table *t, const kn_attn *a, forward_room *r, float *base)
{
    long ld = kn_round_up(kn_min(a->tq, LAST_BLOCK), t->nr), keys = kn_round_up(a->tk, t->mr);
    size_t n = 0;
    forward_room none;
    r = r ? r : &none;
    r->ld = ld;
    r->q = base + n, n += (size_t)(ld * a->dk);
    r->k = base + n, n += (size_t)(keys * a->dk);
    r->v = base + n, n += (size_t)(kn_round_up(a->dv, t->nr) * a->tk);
    r->s = base + n, n += (size_t)(ld * a->tk);
    r->bias = base + n, n += a->bias ? (size_t)(ld * KN_KC) : 0;
    r->max = base + n, n += (size_t)ld;
    r->sum = base + n, n += (size_t)ld;
    return (n * sizeof(float) + 127) / 128 * 128; /* two cache lines: workers' rooms lie side by side */
}

size_t kn_attn_scratch(const kn_table *t, const kn_attn *a)
{
    static float nowhere[1];
    return lay_forward(t, a, NULL, nowhere);
}

static void add_bias(const kn_table *t, const kn_attn *a, const place *at, const forward_room *r, long q0, long queries,
                     long keys)
{
    const float *bias = a->bias + (at->h * a->tq + q0) * a->tk;
    for (long j = 0; j < keys; j += KN_KC) {
        long now = kn_min(KN_KC, keys - j);
        for (long i = 0; i < queries; i += t->nr)
            t->pack(now, kn_min(t->nr, queries - i), r->ld, bias + i * a->tk + j, a->tk, true, r->bias + i);
        for (long jj = 0; jj < now; jj++)
            t->add(queries, r->s + (j + jj) * r->ld, r->bias + jj * r->ld, r->s + (j + jj) * r->ld);
    }
}

static void hide(const kn_attn *a, const place *at, const forward_room *r, long q0, long queries, long keys)
{
    for (long j = 0; j < keys; j++) {
        long n = 0; /* the first queries of the block that do not see key j */
        if (key_hidden(a, at->b, j))
            n = queries;
        else if (a->causal)
            n = kn_min(queries, j - (a->tk - a->tq) - q0);
        for (long i = 0; i < n; i++)
            r->s[j * r->ld + i] = -INFINITY;
    }
}

/* The softmax of every query of the block; sum becomes 1 / sum, 0 for a query that sees nothing. */
static void probabilities(const kn_table *t, const kn_attn *a, const place *at, const forward_room *r, long q0, long queries,
                          long keys)
{
    for (long i = 0; i < queries; i++) {
        r->max[i] = -INFINITY;
        r->sum[i] = 0;
    }
    t->max_columns(keys, queries, r->s, r->ld, r->max);
    t->exp_columns(keys, queries, r->s, r->ld, r->max, r->sum);
    float *lse = a->lse ? a->lse + (at->b * a->heads + at->h) * a->tq + q0 : NULL;
    for (long i = 0; i < queries; i++) {
        if (lse)
            lse[i] = r->sum[i] == 0 ? -INFINITY : r->max[i] + (float)kn_log(r->sum[i]);
        r->sum[i] = r->sum[i] == 0 ? 0 : 1.0f / r->sum[i];
    }
}

static void forward_block(const kn_table *t, const kn_attn *a, const place *at, const forward_room *r, kn_operand k, kn_operand v,
                          long q0, long queries)
{
    long keys = visible(a, q0 + queries - 1);
    kn_operand q = kn_pack_strips(t, a->dk, queries, t->nr, at->q + q0 * a->q_row, a->q_row, true, r->q);
    kn_tiles(t, keys, queries, a->dk, k, q, r->s, r->ld, a->scale, false);
    if (a->bias)
        add_bias(t, a, at, r, q0, queries, keys);
    if (a->key_mask || a->causal)
        hide(a, at, r, q0, queries, keys);
    probabilities(t, a, at, r, q0, queries, keys);
    float *y = a->y + at->b * a->y_batch + q0 * a->y_row + at->h * a->y_head;
    kn_tiles(t, queries, a->dv, keys, (kn_operand){r->s, r->ld, t->mr}, v, y, a->y_row, 1, false);
    for (long i = 0; i < queries; i++)
        t->scale(a->dv, r->sum[i], y + i * a->y_row, y + i * a->y_row);
}

/* Values are packed when several tiles of queries read them, else used where they lie. */
static kn_operand values(const kn_table *t, const kn_attn *a, const place *at, const forward_room *r, long keys)
{
    if (a->tq <= t->mr)
        return (kn_operand){at->v, a->v_row, t->nr};
    return kn_pack_strips(t, keys, a->dv, t->nr, at->v, a->v_row, false, r->v);
}

static void forward_items(void *arg, long begin, long end, int worker)
{
    const forward *f = arg;
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    forward_room r;
    lay_forward(t, a, &r, (float *)(void *)(f->scratch + (size_t)worker * f->each));
    for (long item = begin; item < end; item++) {
        long head = item / f->items, first = item % f->items * f->per_item * BLOCK;
        long stop = item % f->items + 1 == f->items ? a->tq : first + f->per_item * BLOCK;
        long keys = visible(a, stop - 1);
        place at = place_of(a, head / a->heads, head % a->heads);
        kn_operand k = kn_pack_strips(t, a->dk, keys, t->mr, at.k, a->k_row, true, r.k), v = values(t, a, &at, &r, keys);
        for (long q0 = first, n; q0 < stop; q0 += n) {
            n = block_length(stop - q0);
            forward_block(t, a, &at, &r, k, v, q0, n);
        }
    }
}

void kn_attn_forward(kn_work *w, const kn_attn *a, void *scratch)
{
    if (a->tq <= 0)
        return;
    long heads = a->batch * a->heads, blocks = block_count(a->tq);
    forward f = {.w = w, .a = a, .scratch = scratch, .each = kn_attn_scratch(w->t, a)};
    /* A head is cut up only to feed every thread, as its keys are packed anew in each piece. */
    f.per_item = heads >= 2 * w->threads ? blocks : 1;
    f.items = (blocks + f.per_item - 1) / f.per_item;
    bs_pool_for(w->pool, heads * f.items, 1, forward_items, &f);
}

/* ---- backward ----------------------------------------------------------------------------------------- */

typedef struct backward {
    kn_work *w;
    const kn_attn *a;
    const float *dy;
    float *dq, *dk, *dv, *dbias;
    char *scratch;
    size_t each;
} backward;

typedef struct backward_room {
    float *kt, *vt, *k;       /* of a head: keys and values transposed, keys as they are */
    float *qt, *dyt, *q, *dy; /* of a block of queries, likewise */
    float *p, *ds, *dst;      /* p[query][key], its gradient, the gradient packed for dQ */
    long ld;                  /* of p and ds */
} backward_room;

static size_t lay_backward(const kn_table *t, const kn_attn *a, backward_room *r, float *base)
{
    long most = kn_min(a->tq, LAST_BLOCK), queries = kn_round_up(most, t->mr), keys = kn_round_up(a->tk, t->nr);
    size_t n = 0;
    backward_room none;
    r = r ? r : &none;
    r->ld = keys;
    r->kt = base + n, n += (size_t)(keys * a->dk);
    r->vt = base + n, n += (size_t)(keys * a->dv);
    r->k = base + n, n += (size_t)(kn_round_up(a->dk, t->nr) * a->tk);
    r->qt = base + n, n += (size_t)(queries * a->dk);
    r->dyt = base + n, n += (size_t)(queries * a->dv);
    r->q = base + n, n += (size_t)(kn_round_up(a->dk, t->nr) * most);
    r->dy = base + n, n += (size_t)(kn_round_up(a->dv, t->nr) * most);
    r->p = base + n, n += (size_t)(keys * queries);
    r->ds = base + n, n += (size_t)(keys * queries);
    r->dst = base + n, n += (size_t)(queries * a->tk);
    return (n * sizeof(float) + 127) / 128 * 128;
}

size_t kn_attn_backward_scratch(const kn_table *t, const kn_attn *a)
{
    static float nowhere[1];
    return lay_backward(t, a, NULL, nowhere);
}

/* Scores again, and from the log-sum-exp that the forward kept the probabilities: p = exp(s - lse). */
static void probabilities_again(const kn_table *t, const kn_attn *a, const place *at, const backward_room *r, long q0,
                                long queries, long keys)
{
    const float *lse = a->lse + (at->b * a->heads + at->h) * a->tq + q0;
    for (long i = 0; i < queries; i++) {
        float *p = r->p + i * r->ld;
        if (a->bias)
            t->add(keys, p, a->bias + (at->h * a->tq + q0 + i) * a->tk, p);
        for (long j = visible(a, q0 + i); j < keys; j++)
            p[j] = -INFINITY;
        for (long j = 0; a->key_mask && j < keys; j++)
            if (key_hidden(a, at->b, j))
                p[j] = -INFINITY;
        t->exp_shift(keys, p, lse[i], p);
    }
}

/* dS = P * (dP - sum(P dP)), and what hangs on it: dbias, dQ, dK. */
static void score_gradients(const backward *f, const place *at, const backward_room *r, kn_operand k, long q0, long queries,
                            long keys)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    for (long i = 0; i < queries; i++) {
        float *ds = r->ds + i * r->ld;
        t->softmax_backward(keys, r->p + i * r->ld, ds, ds);
        float *dbias = f->dbias ? f->dbias + (at->h * a->tq + q0 + i) * a->tk : NULL;
        if (dbias)
            t->add(keys, dbias, ds, dbias);
    }
    if (f->dq) {
        kn_operand ds = kn_pack_strips(t, keys, queries, t->mr, r->ds, r->ld, true, r->dst);
        float *dq = f->dq + at->b * a->q_batch + q0 * a->q_row + at->h * a->q_head;
        kn_tiles(t, queries, a->dk, keys, ds, k, dq, a->q_row, a->scale, true);
    }
    if (f->dk) {
        kn_operand q = kn_pack_strips(t, queries, a->dk, t->nr, at->q + q0 * a->q_row, a->q_row, false, r->q);
        float *dk = f->dk + at->b * a->k_batch + at->kv * a->k_head;
        kn_tiles(t, keys, a->dk, queries, (kn_operand){r->ds, r->ld, t->mr}, q, dk, a->k_row, a->scale, true);
    }
}

static void backward_block(const backward *f, const place *at, const backward_room *r, kn_operand kt, kn_operand vt, kn_operand k,
                           long q0, long queries)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    long keys = visible(a, q0 + queries - 1);
    if (!keys)
        return;
    const float *dy = f->dy + at->b * a->y_batch + q0 * a->y_row + at->h * a->y_head;
    kn_operand qt = kn_pack_strips(t, a->dk, queries, t->mr, at->q + q0 * a->q_row, a->q_row, true, r->qt);
    kn_tiles(t, queries, keys, a->dk, qt, kt, r->p, r->ld, a->scale, false);
    probabilities_again(t, a, at, r, q0, queries, keys);
    if (f->dv) {
        kn_operand y = kn_pack_strips(t, queries, a->dv, t->nr, dy, a->y_row, false, r->dy);
        float *dv = f->dv + at->b * a->v_batch + at->kv * a->v_head;
        kn_tiles(t, keys, a->dv, queries, (kn_operand){r->p, r->ld, t->mr}, y, dv, a->v_row, 1, true);
    }
    if (!f->dq && !f->dk && !f->dbias)
        return;
    kn_operand dyt = kn_pack_strips(t, a->dv, queries, t->mr, dy, a->y_row, true, r->dyt);
    kn_tiles(t, queries, keys, a->dv, dyt, vt, r->ds, r->ld, 1, false);
    score_gradients(f, at, r, k, q0, queries, keys);
}

/* All query heads that read key head kv of one batch, in order: nobody else writes its dK and dV. */
static void backward_head(const backward *f, const backward_room *r, long b, long kv)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    long group = a->heads / a->kv_heads, keys = visible(a, a->tq - 1);
    place at = place_of(a, b, kv * group);
    kn_operand kt = kn_pack_strips(t, a->dk, keys, t->nr, at.k, a->k_row, true, r->kt);
    kn_operand vt = kn_pack_strips(t, a->dv, keys, t->nr, at.v, a->v_row, true, r->vt);
    kn_operand k = kn_pack_strips(t, keys, a->dk, t->nr, at.k, a->k_row, false, r->k);
    for (long h = kv * group; h < (kv + 1) * group; h++) {
        at = place_of(a, b, h);
        for (long q0 = 0, n; q0 < a->tq; q0 += n) {
            n = block_length(a->tq - q0);
            backward_block(f, &at, r, kt, vt, k, q0, n);
        }
    }
}

/* dbias is summed over the batch: then an item is a key head of all batches, else of one. */
static void backward_items(void *arg, long begin, long end, int worker)
{
    const backward *f = arg;
    const kn_attn *a = f->a;
    backward_room r;
    lay_backward(f->w->t, a, &r, (float *)(void *)(f->scratch + (size_t)worker * f->each));
    for (long item = begin; item < end; item++) {
        long first = f->dbias ? 0 : item / a->kv_heads, stop = f->dbias ? a->batch : first + 1;
        for (long b = first; b < stop; b++)
            backward_head(f, &r, b, item % a->kv_heads);
    }
}

void kn_attn_backward(kn_work *w, const kn_attn *a, const float *dy, float *dq, float *dk, float *dv, float *dbias, void *scratch)
{
    if (a->tq <= 0)
        return;
    backward f = {w, a, dy, dq, dk, dv, dbias, scratch, kn_attn_backward_scratch(w->t, a)};
    bs_pool_for(w->pool, dbias ? a->kv_heads : a->batch * a->kv_heads, 1, backward_items, &f);
}
