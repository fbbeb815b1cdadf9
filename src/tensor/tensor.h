/* tensor.h - values, the context they live in, the tape, and the parameters of a model.
 *
 * A model is a function that calls ops; an op acts at once on values. The context's mode decides what else
 * happens:
 *
 *     PLAN   no arithmetic: shapes are checked and bytes are counted, so the arena is known before it is taken
 *     RUN    a bump arena, reset per layer; no tape, no allocation
 *     TRAIN  every op that a gradient flows through also leaves a record with its backward on the tape
 *
 * Errors are sticky: after the first failure every op is a no-op and the caller looks once per forward. */
#ifndef TN_TENSOR_H
#define TN_TENSOR_H

#include "cache.h"

enum { TN_MAX_RANK = 5 };

/* The gradient of the loss by a value. Nothing is written to it before the backward, so it is reached by tn_gradient and
 * tn_gradient_to_write alone. */
typedef struct tn_grad {
    float *v;
    bool blank; /* v was never written */
} tn_grad;

/* A value, passed by copy. Row-major float32. */
typedef struct tn_t {
    float *v;   /* NULL in PLAN, after a failure, and for "no value" (rank 0) */
    tn_grad *g; /* of the same shape; NULL in PLAN and when `grad` is false */
    bool grad;  /* does a gradient flow to it? */
    int rank;
    long shape[TN_MAX_RANK];
} tn_t;

long tn_size(tn_t x); /* number of elements */
long tn_last(tn_t x); /* the last dimension */
long tn_rows(tn_t x); /* all the others multiplied */

/* A weight: immutable values that belong to the engine (or to the trainer), found everywhere else by its id. */
typedef struct tn_param {
    const float *v;
    int id; /* index in the model's table; -1: absent (an optional one) */
    int rank;
    long shape[TN_MAX_RANK];
} tn_param;

typedef struct tn_linear_w { /* nn.Linear */
    tn_param weight;         /* [out, in]; [in, out] when in_first */
    tn_param bias;           /* [out], may be absent */
    bool in_first;           /* as GPT-2's Conv1D keeps it */
} tn_linear_w;

typedef struct tn_norm_w {
    tn_param weight, bias; /* [d]; RMSNorm has no bias */
} tn_norm_w;

/* ---- naming every weight once ---------------------------------------------------------------------------- */

/* TN_BUFFER: no gradient. TN_NO_DECAY: gains, biases, temperatures. TN_LINEAR: a linear layer's weight, where
 * LoRA goes. TN_KERNEL: a convolution's. Both are read by products alone, which may hold them packed. TN_SHAPE_OF_FILE: the shape is
 * whatever the checkpoint says (blocks by themselves). TN_IN_FIRST: of a linear layer's weight, [in, out]. TN_TABLE: rows are looked up in it, and
 * where it is tied (TN_TIED) products read it too. TN_UNADAPTED: inside torch.nn.MultiheadAttention, whose code reads the weight past PEFT's factors:
 * these may be in a file, and have no share. */
enum {
    TN_OPTIONAL = 1,
    TN_BUFFER = 2,
    TN_NO_DECAY = 4,
    TN_LINEAR = 8,
    TN_SHAPE_OF_FILE = 16,
    TN_KERNEL = 32,
    TN_IN_FIRST = 64,
    TN_TABLE = 128,
    TN_TIED = 256,
    TN_UNADAPTED = 512
};

/* A model names each of its weights once, to a visitor: loading, checking, planning, saving, the optimiser and
 * LoRA's targets all run on that. */
typedef struct tn_visitor {
    void (*visit)(void *arg, const char *name, tn_param *p, unsigned flags);
    void *arg;
    char prefix[200];
} tn_visitor;

size_t tn_enter(tn_visitor *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
void tn_leave(tn_visitor *v, size_t mark); /* what tn_enter returned */
/* Sets p's shape and tells the visitor. Unused dimensions are 0. */
void tn_visit(tn_visitor *v, tn_param *p, const char *name, unsigned flags, int rank, long d0, long d1, long d2, long d3);
void tn_visit_linear(tn_visitor *v, tn_linear_w *l, const char *name, long out, long in, bool bias);
/* The same, kept [in, out]. */
void tn_visit_conv1d(tn_visitor *v, tn_linear_w *l, const char *name, long out, long in);
void tn_visit_norm(tn_visitor *v, tn_norm_w *n, const char *name, long d, bool bias);

/* ---- LoRA: held apart from the weights, applied by the linear op ------------------------------------------ */

/* y += scale * (x A^T) B^T (Hu 2021). With m, DoRA (Liu 2024): y = bias + f * (x W^T + scale * (x A^T) B^T), f = m / the length of each row of
 * W + scale * B A, a length that counts as a constant for the gradient. One for a parameter id, or r == 0. */
typedef struct tn_lora {
    int r;
    float scale;
    const float *a, *b;  /* [r, in], [out, r], however W lies */
    const float *m;      /* [out]; NULL: plain LoRA */
    const float *f;      /* [out], known while nothing learns; NULL: every forward takes the lengths anew, of W in memory */
    float *ga, *gb, *gm; /* their gradients; NULL: frozen */
} tn_lora;

/* length[o], for o < out: of row o of W + scale * B A, summed in double. w: [out, in], or [in, out] when in_first. pool NULL: serial. */
void tn_row_lengths(bs_pool *pool, const kn_table *kn, const tn_lora *lo, const float *w, long out, long in, bool in_first,
                    float *length);

/* ---- context ------------------------------------------------------------------------------------------------ */

typedef enum tn_mode { TN_PLAN, TN_RUN, TN_TRAIN } tn_mode;

typedef struct tn_record tn_record;

typedef void tn_tap_fn(void *arg, const char *name, tn_t x);

/* The weight `id` as products read it, packed by w's threads at the latest now; NULL: as it lies (or a failure, said in err). */
typedef const kn_packed *tn_packed_fn(void *arg, kn_work *w, int id, oc_err *err);
/* Row `row` of the table `id` whose values are not in memory, into out [width]. */
typedef int tn_table_fn(void *arg, int id, long row, float *out, oc_err *err);

/* The next `count` rows of what runs are the positions from `position` on of a sequence in the cache; all before were seen already. */
typedef struct tn_step {
    int sequence;
    long position, count;
    int memory; /* a sequence of the context's memory, where the model has one, and its length */
    long memory_length;
} tn_step;

/* Sequences that are continued, one after the other in x [1, rows, D]. In PLAN no sequence is looked at, and position + count may be the most
 * that is expected. An encoder-decoder's cross-attention reads keys and values that were computed once, or the rows they would be made of, from the memory. */
typedef struct tn_steps {
    tn_cache *cache, *memory;
    tn_step *step;
    int n;
} tn_steps;

/* A sequence that may begin as one before it does. The rows of x [1, R, D] that its positions are: row[0, length); the last `own` of them are its own and follow each
 * other, those in front were made for another. */
typedef struct tn_branch {
    const int *row;
    long length, own;
} tn_branch;

/* Sequences whose common beginnings are rows of x but once; all rows are somebody's own, in this order. In PLAN no row is looked at. */
typedef struct tn_branches {
    const tn_branch *branch;
    int n;
    long longest, rows; /* positions of a sequence at most; R */
} tn_branches;

typedef struct tn_ctx {
    tn_mode mode;
    bool tape;     /* TRAIN, or PLAN on its behalf: gradients are kept */
    bool bf16;     /* products of weights and activations may round their operands to bf16 */
    bool training; /* batch norm looks at the batch; apart from the tape */
    kn_work *work; /* kernels, threads, scratch; not owned. NULL in PLAN */
    const kn_table *kn;
    bs_pool *pool;
    int threads; /* PLAN counts scratch for as many */

    char *base; /* arena; not owned */
    size_t cap, used, peak;
    size_t backward_scratch; /* the most that one backward needs on top */
    tn_record *last;         /* newest record on the tape */

    float *const *grads;   /* by parameter id; NULL (all or one): frozen. Values are added to */
    float *const *buffers; /* by parameter id: batch norm's statistics to update; NULL: leave them */
    const tn_lora *lora;   /* by parameter id; NULL: none */
    tn_packed_fn *packed;  /* who holds packed weights; NULL: nobody. Only without a tape */
    tn_table_fn *table;    /* who reads rows of tables that are not in memory; NULL: all are */
    void *packed_arg;      /* of both */
    const tn_steps *steps; /* NULL: every sequence begins here, and nothing is kept */
    const tn_branches *branches; /* NULL: sequences are of one length, [B, T, D] */
    tn_tap_fn *tap;        /* NULL: nobody listens */
    void *tap_arg;

    double flops; /* of the forward's matrix products and attention, a multiply-add as two: for measuring */

    bool failed;
    oc_err err;
} tn_ctx;

/* A context without memory that counts: after the forward, tn_plan_bytes says what RUN or TRAIN needs. */
void tn_plan(tn_ctx *cx, const kn_table *kn, int threads, bool train);
size_t tn_plan_bytes(const tn_ctx *cx);
/* A context over `cap` bytes at base (64-byte aligned; base may be NULL when cap is 0). */
void tn_run(tn_ctx *cx, kn_work *work, void *base, size_t cap, bool train);
/* Forgets all values and the tape; keeps memory, gradients and adapters. Clears a failure. */
void tn_reset(tn_ctx *cx);

bool tn_live(const tn_ctx *cx); /* does arithmetic happen? */
/* Fails the context; returns a tensor of rank 0. */
tn_t tn_fail(tn_ctx *cx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Bytes of the arena (64-byte aligned; NULL in PLAN or after a failure). */
void *tn_bytes(tn_ctx *cx, size_t n);
/* A new value, uninitialised; its gradient, when it has one, is 0. grad is taken only if the context keeps a tape. */
tn_t tn_new(tn_ctx *cx, bool grad, int rank, const long *shape);
tn_t tn_new2(tn_ctx *cx, bool grad, long rows, long d);
tn_t tn_like(tn_ctx *cx, tn_t x, bool grad);
/* The caller's array as a value (not copied). With grad, the gradient lies in the arena. */
tn_t tn_input(tn_ctx *cx, const float *v, bool grad, int rank, const long *shape);
/* The same memory under another shape of equal size. */
tn_t tn_reshape(tn_ctx *cx, tn_t x, int rank, const long *shape);

/* A layer is a scope: in RUN the memory of everything in it but its result is given back. `x` is what went in,
 * and its memory is used again for what comes out, which must not be larger. */
typedef struct tn_scope {
    size_t used;
} tn_scope;
tn_scope tn_begin(const tn_ctx *cx);
tn_t tn_end(tn_ctx *cx, tn_scope s, tn_t x, tn_t y);

/* Names a value for whoever listens: dumps, comparison, the hunt for a NaN. Returns x. */
tn_t tn_tap(tn_ctx *cx, const char *name, tn_t x);

/* ---- tape --------------------------------------------------------------------------------------------------- */

/* An op's record starts with this; its inputs, output and saved values follow. */
struct tn_record {
    void (*backward)(tn_ctx *cx, tn_record *self);
    tn_record *before;
};
/* Puts a record of `size` bytes on the tape, zeroed but for its head; NULL when nothing is to be recorded. */
void *tn_push(tn_ctx *cx, size_t size, void (*backward)(tn_ctx *, tn_record *));
/* PLAN: an op's backward will need n bytes of scratch. */
void tn_backward_needs(tn_ctx *cx, size_t n);
/* Runs the tape from its newest record to its oldest; the caller has set the gradient of the loss (tn_seed). */
int tn_backward(tn_ctx *cx);
void tn_seed(tn_ctx *cx, tn_t x, const float *g); /* g NULL: ones */

/* x's gradient, to be read or added to; NULL: it has none. */
float *tn_gradient(tn_ctx *cx, tn_t x);
/* The same for one who writes every element when *add is false, and adds to them when it is true. */
float *tn_gradient_to_write(tn_t x, bool *add);
/* x's gradient, if it has one, += y's; they are of one size. */
void tn_pass_gradient(tn_ctx *cx, tn_t y, tn_t x);

float *tn_grad_of(const tn_ctx *cx, const tn_param *p);         /* NULL: frozen */
const tn_lora *tn_lora_of(const tn_ctx *cx, const tn_param *p); /* NULL: none */
const kn_packed *tn_packed_of(tn_ctx *cx, const tn_param *p);   /* NULL: read p->v */
bool tn_has(const tn_param *p);
/* A weight as a value; its gradient goes where the parameter's goes. */
tn_t tn_weight(tn_ctx *cx, const tn_param *p);

/* x = 0, and y += x, by all threads where it is worth waking them. */
void tn_zero(tn_ctx *cx, float *x, long n);
void tn_accumulate(tn_ctx *cx, long n, const float *x, float *y);
/* work(arg, begin, end) over rows, in pieces of about 16k elements. */
void tn_each(tn_ctx *cx, long rows, long d, bs_work *work, void *arg);

#endif
