/* sentences.h - texts that mean the same, side by side, and batches of them. */
#ifndef DT_SENTENCES_H
#define DT_SENTENCES_H

#include "../run/engine.h"
#include "order.h"

enum { DT_ANCHOR, DT_POSITIVE, DT_NEGATIVE, DT_SIDES };

typedef struct dt_sentences {
    tx_ids ids;    /* of all texts, line by line: anchor, positive and, where there are, negative */
    size_t *first; /* [n * sides + 1] where each text begins */
    long n, longest;
    int sides;     /* 2, or 3: every line has a text that means something else */
    int cut;       /* texts that were too long */
    uint64_t hash; /* of ids and boundaries: a run that goes on must see the same ones */
} dt_sentences;

/* FILE.jsonl: a line {"anchor": S, "positive": S, "negative": S}, as sentence-transformers names them; FILE.tsv: ANCHOR <TAB> POSITIVE <TAB> NEGATIVE. The negative
 * is there in every line or in none. A text of more than `most` ids loses its end. Empty lines are skipped. */
int dt_sentences_read(dt_sentences *s, const char *path, const tx_tokenizer *t, long most, oc_err *err);
void dt_sentences_clear(dt_sentences *s);

/* One batch of n lines: the anchors' n texts first, then what each anchor is compared with: n positives (and n negatives). */
typedef struct dt_anchors {
    const dt_sentences *s;
    const md_model *m;
    dt_order order;
    long n;
    int pad;
    md_batch batch; /* [n * sides] texts */
    tx_ids *ids;    /* [n * sides], views of s */
    /* [n, n * (sides - 1)] shares of what each anchor should find: its positive, and others of the same ids; rows sum to 1. */
    float *target;
    int *rows; /* [n * sides] 0, 1, 2, ... */
} dt_anchors;
/* Both must live as long. A batch depends on the seed and its number alone. */
int dt_anchors_open(dt_anchors *l, const dt_sentences *s, const md_model *m, int pad, long n, uint64_t seed, oc_err *err);
const md_batch *dt_anchors_next(dt_anchors *l, long step);
void dt_anchors_close(dt_anchors *l);

#endif
