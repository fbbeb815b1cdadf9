/* low_generic.c - products with bf16, int8 and int4 weights in plain C: the truth for the other tiers' micro-kernels. */
#include <math.h>
#include <string.h>

#include "low.h"
#include "scalar.h"
#include "tiers.h"

enum { NR = 8, MR = 4, DEPTH = 2, BLOCK = 32 };

static float largest(long k, const float *x)
{
    float m = 0;
    for (long i = 0; i < k; i++)
        if (!(fabsf(x[i]) <= m)) {
            m = fabsf(x[i]);
            if (m != m)
                return m;
        }
    return m;
}

static void ends(long k, const float *x, float *least, float *most)
{
    *least = *most = 0;
    for (long i = 0; i < k; i++) {
        *least = *least != *least || *least < x[i] ? *least : x[i];
        *most = *most != *most || *most > x[i] ? *most : x[i];
    }
}

static void round_all(long k, const float *x, float inverse, int8_t *q)
{
    for (long i = 0; i < k; i++)
        q[i] = (int8_t)lrintf(x[i] * inverse);
}

static int32_t dot8(int32_t sum, long units, const int32_t *a, long sa, const int8_t *b)
{
    for (long u = 0; u < units; u++, a += sa, b += NR * DEPTH) {
        int16_t pair[DEPTH];
        memcpy(pair, a, sizeof pair);
        sum += pair[0] * b[0] + pair[1] * b[1];
    }
    return sum;
}

static void tile8(long units, const int32_t *a, long sa, const uint8_t *b, const int32_t *start, int32_t *sum, long ld, int m,
                  kn_soon next)
{
    (void)next;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < NR; j++)
            sum[i * ld + j] = dot8(start ? start[i] : sum[i * ld + j], units, a + i, sa, (const int8_t *)b + j * DEPTH);
}

/* 32 of k: the bytes of one column, four in a row for every eight of k. */
static int32_t dot4(const int32_t *a, long sa, const uint8_t *b)
{
    int32_t sum = 0;
    for (int o = 0; o < BLOCK / 8; o++, a += 2 * sa, b += 4 * NR) {
        int8_t low[4], high[4];
        memcpy(low, a, sizeof low);
        memcpy(high, a + sa, sizeof high);
        for (int q = 0; q < 4; q++)
            sum += low[q] * (b[q] & 15) + high[q] * (b[q] >> 4);
    }
    return sum;
}

static float column4(long k, long group, const int32_t *a, long sa, const uint8_t *b, int j, const float *scale,
                     const int32_t *start)
{
    float total = 0;
    for (long p = 0; p < k; scale += sa, start += sa) {
        int32_t sum = *start;
        for (long end = p + group < k ? p + group : k; p < end; p += BLOCK, a += BLOCK / 4 * sa, b += BLOCK / 2 * NR)
            sum += dot4(a, sa, b + 4 * j);
        float of_weight;
        memcpy(&of_weight, b + (size_t)j * sizeof of_weight, sizeof of_weight);
        total += (float)sum * (of_weight * *scale);
        b += NR * sizeof of_weight;
    }
    return total;
}

static void tile4(long k, long group, const int32_t *a, long sa, const uint8_t *b, const float *scale, const int32_t *start,
                  float *sum, long ld, int m, kn_soon next)
{
    (void)next;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < NR; j++)
            sum[i * ld + j] = column4(k, group, a + i, sa, b, j, scale + i, start + i);
}

static void rescale(long n, const int32_t *sum, const kn_low_rescale *r, float *y)
{
    for (long j = 0; j < n; j++) {
        int32_t one;
        memcpy(&one, sum + j, sizeof one);
        float x = (float)(one - (r->column ? r->lift * r->column[j] : 0)) * (r->s * r->scale[j]);
        x = r->bias ? x + r->bias[j] : x;
        y[j] = r->residual ? x + r->residual[j] : x;
    }
}

const kn_low_int kn_low_int_generic = {.nr = NR,
                                       .mr8 = MR,
                                       .mr4 = MR,
                                       .depth = DEPTH,
                                       .largest = largest,
                                       .ends = ends,
                                       .round = round_all,
                                       .tile8 = tile8,
                                       .tile4 = tile4,
                                       .rescale = rescale};

static float dot16(long k, const float *a, long sa, const uint16_t *b)
{
    float sum = 0;
    for (long p = 0; p < k; p++)
        sum += a[p * sa] * kn_brain_to_float(b[p / 2 * (2 * NR) + p % 2]);
    return sum;
}

static void tile16(long k, const float *a, long sa, const uint16_t *b, float *sum, long ld, int m, bool accumulate, kn_soon next)
{
    (void)next;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < NR; j++)
            sum[i * ld + j] = (accumulate ? sum[i * ld + j] : 0) + dot16(k, a + i, sa, b + 2 * j);
}

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    kn_generic.pack(k, w, width, x, ld, transpose, p);
}

const kn_low_bf16 kn_low_bf16_generic = {.nr = NR, .mr = MR, .pair = 2, .pack = pack, .tile = tile16};
