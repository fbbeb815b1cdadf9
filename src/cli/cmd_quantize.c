/* cmd_quantize.c - a model folder with its linear layers in fewer bits. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* What vLLM and transformers (by the package compressed-tensors) must know to read the same folder. */
static int write_config(const char *folder, const char *out, oc_dtype dtype, int group, oc_err *err)
{
    char json[640], size[32] = "null";
    bool four = dtype == OC_INT4;
    if (four)
        snprintf(size, sizeof size, "%d", group);
    snprintf(
        json, sizeof json,
        "{\"quant_method\": \"compressed-tensors\", \"format\": \"%s\", \"quantization_status\": \"compressed\", \"ignore\": [], "
        "\"config_groups\": {\"group_0\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": %d, \"type\": \"int\", "
        "\"symmetric\": true, \"strategy\": \"%s\", \"group_size\": %s, \"dynamic\": false}}}}",
        four ? "pack-quantized" : "int-quantized", four ? 4 : 8, four ? "group" : "channel", size);
    char *from = bs_join(folder, "config.json"), *to = bs_join(out, "config.json");
    int result = 0;
    if (!from || !to)
        result = bs_err(err, "out of memory: a path");
    else if (bs_is_file(from)) /* open_clip's folders have another, which such readers do not know */
        result = ck_config_copy_with(from, to, "quantization_config", json, err);
    free(from);
    free(to);
    return result;
}

/* Weights first: an older model in --out keeps its own files until these are whole. */
static int write_model(const md_model *m, const char *path, oc_dtype dtype, long group, oc_err *err)
{
    if (dtype == OC_BF16)
        return md_save(m, path, CK_BF16, NULL, err);
    return md_save_quantized(m, path, dtype == OC_INT8 ? KN_I8 : KN_I4, group, err);
}

static int quantize(const char *folder, const char *out, oc_dtype dtype, long group, oc_err *err)
{
    int result = -1;
    bool integers = dtype == OC_INT8 || dtype == OC_INT4;
    bs_claim claim = {0};
    md_model *m = integers ? md_open_lean(folder, err) : md_open(folder, err);
    char *path = bs_join(out, "model.safetensors");
    if (!m || !path)
        goto done;
    if (cl_same_place(folder, out)) {
        bs_err(err, "--out '%s' is the model's own folder", out);
        goto done;
    }
    group = md_int4_group(m, group);
    if (md_need_floats(m, err) || md_check_finite(m, err) || bs_claim_folder(&claim, out, err) ||
        write_model(m, path, dtype, group, err) || cl_copy_model_files(folder, out, err))
        goto done;
    result = integers ? write_config(folder, out, dtype, (int)group, err) : 0;
done:
    bs_claim_end(&claim);
    free(path);
    md_close(m);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts rest = {0};
    const char *out = NULL;
    int group = 32;
    oc_err err = {0};
    const cl_option options[] = {
        {"out", "DIR", CL_TEXT, &out, "folder of the smaller model", 0, 0},
        {"group", "N", CL_INT, &group, "int4: numbers that share a scale, a multiple of 32 (32)", 32, 1024},
        {0}};
    int code = cl_parse(self, argc, argv, options, &common, &rest);
    if (code >= 0)
        goto done;
    oc_dtype dtype = cl_dtype(&common);
    if (!common.model || !out || rest.n || dtype < OC_BF16 || group % 32) {
        code = cl_usage(self, "expected --model, --out, --dtype bf16, int8 or int4 (and --group, a multiple of 32)");
        goto done;
    }
    char *folder = rn_find_model(common.model, NULL, &err);
    code = !folder || quantize(folder, out, dtype, group, &err) ? cl_fail(self, &err) : CL_OK;
    free(folder);
done:
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_quantize = {
    "quantize", "a model in fewer bits", "--model M --dtype bf16|int8|int4 --out DIR",
    "  ocelli quantize --model clip-vit-large-patch14 --dtype int8 --out clip-l14-int8\n"
    "  ocelli classify --model clip-l14-int8 --labels cat,dog photo.jpg    # every command takes the result\n"
    "  ocelli quantize --model starter --dtype int4 --group 64 --out small\n\n"
    "What each loses is measured in docs/precision.md. `--dtype int8` of the other commands does the same in memory alone.\n",
    run};
