/* llama.c - LLaMA 1, 2, 3, 3.1, 3.2 (Touvron 2023, Grattafiori 2024): src/block/lm_decoder.h is its architecture.
 *
 *   ids -> decoder -> logits */
#include "language.h"

static void *create(const ck_config *c, oc_err *err)
{
    static const md_lm_defaults defaults = {
        .vocab = 32000, .width = 4096, .hidden = 11008, .layers = 32, .heads = 32, .context = 2048, .eps = 1e-6f, .theta = 10000};
    return md_lm_create(c, &defaults, err);
}

static const char *const architectures[] = {"LlamaForCausalLM", "LLaMAForCausalLM", NULL};

const md_family md_llama = {
    .model_type = "llama",
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
