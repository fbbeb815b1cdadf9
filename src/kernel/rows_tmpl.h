/* rows_tmpl.h - the row kernels, written once for any vector of simd_*.h and compiled once a tier; see kernel.h for
 * what each does. An array is walked a vector at a time and its end in a part, by the same operations, so that an
 * element's bits do not depend on where it stands. Long sums have four partial sums, each of vectors. */

/* ---- functions of one vector -------------------------------------------------------------------------- */

/* The exponent of 2 nearest to that of exp x, and exp of what is left, 0.7 to 1.42. NaN stays in the second. */
KN_INLINE vf v_exp_parts(vf x, vf *n_of)
{
    vf n = *n_of = v_round(v_mul(x, v_set(KN_LOG2E)));
    vf r = v_fnma(n, v_set(KN_LN2_LOW), v_fnma(n, v_set(KN_LN2_HIGH), x));
    vf p = v_fma(v_set(KN_EXP_P4), r, v_set(KN_EXP_P3));
    p = v_fma(p, r, v_set(KN_EXP_P2));
    p = v_fma(p, r, v_set(KN_EXP_P1));
    p = v_fma(p, r, v_set(KN_EXP_P0));
    return v_add(v_fma(v_mul(r, r), p, r), v_set(1));
}

/* As kn_exp in scalar.h. What comes out as 0 is not computed: numbers too small to be normal cost a hundred times more.
 * NaN stays: max and min give their second operand then, and NaN is not less. */
KN_INLINE vf v_exp(vf x)
{
    vf n, p = v_exp_parts(v_min(v_set(KN_EXP_HIGH), v_max(v_set(KN_EXP_LOW), x)), &n);
    return v_choose(v_less(x, v_set(KN_EXP_LOW)), v_zero(), v_scale(p, n));
}

/* The same bits of numbers that are not above 0. */
KN_INLINE vf v_exp_below(vf x)
{
    vf n, p = v_exp_parts(v_max(v_set(KN_EXP_LOW), x), &n);
    return v_choose(v_less(x, v_set(KN_EXP_LOW)), v_zero(), v_scale_normal(p, n));
}

/* What exp is shifted by: -inf is the largest of nothing but -inf, and -inf - -inf would be NaN. */
KN_INLINE vf v_shift(vf most) { return v_choose(v_equal(most, v_set(-INFINITY)), v_zero(), most); }

KN_INLINE vf v_sigmoid(vf x) { return v_div(v_set(1), v_add(v_set(1), v_exp(v_sub(v_zero(), x)))); }

/* As kn_normal in scalar.h. */
KN_INLINE vf v_normal(vf x, vf *density)
{
    vf e = v_exp(v_mul(v_mul(v_set(-0.5f), x), x));
    vf t = v_div(v_set(1), v_fma(v_set(KN_TAIL), v_abs(x), v_set(1)));
    vf q = v_fma(v_set(KN_TAIL_Q8), t, v_set(KN_TAIL_Q7));
    q = v_fma(q, t, v_set(KN_TAIL_Q6));
    q = v_fma(q, t, v_set(KN_TAIL_Q5));
    q = v_fma(q, t, v_set(KN_TAIL_Q4));
    q = v_fma(q, t, v_set(KN_TAIL_Q3));
    q = v_fma(q, t, v_set(KN_TAIL_Q2));
    q = v_fma(q, t, v_set(KN_TAIL_Q1));
    q = v_fma(q, t, v_set(KN_TAIL_Q0));
    vf tail = v_mul(e, v_mul(t, q));
    *density = v_mul(e, v_set(KN_INV_SQRT_2PI));
    return v_choose(v_less(x, v_zero()), tail, v_sub(v_set(1), tail));
}

KN_INLINE vf v_tanh_argument(vf x) { return v_mul(v_set(KN_TANH_SCALE), v_fma(v_mul(v_mul(x, x), x), v_set(KN_TANH_CUBE), x)); }

/* As kn_tanh in scalar.h. */
KN_INLINE vf v_tanh(vf x)
{
    vf a = v_abs(x), s = v_mul(x, x);
    vf p = v_fma(v_set(KN_TANH_P4), s, v_set(KN_TANH_P3));
    p = v_fma(p, s, v_set(KN_TANH_P2));
    p = v_fma(p, s, v_set(KN_TANH_P1));
    p = v_fma(p, s, v_set(KN_TANH_P0));
    vf far = v_sub(v_set(1), v_div(v_set(2), v_add(v_set(1), v_exp(v_add(a, a)))));
    far = v_choose(v_less(x, v_zero()), v_sub(v_zero(), far), far);
    return v_choose(v_less(a, v_set(KN_TANH_NEAR)), v_fma(v_mul(s, p), x, x), far);
}

KN_INLINE vf v_act(const kn_act f, vf x)
{
    vf density;
    switch (f) {
    case KN_GELU: return v_mul(x, v_normal(x, &density));
    case KN_GELU_TANH: return v_mul(x, v_sigmoid(v_tanh_argument(x)));
    case KN_QUICK_GELU: return v_mul(x, v_sigmoid(v_mul(v_set(KN_QUICK), x)));
    case KN_SILU: return v_mul(x, v_sigmoid(x));
    case KN_RELU: return v_choose(v_less(x, v_zero()), v_zero(), x);
    case KN_TANH: return v_tanh(x);
    case KN_NONE: break;
    }
    return x;
}

/* The slope of x s, s = sigmoid(u(x)): s + s (1 - s) x u', where 1 - s = exp(-u) s cancels nothing. */
KN_INLINE vf v_gate_slope(vf x, vf u, vf du)
{
    vf e = v_exp(v_sub(v_zero(), v_max(v_set(-KN_GATE_END), u))), s = v_div(v_set(1), v_add(v_set(1), e));
    return v_fma(v_mul(v_mul(s, v_mul(e, s)), x), du, s);
}

KN_INLINE vf v_slope(const kn_act f, vf x)
{
    vf density, p;
    switch (f) {
    case KN_GELU: p = v_normal(x, &density); return v_fma(x, density, p);
    case KN_GELU_TANH:
        return v_gate_slope(x, v_tanh_argument(x),
                            v_mul(v_set(KN_TANH_SCALE), v_fma(v_mul(x, x), v_set(3 * KN_TANH_CUBE), v_set(1))));
    case KN_QUICK_GELU: return v_gate_slope(x, v_mul(v_set(KN_QUICK), x), v_set(KN_QUICK));
    case KN_SILU: return v_gate_slope(x, x, v_set(1));
    case KN_RELU: return v_choose(v_less(v_zero(), x), v_set(1), v_zero());
    case KN_TANH: p = v_tanh(x); return v_fnma(p, p, v_set(1));
    case KN_NONE: break;
    }
    return v_set(1);
}

/* ---- element by element ------------------------------------------------------------------------------- */

KN_INLINE void act_all(const kn_act f, long n, const float *x, float *y)
{
    long i = 0;
    for (; i + VW <= n; i += VW)
        v_store(y + i, v_act(f, v_load(x + i)));
    if (i < n) {
        vpart m = v_part(n - i);
        v_store_part(y + i, m, v_act(f, v_load_part(x + i, m)));
    }
}

static void act(kn_act f, long n, const float *x, float *y)
{
    switch (f) {
    case KN_GELU: act_all(KN_GELU, n, x, y); break;
    case KN_GELU_TANH: act_all(KN_GELU_TANH, n, x, y); break;
    case KN_QUICK_GELU: act_all(KN_QUICK_GELU, n, x, y); break;
    case KN_SILU: act_all(KN_SILU, n, x, y); break;
    case KN_RELU: act_all(KN_RELU, n, x, y); break;
    case KN_TANH: act_all(KN_TANH, n, x, y); break;
    case KN_NONE: act_all(KN_NONE, n, x, y); break;
    }
}

KN_INLINE void act_backward_all(const kn_act f, long n, const float *x, const float *dy, float *dx)
{
    long i = 0;
    for (; i + VW <= n; i += VW)
        v_store(dx + i, v_fma(v_slope(f, v_load(x + i)), v_load(dy + i), v_load(dx + i)));
    if (i < n) {
        vpart m = v_part(n - i);
        v_store_part(dx + i, m, v_fma(v_slope(f, v_load_part(x + i, m)), v_load_part(dy + i, m), v_load_part(dx + i, m)));
    }
}

static void act_backward(kn_act f, long n, const float *x, const float *dy, float *dx)
{
    switch (f) {
    case KN_GELU: act_backward_all(KN_GELU, n, x, dy, dx); break;
    case KN_GELU_TANH: act_backward_all(KN_GELU_TANH, n, x, dy, dx); break;
    case KN_QUICK_GELU: act_backward_all(KN_QUICK_GELU, n, x, dy, dx); break;
    case KN_SILU: act_backward_all(KN_SILU, n, x, dy, dx); break;
    case KN_RELU: act_backward_all(KN_RELU, n, x, dy, dx); break;
    case KN_TANH: act_backward_all(KN_TANH, n, x, dy, dx); break;
    case KN_NONE: act_backward_all(KN_NONE, n, x, dy, dx); break;
    }
}

/* y = f(a, b, y, s) for every element; f is a constant where this is inlined. */
KN_INLINE void each(long n, vf s, const float *a, const float *b, float *y, vf (*f)(vf a, vf b, vf y, vf s))
{
    long i = 0;
    for (; i + VW <= n; i += VW)
        v_store(y + i, f(v_load(a + i), v_load(b + i), v_load(y + i), s));
    if (i < n) {
        vpart m = v_part(n - i);
        v_store_part(y + i, m, f(v_load_part(a + i, m), v_load_part(b + i, m), v_load_part(y + i, m), s));
    }
}

KN_INLINE vf f_add(vf a, vf b, vf y, vf s) { return (void)y, (void)s, v_add(a, b); }
KN_INLINE vf f_mul(vf a, vf b, vf y, vf s) { return (void)y, (void)s, v_mul(a, b); }
KN_INLINE vf f_mul_add(vf a, vf b, vf y, vf s) { return (void)s, v_fma(a, b, y); }
KN_INLINE vf f_axpy(vf a, vf b, vf y, vf s) { return (void)b, v_fma(s, a, y); }
KN_INLINE vf f_scale(vf a, vf b, vf y, vf s) { return (void)b, (void)y, v_mul(s, a); }
KN_INLINE vf f_exp(vf a, vf b, vf y, vf s) { return (void)b, (void)y, v_exp(v_sub(a, s)); }
KN_INLINE vf f_softmax(vf a, vf b, vf y, vf s) { return (void)y, v_mul(a, v_sub(b, s)); }

static void add(long n, const float *a, const float *b, float *y) { each(n, v_zero(), a, b, y, f_add); }
static void mul(long n, const float *a, const float *b, float *y) { each(n, v_zero(), a, b, y, f_mul); }
static void mul_add(long n, const float *a, const float *b, float *y) { each(n, v_zero(), a, b, y, f_mul_add); }
static void axpy(long n, float s, const float *x, float *y) { each(n, v_set(s), x, x, y, f_axpy); }
static void scale(long n, float s, const float *x, float *y) { each(n, v_set(s), x, x, y, f_scale); }
static void exp_shift(long n, const float *x, float shift, float *y) { each(n, v_shift(v_set(shift)), x, x, y, f_exp); }

/* ---- sums --------------------------------------------------------------------------------------------- */

/* The sum of f(a, b, s) over an array, 0 in the part behind its end. */
KN_INLINE float total(long n, vf s, const float *a, const float *b, vf (*f)(vf a, vf b, vf s, vf sum))
{
    vf t[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    long i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            t[j] = f(v_load(a + i + j * VW), v_load(b + i + j * VW), s, t[j]);
    for (; i + VW <= n; i += VW)
        t[0] = f(v_load(a + i), v_load(b + i), s, t[0]);
    if (i < n) {
        vpart m = v_part(n - i);
        t[1] = v_keep_part(f(v_load_part(a + i, m), v_load_part(b + i, m), s, t[1]), m, t[1]);
    }
    return v_sum(v_add(v_add(t[0], t[1]), v_add(t[2], t[3])));
}

KN_INLINE vf s_sum(vf a, vf b, vf s, vf sum) { return (void)b, (void)s, v_add(a, sum); }
KN_INLINE vf s_dot(vf a, vf b, vf s, vf sum) { return (void)s, v_fma(a, b, sum); }
KN_INLINE vf s_variance(vf a, vf b, vf s, vf sum) { return (void)b, v_fma(v_sub(a, s), v_sub(a, s), sum); }

static float sum(long n, const float *x) { return total(n, v_zero(), x, x, s_sum); }
static float dot(long n, const float *a, const float *b) { return total(n, v_zero(), a, b, s_dot); }

static double sum_squares(long n, const float *x)
{
    vd s = vd_zero();
    long i = 0;
    for (; i + VW <= n; i += VW)
        s = vd_add_square(s, v_load(x + i));
    if (i < n)
        s = vd_add_square(s, v_load_part(x + i, v_part(n - i)));
    return vd_sum(s);
}

static float max(long n, const float *x)
{
    vf most = v_set(-INFINITY);
    for (long i = 0; i < n; i += VW) {
        vf a = i + VW <= n ? v_load(x + i) : v_keep_part(v_load_part(x + i, v_part(n - i)), v_part(n - i), most);
        if (v_any(v_is_nan(a)))
            return NAN;
        most = v_max(a, most);
    }
    return v_largest(most);
}

/* Two vectors of columns at once hide the adder's latency. */
static void add_rows(long rows, long n, const float *x, long ld, float *y)
{
    long i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        vf a = v_zero(), b = v_zero();
        for (long r = 0; r < rows; r++) {
            a = v_add(a, v_load(x + r * ld + i));
            b = v_add(b, v_load(x + r * ld + i + VW));
        }
        v_store(y + i, v_add(v_load(y + i), a));
        v_store(y + i + VW, v_add(v_load(y + i + VW), b));
    }
    for (; i < n; i += VW) {
        vpart m = v_part(n - i < VW ? n - i : VW);
        vf a = v_zero();
        for (long r = 0; r < rows; r++)
            a = v_add(a, v_load_part(x + r * ld + i, m));
        v_store_part(y + i, m, v_add(v_load_part(y + i, m), a));
    }
}

/* ---- norms -------------------------------------------------------------------------------------------- */

KN_INLINE vf normal_of(vf x, vf mean, vf rstd) { return v_mul(v_sub(x, mean), rstd); }

static void layer_norm_row(long d, const float *x, const float *w, const float *b, float mean, float rstd, float *y)
{
    vf m = v_set(mean), s = v_set(rstd);
    for (long i = 0; i < d; i += VW) {
        vpart p = v_part(d - i < VW ? d - i : VW);
        vf bias = b ? v_load_part(b + i, p) : v_zero();
        vf r = v_fma(normal_of(v_load_part(x + i, p), m, s), v_load_part(w + i, p), bias);
        if (i + VW <= d)
            v_store(y + i, r);
        else
            v_store_part(y + i, p, r);
    }
}

static void layer_norm(long rows, long d, const float *x, const float *w, const float *b, float eps, float *y, float *mean,
                       float *rstd)
{
    for (long r = 0; r < rows; r++, x += d, y += d) {
        float m = sum(d, x) / (float)d;
        float s = 1.0f / sqrtf(total(d, v_set(m), x, x, s_variance) / (float)d + eps);
        layer_norm_row(d, x, w, b, m, s, y);
        if (mean)
            mean[r] = m;
        if (rstd)
            rstd[r] = s;
    }
}

/* The part of a row's backward that both norms share. xhat = (x - mean) rstd; sums g of w dy and gx of w dy xhat;
 * dw += dy xhat, db += dy. */
KN_INLINE void norm_sums(long d, const float *x, const float *w, vf mean, vf rstd, const float *dy, float *dw, float *db,
                         float *g, float *gx)
{
    vf a = v_zero(), b = v_zero();
    for (long i = 0; i < d; i += VW) {
        bool whole = i + VW <= d;
        vpart p = v_part(whole ? VW : d - i);
        vf up = v_load_part(dy + i, p), hat = normal_of(v_load_part(x + i, p), mean, rstd),
           wdy = v_mul(v_load_part(w + i, p), up);
        a = v_add(a, wdy);
        b = v_fma(wdy, hat, b); /* behind the end wdy is 0 and x is finite: adds 0 */
        if (dw && whole)
            v_store(dw + i, v_fma(up, hat, v_load(dw + i)));
        else if (dw)
            v_store_part(dw + i, p, v_fma(up, hat, v_load_part(dw + i, p)));
        if (db && whole)
            v_store(db + i, v_add(v_load(db + i), up));
        else if (db)
            v_store_part(db + i, p, v_add(v_load_part(db + i, p), up));
    }
    *g = v_sum(a);
    *gx = v_sum(b);
}

/* dx += rstd (w dy - g - xhat gx), g and gx now means. */
KN_INLINE void norm_slope(long d, const float *x, const float *w, vf mean, vf rstd, const float *dy, vf g, vf gx, float *dx)
{
    for (long i = 0; i < d; i += VW) {
        bool whole = i + VW <= d;
        vpart p = v_part(whole ? VW : d - i);
        vf hat = normal_of(v_load_part(x + i, p), mean, rstd);
        vf slope = v_fnma(hat, gx, v_sub(v_mul(v_load_part(w + i, p), v_load_part(dy + i, p)), g));
        vf r = v_fma(rstd, slope, v_load_part(dx + i, p));
        if (whole)
            v_store(dx + i, r);
        else
            v_store_part(dx + i, p, r);
    }
}

static void layer_norm_backward(long rows, long d, const float *x, const float *w, const float *mean, const float *rstd,
                                const float *dy, float *dx, float *dw, float *db)
{
    for (long r = 0; r < rows; r++) {
        float g, gx;
        vf m = v_set(mean[r]), s = v_set(rstd[r]);
        norm_sums(d, x + r * d, w, m, s, dy + r * d, dw, db, &g, &gx);
        if (dx)
            norm_slope(d, x + r * d, w, m, s, dy + r * d, v_set(g / (float)d), v_set(gx / (float)d), dx + r * d);
    }
}

static void rms_norm(long rows, long d, const float *x, const float *w, float eps, float *y, float *rstd)
{
    for (long r = 0; r < rows; r++, x += d, y += d) {
        float s = 1.0f / sqrtf(dot(d, x, x) / (float)d + eps);
        layer_norm_row(d, x, w, NULL, 0, s, y);
        if (rstd)
            rstd[r] = s;
    }
}

static void rms_norm_backward(long rows, long d, const float *x, const float *w, const float *rstd, const float *dy, float *dx,
                              float *dw)
{
    for (long r = 0; r < rows; r++) {
        float g, gx;
        vf s = v_set(rstd[r]);
        norm_sums(d, x + r * d, w, v_zero(), s, dy + r * d, dw, NULL, &g, &gx);
        if (dx)
            norm_slope(d, x + r * d, w, v_zero(), s, dy + r * d, v_zero(), v_set(gx / (float)d), dx + r * d);
    }
}

/* ---- softmax ------------------------------------------------------------------------------------------ */

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

static void softmax_slope(long n, const float *y, const float *dy, float s, float *dx)
{
    each(n, v_set(s), y, dy, dx, f_softmax);
}

static void softmax_backward(long n, const float *y, const float *dy, float *dx) { softmax_slope(n, y, dy, dot(n, y, dy), dx); }

static void max_columns(long rows, long n, const float *x, long ld, float *most)
{
    for (long i = 0; i < n; i += VW) {
        vpart m = v_part(n - i < VW ? n - i : VW);
        vf a = v_load_part(most + i, m);
        for (long r = 0; r < rows; r++)
            a = v_max(v_load_part(x + r * ld + i, m), a);
        v_store_part(most + i, m, a);
    }
}

static void exp_columns(long rows, long n, float *x, long ld, const float *most, float *sums)
{
    for (long i = 0; i < n; i += VW) {
        bool whole = i + VW <= n;
        vpart m = v_part(whole ? VW : n - i);
        vf shift = v_shift(v_load_part(most + i, m)), s = v_load_part(sums + i, m);
        for (long r = 0; r < rows; r++) {
            float *at = x + r * ld + i;
            vf e = v_exp_below(v_sub(whole ? v_load(at) : v_load_part(at, m), shift));
            if (whole)
                v_store(at, e);
            else
                v_store_part(at, m, e);
            s = v_add(s, e);
        }
        v_store_part(sums + i, m, s);
    }
}

/* ---- rotary positions ----------------------------------------------------------------------------------- */

KN_INLINE void put_turned(float *y, vf v, bool accumulate, bool part, vpart m)
{
    if (part)
        v_store_part(y, m, accumulate ? v_add(v_load_part(y, m), v) : v);
    else
        v_store(y, accumulate ? v_add(v_load(y), v) : v);
}

static void rotate(long half, const float *x, const float *c, const float *s, float sign, bool accumulate, float *y)
{
    for (long i = 0; i < half; i += VW) {
        bool part = half - i < VW;
        vpart m = v_part(part ? half - i : VW);
        vf a = part ? v_load_part(x + i, m) : v_load(x + i), b = part ? v_load_part(x + half + i, m) : v_load(x + half + i);
        vf cosine = part ? v_load_part(c + i, m) : v_load(c + i);
        vf sine = v_mul(v_set(sign), part ? v_load_part(s + i, m) : v_load(s + i));
        put_turned(y + i, v_fnma(b, sine, v_mul(a, cosine)), accumulate, part, m);
        put_turned(y + half + i, v_fma(a, sine, v_mul(b, cosine)), accumulate, part, m);
    }
}

/* ---- AdamW -------------------------------------------------------------------------------------------- */

typedef struct adam {
    vf lr, b1, b1_rest, b2, b2_rest, eps, decay, c1, c2;
} adam;

KN_INLINE vf adam_step(const adam *a, vf p, vf g, vf *m, vf *v)
{
    *m = v_fma(a->b1, *m, v_mul(a->b1_rest, g));
    *v = v_fma(a->b2, *v, v_mul(v_mul(a->b2_rest, g), g));
    vf step = v_div(v_mul(*m, a->c1), v_add(v_sqrt(v_mul(*v, a->c2)), a->eps));
    return v_fnma(a->lr, v_fma(a->decay, p, step), p);
}

static void adamw(long n, float *p, const float *g, float scale, float *m, float *v, float lr, float b1, float b2, float eps,
                  float decay, float c1, float c2)
{
    adam a = {v_set(lr), v_set(b1), v_set((1 - b1) * scale), v_set(b2), v_set((1 - b2) * scale * scale), v_set(eps), v_set(decay),
              v_set(c1), v_set(c2)};
    long i = 0;
    for (; i + VW <= n; i += VW) {
        vf mi = v_load(m + i), vi = v_load(v + i);
        v_store(p + i, adam_step(&a, v_load(p + i), v_load(g + i), &mi, &vi));
        v_store(m + i, mi);
        v_store(v + i, vi);
    }
    if (i < n) {
        vpart t = v_part(n - i);
        vf mi = v_load_part(m + i, t), vi = v_load_part(v + i, t);
        v_store_part(p + i, t, adam_step(&a, v_load_part(p + i, t), v_load_part(g + i, t), &mi, &vi));
        v_store_part(m + i, t, mi);
        v_store_part(v + i, t, vi);
    }
}

/* ---- conversions -------------------------------------------------------------------------------------- */

KN_INLINE void widen(long n, const uint16_t *x, float *y, vf (*f)(const uint16_t *))
{
    long i = 0;
    for (; i + VW <= n; i += VW)
        v_store(y + i, f(x + i));
    if (i < n) {
        uint16_t end[VW] = {0};
        memcpy(end, x + i, (size_t)(n - i) * sizeof *x);
        v_store_part(y + i, v_part(n - i), f(end));
    }
}

KN_INLINE void narrow(long n, const float *x, uint16_t *y, void (*f)(uint16_t *, vf))
{
    long i = 0;
    for (; i + VW <= n; i += VW)
        f(y + i, v_load(x + i));
    if (i < n) {
        uint16_t end[VW];
        f(end, v_load_part(x + i, v_part(n - i)));
        memcpy(y + i, end, (size_t)(n - i) * sizeof *y);
    }
}

static void from_f16(long n, const uint16_t *x, float *y) { widen(n, x, y, v_from_f16); }
static void from_bf16(long n, const uint16_t *x, float *y) { widen(n, x, y, v_from_bf16); }
static void to_f16(long n, const float *x, uint16_t *y) { narrow(n, x, y, v_to_f16); }
static void to_bf16(long n, const float *x, uint16_t *y) { narrow(n, x, y, v_to_bf16); }

/* Left to the compiler, whose vectors do it as well. */
static void from_i8(long n, const int8_t *x, float scale, float *y)
{
    for (long i = 0; i < n; i++)
        y[i] = scale * (float)x[i];
}

#include "attention_tmpl.h"
