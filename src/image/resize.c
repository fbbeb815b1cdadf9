/* resize.c - Pillow's resampling, byte for byte, one row after another.
 *
 * Follows libImaging's Resample.c: two passes, each with integer weights of 22 fractional bits and rounded to 8 bits. Sums of integers do
 * not depend on their order, so the kernels are free in theirs. Rows are taken as they come from a decoder, in the way that they are
 * stored: a picture that lies on its side or stands on its head is resized so, and only what comes out is turned. No more rows are kept
 * than one output needs. */
#include <math.h>
#include <string.h>

#include "resample.h"

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

/* One pass along an axis of the stored picture. */
typedef struct pass {
    int in, out;   /* sides */
    double extent; /* of the input, <= in */
    bool flip;     /* outputs are counted from the end of the axis */
    int begin, n;  /* the outputs that are wanted, counted so */
} pass;

static void taps_clear(kn_taps *t)
{
    bs_free(t->first);
    bs_free(t->low);
    memset(t, 0, sizeof *t);
}

static int taps_alloc(kn_taps *t, int n, int most, oc_err *err)
{
    t->n = n;
    t->room = (most + KN_TAP_LANES - 1) / KN_TAP_LANES * KN_TAP_LANES;
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

static void put_weight(kn_taps *t, int i, int k, double w)
{
    const double one = 1 << KN_TAP_BITS;
    int fixed = w < 0 ? (int)(w * one - 0.5) : (int)(w * one + 0.5);
    int upper = (fixed + (1 << (KN_TAP_SPLIT - 1))) >> KN_TAP_SPLIT;
    size_t at = (size_t)i * (size_t)t->room + (size_t)k;
    t->high[at] = (int16_t)upper;
    t->low[at] = (int16_t)(fixed - upper * (1 << KN_TAP_SPLIT));
}

/* Each output is one input: the nearest, or its own on a side that stays. Pillow steps with an accumulating double; so do we. */
static int single_taps(kn_taps *t, const pass *p, oc_err *err)
{
    double step = p->extent / p->out, at = step * 0.5;
    if (taps_alloc(t, p->n, 1, err))
        return -1;
    for (int i = 0; i < p->begin + p->n; i++, at += step) {
        int input = (int)at < p->in ? (int)at : p->in - 1, output = p->flip ? p->n - 1 - (i - p->begin) : i - p->begin;
        if (i < p->begin)
            continue;
        t->first[output] = p->flip ? p->in - 1 - input : input;
        t->count[output] = 1;
        put_weight(t, output, 0, 1.0);
    }
    return 0;
}

/* The inputs that an output reads, counted along the flipped axis where it is one. */
typedef struct reach {
    double center, shrink;
    int first, count;
} reach;

static reach find_reach(const pass *p, const filter_shape *shape, int i)
{
    double scale = p->extent / p->out, stretch = scale < 1.0 ? 1.0 : scale, support = shape->support * stretch;
    double center = (p->begin + i + 0.5) * scale + (p->flip ? p->in - p->extent : 0);
    int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5), first = low < 0 ? 0 : low;
    return (reach){center, 1.0 / stretch, first, (high > p->in ? p->in : high) - first};
}

/* w is scratch. */
static void weigh(kn_taps *t, const pass *p, const filter_shape *shape, int i, double *w)
{
    reach at = find_reach(p, shape, i);
    int output = p->flip ? p->n - 1 - i : i;
    double sum = 0.0;
    for (int k = 0; k < at.count; k++)
        sum += w[k] = shape->weight((k + at.first - at.center + 0.5) * at.shrink);
    for (int k = 0; k < at.count; k++)
        put_weight(t, output, p->flip ? at.count - 1 - k : k, sum != 0.0 ? w[k] / sum : w[k]);
    t->first[output] = p->flip ? p->in - at.first - at.count : at.first;
    t->count[output] = at.count;
}

static int taps_make(kn_taps *t, const pass *p, im_filter filter, oc_err *err)
{
    const filter_shape *shape = &shapes[filter];
    int most = 0;
    if (filter == IM_NEAREST || (p->in == p->out && p->extent == p->in))
        return single_taps(t, p, err);
    for (int i = 0; i < p->n; i++) {
        int count = find_reach(p, shape, i).count;
        most = count > most ? count : most;
    }
    double *w = bs_alloc((size_t)most * sizeof *w, "resize weights", err);
    if (!w || taps_alloc(t, p->n, most, err)) {
        bs_free(w);
        return -1;
    }
    for (int i = 0; i < p->n; i++)
        weigh(t, p, shape, i, w);
    bs_free(w);
    return 0;
}

/* One beyond the last input that outputs up to `end` read. */
static int taps_end(const kn_taps *t, int end) { return t->first[end - 1] + t->count[end - 1]; }

/* ---- a resizing ------------------------------------------------------------------------------------------- */

/* Since Pillow 13 the vertical pass goes first when it takes away more than twice as many pixels as the horizontal one; before, never.
 * Rounding between the passes makes that visible. */
static bool is_down_first(int width, int height, int to_width, int to_height)
{
    int64_t down = (int64_t)height - to_height, across = (int64_t)width - to_width;
    return down > 0 && down > 2 * across;
}

int im_resample_init(im_resample *r, const im_resample_task *t, oc_err *err)
{
    const im_window *w = &t->window;
    bool swap = t->turn.swap;
    memset(r, 0, sizeof *r);
    if ((unsigned)t->filter > IM_HAMMING)
        return bs_err(err, "cannot resize: filter %d is unknown, expected 0..%d", (int)t->filter, IM_HAMMING);
    pass across = {t->width,           swap ? t->to_height : t->to_width, t->extent_x, t->turn.flip_x,
                   swap ? w->y : w->x, swap ? w->height : w->width};
    pass down = {t->height,          swap ? t->to_width : t->to_height, t->extent_y, t->turn.flip_y,
                 swap ? w->x : w->y, swap ? w->width : w->height};
    r->kn = kn_best(err);
    if (!r->kn || taps_make(&r->columns, &across, t->filter, err) || taps_make(&r->rows, &down, t->filter, err)) {
        im_resample_clear(r);
        return -1;
    }
    bool down_first = is_down_first(swap ? t->height : t->width, swap ? t->width : t->height, t->to_width, t->to_height);
    r->columns_first = down_first == swap;
    r->need = (im_window){.x = r->columns.first[0], .y = r->rows.first[0]};
    r->need.width = taps_end(&r->columns, (int)r->columns.n) - r->need.x;
    r->need.height = taps_end(&r->rows, (int)r->rows.n) - r->need.y;
    return 0;
}

void im_resample_clear(im_resample *r)
{
    taps_clear(&r->columns);
    taps_clear(&r->rows);
}

int im_resample_input(const im_resample *r, int begin, int end, int *count)
{
    *count = taps_end(&r->rows, end) - r->rows.first[begin];
    return r->rows.first[begin];
}

/* ---- row by row ------------------------------------------------------------------------------------------- */

/* One call's memory. The ring holds the last `kept` rows, behind the first pass when that is along the columns. */
typedef struct run {
    const im_resample *r;
    kn_taps columns; /* `first` counts from the window's edge */
    int kept;
    size_t row; /* bytes of a kept row */
    long plane; /* of `planes` */
    uint8_t *ring;
    int16_t *planes;      /* [3, plane]: a row's colours apart, and zeros behind them that a last output reads */
    const uint8_t **some; /* [kept] */
    uint8_t *blended;     /* [row] */
} run;

static int run_alloc(run *u, const im_resample *r, oc_err *err)
{
    *u = (run){.r = r, .columns = r->columns};
    for (long i = 0; i < r->rows.n; i++)
        u->kept = r->rows.count[i] > u->kept ? r->rows.count[i] : u->kept;
    u->row = (size_t)(r->columns_first ? r->columns.n : r->need.width) * 3;
    u->plane = r->need.width + r->columns.room;
    u->columns.first = bs_alloc((size_t)r->columns.n * sizeof *u->columns.first, "a row to resize", err);
    u->planes = bs_calloc((size_t)u->plane * 3, sizeof *u->planes, "a row to resize", err);
    u->blended = bs_alloc(u->row, "a row to resize", err);
    u->some = bs_calloc((size_t)u->kept, sizeof *u->some, "rows to resize", err);
    u->ring = bs_alloc((size_t)u->kept * u->row, "rows to resize", err);
    if (!u->columns.first || !u->planes || !u->blended || !u->some || !u->ring)
        return -1;
    for (long i = 0; i < r->columns.n; i++)
        u->columns.first[i] = r->columns.first[i] - r->need.x;
    return 0;
}

static void run_clear(run *u)
{
    bs_free(u->columns.first);
    bs_free(u->planes);
    bs_free(u->blended);
    bs_free(u->some);
    bs_free(u->ring);
}

static void along_columns(run *u, const uint8_t *row, uint8_t *out)
{
    u->r->kn->split_rgb(u->r->need.width, row, u->planes, u->plane);
    u->r->kn->blend_pixels(&u->columns, u->planes, u->plane, out);
}

static uint8_t *kept_row(const run *u, int y) { return u->ring + (size_t)(y % u->kept) * u->row; }

static void keep_row(run *u, const uint8_t *row, int y)
{
    if (u->r->columns_first)
        along_columns(u, row, kept_row(u, y));
    else
        memcpy(kept_row(u, y), row, u->row);
}

static void make_output(run *u, int i, uint8_t *out)
{
    const kn_taps *t = &u->r->rows;
    const int16_t *low = t->low + i * t->room, *high = t->high + i * t->room;
    for (int k = 0; k < t->count[i]; k++)
        u->some[k] = kept_row(u, t->first[i] + k);
    u->r->kn->blend_rows((long)u->row, t->count[i], u->some, low, high, u->r->columns_first ? out : u->blended);
    if (!u->r->columns_first)
        along_columns(u, u->blended, out);
}

int im_resample_run(const im_resample *r, uint8_t *out, int begin, int end, im_rows in, oc_err *err)
{
    run u;
    int result = run_alloc(&u, r, err);
    for (int y = r->rows.first[begin], i = begin; !result && i < end; y++) {
        const uint8_t *row = in.next(in.arg, err);
        if (!row) {
            result = -1;
            break;
        }
        keep_row(&u, row, y);
        for (; i < end && taps_end(&r->rows, i + 1) == y + 1; i++)
            make_output(&u, i, out + (size_t)i * (size_t)r->columns.n * 3);
    }
    run_clear(&u);
    return result;
}

/* ---- pictures in memory -------------------------------------------------------------------------------------- */

typedef struct raster_rows {
    const im_raster *in;
    int x, y; /* of the next row */
} raster_rows;

static const uint8_t *next_raster_row(void *arg, oc_err *err)
{
    raster_rows *at = arg;
    (void)err;
    return at->in->rgb + ((size_t)at->y++ * (size_t)at->in->width + (size_t)at->x) * 3;
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
    im_resample_task task = {in->width, in->height, in->width, in->height, {0}, width, height, window, filter};
    im_resample r;
    if (im_resample_init(&r, &task, err))
        return -1;
    raster_rows at = {in, r.need.x, r.need.y};
    int result = im_resample_run(&r, out, 0, window.height, (im_rows){next_raster_row, &at}, err);
    im_resample_clear(&r);
    return result;
}

int im_resize(uint8_t *out, const im_raster *in, int width, int height, im_filter filter, oc_err *err)
{
    return im_resize_window(out, (im_window){0, 0, width, height}, in, width, height, filter, err);
}
