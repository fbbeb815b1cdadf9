/* image.h - pictures as 8-bit RGB: decoding, turning upright, resizing exactly as Pillow does.
 *
 * A raster is height * width * 3 bytes, rows from the top, no gaps between rows. The reference is what
 * transformers' load_image and convert_to_rgb make of a file with Pillow: palettes and greys expand, CMYK
 * turns to RGB by Pillow's integer formula, an alpha channel is dropped and not composited; but the single
 * colour that a PNG without an alpha channel may declare transparent becomes white. */
#ifndef IM_IMAGE_H
#define IM_IMAGE_H

#include "../base/base.h"

typedef struct im_raster {
    int width, height;
    uint8_t *rgb; /* bs_free it, or im_raster_clear */
} im_raster;

void im_raster_clear(im_raster *r);

/* ---- decoding ----------------------------------------------------------------------------------------- */

/* Zero means the default of each field. */
typedef struct im_decode_options {
    uint64_t max_pixels; /* larger pictures are refused from their header; 0: 178956970, where Pillow stops */
} im_decode_options;

/* No side of a picture may be longer than this, whatever its number of pixels; no side that it is resized to
 * longer than the second. */
enum { IM_MAX_SIDE = 1000000, IM_MAX_RESIZED = 1 << 28 };

/* What the first bytes say the file is: "JPEG", "PNG", "WebP", or a format that is recognised only to be
 * named in an error ("HEIC", "GIF", "SVG", ...); NULL when unknown. The name of a file is never looked at. */
const char *im_format(const uint8_t *bytes, size_t n);

/* Decodes JPEG, PNG or WebP (of an animation the first picture) and turns it upright by its EXIF orientation.
 * options may be NULL. On failure *out is empty and err has the reason without a file name. A file that ends
 * early is an error, also when its first rows are there. */
int im_decode(im_raster *out, const void *bytes, size_t n, const im_decode_options *options, oc_err *err);

/* ---- resizing ----------------------------------------------------------------------------------------- */

/* The numbers are Pillow's, and so those of `resample` in preprocessor_config.json. */
typedef enum im_filter {
    IM_NEAREST = 0,
    IM_LANCZOS = 1,
    IM_BILINEAR = 2,
    IM_BICUBIC = 3,
    IM_BOX = 4,
    IM_HAMMING = 5,
} im_filter;

typedef struct im_window {
    int x, y, width, height;
} im_window;

/* Resizes `in` to width * height, of which only the window is computed and written to out (window.height *
 * window.width * 3 bytes, the caller's). Every byte equals that of Pillow 13's Image.resize((width, height),
 * filter) cropped to the window: two passes, each with weights of 22 fractional bits and rounded to 8 bits
 * (libImaging's Resample.c). Older Pillows differ only where the height shrinks by more than twice as many
 * pixels as the width: they never begin with the vertical pass. Fails on sides out of range, a window
 * outside, no memory. */
int im_resize_window(uint8_t *out, im_window window, const im_raster *in, int width, int height, im_filter filter, oc_err *err);

/* The whole of it; out has height * width * 3 bytes. */
int im_resize(uint8_t *out, const im_raster *in, int width, int height, im_filter filter, oc_err *err);

#endif
