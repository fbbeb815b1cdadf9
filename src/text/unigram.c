/* unigram.c - sentencepiece's unigram model (Kudo 2018): of all ways to cut a word into pieces, the one whose
 * scores sum highest (Viterbi). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

/* A trie of bytes: children of a node hang in a list by brothers. */
typedef struct node {
    int32_t child, brother; /* -1: none */
    int32_t id;             /* -1: no piece ends here */
    unsigned char byte;
} node;

typedef struct unigram {
    double *scores; /* by id */
    double unknown; /* what an unknown character costs */
    node *nodes;
    size_t n, cap;
    int32_t first[256]; /* children of the root */
    int32_t byte_ids[256];
    bool byte_fallback;
    bool floats; /* sums are rounded as sentencepiece's are, which decides where two ways are all but equal */
} unigram;

static int32_t child_of(const unigram *u, int32_t from, unsigned char byte)
{
    int32_t at = from < 0 ? u->first[byte] : u->nodes[from].child;
    while (at >= 0 && u->nodes[at].byte != byte)
        at = u->nodes[at].brother;
    return at;
}

static int put_path(unigram *u, const char *s, size_t n, int32_t id, oc_err *err)
{
    int32_t at = -1;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)s[i];
        int32_t next = child_of(u, at, byte);
        if (next < 0) {
            if (u->n >= INT32_MAX || tx_room((void **)&u->nodes, &u->cap, u->n + 1, sizeof *u->nodes, err))
                return -1;
            next = (int32_t)u->n++;
            int32_t *head = at < 0 ? &u->first[byte] : &u->nodes[at].child;
            u->nodes[next] = (node){.child = -1, .brother = *head, .id = -1, .byte = byte};
            *head = next;
        }
        at = next;
    }
    if (at >= 0)
        u->nodes[at].id = id;
    return 0;
}

/* Symbols of sentencepiece's user nearly always win, the longest of them first. */
static void favour_symbols(unigram *u, const json_t *list, double most)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i);
        if (json_is_true(json_array_get(pair, 2)))
            u->scores[i] = (double)json_string_length(json_array_get(pair, 0)) * most - 0.1;
    }
}

static int read_pieces(tx_model *m, const json_t *list, oc_err *err)
{
    unigram *u = m->own;
    double least = INFINITY, most = -INFINITY;
    if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > TX_MAX_ID)
        return bs_err(err, "model Unigram: 'vocab' must be a list of pieces with scores");
    u->scores = malloc(json_array_size(list) * sizeof *u->scores);
    if (!u->scores)
        return bs_err(err, "out of memory: %zu pieces", json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i), *name = json_array_get(pair, 0), *score = json_array_get(pair, 1);
        if (!json_is_string(name) || (!json_is_number(score) && !json_is_null(score)))
            return bs_err(err, "model Unigram: piece %zu must be [name, score]", i);
        if (tx_vocab_put(&m->vocab, json_string_value(name), json_string_length(name), (json_int_t)i, err))
            return -1;
        u->scores[i] = json_number_value(score);
        if (json_is_null(score)) /* of sentencepiece: no text spells it */
            continue;
        least = u->scores[i] < least ? u->scores[i] : least;
        most = u->scores[i] > most ? u->scores[i] : most;
        if (put_path(u, json_string_value(name), json_string_length(name), (int32_t)i, err))
            return -1;
    }
    favour_symbols(u, list, most);
    u->unknown = least - 10; /* sentencepiece's kUnkPenalty */
    return 0;
}

static int unigram_open(tx_model *m, const json_t *o, oc_err *err)
{
    json_int_t unk;
    unigram *u = m->own = calloc(1, sizeof *u);
    if (!u)
        return bs_err(err, "out of memory: a Unigram model");
    memset(u->first, 0xff, sizeof u->first);
    if (read_pieces(m, json_object_get(o, "vocab"), err) || tx_json_int(o, "model Unigram", "unk_id", -1, &unk, err) ||
        tx_json_bool(o, "model Unigram", "byte_fallback", false, &u->byte_fallback, err) ||
        tx_json_bool(o, "model Unigram", "floats", false, &u->floats, err))
        return -1;
    if (unk < -1 || unk >= m->vocab.size)
        return bs_err(err, "model Unigram: unk_id %lld is not in 0..%d", (long long)unk, m->vocab.size - 1);
    m->unk = (int32_t)unk;
    for (int i = 0; i < 256; i++)
        u->byte_ids[i] = tx_byte_token(&m->vocab, (unsigned char)i);
    return 0;
}

static void unigram_close(tx_model *m)
{
    unigram *u = m->own;
    if (!u)
        return;
    free(u->scores);
    free(u->nodes);
    free(u);
}

/* The best way to reach a place in the word. */
typedef struct best {
    double score;
    size_t from; /* SIZE_MAX: not reached */
    int32_t id;
} best;

static void reach(best *b, size_t from, size_t to, double score, int32_t id)
{
    if (b[to].from == SIZE_MAX || score > b[to].score)
        b[to] = (best){.score = score, .from = from, .id = id};
}

static double sum_of(const unigram *u, double a, double b) { return u->floats ? (double)((float)a + (float)b) : a + b; }

static int find_best(const tx_model *m, const char *s, size_t n, best *b, oc_err *err)
{
    const unigram *u = m->own;
    for (size_t i = 0; i <= n; i++)
        b[i] = (best){.from = SIZE_MAX};
    for (size_t i = 0, length; i < n; i += length) {
        uint32_t c;
        bool single = false;
        int32_t at = -1;
        length = tx_utf8_get(s + i, n - i, &c);
        for (size_t k = i; k < n && (at = child_of(u, at, (unsigned char)s[k])) >= 0; k++) {
            if (u->nodes[at].id < 0)
                continue;
            reach(b, i, k + 1, sum_of(u, b[i].score, u->scores[u->nodes[at].id]), u->nodes[at].id);
            single = single || k + 1 == i + length;
        }
        if (single)
            continue;
        if (m->unk < 0)
            return bs_err(err, "the text has the character U+%04X, and the tokenizer has no unknown token for it", c);
        reach(b, i, i + length, sum_of(u, b[i].score, u->unknown), m->unk);
    }
    return 0;
}

/* Unknown characters side by side: a piece that they happen to spell, their bytes, or one unknown token. */
static int put_unknown(const tx_model *m, const char *s, size_t n, tx_ids *out, oc_err *err)
{
    const unigram *u = m->own;
    int32_t id = tx_vocab_get(&m->vocab, s, n);
    if (id >= 0)
        return tx_ids_put(out, id, err);
    bool bytes = u->byte_fallback;
    for (size_t i = 0; i < n && bytes; i++)
        bytes = u->byte_ids[(unsigned char)s[i]] >= 0;
    if (!bytes)
        return tx_ids_put(out, m->unk, err);
    for (size_t i = 0; i < n; i++)
        if (tx_ids_put(out, u->byte_ids[(unsigned char)s[i]], err))
            return -1;
    return 0;
}

static int unigram_word(const tx_model *m, const char *s, size_t n, tx_scratch *scratch, tx_ids *out, oc_err *err)
{
    best *b = tx_scratch_get(scratch, 0, n + 1, sizeof *b, err);
    size_t *ends = tx_scratch_get(scratch, 1, n + 1, sizeof *ends, err);
    if (!b || !ends || find_best(m, s, n, b, err))
        return -1;
    size_t count = 0, from = 0, to;
    for (to = n; to > 0; to = b[to].from)
        ends[count++] = to;
    for (int bad; count > 0; from = to) {
        to = ends[--count];
        int32_t id = b[to].id;
        while (id == m->unk && count > 0 && b[ends[count - 1]].id == id)
            to = ends[--count];
        bad = id == m->unk ? put_unknown(m, s + from, to - from, out, err) : tx_ids_put(out, id, err);
        if (bad)
            return -1;
    }
    return 0;
}

const tx_model_kind tx_unigram = {"Unigram", unigram_open, unigram_word, unigram_close};
