/* index.h - a folder of pictures in an SQLite file: what lies there, one vector a picture, and the search over them.
 *
 * The file (application_id "Ocel", user_version IX_SCHEMA) has three tables:
 *   library(root)                     one row: the folder; "" means the folder that the database lies in, so both can move together
 *   model(id, fingerprint, name, width)
 *   picture(path, size, mtime_ns, model, vector, error)
 * A path is relative to the root, in the bytes that the file system uses. A vector is `width` little-endian floats of length 1; a picture
 * that could not be read has an error instead. Work is committed batch by batch in write-ahead mode: whatever stops the program,
 * the file stays whole and the next run goes on from there. */
#ifndef IX_INDEX_H
#define IX_INDEX_H

#include "../run/engine.h"

enum { IX_SCHEMA = 1, IX_ID = 33 };
#define IX_DEFAULT_NAME ".ocelli.db"

/* ---- which model --------------------------------------------------------------------------------------------------- */

/* 32 hexadecimal digits that tell models apart: its configuration and picture processor, name, type and shape of each weight with
 * samples of its values, and the adapter's factors. Reads a few pages a weight, never all of it. */
int ix_model_id(const oc_engine *e, char id[IX_ID], oc_err *err);

/* ---- what lies in a folder ------------------------------------------------------------------------------------------- */

/* How the work below is told to a user; any function may be NULL. */
typedef struct ix_talk {
    void (*trouble)(void *arg, const char *line); /* something could not be done; the rest goes on */
    void (*word)(void *arg, const char *line);    /* good to know */
    void (*progress)(void *arg, long done, long all);
    void *arg;
} ix_talk;

typedef struct ix_file {
    char *path; /* below the folder */
    int64_t size, mtime_ns;
} ix_file;

typedef struct ix_names {
    char **p;
    long n;
} ix_names;

/* Every picture below a folder by its name (.jpg .jpeg .png .webp in any case), sorted by bytes. Names that start with a dot are passed over.
 * Links are followed; each folder is entered once, whatever links lead to it. */
typedef struct ix_scan {
    ix_file *files;
    long n;
    ix_names blind;   /* folders that could not be read: what the database knows of them is kept */
    long troubles;    /* lines that were said */
    long unsupported; /* pictures of kinds that are not decoded (.heic .gif ...) */
} ix_scan;

/* Fails only when the folder itself cannot be read or memory ends. */
int ix_scan_folder(ix_scan *scan, const char *folder, const ix_talk *talk, oc_err *err);
void ix_scan_clear(ix_scan *scan);
/* Does `path` lie in a folder that could not be read? */
bool ix_scan_blind(const ix_scan *scan, const char *path);

/* ---- the database ---------------------------------------------------------------------------------------------------- */

typedef struct ix_library ix_library;

/* `folder` given: opened for writing, made when it is not there; refuses a database of another folder. NULL: for reading only. */
ix_library *ix_open(const char *path, const char *folder, oc_err *err);
void ix_close(ix_library *l);
const char *ix_root(const ix_library *l); /* the folder, absolute */
/* The database of the nearest folder from `from` upwards; free() it. NULL and an error when there is none. */
char *ix_find(const char *from, oc_err *err);

/* ---- bringing it up to date -------------------------------------------------------------------------------------------- */

typedef struct ix_options {
    bool retry; /* pictures that failed before, too, though they have not changed */
    ix_talk talk;
} ix_options;

typedef struct ix_report {
    long added, changed, removed, failed; /* changed: also those encoded again for another model */
    long reencoded;                       /* of `changed`, those whose file is as it was */
    long failed_before;                   /* left alone: they failed in an earlier run and are as they were */
    long troubles;                        /* folders and links that could not be read */
    long unsupported;
    bool stopped; /* Ctrl-C: what was done is kept */
} ix_report;

/* Makes the database say what the folder holds now. Decodes on the session's threads, so many pictures at once as it has. */
int ix_update(ix_library *l, oc_session *s, const ix_options *o, ix_report *report, oc_err *err);

/* ---- search ------------------------------------------------------------------------------------------------------------- */

typedef struct ix_hit {
    char *path;       /* below the root */
    float score;      /* cosine */
    float deviations; /* how many standard deviations above the mean of all pictures */
} ix_hit;

typedef struct ix_hits {
    ix_hit *p; /* best first; equal scores by path */
    int n;
} ix_hits;

typedef struct ix_counts {
    long pictures, others; /* searched; of another model, left out */
} ix_counts;

/* The model's name that the database's vectors came from, for messages; "" when there are none. `same` pictures have this id. */
int ix_vectors_of(ix_library *l, const char id[IX_ID], ix_counts *counts, char name[256], oc_err *err);
/* The exact best `top` of all vectors with this id for each of n queries [n, width]; hits[n], cleared by the caller. */
int ix_search(ix_library *l, oc_session *s, const char id[IX_ID], const float *queries, int n, int top, ix_hits *hits,
              oc_err *err);
void ix_hits_clear(ix_hits *h);

#endif
