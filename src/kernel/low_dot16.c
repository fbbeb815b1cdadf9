/* low_dot16.c - bf16 weights on AVX512-BF16: activations are rounded to bf16 too, and vdpbf16ps adds the products of pairs. */
#include <immintrin.h>

#include "low.h"
#include "scalar.h"
#include "tiers.h"

enum { VW = 16, NR = 2 * VW, PAIR = 2 };
#define MR 14

/* Pair u of row i goes to p[u * width + i]; a missing second number is 0. */
static void pack_columns(long k, long w, long width, const float *x, long ld, float *p)
{
    long units = (k + 1) / PAIR;
    for (long j = 0; j < w; j++)
        for (long q = 0; q < k; q += PAIR) {
            const float *from = x + j + q * ld;
            uint16_t pair[PAIR] = {kn_float_to_brain(from[0]), q + 1 < k ? kn_float_to_brain(from[ld]) : 0};
            memcpy(p + (j / width * units + q / PAIR) * width + j % width, pair, sizeof pair);
        }
}

/* Rows that lie along k: rounded a stretch at a time, and a pair is packed as a float is. */
static void pack_rows(long k, long w, long width, const float *x, long ld, float *p)
{
    enum { UNITS = 64 };
    float pairs[MR * UNITS];
    for (long q = 0; q < k; q += PAIR * UNITS, p += UNITS * width) {
        long n = k - q < PAIR * UNITS ? k - q : PAIR * UNITS, units = (n + 1) / PAIR;
        for (long i = 0; i < w; i++) {
            uint16_t *to = (uint16_t *)(void *)(pairs + i * UNITS);
            kn_avx512.to_bf16(n, x + i * ld + q, to);
            if (n % PAIR)
                to[n] = 0;
        }
        kn_avx512.pack(units, w, width, pairs, UNITS, true, p);
    }
}

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    if (!transpose)
        pack_columns(k, w, width, x, ld, p);
    else
        for (long row = 0; row < w; row += width, p += (k + 1) / PAIR * width)
            pack_rows(k, w - row < width ? w - row : width, width, x + row * ld, ld, p);
}

static inline __m512bh load(const void *p) { return (__m512bh)_mm512_loadu_si512(p); }

static inline __m512bh broadcast(const float *a)
{
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

static inline __attribute__((always_inline)) void tile_of(const int m, long k, const float *a, long sa, const uint16_t *b,
                                                          float *sum, long ld, bool accumulate, kn_soon next)
{
    long lines = kn_lines_a_step(next, k / PAIR);
    __m512 s[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            s[i][v] = accumulate ? _mm512_loadu_ps(sum + i * ld + v * VW) : _mm512_setzero_ps();
    for (long p = 0; p < k; p += PAIR, a += sa, b += PAIR * NR) {
        kn_ask(&next, lines);
        __m512bh b0 = load(b), b1 = load(b + PAIR * VW);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            __m512bh x = broadcast(a + i);
            s[i][0] = _mm512_dpbf16_ps(s[i][0], b0, x);
            s[i][1] = _mm512_dpbf16_ps(s[i][1], b1, x);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            _mm512_storeu_ps(sum + i * ld + v * VW, s[i][v]);
}

static void tile(long k, const float *a, long sa, const uint16_t *b, float *sum, long ld, int m, bool accumulate, kn_soon next)
{
    switch (m) {
    case 1: tile_of(1, k, a, sa, b, sum, ld, accumulate, next); break;
    case 2: tile_of(2, k, a, sa, b, sum, ld, accumulate, next); break;
    case 3: tile_of(3, k, a, sa, b, sum, ld, accumulate, next); break;
    case 4: tile_of(4, k, a, sa, b, sum, ld, accumulate, next); break;
    case 5: tile_of(5, k, a, sa, b, sum, ld, accumulate, next); break;
    case 6: tile_of(6, k, a, sa, b, sum, ld, accumulate, next); break;
    case 7: tile_of(7, k, a, sa, b, sum, ld, accumulate, next); break;
    case 8: tile_of(8, k, a, sa, b, sum, ld, accumulate, next); break;
    case 9: tile_of(9, k, a, sa, b, sum, ld, accumulate, next); break;
    case 10: tile_of(10, k, a, sa, b, sum, ld, accumulate, next); break;
    case 11: tile_of(11, k, a, sa, b, sum, ld, accumulate, next); break;
    case 12: tile_of(12, k, a, sa, b, sum, ld, accumulate, next); break;
    case 13: tile_of(13, k, a, sa, b, sum, ld, accumulate, next); break;
    case 14: tile_of(14, k, a, sa, b, sum, ld, accumulate, next); break;
    default: break;
    }
}

const kn_low_bf16 kn_low_bf16_dot = {.nr = NR, .mr = MR, .pair = 1, .pack = pack, .tile = tile};
