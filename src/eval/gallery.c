/* gallery.c - vectors of pictures, and the nearest. */
#include "gallery.h"

#include <string.h>

#include "metrics.h"

static int look_by_model(void *arg, const char *const *paths, int n, float *rows, oc_err *errors, oc_err *err)
{
    return oc_embed_files(arg, paths, n, rows, errors, err);
}

ev_eyes ev_session_eyes(oc_session *s)
{
    return (ev_eyes){look_by_model, s, oc_embedding_width(s->engine), s->engine->options.max_batch, s->work};
}

static void refuse(const ev_gallery *g, const char *why)
{
    if (!g->talk)
        return;
    g->talk->failed++;
    if (g->talk->refused)
        g->talk->refused(g->talk->arg, why);
}

/* n pictures from number `at` of the list: those that could be read close ranks behind the g->n that are known. */
static int add_some(ev_gallery *g, const char *const *paths, const char *const *texts, int n, oc_err *errors, oc_err *err)
{
    long width = g->eyes.width;
    float *from = g->rows + g->n * width;
    if (g->eyes.look(g->eyes.arg, paths, n, from, errors, err))
        return -1;
    for (int i = 0; i < n; i++, from += width)
        if (errors[i].text[0])
            refuse(g, errors[i].text);
        else {
            memmove(g->rows + g->n * width, from, (size_t)width * sizeof *from);
            g->text[g->n++] = texts[i];
        }
    return 0;
}

static int add_all(ev_gallery *g, const char *const *paths, const char *const *texts, long n, oc_err *err)
{
    int batch = g->eyes.batch, result = 0;
    oc_err *errors = bs_alloc((size_t)batch * sizeof *errors, "a batch of pictures", err);
    if (!errors)
        return -1;
    for (long at = 0; !result && at < n; at += batch) {
        int part = (int)(n - at < batch ? n - at : batch);
        result = add_some(g, paths + at, texts + at, part, errors, err);
        if (g->talk && g->talk->progress)
            g->talk->progress(g->talk->arg, "pictures", at + part, n);
    }
    bs_free(errors);
    return result;
}

int ev_gallery_init(ev_gallery *g, const ev_eyes *eyes, const dt_pairs *pairs, const char *language, ev_talk *talk, oc_err *err)
{
    int k = dt_language(pairs, language), result = -1;
    long n = 0;
    size_t most = (size_t)pairs->n;
    *g = (ev_gallery){.eyes = *eyes, .talk = talk};
    if (k < 0)
        return bs_err(err, "no picture has a text in '%s'", language);
    const char **paths = bs_alloc(2 * most * sizeof *paths, "a list of pictures", err), **texts = paths ? paths + most : NULL;
    for (long i = 0; paths && i < pairs->n; i++)
        if (pairs->p[i].language[k].n) {
            paths[n] = pairs->p[i].image;
            texts[n++] = pairs->p[i].language[k].p[0];
        }
    g->rows = paths ? bs_alloc((size_t)(n + 1) * (size_t)g->eyes.width * sizeof *g->rows, "vectors of pictures", err) : NULL;
    g->text = g->rows ? bs_alloc((size_t)(n + 1) * sizeof *g->text, "texts", err) : NULL;
    if (g->text)
        result = add_all(g, paths, texts, n, err);
    if (!result && !g->n)
        result = bs_err(err, "no picture could be read and has a text in '%s'", language);
    bs_free(paths);
    return result;
}

void ev_gallery_clear(ev_gallery *g)
{
    bs_free(g->rows);
    bs_free(g->text);
    *g = (ev_gallery){0};
}

/* What n pictures, with their rows, are nearest to. */
static int say_nearest(const ev_gallery *g, const float *rows, const oc_err *errors, int n, char **texts, oc_err *err)
{
    float *scores = bs_alloc((size_t)n * (size_t)g->n * sizeof *scores, "scores", err);
    int result = scores ? 0 : -1;
    if (scores)
        ev_scores(g->eyes.work, rows, n, g->rows, g->n, g->eyes.width, scores);
    for (int i = 0; !result && i < n; i++) {
        long best;
        if (errors[i].text[0]) {
            refuse(g, errors[i].text);
            continue;
        }
        ev_best(scores + i * g->n, g->n, 1, &best);
        texts[i] = bs_strdup(g->text[best]);
        result = texts[i] ? 0 : bs_err(err, "out of memory: a caption");
    }
    bs_free(scores);
    return result;
}

int ev_gallery_say(void *gallery, const char *const *paths, int n, char **texts, oc_err *err)
{
    const ev_gallery *g = gallery;
    int result = -1;
    float *rows = bs_alloc((size_t)n * (size_t)g->eyes.width * sizeof *rows, "vectors of pictures", err);
    oc_err *errors = rows ? bs_calloc((size_t)n, sizeof *errors, "a batch of pictures", err) : NULL;
    if (errors && !g->eyes.look(g->eyes.arg, paths, n, rows, errors, err))
        result = say_nearest(g, rows, errors, n, texts, err);
    bs_free(rows);
    bs_free(errors);
    return result;
}
