/* cmd_info.c - what a model is, can, weighs and needs. */
#include <stdlib.h>
#include <string.h>

#include "../run/speaker.h"
#include "cli.h"

typedef struct facts {
    const md_model *m;
    md_sizes sizes;
    size_t arena, cache; /* cache: of keys and values, and of what is remembered; full */
    oc_generator_options speaks;
    size_t per_position; /* bytes that fp32 keys and values of a position take; 0: none are kept */
    long by_dtype[CK_DTYPES];
} facts;

enum { BATCH = 32 };

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Of a model that goes on with texts, its passes too, and what it takes to be asked; the larger counts. */
static int plan_speaking(facts *f, int threads, oc_err *err)
{
    tn_cache_shape s = {0};
    f->m->family->cache(f->m->m, &s);
    f->per_position = (size_t)(s.layers * s.kv_heads * (s.key + s.value)) * sizeof(float);
    for (int asks = 0; asks <= f->sizes.answers; asks++) {
        size_t arena, cache;
        f->speaks.asks = asks;
        if (rn_speaker_needs(f->m, threads, &f->speaks, &arena, &cache, err))
            return -1;
        f->arena = larger(f->arena, arena);
        f->cache = larger(f->cache, cache);
    }
    return 0;
}

static int collect(facts *f, const md_model *m, const cl_common *common, oc_err *err)
{
    int rows = f->speaks.batch, threads = bs_threads_of(common->threads);
    const kn_table *kn = kn_best(err);
    if (!kn)
        return -1;
    f->m = m;
    m->family->sizes(m->m, &f->sizes);
    int side = (int)f->sizes.image_size;
    size_t images = rn_plan_images(m, NULL, kn, threads, rows, side, side, false);
    size_t texts = rn_plan_texts(m, NULL, kn, threads, rows, (int)f->sizes.max_tokens, false);
    f->arena = larger(images, texts);
    for (size_t i = 0; m->store && i < ck_count(m->store); i++)
        f->by_dtype[ck_at(m->store, i)->dtype] += (long)ck_at(m->store, i)->count;
    if (md_can(m) & MD_GENERATES)
        return plan_speaking(f, threads, err);
    return f->speaks.context ? bs_err(err, "--context: the model '%s' (%s) does not generate text", m->folder, m->family->model_type) : 0;
}

static void print_json(const facts *f)
{
    printf("{\"family\":\"%s\",\"parameters\":%ld,\"dtypes\":{", f->m->family->model_type, f->m->parameters);
    for (int i = 0, n = 0; i < CK_DTYPES; i++)
        if (f->by_dtype[i])
            printf("%s\"%s\":%ld", n++ ? "," : "", ck_dtype_name(i), f->by_dtype[i]);
    printf("},\"capabilities\":[");
    static const char *const names[] = {"embed_images", "embed_texts", "generate", "match"};
    static const unsigned bits[] = {MD_EMBEDS_IMAGES, MD_EMBEDS_TEXTS, MD_GENERATES, MD_MATCHES};
    for (int i = 0, n = 0; i < 4; i++)
        if (md_can(f->m) & bits[i])
            printf("%s\"%s\"", n++ ? "," : "", names[i]);
    if (f->sizes.answers && !f->sizes.never_answered)
        printf(",\"answer\"");
    printf("],\"weights_bytes\":%zu,\"arena_bytes\":%zu,\"image_size\":%ld,\"max_tokens\":%ld,\"vocab_size\":%ld,\"embedding\":%"
           "ld",
           f->m->weights_bytes, f->arena, f->sizes.image_size, f->sizes.max_tokens, f->sizes.vocab, f->sizes.embedding);
    if (f->per_position)
        printf(",\"context\":%ld,\"cache_bytes_per_position\":%zu,\"cache_bytes\":%zu", f->sizes.context, f->per_position, f->cache);
    printf("}\n");
}

static void print_text(const facts *f)
{
    printf("family        %s\nparameters    %ld\nweights       %.1f MB in memory\narena         %.1f MB for a batch of %d\n",
           f->m->family->model_type, f->m->parameters, (double)f->m->weights_bytes / 1e6, (double)f->arena / 1e6, f->speaks.batch);
    if (f->sizes.image_size)
        printf("pictures      %ld x %ld\n", f->sizes.image_size, f->sizes.image_size);
    if (f->sizes.max_tokens)
        printf("texts         up to %ld tokens of %ld\n", f->sizes.max_tokens, f->sizes.vocab);
    if (f->per_position)
        printf("generates     up to %ld tokens of %ld, %.1f KB of cache each; %.1f MB for a batch of %d with %ld each\n", f->sizes.context, f->sizes.vocab,
               (double)f->per_position / 1e3, (double)f->cache / 1e6, f->speaks.batch, f->speaks.context ? f->speaks.context : f->sizes.context);
    if (f->sizes.embedding)
        printf("embedding     %ld\n", f->sizes.embedding);
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts rest = {0};
    oc_err err = {0};
    bool weights = false;
    facts f = {0};
    const cl_option options[] = {{"weights", NULL, CL_FLAG, &weights, "list every weight with its shape", 0, 0},
                                 {"context", "N", CL_INT, &f.speaks.context, "positions of a text that is gone on with (the model's)", 1, 1 << 28},
                                 {0}};
    int code = cl_parse(self, argc, argv, options, &common, &rest);
    if (code >= 0)
        goto done;
    if (rest.n > 1 || (rest.n && common.model)) {
        code = cl_usage(self, "expected one model");
        goto done;
    }
    f.speaks.batch = common.batch ? common.batch : BATCH;
    char *folder = rn_find_model(rest.n ? rest.p[0] : common.model ? common.model : "starter", NULL, &err);
    md_model *m = folder ? md_open_lean(folder, &err) : NULL;
    code = !m || collect(&f, m, &common, &err) ? cl_fail(self, &err) : CL_OK;
    if (code == CL_OK && common.json)
        print_json(&f);
    else if (code == CL_OK)
        print_text(&f);
    for (int i = 0; code == CL_OK && weights && i < m->n; i++) {
        if (m->slots[i].p->id < 0)
            continue; /* the files do without it */
        char shape[CK_SHAPE_TEXT];
        int64_t d[TN_MAX_RANK];
        for (int k = 0; k < m->slots[i].p->rank; k++)
            d[k] = m->slots[i].p->shape[k];
        printf("%s %s\n", m->slots[i].name, ck_shape_text(m->slots[i].p->rank, d, shape));
    }
    code = cl_done(self, code);
    md_close(m);
    free(folder);
done:
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_info = {
    "info", "what a model is, can, weighs and needs", "MODEL",
    "  ocelli info starter\n  ocelli info --json --batch 8 ./clip-vit-large-patch14\n  ocelli info --batch 1 --context 2048 ./Llama-3.2-1B\n  ocelli info --weights starter\n\n"
    "families: clip (CLIPModel, its towers alone, open_clip's own layout), chinese_clip, siglip, bert, llama, mistral, phi3, "
    "gpt2, opt, t5, blip\n",
    run};
