/* sentencepiece.c - tokenizer.model, the file of the sentencepiece library (Kudo, Richardson 2018), told as the
 * tokenizer.json that it stands for. It is a protocol buffer: fields of number and wire type, of which the few that
 * matter are read. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

/* ---- protocol buffers -------------------------------------------------------------------------------- */

typedef struct field {
    uint32_t number;
    enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } wire;
    uint64_t value;         /* of VARINT and FIXED32 */
    const unsigned char *p; /* of BYTES */
    size_t n;
} field;

typedef struct cursor {
    const unsigned char *p, *end;
    bool bad;
} cursor;

static uint64_t get_varint(cursor *c)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && c->p < c->end; shift += 7) {
        unsigned char byte = *c->p++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
    c->bad = true;
    return 0;
}

static const unsigned char *get_bytes(cursor *c, uint64_t n)
{
    const unsigned char *p = c->p;
    if (n > (uint64_t)(c->end - c->p)) {
        c->bad = true;
        return NULL;
    }
    c->p += n;
    return p;
}

/* false at the end, and when what follows is no field. */
static bool next_field(cursor *c, field *f)
{
    if (c->bad || c->p == c->end)
        return false;
    uint64_t tag = get_varint(c);
    *f = (field){.number = (uint32_t)(tag >> 3), .wire = (int)(tag & 7)};
    switch ((int)(tag & 7)) {
    case VARINT: f->value = get_varint(c); break;
    case FIXED64: get_bytes(c, 8); break;
    case BYTES:
        f->n = (size_t)get_varint(c);
        f->p = c->bad ? NULL : get_bytes(c, f->n);
        break;
    case FIXED32:
        f->p = get_bytes(c, 4);
        for (int i = 3; f->p && i >= 0; i--)
            f->value = f->value << 8 | f->p[i];
        break;
    default: c->bad = true;
    }
    return !c->bad;
}

static cursor within(const field *f) { return (cursor){f->p, f->p + (f->p ? f->n : 0), false}; }

/* ---- the model --------------------------------------------------------------------------------------- */

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };
enum { UNIGRAM = 1, BPE = 2 };

typedef struct piece {
    const char *s; /* in the file */
    size_t n;
    float score;
    int type;
} piece;

typedef struct spm {
    piece *piece;
    size_t n, cap;
    int kind;
    bool byte_fallback, suffix, prefix, tidy, escape; /* spaces: behind words, one in front, no runs, as U+2581 */
    int unk, bos, eos, pad;
    const unsigned char *charsmap;
    size_t charsmap_n;
} spm;

static int read_piece(spm *m, const field *message, oc_err *err)
{
    piece p = {.type = NORMAL, .s = ""};
    cursor c = within(message);
    for (field f; next_field(&c, &f);) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.wire == BYTES) {
            p.s = (const char *)f.p;
            p.n = f.n;
        } else if (f.number == 2 && f.wire == FIXED32)
            memcpy(&p.score, &bits, sizeof bits);
        else if (f.number == 3 && f.wire == VARINT)
            p.type = (int)f.value;
    }
    if (c.bad || p.n == 0 || tx_utf8_valid(p.s, p.n) != p.n || memchr(p.s, 0, p.n) || !(p.score > -1e30f && p.score < 1e30f))
        return bs_err(err, "piece %zu is not a text with a score", m->n);
    if (p.type < NORMAL || p.type > BYTE)
        return bs_err(err, "piece %zu, '%.*s', has the unknown type %d", m->n, (int)p.n, p.s, p.type);
    if (m->n >= TX_MAX_ID || tx_room((void **)&m->piece, &m->cap, m->n + 1, sizeof *m->piece, err))
        return bs_err(err, "too many pieces");
    m->piece[m->n++] = p;
    return 0;
}

static void read_trainer(spm *m, cursor *c)
{
    for (field f; next_field(c, &f);) {
        if (f.wire != VARINT)
            continue;
        switch (f.number) {
        case 3: m->kind = (int)f.value; break;
        case 24: m->suffix = f.value; break;
        case 35: m->byte_fallback = f.value; break;
        case 40: m->unk = (int)f.value; break;
        case 41: m->bos = (int)f.value; break;
        case 42: m->eos = (int)f.value; break;
        case 43: m->pad = (int)f.value; break;
        default: break;
        }
    }
}

static void read_normalizer(spm *m, cursor *c)
{
    for (field f; next_field(c, &f);) {
        if (f.number == 2 && f.wire == BYTES) {
            m->charsmap = f.p;
            m->charsmap_n = f.n;
        } else if (f.number == 3 && f.wire == VARINT)
            m->prefix = f.value;
        else if (f.number == 4 && f.wire == VARINT)
            m->tidy = f.value;
        else if (f.number == 5 && f.wire == VARINT)
            m->escape = f.value;
    }
}

static int check(const spm *m, oc_err *err)
{
    if (m->n == 0)
        return bs_err(err, "there are no pieces: not a sentencepiece model");
    if (m->kind != UNIGRAM && m->kind != BPE)
        return bs_err(err, "the model type %d is not known: 1 (unigram) or 2 (BPE) was expected", m->kind);
    if (m->suffix || !m->escape)
        return bs_err(err, "%s is not known", m->suffix ? "treat_whitespace_as_suffix" : "escape_whitespaces false");
    if (m->unk < 0 || (size_t)m->unk >= m->n || m->piece[m->unk].type != UNKNOWN)
        return bs_err(err, "unk_id %d is not a piece for unknown characters", m->unk);
    for (size_t i = 0; i < m->n && m->kind == BPE; i++)
        if (m->piece[i].type == UNUSED)
            return bs_err(err, "piece %zu, '%.*s', is marked as unused, which is not known for BPE", i, (int)m->piece[i].n,
                          m->piece[i].s);
    return 0;
}

static int read_model(spm *m, const void *bytes, size_t n, oc_err *err)
{
    cursor c = {bytes, (const unsigned char *)bytes + n, false};
    *m = (spm){.kind = UNIGRAM, .prefix = true, .tidy = true, .escape = true, .bos = 1, .eos = 2, .pad = -1};
    for (field f; next_field(&c, &f);) {
        if (f.wire != BYTES)
            continue;
        cursor inner = within(&f);
        if (f.number == 1 && read_piece(m, &f, err))
            return -1;
        if (f.number == 2)
            read_trainer(m, &inner);
        if (f.number == 3)
            read_normalizer(m, &inner);
        c.bad = c.bad || inner.bad;
    }
    return c.bad ? bs_err(err, "the file is cut off, or not a sentencepiece model") : check(m, err);
}

/* ---- told as JSON ------------------------------------------------------------------------------------ */

static json_t *name_of(const piece *p) { return json_stringn(p->s, p->n); }

/* A pair of pieces that spells a third: BPE merges the one with the highest score first, and of equal ones the leftmost. */
typedef struct pair {
    float score;
    int32_t id;
    size_t cut;
} pair;

static int by_score(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id != y->id ? (x->id < y->id ? -1 : 1) : x->cut < y->cut ? -1 : x->cut > y->cut;
}

typedef struct pairs {
    pair *p;
    size_t n, cap;
} pairs;

static int find_pairs(const spm *m, const tx_vocab *normal, pairs *all, oc_err *err)
{
    for (size_t i = 0; i < m->n; i++) {
        const piece *p = &m->piece[i];
        for (size_t cut = 1; p->type == NORMAL && cut < p->n; cut++) {
            if ((p->s[cut] & 0xc0) == 0x80 || tx_vocab_get(normal, p->s, cut) < 0 ||
                tx_vocab_get(normal, p->s + cut, p->n - cut) < 0)
                continue;
            if (tx_room((void **)&all->p, &all->cap, all->n + 1, sizeof *all->p, err))
                return -1;
            all->p[all->n++] = (pair){p->score, (int32_t)i, cut};
        }
    }
    if (all->n)
        qsort(all->p, all->n, sizeof *all->p, by_score);
    return 0;
}

static json_t *merges_of(const spm *m, oc_err *err)
{
    tx_vocab normal = {0};
    pairs all = {0};
    json_t *list = NULL;
    for (size_t i = 0; i < m->n; i++)
        if (m->piece[i].type == NORMAL && tx_vocab_put(&normal, m->piece[i].s, m->piece[i].n, (json_int_t)i, err))
            goto done;
    if (find_pairs(m, &normal, &all, err))
        goto done;
    list = json_array();
    for (size_t i = 0, rank = 0; list && i < all.n; i++) {
        const pair *a = &all.p[i];
        const piece *p = &m->piece[a->id];
        rank += i && a->score != a[-1].score;
        if (json_array_append_new(list, json_pack("[s%, s%, I]", p->s, a->cut, p->s + a->cut, p->n - a->cut, (json_int_t)rank))) {
            json_decref(list);
            list = NULL;
        }
    }
    if (!list)
        bs_err(err, "out of memory: %zu merges", all.n);
done:
    tx_vocab_clear(&normal);
    free(all.p);
    return list;
}

/* {"piece": id, ...} */
static json_t *vocab_of(const spm *m, oc_err *err)
{
    json_t *vocab = json_object();
    for (size_t i = 0; i < m->n; i++) {
        char *name = strndup(m->piece[i].s, m->piece[i].n);
        bool twice = name && json_object_get(vocab, name);
        int bad = !name || twice || json_object_set_new(vocab, name, json_integer((json_int_t)i));
        if (bad) {
            bs_err(err, twice ? "the piece '%s' is there twice" : "out of memory: the piece '%s'", name ? name : "");
            json_decref(vocab);
            vocab = NULL;
        }
        free(name);
        if (bad)
            break;
    }
    return vocab;
}

static json_t *bpe_model(const spm *m, oc_err *err)
{
    json_t *vocab = vocab_of(m, err), *merges = vocab ? merges_of(m, err) : NULL, *frozen = json_array();
    for (size_t i = 0; i < m->n; i++)
        if (m->piece[i].type == USER_DEFINED)
            json_array_append_new(frozen, name_of(&m->piece[i]));
    return json_pack("{s:s, s:o, s:b, s:b, s:o, s:o, s:o}", "type", "BPE", "unk_token", name_of(&m->piece[m->unk]), "fuse_unk", 1,
                     "byte_fallback", m->byte_fallback, "vocab", vocab, "merges", merges, "frozen", frozen);
}

static bool is_true(const json_t *config, const char *key, bool fallback)
{
    const json_t *o = json_object_get(config, key);
    return json_is_boolean(o) ? json_is_true(o) : fallback;
}

/* What transformers' class does round the same model. */
typedef enum kind_of_texts { LLAMA, CODE_LLAMA, T5, SIGLIP, UNKNOWN_TEXTS } kind_of_texts;

static kind_of_texts kind_of(const spm *m, const char *class)
{
    static const struct {
        const char *class;
        kind_of_texts kind;
    } known[] = {{"LlamaTokenizer", LLAMA}, {"CodeLlamaTokenizer", CODE_LLAMA}, {"T5Tokenizer", T5}, {"SiglipTokenizer", SIGLIP}};
    if (!class)
        return m->kind == UNIGRAM ? T5 : LLAMA;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n = strlen(known[i].class);
        if (!strncmp(class, known[i].class, n) && (!class[n] || !strcmp(class + n, "Fast")))
            return known[i].kind;
    }
    return UNKNOWN_TEXTS;
}

/* A piece that a text cannot spell has null for a score; one that the user defined has `true` behind it. */
static json_t *unigram_model(const spm *m)
{
    json_t *list = json_array();
    for (size_t i = 0; i < m->n; i++) {
        const piece *p = &m->piece[i];
        bool spelt = p->type == NORMAL || p->type == USER_DEFINED;
        json_t *item = json_pack("[o, o]", name_of(p), spelt ? json_real((double)p->score) : json_null());
        if (p->type == USER_DEFINED)
            json_array_append_new(item, json_true());
        json_array_append_new(list, item);
    }
    return json_pack("{s:s, s:b, s:i, s:b, s:o}", "type", "Unigram", "floats", 1, "unk_id", m->unk, "byte_fallback",
                     m->byte_fallback, "vocab", list);
}

static json_t *base64(const unsigned char *p, size_t n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = malloc((n + 2) / 3 * 4 + 1), *to = text;
    for (size_t i = 0; text && i < n; i += 3) {
        size_t left = n - i;
        uint32_t bits = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        for (int k = 0; k < 4; k++)
            *to++ = (size_t)k > left ? '=' : letters[bits >> (18 - 6 * k) & 63];
    }
    json_t *o = text ? json_stringn(text, (size_t)(to - text)) : NULL;
    free(text);
    return o;
}

static json_t *replace(const char *kind, const char *what, const char *with)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", kind, what, "content", with);
}

/* SigLIP's texts are small letters without punctuation and needless spaces (big_vision's canonicalize_text). */
static void put_canonical(json_t *steps, bool lower)
{
    if (lower)
        json_array_append_new(steps, json_pack("{s:s}", "type", "Lowercase"));
    json_array_append_new(steps, replace("Regex", "[!-/:-@\\[-`{-~]", ""));
    json_array_append_new(steps, replace("Regex", "\\s+", " "));
    json_array_append_new(steps, json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left", 1, "strip_right", 1));
}

/* As sentencepiece does it: its table, spaces at the ends and runs of them, one in front, and each becomes U+2581. Where special tokens cut a
 * text, `legacy` puts one in front of every part. */
static json_t *normalizer_of(const spm *m, const json_t *config, kind_of_texts kind, bool legacy)
{
    json_t *steps = json_array();
    if (kind == SIGLIP)
        put_canonical(steps, is_true(config, "do_lower_case", true));
    if (m->charsmap_n)
        json_array_append_new(steps, json_pack("{s:s, s:o, s:b}", "type", "Precompiled", "precompiled_charsmap",
                                               base64(m->charsmap, m->charsmap_n), "longest", 1));
    if (m->tidy) {
        json_array_append_new(steps, replace("Regex", "\\A +", ""));
        json_array_append_new(steps, replace("Regex", " {2,}", " "));
    }
    if (m->prefix && legacy)
        json_array_append_new(steps, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", "\u2581"));
    if (legacy || !m->prefix)
        json_array_append_new(steps, replace("String", " ", "\u2581"));
    if (m->tidy)
        json_array_append_new(steps, replace("Regex", "[ \u2581]+\\z", ""));
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps);
}

static json_t *pretokenizer_of(const spm *m, bool legacy)
{
    if (legacy || !m->prefix)
        return json_null();
    return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", "\u2581", "prepend_scheme", "first", "split", 0);
}

static json_t *decoder_of(const spm *m)
{
    json_t *steps = json_pack("[o, {s:s}, {s:s}]", replace("String", "\u2581", " "), "type", "ByteFallback", "type", "Fuse");
    if (m->prefix)
        json_array_append_new(
            steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", m->tidy ? 1 << 20 : 1, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

/* ---- what stands round a text, and special tokens ---------------------------------------------------- */

static const piece *piece_of(const spm *m, int id) { return id >= 0 && (size_t)id < m->n ? &m->piece[id] : NULL; }

static int put_special(json_t *template, json_t *tokens, const spm *m, int id, const char *what, oc_err *err)
{
    const piece *p = piece_of(m, id);
    if (!p)
        return bs_err(err, "%s asks for a piece that is not there: id %d of %zu", what, id, m->n);
    char *name = strndup(p->s, p->n);
    json_array_append_new(template, json_pack("{s:{s:o, s:i}}", "SpecialToken", "id", name_of(p), "type_id", 0));
    json_object_set_new(tokens, name ? name : "",
                        json_pack("{s:o, s:[i], s:[o]}", "id", name_of(p), "ids", id, "tokens", name_of(p)));
    free(name);
    return 0;
}

static json_t *postprocess_of(const spm *m, bool bos, bool eos, oc_err *err)
{
    json_t *list = json_array(), *tokens = json_object();
    int bad = bos ? put_special(list, tokens, m, m->bos, "add_bos_token", err) : 0;
    json_array_append_new(list, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    if (eos && !bad)
        bad = put_special(list, tokens, m, m->eos, "add_eos_token", err);
    json_t *o = json_pack("{s:s, s:o, s:o}", "type", "TemplateProcessing", "single", list, "special_tokens", tokens);
    if (!bad)
        return o;
    json_decref(o);
    return NULL;
}

/* SigLIP fills up with the end, whatever the model has for that. */
static json_t *special_map(const spm *m, kind_of_texts kind)
{
    static const char *const keys[] = {"unk_token", "bos_token", "eos_token", "pad_token"};
    const int ids[] = {m->unk, m->bos, m->eos, kind == SIGLIP ? m->eos : m->pad};
    json_t *o = json_object();
    for (int i = 0; i < 4; i++) {
        const piece *p = piece_of(m, ids[i]);
        if (p)
            json_object_set_new(o, keys[i], name_of(p));
    }
    return o;
}

/* Pieces that a text may name. What SigLIP's model has to fill up with is none, unless the configuration says that it is used. */
static bool is_token(const spm *m, size_t id, const json_t *config, kind_of_texts kind)
{
    const piece *p = &m->piece[id];
    if (p->type != CONTROL && p->type != UNKNOWN)
        return false;
    const char *pad = json_string_value(json_object_get(config, "pad_token"));
    return kind != SIGLIP || (int)id == m->eos || (int)id == m->unk || (pad && strlen(pad) == p->n && !memcmp(pad, p->s, p->n));
}

/* Tokens that stand beside the model: tokenizer_config.json's added_tokens_decoder; else T5's sentinels, counted down. */
static json_t *added_tokens(const spm *m, const json_t *config, kind_of_texts kind)
{
    json_t *list = json_array(), *token;
    const char *id;
    for (size_t i = 0; i < m->n; i++)
        if (is_token(m, i, config, kind)) {
            char *name = strndup(m->piece[i].s, m->piece[i].n);
            json_array_append_new(list, tx_added_token_json(name ? name : "", (int32_t)i));
            free(name);
        }
    json_t *decoder = json_object_get(config, "added_tokens_decoder");
    json_object_foreach(decoder, id, token)
    {
        json_t *copy = json_is_object(token) ? json_copy(token) : NULL;
        if (copy && strtol(id, NULL, 10) >= (long)m->n && !json_object_set_new(copy, "id", json_integer(strtol(id, NULL, 10))))
            json_array_append(list, copy);
        json_decref(copy);
    }
    long sentinels = decoder || kind != T5 ? 0
                     : json_is_number(json_object_get(config, "extra_ids"))
                         ? (long)json_number_value(json_object_get(config, "extra_ids"))
                         : 100;
    for (long i = 0; i < sentinels && i < 10000; i++) {
        char name[32];
        snprintf(name, sizeof name, "<extra_id_%ld>", sentinels - 1 - i);
        json_t *o = tx_added_token_json(name, (int32_t)((long)m->n + i));
        json_object_set_new(o, "lstrip", json_true());
        json_object_set_new(o, "rstrip", json_true());
        json_array_append_new(list, o);
    }
    return list;
}

json_t *tx_sentencepiece_json(const void *bytes, size_t n, const json_t *config, oc_err *err)
{
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    spm m;
    json_t *o = NULL, *post, *model;
    if (read_model(&m, bytes, n, err))
        goto done;
    kind_of_texts kind = kind_of(&m, class);
    bool legacy = kind == SIGLIP || (kind != CODE_LLAMA && is_true(config, "legacy", true)), llama = kind == LLAMA || kind == CODE_LLAMA;
    if (kind == UNKNOWN_TEXTS) {
        bs_err(err, "the tokenizer_class '%s' needs a tokenizer.json", class);
        goto done;
    }
    post = postprocess_of(&m, is_true(config, "add_bos_token", llama), is_true(config, "add_eos_token", !llama), err);
    if (!post)
        goto done;
    model = m.kind == BPE ? bpe_model(&m, err) : unigram_model(&m);
    o = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "added_tokens", added_tokens(&m, config, kind), "normalizer",
                  normalizer_of(&m, config, kind, legacy), "pre_tokenizer", pretokenizer_of(&m, legacy), "post_processor", post, "decoder",
                  decoder_of(&m), "model", model, "special_tokens_map", special_map(&m, kind));
    if (!o)
        bs_err(err, "out of memory: a tokenizer's description");
done:
    free(m.piece);
    return o;
}
