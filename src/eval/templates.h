/* templates.h - sentences with a place for a label: "a photo of {}". */
#ifndef EV_TEMPLATES_H
#define EV_TEMPLATES_H

#include "../base/base.h"

typedef struct ev_template_set {
    const char *name;
    const char *const *text; /* `count` of them */
    int count;
} ev_template_set;

/* The sets that are built in; *count of them. The first, "plain", is the label alone. */
const ev_template_set *ev_template_sets(int *count);
/* A set by its name, or NULL. */
const ev_template_set *ev_template_find(const char *name);
/* 0 when the template has a place for a label, else an error that shows it. */
int ev_template_check(const char *template, oc_err *err);
/* The template with the label in each of its places; free() it. NULL when memory is short. */
char *ev_template_fill(const char *template, const char *label);

#endif
