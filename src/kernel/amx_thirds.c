/* amx_thirds.c - fp32 products by AMX (Sapphire Rapids and later), each number as three of bf16 (thirds.h).
 *
 * A register holds 16 rows of 64 bytes, pairs of bf16 along k. Numbers i and i + 16 of 32 along k are a pair, in A as in B: so a pair is made by one shift
 * and one or. 32 of k of 32 lines take six squares of 1 KB: the first parts of 16 lines and of the 16 others, then the second, then the third. */
#include "amx.h"
#include "simd_avx512.h"
#include "thirds.h"

enum {
    SIDE = 2 * KN_AMX_ROWS,
    HALF = KN_AMX_ROWS,
    DEEP = 32,
    PARTS = 3,
    SQUARE = KN_AMX_TILE,
    PART = 2 * SQUARE,
    SPLIT = PARTS * PART
};
enum { SQUARE_FLOATS = SQUARE / 4 };
/* What is asked for while a square is split, in floats from what it reads: A's lines further on; where x is rows, their next columns; else B's next lines. */
enum { FURTHER_ON = 4 * DEEP, NEXT_COLUMNS = SIDE, NEXT_LINES = SIDE };

/* The three parts of the pairs (a, b): a in the lower halves. All but the last are rounded, halves up. */
static inline void split(__m512 a, __m512 b, __m512i part[PARTS])
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000);
#pragma GCC unroll 3
    for (int i = 0; i < PARTS; i++) {
        __m512i x = (__m512i)a, y = (__m512i)b;
        if (i < PARTS - 1) {
            x = _mm512_add_epi32(x, half);
            y = _mm512_add_epi32(y, half);
        }
        y = _mm512_and_si512(y, upper);
        part[i] = _mm512_or_si512(_mm512_srli_epi32(x, 16), y);
        a = _mm512_sub_ps(a, (__m512)_mm512_and_si512(x, upper));
        b = _mm512_sub_ps(b, (__m512)y);
    }
}

/* 16 lines by 32 of k; what lies `ahead` is asked for. Rows of the squares are lines where `lines_are_rows`, else pairs along k; x has lines as rows unless
 * `turned`. */
static inline __attribute__((always_inline)) void split_square(const bool lines_are_rows, const bool turned, const float *x,
                                                               long ld, long ahead, long lines, long k, uint8_t *to)
{
    __mmask16 low = turned ? kn_amx_first(lines) : kn_amx_first(k), high = turned ? kn_amx_first(lines) : kn_amx_first(k - HALF);
    for (int i = 0; i < HALF; i++) {
        const float *a = x + i * ld, *b = turned ? a + HALF * ld : a + HALF;
        bool has_a = i < (turned ? k : lines), has_b = turned ? i + HALF < k : has_a;
        if (has_a)
            __builtin_prefetch(a + ahead, 0, 2);
        if (has_b)
            __builtin_prefetch(b + ahead, 0, 2);
        __m512i part[PARTS];
        split(has_a ? _mm512_maskz_loadu_ps(low, a) : _mm512_setzero_ps(),
              has_b ? _mm512_maskz_loadu_ps(high, b) : _mm512_setzero_ps(), part);
        for (int p = 0; p < PARTS; p++)
            _mm512_store_si512(to + p * PART + i * KN_AMX_BYTES, part[p]);
    }
    if (lines_are_rows != turned)
        return;
    for (int p = 0; p < PARTS; p++) {
        __m512 r[HALF];
        for (int i = 0; i < HALF; i++)
            r[i] = _mm512_load_ps(to + p * PART + i * KN_AMX_BYTES);
        v_transpose(r);
        for (int i = 0; i < HALF; i++)
            _mm512_store_ps(to + p * PART + i * KN_AMX_BYTES, r[i]);
    }
}

static inline __attribute__((always_inline)) void split_lines(const bool lines_are_rows, const bool turned, long k, long lines,
                                                              const float *x, long ld, long ahead, uint8_t *to)
{
    for (long half = 0; half < (lines_are_rows ? lines : SIDE); half += HALF)
        for (long q = 0; q < k; q += DEEP)
            split_square(lines_are_rows, turned, x + (turned ? q * ld + half : half * ld + q), ld, ahead, lines - half, k - q,
                         to + q / DEEP * SPLIT + half / HALF * SQUARE);
}

static void split_a(long k, long lines, const float *x, long ld, bool turned, uint8_t *to)
{
    if (turned)
        split_lines(true, true, k, lines, x, ld, NEXT_COLUMNS, to);
    else
        split_lines(true, false, k, lines, x, ld, FURTHER_ON, to);
}

static void split_b(long k, long lines, const float *x, long ld, bool turned, uint8_t *to)
{
    if (turned)
        split_lines(false, true, k, lines, x, ld, NEXT_COLUMNS, to);
    else
        split_lines(false, false, k, lines, x, ld, NEXT_LINES * ld, to);
}

/* n of the steps of a strip that is split: a row of the upper 16 of 32, and the row 16 below. */
static inline void split_some(kn_splitting *s, unsigned long n)
{
    for (; n > 0 && s->done < s->steps; n--, s->done++) {
        unsigned long block = s->done / HALF, i = s->done % HALF;
        const float *x = s->x + (long)(block * DEEP + i) * s->ld, *below = x + HALF * s->ld;
        uint8_t *to = s->to + block * SPLIT + i * KN_AMX_BYTES;
        __m512i left[PARTS], right[PARTS];
        split(_mm512_loadu_ps(x), _mm512_loadu_ps(below), left);
        split(_mm512_loadu_ps(x + HALF), _mm512_loadu_ps(below + HALF), right);
#pragma GCC unroll 3
        for (int p = 0; p < PARTS; p++, to += PART) {
            _mm512_store_si512(to, left[p]);
            _mm512_store_si512(to + SQUARE, right[p]);
        }
    }
}

/* ---- the micro-kernel ------------------------------------------------------------------------------------- */

static inline void load_a(const uint8_t *a, int part, const bool lower)
{
    _tile_loadd(4, a + part * PART, KN_AMX_BYTES);
    if (lower)
        _tile_loadd(5, a + part * PART + SQUARE, KN_AMX_BYTES);
}

static inline void load_b(const uint8_t *b, int part)
{
    _tile_loadd(6, b + part * PART, KN_AMX_BYTES);
    _tile_loadd(7, b + part * PART + SQUARE, KN_AMX_BYTES);
}

static inline void multiply(const bool lower)
{
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (!lower)
        return;
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* The six products, each a load away from the one before: A's parts come from the second cache, once each, B's from the first. While AMX multiplies, vectors
 * split what comes next. */
static inline __attribute__((always_inline)) void six(const bool lower, long k, const uint8_t *a, const uint8_t *b,
                                                      kn_meanwhile *also)
{
    enum { PRODUCTS = 6 };
    long steps = (k + DEEP - 1) / DEEP, of_weights = kn_lines_a_step(also->weights, 3 * steps),
         of_sums = kn_lines_a_step(also->sums, steps);
    unsigned long of_split = (also->share + PRODUCTS * (unsigned long)steps - 1) / (PRODUCTS * (unsigned long)steps);
    for (; steps > 0; steps--, a += SPLIT, b += SPLIT) {
        load_a(a, 2, lower);
        load_b(b, 0);
        multiply(lower);
        kn_ask(&also->weights, of_weights);
        split_some(also->next, of_split);
        load_a(a, 1, lower);
        multiply(lower);
        kn_ask(&also->sums, of_sums);
        split_some(also->next, of_split);
        load_b(b, 1);
        multiply(lower);
        kn_ask(&also->weights, of_weights);
        split_some(also->next, of_split);
        load_a(a, 0, lower);
        multiply(lower);
        split_some(also->next, of_split);
        load_b(b, 2);
        multiply(lower);
        kn_ask(&also->weights, of_weights);
        split_some(also->next, of_split);
        load_b(b, 0);
        multiply(lower);
        split_some(also->next, of_split);
    }
}

static inline __attribute__((always_inline)) void tile_of(const bool lower, long k, const uint8_t *a, const uint8_t *b,
                                                          float *sums, bool accumulate, kn_meanwhile *also)
{
    if (accumulate) {
        _tile_loadd(0, sums, KN_AMX_BYTES);
        _tile_loadd(1, sums + SQUARE_FLOATS, KN_AMX_BYTES);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    if (lower && accumulate) {
        _tile_loadd(2, sums + 2 * SQUARE_FLOATS, KN_AMX_BYTES);
        _tile_loadd(3, sums + 3 * SQUARE_FLOATS, KN_AMX_BYTES);
    } else if (lower) {
        _tile_zero(2);
        _tile_zero(3);
    }
    six(lower, k, a, b, also);
    _tile_stored(0, sums, KN_AMX_BYTES);
    _tile_stored(1, sums + SQUARE_FLOATS, KN_AMX_BYTES);
    if (!lower)
        return;
    _tile_stored(2, sums + 2 * SQUARE_FLOATS, KN_AMX_BYTES);
    _tile_stored(3, sums + 3 * SQUARE_FLOATS, KN_AMX_BYTES);
}

static void tile(long k, const uint8_t *a, const uint8_t *b, float *sums, int m, bool accumulate, kn_meanwhile *also)
{
    kn_amx_reshape(m);
    if (m > HALF)
        tile_of(true, k, a, b, sums, accumulate, also);
    else
        tile_of(false, k, a, b, sums, accumulate, also);
}

/* ---- one row ---------------------------------------------------------------------------------------------- */

/* Row 0 of 32 of k as floats: a[part][number along k]. */
static inline void widen_row(const uint8_t *a, float to[PARTS][DEEP])
{
    for (int p = 0; p < PARTS; p++) {
        __m512i pairs = _mm512_load_si512(a + p * PART);
        _mm512_store_si512(to[p], _mm512_slli_epi32(pairs, 16));
        _mm512_store_si512(to[p] + HALF, _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
    }
}

static inline __m512 rounded(__m512 x)
{
    return (__m512)_mm512_and_si512(_mm512_add_epi32((__m512i)x, _mm512_set1_epi32(0x8000)), _mm512_set1_epi32((int)0xffff0000));
}

/* s[n] += its product of number `at` of the row with 16 columns; products in six()'s order. */
static inline void six_of(float a[PARTS][DEEP], int at, __m512 x, __m512 s[6])
{
    __m512 b0 = rounded(x), rest = _mm512_sub_ps(x, b0), b1 = rounded(rest), b2 = _mm512_sub_ps(rest, b1);
    __m512 a0 = _mm512_set1_ps(a[0][at]), a1 = _mm512_set1_ps(a[1][at]), a2 = _mm512_set1_ps(a[2][at]);
    s[0] = _mm512_fmadd_ps(a2, b0, s[0]);
    s[1] = _mm512_fmadd_ps(a1, b0, s[1]);
    s[2] = _mm512_fmadd_ps(a1, b1, s[2]);
    s[3] = _mm512_fmadd_ps(a0, b1, s[3]);
    s[4] = _mm512_fmadd_ps(a0, b2, s[4]);
    s[5] = _mm512_fmadd_ps(a0, b0, s[5]);
}

/* 32 of k by 16 columns of a strip, as TDPBF16PS adds: the lower halves of pairs and the upper ones apart, then both, then to the sum. */
static inline __m512 square_of_row(float a[PARTS][DEEP], const float *b, __m512 sum)
{
    __m512 low[6], high[6];
#pragma GCC unroll 6
    for (int n = 0; n < 6; n++)
        low[n] = high[n] = _mm512_setzero_ps();
    for (int i = 0; i < HALF; i++, b += SIDE) {
        six_of(a, i, _mm512_loadu_ps(b), low);
        six_of(a, i + HALF, _mm512_loadu_ps(b + HALF * SIDE), high);
    }
#pragma GCC unroll 6
    for (int n = 0; n < 6; n++)
        sum = _mm512_add_ps(sum, _mm512_add_ps(low[n], high[n]));
    return sum;
}

/* The bits of tile() with m = 1, by vectors, which do not have to lay out a strip first. */
static void single(long k, const uint8_t *a, const float *b, float *sums, bool accumulate, kn_soon weights)
{
    __m512 left = accumulate ? _mm512_load_ps(sums) : _mm512_setzero_ps();
    __m512 right = accumulate ? _mm512_load_ps(sums + SQUARE_FLOATS) : _mm512_setzero_ps();
    long each = kn_lines_a_step(weights, 2 * k / DEEP);
    for (; k > 0; k -= DEEP, a += SPLIT, b += DEEP * SIDE) {
        _Alignas(64) float row[PARTS][DEEP];
        widen_row(a, row);
        kn_ask(&weights, each);
        left = square_of_row(row, b, left);
        kn_ask(&weights, each);
        right = square_of_row(row, b + HALF, right);
    }
    _mm512_store_ps(sums, left);
    _mm512_store_ps(sums + SQUARE_FLOATS, right);
}

/* AMX takes what is below fp32's normal numbers as 0, in and out; so do vectors between these, or a row's bits would depend on which of the two it met. */
static _Thread_local unsigned modes;

static void begin(void)
{
    enum { FLUSH = 1 << 15, DENORMALS_ARE_ZEROS = 1 << 6 };
    modes = _mm_getcsr();
    _mm_setcsr(modes | FLUSH | DENORMALS_ARE_ZEROS);
    kn_amx_begin();
}

static void end(void)
{
    kn_amx_end();
    _mm_setcsr(modes);
}

static void row(const float *sums, int i, float *to)
{
    const float *left = sums + i / HALF * 2 * SQUARE_FLOATS + i % HALF * HALF;
    _mm512_storeu_ps(to, _mm512_loadu_ps(left));
    _mm512_storeu_ps(to + HALF, _mm512_loadu_ps(left + SQUARE_FLOATS));
}

const kn_thirds kn_thirds_amx = {.mr = SIDE,
                                 .nr = SIDE,
                                 .deep = DEEP,
                                 .split = SPLIT,
                                 .split_a = split_a,
                                 .split_b = split_b,
                                 .tile = tile,
                                 .single = single,
                                 .sums = 4 * SQUARE_FLOATS,
                                 .row = row,
                                 .begin = begin,
                                 .end = end};
