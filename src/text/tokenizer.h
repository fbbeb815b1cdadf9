/* tokenizer.h - text to ids and back, equal to Hugging Face's `tokenizers` token by token.
 *
 *     text -> added tokens -> normalizer -> pre-tokenizer -> model -> post-processor -> ids
 *
 * A tokenizer is read from a model folder: `tokenizer.json`, else sentencepiece's `tokenizer.model` or `spiece.model` as LLaMA and T5
 * use them, else `vocab.json` + `merges.txt` in CLIP's or
 * GPT-2's form, else BERT's `vocab.txt`. A piece of the file that is not known is refused by its name, never
 * guessed. Once open it is immutable: any number of threads may use it at once. */
#ifndef TX_TOKENIZER_H
#define TX_TOKENIZER_H

#include "base.h"

typedef struct tx_tokenizer tx_tokenizer;

/* A growing list of ids. Zeroed is empty. */
typedef struct tx_ids {
    int32_t *p;
    size_t n, cap;
} tx_ids;
int tx_ids_put(tx_ids *ids, int32_t id, oc_err *err);
void tx_ids_clear(tx_ids *ids);

/* Reads the tokenizer of a model folder. Special tokens are named by tokenizer_config.json, else by
 * special_tokens_map.json. NULL and an error that names the file and the field. */
tx_tokenizer *tx_open(const char *model_dir, oc_err *err);
void tx_close(tx_tokenizer *t);

/* Appends to `out` the ids of n bytes of UTF-8, never cut. With add_special the post-processor's tokens
 * ([CLS], <s>, ...) go round them. Invalid UTF-8 is no error: each bad byte counts as U+FFFD. A 0 byte is a
 * character. On an error `out` is as it was. */
int tx_encode(const tx_tokenizer *t, const char *utf8, size_t n, bool add_special, tx_ids *out, oc_err *err);

/* Two texts as one, with the post-processor's tokens, as [CLS] a [SEP] b [SEP]; and to `types` the token type of each id. */
int tx_encode_pair(const tx_tokenizer *t, const char *a, size_t a_n, const char *b, size_t b_n, tx_ids *out, tx_ids *types,
                   oc_err *err);

/* Appends the text of n ids to `out`; ids that the vocabulary lacks are left out, and special tokens too if
 * skip_special. Bytes that make no character become U+FFFD. CLIP's `</w>` turns into a space as transformers'
 * CLIPTokenizerFast does. */
int tx_decode(const tx_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, bs_buf *out, oc_err *err);

/* Decoding token by token, as they come out of a model. A push gives the bytes that are certain now, always whole
 * characters and often none: those of a byte-level token may begin a character, those of byte fallback (<0xE4>) may turn
 * out to be none, spaces may go at the end. What all pushes and the end give, one behind the other, is what tx_decode gives
 * for the ids together: a character that is left half is U+FFFD. A push takes a time that depends on its token only, and no
 * memory once the stream has seen a few. `bytes` (n of them, ends in a 0 byte that is not counted) live until the next call. A stream
 * belongs to one thread, borrows the tokenizer, and is as if newly opened after its end. An id that stands for no text
 * gives no bytes. Errors: -1 when memory is short. */
typedef struct tx_stream tx_stream;
tx_stream *tx_stream_open(const tx_tokenizer *t, bool skip_special, oc_err *err);
int tx_stream_push(tx_stream *s, int32_t id, const char **bytes, size_t *n, oc_err *err);
int tx_stream_end(tx_stream *s, const char **bytes, size_t *n, oc_err *err);
void tx_stream_close(tx_stream *s);

/* The id of a token by its exact name, added tokens first; -1 when there is none. */
int32_t tx_token_id(const tx_tokenizer *t, const char *name);
/* The name of an id (ends in a 0 byte, lives as long as the tokenizer), NULL when it is unused. */
const char *tx_token_name(const tx_tokenizer *t, int32_t id);
/* Whether decoding leaves this id out when asked to skip special tokens. */
bool tx_is_special(const tx_tokenizer *t, int32_t id);

/* One more than the largest id: the rows that an embedding table must have at least. */
int32_t tx_vocab_size(const tx_tokenizer *t);

/* Ids of the roles that tokenizer_config.json gives; -1 where it gives none. */
typedef struct tx_roles {
    int32_t bos, eos, pad, unk, cls, sep, mask;
    int32_t max_length; /* model_max_length; 0: not said, or meant as "no limit" */
} tx_roles;
const tx_roles *tx_roles_of(const tx_tokenizer *t);

/* ---- training ---------------------------------------------------------------------------------------- */

typedef enum tx_style {
    TX_STYLE_CLIP, /* NFC, white space collapsed, lower case, CLIP's split, `</w>`, text between two tokens */
    TX_STYLE_GPT2  /* GPT-2's split, text as it is */
} tx_style;

typedef struct tx_train_options {
    tx_style style;
    int32_t size;               /* ids in all: bytes, merges and special tokens; the result may have fewer */
    int64_t min_frequency;      /* a pair seen less often is not merged; 0 and 1: every pair */
    const char *const *special; /* special tokens besides the style's own; may be NULL */
    size_t n_special;
    int32_t max_length; /* model_max_length to write; 0: 77 for CLIP, 1024 for GPT-2 */
} tx_train_options;

/* Trains a byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2) on text files, each line one text, and
 * writes tokenizer.json, tokenizer_config.json, special_tokens_map.json, vocab.json and merges.txt into
 * out_dir, which `transformers` and tx_open read. The most frequent pair is merged first, ties by the smaller
 * ids, so the same files give the same bytes, and GPT-2's style gives what `tokenizers`' BpeTrainer gives.
 * CLIP's ids are in CLIP's order: bytes, bytes with `</w>`, merges, special tokens, of which <|endoftext|> is
 * the last, as old checkpoints find it by the largest id; GPT-2's are <|endoftext|>, special tokens, bytes,
 * merges. Ctrl-C ends it with an error. Returns the number of ids, or -1. */
int32_t tx_train_bpe(const char *const *files, size_t n_files, const tx_train_options *options, const char *out_dir, oc_err *err);

#endif
