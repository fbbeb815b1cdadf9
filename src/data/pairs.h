/* pairs.h - pictures with words, as training and evaluation read them. */
#ifndef DT_PAIRS_H
#define DT_PAIRS_H

#include "../checkpoint/config.h"
#include "../run/engine.h"

enum { DT_LANGUAGES = 8 };

/* Texts of one language: any of them describes the picture. */
typedef struct dt_texts {
    char **p;
    int n;
} dt_texts;

typedef struct dt_pair {
    char *image;                     /* path, joined with the data file's folder */
    dt_texts language[DT_LANGUAGES]; /* [i] belongs to dt_pairs.language[i]; may be empty */
    char *question;                  /* that the texts answer; NULL: none */
    int texts;                       /* in all languages */
    long group;                      /* pairs of one group mean the same; -1: a group of its own */
    long kin;                        /* pairs of one kin are easily mixed up; -1: of none */
} dt_pair;

typedef struct dt_pairs {
    dt_pair *p;
    long n;
    char *language[DT_LANGUAGES]; /* keys as in the file: "text", "text_zh", ... */
    int languages;
    long groups, kins;
} dt_pairs;

/* FILE.jsonl: a line {"image": PATH, "text": S or [S, ...], "text_zh": .., "group": S, "kin": S}; any key that starts with "text" is a language.
 * {"image", "question": S, "answers": [S, ...]} (or "answer"): the texts answer the question.
 * FILE.tsv: PATH <TAB> TEXT. A pair without text is an error that names file and line. Empty lines are skipped. */
int dt_pairs_read(dt_pairs *pairs, const char *path, oc_err *err);
void dt_pairs_clear(dt_pairs *pairs);
/* Index of a language key, or -1. */
int dt_language(const dt_pairs *pairs, const char *key);

#endif
