/* low_neon.c - bf16, int8 and int4 weights on NEON. Two products of bytes fit 16 bits (2 * 127 * 127 is below 2^15), so neighbours are
 * added there before they go on to sums of 32. */
#include "low_neon.h"

#define MR8 12
#define MR4 4
#define MR16 12
enum { DEPTH = 4, UNIT8 = VW * DEPTH, BIAS = 0, LIFT = 0 };

static inline vf vi_second(vi a) { return vreinterpretq_f32_s32(vandq_s32(a, vdupq_n_s32((int32_t)0xffff0000))); }
static inline vf vi_first(vi a) { return vreinterpretq_f32_s32(vshlq_n_s32(a, 16)); }

static inline vi load8(const uint8_t *b) { return vi_load(b); }

static inline vi dot8(vi s, vi b, vi a)
{
    int8x16_t x = vreinterpretq_s8_s32(a), y = vreinterpretq_s8_s32(b);
    return vpadalq_s16(s, vpaddq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)), vmull_high_s8(x, y)));
}

static inline vi dot8_from(vi s, vi b, const int32_t *a) { return dot8(s, b, vi_set(*a)); }
static inline vi dot4(vi s, vi b, vi a) { return dot8(s, b, a); }
static inline vi sums4(vi s) { return s; }

#include "low_tmpl.h"

#include "low_bf16_tmpl.h"

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    kn_neon.pack(k, w, width, x, ld, transpose, p);
}

KN_LOW_INT(kn_low_int_neon);
const kn_low_bf16 kn_low_bf16_neon = {.nr = NR, .mr = MR16, .pair = 2, .pack = pack, .tile = tile16, .strips = strips16};
