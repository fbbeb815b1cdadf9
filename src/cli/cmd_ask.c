/* cmd_ask.c - questions about pictures: an answer in the model's own words, or the best of some that are given. */
#include <stdlib.h>
#include <string.h>

#include "labels.h"
#include "telling.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    cl_texts words, given;      /* the question; --image */
    cl_texts images, questions; /* side by side; owned */
    const char *choices_from;
    cl_labels choices;
    bool from_stdin;
    oc_generation how;
    oc_generator *generator;
    cl_progress progress;
    double *logprob; /* [choices] */
    int *order;      /* [choices] best first */
    int failed;
} job;

/* ---- what is asked ------------------------------------------------------------------------------------------------ */

static void tell(job *j, const oc_err *why)
{
    j->failed++;
    cl_fail(j->self, why);
}

static int add_pair(job *j, const char *image, const char *question, oc_err *err)
{
    char *a = bs_strdup(image), *b = bs_strdup(question);
    if (a && b && !cl_texts_add(&j->images, a)) {
        if (!cl_texts_add(&j->questions, b))
            return 0;
        j->images.n--;
    }
    free(a);
    free(b);
    return bs_err(err, "out of memory: a list of questions");
}

/* {"image": PATH, "question": S}; a line that is not is told and left out. */
static int add_line(job *j, const char *line, int number, oc_err *err)
{
    char name[64];
    const char *image = NULL, *question = NULL;
    oc_err why = {0};
    int result = 0;
    snprintf(name, sizeof name, "standard input, line %d", number);
    ck_config *c = ck_config_parse(line, strlen(line), name, &why);
    bool object = c && ck_config_kind(c) == CK_OBJECT;
    if (c && !object)
        bs_err(&why, "'%s': expected {\"image\": PATH, \"question\": TEXT}", name);
    if (!object || ck_config_need(c, "image", "the path of a picture", &why) || ck_string(c, "image", &image, &why) ||
        ck_config_need(c, "question", "a text", &why) || ck_string(c, "question", &question, &why))
        tell(j, &why);
    else if (!question[strspn(question, " \t")]) {
        ck_config_wrong(c, "question", &why, "a question");
        tell(j, &why);
    } else
        result = add_pair(j, image, question, err);
    ck_config_free(c);
    return result;
}

static int read_stdin(job *j, oc_err *err)
{
    bs_buf hold = {0};
    cl_texts lines = {0};
    int result = cl_read_lines(&lines, &hold, "-", true, err);
    for (int i = 0; !result && i < lines.n; i++)
        if (lines.p[i][strspn(lines.p[i], " \t\r")])
            result = add_line(j, lines.p[i], i + 1, err);
    cl_texts_clear(&lines);
    bs_buf_clear(&hold);
    return result;
}

/* The one question is asked about every picture. */
static int ask_of_all(job *j, oc_err *err)
{
    cl_texts paths = {0};
    int result = cl_expand_pictures(&j->given, &paths, err);
    for (int i = 0; !result && i < paths.n; i++)
        result = add_pair(j, paths.p[i], j->words.p[0], err);
    cl_texts_free(&paths);
    return result;
}

/* Questions that are too long are told and left out. */
static void drop_long_ones(job *j)
{
    tx_ids ids = {0};
    int kept = 0;
    for (int i = 0; i < j->questions.n; i++) {
        oc_err why = {0};
        if (rn_encode_prompt(j->generator, j->questions.p[i], j->how.cut, &ids, &why)) {
            bs_err_prefix(&why, "'%s': ", j->images.p[i]);
            tell(j, &why);
            free((char *)(uintptr_t)j->images.p[i]);
            free((char *)(uintptr_t)j->questions.p[i]);
            continue;
        }
        j->images.p[kept] = j->images.p[i];
        j->questions.p[kept++] = j->questions.p[i];
    }
    j->images.n = j->questions.n = kept;
    tx_ids_clear(&ids);
}

/* ---- what is printed ------------------------------------------------------------------------------------------------ */

/* What stands before an answer: nothing where there is but one, else the picture, and from standard input the question. */
static void open_answer(const job *j, int at)
{
    if (j->common.json) {
        printf("{\"image\":");
        cl_json_text(j->images.p[at]);
        printf(",\"question\":");
        cl_json_text(j->questions.p[at]);
        return;
    }
    if (j->from_stdin)
        printf("%s\t%s\t", j->images.p[at], j->questions.p[at]);
    else if (j->given.n > 1 || j->questions.n + j->failed > 1)
        printf("%s\t", j->images.p[at]);
}

static void print_answer(const job *j, int at, const oc_answer *a)
{
    open_answer(j, at);
    if (!j->common.json) {
        cl_print_flat(a->text);
        putchar('\n');
        return;
    }
    printf(",\"text\":");
    cl_json_text(a->text);
    printf(",\"ids\":");
    cl_json_ids(a->ids, a->n);
    printf(",\"logprob\":%.9g}\n", a->logprob);
}

/* Best first; equal ones as they were given. */
static void put_in_order(const job *j)
{
    for (int i = 0; i < j->choices.texts.n; i++) {
        int k = i;
        for (; k > 0 && j->logprob[i] > j->logprob[j->order[k - 1]]; k--)
            j->order[k] = j->order[k - 1];
        j->order[k] = i;
    }
}

static int print_choices(const job *j, int at, oc_err *err)
{
    const cl_texts *t = &j->choices.texts;
    tx_ids ids = {0};
    put_in_order(j);
    const char *best = t->p[j->order[0]];
    if (tx_encode(j->generator->tokenizer, best, strlen(best), false, &ids, err))
        return -1;
    open_answer(j, at);
    if (j->common.json) {
        printf(",\"text\":");
        cl_json_text(best);
        printf(",\"ids\":");
        cl_json_ids(ids.p, (long)ids.n);
        printf(",\"choices\":[");
    } else if (j->from_stdin || j->given.n > 1 || j->questions.n + j->failed > 1)
        putchar('\n');
    for (int i = 0; i < t->n; i++) {
        const char *text = t->p[j->order[i]];
        if (!j->common.json) {
            printf("  %9.4f  %s\n", j->logprob[j->order[i]], text);
            continue;
        }
        printf("%s{\"text\":", i ? "," : "");
        cl_json_text(text);
        printf(",\"score\":%.9g}", j->logprob[j->order[i]]);
    }
    if (j->common.json)
        printf("]}\n");
    tx_ids_clear(&ids);
    return 0;
}

/* ---- work ------------------------------------------------------------------------------------------------------------- */

static int answer_batch(job *j, int at, int n, oc_err *errors, oc_err *err)
{
    oc_answer *answers = bs_calloc((size_t)n, sizeof *answers, "answers", err);
    int result = answers ? rn_tell_files(j->generator, j->images.p + at, j->questions.p + at, n, at, &j->how, answers, errors, err) : -1;
    cl_progress_end(&j->progress);
    for (int i = 0; answers && i < n; i++) {
        if (!result && errors[i].text[0])
            tell(j, &errors[i]);
        else if (!result)
            print_answer(j, at + i, &answers[i]);
        oc_answer_clear(&answers[i]);
    }
    bs_free(answers);
    return result;
}

static int rank_batch(job *j, int at, int n, oc_err *errors, oc_err *err)
{
    const md_sizes *z = &j->generator->speaker.engine->sizes;
    const cl_texts *t = &j->choices.texts;
    size_t each = (size_t)(z->channels * z->image_size * z->image_size);
    memset(errors, 0, (size_t)n * sizeof *errors);
    float *pixels = rn_load_pictures(j->generator, j->images.p + at, n, errors, err);
    int result = pixels ? 0 : -1;
    cl_progress_end(&j->progress);
    for (int i = 0; !result && i < n; i++) {
        rn_prompt prompt = {j->questions.p[at + i], pixels + (size_t)i * each, 0};
        if (errors[i].text[0])
            tell(j, &errors[i]);
        else
            result = rn_score_all(j->generator, &prompt, t->p, t->n, true, j->logprob, NULL, err) || print_choices(j, at + i, err) ? -1 : 0;
    }
    bs_free(pixels);
    return result;
}

static int answer_all(job *j, int batch, oc_err *err)
{
    oc_err *errors = bs_calloc((size_t)batch, sizeof *errors, "answers", err);
    int result = errors ? 0 : -1;
    drop_long_ones(j);
    cl_progress_start(&j->progress, &j->common, "answering");
    for (int at = 0, n; !result && at < j->questions.n; at += n) {
        n = j->questions.n - at < batch ? j->questions.n - at : batch;
        result = j->choices_from ? rank_batch(j, at, n, errors, err) : answer_batch(j, at, n, errors, err);
        fflush(stdout);
        cl_progress_show(&j->progress, at + n, j->questions.n);
    }
    cl_progress_end(&j->progress);
    bs_free(errors);
    return result;
}

/* Room for the longest choice behind the longest question, and for as many choices at the same time as are given. */
static int open_ranking(job *j, oc_engine *e, oc_err *err)
{
    enum { TOGETHER = 32 };
    const cl_texts *t = &j->choices.texts;
    oc_generation how = oc_generation_default();
    how.max_new_tokens = rn_check_eye(e, err) ? 0 : rn_context_for(e, t->p, t->n, 1, err);
    j->logprob = bs_alloc((size_t)t->n * sizeof *j->logprob, "answers", err);
    j->order = bs_alloc((size_t)t->n * sizeof *j->order, "answers", err);
    if (!how.max_new_tokens || !j->logprob || !j->order)
        return -1;
    j->generator = cl_teller_open(e, true, j->questions.p, j->questions.n, &how, t->n < TOGETHER ? t->n : TOGETHER, err);
    return j->generator ? 0 : -1;
}

static int run_job(job *j, oc_err *err)
{
    enum { BATCH = 8 };
    int result = -1, batch = j->common.batch ? j->common.batch : BATCH;
    if (j->from_stdin ? read_stdin(j, err) : ask_of_all(j, err))
        return -1;
    if (!j->questions.n)
        return 0;
    batch = batch < j->questions.n ? batch : j->questions.n;
    oc_engine *e = cl_open(&j->common, err);
    if (!e || cl_check_teller(e, true, true, err))
        goto done;
    if (j->choices_from)
        result = open_ranking(j, e, err);
    else {
        j->generator = cl_teller_open(e, true, j->questions.p, j->questions.n, &j->how, batch, err);
        result = j->generator ? 0 : -1;
    }
    if (!result)
        result = answer_all(j, batch, err);
done:
    oc_generator_close(j->generator);
    oc_engine_close(e);
    return result;
}

static int check_usage(const job *j)
{
    if (j->from_stdin)
        return j->words.n || j->given.n ? cl_usage(j->self, "--stdin brings pictures and questions itself") : -1;
    if (j->words.n != 1)
        return cl_usage(j->self, j->words.n ? "expected one question, in quotes" : "expected a question, or --stdin");
    if (!j->words.p[0][strspn(j->words.p[0], " \t\n")])
        return cl_usage(j->self, "the question is empty");
    return j->given.n ? -1 : cl_usage(j->self, "expected --image: a question is about a picture");
}

static void clear(job *j)
{
    cl_texts_clear(&j->words);
    cl_texts_clear(&j->given);
    cl_texts_free(&j->images);
    cl_texts_free(&j->questions);
    cl_labels_clear(&j->choices);
    bs_free(j->logprob);
    bs_free(j->order);
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self, .how = cl_telling_start()};
    oc_err err = {0};
    const cl_option options[] = {
        {"image", "FILE", CL_TEXTS, &j.given, "the picture that is asked about, or a folder of them; may be given again", 0, 0},
        {"stdin", NULL, CL_FLAG, &j.from_stdin, "lines of {\"image\",\"question\"} from standard input", 0, 0},
        {"choices", "FILE|a,b,c", CL_TEXT, &j.choices_from, "rank these answers: a file with one a line, or a list", 0, 0},
        CL_TELLING_OPTIONS(j.how),
        {"enc-token", NULL, CL_FLAG, &j.common.enc, CL_ENC_HELP, 0, 0},
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &j.words);
    if (code < 0)
        code = check_usage(&j);
    cl_telling_end(&j.how, &j.common);
    if (code < 0 && cl_telling_wrong(&j.how))
        code = cl_usage(self, "%s", cl_telling_wrong(&j.how));
    if (code < 0 && j.choices_from && cl_labels_read(&j.choices, "choices", "answer", j.choices_from, &err))
        code = cl_usage(self, "%s", err.text);
    if (code < 0 && !j.common.model)
        code = cl_usage(self, "expected --model: none that ships answers questions");
    if (code < 0)
        code = cl_done(self, run_job(&j, &err) ? cl_fail(self, &err) : j.failed ? CL_FAILED : CL_OK);
    clear(&j);
    return code;
}

const cl_command cmd_ask = {
    "ask", "answers to questions about pictures", "--model M (--image FILE... \"QUESTION\" | --stdin) [--choices FILE|a,b,c]",
    "  ocelli ask --model blip-vqa-base --image photo.jpg 'how many dogs are there?'\n"
    "  ocelli ask --model blip-vqa-base --image photo.jpg --choices yes,no 'is it raining?'\n"
    "  ocelli ask --model blip-vqa-base --stdin --json < questions.jsonl\n\n"
    "None of the models that ship answers, so --model must be said; --batch is 8 without it. --choices prints the given answers, best first, with their log-probabilities (of all tokens and the end, as BLIP ranks answers).\n",
    run};
