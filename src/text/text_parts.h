/* text_parts.h - what the stages of the tokenizer share. Private to src/text. */
#ifndef TX_TEXT_PARTS_H
#define TX_TEXT_PARTS_H

#include <jansson.h>

#include "tokenizer.h"

/* ---- pieces: what flows from stage to stage ---------------------------------------------------------- */

/* A run of text, bytes [at, at+n) of the owner's buffer, or a token that is already settled (id >= 0). */
typedef struct tx_piece {
    size_t at, n;
    int32_t id;
    bool head; /* begins where the whole text begins: Metaspace's "first" asks */
} tx_piece;

typedef struct tx_pieces {
    bs_buf text;
    tx_piece *p;
    size_t n, cap;
} tx_pieces;

/* Appends a piece whose text is copied; an empty text without an id is dropped, as `tokenizers` drops it. */
int tx_pieces_put(tx_pieces *ps, const char *s, size_t n, int32_t id, bool head, oc_err *err);
void tx_pieces_clear(tx_pieces *ps);
/* Keeps the memory. */
void tx_pieces_reset(tx_pieces *ps);

/* Room for `need` items of `size` bytes in a growing array. */
int tx_room(void **p, size_t *cap, size_t need, size_t size, oc_err *err);

/* ---- UTF-8 and Unicode ------------------------------------------------------------------------------- */

/* Reads one character of valid UTF-8 at s[0..n), n > 0; returns its length in bytes. */
size_t tx_utf8_get(const char *s, size_t n, uint32_t *c);
/* Writes up to 4 bytes; returns how many. */
size_t tx_utf8_put(uint32_t c, char out[4]);
int tx_put_char(bs_buf *b, uint32_t c, oc_err *err);
size_t tx_utf8_count(const char *s, size_t n);
/* Length in bytes of the valid prefix of s. */
size_t tx_utf8_valid(const char *s, size_t n);
/* Appends s with every byte that is not part of valid UTF-8 as U+FFFD. With `rust` a cut-off character counts
 * as one U+FFFD, however many bytes it has (the Unicode standard's "maximal subparts"), which decoders do. */
int tx_utf8_clean(bs_buf *b, const char *s, size_t n, bool rust, oc_err *err);
/* How many bytes at the end of s begin a character that more bytes may complete: 0 to 3. */
size_t tx_utf8_begun(const char *s, size_t n);

/* Classes of characters as `tokenizers` sees them (Rust's standard library and the crates it uses). */
bool tx_is_space(uint32_t c);      /* White_Space */
bool tx_is_punct(uint32_t c);      /* ASCII punctuation, or category P of Unicode 8 */
bool tx_is_numeric(uint32_t c);    /* category N */
bool tx_is_bert_other(uint32_t c); /* categories Cc, Cf, Co; not tab, LF, CR */
bool tx_is_accent(uint32_t c);     /* category M, what StripAccents removes */
bool tx_is_nonspacing(uint32_t c); /* category Mn, what BertNormalizer removes */

/* Appends the lower case of each character by itself (no final sigma rule), as Rust's char::to_lowercase. */
int tx_lowercase(bs_buf *b, const char *s, size_t n, oc_err *err);

typedef enum tx_form { TX_NFD = 0, TX_NFC = 1, TX_NFKD = 2, TX_NFKC = 3 } tx_form; /* bit 0: compose, bit 1: compatibility */
int tx_unicode_form(bs_buf *b, const char *s, size_t n, tx_form form, oc_err *err);

/* The byte-level alphabet of GPT-2: a printable character for each byte, and back (-1: not in the alphabet).
 */
uint32_t tx_byte_char(unsigned char byte);
int tx_char_byte(uint32_t c);
int tx_put_byte_chars(bs_buf *b, const char *s, size_t n, oc_err *err);

/* ---- JSON -------------------------------------------------------------------------------------------- */

/* Fields of an object; `where` is what the error calls the object. A field that is absent or null gives the
 * default; one of the wrong type is an error. */
int tx_json_bool(const json_t *o, const char *where, const char *key, bool fallback, bool *out, oc_err *err);
int tx_json_int(const json_t *o, const char *where, const char *key, json_int_t fallback, json_int_t *out, oc_err *err);
/* NULL and no error when the field is absent or null. */
int tx_json_text(const json_t *o, const char *where, const char *key, const char **s, size_t *n, oc_err *err);
/* As above, but must be there. */
int tx_json_need_text(const json_t *o, const char *where, const char *key, const char **s, size_t *n, oc_err *err);
/* "type" of a stage's object. */
const char *tx_json_type(const json_t *o, const char *where, oc_err *err);
/* Appends the stages of `o`, with any nesting of {"type": "Sequence", list_key: [...]} opened, to a flat
 * list; null gives none. The entries are borrowed. */
typedef struct tx_json_list {
    const json_t **p;
    size_t n, cap;
} tx_json_list;
int tx_json_flatten(const json_t *o, const char *where, const char *list_key, tx_json_list *out, oc_err *err);
/* A file that holds one object. as_real: integers of any size, as doubles (a model_max_length of 1e30 is
 * common). */
json_t *tx_json_read(const char *path, bool as_real, oc_err *err);

/* ---- regular expressions ----------------------------------------------------------------------------- */

typedef struct tx_regex tx_regex;
typedef struct tx_span {
    size_t at, end;
    bool hit; /* false: a gap between matches */
} tx_span;
typedef struct tx_spans {
    tx_span *p;
    size_t n, cap;
    void *match; /* the engine's memory, kept between calls */
} tx_spans;
void tx_spans_clear(tx_spans *s);
int tx_spans_put(tx_spans *s, size_t at, size_t end, bool hit, oc_err *err);

/* A pattern in Oniguruma's Ruby syntax, as tokenizer.json holds it. What cannot be given the same meaning
 * (class intersections, ...) is refused. */
tx_regex *tx_regex_open(const char *pattern, size_t n, oc_err *err);
/* The same with \w as Rust's regex has it, for the pieces of `tokenizers` that are written with that. */
tx_regex *tx_word_regex_open(const char *pattern, oc_err *err);
/* A text taken literally. */
tx_regex *tx_literal_open(const char *text, size_t n, oc_err *err);
/* {"String": s} or {"Regex": s}. */
tx_regex *tx_pattern_open(const json_t *o, const char *where, oc_err *err);
void tx_regex_close(tx_regex *re);
/* Cuts s into matches and the gaps between them, in order, covering all of it. */
int tx_regex_cut(const tx_regex *re, const char *s, size_t n, tx_spans *out, oc_err *err);

/* ---- vocabulary -------------------------------------------------------------------------------------- */

typedef struct tx_name {
    size_t at;
    int32_t n; /* -1: the id is unused */
} tx_name;
typedef struct tx_vocab {
    bs_buf bytes;   /* the spellings, each followed by a 0 byte */
    tx_name *names; /* by id */
    size_t cap;
    int32_t size;   /* one more than the largest id */
    int32_t count;  /* names */
    int32_t *slots; /* open addressing, -1 empty */
    size_t n_slots;
} tx_vocab;
enum { TX_MAX_ID = 1 << 26 };
uint64_t tx_hash(const char *s, size_t n);
int tx_vocab_put(tx_vocab *v, const char *s, size_t n, json_int_t id, oc_err *err);
int32_t tx_vocab_get(const tx_vocab *v, const char *s, size_t n);    /* -1: absent */
const char *tx_vocab_name(const tx_vocab *v, int32_t id, size_t *n); /* NULL: unused */
int tx_vocab_read(tx_vocab *v, const json_t *o, oc_err *err);        /* {"token": id, ...} */
void tx_vocab_clear(tx_vocab *v);

/* ---- model: what makes ids of one word --------------------------------------------------------------- */

/* Memory that one call to encode uses again for every word. */
typedef struct tx_scratch {
    void *p[2];
    size_t cap[2];
    bs_buf text;
} tx_scratch;
void *tx_scratch_get(tx_scratch *s, int i, size_t count, size_t size, oc_err *err);
void tx_scratch_clear(tx_scratch *s);

typedef struct tx_model tx_model;
typedef struct tx_model_kind {
    const char *type; /* as tokenizer.json spells it */
    int (*open)(tx_model *m, const json_t *o, oc_err *err);
    int (*word)(const tx_model *m, const char *s, size_t n, tx_scratch *scratch, tx_ids *out, oc_err *err);
    void (*close)(tx_model *m);
} tx_model_kind;
struct tx_model {
    const tx_model_kind *kind;
    tx_vocab vocab;
    void *own;   /* the kind's own data */
    int32_t unk; /* -1: none */
};
extern const tx_model_kind tx_bpe, tx_wordpiece, tx_unigram;
int tx_model_open(tx_model *m, const json_t *o, oc_err *err);
void tx_model_close(tx_model *m);
int tx_model_encode(const tx_model *m, const tx_pieces *in, tx_ids *out, oc_err *err);
/* "<0x0A>" of byte 10; -1 when the vocabulary lacks it. */
int32_t tx_byte_token(const tx_vocab *v, unsigned char byte);
/* What to strip from a decoded text: BPE's end_of_word_suffix, NULL when there is none. */
const char *tx_bpe_suffix(const tx_model *m, size_t *n);

/* ---- normalizer -------------------------------------------------------------------------------------- */

typedef struct tx_normalizer tx_normalizer; /* NULL is one that changes nothing */
int tx_normalizer_open(tx_normalizer **out, const json_t *o, oc_err *err);
void tx_normalizer_close(tx_normalizer *z);
/* Replaces what `out` holds by the normal form of s, which must not lie in `out`. *moved: the first character
 * of s was taken away in front. */
int tx_normalize(const tx_normalizer *z, const char *s, size_t n, bs_buf *out, bool *moved, oc_err *err);

/* sentencepiece's precompiled table of replacements. */
typedef struct tx_charsmap tx_charsmap;
tx_charsmap *tx_charsmap_open(const char *base64, size_t n, oc_err *err);
void tx_charsmap_close(tx_charsmap *m);
int tx_charsmap_apply(const tx_charsmap *m, const char *s, size_t n, bs_buf *out, oc_err *err);
/* As sentencepiece itself does it: the longest key that fits, wherever it begins. */
int tx_charsmap_longest(const tx_charsmap *m, const char *s, size_t n, bs_buf *out, oc_err *err);

/* ---- pre-tokenizer ----------------------------------------------------------------------------------- */

typedef struct tx_pretokenizer tx_pretokenizer; /* NULL is one that cuts nothing */
int tx_pretokenizer_open(tx_pretokenizer **out, const json_t *o, oc_err *err);
void tx_pretokenizer_close(tx_pretokenizer *z);
/* Cuts the pieces of ps that are text; `other` is a second buffer of the caller's. */
int tx_pretokenize(const tx_pretokenizer *z, tx_pieces *ps, tx_pieces *other, oc_err *err);
/* Metaspace is a decoder as well. */
int tx_metaspace_read(const json_t *o, const char *where, uint32_t *mark, int *scheme, bool *split, oc_err *err);
enum { TX_PREPEND_ALWAYS, TX_PREPEND_FIRST, TX_PREPEND_NEVER };

/* ---- added tokens ------------------------------------------------------------------------------------ */

typedef struct tx_added tx_added;
typedef struct tx_added_token {
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} tx_added_token;
tx_added *tx_added_open(oc_err *err);
void tx_added_close(tx_added *a);
/* Adds a token. Its id is the model's where the model has that name; else it must be `id`, or, if that is -1,
 * the next free one. */
int tx_added_put(tx_added *a, const tx_model *m, const char *s, size_t n, tx_added_token token, oc_err *err);
/* After the last put: normal forms are computed, the search is made ready. */
int tx_added_ready(tx_added *a, const tx_normalizer *z, oc_err *err);
int32_t tx_added_get(const tx_added *a, const char *s, size_t n);
/* NULL when the id is no added token. `name` is what decoding starts from. */
const tx_added_token *tx_added_by_id(const tx_added *a, int32_t id, const char **name, size_t *n);
const char *tx_added_content(const tx_added *a, int32_t id);
int32_t tx_added_size(const tx_added *a); /* one more than the largest id */
/* Cuts s into added tokens and normalized text. */
int tx_added_cut(const tx_added *a, const tx_normalizer *z, const char *s, size_t n, tx_pieces *out, oc_err *err);

/* ---- post-processor and decoder ---------------------------------------------------------------------- */

/* What goes round the ids of one text. */
enum { TX_FIRST_TEXT = -1, TX_SECOND_TEXT = -2 };
typedef struct tx_postprocess {
    tx_ids before, after;
    tx_ids pair, pair_types; /* of two texts: ids, TX_FIRST_TEXT and TX_SECOND_TEXT, and the token type of each */
    int pairings;            /* processors that say what becomes of pairs */
} tx_postprocess;
int tx_postprocess_open(tx_postprocess *z, const json_t *o, oc_err *err);
void tx_postprocess_clear(tx_postprocess *z);

typedef struct tx_decoder tx_decoder;
/* tokenizer.json's "decoder"; null joins tokens with spaces, as `tokenizers` does. suffix: the model's end of a word,
 * which behind a byte-level decoder turns into a space. */
tx_decoder *tx_decoder_open(const json_t *o, const char *suffix, size_t suffix_n, oc_err *err);
void tx_decoder_close(tx_decoder *z);

/* One text on its way through a decoder. */
typedef struct tx_decoding tx_decoding;
tx_decoding *tx_decoding_open(const tx_decoder *z, oc_err *err);
void tx_decoding_close(tx_decoding *d);
/* Takes the name of a token and appends to `out` the bytes that no later token can change. */
int tx_decoding_put(tx_decoding *d, const char *name, size_t n, bs_buf *out, oc_err *err);
/* Appends the rest, and is ready for another text. */
int tx_decoding_end(tx_decoding *d, bs_buf *out, oc_err *err);

/* ---- all of it --------------------------------------------------------------------------------------- */

/* A tokenizer from what its three files hold; config (tokenizer_config.json) and map may be NULL. */
tx_tokenizer *tx_open_json(const json_t *o, const json_t *config, const json_t *map, oc_err *err);

/* ---- the older layout -------------------------------------------------------------------------------- */

/* vocab.json + merges.txt, or vocab.txt, as the tokenizer.json they stand for. */
json_t *tx_classic_json(const char *dir, const json_t *config, oc_err *err);
/* sentencepiece's own file likewise, with what tokenizer_config.json says beside it (NULL: nothing). What tokenizer.json has no words for is added to
 * them: a merge's own rank, pieces that no text spells, symbols of the user, the longest key of a table. */
json_t *tx_sentencepiece_json(const void *bytes, size_t n, const json_t *config, oc_err *err);
/* An entry of added_tokens: special, taken as it stands. */
json_t *tx_added_token_json(const char *name, int32_t id);
/* "model" of a byte-level BPE; takes vocab and merges. unk may be NULL. */
json_t *tx_bpe_json(const char *unk, const char *suffix, json_t *vocab, json_t *merges);
/* tokenizer.json without its model, for a style with its special tokens. */
json_t *tx_classic_frame(tx_style style, int32_t bos, int32_t eos, const char *bos_name, const char *eos_name, oc_err *err);

#endif
