/* files.c - from picture files to embeddings. */
#include <string.h>

#include "match.h"

typedef struct job {
    oc_session *s;
    int n;
    const oc_err *errors;
    size_t each;  /* floats of a picture */
    size_t width; /* of its row of answers */
} job;

/* Pictures that failed leave holes in the batch; the others close ranks. Returns how many there are. */
static int close_ranks(const job *j)
{
    int kept = 0;
    for (int i = 0; i < j->n; i++) {
        float *pixels = j->s->pixels + (size_t)i * j->each;
        if (!j->errors[i].text[0] && kept++ < i)
            memcpy(j->s->pixels + (size_t)(kept - 1) * j->each, pixels, j->each * sizeof *pixels);
    }
    return kept;
}

/* Rows that were made for the kept pictures alone go to where all pictures have theirs. */
static void spread(const job *j, float *rows, int kept)
{
    size_t width = j->width;
    for (int i = j->n - 1; i >= 0; i--) {
        if (j->errors[i].text[0])
            memset(rows + (size_t)i * width, 0, width * sizeof *rows);
        else if (--kept < i)
            memcpy(rows + (size_t)i * width, rows + (size_t)kept * width, width * sizeof *rows);
    }
}

/* Reads n files into the session's pixels; those that could be read stand side by side then. */
static job load(oc_session *s, const char *const *paths, int n, size_t width, oc_err *errors, bool *unread, int *kept)
{
    size_t side = (size_t)s->engine->sizes.image_size;
    job j = {s, n, errors, 3 * side * side, width};
    im_load options = {{.max_pixels = s->engine->options.max_pixels}, s->engine->options.fast_pixels, s->pool};
    im_processor_load_files(&s->engine->processor, paths, n, &options, s->pixels, errors, unread);
    *kept = close_ranks(&j);
    return j;
}

int rn_embed_files(oc_session *s, const char *const *paths, int n, float *rows, oc_err *errors, bool *unread, oc_err *err)
{
    int side = (int)s->engine->sizes.image_size, kept;
    job j = load(s, paths, n, (size_t)oc_embedding_width(s->engine), errors, unread, &kept);
    if (kept && rn_embed_pixels(s, s->pixels, kept, side, side, rows, err))
        return -1;
    spread(&j, rows, kept);
    return 0;
}

int rn_match_files(oc_session *s, const char *const *paths, int n, const tx_ids *text, float *logits, oc_err *errors, oc_err *err)
{
    int kept, result = 0;
    tx_ids *same = bs_alloc((size_t)n * sizeof *same, "a batch of texts", err);
    if (!same)
        return -1;
    for (int i = 0; i < n; i++) /* only looked at */
        same[i] = *text;
    job j = load(s, paths, n, 2, errors, NULL, &kept);
    if (kept)
        result = rn_match_pixels(s, s->pixels, kept, same, kept, logits, err);
    if (!result)
        spread(&j, logits, kept);
    bs_free(same);
    return result;
}

int rn_match_texts_of_file(oc_session *s, const char *path, const tx_ids *texts, int n, float *logits, oc_err *why, oc_err *err)
{
    int kept;
    load(s, &path, 1, 2, why, NULL, &kept);
    return kept ? rn_match_texts(s, s->pixels, texts, n, logits, err) : 0;
}

int oc_embed_files(oc_session *s, const char *const *paths, int n, float *rows, oc_err *errors, oc_err *err)
{
    const oc_engine *e = s->engine;
    size_t width = (size_t)oc_embedding_width(e);
    if (!(md_can(e->model) & MD_EMBEDS_IMAGES))
        return bs_err(err, "the model '%s' (%s) does not embed pictures", e->model->folder, oc_family(e));
    for (int at = 0; at < n; at += e->options.max_batch) {
        int part = n - at < e->options.max_batch ? n - at : e->options.max_batch;
        if (rn_embed_files(s, paths + at, part, rows + (size_t)at * width, errors + at, NULL, err))
            return -1;
    }
    return 0;
}
