/* cmd_merge.c - an adapter folded into the weights: a checkpoint that needs no adapter. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static int merge(const char *folder, const char *adapter, float scale, const char *out, ck_dtype dtype, oc_err *err)
{
    int result = -1;
    md_lora lora = {0};
    bs_claim claim = {0};
    md_model *m = md_open(folder, err);
    float **values = m ? calloc((size_t)m->n + 1, sizeof *values) : NULL;
    char *path = bs_join(out, "model.safetensors");
    if (m && cl_same_place(folder, out)) {
        bs_err(err, "--out '%s' is the model's own folder: merging twice would apply the adapter twice", out);
        goto done;
    }
    if (!values || !path || md_need_floats(m, err) || md_check_finite(m, err) || md_lora_open(&lora, m, adapter, scale, err) ||
        bs_claim_folder(&claim, out, err))
        goto done;
    for (int i = 0; i < m->n; i++) {
        if (!lora.by_id[i].r)
            continue;
        values[i] = bs_alloc((size_t)m->slots[i].count * sizeof(float), m->slots[i].name, err);
        if (!values[i] || md_lora_merged(&lora, m, i, values[i], err))
            goto done;
    }
    /* With its adapter the model is asked; so is what both become. */
    bool failed = cl_copy_model_files(folder, out, err) || cl_say_it_answers(m, out, err) ||
                  md_save(m, path, dtype, (const float *const *)values, err);
    result = failed ? -1 : 0;
done:
    for (int i = 0; values && i < m->n; i++)
        bs_free(values[i]);
    free(values);
    free(path);
    bs_claim_end(&claim);
    md_lora_clear(&lora);
    md_close(m);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts rest = {0};
    const char *out = NULL, *save = "fp32";
    oc_err err = {0};
    const cl_option options[] = {{"out", "DIR", CL_TEXT, &out, "folder of the merged checkpoint", 0, 0},
                                 {"save-dtype", "TYPE", CL_TEXT, &save, "fp32, fp16 or bf16 on disk (fp32)", 0, 0},
                                 {0}};
    int code = cl_parse(self, argc, argv, options, &common, &rest);
    if (code >= 0)
        goto done;
    bool f16 = !strcmp(save, "fp16"), bf16 = !strcmp(save, "bf16");
    if (!common.model || !common.lora || !out || rest.n || (!f16 && !bf16 && strcmp(save, "fp32") != 0)) {
        code = cl_usage(self, "expected --model, --lora and --out (and --save-dtype fp32, fp16 or bf16)");
        goto done;
    }
    char *folder = rn_find_model(common.model, NULL, &err);
    float scale;
    char *lora = cl_lora_folder(common.lora, &scale, &err);
    code = !folder || !lora ||
                   merge(folder, lora, scale, out,
                         f16    ? CK_F16
                         : bf16 ? CK_BF16
                                : CK_F32,
                         &err)
               ? cl_fail(self, &err)
               : CL_OK;
    free(lora);
    free(folder);
done:
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_merge = {"merge", "fold a LoRA adapter into its model", "--model M --lora ADAPTER --out DIR",
                              "  ocelli merge --model starter --lora my-adapter --out starter-mine\n", run};
