/* op_distance.c - T5's relative positions (Raffel 2020): what a head adds to a score is looked up by the distance of key and query. */
#include <math.h>
#include <stdlib.h>

#include "ops.h"

typedef struct distance_record {
    tn_record head;
    const tn_param *table;
    tn_buckets buckets;
    tn_bias bias;
} distance_record;

/* In float, as the reference computes it: that decides where buckets begin. */
static long bucket_of(const tn_buckets *b, long distance)
{
    long n = b->count, first = 0;
    if (b->both_ways) {
        n /= 2;
        first = distance > 0 ? n : 0;
        distance = labs(distance);
    } else
        distance = distance < 0 ? -distance : 0;
    long exact = n / 2;
    if (distance < exact)
        return first + distance;
    float far = logf((float)distance / (float)exact) / (float)log((double)b->max_distance / (double)exact) * (float)(n - exact);
    return first + (far < (float)(n - exact) ? exact + (long)far : n - 1);
}

static void distance_backward(tn_ctx *cx, tn_record *self)
{
    distance_record *r = (distance_record *)self;
    float *g = tn_grad_of(cx, r->table);
    const float *dy = tn_gradient(cx, r->bias.v);
    long heads = r->bias.v.shape[0], n = tn_last(r->bias.v);
    for (long i = 0; i < n; i++) {
        float *row = g + bucket_of(&r->buckets, i - r->bias.zero) * heads;
        for (long h = 0; h < heads; h++)
            row[h] += dy[h * n + i];
    }
}

tn_bias tn_distance_bias(tn_ctx *cx, const tn_param *table, const tn_buckets *buckets, long tq, long tk)
{
    long exact = buckets->count / (buckets->both_ways ? 4 : 2), heads = table->shape[1], n = tq + tk - 1;
    if (cx->failed)
        return (tn_bias){0};
    if (table->rank != 2 || table->shape[0] != buckets->count || exact < 1 || buckets->max_distance <= exact || tq < 1 ||
        tk < 1) {
        tn_fail(cx, "distances: %ld buckets up to %ld do not suit a table of %ld", buckets->count, buckets->max_distance,
                table->shape[0]);
        return (tn_bias){0};
    }
    tn_bias y = {tn_new2(cx, tn_grad_of(cx, table) != NULL, heads, n), tk - 1};
    for (long i = 0; tn_live(cx) && i < n; i++) {
        const float *row = table->v + bucket_of(buckets, i - y.zero) * heads;
        for (long h = 0; h < heads; h++)
            y.v.v[h * n + i] = row[h];
    }
    distance_record *r = y.v.grad ? tn_push(cx, sizeof *r, distance_backward) : NULL;
    if (r)
        *r = (distance_record){r->head, table, *buckets, y};
    return y;
}
