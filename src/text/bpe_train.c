/* bpe_train.c - learning a byte-level BPE from text files.
 *
 * Words are counted once; then the most frequent pair of neighbours becomes a token, again and again. A heap
 * holds the pairs with the words they were seen in; counts change while a pair waits, so one whose count is
 * out of date goes back with the right one. This is the order of `tokenizers`' trainer, in every tie. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

typedef struct int_list {
    int32_t *p;
    size_t n, cap;
} int_list;

/* A word as ids of what it is made of so far. */
typedef struct word {
    int32_t *ids;
    int32_t n;
    int64_t count;
} word;

typedef struct pair {
    int32_t left, right;
    int64_t count;
    int_list fresh; /* words that have it since the last merge and that no heap entry knows */
} pair;

/* A pair waiting for its turn; count as it was when it was put there. */
typedef struct waiting {
    int64_t count;
    int32_t left, right;
    int_list words;
} waiting;

typedef struct made {
    int32_t left, right;
} made;

typedef struct trainer {
    const tx_train_options *options;
    tx_normalizer *normalizer;
    tx_pretokenizer *pretokenizer;
    tx_vocab seen; /* spelling to word */
    word *words;
    size_t words_cap;
    tx_vocab tokens;
    pair *pairs;
    size_t n_pairs, pairs_cap;
    int32_t *slots; /* open addressing into pairs */
    size_t n_slots;
    int32_t *touched; /* pairs with fresh words */
    size_t n_touched, touched_cap;
    waiting *heap;
    size_t n_heap, heap_cap;
    made *merges;
    size_t n_merges, merges_cap;
} trainer;

static int put_int(int_list *l, int32_t value, oc_err *err)
{
    if (l->n && l->p[l->n - 1] == value) /* a word comes in one run */
        return 0;
    if (tx_room((void **)&l->p, &l->cap, l->n + 1, sizeof *l->p, err))
        return -1;
    l->p[l->n++] = value;
    return 0;
}

/* ---- words ------------------------------------------------------------------------------------------- */

static int count_word(trainer *t, const char *s, size_t n, oc_err *err)
{
    int32_t at = tx_vocab_get(&t->seen, s, n);
    if (at < 0) {
        at = t->seen.size;
        if (tx_room((void **)&t->words, &t->words_cap, (size_t)at + 1, sizeof *t->words, err) ||
            tx_vocab_put(&t->seen, s, n, at, err))
            return -1;
        t->words[at] = (word){0};
    }
    t->words[at].count++;
    return 0;
}

static int count_line(trainer *t, const char *s, size_t n, bs_buf text[2], tx_pieces pieces[2], oc_err *err)
{
    bool moved;
    text[0].n = 0;
    if (tx_utf8_clean(&text[0], s, n, false, err) || tx_normalize(t->normalizer, text[0].p, text[0].n, &text[1], &moved, err))
        return -1;
    tx_pieces_reset(&pieces[0]);
    if (tx_pieces_put(&pieces[0], text[1].p, text[1].n, -1, true, err) ||
        tx_pretokenize(t->pretokenizer, &pieces[0], &pieces[1], err))
        return -1;
    for (size_t i = 0; i < pieces[0].n; i++)
        if (count_word(t, pieces[0].text.p + pieces[0].p[i].at, pieces[0].p[i].n, err))
            return -1;
    return 0;
}

static int count_file(trainer *t, const char *path, oc_err *err)
{
    bs_buf text[2] = {{.n = 0}, {.n = 0}};
    tx_pieces pieces[2] = {{.n = 0}, {.n = 0}};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int result = -1;
    FILE *f = fopen(path, "rb");
    if (!f)
        return bs_err(err, "cannot open '%s': %s", path, strerror(errno));
    errno = 0;
    while ((n = getline(&line, &cap, f)) > 0) {
        if (bs_stop_asked()) {
            bs_err(err, "stopped");
            goto done;
        }
        if (count_line(t, line, (size_t)n, text, pieces, err))
            goto done;
    }
    if (ferror(f) || !feof(f)) {
        bs_err(err, "cannot read '%s': %s", path, strerror(errno));
        goto done;
    }
    result = 0;
done:
    for (int i = 0; i < 2; i++) {
        bs_buf_clear(&text[i]);
        tx_pieces_clear(&pieces[i]);
    }
    free(line);
    fclose(f);
    return result;
}

/* ---- tokens ------------------------------------------------------------------------------------------ */

static int add_token(trainer *t, const char *s, size_t n, oc_err *err)
{
    return tx_vocab_get(&t->tokens, s, n) >= 0 ? 0 : tx_vocab_put(&t->tokens, s, n, t->tokens.size, err);
}

/* The 256 characters that stand for bytes, in their order, each with what its place in a word puts behind it.
 */
static int add_bytes(trainer *t, const char *suffix, oc_err *err)
{
    for (uint32_t c = 0; c < 0x144; c++) {
        char name[8];
        if (tx_char_byte(c) < 0)
            continue;
        size_t n = tx_utf8_put(c, name), more = strlen(suffix);
        memcpy(name + n, suffix, more);
        if (add_token(t, name, n + more, err))
            return -1;
    }
    return 0;
}

static const char *suffix_of(const trainer *t) { return t->options->style == TX_STYLE_CLIP ? "</w>" : ""; }

static int add_special(trainer *t, bool first, oc_err *err)
{
    const tx_train_options *o = t->options;
    bool clip = o->style == TX_STYLE_CLIP;
    if (clip == first)
        return 0;
    if (!clip && add_token(t, "<|endoftext|>", 13, err))
        return -1;
    for (size_t i = 0; i < o->n_special; i++)
        if (add_token(t, o->special[i], strlen(o->special[i]), err))
            return -1;
    /* CLIP's end of text has the largest id: old checkpoints find it by that. */
    return clip && (add_token(t, "<|startoftext|>", 15, err) || add_token(t, "<|endoftext|>", 13, err)) ? -1 : 0;
}

static int spell_word(trainer *t, int32_t at, oc_err *err)
{
    size_t n, count = 0;
    const char *s = tx_vocab_name(&t->seen, at, &n);
    word *w = &t->words[at];
    w->ids = malloc(tx_utf8_count(s, n) * sizeof *w->ids);
    if (!w->ids)
        return bs_err(err, "out of memory: the words of the training text");
    for (size_t i = 0; i < n;) {
        char name[8];
        uint32_t c;
        size_t length = tx_utf8_get(s + i, n - i, &c), more = i + length == n ? strlen(suffix_of(t)) : 0;
        memcpy(name, s + i, length);
        memcpy(name + length, suffix_of(t), more);
        i += length;
        w->ids[count++] = tx_vocab_get(&t->tokens, name, length + more);
    }
    w->n = (int32_t)count;
    return 0;
}

/* ---- pairs ------------------------------------------------------------------------------------------- */

static size_t slot_of(const trainer *t, int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(h ^ h >> 32) & (t->n_slots - 1);
    while (t->slots[at] >= 0 && (t->pairs[t->slots[at]].left != left || t->pairs[t->slots[at]].right != right))
        at = (at + 1) & (t->n_slots - 1);
    return at;
}

static int grow_slots(trainer *t, oc_err *err)
{
    if ((t->n_pairs + 1) * 2 <= t->n_slots)
        return 0;
    size_t count = t->n_slots ? t->n_slots * 2 : 1024;
    int32_t *slots = malloc(count * sizeof *slots);
    if (!slots || t->n_pairs >= INT32_MAX) {
        free(slots);
        return bs_err(err, "out of memory: %zu pairs", t->n_pairs);
    }
    memset(slots, 0xff, count * sizeof *slots);
    free(t->slots);
    t->slots = slots;
    t->n_slots = count;
    for (size_t i = 0; i < t->n_pairs; i++)
        t->slots[slot_of(t, t->pairs[i].left, t->pairs[i].right)] = (int32_t)i;
    return 0;
}

static pair *pair_of(trainer *t, int32_t left, int32_t right, oc_err *err)
{
    if (grow_slots(t, err))
        return NULL;
    size_t slot = slot_of(t, left, right);
    if (t->slots[slot] < 0) {
        if (tx_room((void **)&t->pairs, &t->pairs_cap, t->n_pairs + 1, sizeof *t->pairs, err))
            return NULL;
        t->slots[slot] = (int32_t)t->n_pairs;
        t->pairs[t->n_pairs++] = (pair){.left = left, .right = right};
    }
    return &t->pairs[t->slots[slot]];
}

/* A pair comes (change 1) or goes (-1) in a word, as often as the word was seen. */
static int change_pair(trainer *t, int32_t left, int32_t right, int change, int32_t at, oc_err *err)
{
    pair *p = pair_of(t, left, right, err);
    if (!p)
        return -1;
    p->count += change * t->words[at].count;
    if (change < 0)
        return 0;
    if (p->fresh.n == 0) {
        if (tx_room((void **)&t->touched, &t->touched_cap, t->n_touched + 1, sizeof *t->touched, err))
            return -1;
        t->touched[t->n_touched++] = (int32_t)(p - t->pairs);
    }
    return put_int(&p->fresh, at, err);
}

/* ---- heap -------------------------------------------------------------------------------------------- */

static bool before(const waiting *a, const waiting *b)
{
    if (a->count != b->count)
        return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static int push(trainer *t, waiting w, oc_err *err)
{
    if (tx_room((void **)&t->heap, &t->heap_cap, t->n_heap + 1, sizeof *t->heap, err)) {
        free(w.words.p);
        return -1;
    }
    size_t i = t->n_heap++;
    for (; i > 0 && before(&w, &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = w;
    return 0;
}

static waiting pop(trainer *t)
{
    waiting top = t->heap[0], last = t->heap[--t->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < t->n_heap; i = child) {
        if (child + 1 < t->n_heap && before(&t->heap[child + 1], &t->heap[child]))
            child++;
        if (!before(&t->heap[child], &last))
            break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = last;
    return top;
}

/* The fresh words of each touched pair go to the heap. */
static int push_fresh(trainer *t, oc_err *err)
{
    for (size_t i = 0; i < t->n_touched; i++) {
        pair *p = &t->pairs[t->touched[i]];
        waiting w = {.count = p->count, .left = p->left, .right = p->right, .words = p->fresh};
        memset(&p->fresh, 0, sizeof p->fresh);
        if (w.count <= 0)
            free(w.words.p);
        else if (push(t, w, err))
            return -1;
    }
    t->n_touched = 0;
    return 0;
}

/* ---- learning ---------------------------------------------------------------------------------------- */

static int merge_word(trainer *t, int32_t at, int32_t left, int32_t right, int32_t id, oc_err *err)
{
    word *w = &t->words[at];
    int32_t *s = w->ids, out = 0;
    for (int32_t i = 0; i < w->n; i++) {
        if (i + 1 >= w->n || s[i] != left || s[i + 1] != right) {
            s[out++] = s[i];
            continue;
        }
        if (out > 0 && (change_pair(t, s[out - 1], left, -1, at, err) || change_pair(t, s[out - 1], id, 1, at, err)))
            return -1;
        i++;
        if (i + 1 < w->n && (change_pair(t, right, s[i + 1], -1, at, err) || change_pair(t, id, s[i + 1], 1, at, err)))
            return -1;
        s[out++] = id;
    }
    w->n = out;
    return 0;
}

/* The token that a pair makes. Another pair may have made the same one. */
static int32_t joined_token(trainer *t, int32_t left, int32_t right, oc_err *err)
{
    bs_buf name = {0};
    size_t a, b;
    const char *first = tx_vocab_name(&t->tokens, left, &a), *second = tx_vocab_name(&t->tokens, right, &b);
    int32_t id = -1;
    if (!bs_buf_put(&name, first, a, err) && !bs_buf_put(&name, second, b, err) && !add_token(t, name.p, name.n, err))
        id = tx_vocab_get(&t->tokens, name.p, name.n);
    bs_buf_clear(&name);
    return id;
}

static int merge_pair(trainer *t, const waiting *w, oc_err *err)
{
    int32_t id = joined_token(t, w->left, w->right, err);
    if (id < 0 || tx_room((void **)&t->merges, &t->merges_cap, t->n_merges + 1, sizeof *t->merges, err))
        return -1;
    t->merges[t->n_merges++] = (made){w->left, w->right};
    for (size_t i = 0; i < w->words.n; i++)
        if (merge_word(t, w->words.p[i], w->left, w->right, id, err))
            return -1;
    return push_fresh(t, err);
}

static int first_pairs(trainer *t, oc_err *err)
{
    for (int32_t at = 0; at < t->seen.size; at++) {
        if (spell_word(t, at, err))
            return -1;
        const word *w = &t->words[at];
        for (int32_t i = 0; i + 1 < w->n; i++)
            if (change_pair(t, w->ids[i], w->ids[i + 1], 1, at, err))
                return -1;
    }
    return push_fresh(t, err);
}

static int learn(trainer *t, int32_t size, oc_err *err)
{
    if (first_pairs(t, err))
        return -1;
    while (t->tokens.size < size && t->n_heap > 0) {
        waiting w = pop(t);
        int64_t now = t->pairs[t->slots[slot_of(t, w.left, w.right)]].count;
        if (bs_stop_asked()) {
            free(w.words.p);
            return bs_err(err, "stopped");
        }
        if (w.count != now) {
            w.count = now;
            if (push(t, w, err))
                return -1;
            continue;
        }
        bool enough = now < 1 || now < t->options->min_frequency;
        int bad = enough ? 0 : merge_pair(t, &w, err);
        free(w.words.p);
        if (bad)
            return -1;
        if (enough)
            break;
    }
    return 0;
}

/* A pair that was merged twice (its token came from two pairs) keeps its later place. */
static void drop_repeated_merges(trainer *t)
{
    for (size_t i = 0; i < t->n_merges; i++)
        t->pairs[t->slots[slot_of(t, t->merges[i].left, t->merges[i].right)]].count = (int64_t)i;
    size_t out = 0;
    for (size_t i = 0; i < t->n_merges; i++)
        if (t->pairs[t->slots[slot_of(t, t->merges[i].left, t->merges[i].right)]].count == (int64_t)i)
            t->merges[out++] = t->merges[i];
    t->n_merges = out;
}

/* ---- writing ----------------------------------------------------------------------------------------- */

static json_t *vocab_json(const trainer *t)
{
    json_t *o = json_object();
    for (int32_t id = 0; id < t->tokens.size; id++) {
        size_t n;
        if (json_object_set_new(o, tx_vocab_name(&t->tokens, id, &n), json_integer(id))) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

static int put_merge(const trainer *t, size_t i, bs_buf *text, oc_err *err)
{
    size_t a, b;
    const char *left = tx_vocab_name(&t->tokens, t->merges[i].left, &a),
               *right = tx_vocab_name(&t->tokens, t->merges[i].right, &b);
    return bs_buf_put(text, left, a, err) || bs_buf_put(text, " ", 1, err) || bs_buf_put(text, right, b, err) ? -1 : 0;
}

/* "a b" rather than ["a", "b"]: names have no spaces here, and every version reads it. */
static json_t *merges_json(const trainer *t, oc_err *err)
{
    json_t *list = json_array();
    bs_buf text = {0};
    for (size_t i = 0; i < t->n_merges && list; i++) {
        text.n = 0;
        if (put_merge(t, i, &text, err) || json_array_append_new(list, json_stringn(text.p, text.n))) {
            json_decref(list);
            list = NULL;
        }
    }
    bs_buf_clear(&text);
    return list;
}

static int write_text(const char *dir, const char *name, const char *s, size_t n, oc_err *err)
{
    char *path = bs_join(dir, name);
    int result = path ? bs_write_file(path, s, n, err) : bs_err(err, "out of memory: the name of '%s'", name);
    free(path);
    return result;
}

/* Takes o. */
static int write_json(const char *dir, const char *name, json_t *o, oc_err *err)
{
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    int result = text ? write_text(dir, name, text, strlen(text), err) : bs_err(err, "out of memory: '%s'", name);
    free(text);
    json_decref(o);
    return result;
}

static int write_merges(const trainer *t, const char *dir, oc_err *err)
{
    bs_buf text = {0};
    int result = bs_buf_printf(&text, err, "#version: 0.2\n");
    for (size_t i = 0; i < t->n_merges && !result; i++)
        result = put_merge(t, i, &text, err) || bs_buf_put(&text, "\n", 1, err) ? -1 : 0;
    if (!result)
        result = write_text(dir, "merges.txt", text.p, text.n, err);
    bs_buf_clear(&text);
    return result;
}

static const char *bos_name(const trainer *t) { return t->options->style == TX_STYLE_CLIP ? "<|startoftext|>" : "<|endoftext|>"; }

static json_t *tokenizer_json(const trainer *t, oc_err *err)
{
    bool clip = t->options->style == TX_STYLE_CLIP;
    const char *eos = "<|endoftext|>", *bos = bos_name(t);
    json_t *o = tx_classic_frame(t->options->style, tx_vocab_get(&t->tokens, bos, strlen(bos)), tx_vocab_get(&t->tokens, eos, 13),
                                 bos, eos, err);
    json_t *added = json_object_get(o, "added_tokens");
    for (size_t i = 0; i < t->options->n_special; i++) {
        const char *name = t->options->special[i];
        json_array_append_new(added, tx_added_token_json(name, tx_vocab_get(&t->tokens, name, strlen(name))));
    }
    json_t *model = tx_bpe_json(clip ? eos : NULL, suffix_of(t), vocab_json(t), merges_json(t, err));
    if (!o || !model || json_object_set_new(o, "model", model)) {
        bs_err(err, "out of memory: tokenizer.json");
        json_decref(o);
        return NULL;
    }
    return o;
}

static json_t *special_json(const trainer *t, bool config)
{
    bool clip = t->options->style == TX_STYLE_CLIP;
    int32_t most = t->options->max_length ? t->options->max_length : clip ? 77 : 1024;
    json_t *o =
        json_pack("{s:s, s:s, s:s}", "bos_token", bos_name(t), "eos_token", "<|endoftext|>", "unk_token", "<|endoftext|>");
    if (clip)
        json_object_set_new(o, "pad_token", json_string("<|endoftext|>"));
    if (t->options->n_special) {
        json_t *list = json_array();
        for (size_t i = 0; i < t->options->n_special; i++)
            json_array_append_new(list, json_string(t->options->special[i]));
        json_object_set_new(o, "additional_special_tokens", list);
    }
    if (!config)
        return o;
    json_object_set_new(o, "model_max_length", json_integer(most));
    json_object_set_new(o, "tokenizer_class", json_string(clip ? "CLIPTokenizer" : "GPT2Tokenizer"));
    if (clip)
        json_object_set_new(o, "do_lower_case", json_true());
    else
        json_object_set_new(o, "add_prefix_space", json_false());
    json_object_set_new(o, "errors", json_string("replace"));
    return o;
}

/* tokenizer.json comes last: until it is there, the folder is that of an older layout or none. */
static int write_all(const trainer *t, const char *dir, oc_err *err)
{
    return bs_mkdirs(dir, err) || write_json(dir, "tokenizer_config.json", special_json(t, true), err) ||
                   write_json(dir, "special_tokens_map.json", special_json(t, false), err) ||
                   write_json(dir, "vocab.json", vocab_json(t), err) || write_merges(t, dir, err) ||
                   write_json(dir, "tokenizer.json", tokenizer_json(t, err), err)
               ? -1
               : 0;
}

/* ---- all of it --------------------------------------------------------------------------------------- */

static int trainer_open(trainer *t, const tx_train_options *options, oc_err *err)
{
    t->options = options;
    json_t *frame = tx_classic_frame(options->style, 0, 1, "a", "b", err);
    int result = !frame || tx_normalizer_open(&t->normalizer, json_object_get(frame, "normalizer"), err) ||
                         tx_pretokenizer_open(&t->pretokenizer, json_object_get(frame, "pre_tokenizer"), err)
                     ? -1
                     : 0;
    json_decref(frame);
    return result;
}

static void trainer_close(trainer *t)
{
    for (int32_t i = 0; i < t->seen.size; i++)
        free(t->words[i].ids);
    for (size_t i = 0; i < t->n_pairs; i++)
        free(t->pairs[i].fresh.p);
    for (size_t i = 0; i < t->n_heap; i++)
        free(t->heap[i].words.p);
    free(t->words);
    free(t->pairs);
    free(t->slots);
    free(t->touched);
    free(t->heap);
    free(t->merges);
    tx_vocab_clear(&t->seen);
    tx_vocab_clear(&t->tokens);
    tx_normalizer_close(t->normalizer);
    tx_pretokenizer_close(t->pretokenizer);
}

static int check_options(const tx_train_options *o, oc_err *err)
{
    bool clip = o->style == TX_STYLE_CLIP;
    int32_t least = (clip ? 512 + 2 : 256 + 1) + (int32_t)o->n_special;
    if (o->n_special > 1 << 20 || o->size < least || o->size > TX_MAX_ID)
        return bs_err(err, "cannot train a tokenizer of %d ids: expected %d, which bytes and special tokens alone take, to %d",
                      o->size, least, TX_MAX_ID);
    for (size_t i = 0; i < o->n_special; i++)
        if (!o->special[i][0] || tx_utf8_valid(o->special[i], strlen(o->special[i])) != strlen(o->special[i]))
            return bs_err(err, "cannot train a tokenizer: special token %zu is empty or not valid UTF-8", i);
    return 0;
}

int32_t tx_train_bpe(const char *const *files, size_t n_files, const tx_train_options *options, const char *out_dir, oc_err *err)
{
    trainer t = {0};
    bool clip = options->style == TX_STYLE_CLIP;
    int32_t result = -1, behind = clip ? 2 + (int32_t)options->n_special : 0;
    if (check_options(options, err) || trainer_open(&t, options, err))
        goto done;
    for (size_t i = 0; i < n_files; i++)
        if (count_file(&t, files[i], err))
            goto done;
    if (add_special(&t, true, err) || add_bytes(&t, "", err) || (clip && add_bytes(&t, "</w>", err)))
        goto done;
    if (learn(&t, options->size - behind, err))
        goto done;
    drop_repeated_merges(&t);
    if (add_special(&t, false, err) || write_all(&t, out_dir, err))
        goto done;
    result = t.tokens.size;
done:
    trainer_close(&t);
    return result;
}
