/* low_vnni.c - int8 and int4 weights on AVX-512 VNNI. vpdpbusd multiplies unsigned bytes by signed ones, four to a sum: weights are
 * the unsigned ones, held as w + 128 (or + 8), and sums start at what that adds, 128 times the sum of the row of A, taken off. */
#include "low_avx512.h"

#define MR8 12
#define MR4 8
enum { DEPTH = 4, UNIT8 = VW * DEPTH, BIAS = 128, LIFT = 0 };

static inline vi load8(const uint8_t *b) { return vi_load(b); }
static inline vi dot8(vi s, vi b, vi a) { return _mm512_dpbusd_epi32(s, b, a); }
static inline vi dot8_from(vi s, vi b, const int32_t *a)
{
#ifdef __AVX512VNNI__ /* not where it is emulated */
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(b), "m"(*a));
    return s;
#else
    return dot8(s, b, vi_set(*a));
#endif
}
static inline vi dot4(vi s, vi b, vi a) { return _mm512_dpbusd_epi32(s, b, a); }
static inline vi sums4(vi s) { return s; }

#include "low_tmpl.h"

KN_LOW_INT(kn_low_int_vnni);
