/* next_token.c - the gradients of a batch of text, in parts where it does not fit at once: the loss is a mean over tokens, so each part counts by its own. */
#include <math.h>

#include "trainer.h"

/* Tokens of a row that are foretold. */
static long written(const md_batch *b) { return b->decoder_ids ? b->decoder_length : b->length; }

static md_batch part_of(const md_batch *b, long at, long n)
{
    md_batch p = *b;
    p.texts = n;
    p.input_ids += at * b->length;
    if (b->decoder_ids) {
        p.attention_mask += at * b->length;
        p.decoder_ids += at * b->decoder_length;
    } else {
        p.positions += at * b->length;
        p.from += at * b->length;
    }
    p.target += at * written(b);
    return p;
}

static long count_targets(const md_batch *b)
{
    long n = 0;
    for (long i = 0; i < b->texts * written(b); i++)
        n += b->target[i] != -100;
    return n;
}

static tn_t loss_of(tn_ctx *cx, const md_model *m, const md_batch *b)
{
    if (b->decoder_ids) {
        md_outputs out = {0};
        m->family->forward(cx, m->m, b, &out);
        return out.loss;
    }
    tn_t y = m->family->logits(cx, m->m, b);
    return tn_cross_entropy(cx, tn_reshape(cx, y, 2, (long[]){tn_rows(y), tn_last(y)}), b->target, 0);
}

static size_t plan(void *arg, const tr_pass *p, const kn_table *kn, int threads)
{
    const tr_next_token *t = arg;
    md_batch b = *dt_rows_shape(t->rows);
    tn_ctx cx;
    b.texts = t->micro;
    tr_begin_plan(p, kn, threads, &cx, true);
    loss_of(&cx, p->m, &b);
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

static double gradients(void *arg, const tr_pass *p, const md_batch *b, oc_err *err)
{
    const tr_next_token *t = arg;
    long all = count_targets(b);
    double loss = 0;
    tn_ctx cx = {0};
    for (long at = 0; at < b->texts && !cx.failed; at += t->micro) {
        md_batch part = part_of(b, at, t->micro);
        float share = (float)count_targets(&part) / (float)all;
        if (share == 0)
            continue;
        tr_begin(p, &cx, true);
        tn_t y = loss_of(&cx, p->m, &part);
        tn_seed(&cx, y, &share);
        if (!tn_backward(&cx))
            loss += (double)share * (double)y.v[0];
    }
    return tr_checked(p, &cx, loss, err);
}

static const md_batch *next(void *arg, long step, bs_pool *pool, oc_err *err)
{
    (void)pool;
    (void)err;
    return dt_rows_next(((tr_next_token *)arg)->rows, step);
}

int tr_next_token_open(tr_next_token *n, dt_rows *rows, long micro, tr_task *task, oc_err *err)
{
    const md_batch *b = dt_rows_shape(rows);
    *n = (tr_next_token){rows, micro > 0 ? micro : b->texts};
    if (b->texts % n->micro)
        return bs_err(err, "a batch of %ld does not split into parts of %ld", b->texts, n->micro);
    *task = (tr_task){.arg = n, .unit = "tokens", .units = b->texts * b->length, .next = next, .plan = plan, .gradients = gradients};
    return 0;
}
