/* quantized.c - weights in integers: found, checked, unpacked. */
#include "quantized.h"

#include <stdlib.h>
#include <string.h>

enum { IN_WORD = 8 };

long ck_int4_group(long k, long wanted)
{
    long group = wanted / 32 * 32;
    if (k % 32)
        return group > 32 ? 32 : group;
    while (group > 0 && k % group)
        group -= 32;
    return group;
}

char *ck_quantized_name(const char *name, const char *part)
{
    size_t n = strlen(name) + strlen(part) + 1;
    char *s = malloc(n);
    if (s)
        snprintf(s, n, "%s%s", name, part);
    return s;
}

/* *t = the tensor called name + part, or NULL. */
static int find_part(const ck_store *s, const char *name, const char *part, const ck_tensor **t, oc_err *err)
{
    char *full = ck_quantized_name(name, part);
    if (!full)
        return bs_err(err, "out of memory: a tensor's name");
    *t = ck_find(s, full);
    free(full);
    return 0;
}

static int refuse(const ck_store *s, const char *name, const char *part, const char *why, oc_err *err)
{
    return bs_err(err, "cannot load '%s': tensor '%s%s' %s", ck_path(s), name, part, why);
}

/* int8 has one scale a row; int4 tells its group by how many there are. */
static int check_scale(const ck_store *s, const char *name, ck_quantized *t, oc_err *err)
{
    const ck_tensor *c = t->scale;
    if (!c)
        return refuse(s, name, "_scale", "is missing", err);
    long columns = c->rank == 2 ? (long)c->shape[1] : c->rank == 1 ? 1 : 0;
    if (!ck_dtype_is_float(c->dtype) || columns < 1 || columns > t->k || c->shape[0] != t->n)
        return refuse(s, name, "_scale", "is no float [rows, groups] of the weight", err);
    if (t->bits == 8 && columns != 1)
        return refuse(s, name, "_scale", "has several scales a row, expected one beside int8", err);
    t->group = t->k;
    if (t->bits == 8)
        return 0;
    for (t->group = (t->k + 31) / 32 * 32; t->group > 0; t->group -= 32)
        if (ck_int4_group(t->k, t->group) == t->group && (t->k + t->group - 1) / t->group == columns)
            return 0;
    return refuse(s, name, "_scale", "has groups that are no multiple of 32", err);
}

int ck_quantized_find(const ck_store *s, const char *name, long n, long k, ck_quantized *t, oc_err *err)
{
    const ck_tensor *zero = NULL;
    *t = (ck_quantized){.bits = 8, .n = n, .k = k, .q = ck_find(s, name)};
    if (t->q && t->q->dtype != CK_I8)
        return 0;
    if (!t->q) {
        t->bits = 4;
        if (find_part(s, name, "_packed", &t->q, err))
            return -1;
        if (!t->q)
            return 0;
    }
    const int64_t want[2] = {n, t->bits == 8 ? k : (k + IN_WORD - 1) / IN_WORD};
    if (t->bits == 4 && t->q->dtype != CK_I32)
        return refuse(s, name, "_packed", "is not I32", err);
    if (ck_check_shape(s, t->q, 2, want, err) || find_part(s, name, "_scale", &t->scale, err) ||
        find_part(s, name, "_zero_point", &zero, err))
        return -1;
    if (zero)
        return refuse(s, name, "_zero_point", "is there, expected symmetric integers", err);
    return check_scale(s, name, t, err) ? -1 : 1;
}

void ck_int4_words(long k, const int8_t *q, uint32_t *words)
{
    memset(words, 0, (size_t)((k + IN_WORD - 1) / IN_WORD) * sizeof *words);
    for (long p = 0; p < k; p++)
        words[p / IN_WORD] |= (uint32_t)(q[p] + 8) << 4 * (p % IN_WORD);
}

/* The same backwards; the words need no alignment. */
static void from_words(long k, const uint8_t *words, int8_t *q)
{
    for (long p = 0; p < k; p++)
        q[p] = (int8_t)((words[p / 2] >> 4 * (p % 2) & 15) - 8);
}

int ck_quantized_read(const ck_store *s, const ck_quantized *t, int8_t *q, float *scale, oc_err *err)
{
    const uint8_t *from = t->q->data;
    size_t row = t->bits == 8 ? (size_t)t->k : (size_t)((t->k + IN_WORD - 1) / IN_WORD) * sizeof(uint32_t);
    for (long j = 0; j < t->n; j++)
        if (t->bits == 8)
            memcpy(q + j * t->k, from + (size_t)j * row, row);
        else
            from_words(t->k, from + (size_t)j * row, q + j * t->k);
    return ck_to_f32(t->scale, 0, t->scale->count, scale, err) || ck_check_finite(s, t->scale, err) ? -1 : 0;
}
