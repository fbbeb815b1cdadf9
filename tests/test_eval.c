/* test_eval.c - metrics on matrices whose answers are known, templates, classes, the neighbour's features against numpy's, captions against what
 * pycocoevalcap gives, and answers against the rules of VQA. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../src/eval/captions.h"
#include "../src/eval/metrics.h"
#include "../src/eval/neighbour.h"
#include "../src/eval/questions.h"
#include "../src/eval/retrieval.h"
#include "../src/eval/templates.h"
#include "../src/eval/vqa.h"
#include "../src/eval/zeroshot.h"

#define MODEL "tests/reference/clip/model"
#define IMAGES "tests/reference/images/"
#define CAPTIONS "tests/data/captions/"

/* ---- helpers ------------------------------------------------------------------------------------------ */

static void assert_near(double got, double want, double within)
{
    if (!(fabs(got - want) <= within))
        fail_msg("%.9g, expected %.9g within %g", got, want, within);
}

static void assert_says(const oc_err *err, const char *words)
{
    if (!strstr(err->text, words))
        fail_msg("'%s' does not say '%s'", err->text, words);
}

/* A file of pairs in a folder of its own; @ in the text stands for the folder of test pictures. */
static dt_pairs pairs_of(const char *extension, const char *text)
{
    char dir[] = "/tmp/ocelli-eval-XXXXXX", path[64], here[1024];
    assert_non_null(mkdtemp(dir));
    assert_non_null(getcwd(here, sizeof here));
    snprintf(path, sizeof path, "%s/pairs.%s", dir, extension);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (; *text; text++)
        if (*text == '@')
            fprintf(f, "%s/%s", here, IMAGES);
        else
            fputc(*text, f);
    fclose(f);
    dt_pairs pairs;
    oc_err err = {0};
    if (dt_pairs_read(&pairs, path, &err))
        fail_msg("%s", err.text);
    unlink(path);
    rmdir(dir);
    return pairs;
}

typedef struct opened {
    oc_engine *engine;
    oc_session *session;
    long width;
} opened;

static opened open_model(int batch)
{
    oc_err err = {0};
    oc_options options = {.threads = 2, .max_batch = batch};
    opened o = {.engine = oc_engine_open(MODEL, &options, &err)};
    o.session = o.engine ? oc_session_open(o.engine, &err) : NULL;
    if (!o.session)
        fail_msg("%s", err.text);
    o.width = oc_embedding_width(o.engine);
    return o;
}

static void close_model(opened *o)
{
    oc_session_close(o->session);
    oc_engine_close(o->engine);
}

/* What a talk was told. */
typedef struct heard {
    int refused;
    char last[1024];
    long done, all;
} heard;

static void hear_refused(void *arg, const char *why)
{
    heard *h = arg;
    h->refused++;
    snprintf(h->last, sizeof h->last, "%s", why);
}

static void hear_progress(void *arg, const char *what, long done, long all)
{
    heard *h = arg;
    assert_non_null(what);
    h->done = done;
    h->all = all;
}

/* ---- metrics ------------------------------------------------------------------------------------------- */

static void ranks_of_a_known_matrix(void **state)
{
    (void)state;
    const float scores[4 * 4] = {
        0.9f, 0.1f, 0.5f, 0.3f, /* right: 0, first */
        0.2f, 0.1f, 0.8f, 0.3f, /* right: 1, last */
        0.7f, 0.7f, 0.7f, 0.7f, /* right: 2, behind two equal ones */
        0.1f, 0.2f, 0.3f, 0.4f, /* right: none */
    };
    const long rows[] = {0, 1, 2, 9}, cols[] = {0, 1, 2, 3};
    long rank[4], right[4];
    ev_ranks(scores, 4, 4, rows, cols, 1, rank, right);
    const long want[] = {1, 4, 3, 0}, found[] = {1, 1, 1, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(rank[i], want[i]);
        assert_int_equal(right[i], found[i]);
    }
    assert_near(ev_recall(rank, 4, 1), 0.25, 0);
    assert_near(ev_recall(rank, 4, 3), 0.5, 0);
    assert_near(ev_recall(rank, 4, 4), 0.75, 0); /* what is never right is never found */
    assert_near(ev_recall(rank, 0, 1), 0, 0);
}

static void the_best_of_several_right_ones_counts(void **state)
{
    (void)state;
    const float scores[] = {0.1f, 0.6f, 0.9f, 0.8f, 0.8f};
    /* group, text: column 0 has the same group, 3 and 4 the same text; -1 never matches -1 */
    const long row[] = {5, 7}, cols[] = {5, 1, -1, 2, -1, -1, 6, 7, 8, 7};
    long rank, right;
    ev_ranks(scores, 1, 5, row, cols, 2, &rank, &right);
    assert_int_equal(rank, 2);
    assert_int_equal(right, 3);
    const long nothing[] = {-1, -1};
    ev_ranks(scores, 1, 5, nothing, cols, 2, &rank, &right);
    assert_int_equal(rank, 0);
    assert_int_equal(right, 0);
}

static void equal_scores_give_chance(void **state)
{
    (void)state;
    float scores[20 * 20] = {0};
    long key[20], rank[20];
    for (long i = 0; i < 20; i++)
        key[i] = i;
    ev_ranks(scores, 20, 20, key, key, 1, rank, NULL);
    for (long i = 0; i < 20; i++)
        assert_int_equal(rank[i], i + 1);
    for (long k = 1; k <= 20; k++)
        assert_near(ev_recall(rank, 20, k), ev_chance(1, 20, k), 1e-12);
}

static void medians(void **state)
{
    (void)state;
    oc_err err = {0};
    const long odd[] = {9, 1, 4}, even[] = {8, 1, 3, 4};
    assert_near(ev_median(odd, 3, &err), 4, 0);
    assert_near(ev_median(even, 4, &err), 3.5, 0);
    assert_near(ev_median(even, 0, &err), 0, 0);
}

static void chances(void **state)
{
    (void)state;
    assert_near(ev_chance(1, 1496, 1), 1 / 1496.0, 1e-12);
    assert_near(ev_chance(1, 10, 5), 0.5, 1e-12);
    assert_near(ev_chance(2, 5, 2), 1 - 3.0 / 10, 1e-12); /* C(3,2) of C(5,2) have none */
    assert_near(ev_chance(0, 5, 3), 0, 0);
    assert_near(ev_chance(3, 6, 3), 0.95, 1e-12); /* 1 of C(6,3) = 20 misses all */
    assert_near(ev_chance(3, 5, 3), 1, 0);
    assert_near(ev_chance(4, 5, 2), 1, 0);
    assert_near(ev_chance(1, 3, 10), 1, 0);
}

static void best_equals_a_full_sort(void **state)
{
    (void)state;
    enum { N = 97 };
    bs_rng rng;
    bs_rng_seed(&rng, 7, 0);
    for (int round = 0; round < 50; round++) {
        float x[N];
        long got[N], n = 1 + (long)bs_rng_below(&rng, N);
        for (long i = 0; i < n; i++)
            x[i] = (float)bs_rng_below(&rng, 12); /* many are equal */
        for (long k = 0; k <= n; k += 1 + k / 2) {
            ev_best(x, n, k, got);
            for (long i = 0; i < k; i++) {
                long before = 0, at = got[i];
                for (long j = 0; j < n; j++)
                    before += x[j] > x[at] || (x[j] == x[at] && j < at);
                assert_int_equal(before, i);
            }
        }
    }
}

static void every_template_has_the_same_say(void **state)
{
    (void)state;
    const float rows[] = {2, 0, 0, 0, 5, 0}, zero[] = {0, 0, 0, 0, 0, 3};
    float out[3];
    ev_mean_direction(rows, 2, 3, out); /* the longer one does not pull harder */
    assert_near(out[0], sqrt(0.5), 1e-7);
    assert_near(out[1], sqrt(0.5), 1e-7);
    assert_near(out[2], 0, 0);
    ev_mean_direction(rows + 3, 1, 3, out);
    assert_near(out[1], 1, 0);
    ev_mean_direction(zero, 2, 3, out);
    assert_near(out[2], 1, 1e-7);
    const float apart[] = {1, 0, 0.6f, 0.8f, 0.6f, 0.8f};
    ev_mean_direction(apart, 3, 2, out); /* (2.2, 1.6) / 3 */
    assert_near(out[0], 2.2 / sqrt(2.2 * 2.2 + 1.6 * 1.6), 1e-6);
    assert_near(out[1], 1.6 / sqrt(2.2 * 2.2 + 1.6 * 1.6), 1e-6);
}

static void numbers_for_texts(void **state)
{
    (void)state;
    const char *text[] = {"b", "a", NULL, "b", "猫", "a", ""};
    long id[7], distinct;
    oc_err err = {0};
    assert_int_equal(ev_ids(text, 7, id, &distinct, &err), 0);
    assert_int_equal(distinct, 4);
    const long want[] = {2, 1, -1, 2, 3, 1, 0};
    for (int i = 0; i < 7; i++)
        assert_int_equal(id[i], want[i]);
    assert_int_equal(ev_ids(text, 0, id, &distinct, &err), 0);
    assert_int_equal(distinct, 0);
}

/* ---- templates ------------------------------------------------------------------------------------------ */

static void check_fill(const char *template, const char *label, const char *want)
{
    char *got = ev_template_fill(template, label);
    assert_string_equal(got, want);
    free(got);
}

static void templates_are_filled(void **state)
{
    (void)state;
    check_fill("a photo of {}.", "cat", "a photo of cat.");
    check_fill("{}", "", "");
    check_fill("{}{} and {", "{}", "{}{} and {"); /* what a label holds is no place for another */
    check_fill("一张{}的照片", "猫", "一张猫的照片");
    check_fill("nothing", "cat", "nothing");
}

static void template_sets_have_places(void **state)
{
    (void)state;
    int n;
    oc_err err = {0};
    const ev_template_set *sets = ev_template_sets(&n);
    assert_true(n >= 5);
    for (int i = 0; i < n; i++) {
        assert_ptr_equal(ev_template_find(sets[i].name), &sets[i]);
        assert_true(sets[i].count >= 1);
        for (int t = 0; t < sets[i].count; t++) {
            assert_int_equal(ev_template_check(sets[i].text[t], &err), 0);
            for (int other = 0; other < t; other++)
                assert_string_not_equal(sets[i].text[t], sets[i].text[other]);
        }
    }
    assert_null(ev_template_find("no such set"));
    assert_int_equal(ev_template_check("a photo", &err), -1);
    assert_says(&err, "'a photo' has no {}");
}

/* ---- retrieval from rows -------------------------------------------------------------------------------------- */

static bs_pool *a_pool(int threads)
{
    oc_err err = {0};
    bs_pool *pool = bs_pool_open(threads, &err);
    assert_non_null(pool);
    return pool;
}

static kn_work *a_work(bs_pool *pool)
{
    oc_err err = {0};
    kn_work *work = kn_work_open(kn_best(&err), pool, &err);
    assert_non_null(work);
    return work;
}

static void retrieval_of_known_rows(void **state)
{
    (void)state;
    /* Pictures along the axes; text 0 and 1 lie on their own, 2 lies on picture 0, 3 nearest to 2 then 3. */
    const float pictures[4 * 4] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    const float texts[4 * 4] = {1, 0, 0, 0, 0, 1, 0, 0, 0.9f, 0, 0.4f, 0, 0, 0, 0.8f, 0.6f};
    const long apart[] = {-1, 0, -1, 1, -1, 2, -1, 3}, same_group[] = {4, 0, -1, 1, 4, 2, -1, 3};
    bs_pool *pool = a_pool(2);
    kn_work *work = a_work(pool);
    ev_retrieval r;
    oc_err err = {0};
    assert_int_equal(ev_retrieval_of(work, pictures, texts, 4, 4, apart, &r, &err), 0);
    assert_int_equal(r.pairs, 4);
    assert_near(r.text_to_image.recall[0], 0.5, 0);
    assert_near(r.text_to_image.recall[1], 1, 0);
    assert_near(r.text_to_image.median_rank, 1.5, 0); /* 1, 1, 2, 2 */
    assert_near(r.image_to_text.recall[0], 0.75, 0);  /* picture 2 finds text 3 first */
    assert_near(r.image_to_text.median_rank, 1, 0);
    assert_near(r.chance[0], 0.25, 1e-12);
    assert_near(r.chance[1], 1, 0);
    assert_int_equal(ev_retrieval_of(work, pictures, texts, 4, 4, same_group, &r, &err), 0);
    assert_near(r.text_to_image.recall[0], 0.75, 0); /* text 2 means picture 0 just as well */
    assert_near(r.chance[0], (0.5 + 0.25 + 0.5 + 0.25) / 4, 1e-12);
    kn_work_close(work);
    bs_pool_close(pool);
}

static void ranks_in_pieces_equal_the_whole(void **state)
{
    (void)state;
    enum { N = 600, W = 5 }; /* more rows than one piece */
    static float x[N * W], scores[N * N];
    static long key[N], rank[N], right[N], want[N], found[N];
    bs_rng rng;
    oc_err err = {0};
    bs_rng_seed(&rng, 3, 0);
    for (int i = 0; i < N * W; i++)
        x[i] = (float)bs_rng_below(&rng, 7) - 3;
    for (int i = 0; i < N; i++)
        key[i] = (long)bs_rng_below(&rng, 40);
    for (int threads = 1; threads <= 3; threads++) {
        bs_pool *pool = a_pool(threads);
        kn_work *work = a_work(pool);
        ev_scores(work, x, N, x, N, W, scores);
        ev_ranks(scores, N, N, key, key, 1, want, found);
        assert_int_equal(ev_rank_vectors(work, x, N, x, N, W, key, key, 1, rank, right, &err), 0);
        assert_memory_equal(rank, want, sizeof rank);
        assert_memory_equal(right, found, sizeof right);
        kn_work_close(work);
        bs_pool_close(pool);
    }
}

/* ---- classes ------------------------------------------------------------------------------------------------ */

static void classes_are_groups_called_by_their_first_text(void **state)
{
    (void)state;
    dt_pairs pairs = pairs_of("jsonl", "{\"image\": \"a\", \"text\": [\"cat\", \"pet\"], \"group\": \"g1\"}\n"
                                       "{\"image\": \"b\", \"text\": \"kitten\", \"text_zh\": \"猫\", \"group\": \"g1\"}\n"
                                       "{\"image\": \"c\", \"text\": \"dog\"}\n"
                                       "{\"image\": \"d\", \"text\": \"dog\", \"text_zh\": \"猫\"}\n"
                                       "{\"image\": \"e\", \"text\": \"cat\", \"group\": \"g2\"}\n");
    ev_classes c;
    oc_err err = {0};
    assert_int_equal(ev_classes_init(&c, &pairs, dt_language(&pairs, "text"), &err), 0);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.name[0], "cat");
    assert_string_equal(c.name[1], "dog");
    const long want[] = {0, 0, 1, 1, 0};
    for (int i = 0; i < 5; i++)
        assert_int_equal(c.of[i], want[i]);
    ev_classes_clear(&c);
    assert_int_equal(ev_classes_init(&c, &pairs, dt_language(&pairs, "text_zh"), &err), 0);
    assert_int_equal(c.n, 1); /* the first pair's group is named by the second; c and e have no name here */
    const long chinese[] = {0, 0, -1, 0, -1};
    for (int i = 0; i < 5; i++)
        assert_int_equal(c.of[i], chinese[i]);
    ev_classes_clear(&c);
    dt_pairs_clear(&pairs);
}

/* ---- with a model --------------------------------------------------------------------------------------------- */

static void a_broken_picture_leaves_the_others(void **state)
{
    (void)state;
    const char *paths[] = {IMAGES "photo.jpg", "/nonexistent.png", IMAGES "square.png", "tests/test_eval.c", IMAGES "tall.png"};
    const char *whole[] = {IMAGES "photo.jpg", IMAGES "square.png", IMAGES "tall.png"};
    opened o = open_model(2);
    float *rows = calloc(5 * (size_t)o.width, sizeof *rows), *want = calloc(3 * (size_t)o.width, sizeof *want);
    bool ok[5];
    heard h = {0};
    ev_talk talk = {hear_progress, hear_refused, &h, 0, 0};
    oc_err err = {0};
    size_t bytes = (size_t)o.width * sizeof *rows;
    assert_int_equal(ev_embed_pictures(o.session, paths, 5, rows, ok, &talk, &err), 0);
    assert_int_equal(talk.failed, 2);
    assert_int_equal(h.refused, 2);
    assert_non_null(strstr(h.last, "tests/test_eval.c"));
    assert_int_equal(h.done, 5);
    assert_int_equal(h.all, 5);
    assert_true(ok[0] && !ok[1] && ok[2] && !ok[3] && ok[4]);
    assert_int_equal(ev_embed_pictures(o.session, whole, 3, want, ok, NULL, &err), 0);
    assert_memory_equal(rows, want, bytes);
    assert_memory_equal(rows + 2 * o.width, want + o.width, bytes);
    assert_memory_equal(rows + 4 * o.width, want + 2 * o.width, bytes);
    for (long i = 0; i < o.width; i++)
        assert_true(rows[o.width + i] == 0 && rows[3 * o.width + i] == 0);
    free(rows);
    free(want);
    close_model(&o);
}

static void class_vectors_average_templates(void **state)
{
    (void)state;
    const char *names[] = {"cat", "狗", "tree"}, *templates[] = {"{}", "a photo of {}", "{}的照片"};
    const char *texts[] = {"cat",      "a photo of cat", "cat的照片",       "狗",        "a photo of 狗",
                           "狗的照片", "tree",           "a photo of tree", "tree的照片"};
    oc_err err = {0};
    for (int batch = 1; batch <= 8; batch += 7) { /* less than one class at once, and two */
        opened o = open_model(batch);
        float *each = calloc(9 * (size_t)o.width, sizeof *each), *want = calloc((size_t)o.width, sizeof *want);
        float *rows = calloc(3 * (size_t)o.width, sizeof *rows);
        assert_int_equal(ev_embed_texts(o.session, texts, 9, each, NULL, &err), 0);
        assert_int_equal(ev_class_vectors(o.session, names, 3, templates, 3, rows, NULL, &err), 0);
        for (int c = 0; c < 3; c++) {
            ev_mean_direction(each + 3 * c * o.width, 3, o.width, want);
            assert_memory_equal(want, rows + c * o.width, (size_t)o.width * sizeof *want);
        }
        assert_int_equal(ev_class_vectors(o.session, names, 3, templates, 1, rows, NULL, &err), 0);
        for (int c = 0; c < 3; c++)
            for (long i = 0; i < o.width; i++)
                assert_near(rows[c * o.width + i], each[3 * c * o.width + i], 1e-6);
        free(each);
        free(want);
        free(rows);
        close_model(&o);
    }
}

static void texts_that_are_cut_are_counted(void **state)
{
    (void)state;
    char text[4096];
    memset(text, 0, sizeof text);
    for (int i = 0; i < 1000; i++)
        memcpy(text + 4 * i, "cat ", 4);
    const char *texts[] = {"cat", text, "dog"}, *templates[] = {"{}", "a {}"};
    opened o = open_model(2);
    float *rows = calloc(3 * (size_t)o.width, sizeof *rows);
    ev_talk talk = {0};
    oc_err err = {0};
    assert_int_equal(ev_embed_texts(o.session, texts, 3, rows, &talk, &err), 0);
    assert_int_equal(talk.cut, 1);
    assert_int_equal(ev_class_vectors(o.session, texts, 3, templates, 2, rows, &talk, &err), 0);
    assert_int_equal(talk.cut, 3);
    free(rows);
    close_model(&o);
}

static const char *const FOUR = "{\"image\": \"@photo.jpg\", \"text\": \"cat\", \"group\": \"1\"}\n"
                                "{\"image\": \"@tall.png\", \"text\": \"a red apple\", \"text_zh\": \"苹果\"}\n"
                                "{\"image\": \"@wide.png\", \"text\": \"kitten\", \"group\": \"1\"}\n"
                                "{\"image\": \"@nothing.png\", \"text\": \"dog\"}\n";

static void zeroshot_counts_what_can_be_judged(void **state)
{
    (void)state;
    dt_pairs pairs = pairs_of("jsonl", FOUR);
    opened o = open_model(4);
    const char *names[] = {"cat", "a red apple", "cat", "dog"}, *templates[] = {"{}"};
    float *rows = calloc(4 * (size_t)o.width, sizeof *rows);
    bool ok[] = {true, true, true, false};
    ev_zeroshot z;
    oc_err err = {0};
    /* Pictures that lie exactly on their names; then one on another's. */
    assert_int_equal(ev_embed_texts(o.session, names, 4, rows, NULL, &err), 0);
    assert_int_equal(ev_zeroshot_run(o.session, &pairs, rows, ok, 0, templates, 1, &z, NULL, &err), 0);
    assert_int_equal(z.classes, 3);
    assert_int_equal(z.pictures, 3);
    assert_near(z.top1, 1, 0);
    assert_near(z.chance_top1, 1 / 3.0, 1e-12);
    memcpy(rows, rows + 3 * o.width, (size_t)o.width * sizeof *rows);
    assert_int_equal(ev_zeroshot_run(o.session, &pairs, rows, ok, 0, templates, 1, &z, NULL, &err), 0);
    assert_near(z.top1, 2 / 3.0, 1e-12);
    assert_near(z.top5, 1, 0);
    assert_int_equal(ev_zeroshot_run(o.session, &pairs, rows, ok, dt_language(&pairs, "text_zh"), templates, 1, &z, NULL, &err),
                     0);
    assert_int_equal(z.classes, 1);
    assert_int_equal(z.pictures, 1);
    ok[0] = ok[1] = ok[2] = false;
    assert_int_equal(ev_zeroshot_run(o.session, &pairs, rows, ok, 0, templates, 1, &z, NULL, &err), -1);
    assert_says(&err, "no picture could be read");
    free(rows);
    dt_pairs_clear(&pairs);
    close_model(&o);
}

static void retrieval_reads_pairs(void **state)
{
    (void)state;
    dt_pairs pairs = pairs_of("jsonl", FOUR);
    opened o = open_model(4);
    float *rows = calloc(4 * (size_t)o.width, sizeof *rows);
    bool ok[4];
    heard h = {0};
    ev_talk talk = {NULL, hear_refused, &h, 0, 0};
    ev_retrieval r;
    oc_err err = {0};
    assert_int_equal(ev_embed_pairs(o.session, &pairs, rows, ok, &talk, &err), 0);
    assert_int_equal(talk.failed, 1);
    assert_non_null(strstr(h.last, "nothing.png"));
    assert_int_equal(ev_retrieval_run(o.session, &pairs, rows, ok, 0, &r, &talk, &err), 0);
    assert_int_equal(r.pairs, 3);
    assert_near(r.chance[0], (2 + 1 + 2) / 9.0, 1e-12);
    assert_near(r.text_to_image.recall[1], 1, 0);
    assert_int_equal(ev_retrieval_run(o.session, &pairs, rows, ok, dt_language(&pairs, "text_zh"), &r, &talk, &err), 0);
    assert_int_equal(r.pairs, 1);
    assert_near(r.image_to_text.recall[0], 1, 0);
    memset(ok, 0, sizeof ok);
    assert_int_equal(ev_retrieval_run(o.session, &pairs, rows, ok, 0, &r, &talk, &err), -1);
    assert_says(&err, "no picture could be read and has a text in 'text'");
    free(rows);
    dt_pairs_clear(&pairs);
    close_model(&o);
}

/* ---- neighbour --------------------------------------------------------------------------------------------------- */

/* A pattern on white, `seed` steep. */
static oc_picture make_picture(int seed, int width, int height)
{
    oc_err err = {0};
    oc_picture p = {.width = width, .height = height};
    p.rgb = bs_alloc((size_t)width * (size_t)height * 3, "a test picture", &err);
    assert_non_null(p.rgb);
    for (int i = 0; i < width * height * 3; i++) {
        int x = i / 3 % width, y = i / 3 / width, c = i % 3;
        bool inside = x >= width / 4 && x < width / 4 + width / 2 && y >= height / 5 && y < height / 5 + height / 2;
        p.rgb[i] = inside ? (uint8_t)(x * seed + y * 5 + c * 40) : 255;
    }
    return p;
}

/* Computed by numpy and Pillow from the same pictures; the last is the sum of (1 + k % 7) * feature k. The third picture has
 * gradients at exactly 45 degrees: an arctangent that is one bit low, as numpy's own for AVX-512 is, puts them in the bin below. */
static void features_equal_numpy(void **state)
{
    (void)state;
    enum { SHOWN = 10 };
    static const int at[SHOWN] = {0, 77, 200, 301, 500, 511, 512, 555, 640, 703};
    static const struct {
        int seed, width, height;
        float want[SHOWN];
        double sum;
    } cases[] = {
        {3,
         40,
         60,
         {0.08541705f, 0.01163320f, 0.03294573f, 0, 0, 0.05890783f, -0.02901995f, 0.02820247f, -0.06498832f, -0.02547760f},
         39.5783149},
        {7,
         128,
         96,
         {0.07297859f, 0.08557911f, 0, 0, 0, 0.04273053f, -0.03447643f, -0.00608406f, 0.02366029f, -0.05475668f},
         31.1645466},
        {1,
         16,
         20,
         {0.09680434f, 0, 0.02194869f, 0.03073725f, 0, 0.10360336f, -0.07304806f, -0.04317126f, -0.00829116f, 0.00100067f},
         8.7032806},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        oc_picture p = make_picture(cases[c].seed, cases[c].width, cases[c].height);
        float f[EV_FEATURES];
        double sum = 0;
        oc_err err = {0};
        assert_int_equal(ev_neighbour_features(&p, f, &err), 0);
        for (int i = 0; i < SHOWN; i++)
            assert_near(f[at[i]], cases[c].want[i], 1e-6);
        for (int k = 0; k < EV_FEATURES; k++)
            sum += (double)f[k] * (1 + k % 7);
        assert_near(sum, cases[c].sum, 1e-4);
        oc_picture_clear(&p);
    }
}

static void margins_change_nothing(void **state)
{
    (void)state;
    oc_picture p = make_picture(9, 64, 48), wide = make_picture(9, 64, 48);
    float a[EV_FEATURES], b[EV_FEATURES], sum = 0;
    oc_err err = {0};
    /* The same ink two rows lower: rows move down, what comes in is white. */
    memmove(wide.rgb + 2 * 64 * 3, wide.rgb, 46 * 64 * 3);
    memset(wide.rgb, 248, 2 * 64 * 3); /* nearly white is no ink */
    assert_int_equal(ev_neighbour_features(&p, a, &err), 0);
    assert_int_equal(ev_neighbour_features(&wide, b, &err), 0);
    assert_memory_equal(a, b, sizeof a);
    memset(p.rgb, 255, 64 * 48 * 3); /* nothing to cut to, no gradient but the border's */
    assert_int_equal(ev_neighbour_features(&p, a, &err), 0);
    for (int i = 0; i < EV_FEATURES; i++)
        sum += a[i] * a[i];
    assert_near(sum, 1, 1e-5);
    oc_picture_clear(&p);
    oc_picture_clear(&wide);
}

static ev_neighbour neighbour_of(const char *train_tsv, const char *data_tsv, heard *h)
{
    dt_pairs train = pairs_of("tsv", train_tsv), data = pairs_of("tsv", data_tsv);
    oc_options options = {.threads = 2};
    ev_talk talk = {hear_progress, hear_refused, h, 0, 0};
    ev_neighbour n;
    oc_err err = {0};
    if (ev_neighbour_run(&train, &data, "text", &options, &n, &talk, &err))
        fail_msg("%s", err.text);
    assert_int_equal(talk.failed, h->refused);
    dt_pairs_clear(&train);
    dt_pairs_clear(&data);
    return n;
}

static void pictures_are_called_what_they_look_like(void **state)
{
    (void)state;
    heard h = {0};
    const char *train = "@photo.jpg\tphoto\n@tall.png\ttall\n@square.png\tsquare\n@gray.jpg\tgray\n";
    ev_neighbour n = neighbour_of(train, "@tall.png\ttall\n@photo.jpg\tphoto\n@square.png\tsquare\n", &h);
    assert_near(n.top1, 1, 0);
    assert_int_equal(n.names, 4);
    assert_int_equal(n.pictures, 3);
    assert_int_equal(n.train, 4);
    assert_near(n.chance_top1, 0.25, 0);
    assert_int_equal(h.refused, 0);
    n = neighbour_of(train, "@tall.png\tphoto\n@photo.jpg\tphoto\n@none.png\tphoto\n@square.png\tunheard of\n", &h);
    assert_near(n.top1, 1 / 3.0, 1e-12);
    assert_near(n.top5, 2 / 3.0, 1e-12); /* four names, all of them among the first five */
    assert_int_equal(h.refused, 1);
    assert_non_null(strstr(h.last, "none.png"));
}

static void equal_neighbours_keep_their_order(void **state)
{
    (void)state;
    heard h = {0};
    const char *train = "@photo.jpg\tfirst\n@photo.jpg\tfirst\n@photo.jpg\tsecond\n@photo.jpg\tthird\n"
                        "@photo.jpg\tfourth\n@photo.jpg\tfifth\n@photo.jpg\tsixth\n";
    ev_neighbour n = neighbour_of(train, "@photo.jpg\tfirst\n@photo.jpg\tsecond\n@photo.jpg\tfifth\n@photo.jpg\tsixth\n", &h);
    assert_near(n.top1, 0.25, 0);
    assert_near(n.top5, 0.75, 0); /* a name that comes twice takes one place; the sixth name is one too many */
}

static void only_the_nearest_are_looked_at(void **state)
{
    (void)state;
    char train[4096] = "";
    heard h = {0};
    for (int i = 0; i < EV_NEAREST; i++)
        strcat(train, "@photo.jpg\tmany\n");
    strcat(train, "@photo.jpg\tlate\n");
    ev_neighbour n = neighbour_of(train, "@photo.jpg\tmany\n@photo.jpg\tlate\n", &h);
    assert_near(n.top1, 0.5, 0);
    assert_near(n.top5, 0.5, 0);
}

static void neighbour_needs_texts(void **state)
{
    (void)state;
    dt_pairs train = pairs_of("jsonl", "{\"image\": \"@photo.jpg\", \"text_zh\": \"照片\"}\n"),
             data = pairs_of("tsv", "@photo.jpg\tphoto\n");
    oc_options options = {.threads = 1};
    ev_neighbour n;
    oc_err err = {0};
    assert_int_equal(ev_neighbour_run(&train, &data, "text", &options, &n, NULL, &err), -1);
    assert_says(&err, "no picture has a text in 'text'");
    dt_pairs_clear(&data);
    data = pairs_of("tsv", "@none.png\tphoto\n");
    memset(&err, 0, sizeof err);
    assert_int_equal(ev_neighbour_run(&data, &data, "text", &options, &n, NULL, &err), -1);
    assert_says(&err, "no picture could be read");
    dt_pairs_clear(&train);
    dt_pairs_clear(&data);
}

/* ---- captions ----------------------------------------------------------------------------------------------------- */

static void assert_words(const char *text, const char *want)
{
    bs_buf b = {0};
    oc_err err = {0};
    assert_int_equal(ev_caption_tokens(&b, text, &err), 0);
    if (strcmp(b.p, want) != 0)
        fail_msg("'%s' becomes '%s', expected '%s'", text, b.p, want);
    bs_buf_clear(&b);
}

/* tools/make_caption_cases.py wrote the lines: a text, a tab, its words by Stanford's tokenizer. */
static void words_are_those_of_the_treebank(void **state)
{
    (void)state;
    bs_buf b = {0};
    oc_err err = {0};
    int lines = 0;
    assert_int_equal(bs_read_file(&b, CAPTIONS "tokens.txt", 1 << 20, &err), 0);
    for (char *line = b.p, *end; (end = strchr(line, '\n')) != NULL; line = end + 1, lines++) {
        char *tab = strchr(line, '\t');
        *end = 0;
        assert_non_null(tab);
        *tab = 0;
        assert_words(line, tab + 1);
    }
    assert_int_equal(lines, 20);
    bs_buf_clear(&b);
}

static void every_chinese_character_is_a_word(void **state)
{
    (void)state;
    assert_words("一只猫，坐在垫子上。", "一 只 猫 坐 在 垫 子 上");
    assert_words("穿T恤的人有2只狗！（图）", "穿 t 恤 的 人 有 2 只 狗 图");
    assert_words("ネコ と 犬", "ネ コ と 犬");
    assert_words("고양이 한 마리.", "고양이 한 마리");
}

static void odd_captions_have_words_too(void **state)
{
    (void)state;
    assert_words("", "");
    assert_words(" \t\n", "");
    assert_words("...", "");
    assert_words("'", "");
    assert_words("the letter A.", "the letter a"); /* an initial at the end is no initial */
    assert_words("a\xff"
                 "b \xc3",
                 "ab"); /* what is no UTF-8 is left out */
    assert_words("soft\xc2\xadhyphen \xf0\x9f\x90\xb1 cat", "softhyphen cat");
    bs_buf b = {0};
    oc_err err = {0};
    assert_int_equal(ev_caption_tokens(&b, "A cat", &err) || ev_caption_tokens(&b, "A dog", &err), 0);
    assert_string_equal(b.p, "a cata dog"); /* appended as it is */
    bs_buf_clear(&b);
}

/* The made-up captions of CAPTIONS cases.jsonl. */
typedef struct made_up {
    ev_captioned c[512];
    double want[512];
    char *own[512 * 8];
    const char *reference[512 * 8];
    long n, texts;
} made_up;

static char *keep(made_up *all, const ck_config *place, const char *key)
{
    const char *text = NULL;
    oc_err err = {0};
    assert_int_equal(ck_string(place, key, &text, &err), 0);
    assert_non_null(text);
    return all->own[all->texts++] = bs_strdup(text);
}

static int read_case(void *arg, const ck_config *object, long number, oc_err *err)
{
    made_up *all = arg;
    const ck_config *list = NULL;
    ev_captioned *c = &all->c[all->n];
    assert_int_equal(number, all->n + 1);
    assert_int_equal(ck_array(object, "references", &list, err), 0);
    assert_int_equal(ck_double(object, "cider_d", &all->want[all->n], 0, 10, err), 0);
    c->said = keep(all, object, "said");
    c->references = all->reference + all->texts;
    c->n = (long)ck_config_size(list);
    for (long i = 0; i < c->n; i++)
        c->references[i] = keep(all, ck_config_at(list, (size_t)i), NULL);
    all->n++;
    return 0;
}

static void scores_equal_cocos(void **state)
{
    (void)state;
    static made_up all;
    ev_caption_scores got;
    double each[512], want = -1;
    oc_err err = {0};
    const ck_config *bleu = NULL;
    assert_int_equal(ev_json_lines(CAPTIONS "cases.jsonl", read_case, &all, &err), 0);
    assert_int_equal(all.n, 400);
    assert_int_equal(ev_caption_score_words(all.c, all.n, &got, each, &err), 0);
    for (long i = 0; i < all.n; i++)
        assert_near(each[i], all.want[i], 1e-9);
    ck_config *totals = ck_config_read(CAPTIONS "scores.json", &err);
    assert_non_null(totals);
    assert_int_equal(ck_double(totals, "cider_d", &want, 0, 10, &err) || ck_array(totals, "bleu", &bleu, &err), 0);
    assert_near(got.cider_d, want, 1e-9);
    for (size_t k = 0; k < EV_GRAMS; k++) {
        assert_int_equal(ck_double(ck_config_at(bleu, k), NULL, &want, 0, 1, &err), 0);
        assert_near(got.bleu[k], want, 1e-9);
    }
    assert_int_equal(got.pictures, 400);
    assert_int_equal(got.references, all.texts - 400);
    ck_config_free(totals);
    for (long i = 0; i < all.texts; i++)
        free(all.own[i]);
}

static void scores_by_hand(void **state)
{
    (void)state;
    const char *cat[] = {"A cat sits on a mat."}, *dog[] = {"Two dogs run.", "dogs running fast"};
    ev_captioned c[] = {{"a cat sits on a mat", cat, 1}, {"Dogs run", dog, 2}};
    ev_caption_scores s;
    oc_err err = {0};
    assert_int_equal(ev_caption_score(c, 2, &s, &err), 0);
    assert_near(s.bleu[0], exp(1 - 9 / 8.0), 1e-6); /* all 8 words are right; the nearest references have 9 */
    assert_near(s.bleu[3], exp(1 - 9 / 8.0), 1e-6); /* so are all 3 runs of four */
    /* The first is its reference: 10. Of the second, `dogs` and `run` are rare (one picture each): log 2 each, against (two, dogs, run) and
     * (dogs, running, fast); of the pairs `dogs run` is in the first one alone. One word less than the references have. */
    double first = (sqrt(2 / 3.0) + sqrt(1 / 2.0)) / 4, second = (1 / sqrt(6.0)) / 4;
    assert_near(s.cider_d, (10 + 10 * exp(-1 / 72.0) * (first + second) / 2) / 2, 1e-9);
    assert_int_equal(ev_caption_score(c, 1, &s, &err), 0);
    assert_near(s.bleu[3], 1, 1e-6);
    assert_near(s.cider_d, 0, 0); /* of one picture alone no word is rare */
    assert_int_equal(s.references, 1);
    const char *two[] = {"a b c d", "a b"};
    ev_captioned between = {"a b c", two, 2}; /* as far from either: the shorter one counts, and there is no penalty */
    assert_int_equal(ev_caption_score(&between, 1, &s, &err), 0);
    assert_near(s.bleu[0], 1, 1e-6);
}

static int say_names(void *arg, const char *const *paths, int n, char **texts, oc_err *err)
{
    heard *h = arg;
    (void)err;
    for (int i = 0; i < n; i++, h->done++)
        if (!strstr(paths[i], "none"))
            texts[i] = bs_strdup(strrchr(paths[i], '/') + 1);
    return 0;
}

static void captions_of_a_callback(void **state)
{
    (void)state;
    dt_pairs pairs = pairs_of("jsonl", "{\"image\": \"@b\", \"text\": [\"b one\", \"b two\"], \"text_zh\": \"乙\"}\n"
                                       "{\"image\": \"@a\", \"text_zh\": \"甲\"}\n{\"image\": \"@none\", \"text\": \"gone\"}\n"
                                       "{\"image\": \"@a\", \"text\": \"a one\"}\n{\"image\": \"@b\", \"text\": \"b three\"}\n");
    ev_pictures p;
    heard h = {0};
    ev_caption_scores s;
    oc_err err = {0};
    assert_int_equal(ev_pictures_init(&p, &pairs, dt_language(&pairs, "text"), &err), 0);
    assert_int_equal(p.n, 3); /* b, none, a: each once, in the order of the data */
    assert_non_null(strstr(p.asked[0].image, "/b"));
    assert_non_null(strstr(p.asked[2].image, "/a"));
    assert_int_equal(p.captioned[0].n, 3);
    assert_string_equal(p.captioned[0].references[2], "b three");
    assert_string_equal(p.captioned[2].references[0], "a one");
    assert_int_equal(ev_pictures_score(&p, &s, &err), -1);
    assert_says(&err, "no caption to judge");
    assert_int_equal(ev_pictures_say(&p, say_names, &h, 2, NULL, &err), 0);
    assert_int_equal(h.done, 3);
    assert_null(p.asked[1].said);
    assert_int_equal(ev_pictures_score(&p, &s, &err), 0);
    assert_int_equal(s.pictures, 2);
    assert_int_equal(s.references, 4);
    assert_near(s.bleu[0], exp(1 - 4 / 2.0), 1e-6);
    ev_pictures_clear(&p);
    dt_pairs_clear(&pairs);
}

static void the_nearest_picture_lends_its_text(void **state)
{
    (void)state;
    dt_pairs train = pairs_of("tsv", "@photo.jpg\tphoto\n@none.png\tnone\n@tall.png\ttall\n@photo.jpg\tagain\n");
    const char *paths[] = {IMAGES "tall.png", "/nowhere/x.png", IMAGES "photo.jpg"};
    opened o = open_model(2);
    ev_plain_eyes plain;
    oc_options options = {.threads = 2};
    oc_err err = {0};
    assert_int_equal(ev_plain_eyes_open(&plain, &options, &err), 0);
    ev_eyes eyes[] = {ev_eyes_of(&plain), ev_session_eyes(o.session)};
    for (int i = 0; i < 2; i++) {
        heard h = {0};
        ev_talk talk = {hear_progress, hear_refused, &h, 0, 0};
        ev_gallery g;
        char *texts[3] = {NULL};
        assert_int_equal(ev_gallery_init(&g, &eyes[i], &train, "text", &talk, &err), 0);
        assert_int_equal(g.n, 3);
        assert_int_equal(talk.failed, 1);
        assert_int_equal(ev_gallery_say(&g, paths, 3, texts, &err), 0);
        assert_string_equal(texts[0], "tall");
        assert_null(texts[1]);
        assert_string_equal(texts[2], "photo"); /* the first of equal ones */
        assert_int_equal(talk.failed, 2);
        assert_non_null(strstr(h.last, "/nowhere/x.png"));
        free(texts[0]);
        free(texts[2]);
        ev_gallery_clear(&g);
    }
    ev_plain_eyes_close(&plain);
    close_model(&o);
    dt_pairs_clear(&train);
}

/* ---- predictions ---------------------------------------------------------------------------------------------------- */

/* Writes text to a new file. */
static const char *file_of(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/ocelli-eval-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (long)strlen(text));
    close(fd);
    return path;
}

/* Reads predictions of data/x.png, data/sub/y.png and data/x.png twice more; what they say, or the error, goes to `said` and err. */
static int predict(const char *text, bool questions, char said[4][64], long *unknown, oc_err *err)
{
    const char *ask = questions ? "what?" : NULL, *path = file_of(text);
    ev_asked asked[4] = {{"data/x.png", ask, NULL}, {"data/sub/y.png", ask, NULL}};
    asked[2] = asked[3] = (ev_asked){"data/x.png", questions ? "who?" : NULL, NULL};
    memset(err, 0, sizeof *err);
    int result = ev_predictions_read(asked, 4, path, "data/pairs.jsonl", unknown, err);
    for (int i = 0; i < 4; i++) {
        snprintf(said[i], sizeof said[i], "%s", asked[i].said ? asked[i].said : "");
        free(asked[i].said);
    }
    unlink(path);
    return result;
}

static void predictions_find_their_pictures(void **state)
{
    (void)state;
    char said[4][64];
    long unknown;
    oc_err err;
    assert_int_equal(
        predict("{\"image\": \"./data//x.png\", \"text\": \"by path\"}\n\n{\"image\": \"sub/y.png\", \"text\": \"\"}\n"
                "{\"image\": \"z.png\", \"text\": \"?\"}\n{\"image\": \"x.png\", \"text\": \"by path\", \"ids\": [1]}",
                false, said, &unknown, &err),
        0);
    assert_string_equal(said[0], "by path");
    assert_string_equal(said[1], "");
    assert_string_equal(said[2], "by path");
    assert_string_equal(said[3], "by path");
    assert_int_equal(unknown, 1);
    assert_int_equal(predict("{\"image\": \"x.png\", \"question\": \"who?\", \"text\": \"she\"}\n"
                             "{\"image\": \"x.png\", \"question\": \"what?\", \"text\": \"it\"}\n"
                             "{\"image\": \"x.png\", \"question\": \"when?\", \"text\": \"now\"}\n"
                             "{\"image\": \"data/sub/y.png\", \"question\": \"what?\", \"text\": \"y\"}\n",
                             true, said, &unknown, &err),
                     0);
    assert_string_equal(said[0], "it");
    assert_string_equal(said[1], "y");
    assert_string_equal(said[2], "she");
    assert_string_equal(said[3], "she");
    assert_int_equal(unknown, 1);
}

static void bad_predictions_are_named(void **state)
{
    (void)state;
    static const struct {
        bool questions;
        const char *text, *says;
    } bad[] = {
        {false, "", "no text for 'data/x.png' (4 of 4 are missing)"},
        {false, "{\"image\": \"x.png\", \"text\": \"a\"}\n", "no text for 'data/sub/y.png' (1 of 4 are missing)"},
        {false, "{\"image\": \"x.png\", \"text\": \"a\"}\n{\"image\": \"data/x.png\", \"text\": \"b\"}\n",
         "line 2: 'data/x.png' had another text before"},
        {false, "{\"image\": \"x.png\"}\n", "line 1': text is missing, expected a string"},
        {false, "\n{\"text\": \"x\"}\n", "line 2': image is missing, expected a path"},
        {false, "{\"image\": \"x.png\", \"text\": 5}\n", "line 1': text is 5, expected a string"},
        {false, "[1]\n", "line 1': expected a JSON object"},
        {false, "cat\n", "line 1"},
        {true, "{\"image\": \"x.png\", \"text\": \"x\"}\n", "line 1': question is missing, expected a string"},
        {true, "{\"image\": \"x.png\", \"question\": \"what?\", \"text\": \"x\"}\n",
         "no answer to 'what?' about 'data/sub/y.png' (3 of 4 are missing)"},
    };
    char said[4][64];
    oc_err err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(predict(bad[i].text, bad[i].questions, said, NULL, &err), -1);
        assert_says(&err, bad[i].says);
    }
}

/* ---- answers ---------------------------------------------------------------------------------------------------------- */

/* The rules of visualqa.org, and the slips of the official program that change an answer. */
static void answers_in_plain_form(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"Yes", "yes"},
        {"  two\tred\ndogs ", "2 red dogs"},
        {"The cat and a dog", "cat and dog"},
        {"an apple", "apple"},
        {"a", ""},
        {"none", "0"},
        {"Ten", "10"},
        {"eleven", "eleven"},
        {"yes.", "yes"},
        {"2.5", "2.5"},
        {"3. 5", "3 5"},
        {".5", ".5"},
        {"u.s.a.", "usa"},
        {"..................................x", "..x"}, /* 34 stops, of which 32 go */
        {"1,000", "1000"},
        {"1,000 red/blue", "1000 redblue"}, /* a comma in a number makes every sign go */
        {"red,blue", "red blue"},
        {"red, blue", "red blue"},
        {"red , blue,green", "red bluegreen"}, /* a space beside one comma makes all commas go */
        {"t-shirt", "t shirt"},
        {"t- shirt", "t shirt"},
        {"black/white", "black white"},
        {"yes!", "yes"},
        {"what?!", "what"},
        {"(left) [x] {y} <z>", "left x y z"},
        {"a=b+c", "b c"}, /* "a b c", of which the article goes */
        {"x_y\\z@w`v\"u;t", "x y z w v u t"},
        {"10:30", "10:30"},
        {"girl's", "girl's"},
        {"dont", "don't"},
        {"DONT know", "don't know"},
        {"couldntve", "couldntve"}, /* two are missing: not in the list */
        {"couldn'tve", "couldn't've"},
        {"couldnt've", "couldn't've"},
        {"Im", "im"}, /* its list has "Im", its words are in lower case */
        {"isnt it", "isn't it"},
        {"oclock", "o'clock"},
        {"twas", "'twas"},
        {"'ow'sat", "'ow's'at"},
        {"yall'll", "y'all'll"},
        {"somebody'd", "somebodyd"},
        {"its", "its"},
        {"wed", "wed"},
        {"shes", "shes"},
        {"let's", "let's"},
        {"ÄPFEL", "äpfel"},
        {"红色。", "红色。"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bs_buf b = {0};
        oc_err err = {0};
        assert_int_equal(ev_vqa_plain(&b, cases[i][0], &err), 0);
        if (strcmp(b.p, cases[i][1]) != 0)
            fail_msg("'%s' becomes '%s', expected '%s'", cases[i][0], b.p, cases[i][1]);
        bs_buf_clear(&b);
    }
}

/* k of n answers are "yes", the others "no". */
static double accuracy_of(const char *said, int k, int n)
{
    const char *answers[16];
    double accuracy = -1;
    oc_err err = {0};
    for (int i = 0; i < n; i++)
        answers[i] = i < k ? "yes" : "no";
    assert_int_equal(ev_vqa_accuracy(said, answers, n, &accuracy, &err), 0);
    return accuracy;
}

static void answers_have_their_share(void **state)
{
    (void)state;
    static const double want[] = {0, 0.3, 0.6, 0.9, 1}; /* the known figures for ten people */
    for (int k = 0; k <= 9; k++)
        assert_near(accuracy_of("Yes.", k, 10), k > 4 ? 1 : want[k], 1e-12);
    assert_near(accuracy_of("yes", 10, 10), 1, 0);
    assert_near(accuracy_of("Yes.", 10, 10), 0, 0); /* all ten agree: nothing is put into plain form, officially */
    assert_near(accuracy_of(" yes\n", 10, 10), 1, 0);
    assert_near(accuracy_of("yes", 2, 3), (0 + 2 * (1 / 3.0) + 1 * (2 / 3.0)) / 3, 1e-12);
    assert_near(accuracy_of("maybe", 2, 3), 0, 0);
    assert_near(accuracy_of("yes", 1, 2), 1 / 6.0, 1e-12);
}

static void questions_of_a_file(void **state)
{
    (void)state;
    ev_questions q;
    double accuracy;
    oc_err err = {0};
    const char *path =
        file_of("{\"image\": \"x.png\", \"question\": \"how many?\", \"answers\": [\"2\", \"two\", \"Two.\", \"3\"]}\n"
                "{\"image\": \"x.png\", \"question\": \"who?\", \"answers\": [\"man\", \"a man\"]}\n");
    assert_int_equal(ev_questions_read(&q, path, &err), 0);
    assert_int_equal(q.n, 2);
    assert_string_equal(q.asked[0].image, "/tmp/x.png");
    assert_int_equal(q.answers[0].n, 4);
    q.asked[0].said = bs_strdup("two");
    q.asked[1].said = bs_strdup("woman");
    assert_int_equal(ev_questions_score(&q, &accuracy, &err), 0);
    assert_near(accuracy, (3 * (2 / 3.0) + 1) / 4 / 2, 1e-12);
    ev_questions_clear(&q);
    unlink(path);
}

static void bad_questions_are_named(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "holds no question"},
        {"{\"image\": \"x\", \"question\": \"q\"}", "line 1': answers is missing, expected a list of strings"},
        {"{\"question\": \"q\", \"answers\": [\"a\", \"b\"]}", "line 1': image is missing"},
        {"{\"image\": \"x\", \"answers\": [\"a\", \"b\"]}", "line 1': question is missing"},
        {"{\"image\": \"x\", \"question\": \"q\", \"answers\": [\"a\"]}", "line 1': answers is "},
        {"{\"image\": \"x\", \"question\": \"q\", \"answers\": []}", "expected from 2 to 1000 answers"},
        {"{\"image\": \"x\", \"question\": \"q\", \"answers\": \"a\"}", "line 1': answers is \"a\", expected"},
        {"{\"image\": \"x\", \"question\": \"q\", \"answers\": [\"a\", 5]}", "line 1': answers[1] is 5, expected a string"},
        {"{\"image\": \"x\", \"question\": \"q\", \"answers\": [\"a\", null]}", "line 1': answers[1] is null, expected a string"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ev_questions q;
        oc_err err = {0};
        const char *path = file_of(bad[i][0]);
        assert_int_equal(ev_questions_read(&q, path, &err), -1);
        assert_says(&err, bad[i][1]);
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_of_a_known_matrix),
        cmocka_unit_test(the_best_of_several_right_ones_counts),
        cmocka_unit_test(equal_scores_give_chance),
        cmocka_unit_test(medians),
        cmocka_unit_test(chances),
        cmocka_unit_test(best_equals_a_full_sort),
        cmocka_unit_test(every_template_has_the_same_say),
        cmocka_unit_test(numbers_for_texts),
        cmocka_unit_test(templates_are_filled),
        cmocka_unit_test(template_sets_have_places),
        cmocka_unit_test(retrieval_of_known_rows),
        cmocka_unit_test(ranks_in_pieces_equal_the_whole),
        cmocka_unit_test(classes_are_groups_called_by_their_first_text),
        cmocka_unit_test(a_broken_picture_leaves_the_others),
        cmocka_unit_test(class_vectors_average_templates),
        cmocka_unit_test(texts_that_are_cut_are_counted),
        cmocka_unit_test(zeroshot_counts_what_can_be_judged),
        cmocka_unit_test(retrieval_reads_pairs),
        cmocka_unit_test(features_equal_numpy),
        cmocka_unit_test(margins_change_nothing),
        cmocka_unit_test(pictures_are_called_what_they_look_like),
        cmocka_unit_test(equal_neighbours_keep_their_order),
        cmocka_unit_test(only_the_nearest_are_looked_at),
        cmocka_unit_test(neighbour_needs_texts),
        cmocka_unit_test(words_are_those_of_the_treebank),
        cmocka_unit_test(every_chinese_character_is_a_word),
        cmocka_unit_test(odd_captions_have_words_too),
        cmocka_unit_test(scores_equal_cocos),
        cmocka_unit_test(scores_by_hand),
        cmocka_unit_test(captions_of_a_callback),
        cmocka_unit_test(the_nearest_picture_lends_its_text),
        cmocka_unit_test(predictions_find_their_pictures),
        cmocka_unit_test(bad_predictions_are_named),
        cmocka_unit_test(answers_in_plain_form),
        cmocka_unit_test(answers_have_their_share),
        cmocka_unit_test(questions_of_a_file),
        cmocka_unit_test(bad_questions_are_named),
    };
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
