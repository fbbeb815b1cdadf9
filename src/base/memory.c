/* memory.c - aligned allocation, checked sizes, the growing buffer. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base.h"

enum { ALIGN = 64 };

bool bs_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }

bool bs_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

void *bs_alloc(size_t bytes, const char *what, oc_err *err)
{
    size_t rounded;
    void *p = NULL;
    if (bs_add_size(bytes ? bytes : 1, ALIGN - 1, &rounded))
        p = aligned_alloc(ALIGN, rounded & ~(size_t)(ALIGN - 1));
    if (!p)
        bs_err(err, "out of memory: %s needs %zu bytes", what, bytes);
    return p;
}

void *bs_calloc(size_t count, size_t size, const char *what, oc_err *err)
{
    size_t bytes;
    if (!bs_mul_size(count, size, &bytes)) {
        bs_err(err, "out of memory: %s needs %zu times %zu bytes", what, count, size);
        return NULL;
    }
    void *p = bs_alloc(bytes, what, err);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void bs_free(void *p) { free(p); }

void *bs_reserve(size_t bytes, const char *what, oc_err *err)
{
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        bs_err(err, "out of memory: %s needs %zu bytes", what, bytes);
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE); /* a wish: where it is not granted, nothing else changes */
#endif
    return p;
}

void bs_unreserve(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes ? bytes : 1);
}

char *bs_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = malloc(n);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}

static int grow(bs_buf *b, size_t need, oc_err *err)
{
    size_t max = b->max ? b->max : (size_t)1 << 30;
    if (need > max)
        return bs_err(err, "too large: more than %zu bytes", max);
    if (need + 1 <= b->cap)
        return 0;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < need + 1)
        cap *= 2;
    char *p = realloc(b->p, cap);
    if (!p)
        return bs_err(err, "out of memory: a buffer of %zu bytes", cap);
    b->p = p;
    b->cap = cap;
    return 0;
}

int bs_buf_put(bs_buf *b, const void *bytes, size_t n, oc_err *err)
{
    size_t need;
    if (!bs_add_size(b->n, n, &need))
        return bs_err(err, "too large: a buffer beyond the address space");
    if (grow(b, need, err))
        return -1;
    if (n)
        memcpy(b->p + b->n, bytes, n);
    b->n = need;
    b->p[need] = 0;
    return 0;
}

int bs_buf_reserve(bs_buf *b, size_t n, oc_err *err) { return grow(b, n, err); }

int bs_buf_printf(bs_buf *b, oc_err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        return bs_err(err, "cannot format a text");
    if (grow(b, b->n + (size_t)n, err))
        return -1;
    va_start(args, format);
    vsnprintf(b->p + b->n, (size_t)n + 1, format, args);
    va_end(args);
    b->n += (size_t)n;
    return 0;
}

void bs_buf_clear(bs_buf *b)
{
    free(b->p);
    size_t max = b->max;
    memset(b, 0, sizeof *b);
    b->max = max;
}

int bs_buf_lines(bs_buf *b, bs_line *line, void *arg, oc_err *err)
{
    long number = 1;
    for (char *at = b->p, *end = b->p + b->n; at < end; number++) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);
        at[n] = 0; /* a buffer ends in a 0 byte of its own */
        if (strspn(at, " \t\r") < n && line(arg, at, n, number, err))
            return -1;
        at += n + 1;
    }
    return 0;
}

uint64_t bs_hash(uint64_t h, const void *p, size_t n)
{
    const unsigned char *bytes = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    return h;
}
