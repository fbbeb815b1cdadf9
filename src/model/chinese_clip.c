/* chinese_clip.c - Chinese-CLIP (Yang 2022): CLIP's vision tower beside BERT's encoder.
 *
 *   pixels [B,3,S,S] -> as CLIP's -> post_layernorm(class token) -> visual_projection -> image_embeds
 *   ids [B,T], mask -> as BERT's -> row of the first token -> text_projection -> text_embeds
 *   logits_per_image = exp(logit_scale) * normalised(image_embeds) normalised(text_embeds)^T
 *
 * Names and defaults are those of Hugging Face's ChineseCLIPModel. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "matching.h"
#include "reading.h"

typedef struct chinese_clip {
    bl_bert text;
    bl_vit vision;
    int projection_dim;
    tn_linear_w visual_projection; /* [projection, width], no bias */
    tn_linear_w text_projection;
    tn_param logit_scale; /* scalar */
} chinese_clip;

/* ---- configuration -------------------------------------------------------------------------------------------------- */

static int read_config(const ck_config *c, chinese_clip *m, oc_err *err)
{
    const ck_config *text = md_read_part(c, "text_config", err), *vision = text ? md_read_part(c, "vision_config", err) : NULL;
    m->projection_dim = 512;
    m->vision = (bl_vit){.shape = {768, 3072, 12, KN_QUICK_GELU, 1e-5f},
                         .layers = 12,
                         .image_size = 224,
                         .patch_size = 32,
                         .channels = 3,
                         .kind = BL_VIT_CLIP};
    return !vision || md_read_bert(text, &m->text, err) || md_read_vit(vision, &m->vision, err) ||
                   ck_int(text, "pad_token_id", &m->text.pad, 0, MD_MOST_TOKENS, err) ||
                   ck_int(c, "projection_dim", &m->projection_dim, 1, MD_WIDEST, err)
               ? -1
               : 0;
}

static void destroy(void *p)
{
    chinese_clip *m = p;
    if (m) {
        free(m->text.layer);
        free(m->vision.layer);
    }
    free(m);
}

static void *create(const ck_config *c, oc_err *err)
{
    chinese_clip *m = calloc(1, sizeof *m);
    if (!m || read_config(c, m, err))
        goto failed;
    m->text.layer = calloc((size_t)m->text.layers, sizeof *m->text.layer);
    m->vision.layer = calloc((size_t)m->vision.layers, sizeof *m->vision.layer);
    if (m->text.layer && m->vision.layer)
        return m;
failed:
    bs_err(err, "out of memory: a model"); /* unless something was said already */
    destroy(m);
    return NULL;
}

static void sizes(const void *p, md_sizes *s)
{
    const chinese_clip *m = p;
    *s = (md_sizes){.image_size = m->vision.image_size,
                    .channels = m->vision.channels,
                    .max_tokens = m->text.positions,
                    .vocab = m->text.vocab,
                    .embedding = m->projection_dim,
                    .bos = -1,
                    .eos = -1,
                    .pad = m->text.pad,
                    .padding = MD_PADDING_HIDDEN};
}

/* ---- weights ----------------------------------------------------------------------------------------------------------- */

static void visit(void *p, tn_visitor *v)
{
    chinese_clip *m = p;
    tn_visit(v, &m->logit_scale, "logit_scale", TN_NO_DECAY, 0, 0, 0, 0, 0);
    bl_visit_bert(v, &m->text, "text_model.");
    bl_visit_vit(v, &m->vision, "vision_model.");
    tn_visit_linear(v, &m->visual_projection, "visual_projection", m->projection_dim, m->vision.shape.width, false);
    tn_visit_linear(v, &m->text_projection, "text_projection", m->projection_dim, m->text.shape.width, false);
}

static const ck_renaming *renamings(const void *p)
{
    static const ck_renaming table[] = {
        {"text_model.**.LayerNorm.gamma", "text_model.**.LayerNorm.weight", false},
        {"text_model.**.LayerNorm.beta", "text_model.**.LayerNorm.bias", false},
        {0},
    };
    (void)p;
    return table;
}

/* BERT's deviation, and CLIP's projections. */
static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    const chinese_clip *m = p;
    bool vision = !strncmp(name, "vision_model.", 13) || !strncmp(name, "visual_", 7), projects = strstr(name, "_projection.");
    float width = sqrtf(1 / (float)(vision ? m->vision.shape.width : m->text.shape.width));
    if (!strcmp(name, "logit_scale"))
        values[0] = 2.6592601f; /* ln(1 / 0.07) */
    else
        md_draw(name, n, values, rng, vision || projects ? width : 0.02f);
}

/* ---- forward ------------------------------------------------------------------------------------------------------------- */

static tn_t embed_images(tn_ctx *cx, const void *p, const md_batch *b)
{
    const chinese_clip *m = p;
    tn_t hidden, pixels = tn_input(cx, b->pixel_values, false, 4, (long[]){b->images, b->channels, b->height, b->width});
    return tn_linear(cx, bl_vit_class(cx, &m->vision, pixels, b->want_hidden ? &hidden : NULL), &m->visual_projection);
}

static tn_t embed_texts(tn_ctx *cx, const void *p, const md_batch *b)
{
    const chinese_clip *m = p;
    bl_bert_view view = {.types = b->token_types, .key_mask = b->attention_mask};
    tn_t hidden, first = bl_bert_first(cx, &m->text, b->input_ids, b->texts, b->length, &view, b->want_hidden ? &hidden : NULL);
    return tn_linear(cx, first, &m->text_projection);
}

static tn_t pair_loss(tn_ctx *cx, const void *m, tn_t image_embeds, tn_t text_embeds, const md_batch *b)
{
    tn_t per_text = md_logits_per_text(cx, image_embeds, text_embeds, &((const chinese_clip *)m)->logit_scale);
    return md_with_partners(cx, md_info_nce(cx, per_text, tn_transpose(cx, per_text), b), image_embeds, b);
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    const chinese_clip *m = p;
    tn_t image_embeds = {0}, text_embeds = {0};
    if (b->images)
        md_emit(cx, out, image_embeds = tn_l2_normalize(cx, embed_images(cx, m, b)), "image_embeds");
    if (b->texts)
        md_emit(cx, out, text_embeds = tn_l2_normalize(cx, embed_texts(cx, m, b)), "text_embeds");
    if (!b->images || !b->texts)
        return;
    tn_t per_text = md_logits_per_text(cx, image_embeds, text_embeds, &m->logit_scale), per_image = tn_transpose(cx, per_text);
    md_emit(cx, out, per_image, "logits_per_image");
    md_emit(cx, out, per_text, "logits_per_text");
    if (b->want_loss)
        out->loss = md_info_nce(cx, per_text, per_image, b);
}

/* ---- batches ----------------------------------------------------------------------------------------------------------------- */

static int pool_position(const void *p, const int *ids, long n)
{
    (void)p, (void)ids, (void)n;
    return 0;
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const chinese_clip *m = p;
    return md_take_both(b, in, &m->vision, m->text.positions, pool_position, m, err);
}

static const tn_param *logit_scale(const void *p) { return &((const chinese_clip *)p)->logit_scale; }

static const char *const architectures[] = {"ChineseCLIPModel", NULL};

const md_family md_chinese_clip = {
    .model_type = "chinese_clip",
    .architectures = architectures,
    .can = MD_EMBEDS_IMAGES | MD_EMBEDS_TEXTS,
    .renamings = renamings,
    .create = create,
    .destroy = destroy,
    .visit = visit,
    .sizes = sizes,
    .prepare = prepare,
    .forward = forward,
    .embed_images = embed_images,
    .embed_texts = embed_texts,
    .pool_position = pool_position,
    .pair_loss = pair_loss,
    .logit_scale = logit_scale,
    .max_logit_scale = 4.6051702f, /* ln 100 */
    .init = init,
};
