/* model.h - a model as the rest of Ocelli sees it: a family (what one file describes), its weights by id, a batch
 * that is prepared before anything runs, and named outputs. */
#ifndef MD_MODEL_H
#define MD_MODEL_H

#include "../checkpoint/adapter.h"
#include "../checkpoint/config.h"
#include "../checkpoint/renaming.h"
#include "../checkpoint/safetensors.h"
#include "../tensor/ops.h"

/* ---- what goes in ------------------------------------------------------------------------------------------ */

/* A named array, as `forward` reads it: floats or integers, row-major. */
typedef struct md_value {
    char *name;
    bool is_int;
    int rank;
    long shape[TN_MAX_RANK];
    long count;
    float *f; /* when !is_int */
    int *i;   /* when is_int */
} md_value;

typedef struct md_values {
    md_value *p;
    int n;
} md_values;

/* Reads every tensor of a safetensors file; integers must fit 32 bits. */
int md_values_read(md_values *values, const char *path, oc_err *err);
void md_values_clear(md_values *values);
const md_value *md_values_find(const md_values *values, const char *name);

/* Everything a forward needs, made by a family's `prepare`; model functions read no values but these. The arrays are the
 * batch's own (md_batch_clear) but for pixel_values and `values`, which the caller keeps. Only what is given is set. */
typedef struct md_batch {
    long images;               /* B */
    const float *pixel_values; /* [B, channels, height, width] */
    long channels, height, width;
    long texts, length;      /* B, T */
    int *input_ids;          /* [B, T] */
    int *token_types;        /* [B, T] of BERT's kinds of segments; NULL: all 0 */
    uint8_t *attention_mask; /* [B, T], 1 keeps; NULL keeps all */
    int *pool;               /* [B] position of the pooled token */
    /* What a context is told of texts of unlike length: then texts is 1, length all their rows, and pool has one of each. Not owned; NULL: none. */
    const tn_branches *branches;
    int *positions;          /* [B, T] where each token stands */
    long furthest;           /* no position is beyond this many */
    int *target;         /* [B] 0, 1, 2, ...: a pair's own partner; of a language model [B, T] the token that follows, or -100 */
    int *decoder_target; /* [B, L] the token that follows, or -100, where target is of pairs */
    /* Pairs for a matching loss: texts [pairs, T], the rows (of all pictures' rows) that each looks at, 1 for those that belong together, else 0. */
    long pairs;
    int *pair_ids;
    uint8_t *pair_mask;
    int *pair_rows, *pair_target;
    long decoder_length; /* L of an encoder-decoder, whose encoder takes input_ids */
    int *decoder_ids;    /* [B, L] */
    uint8_t *decoder_mask; /* [B, L], 1 keeps; NULL keeps all */
    int *from;             /* [B, T] the first position that a token may see (documents in one row); NULL: all before it */
    int *wanted;           /* rows of [B * T] whose logits are wanted; NULL: all */
    long wanted_n;
    /* Instead of it, where a picture has several texts or pairs share a meaning: what each text [texts, images] and each picture [images, texts]
     * should find; rows sum to 1. Both or none; not owned. */
    const float *text_target, *image_target;
    /* What each picture should find among the other pictures [images, images], a row of zeros where it has no partner; NULL: no such loss. */
    const float *partner_target;
    float partner_weight;        /* of that loss */
    bool want_loss, want_hidden; /* loss; the towers' own outputs */
    bool asks;                   /* the texts are read as questions, and what is made of them is remembered */
    const md_values *values;     /* all inputs, for families without pictures and texts */
} md_batch;
void md_batch_clear(md_batch *b);

/* ---- what comes out ---------------------------------------------------------------------------------------- */

enum { MD_MAX_OUTPUTS = 256 };
typedef struct md_outputs {
    struct {
        char name[96];
        tn_t value;  /* of a name that starts with "grad.", its gradient is meant */
        bool scalar; /* one element, shape [] */
    } item[MD_MAX_OUTPUTS];
    int n;
    tn_t loss; /* rank 0: none */
} md_outputs;
void md_emit(tn_ctx *cx, md_outputs *out, tn_t value, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* ---- families ------------------------------------------------------------------------------------------------ */

enum { MD_EMBEDS_IMAGES = 1, MD_EMBEDS_TEXTS = 2, MD_GENERATES = 4, MD_MATCHES = 8 };

/* What a model that remembers what an answer is about does with the prompt. */
typedef enum md_prompt {
    MD_PROMPT_BEGINS, /* the answer begins with it: `start` in place of its first token, its last left out */
    MD_PROMPT_READ    /* it is encoded and remembered; the answer begins with `start` */
} md_prompt;

/* Texts that look at pictures are filled up to one length behind their ends, as those of files are; what of it is seen. */
typedef enum md_padding {
    MD_PADDING_UNSEEN, /* nothing that counts looks behind an end: a causal model, pooled at its end token */
    MD_PADDING_HIDDEN, /* a mask hides what stands there */
    MD_PADDING_READ    /* the model reads it: every text is filled up to max_tokens, with the very token it was trained with */
} md_padding;

typedef struct md_sizes {
    long image_size; /* pixels of a side; 0: takes no pictures */
    long channels;
    long max_tokens; /* 0: takes no texts */
    long context;    /* positions of a text that it goes on with; 0: does not */
    long far;        /* texts longer than this turn by other frequencies; 0: none do */
    long vocab;
    long embedding;    /* width of an embedding; 0: none */
    int bos, eos, pad; /* token ids; -1: none */
    md_padding padding;
    int start; /* an encoder-decoder's answers begin with it; not looked at where nothing is remembered */
    md_prompt prompt;  /* where nothing else is asked for */
    bool answers;      /* it can read a prompt, as a question about a picture */
    bool never_answered; /* it could learn to, and its config says that it did not */
    long picture_rows; /* rows of a picture, for a model that generates about one; 0: about none */
    bool own_eos;      /* eos ends its answers, whatever generation_config.json says */
    bool matches;      /* tells of a picture and a text whether they belong together */
    int enc, mask;     /* tokens that begin a text read beside a picture, and stand for a word to be found; -1: none */
    bool always_enc;   /* its texts begin so whether options ask for it or not */
} md_sizes;

typedef int md_pool_fn(const void *m, const int *ids, long n);

/* Texts [n, length] as the objectives below take them; mask 1 keeps, NULL keeps all. The arrays must live as long as the tape. */
typedef struct md_words {
    const int *ids;
    const uint8_t *mask;
    long n, length;
} md_words;

/* What objectives over pictures and texts (BLIP, Li 2022) are made of; the trainer puts them together, and they share what was computed. Rows of pictures are
 * [n, T, width], one picture for each text. NULL: this model has no such part. */
typedef struct md_objectives {
    tn_t (*see)(tn_ctx *cx, const void *m, const md_batch *b);                      /* b's pictures -> their rows */
    tn_t (*image_features)(tn_ctx *cx, const void *m, tn_t rows);                   /* [n, embedding], of length 1 */
    tn_t (*text_features)(tn_ctx *cx, const void *m, const md_words *texts);        /* likewise */
    tn_t (*match)(tn_ctx *cx, const void *m, const md_words *texts, tn_t rows);     /* [n, 2]: apart, together */
    /* What follows each token [n, length, vocab]; mask [n, T] of rows, NULL keeps all. */
    tn_t (*write)(tn_ctx *cx, const void *m, const md_words *texts, tn_t rows, const uint8_t *mask);
    tn_t (*find_words)(tn_ctx *cx, const void *m, const md_words *texts, tn_t rows); /* what stands at each place [n, length, vocab] */
    tn_t (*read_question)(tn_ctx *cx, const void *m, const md_words *texts, tn_t rows); /* rows for `write` to answer from */
    tn_t (*scores)(tn_ctx *cx, const void *m, tn_t cosines);                            /* divided by the temperature */
    float (*smoothing)(const void *m);             /* of the labels of `write` */
} md_objectives;

typedef struct md_family {
    const char *model_type;           /* config.json's */
    const char *const *architectures; /* accepted ones, ends with NULL */
    unsigned can;                     /* MD_EMBEDS_.. of the whole family: md_can tells a model's */
    const char *original; /* the member of an original config (open_clip_config.json) that tells this family; NULL: none */
    /* The struct of configuration and weights, from config.json; defaults for what it leaves out. */
    void *(*create)(const ck_config *config, oc_err *err);
    /* What other files of the folder say, after `create`. NULL: nothing. */
    int (*read_folder)(void *m, const char *folder, oc_err *err);
    void (*destroy)(void *m);
    void (*visit)(void *m, tn_visitor *v); /* names every weight once */
    void (*sizes)(const void *m, md_sizes *s);
    /* Other spellings of its weights' names, for loading. NULL: there are none. */
    const ck_renaming *(*renamings)(const void *m);
    /* The batch from named inputs, with Hugging Face's defaults for the absent ones. */
    int (*prepare)(const void *m, const md_values *in, md_batch *b, oc_err *err);
    void (*forward)(tn_ctx *cx, const void *m, const md_batch *b, md_outputs *out);
    /* [B, embedding], not normalised. NULL where the family cannot. */
    tn_t (*embed_images)(tn_ctx *cx, const void *m, const md_batch *b);
    tn_t (*embed_texts)(tn_ctx *cx, const void *m, const md_batch *b);
    /* Texts and pictures of a batch by pairs -> [B, 2]: apart, together. Where there are fewer pictures, pair_rows [B, picture_rows] says which of their rows each
     * text looks at. */
    tn_t (*match)(tn_ctx *cx, const void *m, const md_batch *b);
    const md_objectives *(*objectives)(const void *m);
    /* What follows each position, [B, T, vocab] or [wanted_n, vocab]; what its cache of keys must hold; what a position 0, 1, 2, ... is called in `positions` (NULL: that). */
    tn_t (*logits)(tn_ctx *cx, const void *m, const md_batch *b);
    void (*cache)(const void *m, tn_cache_shape *s);
    /* An encoder-decoder's: input_ids are encoded, row by row, and what the decoder attends to goes into the memory of the context's steps, whose shape is the
     * cache's, or look_at_rows'. logits' own ids are the decoder's. NULL: a decoder alone. */
    void (*remember)(tn_ctx *cx, const void *m, const md_batch *b);
    /* The shape of a memory of the rows that its decoder looks at themselves, for few queries (tn_attention_to_rows); false: not with these weights, or this
     * adapter. NULL: never. */
    bool (*look_at_rows)(const void *m, const tn_lora *lora, tn_cache_shape *s);
    int (*place)(const void *m, long position);
    /* Where a text is pooled, from its n ids (with what it is filled up with, where the model reads that). */
    md_pool_fn *pool_position;
    /* The loss of normalised embeddings of matching rows. */
    tn_t (*pair_loss)(tn_ctx *cx, const void *m, tn_t image_embeds, tn_t text_embeds, const md_batch *b);
    const tn_param *(*logit_scale)(const void *m);
    const tn_param *(*temperature)(const void *m); /* instead of it: what cosines are divided by; training keeps it within 0.001 and 0.5 */
    float max_logit_scale; /* training keeps it below; 0: free */
    /* Not NULL: each pair is judged by itself, its probability is sigmoid(exp(logit_scale) cosine + logit_bias). NULL: the candidates share one
     * softmax. */
    const tn_param *(*logit_bias)(const void *m);
    /* What LoRA adapts where nothing is said, by commas; NULL: every linear layer. */
    const char *lora_targets;
    /* Starting values of the weight `name`, as the family's authors drew them. NULL: cannot be trained from nothing. */
    void (*init)(const void *m, const char *name, long n, float *values, bs_rng *rng);
} md_family;

extern const md_family *const md_families[]; /* families.c; ends with NULL */

/* ---- a model --------------------------------------------------------------------------------------------------- */

/* One weight: its name in the checkpoint, where the struct of weights keeps it, and flags. */
typedef struct md_slot {
    char *name;
    tn_param *p;
    unsigned flags;
    long count;
    float *own; /* values that the model holds itself; NULL: used in place in the file */
} md_slot;

typedef struct md_model {
    const md_family *family;
    void *m;        /* the family's struct */
    md_slot *slots; /* by parameter id */
    int n;
    ck_store *store; /* NULL for a fresh model */
    char *folder;
    ck_config *config;
    size_t weights_bytes; /* as held: in place plus own */
    long parameters;
} md_model;

/* Reads config.json and the weights of a Hugging Face folder. fp32 is used in place, fp16 and bf16 are widened. */
md_model *md_open(const char *folder, oc_err *err);
/* What this very model embeds: a tower alone does one of MD_EMBEDS_... */
unsigned md_can(const md_model *m);
/* As md_open, but weights that only products read (TN_LINEAR, TN_KERNEL) stay in the file: their v is NULL unless they are used in place. For
 * md_packed_open. */
md_model *md_open_lean(const char *folder, oc_err *err);
/* A weight's values as fp32 into out [slot->count], wherever they are kept. */
int md_read_weight(const md_model *m, const md_slot *slot, float *out, oc_err *err);
/* n of them from number `at` on, of a weight that the file keeps as floats. */
int md_read_values(const md_model *m, const md_slot *slot, size_t at, size_t n, float *out, oc_err *err);
/* What the file's integers are: KN_I8 or KN_I4; KN_F32 when it keeps none. */
kn_dtype md_file_dtype(const md_model *m);
/* -1 and an error when it keeps any: what is written anew must not be rounded twice, nor named what it is not. */
int md_need_floats(const md_model *m, oc_err *err);
/* Only the shapes: for `info`, planning, and training from nothing. Values are NULL until md_fill or md_load. */
md_model *md_create(const char *folder, oc_err *err);
int md_load(md_model *m, bool lean, oc_err *err);
/* Gives every weight a zeroed array of its own (a trainer fills them), or a copy of its present values. */
int md_own(md_model *m, oc_err *err);
/* The same for one of them. */
int md_own_weight(md_model *m, int id, oc_err *err);
/* Fills every weight (md_own first) with starting values. */
int md_init(md_model *m, uint64_t seed, oc_err *err);
/* Weights (of md_own) take the values of another model's of the same names; tables of a picture's positions are resampled where the grid is another one
 * (bicubic). The number that did, or -1: none, or one of another shape. */
int md_start_from(md_model *m, const char *folder, oc_err *err);
/* The usual ones: gains 1, biases 0, anything else normal. */
void md_draw(const char *name, long n, float *values, bs_rng *rng, float deviation);
void md_close(md_model *m);
int md_slot_of(const md_model *m, const char *name); /* id, or -1 */
/* After an answer that is not finite: the first weight that is not, in an error; 0 when all are. */
int md_check_finite(const md_model *m, oc_err *err);
/* Writes model.safetensors in `dtype` (CK_F32, CK_F16, CK_BF16) under the weights' names. values[i] NULL: the model's own. */
int md_save(const md_model *m, const char *path, ck_dtype dtype, const float *const *values, oc_err *err);

/* The group that all linear layers of m can share where `wanted` is asked for: readers of such folders know but one. */
long md_int4_group(const md_model *m, long wanted);
/* Writes model.safetensors with every linear layer's weight as integers (KN_I8, KN_I4 in groups of `group`), laid out as
 * src/checkpoint/quantized.h says; all else as it lies in the model's file. */
int md_save_quantized(const md_model *m, const char *path, kn_dtype dtype, long group, oc_err *err);

/* ---- adapters -------------------------------------------------------------------------------------------------- */

/* One adapter bound to a model: factors by parameter id, widened to fp32. A trainer changes them. */
typedef struct md_lora {
    tn_lora *by_id; /* [model->n] */
    char **name;    /* [model->n]: what its file calls the layer that has factors, or the whole weight; NULL: neither */
    bool *whole;    /* [model->n]: the model's own values are the adapter's (modules_to_save, biases) */
    int n;
    ck_adapter_config config;
} md_lora;
/* Factors are held apart; whole weights take the place of m's, so m serves this adapter alone if there are any. Names of older and newer layouts
 * are understood where they can mean one weight only. */
int md_lora_open(md_lora *l, md_model *m, const char *folder, float scale, oc_err *err);
/* New factors for every targeted linear layer: A Kaiming-uniform (a = sqrt 5, as PEFT), B zero, magnitudes (DoRA) the lengths of W's rows, so that
 * nothing changes yet. Takes the config. */
int md_lora_create(md_lora *l, md_model *m, ck_adapter_config *config, uint64_t seed, oc_err *err);
int md_lora_save(const md_lora *l, const md_model *m, const char *folder, oc_err *err);
void md_lora_clear(md_lora *l);
/* What the adapter makes of parameter id, which has factors and whose values are in memory: W + scale * B A (DoRA: its rows of length m), laid out
 * as W is. */
int md_lora_merged(const md_lora *l, const md_model *m, int id, float *out, oc_err *err);
/* The id of the weight that a name in an adapter's file means; -1 and an error when there is none, or more than one. */
int md_adapted_slot(const md_model *m, const char *name, oc_err *err);
/* Of a linear layer's weight, whichever way it lies. */
long md_out_of(const md_slot *s);
long md_in_of(const md_slot *s);

/* ---- what learns ------------------------------------------------------------------------------------------------ */

/* One tensor that gets a gradient: a weight of the model, or what an adapter has: factors, magnitudes, whole weights. */
typedef struct md_trainable {
    char name[600]; /* as the file that keeps it spells it */
    float *value;   /* NULL while the model's weights are used in place */
    float *grad;    /* zeroed by md_trainables_zero */
    int rank;
    long shape[TN_MAX_RANK];
    long count; /* their product */
    long rows;  /* of a linear layer's weight [rows, count / rows]; 0: any other tensor */
    bool decay; /* weight decay applies */
} md_trainable;

typedef struct md_trainables {
    md_trainable *p;
    int n;
    float **grads;   /* by parameter id, for a context; with an adapter NULL but for its whole weights */
    float **buffers; /* by parameter id: running statistics, own copies that start at the model's */
    int slots;
    float *memory; /* all gradients in one piece, so that their norm is one sum */
    long total;    /* its floats */
} md_trainables;

/* Everything of m that is no buffer or, when lora is given, only what that has, whose directions (DoRA) are no longer fixed then. */
int md_trainables_open(md_trainables *t, const md_model *m, md_lora *lora, oc_err *err);
/* Only the buffers, and no gradient: for a forward that is not differentiated, which so takes no memory for gradients. */
int md_buffers_open(md_trainables *t, const md_model *m, oc_err *err);
void md_trainables_zero(md_trainables *t, kn_work *w);
void md_trainables_close(md_trainables *t);

#endif
