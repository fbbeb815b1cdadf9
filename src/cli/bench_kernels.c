/* bench_kernels.c - `ocelli bench kernels`: what single kernels reach of the machine's multiply-adds and of its memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

typedef struct job {
    cl_bench *b;
    const kn_table *kn;
    bs_pool *pool;
    kn_work *work;
    int threads;
    double peak, read; /* GFLOP/s, GB/s of so many threads */
    cl_spinner *spinner;
    cl_reader *reader;
    cl_yardstick adds, reading;
    bs_rng rng;
    oc_err err;
    /* of the row that runs */
    float *memory[6];
    void *packs; /* reserved as a model's are, in large pages where the machine has them */
    size_t packs_bytes;
    kn_gemm g;
    kn_packed *weights;
    long n_weights, at;
    kn_attn a;
    long n, d;
    float *x, *y, *z, *u;
} job;

/* ---- memory of a row of the table ----------------------------------------------------------------------------------- */

static float *floats(job *j, long n)
{
    int i = 0;
    while (i < 5 && j->memory[i])
        i++;
    float *x = j->memory[i] ? NULL : bs_alloc((size_t)n * sizeof *x, "a benchmark", &j->err);
    for (long k = 0; x && k < n; k++)
        x[k] = bs_rng_range(&j->rng, -1, 1);
    return j->memory[i] = x;
}

static void release(job *j)
{
    for (int i = 0; i < 6; i++)
        bs_free(j->memory[i]);
    bs_unreserve(j->packs, j->packs_bytes);
    bs_free(j->weights);
    memset(j->memory, 0, sizeof j->memory);
    j->packs = NULL;
    j->weights = NULL;
}

/* ---- what is printed -------------------------------------------------------------------------------------------------- */

/* Work in flops or in bytes; a share is of what the yardstick of either would have allowed. */
static void report(const job *j, const char *kernel, const char *what, cl_timing t, double flops, double bytes)
{
    double gflops = flops / t.median * 1e-9, gbs = bytes / t.median * 1e-9;
    double share = (bytes > 0 ? bytes : flops) / t.possible;
    if (!j->b->common.json) {
        printf("%-10s %-34s %2d %10.4f ms %9.1f %s %6.1f%%\n", kernel, what, j->threads, t.median * 1e3, bytes > 0 ? gbs : gflops,
               bytes > 0 ? "GB/s   " : "GFLOP/s", 100 * share);
    } else {
        printf("{\"kernel\":\"%s\",\"what\":\"%s\",\"tier\":\"%s\",\"threads\":%d,\"ms\":%.6g,\"best_ms\":%.6g,\"rounds\":%d,\"%"
               "s\":%.6g,"
               "\"share\":%.4f}\n",
               kernel, what, j->kn->name, j->threads, t.median * 1e3, t.best * 1e3, t.rounds, bytes > 0 ? "gb_s" : "gflop_s",
               bytes > 0 ? gbs : gflops, share);
    }
    fflush(stdout);
}

static void print_machine(const job *j)
{
    char name[128];
    cl_cpu_name(name, sizeof name);
    if (j->b->common.json)
        printf("{\"kernel\":\"machine\",\"cpu\":\"%s\",\"tier\":\"%s\",\"threads\":%d,\"fma_gflop_s\":%.6g,\"read_gb_s\":%.6g}\n",
               name, j->kn->name, j->threads, j->peak, j->read);
    else
        printf("%s, %s, %d thread%s: multiply-adds %.1f GFLOP/s, reading %.1f GB/s\n", name, j->kn->name, j->threads,
               j->threads > 1 ? "s" : "", j->peak, j->read);
}

/* ---- products ----------------------------------------------------------------------------------------------------------- */

static const long layers[][2] = {{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}; /* K x N of ViT-B/32 */
enum { LAYERS = 4 };
static const char *const dtype_names[] = {[KN_F32] = "fp32", [KN_BF16] = "bf16", [KN_I8] = "int8", [KN_I4] = "int4"};

static void run_gemm(void *arg)
{
    job *j = arg;
    kn_gemm_run(j->work, &j->g);
}

/* The next of the weights: together they are far larger than the caches. */
static void run_next(void *arg)
{
    job *j = arg;
    j->g.packed = &j->weights[j->at++ % j->n_weights];
    kn_gemm_run(j->work, &j->g);
}

/* `count` packed copies of one weight [n, k]; false without memory. */
static bool pack_weights(job *j, kn_dtype dtype, long n, long k, long count)
{
    long group = dtype == KN_I4 ? 32 : 0;
    size_t each = (kn_packed_bytes(j->kn, dtype, n, k, group) + 63) / 64 * 64;
    float *x = floats(j, n * k);
    j->packs_bytes = each * (size_t)count;
    j->packs = bs_reserve(j->packs_bytes, "packed weights", &j->err);
    j->weights = bs_calloc((size_t)count, sizeof *j->weights, "packed weights", &j->err);
    j->n_weights = j->packs && j->weights && x ? count : 0;
    for (long i = 0; i < j->n_weights; i++) {
        j->weights[i] = (kn_packed){dtype, n, k, group, (char *)j->packs + (size_t)i * each};
        kn_pack_weight(j->work, &j->weights[i], x, k);
    }
    return j->n_weights > 0;
}

static kn_gemm forward_of(long m, long n, long k)
{
    return (kn_gemm){.m = m, .n = n, .k = k, .lda = k, .ldb = k, .tb = true, .ldc = n, .alpha = 1};
}

static void time_gemm(job *j, const char *form)
{
    char what[80];
    kn_gemm *g = &j->g;
    g->a = floats(j, g->m * g->k);
    g->b = g->packed ? NULL : floats(j, g->k * g->n);
    g->c = floats(j, g->m * g->n);
    snprintf(what, sizeof what, "M %ld K %ld N %ld %s", g->m, g->k, g->n, form);
    if (g->a && g->c && (g->b || g->packed))
        report(j, "gemm", what, cl_time((double)j->b->seconds, run_gemm, j, &j->adds),
               2.0 * (double)g->m * (double)g->n * (double)g->k, 0);
    release(j);
}

static void packed_gemm(job *j, kn_dtype dtype, long m, long k, long n)
{
    char form[16];
    snprintf(form, sizeof form, "packed %s", dtype_names[dtype]);
    j->g = forward_of(m, n, k);
    if (!pack_weights(j, dtype, n, k, 1))
        return;
    j->g.packed = &j->weights[0];
    time_gemm(j, form);
}

static void bench_gemm(job *j)
{
    static const long rows[] = {50, 400, 1600};
    for (int l = 0; l < LAYERS; l++)
        for (int r = 0; r < 3; r++) {
            packed_gemm(j, KN_F32, rows[r], layers[l][0], layers[l][1]);
            j->g = forward_of(rows[r], layers[l][1], layers[l][0]);
            time_gemm(j, "as it lies");
        }
}

/* Each thread's own tiles: a strip of B that stays in the first cache, by a block of A in the second. */
enum { TILE_K = 256, TURNS = 50 };

static void tiles_of_thread(void *arg, long begin, long end, int worker)
{
    (void)worker;
    const job *j = arg;
    const kn_table *t = j->kn;
    for (long i = begin; i < end; i++) {
        const float *a = j->x + i * t->mc * TILE_K, *b = j->y + i * t->nr * TILE_K;
        float *c = j->z + i * t->mc * t->nr;
        for (int turn = 0; turn < TURNS; turn++)
            for (long row = 0; row < t->mc; row += t->mr)
                t->gemm_tile(TILE_K, a + row * TILE_K, t->mr, b, t->nr, c + row * t->nr, t->nr, t->mr, t->nr, 1, NULL, 0, NULL,
                             0);
    }
}

static void run_tiles(void *arg)
{
    job *j = arg;
    bs_pool_for(j->pool, j->threads, 1, tiles_of_thread, j);
}

/* What products could reach if nothing had to be packed or fetched: beside a busy hyper-thread less than the multiply-adds alone. */
static void bench_tile(job *j)
{
    char what[80];
    long m = j->kn->mc, n = j->kn->nr;
    j->x = floats(j, j->threads * m * TILE_K);
    j->y = floats(j, j->threads * n * TILE_K);
    j->z = floats(j, j->threads * m * n);
    snprintf(what, sizeof what, "%d x %ld, K %d, in the caches", j->kn->mr, n, TILE_K);
    if (j->x && j->y && j->z)
        report(j, "tile", what, cl_time((double)j->b->seconds, run_tiles, j, &j->adds),
               2.0 * j->threads * TURNS * (double)m * (double)n * TILE_K, 0);
    release(j);
}

static void bench_low(job *j)
{
    for (int l = 0; l < LAYERS; l++)
        for (kn_dtype d = KN_BF16; d <= KN_I4; d++)
            packed_gemm(j, d, 400, layers[l][0], layers[l][1]);
}

/* dX = dY W and dW = dY^T X of a layer that took m rows of k to n. */
static void bench_backward(job *j)
{
    static const long rows[] = {400, 1600};
    for (int l = 0; l < LAYERS; l++)
        for (int r = 0; r < 2; r++) {
            long m = rows[r], k = layers[l][0], n = layers[l][1];
            j->g = (kn_gemm){.m = m, .n = k, .k = n, .lda = n, .ldb = k, .ldc = k, .alpha = 1};
            time_gemm(j, "dX");
            j->g = (kn_gemm){.m = n, .n = k, .k = m, .lda = n, .ta = true, .ldb = k, .ldc = k, .alpha = 1, .accumulate = true};
            time_gemm(j, "dW");
        }
}

static void bench_matvec(job *j)
{
    enum { K = 3072, N = 3072, ENOUGH = 256 << 20 };
    for (kn_dtype d = KN_F32; d <= KN_I4; d++) {
        char what[80];
        size_t each = kn_packed_bytes(j->kn, d, N, K, d == KN_I4 ? 32 : 0);
        j->g = forward_of(1, N, K);
        j->at = 0;
        if (pack_weights(j, d, N, K, (long)(ENOUGH / each) + 1) && (j->g.a = floats(j, K)) && (j->g.c = floats(j, N))) {
            snprintf(what, sizeof what, "K %d N %d %s", K, N, dtype_names[d]);
            report(j, "mat-vec", what, cl_time((double)j->b->seconds, run_next, j, &j->reading), 0, (double)each);
        }
        release(j);
    }
}

/* ---- attention ------------------------------------------------------------------------------------------------------------ */

static void run_attention(void *arg)
{
    job *j = arg;
    kn_attn_forward(j->work, &j->a, j->u);
}

static void run_attention_backward(void *arg)
{
    job *j = arg;
    kn_attn_backward(j->work, &j->a, j->x, j->y, j->y + j->a.heads * j->a.dk, j->y + 2 * j->a.heads * j->a.dk, NULL, j->u);
}

/* Queries, keys and values side by side in rows, as one linear layer makes them. */
static void time_attention(job *j, long batch, long t, long heads, long d, bool causal, bool back)
{
    char what[80];
    kn_attn *a = &j->a;
    long row = 3 * heads * d, n = batch * t * row;
    *a = (kn_attn){.batch = batch, .heads = heads, .kv_heads = heads, .tq = t, .tk = t, .dk = d, .dv = d, .causal = causal};
    a->scale = 1 / sqrtf((float)d);
    a->q_batch = a->k_batch = a->v_batch = t * row;
    a->q_row = a->k_row = a->v_row = row;
    a->q_head = a->k_head = a->v_head = a->y_head = d;
    a->y_row = back ? row : heads * d; /* gradients of q, k, v have their strides */
    a->y_batch = t * a->y_row;
    a->q = floats(j, n);
    a->k = a->q + heads * d;
    a->v = a->q + 2 * heads * d;
    a->y = floats(j, n);
    a->lse = back ? floats(j, batch * heads * t) : NULL;
    size_t scratch = back ? kn_attn_backward_scratch(j->kn, a) : 0, forward = kn_attn_scratch(j->kn, a);
    j->u = floats(j, (long)((scratch > forward ? scratch : forward) * (size_t)j->threads / sizeof(float)) + 64);
    j->x = back ? floats(j, n) : a->y;
    j->y = back ? floats(j, n) : a->y;
    if (!j->err.text[0]) {
        double flops = (causal ? 2.0 : 4.0) * (double)(batch * heads * t * t * d);
        run_attention(j);
        cl_timing timing = cl_time((double)j->b->seconds, back ? run_attention_backward : run_attention, j, &j->adds);
        snprintf(what, sizeof what, "%ld x %ld heads T %ld of %ld%s%s", batch, heads, t, d, causal ? " causal" : "",
                 back ? " back" : "");
        report(j, "attention", what, timing, flops * (back ? 2.5 : 1), 0);
    }
    release(j);
}

static void bench_attention(job *j)
{
    for (int back = 0; back < 2; back++) {
        time_attention(j, 8, 50, 12, 64, false, back);
        time_attention(j, 8, 257, 16, 64, false, back);
        time_attention(j, 8, 77, 8, 64, true, back);
        time_attention(j, 1, 1024, 12, 64, true, back);
    }
}

/* ---- rows and conversions, on the calling thread alone ---------------------------------------------------------------------- */

static void run_gelu(void *arg)
{
    job *j = arg;
    j->kn->act(KN_GELU, j->n, j->x, j->y);
}

static void run_quick_gelu(void *arg)
{
    job *j = arg;
    j->kn->act(KN_QUICK_GELU, j->n, j->x, j->y);
}

static void run_layer_norm(void *arg)
{
    job *j = arg;
    j->kn->layer_norm(j->n / 768, 768, j->x, j->z, j->z, 1e-5f, j->y, NULL, NULL);
}

static void run_rms_norm(void *arg)
{
    job *j = arg;
    j->kn->rms_norm(j->n / 768, 768, j->x, j->z, 1e-5f, j->y, NULL);
}

static void run_softmax(void *arg)
{
    job *j = arg;
    for (long i = 0; i + 512 <= j->n; i += 512)
        j->kn->softmax(512, j->x + i, j->y + i);
}

static void run_cross_entropy(void *arg)
{
    job *j = arg;
    kn_cross_entropy(j->kn, 50000, j->x, 7, 0, 1, j->y);
}

static void run_adamw(void *arg)
{
    job *j = arg;
    j->kn->adamw(j->n, j->x, j->y, 1, j->z, j->u, 0, 0.9f, 0.98f, 1e-6f, 0, 1, 1);
}

static void run_from_f16(void *arg)
{
    job *j = arg;
    j->kn->from_f16(j->n, (const uint16_t *)j->z, j->y);
}

static void run_from_bf16(void *arg)
{
    job *j = arg;
    j->kn->from_bf16(j->n, (const uint16_t *)j->z, j->y);
}

static void run_to_f16(void *arg)
{
    job *j = arg;
    j->kn->to_f16(j->n, j->x, (uint16_t *)j->y);
}

static void run_to_bf16(void *arg)
{
    job *j = arg;
    j->kn->to_bf16(j->n, j->x, (uint16_t *)j->y);
}

static void run_dot(void *arg)
{
    job *j = arg;
    j->y[0] = j->kn->dot(j->n, j->x, j->z);
}

typedef struct row_kernel {
    const char *kernel, *what;
    void (*run)(void *);
    double bytes; /* read and written, an element */
    long n;
} row_kernel;

/* Arrays of 256 KB stay in the second cache, as a model's rows do; AdamW and conversions meet memory. */
static const row_kernel row_kernels[] = {
    {"rows", "gelu", run_gelu, 8, 49152},
    {"rows", "quick gelu", run_quick_gelu, 8, 49152},
    {"rows", "layer norm of 768", run_layer_norm, 8, 49152},
    {"rows", "rms norm of 768", run_rms_norm, 8, 49152},
    {"rows", "softmax of 512", run_softmax, 8, 49152},
    {"rows", "cross-entropy of 50000", run_cross_entropy, 8, 50000},
    {"rows", "dot", run_dot, 8, 49152},
    {"rows", "adamw", run_adamw, 28, 1 << 22},
    {"convert", "fp16 to fp32", run_from_f16, 6, 1 << 22},
    {"convert", "bf16 to fp32", run_from_bf16, 6, 1 << 22},
    {"convert", "fp32 to fp16", run_to_f16, 6, 1 << 22},
    {"convert", "fp32 to bf16", run_to_bf16, 6, 1 << 22},
};

static void time_rows(job *j, const char *section)
{
    for (size_t i = 0; i < sizeof row_kernels / sizeof *row_kernels; i++) {
        const row_kernel *r = &row_kernels[i];
        if (strcmp(r->kernel, section) != 0)
            continue;
        j->n = r->n;
        j->x = floats(j, r->n);
        j->y = floats(j, r->n);
        j->z = floats(j, r->n);
        j->u = floats(j, r->n);
        for (long k = 0; j->u && k < r->n; k++)
            j->u[k] = fabsf(j->u[k]); /* AdamW's second moment */
        if (!j->err.text[0])
            report(j, r->kernel, r->what, cl_time((double)j->b->seconds, r->run, j, &j->reading), 0, r->bytes * (double)r->n);
        release(j);
    }
}

static void bench_rows(job *j)
{
    if (j->threads == 1)
        time_rows(j, "rows");
}

static void bench_convert(job *j)
{
    if (j->threads == 1)
        time_rows(j, "convert");
}

/* ---- sections ------------------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    void (*run)(job *);
} sections[] = {
    {"machine", NULL},
    {"gemm", bench_gemm},
    {"tile", bench_tile},
    {"low", bench_low},
    {"backward", bench_backward},
    {"matvec", bench_matvec},
    {"attention", bench_attention},
    {"rows", bench_rows},
    {"convert", bench_convert},
};
enum { SECTIONS = sizeof sections / sizeof *sections };

static int check_words(const cl_bench *b, oc_err *err)
{
    for (int i = 1; i < b->words.n; i++) {
        int k = 0;
        while (k < SECTIONS && strcmp(sections[k].name, b->words.p[i]) != 0)
            k++;
        if (k == SECTIONS)
            return bs_err(err, "there is no part '%s': machine, gemm, tile, low, backward, matvec, attention, rows, convert",
                          b->words.p[i]);
    }
    return 0;
}

static bool wanted(const cl_bench *b, const char *name)
{
    bool found = b->words.n == 1;
    for (int i = 1; i < b->words.n; i++)
        found |= !strcmp(b->words.p[i], name);
    return found;
}

/* All sections with so many threads. */
static int run_with(cl_bench *b, int threads, oc_err *err)
{
    job *j = bs_calloc(1, sizeof *j, "a benchmark", err);
    int result = -1;
    if (!j)
        return -1;
    j->b = b;
    bs_rng_seed(&j->rng, b->common.seed, 3);
    j->kn = kn_best(err);
    j->pool = j->kn ? bs_pool_open(threads, err) : NULL;
    j->work = j->pool ? kn_work_open(j->kn, j->pool, err) : NULL;
    if (!j->work)
        goto done;
    j->threads = bs_pool_threads(j->pool);
    j->spinner = cl_spinner_open(j->kn, j->pool, err);
    j->reader = cl_reader_open(j->kn, j->pool, err);
    if (!j->spinner || !j->reader)
        goto done;
    j->adds = (cl_yardstick){cl_spinner_rate, j->spinner};
    j->reading = (cl_yardstick){cl_reader_rate, j->reader};
    j->peak = cl_best(&j->adds, CL_BURST);
    j->read = cl_best(&j->reading, CL_ROUND);
    print_machine(j);
    for (int i = 0; i < SECTIONS && !j->err.text[0]; i++)
        if (sections[i].run && wanted(b, sections[i].name))
            sections[i].run(j);
    result = j->err.text[0] ? bs_err(err, "%s", j->err.text) : 0;
done:
    release(j);
    bs_free(j->spinner);
    cl_reader_close(j->reader);
    kn_work_close(j->work);
    bs_pool_close(j->pool);
    bs_free(j);
    return result;
}

int cl_bench_kernels(cl_bench *b, oc_err *err)
{
    if (check_words(b, err))
        return -1;
    if (b->common.threads)
        return run_with(b, b->common.threads, err);
    bs_pool *all = bs_pool_open(0, err);
    int threads = bs_pool_threads(all);
    bs_pool_close(all);
    if (!all || run_with(b, 1, err))
        return -1;
    return threads > 1 ? run_with(b, threads, err) : 0;
}
