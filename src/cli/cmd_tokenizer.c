/* cmd_tokenizer.c - train a byte-level BPE. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts files = {0};
    oc_err err = {0};
    int size = 0, length = 0;
    const char *out = NULL, *style = "clip";
    const cl_option options[] = {
        {"size", "N", CL_INT, &size, "ids in all: bytes, merges, special tokens", 1, 1e7},
        {"out", "DIR", CL_TEXT, &out, "folder of tokenizer.json and its companions", 0, 0},
        {"style", "NAME", CL_TEXT, &style, "clip (lower case, end-of-word marks) or gpt2 (clip)", 0, 0},
        {"max-length", "N", CL_INT, &length, "model_max_length (clip 77, gpt2 1024)", 2, 1e7},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &common, &files);
    if (code >= 0)
        goto done;
    bool clip = !strcmp(style, "clip");
    if (!size || !out || !files.n || (!clip && strcmp(style, "gpt2") != 0)) {
        code = cl_usage(self, "expected --size, --out and at least one text file (and --style clip or gpt2)");
        goto done;
    }
    tx_train_options o = {.style = clip ? TX_STYLE_CLIP : TX_STYLE_GPT2, .size = size, .max_length = length};
    bs_claim claim = {0};
    int32_t got = bs_claim_folder(&claim, out, &err) ? -1 : tx_train_bpe(files.p, (size_t)files.n, &o, out, &err);
    bs_claim_end(&claim);
    code = got < 0 ? cl_fail(self, &err) : CL_OK;
    if (got >= 0 && common.json)
        printf("{\"size\":%d}\n", (int)got);
    else if (got >= 0)
        printf("%d ids in %s\n", (int)got, out);
    code = cl_done(self, code);
done:
    cl_texts_clear(&files);
    return code;
}

const cl_command cmd_tokenizer = {"tokenizer", "train a byte-level BPE tokenizer", "--size N --out DIR FILE...",
                                  "  ocelli tokenizer --size 4096 --out my-config captions.txt    # each line one text\n", run};
