/* renaming.h - other spellings of a model's weights: older ones, and those of the program that trained it first. */
#ifndef CK_RENAMING_H
#define CK_RENAMING_H

#include "safetensors.h"

/* A tensor called `from` is meant by `to`. A '*' in `from` is one part of a name (no dots, not empty), '**' any number of
 * parts (as few as will do, not empty), and the same star in `to` is what it was. A '%'
 * in `to`: the tensor holds three of equal size one below the other, and '%' is q, k, v in turn. */
typedef struct ck_renaming {
    const char *from, *to; /* a table ends with from NULL */
    bool transpose;        /* the file has it [columns, rows] */
} ck_renaming;

/* What `to` makes of a name that `from` matches, with `third` (q, k or v) for '%'; free() it. NULL: no match, or out of memory (*failed). */
char *ck_renamed(const ck_renaming *line, const char *name, char third, bool *failed);
/* Gives every tensor of the store its name by the first line that matches; what none matches stays, and so does a copy of what has that name in the file already.
 * Splitting is done in place. -1 and an error when a
 * tensor cannot be split or turned, or two get one name. */
int ck_rename(ck_store *s, const ck_renaming *table, oc_err *err);

#endif
