/* low_none.c - stands in until weights in bf16, int8 and int4 exist: no such form takes a byte, and none can be used. */
#include <stdlib.h>

#include "low.h"

size_t kn_low_bytes(const kn_table *t, kn_dtype dtype, long n, long k, long group)
{
    (void)t, (void)dtype, (void)n, (void)k, (void)group;
    return 0;
}

void kn_low_pack(kn_work *w, const kn_packed *p, const float *x, long ld)
{
    (void)w, (void)p, (void)x, (void)ld;
    abort();
}

void kn_low_pack_quantized(kn_work *w, const kn_packed *p, const int8_t *q, const float *scale)
{
    (void)w, (void)p, (void)q, (void)scale;
    abort();
}

void kn_low_run(kn_work *w, const kn_gemm *g)
{
    (void)w, (void)g;
    abort();
}

void kn_quantize(kn_dtype dtype, long n, long k, long group, const float *x, long ld, int8_t *q, float *scale)
{
    (void)dtype, (void)n, (void)k, (void)group, (void)x, (void)ld, (void)q, (void)scale;
    abort();
}
