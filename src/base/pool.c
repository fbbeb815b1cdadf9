/* pool.c - threads that sleep when idle and share out pieces of a loop. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base.h"

enum { MAX_THREADS = 1024, PAUSES = 8 };
static const double PATIENCE = 5e-4; /* seconds */

/* What all threads look at together: which round it is, whether it may still be joined, and how many workers are at it. */
enum { JOINED = (1 << 12) - 1, OPEN = 1 << 12, ROUND = 1 << 13 };

struct bs_pool {
    int threads;
    pthread_t *thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    atomic_bool quit;
    bs_work *work;
    void *arg;
    long n, grain;
    _Alignas(64) atomic_long next;   /* a line of its own: every worker hammers it */
    _Alignas(64) atomic_ulong gate;  /* rounds * ROUND + OPEN + workers that have joined */
};

typedef struct start {
    bs_pool *pool;
    int worker;
} start;

static _Thread_local bool inside;    /* a nested call must not wait for itself */
static _Thread_local int own_number; /* and must use its own worker's scratch */

static void share(bs_pool *p, int worker)
{
    for (;;) {
        long begin = atomic_fetch_add_explicit(&p->next, p->grain, memory_order_relaxed);
        if (begin >= p->n)
            return;
        long end = begin + p->grain < p->n ? begin + p->grain : p->n;
        p->work(p->arg, begin, end, worker);
    }
}

/* Yielding instead would hand the core to any busy stranger for a whole time slice. */
static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Jobs follow one another within microseconds while a model runs, and threads end a job some hundred apart: to look for that long saves
 * two trips to the kernel, of which the second is slow where a hypervisor has to wake the core. */
static bool patient(double since)
{
    for (int i = 0; i < PAUSES; i++)
        relax();
    return bs_now() - since < PATIENCE;
}

static unsigned long round_of(unsigned long gate) { return gate / ROUND; }

static void spin_for_round(bs_pool *p, unsigned long done)
{
    double since = bs_now();
    while (round_of(atomic_load_explicit(&p->gate, memory_order_acquire)) == done && patient(since))
        continue;
}

/* Sleeps until there is a round after `done`, which becomes it; false when the pool closes. */
static bool await_round(bs_pool *p, unsigned long *done)
{
    spin_for_round(p, *done);
    unsigned long now = round_of(atomic_load_explicit(&p->gate, memory_order_acquire));
    if (now == *done) {
        pthread_mutex_lock(&p->lock);
        while ((now = round_of(atomic_load_explicit(&p->gate, memory_order_acquire))) == *done)
            pthread_cond_wait(&p->wake, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    *done = now;
    return !p->quit;
}

/* A round is over when all of it is done: who comes late finds it closed, and nobody waits for a thread that the system has not let run. */
static bool join(bs_pool *p, unsigned long round)
{
    unsigned long gate = atomic_load_explicit(&p->gate, memory_order_acquire);
    while (round_of(gate) == round && gate & OPEN)
        if (atomic_compare_exchange_weak_explicit(&p->gate, &gate, gate + 1, memory_order_acq_rel, memory_order_acquire))
            return true;
    return false;
}

static void leave(bs_pool *p)
{
    unsigned long gate = atomic_fetch_sub_explicit(&p->gate, 1, memory_order_acq_rel) - 1;
    if (gate & (JOINED | OPEN))
        return;
    pthread_mutex_lock(&p->lock); /* whoever waits looks at the gate under lock before sleeping */
    pthread_cond_signal(&p->idle);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg)
{
    start s = *(start *)arg;
    free(arg);
    unsigned long done = 0;
    inside = true;
    own_number = s.worker;
    while (await_round(s.pool, &done)) {
        if (!join(s.pool, done))
            continue;
        share(s.pool, s.worker);
        leave(s.pool);
    }
    return NULL;
}

static int cores(void)
{
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set))
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

int bs_threads_of(int threads) { return threads > 0 ? threads : cores(); }

bs_pool *bs_pool_open(int threads, oc_err *err)
{
    threads = bs_threads_of(threads);
    if (threads > MAX_THREADS) {
        bs_err(err, "%d threads: at most %d are possible", threads, MAX_THREADS);
        return NULL;
    }
    bs_pool *p = bs_calloc(1, sizeof *p, "a thread pool", err);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->idle, NULL);
    p->threads = 1;
    p->thread = calloc((size_t)threads, sizeof *p->thread);
    while (p->thread && p->threads < threads) {
        start *s = malloc(sizeof *s);
        if (!s)
            break;
        *s = (start){p, p->threads};
        if (pthread_create(&p->thread[p->threads], NULL, worker_main, s)) {
            free(s);
            break;
        }
        p->threads++;
    }
    if (p->threads < threads) {
        bs_err(err, "cannot start %d threads, only %d", threads, p->threads);
        bs_pool_close(p);
        return NULL;
    }
    return p;
}

void bs_pool_close(bs_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    atomic_fetch_add(&p->gate, ROUND);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->threads; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->idle);
    pthread_mutex_destroy(&p->lock);
    free(p->thread);
    bs_free(p);
}

int bs_pool_threads(const bs_pool *p) { return p ? p->threads : 1; }

static unsigned long joined(bs_pool *p) { return atomic_load_explicit(&p->gate, memory_order_acquire) & JOINED; }

/* Nobody joins any more; those who have are waited for. */
static void close_round(bs_pool *p)
{
    atomic_fetch_and_explicit(&p->gate, ~(unsigned long)OPEN, memory_order_acq_rel);
    double since = bs_now();
    while (joined(p) && patient(since))
        continue;
    if (!joined(p))
        return;
    pthread_mutex_lock(&p->lock);
    while (joined(p))
        pthread_cond_wait(&p->idle, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void bs_pool_for(bs_pool *p, long n, long grain, bs_work *work, void *arg)
{
    if (n <= 0)
        return;
    if (grain < 1)
        grain = 1;
    if (!p || p->threads == 1 || inside || n <= grain) {
        for (long i = 0; i < n; i += grain)
            work(arg, i, i + grain < n ? i + grain : n, own_number);
        return;
    }
    p->work = work;
    p->arg = arg;
    p->n = n;
    p->grain = grain;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    pthread_mutex_lock(&p->lock); /* whoever is about to sleep sees the round, or is woken */
    atomic_fetch_add_explicit(&p->gate, ROUND + OPEN, memory_order_release);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    inside = true;
    share(p, 0);
    inside = false;
    close_round(p);
}
