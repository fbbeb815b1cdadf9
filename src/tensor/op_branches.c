/* op_branches.c - what looks at sequences, where they are of unlike length and may have their beginnings in common: what they share is a row but once, wherever it stands. */
#include <math.h>
#include <string.h>

#include "branches.h"

/* x is all rows. */
static bool suits(tn_ctx *cx, const char *op, tn_t x)
{
    if (x.rank == 3 && tn_rows(x) == cx->branches->rows)
        return true;
    tn_fail(cx, "%s: %ld rows where the sequences have %ld", op, tn_rows(x), cx->branches->rows);
    return false;
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

/* `queries` rows from q's row `first` on look at the first `keys` positions of b. */
static kn_attn one_of(const tn_branch *b, const kn_attn *shape, long first, long queries, long keys)
{
    kn_attn a = *shape;
    a.tq = queries;
    a.tk = keys;
    a.q += first * a.q_row;
    a.y += first * a.y_row;
    a.k += b->row[0] * a.k_row;
    a.v += b->row[0] * a.v_row;
    a.pages = NULL;
    return a;
}

/* The own rows of each, which see what it shares, too. */
static void attend_each(tn_ctx *cx, const kn_attn *shape, kn_attn *each, kn_page *pages, void *scratch)
{
    const tn_branches *all = cx->branches;
    long first = 0;
    for (int i = 0; i < all->n; i++, pages += all->longest) {
        const tn_branch *b = &all->branch[i];
        each[i] = one_of(b, shape, first, b->own, b->length);
        if (!in_a_row(b)) {
            each[i].pages = pages;
            put_pages(b, shape, shape->k, shape->v, pages);
        }
        count(cx, shape, b->own, b->length);
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

/* ---- and where it learns ------------------------------------------------------------------------------------ */

/* Nothing is shared, so that each sequence is an attention of its own. */
typedef struct branches_record {
    tn_record head;
    tn_t q, k, v, y;
    kn_attn shape, *each;
    kn_attn_grads *grads;
    int n;
} branches_record;

static void branches_backward(tn_ctx *cx, tn_record *self)
{
    branches_record *r = (branches_record *)self;
    void *scratch = tn_bytes(cx, kn_attn_backward_scratch(cx->kn, &r->shape) * (size_t)cx->threads);
    const float *dy = tn_gradient(cx, r->y);
    float *dq = tn_gradient(cx, r->q), *dk = tn_gradient(cx, r->k), *dv = tn_gradient(cx, r->v);
    for (int i = 0; i < r->n; i++) {
        const kn_attn *a = &r->each[i];
        r->grads[i] = (kn_attn_grads){.dy = dy + (a->y - r->y.v),
                                      .dq = dq ? dq + (a->q - r->q.v) : NULL,
                                      .dk = dk ? dk + (a->k - r->k.v) : NULL,
                                      .dv = dv ? dv + (a->v - r->v.v) : NULL};
    }
    if (scratch)
        kn_attn_backward_each(cx->work, r->each, r->grads, r->n, scratch);
}

/* One query of each, or all its rows. */
static void attend_and_keep(tn_ctx *cx, branches_record *r, const int *last_key, float *lse, void *scratch)
{
    const tn_branches *all = cx->branches;
    bool pooled = r->shape.tq == 1;
    long first = 0;
    for (int i = 0; i < r->n; i++) {
        const tn_branch *b = &all->branch[i];
        long queries = pooled ? 1 : b->length, keys = pooled && last_key ? last_key[i] + 1 : b->length;
        r->each[i] = one_of(b, &r->shape, first, queries, keys);
        r->each[i].lse = lse + first * r->shape.heads;
        count(cx, &r->shape, queries, keys);
        first += queries;
    }
    kn_attn_forward_each(cx->work, r->each, r->n, scratch);
}

static tn_t attention_that_learns(tn_ctx *cx, tn_t q, tn_t k, tn_t v, tn_t y, const kn_attn *shape, const int *last_key)
{
    const tn_branches *all = cx->branches;
    if (tn_live(cx) && shares(all))
        return tn_fail(cx, "attention: what learns has no beginning in common with another");
    branches_record r = {.q = q, .k = k, .v = v, .y = y, .shape = *shape, .n = all->n};
    r.each = tn_bytes(cx, (size_t)all->n * sizeof *r.each);
    r.grads = tn_bytes(cx, (size_t)all->n * sizeof *r.grads);
    float *lse = tn_bytes(cx, (size_t)(tn_rows(q) * shape->heads) * sizeof *lse);
    size_t mark = cx->used;
    void *scratch = tn_bytes(cx, kn_attn_scratch(cx->kn, shape) * (size_t)cx->threads);
    if (tn_live(cx))
        attend_and_keep(cx, &r, last_key, lse, scratch);
    cx->used = mark;
    tn_backward_needs(cx, kn_attn_backward_scratch(cx->kn, shape) * (size_t)cx->threads);
    branches_record *kept = tn_push(cx, sizeof *kept, branches_backward);
    if (kept) {
        r.head = kept->head;
        *kept = r;
    }
    return y;
}

/* ---- attention, either way ---------------------------------------------------------------------------------- */

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
    y = tn_like(cx, y, q.grad || k.grad || v.grad);
    a.y = y.v;
    if (y.grad)
        return attention_that_learns(cx, q, k, v, y, &a, s->last_key);
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

typedef struct row_record {
    tn_record head;
    tn_t x, y;
    const tn_param *table;
    const tn_branches *all;
    const int *index;
} row_record;

static void positions_backward(tn_ctx *cx, tn_record *self)
{
    row_record *r = (row_record *)self;
    float *to = tn_grad_of(cx, r->table);
    const float *dy = to ? tn_gradient(cx, r->y) : NULL;
    long width = tn_last(r->y);
    tn_pass_gradient(cx, r->y, r->x);
    for (int i = 0; i < r->all->n && to; i++) {
        const tn_branch *b = &r->all->branch[i];
        float *dp = to + (b->length - b->own) * width;
        cx->kn->add(b->own * width, dp, dy, dp);
        dy += b->own * width;
    }
}

tn_t tn_branches_add_positions(tn_ctx *cx, tn_t x, const tn_param *table)
{
    if (!suits(cx, "positions", x))
        return (tn_t){0};
    if (cx->branches->longest > table->shape[table->rank - 2])
        return tn_fail(cx, "positions: %ld tokens, the model has %ld positions", cx->branches->longest,
                       table->shape[table->rank - 2]);
    long width = tn_last(x), row = 0;
    const float *positions = table->v;
    tn_t y = tn_like(cx, x, x.grad || tn_grad_of(cx, table));
    for (int i = 0; i < cx->branches->n && tn_live(cx); i++) {
        const tn_branch *b = &cx->branches->branch[i];
        cx->kn->add(b->own * width, x.v + row * width, positions + (b->length - b->own) * width, y.v + row * width);
        row += b->own;
    }
    row_record *r = y.grad ? tn_push(cx, sizeof *r, positions_backward) : NULL;
    if (r)
        *r = (row_record){r->head, x, y, table, cx->branches, NULL};
    return y;
}

static void select_backward(tn_ctx *cx, tn_record *self)
{
    row_record *r = (row_record *)self;
    long width = tn_last(r->x);
    float *dx = tn_gradient(cx, r->x);
    const float *dy = tn_gradient(cx, r->y);
    for (int i = 0; i < r->all->n; i++) {
        float *to = dx + r->all->branch[i].row[r->index ? r->index[i] : 0] * width;
        cx->kn->add(width, to, dy + i * width, to);
    }
}

tn_t tn_branches_select(tn_ctx *cx, tn_t x, const int *index)
{
    if (!suits(cx, "select", x))
        return (tn_t){0};
    long width = tn_last(x);
    tn_t y = tn_new2(cx, x.grad, cx->branches->n, width);
    for (int i = 0; i < cx->branches->n && tn_live(cx); i++) {
        const tn_branch *b = &cx->branches->branch[i];
        int at = index ? index[i] : 0;
        if (at < 0 || at >= b->length)
            return tn_fail(cx, "select: row %d of %ld", at, b->length);
        memcpy(y.v + i * width, x.v + b->row[at] * width, (size_t)width * sizeof *y.v);
    }
    row_record *r = y.grad ? tn_push(cx, sizeof *r, select_backward) : NULL;
    if (r)
        *r = (row_record){r->head, x, y, NULL, cx->branches, index};
    return y;
}

bool tn_branches_lie_together(tn_ctx *cx, const char *op, tn_t x)
{
    bool good = suits(cx, op, x);
    for (int i = 0; good && i < cx->branches->n && tn_live(cx); i++)
        if (!in_a_row(&cx->branches->branch[i])) {
            tn_fail(cx, "%s: sequence %d shares its beginning: its rows do not lie together", op, i);
            good = false;
        }
    return good;
}
