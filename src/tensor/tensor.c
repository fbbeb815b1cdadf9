/* tensor.c - the context: its arena, its tape, its sticky error. */
#include <stdarg.h>
#include <string.h>

#include "tensor.h"

enum { ALIGN = 64, SPAN = 32768 }; /* bytes; numbers that are worth waking a thread for */

long tn_size(tn_t x)
{
    long n = x.rank ? 1 : 0;
    for (int i = 0; i < x.rank; i++)
        n *= x.shape[i];
    return n;
}

long tn_last(tn_t x) { return x.rank ? x.shape[x.rank - 1] : 0; }

long tn_rows(tn_t x)
{
    long n = x.rank ? 1 : 0;
    for (int i = 0; i + 1 < x.rank; i++)
        n *= x.shape[i];
    return n;
}

/* ---- parameters ---------------------------------------------------------------------------------------- */

size_t tn_enter(tn_visitor *v, const char *format, ...)
{
    size_t mark = strlen(v->prefix);
    va_list args;
    va_start(args, format);
    vsnprintf(v->prefix + mark, sizeof v->prefix - mark, format, args);
    va_end(args);
    return mark;
}

void tn_leave(tn_visitor *v, size_t mark) { v->prefix[mark] = 0; }

void tn_visit(tn_visitor *v, tn_param *p, const char *name, unsigned flags, int rank, long d0, long d1, long d2, long d3)
{
    long d[4] = {d0, d1, d2, d3};
    p->rank = rank;
    memcpy(p->shape, d, sizeof d);
    size_t mark = tn_enter(v, "%s", name);
    v->visit(v->arg, v->prefix, p, flags);
    tn_leave(v, mark);
}

void tn_visit_linear(tn_visitor *v, tn_linear_w *l, const char *name, long out, long in, bool bias)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit(v, &l->weight, ".weight", TN_LINEAR, 2, out, in, 0, 0);
    if (bias)
        tn_visit(v, &l->bias, ".bias", TN_NO_DECAY, 1, out, 0, 0, 0);
    else
        l->bias.id = -1;
    tn_leave(v, mark);
}

void tn_visit_conv1d(tn_visitor *v, tn_linear_w *l, const char *name, long out, long in)
{
    size_t mark = tn_enter(v, "%s", name);
    l->in_first = true;
    tn_visit(v, &l->weight, ".weight", TN_LINEAR | TN_IN_FIRST, 2, in, out, 0, 0);
    tn_visit(v, &l->bias, ".bias", TN_NO_DECAY, 1, out, 0, 0, 0);
    tn_leave(v, mark);
}

void tn_visit_norm(tn_visitor *v, tn_norm_w *n, const char *name, long d, bool bias)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit(v, &n->weight, ".weight", TN_NO_DECAY, 1, d, 0, 0, 0);
    if (bias)
        tn_visit(v, &n->bias, ".bias", TN_NO_DECAY, 1, d, 0, 0, 0);
    else
        n->bias.id = -1;
    tn_leave(v, mark);
}

bool tn_has(const tn_param *p) { return p->id >= 0; }

float *tn_grad_of(const tn_ctx *cx, const tn_param *p) { return cx->tape && cx->grads && tn_has(p) ? cx->grads[p->id] : NULL; }

const tn_lora *tn_lora_of(const tn_ctx *cx, const tn_param *p)
{
    return cx->lora && tn_has(p) && cx->lora[p->id].r ? &cx->lora[p->id] : NULL;
}

const kn_packed *tn_packed_of(tn_ctx *cx, const tn_param *p)
{
    if (!cx->packed || cx->tape || !tn_live(cx))
        return NULL;
    oc_err err = {0};
    const kn_packed *w = cx->packed(cx->packed_arg, cx->work, p->id, &err);
    if (err.text[0])
        tn_fail(cx, "%s", err.text);
    return w;
}

tn_t tn_weight(tn_ctx *cx, const tn_param *p)
{
    tn_t x = {.rank = p->rank};
    memcpy(x.shape, p->shape, sizeof x.shape);
    float *g = tn_grad_of(cx, p);
    x.grad = g != NULL;
    if (x.grad && (x.g = tn_bytes(cx, sizeof *x.g)))
        *x.g = (tn_grad){g, false};
    /* A value is written by nobody but the op that makes it, so the const is kept in fact. */
    memcpy(&x.v, &p->v, sizeof x.v);
    return x;
}

/* ---- context ------------------------------------------------------------------------------------------- */

void tn_plan(tn_ctx *cx, const kn_table *kn, int threads, bool train)
{
    memset(cx, 0, sizeof *cx);
    cx->mode = TN_PLAN;
    cx->tape = train;
    cx->kn = kn;
    cx->threads = threads;
}

size_t tn_plan_bytes(const tn_ctx *cx) { return cx->peak + cx->backward_scratch; }

void tn_run(tn_ctx *cx, kn_work *work, void *base, size_t cap, bool train)
{
    memset(cx, 0, sizeof *cx);
    cx->mode = train ? TN_TRAIN : TN_RUN;
    cx->tape = train;
    cx->work = work;
    cx->kn = kn_work_table(work);
    cx->pool = kn_work_pool(work);
    cx->threads = bs_pool_threads(cx->pool);
    cx->base = base;
    cx->cap = cap;
}

void tn_reset(tn_ctx *cx)
{
    cx->used = 0;
    cx->last = NULL;
    cx->failed = false;
    cx->err.text[0] = 0;
}

bool tn_live(const tn_ctx *cx) { return cx->mode != TN_PLAN && !cx->failed; }

tn_t tn_fail(tn_ctx *cx, const char *format, ...)
{
    if (!cx->failed) {
        char text[sizeof cx->err.text];
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        bs_err(&cx->err, "%s", text);
        cx->failed = true;
    }
    return (tn_t){0};
}

void *tn_bytes(tn_ctx *cx, size_t n)
{
    size_t at = cx->used, end;
    if (cx->failed)
        return NULL;
    if (!bs_add_size(n, ALIGN - 1, &n) || !bs_add_size(at, n & ~(size_t)(ALIGN - 1), &end)) {
        tn_fail(cx, "a value is larger than memory can be");
        return NULL;
    }
    if (cx->mode != TN_PLAN && end > cx->cap) {
        tn_fail(cx, "the planned memory of %zu bytes is too small: %zu are needed", cx->cap, end);
        return NULL;
    }
    cx->used = end;
    if (end > cx->peak)
        cx->peak = end;
    return cx->mode == TN_PLAN ? NULL : cx->base + at;
}

static tn_grad *new_gradient(tn_ctx *cx, size_t bytes)
{
    tn_grad *g = tn_bytes(cx, sizeof *g);
    float *v = tn_bytes(cx, bytes);
    if (!g || !v)
        return NULL;
    *g = (tn_grad){v, true};
    return g;
}

tn_t tn_new(tn_ctx *cx, bool grad, int rank, const long *shape)
{
    tn_t y = {.rank = rank, .grad = grad && cx->tape};
    size_t bytes = sizeof(float);
    for (int i = 0; i < rank; i++) {
        y.shape[i] = shape[i];
        if (shape[i] < 0 || !bs_mul_size(bytes, (size_t)shape[i], &bytes))
            return tn_fail(cx, "a value is larger than memory can be");
    }
    y.v = tn_bytes(cx, bytes);
    if (y.grad)
        y.g = new_gradient(cx, bytes);
    return y;
}

tn_t tn_new2(tn_ctx *cx, bool grad, long rows, long d) { return tn_new(cx, grad, 2, (long[]){rows, d}); }

tn_t tn_like(tn_ctx *cx, tn_t x, bool grad) { return tn_new(cx, grad, x.rank, x.shape); }

tn_t tn_input(tn_ctx *cx, const float *v, bool grad, int rank, const long *shape)
{
    tn_t x = {.rank = rank, .grad = grad && cx->tape};
    memcpy(x.shape, shape, (size_t)rank * sizeof *shape);
    if (x.grad)
        x.g = new_gradient(cx, (size_t)tn_size(x) * sizeof(float));
    if (cx->mode != TN_PLAN)
        memcpy(&x.v, &v, sizeof x.v);
    return x;
}

tn_t tn_reshape(tn_ctx *cx, tn_t x, int rank, const long *shape)
{
    tn_t y = x;
    y.rank = rank;
    memset(y.shape, 0, sizeof y.shape);
    memcpy(y.shape, shape, (size_t)rank * sizeof *shape);
    if (tn_size(y) != tn_size(x))
        return tn_fail(cx, "cannot reshape %ld elements to %ld", tn_size(x), tn_size(y));
    return y;
}

/* ---- spans of numbers, on all threads ------------------------------------------------------------------ */

typedef struct span_work {
    const kn_table *kn;
    const float *x;
    float *y;
} span_work;

static void add_span(void *arg, long begin, long end, int worker)
{
    (void)worker;
    span_work *k = arg;
    k->kn->add(end - begin, k->y + begin, k->x + begin, k->y + begin);
}

static void copy_span(void *arg, long begin, long end, int worker)
{
    (void)worker;
    span_work *k = arg;
    memcpy(k->y + begin, k->x + begin, (size_t)(end - begin) * sizeof *k->y);
}

tn_scope tn_begin(const tn_ctx *cx) { return (tn_scope){cx->used}; }

tn_t tn_end(tn_ctx *cx, tn_scope s, tn_t x, tn_t y)
{
    if (cx->tape || cx->failed)
        return y;
    if (tn_size(x) < tn_size(y))
        return tn_fail(cx, "a layer grew %ld elements to %ld", tn_size(x), tn_size(y));
    span_work k = {cx->kn, y.v, x.v};
    if (tn_live(cx) && x.v != y.v)
        bs_pool_for(cx->pool, tn_size(y), SPAN, copy_span, &k);
    cx->used = s.used;
    y.v = x.v;
    return y;
}

tn_t tn_tap(tn_ctx *cx, const char *name, tn_t x)
{
    if (cx->tap && tn_live(cx))
        cx->tap(cx->tap_arg, name, x);
    return x;
}

/* ---- tape ---------------------------------------------------------------------------------------------- */

void *tn_push(tn_ctx *cx, size_t size, void (*backward)(tn_ctx *, tn_record *))
{
    if (!cx->tape)
        return NULL;
    tn_record *r = tn_bytes(cx, size);
    if (!r)
        return NULL;
    memset(r, 0, size);
    r->backward = backward;
    r->before = cx->last;
    cx->last = r;
    return r;
}

void tn_backward_needs(tn_ctx *cx, size_t n)
{
    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (cx->tape && n > cx->backward_scratch)
        cx->backward_scratch = n;
}

int tn_backward(tn_ctx *cx)
{
    for (tn_record *r = cx->last; r && !cx->failed; r = r->before) {
        size_t mark = cx->used;
        r->backward(cx, r);
        cx->used = mark;
    }
    return cx->failed ? -1 : 0;
}

void tn_seed(tn_ctx *cx, tn_t x, const float *g)
{
    if (!tn_live(cx) || !x.g)
        return;
    float *to = tn_gradient(cx, x);
    for (long i = 0, n = tn_size(x); i < n; i++)
        to[i] = g ? g[i] : 1;
}

void tn_zero(tn_ctx *cx, float *x, long n) { kn_zero(cx->work, n, x); }

void tn_accumulate(tn_ctx *cx, long n, const float *x, float *y)
{
    span_work k = {cx->kn, x, y};
    bs_pool_for(cx->pool, n, SPAN, add_span, &k);
}

float *tn_gradient_to_write(tn_t x, bool *add)
{
    if (!x.g)
        return NULL;
    *add = !x.g->blank;
    x.g->blank = false;
    return x.g->v;
}

float *tn_gradient(tn_ctx *cx, tn_t x)
{
    bool add = true;
    float *g = tn_gradient_to_write(x, &add);
    if (!add)
        tn_zero(cx, g, tn_size(x));
    return g;
}

void tn_pass_gradient(tn_ctx *cx, tn_t y, tn_t x)
{
    bool add = true;
    span_work k = {cx->kn, x.g ? tn_gradient(cx, y) : NULL, tn_gradient_to_write(x, &add)};
    if (k.y)
        bs_pool_for(cx->pool, tn_size(y), SPAN, add ? add_span : copy_span, &k);
}

void tn_each(tn_ctx *cx, long rows, long d, bs_work *work, void *arg)
{
    long grain = d > 0 ? (16384 + d - 1) / d : rows;
    bs_pool_for(cx->pool, rows, grain, work, arg);
}
