/* vocab.c - names to ids by open addressing, ids to names by an array. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

uint64_t tx_hash(const char *s, size_t n)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ n, word;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&word, s, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    word = 0;
    memcpy(&word, s, n);
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    return h ^ h >> 29;
}

/* The slot that holds s, or the empty one where it belongs. */
static size_t slot_of(const tx_vocab *v, const char *s, size_t n)
{
    size_t at = (size_t)tx_hash(s, n) & (v->n_slots - 1);
    for (; v->slots[at] >= 0; at = (at + 1) & (v->n_slots - 1)) {
        const tx_name *name = &v->names[v->slots[at]];
        if ((size_t)name->n == n && memcmp(v->bytes.p + name->at, s, n) == 0)
            break;
    }
    return at;
}

static int grow_slots(tx_vocab *v, oc_err *err)
{
    if ((size_t)(v->count + 1) * 2 <= v->n_slots)
        return 0;
    size_t count = v->n_slots ? v->n_slots * 2 : 256;
    int32_t *slots = malloc(count * sizeof *slots);
    if (!slots)
        return bs_err(err, "out of memory: a vocabulary of %d tokens", v->count);
    memset(slots, 0xff, count * sizeof *slots);
    free(v->slots);
    v->slots = slots;
    v->n_slots = count;
    for (int32_t id = 0; id < v->size; id++)
        if (v->names[id].n >= 0)
            v->slots[slot_of(v, v->bytes.p + v->names[id].at, (size_t)v->names[id].n)] = id;
    return 0;
}

int tx_vocab_put(tx_vocab *v, const char *s, size_t n, json_int_t id, oc_err *err)
{
    if (n > INT32_MAX)
        return bs_err(err, "a token of %zu bytes is too long", n);
    if (id < 0 || id >= TX_MAX_ID)
        return bs_err(err, "token '%.*s' has the id %lld, which must be in 0..%d", (int)n, s, (long long)id, TX_MAX_ID - 1);
    if (tx_room((void **)&v->names, &v->cap, (size_t)id + 1, sizeof *v->names, err) || grow_slots(v, err))
        return -1;
    for (; v->size <= id; v->size++)
        v->names[v->size].n = -1;
    if (v->names[id].n >= 0)
        return bs_err(err, "tokens '%s' and '%.*s' both have the id %lld", v->bytes.p + v->names[id].at, (int)n, s,
                      (long long)id);
    size_t slot = slot_of(v, s, n), at = v->bytes.n;
    if (bs_buf_put(&v->bytes, s, n, err) || bs_buf_put(&v->bytes, "", 1, err))
        return -1;
    v->names[id] = (tx_name){.at = at, .n = (int32_t)n};
    v->slots[slot] = (int32_t)id; /* of two equal names the later one is found, as in a map filled in order */
    v->count++;
    return 0;
}

int32_t tx_vocab_get(const tx_vocab *v, const char *s, size_t n)
{
    return v->n_slots && n <= INT32_MAX ? v->slots[slot_of(v, s, n)] : -1;
}

const char *tx_vocab_name(const tx_vocab *v, int32_t id, size_t *n)
{
    if (id < 0 || id >= v->size || v->names[id].n < 0)
        return NULL;
    *n = (size_t)v->names[id].n;
    return v->bytes.p + v->names[id].at;
}

int tx_vocab_read(tx_vocab *v, const json_t *o, oc_err *err)
{
    const char *name;
    json_t *id;
    if (!json_is_object(o))
        return bs_err(err, "vocab must be an object of ids");
    json_object_foreach((json_t *)(uintptr_t)o, name, id)
    {
        if (!json_is_integer(id))
            return bs_err(err, "vocab: the id of token '%s' must be an integer", name);
        if (tx_vocab_put(v, name, strlen(name), json_integer_value(id), err))
            return -1;
    }
    return 0;
}

void tx_vocab_clear(tx_vocab *v)
{
    bs_buf_clear(&v->bytes);
    free(v->names);
    free(v->slots);
    memset(v, 0, sizeof *v);
}
