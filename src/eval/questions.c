/* questions.c - reading questions, and the mean of their accuracies. */
#include "questions.h"

#include <stdlib.h>
#include <string.h>

#include "vqa.h"

typedef struct reader {
    ev_questions *q;
    long cap;
    const char *path;
    char *folder;
} reader;

static int no_memory(const reader *r, oc_err *err) { return bs_err(err, "out of memory: the questions of '%s'", r->path); }

/* Room for one more, which is zeroed and counted. */
static int widen(reader *r, oc_err *err)
{
    ev_questions *q = r->q;
    if (q->n == r->cap) {
        long cap = r->cap ? 2 * r->cap : 1024;
        ev_asked *asked = realloc(q->asked, (size_t)cap * sizeof *asked);
        q->asked = asked ? asked : q->asked;
        ev_answers *answers = asked ? realloc(q->answers, (size_t)cap * sizeof *answers) : NULL;
        q->answers = answers ? answers : q->answers;
        if (!answers)
            return no_memory(r, err);
        r->cap = cap;
    }
    q->asked[q->n] = (ev_asked){0};
    q->answers[q->n++] = (ev_answers){0};
    return 0;
}

static int read_answers(const reader *r, const ck_config *c, ev_answers *a, oc_err *err)
{
    const ck_config *list = NULL;
    if (ck_config_need(c, "answers", "a list of strings", err) || ck_array(c, "answers", &list, err))
        return -1;
    size_t n = ck_config_size(list);
    if (n < 2 || n > 1000)
        return ck_config_wrong(c, "answers", err, "from 2 to 1000 answers: each is judged by the others");
    a->p = calloc(n, sizeof *a->p);
    for (size_t i = 0; a->p && i < n; i++) {
        const char *text = NULL;
        if (ck_config_kind(ck_config_at(list, i)) != CK_STRING)
            return ck_config_wrong(ck_config_at(list, i), NULL, err, "a string");
        if (ck_string(ck_config_at(list, i), NULL, &text, err))
            return -1;
        a->p[a->n] = bs_strdup(text);
        if (!a->p[a->n++])
            return no_memory(r, err);
    }
    return a->p ? 0 : no_memory(r, err);
}

static int read_line(void *arg, const ck_config *c, long number, oc_err *err)
{
    reader *r = arg;
    const char *image = NULL, *question = NULL;
    (void)number;
    if (ck_config_need(c, "image", "a path", err) || ck_string(c, "image", &image, err) ||
        ck_config_need(c, "question", "a string", err) || ck_string(c, "question", &question, err) || widen(r, err))
        return -1;
    if (!question[strspn(question, " \t\r\n")])
        return ck_config_wrong(c, "question", err, "a question");
    ev_asked *a = &r->q->asked[r->q->n - 1];
    a->image = bs_join(r->folder, image);
    a->question = bs_strdup(question);
    if (!a->image || !a->question)
        return no_memory(r, err);
    return read_answers(r, c, &r->q->answers[r->q->n - 1], err);
}

int ev_questions_read(ev_questions *q, const char *path, oc_err *err)
{
    reader r = {q, 0, path, bs_strdup(path)};
    char *slash = r.folder ? strrchr(r.folder, '/') : NULL;
    *q = (ev_questions){0};
    if (r.folder)
        r.folder[slash ? slash - r.folder + 1 : 0] = 0;
    int result = r.folder ? ev_json_lines(path, read_line, &r, err) : no_memory(&r, err);
    if (!result && !q->n)
        result = bs_err(err, "'%s': holds no question", path);
    free(r.folder);
    if (result)
        ev_questions_clear(q);
    return result;
}

static void clear_one(ev_questions *q, long i)
{
    for (int k = 0; k < q->answers[i].n; k++)
        free(q->answers[i].p[k]);
    free(q->answers[i].p);
    free((char *)(uintptr_t)q->asked[i].image);
    free((char *)(uintptr_t)q->asked[i].question);
    free(q->asked[i].said);
}

int ev_questions_keep_answered(ev_questions *q, oc_err *err)
{
    long kept = 0;
    for (long i = 0; i < q->n; i++) {
        if (!q->asked[i].said) {
            clear_one(q, i);
            continue;
        }
        q->asked[kept] = q->asked[i];
        q->answers[kept++] = q->answers[i];
    }
    q->n = kept;
    return kept ? 0 : bs_err(err, "there is no answer to judge: no picture could be read");
}

void ev_questions_clear(ev_questions *q)
{
    for (long i = 0; i < q->n; i++)
        clear_one(q, i);
    free(q->asked);
    free(q->answers);
    *q = (ev_questions){0};
}

int ev_questions_score(const ev_questions *q, double *accuracy, oc_err *err)
{
    double sum = 0, one;
    for (long i = 0; i < q->n; i++) {
        const ev_answers *a = &q->answers[i];
        if (ev_vqa_accuracy(q->asked[i].said, (const char *const *)a->p, a->n, &one, err))
            return -1;
        sum += one;
    }
    *accuracy = sum / (double)q->n;
    return 0;
}
