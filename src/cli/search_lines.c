/* search_lines.c - lines embedded once, compared with each query. */
#include "search_lines.h"

#include <stdlib.h>
#include <string.h>

#include "../eval/metrics.h"
#include "../eval/vectors.h"

/* Empty lines count, but are not searched. */
static int read_lines(cl_lines *l, const char *path, oc_err *err)
{
    cl_texts all = {0};
    int result = cl_read_lines(&all, &l->hold, path, true, err);
    l->number = result ? NULL : bs_calloc((size_t)all.n + 1, sizeof *l->number, "the lines", err);
    result = l->number ? 0 : -1;
    for (int i = 0; i < all.n && !result; i++) {
        char *line = (char *)(uintptr_t)all.p[i];
        size_t n = strlen(line);
        if (n && line[n - 1] == '\r')
            line[n - 1] = 0;
        if (!line[strspn(line, " \t")])
            continue;
        l->number[l->texts.n] = i + 1;
        if (cl_texts_add(&l->texts, line))
            result = bs_err(err, "out of memory: the lines of '%s'", path);
    }
    cl_texts_clear(&all);
    return !result && !l->texts.n ? bs_err(err, "'%s': holds no line to search", path) : result;
}

static int embed_lines(cl_lines *l, oc_session *s, const cl_common *common, oc_err *err)
{
    int batch = rn_texts_at_once(s->engine), width = oc_embedding_width(s->engine), result = 0, cut = 0;
    cl_progress progress;
    cl_progress_start(&progress, common, "embedding");
    for (int at = 0; !result && at < l->texts.n; at += batch) {
        int n = l->texts.n - at < batch ? l->texts.n - at : batch;
        result = oc_embed_texts(s, l->texts.p + at, n, l->rows + (long)at * width, err);
        cut += oc_last_cut(s);
        cl_progress_show(&progress, at + n, l->texts.n);
    }
    cl_progress_end(&progress);
    if (cut)
        cl_say(common, "ocelli search: %d of %d lines were longer than %ld tokens and are cut, their end token kept\n", cut,
               l->texts.n, s->engine->sizes.max_tokens);
    return result;
}

int cl_lines_open(cl_lines *l, const char *path, oc_session *s, const cl_common *common, oc_err *err)
{
    if (read_lines(l, path, err))
        return -1;
    size_t n = (size_t)l->texts.n, width = (size_t)oc_embedding_width(s->engine);
    l->rows = bs_alloc(n * width * sizeof *l->rows, "the lines' vectors", err);
    l->query = bs_alloc(width * sizeof *l->query, "the query", err);
    l->scores = bs_alloc(n * sizeof *l->scores, "scores", err);
    l->best = bs_alloc(n * sizeof *l->best, "scores", err);
    return l->rows && l->query && l->scores && l->best ? embed_lines(l, s, common, err) : -1;
}

void cl_lines_print(cl_lines *l, oc_session *s, const char *query, bool named, int top, bool json)
{
    top = top < l->texts.n ? top : l->texts.n;
    ev_scores(s->work, l->query, 1, l->rows, l->texts.n, oc_embedding_width(s->engine), l->scores);
    ev_best(l->scores, l->texts.n, top, l->best);
    if (named && !json)
        printf("%s\n", query);
    for (int i = 0; i < top; i++) {
        long at = l->best[i];
        if (!json) {
            printf("%.4f  %6ld  %s\n", (double)l->scores[at], l->number[at], l->texts.p[at]);
            continue;
        }
        printf("{\"line\":%ld,\"score\":%.6f,\"text\":", l->number[at], (double)l->scores[at]);
        cl_json_text(l->texts.p[at]);
        if (named) {
            printf(",\"query\":");
            cl_json_text(query);
        }
        printf("}\n");
    }
}

void cl_lines_close(cl_lines *l)
{
    cl_texts_clear(&l->texts);
    bs_buf_clear(&l->hold);
    bs_free(l->number);
    bs_free(l->rows);
    bs_free(l->query);
    bs_free(l->scores);
    bs_free(l->best);
}
