/* decoder.c - from the names of tokens to text: the steps of tokenizer.json's "decoder".
 *
 * Every step takes token after token and passes on what is certain: bytes that may yet become a character, or a run of
 * them that later bytes may spoil, wait. A text decoded at once and one decoded token by token are thus the same work. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

typedef struct step step;
/* Takes n bytes of a token. `starts` is set with a token's first bytes; one that comes in parts has more without. */
typedef int take_fn(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err);
typedef int end_fn(tx_decoding *d, size_t i, oc_err *err);

struct step {
    take_fn *take;
    end_fn *end;       /* gives away what is held; NULL: nothing is */
    bool joins;        /* makes one token, in parts, of all */
    bool whole;        /* wants tokens whole */
    bool gather;       /* wants them whole and they come in parts: waits for the end */
    tx_regex *pattern; /* Replace */
    char *text;        /* Replace's content, WordPiece's prefix, BPEDecoder's and CLIP's suffix; owned */
    size_t n;
    bool cleanup;  /* WordPiece */
    uint32_t mark; /* Strip, Metaspace */
    json_int_t start, stop;
    int scheme;
};

enum { MAX_STEPS = 64, MAX_STRIP = 1 << 20 };

struct tx_decoder {
    step steps[MAX_STEPS + 1]; /* one more for the ends of CLIP's words */
    size_t n;
};

/* What a step remembers from token to token. The memory stays from text to text. */
typedef struct state {
    bs_buf held, work, whole;
    tx_spans spans;
    size_t tokens;
    bool gathered;    /* `whole` is a token */
    json_int_t front; /* Strip: marks that may still go in front */
    size_t blanks;    /* word_ends: spaces that go unless something follows */
    bool begun;       /* word_ends: something other than a space has been passed on */
} state;

struct tx_decoding {
    const tx_decoder *decoder;
    bool begun;
    bs_buf *out;
    state states[MAX_STEPS + 1];
};

/* ---- from step to step ------------------------------------------------------------------------------- */

static int give(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    if (i == d->decoder->n)
        return bs_buf_put(d->out, s, n, err);
    const step *z = &d->decoder->steps[i];
    state *q = &d->states[i];
    if (z->gather) {
        q->gathered = true;
        return bs_buf_put(&q->whole, s, n, err);
    }
    q->tokens += starts;
    return z->take(d, i, s, n, starts, err);
}

static int pass(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    return give(d, i + 1, s, n, starts, err);
}

static int pass_buf(tx_decoding *d, size_t i, const bs_buf *b, bool starts, oc_err *err)
{
    return pass(d, i, b->p ? b->p : "", b->n, starts, err);
}

/* At the end: the token that came in parts. */
static int take_gathered(tx_decoding *d, size_t i, oc_err *err)
{
    state *q = &d->states[i];
    if (!q->gathered)
        return 0;
    q->tokens++;
    return d->decoder->steps[i].take(d, i, q->whole.p ? q->whole.p : "", q->whole.n, true, err);
}

/* Forgets the first n bytes. */
static void drop_front(bs_buf *b, size_t n)
{
    b->n -= n;
    if (n && b->n)
        memmove(b->p, b->p + n, b->n);
}

/* ---- steps ------------------------------------------------------------------------------------------- */

/* No decoder at all: tokens with spaces between. */
static int spaced(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    return (d->states[i].tokens > 1 && pass(d, i, " ", 1, true, err)) || pass(d, i, s, n, starts, err) ? -1 : 0;
}

static int fuse(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    return pass(d, i, s, n, starts && d->states[i].tokens == 1, err);
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

static int byte_level(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    state *q = &d->states[i];
    if (put_token_bytes(s, n, &q->held, err))
        return -1;
    size_t sure = q->held.n - tx_utf8_begun(q->held.p ? q->held.p : "", q->held.n);
    q->work.n = 0;
    if (tx_utf8_clean(&q->work, q->held.p ? q->held.p : "", sure, true, err))
        return -1;
    drop_front(&q->held, sure);
    return pass_buf(d, i, &q->work, starts && q->tokens == 1, err);
}

static int byte_level_end(tx_decoding *d, size_t i, oc_err *err)
{
    state *q = &d->states[i];
    q->work.n = 0;
    return tx_utf8_clean(&q->work, q->held.p ? q->held.p : "", q->held.n, true, err) || pass_buf(d, i, &q->work, false, err) ? -1
                                                                                                                             : 0;
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
static int byte_fallback_end(tx_decoding *d, size_t i, oc_err *err)
{
    bs_buf *run = &d->states[i].held;
    int result = 0;
    bool valid = run->n == 0 || tx_utf8_valid(run->p, run->n) == run->n;
    if (valid && run->n)
        result = pass_buf(d, i, run, true, err);
    for (size_t k = 0; k < run->n && !valid && !result; k++)
        result = pass(d, i, "\xef\xbf\xbd", 3, true, err);
    run->n = 0;
    return result;
}

static int byte_fallback(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    int byte = byte_value(s, n);
    char one = (char)byte;
    if (byte >= 0)
        return bs_buf_put(&d->states[i].held, &one, 1, err);
    return byte_fallback_end(d, i, err) || pass(d, i, s, n, starts, err) ? -1 : 0;
}

/* Replaces every `what` in b by `with`, which is not longer. */
static void replace_all(bs_buf *b, const char *what, const char *with)
{
    size_t what_n = strlen(what), with_n = strlen(with), from = 0, to = 0;
    const char *hit;
    while (from < b->n && (hit = memmem(b->p + from, b->n - from, what, what_n))) {
        size_t gap = (size_t)(hit - b->p) - from;
        memmove(b->p + to, b->p + from, gap);
        memcpy(b->p + to + gap, with, with_n);
        to += gap + with_n;
        from += gap + what_n;
    }
    if (from < b->n)
        memmove(b->p + to, b->p + from, b->n - from);
    b->n -= from - to;
}

/* English as BERT's decoder tidies it. */
static void tidy(bs_buf *b)
{
    static const char *const rules[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        replace_all(b, rules[i][0], rules[i][1]);
}

static int wordpiece(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    const step *z = &d->decoder->steps[i];
    bs_buf *text = &d->states[i].work;
    bool first = d->states[i].tokens == 1, inside = !first && n >= z->n && memcmp(s, z->text, z->n) == 0;
    size_t skip = inside ? z->n : 0;
    text->n = 0;
    if (bs_buf_put(text, " ", !first && !inside, err) || bs_buf_put(text, s + skip, n - skip, err))
        return -1;
    if (z->cleanup)
        tidy(text);
    return pass_buf(d, i, text, starts, err);
}

/* The last token's suffix is no space, so each waits for the next. */
static int give_held(tx_decoding *d, size_t i, const char *with, oc_err *err)
{
    const step *z = &d->decoder->steps[i];
    bs_buf *held = &d->states[i].held;
    if (z->n)
        replace_all(held, z->text, with);
    return pass_buf(d, i, held, true, err);
}

static int bpe_suffix(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    (void)starts;
    if (d->states[i].tokens > 1 && give_held(d, i, " ", err))
        return -1;
    d->states[i].held.n = 0;
    return bs_buf_put(&d->states[i].held, s, n, err);
}

static int bpe_suffix_end(tx_decoding *d, size_t i, oc_err *err) { return give_held(d, i, "", err); }

static int metaspace(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    const step *z = &d->decoder->steps[i];
    bs_buf *text = &d->states[i].work;
    bool drop = d->states[i].tokens == 1 && z->scheme != TX_PREPEND_NEVER;
    text->n = 0;
    for (size_t k = 0; k < n;) {
        uint32_t c;
        size_t length = tx_utf8_get(s + k, n - k, &c);
        if (c != z->mark ? bs_buf_put(text, s + k, length, err) : bs_buf_put(text, " ", !drop, err))
            return -1;
        k += length;
    }
    return pass_buf(d, i, text, starts, err);
}

static int replace(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    const step *z = &d->decoder->steps[i];
    state *q = &d->states[i];
    if (tx_regex_cut(z->pattern, s, n, &q->spans, err))
        return -1;
    q->work.n = 0;
    for (size_t k = 0; k < q->spans.n; k++) {
        const tx_span *p = &q->spans.p[k];
        if (p->hit ? bs_buf_put(&q->work, z->text, z->n, err) : bs_buf_put(&q->work, s + p->at, p->end - p->at, err))
            return -1;
    }
    return pass_buf(d, i, &q->work, starts, err);
}

/* At most `start` marks go in front of a token, and `stop` behind, which are held until something follows. */
static int strip(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    const step *z = &d->decoder->steps[i];
    state *q = &d->states[i];
    if (starts) {
        q->front = z->start;
        q->held.n = 0;
    }
    q->work.n = 0;
    for (size_t k = 0, length; k < n; k += length) {
        uint32_t c;
        length = tx_utf8_get(s + k, n - k, &c);
        bool mark = c == z->mark;
        if (mark && q->front > 0) {
            q->front--;
            continue;
        }
        q->front = 0;
        if (mark && (size_t)z->stop * length > q->held.n) {
            if (bs_buf_put(&q->held, s + k, length, err))
                return -1;
            continue;
        }
        if ((!mark && bs_buf_put(&q->work, q->held.p, q->held.n, err)) || bs_buf_put(&q->work, s + k, length, err))
            return -1;
        q->held.n = mark ? q->held.n : 0;
    }
    return pass_buf(d, i, &q->work, starts, err);
}

/* CLIP's ends of words come out of the byte decoder as they are; transformers puts spaces there, and strips. */
static int put_blank_or(state *q, char c, oc_err *err)
{
    if (c == ' ') {
        q->blanks += q->begun;
        return 0;
    }
    for (q->begun = true; q->blanks; q->blanks--)
        if (bs_buf_put(&q->work, " ", 1, err))
            return -1;
    return bs_buf_put(&q->work, &c, 1, err);
}

static int word_ends(tx_decoding *d, size_t i, const char *s, size_t n, bool starts, oc_err *err)
{
    const step *z = &d->decoder->steps[i];
    state *q = &d->states[i];
    size_t k = 0;
    if (bs_buf_put(&q->held, s, n, err))
        return -1;
    q->work.n = 0;
    while (k < q->held.n) {
        size_t rest = q->held.n - k, same = rest < z->n ? rest : z->n;
        bool hit = memcmp(q->held.p + k, z->text, same) == 0;
        if (hit && same < z->n)
            break; /* may become the suffix */
        if (put_blank_or(q, hit ? ' ' : q->held.p[k], err))
            return -1;
        k += hit ? z->n : 1;
    }
    drop_front(&q->held, k);
    return pass_buf(d, i, &q->work, starts, err);
}

static int word_ends_end(tx_decoding *d, size_t i, oc_err *err)
{
    state *q = &d->states[i];
    q->work.n = 0;
    for (size_t k = 0; k < q->held.n; k++)
        if (put_blank_or(q, q->held.p[k], err))
            return -1;
    return pass_buf(d, i, &q->work, false, err);
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
    return keep_text(z, o, "decoder WordPiece", "prefix", "##", err) ||
                   tx_json_bool(o, "decoder WordPiece", "cleanup", true, &z->cleanup, err)
               ? -1
               : 0;
}

static int read_bpe(step *z, const json_t *o, oc_err *err)
{
    return keep_text(z, o, "decoder BPEDecoder", "suffix", "</w>", err);
}

static int read_replace(step *z, const json_t *o, oc_err *err)
{
    z->pattern = tx_pattern_open(o, "decoder Replace", err);
    return z->pattern ? keep_text(z, o, "decoder Replace", "content", NULL, err) : -1;
}

static int read_metaspace(step *z, const json_t *o, oc_err *err)
{
    bool split;
    return tx_metaspace_read(o, "decoder Metaspace", &z->mark, &z->scheme, &split, err);
}

static int read_strip(step *z, const json_t *o, oc_err *err)
{
    const char *s;
    size_t n;
    if (tx_json_need_text(o, "decoder Strip", "content", &s, &n, err) ||
        tx_json_int(o, "decoder Strip", "start", 0, &z->start, err) || tx_json_int(o, "decoder Strip", "stop", 0, &z->stop, err))
        return -1;
    if (z->start < 0 || z->start > MAX_STRIP || z->stop < 0 || z->stop > MAX_STRIP)
        return bs_err(err, "decoder Strip: 'start' and 'stop' must be in 0..%d", MAX_STRIP);
    return n && tx_utf8_get(s, n, &z->mark) == n ? 0 : bs_err(err, "decoder Strip: 'content' must be one character");
}

static const struct {
    const char *type;
    step plain; /* what a step without fields is */
    int (*read)(step *z, const json_t *o, oc_err *err);
} known[] = {{"ByteLevel", {.take = byte_level, .end = byte_level_end, .joins = true, .whole = true}, NULL},
             {"ByteFallback", {.take = byte_fallback, .end = byte_fallback_end, .whole = true}, NULL},
             {"Fuse", {.take = fuse, .joins = true}, NULL},
             {"WordPiece", {.take = wordpiece, .whole = true}, read_wordpiece},
             {"BPEDecoder", {.take = bpe_suffix, .end = bpe_suffix_end, .whole = true}, read_bpe},
             {"Replace", {.take = replace, .whole = true}, read_replace},
             {"Metaspace", {.take = metaspace}, read_metaspace},
             {"Strip", {.take = strip}, read_strip}};

static int read_step(step *z, const json_t *o, oc_err *err)
{
    const char *type = tx_json_type(o, "decoder", err);
    for (size_t i = 0; type && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i].type) == 0) {
            *z = known[i].plain;
            return known[i].read ? known[i].read(z, o, err) : 0;
        }
    return bs_err(err, "decoder: the type '%s' is not known", type ? type : "");
}

static int read_steps(tx_decoder *z, const json_t *o, oc_err *err)
{
    tx_json_list list = {0};
    int result = tx_json_flatten(o, "decoder", "decoders", &list, err);
    if (!result && list.n > MAX_STEPS)
        result = bs_err(err, "decoder: %zu steps are more than the %d that are taken", list.n, MAX_STEPS);
    for (size_t i = 0; i < list.n && !result; i++)
        result = read_step(&z->steps[z->n++], list.p[i], err); /* counted first: what a faulty one has taken is freed */
    free(list.p);
    return result;
}

static int put_word_ends(tx_decoder *z, const char *suffix, size_t n, oc_err *err)
{
    char *text = malloc(n);
    if (!text)
        return bs_err(err, "out of memory: a decoder");
    memcpy(text, suffix, n);
    z->steps[z->n++] = (step){.take = word_ends, .end = word_ends_end, .text = text, .n = n};
    return 0;
}

tx_decoder *tx_decoder_open(const json_t *o, const char *suffix, size_t suffix_n, oc_err *err)
{
    tx_decoder *z = calloc(1, sizeof *z);
    if (!z) {
        bs_err(err, "out of memory: a decoder");
        return NULL;
    }
    if (!o || json_is_null(o))
        z->steps[z->n++] = (step){.take = spaced};
    else if (read_steps(z, o, err))
        goto fail;
    if (suffix_n && z->n == 1 && z->steps[0].take == byte_level && put_word_ends(z, suffix, suffix_n, err))
        goto fail;
    for (size_t i = 0, joined = 0; i < z->n; i++) {
        z->steps[i].gather = joined && z->steps[i].whole;
        joined = (joined && !z->steps[i].gather) || z->steps[i].joins;
    }
    return z;
fail:
    tx_decoder_close(z);
    return NULL;
}

void tx_decoder_close(tx_decoder *z)
{
    if (!z)
        return;
    for (size_t i = 0; i < z->n; i++) {
        tx_regex_close(z->steps[i].pattern);
        free(z->steps[i].text);
    }
    free(z);
}

/* ---- one text ---------------------------------------------------------------------------------------- */

tx_decoding *tx_decoding_open(const tx_decoder *z, oc_err *err)
{
    tx_decoding *d = calloc(1, sizeof *d);
    if (!d)
        bs_err(err, "out of memory: decoding");
    else
        d->decoder = z;
    return d;
}

int tx_decoding_put(tx_decoding *d, const char *name, size_t n, bs_buf *out, oc_err *err)
{
    d->out = out;
    d->begun = true;
    return give(d, 0, name, n, true, err);
}

static void forget(state *q)
{
    q->held.n = q->whole.n = q->tokens = q->blanks = 0;
    q->gathered = q->begun = false;
}

int tx_decoding_end(tx_decoding *d, bs_buf *out, oc_err *err)
{
    int result = 0;
    d->out = out;
    for (size_t i = 0; i < d->decoder->n && d->begun && !result; i++) {
        const step *z = &d->decoder->steps[i];
        if (z->gather)
            result = take_gathered(d, i, err);
        if (z->end && !result)
            result = z->end(d, i, err);
    }
    for (size_t i = 0; i < d->decoder->n; i++)
        forget(&d->states[i]);
    d->begun = false;
    return result;
}

void tx_decoding_close(tx_decoding *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->decoder->n; i++) {
        bs_buf_clear(&d->states[i].held);
        bs_buf_clear(&d->states[i].work);
        bs_buf_clear(&d->states[i].whole);
        tx_spans_clear(&d->states[i].spans);
    }
    free(d);
}
