/* caption_metrics.h - how near captions are to what people wrote: BLEU (Papineni et al. 2002) and CIDEr-D (Vedantam et al. 2015), as the COCO
 * caption evaluation computes them, to the last digit that it prints. */
#ifndef EV_CAPTION_METRICS_H
#define EV_CAPTION_METRICS_H

#include "caption_tokens.h"

enum { EV_GRAMS = 4 }; /* runs of 1 to 4 words are counted */

/* A caption and the references of its picture. */
typedef struct ev_captioned {
    const char *said;
    const char **references;
    long n; /* >= 1 */
} ev_captioned;

/* bleu[k]: the geometric mean of the shares of runs of 1 .. k + 1 words that some reference has, over all captions together, times the penalty for
 * being shorter than the references of nearest length; 0 to 1.
 * cider_d: the mean over pictures and references of the cosine between tf-idf vectors of runs of words, counts clipped to the reference's, with a Gaussian
 * penalty on the difference in length (sigma 6), times 10: 0 to 10, and 1.0 is what papers print as 100. How rare a run of words is
 * is counted in the references of the pictures that are judged: a figure belongs to its set, and that of one picture alone is 0. */
typedef struct ev_caption_scores {
    double bleu[EV_GRAMS], cider_d;
    long pictures, references;
} ev_caption_scores;

/* Captions as they are written; they are cut into words by ev_caption_tokens. n >= 1. */
int ev_caption_score(const ev_captioned *captions, long n, ev_caption_scores *out, oc_err *err);
/* Captions that are words already, with spaces between. each (may be NULL): [n] CIDEr-D of each picture. */
int ev_caption_score_words(const ev_captioned *captions, long n, ev_caption_scores *out, double *each, oc_err *err);

#endif
