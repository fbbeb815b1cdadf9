/* naming.c - templates and talk. */
#include "naming.h"

#include <string.h>

#include "../eval/templates.h"

/* ---- talk ------------------------------------------------------------------------------------------------------ */

static void show(void *arg, const char *what, long done, long all)
{
    cl_talk *t = arg;
    if (!t->what || strcmp(t->what, what) != 0) {
        cl_talk_pause(t);
        t->what = what;
        cl_progress_start(&t->progress, t->common, what);
    }
    cl_progress_show(&t->progress, done, all);
    if (done == all)
        cl_talk_pause(t);
}

static void refused(void *arg, const char *why)
{
    cl_talk *t = arg;
    cl_talk_pause(t);
    fprintf(stderr, "ocelli %s: %s\n", t->self->name, why);
}

void cl_talk_start(cl_talk *t, const cl_command *self, const cl_common *common)
{
    *t = (cl_talk){.talk = {.progress = show, .refused = refused, .arg = t}, .self = self, .common = common};
}

void cl_talk_pause(cl_talk *t)
{
    if (t->what)
        cl_progress_end(&t->progress);
    t->what = NULL;
}

void cl_talk_end(cl_talk *t, long max_tokens)
{
    cl_talk_pause(t);
    if (t->talk.cut)
        cl_say(t->common, "ocelli %s: %ld texts were longer than %ld tokens and are cut, their end token kept\n", t->self->name,
               t->talk.cut, max_tokens);
    t->talk.cut = 0;
}

/* ---- templates ----------------------------------------------------------------------------------------------------- */

static int no_memory(oc_err *err) { return bs_err(err, "out of memory: a list of templates"); }

static int add_file(const char *path, cl_texts *out, bs_buf *hold, oc_err *err)
{
    cl_texts lines = {0};
    int result = cl_read_lines(&lines, hold, path, false, err);
    if (!result && !lines.n)
        result = bs_err(err, "'%s': holds no template", path);
    for (int i = 0; !result && i < lines.n; i++)
        result = ev_template_check(lines.p[i], err) ? bs_err_prefix(err, "'%s': ", path)
                 : cl_texts_add(out, lines.p[i])    ? no_memory(err)
                                                    : 0;
    cl_texts_clear(&lines);
    return result;
}

static int add_set(const char *name, cl_texts *out, bs_buf *hold, oc_err *err)
{
    const ev_template_set *set = ev_template_find(name);
    if (!set && strcmp(name, "-") != 0 && !bs_is_file(name))
        return bs_err(err, "--templates: '%s' is neither a file nor one of plain, photo, drawing, photo_zh, drawing_zh", name);
    if (!set)
        return add_file(name, out, hold, err);
    for (int i = 0; i < set->count; i++)
        if (cl_texts_add(out, set->text[i]))
            return no_memory(err);
    return 0;
}

int cl_templates(const cl_texts *given, const char *set, cl_texts *out, cl_texts *rest, bs_buf *hold, oc_err *err)
{
    if (given->n && ev_template_check(given->p[0], err))
        return -1;
    for (int i = 0; i < given->n; i++)
        if (cl_texts_add(strstr(given->p[i], "{}") ? out : rest, given->p[i]))
            return no_memory(err);
    return set || !out->n ? add_set(set ? set : "plain", out, hold, err) : 0;
}
