/* thirds.h - products of fp32 numbers, each of them the sum of three bf16 numbers: what the loops of thirds.c are given.
 *
 * x = x0 + x1 + x2 with x0 the bf16 number next to x, x1 the one next to what is left, x2 the rest, which fits one exactly (24 = 3 * 8 bits). Of the nine
 * products of two such sums the six largest are added up in fp32; the other three are at most 2^-24 of |a b| together, as much as one rounding of fp32.
 * Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations". What is not finite, or from
 * 3.39e38 on, gives NaN; parts, products and sums below 1.2e-38 count as 0, so that what is below 1e-31 loses digits. */
#ifndef KN_THIRDS_H
#define KN_THIRDS_H

#include "low.h"

/* A strip on its way to be split: k rows of nr numbers, ld apart and k a multiple of `deep`, are k / 2 steps. */
typedef struct kn_splitting {
    const float *x;
    long ld;
    uint8_t *to;
    unsigned long done, steps;
} kn_splitting;

/* What a tile does beside: `share` steps or more of the next strip, and the caches are asked for what will be read soon. */
typedef struct kn_meanwhile {
    kn_splitting *next;
    unsigned long share;
    kn_soon weights, sums;
} kn_meanwhile;

typedef struct kn_thirds {
    int mr, nr; /* rows of a tile of A, at most; columns of a strip of B, the table's */
    long deep;  /* k is filled up with zeros to a multiple of it, in A and B */
    long split; /* bytes that a tile of A, or a strip of B, takes for each `deep` of k */
    long sums;  /* floats of a tile's sums */
    /* Splits lines of k numbers: at most mr rows of A, or nr columns of B. Line i lies at x + i * ld or, turned, is column i of rows ld apart. */
    void (*split_a)(long k, long lines, const float *x, long ld, bool turned, uint8_t *to);
    void (*split_b)(long k, long lines, const float *x, long ld, bool turned, uint8_t *to);
    /* sums = (accumulate ? sums : 0) + A B, of m rows: for each `deep` of k one of the six products after another. */
    void (*tile)(long k, const uint8_t *a, const uint8_t *b, float *sums, int m, bool accumulate, kn_meanwhile *also);
    /* The same of one row by a packed strip that is not split, k a multiple of `deep`. */
    void (*single)(long k, const uint8_t *a, const float *b, float *sums, bool accumulate, kn_soon weights);
    void (*row)(const float *sums, int i, float *to); /* the nr sums of row i, in order */
    void (*begin)(void);                              /* one thread splits, and asks for tiles, between these */
    void (*end)(void);
} kn_thirds;

#if defined(__x86_64__)
extern const kn_thirds kn_thirds_amx;
#endif

/* Beside a tier on this CPU; NULL: it has none, and its table's micro-kernel multiplies fp32. */
const kn_thirds *kn_thirds_of(const kn_table *t);

/* Whether products of such a shape are computed so where a tier can: never by how many rows there are or columns, but for gradients of weights (A turned): in a
 * narrow model or of many tokens their operands come from memory, and each number is used too seldom to be worth splitting. */
static inline bool kn_thirds_take(const kn_gemm *g) { return g->k >= 32 && (!g->ta || (g->n >= 512 && g->k <= 2048)); }

void kn_thirds_run(kn_work *w, const kn_thirds *u, const kn_gemm *g);

#endif
