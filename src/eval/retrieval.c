/* retrieval.c - recall at k both ways. */
#include "retrieval.h"

#include <string.h>

#include "metrics.h"
#include "rerank.h"

const int ev_ks[EV_KS] = {1, 5, 10};

static int one_direction(kn_work *work, const float *queries, const float *answers, long n, long width, const long *keys,
                         long *rank, long *right, ev_direction *out, oc_err *err)
{
    if (ev_rank_vectors(work, queries, n, answers, n, width, keys, keys, 2, rank, right, err))
        return -1;
    for (int k = 0; k < EV_KS; k++)
        out->recall[k] = ev_recall(rank, n, ev_ks[k]);
    out->median_rank = ev_median(rank, n, err);
    return out->median_rank < 0 ? -1 : 0;
}

int ev_retrieval_of(kn_work *work, const float *pictures, const float *texts, long n, long width, const long *keys,
                    ev_retrieval *out, oc_err *err)
{
    int result = -1;
    long *rank = bs_alloc((size_t)n * sizeof *rank, "ranks", err), *right = bs_alloc((size_t)n * sizeof *right, "ranks", err);
    memset(out, 0, sizeof *out);
    if (!rank || !right || one_direction(work, texts, pictures, n, width, keys, rank, right, &out->text_to_image, err) ||
        one_direction(work, pictures, texts, n, width, keys, rank, NULL, &out->image_to_text, err))
        goto done;
    for (int k = 0; k < EV_KS; k++)
        for (long i = 0; i < n; i++)
            out->chance[k] += ev_chance(right[i], n, ev_ks[k]) / (double)n;
    out->pairs = n;
    result = 0;
done:
    bs_free(rank);
    bs_free(right);
    return result;
}

/* The pairs that take part, side by side. */
typedef struct part {
    const char **text, **image;
    float *pictures, *texts;
    long *keys, *id;
    long n;
} part;

static void part_clear(part *p)
{
    bs_free(p->text);
    bs_free(p->image);
    bs_free(p->pictures);
    bs_free(p->texts);
    bs_free(p->keys);
    bs_free(p->id);
}

static int part_init(part *p, const dt_pairs *pairs, const float *rows, const bool *ok, int language, long width, oc_err *err)
{
    size_t n = (size_t)pairs->n, vector = (size_t)width * sizeof(float);
    long distinct;
    *p = (part){bs_alloc(n * sizeof *p->text, "texts", err),
                bs_alloc(n * sizeof *p->image, "pictures", err),
                bs_alloc(n * vector, "pictures", err),
                bs_alloc(n * vector, "texts", err),
                bs_alloc(n * 2 * sizeof *p->keys, "keys", err),
                bs_alloc(n * sizeof *p->id, "keys", err),
                0};
    if (!p->text || !p->image || !p->pictures || !p->texts || !p->keys || !p->id)
        return -1;
    for (long i = 0; i < pairs->n; i++) {
        const dt_texts *t = &pairs->p[i].language[language];
        if (!ok[i] || !t->n)
            continue;
        p->text[p->n] = t->p[0];
        p->image[p->n] = pairs->p[i].image;
        p->keys[2 * p->n] = pairs->p[i].group;
        memcpy(p->pictures + p->n++ * width, rows + i * width, vector);
    }
    if (!p->n)
        return bs_err(err, "no picture could be read and has a text in '%s'", pairs->language[language]);
    if (ev_ids(p->text, p->n, p->id, &distinct, err))
        return -1;
    for (long i = 0; i < p->n; i++)
        p->keys[2 * i + 1] = p->id[i];
    return 0;
}

int ev_retrieval_run(oc_session *s, const dt_pairs *pairs, const float *rows, const bool *ok, int language, ev_retrieval *out,
                     ev_talk *talk, oc_err *err)
{
    return ev_retrieval_rerun(s, pairs, rows, ok, language, 0, out, talk, err);
}

int ev_retrieval_rerun(oc_session *s, const dt_pairs *pairs, const float *rows, const bool *ok, int language, long most,
                       ev_retrieval *out, ev_talk *talk, oc_err *err)
{
    long width = oc_embedding_width(s->engine);
    part p;
    int result = -1;
    if (!part_init(&p, pairs, rows, ok, language, width, err) && !ev_embed_texts(s, p.text, p.n, p.texts, talk, err)) {
        ev_ranking r = {p.image, p.text, p.pictures, p.texts, p.keys, p.n};
        result = most ? ev_rerank(s, &r, most, out, talk, err)
                      : ev_retrieval_of(s->work, p.pictures, p.texts, p.n, width, p.keys, out, err);
    }
    part_clear(&p);
    return result;
}
