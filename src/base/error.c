/* error.c - one line that says what failed. */
#include <stdarg.h>
#include <string.h>

#include "base.h"

int bs_err(oc_err *err, const char *format, ...)
{
    if (!err || err->text[0])
        return -1;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    /* One line is promised: a file name may hold anything. */
    for (char *c = err->text; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = ' ';
    return -1;
}

int bs_err_prefix(oc_err *err, const char *format, ...)
{
    if (!err)
        return -1;
    oc_err old = *err;
    err->text[0] = 0;
    char front[512];
    va_list args;
    va_start(args, format);
    vsnprintf(front, sizeof front, format, args);
    va_end(args);
    return bs_err(err, "%s%s", front, old.text);
}
