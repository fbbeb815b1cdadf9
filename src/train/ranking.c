/* ranking.c - the loss of texts that mean the same: each anchor must find its positive among all positives (and negatives) of the batch, by
 * cosine over a temperature (the multiple negatives ranking loss: Henderson 2017, as Reimers 2019's library trains sentence models). */
#include <math.h>

#include "trainer.h"

static tn_t loss_of(tn_ctx *cx, tr_ranking *t, const md_batch *b)
{
    const dt_anchors *l = t->lines;
    tn_t rows = tr_embed_texts(cx, l->m, &t->unfilled, b);
    tn_t anchors = tn_pick(cx, rows, l->rows, l->n), others = tn_pick(cx, rows, l->rows + l->n, b->texts - l->n);
    tn_t scores = tn_scale(cx, tn_matmul_nt(cx, anchors, others), 1 / t->temperature);
    return tn_soft_cross_entropy(cx, scores, l->target, false);
}

/* Texts as long as the longest there is, where the model does not fill them up to its own length. */
static size_t plan(void *arg, const tr_pass *p, const kn_table *kn, int threads)
{
    tr_ranking *t = arg;
    const dt_sentences *s = t->lines->s;
    md_batch b = md_plan_texts(p->m, t->lines->n * s->sides);
    md_sizes sizes;
    tn_ctx cx;
    p->m->family->sizes(p->m->m, &sizes);
    if (sizes.padding != MD_PADDING_READ)
        b.length = s->longest;
    tr_begin_plan(p, kn, threads, &cx, true);
    loss_of(&cx, t, &b);
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

static double gradients(void *arg, const tr_pass *p, const md_batch *b, oc_err *err)
{
    tr_ranking *t = arg;
    tn_ctx cx;
    tr_begin(p, &cx, true);
    tn_t loss = loss_of(&cx, t, b);
    tn_seed(&cx, loss, NULL);
    double value = tn_backward(&cx) ? (double)NAN : (double)loss.v[0];
    return tr_checked(p, &cx, value, err);
}

static const md_batch *next(void *arg, long step, bs_pool *pool, oc_err *err)
{
    (void)pool;
    (void)err;
    return dt_anchors_next(((tr_ranking *)arg)->lines, step);
}

bool tr_ranking_can(const md_model *m)
{
    return (md_can(m) & (MD_EMBEDS_IMAGES | MD_EMBEDS_TEXTS | MD_GENERATES)) == MD_EMBEDS_TEXTS;
}

int tr_ranking_open(tr_ranking *t, dt_anchors *lines, float temperature, tr_task *task, oc_err *err)
{
    long texts = lines->n * lines->s->sides;
    *t = (tr_ranking){.lines = lines, .temperature = temperature};
    *task = (tr_task){.arg = t, .unit = "texts", .units = texts, .next = next, .plan = plan, .gradients = gradients};
    return md_unfilled_open(&t->unfilled, lines->m, texts, err);
}

void tr_ranking_close(tr_ranking *t) { md_unfilled_close(&t->unfilled); }
