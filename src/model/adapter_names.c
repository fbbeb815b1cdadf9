/* adapter_names.c - whose weight a name in an adapter's file is: libraries have moved towers and decoders about since it was written. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Steps of a path that come and go between layouts and say nothing about which weight is meant. */
static const char *const wrappers[] = {"base_model", "lang_model", "language_model", "llm",
                                       "model",      "module",     "transformer",    "vlm"};

static bool is_wrapper(const char *step, size_t n)
{
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers; i++)
        if (strlen(wrappers[i]) == n && !memcmp(wrappers[i], step, n))
            return true;
    return false;
}

static const char *skip_wrappers(const char *name)
{
    for (;;) {
        const char *dot = strchr(name, '.');
        if (!dot || !is_wrapper(name, (size_t)(dot - name)))
            return name;
        name = dot + 1;
    }
}

/* Equal but for wrappers, anywhere in either. */
static bool same_weight(const char *a, const char *b)
{
    for (;;) {
        a = skip_wrappers(a);
        b = skip_wrappers(b);
        size_t n = strcspn(a, ".");
        if (n != strcspn(b, ".") || memcmp(a, b, n) != 0)
            return false;
        if (!a[n] || !b[n])
            return a[n] == b[n];
        a += n + 1;
        b += n + 1;
    }
}

/* By the family's table of older names. A weight that those split or turn round has other factors, too: such a line does not count. */
static int renamed_slot(const md_model *m, const char *name)
{
    const ck_renaming *line = m->family->renamings ? m->family->renamings(m->m) : NULL;
    for (; line && line->from; line++) {
        bool failed = false;
        char *now = line->transpose || strchr(line->to, '%') ? NULL : ck_renamed(line, name, 0, &failed);
        int id = now ? md_slot_of(m, now) : -1;
        free(now);
        if (id >= 0)
            return id;
    }
    return -1;
}

int md_adapted_slot(const md_model *m, const char *name, oc_err *err)
{
    int id = md_slot_of(m, name), found = -1;
    if (id < 0)
        id = renamed_slot(m, name);
    if (id >= 0)
        return id;
    for (int i = 0; i < m->n; i++) {
        if (!same_weight(m->slots[i].name, name))
            continue;
        if (found >= 0)
            return bs_err(err, "'%s' may mean '%s' or '%s' of this model", name, m->slots[found].name, m->slots[i].name);
        found = i;
    }
    return found >= 0 ? found : bs_err(err, "the model has no '%s'", name);
}
