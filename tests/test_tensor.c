/* test_tensor.c - every op's gradient against central differences, and what the context promises: planned bytes are used bytes, nothing is
 * allocated while a model runs, errors stay, frozen weights leave no record, fused equals unfused.
 *
 * Gradients are held to differences of fourth order of sum(weight * y), summed in double, on every tier of this CPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "count_allocations.h"
#include "run/engine.h"
#include "tensor/ops.h"

enum { MOST = 8, ROOM = 4096 };

/* ---- a bench: leaves that are inputs or parameters, and an op over them -------------------------------------- */

typedef struct leaf {
    bool param;
    tn_param p; /* its shape also says an input's */
    long n;
    float v[ROOM], g[ROOM];
} leaf;

typedef struct bench bench;
typedef tn_t build(bench *b);

struct bench {
    const kn_table *kn;
    bs_pool *pool;
    kn_work *work;
    int n;
    leaf *leaf;
    float *grads[MOST], *buffers[MOST];
    tn_lora lora[MOST];
    bool use_lora, training;
    int threads;
    tn_ctx cx;
    void *arena;
    size_t planned;
    tn_t x[MOST]; /* inputs as values, by leaf */
    build *op;
    float weight[ROOM];
    bs_rng rng;
};

static void start_bench(bench *b, const kn_table *kn, int threads)
{
    memset(b, 0, sizeof *b);
    b->kn = kn;
    b->threads = threads;
    b->pool = bs_pool_open(threads, NULL);
    b->work = kn_work_open(kn, b->pool, NULL);
    b->leaf = calloc(MOST, sizeof *b->leaf);
    assert_non_null(b->work);
    assert_non_null(b->leaf);
    bs_rng_seed(&b->rng, 7, 7);
    for (int i = 0; i < ROOM; i++)
        b->weight[i] = bs_rng_range(&b->rng, -1, 1);
}

static void stop_bench(bench *b)
{
    bs_free(b->arena);
    kn_work_close(b->work);
    bs_pool_close(b->pool);
    free(b->leaf);
}

/* Adds a leaf of random numbers; those of a kink (ReLU) or of a pole would spoil the differences, so none is within 0.15 of 0. */
static leaf *add_leaf(bench *b, bool param, int rank, long d0, long d1, long d2, long d3)
{
    leaf *l = &b->leaf[b->n];
    const long d[4] = {d0, d1, d2, d3};
    l->param = param;
    l->p = (tn_param){.v = l->v, .id = b->n, .rank = rank};
    l->n = 1;
    for (int i = 0; i < rank; i++) {
        l->p.shape[i] = d[i];
        l->n *= d[i];
    }
    assert_true(l->n <= ROOM);
    for (long i = 0; i < l->n; i++) {
        float x = bs_rng_range(&b->rng, -1, 1);
        l->v[i] = x + (x < 0 ? -0.15f : 0.15f);
    }
    b->grads[b->n] = param ? l->g : NULL;
    b->n++;
    return l;
}

static void input(bench *b, int rank, long d0, long d1, long d2, long d3) { add_leaf(b, false, rank, d0, d1, d2, d3); }
static leaf *param(bench *b, int rank, long d0, long d1, long d2, long d3) { return add_leaf(b, true, rank, d0, d1, d2, d3); }

static const tn_param *P(bench *b, int i) { return &b->leaf[i].p; }

static tn_t compose(bench *b, bool inputs_learn)
{
    b->cx.grads = b->grads;
    b->cx.buffers = b->buffers;
    b->cx.lora = b->use_lora ? b->lora : NULL;
    b->cx.training = b->training;
    for (int i = 0; i < b->n; i++)
        if (!b->leaf[i].param)
            b->x[i] = tn_input(&b->cx, b->leaf[i].v, inputs_learn, b->leaf[i].p.rank, b->leaf[i].p.shape);
    return b->op(b);
}

/* Plans, takes exactly the planned bytes, runs; the value is then in b->cx. */
static tn_t run_op(bench *b, bool train)
{
    tn_plan(&b->cx, b->kn, b->threads, train);
    tn_t y = compose(b, train);
    if (train)
        tn_weighted_sum(&b->cx, y, b->weight);
    assert_string_equal(b->cx.err.text, "");
    b->planned = tn_plan_bytes(&b->cx);
    bs_free(b->arena);
    b->arena = bs_alloc(b->planned, "a test's arena", NULL);
    assert_non_null(b->arena);
    tn_run(&b->cx, b->work, b->arena, b->planned, train);
    y = compose(b, train);
    assert_string_equal(b->cx.err.text, "");
    return y;
}

static double value(bench *b)
{
    tn_t y = run_op(b, false);
    double sum = 0;
    for (long i = 0, n = tn_size(y); i < n; i++)
        sum += (double)y.v[i] * (double)b->weight[i];
    return sum;
}

/* (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h */
static double difference(bench *b, float *x)
{
    const float h = 0.03125f;
    float keep = *x;
    double f[4];
    const float at[4] = {h, -h, 2 * h, -2 * h};
    for (int i = 0; i < 4; i++) {
        *x = keep + at[i];
        f[i] = value(b);
    }
    *x = keep;
    return (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * (double)h);
}

static void backward(bench *b)
{
    for (int i = 0; i < b->n; i++)
        memset(b->leaf[i].g, 0, sizeof b->leaf[i].g);
    tn_t y = run_op(b, true);
    tn_t loss = tn_weighted_sum(&b->cx, y, b->weight);
    tn_seed(&b->cx, loss, NULL);
    assert_int_equal(tn_backward(&b->cx), 0);
    assert_true(b->cx.peak <= b->planned);
    for (int i = 0; i < b->n; i++)
        if (!b->leaf[i].param)
            memcpy(b->leaf[i].g, tn_gradient(&b->cx, b->x[i]), (size_t)b->leaf[i].n * sizeof(float));
}

static void check_leaf(bench *b, const char *name, int which)
{
    leaf *l = &b->leaf[which];
    double top = 0.05;
    for (long i = 0; i < l->n; i++)
        top = fabs((double)l->g[i]) > top ? fabs((double)l->g[i]) : top;
    for (long i = 0; i < l->n; i++) {
        double want = difference(b, &l->v[i]), got = (double)l->g[i];
        if (!(fabs(got - want) <= 4e-4 * top))
            fail_msg("%s on %s: leaf %d, element %ld: gradient %.7g, by differences %.7g", name, b->kn->name, which, i, got,
                     want);
    }
}

static void check_gradients(bench *b, const char *name)
{
    b->op(b); /* shapes only: must not crash on a context of another run */
    backward(b);
    bool any = false;
    for (int i = 0; i < b->n; i++) {
        if (b->leaf[i].param && !b->grads[i])
            continue;
        check_leaf(b, name, i);
        any = true;
    }
    assert_true(any);
}

/* One case: how to set its leaves up, and the op. */
typedef struct op_case {
    const char *name;
    void (*set)(bench *b);
    build *op;
} op_case;

static void run_cases(const op_case *c, size_t n)
{
    int tiers;
    const kn_table *const *all = kn_all(&tiers);
    for (size_t i = 0; i < n; i++)
        for (int t = 0; t < tiers; t++) {
            bench b;
            start_bench(&b, all[t], 1 + t);
            c[i].set(&b);
            b.op = c[i].op;
            memset(&b.cx, 0, sizeof b.cx);
            b.cx.failed = true; /* for the first line of check_gradients */
            check_gradients(&b, c[i].name);
            stop_bench(&b);
        }
}

#define RUN_CASES(...) \
    do { \
        static const op_case cases[] = {__VA_ARGS__}; \
        run_cases(cases, sizeof cases / sizeof cases[0]); \
    } while (0)

static const kn_table *best(void)
{
    const kn_table *kn = kn_best(NULL);
    assert_non_null(kn);
    return kn;
}

/* ---- linear layers ------------------------------------------------------------------------------------------------ */

static tn_linear_w layer(bench *b, int weight, int bias)
{
    tn_linear_w l = {.weight = *P(b, weight), .bias = {.id = -1}};
    if (bias >= 0)
        l.bias = *P(b, bias);
    return l;
}

/* A record keeps a pointer to its layer, so layers outlive the run. */
static tn_linear_w kept[2];

static void set_linear(bench *b)
{
    input(b, 3, 2, 3, 5, 0);
    param(b, 2, 7, 5, 0, 0);
    param(b, 1, 7, 0, 0, 0);
    input(b, 3, 2, 3, 7, 0);
}

static tn_t op_linear(bench *b)
{
    kept[0] = layer(b, 1, 2);
    return tn_add(&b->cx, tn_linear(&b->cx, b->x[0], &kept[0]), b->x[3]);
}

static tn_t op_linear_bare(bench *b)
{
    kept[0] = layer(b, 1, -1);
    return tn_add(&b->cx, tn_add_param(&b->cx, tn_linear(&b->cx, b->x[0], &kept[0]), P(b, 2)), b->x[3]);
}

static tn_t op_linear_add(bench *b)
{
    kept[0] = layer(b, 1, 2);
    return tn_linear_add(&b->cx, b->x[0], &kept[0], b->x[3]);
}

static tn_t op_linear_gelu(bench *b)
{
    kept[0] = layer(b, 1, 2);
    return tn_add(&b->cx, tn_linear_act(&b->cx, b->x[0], &kept[0], KN_GELU), b->x[3]);
}

/* The same leaves, the weight [in, out]. */
static void set_linear_in_first(bench *b)
{
    input(b, 3, 2, 3, 5, 0);
    param(b, 2, 5, 7, 0, 0);
    param(b, 1, 7, 0, 0, 0);
    input(b, 3, 2, 3, 7, 0);
}

static tn_t op_linear_in_first(bench *b)
{
    kept[0] = layer(b, 1, 2);
    kept[0].in_first = true;
    return tn_linear_add(&b->cx, b->x[0], &kept[0], b->x[3]);
}

static void add_factors(bench *b)
{
    param(b, 2, 2, 5, 0, 0);          /* A */
    param(b, 2, 7, 2, 0, 0);          /* B */
    b->grads[1] = b->grads[2] = NULL; /* frozen */
    b->use_lora = true;
    b->lora[1] = (tn_lora){.r = 2, .scale = 0.7f, .a = b->leaf[4].v, .b = b->leaf[5].v, .ga = b->leaf[4].g, .gb = b->leaf[5].g};
}

static void set_lora(bench *b)
{
    set_linear(b);
    add_factors(b);
}

static void set_lora_in_first(bench *b)
{
    set_linear_in_first(b);
    add_factors(b);
}

/* DoRA's lengths count as constants, so differences on the factors need them held: `f` is what an inference is given. The magnitudes are in f, so
 * those are tried apart. */
static void add_magnitudes(bench *b, bool held)
{
    static float f[7];
    param(b, 1, 7, 0, 0, 0);
    tn_lora *lo = &b->lora[1];
    lo->m = b->leaf[6].v;
    lo->gm = b->leaf[6].g;
    if (!held) {
        b->grads[4] = b->grads[5] = NULL;
        return;
    }
    tn_row_lengths(NULL, b->kn, lo, b->leaf[1].v, 7, 5, b->leaf[1].p.shape[0] == 5, f);
    for (int o = 0; o < 7; o++)
        f[o] = lo->m[o] / f[o];
    lo->f = f;
    b->grads[6] = NULL;
    b->grads[1] = b->leaf[1].g;
}

static void set_dora_factors(bench *b)
{
    set_lora(b);
    add_magnitudes(b, true);
}

static void set_dora_magnitudes(bench *b)
{
    set_lora(b);
    add_magnitudes(b, false);
    b->grads[2] = b->leaf[2].g;
}

static void set_dora_in_first(bench *b)
{
    set_lora_in_first(b);
    add_magnitudes(b, true);
}

static void gradients_of_linear_layers(void **state)
{
    (void)state;
    RUN_CASES({"linear", set_linear, op_linear}, {"linear without bias", set_linear, op_linear_bare},
              {"linear and residual", set_linear, op_linear_add}, {"linear and gelu", set_linear, op_linear_gelu},
              {"LoRA", set_lora, op_linear_add}, {"linear, in first", set_linear_in_first, op_linear_in_first},
              {"LoRA, in first", set_lora_in_first, op_linear_in_first}, {"DoRA", set_dora_factors, op_linear_add},
              {"DoRA's magnitudes", set_dora_magnitudes, op_linear_add}, {"DoRA and gelu", set_dora_factors, op_linear_gelu},
              {"DoRA, in first", set_dora_in_first, op_linear_in_first});
}

/* Both layouts and any number of threads give the same bits, and those are right. */
static void lengths_of_adapted_rows(void **state)
{
    (void)state;
    enum { OUT = 37, IN = 301, R = 3 };
    static float w[OUT * IN], turned[OUT * IN], a[R * IN], b[OUT * R], got[3][OUT];
    bs_rng rng;
    bs_rng_seed(&rng, 3, 3);
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++)
            turned[i * OUT + o] = w[o * IN + i] = o == 5 ? 0 : bs_rng_range(&rng, -1, 1);
    for (int i = 0; i < R * IN; i++)
        a[i] = bs_rng_range(&rng, -1, 1);
    for (int i = 0; i < OUT * R; i++)
        b[i] = i / R == 5 ? 0 : bs_rng_range(&rng, -1, 1);
    const tn_lora lo = {.r = R, .scale = 0.4f, .a = a, .b = b};
    bs_pool *pool = bs_pool_open(3, NULL);
    tn_row_lengths(NULL, kn_best(NULL), &lo, w, OUT, IN, false, got[0]);
    tn_row_lengths(pool, kn_best(NULL), &lo, w, OUT, IN, false, got[1]);
    tn_row_lengths(pool, kn_best(NULL), &lo, turned, OUT, IN, true, got[2]);
    bs_pool_close(pool);
    for (int o = 0; o < OUT; o++) {
        double squares = 0;
        for (int i = 0; i < IN; i++) {
            double x = (double)w[o * IN + i];
            for (int k = 0; k < R; k++)
                x += (double)lo.scale * (double)b[o * R + k] * (double)a[k * IN + i];
            squares += x * x;
        }
        assert_true(fabs((double)got[0][o] - sqrt(squares)) <= 1e-6 * sqrt(squares));
    }
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    assert_memory_equal(got[0], got[2], sizeof got[0]);
}

static void set_matmul(bench *b)
{
    input(b, 2, 4, 6, 0, 0);
    input(b, 2, 3, 6, 0, 0);
}

static tn_t op_matmul(bench *b) { return tn_matmul_nt(&b->cx, b->x[0], b->x[1]); }

static void set_conv(bench *b)
{
    input(b, 4, 2, 3, 6, 7);
    param(b, 4, 4, 3, 3, 2);
    param(b, 1, 4, 0, 0, 0);
}

static tn_t op_conv_overlapping(bench *b)
{
    kept[0] = layer(b, 1, 2);
    return tn_conv2d(&b->cx, b->x[0], &kept[0], 1);
}

static tn_t op_conv_apart(bench *b)
{
    kept[0] = layer(b, 1, 2);
    return tn_channels_first(&b->cx, tn_conv2d(&b->cx, b->x[0], &kept[0], 3));
}

static void gradients_of_products(void **state)
{
    (void)state;
    RUN_CASES({"a b^T", set_matmul, op_matmul}, {"convolution, kernels overlap", set_conv, op_conv_overlapping},
              {"convolution, apart", set_conv, op_conv_apart});
}

/* ---- norms ---------------------------------------------------------------------------------------------------------- */

static tn_norm_w kept_norm;
static tn_batch_norm_w kept_batch_norm;

static void set_norm(bench *b)
{
    input(b, 3, 2, 3, 9, 0);
    param(b, 1, 9, 0, 0, 0);
    param(b, 1, 9, 0, 0, 0);
}

static tn_t op_layer_norm(bench *b)
{
    kept_norm = (tn_norm_w){*P(b, 1), *P(b, 2)};
    return tn_layer_norm(&b->cx, b->x[0], &kept_norm, 1e-5f);
}

static tn_t op_rms_norm(bench *b)
{
    kept_norm = (tn_norm_w){*P(b, 1), {.id = -1}};
    return tn_add_param(&b->cx, tn_rms_norm(&b->cx, b->x[0], &kept_norm, 1e-6f), P(b, 2));
}

static tn_t op_l2(bench *b)
{
    kept_norm.weight = *P(b, 1);
    tn_t y = tn_l2_normalize(&b->cx, b->x[0]);
    return tn_add_param(&b->cx, tn_add_param(&b->cx, y, P(b, 1)), P(b, 2));
}

static void set_batch_norm(bench *b)
{
    input(b, 4, 3, 4, 2, 3);
    param(b, 1, 4, 0, 0, 0);
    param(b, 1, 4, 0, 0, 0);
    param(b, 1, 4, 0, 0, 0);
    leaf *variance = param(b, 1, 4, 0, 0, 0);
    for (int i = 0; i < 4; i++)
        variance->v[i] = 0.5f + fabsf(variance->v[i]);
    b->grads[3] = b->grads[4] = NULL;
}

static void set_batch_norm_training(bench *b)
{
    set_batch_norm(b);
    b->training = true;
}

static tn_t op_batch_norm(bench *b)
{
    kept_batch_norm = (tn_batch_norm_w){*P(b, 1), *P(b, 2), *P(b, 3), *P(b, 4)};
    return tn_batch_norm(&b->cx, b->x[0], &kept_batch_norm, 0.1f, 1e-5f);
}

static void gradients_of_norms(void **state)
{
    (void)state;
    RUN_CASES({"layer norm", set_norm, op_layer_norm}, {"RMS norm", set_norm, op_rms_norm}, {"length 1", set_norm, op_l2},
              {"batch norm, evaluating", set_batch_norm, op_batch_norm},
              {"batch norm, training", set_batch_norm_training, op_batch_norm});
}

/* ---- attention -------------------------------------------------------------------------------------------------------- */

static const uint8_t some_keys[2 * 5] = {1, 1, 0, 1, 1, 0, 1, 1, 0, 0};

static void set_attention(bench *b) /* values wider than keys, more keys than queries */
{
    input(b, 3, 2, 3, 8, 0);
    input(b, 3, 2, 5, 8, 0);
    input(b, 3, 2, 5, 12, 0);
}

static tn_t attend(bench *b, tn_attention_args args) { return tn_attention(&b->cx, b->x[0], b->x[1], b->x[2], &args); }
static tn_t op_attention(bench *b) { return attend(b, (tn_attention_args){.heads = 2}); }
static tn_t op_causal(bench *b) { return attend(b, (tn_attention_args){.heads = 2, .causal = true}); }
static tn_t op_masked(bench *b) { return attend(b, (tn_attention_args){.heads = 4, .key_mask = some_keys, .scale = 0.9f}); }
static tn_t op_both(bench *b) { return attend(b, (tn_attention_args){.heads = 1, .causal = true, .key_mask = some_keys}); }

static void set_grouped(bench *b)
{
    input(b, 3, 2, 3, 8, 0);
    input(b, 3, 2, 5, 4, 0);
    input(b, 3, 2, 5, 6, 0);
}

static tn_t op_grouped(bench *b) { return attend(b, (tn_attention_args){.heads = 4, .kv_heads = 2}); }

static void set_head_major(bench *b)
{
    input(b, 4, 2, 2, 3, 4);
    input(b, 4, 2, 2, 5, 4);
    input(b, 4, 2, 2, 5, 3);
}

static tn_t op_head_major(bench *b) { return attend(b, (tn_attention_args){.head_major = true, .causal = true}); }

static void set_rope(bench *b) { input(b, 4, 2, 2, 3, 6); }
static tn_t op_rope(bench *b) { return tn_rope(&b->cx, b->x[0], 10000, 5); }

static const int some_documents[2 * 3] = {0, 1, 4, 0, 2, 2};

static tn_t op_window(bench *b)
{
    return attend(b, (tn_attention_args){.heads = 2, .causal = true, .window = 2, .from = some_documents});
}

static const int some_positions[3] = {7, 0, 1000};
static const double some_frequencies[2] = {1, 0.01};

static tn_t op_partly_turned(bench *b) /* [.., 12] as 2 heads of 6, of which 4 turn */
{
    tn_angles a = tn_rotary(&b->cx, some_positions, 3, some_frequencies, 2, 1.25f);
    return tn_rotate(&b->cx, tn_reshape(&b->cx, b->x[0], 3, (long[]){2, 3, 12}), 2, a);
}

static void set_distances(bench *b)
{
    set_attention(b);
    param(b, 2, 8, 2, 0, 0);
}

/* Two layers share a bias. */
static tn_t op_distances(bench *b)
{
    tn_attention_args args = {.heads = 2, .scale = 1};
    args.bias = tn_distance_bias(&b->cx, P(b, 3), &(tn_buckets){8, 4, true}, 3, 5);
    return tn_add(&b->cx, attend(b, args), (args.key_mask = some_keys, attend(b, args)));
}

static tn_t op_distances_back(bench *b)
{
    tn_attention_args args = {.heads = 2, .causal = true};
    args.bias = tn_distance_bias(&b->cx, P(b, 3), &(tn_buckets){8, 6, false}, 4, 7); /* more than are needed */
    return attend(b, args);
}

/* Sequences of 3, 1 and 5 rows, one behind the other; a context with branches knows them. */
static const int unlike_rows[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8}, unlike_places[3] = {2, 0, 3}, unlike_first[3] = {0, 3, 4};
static const tn_branch unlike_branch[3] = {{unlike_rows, 3, 3}, {unlike_rows + 3, 1, 1}, {unlike_rows + 4, 5, 5}};
static const tn_branches unlike = {unlike_branch, 3, 5, 9};

static void set_unlike(bench *b)
{
    for (int i = 0; i < 3; i++)
        input(b, 3, 1, 9, i == 2 ? 4 : 6, 0);
    input(b, 3, 3, 1, 6, 0);
    param(b, 2, 6, 6, 0, 0);
}

/* No two numbers are so near that a difference would make another the largest. */
static void set_unlike_apart(bench *b)
{
    leaf *l = add_leaf(b, false, 3, 1, 9, 6, 0);
    for (long i = 0; i < l->n; i++)
        l->v[i] = (float)(i * 7 % l->n) / 8;
}

static tn_t attend_unlike(bench *b, tn_t q, tn_attention_args args)
{
    b->cx.branches = &unlike;
    return tn_attention(&b->cx, q, b->x[1], b->x[2], &args);
}

static tn_t op_unlike(bench *b) { return attend_unlike(b, b->x[0], (tn_attention_args){.heads = 2}); }
static tn_t op_unlike_causal(bench *b)
{
    return attend_unlike(b, b->x[0], (tn_attention_args){.heads = 1, .causal = true, .scale = 0.9f});
}
static tn_t op_unlike_one(bench *b) { return attend_unlike(b, b->x[3], (tn_attention_args){.heads = 2}); }
static tn_t op_unlike_last(bench *b)
{
    return attend_unlike(b, b->x[3], (tn_attention_args){.heads = 2, .last_key = unlike_places});
}

static tn_t op_unlike_positions(bench *b)
{
    b->cx.branches = &unlike;
    return tn_add_positions(&b->cx, b->x[0], P(b, 4));
}

static tn_t op_unlike_rows(bench *b)
{
    b->cx.branches = &unlike;
    return tn_sum2(&b->cx, tn_select(&b->cx, b->x[0], unlike_places), 0.5f, tn_select(&b->cx, b->x[0], NULL), -2);
}

static tn_t op_unlike_mean(bench *b)
{
    b->cx.branches = &unlike;
    return tn_pool(&b->cx, b->x[0], NULL, TN_POOL_MEAN);
}

static tn_t op_unlike_max(bench *b)
{
    b->cx.branches = &unlike;
    return tn_pool(&b->cx, b->x[0], NULL, TN_POOL_MAX);
}

static void gradients_where_lengths_differ(void **state)
{
    (void)state;
    RUN_CASES({"attention", set_unlike, op_unlike}, {"causal attention", set_unlike, op_unlike_causal},
              {"attention of one row", set_unlike, op_unlike_one},
              {"attention of one row up to a key", set_unlike, op_unlike_last}, {"positions", set_unlike, op_unlike_positions},
              {"one row", set_unlike, op_unlike_rows}, {"mean", set_unlike, op_unlike_mean},
              {"max", set_unlike_apart, op_unlike_max});
}

/* What a sequence has among others of other lengths is what it has alone, in the gradients too. */
static void lengths_that_differ_change_no_bit(void **state)
{
    (void)state;
    static const tn_attention_args how[] = {{.heads = 2}, {.heads = 2, .causal = true}};
    bench b;
    start_bench(&b, best(), 2);
    set_unlike(&b);
    void *base = bs_alloc(1 << 20, "a test's arena", NULL);
    for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
        static const long width[3] = {6, 6, 4};
        static float y[9 * 4], d[3][9 * 6];
        for (int i = -1; i < 3; i++) { /* -1: all */
            const long first = i < 0 ? 0 : unlike_first[i], n = i < 0 ? 9 : unlike_branch[i].length;
            tn_t x[3];
            tn_run(&b.cx, b.work, base, 1 << 20, true);
            b.cx.branches = i < 0 ? &unlike : NULL;
            for (int k = 0; k < 3; k++)
                x[k] = tn_input(&b.cx, b.leaf[k].v + first * width[k], true, 3, (long[]){1, n, width[k]});
            tn_t out = tn_attention(&b.cx, x[0], x[1], x[2], &how[h]);
            tn_seed(&b.cx, out, b.weight + first * 4);
            assert_int_equal(tn_backward(&b.cx), 0);
            if (i < 0)
                memcpy(y, out.v, sizeof y);
            else
                assert_memory_equal(y + first * 4, out.v, (size_t)n * 4 * sizeof *y);
            for (int k = 0; k < 3; k++) {
                const float *g = tn_gradient(&b.cx, x[k]);
                size_t bytes = (size_t)(n * width[k]) * sizeof *g;
                if (i < 0)
                    memcpy(d[k], g, bytes);
                else
                    assert_memory_equal(d[k] + first * width[k], g, bytes);
            }
        }
    }
    bs_free(base);
    stop_bench(&b);
}

static void gradients_of_attention(void **state)
{
    (void)state;
    RUN_CASES({"attention", set_attention, op_attention}, {"causal attention", set_attention, op_causal},
              {"attention with a padding mask", set_attention, op_masked}, {"attention with both masks", set_attention, op_both},
              {"grouped attention", set_grouped, op_grouped}, {"attention, head by head", set_head_major, op_head_major},
              {"attention with a window and documents", set_attention, op_window}, {"rotary positions", set_rope, op_rope},
              {"rotary positions of some dimensions", set_rope, op_partly_turned},
              {"attention with distances", set_distances, op_distances},
              {"causal attention with distances", set_distances, op_distances_back});
}

static void set_buckets(bench *b)
{
    leaf *l = param(b, 2, 32, 1, 0, 0);
    for (int i = 0; i < 32; i++)
        l->v[i] = (float)i;
}

static tn_t op_buckets(bench *b) { return tn_distance_bias(&b->cx, P(b, 0), &(tn_buckets){32, 128, true}, 301, 301).v; }
static tn_t op_buckets_back(bench *b) { return tn_distance_bias(&b->cx, P(b, 0), &(tn_buckets){32, 128, false}, 301, 301).v; }

/* Where each bucket begins, going away from the query. */
static void distances_fall_into_buckets(void **state)
{
    (void)state;
    static const int both[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91};
    static const int back[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113};
    bench b;
    start_bench(&b, best(), 1);
    set_buckets(&b);
    b.op = op_buckets;
    tn_t y = run_op(&b, false);
    for (int d = -300, k; d <= 300; d++) {
        for (k = 15; both[k] > abs(d);)
            k--;
        assert_float_equal(y.v[300 + d], k + (d > 0 ? 16 : 0), 0);
    }
    b.op = op_buckets_back;
    y = run_op(&b, false);
    for (int d = -300, k; d <= 300; d++) {
        for (k = 31; back[k] > -d && k > 0;)
            k--;
        assert_float_equal(y.v[300 + d], k, 0);
    }
    stop_bench(&b);
}

/* ---- sequences that go on ------------------------------------------------------------------------------------------------ */

/* Leaves: q, k, v of a sequence of 40, a table of distances, keys and values of 9 places that are remembered. */
static void set_going_on(bench *b)
{
    input(b, 3, 1, 40, 8, 0);
    input(b, 3, 1, 40, 8, 0);
    input(b, 3, 1, 40, 8, 0);
    param(b, 2, 8, 2, 0, 0);
    input(b, 3, 1, 9, 8, 0);
    input(b, 3, 1, 9, 8, 0);
}

static tn_attention_args going_on(bench *b)
{
    tn_attention_args args = {.heads = 2, .causal = true, .layer = 1};
    args.bias = tn_distance_bias(&b->cx, P(b, 3), &(tn_buckets){8, 20, false}, 40, 40);
    return args;
}

static tn_t op_at_once(bench *b) { return attend(b, going_on(b)); }
static tn_t op_remembered(bench *b)
{
    return tn_attention(&b->cx, b->x[0], b->x[4], b->x[5], &(tn_attention_args){.heads = 2, .scale = 1});
}

typedef struct going {
    bench *b;
    tn_steps steps;
    tn_step step[2];
    float y[2][40 * 8], m[2][40 * 8];
} going;

/* Rows [position, position + count) of both sequences, the second a row behind. */
static void go_on_by(going *g, long first, long count)
{
    bench *b = g->b;
    long rows = 2 * count;
    float *in[3];
    for (int i = 0; i < 3; i++) {
        in[i] = malloc((size_t)rows * 8 * sizeof(float));
        for (long r = 0; r < rows; r++)
            memcpy(in[i] + r * 8, b->leaf[i].v + (first + r % count) * 8, 8 * sizeof(float));
    }
    oc_err err = {0};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tn_sequence_resize(g->steps.cache, g->step[i].sequence, first + count, &err), 0);
        g->step[i].position = first;
        g->step[i].count = count;
    }
    for (int live = 0; live < 2; live++) {
        if (live)
            tn_run(&b->cx, b->work, b->arena, b->planned, false);
        else
            tn_plan(&b->cx, b->kn, b->threads, false);
        b->cx.steps = &g->steps;
        tn_t x[3];
        for (int i = 0; i < 3; i++)
            x[i] = tn_input(&b->cx, in[i], false, 3, (long[]){1, rows, 8});
        tn_attention_args args = going_on(b);
        tn_t y = tn_attention(&b->cx, x[0], x[1], x[2], &args);
        tn_t m = tn_attention(&b->cx, x[0], (tn_t){0}, (tn_t){0}, &(tn_attention_args){.heads = 2, .scale = 1, .memory = 1});
        assert_string_equal(b->cx.err.text, "");
        if (!live) {
            b->planned = tn_plan_bytes(&b->cx);
            bs_free(b->arena);
            b->arena = bs_alloc(b->planned, "a test's arena", NULL);
        }
        for (int i = 0; live && i < 2; i++) {
            memcpy(g->y[i] + first * 8, y.v + i * count * 8, (size_t)count * 8 * sizeof(float));
            memcpy(g->m[i] + first * 8, m.v + i * count * 8, (size_t)count * 8 * sizeof(float));
        }
    }
    for (int i = 0; i < 3; i++)
        free(in[i]);
}

static void remember_twice(going *g)
{
    bench *b = g->b;
    float both[2][2 * 9 * 8];
    oc_err err = {0};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tn_sequence_resize(g->steps.memory, g->step[i].memory, 9, &err), 0);
        g->step[i].memory_length = 9;
        memcpy(both[i], b->leaf[4 + i].v, 9 * 8 * sizeof(float));
        memcpy(both[i] + 9 * 8, b->leaf[4 + i].v, 9 * 8 * sizeof(float));
    }
    tn_run(&b->cx, b->work, NULL, 0, false);
    b->cx.steps = &g->steps;
    const long shape[3] = {2, 9, 8};
    tn_remember(&b->cx, tn_input(&b->cx, both[0], false, 3, shape), tn_input(&b->cx, both[1], false, 3, shape), 1);
    assert_string_equal(b->cx.err.text, "");
}

/* Attention bit by bit, with distances and with what is remembered, has the bits of attention at once. */
static void sequences_go_on_with_distances(void **state)
{
    (void)state;
    static const tn_cache_shape shape = {.layers = 1, .kv_heads = 2, .key = 4, .value = 4, .positions = 256, .type = KN_KV_F32};
    bench b;
    oc_err err = {0};
    float want[40 * 8], recalled[40 * 8];
    start_bench(&b, best(), 2);
    set_going_on(&b);
    b.op = op_at_once;
    memcpy(want, run_op(&b, false).v, sizeof want);
    b.op = op_remembered;
    memcpy(recalled, run_op(&b, false).v, sizeof recalled);
    going g = {.b = &b,
               .steps = {.cache = tn_cache_open(&shape, &err), .memory = tn_cache_open(&shape, &err), .step = g.step, .n = 2}};
    for (int i = 0; i < 2; i++) {
        g.step[i].sequence = tn_sequence_open(g.steps.cache, &err);
        g.step[i].memory = tn_sequence_open(g.steps.memory, &err);
    }
    remember_twice(&g);
    go_on_by(&g, 0, 7);
    for (long i = 7; i < 40; i++)
        go_on_by(&g, i, 1);
    for (int i = 0; i < 2; i++) {
        assert_memory_equal(g.y[i], want, sizeof want);
        assert_memory_equal(g.m[i], recalled, sizeof recalled);
    }
    b.cx.steps = NULL;
    tn_cache_close(g.steps.cache);
    tn_cache_close(g.steps.memory);
    stop_bench(&b);
}

/* ---- pieces ------------------------------------------------------------------------------------------------------------ */

static const int some_ids[6] = {3, 0, 3, 1, 3, 4}, some_rows[2] = {2, 0};

static void set_pieces(bench *b)
{
    input(b, 3, 2, 3, 4, 0);
    param(b, 2, 5, 4, 0, 0);
    param(b, 1, 4, 0, 0, 0);
}

static tn_t op_embedding(bench *b)
{
    return tn_add_param(&b->cx, tn_add(&b->cx, tn_embedding(&b->cx, P(b, 1), some_ids, 2, 3), b->x[0]), P(b, 2));
}

static tn_t but(bench *b, int fixed)
{
    return tn_add_param(&b->cx, tn_add(&b->cx, tn_embedding_but(&b->cx, P(b, 1), some_ids, 2, 3, fixed), b->x[0]), P(b, 2));
}

static tn_t op_embedding_but(bench *b) { return but(b, 2); } /* a row that nobody looks up: all others learn as ever */
static tn_t op_embedding_but_three(bench *b) { return but(b, 3); }

/* The row that is left out has no gradient, the others have what they have without it. */
static void a_fixed_row_learns_nothing(void **state)
{
    (void)state;
    bench b;
    float whole[5 * 4];
    start_bench(&b, kn_best(NULL), 1);
    set_pieces(&b);
    b.op = op_embedding;
    backward(&b);
    memcpy(whole, b.leaf[1].g, sizeof whole);
    b.op = op_embedding_but_three;
    backward(&b);
    for (int i = 0; i < 5 * 4; i++) {
        assert_true(i / 4 == 3 ? whole[i] != 0 : true);
        assert_true(b.leaf[1].g[i] == (i / 4 == 3 ? 0 : whole[i]));
    }
    stop_bench(&b);
}

static tn_t op_positions(bench *b)
{
    return tn_add_param(&b->cx, tn_add_sinusoid(&b->cx, tn_add_positions(&b->cx, b->x[0], P(b, 1))), P(b, 2));
}

static tn_t op_prepend(bench *b) { return tn_prepend(&b->cx, P(b, 2), tn_add_positions(&b->cx, b->x[0], P(b, 1))); }

static tn_t op_select(bench *b)
{
    tn_t x = tn_add_param(&b->cx, tn_add_positions(&b->cx, b->x[0], P(b, 1)), P(b, 2));
    return tn_transpose(&b->cx, tn_sum2(&b->cx, tn_select(&b->cx, x, some_rows), 0.5f, tn_select(&b->cx, x, NULL), -2));
}

static const int picked[5] = {5, 0, 0, 3, 5};

static tn_t op_pick(bench *b) { return tn_pick(&b->cx, b->x[0], picked, 5); }

static tn_t op_split(bench *b) /* one piece is used by nobody, another twice */
{
    tn_t y[4];
    tn_split(&b->cx, b->x[0], 4, (long[]){1, 1, 1, 1}, y);
    return tn_gate(&b->cx, tn_add(&b->cx, y[1], y[3]), y[3], KN_SILU);
}

static void set_pictures(bench *b) { input(b, 4, 2, 3, 2, 4); }
static tn_t op_channels(bench *b) { return tn_channels_first(&b->cx, b->x[0]); }

static tn_t op_reshape(bench *b) /* used twice: gradients add up */
{
    tn_t flat = tn_reshape(&b->cx, b->x[0], 2, (long[]){6, 8});
    return tn_matmul_nt(&b->cx, flat, flat);
}

static tn_t op_columns(bench *b) { return tn_columns(&b->cx, b->x[0], 1, 2); }

static void set_repeat(bench *b)
{
    input(b, 3, 2, 3, 4, 0);
    param(b, 3, 1, 3, 4, 0);
}

static tn_t op_repeat(bench *b) { return tn_add(&b->cx, b->x[0], tn_repeat(&b->cx, P(b, 1), 2)); }

static const uint8_t some_rows_kept[2 * 3] = {1, 0, 1, 0, 1, 1}, one_row_kept[2 * 3] = {0, 1, 0, 0, 0, 0};
static tn_t op_mean(bench *b) { return tn_pool(&b->cx, b->x[0], some_rows_kept, TN_POOL_MEAN); }
static tn_t op_mean_of_all(bench *b) { return tn_pool(&b->cx, b->x[0], NULL, TN_POOL_MEAN); }
static tn_t op_mean_of_none(bench *b) { return tn_pool(&b->cx, b->x[0], one_row_kept, TN_POOL_MEAN); }
static tn_t op_max(bench *b) { return tn_pool(&b->cx, b->x[0], some_rows_kept, TN_POOL_MAX); }
static tn_t op_max_of_none(bench *b) { return tn_pool(&b->cx, b->x[0], one_row_kept, TN_POOL_MAX); }

static void gradients_of_pieces(void **state)
{
    (void)state;
    RUN_CASES({"embedding", set_pieces, op_embedding}, {"embedding but one", set_pieces, op_embedding_but},
              {"positions", set_pieces, op_positions},
              {"prepend", set_pieces, op_prepend}, {"select", set_pieces, op_select}, {"pick", set_pieces, op_pick},
              {"split, gate", set_pieces, op_split}, {"columns", set_pieces, op_columns}, {"repeat", set_repeat, op_repeat},
              {"mean", set_pieces, op_mean}, {"mean of all", set_pieces, op_mean_of_all},
              {"mean of nothing", set_pieces, op_mean_of_none}, {"max", set_pieces, op_max},
              {"max of nothing", set_pieces, op_max_of_none}, {"channels first", set_pictures, op_channels},
              {"reshape, used twice", set_pictures, op_reshape});
}

/* ---- elementwise and losses ------------------------------------------------------------------------------------------- */

static void set_plain(bench *b)
{
    input(b, 2, 4, 6, 0, 0);
    param(b, 0, 0, 0, 0, 0);
}

static tn_t activation(bench *b, kn_act f) { return tn_scale_exp(&b->cx, tn_act(&b->cx, b->x[0], f), P(b, 1)); }
static tn_t op_gelu(bench *b) { return activation(b, KN_GELU); }
static tn_t op_gelu_tanh(bench *b) { return activation(b, KN_GELU_TANH); }
static tn_t op_quick_gelu(bench *b) { return activation(b, KN_QUICK_GELU); }
static tn_t op_silu(bench *b) { return activation(b, KN_SILU); }
static tn_t op_relu(bench *b) { return activation(b, KN_RELU); }
static tn_t op_tanh(bench *b) { return activation(b, KN_TANH); }
static tn_t op_softmax(bench *b) { return tn_scale_exp(&b->cx, tn_softmax(&b->cx, tn_scale(&b->cx, b->x[0], 3)), P(b, 1)); }

static tn_t op_divide(bench *b) { return tn_divide(&b->cx, b->x[0], P(b, 1)); }

static const int some_targets[4] = {5, -100, 0, 2};
static const float soft_targets[4 * 6] = {1, 0, 0, 0, 0, 0, 0, 0.5f, 0.5f, 0, 0, 0, 0, 0, 0, 0.2f, 0.3f, 0.5f, 0, 0, 0, 0, 0, 1};

static tn_t loss_of(bench *b, tn_t loss) { return tn_scale_exp(&b->cx, loss, P(b, 1)); }
static tn_t op_cross_entropy(bench *b) { return loss_of(b, tn_cross_entropy(&b->cx, b->x[0], some_targets, 0)); }
static tn_t op_smoothed(bench *b) { return loss_of(b, tn_cross_entropy(&b->cx, b->x[0], some_targets, 0.3f)); }
static tn_t op_soft(bench *b) { return loss_of(b, tn_soft_cross_entropy(&b->cx, b->x[0], soft_targets, false)); }

static void set_square(bench *b)
{
    input(b, 2, 4, 4, 0, 0);
    param(b, 0, 0, 0, 0, 0);
}

static const float other_targets[4 * 4] = {0, 1, 0, 0, 0.5f, 0,    0.5f, 0,
                                           0, 0, 0, 0, 0,    0.2f, 0.8f, 0}; /* row 2 counts for nothing */
static tn_t op_sigmoid(bench *b) { return loss_of(b, tn_sigmoid_cross_entropy(&b->cx, b->x[0], NULL)); }
static tn_t op_sigmoid_shared(bench *b) { return loss_of(b, tn_sigmoid_cross_entropy(&b->cx, b->x[0], other_targets)); }
static tn_t op_others(bench *b) { return loss_of(b, tn_soft_cross_entropy(&b->cx, b->x[0], other_targets, true)); }

static void gradients_of_functions(void **state)
{
    (void)state;
    RUN_CASES({"gelu", set_plain, op_gelu}, {"gelu by tanh", set_plain, op_gelu_tanh}, {"quick gelu", set_plain, op_quick_gelu},
              {"silu", set_plain, op_silu}, {"relu", set_plain, op_relu}, {"tanh", set_plain, op_tanh},
              {"softmax", set_plain, op_softmax}, {"division", set_plain, op_divide}, {"cross-entropy", set_plain, op_cross_entropy},
              {"cross-entropy, smoothed", set_plain, op_smoothed}, {"cross-entropy, soft targets", set_plain, op_soft},
              {"cross-entropy with the others", set_square, op_others}, {"sigmoid cross-entropy", set_square, op_sigmoid},
              {"sigmoid cross-entropy, shared", set_square, op_sigmoid_shared});
}

/* ---- values -------------------------------------------------------------------------------------------------------------- */

static tn_t op_unfused_act(bench *b)
{
    kept[0] = layer(b, 1, 2);
    return tn_add(&b->cx, tn_act(&b->cx, tn_linear(&b->cx, b->x[0], &kept[0]), KN_GELU), b->x[3]);
}

/* The forwards of RUN (which fuse) and of TRAIN (which may not), and the composition of the parts. */
static void fused_equals_unfused(void **state)
{
    (void)state;
    static build *const pairs[][2] = {{op_linear_gelu, op_unfused_act}, {op_linear_add, op_linear}};
    for (int i = 0; i < 2; i++)
        for (int lora = 0; lora < 3; lora++) {
            static void (*const sets[])(bench *) = {set_linear, set_lora, set_dora_magnitudes};
            float got[4][ROOM];
            for (int k = 0; k < 4; k++) {
                bench b;
                start_bench(&b, best(), 2);
                sets[lora](&b);
                b.op = pairs[i][k / 2];
                tn_t y = run_op(&b, k % 2);
                memcpy(got[k], y.v, (size_t)tn_size(y) * sizeof(float));
                stop_bench(&b);
            }
            for (int k = 1; k < 4; k++)
                for (int n = 0; n < 2 * 3 * 7; n++)
                    assert_float_equal(got[k][n], got[0][n], 2e-6);
        }
}

static const uint8_t no_keys[2 * 5] = {1, 1, 1, 1, 1, 0, 0, 0, 0, 0};
static tn_t op_hidden(bench *b) { return attend(b, (tn_attention_args){.heads = 2, .key_mask = no_keys}); }
static tn_t op_hidden_causal(bench *b) { return attend(b, (tn_attention_args){.heads = 2, .key_mask = no_keys, .causal = true}); }

static void hidden_rows_give_zeros(void **state)
{
    (void)state;
    static build *const ops[] = {op_hidden, op_hidden_causal};
    for (int k = 0; k < 2; k++) {
        bench b;
        start_bench(&b, best(), 2);
        set_attention(&b);
        b.op = ops[k];
        tn_t y = run_op(&b, false);
        for (long i = 0; i < 3 * 12; i++) {
            assert_true(y.v[i] != 0);
            assert_true(y.v[3 * 12 + i] == 0);
        }
        backward(&b);
        for (int n = 0; n < 3; n++)
            for (long i = 0, half = b.leaf[n].n / 2; i < half; i++) {
                assert_true(isfinite(b.leaf[n].g[i]));
                assert_true(b.leaf[n].g[half + i] == 0);
            }
        stop_bench(&b);
    }
}

static const uint8_t three_keys[2 * 5] = {1, 1, 1, 0, 0, 1, 1, 1, 0, 0};
static tn_t op_three(bench *b) { return attend(b, (tn_attention_args){.heads = 2, .key_mask = three_keys}); }

/* Keys that are hidden may hold anything; what a causal query must not see does not change it. */
static void masks_hide(void **state)
{
    (void)state;
    bench b;
    float before[2 * 3 * 12];
    start_bench(&b, best(), 1);
    set_attention(&b);
    b.op = op_three;
    tn_t y = run_op(&b, false);
    memcpy(before, y.v, sizeof before);
    for (int row = 0; row < 2; row++)
        for (int k = 3; k < 5; k++) {
            b.leaf[1].v[(row * 5 + k) * 8] = 1e4f;
            b.leaf[2].v[(row * 5 + k) * 12] = -1e4f;
        }
    y = run_op(&b, false);
    assert_memory_equal(before, y.v, sizeof before);
    b.op = op_causal; /* query 0 of 3 sees keys 0, 1, 2 of 5 */
    y = run_op(&b, false);
    memcpy(before, y.v, sizeof before);
    b.leaf[2].v[3 * 12 + 1] += 5;
    y = run_op(&b, false);
    assert_memory_equal(before, y.v, 12 * sizeof(float));
    assert_memory_not_equal(before + 12, y.v + 12, 12 * sizeof(float));
    stop_bench(&b);
}

static void a_zero_row_stays_zero(void **state)
{
    (void)state;
    bench b;
    start_bench(&b, best(), 1);
    set_norm(&b);
    memset(b.leaf[0].v, 0, 9 * sizeof(float));
    memset(b.leaf[1].v, 0, 9 * sizeof(float));
    memset(b.leaf[2].v, 0, 9 * sizeof(float));
    b.op = op_l2;
    tn_t y = run_op(&b, false);
    for (int i = 0; i < 9; i++)
        assert_true(y.v[i] == 0);
    backward(&b);
    for (int i = 0; i < b.leaf[0].n; i++)
        assert_true(isfinite(b.leaf[0].g[i]));
    stop_bench(&b);
}

/* ---- batch norm ------------------------------------------------------------------------------------------------------------ */

static void batch_norm_trains_and_evaluates(void **state)
{
    (void)state;
    bench b;
    float mean[4] = {0}, variance[4] = {1, 1, 1, 1}, trained[3 * 4 * 6];
    start_bench(&b, best(), 1);
    set_batch_norm_training(&b);
    b.op = op_batch_norm;
    b.buffers[3] = mean;
    b.buffers[4] = variance;
    tn_t y = run_op(&b, false);
    memcpy(trained, y.v, sizeof trained);
    for (int c = 0; c < 4; c++) { /* mean and variance of the channel, by hand */
        double sum = 0, square = 0, out = 0;
        for (int n = 0; n < 3; n++)
            for (int i = 0; i < 6; i++)
                sum += (double)b.leaf[0].v[(n * 4 + c) * 6 + i];
        for (int n = 0; n < 3; n++)
            for (int i = 0; i < 6; i++) {
                square += pow((double)b.leaf[0].v[(n * 4 + c) * 6 + i] - sum / 18, 2);
                out += (double)trained[(n * 4 + c) * 6 + i];
            }
        assert_float_equal(mean[c], 0.1 * sum / 18, 1e-6);
        assert_float_equal(variance[c], 0.9 + 0.1 * square / 17, 1e-6); /* unbiased: 18 - 1 */
        assert_float_equal(out / 18, b.leaf[2].v[c], 1e-6);             /* normalised to the bias */
    }
    b.training = false;
    y = run_op(&b, false);
    assert_memory_not_equal(trained, y.v, sizeof trained);
    b.training = true; /* the same batch again and again: the running values become the batch's own */
    for (int i = 0; i < 200; i++)
        run_op(&b, false);
    for (int c = 0; c < 4; c++) {
        b.leaf[3].v[c] = mean[c];
        b.leaf[4].v[c] = variance[c] * 17 / 18;
    }
    b.training = false;
    y = run_op(&b, false);
    for (int i = 0; i < 3 * 4 * 6; i++)
        assert_float_equal(y.v[i], trained[i], 1e-5);
    stop_bench(&b);
}

static void batch_norm_refuses_a_single_value(void **state)
{
    (void)state;
    bench b;
    start_bench(&b, best(), 1);
    input(&b, 2, 1, 4, 0, 0);
    for (int i = 0; i < 4; i++)
        param(&b, 1, 4, 0, 0, 0);
    b.op = op_batch_norm;
    b.training = true;
    tn_plan(&b.cx, b.kn, 1, false);
    compose(&b, false);
    assert_non_null(strstr(b.cx.err.text, "batch norm"));
    stop_bench(&b);
}

/* ---- the context -------------------------------------------------------------------------------------------------------------- */

typedef struct wrong_case {
    const char *name;
    tn_t (*op)(bench *b);
} wrong_case;

static tn_t w_linear(bench *b) { return (kept[0] = layer(b, 3, -1), tn_linear(&b->cx, b->x[0], &kept[0])); }
static tn_t w_bias(bench *b) { return (kept[0] = layer(b, 1, 3), tn_linear(&b->cx, b->x[0], &kept[0])); }
static tn_t w_residual(bench *b) { return (kept[0] = layer(b, 1, 2), tn_linear_add(&b->cx, b->x[0], &kept[0], b->x[0])); }
static tn_t w_matmul(bench *b) { return tn_matmul_nt(&b->cx, b->x[0], b->x[4]); }
static tn_t w_conv(bench *b) { return (kept[0] = layer(b, 1, -1), tn_conv2d(&b->cx, b->x[0], &kept[0], 1)); }
static tn_t w_norm(bench *b)
{
    return (kept_norm = (tn_norm_w){*P(b, 2), {.id = -1}}, tn_layer_norm(&b->cx, b->x[0], &kept_norm, 1));
}
static tn_t w_rms(bench *b)
{
    return (kept_norm = (tn_norm_w){*P(b, 2), {.id = -1}}, tn_rms_norm(&b->cx, b->x[0], &kept_norm, 1));
}
static tn_t w_batch(bench *b)
{
    kept_batch_norm = (tn_batch_norm_w){*P(b, 2), *P(b, 2), *P(b, 2), *P(b, 2)};
    return tn_batch_norm(&b->cx, b->x[0], &kept_batch_norm, 0, 1);
}
static tn_t w_heads(bench *b) { return tn_attention(&b->cx, b->x[0], b->x[0], b->x[0], &(tn_attention_args){.heads = 3}); }
static tn_t w_time(bench *b) { return tn_attention(&b->cx, b->x[0], b->x[0], b->x[4], &(tn_attention_args){.heads = 1}); }
static tn_t w_rope(bench *b) { return tn_rope(&b->cx, b->x[0], 10, 0); }
static tn_t w_add(bench *b) { return tn_add(&b->cx, b->x[0], b->x[4]); }
static tn_t w_add_param(bench *b) { return tn_add_param(&b->cx, b->x[0], P(b, 2)); }
static tn_t w_positions(bench *b) { return tn_add_positions(&b->cx, b->x[0], P(b, 3)); }
static tn_t w_prepend(bench *b) { return tn_prepend(&b->cx, P(b, 2), b->x[0]); }
static tn_t w_transpose(bench *b) { return tn_transpose(&b->cx, b->x[0]); }
static tn_t w_channels(bench *b) { return tn_channels_first(&b->cx, b->x[0]); }
static tn_t w_sum(bench *b) { return tn_sum2(&b->cx, b->x[0], 1, b->x[4], 1); }
static tn_t w_reshape(bench *b) { return tn_reshape(&b->cx, b->x[0], 1, (long[]){7}); }
static tn_t w_columns(bench *b) { return tn_columns(&b->cx, b->x[0], 1, 1000); }
static tn_t w_pool(bench *b) { return tn_pool(&b->cx, b->x[4], NULL, TN_POOL_MEAN); }
static tn_t w_sigmoid(bench *b) { return tn_sigmoid_cross_entropy(&b->cx, b->x[0], NULL); }
static tn_t w_select(bench *b) { return tn_select(&b->cx, b->x[4], NULL); }

static const wrong_case wrong[] = {
    {"linear", w_linear},
    {"linear", w_bias},
    {"linear", w_residual},
    {"matmul", w_matmul},
    {"conv2d", w_conv},
    {"layer norm", w_norm},
    {"rms norm", w_rms},
    {"batch norm", w_batch},
    {"attention", w_heads},
    {"attention", w_time},
    {"rope", w_rope},
    {"add", w_add},
    {"add", w_add_param},
    {"positions", w_positions},
    {"prepend", w_prepend},
    {"transpose", w_transpose},
    {"channels first", w_channels},
    {"sum", w_sum},
    {"reshape", w_reshape},
    {"select", w_select},
    {"columns", w_columns},
    {"pool", w_pool},
    {"sigmoid cross-entropy", w_sigmoid},
};

static void set_wrong(bench *b)
{
    input(b, 3, 2, 3, 5, 0);
    param(b, 2, 7, 5, 0, 0);
    param(b, 1, 7, 0, 0, 0);
    param(b, 2, 7, 4, 0, 0);
    input(b, 2, 4, 6, 0, 0);
}

/* Already PLAN finds wrong shapes, before any memory is taken. */
static void wrong_shapes_are_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        for (int train = 0; train < 2; train++) {
            bench b;
            start_bench(&b, best(), 1);
            set_wrong(&b);
            b.op = wrong[i].op;
            tn_plan(&b.cx, b.kn, 1, train);
            tn_t y = compose(&b, train);
            if (!b.cx.failed || y.rank || !strstr(b.cx.err.text, wrong[i].name))
                fail_msg("case %zu (%s): %s", i, wrong[i].name, b.cx.failed ? b.cx.err.text : "no error");
            stop_bench(&b);
        }
}

static void errors_stay(void **state)
{
    (void)state;
    for (int train = 0; train < 2; train++) {
        bench b;
        start_bench(&b, best(), 1);
        set_wrong(&b);
        tn_run(&b.cx, b.work, NULL, 0, train);
        b.cx.grads = b.grads;
        tn_fail(&b.cx, "the first");
        size_t used = b.cx.used;
        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
            wrong[i].op(&b); /* on values of rank 0 */
        tn_t none = {0};
        tn_act(&b.cx, none, KN_GELU);
        tn_softmax(&b.cx, none);
        tn_scale(&b.cx, none, 2);
        tn_l2_normalize(&b.cx, none);
        tn_cross_entropy(&b.cx, none, some_targets, 0);
        tn_soft_cross_entropy(&b.cx, none, soft_targets, false);
        tn_weighted_sum(&b.cx, none, b.weight);
        tn_embedding(&b.cx, P(&b, 1), some_ids, 2, 3);
        tn_add_sinusoid(&b.cx, none);
        tn_scale_exp(&b.cx, none, P(&b, 2));
        assert_int_equal(tn_backward(&b.cx), -1);
        assert_string_equal(b.cx.err.text, "the first");
        assert_true(b.cx.used == used);
        assert_null(b.cx.last);
        tn_reset(&b.cx);
        assert_false(b.cx.failed);
        stop_bench(&b);
    }
}

/* Sequences of unlike length, the second of which begins as the first does: what cannot be asked of their rows x [1, 5, 8]. */
typedef tn_t branch_case(tn_ctx *cx, tn_t x, const tn_param *table);

static tn_t attend_branches(tn_ctx *cx, tn_t x, tn_attention_args s) { return tn_attention(cx, x, x, x, &s); }

static tn_t b_both_ways(tn_ctx *cx, tn_t x, const tn_param *p)
{
    return (void)p, attend_branches(cx, x, (tn_attention_args){.heads = 2});
}
static tn_t b_widths(tn_ctx *cx, tn_t x, const tn_param *p)
{
    return (void)p, attend_branches(cx, x, (tn_attention_args){.heads = 3, .causal = true});
}
static tn_t b_masked(tn_ctx *cx, tn_t x, const tn_param *p)
{
    return (void)p, attend_branches(cx, x, (tn_attention_args){.heads = 2, .causal = true, .key_mask = (const uint8_t[5]){1}});
}
static tn_t b_queries(tn_ctx *cx, tn_t x, const tn_param *p)
{
    tn_t q = tn_input(cx, x.v, false, 3, (long[]){1, 3, 8});
    return (void)p, tn_attention(cx, q, x, x, &(tn_attention_args){.heads = 2, .causal = true});
}
static tn_t b_keys(tn_ctx *cx, tn_t x, const tn_param *p)
{
    tn_t k = tn_input(cx, x.v, false, 3, (long[]){1, 4, 8});
    return (void)p, tn_attention(cx, x, k, k, &(tn_attention_args){.heads = 2, .causal = true});
}
static tn_t b_select(tn_ctx *cx, tn_t x, const tn_param *p) { return (void)p, tn_select(cx, x, (const int[2]){2, 4}); }
static tn_t b_positions(tn_ctx *cx, tn_t x, const tn_param *p) { return tn_add_positions(cx, x, p); }
static tn_t b_pool(tn_ctx *cx, tn_t x, const tn_param *p) { return (void)p, tn_pool(cx, x, NULL, TN_POOL_MEAN); }
static tn_t b_pool_mask(tn_ctx *cx, tn_t x, const tn_param *p)
{
    return (void)p, tn_pool(cx, x, (const uint8_t[5]){1}, TN_POOL_MEAN);
}

static tn_t b_rope(tn_ctx *cx, tn_t x, const tn_param *p) { return (void)p, tn_rope(cx, x, 10000, 0); }
static tn_t b_sinusoid(tn_ctx *cx, tn_t x, const tn_param *p) { return (void)p, tn_add_sinusoid(cx, x); }
static tn_t b_prepend(tn_ctx *cx, tn_t x, const tn_param *p)
{
    const tn_param first = {.v = p->v, .rank = 1, .shape = {8}, .id = -1};
    return tn_prepend(cx, &first, x);
}

static void what_branches_do_not_do_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *says;
        branch_case *op;
    } cases[] = {{"sees both ways", b_both_ways},
                 {"3 heads", b_widths},
                 {"take no mask", b_masked},
                 {"3 queries of 2", b_queries},
                 {"4 rows where", b_keys},
                 {"row 4 of 4", b_select},
                 {"the model has 3", b_positions},
                 {"sequence 1 shares", b_pool},
                 {"a mask of", b_pool_mask},
                 {"rope: sequences", b_rope},
                 {"positions: sequences", b_sinusoid},
                 {"prepend: sequences", b_prepend}};
    static const int first[3] = {0, 1, 2}, second[4] = {0, 1, 3, 4};
    static const tn_branch each[2] = {{first, 3, 3}, {second, 4, 2}};
    static const tn_branches all = {each, 2, 4, 5};
    static const float numbers[40], table[24];
    const tn_param positions = {.v = (float *)(uintptr_t)table, .rank = 2, .shape = {3, 8}, .id = -1};
    bench b;
    start_bench(&b, best(), 1);
    void *base = bs_alloc(1 << 20, "a test's arena", NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tn_run(&b.cx, b.work, base, 1 << 20, false);
        b.cx.branches = &all;
        cases[i].op(&b.cx, tn_input(&b.cx, numbers, false, 3, (long[]){1, 5, 8}), &positions);
        if (!b.cx.failed || !strstr(b.cx.err.text, cases[i].says))
            fail_msg("case %zu (%s): %s", i, cases[i].says, b.cx.failed ? b.cx.err.text : "no error");
    }
    tn_run(&b.cx, b.work, base, 1 << 20, true);
    b.cx.branches = &all;
    attend_branches(&b.cx, tn_input(&b.cx, numbers, true, 3, (long[]){1, 5, 8}), (tn_attention_args){.heads = 2, .causal = true});
    assert_non_null(strstr(b.cx.err.text, "what learns has no beginning in common"));
    bs_free(base);
    stop_bench(&b);
}

static void wrong_ids_are_refused(void **state)
{
    (void)state;
    static const int beyond[6] = {0, 1, 2, 3, 4, 5}, below[6] = {0, 0, -1, 0, 0, 0}, rows[2] = {0, 3};
    bench b;
    char arena[ROOM];
    start_bench(&b, best(), 1);
    set_pieces(&b);
    void *base = bs_alloc(ROOM, "a test's arena", NULL);
    (void)arena;
    for (int i = 0; i < 3; i++) {
        tn_run(&b.cx, b.work, base, ROOM, false);
        if (i < 2)
            tn_embedding(&b.cx, P(&b, 1), i ? below : beyond, 2, 3);
        else
            tn_select(&b.cx, tn_input(&b.cx, b.leaf[0].v, false, 3, P(&b, 0)->shape), rows);
        assert_true(b.cx.failed);
    }
    bs_free(base);
    stop_bench(&b);
}

/* Memory that ends anywhere before the planned end fails with a word; a sanitizer sees a write behind it. */
static void too_small_an_arena_is_refused(void **state)
{
    (void)state;
    bench b;
    start_bench(&b, best(), 2);
    set_attention(&b);
    b.op = op_causal;
    backward(&b);
    size_t full = b.cx.peak; /* a plan may hold a forward's scratch beside a backward's, which are never needed at once */
    for (size_t cap = 0; cap < full; cap += 64) {
        void *base = bs_alloc(cap, "a test's arena", NULL);
        tn_run(&b.cx, b.work, base, cap, true);
        tn_t y = compose(&b, true);
        tn_t loss = tn_weighted_sum(&b.cx, y, b.weight);
        tn_seed(&b.cx, loss, NULL);
        assert_int_equal(tn_backward(&b.cx), -1);
        assert_non_null(strstr(b.cx.err.text, "too small"));
        bs_free(base);
    }
    stop_bench(&b);
}

static void giant_shapes_are_refused(void **state)
{
    (void)state;
    tn_ctx cx;
    tn_plan(&cx, best(), 1, false);
    tn_new(&cx, false, 3, (long[]){1l << 30, 1l << 30, 1l << 30});
    assert_true(cx.failed);
    tn_plan(&cx, best(), 1, false);
    tn_new(&cx, false, 2, (long[]){-1, 4});
    assert_true(cx.failed);
}

static void frozen_weights_record_nothing(void **state)
{
    (void)state;
    static build *const ops[] = {op_linear, op_linear_gelu, op_linear_add};
    for (int i = 0; i < 3; i++) {
        bench b;
        start_bench(&b, best(), 1);
        set_linear(&b);
        memset(b.grads, 0, sizeof b.grads);
        b.op = ops[i];
        tn_plan(&b.cx, b.kn, 1, true);
        compose(&b, false);
        size_t bytes = tn_plan_bytes(&b.cx);
        b.arena = bs_alloc(bytes, "a test's arena", NULL);
        tn_run(&b.cx, b.work, b.arena, bytes, true);
        tn_t y = compose(&b, false);
        assert_false(y.grad);
        assert_null(y.g);
        assert_null(b.cx.last);
        assert_int_equal(tn_backward(&b.cx), 0);
        stop_bench(&b);
    }
}

/* ---- a whole model: planned bytes, allocations, rows, threads ------------------------------------------------------------------ */

typedef struct model_bench {
    md_model *m;
    md_sizes sizes;
    bs_pool *pool;
    kn_work *work;
    md_trainables t;
    float *pixels;
    int *ids, *pool_at, *target;
    md_batch batch;
    tn_ctx cx;
} model_bench;

enum { ROWS = 5 };

static void open_model(model_bench *b, int threads)
{
    oc_err err = {0};
    memset(b, 0, sizeof *b);
    b->m = md_open("tests/reference/clip/model", &err);
    if (!b->m)
        fail_msg("%s", err.text);
    b->m->family->sizes(b->m->m, &b->sizes);
    b->pool = bs_pool_open(threads, NULL);
    b->work = kn_work_open(best(), b->pool, NULL);
    assert_int_equal(md_trainables_open(&b->t, b->m, NULL, &err), 0);
    size_t pixels = (size_t)(ROWS * 3 * b->sizes.image_size * b->sizes.image_size), tokens = (size_t)(ROWS * b->sizes.max_tokens);
    b->pixels = malloc(pixels * sizeof *b->pixels);
    b->ids = malloc(tokens * sizeof *b->ids);
    b->pool_at = calloc(ROWS, sizeof *b->pool_at);
    b->target = calloc(ROWS, sizeof *b->target);
    bs_rng rng;
    bs_rng_seed(&rng, 5, 5);
    for (size_t i = 0; i < pixels; i++)
        b->pixels[i] = bs_rng_normal(&rng);
    for (size_t i = 0; i < tokens; i++)
        b->ids[i] = (int)bs_rng_below(&rng, (uint32_t)b->sizes.vocab);
    for (int i = 0; i < ROWS; i++)
        b->target[i] = i;
}

static void close_model(model_bench *b)
{
    md_trainables_close(&b->t);
    kn_work_close(b->work);
    bs_pool_close(b->pool);
    md_close(b->m);
    free(b->pixels);
    free(b->ids);
    free(b->pool_at);
    free(b->target);
}

static void set_rows(model_bench *b, long rows, long tokens)
{
    long side = b->sizes.image_size;
    b->batch = (md_batch){.images = rows,
                          .pixel_values = b->pixels,
                          .channels = 3,
                          .height = side,
                          .width = side,
                          .texts = rows,
                          .length = tokens,
                          .input_ids = b->ids,
                          .pool = b->pool_at,
                          .target = b->target};
    for (long i = 0; i < rows; i++)
        b->pool_at[i] = (int)tokens - 1;
}

typedef enum pass_kind { IMAGES, TEXTS, TRAINING, KINDS } pass_kind;

static tn_t pass(model_bench *b, pass_kind kind)
{
    const md_family *f = b->m->family;
    if (kind == IMAGES)
        return f->embed_images(&b->cx, b->m->m, &b->batch);
    if (kind == TEXTS)
        return f->embed_texts(&b->cx, b->m->m, &b->batch);
    b->cx.grads = b->t.grads;
    tn_t image = tn_l2_normalize(&b->cx, f->embed_images(&b->cx, b->m->m, &b->batch));
    return f->pair_loss(&b->cx, b->m->m, image, tn_l2_normalize(&b->cx, f->embed_texts(&b->cx, b->m->m, &b->batch)), &b->batch);
}

static size_t plan_pass(model_bench *b, pass_kind kind, int threads)
{
    tn_plan(&b->cx, best(), threads, kind == TRAINING);
    pass(b, kind);
    assert_string_equal(b->cx.err.text, "");
    return tn_plan_bytes(&b->cx);
}

/* The forward must use all of the plan but the backward's scratch, and the backward never more than the whole. */
static void check_plan(model_bench *b, pass_kind kind, int threads)
{
    size_t planned = plan_pass(b, kind, threads), forward = b->cx.peak;
    void *arena = bs_alloc(planned, "a test's arena", NULL);
    tn_run(&b->cx, b->work, arena, planned, kind == TRAINING);
    long before = allocations;
    tn_t y = pass(b, kind);
    assert_string_equal(b->cx.err.text, "");
    assert_true(b->cx.peak == forward);
    if (kind == TRAINING) {
        tn_seed(&b->cx, y, NULL);
        assert_int_equal(tn_backward(&b->cx), 0);
        assert_true(b->cx.peak <= planned);
        assert_true(isfinite(y.v[0]));
    } else
        assert_true(b->cx.peak == planned);
    assert_int_equal(allocations, before);
    bs_free(arena);
}

static void planned_bytes_are_used_bytes(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        model_bench b;
        open_model(&b, threads);
        for (pass_kind kind = 0; kind < KINDS; kind++)
            for (long rows = 1; rows <= ROWS; rows += 2)
                for (long tokens = 1; tokens <= b.sizes.max_tokens; tokens += tokens < 4 ? 1 : 5) {
                    set_rows(&b, rows, tokens);
                    check_plan(&b, kind, threads);
                }
        close_model(&b);
    }
}

static void plans_grow_with_every_bound(void **state)
{
    (void)state;
    model_bench b;
    open_model(&b, 1);
    for (pass_kind kind = 0; kind < KINDS; kind++)
        for (long rows = 1; rows < ROWS; rows++)
            for (int threads = 1; threads <= 4; threads++) {
                set_rows(&b, rows, 4);
                size_t here = plan_pass(&b, kind, threads), more_threads = plan_pass(&b, kind, threads + 1);
                set_rows(&b, rows, 5);
                size_t more_tokens = plan_pass(&b, kind, threads);
                set_rows(&b, rows + 1, 4);
                size_t more_rows = plan_pass(&b, kind, threads);
                assert_true(here <= more_threads);
                assert_true(here <= more_tokens);
                assert_true(here < more_rows);
            }
    close_model(&b);
}

/* A batch equals its rows one by one, bit for bit, whatever the number of threads. */
static void rows_do_not_know_each_other(void **state)
{
    (void)state;
    float first[2][ROWS * 256];
    for (int threads = 1; threads <= 3; threads++) {
        model_bench b;
        open_model(&b, threads);
        long width = b.sizes.embedding, picture = 3 * b.sizes.image_size * b.sizes.image_size, tokens = b.sizes.max_tokens;
        assert_true(width <= 256);
        set_rows(&b, ROWS, tokens);
        void *arena = bs_alloc(plan_pass(&b, IMAGES, threads) + plan_pass(&b, TEXTS, threads), "a test's arena", NULL);
        for (pass_kind kind = IMAGES; kind <= TEXTS; kind++) {
            set_rows(&b, ROWS, tokens);
            tn_run(&b.cx, b.work, arena, plan_pass(&b, kind, threads), false);
            tn_t y = pass(&b, kind);
            size_t bytes = (size_t)(ROWS * width) * sizeof(float);
            if (threads == 1)
                memcpy(first[kind], y.v, bytes);
            assert_memory_equal(first[kind], y.v, bytes);
            for (long i = 0; i < ROWS; i++) {
                set_rows(&b, 1, tokens);
                b.batch.pixel_values += i * picture;
                b.batch.input_ids += i * tokens;
                tn_run(&b.cx, b.work, arena, plan_pass(&b, kind, threads), false);
                y = pass(&b, kind);
                assert_memory_equal(first[kind] + i * width, y.v, (size_t)width * sizeof(float));
            }
        }
        bs_free(arena);
        close_model(&b);
    }
}

static int records(const tn_ctx *cx)
{
    int n = 0;
    for (const tn_record *r = cx->last; r; r = r->before)
        n++;
    return n;
}

/* Only the projection of the texts learns: the vision tower leaves no record and costs its forward alone. */
static void frozen_towers_cost_their_forward(void **state)
{
    (void)state;
    model_bench b;
    open_model(&b, 1);
    int id = md_slot_of(b.m, "text_projection.weight");
    float *only = b.t.grads[id];
    set_rows(&b, 2, 4);
    size_t whole = plan_pass(&b, TRAINING, 1);
    for (int i = 0; i < b.m->n; i++)
        b.t.grads[i] = i == id ? only : NULL;
    size_t bytes = plan_pass(&b, TRAINING, 1);
    assert_true(bytes < whole / 2);
    void *arena = bs_alloc(bytes, "a test's arena", NULL);
    tn_run(&b.cx, b.work, arena, bytes, true);
    tn_t loss = pass(&b, TRAINING);
    assert_in_range(records(&b.cx), 5, 9); /* projection, length, product, temperature, transpose, two losses, their sum */
    tn_seed(&b.cx, loss, NULL);
    assert_int_equal(tn_backward(&b.cx), 0);
    float largest = 0;
    for (long i = 0; i < b.m->slots[id].count; i++)
        largest = fmaxf(largest, fabsf(only[i]));
    assert_true(largest > 0);
    bs_free(arena);
    close_model(&b);
}

/* What embeds pixels takes no memory at all once the session is open. */
static void sessions_do_not_allocate(void **state)
{
    (void)state;
    oc_err err = {0};
    oc_options o = {.threads = 2, .max_batch = 3};
    oc_engine *e = oc_engine_open("tests/reference/clip/model", &o, &err);
    if (!e)
        fail_msg("%s", err.text);
    oc_session *s = oc_session_open(e, &err);
    assert_non_null(s);
    int side = (int)e->sizes.image_size;
    float *pixels = calloc((size_t)(3 * 3 * side * side), sizeof *pixels),
          *rows = calloc((size_t)(3 * e->sizes.embedding), sizeof *rows);
    long before = allocations;
    for (int i = 0; i < 4; i++)
        assert_int_equal(rn_embed_pixels(s, pixels, 1 + i % 3, side, side, rows, &err), 0);
    assert_int_equal(allocations, before);
    assert_true(allocations > 0); /* the counter counts */
    free(pixels);
    free(rows);
    oc_session_close(s);
    oc_engine_close(e);
}

static void listen(void *arg, const char *name, tn_t x) { *(int *)arg += x.v != NULL && name[0] != 0; }

static void taps_are_heard(void **state)
{
    (void)state;
    bench b;
    int heard = 0;
    start_bench(&b, best(), 1);
    tn_plan(&b.cx, b.kn, 1, false);
    b.cx.tap = listen;
    b.cx.tap_arg = &heard;
    tn_tap(&b.cx, "planned", tn_new2(&b.cx, false, 2, 2));
    assert_int_equal(heard, 0);
    float v[4] = {0};
    tn_run(&b.cx, b.work, NULL, 0, false);
    b.cx.tap = listen;
    b.cx.tap_arg = &heard;
    tn_tap(&b.cx, "run", tn_input(&b.cx, v, false, 1, (long[]){4}));
    assert_int_equal(heard, 1);
    stop_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_linear_layers),
        cmocka_unit_test(lengths_of_adapted_rows),
        cmocka_unit_test(gradients_of_products),
        cmocka_unit_test(gradients_of_norms),
        cmocka_unit_test(gradients_of_attention),
        cmocka_unit_test(distances_fall_into_buckets),
        cmocka_unit_test(sequences_go_on_with_distances),
        cmocka_unit_test(gradients_of_pieces),
        cmocka_unit_test(a_fixed_row_learns_nothing),
        cmocka_unit_test(gradients_of_functions),
        cmocka_unit_test(fused_equals_unfused),
        cmocka_unit_test(hidden_rows_give_zeros),
        cmocka_unit_test(masks_hide),
        cmocka_unit_test(a_zero_row_stays_zero),
        cmocka_unit_test(batch_norm_trains_and_evaluates),
        cmocka_unit_test(batch_norm_refuses_a_single_value),
        cmocka_unit_test(wrong_shapes_are_named),
        cmocka_unit_test(errors_stay),
        cmocka_unit_test(wrong_ids_are_refused),
        cmocka_unit_test(gradients_where_lengths_differ),
        cmocka_unit_test(lengths_that_differ_change_no_bit),
        cmocka_unit_test(what_branches_do_not_do_is_refused),
        cmocka_unit_test(too_small_an_arena_is_refused),
        cmocka_unit_test(giant_shapes_are_refused),
        cmocka_unit_test(frozen_weights_record_nothing),
        cmocka_unit_test(planned_bytes_are_used_bytes),
        cmocka_unit_test(plans_grow_with_every_bound),
        cmocka_unit_test(rows_do_not_know_each_other),
        cmocka_unit_test(frozen_towers_cost_their_forward),
        cmocka_unit_test(sessions_do_not_allocate),
        cmocka_unit_test(taps_are_heard),
    };
    return cmocka_run_group_tests_name("tensor", tests, NULL, NULL);
}
