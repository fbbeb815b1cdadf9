/* op_norm.c - layer, RMS and batch norm, and rows of length one. */
#include <math.h>
#include <string.h>

#include "ops.h"

/* ---- layer norm and RMS norm ------------------------------------------------------------------------------ */

typedef struct norm_record {
    tn_record head;
    tn_t x, y;
    const tn_norm_w *n;
    float *mean, *rstd; /* [rows]; RMS norm has no mean */
} norm_record;

typedef struct norm_work {
    const kn_table *kn;
    const tn_norm_w *n;
    const float *x;
    float *y, *mean, *rstd;
    long d;
    float eps;
} norm_work;

static void layer_norm_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    norm_work *k = arg;
    const float *b = tn_has(&k->n->bias) ? k->n->bias.v : NULL;
    k->kn->layer_norm(end - begin, k->d, k->x + begin * k->d, k->n->weight.v, b, k->eps, k->y + begin * k->d,
                      k->mean ? k->mean + begin : NULL, k->rstd ? k->rstd + begin : NULL);
}

static void rms_norm_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    norm_work *k = arg;
    k->kn->rms_norm(end - begin, k->d, k->x + begin * k->d, k->n->weight.v, k->eps, k->y + begin * k->d,
                    k->rstd ? k->rstd + begin : NULL);
}

static void layer_norm_backward(tn_ctx *cx, tn_record *self)
{
    norm_record *r = (norm_record *)self;
    kn_layer_norm_backward(cx->work, tn_rows(r->x), tn_last(r->x), r->x.v, r->n->weight.v, r->mean, r->rstd,
                           tn_gradient(cx, r->y), tn_gradient(cx, r->x), tn_grad_of(cx, &r->n->weight),
                           tn_grad_of(cx, &r->n->bias));
}

static void rms_norm_backward(tn_ctx *cx, tn_record *self)
{
    norm_record *r = (norm_record *)self;
    kn_rms_norm_backward(cx->work, tn_rows(r->x), tn_last(r->x), r->x.v, r->n->weight.v, r->rstd, tn_gradient(cx, r->y),
                         tn_gradient(cx, r->x), tn_grad_of(cx, &r->n->weight));
}

static tn_t norm(tn_ctx *cx, tn_t x, const tn_norm_w *n, float eps, const char *name, bs_work *rows_fn,
                 void (*backward)(tn_ctx *, tn_record *))
{
    long rows = tn_rows(x), d = tn_last(x);
    if (cx->failed)
        return (tn_t){0};
    if (n->weight.rank != 1 || n->weight.shape[0] != d)
        return tn_fail(cx, "%s: rows of %ld, a gain of %ld", name, d, n->weight.shape[0]);
    if (tn_has(&n->bias) && (n->bias.rank != 1 || n->bias.shape[0] != d))
        return tn_fail(cx, "%s: rows of %ld, a bias of %ld", name, d, n->bias.shape[0]);
    bool grad = x.grad || tn_grad_of(cx, &n->weight) || tn_grad_of(cx, &n->bias);
    tn_t y = tn_like(cx, x, grad);
    float *mean = y.grad ? tn_bytes(cx, (size_t)rows * sizeof *mean) : NULL;
    float *rstd = y.grad ? tn_bytes(cx, (size_t)rows * sizeof *rstd) : NULL;
    if (tn_live(cx)) {
        norm_work k = {cx->kn, n, x.v, y.v, mean, rstd, d, eps};
        tn_each(cx, rows, d, rows_fn, &k);
    }
    norm_record *r = y.grad ? tn_push(cx, sizeof *r, backward) : NULL;
    if (r)
        *r = (norm_record){r->head, x, y, n, mean, rstd};
    return y;
}

tn_t tn_layer_norm(tn_ctx *cx, tn_t x, const tn_norm_w *n, float eps)
{
    return norm(cx, x, n, eps, "layer norm", layer_norm_rows, layer_norm_backward);
}

tn_t tn_rms_norm(tn_ctx *cx, tn_t x, const tn_norm_w *n, float eps)
{
    return norm(cx, x, n, eps, "rms norm", rms_norm_rows, rms_norm_backward);
}

/* ---- batch norm --------------------------------------------------------------------------------------------- */

typedef struct batch_norm_record {
    tn_record head;
    tn_t x, y;
    const tn_batch_norm_w *n;
    float *mean, *rstd; /* [C] that the forward used */
    bool training;
} batch_norm_record;

/* x is [n, c, inner]. */
static long inner_of(tn_t x)
{
    long inner = 1;
    for (int i = 2; i < x.rank; i++)
        inner *= x.shape[i];
    return inner;
}

/* Double sums: a channel runs over the whole batch, and the variance is taken round its mean. */
static void channel_statistics(tn_t x, long c, double *mean, double *variance)
{
    long n = x.shape[0], channels = x.shape[1], inner = inner_of(x);
    double sum = 0, square = 0;
    for (long b = 0; b < n; b++)
        for (long i = 0; i < inner; i++)
            sum += (double)x.v[(b * channels + c) * inner + i];
    *mean = sum / (double)(n * inner);
    for (long b = 0; b < n; b++)
        for (long i = 0; i < inner; i++) {
            double d = (double)x.v[(b * channels + c) * inner + i] - *mean;
            square += d * d;
        }
    *variance = square / (double)(n * inner);
}

static void move_running(const tn_ctx *cx, const tn_param *p, long c, double momentum, double now)
{
    float *running = cx->buffers && tn_has(p) ? cx->buffers[p->id] : NULL;
    if (running)
        running[c] = (float)((1 - momentum) * (double)running[c] + momentum * now);
}

static void batch_norm_forward(tn_ctx *cx, tn_t x, tn_t y, const tn_batch_norm_w *n, float momentum, float eps, float *mean,
                               float *rstd)
{
    long batch = x.shape[0], channels = x.shape[1], inner = inner_of(x);
    double count = (double)(batch * inner);
    for (long c = 0; c < channels; c++) {
        double m = (double)n->running_mean.v[c], v = (double)n->running_var.v[c];
        if (cx->training) {
            channel_statistics(x, c, &m, &v);
            move_running(cx, &n->running_mean, c, (double)momentum, m);
            move_running(cx, &n->running_var, c, (double)momentum, v * count / (count - 1));
        }
        mean[c] = (float)m;
        rstd[c] = (float)(1 / sqrt(v + (double)eps));
        for (long b = 0; b < batch; b++)
            for (long i = (b * channels + c) * inner, end = i + inner; i < end; i++)
                y.v[i] = (x.v[i] - mean[c]) * rstd[c] * n->weight.v[c] + n->bias.v[c];
    }
}

static void batch_norm_backward(tn_ctx *cx, tn_record *self)
{
    batch_norm_record *r = (batch_norm_record *)self;
    long batch = r->x.shape[0], channels = r->x.shape[1], inner = inner_of(r->x);
    double count = (double)(batch * inner);
    float *dw = tn_grad_of(cx, &r->n->weight), *db = tn_grad_of(cx, &r->n->bias);
    float *dx = tn_gradient(cx, r->x);
    const float *dy = tn_gradient(cx, r->y);
    for (long c = 0; c < channels; c++) {
        double sum = 0, dot = 0; /* of dy, and of dy with the normalised x */
        float mean = r->mean[c], rstd = r->rstd[c];
        for (long b = 0; b < batch; b++)
            for (long i = (b * channels + c) * inner, end = i + inner; i < end; i++) {
                sum += (double)dy[i];
                dot += (double)dy[i] * (double)((r->x.v[i] - mean) * rstd);
            }
        if (dw)
            dw[c] += (float)dot;
        if (db)
            db[c] += (float)sum;
        if (!dx)
            continue;
        float w = r->n->weight.v[c] * rstd;
        float a = r->training ? (float)(sum / count) : 0, k = r->training ? (float)(dot / count) : 0;
        for (long b = 0; b < batch; b++)
            for (long i = (b * channels + c) * inner, end = i + inner; i < end; i++)
                dx[i] += w * (dy[i] - a - (r->x.v[i] - mean) * rstd * k);
    }
}

tn_t tn_batch_norm(tn_ctx *cx, tn_t x, const tn_batch_norm_w *n, float momentum, float eps)
{
    if (cx->failed)
        return (tn_t){0};
    const tn_param *p[] = {&n->weight, &n->bias, &n->running_mean, &n->running_var};
    for (int i = 0; i < 4; i++)
        if (x.rank < 2 || p[i]->rank != 1 || p[i]->shape[0] != x.shape[1])
            return tn_fail(cx, "batch norm: %ld channels, a weight of %ld", x.rank < 2 ? 0 : x.shape[1], p[i]->shape[0]);
    if (cx->training && x.shape[0] * inner_of(x) < 2)
        return tn_fail(cx, "batch norm: one value a channel has no variance to train on");
    bool grad = x.grad || tn_grad_of(cx, &n->weight) || tn_grad_of(cx, &n->bias);
    tn_t y = tn_like(cx, x, grad);
    float *mean = tn_bytes(cx, (size_t)x.shape[1] * sizeof *mean), *rstd = tn_bytes(cx, (size_t)x.shape[1] * sizeof *rstd);
    if (tn_live(cx))
        batch_norm_forward(cx, x, y, n, momentum, eps, mean, rstd);
    batch_norm_record *r = y.grad ? tn_push(cx, sizeof *r, batch_norm_backward) : NULL;
    if (r)
        *r = (batch_norm_record){r->head, x, y, n, mean, rstd, cx->training};
    return y;
}

/* ---- rows of length one --------------------------------------------------------------------------------------- */

typedef struct l2_record {
    tn_record head;
    tn_t x, y;
    float *length; /* [rows] */
} l2_record;

static void l2_backward(tn_ctx *cx, tn_record *self)
{
    l2_record *r = (l2_record *)self;
    long rows = tn_rows(r->x), d = tn_last(r->x);
    float *dx = tn_gradient(cx, r->x);
    const float *dy = tn_gradient(cx, r->y);
    for (long i = 0; i < rows; i++, dx += d, dy += d) {
        const float *y = r->y.v + i * d;
        float s = 1 / r->length[i], along = cx->kn->dot(d, y, dy);
        cx->kn->axpy(d, s, dy, dx);
        cx->kn->axpy(d, -s * along, y, dx);
    }
}

tn_t tn_l2_normalize(tn_ctx *cx, tn_t x)
{
    long rows = tn_rows(x), d = tn_last(x);
    tn_t y = tn_like(cx, x, x.grad);
    float *length = tn_bytes(cx, (size_t)rows * sizeof *length);
    if (tn_live(cx))
        for (long i = 0; i < rows; i++) {
            const float *row = x.v + i * d;
            length[i] = sqrtf(cx->kn->dot(d, row, row));
            /* An all-zero row has no direction: it stays zero instead of becoming NaN. */
            cx->kn->scale(d, length[i] > 0 ? 1 / length[i] : 0, row, y.v + i * d);
            length[i] = length[i] > 0 ? length[i] : INFINITY;
        }
    l2_record *r = y.grad ? tn_push(cx, sizeof *r, l2_backward) : NULL;
    if (r)
        *r = (l2_record){r->head, x, y, length};
    return y;
}
