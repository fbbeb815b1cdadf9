/* test_low.c - products with weights packed as bf16, int8 and int4, on every tier: against double precision, against generic C bit by
 * bit (integers are exact, and no multiply-add is fused), by any number of threads, one row at a time. Arrays are fenced: they
 * end at a page that cannot be touched. `test_low --bench [threads]` times them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernel/work.h"

#if defined(EMULATED) /* a hundred times slower: what only the portable loops would notice is left out */
enum { SLOW_MACHINE = 1 };
#else
enum { SLOW_MACHINE = 0 };
#endif

static bs_rng rng;
static uint64_t seed;
static const kn_table *const *tiers;
static int tier_count;

/* ---- fenced memory ------------------------------------------------------------------------------------ */

enum { MAX_FENCED = 64, CANARY = 0xa5 };
static struct {
    uint8_t *map, *data;
    size_t mapped;
} fences[MAX_FENCED];
static int fence_count;

/* Ends at a page that faults, but for what `align` takes. */
static void *fence(size_t bytes, size_t align)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + 64 + page - 1) / page * page;
    assert_true(fence_count < MAX_FENCED);
    uint8_t *map = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map + body, page, PROT_NONE), 0);
    memset(map, CANARY, body);
    fences[fence_count].map = map;
    fences[fence_count].data = map + (body - bytes) / align * align;
    fences[fence_count].mapped = body + page;
    return fences[fence_count++].data;
}

static void unfence(void)
{
    bool whole = true;
    for (int i = 0; i < fence_count; i++) {
        for (const uint8_t *p = fences[i].map; p < fences[i].data; p++)
            whole = whole && *p == CANARY;
        munmap(fences[i].map, fences[i].mapped);
    }
    fence_count = 0;
    assert_true(whole);
}

static float *random_floats(long n, float size)
{
    float *x = fence((size_t)n * sizeof *x, sizeof *x);
    for (long i = 0; i < n; i++)
        x[i] = bs_rng_range(&rng, -size, size);
    return x;
}

static float *copy_of(const float *x, long n)
{
    float *y = fence((size_t)n * sizeof *y, sizeof *y);
    memcpy(y, x, (size_t)n * sizeof *x);
    return y;
}

static void same_bits(const char *tier, const char *what, const float *a, const float *b, long n)
{
    for (long i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) && !(isnan(a[i]) && isnan(b[i])))
            fail_msg("%s, %s: element %ld is %.9g, not %.9g (seed %llu)", tier, what, i, (double)a[i], (double)b[i],
                     (unsigned long long)seed);
}

#include "beside.h"

/* ---- problems ----------------------------------------------------------------------------------------- */

static const char *const names[] = {"fp32", "bf16", "int8", "int4"};

typedef struct problem {
    kn_gemm g;
    kn_packed *p;
    float *x, *old; /* W as given; C before */
    int8_t *q;      /* what it becomes */
    float *scale;
    long groups;
} problem;

static kn_packed pack(kn_work *w, kn_dtype dtype, long n, long k, long group, const float *x)
{
    kn_packed p = {.dtype = dtype, .n = n, .k = k, .group = dtype == KN_I4 ? group : 0};
    size_t bytes = kn_packed_bytes(kn_work_table(w), dtype, n, k, p.group);
    p.data = fence(bytes, 64);
    kn_pack_weight(w, &p, x, k + 1);
    return p;
}

/* Packed from a weight that lies turned, in pieces: the same bytes. */
static void assert_turned(kn_work *w, const kn_packed *p, const float *x)
{
    long n = p->n, k = p->k;
    size_t bytes = kn_packed_bytes(kn_work_table(w), p->dtype, n, k, p->group);
    kn_packed q = *p;
    q.data = fence(bytes, 64);
    float *turned = fence((size_t)(k * (n + 2)) * sizeof(float), sizeof(float));
    float *scratch = fence((size_t)((n < KN_PACK_STEP ? n : KN_PACK_STEP) * k) * sizeof(float), sizeof(float));
    for (long i = 0; i < k; i++)
        for (long j = 0; j < n; j++)
            turned[i * (n + 2) + j] = x[j * (k + 1) + i];
    for (long first = 0; first < n; first += KN_PACK_STEP)
        kn_pack_turned(w, &q, first, n - first < KN_PACK_STEP ? n - first : KN_PACK_STEP, turned + first, n + 2, scratch);
    assert_memory_equal(q.data, p->data, bytes);
}

enum { BIAS = 1, RESIDUAL = 2, ACCUMULATE = 4, ALPHA = 8, RELU = 16, TURNED = 32, IN_PLACE = 64 };

static problem new_problem(kn_work *w, kn_dtype dtype, long m, long n, long k, long group, int form)
{
    problem p = {.x = random_floats(n * (k + 1), 0.3f), .groups = dtype == KN_I4 ? (k + group - 1) / group : 1};
    long lda = (form & TURNED ? m : k) + 1, ldc = n + 3;
    float *a = random_floats((form & TURNED ? k : m) * lda, 2), *c = random_floats(m * ldc, 1), *bias = random_floats(n, 1),
          *residual = random_floats(m * ldc, 1);
    p.g = (kn_gemm){.m = m, .n = n, .k = k, .a = a, .lda = lda, .c = c, .ldc = ldc, .alpha = form & ALPHA ? -0.5f : 1};
    p.g.ta = form & TURNED;
    p.g.accumulate = form & ACCUMULATE;
    p.g.bias = form & BIAS ? bias : NULL;
    p.g.residual = form & IN_PLACE ? c : form & RESIDUAL ? residual : NULL;
    p.g.act = form & RELU ? KN_RELU : KN_NONE;
    p.old = copy_of(c, m * ldc);
    p.q = fence((size_t)(n * k), 1);
    p.scale = fence((size_t)(n * p.groups) * sizeof(float), sizeof(float));
    if (dtype != KN_BF16)
        kn_quantize(dtype, n, k, group, p.x, k + 1, p.q, p.scale);
    p.p = fence(sizeof *p.p, 64);
    *p.p = pack(w, dtype, n, k, group, p.x);
    if (n * k < 1 << 16)
        assert_turned(w, p.p, p.x);
    p.g.packed = p.p;
    return p;
}

static float brain(float x)
{
    uint16_t h;
    tiers[0]->to_bf16(1, &x, &h);
    tiers[0]->from_bf16(1, &h, &x);
    return x;
}

static double weight_at(const problem *p, long j, long q)
{
    if (p->p->dtype == KN_BF16)
        return brain(p->x[j * (p->g.k + 1) + q]);
    long group = p->p->dtype == KN_I4 ? p->p->group : p->g.k;
    return (double)p->q[j * p->g.k + q] * p->scale[j * p->groups + q / group];
}

/* Row i of A as the product sees it: rounded to int8 with a scale of each group's own, unless W is bf16. */
static void row_seen(const problem *p, long i, double *row)
{
    const kn_gemm *g = &p->g;
    long group = p->p->dtype == KN_I4 ? p->p->group : g->k;
    for (long q = 0; q < g->k; q++)
        row[q] = (double)(g->ta ? g->a[q * g->lda + i] : g->a[i * g->lda + q]);
    for (long from = 0; p->p->dtype != KN_BF16 && from < g->k; from += group) {
        long end = from + group < g->k ? from + group : g->k;
        float most = 0, least = 0;
        for (long q = from; q < end; q++)
            most = fmaxf(most, (float)row[q]), least = fminf(least, (float)row[q]);
        float size = fmaxf(most, -least), scale = most / KN_STEPS_I8 - least / KN_STEPS_I8, inverse = 1 / scale;
        if (p->p->dtype == KN_I4)
            scale = size / KN_TOP_I4, inverse = KN_TOP_I4 / size;
        for (long q = from; q < end; q++)
            row[q] = size > 0 ? (double)lrintf((float)row[q] * inverse) * (double)scale : 0;
    }
}

static double finish(const kn_gemm *g, const float *old, double x, long at, long j)
{
    x = g->alpha * x + (g->accumulate ? old[at] : 0) + (g->bias ? g->bias[j] : 0);
    if (g->act == KN_RELU && x < 0)
        x = 0;
    return x + (!g->residual ? 0 : g->residual == g->c ? old[at] : g->residual[at]);
}

static void check_problem(const char *tier, const problem *p, bool rounded)
{
    const kn_gemm *g = &p->g;
    double *row = calloc((size_t)g->k + 1, sizeof *row);
    for (long i = 0; i < g->m; i++) {
        row_seen(p, i, row);
        for (long j = 0; j < g->ldc; j++) {
            long at = i * g->ldc + j;
            double sum = 0, size = 0;
            for (long q = 0; j < g->n && q < g->k; q++)
                sum += row[q] * weight_at(p, j, q), size += fabs(row[q] * weight_at(p, j, q));
            double want = j < g->n ? finish(g, p->old, sum, at, j) : p->old[at];
            double bound = j < g->n ? (6 + sqrt((double)g->k)) * 0x1p-24 * (size + 6) + (rounded ? 0x1p-8 * size : 0) : 0;
            if (!(fabs(g->c[at] - want) <= bound))
                fail_msg("%s %s, m %ld n %ld k %ld: element %ld is %.9g, not %.9g (seed %llu)", tier, names[p->p->dtype], g->m,
                         g->n, g->k, at, (double)g->c[at], want, (unsigned long long)seed);
        }
    }
    free(row);
}

static const long shapes[][4] = {
    /* m, n, k, group of int4 */
    {1, 1, 1, 32},    {1, 40, 17, 32},   {3, 16, 32, 32},     {4, 31, 33, 32},   {5, 33, 64, 64},
    {2, 3, 0, 32},    {6, 17, 100, 64},  {7, 96, 130, 128},   {13, 48, 255, 32}, {14, 32, 256, 96},
    {9, 50, 257, 64}, {50, 65, 300, 32}, {25, 70, 1025, 128}, {131, 40, 70, 32},
    {17, 3, 14400, 128},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* bf16 activations are rounded where the CPU multiplies such pairs: then bits are that tier's own. */
static bool rounds_rows(const kn_table *t) { return kn_low_bf16_of(t)->pair == 1; }

static void products_are_right(void **state)
{
    (void)state;
    for (int t = 0; t < tier_count; t++)
        print_message("# tier %s: checked\n", tiers[t]->name);
    for (int t = 0; t < tier_count; t++) {
        kn_work *w = kn_work_open(tiers[t], NULL, NULL);
        for (int s = 0; s < SHAPES; s++)
            for (int d = KN_BF16; d <= KN_I4; d++)
                for (int i = 0; i < 4; i++) {
                    problem p = new_problem(w, (kn_dtype)d, shapes[s][0], shapes[s][1], shapes[s][2], shapes[s][3],
                                            (int)bs_rng_below(&rng, 128));
                    kn_gemm_run(w, &p.g);
                    check_problem(tiers[t]->name, &p, d == KN_BF16 && rounds_rows(tiers[t]));
                    unfence();
                }
        kn_work_close(w);
    }
}

/* A tier's own form of a weight, and what it makes of it. */
static void check_tier(kn_work *truth, kn_work *w, kn_dtype dtype, const long *shape)
{
    problem p = new_problem(truth, dtype, shape[0], shape[1], shape[2], shape[3], (int)bs_rng_below(&rng, 64));
    kn_gemm_run(truth, &p.g);
    kn_gemm g = p.g;
    g.c = copy_of(p.old, g.m * g.ldc);
    kn_packed packed = pack(w, dtype, g.n, g.k, shape[3], p.x);
    g.packed = &packed;
    kn_gemm_run(w, &g);
    same_bits(kn_work_table(w)->name, names[dtype], g.c, p.g.c, g.m * g.ldc);
    memset(packed.data, 0, kn_packed_bytes(kn_work_table(w), dtype, g.n, g.k, packed.group));
    kn_pack_quantized(w, &packed, p.q, p.scale);
    memcpy(g.c, p.old, (size_t)(g.m * g.ldc) * sizeof *g.c);
    kn_gemm_run(w, &g);
    same_bits(kn_work_table(w)->name, "from integers", g.c, p.g.c, g.m * g.ldc);
    unfence();
}

static void integers_are_the_same_on_every_tier(void **state)
{
    (void)state;
    for (int t = 0; t < tier_count; t++) {
        kn_work *truth = kn_work_open(tiers[0], NULL, NULL), *w = kn_work_open(tiers[t], NULL, NULL);
        for (int s = 0; s < SHAPES; s++)
            for (int i = 0; i < 4; i++)
                check_tier(truth, w, i % 2 ? KN_I8 : KN_I4, shapes[s]);
        kn_work_close(truth);
        kn_work_close(w);
    }
}

/* Where rows of A are not rounded, the product with widened weights has the bits of fp32. */
static void widened_weights_are_fp32(void **state)
{
    (void)state;
    for (int t = 0; t < tier_count; t++) {
        kn_work *w = kn_work_open(tiers[t], NULL, NULL);
        for (int s = 0; s < SHAPES && !rounds_rows(tiers[t]); s++) {
            problem p = new_problem(w, KN_BF16, shapes[s][0], shapes[s][1], shapes[s][2], 32, 0);
            kn_gemm_run(w, &p.g);
            for (long i = 0; i < p.g.n * (p.g.k + 1); i++)
                p.x[i] = brain(p.x[i]);
            kn_gemm g = p.g;
            g.packed = NULL;
            g.b = p.x, g.ldb = g.k + 1, g.tb = true;
            g.c = copy_of(p.old, g.m * g.ldc);
            kn_gemm_run(w, &g);
            same_bits(tiers[t]->name, "bf16 beside fp32", p.g.c, g.c, g.m * g.ldc);
            unfence();
        }
        kn_work_close(w);
    }
}

static const int thread_counts[] = {1, 2, 3, 7};
enum { COUNTS = sizeof thread_counts / sizeof *thread_counts };

static void check_bits(const kn_table *t, kn_work *const *w, kn_dtype dtype, const long *shape, int form)
{
    problem p = new_problem(w[0], dtype, shape[0], shape[1], shape[2], shape[3], form);
    kn_gemm_run(w[0], &p.g);
    kn_gemm g = p.g;
    for (int i = 1; i < COUNTS; i++) {
        g.c = copy_of(p.old, g.m * g.ldc);
        kn_gemm_run(w[i], &g);
        same_bits(t->name, "by threads", g.c, p.g.c, g.m * g.ldc);
    }
    kn_packed other = pack(w[0], dtype, g.n, g.k, shape[3], random_floats(g.n * (g.k + 1), 0.3f));
    check_beside(t, w, COUNTS, &p.g, &other, p.old);
    long row = bs_rng_below(&rng, (uint32_t)g.m);
    g.m = 1;
    g.a += row * (g.ta ? 1 : g.lda);
    g.c = copy_of(p.old + row * g.ldc, g.n);
    g.residual = g.residual ? g.residual + row * g.ldc : NULL;
    kn_gemm_run(w[0], &g);
    same_bits(t->name, "a row alone", g.c, p.g.c + row * g.ldc, g.n);
    unfence();
}

static void bits_are_kept(void **state)
{
    (void)state;
    static const long more[][4] = {{700, 100, 3100, 64}, {125, 530, 1100, 32}, {1, 3000, 800, 128}};
    for (int t = 0; t < tier_count; t++) {
        bs_pool *pool[COUNTS];
        kn_work *w[COUNTS];
        for (int i = 0; i < COUNTS; i++) {
            pool[i] = bs_pool_open(thread_counts[i], NULL);
            w[i] = kn_work_open(tiers[t], pool[i], NULL);
            assert_true(pool[i] && w[i]);
        }
        for (int d = KN_BF16; d <= KN_I4; d++) {
            for (int s = 0; s < SHAPES; s++)
                check_bits(tiers[t], w, (kn_dtype)d, shapes[s], (int)bs_rng_below(&rng, 64));
            for (int s = t ? 0 : 1; s < 3 && !SLOW_MACHINE; s++)
                check_bits(tiers[t], w, (kn_dtype)d, more[s], BIAS + RESIDUAL);
        }
        for (int i = 0; i < COUNTS; i++) {
            kn_work_close(w[i]);
            bs_pool_close(pool[i]);
        }
    }
}

static const kn_table *counted;
static atomic_int times[KN_IN_TURNS + 1];

static void count_strips(long k, const float *a, const float *b, long far, float *c, long ldc, int m, float alpha,
                         const float *old, long ldo)
{
    times[m]++;
    counted->gemm_strips(k, a, b, far, c, ldc, m, alpha, old, ldo);
}

/* Few rows by several strips at once, as only some CPUs read weights, have the bits that they have by one after another. */
static void check_strips(kn_work *w, kn_dtype dtype, long m, long n, long k, long group)
{
    kn_packed p = pack(w, dtype, n, k, group, random_floats(n * (k + 1), 0.3f));
    kn_gemm g = {.m = m, .n = n, .k = k, .lda = k, .ldc = n + 1, .alpha = -0.5f, .packed = &p};
    g.a = random_floats(m * k, 2);
    g.bias = random_floats(n, 1);
    float *old = random_floats(m * g.ldc, 1), *c[2];
    long of_this_cpu = w->by_strips;
    for (int i = 0; i < 2; i++) {
        w->by_strips = i ? KN_IN_TURNS : 0;
        c[i] = g.c = copy_of(old, m * g.ldc);
        kn_gemm_run(w, &g);
    }
    w->by_strips = of_this_cpu;
    same_bits(w->t->name, names[dtype], c[1], c[0], m * g.ldc);
    unfence();
}

static void strips_at_once_keep_their_bits(void **state)
{
    (void)state;
    static const long n[] = {1, 33, 64, 117, 530, 1100}, k[] = {1, 31, 256, 530, 3100}, groups[] = {32, 64, 128};
    bs_pool *pool = bs_pool_open(2, NULL);
    assert_non_null(pool);
    for (int t = 0; t < tier_count; t++) {
        kn_work *w = kn_work_open(tiers[t], pool, NULL);
        assert_non_null(w);
        counted = tiers[t];
        for (int m = 1; m <= KN_IN_TURNS; m++)
            times[m] = 0;
        w->fp32.strips = count_strips;
        for (kn_dtype d = KN_F32; d <= KN_I4; d++)
            for (int i = 0; i < (int)(sizeof n / sizeof *n) - SLOW_MACHINE; i++)
                for (int m = 1; m <= KN_IN_TURNS; m++)
                    check_strips(w, d, m, n[i], k[bs_rng_below(&rng, 5)], groups[bs_rng_below(&rng, 3)]);
        for (int m = 1; m <= KN_IN_TURNS && m <= tiers[t]->mr; m++)
            assert_true(times[m] > 0 || w->thirds); /* which take fp32 products before */
        kn_work_close(w);
    }
    bs_pool_close(pool);
}

enum { MANY = 7, BLOCKS = 23, CHUNKS = 112 };

/* All items of a job as threads of one speed would take them in turn. */
typedef struct taking {
    kn_work *w;
    kn_items of;
    atomic_flag begun;
    int times[BLOCKS][CHUNKS + MANY];
    long blocks; /* how often a thread came to another block than its last */
} taking;

static void take_in_turn(void *arg, long begin, long end, int worker)
{
    taking *t = arg;
    (void)begin, (void)end, (void)worker;
    long last[MANY] = {-1, -1, -1, -1, -1, -1, -1}, all = t->of.blocks * t->of.spans * t->of.chunks;
    if (atomic_flag_test_and_set(&t->begun))
        return;
    for (long i = 0; i < all; i++) {
        kn_item item = kn_next_item(t->w, &t->w->worker[i % MANY], t->of);
        t->times[item.block][item.chunk]++;
        t->blocks += item.block != last[i % MANY];
        last[i % MANY] = item.block;
    }
}

/* Whatever there are of blocks and threads, every item is taken once, and nobody goes to and fro between blocks, each of which would be packed anew. */
static void threads_stay_with_their_blocks(void **state)
{
    (void)state;
    static const long sizes[][2] = {{1, 1},  {1, 112}, {2, 56}, {3, 38}, {3, 2},
                                    {6, 19}, {7, 16},  {8, 14}, {23, 5}}; /* blocks, chunks */
    bs_pool *pool = bs_pool_open(MANY, NULL);
    kn_work *w = kn_work_open(tiers[0], pool, NULL);
    assert_non_null(w);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        taking t = {.w = w, .of = kn_cut(sizes[i][0], sizes[i][1], MANY), .begun = ATOMIC_FLAG_INIT};
        assert_true(t.of.spans == 1 || t.of.blocks * t.of.spans <= MANY); /* nobody has to begin two */
        assert_true(t.of.spans > 1 || 2 * t.of.blocks > MANY || sizes[i][1] == 1);
        kn_share_out(w, t.of, take_in_turn, &t);
        for (long b = 0; b < sizes[i][0]; b++)
            for (long c = 0; c < sizes[i][1]; c++)
                assert_int_equal(t.times[b][c], 1);
        if (t.blocks > 2 * MANY + sizes[i][0])
            fail_msg("%ld blocks of %ld chunks: %d threads came to another block %ld times", sizes[i][0], sizes[i][1], MANY,
                     t.blocks);
    }
    kn_work_close(w);
    bs_pool_close(pool);
}

/* The largest products of bytes there are, where 16 bits would saturate. */
static void nothing_saturates(void **state)
{
    (void)state;
    enum { M = 7, N = 35, K = 4097 };
    for (int t = 0; t < tier_count; t++) {
        kn_work *w = kn_work_open(tiers[t], NULL, NULL);
        for (int d = KN_I8; d <= KN_I4; d++) {
            problem p = new_problem(w, (kn_dtype)d, M, N, K, 128, 0);
            int8_t most = d == KN_I8 ? 127 : 7, top = d == KN_I8 ? KN_STEPS_I8 : KN_TOP_I4;
            for (long i = 0; i < (long)N * K; i++)
                p.q[i] = i / K % 2 ? most : d == KN_I8 ? -127 : -8;
            for (long i = 0; i < N * p.groups; i++)
                p.scale[i] = 1;
            for (long i = 0; i < M * p.g.lda; i++)
                ((float *)(uintptr_t)p.g.a)[i] = i / p.g.lda % 2 ? top : -top;
            kn_pack_quantized(w, p.p, p.q, p.scale);
            kn_gemm_run(w, &p.g);
            for (long i = 0; i < M; i++)
                for (long j = 0; j < N; j++)
                    assert_float_equal(p.g.c[i * p.g.ldc + j], (double)K * (i % 2 ? top : -top) * p.q[j * K], 0);
            unfence();
        }
        kn_work_close(w);
    }
}

/* A row with a NaN or an infinity is NaN, its neighbours are not; zeros give zeros; the smallest numbers do no harm. */
static void strange_rows(void **state)
{
    (void)state;
    static const float strange[] = {NAN, INFINITY, -INFINITY, 0, 1e-44f, 3e38f};
    for (int t = 0; t < tier_count; t++) {
        kn_work *w = kn_work_open(tiers[t], NULL, NULL);
        for (int d = KN_BF16; d <= KN_I4; d++)
            for (int s = 0; s < 6; s++) {
                problem p = new_problem(w, (kn_dtype)d, 8, 21, 150, 64, 0);
                float *row = (float *)(uintptr_t)p.g.a + 3 * p.g.lda;
                for (long q = 0; q < p.g.k; q++)
                    row[q] = s < 3 ? row[q] : strange[s] * (s == 5 ? 0 : 1);
                row[77] = strange[s];
                kn_gemm_run(w, &p.g);
                for (long i = 0; i < 8 * p.g.ldc; i++) {
                    bool hit = i / p.g.ldc == 3 && i % p.g.ldc < p.g.n;
                    assert_true(hit && s < 3 ? !isfinite(p.g.c[i]) : isfinite(p.g.c[i]));
                    assert_true(!hit || s != 3 || p.g.c[i] == 0);
                }
                unfence();
            }
        kn_work_close(w);
    }
}

static void quantising_is_to_nearest(void **state)
{
    (void)state;
    for (int d = KN_I8; d <= KN_I4; d++)
        for (int i = 0; i < 20; i++) {
            long n = 3, k = 1 + bs_rng_below(&rng, 200), group = 32, groups = d == KN_I8 ? 1 : (k + group - 1) / group;
            float *x = random_floats(n * (k + 2), 1), *scale = fence((size_t)(n * groups) * sizeof *scale, sizeof *scale);
            int8_t *q = fence((size_t)(n * k), 1);
            memset(x + k + 2, 0, (size_t)k * sizeof *x);
            kn_quantize((kn_dtype)d, n, k, d == KN_I8 ? 0 : group, x, k + 2, q, scale);
            for (long j = 0; j < n * k; j++) {
                float s = scale[j / k * groups + (d == KN_I8 ? 0 : j % k / group)];
                assert_true(fabs(x[j / k * (k + 2) + j % k] - (double)q[j] * s) <= 0.50001 * s);
                assert_true(abs(q[j]) <= (d == KN_I8 ? 127 : 7));
                assert_true(j / k != 1 || s == 0);
            }
            unfence();
        }
}

/* ---- speed -------------------------------------------------------------------------------------------- */

typedef struct bench {
    kn_work *w;
    kn_gemm g;
    kn_packed *p; /* weights that follow one another in memory */
    int count;
    const uint8_t *data;
    size_t bytes;
    uint64_t seen;
} bench;

enum { PIECE = 1 << 16 };

static void read_pieces(void *arg, long begin, long end, int worker)
{
    bench *b = arg;
    (void)worker;
    uint64_t sum[4] = {0};
    for (long i = begin; i < end; i++)
        for (const uint8_t *p = b->data + i * PIECE; p < b->data + (i + 1) * PIECE; p += 32) {
            uint64_t x[4];
            memcpy(x, p, sizeof x);
            for (int j = 0; j < 4; j++)
                sum[j] += x[j];
        }
    b->seen |= sum[0] + sum[1] + sum[2] + sum[3];
}

static double read_all(bench *b)
{
    double start = bs_now();
    bs_pool_for(kn_work_pool(b->w), (long)(b->bytes / PIECE), 4, read_pieces, b);
    return bs_now() - start;
}

static double multiply_all(bench *b)
{
    double start = bs_now();
    for (int i = 0; i < b->count; i++) {
        b->g.packed = &b->p[i];
        kn_gemm_run(b->w, &b->g);
    }
    return bs_now() - start;
}

/* One row by weights of more than 256 MB in turn, beside plain reading of the same bytes. */
static void bench_reading(kn_work *w, kn_dtype dtype, long m, long n, long k, long group)
{
    enum { BYTES = 300 << 20, ROUNDS = 5 };
    size_t each = kn_packed_bytes(kn_work_table(w), dtype, n, k, group);
    bench b = {.w = w, .count = (int)(BYTES / each) + 1};
    b.bytes = each * (size_t)b.count;
    uint8_t *data = bs_alloc(b.bytes, "weights", NULL);
    float *x = calloc((size_t)(n * k), sizeof *x), *a = calloc((size_t)(m * k), sizeof *a),
          *c = calloc((size_t)(m * n), sizeof *c);
    b.p = calloc((size_t)b.count, sizeof *b.p);
    for (long i = 0; i < n * k; i++)
        x[i] = bs_rng_range(&rng, -1, 1);
    for (long i = 0; i < m * k; i++)
        a[i] = bs_rng_range(&rng, -1, 1);
    for (int i = 0; i < b.count; i++) {
        b.p[i] = (kn_packed){dtype, n, k, group, data + each * (size_t)i};
        if (i == 0)
            kn_pack_weight(w, &b.p[i], x, k);
        else
            memcpy(b.p[i].data, data, each);
    }
    b.data = data;
    b.g = (kn_gemm){.m = m, .n = n, .k = k, .a = a, .lda = k, .c = c, .ldc = n, .alpha = 1};
    double reading = 1e9, multiplying = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        reading = fmin(reading, read_all(&b));
        multiplying = fmin(multiplying, multiply_all(&b));
    }
    printf("%-8s %-4s group %3ld m %ld n %ld k %ld: %5.1f GB/s of %5.1f read, %5.1f%%\n", kn_work_table(w)->name, names[dtype],
           group, m, n, k, (double)b.bytes / multiplying * 1e-9, (double)b.bytes / reading * 1e-9, 100 * reading / multiplying);
    fflush(stdout);
    free(x), free(a), free(c), free(b.p);
    bs_free(data);
}

static void bench_products(kn_work *w, long m, long n, long k)
{
    enum { ROUNDS = 12 };
    float *x = calloc((size_t)(n * k), sizeof *x), *a = calloc((size_t)(m * k), sizeof *a),
          *c = calloc((size_t)(m * n), sizeof *c);
    kn_packed p[4];
    double best[4] = {1e9, 1e9, 1e9, 1e9};
    for (long i = 0; i < n * k; i++)
        x[i] = bs_rng_range(&rng, -1, 1);
    for (long i = 0; i < m * k; i++)
        a[i] = bs_rng_range(&rng, -1, 1);
    for (int d = KN_F32; d <= KN_I4; d++) {
        p[d] = (kn_packed){(kn_dtype)d, n, k, d == KN_I4 ? 64 : 0, NULL};
        p[d].data = bs_alloc(kn_packed_bytes(kn_work_table(w), (kn_dtype)d, n, k, p[d].group), "a weight", NULL);
        kn_pack_weight(w, &p[d], x, k);
    }
    for (int r = 0; r < ROUNDS; r++)
        for (int d = KN_F32; d <= KN_I4; d++) {
            kn_gemm g = {.m = m, .n = n, .k = k, .a = a, .lda = k, .c = c, .ldc = n, .alpha = 1, .packed = &p[d]};
            double start = bs_now();
            kn_gemm_run(w, &g);
            best[d] = fmin(best[d], bs_now() - start);
        }
    printf("%-8s m %4ld n %4ld k %4ld:", kn_work_table(w)->name, m, n, k);
    for (int d = KN_F32; d <= KN_I4; d++) {
        printf("  %s %7.3f ms %5.1f GMAC/s %.2fx", names[d], best[d] * 1e3, (double)m * (double)n * (double)k / best[d] * 1e-9,
               best[KN_F32] / best[d]);
        bs_free(p[d].data);
    }
    printf("\n");
    fflush(stdout);
    free(x), free(a), free(c);
}

static int run_bench(int threads, const char *what)
{
    static const long sides[][2] = {{768, 768}, {2304, 768}, {3072, 768}, {768, 3072}};
    bs_pool *pool = bs_pool_open(threads, NULL);
    kn_work *w = kn_work_open(tiers[tier_count - 1], pool, NULL);
    printf("%d threads\n", threads);
    for (long m = 1; m <= 4 && !strcmp(what, "read"); m += 3) {
        bench_reading(w, KN_BF16, m, 4096, 4096, 0);
        bench_reading(w, KN_I8, m, 4096, 4096, 0);
        for (long group = 32; group <= 128; group *= 2)
            bench_reading(w, KN_I4, m, 4096, 4096, group);
        bench_reading(w, KN_I8, m, 3072, 768, 0);
        bench_reading(w, KN_I4, m, 3072, 768, 32);
    }
    static const long rows[] = {8, 50, 400, 1600};
    for (int r = 0; r < 4 && strcmp(what, "read"); r++)
        for (int s = 0; s < 4; s++)
            bench_products(w, rows[r], sides[s][0], sides[s][1]);
    kn_work_close(w);
    bs_pool_close(pool);
    return 0;
}

int main(int argc, char **argv)
{
    const char *given = getenv("OCELLI_SEED");
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)(bs_now() * 1e6);
    bs_rng_seed(&rng, seed, 1);
    tiers = kn_all(&tier_count);
    if (argc > 2 && !strcmp(argv[1], "--bench"))
        return run_bench(atoi(argv[2]), argc > 3 ? argv[3] : "");
    print_message("# seed %llu (OCELLI_SEED repeats it)\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(integers_are_the_same_on_every_tier),
        cmocka_unit_test(widened_weights_are_fp32),
        cmocka_unit_test(bits_are_kept),
        cmocka_unit_test(nothing_saturates),
        cmocka_unit_test(strange_rows),
        cmocka_unit_test(quantising_is_to_nearest),
        cmocka_unit_test(strips_at_once_keep_their_bits),
        cmocka_unit_test(threads_stay_with_their_blocks),
    };
    return cmocka_run_group_tests_name("low", tests, NULL, NULL);
}
