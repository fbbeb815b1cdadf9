/* language.h - what families of language models share: batches of tokens, the loss of the next one, rotary positions by config. */
#ifndef MD_LANGUAGE_H
#define MD_LANGUAGE_H

#include "../block/lm_decoder.h"
#include "../block/transformer.h"
#include "model.h"

/* input_ids [B, T], attention_mask, and positions 0, 1, 2, ... of every row. T up to `context`. */
int md_prepare_texts(const md_values *in, long context, md_batch *b, oc_err *err);
/* The same and labels: input_ids [B, T] with ids below `vocab`, attention_mask, labels (the loss: those of the next position are the targets, -100 counts for nothing), and
 * positions 0, 1, 2, ... of every row. T up to `context`. */
int md_prepare_language(const md_values *in, long vocab, long context, md_batch *b, oc_err *err);
/* logits [B, T, vocab], and the loss where there are labels. */
void md_emit_language(tn_ctx *cx, md_outputs *out, tn_t logits, const md_batch *b);
/* What logits are wanted of: x [.., D] itself, or the rows that b names. */
tn_t md_wanted(tn_ctx *cx, tn_t x, const md_batch *b);
/* Starting values as most of them are drawn: normal with `deviation`, gains 1, biases 0. */
void md_init_normal(const char *name, long n, float *values, float deviation, bs_rng *rng);

/* Rotary positions as a config asks for them: plain, or scaled to reach further than training did (linear; llama3; YaRN, Peng 2023; LongRoPE, Ding 2024). */
typedef struct md_rotary {
    long half;         /* angles of a head: it may turn only a part of its dimensions */
    double *frequency; /* [half] */
    double *far;       /* [half] for batches with positions from `original` on; NULL: the same */
    long original;
    float factor; /* on cosine and sine */
} md_rotary;
/* head: dimensions of one; context: positions at most. Reads rope_theta, rope_scaling, partial_rotary_factor, or rope_parameters. */
int md_read_rotary(const ck_config *c, long head, long context, double theta, md_rotary *r, oc_err *err);
void md_rotary_clear(md_rotary *r);
tn_angles md_rotary_angles(tn_ctx *cx, const md_rotary *r, const md_batch *b);

/* A whole decoder of LLaMA's kind as a family's struct, and its functions; what differs is said to `md_lm_create`. */
typedef struct md_lm {
    bl_decoder d;
    md_rotary rotary;
    int context, bos, eos, pad;
    float deviation;
} md_lm;
typedef struct md_lm_defaults {
    int vocab, width, hidden, layers, heads, kv_heads, context; /* kv_heads 0: as many as heads */
    int window;                                                 /* of a config without sliding_window; null there means none */
    float eps;
    double theta;
    bool fused, windowed; /* Phi-3's layout; does sliding_window count? */
} md_lm_defaults;
void *md_lm_create(const ck_config *c, const md_lm_defaults *defaults, oc_err *err);
void md_lm_destroy(void *m);
void md_lm_visit(void *m, tn_visitor *v);
void md_lm_sizes(const void *m, md_sizes *s);
void md_lm_cache(const void *m, tn_cache_shape *s);
int md_lm_prepare(const void *m, const md_values *in, md_batch *b, oc_err *err);
tn_t md_lm_logits(tn_ctx *cx, const void *m, const md_batch *b);
void md_lm_forward(tn_ctx *cx, const void *m, const md_batch *b, md_outputs *out);
void md_lm_init(const void *m, const char *name, long n, float *values, bs_rng *rng);

#endif
