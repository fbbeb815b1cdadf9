/* regex.c - patterns of tokenizer.json on PCRE2.
 *
 * `tokenizers` runs them on Oniguruma in Ruby's syntax. PCRE2 reads nearly the same language; where a piece
 * of it means something else there, the pattern is rewritten piece by piece before it is compiled: \s \w \d
 * \h      Unicode's White_Space; Alphabetic, M, Nd, Pc; Nd; a hexadecimal digit \p{L} ...        plus the
 * characters that Unicode 15 and 16 added, which the library may not know \p{Han} ...      the script, not
 * the script extensions ^ $ (?m)         at each line; `m` is PCRE2's `s` x{1,3}+          is no possessive
 * repeat in Ruby, but a repeat of a repeat */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"
#include "unicode_ranges.h"

struct tx_regex {
    pcre2_code *code; /* NULL: a literal */
    char *text;
    size_t n;
};

/* ---- rewriting --------------------------------------------------------------------------------------- */

enum { MAX_GROUPS = 64 };

typedef struct rewriter {
    const char *s;
    size_t n, at;
    bs_buf *out;
    oc_err *err;
    const char *why;         /* what is refused */
    bool rust;               /* \w as Rust's regex has it */
    size_t atom;             /* where in `out` begins what a repeat would repeat */
    size_t open[MAX_GROUPS]; /* where in `out` the groups begin that are open */
    int depth;
} rewriter;

static int put(rewriter *w, const char *s) { return bs_buf_put(w->out, s, strlen(s), w->err); }

static int refuse(rewriter *w, const char *why)
{
    w->why = why;
    return -1;
}

/* Rust's \w has the joiners as well; Oniguruma's, unless it stands in a class, Latin-1's raised digits and
 * fractions. */
static const char word_class_of_all[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
static const char word_class_oniguruma[] = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
static const char word_class_rust[] = "\\x{200c}\\x{200d}";

static int put_young_words(rewriter *w)
{
    for (size_t i = 0; i < tx_young_word_n; i++)
        if (bs_buf_printf(w->out, w->err, "\\x{%x}-\\x{%x}", tx_young_word[i].first, tx_young_word[i].last))
            return -1;
    return 0;
}

static int put_young(rewriter *w, const char *category)
{
    size_t n = strlen(category);
    for (size_t i = 0; i < tx_young_category_n; i++) {
        const tx_category *y = &tx_young_category[i];
        if (strncmp(y->name, category, n) == 0 && bs_buf_printf(w->out, w->err, "\\x{%x}-\\x{%x}", y->first, y->last))
            return -1;
    }
    return 0;
}

static bool is_category(const char *name)
{
    static const char *const all[] = {"L", "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No",
                                      "P", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i], name) == 0)
            return true;
    return false;
}

static bool is_script(const char *name)
{
    char pattern[48];
    int code;
    PCRE2_SIZE at;
    snprintf(pattern, sizeof pattern, "\\p{sc:%s}", name);
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    pcre2_code_free(re);
    return re != NULL;
}

static int word_class(rewriter *w, bool negated, bool in_class)
{
    if (in_class && negated)
        return refuse(w, "\\W inside a class");
    if (!in_class && put(w, negated ? "[^" : "["))
        return -1;
    if (put(w, word_class_of_all) || (w->rust && put(w, word_class_rust)) ||
        (!w->rust && !in_class && put(w, word_class_oniguruma)))
        return -1;
    return put_young_words(w) || (!in_class && put(w, "]")) ? -1 : 0;
}

/* \p{...} and \P{...}; w->at is behind the letter. */
static int property(rewriter *w, bool negated, bool in_class)
{
    char name[32];
    const char *end = w->at < w->n && w->s[w->at] == '{' ? memchr(w->s + w->at, '}', w->n - w->at) : NULL;
    if (!end)
        return refuse(w, "\\p without {...}");
    const char *from = w->s + w->at + 1;
    if (*from == '^') {
        negated = !negated;
        from++;
    }
    size_t n = (size_t)(end - from);
    if (n == 0 || n >= sizeof name)
        return refuse(w, "a property with a strange name");
    memcpy(name, from, n);
    name[n] = 0;
    w->at = (size_t)(end - w->s) + 1;
    if (strcmp(name, "Han") == 0) {
        /* The ideographs that Unicode 15 added, as above. */
        static const char *const young = "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
        if (in_class)
            return negated ? refuse(w, "\\P{Han} inside a class") : put(w, "\\p{sc:Han}") || put(w, young) ? -1 : 0;
        return put(w, negated ? "[^\\p{sc:Han}" : "[\\p{sc:Han}") || put(w, young) || put(w, "]") ? -1 : 0;
    }
    if (!is_category(name)) /* by a script's name PCRE2 means its extensions as well */
        return bs_buf_printf(w->out, w->err, "\\%c{%s%s}", negated ? 'P' : 'p', is_script(name) ? "sc:" : "", name);
    if (in_class && negated)
        return refuse(w, "\\P{...} inside a class");
    if (!in_class && put(w, negated ? "[^" : "["))
        return -1;
    if (bs_buf_printf(w->out, w->err, "\\p{%s}", name) || put_young(w, name))
        return -1;
    return in_class ? 0 : put(w, "]");
}

static int escape(rewriter *w, bool in_class)
{
    if (w->at + 1 >= w->n)
        return refuse(w, "a backslash at the end");
    char c = w->s[w->at + 1];
    w->at += 2;
    switch (c) {
    case 's': return put(w, "\\p{White_Space}");
    case 'S': return put(w, "\\P{White_Space}");
    case 'w': return word_class(w, false, in_class);
    case 'W': return word_class(w, true, in_class);
    case 'd':
    case 'D':
        if (in_class && c == 'D')
            return refuse(w, "\\D inside a class");
        if (put(w, in_class ? "" : c == 'd' ? "[" : "[^") || put(w, "\\p{Nd}") || put_young(w, "Nd"))
            return -1;
        return in_class ? 0 : put(w, "]");
    case 'h': return put(w, in_class ? "0-9a-fA-F" : "[0-9a-fA-F]");
    case 'p':
    case 'P': return property(w, c == 'P', in_class);
    case 'v': return put(w, "\\x0b"); /* one character, not a class */
    case 'b':
        if (in_class)
            return put(w, "\\x08");
        return refuse(w, "\\b");
    default: break;
    }
    char two[2] = {'\\', c};
    if (c && strchr("BHRXGKkgyYONucCMQEV", c))
        return refuse(w, "a rare escape");
    return bs_buf_put(w->out, two, 2, w->err);
}

static int bracket(rewriter *w)
{
    size_t start = w->at++;
    if (put(w, "["))
        return -1;
    if (w->at < w->n && w->s[w->at] == '^') {
        w->at++;
        if (put(w, "^"))
            return -1;
    }
    for (bool first = true; w->at < w->n; first = false) {
        char c = w->s[w->at];
        if (c == ']' && !first) {
            w->at++;
            return put(w, "]");
        }
        if (c == '[')
            return refuse(w, "a class inside a class");
        if (c == '&' && w->at + 1 < w->n && w->s[w->at + 1] == '&')
            return refuse(w, "an intersection of classes (&&)");
        if (c == '\\') {
            if (escape(w, true))
                return -1;
            continue;
        }
        if (bs_buf_put(w->out, c == ']' ? "\\]" : &c, c == ']' ? 2 : 1, w->err))
            return -1;
        w->at++;
    }
    w->at = start;
    return refuse(w, "a class without its end");
}

/* (?i:, (?=, (?<!, ... : Ruby's `m` lets the dot match a line's end, which is PCRE2's `s`. */
static int group(rewriter *w)
{
    if (put(w, "("))
        return -1;
    w->at++;
    if (w->at >= w->n || w->s[w->at] != '?')
        return w->at < w->n && w->s[w->at] == '*' ? refuse(w, "(*") : 0;
    size_t i = w->at + 1;
    while (i < w->n && (strchr("imx-", w->s[i]) && w->s[i]))
        i++;
    bool options = i < w->n && i > w->at + 1 && (w->s[i] == ':' || w->s[i] == ')');
    if (!options) {
        if (i >= w->n || !strchr(":=!<>", w->s[w->at + 1]))
            return refuse(w, "a rare kind of group");
        return 0; /* the main loop copies the rest */
    }
    for (; w->at <= i; w->at++) {
        char c = w->s[w->at] == 'm' ? 's' : w->s[w->at];
        if (bs_buf_put(w->out, &c, 1, w->err))
            return -1;
    }
    return 0;
}

/* "atom{1,3}" "(?:" ")+" in `out`: puts the opening in front of the atom. */
static int wrap(rewriter *w)
{
    char *p = w->out->p + w->atom;
    size_t n = w->out->n - w->atom - 5; /* of the atom with its repeat */
    memmove(p + 3, p, n);
    memcpy(p, "(?:", 3);
    return 0;
}

/* {1,3} or {2,}: copied whole, and what a + behind it means is spelled out. */
static int repeat(rewriter *w)
{
    size_t i = w->at + 1;
    while (i < w->n && strchr("0123456789,", w->s[i]) && w->s[i])
        i++;
    if (i >= w->n || w->s[i] != '}' || i == w->at + 1) {
        w->at++;
        return put(w, "\\{");
    }
    i++;
    if (i < w->n && w->s[i] == '?' && !memchr(w->s + w->at, ',', i - w->at))
        return refuse(w, "{n}?");
    bool open_start = w->s[w->at + 1] == ',';
    if ((open_start && put(w, "{0")) || bs_buf_put(w->out, w->s + w->at + open_start, i - w->at - open_start, w->err))
        return -1;
    w->at = i;
    if (i >= w->n || w->s[i] != '+')
        return 0;
    w->at++;
    return put(w, "(?:") || put(w, ")+") ? -1 : wrap(w);
}

/* Copies a plain character; ends of groups are where a repeat may look back. */
static int plain(rewriter *w)
{
    char c = w->s[w->at++];
    if (c == ')') {
        if (w->depth == 0)
            return refuse(w, "a ) without its (");
        w->atom = w->open[--w->depth];
    } else if (!strchr("*+?", c) && ((unsigned char)c & 0xc0) != 0x80)
        w->atom = w->out->n;
    return bs_buf_put(w->out, &c, 1, w->err);
}

static int rewrite(rewriter *w)
{
    while (w->at < w->n) {
        char c = w->s[w->at];
        if (c == '(' && w->depth == MAX_GROUPS)
            return refuse(w, "so many groups inside groups");
        if (c == '(')
            w->open[w->depth++] = w->out->n;
        else if (c == '\\' || c == '[')
            w->atom = w->out->n;
        int bad = c == '\\' ? escape(w, false) : c == '[' ? bracket(w) : c == '(' ? group(w) : c == '{' ? repeat(w) : plain(w);
        if (bad)
            return -1;
    }
    return 0;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static pcre2_code *compile(const bs_buf *pattern, oc_err *err)
{
    int code = 0;
    PCRE2_SIZE at = 0;
    PCRE2_UCHAR why[128] = "out of memory";
    pcre2_code *re = NULL;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        re = pcre2_compile((PCRE2_SPTR)pattern->p, pattern->n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, context);
        if (!re)
            pcre2_get_error_message(code, why, sizeof why);
    }
    if (!re)
        bs_err(err, "cannot use the pattern '%.200s': %s at %zu", pattern->p, (const char *)why, (size_t)at);
    else
        pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* only makes it faster: without it the interpreter runs */
    pcre2_compile_context_free(context);
    return re;
}

static tx_regex *open_regex(const char *pattern, size_t n, bool rust, oc_err *err)
{
    bs_buf text = {0};
    rewriter w = {.s = pattern, .n = n, .out = &text, .err = err, .rust = rust};
    tx_regex *re = calloc(1, sizeof *re);
    if (!re) {
        bs_err(err, "out of memory: a pattern");
        return NULL;
    }
    if (tx_utf8_valid(pattern, n) != n)
        bs_err(err, "a pattern is not valid UTF-8");
    else if (bs_buf_put(&text, "", 0, err) || rewrite(&w)) {
        if (w.why)
            bs_err(err, "cannot use the pattern '%.200s': %s is not known here", pattern, w.why);
    } else
        re->code = compile(&text, err);
    bs_buf_clear(&text);
    if (!re->code) {
        free(re);
        return NULL;
    }
    return re;
}

tx_regex *tx_regex_open(const char *pattern, size_t n, oc_err *err) { return open_regex(pattern, n, false, err); }

tx_regex *tx_word_regex_open(const char *pattern, oc_err *err) { return open_regex(pattern, strlen(pattern), true, err); }

tx_regex *tx_literal_open(const char *text, size_t n, oc_err *err)
{
    tx_regex *re = calloc(1, sizeof *re);
    if (re)
        re->text = malloc(n + 1);
    if (!re || !re->text || !n) {
        bs_err(err, n ? "out of memory: a pattern" : "a pattern must not be empty");
        tx_regex_close(re);
        return NULL;
    }
    memcpy(re->text, text, n);
    re->n = n;
    return re;
}

tx_regex *tx_pattern_open(const json_t *o, const char *where, oc_err *err)
{
    const json_t *pattern = json_object_get(o, "pattern"), *text = json_object_get(pattern, "String");
    if (json_is_string(text))
        return tx_literal_open(json_string_value(text), json_string_length(text), err);
    text = json_object_get(pattern, "Regex");
    if (json_is_string(text))
        return tx_regex_open(json_string_value(text), json_string_length(text), err);
    bs_err(err, "%s: 'pattern' must be {\"String\": ...} or {\"Regex\": ...}", where);
    return NULL;
}

void tx_regex_close(tx_regex *re)
{
    if (!re)
        return;
    pcre2_code_free(re->code);
    free(re->text);
    free(re);
}

/* ---- matching ---------------------------------------------------------------------------------------- */

int tx_spans_put(tx_spans *s, size_t at, size_t end, bool hit, oc_err *err)
{
    if (s->n == s->cap && tx_room((void **)&s->p, &s->cap, s->n + 1, sizeof *s->p, err))
        return -1;
    s->p[s->n++] = (tx_span){.at = at, .end = end, .hit = hit};
    return 0;
}

void tx_spans_clear(tx_spans *s)
{
    free(s->p);
    pcre2_match_data_free(s->match);
    memset(s, 0, sizeof *s);
}

static int cut_literal(const tx_regex *re, const char *s, size_t n, tx_spans *out, oc_err *err)
{
    size_t at = 0;
    for (;;) {
        const char *hit = at < n ? memmem(s + at, n - at, re->text, re->n) : NULL;
        size_t end = hit ? (size_t)(hit - s) : n;
        if (end > at && tx_spans_put(out, at, end, false, err))
            return -1;
        if (!hit)
            return 0;
        at = end + re->n;
        if (tx_spans_put(out, end, at, true, err))
            return -1;
    }
}

/* One match from `from` on: 1 and [at, end), 0 when there is none, -1. */
static int find(const tx_regex *re, const char *s, size_t n, size_t from, void *match, size_t *at, size_t *end, oc_err *err)
{
    int got = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, match, NULL);
    if (got == PCRE2_ERROR_JIT_STACKLIMIT)
        got = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, NULL);
    if (got == PCRE2_ERROR_NOMATCH)
        return 0;
    if (got < 0) {
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(got, why, sizeof why);
        return bs_err(err, "a pattern of the tokenizer failed on a text of %zu bytes: %s", n, (const char *)why);
    }
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(match);
    *at = pair[0];
    *end = pair[1];
    return 1;
}

int tx_regex_cut(const tx_regex *re, const char *s, size_t n, tx_spans *out, oc_err *err)
{
    out->n = 0;
    if (!re->code)
        return cut_literal(re, s, n, out, err);
    if (!out->match)
        out->match = pcre2_match_data_create(1, NULL);
    if (!out->match)
        return bs_err(err, "out of memory: matching a pattern");
    size_t done = 0, from = 0, at = 0, end = 0;
    int got = 0;
    while (from <= n && (got = find(re, s, n, from, out->match, &at, &end, err)) > 0) {
        uint32_t c;
        if (at == end && at == done && done > 0) { /* an empty match right behind a match does not count */
            from = at < n ? at + tx_utf8_get(s + at, n - at, &c) : n + 1;
            continue;
        }
        if ((at > done && tx_spans_put(out, done, at, false, err)) || tx_spans_put(out, at, end, true, err))
            return -1;
        done = end;
        from = end > at ? end : end < n ? end + tx_utf8_get(s + end, n - end, &c) : n + 1;
    }
    if (got < 0 || (done < n && tx_spans_put(out, done, n, false, err)))
        return -1;
    return 0;
}
