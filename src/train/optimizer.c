/* optimizer.c - AdamW (Loshchilov, Hutter 2019). */
#include "optimizer.h"

#include <math.h>
#include <string.h>

int tr_optimizer_open(tr_optimizer *a, const tr_optimizer_options *o, md_trainables *t, oc_err *err)
{
    memset(a, 0, sizeof *a);
    a->o = *o;
    a->t = t;
    a->first = bs_calloc((size_t)t->total + 1, sizeof(float), "the optimiser's state", err);
    a->second = bs_calloc((size_t)t->total + 1, sizeof(float), "the optimiser's state", err);
    if (o->ema > 0)
        a->average = bs_calloc((size_t)t->total + 1, sizeof(float), "the average of the weights", err);
    if (!a->first || !a->second || (o->ema > 0 && !a->average)) {
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
    float *value, *grad, *first, *second, *average;
    float lr, b1, b2, eps, decay, c1, c2, ema;
} update;

static void update_piece(void *arg, long begin, long end, int worker)
{
    (void)worker;
    update *u = arg;
    long n = end - begin;
    u->kn->adamw(n, u->value + begin, u->grad + begin, u->first + begin, u->second + begin, u->lr, u->b1, u->b2, u->eps, u->decay, u->c1, u->c2);
    if (!u->average)
        return;
    u->kn->scale(n, u->ema, u->average + begin, u->average + begin);
    u->kn->axpy(n, 1 - u->ema, u->value + begin, u->average + begin);
}

int tr_optimizer_step(tr_optimizer *a, kn_work *w, long step, double *norm, oc_err *err)
{
    const tr_optimizer_options *o = &a->o;
    const kn_table *kn = kn_work_table(w);
    md_trainables *t = a->t;
    *norm = sqrt(kn_sum_squares(w, t->total, t->memory));
    if (!isfinite(*norm))
        return bs_err(err, "the gradients of step %ld are not finite: try a lower learning rate", step + 1);
    if (o->clip > 0 && *norm > (double)o->clip)
        kn->scale(t->total, (float)((double)o->clip / *norm), t->memory, t->memory);
    double time = (double)(step + 1);
    for (int i = 0; i < t->n; i++) {
        const md_trainable *p = &t->p[i];
        long at = p->grad - t->memory;
        update u = {kn, p->value, p->grad, a->first + at, a->second + at, a->average ? a->average + at : NULL, (float)tr_rate(o, step),
                    o->beta1, o->beta2, o->eps, p->decay ? o->decay : 0, (float)(1 / (1 - pow((double)o->beta1, time))),
                    (float)(1 / (1 - pow((double)o->beta2, time))), 0};
        /* A young average follows quickly, or it would remember the start. */
        double warm = (1 + time) / (10 + time);
        u.ema = (double)o->ema < warm ? o->ema : (float)warm;
        bs_pool_for(kn_work_pool(w), p->count, 16384, update_piece, &u);
    }
    return 0;
}
