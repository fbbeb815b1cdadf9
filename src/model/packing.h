/* packing.h - the weights that only products read, held in the form those read fastest, while nothing learns. */
#ifndef MD_PACKING_H
#define MD_PACKING_H

#include "model.h"

typedef struct md_packed md_packed;

/* Weights of linear layers (and of convolutions, which stay fp32 beside integers) of a model that md_open_lean opened, as `dtype`; group:
 * of int4 (0: 32, or the file's own). A file that keeps integers of that very kind is used as it is. Nothing is packed before it is used, so a
 * tower that does not run costs nothing; fp32 not before its second use. The model must live longer; several sessions may share one. */
md_packed *md_packed_open(const md_model *m, const kn_table *t, kn_dtype dtype, long group, oc_err *err);
void md_packed_close(md_packed *p); /* NULL is fine */
/* A tn_packed_fn, `arg` the md_packed. */
const kn_packed *md_packed_weight(void *arg, kn_work *w, int id, oc_err *err);
/* A tn_table_fn likewise. */
int md_table_row(void *arg, int id, long row, float *out, oc_err *err);
/* Has a context read both from here. */
void md_packed_attach(md_packed *p, tn_ctx *cx);
/* Bytes that all of them take when packed. */
size_t md_packed_bytes(const md_packed *p);
/* Bytes of those that are packed by now. */
size_t md_packed_held(const md_packed *p, const kn_table *t);

#endif
