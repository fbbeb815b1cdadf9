/* contrastive.c - the gradients of one contrastive batch, also when it does not fit at once.
 *
 * The loss compares every picture with every text of the batch, so the losses of its parts do not add up to it. With parts, all
 * features are computed first without a tape, the loss is differentiated by them, and each part is run again with a tape and
 * its features' gradients as the seed (as open_clip's accum-freq does, and GradCache, Gao 2021). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../model/reading.h"
#include "trainer.h"

/* n pictures from `at` on, and their texts. */
static md_batch part_of(const md_batch *b, long at, long n)
{
    md_batch p = *b;
    long picture = b->channels * b->height * b->width, texts = b->texts / b->images;
    p.images = n;
    p.texts = n * texts;
    if (b->pixel_values)
        p.pixel_values += at * picture;
    if (b->input_ids) {
        p.input_ids += at * texts * b->length;
        p.pool += at * texts;
    }
    if (b->attention_mask)
        p.attention_mask += at * texts * b->length;
    return p;
}

typedef struct pair {
    tn_t image, text;
} pair;

static pair embed(tn_ctx *cx, const md_model *m, const md_batch *b)
{
    tn_t image = tn_l2_normalize(cx, m->family->embed_images(cx, m->m, b));
    return (pair){image, tn_l2_normalize(cx, m->family->embed_texts(cx, m->m, b))};
}

static void attach(tn_ctx *cx, const md_lora *lora, const md_trainables *t)
{
    cx->lora = lora ? lora->by_id : NULL;
    cx->grads = t->grads;
    cx->buffers = t->buffers;
    cx->training = true;
}

/* The loss of given features; their gradients stay in the context. */
static tn_t loss_of_features(tn_ctx *cx, const md_model *m, const md_batch *b, const float *image, const float *text,
                             pair *inputs)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    inputs->image = tn_input(cx, image, true, 2, (long[]){b->images, s.embedding});
    inputs->text = tn_input(cx, text, true, 2, (long[]){b->texts, s.embedding});
    return m->family->pair_loss(cx, m->m, inputs->image, inputs->text, b);
}

static size_t plan_part(const md_model *m, const md_lora *lora, md_trainables *t, const kn_table *kn, int threads,
                        const md_batch *b, bool train, bool loss)
{
    tn_ctx cx;
    tn_plan(&cx, kn, threads, train);
    attach(&cx, lora, t);
    pair p = embed(&cx, m, b);
    if (loss)
        m->family->pair_loss(&cx, m->m, p.image, p.text, b);
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

size_t tr_features(const md_model *m, long batch, int texts)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    return 2 * (size_t)batch * (size_t)(1 + texts) * (size_t)s.embedding;
}

/* Soft targets take the larger memory of the two losses by nothing: both keep one row. */
size_t tr_plan(const md_model *m, const md_lora *lora, md_trainables *t, const kn_table *kn, int threads, const md_batch *like,
               long micro)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    long texts = like->texts / like->images;
    md_batch b = md_plan_texts(m, micro * texts);
    b.images = micro;
    b.channels = s.channels;
    b.height = b.width = s.image_size;
    b.partner_weight = like->partner_weight;
    if (micro == like->images)
        return plan_part(m, lora, t, kn, threads, &b, true, true);
    size_t run = plan_part(m, lora, t, kn, threads, &b, false, false),
           train = plan_part(m, lora, t, kn, threads, &b, true, false);
    tn_ctx cx;
    pair inputs;
    tn_plan(&cx, kn, threads, true);
    attach(&cx, lora, t);
    b.images = like->images;
    b.texts = like->texts;
    loss_of_features(&cx, m, &b, NULL, NULL, &inputs);
    size_t loss = tn_plan_bytes(&cx), most = run > train ? run : train;
    return loss > most ? loss : most;
}

static double whole(tn_ctx *cx, const md_model *m, const md_batch *b)
{
    pair p = embed(cx, m, b);
    tn_t loss = m->family->pair_loss(cx, m->m, p.image, p.text, b);
    tn_seed(cx, loss, NULL);
    return tn_backward(cx) ? (double)NAN : (double)loss.v[0];
}

typedef struct parts {
    const md_model *m;
    const md_lora *lora;
    md_trainables *t;
    kn_work *work;
    void *arena;
    size_t bytes;
    const md_batch *b;
    long micro, width, texts; /* texts: of a picture */
    bool bf16;
    float *image, *text, *image_grad, *text_grad; /* [images or texts, width] */
} parts;

static void start(parts *k, tn_ctx *cx, bool train)
{
    tn_run(cx, k->work, k->arena, k->bytes, train);
    attach(cx, k->lora, k->t);
    cx->bf16 = k->bf16;
}

static int collect_features(parts *k, tn_ctx *cx)
{
    size_t row = (size_t)k->width * sizeof(float);
    for (long at = 0; at < k->b->images; at += k->micro) {
        md_batch b = part_of(k->b, at, k->micro);
        start(k, cx, false);
        pair p = embed(cx, k->m, &b);
        if (cx->failed)
            return -1;
        memcpy(k->image + at * k->width, p.image.v, (size_t)b.images * row);
        memcpy(k->text + at * k->texts * k->width, p.text.v, (size_t)b.texts * row);
    }
    return 0;
}

static int spread_gradients(parts *k, tn_ctx *cx)
{
    for (long at = 0; at < k->b->images; at += k->micro) {
        md_batch b = part_of(k->b, at, k->micro);
        start(k, cx, true);
        pair p = embed(cx, k->m, &b);
        tn_seed(cx, p.image, k->image_grad + at * k->width);
        tn_seed(cx, p.text, k->text_grad + at * k->texts * k->width);
        if (tn_backward(cx))
            return -1;
    }
    return 0;
}

static double in_parts(parts *k, tn_ctx *cx)
{
    size_t row = (size_t)k->width * sizeof(float);
    pair inputs;
    if (collect_features(k, cx))
        return (double)NAN;
    start(k, cx, true);
    tn_t loss = loss_of_features(cx, k->m, k->b, k->image, k->text, &inputs);
    tn_seed(cx, loss, NULL);
    if (tn_backward(cx))
        return (double)NAN;
    double value = (double)loss.v[0];
    memcpy(k->image_grad, inputs.image.g, (size_t)k->b->images * row);
    memcpy(k->text_grad, inputs.text.g, (size_t)k->b->texts * row);
    return spread_gradients(k, cx) ? (double)NAN : value;
}

double tr_gradients(const md_model *m, const md_lora *lora, md_trainables *t, kn_work *work, void *arena, size_t bytes,
                    const md_batch *b, long micro, bool bf16, float *features, oc_err *err)
{
    md_sizes s;
    tn_ctx cx;
    m->family->sizes(m->m, &s);
    size_t images = (size_t)(b->images * s.embedding), texts = (size_t)(b->texts * s.embedding);
    parts k = {m, lora, t, work, arena, bytes, b, micro, s.embedding, b->texts / b->images, bf16, NULL, NULL, NULL, NULL};
    if (micro < b->images) {
        k.image = features;
        k.text = features + images;
        k.image_grad = k.text + texts;
        k.text_grad = k.image_grad + images;
    }
    start(&k, &cx, true);
    double loss = micro == b->images ? whole(&cx, m, b) : in_parts(&k, &cx);
    if (cx.failed)
        bs_err(err, "%s", cx.err.text);
    else if (!isfinite(loss) && !md_check_finite(m, err)) /* a broken weight is named; else it was the run itself */
        bs_err(err, "the loss is not finite: try a lower learning rate");
    return cx.failed || !isfinite(loss) ? (double)NAN : loss;
}
