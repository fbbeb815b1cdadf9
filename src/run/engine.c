/* engine.c - the public interface: open a model, embed pictures; texts.c embeds texts. */
#include "engine.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../model/reading.h"

#ifndef OCELLI_DATA_DIR
#define OCELLI_DATA_DIR "/usr/local/share/ocelli"
#endif

/* ---- finding a model ------------------------------------------------------------------------------------------ */

static char *try_folder(const char *base, const char *middle, const char *name)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s%s/config.json", base, middle, name);
    if (n < 0 || (size_t)n >= sizeof path || !bs_is_file(path))
        return NULL;
    path[(size_t)n - strlen("/config.json")] = 0;
    return bs_strdup(path);
}

/* The folder of the running program: build/ocelli finds models/ beside build/. */
static void program_dir(char *dir, size_t n)
{
    ssize_t got = readlink("/proc/self/exe", dir, n - 1);
    dir[got > 0 ? got : 0] = 0;
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = 0;
}

char *rn_find_model(const char *name, const char *data_dir, oc_err *err)
{
    char here[PATH_MAX];
    if (bs_is_dir(name))
        return bs_strdup(name);
    if (strchr(name, '/')) {
        bs_err(err, "no model in '%s': the folder does not exist", name);
        return NULL;
    }
    program_dir(here, sizeof here);
    char *found = data_dir ? try_folder(data_dir, "", name) : NULL;
    if (!found)
        found = try_folder(here, "../models/", name);
    if (!found)
        found = try_folder(here, "../share/ocelli/models/", name);
    if (!found)
        found = try_folder(OCELLI_DATA_DIR, "models/", name);
    if (!found)
        bs_err(err, "no model '%s': neither a folder nor one that ships with Ocelli", name);
    return found;
}

/* ---- engine ------------------------------------------------------------------------------------------------------ */

static void set_defaults(oc_options *o)
{
    if (o->max_batch <= 0)
        o->max_batch = 32;
    if (o->lora_scale == 0)
        o->lora_scale = 1;
}

md_packed *rn_pack(const md_model *m, const kn_table *t, oc_dtype dtype, oc_err *err)
{
    static const kn_dtype kinds[] = {[OC_FP32] = KN_F32, [OC_BF16] = KN_BF16, [OC_INT8] = KN_I8, [OC_INT4] = KN_I4};
    return md_packed_open(m, t, dtype == OC_AUTO ? md_file_dtype(m) : kinds[dtype], 0, err);
}

static int open_weights(oc_engine *e, const char *folder, oc_err *err)
{
    e->packed = e->model ? rn_pack(e->model, e->kn, e->options.dtype, err) : NULL;
    if (!e->packed)
        return -1;
    e->model->family->sizes(e->model->m, &e->sizes);
    if (!isfinite(oc_logit_scale(e)))
        return md_check_finite(e->model, err) ? -1 : bs_err(err, "'%s': logit_scale is too large", folder);
    return e->options.lora ? md_lora_open(&e->lora, e->model, e->options.lora, e->options.lora_scale, err) : 0;
}

static int open_parts(oc_engine *e, const char *folder, oc_err *err)
{
    e->kn = kn_best(err);
    e->model = e->kn ? md_open_lean(folder, err) : NULL;
    if (open_weights(e, folder, err))
        return -1;
    if (e->sizes.image_size) {
        int h, w;
        if (im_processor_read(&e->processor, folder, err))
            return -1;
        if (!im_processor_fixed_size(&e->processor, &h, &w) || h != e->sizes.image_size || w != e->sizes.image_size)
            return bs_err(err, "'%s': the processor gives other pictures than the %ld x %ld that the model takes", folder,
                          e->sizes.image_size, e->sizes.image_size);
    }
    return 0;
}

static tx_tokenizer *open_tokenizer(const oc_engine *e, oc_err *err)
{
    tx_tokenizer *t = tx_open(e->model->folder, err);
    if (!t || !(md_can(e->model) & MD_EMBEDS_TEXTS) || tx_vocab_size(t) <= e->sizes.vocab)
        return t;
    bs_err(err, "'%s': the tokenizer has %d ids, the model only %ld", e->model->folder, tx_vocab_size(t), e->sizes.vocab);
    tx_close(t);
    return NULL;
}

/* Read when the first text comes: who embeds pictures alone need not wait for it. */
const tx_tokenizer *rn_tokenizer(oc_engine *e, oc_err *err)
{
    pthread_mutex_lock(&e->lock);
    if (!e->tokenizer)
        e->tokenizer = open_tokenizer(e, err);
    const tx_tokenizer *t = e->tokenizer;
    pthread_mutex_unlock(&e->lock);
    return t;
}

md_model *rn_model_or_drawn(const char *folder, bool lean, uint64_t seed, oc_err *err)
{
    static const char *const files[] = {"model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors"};
    bool held = false;
    for (size_t i = 0; !held && i < sizeof files / sizeof *files; i++) {
        char *path = bs_join(folder, files[i]);
        held = !path || bs_is_file(path);
        free(path);
    }
    if (held)
        return lean ? md_open_lean(folder, err) : md_open(folder, err);
    md_model *m = md_create(folder, err);
    if (m && !md_own(m, err) && !md_init(m, seed, err)) {
        m->weights_bytes = (size_t)m->parameters * sizeof(float);
        return m;
    }
    md_close(m);
    return NULL;
}

static int open_bare(oc_engine *e, const char *folder, uint64_t seed, oc_err *err)
{
    e->kn = kn_best(err);
    e->model = e->kn ? rn_model_or_drawn(folder, true, seed, err) : NULL;
    return open_weights(e, folder, err);
}

static oc_engine *open_engine(const char *model, const oc_options *options, bool bare, uint64_t seed, oc_err *err)
{
    oc_engine *e = calloc(1, sizeof *e);
    char *folder = NULL;
    if (!e) {
        bs_err(err, "out of memory: an engine");
        return NULL;
    }
    pthread_mutex_init(&e->lock, NULL);
    if (options)
        e->options = *options;
    set_defaults(&e->options);
    folder = !model ? NULL : rn_find_model(model, e->options.data_dir, err);
    if (!folder || (bare ? open_bare(e, folder, seed, err) : open_parts(e, folder, err))) {
        bs_err(err, "no model is named"); /* unless something was said already */
        oc_engine_close(e);
        free(folder);
        return NULL;
    }
    e->options.lora = e->options.data_dir = NULL; /* the caller's strings need not live on */
    free(folder);
    return e;
}

oc_engine *oc_engine_open(const char *model, const oc_options *options, oc_err *err)
{
    return open_engine(model, options, false, 0, err);
}

oc_engine *rn_engine_bare(const char *model, const oc_options *options, uint64_t seed, oc_err *err)
{
    return open_engine(model, options, true, seed, err);
}

void oc_engine_close(oc_engine *e)
{
    if (!e)
        return;
    md_lora_clear(&e->lora);
    md_packed_close(e->packed);
    tx_close(e->tokenizer);
    md_close(e->model);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

const char *oc_family(const oc_engine *e) { return e->model->family->model_type; }

int64_t oc_parameters(const oc_engine *e) { return e->model->parameters; }

int oc_embedding_width(const oc_engine *e) { return (int)e->sizes.embedding; }

float oc_logit_scale(const oc_engine *e)
{
    const md_family *f = e->model->family;
    const tn_param *p = f->logit_scale ? f->logit_scale(e->model->m) : NULL,
                   *t = f->temperature ? f->temperature(e->model->m) : NULL;
    return p ? expf(p->v[0]) : t ? 1 / (t->v ? t->v[0] : 0.07f) : 1;
}

static float logit_bias(const oc_engine *e)
{
    const tn_param *p = rn_judges_pairs(e) ? e->model->family->logit_bias(e->model->m) : NULL;
    return p ? p->v[0] : 0;
}

bool rn_judges_pairs(const oc_engine *e)
{
    const md_family *f = e->model->family;
    return f->logit_bias && f->logit_bias(e->model->m);
}

/* Sums in double. */
static void softmax(const float *x, int n, double scale, float *y)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = fmax(max, scale * (double)x[i]);
    for (int i = 0; i < n; i++) {
        double e = exp(scale * (double)x[i] - max);
        sum += e;
        y[i] = (float)e;
    }
    for (int i = 0; i < n; i++)
        y[i] = (float)((double)y[i] / sum);
}

void oc_probabilities(const oc_engine *e, const float *cosines, int n, float *out)
{
    double scale = (double)oc_logit_scale(e), bias = (double)logit_bias(e);
    if (!rn_judges_pairs(e))
        softmax(cosines, n, scale, out);
    else
        for (int i = 0; i < n; i++)
            out[i] = (float)(1 / (1 + exp(-(scale * (double)cosines[i] + bias))));
}

/* ---- planning ---------------------------------------------------------------------------------------------------- */

static size_t plan(const md_model *m, const md_lora *l, const kn_table *kn, int threads, const md_batch *b, rn_tower *tower)
{
    tn_ctx cx;
    tn_plan(&cx, kn, threads, false);
    cx.lora = l ? l->by_id : NULL;
    cx.branches = b->branches;
    tn_l2_normalize(&cx, tower(&cx, m->m, b));
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

size_t rn_plan_images(const md_model *m, const md_lora *l, const kn_table *kn, int threads, int rows, int height, int width,
                      bool whole)
{
    md_batch b = {.images = rows, .channels = 3, .height = height, .width = width, .want_hidden = whole};
    return md_can(m) & MD_EMBEDS_IMAGES ? plan(m, l, kn, threads, &b, m->family->embed_images) : 0;
}

size_t rn_plan_texts(const md_model *m, const md_lora *l, const kn_table *kn, int threads, int rows, int tokens, bool whole)
{
    static int somewhere;
    tn_branches most;
    rn_most_texts(rows, tokens, &most);
    md_batch b = {.texts = 1, .pool = &somewhere, .length = most.rows, .branches = &most, .want_hidden = whole};
    return md_can(m) & MD_EMBEDS_TEXTS ? plan(m, l, kn, threads, &b, m->family->embed_texts) : 0;
}

/* ---- session ----------------------------------------------------------------------------------------------------- */

oc_session *oc_session_open(oc_engine *e, oc_err *err)
{
    oc_session *s = calloc(1, sizeof *s);
    if (!s) {
        bs_err(err, "out of memory: a session");
        return NULL;
    }
    int rows = e->options.max_batch, side = (int)e->sizes.image_size;
    s->engine = e;
    s->pool = bs_pool_open(e->options.threads, err);
    s->work = s->pool ? kn_work_open(e->kn, s->pool, err) : NULL;
    if (!s->work)
        goto failed;
    int threads = bs_pool_threads(s->pool);
    size_t images = rn_plan_images(e->model, &e->lora, e->kn, threads, rows, side, side, e->whole);
    size_t texts = rn_plan_texts(e->model, &e->lora, e->kn, threads, rows, (int)e->sizes.max_tokens, e->whole);
    s->arena_bytes = images > texts ? images : texts;
    s->arena = bs_alloc(s->arena_bytes, "the arena", err);
    s->pixels = bs_alloc((size_t)rows * 3 * (size_t)side * (size_t)side * sizeof(float), "a batch of pictures", err);
    if (s->arena && s->pixels)
        return s;
failed:
    oc_session_close(s);
    return NULL;
}

void oc_session_close(oc_session *s)
{
    if (!s)
        return;
    kn_work_close(s->work);
    bs_pool_close(s->pool);
    bs_free(s->arena);
    bs_free(s->pixels);
    free(s);
}

int oc_last_cut(const oc_session *s) { return s->cut; }

static bool all_finite(const float *x, size_t n)
{
    float sum = 0; /* 0 * x is NaN exactly for what is not finite */
    for (size_t i = 0; i < n; i++)
        sum += 0 * x[i];
    return sum == 0;
}

int rn_embed(oc_session *s, const md_batch *b, rn_tower *tower, float *rows, oc_err *err)
{
    oc_engine *e = s->engine;
    size_t n = (size_t)(b->images + (b->branches ? b->branches->n : b->texts)) * (size_t)e->sizes.embedding;
    tn_run(&s->cx, s->work, s->arena, s->arena_bytes, false);
    s->cx.lora = e->lora.by_id;
    s->cx.branches = b->branches;
    md_packed_attach(e->packed, &s->cx);
    tn_t y = tower(&s->cx, e->model->m, b);
    if (!s->raw)
        y = tn_l2_normalize(&s->cx, y);
    s->flops += s->cx.flops;
    if (s->cx.failed)
        return bs_err(err, "%s", s->cx.err.text);
    if (!all_finite(y.v, n))
        return md_check_finite(e->model, err) ? -1
                                              : bs_err(err, "the model '%s' gives values that are not finite", e->model->folder);
    memcpy(rows, y.v, n * sizeof *rows);
    return 0;
}

int rn_embed_pixels(oc_session *s, const float *pixels, int n, int height, int width, float *rows, oc_err *err)
{
    md_batch b = {
        .images = n, .pixel_values = pixels, .channels = 3, .height = height, .width = width, .want_hidden = s->engine->whole};
    return rn_embed(s, &b, s->engine->model->family->embed_images, rows, err);
}

/* ---- pictures ------------------------------------------------------------------------------------------------------ */

typedef struct pixel_work {
    const im_processor *processor;
    const oc_picture *pictures;
    float *out;
    size_t each;
    oc_err *errors; /* one a picture */
} pixel_work;

static void make_pixels(void *arg, long begin, long end, int worker)
{
    (void)worker;
    pixel_work *k = arg;
    for (long i = begin; i < end; i++)
        im_processor_run(k->processor, &k->pictures[i], k->out + (size_t)i * k->each, &k->errors[i]);
}

int rn_take_pictures(oc_session *s, const oc_picture *pictures, int n, oc_err *err)
{
    int side = (int)s->engine->sizes.image_size, result = 0;
    oc_err *errors = bs_calloc((size_t)n, sizeof *errors, "a batch of pictures", err);
    if (!errors)
        return -1;
    pixel_work k = {&s->engine->processor, pictures, s->pixels, 3 * (size_t)side * (size_t)side, errors};
    bs_pool_for(s->pool, n, 1, make_pixels, &k);
    for (int i = 0; i < n && !result; i++)
        if (errors[i].text[0])
            result = bs_err(err, "%s", errors[i].text);
    bs_free(errors);
    return result;
}

static int embed_pictures(oc_session *s, const oc_picture *pictures, int n, float *rows, oc_err *err)
{
    int side = (int)s->engine->sizes.image_size;
    return rn_take_pictures(s, pictures, n, err) || rn_embed_pixels(s, s->pixels, n, side, side, rows, err) ? -1 : 0;
}

int oc_embed_pictures(oc_session *s, const oc_picture *pictures, int n, float *rows, oc_err *err)
{
    const oc_engine *e = s->engine;
    if (!(md_can(e->model) & MD_EMBEDS_IMAGES))
        return bs_err(err, "the model '%s' (%s) does not embed pictures", e->model->folder, oc_family(e));
    for (int i = 0; i < n; i++)
        if (!pictures[i].rgb)
            return bs_err(err, "%s", pictures[i].err.text[0] ? pictures[i].err.text : "a picture is empty");
    for (int at = 0; at < n; at += e->options.max_batch) {
        int part = n - at < e->options.max_batch ? n - at : e->options.max_batch;
        if (embed_pictures(s, pictures + at, part, rows + (size_t)at * (size_t)e->sizes.embedding, err))
            return -1;
    }
    return 0;
}
