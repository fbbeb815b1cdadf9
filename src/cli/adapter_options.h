/* adapter_options.h - what finetune is told of a new adapter, as PEFT's configuration. */
#ifndef CL_ADAPTER_OPTIONS_H
#define CL_ADAPTER_OPTIONS_H

#include "../model/model.h"

typedef struct cl_adapter {
    int rank;
    float alpha;                              /* 0: twice the rank */
    const char *targets;                      /* by commas, or all-linear; NULL: the family's */
    const char *rank_pattern, *alpha_pattern; /* MODULE=NUMBER by commas, MODULE a regular expression; NULL: none */
    const char *saved;                        /* modules_to_save, by commas; NULL: none */
    bool dora, rslora;
} cl_adapter;

/* The configuration of a new adapter for m; the caller clears it, also after a failure. */
int cl_adapter_config(const cl_adapter *a, const md_model *m, ck_adapter_config *c, oc_err *err);
/* Adds what was asked for to a run's settings. */
int cl_adapter_say(const cl_adapter *a, bs_buf *to, oc_err *err);

#endif
