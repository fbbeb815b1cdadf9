/* token_model.c - the table of models, and the words of a text given to one of them. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

int tx_model_open(tx_model *m, const json_t *o, oc_err *err)
{
    static const tx_model_kind *const kinds[] = {&tx_bpe, &tx_wordpiece, &tx_unigram};
    memset(m, 0, sizeof *m);
    m->unk = -1;
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!type) /* files of the first versions do not say it; of these models only BPE has merges */
        type = json_object_get(o, "merges") ? "BPE" : json_object_get(o, "unk_id") ? "Unigram" : "";
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(type, kinds[i]->type) == 0) {
            m->kind = kinds[i];
            return m->kind->open(m, o, err);
        }
    return bs_err(err, "model: the type '%s' is not known", type);
}

void tx_model_close(tx_model *m)
{
    if (m->kind)
        m->kind->close(m);
    tx_vocab_clear(&m->vocab);
    memset(m, 0, sizeof *m);
}

int32_t tx_byte_token(const tx_vocab *v, unsigned char byte)
{
    char name[8];
    int n = snprintf(name, sizeof name, "<0x%02X>", byte);
    return tx_vocab_get(v, name, (size_t)n);
}

/* A word seen earlier in the same text, and where its ids lie in the output. */
typedef struct seen {
    const char *s;
    size_t n, at, count;
} seen;

enum { MAX_SEEN = 1 << 15, MAX_SEEN_WORD = 64 };

/* Table sized by the text: a caption needs none, a book a large one. A new word takes its slot from an old
 * one. */
static seen *seen_open(const tx_pieces *in, size_t *mask, oc_err *err)
{
    size_t count = 1;
    while (count < in->n && count < MAX_SEEN)
        count *= 2;
    *mask = count - 1;
    seen *table = calloc(count, sizeof *table);
    if (!table)
        bs_err(err, "out of memory: %zu words", count);
    return table;
}

static int encode_word(const tx_model *m, const char *s, size_t n, seen *slot, tx_scratch *scratch, tx_ids *out, oc_err *err)
{
    size_t at = out->n;
    if (slot->s && slot->n == n && memcmp(slot->s, s, n) == 0) {
        for (size_t i = 0; i < slot->count; i++)
            if (tx_ids_put(out, out->p[slot->at + i], err))
                return -1;
        return 0;
    }
    if (m->kind->word(m, s, n, scratch, out, err))
        return -1;
    if (n <= MAX_SEEN_WORD)
        *slot = (seen){.s = s, .n = n, .at = at, .count = out->n - at};
    return 0;
}

int tx_model_encode(const tx_model *m, const tx_pieces *in, tx_ids *out, oc_err *err)
{
    size_t mask;
    seen *table = seen_open(in, &mask, err);
    tx_scratch scratch = {0};
    int result = table ? 0 : -1;
    for (size_t i = 0; i < in->n && !result; i++) {
        const tx_piece *p = &in->p[i];
        const char *s = in->text.p + p->at;
        if (p->id >= 0)
            result = tx_ids_put(out, p->id, err);
        else
            result = encode_word(m, s, p->n, &table[tx_hash(s, p->n) & mask], &scratch, out, err);
    }
    tx_scratch_clear(&scratch);
    free(table);
    return result;
}
