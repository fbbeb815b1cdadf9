/* captions.h - pictures with the captions that people wrote, and with one more: from a model, a file or a baseline. */
#ifndef EV_CAPTIONS_H
#define EV_CAPTIONS_H

#include "caption_metrics.h"
#include "predictions.h"
#include "vectors.h"

/* Captions for n pictures: texts[i] becomes a string that free() frees, or stays NULL when picture i cannot be read, which the callback tells by itself
 * (ev_talk). -1 only for what concerns all of them. */
typedef int ev_say(void *arg, const char *const *paths, int n, char **texts, oc_err *err);

typedef struct ev_pictures {
    ev_asked *asked;         /* [n] pictures in the order of the data, each once; asked[i].said is owned here */
    ev_captioned *captioned; /* [n] with their references; `said` is set where they are scored */
    const char **reference;  /* all of them, side by side; owned by the pairs */
    long n;
} ev_pictures;

/* The pictures that have texts in one language, all of which are references, those of lines with the same path together. */
int ev_pictures_init(ev_pictures *p, const dt_pairs *pairs, int language, oc_err *err);
void ev_pictures_clear(ev_pictures *p);
/* Lets `say` caption all of them, `batch` at a time. */
int ev_pictures_say(ev_pictures *p, ev_say *say, void *arg, int batch, const ev_talk *talk, oc_err *err);
/* Scores those of which something was said; fails when there is none. */
int ev_pictures_score(ev_pictures *p, ev_caption_scores *out, oc_err *err);
/* Writes {"image","text"} lines, which ev_predictions_read reads. */
int ev_pictures_write(const ev_pictures *p, const char *path, oc_err *err);

#endif
