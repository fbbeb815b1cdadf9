/* forward.h - one forward of any model on named arrays, with every gradient when asked: the seam by which Ocelli is
 * held against PyTorch, and the same code path that embeds and trains. */
#ifndef RN_FORWARD_H
#define RN_FORWARD_H

#include "../model/packing.h"

typedef struct rn_forward_args {
    const char *model;    /* folder */
    const char *in, *out; /* safetensors files */
    const char *lora;     /* adapter folder or NULL */
    float lora_scale;     /* 0: 1 */
    bool grad;            /* also the loss and "grad.NAME" of everything that can learn */
    int threads;
    oc_dtype dtype; /* of the weights in memory; gradients are of fp32 */
} rn_forward_args;

/* Writes the outputs; their names are added to `names`, one a line. */
int rn_forward(const rn_forward_args *args, bs_buf *names, oc_err *err);

#endif
