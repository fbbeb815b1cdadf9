/* cmd_bench.c - how fast this machine is, and how much of that Ocelli reaches. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static int choose(cl_bench *b, oc_err *err)
{
    const char *what = b->words.n ? b->words.p[0] : "";
    if (b->seconds <= 0)
        b->seconds = strcmp(what, "kernels") ? 1 : 0.15f;
    if (!strcmp(what, "kernels"))
        return cl_bench_kernels(b, err);
    if (!strcmp(what, "model"))
        return cl_bench_model(b, err);
    if (!strcmp(what, "speak"))
        return cl_bench_speak(b, err);
    if (!strcmp(what, "train"))
        return cl_bench_train(b, err);
    return bs_err(err, "expected kernels, model, speak or train, not '%s'", what);
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_bench b = {.self = self, .seconds = 0};
    oc_err err = {0};
    const cl_option options[] = {
        {"cpu", "TIER", CL_TEXT, &b.cpu, "the kernels of this tier (as OCELLI_CPU)", 0, 0},
        {"seconds", "S", CL_FLOAT, &b.seconds, "to measure each line for (kernels 0.15, others 1)", 0, 3600},
        {"batch", "N,N", CL_TEXT, &b.batches, "rows at once, each measured: model (1,8,32); speak: texts (1,8); train: pairs (128)", 0, 0},
        {"context", "N", CL_INT, &b.context, "speak: positions of a text at most (1024, or the model's where it has fewer)", 2, 1024},
        {"texts", NULL, CL_FLAG, &b.texts, "model: texts of full length instead of pictures", 0, 0},
        {"whole", NULL, CL_FLAG, &b.whole, "model: compute every token of every layer, though one row is read", 0, 0},
        {"in", "FILE", CL_TEXT, &b.in, "model, train: pixel_values, input_ids (safetensors) instead of random ones", 0, 0},
        {"out", "FILE", CL_TEXT, &b.out, "model: write image_embeds, text_embeds of all inputs, not normalised", 0, 0},
        {"stdin", NULL, CL_FLAG, &b.from_stdin,
         "measure as lines say: `image ROWS [PASSES]`, `text ROWS [PASSES]`; `prompt N`, `decode TEXTS N`, `look N`, `tell TEXTS N`; `train STEPS`", 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &b.common, &b.words);
    if (code < 0 && b.words.n < 1)
        code = cl_usage(self, "expected `kernels`, `model`, `speak` or `train`");
    if (code < 0 && b.cpu && setenv("OCELLI_CPU", b.cpu, 1))
        code = cl_usage(self, "out of memory");
    if (code < 0)
        code = cl_done(self, choose(&b, &err) ? cl_fail(self, &err) : CL_OK);
    cl_texts_clear(&b.words);
    return code;
}

const cl_command cmd_bench = {"bench", "how fast this machine is, and how much of that is reached",
                              "(kernels [PART...] | model | speak | train) [SWITCHES]",
                              "  ocelli bench kernels                        # with 1 thread and with all; parts: machine gemm "
                              "tile low backward matvec attention rows convert\n"
                              "  ocelli bench kernels gemm backward --threads 1 --cpu generic\n"
                              "  ocelli bench model --model clip-vit-base-patch32 --batch 1,8,32\n"
                              "  ocelli bench model --model M --texts --dtype int8 --json\n"
                              "  ocelli bench speak --model gpt2 --batch 1,8   # a prompt, and tokens of so many texts at once\n"
                              "  ocelli bench train --model M --batch 128      # a step of forward, backward and AdamW\n\n"
                              "Times are medians of rounds. A share is of the fused multiply-adds that the tier's vectors can "
                              "do, or where GB/s are said of the memory that can be\n"
                              "read; both are measured (small arrays come out of caches, so that theirs may be over 100%). "
                              "A folder that holds only config.json is\n"
                              "measured with random weights.\n",
                              run};
