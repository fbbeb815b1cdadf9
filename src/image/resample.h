/* resample.h - resizing while rows arrive: what image.h promises, for pictures that never lie in memory as a whole. Not for other
 * folders. */
#ifndef IM_RESAMPLE_H
#define IM_RESAMPLE_H

#include "../kernel/kernel.h"
#include "image.h"

/* How stored rows and columns become upright ones (EXIF 2.3, 4.6.4): upright columns are stored rows when `swap`; then the flips,
 * along the stored axes. */
typedef struct im_turn {
    bool swap, flip_x, flip_y;
} im_turn;

/* What is resized, and to what. A picture that was decoded at reduced scale covers a little less than its whole pixels: extent_x *
 * extent_y of them, from the stored top left; else they are width and height. */
typedef struct im_resample_task {
    int width, height; /* of the rows as they arrive */
    double extent_x, extent_y;
    im_turn turn;
    int to_width, to_height; /* upright */
    im_window window;        /* upright, in the resized picture */
    im_filter filter;
} im_resample_task;

/* Both passes of a resizing, along the stored columns and rows. */
typedef struct im_resample {
    const kn_table *kn;
    kn_taps columns, rows; /* the outputs: columns.n * rows.n pixels, turned as the input is */
    bool columns_first;
    im_window need; /* the part of the input that is read */
} im_resample;

/* Fails on a filter that is unknown, and when memory ends. The sizes are checked by the caller: 1 .. IM_MAX_SIDE and IM_MAX_RESIZED, the
 * window inside. */
int im_resample_init(im_resample *r, const im_resample_task *task, oc_err *err);
void im_resample_clear(im_resample *r);

/* Where rows come from: each call gives the next one, `need.width` pixels from column need.x on, valid until the next call; NULL after an
 * error. */
typedef struct im_rows {
    const uint8_t *(*next)(void *arg, oc_err *err);
    void *arg;
} im_rows;

/* The input rows that the outputs begin .. end - 1 are made of: *count of them from the returned one on. */
int im_resample_input(const im_resample *r, int begin, int end, int *count);

/* Makes the output rows begin .. end - 1 of those input rows; out is where the whole output starts. Several calls may run at once. */
int im_resample_run(const im_resample *r, uint8_t *out, int begin, int end, im_rows in, oc_err *err);

#endif
