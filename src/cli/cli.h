/* cli.h - what every command shares: its row in the table, switches that are parsed and explained from one list,
 * exit codes, JSON on stdout, talk on stderr. */
#ifndef CL_CLI_H
#define CL_CLI_H

#include "../run/engine.h"

enum { CL_OK = 0, CL_FAILED = 1, CL_USAGE = 2 };

typedef struct cl_command {
    const char *name;
    const char *summary;  /* one line */
    const char *usage;    /* what follows the name */
    const char *examples; /* whole lines, and anything worth saying at the end of --help */
    int (*run)(const struct cl_command *self, int argc, char **argv);
} cl_command;

typedef enum cl_kind { CL_FLAG, CL_INT, CL_UINT64, CL_FLOAT, CL_TEXT, CL_TEXTS, CL_MORE } cl_kind;

typedef struct cl_texts {
    const char **p;
    int n;
} cl_texts;

/* A switch `--name VALUE` (or `--name=VALUE`); `to` is bool, int, uint64_t, float, const char *, or cl_texts (may be given again;
 * CL_MORE also takes every following word up to the next switch). */
typedef struct cl_option {
    const char *name, *value; /* value: what it is called in the help; NULL for a flag */
    cl_kind kind;
    void *to;
    const char *help;
    double lo, hi; /* range of a number; both 0: any from 0 up */
} cl_option;

/* Switches that most commands have. */
typedef struct cl_common {
    const char *model, *lora, *dtype;
    int threads, batch;
    uint64_t seed, max_pixels;
    bool json, quiet;
    bool fast; /* CL_FAST_HELP; not every command has it, nor */
    bool enc;  /* CL_ENC_HELP */
} cl_common;
#define CL_CAPTIONER "starter-caption" /* that ships; `starter` itself says nothing */
#define CL_ENC_HELP "BLIP: texts read beside a picture begin with [ENC], as published figures have it (BlipForPretraining: always)"
#define CL_FAST_HELP "JPEGs at 1/2, 1/4 or 1/8: faster, pixels not exactly Pillow's"

/* Parses argv (after the command's name) into options and common switches; words that are no switch go to rest. Returns -1 to go on, or the
 * exit code: after --help 0, after a mistake 2 with one line on stderr. */
int cl_parse(const cl_command *c, int argc, char **argv, const cl_option *options, cl_common *common, cl_texts *rest);
/* One line "ocelli COMMAND: what is wrong" and the exit code 2. */
int cl_usage(const cl_command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* One line "ocelli COMMAND: what failed" and the exit code 1. */
int cl_fail(const cl_command *c, const oc_err *err);
/* Talk on stderr, unless --quiet. */
void cl_say(const cl_common *common, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Standard output: everything buffered is flushed; CL_FAILED and a line when it cannot be written (a full disk), else `code`. */
int cl_done(const cl_command *c, int code);
void cl_json_text(const char *text);         /* prints a JSON string */
void cl_json_ids(const int32_t *ids, long n);
void cl_json_floats(const float *x, long n); /* prints an array; shortest form that reads back the same */

/* Splits DIR[:SCALE] (a folder whose name has a colon is a folder): the folder, which the caller frees, and the scale (1 when not given). */
char *cl_lora_folder(const char *text, float *scale, oc_err *err);

/* Are both names the same file or folder? False when one of them is not there. */
bool cl_same_place(const char *a, const char *b);

/* What --dtype says (OC_AUTO: nothing). */
oc_dtype cl_dtype(const cl_common *common);
/* The engine that --model, --lora, --threads, --batch name; NULL and an error. */
oc_engine *cl_open(const cl_common *common, oc_err *err);
/* Adds the lines of a file ("-": stdin), without empty ones unless keep_empty. `hold` keeps the bytes; both are cleared by the caller. */
int cl_read_lines(cl_texts *lines, bs_buf *hold, const char *path, bool keep_empty, oc_err *err);
int cl_texts_add(cl_texts *t, const char *text);
void cl_texts_clear(cl_texts *t);

/* Replaces folders in `paths` by the pictures below them (.jpg .jpeg .png .webp, sorted; links to folders are not followed) and
 * @FILE by the paths in it, a line each; other paths stay. The new list owns its strings. */
int cl_expand_pictures(const cl_texts *paths, cl_texts *out, oc_err *err);
void cl_texts_free(cl_texts *t); /* strings too */

/* Copies what a model's folder holds beside its weights: configuration, tokenizer, processor, notices. */
int cl_copy_model_files(const char *from, const char *to, oc_err *err);
/* Where the model is said never to have learned to answer, its copy in `to` is said to have. */
int cl_say_it_answers(const md_model *m, const char *to, oc_err *err);

/* A line on a terminal that tells how far long work is, and the time left. */
typedef struct cl_progress {
    bool on;
    double start, shown;
    const char *what;
} cl_progress;
void cl_progress_start(cl_progress *p, const cl_common *common, const char *what);
void cl_progress_show(cl_progress *p, long done, long all);
void cl_progress_end(cl_progress *p);

extern const cl_command *const cl_commands[]; /* main.c; ends with NULL */

#endif
