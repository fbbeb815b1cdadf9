/* captions.c - lists of pictures with their references. */
#include "captions.h"

#include <stdlib.h>
#include <string.h>

/* A line of the data, to bring those of one picture together. */
typedef struct line {
    const char *image;
    const dt_texts *texts;
    long at, first; /* its place in the data, and that of the picture's first line */
} line;

static int by_image(const void *a, const void *b)
{
    const line *x = a, *y = b;
    int order = strcmp(x->image, y->image);
    return order ? order : (x->at > y->at) - (x->at < y->at);
}

static int by_place(const void *a, const void *b)
{
    const line *x = a, *y = b;
    return x->first != y->first ? (x->first > y->first) - (x->first < y->first) : (x->at > y->at) - (x->at < y->at);
}

/* The lines with a text, those of one picture beside each other, pictures in the order of their first lines. */
static long lines_in_order(line *l, const dt_pairs *pairs, int language)
{
    long n = 0;
    for (long i = 0; i < pairs->n; i++)
        if (pairs->p[i].language[language].n)
            l[n++] = (line){pairs->p[i].image, &pairs->p[i].language[language], i, i};
    qsort(l, (size_t)n, sizeof *l, by_image);
    for (long i = 1; i < n; i++)
        if (!strcmp(l[i].image, l[i - 1].image))
            l[i].first = l[i - 1].first;
    qsort(l, (size_t)n, sizeof *l, by_place);
    return n;
}

static void add_lines(ev_pictures *p, const line *l, long n)
{
    const char **to = p->reference;
    for (long i = 0; i < n; i++) {
        if (!i || l[i].first != l[i - 1].first) {
            p->asked[p->n].image = l[i].image;
            p->captioned[p->n++].references = to;
        }
        for (int k = 0; k < l[i].texts->n; k++)
            *to++ = l[i].texts->p[k];
        p->captioned[p->n - 1].n += l[i].texts->n;
    }
}

int ev_pictures_init(ev_pictures *p, const dt_pairs *pairs, int language, oc_err *err)
{
    size_t texts = 0, most = (size_t)pairs->n + 1;
    *p = (ev_pictures){0};
    for (long i = 0; i < pairs->n; i++)
        texts += (size_t)pairs->p[i].language[language].n;
    line *l = bs_alloc(most * sizeof *l, "a list of pictures", err);
    p->asked = l ? bs_calloc(most, sizeof *p->asked, "a list of pictures", err) : NULL;
    p->captioned = p->asked ? bs_calloc(most, sizeof *p->captioned, "a list of pictures", err) : NULL;
    p->reference = p->captioned ? bs_alloc((texts + 1) * sizeof *p->reference, "a list of captions", err) : NULL;
    if (p->reference)
        add_lines(p, l, lines_in_order(l, pairs, language));
    bs_free(l);
    return p->reference ? 0 : -1;
}

void ev_pictures_clear(ev_pictures *p)
{
    for (long i = 0; i < p->n; i++)
        free(p->asked[i].said);
    bs_free(p->asked);
    bs_free(p->captioned);
    bs_free(p->reference);
    *p = (ev_pictures){0};
}

int ev_pictures_say(ev_pictures *p, ev_say *say, void *arg, int batch, const ev_talk *talk, oc_err *err)
{
    const char **paths = bs_alloc((size_t)batch * sizeof *paths, "a batch of pictures", err);
    char **texts = paths ? bs_alloc((size_t)batch * sizeof *texts, "a batch of pictures", err) : NULL;
    int result = texts ? 0 : -1;
    for (long at = 0; !result && at < p->n; at += batch) {
        int part = (int)(p->n - at < batch ? p->n - at : batch);
        for (int i = 0; i < part; i++) {
            paths[i] = p->asked[at + i].image;
            texts[i] = NULL;
        }
        result = say(arg, paths, part, texts, err);
        for (int i = 0; i < part; i++)
            p->asked[at + i].said = texts[i];
        if (talk && talk->progress)
            talk->progress(talk->arg, "captions", at + part, p->n);
    }
    bs_free(paths);
    bs_free(texts);
    return result;
}

int ev_pictures_score(ev_pictures *p, ev_caption_scores *out, oc_err *err)
{
    ev_captioned *some = bs_alloc((size_t)(p->n + 1) * sizeof *some, "captions", err);
    long n = 0;
    if (!some)
        return -1;
    for (long i = 0; i < p->n; i++) {
        p->captioned[i].said = p->asked[i].said;
        if (p->asked[i].said)
            some[n++] = p->captioned[i];
    }
    int result = n ? ev_caption_score(some, n, out, err) : bs_err(err, "there is no caption to judge: no picture could be read");
    bs_free(some);
    return result;
}

int ev_pictures_write(const ev_pictures *p, const char *path, oc_err *err)
{
    bs_out out = {0};
    bs_buf b = {.max = (size_t)8 << 30};
    int result = 0;
    for (long i = 0; !result && i < p->n; i++) {
        if (!p->asked[i].said)
            continue;
        result = bs_buf_printf(&b, err, "{\"image\":") || ck_json_string(&b, p->asked[i].image, err) ||
                         bs_buf_printf(&b, err, ",\"text\":") || ck_json_string(&b, p->asked[i].said, err) ||
                         bs_buf_printf(&b, err, "}\n")
                     ? -1
                     : 0;
    }
    if (!result)
        result = bs_out_open(&out, path, err) || bs_out_write(&out, b.p, b.n, err) || bs_out_commit(&out, err) ? -1 : 0;
    bs_out_abort(&out);
    bs_buf_clear(&b);
    return result;
}
