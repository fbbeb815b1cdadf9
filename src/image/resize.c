/* resize.c - Pillow's resampling, byte for byte.
 *
 * Follows libImaging's Resample.c: two passes, each with integer weights of 22 fractional bits and rounded to
 * 8 bits. Sums of integers do not depend on their order, so the inner loops are
 * free: a weight w is split as w = high * 2^15 + low with both parts in 16 bits, which lets the compiler use
 * multiply-and-add on 16-bit pairs. Weights of one output sum to about 2^22 and |low| <= |w|, so a sum over
 * pixels stays below 2^31 for any number of taps. */
#include <math.h>
#include <string.h>

#include "image.h"

enum { PRECISION = 22, SPLIT = 15, LANES = 8 };

/* ---- filters ------------------------------------------------------------------------------------------ */

static const double pi = 3.14159265358979323846;

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double hamming(double x)
{
    x = fabs(x);
    if (x == 0.0)
        return 1.0;
    if (x >= 1.0)
        return 0.0;
    x *= pi;
    return sin(x) / x * ((double)0.54f + (double)0.46f * cos(x)); /* float literals there, so here */
}

/* Keys' cubic with a = -0.5. */
static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

static double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x *= pi;
    return sin(x) / x;
}

static double lanczos(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

typedef struct filter_shape {
    double (*weight)(double x);
    double support;
} filter_shape;

static const filter_shape shapes[] = {
    [IM_LANCZOS] = {lanczos, 3.0}, [IM_BILINEAR] = {bilinear, 1.0}, [IM_BICUBIC] = {bicubic, 2.0},
    [IM_BOX] = {box, 0.5},         [IM_HAMMING] = {hamming, 1.0},
};

/* ---- weights ------------------------------------------------------------------------------------------ */

/* The weights of one pass. Output i sums inputs first[i] .. first[i] + count[i] - 1; its weights lie at
 * i * room, filled up with zeros. */
typedef struct pass_taps {
    int n, room;
    int *first, *count;
    int16_t *low, *high;
} pass_taps;

static void taps_clear(pass_taps *t)
{
    bs_free(t->first);
    bs_free(t->low);
    memset(t, 0, sizeof *t);
}

/* One beyond the last input that a pass reads. */
static int pass_end(const pass_taps *t) { return t->first[t->n - 1] + t->count[t->n - 1]; }

static int taps_alloc(pass_taps *t, int n, double support, oc_err *err)
{
    t->n = n;
    t->room = ((int)ceil(support) * 2 + 1 + LANES - 1) / LANES * LANES;
    size_t weights = (size_t)n * (size_t)t->room;
    t->first = bs_calloc((size_t)n * 2, sizeof *t->first, "resize weights", err);
    t->low = t->first ? bs_calloc(weights * 2, sizeof *t->low, "resize weights", err) : NULL;
    if (!t->low) {
        taps_clear(t);
        return -1;
    }
    t->count = t->first + n;
    t->high = t->low + weights;
    return 0;
}

static void split_weight(double w, int16_t *low, int16_t *high)
{
    const double one = 1 << PRECISION;
    int fixed = w < 0 ? (int)(w * one - 0.5) : (int)(w * one + 0.5);
    int upper = (fixed + (1 << (SPLIT - 1))) >> SPLIT;
    *high = (int16_t)upper;
    *low = (int16_t)(fixed - upper * (1 << SPLIT));
}

/* Weights of the outputs begin .. begin + n - 1 of a pass from `in` to `out` pixels. */
static int taps_make(pass_taps *t, const filter_shape *shape, int in, int out, int begin, int n, oc_err *err)
{
    double scale = (double)in / out, stretch = scale < 1.0 ? 1.0 : scale;
    double support = shape->support * stretch, shrink = 1.0 / stretch;
    if (taps_alloc(t, n, support, err))
        return -1;
    double *w = bs_alloc((size_t)t->room * sizeof *w, "resize weights", err);
    if (!w) {
        taps_clear(t);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        double center = (begin + i + 0.5) * scale, sum = 0.0;
        int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);
        int first = low < 0 ? 0 : low, count = (high > in ? in : high) - first;
        for (int k = 0; k < count; k++)
            sum += w[k] = shape->weight((k + first - center + 0.5) * shrink);
        size_t at = (size_t)i * (size_t)t->room;
        for (int k = 0; k < count; k++)
            split_weight(sum != 0.0 ? w[k] / sum : w[k], &t->low[at + (size_t)k], &t->high[at + (size_t)k]);
        t->first[i] = first;
        t->count[i] = count;
    }
    bs_free(w);
    return 0;
}

static uint8_t round_to_byte(int64_t sum)
{
    int64_t v = (sum + (1 << (PRECISION - 1))) >> PRECISION;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* ---- horizontal pass ---------------------------------------------------------------------------------- */

/* n is a multiple of LANES. */
static int64_t weighted_sum(const int16_t *restrict pixels, const int16_t *restrict low, const int16_t *restrict high, int n)
{
    int32_t sum_low = 0, sum_high = 0;
    for (int i = 0; i < n; i++) {
        sum_low += pixels[i] * low[i];
        sum_high += pixels[i] * high[i];
    }
    return (int64_t)sum_high * (1 << SPLIT) + sum_low;
}

static void split_planes(int16_t *planes, size_t room, const uint8_t *rgb, int n)
{
    int16_t *r = planes, *g = planes + room, *b = planes + 2 * room;
    for (int i = 0; i < n; i++) {
        r[i] = rgb[3 * i];
        g[i] = rgb[3 * i + 1];
        b[i] = rgb[3 * i + 2];
    }
}

/* `rows` rows, of which `in` is column `column` and which lie stride bytes apart, become t->n pixels each. */
static int horizontal(uint8_t *out, const uint8_t *in, size_t stride, int column, int rows, const pass_taps *t, oc_err *err)
{
    int begin = t->first[0], end = pass_end(t);
    size_t room = (size_t)(end - begin + t->room); /* the last output reads on into zeros */
    int16_t *planes = bs_calloc(room * 3, sizeof *planes, "a row to resize", err);
    if (!planes)
        return -1;
    for (int y = 0; y < rows; y++, in += stride) {
        split_planes(planes, room, in + (size_t)(begin - column) * 3, end - begin);
        for (int x = 0; x < t->n; x++) {
            size_t at = (size_t)x * (size_t)t->room;
            int n = (t->count[x] + LANES - 1) / LANES * LANES;
            const int16_t *pixels = planes + (t->first[x] - begin);
            for (size_t c = 0; c < 3; c++)
                *out++ = round_to_byte(weighted_sum(pixels + c * room, t->low + at, t->high + at, n));
        }
    }
    bs_free(planes);
    return 0;
}

/* ---- vertical pass ------------------------------------------------------------------------------------ */

static void add_row(int32_t *restrict sums, const uint8_t *restrict row, int weight, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sums[i] += row[i] * weight;
}

/* Rows of n bytes, of which `in` is row `row` and which lie stride bytes apart, become t->n rows. */
static void vertical(uint8_t *out, const uint8_t *in, size_t stride, int row, size_t n, const pass_taps *t)
{
    enum { BLOCK = 1024 };
    int32_t sums[BLOCK];
    for (int y = 0; y < t->n; y++, out += n) {
        const int16_t *low = t->low + (size_t)y * (size_t)t->room;
        const int16_t *high = t->high + (size_t)y * (size_t)t->room;
        const uint8_t *rows = in + (size_t)(t->first[y] - row) * stride;
        for (size_t x = 0; x < n; x += BLOCK) {
            size_t width = n - x < BLOCK ? n - x : BLOCK;
            memset(sums, 0, width * sizeof *sums);
            for (int k = 0; k < t->count[y]; k++)
                add_row(sums, rows + (size_t)k * stride + x, high[k] * (1 << SPLIT) + low[k], width);
            for (size_t i = 0; i < width; i++)
                out[x + i] = round_to_byte(sums[i]);
        }
    }
}

/* ---- both --------------------------------------------------------------------------------------------- */

/* Pillow steps through the source with an accumulating double; so do we. */
static void nearest_columns(int *columns, int in, int out, int begin, int n)
{
    double step = (double)in / out, at = step * 0.5;
    for (int i = 0; i < begin + n; i++, at += step) {
        int column = (int)at < in ? (int)at : in - 1;
        if (i >= begin)
            columns[i - begin] = column;
    }
}

static int nearest(uint8_t *out, im_window win, const im_raster *in, int width, int height, oc_err *err)
{
    int *columns = bs_calloc((size_t)win.width + (size_t)win.height, sizeof *columns, "resize columns", err);
    if (!columns)
        return -1;
    int *rows = columns + win.width;
    nearest_columns(columns, in->width, width, win.x, win.width);
    nearest_columns(rows, in->height, height, win.y, win.height);
    for (int y = 0; y < win.height; y++) {
        const uint8_t *row = in->rgb + (size_t)rows[y] * (size_t)in->width * 3;
        for (int x = 0; x < win.width; x++, out += 3)
            memcpy(out, row + (size_t)columns[x] * 3, 3);
    }
    bs_free(columns);
    return 0;
}

/* What the passes of one call share. */
typedef struct resize_job {
    uint8_t *out;
    im_window window;
    const im_raster *in;
    pass_taps across, down; /* one without outputs (n 0) does not run: a side that stays is not rounded */
    oc_err *err;
} resize_job;

static int across_first(resize_job *job)
{
    int begin = job->down.first[0], end = pass_end(&job->down);
    size_t row = (size_t)job->window.width * 3, stride = (size_t)job->in->width * 3;
    uint8_t *middle = bs_alloc((size_t)(end - begin) * row, "a picture half resized", job->err);
    int result = -1;
    if (middle && !horizontal(middle, job->in->rgb + (size_t)begin * stride, stride, 0, end - begin, &job->across, job->err)) {
        vertical(job->out, middle, row, begin, row, &job->down);
        result = 0;
    }
    bs_free(middle);
    return result;
}

static int down_first(resize_job *job)
{
    int begin = job->across.first[0], end = pass_end(&job->across);
    size_t row = (size_t)(end - begin) * 3, stride = (size_t)job->in->width * 3;
    uint8_t *middle = bs_alloc((size_t)job->window.height * row, "a picture half resized", job->err);
    int result = -1;
    if (middle) {
        vertical(middle, job->in->rgb + (size_t)begin * 3, stride, 0, row, &job->down);
        result = horizontal(job->out, middle, row, begin, job->window.height, &job->across, job->err);
    }
    bs_free(middle);
    return result;
}

static int one_pass(resize_job *job)
{
    const im_window *w = &job->window;
    size_t row = (size_t)w->width * 3, stride = (size_t)job->in->width * 3;
    const uint8_t *rows = job->in->rgb + (size_t)w->y * stride;
    if (job->across.n)
        return horizontal(job->out, rows, stride, 0, w->height, &job->across, job->err);
    if (job->down.n)
        vertical(job->out, job->in->rgb + (size_t)w->x * 3, stride, 0, row, &job->down);
    else
        for (int y = 0; y < w->height; y++)
            memcpy(job->out + (size_t)y * row, rows + (size_t)y * stride + (size_t)w->x * 3, row);
    return 0;
}

/* Since Pillow 13 the vertical pass goes first when it takes away more than twice as many pixels as the
 * horizontal one; before, never. Rounding between the passes makes that visible. */
static bool is_down_first(const im_raster *in, int width, int height)
{
    int64_t down = (int64_t)in->height - height, across = (int64_t)in->width - width;
    return down > 0 && down > 2 * across;
}

static int resample(uint8_t *out, im_window window, const im_raster *in, int width, int height, const filter_shape *shape,
                    oc_err *err)
{
    resize_job job = {.out = out, .window = window, .in = in, .err = err};
    int result = -1;
    if (width != in->width && taps_make(&job.across, shape, in->width, width, window.x, window.width, err))
        goto done;
    if (height != in->height && taps_make(&job.down, shape, in->height, height, window.y, window.height, err))
        goto done;
    if (!job.across.n || !job.down.n)
        result = one_pass(&job);
    else
        result = is_down_first(in, width, height) ? down_first(&job) : across_first(&job);
done:
    taps_clear(&job.across);
    taps_clear(&job.down);
    return result;
}

static bool in_range(int width, int height, int max) { return width >= 1 && height >= 1 && width <= max && height <= max; }

int im_resize_window(uint8_t *out, im_window window, const im_raster *in, int width, int height, im_filter filter, oc_err *err)
{
    if (!in_range(in->width, in->height, IM_MAX_SIDE) || !in_range(width, height, IM_MAX_RESIZED))
        return bs_err(err, "cannot resize %d x %d pixels to %d x %d: expected sides of 1 to %d, and to %d", in->width, in->height,
                      width, height, IM_MAX_SIDE, IM_MAX_RESIZED);
    if (window.x < 0 || window.y < 0 || window.width < 1 || window.height < 1 || window.width > width - window.x ||
        window.height > height - window.y)
        return bs_err(err, "cannot resize: the window %d x %d at %d, %d is outside of %d x %d", window.width, window.height,
                      window.x, window.y, width, height);
    if (filter == IM_NEAREST)
        return nearest(out, window, in, width, height, err);
    if ((unsigned)filter > IM_HAMMING)
        return bs_err(err, "cannot resize: filter %d is unknown, expected 0..%d", (int)filter, IM_HAMMING);
    return resample(out, window, in, width, height, &shapes[filter], err);
}

int im_resize(uint8_t *out, const im_raster *in, int width, int height, im_filter filter, oc_err *err)
{
    return im_resize_window(out, (im_window){0, 0, width, height}, in, width, height, filter, err);
}
