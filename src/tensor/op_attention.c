/* op_attention.c - scaled dot-product attention: of whole sequences, and of sequences that go on. */
#include <math.h>

#include "branches.h"

typedef struct attention_record {
    tn_record head;
    tn_t q, k, v, bias, y;
    kn_attn a;
} attention_record;

/* Where element (batch, time, head) of x lies, in either layout. */
static void strides(bool head_major, long heads, long t, long d, long *batch, long *row, long *head)
{
    *batch = heads * t * d;
    *row = head_major ? d : heads * d;
    *head = head_major ? t * d : d;
}

static bool shapes(tn_ctx *cx, const tn_attention_args *s, tn_t q, tn_t k, tn_t v, kn_attn *a)
{
    int rank = s->head_major ? 4 : 3, time = s->head_major ? 2 : 1;
    if (q.rank != rank || k.rank != rank || v.rank != rank || q.shape[0] != k.shape[0] || q.shape[0] != v.shape[0] ||
        k.shape[time] != v.shape[time]) {
        tn_fail(cx, "attention: q, k and v differ in batch or time");
        return false;
    }
    a->batch = q.shape[0];
    a->tq = q.shape[time];
    a->tk = k.shape[time];
    a->heads = s->head_major ? q.shape[1] : s->heads;
    a->kv_heads = s->head_major ? k.shape[1] : s->kv_heads ? s->kv_heads : s->heads;
    long per_q = s->head_major ? 1 : a->heads, per_k = s->head_major ? 1 : a->kv_heads;
    if (per_q < 1 || per_k < 1 || a->kv_heads < 1 || a->heads % a->kv_heads || tn_last(q) % per_q || tn_last(k) % per_k ||
        tn_last(v) % per_k) {
        tn_fail(cx, "attention: widths %ld, %ld, %ld do not split into %ld and %ld heads", tn_last(q), tn_last(k), tn_last(v),
                a->heads, a->kv_heads);
        return false;
    }
    a->dk = tn_last(q) / per_q;
    a->dv = tn_last(v) / per_k;
    if (tn_last(k) / per_k != a->dk || (s->head_major && v.shape[1] != a->kv_heads)) {
        tn_fail(cx, "attention: a query is %ld wide, a key %ld", a->dk, tn_last(k) / per_k);
        return false;
    }
    return true;
}

static void attention_backward(tn_ctx *cx, tn_record *self)
{
    attention_record *r = (attention_record *)self;
    void *scratch = tn_bytes(cx, kn_attn_backward_scratch(cx->kn, &r->a) * (size_t)cx->threads);
    if (scratch)
        kn_attn_backward(cx->work, &r->a, tn_gradient(cx, r->y), tn_gradient(cx, r->q), tn_gradient(cx, r->k),
                         tn_gradient(cx, r->v), tn_gradient(cx, r->bias), scratch);
}

/* A plan has no numbers, but will have. */
static bool put_bias(tn_ctx *cx, const tn_bias *bias, kn_attn *a)
{
    static const float later[1];
    if (!bias->v.rank)
        return true;
    a->bias = bias->v.v ? bias->v.v : later;
    a->bias_head = tn_last(bias->v);
    a->bias_zero = bias->zero;
    if (bias->v.shape[0] == a->heads && bias->zero >= a->tk - 1 && a->bias_head - bias->zero >= a->tq)
        return true;
    tn_fail(cx, "attention: a bias of %ld heads, %ld distances does not suit %ld heads, %ld queries, %ld keys", bias->v.shape[0],
            a->bias_head, a->heads, a->tq, a->tk);
    return false;
}

/* What a lone query sees, as a key mask. */
static const uint8_t *mask_up_to(tn_ctx *cx, const kn_attn *a, const int *last_key)
{
    uint8_t *mask = tn_bytes(cx, (size_t)(a->batch * a->tk));
    for (long i = 0; mask && i < a->batch * a->tk; i++)
        mask[i] = i % a->tk <= last_key[i / a->tk] && (!a->key_mask || a->key_mask[i]);
    return mask;
}

/* ---- sequences that go on --------------------------------------------------------------------------------- */

/* Attention of steps to their own sequences, or to what they remember. */
typedef struct steps_view {
    const tn_steps *t;
    tn_cache *cache;
    bool memory;
    long layer;
} steps_view;

static long keys_of(const steps_view *view, int i)
{
    const tn_step *s = &view->t->step[i];
    return view->memory ? s->memory_length : s->position + s->count;
}

static long longest(const steps_view *view)
{
    long n = 0;
    for (int i = 0; i < view->t->n; i++)
        n = n > keys_of(view, i) ? n : keys_of(view, i);
    return n;
}

static long most_rows(const tn_steps *t)
{
    long n = 0;
    for (int i = 0; i < t->n; i++)
        n = n > t->step[i].count ? n : t->step[i].count;
    return n;
}

/* Steps that can be attended at once: of one row each, or one alone. */
static int together(const tn_steps *t, int first)
{
    int n = 1;
    while (t->step[first].count == 1 && first + n < t->n && t->step[first + n].count == 1)
        n++;
    return n;
}

/* n steps as a batch over pages of the cache. `row` is where their rows begin. */
static kn_attn over_pages(const steps_view *view, int first, int n, const kn_attn *shape, long row, kn_page *pages, int *keys)
{
    kn_attn a = *shape;
    const tn_step *step = view->t->step + first;
    long each = tn_page_keys();
    a.batch = n;
    a.tq = step->count;
    a.tk = 0;
    for (int i = 0; i < n; i++) {
        keys[i] = (int)keys_of(view, first + i);
        a.tk = a.tk > keys[i] ? a.tk : keys[i];
    }
    long list = (a.tk + each - 1) / each;
    for (int i = 0; i < n; i++)
        tn_cache_pages(view->cache, view->memory ? step[i].memory : step[i].sequence, view->layer, keys[i], pages + i * list);
    a.keys = keys;
    a.pages = pages;
    a.page_keys = each;
    a.k_row = a.dk;
    a.v_row = a.dv;
    a.k_head = each * a.dk;
    a.v_head = each * a.dv;
    a.scale_row = 1;
    a.scale_head = each;
    a.q += row * a.q_row;
    a.y += row * a.y_row;
    a.q_batch = a.tq * a.q_row;
    a.y_batch = a.tq * a.y_row;
    return a;
}

/* The new rows of k and v are put down. */
static void go_on(tn_ctx *cx, const steps_view *view, tn_t k, tn_t v)
{
    const tn_step *step = view->t->step;
    for (long i = 0, row = 0; i < view->t->n; row += step[i++].count)
        tn_cache_write(view->cache, cx->kn, step[i].sequence, view->layer, step[i].position, step[i].count,
                       k.v + row * tn_last(k), v.v + row * tn_last(v));
}

/* Every sequence's queries see all that it has. */
static void run_steps(tn_ctx *cx, const steps_view *view, const kn_attn *shape, kn_page *pages, int *keys, void *scratch)
{
    long row = 0;
    for (int i = 0, n; i < view->t->n; i += n) {
        n = together(view->t, i);
        kn_attn a = over_pages(view, i, n, shape, row, pages, keys);
        kn_attn_forward(cx->work, &a, scratch);
        row += n * view->t->step[i].count;
    }
}

/* Heads of queries and of the cache, and how q's rows lie. */
static bool suit_steps(tn_ctx *cx, const steps_view *view, tn_t q, const tn_attention_args *s, kn_attn *a)
{
    const tn_cache_shape *c = tn_cache_shape_of(view->cache);
    long rows = 0;
    for (int i = 0; i < view->t->n; i++)
        rows += view->t->step[i].count;
    if (cx->tape || s->head_major || q.rank != 3 || q.shape[0] != 1 || rows != q.shape[1] || s->heads < 1 ||
        tn_last(q) % s->heads) {
        tn_fail(cx, "attention: %ld rows of queries where the sequences go on by %ld", tn_rows(q), rows);
        return false;
    }
    a->heads = s->heads;
    a->kv_heads = s->kv_heads ? s->kv_heads : s->heads;
    a->dk = tn_last(q) / s->heads;
    a->dv = c->value;
    if (view->layer >= c->layers || a->kv_heads != c->kv_heads || a->dk != c->key) {
        tn_fail(cx, "attention: the cache has %ld layers of %ld heads of %ld, this is layer %ld of %ld heads of %ld", c->layers,
                c->kv_heads, c->key, view->layer + 1, a->kv_heads, a->dk);
        return false;
    }
    a->tq = most_rows(view->t);
    a->tk = longest(view);
    a->scale = s->scale != 0 ? s->scale : (float)(1 / sqrt((double)a->dk));
    a->q_row = a->heads * a->dk;
    a->y_row = a->heads * a->dv;
    a->q_head = a->dk;
    a->y_head = a->dv;
    a->kv_type = c->type;
    return put_bias(cx, &s->bias, a);
}

static tn_t attend_on(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *s)
{
    const tn_steps *t = cx->steps;
    steps_view view = {t, s->memory ? t->memory : t->cache, s->memory != 0, (s->memory ? s->memory : s->layer) - 1};
    kn_attn a = {.causal = s->causal, .window = s->window};
    if (!suit_steps(cx, &view, q, s, &a))
        return (tn_t){0};
    if (!view.memory && (tn_rows(k) != tn_rows(q) || tn_rows(v) != tn_rows(q) || tn_last(k) != a.kv_heads * a.dk ||
                         tn_last(v) != a.kv_heads * a.dv))
        return tn_fail(cx, "attention: %ld rows of queries, %ld of keys %ld wide", tn_rows(q), tn_rows(k), tn_last(k));
    tn_t y = q;
    y.shape[y.rank - 1] = a.heads * a.dv;
    y = tn_like(cx, y, false);
    a.q = q.v;
    a.y = y.v;
    cx->flops += 2.0 * (double)(a.heads * q.shape[1]) * (double)a.tk * (double)(a.dk + a.dv);
    size_t mark = cx->used;
    long list = (a.tk + tn_page_keys() - 1) / tn_page_keys();
    kn_page *pages = tn_bytes(cx, (size_t)(t->n * list) * sizeof *pages);
    int *keys = tn_bytes(cx, (size_t)t->n * sizeof *keys);
    a.pages = pages ? pages : (const kn_page *)&a; /* a plan has none, but will have */
    void *scratch = tn_bytes(cx, kn_attn_scratch(cx->kn, &a) * (size_t)cx->threads);
    if (tn_live(cx)) {
        if (!view.memory)
            go_on(cx, &view, k, v);
        run_steps(cx, &view, &a, pages, keys, scratch);
    }
    cx->used = mark;
    return y;
}

/* ---- what is remembered ----------------------------------------------------------------------------------- */

bool tn_remembers_rows(const tn_ctx *cx) { return cx->steps && cx->steps->memory && tn_cache_shape_of(cx->steps->memory)->rows; }

void tn_remember_rows(tn_ctx *cx, tn_t rows) { tn_remember(cx, rows, rows, 1); }

void tn_remember(tn_ctx *cx, tn_t k, tn_t v, int layer)
{
    const tn_steps *t = cx->steps;
    if (cx->failed)
        return;
    if (!t || !t->memory || k.rank != 3 || v.rank != 3 || k.shape[0] != t->n || v.shape[0] != t->n || v.shape[1] != k.shape[1]) {
        tn_fail(cx, "remember: keys and values of every sequence were expected");
        return;
    }
    const tn_cache_shape *c = tn_cache_shape_of(t->memory);
    if (layer < 1 || layer > c->layers || tn_last(k) != c->kv_heads * c->key || tn_last(v) != c->kv_heads * c->value) {
        tn_fail(cx, "remember: the memory has %ld layers, %ld wide, this is layer %d, %ld wide", c->layers, c->kv_heads * c->key,
                layer, tn_last(k));
        return;
    }
    for (int i = 0; i < t->n; i++) {
        if (t->step[i].memory_length > k.shape[1])
            tn_fail(cx, "remember: %ld rows of keys where %ld are to be kept", k.shape[1], t->step[i].memory_length);
        if (tn_live(cx))
            tn_cache_write(t->memory, cx->kn, t->step[i].memory, layer - 1, 0, t->step[i].memory_length,
                           k.v + i * k.shape[1] * tn_last(k), v.v + i * v.shape[1] * tn_last(v));
    }
}

bool tn_can_attend_to_rows(const tn_lora *lora, const tn_linear_w *k_proj, const tn_linear_w *v_proj)
{
    const tn_param *k = &k_proj->weight, *v = &v_proj->weight;
    bool lie = k->rank == 2 && v->rank == 2 && k->v && v->v && !k_proj->in_first && !v_proj->in_first && k->shape[0] <= KN_HEAD_MOST && k->shape[1] <= KN_HEAD_MOST;
    return lie && !(lora && (lora[k->id].r || lora[v->id].r));
}

tn_t tn_attention_to_rows(tn_ctx *cx, tn_t q, const tn_linear_w *k_proj, const tn_linear_w *v_proj, const tn_attention_args *s)
{
    long rows = tn_rows(q), heads = s->heads, width = k_proj->weight.shape[1], out = v_proj->weight.shape[0];
    if (cx->failed)
        return (tn_t){0};
    if (!tn_remembers_rows(cx) || heads < 1 || tn_last(q) % heads || out % heads || v_proj->weight.shape[1] != width ||
        k_proj->weight.shape[0] != tn_last(q) || !tn_can_attend_to_rows(cx->lora, k_proj, v_proj))
        return tn_fail(cx, "attention: %ld heads of %ld do not look at rows of %ld", heads, tn_last(q), width);
    tn_t y = tn_new(cx, false, 3, (long[]){1, rows, out});
    tn_scope scope = tn_begin(cx);
    tn_t asked = tn_new(cx, false, 3, (long[]){1, rows, heads * width});
    kn_heads ask = {.heads = heads, .m = rows, .n = width, .k = tn_last(q) / heads, .a = q.v, .lda = tn_last(q), .b = k_proj->weight.v,
                    .c = (float *)asked.v, .ldc = heads * width};
    if (tn_live(cx))
        kn_heads_run(cx->work, &ask);
    tn_attention_args args = {.heads = heads, .kv_heads = 1, .memory = 1, .scale = s->scale != 0 ? s->scale : (float)(1 / sqrt((double)ask.k))};
    tn_t seen = attend_on(cx, asked, (tn_t){0}, (tn_t){0}, &args);
    const kn_packed *packed = tn_packed_of(cx, &v_proj->weight);
    kn_heads answer = {.heads = heads, .m = rows, .n = out / heads, .k = width, .a = seen.v, .lda = heads * width, .b = v_proj->weight.v,
                       .turned = true, .packed = packed && packed->dtype == KN_F32 ? packed : NULL, .bias = tn_has(&v_proj->bias) ? v_proj->bias.v : NULL,
                       .c = (float *)y.v, .ldc = out};
    if (tn_live(cx))
        kn_heads_run(cx->work, &answer);
    cx->flops += 2.0 * (double)(rows * width) * (double)(tn_last(q) + out);
    cx->used = scope.used;
    return y;
}

tn_t tn_attention(tn_ctx *cx, tn_t q, tn_t k, tn_t v, const tn_attention_args *s)
{
    kn_attn a = {.causal = s->causal, .key_mask = s->key_mask, .window = s->window, .from = s->from};
    if (!cx->failed && cx->steps && (s->layer || s->memory))
        return attend_on(cx, q, k, v, s);
    if (!cx->failed && cx->branches)
        return tn_branches_attention(cx, q, k, v, s);
    if (cx->failed || !shapes(cx, s, q, k, v, &a) || !put_bias(cx, &s->bias, &a))
        return (tn_t){0};
    if (s->last_key && a.tq != 1)
        return tn_fail(cx, "attention: %ld queries where the last key of one is given", a.tq);
    a.scale = s->scale != 0 ? s->scale : (float)(1 / sqrt((double)a.dk));
    strides(s->head_major, a.heads, a.tq, a.dk, &a.q_batch, &a.q_row, &a.q_head);
    strides(s->head_major, a.kv_heads, a.tk, a.dk, &a.k_batch, &a.k_row, &a.k_head);
    strides(s->head_major, a.kv_heads, a.tk, a.dv, &a.v_batch, &a.v_row, &a.v_head);
    strides(s->head_major, a.heads, a.tq, a.dv, &a.y_batch, &a.y_row, &a.y_head);
    bool grad = q.grad || k.grad || v.grad || s->bias.v.grad;
    tn_t y = q;
    y.shape[y.rank - 1] = s->head_major ? a.dv : a.heads * a.dv;
    y = tn_like(cx, y, grad);
    a.lse = y.grad ? tn_bytes(cx, (size_t)(a.batch * a.heads * a.tq) * sizeof(float)) : NULL;
    cx->flops += (a.causal ? 1.0 : 2.0) * (double)(a.batch * a.heads * a.tq * a.tk) * (double)(a.dk + a.dv);
    if (s->last_key)
        a.key_mask = mask_up_to(cx, &a, s->last_key);
    size_t mark = cx->used;
    void *scratch = tn_bytes(cx, kn_attn_scratch(cx->kn, &a) * (size_t)cx->threads);
    a.q = q.v;
    a.k = k.v;
    a.v = v.v;
    a.y = y.v;
    if (tn_live(cx))
        kn_attn_forward(cx->work, &a, scratch);
    cx->used = mark;
    if (y.grad)
        tn_backward_needs(cx, kn_attn_backward_scratch(cx->kn, &a) * (size_t)cx->threads);
    attention_record *r = y.grad ? tn_push(cx, sizeof *r, attention_backward) : NULL;
    if (r)
        *r = (attention_record){r->head, q, k, v, s->bias.v, y, a};
    return y;
}
