/* test_model.c - several ways to one answer, to the bit, on every tier: a whole tower and its pooled row alone, weights as they lie and packed,
 * integers made in memory and read from a quantised folder, one session and several at once. */
#include <pthread.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checkpoint/quantized.h"
#include "model/reading.h"
#include "run/engine.h"

static const char *const folders[] = {"tests/reference/clip", "tests/reference/clip_gelu", "tests/reference/chinese_clip",
                                      "tests/reference/siglip"};

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

static const char *const wanted[] = {"image_embeds", "text_embeds"};

/* Both towers' projected rows into out, whole towers or pooled rows alone; floats written. */
static size_t run_towers(bed *b, const kn_table *t, int threads, bool whole, md_packed *packed, float *out)
{
    machine m;
    md_outputs outputs = {0};
    size_t n = 0;
    start(&m, t, threads);
    m.cx.packed = packed ? md_packed_weight : NULL;
    m.cx.packed_arg = packed;
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
    assert_true(whole || !hidden);
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
                size_t n = run_towers(&b, all[t], threads, true, NULL, whole);
                assert_true(n > 0);
                assert_int_equal(run_towers(&b, all[t], threads, false, NULL, pooled), n);
                assert_memory_equal(whole, pooled, n * sizeof *whole);
            }
        close_bed(&b);
    }
}

/* n texts of the given lengths, their ids made up. */
static md_batch made_up(const md_model *m, const long *lengths, const int *which, int n)
{
    md_batch b = {0};
    md_sizes s;
    tx_ids ids[8] = {{0}};
    m->family->sizes(m->m, &s);
    for (int i = 0; i < n; i++)
        for (long at = 0; at < lengths[which[i]]; at++)
            assert_int_equal(tx_ids_put(&ids[i], (int)((at * 7 + which[i] * 31 + 5) % s.vocab), NULL), 0);
    assert_int_equal(md_texts_open(&b, m, n, NULL), 0);
    md_texts_put(&b, m, ids, n, -1);
    for (int i = 0; i < n; i++)
        tx_ids_clear(&ids[i]);
    return b;
}

/* The same, embedded into out [n, width]. */
static void embed_made_up(const md_model *m, const kn_table *t, int threads, const long *lengths, const int *which, int n,
                          float *out)
{
    machine k;
    md_batch b = made_up(m, lengths, which, n);
    start(&k, t, threads);
    tn_t y = m->family->embed_texts(&k.cx, m->m, &b);
    assert_false(k.cx.failed);
    memcpy(out, y.v, (size_t)tn_size(y) * sizeof *out);
    stop(&k);
    md_batch_clear(&b);
}

enum { TEXTS = 5 };
static const char *const readers[] = {"tests/reference/clip/model", "tests/reference/chinese_clip/model",
                                      "tests/reference/siglip/model", "tests/reference/bert/model",
                                      "tests/reference/minilm/model"};
static const long lengths[TEXTS] = {3, 11, 1, 7, 12};
static const int all_of_them[TEXTS] = {0, 1, 2, 3, 4};

/* However they are filled up: beside longer ones a text's row has the bits that it has alone. */
static void texts_do_not_see_their_company(void **state)
{
    (void)state;
    static float together[TEXTS * 512], alone[512];
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        oc_err err = {0};
        md_model *m = md_open(readers[i], &err);
        md_sizes s;
        if (!m)
            fail_msg("%s", err.text);
        m->family->sizes(m->m, &s);
        int count;
        const kn_table *const *all = kn_all(&count);
        for (int t = 0; t < count; t++) {
            embed_made_up(m, all[t], 3, lengths, all_of_them, TEXTS, together);
            for (int k = 0; k < TEXTS; k++) {
                embed_made_up(m, all[t], 1, lengths, &all_of_them[k], 1, alone);
                assert_memory_equal(alone, together + k * s.embedding, (size_t)s.embedding * sizeof *alone);
            }
        }
        md_close(m);
    }
}

/* ---- what learns -------------------------------------------------------------------------------------------------- */

/* b's texts as they are, or none filled up. */
static tn_t embed_as(tn_ctx *cx, const md_model *m, const md_batch *b, md_unfilled *u)
{
    const md_batch *texts = u ? md_unfill(u, m, b) : b;
    cx->branches = texts->branches;
    return m->family->embed_texts(cx, m->m, texts);
}

/* Bytes of an arena for texts of b's number and length, whatever they are. */
static size_t plan_texts(const md_model *m, const kn_table *t, int threads, const md_batch *b, md_unfilled *u,
                         const md_trainables *to)
{
    tn_ctx cx;
    md_batch most = md_plan_texts(m, b->texts);
    most.length = b->length;
    tn_plan(&cx, t, threads, true);
    cx.grads = to->grads;
    embed_as(&cx, m, &most, u);
    assert_false(cx.failed);
    return tn_plan_bytes(&cx);
}

/* The gradients of all weights by a sum over the embeddings of b's texts, in an arena that is as large as planned; multiply-adds. u NULL: filled up as they are. */
static double learn_texts(const md_model *m, const kn_table *t, int threads, const md_batch *b, md_unfilled *u, md_trainables *to,
                          float *out)
{
    machine k;
    float weight[TEXTS * 512];
    size_t planned = plan_texts(m, t, threads, b, u, to);
    start(&k, t, threads);
    tn_run(&k.cx, k.work, k.arena, planned < ROOM ? planned : ROOM, true);
    md_trainables_zero(to, k.work);
    k.cx.grads = to->grads;
    tn_t y = embed_as(&k.cx, m, b, u);
    for (long i = 0; i < TEXTS * 512; i++)
        weight[i] = (float)((i * 37 % 19) - 9) / 9;
    tn_seed(&k.cx, y, weight);
    if (tn_backward(&k.cx))
        fail_msg("%s", k.cx.err.text);
    memcpy(out, y.v, (size_t)tn_size(y) * sizeof *out);
    double flops = k.cx.flops;
    stop(&k);
    return flops;
}

/* Of the squares of what differs, and of the padded batch's own. */
static double apart(const md_trainables *padded, const md_trainables *own)
{
    double difference = 0, length = 0;
    for (long i = 0; i < padded->total; i++) {
        difference += pow((double)padded->memory[i] - (double)own->memory[i], 2);
        length += pow((double)padded->memory[i], 2);
    }
    assert_true(length > 0);
    return sqrt(difference / length);
}

/* The same embeddings, and gradients that differ by the order of their sums alone, for less work. SigLIP reads what texts are filled up with. */
static void texts_that_are_not_filled_up_learn_the_same(void **state)
{
    (void)state;
    static float filled[TEXTS * 512], own[TEXTS * 512];
    int count;
    const kn_table *const *all = kn_all(&count);
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        oc_err err = {0};
        md_trainables padded, unfilled;
        md_model *m = md_open(readers[i], &err);
        md_sizes s;
        if (!m || md_own(m, &err) || md_trainables_open(&padded, m, NULL, &err) || md_trainables_open(&unfilled, m, NULL, &err))
            fail_msg("%s", err.text);
        m->family->sizes(m->m, &s);
        md_batch b = made_up(m, lengths, all_of_them, TEXTS);
        md_unfilled u;
        assert_int_equal(md_unfilled_open(&u, m, TEXTS, NULL), 0);
        for (int t = 0; t < count; t++) {
            double more = learn_texts(m, all[t], 1, &b, NULL, &padded, filled);
            double less = learn_texts(m, all[t], 1 + t, &b, &u, &unfilled, own);
            assert_memory_equal(filled, own, (size_t)(TEXTS * s.embedding) * sizeof *own);
            assert_true(s.padding == MD_PADDING_READ ? less == more : less < 0.7 * more); /* 34 rows in place of 60 */
            assert_true(apart(&padded, &unfilled) < 1e-6);
        }
        md_unfilled_close(&u);
        md_batch_clear(&b);
        md_trainables_close(&padded);
        md_trainables_close(&unfilled);
        md_close(m);
    }
}

/* Ids that are seen behind hidden ones, or pooled where nothing is seen: such a batch stays as it is. */
static void what_has_holes_stays_filled_up(void **state)
{
    (void)state;
    md_model *m = md_open("tests/reference/minilm/model", NULL);
    md_unfilled u;
    assert_true(m && !md_unfilled_open(&u, m, TEXTS, NULL));
    md_batch b = made_up(m, lengths, all_of_them, TEXTS);
    assert_ptr_equal(md_unfill(&u, m, &b), &u.batch);
    assert_int_equal(u.all.rows, 3 + 11 + 1 + 7 + 12);
    b.attention_mask[b.length + 4] = 0;
    assert_ptr_equal(md_unfill(&u, m, &b), &b);
    b.attention_mask[b.length + 4] = 1;
    b.pool[2] = 1;
    assert_ptr_equal(md_unfill(&u, m, &b), &b);
    md_unfilled_close(&u);
    md_batch_clear(&b);
    md_close(m);
}

/* Shares of a softmax, or each pair by itself: by the model's own temperature and bias. */
static void probabilities_are_the_models_own(void **state)
{
    (void)state;
    static const char *const models[] = {"tests/reference/clip/model", "tests/reference/siglip/model"};
    const float cosines[3] = {0.1f, -0.2f, 0.3f};
    for (int i = 0; i < 2; i++) {
        oc_err err = {0};
        float got[3], sum = 0;
        oc_engine *e = oc_engine_open(models[i], NULL, &err);
        assert_non_null(e);
        assert_int_equal(rn_judges_pairs(e), i == 1);
        oc_probabilities(e, cosines, 3, got);
        double scale = (double)oc_logit_scale(e), bias = i ? (double)e->model->family->logit_bias(e->model->m)->v[0] : 0;
        double total = 0;
        for (int k = 0; k < 3; k++)
            total += exp(scale * (double)cosines[k]);
        for (int k = 0; k < 3; k++) {
            double z = scale * (double)cosines[k] + bias, want = i ? 1 / (1 + exp(-z)) : exp(z) / total;
            assert_true(fabs((double)got[k] - want) < 1e-6);
            sum += got[k];
        }
        assert_true(i || fabsf(sum - 1) < 1e-6f);
        oc_engine_close(e);
    }
}

/* Packed as fp32 nothing changes, neither in the first pass, which reads weights where they lie, nor later; as bf16 and int8 little does. */
static void packed_weights_give_the_same(void **state)
{
    (void)state;
    static float plain[4096], first[4096], packed[4096];
    static const double most[] = {[KN_F32] = 0, [KN_BF16] = 0.02, [KN_I8] = 0.1, [KN_I4] = 0.8};
    bed b;
    open_bed(&b, folders[0]);
    int count;
    const kn_table *const *all = kn_all(&count);
    for (int t = 0; t < count; t++)
        for (int dtype = KN_F32; dtype <= KN_I4; dtype++) {
            oc_err err = {0};
            md_packed *p = md_packed_open(b.model, all[t], (kn_dtype)dtype, 0, &err);
            assert_non_null(p);
            size_t n = run_towers(&b, all[t], 2, false, NULL, plain);
            assert_int_equal(run_towers(&b, all[t], 2, false, p, first), n);
            assert_int_equal(run_towers(&b, all[t], 2, false, p, packed), n);
            assert_memory_equal(first, packed, n * sizeof *first);
            double difference = 0, length = 0;
            for (size_t i = 0; i < n; i++) {
                difference += pow((double)plain[i] - (double)packed[i], 2);
                length += pow((double)plain[i], 2);
            }
            assert_true(sqrt(difference / length) <= most[dtype]);
            assert_true(dtype == KN_F32 || difference > 0);
            md_packed_close(p);
        }
    close_bed(&b);
}

/* All tokens through all layers, and those alone that somebody reads: texts with anything behind their ends. */
static void embed_ids(oc_engine *e, bool whole, int threads, const int *ids, int n, int length, float *rows)
{
    oc_err err = {0};
    e->whole = whole;
    e->options.threads = threads;
    oc_session *s = oc_session_open(e, &err);
    if (!s || rn_embed_ids(s, ids, n, length, rows, &err))
        fail_msg("%s", err.text);
    oc_session_close(s);
}

static void texts_end_where_they_are_pooled(void **state)
{
    (void)state;
    enum { N = 64, LENGTH = 8, MOST = N * 1024 };
    static float whole[MOST], cut[MOST];
    oc_err err = {0};
    oc_engine *e = rn_engine_bare("tests/reference/clip/model", &(oc_options){.max_batch = N}, 0, &err);
    assert_non_null(e);
    assert_true(e->sizes.max_tokens >= LENGTH && N * e->sizes.embedding <= MOST);
    int ids[N * LENGTH], other = e->sizes.eos > 3 ? 3 : e->sizes.eos + 1;
    for (int i = 0; i < N * LENGTH; i++)
        ids[i] = i % LENGTH == 1 + i / LENGTH * 5 % 7 ? e->sizes.eos : other;
    for (int threads = 1; threads <= 2; threads++) {
        embed_ids(e, true, threads, ids, N, LENGTH, whole);
        embed_ids(e, false, threads, ids, N, LENGTH, cut);
        assert_memory_equal(whole, cut, (size_t)(N * e->sizes.embedding) * sizeof *whole);
    }
    oc_engine_close(e);
}

/* Texts over three ids and the end token, whose beginnings therefore meet, some of them twice, and as many that have nothing in common; a session of two takes several passes for them. */
static void texts_that_begin_alike_keep_their_bits(void **state)
{
    (void)state;
    enum { N = 48, LENGTH = 16, MOST = N * 1024 };
    static float whole[MOST], shared[MOST];
    static const oc_dtype types[] = {OC_FP32, OC_BF16, OC_INT8};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        oc_err err = {0};
        oc_engine *e = rn_engine_bare("tests/reference/clip/model", &(oc_options){.max_batch = 2, .dtype = types[t]}, 0, &err);
        assert_non_null(e);
        assert_true(e->sizes.max_tokens >= LENGTH && N * e->sizes.embedding <= MOST);
        int ids[N * LENGTH];
        bs_rng rng;
        bs_rng_seed(&rng, 7, 0);
        for (int i = 0; i < N * LENGTH; i++)
            ids[i] = i % LENGTH == LENGTH - 1 || (i < N * LENGTH / 2 && bs_rng_below(&rng, 5) == 0) ? e->sizes.eos
                                                                                                    : (int)bs_rng_below(&rng, 3);
        for (int i = N / 2; i < N; i++)
            ids[i * LENGTH] = 3 + i;
        for (int threads = 1; threads <= 3; threads++) {
            embed_ids(e, true, threads, ids, N, LENGTH, whole);
            embed_ids(e, false, threads, ids, N, LENGTH, shared);
            assert_memory_equal(whole, shared, (size_t)(N * e->sizes.embedding) * sizeof *whole);
        }
        oc_engine_close(e);
    }
}

/* Texts as training takes them: filled up to the longest, where a mask hides it or nobody looks. */
static void embed_filled_up(oc_session *s, const char *const *texts, int n, float *rows)
{
    oc_engine *e = s->engine;
    const tx_tokenizer *t = rn_tokenizer(e, NULL);
    md_batch b = {0};
    tx_ids ids[16] = {{0}};
    int cut = 0;
    assert_true(t && n <= 16 && !md_texts_open(&b, e->model, n, NULL));
    for (int i = 0; i < n; i++)
        assert_int_equal(rn_encode_text(t, texts[i], strlen(texts[i]), e->sizes.max_tokens, &ids[i], &cut, NULL), 0);
    md_texts_put(&b, e->model, ids, n, rn_pad(t));
    b.texts = n;
    assert_int_equal(rn_embed(s, &b, e->model->family->embed_texts, rows, NULL), 0);
    for (int i = 0; i < n; i++)
        tx_ids_clear(&ids[i]);
    md_batch_clear(&b);
}

static void texts_that_are_not_filled_up_keep_their_bits(void **state)
{
    (void)state;
    static const char *const families[] = {"clip", "siglip", "chinese_clip", "blip_retrieval", "minilm", "bert"};
    static const char *const texts[] = {"a red cat", "a",         "a red cat on a mat",    "",
                                        "红色的猫",  "a red cat", "two dogs and one more", "a red dog"};
    enum { N = sizeof texts / sizeof texts[0] };
    static float filled[N * 1024], own[N * 1024];
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        for (int threads = 1; threads <= 2; threads++) {
            char folder[128];
            oc_err err = {0};
            snprintf(folder, sizeof folder, "tests/reference/%s/model", families[i]);
            oc_engine *e = oc_engine_open(folder, &(oc_options){.threads = threads}, &err);
            oc_session *s = e ? oc_session_open(e, &err) : NULL;
            assert_true(s && oc_embedding_width(e) <= 1024);
            embed_filled_up(s, texts, N, filled);
            assert_int_equal(oc_embed_texts(s, texts, N, own, &err), 0);
            assert_memory_equal(filled, own, (size_t)(N * oc_embedding_width(e)) * sizeof *own);
            oc_session_close(s);
            oc_engine_close(e);
        }
}

static void texts_of_other_lengths_are_refused(void **state)
{
    (void)state;
    static const int ids[100];
    static float rows[1024];
    oc_err err = {0};
    oc_engine *e = rn_engine_bare("tests/reference/clip/model", &(oc_options){.max_batch = 1}, 0, &err);
    oc_session *s = e ? oc_session_open(e, &err) : NULL;
    assert_true(s && e->sizes.max_tokens < 100);
    assert_int_equal(rn_embed_ids(s, ids, 1, 0, rows, &err), -1);
    assert_int_equal(rn_embed_ids(s, ids, 1, (int)e->sizes.max_tokens + 1, rows, &err), -1);
    assert_non_null(strstr(err.text, "the model takes 1 to 77"));
    assert_int_equal(rn_embed_ids(s, ids, 1, (int)e->sizes.max_tokens, rows, &err), 0);
    assert_int_equal(rn_embed_ids(s, ids, 1, 1, rows, &err), 0);
    oc_session_close(s);
    oc_engine_close(e);
}

/* Multiply-adds of N texts that differ at one place. */
static double work_of(oc_engine *e, int place)
{
    enum { N = 16, LENGTH = 8 };
    static float rows[N * 1024];
    int ids[N * LENGTH];
    oc_err err = {0};
    for (int i = 0; i < N * LENGTH; i++)
        ids[i] = i % LENGTH == LENGTH - 1 ? e->sizes.eos : i % LENGTH == place ? i / LENGTH : 1;
    oc_session *s = oc_session_open(e, &err);
    assert_non_null(s);
    assert_int_equal(rn_embed_ids(s, ids, N, LENGTH, rows, &err), 0);
    double flops = s->flops;
    oc_session_close(s);
    return flops;
}

static void what_texts_begin_with_is_computed_once(void **state)
{
    (void)state;
    oc_err err = {0};
    oc_engine *e = rn_engine_bare("tests/reference/clip/model", &(oc_options){.threads = 1}, 0, &err);
    assert_non_null(e);
    double early = work_of(e, 0), late = work_of(e, 6);
    assert_true(late < 0.5 * early); /* 38 rows in place of 128; of the last layer each text's last row alone in both */
    oc_engine_close(e);
}

static void embed_in(const char *folder, oc_dtype dtype, float *rows, size_t *n)
{
    oc_err err = {0};
    oc_options o = {.threads = 2, .dtype = dtype};
    oc_engine *e = oc_engine_open(folder, &o, &err);
    oc_session *s = e ? oc_session_open(e, &err) : NULL;
    const char *texts[] = {"a", "some words more"};
    if (!s || oc_embed_texts(s, texts, 2, rows, &err))
        fail_msg("%s", err.text);
    *n = 2 * (size_t)oc_embedding_width(e);
    oc_session_close(s);
    oc_engine_close(e);
}

/* What `quantize` writes and what --dtype makes of the same weights are one. */
static void quantized_folders_are_read_as_written(void **state)
{
    (void)state;
    static float memory[4096], file[4096];
    char folder[] = "/tmp/ocelli-quantized-XXXXXX", command[512], path[256];
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command, "cp models/starter/*.json %s/", folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    for (int bits = 8; bits >= 4; bits -= 4) {
        oc_err err = {0};
        size_t n, m;
        md_model *model = md_open_lean("models/starter", &err);
        assert_non_null(model);
        assert_int_equal(md_file_dtype(model), KN_F32);
        if (md_save_quantized(model, path, bits == 8 ? KN_I8 : KN_I4, 32, &err))
            fail_msg("%s", err.text);
        md_close(model);
        embed_in("models/starter", bits == 8 ? OC_INT8 : OC_INT4, memory, &n);
        embed_in(folder, OC_AUTO, file, &m);
        assert_int_equal(n, m);
        assert_memory_equal(memory, file, n * sizeof *memory);
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static int slot(const md_model *m, const char *name)
{
    oc_err err = {0};
    int id = md_adapted_slot(m, name, &err);
    assert_true(id >= 0 || err.text[0]);
    return id;
}

/* Steps that only wrap others come and go; what says which tower is meant must be there. */
static void names_of_other_layouts(void **state)
{
    (void)state;
    md_model *m = md_create("tests/reference/clip/model", NULL);
    assert_non_null(m);
    int id = slot(m, "text_model.encoder.layers.1.mlp.fc1.weight");
    assert_true(id >= 0);
    assert_int_equal(slot(m, "model.text_model.encoder.layers.1.mlp.fc1.weight"), id);
    assert_int_equal(slot(m, "text_model.model.encoder.layers.1.mlp.fc1.weight"), id);
    assert_int_equal(slot(m, "transformer.resblocks.1.mlp.c_fc.weight"), id); /* open_clip's */
    assert_int_equal(slot(m, "encoder.layers.1.mlp.fc1.weight"), -1);
    assert_int_equal(slot(m, "text_model.encoder.layers.9.mlp.fc1.weight"), -1);
    assert_int_equal(slot(m, "text_model.encoder.layers.1.mlp.fc1"), -1);
    md_close(m);
}

static md_model *open_for_adapter(void)
{
    oc_err err = {0};
    md_model *m = md_open("tests/reference/clip/model", &err);
    if (!m)
        fail_msg("%s", err.text);
    return m;
}

static void create_adapter(md_lora *l, md_model *m)
{
    ck_adapter_config c;
    oc_err err = {0};
    if (ck_adapter_config_init(&c, &err) || ck_names_add(&c.target_modules, "q_proj", &err) ||
        ck_names_add(&c.modules_to_save, "visual_projection", &err) || ck_patterns_add(&c.rank_pattern, "layers.1.*", 3, &err))
        fail_msg("%s", err.text);
    c.dora = true;
    if (md_lora_create(l, m, &c, 5, &err))
        fail_msg("%s", err.text);
    ck_adapter_config_clear(&c);
}

/* What is made, learns and is written comes back: factors, magnitudes, whole weights. */
static void adapters_come_back(void **state)
{
    (void)state;
    char folder[] = "/tmp/ocelli-adapter-XXXXXX", command[64];
    oc_err err = {0};
    md_lora l, back;
    md_trainables t;
    assert_non_null(mkdtemp(folder));
    md_model *m = open_for_adapter(), *other = open_for_adapter();
    create_adapter(&l, m);
    int whole = slot(m, "visual_projection.weight"), first = slot(m, "text_model.encoder.layers.0.self_attn.q_proj.weight");
    int second = slot(m, "text_model.encoder.layers.1.self_attn.q_proj.weight");
    assert_true(l.whole[whole] && !l.whole[first] && l.by_id[first].r == 8 && l.by_id[second].r == 3);
    assert_memory_equal(m->slots[whole].p->v, other->slots[whole].p->v, (size_t)m->slots[whole].count * sizeof(float));
    if (md_trainables_open(&t, m, &l, &err))
        fail_msg("%s", err.text);
    bool seen = false;
    for (int i = 0; i < t.n; i++) {
        seen |= !strcmp(t.p[i].name, "base_model.model.visual_projection.weight") && t.p[i].grad == t.grads[whole];
        for (long k = 0; k < t.p[i].count; k++)
            t.p[i].value[k] += (float)(i + 1) / 64;
    }
    assert_true(seen);
    if (md_lora_save(&l, m, folder, &err) || md_lora_open(&back, other, folder, 1, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < m->n; i++) {
        const tn_lora *x = &l.by_id[i], *y = &back.by_id[i];
        assert_int_equal(x->r, y->r);
        assert_int_equal(l.whole[i], back.whole[i]);
        assert_memory_equal(m->slots[i].p->v, other->slots[i].p->v, (size_t)m->slots[i].count * sizeof(float));
        if (!x->r)
            continue;
        assert_memory_equal(x->a, y->a, (size_t)(x->r * md_in_of(&m->slots[i])) * sizeof(float));
        assert_memory_equal(x->b, y->b, (size_t)(x->r * md_out_of(&m->slots[i])) * sizeof(float));
        assert_memory_equal(x->m, y->m, (size_t)md_out_of(&m->slots[i]) * sizeof(float));
        assert_true(!x->f && y->f);
    }
    md_trainables_close(&t);
    md_lora_clear(&l);
    md_lora_clear(&back);
    md_close(m);
    md_close(other);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void adapters_that_cannot_be(void **state)
{
    (void)state;
    static const char *const cases[][3] = {{"fc1,token_embedding", "", "is no linear layer"},
                                           {"fc1", "no_such", "has no module 'no_such'"},
                                           {"layer_norm1", "", "is no linear layer"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        md_model *m = open_for_adapter();
        char list[64], *rest = NULL;
        ck_adapter_config c;
        oc_err err = {0};
        md_lora l;
        assert_int_equal(ck_adapter_config_init(&c, &err), 0);
        snprintf(list, sizeof list, "%s", cases[i][0]);
        for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
            assert_int_equal(ck_names_add(&c.target_modules, word, &err), 0);
        if (cases[i][1][0])
            assert_int_equal(ck_names_add(&c.modules_to_save, cases[i][1], &err), 0);
        assert_int_equal(md_lora_create(&l, m, &c, 1, &err), -1);
        if (!strstr(err.text, cases[i][2]))
            fail_msg("'%s' does not say '%s'", err.text, cases[i][2]);
        ck_adapter_config_clear(&c);
        md_close(m);
    }
}

typedef struct visitor {
    oc_engine *engine;
    float rows[512];
    int failed;
} visitor;

static void *visit(void *arg)
{
    visitor *v = arg;
    oc_err err = {0};
    oc_session *s = oc_session_open(v->engine, &err);
    const char *texts[] = {"a cat", "一只猫"};
    v->failed = !s || oc_embed_texts(s, texts, 2, v->rows, &err);
    oc_session_close(s);
    return NULL;
}

/* Two engines, two sessions each, all at once: every one gives what one alone gives. */
static void sessions_and_engines_live_side_by_side(void **state)
{
    (void)state;
    enum { ENGINES = 2, SESSIONS = 4 };
    oc_err err = {0};
    oc_options o = {.threads = 2};
    oc_engine *e[ENGINES];
    static visitor v[SESSIONS], alone;
    pthread_t thread[SESSIONS];
    for (int i = 0; i < ENGINES; i++)
        assert_non_null(e[i] = oc_engine_open("models/starter", &o, &err));
    for (int i = 0; i < SESSIONS; i++) {
        v[i].engine = e[i % ENGINES];
        assert_int_equal(pthread_create(&thread[i], NULL, visit, &v[i]), 0);
    }
    for (int i = 0; i < SESSIONS; i++)
        pthread_join(thread[i], NULL);
    alone.engine = e[0];
    visit(&alone);
    assert_int_equal(alone.failed, 0);
    for (int i = 0; i < SESSIONS; i++) {
        assert_int_equal(v[i].failed, 0);
        assert_memory_equal(v[i].rows, alone.rows, sizeof alone.rows);
    }
    for (int i = 0; i < ENGINES; i++)
        oc_engine_close(e[i]);
}

/* The number of groups tells their length, for every width. */
static void groups_of_int4_explain_themselves(void **state)
{
    (void)state;
    for (long k = 1; k < 700; k++)
        for (long asked = 32; asked <= 256; asked += 32) {
            long g = ck_int4_group(k, asked), count = (k + g - 1) / g, same = 0;
            assert_true(g % 32 == 0 && g > 0 && g <= asked);
            assert_true(k % 32 != 0 || k % g == 0);
            for (long other = 32; other <= 1024; other += 32)
                same += ck_int4_group(k, other) == other && (k + other - 1) / other == count;
            assert_true(same == 1 || count == 1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_do_not_see_their_company),
        cmocka_unit_test(texts_that_are_not_filled_up_learn_the_same),
        cmocka_unit_test(what_has_holes_stays_filled_up),
        cmocka_unit_test(probabilities_are_the_models_own),
        cmocka_unit_test(pooled_rows_are_the_towers_own),
        cmocka_unit_test(packed_weights_give_the_same),
        cmocka_unit_test(sessions_and_engines_live_side_by_side),
        cmocka_unit_test(quantized_folders_are_read_as_written),
        cmocka_unit_test(groups_of_int4_explain_themselves),
        cmocka_unit_test(texts_end_where_they_are_pooled),
        cmocka_unit_test(texts_that_begin_alike_keep_their_bits),
        cmocka_unit_test(texts_that_are_not_filled_up_keep_their_bits),
        cmocka_unit_test(what_texts_begin_with_is_computed_once),
        cmocka_unit_test(texts_of_other_lengths_are_refused),
        cmocka_unit_test(names_of_other_layouts),
        cmocka_unit_test(adapters_come_back),
        cmocka_unit_test(adapters_that_cannot_be),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
