/* start_from.c - a fresh model takes the weights of another: all that have the same name and shape, and tables of a picture's positions resampled to another grid. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Keys' cubic kernel with a = -0.75, as torch.nn.functional.interpolate's bicubic mode has it. */
static double cubic(double x)
{
    const double a = -0.75;
    x = fabs(x);
    if (x <= 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

/* The four neighbours on an axis of `from` points of point i of `to` (corners not aligned), and their shares. */
static void neighbours(long from, long to, long i, long *at, double *share)
{
    double x = ((double)i + 0.5) * (double)from / (double)to - 0.5, low = floor(x);
    for (int k = 0; k < 4; k++) {
        long p = (long)low - 1 + k;
        at[k] = p < 0 ? 0 : p >= from ? from - 1 : p;
        share[k] = cubic(x - (low - 1 + k));
    }
}

/* x [from, from, d] -> y [to, to, d] */
static void resample(const float *x, long from, float *y, long to, long d)
{
    for (long i = 0; i < to; i++)
        for (long j = 0; j < to; j++) {
            long row[4], column[4];
            double down[4], across[4];
            neighbours(from, to, i, row, down);
            neighbours(from, to, j, column, across);
            for (long c = 0; c < d; c++) {
                double sum = 0;
                for (int k = 0; k < 16; k++)
                    sum += down[k / 4] * across[k % 4] * (double)x[(row[k / 4] * from + column[k % 4]) * d + c];
                y[(i * to + j) * d + c] = (float)sum;
            }
        }
}

/* The side of a square grid of n points, or -1. */
static long side_of(long n)
{
    long s = lround(sqrt((double)n));
    return n > 0 && s * s == n ? s : -1;
}

/* Both are positions of square grids, with or without a class token's in front: rows that are no part of the grid, else -1. */
static long rows_in_front(const md_slot *a, const md_slot *b)
{
    const long *p = a->p->shape, *q = b->p->shape;
    int r = a->p->rank;
    if (!strstr(a->name, "position_embedding") || r < 2 || b->p->rank != r || p[r - 1] != q[r - 1])
        return -1;
    for (long front = 0; front < 2; front++)
        if (side_of(p[r - 2] - front) > 0 && side_of(q[r - 2] - front) > 0)
            return front;
    return -1;
}

static int take(md_slot *to, const md_model *from, const md_slot *s, oc_err *err)
{
    bool same = to->count == s->count && to->p->rank == s->p->rank;
    for (int i = 0; same && i < to->p->rank; i++)
        same = to->p->shape[i] == s->p->shape[i];
    if (same)
        return md_read_weight(from, s, to->own, err);
    long front = rows_in_front(s, to), d = s->p->shape[s->p->rank - 1];
    if (front < 0)
        return bs_err(err, "cannot start from '%s': its '%s' has another shape, and is no table of a picture's positions", from->folder,
                      s->name);
    float *x = bs_alloc((size_t)s->count * sizeof *x, "a table of positions", err);
    int result = x ? md_read_weight(from, s, x, err) : -1;
    if (!result) {
        memcpy(to->own, x, (size_t)(front * d) * sizeof *x);
        resample(x + front * d, side_of(s->count / d - front), to->own + front * d, side_of(to->count / d - front), d);
    }
    bs_free(x);
    return result;
}

int md_start_from(md_model *m, const char *folder, oc_err *err)
{
    int taken = 0;
    md_model *from = md_open(folder, err);
    for (int i = 0; from && taken >= 0 && i < m->n; i++) {
        int k = md_slot_of(from, m->slots[i].name);
        if (k >= 0 && from->slots[k].p->id >= 0)
            taken = take(&m->slots[i], from, &from->slots[k], err) ? -1 : taken + 1;
    }
    if (from && !taken)
        bs_err(err, "cannot start from '%s': none of its weights' names is one of this model's", folder);
    md_close(from);
    return taken > 0 ? taken : -1;
}
