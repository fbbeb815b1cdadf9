/* op_attention.c - scaled dot-product attention and rotary positions. */
#include <math.h>
#include <string.h>

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
    float theta;
    long offset;
} rope_record;

/* to = (or +=) x turned by sign * angle. Angles in double: a position of thousands times a frequency of one loses bits in float. */
static void rotate(const tn_t *like, float theta, long offset, double sign, const float *x, float *to, bool add)
{
    long d = tn_last(*like), half = d / 2, rows = tn_rows(*like), t = like->shape[like->rank - 2];
    for (long i = 0; i < half; i++) {
        double frequency = pow((double)theta, -2.0 * (double)i / (double)d);
        for (long r = 0; r < rows; r++) {
            double angle = (double)(offset + r % t) * frequency;
            float c = (float)cos(angle), s = (float)(sign * sin(angle));
            float a = x[r * d + i], b = x[r * d + i + half];
            float ya = a * c - b * s, yb = b * c + a * s;
            to[r * d + i] = add ? to[r * d + i] + ya : ya;
            to[r * d + i + half] = add ? to[r * d + i + half] + yb : yb;
        }
    }
}

static void rope_backward(tn_ctx *cx, tn_record *self)
{
    (void)cx;
    rope_record *r = (rope_record *)self;
    rotate(&r->x, r->theta, r->offset, -1, r->y.g, r->x.g, true); /* a rotation's transpose turns back */
}

tn_t tn_rope(tn_ctx *cx, tn_t x, float theta, long offset)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank < 2 || tn_last(x) % 2)
        return tn_fail(cx, "rope: a width of %ld does not pair up", tn_last(x));
    tn_t y = tn_like(cx, x, x.grad);
    if (tn_live(cx))
        rotate(&x, theta, offset, 1, x.v, y.v, false);
    rope_record *r = y.grad ? tn_push(cx, sizeof *r, rope_backward) : NULL;
    if (r)
        *r = (rope_record){r->head, x, y, theta, offset};
    return y;
}
