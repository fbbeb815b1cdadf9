/* many_threads.c - in place of src/base/pool.c: one thread plays all threads of a pool, one piece after another, and the clock (bs_now, by the linker's --wrap) runs as if they had worked at
 * once. Each piece goes to the thread that would be free first; a round takes as long as its busiest thread, and ROUND for the others to hear of it. For many_threads.py. */
#include <stdlib.h>
#include <string.h>

#include "base.h"

static const double ROUND = 5e-6; /* seconds */

struct bs_pool {
    int threads;
    double *busy; /* [threads] seconds of this round */
};

static double saved; /* seconds that all rounds so far took longer than they would have */
static bool inside;

double __real_bs_now(void);
double __wrap_bs_now(void);
double __wrap_bs_now(void) { return __real_bs_now() - saved; }

int bs_threads_of(int threads) { return threads > 0 ? threads : 1; }

int bs_pool_threads(const bs_pool *p) { return p ? p->threads : 1; }

bs_pool *bs_pool_open(int threads, oc_err *err)
{
    bs_pool *p = bs_calloc(1, sizeof *p, "a thread pool", err);
    if (!p)
        return NULL;
    p->threads = bs_threads_of(threads);
    p->busy = bs_calloc((size_t)p->threads, sizeof *p->busy, "a thread pool", err);
    if (p->busy)
        return p;
    bs_pool_close(p);
    return NULL;
}

void bs_pool_close(bs_pool *p)
{
    if (p)
        bs_free(p->busy);
    bs_free(p);
}

static int first_free(const bs_pool *p)
{
    int best = 0;
    for (int i = 1; i < p->threads; i++)
        best = p->busy[i] < p->busy[best] ? i : best;
    return best;
}

static void play_round(bs_pool *p, long n, long grain, bs_work *work, void *arg)
{
    double all = 0, longest = 0;
    memset(p->busy, 0, (size_t)p->threads * sizeof *p->busy);
    for (long i = 0; i < n; i += grain) {
        int worker = first_free(p);
        double began = __real_bs_now();
        work(arg, i, i + grain < n ? i + grain : n, worker);
        double took = __real_bs_now() - began;
        p->busy[worker] += took;
        all += took;
    }
    for (int i = 0; i < p->threads; i++)
        longest = p->busy[i] > longest ? p->busy[i] : longest;
    saved += all - longest - ROUND;
}

void bs_pool_for(bs_pool *p, long n, long grain, bs_work *work, void *arg)
{
    grain = grain > 0 ? grain : 1;
    if (!p || p->threads == 1 || inside || n <= grain) {
        for (long i = 0; i < n; i += grain)
            work(arg, i, i + grain < n ? i + grain : n, 0);
        return;
    }
    inside = true;
    play_round(p, n, grain, work, arg);
    inside = false;
}
