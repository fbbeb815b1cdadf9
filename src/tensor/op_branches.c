/* op_branches.c - what looks at sequences, where they are of unlike length and may have their beginnings in common: what they share is a row but once, wherever it stands. */
#include <math.h>
#include <string.h>

#include "branches.h"

/* x is all rows, and nothing learns. */
static bool suits(tn_ctx *cx, const char *op, tn_t x)
{
    bool all = x.rank == 3 && tn_rows(x) == cx->branches->rows;
    if (!all)
        tn_fail(cx, "%s: %ld rows where the sequences have %ld", op, tn_rows(x), cx->branches->rows);
    else if (cx->tape)
        tn_fail(cx, "%s: sequences of unlike length cannot learn", op);
    return all && !cx->tape;
}

bool tn_branches_refused(tn_ctx *cx, const char *op)
{
    if (cx->branches)
        tn_fail(cx, "%s: sequences of unlike length are not known here", op);
    return cx->branches != NULL;
}

/* ---- attention ---------------------------------------------------------------------------------------------- */

/* Its keys lie one behind the other, as where nothing is shared. */
static bool in_a_row(const tn_branch *b) { return b->row[b->length - 1] - b->row[0] == b->length - 1; }

/* Every position a page of its own. */
static void put_pages(const tn_branch *b, const kn_attn *a, const float *k, const float *v, kn_page *pages)
{
    for (long i = 0; i < b->length; i++)
        pages[i] = (kn_page){.k = k + b->row[i] * a->k_row, .v = v + b->row[i] * a->v_row};
}

static void count(tn_ctx *cx, const kn_attn *a, long queries, long keys)
{
    double pairs = (double)queries * ((double)keys - (a->causal ? (double)queries / 2 : 0));
    cx->flops += 2 * (double)a->heads * pairs * (double)(a->dk + a->dv);
}

/* The own rows of each, which see what it shares, too. */
static void attend_each(tn_ctx *cx, const kn_attn *shape, kn_attn *each, kn_page *pages, void *scratch)
{
    const tn_branches *all = cx->branches;
    long first = 0;
    for (int i = 0; i < all->n; i++, pages += all->longest) {
        const tn_branch *b = &all->branch[i];
        kn_attn *a = &each[i];
        *a = *shape;
        a->tq = b->own;
        a->tk = b->length;
        a->q += first * a->q_row;
        a->y += first * a->y_row;
        a->pages = in_a_row(b) ? NULL : pages;
        a->k += b->row[0] * a->k_row;
        a->v += b->row[0] * a->v_row;
        if (a->pages)
            put_pages(b, a, shape->k, shape->v, pages);
        count(cx, a, b->own, b->length);
        first += b->own;
    }
    kn_attn_forward_each(cx->work, each, all->n, scratch);
}

static bool shares(const tn_branches *all)
{
    bool any = false;
    for (int i = 0; i < all->n; i++)
        any |= all->branch[i].own < all->branch[i].length;
    return any;
}

/* One query of each, which sees all of it, or what there is up to last_key. */
static void attend_pooled(tn_ctx *cx, const kn_attn *shape, const int *last_key, int *keys, kn_page *pages, void *scratch)
{
    const tn_branches *all = cx->branches;
    kn_attn a = *shape;
    for (int i = 0; i < all->n; i++) {
        put_pages(&all->branch[i], &a, a.k, a.v, pages + i * all->longest);
        keys[i] = last_key ? last_key[i] + 1 : (int)all->branch[i].length;
        count(cx, &a, 1, keys[i]);
    }
    a.batch = all->n;
    a.keys = keys;
    kn_attn_forward(cx->work, &a, scratch);
}

static bool plain(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *s)
{
    if (s->head_major || s->kv_heads || s->key_mask || s->window || s->from || s->bias.v.rank) {
        tn_fail(cx, "attention: sequences of unlike length take no mask, window, bias or shared heads");
        return false;
    }
    if (q.rank == 3 && s->heads > 0 && tn_last(q) == tn_last(k) && tn_last(k) % s->heads == 0 && tn_last(v) % s->heads == 0)
        return true;
    tn_fail(cx, "attention: widths %ld, %ld, %ld do not split into %ld heads", tn_last(q), tn_last(k), tn_last(v), s->heads);
    return false;
}

/* Of the sequence that takes most. */
static kn_attn shape_of(const tn_branches *all, tn_t q, tn_t k, tn_t v, const tn_attention_args *s, bool pooled)
{
    kn_attn a = {.batch = 1, .heads = s->heads, .kv_heads = s->heads, .tk = all->longest, .page_keys = 1};
    a.tq = pooled ? 1 : all->longest;
    a.causal = s->causal && !pooled;
    a.dk = tn_last(q) / s->heads;
    a.dv = tn_last(v) / s->heads;
    a.scale = s->scale != 0 ? s->scale : (float)(1 / sqrt((double)a.dk));
    a.q_row = a.k_row = a.q_batch = tn_last(q);
    a.v_row = a.y_row = a.y_batch = tn_last(v);
    a.q_head = a.k_head = a.dk;
    a.v_head = a.y_head = a.dv;
    a.q = q.v;
    a.k = k.v;
    a.v = v.v;
    return a;
}

tn_t tn_branches_attention(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *s)
{
    const tn_branches *all = cx->branches;
    bool pooled = s->last_key || tn_rows(q) != all->rows;
    if (!suits(cx, "attention", k) || !suits(cx, "attention", v) || !plain(cx, q, k, v, s))
        return (tn_t){0};
    if (pooled && tn_rows(q) != all->n)
        return tn_fail(cx, "attention: %ld queries of %d sequences with %ld rows", tn_rows(q), all->n, all->rows);
    if (!s->causal && !s->last_key && tn_live(cx) && shares(all))
        return tn_fail(cx, "attention: what sees both ways has no beginning in common with another");
    kn_attn a = shape_of(all, q, k, v, s, pooled);
    tn_t y = q;
    y.shape[2] = tn_last(v);
    y = tn_like(cx, y, false);
    a.y = y.v;
    tn_scope scope = tn_begin(cx);
    kn_page *pages = tn_bytes(cx, (size_t)(all->n * all->longest) * sizeof *pages);
    int *keys = tn_bytes(cx, (size_t)all->n * sizeof *keys);
    kn_attn *each = tn_bytes(cx, (size_t)all->n * sizeof *each);
    a.pages = pages ? pages : (const kn_page *)&a; /* a plan has none, but will have */
    void *scratch = tn_bytes(cx, kn_attn_scratch(cx->kn, &a) * (size_t)cx->threads);
    if (tn_live(cx) && pooled)
        attend_pooled(cx, &a, s->last_key, keys, pages, scratch);
    else if (tn_live(cx))
        attend_each(cx, &a, each, pages, scratch);
    cx->used = scope.used;
    return y;
}

/* ---- positions, and one row of each ------------------------------------------------------------------------- */

tn_t tn_branches_add_positions(tn_ctx *cx, tn_t x, const tn_param *table)
{
    if (!suits(cx, "positions", x))
        return (tn_t){0};
    if (cx->branches->longest > table->shape[table->rank - 2])
        return tn_fail(cx, "positions: %ld tokens, the model has %ld positions", cx->branches->longest,
                       table->shape[table->rank - 2]);
    long width = tn_last(x), row = 0;
    const float *positions = table->v;
    tn_t y = tn_like(cx, x, false);
    for (int i = 0; i < cx->branches->n && tn_live(cx); i++) {
        const tn_branch *b = &cx->branches->branch[i];
        cx->kn->add(b->own * width, x.v + row * width, positions + (b->length - b->own) * width, y.v + row * width);
        row += b->own;
    }
    return y;
}

tn_t tn_branches_select(tn_ctx *cx, tn_t x, const int *index)
{
    if (!suits(cx, "select", x))
        return (tn_t){0};
    long width = tn_last(x);
    tn_t y = tn_new2(cx, false, cx->branches->n, width);
    for (int i = 0; i < cx->branches->n && tn_live(cx); i++) {
        const tn_branch *b = &cx->branches->branch[i];
        int at = index ? index[i] : 0;
        if (at < 0 || at >= b->length)
            return tn_fail(cx, "select: row %d of %ld", at, b->length);
        memcpy(y.v + i * width, x.v + b->row[at] * width, (size_t)width * sizeof *y.v);
    }
    return y;
}

tn_t tn_branches_part(tn_ctx *cx, tn_t x, int i)
{
    if (!suits(cx, "sequence", x))
        return (tn_t){0};
    const tn_branch *b = &cx->branches->branch[i];
    if (!in_a_row(b))
        return tn_fail(cx, "sequence %d shares its beginning: its rows do not lie together", i);
    x.shape[1] = b->length;
    x.v += b->row[0] * tn_last(x);
    return x;
}
