/* match.c - do a picture and a text belong together? By their vectors, and by a model that looks at both. */
#include "match.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../model/reading.h"

bool oc_can_match(const oc_engine *e) { return (md_can(e->model) & MD_MATCHES) != 0; }

float rn_together(const float logits[2]) { return (float)(1 / (1 + exp((double)logits[0] - (double)logits[1]))); }

int rn_begin_with_enc(const oc_engine *e, tx_ids *ids, oc_err *err)
{
    if (!e->options.enc_token && !e->sizes.always_enc)
        return 0;
    if (e->sizes.enc <= 0 || e->sizes.enc >= e->sizes.vocab)
        return bs_err(err, "the model '%s' (%s) has no token [ENC] that a text could begin with", e->model->folder, oc_family(e));
    ids->p[0] = e->sizes.enc;
    return 0;
}

static int check_head(const oc_engine *e, oc_err *err)
{
    return oc_can_match(e) ? 0
                           : bs_err(err, "the model '%s' (%s) has no head that matches a picture with a text", e->model->folder,
                                    oc_family(e));
}

int rn_encode_pair(oc_engine *e, const char *text, tx_ids *ids, int *cut, oc_err *err)
{
    const tx_tokenizer *t = check_head(e, err) ? NULL : rn_tokenizer(e, err);
    return !t || rn_encode_text(t, text, strlen(text), e->sizes.max_tokens, ids, cut, err) || rn_begin_with_enc(e, ids, err) ? -1
                                                                                                                              : 0;
}

/* ---- one pass ------------------------------------------------------------------------------------------------ */

size_t rn_plan_match(const oc_session *s, const md_batch *b)
{
    const oc_engine *e = s->engine;
    tn_ctx cx;
    tn_plan(&cx, e->kn, bs_pool_threads(s->pool), false);
    cx.lora = e->lora.by_id;
    e->model->family->match(&cx, e->model->m, b);
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

/* Who only embeds need not keep room for this: the arena grows when the first pairs come. */
static int make_room(oc_session *s, const md_batch *b, oc_err *err)
{
    size_t bytes = rn_plan_match(s, b);
    if (bytes <= s->arena_bytes)
        return 0;
    bs_free(s->arena);
    s->arena = bs_alloc(bytes, "the arena", err);
    s->arena_bytes = s->arena ? bytes : 0;
    return s->arena ? 0 : -1;
}

static int run(oc_session *s, const md_batch *b, float *logits, oc_err *err)
{
    oc_engine *e = s->engine;
    if (make_room(s, b, err))
        return -1;
    tn_run(&s->cx, s->work, s->arena, s->arena_bytes, false);
    s->cx.lora = e->lora.by_id;
    md_packed_attach(e->packed, &s->cx);
    tn_t y = e->model->family->match(&s->cx, e->model->m, b);
    if (s->cx.failed)
        return bs_err(err, "%s", s->cx.err.text);
    for (long i = 0; i < 2 * b->texts; i++)
        if (!isfinite(y.v[i]))
            return md_check_finite(e->model, err)
                       ? -1
                       : bs_err(err, "the model '%s' gives values that are not finite", e->model->folder);
    memcpy(logits, y.v, (size_t)(2 * b->texts) * sizeof *logits);
    return 0;
}

/* All texts look at the rows of the one picture. */
static int *rows_of_one(long texts, long rows, oc_err *err)
{
    int *at = malloc((size_t)(texts * rows) * sizeof *at);
    if (!at)
        bs_err(err, "out of memory: a batch of texts");
    for (long i = 0; at && i < texts * rows; i++)
        at[i] = (int)(i % rows);
    return at;
}

int rn_match_pixels(oc_session *s, const float *pixels, int images, const tx_ids *texts, int n, float *logits, oc_err *err)
{
    const oc_engine *e = s->engine;
    const md_sizes *z = &e->sizes;
    int result = -1;
    md_batch b = {.images = images, .pixel_values = pixels, .channels = z->channels, .height = z->image_size, .width = z->image_size};
    if (check_head(e, err) || md_texts_open(&b, e->model, n, err))
        goto done;
    md_texts_put(&b, e->model, texts, n, rn_pad(e->tokenizer));
    if (images == n || (b.pair_rows = rows_of_one(n, z->picture_rows, err)))
        result = run(s, &b, logits, err);
done:
    md_batch_clear(&b);
    return result;
}

int rn_match_texts(oc_session *s, const float *pixels, const tx_ids *texts, int n, float *logits, oc_err *err)
{
    int batch = s->engine->options.max_batch;
    for (int at = 0; at < n; at += batch)
        if (rn_match_pixels(s, pixels, 1, texts + at, n - at < batch ? n - at : batch, logits + 2 * at, err))
            return -1;
    return 0;
}

/* ---- a file and texts ------------------------------------------------------------------------------------------ */

static float dot(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return (float)sum;
}

int rn_match_file(oc_session *s, const char *path, const float *rows, const tx_ids *ids, int n, float *itc, float *itm, oc_err *why,
                  oc_err *err)
{
    const oc_engine *e = s->engine;
    int width = oc_embedding_width(e);
    float *row = bs_alloc(((size_t)width + 2 * (size_t)n) * sizeof *row, "a picture's vector", err), *logits = row ? row + width : NULL;
    int result = row ? rn_embed_files(s, &path, 1, row, why, NULL, err) : -1;
    if (result || why->text[0])
        goto done;
    for (int i = 0; i < n; i++)
        itc[i] = dot(row, rows + (long)i * width, width);
    if (itm && !(result = rn_match_texts(s, s->pixels, ids, n, logits, err))) /* where the file's pixels still are */
        for (int i = 0; i < n; i++)
            itm[i] = rn_together(logits + 2 * i);
done:
    bs_free(row);
    return result;
}

/* ---- the public function ----------------------------------------------------------------------------------------- */

static int match_some(oc_session *s, const oc_picture *pictures, const char *const *texts, int n, float *itm, oc_err *err)
{
    int result = -1;
    float *logits = bs_alloc(2 * (size_t)n * sizeof *logits, "a batch of pairs", err);
    tx_ids *ids = logits ? bs_calloc((size_t)n, sizeof *ids, "a batch of texts", err) : NULL;
    if (!ids)
        goto done;
    for (int i = 0; i < n; i++)
        if (rn_encode_pair(s->engine, texts[i], &ids[i], &s->cut, err))
            goto done;
    if (rn_take_pictures(s, pictures, n, err) || rn_match_pixels(s, s->pixels, n, ids, n, logits, err))
        goto done;
    for (int i = 0; i < n; i++)
        itm[i] = rn_together(logits + 2 * i);
    result = 0;
done:
    for (int i = 0; ids && i < n; i++)
        tx_ids_clear(&ids[i]);
    bs_free(ids);
    bs_free(logits);
    return result;
}

static int compare_some(oc_session *s, const oc_picture *pictures, const char *const *texts, int n, float *itc, oc_err *err)
{
    int width = oc_embedding_width(s->engine), result = -1;
    float *rows = bs_alloc(2 * (size_t)n * (size_t)width * sizeof *rows, "a batch of vectors", err);
    float *others = rows ? rows + (long)n * width : NULL;
    if (rows && !oc_embed_pictures(s, pictures, n, rows, err) && !oc_embed_texts(s, texts, n, others, err)) {
        for (int i = 0; i < n; i++)
            itc[i] = dot(rows + (long)i * width, others + (long)i * width, width);
        result = 0;
    }
    bs_free(rows);
    return result;
}

int oc_match(oc_session *s, const oc_picture *pictures, const char *const *texts, int n, float *itc, float *itm, oc_err *err)
{
    int batch = s->engine->options.max_batch, cut = 0;
    for (int i = 0; i < n; i++)
        if (!pictures[i].rgb || !texts[i])
            return bs_err(err, "pair %d has no %s", i, texts[i] ? "picture" : "text");
    for (int at = 0; at < n; at += batch) {
        int part = n - at < batch ? n - at : batch;
        s->cut = 0;
        if ((itm && match_some(s, pictures + at, texts + at, part, itm + at, err)) ||
            (itc && compare_some(s, pictures + at, texts + at, part, itc + at, err)))
            return -1;
        cut += s->cut;
    }
    s->cut = cut;
    return 0;
}
