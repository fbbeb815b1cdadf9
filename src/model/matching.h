/* matching.h - what dual encoders have in common behind their towers: how alike pictures and texts are, and the losses of that. */
#ifndef MD_MATCHING_H
#define MD_MATCHING_H

#include "model.h"

/* exp(logit_scale) times the cosine of each text with each picture, [texts, images]; both of length 1. */
tn_t md_logits_per_text(tn_ctx *cx, tn_t image_embeds, tn_t text_embeds, const tn_param *logit_scale);
/* The symmetric InfoNCE loss (Radford 2021) of such logits: each text must find its picture among all, and each picture its text. */
tn_t md_info_nce(tn_ctx *cx, tn_t per_text, tn_t per_image, const md_batch *b);
/* loss, plus what the batch asks for beside: pictures of one meaning find each other. */
tn_t md_with_partners(tn_ctx *cx, tn_t loss, tn_t image_embeds, const md_batch *b);

#endif
