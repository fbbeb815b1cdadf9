/* op_rotary.c - rotary positions (Su et al. 2021): angles are computed once for all layers, in double; a layer turns its queries and keys by them. */
#include <string.h>

#include "branches.h"

tn_angles tn_rotary(tn_ctx *cx, const int *positions, long rows, const double *frequency, long half, float factor)
{
    float *c = tn_bytes(cx, (size_t)(rows * half) * sizeof *c), *s = tn_bytes(cx, (size_t)(rows * half) * sizeof *s);
    tn_angles a = {c, s, rows, half};
    if (!tn_live(cx))
        return a;
    for (long r = 0; r < rows; r++)
        kn_rotary_angles(1, half, positions[r], frequency, c + r * half, s + r * half);
    if (factor != 1) {
        cx->kn->scale(rows * half, factor, c, c);
        cx->kn->scale(rows * half, factor, s, s);
    }
    return a;
}

typedef struct rotate_record {
    tn_record head;
    tn_t x, y;
    tn_angles a;
    long heads;
} rotate_record;

typedef struct turn {
    const tn_ctx *cx;
    const rotate_record *r;
    const float *x;
    float *y;
    bool back;
} turn;

/* What lies behind the dimensions that turn passes through. */
static void turn_head(const turn *k, long row, const float *x, float *y, long d)
{
    const tn_angles *a = &k->r->a;
    long at = row % a->rows * a->half, turned = 2 * a->half;
    k->cx->kn->rotate(a->half, x, a->c + at, a->s + at, k->back ? -1 : 1, k->back, y);
    if (turned < d && k->back)
        k->cx->kn->add(d - turned, y + turned, x + turned, y + turned);
    else if (turned < d)
        memcpy(y + turned, x + turned, (size_t)(d - turned) * sizeof *y);
}

static void turn_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const turn *k = arg;
    long width = tn_last(k->r->x), d = width / k->r->heads;
    for (long row = begin; row < end; row++)
        for (long e = 0; e < width; e += d)
            turn_head(k, row, k->x + row * width + e, k->y + row * width + e, d);
}

static void rotate_backward(tn_ctx *cx, tn_record *self)
{
    rotate_record *r = (rotate_record *)self;
    turn back = {cx, r, tn_gradient(cx, r->y), tn_gradient(cx, r->x), true}; /* a rotation's transpose turns back */
    tn_each(cx, tn_rows(r->x), tn_last(r->x), turn_rows, &back);
}

tn_t tn_rotate(tn_ctx *cx, tn_t x, long heads, tn_angles a)
{
    if (cx->failed)
        return (tn_t){0};
    if (heads < 1 || tn_last(x) % heads || tn_last(x) / heads < 2 * a.half || a.rows < 1 || tn_rows(x) % a.rows)
        return tn_fail(cx, "rotary positions: %ld rows of %ld heads in %ld do not take %ld rows of %ld angles", tn_rows(x), heads,
                       tn_last(x), a.rows, a.half);
    rotate_record now = {.x = x, .y = tn_like(cx, x, x.grad), .a = a, .heads = heads};
    turn there = {cx, &now, x.v, now.y.v, false};
    if (tn_live(cx))
        tn_each(cx, tn_rows(x), tn_last(x), turn_rows, &there);
    rotate_record *r = now.y.grad ? tn_push(cx, sizeof *r, rotate_backward) : NULL;
    if (r) {
        now.head = r->head;
        *r = now;
    }
    return now.y;
}

tn_t tn_rope(tn_ctx *cx, tn_t x, float theta, long offset)
{
    if (cx->failed)
        return (tn_t){0};
    if (x.rank < 2 || tn_last(x) % 2)
        return tn_fail(cx, "rope: a width of %ld does not pair up", tn_last(x));
    if (tn_branches_refused(cx, "rope"))
        return (tn_t){0};
    long half = tn_last(x) / 2, t = x.shape[x.rank - 2];
    int *positions = tn_bytes(cx, (size_t)t * sizeof *positions);
    double *frequency = tn_bytes(cx, (size_t)half * sizeof *frequency);
    if (tn_live(cx)) {
        kn_rotary_frequencies(half, (double)theta, frequency);
        for (long i = 0; i < t; i++)
            positions[i] = (int)(offset + i);
    }
    return tn_rotate(cx, x, 1, tn_rotary(cx, positions, t, frequency, half, 1));
}
