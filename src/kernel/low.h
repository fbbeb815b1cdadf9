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
                 bool accumulate);
    void (*pack_a)(long k, long w, long width, const float *x, long ld, bool transpose, float *p);
    void (*pack_b)(long k, long w, long width, const float *x, long ld, bool transpose, float *p);
    void (*begin)(void);
    void (*end)(void);
} kn_micro;

#if defined(__x86_64__)
extern const kn_micro kn_amx_bf16;
#endif

/* Weights packed in another form than fp32 (kernel.h, "weights packed once"): what kn_packed_bytes, kn_pack_weight,
 * kn_pack_quantized and kn_gemm_run hand on for dtype != KN_F32. kn_low_run may be called within a work function. */
size_t kn_low_bytes(const kn_table *t, kn_dtype dtype, long n, long k, long group);
void kn_low_pack(kn_work *w, const kn_packed *p, const float *x, long ld);
void kn_low_pack_quantized(kn_work *w, const kn_packed *p, const int8_t *q, const float *scale);
void kn_low_run(kn_work *w, const kn_gemm *g);

/* The micro-kernel for products of bf16 numbers beside the tier t; NULL: this CPU has none (or OCELLI_CPU masks it). */
const kn_micro *kn_bf16_micro(const kn_table *t);

#endif
