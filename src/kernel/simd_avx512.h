/* simd_avx512.h - the vector of the AVX-512 tier (F, BW, DQ, VL): the few operations that rows_tmpl.h and tile_tmpl.h are
 * written in. A part is the first n < VW elements: nothing behind them is touched. */
#ifndef KN_SIMD_AVX512_H
#define KN_SIMD_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

enum { VW = 16 };
typedef __m512 vf;
typedef __mmask16 vmask; /* the result of a comparison */
typedef __mmask16 vpart; /* which elements a part has */

static inline vpart v_part(long n) { return (vpart)((1u << n) - 1); }

static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf v_load_part(const float *p, vpart m) { return _mm512_maskz_loadu_ps(m, p); } /* the rest is 0 */
static inline void v_store_part(float *p, vpart m, vf a) { _mm512_mask_storeu_ps(p, m, a); }
static inline vf v_keep_part(vf a, vpart m, vf rest) { return _mm512_mask_blend_ps(m, rest, a); }

static inline vf v_set(float x) { return _mm512_set1_ps(x); }
static inline vf v_zero(void) { return _mm512_setzero_ps(); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); } /* a b + c */
/* As in simd_avx2.h: a sum that keeps its register. */
static inline vf v_fma_onto(vf sum, vf a, vf b)
{
#ifdef __AVX512F__ /* not where it is emulated */
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    return v_fma(a, b, sum);
#endif
}
/* sum + *a b, the number copied to all places on its way from memory, without an instruction of its own. */
static inline vf v_fma_from(vf sum, const float *a, vf b)
{
#ifdef __AVX512F__ /* not where it is emulated */
    __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(b), "m"(*a));
    return sum;
#else
    return v_fma(v_set(*a), b, sum);
#endif
}
static inline vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
/* a[i] b + c, where a[0..n) may be read. */
static inline vf v_fma_at(const float *a, int i, int n, vf b, vf c) { return (void)n, v_fma(v_set(a[i]), b, c); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b when either is NaN */
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf v_abs(vf a) { return _mm512_abs_ps(a); }

static inline vmask v_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline vmask v_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vmask v_is_nan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
static inline vf v_choose(vmask m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
static inline bool v_any(vmask m) { return m != 0; }

static inline vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a 2^n for an integral n in [-126, 128]. */
static inline vf v_scale(vf a, vf n) { return _mm512_scalef_ps(a, n); }
static inline vf v_scale_normal(vf a, vf n) { return v_scale(a, n); }

/* The sum and the largest of all elements, by halves: a fixed order. */
static inline float v_sum(vf a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float v_largest(vf a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

/* Sums in double: two halves of a vector of floats. */
typedef struct vd {
    __m512d low, high;
} vd;

static inline vd vd_zero(void) { return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()}; }

static inline vd vd_add_square(vd s, vf a)
{
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a)), high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    return (vd){_mm512_fmadd_pd(low, low, s.low), _mm512_fmadd_pd(high, high, s.high)};
}

static inline double vd_sum(vd s)
{
    __m512d t = _mm512_add_pd(s.low, s.high);
    __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(t), _mm512_extractf64x4_pd(t, 1));
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}

static inline vf v_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }

static inline void v_to_f16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline vf v_from_bf16(const uint16_t *p)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

static inline void v_to_bf16(uint16_t *p, vf a)
{
    __m512i bits = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i even = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __m512i nan = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    __m512i r = _mm512_mask_blend_epi32(v_is_nan(a), even, nan);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(r));
}

/* Rows r[0..VW) of a square become its columns. */
static inline void v_transpose(vf r[VW])
{
    vf t[VW];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) { /* 4x4 squares inside each 128-bit lane */
        vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* lanes: element (lane l, row group g) goes to (lane g, row l * 4 + i) */
        vf a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
        vf c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
