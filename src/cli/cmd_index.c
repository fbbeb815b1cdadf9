/* cmd_index.c - a folder of pictures into a database that `search` looks through. */
#include <stdlib.h>
#include <string.h>

#include "../index/index.h"
#include "cli.h"

typedef struct job {
    const cl_command *self;
    cl_common common;
    const char *db;
    bool retry;
    cl_progress progress;
    ix_report report;
} job;

/* ---- talk --------------------------------------------------------------------------------------------------------------- */

static void trouble(void *arg, const char *line)
{
    job *j = arg;
    cl_progress_end(&j->progress);
    fprintf(stderr, "ocelli index: %s\n", line);
}

static void word(void *arg, const char *line)
{
    job *j = arg;
    cl_progress_end(&j->progress);
    cl_say(&j->common, "ocelli index: %s\n", line);
}

static void progress(void *arg, long done, long all)
{
    job *j = arg;
    cl_progress_show(&j->progress, done, all);
}

static void print_report(const job *j, const char *db)
{
    const ix_report *r = &j->report;
    if (j->common.json) {
        printf("{\"added\":%ld,\"changed\":%ld,\"removed\":%ld,\"failed\":%ld,\"reencoded\":%ld,\"failed_before\":%ld,"
               "\"unsupported\":%ld,"
               "\"db\":",
               r->added, r->changed, r->removed, r->failed, r->reencoded, r->failed_before, r->unsupported);
        cl_json_text(db);
        printf("}\n");
        return;
    }
    printf("%ld added, %ld changed, %ld removed, %ld failed: '%s'\n", r->added, r->changed, r->removed, r->failed, db);
}

/* ---- work --------------------------------------------------------------------------------------------------------------- */

/* The database is opened first: what is wrong with it is said before a model is loaded. */
static int run_job(job *j, const char *dir, const char *db, oc_err *err)
{
    ix_options o = {.retry = j->retry, .talk = {trouble, word, progress, j}};
    oc_engine *e = NULL;
    oc_session *s = NULL;
    int result = -1;
    ix_library *l = bs_is_dir(dir) ? ix_open(db, dir, err) : NULL;
    if (!bs_is_dir(dir))
        bs_err(err, "'%s' is not a folder", dir);
    if (!l)
        goto done;
    e = cl_open(&j->common, err);
    s = e ? oc_session_open(e, err) : NULL;
    if (!s)
        goto done;
    cl_progress_start(&j->progress, &j->common, "indexing");
    result = ix_update(l, s, &o, &j->report, err);
    cl_progress_end(&j->progress);
    if (!result)
        print_report(j, db);
    if (!result && j->report.stopped)
        result = bs_err(err, "stopped: what was done is kept, the same command goes on from there");
done:
    ix_close(l);
    oc_session_close(s);
    oc_engine_close(e);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self};
    oc_err err = {0};
    cl_texts rest = {0};
    const cl_option options[] = {
        {"db", "FILE", CL_TEXT, &j.db, "the database (DIR/" IX_DEFAULT_NAME ")", 0, 0},
        {"retry", NULL, CL_FLAG, &j.retry, "pictures that failed before once more, though they have not changed", 0, 0},
        {"fast-decode", NULL, CL_FLAG, &j.common.fast, CL_FAST_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &rest);
    if (code < 0 && rest.n != 1)
        code = cl_usage(self, "expected one folder");
    if (code < 0) {
        char *db = j.db ? bs_strdup(j.db) : bs_join(rest.p[0], IX_DEFAULT_NAME);
        bs_stop_on_signal();
        bool failed = db ? run_job(&j, rest.p[0], db, &err) : bs_err(&err, "out of memory: a file's name");
        code = cl_done(self, failed ? cl_fail(self, &err) : j.report.failed || j.report.troubles ? CL_FAILED : CL_OK);
        free(db);
    }
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_index = {"index", "a folder of pictures into a database that `search` looks through",
                              "[--db FILE] [--model M] DIR",
                              "  ocelli index ~/photos                  # makes or updates ~/photos/" IX_DEFAULT_NAME "\n"
                              "  ocelli index --db photos.db ~/photos   # for a folder that cannot be written\n\n"
                              "Only new and changed files (by size and time) are encoded; those that are gone are forgotten. "
                              "Another --model encodes all of them again.\n"
                              "Links are followed. A picture that cannot be read is said, and tried again when it has changed. "
                              "Stop it at any time: the next run goes on.\n",
                              run};
