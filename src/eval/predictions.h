/* predictions.h - what a file says of pictures: captions, or answers to questions about them. */
#ifndef EV_PREDICTIONS_H
#define EV_PREDICTIONS_H

#include "../checkpoint/config.h"

/* A line of a file of JSON lines, and its number from 1; -1 and an error to stop. */
typedef int ev_line(void *arg, const ck_config *object, long number, oc_err *err);
/* Hands over every line that is not empty: each must be an object. */
int ev_json_lines(const char *path, ev_line *line, void *arg, oc_err *err);

/* A text that is asked for. */
typedef struct ev_asked {
    const char *image;    /* path, joined with the folder of its data file */
    const char *question; /* NULL: a caption is wanted */
    char *said;           /* owned; NULL: nothing yet */
} ev_asked;

/* Reads {"image","text"} lines, or {"image","question","text"} ones, as `caption --json` and `ask --json` print them, and fills every `said`; those who ask
 * the same get the same. A picture is named by its path or as the data file `data` names it; a question word by word. *unknown (may be NULL)
 * counts lines that nobody asked for. Fails when one stays without a text, or two lines give different ones. */
int ev_predictions_read(ev_asked *asked, long n, const char *path, const char *data, long *unknown, oc_err *err);

#endif
