/* fuzz_safetensors.c - any bytes as a weights file: an error, or tensors that lie inside the bytes. */
#include <stdlib.h>

#include "../src/checkpoint/safetensors.h"
#include "fuzz_weights.h"

static void demand(int what)
{
    if (!what)
        abort();
}

static void read_through(const ck_store *s, const ck_tensor *t)
{
    float floats[16];
    int64_t integers[16], n = t->count < 16 ? t->count : 16;
    oc_err err = {0};
    if (ck_dtype_is_float(t->dtype))
        demand(!ck_to_f32(t, t->count - n, n, floats, &err));
    else
        demand(!ck_to_i64(t, t->count - n, n, integers, &err));
    ck_check_finite(s, t, &err);
    ck_release(s, t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    oc_err err = {0};
    size_t n;
    uint8_t *file = weights_of(data, size, &n);
    ck_store *s = ck_open_bytes(file, n, "fuzz", &err);
    demand(!s == (err.text[0] != 0));
    size_t covered = 0;
    for (size_t i = 0; s && i < ck_count(s); i++) {
        const ck_tensor *t = ck_at(s, i);
        const uint8_t *p = t->data;
        demand(p >= file && p + t->bytes <= file + n);
        demand(ck_find(s, t->name) == t);
        covered += t->bytes;
        read_through(s, t);
    }
    demand(covered <= n);
    ck_close(s);
    free(file);
    return 0;
}
