/* random.c - PCG-XSH-RR 64/32 (O'Neill 2014), and a clock, and the wish to stop. */
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base.h"

void bs_rng_seed(bs_rng *r, uint64_t seed, uint64_t stream)
{
    r->state = 0;
    r->inc = stream << 1 | 1;
    bs_rng_u32(r);
    r->state += seed;
    bs_rng_u32(r);
}

uint32_t bs_rng_u32(bs_rng *r)
{
    uint64_t old = r->state;
    r->state = old * 6364136223846793005u + r->inc;
    uint32_t x = (uint32_t)((old >> 18 ^ old) >> 27), rot = (uint32_t)(old >> 59);
    return x >> rot | x << (-rot & 31);
}

uint32_t bs_rng_below(bs_rng *r, uint32_t n)
{
    uint32_t floor = -n % n, x; /* the values below 2^32 mod n would make the first ones likelier */
    do
        x = bs_rng_u32(r);
    while (x < floor);
    return x % n;
}

float bs_rng_float(bs_rng *r) { return (float)(bs_rng_u32(r) >> 8) * 0x1p-24f; }

float bs_rng_range(bs_rng *r, float lo, float hi) { return lo + (hi - lo) * bs_rng_float(r); }

float bs_rng_normal(bs_rng *r)
{
    double u = ((double)bs_rng_u32(r) + 1) * 0x1p-32, v = (double)bs_rng_u32(r) * 0x1p-32;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

double bs_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    if (stop) {
        signal(number, SIG_DFL);
        raise(number);
    }
    stop = 1;
}

void bs_stop_on_signal(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool bs_stop_asked(void) { return stop; }
