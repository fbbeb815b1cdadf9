/* added_tokens.c - tokens that are found in the text as they stand, before anything else cuts it. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

typedef struct entry {
    tx_added_token token;
    char *content;
    size_t n;
    char *form; /* what is searched: the content, or its normal form if it asks for that */
    size_t form_n;
} entry;

/* Entries to search, in buckets by their first byte, long ones first: the first that fits is the longest. */
typedef struct finder {
    int32_t *order;
    int32_t start[257];
} finder;

struct tx_added {
    entry *entries;
    size_t n, cap;
    int32_t size;
    tx_vocab names; /* content to entry's number */
    int32_t *by_id; /* id to entry's number, -1 */
    finder raw, normal;
    tx_regex *word; /* \w, when a token asks for whole words */
};

tx_added *tx_added_open(oc_err *err)
{
    tx_added *a = calloc(1, sizeof *a);
    if (!a)
        bs_err(err, "out of memory: added tokens");
    return a;
}

void tx_added_close(tx_added *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n; i++) {
        free(a->entries[i].content);
        free(a->entries[i].form);
    }
    free(a->entries);
    free(a->by_id);
    free(a->raw.order);
    free(a->normal.order);
    tx_vocab_clear(&a->names);
    tx_regex_close(a->word);
    free(a);
}

/* The id that a new token gets where none is given: behind the model's, behind all added so far. */
static int32_t next_id(const tx_added *a, const tx_model *m) { return a->size > m->vocab.size ? a->size : m->vocab.size; }

int tx_added_put(tx_added *a, const tx_model *m, const char *s, size_t n, tx_added_token token, oc_err *err)
{
    if (n == 0)
        return 0;
    int32_t known = tx_vocab_get(&m->vocab, s, n), old = tx_vocab_get(&a->names, s, n);
    if (token.id >= TX_MAX_ID)
        return bs_err(err, "added token '%s' has the id %d, which must be below %d", s, token.id, TX_MAX_ID);
    if (old >= 0)
        known = a->entries[old].token.id;
    if (known >= 0)
        token.id = known;
    else if (token.id < 0)
        token.id = next_id(a, m);
    if (old >= 0) { /* said again, perhaps otherwise: the last word counts */
        a->entries[old].token = token;
        return 0;
    }
    if (tx_room((void **)&a->entries, &a->cap, a->n + 1, sizeof *a->entries, err))
        return -1;
    entry *e = &a->entries[a->n];
    *e = (entry){.token = token, .n = n, .content = malloc(n + 1)};
    if (!e->content)
        return bs_err(err, "out of memory: added token '%s'", s);
    memcpy(e->content, s, n);
    e->content[n] = 0;
    if (tx_vocab_put(&a->names, s, n, (json_int_t)a->n, err)) {
        free(e->content);
        return -1;
    }
    a->n++;
    if (token.id >= a->size)
        a->size = token.id + 1;
    return 0;
}

/* ---- making ready ------------------------------------------------------------------------------------ */

static int fill_finder(tx_added *a, finder *f, bool normalized, oc_err *err)
{
    f->order = malloc((a->n + 1) * sizeof *f->order);
    if (!f->order)
        return bs_err(err, "out of memory: %zu added tokens", a->n);
    int32_t count = 0;
    for (int byte = 0; byte < 256; byte++) {
        f->start[byte] = count;
        for (size_t i = 0; i < a->n; i++) {
            const entry *e = &a->entries[i];
            if (e->token.normalized != normalized || !e->form_n || (unsigned char)e->form[0] != byte)
                continue;
            int32_t k = count++; /* few share a first byte: insertion keeps the long ones in front */
            for (; k > f->start[byte] && a->entries[f->order[k - 1]].form_n < e->form_n; k--)
                f->order[k] = f->order[k - 1];
            f->order[k] = (int32_t)i;
        }
    }
    f->start[256] = count;
    return 0;
}

static int fill_form(entry *e, const tx_normalizer *z, oc_err *err)
{
    bs_buf form = {0};
    bool moved;
    free(e->form);
    e->form = NULL;
    if (e->token.normalized ? tx_normalize(z, e->content, e->n, &form, &moved, err) : bs_buf_put(&form, e->content, e->n, err)) {
        bs_buf_clear(&form);
        return -1;
    }
    e->form = form.p;
    e->form_n = form.n;
    return 0;
}

static int fill_ids(tx_added *a, oc_err *err)
{
    a->by_id = malloc(((size_t)a->size + 1) * sizeof *a->by_id);
    if (!a->by_id)
        return bs_err(err, "out of memory: %d ids", a->size);
    for (int32_t i = 0; i < a->size; i++)
        a->by_id[i] = -1;
    for (size_t i = 0; i < a->n; i++)
        a->by_id[a->entries[i].token.id] = (int32_t)i;
    return 0;
}

int tx_added_ready(tx_added *a, const tx_normalizer *z, oc_err *err)
{
    for (size_t i = 0; i < a->n; i++) {
        if (fill_form(&a->entries[i], z, err))
            return -1;
        if (a->entries[i].token.single_word && !a->word && !(a->word = tx_word_regex_open("\\w", err)))
            return -1;
    }
    return fill_ids(a, err) || fill_finder(a, &a->raw, false, err) || fill_finder(a, &a->normal, true, err) ? -1 : 0;
}

int32_t tx_added_get(const tx_added *a, const char *s, size_t n)
{
    int32_t i = tx_vocab_get(&a->names, s, n);
    return i < 0 ? -1 : a->entries[i].token.id;
}

static const entry *entry_of(const tx_added *a, int32_t id)
{
    return id >= 0 && id < a->size && a->by_id[id] >= 0 ? &a->entries[a->by_id[id]] : NULL;
}

const tx_added_token *tx_added_by_id(const tx_added *a, int32_t id, const char **name, size_t *n)
{
    const entry *e = entry_of(a, id);
    if (!e)
        return NULL;
    *name = e->form;
    *n = e->form_n;
    return &e->token;
}

const char *tx_added_content(const tx_added *a, int32_t id)
{
    const entry *e = entry_of(a, id);
    return e ? e->content : NULL;
}

int32_t tx_added_size(const tx_added *a) { return a->size; }

/* ---- cutting ----------------------------------------------------------------------------------------- */

static const entry *longest_at(const tx_added *a, const finder *f, const char *s, size_t n)
{
    unsigned char first = (unsigned char)s[0];
    for (int32_t i = f->start[first]; i < f->start[first + 1]; i++) {
        const entry *e = &a->entries[f->order[i]];
        if (e->form_n <= n && memcmp(s, e->form, e->form_n) == 0)
            return e;
    }
    return NULL;
}

/* Start of the character that ends at `end`. */
static size_t char_before(const char *s, size_t end)
{
    do
        end--;
    while (end > 0 && (s[end] & 0xc0) == 0x80);
    return end;
}

static int is_word(const tx_added *a, const char *s, size_t n, bool *word, oc_err *err)
{
    tx_spans spans = {0};
    uint32_t c;
    int result = tx_regex_cut(a->word, s, tx_utf8_get(s, n, &c), &spans, err);
    *word = !result && spans.n > 0 && spans.p[0].hit;
    tx_spans_clear(&spans);
    return result;
}

/* Whether [at, end) has no letter, digit or underscore right before or behind it. */
static int stands_alone(const tx_added *a, const char *s, size_t n, size_t at, size_t end, bool *alone, oc_err *err)
{
    bool before = false, behind = false;
    size_t last = at > 0 ? char_before(s, at) : 0;
    if ((at > 0 && is_word(a, s + last, at - last, &before, err)) || (end < n && is_word(a, s + end, n - end, &behind, err)))
        return -1;
    *alone = !before && !behind;
    return 0;
}

static void widen(const entry *e, const char *s, size_t n, size_t done, size_t *at, size_t *end)
{
    uint32_t c;
    while (e->token.lstrip && *at > done) {
        size_t last = char_before(s, *at);
        tx_utf8_get(s + last, *at - last, &c);
        if (!tx_is_space(c) || last < done)
            break;
        *at = last;
    }
    while (e->token.rstrip && *end < n) {
        size_t length = tx_utf8_get(s + *end, n - *end, &c);
        if (!tx_is_space(c))
            break;
        *end += length;
    }
}

static int cut_with(const tx_added *a, const finder *f, const char *s, size_t n, bool head, tx_pieces *out, oc_err *err)
{
    size_t done = 0, i = 0;
    while (f->start[256] > 0 && i < n) {
        const entry *e = longest_at(a, f, s + i, n - i);
        if (!e) {
            i++;
            continue;
        }
        size_t at = i, end = i + e->form_n;
        bool alone = true;
        i = end;
        if (e->token.single_word && stands_alone(a, s, n, at, end, &alone, err))
            return -1;
        /* White space that an earlier token took may hide a later one from the cut, never from the search. */
        if (!alone || at < done)
            continue;
        widen(e, s, n, done, &at, &end);
        if (tx_pieces_put(out, s + done, at - done, -1, head && done == 0, err) ||
            tx_pieces_put(out, s + at, end - at, e->token.id, false, err))
            return -1;
        done = end;
    }
    return done < n ? tx_pieces_put(out, s + done, n - done, -1, head && done == 0, err) : 0;
}

int tx_added_cut(const tx_added *a, const tx_normalizer *z, const char *s, size_t n, tx_pieces *out, oc_err *err)
{
    tx_pieces raw = {0};
    bs_buf text = {0};
    int result = cut_with(a, &a->raw, s, n, true, &raw, err);
    for (size_t i = 0; i < raw.n && !result; i++) {
        const tx_piece *p = &raw.p[i];
        if (p->id >= 0) {
            result = tx_pieces_put(out, raw.text.p + p->at, p->n, p->id, false, err);
            continue;
        }
        bool moved;
        result = tx_normalize(z, raw.text.p + p->at, p->n, &text, &moved, err);
        if (!result)
            result = cut_with(a, &a->normal, text.p, text.n, p->head && !moved, out, err);
    }
    bs_buf_clear(&text);
    tx_pieces_clear(&raw);
    return result;
}
