/* cache.c - pages of keys and values. A page has PAGE positions of all layers; a sequence is a list of pages; a page that several sequences list is
 * copied before one of them writes to it. Within a layer a head's positions follow one another: attention reads a head at a time, and memory is
 * read fastest in a row. */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE = 32 };

typedef struct sequence {
    int *page;
    long pages;  /* listed */
    long length; /* positions */
    bool open;
} sequence;

struct tn_cache {
    tn_cache_shape s;
    size_t key_bytes, value_bytes, scale_bytes; /* of a page of one layer; scale_bytes of keys or values */
    size_t page_bytes;                          /* of all layers */
    long pages, unused;                         /* there may be; never taken so far: from pages - unused on */
    int *users;                                 /* [pages] sequences that list it */
    int *idle;                                  /* [pages] a stack of pages that were given back */
    long idles;
    sequence *seq;
    int n;
    char *memory;
};

long tn_page_keys(void) { return PAGE; }

const tn_cache_shape *tn_cache_shape_of(const tn_cache *c) { return &c->s; }

static size_t number_bytes(kn_kv_type type) { return type == KN_KV_F32 ? 4 : type == KN_KV_I8 ? 1 : 2; }

static size_t aligned(size_t n) { return (n + 63) / 64 * 64; }

size_t tn_cache_bytes(const tn_cache *c) { return (size_t)c->pages * c->page_bytes; }

static tn_cache laid_out(const tn_cache_shape *shape)
{
    tn_cache c = {.s = *shape};
    c.key_bytes = aligned((size_t)(PAGE * shape->kv_heads * shape->key) * number_bytes(shape->type));
    c.value_bytes = shape->rows ? 0 : aligned((size_t)(PAGE * shape->kv_heads * shape->value) * number_bytes(shape->type));
    c.scale_bytes = shape->type == KN_KV_I8 ? aligned((size_t)(PAGE * shape->kv_heads) * sizeof(float)) : 0;
    c.page_bytes = (size_t)shape->layers * (c.key_bytes + c.value_bytes + 2 * c.scale_bytes);
    c.pages = c.unused = (shape->positions + PAGE - 1) / PAGE;
    return c;
}

size_t tn_cache_needs(const tn_cache_shape *shape)
{
    tn_cache c = laid_out(shape);
    size_t bytes;
    return bs_mul_size((size_t)c.pages, c.page_bytes, &bytes) ? bytes : 0;
}

tn_cache *tn_cache_open(const tn_cache_shape *shape, oc_err *err)
{
    tn_cache *c = bs_calloc(1, sizeof *c, "a cache", err);
    if (!c)
        return NULL;
    *c = laid_out(shape);
    size_t bytes = tn_cache_needs(shape);
    if (!bytes) {
        bs_err(err, "a cache of %ld positions is larger than memory can be", shape->positions);
        goto failed;
    }
    c->users = bs_calloc((size_t)c->pages + 1, sizeof *c->users, "a cache", err);
    c->idle = bs_calloc((size_t)c->pages + 1, sizeof *c->idle, "a cache", err);
    c->memory = c->users && c->idle ? bs_reserve(bytes, "a cache of keys and values", err) : NULL;
    if (c->memory)
        return c;
failed:
    tn_cache_close(c);
    return NULL;
}

void tn_cache_close(tn_cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n; i++)
        bs_free(c->seq[i].page);
    free(c->seq);
    bs_free(c->users);
    bs_free(c->idle);
    if (c->memory)
        bs_unreserve(c->memory, tn_cache_bytes(c));
    bs_free(c);
}

/* ---- pages ------------------------------------------------------------------------------------------------ */

static int take_page(tn_cache *c, oc_err *err)
{
    int page;
    if (c->idles)
        page = c->idle[--c->idles];
    else if (c->unused)
        page = (int)(c->pages - c->unused--);
    else
        return bs_err(err, "the cache is full: it holds %ld positions", c->pages * PAGE);
    c->users[page] = 1;
    return page;
}

static void leave_page(tn_cache *c, int page)
{
    if (--c->users[page] == 0)
        c->idle[c->idles++] = page;
}

/* Writing to positions from `from` on must hurt nobody: the page they begin in becomes its own. */
static int own_page(tn_cache *c, sequence *s, long from, oc_err *err)
{
    long at = from / PAGE;
    if (from % PAGE == 0 || at >= s->pages || c->users[s->page[at]] == 1)
        return 0;
    int page = take_page(c, err);
    if (page < 0)
        return -1;
    memcpy(c->memory + (size_t)page * c->page_bytes, c->memory + (size_t)s->page[at] * c->page_bytes, c->page_bytes);
    leave_page(c, s->page[at]);
    s->page[at] = page;
    return 0;
}

/* ---- sequences -------------------------------------------------------------------------------------------- */

/* Room for every page there is: what grows later takes no memory. */
static int take_room(const tn_cache *c, sequence *s, oc_err *err)
{
    if (!s->page && !(s->page = bs_alloc((size_t)(c->pages + 1) * sizeof *s->page, "a sequence", err)))
        return -1;
    s->open = true;
    return 0;
}

int tn_sequence_open(tn_cache *c, oc_err *err)
{
    int i = 0;
    while (i < c->n && c->seq[i].open)
        i++;
    if (i == c->n) {
        sequence *more = realloc(c->seq, (size_t)(c->n + 1) * sizeof *more);
        if (!more)
            return bs_err(err, "out of memory: a sequence");
        c->seq = more;
        c->seq[c->n++] = (sequence){0};
    }
    return take_room(c, &c->seq[i], err) ? -1 : i;
}

void tn_sequence_close(tn_cache *c, int i)
{
    sequence *s = &c->seq[i];
    for (long k = 0; k < s->pages; k++)
        leave_page(c, s->page[k]);
    s->pages = s->length = 0;
    s->open = false;
}

long tn_sequence_length(const tn_cache *c, int i) { return c->seq[i].length; }

int tn_sequence_fork(tn_cache *c, int from, long length, oc_err *err)
{
    int i = tn_sequence_open(c, err);
    if (i < 0)
        return -1;
    sequence *s = &c->seq[i];
    long pages = (length + PAGE - 1) / PAGE;
    for (long k = 0; k < pages; k++)
        c->users[s->page[k] = c->seq[from].page[k]]++;
    s->pages = pages;
    s->length = length;
    return i;
}

int tn_sequence_resize(tn_cache *c, int i, long length, oc_err *err)
{
    sequence *s = &c->seq[i];
    long pages = (length + PAGE - 1) / PAGE;
    if (length > s->length && own_page(c, s, s->length, err))
        return -1;
    while (s->pages > pages)
        leave_page(c, s->page[--s->pages]);
    while (s->pages < pages) {
        int page = take_page(c, err);
        if (page < 0)
            return -1;
        s->page[s->pages++] = page;
    }
    s->length = length;
    return 0;
}

/* ---- for attention ---------------------------------------------------------------------------------------- */

typedef struct place {
    char *k, *v;
    float *k_scale, *v_scale;
} place;

static place place_of(const tn_cache *c, int page, long layer)
{
    char *at = c->memory + (size_t)page * c->page_bytes + (size_t)layer * (c->key_bytes + c->value_bytes + 2 * c->scale_bytes);
    place p = {.k = at, .v = c->s.rows ? at : at + c->key_bytes};
    if (c->scale_bytes) {
        p.k_scale = (float *)(void *)(at + c->key_bytes + c->value_bytes);
        p.v_scale = (float *)(void *)(at + c->key_bytes + c->value_bytes + c->scale_bytes);
    }
    return p;
}

/* A row of `heads` heads, each `width` wide, as position i of a page. */
static void put_row(const kn_table *t, kn_kv_type type, long heads, long width, long i, const float *x, char *to, float *scale)
{
    size_t each = (size_t)width * number_bytes(type);
    to += (size_t)i * each;
    for (long h = 0; h < heads; h++, x += width, to += PAGE * each)
        switch (type) {
        case KN_KV_F32: memcpy(to, x, each); break;
        case KN_KV_F16: t->to_f16(width, x, (uint16_t *)(void *)to); break;
        case KN_KV_BF16: t->to_bf16(width, x, (uint16_t *)(void *)to); break;
        case KN_KV_I8: kn_quantize(KN_I8, 1, width, 0, x, width, (int8_t *)to, scale + h * PAGE + i); break;
        }
}

void tn_cache_write(tn_cache *c, const kn_table *t, int i, long layer, long position, long n, const float *k, const float *v)
{
    const tn_cache_shape *s = &c->s;
    for (long r = 0; r < n; r++, position++) {
        place p = place_of(c, c->seq[i].page[position / PAGE], layer);
        put_row(t, s->type, s->kv_heads, s->key, position % PAGE, k + r * s->kv_heads * s->key, p.k, p.k_scale);
        if (!s->rows)
            put_row(t, s->type, s->kv_heads, s->value, position % PAGE, v + r * s->kv_heads * s->value, p.v, p.v_scale);
    }
}

void tn_cache_pages(const tn_cache *c, int i, long layer, long length, kn_page *to)
{
    for (long k = 0; k * PAGE < length; k++) {
        place p = place_of(c, c->seq[i].page[k], layer);
        to[k] = (kn_page){p.k, p.v, p.k_scale, p.v_scale};
    }
}
