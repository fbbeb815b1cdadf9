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

#include "../block/transformer.h"
#include "model.h"

typedef struct clip_text {
    bl_layer_shape shape;
    int layers, positions, vocab, bos, eos, pad;
    tn_param token_embedding;    /* [vocab, width] */
    tn_param position_embedding; /* [positions, width] */
    bl_layer *layer;
    tn_norm_w final_layer_norm;
} clip_text;

typedef struct clip_vision {
    bl_layer_shape shape;
    int layers, image_size, patch_size, channels;
    tn_param class_embedding;    /* [width] */
    tn_linear_w patch_embedding; /* [width, channels, patch, patch], no bias */
    tn_param position_embedding; /* [1 + patches, width] */
    tn_norm_w pre_layrnorm;      /* the checkpoints' own spelling */
    bl_layer *layer;
    tn_norm_w post_layernorm;
} clip_vision;

typedef struct clip {
    clip_text text;     /* layers 0: not there */
    clip_vision vision; /* likewise */
    int projection_dim;
    bool projects;                 /* false: the pooled rows are the embeddings */
    tn_linear_w visual_projection; /* [projection, width], no bias */
    tn_linear_w text_projection;
    tn_param logit_scale; /* scalar */
} clip;

/* ---- configuration ------------------------------------------------------------------------------------------ */

enum { WIDEST = 65536, DEEPEST = 1024 };

static int read_shape(const ck_config *c, bl_layer_shape *s, int *layers, oc_err *err)
{
    int width = (int)s->width, hidden = (int)s->hidden, heads = (int)s->heads;
    const char *act = "quick_gelu";
    if (ck_int(c, "hidden_size", &width, 1, WIDEST, err) || ck_int(c, "intermediate_size", &hidden, 1, WIDEST * 4, err) ||
        ck_int(c, "num_attention_heads", &heads, 1, WIDEST, err) || ck_int(c, "num_hidden_layers", layers, 1, DEEPEST, err) ||
        ck_float(c, "layer_norm_eps", &s->eps, 0, 1, err) || ck_string(c, "hidden_act", &act, err))
        return -1;
    if (width % heads)
        return ck_config_wrong(c, "num_attention_heads", err, "a divisor of hidden_size %d", width);
    if (!bl_activation(act, &s->act))
        return ck_config_wrong(c, "hidden_act", err, "gelu, quick_gelu or another known activation");
    s->width = width;
    s->hidden = hidden;
    s->heads = heads;
    return 0;
}

static int read_text(const ck_config *c, clip_text *t, oc_err *err)
{
    t->shape = (bl_layer_shape){512, 2048, 8, KN_QUICK_GELU, 1e-5f};
    t->layers = 12;
    t->positions = 77;
    t->vocab = 49408;
    t->bos = 49406;
    t->eos = 49407;
    t->pad = 1;
    return read_shape(c, &t->shape, &t->layers, err) || ck_int(c, "max_position_embeddings", &t->positions, 2, 1 << 20, err) ||
           ck_int(c, "vocab_size", &t->vocab, 2, 1 << 26, err) || ck_int(c, "bos_token_id", &t->bos, 0, 1 << 26, err) ||
           ck_int(c, "eos_token_id", &t->eos, 0, 1 << 26, err) || ck_int(c, "pad_token_id", &t->pad, 0, 1 << 26, err);
}

static int read_vision(const ck_config *c, clip_vision *v, oc_err *err)
{
    v->shape = (bl_layer_shape){768, 3072, 12, KN_QUICK_GELU, 1e-5f};
    v->layers = 12;
    v->image_size = 224;
    v->patch_size = 32;
    v->channels = 3;
    if (read_shape(c, &v->shape, &v->layers, err) || ck_int(c, "image_size", &v->image_size, 1, 8192, err) ||
        ck_int(c, "patch_size", &v->patch_size, 1, 8192, err) || ck_int(c, "num_channels", &v->channels, 3, 3, err))
        return -1;
    if (v->patch_size > v->image_size)
        return ck_config_wrong(c, "patch_size", err, "at most image_size %d", v->image_size);
    return 0;
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

/* Old files keep the true values in text_config_dict and vision_config_dict, which then win. */
static const ck_config *part(const ck_config *c, const char *name, const char *legacy, oc_err *err)
{
    const ck_config *sub = NULL;
    if (ck_object(c, legacy, &sub, err) || (!sub && ck_object(c, name, &sub, err)))
        return NULL;
    return sub ? sub : c; /* neither: every value takes its default unless the root has it */
}

/* Which towers there are is told by the architecture; their files are flat, without text_config or vision_config. */
static int read_config(const ck_config *c, clip *m, oc_err *err)
{
    const ck_config *list = NULL, *text, *vision;
    const char *architecture = "CLIPModel";
    if (ck_array(c, "architectures", &list, err) ||
        (list && ck_config_size(list) && ck_string(ck_config_at(list, 0), NULL, &architecture, err)) ||
        ck_int(c, "projection_dim", &m->projection_dim, 1, WIDEST, err))
        return -1;
    bool both = !strcmp(architecture, "CLIPModel");
    m->projects = both || strstr(architecture, "WithProjection");
    if (!both)
        return strstr(architecture, "Text") ? read_text(c, &m->text, err) : read_vision(c, &m->vision, err);
    text = part(c, "text_config", "text_config_dict", err);
    vision = text ? part(c, "vision_config", "vision_config_dict", err) : NULL;
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
    if (ck_int(c, "width", &width, 1, WIDEST, err) || ck_int(c, "layers", layers, 1, DEEPEST, err) ||
        ck_int(c, "heads", &heads, 1, WIDEST, err) || ck_int(c, "head_width", &head, 1, WIDEST, err) ||
        ck_double(c, "mlp_ratio", &ratio, 0.01, 64, err))
        return -1;
    heads = heads ? heads : width / head;
    if (heads < 1 || width % heads)
        return ck_config_wrong(c, "width", err, "a multiple of the heads");
    double hidden = (double)width * ratio;
    if (hidden < 1 || hidden > WIDEST * 4)
        return ck_config_wrong(c, "mlp_ratio", err, "1 to %d numbers inside, width %d times this", WIDEST * 4, width);
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
    clip_vision *v = &m->vision;
    if (read_text(text, t, err) || read_vision(vision, v, err)) /* the defaults, which are open_clip's too; and the patch */
        return -1;
    t->eos = 2; /* a text is pooled at its largest id */
    m->projects = true;
    return read_open_tower(text, &t->shape, &t->layers, quick ? KN_QUICK_GELU : KN_GELU, err) ||
                   read_open_tower(vision, &v->shape, &v->layers, quick ? KN_QUICK_GELU : KN_GELU, err) ||
                   ck_int(text, "context_length", &t->positions, 2, 1 << 20, err) ||
                   ck_int(model, "embed_dim", &m->projection_dim, 1, WIDEST, err)
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
    bl_visit_layers(v, t->layer, t->layers, "text_model.encoder.layers.", &t->shape);
    tn_visit_norm(v, &t->final_layer_norm, "text_model.final_layer_norm", t->shape.width, true);
}

static void visit_vision(clip_vision *s, tn_visitor *v)
{
    long side = s->image_size / s->patch_size;
    tn_visit(v, &s->class_embedding, "vision_model.embeddings.class_embedding", 0, 1, s->shape.width, 0, 0, 0);
    tn_visit(v, &s->patch_embedding.weight, "vision_model.embeddings.patch_embedding.weight", TN_KERNEL, 4, s->shape.width,
             s->channels, s->patch_size, s->patch_size);
    s->patch_embedding.bias.id = -1;
    tn_visit(v, &s->position_embedding, "vision_model.embeddings.position_embedding.weight", 0, 2, side * side + 1,
             s->shape.width, 0, 0);
    tn_visit_norm(v, &s->pre_layrnorm, "vision_model.pre_layrnorm", s->shape.width, true);
    bl_visit_layers(v, s->layer, s->layers, "vision_model.encoder.layers.", &s->shape);
    tn_visit_norm(v, &s->post_layernorm, "vision_model.post_layernorm", s->shape.width, true);
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
        visit_vision(&m->vision, v);
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
    bool gain = strstr(name, "norm") && ends(name, ".weight"), bias = ends(name, ".bias");
    float constant = !strcmp(name, "logit_scale") ? 2.6592601f : gain ? 1 : 0; /* ln(1 / 0.07) */
    bool drawn = !gain && !bias && strcmp(name, "logit_scale") != 0;
    float s = drawn ? deviation(p, name) : 0;
    for (long i = 0; i < n; i++)
        values[i] = drawn ? s * bs_rng_normal(rng) : constant;
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

typedef struct tower {
    tn_t hidden; /* last_hidden_state [B, T, width], if it is wanted */
    tn_t pooled; /* the class token's or the end token's row, normed [B, width] */
} tower;

static tower vision_model(tn_ctx *cx, const clip_vision *s, const md_batch *b)
{
    tn_t pixels = tn_input(cx, b->pixel_values, false, 4, (long[]){b->images, b->channels, b->height, b->width});
    tn_t x = tn_conv2d(cx, pixels, &s->patch_embedding, s->patch_size);
    x = tn_reshape(cx, x, 3, (long[]){b->images, x.shape[1] * x.shape[2], s->shape.width});
    x = tn_prepend(cx, &s->class_embedding, x);
    x = tn_add_positions(cx, x, &s->position_embedding);
    x = tn_layer_norm(cx, x, &s->pre_layrnorm, s->shape.eps);
    tower y = {0};
    if (b->want_hidden) {
        y.hidden = bl_layers(cx, s->layer, s->layers, x, &s->shape, false, NULL);
        y.pooled = tn_select(cx, y.hidden, NULL);
    } else {
        y.pooled = bl_layers_pooled(cx, s->layer, s->layers, x, &s->shape, false, NULL, NULL);
    }
    y.pooled = tn_layer_norm(cx, y.pooled, &s->post_layernorm, s->shape.eps);
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

static tn_t logits_per_text(tn_ctx *cx, const clip *m, tn_t image_embeds, tn_t text_embeds)
{
    return tn_scale_exp(cx, tn_matmul_nt(cx, text_embeds, image_embeds), &m->logit_scale);
}

/* The symmetric InfoNCE loss: each text must find its picture among all, and each picture its text. */
static tn_t loss_of_logits(tn_ctx *cx, tn_t per_text, tn_t per_image, const md_batch *b)
{
    if (b->text_target)
        return tn_sum2(cx, tn_soft_cross_entropy(cx, per_text, b->text_target, false), 0.5f,
                       tn_soft_cross_entropy(cx, per_image, b->image_target, false), 0.5f);
    return tn_sum2(cx, tn_cross_entropy(cx, per_text, b->target, 0), 0.5f, tn_cross_entropy(cx, per_image, b->target, 0), 0.5f);
}

/* Pictures of one meaning find each other (supervised contrastive learning, Khosla 2020), at a temperature of 0.1. */
static tn_t partner_loss(tn_ctx *cx, tn_t image_embeds, const md_batch *b)
{
    tn_t similar = tn_scale(cx, tn_matmul_nt(cx, image_embeds, image_embeds), 10);
    return tn_soft_cross_entropy(cx, similar, b->partner_target, true);
}

static tn_t pair_loss(tn_ctx *cx, const void *m, tn_t image_embeds, tn_t text_embeds, const md_batch *b)
{
    tn_t per_text = logits_per_text(cx, m, image_embeds, text_embeds);
    tn_t loss = loss_of_logits(cx, per_text, tn_transpose(cx, per_text), b);
    return b->partner_weight > 0 ? tn_sum2(cx, loss, 1, partner_loss(cx, image_embeds, b), b->partner_weight) : loss;
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
    tn_t per_text = logits_per_text(cx, m, image_embeds, text_embeds), per_image = tn_transpose(cx, per_text);
    md_emit(cx, out, per_image, "logits_per_image");
    md_emit(cx, out, per_text, "logits_per_text");
    if (b->want_loss && b->images == b->texts)
        out->loss = loss_of_logits(cx, per_text, per_image, b);
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

static int prepare_texts(const clip *m, const md_value *ids, const md_value *mask, md_batch *b, oc_err *err)
{
    if (!ids->is_int || ids->rank != 2 || ids->shape[1] < 1 || ids->shape[1] > m->text.positions)
        return bs_err(err, "input_ids: expected integers [B,T] with T from 1 to %d", m->text.positions);
    if (mask && (!mask->is_int || mask->rank != 2 || mask->shape[0] != ids->shape[0] || mask->shape[1] != ids->shape[1]))
        return bs_err(err, "attention_mask: expected integers of input_ids' shape [%ld,%ld]", ids->shape[0], ids->shape[1]);
    b->texts = ids->shape[0];
    b->length = ids->shape[1];
    b->input_ids = malloc((size_t)ids->count * sizeof *b->input_ids);
    b->pool = malloc((size_t)b->texts * sizeof *b->pool);
    b->attention_mask = mask ? malloc((size_t)ids->count) : NULL;
    if (!b->input_ids || !b->pool || (mask && !b->attention_mask))
        return bs_err(err, "out of memory: a batch");
    memcpy(b->input_ids, ids->i, (size_t)ids->count * sizeof *b->input_ids);
    for (long i = 0; i < b->texts; i++)
        b->pool[i] = pool_position(m, ids->i + i * b->length, b->length);
    for (long i = 0; mask && i < ids->count; i++)
        b->attention_mask[i] = mask->i[i] != 0;
    return 0;
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const clip *m = p;
    const md_value *px = md_values_find(in, "pixel_values"), *ids = md_values_find(in, "input_ids");
    long side = m->vision.image_size;
    px = m->vision.layers ? px : NULL;
    ids = m->text.layers ? ids : NULL;
    if (!px && !ids)
        return bs_err(err, "nothing to run: expected %s%s%s", m->vision.layers ? "pixel_values" : "",
                      has_both(m) ? ", input_ids or both" : "", m->vision.layers ? "" : "input_ids");
    if (b->want_loss && !has_both(m))
        return bs_err(err, "a tower alone has no loss");
    if (px && (px->is_int || px->rank != 4 || px->shape[1] != m->vision.channels || px->shape[2] != side || px->shape[3] != side))
        return bs_err(err, "pixel_values: expected floats [B,%d,%ld,%ld]", m->vision.channels, side, side);
    if (px) {
        b->images = px->shape[0];
        b->channels = px->shape[1];
        b->height = b->width = side;
        b->pixel_values = px->f;
    }
    if (ids && prepare_texts(m, ids, md_values_find(in, "attention_mask"), b, err))
        return -1;
    if (b->want_loss && b->images != b->texts)
        return bs_err(err, "the loss needs pairs: there are %ld pictures and %ld texts", b->images, b->texts);
    b->target = malloc((size_t)(b->texts + 1) * sizeof *b->target);
    if (!b->target)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < b->texts; i++)
        b->target[i] = (int)i;
    return 0;
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
    .init = init,
};
