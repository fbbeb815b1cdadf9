/* attention_keys.c - where keys and values lie, and how softmaxes over blocks of them are merged (Milakov, Gimelshein 2018).
 * A block's own softmax does not depend on the others, so blocks may be computed anywhere; they are merged in order. */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "scalar.h"

long kn_kept(const kn_attn *a, long b)
{
    long n = kn_keys_of(a, b);
    while (n > 0 && kn_key_hidden(a, b, n - 1))
        n--;
    return n;
}

/* ---- rows of a cache ---------------------------------------------------------------------------------- */

/* Keys or values. */
typedef struct side {
    bool values;
    const float *plain;
    long batch, row, head, width;
} side;

static side keys_of(const kn_attn *a) { return (side){false, a->k, a->k_batch, a->k_row, a->k_head, a->dk}; }

static side values_of(const kn_attn *a) { return (side){true, a->v, a->v_batch, a->v_row, a->v_head, a->dv}; }

static long size_of(kn_kv_type type) { return type == KN_KV_F32 ? 4 : type == KN_KV_I8 ? 1 : 2; }

static const kn_page *page_of(const kn_attn *a, long b, long j)
{
    return a->pages + b * ((a->tk + a->page_keys - 1) / a->page_keys) + j / a->page_keys;
}

/* Position j of a head within its page. */
static const char *in_page(const kn_attn *a, const side *s, kn_head h, long j)
{
    const kn_page *page = page_of(a, h.b, j);
    return (const char *)(s->values ? page->v : page->k) + (j % a->page_keys * s->row + h.kv * s->head) * size_of(a->kv_type);
}

/* n positions from j on, all in one page, become rows of y. */
static void widen(const kn_table *t, const kn_attn *a, const side *s, kn_head h, long j, long n, float *y)
{
    const kn_page *page = page_of(a, h.b, j);
    const char *x = in_page(a, s, h, j);
    const float *scale = s->values ? page->v_scale : page->k_scale;
    for (long i = 0; i < n; i++, x += s->row * size_of(a->kv_type), y += s->width)
        switch (a->kv_type) {
        case KN_KV_F32: memcpy(y, x, (size_t)s->width * sizeof *y); break;
        case KN_KV_F16: t->from_f16(s->width, (const uint16_t *)(const void *)x, y); break;
        case KN_KV_BF16: t->from_bf16(s->width, (const uint16_t *)(const void *)x, y); break;
        case KN_KV_I8:
            t->from_i8(s->width, (const int8_t *)x, scale[(j + i) % a->page_keys * a->scale_row + h.kv * a->scale_head], y);
            break;
        }
}

/* Where n positions from j on lie as fp32, or nowhere. */
static kn_rows in_place(const kn_attn *a, const side *s, kn_head h, long j, long n)
{
    if (!a->pages)
        return (kn_rows){s->plain + h.b * s->batch + j * s->row + h.kv * s->head, s->row};
    if (a->kv_type == KN_KV_F32 && j % a->page_keys + n <= a->page_keys)
        return (kn_rows){(const float *)(const void *)in_page(a, s, h, j), s->row};
    return (kn_rows){0};
}

static kn_rows rows_of(const kn_table *t, const kn_attn *a, side s, kn_head h, long j, long n, float *room)
{
    kn_rows r = in_place(a, &s, h, j, n);
    if (r.at)
        return r;
    for (long i = 0, now; i < n; i += now) {
        now = kn_min(n - i, a->page_keys - (j + i) % a->page_keys);
        widen(t, a, &s, h, j + i, now, room + i * s.width);
    }
    return (kn_rows){room, s.width};
}

kn_rows kn_key_rows(const kn_table *t, const kn_attn *a, kn_head h, long j, long n, float *room)
{
    return rows_of(t, a, keys_of(a), h, j, n, room);
}

kn_rows kn_value_rows(const kn_table *t, const kn_attn *a, kn_head h, long j, long n, float *room)
{
    return rows_of(t, a, values_of(a), h, j, n, room);
}

kn_rows kn_keys_ahead(const kn_attn *a, kn_head h, long j, long n, kn_rows otherwise)
{
    side s = keys_of(a);
    kn_rows r = in_place(a, &s, h, j, n);
    return r.at ? r : otherwise;
}

kn_rows kn_values_ahead(const kn_attn *a, kn_head h, long j, long n, kn_rows otherwise)
{
    side s = values_of(a);
    kn_rows r = in_place(a, &s, h, j, n);
    return r.at ? r : otherwise;
}

/* ---- merging ------------------------------------------------------------------------------------------ */

void kn_partial_clear(kn_partial p, long rows, long dv)
{
    for (long r = 0; r < rows; r++) {
        p.max[r] = -INFINITY;
        p.sum[r] = 0;
    }
    memset(p.y, 0, (size_t)(rows * dv) * sizeof *p.y);
}

/* Only one of the two factors is not 1. A row that saw nothing in `part` stays as it is. */
static void merge_row(const kn_table *t, kn_partial all, kn_partial part, long r, long dv)
{
    float *y = all.y + r * dv;
    if (part.max[r] == -INFINITY && part.sum[r] == 0)
        return;
    if (all.max[r] == -INFINITY && all.sum[r] == 0) { /* nothing was seen yet: y may be 0 times an infinite value */
        all.max[r] = part.max[r];
        all.sum[r] = part.sum[r];
        memcpy(y, part.y + r * dv, (size_t)dv * sizeof *y);
        return;
    }
    if (part.max[r] > all.max[r]) {
        float old = kn_exp(all.max[r] - part.max[r]);
        all.max[r] = part.max[r];
        all.sum[r] = all.sum[r] * old + part.sum[r];
        t->scale(dv, old, y, y);
        t->add(dv, y, part.y + r * dv, y);
    } else {
        float now = kn_exp(part.max[r] - all.max[r]);
        all.sum[r] += part.sum[r] * now;
        t->axpy(dv, now, part.y + r * dv, y);
    }
}

void kn_partial_merge(const kn_table *t, kn_partial all, kn_partial part, long rows, long dv)
{
    for (long r = 0; r < rows; r++)
        merge_row(t, all, part, r, dv);
}

void kn_partial_finish(const kn_table *t, const kn_attn *a, kn_head h, long i, kn_partial p, long rows)
{
    float *y = a->y + h.b * a->y_batch + i * a->y_row + h.h * a->y_head;
    float *lse = a->lse ? a->lse + (h.b * a->heads + h.h) * a->tq + i : NULL;
    for (long r = 0; r < rows; r++) {
        if (lse)
            lse[r] = p.sum[r] == 0 ? -INFINITY : p.max[r] + (float)kn_log(p.sum[r]);
        if (p.sum[r] == 0)
            memset(y + r * a->y_row, 0, (size_t)a->dv * sizeof *y);
        else
            t->scale(a->dv, 1.0f / p.sum[r], p.y + r * a->dv, y + r * a->y_row);
    }
}
