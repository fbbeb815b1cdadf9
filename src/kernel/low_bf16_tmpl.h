/* low_bf16_tmpl.h - the micro-kernel for bf16 weights that widens them as it goes; activations and sums are fp32. A pair along k
 * lies in 32 bits: its second number is a float but for 16 bits to be cleared, the first is shifted there. The sum of an element
 * is that of the tier's fp32 micro-kernel: an fp32 product with the widened weights has the same bits.
 * The includer defines MR16 (the table's mr) and what low_tmpl.h needs. */

KN_INLINE const uint16_t *anew(const uint16_t *p)
{
    __asm__("" : "+r"(p));
    return p;
}

KN_INLINE void multiply16(const int m, const float *a, vf b0, vf b1, vf s[][2])
{
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        vf x = v_set(a[i]);
        s[i][0] = v_fma(x, b0, s[i][0]);
        s[i][1] = v_fma(x, b1, s[i][1]);
    }
}

/* One pair along k, or its first number where the second is missing. */
KN_INLINE void pair16(const int m, bool whole, const float *a, long sa, const uint16_t *b, vf s[][2])
{
    multiply16(m, a, vi_first(vi_load(b)), vi_first(vi_load(b + 2 * VW)), s);
    const uint16_t *again = anew(b); /* loaded twice: there is no register to keep it in */
    if (whole)
        multiply16(m, a + sa, vi_second(vi_load(again)), vi_second(vi_load(again + 2 * VW)), s);
}

KN_INLINE void last16(const int m, vf s[][2], float *sum, long ld, bool accumulate)
{
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            float *to = sum + i * ld + v * VW;
            v_store(to, v_add(s[i][v], accumulate ? v_load(to) : v_zero()));
        }
}

KN_INLINE void tile16_of(const int m, long k, const float *a, long sa, const uint16_t *b, float *sum, long ld, bool accumulate,
                         kn_soon next)
{
    long lines = kn_lines_a_step(next, k / 2);
    vf s[MR16][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        s[i][0] = s[i][1] = v_zero();
    for (long p = 0; p < k; p += 2, a += 2 * sa, b += 2 * NR) {
        kn_ask(&next, lines);
        pair16(m, p + 1 < k, a, sa, b, s);
    }
    last16(m, s, sum, ld, accumulate);
}

KN_INLINE void strips16_of(const int m, long k, const float *a, long sa, const uint16_t *b, long far, float *sum, long ld,
                           bool accumulate)
{
    const int strips = kn_strips(m);
    vf s[MR16][2];
#pragma GCC unroll 16
    for (int i = 0; i < strips * m; i++)
        s[i][0] = s[i][1] = v_zero();
    for (long p = 0; p < k; p += 2, a += 2 * sa, b += 2 * NR)
#pragma GCC unroll 4
        for (int i = 0; i < strips; i++)
            pair16(m, p + 1 < k, a, sa, b + i * far, s + i * m);
#pragma GCC unroll 4
    for (int i = 0; i < strips; i++)
        last16(m, s + i * m, sum + i * NR, ld, accumulate);
}

static void strips16(long k, const float *a, long sa, const uint16_t *b, long far, float *sum, long ld, int m, bool accumulate)
{
    switch (m) {
    case 1: strips16_of(1, k, a, sa, b, far, sum, ld, accumulate); break;
    case 2: strips16_of(2, k, a, sa, b, far, sum, ld, accumulate); break;
    case 3: strips16_of(3, k, a, sa, b, far, sum, ld, accumulate); break;
    default: break;
    }
}

static void tile16(long k, const float *a, long sa, const uint16_t *b, float *sum, long ld, int m, bool accumulate, kn_soon next)
{
    switch (m) {
    case 1: tile16_of(1, k, a, sa, b, sum, ld, accumulate, next); break;
    case 2: tile16_of(2, k, a, sa, b, sum, ld, accumulate, next); break;
    case 3: tile16_of(3, k, a, sa, b, sum, ld, accumulate, next); break;
    case 4: tile16_of(4, k, a, sa, b, sum, ld, accumulate, next); break;
    case 5: tile16_of(5, k, a, sa, b, sum, ld, accumulate, next); break;
    case 6: tile16_of(6, k, a, sa, b, sum, ld, accumulate, next); break;
#if MR16 > 6
    case 7: tile16_of(7, k, a, sa, b, sum, ld, accumulate, next); break;
    case 8: tile16_of(8, k, a, sa, b, sum, ld, accumulate, next); break;
    case 9: tile16_of(9, k, a, sa, b, sum, ld, accumulate, next); break;
    case 10: tile16_of(10, k, a, sa, b, sum, ld, accumulate, next); break;
    case 11: tile16_of(11, k, a, sa, b, sum, ld, accumulate, next); break;
    case 12: tile16_of(12, k, a, sa, b, sum, ld, accumulate, next); break;
#endif
#if MR16 > 12
    case 13: tile16_of(13, k, a, sa, b, sum, ld, accumulate, next); break;
    case 14: tile16_of(14, k, a, sa, b, sum, ld, accumulate, next); break;
#endif
    default: break;
    }
}
