/* test_model.c - two ways to one answer: a whole tower and its pooled row alone, on every tier, to the bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/model.h"

static const char *const folders[] = {"tests/reference/clip", "tests/reference/clip_gelu"};

/* A model with its inputs, opened once for all tiers and numbers of threads. */
typedef struct bed {
    md_model *model;
    md_values inputs;
    md_batch batch;
} bed;

static void open_bed(bed *b, const char *folder)
{
    oc_err err = {0};
    char model[256], in[256];
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(in, sizeof in, "%s/in.safetensors", folder);
    memset(b, 0, sizeof *b);
    b->model = md_open(model, &err);
    if (!b->model || md_values_read(&b->inputs, in, &err) || b->model->family->prepare(b->model->m, &b->inputs, &b->batch, &err))
        fail_msg("%s", err.text);
    assert_true(b->batch.images > 1 && b->batch.texts > 1 && b->batch.length > 4);
}

static void close_bed(bed *b)
{
    md_batch_clear(&b->batch);
    md_values_clear(&b->inputs);
    md_close(b->model);
}

typedef struct machine {
    bs_pool *pool;
    kn_work *work;
    void *arena;
    tn_ctx cx;
} machine;

enum { ROOM = 64 << 20 };

static void start(machine *m, const kn_table *t, int threads)
{
    m->pool = bs_pool_open(threads, NULL);
    m->work = kn_work_open(t, m->pool, NULL);
    m->arena = bs_alloc(ROOM, "the arena", NULL);
    assert_non_null(m->work);
    assert_non_null(m->arena);
    tn_run(&m->cx, m->work, m->arena, ROOM, false);
}

static void stop(machine *m)
{
    bs_free(m->arena);
    kn_work_close(m->work);
    bs_pool_close(m->pool);
}

static const char *const wanted[] = {"vision_model_output.pooler_output", "text_model_output.pooler_output"};

/* Both towers' projected rows into out, whole towers or pooled rows alone; floats written. */
static size_t run_towers(bed *b, const kn_table *t, int threads, bool whole, float *out)
{
    machine m;
    md_outputs outputs = {0};
    size_t n = 0;
    start(&m, t, threads);
    b->batch.want_hidden = whole;
    b->model->family->forward(&m.cx, b->model->m, &b->batch, &outputs);
    assert_false(m.cx.failed);
    bool hidden = false;
    for (int i = 0; i < outputs.n; i++) {
        hidden |= strstr(outputs.item[i].name, "last_hidden_state") != NULL;
        for (int k = 0; k < 2; k++)
            if (!strcmp(outputs.item[i].name, wanted[k])) {
                size_t size = (size_t)tn_size(outputs.item[i].value);
                memcpy(out + n, outputs.item[i].value.v, size * sizeof *out);
                n += size;
            }
    }
    assert_int_equal(hidden, whole);
    stop(&m);
    return n;
}

static void pooled_rows_are_the_towers_own(void **state)
{
    (void)state;
    static float whole[4096], pooled[4096];
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
        bed b;
        open_bed(&b, folders[f]);
        int count;
        const kn_table *const *all = kn_all(&count);
        for (int t = 0; t < count; t++)
            for (int threads = 1; threads <= 3; threads++) {
                size_t n = run_towers(&b, all[t], threads, true, whole);
                assert_true(n > 0);
                assert_int_equal(run_towers(&b, all[t], threads, false, pooled), n);
                assert_memory_equal(whole, pooled, n * sizeof *whole);
            }
        close_bed(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pooled_rows_are_the_towers_own)};
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
