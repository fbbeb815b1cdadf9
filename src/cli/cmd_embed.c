/* cmd_embed.c - vectors of pictures or texts. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    cl_texts pictures, texts;
    const char *npy;
    bool from_stdin, normalize;
    oc_session *session;
    bs_out out;   /* --npy */
    long written; /* rows of it */
    int failed;
} job;

static int emit(job *j, const char *kind, const char *name, const float *row, oc_err *err)
{
    int width = oc_embedding_width(j->session->engine);
    if (j->npy) {
        j->written++;
        return bs_out_write(&j->out, row, (size_t)width * sizeof *row, err);
    }
    if (j->common.json) {
        printf("{\"%s\":", kind);
        cl_json_text(name);
        printf(",\"embedding\":");
        cl_json_floats(row, width);
        printf("}\n");
        return 0;
    }
    printf("%s\t", name);
    for (int i = 0; i < width; i++)
        printf("%s%.6g", i ? " " : "", (double)row[i]);
    printf("\n");
    return 0;
}

/* One batch; files that cannot be read are said and left out. */
static int embed_files(job *j, const char *const *paths, int n, float *rows, oc_err *errors, oc_err *err)
{
    int width = oc_embedding_width(j->session->engine);
    int result = oc_embed_files(j->session, paths, n, rows, errors, err);
    for (int i = 0; !result && i < n; i++) {
        if (!errors[i].text[0]) {
            result = emit(j, "image", paths[i], rows + (long)i * width, err);
            continue;
        }
        fprintf(stderr, "ocelli embed: %s\n", errors[i].text);
        j->failed++;
    }
    fflush(stdout); /* who reads along need not wait for the next batch */
    return result;
}

static int embed_pictures(job *j, const cl_texts *paths, float *rows, oc_err *err)
{
    int batch = j->session->engine->options.max_batch;
    oc_err *errors = bs_calloc((size_t)batch, sizeof *errors, "a batch of pictures", err);
    int result = errors ? 0 : -1;
    cl_progress progress;
    cl_progress_start(&progress, &j->common, "embedding");
    for (int i = 0; !result && i < paths->n; i += batch) {
        int n = paths->n - i < batch ? paths->n - i : batch;
        result = embed_files(j, paths->p + i, n, rows, errors, err);
        cl_progress_show(&progress, i + n, paths->n);
    }
    cl_progress_end(&progress);
    bs_free(errors);
    return result;
}

static int embed_texts(job *j, float *rows, oc_err *err)
{
    int batch = rn_texts_at_once(j->session->engine), width = oc_embedding_width(j->session->engine);
    for (int i = 0; i < j->texts.n; i += batch) {
        int n = j->texts.n - i < batch ? j->texts.n - i : batch;
        if (oc_embed_texts(j->session, j->texts.p + i, n, rows, err))
            return -1;
        if (oc_last_cut(j->session))
            cl_say(&j->common, "ocelli embed: %d of %d texts were longer than %ld tokens and are cut, their end token kept\n",
                   oc_last_cut(j->session), n, j->session->engine->sizes.max_tokens);
        for (int k = 0; k < n; k++)
            if (emit(j, "text", j->texts.p[i + k], rows + (long)k * width, err))
                return -1;
        fflush(stdout);
    }
    return 0;
}

/* NumPy's format 1.0 (NEP 1): a header of fixed length, so that the number of rows can be put in at the end. */
static int npy_header(job *j, long rows, oc_err *err)
{
    char head[128], text[118];
    int n = snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (%ld, %d), }", rows,
                     oc_embedding_width(j->session->engine));
    memset(text + n, ' ', sizeof text - (size_t)n);
    text[sizeof text - 1] = '\n';
    memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(head + 10, text, sizeof text);
    if (fseek(j->out.f, 0, SEEK_SET))
        return bs_err(err, "cannot write '%s': a NumPy file starts with its length, so it cannot go into a pipe", j->npy);
    return bs_out_write(&j->out, head, sizeof head, err);
}

static int embed_all(job *j, const cl_texts *paths, oc_err *err)
{
    size_t width = (size_t)oc_embedding_width(j->session->engine);
    float *rows = bs_alloc((size_t)rn_texts_at_once(j->session->engine) * width * sizeof *rows, "embeddings", err);
    int result = -1;
    if (!rows || (j->npy && (bs_out_open(&j->out, j->npy, err) || npy_header(j, 0, err))))
        goto done;
    if (embed_pictures(j, paths, rows, err) || embed_texts(j, rows, err))
        goto done;
    result = j->npy ? npy_header(j, j->written, err) || bs_out_commit(&j->out, err) ? -1 : 0 : 0;
done:
    bs_out_abort(&j->out);
    bs_free(rows);
    return result;
}

static int run_job(job *j, oc_err *err)
{
    int result = -1;
    bs_buf hold = {0};
    cl_texts paths = {0};
    oc_engine *e = cl_open(&j->common, err);
    j->session = e ? oc_session_open(e, err) : NULL;
    if (!j->session || (j->from_stdin && cl_read_lines(&j->texts, &hold, "-", false, err)) ||
        cl_expand_pictures(&j->pictures, &paths, err))
        goto done;
    j->session->raw = !j->normalize;
    result = embed_all(j, &paths, err);
done:
    bs_buf_clear(&hold);
    cl_texts_free(&paths);
    oc_session_close(j->session);
    oc_engine_close(e);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self};
    oc_err err = {0};
    const cl_option options[] = {
        {"text", "S...", CL_MORE, &j.texts, "texts to embed", 0, 0},
        {"stdin", NULL, CL_FLAG, &j.from_stdin, "texts from standard input, a line each", 0, 0},
        {"npy", "FILE", CL_TEXT, &j.npy, "write all rows as one NumPy array instead", 0, 0},
        {"normalize", NULL, CL_FLAG, &j.normalize, "rows of length 1, so that a dot product is a cosine", 0, 0},
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &j.pictures);
    if (code >= 0)
        goto done;
    if (!j.pictures.n && !j.texts.n && !j.from_stdin)
        code = cl_usage(self, "expected pictures, folders, --text or --stdin");
    else
        code = cl_done(self, run_job(&j, &err) ? cl_fail(self, &err) : j.failed ? CL_FAILED : CL_OK);
done:
    cl_texts_clear(&j.pictures);
    cl_texts_clear(&j.texts);
    return code;
}

const cl_command cmd_embed = {"embed", "vectors of pictures or texts", "--model M (IMAGE... | FOLDER... | --text S... | --stdin)",
                              "  ocelli embed --json photo.jpg\n  ocelli embed --json @list.txt      # a path a line\n  ocelli "
                              "embed --text 'a red apple' '一个红苹果'\n  ocelli embed "
                              "--npy photos.npy ~/photos\n"
                              "  cut -f2 captions.tsv | ocelli embed --stdin --npy captions.npy\n",
                              run};
