/* vectors.c - embedding in batches. */
#include "vectors.h"

#include <stdlib.h>
#include <string.h>

#include "metrics.h"
#include "templates.h"

static void tell(const ev_talk *talk, const char *what, long done, long all)
{
    if (talk && talk->progress)
        talk->progress(talk->arg, what, done, all);
}

/* ---- pictures ------------------------------------------------------------------------------------------------- */

static int embed_batch(oc_session *s, const char *const *paths, int n, float *rows, bool *ok, oc_err *errors, ev_talk *talk,
                       oc_err *err)
{
    if (oc_embed_files(s, paths, n, rows, errors, err))
        return -1;
    for (int i = 0; i < n; i++) {
        ok[i] = !errors[i].text[0];
        if (ok[i] || !talk)
            continue;
        talk->failed++;
        if (talk->refused)
            talk->refused(talk->arg, errors[i].text);
    }
    return 0;
}

int ev_embed_pictures(oc_session *s, const char *const *paths, long n, float *rows, bool *ok, ev_talk *talk, oc_err *err)
{
    long batch = s->engine->options.max_batch, width = oc_embedding_width(s->engine);
    oc_err *errors = bs_alloc((size_t)batch * sizeof *errors, "a batch of pictures", err);
    int result = errors ? 0 : -1;
    for (long at = 0; !result && at < n; at += batch) {
        int part = (int)(n - at < batch ? n - at : batch);
        result = embed_batch(s, paths + at, part, rows + at * width, ok + at, errors, talk, err);
        tell(talk, "pictures", at + part, n);
    }
    bs_free(errors);
    return result;
}

int ev_embed_pairs(oc_session *s, const dt_pairs *pairs, float *rows, bool *ok, ev_talk *talk, oc_err *err)
{
    const char **paths = bs_alloc((size_t)pairs->n * sizeof *paths, "a list of pictures", err);
    if (!paths)
        return -1;
    for (long i = 0; i < pairs->n; i++)
        paths[i] = pairs->p[i].image;
    int result = ev_embed_pictures(s, paths, pairs->n, rows, ok, talk, err);
    bs_free(paths);
    return result;
}

/* ---- texts ------------------------------------------------------------------------------------------------------ */

int ev_embed_texts(oc_session *s, const char *const *texts, long n, float *rows, ev_talk *talk, oc_err *err)
{
    long batch = rn_texts_at_once(s->engine), width = oc_embedding_width(s->engine);
    for (long at = 0; at < n; at += batch) {
        int part = (int)(n - at < batch ? n - at : batch);
        if (oc_embed_texts(s, texts + at, part, rows + at * width, err))
            return -1;
        if (talk)
            talk->cut += oc_last_cut(s);
        tell(talk, "texts", at + part, n);
    }
    return 0;
}

/* A few classes at once. text and each are scratch for n * count texts and their rows. */
static int some_classes(oc_session *s, const char *const *names, long n, const char *const *templates, int count, char **text,
                        float *each, float *rows, ev_talk *talk, oc_err *err)
{
    long width = oc_embedding_width(s->engine);
    int result = 0;
    for (long i = 0; i < n * count; i++) {
        text[i] = ev_template_fill(templates[i % count], names[i / count]);
        if (!text[i])
            result = bs_err(err, "out of memory: the templates of '%s'", names[i / count]);
    }
    if (!result)
        result = oc_embed_texts(s, (const char *const *)text, (int)(n * count), each, err);
    if (!result && talk)
        talk->cut += oc_last_cut(s);
    for (long i = 0; !result && i < n; i++)
        ev_mean_direction(each + i * count * width, count, width, rows + i * width);
    for (long i = 0; i < n * count; i++)
        free(text[i]);
    return result;
}

int ev_class_vectors(oc_session *s, const char *const *names, long n, const char *const *templates, int count, float *rows,
                     ev_talk *talk, oc_err *err)
{
    long width = oc_embedding_width(s->engine), batch = rn_texts_at_once(s->engine), some = count < batch ? batch / count : 1;
    int result = -1;
    char **text = bs_calloc((size_t)(some * count), sizeof *text, "filled templates", err);
    float *each = text ? bs_alloc((size_t)(some * count * width) * sizeof *each, "filled templates", err) : NULL;
    if (!each)
        goto done;
    for (long at = 0; at < n; at += some) {
        long part = n - at < some ? n - at : some;
        if (some_classes(s, names + at, part, templates, count, text, each, rows + at * width, talk, err))
            goto done;
        tell(talk, "classes", at + part, n);
    }
    result = 0;
done:
    bs_free(text);
    bs_free(each);
    return result;
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

void ev_scores(kn_work *work, const float *a, long m, const float *b, long n, long width, float *scores)
{
    kn_gemm g = {
        .m = m, .n = n, .k = width, .a = a, .lda = width, .b = b, .ldb = width, .tb = true, .c = scores, .ldc = n, .alpha = 1};
    kn_gemm_run(work, &g);
}

int ev_rank_vectors(kn_work *work, const float *a, long m, const float *b, long n, long width, const long *a_keys,
                    const long *b_keys, int keys, long *rank, long *right, oc_err *err)
{
    enum { ROWS = 256 };
    size_t floats;
    if (!bs_mul_size(ROWS * sizeof(float), (size_t)n, &floats))
        return bs_err(err, "too many columns to score: %ld", n);
    float *scores = bs_alloc(floats, "scores", err);
    if (!scores)
        return -1;
    for (long at = 0; at < m; at += ROWS) {
        long part = m - at < ROWS ? m - at : ROWS;
        ev_scores(work, a + at * width, part, b, n, width, scores);
        ev_ranks(scores, part, n, a_keys + at * keys, b_keys, keys, rank + at, right ? right + at : NULL);
    }
    bs_free(scores);
    return 0;
}
