/* run_lines.c - JSON lines of a run, without those that it writes again after a kill. */
#include "run_lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

FILE *cl_metrics_open(const char *path, oc_err *err)
{
    FILE *f = fopen(path, "a");
    if (!f)
        bs_err(err, "cannot write '%s': %s", path, strerror(errno));
    else
        setvbuf(f, NULL, _IOLBF, 0); /* a killed run keeps the lines of the steps that its checkpoint has */
    return f;
}

/* The step of the line of n bytes, its end of line among them; -1: not a whole line of ours. */
static long step_of(const char *line, size_t n)
{
    char text[32] = {0};
    static const char start[] = "{\"step\":";
    if (line[n - 1] != '\n' || n < sizeof start + 1 || memcmp(line, start, sizeof start - 1) != 0)
        return -1;
    memcpy(text, line + sizeof start - 1, n - sizeof start < sizeof text ? n - sizeof start : sizeof text - 1);
    return strtol(text, NULL, 10);
}

/* Bytes to keep of the first n. */
static size_t keep_until(const char *text, size_t n, long step)
{
    while (n) {
        size_t line = n - 1;
        while (line && text[line - 1] != '\n')
            line--;
        if (text[n - 1] == '\n' && step_of(text + line, n - line) <= step)
            break;
        n = line;
    }
    return n;
}

int cl_metrics_cut(const char *path, long step, oc_err *err)
{
    bs_map m;
    if (!bs_is_file(path))
        return 0;
    if (bs_map_open(&m, path, err))
        return -1;
    size_t n = m.n, keep = keep_until((const char *)m.p, n, step);
    bs_map_close(&m);
    if (keep < n && truncate(path, (off_t)keep))
        return bs_err(err, "cannot cut '%s': %s", path, strerror(errno));
    return 0;
}
