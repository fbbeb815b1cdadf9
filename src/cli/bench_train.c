/* bench_train.c - `ocelli bench train`: one step of a dual encoder, forward, backward and AdamW, on one batch over and over. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../train/trainer.h"
#include "bench.h"

typedef struct job {
    cl_bench *b;
    const kn_table *kn;
    bs_pool *pool;
    kn_work *work;
    md_model *model;
    md_values in;
    md_batch batch;
    float *own_pixels;
    md_trainables t;
    tr_optimizer a;
    tr_contrastive contrastive;
    tr_task task;
    tr_pass pass;
    long step;
    double loss; /* of the last step */
    oc_err err;
} job;

/* ---- a batch --------------------------------------------------------------------------------------------------------- */

static long rows_of(const job *j, oc_err *err)
{
    char *end;
    long n = j->b->batches ? strtol(j->b->batches, &end, 10) : 128;
    if (n < 2 || n > 65536 || (j->b->batches && *end)) {
        bs_err(err, "--batch: '%s' is not a number from 2 to 65536", j->b->batches);
        return 0;
    }
    return n;
}

static int draw_batch(job *j, long rows, oc_err *err)
{
    md_sizes s;
    bs_rng rng;
    bs_rng_seed(&rng, j->b->common.seed, 2);
    j->model->family->sizes(j->model->m, &s);
    j->own_pixels = cl_draw_pixels(&s, rows, &rng, err);
    j->batch = (md_batch){.images = rows,
                          .pixel_values = j->own_pixels,
                          .channels = s.channels,
                          .height = s.image_size,
                          .width = s.image_size,
                          .texts = rows,
                          .length = s.max_tokens,
                          .want_loss = true};
    j->batch.input_ids = j->own_pixels ? cl_draw_ids(&s, rows, &rng, err) : NULL;
    j->batch.pool = calloc((size_t)rows, sizeof *j->batch.pool);
    j->batch.target = calloc((size_t)rows, sizeof *j->batch.target);
    if (!j->batch.input_ids || !j->batch.pool || !j->batch.target)
        return bs_err(err, "out of memory: a batch");
    for (long i = 0; i < rows; i++) {
        j->batch.pool[i] = (int)s.max_tokens - 1;
        j->batch.target[i] = (int)i;
    }
    return 0;
}

/* All rows of --in, or drawn ones. */
static int make_batch(job *j, oc_err *err)
{
    if (!j->b->in) {
        long rows = rows_of(j, err);
        return rows ? draw_batch(j, rows, err) : -1;
    }
    j->batch.want_loss = true;
    if (md_values_read(&j->in, j->b->in, err) || j->model->family->prepare(j->model->m, &j->in, &j->batch, err))
        return -1;
    return j->batch.images && j->batch.texts ? 0 : bs_err(err, "'%s': expected pixel_values and input_ids", j->b->in);
}

/* ---- a step ---------------------------------------------------------------------------------------------------------- */

static void step(void *arg)
{
    job *j = arg;
    double norm;
    if (j->err.text[0])
        return;
    md_trainables_zero(&j->t, j->work);
    j->loss = j->task.gradients(j->task.arg, &j->pass, &j->batch, &j->err);
    if (isfinite(j->loss))
        tr_optimizer_step(&j->a, j->work, j->step++, &norm, &j->err);
}

static int open_model(job *j, oc_err *err)
{
    const char *name = j->b->common.model ? j->b->common.model : "starter";
    char *folder = rn_find_model(name, NULL, err);
    j->model = folder ? rn_model_or_drawn(folder, false, j->b->common.seed, err) : NULL;
    free(folder);
    if (!j->model || md_need_floats(j->model, err) || md_own(j->model, err))
        return -1;
    unsigned both = MD_EMBEDS_IMAGES | MD_EMBEDS_TEXTS;
    if (!j->model->family->pair_loss || (md_can(j->model) & both) != both)
        return bs_err(err, "'%s' is no dual encoder: only those are trained here", name);
    return 0;
}

/* AdamW as PyTorch has it when nothing is said, without weight decay. */
static int open_all(job *j, oc_err *err)
{
    const tr_optimizer_options o = {.lr = 1e-4f, .final_lr = 1, .steps = 1, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f};
    j->kn = kn_best(err);
    j->pool = j->kn ? bs_pool_open(j->b->common.threads, err) : NULL;
    j->work = j->pool ? kn_work_open(j->kn, j->pool, err) : NULL;
    if (!j->work || open_model(j, err) || make_batch(j, err) || md_trainables_open(&j->t, j->model, NULL, err) ||
        tr_optimizer_open(&j->a, &o, &j->t, err))
        return -1;
    if (tr_contrastive_open(&j->contrastive, NULL, j->model, j->batch.images, 0, 1, 0, &j->task, err))
        return -1;
    bool bf16 = j->b->common.dtype && !strcmp(j->b->common.dtype, "bf16");
    j->pass = (tr_pass){.m = j->model, .t = &j->t, .work = j->work, .bf16 = bf16};
    j->pass.bytes = j->task.plan(j->task.arg, &j->pass, j->kn, bs_pool_threads(j->pool));
    j->pass.arena = bs_alloc(j->pass.bytes, "the arena of a training step", err);
    return j->pass.arena ? 0 : -1;
}

static void close_all(job *j)
{
    bs_free(j->pass.arena);
    tr_contrastive_close(&j->contrastive);
    tr_optimizer_close(&j->a);
    md_trainables_close(&j->t);
    md_batch_clear(&j->batch);
    bs_free(j->own_pixels);
    md_values_clear(&j->in);
    md_close(j->model);
    kn_work_close(j->work);
    bs_pool_close(j->pool);
}

/* ---- what is printed ------------------------------------------------------------------------------------------------- */

static int measure(job *j, oc_err *err)
{
    cl_timing t = cl_time((double)j->b->seconds, step, j, NULL);
    if (j->err.text[0])
        return bs_err(err, "%s", j->err.text);
    long rows = j->batch.images;
    if (!j->b->common.json)
        printf("train  %-5ld %10.2f ms  %9.2f pairs a second, arena %.1f MB, loss %.4f after %ld steps\n", rows, t.median * 1e3,
               (double)rows / t.median, (double)j->pass.bytes / 1e6, j->loss, j->step);
    else
        printf("{\"what\":\"train\",\"batch\":%ld,\"tier\":\"%s\",\"threads\":%d,\"ms\":%.6g,\"best_ms\":%.6g,\"rounds\":%d,"
               "\"per_s\":%.6g,\"loss\":%.6g,\"arena_bytes\":%zu}\n",
               rows, j->kn->name, bs_pool_threads(j->pool), t.median * 1e3, t.best * 1e3, t.rounds, (double)rows / t.median,
               j->loss, j->pass.bytes);
    return 0;
}

/* A line `train STEPS` gets an answer in one line: time and loss of each. */
static int obey(void *arg, const char *line, oc_err *err)
{
    enum { MOST = 1000 };
    job *j = arg;
    int steps;
    double loss[MOST];
    if (sscanf(line, "train %d", &steps) != 1 || steps < 1 || steps > MOST)
        return bs_err(err, "expected `train STEPS`, 1 to %d, not '%s'", MOST, line);
    printf("{\"what\":\"train\",\"batch\":%ld,\"ms\":[", j->batch.images);
    for (int i = 0; i < steps; i++) {
        double start = bs_now();
        step(j);
        loss[i] = j->loss;
        printf("%s%.6g", i ? "," : "", (bs_now() - start) * 1e3);
    }
    printf("],\"loss\":[");
    for (int i = 0; i < steps; i++)
        printf("%s%.9g", i ? "," : "", loss[i]);
    printf("]}\n");
    fflush(stdout);
    return j->err.text[0] ? bs_err(err, "%s", j->err.text) : 0;
}

int cl_bench_train(cl_bench *b, oc_err *err)
{
    job *j = bs_calloc(1, sizeof *j, "a measurement", err);
    if (!j)
        return -1;
    j->b = b;
    int result = open_all(j, err) || (b->from_stdin ? cl_listen(obey, j, err) : measure(j, err)) ? -1 : 0;
    close_all(j);
    bs_free(j);
    return result;
}
