/* quantize.c - a checkpoint with its linear layers in integers, written tensor by tensor: [out, in], those too that lie turned (GPT-2's), as each
 * output has a scale of its own. */
#include <stdlib.h>

#include "../checkpoint/quantized.h"
#include "model.h"

typedef struct quantizer {
    const md_model *m;
    ck_writer *w;
    kn_dtype dtype;
    long group;
    oc_err *err;
} quantizer;

static bool takes_integers(const md_slot *s) { return s->flags & TN_LINEAR && s->p->rank == 2; }

static long group_of(const quantizer *z, const md_slot *s)
{
    return z->dtype == KN_I4 ? ck_int4_group(md_in_of(s), z->group) : md_in_of(s);
}

static int declare(const quantizer *z, const char *name, const char *part, ck_dtype dtype, int rank, int64_t d0, int64_t d1)
{
    char *full = ck_quantized_name(name, part);
    int result = full ? ck_writer_add(z->w, full, dtype, rank, (int64_t[]){d0, d1}, z->err)
                      : bs_err(z->err, "out of memory: a tensor's name");
    free(full);
    return result;
}

static int declare_slot(const quantizer *z, const md_slot *s)
{
    const ck_tensor *t = ck_find(z->m->store, s->name);
    if (!takes_integers(s))
        return ck_writer_add(z->w, s->name, t->dtype, t->rank, t->shape, z->err);
    long n = md_out_of(s), k = md_in_of(s), group = group_of(z, s), groups = (k + group - 1) / group;
    bool four = z->dtype == KN_I4;
    if (declare(z, s->name, four ? "_packed" : "", four ? CK_I32 : CK_I8, 2, n, four ? (k + 7) / 8 : k) ||
        declare(z, s->name, "_scale", CK_F32, 2, n, groups))
        return -1;
    return four ? declare(z, s->name, "_shape", CK_I64, 1, 2, 0) : 0;
}

static int put_int4(const quantizer *z, const md_slot *s, const int8_t *q)
{
    long n = md_out_of(s), k = md_in_of(s), words = (k + 7) / 8;
    uint32_t *row = bs_alloc((size_t)words * sizeof *row, "a row of int4", z->err);
    int result = row ? 0 : -1;
    for (long j = 0; !result && j < n; j++) {
        ck_int4_words(k, q + j * k, row);
        result = ck_writer_put(z->w, row, (size_t)words * sizeof *row, z->err);
    }
    bs_free(row);
    return result;
}

/* x [n, k], whichever way the file has it. */
static int read_rows(const quantizer *z, const md_slot *s, float *x)
{
    long n = md_out_of(s), k = md_in_of(s);
    bool turned = s->flags & TN_IN_FIRST;
    float *file = turned ? bs_alloc((size_t)s->count * sizeof *file, s->name, z->err) : x;
    int result = file ? md_read_weight(z->m, s, file, z->err) : -1;
    for (long j = 0; turned && !result && j < n; j++)
        for (long p = 0; p < k; p++)
            x[j * k + p] = file[p * n + j];
    if (turned)
        bs_free(file);
    return result;
}

static int put_integers(const quantizer *z, const md_slot *s)
{
    long n = md_out_of(s), k = md_in_of(s), group = group_of(z, s);
    size_t scales = (size_t)(n * ((k + group - 1) / group));
    const int64_t shape[2] = {n, k};
    float *x = bs_alloc((size_t)s->count * sizeof *x, s->name, z->err),
          *scale = bs_alloc(scales * sizeof *scale, s->name, z->err);
    int8_t *q = bs_alloc((size_t)s->count, s->name, z->err);
    int result = x && scale && q ? read_rows(z, s, x) : -1;
    if (!result) {
        kn_quantize(z->dtype, n, k, z->dtype == KN_I4 ? group : 0, x, k, q, scale);
        result = z->dtype == KN_I4 ? put_int4(z, s, q) : ck_writer_put(z->w, q, (size_t)s->count, z->err);
    }
    if (!result)
        result = ck_writer_put(z->w, scale, scales * sizeof *scale, z->err);
    if (!result && z->dtype == KN_I4)
        result = ck_writer_put(z->w, shape, sizeof shape, z->err);
    bs_free(x);
    bs_free(scale);
    bs_free(q);
    return result;
}

static int put_slot(const quantizer *z, const md_slot *s)
{
    const ck_tensor *t = ck_find(z->m->store, s->name);
    return takes_integers(s) ? put_integers(z, s) : ck_writer_put(z->w, t->data, t->bytes, z->err);
}

long md_int4_group(const md_model *m, long wanted)
{
    long group = wanted, before = 0;
    while (group != before) {
        before = group;
        for (int i = 0; i < m->n; i++)
            if (m->slots[i].p->id >= 0 && takes_integers(&m->slots[i]))
                group = ck_int4_group(md_in_of(&m->slots[i]), group);
    }
    return group;
}

int md_save_quantized(const md_model *m, const char *path, kn_dtype dtype, long group, oc_err *err)
{
    quantizer z = {m, ck_writer_open(path, 0, err), dtype, group, err};
    int result = z.w ? 0 : -1;
    for (int i = 0; !result && i < m->n; i++)
        if (m->slots[i].p->id >= 0)
            result = declare_slot(&z, &m->slots[i]);
    if (!result)
        result = ck_writer_start(z.w, err);
    for (int i = 0; !result && i < m->n; i++)
        if (m->slots[i].p->id >= 0)
            result = put_slot(&z, &m->slots[i]);
    if (!result)
        result = ck_writer_commit(z.w, err);
    ck_writer_free(z.w);
    return result;
}
