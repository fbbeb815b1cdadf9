/* tile_tmpl.h - the micro-kernel of GEMM and its packing, for any vector of simd_*.h. The includer defines MR (rows, broadcast) and
 * NR = 2 * VW (columns, two vectors): MR * 2 sums, two vectors of B and one of A fill the registers. */

#define KN_INLINE static inline __attribute__((always_inline))

/* m and nv (rows and vectors) are constants where this is inlined, so that the sums are registers. The last vector
 * is a part when `part` says so. Every element has its own sum, in the order of p. */
KN_INLINE void tile(const int m, const int nv, const bool part, long k, const float *a, long sa, const float *b, long sb, float *c,
                    long ldc, vpart last, float alpha, bool accumulate)
{
    vf s[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        s[i][0] = s[i][1] = v_zero();
        __builtin_prefetch(c + i * ldc);
        __builtin_prefetch(c + i * ldc + (nv - 1) * VW);
    }
    for (long p = 0; p < k; p++, a += sa, b += sb) {
        vf b0 = nv == 1 && part ? v_load_part(b, last) : v_load(b);
        vf b1 = nv == 1 ? b0 : part ? v_load_part(b + VW, last) : v_load(b + VW);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vf ai = v_set(a[i]);
            s[i][0] = v_fma(ai, b0, s[i][0]);
            if (nv == 2)
                s[i][1] = v_fma(ai, b1, s[i][1]);
        }
    }
    vf scale = v_set(alpha);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++, c += ldc)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) {
            bool cut = part && v == nv - 1;
            vf old = v_zero();
            if (accumulate)
                old = cut ? v_load_part(c + v * VW, last) : v_load(c + v * VW);
            vf sum = v_fma(scale, s[i][v], old);
            if (cut)
                v_store_part(c + v * VW, last, sum);
            else
                v_store(c + v * VW, sum);
        }
}

KN_INLINE void tile_of(int m, const int nv, const bool part, long k, const float *a, long sa, const float *b, long sb, float *c, long ldc,
                       vpart last, float alpha, bool accumulate)
{
    switch (m) {
    case 1: tile(1, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 2: tile(2, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 3: tile(3, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 4: tile(4, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 5: tile(5, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 6: tile(6, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
#if MR > 6
    case 7: tile(7, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 8: tile(8, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 9: tile(9, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 10: tile(10, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 11: tile(11, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 12: tile(12, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 13: tile(13, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
    case 14: tile(14, nv, part, k, a, sa, b, sb, c, ldc, last, alpha, accumulate); break;
#endif
    default: break;
    }
}

static void gemm_tile(long k, const float *a, long sa, const float *b, long sb, float *c, long ldc, int m, int n, float alpha,
                      bool accumulate)
{
    if (n == NR)
        tile_of(m, 2, false, k, a, sa, b, sb, c, ldc, v_part(VW), alpha, accumulate);
    else if (n > VW)
        tile_of(m, 2, true, k, a, sa, b, sb, c, ldc, v_part(n - VW), alpha, accumulate);
    else
        tile_of(m, 1, true, k, a, sa, b, sb, c, ldc, v_part(n), alpha, accumulate);
}

/* Stores a vector at p[at]; what spills behind `room` floats is cut off. A spill before that is overwritten by the next row. */
KN_INLINE void put(float *p, long at, long room, vf x)
{
    if (at + VW <= room)
        v_store(p + at, x);
    else
        v_store_part(p + at, v_part(room - at), x);
}

/* Columns [q, q + VW) of VW rows of x (`rows` exist, `n` columns) become rows of p. */
KN_INLINE void pack_square(long rows, long n, const float *x, long ld, long width, float *p, long room)
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
        for (int q = 0; q < VW; q++)
            v_store(t + q * VW, r[q]);
        for (long q = 0; q < n; q++)
            put(p, q * width, room, v_load(t + q * VW));
    }
}

/* A row of p is filled from left to right and rows one after another, so that a spilled vector's end is always overwritten,
 * unless it is what the contract leaves to us. A width that is no multiple of VW has one square a row only. */
static void pack_transposed(long k, long w, long width, const float *x, long ld, float *p)
{
    for (long j = 0; j < w; j += VW)
        for (long q = 0; q < k; q += VW) {
            long rows = w - j < VW ? w - j : VW, n = k - q < VW ? k - q : VW, at = q * width + j;
            long room = width % VW ? k * width - at : (VW - 1) * width + VW;
            pack_square(rows, n, x + j * ld + q, ld, width, p + at, room);
        }
}

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    if (transpose) {
        pack_transposed(k, w, width, x, ld, p);
        return;
    }
    for (long j = 0; j < w; j += VW) {
        vpart m = v_part(w - j < VW ? w - j : VW);
        for (long q = 0; q < k; q++)
            put(p, q * width + j, width % VW ? k * width : q * width + j + VW, v_load_part(x + q * ld + j, m));
    }
}
