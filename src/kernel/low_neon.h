/* low_neon.h - the vector of integers of NEON, for low_tmpl.h. */
#ifndef KN_LOW_NEON_H
#define KN_LOW_NEON_H

#include <math.h>
#include <string.h>

#include "low.h"
#include "simd_neon.h"
#include "tiers.h"

typedef int32x4_t vi;

static inline vi vi_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
static inline void vi_store(void *p, vi a) { vst1q_u8(p, vreinterpretq_u8_s32(a)); }
static inline vi vi_set(int32_t x) { return vdupq_n_s32(x); }
static inline vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
static inline vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
static inline vi vi_max(vi a, vi b) { return vmaxq_s32(a, b); }
static inline vi vi_max_unsigned(vi a, vi b)
{
    return vreinterpretq_s32_u32(vmaxq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}
static inline vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
static inline vi vi_mul(vi a, vi b) { return vmulq_s32(a, b); }
static inline vi vi_shift(vi a) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a), 4)); }
static inline vf vi_float(vi a) { return vcvtq_f32_s32(a); }
static inline vi vi_round(vf a) { return vcvtnq_s32_f32(a); }

static inline void vi_store_bytes(int8_t *p, vi a)
{
    int16x4_t words = vqmovn_s32(a);
    int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
    memcpy(p, &bytes, sizeof bytes);
}

/* Finishes these sums before others are begun: gcc would begin them all, and run out of registers. */
static inline void pin(vi *a, vi *b) { __asm__("" : "+w"(*a), "+w"(*b)); }

#endif
