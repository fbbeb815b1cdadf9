/* op_attention.c - scaled dot-product attention and rotary positions. */
#include <math.h>

#include "ops.h"

typedef struct attention_record {
    tn_record head;
    tn_t q, k, v, y;
    kn_attn a;
} attention_record;

/* Where element (batch, time, head) of x lies, in either layout. */
static void strides(bool head_major, long heads, long t, long d, long *batch, long *row, long *head)
{
    *batch = heads * t * d;
    *row = head_major ? d : heads * d;
    *head = head_major ? t * d : d;
}

static bool shapes(tn_ctx *cx, const tn_attention_args *s, tn_t q, tn_t k, tn_t v, kn_attn *a)
{
    int rank = s->head_major ? 4 : 3, time = s->head_major ? 2 : 1;
    if (q.rank != rank || k.rank != rank || v.rank != rank || q.shape[0] != k.shape[0] || q.shape[0] != v.shape[0] ||
        k.shape[time] != v.shape[time]) {
        tn_fail(cx, "attention: q, k and v differ in batch or time");
        return false;
    }
    a->batch = q.shape[0];
    a->tq = q.shape[time];
    a->tk = k.shape[time];
    a->heads = s->head_major ? q.shape[1] : s->heads;
    a->kv_heads = s->head_major ? k.shape[1] : s->kv_heads ? s->kv_heads : s->heads;
    long per_q = s->head_major ? 1 : a->heads, per_k = s->head_major ? 1 : a->kv_heads;
    if (per_q < 1 || per_k < 1 || a->kv_heads < 1 || a->heads % a->kv_heads || tn_last(q) % per_q || tn_last(k) % per_k ||
        tn_last(v) % per_k) {
        tn_fail(cx, "attention: widths %ld, %ld, %ld do not split into %ld and %ld heads", tn_last(q), tn_last(k), tn_last(v),
                a->heads, a->kv_heads);
        return false;
    }
    a->dk = tn_last(q) / per_q;
    a->dv = tn_last(v) / per_k;
    if (tn_last(k) / per_k != a->dk || (s->head_major && v.shape[1] != a->kv_heads)) {
        tn_fail(cx, "attention: a query is %ld wide, a key %ld", a->dk, tn_last(k) / per_k);
        return false;
    }
    return true;
}

static void attention_backward(tn_ctx *cx, tn_record *self)
{
    attention_record *r = (attention_record *)self;
    void *scratch = tn_bytes(cx, kn_attn_backward_scratch(cx->kn, &r->a) * (size_t)cx->threads);
    if (scratch)
        kn_attn_backward(cx->work, &r->a, r->y.g, r->q.g, r->k.g, r->v.g, NULL, scratch);
}

/* What a lone query sees, as a key mask. */
static const uint8_t *mask_up_to(tn_ctx *cx, const kn_attn *a, const int *last_key)
{
    uint8_t *mask = tn_bytes(cx, (size_t)(a->batch * a->tk));
    for (long i = 0; mask && i < a->batch * a->tk; i++)
        mask[i] = i % a->tk <= last_key[i / a->tk] && (!a->key_mask || a->key_mask[i]);
    return mask;
}

tn_t tn_attention(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *s)
{
    kn_attn a = {.causal = s->causal, .key_mask = s->key_mask};
    if (cx->failed || !shapes(cx, s, q, k, v, &a))
        return (tn_t){0};
    if (s->last_key && a.tq != 1)
        return tn_fail(cx, "attention: %ld queries where the last key of one is given", a.tq);
    a.scale = s->scale != 0 ? s->scale : (float)(1 / sqrt((double)a.dk));
    strides(s->head_major, a.heads, a.tq, a.dk, &a.q_batch, &a.q_row, &a.q_head);
    strides(s->head_major, a.kv_heads, a.tk, a.dk, &a.k_batch, &a.k_row, &a.k_head);
    strides(s->head_major, a.kv_heads, a.tk, a.dv, &a.v_batch, &a.v_row, &a.v_head);
    strides(s->head_major, a.heads, a.tq, a.dv, &a.y_batch, &a.y_row, &a.y_head);
    bool grad = q.grad || k.grad || v.grad;
    tn_t y = q;
    y.shape[y.rank - 1] = s->head_major ? a.dv : a.heads * a.dv;
    y = tn_like(cx, y, grad);
    a.lse = y.grad ? tn_bytes(cx, (size_t)(a.batch * a.heads * a.tq) * sizeof(float)) : NULL;
    cx->flops += (a.causal ? 1.0 : 2.0) * (double)(a.batch * a.heads * a.tq * a.tk) * (double)(a.dk + a.dv);
    if (s->last_key)
        a.key_mask = mask_up_to(cx, &a, s->last_key);
    size_t mark = cx->used;
    void *scratch = tn_bytes(cx, kn_attn_scratch(cx->kn, &a) * (size_t)cx->threads);
    a.q = q.v;
    a.k = k.v;
    a.v = v.v;
    a.y = y.v;
    if (tn_live(cx))
        kn_attn_forward(cx->work, &a, scratch);
    cx->used = mark;
    if (y.grad)
        tn_backward_needs(cx, kn_attn_backward_scratch(cx->kn, &a) * (size_t)cx->threads);
    attention_record *r = y.grad ? tn_push(cx, sizeof *r, attention_backward) : NULL;
    if (r)
        *r = (attention_record){r->head, q, k, v, y, a};
    return y;
}

/* ---- rotary positions ------------------------------------------------------------------------------------------- */

typedef struct rope_record {
    tn_record head;
    tn_t x, y;
    float *c, *s; /* [T, d / 2] */
} rope_record;

typedef struct turn {
    const tn_ctx *cx;
    const rope_record *r;
    const float *x;
    float *y;
    float sign; /* -1: back */
    bool accumulate;
} turn;

static void turn_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const turn *k = arg;
    const tn_t *x = &k->r->x;
    long d = tn_last(*x), half = d / 2, t = x->shape[x->rank - 2];
    for (long row = begin; row < end; row++)
        k->cx->kn->rotate(half, k->x + row * d, k->r->c + row % t * half, k->r->s + row % t * half, k->sign, k->accumulate,
                          k->y + row * d);
}

static void rope_backward(tn_ctx *cx, tn_record *self)
{
    rope_record *r = (rope_record *)self;
    turn back = {cx, r, r->y.g, r->x.g, -1, true}; /* a rotation's transpose turns back */
    tn_each(cx, tn_rows(r->x), tn_last(r->x), turn_rows, &back);
}

/* The angles of T positions, from the arena. */
static bool angles(tn_ctx *cx, tn_t x, float theta, long offset, rope_record *r)
{
    long half = tn_last(x) / 2, t = x.shape[x.rank - 2];
    r->c = tn_bytes(cx, (size_t)(t * half) * sizeof(float));
    r->s = tn_bytes(cx, (size_t)(t * half) * sizeof(float));
    size_t mark = cx->used;
    double *frequency = tn_bytes(cx, (size_t)half * sizeof *frequency);
    cx->used = mark;
    if (!tn_live(cx))
        return false;
    kn_rotary_frequencies(half, (double)theta, frequency);
    kn_rotary_angles(t, half, offset, frequency, r->c, r->s);
    return true;
}

tn_t tn_rope(tn_ctx *cx, tn_t x, float theta, long offset)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank < 2 || tn_last(x) % 2)
        return tn_fail(cx, "rope: a width of %ld does not pair up", tn_last(x));
    rope_record now = {.x = x, .y = tn_like(cx, x, x.grad)};
    size_t mark = cx->used;
    if (angles(cx, x, theta, offset, &now)) {
        turn there = {cx, &now, x.v, now.y.v, 1, false};
        tn_each(cx, tn_rows(x), tn_last(x), turn_rows, &there);
    }
    if (!now.y.grad)
        cx->used = mark;
    rope_record *r = now.y.grad ? tn_push(cx, sizeof *r, rope_backward) : NULL;
    if (r) {
        now.head = r->head;
        *r = now;
    }
    return now.y;
}
