/* adapter_options.c - see adapter_options.h. */
#include "adapter_options.h"

#include <stdlib.h>
#include <string.h>

typedef int take_fn(void *to, const char *word, oc_err *err);

/* Each part of a list by commas. */
static int each_word(const char *list, take_fn *take, void *to, oc_err *err)
{
    char *copy = bs_strdup(list ? list : ""), *rest = NULL;
    int result = copy ? 0 : bs_err(err, "out of memory: an adapter's settings");
    for (char *word = copy ? strtok_r(copy, ",", &rest) : NULL; word && !result; word = strtok_r(NULL, ",", &rest))
        result = take(to, word, err);
    free(copy);
    return result;
}

static int take_name(void *to, const char *word, oc_err *err) { return ck_names_add(to, word, err); }

/* MODULE=NUMBER; what stands before the last '=' may hold others. */
static int take_pattern(void *to, const char *word, oc_err *err)
{
    const char *equals = strrchr(word, '=');
    char *end = NULL, *key = bs_strdup(word);
    double value = equals ? strtod(equals + 1, &end) : 0;
    int result = -1;
    if (!key)
        bs_err(err, "out of memory: an adapter's settings");
    else if (!equals || equals == word || end == equals + 1 || *end)
        bs_err(err, "'%s' is not MODULE=NUMBER, as a pattern of ranks or alphas is written", word);
    else {
        key[equals - word] = 0;
        result = ck_patterns_add(to, key, value, err);
    }
    free(key);
    return result;
}

int cl_adapter_config(const cl_adapter *a, const md_model *m, ck_adapter_config *c, oc_err *err)
{
    const char *targets = a->targets ? a->targets : m->family->lora_targets ? m->family->lora_targets : "all-linear";
    if (ck_adapter_config_init(c, err))
        return -1;
    c->rank = a->rank;
    c->alpha = (double)(a->alpha > 0 ? a->alpha : 2 * (float)a->rank);
    c->dora = a->dora;
    c->rslora = a->rslora;
    c->base_model = bs_strdup(m->folder);
    c->base_class = bs_strdup(m->family->architectures[0]);
    c->all_linear = !strcmp(targets, "all-linear");
    if ((!c->all_linear && each_word(targets, take_name, &c->target_modules, err)) ||
        each_word(a->rank_pattern, take_pattern, &c->rank_pattern, err) ||
        each_word(a->alpha_pattern, take_pattern, &c->alpha_pattern, err) ||
        each_word(a->saved, take_name, &c->modules_to_save, err))
        return -1;
    return ck_adapter_config_check(c, "the new adapter", err);
}

int cl_adapter_say(const cl_adapter *a, bs_buf *to, oc_err *err)
{
    if (bs_buf_printf(to, err, " rank %d alpha %g targets %s%s%s", a->rank, (double)a->alpha, a->targets ? a->targets : "its own",
                      a->dora ? " dora" : "", a->rslora ? " rslora" : "") ||
        (a->rank_pattern && bs_buf_printf(to, err, " ranks %s", a->rank_pattern)) ||
        (a->alpha_pattern && bs_buf_printf(to, err, " alphas %s", a->alpha_pattern)))
        return -1;
    return a->saved ? bs_buf_printf(to, err, " saved %s", a->saved) : 0;
}
