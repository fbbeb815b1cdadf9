/* library.h - inside src/index only: the open database. */
#ifndef IX_LIBRARY_H
#define IX_LIBRARY_H

#include <sqlite3.h>

#include "index.h"

struct ix_library {
    sqlite3 *db;
    char *path;  /* as given, for errors */
    char *root;  /* absolute */
    bool writes; /* it was opened for writing, and could be */
};

/* "cannot use the database '...': SQLite's reason", with advice where there is some. Returns -1. */
int ix_db_err(const ix_library *l, oc_err *err);
/* Statements without results. */
int ix_db_run(ix_library *l, const char *sql, oc_err *err);
/* One statement; finalize it. NULL and an error. */
sqlite3_stmt *ix_db_prepare(ix_library *l, const char *sql, oc_err *err);
/* Steps a statement that gives no rows, and resets it. */
int ix_db_do(ix_library *l, sqlite3_stmt *s, oc_err *err);
/* The number that a query gives; `fallback` for no row or NULL. -1 on failure, with an error. */
int ix_db_number(ix_library *l, const char *sql, int64_t *value, int64_t fallback, oc_err *err);

#endif
