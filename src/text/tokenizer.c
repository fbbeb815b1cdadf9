/* tokenizer.c - opening a model folder's tokenizer; encoding and decoding from end to end. */
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

struct tx_tokenizer {
    tx_model model;
    tx_added *added;
    tx_normalizer *normalizer;
    tx_pretokenizer *pretokenizer;
    tx_postprocess post;
    tx_decoder *decoder;
    tx_roles roles;
};

/* ---- added tokens and roles -------------------------------------------------------------------------- */

static int read_added_token(tx_tokenizer *t, const json_t *o, oc_err *err)
{
    tx_added_token token = {.id = -1};
    const char *s, *where = "added_tokens";
    size_t n;
    json_int_t id;
    if (tx_json_need_text(o, where, "content", &s, &n, err) || tx_json_int(o, where, "id", -1, &id, err) ||
        tx_json_bool(o, where, "single_word", false, &token.single_word, err) ||
        tx_json_bool(o, where, "lstrip", false, &token.lstrip, err) ||
        tx_json_bool(o, where, "rstrip", false, &token.rstrip, err) ||
        tx_json_bool(o, where, "special", false, &token.special, err) ||
        tx_json_bool(o, where, "normalized", !token.special, &token.normalized, err))
        return -1;
    if (id < -1 || id >= TX_MAX_ID)
        return bs_err(err, "added_tokens: '%s' has the id %lld, which must be in 0..%d", s, (long long)id, TX_MAX_ID - 1);
    token.id = (int32_t)id;
    if (tx_added_put(t->added, &t->model, s, n, token, err))
        return -1;
    int32_t got = tx_added_get(t->added, s, n);
    if (id >= 0 && n && got != id)
        return bs_err(err, "added_tokens: '%s' has the id %lld, but the model's vocabulary gives it %d", s, (long long)id, got);
    return 0;
}

/* A special token is given as "name" or {"content": "name", ...}. */
static const char *role_name(const json_t *config, const json_t *map, const char *key, size_t *n)
{
    const json_t *o = json_object_get(config, key);
    if (!o || json_is_null(o))
        o = json_object_get(map, key);
    if (json_is_object(o))
        o = json_object_get(o, "content");
    *n = json_is_string(o) ? json_string_length(o) : 0;
    return json_string_value(o);
}

static int32_t id_of(const tx_tokenizer *t, const char *s, size_t n)
{
    int32_t id = tx_added_get(t->added, s, n);
    return id >= 0 ? id : tx_vocab_get(&t->model.vocab, s, n);
}

/* A token with a role is special even if tokenizer.json does not list it: transformers adds it when it loads.
 */
static int put_special(tx_tokenizer *t, const char *s, size_t n, oc_err *err)
{
    if (!n || tx_added_get(t->added, s, n) >= 0 || tx_vocab_get(&t->model.vocab, s, n) < 0)
        return 0;
    return tx_added_put(t->added, &t->model, s, n, (tx_added_token){.id = -1, .special = true}, err);
}

static int read_roles(tx_tokenizer *t, const json_t *config, const json_t *map, oc_err *err)
{
    static const char *const keys[] = {"bos_token", "eos_token", "pad_token", "unk_token",
                                       "cls_token", "sep_token", "mask_token"};
    int32_t *ids[] = {&t->roles.bos, &t->roles.eos, &t->roles.pad, &t->roles.unk, &t->roles.cls, &t->roles.sep, &t->roles.mask};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        size_t n;
        const char *s = role_name(config, map, keys[i], &n);
        if (s && put_special(t, s, n, err))
            return -1;
        *ids[i] = s ? id_of(t, s, n) : -1;
    }
    if (t->roles.unk < 0)
        t->roles.unk = t->model.unk;
    double most = json_number_value(json_object_get(config, "model_max_length"));
    t->roles.max_length = most >= 1 && most < (1 << 24) ? (int32_t)most : 0;
    return 0;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static int read_all(tx_tokenizer *t, const json_t *o, const json_t *config, const json_t *map, oc_err *err)
{
    const json_t *list = json_object_get(o, "added_tokens");
    if (tx_normalizer_open(&t->normalizer, json_object_get(o, "normalizer"), err) ||
        tx_pretokenizer_open(&t->pretokenizer, json_object_get(o, "pre_tokenizer"), err) ||
        tx_postprocess_open(&t->post, json_object_get(o, "post_processor"), err) ||
        tx_model_open(&t->model, json_object_get(o, "model"), err))
        return -1;
    size_t suffix_n;
    const char *suffix = tx_bpe_suffix(&t->model, &suffix_n);
    t->decoder = tx_decoder_open(json_object_get(o, "decoder"), suffix, suffix_n, err);
    if (!t->decoder)
        return -1;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (read_added_token(t, json_array_get(list, i), err))
            return -1;
    return read_roles(t, config, map, err) || tx_added_ready(t->added, t->normalizer, err) ? -1 : 0;
}

static int check_ids(const tx_tokenizer *t, const tx_ids *ids, oc_err *err)
{
    for (size_t i = 0; i < ids->n; i++)
        if (ids->p[i] >= 0 && !tx_token_name(t, ids->p[i]))
            return bs_err(err, "post_processor: the id %d is in no vocabulary", ids->p[i]);
    return 0;
}

/* An optional JSON file of the folder. */
static int read_beside(const char *dir, const char *name, bool as_real, json_t **out, oc_err *err)
{
    char *path = bs_join(dir, name);
    *out = NULL;
    if (!path)
        return bs_err(err, "out of memory: the name of '%s'", name);
    if (bs_is_file(path))
        *out = tx_json_read(path, as_real, err);
    int result = bs_is_file(path) && !*out ? -1 : 0;
    free(path);
    return result;
}

tx_tokenizer *tx_open_json(const json_t *o, const json_t *config, const json_t *map, oc_err *err)
{
    tx_tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        bs_err(err, "out of memory: a tokenizer");
        return NULL;
    }
    t->added = tx_added_open(err);
    if (!t->added || read_all(t, o, config, map, err) || check_ids(t, &t->post.before, err) ||
        check_ids(t, &t->post.after, err) || check_ids(t, &t->post.pair, err)) {
        tx_close(t);
        return NULL;
    }
    return t;
}

static const char *const models[] = {"tokenizer.model", "spiece.model"};

/* A sentencepiece model of the folder, if there is one. */
static int read_sentencepiece(const char *dir, const char *name, const json_t *config, json_t **out, oc_err *err)
{
    char *path = bs_join(dir, name);
    bs_map map = {0};
    int result = path ? 0 : bs_err(err, "out of memory: the name of '%s'", name);
    if (path && bs_is_file(path)) {
        result = bs_map_open(&map, path, err);
        if (!result && !(*out = tx_sentencepiece_json(map.p, map.n, config, err)))
            result = bs_err_prefix(err, "cannot read '%s': ", path);
        bs_map_close(&map);
    }
    free(path);
    return result;
}

tx_tokenizer *tx_open(const char *model_dir, oc_err *err)
{
    json_t *o = NULL, *config = NULL, *map = NULL;
    tx_tokenizer *t = NULL;
    if (read_beside(model_dir, "tokenizer.json", false, &o, err) ||
        read_beside(model_dir, "tokenizer_config.json", true, &config, err) ||
        read_beside(model_dir, "special_tokens_map.json", true, &map, err))
        goto done;
    const char *file = o ? "tokenizer.json" : "vocab.*";
    for (size_t i = 0; !o && i < sizeof models / sizeof models[0]; i++) {
        if (read_sentencepiece(model_dir, models[i], config, &o, err))
            goto done;
        file = o ? models[i] : file;
    }
    if (!map)
        map = json_incref(json_object_get(o, "special_tokens_map"));
    if (!o && !(o = tx_classic_json(model_dir, config, err)))
        goto done;
    t = tx_open_json(o, config, map, err);
    if (!t)
        bs_err_prefix(err, "cannot read '%s/%s': ", model_dir, file);
done:
    json_decref(o);
    json_decref(config);
    json_decref(map);
    return t;
}

void tx_close(tx_tokenizer *t)
{
    if (!t)
        return;
    tx_decoder_close(t->decoder);
    tx_postprocess_clear(&t->post);
    tx_pretokenizer_close(t->pretokenizer);
    tx_normalizer_close(t->normalizer);
    tx_added_close(t->added);
    tx_model_close(&t->model);
    free(t);
}

/* ---- encoding ---------------------------------------------------------------------------------------- */

static int put_all(tx_ids *out, const tx_ids *ids, oc_err *err)
{
    for (size_t i = 0; i < ids->n; i++)
        if (tx_ids_put(out, ids->p[i], err))
            return -1;
    return 0;
}

/* The ids of a text alone. */
static int put_text(const tx_tokenizer *t, const char *utf8, size_t n, tx_ids *out, oc_err *err)
{
    bs_buf clean = {0};
    tx_pieces pieces = {0}, other = {0};
    int result = -1;
    if (tx_utf8_valid(utf8, n) != n) {
        if (tx_utf8_clean(&clean, utf8, n, false, err))
            goto done;
        utf8 = clean.p;
        n = clean.n;
    }
    if (tx_added_cut(t->added, t->normalizer, utf8, n, &pieces, err) || tx_pretokenize(t->pretokenizer, &pieces, &other, err) ||
        tx_model_encode(&t->model, &pieces, out, err))
        goto done;
    result = 0;
done:
    tx_pieces_clear(&pieces);
    tx_pieces_clear(&other);
    bs_buf_clear(&clean);
    return result;
}

int tx_encode(const tx_tokenizer *t, const char *utf8, size_t n, bool add_special, tx_ids *out, oc_err *err)
{
    size_t keep = out->n;
    if ((add_special && put_all(out, &t->post.before, err)) || put_text(t, utf8, n, out, err) ||
        (add_special && put_all(out, &t->post.after, err))) {
        out->n = keep;
        return -1;
    }
    return 0;
}

int tx_encode_pair(const tx_tokenizer *t, const char *a, size_t a_n, const char *b, size_t b_n, tx_ids *out, tx_ids *types,
                   oc_err *err)
{
    const tx_postprocess *post = &t->post;
    size_t keep = out->n, keep_types = types->n;
    int result = post->pairings > 1 ? bs_err(err, "post_processor: two templates for a pair of texts are not known") : 0;
    for (size_t i = 0; i < post->pair.n && !result; i++) {
        int32_t id = post->pair.p[i];
        size_t first = out->n;
        if (id >= 0)
            result = tx_ids_put(out, id, err);
        else
            result = id == TX_FIRST_TEXT ? put_text(t, a, a_n, out, err) : put_text(t, b, b_n, out, err);
        for (size_t k = first; k < out->n && !result; k++)
            result = tx_ids_put(types, post->pair_types.p[i], err);
    }
    if (result) {
        out->n = keep;
        types->n = keep_types;
    }
    return result;
}

/* ---- decoding ---------------------------------------------------------------------------------------- */

/* What an id stands for in a text; NULL when it is left out. */
static const char *spelling(const tx_tokenizer *t, int32_t id, bool skip_special, size_t *n)
{
    const char *name;
    const tx_added_token *added = tx_added_by_id(t->added, id, &name, n);
    if (!added)
        return tx_vocab_name(&t->model.vocab, id, n);
    return added->special && skip_special ? NULL : name;
}

int tx_decode(const tx_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, bs_buf *out, oc_err *err)
{
    tx_decoding *d = tx_decoding_open(t->decoder, err);
    size_t keep = out->n;
    int result = d ? 0 : -1;
    for (size_t i = 0; i < n && !result; i++) {
        size_t name_n;
        const char *name = spelling(t, ids[i], skip_special, &name_n);
        result = name ? tx_decoding_put(d, name, name_n, out, err) : 0;
    }
    if (!result)
        result = tx_decoding_end(d, out, err);
    if (result)
        out->n = keep;
    tx_decoding_close(d);
    return result;
}

struct tx_stream {
    const tx_tokenizer *t;
    bool skip_special;
    tx_decoding *d;
    bs_buf sure;
};

tx_stream *tx_stream_open(const tx_tokenizer *t, bool skip_special, oc_err *err)
{
    tx_stream *s = calloc(1, sizeof *s);
    tx_decoding *d = s ? tx_decoding_open(t->decoder, err) : NULL;
    if (!d) {
        bs_err(err, "out of memory: a stream of tokens");
        free(s);
        return NULL;
    }
    *s = (tx_stream){.t = t, .skip_special = skip_special, .d = d};
    return s;
}

void tx_stream_close(tx_stream *s)
{
    if (!s)
        return;
    tx_decoding_close(s->d);
    bs_buf_clear(&s->sure);
    free(s);
}

static int give_sure(tx_stream *s, int result, const char **bytes, size_t *n)
{
    *n = result ? 0 : s->sure.n;
    *bytes = *n ? s->sure.p : "";
    return result;
}

int tx_stream_push(tx_stream *s, int32_t id, const char **bytes, size_t *n, oc_err *err)
{
    size_t name_n;
    const char *name = spelling(s->t, id, s->skip_special, &name_n);
    s->sure.n = 0;
    return give_sure(s, name ? tx_decoding_put(s->d, name, name_n, &s->sure, err) : 0, bytes, n);
}

int tx_stream_end(tx_stream *s, const char **bytes, size_t *n, oc_err *err)
{
    s->sure.n = 0;
    return give_sure(s, tx_decoding_end(s->d, &s->sure, err), bytes, n);
}

/* ---- looking up -------------------------------------------------------------------------------------- */

int32_t tx_token_id(const tx_tokenizer *t, const char *name) { return id_of(t, name, strlen(name)); }

const char *tx_token_name(const tx_tokenizer *t, int32_t id)
{
    size_t n;
    const char *added = tx_added_content(t->added, id);
    return added ? added : tx_vocab_name(&t->model.vocab, id, &n);
}

bool tx_is_special(const tx_tokenizer *t, int32_t id)
{
    const char *name;
    size_t n;
    const tx_added_token *added = tx_added_by_id(t->added, id, &name, &n);
    return added && added->special;
}

int32_t tx_vocab_size(const tx_tokenizer *t)
{
    int32_t added = tx_added_size(t->added);
    return added > t->model.vocab.size ? added : t->model.vocab.size;
}

const tx_roles *tx_roles_of(const tx_tokenizer *t) { return &t->roles; }
