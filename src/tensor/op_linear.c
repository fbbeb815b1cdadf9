/* op_linear.c - matrix products: linear layers with LoRA, a b^T, and convolution as one. */
#include <string.h>

#include "ops.h"

/* What a product with an adapter leaves for its backward. */
typedef struct adapted {
    float *h;          /* x A^T [rows, r] */
    float *z;          /* DoRA: x W^T + scale * h B^T [rows, out] */
    float *f, *length; /* DoRA: [out] */
} adapted;

typedef struct linear_record {
    tn_record head;
    tn_t x, y, residual;
    const tn_linear_w *l;
    const tn_lora *lora;
    adapted kept;
} linear_record;

static long out_of(const tn_linear_w *l) { return l->weight.shape[l->in_first ? 1 : 0]; }
static long in_of(const tn_linear_w *l) { return l->weight.shape[l->in_first ? 0 : 1]; }

/* y = x W^T (+ b), written or, for the second product of LoRA, added. */
static kn_gemm forward_gemm(const tn_ctx *cx, const float *x, long rows, long in, const float *w, long out, float *y)
{
    return (kn_gemm){.m = rows,
                     .n = out,
                     .k = in,
                     .a = x,
                     .lda = in,
                     .b = w,
                     .ldb = in,
                     .tb = true,
                     .c = y,
                     .ldc = out,
                     .alpha = 1,
                     .bf16 = cx->bf16};
}

/* dx += dy W, or with add false = : [rows, out] x [out, in]. */
static void input_gradient(tn_ctx *cx, const float *dy, long rows, long out, const float *w, long in, float *dx, bool add)
{
    kn_gemm g = {.m = rows,
                 .n = in,
                 .k = out,
                 .a = dy,
                 .lda = out,
                 .b = w,
                 .ldb = in,
                 .c = dx,
                 .ldc = in,
                 .alpha = 1,
                 .accumulate = add,
                 .bf16 = cx->bf16};
    kn_gemm_run(cx->work, &g);
}

/* The same of W [in, out]. */
static void input_gradient_in_first(tn_ctx *cx, const float *dy, long rows, const tn_linear_w *l, float *dx, bool add)
{
    kn_gemm g = forward_gemm(cx, dy, rows, out_of(l), l->weight.v, in_of(l), dx);
    g.accumulate = add;
    kn_gemm_run(cx->work, &g);
}

/* dw += s * dy^T x: [out, rows] x [rows, in]. */
static void weight_gradient(tn_ctx *cx, const float *dy, long rows, long out, const float *x, long in, float s, float *dw)
{
    kn_gemm g = {.m = out,
                 .n = in,
                 .k = rows,
                 .a = dy,
                 .lda = out,
                 .ta = true,
                 .b = x,
                 .ldb = in,
                 .c = dw,
                 .ldc = in,
                 .alpha = s,
                 .accumulate = true,
                 .bf16 = cx->bf16};
    kn_gemm_run(cx->work, &g);
}

/* dy: the gradient of x W^T + scale * h B^T. */
static void lora_backward(tn_ctx *cx, linear_record *r, const float *dy)
{
    const tn_lora *lo = r->lora;
    long rows = tn_rows(r->x), in = tn_last(r->x), out = tn_last(r->y);
    float *dh = tn_bytes(cx, (size_t)(rows * lo->r) * sizeof *dh);
    if (!dh)
        return;
    kn_gemm g = {.m = rows,
                 .n = lo->r,
                 .k = out,
                 .a = dy,
                 .lda = out,
                 .b = lo->b,
                 .ldb = lo->r,
                 .c = dh,
                 .ldc = lo->r,
                 .alpha = lo->scale};
    kn_gemm_run(cx->work, &g);
    if (lo->gb)
        weight_gradient(cx, dy, rows, out, r->kept.h, lo->r, lo->scale, lo->gb);
    if (lo->ga)
        weight_gradient(cx, dh, rows, lo->r, r->x.v, in, 1, lo->ga);
    bool add = true;
    float *dx = tn_gradient_to_write(r->x, &add);
    if (dx)
        input_gradient(cx, dh, rows, lo->r, lo->a, in, dx, add);
}

/* ---- DoRA: rows of outputs times f, what is added, and back ------------------------------------------------ */

typedef struct dora_work {
    const kn_table *kn;
    long out;
    const float *f, *bias, *residual; /* forward */
    kn_act act;
    const float *dy, *length; /* backward */
    float *z, *y;
} dora_work;

static void dora_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const dora_work *k = arg;
    for (long r = begin; r < end; r++) {
        float *y = k->y + r * k->out;
        k->kn->mul(k->out, k->z + r * k->out, k->f, y);
        if (k->bias)
            k->kn->add(k->out, y, k->bias, y);
        if (k->act != KN_NONE)
            k->kn->act(k->act, k->out, y, y);
        if (k->residual)
            k->kn->add(k->out, y, k->residual + r * k->out, y);
    }
}

/* A row of nothing but zeros has no direction: it stays zeros. */
static float over(float x, float length) { return length > 0 ? x / length : 0; }

/* z becomes dy * z / length: its columns add up to the gradient of m. */
static void magnitude_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const dora_work *k = arg;
    for (long r = begin; r < end; r++)
        for (long o = 0; o < k->out; o++)
            k->z[r * k->out + o] = over(k->z[r * k->out + o], k->length[o]) * k->dy[r * k->out + o];
}

/* z becomes f * dy: its own gradient. */
static void direction_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const dora_work *k = arg;
    for (long r = begin; r < end; r++)
        k->kn->mul(k->out, k->dy + r * k->out, k->f, k->z + r * k->out);
}

/* The gradient of what f scales, kept where that was. */
static const float *dora_backward(tn_ctx *cx, linear_record *r, const float *dy)
{
    long rows = tn_rows(r->y), out = tn_last(r->y);
    dora_work k = {.kn = cx->kn, .out = out, .f = r->kept.f, .dy = dy, .length = r->kept.length, .z = r->kept.z, .y = NULL};
    if (r->lora->gm) {
        tn_each(cx, rows, out, magnitude_rows, &k);
        kn_column_sums(cx->work, rows, out, k.z, out, r->lora->gm);
    }
    tn_each(cx, rows, out, direction_rows, &k);
    return k.z;
}

static void linear_backward(tn_ctx *cx, tn_record *self)
{
    linear_record *r = (linear_record *)self;
    long rows = tn_rows(r->x), in = tn_last(r->x), out = tn_last(r->y);
    const float *dy = tn_gradient(cx, r->y);
    tn_pass_gradient(cx, r->y, r->residual);
    float *dw = tn_grad_of(cx, &r->l->weight), *db = tn_grad_of(cx, &r->l->bias);
    if (db)
        kn_column_sums(cx->work, rows, out, dy, out, db);
    if (r->lora && r->lora->m)
        dy = dora_backward(cx, r, dy);
    bool add = true;
    float *dx = tn_gradient_to_write(r->x, &add);
    if (dx && r->l->in_first)
        input_gradient_in_first(cx, dy, rows, r->l, dx, add);
    else if (dx)
        input_gradient(cx, dy, rows, out, r->l->weight.v, in, dx, add);
    if (dw && r->l->in_first)
        weight_gradient(cx, r->x.v, rows, in, dy, out, 1, dw);
    else if (dw)
        weight_gradient(cx, dy, rows, out, r->x.v, in, 1, dw);
    if (r->lora)
        lora_backward(cx, r, dy);
}

/* Room for what the adapter keeps, and for its backward. Without a tape DoRA's z is y itself. */
static adapted take_adapted(tn_ctx *cx, const tn_lora *lo, long rows, long out)
{
    adapted k = {.h = tn_bytes(cx, (size_t)(rows * lo->r) * sizeof(float))};
    tn_backward_needs(cx, (size_t)(rows * lo->r) * sizeof(float));
    if (lo->m && cx->tape)
        k.z = tn_bytes(cx, (size_t)(rows * out) * sizeof(float));
    if (lo->m && (cx->tape || !lo->f)) {
        k.f = tn_bytes(cx, (size_t)out * sizeof(float));
        k.length = tn_bytes(cx, (size_t)out * sizeof(float));
    }
    return k;
}

/* The lengths of now, unless f is known. */
static const float *dora_factors(tn_ctx *cx, const tn_linear_w *l, const tn_lora *lo, const adapted *k)
{
    if (!k->f)
        return lo->f;
    tn_row_lengths(cx->pool, cx->kn, lo, l->weight.v, out_of(l), in_of(l), l->in_first, k->length);
    for (long o = 0; o < out_of(l); o++)
        k->f[o] = over(lo->m[o], k->length[o]);
    return k->f;
}

/* The adapter's share is added before the activation and the residual, so those are not fused beside it. */
static void forward_with_lora(tn_ctx *cx, kn_gemm *g, const tn_linear_w *l, const tn_lora *lo, const adapted *k)
{
    kn_gemm up = forward_gemm(cx, k->h, g->m, lo->r, lo->b, g->n, g->c);
    up.alpha = lo->scale;
    up.accumulate = true;
    dora_work rows = {.kn = cx->kn, .out = g->n, .bias = g->bias, .residual = g->residual, .act = g->act, .y = g->c};
    if (lo->m) {
        g->c = up.c = rows.z = k->z ? k->z : g->c;
        g->bias = NULL;
    } else {
        up.act = g->act;
        up.residual = g->residual;
    }
    g->act = KN_NONE;
    g->residual = NULL;
    kn_gemm down = forward_gemm(cx, g->a, g->m, g->k, lo->a, lo->r, k->h);
    kn_gemm_run(cx->work, g);
    kn_gemm_run(cx->work, &down);
    kn_gemm_run(cx->work, &up);
    if (!lo->m)
        return;
    rows.f = dora_factors(cx, l, lo, k);
    tn_each(cx, g->m, g->n, dora_rows, &rows);
}

static bool takes_gradient(tn_ctx *cx, tn_t x, tn_t residual, const tn_linear_w *l, const tn_lora *lo)
{
    if (!cx->tape)
        return false;
    return x.grad || residual.grad || tn_grad_of(cx, &l->weight) || tn_grad_of(cx, &l->bias) ||
           (lo && (lo->ga || lo->gb || lo->gm));
}

/* The output of a layer, and what it counts. */
static tn_t output(tn_ctx *cx, tn_t x, const tn_linear_w *l, tn_t residual, bool grad)
{
    long rows = tn_rows(x), in = tn_last(x), out = out_of(l);
    if (l->weight.rank != 2 || in != in_of(l))
        return tn_fail(cx, "linear: the input is %ld wide, the weight takes %ld", in, in_of(l));
    if (tn_has(&l->bias) && (l->bias.rank != 1 || l->bias.shape[0] != out))
        return tn_fail(cx, "linear: a bias of %ld for an output of %ld", l->bias.shape[0], out);
    if (residual.rank && tn_size(residual) != rows * out)
        return tn_fail(cx, "linear: the residual has %ld elements, the output %ld", tn_size(residual), rows * out);
    cx->flops += 2.0 * (double)rows * (double)in * (double)out;
    x.shape[x.rank - 1] = out;
    return tn_like(cx, x, grad);
}

/* Of a layer whose output is y; its weight may be packed. */
static kn_gemm layer_gemm(tn_ctx *cx, tn_t x, const tn_linear_w *l, tn_t y)
{
    kn_gemm g = forward_gemm(cx, x.v, tn_rows(x), tn_last(x), l->weight.v, tn_last(y), y.v);
    if (l->in_first) {
        g.ldb = g.n;
        g.tb = false;
    }
    g.packed = tn_packed_of(cx, &l->weight);
    g.bias = tn_has(&l->bias) ? l->bias.v : NULL;
    return g;
}

static tn_t linear(tn_ctx *cx, tn_t x, const tn_linear_w *l, kn_act f, tn_t residual)
{
    if (cx->failed)
        return (tn_t){0};
    const tn_lora *lo = tn_lora_of(cx, &l->weight);
    if (lo && lo->m && !lo->f && cx->mode != TN_PLAN && !l->weight.v)
        return tn_fail(cx, "linear: DoRA takes lengths of a weight that is not in memory");
    bool grad = takes_gradient(cx, x, residual, l, lo);
    tn_t y = output(cx, x, l, residual, grad);
    if (cx->failed)
        return (tn_t){0};
    size_t mark = cx->used;
    adapted kept = lo ? take_adapted(cx, lo, tn_rows(x), tn_last(y)) : (adapted){0};
    kn_gemm g = layer_gemm(cx, x, l, y);
    if (tn_live(cx)) {
        g.act = f;
        g.residual = residual.rank ? residual.v : NULL;
        if (lo)
            forward_with_lora(cx, &g, l, lo, &kept);
        else
            kn_gemm_run(cx->work, &g);
    }
    if (!grad) {
        cx->used = mark;
        return y;
    }
    linear_record *r = tn_push(cx, sizeof *r, linear_backward);
    if (r)
        *r = (linear_record){r->head, x, y, residual, l, lo, kept};
    return y;
}

tn_t tn_linear(tn_ctx *cx, tn_t x, const tn_linear_w *l) { return linear(cx, x, l, KN_NONE, (tn_t){0}); }

void tn_linears(tn_ctx *cx, tn_t x, int n, const tn_linear_w *const *l, tn_t *y)
{
    enum { MOST = 4 };
    kn_gemm g[MOST];
    bool together = !cx->tape && n <= MOST;
    for (int i = 0; i < n; i++)
        together = together && !tn_lora_of(cx, &l[i]->weight);
    for (int i = 0; i < n; i++)
        y[i] = !together ? tn_linear(cx, x, l[i]) : cx->failed ? (tn_t){0} : output(cx, x, l[i], (tn_t){0}, false);
    if (!together || !tn_live(cx))
        return;
    for (int i = 0; i < n; i++) {
        g[i] = layer_gemm(cx, x, l[i], y[i]);
        if (i > 0 && g[i].n == g[i - 1].n)
            g[i - 1].also = &g[i];
    }
    for (int i = 0; i < n && tn_live(cx); i++)
        if (i == 0 || !g[i - 1].also)
            kn_gemm_run(cx->work, &g[i]);
}

/* The record keeps a pointer to the layer, so this one lies in the arena. */
tn_t tn_linear_tied(tn_ctx *cx, tn_t x, const tn_param *table)
{
    tn_linear_w now = {.weight = *table, .bias = {.id = -1}}, *kept = tn_bytes(cx, sizeof *kept);
    if (kept)
        *kept = now;
    return linear(cx, x, kept ? kept : &now, KN_NONE, (tn_t){0});
}

tn_t tn_linear_act(tn_ctx *cx, tn_t x, const tn_linear_w *l, kn_act f)
{
    if (!cx->tape) /* the backward needs what goes into f */
        return linear(cx, x, l, f, (tn_t){0});
    return tn_act(cx, linear(cx, x, l, KN_NONE, (tn_t){0}), f);
}

tn_t tn_linear_add(tn_ctx *cx, tn_t x, const tn_linear_w *l, tn_t residual) { return linear(cx, x, l, KN_NONE, residual); }

/* ---- a b^T ---------------------------------------------------------------------------------------------- */

typedef struct matmul_record {
    tn_record head;
    tn_t a, b, y;
} matmul_record;

/* Similarities stay fp32: a temperature of 100 would magnify what bf16 rounds off. */
static void matmul_backward(tn_ctx *cx, tn_record *self)
{
    matmul_record *r = (matmul_record *)self;
    bool bf16 = cx->bf16;
    cx->bf16 = false;
    long m = tn_rows(r->a), n = tn_rows(r->b), k = tn_last(r->a);
    const float *dy = tn_gradient(cx, r->y);
    bool add = true;
    float *da = tn_gradient_to_write(r->a, &add);
    if (da)
        input_gradient(cx, dy, m, n, r->b.v, k, da, add);
    float *db = tn_gradient(cx, r->b);
    if (db)
        weight_gradient(cx, dy, m, n, r->a.v, k, 1, db);
    cx->bf16 = bf16;
}

tn_t tn_matmul_nt(tn_ctx *cx, tn_t a, tn_t b)
{
    if (cx->failed)
        return (tn_t){0};
    if (tn_last(a) != tn_last(b))
        return tn_fail(cx, "matmul: rows of %ld and of %ld", tn_last(a), tn_last(b));
    long m = tn_rows(a), n = tn_rows(b), k = tn_last(a);
    tn_t y = tn_new2(cx, a.grad || b.grad, m, n);
    cx->flops += 2.0 * (double)m * (double)n * (double)k;
    if (tn_live(cx)) {
        kn_gemm g = forward_gemm(cx, a.v, m, k, b.v, n, y.v);
        g.bf16 = false;
        kn_gemm_run(cx->work, &g);
    }
    matmul_record *r = y.grad ? tn_push(cx, sizeof *r, matmul_backward) : NULL;
    if (r)
        *r = (matmul_record){r->head, a, b, y};
    return y;
}

/* ---- convolution: pieces of the picture become rows, then it is a linear layer ----------------------------- */

typedef struct conv {
    long b, c, h, w, o, kh, kw, stride, oh, ow; /* picture, kernel, output */
} conv;

typedef struct conv_record {
    tn_record head;
    tn_t x, y;
    const tn_linear_w *l;
    conv s;
    float *columns; /* [b*oh*ow, c*kh*kw] */
} conv_record;

typedef struct unfold_work {
    const conv *s;
    const float *from;
    float *to;
} unfold_work;

static void unfold(void *arg, long begin, long end, int worker)
{
    (void)worker;
    unfold_work *u = arg;
    const conv *s = u->s;
    long width = s->c * s->kh * s->kw;
    for (long row = begin; row < end; row++) {
        long b = row / (s->oh * s->ow), i = row / s->ow % s->oh, j = row % s->ow;
        float *to = u->to + row * width;
        for (long c = 0; c < s->c; c++)
            for (long y = 0; y < s->kh; y++, to += s->kw)
                memcpy(to, u->from + ((b * s->c + c) * s->h + i * s->stride + y) * s->w + j * s->stride,
                       (size_t)s->kw * sizeof(float));
    }
}

/* One item is one picture: kernels may overlap within it. */
static void fold(void *arg, long begin, long end, int worker)
{
    (void)worker;
    unfold_work *u = arg;
    const conv *s = u->s;
    long width = s->c * s->kh * s->kw, per = s->oh * s->ow;
    for (long row = begin * per; row < end * per; row++) {
        long b = row / per, i = row / s->ow % s->oh, j = row % s->ow;
        const float *from = u->from + row * width;
        for (long c = 0; c < s->c; c++)
            for (long y = 0; y < s->kh; y++, from += s->kw) {
                float *to = u->to + ((b * s->c + c) * s->h + i * s->stride + y) * s->w + j * s->stride;
                for (long x = 0; x < s->kw; x++)
                    to[x] += from[x];
            }
    }
}

static void conv_backward(tn_ctx *cx, tn_record *self)
{
    conv_record *r = (conv_record *)self;
    const conv *s = &r->s;
    long rows = s->b * s->oh * s->ow, width = s->c * s->kh * s->kw;
    const float *dy = tn_gradient(cx, r->y);
    float *dw = tn_grad_of(cx, &r->l->weight), *db = tn_grad_of(cx, &r->l->bias);
    if (dw)
        weight_gradient(cx, dy, rows, s->o, r->columns, width, 1, dw);
    if (db)
        kn_column_sums(cx->work, rows, s->o, dy, s->o, db);
    float *dx = tn_gradient(cx, r->x);
    if (!dx)
        return;
    float *d = tn_bytes(cx, (size_t)(rows * width) * sizeof *d);
    if (!d)
        return;
    input_gradient(cx, dy, rows, s->o, r->l->weight.v, width, d, false);
    unfold_work u = {s, d, dx};
    bs_pool_for(cx->pool, s->b, 1, fold, &u);
}

tn_t tn_conv2d(tn_ctx *cx, tn_t x, const tn_linear_w *l, long stride)
{
    const tn_param *w = &l->weight;
    if (cx->failed)
        return (tn_t){0};
    if (x.rank != 4 || w->rank != 4 || x.shape[1] != w->shape[1] || x.shape[2] < w->shape[2] || x.shape[3] < w->shape[3])
        return tn_fail(cx, "conv2d: a picture of %ld x %ld x %ld does not fit a kernel of %ld x %ld x %ld", x.shape[1],
                       x.shape[2], x.shape[3], w->shape[1], w->shape[2], w->shape[3]);
    if (stride < 1 || (tn_has(&l->bias) && (l->bias.rank != 1 || l->bias.shape[0] != w->shape[0])))
        return tn_fail(cx, "conv2d: a stride of %ld, a bias of %ld for %ld channels", stride, l->bias.shape[0], w->shape[0]);
    conv s = {.b = x.shape[0],
              .c = x.shape[1],
              .h = x.shape[2],
              .w = x.shape[3],
              .o = w->shape[0],
              .kh = w->shape[2],
              .kw = w->shape[3],
              .stride = stride};
    s.oh = (s.h - s.kh) / stride + 1;
    s.ow = (s.w - s.kw) / stride + 1;
    long rows = s.b * s.oh * s.ow, width = s.c * s.kh * s.kw;
    bool grad = x.grad || tn_grad_of(cx, w) || tn_grad_of(cx, &l->bias);
    tn_t y = tn_new(cx, grad, 4, (long[]){s.b, s.oh, s.ow, s.o});
    cx->flops += 2.0 * (double)rows * (double)width * (double)s.o;
    size_t mark = cx->used;
    float *columns = tn_bytes(cx, (size_t)(rows * width) * sizeof *columns);
    if (x.grad)
        tn_backward_needs(cx, (size_t)(rows * width) * sizeof *columns);
    const kn_packed *packed = tn_packed_of(cx, w);
    if (tn_live(cx)) {
        unfold_work u = {&s, x.v, columns};
        tn_each(cx, rows, width, unfold, &u);
        kn_gemm g = forward_gemm(cx, columns, rows, width, w->v, s.o, y.v);
        g.packed = packed;
        g.bias = tn_has(&l->bias) ? l->bias.v : NULL;
        kn_gemm_run(cx->work, &g);
    }
    if (!y.grad) {
        cx->used = mark;
        return y;
    }
    conv_record *r = tn_push(cx, sizeof *r, conv_backward);
    if (r)
        *r = (conv_record){r->head, x, y, l, s, columns};
    return y;
}
