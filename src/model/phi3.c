/* phi3.c - Phi-3 (Abdin 2024): the decoder of src/block/lm_decoder.h with queries, keys and values in one projection, gate and up in another.
 *
 *   ids -> decoder -> logits */
#include "language.h"

static void *create(const ck_config *c, oc_err *err)
{
    static const md_lm_defaults defaults = {.vocab = 32064,
                                            .width = 3072,
                                            .hidden = 8192,
                                            .layers = 32,
                                            .heads = 32,
                                            .context = 4096,
                                            .eps = 1e-5f,
                                            .theta = 10000,
                                            .fused = true,
                                            .windowed = true};
    return md_lm_create(c, &defaults, err);
}

static const char *const architectures[] = {"Phi3ForCausalLM", NULL};

const md_family md_phi3 = {
    .model_type = "phi3",
    .architectures = architectures,
    .can = MD_GENERATES,
    .create = create,
    .destroy = md_lm_destroy,
    .visit = md_lm_visit,
    .sizes = md_lm_sizes,
    .cache = md_lm_cache,
    .prepare = md_lm_prepare,
    .forward = md_lm_forward,
    .logits = md_lm_logits,
    .lora_targets = "qkv_proj,o_proj,gate_up_proj,down_proj",
    .init = md_lm_init,
};
