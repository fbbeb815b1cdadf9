/* values.c - named arrays read for `forward`. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static int read_ints(md_value *v, const ck_tensor *t, const char *path, oc_err *err)
{
    int64_t piece[512];
    for (long at = 0; at < v->count; at += 512) {
        long n = v->count - at < 512 ? v->count - at : 512;
        if (ck_to_i64(t, at, n, piece, err))
            return -1;
        for (long i = 0; i < n; i++) {
            if (piece[i] < INT_MIN || piece[i] > INT_MAX)
                return bs_err(err, "'%s': tensor '%s' holds %lld, expected integers of 32 bits", path, v->name,
                              (long long)piece[i]);
            v->i[at + i] = (int)piece[i];
        }
    }
    return 0;
}

static int read_value(md_value *v, const ck_tensor *t, const char *path, oc_err *err)
{
    if (t->rank > TN_MAX_RANK)
        return bs_err(err, "'%s': tensor '%s' has %d dimensions, expected at most %d", path, t->name, t->rank, TN_MAX_RANK);
    *v = (md_value){.name = bs_strdup(t->name), .is_int = !ck_dtype_is_float(t->dtype), .rank = t->rank, .count = (long)t->count};
    for (int i = 0; i < t->rank; i++)
        v->shape[i] = (long)t->shape[i];
    size_t bytes;
    void *p = bs_mul_size((size_t)t->count, 4, &bytes) ? malloc(bytes + 4) : NULL;
    if (!p || !v->name) {
        free(p);
        return bs_err(err, "out of memory: tensor '%s'", t->name);
    }
    if (v->is_int) {
        v->i = p;
        return read_ints(v, t, path, err);
    }
    v->f = p;
    return ck_to_f32(t, 0, t->count, v->f, err);
}

int md_values_read(md_values *values, const char *path, oc_err *err)
{
    int result = -1;
    memset(values, 0, sizeof *values);
    ck_store *s = ck_open(path, err);
    if (!s)
        return -1;
    size_t n = ck_count(s);
    values->p = calloc(n + 1, sizeof *values->p);
    if (!values->p) {
        bs_err(err, "out of memory: the inputs of '%s'", path);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        values->n++;
        if (read_value(&values->p[i], ck_at(s, i), path, err))
            goto done;
    }
    result = 0;
done:
    ck_close(s);
    if (result)
        md_values_clear(values);
    return result;
}

void md_values_clear(md_values *values)
{
    for (int i = 0; i < values->n; i++) {
        free(values->p[i].name);
        free(values->p[i].f);
        free(values->p[i].i);
    }
    free(values->p);
    memset(values, 0, sizeof *values);
}

const md_value *md_values_find(const md_values *values, const char *name)
{
    for (int i = 0; i < values->n; i++)
        if (!strcmp(values->p[i].name, name))
            return &values->p[i];
    return NULL;
}
