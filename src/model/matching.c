/* matching.c - logits and losses of pairs. */
#include "matching.h"

tn_t md_logits_per_text(tn_ctx *cx, tn_t image_embeds, tn_t text_embeds, const tn_param *logit_scale)
{
    return tn_scale_exp(cx, tn_matmul_nt(cx, text_embeds, image_embeds), logit_scale);
}

tn_t md_info_nce(tn_ctx *cx, tn_t per_text, tn_t per_image, const md_batch *b)
{
    if (b->text_target)
        return tn_sum2(cx, tn_soft_cross_entropy(cx, per_text, b->text_target, false), 0.5f,
                       tn_soft_cross_entropy(cx, per_image, b->image_target, false), 0.5f);
    return tn_sum2(cx, tn_cross_entropy(cx, per_text, b->target, 0), 0.5f, tn_cross_entropy(cx, per_image, b->target, 0), 0.5f);
}

/* Supervised contrastive learning (Khosla 2020), at a temperature of 0.1. */
tn_t md_with_partners(tn_ctx *cx, tn_t loss, tn_t image_embeds, const md_batch *b)
{
    if (b->partner_weight <= 0)
        return loss;
    tn_t similar = tn_scale(cx, tn_matmul_nt(cx, image_embeds, image_embeds), 10);
    return tn_sum2(cx, loss, 1, tn_soft_cross_entropy(cx, similar, b->partner_target, true), b->partner_weight);
}
