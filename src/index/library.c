/* library.c - the database of an index: found, made, checked, opened. */
#include "library.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { APPLICATION = 0x4f63656c }; /* "Ocel" */

static const char SCHEMA[] =
    "CREATE TABLE library(root TEXT NOT NULL);"
    "CREATE TABLE model(id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, name TEXT NOT NULL, width INTEGER NOT NULL);"
    "CREATE TABLE picture(id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " model INTEGER REFERENCES model(id), vector BLOB, error TEXT, CHECK((vector IS NULL) = (model IS NULL)));"
    "CREATE INDEX picture_model ON picture(model);";

/* ---- statements ------------------------------------------------------------------------------------------------------- */

int ix_db_err(const ix_library *l, oc_err *err)
{
    int code = sqlite3_errcode(l->db), extended = sqlite3_extended_errcode(l->db), system = sqlite3_system_errno(l->db);
    const char *advice = code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? " (remove it and index the folder again)" : "";
    bool known = (code == SQLITE_CANTOPEN || extended == SQLITE_IOERR_WRITE) && system;
    return bs_err(err, "cannot use the database '%s': %s%s%s%s", l->path, sqlite3_errmsg(l->db), known ? ", " : "",
                  known ? strerror(system) : "", advice);
}

int ix_db_run(ix_library *l, const char *sql, oc_err *err)
{
    return sqlite3_exec(l->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : ix_db_err(l, err);
}

sqlite3_stmt *ix_db_prepare(ix_library *l, const char *sql, oc_err *err)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(l->db, sql, -1, &s, NULL) != SQLITE_OK)
        ix_db_err(l, err);
    return s;
}

int ix_db_do(ix_library *l, sqlite3_stmt *s, oc_err *err)
{
    int result = sqlite3_step(s) == SQLITE_DONE ? 0 : ix_db_err(l, err);
    sqlite3_reset(s);
    return result;
}

int ix_db_number(ix_library *l, const char *sql, int64_t *value, int64_t fallback, oc_err *err)
{
    sqlite3_stmt *s = ix_db_prepare(l, sql, err);
    if (!s)
        return -1;
    int step = sqlite3_step(s), result = step == SQLITE_ROW || step == SQLITE_DONE ? 0 : ix_db_err(l, err);
    *value = step == SQLITE_ROW && sqlite3_column_type(s, 0) == SQLITE_INTEGER ? sqlite3_column_int64(s, 0) : fallback;
    sqlite3_finalize(s);
    return result;
}

/* ---- where ------------------------------------------------------------------------------------------------------------- */

/* The absolute folder that a file lies in; free() it. NULL when there is no such folder. */
static char *folder_of(const char *path)
{
    char *copy = bs_strdup(path), *slash = copy ? strrchr(copy, '/') : NULL;
    if (slash)
        slash[slash == copy] = 0;
    char *found = copy ? realpath(slash ? copy : ".", NULL) : NULL;
    free(copy);
    return found;
}

char *ix_find(const char *from, oc_err *err)
{
    char *dir = realpath(from, NULL);
    if (!dir)
        bs_err(err, "cannot look for a database from '%s': %s", from, strerror(errno));
    while (dir) {
        char *path = bs_join(dir, IX_DEFAULT_NAME), *slash = strrchr(dir, '/');
        bool there = path && bs_is_file(path);
        if (there || !dir[1]) {
            free(dir);
            if (there)
                return path;
            dir = NULL;
        } else {
            slash[slash == dir] = 0;
        }
        free(path);
    }
    bs_err(err, "no database '%s' here or in a folder above: make one with `ocelli index DIR`, or name it with --db",
           IX_DEFAULT_NAME);
    return NULL;
}

/* What library(root) says, as an absolute folder. */
static int read_root(ix_library *l, oc_err *err)
{
    sqlite3_stmt *s = ix_db_prepare(l, "SELECT root FROM library", err);
    if (!s)
        return -1;
    const char *root = sqlite3_step(s) == SQLITE_ROW ? (const char *)sqlite3_column_text(s, 0) : NULL;
    if (!root)
        bs_err(err, "cannot use the database '%s': it names no folder (remove it and index the folder again)", l->path);
    l->root = !root ? NULL : root[0] ? bs_strdup(root) : folder_of(l->path);
    sqlite3_finalize(s);
    return l->root ? 0 : bs_err(err, "cannot use the database '%s': its folder cannot be found", l->path);
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

static int make_tables(ix_library *l, const char *folder, oc_err *err)
{
    char sql[96];
    char *own = folder_of(l->path), *real = realpath(folder, NULL);
    int result = -1;
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION, IX_SCHEMA);
    sqlite3_stmt *s = NULL;
    if (!own || !real) {
        bs_err(err, "cannot find the folder '%s': %s", real ? l->path : folder, strerror(errno));
        goto done;
    }
    if (ix_db_run(l, SCHEMA, err) || ix_db_run(l, sql, err))
        goto done;
    s = ix_db_prepare(l, "INSERT INTO library VALUES(?)", err);
    if (!s)
        goto done;
    sqlite3_bind_text(s, 1, strcmp(own, real) ? real : "", -1, SQLITE_STATIC);
    result = ix_db_do(l, s, err);
done:
    sqlite3_finalize(s);
    free(own);
    free(real);
    return result;
}

/* 1: it is ours; 0: it is empty, to be filled; -1: neither. */
static int look_inside(ix_library *l, oc_err *err)
{
    int64_t application, version, tables;
    if (ix_db_number(l, "PRAGMA application_id", &application, 0, err) ||
        ix_db_number(l, "PRAGMA user_version", &version, 0, err) ||
        ix_db_number(l, "SELECT count(*) FROM sqlite_master", &tables, 0, err))
        return -1;
    if (application == APPLICATION && version == IX_SCHEMA)
        return 1;
    if (application == APPLICATION)
        return bs_err(err, "cannot use the database '%s': it has version %lld, this Ocelli knows version %d", l->path,
                      (long long)version, IX_SCHEMA);
    return tables ? bs_err(err, "cannot use the database '%s': it is SQLite, but not an index of Ocelli", l->path) : 0;
}

/* Looked at before it is touched, as it may be somebody else's; and again inside the transaction that makes the tables, as two programs
 * may start at once. */
static int open_for_writing(ix_library *l, const char *folder, oc_err *err)
{
    if (sqlite3_open_v2(l->path, &l->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        return ix_db_err(l, err);
    sqlite3_busy_timeout(l->db, 20000);
    if (look_inside(l, err) < 0)
        return -1;
    if (ix_db_run(l, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; BEGIN IMMEDIATE", err))
        return -1;
    l->writes = true;
    int ours = look_inside(l, err);
    if (ours < 0 || (!ours && make_tables(l, folder, err)) || ix_db_run(l, "COMMIT", err) || read_root(l, err))
        return -1;
    char *real = realpath(folder, NULL);
    bool same = real && !strcmp(real, l->root);
    free(real);
    return same ? 0
                : bs_err(err, "the database '%s' is of the folder '%s', not of '%s': name another with --db", l->path, l->root,
                         folder);
}

/* A file: URI of a path, in which a few bytes mean something else. */
static char *as_uri(const char *path, const char *query)
{
    bs_buf b = {0};
    int bad = bs_buf_printf(&b, NULL, "file:");
    for (const char *c = path; *c && !bad; c++)
        bad = strchr("%?#", *c) ? bs_buf_printf(&b, NULL, "%%%02X", *c) : bs_buf_put(&b, c, 1, NULL);
    if (bad || bs_buf_printf(&b, NULL, "?%s", query))
        bs_buf_clear(&b);
    return b.p;
}

static int open_uri(ix_library *l, const char *query)
{
    int64_t n;
    char *uri = as_uri(l->path, query);
    int code = uri ? sqlite3_open_v2(uri, &l->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL) : SQLITE_NOMEM;
    free(uri);
    if (code != SQLITE_OK)
        return -1;
    sqlite3_busy_timeout(l->db, 20000);
    return ix_db_number(l, "SELECT count(*) FROM sqlite_master", &n, 0, NULL);
}

/* Write-ahead mode wants a file beside the database even for reading. On a read-only disk nobody else writes either, so there the file
 * is read as it stands; not so where a log lies beside it, which would be passed over. */
static int open_for_reading(ix_library *l, oc_err *err)
{
    if (!bs_is_file(l->path))
        return bs_err(err, "no database '%s': make one with `ocelli index DIR`", l->path);
    char wal[PATH_MAX + 8];
    struct stat st;
    snprintf(wal, sizeof wal, "%s-wal", l->path);
    if (open_uri(l, "mode=ro")) {
        int code = sqlite3_errcode(l->db);
        if (!(code == SQLITE_CANTOPEN || code == SQLITE_READONLY) || (!stat(wal, &st) && st.st_size))
            return ix_db_err(l, err);
        sqlite3_close(l->db);
        l->db = NULL;
        if (open_uri(l, "immutable=1"))
            return ix_db_err(l, err);
    }
    int ours = look_inside(l, err);
    if (!ours)
        bs_err(err, "cannot use the database '%s': it is empty", l->path);
    return ours > 0 ? read_root(l, err) : -1;
}

ix_library *ix_open(const char *path, const char *folder, oc_err *err)
{
    ix_library *l = calloc(1, sizeof *l);
    if (l)
        l->path = bs_strdup(path);
    if (!l || !l->path)
        bs_err(err, "out of memory: a database");
    else if (!(folder ? open_for_writing(l, folder, err) : open_for_reading(l, err)))
        return l;
    ix_close(l);
    return NULL;
}

void ix_close(ix_library *l)
{
    if (!l)
        return;
    /* Left in the plain mode the file needs nothing beside it, and a read-only disk can be searched. Refused while others have it open. */
    if (l->writes) {
        sqlite3_busy_timeout(l->db, 0);
        sqlite3_exec(l->db, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL);
    }
    sqlite3_close(l->db);
    free(l->path);
    free(l->root);
    free(l);
}

const char *ix_root(const ix_library *l) { return l->root; }
