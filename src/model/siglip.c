/* siglip.c - SigLIP (Zhai 2023): two towers, trained to tell of every single pair whether it belongs together.
 *
 *   pixels [B,3,S,S] -> patches + positions -> N layers -> post_layernorm -> head: a learned probe attends to all rows, + mlp -> image_embeds
 *   ids [B,T] (always filled up to T) -> token + position embeddings -> N layers -> final_layer_norm -> last row -> head -> text_embeds
 *   logits_per_image = exp(logit_scale) * normalised(image_embeds) normalised(text_embeds)^T + logit_bias, each a sigmoid's argument
 *
 * Names and defaults are those of Hugging Face's SiglipModel; the towers alone are SiglipTextModel and SiglipVisionModel. SigLIP 2 of fixed
 * resolution (Tschannen 2025) is the same model with other weights and another tokenizer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "matching.h"
#include "reading.h"

/* torch.nn.MultiheadAttention with a query that is learned (Lee 2019), then x + mlp(norm(x)). */
typedef struct siglip_head {
    tn_param probe;       /* [1, 1, width] */
    tn_linear_w in_proj;  /* [3 width, width]: q, k and v one below the other */
    tn_linear_w out_proj; /* [width, width] */
    tn_norm_w layernorm;
    bl_mlp mlp;
} siglip_head;

typedef struct siglip_text {
    bl_layer_shape shape;
    int layers, positions, vocab, bos, eos, pad, projection;
    tn_param token_embedding;    /* [vocab, width] */
    tn_param position_embedding; /* [positions, width] */
    bl_layer *layer;
    tn_norm_w final_layer_norm;
    tn_linear_w head; /* [projection, width] */
} siglip_text;

typedef struct siglip {
    siglip_text text;                 /* layers 0: not there */
    bl_vit vision;                    /* likewise */
    siglip_head head;                 /* of the vision tower */
    tn_param logit_scale, logit_bias; /* scalars */
} siglip;

static bool has_both(const siglip *m) { return m->text.layers && m->vision.layers; }

/* ---- configuration -------------------------------------------------------------------------------------------------- */

static int read_text(const ck_config *c, siglip_text *t, oc_err *err)
{
    *t = (siglip_text){.shape = {768, 3072, 12, KN_GELU_TANH, 1e-6f},
                       .layers = 12,
                       .positions = 64,
                       .vocab = 32000,
                       .bos = 49406,
                       .eos = 49407,
                       .pad = 1};
    if (md_read_shape(c, &t->shape, &t->layers, err) || ck_int(c, "max_position_embeddings", &t->positions, 1, MD_LONGEST, err) ||
        ck_int(c, "vocab_size", &t->vocab, 2, MD_MOST_TOKENS, err) ||
        ck_int(c, "bos_token_id", &t->bos, 0, MD_MOST_TOKENS, err) ||
        ck_int(c, "eos_token_id", &t->eos, 0, MD_MOST_TOKENS, err) || ck_int(c, "pad_token_id", &t->pad, 0, MD_MOST_TOKENS, err))
        return -1;
    t->projection = (int)t->shape.width;
    if (t->pad >= t->vocab)
        return ck_config_wrong(c, "pad_token_id", err, "an id below vocab_size %d: every text is filled up with it", t->vocab);
    return ck_int(c, "projection_size", &t->projection, 1, MD_WIDEST, err);
}

static int read_vision(const ck_config *c, bl_vit *v, oc_err *err)
{
    bool head = true;
    *v =
        (bl_vit){.kind = BL_VIT_SIGLIP, .shape = {768, 3072, 12, KN_GELU_TANH, 1e-6f}, .layers = 12, .image_size = 224, .patch_size = 16, .channels = 3};
    if (md_read_vit(c, v, err) || ck_bool(c, "vision_use_head", &head, err))
        return -1;
    return head ? 0 : ck_config_wrong(c, "vision_use_head", err, "true: without its head the tower gives no embedding");
}

static int read_config(const ck_config *c, siglip *m, oc_err *err)
{
    const char *architecture = "SiglipModel";
    if (md_read_architecture(c, &architecture, err))
        return -1;
    bool text = strcmp(architecture, "SiglipVisionModel") != 0, vision = strcmp(architecture, "SiglipTextModel") != 0;
    const ck_config *of_text = text ? md_read_part(c, "text_config", err) : c,
                    *of_vision = of_text && vision ? md_read_part(c, "vision_config", err) : c;
    if (!of_text || !of_vision || (text && read_text(of_text, &m->text, err)) ||
        (vision && read_vision(of_vision, &m->vision, err)))
        return -1;
    if (text && vision && m->text.projection != m->vision.shape.width)
        return ck_config_wrong(of_text, "projection_size", err, "the vision tower's hidden_size %ld", m->vision.shape.width);
    return 0;
}

static void destroy(void *p)
{
    siglip *m = p;
    if (m) {
        free(m->text.layer);
        free(m->vision.layer);
    }
    free(m);
}

static void *create(const ck_config *c, oc_err *err)
{
    siglip *m = calloc(1, sizeof *m);
    if (!m || read_config(c, m, err))
        goto failed;
    m->text.layer = calloc((size_t)m->text.layers + 1, sizeof *m->text.layer);
    m->vision.layer = calloc((size_t)m->vision.layers + 1, sizeof *m->vision.layer);
    if (m->text.layer && m->vision.layer)
        return m;
failed:
    bs_err(err, "out of memory: a model"); /* unless something was said already */
    destroy(m);
    return NULL;
}

static void sizes(const void *p, md_sizes *s)
{
    const siglip *m = p;
    *s = (md_sizes){.image_size = m->vision.image_size,
                    .channels = m->vision.channels,
                    .max_tokens = m->text.positions,
                    .vocab = m->text.vocab,
                    .embedding = m->vision.layers ? m->vision.shape.width : m->text.projection,
                    .bos = m->text.bos,
                    .eos = m->text.eos,
                    .pad = m->text.pad,
                    .padding = MD_PADDING_READ};
}

/* ---- weights ----------------------------------------------------------------------------------------------------------- */

static void visit_text(siglip_text *t, tn_visitor *v)
{
    size_t mark = tn_enter(v, "text_model.");
    tn_visit(v, &t->token_embedding, "embeddings.token_embedding.weight", 0, 2, t->vocab, t->shape.width, 0, 0);
    tn_visit(v, &t->position_embedding, "embeddings.position_embedding.weight", 0, 2, t->positions, t->shape.width, 0, 0);
    bl_visit_layers(v, t->layer, t->layers, "encoder.layers.", &t->shape, false);
    tn_visit_norm(v, &t->final_layer_norm, "final_layer_norm", t->shape.width, true);
    tn_visit_linear(v, &t->head, "head", t->projection, t->shape.width, true);
    tn_leave(v, mark);
}

/* The probe attends by a torch.nn.MultiheadAttention, which no adapter reaches. */
static void visit_head(siglip_head *h, tn_visitor *v, const bl_layer_shape *s)
{
    size_t mark = tn_enter(v, "vision_model.head.");
    tn_visit(v, &h->probe, "probe", TN_NO_DECAY, 3, 1, 1, s->width, 0);
    tn_visit(v, &h->in_proj.weight, "attention.in_proj_weight", TN_KERNEL, 2, 3 * s->width, s->width, 0, 0);
    tn_visit(v, &h->in_proj.bias, "attention.in_proj_bias", TN_NO_DECAY, 1, 3 * s->width, 0, 0, 0);
    tn_visit(v, &h->out_proj.weight, "attention.out_proj.weight", TN_KERNEL | TN_UNADAPTED, 2, s->width, s->width, 0, 0);
    tn_visit(v, &h->out_proj.bias, "attention.out_proj.bias", TN_NO_DECAY, 1, s->width, 0, 0, 0);
    tn_visit_norm(v, &h->layernorm, "layernorm", s->width, true);
    bl_visit_mlp(v, &h->mlp, "mlp.", s->width, s->hidden);
    tn_leave(v, mark);
}

static void visit(void *p, tn_visitor *v)
{
    siglip *m = p;
    if (has_both(m)) {
        tn_visit(v, &m->logit_scale, "logit_scale", TN_NO_DECAY, 1, 1, 0, 0, 0);
        tn_visit(v, &m->logit_bias, "logit_bias", TN_NO_DECAY, 1, 1, 0, 0, 0);
    }
    if (m->text.layers)
        visit_text(&m->text, v);
    if (m->vision.layers) {
        bl_visit_vit(v, &m->vision, "vision_model.");
        visit_head(&m->head, v, &m->vision.shape);
    }
}

/* transformers 5 writes a tower alone without its prefix. */
static const ck_renaming of_text_model[] = {
    {"embeddings.**", "text_model.embeddings.**", false},
    {"encoder.**", "text_model.encoder.**", false},
    {"final_layer_norm.*", "text_model.final_layer_norm.*", false},
    {"head.*", "text_model.head.*", false},
    {0},
};

static const ck_renaming of_vision_model[] = {
    {"embeddings.**", "vision_model.embeddings.**", false},
    {"encoder.**", "vision_model.encoder.**", false},
    {"post_layernorm.*", "vision_model.post_layernorm.*", false},
    {"head.**", "vision_model.head.**", false},
    {0},
};

static const ck_renaming of_both[] = {{0}};

static const ck_renaming *renamings(const void *p)
{
    const siglip *m = p;
    return has_both(m) ? of_both : m->text.layers ? of_text_model : of_vision_model;
}

/* The paper's temperature and bias: at first nothing belongs together, as is true of nearly all pairs of a batch. The towers' weights are drawn as
 * CLIP's are but for their depth: Xavier's deviation of a square matrix. */
static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    const siglip *m = p;
    const bl_layer_shape *s = strncmp(name, "vision_model.", 13) ? &m->text.shape : &m->vision.shape;
    if (!strcmp(name, "logit_scale"))
        values[0] = 2.3025851f; /* ln 10 */
    else if (!strcmp(name, "logit_bias"))
        values[0] = -10;
    else
        md_draw(name, n, values, rng, strstr(name, "embeddings.") ? 0.02f : sqrtf(1 / (float)s->width));
}

/* ---- forward ------------------------------------------------------------------------------------------------------------- */

typedef struct tower {
    tn_t hidden; /* last_hidden_state [B, T, width], normed, if it is wanted */
    tn_t embeds; /* [B, projection] */
} tower;

/* x [B, T, width] -> [B, width] */
static tn_t attention_pool(tn_ctx *cx, const siglip_head *h, tn_t x, const bl_layer_shape *s)
{
    long d = s->width;
    tn_t probe = tn_linear(cx, tn_repeat(cx, &h->probe, x.shape[0]), &h->in_proj), all = tn_linear(cx, x, &h->in_proj);
    tn_t y = tn_attention(cx, tn_columns(cx, probe, 0, d), tn_columns(cx, all, d, d), tn_columns(cx, all, 2 * d, d),
                          &(tn_attention_args){.heads = s->heads});
    y = tn_reshape(cx, tn_linear(cx, y, &h->out_proj), 2, (long[]){x.shape[0], d});
    return bl_feed_forward(cx, &h->mlp, tn_layer_norm(cx, y, &h->layernorm, s->eps), s->act, y);
}

static tower vision_model(tn_ctx *cx, const siglip *m, const md_batch *b)
{
    const bl_vit *v = &m->vision;
    tn_t pixels = tn_input(cx, b->pixel_values, false, 4, (long[]){b->images, b->channels, b->height, b->width});
    tn_t rows = tn_layer_norm(cx, bl_vit_rows(cx, v, pixels), &v->post_layernorm, v->shape.eps);
    return (tower){b->want_hidden ? rows : (tn_t){0}, attention_pool(cx, &m->head, rows, &v->shape)};
}

/* Nothing is hidden: the model learned with texts that are filled up. */
static tower text_model(tn_ctx *cx, const siglip_text *t, const md_batch *b)
{
    tn_t x = tn_embedding(cx, &t->token_embedding, b->input_ids, b->texts, b->length);
    x = tn_add_positions(cx, x, &t->position_embedding);
    tower y = {0};
    if (b->want_hidden) {
        x = bl_layers(cx, t->layer, t->layers, x, &t->shape, false, NULL);
        y.hidden = tn_layer_norm(cx, x, &t->final_layer_norm, t->shape.eps);
        x = tn_select(cx, y.hidden, b->pool);
    } else {
        x = bl_layers_pooled(cx, t->layer, t->layers, x, &t->shape, false, NULL, b->pool);
        x = tn_layer_norm(cx, x, &t->final_layer_norm, t->shape.eps);
    }
    y.embeds = tn_linear(cx, x, &t->head);
    return y;
}

static tn_t embed_images(tn_ctx *cx, const void *m, const md_batch *b) { return vision_model(cx, m, b).embeds; }

static tn_t embed_texts(tn_ctx *cx, const void *m, const md_batch *b)
{
    return text_model(cx, &((const siglip *)m)->text, b).embeds;
}

static tn_t logits_per_text(tn_ctx *cx, const siglip *m, tn_t image_embeds, tn_t text_embeds)
{
    return tn_add_param(cx, md_logits_per_text(cx, image_embeds, text_embeds, &m->logit_scale), &m->logit_bias);
}

static tn_t pair_loss(tn_ctx *cx, const void *m, tn_t image_embeds, tn_t text_embeds, const md_batch *b)
{
    tn_t logits = logits_per_text(cx, m, image_embeds, text_embeds);
    return md_with_partners(cx, tn_sigmoid_cross_entropy(cx, logits, b->text_target), image_embeds, b);
}

static tn_t finish_tower(tn_ctx *cx, md_outputs *out, const char *name, const char *what, tower t)
{
    tn_t embeds = tn_l2_normalize(cx, t.embeds);
    if (t.hidden.rank)
        md_emit(cx, out, t.hidden, "%s_model_output.last_hidden_state", name);
    md_emit(cx, out, t.embeds, "%s_model_output.pooler_output", name);
    md_emit(cx, out, embeds, "%s_embeds", what);
    return embeds;
}

static void finish_alone(tn_ctx *cx, md_outputs *out, tower t)
{
    if (t.hidden.rank)
        md_emit(cx, out, t.hidden, "last_hidden_state");
    md_emit(cx, out, t.embeds, "pooler_output");
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    const siglip *m = p;
    tn_t image_embeds = {0}, text_embeds = {0};
    if (!has_both(m)) {
        finish_alone(cx, out, m->text.layers ? text_model(cx, &m->text, b) : vision_model(cx, m, b));
        return;
    }
    if (b->images)
        image_embeds = finish_tower(cx, out, "vision", "image", vision_model(cx, m, b));
    if (b->texts)
        text_embeds = finish_tower(cx, out, "text", "text", text_model(cx, &m->text, b));
    if (!b->images || !b->texts)
        return;
    tn_t per_text = logits_per_text(cx, m, image_embeds, text_embeds);
    md_emit(cx, out, tn_transpose(cx, per_text), "logits_per_image");
    md_emit(cx, out, per_text, "logits_per_text");
    if (b->want_loss && b->images == b->texts)
        out->loss = tn_sigmoid_cross_entropy(cx, per_text, NULL);
}

/* ---- batches ----------------------------------------------------------------------------------------------------------------- */

static int pool_position(const void *p, const int *ids, long n)
{
    (void)p, (void)ids;
    return (int)n - 1;
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const siglip *m = p;
    return md_take_both(b, in, m->vision.layers ? &m->vision : NULL, m->text.layers ? m->text.positions : 0, pool_position, m,
                        err);
}

static const tn_param *logit_scale(const void *p) { return has_both(p) ? &((const siglip *)p)->logit_scale : NULL; }

static const tn_param *logit_bias(const void *p) { return has_both(p) ? &((const siglip *)p)->logit_bias : NULL; }

static const char *const architectures[] = {"SiglipModel", "SiglipTextModel", "SiglipVisionModel", NULL};

const md_family md_siglip = {
    .model_type = "siglip",
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
    .logit_bias = logit_bias,
    .init = init,
};
