/* low_avx512.c - bf16, int8 and int4 weights on AVX-512 without VNNI or BF16: as low_avx2.c, twice as wide. */
#include "low_avx512.h"

#define MR8 12
#define MR4 8
#define MR16 14
enum { DEPTH = 2, UNIT8 = VW * DEPTH, BIAS = 0, LIFT = 0 };

static inline vf vi_first(vi a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
static inline vf vi_second(vi a) { return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32((int32_t)0xffff0000))); }

static inline vi load8(const uint8_t *b) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)b)); }
static inline vi dot8(vi s, vi b, vi a) { return _mm512_add_epi32(s, _mm512_madd_epi16(a, b)); }
static inline vi dot8_from(vi s, vi b, const int32_t *a) { return dot8(s, b, vi_set(*a)); }
static inline vi dot4(vi s, vi b, vi a) { return _mm512_add_epi16(s, _mm512_maddubs_epi16(b, a)); }
static inline vi sums4(vi s) { return _mm512_madd_epi16(s, _mm512_set1_epi16(1)); }

#include "low_tmpl.h"

#include "low_bf16_tmpl.h"

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    kn_avx512.pack(k, w, width, x, ld, transpose, p);
}

KN_LOW_INT(kn_low_int_avx512);
const kn_low_bf16 kn_low_bf16_avx512 = {.nr = NR, .mr = MR16, .pair = 2, .pack = pack, .tile = tile16, .strips = strips16};
