/* preprocess.c - resize, crop, scale, normalise. The arithmetic of transformers' image_transforms.py. */
#include <math.h>
#include <string.h>

#include "preprocess.h"

/* Where the parts come to lie: the picture is resized to width * height, of which the window is used; in the
 * output of out_width * out_height the window starts at (left, top), the rest is padding. */
typedef struct im_plan {
    int width, height;
    im_window window;
    int out_width, out_height, left, top;
} im_plan;

/* ---- sizes -------------------------------------------------------------------------------------------- */

typedef struct im_size {
    int64_t height, width;
} im_size;

/* torchvision's rule with a limit for the longer side, kept by transformers: the shorter side is rounded down
 * to an int for the limit's sake, the longer one is computed from the unrounded. */
static im_size size_with_limit(im_size in, int shortest, int longest)
{
    double small = (double)(in.height < in.width ? in.height : in.width);
    double large = (double)(in.height < in.width ? in.width : in.height);
    double raw = shortest;
    if (large / small * shortest > longest) {
        raw = longest * small / large;
        shortest = (int)nearbyint(raw);
    }
    im_size out = {shortest, shortest};
    if ((in.height <= in.width && in.height == shortest) || (in.width <= in.height && in.width == shortest))
        return in;
    if (in.width < in.height)
        out.height = (int64_t)(raw * (double)in.height / (double)in.width);
    else
        out.width = (int64_t)(raw * (double)in.width / (double)in.height);
    return out;
}

static im_size size_shortest(im_size in, int shortest)
{
    if (in.width <= in.height)
        return (im_size){(int64_t)shortest * in.height / in.width, shortest};
    return (im_size){shortest, (int64_t)shortest * in.width / in.height};
}

static im_size size_within(im_size in, int max_height, int max_width)
{
    double down = max_height / (double)in.height, across = max_width / (double)in.width;
    double scale = down < across ? down : across;
    return (im_size){(int64_t)((double)in.height * scale), (int64_t)((double)in.width * scale)};
}

static im_size resized_size(const im_processor *p, im_size in)
{
    if (!p->do_resize)
        return in;
    if (p->rule == IM_SIZE_EXACT)
        return (im_size){p->height, p->width};
    if (p->rule == IM_SIZE_WITHIN)
        return size_within(in, p->height, p->width);
    return p->longest ? size_with_limit(in, p->shortest, p->longest) : size_shortest(in, p->shortest);
}

/* Where the crop starts, negative when it is larger. Hugging Face floors the half of what is over;
 * `rounds`: torchvision rounds it half to even, and pads with the smaller half in front. */
static int crop_start(int side, int crop, bool rounds)
{
    int over = side - crop;
    if (rounds)
        return over > 0 ? (int)nearbyint(over / 2.0) : -(-over / 2);
    return over >= 0 ? over / 2 : -((1 - over) / 2);
}

/* One side of the crop: which part of the resized picture is used, and where it lies in the output. */
static void crop_side(int side, int crop, bool rounds, int *used_at, int *used, int *out_at)
{
    int start = crop_start(side, crop, rounds), end = start + crop;
    *used_at = start < 0 ? 0 : start;
    *used = (end > side ? side : end) - *used_at;
    *out_at = *used_at - start;
}

static int make_plan(im_plan *plan, const im_processor *p, const oc_picture *in, oc_err *err)
{
    im_size size = resized_size(p, (im_size){in->height, in->width});
    if (size.height < 1 || size.width < 1 || size.height > IM_MAX_RESIZED || size.width > IM_MAX_RESIZED)
        return bs_err(err, "%d x %d pixels would be resized to %lld x %lld, expected sides of 1 to %d", in->width, in->height,
                      (long long)size.width, (long long)size.height, IM_MAX_RESIZED);
    *plan = (im_plan){.width = (int)size.width, .height = (int)size.height};
    plan->out_width = p->do_center_crop ? p->crop_width : plan->width;
    plan->out_height = p->do_center_crop ? p->crop_height : plan->height;
    im_window *w = &plan->window;
    crop_side(plan->width, plan->out_width, p->crop_rounds, &w->x, &w->width, &plan->left);
    crop_side(plan->height, plan->out_height, p->crop_rounds, &w->y, &w->height, &plan->top);
    if ((int64_t)plan->out_width * plan->out_height > IM_MAX_RESIZED)
        return bs_err(err, "%d x %d pixels would be resized to %d x %d, more than %d pixels", in->width, in->height,
                      plan->out_width, plan->out_height, IM_MAX_RESIZED);
    return 0;
}

bool im_processor_fixed_size(const im_processor *p, int *height, int *width)
{
    bool crop = p->do_center_crop, exact = p->do_resize && p->rule == IM_SIZE_EXACT;
    *height = crop ? p->crop_height : exact ? p->height : 0;
    *width = crop ? p->crop_width : exact ? p->width : 0;
    return crop || exact;
}

int im_processor_output_size(const im_processor *p, const oc_picture *in, int *height, int *width, oc_err *err)
{
    im_plan plan = {0};
    if (make_plan(&plan, p, in, err))
        return -1;
    *height = plan.out_height;
    *width = plan.out_width;
    return 0;
}

/* ---- numbers ------------------------------------------------------------------------------------------ */

/* In the types of transformers: the product in double, then float32 throughout. */
static void make_table(float table[256], const im_processor *p, int channel)
{
    float mean = (float)p->mean[channel], std = (float)p->std[channel];
    for (int i = 0; i < 256; i++) {
        float v = p->do_rescale ? (float)(i * p->rescale_factor) : (float)i;
        table[i] = p->do_normalize ? (v - mean) / std : v;
    }
}

static void write_plane(float *out, const im_plan *plan, const uint8_t *rgb, const float table[256])
{
    size_t n = (size_t)plan->out_width * (size_t)plan->out_height;
    if (plan->window.width < plan->out_width || plan->window.height < plan->out_height)
        for (size_t i = 0; i < n; i++)
            out[i] = table[0];
    for (int y = 0; y < plan->window.height; y++) {
        float *to = out + (size_t)(plan->top + y) * (size_t)plan->out_width + plan->left;
        for (int x = 0; x < plan->window.width; x++, rgb += 3)
            to[x] = table[*rgb];
    }
}

int im_processor_run(const im_processor *p, const oc_picture *in, float *out, oc_err *err)
{
    im_plan plan = {0};
    if (!in->rgb || in->width < 1 || in->height < 1)
        return bs_err(err, "cannot prepare a picture: it holds no pixels");
    if (make_plan(&plan, p, in, err))
        return -1;
    im_raster raster = {in->width, in->height, in->rgb};
    uint8_t *rgb = bs_alloc((size_t)plan.window.width * (size_t)plan.window.height * 3, "a resized picture", err);
    int result = -1;
    if (!rgb || im_resize_window(rgb, plan.window, &raster, plan.width, plan.height, p->resample, err))
        goto done;
    for (int c = 0; c < 3; c++) {
        float table[256];
        make_table(table, p, c);
        write_plane(out + (size_t)c * (size_t)plan.out_width * (size_t)plan.out_height, &plan, rgb + c, table);
    }
    result = 0;
done:
    bs_free(rgb);
    return result;
}
