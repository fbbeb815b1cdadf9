/* wordpiece.c - BERT's model (Schuster and Nakajima 2012; Devlin et al. 2018): the longest piece that fits,
 * again and again; a word that cannot be covered is one unknown token. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

typedef struct wordpiece {
    char *prefix; /* on every piece but a word's first */
    size_t prefix_n;
    json_int_t most; /* characters; a longer word is unknown */
    size_t longest;  /* bytes of the longest name */
} wordpiece;

static int wordpiece_open(tx_model *m, const json_t *o, oc_err *err)
{
    const char *where = "model WordPiece", *prefix, *unk;
    size_t n;
    wordpiece *w = m->own = calloc(1, sizeof *w);
    if (!w)
        return bs_err(err, "out of memory: a WordPiece model");
    if (tx_vocab_read(&m->vocab, json_object_get(o, "vocab"), err) ||
        tx_json_text(o, where, "continuing_subword_prefix", &prefix, &w->prefix_n, err) ||
        tx_json_int(o, where, "max_input_chars_per_word", 100, &w->most, err) ||
        tx_json_text(o, where, "unk_token", &unk, &n, err))
        return -1;
    unk = unk ? unk : "[UNK]";
    m->unk = tx_vocab_get(&m->vocab, unk, strlen(unk));
    if (m->unk < 0)
        return bs_err(err, "%s: the vocabulary lacks its unk_token '%s'", where, unk);
    w->prefix = bs_strdup(prefix ? prefix : "##");
    if (!w->prefix)
        return bs_err(err, "out of memory: a WordPiece model");
    w->prefix_n = strlen(w->prefix);
    for (int32_t id = 0; id < m->vocab.size; id++)
        if (m->vocab.names[id].n > 0 && (size_t)m->vocab.names[id].n > w->longest)
            w->longest = (size_t)m->vocab.names[id].n;
    return 0;
}

static void wordpiece_close(tx_model *m)
{
    wordpiece *w = m->own;
    if (w)
        free(w->prefix);
    free(w);
}

/* The longest piece at the front of s[0..n): its id and length, or -1. */
static int32_t longest_piece(const tx_model *m, const char *s, size_t n, bool first, bs_buf *text, size_t *length, oc_err *err)
{
    const wordpiece *w = m->own;
    size_t prefix_n = first ? 0 : w->prefix_n, most = w->longest > prefix_n ? w->longest - prefix_n : 0;
    size_t end = n < most ? n : most;
    text->n = 0;
    if (bs_buf_put(text, w->prefix, prefix_n, err) || bs_buf_put(text, s, end, err))
        return -1;
    for (; end > 0; end--) {
        if (end < n && (s[end] & 0xc0) == 0x80)
            continue;
        int32_t id = tx_vocab_get(&m->vocab, text->p, prefix_n + end);
        if (id >= 0) {
            *length = end;
            return id;
        }
    }
    return -1;
}

static int wordpiece_word(const tx_model *m, const char *s, size_t n, tx_scratch *scratch, tx_ids *out, oc_err *err)
{
    const wordpiece *w = m->own;
    size_t keep = out->n, length = 0;
    if ((json_int_t)tx_utf8_count(s, n) > w->most)
        return tx_ids_put(out, m->unk, err);
    for (size_t i = 0; i < n; i += length) {
        int32_t id = longest_piece(m, s + i, n - i, i == 0, &scratch->text, &length, err);
        if (id < 0) {
            out->n = keep;
            return tx_ids_put(out, m->unk, err);
        }
        if (tx_ids_put(out, id, err))
            return -1;
    }
    return 0;
}

const tx_model_kind tx_wordpiece = {"WordPiece", wordpiece_open, wordpiece_word, wordpiece_close};
