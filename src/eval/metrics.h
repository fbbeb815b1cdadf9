/* metrics.h - what a matrix of scores is worth: ranks, recall, medians, chance; and the best few of a row.
 *
 * Equal scores are ordered by their column, the lower one first, so every figure is the same on each run. */
#ifndef EV_METRICS_H
#define EV_METRICS_H

#include "../base/base.h"

/* For each row of scores [rows, cols]: rank[i] = the place, from 1, of the first right column when columns are ordered by falling score;
 * 0 when no column is right. right[i] (may be NULL) = how many columns are right. Row i and column j belong together when
 * one of their `keys` numbers is the same and not negative; row_keys [rows, keys], col_keys [cols, keys]. */
void ev_ranks(const float *scores, long rows, long cols, const long *row_keys, const long *col_keys, int keys, long *rank,
              long *right);

/* The share of ranks from 1 to k; 0 for n = 0. */
double ev_recall(const long *rank, long n, long k);
/* The middle rank, or the mean of the two in the middle (a copy is sorted). -1 and an error when memory is short. */
double ev_median(const long *rank, long n, oc_err *err);
/* How often a right one is among k columns drawn at random without putting back, when `right` of cols are. */
double ev_chance(long right, long cols, long k);

/* The columns of the k largest of n scores, best first. k <= n. */
void ev_best(const float *scores, long n, long k, long *index);
/* The direction that `each` vectors [each, width] have in common: each made of length 1, their mean made of length 1 again, as CLIP
 * makes one classifier of many templates (Radford et al. 2021, section 3.1.4). A vector of zeros has no say. */
void ev_mean_direction(const float *rows, long each, long width, float *out);

/* Numbers for texts: id[i] == id[j] exactly when the texts are equal; -1 for NULL. The ids are 0 .. *distinct - 1. */
int ev_ids(const char *const *text, long n, long *id, long *distinct, oc_err *err);

#endif
