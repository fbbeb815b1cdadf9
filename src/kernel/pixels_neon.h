/* pixels_neon.h - the picture kernels of the NEON tier: products of 16-bit numbers are added up in 32 bits. */
#ifndef KN_PIXELS_NEON_H
#define KN_PIXELS_NEON_H

#include <arm_neon.h>

#include "pixels_scalar.h"

enum { PX_STEP = 16 };

/* 16 pixels at a time; the last 16 overlap those before. */
static void split_rgb(long n, const uint8_t *rgb, int16_t *planes, long plane)
{
    if (n < PX_STEP) {
        kn_split_rgb(n, rgb, planes, plane);
        return;
    }
    for (long at = 0; at < n; at += PX_STEP) {
        long i = at + PX_STEP <= n ? at : n - PX_STEP;
        uint8x16x3_t v = vld3q_u8(rgb + 3 * i);
        for (long c = 0; c < 3; c++) {
            int16_t *y = planes + c * plane + i;
            vst1q_s16(y, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v.val[c]))));
            vst1q_s16(y + 8, vreinterpretq_s16_u16(vmovl_high_u8(v.val[c])));
        }
    }
}

static inline int32x4_t px_add_products(int32x4_t sum, int16x8_t a, int16x8_t b)
{
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
}

/* high * 2^KN_TAP_SPLIT + low of each lane. */
static inline int32x4_t px_join(int32x4_t low, int32x4_t high) { return vaddq_s32(low, vshlq_n_s32(high, KN_TAP_SPLIT)); }

/* count is a multiple of KN_TAP_LANES. */
static inline uint8_t px_sum(long count, const int16_t *x, const int16_t *low, const int16_t *high)
{
    int32x4_t sum_low = vdupq_n_s32(0), sum_high = sum_low;
    for (long k = 0; k < count; k += 8) {
        int16x8_t v = vld1q_s16(x + k);
        sum_low = px_add_products(sum_low, v, vld1q_s16(low + k));
        sum_high = px_add_products(sum_high, v, vld1q_s16(high + k));
    }
    return kn_pixel_round((uint32_t)vaddvq_s32(px_join(sum_low, sum_high)), 0);
}

static void blend_pixels(const kn_taps *t, const int16_t *planes, long plane, uint8_t *rgb)
{
    for (long i = 0; i < t->n; i++)
        for (long c = 0; c < 3; c++)
            *rgb++ = px_sum(t->room, planes + c * plane + t->first[i], t->low + i * t->room, t->high + i * t->room);
}

/* Four sums become 16-bit numbers, too large and too small ones the last there is. */
static inline int16x4_t px_round(int32x4_t low, int32x4_t high)
{
    int32x4_t sum = vaddq_s32(px_join(low, high), vdupq_n_s32(1 << (KN_TAP_BITS - 1)));
    return vqmovn_s32(vshrq_n_s32(sum, KN_TAP_BITS));
}

/* 16 bytes of blend_rows. */
static inline void px_blend_rows(long at, long rows, const uint8_t *const *row, const int16_t *low, const int16_t *high,
                                 uint8_t *y)
{
    const int32x4_t zero = vdupq_n_s32(0);
    int32x4_t sum_low[4] = {zero, zero, zero, zero}, sum_high[4] = {zero, zero, zero, zero};
    for (long k = 0; k < rows; k++) {
        uint8x16_t bytes = vld1q_u8(row[k] + at);
        int16x8_t first = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
        int16x8_t second = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
        int16x4_t v[4] = {vget_low_s16(first), vget_high_s16(first), vget_low_s16(second), vget_high_s16(second)};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            sum_low[i] = vmlal_n_s16(sum_low[i], v[i], low[k]);
            sum_high[i] = vmlal_n_s16(sum_high[i], v[i], high[k]);
        }
    }
    int16x8_t first = vcombine_s16(px_round(sum_low[0], sum_high[0]), px_round(sum_low[1], sum_high[1]));
    int16x8_t second = vcombine_s16(px_round(sum_low[2], sum_high[2]), px_round(sum_low[3], sum_high[3]));
    vst1q_u8(y + at, vcombine_u8(vqmovun_s16(first), vqmovun_s16(second)));
}

static void blend_rows(long n, long rows, const uint8_t *const *row, const int16_t *low, const int16_t *high, uint8_t *y)
{
    if (n < PX_STEP)
        kn_blend_rows_between(0, n, rows, row, low, high, y);
    for (long at = 0; n >= PX_STEP && at < n; at += PX_STEP)
        px_blend_rows(at + PX_STEP <= n ? at : n - PX_STEP, rows, row, low, high, y);
}

/* There is no load by a vector of places: a table is read number by number. */
static void rgb_to_floats(long n, const uint8_t *rgb, const float *table, float *planes, long plane)
{
    kn_rgb_to_floats_between(0, n, rgb, table, planes, plane);
}

#endif
