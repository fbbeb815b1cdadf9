/* cmd_preprocess.c - pictures as the numbers a model takes. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static int process(const im_processor *p, const cl_texts *paths, const cl_common *common, const char *out, oc_err *err)
{
    int height, width, result = -1;
    if (!im_processor_fixed_size(p, &height, &width))
        return bs_err(err, "this processor gives pictures of many sizes, which do not fit one array");
    size_t each = 3 * (size_t)height * (size_t)width;
    float *pixels = bs_alloc((size_t)paths->n * each * sizeof *pixels, "the pictures", err);
    oc_err *errors = bs_alloc((size_t)paths->n * sizeof *errors, "the pictures", err);
    im_load options = {{.max_pixels = common->max_pixels}, common->fast, bs_pool_open(common->threads, err)};
    if (!pixels || !errors || !options.pool)
        goto done;
    im_processor_load_files(p, paths->p, paths->n, &options, pixels, errors, NULL);
    for (int i = 0; i < paths->n; i++)
        if (errors[i].text[0]) {
            bs_err(err, "%s", errors[i].text);
            goto done;
        }
    ck_tensor t = {.name = "pixel_values", .dtype = CK_F32, .rank = 4, .shape = {paths->n, 3, height, width}, .data = pixels};
    t.count = (int64_t)((size_t)paths->n * each);
    t.bytes = (size_t)t.count * sizeof(float);
    result = ck_write(out, &t, 1, 0, err);
    for (int i = 0; !result && i < paths->n; i++) {
        if (common->json) {
            printf("{\"image\":");
            cl_json_text(paths->p[i]);
            printf(",\"shape\":[3,%d,%d]}\n", height, width);
        } else
            printf("%s\t3x%dx%d\n", paths->p[i], height, width);
    }
done:
    bs_pool_close(options.pool);
    bs_free(errors);
    bs_free(pixels);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts rest = {0};
    const char *out = NULL;
    oc_err err = {0};
    const cl_option options[] = {
        {"out", "FILE", CL_TEXT, &out, "where pixel_values go (safetensors)", 0, 0},
        {"fast-decode", NULL, CL_FLAG, &common.fast, CL_FAST_HELP, 0, 0},
        {"fast-decode", NULL, CL_FLAG, &common.fast, "the same", 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &common, &rest);
    if (code >= 0)
        goto done;
    if (!out || !rest.n) {
        code = cl_usage(self, "expected --out and at least one picture");
        goto done;
    }
    im_processor p;
    char *folder = rn_find_model(common.model ? common.model : "starter", NULL, &err);
    code = !folder || im_processor_read(&p, folder, &err) || process(&p, &rest, &common, out, &err) ? cl_fail(self, &err) : CL_OK;
    code = cl_done(self, code);
    free(folder);
done:
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_preprocess = {
    "preprocess", "pictures as the numbers a model takes", "--model M --out F.safetensors IMAGE...",
    "  ocelli preprocess --model starter --out px.safetensors photo.jpg    # pixel_values [1,3,H,W]\n", run};
