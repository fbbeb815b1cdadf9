/* quantized.h - a linear layer's weight that a file keeps in integers, laid out as the compressed-tensors package writes them (so vLLM and
 * transformers read them too). For a weight "x.weight" [n, k]:
 *
 *   int8   "x.weight" I8 [n, k] and "x.weight_scale" [n, 1]: W[j][p] = scale[j] * q
 *   int4   "x.weight_packed" I32 [n, ceil(k / 8)], "x.weight_scale" [n, ceil(k / group)] and "x.weight_shape" = [n, k]: element p lies in
 *          word p / 8 at bits 4 * (p % 8), as q + 8
 *
 * Scales may be fp32, fp16 or bf16. Zero points and activation scales are not known here: such files are refused. */
#ifndef CK_QUANTIZED_H
#define CK_QUANTIZED_H

#include "safetensors.h"

/* The group that rows of k numbers get where `wanted` (32 or more) is asked for: the largest multiple of 32 up to it that divides k, or 32 where
 * none does, so that the number of groups tells their length. */
long ck_int4_group(long k, long wanted);

typedef struct ck_quantized {
    int bits;         /* 8 or 4 */
    long n, k, group; /* group: k for int8 */
    const ck_tensor *q, *scale;
} ck_quantized;

/* 1: the store keeps `name` [n, k] in integers, told in *t. 0: it does not. -1: it does, but wrongly. */
int ck_quantized_find(const ck_store *s, const char *name, long n, long k, ck_quantized *t, oc_err *err);
/* q [n, k] and scale [n, ceil(k / group)]. */
int ck_quantized_read(const ck_store *s, const ck_quantized *t, int8_t *q, float *scale, oc_err *err);
/* The name of one of the tensors that keep `name`: "_packed", "_scale", "_shape" behind it. free() it. */
char *ck_quantized_name(const char *name, const char *part);
/* k numbers of -8..7 as ceil(k / 8) words. */
void ck_int4_words(long k, const int8_t *q, uint32_t *words);

#endif
