/* generic.c - the first tier: plain C that runs everywhere, and the truth that the other tiers are held against.
 * One number at a time, in the order of the formula. */
#include "pixels_scalar.h"
#include "scalar.h"
#include "tiers.h"

enum { MR = 4, NR = 8, MC = 64 };

/* The whole tile has loops of known length, which a compiler keeps in registers. */
static void whole_tile(long k, const float *a, long sa, const float *b, long sb, float sum[MR][NR])
{
    for (long p = 0; p < k; p++)
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NR; j++)
                sum[i][j] += a[p * sa + i] * b[p * sb + j];
}

static void part_tile(long k, const float *a, long sa, const float *b, long sb, int m, int n, float sum[MR][NR])
{
    for (long p = 0; p < k; p++)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
                sum[i][j] += a[p * sa + i] * b[p * sb + j];
}

static void gemm_tile(long k, const float *a, long sa, const float *b, long sb, float *c, long ldc, int m, int n, float alpha,
                      const float *old, long ldo, const float *ahead, long floats)
{
    (void)ahead;
    (void)floats;
    float sum[MR][NR] = {{0}};
    if (m == MR && n == NR)
        whole_tile(k, a, sa, b, sb, sum);
    else
        part_tile(k, a, sa, b, sb, m, n, sum);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            c[i * ldc + j] = (old ? old[i * ldo + j] : 0) + alpha * sum[i][j];
}

static void gemm_strips(long k, const float *a, const float *b, long far, float *c, long ldc, int m, float alpha,
                        const float *old, long ldo)
{
    for (int i = 0; i < kn_strips(m); i++, b += far, c += NR, old = old ? old + NR : NULL)
        gemm_tile(k, a, m, b, NR, c, ldc, m, NR, alpha, old, ldo, NULL, 0);
}

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    for (long j = 0; j < w; j++)
        for (long q = 0; q < k; q++)
            p[(j / width * k + q) * width + j % width] = transpose ? x[j * ld + q] : x[q * ld + j];
}

static float act_one(kn_act f, float x)
{
    float density;
    switch (f) {
    case KN_GELU: return x * kn_normal(x, &density);
    case KN_GELU_TANH: return x * kn_sigmoid(KN_TANH_SCALE * (x + KN_TANH_CUBE * x * x * x));
    case KN_QUICK_GELU: return x * kn_sigmoid(KN_QUICK * x);
    case KN_SILU: return x * kn_sigmoid(x);
    case KN_RELU: return x < 0 ? 0 : x;
    case KN_TANH: return kn_tanh(x);
    case KN_NONE: break;
    }
    return x;
}

static float slope_of_one(kn_act f, float x)
{
    float phi, density;
    switch (f) {
    case KN_GELU: phi = kn_normal(x, &density); return phi + x * density;
    case KN_GELU_TANH:
        return kn_gate_slope(x, KN_TANH_SCALE * (x + KN_TANH_CUBE * x * x * x), KN_TANH_SCALE * (1 + 3 * KN_TANH_CUBE * x * x));
    case KN_QUICK_GELU: return kn_gate_slope(x, KN_QUICK * x, KN_QUICK);
    case KN_SILU: return kn_gate_slope(x, x, 1);
    case KN_RELU: return x > 0 ? 1 : 0;
    case KN_TANH: phi = kn_tanh(x); return 1 - phi * phi;
    case KN_NONE: break;
    }
    return 1;
}

static void act(kn_act f, long n, const float *x, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = act_one(f, x[i]);
}

static void act_backward(kn_act f, long n, const float *x, const float *dy, float *dx)
{
    for (long i = 0; i < n; i++)
        dx[i] += slope_of_one(f, x[i]) * dy[i];
}

static void add(long n, const float *a, const float *b, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void mul(long n, const float *a, const float *b, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = a[i] * b[i];
}

static void mul_add(long n, const float *a, const float *b, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] += a[i] * b[i];
}

static void axpy(long n, float s, const float *x, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] += s * x[i];
}

static void scale(long n, float s, const float *x, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = s * x[i];
}

/* Sums of one row are kept in double: cheap without vectors, and the best truth there is. */
static float dot(long n, const float *a, const float *b)
{
    double s = 0;
    for (long i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return (float)s;
}

static float sum(long n, const float *x)
{
    double s = 0;
    for (long i = 0; i < n; i++)
        s += x[i];
    return (float)s;
}

static double sum_squares(long n, const float *x)
{
    double s = 0;
    for (long i = 0; i < n; i++)
        s += (double)x[i] * x[i];
    return s;
}

static float max(long n, const float *x)
{
    float m = -INFINITY;
    for (long i = 0; i < n; i++)
        if (!(x[i] <= m)) {
            m = x[i];
            if (m != m)
                return m;
        }
    return m;
}

static void layer_norm(long rows, long d, const float *x, const float *w, const float *b, float eps, float *y, float *mean,
                       float *rstd)
{
    for (long r = 0; r < rows; r++, x += d, y += d) {
        float m = sum(d, x) / (float)d;
        double squares = 0;
        for (long i = 0; i < d; i++)
            squares += (double)(x[i] - m) * (x[i] - m);
        float s = 1.0f / sqrtf((float)(squares / (double)d) + eps);
        for (long i = 0; i < d; i++)
            y[i] = (x[i] - m) * s * w[i] + (b ? b[i] : 0);
        if (mean)
            mean[r] = m;
        if (rstd)
            rstd[r] = s;
    }
}

static void layer_norm_backward(long rows, long d, const float *x, const float *w, const float *mean, const float *rstd,
                                const float *dy, float *dx, float *dw, float *db)
{
    for (long r = 0; r < rows; r++, x += d, dy += d) {
        double g = 0, gx = 0; /* sums of w dy, and of w dy xhat */
        for (long i = 0; i < d; i++) {
            float xhat = (x[i] - mean[r]) * rstd[r];
            g += w[i] * dy[i];
            gx += w[i] * dy[i] * xhat;
            if (dw)
                dw[i] += dy[i] * xhat;
            if (db)
                db[i] += dy[i];
        }
        float mg = (float)(g / (double)d), mgx = (float)(gx / (double)d);
        for (long i = 0; dx && i < d; i++)
            dx[r * d + i] += rstd[r] * (w[i] * dy[i] - mg - (x[i] - mean[r]) * rstd[r] * mgx);
    }
}

static void add_rows(long rows, long n, const float *x, long ld, float *y)
{
    for (long j = 0; j < n; j++) {
        float s = 0;
        for (long r = 0; r < rows; r++)
            s += x[r * ld + j];
        y[j] += s;
    }
}

static void rms_norm(long rows, long d, const float *x, const float *w, float eps, float *y, float *rstd)
{
    for (long r = 0; r < rows; r++, x += d, y += d) {
        float s = 1.0f / sqrtf((float)(sum_squares(d, x) / (double)d) + eps);
        for (long i = 0; i < d; i++)
            y[i] = x[i] * s * w[i];
        if (rstd)
            rstd[r] = s;
    }
}

static void rms_norm_backward(long rows, long d, const float *x, const float *w, const float *rstd, const float *dy, float *dx,
                              float *dw)
{
    for (long r = 0; r < rows; r++, x += d, dy += d) {
        double gx = 0;
        for (long i = 0; i < d; i++) {
            gx += w[i] * dy[i] * (x[i] * rstd[r]);
            if (dw)
                dw[i] += dy[i] * (x[i] * rstd[r]);
        }
        float mgx = (float)(gx / (double)d);
        for (long i = 0; dx && i < d; i++)
            dx[r * d + i] += rstd[r] * (w[i] * dy[i] - x[i] * rstd[r] * mgx);
    }
}

static void exp_shift(long n, const float *x, float shift, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = x[i] == -INFINITY ? 0 : kn_exp(x[i] - shift);
}

static float softmax(long n, const float *x, float *y)
{
    float m = max(n, x);
    exp_shift(n, x, m, y);
    float s = sum(n, y);
    if (s == 0)
        return -INFINITY;
    scale(n, 1.0f / s, y, y);
    return m + (float)kn_log(s);
}

static void max_columns(long rows, long n, const float *x, long ld, float *m)
{
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < n; j++)
            m[j] = x[r * ld + j] > m[j] ? x[r * ld + j] : m[j];
}

static void exp_columns(long rows, long n, float *x, long ld, const float *m, float *s)
{
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < n; j++) {
            float *e = &x[r * ld + j];
            *e = *e == -INFINITY ? 0 : kn_exp(*e - m[j]);
            s[j] += *e;
        }
}

static void softmax_slope(long n, const float *y, const float *dy, float s, float *dx)
{
    for (long i = 0; i < n; i++)
        dx[i] = y[i] * (dy[i] - s);
}

static void softmax_backward(long n, const float *y, const float *dy, float *dx) { softmax_slope(n, y, dy, dot(n, y, dy), dx); }

static void rotate(long half, const float *x, const float *c, const float *s, float sign, bool accumulate, float *y)
{
    for (long i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], ya = a * c[i] - sign * b * s[i], yb = b * c[i] + sign * a * s[i];
        y[i] = accumulate ? y[i] + ya : ya;
        y[i + half] = accumulate ? y[i + half] + yb : yb;
    }
}

static void adamw(long n, float *p, const float *g, float scale, float *m, float *v, float lr, float b1, float b2, float eps,
                  float decay, float c1, float c2)
{
    for (long i = 0; i < n; i++) {
        m[i] = b1 * m[i] + (1 - b1) * scale * g[i];
        v[i] = b2 * v[i] + (1 - b2) * scale * scale * g[i] * g[i];
        p[i] -= lr * (m[i] * c1 / (sqrtf(v[i] * c2) + eps) + decay * p[i]);
    }
}

static void from_f16(long n, const uint16_t *x, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = kn_half_to_float(x[i]);
}

static void from_bf16(long n, const uint16_t *x, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = kn_brain_to_float(x[i]);
}

static void to_f16(long n, const float *x, uint16_t *y)
{
    for (long i = 0; i < n; i++)
        y[i] = kn_float_to_half(x[i]);
}

static void to_bf16(long n, const float *x, uint16_t *y)
{
    for (long i = 0; i < n; i++)
        y[i] = kn_float_to_brain(x[i]);
}

static void split_rgb(long n, const uint8_t *rgb, int16_t *planes, long plane) { kn_split_rgb(n, rgb, planes, plane); }

static void blend_pixels(const kn_taps *t, const int16_t *planes, long plane, uint8_t *rgb)
{
    kn_blend_pixels(t, planes, plane, rgb);
}

static void blend_rows(long n, long rows, const uint8_t *const *row, const int16_t *low, const int16_t *high, uint8_t *y)
{
    kn_blend_rows_between(0, n, rows, row, low, high, y);
}

static void rgb_to_floats(long n, const uint8_t *rgb, const float *table, float *planes, long plane)
{
    kn_rgb_to_floats_between(0, n, rgb, table, planes, plane);
}

static void from_i8(long n, const int8_t *x, float scale, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = scale * (float)x[i];
}

static void few_scores(long rows, long keys, long d, const float *q, kn_rows k, kn_rows next, float alpha, float *s, long lds)
{
    long width = kn_few_width(NR, rows);
    (void)next;
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < keys; j++) {
            float sum = 0;
            for (long e = 0; e < d; e++)
                sum += q[e * width + r] * k.at[j * k.ld + e];
            s[r * lds + j] = 0 + alpha * sum;
        }
}

static void few_values(long rows, long keys, long d, const float *p, long ldp, kn_rows v, kn_rows next, float *y)
{
    (void)next;
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < keys; j++)
            for (long e = 0; e < d; e++)
                y[r * d + e] += p[r * ldp + j] * v.at[j * v.ld + e];
}

const kn_table kn_generic = {
    .name = "generic",
    .mr = MR,
    .nr = NR,
    .mc = MC,
#include "table.h"
};
