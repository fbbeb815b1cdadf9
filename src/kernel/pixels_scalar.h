/* pixels_scalar.h - the picture kernels in plain C: the truth that the vector tiers must equal byte for byte, and what a tier without
 * kernels of its own uses. */
#ifndef KN_PIXELS_SCALAR_H
#define KN_PIXELS_SCALAR_H

#include "kernel.h"

/* Sums wrap as 32-bit numbers do, in whatever order they are added; what comes out fits. */
static inline uint8_t kn_pixel_round(uint32_t low, uint32_t high)
{
    int32_t v = (int32_t)((high << KN_TAP_SPLIT) + low + (1u << (KN_TAP_BITS - 1))) >> KN_TAP_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static inline void kn_split_rgb(long n, const uint8_t *rgb, int16_t *planes, long plane)
{
    int16_t *r = planes, *g = planes + plane, *b = planes + 2 * plane;
    for (long i = 0; i < n; i++) {
        r[i] = rgb[3 * i];
        g[i] = rgb[3 * i + 1];
        b[i] = rgb[3 * i + 2];
    }
}

static inline uint8_t kn_pixel_sum(long count, const int16_t *restrict x, const int16_t *restrict low,
                                   const int16_t *restrict high)
{
    int32_t sum_low = 0, sum_high = 0;
    for (long k = 0; k < count; k++) {
        sum_low += x[k] * low[k];
        sum_high += x[k] * high[k];
    }
    return kn_pixel_round((uint32_t)sum_low, (uint32_t)sum_high);
}

static inline void kn_blend_pixels(const kn_taps *t, const int16_t *planes, long plane, uint8_t *rgb)
{
    for (long i = 0; i < t->n; i++)
        for (long c = 0; c < 3; c++)
            *rgb++ = kn_pixel_sum(t->room, planes + c * plane + t->first[i], t->low + i * t->room, t->high + i * t->room);
}

/* Elements begin .. end - 1 of blend_rows. */
static inline void kn_blend_rows_between(long begin, long end, long rows, const uint8_t *const *row, const int16_t *low,
                                         const int16_t *high, uint8_t *y)
{
    enum { BLOCK = 512 };
    uint32_t sums[BLOCK];
    for (long at = begin; at < end; at += BLOCK) {
        long n = end - at < BLOCK ? end - at : BLOCK;
        for (long i = 0; i < n; i++)
            sums[i] = 0;
        for (long k = 0; k < rows; k++) {
            uint32_t w = ((uint32_t)high[k] << KN_TAP_SPLIT) + (uint32_t)low[k];
            for (long i = 0; i < n; i++)
                sums[i] += row[k][at + i] * w;
        }
        for (long i = 0; i < n; i++)
            y[at + i] = kn_pixel_round(sums[i], 0);
    }
}

static inline void kn_rgb_to_floats_between(long begin, long end, const uint8_t *rgb, const float *table, float *planes,
                                            long plane)
{
    for (long i = begin; i < end; i++)
        for (long c = 0; c < 3; c++)
            planes[c * plane + i] = table[256 * c + rgb[3 * i + c]];
}

#endif
