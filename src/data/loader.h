/* loader.h - batches of pairs for training: which pairs, which of their texts, how the pictures are changed. A batch depends only on the seed
 * and its number, so a run that is taken up again sees what an uninterrupted one would have seen. */
#ifndef DT_LOADER_H
#define DT_LOADER_H

#include "augment.h"
#include "pairs.h"

typedef struct dt_loader dt_loader;

typedef struct dt_loader_options {
    const dt_pairs *pairs; /* the caller's; likewise the next two */
    const im_processor *processor;
    const tx_tokenizer *tokenizer;
    const md_model *model; /* for the sizes and where texts are pooled */
    dt_augment augment;
    uint64_t seed;
    long batch;
    int texts;      /* a picture: 1, or more of them, in different languages as far as there are; 0: 1 */
    float partners; /* > 0: half a batch are other pictures of the same groups (or the same, changed otherwise), and this is the
                                       * weight of the loss by which they find each other */
    float kin;      /* this share of the batches is drawn from one kin each: what is easily mixed up, side by side */
    size_t cache_bytes; /* decoded pictures kept in memory; 0: 4 GiB */
    uint64_t max_pixels;
    long max_tokens; /* longer texts are cut; 0: the model's own limit */
} dt_loader_options;

/* One batch. Owned by the loader, valid until the next call. */
typedef struct dt_loaded {
    md_batch batch; /* pixels, ids (a picture's texts one after another), targets; soft ones where needed */
    long *pair;     /* [batch] index into the pairs */
    int *language;  /* [batch * texts] */
    int cut;        /* texts that were too long */
} dt_loaded;

dt_loader *dt_loader_open(const dt_loader_options *options, oc_err *err);
void dt_loader_close(dt_loader *l);
/* Batch number `step`; pool may be NULL. NULL and an error that names the picture. */
const dt_loaded *dt_loader_next(dt_loader *l, long step, bs_pool *pool, oc_err *err);

#endif
