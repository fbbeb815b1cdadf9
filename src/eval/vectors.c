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

typedef struct reading {
    const oc_engine *engine;
    const char *const *paths;
    oc_picture *pictures;
} reading;

static void read_pictures(void *arg, long begin, long end, int worker)
{
    (void)worker;
    reading *r = arg;
    for (long i = begin; i < end; i++) {
        oc_picture *p = &r->pictures[i];
        oc_err err = {0};
        int height, width;
        if (oc_picture_read(p, r->paths[i], &r->engine->options) ||
            !im_processor_output_size(&r->engine->processor, p, &height, &width, &err))
            continue;
        oc_picture_clear(p); /* decoded, but of a shape that cannot be brought to the model's */
        bs_err(&p->err, "cannot prepare '%s': %s", r->paths[i], err.text);
    }
}

/* Moves the pictures that were read together and tells of the others; how many are left. */
static int keep_read(oc_picture *pictures, int n, bool *ok, ev_talk *talk)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        ok[i] = pictures[i].rgb != NULL;
        if (!ok[i] && talk) {
            talk->failed++;
            if (talk->refused)
                talk->refused(talk->arg, pictures[i].err.text);
        }
        if (ok[i] && kept++ < i) {
            pictures[kept - 1] = pictures[i];
            pictures[i].rgb = NULL;
        }
    }
    return kept;
}

/* Rows that were made for the kept pictures alone go to where all pictures have theirs. */
static void spread(float *rows, const bool *ok, int n, int kept, size_t width)
{
    for (int i = n - 1; i >= 0; i--) {
        if (!ok[i])
            memset(rows + (size_t)i * width, 0, width * sizeof *rows);
        else if (--kept < i)
            memcpy(rows + (size_t)i * width, rows + (size_t)kept * width, width * sizeof *rows);
    }
}

static int embed_batch(oc_session *s, oc_picture *pictures, const char *const *paths, int n, float *rows, bool *ok, ev_talk *talk,
                       oc_err *err)
{
    reading r = {s->engine, paths, pictures};
    memset(pictures, 0, (size_t)n * sizeof *pictures);
    bs_pool_for(s->pool, n, 1, read_pictures, &r);
    int kept = keep_read(pictures, n, ok, talk);
    int result = kept ? oc_embed_pictures(s, pictures, kept, rows, err) : 0;
    for (int i = 0; i < n; i++)
        oc_picture_clear(&pictures[i]);
    if (!result)
        spread(rows, ok, n, kept, (size_t)oc_embedding_width(s->engine));
    return result;
}

int ev_embed_pictures(oc_session *s, const char *const *paths, long n, float *rows, bool *ok, ev_talk *talk, oc_err *err)
{
    long batch = s->engine->options.max_batch, width = oc_embedding_width(s->engine);
    int result = 0;
    if (!(s->engine->model->family->can & MD_EMBEDS_IMAGES))
        return bs_err(err, "the model '%s' (%s) does not embed pictures", s->engine->model->folder, oc_family(s->engine));
    oc_picture *pictures = bs_alloc((size_t)batch * sizeof *pictures, "a batch of pictures", err);
    if (!pictures)
        return -1;
    for (long at = 0; !result && at < n; at += batch) {
        int part = (int)(n - at < batch ? n - at : batch);
        result = embed_batch(s, pictures, paths + at, part, rows + at * width, ok + at, talk, err);
        tell(talk, "pictures", at + part, n);
    }
    bs_free(pictures);
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
    long batch = s->engine->options.max_batch, width = oc_embedding_width(s->engine);
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
    long width = oc_embedding_width(s->engine), batch = s->engine->options.max_batch, some = count < batch ? batch / count : 1;
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
