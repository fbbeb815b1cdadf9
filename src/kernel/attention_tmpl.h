/* attention_tmpl.h - attention of few queries, for any vector of simd_*.h: keys and values are read where they lie, and every sum has the order that
 * gemm_tile gives it. Rows of queries, keys and vectors are constants where this is inlined, so that the sums are registers. */

/* Row for row, what is read `next` is asked for, a whole line each time, so that reading memory and computing go on together. */
enum { LINE_FLOATS = 16 };

KN_INLINE kn_rows rows_from(kn_rows x, long row, long element) { return (kn_rows){x.at + row * x.ld + element, x.ld}; }

/* ---- scores of up to KN_SQUARES queries ---------------------------------------------------------------------- */

/* VW keys by VW elements, of which `keys` by `wide` are there: transposed, every key a lane, they meet `rows` queries. */
KN_INLINE void square_of(const int rows, const long keys, const long wide, const bool ask, kn_rows k, kn_rows next,
                         const float *q, vf sum[4])
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
            sum[g] = v_fma(v_set(q[c * rows + g]), r[c], sum[g]);
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
                          q + (e + part) * rows, sum[b]);
    for (; e < d; e += VW)
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++)
            square_of(rows, whole ? VW : n, least(VW, d - e), true, rows_from(k, b * VW, e), rows_from(next, b * VW, e),
                      q + e * rows, sum[b]);
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

/* ---- scores of more queries ---------------------------------------------------------------------------------- */

enum { MOST_KEYS = 12 };

/* Every number of `keys` keys, `ld` apart, meets nv vectors of queries, which are the lanes. */
KN_INLINE void meet(const int keys, const int nv, const float *const at[4], long ld, const float *q, vf sum[MOST_KEYS][2])
{
    vf q0 = v_load(q), q1 = nv == 2 ? v_load(q + VW) : q0;
#pragma GCC unroll 12
    for (int i = 0; i < keys; i++) {
        vf x = v_set(at[i / 3][i % 3 * ld]);
        sum[i][0] = v_fma_onto(sum[i][0], x, q0);
        if (nv == 2)
            sum[i][1] = v_fma_onto(sum[i][1], x, q1);
    }
    __asm__ volatile("" ::: "memory"); /* as in steps() */
}

KN_INLINE void meet_all(const int keys, const int nv, long d, const float *q, kn_rows k, kn_rows next, vf sum[MOST_KEYS][2])
{
    const float *at[4] = {k.at, k.at + 3 * k.ld, k.at + 6 * k.ld, k.at + 9 * k.ld};
    long e = 0;
    for (; e + LINE_FLOATS <= d; e += LINE_FLOATS, next.at += LINE_FLOATS) {
#pragma GCC unroll 12
        for (int i = 0; i < keys; i++)
            __builtin_prefetch(next.at + i * next.ld);
        for (int c = 0; c < LINE_FLOATS; c += STEPS)
#pragma GCC unroll 4
            for (int i = 0; i < STEPS; i++, q += NR) {
                meet(keys, nv, at, k.ld, q, sum);
                at[0]++, at[1]++, at[2]++, at[3]++;
            }
    }
    for (; e < d; e++, q += NR) {
        meet(keys, nv, at, k.ld, q, sum);
        at[0]++, at[1]++, at[2]++, at[3]++;
    }
}

KN_INLINE void scores_in_place(const int keys, const int nv, long rows, long d, const float *q, kn_rows k, kn_rows next,
                               float alpha, float *s, long lds)
{
    vf sum[MOST_KEYS][2];
    float lanes[MOST_KEYS][NR];
#pragma GCC unroll 12
    for (int i = 0; i < keys; i++)
        sum[i][0] = sum[i][1] = v_zero();
    meet_all(keys, nv, d, q, k, next, sum);
#pragma GCC unroll 12
    for (int i = 0; i < keys; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            v_store(lanes[i] + v * VW, v_fma(v_set(alpha), sum[i][v], v_zero()));
    for (long r = 0; r < rows; r++, s += lds)
#pragma GCC unroll 12
        for (int i = 0; i < keys; i++)
            s[i] = lanes[i][r];
}

/* How many of n keys are taken next, at most `most` at a time: so many that the last are seldom left with few. */
static inline int keys_at_once(long n, int most)
{
    static const int heights[] = {4, 5, 6, 8, 12};
    long tiles = (n + most - 1) / most, even = (n + tiles - 1) / tiles;
    int best = 1;
    for (int i = 0; i < 5 && best < even; i++)
        if (heights[i] <= n && heights[i] <= most)
            best = heights[i];
    return best;
}

KN_INLINE void scores_of_lanes(const int nv, long rows, long keys, long d, const float *q, kn_rows k, kn_rows next, float alpha,
                               float *s, long lds)
{
    enum { LEAST_KEYS = 4 };
    const bool all = nv == 1 || MR >= 12; /* as many fit the registers */
    for (long j = 0; j < keys;) {
        if (keys - j < LEAST_KEYS && keys >= LEAST_KEYS)
            j = keys - LEAST_KEYS; /* some once more, which takes as long as those that are left */
        int n = keys_at_once(keys - j, all ? MOST_KEYS : MR);
        kn_rows now = rows_from(k, j, 0), then = rows_from(next, j, 0);
        switch (n) {
        case 12:
            if (all)
                scores_in_place(12, nv, rows, d, q, now, then, alpha, s + j, lds);
            break;
        case 8:
            if (all)
                scores_in_place(8, nv, rows, d, q, now, then, alpha, s + j, lds);
            break;
        case 6: scores_in_place(6, nv, rows, d, q, now, then, alpha, s + j, lds); break;
        case 5: scores_in_place(5, nv, rows, d, q, now, then, alpha, s + j, lds); break;
        case 4: scores_in_place(4, nv, rows, d, q, now, then, alpha, s + j, lds); break;
        default: scores_in_place(1, nv, rows, d, q, now, then, alpha, s + j, lds); break;
        }
        j += n;
    }
}

static void few_scores(long rows, long keys, long d, const float *q, kn_rows k, kn_rows next, float alpha, float *s, long lds)
{
    switch (rows) {
    case 4: scores_of_rows(4, 1, keys, d, q, k, next, alpha, s, lds); break;
    case 3: scores_of_rows(3, 1, keys, d, q, k, next, alpha, s, lds); break;
    case 2: scores_of_rows(2, 2, keys, d, q, k, next, alpha, s, lds); break;
    case 1: scores_of_rows(1, 2, keys, d, q, k, next, alpha, s, lds); break;
    default:
        if (rows > VW)
            scores_of_lanes(2, rows, keys, d, q, k, next, alpha, s, lds);
        else
            scores_of_lanes(1, rows, keys, d, q, k, next, alpha, s, lds);
    }
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* `vectors` of a value; the last is a part unless it is whole. */
KN_INLINE void values_of(const int rows, const int vectors, const bool whole, long keys, const float *p, long ldp, kn_rows v,
                         kn_rows next, float *y, long d, vpart last)
{
    vf sum[6][8];
#pragma GCC unroll 6
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
#pragma GCC unroll 6
        for (int g = 0; g < rows; g++) {
            vf a = v_set(p[g * ldp + j]);
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++)
                sum[g][i] = v_fma(a, r[i], sum[g][i]);
        }
    }
#pragma GCC unroll 6
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

/* `rows` of more than fill the registers: all of them meet what lies in the first cache. */
KN_INLINE void values_of_many(const int vectors, const bool whole, long rows, long keys, const float *p, long ldp, kn_rows v,
                              kn_rows next, float *y, long d, vpart last)
{
    enum { MOST_ROWS = 6 };
    for (long groups = (rows + MOST_ROWS - 1) / MOST_ROWS, now; rows > 0; groups--, rows -= now, p += now * ldp, y += now * d) {
        now = (rows + groups - 1) / groups;
        switch (now) {
        case 6: values_of(6, vectors, whole, keys, p, ldp, v, next, y, d, last); break;
        case 5: values_of(5, vectors, whole, keys, p, ldp, v, next, y, d, last); break;
        case 4: values_of(4, vectors, whole, keys, p, ldp, v, next, y, d, last); break;
        default: values_of(3, vectors, whole, keys, p, ldp, v, next, y, d, last); break;
        }
        next = v; /* was asked for */
    }
}

static void values_of_all(long rows, long keys, long d, const float *p, long ldp, kn_rows v, kn_rows next, float *y)
{
    long e = 0;
    for (; e + 2 * VW <= d; e += 2 * VW)
        values_of_many(2, true, rows, keys, p, ldp, rows_from(v, 0, e), rows_from(next, 0, e), y + e, d, v_part(VW));
    for (long wide; e < d; e += wide) {
        wide = least(VW, d - e);
        values_of_many(1, false, rows, keys, p, ldp, rows_from(v, 0, e), rows_from(next, 0, e), y + e, d, v_part(wide));
    }
}

static void few_values(long rows, long keys, long d, const float *p, long ldp, kn_rows v, kn_rows next, float *y)
{
    switch (rows) {
    case 2: values_of_rows(2, 4, keys, d, p, ldp, v, next, y); break;
    case 1: values_of_rows(1, 8, keys, d, p, ldp, v, next, y); break;
    default: values_of_all(rows, keys, d, p, ldp, v, next, y);
    }
}
