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

int tr_checkpoint_write(const tr_state *s, const char *path, oc_err *err)
{
    int result = -1;
    char step[32], name[700];
    ck_writer *w = ck_writer_open(path, 0, err);
    snprintf(step, sizeof step, "%ld", s->step);
    if (!w || ck_writer_meta(w, "step", step, err) || ck_writer_meta(w, "settings", s->settings, err) ||
        ck_writer_meta(w, "tier", s->tier, err))
        goto done;
    for (int i = 0; i < s->a->t->n; i++)
        for (int kind = 0; kind < 4; kind++) {
            int64_t count = s->a->t->p[i].count;
            snprintf(name, sizeof name, "%s.%s", KINDS[kind], s->a->t->p[i].name);
            if (array_of(s->a, i, kind) && ck_writer_add(w, name, CK_F32, 1, &count, err))
                goto done;
        }
    if (ck_writer_start(w, err))
        goto done;
    for (int i = 0; i < s->a->t->n; i++)
        for (int kind = 0; kind < 4; kind++) {
            const float *v = array_of(s->a, i, kind);
            if (v && ck_writer_put(w, v, (size_t)s->a->t->p[i].count * sizeof *v, err))
                goto done;
        }
    result = ck_writer_commit(w, err);
done:
    ck_writer_free(w);
    return result;
}

static int read_array(const ck_store *store, const char *kind, const md_trainable *p, float *to, oc_err *err)
{
    char name[700];
    int64_t count = p->count;
    snprintf(name, sizeof name, "%s.%s", kind, p->name);
    const ck_tensor *t = ck_need(store, name, err);
    return !t || ck_check_shape(store, t, 1, &count, err) || ck_to_f32(t, 0, count, to, err) ? -1 : 0;
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
    for (int i = 0; i < s->a->t->n; i++)
        for (int kind = 0; kind < 4; kind++) {
            float *to = array_of(s->a, i, kind);
            if (to && read_array(store, KINDS[kind], &s->a->t->p[i], to, err))
                goto done;
        }
    const char *tier = ck_metadata(store, "tier");
    result = !tier || strcmp(tier, s->tier) != 0;
done:
    ck_close(store);
    return result;
}
