/* augment.h - pictures changed in ways that leave their words true. */
#ifndef DT_AUGMENT_H
#define DT_AUGMENT_H

#include "../image/image.h"
#include "../image/preprocess.h"

/* Ranges are half-widths round "no change"; all zero changes nothing. One affine map, one colour map, one hole. */
typedef struct dt_augment {
    float rotate;                        /* degrees */
    float scale_lo, scale_hi;            /* size of what is shown, drawn evenly in its logarithm; 0, 0: 1 */
    float aspect, shear;                 /* logarithm of width over height; tangent */
    float shift;                         /* share of half a side */
    float flip;                          /* probability of a mirror image */
    float color;                         /* probability of the four below */
    float hue;                           /* degrees round the grey axis */
    float saturation, contrast, channel; /* factors 1 +- x; channel: each of red, green, blue by itself */
    float gray;                          /* probability of no colour at all */
    float blur;                          /* probability of blurring or sharpening by a 3 x 3 mean */
    float cutout, hole_lo, hole_hi;      /* probability of a filled rectangle, its sides as shares of the picture's */
} dt_augment;

/* What a run of training uses unless told otherwise, times a strength (0: none, 1: the default). */
void dt_augment_default(dt_augment *a, float strength);

/* Writes [3, side, side] normalised by the processor's mean and std. The square in the middle of `in` whose side is the shorter side of `in` fills the
 * output when nothing is changed; beyond the picture's edge it is white, as paper is. Colours are changed in ink (1 - light), which keeps white white.
 * Draws from rng only. scratch: 3 * side * side floats. */
void dt_augment_run(const dt_augment *a, const im_processor *p, const im_raster *in, int side, bs_rng *rng, float *scratch,
                    float *out);

#endif
