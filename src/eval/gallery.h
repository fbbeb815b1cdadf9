/* gallery.h - pictures known by vectors, each with a text: what is a new one called, or what would be said of it, going by the nearest? */
#ifndef EV_GALLERY_H
#define EV_GALLERY_H

#include "vectors.h"

/* How files become vectors of length 1: rows [n, width]; errors[i] says why there is none of picture i, "" otherwise. Only what concerns all of them makes
 * it fail. */
typedef int ev_look(void *arg, const char *const *paths, int n, float *rows, oc_err *errors, oc_err *err);

typedef struct ev_eyes {
    ev_look *look;
    void *arg;
    long width;
    int batch; /* pictures to look at together */
    kn_work *work;
} ev_eyes;

/* Those of a model that embeds pictures. */
ev_eyes ev_session_eyes(oc_session *s);

typedef struct ev_gallery {
    ev_eyes eyes;
    float *rows;       /* [n, width] */
    const char **text; /* [n] first texts, owned by the pairs */
    long n;
    ev_talk *talk; /* told of pictures that cannot be read; may be NULL */
} ev_gallery;

/* Looks at the pairs with a text in `language`; what cannot be read is told and left out. Fails when none is left. */
int ev_gallery_init(ev_gallery *g, const ev_eyes *eyes, const dt_pairs *pairs, const char *language, ev_talk *talk, oc_err *err);
void ev_gallery_clear(ev_gallery *g);
/* An ev_say (captions.h): the text of the nearest picture by cosine, of equal ones the first. gallery: an ev_gallery. */
int ev_gallery_say(void *gallery, const char *const *paths, int n, char **texts, oc_err *err);

#endif
