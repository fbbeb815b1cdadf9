/* predictions.c - JSON lines, and a sorted list of what is asked for. */
#include "predictions.h"

#include <stdlib.h>
#include <string.h>

/* ---- JSON lines -------------------------------------------------------------------------------------------------------- */

typedef struct objects {
    const char *path;
    ev_line *line;
    void *arg;
} objects;

static int one_line(void *arg, char *bytes, size_t n, long number, oc_err *err)
{
    const objects *o = arg;
    char name[600];
    snprintf(name, sizeof name, "%s line %ld", o->path, number);
    ck_config *c = ck_config_parse(bytes, n, name, err);
    int result = !c                               ? -1
                 : ck_config_kind(c) != CK_OBJECT ? bs_err(err, "'%s': expected a JSON object", name)
                                                  : o->line(o->arg, c, number, err);
    ck_config_free(c);
    return result;
}

int ev_json_lines(const char *path, ev_line *line, void *arg, oc_err *err)
{
    bs_buf b = {0};
    objects o = {path, line, arg};
    int result = bs_read_file(&b, path, (size_t)8 << 30, err) || bs_buf_lines(&b, one_line, &o, err) ? -1 : 0;
    bs_buf_clear(&b);
    return result;
}

/* ---- who asks ------------------------------------------------------------------------------------------------------------- */

typedef struct key {
    char *image; /* a path without "./" and doubled slashes */
    const char *question;
    ev_asked *asked;
} key;

typedef struct table {
    key *key; /* [n] in order */
    long n, unknown;
    const char *path;
    char *folder; /* of the data file, its slash too */
} table;

/* In place: "./a//b/./c" is "a/b/c". */
static char *tidy(char *path)
{
    char *to = path;
    for (const char *p = path; p && *p;) {
        bool begins = p == path || p[-1] == '/';
        if (begins && p[0] == '.' && p[1] == '/')
            p += 2;
        else if (begins && p > path && *p == '/')
            p++;
        else
            *to++ = *p++;
    }
    if (path)
        *to = 0;
    return path;
}

static int compare(const void *a, const void *b)
{
    const key *x = a, *y = b;
    int order = strcmp(x->image, y->image);
    return order || !x->question ? order : strcmp(x->question, y->question);
}

static int table_init(table *t, ev_asked *asked, long n, const char *path, const char *data, oc_err *err)
{
    const char *slash = strrchr(data, '/');
    *t = (table){.path = path, .folder = bs_strdup(data)};
    t->key = bs_alloc((size_t)(n + 1) * sizeof *t->key, "a list of pictures", err);
    if (!t->key || !t->folder)
        return bs_err(err, "out of memory: a list of pictures");
    t->folder[slash ? slash - data + 1 : 0] = 0;
    for (long i = 0; i < n; i++) {
        t->key[i] = (key){tidy(bs_strdup(asked[i].image)), asked[i].question, &asked[i]};
        if (!t->key[i].image)
            return bs_err(err, "out of memory: a list of pictures");
        t->n++;
    }
    qsort(t->key, (size_t)n, sizeof *t->key, compare);
    return 0;
}

static void table_clear(table *t)
{
    for (long i = 0; i < t->n; i++)
        free(t->key[i].image);
    bs_free(t->key);
    free(t->folder);
}

/* The first of those who ask for it; NULL: nobody does. `image` is freed. */
static key *find(const table *t, char *image, const char *question)
{
    key wanted = {tidy(image), question, NULL};
    key *found = image ? bsearch(&wanted, t->key, (size_t)t->n, sizeof *found, compare) : NULL;
    while (found && found > t->key && !compare(found - 1, &wanted))
        found--;
    free(image);
    return found;
}

/* ---- what is said ------------------------------------------------------------------------------------------------------------ */

static int give(const table *t, const key *first, const char *text, long number, oc_err *err)
{
    for (const key *k = first; k < t->key + t->n && !compare(k, first); k++) {
        if (k->asked->said && strcmp(k->asked->said, text) != 0)
            return bs_err(err, "'%s' line %ld: '%s' had another text before", t->path, number, k->image);
        if (!k->asked->said && !(k->asked->said = bs_strdup(text)))
            return bs_err(err, "out of memory: the texts of '%s'", t->path);
    }
    return 0;
}

static int read_line(void *arg, const ck_config *c, long number, oc_err *err)
{
    table *t = arg;
    const char *image = NULL, *question = NULL, *text = NULL;
    bool asks = t->n && t->key[0].question;
    if (ck_config_need(c, "image", "a path", err) || ck_string(c, "image", &image, err) ||
        (asks && (ck_config_need(c, "question", "a string", err) || ck_string(c, "question", &question, err))) ||
        ck_config_need(c, "text", "a string", err) || ck_string(c, "text", &text, err))
        return -1;
    const key *k = find(t, bs_join(t->folder, image), question);
    if (!k)
        k = find(t, bs_strdup(image), question);
    t->unknown += !k;
    return k ? give(t, k, text, number, err) : 0;
}

static int all_said(const ev_asked *asked, long n, const char *path, oc_err *err)
{
    long missing = 0, first = -1;
    for (long i = 0; i < n; i++)
        if (!asked[i].said && !missing++)
            first = i;
    if (!missing)
        return 0;
    if (asked[first].question)
        return bs_err(err, "'%s': no answer to '%s' about '%s' (%ld of %ld are missing)", path, asked[first].question,
                      asked[first].image, missing, n);
    return bs_err(err, "'%s': no text for '%s' (%ld of %ld are missing)", path, asked[first].image, missing, n);
}

int ev_predictions_read(ev_asked *asked, long n, const char *path, const char *data, long *unknown, oc_err *err)
{
    table t;
    int result = table_init(&t, asked, n, path, data, err);
    if (!result)
        result = ev_json_lines(path, read_line, &t, err) || all_said(asked, n, path, err) ? -1 : 0;
    if (unknown)
        *unknown = t.unknown;
    table_clear(&t);
    return result;
}
