/* renaming.c - patterns with '*' for names. */
#include "renaming.h"

#include <stdlib.h>
#include <string.h>

enum { STARS = 8 };

typedef struct star {
    const char *at;
    size_t n;
} star;

static bool match(const char *from, const char *name, star found[STARS])
{
    int stars = 0;
    for (; *from; from++) {
        if (*from != '*') {
            if (*from != *name++)
                return false;
            continue;
        }
        size_t n = strcspn(name, ".");
        if (!n || stars == STARS)
            return false;
        found[stars++] = (star){name, n};
        name += n;
    }
    return !*name;
}

char *ck_renamed(const ck_renaming *line, const char *name, char third, bool *failed)
{
    star found[STARS];
    bs_buf out = {0};
    if (!match(line->from, name, found))
        return NULL;
    int stars = 0, bad = 0;
    for (const char *c = line->to; *c && !bad; c++) {
        const star *s = *c == '*' ? &found[stars++] : &(star){*c == '%' ? &third : c, 1};
        bad = bs_buf_put(&out, s->at, s->n, NULL);
    }
    if (!bad)
        return out.p;
    bs_buf_clear(&out);
    *failed = true;
    return NULL;
}
