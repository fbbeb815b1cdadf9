/* scalar.h - elementary functions for one number at a time, ours so that every machine gives the same bits:
 * libm picks its code by CPU. Basic IEEE arithmetic only. The vector tiers evaluate the same polynomials. */
#ifndef KN_SCALAR_H
#define KN_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x) = 2^n (1 + r + r^2 P(r)), n = round(x / ln 2), r = x - n ln 2 in two steps (Cody, Waite 1980).
 * P is our own minimax fit on |r| <= ln(2)/2, relative error 2e-9 before rounding. */
#define KN_EXP_LOW (-87.0f) /* below this exp is 0: what it would be is hardly a normal number, or none */
#define KN_EXP_HIGH 89.0f    /* and to inf from here up */
#define KN_LOG2E 0x1.715476p+0f
#define KN_LN2_HIGH 0x1.62e400p-1f /* few bits: n times it is exact */
#define KN_LN2_LOW 0x1.7f7d1cp-20f
#define KN_ROUND 12582912.0f /* 1.5 * 2^23: adding and taking it away rounds to an integer */
#define KN_EXP_P0 0x1.fffffcp-2f
#define KN_EXP_P1 0x1.555492p-3f
#define KN_EXP_P2 0x1.5558f2p-5f
#define KN_EXP_P3 0x1.1239e2p-7f
#define KN_EXP_P4 0x1.6a2434p-10f

/* The normal distribution's tail: Phi(-a) = exp(-a^2 / 2) t Q(t), t = 1 / (1 + KN_TAIL a), a >= 0 (the form of Hastings 1955;
 * the coefficients are our own fit, relative error 3e-8 for a <= 14, where the result is long 0). */
#define KN_TAIL 0.27f
#define KN_TAIL_Q0 0.107720181f
#define KN_TAIL_Q1 0.1075505072f
#define KN_TAIL_Q2 0.1017591602f
#define KN_TAIL_Q3 0.07224030833f
#define KN_TAIL_Q4 0.107399394f
#define KN_TAIL_Q5 -0.06862092975f
#define KN_TAIL_Q6 0.1692913677f
#define KN_TAIL_Q7 -0.1262552477f
#define KN_TAIL_Q8 0.02891527093f

#define KN_INV_SQRT_2PI 0.3989422804f
#define KN_TANH_SCALE 1.595769122f /* 2 sqrt(2 / pi): gelu_tanh(x) = x sigmoid(KN_TANH_SCALE (x + 0.044715 x^3)) */
#define KN_TANH_CUBE 0.044715f
#define KN_QUICK 1.702f
#define KN_TANH_NEAR \
    0.625f /* below: x + x^3 P(x^2), our own minimax fit, relative error 4e-9; from here 1 - 2 / (1 + exp(2 |x|)) */
#define KN_TANH_P0 -0.3333328393f
#define KN_TANH_P1 0.1333149128f
#define KN_TANH_P2 -0.05374349792f
#define KN_TANH_P3 0.02065058679f
#define KN_TANH_P4 -0.005717044514f
#define KN_GATE_END 87.0f /* exp of it is finite */

/* 2^n for -126 <= n <= 127. */
static inline float kn_pow2(int n)
{
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline float kn_exp(float x)
{
    if (x < KN_EXP_LOW)
        return 0;
    if (x != x)
        return x;
    x = x > KN_EXP_HIGH ? KN_EXP_HIGH : x;
    float n = (x * KN_LOG2E + KN_ROUND) - KN_ROUND;
    float r = (x - n * KN_LN2_HIGH) - n * KN_LN2_LOW;
    float p = KN_EXP_P3 + r * KN_EXP_P4;
    p = KN_EXP_P2 + r * p;
    p = KN_EXP_P1 + r * p;
    p = KN_EXP_P0 + r * p;
    p = 1.0f + (r + r * r * p);
    int k = (int)n, half = k / 2; /* in two steps: 2^128 is no number */
    return p * kn_pow2(half) * kn_pow2(k - half);
}

static inline float kn_sigmoid(float x) { return 1.0f / (1.0f + kn_exp(-x)); }

static inline float kn_tanh(float x)
{
    float a = fabsf(x), s = x * x;
    if (a >= KN_TANH_NEAR) {
        float far = 1.0f - 2.0f / (1.0f + kn_exp(2.0f * a));
        return x < 0 ? -far : far;
    }
    float p = KN_TANH_P3 + s * KN_TANH_P4;
    p = KN_TANH_P2 + s * p;
    p = KN_TANH_P1 + s * p;
    p = KN_TANH_P0 + s * p;
    return x + x * (s * p);
}

/* The slope of x s, s = sigmoid(u(x)): s + s (1 - s) x u', where 1 - s = exp(-u) s cancels nothing. */
static inline float kn_gate_slope(float x, float u, float du)
{
    float e = kn_exp(u < -KN_GATE_END ? KN_GATE_END : -u), s = 1.0f / (1.0f + e);
    return s + s * (e * s) * x * du;
}

/* log of a positive number, inf, or -inf for 0: x = m 2^e, log m = 2 artanh((m - 1) / (m + 1)) by its series; 1e-13 relative. */
static inline double kn_log(double x)
{
    if (!(x > 0))
        return x == 0 ? -(double)INFINITY : (double)NAN;
    if (x > 1.7976931348623157e308)
        return x;
    int e = 0;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    e = (int)(bits >> 52) - 1023;
    if (e == -1023) { /* subnormal */
        x *= 0x1p54;
        memcpy(&bits, &x, sizeof bits);
        e = (int)(bits >> 52) - 1023 - 54;
    }
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.4142135623730951) {
        x *= 0.5;
        e++;
    }
    static const double odd[] = {1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1};
    double f = (x - 1) / (x + 1), s = f * f, sum = 0;
    for (int i = 0; i < 9; i++)
        sum = sum * s + odd[i];
    return e * 0.693147180559945309417 + 2 * f * sum;
}

/* Phi(x), and in *density the normal density at x: all that GELU and its slope need. */
static inline float kn_normal(float x, float *density)
{
    float a = fabsf(x), e = kn_exp(-0.5f * x * x), t = 1.0f / (1.0f + KN_TAIL * a);
    float q = KN_TAIL_Q7 + t * KN_TAIL_Q8;
    q = KN_TAIL_Q6 + t * q;
    q = KN_TAIL_Q5 + t * q;
    q = KN_TAIL_Q4 + t * q;
    q = KN_TAIL_Q3 + t * q;
    q = KN_TAIL_Q2 + t * q;
    q = KN_TAIL_Q1 + t * q;
    q = KN_TAIL_Q0 + t * q;
    float tail = e * (t * q);
    *density = e * KN_INV_SQRT_2PI;
    return x < 0 ? tail : 1.0f - tail;
}

static inline float kn_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu, bits;
    if (rest >= 0x7c00u)
        bits = 0x7f800000u | (rest & 0x3ffu) << 13 | (rest > 0x7c00u ? 0x400000u : 0);
    else if (rest >= 0x400u)
        bits = (rest << 13) + ((127u - 15u) << 23);
    else { /* subnormal: rest * 2^-24 is exact */
        float f = (float)rest * 0x1p-24f;
        memcpy(&bits, &f, sizeof bits);
    }
    bits |= sign;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline uint16_t kn_float_to_half(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and more round to inf */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: adding 2^-1 puts the last bit of a half at the last bit of a float */
        float f;
        memcpy(&f, &a, sizeof f);
        f += 0.5f;
        memcpy(&a, &f, sizeof a);
        return (uint16_t)(sign | (a - 0x3f000000u));
    }
    a += 0xfffu + (a >> 13 & 1u);
    return (uint16_t)(sign | ((a - ((127u - 15u) << 23)) >> 13));
}

static inline float kn_brain_to_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline uint16_t kn_float_to_brain(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
