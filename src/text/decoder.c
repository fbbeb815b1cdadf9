/* decoder.c - from the names of tokens to text: the steps of tokenizer.json's "decoder". */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

typedef struct step step;
typedef int run_fn(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err);

struct step {
    run_fn *run;
    tx_regex *pattern; /* Replace */
    char *text;        /* Replace's content, WordPiece's prefix, BPEDecoder's suffix; owned */
    size_t n;
    bool cleanup;  /* WordPiece */
    uint32_t mark; /* Strip, Metaspace */
    json_int_t start, stop;
    int scheme;
};

struct tx_decoder {
    step *steps;
    size_t n;
};

/* A token may become empty on the way, yet it still counts as the first or the last. */
static int put_token(tx_pieces *out, const char *s, size_t n, oc_err *err) { return tx_pieces_put(out, s, n, 0, false, err); }

static const char *token(const tx_pieces *in, size_t i) { return in->text.p + in->p[i].at; }

/* ---- steps ------------------------------------------------------------------------------------------- */

static int fuse(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    (void)z;
    return put_token(out, in->text.p ? in->text.p : "", in->text.n, err); /* they lie one behind the other */
}

/* A token with a character outside the byte alphabet stands for itself. */
static int put_token_bytes(const char *s, size_t n, bs_buf *bytes, oc_err *err)
{
    size_t keep = bytes->n;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += tx_utf8_get(s + i, n - i, &c);
        int byte = tx_char_byte(c);
        char one = (char)byte;
        if (byte < 0) {
            bytes->n = keep;
            return bs_buf_put(bytes, s, n, err);
        }
        if (bs_buf_put(bytes, &one, 1, err))
            return -1;
    }
    return 0;
}

static int byte_level(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    (void)z;
    bs_buf bytes = {0}, text = {0};
    int result = 0;
    for (size_t i = 0; i < in->n && !result; i++)
        result = put_token_bytes(token(in, i), in->p[i].n, &bytes, err);
    if (!result)
        result = tx_utf8_clean(&text, bytes.p ? bytes.p : "", bytes.n, true, err);
    if (!result)
        result = put_token(out, text.p ? text.p : "", text.n, err);
    bs_buf_clear(&bytes);
    bs_buf_clear(&text);
    return result;
}

static int byte_value(const char *s, size_t n)
{
    int value = 0;
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* A run of bytes is one text if it is valid UTF-8, else as many U+FFFD as it has bytes. */
static int put_run(bs_buf *run, tx_pieces *out, oc_err *err)
{
    int result = 0;
    bool valid = run->n == 0 || tx_utf8_valid(run->p, run->n) == run->n;
    if (valid && run->n)
        result = put_token(out, run->p, run->n, err);
    for (size_t i = 0; i < run->n && !valid && !result; i++)
        result = put_token(out, "\xef\xbf\xbd", 3, err);
    run->n = 0;
    return result;
}

static int byte_fallback(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    (void)z;
    bs_buf run = {0};
    int result = 0;
    for (size_t i = 0; i < in->n && !result; i++) {
        int byte = byte_value(token(in, i), in->p[i].n);
        char one = (char)byte;
        if (byte >= 0)
            result = bs_buf_put(&run, &one, 1, err);
        else
            result = put_run(&run, out, err) || put_token(out, token(in, i), in->p[i].n, err) ? -1 : 0;
    }
    if (!result)
        result = put_run(&run, out, err);
    bs_buf_clear(&run);
    return result;
}

/* Replaces every `what` in b. */
static int replace_all(bs_buf *b, const char *what, const char *with, oc_err *err)
{
    if (!b->n || !strstr(b->p, what))
        return 0;
    bs_buf out = {0};
    size_t what_n = strlen(what), with_n = strlen(with), at = 0;
    const char *hit;
    int result = 0;
    while (!result && (hit = memmem(b->p + at, b->n - at, what, what_n))) {
        result = bs_buf_put(&out, b->p + at, (size_t)(hit - b->p) - at, err) || bs_buf_put(&out, with, with_n, err) ? -1 : 0;
        at = (size_t)(hit - b->p) + what_n;
    }
    if (!result)
        result = bs_buf_put(&out, b->p + at, b->n - at, err);
    bs_buf_clear(b);
    *b = out;
    return result;
}

/* English as BERT's decoder tidies it. */
static int tidy(bs_buf *b, oc_err *err)
{
    static const char *const rules[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (replace_all(b, rules[i][0], rules[i][1], err))
            return -1;
    return 0;
}

static int wordpiece(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    bs_buf text = {0};
    int result = 0;
    for (size_t i = 0; i < in->n && !result; i++) {
        const char *s = token(in, i);
        size_t n = in->p[i].n;
        bool inside = i > 0 && n >= z->n && memcmp(s, z->text, z->n) == 0;
        text.n = 0;
        if (inside)
            result = bs_buf_put(&text, s + z->n, n - z->n, err);
        else
            result = bs_buf_put(&text, " ", i > 0, err) || bs_buf_put(&text, s, n, err) ? -1 : 0;
        if (!result && z->cleanup)
            result = tidy(&text, err);
        if (!result)
            result = put_token(out, text.p, text.n, err);
    }
    bs_buf_clear(&text);
    return result;
}

static int bpe_suffix(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    bs_buf text = {0};
    int result = 0;
    for (size_t i = 0; i < in->n && !result; i++) {
        text.n = 0;
        result = bs_buf_put(&text, token(in, i), in->p[i].n, err);
        if (!result && z->n)
            result = replace_all(&text, z->text, i + 1 == in->n ? "" : " ", err);
        if (!result)
            result = put_token(out, text.p, text.n, err);
    }
    bs_buf_clear(&text);
    return result;
}

static int metaspace(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    for (size_t i = 0; i < in->n; i++) {
        const char *s = token(in, i);
        bool drop = i == 0 && z->scheme != TX_PREPEND_NEVER;
        if (put_token(out, "", 0, err))
            return -1;
        for (size_t k = 0; k < in->p[i].n;) {
            uint32_t c;
            size_t length = tx_utf8_get(s + k, in->p[i].n - k, &c);
            int bad = c != z->mark ? bs_buf_put(&out->text, s + k, length, err) : drop ? 0 : bs_buf_put(&out->text, " ", 1, err);
            if (bad)
                return -1;
            k += length;
        }
        out->p[out->n - 1].n = out->text.n - out->p[out->n - 1].at;
    }
    return 0;
}

static int replace(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    tx_spans spans = {0};
    int result = 0;
    for (size_t i = 0; i < in->n && !result; i++) {
        const char *s = token(in, i);
        result = put_token(out, "", 0, err) || tx_regex_cut(z->pattern, s, in->p[i].n, &spans, err) ? -1 : 0;
        for (size_t k = 0; k < spans.n && !result; k++) {
            const tx_span *p = &spans.p[k];
            result = p->hit ? bs_buf_put(&out->text, z->text, z->n, err) : bs_buf_put(&out->text, s + p->at, p->end - p->at, err);
        }
        if (!result)
            out->p[out->n - 1].n = out->text.n - out->p[out->n - 1].at;
    }
    tx_spans_clear(&spans);
    return result;
}

static int strip(const step *z, const tx_pieces *in, tx_pieces *out, oc_err *err)
{
    for (size_t i = 0; i < in->n; i++) {
        const char *s = token(in, i);
        size_t from = 0, end = in->p[i].n;
        char mark[4];
        size_t mark_n = tx_utf8_put(z->mark, mark);
        for (json_int_t k = 0; k < z->start && end - from >= mark_n && memcmp(s + from, mark, mark_n) == 0; k++)
            from += mark_n;
        for (json_int_t k = 0; k < z->stop && end - from >= mark_n && memcmp(s + end - mark_n, mark, mark_n) == 0; k++)
            end -= mark_n;
        if (put_token(out, s + from, end - from, err))
            return -1;
    }
    return 0;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

static int keep_text(step *z, const json_t *o, const char *where, const char *key, const char *fallback, oc_err *err)
{
    const char *s;
    size_t n;
    if (tx_json_text(o, where, key, &s, &n, err))
        return -1;
    if (!s && !fallback)
        return bs_err(err, "%s: '%s' is missing", where, key);
    z->text = bs_strdup(s ? s : fallback);
    z->n = z->text ? strlen(z->text) : 0;
    return z->text ? 0 : bs_err(err, "out of memory: %s", where);
}

static int read_wordpiece(step *z, const json_t *o, oc_err *err)
{
    z->run = wordpiece;
    return keep_text(z, o, "decoder WordPiece", "prefix", "##", err) ||
                   tx_json_bool(o, "decoder WordPiece", "cleanup", true, &z->cleanup, err)
               ? -1
               : 0;
}

static int read_bpe(step *z, const json_t *o, oc_err *err)
{
    z->run = bpe_suffix;
    return keep_text(z, o, "decoder BPEDecoder", "suffix", "</w>", err);
}

static int read_replace(step *z, const json_t *o, oc_err *err)
{
    z->run = replace;
    z->pattern = tx_pattern_open(o, "decoder Replace", err);
    return z->pattern ? keep_text(z, o, "decoder Replace", "content", NULL, err) : -1;
}

static int read_metaspace(step *z, const json_t *o, oc_err *err)
{
    bool split;
    z->run = metaspace;
    return tx_metaspace_read(o, "decoder Metaspace", &z->mark, &z->scheme, &split, err);
}

static int read_strip(step *z, const json_t *o, oc_err *err)
{
    const char *s;
    size_t n;
    z->run = strip;
    if (tx_json_need_text(o, "decoder Strip", "content", &s, &n, err) ||
        tx_json_int(o, "decoder Strip", "start", 0, &z->start, err) || tx_json_int(o, "decoder Strip", "stop", 0, &z->stop, err))
        return -1;
    return n && tx_utf8_get(s, n, &z->mark) == n ? 0 : bs_err(err, "decoder Strip: 'content' must be one character");
}

static const struct {
    const char *type;
    run_fn *plain;
    int (*read)(step *z, const json_t *o, oc_err *err);
} known[] = {{"ByteLevel", byte_level, NULL},
             {"ByteFallback", byte_fallback, NULL},
             {"Fuse", fuse, NULL},
             {"WordPiece", NULL, read_wordpiece},
             {"BPEDecoder", NULL, read_bpe},
             {"Replace", NULL, read_replace},
             {"Metaspace", NULL, read_metaspace},
             {"Strip", NULL, read_strip}};

static int read_step(step *z, const json_t *o, oc_err *err)
{
    const char *type = tx_json_type(o, "decoder", err);
    for (size_t i = 0; type && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i].type) == 0) {
            z->run = known[i].plain;
            return known[i].read ? known[i].read(z, o, err) : 0;
        }
    return bs_err(err, "decoder: the type '%s' is not known", type ? type : "");
}

int tx_decoder_open(tx_decoder **out, const json_t *o, oc_err *err)
{
    *out = NULL;
    if (!o || json_is_null(o))
        return 0;
    tx_json_list list = {0};
    tx_decoder *z = calloc(1, sizeof *z);
    int result = -1;
    if (!z) {
        bs_err(err, "out of memory: a decoder");
        goto done;
    }
    if (tx_json_flatten(o, "decoder", "decoders", &list, err))
        goto done;
    z->steps = calloc(list.n + 1, sizeof *z->steps);
    if (!z->steps) {
        bs_err(err, "out of memory: a decoder of %zu steps", list.n);
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
        tx_decoder_close(z);
    return result;
}

void tx_decoder_close(tx_decoder *z)
{
    if (!z)
        return;
    for (size_t i = 0; i < z->n; i++) {
        tx_regex_close(z->steps[i].pattern);
        free(z->steps[i].text);
    }
    free(z->steps);
    free(z);
}

bool tx_decoder_is_bytelevel(const tx_decoder *z) { return z && z->n == 1 && z->steps[0].run == byte_level; }

int tx_decoder_run(const tx_decoder *z, tx_pieces *ps, tx_pieces *other, oc_err *err)
{
    int result = 0;
    for (size_t i = 0; i < z->n && !result; i++) {
        tx_pieces_reset(other);
        result = z->steps[i].run(&z->steps[i], ps, other, err);
        tx_pieces last = *ps;
        *ps = *other;
        *other = last;
    }
    return result;
}
