/* rope_config.c - the frequencies of rotary positions that a config asks for. Formulas as in transformers' modeling_rope_utils, whose names of
 * keys and kinds checkpoints use: older ones say rope_theta and rope_scaling, newer ones rope_parameters. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "language.h"

enum { PLAIN, LINEAR, DYNAMIC, LLAMA3, YARN, LONG };
static const char *const kinds[] = {"default", "linear", "dynamic", "llama3", "yarn", "longrope", "su", NULL};

typedef struct source {
    const ck_config *root, *scaling; /* scaling NULL: none */
    long dims, context;
    double theta, stretch; /* `factor` */
    int kind;
} source;

/* A key of the scaling, else of the config itself. */
static int number(const source *s, const char *key, double *value, double lo, double hi, oc_err *err)
{
    if (s->scaling && ck_has(s->scaling, key))
        return ck_double(s->scaling, key, value, lo, hi, err);
    return ck_double(s->root, key, value, lo, hi, err);
}

/* The config's own comes first, as Phi-3 says it there. */
static int original_of(const source *s, double *original, oc_err *err)
{
    static const char key[] = "original_max_position_embeddings";
    *original = (double)s->context;
    return ck_has(s->root, key) ? ck_double(s->root, key, original, 1, 1e9, err)
                                : ck_double(s->scaling, key, original, 1, 1e9, err);
}

static int read_source(const ck_config *c, long head, long context, double theta, source *s, oc_err *err)
{
    double part = 1;
    *s = (source){.root = c, .context = context, .theta = theta, .stretch = 1};
    if (ck_object(c, "rope_parameters", &s->scaling, err) || (!s->scaling && ck_object(c, "rope_scaling", &s->scaling, err)))
        return -1;
    const char *key = s->scaling && ck_has(s->scaling, "rope_type") ? "rope_type" : "type";
    if (s->scaling && ck_has(s->scaling, key) && ck_choice(s->scaling, key, &s->kind, kinds, err))
        return -1;
    s->kind = s->kind > LONG ? LONG : s->kind;
    if (number(s, "rope_theta", &s->theta, 1e-6, 1e15, err) || number(s, "partial_rotary_factor", &part, 1e-6, 1, err) ||
        (s->kind != PLAIN && s->kind != LONG && number(s, "factor", &s->stretch, 1, 1e6, err)))
        return -1;
    s->dims = (long)((double)head * part);
    return s->dims >= 2 && s->dims % 2 == 0
               ? 0
               : ck_config_wrong(c, "partial_rotary_factor", err, "an even number of dimensions to turn");
}

/* Long waves are stretched, short ones kept, those between blended (Llama 3.1). */
static int scale_llama3(const source *s, md_rotary *r, oc_err *err)
{
    double low = 1, high = 4, original;
    if (number(s, "low_freq_factor", &low, 1e-6, 1e6, err) || number(s, "high_freq_factor", &high, 1e-6, 1e6, err) ||
        original_of(s, &original, err))
        return -1;
    for (long i = 0; i < r->half; i++) {
        double wave = 2 * 3.14159265358979323846 / r->frequency[i], smooth = (original / wave - low) / (high - low);
        if (wave > original / low)
            r->frequency[i] /= s->stretch;
        else if (wave >= original / high)
            r->frequency[i] *= (1 - smooth) / s->stretch + smooth;
    }
    return 0;
}

/* The dimension that turns so often over the original context. */
static double dimension_of(const source *s, double turns, double original)
{
    return (double)s->dims * log(original / (turns * 2 * 3.14159265358979323846)) / (2 * log(s->theta));
}

static int scale_yarn(const source *s, md_rotary *r, oc_err *err)
{
    double fast = 32, slow = 1, original, attention = 0, all = 0, some = 0;
    bool whole = true;
    if (number(s, "beta_fast", &fast, 1e-6, 1e6, err) || number(s, "beta_slow", &slow, 1e-6, 1e6, err) ||
        original_of(s, &original, err) || number(s, "attention_factor", &attention, 0, 1e6, err) ||
        number(s, "mscale", &some, 0, 1e6, err) || number(s, "mscale_all_dim", &all, 0, 1e6, err) ||
        ck_bool(s->scaling, "truncate", &whole, err))
        return -1;
    double low = dimension_of(s, fast, original), high = dimension_of(s, slow, original);
    low = fmax(whole ? floor(low) : low, 0);
    high = fmin(whole ? ceil(high) : high, (double)s->dims - 1);
    high += low == high ? 0.001 : 0;
    for (long i = 0; i < r->half; i++) {
        double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        r->frequency[i] *= ramp / s->stretch + 1 - ramp;
    }
    double grown = s->stretch > 1 ? log(s->stretch) : 0;
    if (attention <= 0)
        attention = some > 0 && all > 0 ? (0.1 * some * grown + 1) / (0.1 * all * grown + 1) : 0.1 * grown + 1;
    r->factor = (float)attention;
    return 0;
}

/* frequency / factor, by dimension. */
static int divide(const ck_config *scaling, const char *key, long half, const double *base, double *to, oc_err *err)
{
    const ck_config *list = NULL;
    if (ck_config_need(scaling, key, "a list of numbers", err) || ck_array(scaling, key, &list, err))
        return -1;
    if (ck_config_size(list) != (size_t)half)
        return ck_config_wrong(scaling, key, err, "%ld numbers, half of what turns in a head", half);
    for (long i = 0; i < half; i++) {
        double f = 1;
        if (ck_double(ck_config_at(list, (size_t)i), NULL, &f, 1e-9, 1e9, err))
            return -1;
        to[i] = base[i] / f;
    }
    return 0;
}

static int scale_long(const source *s, md_rotary *r, oc_err *err)
{
    double original, stretch = 0, attention = 0;
    if (original_of(s, &original, err) || number(s, "factor", &stretch, 0, 1e6, err) ||
        number(s, "attention_factor", &attention, 0, 1e6, err))
        return -1;
    if (ck_has(s->root, "original_max_position_embeddings") || stretch <= 0)
        stretch = (double)s->context / original;
    r->far = malloc((size_t)r->half * sizeof *r->far);
    if (!r->far)
        return bs_err(err, "out of memory: a model");
    if (divide(s->scaling, "long_factor", r->half, r->frequency, r->far, err) ||
        divide(s->scaling, "short_factor", r->half, r->frequency, r->frequency, err))
        return -1;
    r->original = (long)original;
    r->factor = (float)(attention > 0 ? attention : stretch <= 1 ? 1 : sqrt(1 + log(stretch) / log(original)));
    return 0;
}

int md_read_rotary(const ck_config *c, long head, long context, double theta, md_rotary *r, oc_err *err)
{
    source s;
    if (read_source(c, head, context, theta, &s, err))
        return -1;
    *r = (md_rotary){.half = s.dims / 2, .factor = 1};
    r->frequency = malloc((size_t)r->half * sizeof *r->frequency);
    if (!r->frequency)
        return bs_err(err, "out of memory: a model");
    kn_rotary_frequencies(r->half, s.theta, r->frequency);
    for (long i = 0; s.kind == LINEAR && i < r->half; i++)
        r->frequency[i] /= s.stretch;
    switch (s.kind) {
    case LLAMA3: return scale_llama3(&s, r, err);
    case YARN: return scale_yarn(&s, r, err);
    case LONG: return scale_long(&s, r, err);
    default: return 0; /* `dynamic` changes nothing within the context, and none goes beyond */
    }
}

void md_rotary_clear(md_rotary *r)
{
    free(r->frequency);
    free(r->far);
    *r = (md_rotary){0};
}

tn_angles md_rotary_angles(tn_ctx *cx, const md_rotary *r, const md_batch *b)
{
    const double *frequency = r->far && b->furthest > r->original ? r->far : r->frequency;
    long rows = b->texts * b->length;
    return tn_rotary(cx, b->positions, rows, frequency, r->half, r->factor);
}
