/* base.h - what every folder needs: errors, memory, files, threads, random numbers, talk.
 * Nothing here knows what a model is. */
#ifndef BS_BASE_H
#define BS_BASE_H

#include <stdbool.h>
#include <stdio.h>

#include "ocelli.h"

/* Numbers of checkpoints, of pictures and of the library lie in memory as they do in the file, and `long` counts them. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && sizeof(long) == 8 && sizeof(void *) == 8,
               "Ocelli needs a little-endian 64-bit machine");

/* ---- errors ------------------------------------------------------------------------------------------- */

/* Writes the first error only (a later one never hides the cause) and returns -1. err may be NULL. */
int bs_err(oc_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts words in front of an error that is already there: "cannot load 'x': " + what it said. Returns -1. */
int bs_err_prefix(oc_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- memory ------------------------------------------------------------------------------------------- */

/* Like malloc, but aligned to 64 bytes, and bs_free frees it. NULL and an error that names what when it fails. */
void *bs_alloc(size_t bytes, const char *what, oc_err *err);
void *bs_calloc(size_t count, size_t size, const char *what, oc_err *err);
void bs_free(void *p);
/* Address space of so many bytes, zeroed, 64-byte aligned: memory is taken page by page (large pages where the system has them) when it is first
 * written. NULL and an error as bs_alloc. */
void *bs_reserve(size_t bytes, const char *what, oc_err *err);
void bs_unreserve(void *p, size_t bytes); /* NULL is fine */
/* A copy of a string that free() frees; NULL when memory is short. */
char *bs_strdup(const char *s);

/* Products and sums of sizes that come from files: false when they would overflow. */
bool bs_mul_size(size_t a, size_t b, size_t *out);
bool bs_add_size(size_t a, size_t b, size_t *out);

/* A growing buffer of bytes with a maximum. Zeroed is empty; `max` 0 means 1 GiB. `p` always ends in a 0 byte. */
typedef struct bs_buf {
    char *p;
    size_t n, cap, max;
} bs_buf;
int bs_buf_put(bs_buf *b, const void *bytes, size_t n, oc_err *err);
int bs_buf_reserve(bs_buf *b, size_t n, oc_err *err); /* room for n bytes in all, so that what comes is not copied again */
int bs_buf_printf(bs_buf *b, oc_err *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
void bs_buf_clear(bs_buf *b);

/* A line of a buffer, its end of line a 0 now, and its number from 1; -1 and an error to stop. */
typedef int bs_line(void *arg, char *line, size_t n, long number, oc_err *err);
/* Hands over every line that is not blank. */
int bs_buf_lines(bs_buf *b, bs_line *line, void *arg, oc_err *err);

/* FNV-1a, of n bytes on top of what was hashed before: BS_HASH_START at first. */
static const uint64_t BS_HASH_START = 14695981039346656037u;
uint64_t bs_hash(uint64_t h, const void *p, size_t n);

/* ---- files -------------------------------------------------------------------------------------------- */

/* A file mapped read-only. An empty file has p == NULL and n == 0. */
typedef struct bs_map {
    const uint8_t *p;
    size_t n;
} bs_map;
int bs_map_open(bs_map *m, const char *path, oc_err *err);
void bs_map_close(bs_map *m);
/* Tells the kernel that the mapped bytes [at, at+n) are no longer needed in memory. */
void bs_map_release(const bs_map *m, size_t at, size_t n);

/* Reads a whole file of at most max bytes into b (emptied first). path "-" is standard input. */
int bs_read_file(bs_buf *b, const char *path, size_t max, oc_err *err);

/* An output that appears whole or not at all: written as PATH.tmp-PID, synced, renamed by commit. Of a symbolic link, what it points to is
 * written and the link stays. A device or a pipe is written to directly; then `tmp` is NULL. */
typedef struct bs_out {
    FILE *f;
    char *path, *tmp;
} bs_out;
int bs_out_open(bs_out *o, const char *path, oc_err *err);
int bs_out_write(bs_out *o, const void *bytes, size_t n, oc_err *err);
int bs_out_commit(bs_out *o, oc_err *err);
void bs_out_abort(bs_out *o); /* also right after commit or on a zeroed struct */
int bs_write_file(const char *path, const void *bytes, size_t n, oc_err *err);
/* Makes a folder and its parents; fine when it exists. */
int bs_mkdirs(const char *path, oc_err *err);
/* An output folder for one writer: made where it is missing, and refused (-1) while another process holds it. The system lets go of it when this
 * process ends, however it ends. bs_claim_end removes a folder that was made for nothing; it is fine on a zeroed struct. */
typedef struct bs_claim {
    char *path; /* NULL: nothing is claimed */
    int fd;
    bool made;
} bs_claim;
int bs_claim_folder(bs_claim *c, const char *path, oc_err *err);
void bs_claim_end(bs_claim *c);
bool bs_is_dir(const char *path);
bool bs_is_file(const char *path);
/* "a/b" from "a" and "b" ("b" alone when b is absolute or a is NULL); free() it. */
char *bs_join(const char *a, const char *b);

/* ---- threads ------------------------------------------------------------------------------------------ */

typedef struct bs_pool bs_pool;
/* Work on items [begin, end); worker is 0..threads-1, for scratch memory. */
typedef void bs_work(void *arg, long begin, long end, int worker);

/* threads counts the calling one; 0: one per core that this process may use. Workers sleep when idle. */
bs_pool *bs_pool_open(int threads, oc_err *err);
void bs_pool_close(bs_pool *pool);
int bs_pool_threads(const bs_pool *pool); /* 1 for NULL */
int bs_threads_of(int threads);            /* those of a pool that is opened with this number */
/* Cuts [0, n) into pieces of `grain` items; which worker takes which piece is left to chance, so a work
 * function must write only what belongs to its items. Returns when all are done. pool NULL: serial.
 * One caller at a time; a call from inside a work function runs serially. */
void bs_pool_for(bs_pool *pool, long n, long grain, bs_work *work, void *arg);

/* ---- random numbers ----------------------------------------------------------------------------------- */

/* PCG-XSH-RR 64/32 (O'Neill 2014): small state that a checkpoint stores; the same numbers everywhere. */
typedef struct bs_rng {
    uint64_t state, inc;
} bs_rng;
void bs_rng_seed(bs_rng *r, uint64_t seed, uint64_t stream);
uint32_t bs_rng_u32(bs_rng *r);
uint32_t bs_rng_below(bs_rng *r, uint32_t n); /* 0..n-1, unbiased; n > 0 */
float bs_rng_float(bs_rng *r);                /* [0, 1) in steps of 2^-24 */
float bs_rng_range(bs_rng *r, float lo, float hi);
float bs_rng_normal(bs_rng *r);

/* ---- time and stop ------------------------------------------------------------------------------------ */

double bs_now(void); /* seconds of a clock that never goes back */
/* Ctrl-C (SIGINT, SIGTERM) sets a flag that long loops look at; a second one kills. */
void bs_stop_on_signal(void);
bool bs_stop_asked(void);

#endif
