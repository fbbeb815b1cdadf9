/* low_avx2.c - bf16, int8 and int4 weights on AVX2. vpmaddubsw wants one of its bytes unsigned: rows are lifted above 0, and what that adds,
 * as many times the sum of a column's weights, is taken off in the end. Its sums of two products cannot saturate, see low.h; with
 * nibbles not even eight of them: 2 * 15 * 127 * 8 is below 2^15. */
#include <math.h>
#include <string.h>

#include "low.h"
#include "simd_avx2.h"
#include "tiers.h"

#define MR8 5 /* ten sums, two weights, a row, products and ones fill the registers */
#define MR4 4
#define MR16 6
enum { DEPTH = 4, UNIT8 = VW * DEPTH, BIAS = 0, LIFT = 1 };
typedef __m256i vi;

static inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void vi_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, a); }
static inline vi vi_set(int32_t x) { return _mm256_set1_epi32(x); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_max(vi a, vi b) { return _mm256_max_epi32(a, b); }
static inline vi vi_max_unsigned(vi a, vi b) { return _mm256_max_epu32(a, b); }
static inline vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
static inline vi vi_mul(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
static inline vi vi_shift(vi a) { return _mm256_srli_epi16(a, 4); } /* what comes from the byte beside is masked out */
static inline vf vi_float(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vf vi_first(vi a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
static inline vf vi_second(vi a) { return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32((int32_t)0xffff0000))); }
static inline vi vi_round(vf a) { return _mm256_cvtps_epi32(a); }

static inline void vi_store_bytes(int8_t *p, vi a)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(words, words));
}

static inline vi load8(const uint8_t *b) { return vi_load(b); }

/* A sum that keeps its register, as v_fma_onto's does. */
static inline vi dot8(vi s, vi b, vi a)
{
    vi products;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(s), "=&x"(products)
            : "x"(a), "x"(b), "x"(_mm256_set1_epi16(1)));
    return s;
}

static inline vi dot8_from(vi s, vi b, const int32_t *a) { return dot8(s, b, vi_set(*a)); }
static inline vi dot4(vi s, vi b, vi a) { return _mm256_add_epi16(s, _mm256_maddubs_epi16(b, a)); }
static inline vi sums4(vi s) { return _mm256_madd_epi16(s, _mm256_set1_epi16(1)); }

/* Finishes these sums before others are begun: gcc would begin them all, and run out of registers. */
static inline void pin(vi *a, vi *b) { __asm__("" : "+x"(*a), "+x"(*b)); }

#include "low_tmpl.h"

#include "low_bf16_tmpl.h"

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    kn_avx2.pack(k, w, width, x, ld, transpose, p);
}

KN_LOW_INT(kn_low_int_avx2);
const kn_low_bf16 kn_low_bf16_avx2 = {.nr = NR, .mr = MR16, .pair = 2, .pack = pack, .tile = tile16, .strips = strips16};
