/* preprocess.c - decode, resize, crop, scale, normalise, as much in one go as can be. The arithmetic is that of transformers'
 * image_transforms.py. */
#include <math.h>
#include <string.h>

#include "codec.h"
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

static int make_plan(im_plan *plan, const im_processor *p, int in_width, int in_height, oc_err *err)
{
    im_size size = resized_size(p, (im_size){in_height, in_width});
    if (size.height < 1 || size.width < 1 || size.height > IM_MAX_RESIZED || size.width > IM_MAX_RESIZED)
        return bs_err(err, "%d x %d pixels would be resized to %lld x %lld, expected sides of 1 to %d", in_width, in_height,
                      (long long)size.width, (long long)size.height, IM_MAX_RESIZED);
    *plan = (im_plan){.width = (int)size.width, .height = (int)size.height};
    plan->out_width = p->do_center_crop ? p->crop_width : plan->width;
    plan->out_height = p->do_center_crop ? p->crop_height : plan->height;
    im_window *w = &plan->window;
    crop_side(plan->width, plan->out_width, p->crop_rounds, &w->x, &w->width, &plan->left);
    crop_side(plan->height, plan->out_height, p->crop_rounds, &w->y, &w->height, &plan->top);
    if ((int64_t)plan->out_width * plan->out_height > IM_MAX_RESIZED)
        return bs_err(err, "%d x %d pixels would be resized to %d x %d, more than %d pixels", in_width, in_height,
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
    if (make_plan(&plan, p, in->width, in->height, err))
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

/* rgb: the window, upright. */
static int write_pixels(float *out, const im_processor *p, const im_plan *plan, const uint8_t *rgb, oc_err *err)
{
    const kn_table *kn = kn_best(err);
    size_t width = (size_t)plan->out_width, plane = width * (size_t)plan->out_height;
    float table[3][256];
    if (!kn)
        return -1;
    for (int c = 0; c < 3; c++) {
        make_table(table[c], p, c);
        if (plan->window.width < plan->out_width || plan->window.height < plan->out_height)
            for (size_t i = 0; i < plane; i++)
                out[(size_t)c * plane + i] = table[c][0];
    }
    for (int y = 0; y < plan->window.height; y++) {
        float *to = out + (size_t)(plan->top + y) * width + plan->left;
        kn->rgb_to_floats(plan->window.width, rgb + (size_t)y * (size_t)plan->window.width * 3, table[0], to, (long)plane);
    }
    return 0;
}

static uint8_t *window_alloc(const im_plan *plan, oc_err *err)
{
    return bs_alloc((size_t)plan->window.width * (size_t)plan->window.height * 3, "a resized picture", err);
}

int im_processor_run(const im_processor *p, const oc_picture *in, float *out, oc_err *err)
{
    im_plan plan = {0};
    if (!in->rgb || in->width < 1 || in->height < 1)
        return bs_err(err, "cannot prepare a picture: it holds no pixels");
    if (make_plan(&plan, p, in->width, in->height, err))
        return -1;
    im_raster raster = {in->width, in->height, in->rgb};
    uint8_t *rgb = window_alloc(&plan, err);
    int result = !rgb || im_resize_window(rgb, plan.window, &raster, plan.width, plan.height, p->resample, err) ||
                         write_pixels(out, p, &plan, rgb, err)
                     ? -1
                     : 0;
    bs_free(rgb);
    return result;
}

/* ---- from a file --------------------------------------------------------------------------------------- */

/* Parts of the output rows that threads decode and resize each on their own. */
enum { MAX_PARTS = 64 };

typedef struct load {
    const uint8_t *bytes;
    size_t n;
    const im_load *options;
    im_reader *reader; /* opened to plan by; the last part reads with it */
    int eighths;
    im_resample resample;
    uint8_t *rgb; /* the resized window as it is stored */
    int parts, cut[MAX_PARTS + 1];
    oc_err errors[MAX_PARTS];
} load;

/* The smallest of the scales that decoders are quick at which leaves one and a half times the pixels a side that are asked for: with fewer
 * the difference shows, with twice as many next to nothing is gained (docs/precision.md has the figures). */
static int choose_scale(const im_reader *r, const im_plan *plan, bool swap)
{
    int width = swap ? plan->height : plan->width, height = swap ? plan->width : plan->height, eighths = 1;
    while (eighths < 8 &&
           ((int64_t)r->width * eighths < (int64_t)width * 12 || (int64_t)r->height * eighths < (int64_t)height * 12))
        eighths *= 2;
    return eighths;
}

/* Where parts begin, so that each costs the same: a row is passed over at `passing` of what decoding it costs, so part i reads up to
 * share + (1 - passing) * (its first row). */
static void cut_parts(load *l)
{
    const kn_taps *rows = &l->resample.rows;
    double stay = 1 - l->reader->passing, sum = 0, power = 1, at = l->resample.need.y;
    for (int i = 0; i < l->parts; i++, power *= stay)
        sum += power;
    double share = (l->resample.need.y + l->resample.need.height - power * at) / sum;
    for (int i = 1; i < l->parts; i++) {
        at = share + stay * at;
        l->cut[i] = l->cut[i - 1];
        while (l->cut[i] < rows->n - 1 && rows->first[l->cut[i]] + rows->count[l->cut[i]] / 2 < at)
            l->cut[i]++;
    }
    l->cut[l->parts] = (int)rows->n;
}

/* Small pictures are done before a second thread has found its feet. */
static void plan_parts(load *l)
{
    enum { SMALL = 1 << 17 };
    bool alone = l->reader->passing >= 1 || (int64_t)l->reader->width * l->reader->height < SMALL;
    int threads = bs_pool_threads(l->options->pool);
    l->parts = alone ? 1 : threads < MAX_PARTS ? threads : MAX_PARTS;
    cut_parts(l);
}

typedef struct part_rows {
    im_reader *reader;
    uint8_t *room;
} part_rows;

static const uint8_t *next_part_row(void *arg, oc_err *err)
{
    part_rows *p = arg;
    return p->reader->next(p->reader, p->room, err);
}

static int read_part(const load *l, im_reader *r, int begin, int end, oc_err *err)
{
    im_window need = l->resample.need;
    need.y = im_resample_input(&l->resample, begin, end, &need.height);
    if (r->start(r, need, err))
        return -1;
    part_rows rows = {r, bs_alloc(r->room, "a row", err)};
    int result = rows.room ? im_resample_run(&l->resample, l->rgb, begin, end, (im_rows){next_part_row, &rows}, err) : -1;
    if (!result && r == l->reader)
        result = r->finish(r, err);
    bs_free(rows.room);
    return result;
}

static void load_part(void *arg, long part, long after, int worker)
{
    load *l = arg;
    (void)after, (void)worker;
    int begin = l->cut[part], end = l->cut[part + 1];
    oc_err *err = &l->errors[part];
    if (part == l->parts - 1) {
        read_part(l, l->reader, begin, end, err);
        return;
    }
    im_reader *r = begin < end ? im_reader_open(l->bytes, l->n, &l->options->decode, err) : NULL;
    if (r && (!r->scale || !r->scale(r, l->eighths, err)))
        read_part(l, r, begin, end, err);
    im_reader_close(r);
}

/* The resized window into l->rgb, upright. */
static int load_window(load *l, const im_plan *plan, oc_err *err)
{
    im_raster window = {(int)l->resample.columns.n, (int)l->resample.rows.n, window_alloc(plan, err)};
    l->rgb = window.rgb;
    if (!window.rgb)
        return -1;
    plan_parts(l);
    bs_pool_for(l->options->pool, l->parts, 1, load_part, l);
    int result = 0;
    for (int i = 0; !result && i < l->parts; i++)
        if (l->errors[i].text[0])
            result = bs_err(err, "%s", l->errors[i].text);
    if (!result)
        result = im_turn_upright(&window, l->reader->orientation, err);
    l->rgb = window.rgb;
    return result;
}

static int load_opened(load *l, const im_processor *p, float *out, oc_err *err)
{
    im_plan plan = {0};
    im_reader *r = l->reader;
    im_turn turn = im_orientation_turn(r->orientation);
    if (make_plan(&plan, p, turn.swap ? r->height : r->width, turn.swap ? r->width : r->height, err))
        return -1;
    l->eighths = l->options->fast ? choose_scale(r, &plan, turn.swap) : 8;
    if (r->scale && r->scale(r, l->eighths, err))
        return -1;
    im_resample_task task = {r->width,   r->height,   r->extent_x, r->extent_y, turn,
                             plan.width, plan.height, plan.window, p->resample};
    if (im_resample_init(&l->resample, &task, err))
        return -1;
    return load_window(l, &plan, err) || write_pixels(out, p, &plan, l->rgb, err) ? -1 : 0;
}

int im_processor_load(const im_processor *p, const void *bytes, size_t n, const im_load *options, float *out, oc_err *err)
{
    load l = {.bytes = bytes, .n = n, .options = options};
    l.reader = im_reader_open(bytes, n, &options->decode, err);
    int result = l.reader ? load_opened(&l, p, out, err) : -1;
    im_resample_clear(&l.resample);
    im_reader_close(l.reader);
    bs_free(l.rgb);
    return result;
}
