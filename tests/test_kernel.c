/* test_kernel.c - the checker: every tier of this CPU against truth in double precision, and against generic C where bits must be
 * equal; `test_kernel --bench` times the same functions.
 *
 * Arrays end at a page that cannot be touched and begin behind a canary, so a read or a write out of bounds is seen.
 * Sums of random-signed numbers are held within (4 + sqrt(K)) 2^-24 sum |a b|: a bound that grew as K would let a kernel drop an
 * element unseen. Small integers must come out exactly. The seed is printed; OCELLI_SEED repeats a run. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernel/kernel.h"

/* The thread sanitizer slows everything down twentyfold: it sees only what uses threads. */
#if defined(__SANITIZE_THREAD__)
enum { ONLY_THREADS = 1 };
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
enum { ONLY_THREADS = 1 };
#else
enum { ONLY_THREADS = 0 };
#endif
#else
enum { ONLY_THREADS = 0 };
#endif

/* An emulator is a hundred times slower: the fastest tier alone is held against truth (generic C is the same code everywhere), and what only
 * the portable loops would notice is left out. Of the forms of a problem every third is tried there and under a sanitizer, where large problems are the fastest tier's alone. */
#if defined(EMULATED)
enum { SLOW_MACHINE = 1, EACH_FORM = 3, SANITIZED = 0 };
#elif defined(__SANITIZE_ADDRESS__)
enum { SLOW_MACHINE = 0, EACH_FORM = 3, SANITIZED = 1 };
#else
enum { SLOW_MACHINE = 0, EACH_FORM = 1, SANITIZED = 0 };
#endif

static bs_rng rng;
static uint64_t seed;
static const kn_table *const *tiers;
static int tier_count;

/* Which thread does what is the same on every tier: the fastest serves where only that is looked at. */
#define EACH_TIER(t) \
    for (int tier_ = ONLY_THREADS || SLOW_MACHINE ? tier_count - 1 : 0; tier_ < tier_count && (t = tiers[tier_]); tier_++)
#define ULP 0x1p-24

/* ---- fenced memory ------------------------------------------------------------------------------------ */

enum { MAX_FENCED = 512, CANARY = 0xa5 };
typedef struct fenced {
    uint8_t *map, *data;
    size_t mapped;
} fenced;
static fenced fences[MAX_FENCED];
static int fence_count;

static void *fence(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + 64 + page - 1) / page * page;
    assert_true(fence_count < MAX_FENCED);
    uint8_t *map = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map + body, page, PROT_NONE), 0);
    fences[fence_count] = (fenced){map, map + body - bytes, body + page};
    memset(map, CANARY, body);
    return fences[fence_count++].data;
}

static float *floats(long n) { return fence((size_t)n * sizeof(float)); }

/* Looks at every canary and gives all fenced memory back. */
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

/* ---- inputs and comparisons --------------------------------------------------------------------------- */

static float *random_floats(long n, float lo, float hi)
{
    float *x = floats(n);
    for (long i = 0; i < n; i++)
        x[i] = bs_rng_range(&rng, lo, hi);
    return x;
}

static float *integers(long n)
{
    float *x = floats(n);
    for (long i = 0; i < n; i++)
        x[i] = (float)(int)bs_rng_below(&rng, 9) - 4;
    return x;
}

static float *zeros(long n)
{
    float *x = floats(n);
    memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

static float *copy_of(const float *x, long n)
{
    float *y = floats(n);
    memcpy(y, x, (size_t)n * sizeof *x);
    return y;
}

static void same_bits(const char *tier, const char *what, const float *a, const float *b, long n)
{
    for (long i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a))
            fail_msg("%s, %s: element %ld is %.9g, not %.9g (seed %llu)", tier, what, i, a[i], b[i], (unsigned long long)seed);
}

static void near(const char *tier, const char *what, long i, double got, double want, double bound)
{
    if (!(fabs(got - want) <= bound) && !(isnan(got) && isnan(want)) && !(isinf(want) && got == want))
        fail_msg("%s, %s: element %ld is %.9g, not %.9g, off by %.3g where %.3g is allowed (seed %llu)", tier, what, i, got, want,
                 fabs(got - want), bound, (unsigned long long)seed);
}

#include "beside.h"

/* Lengths round the widths of vectors and unrolled loops. */
static const long lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 255, 300, 1023};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

/* ---- which tiers -------------------------------------------------------------------------------------- */

static void tiers_are_found(void **state)
{
    (void)state;
#if defined(__aarch64__)
    static const char *const all[] = {"generic", "neon"};
#else
    static const char *const all[] = {"generic", "avx2", "avx512", "amx"};
#endif
    assert_string_equal(tiers[0]->name, "generic");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        bool found = false;
        for (int j = 0; j < tier_count; j++)
            found = found || !strcmp(all[i], tiers[j]->name);
        setenv("OCELLI_CPU", all[i], 1);
        oc_err err = {0};
        const kn_table *t = kn_best(&err);
        bool left_out = SLOW_MACHINE && i == 0;
        print_message(left_out ? "# tier %s: not checked by emulation\n"
                      : found  ? "# tier %s: checked\n"
                               : "# *** TIER %s DID NOT RUN: THIS CPU LACKS IT ***\n",
                      all[i]);
        assert_true(found == (t != NULL));
        assert_true(found || strstr(err.text, all[i]));
        assert_true(!found || !strcmp(t->name, all[i]));
    }
    setenv("OCELLI_CPU", "abacus", 1);
    oc_err err = {0};
    assert_null(kn_best(&err));
    assert_non_null(strstr(err.text, "abacus"));
    unsetenv("OCELLI_CPU");
    assert_ptr_equal(kn_best(NULL), tiers[tier_count - 1]);
}

/* ---- micro-kernel and packing ------------------------------------------------------------------------- */

/* Integers in operands with strides of their own; ld beyond n shows writes into a neighbour. */
static void check_tile(const kn_table *t, int m, int n, long k, int kind)
{
    bool accumulate = kind == 1, bias = kind == 2;
    long sa = m + 3, sb = n + 1, ldc = n + 2;
    float *a = integers(k ? (k - 1) * sa + m : 0), *b = integers(k ? (k - 1) * sb + n : 0), *c = integers((m - 1) * ldc + n);
    float *old = copy_of(c, (m - 1) * ldc + n), *row = integers(n);
    t->gemm_tile(k, a, sa, b, sb, c, ldc, m, n, -2,
                 accumulate ? c
                 : bias     ? row
                            : NULL,
                 accumulate ? ldc : 0, b, (long)bs_rng_below(&rng, 2) * n);
    for (long i = 0; i < (m - 1) * ldc + n; i++) {
        double want = old[i];
        if (i % ldc < n) {
            double s = 0;
            for (long p = 0; p < k; p++)
                s += a[p * sa + i / ldc] * b[p * sb + i % ldc];
            want = (accumulate ? want : bias ? row[i % ldc] : 0) - 2 * s;
        }
        near(t->name, "tile", i, c[i], want, 0);
    }
    unfence();
}

static void tiles_are_exact(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int m = 1; m <= t->mr; m++)
            for (int n = 1; n <= t->nr; n++)
                check_tile(t, m, n, (m * n) % 5 * 3, (m + n) % 3);
}

static void check_pack(const kn_table *t, long k, long w, long width, bool transpose)
{
    long ld = (transpose ? k : w) + (long)bs_rng_below(&rng, 3), rows = transpose ? w : k;
    float *x = random_floats((rows - 1) * ld + (transpose ? k : w), -1, 1), *p = floats((w + width - 1) / width * k * width);
    t->pack(k, w, width, x, ld, transpose, p);
    for (long q = 0; q < k; q++)
        for (long j = 0; j < w; j++)
            near(t->name, "pack", q * width + j, p[(j / width * k + q) * width + j % width],
                 transpose ? x[j * ld + q] : x[q * ld + j], 0);
    unfence();
}

/* Every width round the edges of strips, some between. */
static long next_width(long w, long width)
{
    long in_strip = w % width;
    if (in_strip < 2 || in_strip == width - 1)
        return w + 1;
    return in_strip + width / 3 < width - 1 ? w + width / 3 : w - in_strip + width - 1;
}

static void packing_is_exact(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++)
            for (int transpose = 0; transpose < 2; transpose++) {
                for (long w = 1; w <= 3 * t->mr; w = next_width(w, t->mr))
                    check_pack(t, lengths[i], w, t->mr, transpose);
                for (long width = 1; width < t->mr; width++) /* tiles of even height are lower */
                    check_pack(t, lengths[i], 1 + bs_rng_below(&rng, (uint32_t)(3 * width)), width, transpose);
                for (long w = 1; w <= 3 * t->nr; w = next_width(w, t->nr))
                    check_pack(t, lengths[i], w, t->nr, transpose);
            }
}

/* ---- GEMM --------------------------------------------------------------------------------------------- */

typedef struct problem {
    kn_gemm g;
    float *old; /* C before */
} problem;

static double gelu(double x) { return 0.5 * x * erfc(-x / sqrt(2)); }

/* Rows lie a little apart, so that a stride taken for a width is seen. */
static problem new_problem(long m, long n, long k, int form, bool whole_numbers)
{
    float *(*make)(long) = whole_numbers ? integers : zeros;
    bool ta = form & 1, tb = form & 2;
    long lda = (ta ? m : k) + 1, ldb = (tb ? k : n) + 2, ldc = n + 3;
    float *a = make((ta ? k : m) * lda), *b = make((tb ? n : k) * ldb), *c = make(m * ldc), *bias = make(n),
          *residual = make(m * ldc);
    for (long i = 0; !whole_numbers && i < (ta ? k : m) * lda; i++)
        a[i] = bs_rng_range(&rng, -1, 1);
    for (long i = 0; !whole_numbers && i < (tb ? n : k) * ldb; i++)
        b[i] = bs_rng_range(&rng, -1, 1);
    for (long i = 0; !whole_numbers && i < n; i++)
        bias[i] = bs_rng_range(&rng, -1, 1);
    for (long i = 0; !whole_numbers && i < m * ldc; i++)
        c[i] = bs_rng_range(&rng, -1, 1), residual[i] = bs_rng_range(&rng, -1, 1);
    kn_gemm g = {
        .m = m, .n = n, .k = k, .a = a, .b = b, .lda = lda, .ldb = ldb, .ta = ta, .tb = tb, .c = c, .ldc = ldc, .alpha = 1};
    g.bias = form & 4 ? bias : NULL;
    g.residual = form & 8 ? residual : NULL;
    g.accumulate = form & 16;
    g.alpha = form & 32 ? -0.5f : 1;
    g.act = form & 64 ? (whole_numbers ? KN_RELU : KN_GELU) : KN_NONE;
    g.bf16 = form & 128; /* small integers are bf16 numbers, so exactness is still demanded */
    return (problem){g, copy_of(c, m * ldc)};
}

static void check_problem(const char *tier, const problem *p, bool exact)
{
    const kn_gemm *g = &p->g;
    for (long i = 0; i < g->m; i++)
        for (long j = 0; j < g->ldc; j++) {
            long at = i * g->ldc + j;
            double s = 0, size = 0;
            for (long q = 0; j < g->n && q < g->k; q++) {
                double ab = (double)(g->ta ? g->a[q * g->lda + i] : g->a[i * g->lda + q]) *
                            (g->tb ? g->b[j * g->ldb + q] : g->b[q * g->ldb + j]);
                s += ab;
                size += fabs(ab);
            }
            double want = (g->accumulate ? p->old[at] : 0) + g->alpha * s;
            double bound =
                (4 + sqrt((double)g->k)) * ULP * (size + 2 * (g->accumulate || g->bias)) + (g->bf16 ? 0x1p-8 * size : 0);
            if (g->bias && j < g->n)
                want += g->bias[j];
            if (g->act == KN_GELU)
                want = gelu(want), bound = 1.13 * bound + 4e-7 * fmax(1, fabs(want));
            if (g->act == KN_RELU)
                want = want < 0 ? 0 : want;
            if (g->residual)
                want += g->residual[at], bound += 2 * ULP * fabs(want);
            near(tier, "gemm", at, g->c[at], j < g->n ? want : p->old[at], j >= g->n || exact ? 0 : bound);
        }
}

static const long shapes[][3] = {
    {1, 1, 1},     {1, 40, 17},    {5, 1, 9},      {2, 3, 0},       {13, 31, 65},  {14, 32, 256}, {15, 33, 257},
    {50, 96, 130}, {65, 65, 64},   {6, 16, 12},    {40, 70, 47},    {33, 64, 272}, {7, 17, 513},  {225, 33, 20},
    {300, 70, 40}, {145, 129, 70}, {29, 600, 300}, {230, 47, 1300}, {1, 100, 224}, {1, 33, 3300},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void gemm_is_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        kn_work *w = kn_work_open(t, NULL, NULL);
        assert_non_null(w);
        for (int s = 0; s < SHAPES; s++)
            for (int form = 0; form < 16; form += EACH_FORM) {
                bool exact = form & 4;
                int more = 4 * (int)bs_rng_below(&rng, 32) + 128 * (form >> 3);
                problem p = new_problem(shapes[s][0], shapes[s][1], shapes[s][2], (form & 3) + more, exact);
                kn_gemm_run(w, &p.g);
                check_problem(t->name, &p, exact);
                unfence();
            }
        kn_work_close(w);
    }
}

/* The same product by other numbers of threads, and one row at a time. */
static void check_gemm_bits(const kn_table *t, kn_work *const *w, int works, long m, long n, long k, int form)
{
    problem p = new_problem(m, n, k, form, false);
    kn_gemm g = p.g;
    kn_gemm_run(w[0], &g);
    for (int i = 1; i < works; i++) {
        g.c = copy_of(p.old, m * g.ldc);
        kn_gemm_run(w[i], &g);
        same_bits(t->name, "gemm by threads", g.c, p.g.c, m * g.ldc);
    }
    long row = bs_rng_below(&rng, (uint32_t)m);
    g.m = 1;
    g.a += row * (g.ta ? 1 : g.lda);
    g.c = copy_of(p.old + row * g.ldc, n);
    g.residual = g.residual ? g.residual + row * g.ldc : NULL;
    kn_gemm_run(w[0], &g);
    same_bits(t->name, "a row of gemm alone", g.c, p.g.c + row * g.ldc, n);
    unfence();
}

/* As kn_pack_weight, from a copy that lies turned, in pieces. */
static void pack_turned(kn_work *w, const kn_packed *p, const float *x, long ld)
{
    float *turned = fence((size_t)(p->k * (p->n + 3)) * sizeof(float));
    for (long i = 0; i < p->k; i++)
        for (long j = 0; j < p->n; j++)
            turned[i * (p->n + 3) + j] = x[j * ld + i];
    for (long first = 0; first < p->n; first += KN_PACK_STEP)
        kn_pack_turned(w, p, first, p->n - first < KN_PACK_STEP ? p->n - first : KN_PACK_STEP, turned + first, p->n + 3, NULL);
}

/* A weight packed once gives the bits of the one it was packed from. */
static void check_packed(const kn_table *t, kn_work *const *w, int works, long m, long n, long k, int form)
{
    problem p = new_problem(m, n, k, (form | 2) & ~128, false);
    kn_gemm g = p.g;
    kn_packed weight = {.dtype = KN_F32, .n = n, .k = k};
    kn_gemm_run(w[0], &g);
    for (int i = 0; i < works; i++) {
        weight.data = fence(kn_packed_bytes(t, KN_F32, n, k, 0));
        if (i % 2)
            pack_turned(w[i], &weight, g.b, g.ldb);
        else
            kn_pack_weight(w[i], &weight, g.b, g.ldb);
        kn_gemm h = g;
        h.b = NULL, h.ldb = 0, h.tb = false, h.packed = &weight;
        h.c = copy_of(p.old, m * g.ldc);
        kn_gemm_run(w[i], &h);
        same_bits(t->name, "gemm of a packed weight", h.c, g.c, m * g.ldc);
    }
    kn_packed other = {.dtype = KN_F32, .n = n, .k = k, .data = fence(kn_packed_bytes(t, KN_F32, n, k, 0))};
    float *numbers = copy_of(g.b, n * g.ldb);
    for (long i = 0; i < n * g.ldb; i++)
        numbers[i] = bs_rng_range(&rng, -1, 1);
    kn_pack_weight(w[0], &other, numbers, g.ldb);
    g.packed = &weight;
    check_beside(t, w, works, &g, &other, p.old);
    unfence();
}

/* ---- fp32 products by AMX: each number as three of bf16 --------------------------------------------------- */

static float next_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u = (u + 0x8000) & 0xffff0000;
    memcpy(&x, &u, sizeof x);
    return x;
}

typedef struct parts {
    float part[3];
} parts;

static parts parts_of(float x)
{
    parts s = {{next_bf16(x)}};
    s.part[1] = next_bf16(x - s.part[0]);
    s.part[2] = x - s.part[0] - s.part[1];
    return s;
}

/* Plain C: for 32 of k after another six products, each summed from 0 over the first 16 and the other 16 apart. */
static float sum_of_parts(const kn_gemm *g, long i, long j)
{
    static const int order[6][2] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 2}, {0, 0}};
    float sum = 0;
    for (long p = 0; p < g->k; p += 32)
        for (int n = 0; n < 6; n++) {
            float half[2] = {0, 0};
            for (long q = p; q < p + 32 && q < g->k; q++) {
                parts a = parts_of(g->a[i * g->lda + q]), b = parts_of(g->b[j * g->ldb + q]);
                half[(q - p) / 16] = fmaf(a.part[order[n][0]], b.part[order[n][1]], half[(q - p) / 16]);
            }
            float both = half[0] + half[1];
            sum += both;
        }
    return sum;
}

static void check_thirds(const kn_table *t, kn_work *w, long m, long n, long k)
{
    problem p = new_problem(m, n, k, 2, false);
    float *a = (float *)(uintptr_t)p.g.a;
    for (long i = 0; i < m * p.g.lda; i++) /* of very different size, by powers of two so that bits stay theirs */
        a[i] = ldexpf(a[i], (int)bs_rng_below(&rng, 40) - 20);
    kn_packed weight = {.dtype = KN_F32, .n = n, .k = k, .data = fence(kn_packed_bytes(t, KN_F32, n, k, 0))};
    kn_pack_weight(w, &weight, p.g.b, p.g.ldb);
    kn_gemm packed = p.g;
    packed.packed = &weight;
    packed.c = copy_of(p.old, m * p.g.ldc);
    kn_gemm_run(w, &p.g);
    kn_gemm_run(w, &packed);
    same_bits(t->name, "thirds of a packed weight", packed.c, p.g.c, m * p.g.ldc);
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j++) {
            float want = sum_of_parts(&p.g, i, j);
            same_bits(t->name, "thirds", p.g.c + i * p.g.ldc + j, &want, 1);
        }
    unfence();
}

/* Three parts are the number, and AMX adds as plain C does; where the CPU lacks it no tier is called so. */
static void thirds_have_the_bits_of_plain_c(void **state)
{
    (void)state;
    static const long sizes[][3] = {{1, 5, 32},   {1, 70, 224},  {2, 33, 65},   {17, 64, 100},
                                    {33, 40, 95}, {70, 96, 160}, {150, 65, 300}};
    for (int i = 0; i < 1000; i++) { /* what thirds.h says */
        float x = ldexpf(bs_rng_range(&rng, -1, 1), (int)bs_rng_below(&rng, 60) - 30);
        parts s = parts_of(x);
        assert_true((double)s.part[0] + s.part[1] + s.part[2] == x && next_bf16(s.part[2]) == s.part[2]);
    }
    const kn_table *t;
    EACH_TIER (t) {
        if (strcmp(t->name, "amx") != 0)
            continue;
        kn_work *w = kn_work_open(t, NULL, NULL);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_thirds(t, w, sizes[i][0], sizes[i][1], sizes[i][2]);
        kn_work_close(w);
    }
}

static void check_not_finite(kn_work *w, const kn_gemm *g, long row, long column)
{
    kn_gemm_run(w, g);
    for (long i = 0; i < g->m; i++)
        for (long j = 0; j < g->n; j++)
            assert_int_equal(!isfinite(g->c[i * g->ldc + j]), i == row || j == column);
}

/* One such number `at` of k, in a row of A (its last) or in row 7 of B's, which are columns of C. */
static void check_bad_number(const kn_table *t, kn_work *w, long m, bool in_a, long at, uint32_t bits)
{
    enum { N = 40, K = 96, COLUMN = 7 };
    problem p = new_problem(m, N, K, 2, false);
    float *x = (float *)(uintptr_t)(in_a ? p.g.a + (m - 1) * p.g.lda : p.g.b + COLUMN * p.g.ldb);
    memcpy(x + at, &bits, sizeof bits);
    kn_packed weight = {.dtype = KN_F32, .n = N, .k = K, .data = fence(kn_packed_bytes(t, KN_F32, N, K, 0))};
    kn_pack_weight(w, &weight, p.g.b, p.g.ldb);
    long row = in_a ? m - 1 : -1, column = in_a ? -1 : COLUMN;
    check_not_finite(w, &p.g, row, column);
    p.g.packed = &weight;
    check_not_finite(w, &p.g, row, column);
    unfence();
}

/* NaN and what is infinite are never lost in a product, on any tier. */
static void what_is_not_finite_is_seen(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0x7fc00000, 0x7fffffff, 0xffffffff, 0x7f800001, 0x7f800000, 0xff800000};
    const kn_table *t;
    EACH_TIER (t) {
        kn_work *w = kn_work_open(t, NULL, NULL);
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
            for (int how = 0; how < 8; how++)
                check_bad_number(t, w, how & 1 ? 3 : 1, how & 2, how & 4 ? 50 : 35, bad[i]);
        kn_work_close(w);
    }
}

/* Numbers that are as good as 0 for some units of a CPU: a row has the same bits alone and with another, packed or not. */
static void small_numbers_keep_their_bits(void **state)
{
    (void)state;
    enum { N = 64, K = 64 };
    static const uint32_t small[] = {0x007fc000, 0x04807fe0, 0x007fffff, 0x00000001, 0x80000000, 0x0480ffff, 0x80ffffff};
    const kn_table *t;
    EACH_TIER (t) {
        kn_work *w = kn_work_open(t, NULL, NULL);
        problem p = new_problem(2, N, K, 2, false);
        float *a = (float *)(uintptr_t)p.g.a, *b = (float *)(uintptr_t)p.g.b;
        for (long i = 0; i < 2 * p.g.lda; i++)
            a[i] = ldexpf(a[i], 100);
        for (long j = 0; j < N; j++)
            for (long q = 0; q < K; q++)
                if (bs_rng_below(&rng, 2))
                    memcpy(b + j * p.g.ldb + q, &small[bs_rng_below(&rng, sizeof small / sizeof *small)], sizeof *small);
                else
                    b[j * p.g.ldb + q] = ldexpf(b[j * p.g.ldb + q], -105 - (int)bs_rng_below(&rng, 30));
        kn_packed weight = {.dtype = KN_F32, .n = N, .k = K, .data = fence(kn_packed_bytes(t, KN_F32, N, K, 0))};
        kn_pack_weight(w, &weight, p.g.b, p.g.ldb);
        kn_gemm_run(w, &p.g);
        for (int how = 1; how < 4; how++) {
            kn_gemm g = p.g;
            g.m = how & 1 ? 1 : 2;
            g.packed = how & 2 ? &weight : NULL;
            g.c = copy_of(p.old, 2 * g.ldc);
            kn_gemm_run(w, &g);
            same_bits(t->name, "small numbers", g.c, p.g.c, g.m * g.ldc - (g.ldc - N));
        }
        unfence();
        kn_work_close(w);
    }
}

static const int thread_counts[] = {1, 2, 3, 7};

static void open_works(const kn_table *t, bs_pool *pool[4], kn_work *w[4])
{
    for (int i = 0; i < 4; i++) {
        pool[i] = bs_pool_open(thread_counts[i], NULL);
        w[i] = kn_work_open(t, pool[i], NULL);
        assert_true(pool[i] && w[i] && kn_work_pool(w[i]) == pool[i] && kn_work_table(w[i]) == t);
        assert_true(kn_work_bytes(w[i]) > 0);
    }
}

static void close_works(bs_pool *pool[4], kn_work *w[4])
{
    for (int i = 0; i < 4; i++) {
        kn_work_close(w[i]);
        bs_pool_close(pool[i]);
    }
}

/* With every number of threads. */
static void on_every_tier(void (*check)(const kn_table *t, kn_work *const w[4]))
{
    const kn_table *t;
    EACH_TIER (t) {
        bs_pool *pool[4];
        kn_work *w[4];
        open_works(t, pool, w);
        check(t, w);
        close_works(pool, w);
    }
}

static void gemm_keeps_its_bits_here(const kn_table *t, kn_work *const w[4])
{
    for (int s = 0; s < SHAPES; s++)
        for (int form = 0; form < 4; form += EACH_FORM)
            check_gemm_bits(t, w, 4, shapes[s][0], shapes[s][1], shapes[s][2], form + 4 * (int)bs_rng_below(&rng, 64));
    for (int s = 0; s < SHAPES; s++)
        for (int i = 0; i < (EACH_FORM > 1 ? 2 : 4); i++)
            check_packed(t, w, 4, shapes[s][0], shapes[s][1], shapes[s][2], 4 * (int)bs_rng_below(&rng, 32) + (i & 1));
    if (!SLOW_MACHINE && (!SANITIZED || t == tiers[tier_count - 1])) {
        check_packed(t, w, 4, 500, 700, 1100, 4 + 64);
        check_packed(t, w, 4, 3, 70, 6200, 4 + 8);
        check_packed(t, w, 4, 1, 64, 6176, 16);
        check_packed(t, w, 4, 1345, 64, 3072, 4 + 8); /* more rows than come together */
        check_gemm_bits(t, w, 4, 33, 520, 95, 1);
        check_gemm_bits(t, w, 4, 600, 2100, 1100, 2);         /* more than one stretch of k */
        check_gemm_bits(t, w, 4, 520, 4200, 300, 2);          /* more than one panel of B */
        for (int form = 1 + 16 + 32; form < 256; form += 128) /* blocks of A that are packed as one; in bf16 too */
            check_gemm_bits(t, w, 4, 1210, 133, 1296, form);
        check_gemm_bits(t, w, 4, 300, 600, 5000, 1);
        check_gemm_bits(t, w, 4, 40L * t->mc + 3, 70, 9, 2); /* many blocks of rows */
    }
    check_gemm_bits(t, w, 4, 290, 333, 800, 128 + 16 + 32);
    check_gemm_bits(t, w, 4, 290, 333, 800, 128 + 16 + 2);
}

static void gemm_keeps_its_bits(void **state)
{
    (void)state;
    on_every_tier(gemm_keeps_its_bits_here);
}

/* ---- functions of one number -------------------------------------------------------------------------- */

static double act_truth(kn_act f, double x)
{
    switch (f) {
    case KN_GELU: return gelu(x);
    case KN_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case KN_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case KN_SILU: return x / (1 + exp(-x));
    case KN_RELU: return x < 0 ? 0 : x;
    case KN_TANH: return tanh(x);
    case KN_NONE: break;
    }
    return x;
}

static double slope_truth(kn_act f, double x)
{
    double s, u = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
    switch (f) {
    case KN_GELU: return 0.5 * erfc(-x / sqrt(2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case KN_GELU_TANH:
        return 0.5 * (1 + tanh(u)) + 0.5 * x * (1 - tanh(u) * tanh(u)) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
    case KN_QUICK_GELU: s = 1 / (1 + exp(-1.702 * x)); return s + 1.702 * x * s * (1 - s);
    case KN_SILU: s = 1 / (1 + exp(-x)); return s + x * s * (1 - s);
    case KN_RELU: return x > 0;
    case KN_TANH: return 1 - tanh(x) * tanh(x);
    case KN_NONE: break;
    }
    return 1;
}

static float *act_inputs(long n)
{
    static const float edges[] = {0, -0.0f, 1e-30f, -1e-30f, 1e-7f, -1e-7f, 3, -3, 5.5f, -5.5f, 13, -13, 60, -60, 1000, -1000};
    float *x = random_floats(n, -8, 8);
    for (long i = 0; i < n && n > 100 && i < (long)(sizeof edges / sizeof *edges); i++)
        x[i * 5] = edges[i];
    return x;
}

static void check_act(const kn_table *t, kn_act f, long n)
{
    float *x = act_inputs(n), *y = floats(n), *dy = random_floats(n, -1, 1), *dx = random_floats(n, -1, 1), *old = copy_of(dx, n);
    t->act(f, n, x, y);
    t->act_backward(f, n, x, dy, dx);
    float *in_place = copy_of(x, n);
    t->act(f, n, in_place, in_place);
    same_bits(t->name, "activation in place", in_place, y, n);
    for (long i = 0; i < n; i++) {
        double want = act_truth(f, x[i]), slope = slope_truth(f, x[i]);
        near(t->name, "activation", i, y[i], want, 4e-7 * fabs(want) + 1e-7 * fmin(1, fabs(x[i])));
        near(t->name, "its slope", i, dx[i], old[i] + slope * dy[i], 1e-6);
    }
    x[n / 2] = NAN;
    t->act(f, n, x, y);
    assert_true(isnan(y[n / 2]));
    unfence();
}

static void activations_are_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (kn_act f = KN_NONE; f <= KN_TANH; f++)
            for (int i = 0; i < LENGTHS; i++)
                check_act(t, f, lengths[i]);
}

/* Within two units of the last place of exp's result, and 0 where that is hardly normal; down columns, of numbers up to 0, to the same bits. */
static void exp_is_right(void **state)
{
    (void)state;
    enum { N = 100003 };
    const kn_table *t;
    EACH_TIER (t) {
        float *x = random_floats(N, -104, 89), *y = floats(N);
        for (int i = 0; i < N / 2; i++)
            x[i] = bs_rng_range(&rng, -2, 2);
        x[7] = -INFINITY, x[8] = -200, x[9] = 0, x[10] = NAN, x[11] = 100, x[12] = INFINITY;
        t->exp_shift(N, x, 0, y);
        for (long i = 0; i < N; i++) {
            double want = x[i] < -87 ? 0 : exp(x[i]);
            near(t->name, "exp", i, y[i], want > 3.4028235677973366e38 ? INFINITY : want, fmax(want * 0x1p-23 * 1.2, 0x1p-149));
        }
        assert_true(y[7] == 0 && y[9] == 1 && isnan(y[10]));
        float *below = copy_of(x, N), *no_shift = zeros(N), *sums = zeros(N);
        for (long i = 0; i < N; i++)
            below[i] = x[i] > 0 ? -x[i] : x[i];
        t->exp_shift(N, below, 0, y);
        t->exp_columns(1, N, below, N, no_shift, sums);
        same_bits(t->name, "exp down a column", below, y, N);
        t->exp_shift(N, x, 3, y);
        near(t->name, "exp of a difference", 20, y[20], exp((double)(x[20] - 3)), exp(x[20]) * 1e-7);
        unfence();
    }
}

/* ---- element by element ------------------------------------------------------------------------------- */

static void check_elements(const kn_table *t, long n)
{
    float *a = random_floats(n, -1, 1), *b = random_floats(n, -1, 1), *y = floats(n), *old = random_floats(n, -1, 1),
          *z = floats(n);
    t->add(n, a, b, y);
    tiers[0]->add(n, a, b, z);
    same_bits(t->name, "add", y, z, n);
    t->add(n, y, b, y);
    tiers[0]->add(n, z, b, z);
    same_bits(t->name, "add in place", y, z, n);
    t->mul(n, a, b, y);
    tiers[0]->mul(n, a, b, z);
    same_bits(t->name, "mul", y, z, n);
    t->scale(n, 3, a, y);
    tiers[0]->scale(n, 3, a, z);
    same_bits(t->name, "scale", y, z, n);
    memcpy(y, old, (size_t)n * sizeof *y);
    t->mul_add(n, a, b, y);
    for (long i = 0; i < n; i++)
        near(t->name, "mul_add", i, y[i], old[i] + (double)a[i] * b[i], 3 * ULP);
    memcpy(y, old, (size_t)n * sizeof *y);
    t->axpy(n, 0.7f, a, y);
    for (long i = 0; i < n; i++)
        near(t->name, "axpy", i, y[i], old[i] + (double)0.7f * a[i], 3 * ULP);
    unfence();
}

static void check_rotate(const kn_table *t, long half)
{
    float *x = random_floats(2 * half, -1, 1), *c = random_floats(half, -1, 1), *s = random_floats(half, -1, 1),
          *old = random_floats(2 * half, -1, 1), *y = floats(2 * half);
    for (int k = 0; k < 4; k++) {
        double sign = k & 1 ? -1 : 1;
        memcpy(y, old, (size_t)(2 * half) * sizeof *y);
        t->rotate(half, x, c, s, (float)sign, k & 2, y);
        for (long i = 0; i < half; i++) {
            double a = x[i], b = x[i + half], base = k & 2 ? (double)old[i] : 0, base2 = k & 2 ? (double)old[i + half] : 0;
            near(t->name, "rotate", i, y[i], base + a * c[i] - sign * b * s[i], 4 * ULP);
            near(t->name, "rotate", i, y[i + half], base2 + b * c[i] + sign * a * s[i], 4 * ULP);
        }
    }
    float *z = floats(2 * half);
    t->rotate(half, x, c, s, 1, false, z);
    t->rotate(half, x, c, s, 1, false, x);
    same_bits(t->name, "rotate in place", x, z, 2 * half);
    unfence();
}

static void rotations_are_right(void **state)
{
    (void)state;
    for (int t = 0; t < tier_count; t++)
        for (long half = 1; half < 70; half++)
            check_rotate(tiers[t], half);
}

static void angles_are_those_of_libm(void **state)
{
    (void)state;
    enum { HALF = 64, ROWS = 5 };
    double f[HALF];
    float c[ROWS * HALF], s[ROWS * HALF];
    kn_rotary_frequencies(HALF, 500000, f);
    for (int i = 0; i < HALF; i++)
        assert_true(fabs(f[i] / pow(500000, -i / (double)HALF) - 1) < 1e-13);
    for (long first = 0; first < 1000000; first = first * 3 + 7) {
        kn_rotary_angles(ROWS, HALF, first, f, c, s);
        for (int k = 0; k < ROWS * HALF; k++) {
            double x = (double)(first + k / HALF) * f[k % HALF];
            assert_true(fabs(c[k] - cos(x)) < 6.1e-8 && fabs(s[k] - sin(x)) < 6.1e-8);
        }
    }
}

static void elements_are_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++)
            check_elements(t, lengths[i]);
}

static void check_sums(const kn_table *t, long n)
{
    float *a = random_floats(n, -1, 1), *b = random_floats(n, -1, 1), *whole = integers(n);
    double s = 0, ab = 0, sizes = 0, products = 0, squares = 0, w = 0, w2 = 0;
    float most = -INFINITY;
    for (long i = 0; i < n; i++) {
        s += a[i], sizes += fabs(a[i]), ab += (double)a[i] * b[i], products += fabs((double)a[i] * b[i]);
        squares += (double)a[i] * a[i], w += whole[i], w2 += whole[i] * whole[i];
        most = a[i] > most ? a[i] : most;
    }
    near(t->name, "sum", n, t->sum(n, a), s, (4 + sqrt((double)n)) * ULP * sizes);
    near(t->name, "dot", n, t->dot(n, a, b), ab, (4 + sqrt((double)n)) * ULP * products);
    near(t->name, "sum of squares", n, t->sum_squares(n, a), squares, squares * 1e-13);
    near(t->name, "sum of integers", n, t->sum(n, whole), w, 0);
    near(t->name, "dot of integers", n, t->dot(n, whole, whole), w2, 0);
    near(t->name, "max", n, t->max(n, a), most, 0);
    a[bs_rng_below(&rng, (uint32_t)n)] = NAN;
    assert_true(isnan(t->max(n, a)));
    unfence();
}

static void sums_are_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        assert_true(t->sum(0, NULL) == 0 && t->dot(0, NULL, NULL) == 0 && t->max(0, NULL) == -INFINITY);
        for (int i = 0; i < LENGTHS; i++)
            check_sums(t, lengths[i]);
    }
}

static void check_add_rows(const kn_table *t, long rows, long n)
{
    long ld = n + 2;
    float *x = integers((rows - 1) * ld + n), *y = integers(n), *old = copy_of(y, n);
    t->add_rows(rows, n, x, ld, y);
    for (long j = 0; j < n; j++) {
        double s = old[j];
        for (long r = 0; r < rows; r++)
            s += x[r * ld + j];
        near(t->name, "sum of rows", j, y[j], s, 0);
    }
    unfence();
}

static void rows_are_added(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++)
            check_add_rows(t, 1 + i, lengths[i]);
}

/* ---- norms -------------------------------------------------------------------------------------------- */

/* Mean and 1 / deviation of a row in double; RMS norm has mean 0. */
static void row_moments(const float *x, long d, double eps, bool centred, double *mean, double *rstd)
{
    double m = 0, v = 0;
    for (long i = 0; centred && i < d; i++)
        m += x[i] / (double)d;
    for (long i = 0; i < d; i++)
        v += (x[i] - m) * (x[i] - m) / (double)d;
    *mean = m;
    *rstd = 1 / sqrt(v + eps);
}

static void check_norm(const kn_table *t, long rows, long d, bool centred)
{
    float *x = random_floats(rows * d, -1, 3), *w = random_floats(d, -1, 1), *b = random_floats(d, -1, 1);
    float *y = floats(rows * d), *mean = floats(rows), *rstd = floats(rows);
    if (centred)
        t->layer_norm(rows, d, x, w, b, 1e-5f, y, mean, rstd);
    else
        t->rms_norm(rows, d, x, w, 1e-5f, y, rstd);
    for (long r = 0; r < rows; r++) {
        double m, s;
        row_moments(x + r * d, d, 1e-5, centred, &m, &s);
        near(t->name, "1 / deviation", r, rstd[r], s, 1e-6 * s * fmax(1, s));
        if (centred)
            near(t->name, "mean", r, mean[r], m, 5e-7);
        for (long i = 0; i < d; i++)
            near(t->name, "norm", r * d + i, y[r * d + i], (x[r * d + i] - m) * s * w[i] + (centred ? b[i] : 0),
                 2e-6 * fmax(1, s));
    }
    float *z = floats(rows * d);
    if (centred)
        t->layer_norm(rows, d, x, w, NULL, 1e-5f, z, NULL, NULL);
    else
        t->rms_norm(rows, d, x, w, 1e-5f, z, NULL);
    for (long i = 0; i < rows * d; i++)
        near(t->name, "norm without bias", i, z[i], y[i] - (centred ? (double)b[i % d] : 0), 1e-6);
    unfence();
}

static void norms_are_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++) {
            check_norm(t, 3, lengths[i], true);
            check_norm(t, 3, lengths[i], false);
        }
}

/* dx, dw and db in double, from the formulas with moments of their own. */
static void norm_truth(long rows, long d, const float *x, const float *w, const float *mean, const float *rstd, const float *dy,
                       double *dx, double *dw, double *db)
{
    for (long r = 0; r < rows; r++) {
        double g = 0, gx = 0, m = mean ? mean[r] : 0;
        for (long i = 0; i < d; i++) {
            double hat = (x[r * d + i] - m) * rstd[r], up = dy[r * d + i];
            g += mean ? up * w[i] / (double)d : 0;
            gx += up * w[i] * hat / (double)d;
            dw[i] += up * hat;
            db[i] += up;
        }
        for (long i = 0; i < d; i++)
            dx[r * d + i] += rstd[r] * (dy[r * d + i] * w[i] - g - (x[r * d + i] - m) * rstd[r] * gx);
    }
}

typedef void norm_backward(void *how, long rows, long d, const float *x, const float *w, const float *mean, const float *rstd,
                           const float *dy, float *dx, float *dw, float *db);

static void by_table(void *how, long rows, long d, const float *x, const float *w, const float *mean, const float *rstd,
                     const float *dy, float *dx, float *dw, float *db)
{
    const kn_table *t = how;
    if (mean)
        t->layer_norm_backward(rows, d, x, w, mean, rstd, dy, dx, dw, db);
    else
        t->rms_norm_backward(rows, d, x, w, rstd, dy, dx, dw);
}

static void by_work(void *how, long rows, long d, const float *x, const float *w, const float *mean, const float *rstd,
                    const float *dy, float *dx, float *dw, float *db)
{
    if (mean)
        kn_layer_norm_backward(how, rows, d, x, w, mean, rstd, dy, dx, dw, db);
    else
        kn_rms_norm_backward(how, rows, d, x, w, rstd, dy, dx, dw);
}

/* Gradients are added to what is there (1 here), and each may be left out. */
static void check_norm_backward(const char *name, norm_backward *run, void *how, long rows, long d, bool centred)
{
    float *x = random_floats(rows * d, -2, 2), *w = random_floats(d, -1, 1), *dy = random_floats(rows * d, -1, 1);
    float *mean = random_floats(rows, -1, 1), *rstd = random_floats(rows, 0.5f, 1);
    float *dx = zeros(rows * d), *dw = zeros(d), *db = zeros(d);
    double *tx = calloc((size_t)(rows * d + 2 * d), sizeof *tx), *tw = tx + rows * d, *tb = tw + d;
    dx[0] = dw[0] = db[0] = 1;
    tx[0] = tw[0] = 1;
    tb[0] = 1;
    norm_truth(rows, d, x, w, centred ? mean : NULL, rstd, dy, tx, tw, tb);
    run(how, rows, d, x, w, centred ? mean : NULL, rstd, dy, dx, dw, db);
    for (long i = 0; i < rows * d; i++)
        near(name, "dx of a norm", i, dx[i], tx[i], 4e-6);
    for (long i = 0; i < d; i++) {
        near(name, "dw of a norm", i, dw[i], tw[i], (4 + sqrt((double)rows)) * 8 * ULP * (double)rows);
        near(name, "db of a norm", i, centred ? db[i] : tb[i], tb[i], (4 + sqrt((double)rows)) * ULP * (double)rows);
    }
    float *dx2 = zeros(rows * d), *dw2 = zeros(d);
    dx2[0] = dw2[0] = 1;
    run(how, rows, d, x, w, centred ? mean : NULL, rstd, dy, dx2, NULL, NULL);
    run(how, rows, d, x, w, centred ? mean : NULL, rstd, dy, NULL, dw2, NULL);
    same_bits(name, "dx alone", dx2, dx, rows * d);
    same_bits(name, "dw alone", dw2, dw, d);
    free(tx);
    unfence();
}

static void norm_backwards_are_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        kn_work *w = kn_work_open(t, NULL, NULL);
        for (int i = 0; i < LENGTHS; i++)
            for (int centred = 0; centred < 2; centred++) {
                check_norm_backward(t->name, by_table, (void *)(uintptr_t)t, 3, lengths[i], centred);
                check_norm_backward(t->name, by_work, w, 1 + 13 * i, lengths[i] % 70, centred);
            }
        kn_work_close(w);
    }
}

/* ---- softmax ------------------------------------------------------------------------------------------ */

static void check_softmax(const kn_table *t, long n, bool holes)
{
    float *x = random_floats(n, -20, 20), *y = floats(n), *dy = random_floats(n, -1, 1), *dx = floats(n);
    for (long i = 0; holes && i < n; i++)
        if (bs_rng_below(&rng, 3) == 0)
            x[i] = -INFINITY;
    double most = -INFINITY, s = 0, ydy = 0;
    for (long i = 0; i < n; i++)
        most = fmax(most, x[i]);
    for (long i = 0; i < n; i++)
        s += x[i] == -INFINITY ? 0 : exp(x[i] - most);
    float lse = t->softmax(n, x, y);
    near(t->name, "log-sum-exp", n, lse, s == 0 ? -INFINITY : most + log(s), 2e-6 + 2e-7 * fabs(most));
    for (long i = 0; i < n; i++) {
        double want = x[i] == -INFINITY ? 0 : exp(x[i] - most) / s;
        near(t->name, "softmax", i, y[i], want, want > 0 ? (4e-7 + fabs(x[i] - most) * ULP) * want : 0); /* x - max is rounded */
        ydy += (double)y[i] * dy[i];
    }
    t->softmax_backward(n, y, dy, dx);
    for (long i = 0; i < n; i++)
        near(t->name, "softmax backward", i, dx[i], y[i] * (dy[i] - ydy), 1e-6);
    t->softmax(n, x, x);
    same_bits(t->name, "softmax in place", x, y, n);
    t->softmax_backward(n, y, dy, dy);
    same_bits(t->name, "softmax backward in place", dy, dx, n);
    unfence();
}

static void softmax_is_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        for (int i = 0; i < 2 * LENGTHS; i++)
            check_softmax(t, lengths[i / 2], i % 2);
        float *x = floats(37);
        for (int i = 0; i < 37; i++)
            x[i] = -INFINITY;
        float lse = t->softmax(37, x, x);
        assert_true(lse == -INFINITY);
        same_bits(t->name, "softmax of nothing", x, zeros(37), 37);
        unfence();
    }
}

static void check_columns(const kn_table *t, long rows, long n)
{
    long ld = n + 1;
    float *x = random_floats((rows - 1) * ld + n, -9, 9), *most = floats(n), *sums = zeros(n);
    for (long j = 0; j < n; j++)
        most[j] = -INFINITY;
    for (long i = 0; i < rows; i++)
        x[i * ld] = -INFINITY; /* a column that sees nothing */
    float *e = copy_of(x, (rows - 1) * ld + n);
    t->max_columns(rows, n, x, ld, most);
    t->exp_columns(rows, n, e, ld, most, sums);
    for (long j = 0; j < n; j++) {
        double m = -INFINITY, s = 0;
        for (long i = 0; i < rows; i++)
            m = fmax(m, x[i * ld + j]);
        near(t->name, "max of a column", j, most[j], m, 0);
        for (long i = 0; i < rows; i++) {
            double want = j ? exp((double)x[i * ld + j] - m) : 0;
            near(t->name, "exp of a column", i * ld + j, e[i * ld + j], want, 1.5e-6 * want); /* x - max is rounded */
            s += want;
        }
        near(t->name, "sum of a column", j, sums[j], s, 1e-6 * s);
    }
    for (long i = 0; i + 1 < rows; i++)
        near(t->name, "between columns", i, e[i * ld + n], x[i * ld + n], 0);
    unfence();
}

static void columns_are_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++)
            check_columns(t, 1 + i * 3, lengths[i]);
}

/* ---- AdamW, conversions ------------------------------------------------------------------------------- */

static void check_adamw(const kn_table *t, long n)
{
    const double lr = 0.01f, b1 = 0.9f, b2 = 0.98f, eps = 1e-6f, decay = 0.2f, c1 = 3, c2 = 7, scale = 0.75;
    float *p = random_floats(n, -1, 1), *g = random_floats(n, -1, 1), *m = random_floats(n, -1, 1), *v = random_floats(n, 0, 1);
    float *p0 = copy_of(p, n), *m0 = copy_of(m, n), *v0 = copy_of(v, n);
    t->adamw(n, p, g, 0.75f, m, v, 0.01f, 0.9f, 0.98f, 1e-6f, 0.2f, 3, 7);
    for (long i = 0; i < n; i++) {
        double gi = scale * g[i], m1 = b1 * m0[i] + (1 - b1) * gi, v1 = b2 * v0[i] + (1 - b2) * gi * gi;
        near(t->name, "adamw m", i, m[i], m1, 2e-7);
        near(t->name, "adamw v", i, v[i], v1, 2e-7);
        double step = m1 * c1 / (sqrt(v1 * c2) + eps);
        near(t->name, "adamw p", i, p[i], p0[i] - lr * (step + decay * p0[i]), 2e-7 + 1e-7 * fabs(step));
    }
    unfence();
}

static void adamw_is_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++)
            check_adamw(t, lengths[i]);
}

static double half_truth(unsigned h)
{
    int e = (int)(h >> 10 & 31), f = (int)(h & 1023);
    double x = e == 31 ? (f ? NAN : INFINITY) : e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);
    return h & 0x8000 ? -x : x;
}

/* All 65536 of each, and back. */
static void halves_are_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        enum { N = 65536 };
        uint16_t *h = fence(N * sizeof *h), *back = fence(N * sizeof *h);
        float *y = floats(N), *z = floats(N);
        for (unsigned i = 0; i < N; i++)
            h[i] = (uint16_t)i;
        t->from_f16(N, h, y);
        t->from_bf16(N, h, z);
        for (unsigned i = 0; i < N; i++) {
            uint32_t bits = i << 16;
            near(t->name, "from f16", i, y[i], half_truth(i), 0);
            assert_true(!memcmp(&z[i], &bits, 4) || isnan(z[i]));
        }
        t->to_f16(N, y, back);
        for (unsigned i = 0; i < N; i++)
            assert_true(isnan(y[i]) ? (back[i] & 0x7fff) > 0x7c00 : back[i] == i);
        t->to_bf16(N, z, back);
        for (unsigned i = 0; i < N; i++)
            assert_true(isnan(z[i]) ? (back[i] & 0x7fff) > 0x7f80 : back[i] == i);
        unfence();
    }
}

/* Floats of random bits and their neighbours round to the nearest, ties to even; a tier gives generic's very bits. */
static void narrowing_rounds(void **state)
{
    (void)state;
    enum { N = 40001 };
    const kn_table *t;
    EACH_TIER (t) {
        float *x = floats(N);
        uint16_t *h = fence(N * 2), *b = fence(N * 2), *h0 = fence(N * 2), *b0 = fence(N * 2);
        for (int i = 0; i < N; i++) {
            uint32_t bits = i % 2 ? bs_rng_u32(&rng) : (bs_rng_u32(&rng) & 0x9fffffff) | 0x30000000;
            if (i % 3 == 0)
                bits &= i % 2 ? 0xffff8000 : 0xfffff000; /* ties */
            memcpy(&x[i], &bits, 4);
        }
        t->to_f16(N, x, h);
        t->to_bf16(N, x, b);
        tiers[0]->to_f16(N, x, h0);
        tiers[0]->to_bf16(N, x, b0);
        for (int i = 0; i < N; i++) {
            if (isnan(x[i])) {
                assert_true((h[i] & 0x7fff) > 0x7c00 && (b[i] & 0x7fff) > 0x7f80);
                continue;
            }
            assert_int_equal(h[i], h0[i]);
            assert_int_equal(b[i], b0[i]);
            double got = half_truth(h[i]), size = fabs((double)x[i]);
            double step = size < 0x1p-14 ? 0x1p-24 : ldexp(1, ilogb(size) - 10);
            if (size < 65504)
                near(t->name, "to f16", i, got, x[i], step / 2);
            assert_true(size < 65520 || isinf(got));
        }
        unfence();
    }
}

/* ---- sums over many rows ------------------------------------------------------------------------------ */

static void many_rows_keep_their_bits_here(const kn_table *t, kn_work *const w[4])
{
    long rows = 700, n = 531;
    float *x = integers(rows * n), *r = random_floats(rows * n, -1, 1), *y[4], *dw[4], *db[4], *wt = random_floats(n, -1, 1);
    float *mean = random_floats(rows, -1, 1), *rstd = random_floats(rows, 0.5f, 1), *sums[4];
    double squares[4];
    for (int i = 0; i < 4; i++) {
        y[i] = zeros(n), dw[i] = zeros(n), db[i] = zeros(n), sums[i] = zeros(n);
        kn_column_sums(w[i], rows, n, r, n, sums[i]);
        same_bits(t->name, "column sums by threads", sums[i], sums[0], n);
        kn_column_sums(w[i], rows, n - 1, x, n, y[i]);
        for (long j = 0; j < n; j++) {
            double s = 0;
            for (long k = 0; k < rows && j < n - 1; k++)
                s += x[k * n + j];
            near(t->name, "column sums", j, y[i][j], s, 0);
        }
        kn_layer_norm_backward(w[i], rows, n, x, wt, mean, rstd, r, NULL, dw[i], db[i]);
        squares[i] = kn_sum_squares(w[i], rows * n, r);
        same_bits(t->name, "dw by threads", dw[i], dw[0], n);
        same_bits(t->name, "db by threads", db[i], db[0], n);
        assert_memory_equal(&squares[i], &squares[0], sizeof *squares);
    }
    double s = 0;
    for (long i = 0; i < rows * n; i++)
        s += (double)r[i] * r[i];
    near(t->name, "sum of squares", 0, squares[0], s, s * 1e-12);
    unfence();
}

/* Partial sums that do not fit their room at once, or not at all: one row over and over. */
static void long_rows_are_summed_here(const kn_table *t, kn_work *const w[4])
{
    static const long sizes[][2] = {{2500, 70001}, {70, (1 << 21) + 5}}; /* rows, numbers */
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes - SLOW_MACHINE; s++) {
        long rows = sizes[s][0], n = sizes[s][1];
        float *x = integers(n), *y = zeros(n);
        kn_column_sums(w[1], rows, n, x, 0, y);
        for (long j = 0; j < n; j++)
            near(t->name, "sums of long rows", j, y[j], (double)rows * x[j], 0);
        unfence();
    }
}

static void many_rows_keep_their_bits(void **state)
{
    (void)state;
    on_every_tier(many_rows_keep_their_bits_here);
    on_every_tier(long_rows_are_summed_here);
}

static void check_cross_entropy(const kn_table *t, long n, float smoothing)
{
    float *x = random_floats(n, -10, 10), *dx = floats(n);
    long target = bs_rng_below(&rng, (uint32_t)n);
    double most = -INFINITY, s = 0, all = 0;
    for (long i = 0; i < n; i++)
        most = fmax(most, x[i]), all += x[i];
    for (long i = 0; i < n; i++)
        s += exp(x[i] - most);
    double lse = most + log(s), loss = (1 - (double)smoothing) * (lse - x[target]) + smoothing * (lse - all / (double)n);
    near(t->name, "cross-entropy", n, kn_cross_entropy(t, n, x, target, smoothing, 1, NULL), loss, 3e-6 * fmax(1, loss));
    kn_cross_entropy(t, n, x, target, smoothing, 0.25f, dx);
    for (long i = 0; i < n; i++) {
        double want = exp(x[i] - lse) - smoothing / (double)n - (i == target ? 1 - smoothing : 0);
        near(t->name, "its slope", i, dx[i], 0.25 * want, 2e-7);
    }
    kn_cross_entropy(t, n, x, target, smoothing, 0.25f, x);
    same_bits(t->name, "its slope in place", x, dx, n);
    unfence();
}

static void cross_entropy_is_right(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++) {
            check_cross_entropy(t, lengths[i], 0);
            check_cross_entropy(t, lengths[i] * 7, 0.1f);
        }
    EACH_TIER (t) /* LLaMA 3's classes */
        check_cross_entropy(t, 128256, 0.1f);
}

/* ---- attention ---------------------------------------------------------------------------------------- */

typedef struct scene {
    kn_attn a;
    long nq, nk, nv, ny, ns; /* floats of q, k, v, y; of lse */
    float *dy;
} scene;

enum {
    CAUSAL = 1,
    MASK = 2,
    BIAS = 4,
    GQA = 8,
    SIDE_BY_SIDE = 16,
    WINDOW = 32,
    DOCUMENTS = 64,
    RAGGED = 128,
    RELATIVE = 256,
    FORMS = 512
};

static long bias_size(const kn_attn *a) { return a->heads * (a->bias_head ? a->bias_head : a->tq * a->tk); }

static long bias_index(const kn_attn *a, long b, long h, long i, long j)
{
    long own = i + (a->keys ? a->keys[b] : a->tk) - a->tq;
    return a->bias_head ? h * a->bias_head + a->bias_zero + j - own : (h * a->tq + i) * a->tk + j;
}

/* SIDE_BY_SIDE: heads lie side by side in a row, as a model keeps them; else every head is a matrix of its own. */
static scene new_scene(long batch, long tq, long tk, long dk, long dv, int form)
{
    long kv = 2, heads = form & GQA ? 6 : 2;
    kn_attn a = {.batch = batch, .heads = heads, .kv_heads = kv, .tq = tq, .tk = tk, .dk = dk, .dv = dv, .scale = 0.4f};
    bool row = form & SIDE_BY_SIDE;
    a.q_row = row ? heads * dk : dk, a.q_head = row ? dk : tq * dk, a.q_batch = heads * tq * dk;
    a.k_row = row ? kv * dk : dk, a.k_head = row ? dk : tk * dk, a.k_batch = kv * tk * dk;
    a.v_row = row ? kv * dv : dv, a.v_head = row ? dv : tk * dv, a.v_batch = kv * tk * dv;
    a.y_row = row ? heads * dv : dv, a.y_head = row ? dv : tq * dv, a.y_batch = heads * tq * dv;
    scene s = {
        a,   batch * heads * tq * dk, batch * kv * tk * dk, batch * kv * tk * dv, batch * heads * tq * dv, batch * heads * tq,
        NULL};
    s.a.q = random_floats(s.nq, -1, 1);
    s.a.k = random_floats(s.nk, -1, 1);
    s.a.v = random_floats(s.nv, -1, 1);
    s.a.y = floats(s.ny);
    s.a.lse = floats(s.ns);
    s.dy = random_floats(s.ny, -1, 1);
    s.a.causal = form & CAUSAL;
    s.a.bias_head = form & RELATIVE ? tk + tq + 1 : 0; /* one more than there are at either end */
    s.a.bias_zero = tk;
    s.a.bias = form & BIAS ? random_floats(bias_size(&s.a), -2, 2) : NULL;
    uint8_t *mask = fence((size_t)(batch * tk));
    for (long i = 0; i < batch * tk; i++)
        mask[i] = i < tk ? i % 3 != 1 : i < 2 * tk ? 0 : 1; /* the second of the batch sees nothing */
    s.a.key_mask = form & MASK ? mask : NULL;
    s.a.window = form & WINDOW ? 1 + tk / 3 : 0;
    int *keys = fence((size_t)batch * sizeof *keys), *from = fence((size_t)(batch * tq) * sizeof *from);
    for (long b = 0; b < batch; b++)
        keys[b] = (int)(b % 2 ? tk / 2 : tk);
    for (long i = 0; i < batch * tq; i++) /* a document is a third of the row; the last one begins behind the last key */
        from[i] = (int)(i % tq < tq / 3 ? 0 : i % tq < tq * 2 / 3 ? tk / 3 : tk * 2 / 3);
    if (tq > 3)
        from[tq - 1] = (int)tk;
    s.a.keys = form & RAGGED ? keys : NULL;
    s.a.from = form & DOCUMENTS ? from : NULL;
    return s;
}

/* Probabilities of one query in double; their sum before division, 0 when it sees nothing. */
static double attend(const kn_attn *a, long b, long h, long i, double *p, double *lse)
{
    long kv = h / (a->heads / a->kv_heads);
    const float *q = a->q + b * a->q_batch + i * a->q_row + h * a->q_head;
    double most = -INFINITY, s = 0;
    for (long j = 0; j < a->tk; j++) {
        const float *k = a->k + b * a->k_batch + j * a->k_row + kv * a->k_head;
        long keys = a->keys ? a->keys[b] : a->tk, own = i + keys - a->tq;
        p[j] = a->bias && j < keys ? a->bias[bias_index(a, b, h, i, j)] : 0;
        for (long e = 0; e < a->dk; e++)
            p[j] += (double)a->scale * q[e] * k[e];
        bool far = (a->window && j <= own - a->window) || (a->from && j < a->from[b * a->tq + i]);
        if (j >= keys || far || (a->causal && j > own) || (a->key_mask && !a->key_mask[b * a->tk + j]))
            p[j] = -INFINITY;
        most = fmax(most, p[j]);
    }
    for (long j = 0; j < a->tk; j++)
        s += p[j] = p[j] == -INFINITY ? 0 : exp(p[j] - most);
    for (long j = 0; j < a->tk && s > 0; j++)
        p[j] /= s;
    *lse = s > 0 ? most + log(s) : -INFINITY;
    return s;
}

/* How far a score may be off: it is a sum of dk products of numbers up to 1. */
static double score_noise(const kn_attn *a) { return (4 + sqrt((double)a->dk)) * ULP * a->scale * (double)a->dk / 4; }

static void check_forward(const char *name, const scene *s)
{
    const kn_attn *a = &s->a;
    double *p = malloc((size_t)a->tk * sizeof *p), lse;
    for (long n = 0; n < a->batch * a->heads * a->tq; n++) {
        long b = n / (a->heads * a->tq), h = n / a->tq % a->heads, i = n % a->tq, kv = h / (a->heads / a->kv_heads);
        attend(a, b, h, i, p, &lse);
        near(name, "log-sum-exp", n, a->lse[n], lse, 2e-6 + score_noise(a));
        for (long e = 0; e < a->dv; e++) {
            double want = 0;
            for (long j = 0; j < a->tk; j++)
                want += p[j] * a->v[b * a->v_batch + j * a->v_row + kv * a->v_head + e];
            near(name, "attention", n * a->dv + e, a->y[b * a->y_batch + i * a->y_row + h * a->y_head + e], want,
                 1e-6 + score_noise(a));
        }
    }
    free(p);
}

/* dQ, dK, dV, dbias of one query added in double. */
static void attend_backward(const scene *s, long b, long h, long i, double *p, double *dp, double *dq, double *dk, double *dv,
                            double *dbias)
{
    const kn_attn *a = &s->a;
    long kv = h / (a->heads / a->kv_heads), q = b * a->q_batch + i * a->q_row + h * a->q_head;
    long k = b * a->k_batch + kv * a->k_head, v = b * a->v_batch + kv * a->v_head;
    const float *dy = s->dy + b * a->y_batch + i * a->y_row + h * a->y_head;
    double lse, sum = 0;
    attend(a, b, h, i, p, &lse);
    for (long j = 0; j < a->tk; j++) {
        dp[j] = 0;
        for (long e = 0; e < a->dv; e++) {
            dp[j] += (double)dy[e] * a->v[v + j * a->v_row + e];
            dv[v + j * a->v_row + e] += p[j] * dy[e];
        }
        sum += p[j] * dp[j];
    }
    for (long j = 0; j < a->tk; j++) {
        double ds = p[j] * (dp[j] - sum);
        if (a->bias && (!a->keys || j < a->keys[b]))
            dbias[bias_index(a, b, h, i, j)] += ds;
        for (long e = 0; e < a->dk; e++) {
            dq[q + e] += a->scale * ds * a->k[k + j * a->k_row + e];
            dk[k + j * a->k_row + e] += a->scale * ds * a->q[q + e];
        }
    }
}

typedef struct gradients {
    float *dq, *dk, *dv, *dbias;
} gradients;

static void check_backward(const char *name, const scene *s, const gradients *g)
{
    const kn_attn *a = &s->a;
    long nb = bias_size(a);
    double *all = calloc((size_t)(s->nq + s->nk + s->nv + nb + 2 * a->tk), sizeof *all);
    double *dk = all + s->nq, *dv = dk + s->nk, *dbias = dv + s->nv, *p = dbias + nb, *dp = p + a->tk;
    for (long n = 0; n < a->batch * a->heads * a->tq; n++)
        attend_backward(s, n / (a->heads * a->tq), n / a->tq % a->heads, n % a->tq, p, dp, all, dk, dv, dbias);
    double bound = (2e-6 + score_noise(a)) * sqrt((double)(a->tq > 4 ? a->tq : 4));
    for (long i = 0; i < s->nq; i++)
        near(name, "dq", i, g->dq[i], all[i] + 1, bound);
    for (long i = 0; i < s->nk; i++)
        near(name, "dk", i, g->dk[i], dk[i] + 1, bound);
    for (long i = 0; i < s->nv; i++)
        near(name, "dv", i, g->dv[i], dv[i] + 1, bound);
    for (long i = 0; g->dbias && i < nb; i++)
        near(name, "dbias", i, g->dbias[i], dbias[i] + 1, a->bias_head ? bound * sqrt((double)(a->batch * a->tq)) : bound);
    free(all);
}

static float *ones(long n)
{
    float *x = floats(n);
    for (long i = 0; i < n; i++)
        x[i] = 1;
    return x;
}

static gradients run_backward(kn_work *w, const scene *s)
{
    gradients g = {ones(s->nq), ones(s->nk), ones(s->nv), s->a.bias ? ones(bias_size(&s->a)) : NULL};
    size_t room = kn_attn_backward_scratch(kn_work_table(w), &s->a) * (size_t)bs_pool_threads(kn_work_pool(w));
    void *scratch = fence(room);
    kn_attn_backward(w, &s->a, s->dy, g.dq, g.dk, g.dv, g.dbias, scratch);
    return g;
}

static void run_forward(kn_work *w, const kn_attn *a)
{
    void *scratch = fence(kn_attn_scratch(kn_work_table(w), a) * (size_t)bs_pool_threads(kn_work_pool(w)));
    kn_attn_forward(w, a, scratch);
}

/* Every number of threads gives the same bits, forward and backward. */
static void check_attention(const kn_table *t, kn_work *const w[4], scene *s)
{
    run_forward(w[0], &s->a);
    gradients g = run_backward(w[0], s);
    if (!ONLY_THREADS) {
        check_forward(t->name, s);
        check_backward(t->name, s, &g);
    }
    for (int i = 1; i < 4; i++) {
        kn_attn a = s->a;
        a.y = floats(s->ny), a.lse = floats(s->ns);
        run_forward(w[i], &a);
        same_bits(t->name, "attention by threads", a.y, s->a.y, s->ny);
        same_bits(t->name, "log-sum-exp by threads", a.lse, s->a.lse, s->ns);
        gradients more = run_backward(w[i], s);
        same_bits(t->name, "dq by threads", more.dq, g.dq, s->nq);
        same_bits(t->name, "dk by threads", more.dk, g.dk, s->nk);
        same_bits(t->name, "dv by threads", more.dv, g.dv, s->nv);
        if (g.dbias)
            same_bits(t->name, "dbias by threads", more.dbias, g.dbias, bias_size(&a));
    }
    unfence();
}

static void attention_is_right_here(const kn_table *t, kn_work *const w[4])
{
    static const long sizes[][5] = {
        /* batch, tq, tk, dk, dv */
        {1, 1, 1, 1, 1},
        {3, 5, 7, 8, 12},
        {2, 65, 65, 32, 32},
        {2, 33, 17, 20, 9},
        {1, 1, 300, 16, 16},
        {1, 200, 290, 24, 40},
        {3, 97, 97, 64, 64},
        {2, 161, 3, 5, 3},
        /* the edges of blocks of keys and of few queries */
        {1, 1, 255, 88, 96},
        {1, 4, 257, 96, 88},
        {2, 5, 256, 80, 16},
        {1, 18, 513, 16, 128},
        {2, 3, 1100, 33, 7},
        {2, 4, 2, 128, 80},
        {2, 3, 0, 8, 8},
        {1, 20, 0, 8, 8},
    };
    uint32_t most = SLOW_MACHINE || SANITIZED ? 190 : t == tiers[0] ? 70 : 21; /* forms left out */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int form = 0; form < FORMS; form += 1 + (int)bs_rng_below(&rng, most)) {
            scene s = new_scene(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], sizes[i][4], form);
            check_attention(t, w, &s);
        }
}

static void attention_is_right(void **state)
{
    (void)state;
    on_every_tier(attention_is_right_here);
}

/* A query's bits depend neither on the queries beside it nor, when causal, on the keys behind it; nothing hidden leaks in. With few
 * queries, which are computed another way, that says too that a cache's keys give the bits of keys just computed. */
static void check_queries_alone(const kn_table *t, kn_work *w, long length, long query, long count, int form)
{
    long dk = 1 + bs_rng_below(&rng, 130), dv = 1 + bs_rng_below(&rng, 130);
    scene s = new_scene(1, length, length, dk, dv, CAUSAL | SIDE_BY_SIDE | form);
    run_forward(w, &s.a);
    kn_attn few = s.a;
    few.tq = count;
    few.tk = query + count; /* a window counts from a query's own place */
    few.q += query * few.q_row;
    few.y = floats(count * few.y_row);
    few.lse = floats(count * few.heads);
    run_forward(w, &few);
    same_bits(t->name, "queries alone", few.y, s.a.y + query * s.a.y_row, count * few.y_row);
    for (long h = 0; h < few.heads; h++)
        same_bits(t->name, "their log-sum-exp", few.lse + h * count, s.a.lse + h * length + query, count);
    unfence();
}

static void queries_keep_their_bits_here(const kn_table *t, kn_work *const w[4])
{
    for (int i = 0; i < 20; i++) {
        long length = 7 + bs_rng_below(&rng, i % 5 ? 600 : 1400), count = 1 + bs_rng_below(&rng, 7);
        check_queries_alone(t, w[i % 4], length, bs_rng_below(&rng, (uint32_t)(length - count + 1)), count,
                            (i % 3 ? GQA : 0) | (i % 4 ? 0 : WINDOW) | (i % 5 == 1 ? BIAS | RELATIVE : 0));
    }
}

static void queries_keep_their_bits(void **state)
{
    (void)state;
    on_every_tier(queries_keep_their_bits_here);
}

/* Whole blocks of keys hidden at the front, in the middle, at the end; a row that sees one key; rows that see none. */
static void hidden_blocks_add_nothing(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        kn_work *w = kn_work_open(t, NULL, NULL);
        for (int i = 0; i < 12; i++) {
            scene s = new_scene(1, i % 2 ? 2 : 21, 800, 16, 24, (i % 3 ? 0 : CAUSAL) | SIDE_BY_SIDE);
            uint8_t *mask = fence(800);
            for (long j = 0; j < 800; j++)
                mask[j] = i / 2 == 0 ? 0 : i / 2 == 1 ? j >= 520 : i / 2 == 2 ? j < 3 || j > 790 : i / 2 == 3 ? j < 9 : j == 511;
            s.a.key_mask = mask;
            run_forward(w, &s.a);
            gradients g = run_backward(w, &s);
            check_forward(t->name, &s);
            check_backward(t->name, &s, &g);
            unfence();
        }
        kn_work_close(w);
    }
}

/* ---- caches of keys and values ------------------------------------------------------------------------- */

/* n numbers of a cache at random, as they lie in it and as they are meant. The scale of element i is scale[i / width]. */
static void *cached_numbers(const kn_table *t, kn_kv_type type, long n, long width, const float *scale, float *meant)
{
    size_t size = type == KN_KV_F32 ? 4 : type == KN_KV_I8 ? 1 : 2;
    void *x = fence((size_t)n * size);
    float *f = random_floats(n, -1, 1);
    if (type == KN_KV_F32)
        memcpy(x, f, (size_t)n * size);
    else if (type == KN_KV_F16)
        tiers[0]->to_f16(n, f, x);
    else if (type == KN_KV_BF16)
        tiers[0]->to_bf16(n, f, x);
    for (long i = 0; type == KN_KV_I8 && i < n; i++)
        ((int8_t *)x)[i] = (int8_t)((int)bs_rng_below(&rng, 255) - 127);
    if (type == KN_KV_F16)
        t->from_f16(n, x, meant);
    else if (type == KN_KV_BF16)
        t->from_bf16(n, x, meant);
    for (long i = 0; (type == KN_KV_F32 || type == KN_KV_I8) && i < n; i++)
        meant[i] = type == KN_KV_F32 ? f[i] : scale[i / width] * (float)((int8_t *)x)[i];
    return x;
}

/* A cache in pages of `each` positions, the last one cut short, against the same numbers in fp32, page by page in one piece: bit for
 * bit, whatever the number of threads. */
static void check_cache(const kn_table *t, kn_work *const w[4], kn_kv_type type, long each, long tq, long tk, long dk, long dv,
                        int form)
{
    enum { BATCH = 2, MOST = 16 };
    scene s = new_scene(BATCH, tq, tk, dk, dv, form & ~SIDE_BY_SIDE);
    kn_attn a = s.a;
    long pages = (tk + each - 1) / each, kv = a.kv_heads;
    kn_page page[BATCH * MOST];
    assert_true(pages <= MOST);
    bool row = form & SIDE_BY_SIDE;
    for (long p = 0; p < BATCH * pages; p++) {
        long first = p % pages * each, n = tk - first < each ? tk - first : each, room = row ? n : each;
        float *ks = random_floats(kv * room, 0.001f, 0.01f), *vs = random_floats(kv * room, 0.001f, 0.01f);
        float *k = floats(kv * room * dk), *v = floats(kv * room * dv);
        page[p] =
            (kn_page){cached_numbers(t, type, kv * room * dk, dk, ks, k), cached_numbers(t, type, kv * room * dv, dv, vs, v),
                      type == KN_KV_I8 ? ks : NULL, type == KN_KV_I8 ? vs : NULL};
        for (long i = 0; i < n; i++)
            for (long h = 0; h < kv; h++) {
                long from = row ? i * kv + h : h * each + i, to = p / pages;
                memcpy((float *)s.a.k + to * a.k_batch + h * a.k_head + (first + i) * a.k_row, k + from * dk,
                       (size_t)dk * sizeof *k);
                memcpy((float *)s.a.v + to * a.v_batch + h * a.v_head + (first + i) * a.v_row, v + from * dv,
                       (size_t)dv * sizeof *v);
            }
    }
    a.kv_type = type, a.pages = page, a.page_keys = each, a.k = a.v = NULL;
    a.k_row = row ? kv * dk : dk, a.k_head = row ? dk : each * dk;
    a.v_row = row ? kv * dv : dv, a.v_head = row ? dv : each * dv;
    a.scale_row = row ? kv : 1, a.scale_head = row ? 1 : each;
    run_forward(w[0], &s.a);
    for (int i = 0; i < 4; i++) {
        a.y = floats(s.ny), a.lse = floats(s.ns);
        run_forward(w[i], &a);
        same_bits(t->name, "attention over a cache", a.y, s.a.y, s.ny);
        same_bits(t->name, "its log-sum-exp", a.lse, s.a.lse, s.ns);
    }
    unfence();
}

static void caches_are_read_here(const kn_table *t, kn_work *const w[4])
{
    static const long sizes[][5] = {
        /* of a page, tq, tk, dk, dv */
        {1, 1, 7, 16, 8},
        {16, 1, 33, 20, 24},
        {32, 4, 300, 64, 64},
        {256, 1, 1030, 16, 40},
        {400, 2, 1100, 9, 16},
        {5, 6, 21, 8, 8},
        {64, 20, 257, 24, 9},
        {100, 37, 290, 16, 32},
        {512, 70, 513, 33, 16},
        /* heads of ViT-g's width and of Phi-3's: one query, few, many */
        {256, 1, 530, 88, 88},
        {256, 1, 1040, 96, 96},
        {16, 4, 130, 88, 96},
        {100, 3, 257, 96, 88},
        {64, 37, 300, 88, 88},
        {128, 18, 513, 96, 96},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (kn_kv_type type = KN_KV_F32; type <= KN_KV_I8; type++)
            check_cache(t, w, type, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], sizes[i][4], (int)bs_rng_below(&rng, 32));
}

static void caches_are_read(void **state)
{
    (void)state;
    on_every_tier(caches_are_read_here);
}

/* Every position a page of its own. */
static void page_by_page(kn_attn *a)
{
    kn_page *page = fence((size_t)a->tk * sizeof *page);
    for (long i = 0; i < a->tk; i++)
        page[i] = (kn_page){.k = a->k + i * a->k_row, .v = a->v + i * a->v_row};
    a->pages = page, a->page_keys = 1, a->k = a->v = NULL;
}

/* Their gradients together, dv of the first left out, have the bits that run_backward gives each. Pages are not looked at. */
static void check_each_backward(const kn_table *t, kn_work *w, const scene *s, const gradients *alone, int n)
{
    kn_attn each[7];
    kn_attn_grads g[7];
    size_t room = 0;
    for (int i = 0; i < n; i++) {
        each[i] = s[i].a;
        g[i] = (kn_attn_grads){s[i].dy, ones(s[i].nq), ones(s[i].nk), i ? ones(s[i].nv) : NULL};
        size_t needed = kn_attn_backward_scratch(t, &each[i]);
        room = room > needed ? room : needed;
    }
    kn_attn_backward_each(w, each, g, n, fence(room * (size_t)bs_pool_threads(kn_work_pool(w))));
    for (int i = 0; i < n; i++) {
        same_bits(t->name, "dq of several", g[i].dq, alone[i].dq, s[i].nq);
        same_bits(t->name, "dk of several", g[i].dk, alone[i].dk, s[i].nk);
        if (i)
            same_bits(t->name, "dv of several", g[i].dv, alone[i].dv, s[i].nv);
    }
}

/* Several of unlike length share out the threads, and every second finds its keys by pages: each has the bits that it has alone, few queries and more than an item of
 * one takes. */
static void check_each(const kn_table *t, kn_work *const w[4], int n, int form)
{
    static const long sizes[][2] = {{1, 1}, {4, 9}, {9, 9}, {1, 300}, {37, 290}, {530, 530}, {3, 3}};
    kn_attn each[7];
    scene s[7];
    gradients alone[7];
    size_t room = 0;
    for (int i = 0; i < n; i++) {
        s[i] = new_scene(1, sizes[i][0], sizes[i][1], 20, 16, form);
        each[i] = s[i].a;
        if (i % 2)
            page_by_page(&each[i]);
        size_t needed = kn_attn_scratch(t, &each[i]);
        room = room > needed ? room : needed;
        run_forward(w[0], &s[i].a);
        alone[i] = run_backward(w[0], &s[i]);
    }
    for (int k = 0; k < 4; k++) {
        check_each_backward(t, w[k], s, alone, n);
        for (int i = 0; i < n; i++)
            each[i].y = floats(s[i].ny), each[i].lse = floats(s[i].ns);
        kn_attn_forward_each(w[k], each, n, fence(room * (size_t)bs_pool_threads(kn_work_pool(w[k]))));
        for (int i = 0; i < n; i++) {
            same_bits(t->name, "one of several", each[i].y, s[i].a.y, s[i].ny);
            same_bits(t->name, "its log-sum-exp", each[i].lse, s[i].a.lse, s[i].ns);
        }
    }
    unfence();
}

static void each_is_as_alone_here(const kn_table *t, kn_work *const w[4])
{
    for (int n = 1; n <= 7; n += 3) {
        check_each(t, w, n, SIDE_BY_SIDE);
        check_each(t, w, n, SIDE_BY_SIDE | CAUSAL);
    }
}

static void each_is_as_alone(void **state)
{
    (void)state;
    on_every_tier(each_is_as_alone_here);
}

/* A lone key head that all heads of queries read, in shares or as one head of more queries, gives the bits of as many key heads at the same place. */
static void a_lone_key_head_is_shared_here(const kn_table *t, kn_work *const w[4])
{
    static const long sizes[][5] = {
        /* batch, heads, tq, tk, width */
        {1, 12, 1, 577, 96}, {3, 12, 1, 300, 33}, {1, 7, 2, 70, 20}, {2, 5, 4, 1100, 16}, {1, 12, 9, 577, 40}, {2, 3, 70, 290, 24}, {1, 130, 5, 9, 8},
        {1, 37, 1, 1030, 16}, {1, 33, 1, 1030, 20}, /* strips of queries, the last of five and of one */
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        long batch = sizes[i][0], heads = sizes[i][1], tq = sizes[i][2], tk = sizes[i][3], d = sizes[i][4],
             n = batch * heads * tq * d;
        kn_attn a = {.batch = batch, .heads = heads, .kv_heads = 1, .tq = tq, .tk = tk, .dk = d, .dv = d, .scale = 0.3f};
        a.q_row = a.y_row = heads * d, a.q_head = a.y_head = a.k_row = a.v_row = d;
        a.q_batch = a.y_batch = heads * tq * d, a.k_batch = a.v_batch = tk * d;
        a.q = random_floats(n, -1, 1), a.k = a.v = random_floats(batch * tk * d, -1, 1);
        kn_attn apart = a;
        apart.kv_heads = heads, apart.y = floats(n);
        run_forward(w[0], &apart);
        for (int k = 0; k < 4; k++) {
            a.y = floats(n);
            run_forward(w[k], &a);
            same_bits(t->name, "a lone key head", a.y, apart.y, n);
        }
        unfence();
    }
}

static void a_lone_key_head_is_shared(void **state)
{
    (void)state;
    on_every_tier(a_lone_key_head_is_shared_here);
}

/* Rows of queries as few_scores reads them: turned. */
static float *turned(const kn_table *t, const float *q, long rows, long d)
{
    long width = kn_few_width(t->nr, rows);
    float *to = zeros(width * d);
    for (long r = 0; r < rows; r++)
        for (long e = 0; e < d; e++)
            to[e * width + r] = q[r * d + e];
    return to;
}

/* Any number of rows gives each the bits that it has alone; keys lie `ld` apart. */
static void check_few(const kn_table *t, long rows, long keys, long d, long ld)
{
    float *q = random_floats(rows * d, -1, 1), *x = random_floats((keys - 1) * ld + d, -1, 1);
    float *s = floats(rows * keys), *alone = floats(keys), *y = random_floats(rows * d, -1, 1), *start = copy_of(y, rows * d), *before = copy_of(y, rows * d);
    kn_rows k = {x, ld};
    t->few_scores(rows, keys, d, turned(t, q, rows, d), k, k, 0.5f, s, keys);
    t->few_values(rows, keys, d, s, keys, k, k, y);
    for (long r = 0; r < rows; r++) {
        t->few_scores(1, keys, d, turned(t, q + r * d, 1, d), k, k, 0.5f, alone, keys);
        same_bits(t->name, "scores of a query alone", s + r * keys, alone, keys);
        t->few_values(1, keys, d, alone, keys, k, k, before + r * d);
        same_bits(t->name, "values of a query alone", y + r * d, before + r * d, d);
        for (long j = 0; j < keys; j++) {
            double want = 0, size = 0;
            for (long e = 0; e < d; e++)
                want += 0.5 * q[r * d + e] * x[j * ld + e], size += fabs(0.5 * q[r * d + e] * x[j * ld + e]);
            near(t->name, "few_scores", r * keys + j, s[r * keys + j], want, (4 + sqrt((double)d)) * ULP * size);
        }
        for (long e = 0; e < d; e++) {
            double want = start[r * d + e], size = fabs(want);
            for (long j = 0; j < keys; j++)
                want += (double)s[r * keys + j] * x[j * ld + e], size += fabs((double)s[r * keys + j] * x[j * ld + e]);
            near(t->name, "few_values", r * d + e, y[r * d + e], want, (4 + sqrt((double)keys)) * ULP * size);
        }
    }
    unfence();
}

static void few_queries_keep_their_bits(void **state)
{
    (void)state;
    static const long widths[] = {1, 5, 16, 40, 67};
    const kn_table *t;
    EACH_TIER (t)
        for (long rows = 1; rows <= t->nr; rows++)
            for (long keys = 1; keys <= 32; keys += rows % EACH_FORM + 1)
                for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
                    check_few(t, rows, keys, widths[i], widths[i] + keys % 3);
}

/* ---- products by heads --------------------------------------------------------------------------------- */

static void check_heads(const char *tier, const kn_heads *g)
{
    for (long i = 0; i < g->m; i++)
        for (long column = 0; column < g->heads * g->n; column++) {
            long h = column / g->n, j = column % g->n;
            double want = g->bias ? g->bias[column] : 0, size = fabs(want);
            for (long p = 0; p < g->k; p++) {
                double ab = (double)g->a[i * g->lda + h * g->k + p] * (g->turned ? g->b[column * g->k + p] : g->b[(h * g->k + p) * g->n + j]);
                want += ab;
                size += fabs(ab);
            }
            near(tier, "a product by heads", i * g->ldc + column, g->c[i * g->ldc + column], want, (4 + sqrt((double)g->k)) * ULP * size);
        }
}

static void products_by_heads_are_right_here(const kn_table *t, kn_work *const w[4])
{
    static const long sizes[][4] = {
        /* heads, rows, columns, sum */
        {1, 1, 1, 1}, {12, 8, 96, 64}, {3, 1, 64, 300}, {4, 7, 10, 40}, {2, 33, 128, 16}, {5, 2, 65, 257}, {2, 300, 32, 1100},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int form = 0; form < 8; form++) {
            long heads = sizes[i][0], m = sizes[i][1], n = sizes[i][2], k = sizes[i][3];
            kn_heads g = {.heads = heads, .m = m, .n = n, .k = k, .lda = heads * k + 1, .ldc = heads * n + 2, .turned = form & 1};
            kn_packed weight = {.dtype = KN_F32, .n = heads * n, .k = k};
            g.a = random_floats(m * g.lda, -1, 1), g.b = random_floats(heads * n * k, -1, 1);
            g.bias = form & 2 ? random_floats(heads * n, -1, 1) : NULL;
            if (g.turned && form & 4) {
                weight.data = fence(kn_packed_bytes(t, KN_F32, heads * n, k, 0));
                kn_pack_weight(w[0], &weight, g.b, k);
                g.packed = &weight;
            }
            float *first = g.c = zeros(m * g.ldc);
            kn_heads_run(w[0], &g);
            check_heads(t->name, &g);
            for (int j = 1; j < 4; j++) {
                g.c = zeros(m * g.ldc);
                kn_heads_run(w[j], &g);
                same_bits(t->name, "products by heads, by threads", g.c, first, m * g.ldc);
            }
            unfence();
        }
}

static void products_by_heads_are_right(void **state)
{
    (void)state;
    on_every_tier(products_by_heads_are_right_here);
}

/* Neither direction holds anything of tq x tk, and a plan for many is a plan for few. */
static void scratch_is_bounded(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        kn_attn a = {.batch = 1, .heads = 6, .kv_heads = 2, .tq = 5000, .tk = 1000, .dk = 64, .dv = 64}, b = a;
        b.tk = 1000000;
        assert_int_equal(kn_attn_scratch(t, &a), kn_attn_scratch(t, &b));
        assert_int_equal(kn_attn_backward_scratch(t, &a), kn_attn_backward_scratch(t, &b));
        a.tq = b.tq = 1;
        assert_int_equal(kn_attn_scratch(t, &a), kn_attn_scratch(t, &b));
        a.tq = 100000, b.tq = 200000;
        assert_int_equal(kn_attn_scratch(t, &a), kn_attn_scratch(t, &b));
        assert_int_equal(kn_attn_backward_scratch(t, &a), kn_attn_backward_scratch(t, &b));
        for (b.tq = 1; b.tq < 600; b.tq++) {
            a = b;
            a.tq++;
            assert_true(kn_attn_scratch(t, &b) <= kn_attn_scratch(t, &a));
        }
    }
}

/* Gradients that nobody asks for are not computed, and the others do not change by it. */
static void gradients_may_be_left_out(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t) {
        kn_work *w = kn_work_open(t, NULL, NULL);
        scene s = new_scene(2, 30, 41, 16, 24, GQA | SIDE_BY_SIDE);
        run_forward(w, &s.a);
        gradients g = run_backward(w, &s);
        void *scratch = fence(kn_attn_backward_scratch(t, &s.a));
        float *dq = ones(s.nq), *dk = ones(s.nk), *dv = ones(s.nv);
        kn_attn_backward(w, &s.a, s.dy, dq, NULL, NULL, NULL, scratch);
        kn_attn_backward(w, &s.a, s.dy, NULL, dk, NULL, NULL, scratch);
        kn_attn_backward(w, &s.a, s.dy, NULL, NULL, dv, NULL, scratch);
        same_bits(t->name, "dq alone", dq, g.dq, s.nq);
        same_bits(t->name, "dk alone", dk, g.dk, s.nk);
        same_bits(t->name, "dv alone", dv, g.dv, s.nv);
        unfence();
        kn_work_close(w);
    }
}

/* ---- speed -------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 12, STEPS = 1000000 };

/* GFLOP/s of fused multiply-adds on registers alone: what no kernel can exceed. */
__attribute__((target("avx512f"))) static double peak_avx512(void)
{
    __m512 s[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-4f);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        s[i] = _mm512_set1_ps((float)i);
    double start = bs_now();
    for (long k = 0; k < STEPS; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            s[i] = _mm512_fmadd_ps(s[i], a, b);
    }
    double seconds = bs_now() - start;
#pragma GCC unroll 12
    for (int i = 1; i < CHAINS; i++)
        s[0] = _mm512_add_ps(s[0], s[i]);
    return 32.0 * CHAINS * STEPS / seconds * (_mm512_reduce_add_ps(s[0]) == 12345.0f ? 0 : 1e-9);
}

__attribute__((target("avx2,fma"))) static double peak_avx2(void)
{
    __m256 s[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-4f);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        s[i] = _mm256_set1_ps((float)i);
    double start = bs_now();
    for (long k = 0; k < STEPS; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            s[i] = _mm256_fmadd_ps(s[i], a, b);
    }
    double seconds = bs_now() - start;
#pragma GCC unroll 12
    for (int i = 1; i < CHAINS; i++)
        s[0] = _mm256_add_ps(s[0], s[i]);
    return 16.0 * CHAINS * STEPS / seconds * (_mm256_cvtss_f32(s[0]) == 12345.0f ? 0 : 1e-9);
}

static double peak_of(const kn_table *t)
{
    double best = 0;
    for (int i = 0; i < 20; i++)
        best = fmax(best, !strcmp(t->name, "avx512") || !strcmp(t->name, "amx") ? peak_avx512()
                          : !strcmp(t->name, "avx2")                            ? peak_avx2()
                                                                                : 0);
    return best;
}
#else
static double peak_of(const kn_table *t) { return (void)t, 0; }
#endif

/* Seconds of a call, the best of rounds that take some 20 ms each: other programs only ever add to it. */
static double time_of(void (*run)(void *), void *arg)
{
    enum { ROUNDS = 15 };
    double best = 1e9, start = bs_now();
    run(arg);
    long calls = (long)(0.02 / (bs_now() - start + 1e-9)) + 1;
    for (int r = 0; r < ROUNDS; r++) {
        start = bs_now();
        for (long i = 0; i < calls; i++)
            run(arg);
        best = fmin(best, (bs_now() - start) / (double)calls);
    }
    return best;
}

typedef struct bench {
    kn_work *w;
    const kn_table *t;
    double peak; /* of all threads */
    scene s;
    gradients grad;
    void *scratch;
    kn_gemm g;
    long n;
    float *x, *y, *z, *u;
} bench;

static void report(const bench *b, const char *what, double seconds, double flops)
{
    printf("%-8s %-44s %9.3f ms  %7.1f GFLOP/s  %5.1f%% of peak\n", b->t->name, what, seconds * 1e3, flops / seconds * 1e-9,
           b->peak > 0 ? 100 * flops / seconds * 1e-9 / b->peak : 0);
    fflush(stdout);
}

static void run_gemm(void *arg)
{
    bench *b = arg;
    kn_gemm_run(b->w, &b->g);
}

static void bench_gemm(bench *b, long m, long n, long k, int form)
{
    static const char *const forms[] = {"plain", "ta", "tb", "ta tb", "plain bf16", "ta bf16", "tb bf16", "ta tb bf16"};
    char what[80];
    bool ta = form & 1, tb = form & 2;
    b->g = (kn_gemm){
        .m = m, .n = n, .k = k, .lda = ta ? m : k, .ldb = tb ? k : n, .ldc = n, .ta = ta, .tb = tb, .alpha = 1, .bf16 = form & 4};
    b->g.a = random_floats(m * k, -1, 1);
    b->g.b = random_floats(k * n, -1, 1);
    b->g.c = zeros(m * n);
    snprintf(what, sizeof what, "gemm m %ld n %ld k %ld %s", m, n, k, forms[form]);
    report(b, what, time_of(run_gemm, b), 2.0 * (double)m * (double)n * (double)k);
    unfence();
}

/* The same product with its weight packed before. */
static void bench_packed(bench *b, long m, long n, long k)
{
    char what[80];
    float *weight = random_floats(n * k, -1, 1);
    kn_packed packed = {.dtype = KN_F32, .n = n, .k = k, .data = fence(kn_packed_bytes(b->t, KN_F32, n, k, 0))};
    kn_pack_weight(b->w, &packed, weight, k);
    b->g = (kn_gemm){.m = m, .n = n, .k = k, .lda = k, .ldc = n, .alpha = 1, .packed = &packed};
    b->g.a = random_floats(m * k, -1, 1);
    b->g.c = zeros(m * n);
    snprintf(what, sizeof what, "gemm m %ld n %ld k %ld packed", m, n, k);
    report(b, what, time_of(run_gemm, b), 2.0 * (double)m * (double)n * (double)k);
    unfence();
}

static void run_attention(void *arg)
{
    bench *b = arg;
    kn_attn_forward(b->w, &b->s.a, b->scratch);
}

static void run_attention_backward(void *arg)
{
    bench *b = arg;
    kn_attn_backward(b->w, &b->s.a, b->s.dy, b->grad.dq, b->grad.dk, b->grad.dv, NULL, b->scratch);
}

static void bench_attention(bench *b, long batch, long tq, long tk, long d, int form)
{
    char what[80];
    size_t threads = (size_t)bs_pool_threads(kn_work_pool(b->w));
    b->s = new_scene(batch, tq, tk, d, d, form);
    const kn_attn *a = &b->s.a;
    double flops = 4.0 * (double)(batch * a->heads * tq * tk * d) * (form & CAUSAL ? 0.5 : 1);
    b->scratch = fence(kn_attn_scratch(b->t, a) * threads);
    int n = snprintf(what, sizeof what, "attention %ld x %ld of %ld keys, %ld wide%s", batch * a->heads, tq, tk, d,
                     form & CAUSAL ? " causal" : "");
    report(b, what, time_of(run_attention, b), flops);
    b->grad = (gradients){zeros(b->s.nq), zeros(b->s.nk), zeros(b->s.nv), NULL};
    b->scratch = fence(kn_attn_backward_scratch(b->t, a) * threads);
    snprintf(what + n, sizeof what - (size_t)n, " back");
    if (tq > 1)
        report(b, what, time_of(run_attention_backward, b), 2.5 * flops);
    unfence();
}

static void run_gelu(void *arg)
{
    bench *b = arg;
    b->t->act(KN_GELU, b->n, b->x, b->y);
}
static void run_gelu_backward(void *arg)
{
    bench *b = arg;
    b->t->act_backward(KN_GELU, b->n, b->x, b->y, b->z);
}
static void run_quick(void *arg)
{
    bench *b = arg;
    b->t->act(KN_QUICK_GELU, b->n, b->x, b->y);
}
static void run_exp(void *arg)
{
    bench *b = arg;
    b->t->exp_shift(b->n, b->x, 0, b->y);
}
static void run_softmax(void *arg)
{
    bench *b = arg;
    for (long i = 0; i + 65 <= b->n; i += 65)
        b->t->softmax(65, b->x + i, b->y + i);
}
static void run_norm(void *arg)
{
    bench *b = arg;
    b->t->layer_norm(b->n / 256, 256, b->x, b->z, b->z, 1e-5f, b->y, b->u, b->u);
}
static void run_add(void *arg)
{
    bench *b = arg;
    b->t->add(b->n, b->x, b->y, b->z);
}
static void run_dot(void *arg)
{
    bench *b = arg;
    b->u[0] = b->t->dot(b->n, b->x, b->y);
}
static void run_adamw(void *arg)
{
    bench *b = arg;
    b->t->adamw(b->n, b->x, b->y, 1, b->z, b->u, 0, 0.9f, 0.98f, 1e-6f, 0, 1, 1);
}
static void run_norm_backward(void *arg)
{
    bench *b = arg;
    b->t->layer_norm_backward(b->n / 256, 256, b->x, b->y, b->u, b->u, b->y, b->z, b->z, b->z);
}

static void bench_rows(bench *b)
{
    static const struct {
        const char *name;
        void (*run)(void *);
    } all[] = {{"gelu", run_gelu},
               {"gelu backward", run_gelu_backward},
               {"quick gelu", run_quick},
               {"exp", run_exp},
               {"softmax of 65", run_softmax},
               {"layer norm of 256", run_norm},
               {"its backward", run_norm_backward},
               {"add", run_add},
               {"dot", run_dot},
               {"adamw", run_adamw}};
    b->n = 65 * 256;
    b->x = random_floats(b->n, -3, 3), b->y = random_floats(b->n, -3, 3), b->z = zeros(b->n), b->u = random_floats(b->n, 0, 1);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        printf("%-8s %-44s %9.3f ns an element\n", b->t->name, all[i].name, time_of(all[i].run, b) / (double)b->n * 1e9);
    unfence();
}

static const long bench_shapes[][3] = {
    {8320, 256, 256}, {8320, 768, 256}, {8320, 1024, 256}, {8320, 256, 1024}, {8320, 768, 768}, {400, 768, 768}, {400, 2304, 768},
    {400, 3072, 768}, {400, 768, 3072}, {1600, 3072, 768}, {50, 768, 768},    {50, 3072, 768},  {1, 768, 768},
};

/* test_kernel --bench [threads] [tier]: the products of training and of ViT-B/32, attention at 65 places, the row kernels. */
static int run_bench(int threads, const char *only)
{
    bs_pool *pool = bs_pool_open(threads, NULL);
    for (int i = tier_count - 1; i >= 0; i--) {
        bench b = {.t = tiers[i], .w = kn_work_open(tiers[i], pool, NULL)};
        if (!b.w || (only && strcmp(only, b.t->name))) {
            kn_work_close(b.w);
            continue;
        }
        b.peak = peak_of(b.t) * threads;
        printf("%-8s peak %.1f GFLOP/s of %d threads\n", b.t->name, b.peak, threads);
        for (size_t s = 0; s < sizeof bench_shapes / sizeof *bench_shapes; s++) {
            bench_gemm(&b, bench_shapes[s][0], bench_shapes[s][1], bench_shapes[s][2], 2);
            bench_packed(&b, bench_shapes[s][0], bench_shapes[s][1], bench_shapes[s][2]);
        }
        for (int bf16 = 0; bf16 <= (kn_work_has_bf16(b.w) ? 4 : 0); bf16 += 4)
            for (size_t s = 0; s < 5; s++) {
                if (bf16)
                    bench_gemm(&b, bench_shapes[s][0], bench_shapes[s][1], bench_shapes[s][2], 2 + bf16);
                bench_gemm(&b, bench_shapes[s][0], bench_shapes[s][2], bench_shapes[s][1], 0 + bf16); /* dX = dY W */
                bench_gemm(&b, bench_shapes[s][1], bench_shapes[s][2], bench_shapes[s][0], 1 + bf16); /* dW = dY^T X */
            }
        bench_attention(&b, 256, 65, 65, 32, SIDE_BY_SIDE);
        bench_attention(&b, 256, 65, 65, 64, SIDE_BY_SIDE);
        bench_attention(&b, 256, 32, 32, 64, SIDE_BY_SIDE | CAUSAL);
        bench_attention(&b, 12, 577, 577, 64, SIDE_BY_SIDE);
        bench_attention(&b, 1, 2048, 2048, 128, SIDE_BY_SIDE | CAUSAL | GQA);
        bench_attention(&b, 8, 1, 4096, 128, GQA);
        bench_attention(&b, 8, 1, 4096, 128, 0);
        bench_rows(&b);
        printf("%-8s peak %.1f GFLOP/s of %d threads, at the end\n", b.t->name, peak_of(b.t) * threads, threads);
        kn_work_close(b.w);
    }
    bs_pool_close(pool);
    return 0;
}

/* ---- pictures ------------------------------------------------------------------------------------------- */

static uint8_t *random_bytes(long n)
{
    uint8_t *x = fence((size_t)n);
    for (long i = 0; i < n; i++)
        x[i] = (uint8_t)bs_rng_below(&rng, 256);
    return x;
}

static void same_bytes(const char *tier, const char *what, const void *got, const void *want, size_t n)
{
    if (memcmp(got, want, n))
        fail_msg("%s, %s: not the bytes of generic C (seed %llu)", tier, what, (unsigned long long)seed);
}

/* Weights of either sign that add up to one, as a filter's do, in n outputs of up to `most` inputs out of `in`. */
static kn_taps random_taps(long n, long most, long in)
{
    long room = (most + KN_TAP_LANES - 1) / KN_TAP_LANES * KN_TAP_LANES;
    kn_taps t = {
        n, room, fence((size_t)n * 4), fence((size_t)n * 4), fence((size_t)(n * room) * 2), fence((size_t)(n * room) * 2)};
    memset(t.low, 0, (size_t)(n * room) * 2);
    memset(t.high, 0, (size_t)(n * room) * 2);
    for (long i = 0; i < n; i++) {
        t.count[i] = 1 + (int32_t)bs_rng_below(&rng, (uint32_t)most);
        t.first[i] = (int32_t)bs_rng_below(&rng, (uint32_t)(in - t.count[i] + 1));
        int32_t left = 1 << KN_TAP_BITS, step = (1 << KN_TAP_BITS) / t.count[i];
        for (long k = 0; k < t.count[i]; k++) {
            int32_t w = k + 1 == t.count[i] ? left : step + (int32_t)bs_rng_below(&rng, 40001) - 20000;
            int32_t high = (w + (1 << (KN_TAP_SPLIT - 1))) >> KN_TAP_SPLIT;
            left -= w;
            t.high[i * room + k] = (int16_t)high;
            t.low[i * room + k] = (int16_t)(w - high * (1 << KN_TAP_SPLIT));
        }
    }
    return t;
}

static void check_row_of_pixels(const kn_table *t, long n)
{
    const kn_table *truth = tiers[0];
    long most = 1 + (long)bs_rng_below(&rng, (uint32_t)(n < 70 ? n : 70)), plane = n + most + KN_TAP_LANES;
    uint8_t *rgb = random_bytes(3 * n), *a = fence((size_t)n * 3), *b = fence((size_t)n * 3);
    int16_t *p = fence((size_t)(3 * plane) * 2), *q = fence((size_t)(3 * plane) * 2);
    memset(p, 0, (size_t)(3 * plane) * 2);
    memset(q, 0, (size_t)(3 * plane) * 2);
    t->split_rgb(n, rgb, p, plane);
    truth->split_rgb(n, rgb, q, plane);
    same_bytes(t->name, "split_rgb", p, q, (size_t)(3 * plane) * 2);
    kn_taps taps = random_taps(n, most, n);
    t->blend_pixels(&taps, p, plane, a);
    truth->blend_pixels(&taps, q, plane, b);
    same_bytes(t->name, "blend_pixels", a, b, (size_t)n * 3);
    float *table = random_floats(768, -3, 3), *x = zeros(3 * n + 2), *y = zeros(3 * n + 2);
    t->rgb_to_floats(n, rgb, table, x, n + 1);
    truth->rgb_to_floats(n, rgb, table, y, n + 1);
    same_bits(t->name, "rgb_to_floats", x, y, 3 * n + 2);
    unfence();
}

static void check_blend_rows(const kn_table *t, long n, long rows)
{
    const uint8_t *row[40];
    uint8_t *a = fence((size_t)n), *b = fence((size_t)n);
    for (long k = 0; k < rows; k++)
        row[k] = random_bytes(n);
    kn_taps taps = random_taps(1, rows, rows);
    t->blend_rows(n, rows, row, taps.low, taps.high, a);
    tiers[0]->blend_rows(n, rows, row, taps.low, taps.high, b);
    same_bytes(t->name, "blend_rows", a, b, (size_t)n);
    unfence();
}

static void pictures_have_the_same_bytes(void **state)
{
    (void)state;
    const kn_table *t;
    EACH_TIER (t)
        for (int i = 0; i < LENGTHS; i++) {
            for (int k = 0; k < 4; k++)
                check_row_of_pixels(t, lengths[i]);
            for (long rows = 1; rows <= 40; rows += 1 + rows / 4)
                check_blend_rows(t, lengths[i], rows);
        }
}

int main(int argc, char **argv)
{
    const char *given = getenv("OCELLI_SEED");
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)(bs_now() * 1e6);
    bs_rng_seed(&rng, seed, 1);
    tiers = kn_all(&tier_count);
    if (argc > 1 && !strcmp(argv[1], "--bench"))
        return run_bench(argc > 2 ? atoi(argv[2]) : 1, argc > 3 ? argv[3] : NULL);
    print_message("# seed %llu (OCELLI_SEED repeats it)\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiers_are_found),
        cmocka_unit_test(tiles_are_exact),
        cmocka_unit_test(packing_is_exact),
        cmocka_unit_test(gemm_is_right),
        cmocka_unit_test(gemm_keeps_its_bits),
        cmocka_unit_test(thirds_have_the_bits_of_plain_c),
        cmocka_unit_test(what_is_not_finite_is_seen),
        cmocka_unit_test(small_numbers_keep_their_bits),
        cmocka_unit_test(activations_are_right),
        cmocka_unit_test(exp_is_right),
        cmocka_unit_test(elements_are_right),
        cmocka_unit_test(rotations_are_right),
        cmocka_unit_test(angles_are_those_of_libm),
        cmocka_unit_test(sums_are_right),
        cmocka_unit_test(rows_are_added),
        cmocka_unit_test(norms_are_right),
        cmocka_unit_test(norm_backwards_are_right),
        cmocka_unit_test(softmax_is_right),
        cmocka_unit_test(columns_are_right),
        cmocka_unit_test(adamw_is_right),
        cmocka_unit_test(halves_are_right),
        cmocka_unit_test(narrowing_rounds),
        cmocka_unit_test(many_rows_keep_their_bits),
        cmocka_unit_test(cross_entropy_is_right),
        cmocka_unit_test(pictures_have_the_same_bytes),
        cmocka_unit_test(attention_is_right),
        cmocka_unit_test(queries_keep_their_bits),
        cmocka_unit_test(hidden_blocks_add_nothing),
        cmocka_unit_test(caches_are_read),
        cmocka_unit_test(each_is_as_alone),
        cmocka_unit_test(scratch_is_bounded),
        cmocka_unit_test(gradients_may_be_left_out),
        cmocka_unit_test(a_lone_key_head_is_shared),
        cmocka_unit_test(few_queries_keep_their_bits),
        cmocka_unit_test(products_by_heads_are_right),
    };
    const struct CMUnitTest threaded[] = {
        cmocka_unit_test(tiers_are_found),           cmocka_unit_test(gemm_keeps_its_bits),
        cmocka_unit_test(many_rows_keep_their_bits), cmocka_unit_test(pictures_have_the_same_bytes),
        cmocka_unit_test(attention_is_right),        cmocka_unit_test(caches_are_read),
        cmocka_unit_test(each_is_as_alone),
    };
    if (ONLY_THREADS)
        return cmocka_run_group_tests_name("kernel, what uses threads", threaded, NULL, NULL);
    return cmocka_run_group_tests_name("kernel", tests, NULL, NULL);
}
