/* pixels_x86.h - the picture kernels of the tiers that have AVX2, the same instructions in each: vectors of 256 bits are wide enough
 * for what stays behind a JPEG decoder. Products of 16-bit pairs are added up in 32 bits. */
#ifndef KN_PIXELS_X86_H
#define KN_PIXELS_X86_H

#include <immintrin.h>
#include <string.h>

#include "pixels_scalar.h"

static inline __m128i px_load16(const void *p) { return _mm_loadu_si128(p); }
static inline __m256i px_load32(const void *p) { return _mm256_loadu_si256(p); }

/* The bytes of one colour out of 48: `at` of the bytes that it has in each third; -1 gives 0. */
static inline __m128i px_pick(__m128i a, __m128i b, __m128i c, const int8_t at[3][16])
{
    __m128i x = _mm_shuffle_epi8(a, px_load16(at[0])), y = _mm_shuffle_epi8(b, px_load16(at[1]));
    return _mm_or_si128(_mm_or_si128(x, y), _mm_shuffle_epi8(c, px_load16(at[2])));
}

static const int8_t px_colour_at[3][3][16] = {
    {{0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1},
     {-1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14, -1, -1, -1, -1, -1},
     {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, 4, 7, 10, 13}},
    {{1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1},
     {-1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1},
     {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14}},
    {{2, 5, 8, 11, 14, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1},
     {-1, -1, -1, -1, -1, 1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1},
     {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15}},
};

/* 16 pixels at a time; the last 16 overlap those before. */
static inline void px_split(long n, const uint8_t *rgb, int16_t *planes, long plane)
{
    for (long at = 0; at < n; at += 16) {
        long i = at + 16 <= n ? at : n - 16;
        __m128i a = px_load16(rgb + 3 * i), b = px_load16(rgb + 3 * i + 16), c = px_load16(rgb + 3 * i + 32);
        for (long k = 0; k < 3; k++)
            _mm256_storeu_si256((void *)(planes + k * plane + i), _mm256_cvtepu8_epi16(px_pick(a, b, c, px_colour_at[k])));
    }
}

static void split_rgb(long n, const uint8_t *rgb, int16_t *planes, long plane)
{
    if (n < 16)
        kn_split_rgb(n, rgb, planes, plane);
    else
        px_split(n, rgb, planes, plane);
}

/* high * 2^KN_TAP_SPLIT + low of each lane. */
static inline __m256i px_join(__m256i low, __m256i high) { return _mm256_add_epi32(low, _mm256_slli_epi32(high, KN_TAP_SPLIT)); }

/* Of each colour eight sums, to be added up, of count products (a multiple of 8): the weights are loaded once for all three. */
static inline void px_products(long count, const int16_t *x, long plane, const int16_t *low, const int16_t *high, __m256i sum[3])
{
    __m256i upper[3] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    sum[0] = sum[1] = sum[2] = upper[0];
    long k = 0;
    for (; k + 16 <= count; k += 16) {
        __m256i l = px_load32(low + k), h = px_load32(high + k);
#pragma GCC unroll 3
        for (int c = 0; c < 3; c++) {
            __m256i v = px_load32(x + c * plane + k);
            sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(v, l));
            upper[c] = _mm256_add_epi32(upper[c], _mm256_madd_epi16(v, h));
        }
    }
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++) {
        if (k < count) {
            __m128i v = px_load16(x + c * plane + k);
            sum[c] = _mm256_add_epi32(sum[c], _mm256_zextsi128_si256(_mm_madd_epi16(v, px_load16(low + k))));
            upper[c] = _mm256_add_epi32(upper[c], _mm256_zextsi128_si256(_mm_madd_epi16(v, px_load16(high + k))));
        }
        sum[c] = px_join(sum[c], upper[c]);
    }
}

/* One output: red, green and blue in the low bytes. */
static inline uint32_t px_output(long room, const int16_t *x, long plane, const int16_t *low, const int16_t *high)
{
    const __m128i half = _mm_set1_epi32(1 << (KN_TAP_BITS - 1));
    __m256i sum[3];
    px_products(room, x, plane, low, high, sum);
    __m256i quarters = _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[2]));
    __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(quarters), _mm256_extracti128_si256(quarters, 1));
    __m128i v = _mm_srai_epi32(_mm_add_epi32(sums, half), KN_TAP_BITS);
    v = _mm_packs_epi32(v, v);
    return (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(v, v));
}

/* Four bytes are written for each output but the last, of which the next output overwrites one. */
static inline void px_blend(long room, const kn_taps *t, const int16_t *planes, long plane, uint8_t *rgb)
{
    uint32_t bytes = 0;
    for (long i = 0; i < t->n; i++, rgb += 3) {
        bytes = px_output(room, planes + t->first[i], plane, t->low + i * room, t->high + i * room);
        memcpy(rgb, &bytes, i + 1 < t->n ? 4 : 3);
    }
}

/* The lengths of the scales that are most frequent as constants. */
static void blend_pixels(const kn_taps *t, const int16_t *planes, long plane, uint8_t *rgb)
{
    if (t->room == 8)
        px_blend(8, t, planes, plane, rgb);
    else if (t->room == 16)
        px_blend(16, t, planes, plane, rgb);
    else
        px_blend(t->room, t, planes, plane, rgb);
}

/* Two neighbouring 16-bit weights in every lane; the second is 0 behind an odd end. */
static inline __m256i px_weight_pair(const int16_t *w, bool two)
{
    return _mm256_set1_epi32((int32_t)((uint16_t)w[0] | (two ? (uint32_t)(uint16_t)w[1] << 16 : 0)));
}

static inline void px_add_pair(__m256i low[4], __m256i high[4], __m256i a, __m256i b, __m256i weight_low, __m256i weight_high)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpackhi_epi8(a, b);
    __m256i v[4] = {_mm256_unpacklo_epi8(ab, zero), _mm256_unpackhi_epi8(ab, zero), _mm256_unpacklo_epi8(cd, zero),
                    _mm256_unpackhi_epi8(cd, zero)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(v[i], weight_low));
        high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(v[i], weight_high));
    }
}

/* 32 bytes of blend_rows. Unpacking and packing both work in halves of a vector, so the bytes are in order again at the end. */
static inline void px_blend_rows(long at, long rows, const uint8_t *const *row, const int16_t *low, const int16_t *high,
                                 uint8_t *y)
{
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (KN_TAP_BITS - 1));
    __m256i sum_low[4] = {zero, zero, zero, zero}, sum_high[4] = {zero, zero, zero, zero};
    for (long k = 0; k < rows; k += 2) {
        bool two = k + 1 < rows;
        px_add_pair(sum_low, sum_high, px_load32(row[k] + at), px_load32(row[two ? k + 1 : k] + at), px_weight_pair(low + k, two),
                    px_weight_pair(high + k, two));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        sum_low[i] = _mm256_srai_epi32(_mm256_add_epi32(px_join(sum_low[i], sum_high[i]), half), KN_TAP_BITS);
    __m256i first = _mm256_packs_epi32(sum_low[0], sum_low[1]), second = _mm256_packs_epi32(sum_low[2], sum_low[3]);
    _mm256_storeu_si256((void *)(y + at), _mm256_packus_epi16(first, second));
}

static void blend_rows(long n, long rows, const uint8_t *const *row, const int16_t *low, const int16_t *high, uint8_t *y)
{
    if (n < 32) {
        kn_blend_rows_between(0, n, rows, row, low, high, y);
        return;
    }
    for (long at = 0; at < n; at += 32)
        px_blend_rows(at + 32 <= n ? at : n - 32, rows, row, low, high, y);
}

static void rgb_to_floats(long n, const uint8_t *rgb, const float *table, float *planes, long plane)
{
    long i = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i a = px_load16(rgb + 3 * i), b = px_load16(rgb + 3 * i + 16), c = px_load16(rgb + 3 * i + 32);
        for (long k = 0; k < 3; k++) {
            __m128i v = px_pick(a, b, c, px_colour_at[k]);
            float *y = planes + k * plane + i;
            _mm256_storeu_ps(y, _mm256_i32gather_ps(table + 256 * k, _mm256_cvtepu8_epi32(v), 4));
            _mm256_storeu_ps(y + 8, _mm256_i32gather_ps(table + 256 * k, _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)), 4));
        }
    }
    kn_rgb_to_floats_between(i, n, rgb, table, planes, plane);
}

#endif
