/* amx.c - products of bf16 numbers summed in fp32 by AMX tiles (Sapphire Rapids and later): the micro-kernel and packing of
 * low-precision GEMM.
 *
 * A tile holds 16 rows of 64 bytes. TDPBF16PS takes A as rows of 32 numbers along k, and B as rows of pairs along k: the
 * one is the other with its 32-bit pairs transposed. A packed strip is 32 lines wide: two tiles of A (or of B) for every
 * 32 of k. Lines that the operand lacks hold anything, as they end in sums that nobody stores; what is missing along k is 0. */
#include "amx.h"
#include "low.h"
#include "simd_avx512.h"

enum { SIDE = 32, HALF = KN_AMX_ROWS, DEEP = 32, ROW_BYTES = KN_AMX_BYTES, TILE_BYTES = KN_AMX_TILE };
enum { LINES_AHEAD = 3 }; /* how far in front memory is asked */

/* The place of line j and number q along k in packed strips: tile rows are lines (A) or pairs along k (B). */
static inline uint8_t *a_row(float *p, long k, long j, long q)
{
    return (uint8_t *)(p + j / SIDE * SIDE * k) + q / DEEP * (2 * TILE_BYTES) + j % SIDE / HALF * TILE_BYTES +
           j % HALF * ROW_BYTES;
}

static inline uint8_t *b_row(float *p, long k, long j, long q)
{
    return (uint8_t *)(p + j / SIDE * SIDE * k) + q / DEEP * (2 * TILE_BYTES) + j % SIDE / HALF * TILE_BYTES +
           q % DEEP / 2 * ROW_BYTES;
}

static inline void put(uint8_t *to, __m512i x) { _mm512_storeu_si512(to, x); }

/* 32 numbers along k in their order, as bf16. */
static inline __m512i along(const float *x, long n)
{
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(kn_amx_first(n - HALF), x + HALF), _mm512_maskz_loadu_ps(kn_amx_first(n), x));
}

/* 16 pairs (x[j], y[j]) of two rows, as bf16. */
static inline __m512i pairs(__m512 x, __m512 y)
{
    const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
                                           4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(turns, (__m512i)_mm512_cvtne2ps_pbh(y, x));
}

static inline __m512i pairs_of_rows(const float *x, long ld, long rows, __mmask16 m)
{
    __m512 a = rows > 0 ? _mm512_maskz_loadu_ps(m, x) : _mm512_setzero_ps(),
           b = rows > 1 ? _mm512_maskz_loadu_ps(m, x + ld) : _mm512_setzero_ps();
    return pairs(a, b);
}

/* A that runs along k, line by line. */
static void pack_lines(long k, long w, const float *x, long ld, float *p)
{
    for (long j = 0; j < w; j++) {
        long ahead = j + LINES_AHEAD < w ? LINES_AHEAD * ld : 0;
        for (long q = 0; q < k; q += DEEP) {
            __builtin_prefetch(x + j * ld + q + ahead);
            __builtin_prefetch(x + j * ld + q + HALF + ahead);
            put(a_row(p, k, j, q), along(x + j * ld + q, k - q));
        }
    }
}

/* B whose rows are k, two rows at a time; past k come pairs of zeros. */
static void pack_pairs(long k, long w, const float *x, long ld, float *p)
{
    for (long q = 0; q < (k + DEEP - 1) / DEEP * DEEP; q += 2)
        for (long j = 0; j < w; j += HALF)
            put(b_row(p, k, j, q), pairs_of_rows(x + q * ld + j, ld, k - q, kn_amx_first(w - j)));
}

/* A whose rows are k: pairs as for B, turned. */
static void pack_pairs_turned(long k, long w, const float *x, long ld, float *p)
{
    for (long q = 0; q < k; q += DEEP)
        for (long j = 0; j < w; j += HALF) {
            __m512 r[HALF];
            for (int i = 0; i < HALF; i++)
                r[i] = _mm512_castsi512_ps(pairs_of_rows(x + (q + 2 * i) * ld + j, ld, k - q - 2 * i, kn_amx_first(w - j)));
            v_transpose(r);
            for (int i = 0; i < HALF; i++)
                put(a_row(p, k, j + i, q), _mm512_castps_si512(r[i]));
        }
}

/* B that runs along k: lines as for A, turned. */
static void pack_lines_turned(long k, long w, const float *x, long ld, float *p)
{
    for (long j = 0; j < w; j += HALF)
        for (long q = 0; q < k; q += DEEP) {
            __m512 r[HALF];
            for (int i = 0; i < HALF; i++)
                r[i] = i < w - j ? _mm512_castsi512_ps(along(x + (j + i) * ld + q, k - q)) : _mm512_setzero_ps();
            v_transpose(r);
            for (int i = 0; i < HALF; i++)
                put(b_row(p, k, j, q + 2 * i), _mm512_castps_si512(r[i]));
        }
}

static void pack_a(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    (void)width;
    if (transpose)
        pack_lines(k, w, x, ld, p);
    else
        pack_pairs_turned(k, w, x, ld, p);
}

static void pack_b(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    (void)width;
    if (transpose)
        pack_lines_turned(k, w, x, ld, p);
    else
        pack_pairs(k, w, x, ld, p);
}

static void begin(void) { kn_amx_shape(SIDE); }

/* Tiles 0 to 3 += A B; 4 and 5 hold A, 6 and 7 B. */
static void multiply(long k, const float *a, const float *b)
{
    const uint8_t *x = (const uint8_t *)a, *y = (const uint8_t *)b;
    for (long q = 0; q < k; q += DEEP, x += 2 * TILE_BYTES, y += 2 * TILE_BYTES) {
        _tile_loadd(4, x, ROW_BYTES);
        _tile_loadd(6, y, ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, y + TILE_BYTES, ROW_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, x + TILE_BYTES, ROW_BYTES);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* c = old + A B (or A B) on a whole 32 by 32 piece of C: the sums start from what is old. */
static void whole(long k, const float *a, const float *b, float *c, long ldc, const float *old, long ldo)
{
    size_t row = (size_t)ldc * sizeof *c, old_row = (size_t)ldo * sizeof *c;
    float *low = c + HALF * ldc;
    if (old) {
        const float *old_low = old + HALF * ldo;
        _tile_loadd(0, old, old_row);
        _tile_loadd(1, old + HALF, old_row);
        _tile_loadd(2, old_low, old_row);
        _tile_loadd(3, old_low + HALF, old_row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    multiply(k, a, b);
    _tile_stored(0, c, row);
    _tile_stored(1, c + HALF, row);
    _tile_stored(2, low, row);
    _tile_stored(3, low + HALF, row);
}

static void copy(const float *from, long ld_from, float *to, long ld_to, int m, int n)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j += HALF)
            _mm512_mask_storeu_ps(to + i * ld_to + j, kn_amx_first(n - j), _mm512_maskz_loadu_ps(kn_amx_first(n - j), from + i * ld_from + j));
}

static void add_scaled(const float *sum, float *c, long ldc, int m, int n, float alpha, const float *old, long ldo)
{
    __m512 scale = _mm512_set1_ps(alpha);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j += HALF) {
            __m512 before = old ? _mm512_maskz_loadu_ps(kn_amx_first(n - j), old + i * ldo + j) : _mm512_setzero_ps();
            _mm512_mask_storeu_ps(c + i * ldc + j, kn_amx_first(n - j), _mm512_fmadd_ps(scale, _mm512_load_ps(sum + i * SIDE + j), before));
        }
}

/* A piece of C that is not whole goes through a whole one, so that an element's sum is the same in both. */
static void tile(long k, const float *a, long sa, const float *b, long sb, float *c, long ldc, int m, int n, float alpha,
                 const float *old, long ldo, const float *ahead, long floats)
{
    (void)ahead;
    (void)floats;
    _Alignas(64) float sum[SIDE * SIDE];
    (void)sa;
    (void)sb;
    if (alpha == 1 && m == SIDE && n == SIDE) {
        whole(k, a, b, c, ldc, old, ldo);
    } else if (alpha == 1) {
        if (old)
            copy(old, ldo, sum, SIDE, m, n);
        whole(k, a, b, sum, SIDE, old ? sum : NULL, SIDE);
        copy(sum, SIDE, c, ldc, m, n);
    } else {
        whole(k, a, b, sum, SIDE, NULL, 0);
        add_scaled(sum, c, ldc, m, n, alpha, old, ldo);
    }
}

const kn_micro kn_amx_bf16 = {
    .mr = SIDE, .nr = SIDE, .mc = 8 * SIDE, .tile = tile, .pack_a = pack_a, .pack_b = pack_b, .begin = begin, .end = kn_amx_end};
