/* generate.h - answers to prompts, one token after another. */
#ifndef RN_GENERATE_H
#define RN_GENERATE_H

#include "sampling.h"
#include "speaker.h"

struct oc_generator {
    rn_speaker speaker;
    const tx_tokenizer *tokenizer;
    rn_chooser *chooser; /* [batch] */
    int batch;
};

/* What is gone on with, and the picture that it is about: pixels [3, side, side] as the model's processor gives them, NULL: none. */
typedef struct rn_prompt {
    const char *text;
    const float *pixels;
    int skipped; /* prompts before it, of the same call, that were left out: its number counts them */
} rn_prompt;

/* As oc_generate, of prompts that are some of many: the first counts as number `first`, for its draws and in what errors say. */
int rn_generate(oc_generator *g, const rn_prompt *prompts, int n, int first, const oc_generation *how, oc_heard *heard,
                void *arg, oc_answer *answers, oc_err *err);
/* Fails when the model writes nothing about pictures. */
int rn_check_eye(const oc_engine *e, oc_err *err);
/* Pixels [n, 3, side, side] of picture files as the model takes them; bs_free. errors[i] says why file i has none, "" when it has. */
float *rn_load_pictures(oc_generator *g, const char *const *paths, int n, oc_err *errors, oc_err *err);
/* What the model says of n picture files, `batch` at the same time; texts[i] is the prompt or question of the i-th (texts NULL: none has one). The first counts as
 * number `first`, as in rn_generate. errors[i] tells why file i has no answer; fails only when the model does. */
int rn_tell_files(oc_generator *g, const char *const *paths, const char *const *texts, int n, int first, const oc_generation *how,
                  oc_answer *answers, oc_err *errors, oc_err *err);
/* The log-probability of an answer's tokens behind the prompt, with the token that ends a text if `whole`; as oc_score. */
int rn_score(oc_generator *g, const rn_prompt *prompt, const char *answer, bool whole, double *logprob, int *tokens, oc_err *err);
/* The same of n answers to one prompt, many at the same time; what a model remembers of the prompt it reads once. tokens may be NULL. */
int rn_score_all(oc_generator *g, const rn_prompt *prompt, const char *const *answers, int n, bool whole, double *logprob, int *tokens,
                 oc_err *err);
/* Fails when a tokenizer gives an id that the model does not know. */
int rn_check_ids(const md_model *m, const tx_ids *ids, oc_err *err);
/* What an answer by `how` to the longest of n prompts (NULL: none has one) needs of positions, and no more than the model has: for opening a generator. 0 and an
 * error when the tokenizer cannot be read. */
int rn_context_for(oc_engine *e, const char *const *prompts, int n, int new_tokens, oc_err *err);
/* A prompt's ids as the model takes them: with the tokenizer's own special tokens (or as an answer begins, md_prompt), and room for one more; `cut` leaves out
 * the beginning. */
int rn_encode_prompt(const oc_generator *g, const char *prompt, bool cut, tx_ids *ids, oc_err *err);
/* A sequence that begins with the prompt. For an encoder-decoder *memory is what it remembers of the prompt, or of a picture, and ids become what begins an
 * answer; *have of them are in the sequence. */
int rn_start(oc_generator *g, tx_ids *ids, const float *pixels, int *memory, long *have, oc_err *err);
/* num_beams > 1: the best of them by score (Graves 2012; the order and the end are transformers'). `prompt` is what rn_start takes. */
int rn_beam_search(oc_generator *g, tx_ids *prompt, const float *pixels, const oc_generation *how, tx_ids *best, double *logprob, bool *ended,
                   oc_err *err);

#endif
