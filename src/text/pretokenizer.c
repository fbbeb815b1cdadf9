/* pretokenizer.c - cuts a text into words: the steps of tokenizer.json's "pre_tokenizer". */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

/* What becomes of a delimiter. */
typedef enum behaviour { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } behaviour;

typedef struct step step;
/* Cuts one piece that is text and appends what comes of it. */
typedef int cut_fn(const step *z, const char *s, size_t n, bool head, tx_spans *spans, tx_pieces *out, oc_err *err);

struct step {
    cut_fn *cut;
    tx_regex *pattern;    /* Split, Whitespace, ByteLevel's own */
    bool (*is)(uint32_t); /* the delimiters of a step without a pattern */
    behaviour behaviour;
    bool invert;
    bool prefix_space; /* ByteLevel */
    uint32_t mark;     /* Metaspace's replacement, CharDelimiterSplit's delimiter */
    int scheme;
    bool split;
    json_int_t length; /* FixedLength */
};

struct tx_pretokenizer {
    step *steps;
    size_t n;
};

/* ---- cutting by delimiters --------------------------------------------------------------------------- */

/* Joins the spans as the behaviour says; what is left are the pieces, with `hit` meaning "leave out". */
static void join_spans(tx_spans *spans, behaviour how)
{
    tx_span *p = spans->p;
    size_t n = spans->n, out = 0;
    bool last = false;
    if (how == MERGED_WITH_NEXT) {
        /* From the back: a delimiter goes to the piece behind it unless that is one as well. */
        size_t first = n;
        for (size_t i = n; i-- > 0;) {
            bool hit = p[i].hit;
            if (hit && !last && first < n)
                p[first].at = p[i].at;
            else
                p[--first] = (tx_span){p[i].at, p[i].end, false};
            last = hit;
        }
        memmove(p, p + first, (n - first) * sizeof *p);
        spans->n = n - first;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        bool hit = p[i].hit;
        bool join = how == CONTIGUOUS ? hit == last : how == MERGED_WITH_PREVIOUS ? hit && !last : false;
        if (join && out > 0)
            p[out - 1].end = p[i].end;
        else
            p[out++] = (tx_span){p[i].at, p[i].end, how == REMOVED && hit};
        last = hit;
    }
    spans->n = out;
}

static int put_spans(tx_spans *spans, behaviour how, const char *s, bool head, tx_pieces *out, oc_err *err)
{
    join_spans(spans, how);
    for (size_t i = 0; i < spans->n; i++) {
        const tx_span *p = &spans->p[i];
        if (!p->hit && tx_pieces_put(out, s + p->at, p->end - p->at, -1, head && p->at == 0, err))
            return -1;
    }
    return 0;
}

static int cut_pattern(const step *z, const char *s, size_t n, bool head, tx_spans *spans, tx_pieces *out, oc_err *err)
{
    if (tx_regex_cut(z->pattern, s, n, spans, err))
        return -1;
    for (size_t i = 0; z->invert && i < spans->n; i++)
        spans->p[i].hit = !spans->p[i].hit;
    return put_spans(spans, z->behaviour, s, head, out, err);
}

/* Each character of the class is a delimiter of its own. */
static int class_spans(const step *z, const char *s, size_t n, tx_spans *spans, oc_err *err)
{
    size_t done = 0;
    spans->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t length = tx_utf8_get(s + i, n - i, &c);
        if (z->is ? z->is(c) : c == z->mark) {
            if ((i > done && tx_spans_put(spans, done, i, false, err)) || tx_spans_put(spans, i, i + length, true, err))
                return -1;
            done = i + length;
        }
        i += length;
    }
    return done < n ? tx_spans_put(spans, done, n, false, err) : 0;
}

static int cut_class(const step *z, const char *s, size_t n, bool head, tx_spans *spans, tx_pieces *out, oc_err *err)
{
    return class_spans(z, s, n, spans, err) ? -1 : put_spans(spans, z->behaviour, s, head, out, err);
}

static int cut_fixed(const step *z, const char *s, size_t n, bool head, tx_spans *spans, tx_pieces *out, oc_err *err)
{
    (void)spans;
    for (size_t i = 0, from = 0; i < n; from = i) {
        for (json_int_t k = 0; k < z->length && i < n; k++) {
            uint32_t c;
            i += tx_utf8_get(s + i, n - i, &c);
        }
        if (tx_pieces_put(out, s + from, i - from, -1, head && from == 0, err))
            return -1;
    }
    return 0;
}

/* ---- ByteLevel and Metaspace ------------------------------------------------------------------------- */

/* The last piece's text, as bytes, becomes printable characters. */
static int put_bytes_piece(const char *s, size_t n, bool head, tx_pieces *out, oc_err *err)
{
    if (!n)
        return 0;
    if (tx_pieces_put(out, "?", 1, -1, head, err))
        return -1;
    tx_piece *p = &out->p[out->n - 1];
    out->text.n = p->at;
    if (tx_put_byte_chars(&out->text, s, n, err))
        return -1;
    p->n = out->text.n - p->at;
    return 0;
}

static int cut_bytes(const step *z, const char *s, size_t n, bool head, tx_spans *spans, tx_pieces *out, oc_err *err)
{
    bs_buf with_space = {0};
    int result = -1;
    if (z->prefix_space && s[0] != ' ') {
        if (bs_buf_put(&with_space, " ", 1, err) || bs_buf_put(&with_space, s, n, err))
            goto done;
        s = with_space.p;
        n = with_space.n;
    }
    if (!z->pattern) {
        result = put_bytes_piece(s, n, head, out, err);
        goto done;
    }
    if (tx_regex_cut(z->pattern, s, n, spans, err))
        goto done;
    for (size_t i = 0; i < spans->n; i++)
        if (put_bytes_piece(s + spans->p[i].at, spans->p[i].end - spans->p[i].at, head && spans->p[i].at == 0, out, err))
            goto done;
    result = 0;
done:
    bs_buf_clear(&with_space);
    return result;
}

static int cut_metaspace(const step *z, const char *s, size_t n, bool head, tx_spans *spans, tx_pieces *out, oc_err *err)
{
    bs_buf text = {0};
    int result = -1;
    char mark[4];
    size_t mark_n = tx_utf8_put(z->mark, mark);
    bool marked = s[0] == ' ' || (n >= mark_n && memcmp(s, mark, mark_n) == 0);
    bool prepend = !marked && (z->scheme == TX_PREPEND_ALWAYS || (z->scheme == TX_PREPEND_FIRST && head));
    if (prepend && bs_buf_put(&text, mark, mark_n, err))
        goto done;
    for (size_t i = 0; i < n; i++)
        if (s[i] == ' ' ? bs_buf_put(&text, mark, mark_n, err) : bs_buf_put(&text, s + i, 1, err))
            goto done;
    if (z->split)
        result =
            class_spans(z, text.p, text.n, spans, err) || put_spans(spans, MERGED_WITH_NEXT, text.p, head, out, err) ? -1 : 0;
    else
        result = tx_pieces_put(out, text.p, text.n, -1, head, err);
done:
    bs_buf_clear(&text);
    return result;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

static int read_behaviour(const json_t *o, const char *where, const char *fallback, behaviour *out, oc_err *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *s;
    size_t n;
    if (tx_json_text(o, where, "behavior", &s, &n, err))
        return -1;
    s = s ? s : fallback;
    for (int i = 0; s && i < 5; i++)
        if (strcmp(s, names[i]) == 0) {
            *out = (behaviour)i;
            return 0;
        }
    return bs_err(err, "%s: the behavior '%s' is not known", where, s ? s : "");
}

static int read_split(step *z, const json_t *o, oc_err *err)
{
    const char *where = "pre_tokenizer Split";
    z->cut = cut_pattern;
    z->pattern = tx_pattern_open(o, where, err);
    if (!z->pattern || tx_json_bool(o, where, "invert", false, &z->invert, err))
        return -1;
    return read_behaviour(o, where, NULL, &z->behaviour, err);
}

static int read_byte_level(step *z, const json_t *o, oc_err *err)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    bool use_regex;
    z->cut = cut_bytes;
    if (tx_json_bool(o, "pre_tokenizer ByteLevel", "add_prefix_space", true, &z->prefix_space, err) ||
        tx_json_bool(o, "pre_tokenizer ByteLevel", "use_regex", true, &use_regex, err))
        return -1;
    if (use_regex)
        z->pattern = tx_regex_open(gpt2, sizeof gpt2 - 1, err);
    return use_regex && !z->pattern ? -1 : 0;
}

static int read_digits(step *z, const json_t *o, oc_err *err)
{
    bool each;
    z->cut = cut_class;
    z->is = tx_is_numeric;
    if (tx_json_bool(o, "pre_tokenizer Digits", "individual_digits", false, &each, err))
        return -1;
    z->behaviour = each ? ISOLATED : CONTIGUOUS;
    return 0;
}

static int read_whitespace(step *z, const json_t *o, oc_err *err)
{
    (void)o;
    z->cut = cut_pattern;
    z->invert = true;
    z->pattern = tx_word_regex_open("\\w+|[^\\w\\s]+", err);
    return z->pattern ? 0 : -1;
}

static int read_whitespace_split(step *z, const json_t *o, oc_err *err)
{
    (void)o;
    (void)err;
    z->cut = cut_class;
    z->is = tx_is_space;
    return 0;
}

static int read_punctuation(step *z, const json_t *o, oc_err *err)
{
    z->cut = cut_class;
    z->is = tx_is_punct;
    return read_behaviour(o, "pre_tokenizer Punctuation", "Isolated", &z->behaviour, err);
}

static int one_char(const json_t *o, const char *where, const char *key, uint32_t *c, oc_err *err)
{
    const char *s;
    size_t n;
    if (tx_json_need_text(o, where, key, &s, &n, err))
        return -1;
    if (n == 0 || tx_utf8_get(s, n, c) != n)
        return bs_err(err, "%s: '%s' must be one character", where, key);
    return 0;
}

static int read_delimiter(step *z, const json_t *o, oc_err *err)
{
    z->cut = cut_class;
    return one_char(o, "pre_tokenizer CharDelimiterSplit", "delimiter", &z->mark, err);
}

static int read_fixed(step *z, const json_t *o, oc_err *err)
{
    z->cut = cut_fixed;
    if (tx_json_int(o, "pre_tokenizer FixedLength", "length", 5, &z->length, err))
        return -1;
    return z->length > 0 ? 0 : bs_err(err, "pre_tokenizer FixedLength: 'length' must be above 0");
}

int tx_metaspace_read(const json_t *o, const char *where, uint32_t *mark, int *scheme, bool *split, oc_err *err)
{
    static const char *const names[] = {"always", "first", "never"};
    const char *s;
    size_t n;
    bool prefix;
    *scheme = -1;
    if (one_char(o, where, "replacement", mark, err) || tx_json_text(o, where, "prepend_scheme", &s, &n, err) ||
        tx_json_bool(o, where, "add_prefix_space", true, &prefix, err) || tx_json_bool(o, where, "split", true, split, err))
        return -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(s ? s : "always", names[i]) == 0)
            *scheme = i;
    if (*scheme < 0)
        return bs_err(err, "%s: the prepend_scheme '%s' is not known", where, s);
    if (!prefix && s && *scheme != TX_PREPEND_NEVER)
        return bs_err(err, "%s: add_prefix_space is false, but the prepend_scheme is '%s'", where, s);
    if (!prefix)
        *scheme = TX_PREPEND_NEVER;
    return 0;
}

static int read_metaspace(step *z, const json_t *o, oc_err *err)
{
    z->cut = cut_metaspace;
    return tx_metaspace_read(o, "pre_tokenizer Metaspace", &z->mark, &z->scheme, &z->split, err);
}

static const struct {
    const char *type;
    int (*read)(step *z, const json_t *o, oc_err *err);
} known[] = {{"Split", read_split},
             {"ByteLevel", read_byte_level},
             {"Digits", read_digits},
             {"Whitespace", read_whitespace},
             {"WhitespaceSplit", read_whitespace_split},
             {"Punctuation", read_punctuation},
             {"CharDelimiterSplit", read_delimiter},
             {"FixedLength", read_fixed},
             {"Metaspace", read_metaspace}};

static int read_step(tx_pretokenizer *p, const json_t *o, oc_err *err)
{
    const char *type = tx_json_type(o, "pre_tokenizer", err);
    if (!type)
        return -1;
    if (strcmp(type, "BertPreTokenizer") == 0) { /* white space goes, then each punctuation stands alone */
        step *z = p->steps + p->n;
        p->n += 2;
        z[1].cut = cut_class;
        z[1].is = tx_is_punct;
        z[1].behaviour = ISOLATED;
        return read_whitespace_split(&z[0], o, err);
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i].type) == 0)
            return known[i].read(&p->steps[p->n++], o, err);
    return bs_err(err, "pre_tokenizer: the type '%s' is not known", type);
}

int tx_pretokenizer_open(tx_pretokenizer **out, const json_t *o, oc_err *err)
{
    *out = NULL;
    tx_json_list list = {0};
    tx_pretokenizer *z = calloc(1, sizeof *z);
    int result = -1;
    if (!z) {
        bs_err(err, "out of memory: a pre-tokenizer");
        goto done;
    }
    if (tx_json_flatten(o, "pre_tokenizer", "pretokenizers", &list, err))
        goto done;
    z->steps = calloc(2 * list.n + 1, sizeof *z->steps);
    if (!z->steps) {
        bs_err(err, "out of memory: a pre-tokenizer of %zu steps", list.n);
        goto done;
    }
    for (size_t i = 0; i < list.n; i++)
        if (read_step(z, list.p[i], err))
            goto done;
    *out = z;
    result = 0;
done:
    free(list.p);
    if (result)
        tx_pretokenizer_close(z);
    return result;
}

void tx_pretokenizer_close(tx_pretokenizer *z)
{
    if (!z)
        return;
    for (size_t i = 0; i < z->n; i++)
        tx_regex_close(z->steps[i].pattern);
    free(z->steps);
    free(z);
}

static int run_step(const step *z, const tx_pieces *in, tx_pieces *out, tx_spans *spans, oc_err *err)
{
    tx_pieces_reset(out);
    for (size_t i = 0; i < in->n; i++) {
        const tx_piece *p = &in->p[i];
        const char *s = in->text.p + p->at;
        int bad = p->id >= 0 ? tx_pieces_put(out, s, p->n, p->id, p->head, err) : z->cut(z, s, p->n, p->head, spans, out, err);
        if (bad)
            return -1;
    }
    return 0;
}

int tx_pretokenize(const tx_pretokenizer *z, tx_pieces *ps, tx_pieces *other, oc_err *err)
{
    tx_spans spans = {0};
    int result = 0;
    for (size_t i = 0; z && i < z->n && !result; i++) {
        result = run_step(&z->steps[i], ps, other, &spans, err);
        tx_pieces last = *ps;
        *ps = *other;
        *other = last;
    }
    tx_spans_clear(&spans);
    return result;
}
