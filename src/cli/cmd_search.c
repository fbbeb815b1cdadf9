/* cmd_search.c - the pictures of an index that fit a sentence or a picture best. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "judge.h"
#include "search_lines.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    const char *db, *image, *lines, *rerank;
    int top, judged; /* hits; those that are ordered anew */
    bool from_stdin;
    cl_texts texts; /* the queries */
    ix_library *library;
    oc_engine *engine;
    oc_session *session;
    cl_judge judge; /* --rerank */
    char id[IX_ID];
    char *here; /* the working folder */
    bool failed; /* a picture is gone, which was told */
} job;

/* ---- output ---------------------------------------------------------------------------------------------------------------- */

/* A path that opens from here: below the working folder relative to it, else absolute. free() it. */
static char *path_from_here(const job *j, const char *path)
{
    char *full = bs_join(ix_root(j->library), path);
    size_t n = j->here ? strlen(j->here) : 0;
    if (!full || !n || strncmp(full, j->here, n) || (n > 1 && full[n] != '/'))
        return full;
    char *below = bs_strdup(full + n + (n > 1));
    free(full);
    return below;
}

/* What a hit was ordered by: the judge's probability, if there was one and it could see the picture, else the cosine. */
static void print_score(const job *j, const ix_hit *hit, const float *together)
{
    const char *number = j->common.json ? "%.6f" : "%.4f";
    if (j->common.json)
        printf("\"score\":");
    if (together && *together < 0)
        printf(j->common.json ? "null" : "     -");
    else
        printf(number, together ? (double)*together : (double)hit->score);
    if (!together)
        return;
    printf(j->common.json ? ",\"cosine\":" : "  ");
    printf(number, (double)hit->score);
}

static void print_hit(const job *j, const char *query, const ix_hit *hit, const float *together)
{
    char *path = path_from_here(j, hit->path);
    const char *shown = path ? path : hit->path;
    float probability = 0;
    bool judged = !j->image && rn_judges_pairs(j->engine);
    if (judged)
        oc_probabilities(j->engine, &hit->score, 1, &probability);
    if (j->common.json) {
        printf("{\"path\":");
        cl_json_text(shown);
        putchar(',');
        print_score(j, hit, together);
        printf(",\"deviations\":%.3f", (double)hit->deviations);
        if (judged)
            printf(",\"probability\":%.6f", (double)probability);
        if (j->from_stdin) {
            printf(",\"query\":");
            cl_json_text(query);
        }
        printf("}\n");
    } else {
        print_score(j, hit, together);
        printf("  %+5.1f  ", (double)hit->deviations);
        if (judged)
            printf("%6.4f  ", (double)probability);
        printf("%s\n", shown);
    }
    free(path);
}

static void print_hits(const job *j, const char *query, const ix_hits *hits)
{
    if (j->from_stdin && !j->common.json)
        printf("%s\n", query);
    for (int i = 0; i < hits->n && i < j->top; i++)
        print_hit(j, query, &hits->p[i], j->rerank ? &j->judge.together[i] : NULL);
}

/* ---- lines of a text ------------------------------------------------------------------------------------------------------ */

static int embed_picture(job *j, float *row, oc_err *err)
{
    oc_err why;
    int result = oc_embed_files(j->session, &j->image, 1, row, &why, err);
    return !result && why.text[0] ? bs_err(err, "%s", why.text) : result;
}

static int search_lines(job *j, oc_err *err)
{
    cl_lines l = {0};
    int all = j->image ? 1 : j->texts.n, result = cl_lines_open(&l, j->lines, j->session, &j->common, err);
    for (int i = 0; !result && i < all; i++) {
        const char *query = j->image ? j->image : j->texts.p[i];
        result = j->image ? embed_picture(j, l.query, err) : oc_embed_texts(j->session, &query, 1, l.query, err);
        if (!result)
            cl_lines_print(&l, j->session, query, j->from_stdin, j->top, j->common.json);
    }
    cl_lines_close(&l);
    return result;
}

/* ---- work ------------------------------------------------------------------------------------------------------------------- */

static int open_library(job *j, oc_err *err)
{
    char *found = j->db ? bs_strdup(j->db) : ix_find(".", err);
    j->library = found ? ix_open(found, NULL, err) : NULL;
    free(found);
    return j->library ? 0 : bs_err(err, "out of memory: a database's name");
}

static int open_model(job *j, oc_err *err)
{
    cl_common own = j->common;
    own.enc = false; /* only the judge reads words beside pictures */
    if (!own.batch && !j->lines) /* a single query needs no room for 32 */
        own.batch = j->image ? 1 : j->texts.n < 32 ? j->texts.n : 32;
    j->engine = cl_open(&own, err);
    j->session = j->engine ? oc_session_open(j->engine, err) : NULL;
    if (!j->session || (!j->lines && ix_model_id(j->engine, j->id, err)))
        return -1;
    return j->rerank ? cl_judge_open(&j->judge, j->self, &j->common, j->rerank, j->judged, err) : 0;
}

static int check_model(const job *j, oc_err *err)
{
    ix_counts counts;
    char name[256];
    if (ix_vectors_of(j->library, j->id, &counts, name, err))
        return -1;
    const char *model = j->engine->model->folder;
    if (!counts.pictures && !counts.others)
        return bs_err(err, "the database holds no pictures: `ocelli index '%s'` fills it", ix_root(j->library));
    if (!counts.pictures)
        return bs_err(
            err, "the database's vectors are of another model ('%s', not '%s'%s): name that one with --model, or index again",
            name, model, j->common.lora ? " with this adapter" : "");
    if (counts.others)
        cl_say(&j->common, "ocelli search: %ld of %ld pictures have vectors of another model and are left out (index again)\n",
               counts.others, counts.others + counts.pictures);
    return 0;
}

/* Up to a batch of queries from `at` on. */
static int search_batch(job *j, int at, int n, float *rows, ix_hits *hits, oc_err *err)
{
    if (j->image ? embed_picture(j, rows, err) : oc_embed_texts(j->session, j->texts.p + at, n, rows, err))
        return -1;
    if (!j->image && oc_last_cut(j->session))
        cl_say(&j->common, "ocelli search: %d of %d queries were longer than %ld tokens and are cut, their end token kept\n",
               oc_last_cut(j->session), n, j->engine->sizes.max_tokens);
    if (ix_search(j->library, j->session, j->id, rows, n, j->rerank ? j->judged : j->top, hits, err))
        return -1;
    int result = 0;
    for (int i = 0; i < n; i++) {
        const char *query = j->image ? j->image : j->texts.p[at + i];
        if (!result && j->rerank)
            result = cl_judge_hits(&j->judge, ix_root(j->library), query, &hits[i], j->judged, err);
        if (!result)
            print_hits(j, query, &hits[i]);
        ix_hits_clear(&hits[i]);
    }
    return result;
}

static int search_all(job *j, oc_err *err)
{
    int all = j->image ? 1 : j->texts.n, batch = j->engine->options.max_batch, result = -1;
    float *rows = bs_calloc((size_t)batch * (size_t)oc_embedding_width(j->engine), sizeof *rows, "the queries", err);
    ix_hits *hits = bs_calloc((size_t)batch, sizeof *hits, "the best pictures", err);
    if (!rows || !hits)
        goto done;
    if (!j->common.json)
        cl_say(&j->common, "%sstands out by (standard deviations above the mean of all pictures)%s\n",
               j->rerank ? "match   cosine  " : "score   ", !j->image && rn_judges_pairs(j->engine) ? "  probability" : "");
    for (int i = 0; i < all; i += batch)
        if (search_batch(j, i, all - i < batch ? all - i : batch, rows, hits, err))
            goto done;
    result = 0;
done:
    bs_free(rows);
    bs_free(hits);
    return result;
}

/* Several words without quotes are one query. */
static char *join_words(const cl_texts *words, oc_err *err)
{
    bs_buf b = {0};
    for (int i = 0; i < words->n; i++)
        if (bs_buf_printf(&b, err, "%s%s", i ? " " : "", words->p[i])) {
            bs_buf_clear(&b);
            return NULL;
        }
    return b.p;
}

static int run_job(job *j, const cl_texts *words, oc_err *err)
{
    bs_buf hold = {0};
    char *query = NULL;
    int result = -1;
    j->here = realpath(".", NULL);
    if ((!j->lines && open_library(j, err)) || (j->from_stdin && cl_read_lines(&j->texts, &hold, "-", false, err)))
        goto done;
    if (words->n && (!(query = join_words(words, err)) || cl_texts_add(&j->texts, query)))
        goto done;
    result = j->from_stdin && !j->texts.n                                                                          ? 0
             : open_model(j, err) || (j->lines ? search_lines(j, err) : check_model(j, err) || search_all(j, err)) ? -1
                                                                                                                   : 0;
done:
    free(j->here);
    free(query);
    bs_buf_clear(&hold);
    j->failed = j->judge.failed > 0;
    cl_judge_close(&j->judge);
    ix_close(j->library);
    oc_session_close(j->session);
    oc_engine_close(j->engine);
    return result;
}

/* -1 to go on, or the exit code of wrong usage. */
static int check_rerank(job *j)
{
    if (!j->rerank)
        return j->judged || j->common.enc ? cl_usage(j->self, "%s goes with --rerank", j->judged ? "--rerank-top" : "--enc-token") : -1;
    if (j->image || j->lines)
        return cl_usage(j->self, "--rerank matches words with pictures: it does not go with %s", j->image ? "--image" : "--lines");
    if (j->judged && j->judged < j->top)
        return cl_usage(j->self, "--rerank-top %d is fewer than the %d hits that are asked for (--top)", j->judged, j->top);
    if (!j->judged)
        j->judged = j->top > CL_JUDGED ? j->top : CL_JUDGED;
    return -1;
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self, .top = 10};
    oc_err err = {0};
    cl_texts words = {0};
    const cl_option options[] = {
        {"db", "FILE", CL_TEXT, &j.db, "the database (" IX_DEFAULT_NAME " here or in the nearest folder above)", 0, 0},
        {"image", "FILE", CL_TEXT, &j.image, "a picture instead of words", 0, 0},
        {"lines", "FILE", CL_TEXT, &j.lines, "search the lines of this text instead, by meaning", 0, 0},
        {"top", "K", CL_INT, &j.top, "so many of the best (10)", 1, 1e9},
        {"rerank", "MODEL", CL_TEXT, &j.rerank, "a model that matches pictures with texts (BLIP) orders the first hits anew", 0, 0},
        {"rerank-top", "N", CL_INT, &j.judged, "so many of them (100, or as many as --top)", 1, 1e9},
        {"enc-token", NULL, CL_FLAG, &j.common.enc, "with --rerank: " CL_ENC_HELP, 0, 0},
        {"stdin", NULL, CL_FLAG, &j.from_stdin, "queries from standard input, a line each", 0, 0},
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &words);
    if (code < 0 && (words.n > 0) + (j.image != NULL) + j.from_stdin != 1)
        code = cl_usage(self, "expected one of TEXT, --image and --stdin");
    if (code < 0 && j.lines && j.db)
        code = cl_usage(self, "--lines and --db: expected one of them");
    if (code < 0)
        code = check_rerank(&j);
    if (code < 0)
        code = cl_done(self, run_job(&j, &words, &err) ? cl_fail(self, &err) : j.failed ? CL_FAILED : CL_OK);
    cl_texts_clear(&j.texts);
    cl_texts_clear(&words);
    return code;
}

const cl_command cmd_search = {
    "search", "the pictures of an index, or the lines of a text, that fit a sentence or a picture best",
    "[--db FILE | --lines FILE] [--model M] [--top K] (TEXT | --image FILE | --stdin)",
    "  ocelli search 'a dog on the beach'       # looks in " IX_DEFAULT_NAME " here or above\n"
    "  ocelli search --top 3 --json 一只猫\n  ocelli search --db ~/photos/" IX_DEFAULT_NAME " --image sketch.png\n"
    "  ocelli search --stdin --json < queries.txt\n"
    "  ocelli search --rerank blip-itm-base-coco 'two dogs, one of them asleep'\n"
    "  ocelli search --model all-MiniLM-L6-v2 --lines notes.txt 'how do I reset it'\n\n"
    "The score is the cosine of the two vectors. How many standard deviations it lies above the mean "
    "of all pictures tells whether a hit stands\n"
    "out: in a folder without any dog the best `dog` is still the best, but hardly above the rest.\n"
    "With --rerank the score is the probability that words and picture belong together, by a model that looks at both (slower).\n",
    run};
