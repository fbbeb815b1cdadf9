/* neighbour.c - HOG and colour, and the nearest by cosine. */
#include "neighbour.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "metrics.h"

/* ---- features ------------------------------------------------------------------------------------------------- */

static bool is_ink(const uint8_t *p) { return p[0] < 247 || p[1] < 247 || p[2] < 247; }

/* The rectangle that holds everything that is not nearly white; the whole picture when all of it is. */
static im_window ink_window(const oc_picture *in)
{
    int x0 = in->width, y0 = in->height, x1 = -1, y1 = -1;
    for (int y = 0; y < in->height; y++)
        for (int x = 0; x < in->width; x++)
            if (is_ink(in->rgb + ((size_t)y * (size_t)in->width + (size_t)x) * 3)) {
                x0 = x < x0 ? x : x0;
                x1 = x > x1 ? x : x1;
                y0 = y < y0 ? y : y0;
                y1 = y;
            }
    return x1 < 0 ? (im_window){0, 0, in->width, in->height} : (im_window){x0, y0, x1 - x0 + 1, y1 - y0 + 1};
}

/* Cut to the ink, brought to EV_SIDE x EV_SIDE by area, 0 to 1. */
static int small_picture(const oc_picture *in, float x[EV_SIDE * EV_SIDE * 3], oc_err *err)
{
    im_window w = ink_window(in);
    im_raster cut = {w.width, w.height, NULL};
    uint8_t small[EV_SIDE * EV_SIDE * 3];
    size_t row = (size_t)w.width * 3;
    cut.rgb = bs_alloc(row * (size_t)w.height, "a picture cut to its content", err);
    if (!cut.rgb)
        return -1;
    for (int y = 0; y < w.height; y++)
        memcpy(cut.rgb + (size_t)y * row, in->rgb + ((size_t)(w.y + y) * (size_t)in->width + (size_t)w.x) * 3, row);
    int result = im_resize(small, &cut, EV_SIDE, EV_SIDE, IM_BOX, err);
    for (int i = 0; !result && i < EV_SIDE * EV_SIDE * 3; i++)
        x[i] = (float)small[i] / 255;
    im_raster_clear(&cut);
    return result;
}

static void scale_to(float *x, int n, float to)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    float norm = fmaxf(sqrtf(sum), 1e-12f);
    for (int i = 0; i < n; i++)
        x[i] = x[i] / norm * to;
}

/* The direction of a gradient and of its opposite are one; 0 .. EV_ORIENTATIONS - 1. */
static int orientation(float gx, float gy)
{
    const float pi = 3.14159265358979f;
    float angle = fmodf(atan2f(gy, gx), pi);
    int bin = (int)((angle < 0 ? angle + pi : angle) / pi * EV_ORIENTATIONS);
    return bin < EV_ORIENTATIONS ? bin : EV_ORIENTATIONS - 1;
}

static void gradient_histograms(const float *x, float hog[EV_HOG])
{
    float grey[EV_SIDE + 2][EV_SIDE + 2] = {{0}}; /* a border of zeros, so that edges count where a picture is cut off */
    for (int i = 0; i < EV_SIDE * EV_SIDE; i++)
        grey[i / EV_SIDE + 1][i % EV_SIDE + 1] = (x[3 * i] + x[3 * i + 1] + x[3 * i + 2]) / 3;
    memset(hog, 0, EV_HOG * sizeof *hog);
    for (int i = 0; i < EV_SIDE * EV_SIDE; i++) {
        int r = i / EV_SIDE + 1, c = i % EV_SIDE + 1;
        float gx = grey[r][c + 1] - grey[r][c - 1], gy = grey[r + 1][c] - grey[r - 1][c];
        hog[(orientation(gx, gy) * EV_GRID + (r - 1) / EV_CELL) * EV_GRID + (c - 1) / EV_CELL] += hypotf(gx, gy);
    }
    for (int i = 0; i < EV_HOG; i++)
        hog[i] = sqrtf(hog[i] / (EV_CELL * EV_CELL));
}

static void cell_colours(const float *x, float colour[EV_COLOUR])
{
    memset(colour, 0, EV_COLOUR * sizeof *colour);
    for (int i = 0; i < EV_SIDE * EV_SIDE; i++)
        for (int c = 0; c < 3; c++)
            colour[(i / EV_SIDE / EV_CELL * EV_GRID + i % EV_SIDE / EV_CELL) * 3 + c] += x[3 * i + c];
    for (int i = 0; i < EV_COLOUR; i++)
        colour[i] = colour[i] / (EV_CELL * EV_CELL) - 0.6f;
}

int ev_neighbour_features(const oc_picture *in, float *features, oc_err *err)
{
    float x[EV_SIDE * EV_SIDE * 3];
    if (small_picture(in, x, err))
        return -1;
    gradient_histograms(x, features);
    scale_to(features, EV_HOG, 1);
    cell_colours(x, features + EV_HOG);
    scale_to(features + EV_HOG, EV_COLOUR, 0.7f);
    scale_to(features, EV_FEATURES, 1);
    return 0;
}

/* ---- pictures by their features ------------------------------------------------------------------------------------ */

typedef struct reading {
    const char *const *path;
    const oc_options *options;
    float *features;
    oc_err *errors;
} reading;

static void read_features(void *arg, long begin, long end, int worker)
{
    (void)worker;
    reading *r = arg;
    for (long i = begin; i < end; i++) {
        oc_picture p;
        if (oc_picture_read(&p, r->path[i], r->options))
            r->errors[i] = p.err;
        else if (ev_neighbour_features(&p, r->features + i * EV_FEATURES, &r->errors[i]))
            bs_err_prefix(&r->errors[i], "cannot prepare '%s': ", r->path[i]);
        oc_picture_clear(&p);
    }
}

static int look(void *arg, const char *const *paths, int n, float *rows, oc_err *errors, oc_err *err)
{
    (void)err;
    const ev_plain_eyes *e = arg;
    reading r = {paths, &e->options, rows, errors};
    memset(rows, 0, (size_t)n * EV_FEATURES * sizeof *rows);
    memset(errors, 0, (size_t)n * sizeof *errors);
    bs_pool_for(e->pool, n, 4, read_features, &r);
    return 0;
}

int ev_plain_eyes_open(ev_plain_eyes *e, const oc_options *options, oc_err *err)
{
    const kn_table *kn = kn_best(err);
    *e = (ev_plain_eyes){.options = *options};
    e->pool = kn ? bs_pool_open(options->threads, err) : NULL;
    e->work = e->pool ? kn_work_open(kn, e->pool, err) : NULL;
    return e->work ? 0 : -1;
}

void ev_plain_eyes_close(ev_plain_eyes *e)
{
    kn_work_close(e->work);
    bs_pool_close(e->pool);
    *e = (ev_plain_eyes){0};
}

ev_eyes ev_eyes_of(ev_plain_eyes *e)
{
    enum { PART = 256 };
    return (ev_eyes){look, e, EV_FEATURES, PART, e->work};
}

/* ---- neighbours --------------------------------------------------------------------------------------------------------- */

/* The place of `name`, from 1, among the distinct names of the nearest; 0 when it is none of them. */
static long place_of(long name, const long *nearest, long n, const long *train_name)
{
    long seen[EV_NEAREST], distinct = 0;
    for (long i = 0; i < n; i++) {
        long k = 0, id = train_name[nearest[i]];
        while (k < distinct && seen[k] != id)
            k++;
        if (k < distinct)
            continue;
        seen[distinct++] = id;
        if (id == name)
            return distinct;
    }
    return 0;
}

static int find_places(kn_work *work, const ev_gallery *train, const ev_gallery *data, const long *train_name,
                       const long *data_name, long *place, oc_err *err)
{
    enum { ROWS = 128 };
    long nearest[EV_NEAREST], k = train->n < EV_NEAREST ? train->n : EV_NEAREST;
    float *scores = bs_alloc(ROWS * (size_t)train->n * sizeof *scores, "scores", err);
    if (!scores)
        return -1;
    for (long at = 0; at < data->n; at += ROWS) {
        long part = data->n - at < ROWS ? data->n - at : ROWS;
        ev_scores(work, data->rows + at * EV_FEATURES, part, train->rows, train->n, EV_FEATURES, scores);
        for (long i = 0; i < part; i++) {
            ev_best(scores + i * train->n, train->n, k, nearest);
            place[at + i] = place_of(data_name[at + i], nearest, k, train_name);
        }
    }
    bs_free(scores);
    return 0;
}

/* One list of both sets' names gives them common numbers: ids [train, data]. */
static int number_names(const ev_gallery *train, const ev_gallery *data, long *ids, long *train_names, oc_err *err)
{
    long distinct;
    const char **all = bs_alloc((size_t)(train->n + data->n) * sizeof *all, "names", err);
    if (!all)
        return -1;
    memcpy(all, train->text, (size_t)train->n * sizeof *all);
    memcpy(all + train->n, data->text, (size_t)data->n * sizeof *all);
    int result =
        ev_ids(train->text, train->n, ids, train_names, err) || ev_ids(all, train->n + data->n, ids, &distinct, err) ? -1 : 0;
    bs_free(all);
    return result;
}

static int judge(kn_work *work, const ev_gallery *train, const ev_gallery *data, ev_neighbour *out, oc_err *err)
{
    long *ids = bs_alloc((size_t)(train->n + data->n) * sizeof *ids, "names", err), names = 0;
    long *place = ids ? bs_alloc((size_t)data->n * sizeof *place, "ranks", err) : NULL;
    int result = -1;
    if (place && !number_names(train, data, ids, &names, err) &&
        !find_places(work, train, data, ids, ids + train->n, place, err)) {
        *out = (ev_neighbour){
            ev_recall(place, data->n, 1), ev_recall(place, data->n, 5), 1 / (double)names, names, data->n, train->n};
        result = 0;
    }
    bs_free(ids);
    bs_free(place);
    return result;
}

int ev_neighbour_run(const dt_pairs *train, const dt_pairs *data, const char *language, const oc_options *options,
                     ev_neighbour *out, ev_talk *talk, oc_err *err)
{
    ev_plain_eyes plain;
    ev_gallery known = {0}, asked = {0};
    int result = -1;
    if (!ev_plain_eyes_open(&plain, options, err)) {
        ev_eyes eyes = ev_eyes_of(&plain);
        if (!ev_gallery_init(&known, &eyes, train, language, talk, err) &&
            !ev_gallery_init(&asked, &eyes, data, language, talk, err))
            result = judge(plain.work, &known, &asked, out, err);
    }
    ev_gallery_clear(&known);
    ev_gallery_clear(&asked);
    ev_plain_eyes_close(&plain);
    return result;
}
