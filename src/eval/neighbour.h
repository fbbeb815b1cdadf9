/* neighbour.h - a baseline that knows no words: what is the picture called that looks most alike?
 *
 * Gradient histograms after Dalal, Triggs 2005, with colour, and the cosine between them: what a model must beat on a style
 * it has not seen. */
#ifndef EV_NEIGHBOUR_H
#define EV_NEIGHBOUR_H

#include "gallery.h"

enum {
    EV_SIDE = 32, /* pictures are cut to what is not white and brought to this size */
    EV_CELL = 4,  /* pixels along a side of a cell */
    EV_GRID = EV_SIDE / EV_CELL,
    EV_ORIENTATIONS = 8,
    EV_HOG = EV_ORIENTATIONS * EV_GRID * EV_GRID,
    EV_COLOUR = EV_GRID * EV_GRID * 3,
    EV_FEATURES = EV_HOG + EV_COLOUR,
    EV_NEAREST = 40, /* neighbours looked at; the first five distinct names among them are the answer */
};

/* features [EV_FEATURES], of length 1: square roots of the gradients' strength in 8 unsigned orientations and 8 x 8 cells, and 0.7 times
 * the mean colour of each cell less 0.6. The picture must lie on white already: an alpha channel is not looked at. */
int ev_neighbour_features(const oc_picture *in, float *features, oc_err *err);

/* How pictures are looked at by these features. Zeroed is closed. */
typedef struct ev_plain_eyes {
    oc_options options;
    bs_pool *pool;
    kn_work *work;
} ev_plain_eyes;
/* threads and max_pixels of the options are used. e must stay where it is while the eyes (ev_eyes_of) are used. */
int ev_plain_eyes_open(ev_plain_eyes *e, const oc_options *options, oc_err *err);
void ev_plain_eyes_close(ev_plain_eyes *e);
ev_eyes ev_eyes_of(ev_plain_eyes *e);

typedef struct ev_neighbour {
    double top1, top5, chance_top1;
    long names, pictures, train; /* distinct names to choose from, pictures asked about, pictures known */
} ev_neighbour;

/* Names every picture of `data` after its neighbours in `train`. A picture's name is its first text in `language` ("text"), as it
 * stands in the file. threads as in oc_options. */
int ev_neighbour_run(const dt_pairs *train, const dt_pairs *data, const char *language, const oc_options *options,
                     ev_neighbour *out, ev_talk *talk, oc_err *err);

#endif
