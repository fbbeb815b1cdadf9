/* attention_backward.c - the gradients of attention, a block of keys at a time (Dao et al. 2022): scores and probabilities come again
 * from the log-sum-exp that the forward kept, so that nothing of tq x tk is held.
 *
 *   items: key head  >  block of keys  >  query head that reads it  >  block of queries: P, dS [query][key]
 *
 * p[query][key] is the left side of dV = P^T dY and dK = dS^T Q as it lies. Sums are cut at fixed absolute places. */
#include <math.h>

#include "attention.h"

/* ---- backward ----------------------------------------------------------------------------------------- */

enum { BLOCK = 64, LAST_BLOCK = 96 }; /* queries; what is left, up to LAST_BLOCK, is one block */

typedef struct backward {
    kn_work *w;
    const kn_attn *a;
    const float *dy;
    float *dq, *dk, *dv, *dbias;
    char *scratch;
    size_t each;
} backward;

/* One worker's scratch. */
typedef struct room {
    float *kt, *vt, *k;       /* of a block of keys: keys and values transposed, keys as they are */
    float *qt, *dyt, *q, *dy; /* of a block of queries, likewise */
    float *p, *ds, *dst;      /* p[query][key], its gradient, the gradient packed for dQ */
    long ld;                  /* of p and ds */
} room;

/* A block of queries of one head against a block of keys, of which it sees `keys`. */
typedef struct block {
    kn_head h;
    long q0, queries, j0, keys;
    long q, y, k, v; /* where its first query, answer, key and value lie */
} block;

static size_t lay(const kn_table *t, const kn_attn *a, room *r, float *base)
{
    long most = kn_min(a->tq, LAST_BLOCK), queries = kn_round_up(most, t->mr), keys = kn_round_up(kn_min(a->tk, KN_KEYS), t->nr);
    size_t n = 0;
    r->ld = keys;
    r->kt = base + n, n += (size_t)(keys * a->dk);
    r->vt = base + n, n += (size_t)(keys * a->dv);
    r->k = base + n, n += (size_t)(kn_round_up(a->dk, t->nr) * keys);
    r->qt = base + n, n += (size_t)(queries * a->dk);
    r->dyt = base + n, n += (size_t)(queries * a->dv);
    r->q = base + n, n += (size_t)(kn_round_up(a->dk, t->nr) * most);
    r->dy = base + n, n += (size_t)(kn_round_up(a->dv, t->nr) * most);
    r->p = base + n, n += (size_t)(keys * queries);
    r->ds = base + n, n += (size_t)(keys * queries);
    r->dst = base + n, n += (size_t)(queries * keys);
    return (n * sizeof(float) + KN_ROOM_ALIGN - 1) / KN_ROOM_ALIGN * KN_ROOM_ALIGN;
}

size_t kn_attn_backward_scratch(const kn_table *t, const kn_attn *a)
{
    static float nowhere[1];
    room r;
    return lay(t, a, &r, nowhere);
}

/* Scores again, and from the log-sum-exp that the forward kept the probabilities: p = exp(s - lse). */
static void probabilities_again(const kn_table *t, const kn_attn *a, const block *at, const room *r)
{
    const float *lse = a->lse + (at->h.b * a->heads + at->h.h) * a->tq + at->q0;
    for (long i = 0; i < at->queries; i++) {
        float *p = r->p + i * r->ld;
        if (a->bias)
            t->add(at->keys, p, a->bias + kn_bias_at(a, at->h.b, at->h.h, at->q0 + i) + at->j0, p);
        long from = kn_from(a, at->h.b, at->q0 + i) - at->j0, seen = kn_visible(a, at->h.b, at->q0 + i) - at->j0;
        for (long j = 0; j < kn_min(from, at->keys); j++)
            p[j] = -INFINITY;
        for (long j = seen < 0 ? 0 : seen; j < at->keys; j++)
            p[j] = -INFINITY;
        for (long j = 0; a->key_mask && j < at->keys; j++)
            if (kn_key_hidden(a, at->h.b, at->j0 + j))
                p[j] = -INFINITY;
        t->exp_shift(at->keys, p, lse[i], p);
    }
}

/* dS = P * (dP - sum over all keys of P dP), and what hangs on it: dbias, dQ, dK. With more than one block of keys that sum is taken as
 * the product of dy and y, which are the same in exact arithmetic. */
static void score_gradients(const backward *f, const block *at, const room *r, kn_operand k)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    for (long i = 0; i < at->queries; i++) {
        float *ds = r->ds + i * r->ld;
        if (a->tk <= KN_KEYS)
            t->softmax_backward(at->keys, r->p + i * r->ld, ds, ds);
        else {
            float along = t->dot(a->dv, f->dy + at->y + i * a->y_row, a->y + at->y + i * a->y_row);
            t->softmax_slope(at->keys, r->p + i * r->ld, ds, along, ds);
        }
        float *dbias = f->dbias ? f->dbias + kn_bias_at(a, at->h.b, at->h.h, at->q0 + i) + at->j0 : NULL;
        if (dbias)
            t->add(at->keys, dbias, ds, dbias);
    }
    if (f->dq) {
        kn_operand ds = kn_pack_strips(t, at->keys, at->queries, t->mr, r->ds, r->ld, true, r->dst);
        kn_tiles(t, at->queries, a->dk, at->keys, ds, k, f->dq + at->q, a->q_row, a->scale, true);
    }
    if (f->dk) {
        kn_operand q = kn_pack_strips(t, at->queries, a->dk, t->nr, a->q + at->q, a->q_row, false, r->q);
        kn_operand ds = {r->ds, r->ld, t->mr};
        kn_tiles(t, at->keys, a->dk, at->queries, ds, q, f->dk + at->k, a->k_row, a->scale, true);
    }
}

static void one_block(const backward *f, const block *at, const room *r, kn_operand kt, kn_operand vt, kn_operand k)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    const float *dy = f->dy + at->y;
    kn_operand qt = kn_pack_strips(t, a->dk, at->queries, t->mr, a->q + at->q, a->q_row, true, r->qt);
    kn_tiles(t, at->queries, at->keys, a->dk, qt, kt, r->p, r->ld, a->scale, false);
    probabilities_again(t, a, at, r);
    if (f->dv) {
        kn_operand y = kn_pack_strips(t, at->queries, a->dv, t->nr, dy, a->y_row, false, r->dy);
        kn_operand p = {r->p, r->ld, t->mr};
        kn_tiles(t, at->keys, a->dv, at->queries, p, y, f->dv + at->v, a->v_row, 1, true);
    }
    if (!f->dq && !f->dk && !f->dbias)
        return;
    kn_operand dyt = kn_pack_strips(t, a->dv, at->queries, t->mr, dy, a->y_row, true, r->dyt);
    kn_tiles(t, at->queries, at->keys, a->dv, dyt, vt, r->ds, r->ld, 1, false);
    score_gradients(f, at, r, k);
}

/* All queries of all heads that read key head kv, in order, against n keys from j on. */
static void keys_block(const backward *f, const room *r, long b, long kv, long j, long n)
{
    const kn_attn *a = f->a;
    const kn_table *t = f->w->t;
    long group = a->heads / a->kv_heads, k0 = b * a->k_batch + j * a->k_row + kv * a->k_head;
    long v0 = b * a->v_batch + j * a->v_row + kv * a->v_head;
    kn_operand kt = kn_pack_strips(t, a->dk, n, t->nr, a->k + k0, a->k_row, true, r->kt);
    kn_operand vt = kn_pack_strips(t, a->dv, n, t->nr, a->v + v0, a->v_row, true, r->vt);
    kn_operand k = kn_pack_strips(t, n, a->dk, t->nr, a->k + k0, a->k_row, false, r->k);
    for (long h = kv * group; h < (kv + 1) * group; h++)
        for (long q0 = 0, queries; q0 < a->tq; q0 += queries) {
            queries = a->tq - q0 <= LAST_BLOCK ? a->tq - q0 : BLOCK;
            long keys = kn_min(n, kn_visible(a, b, q0 + queries - 1) - j);
            block at = {kn_head_of(a, b, h), q0, queries, j, keys, .k = k0, .v = v0};
            at.q = b * a->q_batch + q0 * a->q_row + h * a->q_head;
            at.y = b * a->y_batch + q0 * a->y_row + h * a->y_head;
            if (keys > 0 && kn_from(a, b, q0) < j + n)
                one_block(f, &at, r, kt, vt, k);
        }
}

/* All that hangs on key head kv of batch b; nobody else writes its dK and dV. */
static void key_head(const backward *f, const room *r, long b, long kv)
{
    long keys = kn_min(kn_visible(f->a, b, f->a->tq - 1), kn_kept(f->a, b));
    for (long j = 0; j < keys; j += KN_KEYS)
        keys_block(f, r, b, kv, j, kn_min(KN_KEYS, keys - j));
}

/* dbias is summed over the batch: then an item is a key head of all batches, else of one. */
static void backward_items(void *arg, long begin, long end, int worker)
{
    const backward *f = arg;
    const kn_attn *a = f->a;
    room r;
    lay(f->w->t, a, &r, (float *)(void *)(f->scratch + (size_t)worker * f->each));
    for (long item = begin; item < end; item++) {
        long first = f->dbias ? 0 : item / a->kv_heads, stop = f->dbias ? a->batch : first + 1;
        for (long b = first; b < stop; b++)
            key_head(f, &r, b, item % a->kv_heads);
    }
}

void kn_attn_backward(kn_work *w, const kn_attn *a, const float *dy, float *dq, float *dk, float *dv, float *dbias, void *scratch)
{
    if (a->tq <= 0)
        return;
    backward f = {w, a, dy, dq, dk, dv, dbias, scratch, kn_attn_backward_scratch(w->t, a)};
    bs_pool_for(w->pool, dbias ? a->kv_heads : a->batch * a->kv_heads, 1, backward_items, &f);
}

typedef struct backward_each {
    kn_work *w;
    const kn_attn *a;
    const kn_attn_grads *g;
    char *scratch;
    size_t each;
} backward_each;

/* Items are (attention, key head). */
static void heads_of_each(void *arg, long begin, long end, int worker)
{
    const backward_each *f = arg;
    for (long item = begin; item < end; item++) {
        long i = item / f->a->kv_heads;
        const kn_attn_grads *g = &f->g[i];
        backward one = {.w = f->w, .a = &f->a[i], .dy = g->dy, .dq = g->dq, .dk = g->dk, .dv = g->dv};
        room r;
        lay(f->w->t, one.a, &r, (float *)(void *)(f->scratch + (size_t)worker * f->each));
        if (one.a->tq > 0)
            key_head(&one, &r, 0, item % f->a->kv_heads);
    }
}

void kn_attn_backward_each(kn_work *w, const kn_attn *a, const kn_attn_grads *g, long n, void *scratch)
{
    backward_each f = {w, a, g, scratch, 0};
    for (long i = 0; i < n; i++) {
        size_t needed = kn_attn_backward_scratch(w->t, &a[i]);
        f.each = f.each > needed ? f.each : needed;
    }
    if (n > 0)
        bs_pool_for(w->pool, n * a->kv_heads, 1, heads_of_each, &f);
}
