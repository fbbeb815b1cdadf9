/* telling.h - what `caption`, `ask` and `eval` share: texts that a model writes about pictures. */
#ifndef CL_TELLING_H
#define CL_TELLING_H

#include "../run/generate.h"
#include "cli.h"

/* The switches that say how tokens are chosen; between cl_telling_start and cl_telling_end the temperature may be left unsaid. */
#define CL_TELLING_OPTIONS(how)                                                                                                     \
    {"max-new-tokens", "N", CL_INT, &(how).max_new_tokens, "tokens of a text at most (20)", 1, 1 << 28},                            \
        {"min-new-tokens", "N", CL_INT, &(how).min_new_tokens, "tokens of a text at least (0)", 0, 1 << 28},                        \
        {"num-beams", "N", CL_INT, &(how).num_beams, "beam search by so many (1: none)", 1, 64},                                    \
        {"length-penalty", "X", CL_FLOAT, &(how).length_penalty, "beams: above 0 long texts win, below short ones (1)", -1e3, 1e3}, \
        {"early-stopping", NULL, CL_FLAG, &(how).early_stopping, "beams: end with so many finished texts", 0, 0},                   \
        {"temperature", "T", CL_FLOAT, &(how).temperature, "0: always the likeliest token (0; with --top-k or --top-p 1)", 0, 0},   \
        {"top-k", "K", CL_INT, &(how).top_k, "draw from so many likeliest ones (0: all)", 0, 0},                                    \
        {"top-p", "P", CL_FLOAT, &(how).top_p, "draw from the likeliest that have P together, as BLIP does with 0.9 (1)", 1e-9, 1}, \
        {"repetition-penalty", "X", CL_FLOAT, &(how).repetition_penalty, "above 1: what was said is less likely (1)", 1e-9, 1e9}

oc_generation cl_telling_start(void);
void cl_telling_end(oc_generation *how, const cl_common *common);
/* What is wrong with how tokens are chosen; NULL: nothing. */
const char *cl_telling_wrong(const oc_generation *how);

/* A generator with just the room that `how` needs for prompts like these (some of them, or all, may be NULL), `batch` at the same time, which are questions
 * where it `asks`. Fails where the model writes nothing about pictures. */
oc_generator *cl_teller_open(oc_engine *e, bool asks, const char *const *prompts, int n, const oc_generation *how, int batch, oc_err *err);
/* Models that answer, models that go on, and models that do both: who cannot do what `asks` says is told what it can. */
int cl_check_teller(const oc_engine *e, bool asks, bool prompted, oc_err *err);

/* A text as a part of a line: its ends of lines and tabs are spaces. */
void cl_print_flat(const char *text);

#endif
