/* texts.h - how texts that are embedded together go through a model. Inside texts*.c, and for planning. */
#ifndef RN_TEXTS_H
#define RN_TEXTS_H

#include "engine.h"

/* Texts that are given at once, and may share a pass, for each of full length that a session has memory for. */
enum { RN_SHORT = 8 };

/* A text's ids as far as the model sees them, and which of all texts it is. */
typedef struct rn_seen {
    const int32_t *ids;
    long length;
    int text;
} rn_seen;

/* Texts of a causal tower end where they are pooled and are not filled up, unless all that is computed is to be seen (`whole`). */
bool rn_share_beginnings(const md_sizes *s, bool whole);
/* n texts of such a tower, in any number; sorts them. Row texts[i].text of `rows` becomes its embedding. */
int rn_embed_shared(oc_session *s, rn_seen *texts, int n, float *rows, oc_err *err);
/* The largest of its passes in a session for `batch` texts of `tokens`, to be planned. */
void rn_most_shared(int batch, long tokens, tn_branches *b);

#endif
