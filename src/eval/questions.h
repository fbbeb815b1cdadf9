/* questions.h - questions about pictures with what people answered. */
#ifndef EV_QUESTIONS_H
#define EV_QUESTIONS_H

#include "predictions.h"

typedef struct ev_answers {
    char **p;
    int n;
} ev_answers;

typedef struct ev_questions {
    ev_asked *asked; /* [n], whose image and question are owned here */
    ev_answers *answers;
    long n;
} ev_questions;

/* FILE.jsonl: a line {"image": PATH, "question": S, "answers": [S, S, ...]}, two answers at least (officially ten). Paths are joined with the file's folder. */
int ev_questions_read(ev_questions *q, const char *path, oc_err *err);
void ev_questions_clear(ev_questions *q);
/* Leaves out the questions that nothing was said to; fails when none is left. */
int ev_questions_keep_answered(ev_questions *q, oc_err *err);
/* The mean of ev_vqa_accuracy; each must have something said. */
int ev_questions_score(const ev_questions *q, double *accuracy, oc_err *err);

#endif
