/* zeroshot.c - classes from pairs, their vectors, and how often the right one comes first. */
#include "zeroshot.h"

#include <string.h>

#include "metrics.h"

static const char *first_text(const dt_pair *p, int language)
{
    return p->language[language].n ? p->language[language].p[0] : NULL;
}

/* name[i]: what pair i is called. All pairs of a group are called what the first of them that has a text is called. */
static int pair_names(const dt_pairs *pairs, int language, const char **name, oc_err *err)
{
    size_t groups = pairs->groups > 0 ? (size_t)pairs->groups : 1;
    const char **of_group = bs_calloc(groups, sizeof *of_group, "the names of classes", err);
    if (!of_group)
        return -1;
    for (long i = 0; i < pairs->n; i++) {
        name[i] = first_text(&pairs->p[i], language);
        if (pairs->p[i].group >= 0 && !of_group[pairs->p[i].group])
            of_group[pairs->p[i].group] = name[i];
    }
    for (long i = 0; i < pairs->n; i++)
        if (pairs->p[i].group >= 0)
            name[i] = of_group[pairs->p[i].group];
    bs_free(of_group);
    return 0;
}

int ev_classes_init(ev_classes *c, const dt_pairs *pairs, int language, oc_err *err)
{
    size_t n = (size_t)pairs->n;
    const char **name = bs_alloc(n * sizeof *name, "the names of classes", err);
    *c = (ev_classes){bs_calloc(n, sizeof *c->name, "the names of classes", err), bs_alloc(n * sizeof *c->of, "classes", err), 0};
    int result = name && c->name && c->of && !pair_names(pairs, language, name, err) ? 0 : -1;
    if (!result)
        result = ev_ids(name, pairs->n, c->of, &c->n, err);
    for (long i = 0; !result && i < pairs->n; i++)
        if (c->of[i] >= 0)
            c->name[c->of[i]] = name[i];
    bs_free(name);
    if (result)
        ev_classes_clear(c);
    return result;
}

void ev_classes_clear(ev_classes *c)
{
    bs_free(c->of);
    bs_free(c->name);
    *c = (ev_classes){0};
}

/* Ranks of all pictures, those that cannot be judged among them, and then the figures of those that can. */
static int judge(oc_session *s, const ev_classes *c, const float *names, long n, const float *rows, const bool *ok,
                 ev_zeroshot *out, oc_err *err)
{
    int result = -1;
    long kept = 0;
    long *rank = bs_alloc((size_t)n * sizeof *rank, "ranks", err), *id = NULL;
    if (rank)
        id = bs_alloc((size_t)c->n * sizeof *id, "classes", err);
    if (!id)
        goto done;
    for (long i = 0; i < c->n; i++)
        id[i] = i;
    if (ev_rank_vectors(s->work, rows, n, names, c->n, oc_embedding_width(s->engine), c->of, id, 1, rank, NULL, err))
        goto done;
    for (long i = 0; i < n; i++)
        if (ok[i] && rank[i])
            rank[kept++] = rank[i];
    if (!kept) {
        bs_err(err, "no picture could be read and has a name");
        goto done;
    }
    *out = (ev_zeroshot){ev_recall(rank, kept, 1), ev_recall(rank, kept, 5), 1 / (double)c->n, c->n, kept};
    result = 0;
done:
    bs_free(rank);
    bs_free(id);
    return result;
}

int ev_zeroshot_run(oc_session *s, const dt_pairs *pairs, const float *rows, const bool *ok, int language,
                    const char *const *templates, int count, ev_zeroshot *out, ev_talk *talk, oc_err *err)
{
    ev_classes c;
    float *names = NULL;
    int result = -1;
    if (ev_classes_init(&c, pairs, language, err))
        return -1;
    if (!c.n) {
        bs_err(err, "no picture has a text in '%s'", pairs->language[language]);
        goto done;
    }
    names = bs_alloc((size_t)c.n * (size_t)oc_embedding_width(s->engine) * sizeof *names, "the vectors of classes", err);
    if (names && !ev_class_vectors(s, c.name, c.n, templates, count, names, talk, err))
        result = judge(s, &c, names, pairs->n, rows, ok, out, err);
done:
    bs_free(names);
    ev_classes_clear(&c);
    return result;
}
