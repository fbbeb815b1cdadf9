/* attention_tmpl.h - attention of few queries, for any vector of simd_*.h: nothing is packed, and every sum has the order that
 * gemm_tile gives it. Rows of queries and vectors are constants where this is inlined, so that the sums are registers. */

/* Row for row, what is read `next` is asked for, a line each time, so that reading memory and computing go on together. */
enum { LINE_FLOATS = 16 };

KN_INLINE kn_rows rows_from(kn_rows x, long row, long element) { return (kn_rows){x.at + row * x.ld + element, x.ld}; }

/* VW keys by VW elements, of which `keys` by `wide` are there: transposed, every key a lane, they meet `rows` queries. */
KN_INLINE void square_of(const int rows, const long keys, const long wide, const bool ask, kn_rows k, kn_rows next,
                         const float *q, long d, vf sum[4])
{
    vf r[VW];
    vpart m = v_part(wide);
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++) {
        if (ask)
            __builtin_prefetch(next.at + i * next.ld);
        r[i] = i >= keys ? v_zero() : wide < VW ? v_load_part(k.at + i * k.ld, m) : v_load(k.at + i * k.ld);
    }
    v_transpose(r);
#pragma GCC unroll 16
    for (int c = 0; c < VW; c++) {
        if (c >= wide)
            break;
#pragma GCC unroll 4
        for (int g = 0; g < rows; g++)
            sum[g] = v_fma(v_set(q[g * d + c]), r[c], sum[g]);
    }
}

/* Keys [0, n) of at most blocks * VW; `whole`: all of these. */
KN_INLINE void scores_of(const int rows, const int blocks, const bool whole, long n, long d, const float *q, kn_rows k,
                         kn_rows next, float alpha, float *s, long lds)
{
    vf sum[4][4];
    long e = 0;
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++)
#pragma GCC unroll 4
        for (int g = 0; g < rows; g++)
            sum[b][g] = v_zero();
    for (; e + LINE_FLOATS <= d; e += LINE_FLOATS)
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++)
#pragma GCC unroll 4
            for (int part = 0; part < LINE_FLOATS; part += VW)
                square_of(rows, whole ? VW : n, VW, part == 0, rows_from(k, b * VW, e + part), rows_from(next, b * VW, e),
                          q + e + part, d, sum[b]);
    for (; e < d; e += VW)
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++)
            square_of(rows, whole ? VW : n, least(VW, d - e), true, rows_from(k, b * VW, e), rows_from(next, b * VW, e), q + e, d,
                      sum[b]);
#pragma GCC unroll 4
    for (int g = 0; g < rows; g++)
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) {
            vf x = v_fma(v_set(alpha), sum[b][g], v_zero());
            if (whole)
                v_store(s + g * lds + b * VW, x);
            else
                v_store_part(s + g * lds, v_part(n), x);
        }
}

KN_INLINE void scores_of_rows(const int rows, const int blocks, long keys, long d, const float *q, kn_rows k, kn_rows next,
                              float alpha, float *s, long lds)
{
    long j = 0;
    for (; j + blocks * VW <= keys; j += blocks * VW)
        scores_of(rows, blocks, true, blocks * VW, d, q, rows_from(k, j, 0), rows_from(next, j, 0), alpha, s + j, lds);
    for (; blocks > 1 && j + VW <= keys; j += VW)
        scores_of(rows, 1, true, VW, d, q, rows_from(k, j, 0), rows_from(next, j, 0), alpha, s + j, lds);
    if (j < keys)
        scores_of(rows, 1, false, keys - j, d, q, rows_from(k, j, 0), rows_from(next, j, 0), alpha, s + j, lds);
}

static void few_scores(long rows, long keys, long d, const float *q, kn_rows k, kn_rows next, float alpha, float *s, long lds)
{
    for (; rows >= 4; rows -= 4, q += 4 * d, s += 4 * lds)
        scores_of_rows(4, 1, keys, d, q, k, next, alpha, s, lds);
    switch (rows) {
    case 3: scores_of_rows(3, 1, keys, d, q, k, next, alpha, s, lds); break;
    case 2: scores_of_rows(2, 2, keys, d, q, k, next, alpha, s, lds); break;
    case 1: scores_of_rows(1, 2, keys, d, q, k, next, alpha, s, lds); break;
    default: break;
    }
}

/* `vectors` of a value; the last is a part unless it is whole. */
KN_INLINE void values_of(const int rows, const int vectors, const bool whole, long keys, const float *p, long ldp, kn_rows v,
                         kn_rows next, float *y, long d, vpart last)
{
    vf sum[4][8];
#pragma GCC unroll 4
    for (int g = 0; g < rows; g++)
#pragma GCC unroll 8
        for (int i = 0; i < vectors; i++)
            sum[g][i] = whole ? v_load(y + g * d + i * VW) : v_load_part(y + g * d, last);
    for (long j = 0; j < keys; j++, v.at += v.ld, next.at += next.ld) {
        vf r[8];
#pragma GCC unroll 4
        for (int i = 0; i < vectors * VW; i += LINE_FLOATS)
            __builtin_prefetch(next.at + i);
#pragma GCC unroll 8
        for (int i = 0; i < vectors; i++)
            r[i] = whole ? v_load(v.at + i * VW) : v_load_part(v.at, last);
#pragma GCC unroll 4
        for (int g = 0; g < rows; g++) {
            vf a = v_set(p[g * ldp + j]);
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++)
                sum[g][i] = v_fma(a, r[i], sum[g][i]);
        }
    }
#pragma GCC unroll 4
    for (int g = 0; g < rows; g++)
#pragma GCC unroll 8
        for (int i = 0; i < vectors; i++) {
            vf x = v_add(sum[g][i], v_zero()); /* -0 becomes 0, as in a tile */
            if (whole)
                v_store(y + g * d + i * VW, x);
            else
                v_store_part(y + g * d, last, x);
        }
}

/* Elements [e, ...) of so many vectors at a time, as far as they go. */
KN_INLINE long values_from(long e, const int rows, const int vectors, long keys, long d, const float *p, long ldp, kn_rows v,
                           kn_rows next, float *y)
{
    for (; e + vectors * VW <= d; e += vectors * VW)
        values_of(rows, vectors, true, keys, p, ldp, rows_from(v, 0, e), rows_from(next, 0, e), y + e, d, v_part(VW));
    return e;
}

/* The sums of rows x vectors fill the registers; what is left over goes in fewer at a time. */
KN_INLINE void values_of_rows(const int rows, const int vectors, long keys, long d, const float *p, long ldp, kn_rows v,
                              kn_rows next, float *y)
{
    long e = 0;
#pragma GCC unroll 4
    for (int n = vectors; n > 0; n /= 2)
        e = values_from(e, rows, n, keys, d, p, ldp, v, next, y);
    if (e < d)
        values_of(rows, 1, false, keys, p, ldp, rows_from(v, 0, e), rows_from(next, 0, e), y + e, d, v_part(d - e));
}

static void few_values(long rows, long keys, long d, const float *p, long ldp, kn_rows v, kn_rows next, float *y)
{
    for (; rows >= 4; rows -= 4, p += 4 * ldp, y += 4 * d)
        values_of_rows(4, 2, keys, d, p, ldp, v, next, y);
    switch (rows) {
    case 3: values_of_rows(3, 2, keys, d, p, ldp, v, next, y); break;
    case 2: values_of_rows(2, 4, keys, d, p, ldp, v, next, y); break;
    case 1: values_of_rows(1, 8, keys, d, p, ldp, v, next, y); break;
    default: break;
    }
}
