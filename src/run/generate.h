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

/* As oc_generator_open, with a cache of another type. */
oc_generator *rn_generator_open(oc_engine *e, int context, int batch, kn_kv_type type, oc_err *err);
/* As oc_generate, of prompts that are some of many: the first counts as number `first`, for its draws and in what errors say. */
int rn_generate(oc_generator *g, const char *const *prompts, int n, int first, const oc_generation *how, oc_heard *heard,
                void *arg, oc_answer *answers, oc_err *err);
/* A prompt's ids as the model takes them: with the tokenizer's own special tokens, and room for one more; `cut` leaves out the beginning. */
int rn_encode_prompt(const oc_generator *g, const char *prompt, bool cut, tx_ids *ids, oc_err *err);
/* A sequence that begins with the prompt. For an encoder-decoder *memory is what it remembers of the prompt, and ids become the token that begins an answer;
 * *have of them are in the sequence. */
int rn_start(oc_generator *g, tx_ids *ids, int *memory, long *have, oc_err *err);
/* num_beams > 1: the best of them by score (Graves 2012; the order and the end are transformers'). `prompt` is what rn_start takes. */
int rn_beam_search(oc_generator *g, tx_ids *prompt, const oc_generation *how, tx_ids *best, double *logprob, bool *ended,
                   oc_err *err);

#endif
