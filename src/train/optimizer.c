/* optimizer.c - AdamW (Loshchilov, Hutter 2019). */
#include "optimizer.h"

#include <math.h>
#include <string.h>

/* ---- Muon: the update is the momentum with all its singular values made one ------------------------------------- */

static size_t muon_floats(const md_trainables *t)
{
    size_t most = 0;
    for (int i = 0; i < t->n; i++) {
        if (!t->p[i].rows)
            continue;
        long columns = t->p[i].count / t->p[i].rows, side = columns < t->p[i].rows ? columns : t->p[i].rows;
        size_t n = 3 * (size_t)t->p[i].count + 3 * (size_t)(side * side);
        most = n > most ? n : most;
    }
    return most;
}

/* c = alpha a b (+ c). */
static void product(kn_work *w, bool bf16, long m, long n, long k, const float *a, long lda, bool ta, const float *b, long ldb,
                    bool tb, float alpha, bool add, float *c)
{
    kn_gemm g = {.m = m,
                 .n = n,
                 .k = k,
                 .a = a,
                 .lda = lda,
                 .ta = ta,
                 .b = b,
                 .ldb = ldb,
                 .tb = tb,
                 .c = c,
                 .ldc = n,
                 .alpha = alpha,
                 .accumulate = add,
                 .bf16 = bf16};
    kn_gemm_run(w, &g);
}

/* Five steps of the quintic Newton-Schulz iteration towards the nearest orthogonal matrix, on the short side; x [rows, columns] in place. */
static void orthogonalise(kn_work *w, bool bf16, long rows, long columns, float *x, float *next, float *aux)
{
    const kn_table *kn = kn_work_table(w);
    long n = rows * columns, side = rows < columns ? rows : columns;
    float *gram = aux, *poly = aux + side * side;
    kn->scale(n, (float)(1 / (sqrt(kn_sum_squares(w, n, x)) + 1e-7)), x, x);
    for (int i = 0; i < 5; i++) {
        bool wide = rows <= columns; /* gram = x x^T, or x^T x */
        product(w, bf16, side, side, wide ? columns : rows, x, columns, !wide, x, columns, wide, 1, false, gram);
        kn->scale(side * side, -4.7750f, gram, poly);
        product(w, bf16, side, side, side, gram, side, false, gram, side, false, 2.0315f, true, poly);
        for (long k = 0; k < side; k++)
            poly[k * side + k] += 3.4445f;
        if (wide)
            product(w, bf16, rows, columns, rows, poly, rows, false, x, columns, false, 1, false, next);
        else
            product(w, bf16, rows, columns, columns, x, columns, false, poly, columns, false, 1, false, next);
        memcpy(x, next, (size_t)n * sizeof *x);
    }
}

/* One tensor's numbers, in pieces that several passes find in the cache. */
enum { PIECE = 1 << 14 };
typedef struct pieces {
    const kn_table *kn;
    float *value, *moment, *x;
    const float *grad;
    float scale, keep, shrink, rate;
} pieces;

static void add_momentum(void *arg, long begin, long end, int worker)
{
    const pieces *s = arg;
    (void)worker;
    long n = end - begin;
    s->kn->scale(n, s->keep, s->moment + begin, s->moment + begin);
    s->kn->axpy(n, (1 - s->keep) * s->scale, s->grad + begin, s->moment + begin);
    s->kn->scale(n, s->keep, s->moment + begin, s->x + begin);
    s->kn->axpy(n, (1 - s->keep) * s->scale, s->grad + begin, s->x + begin);
}

/* value = shrink value + rate x */
static void add_update(void *arg, long begin, long end, int worker)
{
    const pieces *s = arg;
    (void)worker;
    s->kn->scale(end - begin, s->shrink, s->value + begin, s->value + begin);
    s->kn->axpy(end - begin, s->rate, s->x + begin, s->value + begin);
}

/* Nesterov momentum of 0.95; 0.2 sqrt(longer side) brings an orthogonal update to AdamW's usual size (Liu 2025). */
static void muon_step(tr_optimizer *a, kn_work *w, const md_trainable *p, float scale, float *momentum, float lr)
{
    long n = p->count, columns = n / p->rows, longer = columns > p->rows ? columns : p->rows;
    float *x = a->scratch, *next = x + n, *aux = next + n;
    pieces s = {kn_work_table(w),
                p->value,
                momentum,
                x,
                p->grad,
                scale,
                0.95f,
                1 - lr * (p->decay ? a->o.decay : 0),
                -lr * 0.2f * sqrtf((float)longer)};
    bs_pool_for(kn_work_pool(w), n, PIECE, add_momentum, &s);
    orthogonalise(w, a->o.bf16, p->rows, columns, x, next, aux);
    bs_pool_for(kn_work_pool(w), n, PIECE, add_update, &s);
}

int tr_optimizer_open(tr_optimizer *a, const tr_optimizer_options *o, md_trainables *t, oc_err *err)
{
    memset(a, 0, sizeof *a);
    a->o = *o;
    a->t = t;
    a->first = bs_calloc((size_t)t->total + 1, sizeof(float), "the optimiser's state", err);
    a->second = bs_calloc((size_t)t->total + 1, sizeof(float), "the optimiser's state", err);
    if (o->ema > 0)
        a->average = bs_calloc((size_t)t->total + 1, sizeof(float), "the average of the weights", err);
    if (o->muon_lr > 0)
        a->scratch = bs_alloc(muon_floats(t) * sizeof(float), "Muon's matrices", err);
    if (!a->first || !a->second || (o->muon_lr > 0 && !a->scratch) || (o->ema > 0 && !a->average)) {
        tr_optimizer_close(a);
        return -1;
    }
    for (int i = 0; a->average && i < t->n; i++)
        memcpy(a->average + (t->p[i].grad - t->memory), t->p[i].value, (size_t)t->p[i].count * sizeof(float));
    return 0;
}

void tr_optimizer_close(tr_optimizer *a)
{
    bs_free(a->first);
    bs_free(a->second);
    bs_free(a->average);
    bs_free(a->scratch);
    memset(a, 0, sizeof *a);
}

double tr_rate(const tr_optimizer_options *o, long step)
{
    if (step < o->warmup)
        return (double)o->lr * (double)(step + 1) / (double)o->warmup;
    double left = o->steps > o->warmup ? (double)(o->steps - step) / (double)(o->steps - o->warmup) : 1;
    double low = (double)o->final_lr;
    return (double)o->lr * (low + (1 - low) * 0.5 * (1 - cos(3.141592653589793 * left)));
}

typedef struct update {
    const kn_table *kn;
    float *value, *grad, *first, *second;
    float scale, lr, b1, b2, eps, decay, c1, c2;
} update;

static void update_piece(void *arg, long begin, long end, int worker)
{
    (void)worker;
    update *u = arg;
    u->kn->adamw(end - begin, u->value + begin, u->grad + begin, u->scale, u->first + begin, u->second + begin, u->lr, u->b1,
                 u->b2, u->eps, u->decay, u->c1, u->c2);
}

static void adamw_step(tr_optimizer *a, kn_work *w, const md_trainable *p, float scale, double time, float lr)
{
    const tr_optimizer_options *o = &a->o;
    long at = p->grad - a->t->memory;
    bool quick = o->embedding_lr > 0 && (strstr(p->name, "token_embedding") || strstr(p->name, "logit_scale"));
    update u = {kn_work_table(w),
                p->value,
                p->grad,
                a->first + at,
                a->second + at,
                scale,
                quick ? lr * o->embedding_lr : lr,
                o->beta1,
                o->beta2,
                o->eps,
                p->decay ? o->decay : 0,
                (float)(1 / (1 - pow((double)o->beta1, time))),
                (float)(1 / (1 - pow((double)o->beta2, time)))};
    bs_pool_for(kn_work_pool(w), p->count, PIECE, update_piece, &u);
}

/* A young average follows quickly, or it would remember the start. */
static void follow(tr_optimizer *a, kn_work *w, const md_trainable *p, double time)
{
    double warm = (1 + time) / (10 + time);
    float keep = (double)a->o.ema < warm ? a->o.ema : (float)warm, *average = a->average + (p->grad - a->t->memory);
    pieces s = {.kn = kn_work_table(w), .value = average, .x = p->value, .shrink = keep, .rate = 1 - keep};
    bs_pool_for(kn_work_pool(w), p->count, PIECE, add_update, &s);
}

/* No loss has ever reached it: then decay would only wear it down. The first number that is not 0 ends the search. */
static bool is_idle(const tr_optimizer *a, const md_trainable *p)
{
    const float *first = a->first + (p->grad - a->t->memory);
    for (long i = 0; i < p->count; i++)
        if (p->grad[i] != 0 || first[i] != 0)
            return false;
    return true;
}

int tr_optimizer_step(tr_optimizer *a, kn_work *w, long step, double *norm, oc_err *err)
{
    const tr_optimizer_options *o = &a->o;
    md_trainables *t = a->t;
    *norm = sqrt(kn_sum_squares(w, t->total, t->memory));
    if (!isfinite(*norm))
        return bs_err(err, "the gradients of step %ld are not finite: try a lower learning rate", step + 1);
    float scale = o->clip > 0 && *norm > (double)o->clip ? (float)((double)o->clip / *norm) : 1;
    double time = (double)(step + 1), rate = tr_rate(o, step);
    for (int i = 0; i < t->n; i++) {
        const md_trainable *p = &t->p[i];
        if (is_idle(a, p))
            continue;
        if (o->muon_lr > 0 && p->rows)
            muon_step(a, w, p, scale, a->first + (p->grad - t->memory), (float)(rate / (double)o->lr * (double)o->muon_lr));
        else
            adamw_step(a, w, p, scale, time, (float)rate);
        if (a->average)
            follow(a, w, p, time);
    }
    return 0;
}
