/* contrastive.c - the gradients of one contrastive batch, also when it does not fit at once.
 *
 * The loss compares every picture with every text of the batch, so the losses of its parts do not add up to it. With parts, all
 * features are computed first without a tape, the loss is differentiated by them, and each part is run again with a tape and
 * its features' gradients as the seed (as open_clip's accum-freq does, and GradCache, Gao 2021). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static pair embed(tn_ctx *cx, tr_contrastive *c, const md_batch *b)
{
    tn_t image = tn_l2_normalize(cx, c->m->family->embed_images(cx, c->m->m, b));
    return (pair){image, tr_embed_texts(cx, c->m, &c->unfilled, b)};
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

static size_t plan_part(tr_contrastive *c, const tr_pass *p, const kn_table *kn, int threads, const md_batch *b, bool train,
                        bool loss)
{
    tn_ctx cx;
    tr_begin_plan(p, kn, threads, &cx, train);
    pair x = embed(&cx, c, b);
    if (loss)
        p->m->family->pair_loss(&cx, p->m->m, x.image, x.text, b);
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

/* Soft targets take the larger memory of the two losses by nothing: both keep one row. */
static size_t plan(void *arg, const tr_pass *p, const kn_table *kn, int threads)
{
    tr_contrastive *c = arg;
    md_sizes s;
    c->m->family->sizes(c->m->m, &s);
    md_batch b = md_plan_texts(c->m, c->micro * c->texts);
    b.images = c->micro;
    b.channels = s.channels;
    b.height = b.width = s.image_size;
    b.partner_weight = c->partners;
    if (c->micro == c->batch)
        return plan_part(c, p, kn, threads, &b, true, true);
    size_t run = plan_part(c, p, kn, threads, &b, false, false), train = plan_part(c, p, kn, threads, &b, true, false);
    tn_ctx cx;
    pair inputs;
    tr_begin_plan(p, kn, threads, &cx, true);
    b.images = c->batch;
    b.texts = c->batch * c->texts;
    loss_of_features(&cx, c->m, &b, NULL, NULL, &inputs);
    size_t loss = tn_plan_bytes(&cx), most = run > train ? run : train;
    return loss > most ? loss : most;
}

static double whole(tn_ctx *cx, tr_contrastive *c, const md_batch *b)
{
    pair p = embed(cx, c, b);
    tn_t loss = c->m->family->pair_loss(cx, c->m->m, p.image, p.text, b);
    tn_seed(cx, loss, NULL);
    return tn_backward(cx) ? (double)NAN : (double)loss.v[0];
}

typedef struct parts {
    tr_contrastive *c;
    const tr_pass *p;
    const md_batch *b;
    long width;
    float *image, *text, *image_grad, *text_grad; /* [images or texts, width] */
} parts;

static int collect_features(parts *k, tn_ctx *cx)
{
    size_t row = (size_t)k->width * sizeof(float);
    for (long at = 0; at < k->b->images; at += k->c->micro) {
        md_batch b = part_of(k->b, at, k->c->micro);
        tr_begin(k->p, cx, false);
        pair p = embed(cx, k->c, &b);
        if (cx->failed)
            return -1;
        memcpy(k->image + at * k->width, p.image.v, (size_t)b.images * row);
        memcpy(k->text + at * k->c->texts * k->width, p.text.v, (size_t)b.texts * row);
    }
    return 0;
}

static int spread_gradients(parts *k, tn_ctx *cx)
{
    for (long at = 0; at < k->b->images; at += k->c->micro) {
        md_batch b = part_of(k->b, at, k->c->micro);
        tr_begin(k->p, cx, true);
        pair p = embed(cx, k->c, &b);
        tn_seed(cx, p.image, k->image_grad + at * k->width);
        tn_seed(cx, p.text, k->text_grad + at * k->c->texts * k->width);
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
    tr_begin(k->p, cx, true);
    tn_t loss = loss_of_features(cx, k->c->m, k->b, k->image, k->text, &inputs);
    tn_seed(cx, loss, NULL);
    if (tn_backward(cx))
        return (double)NAN;
    double value = (double)loss.v[0];
    memcpy(k->image_grad, tn_gradient(cx, inputs.image), (size_t)k->b->images * row);
    memcpy(k->text_grad, tn_gradient(cx, inputs.text), (size_t)k->b->texts * row);
    return spread_gradients(k, cx) ? (double)NAN : value;
}

int tr_check_others(long batch, oc_err *err)
{
    return batch > 1 ? 0 : bs_err(err, "--batch: a batch of one has nothing to be told apart from");
}

double tr_checked(const tr_pass *p, const tn_ctx *cx, double loss, oc_err *err)
{
    if (cx->failed)
        bs_err(err, "%s", cx->err.text);
    else if (!isfinite(loss) && !md_check_finite(p->m, err)) /* a broken weight is named; else it was the run itself */
        bs_err(err, "the loss is not finite: try a lower learning rate");
    return cx->failed || !isfinite(loss) ? (double)NAN : loss;
}

static double gradients(void *arg, const tr_pass *p, const md_batch *b, oc_err *err)
{
    tr_contrastive *c = arg;
    md_sizes s;
    tn_ctx cx;
    c->m->family->sizes(c->m->m, &s);
    parts k = {.c = c, .p = p, .b = b, .width = s.embedding};
    if (c->micro < c->batch) {
        k.image = c->features;
        k.text = k.image + b->images * k.width;
        k.image_grad = k.text + b->texts * k.width;
        k.text_grad = k.image_grad + b->images * k.width;
    }
    tr_begin(p, &cx, true);
    double loss = c->micro == c->batch ? whole(&cx, c, b) : in_parts(&k, &cx);
    return tr_checked(p, &cx, loss, err);
}

static const md_batch *next(void *arg, long step, bs_pool *pool, oc_err *err)
{
    const dt_loaded *d = dt_loader_next(((tr_contrastive *)arg)->loader, step, pool, err);
    return d ? &d->batch : NULL;
}

int tr_contrastive_open(tr_contrastive *c, dt_loader *loader, const md_model *m, long batch, long micro, int texts,
                        float partners, tr_task *task, oc_err *err)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    *c = (tr_contrastive){
        .loader = loader, .m = m, .batch = batch, .micro = micro > 0 ? micro : batch, .texts = texts, .partners = partners};
    if (c->batch % c->micro)
        return bs_err(err, "a batch of %ld does not split into parts of %ld", c->batch, c->micro);
    size_t rows = 2 * (size_t)c->batch * (size_t)(1 + c->texts);
    if (c->micro < c->batch && !(c->features = bs_alloc(rows * (size_t)s.embedding * sizeof(float), "a batch's features", err)))
        return -1;
    if (md_unfilled_open(&c->unfilled, m, c->micro * texts, err))
        return -1;
    *task = (tr_task){.arg = c, .unit = "pairs", .units = batch, .next = next, .plan = plan, .gradients = gradients};
    return 0;
}

void tr_contrastive_close(tr_contrastive *c)
{
    md_unfilled_close(&c->unfilled);
    bs_free(c->features);
    c->features = NULL;
}
