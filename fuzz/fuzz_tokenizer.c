/* fuzz_tokenizer.c - any bytes as a tokenizer.json, a text, a pattern or a table: an error, or ids that the
 * vocabulary has. The first byte says which; a 0 byte ends the first of two inputs. */
#include <stdlib.h>
#include <string.h>

#include "../src/text/text_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(int what)
{
    if (!what)
        abort();
}

/* Token by token: whole characters each time, together `want`. */
static void use_stream(const tx_tokenizer *t, const tx_ids *ids, const bs_buf *want)
{
    oc_err err = {0};
    bs_buf text = {0};
    const char *bytes;
    size_t n;
    tx_stream *s = tx_stream_open(t, true, &err);
    for (size_t i = 0; s && i <= ids->n; i++) {
        int bad = i < ids->n ? tx_stream_push(s, ids->p[i], &bytes, &n, &err) : tx_stream_end(s, &bytes, &n, &err);
        demand(!bad && tx_utf8_valid(bytes, n) == n && !bs_buf_put(&text, bytes, n, &err));
    }
    demand(text.n == want->n && (!text.n || memcmp(text.p, want->p, text.n) == 0));
    tx_stream_close(s);
    bs_buf_clear(&text);
}

/* Encodes and decodes; every id must have a name, and the same text must give the same ids. */
static void use(const tx_tokenizer *t, const char *s, size_t n)
{
    oc_err err = {0};
    tx_ids ids = {0}, again = {0};
    bs_buf text = {0};
    int bad = tx_encode(t, s, n, true, &ids, &err);
    demand(!bad == (err.text[0] == 0));
    if (!bad) {
        for (size_t i = 0; i < ids.n; i++)
            demand(tx_token_name(t, ids.p[i]) != NULL);
        demand(!tx_encode(t, s, n, true, &again, &err));
        demand(ids.n == again.n && (!ids.n || memcmp(ids.p, again.p, ids.n * sizeof *ids.p) == 0));
        if (!tx_decode(t, ids.p, ids.n, true, &text, &err)) {
            demand(tx_utf8_valid(text.p ? text.p : "", text.n) == text.n);
            use_stream(t, &ids, &text);
        }
    }
    tx_ids_clear(&ids);
    tx_ids_clear(&again);
    bs_buf_clear(&text);
}

static void fuzz_json(const char *json, size_t json_n, const char *text, size_t n)
{
    oc_err err = {0};
    json_error_t why;
    json_t *o = json_loadb(json, json_n, JSON_ALLOW_NUL, &why);
    if (!o)
        return;
    tx_tokenizer *t = tx_open_json(o, o, o, &err);
    demand(!t == (err.text[0] != 0));
    if (t)
        use(t, text, n);
    tx_close(t);
    json_decref(o);
}

/* Stages in front of a model that spells bytes, so that much of the text matters. */
static json_t *bytes_tokenizer(const char *stages)
{
    json_error_t why;
    json_t *o = json_loads(stages, 0, &why), *vocab = json_object(), *merges = json_array();
    for (int i = 0; i < 256; i++) {
        char name[16];
        snprintf(name, sizeof name, "<0x%02X>", i);
        json_object_set_new(vocab, name, json_integer(i));
        snprintf(name, sizeof name, "%c", i >= 'a' && i <= 'z' ? i : '#');
        if (i >= 'a' && i <= 'z')
            json_object_set_new(vocab, name, json_integer(256 + i));
    }
    json_object_set_new(vocab, "th", json_integer(600));
    json_object_set_new(vocab, "the", json_integer(601));
    json_array_append_new(merges, json_string("t h"));
    json_array_append_new(merges, json_string("th e"));
    json_object_set_new(o, "model",
                        json_pack("{s:s, s:b, s:o, s:o}", "type", "BPE", "byte_fallback", 1, "vocab", vocab, "merges", merges));
    return o;
}

static void fuzz_text(unsigned which, const char *s, size_t n)
{
    static const char *const stages[] = {
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Replace\","
        "\"pattern\":{\"Regex\":\"\\\\s+\"},"
        "\"content\":\" "
        "\"},{\"type\":\"Lowercase\"}]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"'s|["
        "\\\\p{L}]+|[\\\\p{N}]|"
        "[^\\\\s\\\\p{L}\\\\p{N}]+\"},\"behavior\":\"Removed\",\"invert\":true}}",
        "{\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
        "\"added_tokens\":[{\"id\":700,\"content\":\"a b\","
        "\"lstrip\":true,\"rstrip\":true},{\"id\":701,\"content\":\"xy\",\"single_word\":true}]}",
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKD\"},{\"type\":"
        "\"StripAccents\"},{\"type\":\"Strip\"},{\"type\":\"NFKC\"}]},"
        "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},\"decoder\":{\"type\":"
        "\"ByteFallback\"}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"}}"};
    static tx_tokenizer *open[4];
    which %= 4;
    if (!open[which]) {
        oc_err err = {0};
        json_t *o = bytes_tokenizer(stages[which]);
        open[which] = tx_open_json(o, NULL, NULL, &err);
        demand(open[which] != NULL);
        json_decref(o);
    }
    use(open[which], s, n);
}

static void fuzz_pattern(const char *pattern, size_t pattern_n, const char *s, size_t n)
{
    oc_err err = {0};
    tx_spans spans = {0};
    tx_regex *re = tx_regex_open(pattern, pattern_n, &err);
    demand(!re == (err.text[0] != 0));
    if (re && tx_utf8_valid(s, n) == n && !tx_regex_cut(re, s, n, &spans, &err)) {
        size_t done = 0;
        for (size_t i = 0; i < spans.n; i++) {
            demand(spans.p[i].at == done && spans.p[i].end >= done);
            done = spans.p[i].end;
        }
        demand(done == n);
    }
    tx_spans_clear(&spans);
    tx_regex_close(re);
}

static void fuzz_table(const char *base64, size_t base64_n, const char *s, size_t n)
{
    oc_err err = {0};
    bs_buf out = {0};
    tx_charsmap *m = tx_charsmap_open(base64, base64_n, &err);
    demand(!m == (err.text[0] != 0));
    if (m && tx_utf8_valid(s, n) == n)
        demand(!tx_charsmap_apply(m, s, n, &out, &err) && tx_utf8_valid(out.p ? out.p : "", out.n) == out.n);
    bs_buf_clear(&out);
    tx_charsmap_close(m);
}

/* A sentencepiece model; what it says as JSON must be a tokenizer, or be refused. */
static void fuzz_sentencepiece(const char *model, size_t model_n, const char *text, size_t n)
{
    oc_err err = {0};
    json_t *o = tx_sentencepiece_json(model, model_n, NULL, &err);
    demand(!o == (err.text[0] != 0));
    if (!o)
        return;
    tx_tokenizer *t = tx_open_json(o, NULL, json_object_get(o, "special_tokens_map"), &err);
    demand(!t == (err.text[0] != 0));
    if (t)
        use(t, text, n);
    tx_close(t);
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    /* Copies end in a 0 byte of their own, right behind which a sanitizer looks. */
    const uint8_t *zero = memchr(data + 1, 0, size - 1);
    size_t first_n = zero ? (size_t)(zero - data) - 1 : size - 1, second_n = size - 1 - first_n - (zero ? 1 : 0);
    char *first = calloc(first_n + 1, 1), *second = calloc(second_n + 1, 1);
    demand(first && second);
    memcpy(first, data + 1, first_n);
    memcpy(second, data + size - second_n, second_n);
    switch (data[0] % 9) {
    case 0:
    case 1: fuzz_json(first, first_n, second, second_n); break;
    case 2: fuzz_pattern(first, first_n, second, second_n); break;
    case 3: fuzz_table(first, first_n, second, second_n); break;
    case 8: { /* the text's length is the second byte: a model holds 0 bytes */
        size_t text_n = size > 2 && data[1] < size - 2 ? data[1] : 0;
        char *copy = malloc(size - text_n);
        demand(copy != NULL);
        size_t model_n = size > 2 ? size - 2 - text_n : 0;
        memcpy(copy, data + size - model_n, model_n);
        fuzz_sentencepiece(copy, model_n, (const char *)data + 2, text_n);
        free(copy);
        break;
    }
    default: fuzz_text(data[0] % 9, (const char *)data + 1, size - 1); break;
    }
    free(first);
    free(second);
    return 0;
}
