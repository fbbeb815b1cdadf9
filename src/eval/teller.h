/* teller.h - captions and answers of a model, to be judged. */
#ifndef EV_TELLER_H
#define EV_TELLER_H

#include "../run/generate.h"
#include "captions.h"

typedef struct ev_teller {
    oc_generator *generator;
    const oc_generation *how;
    const char *prompt; /* of captions; NULL: none */
    const char *const *choices; /* answers to choose from, by their log-probability; NULL: its own words */
    int choices_n;
    int first; /* pictures so far: what the next counts as, for its draws */
    ev_talk *talk;
} ev_teller;

/* An ev_say; arg is an ev_teller. */
int ev_teller_caption(void *arg, const char *const *paths, int n, char **texts, oc_err *err);
/* Answers every question, `batch` at the same time; whose picture cannot be read is told, and `said` stays NULL. */
int ev_teller_answer(ev_teller *t, ev_asked *asked, long n, int batch, oc_err *err);

#endif
