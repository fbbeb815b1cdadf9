/* immintrin.h - stands in front of the compiler's own where AVX-512 is emulated by SIMDe (tests/meson.build), and adds what its
 * version 0.7.4 lacks or has wrong. Vectors are halves here: what AVX2 does to eight numbers is done twice. */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H

#include <string.h>
#include_next <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

typedef struct halves {
    __m256i low, high;
} halves;

static inline halves cut_(const void *x)
{
    halves h;
    memcpy(&h, x, sizeof h);
    return h;
}

static inline __m512i join_(__m256i low, __m256i high)
{
    halves h = {low, high};
    __m512i x;
    memcpy(&x, &h, sizeof x);
    return x;
}

static inline __m512 join_floats_(__m256 low, __m256 high)
{
    __m512i x = join_(_mm256_castps_si256(low), _mm256_castps_si256(high));
    __m512 y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static inline __m512 int_to_float_(__m512i a)
{
    halves h = cut_(&a);
    return join_floats_(_mm256_cvtepi32_ps(h.low), _mm256_cvtepi32_ps(h.high));
}
#define _mm512_cvtepi32_ps int_to_float_

static inline __m512i float_to_int_(__m512 a)
{
    halves h = cut_(&a);
    return join_(_mm256_cvtps_epi32(_mm256_castsi256_ps(h.low)), _mm256_cvtps_epi32(_mm256_castsi256_ps(h.high)));
}
#define _mm512_cvtps_epi32 float_to_int_

static inline __m512i words_to_ints_(__m256i a)
{
    return join_(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(a)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1)));
}
#define _mm512_cvtepu16_epi32 words_to_ints_

static inline __m256i ints_to_words_(__m512i a)
{
    int32_t from[16];
    int16_t to[16];
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++)
        to[i] = (int16_t)(uint16_t)(uint32_t)from[i];
    return _mm256_loadu_si256((const __m256i *)(const void *)to);
}
#define _mm512_cvtepi32_epi16 ints_to_words_

static inline __m512 half_to_float_(__m256i a)
{
    return join_floats_(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)));
}
#define _mm512_cvtph_ps half_to_float_

static inline __m256i float_to_half_(__m512 a, int rounding)
{
    halves h = cut_(&a);
    (void)rounding; /* to nearest */
    __m128i low = _mm256_cvtps_ph(_mm256_castsi256_ps(h.low), 0), high = _mm256_cvtps_ph(_mm256_castsi256_ps(h.high), 0);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
#define _mm512_cvtps_ph float_to_half_

static inline __m512d to_doubles_(__m256 a)
{
    __m512i x = join_(_mm256_castpd_si256(_mm256_cvtps_pd(_mm256_castps256_ps128(a))),
                      _mm256_castpd_si256(_mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))));
    __m512d y;
    memcpy(&y, &x, sizeof y);
    return y;
}
#define _mm512_cvtps_pd to_doubles_

static inline __m512 load_part_(__mmask16 m, const float *p)
{
    float x[16] = {0};
    for (int i = 0; i < 16; i++)
        if (m >> i & 1)
            x[i] = p[i];
    return _mm512_loadu_ps(x);
}
#define _mm512_maskz_loadu_ps load_part_

static inline void store_part_(float *p, __mmask16 m, __m512 a)
{
    float x[16];
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++)
        if (m >> i & 1)
            p[i] = x[i];
}
#define _mm512_mask_storeu_ps store_part_

static inline __m256 half_of_(__m512 a, int which)
{
    halves h = cut_(&a);
    return _mm256_castsi256_ps(which ? h.high : h.low);
}
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps half_of_

static inline __m256d half_of_doubles_(__m512d a, int which)
{
    halves h = cut_(&a);
    return _mm256_castsi256_pd(which ? h.high : h.low);
}
#undef _mm512_extractf64x4_pd
#define _mm512_extractf64x4_pd half_of_doubles_

/* Lanes of four: two of a, then two of b, by pairs of bits of `which`. */
static inline __m512 lanes_(__m512 a, __m512 b, int which)
{
    float from[2][16], to[16];
    memcpy(from[0], &a, sizeof from[0]);
    memcpy(from[1], &b, sizeof from[1]);
    for (int i = 0; i < 4; i++)
        memcpy(to + 4 * i, from[i / 2] + 4 * (which >> 2 * i & 3), 4 * sizeof *to);
    return _mm512_loadu_ps(to);
}
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 lanes_

#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

#endif
