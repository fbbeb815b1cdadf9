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

/* The micro-kernel for products of bf16 numbers beside the tier t; NULL: this CPU has none (or OCELLI_CPU masks it). */
const kn_micro *kn_bf16_micro(const kn_table *t);

#endif
