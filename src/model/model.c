/* model.c - opening, checking, holding and saving a model's weights, all by its one list of them. */
#include "model.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "../checkpoint/quantized.h"

/* ---- the list ------------------------------------------------------------------------------------------------ */

typedef struct lister {
    md_model *m;
    int cap;
    bool failed;
} lister;

static void add_slot(void *arg, const char *name, tn_param *p, unsigned flags)
{
    lister *l = arg;
    md_model *m = l->m;
    if (m->n == l->cap) {
        int cap = l->cap ? l->cap * 2 : 256;
        md_slot *more = realloc(m->slots, (size_t)cap * sizeof *more);
        if (!more) {
            l->failed = true;
            return;
        }
        m->slots = more;
        l->cap = cap;
    }
    long count = 1;
    for (int i = 0; i < p->rank; i++)
        count *= p->shape[i];
    char *copy = bs_strdup(name);
    l->failed |= !copy;
    p->id = m->n;
    m->slots[m->n++] = (md_slot){.name = copy, .p = p, .flags = flags, .count = count};
    m->parameters += flags & TN_BUFFER ? 0 : count;
}

static const md_family *family_of(const ck_config *c, oc_err *err)
{
    const char *type = NULL, *architecture = NULL;
    const ck_config *list = NULL;
    if (ck_string(c, "model_type", &type, err) || ck_array(c, "architectures", &list, err))
        return NULL;
    if (list && ck_config_size(list) && ck_string(ck_config_at(list, 0), NULL, &architecture, err))
        return NULL;
    for (int i = 0; md_families[i]; i++) {
        const md_family *f = md_families[i];
        if (f->original && ck_has(c, f->original))
            return f;
        if (type && strncmp(type, f->model_type, strlen(f->model_type)) != 0)
            continue; /* "clip_text_model" is of "clip" */
        for (int k = 0; f->architectures[k]; k++)
            if (architecture ? !strcmp(architecture, f->architectures[k]) : type && !strcmp(type, f->model_type))
                return f;
    }
    ck_config_wrong(c, architecture ? "architectures" : "model_type", err, "a family that Ocelli knows (see ocelli info --help)");
    return NULL;
}

/* config.json, or the one that open_clip writes. */
static char *config_of(const char *folder)
{
    char *path = bs_join(folder, "config.json"), *original = bs_join(folder, "open_clip_config.json");
    bool first = !path || !original || bs_is_file(path) || !bs_is_file(original);
    free(first ? original : path);
    return first ? path : original;
}

md_model *md_create(const char *folder, oc_err *err)
{
    md_model *m = calloc(1, sizeof *m);
    char *path = config_of(folder);
    if (!m || !path || !(m->folder = bs_strdup(folder))) {
        bs_err(err, "out of memory: a model");
        goto failed;
    }
    if (!bs_is_dir(folder)) {
        bs_err(err, "no model in '%s': expected a folder with config.json and model.safetensors", folder);
        goto failed;
    }
    if (!(m->config = ck_config_read(path, err)) || !(m->family = family_of(m->config, err)))
        goto failed;
    m->m = m->family->create(m->config, err);
    if (!m->m || (m->family->read_folder && m->family->read_folder(m->m, folder, err)))
        goto failed;
    lister l = {.m = m};
    tn_visitor v = {.visit = add_slot, .arg = &l};
    m->family->visit(m->m, &v);
    if (l.failed) {
        bs_err(err, "out of memory: a model's list of weights");
        goto failed;
    }
    free(path);
    return m;
failed:
    free(path);
    md_close(m);
    return NULL;
}

void md_close(md_model *m)
{
    if (!m)
        return;
    for (int i = 0; i < m->n; i++) {
        free(m->slots[i].name);
        bs_free(m->slots[i].own);
    }
    free(m->slots);
    if (m->m)
        m->family->destroy(m->m);
    ck_close(m->store);
    ck_config_free(m->config);
    free(m->folder);
    free(m);
}

int md_slot_of(const md_model *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->slots[i].name, name))
            return i;
    return -1;
}

unsigned md_can(const md_model *m)
{
    md_sizes s = {0};
    m->family->sizes(m->m, &s);
    return m->family->can &
           ((s.image_size && s.embedding ? MD_EMBEDS_IMAGES : 0u) | (s.max_tokens && s.embedding ? MD_EMBEDS_TEXTS : 0u) |
            (s.context ? MD_GENERATES : 0u) | (s.matches ? MD_MATCHES : 0u));
}

/* ---- loading --------------------------------------------------------------------------------------------------- */

static int check_shape(const md_model *m, const md_slot *s, const ck_tensor *t, oc_err *err)
{
    int64_t want[TN_MAX_RANK];
    for (int i = 0; i < s->p->rank; i++)
        want[i] = s->p->shape[i];
    if (s->count == 1 && t->count == 1 && s->p->rank <= 1 && t->rank <= 1)
        return 0; /* a scalar is stored as [] or [1] */
    return ck_check_shape(m->store, t, s->p->rank, want, err);
}

static int take_shape(md_model *m, md_slot *s, const ck_tensor *t, oc_err *err)
{
    if (t->rank > TN_MAX_RANK)
        return bs_err(err, "cannot load '%s': tensor '%s' has %d dimensions, expected at most %d", ck_path(m->store), s->name,
                      t->rank, TN_MAX_RANK);
    s->p->rank = t->rank;
    for (int i = 0; i < t->rank; i++)
        s->p->shape[i] = (long)t->shape[i];
    if (!(s->flags & TN_BUFFER))
        m->parameters += (long)t->count - s->count;
    s->count = (long)t->count;
    return 0;
}

/* fp16 and bf16 by the kernels, where they lie as they should; anything else one by one. */
static int widen(const ck_tensor *t, size_t at, size_t n, float *to, oc_err *err)
{
    const kn_table *kn = kn_best(err);
    if (!kn)
        return -1;
    const uint16_t *halves = (const uint16_t *)t->data + at;
    bool aligned = (uintptr_t)t->data % sizeof(uint16_t) == 0;
    if (aligned && t->dtype == CK_F16)
        kn->from_f16((long)n, halves, to);
    else if (aligned && t->dtype == CK_BF16)
        kn->from_bf16((long)n, halves, to);
    else
        return ck_to_f32(t, at, n, to, err);
    return 0;
}

/* Integers times their scales, turned where the model wants [in, out]. */
static int dequantize(const md_model *m, const md_slot *s, const ck_quantized *t, float *to, oc_err *err)
{
    long groups = (long)t->scale->count / t->n;
    bool turned = s->flags & TN_IN_FIRST;
    int8_t *q = bs_alloc((size_t)(t->n * t->k), "a weight", err);
    float *scale = bs_alloc((size_t)t->scale->count * sizeof *scale, "a weight's scales", err);
    int result = q && scale ? ck_quantized_read(m->store, t, q, scale, err) : -1;
    for (long j = 0; !result && j < t->n; j++)
        for (long p = 0; p < t->k; p++)
            to[turned ? p * t->n + j : j * t->k + p] = scale[j * groups + p / t->group] * (float)q[j * t->k + p];
    bs_free(q);
    bs_free(scale);
    return result;
}

/* 1: the file keeps this weight in integers. */
static int find_quantized(const md_model *m, const md_slot *s, ck_quantized *t, oc_err *err)
{
    if (!(s->flags & TN_LINEAR) || s->p->rank != 2)
        return 0;
    return ck_quantized_find(m->store, s->name, md_out_of(s), md_in_of(s), t, err);
}

int md_read_weight(const md_model *m, const md_slot *s, float *out, oc_err *err)
{
    ck_quantized q;
    int found = find_quantized(m, s, &q, err);
    if (found)
        return found < 0 ? -1 : dequantize(m, s, &q, out, err);
    return md_read_values(m, s, 0, (size_t)s->count, out, err);
}

int md_read_values(const md_model *m, const md_slot *s, size_t at, size_t n, float *out, oc_err *err)
{
    const ck_tensor *t = ck_find(m->store, s->name);
    return t ? widen(t, at, n, out, err) : bs_err(err, "cannot load '%s': tensor '%s' is missing", ck_path(m->store), s->name);
}

kn_dtype md_file_dtype(const md_model *m)
{
    ck_quantized q;
    for (int i = 0; m->store && i < m->n; i++)
        if (find_quantized(m, &m->slots[i], &q, NULL) > 0)
            return q.bits == 8 ? KN_I8 : KN_I4;
    return KN_F32;
}

int md_need_floats(const md_model *m, oc_err *err)
{
    return md_file_dtype(m) == KN_F32 ? 0 : bs_err(err, "'%s' is quantised: start from the model it was made of", m->folder);
}

/* The slot's tensor is there and of the right shape: 0. 1: it is optional and absent. */
static int check_slot(md_model *m, md_slot *s, const ck_tensor *t, oc_err *err)
{
    ck_quantized q;
    int found = find_quantized(m, s, &q, err);
    if (found)
        return found < 0 ? -1 : 0;
    if (!t && s->flags & TN_OPTIONAL) {
        s->p->id = -1;
        m->parameters -= s->flags & TN_BUFFER ? 0 : s->count;
        return 1;
    }
    if (!t)
        return bs_err(err, "cannot load '%s': tensor '%s' is missing", ck_path(m->store), s->name);
    if (!ck_dtype_is_float(t->dtype))
        return bs_err(err, "cannot load '%s': tensor '%s' is %s, expected a float type", ck_path(m->store), s->name,
                      ck_dtype_name(t->dtype));
    return (s->flags & TN_SHAPE_OF_FILE && take_shape(m, s, t, err)) || check_shape(m, s, t, err) ? -1 : 0;
}

static int load_slot(md_model *m, md_slot *s, bool lean, oc_err *err)
{
    const ck_tensor *t = ck_find(m->store, s->name);
    int found = check_slot(m, s, t, err);
    if (found)
        return found < 0 ? -1 : 0;
    if (t && t->dtype == CK_F32 && (uintptr_t)t->data % sizeof(float) == 0)
        s->p->v = t->data;
    else if (!(lean && s->flags & (TN_LINEAR | TN_KERNEL | TN_TABLE))) {
        s->own = bs_alloc((size_t)s->count * sizeof(float), s->name, err);
        if (!s->own || md_read_weight(m, s, s->own, err))
            return -1;
        if (t)
            ck_release(m->store, t); /* the widened copy is the only one held */
        s->p->v = s->own;
    }
    m->weights_bytes += (size_t)s->count * sizeof(float);
    return 0;
}

int md_load(md_model *m, bool lean, oc_err *err)
{
    m->store = ck_open(m->folder, err);
    if (!m->store || (m->family->renamings && ck_rename(m->store, m->family->renamings(m->m), err)))
        return -1;
    for (int i = 0; i < m->n; i++)
        if (load_slot(m, &m->slots[i], lean, err))
            return -1;
    return 0;
}

static md_model *open_model(const char *folder, bool lean, oc_err *err)
{
    md_model *m = md_create(folder, err);
    if (m && md_load(m, lean, err)) {
        md_close(m);
        return NULL;
    }
    return m;
}

md_model *md_open(const char *folder, oc_err *err) { return open_model(folder, false, err); }

md_model *md_open_lean(const char *folder, oc_err *err) { return open_model(folder, true, err); }

int md_own_weight(md_model *m, int id, oc_err *err)
{
    md_slot *s = &m->slots[id];
    if (s->own)
        return 0;
    s->own = bs_calloc((size_t)s->count, sizeof(float), s->name, err);
    if (!s->own)
        return -1;
    if (s->p->v)
        memcpy(s->own, s->p->v, (size_t)s->count * sizeof(float));
    s->p->v = s->own;
    return 0;
}

int md_own(md_model *m, oc_err *err)
{
    for (int i = 0; i < m->n; i++)
        if (m->slots[i].p->id >= 0 && md_own_weight(m, i, err))
            return -1;
    return 0;
}

int md_init(md_model *m, uint64_t seed, oc_err *err)
{
    if (!m->family->init)
        return bs_err(err, "the family %s cannot be trained from nothing", m->family->model_type);
    for (int i = 0; i < m->n; i++) {
        bs_rng rng;
        bs_rng_seed(&rng, seed, (uint64_t)i);
        m->family->init(m->m, m->slots[i].name, m->slots[i].count, m->slots[i].own, &rng);
    }
    return 0;
}

static bool ends(const char *name, const char *tail)
{
    size_t n = strlen(name), k = strlen(tail);
    return n >= k && !strcmp(name + n - k, tail);
}

void md_draw(const char *name, long n, float *values, bs_rng *rng, float deviation)
{
    bool gain = (strstr(name, "norm") || strstr(name, "Norm")) && ends(name, ".weight"), drawn = !gain && !ends(name, "bias");
    for (long i = 0; i < n; i++)
        values[i] = drawn ? deviation * bs_rng_normal(rng) : gain ? 1 : 0;
}

int md_check_finite(const md_model *m, oc_err *err)
{
    for (int i = 0; m->store && i < m->n; i++) {
        const ck_tensor *t = ck_find(m->store, m->slots[i].name);
        if (t && ck_check_finite(m->store, t, err))
            return -1;
    }
    return 0;
}

/* ---- saving ---------------------------------------------------------------------------------------------------- */

static int put_slot(ck_writer *w, const float *v, long count, ck_dtype dtype, oc_err *err)
{
    float piece[1024]; /* holds any dtype: fp32 is the widest */
    for (long at = 0; at < count; at += 1024) {
        long n = count - at < 1024 ? count - at : 1024;
        if (ck_from_f32(dtype, v + at, n, piece, err) || ck_writer_put(w, piece, (size_t)n * ck_dtype_size(dtype), err))
            return -1;
    }
    return 0;
}

int md_save(const md_model *m, const char *path, ck_dtype dtype, const float *const *values, oc_err *err)
{
    int result = -1;
    ck_writer *w = ck_writer_open(path, 0, err);
    if (!w)
        return -1;
    for (int i = 0; i < m->n; i++) {
        const md_slot *s = &m->slots[i];
        int64_t shape[TN_MAX_RANK];
        for (int k = 0; k < s->p->rank; k++)
            shape[k] = s->p->shape[k];
        if (s->p->id >= 0 && ck_writer_add(w, s->name, dtype, s->p->rank, shape, err))
            goto done;
    }
    if (ck_writer_start(w, err))
        goto done;
    for (int i = 0; i < m->n; i++) {
        const md_slot *s = &m->slots[i];
        if (s->p->id >= 0 && put_slot(w, values && values[i] ? values[i] : s->p->v, s->count, dtype, err))
            goto done;
    }
    result = ck_writer_commit(w, err);
done:
    ck_writer_free(w);
    return result;
}

/* ---- batches and outputs ----------------------------------------------------------------------------------------- */

void md_batch_clear(md_batch *b)
{
    free(b->input_ids);
    free(b->token_types);
    free(b->attention_mask);
    free(b->pool);
    free(b->target);
    free(b->positions);
    free(b->from);
    free(b->decoder_ids);
    free(b->decoder_mask);
    free(b->decoder_target);
    free(b->pair_ids);
    free(b->pair_mask);
    free(b->pair_rows);
    free(b->pair_target);
    free(b->wanted);
    memset(b, 0, sizeof *b);
}

void md_emit(tn_ctx *cx, md_outputs *out, tn_t value, const char *format, ...)
{
    if (cx->failed)
        return;
    if (out->n == MD_MAX_OUTPUTS) {
        tn_fail(cx, "more than %d outputs", MD_MAX_OUTPUTS);
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(out->item[out->n].name, sizeof out->item[0].name, format, args);
    va_end(args);
    out->item[out->n].value = tn_tap(cx, out->item[out->n].name, value);
    out->n++;
}
