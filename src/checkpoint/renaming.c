/* renaming.c - patterns with '*' and '**' for names. */
#include "renaming.h"

#include <stdlib.h>
#include <string.h>

enum { STARS = 8 };

typedef struct star {
    const char *at;
    size_t n;
} star;

static bool match(const char *from, const char *name, star *found, const star *end)
{
    while (*from && *from != '*')
        if (*from++ != *name++)
            return false;
    if (!*from)
        return !*name;
    if (found == end)
        return false;
    bool parts = from[1] == '*';
    size_t least = parts ? 1 : strcspn(name, "."), most = parts ? strlen(name) : least;
    for (size_t n = least; n && n <= most; n++) {
        *found = (star){name, n};
        if (match(from + 1 + parts, name + n, found + 1, end))
            return true;
    }
    return false;
}

char *ck_renamed(const ck_renaming *line, const char *name, char third, bool *failed)
{
    star found[STARS];
    bs_buf out = {0};
    if (!match(line->from, name, found, found + STARS))
        return NULL;
    int stars = 0, bad = 0;
    for (const char *c = line->to; *c && !bad; c++) {
        if (*c == '*' && c[1] == '*') /* both are one */
            c++;
        const star *s = *c == '*' ? &found[stars++] : &(star){*c == '%' ? &third : c, 1};
        bad = bs_buf_put(&out, s->at, s->n, NULL);
    }
    if (!bad)
        return out.p;
    bs_buf_clear(&out);
    *failed = true;
    return NULL;
}
