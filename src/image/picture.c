/* picture.c - the public side of decoding: oc_picture. */
#include <string.h>

#include "image.h"

int oc_picture_decode(oc_picture *picture, const void *bytes, size_t n, const char *name, const oc_options *options)
{
    im_decode_options decode = {.max_pixels = options ? options->max_pixels : 0};
    im_raster raster;
    memset(picture, 0, sizeof *picture);
    if (im_decode(&raster, bytes, n, &decode, &picture->err))
        return bs_err_prefix(&picture->err, "cannot decode '%s': ", name ? name : "picture");
    picture->width = raster.width;
    picture->height = raster.height;
    picture->rgb = raster.rgb;
    return 0;
}

int oc_picture_read(oc_picture *picture, const char *path, const oc_options *options)
{
    bs_buf file = {0};
    memset(picture, 0, sizeof *picture);
    int result = bs_read_file(&file, path, 0, &picture->err);
    if (!result)
        result = oc_picture_decode(picture, file.p, file.n, path, options);
    bs_buf_clear(&file);
    return result;
}

void oc_picture_clear(oc_picture *picture)
{
    bs_free(picture->rgb);
    memset(picture, 0, sizeof *picture);
}
