/* cmd_match.c - do pictures and texts belong together? */
#include <stdlib.h>

#include "../run/match.h"
#include "cli.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    cl_texts words, paths; /* IMAGE TEXT...; pictures */
    int texts;
    oc_session *session;
    float *rows;      /* [texts, width] */
    tx_ids *ids;      /* [texts] */
    float *itc, *itm; /* [texts]; itm NULL: the model has no such head */
    cl_progress progress;
    int failed;
    bool told; /* what the columns are */
} job;

static const char *text_of(const job *j, int i) { return j->words.p[1 + i]; }

/* What the columns are, before the first line. */
static void say_columns(job *j)
{
    if (!j->common.json && !j->told)
        cl_say(&j->common, j->itm ? "itc\titm\tpicture and text\n" : "itc\tpicture and text\n");
    j->told = true;
}

static void print_pair(const job *j, const char *path, int i)
{
    if (!j->common.json) {
        printf("%.4f\t", (double)j->itc[i]);
        if (j->itm)
            printf("%.4f\t", (double)j->itm[i]);
        printf("%s\t%s\n", path, text_of(j, i));
        return;
    }
    printf("{\"image\":");
    cl_json_text(path);
    printf(",\"text\":");
    cl_json_text(text_of(j, i));
    printf(",\"itc\":%.9g", (double)j->itc[i]);
    if (j->itm)
        printf(",\"itm\":%.9g", (double)j->itm[i]);
    printf("}\n");
}

static int match_all(job *j, oc_err *err)
{
    cl_progress_start(&j->progress, &j->common, "matching");
    for (int i = 0; i < j->paths.n; i++) {
        oc_err why = {0};
        if (rn_match_file(j->session, j->paths.p[i], j->rows, j->ids, j->texts, j->itc, j->itm, &why, err))
            return -1;
        cl_progress_end(&j->progress);
        if (why.text[0]) {
            j->failed++;
            cl_fail(j->self, &why);
            continue;
        }
        say_columns(j);
        for (int k = 0; k < j->texts; k++)
            print_pair(j, j->paths.p[i], k);
        fflush(stdout);
        cl_progress_show(&j->progress, i + 1, j->paths.n);
    }
    return 0;
}

static int take_texts(job *j, oc_err *err)
{
    oc_engine *e = j->session->engine;
    size_t n = (size_t)j->texts;
    int cut = 0;
    j->rows = bs_alloc(n * (size_t)oc_embedding_width(e) * sizeof *j->rows, "the texts' vectors", err);
    j->ids = bs_calloc(n, sizeof *j->ids, "the texts", err);
    j->itc = bs_alloc(n * sizeof *j->itc, "scores", err);
    j->itm = oc_can_match(e) ? bs_alloc(n * sizeof *j->itm, "scores", err) : NULL;
    if (!j->rows || !j->ids || !j->itc || (oc_can_match(e) && !j->itm) ||
        oc_embed_texts(j->session, j->words.p + 1, j->texts, j->rows, err))
        return -1;
    for (int i = 0; j->itm && i < j->texts; i++)
        if (rn_encode_pair(e, text_of(j, i), &j->ids[i], &cut, err))
            return -1;
    if (oc_last_cut(j->session))
        cl_say(&j->common, "ocelli match: %d of %d texts were longer than %ld tokens and are cut, their end token kept\n",
               oc_last_cut(j->session), j->texts, e->sizes.max_tokens);
    return 0;
}

static int run_job(job *j, oc_err *err)
{
    int result = -1;
    cl_texts first = {j->words.p, 1};
    if (cl_expand_pictures(&first, &j->paths, err))
        return -1;
    j->texts = j->words.n - 1;
    if (!j->common.batch) /* of a few texts and a picture at a time */
        j->common.batch = j->texts < 32 ? j->texts : 32;
    oc_engine *e = cl_open(&j->common, err);
    j->session = e ? oc_session_open(e, err) : NULL;
    if (j->session && j->common.enc && !oc_can_match(e))
        bs_err(err, "--enc-token: the model '%s' (%s) has no head that matches a picture with a text", e->model->folder, oc_family(e));
    else if (j->session && !take_texts(j, err))
        result = match_all(j, err);
    cl_progress_end(&j->progress);
    oc_session_close(j->session);
    oc_engine_close(e);
    return result;
}

static void clear(job *j)
{
    for (int i = 0; j->ids && i < j->texts; i++)
        tx_ids_clear(&j->ids[i]);
    bs_free(j->ids);
    bs_free(j->rows);
    bs_free(j->itc);
    bs_free(j->itm);
    cl_texts_free(&j->paths);
    cl_texts_clear(&j->words);
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self};
    oc_err err = {0};
    const cl_option options[] = {
        {"enc-token", NULL, CL_FLAG, &j.common.enc, CL_ENC_HELP, 0, 0},
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &j.words);
    if (code < 0 && j.words.n < 2)
        code = cl_usage(self, "expected IMAGE TEXT");
    if (code < 0)
        code = cl_done(self, run_job(&j, &err) ? cl_fail(self, &err) : j.failed ? CL_FAILED : CL_OK);
    clear(&j);
    return code;
}

const cl_command cmd_match = {
    "match", "how well pictures and texts belong together", "--model M (IMAGE | FOLDER | @LIST) TEXT...",
    "  ocelli match photo.jpg 'a dog on the beach'\n"
    "  ocelli match --model blip-itm-base-coco photo.jpg 'a dog on the beach' 'a cat' --json\n"
    "  ocelli match --model blip-itm-base-coco --enc-token ~/photos 'a dog on the beach'\n\n"
    "itc is the cosine of the two vectors. itm, where the model has that head (BLIP), is the probability that both belong together, by a text that was read\n"
    "while looking at the picture.\n",
    run};
