/* cmd_info.c - what a model is, can, weighs and needs. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct facts {
    const md_model *m;
    md_sizes sizes;
    size_t arena;
    size_t per_position; /* bytes that fp32 keys and values of a position take; 0: none are kept */
    long by_dtype[CK_DTYPES];
} facts;

static int collect(facts *f, const md_model *m, const cl_common *common, oc_err *err)
{
    int rows = common->batch ? common->batch : 32;
    const kn_table *kn = kn_best(err);
    if (!kn)
        return -1;
    f->m = m;
    m->family->sizes(m->m, &f->sizes);
    int side = (int)f->sizes.image_size;
    size_t images = rn_plan_images(m, NULL, kn, common->threads ? common->threads : 1, rows, side, side, false);
    size_t texts = rn_plan_texts(m, NULL, kn, common->threads ? common->threads : 1, rows, (int)f->sizes.max_tokens, false);
    f->arena = images > texts ? images : texts;
    if (md_can(m) & MD_GENERATES) {
        tn_cache_shape s = {0};
        m->family->cache(m->m, &s);
        f->per_position = (size_t)(s.layers * s.kv_heads * (s.key + s.value)) * sizeof(float);
    }
    for (size_t i = 0; m->store && i < ck_count(m->store); i++)
        f->by_dtype[ck_at(m->store, i)->dtype] += (long)ck_at(m->store, i)->count;
    return 0;
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
    printf("],\"weights_bytes\":%zu,\"arena_bytes\":%zu,\"image_size\":%ld,\"max_tokens\":%ld,\"vocab_size\":%ld,\"embedding\":%"
           "ld",
           f->m->weights_bytes, f->arena, f->sizes.image_size, f->sizes.max_tokens, f->sizes.vocab, f->sizes.embedding);
    if (f->per_position)
        printf(",\"context\":%ld,\"cache_bytes_per_position\":%zu", f->sizes.context, f->per_position);
    printf("}\n");
}

static void print_text(const facts *f, int rows)
{
    printf("family        %s\nparameters    %ld\nweights       %.1f MB in memory\narena         %.1f MB for a batch of %d\n",
           f->m->family->model_type, f->m->parameters, (double)f->m->weights_bytes / 1e6, (double)f->arena / 1e6, rows);
    if (f->sizes.image_size)
        printf("pictures      %ld x %ld\n", f->sizes.image_size, f->sizes.image_size);
    if (f->sizes.max_tokens)
        printf("texts         up to %ld tokens of %ld\n", f->sizes.max_tokens, f->sizes.vocab);
    if (f->per_position)
        printf("generates     up to %ld tokens of %ld, %.1f KB of cache each\n", f->sizes.context, f->sizes.vocab,
               (double)f->per_position / 1e3);
    if (f->sizes.embedding)
        printf("embedding     %ld\n", f->sizes.embedding);
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts rest = {0};
    oc_err err = {0};
    bool weights = false;
    const cl_option options[] = {{"weights", NULL, CL_FLAG, &weights, "list every weight with its shape", 0, 0}, {0}};
    int code = cl_parse(self, argc, argv, options, &common, &rest);
    if (code >= 0)
        goto done;
    if (rest.n > 1 || (rest.n && common.model)) {
        code = cl_usage(self, "expected one model");
        goto done;
    }
    facts f = {0};
    char *folder = rn_find_model(rest.n ? rest.p[0] : common.model ? common.model : "starter", NULL, &err);
    md_model *m = folder ? md_open(folder, &err) : NULL;
    code = !m || collect(&f, m, &common, &err) ? cl_fail(self, &err) : CL_OK;
    if (code == CL_OK && common.json)
        print_json(&f);
    else if (code == CL_OK)
        print_text(&f, common.batch ? common.batch : 32);
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
    "  ocelli info starter\n  ocelli info --json --batch 8 ./clip-vit-large-patch14\n  ocelli info --weights starter\n\n"
    "families: clip (CLIPModel, its towers alone, open_clip's own layout), chinese_clip, siglip, bert, llama, mistral, phi3, "
    "gpt2, opt, t5, blip\n",
    run};
