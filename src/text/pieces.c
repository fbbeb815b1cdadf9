/* pieces.c - growing arrays: ids, pieces of text, scratch memory. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

int tx_room(void **p, size_t *cap, size_t need, size_t size, oc_err *err)
{
    if (need <= *cap)
        return 0;
    size_t count = *cap ? *cap : 16, bytes;
    while (count < need)
        if (!bs_mul_size(count, 2, &count))
            return bs_err(err, "out of memory: %zu items", need);
    if (!bs_mul_size(count, size, &bytes))
        return bs_err(err, "out of memory: %zu items of %zu bytes", count, size);
    void *q = realloc(*p, bytes);
    if (!q)
        return bs_err(err, "out of memory: %zu bytes for text", bytes);
    *p = q;
    *cap = count;
    return 0;
}

int tx_ids_put(tx_ids *ids, int32_t id, oc_err *err)
{
    if (ids->n == ids->cap && tx_room((void **)&ids->p, &ids->cap, ids->n + 1, sizeof *ids->p, err))
        return -1;
    ids->p[ids->n++] = id;
    return 0;
}

void tx_ids_clear(tx_ids *ids)
{
    free(ids->p);
    memset(ids, 0, sizeof *ids);
}

int tx_pieces_put(tx_pieces *ps, const char *s, size_t n, int32_t id, bool head, oc_err *err)
{
    if (n == 0 && id < 0)
        return 0;
    if (tx_room((void **)&ps->p, &ps->cap, ps->n + 1, sizeof *ps->p, err))
        return -1;
    ps->p[ps->n] = (tx_piece){.at = ps->text.n, .n = n, .id = id, .head = head};
    if (bs_buf_put(&ps->text, s, n, err))
        return -1;
    ps->n++;
    return 0;
}

void tx_pieces_reset(tx_pieces *ps)
{
    ps->n = 0;
    ps->text.n = 0;
}

void tx_pieces_clear(tx_pieces *ps)
{
    free(ps->p);
    bs_buf_clear(&ps->text);
    memset(ps, 0, sizeof *ps);
}

void *tx_scratch_get(tx_scratch *s, int i, size_t count, size_t size, oc_err *err)
{
    size_t bytes;
    if (!bs_mul_size(count ? count : 1, size, &bytes)) {
        bs_err(err, "out of memory: %zu items of %zu bytes", count, size);
        return NULL;
    }
    return tx_room(&s->p[i], &s->cap[i], bytes, 1, err) ? NULL : s->p[i];
}

void tx_scratch_clear(tx_scratch *s)
{
    free(s->p[0]);
    free(s->p[1]);
    bs_buf_clear(&s->text);
    memset(s, 0, sizeof *s);
}
