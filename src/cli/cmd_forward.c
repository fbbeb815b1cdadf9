/* cmd_forward.c - a model's outputs and gradients, as files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../run/forward.h"
#include "cli.h"

static int run(const cl_command *self, int argc, char **argv)
{
    rn_forward_args a = {0};
    cl_common common = {0};
    cl_texts rest = {0};
    const cl_option options[] = {
        {"in", "FILE", CL_TEXT, &a.in, "inputs under Hugging Face's names (safetensors)", 0, 0},
        {"out", "FILE", CL_TEXT, &a.out, "where the outputs go (safetensors)", 0, 0},
        {"grad", NULL, CL_FLAG, &a.grad, "also the loss and grad.NAME of every weight (with --lora: of the adapter)", 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &common, &rest);
    if (code >= 0)
        goto done;
    if (a.grad && cl_dtype(&common) > OC_FP32) {
        code = cl_usage(self, "--grad: gradients are of fp32 weights, not of %s", common.dtype);
        goto done;
    }
    if (!common.model || !a.in || !a.out || rest.n) {
        code = cl_usage(self, "expected --model, --in and --out");
        goto done;
    }
    oc_err err = {0};
    bs_buf names = {0};
    char *folder = rn_find_model(common.model, NULL, &err);
    a.model = folder;
    a.threads = common.threads;
    a.dtype = cl_dtype(&common);
    char *lora = common.lora ? cl_lora_folder(common.lora, &a.lora_scale, &err) : NULL;
    a.lora = lora;
    code = !folder || (common.lora && !lora) || rn_forward(&a, &names, &err) ? cl_fail(self, &err) : CL_OK;
    if (code == CL_OK && common.json) {
        printf("{\"outputs\":[");
        for (char *line = strtok(names.p, "\n"), *first = line; line; line = strtok(NULL, "\n")) {
            printf("%s", line == first ? "" : ",");
            cl_json_text(line);
        }
        printf("]}\n");
    } else if (code == CL_OK)
        fwrite(names.p, 1, names.n, stdout);
    bs_buf_clear(&names);
    free(lora);
    free(folder);
    code = cl_done(self, code);
done:
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_forward = {"forward", "a model's outputs and gradients on given inputs",
                                "--model M --in F --out F [--grad] [--lora DIR]",
                                "  ocelli forward --model clip-vit-base-patch32 --in in.safetensors --out out.safetensors\n"
                                "  ocelli forward --model M --in F --out F --grad          # with the loss and every gradient\n"
                                "  ocelli forward --model M --in F --out F --lora ADAPTER  # the adapter applied, not merged\n",
                                run};
