/* bench_speak.c - `ocelli bench speak`: how fast a language model reads a prompt, and goes on with one text or several. */
#include <stdlib.h>
#include <string.h>

#include "../run/speaker.h"
#include "bench.h"

enum { MOST_TEXTS = 64, LONGEST = 1024, BEFORE = 8, STEPS = 32 }; /* before: tokens that each text has when it goes on */

typedef struct job {
    cl_bench *b;
    oc_engine *engine;
    rn_speaker speaker;
    long prompt; /* tokens */
    int32_t ids[LONGEST];
    int batch[MOST_TEXTS], batches;
    int sequence[MOST_TEXTS], memory[MOST_TEXTS];
    float *pixels; /* of a picture to look at; NULL: the model looks at none */
} job;

static void hear_nothing(void *arg, int feed, long index, float *logits) { (void)arg, (void)feed, (void)index, (void)logits; }

static int read_batches(job *j, oc_err *err)
{
    const char *at = j->b->batches ? j->b->batches : "1,8";
    while (*at && j->batches < MOST_TEXTS) {
        char *end;
        long n = strtol(at, &end, 10);
        if (end == at || n < 1 || n > MOST_TEXTS || (*end && *end != ','))
            return bs_err(err, "--batch: '%s' is not a list of numbers from 1 to %d", at, MOST_TEXTS);
        j->batch[j->batches++] = (int)n;
        at = *end ? end + 1 : end;
    }
    return 0;
}

static int open_all(job *j, oc_err *err)
{
    cl_bench *b = j->b;
    if (read_batches(j, err))
        return -1;
    if (!b->common.model)
        return bs_err(err, "--model is missing: a language model");
    oc_options o = {.threads = b->common.threads, .max_batch = 1, .dtype = cl_dtype(&b->common)};
    j->engine = rn_engine_bare(b->common.model, &o, b->common.seed, err);
    if (!j->engine)
        return -1;
    long wanted = b->context ? b->context : LONGEST, context = j->engine->sizes.context < wanted ? j->engine->sizes.context : wanted, room = context - 1;
    int most = b->from_stdin ? 8 : 1;
    for (int i = 0; i < j->batches; i++)
        most = j->batch[i] > most ? j->batch[i] : most;
    if (rn_speaker_open(&j->speaker, j->engine, &(oc_generator_options){.context = (int)context, .batch = most}, 0, err))
        return -1;
    j->prompt = room < 512 ? room : 512;
    bs_rng rng;
    bs_rng_seed(&rng, b->common.seed, 2);
    for (int i = 0; i < LONGEST; i++)
        j->ids[i] = (int32_t)bs_rng_below(&rng, (uint32_t)j->engine->sizes.vocab);
    if (!j->engine->sizes.picture_rows)
        return 0;
    j->pixels = cl_draw_pixels(&j->engine->sizes, 1, &rng, err);
    return j->pixels ? 0 : -1;
}

static void close_all(job *j)
{
    if (j->speaker.engine)
        rn_speaker_close(&j->speaker);
    oc_engine_close(j->engine);
    bs_free(j->pixels);
}

/* A text that begins with n tokens, which are what `feed` reads next; an encoder-decoder has read them with its encoder then, and begins its answer; a model that
 * looks at a picture has looked. */
static int begin(job *j, int i, long n, rn_feed *feed, oc_err *err)
{
    rn_speaker *s = &j->speaker;
    tx_ids ids = {.p = j->ids, .n = (size_t)n};
    j->memory[i] = s->memory ? rn_remember(s, &ids, j->pixels, err) : -1;
    j->sequence[i] = s->memory && j->memory[i] < 0 ? -1 : tn_sequence_open(s->cache, err);
    *feed = (rn_feed){j->sequence[i], j->ids, s->reads ? 1 : n, 1, j->memory[i]};
    return j->sequence[i] < 0 ? -1 : 0;
}

static void end(job *j, int n)
{
    for (int i = 0; i < n; i++) {
        if (j->sequence[i] >= 0)
            tn_sequence_close(j->speaker.cache, j->sequence[i]);
        if (j->memory[i] >= 0)
            tn_sequence_close(j->speaker.memory, j->memory[i]);
    }
}

/* Seconds that n pictures take, one after the other, to the rows that a text is written from; below 0: an error. */
static double time_look(job *j, int n, oc_err *err)
{
    rn_speaker *s = &j->speaker;
    const md_model *m = j->engine->model;
    const md_objectives *does = m->family->objectives ? m->family->objectives(m->m) : NULL;
    const md_sizes *z = &j->engine->sizes;
    md_batch b = {.images = 1, .channels = z->channels, .height = z->image_size, .width = z->image_size, .pixel_values = j->pixels};
    double start = bs_now();
    if (!does || !j->pixels)
        return bs_err(err, "the model looks at no picture"), -1.0;
    for (int i = 0; i < n; i++) {
        tn_run(&s->cx, s->work, s->arena, s->arena_bytes, false);
        s->cx.lora = j->engine->lora.by_id;
        md_packed_attach(j->engine->packed, &s->cx);
        does->see(&s->cx, m->m, &b);
        if (s->cx.failed)
            return bs_err(err, "%s", s->cx.err.text), -1.0;
    }
    return bs_now() - start;
}

/* Seconds that a prompt of n tokens takes to the logits of its last; below 0: an error. */
static double time_prompt(job *j, long n, oc_err *err)
{
    rn_feed feed;
    double start = bs_now();
    int failed = begin(j, 0, n, &feed, err) || rn_run_feeds(&j->speaker, &feed, 1, hear_nothing, NULL, err);
    double took = bs_now() - start;
    end(j, 1);
    return failed ? -1 : took;
}

/* The same of `steps` tokens for each of n texts that have `before`; whole: with what they begin with, pictures that are looked at first. */
static double time_tokens(job *j, int n, long before, int steps, bool whole, oc_err *err)
{
    rn_feed feed[MOST_TEXTS];
    double took = -1, start = bs_now();
    int begun = 0;
    while (begun < n) {
        int i = begun++;
        if (begin(j, i, before, &feed[i], err))
            goto done;
    }
    if (rn_run_feeds(&j->speaker, feed, n, hear_nothing, NULL, err))
        goto done;
    start = whole ? start : bs_now();
    for (int k = 0; k < steps; k++) {
        for (int i = 0; i < n; i++)
            feed[i] = (rn_feed){j->sequence[i], j->ids + (i + k) % LONGEST, 1, 1, j->memory[i]};
        if (rn_run_feeds(&j->speaker, feed, n, hear_nothing, NULL, err))
            goto done;
    }
    took = bs_now() - start;
done:
    end(j, begun);
    return took;
}

/* ---- what is printed ------------------------------------------------------------------------------------------------- */

static void print_line(const job *j, const char *what, int texts, long tokens, double seconds, double gb_s)
{
    double held = (double)md_packed_held(j->engine->packed, j->engine->kn), rate = (double)tokens / seconds;
    if (j->b->common.json)
        printf("{\"what\":\"%s\",\"texts\":%d,\"tier\":\"%s\",\"threads\":%d,\"tokens\":%ld,\"ms\":%.6g,\"per_s\":%.6g,"
               "\"weights_read_bytes\":%.0f,\"machine_gb_s\":%.5g,\"arena_bytes\":%zu,\"cache_bytes\":%zu}\n",
               what, texts, j->engine->kn->name, bs_pool_threads(j->speaker.pool), tokens, seconds * 1e3, rate, held, gb_s,
               j->speaker.arena_bytes, tn_cache_bytes(j->speaker.cache) + (j->speaker.memory ? tn_cache_bytes(j->speaker.memory) : 0));
    else if (!strcmp(what, "prompt"))
        printf("prompt of %-4ld %10.2f ms  %9.2f tokens a second\n", tokens, seconds * 1e3, rate);
    else
        printf("decode %-7d %10.2f ms  %9.2f tokens a second, reading %.1f of %.1f GB/s\n", texts, seconds * 1e3, rate,
               held * rate / texts * 1e-9, gb_s);
    fflush(stdout);
}

/* Rounds until the time is over, the first two left out: weights are packed in them. */
static int measure_one(job *j, int texts, double gb_s, oc_err *err)
{
    enum { MOST = 64, WARM = 2 };
    double took[MOST], until = 0;
    int n = 0, steps = texts ? STEPS : 1;
    if (BEFORE + steps > j->speaker.context)
        steps = (int)j->speaker.context - BEFORE;
    if (steps < 1)
        return bs_err(err, "a context of %ld is too short to be measured", j->speaker.context);
    for (int i = -WARM; i < MOST && (i < 1 || bs_now() < until); i++) {
        double t = texts ? time_tokens(j, texts, BEFORE, steps, false, err) : time_prompt(j, j->prompt, err);
        if (t < 0)
            return -1;
        if (i >= 0)
            took[n++] = t;
        else
            until = bs_now() + (double)j->b->seconds;
    }
    print_line(j, texts ? "decode" : "prompt", texts ? texts : 1, texts ? (long)texts * steps : j->prompt, cl_median(took, n), gb_s);
    return 0;
}

static int measure(job *j, oc_err *err)
{
    double gb_s = cl_read_rate(j->engine->kn, j->speaker.pool, err);
    if (gb_s <= 0 || measure_one(j, 0, gb_s, err))
        return -1;
    for (int i = 0; i < j->batches; i++)
        if (measure_one(j, j->batch[i], gb_s, err))
            return -1;
    return 0;
}

/* A line `prompt TOKENS`, `decode TEXTS STEPS` or `read` gets an answer in one line. */
static int obey(void *arg, const char *line, oc_err *err)
{
    job *j = arg;
    int texts = 1, n = 0;
    double took = -1, gb_s = 0;
    const char *what = "prompt";
    if (sscanf(line, "prompt %d", &n) == 1 && n > 0 && n < j->speaker.context) {
        took = time_prompt(j, n, err);
    } else if (sscanf(line, "decode %d %d", &texts, &n) == 2 && texts > 0 && texts <= j->speaker.sequences && n > 0 &&
               n <= j->speaker.context - BEFORE) {
        what = "decode";
        took = time_tokens(j, texts, BEFORE, n, false, err);
    } else if (sscanf(line, "look %d", &n) == 1 && n > 0 && n <= MOST_TEXTS) {
        what = "look";
        took = time_look(j, n, err);
    } else if (sscanf(line, "tell %d %d", &texts, &n) == 2 && texts > 0 && texts <= j->speaker.sequences && n > 0 &&
               n <= j->speaker.context - BEFORE) {
        what = "tell";
        took = time_tokens(j, texts, 1, n - 1, true, err); /* the first comes with what it begins with */
    } else if (!strcmp(line, "read")) {
        what = "read";
        took = (gb_s = cl_read_rate(j->engine->kn, j->speaker.pool, err)) > 0 ? 1 : -1;
    } else {
        return bs_err(err, "expected `prompt TOKENS`, `decode TEXTS STEPS`, `look PICTURES`, `tell TEXTS STEPS` (%d texts at most, a context of %ld) or `read`, not '%s'",
                      j->speaker.sequences, j->speaker.context, line);
    }
    if (took < 0)
        return -1;
    print_line(j, what, texts, (long)texts * n, took, gb_s);
    return 0;
}

int cl_bench_speak(cl_bench *b, oc_err *err)
{
    job *j = bs_calloc(1, sizeof *j, "a measurement", err);
    if (!j)
        return -1;
    j->b = b;
    int result = open_all(j, err) || (b->from_stdin ? cl_listen(obey, j, err) : measure(j, err)) ? -1 : 0;
    close_all(j);
    bs_free(j);
    return result;
}
