/* processor.c - reads preprocessor_config.json and its like into an im_processor. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "preprocess.h"

enum { MAX_SIDE = 8192, MAX_JSON = 64 << 20 };

/* ---- defaults ----------------------------------------------------------------------------------------- */

/* What each image processor class of transformers has where its file is silent, and the picture size of the
 * family's config class. `square`: a bare number in `size` means both sides, not the shorter. */
typedef struct im_default {
    const char *type, *model_type;
    bool square;
    int size, crop;
    im_filter resample;
    const double *mean, *std;
} im_default;

static const double clip_mean[3] = {0.48145466, 0.4578275, 0.40821073};
static const double clip_std[3] = {0.26862954, 0.26130258, 0.27577711};
static const double half[3] = {0.5, 0.5, 0.5};

static const im_default defaults[] = {
    {"CLIP", "clip", false, 224, 224, IM_BICUBIC, clip_mean, clip_std},
    {"ChineseCLIP", "chinese_clip", false, 224, 224, IM_BICUBIC, clip_mean, clip_std},
    {"Blip", "blip", true, 384, 0, IM_BICUBIC, clip_mean, clip_std},
    {"Blip", "blip-2", true, 224, 0, IM_BICUBIC, clip_mean, clip_std}, /* by type the line above is found */
    {"Siglip", "siglip", true, 224, 0, IM_BICUBIC, half, half},
    {"ViT", "vit", true, 224, 0, IM_BILINEAR, half, half},
};

static const im_default *find_default(const char *name)
{
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (!strcmp(name, defaults[i].type) || !strcmp(name, defaults[i].model_type))
            return &defaults[i];
    return NULL;
}

static void set_size(im_processor *p, bool square, int size)
{
    p->rule = square ? IM_SIZE_EXACT : IM_SIZE_SHORTEST;
    p->height = p->width = square ? size : 0;
    p->shortest = square ? 0 : size;
    p->longest = 0;
}

static void fill_default(im_processor *p, const im_default *d)
{
    memset(p, 0, sizeof *p);
    snprintf(p->type, sizeof p->type, "%s", d->type);
    p->do_resize = p->do_rescale = p->do_normalize = true;
    set_size(p, d->square, d->size);
    p->resample = d->resample;
    p->do_center_crop = d->crop > 0;
    p->crop_height = p->crop_width = d->crop;
    p->rescale_factor = 1.0 / 255.0;
    memcpy(p->mean, d->mean, sizeof p->mean);
    memcpy(p->std, d->std, sizeof p->std);
}

int im_processor_default(im_processor *p, const char *family, oc_err *err)
{
    const im_default *d = find_default(family);
    if (!d)
        return bs_err(err, "no image processor is known for '%s'", family);
    fill_default(p, d);
    return 0;
}

/* ---- checks ------------------------------------------------------------------------------------------- */

static int check_side(int side, const char *path, const char *field, oc_err *err)
{
    if (side >= 1 && side <= MAX_SIDE)
        return 0;
    return bs_err(err, "cannot use '%s': %s is %d, expected 1 to %d", path, field, side, MAX_SIDE);
}

static int check_sizes(const im_processor *p, const char *path, oc_err *err)
{
    if (p->do_resize && p->rule == IM_SIZE_SHORTEST &&
        (check_side(p->shortest, path, "size.shortest_edge", err) ||
         (p->longest && check_side(p->longest, path, "size.longest_edge", err))))
        return -1;
    if (p->do_resize && p->rule != IM_SIZE_SHORTEST &&
        (check_side(p->height, path, "size.height", err) || check_side(p->width, path, "size.width", err)))
        return -1;
    if (p->do_center_crop &&
        (check_side(p->crop_height, path, "crop_size.height", err) || check_side(p->crop_width, path, "crop_size.width", err)))
        return -1;
    return 0;
}

int im_processor_check(const im_processor *p, const char *path, oc_err *err)
{
    if (check_sizes(p, path, err))
        return -1;
    if (p->resample > IM_HAMMING)
        return bs_err(err, "cannot use '%s': resample is %d, expected 0 to %d", path, (int)p->resample, IM_HAMMING);
    if (p->do_rescale && !(p->rescale_factor > 0 && p->rescale_factor <= 1000))
        return bs_err(err, "cannot use '%s': rescale_factor is %g, expected a number in (0, 1000]", path, p->rescale_factor);
    for (int c = 0; p->do_normalize && c < 3; c++) {
        if (!(fabs(p->mean[c]) <= 1e6))
            return bs_err(err, "cannot use '%s': image_mean holds %g, expected at most 1e6", path, p->mean[c]);
        if (!(p->std[c] >= 1e-6 && p->std[c] <= 1e6))
            return bs_err(err, "cannot use '%s': image_std holds %g, expected 1e-6 to 1e6", path, p->std[c]);
    }
    return 0;
}

/* ---- fields of a JSON object -------------------------------------------------------------------------- */

/* One file being read. Each function below leaves its target alone when the field is absent or null, and
 * fails with file and field named when it has another type than expected. */
typedef struct im_fields {
    const char *path;
    const json_t *object;
    oc_err *err;
} im_fields;

static int wrong(const im_fields *f, const char *field, const char *expected)
{
    return bs_err(f->err, "cannot use '%s': %s is wrong, expected %s", f->path, field, expected);
}

static const json_t *field(const im_fields *f, const char *name)
{
    const json_t *v = json_object_get(f->object, name);
    return json_is_null(v) ? NULL : v;
}

static int get_bool(const im_fields *f, const char *name, bool *to)
{
    const json_t *v = field(f, name);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return wrong(f, name, "true or false");
    *to = json_is_true(v);
    return 0;
}

static int get_number(const im_fields *f, const char *name, double *to)
{
    const json_t *v = field(f, name);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return wrong(f, name, "a number");
    *to = json_number_value(v);
    return 0;
}

/* A side of a picture; `name` is for the error, which may stand for a member of `size`. */
static int to_side(const im_fields *f, const char *name, const json_t *v, int *to)
{
    json_int_t side = json_integer_value(v);
    if (!json_is_integer(v) || side < 1 || side > MAX_SIDE)
        return wrong(f, name, "a whole number from 1 to 8192");
    *to = (int)side;
    return 0;
}

static int get_side(const im_fields *f, const char *name, int *to)
{
    const json_t *v = field(f, name);
    return v ? to_side(f, name, v, to) : 0;
}

/* Three numbers, or one for all. */
static int get_triple(const im_fields *f, const char *name, double to[3])
{
    const json_t *v = field(f, name);
    if (!v)
        return 0;
    if (!json_is_number(v) && json_array_size(v) != 3)
        return wrong(f, name, "three numbers");
    for (size_t i = 0; i < 3; i++) {
        const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_number(one))
            return wrong(f, name, "three numbers");
        to[i] = json_number_value(one);
    }
    return 0;
}

/* A pair of sides: {"height", "width"}, [height, width] or one number for both. */
static int get_pair(const im_fields *f, const char *name, int *height, int *width)
{
    const json_t *v = field(f, name);
    const json_t *h = v, *w = v;
    if (!v)
        return 0;
    if (json_is_object(v)) {
        h = json_object_get(v, "height");
        w = json_object_get(v, "width");
    } else if (json_array_size(v) == 2) {
        h = json_array_get(v, 0);
        w = json_array_get(v, 1);
    }
    return to_side(f, name, h, height) || to_side(f, name, w, width) ? -1 : 0;
}

/* ---- preprocessor_config.json ------------------------------------------------------------------------- */

static int get_size_object(const im_fields *f, const json_t *size, im_processor *p)
{
    im_fields in = {f->path, size, f->err};
    im_processor q = *p;
    q.height = q.width = q.shortest = q.longest = 0;
    bool within = field(&in, "max_height") || field(&in, "max_width");
    if (get_side(&in, "shortest_edge", &q.shortest) || get_side(&in, "longest_edge", &q.longest) ||
        get_side(&in, within ? "max_height" : "height", &q.height) || get_side(&in, within ? "max_width" : "width", &q.width))
        return -1;
    if (!q.shortest && !(q.height && q.width))
        return wrong(f, "size", "shortest_edge, height and width, or max_height and max_width");
    q.rule = q.shortest ? IM_SIZE_SHORTEST : within ? IM_SIZE_WITHIN : IM_SIZE_EXACT;
    *p = q;
    return 0;
}

static int get_size(const im_fields *f, bool square, im_processor *p)
{
    const json_t *size = field(f, "size");
    int side = 0;
    if (!size)
        return 0;
    if (json_is_object(size))
        return get_size_object(f, size, p);
    if (json_is_array(size)) {
        p->rule = IM_SIZE_EXACT;
        return get_pair(f, "size", &p->height, &p->width);
    }
    if (to_side(f, "size", size, &side))
        return -1;
    set_size(p, square, side);
    return 0;
}

static int get_resample(const im_fields *f, im_processor *p)
{
    const json_t *v = field(f, "resample");
    if (!v)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > IM_HAMMING)
        return wrong(f, "resample", "a number of Pillow's filters, 0 to 5");
    p->resample = (im_filter)json_integer_value(v);
    return 0;
}

static bool cut_end(char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    bool found = n >= m && !strcmp(s + n - m, end);
    if (found)
        s[n - m] = 0;
    return found;
}

/* "CLIPImageProcessorFast" and the older "CLIPFeatureExtractor" are both "CLIP". A file without a type is an
 * old one of CLIP, the only family that had any when the field came. */
static int get_type(const im_fields *f, char type[64])
{
    const json_t *v = field(f, "image_processor_type");
    if (!v)
        v = field(f, "feature_extractor_type");
    if (v && (!json_is_string(v) || json_string_length(v) >= 64))
        return wrong(f, "image_processor_type", "a name");
    snprintf(type, 64, "%s", v ? json_string_value(v) : "CLIP");
    if (!cut_end(type, "Fast"))
        cut_end(type, "Pil");
    if (!cut_end(type, "ImageProcessor"))
        cut_end(type, "FeatureExtractor");
    return 0;
}

static int read_fields(im_processor *p, const im_fields *f)
{
    char type[64];
    if (get_type(f, type))
        return -1;
    const im_default *d = find_default(type);
    if (!d)
        return bs_err(f->err, "cannot use '%s': image processor '%s' is not supported", f->path, type);
    fill_default(p, d);
    bool pad = false;
    if (get_bool(f, "do_pad", &pad))
        return -1;
    if (pad) /* LLaVA's square of the mean colour; without it the answers would be wrong in silence */
        return bs_err(f->err, "cannot use '%s': do_pad is true, which is not supported", f->path);
    if (get_bool(f, "do_resize", &p->do_resize) || get_bool(f, "do_center_crop", &p->do_center_crop) ||
        get_bool(f, "do_rescale", &p->do_rescale) || get_bool(f, "do_normalize", &p->do_normalize) || get_size(f, d->square, p) ||
        get_pair(f, "crop_size", &p->crop_height, &p->crop_width) || get_resample(f, p) ||
        get_number(f, "rescale_factor", &p->rescale_factor) || get_triple(f, "image_mean", p->mean) ||
        get_triple(f, "image_std", p->std))
        return -1;
    return im_processor_check(p, f->path, f->err);
}

/* ---- open_clip_config.json ---------------------------------------------------------------------------- */

static int get_interpolation(const im_fields *f, im_processor *p)
{
    static const char *names[] = {"nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"};
    const json_t *v = field(f, "interpolation");
    if (!v || (json_is_string(v) && !strcmp(json_string_value(v), "random")))
        return 0;
    for (int i = 0; json_is_string(v) && i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(json_string_value(v), names[i])) {
            p->resample = (im_filter)i;
            return 0;
        }
    return wrong(f, "preprocess_cfg.interpolation", "a filter's name");
}

/* open_clip keeps the size with the model and crops as torchvision rounds. */
static int read_open_clip(im_processor *p, const im_fields *f)
{
    im_fields pre = {f->path, field(f, "preprocess_cfg"), f->err};
    im_fields model = {f->path, field(f, "model_cfg"), f->err};
    im_fields vision = {f->path, field(&model, "vision_cfg"), f->err};
    const json_t *mode = field(&pre, "resize_mode");
    im_processor_default(p, "clip", f->err);
    if (get_pair(&vision, "image_size", &p->crop_height, &p->crop_width) ||
        get_pair(&pre, "size", &p->crop_height, &p->crop_width) || get_triple(&pre, "mean", p->mean) ||
        get_triple(&pre, "std", p->std) || get_interpolation(&pre, p))
        return -1;
    if (!mode || (json_is_string(mode) && !strcmp(json_string_value(mode), "shortest"))) {
        set_size(p, false, p->crop_height < p->crop_width ? p->crop_height : p->crop_width);
        p->crop_rounds = true;
    } else if (json_is_string(mode) && !strcmp(json_string_value(mode), "squash")) {
        p->rule = IM_SIZE_EXACT;
        p->height = p->crop_height;
        p->width = p->crop_width;
        p->do_center_crop = false;
    } else {
        return wrong(&pre, "preprocess_cfg.resize_mode", "shortest or squash");
    }
    return im_processor_check(p, f->path, f->err);
}

/* ---- folders ------------------------------------------------------------------------------------------ */

static int read_config(im_processor *p, const im_fields *f)
{
    const json_t *type = field(f, "model_type");
    im_fields vision = {f->path, field(f, "vision_config"), f->err};
    int height = 0, width = 0;
    if (!json_is_string(type))
        return wrong(f, "model_type", "a name");
    const im_default *d = find_default(json_string_value(type));
    if (!d)
        return bs_err(f->err,
                      "cannot use '%s': model_type '%s' does not tell how its pictures are prepared, "
                      "expected a preprocessor_config.json beside it",
                      f->path, json_string_value(type));
    fill_default(p, d);
    if (get_pair(vision.object ? &vision : f, "image_size", &height, &width))
        return -1;
    if (!height)
        return 0;
    if (p->rule == IM_SIZE_EXACT) {
        p->height = height;
        p->width = width;
    } else {
        set_size(p, false, height < width ? height : width);
    }
    if (p->do_center_crop) {
        p->crop_height = height;
        p->crop_width = width;
    }
    return im_processor_check(p, f->path, f->err);
}

static int read_nested(im_processor *p, const im_fields *f)
{
    im_fields in = {f->path, field(f, "image_processor"), f->err};
    if (!json_is_object(in.object))
        return wrong(f, "image_processor", "an object");
    return read_fields(p, &in);
}

/* processor_config.json is in many folders without a word about pictures: then it does not count. */
static bool counts(const char *file, const json_t *root)
{
    return strcmp(file, "processor_config.json") || json_object_get(root, "image_processor");
}

static json_t *parse_object(const char *text, size_t n, const char *path, oc_err *err)
{
    json_error_t where;
    json_t *root = json_loadb(text, n, 0, &where);
    if (!root) {
        bs_err(err, "cannot read '%s': line %d: %s", path, where.line, where.text);
    } else if (!json_is_object(root)) {
        bs_err(err, "cannot read '%s': expected a JSON object", path);
        json_decref(root);
        root = NULL;
    }
    return root;
}

static json_t *load_object(const char *path, oc_err *err)
{
    bs_buf text = {0};
    json_t *root = bs_read_file(&text, path, MAX_JSON, err) ? NULL : parse_object(text.p, text.n, path, err);
    bs_buf_clear(&text);
    return root;
}

int im_processor_parse(im_processor *p, const char *text, size_t n, const char *name, oc_err *err)
{
    json_t *root = parse_object(text, n, name, err);
    im_fields f = {name, root, err};
    int result = root ? read_fields(p, &f) : -1;
    json_decref(root);
    return result;
}

/* 1: read, 0: the folder has no such file, -1: it has and it is wrong. */
static int try_file(im_processor *p, const char *dir, const char *file, int (*read)(im_processor *, const im_fields *),
                    oc_err *err)
{
    char *path = bs_join(dir, file);
    json_t *root = NULL;
    int result = -1;
    if (!path) {
        bs_err(err, "out of memory: the name of '%s'", file);
    } else if (!bs_is_file(path)) {
        result = 0;
    } else if ((root = load_object(path, err))) {
        im_fields f = {path, root, err};
        result = !counts(file, root) ? 0 : read(p, &f) ? -1 : 1;
    }
    json_decref(root);
    free(path);
    return result;
}

int im_processor_read(im_processor *p, const char *model_dir, oc_err *err)
{
    static const struct {
        const char *file;
        int (*read)(im_processor *, const im_fields *);
    } places[] = {
        {"preprocessor_config.json", read_fields},
        {"processor_config.json", read_nested},
        {"open_clip_config.json", read_open_clip},
        {"config.json", read_config},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int found = try_file(p, model_dir, places[i].file, places[i].read, err);
        if (found)
            return found > 0 ? 0 : -1;
    }
    return bs_err(err, "cannot find how '%s' prepares its pictures: expected preprocessor_config.json in it", model_dir);
}
