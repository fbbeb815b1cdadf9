/* update.c - makes a database say what its folder holds now: compare, forget, encode batch by batch. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "library.h"

typedef enum kind { SAME, ADDED, CHANGED, REENCODED } kind;

/* One picture to encode. */
typedef struct task {
    const ix_file *file;
    kind kind;
} task;

typedef struct update {
    ix_library *l;
    oc_session *s;
    const ix_options *o;
    ix_report *r;
    ix_scan scan;
    task *todo;
    long todo_n;
    int64_t *gone; /* ids of rows whose file is no more */
    long gone_n;
    int64_t model; /* id of this model's row */
} update;

/* ---- what is to be done ---------------------------------------------------------------------------------------------- */

/* Columns: id, path, size, mtime_ns, model, error IS NOT NULL. */
static kind compare(update *u, const ix_file *f, sqlite3_stmt *row)
{
    if (sqlite3_column_int64(row, 2) != f->size || sqlite3_column_int64(row, 3) != f->mtime_ns)
        return CHANGED;
    if (sqlite3_column_int(row, 5)) {
        u->r->failed_before += !u->o->retry;
        return u->o->retry ? CHANGED : SAME;
    }
    return sqlite3_column_int64(row, 4) == u->model ? SAME : REENCODED;
}

/* Rows and files both come sorted by bytes, so one walk along both finds what is new, changed and gone. */
static int walk_rows(update *u, sqlite3_stmt *row, oc_err *err)
{
    long i = 0;
    int step = sqlite3_step(row);
    while (i < u->scan.n || step == SQLITE_ROW) {
        const char *known = step == SQLITE_ROW ? (const char *)sqlite3_column_text(row, 1) : NULL;
        if (step == SQLITE_ROW && !known)
            return bs_err(err, "cannot use the database '%s': a picture without a path", u->l->path);
        int order = !known ? -1 : i == u->scan.n ? 1 : strcmp(u->scan.files[i].path, known);
        if (order > 0 && !ix_scan_blind(&u->scan, known))
            u->gone[u->gone_n++] = sqlite3_column_int64(row, 0);
        kind k = order < 0 ? ADDED : order ? SAME : compare(u, &u->scan.files[i], row);
        if (k != SAME)
            u->todo[u->todo_n++] = (task){&u->scan.files[i], k};
        i += order <= 0;
        if (order >= 0)
            step = sqlite3_step(row);
    }
    return step == SQLITE_DONE ? 0 : ix_db_err(u->l, err);
}

static int plan(update *u, oc_err *err)
{
    int64_t rows;
    if (ix_db_number(u->l, "SELECT count(*) FROM picture", &rows, 0, err))
        return -1;
    u->todo = bs_calloc((size_t)u->scan.n + 1, sizeof *u->todo, "the list of pictures", err);
    u->gone = bs_calloc((size_t)rows + 1, sizeof *u->gone, "the list of pictures", err);
    if (!u->todo || !u->gone)
        return -1;
    sqlite3_stmt *row =
        ix_db_prepare(u->l, "SELECT id, path, size, mtime_ns, model, error IS NOT NULL FROM picture ORDER BY path", err);
    int result = row ? walk_rows(u, row, err) : -1;
    sqlite3_finalize(row);
    return result;
}

static int forget_gone(update *u, oc_err *err)
{
    if (!u->gone_n)
        return 0;
    sqlite3_stmt *s = ix_db_prepare(u->l, "DELETE FROM picture WHERE id = ?", err);
    int result = s ? ix_db_run(u->l, "BEGIN IMMEDIATE", err) : -1;
    for (long i = 0; !result && i < u->gone_n; i++) {
        sqlite3_bind_int64(s, 1, u->gone[i]);
        result = ix_db_do(u->l, s, err);
    }
    sqlite3_finalize(s);
    if (result || ix_db_run(u->l, "COMMIT", err))
        return -1;
    u->r->removed = u->gone_n;
    return 0;
}

/* ---- the model's row --------------------------------------------------------------------------------------------------- */

static int know_model(update *u, oc_err *err)
{
    char id[IX_ID];
    const oc_engine *e = u->s->engine;
    if (ix_model_id(e, id, err))
        return -1;
    sqlite3_stmt *put = ix_db_prepare(u->l,
                                      "INSERT INTO model(fingerprint, name, width) VALUES(?1, ?2, ?3)"
                                      " ON CONFLICT(fingerprint) DO UPDATE SET name = ?2 RETURNING id, width",
                                      err);
    if (!put)
        return -1;
    sqlite3_bind_text(put, 1, id, -1, SQLITE_STATIC);
    sqlite3_bind_text(put, 2, e->model->folder, -1, SQLITE_STATIC);
    sqlite3_bind_int(put, 3, oc_embedding_width(e));
    int result = -1;
    if (sqlite3_step(put) != SQLITE_ROW)
        ix_db_err(u->l, err);
    else if (sqlite3_column_int(put, 1) != oc_embedding_width(e))
        bs_err(err, "cannot use the database '%s': its row of the model '%s' has another width", u->l->path, e->model->folder);
    else {
        u->model = sqlite3_column_int64(put, 0);
        result = sqlite3_step(put) == SQLITE_DONE ? 0 : ix_db_err(u->l, err);
    }
    sqlite3_finalize(put);
    return result;
}

/* ---- one batch ----------------------------------------------------------------------------------------------------------- */

typedef struct batch {
    update *u;
    const task *task;
    int n;
    char **paths;   /* [max_batch] */
    float *rows;    /* [max_batch, width] */
    oc_err *errors; /* one a picture; "" when it was read */
    bool *unread;   /* the file itself could not be read, which no change of it will show */
} batch;

/* `vector` NULL: what the error says. */
static int store(batch *b, sqlite3_stmt *put, int i, const float *vector, oc_err *err)
{
    update *u = b->u;
    const ix_file *f = b->task[i].file;
    sqlite3_bind_text(put, 1, f->path, -1, SQLITE_STATIC);
    sqlite3_bind_int64(put, 2, f->size);
    sqlite3_bind_int64(put, 3, b->unread[i] ? -1 : f->mtime_ns); /* no file's time: tried again at the next run */
    if (vector) {
        sqlite3_bind_int64(put, 4, u->model);
        sqlite3_bind_blob(put, 5, vector, oc_embedding_width(u->s->engine) * (int)sizeof *vector, SQLITE_STATIC);
        sqlite3_bind_null(put, 6);
        u->r->added += b->task[i].kind == ADDED;
        u->r->changed += b->task[i].kind != ADDED;
        u->r->reencoded += b->task[i].kind == REENCODED;
    } else {
        sqlite3_bind_null(put, 4);
        sqlite3_bind_null(put, 5);
        sqlite3_bind_text(put, 6, b->errors[i].text, -1, SQLITE_STATIC);
        u->r->failed++;
        if (u->o->talk.trouble)
            u->o->talk.trouble(u->o->talk.arg, b->errors[i].text);
    }
    return ix_db_do(u->l, put, err);
}

static int store_all(batch *b, oc_err *err)
{
    sqlite3_stmt *put =
        ix_db_prepare(b->u->l,
                      "INSERT INTO picture(path, size, mtime_ns, model, vector, error) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
                      " ON CONFLICT(path) DO UPDATE SET size = ?2, mtime_ns = ?3, model = ?4, vector = ?5, error = ?6",
                      err);
    int width = oc_embedding_width(b->u->s->engine), result = put ? ix_db_run(b->u->l, "BEGIN IMMEDIATE", err) : -1;
    for (int i = 0; !result && i < b->n; i++)
        result = store(b, put, i, b->errors[i].text[0] ? NULL : b->rows + (long)i * width, err);
    sqlite3_finalize(put);
    return result || ix_db_run(b->u->l, "COMMIT", err) ? -1 : 0;
}

static int encode_batch(batch *b, oc_err *err)
{
    int result = 0;
    for (int i = 0; !result && i < b->n; i++)
        if (!(b->paths[i] = bs_join(b->u->l->root, b->task[i].file->path)))
            result = bs_err(err, "out of memory: a file's name");
    if (!result)
        result =
            rn_embed_files(b->u->s, (const char *const *)b->paths, b->n, b->rows, b->errors, b->unread, err) || store_all(b, err);
    for (int i = 0; i < b->n; i++)
        free(b->paths[i]);
    memset(b->paths, 0, (size_t)b->n * sizeof *b->paths);
    return result;
}

static int encode_todo(update *u, oc_err *err)
{
    int max = u->s->engine->options.max_batch, result = -1;
    batch b = {.u = u};
    b.rows = bs_calloc((size_t)max * (size_t)oc_embedding_width(u->s->engine), sizeof *b.rows, "a batch of vectors", err);
    b.paths = bs_calloc((size_t)max, sizeof *b.paths, "a batch of pictures", err);
    b.errors = bs_calloc((size_t)max, sizeof *b.errors, "a batch of pictures", err);
    b.unread = bs_calloc((size_t)max, sizeof *b.unread, "a batch of pictures", err);
    if (!b.rows || !b.paths || !b.errors || !b.unread)
        goto done;
    for (long i = 0; i < u->todo_n && !u->r->stopped; i += b.n) {
        b.task = u->todo + i;
        b.n = u->todo_n - i < max ? (int)(u->todo_n - i) : max;
        if (encode_batch(&b, err))
            goto done;
        if (u->o->talk.progress)
            u->o->talk.progress(u->o->talk.arg, i + b.n, u->todo_n);
        u->r->stopped = bs_stop_asked() && i + b.n < u->todo_n;
    }
    result = 0;
done:
    bs_free(b.rows);
    bs_free(b.paths);
    bs_free(b.errors);
    bs_free(b.unread);
    return result;
}

/* ---- all --------------------------------------------------------------------------------------------------------------------- */

static void __attribute__((format(printf, 2, 3))) tell(const update *u, const char *format, ...)
{
    oc_err line = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(line.text, sizeof line.text, format, args);
    va_end(args);
    if (u->o->talk.word)
        u->o->talk.word(u->o->talk.arg, line.text);
}

static void tell_plan(const update *u)
{
    long again = 0;
    for (long i = 0; i < u->todo_n; i++)
        again += u->todo[i].kind == REENCODED;
    if (again)
        tell(u, "the database has vectors of another model: all its pictures are encoded again (%ld)", again);
    if (u->r->failed_before)
        tell(u, "pictures left alone because they failed before and have not changed: %ld (--retry tries them)",
             u->r->failed_before);
    if (u->r->unsupported)
        tell(u, "pictures left out because Ocelli reads only JPEG, PNG and WebP: %ld", u->r->unsupported);
}

static int update_all(update *u, oc_err *err)
{
    if (ix_scan_folder(&u->scan, u->l->root, &u->o->talk, err))
        return -1;
    u->r->troubles = u->scan.troubles;
    u->r->unsupported = u->scan.unsupported;
    if (know_model(u, err) || plan(u, err))
        return -1;
    tell_plan(u);
    if (forget_gone(u, err) || encode_todo(u, err))
        return -1;
    return ix_db_run(u->l, "DELETE FROM model WHERE id NOT IN (SELECT model FROM picture WHERE model IS NOT NULL)", err);
}

int ix_update(ix_library *l, oc_session *s, const ix_options *o, ix_report *report, oc_err *err)
{
    update u = {.l = l, .s = s, .o = o, .r = report};
    *report = (ix_report){0};
    if (!(md_can(s->engine->model) & MD_EMBEDS_IMAGES))
        return bs_err(err, "the model '%s' (%s) does not embed pictures", s->engine->model->folder, oc_family(s->engine));
    int result = update_all(&u, err);
    if (result)
        sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL); /* fine when nothing is open */
    ix_scan_clear(&u.scan);
    bs_free(u.todo);
    bs_free(u.gone);
    return result;
}
