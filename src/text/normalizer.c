/* normalizer.c - what happens to a text before it is cut: the steps of tokenizer.json's "normalizer". */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

typedef struct step step;
/* Appends to `out`. Sets *moved when the first character of s is gone from the front: Metaspace's "first"
 * asks. */
typedef int apply_fn(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err);

struct step {
    apply_fn *apply;
    tx_form form;
    tx_regex *pattern; /* Replace */
    char *text;        /* Replace's content, Prepend's prefix; owned */
    size_t n;
    tx_charsmap *map;                    /* Precompiled */
    bool longest;                        /* likewise, as sentencepiece itself looks things up */
    bool left, right;                    /* Strip */
    bool clean, chinese, accents, lower; /* BertNormalizer */
};

struct tx_normalizer {
    step *steps;
    size_t n;
};

/* ---- steps ------------------------------------------------------------------------------------------- */

static int unicode_form(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    (void)moved;
    return tx_unicode_form(out, s, n, z->form, err);
}

static int lowercase(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    (void)z;
    (void)moved;
    return tx_lowercase(out, s, n, err);
}

static int byte_level(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    (void)z;
    (void)moved;
    return tx_put_byte_chars(out, s, n, err);
}

static int prepend(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    (void)moved;
    if (n && bs_buf_put(out, z->text, z->n, err))
        return -1;
    return bs_buf_put(out, s, n, err);
}

static int replace(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    tx_spans spans = {0};
    int result = tx_regex_cut(z->pattern, s, n, &spans, err);
    /* What takes the place of several characters counts as standing where the last of them stood. */
    if (!result && spans.n && spans.p[0].hit && (!z->n || tx_utf8_count(s, spans.p[0].end) > 1))
        *moved = true;
    for (size_t i = 0; i < spans.n && !result; i++) {
        const tx_span *p = &spans.p[i];
        result = p->hit ? bs_buf_put(out, z->text, z->n, err) : bs_buf_put(out, s + p->at, p->end - p->at, err);
    }
    tx_spans_clear(&spans);
    return result;
}

static int strip(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    size_t from = 0, end = n;
    uint32_t c;
    while (z->left && from < end) {
        size_t length = tx_utf8_get(s + from, end - from, &c);
        if (!tx_is_space(c))
            break;
        from += length;
    }
    while (z->right && end > from) {
        size_t last = end - 1;
        while (last > from && (s[last] & 0xc0) == 0x80)
            last--;
        tx_utf8_get(s + last, end - last, &c);
        if (!tx_is_space(c))
            break;
        end = last;
    }
    *moved = *moved || from > 0;
    return bs_buf_put(out, s + from, end - from, err);
}

/* Copies the characters for which `drop` is false. */
static int filter(const char *s, size_t n, bool (*drop)(uint32_t), bs_buf *out, bool *moved, oc_err *err)
{
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t length = tx_utf8_get(s + i, n - i, &c);
        bool gone = drop(c);
        *moved = *moved || (gone && i == 0);
        if (!gone && bs_buf_put(out, s + i, length, err))
            return -1;
        i += length;
    }
    return 0;
}

static int strip_accents(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    (void)z;
    return filter(s, n, tx_is_accent, out, moved, err);
}

static int precompiled(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    (void)moved;
    return z->longest ? tx_charsmap_longest(z->map, s, n, out, err) : tx_charsmap_apply(z->map, s, n, out, err);
}

/* sentencepiece's nmt rules without its table. */
static int nmt(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    (void)z;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t length = tx_utf8_get(s + i, n - i, &c);
        bool drop = (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
        bool blank = c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
                     c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
        *moved = *moved || (drop && i == 0);
        if (!drop && (blank ? bs_buf_put(out, " ", 1, err) : bs_buf_put(out, s + i, length, err)))
            return -1;
        i += length;
    }
    return 0;
}

/* ---- BertNormalizer (Devlin et al. 2018, BasicTokenizer) --------------------------------------------- */

static bool is_chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) ||
           (c >= 0x2f800 && c <= 0x2fa1f);
}

static int bert_clean(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t length = tx_utf8_get(s + i, n - i, &c);
        const char *p = s + i;
        i += length;
        if (z->clean && (c == 0 || c == 0xfffd || tx_is_bert_other(c))) {
            *moved = *moved || p == s;
            continue;
        }
        int bad;
        if (z->clean && tx_is_space(c))
            bad = bs_buf_put(out, " ", 1, err);
        else if (z->chinese && is_chinese(c))
            bad = bs_buf_put(out, " ", 1, err) || bs_buf_put(out, p, length, err) || bs_buf_put(out, " ", 1, err);
        else
            bad = bs_buf_put(out, p, length, err);
        if (bad)
            return -1;
    }
    return 0;
}

static int bert(const step *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    bs_buf a = {0}, b = {0};
    int result = bert_clean(z, s, n, &a, moved, err);
    if (!result && z->accents) {
        result = tx_unicode_form(&b, a.p ? a.p : "", a.n, TX_NFD, err);
        a.n = 0;
        if (!result)
            result = filter(b.p, b.n, tx_is_nonspacing, &a, moved, err);
    }
    if (!result)
        result = z->lower ? tx_lowercase(out, a.p, a.n, err) : bs_buf_put(out, a.p, a.n, err);
    bs_buf_clear(&a);
    bs_buf_clear(&b);
    return result;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

static int keep_text(step *z, const char *s, size_t n, oc_err *err)
{
    z->text = malloc(n + 1);
    if (!z->text)
        return bs_err(err, "out of memory: %zu bytes of a normalizer", n);
    memcpy(z->text, s, n);
    z->n = n;
    return 0;
}

static int read_replace(step *z, const json_t *o, oc_err *err)
{
    const char *s;
    size_t n;
    z->apply = replace;
    z->pattern = tx_pattern_open(o, "normalizer Replace", err);
    if (!z->pattern || tx_json_need_text(o, "normalizer Replace", "content", &s, &n, err))
        return -1;
    return keep_text(z, s, n, err);
}

static int read_prepend(step *z, const json_t *o, oc_err *err)
{
    const char *s;
    size_t n;
    z->apply = prepend;
    return tx_json_need_text(o, "normalizer Prepend", "prepend", &s, &n, err) ? -1 : keep_text(z, s, n, err);
}

static int read_strip(step *z, const json_t *o, oc_err *err)
{
    z->apply = strip;
    return tx_json_bool(o, "normalizer Strip", "strip_left", true, &z->left, err) ||
                   tx_json_bool(o, "normalizer Strip", "strip_right", true, &z->right, err)
               ? -1
               : 0;
}

static int read_bert(step *z, const json_t *o, oc_err *err)
{
    const char *where = "normalizer BertNormalizer";
    z->apply = bert;
    if (tx_json_bool(o, where, "clean_text", true, &z->clean, err) ||
        tx_json_bool(o, where, "handle_chinese_chars", true, &z->chinese, err) ||
        tx_json_bool(o, where, "lowercase", true, &z->lower, err))
        return -1;
    return tx_json_bool(o, where, "strip_accents", z->lower, &z->accents, err); /* null: as lower case goes */
}

static int read_precompiled(step *z, const json_t *o, oc_err *err)
{
    const char *s;
    size_t n;
    z->apply = precompiled;
    if (tx_json_need_text(o, "normalizer Precompiled", "precompiled_charsmap", &s, &n, err))
        return -1;
    z->map = tx_charsmap_open(s, n, err);
    return z->map ? tx_json_bool(o, "normalizer Precompiled", "longest", false, &z->longest, err) : -1;
}

static const struct {
    const char *type;
    apply_fn *plain; /* a step without fields */
    int (*read)(step *z, const json_t *o, oc_err *err);
    tx_form form;
} known[] = {{"NFC", unicode_form, NULL, TX_NFC},
             {"NFD", unicode_form, NULL, TX_NFD},
             {"NFKC", unicode_form, NULL, TX_NFKC},
             {"NFKD", unicode_form, NULL, TX_NFKD},
             {"Lowercase", lowercase, NULL, 0},
             {"StripAccents", strip_accents, NULL, 0},
             {"Nmt", nmt, NULL, 0},
             {"ByteLevel", byte_level, NULL, 0},
             {"Replace", NULL, read_replace, 0},
             {"Prepend", NULL, read_prepend, 0},
             {"Strip", NULL, read_strip, 0},
             {"BertNormalizer", NULL, read_bert, 0},
             {"Precompiled", NULL, read_precompiled, 0}};

static int read_step(step *z, const json_t *o, oc_err *err)
{
    const char *type = tx_json_type(o, "normalizer", err);
    for (size_t i = 0; type && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i].type) == 0) {
            z->apply = known[i].plain;
            z->form = known[i].form;
            return known[i].read ? known[i].read(z, o, err) : 0;
        }
    return bs_err(err, "normalizer: the type '%s' is not known", type ? type : "");
}

int tx_normalizer_open(tx_normalizer **out, const json_t *o, oc_err *err)
{
    *out = NULL;
    tx_json_list list = {0};
    tx_normalizer *z = calloc(1, sizeof *z);
    int result = -1;
    if (!z) {
        bs_err(err, "out of memory: a normalizer");
        goto done;
    }
    if (tx_json_flatten(o, "normalizer", "normalizers", &list, err))
        goto done;
    z->steps = calloc(list.n + 1, sizeof *z->steps);
    if (!z->steps) {
        bs_err(err, "out of memory: a normalizer of %zu steps", list.n);
        goto done;
    }
    for (; z->n < list.n; z->n++)
        if (read_step(&z->steps[z->n], list.p[z->n], err)) {
            z->n++; /* what it has taken so far is freed as well */
            goto done;
        }
    *out = z;
    result = 0;
done:
    free(list.p);
    if (result)
        tx_normalizer_close(z);
    return result;
}

void tx_normalizer_close(tx_normalizer *z)
{
    if (!z)
        return;
    for (size_t i = 0; i < z->n; i++) {
        tx_regex_close(z->steps[i].pattern);
        tx_charsmap_close(z->steps[i].map);
        free(z->steps[i].text);
    }
    free(z->steps);
    free(z);
}

int tx_normalize(const tx_normalizer *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err)
{
    out->n = 0;
    *moved = false;
    if (bs_buf_put(out, s, n, err))
        return -1;
    bs_buf other = {0};
    int result = 0;
    for (size_t i = 0; z && i < z->n && !result; i++) {
        bs_buf last = *out;
        *out = other;
        other = last;
        out->n = 0;
        result = bs_buf_put(out, "", 0, err);
        if (!result)
            result = z->steps[i].apply(&z->steps[i], other.p, other.n, out, moved, err);
    }
    bs_buf_clear(&other);
    return result;
}
