/* preprocess.h - from a picture to the numbers that a model takes, as Hugging Face's image processors do it
 * (their PIL backend): resize, crop in the centre, scale, normalise. */
#ifndef IM_PREPROCESS_H
#define IM_PREPROCESS_H

#include "image.h"

/* What `size` in preprocessor_config.json asks for. */
typedef enum im_size_rule {
    IM_SIZE_EXACT,    /* height, width: both sides, whatever the shape was */
    IM_SIZE_SHORTEST, /* shortest_edge: the shape stays; with longest_edge that side is a limit */
    IM_SIZE_WITHIN,   /* max_height, max_width: the largest of the same shape that fits */
} im_size_rule;

/* How a family's pictures are prepared. Fields may be changed after reading; im_processor_check then tells
 * whether they still make sense. */
typedef struct im_processor {
    char type[64]; /* image_processor_type without "ImageProcessor", "FeatureExtractor", "Fast": "CLIP" */
    bool do_resize;
    im_size_rule rule;
    int height, width;     /* EXACT, WITHIN */
    int shortest, longest; /* SHORTEST; longest 0: no limit */
    im_filter resample;
    bool do_center_crop;
    int crop_height, crop_width;
    bool crop_rounds; /* torchvision's round((H - h) / 2), half to even, instead of Hugging Face's floor */
    bool do_rescale;
    double rescale_factor;
    bool do_normalize;
    double mean[3], std[3];
} im_processor;

/* The defaults of a family by its model_type ("clip", "blip", "siglip", ...) or by the name in
 * image_processor_type. Fails on a family that is not known. */
int im_processor_default(im_processor *p, const char *family, oc_err *err);

/* Reads how a checkpoint's folder wants its pictures: preprocessor_config.json, or `image_processor` in
 * processor_config.json, or open_clip_config.json; if it has none of them, the defaults of the model_type in
 * config.json at its vision_config.image_size. Every value is checked. Errors name file and field. */
int im_processor_read(im_processor *p, const char *model_dir, oc_err *err);

/* The same from the text of a preprocessor_config.json; name is only for errors. */
int im_processor_parse(im_processor *p, const char *text, size_t n, const char *name, oc_err *err);

/* Sizes 1..8192, a finite scale, no zero divisor; `path` is only for the error. */
int im_processor_check(const im_processor *p, const char *path, oc_err *err);

/* The height and width of what im_processor_run writes. They are the same for every picture when
 * im_processor_fixed_size says so (crop or exact size), else they follow the picture's shape. */
bool im_processor_fixed_size(const im_processor *p, int *height, int *width);
int im_processor_output_size(const im_processor *p, const oc_picture *in, int *height, int *width, oc_err *err);

/* Writes float32 [3, height, width] with sizes as above: red, green, blue planes of
 * (pixel * rescale_factor - mean) / std. Where the crop is larger than the resized picture the pixels are 0
 * before scaling. `in` must hold pixels. */
int im_processor_run(const im_processor *p, const oc_picture *in, float *out, oc_err *err);

typedef struct im_load {
    im_decode_options decode;
    bool fast; /* a JPEG may be decoded at 1/2, 1/4 or 1/8, as long as a side keeps 1.5 times the pixels that it is resized to */
    bs_pool *pool; /* threads that share one large JPEG; NULL, or from inside a work function: the calling one alone */
} im_load;

/* From a file's bytes: what im_decode and im_processor_run give one after the other, to the bit unless `fast`, for less time and memory.
 * Only what the crop keeps is decoded, rows are resized as they come, and the picture never lies in memory as a whole (interlaced PNG
 * and WebP do, once). The size must be the same for every picture (im_processor_fixed_size), as nobody can know it before. */
int im_processor_load(const im_processor *p, const void *bytes, size_t n, const im_load *options, float *out, oc_err *err);

/* The same of n files into out [n, 3, height, width], by all threads of the pool. errors[i] says what is wrong with file i ("": nothing),
 * unread[i] (NULL: not asked for) whether the file itself could not be read. */
void im_processor_load_files(const im_processor *p, const char *const *paths, int n, const im_load *options, float *out,
                             oc_err *errors, bool *unread);

#endif
