/* cli.c - switches, help, talk. */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- talk ------------------------------------------------------------------------------------------------------ */

int cl_usage(const cl_command *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "ocelli %s: ", c->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (see ocelli %s --help)\n", c->name);
    va_end(args);
    return CL_USAGE;
}

int cl_fail(const cl_command *c, const oc_err *err)
{
    fprintf(stderr, "ocelli %s: %s\n", c->name, err->text[0] ? err->text : "failed");
    return CL_FAILED;
}

void cl_say(const cl_common *common, const char *format, ...)
{
    if (common->quiet)
        return;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

int cl_done(const cl_command *c, int code)
{
    errno = 0;
    if (!fflush(stdout) && !ferror(stdout))
        return code;
    fprintf(stderr, "ocelli %s: cannot write standard output: %s\n", c->name, strerror(errno ? errno : EIO));
    return CL_FAILED;
}

void cl_json_text(const char *text)
{
    bs_buf b = {0};
    oc_err err = {0};
    if (!ck_json_string(&b, text, &err))
        fwrite(b.p, 1, b.n, stdout);
    bs_buf_clear(&b);
}

void cl_json_ids(const int32_t *ids, long n)
{
    putchar('[');
    for (long i = 0; i < n; i++)
        printf("%s%d", i ? "," : "", (int)ids[i]);
    putchar(']');
}

void cl_json_floats(const float *x, long n)
{
    putchar('[');
    for (long i = 0; i < n; i++)
        printf("%s%.9g", i ? "," : "", (double)x[i]);
    putchar(']');
}

oc_dtype cl_dtype(const cl_common *common)
{
    static const char *const names[] = {[OC_FP32] = "fp32", [OC_BF16] = "bf16", [OC_INT8] = "int8", [OC_INT4] = "int4"};
    for (int i = OC_FP32; common->dtype && i <= OC_INT4; i++)
        if (!strcmp(common->dtype, names[i]))
            return (oc_dtype)i;
    return OC_AUTO;
}

/* ---- switches ---------------------------------------------------------------------------------------------------- */

enum { COMMON = 9 };

static void common_options(cl_common *c, cl_option o[COMMON + 1])
{
    cl_option list[COMMON + 1] = {
        {"model", "MODEL", CL_TEXT, &c->model, "model folder in Hugging Face's layout, or one that ships: `starter` (the default unless said below), `starter-caption`", 0, 0},
        {"lora", "DIR[:SCALE]", CL_TEXT, &c->lora, "apply a PEFT adapter", 0, 0},
        {"dtype", "TYPE", CL_TEXT, &c->dtype, "fp32, bf16, int8 or int4 weights; training: fp32 or bf16 products", 0, 0},
        {"threads", "N", CL_INT, &c->threads, "threads (one per core)", 1, 1024},
        {"batch", "N", CL_INT, &c->batch, "rows at once (32 unless said below)", 1, 65536},
        {"seed", "N", CL_UINT64, &c->seed, "seed of everything random (0)", 0, 1.8e19},
        {"max-pixels", "N", CL_UINT64, &c->max_pixels, "refuse larger pictures (178956970)", 1, 1.8e19},
        {"json", NULL, CL_FLAG, &c->json, "one JSON object a line on standard output", 0, 0},
        {"quiet", NULL, CL_FLAG, &c->quiet, "no talk on standard error", 0, 0},
    };
    memcpy(o, list, sizeof list);
}

static void print_option(const cl_option *o)
{
    char left[64];
    snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    printf("  %-26s %s\n", left, o->help);
}

static void print_help(const cl_command *c, const cl_option *own, const cl_option *common)
{
    printf("ocelli %s - %s\n\nusage: ocelli %s %s\n\n", c->name, c->summary, c->name, c->usage);
    for (const cl_option *o = own; o && o->name; o++)
        print_option(o);
    printf("\ncommon switches:\n");
    for (const cl_option *o = common; o->name; o++)
        print_option(o);
    printf("\nexamples:\n%s\nexit codes: 0 all done; 1 something asked for could not be done; 2 wrong usage\n", c->examples);
}

static const cl_option *find_option(const cl_option *o, const char *name, size_t n)
{
    for (; o && o->name; o++)
        if (strlen(o->name) == n && !strncmp(o->name, name, n))
            return o;
    return NULL;
}

static int set_number(const cl_command *c, const cl_option *o, const char *text)
{
    char *end;
    errno = 0;
    double x = strtod(text, &end);
    bool whole = o->kind != CL_FLOAT, bounded = o->lo < o->hi;
    if (end == text || *end || errno || !isfinite(x) || (whole && x != floor(x)) || x < (bounded ? o->lo : 0) ||
        x > (bounded ? o->hi : 1e9))
        return cl_usage(c, "--%s: '%s' is not %s from %g to %g", o->name, text, whole ? "a whole number" : "a number",
                        bounded ? o->lo : 0, bounded ? o->hi : 1e9);
    if (o->kind == CL_INT)
        *(int *)o->to = (int)x;
    else if (o->kind == CL_UINT64)
        *(uint64_t *)o->to = strtoull(text, NULL, 10);
    else
        *(float *)o->to = (float)x;
    return -1;
}

static int set_option(const cl_command *c, const cl_option *o, const char *text)
{
    switch (o->kind) {
    case CL_FLAG: *(bool *)o->to = true; return -1;
    case CL_TEXT: *(const char **)o->to = text; return -1;
    case CL_TEXTS:
    case CL_MORE: return cl_texts_add(o->to, text) ? cl_usage(c, "out of memory") : -1;
    default: return set_number(c, o, text);
    }
}

static int parse_switch(const cl_command *c, const cl_option *o, int argc, char **argv, int *i, const char *equals)
{
    if (o->kind == CL_FLAG && equals)
        return cl_usage(c, "--%s takes no value", o->name);
    if (o->kind != CL_FLAG && !equals && *i + 1 >= argc)
        return cl_usage(c, "--%s needs a value: %s", o->name, o->value);
    int code = set_option(c, o, o->kind == CL_FLAG ? NULL : equals ? equals + 1 : argv[++*i]);
    while (code < 0 && o->kind == CL_MORE && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0)
        code = set_option(c, o, argv[++*i]);
    return code;
}

int cl_parse(const cl_command *c, int argc, char **argv, const cl_option *options, cl_common *common, cl_texts *rest)
{
    cl_option shared[COMMON + 1];
    common_options(common, shared);
    bool words_only = false;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        if (words_only || strncmp(a, "--", 2) != 0) {
            if (!words_only && !strcmp(a, "-h")) {
                print_help(c, options, shared);
                return cl_done(c, CL_OK);
            }
            if (!words_only && a[0] == '-' && a[1])
                return cl_usage(c, "there is no switch '%s'", a);
            if (cl_texts_add(rest, a))
                return cl_usage(c, "out of memory");
            continue;
        }
        if (!a[2]) {
            words_only = true;
            continue;
        }
        if (!strcmp(a, "--help")) {
            print_help(c, options, shared);
            return cl_done(c, CL_OK);
        }
        const char *equals = strchr(a, '=');
        size_t n = equals ? (size_t)(equals - a - 2) : strlen(a + 2);
        const cl_option *o = find_option(options, a + 2, n);
        if (!o)
            o = find_option(shared, a + 2, n);
        if (!o)
            return cl_usage(c, "there is no switch '%.*s'", (int)n + 2, a);
        int code = parse_switch(c, o, argc, argv, &i, equals);
        if (code >= 0)
            return code;
    }
    bool trains = !strcmp(c->name, "train") || !strcmp(c->name, "finetune");
    oc_dtype dtype = cl_dtype(common);
    if (common->dtype && (dtype == OC_AUTO || (trains && dtype > OC_BF16)))
        return cl_usage(c, "--dtype: '%s' is not available, expected fp32%s", common->dtype,
                        trains ? " or bf16" : ", bf16, int8 or int4");
    return -1;
}

/* ---- lists -------------------------------------------------------------------------------------------------------- */

int cl_texts_add(cl_texts *t, const char *text)
{
    if ((t->n & (t->n - 1)) == 0) { /* full at every power of two */
        const char **p = realloc(t->p, (size_t)(t->n ? t->n * 2 : 1) * sizeof *p);
        if (!p)
            return -1;
        t->p = p;
    }
    t->p[t->n++] = text;
    return 0;
}

void cl_texts_clear(cl_texts *t)
{
    free(t->p);
    *t = (cl_texts){0};
}

void cl_texts_free(cl_texts *t)
{
    for (int i = 0; i < t->n; i++)
        free((char *)(uintptr_t)t->p[i]);
    cl_texts_clear(t);
}

int cl_read_lines(cl_texts *lines, bs_buf *hold, const char *path, bool keep_empty, oc_err *err)
{
    if (bs_read_file(hold, path, (size_t)1 << 30, err))
        return -1;
    for (char *line = hold->p, *end = hold->p + hold->n; line < end;) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        char *next = stop ? stop + 1 : end;
        if (stop)
            *stop = 0;
        size_t n = strlen(line);
        if (n && line[n - 1] == '\r' && !keep_empty)
            line[n - 1] = 0;
        if ((keep_empty || line[0]) && cl_texts_add(lines, line))
            return bs_err(err, "out of memory: the lines of '%s'", path);
        line = next;
    }
    return 0;
}

static bool picture_name(const char *name)
{
    const char *dot = strrchr(name, '.'), *known[] = {".jpg", ".jpeg", ".png", ".webp"};
    for (size_t i = 0; dot && i < sizeof known / sizeof known[0]; i++)
        if (!strcasecmp(dot, known[i]))
            return true;
    return false;
}

static int add_owned(cl_texts *out, char *text, oc_err *err)
{
    if (text && !cl_texts_add(out, text))
        return 0;
    free(text);
    return bs_err(err, "out of memory: a list of pictures");
}

static bool is_link(const char *path)
{
    struct stat st;
    return !lstat(path, &st) && S_ISLNK(st.st_mode);
}

static int expand_folder(const char *dir, cl_texts *out, oc_err *err)
{
    struct dirent **entry = NULL;
    int n = scandir(dir, &entry, NULL, alphasort), result = 0;
    if (n < 0)
        return bs_err(err, "cannot read the folder '%s': %s", dir, strerror(errno));
    for (int i = 0; i < n; i++) {
        char *path = entry[i]->d_name[0] == '.' ? NULL : bs_join(dir, entry[i]->d_name);
        if (path && !result && bs_is_dir(path))
            result = is_link(path) ? 0 : expand_folder(path, out, err);
        else if (path && !result && picture_name(path)) {
            result = add_owned(out, path, err);
            path = NULL;
        }
        free(path);
        free(entry[i]);
    }
    free(entry);
    return result;
}

static int expand_list(const char *file, cl_texts *out, oc_err *err)
{
    bs_buf hold = {0};
    cl_texts lines = {0};
    int result = cl_read_lines(&lines, &hold, file, false, err);
    for (int i = 0; !result && i < lines.n; i++)
        result = add_owned(out, bs_strdup(lines.p[i]), err);
    cl_texts_clear(&lines);
    bs_buf_clear(&hold);
    return result;
}

int cl_expand_pictures(const cl_texts *paths, cl_texts *out, oc_err *err)
{
    int result = 0;
    for (int i = 0; !result && i < paths->n; i++) {
        const char *path = paths->p[i];
        int before = out->n;
        bool list = path[0] == '@' && !bs_is_file(path);
        if (list)
            result = expand_list(path + 1, out, err);
        else
            result = bs_is_dir(path) ? expand_folder(path, out, err) : add_owned(out, bs_strdup(path), err);
        if (!result && out->n == before)
            result = list ? bs_err(err, "the list '%s' names no picture", path + 1)
                          : bs_err(err, "there are no pictures (.jpg .jpeg .png .webp) in '%s'", path);
    }
    return result;
}

/* ---- engine ------------------------------------------------------------------------------------------------------- */

bool cl_same_place(const char *a, const char *b)
{
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

char *cl_lora_folder(const char *text, float *scale, oc_err *err)
{
    char *folder = bs_strdup(text), *end;
    char *colon = folder && !bs_is_dir(folder) ? strrchr(folder, ':') : NULL;
    *scale = 1;
    if (!colon)
        return folder;
    *scale = strtof(colon + 1, &end);
    *colon = 0;
    if (end != colon + 1 && !*end && isfinite(*scale) && *scale != 0)
        return folder;
    bs_err(err, "--lora: '%s' is not a scale, expected a number that is not 0", colon + 1);
    free(folder);
    return NULL;
}

oc_engine *cl_open(const cl_common *common, oc_err *err)
{
    oc_options o = {.threads = common->threads,
                    .max_batch = common->batch,
                    .max_pixels = common->max_pixels,
                    .dtype = cl_dtype(common),
                    .fast_pixels = common->fast,
                    .enc_token = common->enc};
    char *lora = common->lora ? cl_lora_folder(common->lora, &o.lora_scale, err) : NULL;
    o.lora = lora;
    oc_engine *e = common->lora && !lora ? NULL : oc_engine_open(common->model ? common->model : "starter", &o, err);
    free(lora);
    return e;
}

static int make_folder_of(const char *path, oc_err *err)
{
    char *folder = bs_strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash)
        *slash = 0;
    int result = !folder ? bs_err(err, "out of memory: a file's name") : slash ? bs_mkdirs(folder, err) : 0;
    free(folder);
    return result;
}

int cl_copy_model_files(const char *from, const char *to, oc_err *err)
{
    static const char *const names[] = {"config.json",
                                        "open_clip_config.json",
                                        "tokenizer.json",
                                        "tokenizer.model",
                                        "spiece.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "preprocessor_config.json",
                                        "processor_config.json",
                                        "generation_config.json",
                                        "added_tokens.json",
                                        "vocab.txt",
                                        "modules.json",
                                        "1_Pooling/config.json",
                                        "sentence_bert_config.json",
                                        "NOTICE",
                                        "NOTICE.md",
                                        "LICENSE"};
    int result = 0;
    bs_buf b = {0};
    for (size_t i = 0; !result && i < sizeof names / sizeof names[0]; i++) {
        char *in = bs_join(from, names[i]), *out = bs_join(to, names[i]);
        if (!in || !out)
            result = bs_err(err, "out of memory: a file's name");
        else if (bs_is_file(in))
            result = bs_read_file(&b, in, (size_t)1 << 30, err) || make_folder_of(out, err) || bs_write_file(out, b.p, b.n, err)
                         ? -1
                         : 0;
        free(in);
        free(out);
    }
    bs_buf_clear(&b);
    return result;
}

int cl_say_it_answers(const md_model *m, const char *to, oc_err *err)
{
    md_sizes s;
    m->family->sizes(m->m, &s);
    if (!s.never_answered)
        return 0;
    char *in = bs_join(m->folder, "config.json"), *out = bs_join(to, "config.json");
    int result = in && out ? ck_config_copy_with(in, out, "answers", "true", err) : bs_err(err, "out of memory: a path");
    free(in);
    free(out);
    return result;
}

/* ---- progress ------------------------------------------------------------------------------------------------------ */

void cl_progress_start(cl_progress *p, const cl_common *common, const char *what)
{
    *p = (cl_progress){.on = !common->quiet && isatty(2), .start = bs_now(), .what = what};
}

void cl_progress_show(cl_progress *p, long done, long all)
{
    double now = bs_now();
    if (!p->on || (now - p->shown < 0.2 && done < all))
        return;
    p->shown = now;
    double left = done ? (now - p->start) / (double)done * (double)(all - done) : 0;
    fprintf(stderr, "\r%s %ld of %ld, %.0f s left \033[K", p->what, done, all, left);
}

void cl_progress_end(cl_progress *p)
{
    if (p->on && p->shown > 0)
        fprintf(stderr, "\r\033[K");
}
