/* charsmap.c - sentencepiece's precompiled table: strings to replace in a double-array trie (Aoe 1989, as in
 * Darts-clone), and what replaces them, one behind the other, each ended by a 0 byte. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text_parts.h"

struct tx_charsmap {
    uint32_t *units;
    size_t n_units;
    char *texts; /* ends in a 0 byte */
    size_t n_texts;
};

/* ---- reading ----------------------------------------------------------------------------------------- */

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static int decode_base64(const char *s, size_t n, bs_buf *out, oc_err *err)
{
    uint32_t bits = 0;
    int held = 0;
    while (n > 0 && s[n - 1] == '=')
        n--;
    for (size_t i = 0; i < n; i++) {
        int value = base64_value(s[i]);
        if (value < 0)
            return bs_err(err, "normalizer Precompiled: the table is not valid base64 at %zu", i);
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held < 8)
            continue;
        held -= 8;
        char byte = (char)(bits >> held & 0xff);
        if (bs_buf_put(out, &byte, 1, err))
            return -1;
    }
    return 0;
}

static uint32_t get_u32(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

/* The length of the trie in bytes, the trie, the texts. */
static int fill(tx_charsmap *m, const bs_buf *raw, oc_err *err)
{
    size_t bytes = raw->n < 4 ? 0 : get_u32(raw->p);
    if (bytes == 0 || bytes % 4 || bytes > raw->n - 4)
        return bs_err(err, "normalizer Precompiled: the trie has %zu bytes in a table of %zu", bytes, raw->n);
    m->n_units = bytes / 4;
    m->n_texts = raw->n - 4 - bytes;
    m->units = malloc(bytes);
    m->texts = malloc(m->n_texts + 1);
    if (!m->units || !m->texts)
        return bs_err(err, "out of memory: a table of %zu bytes", raw->n);
    for (size_t i = 0; i < m->n_units; i++)
        m->units[i] = get_u32(raw->p + 4 + 4 * i);
    memcpy(m->texts, raw->p + 4 + bytes, m->n_texts);
    m->texts[m->n_texts] = 0;
    if (tx_utf8_valid(m->texts, m->n_texts) != m->n_texts)
        return bs_err(err, "normalizer Precompiled: the replacements are not valid UTF-8");
    return 0;
}

tx_charsmap *tx_charsmap_open(const char *base64, size_t n, oc_err *err)
{
    bs_buf raw = {0};
    tx_charsmap *m = calloc(1, sizeof *m);
    if (!m) {
        bs_err(err, "out of memory: a table of replacements");
        return NULL;
    }
    if (decode_base64(base64, n, &raw, err) || fill(m, &raw, err)) {
        tx_charsmap_close(m);
        m = NULL;
    }
    bs_buf_clear(&raw);
    return m;
}

void tx_charsmap_close(tx_charsmap *m)
{
    if (!m)
        return;
    free(m->units);
    free(m->texts);
    free(m);
}

/* ---- applying ---------------------------------------------------------------------------------------- */

static uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

/* The replacement of the shortest (or longest) key that s begins with, and the key's length; NULL: none. The shortest is what `tokenizers`
 * takes. */
static const char *replacement(const tx_charsmap *m, const char *s, size_t n, bool longest, size_t *key)
{
    size_t at = offset_of(m->units[0]);
    const char *found = NULL;
    for (size_t i = 0; i < n && s[i]; i++) {
        unsigned char byte = (unsigned char)s[i];
        at ^= byte;
        if (at >= m->n_units || (m->units[at] & (1u << 31 | 0xff)) != byte)
            break;
        bool leaf = m->units[at] >> 8 & 1;
        at ^= offset_of(m->units[at]);
        if (!leaf)
            continue;
        size_t value = at < m->n_units ? m->units[at] & ~(1u << 31) : SIZE_MAX;
        found = value < m->n_texts ? m->texts + value : NULL;
        *key = i + 1;
        if (!longest)
            break;
    }
    return found;
}

/* End of the grapheme cluster that begins at s. */
static size_t grapheme_end(const char *s, size_t n)
{
    uint32_t c, next;
    utf8proc_int32_t state = 0;
    size_t end = tx_utf8_get(s, n, &c);
    while (end < n) {
        size_t length = tx_utf8_get(s + end, n - end, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)next, &state))
            break;
        end += length;
        c = next;
    }
    return end;
}

static int put_chars(const tx_charsmap *m, const char *s, size_t n, bs_buf *out, oc_err *err)
{
    for (size_t i = 0, length, key; i < n; i += length) {
        uint32_t c;
        length = tx_utf8_get(s + i, n - i, &c);
        const char *with = replacement(m, s + i, length, false, &key);
        if (with ? bs_buf_put(out, with, strlen(with), err) : bs_buf_put(out, s + i, length, err))
            return -1;
    }
    return 0;
}

int tx_charsmap_apply(const tx_charsmap *m, const char *s, size_t n, bs_buf *out, oc_err *err)
{
    enum { LONGEST_KEY = 5 }; /* bytes of a cluster that is looked up whole */
    for (size_t i = 0, length, key; i < n; i += length) {
        length = grapheme_end(s + i, n - i);
        const char *with = length <= LONGEST_KEY ? replacement(m, s + i, length, false, &key) : NULL;
        if (with ? bs_buf_put(out, with, strlen(with), err) : put_chars(m, s + i, length, out, err))
            return -1;
    }
    return 0;
}

int tx_charsmap_longest(const tx_charsmap *m, const char *s, size_t n, bs_buf *out, oc_err *err)
{
    for (size_t i = 0, length; i < n; i += length) {
        uint32_t c;
        const char *with = replacement(m, s + i, n - i, true, &length);
        if (!with)
            length = tx_utf8_get(s + i, n - i, &c);
        if (with ? bs_buf_put(out, with, strlen(with), err) : bs_buf_put(out, s + i, length, err))
            return -1;
    }
    return 0;
}
