/* packing.c - packed weights: room for all of them is reserved at once, each is filled when it is needed and its pages of the file are let go, so that
 * no weight is held twice. */
#include "packing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "../checkpoint/quantized.h"

struct md_packed {
    const md_model *m;
    kn_packed *w;       /* by parameter id; data NULL: not packed */
    atomic_bool *ready; /* its data is there */
    atomic_bool *read;  /* a product has read it where the file has it */
    char *memory;
    size_t bytes;
    pthread_mutex_t lock;
};

static bool is_packed(const md_slot *s)
{
    return s->p->id >= 0 && s->flags & (TN_LINEAR | TN_KERNEL | TN_TABLE) && s->p->rank >= 2 && s->count > 0;
}

/* Rows too long for the kernels of fewer bits (no bytes are asked for) stay fp32. */
static void shape(const kn_table *t, kn_packed *w, const md_slot *s, kn_dtype dtype, long group)
{
    w->n = s->p->shape[s->flags & TN_IN_FIRST ? 1 : 0];
    w->k = s->count / w->n;
    w->dtype = s->flags & TN_KERNEL && dtype != KN_BF16 ? KN_F32 : dtype;
    if (s->flags & TN_TABLE && dtype == KN_I4) /* a head suffers most */
        w->dtype = KN_I8;
    w->group = w->dtype == KN_I4 ? ck_int4_group(w->k, group) : 0;
    if (!kn_packed_bytes(t, w->dtype, w->n, w->k, w->group))
        w->dtype = KN_F32;
}

/* What the file's own integers are grouped by. */
static int keep_group(const md_model *m, const md_slot *s, kn_packed *w, oc_err *err)
{
    ck_quantized q;
    int found = w->dtype == KN_I4 && m->store ? ck_quantized_find(m->store, s->name, w->n, w->k, &q, err) : 0;
    if (found > 0 && q.bits == 4)
        w->group = q.group;
    return found < 0 ? -1 : 0;
}

md_packed *md_packed_open(const md_model *m, const kn_table *t, kn_dtype dtype, long group, oc_err *err)
{
    enum { ALIGN = 64 };
    md_packed *p = bs_calloc(1, sizeof *p, "packed weights", err);
    if (!p)
        return NULL;
    p->m = m;
    pthread_mutex_init(&p->lock, NULL);
    p->w = bs_calloc((size_t)m->n + 1, sizeof *p->w, "packed weights", err);
    p->ready = bs_calloc((size_t)m->n + 1, sizeof *p->ready, "packed weights", err);
    p->read = bs_calloc((size_t)m->n + 1, sizeof *p->read, "packed weights", err);
    if (!p->w || !p->ready || !p->read)
        goto failed;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;
        for (int i = 0; i < m->n; i++) {
            kn_packed *w = &p->w[i];
            if (!is_packed(&m->slots[i]))
                continue;
            shape(t, w, &m->slots[i], dtype, group ? group : 32);
            if (keep_group(m, &m->slots[i], w, err))
                goto failed;
            w->data = pass ? p->memory + at : NULL;
            at += (kn_packed_bytes(t, w->dtype, w->n, w->k, w->group) + ALIGN - 1) / ALIGN * ALIGN;
        }
        p->bytes = at;
        if (!pass && !(p->memory = bs_reserve(at, "packed weights", err)))
            goto failed;
    }
    return p;
failed:
    md_packed_close(p);
    return NULL;
}

void md_packed_close(md_packed *p)
{
    if (!p)
        return;
    bs_unreserve(p->memory, p->bytes);
    pthread_mutex_destroy(&p->lock);
    bs_free(p->ready);
    bs_free(p->read);
    bs_free(p->w);
    bs_free(p);
}

size_t md_packed_bytes(const md_packed *p) { return p->bytes; }

size_t md_packed_held(const md_packed *p, const kn_table *t)
{
    size_t bytes = 0;
    for (int i = 0; i < p->m->n; i++) {
        const kn_packed *w = &p->w[i];
        if (atomic_load_explicit(&p->ready[i], memory_order_acquire))
            bytes += kn_packed_bytes(t, w->dtype, w->n, w->k, w->group);
    }
    return bytes;
}

static int pack_integers(const md_model *m, kn_work *work, const kn_packed *w, const ck_quantized *q, oc_err *err)
{
    size_t groups = (size_t)q->scale->count;
    int8_t *values = bs_alloc((size_t)(w->n * w->k), "a weight", err);
    float *scale = bs_alloc(groups * sizeof *scale, "a weight's scales", err);
    int result = values && scale ? ck_quantized_read(m->store, q, values, scale, err) : -1;
    if (!result)
        kn_pack_quantized(work, w, values, scale);
    bs_free(values);
    bs_free(scale);
    return result;
}

/* Integers of another kind. */
static int pack_other(const md_model *m, kn_work *work, const kn_packed *w, const md_slot *s, oc_err *err)
{
    float *values = bs_alloc((size_t)s->count * sizeof *values, "a weight", err);
    int result = values ? md_read_weight(m, s, values, err) : -1;
    if (!result)
        kn_pack_weight(work, w, values, w->k);
    bs_free(values);
    return result;
}

/* A weight [in, out]. */
static int pack_turned(const md_model *m, kn_work *work, const kn_packed *w, const md_slot *s, oc_err *err)
{
    enum { PIECE = 8 * KN_PACK_STEP };
    long step = w->n < PIECE ? w->n : PIECE;
    float *values = s->p->v ? NULL : bs_alloc((size_t)s->count * sizeof *values, "a weight", err);
    float *turned = w->dtype == KN_F32 ? NULL : bs_alloc((size_t)(step * w->k) * sizeof *turned, "a part of a weight", err);
    int result = -1;
    if ((!s->p->v && !values) || (w->dtype != KN_F32 && !turned) || (values && md_read_weight(m, s, values, err)))
        goto done;
    for (long first = 0; first < w->n; first += step)
        kn_pack_turned(work, w, first, w->n - first < step ? w->n - first : step, (values ? values : s->p->v) + first, w->n, turned);
    result = 0;
done:
    bs_free(turned);
    bs_free(values);
    return result;
}

/* Piece by piece, each of which the file lets go at once: so a table of tokens is never there twice. */
static int pack_floats(const md_model *m, kn_work *work, const kn_packed *w, const md_slot *s, const ck_tensor *t, oc_err *err)
{
    enum { PIECE = 1 << 20 }; /* numbers */
    long step = (PIECE / w->k + 1) / KN_PACK_STEP * KN_PACK_STEP;
    step = step < KN_PACK_STEP ? KN_PACK_STEP : step;
    float *values = s->p->v ? NULL : bs_alloc((size_t)(step * w->k) * sizeof *values, "a part of a weight", err);
    if (!s->p->v && !values)
        return -1;
    int result = 0;
    for (long first = 0; first < w->n && !result; first += step) {
        long rows = w->n - first < step ? w->n - first : step;
        size_t at = (size_t)(first * w->k), n = (size_t)(rows * w->k);
        if (values)
            result = md_read_values(m, s, at, n, values, err);
        if (!result)
            kn_pack_rows(work, w, first, rows, values ? values : s->p->v + at, w->k);
        if (t)
            ck_release_part(m->store, t, at * ck_dtype_size(t->dtype), n * ck_dtype_size(t->dtype));
    }
    bs_free(values);
    return result;
}

int md_table_row(void *arg, int id, long row, float *out, oc_err *err)
{
    const md_model *m = ((const md_packed *)arg)->m;
    const md_slot *s = &m->slots[id];
    const ck_tensor *t = ck_find(m->store, s->name);
    long width = s->count / s->p->shape[0];
    return t ? ck_to_f32(t, (size_t)(row * width), (size_t)width, out, err)
             : bs_err(err, "cannot load '%s': tensor '%s' is missing", ck_path(m->store), s->name);
}

void md_packed_attach(md_packed *p, tn_ctx *cx)
{
    cx->packed = md_packed_weight;
    cx->table = md_table_row;
    cx->packed_arg = p;
}

static int pack(const md_packed *p, kn_work *work, int id, oc_err *err)
{
    const md_model *m = p->m;
    const md_slot *s = &m->slots[id];
    const kn_packed *w = &p->w[id];
    ck_quantized q;
    int found = s->own || !m->store ? 0 : ck_quantized_find(m->store, s->name, w->n, w->k, &q, err);
    bool same = found > 0 && ((w->dtype == KN_I8 && q.bits == 8) || (w->dtype == KN_I4 && q.bits == 4));
    if (found < 0)
        return -1;
    const ck_tensor *t = found > 0 ? q.q : m->store ? ck_find(m->store, s->name) : NULL;
    int result = same                     ? pack_integers(m, work, w, &q, err)
                 : s->flags & TN_IN_FIRST ? pack_turned(m, work, w, s, err)
                 : found                  ? pack_other(m, work, w, s, err)
                                          : pack_floats(m, work, w, s, t, err);
    if (t)
        ck_release(m->store, t);
    return result;
}

/* The first product with a weight of fp32 reads it where it lies. A process that embeds one picture would else spend most of its time on pages
 * for a copy that is read once. The bits are the same. */
static bool first_in_place(md_packed *p, int id)
{
    return p->w[id].dtype == KN_F32 && p->m->slots[id].p->v &&
           !atomic_exchange_explicit(&p->read[id], true, memory_order_relaxed);
}

const kn_packed *md_packed_weight(void *arg, kn_work *w, int id, oc_err *err)
{
    md_packed *p = arg;
    if (id < 0 || !p->w[id].data)
        return NULL;
    if (atomic_load_explicit(&p->ready[id], memory_order_acquire))
        return &p->w[id];
    if (first_in_place(p, id))
        return NULL;
    pthread_mutex_lock(&p->lock);
    int failed = atomic_load_explicit(&p->ready[id], memory_order_relaxed) ? 0 : pack(p, w, id, err);
    atomic_store_explicit(&p->ready[id], !failed, memory_order_release);
    pthread_mutex_unlock(&p->lock);
    return failed ? NULL : &p->w[id];
}
