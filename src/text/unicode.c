/* unicode.c - UTF-8, classes of characters, lower case, normal forms (Unicode Standard Annex 15), GPT-2's
 * bytes. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text_parts.h"
#include "unicode_ranges.h"

/* ---- UTF-8 ------------------------------------------------------------------------------------------- */

size_t tx_utf8_get(const char *s, size_t n, uint32_t *c)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80 || n < 2) {
        *c = u[0];
        return 1;
    }
    if (u[0] < 0xe0 || n < 3) {
        *c = (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
        return 2;
    }
    if (u[0] < 0xf0 || n < 4) {
        *c = (u[0] & 0x0fu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
        return 3;
    }
    *c = (u[0] & 0x07u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 | (u[3] & 0x3fu);
    return 4;
}

size_t tx_utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00 >> n & 0xff) | c);
    return n;
}

int tx_put_char(bs_buf *b, uint32_t c, oc_err *err)
{
    char bytes[4];
    return bs_buf_put(b, bytes, tx_utf8_put(c, bytes), err);
}

size_t tx_utf8_count(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += (s[i] & 0xc0) != 0x80;
    return count;
}

/* Length of the character at u[0..n): > 0 when it is valid, else minus the bytes that begin a valid one (at
 * least 1): what the Unicode standard calls a maximal subpart (section 3.9, table 3-7). */
static int char_length(const unsigned char *u, size_t n)
{
    if (u[0] < 0x80)
        return 1;
    if (u[0] < 0xc2 || u[0] > 0xf4)
        return -1;
    int want = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    unsigned char low = u[0] == 0xe0 ? 0xa0 : u[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = u[0] == 0xed ? 0x9f : u[0] == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < want; i++, low = 0x80, high = 0xbf)
        if ((size_t)i >= n || u[i] < low || u[i] > high)
            return -i;
    return want;
}

size_t tx_utf8_valid(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t i = 0;
    while (i < n) {
        if (u[i] < 0x80) {
            i++;
            continue;
        }
        int length = char_length(u + i, n - i);
        if (length < 0)
            break;
        i += (size_t)length;
    }
    return i;
}

int tx_utf8_clean(bs_buf *b, const char *s, size_t n, bool rust, oc_err *err)
{
    for (size_t at = 0; at < n;) {
        size_t good = tx_utf8_valid(s + at, n - at);
        if (bs_buf_put(b, s + at, good, err))
            return -1;
        at += good;
        if (at == n)
            break;
        int bad = char_length((const unsigned char *)s + at, n - at);
        if (bs_buf_put(b, "\xef\xbf\xbd", 3, err))
            return -1;
        at += rust ? (size_t)-bad : 1;
    }
    return 0;
}

size_t tx_utf8_begun(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t back = 1;
    while (back < 3 && back < n && (u[n - back] & 0xc0) == 0x80)
        back++;
    if (back > n || u[n - back] < 0xc2 || u[n - back] > 0xf4)
        return 0;
    return char_length(u + n - back, back) == -(int)back ? back : 0;
}

/* ---- classes ----------------------------------------------------------------------------------------- */

static bool within(const tx_range *r, size_t n, uint32_t c)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > r[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && c >= r[low].first;
}

bool tx_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool tx_is_punct(uint32_t c) { return within(tx_punct, tx_punct_n, c); }
bool tx_is_numeric(uint32_t c) { return within(tx_numeric, tx_numeric_n, c); }
bool tx_is_bert_other(uint32_t c) { return within(tx_other, tx_other_n, c); }
bool tx_is_accent(uint32_t c) { return within(tx_accent, tx_accent_n, c); }
bool tx_is_nonspacing(uint32_t c) { return within(tx_nonspacing, tx_nonspacing_n, c); }

/* ---- lower case -------------------------------------------------------------------------------------- */

/* Capitals of Unicode 16 and 17 in rows: the distance from each to its small letter. */
static const struct {
    uint32_t first, last;
    int32_t step;
} young_capitals[] = {{0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
                      {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},
                      {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
                      {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
                      {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 0x1b}};

static uint32_t lower_of(uint32_t c)
{
    for (size_t i = 0; i < sizeof young_capitals / sizeof young_capitals[0]; i++)
        if (c >= young_capitals[i].first && c <= young_capitals[i].last)
            return (uint32_t)((int32_t)c + young_capitals[i].step);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

int tx_lowercase(bs_buf *b, const char *s, size_t n, oc_err *err)
{
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t from = i;
        for (; i < n && (unsigned char)s[i] < 0x80; i++) {
        }
        if (i > from) {
            if (bs_buf_put(b, s + from, i - from, err))
                return -1;
            for (char *p = b->p + b->n - (i - from); *p; p++)
                *p = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
            continue;
        }
        i += tx_utf8_get(s + i, n - i, &c);
        /* The one character whose lower case is two. */
        int bad = c == 0x130 ? bs_buf_put(b, "i\xcc\x87", 3, err) : tx_put_char(b, lower_of(c), err);
        if (bad)
            return -1;
    }
    return 0;
}

/* ---- normal forms ------------------------------------------------------------------------------------ */

typedef struct mark {
    int32_t c;
    int ccc;
} mark;

/* Only marks have a class, and only those that the table of the same crate knows. */
static int class_of(int32_t c)
{
    if (c < 0x300 || !tx_is_accent((uint32_t)c))
        return 0;
    return utf8proc_get_property(c)->combining_class;
}

/* Puts the full decomposition of c behind out[n]; returns how many characters it has. */
static size_t decompose(uint32_t c, bool compat, mark *out)
{
    utf8proc_int32_t parts[32];
    int last = 0;
    utf8proc_ssize_t n = -1;
    if (c >= 0xa0 && !within(tx_young_form, tx_young_form_n, c))
        n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32,
                                    compat ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE, &last);
    if (n < 1 || n > 32) {
        parts[0] = (utf8proc_int32_t)c;
        n = 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++)
        out[i] = (mark){.c = parts[i], .ccc = class_of(parts[i])};
    return (size_t)n;
}

/* A stable sort by counting: a run of marks may be a whole hostile text, so nothing quadratic. */
static int sort_run(mark *m, size_t n, oc_err *err)
{
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++)
        sorted = m[i - 1].ccc <= m[i].ccc;
    if (sorted)
        return 0;
    size_t start[257] = {0};
    mark *copy = malloc(n * sizeof *copy);
    if (!copy)
        return bs_err(err, "out of memory: %zu combining marks", n);
    memcpy(copy, m, n * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        start[copy[i].ccc + 1]++;
    for (int k = 1; k < 257; k++)
        start[k] += start[k - 1];
    for (size_t i = 0; i < n; i++)
        m[start[copy[i].ccc]++] = copy[i];
    free(copy);
    return 0;
}

static int order_marks(mark *m, size_t n, oc_err *err)
{
    for (size_t i = 0; i < n; i++) {
        size_t from = i;
        while (i < n && m[i].ccc > 0)
            i++;
        if (i > from + 1 && sort_run(m + from, i - from, err))
            return -1;
    }
    return 0;
}

/* The character that a and b make together; -1: none. */
static int32_t composite(int32_t a, int32_t b)
{
    if (b < 0x300)
        return -1;
    utf8proc_int32_t pair[2] = {a, b};
    if (utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) != 1)
        return -1;
    return within(tx_young_form, tx_young_form_n, (uint32_t)pair[0]) ? -1 : pair[0];
}

/* Composes in place; returns the new length. */
static size_t compose(mark *m, size_t n)
{
    size_t out = 0, starter = SIZE_MAX;
    int last = 0; /* the class of what stands between the starter and here; 0: nothing does */
    for (size_t i = 0; i < n; i++) {
        if (starter != SIZE_MAX && (out == starter + 1 || last < m[i].ccc) && !(out > starter + 1 && m[i].ccc == 0)) {
            int32_t c = composite(m[starter].c, m[i].c);
            if (c >= 0) {
                m[starter].c = c;
                continue;
            }
        }
        if (m[i].ccc == 0)
            starter = out;
        last = m[i].ccc;
        m[out++] = m[i];
    }
    return out;
}

int tx_unicode_form(bs_buf *b, const char *s, size_t n, tx_form form, oc_err *err)
{
    /* Below U+0300 nothing composes, and below U+00A0 nothing decomposes: leave what is plain as it is. */
    unsigned char plain = form == TX_NFC ? 0xcc : 0x80;
    size_t i = 0;
    while (i < n && (unsigned char)s[i] < plain)
        i++;
    if (i == n)
        return bs_buf_put(b, s, n, err);
    int result = -1;
    bool compat = form & 2;
    mark *m = NULL;
    size_t cap = 0, count = 0;
    for (i = 0; i < n;) {
        uint32_t c;
        i += tx_utf8_get(s + i, n - i, &c);
        if (tx_room((void **)&m, &cap, count + 32, sizeof *m, err))
            goto done;
        count += decompose(c, compat, m + count);
    }
    if (order_marks(m, count, err))
        goto done;
    if (form & 1)
        count = compose(m, count);
    for (i = 0; i < count; i++)
        if (tx_put_char(b, (uint32_t)m[i].c, err))
            goto done;
    result = 0;
done:
    free(m);
    return result;
}

/* ---- bytes as characters ----------------------------------------------------------------------------- */

static bool byte_is_itself(int b) { return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae; }

/* The 68 bytes that are not printable take the characters from U+0100 on, in order (GPT-2's
 * bytes_to_unicode). */
uint32_t tx_byte_char(unsigned char byte)
{
    if (byte_is_itself(byte))
        return byte;
    return byte <= 0x20 ? 0x100u + byte : byte < 0xad ? 0x100u + 33 + (byte - 0x7fu) : 0x100u + 67;
}

int tx_char_byte(uint32_t c)
{
    if (c < 0x100)
        return byte_is_itself((int)c) ? (int)c : -1;
    if (c > 0x143)
        return -1;
    c -= 0x100;
    return c <= 0x20 ? (int)c : c < 67 ? (int)c - 33 + 0x7f : 0xad;
}

int tx_put_byte_chars(bs_buf *b, const char *s, size_t n, oc_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (tx_put_char(b, tx_byte_char((unsigned char)s[i]), err))
            return -1;
    return 0;
}
