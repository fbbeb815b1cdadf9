/* labels.c - see labels.h. */
#include "labels.h"

#include <string.h>

#include "../eval/metrics.h"

typedef struct reading {
    cl_labels *l;
    const char *name, *what, *from;
    oc_err *err;
} reading;

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    size_t n = strlen(s);
    while (n && strchr(" \t\r", s[n - 1]))
        n--;
    s[n] = 0;
    return s;
}

static int no_memory(const reading *r) { return bs_err(r->err, "out of memory: --%s", r->name); }

static const char wide_comma[] = "，";

static int split_list(const reading *r)
{
    if (bs_buf_put(&r->l->bytes, r->from, strlen(r->from), r->err))
        return -1;
    for (char *at = r->l->bytes.p, *next = at; next; at = next) {
        char *comma = strchr(at, ','), *other = strstr(at, wide_comma);
        char *stop = !comma || (other && other < comma) ? other : comma;
        next = !stop ? NULL : stop + (stop == comma ? 1 : sizeof wide_comma - 1);
        if (stop)
            *stop = 0;
        if (cl_texts_add(&r->l->texts, trim(at)))
            return no_memory(r);
        if (!trim(at)[0])
            return bs_err(r->err, "--%s: %s %d of '%s' is empty", r->name, r->what, r->l->texts.n, r->from);
    }
    return 0;
}

static int read_file(const reading *r)
{
    cl_texts lines = {0};
    int result = cl_read_lines(&lines, &r->l->bytes, r->from, false, r->err);
    for (int i = 0; !result && i < lines.n; i++) {
        char *line = trim((char *)(uintptr_t)lines.p[i]);
        if (i == 0 && !strncmp(line, "\xef\xbb\xbf", 3)) /* some editors mark a file as UTF-8 so */
            line = trim(line + 3);
        if (line[0] && cl_texts_add(&r->l->texts, line))
            result = no_memory(r);
    }
    cl_texts_clear(&lines);
    return result;
}

static int check(const reading *r)
{
    const cl_texts *t = &r->l->texts;
    int n = t->n, result = 0;
    long distinct = 0;
    if (n < 2)
        return bs_err(r->err, "--%s: '%s' %s %s, expected at least two", r->name, r->from, n ? "is one" : "holds no", r->what);
    long *id = bs_alloc((size_t)n * sizeof *id, r->what, r->err), *first = bs_alloc((size_t)n * sizeof *first, r->what, r->err);
    if (!id || !first || ev_ids(t->p, n, id, &distinct, r->err))
        result = -1;
    else
        memset(first, -1, (size_t)n * sizeof *first);
    for (int i = 0; !result && i < n; i++) {
        if (first[id[i]] >= 0)
            result = bs_err(r->err, "--%s: '%s' is given twice, as %s %ld and %d", r->name, t->p[i], r->what, first[id[i]] + 1, i + 1);
        first[id[i]] = i;
    }
    bs_free(id);
    bs_free(first);
    return result;
}

int cl_labels_read(cl_labels *l, const char *name, const char *what, const char *from, oc_err *err)
{
    reading r = {l, name, what, from, err};
    bool file = !strcmp(from, "-") || bs_is_file(from);
    if (!file && !strchr(from, ',') && !strstr(from, wide_comma))
        return bs_err(err, "--%s: '%s' is neither a file nor a list a,b,c", name, from);
    return (file ? read_file(&r) : split_list(&r)) || check(&r) ? -1 : 0;
}

void cl_labels_clear(cl_labels *l)
{
    cl_texts_clear(&l->texts);
    bs_buf_clear(&l->bytes);
}
