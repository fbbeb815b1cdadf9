/* test_base.c - threads, random numbers, buffers, files that appear whole or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base.h"

/* ---- errors --------------------------------------------------------------------------------------------- */

static void the_first_error_stays(void **state)
{
    (void)state;
    oc_err err = {0};
    assert_int_equal(bs_err(&err, "cannot load '%s'", "x"), -1);
    assert_int_equal(bs_err(&err, "later"), -1);
    assert_string_equal(err.text, "cannot load 'x'");
    assert_int_equal(bs_err_prefix(&err, "model %d: ", 7), -1);
    assert_string_equal(err.text, "model 7: cannot load 'x'");
    assert_int_equal(bs_err(NULL, "nobody listens"), -1);
}

static void long_errors_are_cut(void **state)
{
    (void)state;
    char name[4 * sizeof((oc_err *)0)->text];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    oc_err err = {0};
    bs_err(&err, "cannot load '%s'", name);
    assert_true(strlen(err.text) < sizeof err.text);
    bs_err_prefix(&err, "%s", name);
    assert_true(strlen(err.text) < sizeof err.text);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static void sizes_are_checked(void **state)
{
    (void)state;
    size_t n = 0;
    assert_true(bs_mul_size(1 << 20, 1 << 20, &n));
    assert_true(n == (size_t)1 << 40);
    assert_false(bs_mul_size(SIZE_MAX / 2, 3, &n));
    assert_true(bs_add_size(SIZE_MAX - 1, 1, &n));
    assert_false(bs_add_size(SIZE_MAX, 1, &n));
}

static void memory_is_aligned_and_refused(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        void *p = bs_alloc(bytes, "a test", NULL);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        bs_free(p);
    }
    oc_err err = {0};
    assert_null(bs_calloc(SIZE_MAX / 2, 8, "a giant", &err));
    assert_non_null(strstr(err.text, "a giant"));
    oc_err rounding = {0};
    assert_null(bs_alloc(SIZE_MAX - 3, "a giant", &rounding)); /* rounding up must not wrap to something small */
    assert_non_null(strstr(rounding.text, "a giant"));
}

static void zeroed_memory_is_zero(void **state)
{
    (void)state;
    unsigned char *p = bs_calloc(1000, 3, "a test", NULL);
    assert_non_null(p);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(p[i], 0);
    bs_free(p);
}

static void buffers_grow_to_their_maximum(void **state)
{
    (void)state;
    bs_buf b = {.max = 1000};
    oc_err err = {0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(bs_buf_put(&b, "0123456789", 10, &err), 0);
    assert_int_equal(b.n, 1000);
    assert_int_equal(b.p[1000], 0);
    assert_int_equal(bs_buf_put(&b, "x", 1, &err), -1);
    assert_non_null(strstr(err.text, "1000"));
    assert_int_equal(b.n, 1000); /* what was there stays */
    assert_memory_equal(b.p + 990, "0123456789", 10);
    bs_buf_clear(&b);
    assert_int_equal(b.max, 1000);
    assert_int_equal(bs_buf_put(&b, "y", 1, NULL), 0);
    bs_buf_clear(&b);
}

static void buffers_print(void **state)
{
    (void)state;
    bs_buf b = {.max = 20};
    assert_int_equal(bs_buf_printf(&b, NULL, "%s-%d", "ab", 12), 0);
    assert_string_equal(b.p, "ab-12");
    oc_err err = {0};
    assert_int_equal(bs_buf_printf(&b, &err, "%30d", 1), -1);
    assert_string_equal(b.p, "ab-12");
    bs_buf_clear(&b);
}

/* ---- threads ---------------------------------------------------------------------------------------------- */

enum { MOST = 10000 };
typedef struct tally {
    atomic_int hits[MOST];
    atomic_int wrong;
    int threads;
    bs_pool *pool;
} tally;

static void count_items(void *arg, long begin, long end, int worker)
{
    tally *t = arg;
    if (worker < 0 || worker >= t->threads || begin < 0 || begin >= end)
        atomic_fetch_add(&t->wrong, 1);
    for (long i = begin; i < end; i++)
        atomic_fetch_add(&t->hits[i], 1);
}

static void every_item_once(void **state)
{
    (void)state;
    static tally t;
    const long sizes[] = {0, 1, 2, 7, 100, MOST}, grains[] = {0, 1, 3, 64, MOST + 1};
    for (t.threads = 1; t.threads <= 7; t.threads++) {
        bs_pool *pool = bs_pool_open(t.threads, NULL);
        assert_non_null(pool);
        assert_int_equal(bs_pool_threads(pool), t.threads);
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
            for (size_t g = 0; g < sizeof grains / sizeof grains[0]; g++) {
                memset(t.hits, 0, sizeof t.hits);
                bs_pool_for(pool, sizes[s], grains[g], count_items, &t);
                for (long i = 0; i < MOST; i++)
                    assert_int_equal(t.hits[i], i < sizes[s]);
            }
        bs_pool_close(pool);
    }
    assert_int_equal(t.wrong, 0);
}

static void without_a_pool_it_is_serial(void **state)
{
    (void)state;
    static tally t = {.threads = 1};
    bs_pool_for(NULL, 100, 9, count_items, &t);
    for (long i = 0; i < 100; i++)
        assert_int_equal(t.hits[i], 1);
    assert_int_equal(t.wrong, 0);
    assert_int_equal(bs_pool_threads(NULL), 1);
    bs_pool_close(NULL);
}

/* The inner loop runs on the thread that asks, and must name that thread's scratch. */
static _Thread_local int outer_worker = -1;

static void inner(void *arg, long begin, long end, int worker)
{
    tally *t = arg;
    if (worker != outer_worker)
        atomic_fetch_add(&t->wrong, 1);
    for (long i = begin; i < end; i++)
        atomic_fetch_add(&t->hits[i], 1);
}

static void outer(void *arg, long begin, long end, int worker)
{
    tally *t = arg;
    outer_worker = worker;
    for (long i = begin; i < end; i++)
        bs_pool_for(t->pool, 50, 4, inner, t);
}

static void a_nested_loop_runs_serially(void **state)
{
    (void)state;
    static tally t;
    t.threads = 5;
    t.pool = bs_pool_open(t.threads, NULL);
    assert_non_null(t.pool);
    bs_pool_for(t.pool, 200, 1, outer, &t);
    for (long i = 0; i < 50; i++)
        assert_int_equal(t.hits[i], 200);
    assert_int_equal(t.wrong, 0);
    bs_pool_close(t.pool);
}

static void many_short_jobs(void **state)
{
    (void)state;
    static tally t;
    t.threads = 4;
    bs_pool *pool = bs_pool_open(t.threads, NULL);
    for (int i = 0; i < 3000; i++) {
        bs_pool_for(pool, 8, 1, count_items, &t);
        if (i % 1000 == 999)
            usleep(2000); /* long enough that the workers fall asleep */
    }
    for (long i = 0; i < 8; i++)
        assert_int_equal(t.hits[i], 3000);
    bs_pool_close(pool);
}

/* ---- sleep: workers and the caller, each longer awaited than it stays awake ------------------------------------------------- */

enum { NAP = 3000, SHORT_NAP = 300 }; /* microseconds: beyond a pool's patience, and far within */

typedef struct naps {
    int caller, others;   /* how long a piece takes, microseconds */
    _Atomic int elsewhere; /* pieces that others took */
} naps;

static void nap(void *arg, long begin, long end, int worker)
{
    naps *t = arg;
    for (long i = begin; i < end; i++)
        usleep((useconds_t)(worker ? t->others : t->caller));
    if (worker)
        t->elsewhere += (int)(end - begin);
}

/* The caller is done first and sleeps: whoever is last has to wake it. Without, this hangs, and the alarm ends it. */
static void a_caller_that_sleeps_is_woken(void **state)
{
    (void)state;
    bs_pool *pool = bs_pool_open(2, NULL);
    naps t = {SHORT_NAP, NAP, 0};
    alarm(60);
    for (int i = 0; i < 50; i++)
        bs_pool_for(pool, 2, 1, nap, &t);
    alarm(0);
    assert_true(t.elsewhere > 0);
    bs_pool_close(pool);
}

static void workers_that_sleep_are_woken(void **state)
{
    (void)state;
    bs_pool *pool = bs_pool_open(3, NULL);
    naps t = {NAP, NAP, 0};
    for (int i = 0; i < 20; i++) {
        usleep(NAP);
        bs_pool_for(pool, 6, 1, nap, &t);
    }
    assert_true(t.elsewhere > 20); /* awake, they take 80 of the 120; asleep, none */
    bs_pool_close(pool);
}

static void absurd_numbers_of_threads_are_refused(void **state)
{
    (void)state;
    oc_err err = {0};
    assert_null(bs_pool_open(1000000, &err));
    assert_non_null(strstr(err.text, "1000000"));
    bs_pool *pool = bs_pool_open(0, NULL);
    assert_true(bs_pool_threads(pool) >= 1);
    bs_pool_close(pool);
}

/* ---- random numbers --------------------------------------------------------------------------------------- */

/* The first numbers of pcg32_srandom_r(&rng, 42, 54), as the authors' demo program prints them. */
static void the_generator_is_pcg32(void **state)
{
    (void)state;
    static const uint32_t known[] = {0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e};
    bs_rng r;
    bs_rng_seed(&r, 42, 54);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        assert_int_equal(bs_rng_u32(&r), known[i]);
}

static void random_numbers_keep_their_ranges(void **state)
{
    (void)state;
    bs_rng r;
    bs_rng_seed(&r, 1, 2);
    int seen[7] = {0};
    for (int i = 0; i < 7000; i++) {
        uint32_t below = bs_rng_below(&r, 7);
        float unit = bs_rng_float(&r), range = bs_rng_range(&r, -2, 3);
        assert_true(below < 7);
        seen[below]++;
        assert_true(unit >= 0 && unit < 1);
        assert_true(range >= -2 && range <= 3);
        assert_int_equal(bs_rng_below(&r, 1), 0);
    }
    for (int i = 0; i < 7; i++)
        assert_true(seen[i] > 850 && seen[i] < 1150); /* five standard deviations */
}

static void normal_numbers_have_mean_0_and_variance_1(void **state)
{
    (void)state;
    bs_rng r;
    bs_rng_seed(&r, 3, 4);
    double sum = 0, square = 0;
    enum { N = 40000 };
    for (int i = 0; i < N; i++) {
        double x = (double)bs_rng_normal(&r);
        sum += x;
        square += x * x;
    }
    assert_true(sum / N > -0.025 && sum / N < 0.025);
    assert_true(square / N > 0.96 && square / N < 1.04);
}

static void a_copied_generator_goes_on_alike(void **state)
{
    (void)state;
    bs_rng a, other;
    bs_rng_seed(&a, 9, 0);
    bs_rng_seed(&other, 9, 1);
    bs_rng_u32(&a);
    bs_rng b = a;
    int equal = 0;
    for (int i = 0; i < 100; i++) {
        uint32_t x = bs_rng_u32(&a);
        assert_int_equal(x, bs_rng_u32(&b));
        equal += x == bs_rng_u32(&other);
    }
    assert_true(equal < 3); /* streams differ */
}

/* ---- files -------------------------------------------------------------------------------------------------- */

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/ocelli-base-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static char *in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void assert_holds(const char *path, const char *text)
{
    bs_buf b = {0};
    assert_int_equal(bs_read_file(&b, path, 1000, NULL), 0);
    assert_string_equal(b.p, text);
    bs_buf_clear(&b);
}

static void an_output_appears_when_it_is_whole(void **state)
{
    (void)state;
    char path[128];
    strcpy(path, in_folder("out"));
    assert_int_equal(bs_write_file(path, "old", 3, NULL), 0);
    bs_out o;
    assert_int_equal(bs_out_open(&o, path, NULL), 0);
    assert_int_equal(bs_out_write(&o, "new", 3, NULL), 0);
    fflush(o.f);
    assert_holds(path, "old");
    assert_int_equal(bs_out_commit(&o, NULL), 0);
    assert_holds(path, "new");
    bs_out_abort(&o);
    assert_holds(path, "new");
}

/* A link to a device here, never the machine's own name for it. */
static void a_device_stays_a_device(void **state)
{
    (void)state;
    char link[128];
    struct stat st;
    oc_err err = {0};
    snprintf(link, sizeof link, "%s/null", folder);
    assert_int_equal(symlink("/dev/null", link), 0);
    assert_int_equal(bs_write_file(link, "x", 1, &err), 0);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    unlink(link);
}

/* What a killed writer left goes when the same file is written again; what belongs to a living one stays. */
static void orphans_of_a_killed_writer_go(void **state)
{
    (void)state;
    char path[128], dead[160], alive[160];
    oc_err err = {0};
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    snprintf(path, sizeof path, "%s/kept", folder);
    snprintf(dead, sizeof dead, "%s.tmp-%ld", path, (long)child);
    snprintf(alive, sizeof alive, "%s.tmp-%ld", path, (long)getppid());
    assert_int_equal(bs_write_file(dead, "half", 4, &err), 0);
    assert_int_equal(bs_write_file(alive, "half", 4, &err), 0);
    assert_int_equal(bs_write_file(path, "whole", 5, &err), 0);
    assert_int_not_equal(access(dead, F_OK), 0);
    assert_int_equal(access(alive, F_OK), 0);
    unlink(alive);
    unlink(path);
}

static void an_aborted_output_leaves_nothing(void **state)
{
    (void)state;
    char path[128];
    strcpy(path, in_folder("gone"));
    bs_out o;
    assert_int_equal(bs_out_open(&o, path, NULL), 0);
    assert_int_equal(bs_out_write(&o, "half", 4, NULL), 0);
    char tmp[160];
    snprintf(tmp, sizeof tmp, "%s", o.tmp);
    assert_true(bs_is_file(tmp));
    bs_out_abort(&o);
    assert_false(bs_is_file(tmp));
    assert_false(bs_is_file(path));
}

static void unwritable_places_are_named(void **state)
{
    (void)state;
    oc_err err = {0};
    assert_int_equal(bs_write_file("/no/such/folder/x", "a", 1, &err), -1);
    assert_non_null(strstr(err.text, "/no/such/folder/x"));
    err.text[0] = 0;
    assert_int_equal(bs_write_file(folder, "a", 1, &err), -1); /* a folder is in the way */
    assert_non_null(strstr(err.text, folder));
}

static void files_larger_than_allowed_are_refused(void **state)
{
    (void)state;
    char path[128];
    strcpy(path, in_folder("big"));
    assert_int_equal(bs_write_file(path, "0123456789", 10, NULL), 0);
    bs_buf b = {0};
    oc_err err = {0};
    assert_int_equal(bs_read_file(&b, path, 9, &err), -1);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(bs_read_file(&b, path, 10, NULL), 0);
    assert_int_equal(b.n, 10);
    bs_buf_clear(&b);
}

static void maps_hold_the_file(void **state)
{
    (void)state;
    char path[128];
    bs_map m;
    oc_err err = {0};
    strcpy(path, in_folder("map"));
    assert_int_equal(bs_write_file(path, "", 0, NULL), 0);
    assert_int_equal(bs_map_open(&m, path, NULL), 0);
    assert_int_equal(m.n, 0);
    bs_map_close(&m);
    assert_int_equal(bs_write_file(path, "abc", 3, NULL), 0);
    assert_int_equal(bs_map_open(&m, path, NULL), 0);
    assert_int_equal(m.n, 3);
    assert_memory_equal(m.p, "abc", 3);
    bs_map_close(&m);
    assert_int_equal(bs_map_open(&m, folder, &err), -1);
    assert_non_null(strstr(err.text, "regular"));
    err.text[0] = 0;
    assert_int_equal(bs_map_open(&m, in_folder("absent"), &err), -1);
    assert_non_null(strstr(err.text, "absent"));
}

static void folders_are_made_with_their_parents(void **state)
{
    (void)state;
    char path[128];
    strcpy(path, in_folder("a/b/c"));
    assert_int_equal(bs_mkdirs(path, NULL), 0);
    assert_true(bs_is_dir(path));
    assert_int_equal(bs_mkdirs(path, NULL), 0);
    oc_err err = {0};
    strcpy(path, in_folder("file"));
    assert_int_equal(bs_write_file(path, "x", 1, NULL), 0);
    assert_int_equal(bs_mkdirs(path, &err), -1);
    assert_int_equal(bs_mkdirs(in_folder("file/below"), &err), -1);
    assert_true(err.text[0] != 0);
}

static void names_are_joined(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {NULL, "b", "b"}, {"a", "/b", "/b"}, {"", "b", "b"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *got = bs_join(cases[i][0], cases[i][1]);
        assert_string_equal(got, cases[i][2]);
        free(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_error_stays),
        cmocka_unit_test(long_errors_are_cut),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(memory_is_aligned_and_refused),
        cmocka_unit_test(zeroed_memory_is_zero),
        cmocka_unit_test(buffers_grow_to_their_maximum),
        cmocka_unit_test(buffers_print),
        cmocka_unit_test(every_item_once),
        cmocka_unit_test(without_a_pool_it_is_serial),
        cmocka_unit_test(a_caller_that_sleeps_is_woken),
        cmocka_unit_test(workers_that_sleep_are_woken),
        cmocka_unit_test(a_nested_loop_runs_serially),
        cmocka_unit_test(many_short_jobs),
        cmocka_unit_test(absurd_numbers_of_threads_are_refused),
        cmocka_unit_test(the_generator_is_pcg32),
        cmocka_unit_test(random_numbers_keep_their_ranges),
        cmocka_unit_test(normal_numbers_have_mean_0_and_variance_1),
        cmocka_unit_test(a_copied_generator_goes_on_alike),
        cmocka_unit_test(an_output_appears_when_it_is_whole),
        cmocka_unit_test(a_device_stays_a_device),
        cmocka_unit_test(orphans_of_a_killed_writer_go),
        cmocka_unit_test(an_aborted_output_leaves_nothing),
        cmocka_unit_test(unwritable_places_are_named),
        cmocka_unit_test(files_larger_than_allowed_are_refused),
        cmocka_unit_test(maps_hold_the_file),
        cmocka_unit_test(folders_are_made_with_their_parents),
        cmocka_unit_test(names_are_joined),
    };
    return cmocka_run_group_tests_name("base", tests, make_folder, drop_folder);
}
