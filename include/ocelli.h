/* ocelli.h - vision-language models in C: the one public header.
 *
 * A worked example (docs/example.c, compiled and run by the tests):
 *
 *     oc_err err = {0};
 *     oc_options options = {.threads = 2};
 *     oc_engine *engine = oc_engine_open("starter", &options, &err);
 *     oc_session *session = engine ? oc_session_open(engine, &err) : NULL;
 *     const char *texts[] = {"a red apple", "一只猫"};
 *     float *rows = malloc(2 * sizeof(float) * (size_t)oc_embedding_width(engine));
 *     if (!session || oc_embed_texts(session, texts, 2, rows, &err)) fprintf(stderr, "%s\n", err.text);
 *     oc_session_close(session);
 *     oc_engine_close(engine);
 *
 * An engine holds weights: immutable, shared by any number of threads. A session owns the memory of one
 * timeline and is used by one thread at a time. Functions that can fail return 0 or -1 (or a pointer or
 * NULL) and fill `oc_err` with one line; the library never prints and never exits. */
#ifndef OCELLI_H
#define OCELLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OC_VERSION "0.1.0"

#if defined(__GNUC__)
#define OC_API __attribute__((visibility("default")))
#else
#define OC_API
#endif

/* One line that says what failed, where and what was expected; "" when nothing failed. Start it zeroed. */
typedef struct oc_err {
    char text[1024];
} oc_err;

typedef struct oc_engine oc_engine;
typedef struct oc_session oc_session;

/* How weights of linear layers are held, and so how exactly and how fast they multiply. Everything else stays fp32. */
typedef enum oc_dtype {
    OC_AUTO, /* integers where the folder keeps them (`ocelli quantize`), else fp32 */
    OC_FP32,
    OC_BF16, /* weights rounded to 8 bits of mantissa */
    OC_INT8, /* a scale a row; activations are rounded to int8 too */
    OC_INT4  /* a scale for every group of 32 */
} oc_dtype;

/* Zero means the default of each field. */
typedef struct oc_options {
    int threads;          /* worker threads; 0: one per core */
    const char *lora;     /* folder of a PEFT adapter that every session uses; NULL: none */
    float lora_scale;     /* multiplies the adapter's own scale; 0: 1 */
    uint64_t max_pixels;  /* pictures with more pixels are refused before memory is taken; 0: 178956970, Pillow's error limit */
    oc_dtype dtype;       /* of the weights in memory */
    int max_batch;        /* pictures, or texts of full length, that a session has memory for at once; larger requests are cut into passes; 0: 32 */
    bool enc_token;       /* BLIP: a text that is read beside a picture begins with [ENC], as it was trained, not with [CLS] as in transformers; of a
                           * BlipForPretraining it always does */
    bool fast_pixels;     /* oc_embed_files may decode a JPEG at 1/2, 1/4 or 1/8: faster, pixels not exactly Pillow's */
    const char *data_dir; /* where `starter` and its like are looked for first; NULL: beside the program, then installed */
} oc_options;

/* Loads a model folder in Hugging Face's layout (`starter` names the one that ships). */
OC_API oc_engine *oc_engine_open(const char *model, const oc_options *options, oc_err *err);
OC_API void oc_engine_close(oc_engine *engine);

/* What the model is: Hugging Face's `model_type`, its number of parameters, the width of an embedding (0: none). */
OC_API const char *oc_family(const oc_engine *engine);
OC_API int64_t oc_parameters(const oc_engine *engine);
OC_API int oc_embedding_width(const oc_engine *engine);

OC_API oc_session *oc_session_open(oc_engine *engine, oc_err *err);
OC_API void oc_session_close(oc_session *session);

/* A decoded picture, or NULL pixels and its own error: one broken file is told apart from the others. Leave it out of a batch. */
typedef struct oc_picture {
    int width, height;
    uint8_t *rgb; /* height * width * 3 bytes, upright; owned by the picture */
    oc_err err;   /* why rgb is NULL */
} oc_picture;

OC_API int oc_picture_read(oc_picture *picture, const char *path, const oc_options *options);
OC_API int oc_picture_decode(oc_picture *picture, const void *bytes, size_t n, const char *name, const oc_options *options);
OC_API void oc_picture_clear(oc_picture *picture);

/* Embeddings, L2-normalised, n rows of oc_embedding_width floats each. Texts are UTF-8; one that is longer
 * than the model's context is cut with its end token kept; `oc_last_cut` says how many of the last call were. */
OC_API int oc_embed_pictures(oc_session *session, const oc_picture *pictures, int n, float *rows, oc_err *err);
/* The same from files, which is faster than oc_picture_read and oc_embed_pictures: decoding runs on the session's threads, and no picture
 * lies in memory as a whole. errors: n of them; errors[i].text tells why picture i could not be read ("" when it could), whose row is then
 * zeros. Only what concerns all of them makes the call fail. */
OC_API int oc_embed_files(oc_session *session, const char *const *paths, int n, float *rows, oc_err *errors, oc_err *err);
OC_API int oc_embed_texts(oc_session *session, const char *const *texts, int n, float *rows, oc_err *err);
OC_API int oc_last_cut(const oc_session *session);

/* exp(logit_scale): what a cosine is multiplied by before the softmax of zero-shot classification. */
OC_API float oc_logit_scale(const oc_engine *engine);
/* What n cosines of one picture with n texts (or of one text with n pictures) say: of most models the softmax of oc_logit_scale times them, shares that
 * add up to 1; of SigLIP, which judges every pair by itself, the probability that each belongs together. out may be cosines. */
OC_API void oc_probabilities(const oc_engine *engine, const float *cosines, int n, float *out);

/* Does the model judge a picture and a text together (BLIP's ITM head), beside comparing their vectors? */
OC_API bool oc_can_match(const oc_engine *engine);
/* n pictures and n texts, pair by pair: itc[i] is the cosine of their embeddings, itm[i] the probability, by that head, that they belong together. Either
 * may be NULL; itm must be where oc_can_match says false. Texts are cut as oc_embed_texts cuts them. */
OC_API int oc_match(oc_session *session, const oc_picture *pictures, const char *const *texts, int n, float *itc, float *itm,
                    oc_err *err);

/* ---- text that goes on ------------------------------------------------------------------------------------ */

/* How the next tokens are chosen; start from oc_generation_default(). Names and meanings are transformers'. */
typedef struct oc_generation {
    int max_new_tokens;       /* 256 */
    int min_new_tokens;       /* no text ends before so many; 0 */
    float temperature;        /* 0: always the likeliest token */
    int top_k;                /* of so many likeliest ones; 0: of all */
    float top_p;              /* of the likeliest that together have this much; 1: of all */
    float min_p;              /* of those with this share of the likeliest one's chance; 0: of all */
    float repetition_penalty; /* 1: none */
    uint64_t seed;
    int num_beams;           /* 1: no beam search, which knows no temperature */
    float length_penalty;    /* a beam's score is its log-probability divided by its length to this power; 1 */
    bool early_stopping;     /* beams: end when there are num_beams finished ones */
    const char *const *stop; /* texts that end the answer and are not part of it; not copied */
    int stops;
    bool cut; /* a prompt that is longer than the context loses its beginning; else it is an error */
} oc_generation;
OC_API oc_generation oc_generation_default(void);

/* An answer, owned by the caller (oc_answer_clear). */
typedef struct oc_answer {
    int32_t *ids; /* new tokens only, the one that ended it included */
    int n;
    char *text;     /* without special tokens */
    double logprob; /* the sum over its tokens */
    bool ended;     /* by an end token or a stop, not by the limit */
} oc_answer;
OC_API void oc_answer_clear(oc_answer *answer);

/* How keys and values of what was read are held: fewer bits, longer texts in the same memory (but short texts about a picture need none of the picture in fp32). */
typedef enum oc_kv_type { OC_KV_FP32, OC_KV_FP16, OC_KV_BF16, OC_KV_INT8 /* a scale for each head's row */ } oc_kv_type;

/* Zero means the default of each field. */
typedef struct oc_generator_options {
    int context;   /* positions of a text at most; 0: the model's */
    int batch;     /* prompts (or beams) at the same time; 0: 1 */
    oc_kv_type kv; /* OC_KV_FP32 */
    bool asks;     /* prompts are questions about pictures; for a model that can also caption: one that only answers need not be told */
} oc_generator_options;

/* A timeline of texts over an engine whose model generates: threads, memory, a cache of keys that prompts with a common beginning share. One thread at a
 * time. options NULL: all defaults. */
typedef struct oc_generator oc_generator;
OC_API oc_generator *oc_generator_open_with(oc_engine *engine, const oc_generator_options *options, oc_err *err);
OC_API oc_generator *oc_generator_open(oc_engine *engine, int context, int batch, oc_err *err);
OC_API void oc_generator_close(oc_generator *g);
/* Bytes of prompt i's answer as they become certain, whole characters; false stops that answer. */
typedef bool oc_heard(void *arg, int i, const char *bytes, size_t n);
/* Answers n prompts (UTF-8, raw text), `batch` of them at the same time, each as if it were alone. heard may be NULL. answers: n of them, filled as far as it
 * went when this fails. */
OC_API int oc_generate(oc_generator *g, const char *const *prompts, int n, const oc_generation *how, oc_heard *heard, void *arg,
                       oc_answer *answers, oc_err *err);
/* The same about n pictures, one for each prompt: captions (prompts, or one of them, may be NULL), or answers to questions. */
OC_API int oc_generate_about(oc_generator *g, const oc_picture *pictures, const char *const *prompts, int n, const oc_generation *how,
                             oc_heard *heard, void *arg, oc_answer *answers, oc_err *err);
/* The log-probability of an answer's tokens behind the prompt; *tokens (may be NULL) says how many they are. */
OC_API int oc_score(oc_generator *g, const char *prompt, const char *answer, double *logprob, int *tokens, oc_err *err);

#ifdef __cplusplus
}
#endif
#endif
