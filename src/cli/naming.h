/* naming.h - what `classify` and `eval` share: templates from the command line, and how work tells about itself. */
#ifndef CL_NAMING_H
#define CL_NAMING_H

#include "../eval/vectors.h"
#include "cli.h"

/* An ev_talk that writes to stderr: refused pictures a line each, progress on one line. */
typedef struct cl_talk {
    ev_talk talk;
    const cl_command *self;
    const cl_common *common;
    cl_progress progress;
    const char *what; /* that the line on the terminal is about; NULL: there is none */
} cl_talk;

/* t must stay where it is while t->talk is used. */
void cl_talk_start(cl_talk *t, const cl_command *self, const cl_common *common);
/* Takes the line away, so that something else can be printed. */
void cl_talk_pause(cl_talk *t);
/* The same at the end of the work, and says how many texts were cut. */
void cl_talk_end(cl_talk *t, long max_tokens);

/* The help of --templates; and the templates that --template and --templates ask for: those given, then those of the set (a name that is built
 * in, or a file with one a line). None at all: the label alone. Words behind a template that have no {} are moved to rest: they
 * are pictures. Returns -1 and an error after a mistake. hold keeps a file's bytes. */
#define CL_TEMPLATES_HELP "a set of templates: plain, photo, drawing, photo_zh, drawing_zh, or a file with one a line"
int cl_templates(const cl_texts *given, const char *set, cl_texts *out, cl_texts *rest, bs_buf *hold, oc_err *err);

#endif
