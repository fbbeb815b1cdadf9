/* corpus.h - texts as one long row of tokens, and batches of pieces of it: documents stand side by side in a row without seeing each other. */
#ifndef DT_CORPUS_H
#define DT_CORPUS_H

#include "../run/engine.h"

typedef struct dt_corpus {
    tx_ids ids;              /* all documents */
    long *first;             /* [documents + 1] where each begins */
    long *given;             /* [documents] of its tokens are a prompt, which nothing is learned of */
    long documents, prompts; /* prompts: documents that have one */
    uint64_t hash;           /* of ids and boundaries: a run that goes on must see the same ones */
} dt_corpus;

/* FILE.txt: a document. FILE.jsonl: one a line, {"text": S}, or {"prompt": S, "answer": S}, of which only the answer is learned. A folder: all of these in it, by name. A document gets the tokenizer's own special tokens, and eos behind
 * it unless that is -1 or there already. */
int dt_corpus_read(dt_corpus *c, const char *path, const tx_tokenizer *t, int eos, oc_err *err);
void dt_corpus_clear(dt_corpus *c);

typedef struct dt_rows dt_rows;

/* Batches of `batch` rows of at most `length` tokens: pieces of the corpus or, where there are prompts, as many whole documents as fit. For an encoder-decoder a
 * row is one document, its prompt read and its answer written. Every row once an epoch, in an order of the epoch's own; a batch depends on the seed and its
 * number alone. The corpus must live as long. */
dt_rows *dt_rows_open(const dt_corpus *c, const md_model *m, long batch, long length, uint64_t seed, oc_err *err);
void dt_rows_close(dt_rows *r);
/* Rows of an epoch. */
long dt_rows_count(const dt_rows *r);
/* Batch number `step`: input_ids, positions that begin anew with each document, from, target (none behind a document's end); or input_ids, attention_mask,
 * decoder_ids, target. */
const md_batch *dt_rows_next(dt_rows *r, long step);
/* What batches look like at most: no values. */
const md_batch *dt_rows_shape(const dt_rows *r);

#endif
