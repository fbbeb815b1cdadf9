/* low.h - a micro-kernel with its own packing, beside the one of the tier's table: what GEMM's loops are given. */
#ifndef KN_LOW_H
#define KN_LOW_H

#include "kernel.h"

/* As kn_table's gemm_tile and pack, A and B packed apart; packed strips take no more room than k * width floats, if the
 * last of KN_KC's pieces is at least 16 long. Tiles are asked for between begin and end of one thread
 * (NULL: nothing to prepare). */
typedef struct kn_micro {
    int mr, nr, mc;
    void (*tile)(long k, const float *a, long sa, const float *b, long sb, float *c, long ldc, int m, int n, float alpha,
                 const float *old, long ldo, const float *ahead, long floats);
    void (*strips)(long k, const float *a, const float *b, long far, float *c, long ldc, int m, float alpha, const float *old,
                   long ldo); /* as gemm_strips; NULL where no packed weight is multiplied */
    void (*pack_a)(long k, long w, long width, const float *x, long ld, bool transpose, float *p);
    void (*pack_b)(long k, long w, long width, const float *x, long ld, bool transpose, float *p);
    void (*begin)(void);
    void (*end)(void);
} kn_micro;

#if defined(__x86_64__)
extern const kn_micro kn_amx_bf16;
#endif

/* ---- weights packed as bf16, int8 or int4: low.c has the loops, low_*.c the micro-kernels ---------------------- */

/* Micro-kernels that multiply rows of integers by int8 or int4 weights; nr is the table's. Integers are exact and no multiply-add is
 * fused, so every tier gives the same bits before the activation. The numbers of a row that meets int8 weights
 * lie at most 127 apart: with the least of them at 0 two products fit 16 bits (2 * 127 * 127 < 2^15), and vpmaddubsw is exact.
 *
 * Rows of A come in tiles of at most mr rows whose 32-bit units along k are interleaved: unit u of row i is a[u * sa + i]. It holds
 * `depth` numbers for int8 weights (2: as int16, 4: as int8, or, with `lift`, made positive by adding what the row needs), always 4 for int4 weights.
 * A strip of int8 weights is nr columns wide: the depth numbers of column j in unit u lie at (u * nr + j) * depth, as w + bias.
 * A strip of int4 weights is cut into groups: 32 of k take 16 * nr bytes, in which byte o * 4 * nr + j * 4 + q of column j has
 * k = 8 o + q in its low half and k + 4 in its high, as w + 8; behind a group come its nr scales. */

/* Bytes that will be read soon, the first of them at the start of a cache line: while a tile is computed, the caches are asked for them. */
typedef struct kn_soon {
    const uint8_t *at;
    long bytes;
} kn_soon;

enum { KN_LINE = 64 };

/* How many lines each of so many steps has to ask for. */
static inline long kn_lines_a_step(kn_soon s, long steps)
{
    return steps > 0 ? ((s.bytes + KN_LINE - 1) / KN_LINE + steps - 1) / steps : 0;
}

static inline void kn_ask(kn_soon *s, long lines)
{
    for (; lines > 0 && s->bytes > 0; lines--, s->at += KN_LINE, s->bytes -= KN_LINE)
        __builtin_prefetch(s->at, 0, 2);
}

/* y = (float)(sum - lift * column) * (s * scale) + bias + residual: the last two, and the columns, may be NULL; y may be sum or
 * residual. */
typedef struct kn_low_rescale {
    int32_t lift;
    const int32_t *column; /* sums of the weights of each */
    float s;
    const float *scale, *bias, *residual;
} kn_low_rescale;

/* From a row's least to its largest, rounded apart by one at most; the largest magnitude. */
enum { KN_STEPS_I8 = 126, KN_TOP_I4 = 127 };
enum { KN_HELD_I8 = 2 };
typedef struct kn_low_int {
    int nr, mr8, mr4, depth, bias;
    bool lift;    /* not beside a bias */
    bool squares; /* int8's tiles of A lie as AMX takes them (low_amx.c), k filled up to 64 in A and W */
    void (*ends)(long k, const float *x, float *least, float *most); /* of x and 0; infinite or NaN when one of x is */
    float (*largest)(long k, const float *x);                        /* max |x|: infinite or NaN when one of x is */
    /* q = x * inverse to nearest, ties to even; |x * inverse| is at most 127.5. */
    void (*round)(long k, const float *x, float inverse, int8_t *q);
    /* sum[i][j] = (start ? start[i], or 0 where there is a lift : sum[i][j]) + the products, for i < m <= mr8, j < nr. */
    void (*tile8)(long units, const int32_t *a, long sa, const uint8_t *b, const int32_t *start, int32_t *sum, long ld, int m,
                  kn_soon next);
    /* sum[i][j] = over groups in order, (float)(start[g][i] + products) * (a's scale[g][i] * b's scale), both [group][sa]; k is
     * a multiple of 32, with zeros in A behind the true one. m <= mr4. */
    void (*tile4)(long k, long group, const int32_t *a, long sa, const uint8_t *b, const float *scale, const int32_t *start,
                  float *sum, long ld, int m, kn_soon next);
    /* The same of m <= KN_HELD_I8 rows, or of one row packed alone, by kn_strips(m) strips, each `far` bytes behind the one before. NULL: there is none. */
    void (*strips8)(long units, const int32_t *a, long sa, const uint8_t *b, long far, const int32_t *start, int32_t *sum,
                    long ld, int m);
    void (*strips4)(long k, long group, const int32_t *a, const uint8_t *b, long far, const float *scale, const int32_t *start,
                    float *sum);
    void (*rescale)(long n, const int32_t *sum, const kn_low_rescale *r, float *y);
    void (*begin)(void); /* one thread asks for tiles between these; NULL: nothing to prepare */
    void (*end)(void);
} kn_low_int;

/* Micro-kernel for bf16 weights: pairs along k of column j at ((k / 2) * nr + j) * 2, a missing last number is 0. Strips of A are
 * what `pack` makes of rows, as kn_table's does, `pair` floats for two numbers along k (2: floats, 1: a pair of bf16).
 * sum = (accumulate ? sum : 0) + products, summed over k in order. m <= mr; a row's numbers along k lie sa apart (the width that `pack` was given). */
typedef struct kn_low_bf16 {
    int nr, mr, pair;
    bool squares; /* tiles of A lie as AMX takes them, k filled up to 32 in A and W */
    void (*pack)(long k, long w, long width, const float *x, long ld, bool transpose, float *p);
    void (*tile)(long k, const float *a, long sa, const uint16_t *b, float *sum, long ld, int m, bool accumulate, kn_soon next);
    /* The same of m <= KN_HELD rows by kn_strips(m) strips, each `far` numbers behind the one before. NULL: there is none. */
    void (*strips)(long k, const float *a, long sa, const uint16_t *b, long far, float *sum, long ld, int m, bool accumulate);
    void (*begin)(void); /* as kn_low_int's */
    void (*end)(void);
} kn_low_bf16;

extern const kn_low_int kn_low_int_generic;
extern const kn_low_bf16 kn_low_bf16_generic;
#if defined(__x86_64__)
extern const kn_low_int kn_low_int_avx2, kn_low_int_avx512, kn_low_int_vnni;
extern const kn_low_bf16 kn_low_bf16_avx2, kn_low_bf16_avx512, kn_low_bf16_dot, kn_low_bf16_amx;
/* u multiplies bytes by AMX from now on; it was kn_low_int_vnni. */
void kn_low_int_by_amx(kn_low_int *u);
#elif defined(__aarch64__)
extern const kn_low_int kn_low_int_neon, kn_low_int_sdot;
extern const kn_low_bf16 kn_low_bf16_neon;
#endif

/* The best of them beside a tier on this CPU. */
const kn_low_int *kn_low_int_of(const kn_table *t);
const kn_low_bf16 *kn_low_bf16_of(const kn_table *t);

/* What kn_packed_bytes, kn_pack_weight, kn_pack_quantized and kn_gemm_run hand on for dtypes other than KN_F32. */
size_t kn_low_bytes(const kn_table *t, kn_dtype dtype, long n, long k, long group);
void kn_low_pack(kn_work *w, const kn_packed *p, long first, long rows, const float *x, long ld);
void kn_low_pack_quantized(kn_work *w, const kn_packed *p, const int8_t *q, const float *scale);
void kn_low_run(kn_work *w, const kn_gemm *g);

/* The micro-kernel for products of bf16 numbers beside the tier t; NULL: it has none. */
const kn_micro *kn_bf16_micro(const kn_table *t);

/* Rows up to which this CPU reads weights faster when nobody asks for them ahead; and several strips at once. */
long kn_rows_unasked(void);
long kn_rows_by_strips(void);

#endif
