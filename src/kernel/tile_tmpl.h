/* tile_tmpl.h - the micro-kernel of GEMM and its packing, for any vector of simd_*.h. The includer defines MR (rows, broadcast)
 * and NR = 2 * VW (columns, two vectors): MR * 2 sums, two vectors of B and one of A fill the registers. */

enum { LINE = 16, STEPS = 4 }; /* floats of a cache line; steps of the sum for each that is asked for */

static inline long least(long a, long b) { return a < b ? a : b; }
static inline long most(long a, long b) { return a > b ? a : b; }

#define KN_INLINE static inline __attribute__((always_inline))

/* One step of the sum: column a, row b. Every second number of a is taken from memory by the multiply-adds, where they can. A core whose other hyper-thread
 * is at work starts half as many instructions for us, fewer than a number loaded for itself would need; taken so for every row, loads would not be done in time. */
KN_INLINE void step(const int m, const int nv, const bool part, const float *a, const float *b, vf s[MR][2], vpart last)
{
    vf b0 = nv == 1 && part ? v_load_part(b, last) : v_load(b);
    vf b1 = nv == 1 ? b0 : part ? v_load_part(b + VW, last) : v_load(b + VW);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        s[i][0] = i % 2 ? v_fma_from(s[i][0], a + i, b0) : v_fma_onto(s[i][0], v_set(a[i]), b0);
        if (nv == 2)
            s[i][1] = i % 2 ? v_fma_from(s[i][1], a + i, b1) : v_fma_onto(s[i][1], v_set(a[i]), b1);
    }
}

/* STEPS of them. Loads stay behind the steps before: a compiler that mixes them runs out of registers. */
KN_INLINE void steps(const int m, const int nv, const bool part, const float **a, long sa, const float **b, long sb, vf s[MR][2],
                     vpart last)
{
#pragma GCC unroll 4
    for (int q = 0; q < STEPS; q++, *a += sa, *b += sb) {
        step(m, nv, part, *a, *b, s, last);
        __asm__ volatile("" ::: "memory");
    }
}

/* The sums of m rows become c. */
KN_INLINE void finish(const int m, const int nv, const bool part, vf s[][2], float *c, long ldc, vpart last, float alpha,
                      const float *old, long ldo)
{
    vf scale = v_set(alpha);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++, c += ldc, old = old ? old + ldo : NULL)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) {
            bool cut = part && v == nv - 1;
            vf before = v_zero();
            if (old)
                before = cut ? v_load_part(old + v * VW, last) : v_load(old + v * VW);
            vf sum = v_fma(scale, s[i][v], before);
            if (cut)
                v_store_part(c + v * VW, last, sum);
            else
                v_store(c + v * VW, sum);
        }
}

/* m and nv (rows and vectors) are constants where this is inlined, so that the sums are registers. The last vector
 * is a part when `part` says so. With `dense` both operands lie packed without a gap, so that their places are constants too.
 * Every element has its own sum, in the order of p. */
KN_INLINE void tile(const int m, const int nv, const bool part, const bool dense, long k, const float *a, long sa, const float *b,
                    long sb, float *c, long ldc, vpart last, float alpha, const float *old, long ldo, const float *ahead, long floats)
{
    if (dense)
        sa = m, sb = NR;
    vf s[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        s[i][0] = s[i][1] = v_zero();
    /* What is asked for comes piece by piece: together it would hold up the loads of A and B. Addresses, as a few lie behind the ends. */
    uintptr_t row = (uintptr_t)c, line = (uintptr_t)ahead, last_vector = (size_t)(nv - 1) * VW * sizeof *c;
    long groups = k / STEPS, lines = (floats + LINE - 1) / LINE, each = groups ? (lines + groups - 1) / groups : 0;
    long asking = least(groups, most(m, each ? (lines + each - 1) / each : 0));
    for (long g = 0; g < asking; g++, row += (size_t)ldc * sizeof *c) {
        __builtin_prefetch((const void *)row, 1);
        __builtin_prefetch((const void *)(row + last_vector), 1);
        for (long i = 0; i < each; i++, line += LINE * sizeof *ahead)
            __builtin_prefetch((const void *)line, 0, 2);
        steps(m, nv, part, &a, sa, &b, sb, s, last);
    }
    for (long g = asking; g < groups; g++)
        steps(m, nv, part, &a, sa, &b, sb, s, last);
    for (long p = groups * STEPS; p < k; p++, a += sa, b += sb)
        step(m, nv, part, a, b, s, last);
    finish(m, nv, part, s, c, ldc, last, alpha, old, ldo);
}

KN_INLINE void tile_of(int m, const int nv, const bool part, const bool dense, long k, const float *a, long sa, const float *b,
                       long sb, float *c, long ldc, vpart last, float alpha, const float *old, long ldo, const float *ahead, long floats)
{
    switch (m) {
    case 1: tile(1, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 2: tile(2, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 3: tile(3, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 4: tile(4, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 5: tile(5, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 6: tile(6, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
#if MR > 6
    case 7: tile(7, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 8: tile(8, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 9: tile(9, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 10: tile(10, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 11: tile(11, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 12: tile(12, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
#endif
#if MR > 12
    case 13: tile(13, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
    case 14: tile(14, nv, part, dense, k, a, sa, b, sb, c, ldc, last, alpha, old, ldo, ahead, floats); break;
#endif
    default: break;
    }
}

static void gemm_tile(long k, const float *a, long sa, const float *b, long sb, float *c, long ldc, int m, int n, float alpha,
                      const float *old, long ldo, const float *ahead, long floats)
{
    ahead = floats > 0 ? ahead : b;
    if (n == NR && sa == m && sb == NR)
        tile_of(m, 2, false, true, k, a, sa, b, sb, c, ldc, v_part(VW), alpha, old, ldo, ahead, floats);
    else if (n == NR)
        tile_of(m, 2, false, false, k, a, sa, b, sb, c, ldc, v_part(VW), alpha, old, ldo, ahead, floats);
    else if (n > VW)
        tile_of(m, 2, true, false, k, a, sa, b, sb, c, ldc, v_part(n - VW), alpha, old, ldo, ahead, floats);
    else
        tile_of(m, 1, true, false, k, a, sa, b, sb, c, ldc, v_part(n), alpha, old, ldo, ahead, floats);
}

KN_INLINE void strips_of(const int m, long k, const float *a, const float *b, long far, float *c, long ldc, float alpha,
                         const float *old, long ldo)
{
    const int strips = kn_strips(m);
    vf s[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < strips * m; i++)
        s[i][0] = s[i][1] = v_zero();
    for (long p = 0; p < k; p++, a += m, b += NR)
#pragma GCC unroll 4
        for (int i = 0; i < strips; i++)
            step(m, 2, false, a, b + i * far, s + i * m, v_part(VW));
#pragma GCC unroll 4
    for (int i = 0; i < strips; i++)
        finish(m, 2, false, s + i * m, c + i * NR, ldc, v_part(VW), alpha, old ? old + i * NR : NULL, ldo);
}

/* Some steps of one strip's sums, which are `kept` before and afterwards. */
KN_INLINE void turn_of(const int m, long k, const float *a, const float *b, vf kept[MR][2])
{
    enum { SOON = 8 }; /* lines */
    vf s[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        s[i][0] = kept[i][0], s[i][1] = kept[i][1];
    for (long p = 0; p < k; p++, a += m, b += NR) {
        for (int line = 0; line < NR; line += LINE)
            __builtin_prefetch((const void *)((uintptr_t)b + (size_t)(SOON * LINE + line) * sizeof *b), 0, 2);
        step(m, 2, false, a, b, s, v_part(VW));
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        kept[i][0] = s[i][0], kept[i][1] = s[i][1];
}

/* Two strips take turns, so that both are fetched at once. */
KN_INLINE void strips_in_turns(const int m, long k, const float *a, const float *b, long far, float *c, long ldc, float alpha,
                               const float *old, long ldo)
{
    enum { TURN = 16 };
    const int strips = kn_strips(m);
    vf kept[KN_STRIPS][MR][2];
    for (int i = 0; i < strips; i++)
        for (int row = 0; row < m; row++)
            kept[i][row][0] = kept[i][row][1] = v_zero();
    for (long p = 0; p < k; p += TURN)
        for (int i = 0; i < strips; i++)
            turn_of(m, least(TURN, k - p), a + p * m, b + i * far + p * NR, kept[i]);
    for (int i = 0; i < strips; i++)
        finish(m, 2, false, kept[i], c + i * NR, ldc, v_part(VW), alpha, old ? old + i * NR : NULL, ldo);
}

static void gemm_strips(long k, const float *a, const float *b, long far, float *c, long ldc, int m, float alpha,
                        const float *old, long ldo)
{
    switch (m) {
    case 1: strips_of(1, k, a, b, far, c, ldc, alpha, old, ldo); break;
    case 2: strips_of(2, k, a, b, far, c, ldc, alpha, old, ldo); break;
    case 3: strips_of(3, k, a, b, far, c, ldc, alpha, old, ldo); break;
    case 4: strips_in_turns(4, k, a, b, far, c, ldc, alpha, old, ldo); break;
    case 5: strips_in_turns(5, k, a, b, far, c, ldc, alpha, old, ldo); break;
    case 6: strips_in_turns(6, k, a, b, far, c, ldc, alpha, old, ldo); break;
    default: break;
    }
}

/* ---- packing ------------------------------------------------------------------------------------------ */

/* How far in front operands are asked for, in floats and in rows: the way to memory is long. */
enum { AHEAD = 96, ROWS_AHEAD = 4 };

/* Stores a vector at p[at]; what spills behind `room` floats is cut off. A spill before that is overwritten by the next row. */
KN_INLINE void put(float *p, long at, long room, vf x)
{
    if (at + VW <= room)
        v_store(p + at, x);
    else
        v_store_part(p + at, v_part(room - at), x);
}

/* Columns [0, n) of `rows` rows of x, at most VW of both, become rows of p; `room` floats of p are ours. */
KN_INLINE void pack_square(const long rows, long n, const float *x, long ld, long width, float *p, long room)
{
    vf r[VW];
    vpart m = v_part(n);
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++)
        r[i] = i >= rows ? v_zero() : n == VW ? v_load(x + i * ld) : v_load_part(x + i * ld, m);
    v_transpose(r);
    if (n == VW && (VW - 1) * width + VW <= room) {
#pragma GCC unroll 16
        for (int q = 0; q < VW; q++)
            v_store(p + q * width, r[q]);
    } else {
        float t[VW * VW];
#pragma GCC unroll 16
        for (int q = 0; q < VW; q++)
            v_store(t + q * VW, r[q]);
        for (long q = 0; q < n; q++)
            put(p, q * width, room, v_load(t + q * VW));
    }
}

/* The same of VW columns that may spill as they like. */
KN_INLINE void pack_whole_square(const long rows, const float *x, long ld, long width, float *p)
{
    vf r[VW];
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++)
        r[i] = i >= rows ? v_zero() : v_load(x + i * ld);
    v_transpose(r);
#pragma GCC unroll 16
    for (int q = 0; q < VW; q++)
        v_store(p + q * width, r[q]);
}

KN_INLINE void ask_for_rows(const long rows, const float *x, long ld)
{
#pragma GCC unroll 16
    for (long i = 0; i < rows; i++)
        __builtin_prefetch(x + i * ld);
}

/* At most VW rows of x become columns [0, rows) of p's rows. `next` is what will be packed afterwards. */
KN_INLINE void pack_columns(const long rows, long k, const float *x, long ld, const float *next, const long width, float *p,
                            long room)
{
    long q = 0, safe = width % VW ? least(k, (room - VW) / width + 1) : k;
    for (; q + LINE <= safe; q += LINE) {
        ask_for_rows(rows, q + AHEAD < k ? x + q + AHEAD : next + least(q + AHEAD - k, k - 1), ld);
#pragma GCC unroll 4
        for (int part = 0; part < LINE; part += VW)
            pack_whole_square(rows, x + q + part, ld, width, p + (q + part) * width);
    }
    for (; q < k; q += VW)
        pack_square(rows, least(VW, k - q), x + q, ld, width, p + q * width,
                    width % VW ? room - q * width : (VW - 1) * width + VW);
}

/* Columns [j, j + VW) of the strip that begins with row `strip` of x. */
KN_INLINE void pack_strip_columns(long k, long w, long width, const float *x, long ld, long strip, long j, float *p)
{
    const float *from = x + (strip + j) * ld;
    long rows = least(w - strip - j, least(width - j, VW));
    const float *next = strip + j + 2 * rows <= w ? from + rows * ld : from;
    if (rows == VW && width == NR)
        pack_columns(VW, k, from, ld, next, NR, p + j, k * width - j);
    else if (rows == MR && width == MR)
        pack_columns(MR, k, from, ld, next, MR, p + j, k * width - j);
    else if (rows == MR - 1 && width == MR - 1)
        pack_columns(MR - 1, k, from, ld, next, MR - 1, p + j, k * width - j);
    else
        pack_columns(rows, k, from, ld, next, width, p + j, k * width - j);
}

/* Rows of p are filled one after another. Where the width is no multiple of VW the last vector of a row spills into the next; it
 * goes first, so that what it spills is overwritten, unless it is what the contract leaves to us. */
static void pack_transposed(long k, long w, long width, const float *x, long ld, float *p)
{
    long edge = width / VW * VW;
    for (long strip = 0; strip < w; strip += width, p += k * width) {
        if (edge < least(width, w - strip))
            pack_strip_columns(k, w, width, x, ld, strip, edge, p);
        for (long j = 0; j < least(edge, w - strip); j += VW)
            pack_strip_columns(k, w, width, x, ld, strip, j, p);
    }
}

/* A row of a strip: a vector that is wider may read on to the end of x's row and spill into the rows behind, of which there are `room`
 * floats with this one. */
KN_INLINE void copy_narrow(const float *x, long left, long width, float *p, long room)
{
    vf v = left >= VW ? v_load(x) : v_load_part(x, v_part(least(left, width)));
    if (room < VW)
        v_store_part(p, v_part(width), v);
    else
        v_store(p, v);
}

KN_INLINE void copy_wide(const float *x, long left, const long width, float *p, long room)
{
    long j = 0;
    for (; j + VW <= width && j < left; j += VW)
        v_store(p + j, left - j >= VW ? v_load(x + j) : v_load_part(x + j, v_part(left - j)));
    if (j < width && j < left)
        copy_narrow(x + j, left - j, width - j, p + j, room - j);
}

/* Row q of x goes to row q of every strip: x is read from end to end, which suits the machine better than strip by strip. */
static void pack_rows(long k, long w, long width, const float *x, long ld, float *p)
{
    for (long q = 0; q < k; q++, x += ld, p += width) {
        for (long j = 0; q + ROWS_AHEAD < k && j < w; j += 16)
            __builtin_prefetch(x + ROWS_AHEAD * ld + j);
        if (width == NR)
            for (long j = 0; j < w; j += NR)
                copy_wide(x + j, w - j, NR, p + j * k, (k - q) * width);
        else if (width > VW)
            for (long j = 0; j < w; j += width)
                copy_wide(x + j, w - j, width, p + j * k, (k - q) * width);
        else
            for (long j = 0; j < w; j += width)
                copy_narrow(x + j, w - j, width, p + j * k, (k - q) * width);
    }
}

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    if (transpose)
        pack_transposed(k, w, width, x, ld, p);
    else
        pack_rows(k, w, width, x, ld, p);
}
