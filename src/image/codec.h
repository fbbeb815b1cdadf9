/* codec.h - what the decoders of this folder share. Not for other folders. */
#ifndef IM_CODEC_H
#define IM_CODEC_H

#include "resample.h"

/* A picture that is read row by row in the way that it is stored: opened (which reads the header), perhaps scaled, started, read, finished,
 * closed. Every function but close may fail. */
typedef struct im_reader {
    int width, height;         /* stored */
    double extent_x, extent_y; /* of the picture in these pixels: less than they are where a scale left a part of the last */
    int orientation;           /* EXIF's 1..8; 1 when the file says none */
    size_t room;               /* bytes that `next` needs, from start on */
    double passing;  /* what passing over a row costs, as a share of decoding it; 1: rows in front of the window are decoded */
    im_raster whole; /* after start: the pixels, where the format has to be decoded at once; else rgb is NULL */

    /* Asks for eighths / 8 of the size, 1 to 8; width, height and extents follow. NULL: the format has one size only. */
    int (*scale)(struct im_reader *r, int eighths, oc_err *err);
    /* Says which part will be read. */
    int (*start)(struct im_reader *r, im_window window, oc_err *err);
    /* The next row of the window, from its first column on: in `room`, or where it lies. NULL after an error. */
    const uint8_t *(*next)(struct im_reader *r, uint8_t *room, oc_err *err);
    /* Behind the window's last row: does the file go on to its end? */
    int (*finish)(struct im_reader *r, oc_err *err);
    void (*close)(struct im_reader *r);
} im_reader;

/* Each opens its format; NULL and an error. The bytes stay the caller's until the reader is closed. options is never NULL here. */
im_reader *im_jpeg_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err);
im_reader *im_png_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err);
im_reader *im_webp_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err);
/* The one that the bytes need. */
im_reader *im_reader_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err);
void im_reader_close(im_reader *r); /* NULL is fine */

/* Refuses sizes that a header must not ask for; then im_raster_alloc takes the memory. */
int im_check_size(uint64_t width, uint64_t height, const im_decode_options *options, oc_err *err);
int im_raster_alloc(im_raster *out, int width, int height, oc_err *err);

/* EXIF orientation from a TIFF block (with or without "Exif\0\0" in front) and, where that has none, from an
 * XMP packet, the order in which Pillow looks. Either may be NULL. Always 1..8. */
typedef struct im_bytes {
    const uint8_t *p;
    size_t n;
} im_bytes;
int im_orientation(im_bytes exif, im_bytes xmp);

/* What an orientation asks for, and turning r so that what EXIF says is up is up. */
im_turn im_orientation_turn(int orientation);
int im_turn_upright(im_raster *r, int orientation, oc_err *err);

#endif
