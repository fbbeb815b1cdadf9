/* checkpoint.c - writing and taking up a run. */
#include "checkpoint.h"

#include <stdlib.h>
#include <string.h>

static const char *const KINDS[] = {"value", "first", "second", "average"};

/* The k-th array of trainable i; NULL: there is none. */
static float *array_of(const tr_optimizer *a, int i, int kind)
{
    const md_trainable *p = &a->t->p[i];
    long at = p->grad - a->t->memory;
    switch (kind) {
    case 0: return p->value;
    case 1: return a->first + at;
    case 2: return a->second + at;
    default: return a->average ? a->average + at : NULL;
    }
}

/* Every array of a run, one after the other: optimiser's, then the task's. false behind the last. */
typedef struct place {
    int i, kind;
} place;

typedef struct array {
    char name[700];
    float *v;
    int64_t count;
} array;

static bool next_array(const tr_state *s, place *at, array *to)
{
    for (; at->i < s->a->t->n; at->kind++) {
        if (at->kind == 4) {
            at->kind = -1;
            at->i++;
            continue;
        }
        const md_trainable *p = &s->a->t->p[at->i];
        to->v = array_of(s->a, at->i, at->kind);
        to->count = p->count;
        snprintf(to->name, sizeof to->name, "%s.%s", KINDS[at->kind], p->name);
        if (to->v) {
            at->kind++;
            return true;
        }
    }
    int k = at->i++ - s->a->t->n;
    if (k >= s->kept_n)
        return false;
    to->v = s->kept[k].v;
    to->count = s->kept[k].count;
    snprintf(to->name, sizeof to->name, "kept.%s", s->kept[k].name);
    return true;
}

int tr_checkpoint_write(const tr_state *s, const char *path, oc_err *err)
{
    int result = -1;
    char step[32];
    array a;
    ck_writer *w = ck_writer_open(path, 0, err);
    snprintf(step, sizeof step, "%ld", s->step);
    if (!w || ck_writer_meta(w, "step", step, err) || ck_writer_meta(w, "settings", s->settings, err) ||
        ck_writer_meta(w, "tier", s->tier, err))
        goto done;
    for (place at = {0}; next_array(s, &at, &a);)
        if (ck_writer_add(w, a.name, CK_F32, 1, &a.count, err))
            goto done;
    if (ck_writer_start(w, err))
        goto done;
    for (place at = {0}; next_array(s, &at, &a);)
        if (ck_writer_put(w, a.v, (size_t)a.count * sizeof *a.v, err))
            goto done;
    result = ck_writer_commit(w, err);
done:
    ck_writer_free(w);
    return result;
}

static int read_array(const ck_store *store, const array *a, oc_err *err)
{
    const ck_tensor *t = ck_need(store, a->name, err);
    return !t || ck_check_shape(store, t, 1, &a->count, err) || ck_to_f32(t, 0, a->count, a->v, err) ? -1 : 0;
}

static int check_settings(tr_state *s, const ck_store *store, const char *path, oc_err *err)
{
    const char *settings = ck_metadata(store, "settings"), *step = ck_metadata(store, "step");
    if (!settings || !step)
        return bs_err(err, "'%s' is not a checkpoint of training: it says no step", path);
    if (strcmp(settings, s->settings) != 0)
        return bs_err(err, "'%s' belongs to other settings (%s; now: %s): use the same, or --fresh to start over", path, settings,
                      s->settings);
    char *end;
    s->step = strtol(step, &end, 10);
    return *end || s->step < 0 ? bs_err(err, "'%s': step is '%s', expected a number", path, step) : 0;
}

int tr_checkpoint_read(tr_state *s, const char *path, oc_err *err)
{
    int result = -1;
    ck_store *store = ck_open(path, err);
    if (!store || check_settings(s, store, path, err))
        goto done;
    array a;
    for (place at = {0}; next_array(s, &at, &a);)
        if (read_array(store, &a, err))
            goto done;
    const char *tier = ck_metadata(store, "tier");
    result = !tier || strcmp(tier, s->tier) != 0;
done:
    ck_close(store);
    return result;
}
