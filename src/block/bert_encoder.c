/* bert_encoder.c - the post-norm encoder, and decoder.
 *
 *   ids -> word + position (+ type) -> norm -> N x { norm(x + attention(x)) -> (norm(y + crossattention(y, seen))) -> norm(z + mlp(z)) } */
#include "bert_encoder.h"

/* ---- weights ---------------------------------------------------------------------------------------------- */

void bl_visit_bert_attention(tn_visitor *v, bl_bert_attention *a, const char *name, long width, long context_width)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit_linear(v, &a->heads.q_proj, "self.query", width, width, true);
    tn_visit_linear(v, &a->heads.k_proj, "self.key", width, context_width, true);
    tn_visit_linear(v, &a->heads.v_proj, "self.value", width, context_width, true);
    tn_visit_linear(v, &a->heads.out_proj, "output.dense", width, width, true);
    tn_visit_norm(v, &a->norm, "output.LayerNorm", width, true);
    tn_leave(v, mark);
}

static void visit_layer(tn_visitor *v, bl_bert_layer *l, const bl_bert *m)
{
    const bl_layer_shape *s = &m->shape;
    bl_visit_bert_attention(v, &l->attention, "attention.", s->width, s->width);
    if (m->context_width)
        bl_visit_bert_attention(v, &l->crossattention, "crossattention.", s->width, m->context_width);
    tn_visit_linear(v, &l->mlp.fc1, "intermediate.dense", s->hidden, s->width, true);
    tn_visit_linear(v, &l->mlp.fc2, "output.dense", s->width, s->hidden, true);
    tn_visit_norm(v, &l->norm, "output.LayerNorm", s->width, true);
}

void bl_visit_bert(tn_visitor *v, bl_bert *m, const char *name)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit(v, &m->word, "embeddings.word_embeddings.weight", m->tied ? TN_TABLE | TN_TIED : 0, 2, m->vocab, m->shape.width, 0, 0);
    tn_visit(v, &m->position, "embeddings.position_embeddings.weight", 0, 2, m->positions, m->shape.width, 0, 0);
    if (m->types)
        tn_visit(v, &m->type, "embeddings.token_type_embeddings.weight", 0, 2, m->types, m->shape.width, 0, 0);
    tn_visit_norm(v, &m->norm, "embeddings.LayerNorm", m->shape.width, true);
    for (int i = 0; i < m->layers; i++) {
        size_t inner = tn_enter(v, "encoder.layer.%d.", i);
        visit_layer(v, &m->layer[i], m);
        tn_leave(v, inner);
    }
    tn_leave(v, mark);
}

/* ---- layers ----------------------------------------------------------------------------------------------- */

tn_t bl_bert_attend(tn_ctx *cx, const bl_bert_attention *a, tn_t x, tn_t context, const tn_attention_args *args, float eps)
{
    return tn_layer_norm(cx, bl_attend(cx, &a->heads, x, context, args, x), &a->norm, eps);
}

/* Every token of kind 0: each row is a sequence of one, to which the table's first row is added. */
static tn_t add_first_type(tn_ctx *cx, const bl_bert *m, tn_t x)
{
    tn_t rows = tn_reshape(cx, x, 3, (long[]){tn_rows(x), 1, tn_last(x)});
    return tn_reshape(cx, tn_add_positions(cx, rows, &m->type), 3, x.shape);
}

static tn_t embed(tn_ctx *cx, const bl_bert *m, const int *ids, long b, long t, const bl_bert_view *view)
{
    tn_t x = tn_embedding_but(cx, &m->word, ids, b, t, m->pad);
    if (m->types)
        x = view->types ? tn_add(cx, x, tn_embedding(cx, &m->type, view->types, b, t)) : add_first_type(cx, m, x);
    x = view->positions ? tn_add(cx, x, tn_embedding(cx, &m->position, view->positions, b, t))
                        : tn_add_positions(cx, x, &m->position);
    return tn_layer_norm(cx, x, &m->norm, m->shape.eps);
}

static tn_t look(tn_ctx *cx, const bl_bert *m, int i, tn_t x, const bl_bert_view *view)
{
    tn_attention_args args = {.heads = m->shape.heads, .key_mask = view->seen_mask, .memory = view->remembered ? i + 1 : 0};
    if (!m->context_width || (!view->seen.rank && !view->remembered))
        return x;
    return bl_bert_attend(cx, &m->layer[i].crossattention, x, view->seen, &args, m->shape.eps);
}

/* Of the rows `x` [B, Tq, width]; keys and values come from `all`, of which they are a part. */
static tn_t layer(tn_ctx *cx, const bl_bert *m, int i, tn_t x, tn_t all, const bl_bert_view *view)
{
    const bl_bert_layer *l = &m->layer[i];
    tn_attention_args args = {
        .heads = m->shape.heads, .causal = view->causal, .key_mask = view->key_mask, .layer = view->causal ? i + 1 : 0};
    tn_t y = bl_bert_attend(cx, view->self ? &view->self[i] : &l->attention, x, all, &args, m->shape.eps);
    y = look(cx, m, i, y, view);
    return tn_layer_norm(cx, bl_feed_forward(cx, &l->mlp, y, m->shape.act, y), &l->norm, m->shape.eps);
}

static tn_t layers(tn_ctx *cx, const bl_bert *m, int n, tn_t x, const bl_bert_view *view)
{
    for (int i = 0; i < n; i++) {
        tn_scope scope = tn_begin(cx);
        x = tn_end(cx, scope, x, layer(cx, m, i, x, x, view));
    }
    return x;
}

tn_t bl_bert_rows(tn_ctx *cx, const bl_bert *m, const int *ids, long b, long t, const bl_bert_view *view)
{
    return layers(cx, m, m->layers, embed(cx, m, ids, b, t, view), view);
}

tn_t bl_bert_first(tn_ctx *cx, const bl_bert *m, const int *ids, long b, long t, const bl_bert_view *view, tn_t *hidden)
{
    if (hidden) {
        *hidden = bl_bert_rows(cx, m, ids, b, t, view);
        return tn_select(cx, *hidden, NULL);
    }
    tn_t x = layers(cx, m, m->layers - 1, embed(cx, m, ids, b, t, view), view);
    tn_scope scope = tn_begin(cx);
    tn_t first = tn_select(cx, x, NULL);
    tn_t y = layer(cx, m, m->layers - 1, tn_reshape(cx, first, 3, (long[]){tn_rows(first), 1, m->shape.width}), x, view);
    return tn_end(cx, scope, x, tn_reshape(cx, y, 2, (long[]){tn_rows(y), m->shape.width}));
}

bool bl_bert_can_look_at_rows(const bl_bert *m, const tn_lora *lora)
{
    for (int i = 0; i < m->layers; i++) {
        const bl_attention *a = &m->layer[i].crossattention.heads;
        if (!tn_can_attend_to_rows(lora, &a->k_proj, &a->v_proj))
            return false;
    }
    return m->context_width > 0;
}

void bl_bert_remember(tn_ctx *cx, const bl_bert *m, tn_t seen)
{
    if (tn_remembers_rows(cx)) {
        tn_remember_rows(cx, seen);
        return;
    }
    for (int i = 0; i < m->layers; i++) {
        tn_scope scope = tn_begin(cx);
        const bl_attention *a = &m->layer[i].crossattention.heads;
        tn_remember(cx, tn_linear(cx, seen, &a->k_proj), tn_linear(cx, seen, &a->v_proj), i + 1);
        cx->used = scope.used;
    }
}
