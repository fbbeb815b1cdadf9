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

enum { CHAINS = 10, SHORT = 20000 }; /* chains: as many as hide the latency of each, and fit the registers */

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

struct cl_spinner {
    bs_pool *pool;
    float (*spin)(long steps);
    int width; /* floats of a vector */
    long steps;
    float sink[1024];
};

static void spin(void *arg, long begin, long end, int worker)
{
    cl_spinner *s = arg;
    for (long i = begin; i < end; i++)
        s->sink[worker % 1024] += s->spin(s->steps);
}

static void choose_vectors(cl_spinner *s, const kn_table *t)
{
    s->spin = spin_generic;
    s->width = 4;
#if defined(__x86_64__)
    if (!strcmp(t->name, "avx512") || !strcmp(t->name, "amx"))
        s->spin = spin_avx512, s->width = 16;
    if (!strcmp(t->name, "avx2"))
        s->spin = spin_avx2, s->width = 8;
#elif defined(__aarch64__)
    if (strcmp(t->name, "generic") != 0)
        s->spin = spin_neon;
#endif
}

cl_spinner *cl_spinner_open(const kn_table *t, bs_pool *pool, oc_err *err)
{
    cl_spinner *s = bs_calloc(1, sizeof *s, "the clock", err);
    if (s)
        s->pool = pool, choose_vectors(s, t);
    return s;
}

double cl_spinner_rate(void *spinner, double seconds)
{
    cl_spinner *s = spinner;
    int threads = bs_pool_threads(s->pool);
    s->steps = (long)fmax(1, seconds * 1e4) * SHORT; /* a tenth of a millisecond each, or less */
    double start = bs_now();
    bs_pool_for(s->pool, threads, 1, spin, s);
    return 2.0 * s->width * CHAINS * (double)s->steps * threads / (bs_now() - start);
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

enum { PIECES = 256, EACH = 1 << 18, STREAMS = 4, LINE = 16 }; /* 256 MB, in floats */

struct cl_reader {
    const kn_table *t;
    bs_pool *pool;
    float *x;
    long at; /* the piece that is read next */
    float sink[1024];
};

static void touch(void *arg, long begin, long end, int worker)
{
    (void)worker;
    cl_reader *r = arg;
    for (long i = begin * EACH; i < end * EACH; i++)
        r->x[i] = 1;
}

static void sum_up(void *arg, long begin, long end, int worker)
{
    cl_reader *r = arg;
    for (long i = begin; i < end; i++)
        r->sink[worker % 1024] += r->t->sum(EACH, r->x + (r->at + i) % PIECES * EACH);
}

/* A number of every line, from so many places in turns: some CPUs fetch several streams faster than one. */
static void read_streams(void *arg, long begin, long end, int worker)
{
    cl_reader *r = arg;
    for (long i = begin; i < end; i++) {
        const float *x = r->x + (r->at + i) % PIECES * EACH;
        float s[STREAMS] = {0};
        for (long at = 0; at < EACH / STREAMS; at += LINE)
            for (int v = 0; v < STREAMS; v++)
                s[v] += x[v * (EACH / STREAMS) + at];
        for (int v = 0; v < STREAMS; v++)
            r->sink[worker % 1024] += s[v];
    }
}

static double rate_of(cl_reader *r, bs_work *read, double seconds)
{
    long least = 4 * bs_pool_threads(r->pool), n = (long)fmin(PIECES, fmax((double)least, seconds * 2e4)); /* at 20 GB/s */
    double start = bs_now();
    bs_pool_for(r->pool, n, 1, read, r);
    r->at = (r->at + n) % PIECES;
    return (double)n * EACH * sizeof(float) / (bs_now() - start);
}

cl_reader *cl_reader_open(const kn_table *t, bs_pool *pool, oc_err *err)
{
    size_t bytes = (size_t)PIECES * EACH * sizeof(float);
    cl_reader *r = bs_calloc(1, sizeof *r, "the memory to read", err);
    float *x = r ? bs_reserve(bytes, "the memory to read", err)
                 : NULL; /* in large pages: else fewer bytes, as pages must be looked up */
    if (!x) {
        bs_free(r);
        return NULL;
    }
    *r = (cl_reader){.t = t, .pool = pool, .x = x};
    bs_pool_for(pool, PIECES, 1, touch, r);
    return r;
}

void cl_reader_close(cl_reader *r)
{
    if (r)
        bs_unreserve(r->x, (size_t)PIECES * EACH * sizeof(float));
    bs_free(r);
}

double cl_reader_rate(void *reader, double seconds)
{
    return fmax(rate_of(reader, sum_up, seconds / 2), rate_of(reader, read_streams, seconds / 2));
}

/* ---- the best of either -------------------------------------------------------------------------------------------- */

double cl_best(const cl_yardstick *y, double seconds)
{
    double best = 0;
    for (int round = 0; round < 8; round++)
        best = fmax(best, y->rate(y->self, seconds));
    return best * 1e-9;
}

double cl_fma_peak(const kn_table *t, bs_pool *pool, oc_err *err)
{
    cl_yardstick y = {cl_spinner_rate, cl_spinner_open(t, pool, err)};
    double best = y.self ? cl_best(&y, CL_BURST) : 0;
    bs_free(y.self);
    return best;
}

double cl_read_rate(const kn_table *t, bs_pool *pool, oc_err *err)
{
    cl_yardstick y = {cl_reader_rate, cl_reader_open(t, pool, err)};
    double best = y.self ? cl_best(&y, CL_ROUND) : 0;
    cl_reader_close(y.self);
    return best;
}

/* ---- a call's time ------------------------------------------------------------------------------------------------- */

static double allowed(const cl_yardstick *y, double seconds) { return y ? y->rate(y->self, seconds) : 0; }

cl_timing cl_time(double seconds, void (*run)(void *), void *arg, const cl_yardstick *yardstick)
{
    enum { MOST = 101 };
    double round[MOST], possible[MOST], began = bs_now();
    run(arg);
    double once = bs_now() - began;
    long calls = once < 2e-3 ? (long)(2e-3 / (once + 1e-9)) + 1 : 1; /* a round far longer than a clock's step */
    double beside = fmin(5e-3, 0.2 * once * (double)calls);
    cl_timing t = {0};
    int least = seconds < 0.01 ? 1 : 5;
    began = bs_now();
    while (t.rounds < MOST && (t.rounds < least || bs_now() - began < seconds)) {
        double before = allowed(yardstick, beside), start = bs_now();
        for (long i = 0; i < calls; i++)
            run(arg);
        double took = (bs_now() - start) / (double)calls, after = allowed(yardstick, beside);
        possible[t.rounds] = 0.5 * (before + after) * took;
        round[t.rounds++] = took;
    }
    t.median = cl_median(round, t.rounds);
    t.best = round[0];
    t.possible = cl_median(possible, t.rounds);
    return t;
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
