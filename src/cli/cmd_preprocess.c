/* cmd_preprocess.c - pictures as the numbers a model takes. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct job {
    cl_common common;
    cl_texts paths;
    const char *out;
    int repeat;
    im_processor processor;
    int height, width;
    im_load options;
    oc_err *errors;
    float *pixels; /* [paths, 3, height, width] */
} job;

static int load(const job *j, int first, int n, oc_err *err)
{
    float *pixels = j->pixels + (size_t)first * 3 * (size_t)j->height * (size_t)j->width;
    im_processor_load_files(&j->processor, j->paths.p + first, n, &j->options, pixels, j->errors + first, NULL);
    for (int i = first; i < first + n; i++)
        if (j->errors[i].text[0])
            return bs_err(err, "%s", j->errors[i].text);
    return 0;
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The best and the median time of one file alone, in milliseconds. */
static int measure(const job *j, int i, double ms[2], oc_err *err)
{
    double *each = bs_alloc((size_t)j->repeat * sizeof *each, "times", err);
    int result = each ? 0 : -1;
    for (int k = 0; !result && k < j->repeat; k++) {
        double start = bs_now();
        result = load(j, i, 1, err);
        each[k] = (bs_now() - start) * 1e3;
    }
    if (!result) {
        qsort(each, (size_t)j->repeat, sizeof *each, by_size);
        ms[0] = each[0];
        ms[1] = each[j->repeat / 2];
    }
    bs_free(each);
    return result;
}

static int emit(const job *j, int i, oc_err *err)
{
    double ms[2] = {0};
    if (j->repeat && measure(j, i, ms, err))
        return -1;
    if (j->common.json) {
        printf("{\"image\":");
        cl_json_text(j->paths.p[i]);
        printf(",\"shape\":[3,%d,%d]", j->height, j->width);
        printf(j->repeat ? ",\"ms_best\":%.4f,\"ms\":%.4f}\n" : "}\n", ms[0], ms[1]);
    } else {
        printf("%s\t3x%dx%d", j->paths.p[i], j->height, j->width);
        printf(j->repeat ? "\t%.3f ms at best, %.3f ms in the middle\n" : "\n", ms[0], ms[1]);
    }
    return 0;
}

static int write_all(const job *j, oc_err *err)
{
    ck_tensor t = {
        .name = "pixel_values", .dtype = CK_F32, .rank = 4, .shape = {j->paths.n, 3, j->height, j->width}, .data = j->pixels};
    t.count = (int64_t)j->paths.n * 3 * j->height * j->width;
    t.bytes = (size_t)t.count * sizeof(float);
    return ck_write(j->out, &t, 1, 0, err);
}

static int process(job *j, oc_err *err)
{
    size_t n = (size_t)j->paths.n;
    int result = -1;
    if (!im_processor_fixed_size(&j->processor, &j->height, &j->width))
        return bs_err(err, "this processor gives pictures of many sizes, which do not fit one array");
    j->pixels = bs_alloc(n * 3 * (size_t)j->height * (size_t)j->width * sizeof *j->pixels, "the pictures", err);
    j->errors = bs_alloc(n * sizeof *j->errors, "the pictures", err);
    j->options = (im_load){{.max_pixels = j->common.max_pixels}, j->common.fast, bs_pool_open(j->common.threads, err)};
    if (j->pixels && j->errors && j->options.pool)
        result = load(j, 0, j->paths.n, err) || write_all(j, err) ? -1 : 0;
    for (int i = 0; !result && i < j->paths.n; i++)
        result = emit(j, i, err);
    bs_pool_close(j->options.pool);
    bs_free(j->errors);
    bs_free(j->pixels);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {0};
    oc_err err = {0};
    const cl_option options[] = {
        {"out", "FILE", CL_TEXT, &j.out, "where pixel_values go (safetensors)", 0, 0},
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {"repeat", "N", CL_INT, &j.repeat, "then prepare each picture alone N times and say the best and the median time", 1,
         1e6},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &j.paths);
    if (code >= 0)
        goto done;
    if (!j.out || !j.paths.n) {
        code = cl_usage(self, "expected --out and at least one picture");
        goto done;
    }
    char *folder = rn_find_model(j.common.model ? j.common.model : "starter", NULL, &err);
    bool failed = !folder || im_processor_read(&j.processor, folder, &err) || process(&j, &err);
    code = cl_done(self, failed ? cl_fail(self, &err) : CL_OK);
    free(folder);
done:
    cl_texts_clear(&j.paths);
    return code;
}

const cl_command cmd_preprocess = {
    "preprocess", "pictures as the numbers a model takes", "--model M --out F.safetensors IMAGE...",
    "  ocelli preprocess --model starter --out px.safetensors photo.jpg    # pixel_values [1,3,H,W]\n"
    "  ocelli preprocess --fast-decode --repeat 20 --out px.safetensors photo.jpg     # and how long one takes\n",
    run};
