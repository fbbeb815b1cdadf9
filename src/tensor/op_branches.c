/* op_branches.c - causal attention of sequences that have their beginnings in common: what they share is a row but once, wherever it stands. */
#include <math.h>

#include "ops.h"

static bool suits(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *s, long queries)
{
    const tn_branches *all = cx->branches;
    if (cx->tape || s->head_major || s->key_mask || s->window || s->from || s->bias.v.rank || !(s->causal || s->last_key) ||
        s->kv_heads) {
        tn_fail(cx, "attention: sequences that share their beginnings are looked at causally, without masks or gradients");
        return false;
    }
    if (q.rank == 3 && k.rank == 3 && v.rank == 3 && tn_rows(q) == queries && tn_rows(k) == all->rows &&
        tn_rows(v) == all->rows && s->heads > 0 && tn_last(q) == tn_last(k) && tn_last(k) % s->heads == 0 &&
        tn_last(v) % s->heads == 0)
        return true;
    tn_fail(cx, "attention: %ld rows of queries, %ld of keys where sequences that share their beginnings have %ld", tn_rows(q),
            tn_rows(k), all->rows);
    return false;
}

/* Its keys lie one behind the other, as where nothing is shared. */
static bool in_a_row(const tn_branch *b) { return b->row[b->length - 1] - b->row[0] == b->length - 1; }

/* Every position a page of its own. */
static void put_pages(const tn_branch *b, const kn_attn *a, const float *k, const float *v, kn_page *pages)
{
    for (long i = 0; i < b->length; i++)
        pages[i] = (kn_page){.k = k + b->row[i] * a->k_row, .v = v + b->row[i] * a->v_row};
}

/* Twice the pairs of a query and a key. */
static void count(tn_ctx *cx, const kn_attn *a, long pairs) { cx->flops += (double)(a->heads * pairs) * (double)(a->dk + a->dv); }

/* The own rows of each, after what it shares. */
static void attend_each(tn_ctx *cx, const kn_attn *shape, kn_page *pages, void *scratch)
{
    long first = 0;
    for (int i = 0; i < cx->branches->n; i++) {
        const tn_branch *b = &cx->branches->branch[i];
        kn_attn a = *shape;
        a.tq = b->own;
        a.tk = b->length;
        a.q += first * a.q_row;
        a.y += first * a.y_row;
        if (in_a_row(b)) {
            a.pages = NULL;
            a.k += b->row[0] * a.k_row;
            a.v += b->row[0] * a.v_row;
        } else
            put_pages(b, &a, shape->k, shape->v, pages);
        kn_attn_forward(cx->work, &a, scratch);
        count(cx, &a, b->own * (2 * b->length - b->own));
        first += b->own;
    }
}

/* The last row of each, all at once. */
static void attend_last(tn_ctx *cx, const kn_attn *shape, kn_page *pages, int *keys, void *scratch)
{
    kn_attn a = *shape;
    for (int i = 0; i < cx->branches->n; i++) {
        put_pages(&cx->branches->branch[i], &a, a.k, a.v, pages + i * a.tk);
        keys[i] = (int)cx->branches->branch[i].length;
        count(cx, &a, 2L * keys[i]);
    }
    a.keys = keys;
    kn_attn_forward(cx->work, &a, scratch);
}

tn_t tn_attention_of_branches(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *s)
{
    const tn_branches *all = cx->branches;
    bool last = s->last_key != NULL;
    if (!suits(cx, q, k, v, s, last ? all->n : all->rows))
        return (tn_t){0};
    kn_attn a = {.batch = last ? all->n : 1,
                 .heads = s->heads,
                 .kv_heads = s->heads,
                 .tq = last ? 1 : all->longest,
                 .tk = all->longest,
                 .dk = tn_last(q) / s->heads,
                 .dv = tn_last(v) / s->heads,
                 .causal = true,
                 .page_keys = 1};
    a.scale = s->scale != 0 ? s->scale : (float)(1 / sqrt((double)a.dk));
    a.q_row = a.k_row = a.q_batch = tn_last(q);
    a.v_row = a.y_row = a.y_batch = tn_last(v);
    a.q_head = a.k_head = a.dk;
    a.v_head = a.y_head = a.dv;
    tn_t y = q;
    y.shape[2] = tn_last(v);
    y = tn_like(cx, y, false);
    a.q = q.v, a.k = k.v, a.v = v.v, a.y = y.v;
    tn_scope scope = tn_begin(cx);
    kn_page *pages = tn_bytes(cx, (size_t)(a.batch * a.tk) * sizeof *pages);
    int *keys = tn_bytes(cx, (size_t)a.batch * sizeof *keys);
    a.pages = pages ? pages : (const kn_page *)&a; /* a plan has none, but will have */
    void *scratch = tn_bytes(cx, kn_attn_scratch(cx->kn, &a) * (size_t)cx->threads);
    if (tn_live(cx) && last)
        attend_last(cx, &a, pages, keys, scratch);
    else if (tn_live(cx))
        attend_each(cx, &a, pages, scratch);
    cx->used = scope.used;
    return y;
}
