/* blip.c - BLIP (Li 2022): a picture's rows, and a text that is read alone, read while looking at them, or written while looking at them.
 *
 *   pixels [B,3,S,S] -> ViT -> post_layernorm of all rows = image_embeds [B,N,width]
 *   text_encoder: ids -> BERT without a picture -> first row -> text_proj       ITC: compared with vision_proj(first row of the picture)
 *                 [ENC] ids -> BERT with crossattention to the rows -> itm_head   ITM: do they belong together?
 *   text_decoder: [DEC] ids -> the same, each token seeing those before it -> cls -> logits   LM: what follows?
 *
 * BlipForConditionalGeneration is eye and decoder, BlipForImageTextRetrieval eye and encoder, BlipForQuestionAnswering all three: its decoder looks at what the
 * encoder makes of question and picture. Names and defaults are those of Hugging Face's classes. BlipForPretraining, which is ours, has all parts and the three losses
 * together; with tie_encoder_decoder, as the paper has it, encoder and decoder share everything but self-attention. Its eye may also be CLIP's
 * (vision_config's model_type clip_vision_model). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "language.h"
#include "matching.h"
#include "reading.h"

typedef enum blip_kind { CAPTIONS, RETRIEVES, ANSWERS, PRETRAINS } blip_kind;

/* dense -> activation -> norm -> the table of words, with a bias of its own. */
typedef struct blip_head {
    tn_linear_w dense; /* [width, width] */
    tn_norm_w norm;
    tn_param bias; /* [vocab] */
} blip_head;

typedef struct blip {
    blip_kind kind;
    bool tied; /* the decoder is the encoder but for `self` */
    bool learned_to_answer; /* true unless a pre-training model's config says otherwise: by its shape nobody could tell */
    bl_vit vision;
    bl_bert encoder, decoder; /* layers 0: not there */
    bl_bert_attention *self;  /* [layers] of a tied decoder */
    blip_head cls;
    tn_linear_w vision_proj, text_proj; /* [projection, width] */
    tn_linear_w itm_head;               /* [2, width] */
    tn_param temp;                      /* scalar: cosines are divided by it */
    int projection, pad, sep, dec, enc, mask;
    float smoothing;
} blip;

static const float WARM = 0.07f; /* the temperature at first */

static bool has_encoder(const blip *m) { return m->kind != CAPTIONS; }
static bool has_decoder(const blip *m) { return m->kind != RETRIEVES; }
static bool has_pairs(const blip *m) { return m->kind == RETRIEVES || m->kind == PRETRAINS; }
/* The decoder looks at what the encoder makes of a question, which then is as wide as a picture's rows. */
static bool can_answer(const blip *m) { return has_encoder(m) && has_decoder(m) && m->encoder.shape.width == m->vision.shape.width; }

/* The stack that writes; of a tied one the layers are the encoder's. */
static const bl_bert *writer(const blip *m) { return m->tied ? &m->encoder : &m->decoder; }

/* ---- configuration ------------------------------------------------------------------------------------------ */

static const char *const architectures[] = {"BlipForConditionalGeneration", "BlipForImageTextRetrieval",
                                            "BlipForQuestionAnswering", "BlipForPretraining", NULL};

static int read_vision(const ck_config *c, bool any, bl_vit *v, oc_err *err)
{
    const char *type = "blip_vision_model";
    *v = (bl_vit){
        .kind = BL_VIT_BLIP, .shape = {768, 3072, 12, KN_GELU, 1e-5f}, .layers = 12, .image_size = 384, .patch_size = 16, .channels = 3};
    if (ck_string(c, "model_type", &type, err) || md_read_vit(c, v, err))
        return -1;
    if (!strcmp(type, "clip_vision_model") && any)
        v->kind = BL_VIT_CLIP;
    return 0;
}

static int read_tokens(const ck_config *c, blip *m, oc_err *err)
{
    m->dec = 30522;
    m->sep = 102;
    if (ck_int(c, "bos_token_id", &m->dec, 0, MD_MOST_TOKENS, err) || ck_int(c, "sep_token_id", &m->sep, 0, MD_MOST_TOKENS, err) ||
        ck_int(c, "pad_token_id", &m->pad, 0, MD_MOST_TOKENS, err))
        return -1;
    m->enc = m->dec + 1;
    m->mask = -1;
    return ck_int(c, "enc_token_id", &m->enc, 0, MD_MOST_TOKENS, err) || ck_int(c, "mask_token_id", &m->mask, 0, MD_MOST_TOKENS, err)
               ? -1
               : 0;
}

static int read_text(const ck_config *c, blip *m, oc_err *err)
{
    int positions = 512, vocab = 30524;
    bl_bert b = {.shape = {768, 3072, 8, KN_GELU, 1e-12f}, .layers = 12, .tied = true, .context_width = m->vision.shape.width};
    if (md_read_shape(c, &b.shape, &b.layers, err) || ck_int(c, "vocab_size", &vocab, 1, MD_MOST_TOKENS, err) ||
        ck_int(c, "max_position_embeddings", &positions, 1, MD_LONGEST, err) || read_tokens(c, m, err) ||
        ck_float(c, "label_smoothing", &m->smoothing, 0, 1, err))
        return -1;
    b.pad = m->pad;
    b.vocab = vocab;
    b.positions = positions;
    if (m->dec >= vocab || m->sep >= vocab || m->mask >= vocab)
        return ck_config_wrong(c, "vocab_size", err, "more than its tokens' ids, of which %d is one", m->dec > m->sep ? m->dec : m->sep);
    if (m->kind == ANSWERS && b.shape.width != m->vision.shape.width)
        return ck_config_wrong(c, "hidden_size", err,
                               "the vision tower's %ld: the decoder of a model that answers looks at texts as wide as pictures",
                               m->vision.shape.width);
    m->encoder = has_encoder(m) ? b : (bl_bert){0};
    m->decoder = has_decoder(m) ? b : (bl_bert){0};
    m->encoder.tied = m->tied;
    return 0;
}

static int read_config(const ck_config *c, blip *m, oc_err *err)
{
    const char *architecture = architectures[0];
    if (md_read_architecture(c, &architecture, err))
        return -1;
    for (int i = 0; architectures[i]; i++)
        if (!strcmp(architecture, architectures[i]))
            m->kind = (blip_kind)i;
    m->projection = 256;
    m->learned_to_answer = true;
    if (ck_int(c, "image_text_hidden_size", &m->projection, 1, MD_WIDEST, err) ||
        (m->kind == PRETRAINS &&
         (ck_bool(c, "tie_encoder_decoder", &m->tied, err) || ck_bool(c, "answers", &m->learned_to_answer, err))))
        return -1;
    const ck_config *vision = md_read_part(c, "vision_config", err), *text = vision ? md_read_part(c, "text_config", err) : NULL;
    return !text || read_vision(vision, m->kind == PRETRAINS, &m->vision, err) || read_text(text, m, err) ? -1 : 0;
}

static void destroy(void *p)
{
    blip *m = p;
    if (m) {
        free(m->vision.layer);
        free(m->encoder.layer);
        free(m->decoder.layer);
        free(m->self);
    }
    free(m);
}

static void *create(const ck_config *c, oc_err *err)
{
    blip *m = calloc(1, sizeof *m);
    if (!m || read_config(c, m, err))
        goto failed;
    m->vision.layer = calloc((size_t)m->vision.layers, sizeof *m->vision.layer);
    m->encoder.layer = calloc((size_t)m->encoder.layers + 1, sizeof *m->encoder.layer);
    m->decoder.layer = calloc((size_t)m->decoder.layers + 1, sizeof *m->decoder.layer);
    m->self = calloc((size_t)m->decoder.layers + 1, sizeof *m->self);
    if (m->vision.layer && m->encoder.layer && m->decoder.layer && m->self)
        return m;
failed:
    bs_err(err, "out of memory: a model"); /* unless something was said already */
    destroy(m);
    return NULL;
}

static void sizes(const void *p, md_sizes *s)
{
    const blip *m = p;
    const bl_bert *texts = has_decoder(m) ? &m->decoder : &m->encoder;
    *s = (md_sizes){.image_size = m->vision.image_size,
                    .channels = m->vision.channels,
                    .max_tokens = texts->positions,
                    .context = has_decoder(m) ? texts->positions : 0,
                    .vocab = texts->vocab,
                    .embedding = has_pairs(m) ? m->projection : 0,
                    .bos = -1,
                    .eos = m->sep,
                    .pad = m->pad,
                    .padding = MD_PADDING_HIDDEN,
                    .start = m->dec,
                    .prompt = m->kind == ANSWERS ? MD_PROMPT_READ : MD_PROMPT_BEGINS,
                    .answers = can_answer(m),
                    .never_answered = !m->learned_to_answer,
                    .picture_rows = bl_vit_tokens(&m->vision),
                    .own_eos = true,
                    .matches = has_pairs(m),
                    .enc = m->enc < texts->vocab ? m->enc : -1,
                    .mask = m->mask,
                    .always_enc = m->kind == PRETRAINS && m->enc < texts->vocab};
}

static void cache(const void *p, tn_cache_shape *s)
{
    const bl_bert *d = &((const blip *)p)->decoder;
    s->layers = d->layers;
    s->kv_heads = d->shape.heads;
    s->key = s->value = d->shape.width / d->shape.heads;
}

static bool look_at_rows(const void *p, const tn_lora *lora, tn_cache_shape *s)
{
    const bl_bert *d = writer(p);
    *s = (tn_cache_shape){.layers = 1, .kv_heads = 1, .key = d->context_width, .value = d->context_width, .rows = true};
    return bl_bert_can_look_at_rows(d, lora);
}

/* ---- weights ------------------------------------------------------------------------------------------------ */

static void visit_head(blip *m, tn_visitor *v)
{
    long width = m->decoder.shape.width;
    size_t mark = tn_enter(v, "text_decoder.cls.predictions.");
    tn_visit(v, &m->cls.bias, "bias", TN_NO_DECAY, 1, m->decoder.vocab, 0, 0, 0);
    tn_visit_linear(v, &m->cls.dense, "transform.dense", width, width, true);
    tn_visit_norm(v, &m->cls.norm, "transform.LayerNorm", width, true);
    tn_leave(v, mark);
}

static void visit_decoder(blip *m, tn_visitor *v)
{
    long width = m->decoder.shape.width;
    if (!m->tied)
        bl_visit_bert(v, &m->decoder, "text_decoder.bert.");
    for (int i = 0; m->tied && i < m->decoder.layers; i++) {
        size_t mark = tn_enter(v, "text_decoder.bert.encoder.layer.%d.", i);
        bl_visit_bert_attention(v, &m->self[i], "attention.", width, width);
        tn_leave(v, mark);
    }
    visit_head(m, v);
}

static void visit(void *p, tn_visitor *v)
{
    blip *m = p;
    bl_visit_vit(v, &m->vision, "vision_model.");
    if (has_encoder(m))
        bl_visit_bert(v, &m->encoder, "text_encoder.");
    if (has_decoder(m))
        visit_decoder(m, v);
    m->temp.id = -1;
    if (!has_pairs(m))
        return;
    tn_visit_linear(v, &m->vision_proj, "vision_proj", m->projection, m->vision.shape.width, true);
    tn_visit_linear(v, &m->text_proj, "text_proj", m->projection, m->encoder.shape.width, true);
    tn_visit_linear(v, &m->itm_head, "itm_head", 2, m->encoder.shape.width, true);
    tn_visit(v, &m->temp, "temp", TN_NO_DECAY | (m->kind == RETRIEVES ? TN_OPTIONAL : 0), 0, 0, 0, 0, 0);
}

static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    (void)p;
    if (!strcmp(name, "temp"))
        values[0] = WARM;
    else
        md_draw(name, n, values, rng, 0.02f);
}

/* Some files keep the head's names of what it shares. */
static const ck_renaming shared[] = {
    {"text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.bias", false},
    {"text_decoder.cls.predictions.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight", false},
    {0},
};

static const ck_renaming *renamings(const void *p)
{
    (void)p;
    return shared;
}

/* ---- parts -------------------------------------------------------------------------------------------------- */

static tn_t see(tn_ctx *cx, const void *p, const md_batch *b)
{
    const bl_vit *v = &((const blip *)p)->vision;
    tn_t pixels = tn_input(cx, b->pixel_values, false, 4, (long[]){b->images, b->channels, b->height, b->width});
    return tn_layer_norm(cx, bl_vit_rows(cx, v, pixels), &v->post_layernorm, v->shape.eps);
}

static tn_t image_features(tn_ctx *cx, const void *p, tn_t rows)
{
    return tn_l2_normalize(cx, tn_linear(cx, tn_select(cx, rows, NULL), &((const blip *)p)->vision_proj));
}

/* The first row of texts that are read, alone (seen of rank 0) or while looking at pictures; `hidden` takes all rows where it is not NULL. */
static tn_t read_texts(tn_ctx *cx, const blip *m, const md_words *w, tn_t seen, tn_t *hidden)
{
    bl_bert_view view = {.key_mask = w->mask, .seen = seen};
    return bl_bert_first(cx, &m->encoder, w->ids, w->n, w->length, &view, hidden);
}

static tn_t text_features(tn_ctx *cx, const void *p, const md_words *w)
{
    const blip *m = p;
    return tn_l2_normalize(cx, tn_linear(cx, read_texts(cx, m, w, (tn_t){0}, NULL), &m->text_proj));
}

static tn_t match_rows(tn_ctx *cx, const void *p, const md_words *w, tn_t rows)
{
    const blip *m = p;
    return tn_linear(cx, read_texts(cx, m, w, rows, NULL), &m->itm_head);
}

static tn_t head(tn_ctx *cx, const blip *m, tn_t x)
{
    const bl_bert *d = writer(m);
    x = tn_layer_norm(cx, tn_linear_act(cx, x, &m->cls.dense, d->shape.act), &m->cls.norm, d->shape.eps);
    return tn_add_param(cx, tn_linear_tied(cx, x, &d->word), &m->cls.bias);
}

static bl_bert_view writing(const blip *m, const uint8_t *mask, tn_t seen)
{
    return (bl_bert_view){.key_mask = mask, .causal = true, .seen = seen, .self = m->tied ? m->self : NULL};
}

static tn_t write_texts(tn_ctx *cx, const void *p, const md_words *w, tn_t seen, const uint8_t *seen_mask)
{
    const blip *m = p;
    bl_bert_view view = writing(m, w->mask, seen);
    view.seen_mask = seen_mask;
    return head(cx, m, bl_bert_rows(cx, writer(m), w->ids, w->n, w->length, &view));
}

/* All rows of texts that are read while looking at pictures; a model without encoder reads with its decoder, each word seeing all others. */
static tn_t read_question(tn_ctx *cx, const void *p, const md_words *w, tn_t rows)
{
    const blip *m = p;
    bl_bert_view view = {.key_mask = w->mask, .seen = rows};
    return bl_bert_rows(cx, has_encoder(m) ? &m->encoder : &m->decoder, w->ids, w->n, w->length, &view);
}

static tn_t find_words(tn_ctx *cx, const void *p, const md_words *w, tn_t rows)
{
    return head(cx, p, read_question(cx, p, w, rows));
}

static const tn_param *temperature(const void *p) { return &((const blip *)p)->temp; }
static float smoothing(const void *p) { return ((const blip *)p)->smoothing; }

/* Files of Hugging Face's retrieval model leave the temperature out: then it is where training starts. */
static tn_t scores(tn_ctx *cx, const void *p, tn_t cosines)
{
    const blip *m = p;
    return tn_has(&m->temp) ? tn_divide(cx, cosines, &m->temp) : tn_scale(cx, cosines, 1 / WARM);
}

/* ---- what it does ------------------------------------------------------------------------------------------- */

static tn_t embed_images(tn_ctx *cx, const void *p, const md_batch *b)
{
    const blip *m = p;
    tn_t hidden, pixels = tn_input(cx, b->pixel_values, false, 4, (long[]){b->images, b->channels, b->height, b->width});
    return tn_linear(cx, bl_vit_class(cx, &m->vision, pixels, b->want_hidden ? &hidden : NULL), &m->vision_proj);
}

static md_words words_of(const md_batch *b) { return (md_words){b->input_ids, b->attention_mask, b->texts, b->length}; }

static tn_t embed_texts(tn_ctx *cx, const void *p, const md_batch *b)
{
    const blip *m = p;
    md_words w = words_of(b);
    tn_t hidden;
    return tn_linear(cx, read_texts(cx, m, &w, (tn_t){0}, b->want_hidden ? &hidden : NULL), &m->text_proj);
}

static tn_t pair_loss(tn_ctx *cx, const void *p, tn_t image_embeds, tn_t text_embeds, const md_batch *b)
{
    tn_t per_text = scores(cx, p, tn_matmul_nt(cx, text_embeds, image_embeds));
    return md_with_partners(cx, md_info_nce(cx, per_text, tn_transpose(cx, per_text), b), image_embeds, b);
}

static tn_t match(tn_ctx *cx, const void *p, const md_batch *b)
{
    md_words w = words_of(b);
    tn_t rows = see(cx, p, b);
    if (b->pair_rows) {
        long n = rows.shape[1];
        rows = tn_reshape(cx, tn_pick(cx, rows, b->pair_rows, b->texts * n), 3, (long[]){b->texts, n, tn_last(rows)});
    }
    return match_rows(cx, p, &w, rows);
}

/* What a decoder looks at: a picture's rows, or what the encoder makes of them and a question. */
static void remember(tn_ctx *cx, const void *p, const md_batch *b)
{
    const blip *m = p;
    md_words w = words_of(b);
    tn_t seen = see(cx, m, b);
    bl_bert_remember(cx, writer(m), b->asks ? read_question(cx, m, &w, seen) : seen);
}

static tn_t logits(tn_ctx *cx, const void *p, const md_batch *b)
{
    const blip *m = p;
    bl_bert_view view = writing(m, NULL, (tn_t){0});
    view.remembered = true;
    view.positions = b->positions;
    return head(cx, m, md_wanted(cx, bl_bert_rows(cx, writer(m), b->input_ids, b->texts, b->length, &view), b));
}

/* ---- forward ------------------------------------------------------------------------------------------------ */

static tn_t language_loss(tn_ctx *cx, const blip *m, tn_t y, const int *target)
{
    return tn_cross_entropy(cx, tn_reshape(cx, y, 2, (long[]){tn_rows(y), tn_last(y)}), target, m->smoothing);
}

static void forward_caption(tn_ctx *cx, const blip *m, const md_batch *b, tn_t rows, md_outputs *out)
{
    md_words w = words_of(b);
    tn_t y = write_texts(cx, m, &w, rows, NULL);
    md_emit(cx, out, y, "logits");
    md_emit(cx, out, rows, "last_hidden_state");
    if (b->want_loss)
        out->loss = language_loss(cx, m, y, b->target);
}

/* What fills up a shorter question is looked at too: transformers' code loses the mask on its way to crossattention, and this forward is its equal. */
static void forward_answer(tn_ctx *cx, const blip *m, const md_batch *b, tn_t rows, md_outputs *out)
{
    md_words question = words_of(b), answer = {b->decoder_ids, b->decoder_mask, b->texts, b->decoder_length};
    md_emit(cx, out, rows, "last_hidden_state");
    if (!b->decoder_ids)
        return;
    tn_t y = write_texts(cx, m, &answer, read_question(cx, m, &question, rows), NULL);
    md_emit(cx, out, y, "logits");
    if (b->want_loss)
        out->loss = language_loss(cx, m, y, b->decoder_target);
}

static void forward_retrieval(tn_ctx *cx, const blip *m, const md_batch *b, tn_t rows, md_outputs *out)
{
    md_words w = words_of(b);
    tn_t grounded, alone;
    tn_t first = read_texts(cx, m, &w, (tn_t){0}, &alone);
    tn_t text = tn_l2_normalize(cx, tn_linear(cx, first, &m->text_proj));
    md_emit(cx, out, rows, "last_hidden_state");
    md_emit(cx, out, tn_matmul_nt(cx, image_features(cx, m, rows), text), "itc_score");
    md_emit(cx, out, alone, "itc_question_embeds");
    if (b->images != b->texts)
        return;
    md_emit(cx, out, tn_linear(cx, read_texts(cx, m, &w, rows, &grounded), &m->itm_head), "itm_score");
    md_emit(cx, out, grounded, "question_embeds");
}

/* ITC: each finds its own in the batch. */
static tn_t contrastive_loss(tn_ctx *cx, const blip *m, const md_batch *b, tn_t rows, md_outputs *out)
{
    md_words w = words_of(b);
    tn_t image = image_features(cx, m, rows), text = text_features(cx, m, &w);
    tn_t per_image = scores(cx, m, tn_matmul_nt(cx, image, text));
    md_emit(cx, out, image, "image_features");
    md_emit(cx, out, text, "text_features");
    md_emit(cx, out, per_image, "logits_per_image");
    return md_info_nce(cx, tn_transpose(cx, per_image), per_image, b);
}

/* ITM: does each of the pairs belong together? */
static tn_t matching_loss(tn_ctx *cx, const blip *m, const md_batch *b, tn_t rows, md_outputs *out)
{
    md_words w = {b->pair_ids, b->pair_mask, b->pairs, b->length};
    tn_t seen = tn_pick(cx, rows, b->pair_rows, b->pairs * rows.shape[1]);
    tn_t y = match_rows(cx, m, &w, tn_reshape(cx, seen, 3, (long[]){b->pairs, rows.shape[1], tn_last(rows)}));
    md_emit(cx, out, y, "itm_score");
    return tn_cross_entropy(cx, y, b->pair_target, 0);
}

static void emit_loss(tn_ctx *cx, md_outputs *out, tn_t loss, const char *name)
{
    md_emit(cx, out, loss, "%s", name);
    if (!cx->failed)
        out->item[out->n - 1].scalar = true;
}

static void forward_pretraining(tn_ctx *cx, const blip *m, const md_batch *b, tn_t rows, md_outputs *out)
{
    md_words w = {b->decoder_ids, b->decoder_mask, b->texts, b->decoder_length};
    tn_t itc = contrastive_loss(cx, m, b, rows, out), itm = matching_loss(cx, m, b, rows, out);
    tn_t y = write_texts(cx, m, &w, rows, NULL), lm = language_loss(cx, m, y, b->decoder_target);
    md_emit(cx, out, y, "logits");
    emit_loss(cx, out, itc, "loss_itc");
    emit_loss(cx, out, itm, "loss_itm");
    emit_loss(cx, out, lm, "loss_lm");
    out->loss = tn_sum2(cx, tn_sum2(cx, itc, 1, itm, 1), 1, lm, 1);
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    static void (*const by_kind[])(tn_ctx *, const blip *, const md_batch *, tn_t, md_outputs *) = {
        [CAPTIONS] = forward_caption, [RETRIEVES] = forward_retrieval, [ANSWERS] = forward_answer, [PRETRAINS] = forward_pretraining};
    const blip *m = p;
    tn_t rows = see(cx, m, b);
    if (m->kind != RETRIEVES)
        md_emit(cx, out, rows, "image_embeds");
    by_kind[m->kind](cx, m, b, rows, out);
}

/* ---- batches ------------------------------------------------------------------------------------------------ */

static int pool_position(const void *p, const int *ids, long n)
{
    (void)p, (void)ids, (void)n;
    return 0;
}

/* A copy of the integers `name` [rows, length] (length 0: any), which must be there; NULL and an error. */
static int *take_ids(const md_values *in, const char *name, long rows, long *length, long below, oc_err *err)
{
    const md_value *x = md_values_find(in, name);
    int *copy = NULL;
    if (!x || !x->is_int || x->rank != 2 || x->shape[0] != rows || x->shape[1] < 1 || (*length && x->shape[1] != *length))
        bs_err(err, "%s: expected integers [%ld,%s]", name, rows, *length ? "T as input_ids" : "L");
    else if (!(copy = malloc((size_t)x->count * sizeof *copy)))
        bs_err(err, "out of memory: a batch");
    for (long i = 0; copy && i < x->count; i++) {
        copy[i] = x->i[i];
        if (copy[i] == -100 || (copy[i] >= 0 && copy[i] < below))
            continue;
        bs_err(err, "%s: %d is not below %ld", name, copy[i], below);
        free(copy);
        return NULL;
    }
    if (copy)
        *length = x->shape[1];
    return copy;
}

/* labels [B, L] moved up by one: what follows each token. */
static int *take_next(const md_values *in, long rows, long length, long vocab, oc_err *err)
{
    int *next = take_ids(in, "labels", rows, &length, vocab, err);
    for (long i = 0; next && i < rows * length; i++)
        next[i] = (i + 1) % length ? next[i + 1] : -100;
    return next;
}

static int prepare_answer(const blip *m, const md_values *in, md_batch *b, oc_err *err)
{
    bool labels = md_values_find(in, "labels"), ids = md_values_find(in, "decoder_input_ids");
    const md_value *mask = md_values_find(in, "decoder_attention_mask");
    if (!labels && b->want_loss)
        return bs_err(err, "labels are missing: without them there is no loss");
    if (!labels && !ids)
        return 0;
    b->decoder_ids = take_ids(in, ids ? "decoder_input_ids" : "labels", b->texts, &b->decoder_length, m->decoder.vocab, err);
    if (!b->decoder_ids)
        return -1;
    for (long i = 0; i < b->texts * b->decoder_length; i++)
        b->decoder_ids[i] = b->decoder_ids[i] < 0 ? m->pad : b->decoder_ids[i];
    if (labels && !(b->decoder_target = take_next(in, b->texts, b->decoder_length, m->decoder.vocab, err)))
        return -1;
    b->want_loss = labels;
    if (!mask)
        return 0;
    int *kept = take_ids(in, "decoder_attention_mask", b->texts, &b->decoder_length, 2, err);
    b->decoder_mask = kept ? malloc((size_t)(b->texts * b->decoder_length)) : NULL;
    for (long i = 0; b->decoder_mask && i < b->texts * b->decoder_length; i++)
        b->decoder_mask[i] = kept[i] > 0;
    free(kept);
    return b->decoder_mask ? 0 : bs_err(err, "out of memory: a batch");
}

/* Pair i of the three times B: text i with its picture, with another picture, and another text with picture i. */
static void put_pair(const blip *m, md_batch *b, long i, const int *ids, const int *other_image, const int *other_text)
{
    long n = b->texts, at = i % n, rows = bl_vit_tokens(&m->vision), t = b->length;
    long image = i / n == 1 ? other_image[at] : at, text = i / n == 2 ? other_text[at] : at;
    memcpy(b->pair_ids + i * t, ids + text * t, (size_t)t * sizeof *ids);
    for (long k = 0; k < t; k++)
        b->pair_mask[i * t + k] = !b->attention_mask || b->attention_mask[text * t + k];
    for (long k = 0; k < rows; k++)
        b->pair_rows[i * rows + k] = (int)(image * rows + k);
    b->pair_target[i] = i < n;
}

static int take_pairs(const blip *m, md_batch *b, const int *ids, const int *other_image, const int *other_text, oc_err *err)
{
    size_t n = 3 * (size_t)b->texts, t = (size_t)b->length;
    b->pairs = (long)n;
    b->pair_ids = malloc(n * t * sizeof *b->pair_ids);
    b->pair_mask = malloc(n * t);
    b->pair_rows = malloc(n * (size_t)bl_vit_tokens(&m->vision) * sizeof *b->pair_rows);
    b->pair_target = malloc(n * sizeof *b->pair_target);
    if (!b->pair_ids || !b->pair_mask || !b->pair_rows || !b->pair_target)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < b->pairs; i++)
        put_pair(m, b, i, ids, other_image, other_text);
    return 0;
}

/* image_neg_index, text_neg_index [B]. */
static int *take_index(const md_values *in, const char *name, long n, oc_err *err)
{
    const md_value *x = md_values_find(in, name);
    int *copy = x && x->is_int && x->rank == 1 && x->shape[0] == n ? malloc((size_t)n * sizeof *copy) : NULL;
    bool good = copy != NULL;
    for (long i = 0; copy && i < n; i++) {
        copy[i] = x->i[i];
        good &= copy[i] >= 0 && copy[i] < n;
    }
    if (good)
        return copy;
    free(copy);
    bs_err(err, "%s: expected integers [%ld] below %ld", name, n, n);
    return NULL;
}

static int prepare_pretraining(const blip *m, const md_values *in, md_batch *b, oc_err *err)
{
    int result = -1, *image = NULL, *text = NULL, *ids = NULL;
    b->target = malloc((size_t)b->texts * sizeof *b->target);
    b->decoder_mask = malloc((size_t)(b->texts * b->length));
    if (b->images != b->texts || !b->target || !b->decoder_mask) {
        bs_err(err, "the losses need pairs: there are %ld pictures and %ld texts", b->images, b->texts);
        goto done;
    }
    for (long i = 0; i < b->texts * b->length; i++)
        b->decoder_mask[i] = !b->attention_mask || b->attention_mask[i];
    for (long i = 0; i < b->texts; i++)
        b->target[i] = (int)i;
    b->decoder_length = b->length;
    b->decoder_ids = take_ids(in, "lm_input_ids", b->texts, &b->length, m->decoder.vocab, err);
    b->decoder_target = b->decoder_ids ? take_next(in, b->texts, b->length, m->decoder.vocab, err) : NULL;
    ids = b->decoder_target ? take_ids(in, "itm_input_ids", b->texts, &b->length, m->encoder.vocab, err) : NULL;
    image = ids ? take_index(in, "image_neg_index", b->images, err) : NULL;
    text = image ? take_index(in, "text_neg_index", b->texts, err) : NULL;
    b->want_loss = true;
    result = text ? take_pairs(m, b, ids, image, text, err) : -1;
done:
    free(image);
    free(text);
    free(ids);
    return result;
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const blip *m = p;
    const md_value *px = md_values_find(in, "pixel_values");
    if (!px || !md_values_find(in, "input_ids"))
        return bs_err(err, "nothing to run: expected pixel_values and input_ids");
    if (md_take_pictures(b, px, &m->vision, err))
        return -1;
    if (m->kind == RETRIEVES && b->want_loss)
        return bs_err(err, "a BlipForImageTextRetrieval has no loss of its own; a BlipForPretraining has");
    if (m->kind == CAPTIONS) {
        if (md_prepare_language(in, m->decoder.vocab, m->decoder.positions, b, err))
            return -1;
    } else if (md_take_texts(b, in, pool_position, m, m->encoder.positions, err))
        return -1;
    if (m->kind != RETRIEVES && b->images != b->texts)
        return bs_err(err, "there are %ld pictures and %ld texts: each text is about one picture", b->images, b->texts);
    return m->kind == ANSWERS ? prepare_answer(m, in, b, err) : m->kind == PRETRAINS ? prepare_pretraining(m, in, b, err) : 0;
}

/* ---- the descriptor ----------------------------------------------------------------------------------------- */

static const md_objectives of_captions = {.see = see, .write = write_texts, .find_words = find_words, .smoothing = smoothing};
static const md_objectives of_retrieval = {
    .see = see, .image_features = image_features, .text_features = text_features, .match = match_rows, .scores = scores};
static const md_objectives of_answers = {
    .see = see, .write = write_texts, .find_words = find_words, .read_question = read_question, .smoothing = smoothing};
static const md_objectives of_all = {.see = see,
                                     .image_features = image_features,
                                     .text_features = text_features,
                                     .match = match_rows,
                                     .write = write_texts,
                                     .find_words = find_words,
                                     .read_question = read_question,
                                     .scores = scores,
                                     .smoothing = smoothing};

static const md_objectives *objectives(const void *p)
{
    static const md_objectives *const by_kind[] = {
        [CAPTIONS] = &of_captions, [RETRIEVES] = &of_retrieval, [ANSWERS] = &of_answers, [PRETRAINS] = &of_all};
    return by_kind[((const blip *)p)->kind];
}


const md_family md_blip = {
    .model_type = "blip",
    .architectures = architectures,
    .can = MD_EMBEDS_IMAGES | MD_EMBEDS_TEXTS | MD_GENERATES | MD_MATCHES,
    .create = create,
    .destroy = destroy,
    .visit = visit,
    .renamings = renamings,
    .sizes = sizes,
    .cache = cache,
    .prepare = prepare,
    .forward = forward,
    .embed_images = embed_images,
    .embed_texts = embed_texts,
    .match = match,
    .objectives = objectives,
    .remember = remember,
    .look_at_rows = look_at_rows,
    .logits = logits,
    .pool_position = pool_position,
    .pair_loss = pair_loss,
    .temperature = temperature,
    .lora_targets = "query,value",
    .init = init,
};
