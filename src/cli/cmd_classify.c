/* cmd_classify.c - which of some labels fits a picture best, without training. */
#include <stdlib.h>
#include <string.h>

#include "../eval/metrics.h"
#include "labels.h"
#include "naming.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    const char *labels_from, *set;
    cl_texts given, pictures; /* --template; and words that are no switch */
    cl_texts templates, paths;
    cl_labels labels;
    bs_buf template_bytes;
    int top;
    oc_session *session;
    cl_talk talk;
    float *classes; /* [labels, width] */
    float *scores;  /* [batch, labels] */
    long *best;     /* [labels] */
} job;

/* ---- pictures ------------------------------------------------------------------------------------------------------ */

static void emit(const job *j, const char *path, const float *scores, int top)
{
    if (j->common.json) {
        printf("{\"image\":");
        cl_json_text(path);
        printf(",\"labels\":[");
    } else
        printf("%s\n", path);
    for (int i = 0; i < top; i++) {
        const char *label = j->labels.texts.p[j->best[i]];
        double score = (double)scores[j->best[i]];
        if (!j->common.json) {
            printf("  %6.4f  %s\n", score, label);
            continue;
        }
        printf("%s{\"label\":", i ? "," : "");
        cl_json_text(label);
        printf(",\"score\":%.9g}", score);
    }
    if (j->common.json)
        printf("]}\n");
}

static int classify_batch(job *j, int at, int n, float *rows, bool *ok, oc_err *err)
{
    int width = oc_embedding_width(j->session->engine), labels = j->labels.texts.n;
    int top = j->top ? j->top : j->common.json ? labels : 5;
    top = top < labels ? top : labels;
    j->talk.talk.progress = NULL; /* it would count within the batch */
    if (ev_embed_pictures(j->session, j->paths.p + at, n, rows, ok, &j->talk.talk, err))
        return -1;
    ev_scores(j->session->work, rows, n, j->classes, labels, width, j->scores);
    cl_progress_end(&j->talk.progress);
    for (int i = 0; i < n; i++) {
        float *scores = j->scores + (long)i * labels;
        if (!ok[i])
            continue;
        ev_best(scores, labels, top, j->best);
        oc_probabilities(j->session->engine, scores, labels, scores);
        emit(j, j->paths.p[at + i], scores, top);
    }
    return 0;
}

static int classify_all(job *j, oc_err *err)
{
    const oc_engine *e = j->session->engine;
    int batch = e->options.max_batch, result = -1;
    size_t width = (size_t)oc_embedding_width(e), labels = (size_t)j->labels.texts.n;
    float *rows = bs_alloc((size_t)batch * width * sizeof *rows, "embeddings", err);
    bool *ok = bs_alloc((size_t)batch * sizeof *ok, "a batch of pictures", err);
    j->classes = bs_alloc(labels * width * sizeof *j->classes, "the vectors of labels", err);
    j->scores = bs_alloc((size_t)batch * labels * sizeof *j->scores, "scores", err);
    j->best = bs_alloc(labels * sizeof *j->best, "scores", err);
    if (!rows || !ok || !j->classes || !j->scores || !j->best ||
        ev_class_vectors(j->session, j->labels.texts.p, j->labels.texts.n, j->templates.p, j->templates.n, j->classes, &j->talk.talk, err))
        goto done;
    cl_talk_end(&j->talk, e->sizes.max_tokens);
    cl_progress_start(&j->talk.progress, &j->common, "classifying");
    for (int at = 0; at < j->paths.n; at += batch) {
        int n = j->paths.n - at < batch ? j->paths.n - at : batch;
        if (classify_batch(j, at, n, rows, ok, err))
            goto done;
        cl_progress_show(&j->talk.progress, at + n, j->paths.n);
    }
    result = 0;
done:
    cl_progress_end(&j->talk.progress);
    bs_free(rows);
    bs_free(ok);
    return result;
}

static int run_job(job *j, oc_err *err)
{
    int result = -1;
    oc_engine *e = NULL;
    if (cl_expand_pictures(&j->pictures, &j->paths, err))
        return -1;
    cl_talk_start(&j->talk, j->self, &j->common);
    e = cl_open(&j->common, err);
    j->session = e ? oc_session_open(e, err) : NULL;
    if (j->session)
        result = classify_all(j, err);
    oc_session_close(j->session);
    oc_engine_close(e);
    return result;
}

static void clear(job *j)
{
    cl_texts_clear(&j->given);
    cl_texts_clear(&j->pictures);
    cl_labels_clear(&j->labels);
    cl_texts_clear(&j->templates);
    cl_texts_free(&j->paths);
    bs_buf_clear(&j->template_bytes);
    bs_free(j->classes);
    bs_free(j->scores);
    bs_free(j->best);
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self};
    oc_err err = {0};
    const cl_option options[] = {
        {"labels", "FILE|a,b,c", CL_TEXT, &j.labels_from, "what to choose from: a file with one a line, or a list", 0, 0},
        {"template", "S...", CL_MORE, &j.given, "sentences with {} where the label goes; their vectors are averaged", 0, 0},
        {"templates", "NAME|FILE", CL_TEXT, &j.set, CL_TEMPLATES_HELP, 0, 0},
        {"top", "K", CL_INT, &j.top, "labels to show for each picture (5; all of them with --json)", 1, 1e9},
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &j.pictures);
    if (code >= 0)
        goto done;
    if (!j.labels_from)
        code = cl_usage(self, "expected --labels");
    else if (cl_templates(&j.given, j.set, &j.templates, &j.pictures, &j.template_bytes, &err) || cl_labels_read(&j.labels, "labels", "label", j.labels_from, &err))
        code = cl_usage(self, "%s", err.text);
    else if (!j.pictures.n)
        code = cl_usage(self, "expected pictures or folders");
    else
        code = cl_done(self, run_job(&j, &err) ? cl_fail(self, &err) : j.talk.talk.failed ? CL_FAILED : CL_OK);
done:
    clear(&j);
    return code;
}

const cl_command cmd_classify = {
    "classify", "which of some labels fits a picture best",
    "--model M --labels FILE|a,b,c [--template S...] (IMAGE... | FOLDER...)",
    "  ocelli classify --labels cat,dog,horse photo.jpg\n  ocelli classify --labels 猫,狗,马 --templates photo_zh photo.jpg\n"
    "  ocelli classify --labels animals.txt --template 'a photo of a {}.' 'a drawing of a {}.' --top 1 --json ~/photos\n\n"
    "Scores are the softmax over all labels of the cosines between picture and label, times the model's own scale.\n"
    "A model that judges every pair by itself (SigLIP) gives each label its own probability: they need not add up to 1.\n",
    run};
