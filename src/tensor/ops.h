/* ops.h - what models are made of. Shapes: B batch, T time, D width; "[.., D]" is any number of leading
 * dimensions. Every op checks its shapes and fails the context with its own name. */
#ifndef TN_OPS_H
#define TN_OPS_H

#include "tensor.h"

/* ---- linear: op_linear.c ---- */
/* [.., in] -> [.., out]: x W^T + b, plus LoRA's share when the context has an adapter for W. */
tn_t tn_linear(tn_ctx *cx, tn_t x, const tn_linear_w *l);
/* The same of n layers with one input, as queries, keys and values are: y[0] to y[n - 1]. Those of one shape in a row are computed together where no gradient flows
 * and no adapter is added; to the same bits. */
void tn_linears(tn_ctx *cx, tn_t x, int n, const tn_linear_w *const *l, tn_t *y);
/* x table^T: a head that is tied to the table of tokens [vocab, in]. */
tn_t tn_linear_tied(tn_ctx *cx, tn_t x, const tn_param *table);
/* f(linear(x)) and residual + linear(x), fused where nothing has to be kept. */
tn_t tn_linear_act(tn_ctx *cx, tn_t x, const tn_linear_w *l, kn_act f);
tn_t tn_linear_add(tn_ctx *cx, tn_t x, const tn_linear_w *l, tn_t residual);
/* [M, K] x [N, K] -> [M, N]: a b^T. */
tn_t tn_matmul_nt(tn_ctx *cx, tn_t a, tn_t b);
/* x [B, C, H, W], weight [O, C, kh, kw] -> [B, (H-kh)/stride+1, (W-kw)/stride+1, O]: channels last, as tokens want them. */
tn_t tn_conv2d(tn_ctx *cx, tn_t x, const tn_linear_w *conv, long stride);

/* ---- norms: op_norm.c ---- */
tn_t tn_layer_norm(tn_ctx *cx, tn_t x, const tn_norm_w *n, float eps);
tn_t tn_rms_norm(tn_ctx *cx, tn_t x, const tn_norm_w *n, float eps);
/* x [N, C, ..]: over everything but C (Ioffe, Szegedy 2015). In training the batch's own mean and variance, and the running ones
 * move by `momentum` (variance unbiased) in the context's buffers; else the running ones. */
typedef struct tn_batch_norm_w {
    tn_param weight, bias, running_mean, running_var; /* [C] */
} tn_batch_norm_w;
tn_t tn_batch_norm(tn_ctx *cx, tn_t x, const tn_batch_norm_w *n, float momentum, float eps);
/* Rows divided by their Euclidean length. */
tn_t tn_l2_normalize(tn_ctx *cx, tn_t x);

/* ---- attention: op_attention.c, op_branches.c, op_distance.c ---- */
/* What attention adds to the scores by distance: v [heads, n], number zero + d where a key stands d places behind its query. Of rank 0: nothing. */
typedef struct tn_bias {
    tn_t v;
    long zero;
} tn_bias;
/* Distances fall into `count` buckets: half of them (of each way's share, where keys behind the query have their own) are a distance each, the
 * others reach further and further, the last from max_distance on (Raffel 2020). */
typedef struct tn_buckets {
    long count, max_distance;
    bool both_ways; /* false: keys behind the query count as its own place */
} tn_buckets;
/* table [count, heads] spread over the distances of tq queries and tk keys. */
tn_bias tn_distance_bias(tn_ctx *cx, const tn_param *table, const tn_buckets *buckets, long tq, long tk);
typedef struct tn_attention_args {
    long heads, kv_heads;    /* kv_heads 0: the same */
    float scale;             /* 0: 1 / sqrt(width of a key) */
    bool causal;             /* query i sees keys j <= i + Tk - Tq */
    const uint8_t *key_mask; /* [B, Tk], 1 keeps; NULL keeps all. Must live as long as the tape */
    const int *last_key;     /* [B]: the only query of each sequence (Tq = 1) sees keys 0 to last_key[b]; NULL: no such limit */
    bool head_major;         /* q, k, v, y are [B, H, T, d] instead of [B, T, H*d] */
    long window;             /* of the keys up to its own place a query sees the last so many; 0: all */
    const int *from;         /* [B, Tq], never falling: a query sees no key before from[query] (documents in one row); NULL */
    int layer;  /* a decoder's self-attention, counted from 1: its keys go on where the context's sequences go on; 0: no such */
    int memory; /* a decoder's attention to what it remembers, counted from 1: k and v are not given (rank 0) but lie in the context's memory; 0 */
    tn_bias bias; /* for the distances of all these queries and keys, -(Tk - 1) to Tq - 1 */
} tn_attention_args;
/* softmax(scale q k^T + bias + mask) v; a row with every key hidden gives zeros. Where the context has steps and the args a layer, x's rows are those
 * of the steps, and each sees what its own sequence has before it. Where it has branches: branches.h. */
tn_t tn_attention(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *args);

/* Keys and values [steps, T, ..] of what decoders attend to become layer `layer` (from 1) of the memories of the context's steps, of each as many rows as
 * its memory is long. */
void tn_remember(tn_ctx *cx, tn_t k, tn_t v, int layer);

/* The same attention to rows that were never made keys and values: where the memory of the context's steps holds what a decoder looks at itself (tn_cache_shape.rows),
 * q k^T = (q W_k) rows^T and p v = (p rows) W_v^T, head by head; k's bias changes no softmax. Cheaper than making them as long as fewer queries come than a head is
 * wide, and one such memory serves all layers. Only `heads` and `scale` of the args count; k_proj lies in memory as fp32, neither is adapted. */
tn_t tn_attention_to_rows(tn_ctx *cx, tn_t q, const tn_linear_w *k_proj, const tn_linear_w *v_proj, const tn_attention_args *args);
/* Can it be done with these layers? lora as a context has it. */
bool tn_can_attend_to_rows(const tn_lora *lora, const tn_linear_w *k_proj, const tn_linear_w *v_proj);
bool tn_remembers_rows(const tn_ctx *cx);
/* rows [steps, T, ..] go into such a memory, of each as many as its memory is long. */
void tn_remember_rows(tn_ctx *cx, tn_t rows);

/* ---- rotary positions (Su 2021), LLaMA's layout: dimension i pairs with i + half: op_rotary.c ---- */
typedef struct tn_angles {
    const float *c, *s; /* cosine and sine [rows, half], times a factor */
    long rows, half;
} tn_angles;
/* The angles positions[row] * frequency[i], frequency [half]; positions are read now. */
tn_angles tn_rotary(tn_ctx *cx, const int *positions, long rows, const double *frequency, long half, float factor);
/* x [.., heads * d]: the first 2 * half dimensions of each head are turned, row r by the angles of row r % rows. */
tn_t tn_rotate(tn_ctx *cx, tn_t x, long heads, tn_angles a);
/* x [.., T, d], position = offset + t. */
tn_t tn_rope(tn_ctx *cx, tn_t x, float theta, long offset);

/* ---- positions, tokens, pieces: op_shape.c ---- */
/* ids [n] in 0..rows-1, kept by the caller as long as the tape -> [B, T, D] (B * T = n). */
tn_t tn_embedding(tn_ctx *cx, const tn_param *table, const int *ids, long b, long t);
/* The same, but row `fixed` of the table (the token that fills up) learns nothing from being looked up: torch.nn.Embedding's padding_idx. */
tn_t tn_embedding_but(tn_ctx *cx, const tn_param *table, const int *ids, long b, long t, int fixed);
tn_t tn_add(tn_ctx *cx, tn_t a, tn_t b);
/* x [.., n] + p: p (a parameter of k elements) repeats: bias of the last k elements' shape, as positions [T, D] on [B, T, D]. */
tn_t tn_add_param(tn_ctx *cx, tn_t x, const tn_param *p);
/* The first T rows of a table of positions are added: x [B, T, D], table [>= T, D] or [1, >= T, D]. */
tn_t tn_add_positions(tn_ctx *cx, tn_t x, const tn_param *table);
/* Sine and cosine positions (Vaswani 2017) are added: x [B, T, D]. */
tn_t tn_add_sinusoid(tn_ctx *cx, tn_t x);
/* One learned token in front of each sequence: p [D], x [B, T, D] -> [B, T+1, D]. */
tn_t tn_prepend(tn_ctx *cx, const tn_param *p, tn_t x);
/* p [.., D] for each of b sequences: [b, rows of p, D]. */
tn_t tn_repeat(tn_ctx *cx, const tn_param *p, long b);
/* Columns first .. first + n - 1 of x [.., D]: [.., n]. */
tn_t tn_columns(tn_ctx *cx, tn_t x, long first, long n);
/* One row of each sequence's rows that `mask` [B, T] keeps (NULL: all): x [B, T, D] -> [B, D], their mean or, in each column, their largest. Nothing
 * kept: zeros. What is hidden changes no bit. The mask must live as long as the tape. */
typedef enum tn_pooling { TN_POOL_MEAN, TN_POOL_MAX } tn_pooling;
tn_t tn_pool(tn_ctx *cx, tn_t x, const uint8_t *mask, tn_pooling how);
/* Row index[b] of each sequence: x [B, T, D] -> [B, D]; index NULL: row 0. Kept by the caller as long as the tape. */
tn_t tn_select(tn_ctx *cx, tn_t x, const int *index);
/* Rows index[0..n) of x [.., D] -> [n, D]; index as above. */
tn_t tn_pick(tn_ctx *cx, tn_t x, const int *index, long n);
/* x [.., sum of widths] cut into n pieces, y[i] [.., width[i]]. */
void tn_split(tn_ctx *cx, tn_t x, int n, const long *width, tn_t *y);
tn_t tn_transpose(tn_ctx *cx, tn_t x);      /* [M, N] -> [N, M] */
tn_t tn_channels_first(tn_ctx *cx, tn_t x); /* [B, H, W, C] -> [B, C, H, W] */

/* ---- elementwise and losses: op_math.c ---- */
tn_t tn_act(tn_ctx *cx, tn_t x, kn_act f);
tn_t tn_gate(tn_ctx *cx, tn_t x, tn_t y, kn_act f); /* f(x) * y, equal shapes: SwiGLU and its like (Shazeer 2020) */
tn_t tn_softmax(tn_ctx *cx, tn_t x);                /* over the last dimension */
tn_t tn_scale(tn_ctx *cx, tn_t x, float s);
tn_t tn_scale_exp(tn_ctx *cx, tn_t x, const tn_param *log_scale); /* exp(p) * x, p a scalar */
tn_t tn_divide(tn_ctx *cx, tn_t x, const tn_param *divisor);      /* x / p, p a scalar */
tn_t tn_sum2(tn_ctx *cx, tn_t a, float sa, tn_t b, float sb);     /* sa a + sb b, equal shapes */
/* sum of x * weight, weight kept by the caller -> [1] */
tn_t tn_weighted_sum(tn_ctx *cx, tn_t x, const float *weight);
/* Mean over the rows whose target is not -100 of the cross-entropy with label smoothing: logits [n, V], target [n] -> [1]. */
tn_t tn_cross_entropy(tn_ctx *cx, tn_t logits, const int *target, float smoothing);
/* Mean over rows of -sum target * log softmax(logits): target [n, V], kept by the caller; a row of it sums to 1, or is all zero and
 * counts for nothing -> [1]. others_only: row i does not see column i (a picture compared with the other pictures). */
tn_t tn_soft_cross_entropy(tn_ctx *cx, tn_t logits, const float *target, bool others_only);
/* Mean over rows of the sum over columns of -log sigmoid(z logit) (Zhai 2023): z is 1 where a row's target [n, V] is above 0, else -1. Kept by the
 * caller; NULL: row i's only match is column i -> [1]. */
tn_t tn_sigmoid_cross_entropy(tn_ctx *cx, tn_t logits, const float *target);

#endif
