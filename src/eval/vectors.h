/* vectors.h - rows of embeddings for lists of any length: pictures, texts, classes; and the scores between them. */
#ifndef EV_VECTORS_H
#define EV_VECTORS_H

#include "../data/pairs.h"
#include "../run/engine.h"

/* How long work tells about itself; any pointer may be NULL. The counters grow and are never reset here. */
typedef struct ev_talk {
    void (*progress)(void *arg, const char *what, long done, long all);
    void (*refused)(void *arg, const char *why); /* one picture that is left out, and the reason with its path */
    void *arg;
    long failed; /* pictures that were left out */
    long cut;    /* texts longer than the model's context */
} ev_talk;

/* rows [n, width of the embedding], each of length 1. Pictures are read by the session's threads, one batch at a time.
 * What cannot be read has ok[i] false, a row of zeros, and is told; it is no failure of the whole. */
int ev_embed_pictures(oc_session *s, const char *const *paths, long n, float *rows, bool *ok, ev_talk *talk, oc_err *err);
/* The pictures of pairs, in their order. */
int ev_embed_pairs(oc_session *s, const dt_pairs *pairs, float *rows, bool *ok, ev_talk *talk, oc_err *err);
int ev_embed_texts(oc_session *s, const char *const *texts, long n, float *rows, ev_talk *talk, oc_err *err);

/* One row for each name: the name is put into every template, see ev_mean_direction. templates >= 1. */
int ev_class_vectors(oc_session *s, const char *const *names, long n, const char *const *templates, int count, float *rows,
                     ev_talk *talk, oc_err *err);

/* scores [m, n] = a [m, width] times b [n, width] transposed: cosines, when the rows are of length 1. */
void ev_scores(kn_work *work, const float *a, long m, const float *b, long n, long width, float *scores);
/* ev_ranks of the scores of a against b, some rows at a time, so that the whole matrix is never in memory. */
int ev_rank_vectors(kn_work *work, const float *a, long m, const float *b, long n, long width, const long *a_keys,
                    const long *b_keys, int keys, long *rank, long *right, oc_err *err);

#endif
