/* fuzz_adapter.c - any bytes as adapter_config.json, a zero byte, and adapter_model.safetensors: an error,
 * or an adapter whose every key is accounted for and whose factors have their ranks. */
#include <stdlib.h>
#include <string.h>

#include "../src/checkpoint/adapter.h"
#include "fuzz_weights.h"

static void demand(int what)
{
    if (!what)
        abort();
}

static void check_target(const ck_adapter *a, const ck_adapter_target *t)
{
    const ck_tensor *down = t->a ? t->a : t->embedding_a, *up = t->b ? t->b : t->embedding_b;
    demand(down && up && !(t->a && t->embedding_a));
    demand(down->shape[0] == t->rank && up->shape[1] == t->rank);
    demand(ck_adapter_targets(&a->config, t->module));
    demand(ck_adapter_find(a, t->module) == t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *cut = size ? memchr(data, 0, size) : NULL;
    size_t config_n = cut ? (size_t)(cut - data) : size, n;
    uint8_t *config = malloc(config_n + 1);
    uint8_t *weights = weights_of(cut ? cut + 1 : data, cut ? size - config_n - 1 : 0, &n);
    demand(config != NULL);
    memcpy(config, data, config_n);
    oc_err err = {0};
    ck_adapter a;
    int failed = ck_adapter_open_bytes(&a, config, config_n, weights, n, &err);
    demand(!failed == !err.text[0] && (failed || !a.unplaced.n));
    for (int i = 0; !failed && i < a.targets_n; i++)
        check_target(&a, &a.targets[i]);
    ck_adapter_close(&a);
    free(config);
    free(weights);
    return 0;
}
