/* cmd_generate.c - a language model goes on with prompts, or says how likely given answers are. */
#include <stdlib.h>
#include <string.h>

#include "telling.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    cl_texts prompts, stops, answers;
    const char *kv, *image;
    float *pixels; /* of the image; NULL: there is none */
    oc_kv_type type;
    bool from_stdin;
    int context;
    oc_generation how;
    oc_generator *generator;
    bool shown;  /* tokens go to stdout as they come */
    bool missed; /* some prompt has no answer, and it was said why */
} job;

static void print_answer(const job *j, int number, const oc_answer *a)
{
    if (!j->common.json) {
        if (!j->shown)
            fputs(a->text, stdout);
        putchar('\n');
        return;
    }
    printf("{");
    if (j->prompts.n > 1 || j->from_stdin) {
        printf("\"prompt\":");
        cl_json_text(j->prompts.p[number]);
        putchar(',');
    }
    printf("\"ids\":");
    cl_json_ids(a->ids, a->n);
    printf(",\"text\":");
    cl_json_text(a->text);
    printf(",\"logprob\":%.9g,\"ended\":%s}\n", a->logprob, a->ended ? "true" : "false");
}

static bool show(void *arg, int i, const char *bytes, size_t n)
{
    (void)arg;
    (void)i;
    fwrite(bytes, 1, n, stdout);
    fflush(stdout);
    return !ferror(stdout);
}

/* How many prompts from `from` on can be answered together; a first one that cannot be is told of, and 0. */
static int good_ones(job *j, int from, int most)
{
    tx_ids ids = {0};
    oc_err err = {0};
    int n = 0;
    while (n < most && from + n < j->prompts.n && !rn_encode_prompt(j->generator, j->prompts.p[from + n], j->how.cut, &ids, &err))
        n++;
    if (!n) {
        bs_err_prefix(&err, "prompt %d: ", from + 1);
        cl_fail(j->self, &err);
        j->missed = true;
    }
    tx_ids_clear(&ids);
    return n;
}

/* Answers come in the order of the prompts, as many at a time as the generator takes. */
static int answer_prompts(job *j, oc_err *err)
{
    int batch = j->generator->batch / (j->how.num_beams > 1 ? j->how.num_beams : 1), result = 0;
    oc_answer *a = bs_calloc((size_t)batch, sizeof *a, "answers", err);
    rn_prompt *prompts = a ? bs_calloc((size_t)batch, sizeof *prompts, "prompts", err) : NULL;
    cl_progress progress;
    if (!prompts) {
        bs_free(a);
        return -1;
    }
    j->shown = !j->common.json && j->prompts.n == 1;
    cl_progress_start(&progress, &j->common, "answering");
    for (int i = 0, n; !result && i < j->prompts.n; i += n ? n : 1) {
        n = good_ones(j, i, batch);
        for (int k = 0; k < n; k++)
            prompts[k] = (rn_prompt){j->prompts.p[i + k], j->pixels, 0};
        result = n ? rn_generate(j->generator, prompts, n, i, &j->how, j->shown ? show : NULL, j, a, err) : 0;
        for (int k = 0; k < n; k++) {
            if (!result)
                print_answer(j, i + k, &a[k]);
            oc_answer_clear(&a[k]);
        }
        fflush(stdout);
        if (j->prompts.n > batch)
            cl_progress_show(&progress, i + n, j->prompts.n);
    }
    cl_progress_end(&progress);
    bs_free(prompts);
    bs_free(a);
    return result;
}

static int score_answers(job *j, oc_err *err)
{
    for (int i = 0; i < j->prompts.n; i++)
        for (int k = 0; k < j->answers.n; k++) {
            double logprob;
            int tokens;
            if (rn_score(j->generator, &(rn_prompt){j->prompts.p[i], j->pixels, 0}, j->answers.p[k], false, &logprob, &tokens, err))
                return -1;
            if (!j->common.json) {
                printf("%.6f\t%s\n", logprob, j->answers.p[k]);
                continue;
            }
            printf("{\"prompt\":");
            cl_json_text(j->prompts.p[i]);
            printf(",\"answer\":");
            cl_json_text(j->answers.p[k]);
            printf(",\"logprob\":%.9g,\"tokens\":%d}\n", logprob, tokens);
        }
    return 0;
}

static bool read_type(job *j)
{
    static const char *const kinds[] = {[OC_KV_FP32] = "fp32", [OC_KV_FP16] = "fp16", [OC_KV_BF16] = "bf16", [OC_KV_INT8] = "int8"};
    for (int i = 0; i < 4; i++)
        if (!j->kv || !strcmp(j->kv, kinds[i])) {
            j->type = (oc_kv_type)i;
            return true;
        }
    return false;
}

static int load_image(job *j, oc_err *err)
{
    oc_err why = {0};
    j->pixels = rn_load_pictures(j->generator, &j->image, 1, &why, err);
    return !j->pixels ? -1 : why.text[0] ? bs_err(err, "%s", why.text) : 0;
}

static int run_job(job *j, oc_err *err)
{
    int result = -1;
    bs_buf hold = {0};
    oc_engine *e = cl_open(&j->common, err);
    if (!e || (j->from_stdin && cl_read_lines(&j->prompts, &hold, "-", true, err)))
        goto done;
    if (!j->prompts.n && !j->from_stdin && cl_texts_add(&j->prompts, "")) {
        bs_err(err, "out of memory: a prompt");
        goto done;
    }
    int batch = j->prompts.n == 1 ? 1 : j->common.batch ? j->common.batch : 8;
    batch = batch < j->how.num_beams ? j->how.num_beams : batch;
    j->how.seed = j->common.seed;
    j->how.stop = j->stops.p;
    j->how.stops = j->stops.n;
    j->generator = oc_generator_open_with(e, &(oc_generator_options){.context = j->context, .batch = batch, .kv = j->type}, err);
    if (!j->generator || (j->image && load_image(j, err)))
        goto done;
    result = j->answers.n ? score_answers(j, err) : answer_prompts(j, err);
done:
    bs_buf_clear(&hold);
    bs_free(j->pixels);
    oc_generator_close(j->generator);
    oc_engine_close(e);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self, .how = oc_generation_default()};
    cl_texts rest = {0};
    oc_err err = {0};
    const cl_option options[] = {
        {"prompt", "S", CL_TEXTS, &j.prompts, "what to go on with; may be given again", 0, 0},
        {"image", "FILE", CL_TEXT, &j.image, "a picture that the text is about, for models that look at one", 0, 0},
        {"stdin", NULL, CL_FLAG, &j.from_stdin, "prompts from standard input, a line each", 0, 0},
        {"max-new-tokens", "N", CL_INT, &j.how.max_new_tokens, "tokens of an answer at most (256)", 1, 1 << 28},
        {"min-new-tokens", "N", CL_INT, &j.how.min_new_tokens, "tokens of an answer at least (0)", 0, 1 << 28},
        {"temperature", "T", CL_FLOAT, &j.how.temperature,
         "0: always the likeliest token, whatever --top-k, --top-p and --min-p say (0)", 0, 0},
        {"top-k", "K", CL_INT, &j.how.top_k, "draw from so many likeliest ones (0: all)", 0, 0},
        {"top-p", "P", CL_FLOAT, &j.how.top_p, "draw from the likeliest that have P together (1)", 1e-9, 1},
        {"min-p", "P", CL_FLOAT, &j.how.min_p, "draw from those with P of the likeliest one's chance (0)", 0, 1},
        {"repetition-penalty", "X", CL_FLOAT, &j.how.repetition_penalty, "above 1: what was said is less likely (1)", 1e-9, 1e9},
        {"num-beams", "N", CL_INT, &j.how.num_beams, "beam search by so many (1: none)", 1, 64},
        {"length-penalty", "X", CL_FLOAT, &j.how.length_penalty, "beams: above 0 long answers win, below short ones (1)", -1e3,
         1e3},
        {"early-stopping", NULL, CL_FLAG, &j.how.early_stopping, "beams: end with so many finished answers", 0, 0},
        {"stop", "S", CL_TEXTS, &j.stops, "a text that ends the answer; may be given again", 0, 0},
        {"answer", "S", CL_TEXTS, &j.answers, "instead of generating: the log-probability of S; may be given again", 0, 0},
        {"context", "N", CL_INT, &j.context, "positions of prompt and answer at most (the model's)", 1, 1 << 28},
        {"cut", NULL, CL_FLAG, &j.how.cut, "cut the beginning of a prompt that is too long", 0, 0},
        {"kv-dtype", "TYPE", CL_TEXT, &j.kv, "of keys and values: fp32, fp16, bf16, int8 (fp32)", 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &rest);
    if (code >= 0)
        goto done;
    if (rest.n)
        code = cl_usage(self, "'%s' is no switch: prompts come by --prompt or --stdin", rest.p[0]);
    else if (cl_telling_wrong(&j.how))
        code = cl_usage(self, "%s", cl_telling_wrong(&j.how));
    else if (!read_type(&j))
        code = cl_usage(self, "--kv-dtype is '%s', expected fp32, fp16, bf16 or int8", j.kv);
    else
        code = cl_done(self, run_job(&j, &err) ? cl_fail(self, &err) : j.missed ? CL_FAILED : CL_OK);
done:
    cl_texts_clear(&rest);
    cl_texts_clear(&j.prompts);
    cl_texts_clear(&j.stops);
    cl_texts_clear(&j.answers);
    return code;
}

const cl_command cmd_generate = {
    "generate", "a language model goes on with a text", "--model M (--prompt S... | --stdin)",
    "  ocelli generate --model gpt2 --prompt 'The old clock' --max-new-tokens 40\n"
    "  ocelli generate --model llama --prompt 'Once' --temperature 0.8 --top-p 0.95 --seed 7 --json\n"
    "  ocelli generate --model gpt2 --num-beams 5 --stop '.' --stdin < prompts.txt\n"
    "  ocelli generate --model gpt2 --prompt 'Paris is in' --answer ' France' --answer ' Spain'    # which is likelier\n",
    run};
