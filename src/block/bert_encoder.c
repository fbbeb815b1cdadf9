/* bert_encoder.c - the post-norm encoder.
 *
 *   ids -> word + type + position -> norm -> N x { norm(x + attention(x)) -> norm(y + mlp(y)) } */
#include "bert_encoder.h"

static void visit_attention(tn_visitor *v, bl_bert_attention *a, const char *name, long width, long context_width)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit_linear(v, &a->heads.q_proj, "self.query", width, width, true);
    tn_visit_linear(v, &a->heads.k_proj, "self.key", width, context_width, true);
    tn_visit_linear(v, &a->heads.v_proj, "self.value", width, context_width, true);
    tn_visit_linear(v, &a->heads.out_proj, "output.dense", width, width, true);
    tn_visit_norm(v, &a->norm, "output.LayerNorm", width, true);
    tn_leave(v, mark);
}

static void visit_layer(tn_visitor *v, bl_bert_layer *l, const bl_layer_shape *s)
{
    visit_attention(v, &l->attention, "attention.", s->width, s->width);
    tn_visit_linear(v, &l->mlp.fc1, "intermediate.dense", s->hidden, s->width, true);
    tn_visit_linear(v, &l->mlp.fc2, "output.dense", s->width, s->hidden, true);
    tn_visit_norm(v, &l->norm, "output.LayerNorm", s->width, true);
}

void bl_visit_bert(tn_visitor *v, bl_bert *m, const char *name)
{
    size_t mark = tn_enter(v, "%s", name);
    tn_visit(v, &m->word, "embeddings.word_embeddings.weight", 0, 2, m->vocab, m->shape.width, 0, 0);
    tn_visit(v, &m->position, "embeddings.position_embeddings.weight", 0, 2, m->positions, m->shape.width, 0, 0);
    tn_visit(v, &m->type, "embeddings.token_type_embeddings.weight", 0, 2, m->types, m->shape.width, 0, 0);
    tn_visit_norm(v, &m->norm, "embeddings.LayerNorm", m->shape.width, true);
    for (int i = 0; i < m->layers; i++) {
        size_t inner = tn_enter(v, "encoder.layer.%d.", i);
        visit_layer(v, &m->layer[i], &m->shape);
        tn_leave(v, inner);
    }
    tn_leave(v, mark);
}

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

static tn_t embed(tn_ctx *cx, const bl_bert *m, const int *ids, const int *types, long b, long t)
{
    tn_t x = tn_embedding(cx, &m->word, ids, b, t);
    x = types ? tn_add(cx, x, tn_embedding(cx, &m->type, types, b, t)) : add_first_type(cx, m, x);
    return tn_layer_norm(cx, tn_add_positions(cx, x, &m->position), &m->norm, m->shape.eps);
}

/* Of the rows `x` [B, Tq, width]; keys and values come from `all`, of which they are a part. */
static tn_t layer(tn_ctx *cx, const bl_bert_layer *l, tn_t x, tn_t all, const tn_attention_args *args, const bl_layer_shape *s)
{
    tn_t y = bl_bert_attend(cx, &l->attention, x, all, args, s->eps);
    return tn_layer_norm(cx, bl_feed_forward(cx, &l->mlp, y, s->act, y), &l->norm, s->eps);
}

static tn_t layers(tn_ctx *cx, const bl_bert *m, int n, tn_t x, const tn_attention_args *args)
{
    for (int i = 0; i < n; i++) {
        tn_scope scope = tn_begin(cx);
        x = tn_end(cx, scope, x, layer(cx, &m->layer[i], x, x, args, &m->shape));
    }
    return x;
}

tn_t bl_bert_rows(tn_ctx *cx, const bl_bert *m, const int *ids, const int *types, const uint8_t *key_mask, long b, long t)
{
    tn_attention_args args = {.heads = m->shape.heads, .causal = m->causal, .key_mask = key_mask};
    return layers(cx, m, m->layers, embed(cx, m, ids, types, b, t), &args);
}

tn_t bl_bert_first(tn_ctx *cx, const bl_bert *m, const int *ids, const int *types, const uint8_t *key_mask, long b, long t,
                   tn_t *hidden)
{
    tn_attention_args args = {.heads = m->shape.heads, .key_mask = key_mask};
    if (hidden) {
        *hidden = bl_bert_rows(cx, m, ids, types, key_mask, b, t);
        return tn_select(cx, *hidden, NULL);
    }
    tn_t x = layers(cx, m, m->layers - 1, embed(cx, m, ids, types, b, t), &args);
    tn_scope scope = tn_begin(cx);
    tn_t first = tn_reshape(cx, tn_select(cx, x, NULL), 3, (long[]){b, 1, m->shape.width});
    tn_t y = layer(cx, &m->layer[m->layers - 1], first, x, &args, &m->shape);
    return tn_end(cx, scope, x, tn_reshape(cx, y, 2, (long[]){b, m->shape.width}));
}
