/* metrics.c - ranks and what follows from them. */
#include "metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- ranks ------------------------------------------------------------------------------------------------ */

static bool belong(const long *a, const long *b, int keys)
{
    for (int k = 0; k < keys; k++)
        if (a[k] >= 0 && a[k] == b[k])
            return true;
    return false;
}

void ev_ranks(const float *scores, long rows, long cols, const long *row_keys, const long *col_keys, int keys, long *rank,
              long *right)
{
    for (long i = 0; i < rows; i++) {
        const float *s = scores + i * cols;
        long best = -1, found = 0, before = 0;
        for (long j = 0; j < cols; j++)
            if (belong(row_keys + i * keys, col_keys + j * keys, keys)) {
                best = best < 0 || s[j] > s[best] ? j : best;
                found++;
            }
        for (long j = 0; best >= 0 && j < cols; j++)
            before += s[j] > s[best] || (s[j] == s[best] && j < best);
        rank[i] = best < 0 ? 0 : before + 1;
        if (right)
            right[i] = found;
    }
}

double ev_recall(const long *rank, long n, long k)
{
    long hits = 0;
    for (long i = 0; i < n; i++)
        hits += rank[i] >= 1 && rank[i] <= k;
    return n ? (double)hits / (double)n : 0;
}

static int by_value(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

double ev_median(const long *rank, long n, oc_err *err)
{
    if (!n)
        return 0;
    long *sorted = bs_alloc((size_t)n * sizeof *sorted, "ranks", err);
    if (!sorted)
        return -1;
    memcpy(sorted, rank, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    double median = ((double)sorted[(n - 1) / 2] + (double)sorted[n / 2]) / 2;
    bs_free(sorted);
    return median;
}

double ev_chance(long right, long cols, long k)
{
    double miss = 1; /* C(cols - right, k) / C(cols, k), factor by factor */
    for (long i = 0; i < k && i < cols; i++) {
        long wrong = cols - right - i;
        miss *= wrong > 0 ? (double)wrong / (double)(cols - i) : 0;
    }
    return 1 - miss;
}

/* ---- the best few: a heap of k columns whose root is the one to give up next ------------------------------- */

static bool worse(const float *s, long a, long b) { return s[a] < s[b] || (s[a] == s[b] && a > b); }

static void sift(const float *s, long *heap, long n, long at)
{
    for (long child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && worse(s, heap[child + 1], heap[child]))
            child++;
        if (!worse(s, heap[child], heap[at]))
            return;
        long swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

void ev_best(const float *scores, long n, long k, long *index)
{
    for (long i = 0; i < k; i++)
        index[i] = i;
    for (long i = k / 2 - 1; i >= 0; i--)
        sift(scores, index, k, i);
    for (long i = k; k && i < n; i++)
        if (worse(scores, index[0], i)) {
            index[0] = i;
            sift(scores, index, k, 0);
        }
    for (long end = k - 1; end > 0; end--) {
        long swap = index[0];
        index[0] = index[end];
        index[end] = swap;
        sift(scores, index, end, 0);
    }
}

/* ---- vectors -------------------------------------------------------------------------------------------------- */

static double length(const float *x, long n)
{
    double sum = 0;
    for (long i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

void ev_mean_direction(const float *rows, long each, long width, float *out)
{
    memset(out, 0, (size_t)width * sizeof *out);
    for (long r = 0; r < each; r++) {
        double norm = length(rows + r * width, width);
        for (long i = 0; norm > 0 && i < width; i++)
            out[i] += (float)((double)rows[r * width + i] / norm / (double)each);
    }
    double norm = length(out, width);
    for (long i = 0; norm > 0 && i < width; i++)
        out[i] = (float)((double)out[i] / norm);
}

/* ---- texts ----------------------------------------------------------------------------------------------------- */

typedef struct entry {
    const char *text;
    long at;
} entry;

static int by_text(const void *a, const void *b) { return strcmp(((const entry *)a)->text, ((const entry *)b)->text); }

int ev_ids(const char *const *text, long n, long *id, long *distinct, oc_err *err)
{
    entry *e = bs_alloc((size_t)(n ? n : 1) * sizeof *e, "a list of names", err);
    long used = 0, ids = 0;
    if (!e)
        return -1;
    for (long i = 0; i < n; i++) {
        id[i] = -1;
        if (text[i])
            e[used++] = (entry){text[i], i};
    }
    qsort(e, (size_t)used, sizeof *e, by_text);
    for (long i = 0; i < used; i++) {
        ids += i == 0 || strcmp(e[i].text, e[i - 1].text) != 0;
        id[e[i].at] = ids - 1;
    }
    *distinct = ids;
    bs_free(e);
    return 0;
}
