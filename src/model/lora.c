/* lora.c - an adapter bound to a model: its factors by parameter id, so that many can share one set of weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const char WEIGHT[] = ".weight";

/* The module's path of a weight in text; false for anything that is not called so. */
static bool module_of(const char *name, char *text, size_t n)
{
    size_t length = strlen(name), tail = sizeof WEIGHT - 1;
    if (length <= tail || length - tail >= n || strcmp(name + length - tail, WEIGHT) != 0)
        return false;
    memcpy(text, name, length - tail);
    text[length - tail] = 0;
    return true;
}

long md_out_of(const md_slot *s) { return s->p->shape[s->flags & TN_IN_FIRST ? 1 : 0]; }
long md_in_of(const md_slot *s) { return s->p->shape[s->flags & TN_IN_FIRST ? 0 : 1]; }

/* ---- the set ----------------------------------------------------------------------------------------------- */

static int alloc_set(md_lora *l, const md_model *m, oc_err *err)
{
    memset(l, 0, sizeof *l);
    l->n = m->n;
    l->by_id = bs_calloc((size_t)m->n, sizeof *l->by_id, "an adapter", err);
    l->name = bs_calloc((size_t)m->n, sizeof *l->name, "an adapter", err);
    l->whole = bs_calloc((size_t)m->n, sizeof *l->whole, "an adapter", err);
    return l->by_id && l->name && l->whole ? 0 : -1;
}

/* What can be written through pointers that everybody else reads through. */
static float *writable(const float *x) { return (float *)(uintptr_t)x; }

/* Room for the factors (and the magnitude) of parameter id, which the set owns, under the module's name. */
static int alloc_factors(md_lora *l, const md_slot *s, const char *module, int r, double scale, bool dora, oc_err *err)
{
    int id = s->p->id;
    tn_lora *lo = &l->by_id[id];
    *lo = (tn_lora){.r = r, .scale = (float)scale};
    lo->a = bs_alloc((size_t)(r * md_in_of(s)) * sizeof *lo->a, "an adapter", err);
    lo->b = bs_alloc((size_t)(md_out_of(s) * r) * sizeof *lo->b, "an adapter", err);
    lo->m = dora ? bs_alloc((size_t)md_out_of(s) * sizeof *lo->m, "an adapter", err) : NULL;
    l->name[id] = bs_strdup(module);
    if (!lo->a || !lo->b || (dora && !lo->m))
        return -1;
    return l->name[id] ? 0 : bs_err(err, "out of memory: an adapter");
}

void md_lora_clear(md_lora *l)
{
    for (int i = 0; l->by_id && i < l->n; i++) {
        const tn_lora *lo = &l->by_id[i];
        const float *const own[] = {lo->a, lo->b, lo->m, lo->f};
        for (size_t k = 0; k < sizeof own / sizeof *own; k++)
            bs_free(writable(own[k]));
    }
    for (int i = 0; l->name && i < l->n; i++)
        free(l->name[i]);
    bs_free(l->by_id);
    bs_free(l->name);
    bs_free(l->whole);
    ck_adapter_config_clear(&l->config);
    memset(l, 0, sizeof *l);
}

/* ---- DoRA's lengths ---------------------------------------------------------------------------------------- */

/* Of the rows of W + scale * B A, into out. W is read for this alone where it is not held, and let go. */
static int measure(const md_lora *l, const md_model *m, bs_pool *pool, int id, float *out, oc_err *err)
{
    const md_slot *s = &m->slots[id];
    const kn_table *kn = kn_best(err);
    float *read = s->p->v ? NULL : bs_alloc((size_t)s->count * sizeof *read, s->name, err);
    int result = -1;
    if (!kn || (!s->p->v && (!read || md_read_weight(m, s, read, err))))
        goto done;
    tn_row_lengths(pool, kn, &l->by_id[id], read ? read : s->p->v, md_out_of(s), md_in_of(s), s->flags & TN_IN_FIRST, out);
    const ck_tensor *t = m->store && !s->own ? ck_find(m->store, s->name) : NULL;
    if (t)
        ck_release(m->store, t);
    result = 0;
done:
    bs_free(read);
    return result;
}

/* What rows are multiplied by, as long as the factors stay as they are. */
static int fix_directions(md_lora *l, const md_model *m, oc_err *err)
{
    if (!l->config.dora)
        return 0;
    bs_pool *pool = bs_pool_open(0, err);
    int result = pool ? 0 : -1;
    for (int id = 0; id < l->n && !result; id++) {
        tn_lora *lo = &l->by_id[id];
        long out = lo->m ? md_out_of(&m->slots[id]) : 0;
        float *f = lo->m ? bs_alloc((size_t)out * sizeof *f, "an adapter", err) : NULL;
        lo->f = f;
        result = lo->m && (!f || measure(l, m, pool, id, f, err)) ? -1 : 0;
        for (long o = 0; f && !result && o < out; o++)
            f[o] = f[o] > 0 ? lo->m[o] / f[o] : 0;
    }
    bs_pool_close(pool);
    return result;
}

/* ---- from files -------------------------------------------------------------------------------------------- */

static int refuse_kind(const char *folder, const ck_adapter_target *t, oc_err *err)
{
    if (t->embedding_a)
        return bs_err(err,
                      "cannot load the adapter '%s': '%s' has factors of a table (lora_embedding_A), which are not supported",
                      folder, t->module);
    if (t->b_bias)
        return bs_err(err,
                      "cannot load the adapter '%s': '%s' has a bias beside its factors (lora_B.bias), which is not supported",
                      folder, t->module);
    return 0;
}

static int check_shapes(const char *folder, const ck_adapter_target *t, const md_slot *s, oc_err *err)
{
    long in = md_in_of(s), out = md_out_of(s);
    if (t->a->rank == 2 && t->b->rank == 2 && t->a->shape[0] == t->rank && t->a->shape[1] == in && t->b->shape[0] == out &&
        t->b->shape[1] == t->rank)
        return 0;
    return bs_err(err,
                  "cannot load the adapter '%s': '%s' has factors [%ld,%ld] and [%ld,%ld], the model wants [%d,%ld] and [%ld,%d]",
                  folder, t->module, (long)t->a->shape[0], (long)t->a->shape[1], (long)t->b->shape[0], (long)t->b->shape[1],
                  t->rank, in, out, t->rank);
}

static int bind_target(md_lora *l, const md_model *m, const char *folder, const ck_adapter_target *t, float scale, oc_err *err)
{
    char name[512];
    snprintf(name, sizeof name, "%s%s", t->module, WEIGHT);
    if (refuse_kind(folder, t, err))
        return -1;
    int id = md_adapted_slot(m, name, err);
    if (id < 0)
        return bs_err_prefix(err, "cannot load the adapter '%s': ", folder);
    if (m->slots[id].flags & TN_UNADAPTED)
        return 0;
    if (!(m->slots[id].flags & TN_LINEAR))
        return bs_err(err, "cannot load the adapter '%s': '%s' is no linear layer of the model", folder, t->module);
    if (l->name[id])
        return bs_err(err, "cannot load the adapter '%s': '%s' and '%s' are the same layer", folder, l->name[id], t->module);
    const md_slot *s = &m->slots[id];
    if (check_shapes(folder, t, s, err) ||
        alloc_factors(l, s, t->module, t->rank, t->scale * (double)scale, t->magnitude != NULL, err))
        return -1;
    const tn_lora *lo = &l->by_id[id];
    return ck_to_f32(t->a, 0, t->a->count, writable(lo->a), err) || ck_to_f32(t->b, 0, t->b->count, writable(lo->b), err) ||
                   (lo->m && ck_to_f32(t->magnitude, 0, t->magnitude->count, writable(lo->m), err))
               ? -1
               : 0;
}

static int check_whole(const md_lora *l, const char *folder, const ck_adapter_saved *w, const md_slot *s, oc_err *err)
{
    char found[CK_SHAPE_TEXT], wanted[CK_SHAPE_TEXT];
    int64_t shape[TN_MAX_RANK];
    bool same = w->tensor->rank == s->p->rank;
    for (int i = 0; i < s->p->rank; i++)
        shape[i] = s->p->shape[i];
    for (int i = 0; same && i < s->p->rank; i++)
        same = w->tensor->shape[i] == shape[i];
    if (!same || !ck_dtype_is_float(w->tensor->dtype))
        return bs_err(err, "cannot load the adapter '%s': '%s' is %s %s, the model wants floats %s", folder, w->name,
                      ck_dtype_name(w->tensor->dtype), ck_shape_text(w->tensor->rank, w->tensor->shape, found),
                      ck_shape_text(s->p->rank, shape, wanted));
    if (s->p->id < 0 || s->flags & (TN_BUFFER | TN_TIED) || l->whole[s->p->id])
        return bs_err(err, "cannot load the adapter '%s': '%s' cannot be replaced%s", folder, w->name,
                      s->flags & TN_TIED ? ": the output head is tied to it" : "");
    return 0;
}

/* A whole weight takes the place of the model's. That of an adapted layer goes by the module's name. */
static int replace(md_lora *l, md_model *m, const char *folder, const ck_adapter_saved *w, oc_err *err)
{
    int id = md_adapted_slot(m, w->name, err);
    if (id < 0)
        return bs_err_prefix(err, "cannot load the adapter '%s': ", folder);
    if (check_whole(l, folder, w, &m->slots[id], err) || md_own_weight(m, id, err) ||
        ck_to_f32(w->tensor, 0, w->tensor->count, m->slots[id].own, err))
        return -1;
    l->whole[id] = true;
    if (!l->name[id] && !(l->name[id] = bs_strdup(w->name)))
        return bs_err(err, "out of memory: an adapter");
    return 0;
}

int md_lora_open(md_lora *l, md_model *m, const char *folder, float scale, oc_err *err)
{
    int result = -1;
    ck_adapter file = {0};
    if (alloc_set(l, m, err) || ck_adapter_open(&file, folder, err))
        goto done;
    for (int i = 0; i < file.targets_n; i++)
        if (bind_target(l, m, folder, &file.targets[i], scale, err))
            goto done;
    for (int i = 0; i < file.saved_n; i++)
        if (replace(l, m, folder, &file.saved[i], err))
            goto done;
    l->config = file.config; /* moved */
    memset(&file.config, 0, sizeof file.config);
    result = fix_directions(l, m, err);
done:
    ck_adapter_close(&file);
    if (result)
        md_lora_clear(l);
    return result;
}

/* ---- new ones ---------------------------------------------------------------------------------------------- */

/* The last parts of the linear layers' names, each once, as far as they fit. */
static void put_kinds(const md_model *m, bs_buf *text)
{
    char module[512];
    for (int id = 0; id < m->n && text->n < 300; id++) {
        if (!(m->slots[id].flags & TN_LINEAR) || !module_of(m->slots[id].name, module, sizeof module))
            continue;
        const char *dot = strrchr(module, '.'), *kind = dot ? dot + 1 : module;
        char listed[520];
        snprintf(listed, sizeof listed, " %s,", kind);
        if (!text->n || !strstr(text->p, listed))
            bs_buf_printf(text, NULL, "%s", listed);
    }
}

static void no_target(const ck_adapter_config *c, const md_model *m, oc_err *err)
{
    bs_buf wanted = {0}, there = {0};
    for (int i = 0; i < c->target_modules.n && wanted.n < 200; i++)
        bs_buf_printf(&wanted, NULL, "%s%.64s", i ? ", " : "", c->target_modules.p[i]);
    put_kinds(m, &there);
    bs_err(err, "the adapter's target modules match no linear layer of '%s': '%s'; it has%.*s", m->folder,
           wanted.n          ? wanted.p
           : c->target_regex ? c->target_regex
                             : "all-linear",
           there.n ? (int)there.n - 1 : 5, there.n ? there.p : " none ");
    bs_buf_clear(&wanted);
    bs_buf_clear(&there);
}

/* "all-linear" means all but the output head, as in PEFT. */
static bool is_head(const char *module)
{
    static const char *const heads[] = {"lm_head", "predictions.decoder"};
    size_t n = strlen(module);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        size_t k = strlen(heads[i]);
        if (n >= k && !strcmp(module + n - k, heads[i]))
            return true;
    }
    return false;
}

/* A Kaiming-uniform (a = sqrt 5), B zero, m the lengths of W's rows. */
static int draw(md_lora *l, const md_model *m, bs_pool *pool, int id, uint64_t seed, oc_err *err)
{
    const md_slot *s = &m->slots[id];
    const tn_lora *lo = &l->by_id[id];
    bs_rng rng;
    bs_rng_seed(&rng, seed, (uint64_t)id);
    float bound = (float)(1 / sqrt((double)md_in_of(s)));
    for (long i = 0; i < lo->r * md_in_of(s); i++)
        writable(lo->a)[i] = bs_rng_range(&rng, -bound, bound);
    memset(writable(lo->b), 0, (size_t)(md_out_of(s) * lo->r) * sizeof *lo->b);
    return lo->m ? measure(l, m, pool, id, writable(lo->m), err) : 0;
}

/* 1: a new target, 0: none, -1: one that cannot be. */
static int target(md_lora *l, const md_model *m, bs_pool *pool, int id, uint64_t seed, oc_err *err)
{
    char module[512];
    const ck_adapter_config *c = &l->config;
    const md_slot *s = &m->slots[id];
    bool linear = s->flags & TN_LINEAR;
    if (s->p->id < 0 || !module_of(s->name, module, sizeof module) || (c->all_linear && (!linear || is_head(module))) ||
        !ck_adapter_targets(c, module))
        return 0;
    if (!linear)
        return bs_err(err, "the adapter's target '%s' is no linear layer, and only those take factors", module);
    l->config.fan_in_fan_out |= (s->flags & TN_IN_FIRST) != 0;
    if (alloc_factors(l, s, module, ck_adapter_rank(c, module), ck_adapter_scale(c, module), c->dora, err) ||
        draw(l, m, pool, id, seed, err))
        return -1;
    return 1;
}

/* Whether `name` (a weight's) lies in the module `saved`, which stands anywhere in its path. */
static bool saves(const ck_adapter_config *c, const char *name)
{
    char module[512];
    const char *dot = strrchr(name, '.');
    snprintf(module, sizeof module, "%.*s", dot ? (int)(dot - name) : 0, name);
    return ck_adapter_saves(c, module);
}

/* The weights of modules_to_save become the model's own copies, which learn. */
static int copy_whole(md_lora *l, md_model *m, oc_err *err)
{
    const ck_names *list = &l->config.modules_to_save;
    for (int i = 0; i < list->n; i++) {
        ck_adapter_config one = {.modules_to_save = {&list->p[i], 1}};
        int found = 0;
        for (int id = 0; id < m->n; id++) {
            const md_slot *s = &m->slots[id];
            if (s->p->id < 0 || s->flags & TN_BUFFER || !saves(&one, s->name))
                continue;
            found++;
            if (s->flags & TN_TIED)
                return bs_err(err, "'%s' cannot be saved as a whole: the output head is tied to it", s->name);
            if (l->whole[id])
                continue;
            l->whole[id] = true;
            l->name[id] = bs_strdup(s->name);
            if (!l->name[id])
                return bs_err(err, "out of memory: an adapter");
            if (md_own_weight(m, id, err))
                return -1;
        }
        if (!found)
            return bs_err(err, "the model '%s' has no module '%s' to save as a whole", m->folder, list->p[i]);
    }
    return 0;
}

int md_lora_create(md_lora *l, md_model *m, ck_adapter_config *config, uint64_t seed, oc_err *err)
{
    int targets = 0, result = -1;
    bs_pool *pool = bs_pool_open(0, err);
    if (!pool || alloc_set(l, m, err))
        goto done;
    l->config = *config;
    memset(config, 0, sizeof *config);
    for (int id = 0; id < m->n; id++) {
        int more = target(l, m, pool, id, seed, err);
        if (more < 0)
            goto done;
        targets += more;
    }
    if (!targets)
        no_target(&l->config, m, err);
    result = targets ? copy_whole(l, m, err) : -1;
done:
    bs_pool_close(pool);
    if (result)
        md_lora_clear(l);
    return result;
}

/* ---- to files ---------------------------------------------------------------------------------------------- */

enum { NAME = 640, PARTS = 4 }; /* A, B, m and the whole weight of one id */

typedef struct listing {
    ck_tensor *t;
    char (*name)[NAME];
    size_t n;
} listing;

static void list_tensor(listing *w, const char *module, const char *part, const float *data, int rank, const long *shape)
{
    ck_tensor *t = &w->t[w->n];
    snprintf(w->name[w->n], NAME, "%s%s", module, part);
    *t = (ck_tensor){.name = w->name[w->n++], .dtype = CK_F32, .rank = rank, .count = 1, .data = data};
    for (int i = 0; i < rank; i++) {
        t->shape[i] = shape[i];
        t->count *= shape[i];
    }
    t->bytes = (size_t)t->count * sizeof *data;
}

static void list_id(listing *w, const md_lora *l, const md_model *m, int id)
{
    const tn_lora *lo = &l->by_id[id];
    const md_slot *s = &m->slots[id];
    if (lo->r) {
        list_tensor(w, l->name[id], ".lora_A.weight", lo->a, 2, (long[]){lo->r, md_in_of(s)});
        list_tensor(w, l->name[id], ".lora_B.weight", lo->b, 2, (long[]){md_out_of(s), lo->r});
    }
    if (lo->m)
        list_tensor(w, l->name[id], ".lora_magnitude_vector", lo->m, 1, (long[]){md_out_of(s)});
    if (l->whole[id])
        list_tensor(w, l->name[id], lo->r ? ".base_layer.weight" : "", s->own, s->p->rank, s->p->shape);
}

int md_lora_save(const md_lora *l, const md_model *m, const char *folder, oc_err *err)
{
    int result = -1;
    listing w = {bs_calloc((size_t)m->n * PARTS, sizeof *w.t, "an adapter", err),
                 bs_calloc((size_t)m->n * PARTS, sizeof *w.name, "an adapter", err), 0};
    if (!w.t || !w.name)
        goto done;
    for (int id = 0; id < m->n; id++)
        list_id(&w, l, m, id);
    result = ck_adapter_write(folder, &l->config, w.t, w.n, err);
done:
    bs_free(w.t);
    bs_free(w.name);
    return result;
}

/* Row o of W + scale * B A in double, times m over its own length where there is one. */
static void merge_row(const tn_lora *lo, const md_slot *s, long o, double *row)
{
    long in = md_in_of(s), out = md_out_of(s);
    bool in_first = s->flags & TN_IN_FIRST;
    for (long i = 0; i < in; i++)
        row[i] = (double)s->p->v[in_first ? i * out + o : o * in + i];
    for (int k = 0; k < lo->r; k++) {
        double b = (double)lo->scale * (double)lo->b[o * lo->r + k];
        for (long i = 0; i < in; i++)
            row[i] += b * (double)lo->a[k * in + i];
    }
    if (!lo->m)
        return;
    double squares = 0;
    for (long i = 0; i < in; i++)
        squares += row[i] * row[i];
    double f = squares > 0 ? (double)lo->m[o] / sqrt(squares) : 0;
    for (long i = 0; i < in; i++)
        row[i] *= f;
}

int md_lora_merged(const md_lora *l, const md_model *m, int id, float *out, oc_err *err)
{
    const md_slot *s = &m->slots[id];
    long n = md_out_of(s), in = md_in_of(s);
    double *row = bs_alloc((size_t)in * sizeof *row, "a row of a weight", err);
    for (long o = 0; row && o < n; o++) {
        merge_row(&l->by_id[id], s, o, row);
        for (long i = 0; i < in; i++)
            out[s->flags & TN_IN_FIRST ? i * n + o : o * in + i] = (float)row[i];
    }
    int result = row ? 0 : -1;
    bs_free(row);
    return result;
}
