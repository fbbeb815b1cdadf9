/* clip.c - CLIP (Radford 2021): two towers whose embeddings of matching pictures and texts point the same way.
 *
 *   pixels [B,3,S,S] -> patches -> + class token, positions -> pre_layrnorm -> N layers -> post_layernorm(class token)
 *                                                                               -> visual_projection -> image_embeds
 *   ids [B,T] -> token + position embeddings -> N causal layers -> final_layer_norm -> row of the end token
 *                                                                               -> text_projection -> text_embeds
 *   logits_per_image = exp(logit_scale) * normalised(image_embeds) normalised(text_embeds)^T
 *
 * Names and defaults are those of Hugging Face's CLIPModel. A tower alone (CLIPTextModel, CLIPVisionModel, with or without its projection) is
 * such a model without the other; open_clip's own layout is read by other names. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "matching.h"
#include "reading.h"

typedef struct clip_text {
    bl_layer_shape shape;
    int layers, positions, vocab, bos, eos, pad;
    tn_param token_embedding;    /* [vocab, width] */
    tn_param position_embedding; /* [positions, width] */
    bl_layer *layer;
    tn_norm_w final_layer_norm;
} clip_text;

typedef struct clip {
    clip_text text; /* layers 0: not there */
    bl_vit vision;  /* likewise */
    int projection_dim;
    bool projects;                 /* false: the pooled rows are the embeddings */
    tn_linear_w visual_projection; /* [projection, width], no bias */
    tn_linear_w text_projection;
    tn_param logit_scale; /* scalar */
} clip;

/* ---- configuration ------------------------------------------------------------------------------------------ */

static int read_text(const ck_config *c, clip_text *t, oc_err *err)
{
    t->shape = (bl_layer_shape){512, 2048, 8, KN_QUICK_GELU, 1e-5f};
    t->layers = 12;
    t->positions = 77;
    t->vocab = 49408;
    t->bos = 49406;
    t->eos = 49407;
    t->pad = 1;
    return md_read_shape(c, &t->shape, &t->layers, err) ||
           ck_int(c, "max_position_embeddings", &t->positions, 2, MD_LONGEST, err) ||
           ck_int(c, "vocab_size", &t->vocab, 2, MD_MOST_TOKENS, err) ||
           ck_int(c, "bos_token_id", &t->bos, 0, MD_MOST_TOKENS, err) ||
           ck_int(c, "eos_token_id", &t->eos, 0, MD_MOST_TOKENS, err) ||
           ck_int(c, "pad_token_id", &t->pad, 0, MD_MOST_TOKENS, err);
}

static int read_vision(const ck_config *c, bl_vit *v, oc_err *err)
{
    *v = (bl_vit){.shape = {768, 3072, 12, KN_QUICK_GELU, 1e-5f},
                  .layers = 12,
                  .image_size = 224,
                  .patch_size = 32,
                  .channels = 3,
                  .kind = BL_VIT_CLIP};
    return md_read_vit(c, v, err);
}

static void destroy(void *p)
{
    clip *m = p;
    if (m) {
        free(m->text.layer);
        free(m->vision.layer);
    }
    free(m);
}

/* Which towers there are is told by the architecture; their files are flat, without text_config or vision_config. */
static int read_config(const ck_config *c, clip *m, oc_err *err)
{
    const ck_config *text, *vision;
    const char *architecture = "CLIPModel";
    if (md_read_architecture(c, &architecture, err) || ck_int(c, "projection_dim", &m->projection_dim, 1, MD_WIDEST, err))
        return -1;
    bool both = !strcmp(architecture, "CLIPModel");
    m->projects = both || strstr(architecture, "WithProjection");
    if (!both)
        return strstr(architecture, "Text") ? read_text(c, &m->text, err) : read_vision(c, &m->vision, err);
    text = md_read_part(c, "text_config", err);
    vision = text ? md_read_part(c, "vision_config", err) : NULL;
    return !vision || read_text(text, &m->text, err) || read_vision(vision, &m->vision, err) ? -1 : 0;
}

/* Settings of open_clip that are not in `known` (ends with NULL) and do say something make another model. */
static int only_known(const ck_config *c, const char *const *known, oc_err *err)
{
    for (size_t i = 0; i < ck_config_size(c); i++) {
        const ck_config *value = ck_config_at(c, i);
        const char *key = ck_config_key(value);
        bool off = false;
        int k = 0;
        while (known[k] && strcmp(known[k], key) != 0)
            k++;
        if (known[k] || ck_config_kind(value) == CK_NULL)
            continue;
        if (ck_config_kind(value) != CK_TRUTH || ck_bool(c, key, &off, err) || off)
            return ck_config_wrong(c, key, err, "nothing: this variant of open_clip is not known");
    }
    return 0;
}

/* width, layers, heads (or the width of one) and mlp_ratio of a tower. */
static int read_open_tower(const ck_config *c, bl_layer_shape *s, int *layers, kn_act act, oc_err *err)
{
    int width = (int)s->width, head = 64, heads = 0;
    double ratio = 4;
    if (ck_int(c, "width", &width, 1, MD_WIDEST, err) || ck_int(c, "layers", layers, 1, MD_DEEPEST, err) ||
        ck_int(c, "heads", &heads, 1, MD_WIDEST, err) || ck_int(c, "head_width", &head, 1, MD_WIDEST, err) ||
        ck_double(c, "mlp_ratio", &ratio, 0.01, 64, err))
        return -1;
    heads = heads ? heads : width / head;
    if (heads < 1 || width % heads)
        return ck_config_wrong(c, "width", err, "a multiple of the heads");
    double hidden = (double)width * ratio;
    if (hidden < 1 || hidden > MD_WIDEST * 4)
        return ck_config_wrong(c, "mlp_ratio", err, "1 to %d numbers inside, width %d times this", MD_WIDEST * 4, width);
    *s = (bl_layer_shape){width, (int)hidden, heads, act, 1e-5f};
    return 0;
}

static int read_open_clip(const ck_config *c, clip *m, oc_err *err)
{
    static const char *const of_model[] = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", NULL};
    static const char *const of_vision[] = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", NULL};
    static const char *const of_text[] = {"context_length",    "vocab_size",       "width", "layers", "heads", "mlp_ratio",
                                          "hf_tokenizer_name", "tokenizer_kwargs", NULL};
    const ck_config *model = NULL, *vision = NULL, *text = NULL;
    bool quick = false;
    if (ck_object(c, "model_cfg", &model, err) || ck_config_need(model, "vision_cfg", "an object", err) ||
        ck_config_need(model, "text_cfg", "an object", err) || ck_object(model, "vision_cfg", &vision, err) ||
        ck_object(model, "text_cfg", &text, err) || only_known(model, of_model, err) || only_known(vision, of_vision, err) ||
        only_known(text, of_text, err) || ck_bool(model, "quick_gelu", &quick, err))
        return -1;
    clip_text *t = &m->text;
    bl_vit *v = &m->vision;
    if (read_text(text, t, err) || read_vision(vision, v, err)) /* the defaults, which are open_clip's too; and the patch */
        return -1;
    t->eos = 2; /* a text is pooled at its largest id */
    m->projects = true;
    return read_open_tower(text, &t->shape, &t->layers, quick ? KN_QUICK_GELU : KN_GELU, err) ||
                   read_open_tower(vision, &v->shape, &v->layers, quick ? KN_QUICK_GELU : KN_GELU, err) ||
                   ck_int(text, "context_length", &t->positions, 2, MD_LONGEST, err) ||
                   ck_int(model, "embed_dim", &m->projection_dim, 1, MD_WIDEST, err)
               ? -1
               : 0;
}

static void *create(const ck_config *c, oc_err *err)
{
    clip *m = calloc(1, sizeof *m);
    if (!m) {
        bs_err(err, "out of memory: a model");
        return NULL;
    }
    m->projection_dim = 512;
    if (ck_has(c, "model_cfg") ? read_open_clip(c, m, err) : read_config(c, m, err))
        goto failed;
    m->text.layer = calloc((size_t)m->text.layers + 1, sizeof *m->text.layer);
    m->vision.layer = calloc((size_t)m->vision.layers + 1, sizeof *m->vision.layer);
    if (m->text.layer && m->vision.layer)
        return m;
    bs_err(err, "out of memory: a model");
failed:
    destroy(m);
    return NULL;
}

static void sizes(const void *p, md_sizes *s)
{
    const clip *m = p;
    long width = m->text.layers ? m->text.shape.width : m->vision.shape.width;
    *s = (md_sizes){.image_size = m->vision.image_size,
                    .channels = m->vision.channels,
                    .max_tokens = m->text.positions,
                    .vocab = m->text.vocab,
                    .embedding = m->projects ? m->projection_dim : width,
                    .bos = m->text.bos,
                    .eos = m->text.eos,
                    .pad = m->text.pad};
}

/* ---- weights ------------------------------------------------------------------------------------------------- */

static void visit_text(clip_text *t, tn_visitor *v)
{
    tn_visit(v, &t->token_embedding, "text_model.embeddings.token_embedding.weight", 0, 2, t->vocab, t->shape.width, 0, 0);
    tn_visit(v, &t->position_embedding, "text_model.embeddings.position_embedding.weight", 0, 2, t->positions, t->shape.width, 0,
             0);
    bl_visit_layers(v, t->layer, t->layers, "text_model.encoder.layers.", &t->shape, false);
    tn_visit_norm(v, &t->final_layer_norm, "text_model.final_layer_norm", t->shape.width, true);
}

static bool has_both(const clip *m) { return m->text.layers && m->vision.layers; }

static void visit(void *p, tn_visitor *v)
{
    clip *m = p;
    if (has_both(m))
        tn_visit(v, &m->logit_scale, "logit_scale", TN_NO_DECAY, 0, 0, 0, 0, 0);
    if (m->text.layers)
        visit_text(&m->text, v);
    if (m->vision.layers)
        bl_visit_vit(v, &m->vision, "vision_model.");
    if (m->vision.layers && m->projects)
        tn_visit_linear(v, &m->visual_projection, "visual_projection", m->projection_dim, m->vision.shape.width, false);
    if (m->text.layers && m->projects)
        tn_visit_linear(v, &m->text_projection, "text_projection", m->projection_dim, m->text.shape.width, false);
}

/* transformers 5 writes a tower without a projection without its prefix. */
static const ck_renaming of_text_model[] = {
    {"embeddings.*.weight", "text_model.embeddings.*.weight", false},
    {"encoder.layers.*.*.*", "text_model.encoder.layers.*.*.*", false},
    {"encoder.layers.*.*.*.*", "text_model.encoder.layers.*.*.*.*", false},
    {"final_layer_norm.*", "text_model.final_layer_norm.*", false},
    {0},
};

static const ck_renaming of_vision_model[] = {
    {"embeddings.class_embedding", "vision_model.embeddings.class_embedding", false},
    {"embeddings.*.weight", "vision_model.embeddings.*.weight", false},
    {"encoder.layers.*.*.*", "vision_model.encoder.layers.*.*.*", false},
    {"encoder.layers.*.*.*.*", "vision_model.encoder.layers.*.*.*.*", false},
    {"pre_layrnorm.*", "vision_model.pre_layrnorm.*", false},
    {"post_layernorm.*", "vision_model.post_layernorm.*", false},
    {0},
};

/* The names of open_clip, which are those of OpenAI's code. */
static const ck_renaming of_open_clip[] = {
    {"token_embedding.weight", "text_model.embeddings.token_embedding.weight", false},
    {"positional_embedding", "text_model.embeddings.position_embedding.weight", false},
    {"transformer.resblocks.*.attn.in_proj_*", "text_model.encoder.layers.*.self_attn.%_proj.*", false},
    {"transformer.resblocks.*.attn.out_proj.*", "text_model.encoder.layers.*.self_attn.out_proj.*", false},
    {"transformer.resblocks.*.ln_1.*", "text_model.encoder.layers.*.layer_norm1.*", false},
    {"transformer.resblocks.*.ln_2.*", "text_model.encoder.layers.*.layer_norm2.*", false},
    {"transformer.resblocks.*.mlp.c_fc.*", "text_model.encoder.layers.*.mlp.fc1.*", false},
    {"transformer.resblocks.*.mlp.c_proj.*", "text_model.encoder.layers.*.mlp.fc2.*", false},
    {"ln_final.*", "text_model.final_layer_norm.*", false},
    {"text_projection", "text_projection.weight", true},
    {"visual.class_embedding", "vision_model.embeddings.class_embedding", false},
    {"visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight", false},
    {"visual.positional_embedding", "vision_model.embeddings.position_embedding.weight", false},
    {"visual.ln_pre.*", "vision_model.pre_layrnorm.*", false},
    {"visual.transformer.resblocks.*.attn.in_proj_*", "vision_model.encoder.layers.*.self_attn.%_proj.*", false},
    {"visual.transformer.resblocks.*.attn.out_proj.*", "vision_model.encoder.layers.*.self_attn.out_proj.*", false},
    {"visual.transformer.resblocks.*.ln_1.*", "vision_model.encoder.layers.*.layer_norm1.*", false},
    {"visual.transformer.resblocks.*.ln_2.*", "vision_model.encoder.layers.*.layer_norm2.*", false},
    {"visual.transformer.resblocks.*.mlp.c_fc.*", "vision_model.encoder.layers.*.mlp.fc1.*", false},
    {"visual.transformer.resblocks.*.mlp.c_proj.*", "vision_model.encoder.layers.*.mlp.fc2.*", false},
    {"visual.ln_post.*", "vision_model.post_layernorm.*", false},
    {"visual.proj", "visual_projection.weight", true},
    {0},
};

static const ck_renaming *renamings(const void *p)
{
    const clip *m = p;
    return has_both(m) ? of_open_clip : m->text.layers ? of_text_model : of_vision_model;
}

static bool ends(const char *name, const char *tail)
{
    size_t n = strlen(name), k = strlen(tail);
    return n >= k && !strcmp(name + n - k, tail);
}

/* Standard deviations of OpenAI's code (clip/model.py, initialize_parameters): what adds to the residual stream starts smaller the deeper the
 * tower is. The patch embedding is PyTorch's default for a convolution. */
static float deviation(const clip *m, const char *name)
{
    bool vision = !strncmp(name, "vision_model.", 13) || !strncmp(name, "visual_", 7);
    const bl_layer_shape *s = vision ? &m->vision.shape : &m->text.shape;
    float width = sqrtf(1 / (float)s->width), deep = sqrtf(0.5f / (float)(vision ? m->vision.layers : m->text.layers));
    if (ends(name, "token_embedding.weight"))
        return 0.02f;
    if (ends(name, "position_embedding.weight"))
        return vision ? width : 0.01f;
    if (ends(name, "out_proj.weight") || ends(name, "fc2.weight"))
        return width * deep;
    if (ends(name, "fc1.weight"))
        return width * sqrtf(0.5f);
    if (ends(name, "patch_embedding.weight"))
        return sqrtf(1 / (3.0f * (float)(m->vision.channels * m->vision.patch_size * m->vision.patch_size)));
    return width; /* q_proj, k_proj, v_proj, the projections, the class token */
}

static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    if (!strcmp(name, "logit_scale"))
        values[0] = 2.6592601f; /* ln(1 / 0.07) */
    else
        md_draw(name, n, values, rng, deviation(p, name));
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

typedef struct tower {
    tn_t hidden; /* last_hidden_state [B, T, width], if it is wanted */
    tn_t pooled; /* the class token's or the end token's row, normed [B, width] */
} tower;

static tower vision_model(tn_ctx *cx, const bl_vit *s, const md_batch *b)
{
    tn_t pixels = tn_input(cx, b->pixel_values, false, 4, (long[]){b->images, b->channels, b->height, b->width});
    tower y = {0};
    y.pooled = bl_vit_class(cx, s, pixels, b->want_hidden ? &y.hidden : NULL);
    return y;
}

static tower text_model(tn_ctx *cx, const clip_text *t, const md_batch *b)
{
    tn_t x = tn_embedding(cx, &t->token_embedding, b->input_ids, b->texts, b->length);
    x = tn_add_positions(cx, x, &t->position_embedding);
    if (!b->want_hidden) { /* the norm works on rows: the pooled ones are enough */
        x = bl_layers_pooled(cx, t->layer, t->layers, x, &t->shape, true, b->attention_mask, b->pool);
        return (tower){.pooled = tn_layer_norm(cx, x, &t->final_layer_norm, t->shape.eps)};
    }
    x = bl_layers(cx, t->layer, t->layers, x, &t->shape, true, b->attention_mask);
    x = tn_layer_norm(cx, x, &t->final_layer_norm, t->shape.eps);
    return (tower){x, tn_select(cx, x, b->pool)};
}

static tn_t embed_images(tn_ctx *cx, const void *p, const md_batch *b)
{
    const clip *m = p;
    tn_t pooled = vision_model(cx, &m->vision, b).pooled;
    return m->projects ? tn_linear(cx, pooled, &m->visual_projection) : pooled;
}

static tn_t embed_texts(tn_ctx *cx, const void *p, const md_batch *b)
{
    const clip *m = p;
    tn_t pooled = text_model(cx, &m->text, b).pooled;
    return m->projects ? tn_linear(cx, pooled, &m->text_projection) : pooled;
}

static tn_t pair_loss(tn_ctx *cx, const void *m, tn_t image_embeds, tn_t text_embeds, const md_batch *b)
{
    tn_t per_text = md_logits_per_text(cx, image_embeds, text_embeds, &((const clip *)m)->logit_scale);
    return md_with_partners(cx, md_info_nce(cx, per_text, tn_transpose(cx, per_text), b), image_embeds, b);
}

/* Since transformers 5 the pooler_output inside CLIPModel's output is the projected row. */
static tn_t finish_tower(tn_ctx *cx, md_outputs *out, const char *name, tower t, const tn_linear_w *projection)
{
    tn_t projected = tn_linear(cx, t.pooled, projection), embeds = tn_l2_normalize(cx, projected);
    if (t.hidden.rank)
        md_emit(cx, out, t.hidden, "%s_model_output.last_hidden_state", name);
    md_emit(cx, out, projected, "%s_model_output.pooler_output", name);
    md_emit(cx, out, embeds, "%s_embeds", strcmp(name, "vision") ? "text" : "image");
    return embeds;
}

/* A tower alone gives its rows as they are, not of length 1. */
static void finish_alone(tn_ctx *cx, const clip *m, md_outputs *out, const char *name, tower t, const tn_linear_w *projection)
{
    if (t.hidden.rank)
        md_emit(cx, out, t.hidden, "last_hidden_state");
    if (m->projects)
        md_emit(cx, out, tn_linear(cx, t.pooled, projection), "%s_embeds", name);
    else
        md_emit(cx, out, t.pooled, "pooler_output");
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    const clip *m = p;
    if (!m->vision.layers)
        finish_alone(cx, m, out, "text", text_model(cx, &m->text, b), &m->text_projection);
    else if (!m->text.layers)
        finish_alone(cx, m, out, "image", vision_model(cx, &m->vision, b), &m->visual_projection);
    if (!has_both(m))
        return;
    tn_t image_embeds = {0}, text_embeds = {0};
    if (b->images)
        image_embeds = finish_tower(cx, out, "vision", vision_model(cx, &m->vision, b), &m->visual_projection);
    if (b->texts)
        text_embeds = finish_tower(cx, out, "text", text_model(cx, &m->text, b), &m->text_projection);
    if (!b->images || !b->texts)
        return;
    tn_t per_text = md_logits_per_text(cx, image_embeds, text_embeds, &m->logit_scale), per_image = tn_transpose(cx, per_text);
    md_emit(cx, out, per_image, "logits_per_image");
    md_emit(cx, out, per_text, "logits_per_text");
    if (b->want_loss && b->images == b->texts)
        out->loss = md_info_nce(cx, per_text, per_image, b);
}

/* ---- batches --------------------------------------------------------------------------------------------------- */

/* Hugging Face's rule: configs written before 2023 say eos_token_id 2, which is wrong, and the largest id is meant;
 * otherwise it is the first end token (and the first position where there is none). */
static int pool_position(const void *p, const int *ids, long n)
{
    const clip_text *t = &((const clip *)p)->text;
    int at = 0;
    for (int i = 0; i < n; i++) {
        if (t->eos == 2 && ids[i] > ids[at])
            at = i;
        if (t->eos != 2 && ids[i] == t->eos)
            return i;
    }
    return at;
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const clip *m = p;
    return md_take_both(b, in, m->vision.layers ? &m->vision : NULL, m->text.layers ? m->text.positions : 0, pool_position, m,
                        err);
}

static const tn_param *logit_scale(const void *p) { return has_both(p) ? &((const clip *)p)->logit_scale : NULL; }

static const char *const architectures[] = {
    "CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel", "CLIPVisionModelWithProjection", NULL};

const md_family md_clip = {
    .model_type = "clip",
    .architectures = architectures,
    .can = MD_EMBEDS_IMAGES | MD_EMBEDS_TEXTS,
    .original = "model_cfg",
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
    .lora_targets = "q_proj,k_proj,v_proj,out_proj,fc1,fc2",
    .init = init,
};
