/* op_math.c - elementwise functions, softmax, losses. */
#include <math.h>
#include <string.h>

#include "../kernel/scalar.h"
#include "ops.h"

typedef struct unary_record {
    tn_record head;
    tn_t x, y;
    kn_act f;
    const tn_param *p;
    float s;
} unary_record;

static tn_t record_unary(tn_ctx *cx, tn_t x, tn_t y, void (*backward)(tn_ctx *, tn_record *), kn_act f, const tn_param *p,
                         float s)
{
    unary_record *r = y.grad ? tn_push(cx, sizeof *r, backward) : NULL;
    if (r)
        *r = (unary_record){r->head, x, y, f, p, s};
    return y;
}

/* ---- activations ------------------------------------------------------------------------------------------ */

typedef struct act_work {
    const kn_table *kn;
    kn_act f;
    const float *x, *dy;
    float *y;
    bool add; /* of the backward: y holds something */
} act_work;

static void act_piece(void *arg, long begin, long end, int worker)
{
    (void)worker;
    act_work *k = arg;
    if (k->dy && !k->add) /* it only adds; what is zeroed now is in the cache */
        memset(k->y + begin, 0, (size_t)(end - begin) * sizeof *k->y);
    if (k->dy)
        k->kn->act_backward(k->f, end - begin, k->x + begin, k->dy + begin, k->y + begin);
    else
        k->kn->act(k->f, end - begin, k->x + begin, k->y + begin);
}

static void act_backward(tn_ctx *cx, tn_record *self)
{
    unary_record *r = (unary_record *)self;
    act_work k = {.kn = cx->kn, .f = r->f, .x = r->x.v, .dy = tn_gradient(cx, r->y)};
    k.y = tn_gradient_to_write(r->x, &k.add);
    tn_each(cx, tn_size(r->x), 1, act_piece, &k);
}

tn_t tn_act(tn_ctx *cx, tn_t x, kn_act f)
{
    tn_t y = tn_like(cx, x, x.grad);
    if (tn_live(cx)) {
        act_work k = {.kn = cx->kn, .f = f, .x = x.v, .y = y.v};
        tn_each(cx, tn_size(x), 1, act_piece, &k);
    }
    return record_unary(cx, x, y, act_backward, f, NULL, 0);
}

/* ---- gates ------------------------------------------------------------------------------------------------ */

typedef struct gate_record {
    tn_record head;
    tn_t x, y, z; /* z = f(x) * y */
    kn_act f;
} gate_record;

typedef struct gate_work {
    const kn_table *kn;
    const gate_record *r;
    bool back;
    float *dx, *dy;
    const float *dz;
} gate_work;

static void gate_forward(const gate_work *k, long at, long n)
{
    float *z = k->r->z.v + at;
    k->kn->act(k->r->f, n, k->r->x.v + at, z);
    k->kn->mul(n, z, k->r->y.v + at, z);
}

static void gate_gradients(const gate_work *k, long at, long n, float *room)
{
    const gate_record *r = k->r;
    if (k->dy) {
        k->kn->act(r->f, n, r->x.v + at, room);
        k->kn->mul_add(n, room, k->dz + at, k->dy + at);
    }
    if (k->dx) {
        k->kn->mul(n, k->dz + at, r->y.v + at, room);
        k->kn->act_backward(r->f, n, r->x.v + at, room, k->dx + at);
    }
}

static void gate_piece(void *arg, long begin, long end, int worker)
{
    (void)worker;
    enum { PIECE = 1024 };
    float room[PIECE];
    for (long at = begin; at < end; at += PIECE) {
        long n = end - at < PIECE ? end - at : PIECE;
        if (((gate_work *)arg)->back)
            gate_gradients(arg, at, n, room);
        else
            gate_forward(arg, at, n);
    }
}

static void gate_backward(tn_ctx *cx, tn_record *self)
{
    gate_record *r = (gate_record *)self;
    gate_work k = {cx->kn, r, true, tn_gradient(cx, r->x), tn_gradient(cx, r->y), tn_gradient(cx, r->z)};
    tn_each(cx, tn_size(k.r->x), 1, gate_piece, &k);
}

tn_t tn_gate(tn_ctx *cx, tn_t x, tn_t y, kn_act f)
{
    if (cx->failed)
        return (tn_t){0};
    if (tn_size(x) != tn_size(y))
        return tn_fail(cx, "gate: %ld and %ld elements", tn_size(x), tn_size(y));
    gate_record now = {.x = x, .y = y, .z = tn_like(cx, x, x.grad || y.grad), .f = f};
    gate_work k = {.kn = cx->kn, .r = &now};
    if (tn_live(cx))
        tn_each(cx, tn_size(x), 1, gate_piece, &k);
    gate_record *r = now.z.grad ? tn_push(cx, sizeof *r, gate_backward) : NULL;
    if (r) {
        now.head = r->head;
        *r = now;
    }
    return now.z;
}

/* ---- softmax and scales -------------------------------------------------------------------------------------- */

static void softmax_backward(tn_ctx *cx, tn_record *self)
{
    unary_record *r = (unary_record *)self;
    long rows = tn_rows(r->x), d = tn_last(r->x);
    float *dy = tn_gradient(cx, r->y), *dx = tn_gradient(cx, r->x);
    for (long i = 0; i < rows; i++, dy += d, dx += d) {
        cx->kn->softmax_backward(d, r->y.v + i * d, dy, dy);
        cx->kn->add(d, dx, dy, dx);
    }
}

tn_t tn_softmax(tn_ctx *cx, tn_t x)
{
    tn_t y = tn_like(cx, x, x.grad);
    long d = tn_last(x);
    if (tn_live(cx))
        for (long i = 0, rows = tn_rows(x); i < rows; i++)
            cx->kn->softmax(d, x.v + i * d, y.v + i * d);
    return record_unary(cx, x, y, softmax_backward, KN_NONE, NULL, 0);
}

static void scale_backward(tn_ctx *cx, tn_record *self)
{
    unary_record *r = (unary_record *)self;
    float *dp = r->p ? tn_grad_of(cx, r->p) : NULL, *dx = tn_gradient(cx, r->x), *dy = tn_gradient(cx, r->y);
    if (dp) /* d (exp(p) x) / dp = y */
        *dp += cx->kn->dot(tn_size(r->y), r->y.v, dy);
    if (dx)
        cx->kn->axpy(tn_size(r->y), r->s, dy, dx);
}

tn_t tn_scale(tn_ctx *cx, tn_t x, float s)
{
    tn_t y = tn_like(cx, x, x.grad);
    if (tn_live(cx))
        cx->kn->scale(tn_size(x), s, x.v, y.v);
    return record_unary(cx, x, y, scale_backward, KN_NONE, NULL, s);
}

tn_t tn_scale_exp(tn_ctx *cx, tn_t x, const tn_param *log_scale)
{
    tn_t y = tn_like(cx, x, x.grad || tn_grad_of(cx, log_scale));
    float s = 0;
    if (tn_live(cx)) {
        s = (float)exp((double)log_scale->v[0]);
        cx->kn->scale(tn_size(x), s, x.v, y.v);
    }
    return record_unary(cx, x, y, scale_backward, KN_NONE, log_scale, s);
}

static void divide_backward(tn_ctx *cx, tn_record *self)
{
    unary_record *r = (unary_record *)self;
    float *dp = tn_grad_of(cx, r->p), *dx = tn_gradient(cx, r->x), *dy = tn_gradient(cx, r->y);
    if (dp) /* d (x / p) / dp = -y / p */
        *dp -= r->s * cx->kn->dot(tn_size(r->y), r->y.v, dy);
    if (dx)
        cx->kn->axpy(tn_size(r->y), r->s, dy, dx);
}

tn_t tn_divide(tn_ctx *cx, tn_t x, const tn_param *divisor)
{
    tn_t y = tn_like(cx, x, x.grad || tn_grad_of(cx, divisor));
    float s = 0;
    if (tn_live(cx)) {
        s = 1 / divisor->v[0];
        cx->kn->scale(tn_size(x), s, x.v, y.v);
    }
    return record_unary(cx, x, y, divide_backward, KN_NONE, divisor, s);
}

/* ---- weighted sum of two ---------------------------------------------------------------------------------------- */

typedef struct sum_record {
    tn_record head;
    tn_t a, b, y;
    float sa, sb;
} sum_record;

static void sum_backward(tn_ctx *cx, tn_record *self)
{
    sum_record *r = (sum_record *)self;
    float *dy = tn_gradient(cx, r->y), *da = tn_gradient(cx, r->a), *db = tn_gradient(cx, r->b);
    if (da)
        cx->kn->axpy(tn_size(r->y), r->sa, dy, da);
    if (db)
        cx->kn->axpy(tn_size(r->y), r->sb, dy, db);
}

tn_t tn_sum2(tn_ctx *cx, tn_t a, float sa, tn_t b, float sb)
{
    if (cx->failed)
        return (tn_t){0};
    if (tn_size(a) != tn_size(b))
        return tn_fail(cx, "sum: %ld and %ld elements", tn_size(a), tn_size(b));
    tn_t y = tn_like(cx, a, a.grad || b.grad);
    if (tn_live(cx)) {
        cx->kn->scale(tn_size(y), sa, a.v, y.v);
        cx->kn->axpy(tn_size(y), sb, b.v, y.v);
    }
    sum_record *r = y.grad ? tn_push(cx, sizeof *r, sum_backward) : NULL;
    if (r)
        *r = (sum_record){r->head, a, b, y, sa, sb};
    return y;
}

typedef struct weighted_record {
    tn_record head;
    tn_t x, y;
    const float *weight;
} weighted_record;

static void weighted_backward(tn_ctx *cx, tn_record *self)
{
    weighted_record *r = (weighted_record *)self;
    cx->kn->axpy(tn_size(r->x), tn_gradient(cx, r->y)[0], r->weight, tn_gradient(cx, r->x));
}

tn_t tn_weighted_sum(tn_ctx *cx, tn_t x, const float *weight)
{
    tn_t y = tn_new(cx, x.grad, 1, (long[]){1});
    if (tn_live(cx)) {
        double sum = 0;
        for (long i = 0, n = tn_size(x); i < n; i++)
            sum += (double)x.v[i] * (double)weight[i];
        y.v[0] = (float)sum;
    }
    weighted_record *r = y.grad ? tn_push(cx, sizeof *r, weighted_backward) : NULL;
    if (r)
        *r = (weighted_record){r->head, x, y, weight};
    return y;
}

/* ---- cross-entropy ------------------------------------------------------------------------------------------------ */

typedef struct xent_record {
    tn_record head;
    tn_t x, y;
    const int *target;
    float smoothing;
    long counted; /* rows that are not ignored */
    float *row;   /* gradient of one row */
} xent_record;

enum { IGNORE = -100 };

static void xent_backward(tn_ctx *cx, tn_record *self)
{
    xent_record *r = (xent_record *)self;
    long rows = tn_rows(r->x), n = tn_last(r->x);
    float s = tn_gradient(cx, r->y)[0] / (float)r->counted, *dx = tn_gradient(cx, r->x);
    for (long i = 0; i < rows; i++) {
        if (r->target[i] == IGNORE)
            continue;
        kn_cross_entropy(cx->kn, n, r->x.v + i * n, r->target[i], r->smoothing, s, r->row);
        cx->kn->add(n, dx + i * n, r->row, dx + i * n);
    }
}

tn_t tn_cross_entropy(tn_ctx *cx, tn_t logits, const int *target, float smoothing)
{
    long rows = tn_rows(logits), n = tn_last(logits), counted = 0;
    tn_t y = tn_new(cx, logits.grad, 1, (long[]){1});
    float *row = tn_bytes(cx, (size_t)n * sizeof *row);
    double sum = 0;
    if (tn_live(cx)) {
        for (long i = 0; i < rows; i++) {
            if (target[i] == IGNORE)
                continue;
            if (target[i] < 0 || target[i] >= n)
                return tn_fail(cx, "cross-entropy: target %d of %ld classes", target[i], n);
            sum += (double)kn_cross_entropy(cx->kn, n, logits.v + i * n, target[i], smoothing, 0, NULL);
            counted++;
        }
        if (!counted)
            return tn_fail(cx, "cross-entropy: every row is ignored, there is nothing to learn from");
        y.v[0] = (float)(sum / (double)counted);
    }
    xent_record *r = y.grad ? tn_push(cx, sizeof *r, xent_backward) : NULL;
    if (r)
        *r = (xent_record){
            .head = r->head, .x = logits, .y = y, .target = target, .smoothing = smoothing, .counted = counted, .row = row};
    return y;
}

typedef struct soft_record {
    tn_record head;
    tn_t x, y;
    const float *target;
    bool others_only;
    float *row; /* one row */
} soft_record;

static float row_sum(const kn_table *kn, long n, const float *t) { return kn->sum(n, t) > 0.5f ? 1 : 0; }

/* softmax of row i into `row`; returns the logarithm of its sum. */
static float soft_row(const kn_table *kn, long i, long n, const float *x, bool others_only, float *row)
{
    memcpy(row, x, (size_t)n * sizeof *row);
    if (others_only)
        row[i] = -INFINITY;
    return kn->softmax(n, row, row);
}

/* d/dx of -sum t log softmax(x) is softmax(x) - t, for a t that sums to one. */
static void soft_xent_backward(tn_ctx *cx, tn_record *self)
{
    soft_record *r = (soft_record *)self;
    long rows = tn_rows(r->x), n = tn_last(r->x);
    float s = tn_gradient(cx, r->y)[0] / (float)rows, *dx = tn_gradient(cx, r->x);
    for (long i = 0; i < rows; i++) {
        const float *t = r->target + i * n;
        soft_row(cx->kn, i, n, r->x.v + i * n, r->others_only, r->row);
        cx->kn->axpy(n, s * row_sum(cx->kn, n, t), r->row, dx + i * n);
        cx->kn->axpy(n, -s, t, dx + i * n);
    }
}

tn_t tn_soft_cross_entropy(tn_ctx *cx, tn_t logits, const float *target, bool others_only)
{
    long rows = tn_rows(logits), n = tn_last(logits);
    tn_t y = tn_new(cx, logits.grad, 1, (long[]){1});
    float *row = tn_bytes(cx, (size_t)n * sizeof *row);
    double sum = 0;
    if (cx->failed || (others_only && rows != n))
        return tn_fail(cx, "soft cross-entropy: %ld rows of %ld are not compared with themselves", rows, n);
    if (tn_live(cx)) {
        for (long i = 0; i < rows; i++) {
            const float *x = logits.v + i * n, *t = target + i * n;
            sum += (double)(row_sum(cx->kn, n, t) * soft_row(cx->kn, i, n, x, others_only, row));
            for (long j = 0; j < n; j++) /* mostly zeros, and 0 * -inf must not count */
                sum -= t[j] != 0 ? (double)t[j] * (double)x[j] : 0;
        }
        y.v[0] = (float)(sum / (double)rows);
    }
    soft_record *r = y.grad ? tn_push(cx, sizeof *r, soft_xent_backward) : NULL;
    if (r)
        *r = (soft_record){.head = r->head, .x = logits, .y = y, .target = target, .others_only = others_only, .row = row};
    return y;
}

typedef struct sigmoid_record {
    tn_record head;
    tn_t x, y;
    const float *target;
} sigmoid_record;

/* +1 where row i and column j belong together, else -1. */
static float sign_of(const float *target, long n, long i, long j) { return (target ? target[i * n + j] > 0 : i == j) ? 1 : -1; }

/* d/dx of -log sigmoid(z x) is -z sigmoid(-z x). */
static void sigmoid_backward(tn_ctx *cx, tn_record *self)
{
    sigmoid_record *r = (sigmoid_record *)self;
    long rows = tn_rows(r->x), n = tn_last(r->x);
    float s = tn_gradient(cx, r->y)[0] / (float)rows, *dx = tn_gradient(cx, r->x);
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < n; j++) {
            float z = sign_of(r->target, n, i, j);
            dx[i * n + j] -= s * z * kn_sigmoid(-z * r->x.v[i * n + j]);
        }
}

tn_t tn_sigmoid_cross_entropy(tn_ctx *cx, tn_t logits, const float *target)
{
    long rows = tn_rows(logits), n = tn_last(logits);
    tn_t y = tn_new(cx, logits.grad, 1, (long[]){1});
    double sum = 0;
    if (cx->failed || (!target && rows != n))
        return tn_fail(cx, "sigmoid cross-entropy: %ld rows of %ld do not pair up", rows, n);
    for (long i = 0; i < rows && tn_live(cx); i++)
        for (long j = 0; j < n; j++) { /* log(1 + exp(-a)) = max(-a, 0) + log(1 + exp(-|a|)) */
            float a = sign_of(target, n, i, j) * logits.v[i * n + j];
            sum += (double)(a < 0 ? -a : 0) + kn_log(1 + (double)kn_exp(-fabsf(a)));
        }
    if (tn_live(cx))
        y.v[0] = (float)(sum / (double)rows);
    sigmoid_record *r = y.grad ? tn_push(cx, sizeof *r, sigmoid_backward) : NULL;
    if (r)
        *r = (sigmoid_record){r->head, logits, y, target};
    return y;
}
