/* bench_clock.c - how long a call takes, and the limits of this machine that it is held against. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* ---- time -------------------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double cl_median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

/* ---- multiply-adds ------------------------------------------------------------------------------------------------- */

enum { CHAINS = 10, STEPS = 1000000 }; /* chains: as many as hide the latency of each, and fit the registers */

/* `width` floats a vector: CHAINS independent sums, `steps` multiply-adds each. What comes out is returned, or it would not be computed. */
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static float spin_avx2(long steps)
{
    __m256 s[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-4f);
    for (int i = 0; i < CHAINS; i++)
        s[i] = _mm256_set1_ps((float)i);
    for (long k = 0; k < steps; k++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++)
            s[i] = _mm256_fmadd_ps(s[i], a, b);
    }
    for (int i = 1; i < CHAINS; i++)
        s[0] = _mm256_add_ps(s[0], s[i]);
    return _mm256_cvtss_f32(s[0]);
}

__attribute__((target("avx512f"))) static float spin_avx512(long steps)
{
    __m512 s[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-4f);
    for (int i = 0; i < CHAINS; i++)
        s[i] = _mm512_set1_ps((float)i);
    for (long k = 0; k < steps; k++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++)
            s[i] = _mm512_fmadd_ps(s[i], a, b);
    }
    for (int i = 1; i < CHAINS; i++)
        s[0] = _mm512_add_ps(s[0], s[i]);
    return _mm512_cvtss_f32(s[0]);
}
#elif defined(__aarch64__)
static float spin_neon(long steps)
{
    float32x4_t s[CHAINS], a = vdupq_n_f32(0.999f), b = vdupq_n_f32(1e-4f);
    for (int i = 0; i < CHAINS; i++)
        s[i] = vdupq_n_f32((float)i);
    for (long k = 0; k < steps; k++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++)
            s[i] = vfmaq_f32(b, s[i], a);
    }
    for (int i = 1; i < CHAINS; i++)
        s[0] = vaddq_f32(s[0], s[i]);
    return vgetq_lane_f32(s[0], 0);
}
#endif

/* What the compiler makes of plain C, four floats at a time as every machine has them. */
static float spin_generic(long steps)
{
    float s[CHAINS][4];
    for (int i = 0; i < CHAINS; i++)
        for (int l = 0; l < 4; l++)
            s[i][l] = (float)(i + l);
    for (long k = 0; k < steps; k++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++)
#pragma GCC unroll 4
            for (int l = 0; l < 4; l++)
                s[i][l] = s[i][l] * 0.999f + 1e-4f;
    }
    float sum = 0;
    for (int i = 0; i < CHAINS; i++)
        sum += s[i][0] + s[i][3];
    return sum;
}

typedef struct spinner {
    float (*spin)(long steps);
    int width; /* floats of a vector */
    long steps;
    float sink[1024];
} spinner;

static void spin(void *arg, long begin, long end, int worker)
{
    spinner *s = arg;
    for (long i = begin; i < end; i++)
        s->sink[worker % 1024] += s->spin(s->steps);
}

static spinner spinner_of(const kn_table *t)
{
#if defined(__x86_64__)
    if (!strcmp(t->name, "avx512"))
        return (spinner){.spin = spin_avx512, .width = 16};
    if (!strcmp(t->name, "avx2"))
        return (spinner){.spin = spin_avx2, .width = 8};
#elif defined(__aarch64__)
    if (strcmp(t->name, "generic") != 0)
        return (spinner){.spin = spin_neon, .width = 4};
#endif
    (void)t;
    return (spinner){.spin = spin_generic, .width = 4};
}

/* GFLOP/s of a burst on all the pool's threads. */
static double burst(spinner *s, bs_pool *pool, long steps)
{
    int threads = bs_pool_threads(pool);
    s->steps = steps;
    double start = bs_now();
    bs_pool_for(pool, threads, 1, spin, s);
    return 2.0 * s->width * CHAINS * (double)steps * threads / (bs_now() - start) * 1e-9;
}

double cl_fma_peak(const kn_table *t, bs_pool *pool)
{
    spinner s = spinner_of(t);
    double best = 0;
    for (int round = 0; round < 10; round++)
        best = fmax(best, burst(&s, pool, STEPS));
    return best;
}

/* ---- a call's time ------------------------------------------------------------------------------------------------- */

cl_timing cl_time(double seconds, void (*run)(void *), void *arg, const kn_table *yardstick, bs_pool *pool)
{
    enum { MOST = 101, SHORT = 20000 }; /* steps of a burst: a tenth of a millisecond or less */
    double round[MOST], peak[MOST], began = bs_now();
    run(arg);
    double once = bs_now() - began;
    long calls = once < 2e-3 ? (long)(2e-3 / (once + 1e-9)) + 1 : 1; /* a round far longer than a clock's step */
    long steps = (long)fmin(50, fmax(1, once * (double)calls * 2e3)) * SHORT;
    spinner s = yardstick ? spinner_of(yardstick) : (spinner){0};
    cl_timing t = {0};
    int least = seconds < 0.01 ? 1 : 5;
    began = bs_now();
    while (t.rounds < MOST && (t.rounds < least || bs_now() - began < seconds)) {
        double before = yardstick ? burst(&s, pool, steps) : 0, start = bs_now();
        for (long i = 0; i < calls; i++)
            run(arg);
        double took = (bs_now() - start) / (double)calls, after = yardstick ? burst(&s, pool, steps) : 0;
        peak[t.rounds] = 0.5e9 * (before + after) * took;
        round[t.rounds++] = took;
    }
    t.median = cl_median(round, t.rounds);
    t.best = round[0];
    t.possible = cl_median(peak, t.rounds);
    return t;
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

typedef struct reader {
    const kn_table *t;
    float *x;
    long each; /* floats of an item */
    float sink[1024];
} reader;

static void touch(void *arg, long begin, long end, int worker)
{
    (void)worker;
    reader *r = arg;
    for (long i = begin * r->each; i < end * r->each; i++)
        r->x[i] = 1;
}

static void sum_up(void *arg, long begin, long end, int worker)
{
    reader *r = arg;
    for (long i = begin; i < end; i++)
        r->sink[worker % 1024] += r->t->sum(r->each, r->x + i * r->each);
}

double cl_read_rate(const kn_table *t, bs_pool *pool, oc_err *err)
{
    enum { PIECES = 256, EACH = 1 << 18 }; /* 256 MB */
    size_t bytes = (size_t)PIECES * EACH * sizeof(float);
    reader r = {.t = t, .x = bs_alloc(bytes, "the memory to read", err), .each = EACH};
    double best = 0;
    if (!r.x)
        return 0;
    uintptr_t page = ((uintptr_t)r.x + ((1 << 21) - 1)) >> 21 << 21;
    madvise((void *)page, bytes - (1 << 21), MADV_HUGEPAGE); /* without: fewer bytes, as pages must be looked up */
    bs_pool_for(pool, PIECES, 1, touch, &r);
    for (int round = 0; round < 6; round++) {
        double start = bs_now();
        bs_pool_for(pool, PIECES, 1, sum_up, &r);
        best = fmax(best, (double)bytes / (bs_now() - start) * 1e-9);
    }
    bs_free(r.x);
    return best;
}

/* ---- name ---------------------------------------------------------------------------------------------------------- */

void cl_cpu_name(char *name, size_t n)
{
    char line[512];
    FILE *f = fopen("/proc/cpuinfo", "r");
    name[0] = 0;
    while (f && !name[0] && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (colon && !strncmp(line, "model name", 10))
            snprintf(name, n, "%s", colon + 1 + strspn(colon + 1, " "));
    }
    name[strcspn(name, "\n")] = 0;
    if (f)
        fclose(f);
}
