/* adapter_config.c - adapter_config.json: what an adapter is put on, with which rank and scale. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "adapter_parts.h"

enum { RANK_MAX = 65536, LAYER_MAX = 1 << 20 };

/* ---- lists --------------------------------------------------------------------------------------------- */

int ck_names_add(ck_names *names, const char *name, oc_err *err)
{
    char **grown = realloc(names->p, ((size_t)names->n + 1) * sizeof *grown), *copy = bs_strdup(name);
    if (grown)
        names->p = grown;
    if (!grown || !copy) {
        free(copy);
        return bs_err(err, "out of memory: a list of names");
    }
    names->p[names->n++] = copy;
    return 0;
}

void ck_names_clear(ck_names *names)
{
    for (int i = 0; i < names->n; i++)
        free(names->p[i]);
    free(names->p);
    memset(names, 0, sizeof *names);
}

int ck_patterns_add(ck_patterns *patterns, const char *key, double value, oc_err *err)
{
    ck_pattern *grown = realloc(patterns->p, ((size_t)patterns->n + 1) * sizeof *grown);
    char *copy = bs_strdup(key);
    if (grown)
        patterns->p = grown;
    if (!grown || !copy) {
        free(copy);
        return bs_err(err, "out of memory: a list of patterns");
    }
    patterns->p[patterns->n++] = (ck_pattern){.key = copy, .value = value};
    return 0;
}

static void clear_patterns(ck_patterns *patterns)
{
    for (int i = 0; i < patterns->n; i++)
        free(patterns->p[i].key);
    free(patterns->p);
    memset(patterns, 0, sizeof *patterns);
}

int ck_adapter_config_init(ck_adapter_config *c, oc_err *err)
{
    *c = (ck_adapter_config){.rank = 8, .alpha = 8};
    c->bias = bs_strdup("none");
    return c->bias ? 0 : bs_err(err, "out of memory: an adapter's configuration");
}

void ck_adapter_config_clear(ck_adapter_config *c)
{
    free(c->bias);
    free(c->target_regex);
    free(c->exclude_regex);
    free(c->layers_to_transform);
    free(c->base_model);
    free(c->base_class);
    free(c->base_library);
    free(c->task_type);
    ck_names_clear(&c->target_modules);
    ck_names_clear(&c->exclude_modules);
    ck_names_clear(&c->layers_pattern);
    ck_names_clear(&c->modules_to_save);
    clear_patterns(&c->rank_pattern);
    clear_patterns(&c->alpha_pattern);
    memset(c, 0, sizeof *c);
}

/* ---- regular expressions ------------------------------------------------------------------------------- */

/* Python's re.match (or fullmatch) of front + pattern + back; the last group's digits go to *number when
 * asked. A pattern that cannot be compiled or runs away matches nothing; check tells the former
 * beforehand. */
static bool matches(const char *front, const char *pattern, const char *back, bool full, const char *text, long *number)
{
    bs_buf whole = {0};
    pcre2_code *code = NULL;
    pcre2_match_data *data = NULL;
    pcre2_match_context *limits = NULL;
    bool found = false;
    int why;
    PCRE2_SIZE at, n = strlen(text);
    if (bs_buf_printf(&whole, NULL, "%s%s%s", front, pattern, back))
        goto done;
    code = pcre2_compile((PCRE2_SPTR)whole.p, whole.n,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C |
                             (full ? PCRE2_ENDANCHORED : 0),
                         &why, &at, NULL);
    if (!code)
        goto done;
    data = pcre2_match_data_create_from_pattern(code, NULL);
    limits = pcre2_match_context_create(NULL);
    if (!data || !limits)
        goto done;
    pcre2_set_match_limit(limits, 200000);
    pcre2_set_heap_limit(limits, 16384);
    found = pcre2_match(code, (PCRE2_SPTR)text, n, 0, 0, data, limits) >= 1;
    if (found && number) {
        at = pcre2_get_ovector_pointer(data)[2 * (pcre2_get_ovector_count(data) - 1)];
        found = at < n; /* an alternation may go round the group */
        *number = found ? strtol(text + at, NULL, 10) : 0;
    }
done:
    pcre2_match_context_free(limits);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    bs_buf_clear(&whole);
    return found;
}

static int check_regex(const char *pattern, const char *field, const char *name, oc_err *err)
{
    int why;
    PCRE2_SIZE at;
    PCRE2_UCHAR text[128];
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                                     &why, &at, NULL);
    if (code) {
        pcre2_code_free(code);
        return 0;
    }
    pcre2_get_error_message(why, text, sizeof text);
    return bs_err(err, "'%s': %s '%.100s' is no regular expression: %s at character %zu", name, field, pattern,
                  (const char *)text, (size_t)at);
}

/* ---- what is targeted ---------------------------------------------------------------------------------- */

static bool is_or_ends(const char *module, const char *name)
{
    size_t n = strlen(module), m = strlen(name);
    return n >= m && !strcmp(module + n - m, name) && (n == m || module[n - m - 1] == '.');
}

static bool is_or_ends_any(const char *module, const ck_names *names)
{
    for (int i = 0; i < names->n; i++)
        if (is_or_ends(module, names->p[i]))
            return true;
    return false;
}

static bool is_any(const char *module, const ck_names *names)
{
    for (int i = 0; i < names->n; i++)
        if (!strcmp(module, names->p[i]))
            return true;
    return false;
}

/* The number after the first component that is followed by one ("layers.3."), or after layers_pattern's. */
static bool layer_of(const ck_adapter_config *c, const char *module, long *layer)
{
    if (!c->layers_pattern.n)
        return matches(".*?\\.", "[^.]*", "\\.([0-9]+)\\.", false, module, layer);
    for (int i = 0; i < c->layers_pattern.n; i++)
        if (matches(".*?\\.", c->layers_pattern.p[i], "\\.([0-9]+)\\.", false, module, layer))
            return true;
    return false;
}

static bool is_wanted_layer(const ck_adapter_config *c, const char *module)
{
    long layer;
    if (!c->layers_n)
        return true;
    if (!layer_of(c, module, &layer))
        return false;
    for (int i = 0; i < c->layers_n; i++)
        if (c->layers_to_transform[i] == layer)
            return true;
    return false;
}

/* As PEFT does, by the end of the letters: "norm" means input_layernorm, too. */
bool ck_adapter_saves(const ck_adapter_config *c, const char *module)
{
    for (int i = 0; i < c->modules_to_save.n; i++) {
        const char *name = c->modules_to_save.p[i];
        size_t n = strlen(name);
        for (const char *at = module; n && (at = strstr(at, name)); at++)
            if (!at[n] || at[n] == '.')
                return true;
    }
    return false;
}

bool ck_adapter_targets(const ck_adapter_config *c, const char *module)
{
    if (c->exclude_regex ? matches("", c->exclude_regex, "", true, module, NULL) : is_or_ends_any(module, &c->exclude_modules))
        return false;
    if (ck_adapter_saves(c, module))
        return false;
    if (c->all_linear)
        return true;
    if (c->target_regex)
        return matches("", c->target_regex, "", true, module, NULL);
    if (is_any(module, &c->target_modules)) /* a full path is meant as it stands, whatever the layers */
        return true;
    return is_or_ends_any(module, &c->target_modules) && is_wanted_layer(c, module);
}

static double pattern_value(const ck_patterns *patterns, const char *module, double otherwise)
{
    for (int i = 0; i < patterns->n; i++)
        if (matches("(.*\\.)?(", patterns->p[i].key, ")$", false, module, NULL))
            return patterns->p[i].value;
    return otherwise;
}

int ck_adapter_rank(const ck_adapter_config *c, const char *module)
{
    return (int)pattern_value(&c->rank_pattern, module, c->rank);
}

double ck_adapter_alpha(const ck_adapter_config *c, const char *module)
{
    return pattern_value(&c->alpha_pattern, module, c->alpha);
}

double ck_adapter_scale(const ck_adapter_config *c, const char *module)
{
    double rank = ck_adapter_rank(c, module);
    return ck_adapter_alpha(c, module) / (c->rslora ? sqrt(rank) : rank);
}

/* ---- checks -------------------------------------------------------------------------------------------- */

static bool is_rank(double value) { return value >= 1 && value <= RANK_MAX && value == floor(value); }

static int check_patterns(const ck_adapter_config *c, const char *name, oc_err *err)
{
    for (int i = 0; i < c->rank_pattern.n; i++)
        if (!is_rank(c->rank_pattern.p[i].value))
            return bs_err(err, "'%s': rank_pattern.%.100s is %g, expected an integer from 1 to %d", name,
                          c->rank_pattern.p[i].key, c->rank_pattern.p[i].value, RANK_MAX);
        else if (check_regex(c->rank_pattern.p[i].key, "rank_pattern", name, err))
            return -1;
    for (int i = 0; i < c->alpha_pattern.n; i++)
        if (!isfinite(c->alpha_pattern.p[i].value))
            return bs_err(err, "'%s': alpha_pattern.%.100s is not a finite number", name, c->alpha_pattern.p[i].key);
        else if (check_regex(c->alpha_pattern.p[i].key, "alpha_pattern", name, err))
            return -1;
    return 0;
}

int ck_adapter_config_check(const ck_adapter_config *c, const char *name, oc_err *err)
{
    if (!is_rank(c->rank))
        return bs_err(err, "'%s': r is %d, expected an integer from 1 to %d", name, c->rank, RANK_MAX);
    if (!isfinite(c->alpha))
        return bs_err(err, "'%s': lora_alpha is not a finite number", name);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return bs_err(err, "'%s': lora_dropout is %g, expected a number from 0 to below 1", name, c->dropout);
    if (!c->bias || (strcmp(c->bias, "none") && strcmp(c->bias, "all") && strcmp(c->bias, "lora_only")))
        return bs_err(err, "'%s': bias is %s, expected none, all or lora_only", name, c->bias ? c->bias : "missing");
    if (!c->target_modules.n && !c->target_regex && !c->all_linear)
        return bs_err(err, "'%s': target_modules names no module", name);
    if (c->layers_n && (c->target_regex || c->all_linear))
        return bs_err(err, "'%s': layers_to_transform needs target_modules as a list", name);
    if ((c->target_regex && check_regex(c->target_regex, "target_modules", name, err)) ||
        (c->exclude_regex && check_regex(c->exclude_regex, "exclude_modules", name, err)))
        return -1;
    for (int i = 0; i < c->layers_pattern.n; i++)
        if (check_regex(c->layers_pattern.p[i], "layers_pattern", name, err))
            return -1;
    return check_patterns(c, name, err);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Keys that change nothing when a finished adapter is applied. */
static const char *const harmless[] = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "loftq_config",
    "megatron_core",
    "eva_config",
    "corda_config",
    "runtime_config",
    "qalora_group_size",
    "lora_ga_config",
    "velora_config",
    "ephemeral_gpu_offload",
};
/* Keys that are read below. */
static const char *const known[] = {
    "peft_type",         "r",
    "lora_alpha",        "lora_dropout",
    "fan_in_fan_out",    "bias",
    "use_rslora",        "use_dora",
    "lora_bias",         "target_modules",
    "exclude_modules",   "layers_to_transform",
    "rank_pattern",      "alpha_pattern",
    "layers_pattern",    "modules_to_save",
    "init_lora_weights",
};

static bool is_in(const char *key, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(key, list[i]))
            return true;
    return false;
}

/* A key that is off says nothing, whatever it means; one that is on and not understood would give wrong
 * numbers. */
static int check_keys(const ck_config *file, oc_err *err)
{
    for (size_t i = 0; i < ck_config_size(file); i++) {
        const ck_config *value = ck_config_at(file, i);
        const char *key = value ? ck_config_key(value) : NULL;
        if (!key)
            return bs_err(err, "out of memory: an adapter's configuration");
        if (is_in(key, harmless, sizeof harmless / sizeof *harmless) || is_in(key, known, sizeof known / sizeof *known))
            continue;
        bool on = false;
        ck_kind kind = ck_config_kind(value);
        if (kind == CK_TRUTH)
            ck_bool(value, NULL, &on, NULL);
        else
            on = kind != CK_NULL && !((kind == CK_ARRAY || kind == CK_OBJECT) && !ck_config_size(value));
        if (on)
            return ck_config_wrong(file, key, err, "null: it is not supported");
    }
    return 0;
}

/* Some initialisations change the base weights themselves: such an adapter does not fit the plain base
 * model. */
static int check_init(const ck_config *file, oc_err *err)
{
    const ck_config *init = ck_get(file, "init_lora_weights");
    static const char *const plain[] = {"gaussian", "eva", "orthogonal"};
    const char *text = NULL;
    if (!ck_has(file, "init_lora_weights"))
        return 0;
    if (!init)
        return bs_err(err, "out of memory: an adapter's configuration");
    if (ck_config_kind(init) != CK_STRING)
        return 0;
    if (ck_string(init, NULL, &text, err))
        return -1;
    if (is_in(text, plain, sizeof plain / sizeof *plain))
        return 0;
    return ck_config_wrong(file, "init_lora_weights", err,
                           "true, false, gaussian, eva or orthogonal: others change the base model");
}

static int take_string(const ck_config *file, const char *key, char **out, oc_err *err)
{
    const char *text = NULL;
    if (ck_string(file, key, &text, err))
        return -1;
    if (!text)
        return 0;
    free(*out);
    *out = bs_strdup(text);
    return *out ? 0 : bs_err(err, "out of memory: an adapter's configuration");
}

/* A list of strings, or a single string, which goes to *single (or into the list when single is NULL). */
static int take_names(const ck_config *file, const char *key, ck_names *names, char **single, oc_err *err)
{
    if (!ck_has(file, key))
        return 0;
    const ck_config *place = ck_get(file, key);
    if (!place)
        return bs_err(err, "out of memory: an adapter's configuration");
    ck_kind kind = ck_config_kind(place);
    const char *text = NULL;
    if (kind == CK_STRING && single)
        return take_string(file, key, single, err);
    if (kind == CK_STRING)
        return ck_string(place, NULL, &text, err) || ck_names_add(names, text, err) ? -1 : 0;
    if (kind != CK_ARRAY)
        return ck_config_wrong(file, key, err, "a string or an array of strings");
    for (size_t i = 0; i < ck_config_size(place); i++) {
        const ck_config *element = ck_config_at(place, i);
        text = NULL;
        if (!element || ck_string(element, NULL, &text, err))
            return bs_err(err, "out of memory: an adapter's configuration");
        if (!text || !text[0])
            return ck_config_wrong(element, NULL, err, "a name");
        if (ck_names_add(names, text, err))
            return -1;
    }
    return 0;
}

static int take_patterns(const ck_config *file, const char *key, ck_patterns *patterns, oc_err *err)
{
    const ck_config *place = NULL;
    if (ck_object(file, key, &place, err))
        return -1;
    for (size_t i = 0; place && i < ck_config_size(place); i++) {
        const ck_config *element = ck_config_at(place, i);
        double value = 0;
        if (!element)
            return bs_err(err, "out of memory: an adapter's configuration");
        if (!ck_has(element, NULL))
            return ck_config_wrong(element, NULL, err, "a number");
        if (ck_double(element, NULL, &value, -1e9, 1e9, err) || ck_patterns_add(patterns, ck_config_key(element), value, err))
            return -1;
    }
    return 0;
}

static int take_layers(const ck_config *file, ck_adapter_config *c, oc_err *err)
{
    static const char key[] = "layers_to_transform";
    if (!ck_has(file, key))
        return 0;
    const ck_config *place = ck_get(file, key);
    if (!place)
        return bs_err(err, "out of memory: an adapter's configuration");
    size_t n = ck_config_kind(place) == CK_ARRAY ? ck_config_size(place) : 1;
    if (!n)
        return 0;
    if (n > LAYER_MAX)
        return ck_config_wrong(file, key, err, "at most %d layers", LAYER_MAX);
    c->layers_to_transform = calloc(n, sizeof *c->layers_to_transform);
    if (!c->layers_to_transform)
        return bs_err(err, "out of memory: an adapter's configuration");
    c->layers_n = (int)n;
    return ck_ints(file, key, c->layers_to_transform, (int)n, 0, LAYER_MAX, err);
}

static int take_numbers(const ck_config *file, ck_adapter_config *c, oc_err *err)
{
    if (ck_int(file, "r", &c->rank, 1, RANK_MAX, err) || ck_double(file, "lora_alpha", &c->alpha, -1e9, 1e9, err) ||
        ck_double(file, "lora_dropout", &c->dropout, 0, 1, err) || ck_bool(file, "use_rslora", &c->rslora, err) ||
        ck_bool(file, "use_dora", &c->dora, err) || ck_bool(file, "fan_in_fan_out", &c->fan_in_fan_out, err) ||
        ck_bool(file, "lora_bias", &c->lora_bias, err))
        return -1;
    return 0;
}

static int take_words(const ck_config *file, ck_adapter_config *c, oc_err *err)
{
    const ck_config *mapping = NULL;
    if (take_string(file, "bias", &c->bias, err) || take_string(file, "task_type", &c->task_type, err) ||
        take_string(file, "base_model_name_or_path", &c->base_model, err) || ck_object(file, "auto_mapping", &mapping, err))
        return -1;
    if (mapping && (take_string(mapping, "base_model_class", &c->base_class, err) ||
                    take_string(mapping, "parent_library", &c->base_library, err)))
        return -1;
    return 0;
}

static int take_lists(const ck_config *file, ck_adapter_config *c, oc_err *err)
{
    if (take_names(file, "target_modules", &c->target_modules, &c->target_regex, err) ||
        take_names(file, "exclude_modules", &c->exclude_modules, &c->exclude_regex, err) ||
        take_names(file, "layers_pattern", &c->layers_pattern, NULL, err) ||
        take_names(file, "modules_to_save", &c->modules_to_save, NULL, err) ||
        take_patterns(file, "rank_pattern", &c->rank_pattern, err) ||
        take_patterns(file, "alpha_pattern", &c->alpha_pattern, err) || take_layers(file, c, err))
        return -1;
    if (c->target_regex && !strcmp(c->target_regex, "all-linear")) {
        free(c->target_regex);
        c->target_regex = NULL;
        c->all_linear = true;
    }
    return 0;
}

int ck_adapter_config_take(ck_adapter_config *c, const ck_config *file, const char *name, oc_err *err)
{
    static const char *const types[] = {"LORA", NULL};
    int type = 0;
    if (ck_config_kind(file) != CK_OBJECT)
        return bs_err(err, "'%s': it is not a JSON object", name);
    if (ck_config_need(file, "peft_type", "\"LORA\"", err) || ck_choice(file, "peft_type", &type, types, err) ||
        ck_config_need(file, "r", "the rank", err) || check_keys(file, err) || check_init(file, err) ||
        take_numbers(file, c, err) || take_words(file, c, err) || take_lists(file, c, err))
        return -1;
    return ck_adapter_config_check(c, name, err);
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static int put_number(bs_buf *b, double value, oc_err *err)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) { /* the fewest that read back as the same number */
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return bs_buf_printf(b, err, "%s", text);
}

static int put_key(bs_buf *b, const char *key, oc_err *err)
{
    return bs_buf_printf(b, err, "%s  \"%s\": ", b->n > 1 ? ",\n" : "\n", key);
}

static int put_literal(bs_buf *b, const char *key, const char *literal, oc_err *err)
{
    return put_key(b, key, err) || bs_buf_printf(b, err, "%s", literal) ? -1 : 0;
}

static int put_bool(bs_buf *b, const char *key, bool value, oc_err *err)
{
    return put_literal(b, key, value ? "true" : "false", err);
}

static int put_string(bs_buf *b, const char *key, const char *text, oc_err *err)
{
    if (!text)
        return put_literal(b, key, "null", err);
    return put_key(b, key, err) || ck_json_string(b, text, err) ? -1 : 0;
}

static int put_names(bs_buf *b, const char *key, const ck_names *names, const char *single, oc_err *err)
{
    if (single || !names->n)
        return put_string(b, key, single, err);
    int bad = put_key(b, key, err);
    for (int i = 0; i < names->n && !bad; i++)
        bad = bs_buf_printf(b, err, "%s\n    ", i ? "," : "[") || ck_json_string(b, names->p[i], err);
    return bad || bs_buf_printf(b, err, "\n  ]") ? -1 : 0;
}

static int put_patterns(bs_buf *b, const char *key, const ck_patterns *patterns, oc_err *err)
{
    if (!patterns->n)
        return put_literal(b, key, "{}", err);
    int bad = put_key(b, key, err);
    for (int i = 0; i < patterns->n && !bad; i++)
        bad = bs_buf_printf(b, err, "%s\n    ", i ? "," : "{") || ck_json_string(b, patterns->p[i].key, err) ||
              bs_buf_printf(b, err, ": ") || put_number(b, patterns->p[i].value, err);
    return bad || bs_buf_printf(b, err, "\n  }") ? -1 : 0;
}

/* A float in PEFT's eyes, so 0 is written 0.0. */
static int put_dropout(bs_buf *b, const ck_adapter_config *c, oc_err *err)
{
    if (c->dropout == 0)
        return put_literal(b, "lora_dropout", "0.0", err);
    return put_key(b, "lora_dropout", err) || put_number(b, c->dropout, err) ? -1 : 0;
}

static int put_layers(bs_buf *b, const ck_adapter_config *c, oc_err *err)
{
    if (!c->layers_n)
        return put_literal(b, "layers_to_transform", "null", err);
    int bad = put_key(b, "layers_to_transform", err);
    for (int i = 0; i < c->layers_n && !bad; i++)
        bad = bs_buf_printf(b, err, "%s\n    %d", i ? "," : "[", c->layers_to_transform[i]);
    return bad || bs_buf_printf(b, err, "\n  ]") ? -1 : 0;
}

static int put_mapping(bs_buf *b, const ck_adapter_config *c, oc_err *err)
{
    if (!c->base_class || !c->base_library)
        return put_literal(b, "auto_mapping", "null", err);
    if (put_key(b, "auto_mapping", err) || bs_buf_printf(b, err, "{\n    \"base_model_class\": ") ||
        ck_json_string(b, c->base_class, err) || bs_buf_printf(b, err, ",\n    \"parent_library\": ") ||
        ck_json_string(b, c->base_library, err))
        return -1;
    return bs_buf_printf(b, err, "\n  }");
}

/* Every field of PEFT 0.21's LoraConfig by name, as it writes them; what this engine lacks with its value
 * when off. */
static int put_first_half(bs_buf *b, const ck_adapter_config *c, oc_err *err)
{
    return put_literal(b, "alora_invocation_tokens", "null", err) || put_patterns(b, "alpha_pattern", &c->alpha_pattern, err) ||
           put_literal(b, "arrow_config", "null", err) || put_mapping(b, c, err) ||
           put_string(b, "base_model_name_or_path", c->base_model, err) || put_string(b, "bias", c->bias, err) ||
           put_literal(b, "corda_config", "null", err) || put_bool(b, "ensure_weight_tying", false, err) ||
           put_literal(b, "eva_config", "null", err) ||
           put_names(b, "exclude_modules", &c->exclude_modules, c->exclude_regex, err) ||
           put_bool(b, "fan_in_fan_out", c->fan_in_fan_out, err) || put_bool(b, "inference_mode", true, err) ||
           put_bool(b, "init_lora_weights", true, err) || put_literal(b, "kasa_config", "null", err) ||
           put_literal(b, "layer_replication", "null", err) || put_names(b, "layers_pattern", &c->layers_pattern, NULL, err) ||
           put_layers(b, c, err) || put_literal(b, "loftq_config", "{}", err) || put_key(b, "lora_alpha", err) ||
           put_number(b, c->alpha, err) || put_bool(b, "lora_bias", c->lora_bias, err) || put_dropout(b, c, err) ||
           put_literal(b, "lora_ga_config", "null", err);
}

static int put_second_half(bs_buf *b, const ck_adapter_config *c, oc_err *err)
{
    return put_literal(b, "megatron_config", "null", err) || put_string(b, "megatron_core", "megatron.core", err) ||
           put_names(b, "modules_to_save", &c->modules_to_save, NULL, err) || put_literal(b, "monteclora_config", "null", err) ||
           put_string(b, "peft_type", "LORA", err) || put_string(b, "peft_version", "0.21.2", err) ||
           put_literal(b, "qalora_group_size", "16", err) || put_key(b, "r", err) || put_number(b, c->rank, err) ||
           put_patterns(b, "rank_pattern", &c->rank_pattern, err) || put_literal(b, "revision", "null", err) ||
           put_names(b, "target_modules", &c->target_modules, c->all_linear ? "all-linear" : c->target_regex, err) ||
           put_literal(b, "target_parameters", "null", err) || put_string(b, "task_type", c->task_type, err) ||
           put_literal(b, "trainable_token_indices", "null", err) || put_literal(b, "use_bdlora", "null", err) ||
           put_bool(b, "use_dora", c->dora, err) || put_bool(b, "use_qalora", false, err) ||
           put_bool(b, "use_rslora", c->rslora, err) || put_literal(b, "velora_config", "null", err);
}

int ck_adapter_config_put(bs_buf *b, const ck_adapter_config *c, oc_err *err)
{
    return bs_buf_put(b, "{", 1, err) || put_first_half(b, c, err) || put_second_half(b, c, err) || bs_buf_put(b, "\n}\n", 3, err)
               ? -1
               : 0;
}
