/* vqa.h - answers to questions about pictures, judged as the VQA benchmark judges them (Antol et al. 2015; Goyal et al. 2017). */
#ifndef EV_VQA_H
#define EV_VQA_H

#include "../base/base.h"

/* Appends an answer in its plain form, by the rules of the official evaluation, its slips included, as figures are compared by them:
 * - ; / [ ] " { } ( ) = + \ _ - > < @ ` , ? ! go where a space is beside one of that kind anywhere in the answer, or anywhere a comma between two digits;
 *   else they become spaces. So "1,000" and "1000" are one, "t-shirt" is "t shirt", "yes!" is "yes"
 * - a full stop goes unless a digit follows, the first 32 of them
 * - lower case; none, zero, one .. ten become digits; a, an, the go
 * - a contraction gets its apostrophe (dont: don't), from the official list; so somebody'd becomes somebodyd */
int ev_vqa_plain(bs_buf *out, const char *answer, oc_err *err);

/* min(1, others who said the same / 3), averaged over leaving each of the n given answers out, as officially for ten. n >= 2: of one answer nothing is
 * left. Answers are put into their plain form first, unless all n are equal: then, as officially, they and what was said are compared as they are (but
 * for spaces at the ends). */
int ev_vqa_accuracy(const char *said, const char *const *answers, int n, double *accuracy, oc_err *err);

#endif
