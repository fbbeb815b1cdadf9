/* lora.c - an adapter bound to a model: its factors by parameter id, so that many can share one set of weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const char WEIGHT[] = ".weight";

/* The module's path of a linear layer's weight in text; false for any other weight. */
static bool module_of(const md_slot *s, char *text, size_t n)
{
    size_t length = strlen(s->name), tail = sizeof WEIGHT - 1;
    if (!(s->flags & TN_LINEAR) || length <= tail || length - tail >= n || strcmp(s->name + length - tail, WEIGHT) != 0)
        return false;
    memcpy(text, s->name, length - tail);
    text[length - tail] = 0;
    return true;
}

static int alloc_set(md_lora *l, const md_model *m, oc_err *err)
{
    memset(l, 0, sizeof *l);
    l->n = m->n;
    l->by_id = bs_calloc((size_t)m->n, sizeof *l->by_id, "an adapter", err);
    return l->by_id ? 0 : -1;
}

/* Room for both factors of parameter id, which the set owns. */
static int alloc_factors(tn_lora *lo, const tn_param *p, int r, double scale, float **a, float **b, oc_err *err)
{
    *a = bs_alloc((size_t)(r * p->shape[1]) * sizeof **a, "an adapter", err);
    *b = bs_alloc((size_t)(p->shape[0] * r) * sizeof **b, "an adapter", err);
    *lo = (tn_lora){.r = r, .scale = (float)scale, .a = *a, .b = *b};
    return *a && *b ? 0 : -1;
}

static int bind_target(md_lora *l, const md_model *m, const char *folder, const ck_adapter_target *t, float scale, oc_err *err)
{
    char name[512];
    snprintf(name, sizeof name, "%s%s", t->module, WEIGHT);
    int id = md_slot_of(m, name);
    if (id < 0 || !(m->slots[id].flags & TN_LINEAR))
        return bs_err(err, "cannot load the adapter '%s': the model has no linear layer '%s'", folder, t->module);
    const tn_param *p = m->slots[id].p;
    if (!t->a || !t->b || t->b_bias || t->magnitude)
        return bs_err(err, "cannot load the adapter '%s': '%s' is not plain LoRA", folder, t->module);
    if (t->a->rank != 2 || t->b->rank != 2 || t->a->shape[0] != t->rank || t->a->shape[1] != p->shape[1] ||
        t->b->shape[0] != p->shape[0] || t->b->shape[1] != t->rank)
        return bs_err(
            err, "cannot load the adapter '%s': '%s' has factors [%ld,%ld] and [%ld,%ld], the model wants [%d,%ld] and [%ld,%d]",
            folder, t->module, (long)t->a->shape[0], (long)t->a->shape[1], (long)t->b->shape[0], (long)t->b->shape[1], t->rank,
            p->shape[1], p->shape[0], t->rank);
    float *a, *b;
    if (alloc_factors(&l->by_id[id], p, t->rank, t->scale * (double)scale, &a, &b, err))
        return -1;
    return ck_to_f32(t->a, 0, t->a->count, a, err) || ck_to_f32(t->b, 0, t->b->count, b, err) ? -1 : 0;
}

int md_lora_open(md_lora *l, const md_model *m, const char *folder, float scale, oc_err *err)
{
    int result = -1;
    ck_adapter file = {0};
    if (alloc_set(l, m, err) || ck_adapter_open(&file, folder, err))
        goto done;
    if (file.saved_n) {
        bs_err(err, "cannot load the adapter '%s': it replaces the whole weight '%s', which is not supported", folder,
               file.saved[0].name);
        goto done;
    }
    for (int i = 0; i < file.targets_n; i++)
        if (bind_target(l, m, folder, &file.targets[i], scale, err))
            goto done;
    l->config = file.config; /* moved */
    memset(&file.config, 0, sizeof file.config);
    result = 0;
done:
    ck_adapter_close(&file);
    if (result)
        md_lora_clear(l);
    return result;
}

/* The last parts of the linear layers' names, each once, as far as they fit. */
static void put_kinds(const md_model *m, bs_buf *text)
{
    char module[512];
    for (int id = 0; id < m->n && text->n < 300; id++) {
        if (!module_of(&m->slots[id], module, sizeof module))
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

int md_lora_create(md_lora *l, const md_model *m, ck_adapter_config *config, uint64_t seed, oc_err *err)
{
    int targets = 0;
    if (alloc_set(l, m, err))
        return -1;
    l->config = *config;
    memset(config, 0, sizeof *config);
    for (int id = 0; id < m->n; id++) {
        char module[512];
        const tn_param *p = m->slots[id].p;
        if (!module_of(&m->slots[id], module, sizeof module) || !ck_adapter_targets(&l->config, module))
            continue;
        float *a, *b;
        if (alloc_factors(&l->by_id[id], p, ck_adapter_rank(&l->config, module), ck_adapter_scale(&l->config, module), &a, &b,
                          err))
            goto failed;
        bs_rng rng;
        bs_rng_seed(&rng, seed, (uint64_t)id);
        float bound = (float)(1 / sqrt((double)p->shape[1]));
        for (long i = 0; i < l->by_id[id].r * p->shape[1]; i++)
            a[i] = bs_rng_range(&rng, -bound, bound);
        memset(b, 0, (size_t)(p->shape[0] * l->by_id[id].r) * sizeof *b);
        targets++;
    }
    if (targets)
        return 0;
    no_target(&l->config, m, err);
failed:
    md_lora_clear(l);
    return -1;
}

void md_lora_clear(md_lora *l)
{
    for (int i = 0; l->by_id && i < l->n; i++) {
        bs_free((void *)(uintptr_t)l->by_id[i].a);
        bs_free((void *)(uintptr_t)l->by_id[i].b);
    }
    bs_free(l->by_id);
    ck_adapter_config_clear(&l->config);
    memset(l, 0, sizeof *l);
}

int md_lora_save(const md_lora *l, const md_model *m, const char *folder, oc_err *err)
{
    int result = -1, n = 0;
    ck_tensor *t = calloc((size_t)m->n * 2, sizeof *t);
    char(*names)[560] = calloc((size_t)m->n * 2, sizeof *names);
    if (!t || !names) {
        bs_err(err, "out of memory: an adapter");
        goto done;
    }
    for (int id = 0; id < m->n; id++) {
        const tn_lora *lo = &l->by_id[id];
        const tn_param *p = m->slots[id].p;
        char module[512];
        if (!lo->r || !module_of(&m->slots[id], module, sizeof module))
            continue;
        for (int k = 0; k < 2; k++, n++) {
            snprintf(names[n], sizeof names[n], "%s.lora_%c.weight", module, k ? 'B' : 'A');
            t[n] = (ck_tensor){.name = names[n], .dtype = CK_F32, .rank = 2, .data = k ? lo->b : lo->a};
            t[n].shape[0] = k ? p->shape[0] : lo->r;
            t[n].shape[1] = k ? lo->r : p->shape[1];
            t[n].count = t[n].shape[0] * t[n].shape[1];
            t[n].bytes = (size_t)t[n].count * sizeof(float);
        }
    }
    result = ck_adapter_write(folder, &l->config, t, (size_t)n, err);
done:
    free(t);
    free(names);
    return result;
}

bool md_lora_merged(const md_lora *l, const md_model *m, int id, float *out)
{
    const tn_lora *lo = &l->by_id[id];
    const tn_param *p = m->slots[id].p;
    if (!lo->r)
        return false;
    for (long o = 0; o < p->shape[0]; o++)
        for (long i = 0; i < p->shape[1]; i++) {
            double sum = 0;
            for (int k = 0; k < lo->r; k++)
                sum += (double)lo->b[o * lo->r + k] * (double)lo->a[k * p->shape[1] + i];
            out[o * p->shape[1] + i] = (float)((double)p->v[o * p->shape[1] + i] + (double)lo->scale * sum);
        }
    return true;
}
