/* attention.h - what the parts of attention share: where keys lie, which of them a query sees, and how the results over blocks of
 * keys are merged. Inside attention*.c only. */
#ifndef KN_ATTENTION_H
#define KN_ATTENTION_H

#include "work.h"

/* A sum over keys is cut at multiples of this, always: it is part of what a tier's bits mean. */
enum { KN_KEYS = 256 };
/* A cache line or two: the rooms of workers lie side by side. */
enum { KN_ROOM_ALIGN = 128 };

typedef struct kn_head {
    long b, h, kv; /* of the batch; head of the queries, of the keys */
} kn_head;

/* A softmax over some of the keys: y = sum of exp(s - max) v [rows, dv], sum = sum of exp(s - max), one of each a row. */
typedef struct kn_partial {
    float *max, *sum, *y;
} kn_partial;

static inline kn_head kn_head_of(const kn_attn *a, long b, long h) { return (kn_head){b, h, h / (a->heads / a->kv_heads)}; }

static inline long kn_keys_of(const kn_attn *a, long b) { return a->keys ? a->keys[b] : a->tk; }

/* Keys that a query may see by its place alone: [kn_from(), kn_visible()). */
static inline long kn_visible(const kn_attn *a, long b, long query)
{
    long keys = kn_keys_of(a, b), end = a->causal ? query + keys - a->tq + 1 : keys;
    return end < 0 ? 0 : kn_min(end, keys);
}

static inline long kn_from(const kn_attn *a, long b, long query)
{
    long from = a->window ? query + kn_keys_of(a, b) - a->tq + 1 - a->window : 0;
    return kn_max(kn_max(from, 0), a->from ? a->from[b * a->tq + query] : 0);
}

/* Where in the bias key 0 of a query stands; its keys follow each other, and the next query's lie kn_bias_step behind. */
static inline long kn_bias_at(const kn_attn *a, long b, long h, long query)
{
    if (a->bias_head)
        return h * a->bias_head + a->bias_zero - (query + kn_keys_of(a, b) - a->tq);
    return (h * a->tq + query) * a->tk;
}

static inline long kn_bias_step(const kn_attn *a) { return a->bias_head ? -1 : a->tk; }

static inline bool kn_key_hidden(const kn_attn *a, long b, long key) { return a->key_mask && !a->key_mask[b * a->tk + key]; }

/* Keys up to the last one that the mask of batch b keeps: what lies behind adds nothing. */
long kn_kept(const kn_attn *a, long b);

/* Keys or values [j, j + n) of head h as fp32: where they lie, when that is what they are, else widened into room [n, width]. */
kn_rows kn_key_rows(const kn_table *t, const kn_attn *a, kn_head h, long j, long n, float *room);
kn_rows kn_value_rows(const kn_table *t, const kn_attn *a, kn_head h, long j, long n, float *room);
/* Where they lie, when they are fp32 and lie together; `otherwise` where not. */
kn_rows kn_keys_ahead(const kn_attn *a, kn_head h, long j, long n, kn_rows otherwise);
kn_rows kn_values_ahead(const kn_attn *a, kn_head h, long j, long n, kn_rows otherwise);

/* An empty softmax; `part` is added to `all`, row by row; `all` is divided by its sum and written, row r being query
 * i + r of head h: zeros when it saw nothing. */
void kn_partial_clear(kn_partial p, long rows, long dv);
void kn_partial_merge(const kn_table *t, kn_partial all, kn_partial part, long rows, long dv);
void kn_partial_finish(const kn_table *t, const kn_attn *a, kn_head h, long i, kn_partial p, long rows);

/* Few queries, as in decoding: every key is read once for all heads that share it, and never packed. The bits are those of the
 * blocks in attention.c. */
bool kn_attn_is_few(const kn_attn *a);
size_t kn_attn_few_scratch(const kn_table *t, const kn_attn *a);
void kn_attn_few(kn_work *w, const kn_attn *a, void *scratch);

#endif
