/* mistral.c - Mistral (Jiang 2023): the decoder of src/block/lm_decoder.h, whose queries may see a window of the keys only.
 *
 *   ids -> decoder -> logits */
#include "language.h"

static void *create(const ck_config *c, oc_err *err)
{
    static const md_lm_defaults defaults = {.vocab = 32000,
                                            .width = 4096,
                                            .hidden = 14336,
                                            .layers = 32,
                                            .heads = 32,
                                            .kv_heads = 8,
                                            .context = 131072,
                                            .eps = 1e-6f,
                                            .theta = 10000,
                                            .windowed = true,
                                            .window = 4096};
    return md_lm_create(c, &defaults, err);
}

static const char *const architectures[] = {"MistralForCausalLM", NULL};

const md_family md_mistral = {
    .model_type = "mistral",
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
    .lora_targets = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
    .init = md_lm_init,
};
