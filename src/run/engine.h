/* engine.h - behind the public names: an engine is weights, tokenizer and processor; a session is threads and memory. */
#ifndef RN_ENGINE_H
#define RN_ENGINE_H

#include <pthread.h>

#include "../image/image.h"
#include "../image/preprocess.h"
#include "../model/packing.h"
#include "../text/tokenizer.h"

struct oc_engine {
    md_model *model;
    md_packed *packed; /* the model's weights as products read them */
    md_lora lora;      /* by_id NULL: none */
    pthread_mutex_t lock;
    tx_tokenizer *tokenizer; /* under lock: NULL before the first text */
    im_processor processor;
    md_sizes sizes;
    oc_options options;
    const kn_table *kn;
    bool whole; /* all tokens go through all layers, to measure what leaving out saves; set before a session opens */
};

struct oc_session {
    oc_engine *engine;
    bs_pool *pool;
    kn_work *work;
    void *arena;
    size_t arena_bytes;
    tn_ctx cx;
    float *pixels; /* [max_batch, 3, height, width] */
    int cut;
    double flops; /* of all passes since it was set to 0: for measuring */
    bool raw; /* rows as the projection gives them, not of length 1 */
};

/* The packed weights of a model that md_open_lean opened. */
md_packed *rn_pack(const md_model *m, const kn_table *t, oc_dtype dtype, oc_err *err);
/* Where a model named on the command line lies: a folder as it is, else NAME beside the program's data. free() it. */
char *rn_find_model(const char *name, const char *data_dir, oc_err *err);
/* Read when the first text comes; NULL and an error. */
const tx_tokenizer *rn_tokenizer(oc_engine *e, oc_err *err);
/* An engine of weights alone, without tokenizer and processor, for prepared pixels and ids. Where the folder holds only config.json the weights
 * are drawn from `seed`. */
oc_engine *rn_engine_bare(const char *model, const oc_options *options, uint64_t seed, oc_err *err);
/* What md_open gives, or md_open_lean; with random weights of its own where the folder holds only config.json. */
md_model *rn_model_or_drawn(const char *folder, bool lean, uint64_t seed, oc_err *err);
/* Arena bytes that one pass over `rows` pictures (texts of `tokens` ids) needs. 0 when the model cannot. */
size_t rn_plan_images(const md_model *m, const md_lora *l, const kn_table *kn, int threads, int rows, int height, int width,
                      bool whole);
size_t rn_plan_texts(const md_model *m, const md_lora *l, const kn_table *kn, int threads, int rows, int tokens, bool whole);
/* How many texts are best given at once: more have more in common, and a pass takes what its memory holds; but progress is told between. */
int rn_texts_at_once(const oc_engine *e);
/* The largest pass of texts in a session for `batch` of `tokens` ids, to be planned. */
void rn_most_texts(int batch, long tokens, tn_branches *b);
/* The ids of one text as the model takes them: cut to `max` with the end token kept; *cut counts those that were. */
int rn_encode_text(const tx_tokenizer *t, const char *text, size_t n, long max, tx_ids *ids, int *cut, oc_err *err);
/* What its texts are filled up with; -1: it does not say. t may be NULL. */
int rn_pad(const tx_tokenizer *t);
/* Probabilities are of each pair by itself, not shares of one softmax. */
bool rn_judges_pairs(const oc_engine *e);
/* Decoded pictures as the model takes them, into the session's pixels; n <= max_batch. */
int rn_take_pictures(oc_session *s, const oc_picture *pictures, int n, oc_err *err);
/* A family's embed_images or embed_texts. */
typedef tn_t rn_tower(tn_ctx *, const void *, const md_batch *);
/* What the tower makes of a batch, a row for each of its pictures or texts, of length 1 unless the session is `raw`. */
int rn_embed(oc_session *s, const md_batch *b, rn_tower *tower, float *rows, oc_err *err);
/* Rows of normalised embeddings of prepared pixels [n, 3, height, width], n <= max_batch. */
int rn_embed_pixels(oc_session *s, const float *pixels, int n, int height, int width, float *rows, oc_err *err);
/* The same of picture files, n <= max_batch: read, decoded and prepared by the session's threads, many files at once or one by all of them.
 * errors[i] says why file i has no row (then it is zeros), "" when it has one; unread[i] (NULL: not asked for) that the file itself could not
 * be read. Fails only when the model does. */
int rn_embed_files(oc_session *s, const char *const *paths, int n, float *rows, oc_err *errors, bool *unread, oc_err *err);
/* The same of prepared texts [n, length], of any number, length 1 to max_tokens; what is behind a text's end has id 0 or any other. */
int rn_embed_ids(oc_session *s, const int *ids, int n, int length, float *rows, oc_err *err);

#endif
