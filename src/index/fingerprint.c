/* fingerprint.c - a short name for "these very weights", so that vectors of two models are never compared. */
#include <stdlib.h>
#include <string.h>

#include "index.h"

enum { WHOLE = 4096, SAMPLES = 8, SAMPLE_BYTES = 128 };

/* Two 64-bit FNV-1a sums with different starts and orders of mixing: this tells honest files apart, it is no seal against forgery. */
typedef struct digest {
    uint64_t a, b;
} digest;

static void mix(digest *d, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++) {
        d->a = (d->a ^ p[i]) * 1099511628211u;
        d->b = (d->b + p[i]) * 0x9e3779b97f4a7c15u;
        d->b ^= d->b >> 29;
    }
}

static void mix_text(digest *d, const char *text) { mix(d, text, strlen(text) + 1); }

/* A file's bytes, or the fact that it is not there. */
static int mix_file(digest *d, const char *folder, const char *name, oc_err *err)
{
    int result = 0;
    bs_buf b = {0};
    char *path = bs_join(folder, name);
    if (!path)
        return bs_err(err, "out of memory: a file's name");
    mix_text(d, name);
    if (bs_is_file(path)) {
        result = bs_read_file(&b, path, 0, err);
        if (!result)
            mix(d, b.p, b.n);
    }
    bs_buf_clear(&b);
    free(path);
    return result;
}

static void mix_weight(digest *d, const ck_tensor *t)
{
    const uint8_t *p = t->data;
    mix_text(d, t->name);
    mix_text(d, ck_dtype_name(t->dtype));
    mix(d, t->shape, (size_t)t->rank * sizeof t->shape[0]);
    if (t->bytes <= WHOLE) {
        mix(d, p, t->bytes);
        return;
    }
    for (size_t i = 0; i < SAMPLES; i++)
        mix(d, p + (t->bytes - SAMPLE_BYTES) / (SAMPLES - 1) * i, SAMPLE_BYTES);
}

static void mix_floats(digest *d, const float *x, long n) { mix(d, x, (size_t)n * sizeof *x); }

/* What is bound to the weights, or in their place: the same adapter in another file is the same. */
static void mix_adapter(digest *d, const md_model *m, const md_lora *l)
{
    for (int i = 0; i < l->n; i++) {
        const tn_lora *f = &l->by_id[i];
        const md_slot *s = &m->slots[i];
        if (f->r || l->whole[i])
            mix_text(d, s->name);
        if (f->r) {
            mix(d, &f->scale, sizeof f->scale);
            mix_floats(d, f->a, f->r * md_in_of(s));
            mix_floats(d, f->b, f->r * md_out_of(s));
        }
        if (f->m)
            mix_floats(d, f->m, md_out_of(s));
        if (l->whole[i])
            mix_floats(d, s->own, s->count);
    }
}

int ix_model_id(const oc_engine *e, char id[IX_ID], oc_err *err)
{
    static const char *const files[] = {"config.json", "preprocessor_config.json", "processor_config.json"};
    digest d = {14695981039346656037u, 0x2545f4914f6cdd1du};
    const ck_store *store = e->model->store;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (mix_file(&d, e->model->folder, files[i], err))
            return -1;
    for (size_t i = 0; store && i < ck_count(store); i++)
        mix_weight(&d, ck_at(store, i));
    if (e->lora.by_id)
        mix_adapter(&d, e->model, &e->lora);
    snprintf(id, IX_ID, "%016llx%016llx", (unsigned long long)d.a, (unsigned long long)d.b);
    return 0;
}
