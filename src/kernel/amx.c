/* amx.c - products of bf16 numbers summed in fp32 by AMX tiles (Sapphire Rapids and later): the micro-kernel and packing of low-precision GEMM.
 *
 * A tile holds 16 rows of 64 bytes. TDPBF16PS takes A as rows of 32 numbers along k, and B as rows of pairs along k: the one is the other
 * with its 32-bit pairs transposed, so a strip of either operand is built from the same two loads and one transpose. */
#include <immintrin.h>
#include <string.h>

#include "low.h"
#include "simd_avx512.h"

enum { SIDE = 32, HALF = 16, DEEP = 32, TILE_BYTES = 1024 };

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} tile_config;

/* 16 numbers rounded to bf16, each in the low half of 32 bits. */
static inline __m512i low_halves(__m512 x) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)); }

/* Rows q and q + 1 of x side by side in pairs: out[j] = (x[q][j], x[q+1][j]). */
static inline __m512i pair_rows(const float *x, long ld, long rows, __mmask16 m)
{
    __m512 a = rows > 0 ? _mm512_maskz_loadu_ps(m, x) : _mm512_setzero_ps(), b = rows > 1 ? _mm512_maskz_loadu_ps(m, x + ld) : _mm512_setzero_ps();
    return _mm512_or_si512(low_halves(a), _mm512_slli_epi32(low_halves(b), 16));
}

/* 32 numbers along k in their order. */
static inline __m512i along(const float *x, long n)
{
    __mmask16 m0 = (__mmask16)(n >= HALF ? 0xffff : (1u << n) - 1), m1 = (__mmask16)(n >= DEEP ? 0xffff : n > HALF ? (1u << (n - HALF)) - 1 : 0);
    __m512 low = _mm512_maskz_loadu_ps(m0, x), high = _mm512_maskz_loadu_ps(m1, x + HALF);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* One tile: 16 lines j (`w` exist) by 32 of k (`k` exist); transposed says that x runs along k, turn that the result's pairs are exchanged. */
static void pack_tile(long k, long w, const float *x, long ld, bool transposed, bool turn, uint8_t *to)
{
    __m512 r[HALF];
    __mmask16 m = (__mmask16)(w >= HALF ? 0xffff : (1u << w) - 1);
    for (int i = 0; i < HALF; i++) {
        __m512i v;
        if (transposed)
            v = i < w ? along(x + i * ld, k) : _mm512_setzero_si512();
        else
            v = pair_rows(x + 2 * i * ld, ld, k - 2 * i, m);
        r[i] = _mm512_castsi512_ps(v);
    }
    if (turn)
        v_transpose(r);
    for (int i = 0; i < HALF; i++)
        _mm512_storeu_ps((float *)(void *)(to + i * 64), r[i]);
}

static void pack(long k, long w, const float *x, long ld, bool transposed, bool turn, float *p)
{
    uint8_t *to = (uint8_t *)p;
    for (long q = 0; q < k; q += DEEP)
        for (long j = 0; j < SIDE; j += HALF, to += TILE_BYTES) {
            if (j < w)
                pack_tile(k - q, w - j, transposed ? x + j * ld + q : x + q * ld + j, ld, transposed, turn, to);
            else
                memset(to, 0, TILE_BYTES);
        }
}

/* A's tiles have lines as rows: that is how x lies when it runs along k. B's have pairs along k as rows. */
static void pack_a(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    (void)width;
    pack(k, w, x, ld, transpose, !transpose, p);
}

static void pack_b(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    (void)width;
    pack(k, w, x, ld, transpose, transpose, p);
}

static void add_to(const float *sum, float *c, long ldc, int m, int n, float alpha, bool accumulate)
{
    __m512 scale = _mm512_set1_ps(alpha);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j += HALF) {
            __mmask16 part = (__mmask16)(n - j >= HALF ? 0xffff : (1u << (n - j)) - 1);
            __m512 old = accumulate ? _mm512_maskz_loadu_ps(part, c + i * ldc + j) : _mm512_setzero_ps();
            _mm512_mask_storeu_ps(c + i * ldc + j, part, _mm512_fmadd_ps(scale, _mm512_load_ps(sum + i * SIDE + j), old));
        }
}

static void tile(long k, const float *a, long sa, const float *b, long sb, float *c, long ldc, int m, int n, float alpha, bool accumulate)
{
    (void)sa;
    (void)sb;
    static const tile_config config = {.palette = 1, .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _Alignas(64) float sum[SIDE * SIDE];
    const uint8_t *x = (const uint8_t *)a, *y = (const uint8_t *)b;
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long q = 0; q < k; q += DEEP, x += 2 * TILE_BYTES, y += 2 * TILE_BYTES) {
        _tile_loadd(4, x, 64);
        _tile_loadd(6, y, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, y + TILE_BYTES, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, x + TILE_BYTES, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sum, SIDE * sizeof(float));
    _tile_stored(1, sum + HALF, SIDE * sizeof(float));
    _tile_stored(2, sum + HALF * SIDE, SIDE * sizeof(float));
    _tile_stored(3, sum + HALF * SIDE + HALF, SIDE * sizeof(float));
    _tile_release();
    add_to(sum, c, ldc, m, n, alpha, accumulate);
}

const kn_micro kn_amx_bf16 = {.mr = SIDE, .nr = SIDE, .mc = 8 * SIDE, .tile = tile, .pack_a = pack_a, .pack_b = pack_b};
