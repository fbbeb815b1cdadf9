/* lengths.c - how long the rows of an adapted weight are, which DoRA divides by. */
#include <math.h>
#include <string.h>

#include "tensor.h"

/* A block of the adapted weight at a time: it stays in the nearest cache, and a weight [in, out] is read along its own rows. */
enum { ROWS = 16, COLUMNS = 128 };

typedef struct lengths_work {
    const kn_table *kn;
    const tn_lora *lo;
    const float *w;
    long out, in;
    bool in_first;
    float *length;
} lengths_work;

static void copy_block(const lengths_work *k, long o, long rows, long i, long columns, float *to)
{
    for (long r = 0; !k->in_first && r < rows; r++)
        memcpy(to + r * COLUMNS, k->w + (o + r) * k->in + i, (size_t)columns * sizeof *to);
    for (long c = 0; k->in_first && c < columns; c++)
        for (long r = 0; r < rows; r++)
            to[r * COLUMNS + c] = k->w[(i + c) * k->out + o + r];
}

static void some_rows(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const lengths_work *k = arg;
    const tn_lora *lo = k->lo;
    float block[ROWS * COLUMNS];
    for (long o = begin; o < end; o += ROWS) {
        long rows = end - o < ROWS ? end - o : ROWS;
        double sum[ROWS] = {0};
        for (long i = 0; i < k->in; i += COLUMNS) {
            long columns = k->in - i < COLUMNS ? k->in - i : COLUMNS;
            copy_block(k, o, rows, i, columns, block);
            for (long r = 0; r < rows; r++) {
                for (int j = 0; j < lo->r; j++)
                    k->kn->axpy(columns, lo->scale * lo->b[(o + r) * lo->r + j], lo->a + j * k->in + i, block + r * COLUMNS);
                sum[r] += k->kn->sum_squares(columns, block + r * COLUMNS);
            }
        }
        for (long r = 0; r < rows; r++)
            k->length[o + r] = (float)sqrt(sum[r]);
    }
}

void tn_row_lengths(bs_pool *pool, const kn_table *kn, const tn_lora *lo, const float *w, long out, long in, bool in_first,
                    float *length)
{
    lengths_work k = {kn, lo, w, out, in, in_first, length};
    bs_pool_for(pool, out, ROWS, some_rows, &k);
}
