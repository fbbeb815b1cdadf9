/* simd_neon.h - the vector of the NEON tier (every aarch64 has it): the same operations as simd_avx512.h, four floats wide. There are no
 * masks, so a part is its length, and a whole vector costs one branch that is always guessed right. */
#ifndef KN_SIMD_NEON_H
#define KN_SIMD_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>

enum { VW = 4 };
typedef float32x4_t vf;
typedef uint32x4_t vmask;
typedef long vpart;

static inline vpart v_part(long n) { return n; }

static inline vf v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, vf a) { vst1q_f32(p, a); }

static inline vf v_load_part(const float *p, vpart n)
{
    if (n >= VW)
        return vld1q_f32(p);
    float32x2_t none = vdup_n_f32(0);
    if (n == 1)
        return vcombine_f32(vld1_lane_f32(p, none, 0), none);
    return n < 1 ? vcombine_f32(none, none) : vcombine_f32(vld1_f32(p), n == 3 ? vld1_lane_f32(p + 2, none, 0) : none);
}

static inline void v_store_part(float *p, vpart n, vf a)
{
    if (n >= VW)
        vst1q_f32(p, a);
    else if (n >= 2)
        vst1_f32(p, vget_low_f32(a));
    if (n == 3)
        vst1q_lane_f32(p + 2, a, 2);
    if (n == 1)
        vst1q_lane_f32(p, a, 0);
}

static inline vf v_keep_part(vf a, vpart n, vf rest)
{
    static const int32_t place[VW] = {0, 1, 2, 3};
    return vbslq_f32(vcltq_s32(vld1q_s32(place), vdupq_n_s32((int32_t)n)), a, rest);
}

static inline vf v_set(float x) { return vdupq_n_f32(x); }
static inline vf v_zero(void) { return vdupq_n_f32(0); }
static inline vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf v_div(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf v_sqrt(vf a) { return vsqrtq_f32(a); }
static inline vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf v_fma_onto(vf sum, vf a, vf b) { return v_fma(a, b, sum); }
static inline vf v_fma_from(vf sum, const float *a, vf b) { return v_fma_onto(sum, v_set(*a), b); }
static inline vf v_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
static inline vf v_abs(vf a) { return vabsq_f32(a); }

static inline vmask v_equal(vf a, vf b) { return vceqq_f32(a, b); }
static inline vmask v_less(vf a, vf b) { return vcltq_f32(a, b); }
static inline vmask v_is_nan(vf a) { return vmvnq_u32(vceqq_f32(a, a)); }
static inline vf v_choose(vmask m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
static inline bool v_any(vmask m) { return vmaxvq_u32(m) != 0; }

/* FMAX and FMIN would give NaN where either is; here it is b, as everywhere. */
static inline vf v_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline vf v_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

/* A lane of one load serves four rows: a third of the loads that a broadcast for each would be. */
static inline vf v_fma_at(const float *a, int i, int n, vf b, vf c)
{
    if (i / VW * VW + VW > n)
        return vfmaq_f32(c, v_set(a[i]), b);
    vf four = vld1q_f32(a + i / VW * VW);
    switch (i % VW) {
    case 0: return vfmaq_laneq_f32(c, b, four, 0);
    case 1: return vfmaq_laneq_f32(c, b, four, 1);
    case 2: return vfmaq_laneq_f32(c, b, four, 2);
    default: return vfmaq_laneq_f32(c, b, four, 3);
    }
}

static inline vf v_round(vf a) { return vrndnq_f32(a); }

/* a 2^n where that is a normal number. */
static inline vf v_scale_normal(vf a, vf n)
{
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), vshlq_n_s32(vcvtq_s32_f32(n), 23)));
}

/* In two steps, as 2^n itself may be too large; the first is exact. */
static inline vf v_scale(vf a, vf n)
{
    int32x4_t k = vcvtq_s32_f32(n), half = vshrq_n_s32(k, 1), rest = vsubq_s32(k, half), bias = vdupq_n_s32(127);
    vf x = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    vf y = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return vmulq_f32(vmulq_f32(a, x), y);
}

static inline float v_sum(vf a) { return vaddvq_f32(a); } /* (0 + 1) + (2 + 3) */
static inline float v_largest(vf a) { return vmaxvq_f32(a); }

typedef struct vd {
    float64x2_t low, high;
} vd;

static inline vd vd_zero(void) { return (vd){vdupq_n_f64(0), vdupq_n_f64(0)}; }

static inline vd vd_add_square(vd s, vf a)
{
    float64x2_t low = vcvt_f64_f32(vget_low_f32(a)), high = vcvt_high_f64_f32(a);
    return (vd){vfmaq_f64(s.low, low, low), vfmaq_f64(s.high, high, high)};
}

static inline double vd_sum(vd s) { return vaddvq_f64(vaddq_f64(s.low, s.high)); }

static inline vf v_from_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline void v_to_f16(uint16_t *p, vf a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
static inline vf v_from_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }

static inline void v_to_bf16(uint16_t *p, vf a)
{
    uint32x4_t bits = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t even = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), nan = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(v_is_nan(a), nan, even), 16));
}

static inline void v_transpose(vf r[VW])
{
    float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

#endif
