/* classic.c - the layouts before tokenizer.json (vocab.json + merges.txt of CLIP and GPT-2, vocab.txt of
 * BERT), told as the tokenizer.json that they stand for. */
#include <stdlib.h>
#include <string.h>

#include "text_parts.h"

json_t *tx_added_token_json(const char *name, int32_t id)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", name, "single_word", 0, "lstrip", 0, "rstrip", 0,
                     "normalized", 0, "special", 1);
}

static json_t *byte_level(int prefix_space)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets", 1,
                     "use_regex", 1);
}

/* CLIP (Radford et al. 2021, simple_tokenizer.py) as transformers converts it. */
static json_t *clip_frame(int32_t bos, int32_t eos, const char *bos_name, const char *eos_name)
{
    static const char pattern[] = "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|["
                                  "\\p{N}]|[^\\s\\p{L}\\p{N}]+";
    json_t *normalizer = json_pack("{s:s, s:[{s:s}, {s:s, s:{s:s}, s:s}, {s:s}]}", "type", "Sequence", "normalizers", "type",
                                   "NFC", "type", "Replace", "pattern", "Regex", "\\s+", "content", " ", "type", "Lowercase");
    json_t *split =
        json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior", "Removed", "invert", 1);
    json_t *post = json_pack("{s:s, s:[s, i], s:[s, i], s:b, s:b}", "type", "RobertaProcessing", "sep", eos_name, eos, "cls",
                             bos_name, bos, "trim_offsets", 0, "add_prefix_space", 0);
    return json_pack("{s:s, s:n, s:n, s:[o, o], s:o, s:{s:s, s:[o, o]}, s:o, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", tx_added_token_json(bos_name, bos), tx_added_token_json(eos_name, eos), "normalizer",
                     normalizer, "pre_tokenizer", "type", "Sequence", "pretokenizers", split, byte_level(0), "post_processor",
                     post, "decoder", byte_level(1));
}

static json_t *gpt2_frame(int32_t eos, const char *eos_name)
{
    return json_pack("{s:s, s:n, s:n, s:[o], s:n, s:o, s:{s:s, s:b, s:b, s:b}, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", tx_added_token_json(eos_name, eos), "normalizer", "pre_tokenizer", byte_level(0),
                     "post_processor", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 0, "use_regex", 1, "decoder",
                     byte_level(1));
}

json_t *tx_classic_frame(tx_style style, int32_t bos, int32_t eos, const char *bos_name, const char *eos_name, oc_err *err)
{
    json_t *o = style == TX_STYLE_CLIP ? clip_frame(bos, eos, bos_name, eos_name) : gpt2_frame(eos, eos_name);
    if (!o)
        bs_err(err, "out of memory: a tokenizer's description");
    return o;
}

json_t *tx_bpe_json(const char *unk, const char *suffix, json_t *vocab, json_t *merges)
{
    return json_pack("{s:s, s:n, s:s?, s:s, s:s, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token", unk,
                     "continuing_subword_prefix", "", "end_of_word_suffix", suffix, "fuse_unk", 0, "byte_fallback", 0,
                     "ignore_merges", 0, "vocab", vocab, "merges", merges);
}

/* ---- reading the two files --------------------------------------------------------------------------- */

/* merges.txt: "a b" a line, in order; the first line may tell a version. */
static json_t *read_merges(const char *path, oc_err *err)
{
    bs_buf text = {0};
    json_t *list = NULL;
    if (bs_read_file(&text, path, 1 << 28, err))
        goto done;
    list = json_array();
    for (char *line = text.p, *end; list && line && *line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        size_t n = end ? (size_t)(end - line) : strlen(line);
        n -= n > 0 && line[n - 1] == '\r';
        if (n == 0 || strncmp(line, "#version", 8) == 0)
            continue;
        json_t *merge = json_stringn(line, n);
        if (!merge || json_array_append_new(list, merge)) {
            bs_err(err, "cannot read '%s': line '%.*s' is not valid UTF-8", path, (int)(n < 40 ? n : 40), line);
            json_decref(list);
            list = NULL;
        }
    }
done:
    bs_buf_clear(&text);
    return list;
}

static const char *config_token(const json_t *config, const char *key, const char *fallback)
{
    const json_t *o = json_object_get(config, key);
    if (json_is_object(o))
        o = json_object_get(o, "content");
    return json_is_string(o) ? json_string_value(o) : fallback;
}

static bool has_suffix(const json_t *vocab)
{
    const char *name;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, name, id)
    {
        size_t n = strlen(name);
        if (n >= 4 && memcmp(name + n - 4, "</w>", 4) == 0)
            return true;
    }
    return false;
}

/* The class of tokenizer_config.json decides; without it, whether tokens end in `</w>`. */
static int style_of(const json_t *config, const json_t *vocab, tx_style *style, oc_err *err)
{
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    *style = has_suffix(vocab) ? TX_STYLE_CLIP : TX_STYLE_GPT2;
    if (name && strncmp(name, "CLIPTokenizer", 13) == 0)
        *style = TX_STYLE_CLIP;
    else if (name && strncmp(name, "GPT2Tokenizer", 13) == 0)
        *style = TX_STYLE_GPT2;
    else if (name)
        return bs_err(err, "the tokenizer_class '%s' needs a tokenizer.json", name);
    return 0;
}

/* GPT-2's class as OPT uses it: a token in front of every text, a space in front of its first word. */
static int apply_options(json_t *o, const json_t *config, const char *bos, int32_t bos_id, oc_err *err)
{
    int bad = 0;
    if (json_is_true(json_object_get(config, "add_prefix_space")))
        bad = json_object_set_new(o, "pre_tokenizer", byte_level(1));
    if (json_is_true(json_object_get(config, "add_bos_token"))) {
        json_t *post = json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:{s:{s:s, s:[i], s:[s]}}}", "type",
                                 "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id", 0, "Sequence", "id", "A",
                                 "type_id", 0, "special_tokens", bos, "id", bos, "ids", bos_id, "tokens", bos);
        bad = bad || json_object_set_new(o, "post_processor", post);
    }
    return bad ? bs_err(err, "out of memory: a tokenizer's description") : 0;
}

static json_t *assemble(json_t *vocab, json_t *merges, const json_t *config, oc_err *err)
{
    tx_style style;
    if (style_of(config, vocab, &style, err))
        return NULL;
    bool clip = style == TX_STYLE_CLIP;
    const char *eos = config_token(config, "eos_token", "<|endoftext|>");
    const char *bos = config_token(config, "bos_token", clip ? "<|startoftext|>" : eos);
    const json_t *bos_id = json_object_get(vocab, bos), *eos_id = json_object_get(vocab, eos);
    if (!json_is_integer(bos_id) || !json_is_integer(eos_id)) {
        bs_err(err, "the vocabulary lacks the special token '%s'", json_is_integer(bos_id) ? eos : bos);
        return NULL;
    }
    json_t *o = tx_classic_frame(style, (int32_t)json_integer_value(bos_id), (int32_t)json_integer_value(eos_id), bos, eos, err);
    json_t *model = tx_bpe_json(clip ? eos : NULL, clip ? "</w>" : "", json_incref(vocab), json_incref(merges));
    int32_t first = (int32_t)json_integer_value(bos_id);
    if (!o || !model || json_object_set_new(o, "model", model) || (!clip && apply_options(o, config, bos, first, err))) {
        bs_err(err, "out of memory: a tokenizer's description");
        json_decref(o);
        return NULL;
    }
    return o;
}

static json_t *read_byte_bpe(const char *vocab_path, const char *merges_path, const json_t *config, oc_err *err)
{
    json_t *vocab = tx_json_read(vocab_path, false, err), *merges = vocab ? read_merges(merges_path, err) : NULL;
    json_t *o = merges ? assemble(vocab, merges, config, err) : NULL;
    json_decref(vocab);
    json_decref(merges);
    return o;
}

/* ---- BERT -------------------------------------------------------------------------------------------- */

/* vocab.txt: a token a line, its id the line's number. */
static json_t *read_lines(const char *path, oc_err *err)
{
    bs_buf text = {0};
    json_t *vocab = json_object();
    if (bs_read_file(&text, path, 1 << 28, err))
        goto fail;
    json_int_t id = 0;
    for (char *line = text.p, *end; line && *line; line = end ? end + 1 : NULL, id++) {
        end = strchr(line, '\n');
        char *stop = end ? end : text.p + text.n;
        stop -= stop > line && stop[-1] == '\r';
        *stop = 0;
        if (json_object_set_new(vocab, line, json_integer(id))) {
            bs_err(err, "cannot read '%s': line %lld is not valid UTF-8", path, (long long)id + 1);
            goto fail;
        }
    }
    bs_buf_clear(&text);
    return vocab;
fail:
    bs_buf_clear(&text);
    json_decref(vocab);
    return NULL;
}

static bool config_bool(const json_t *config, const char *key, bool fallback)
{
    const json_t *o = json_object_get(config, key);
    return json_is_boolean(o) ? json_is_true(o) : fallback;
}

static json_t *bert_normalizer(const json_t *config)
{
    const json_t *accents = json_object_get(config, "strip_accents");
    json_t *o =
        json_pack("{s:s, s:b, s:b, s:b}", "type", "BertNormalizer", "clean_text", 1, "handle_chinese_chars",
                  config_bool(config, "tokenize_chinese_chars", true), "lowercase", config_bool(config, "do_lower_case", true));
    if (o && json_is_boolean(accents))
        json_object_set_new(o, "strip_accents", json_boolean(json_is_true(accents)));
    return o;
}

static json_t *read_bert(const char *path, const json_t *config, oc_err *err)
{
    static const char *const keys[] = {"pad_token", "unk_token", "cls_token", "sep_token", "mask_token"};
    static const char *const usual[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    const char *names[5];
    int32_t ids[5];
    json_t *vocab = read_lines(path, err), *added = json_array(), *o = NULL;
    for (int i = 0; vocab && i < 5; i++) {
        names[i] = config_token(config, keys[i], usual[i]);
        const json_t *id = json_object_get(vocab, names[i]);
        ids[i] = (int32_t)json_integer_value(id);
        if (!id) {
            bs_err(err, "cannot read '%s': the vocabulary lacks the special token '%s'", path, names[i]);
            goto done;
        }
        json_array_append_new(added, tx_added_token_json(names[i], ids[i]));
    }
    if (!vocab)
        goto done;
    o = json_pack("{s:O, s:o, s:{s:s}, s:{s:s, s:[s, i], s:[s, i]}, s:{s:s, s:s, s:b}, s:{s:s, s:s, s:s, s:i, s:O}}",
                  "added_tokens", added, "normalizer", bert_normalizer(config), "pre_tokenizer", "type", "BertPreTokenizer",
                  "post_processor", "type", "BertProcessing", "sep", names[3], ids[3], "cls", names[2], ids[2], "decoder", "type",
                  "WordPiece", "prefix", "##", "cleanup", 1, "model", "type", "WordPiece", "unk_token", names[1],
                  "continuing_subword_prefix", "##", "max_input_chars_per_word", 100, "vocab", vocab);
    if (!o)
        bs_err(err, "out of memory: a tokenizer's description");
done:
    json_decref(vocab);
    json_decref(added);
    return o;
}

json_t *tx_classic_json(const char *dir, const json_t *config, oc_err *err)
{
    json_t *o = NULL;
    char *vocab = bs_join(dir, "vocab.json"), *merges = bs_join(dir, "merges.txt"), *lines = bs_join(dir, "vocab.txt");
    if (!vocab || !merges || !lines)
        bs_err(err, "out of memory: the names of '%s'", dir);
    else if (bs_is_file(vocab) && bs_is_file(merges))
        o = read_byte_bpe(vocab, merges, config, err);
    else if (bs_is_file(lines))
        o = read_bert(lines, config, err);
    else
        bs_err(err,
               "cannot open the tokenizer of '%s': it has no tokenizer.json, no tokenizer.model, no vocab.json with merges.txt, "
               "no vocab.txt",
               dir);
    free(vocab);
    free(merges);
    free(lines);
    return o;
}
