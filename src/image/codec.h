/* codec.h - what the decoders of this folder share. Not for other folders. */
#ifndef IM_CODEC_H
#define IM_CODEC_H

#include "image.h"

/* Each decoder fills out and *orientation (EXIF's 1..8; 1 when the file says none), or fails with *out in a
 * state that im_raster_clear takes. options is never NULL here. */
int im_jpeg_decode(im_raster *out, int *orientation, const uint8_t *bytes, size_t n, const im_decode_options *options,
                   oc_err *err);
int im_png_decode(im_raster *out, int *orientation, const uint8_t *bytes, size_t n, const im_decode_options *options,
                  oc_err *err);
int im_webp_decode(im_raster *out, int *orientation, const uint8_t *bytes, size_t n, const im_decode_options *options,
                   oc_err *err);

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

/* Turns r so that what EXIF says is up is up. */
int im_turn_upright(im_raster *r, int orientation, oc_err *err);

#endif
