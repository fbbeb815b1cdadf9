/* test_index.c - a folder in a database: what is encoded again and what is not, what survives, what search answers. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "index/index.h"

static const char MODEL[] = "tests/reference/clip/model", OTHER[] = "tests/reference/clip_gelu/model";

/* A folder of its own for each test, with a database in it and lines of trouble counted. */
typedef struct place {
    char dir[64], db[96];
    oc_engine *engine;
    oc_session *session;
    ix_options options;
    ix_report report;
    int troubles, words;
    long kill_after; /* pictures; 0: never */
    oc_err err;
} place;

/* ---- helpers ------------------------------------------------------------------------------------------------- */

static void on_trouble(void *arg, const char *line)
{
    place *p = arg;
    p->troubles++;
    assert_null(strchr(line, '\n'));
}

static void on_word(void *arg, const char *line)
{
    place *p = arg;
    p->words++;
    assert_null(strchr(line, '\n'));
}

static void on_progress(void *arg, long done, long all)
{
    place *p = arg;
    assert_true(done <= all);
    if (p->kill_after && done >= p->kill_after)
        raise(SIGKILL);
}

static void open_model(place *p, const char *model, int batch)
{
    oc_session_close(p->session);
    oc_engine_close(p->engine);
    oc_options o = {.threads = 2, .max_batch = batch};
    p->engine = oc_engine_open(model, &o, &p->err);
    p->session = p->engine ? oc_session_open(p->engine, &p->err) : NULL;
    assert_string_equal(p->err.text, "");
}

/* The model is opened by each test where it is needed: threads do not live on in a forked child. */
static int set_up(void **state)
{
    place *p = calloc(1, sizeof *p);
    strcpy(p->dir, "/tmp/ocelli-index-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->db, sizeof p->db, "%s/" IX_DEFAULT_NAME, p->dir);
    p->options.talk = (ix_talk){on_trouble, on_word, on_progress, p};
    *state = p;
    return 0;
}

static int run_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int run_shell(const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command);
}

/* Root may read and write everything, so nobody (65534) takes over what lies in the place, until tear_down. */
static void become_nobody(const place *p)
{
    if (geteuid() != 0)
        return;
    assert_int_equal(run_shell("chown -R 65534 '%s'", p->dir), 0);
    assert_int_equal(seteuid(65534), 0);
}

static int tear_down(void **state)
{
    place *p = *state;
    if (getuid() == 0 && seteuid(0))
        return -1;
    oc_session_close(p->session);
    oc_engine_close(p->engine);
    run_shell("chmod -R u+rwx '%s'; rm -rf '%s'", p->dir, p->dir);
    free(p);
    return 0;
}

/* Copies a picture of tests/data/images to NAME in the folder. */
static void put(const place *p, const char *picture, const char *name)
{
    char from[128], to[256];
    bs_buf b = {0};
    oc_err err = {0};
    snprintf(from, sizeof from, "tests/data/images/%s", picture);
    snprintf(to, sizeof to, "%s/%s", p->dir, name);
    assert_int_equal(bs_read_file(&b, from, 0, &err), 0);
    assert_int_equal(bs_write_file(to, b.p, b.n, &err), 0);
    bs_buf_clear(&b);
}

static void put_many(const place *p, int n)
{
    static const char *const pictures[] = {"rgb.jpg", "rgb8.png", "lossy.webp", "gray8.png", "alpha.webp"};
    for (int i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "p%03d%s", i, strrchr(pictures[i % 5], '.'));
        put(p, pictures[i % 5], name);
    }
}

static void write_text(const place *p, const char *name, const char *text)
{
    char to[256];
    snprintf(to, sizeof to, "%s/%s", p->dir, name);
    assert_int_equal(bs_write_file(to, text, strlen(text), NULL), 0);
}

static int update(place *p)
{
    p->err = (oc_err){0};
    p->troubles = p->words = 0;
    ix_library *l = ix_open(p->db, p->dir, &p->err);
    int result = l ? ix_update(l, p->session, &p->options, &p->report, &p->err) : -1;
    ix_close(l);
    return result;
}

static void assert_report(place *p, long added, long changed, long removed, long failed)
{
    assert_int_equal(update(p), 0);
    assert_int_equal(p->report.added, added);
    assert_int_equal(p->report.changed, changed);
    assert_int_equal(p->report.removed, removed);
    assert_int_equal(p->report.failed, failed);
}

static void query_text(const place *p, const char *sql, char text[256])
{
    sqlite3 *db;
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_open(p->db, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    const char *value = (const char *)sqlite3_column_text(s, 0);
    snprintf(text, 256, "%s", value ? value : "NULL");
    sqlite3_finalize(s);
    sqlite3_close(db);
}

static long query(const place *p, const char *sql)
{
    char text[256];
    query_text(p, sql, text);
    return atol(text);
}

static void change(const place *p, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(p->db, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* ---- what is encoded ---------------------------------------------------------------------------------------------- */

static void only_what_changed_is_encoded(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    put_many(p, 10);
    assert_report(p, 10, 0, 0, 0);
    assert_report(p, 0, 0, 0, 0);
    put(p, "exif6.jpg", "p003.png"); /* the format is in the bytes, not in the name */
    put(p, "rgba8.png", "new.png");
    run_shell("rm '%s/p007.webp'", p->dir);
    assert_report(p, 1, 1, 1, 0);
    assert_report(p, 0, 0, 0, 0);
    assert_int_equal(query(p, "SELECT count(*) FROM picture WHERE vector IS NOT NULL AND error IS NULL"), 10);
    run_shell("touch -d '2001-02-03 04:05:06.000000007' '%s/new.png'", p->dir); /* the same bytes at another time */
    assert_report(p, 0, 1, 0, 0);
    assert_int_equal(query(p, "SELECT mtime_ns % 1000 FROM picture WHERE path = 'new.png'"), 7);
}

static void a_vector_is_that_of_embed(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 8);
    put(p, "rgb8.png", "a.png");
    write_text(p, "b.png", "no picture"); /* a hole in the batch */
    put(p, "yuv444.jpg", "c.jpg");
    assert_report(p, 2, 0, 0, 1);
    int width = oc_embedding_width(p->engine);
    oc_picture picture;
    float *row = malloc((size_t)width * sizeof *row);
    assert_int_equal(oc_picture_read(&picture, "tests/data/images/yuv444.jpg", NULL), 0);
    assert_int_equal(oc_embed_pictures(p->session, &picture, 1, row, &p->err), 0);
    sqlite3 *db;
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_open(p->db, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT vector FROM picture WHERE path = 'c.jpg'", -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    assert_int_equal(sqlite3_column_bytes(s, 0), width * (int)sizeof *row);
    assert_memory_equal(sqlite3_column_blob(s, 0), row, (size_t)width * sizeof *row);
    sqlite3_finalize(s);
    sqlite3_close(db);
    oc_picture_clear(&picture);
    free(row);
}

static void a_failure_is_remembered_until_the_file_changes(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    put_many(p, 3);
    write_text(p, "broken.jpg", "this is no JPEG");
    write_text(p, "empty.png", "");
    assert_report(p, 3, 0, 0, 2);
    assert_int_equal(p->troubles, 2);
    char text[256];
    query_text(p, "SELECT error FROM picture WHERE path = 'broken.jpg'", text);
    assert_non_null(strstr(text, "broken.jpg"));
    assert_report(p, 0, 0, 0, 0);
    assert_int_equal(p->report.failed_before, 2);
    assert_int_equal(p->troubles, 0);
    put(p, "rgb.jpg", "broken.jpg");
    assert_report(p, 0, 1, 0, 0);
    p->options.retry = true;
    assert_report(p, 0, 0, 0, 1);
    write_text(p, "p000.jpg", "no longer a picture");
    assert_report(p, 0, 0, 0, 2);
    assert_int_equal(query(p, "SELECT vector IS NULL FROM picture WHERE path = 'p000.jpg'"), 1);
}

static void another_model_encodes_all_again(void **state)
{
    place *p = *state;
    put_many(p, 7);
    write_text(p, "broken.png", "?");
    open_model(p, MODEL, 4);
    assert_report(p, 7, 0, 0, 1);
    char first[IX_ID], second[IX_ID], name[256];
    assert_int_equal(ix_model_id(p->engine, first, &p->err), 0);
    open_model(p, OTHER, 4);
    assert_int_equal(ix_model_id(p->engine, second, &p->err), 0);
    assert_string_not_equal(first, second);
    ix_library *l = ix_open(p->db, NULL, &p->err);
    ix_counts counts;
    assert_int_equal(ix_vectors_of(l, second, &counts, name, &p->err), 0);
    assert_int_equal(counts.pictures, 0);
    assert_int_equal(counts.others, 7);
    assert_non_null(strstr(name, MODEL));
    ix_close(l);
    assert_report(p, 0, 7, 0, 0);
    assert_int_equal(p->report.reencoded, 7);
    assert_true(p->words >= 1);
    assert_int_equal(query(p, "SELECT count(*) FROM model"), 1);
    assert_report(p, 0, 0, 0, 0);
}

/* ---- folders -------------------------------------------------------------------------------------------------------- */

static void links_and_odd_names_end_well(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    run_shell("mkdir -p '%s/a/b' '%s/.hidden'", p->dir, p->dir);
    put(p, "rgb.jpg", "a/b/UPPER.JPEG");
    put(p, "rgb.jpg", "a/b/\xff\xfe.jpg");
    put(p, "rgb.jpg", "a/quote ' \" \\ %s ?#.jpg");
    put(p, "rgb.jpg", ".hidden/x.jpg");
    put(p, "rgb.jpg", "a/photo.heic");
    run_shell("cd '%s' && ln -s .. a/b/up && ln -s a second && ln -s self self && ln -s nowhere lost.png && mkfifo pipe.png",
              p->dir);
    assert_report(p, 3, 0, 0, 0);
    assert_int_equal(p->report.troubles, 3);
    assert_int_equal(p->troubles, 3);
    assert_int_equal(p->report.unsupported, 1);
    assert_int_equal(query(p, "SELECT count(*) FROM picture WHERE path LIKE 'a/%'"), 3);
    assert_report(p, 0, 0, 0, 0);
}

static void what_cannot_be_read_is_not_forgotten(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    run_shell("mkdir '%s/shut'", p->dir);
    put(p, "rgb.jpg", "shut/a.jpg");
    put(p, "rgb.jpg", "open.jpg");
    assert_report(p, 2, 0, 0, 0);
    run_shell("chmod 0 '%s/shut'", p->dir);
    become_nobody(p);
    assert_report(p, 0, 0, 0, 0);
    assert_int_equal(p->report.troubles, 1);
    assert_int_equal(query(p, "SELECT count(*) FROM picture"), 2);
}

static void an_unreadable_file_is_tried_again(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    put(p, "rgb.jpg", "a.jpg");
    run_shell("chmod 0 '%s/a.jpg'", p->dir);
    become_nobody(p);
    assert_report(p, 0, 0, 0, 1);
    run_shell("chmod 644 '%s/a.jpg'", p->dir);
    assert_report(p, 0, 1, 0, 0);
}

/* ---- faults --------------------------------------------------------------------------------------------------------- */

/* A child that indexes and is killed: after so many pictures, or after so many microseconds. */
static void index_and_kill(place *p, long after, useconds_t wait)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        p->kill_after = after;
        open_model(p, MODEL, 4);
        _exit(update(p) ? 3 : 0);
    }
    if (wait) {
        usleep(wait);
        kill(child, SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
}

static void killed_at_any_moment_it_goes_on(void **state)
{
    place *p = *state;
    char text[256];
    put_many(p, 40);
    index_and_kill(p, 8, 0);
    query_text(p, "PRAGMA integrity_check", text);
    assert_string_equal(text, "ok");
    assert_int_equal(query(p, "SELECT count(*) FROM picture"), 8);
    for (useconds_t wait = 500; wait < 60000; wait = wait * 3 / 2)
        index_and_kill(p, 0, wait);
    long done = query(p, "SELECT count(*) FROM picture");
    query_text(p, "PRAGMA integrity_check", text);
    assert_string_equal(text, "ok");
    open_model(p, MODEL, 4);
    assert_report(p, 40 - done, 0, 0, 0);
    assert_int_equal(query(p, "SELECT count(*) FROM picture WHERE vector IS NOT NULL"), 40);
}

static void what_is_no_index_is_refused(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    put_many(p, 2);
    char text[4096];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    write_text(p, IX_DEFAULT_NAME, text);
    assert_int_equal(update(p), -1);
    assert_non_null(strstr(p->err.text, p->db));
    run_shell("rm '%s'", p->db);
    change(p, "CREATE TABLE other(x); PRAGMA user_version = 9");
    assert_int_equal(update(p), -1);
    assert_non_null(strstr(p->err.text, "not an index"));
    char mode[256];
    query_text(p, "PRAGMA journal_mode", mode); /* and it was not touched */
    assert_string_equal(mode, "delete");
    run_shell("rm '%s'", p->db);
    assert_report(p, 2, 0, 0, 0);
    change(p, "PRAGMA user_version = 99");
    assert_int_equal(update(p), -1);
    assert_non_null(strstr(p->err.text, "version 99"));
    p->err = (oc_err){0};
    assert_null(ix_open(p->db, NULL, &p->err));
    assert_non_null(strstr(p->err.text, "version 99"));
}

/* Every page of a database overwritten in turn: an error or an answer, never a crash (the sanitizers listen). */
static void a_damaged_database_is_an_error(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 16);
    put_many(p, 40);
    assert_report(p, 40, 0, 0, 0);
    bs_buf whole = {0};
    assert_int_equal(bs_read_file(&whole, p->db, 0, NULL), 0);
    char id[IX_ID];
    assert_int_equal(ix_model_id(p->engine, id, &p->err), 0);
    float *q = calloc((size_t)oc_embedding_width(p->engine), sizeof *q);
    int refused = 0;
    q[0] = 1;
    for (size_t at = 0; at + 64 <= whole.n; at += 1024) {
        char keep[64];
        memcpy(keep, whole.p + at, sizeof keep);
        memset(whole.p + at, 0xff, sizeof keep);
        assert_int_equal(bs_write_file(p->db, whole.p, whole.n, NULL), 0);
        memcpy(whole.p + at, keep, sizeof keep);
        ix_hits hits = {0};
        oc_err err = {0};
        ix_library *l = ix_open(p->db, NULL, &err);
        int result = l ? ix_search(l, p->session, id, q, 1, 5, &hits, &err) : -1;
        assert_true(result == 0 || err.text[0]);
        refused += result != 0;
        ix_hits_clear(&hits);
        ix_close(l);
        update(p);
    }
    assert_true(refused > 0);
    bs_buf_clear(&whole);
    free(q);
}

static void another_folder_is_refused(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    put_many(p, 2);
    run_shell("mkdir '%s/sub'", p->dir);
    assert_report(p, 2, 0, 0, 0);
    char sub[96];
    snprintf(sub, sizeof sub, "%s/sub", p->dir);
    assert_null(ix_open(p->db, sub, &p->err));
    assert_non_null(strstr(p->err.text, "--db"));
    assert_int_equal(query(p, "SELECT count(*) FROM picture"), 2);
}

static void a_database_without_a_place_is_one_line(void **state)
{
    place *p = *state;
    assert_null(ix_open("/proc/nowhere/x.db", p->dir, &p->err));
    assert_non_null(strstr(p->err.text, "/proc/nowhere/x.db"));
    p->err = (oc_err){0};
    assert_null(ix_open(p->db, NULL, &p->err));
    assert_non_null(strstr(p->err.text, "no database"));
}

static void a_moved_folder_is_found_upwards(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    run_shell("mkdir -p '%s/old/deep/er'", p->dir);
    snprintf(p->db, sizeof p->db, "%s/old/" IX_DEFAULT_NAME, p->dir);
    char old[96], new[96], deep[128];
    snprintf(old, sizeof old, "%s/old", p->dir);
    snprintf(new, sizeof new, "%s/new", p->dir);
    put(p, "rgb.jpg", "old/deep/a.jpg");
    ix_library *l = ix_open(p->db, old, &p->err);
    assert_int_equal(ix_update(l, p->session, &p->options, &p->report, &p->err), 0);
    ix_close(l);
    assert_int_equal(rename(old, new), 0);
    snprintf(deep, sizeof deep, "%s/deep/er", new);
    char *found = ix_find(deep, &p->err);
    assert_non_null(found);
    l = ix_open(found, NULL, &p->err);
    assert_non_null(l);
    assert_string_equal(ix_root(l), new);
    ix_close(l);
    free(found);
}

/* ---- search ----------------------------------------------------------------------------------------------------------- */

/* n rows with known vectors: cosines of the first axis that repeat, so that ties are many. */
static void make_vectors(place *p, int n, int width, const char *id)
{
    ix_close(ix_open(p->db, p->dir, &p->err));
    assert_string_equal(p->err.text, "");
    sqlite3 *db;
    sqlite3_stmt *s;
    char sql[256];
    snprintf(sql, sizeof sql, "BEGIN; INSERT INTO model VALUES(1, '%s', 'made', %d)", id, width);
    assert_int_equal(sqlite3_open(p->db, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "INSERT INTO picture(path, size, mtime_ns, model, vector) VALUES(?, 1, 1, 1, ?)", -1, &s, NULL),
        SQLITE_OK);
    float *v = calloc((size_t)width, sizeof *v);
    for (int i = 0; i < n; i++) {
        char path[32];
        int mixed = (int)((unsigned)i * 7919u % (unsigned)n);
        snprintf(path, sizeof path, "%06d.png", mixed);
        v[0] = (float)(mixed / 3) / (float)n; /* three paths a score */
        v[1] = sqrtf(1 - v[0] * v[0]);
        sqlite3_bind_text(s, 1, path, -1, SQLITE_STATIC);
        sqlite3_bind_blob(s, 2, v, width * (int)sizeof *v, SQLITE_STATIC);
        assert_int_equal(sqlite3_step(s), SQLITE_DONE);
        sqlite3_reset(s);
    }
    free(v);
    sqlite3_finalize(s);
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void the_best_come_first_and_ties_by_path(void **state)
{
    place *p = *state;
    enum { N = 3001 }; /* a prime, over several blocks */
    open_model(p, MODEL, 4);
    int width = oc_embedding_width(p->engine), tops[] = {1, 2, 10, 1000, N, N + 5};
    char id[IX_ID];
    assert_int_equal(ix_model_id(p->engine, id, &p->err), 0);
    make_vectors(p, N, width, id);
    float *q = calloc((size_t)(2 * width), sizeof *q);
    q[0] = 1;      /* the largest numbers first */
    q[width] = -1; /* the smallest */
    ix_library *l = ix_open(p->db, NULL, &p->err);
    for (size_t t = 0; t < sizeof tops / sizeof tops[0]; t++) {
        ix_hits hits[2];
        assert_int_equal(ix_search(l, p->session, id, q, 2, tops[t], hits, &p->err), 0);
        int n = tops[t] < N ? tops[t] : N;
        for (int k = 0; k < 2; k++) {
            assert_int_equal(hits[k].n, n);
            for (int i = 0; i < n; i++) {
                int group = k ? i / 3 : i == 0 ? (N - 1) / 3 : (N - 1) / 3 - 1 - (i - 1) / 3; /* the last group has one path */
                int place_in_group = k ? i % 3 : i == 0 ? 0 : (i - 1) % 3;
                assert_int_equal(atoi(hits[k].p[i].path), group * 3 + place_in_group);
                assert_true(fabsf(hits[k].p[i].score - (k ? -1.f : 1.f) * (float)group / N) < 1e-6f);
            }
            ix_hits_clear(&hits[k]);
        }
    }
    ix_close(l);
    free(q);
}

static void deviations_are_counted_from_all_pictures(void **state)
{
    place *p = *state;
    enum { N = 3000 };
    open_model(p, MODEL, 4);
    int width = oc_embedding_width(p->engine);
    char id[IX_ID];
    assert_int_equal(ix_model_id(p->engine, id, &p->err), 0);
    make_vectors(p, N, width, id);
    float *q = calloc((size_t)width, sizeof *q);
    q[0] = 1;
    ix_library *l = ix_open(p->db, NULL, &p->err);
    ix_hits hits;
    assert_int_equal(ix_search(l, p->session, id, q, 1, 1, &hits, &p->err), 0);
    double g = N / 3, mean = (g - 1) / 2, deviation = sqrt((g * g - 1) / 12); /* of 0 .. g-1 */
    assert_true(fabs((double)hits.p[0].deviations - (g - 1 - mean) / deviation) < 1e-3);
    ix_hits_clear(&hits);
    ix_close(l);
    free(q);
}

static void a_wrong_vector_is_named(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    int width = oc_embedding_width(p->engine);
    char id[IX_ID];
    assert_int_equal(ix_model_id(p->engine, id, &p->err), 0);
    make_vectors(p, 30, width, id);
    float *q = calloc((size_t)width, sizeof *q);
    ix_hits hits;
    q[0] = 1;
    change(p, "UPDATE picture SET vector = x'00' WHERE path = '000007.png'");
    ix_library *l = ix_open(p->db, NULL, &p->err);
    assert_int_equal(ix_search(l, p->session, id, q, 1, 3, &hits, &p->err), -1);
    assert_non_null(strstr(p->err.text, "000007.png"));
    ix_close(l);
    p->err = (oc_err){0};
    change(
        p,
        "UPDATE picture SET vector = (SELECT zeroblob(length(vector) - 4) || x'0000c07f' FROM picture WHERE path = '000001.png')"
        " WHERE path = '000007.png'");
    change(p, "UPDATE picture SET vector = CAST(vector AS BLOB)");
    l = ix_open(p->db, NULL, &p->err);
    assert_int_equal(ix_search(l, p->session, id, q, 1, 3, &hits, &p->err), -1);
    assert_non_null(strstr(p->err.text, "000007.png"));
    ix_close(l);
    free(q);
}

static void a_picture_finds_itself_on_a_read_only_disk(void **state)
{
    place *p = *state;
    open_model(p, MODEL, 4);
    put(p, "yuv420.jpg", "a.jpg");
    put(p, "lossy.webp", "b.webp");
    put(p, "gray8.png", "c.png");
    assert_report(p, 3, 0, 0, 0);
    run_shell("chmod 444 '%s'; chmod 555 '%s'", p->db, p->dir);
    become_nobody(p);
    assert_int_equal(update(p), -1);
    assert_non_null(strstr(p->err.text, p->db));
    p->err = (oc_err){0};
    char id[IX_ID];
    assert_int_equal(ix_model_id(p->engine, id, &p->err), 0);
    oc_picture picture;
    float *row = calloc((size_t)oc_embedding_width(p->engine), sizeof *row);
    assert_int_equal(oc_picture_read(&picture, "tests/data/images/lossy.webp", NULL), 0);
    assert_int_equal(oc_embed_pictures(p->session, &picture, 1, row, &p->err), 0);
    ix_library *l = ix_open(p->db, NULL, &p->err);
    assert_string_equal(p->err.text, "");
    ix_hits hits;
    assert_int_equal(ix_search(l, p->session, id, row, 1, 10, &hits, &p->err), 0);
    assert_int_equal(hits.n, 3);
    assert_string_equal(hits.p[0].path, "b.webp");
    assert_true(hits.p[0].score > 0.9999f);
    ix_hits_clear(&hits);
    ix_close(l);
    assert_int_equal(run_shell("test -z \"$(ls -A '%s' | grep -e -wal -e -shm)\"", p->dir), 0);
    oc_picture_clear(&picture);
    free(row);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(only_what_changed_is_encoded),
        CASE(a_vector_is_that_of_embed),
        CASE(a_failure_is_remembered_until_the_file_changes),
        CASE(another_model_encodes_all_again),
        CASE(links_and_odd_names_end_well),
        CASE(what_cannot_be_read_is_not_forgotten),
        CASE(an_unreadable_file_is_tried_again),
        CASE(killed_at_any_moment_it_goes_on),
        CASE(what_is_no_index_is_refused),
        CASE(a_damaged_database_is_an_error),
        CASE(another_folder_is_refused),
        CASE(a_database_without_a_place_is_one_line),
        CASE(a_moved_folder_is_found_upwards),
        CASE(the_best_come_first_and_ties_by_path),
        CASE(deviations_are_counted_from_all_pictures),
        CASE(a_wrong_vector_is_named),
        CASE(a_picture_finds_itself_on_a_read_only_disk),
    };
    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
