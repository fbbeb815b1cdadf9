/* bpe.c - byte pair encoding (Sennrich et al. 2016): a word begins as characters, and the pair of neighbours
 * that stands first in the list of merges becomes one, until none is in the list. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

/* What a pair becomes. key: left id << 32 | right id; EMPTY marks a free slot. */
typedef struct merge {
    uint64_t key;
    uint32_t rank;
    int32_t id;
} merge;
static const uint64_t EMPTY = UINT64_MAX;

typedef struct bpe {
    merge *merges; /* open addressing */
    size_t n_slots;
    char *prefix, *suffix; /* on every character but the first, on the last; "" for none */
    size_t prefix_n, suffix_n;
    int32_t byte_ids[256]; /* byte fallback; -1: the vocabulary lacks it */
    bool fuse_unk, byte_fallback, ignore_merges;
    tx_vocab frozen; /* sentencepiece's symbols of the user: found before anything is merged */
    size_t longest_frozen;
} bpe;

/* ---- merges ------------------------------------------------------------------------------------------ */

static size_t slot_of(const bpe *b, uint64_t key)
{
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(h ^ h >> 32) & (b->n_slots - 1);
    while (b->merges[at].key != EMPTY && b->merges[at].key != key)
        at = (at + 1) & (b->n_slots - 1);
    return at;
}

static const merge *find(const bpe *b, int32_t left, int32_t right)
{
    const merge *m = &b->merges[slot_of(b, (uint64_t)(uint32_t)left << 32 | (uint32_t)right)];
    return m->key == EMPTY ? NULL : m;
}

static int32_t need_token(const tx_model *m, const char *s, size_t n, size_t rank, oc_err *err)
{
    int32_t id = tx_vocab_get(&m->vocab, s, n);
    if (id < 0)
        bs_err(err, "model BPE: merge %zu needs the token '%.*s', which the vocabulary lacks", rank, (int)n, s);
    return id;
}

static int put_merge(tx_model *m, size_t rank, const char *a, size_t an, const char *b, size_t bn, oc_err *err)
{
    bpe *own = m->own;
    bs_buf joined = {0};
    int result = -1;
    int32_t left = need_token(m, a, an, rank, err), right = left < 0 ? -1 : need_token(m, b, bn, rank, err);
    if (right < 0)
        goto done;
    if (bn < own->prefix_n) {
        bs_err(err, "model BPE: merge %zu: '%s' is shorter than the continuing_subword_prefix", rank, b);
        goto done;
    }
    if (bs_buf_put(&joined, a, an, err) || bs_buf_put(&joined, b + own->prefix_n, bn - own->prefix_n, err))
        goto done;
    int32_t id = need_token(m, joined.p, joined.n, rank, err);
    if (id < 0)
        goto done;
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    own->merges[slot_of(own, key)] = (merge){.key = key, .rank = (uint32_t)rank, .id = id};
    result = 0;
done:
    bs_buf_clear(&joined);
    return result;
}

/* A merge is ["a", "b"] or, in older files, "a b"; of sentencepiece ["a", "b", rank]. */
static int read_merge(tx_model *m, size_t rank, const json_t *o, oc_err *err)
{
    const json_t *a = json_array_get(o, 0), *b = json_array_get(o, 1), *own = json_array_get(o, 2);
    if (json_is_integer(own) && json_integer_value(own) >= 0 && json_integer_value(own) < UINT32_MAX)
        rank = (size_t)json_integer_value(own);
    if (json_array_size(o) == (own ? 3 : 2) && json_is_string(a) && json_is_string(b))
        return put_merge(m, rank, json_string_value(a), json_string_length(a), json_string_value(b), json_string_length(b), err);
    const char *s = json_string_value(o), *space = s ? memchr(s, ' ', json_string_length(o)) : NULL;
    size_t n = s ? json_string_length(o) : 0;
    if (!space || memchr(space + 1, ' ', (size_t)(s + n - space - 1)))
        return bs_err(err, "model BPE: merge %zu must be two tokens", rank);
    return put_merge(m, rank, s, (size_t)(space - s), space + 1, (size_t)(s + n - space - 1), err);
}

static int read_merges(tx_model *m, const json_t *list, oc_err *err)
{
    bpe *b = m->own;
    if (!json_is_array(list))
        return bs_err(err, "model BPE: 'merges' must be a list");
    for (b->n_slots = 16; b->n_slots < 2 * json_array_size(list);)
        b->n_slots *= 2;
    b->merges = malloc(b->n_slots * sizeof *b->merges);
    if (!b->merges)
        return bs_err(err, "out of memory: %zu merges", json_array_size(list));
    for (size_t i = 0; i < b->n_slots; i++)
        b->merges[i].key = EMPTY;
    size_t rank = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        const char *s = json_string_value(o);
        if (s && strncmp(s, "#version", 8) == 0)
            continue;
        if (read_merge(m, rank++, o, err))
            return -1;
    }
    return 0;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static int keep(const json_t *o, const char *key, char **out, size_t *n, oc_err *err)
{
    const char *s;
    if (tx_json_text(o, "model BPE", key, &s, n, err))
        return -1;
    *out = bs_strdup(s ? s : "");
    return *out ? 0 : bs_err(err, "out of memory: '%s'", key);
}

static int read_options(tx_model *m, const json_t *o, oc_err *err)
{
    bpe *b = m->own;
    const char *unk;
    size_t n;
    const json_t *dropout = json_object_get(o, "dropout");
    if (json_is_number(dropout) && json_number_value(dropout) > 0)
        return bs_err(err, "model BPE: a dropout of %g makes the ids random, which is not done here", json_number_value(dropout));
    if (tx_json_bool(o, "model BPE", "fuse_unk", false, &b->fuse_unk, err) ||
        tx_json_bool(o, "model BPE", "byte_fallback", false, &b->byte_fallback, err) ||
        tx_json_bool(o, "model BPE", "ignore_merges", false, &b->ignore_merges, err) ||
        tx_json_text(o, "model BPE", "unk_token", &unk, &n, err))
        return -1;
    if (unk && (m->unk = tx_vocab_get(&m->vocab, unk, n)) < 0)
        return bs_err(err, "model BPE: the vocabulary lacks its unk_token '%s'", unk);
    for (int i = 0; i < 256; i++)
        b->byte_ids[i] = tx_byte_token(&m->vocab, (unsigned char)i);
    return 0;
}

static int read_frozen(bpe *b, const json_t *list, oc_err *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        if (!json_is_string(o) || !json_string_length(o))
            return bs_err(err, "model BPE: symbol %zu of 'frozen' must be a text", i);
        if (tx_vocab_get(&b->frozen, json_string_value(o), json_string_length(o)) < 0 &&
            tx_vocab_put(&b->frozen, json_string_value(o), json_string_length(o), (json_int_t)i, err))
            return -1;
        b->longest_frozen = json_string_length(o) > b->longest_frozen ? json_string_length(o) : b->longest_frozen;
    }
    return 0;
}

static int bpe_open(tx_model *m, const json_t *o, oc_err *err)
{
    bpe *b = m->own = calloc(1, sizeof *b);
    if (!b)
        return bs_err(err, "out of memory: a BPE model");
    if (keep(o, "continuing_subword_prefix", &b->prefix, &b->prefix_n, err) ||
        keep(o, "end_of_word_suffix", &b->suffix, &b->suffix_n, err))
        return -1;
    if (tx_vocab_read(&m->vocab, json_object_get(o, "vocab"), err) || read_options(m, o, err) ||
        read_frozen(b, json_object_get(o, "frozen"), err))
        return -1;
    return read_merges(m, json_object_get(o, "merges"), err);
}

static void bpe_close(tx_model *m)
{
    bpe *b = m->own;
    if (!b)
        return;
    free(b->merges);
    free(b->prefix);
    free(b->suffix);
    tx_vocab_clear(&b->frozen);
    free(b);
}

const char *tx_bpe_suffix(const tx_model *m, size_t *n)
{
    const bpe *b = m->kind == &tx_bpe ? m->own : NULL;
    *n = b ? b->suffix_n : 0;
    return *n ? b->suffix : NULL;
}

/* ---- one word ---------------------------------------------------------------------------------------- */

/* Symbols of a word in a list linked both ways; id -1 marks one that was merged into its left neighbour. */
typedef struct symbol {
    int32_t id;
    int32_t left, right; /* -1: none */
} symbol;

/* A pair that can be merged. It may be out of date when its turn comes. */
typedef struct candidate {
    uint32_t rank;
    int32_t at, id;
} candidate;

static bool before(const candidate *a, const candidate *b) { return a->rank != b->rank ? a->rank < b->rank : a->at < b->at; }

static void push(candidate *heap, size_t *n, candidate c)
{
    size_t i = (*n)++;
    for (; i > 0 && before(&c, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
}

static candidate pop(candidate *heap, size_t *n)
{
    candidate top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void offer(const bpe *b, const symbol *s, int32_t at, candidate *heap, size_t *n)
{
    if (at < 0 || s[at].right < 0)
        return;
    const merge *m = find(b, s[at].id, s[s[at].right].id);
    if (m)
        push(heap, n, (candidate){.rank = m->rank, .at = at, .id = m->id});
}

/* Merges until nothing can be merged. The heap needs room for 3 n: n - 1 pairs at first, two more for each
 * merge. */
static void merge_all(const bpe *b, symbol *s, size_t count, candidate *heap)
{
    size_t n = 0;
    for (size_t i = 0; i + 1 < count; i++)
        offer(b, s, (int32_t)i, heap, &n);
    while (n > 0) {
        candidate c = pop(heap, &n);
        symbol *left = &s[c.at];
        if (left->id < 0 || left->right < 0)
            continue;
        symbol *right = &s[left->right];
        const merge *m = find(b, left->id, right->id);
        if (!m || m->id != c.id)
            continue;
        left->id = c.id;
        left->right = right->right;
        right->id = -1;
        if (left->right >= 0)
            s[left->right].left = c.at;
        offer(b, s, left->left, heap, &n);
        offer(b, s, c.at, heap, &n);
    }
}

typedef struct symbols {
    symbol *p;
    size_t n;
} symbols;

static void put_symbol(symbols *out, int32_t id)
{
    int32_t at = (int32_t)out->n;
    out->p[out->n++] = (symbol){.id = id, .left = at - 1, .right = -1};
    if (at > 0)
        out->p[at - 1].right = at;
}

/* A character with the prefix and suffix that its place in the word asks for. */
static int spell(const bpe *b, const char *s, size_t n, bool first, bool last, bs_buf *out, oc_err *err)
{
    out->n = 0;
    if (!first && bs_buf_put(out, b->prefix, b->prefix_n, err))
        return -1;
    if (bs_buf_put(out, s, n, err))
        return -1;
    return last ? bs_buf_put(out, b->suffix, b->suffix_n, err) : 0;
}

/* The bytes as tokens, if the vocabulary has all of them. */
static bool put_byte_symbols(const bpe *b, const char *s, size_t n, symbols *out)
{
    for (size_t i = 0; i < n; i++)
        if (b->byte_ids[(unsigned char)s[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        put_symbol(out, b->byte_ids[(unsigned char)s[i]]);
    return true;
}

/* Length of the character that s begins with, or of the longest symbol of the user. */
static size_t symbol_length(const bpe *b, const char *s, size_t n)
{
    uint32_t c;
    size_t length = b->longest_frozen < n ? b->longest_frozen : n;
    while (length && tx_vocab_get(&b->frozen, s, length) < 0)
        length--;
    return length ? length : tx_utf8_get(s, n, &c);
}

/* The characters of a word as symbols. Unknown ones are kept back and put when a known one follows, which is
 * the order in which `tokenizers` does it. */
static int split_chars(const tx_model *m, const char *s, size_t n, bs_buf *text, symbols *out, oc_err *err)
{
    const bpe *b = m->own;
    bool pending = false;
    for (size_t i = 0; i < n;) {
        size_t length = symbol_length(b, s + i, n - i);
        if (spell(b, s + i, length, i == 0, i + length == n, text, err))
            return -1;
        i += length;
        int32_t id = tx_vocab_get(&m->vocab, text->p, text->n);
        if (id >= 0) {
            if (pending)
                put_symbol(out, m->unk);
            pending = false;
            put_symbol(out, id);
        } else if (b->byte_fallback && put_byte_symbols(b, text->p, text->n, out)) {
            continue;
        } else if (m->unk >= 0) {
            if (pending && !b->fuse_unk)
                put_symbol(out, m->unk);
            pending = true;
        }
    }
    if (pending)
        put_symbol(out, m->unk);
    return 0;
}

static int bpe_word(const tx_model *m, const char *s, size_t n, tx_scratch *scratch, tx_ids *out, oc_err *err)
{
    const bpe *b = m->own;
    if (b->ignore_merges) {
        int32_t id = tx_vocab_get(&m->vocab, s, n);
        if (id >= 0)
            return tx_ids_put(out, id, err);
    }
    /* With byte fallback each byte may be a symbol, those of prefix and suffix too. */
    size_t most = n + tx_utf8_count(s, n) * (b->byte_fallback ? b->prefix_n : 0) + (b->byte_fallback ? b->suffix_n : 0);
    if (most > INT32_MAX / 4)
        return bs_err(err, "a text of %zu bytes without a break is too long for BPE", n);
    symbols word = {.p = tx_scratch_get(scratch, 0, most, sizeof(symbol), err)};
    candidate *heap = tx_scratch_get(scratch, 1, 3 * most, sizeof(candidate), err);
    if (!word.p || !heap || split_chars(m, s, n, &scratch->text, &word, err))
        return -1;
    merge_all(b, word.p, word.n, heap);
    for (int32_t i = word.n ? 0 : -1; i >= 0; i = word.p[i].right)
        if (tx_ids_put(out, word.p[i].id, err))
            return -1;
    return 0;
}

const tx_model_kind tx_bpe = {"BPE", bpe_open, bpe_word, bpe_close};
