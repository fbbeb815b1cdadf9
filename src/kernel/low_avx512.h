/* low_avx512.h - the vector of integers of AVX-512, for low_tmpl.h. */
#ifndef KN_LOW_AVX512_H
#define KN_LOW_AVX512_H

#include <math.h>
#include <string.h>

#include "low.h"
#include "simd_avx512.h"
#include "tiers.h"

typedef __m512i vi;

static inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
static inline vi vi_set(int32_t x) { return _mm512_set1_epi32(x); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
static inline vi vi_max_unsigned(vi a, vi b) { return _mm512_max_epu32(a, b); }
static inline vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
static inline vi vi_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
static inline vi vi_shift(vi a) { return _mm512_srli_epi16(a, 4); } /* what comes from the byte beside is masked out */
static inline vf vi_float(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vi vi_round(vf a) { return _mm512_cvtps_epi32(a); }
static inline void vi_store_bytes(int8_t *p, vi a) { _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(a)); }

/* 32 registers hold all sums; compilers need no help. */
static inline void pin(vi *a, vi *b)
{
    (void)a;
    (void)b;
}

#endif
