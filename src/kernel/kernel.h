/* kernel.h - arithmetic on plain arrays, and the contract that every instruction-set tier keeps.
 *
 * All arrays are float32, row-major, of any alignment, and never alias unless a line says so. A tier may
 * round differently from generic C, but within a tier the bits of an output element depend only on its
 * inputs: never on the number of threads, nor on the number of rows beside it, nor on the CPU that runs
 * the tier (exp, log, erf and tanh are ours). Elements behind a tail are never read or written. */
#ifndef KN_KERNEL_H
#define KN_KERNEL_H

#include "../base/base.h"

typedef enum kn_act { KN_NONE, KN_GELU, KN_GELU_TANH, KN_QUICK_GELU, KN_SILU, KN_RELU, KN_TANH } kn_act;

/* The weights of one pass of a picture's resizing, as integers of KN_TAP_BITS fractional bits. Output i is made of the inputs first[i] ..
 * first[i] + count[i] - 1 (1 <= count <= room) with the weights high * 2^KN_TAP_SPLIT + low at i * room; what count leaves of room, a
 * multiple of KN_TAP_LANES, is zero. Sums of weights times bytes stay below 2^31. */
enum { KN_TAP_BITS = 22, KN_TAP_SPLIT = 15, KN_TAP_LANES = 8 };
typedef struct kn_taps {
    long n, room;
    int32_t *first, *count;
    int16_t *low, *high;
} kn_taps;

/* Rows of fp32, ld apart. */
typedef struct kn_rows {
    const float *at;
    long ld;
} kn_rows;

/* How many strips of a weight m rows read at once. Their sums are held in registers, up to KN_HELD rows, or take turns there, up to KN_IN_TURNS. */
enum { KN_HELD = 3, KN_IN_TURNS = 6, KN_STRIPS = 4 };
static inline int kn_strips(long m) { return m == 1 ? KN_STRIPS : 2; }

/* One row kernel each; `n`, `d` count floats. Rows are contiguous: row r starts at r * d. */
typedef struct kn_table {
    const char *name; /* generic, avx2, avx512, amx, neon */

    /* The micro-kernel of GEMM: c[i][j] = (old ? old[i*ldo + j] : 0) + alpha * sum over p of a[p*sa + i] * b[p*sb + j] for
     * the first m <= mr rows and n <= nr columns; old may be c itself, or one row for all with ldo 0. Summed over p = 0..k-1 in order with one
     * accumulator an element. Packed operands have sa = the strip's width (mr or less), sb = nr; a matrix whose rows run along p is used where it lies, with its own stride. Reads and writes
     * nothing else, but asks the caches for `floats` floats from `ahead`, which the caller will read soon (none: NULL, 0).
     * mc rows (a multiple of mr) times 256 floats are what the tier likes to keep in its second cache. */
    int mr, nr, mc;
    void (*gemm_tile)(long k, const float *a, long sa, const float *b, long sb, float *c, long ldc, int m, int n, float alpha,
                      const float *old, long ldo, const float *ahead, long floats);
    /* The same of m <= mr rows, KN_IN_TURNS at most, by kn_strips(m) whole strips of packed operands at once, each `far` floats behind the one before. Some CPUs
     * fetch several streams faster than one. The bits are gemm_tile's. */
    void (*gemm_strips)(long k, const float *a, const float *b, long far, float *c, long ldc, int m, float alpha,
                        const float *old, long ldo);
    /* Packs an operand w wide into strips of `width` (nr, or at most mr) that follow each other, k * width floats each:
     * p[(j / width) * k * width + q * width + j % width] = transpose ? x[j*ld + q] : x[q*ld + j] for q < k, j < w.
     * What is left of the last strip's rows may be overwritten with anything. */
    void (*pack)(long k, long w, long width, const float *x, long ld, bool transpose, float *p);

    /* y = f(x); y may be x. dx += f'(x) dy. */
    void (*act)(kn_act f, long n, const float *x, float *y);
    void (*act_backward)(kn_act f, long n, const float *x, const float *dy, float *dx);

    void (*add)(long n, const float *a, const float *b, float *y);     /* y = a + b; y may be a or b */
    void (*mul)(long n, const float *a, const float *b, float *y);     /* y = a * b; y may be a or b */
    void (*mul_add)(long n, const float *a, const float *b, float *y); /* y += a * b */
    void (*axpy)(long n, float s, const float *x, float *y);           /* y += s x */
    void (*scale)(long n, float s, const float *x, float *y);          /* y = s x; y may be x */
    float (*dot)(long n, const float *a, const float *b);
    float (*sum)(long n, const float *x);
    double (*sum_squares)(long n, const float *x); /* added up in double */
    float (*max)(long n, const float *x);          /* -inf for n = 0; NaN when one is */

    /* y = (x - mean) * rstd * w + b over each row of d; mean and rstd (1 / sqrt(var + eps)) are kept, one a row, unless NULL.
     * The mean is subtracted before squares are summed. b may be NULL. Ba, Kiros, Hinton 2016. */
    void (*layer_norm)(long rows, long d, const float *x, const float *w, const float *b, float eps, float *y, float *mean,
                       float *rstd);
    /* dx += ..., dw += ..., db += ...; each of dx, dw, db may be NULL. */
    void (*layer_norm_backward)(long rows, long d, const float *x, const float *w, const float *mean, const float *rstd,
                                const float *dy, float *dx, float *dw, float *db);
    /* y[n] += the sum of the rows x[rows, n] that lie ld apart: summed in order from 0, then added. */
    void (*add_rows)(long rows, long n, const float *x, long ld, float *y);
    /* y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps). Zhang, Sennrich 2019. */
    void (*rms_norm)(long rows, long d, const float *x, const float *w, float eps, float *y, float *rstd);
    void (*rms_norm_backward)(long rows, long d, const float *x, const float *w, const float *rstd, const float *dy, float *dx,
                              float *dw);

    /* y = exp(x - max) / sum; y may be x. x = -inf gives 0; a row that is all -inf gives zeros. Returns max + log(sum)
     * (-inf for such a row). One row. */
    float (*softmax)(long n, const float *x, float *y);
    /* y = exp(x - shift), 0 where x is -inf; y may be x. */
    void (*exp_shift)(long n, const float *x, float shift, float *y);
    /* Softmax down the columns of x[rows, n] (rows ld apart), as attention keeps scores: max[n] = max(max, column), and
     * x = exp(x - max) (0 where x is -inf), sum[n] += the column's sum, added in order. */
    void (*max_columns)(long rows, long n, const float *x, long ld, float *max);
    void (*exp_columns)(long rows, long n, float *x, long ld, const float *max, float *sum);
    /* dx = y * (dy - dot(y, dy)); dx may be dy. One row. */
    void (*softmax_backward)(long n, const float *y, const float *dy, float *dx);
    /* dx = y * (dy - s): the same where dot(y, dy) is known. */
    void (*softmax_slope)(long n, const float *y, const float *dy, float s, float *dx);

    /* Pairs (x[i], x[i + half]) turned by the angles whose cosines and sines are c and s: y[i] = x[i] c[i] - sign x[i + half] s[i], y[i + half] =
     * x[i + half] c[i] + sign x[i] s[i], written or, with `accumulate`, added. y may be x where it is written. Su et al. 2021. */
    void (*rotate)(long half, const float *x, const float *c, const float *s, float sign, bool accumulate, float *y);

    /* AdamW (Loshchilov, Hutter 2019), one tensor, its gradient scale * g: m = b1 m + (1-b1) scale g; v = b2 v + (1-b2) (scale g)^2;
     * p -= lr * (m * c1 / (sqrt(v * c2) + eps) + decay * p), c1 = 1/(1-b1^t), c2 = 1/(1-b2^t). */
    void (*adamw)(long n, float *p, const float *g, float scale, float *m, float *v, float lr, float b1, float b2, float eps,
                  float decay, float c1, float c2);

    void (*from_f16)(long n, const uint16_t *x, float *y);
    void (*from_bf16)(long n, const uint16_t *x, float *y);
    void (*to_f16)(long n, const float *x, uint16_t *y);             /* round to nearest even; overflow to inf; NaN stays NaN */
    void (*to_bf16)(long n, const float *x, uint16_t *y);            /* likewise */
    void (*from_i8)(long n, const int8_t *x, float scale, float *y); /* y = scale x */

    /* Attention of a few rows of queries against rows of keys or values, which are read where they lie. Sums have gemm_tile's order:
     * s[r*lds + j] = alpha * sum over e of q[e*width + r] * k[j*ld + e], for r < rows <= nr and j < keys, where the queries lie turned, kn_few_width(nr, rows)
     * apart, with numbers in place of those that lack; and y[r*d + e] += p[r*ldp + j] * v[j*ld + e], key by key, for r < rows. As many rows that will be
     * read `next` are asked for meanwhile, never read. */
    void (*few_scores)(long rows, long keys, long d, const float *q, kn_rows k, kn_rows next, float alpha, float *s, long lds);
    void (*few_values)(long rows, long keys, long d, const float *p, long ldp, kn_rows v, kn_rows next, float *y);

    /* Pictures: arithmetic of integers, so that every tier gives the same bytes. */
    /* planes[c * plane + i] = rgb[3 * i + c] for i < n and the three colours. */
    void (*split_rgb)(long n, const uint8_t *rgb, int16_t *planes, long plane);
    /* t->n outputs along a row, 3 bytes each: sums of weighted pixels, rounded to bytes. Reads planes from first to first + room, the same
     * for every output, as branches that depend on a count are guessed wrong too often. */
    void (*blend_pixels)(const kn_taps *t, const int16_t *planes, long plane, uint8_t *rgb);
    /* y[n] = the sum of `rows` >= 1 rows of n bytes, each with its weight, rounded to bytes. */
    void (*blend_rows)(long n, long rows, const uint8_t *const *row, const int16_t *low, const int16_t *high, uint8_t *y);
    /* planes[c * plane + i] = table[256 * c + rgb[3 * i + c]] for i < n. */
    void (*rgb_to_floats)(long n, const uint8_t *rgb, const float *table, float *planes, long plane);
} kn_table;

/* The best tier of this CPU, or the one that OCELLI_CPU names (generic, avx2, avx512, amx; neon), looked up once.
 * A tier that the CPU lacks is an error. */
const kn_table *kn_best(oc_err *err);
/* Every tier that this CPU can run, generic first; *count of them. */
const kn_table *const *kn_all(int *count);

/* How far apart the elements of `rows` queries lie for few_scores. */
enum { KN_SQUARES = 4 };
static inline long kn_few_width(long nr, long rows) { return rows > KN_SQUARES ? nr : rows; }

typedef struct kn_work kn_work; /* below */

/* ---- weights packed once ------------------------------------------------------------------------------------ */

/* How a packed weight W [n, k] (as nn.Linear keeps it) is held. KN_BF16 is rounded to nearest even. KN_I8: W[j][p] =
 * scale[j] * q, q in -127..127. KN_I4: W[j][p] = scale[j][p / group] * q, q in -8..7. Scales are fp32. Activations stay fp32, but meet
 * int8 and int4 as rows of integers with a scale of each row's own, of 7 bits and of 8 (see docs/precision.md). */
typedef enum kn_dtype { KN_F32, KN_BF16, KN_I8, KN_I4 } kn_dtype;

typedef struct kn_packed {
    kn_dtype dtype;
    long n, k, group; /* group: 0 but for KN_I4, there a multiple of 32; the last group of a row may be short */
    void *data;       /* kn_packed_bytes() of them, 64-byte aligned, in the form that one tier's micro-kernels read; not owned */
} kn_packed;

/* 0: rows of more than 65,536 numbers are not held in that form. */
size_t kn_packed_bytes(const kn_table *t, kn_dtype dtype, long n, long k, long group);
/* Fills p->data from fp32 rows x (ld apart), by all threads; int8 and int4 are quantised on the way, as kn_quantize does. */
void kn_pack_weight(kn_work *w, const kn_packed *p, const float *x, long ld);
/* The same piece by piece: only rows [first, first + rows), x being the first of them. first is a multiple of KN_PACK_STEP, and so is `rows` unless they are the last. */
enum { KN_PACK_STEP = 64 };
void kn_pack_rows(kn_work *w, const kn_packed *p, long first, long rows, const float *x, long ld);
/* The same of a weight that lies turned: x is column `first` of [k, ld]. scratch: [rows * k], not used for fp32. */
void kn_pack_turned(kn_work *w, const kn_packed *p, long first, long rows, const float *x, long ld, float *scratch);
/* The same from values that are quantised already: q [n, k], scale [n] (KN_I8) or [n, ceil(k / group)] (KN_I4). */
void kn_pack_quantized(kn_work *w, const kn_packed *p, const int8_t *q, const float *scale);
/* Symmetric, to nearest: scale = max |x| / 127 (KN_I8, of a row) or / 7 (KN_I4, of a group of a row); a scale is 0 where all of x are. */
void kn_quantize(kn_dtype dtype, long n, long k, long group, const float *x, long ld, int8_t *q, float *scale);

/* ---- loops around the micro-kernel: portable, threaded ---------------------------------------------------- */

/* C[m,n] = epilogue(alpha * A * B (+ C when accumulate)), A [m,k], B [k,n].
 * Row i of A starts at a + i * lda (or, when ta, A is stored [k,m] with rows lda apart); B likewise (tb: stored [n,k],
 * as nn.Linear keeps its weight). Epilogue in this order: + bias[n], act, + residual[m,n] (rows ldc apart); NULL or
 * KN_NONE leaves it out. residual is not c. k is summed in order, in fixed blocks: the bits of a row do not depend on m.
 * k = 0 gives zeros (or C) + epilogue. */
typedef struct kn_gemm {
    long m, n, k;
    const float *a, *b;
    long lda, ldb;
    bool ta, tb;
    float *c;
    long ldc;
    float alpha;
    bool accumulate;
    const float *bias, *residual;
    kn_act act;
    bool bf16;               /* operands may be rounded to bf16 (sums stay fp32) where the CPU multiplies those faster */
    const kn_packed *packed; /* B^T = a weight [n, k] packed before, in place of b, ldb and tb; NULL: B is as said */
    const struct kn_gemm *also; /* one more product; NULL: none */
} kn_gemm;

/* Packed operands and the like: one workspace an engine session, made once, so that nothing is allocated while a model runs. */
kn_work *kn_work_open(const kn_table *t, bs_pool *pool, oc_err *err); /* keeps t and pool, owns neither; pool may be NULL */
void kn_work_close(kn_work *w);
size_t kn_work_bytes(const kn_work *w);
const kn_table *kn_work_table(const kn_work *w);
bs_pool *kn_work_pool(const kn_work *w);
bool kn_work_has_bf16(const kn_work *w); /* does kn_gemm's bf16 change anything here? */

/* A chain by `also` is computed together where all have the same A and shape and weights packed alike, so that A is prepared once and
 * threads wait once, else one after another; to the same bits. */
void kn_gemm_run(kn_work *w, const kn_gemm *g);

/* Every head's own product, C_h [m, n] = A_h [m, k] B_h (+ bias_h [n]): A_h lies at a + h * k, its rows lda apart, C_h at c + h * n, its rows ldc apart. B_h are
 * rows [h * k, (h + 1) * k) of b [heads * k, n]; or `turned`, the transpose of rows [h * n, (h + 1) * n) of b [heads * n, k], which may have been packed before as
 * fp32 (b is read as well, where a head is no whole number of strips). k is 1 to KN_HEAD_MOST. Sums have kn_gemm's order. */
enum { KN_HEAD_MOST = 1 << 14 };
typedef struct kn_heads {
    long heads, m, n, k;
    const float *a, *b;
    long lda, ldc;
    bool turned;
    const kn_packed *packed; /* NULL: as it lies */
    const float *bias;       /* [heads * n]; NULL: none */
    float *c;
} kn_heads;
void kn_heads_run(kn_work *w, const kn_heads *g);

/* y[n] += the sum over rows of x[rows, n] (rows ld apart), in a fixed order of fixed blocks of rows. */
void kn_column_sums(kn_work *w, long rows, long n, const float *x, long ld, float *y);
/* The same for layer norm's gains and biases and dx: threads split rows into fixed blocks whose partial sums are added in
 * order. */
void kn_layer_norm_backward(kn_work *w, long rows, long d, const float *x, const float *wt, const float *mean, const float *rstd,
                            const float *dy, float *dx, float *dw, float *db);
void kn_rms_norm_backward(kn_work *w, long rows, long d, const float *x, const float *wt, const float *rstd, const float *dy,
                          float *dx, float *dw);
/* x = 0, by all threads. */
void kn_zero(kn_work *w, long n, float *x);
/* The sum of squares in double, in fixed blocks: the norm of a gradient. */
double kn_sum_squares(kn_work *w, long n, const float *x);

/* What a cache of keys and values holds; int8 with a scale for each row (position, head): the number is scale * x. Attention over a
 * cache has the bits of attention over the same numbers in fp32. */
typedef enum kn_kv_type { KN_KV_F32, KN_KV_F16, KN_KV_BF16, KN_KV_I8 } kn_kv_type;
/* Keys and values of page_keys positions that follow each other; scales of int8 alone. */
typedef struct kn_page {
    const void *k, *v;
    const float *k_scale, *v_scale;
} kn_page;

/* Scaled dot-product attention (Vaswani 2017): softmax(scale q k^T + mask) v for every (batch, head).
 * Element (b, t, h, e) of q lies at q + b*q_batch + t*q_row + h*q_head + e: time t, head h, the last dimension contiguous;
 * heads may lie side by side in a row or be matrices of their own. Value width may differ from key width.
 * Query head h reads key head h / (heads / kv_heads). causal hides key j from query i when j > i + tk - tq.
 * key_mask [batch, tk] (1 keeps, 0 hides; NULL keeps all); rows of which every key is hidden give zero.
 * keys [batch]: how many of the tk keys each batch has (NULL: all); its queries are the last tq of as many positions.
 * window, unless 0: of the keys up to its own place a query sees the last `window`. from [batch, tq], unless NULL: it sees none before
 * from[query], which never falls from query to query (documents in one row).
 * bias [heads, tq, tk] is added to the scaled scores where it is not NULL; or, with bias_head, [heads, bias_head], where it depends on the
 * distance alone: number bias_zero + d is added where a key stands d places behind its query (T5, ALiBi). lse [batch, heads, tq] receives max +
 * log(sum) (for the backward) unless NULL.
 *
 * pages, unless NULL, stand in place of k and v: [batch, ceil(tk / page_keys)], so that a cache can grow by pages; one that lies in
 * one piece is a single page. Position t, head h, element e of a page's keys is its element (t % page_keys)*k_row + h*k_head + e,
 * its scale k_scale[(t % page_keys)*scale_row + h*scale_head]; values likewise. Positions from tk on are not read.
 *
 * Scores are never held for more than a strip of queries and a block of keys, whatever tq and tk. A query has the same bits alone
 * and among others, and with a cache's keys as with keys just computed. */
typedef struct kn_attn {
    long batch, heads, kv_heads, tq, tk, dk, dv;
    const float *q, *k, *v;
    float *y;
    long q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, y_batch, y_row, y_head;
    float scale;
    bool causal;
    const uint8_t *key_mask;
    const int *keys, *from;
    long window;
    const float *bias;
    long bias_head, bias_zero;
    float *lse;
    kn_kv_type kv_type; /* of pages; k and v are fp32 */
    const kn_page *pages;
    long page_keys, scale_row, scale_head;
} kn_attn;
/* Bytes of scratch one worker needs for such a shape, a multiple of 128 that does not grow with tk; `scratch` below holds that times
 * the pool's threads. `pages` must already tell whether there are any. */
size_t kn_attn_scratch(const kn_table *t, const kn_attn *a);
void kn_attn_forward(kn_work *w, const kn_attn *a, void *scratch);
/* n of them, each of a batch of one, all with as many heads: they share out the threads. scratch for the largest. */
void kn_attn_forward_each(kn_work *w, const kn_attn *a, long n, void *scratch);
/* dq, dk, dv (same strides as q, k, v; each may be NULL) += gradients for dy (y's strides), given y and lse of the forward.
 * dbias likewise, of the bias's shape. Pages are not looked at. */
size_t kn_attn_backward_scratch(const kn_table *t, const kn_attn *a);
void kn_attn_backward(kn_work *w, const kn_attn *a, const float *dy, float *dq, float *dk, float *dv, float *dbias,
                      void *scratch);
/* n of them as kn_attn_forward_each takes them, the gradients of each where it has its own; no bias. scratch for the largest. */
typedef struct kn_attn_grads {
    const float *dy;
    float *dq, *dk, *dv;
} kn_attn_grads;
void kn_attn_backward_each(kn_work *w, const kn_attn *a, const kn_attn_grads *g, long n, void *scratch);

/* The frequencies of rotary positions, theta^(-i / half), and the cosines and sines of (first + r) * frequency[i], each [rows, half]. */
void kn_rotary_frequencies(long half, double theta, double *frequency);
void kn_rotary_angles(long rows, long half, long first, const double *frequency, float *c, float *s);

/* Cross-entropy of one row of n logits against `target`, with label smoothing s: loss = -(1-s) log p_t - s/n sum log p.
 * Returns the loss; dlogits (may be NULL, may be logits) receives scale * d loss / d logits (written, not added). */
float kn_cross_entropy(const kn_table *t, long n, const float *logits, long target, float smoothing, float scale, float *dlogits);

#endif
