/* sampling.c - see sampling.h. */
#include "sampling.h"

#include <math.h>
#include <string.h>

int rn_chooser_open(rn_chooser *c, const kn_table *kn, long vocab, uint64_t seed, oc_err *err)
{
    static const char what[] = "room to choose a token";
    *c = (rn_chooser){.kn = kn, .vocab = vocab};
    c->share = bs_alloc((size_t)vocab * sizeof *c->share, what, err);
    c->heap = bs_alloc((size_t)vocab * sizeof *c->heap, what, err);
    c->stamp = bs_calloc((size_t)vocab, sizeof *c->stamp, what, err);
    bs_rng_seed(&c->rng, seed, 0);
    if (c->share && c->heap && c->stamp)
        return 0;
    rn_chooser_close(c);
    return -1;
}

void rn_chooser_close(rn_chooser *c)
{
    bs_free(c->share);
    bs_free(c->heap);
    bs_free(c->stamp);
    *c = (rn_chooser){0};
}

void rn_penalise(rn_chooser *c, float *logits, const int32_t *seen, size_t n, float penalty)
{
    if (penalty == 1)
        return;
    c->now++;
    for (size_t i = 0; i < n; i++) {
        int32_t id = seen[i];
        if (id < 0 || id >= c->vocab || c->stamp[id] == c->now)
            continue;
        c->stamp[id] = c->now;
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
}

/* The first of the largest. */
static long largest(const rn_chooser *c, const float *x)
{
    float most = c->kn->max(c->vocab, x);
    long i = 0;
    while (i < c->vocab - 1 && x[i] != most)
        i++;
    return i;
}

double rn_log_sum(rn_chooser *c, const float *x) { return (double)c->kn->softmax(c->vocab, x, c->share); }

/* ---- a heap of tokens, the likeliest on top; of equals the smaller id ---------------------------------------- */

static bool above(const float *x, int a, int b) { return x[a] > x[b] || (x[a] == x[b] && a < b); }

static void sink(const float *x, int *heap, long n, long i)
{
    for (;;) {
        long best = i, left = 2 * i + 1;
        if (left < n && above(x, heap[left], heap[best]))
            best = left;
        if (left + 1 < n && above(x, heap[left + 1], heap[best]))
            best = left + 1;
        if (best == i)
            return;
        int t = heap[i];
        heap[i] = heap[best];
        heap[best] = t;
        i = best;
    }
}

/* Takes the top of n and puts it behind the others, at n - 1. */
static int pop(const float *x, int *heap, long n)
{
    int top = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = top;
    sink(x, heap, n - 1, 0);
    return top;
}

/* Tokens stay as long as those before them have less than top_p together, and have min_p of the first one's chance. Of the heap's n they end up as its
 * last ones, the likeliest at the very end; their number. p are shares of all tokens; top_p counts those of the top_k. */
static long keep(const float *x, const float *p, int *heap, long n, const oc_generation *g)
{
    bool few = g->top_k > 0 && g->top_k < n;
    long most = few ? g->top_k : n, popped = 0, kept = 0;
    double sum = few ? 0 : 1, before = 0, first = (double)p[heap[0]];
    while (few && popped < most)
        sum += (double)p[pop(x, heap, n - popped++)];
    for (; kept < most; kept++) {
        double share = (double)p[kept < popped ? heap[n - 1 - kept] : heap[0]];
        if (kept && ((g->top_p < 1 && before >= (double)g->top_p * sum) || share < (double)g->min_p * first))
            break;
        if (kept == popped)
            pop(x, heap, n - popped++);
        before += share;
    }
    return kept;
}

/* [0, 1) in steps of 2^-53. */
static double random_share(bs_rng *r)
{
    uint64_t high = bs_rng_u32(r), low = bs_rng_u32(r);
    return (double)((high << 32 | low) >> 11) * 0x1p-53;
}

/* Puts those into the heap that may be kept: of so little a share that all like it have less than 1 - top_p together, or less than min_p of the
 * largest's, none is. */
static long candidates(rn_chooser *c, const float *x, const oc_generation *g)
{
    const float *p = c->share;
    float least = g->min_p * c->kn->max(c->vocab, p), rare = g->top_k > 0 ? 0 : (1 - g->top_p) / (float)c->vocab;
    long n = 0;
    least = 0.999f * (least > rare ? least : rare);
    for (int i = 0; i < c->vocab; i++)
        if (p[i] >= least)
            c->heap[n++] = i;
    for (long i = n / 2 - 1; i >= 0; i--)
        sink(x, c->heap, n, i);
    return n;
}

static int32_t draw_of(rn_chooser *c, const int *id, long n)
{
    const float *p = c->share;
    double sum = 0, at;
    for (long i = 0; i < n; i++)
        sum += (double)p[id ? id[i] : i];
    at = random_share(&c->rng) * sum;
    for (long i = n - 1; i > 0; i--) {
        at -= (double)p[id ? id[i] : i];
        if (at < 0)
            return id ? id[i] : (int32_t)i;
    }
    return id ? id[0] : 0;
}

static int32_t draw(rn_chooser *c, const float *x, const oc_generation *g)
{
    if (g->top_k <= 0 && g->top_p >= 1 && g->min_p <= 0)
        return draw_of(c, NULL, c->vocab);
    long n = candidates(c, x, g), kept = keep(x, c->share, c->heap, n, g);
    return draw_of(c, c->heap + n - kept, kept);
}

int32_t rn_choose(rn_chooser *c, float *x, const oc_generation *g, double *logprob)
{
    double log_sum = rn_log_sum(c, x);
    long id = largest(c, x);
    float most = x[id];
    if (g->temperature > 0) { /* below the largest, as nothing may be beyond what a float holds */
        for (long i = 0; i < c->vocab; i++)
            x[i] = (x[i] - most) / g->temperature;
        c->kn->softmax(c->vocab, x, c->share);
        id = draw(c, x, g);
        *logprob = (double)x[id] * (double)g->temperature + (double)most - log_sum;
    } else {
        *logprob = (double)most - log_sum;
    }
    return (int32_t)id;
}
