/* sampling.c - see sampling.h. */
#include "sampling.h"

#include <math.h>
#include <string.h>

int rn_chooser_open(rn_chooser *c, long vocab, uint64_t seed, oc_err *err)
{
    *c = (rn_chooser){.vocab = vocab};
    c->heap = bs_alloc((size_t)vocab * sizeof *c->heap, "room to choose a token", err);
    c->stamp = bs_calloc((size_t)vocab, sizeof *c->stamp, "room to choose a token", err);
    bs_rng_seed(&c->rng, seed, 0);
    if (c->heap && c->stamp)
        return 0;
    rn_chooser_close(c);
    return -1;
}

void rn_chooser_close(rn_chooser *c)
{
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

static long largest(const float *x, long n)
{
    long best = 0;
    for (long i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

double rn_log_sum(const float *x, long n)
{
    double most = x[largest(x, n)], sum = 0;
    for (long i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

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

/* Tokens stay as long as those before them have less than top_p together, and have min_p of the first's own chance. Of the heap's n they end up as its last ones,
 * the likeliest at the very end; their number. */
static long keep(const float *x, int *heap, long n, const oc_generation *g, double log_sum)
{
    long most = g->top_k > 0 && g->top_k < n ? g->top_k : n, kept = 0;
    double before = 0, first = 0;
    if (g->top_k > 0 && g->top_k < n && g->top_p < 1) { /* what top_p counts is what top_k left */
        double sum = 0;
        for (long k = 0; k < most; k++)
            sum += exp((double)x[pop(x, heap, n - k)] - log_sum);
        for (long k = 0; k < most; k++, kept++) {
            double p = exp((double)x[heap[n - 1 - k]] - log_sum) / sum;
            first = k ? first : p;
            if (k && (before >= g->top_p || p < g->min_p * first))
                break;
            before += p;
        }
        return kept;
    }
    for (; kept < most; kept++) {
        double p = exp((double)x[heap[0]] - log_sum);
        first = kept ? first : p;
        if (kept && (before >= g->top_p || p < g->min_p * first))
            break;
        pop(x, heap, n - kept);
        before += p;
    }
    return kept;
}

/* [0, 1) in steps of 2^-53. */
static double random_share(bs_rng *r)
{
    uint64_t high = bs_rng_u32(r), low = bs_rng_u32(r);
    return (double)((high << 32 | low) >> 11) * 0x1p-53;
}

static int32_t draw(rn_chooser *c, const float *x, const oc_generation *g)
{
    long n = c->vocab;
    double log_sum = rn_log_sum(x, n), sum = 0, at;
    for (long i = 0; i < n; i++)
        c->heap[i] = (int)i;
    for (long i = n / 2 - 1; i >= 0; i--)
        sink(x, c->heap, n, i);
    bool all = g->top_k <= 0 && g->top_p >= 1 && g->min_p <= 0;
    long kept = all ? n : keep(x, c->heap, n, g, log_sum);
    const int *last = c->heap + n - kept;
    for (long i = 0; i < kept; i++)
        sum += exp((double)x[last[i]] - log_sum);
    at = random_share(&c->rng) * sum;
    for (long i = kept - 1; i > 0; i--) {
        at -= exp((double)x[last[i]] - log_sum);
        if (at < 0)
            return last[i];
    }
    return last[0];
}

int32_t rn_choose(rn_chooser *c, float *x, const oc_generation *g, double *logprob)
{
    double log_sum = rn_log_sum(x, c->vocab);
    if (g->temperature <= 0) {
        long best = largest(x, c->vocab);
        *logprob = (double)x[best] - log_sum;
        return (int32_t)best;
    }
    for (long i = 0; i < c->vocab; i++)
        x[i] /= g->temperature;
    int32_t id = draw(c, x, g);
    *logprob = (double)x[id] * (double)g->temperature - log_sum;
    return id;
}
