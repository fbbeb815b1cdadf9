/* zeroshot.h - naming pictures without training: which class's words lie nearest? */
#ifndef EV_ZEROSHOT_H
#define EV_ZEROSHOT_H

#include "vectors.h"

/* The classes of pairs in one language. A group is called what its first pair with a text in that language is called; a pair without a group
 * has its own first text for a name. Equal names are one class: no model could tell them apart. Classes are in the order of their names' bytes. */
typedef struct ev_classes {
    const char **name; /* [n], owned by the pairs */
    long *of;          /* [pairs->n] a pair's class, -1 where nothing names it in this language */
    long n;
} ev_classes;

int ev_classes_init(ev_classes *c, const dt_pairs *pairs, int language, oc_err *err);
void ev_classes_clear(ev_classes *c);

/* Shares of pictures whose class comes first, or among the first five; chance is that of a blind guess at the first. */
typedef struct ev_zeroshot {
    double top1, top5, chance_top1;
    long classes, pictures;
} ev_zeroshot;

/* rows, ok: from ev_embed_pairs. Fails when no picture that could be read has a class in that language. */
int ev_zeroshot_run(oc_session *s, const dt_pairs *pairs, const float *rows, const bool *ok, int language,
                    const char *const *templates, int count, ev_zeroshot *out, ev_talk *talk, oc_err *err);

#endif
