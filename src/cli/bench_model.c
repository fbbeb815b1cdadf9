/* bench_model.c - `ocelli bench model`: pictures and texts a second, memory, and the time until the first answer. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { MOST_BATCHES = 16 };

typedef struct job {
    cl_bench *b;
    oc_engine *engine;
    oc_session *session;
    md_values in;
    const float *pixels;
    const int *ids;
    float *own_pixels;
    int *own_ids;
    long images, texts, length; /* rows that there are, ids of a text */
    float *rows;
    int batch[MOST_BATCHES], batches;
    double load; /* seconds until the session is open */
    double peak; /* GFLOP/s */
    oc_err err;
    /* one pass */
    bool text;
    int n;
} job;

/* ---- inputs -------------------------------------------------------------------------------------------------------- */

static int read_batches(job *j, oc_err *err)
{
    const char *at = j->b->batches ? j->b->batches : "1,8,32";
    while (*at && j->batches < MOST_BATCHES) {
        char *end;
        long n = strtol(at, &end, 10);
        if (end == at || n < 1 || n > 65536 || (*end && *end != ','))
            return bs_err(err, "--batch: '%s' is not a list of numbers from 1 to 65536", j->b->batches);
        j->batch[j->batches++] = (int)n;
        at = *end ? end + 1 : end;
    }
    return *at ? bs_err(err, "--batch: more than %d numbers", MOST_BATCHES) : 0;
}

static int largest(const job *j)
{
    int most = 1;
    for (int i = 0; i < j->batches; i++)
        most = j->batch[i] > most ? j->batch[i] : most;
    return most;
}

float *cl_draw_pixels(const md_sizes *s, long rows, bs_rng *rng, oc_err *err)
{
    size_t n = (size_t)(rows * s->channels * s->image_size * s->image_size);
    float *x = bs_alloc(n * sizeof *x, "pictures", err);
    for (size_t i = 0; x && i < n; i++)
        x[i] = bs_rng_range(rng, -2, 2);
    return x;
}

/* Where configs say 2 for the end token, the largest id is meant. */
int *cl_draw_ids(const md_sizes *s, long rows, bs_rng *rng, oc_err *err)
{
    int last = (int)s->vocab - 1, end = s->eos < 0 || s->eos == 2 ? last : s->eos;
    int *ids = malloc((size_t)(rows * s->max_tokens) * sizeof *ids);
    if (!ids)
        bs_err(err, "out of memory: texts");
    for (long i = 0; ids && i < rows * s->max_tokens; i++) {
        int id = (int)bs_rng_below(rng, (uint32_t)last);
        ids[i] = i % s->max_tokens == s->max_tokens - 1 ? end : id == end ? 0 : id;
    }
    return ids;
}

static int draw_inputs(job *j, oc_err *err)
{
    const md_sizes *s = &j->engine->sizes;
    unsigned can = md_can(j->engine->model);
    bs_rng rng;
    bs_rng_seed(&rng, j->b->common.seed, 2);
    if (can & MD_EMBEDS_IMAGES && !(j->pixels = j->own_pixels = cl_draw_pixels(s, largest(j), &rng, err)))
        return -1;
    if (can & MD_EMBEDS_TEXTS && !(j->ids = j->own_ids = cl_draw_ids(s, largest(j), &rng, err)))
        return -1;
    j->images = j->pixels ? largest(j) : 0;
    j->texts = j->ids ? largest(j) : 0;
    j->length = s->max_tokens;
    return 0;
}

static int read_inputs(job *j, oc_err *err)
{
    const md_sizes *s = &j->engine->sizes;
    if (md_values_read(&j->in, j->b->in, err))
        return -1;
    const md_value *px = md_values_find(&j->in, "pixel_values"), *ids = md_values_find(&j->in, "input_ids");
    if (px && (px->is_int || px->rank != 4 || px->shape[1] != s->channels || px->shape[2] != s->image_size ||
               px->shape[3] != s->image_size))
        return bs_err(err, "'%s': pixel_values: expected floats [B,%ld,%ld,%ld]", j->b->in, s->channels, s->image_size,
                      s->image_size);
    if (ids && (!ids->is_int || ids->rank != 2 || ids->shape[1] < 1 || ids->shape[1] > s->max_tokens))
        return bs_err(err, "'%s': input_ids: expected integers [B,T] with T from 1 to %ld", j->b->in, s->max_tokens);
    if (!px && !ids)
        return bs_err(err, "'%s': expected pixel_values, input_ids or both", j->b->in);
    j->images = px ? px->shape[0] : 0;
    j->pixels = px ? px->f : NULL;
    j->texts = ids ? ids->shape[0] : 0;
    j->length = ids ? ids->shape[1] : 0;
    j->ids = ids ? ids->i : NULL;
    return 0;
}

/* ---- passes -------------------------------------------------------------------------------------------------------- */

static void pass(void *arg)
{
    job *j = arg;
    int side = (int)j->engine->sizes.image_size;
    if (j->err.text[0])
        return;
    j->session->flops = 0;
    if (j->text)
        rn_embed_ids(j->session, j->ids, j->n, (int)j->length, j->rows, &j->err);
    else
        rn_embed_pixels(j->session, j->pixels, j->n, side, side, j->rows, &j->err);
}

static int set_pass(job *j, bool text, long n, oc_err *err)
{
    long have = text ? j->texts : j->images;
    if (n < 1 || n > have || n > j->engine->options.max_batch)
        return bs_err(err, "%ld %s at once: there are %ld, and room for %d", n, text ? "texts" : "pictures", have,
                      j->engine->options.max_batch);
    j->text = text;
    j->n = (int)n;
    return 0;
}

static int open_all(job *j, oc_err *err)
{
    cl_bench *b = j->b;
    if (read_batches(j, err))
        return -1;
    oc_options o = {.threads = b->common.threads, .max_batch = largest(j), .dtype = cl_dtype(&b->common)};
    double start = bs_now();
    j->engine = rn_engine_bare(b->common.model ? b->common.model : "starter", &o, b->common.seed, err);
    if (!j->engine)
        return -1;
    j->engine->whole = b->whole;
    j->session = oc_session_open(j->engine, err);
    j->load = bs_now() - start;
    size_t width = (size_t)oc_embedding_width(j->engine) * sizeof(float);
    j->rows = j->session ? bs_alloc((size_t)largest(j) * width, "embeddings", err) : NULL;
    if (!j->rows)
        return -1;
    j->session->raw = true;
    return b->in ? read_inputs(j, err) : draw_inputs(j, err);
}

static void close_all(job *j)
{
    md_values_clear(&j->in);
    bs_free(j->own_pixels);
    free(j->own_ids);
    bs_free(j->rows);
    oc_session_close(j->session);
    oc_engine_close(j->engine);
}

/* ---- what is printed ------------------------------------------------------------------------------------------------- */

static void print_timing(const job *j, cl_timing t, double first)
{
    const oc_session *s = j->session;
    double gflop = s->flops * 1e-9, share = gflop / t.median / j->peak, rate = j->n / t.median;
    const char *what = j->text ? "text" : "image";
    if (!j->b->common.json) {
        printf("%-6s %-5d %10.2f ms  %9.2f a second  %8.1f GFLOP/s  %5.1f%% of the peak%s\n", what, j->n, t.median * 1e3, rate,
               gflop / t.median, 100 * share, j->b->whole ? "  (every token of every layer)" : "");
        return;
    }
    printf("{\"what\":\"%s\",\"batch\":%d,\"tier\":\"%s\",\"threads\":%d,\"whole\":%s,\"ms\":%.6g,\"best_ms\":%.6g,\"rounds\":%d,"
           "\"per_s\":%.6g,\"gflop\":%.6g,\"share\":%.4f,\"load_ms\":%.6g,\"first_ms\":%.6g,\"weights_bytes\":%zu,"
           "\"arena_bytes\":%zu}\n",
           what, j->n, j->engine->kn->name, bs_pool_threads(s->pool), j->b->whole ? "true" : "false", t.median * 1e3,
           t.best * 1e3, t.rounds, rate, gflop, share, j->load * 1e3, first * 1e3, j->engine->model->weights_bytes,
           s->arena_bytes);
}

static int measure(job *j, oc_err *err)
{
    const oc_session *s = j->session;
    j->peak = cl_fma_peak(j->engine->kn, s->pool, err);
    cl_say(&j->b->common, "%s, %d threads, peak %.1f GFLOP/s; loaded in %.0f ms; weights %.1f MB, arena %.1f MB\n",
           j->engine->kn->name, bs_pool_threads(s->pool), j->peak, j->load * 1e3, (double)j->engine->model->weights_bytes / 1e6,
           (double)s->arena_bytes / 1e6);
    double first = 0;
    bool text = j->b->texts || !j->pixels;
    for (int i = 0; i < j->batches; i++) {
        if (set_pass(j, text, j->batch[i], err))
            return -1;
        double start = bs_now();
        pass(j);
        first = first > 0 ? first : bs_now() - start;
        cl_timing t = cl_time((double)j->b->seconds, pass, j, NULL);
        if (j->err.text[0])
            return bs_err(err, "%s", j->err.text);
        print_timing(j, t, first);
    }
    return 0;
}

/* ---- commands on standard input ---------------------------------------------------------------------------------------- */

/* A line `image ROWS [PASSES]` or `text ROWS [PASSES]` gets an answer in one line: the time of each pass. */
static int obey(void *arg, const char *line, oc_err *err)
{
    job *j = arg;
    char what[8];
    int n, passes = 1, got = sscanf(line, "%7s %d %d", what, &n, &passes);
    bool text = got >= 2 && !strcmp(what, "text");
    if (got < 2 || (!text && strcmp(what, "image") != 0) || passes < 1)
        return bs_err(err, "expected `image ROWS [PASSES]` or `text ROWS [PASSES]`, not '%s'", line);
    if (set_pass(j, text, n, err))
        return -1;
    printf("{\"what\":\"%s\",\"batch\":%d,\"ms\":[", what, n);
    for (int i = 0; i < passes; i++) {
        double start = bs_now();
        pass(j);
        printf("%s%.6g", i ? "," : "", (bs_now() - start) * 1e3);
    }
    printf("]}\n");
    fflush(stdout);
    return j->err.text[0] ? bs_err(err, "%s", j->err.text) : 0;
}

int cl_listen(int (*answer)(void *arg, const char *line, oc_err *err), void *arg, oc_err *err)
{
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        if (answer(arg, line, err))
            return -1;
    }
    return 0;
}

/* The embeddings of all rows that --in holds, as projected. */
static int write_out(job *j, oc_err *err)
{
    int width = oc_embedding_width(j->engine), result = -1;
    ck_tensor t[2];
    size_t n = 0;
    float *rows[2] = {NULL, NULL};
    for (int text = 0; text < 2; text++) {
        long count = text ? j->texts : j->images;
        if (!count)
            continue;
        if (set_pass(j, text, count, err))
            goto done;
        pass(j);
        size_t bytes = (size_t)count * (size_t)width * sizeof(float);
        rows[n] = bs_alloc(bytes, "embeddings", err);
        if (!rows[n] || j->err.text[0]) {
            bs_err(err, "%s", j->err.text);
            goto done;
        }
        memcpy(rows[n], j->rows, bytes);
        t[n] = (ck_tensor){.name = text ? "text_embeds" : "image_embeds",
                           .dtype = CK_F32,
                           .rank = 2,
                           .shape = {count, width},
                           .count = count * width,
                           .bytes = bytes,
                           .data = rows[n]};
        n++;
    }
    result = ck_write(j->b->out, t, n, 0, err);
done:
    bs_free(rows[0]);
    bs_free(rows[1]);
    return result;
}

int cl_bench_model(cl_bench *b, oc_err *err)
{
    job *j = calloc(1, sizeof *j);
    if (!j)
        return bs_err(err, "out of memory: a measurement");
    j->b = b;
    int result =
        open_all(j, err) || (b->out && write_out(j, err)) || (b->from_stdin ? cl_listen(obey, j, err) : measure(j, err)) ? -1 : 0;
    close_all(j);
    free(j);
    return result;
}
