/* cmd_caption.c - a sentence about each picture. */
#include "telling.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    cl_texts given, paths;
    const char *prompt;
    oc_generation how;
    oc_generator *generator;
    cl_progress progress;
    int failed;
} job;

static void print_caption(const job *j, const char *path, const oc_answer *a)
{
    if (!j->common.json) {
        printf("%s\t", path);
        cl_print_flat(a->text);
        putchar('\n');
        return;
    }
    printf("{\"image\":");
    cl_json_text(path);
    printf(",\"text\":");
    cl_json_text(a->text);
    printf(",\"ids\":");
    cl_json_ids(a->ids, a->n);
    printf(",\"logprob\":%.9g}\n", a->logprob);
}

static int caption_batch(job *j, int at, int n, const char **prompts, oc_answer *answers, oc_err *errors, oc_err *err)
{
    for (int i = 0; i < n; i++)
        prompts[i] = j->prompt;
    int result = rn_tell_files(j->generator, j->paths.p + at, prompts, n, at, &j->how, answers, errors, err);
    cl_progress_end(&j->progress);
    for (int i = 0; i < n; i++) {
        if (!result && errors[i].text[0]) {
            j->failed++;
            cl_fail(j->self, &errors[i]);
        } else if (!result)
            print_caption(j, j->paths.p[at + i], &answers[i]);
        oc_answer_clear(&answers[i]);
    }
    fflush(stdout); /* who reads along need not wait for the next batch */
    return result;
}

static int caption_all(job *j, int batch, oc_err *err)
{
    oc_answer *answers = bs_calloc((size_t)batch, sizeof *answers, "captions", err);
    oc_err *errors = answers ? bs_calloc((size_t)batch, sizeof *errors, "captions", err) : NULL;
    const char **prompts = errors ? bs_calloc((size_t)batch, sizeof *prompts, "captions", err) : NULL;
    int result = prompts ? 0 : -1;
    cl_progress_start(&j->progress, &j->common, "captioning");
    for (int at = 0, n; !result && at < j->paths.n; at += n) {
        n = j->paths.n - at < batch ? j->paths.n - at : batch;
        result = caption_batch(j, at, n, prompts, answers, errors, err);
        cl_progress_show(&j->progress, at + n, j->paths.n);
    }
    cl_progress_end(&j->progress);
    bs_free(prompts);
    bs_free(errors);
    bs_free(answers);
    return result;
}

static int run_job(job *j, oc_err *err)
{
    enum { BATCH = 8 };
    int result = -1;
    if (cl_expand_pictures(&j->given, &j->paths, err))
        return -1;
    int batch = j->common.batch ? j->common.batch : BATCH;
    batch = batch < j->paths.n ? batch : j->paths.n;
    oc_engine *e = cl_open(&j->common, err);
    if (e && !cl_check_teller(e, false, j->prompt != NULL, err))
        j->generator = cl_teller_open(e, false, &j->prompt, 1, &j->how, batch, err);
    if (j->generator)
        result = caption_all(j, batch, err);
    oc_generator_close(j->generator);
    oc_engine_close(e);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self, .how = cl_telling_start()};
    oc_err err = {0};
    const cl_option options[] = {
        {"prompt", "S", CL_TEXT, &j.prompt, "what a caption goes on with, as BLIP's 'a picture of '; it is not printed", 0, 0},
        CL_TELLING_OPTIONS(j.how),
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &j.given);
    if (code >= 0)
        goto done;
    cl_telling_end(&j.how, &j.common);
    if (!j.common.model)
        j.common.model = CL_CAPTIONER;
    const char *wrong = cl_telling_wrong(&j.how);
    if (!j.given.n || wrong)
        code = cl_usage(self, "%s", wrong ? wrong : "expected pictures or folders");
    else
        code = cl_done(self, run_job(&j, &err) ? cl_fail(self, &err) : j.failed ? CL_FAILED : CL_OK);
done:
    cl_texts_clear(&j.given);
    cl_texts_free(&j.paths);
    return code;
}

const cl_command cmd_caption = {
    "caption", "a sentence about each picture", "[--model M] [--prompt S] (IMAGE... | FOLDER... | @LIST)",
    "  ocelli caption photo.jpg                       # path, tab, caption\n"
    "  ocelli caption --json ~/photos > captions.jsonl\n"
    "  ocelli caption --model blip-image-captioning-base --prompt 'a picture of ' --num-beams 3 --min-new-tokens 5 photo.jpg\n"
    "  ocelli caption --model blip-image-captioning-base --top-p 0.9 --repetition-penalty 1.1 --seed 7 photo.jpg    # drawn, as CapFilt draws\n\n"
    "Without --model `" CL_CAPTIONER "` speaks. A picture is captioned as if it were alone, whatever --batch (8) says.\n",
    run};
