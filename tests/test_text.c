/* test_text.c - the tokenizer: each stage by itself, whole folders, training, faults. Expected values are
 * worked out by hand or are what `tokenizers` 0.23 gives; tests/tokenizer_parity.py compares whole
 * vocabularies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/text/text_parts.h"
#include "count_allocations.h"

/* ---- helpers ----------------------------------------------------------------------------------------- */

static json_t *parse(const char *text)
{
    json_error_t why;
    json_t *o = json_loads(text, JSON_DECODE_ANY, &why);
    if (!o)
        fail_msg("bad JSON in a test: %s in %s", why.text, text);
    return o;
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("'%s' does not say '%s'", text, part);
}

static void assert_text(const bs_buf *got, const char *want)
{
    assert_int_equal(got->n, strlen(want));
    assert_string_equal(got->n ? got->p : "", want);
}

/* A folder of the test's own, with one or more files. */
typedef struct folder {
    char path[256];
} folder;

static folder make_folder(void)
{
    folder d;
    const char *base = getenv("TMPDIR");
    snprintf(d.path, sizeof d.path, "%s/ocelli-text-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(d.path));
    return d;
}

static void put_file(const folder *d, const char *name, const char *text)
{
    oc_err err = {0};
    char *path = bs_join(d->path, name);
    assert_int_equal(bs_write_file(path, text, strlen(text), &err), 0);
    free(path);
}

static char *get_file(const folder *d, const char *name)
{
    oc_err err = {0};
    bs_buf text = {0};
    char *path = bs_join(d->path, name);
    assert_int_equal(bs_read_file(&text, path, 1 << 24, &err), 0);
    free(path);
    return text.p;
}

static void drop_folder(const folder *d)
{
    static const char *const names[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "a.txt",
        "vocab.txt",      "tokenizer.model"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = bs_join(d->path, names[i]);
        unlink(path);
        free(path);
    }
    assert_int_equal(rmdir(d->path), 0);
}

static tx_tokenizer *open_json(const char *json)
{
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "tokenizer.json", json);
    tx_tokenizer *t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    drop_folder(&d);
    return t;
}

/* The ids as "1 2 3". */
static const char *encode(const tx_tokenizer *t, const char *s, bool special)
{
    static char out[4096];
    oc_err err = {0};
    tx_ids ids = {0};
    if (tx_encode(t, s, strlen(s), special, &ids, &err))
        fail_msg("%s", err.text);
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < ids.n && at < sizeof out - 16; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, "%s%d", i ? " " : "", ids.p[i]);
    tx_ids_clear(&ids);
    return out;
}

static void assert_refused(const char *json, const char *part)
{
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "tokenizer.json", json);
    assert_null(tx_open(d.path, &err));
    assert_has(err.text, part);
    assert_has(err.text, "tokenizer.json");
    drop_folder(&d);
}

/* ---- UTF-8 and Unicode ------------------------------------------------------------------------------- */

static void test_utf8_round_trip(void **state)
{
    (void)state;
    for (uint32_t c = 1; c < 0x110000; c++) {
        char s[4];
        uint32_t back;
        if (c >= 0xd800 && c < 0xe000)
            continue;
        size_t n = tx_utf8_put(c, s);
        assert_int_equal(tx_utf8_get(s, n, &back), n);
        assert_int_equal(back, c);
        assert_int_equal(tx_utf8_valid(s, n), n);
    }
}

static void test_bad_bytes_become_replacement_characters(void **state)
{
    (void)state;
    static const struct {
        const char *in, *each, *rust;
    } cases[] = {{"a\xff"
                  "b",
                  "a\ufffd"
                  "b",
                  "a\ufffd"
                  "b"},
                 {"\xe4\xbd", "\ufffd\ufffd", "\ufffd"},                       /* cut off */
                 {"\xed\xa0\x80", "\ufffd\ufffd\ufffd", "\ufffd\ufffd\ufffd"}, /* a surrogate */
                 {"\xc0\xaf", "\ufffd\ufffd", "\ufffd\ufffd"},                 /* overlong */
                 {"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd", "\ufffd\ufffd\ufffd\ufffd"},
                 {"\xf0\x9f\x98x", "\ufffd\ufffd\ufffdx", "\ufffdx"},
                 {"\xe4\xbd\xa0", "你", "你"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        oc_err err = {0};
        bs_buf a = {0}, b = {0};
        assert_int_equal(tx_utf8_clean(&a, cases[i].in, strlen(cases[i].in), false, &err), 0);
        assert_int_equal(tx_utf8_clean(&b, cases[i].in, strlen(cases[i].in), true, &err), 0);
        assert_text(&a, cases[i].each);
        assert_text(&b, cases[i].rust);
        bs_buf_clear(&a);
        bs_buf_clear(&b);
    }
}

static void test_normal_forms(void **state)
{
    (void)state;
    static const struct {
        const char *in, *nfd, *nfc, *nfkd, *nfkc;
    } cases[] = {
        {"plain", "plain", "plain", "plain", "plain"},
        {"\u00e9", "e\u0301", "\u00e9", "e\u0301", "\u00e9"},
        {"e\u0301\u0323", "e\u0323\u0301", "\u1eb9\u0301", "e\u0323\u0301", "\u1eb9\u0301"},
        {"\u212b\ufb01", "A\u030a\ufb01", "\u00c5\ufb01", "A\u030afi", "\u00c5fi"},
        {"\u1100\u1161\u11a8", "\u1100\u1161\u11a8", "\uac01", "\u1100\u1161\u11a8", "\uac01"},
        {"\u0958", "\u0915\u093c", "\u0915\u093c", "\u0915\u093c", "\u0915\u093c"}, /* never composed again */
        {"\u0344", "\u0308\u0301", "\u0308\u0301", "\u0308\u0301", "\u0308\u0301"},
        {"\u3099\u304b\u3099", "\u3099\u304b\u3099", "\u3099\u304c", "\u3099\u304b\u3099", "\u3099\u304c"},
        {"a\u0305\u0301", "a\u0305\u0301", "a\u0305\u0301", "a\u0305\u0301", "a\u0305\u0301"}, /* blocked */
        {"a\u0345\u0301", "a\u0301\u0345", "\u00e1\u0345", "a\u0301\u0345", "\u00e1\u0345"},
        {"\U0001e030\u32ff", "\U0001e030\u32ff", "\U0001e030\u32ff", "\U0001e030\u32ff", "\U0001e030\u32ff"}, /* too young */
        {"\U00011935\U00011930", "\U00011935\U00011930", "\U00011935\U00011930", "\U00011935\U00011930", "\U00011935\U00011930"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *want[] = {cases[i].nfd, cases[i].nfc, cases[i].nfkd, cases[i].nfkc};
        for (int form = 0; form < 4; form++) {
            oc_err err = {0};
            bs_buf b = {0};
            assert_int_equal(tx_unicode_form(&b, cases[i].in, strlen(cases[i].in), (tx_form)form, &err), 0);
            assert_text(&b, want[form]);
            bs_buf_clear(&b);
        }
    }
}

static void test_many_marks_are_sorted(void **state)
{
    (void)state;
    enum { N = 200000 }; /* quadratic sorting would take minutes */
    oc_err err = {0};
    bs_buf in = {0}, out = {0};
    for (int i = 0; i < N; i++)
        assert_int_equal(bs_buf_put(&in, i % 2 ? "\u0323" : "\u0301", 2, &err), 0);
    assert_int_equal(tx_unicode_form(&out, in.p, in.n, TX_NFD, &err), 0);
    assert_int_equal(out.n, in.n);
    for (size_t i = 0; i < out.n; i += 2)
        assert_memory_equal(out.p + i, i < out.n / 2 ? "\u0323" : "\u0301", 2);
    bs_buf_clear(&in);
    bs_buf_clear(&out);
}

static void test_lower_case(void **state)
{
    (void)state;
    oc_err err = {0};
    bs_buf b = {0};
    const char *in = "ABC xyz ÄÖ ΣΑΣ İ ẞ Ⅷ Ⓐ \u1c89 \ua7cb \U00010d50 你";
    assert_int_equal(tx_lowercase(&b, in, strlen(in), &err), 0);
    assert_text(&b, "abc xyz äö σασ i\u0307 ß ⅷ ⓐ \u1c8a \u0264 \U00010d70 你");
    bs_buf_clear(&b);
}

static void test_byte_alphabet(void **state)
{
    (void)state;
    bool seen[0x144] = {false};
    for (int i = 0; i < 256; i++) {
        uint32_t c = tx_byte_char((unsigned char)i);
        assert_true(c > 0x20 && c < 0x144 && !seen[c]);
        seen[c] = true;
        assert_int_equal(tx_char_byte(c), i);
    }
    assert_int_equal(tx_byte_char(' '), 0x120);
    assert_int_equal(tx_byte_char('\n'), 0x10a);
    assert_int_equal(tx_byte_char(0xad), 0x143);
    assert_int_equal(tx_char_byte(' '), -1);
    assert_int_equal(tx_char_byte(0x144), -1);
}

/* ---- normalizers ------------------------------------------------------------------------------------- */

static void test_normalizers(void **state)
{
    (void)state;
    static const struct {
        const char *json, *in, *want;
    } cases[] = {{"null", " As Is ", " As Is "},
                 {"{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}", "\u3000 a b \xc2\x85", "a b"},
                 {"{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", " a ", " a"},
                 {"{\"type\":\"StripAccents\"}", "e\u0301\u0323o", "eo"},
                 {"{\"type\":\"Prepend\",\"prepend\":\"▁\"}", "a", "▁a"},
                 {"{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}", " a  b", "▁a▁▁b"},
                 {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\s+\"},\"content\":\" \"}", "a\t\xc2\x85\u3000b\u180ec",
                  "a b\u180ec"},
                 {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x*\"},\"content\":\"-\"}", "axxb", "-a-b-"},
                 {"{\"type\":\"Nmt\"}",
                  "a\x01\u200b\ufeff"
                  "b",
                  "a  b"},
                 {"{\"type\":\"ByteLevel\"}", "é ", "Ã©Ġ"},
                 {"{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_accents\":"
                  "null,"
                  "\"lowercase\":true}",
                  "H\u00e9\tL\u200bo中文\ufffd!", "he lo 中  文 !"},
                 {"{\"type\":\"BertNormalizer\",\"clean_text\":false,\"handle_chinese_chars\":false,\"strip_accents\":"
                  "null,"
                  "\"lowercase\":false}",
                  "H\u00e9\t中", "H\u00e9\t中"},
                 {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"},{\"type\":\"Sequence\","
                  "\"normalizers\":["
                  "{\"type\":\"NFD\"},{\"type\":\"StripAccents\"}]}]}",
                  "ÉÀ", "ea"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        oc_err err = {0};
        tx_normalizer *z;
        bs_buf out = {0};
        bool moved;
        json_t *o = parse(cases[i].json);
        if (tx_normalizer_open(&z, o, &err) || tx_normalize(z, cases[i].in, strlen(cases[i].in), &out, &moved, &err))
            fail_msg("%s", err.text);
        assert_text(&out, cases[i].want);
        bs_buf_clear(&out);
        tx_normalizer_close(z);
        json_decref(o);
    }
}

static void test_charsmap(void **state)
{
    (void)state;
    /* A table with one key, "A" to "b": unit 0 points to 'A', 'A' is a leaf whose value is 0. */
    oc_err err = {0};
    uint32_t units[256] = {0};
    units[0] = 1u << 10;                       /* children at 0 ^ 1 */
    units['A' ^ 1] = 'A' | 1u << 8 | 2u << 10; /* a leaf; its value at that place ^ 2 */
    units['A' ^ 1 ^ 2] = 1u << 31;
    unsigned char raw[4 + sizeof units + 2] = {sizeof units & 0xff, sizeof units >> 8};
    memcpy(raw + 4, units, sizeof units); /* little endian, as the machines that run this */
    raw[sizeof raw - 2] = 'b';
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[2048];
    size_t n = 0;
    for (size_t i = 0; i < sizeof raw; i += 3) {
        uint32_t bits = (uint32_t)raw[i] << 16 | (i + 1 < sizeof raw ? (uint32_t)raw[i + 1] << 8 : 0) |
                        (i + 2 < sizeof raw ? raw[i + 2] : 0u);
        for (int k = 18; k >= 0; k -= 6)
            text[n++] = digits[bits >> k & 63];
    }
    tx_charsmap *m = tx_charsmap_open(text, n, &err);
    if (!m)
        fail_msg("%s", err.text);
    bs_buf out = {0};
    assert_int_equal(tx_charsmap_apply(m, "xAyA\u0301", 6, &out, &err), 0);
    assert_text(&out, "xbyb"); /* the cluster A + accent is looked up whole, and its front is a key */
    bs_buf_clear(&out);
    tx_charsmap_close(m);
    assert_null(tx_charsmap_open(text, 8, &err)); /* shorter than it says */
    assert_has(err.text, "trie");
    err.text[0] = 0;
    assert_null(tx_charsmap_open("!!!!", 4, &err));
    assert_has(err.text, "base64");
}

/* ---- pre-tokenizers and patterns --------------------------------------------------------------------- */

/* The pieces with | between. */
static void assert_cut(const char *json, const char *in, const char *want)
{
    oc_err err = {0};
    tx_pretokenizer *z;
    tx_pieces ps = {0}, other = {0};
    bs_buf out = {0};
    json_t *o = parse(json);
    if (tx_pretokenizer_open(&z, o, &err) || tx_pieces_put(&ps, in, strlen(in), -1, true, &err) ||
        tx_pretokenize(z, &ps, &other, &err))
        fail_msg("%s: %s", json, err.text);
    for (size_t i = 0; i < ps.n; i++)
        if (bs_buf_put(&out, "|", i > 0, &err) || bs_buf_put(&out, ps.text.p + ps.p[i].at, ps.p[i].n, &err))
            fail_msg("%s", err.text);
    if (out.n != strlen(want) || (out.n && memcmp(out.p, want, out.n) != 0))
        fail_msg("%s on '%s' gives '%s', not '%s'", json, in, out.n ? out.p : "", want);
    bs_buf_clear(&out);
    tx_pieces_clear(&ps);
    tx_pieces_clear(&other);
    tx_pretokenizer_close(z);
    json_decref(o);
}

static void test_pretokenizers(void **state)
{
    (void)state;
    static const char byte_level[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":%s,\"use_regex\":%s}";
    char json[256];
    assert_cut("{\"type\":\"Whitespace\"}", "Hey man, it's 3½!", "Hey|man|,|it|'|s|3|½!");
    assert_cut("{\"type\":\"WhitespaceSplit\"}", " a\u3000b,c\n", "a|b,c");
    assert_cut("{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}", "a...b,c", "a|...|b|,|c");
    assert_cut("{\"type\":\"BertPreTokenizer\"}", "Hey friend!  How are you?!?", "Hey|friend|!|How|are|you|?|!|?");
    assert_cut("{\"type\":\"Digits\",\"individual_digits\":true}", "a12Ⅷb", "a|1|2|Ⅷ|b");
    assert_cut("{\"type\":\"Digits\",\"individual_digits\":false}", "a12b", "a|12|b");
    assert_cut("{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"x\"}", "axxb", "a|b");
    assert_cut("{\"type\":\"FixedLength\",\"length\":2}", "你好吗", "你好|吗");
    assert_cut("{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"always\",\"split\":true}", "a  b", "▁a|▁|▁b");
    assert_cut("{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"never\",\"split\":false}", "a b", "a▁b");
    assert_cut("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\","
               "\"replacement\":\"▁\",\"prepend_scheme\":\"first\"}]}",
               "a b", "▁a|b");
    snprintf(json, sizeof json, byte_level, "false", "true");
    assert_cut(json, "I'll go  é 12!?", "I|'ll|Ġgo|Ġ|ĠÃ©|Ġ12|!?");
    snprintf(json, sizeof json, byte_level, "true", "false");
    assert_cut(json, "a b", "ĠaĠb");
}

static void test_split_behaviours(void **state)
{
    (void)state;
    static const struct {
        const char *behaviour, *plain, *inverted;
    } cases[] = {{"Removed", "the|final|countdown", "-|--"},
                 {"Isolated", "the|-|final|-|-|countdown", "the|-|final|-|-|countdown"},
                 {"MergedWithPrevious", "the-|final-|-|countdown", "the|-final|-|-countdown"},
                 {"MergedWithNext", "the|-final|-|-countdown", "the-|final-|-|countdown"},
                 {"Contiguous", "the|-|final|--|countdown", "the|-|final|--|countdown"}};
    char json[256];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int invert = 0; invert < 2; invert++) {
            snprintf(json, sizeof json, "{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},\"behavior\":\"%s\",\"invert\":%s}",
                     cases[i].behaviour, invert ? "true" : "false");
            const char *want = invert ? cases[i].inverted : cases[i].plain;
            assert_cut(json, "the-final--countdown", strcmp(want, "-|--") == 0 ? "-|-|-" : want);
        }
}

static void assert_replaced(const char *pattern, const char *in, const char *want)
{
    oc_err err = {0};
    tx_spans spans = {0};
    bs_buf out = {0};
    tx_regex *re = tx_regex_open(pattern, strlen(pattern), &err);
    if (!re || tx_regex_cut(re, in, strlen(in), &spans, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < spans.n; i++) {
        const tx_span *p = &spans.p[i];
        assert_int_equal(p->hit ? bs_buf_put(&out, "|", 1, &err) : bs_buf_put(&out, in + p->at, p->end - p->at, &err), 0);
    }
    if (out.n != strlen(want) || (out.n && memcmp(out.p, want, out.n) != 0))
        fail_msg("%s on '%s' gives '%s', not '%s'", pattern, in, out.n ? out.p : "", want);
    bs_buf_clear(&out);
    tx_spans_clear(&spans);
    tx_regex_close(re);
}

static void test_patterns_mean_what_they_mean_in_ruby(void **state)
{
    (void)state;
    assert_replaced("\\s",
                    "a\xc2\x85"
                    "b\u180ec\x0b"
                    "d",
                    "a|b\u180ec|d");
    assert_replaced("\\w", "a²\u200c-", "||\u200c-");
    assert_replaced("[\\w]", "a²", "|²");
    assert_replaced("\\d+", "12٣x\U00010d40", "|x|");
    assert_replaced("\\h+", "xyfF9 ", "xy| ");
    assert_replaced("\\p{L}+", "\U00031350a1", "|1"); /* a letter of Unicode 15 */
    assert_replaced("[^\\s\\p{L}]", "\U00031350 !", "\U00031350 |");
    assert_replaced("\\p{^L}", "a1", "a|");
    assert_replaced("\\p{Han}+", "中。文", "|。|"); /* the script, not its extensions */
    assert_replaced("\\p{N}{1,3}+", "12345", "|");  /* no possessive repeat */
    assert_replaced("(?:ab){1,2}+c", "ababababc", "|");
    assert_replaced("a{,2}b", "aaab", "a|");
    assert_replaced("a{x", "a{x", "|");
    assert_replaced("^a", "a\na", "|\n|");
    assert_replaced("(?m:.)", "a\n", "||");
    assert_replaced(".", "a\n", "|\n");
    assert_replaced("(?i:'s)", "'S'ſ", "||");
    assert_replaced("[]a]", "]a", "||");
    assert_replaced("\\v", "a\x0b\n", "a|\n");
}

static void test_patterns_that_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {"[a&&b]", "[a[b]]", "\\bx", "[\\W]", "(?<n>a)\\k<n>", "(*VERB)",
                                        "[abc",   "a\\",    "(",    ")",     "\\X",           "{2}?"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        oc_err err = {0};
        tx_regex *re = tx_regex_open(cases[i], strlen(cases[i]), &err);
        if (re)
            fail_msg("'%s' was not refused", cases[i]);
        assert_has(err.text, "cannot use the pattern");
    }
}

/* ---- models ------------------------------------------------------------------------------------------ */

#define FRAME(stages, model) "{\"version\":\"1.0\"," stages "\"model\":" model "}"

static void test_bpe_merges_in_order(void **state)
{
    (void)state;
    tx_tokenizer *t =
        open_json(FRAME("", "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"abc\":5,\"aa\":6},"
                            "\"merges\":[\"b c\",[\"a\",\"b\"],\"a bc\",\"a a\"]}"));
    assert_string_equal(encode(t, "abc", true), "5");
    assert_string_equal(encode(t, "ab", true), "3");
    assert_string_equal(encode(t, "aabc", true), "0 5");
    assert_string_equal(encode(t, "aaa", true), "6 0");
    assert_string_equal(encode(t, "axb", true), "3"); /* unknown without a token for it: left out, then merged over */
    assert_string_equal(encode(t, "", true), "");
    tx_close(t);
}

static void test_bpe_options(void **state)
{
    (void)state;
    tx_tokenizer *t = open_json(FRAME("", "{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":false,"
                                          "\"vocab\":{\"?\":0,\"a\":1},\"merges\":[]}"));
    assert_string_equal(encode(t, "axya", true), "1 0 0 1");
    tx_close(t);
    t = open_json(FRAME("", "{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":true,\"vocab\":{\"?\":0,"
                            "\"a\":1},\"merges\":[]}"));
    assert_string_equal(encode(t, "axya", true), "1 0 1");
    tx_close(t);
    t = open_json(FRAME("", "{\"type\":\"BPE\",\"unk_token\":\"?\",\"byte_fallback\":true,\"vocab\":{\"?\":0,"
                            "\"<0xC3>\":1,\"<0xA9>\":2,\"e\":3},"
                            "\"merges\":[]}"));
    assert_string_equal(encode(t, "e\u00e9", true), "3 1 2");
    assert_string_equal(encode(t, "\u00e8e", true), "0 3"); /* one byte is missing: unknown */
    tx_close(t);
    t = open_json(FRAME("", "{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[]}"));
    assert_string_equal(encode(t, "ab", true), "2");
    assert_string_equal(encode(t, "aba", true), "0 1 0");
    tx_close(t);
    t = open_json(FRAME("", "{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\",\"end_of_word_suffix\":\"$\",\"vocab\":"
                            "{\"a\":0,\"##b\":1,\"##c$\":2,\"ab\":3,\"abc$\":4,\"a$\":5},\"merges\":[\"a ##b\",\"ab ##c$\"]}"));
    assert_string_equal(encode(t, "abc", true), "4");
    assert_string_equal(encode(t, "a", true), "5");
    tx_close(t);
}

/* As Llama 3 has it: a word that the vocabulary holds is that token, even where the merges would make other ones of it; the rest is merged. */
static void test_bpe_ignores_merges(void **state)
{
    (void)state;
    static const char llama3[] =
        FRAME("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\""
              "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"
              " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
              "\"behavior\":\"Isolated\",\"invert\":false},"
              "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},",
              "{\"type\":\"BPE\",%s\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\u0120\":3,\"1\":4,\"2\":5,\"3\":6,\"bc\":7,"
              "\"\u0120a\":8,\"abc\":9,\"\u0120abc\":10,\"123\":11,\"12\":12},"
              "\"merges\":[\"b c\",\"\u0120 a\",\"1 2\"]}");
    static const struct {
        const char *flag, *ids[4];
    } cases[] = {{"\"ignore_merges\":true,", {"9 10", "8 7 2 0 7 2", "11 12 3 12", "10 11"}},
                 {"\"ignore_merges\":false,", {"0 7 8 7", "8 7 2 0 7 2", "12 6 12 3 12", "8 7 12 6"}},
                 {"", {"0 7 8 7", "8 7 2 0 7 2", "12 6 12 3 12", "8 7 12 6"}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[sizeof llama3 + 40];
        snprintf(json, sizeof json, llama3, cases[i].flag);
        tx_tokenizer *t = open_json(json);
        assert_string_equal(encode(t, "abc abc", true), cases[i].ids[0]);
        assert_string_equal(encode(t, " abccabcc", true), cases[i].ids[1]);
        assert_string_equal(encode(t, "12312 12", true), cases[i].ids[2]);
        assert_string_equal(encode(t, " abc123", true), cases[i].ids[3]);
        tx_close(t);
    }
}

static void test_wordpiece(void **state)
{
    (void)state;
    tx_tokenizer *t = open_json(FRAME("\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},",
                                      "{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"max_input_chars_per_"
                                      "word\":6,\"vocab\":{\"[UNK]\":0,"
                                      "\"un\":1,\"##aff\":2,\"##able\":3,\"##a\":4,\"é\":5,\"##é\":6}}"));
    assert_string_equal(encode(t, "unaff una", true), "1 2 1 4");
    assert_string_equal(encode(t, "unx un", true), "0 1");
    assert_string_equal(encode(t, "unaffa", true), "1 2 4");
    assert_string_equal(encode(t, "unaffable", true), "0"); /* more than 6 characters */
    assert_string_equal(encode(t, "éé", true), "5 6");
    tx_close(t);
}

static void test_unigram(void **state)
{
    (void)state;
    const char *vocab = "[[\"<unk>\",0],[\"a\",-1],[\"b\",-1],[\"ab\",-1.5],[\"abc\",-9],[\"c\",-2],[\"<0xC3>"
                        "\",-5],[\"<0xA9>\",-5],[\"xa\",-8.5]]";
    char json[512];
    snprintf(json, sizeof json, FRAME("", "{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":%s,\"vocab\":%s}"), "false",
             vocab);
    tx_tokenizer *t = open_json(json);
    assert_string_equal(encode(t, "ab", true), "3");       /* -1.5 beats -2 */
    assert_string_equal(encode(t, "abc", true), "3 5");    /* -3.5 beats -9 */
    assert_string_equal(encode(t, "axyb", true), "1 0 2"); /* unknown ones fused */
    assert_string_equal(encode(t, "xa", true), "8");       /* an unknown one costs 10 more than the worst piece */
    tx_close(t);
    snprintf(json, sizeof json, FRAME("", "{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":%s,\"vocab\":%s}"), "true",
             vocab);
    t = open_json(json);
    assert_string_equal(encode(t, "\u00e9a", true), "6 7 1");
    assert_string_equal(encode(t, "x", true), "0");
    tx_close(t);
}

static void test_long_text_without_a_break(void **state)
{
    (void)state;
    enum { N = 300000 };
    oc_err err = {0};
    tx_ids ids = {0};
    char *s = malloc(N);
    assert_non_null(s);
    memset(s, 'a', N);
    tx_tokenizer *t =
        open_json(FRAME("", "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2},\"merges\":[\"a a\",\"aa aa\"]}"));
    assert_int_equal(tx_encode(t, s, N, true, &ids, &err), 0);
    assert_int_equal(ids.n, N / 4);
    for (size_t i = 0; i < ids.n; i++)
        assert_int_equal(ids.p[i], 2);
    tx_ids_clear(&ids);
    tx_close(t);
    free(s);
}

/* ---- added tokens, post-processors, decoders --------------------------------------------------------- */

#define BYTES_MODEL \
    "{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\" " \
    "\":3,\"m\":4,\"M\":5},\"merges\":[]}"

static void assert_added(const char *flags, const char *normalizer, const char *in, const char *want)
{
    char json[1024];
    snprintf(json, sizeof json,
             "{\"normalizer\":%s,\"added_tokens\":[{\"id\":9,\"content\":\"M\u00e9\"%s}],\"model\":" BYTES_MODEL "}", normalizer,
             flags);
    tx_tokenizer *t = open_json(json);
    if (strcmp(encode(t, in, true), want) != 0)
        fail_msg("added token%s on '%s' gives %s, not %s", flags, in, encode(t, in, true), want);
    tx_close(t);
}

static void test_added_tokens(void **state)
{
    (void)state;
    const char *lower = "{\"type\":\"Lowercase\"}";
    assert_added(",\"special\":true", "null", "a M\u00e9 b", "1 3 9 3 2");
    assert_added(",\"special\":true,\"lstrip\":true", "null", "a  M\u00e9 b", "1 9 3 2");
    assert_added(",\"special\":true,\"rstrip\":true", "null", "a M\u00e9 \tb", "1 3 9 2");
    assert_added(",\"special\":true,\"rstrip\":true,\"lstrip\":true", "null", "M\u00e9 M\u00e9 ", "9 9");
    assert_added(",\"special\":true,\"single_word\":true", "null", "aM\u00e9 M\u00e9", "1 5 0 3 9");
    assert_added(",\"special\":true,\"single_word\":true", "null", "M\u00e9-M\u00e9_", "9 0 5 0 0");
    assert_added(",\"special\":true", lower, "m\u00c9", "4 0");                                      /* as it stands */
    assert_added(",\"special\":false,\"normalized\":true", lower, "am\u00c9b M\u00e9", "1 9 2 3 9"); /* by its normal form */
}

static void test_longest_added_token_wins(void **state)
{
    (void)state;
    tx_tokenizer *t = open_json("{\"added_tokens\":[{\"id\":6,\"content\":\"<a\",\"special\":true},{\"id\":7,\"content\":\"<a>\","
                                "\"special\":true},"
                                "{\"id\":8,\"content\":\"a>\",\"special\":true},{\"id\":1,\"content\":\"a\",\"special\":false}],"
                                "\"model\":" BYTES_MODEL "}");
    assert_string_equal(encode(t, "<a>b<aa>a", true), "7 2 6 8 1");
    assert_int_equal(tx_token_id(t, "<a>"), 7);
    assert_int_equal(tx_token_id(t, "b"), 2);
    assert_int_equal(tx_token_id(t, "zz"), -1);
    assert_int_equal(tx_vocab_size(t), 9);
    assert_string_equal(tx_token_name(t, 8), "a>");
    assert_string_equal(tx_token_name(t, 2), "b");
    assert_null(tx_token_name(t, 9));
    assert_null(tx_token_name(t, -1));
    assert_true(tx_is_special(t, 7));
    assert_false(tx_is_special(t, 1));
    tx_close(t);
}

static void test_postprocessors(void **state)
{
    (void)state;
    static const char model[] = BYTES_MODEL;
    static const struct {
        const char *json, *want;
    } cases[] = {{"null", "1 2"},
                 {"{\"type\":\"ByteLevel\",\"trim_offsets\":true}", "1 2"},
                 {"{\"type\":\"RobertaProcessing\",\"sep\":[\"m\",4],\"cls\":[\"M\",5]}", "5 1 2 4"},
                 {"{\"type\":\"BertProcessing\",\"sep\":[\"m\",4],\"cls\":[\"M\",5]}", "5 1 2 4"},
                 {"{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"m\",\"type_id\":"
                  "0}},{\"Sequence\":{\"id\":\"A\"}},"
                  "{\"SpecialToken\":{\"id\":\"m\"}}],\"special_tokens\":{\"m\":{\"id\":\"m\",\"ids\":[4,5],"
                  "\"tokens\":[]}}}",
                  "4 5 1 2 4 5"},
                 {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
                  "\"BertProcessing\",\"sep\":[\"m\",4],\"cls\":[\"M\",5]},"
                  "{\"type\":\"BertProcessing\",\"sep\":[\"b\",2],\"cls\":[\"a\",1]}]}",
                  "1 5 1 2 4 2"}};
    char json[1024];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(json, sizeof json, "{\"post_processor\":%s,\"model\":%s}", cases[i].json, model);
        tx_tokenizer *t = open_json(json);
        assert_string_equal(encode(t, "ab", true), cases[i].want);
        assert_string_equal(encode(t, "ab", false), "1 2");
        tx_close(t);
    }
}

static void assert_pair(const char *post, const char *ids, const char *types)
{
    char json[1024], got[2][64] = {"", ""};
    oc_err err = {0};
    tx_ids out[2] = {0};
    snprintf(json, sizeof json, "{\"post_processor\":%s,\"model\":" BYTES_MODEL "}", post);
    tx_tokenizer *t = open_json(json);
    for (int round = 0; round < 2; round++) /* appended */
        if (tx_encode_pair(t, "ab", 2, "b", 1, &out[0], &out[1], &err))
            fail_msg("%s", err.text);
    for (int k = 0; k < 2; k++)
        for (size_t i = out[k].n / 2; i < out[k].n; i++)
            snprintf(got[k] + strlen(got[k]), 16, "%d ", out[k].p[i]);
    assert_string_equal(got[0], ids);
    assert_string_equal(got[1], types);
    tx_ids_clear(&out[0]);
    tx_ids_clear(&out[1]);
    tx_close(t);
}

static void test_pairs(void **state)
{
    (void)state;
    assert_pair("null", "1 2 2 ", "0 0 1 ");
    assert_pair("{\"type\":\"ByteLevel\"}", "1 2 2 ", "0 0 1 ");
    assert_pair("{\"type\":\"BertProcessing\",\"sep\":[\"b\",2],\"cls\":[\"a\",1]}", "1 1 2 2 2 2 ", "0 0 0 0 1 1 ");
    assert_pair("{\"type\":\"RobertaProcessing\",\"sep\":[\"b\",2],\"cls\":[\"a\",1]}", "1 1 2 2 2 2 2 ", "0 0 0 0 0 0 0 ");
    assert_pair("{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[{"
                "\"Sequence\":{\"id\":\"B\","
                "\"type_id\":2}},{\"SpecialToken\":{\"id\":\"a\",\"type_id\":3}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
                "\"special_tokens\":{\"a\":{\"id\":\"a\",\"ids\":[1],\"tokens\":[\"a\"]}}}",
                "2 1 1 2 ", "2 3 0 0 ");
}

/* Token by token: whole characters each time, together what decoding at once gives. */
static void assert_streamed(const tx_tokenizer *t, const int32_t *ids, size_t n, const bs_buf *want)
{
    oc_err err = {0};
    bs_buf text = {0};
    tx_stream *s = tx_stream_open(t, true, &err);
    const char *bytes;
    size_t bytes_n;
    assert_non_null(s);
    for (int round = 0; round < 2; round++) { /* the second: as newly opened */
        text.n = 0;
        for (size_t i = 0; i <= n; i++) {
            assert_int_equal(i < n ? tx_stream_push(s, ids[i], &bytes, &bytes_n, &err) : tx_stream_end(s, &bytes, &bytes_n, &err),
                             0);
            assert_int_equal(tx_utf8_valid(bytes, bytes_n), bytes_n);
            assert_int_equal(bytes[bytes_n], 0);
            assert_int_equal(bs_buf_put(&text, bytes, bytes_n, &err), 0);
        }
        assert_text(&text, want->n ? want->p : "");
    }
    tx_stream_close(s);
    bs_buf_clear(&text);
}

static void assert_decoded(const char *decoder, const char *vocab, int n, const char *want)
{
    char json[2048];
    oc_err err = {0};
    int32_t ids[16];
    bs_buf text = {0};
    for (int i = 0; i < n; i++)
        ids[i] = i;
    snprintf(json, sizeof json, "{\"decoder\":%s,\"model\":{\"type\":\"BPE\",\"vocab\":%s,\"merges\":[]}}", decoder, vocab);
    tx_tokenizer *t = open_json(json);
    assert_int_equal(tx_decode(t, ids, (size_t)n, true, &text, &err), 0);
    assert_text(&text, want);
    assert_streamed(t, ids, (size_t)n, &text);
    bs_buf_clear(&text);
    tx_close(t);
}

static void test_decoders(void **state)
{
    (void)state;
    assert_decoded("null", "{\"a\":0,\"b\":1}", 2, "a b");
    assert_decoded("{\"type\":\"Fuse\"}", "{\"a\":0,\"b\":1}", 2, "ab");
    assert_decoded("{\"type\":\"ByteLevel\"}", "{\"Ã\":0,\"©Ġ\":1,\"Ã\u0120\":2,\"你\":3}", 4, "é \ufffd 你");
    assert_decoded("{\"type\":\"ByteLevel\"}", "{\"Ã你\":0}", 1, "Ã你"); /* not of the alphabet: as it is */
    assert_decoded("{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}", "{\"do\":0,\"##ing\":1,\"it\":2,\".\":3}", 4,
                   "doing it.");
    assert_decoded("{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}", "{\"a\":0,\"b</w>\":1,\"c</w>\":2}", 3, "ab c");
    assert_decoded("{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"always\"}", "{\"▁a\":0,\"▁b\":1}", 2,
                   "a b");
    assert_decoded("{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"never\"}", "{\"▁a\":0,\"▁b\":1}", 2,
                   " a b");
    assert_decoded("{\"type\":\"ByteFallback\"}", "{\"<0xE4>\":0,\"<0xBD>\":1,\"<0xA0>\":2,\"x\":3,\"<0xe5>\":4}", 5,
                   "你x\ufffd");
    assert_decoded("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"▁\"}"
                   ",\"content\":\" \"},{\"type\":\"Fuse\"},"
                   "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":1}]}",
                   "{\"▁▁a\":0,\"▁\":1,\"b▁\":2}", 3, " a b");
    assert_decoded("{\"type\":\"Strip\",\"content\":\"_\",\"start\":2,\"stop\":1}", "{\"___a__\":0,\"_\":1,\"b\":2,\"__c_d_\":3}",
                   4, "_a_bc_d");
    /* joined tokens, and a step that wants them whole */
    assert_decoded(
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"^ab\"}"
        ",\"content\":\"x\"},{\"type\":\"ByteFallback\"}]}",
        "{\"a\":0,\"bab\":1,\"c\":2}", 3, "xabc");
}

static void assert_pushed(tx_stream *s, int32_t id, const char *want)
{
    oc_err err = {0};
    const char *bytes;
    size_t n;
    assert_int_equal(id < 0 ? tx_stream_end(s, &bytes, &n, &err) : tx_stream_push(s, id, &bytes, &n, &err), 0);
    assert_string_equal(bytes, want);
    assert_int_equal(n, strlen(want));
}

static void test_streams_give_what_is_certain(void **state)
{
    (void)state;
    oc_err err = {0};
    tx_tokenizer *t = open_json(
        "{\"added_tokens\":[{\"id\":9,\"content\":\"S\",\"special\":true}],\"decoder\":{\"type\":\"ByteLevel\"},\"model\":"
        "{\"type\":\"BPE\",\"vocab\":{\"aÃ\":0,\"©\":1,\"ðŁ\":2,\"ĺ\":3,\"Ģ!\":4,\"ÿ\":5},\"merges\":[]}}");
    tx_stream *s = tx_stream_open(t, true, &err);
    const int32_t bytes_ids[] = {0, 1, 2, 9, 3, 77, 4, 2, 0, 5, 2, -1};
    const char *const bytes_want[] = {"a",
                                      "é",
                                      "",
                                      "",
                                      "",
                                      "",
                                      "😀!",
                                      "",
                                      ("\xef\xbf\xbd"
                                       "a"),
                                      "\xef\xbf\xbd\xef\xbf\xbd",
                                      "",
                                      "\xef\xbf\xbd"};
    for (size_t i = 0; i < sizeof bytes_ids / sizeof bytes_ids[0]; i++)
        assert_pushed(s, bytes_ids[i], bytes_want[i]);
    assert_pushed(s, -1, "");
    tx_stream_close(s);
    tx_close(t);

    t = open_json("{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"▁\"},"
                  "\"content\":\" \"},"
                  "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
                  "\",\"start\":1,\"stop\":0}]},\"model\":"
                  "{\"type\":\"BPE\",\"vocab\":{\"▁a\":0,\"<0xC3>\":1,\"<0xA9>\":2,\"▁\":3},\"merges\":[]}}");
    s = tx_stream_open(t, true, &err);
    const int32_t fallback_ids[] = {3, 0, 1, 2, 0, 1, 0, 3, 1, 2, 1, -1};
    const char *const fallback_want[] = {
        "", " a", "", "", "é a", "", "\xef\xbf\xbd a", " ", "", "", "", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"};
    for (size_t i = 0; i < sizeof fallback_ids / sizeof fallback_ids[0]; i++)
        assert_pushed(s, fallback_ids[i], fallback_want[i]);
    tx_stream_close(s);
    tx_close(t);
}

/* CLIP's ends of words are spaces, which go at both ends of the text. */
static void test_streams_of_clip(void **state)
{
    (void)state;
    oc_err err = {0};
    tx_tokenizer *t =
        open_json("{\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":"
                  "{\"a</w>\":0,\"b\":1,\"<\":2,\"/w\":3,\">\":4,\"</w>\":5},\"merges\":[]}}");
    tx_stream *s = tx_stream_open(t, true, &err);
    const int32_t ids[] = {5, 1, 0, 5, 1, 2, 3, 4, 2, 3, 1, 2, -1};
    const char *const want[] = {"", "b", "a", "", "  b", "", "", "", "", "", " </wb", "", "<"};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        assert_pushed(s, ids[i], want[i]);
    tx_stream_close(s);
    tx_close(t);
}

static void test_streams_take_no_memory_once_warm(void **state)
{
    (void)state;
    static const char *const decoders[] = {"{\"type\":\"ByteLevel\"}",
                                           "{\"type\":\"WordPiece\"}",
                                           "{\"type\":\"Metaspace\",\"replacement\":\"▁\"}",
                                           "{\"type\":\"BPEDecoder\"}",
                                           "null",
                                           "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"["
                                           "▁_]\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
                                           "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":1}]}"};
    for (size_t i = 0; i < sizeof decoders / sizeof decoders[0]; i++) {
        char json[1024];
        oc_err err = {0};
        const char *bytes;
        size_t n;
        snprintf(
            json, sizeof json,
            "{\"decoder\":%s,\"model\":{\"type\":\"BPE\",\"vocab\":{\"▁a\":0,\"<0xC3>\":1,\"<0xA9>\":2,\"Ã_\":3},\"merges\":[]}}",
            decoders[i]);
        tx_tokenizer *t = open_json(json);
        tx_stream *s = tx_stream_open(t, true, &err);
        long before = 0;
        for (int32_t k = 0; k < 4000; k++) {
            before = k == 16 ? allocations : before;
            assert_int_equal(tx_stream_push(s, k % 4, &bytes, &n, &err), 0);
        }
        assert_int_equal(allocations, before);
        tx_stream_close(s);
        tx_close(t);
    }
}

static void test_special_tokens_are_left_out_of_texts(void **state)
{
    (void)state;
    oc_err err = {0};
    bs_buf text = {0};
    tx_tokenizer *t = open_json("{\"added_tokens\":[{\"id\":5,\"content\":\"M\",\"special\":true}],"
                                "\"decoder\":{\"type\":\"Fuse\"},\"model\":" BYTES_MODEL "}");
    int32_t ids[] = {5, 1, 999, -1, 2, 5};
    assert_int_equal(tx_decode(t, ids, 6, true, &text, &err), 0);
    assert_text(&text, "ab");
    text.n = 0;
    assert_int_equal(tx_decode(t, ids, 6, false, &text, &err), 0);
    assert_text(&text, "MabM");
    bs_buf_clear(&text);
    tx_close(t);
}

/* ---- whole folders ----------------------------------------------------------------------------------- */

static void test_roles(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "tokenizer.json", "{\"model\":" BYTES_MODEL "}");
    put_file(&d, "tokenizer_config.json",
             "{\"bos_token\":\"a\",\"eos_token\":{\"content\":\"b\"},\"pad_token\":null,\"sep_token\":\"nowhere\","
             "\"model_max_length\":1000000000000000019884624838656}");
    put_file(&d, "special_tokens_map.json", "{\"pad_token\":\"m\",\"bos_token\":\"M\"}");
    tx_tokenizer *t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    const tx_roles *r = tx_roles_of(t);
    assert_int_equal(r->bos, 1);
    assert_int_equal(r->eos, 2);
    assert_int_equal(r->pad, 4);
    assert_int_equal(r->unk, 0);
    assert_int_equal(r->sep, -1);
    assert_int_equal(r->max_length, 0);
    assert_true(tx_is_special(t, 1));
    assert_false(tx_is_special(t, 5));
    tx_close(t);
    drop_folder(&d);
}

static void test_classic_folder(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "vocab.json",
             "{\"a\":0,\"b\":1,\"a</w>\":2,\"b</w>\":3,\"ab</w>\":4,\"<|startoftext|>\":5,\"<|endoftext|>\":6}");
    put_file(&d, "merges.txt", "#version: 0.2\na b</w>\n");
    tx_tokenizer *t = tx_open(d.path, &err); /* `</w>` says that it is CLIP's */
    if (!t)
        fail_msg("%s", err.text);
    assert_string_equal(encode(t, " AB\n b  a ", true), "5 4 3 2 6");
    assert_string_equal(encode(t, "", true), "5 6");
    assert_string_equal(encode(t, "b<|endoftext|>b", false), "3 6 3");
    tx_close(t);
    put_file(&d, "vocab.json", "{\"a\":0,\"b\":1,\"Ġ\":2,\"Ġb\":3,\"</s>\":4,\"<|endoftext|>\":5}");
    put_file(&d, "merges.txt", "#version: 0.2\nĠ b\n");
    put_file(&d, "tokenizer_config.json",
             "{\"tokenizer_class\":\"GPT2Tokenizer\",\"add_bos_token\":true,\"bos_token\":\"</"
             "s>\",\"eos_token\":\"</s>\"}");
    t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    assert_string_equal(encode(t, "a b", true), "4 0 3");
    assert_string_equal(encode(t, "a b", false), "0 3");
    tx_close(t);
    put_file(&d, "tokenizer_config.json", "{\"tokenizer_class\":\"XyzTokenizer\"}");
    assert_null(tx_open(d.path, &err));
    assert_has(err.text, "XyzTokenizer");
    drop_folder(&d);
}

static void test_bert_folder(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n##re\n猫\r\nThe\n!");
    tx_tokenizer *t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    assert_string_equal(encode(t, "There 猫x! [MASK]", true), "2 5 6 7 1 9 4 3");
    assert_int_equal(tx_vocab_size(t), 10);
    tx_close(t);
    put_file(&d, "tokenizer_config.json", "{\"do_lower_case\":false}");
    t = tx_open(d.path, &err);
    assert_non_null(t);
    assert_string_equal(encode(t, "The the", false), "8 5");
    tx_close(t);
    put_file(&d, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[MASK]\n");
    assert_null(tx_open(d.path, &err));
    assert_has(err.text, "[SEP]");
    drop_folder(&d);
}

/* ---- sentencepiece models ---------------------------------------------------------------------------- */

static void put_number(bs_buf *b, int number, unsigned value)
{
    unsigned char bytes[8] = {(unsigned char)(number << 3 & 0x7f), 0};
    size_t n = 1;
    if (number >= 16) {
        bytes[0] |= 0x80;
        bytes[n++] = (unsigned char)(number >> 4);
    }
    for (; value >= 0x80; value >>= 7)
        bytes[n++] = (unsigned char)(value | 0x80);
    bytes[n++] = (unsigned char)value;
    assert_int_equal(bs_buf_put(b, bytes, n, NULL), 0);
}

static void put_message(bs_buf *b, int number, const bs_buf *inner)
{
    char head[2] = {(char)(number << 3 | 2), (char)inner->n};
    assert_true(inner->n < 128);
    assert_int_equal(bs_buf_put(b, head, 2, NULL) || bs_buf_put(b, inner->p, inner->n, NULL), 0);
}

/* types: 1 normal, 2 unknown, 3 control, 4 user's, 6 byte */
static void put_piece(bs_buf *b, const char *name, float score, unsigned type)
{
    bs_buf p = {0};
    char head[2] = {1 << 3 | 2, (char)strlen(name)}, tag = 2 << 3 | 5;
    assert_int_equal(bs_buf_put(&p, head, 2, NULL) || bs_buf_put(&p, name, strlen(name), NULL) || bs_buf_put(&p, &tag, 1, NULL) ||
                         bs_buf_put(&p, &score, sizeof score, NULL),
                     0);
    put_number(&p, 3, type);
    put_message(b, 1, &p);
    bs_buf_clear(&p);
}

/* kind: 1 unigram, 2 BPE; tidy: no runs of spaces, none at the ends */
static void put_specs(bs_buf *b, unsigned kind, bool bytes, bool tidy)
{
    bs_buf trainer = {0}, normalizer = {0};
    put_number(&trainer, 3, kind);
    put_number(&trainer, 35, bytes);
    put_message(b, 2, &trainer);
    put_number(&normalizer, 3, 1);
    put_number(&normalizer, 4, tidy);
    put_message(b, 3, &normalizer);
    bs_buf_clear(&trainer);
    bs_buf_clear(&normalizer);
}

static void put_model(const folder *d, const bs_buf *b)
{
    char *path = bs_join(d->path, "tokenizer.model");
    assert_int_equal(bs_write_file(path, b->p, b->n, NULL), 0);
    free(path);
}

static bs_buf small_bpe(void)
{
    static const char *const merged[] = {"ab", "aa", "aaa", "\u2581a"};
    static const char *const letters[] = {"\u2581", "a", "b", "c"};
    bs_buf b = {0};
    put_piece(&b, "<unk>", 0, 2);
    put_piece(&b, "<s>", 0, 3);
    put_piece(&b, "</s>", 0, 3);
    put_piece(&b, "<0xC3>", 0, 6);
    put_piece(&b, "<0xA9>", 0, 6);
    put_piece(&b, "xyz", 0, 4);
    for (int i = 0; i < 4; i++) /* 6 to 9 */
        put_piece(&b, merged[i], -(float)i, 1);
    for (int i = 0; i < 4; i++) /* 10 to 13 */
        put_piece(&b, letters[i], -10 - (float)i, 1);
    put_specs(&b, 2, true, false);
    return b;
}

static void test_sentencepiece_bpe(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    bs_buf b = small_bpe(), text = {0};
    put_model(&d, &b);
    tx_tokenizer *t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    assert_string_equal(encode(t, "ab", true), "1 10 6"); /* "ab" is merged before "_a" */
    assert_string_equal(encode(t, "a  b", true), "1 9 10 10 12");
    assert_string_equal(encode(t, "caaaa", false), "10 13 7 7");
    assert_string_equal(encode(t, "aaa", false), "10 8");
    assert_string_equal(encode(t, "cxyzc é!", false), "10 13 5 13 10 3 4 0"); /* a symbol of the user; bytes; unknown */
    assert_string_equal(encode(t, "", true), "1");
    assert_string_equal(encode(t, "<s>", false), "1");
    assert_int_equal(tx_roles_of(t)->eos, 2);
    assert_int_equal(tx_decode(t, (int32_t[]){1, 9, 10, 3, 4, 5, 2}, 7, true, &text, &err), 0);
    assert_text(&text, "a \u00e9xyz");
    tx_close(t);
    put_file(&d, "tokenizer_config.json",
             "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false,\"add_eos_token\":true,\"legacy\":false}");
    t = tx_open(d.path, &err);
    assert_non_null(t);
    assert_string_equal(encode(t, "ab<s>ab", true), "10 6 1 6 2"); /* nothing in front of the second part */
    tx_close(t);
    put_file(&d, "tokenizer_config.json", "{\"tokenizer_class\":\"XyzTokenizer\"}");
    assert_null(tx_open(d.path, &err));
    assert_has(err.text, "XyzTokenizer");
    bs_buf_clear(&b);
    bs_buf_clear(&text);
    drop_folder(&d);
}

static void test_sentencepiece_unigram(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    bs_buf b = {0};
    put_piece(&b, "<unk>", 0, 2);
    put_piece(&b, "<s>", 0, 3);
    put_piece(&b, "</s>", 0, 3);
    put_piece(&b, "\u2581a", -1, 1);
    put_piece(&b, "b", -2, 1);
    put_piece(&b, "\u2581", -3, 1);
    put_piece(&b, "ab", -2.5f, 1);
    put_specs(&b, 1, false, true);
    put_model(&d, &b);
    tx_tokenizer *t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    assert_string_equal(encode(t, "  ab   zzab ", true), "3 4 5 0 6 2"); /* spaces tidied, what is unknown is one */
    assert_string_equal(encode(t, " \u2581 ", true), "2");
    assert_int_equal(tx_token_id(t, "<extra_id_99>"), 7); /* T5's sentinels, counted down */
    assert_int_equal(tx_token_id(t, "<extra_id_0>"), 106);
    tx_close(t);
    bs_buf_clear(&b);
    drop_folder(&d);
}

static tx_tokenizer *of_class(const folder *d, const char *config)
{
    oc_err err = {0};
    put_file(d, "tokenizer_config.json", config);
    tx_tokenizer *t = tx_open(d->path, &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

/* What transformers' classes do beside what LLaMA's and T5's do. */
static void test_sentencepiece_classes(void **state)
{
    (void)state;
    folder d = make_folder();
    bs_buf b = small_bpe(), trainer = {0};
    put_model(&d, &b);
    tx_tokenizer *t = of_class(&d, "{\"tokenizer_class\":\"CodeLlamaTokenizer\",\"legacy\":true}");
    assert_string_equal(encode(t, "ab<s>ab", true), "1 10 6 1 6"); /* it has no such switch: nothing in front of the second part */
    tx_close(t);
    bs_buf_clear(&b);

    static const char *const tokens[] = {"<unk>", "<s>", "</s>", "<pad>"}, *const pieces[] = {"\u2581a", "\u2581A", "b", "!", "pad"};
    for (int i = 0; i < 4; i++)
        put_piece(&b, tokens[i], 0, i ? 3 : 2);
    for (int i = 0; i < 5; i++) /* 4 to 8 */
        put_piece(&b, pieces[i], -1 - (float)i, 1);
    put_specs(&b, 1, false, true);
    put_number(&trainer, 43, 3); /* pad_id */
    put_message(&b, 2, &trainer);
    put_model(&d, &b);
    t = of_class(&d, "{\"tokenizer_class\":\"SiglipTokenizer\"}");
    assert_string_equal(encode(t, " A, !b", true), "4 0 6 2"); /* small, without punctuation, the end behind it */
    assert_string_equal(encode(t, "a<pad>", false), "4 8");    /* a word like others */
    assert_int_equal(tx_roles_of(t)->pad, 2);                  /* filled up with the end */
    tx_close(t);
    t = of_class(&d, "{\"tokenizer_class\":\"SiglipTokenizer\",\"do_lower_case\":false,\"pad_token\":\"<pad>\"}");
    assert_string_equal(encode(t, "A<pad>", false), "5 3");
    assert_int_equal(tx_roles_of(t)->pad, 3);
    tx_close(t);
    t = of_class(&d, "{\"tokenizer_class\":\"T5Tokenizer\"}");
    assert_string_equal(encode(t, "A!", false), "5 7");
    assert_int_equal(tx_roles_of(t)->pad, 3);
    tx_close(t);
    bs_buf_clear(&b);
    bs_buf_clear(&trainer);
    drop_folder(&d);
}

/* Cut off anywhere, or with a bit turned, a file is refused by a line, or is a model. */
static void test_sentencepiece_faults(void **state)
{
    (void)state;
    bs_buf b = small_bpe();
    for (size_t n = 0; n < 9 * b.n; n++) {
        oc_err err = {0};
        bs_buf copy = {0};
        assert_int_equal(bs_buf_put(&copy, b.p, b.n, NULL), 0);
        if (n >= b.n)
            copy.p[(n - b.n) / 8] ^= (char)(1 << (n - b.n) % 8);
        json_t *o = tx_sentencepiece_json(copy.p, n < b.n ? n : b.n, NULL, &err);
        tx_tokenizer *t = o ? tx_open_json(o, NULL, NULL, &err) : NULL;
        assert_int_equal(t == NULL, err.text[0] != 0);
        tx_close(t);
        json_decref(o);
        bs_buf_clear(&copy);
    }
    bs_buf_clear(&b);
}

static void test_unknown_pieces_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const stages[] = {"normalizer", "pre_tokenizer", "post_processor", "decoder", "model"};
    char json[512];
    for (size_t i = 0; i < 5; i++) {
        snprintf(json, sizeof json, "{\"%s\":{\"type\":\"Frobnicate\"}%s}", stages[i], i < 4 ? ",\"model\":" BYTES_MODEL : "");
        assert_refused(json, "Frobnicate");
        assert_refused(json, stages[i]);
    }
}

static void test_faulty_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } cases[] = {
        {"{\"model\":", "line 1"},
        {"[]", "one JSON object"},
        {"{}", "model"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "lacks"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", "'ab'"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\"]]}}", "two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "both have the id 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "id -1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000},\"merges\":[]}}", "id 4000000000"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"},\"merges\":[]}}", "integer"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":{}}}", "merges"},
        {"{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0},\"merges\":[]}}", "unk_token"},
        {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}", "dropout"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", "[UNK]"},
        {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",0]]}}", "unk_id"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "[name, score]"},
        {"{\"added_tokens\":[{\"id\":3,\"content\":\"a\"}],\"model\":" BYTES_MODEL "}", "gives it 1"},
        {"{\"added_tokens\":[{\"id\":3}],\"model\":" BYTES_MODEL "}", "content"},
        {"{\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"x\",77],\"cls\":[\"x\",77]},"
         "\"model\":" BYTES_MODEL "}",
         "77"},
        {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]},\"model\":" BYTES_MODEL "}", "text once"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"},"
         "\"model\":" BYTES_MODEL "}",
         "pattern"},
        {"{\"normalizer\":{\"type\":\"Sequence\"},\"model\":" BYTES_MODEL "}", "normalizers"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"},\"model\":" BYTES_MODEL "}", "one character"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Oops\"},"
         "\"model\":" BYTES_MODEL "}",
         "Oops"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(cases[i].json, cases[i].says);
    oc_err err = {0};
    assert_null(tx_open("/nonexistent/folder", &err));
    assert_has(err.text, "/nonexistent/folder");
}

static void test_encode_appends_and_takes_any_bytes(void **state)
{
    (void)state;
    oc_err err = {0};
    tx_ids ids = {0};
    tx_tokenizer *t = open_json("{\"model\":" BYTES_MODEL "}");
    assert_int_equal(tx_encode(t, "a", 1, true, &ids, &err), 0);
    assert_int_equal(tx_encode(t,
                               "\0\xff"
                               "b",
                               3, true, &ids, &err),
                     0);
    assert_int_equal(tx_encode(t, NULL, 0, true, &ids, &err), 0);
    assert_int_equal(ids.n, 4);
    assert_int_equal(ids.p[0], 1);
    assert_int_equal(ids.p[1], 0);
    assert_int_equal(ids.p[3], 2);
    tx_ids_clear(&ids);
    tx_close(t);
}

/* ---- training ---------------------------------------------------------------------------------------- */

static void test_training_by_hand(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "a.txt", "low low low low lower lower newest newest newest newest newest newest\n");
    char *path = bs_join(d.path, "a.txt");
    tx_train_options options = {.style = TX_STYLE_CLIP, .size = 514 + 6};
    assert_int_equal(tx_train_bpe((const char *const *)&path, 1, &options, d.path, &err), 520);
    /* (w,e) comes 6 times in "newest" and 2 in "lower"; then all counts are 6 and ties go to the smaller ids.
     */
    char *merges = get_file(&d, "merges.txt");
    assert_string_equal(merges, "#version: 0.2\nw e\ne we\nl o\nn ewe\ns t</w>\nnewe st</w>\n");
    free(merges);
    tx_tokenizer *t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    assert_int_equal(tx_vocab_size(t), 520);
    assert_int_equal(tx_token_id(t, "!"), 0);
    assert_int_equal(tx_token_id(t, "!</w>"), 256);
    assert_int_equal(tx_token_id(t, "we"), 512);
    assert_int_equal(tx_token_id(t, "<|startoftext|>"), 518);
    assert_int_equal(tx_token_id(t, "<|endoftext|>"), 519);
    assert_int_equal(tx_roles_of(t)->eos, 519);
    assert_int_equal(tx_roles_of(t)->max_length, 77);
    assert_string_equal(encode(t, "NEWEST", true), "518 517 519");
    const int32_t ids[] = {518, 517, 514, tx_token_id(t, "w</w>"), 519};
    bs_buf text = {0};
    assert_int_equal(tx_decode(t, ids, 5, true, &text, &err), 0);
    assert_text(&text, "newest low");
    bs_buf_clear(&text);
    tx_close(t);
    free(path);
    drop_folder(&d);
}

static void test_trained_tokenizer_gives_the_text_back(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "a.txt", "一只红色的猫在树下\n两只红色的狗 the red dog and the red cat\nthe thing\n");
    char *path = bs_join(d.path, "a.txt");
    const char *special[] = {"<image>"};
    tx_train_options options = {.style = TX_STYLE_GPT2, .size = 300, .special = special, .n_special = 1};
    assert_int_equal(tx_train_bpe((const char *const *)&path, 1, &options, d.path, &err), 300);
    char *first = get_file(&d, "tokenizer.json");
    tx_tokenizer *t = tx_open(d.path, &err);
    if (!t)
        fail_msg("%s", err.text);
    const char *texts[] = {"the red cat", "  two  spaces\n\ttab ", "红色的 \u00e9\U0001f600 \x7f", "a<image>b<|endoftext|>"};
    for (size_t i = 0; i < 4; i++) {
        tx_ids ids = {0};
        bs_buf text = {0};
        assert_int_equal(tx_encode(t, texts[i], strlen(texts[i]), true, &ids, &err), 0);
        assert_int_equal(tx_decode(t, ids.p, ids.n, false, &text, &err), 0);
        assert_text(&text, texts[i]);
        tx_ids_clear(&ids);
        bs_buf_clear(&text);
    }
    assert_int_equal(tx_token_id(t, "<|endoftext|>"), 0);
    assert_int_equal(tx_token_id(t, "<image>"), 1);
    tx_close(t);
    assert_int_equal(tx_train_bpe((const char *const *)&path, 1, &options, d.path, &err), 300);
    char *second = get_file(&d, "tokenizer.json");
    assert_string_equal(first, second);
    free(first);
    free(second);
    free(path);
    drop_folder(&d);
}

static void test_training_faults(void **state)
{
    (void)state;
    oc_err err = {0};
    const char *files[] = {"/nonexistent/text.txt"};
    tx_train_options options = {.style = TX_STYLE_CLIP, .size = 1000};
    assert_int_equal(tx_train_bpe(files, 1, &options, "/tmp", &err), -1);
    assert_has(err.text, "/nonexistent/text.txt");
    err.text[0] = 0;
    options.size = 513;
    assert_int_equal(tx_train_bpe(files, 1, &options, "/tmp", &err), -1);
    assert_has(err.text, "514");
}

/* ---- threads ----------------------------------------------------------------------------------------- */

typedef struct job {
    const tx_tokenizer *t;
    int32_t first[8];
    bool same;
} job;

static void *encode_often(void *arg)
{
    job *j = arg;
    j->same = true;
    for (int i = 0; i < 200; i++) {
        oc_err err = {0};
        tx_ids ids = {0};
        const char *s = "it's a  b é 12 你好 abab";
        int bad = tx_encode(j->t, s, strlen(s), true, &ids, &err);
        j->same = j->same && !bad && ids.n >= 8 && (i == 0 || memcmp(ids.p, j->first, sizeof j->first) == 0);
        if (!bad && ids.n >= 8)
            memcpy(j->first, ids.p, sizeof j->first);
        tx_ids_clear(&ids);
    }
    return NULL;
}

static void test_threads_share_a_tokenizer(void **state)
{
    (void)state;
    oc_err err = {0};
    folder d = make_folder();
    put_file(&d, "a.txt", "a b abab it's\n");
    char *path = bs_join(d.path, "a.txt");
    tx_train_options options = {.style = TX_STYLE_CLIP, .size = 518};
    assert_int_equal(tx_train_bpe((const char *const *)&path, 1, &options, d.path, &err), 518);
    tx_tokenizer *t = tx_open(d.path, &err);
    assert_non_null(t);
    pthread_t threads[4];
    job jobs[4] = {{.t = t}, {.t = t}, {.t = t}, {.t = t}};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &jobs[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) {
        assert_true(jobs[i].same);
        assert_memory_equal(jobs[i].first, jobs[0].first, sizeof jobs[0].first);
    }
    tx_close(t);
    free(path);
    drop_folder(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_round_trip),
        cmocka_unit_test(test_bad_bytes_become_replacement_characters),
        cmocka_unit_test(test_normal_forms),
        cmocka_unit_test(test_many_marks_are_sorted),
        cmocka_unit_test(test_lower_case),
        cmocka_unit_test(test_byte_alphabet),
        cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_charsmap),
        cmocka_unit_test(test_pretokenizers),
        cmocka_unit_test(test_split_behaviours),
        cmocka_unit_test(test_patterns_mean_what_they_mean_in_ruby),
        cmocka_unit_test(test_patterns_that_are_refused),
        cmocka_unit_test(test_bpe_merges_in_order),
        cmocka_unit_test(test_bpe_options),
        cmocka_unit_test(test_bpe_ignores_merges),
        cmocka_unit_test(test_wordpiece),
        cmocka_unit_test(test_unigram),
        cmocka_unit_test(test_long_text_without_a_break),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_longest_added_token_wins),
        cmocka_unit_test(test_postprocessors),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_streams_give_what_is_certain),
        cmocka_unit_test(test_streams_of_clip),
        cmocka_unit_test(test_streams_take_no_memory_once_warm),
        cmocka_unit_test(test_special_tokens_are_left_out_of_texts),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_classic_folder),
        cmocka_unit_test(test_bert_folder),
        cmocka_unit_test(test_sentencepiece_bpe),
        cmocka_unit_test(test_sentencepiece_unigram),
        cmocka_unit_test(test_sentencepiece_classes),
        cmocka_unit_test(test_sentencepiece_faults),
        cmocka_unit_test(test_unknown_pieces_are_refused_by_name),
        cmocka_unit_test(test_faulty_files_are_refused),
        cmocka_unit_test(test_encode_appends_and_takes_any_bytes),
        cmocka_unit_test(test_training_by_hand),
        cmocka_unit_test(test_trained_tokenizer_gives_the_text_back),
        cmocka_unit_test(test_training_faults),
        cmocka_unit_test(test_threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
