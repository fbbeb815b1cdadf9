/* low_tmpl.h - micro-kernels for int8 and int4 weights, for any vector of integers. The includer defines, beside what simd_*.h has:
 * vi, its loads, stores and arithmetic; MR8 and MR4, the rows of a tile; UNIT8, the bytes that a vector of int8 weights takes,
 * DEPTH, BIAS and LIFT as kn_low_int has them; dot8 (with what load8 loads) and dot4, sums4; dot8_from, which may take what it multiplies by from memory (as in
 * tile_tmpl.h).
 * Two vectors of columns, MR8 * 2 sums. Nothing here rounds but the last lines of tile4 and rescale. */

#define KN_INLINE static inline __attribute__((always_inline))

enum { NR = 2 * VW, NIBBLES = 4 * VW, BLOCK = 32, STEPS = 4 };

KN_INLINE void step8(const int m, const int32_t *a, const uint8_t *b, vi s[][2])
{
    vi b0 = load8(b), b1 = load8(b + UNIT8);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        s[i][0] = i % 2 ? dot8_from(s[i][0], b0, a + i) : dot8(s[i][0], b0, vi_set(a[i]));
        s[i][1] = i % 2 ? dot8_from(s[i][1], b1, a + i) : dot8(s[i][1], b1, vi_set(a[i]));
        pin(&s[i][0], &s[i][1]);
    }
}

KN_INLINE void first8(const int m, const int32_t *start, const int32_t *sum, long ld, vi s[][2])
{
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            s[i][v] = !start ? vi_load(sum + i * ld + v * VW) : vi_set(LIFT ? 0 : start[i]);
}

KN_INLINE void last8(const int m, vi s[][2], int32_t *sum, long ld)
{
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            vi_store(sum + i * ld + v * VW, s[i][v]);
}

KN_INLINE void tile8_of(const int m, long units, const int32_t *a, long sa, const uint8_t *b, const int32_t *start, int32_t *sum,
                        long ld, kn_soon next)
{
    vi s[MR8][2];
    first8(m, start, sum, ld, s);
    long u = 0, lines = kn_lines_a_step(next, units / STEPS);
    for (; u + STEPS <= units; u += STEPS) {
        kn_ask(&next, lines);
#pragma GCC unroll 4
        for (int q = 0; q < STEPS; q++, a += sa, b += 2 * UNIT8) {
            step8(m, a, b, s);
            __asm__ volatile("" ::: "memory"); /* as in tile_tmpl.h */
        }
    }
    for (; u < units; u++, a += sa, b += 2 * UNIT8)
        step8(m, a, b, s);
    last8(m, s, sum, ld);
}

#define KN_TILE8(m) \
    case m: tile8_of(m, units, a, sa, b, start, sum, ld, next); break

static void tile8(long units, const int32_t *a, long sa, const uint8_t *b, const int32_t *start, int32_t *sum, long ld, int m,
                  kn_soon next)
{
    switch (m) {
        KN_TILE8(1);
        KN_TILE8(2);
        KN_TILE8(3);
        KN_TILE8(4);
        KN_TILE8(5);
#if MR8 > 5
        KN_TILE8(6);
#endif
#if MR8 > 6
        KN_TILE8(7);
        KN_TILE8(8);
        KN_TILE8(9);
        KN_TILE8(10);
        KN_TILE8(11);
        KN_TILE8(12);
#endif
    default: break;
    }
}

KN_INLINE void strips8_of(const int m, long units, const int32_t *a, long sa, const uint8_t *b, long far, const int32_t *start,
                          int32_t *sum, long ld)
{
    const int strips = kn_strips(m);
    vi s[MR8][2];
#pragma GCC unroll 4
    for (int i = 0; i < strips; i++)
        first8(m, start, sum + i * NR, ld, s + i * m);
    for (long u = 0; u < units; u++, a += sa, b += 2 * UNIT8)
#pragma GCC unroll 4
        for (int i = 0; i < strips; i++)
            step8(m, a, b + i * far, s + i * m);
#pragma GCC unroll 4
    for (int i = 0; i < strips; i++)
        last8(m, s + i * m, sum + i * NR, ld);
}

static void strips8(long units, const int32_t *a, long sa, const uint8_t *b, long far, const int32_t *start, int32_t *sum,
                    long ld, int m)
{
    if (m == 1)
        strips8_of(1, units, a, sa, b, far, start, sum, ld);
    else
        strips8_of(2, units, a, sa, b, far, start, sum, ld);
}

/* 32 of k: s += products. */
KN_INLINE void block4(const int m, const int32_t *a, long sa, const uint8_t *b, vi s[][2])
{
    vi h[MR4][2];
    const vi mask = vi_set(0x0f0f0f0f);
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
        h[i][0] = h[i][1] = vi_set(0);
#pragma GCC unroll 4
    for (int o = 0; o < BLOCK / 8; o++, b += 2 * NIBBLES)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++, a += sa) {
            vi b0 = vi_and(half ? vi_shift(vi_load(b)) : vi_load(b), mask);
            vi b1 = vi_and(half ? vi_shift(vi_load(b + NIBBLES)) : vi_load(b + NIBBLES), mask);
#pragma GCC unroll 8
            for (int i = 0; i < m; i++) {
                vi x = vi_set(a[i]);
                h[i][0] = dot4(h[i][0], b0, x);
                h[i][1] = dot4(h[i][1], b1, x);
                pin(&h[i][0], &h[i][1]);
            }
        }
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            s[i][v] = vi_add(s[i][v], sums4(h[i][v]));
}

/* A group's sums s become floats by the scales that lie behind it. */
KN_INLINE void scale4(const int m, vi s[][2], const uint8_t *b, const float *scale, vf total[][2])
{
    const float *of_weight = (const float *)(const void *)b;
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            total[i][v] = v_add(total[i][v], v_mul(vi_float(s[i][v]), v_mul(v_load(of_weight + v * VW), v_set(scale[i]))));
}

KN_INLINE void last4(const int m, vf total[][2], float *sum, long ld)
{
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            v_store(sum + i * ld + v * VW, total[i][v]);
}

KN_INLINE void tile4_of(const int m, long k, long group, const int32_t *a, long sa, const uint8_t *b, const float *scale,
                        const int32_t *start, float *sum, long ld, kn_soon next)
{
    long lines = kn_lines_a_step(next, k / BLOCK);
    vf total[MR4][2];
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
        total[i][0] = total[i][1] = v_zero();
    for (long p = 0; p < k; scale += sa, start += sa, b += NR * sizeof(float)) {
        vi s[MR4][2];
#pragma GCC unroll 8
        for (int i = 0; i < m; i++)
            s[i][0] = s[i][1] = vi_set(start[i]);
        for (long end = p + group < k ? p + group : k; p < end; p += BLOCK, a += BLOCK / 4 * sa, b += BLOCK / 2 * NR) {
            kn_ask(&next, lines);
            block4(m, a, sa, b, s);
        }
        scale4(m, s, b, scale, total);
    }
    last4(m, total, sum, ld);
}

static void tile4(long k, long group, const int32_t *a, long sa, const uint8_t *b, const float *scale, const int32_t *start,
                  float *sum, long ld, int m, kn_soon next)
{
    switch (m) {
    case 1: tile4_of(1, k, group, a, sa, b, scale, start, sum, ld, next); break;
    case 2: tile4_of(2, k, group, a, sa, b, scale, start, sum, ld, next); break;
    case 3: tile4_of(3, k, group, a, sa, b, scale, start, sum, ld, next); break;
    case 4: tile4_of(4, k, group, a, sa, b, scale, start, sum, ld, next); break;
#if MR4 > 4
    case 5: tile4_of(5, k, group, a, sa, b, scale, start, sum, ld, next); break;
    case 6: tile4_of(6, k, group, a, sa, b, scale, start, sum, ld, next); break;
    case 7: tile4_of(7, k, group, a, sa, b, scale, start, sum, ld, next); break;
    case 8: tile4_of(8, k, group, a, sa, b, scale, start, sum, ld, next); break;
#endif
    default: break;
    }
}

static void strips4(long k, long group, const int32_t *a, const uint8_t *b, long far, const float *scale, const int32_t *start,
                    float *sum)
{
    vf total[KN_STRIPS][2];
#pragma GCC unroll 4
    for (int i = 0; i < KN_STRIPS; i++)
        total[i][0] = total[i][1] = v_zero();
    for (long p = 0; p < k; scale++, start++, b += NR * sizeof(float)) {
        vi s[KN_STRIPS][2];
#pragma GCC unroll 4
        for (int i = 0; i < KN_STRIPS; i++)
            s[i][0] = s[i][1] = vi_set(*start);
        for (long end = p + group < k ? p + group : k; p < end; p += BLOCK, a += BLOCK / 4, b += BLOCK / 2 * NR)
#pragma GCC unroll 4
            for (int i = 0; i < KN_STRIPS; i++)
                block4(1, a, 1, b + i * far, s + i);
#pragma GCC unroll 4
        for (int i = 0; i < KN_STRIPS; i++)
            scale4(1, s + i, b + i * far, scale, total + i);
    }
#pragma GCC unroll 4
    for (int i = 0; i < KN_STRIPS; i++)
        last4(1, total + i, sum + i * NR, 0);
}

/* Without their signs floats are ordered as integers are, infinity and then NaN on top. */
static float largest(long k, const float *x)
{
    const vi magnitude = vi_set(0x7fffffff);
    int32_t each[VW], top = 0;
    vi m = vi_set(0);
    long i = 0;
    for (; i + VW <= k; i += VW)
        m = vi_max(m, vi_and(vi_load(x + i), magnitude));
    vi_store(each, m);
    for (int v = 0; v < VW; v++)
        top = each[v] > top ? each[v] : top;
    for (; i < k; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    float result;
    memcpy(&result, &top, sizeof result);
    return result;
}

/* Signed, the bits of what is positive are ordered as its floats; unsigned, what is negative comes above, by its magnitude. */
static void ends(long k, const float *x, float *least, float *most)
{
    int32_t low[VW], high[VW];
    vi l = vi_set(INT32_MIN), h = vi_set(0);
    long i = 0;
    for (; i + VW <= k; i += VW) {
        vi bits = vi_load(x + i);
        l = vi_max_unsigned(l, bits);
        h = vi_max(h, bits);
    }
    vi_store(low, l);
    vi_store(high, h);
    uint32_t down = 0x80000000u, bits;
    int32_t up = 0;
    for (int v = 0; v < VW; v++) {
        down = (uint32_t)low[v] > down ? (uint32_t)low[v] : down;
        up = high[v] > up ? high[v] : up;
    }
    for (; i < k; i++) {
        memcpy(&bits, x + i, sizeof bits);
        down = bits > down ? bits : down;
        up = (int32_t)bits > up ? (int32_t)bits : up;
    }
    memcpy(least, &down, sizeof *least);
    memcpy(most, &up, sizeof *most);
}

static void round_all(long k, const float *x, float inverse, int8_t *q)
{
    vf f = v_set(inverse);
    long i = 0;
    for (; i + VW <= k; i += VW)
        vi_store_bytes(q + i, vi_round(v_mul(v_load(x + i), f)));
    for (; i < k; i++)
        q[i] = (int8_t)lrintf(x[i] * inverse);
}

KN_INLINE void rescale_all(long n, const int32_t *sum, const kn_low_rescale *r, const float *bias, const float *residual,
                           float *y)
{
    const vf s = v_set(r->s);
    const vi lift = vi_set(r->lift);
    long j = 0;
    for (; j + VW <= n; j += VW) {
        vi one = vi_load(sum + j);
        one = LIFT ? vi_sub(one, vi_mul(lift, vi_load(r->column + j))) : one;
        vf x = v_mul(vi_float(one), v_mul(s, v_load(r->scale + j)));
        x = bias ? v_add(x, v_load(bias + j)) : x;
        v_store(y + j, residual ? v_add(x, v_load(residual + j)) : x);
    }
    for (; j < n; j++) {
        int32_t one;
        memcpy(&one, sum + j, sizeof one);
        float x = (float)(LIFT ? one - r->lift * r->column[j] : one) * (r->s * r->scale[j]);
        x = bias ? x + bias[j] : x;
        y[j] = residual ? x + residual[j] : x;
    }
}

static void rescale(long n, const int32_t *sum, const kn_low_rescale *r, float *y)
{
    if (r->bias && r->residual)
        rescale_all(n, sum, r, r->bias, r->residual, y);
    else if (r->bias)
        rescale_all(n, sum, r, r->bias, NULL, y);
    else
        rescale_all(n, sum, r, NULL, r->residual, y);
}

#define KN_LOW_INT(name) \
    const kn_low_int name = {.nr = NR, \
                             .mr8 = MR8, \
                             .mr4 = MR4, \
                             .depth = DEPTH, \
                             .bias = BIAS, \
                             .lift = LIFT, \
                             .largest = largest, \
                             .ends = ends, \
                             .round = round_all, \
                             .tile8 = tile8, \
                             .tile4 = tile4, \
                             .strips8 = strips8, \
                             .strips4 = strips4, \
                             .rescale = rescale}
