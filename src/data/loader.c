/* loader.c - which pairs make a batch, and their pixels and ids. */
#include "loader.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../model/reading.h"
#include "order.h"

/* Pairs sorted by a number that they carry: those of number g are p[first[g]] to p[first[g + 1] - 1]. */
typedef struct dt_members {
    long *p, *first;
} dt_members;

struct dt_loader {
    dt_loader_options o;
    md_sizes sizes;
    im_raster *cache;     /* [pairs]; rgb NULL: not decoded yet */
    atomic_size_t cached; /* bytes */
    dt_order order;       /* of the pairs */
    dt_members groups;    /* pairs by group; empty without partners */
    dt_members kins;      /* pairs by kin; empty where no batch is drawn from one */
    dt_loaded out;
    float *pixels, *scratch, *text_target, *image_target, *partner_target;
    tx_ids *ids;     /* [batch * texts] */
    oc_err *errors;  /* [batch] */
    long step, rows; /* rows: texts in a batch */
};

void dt_loader_close(dt_loader *l)
{
    if (!l)
        return;
    for (long i = 0; l->cache && i < l->o.pairs->n; i++)
        im_raster_clear(&l->cache[i]);
    for (long i = 0; l->ids && i < l->rows; i++)
        tx_ids_clear(&l->ids[i]);
    bs_free(l->cache);
    dt_order_clear(&l->order);
    bs_free(l->pixels);
    bs_free(l->scratch);
    bs_free(l->text_target);
    bs_free(l->image_target);
    bs_free(l->partner_target);
    bs_free(l->groups.p);
    bs_free(l->groups.first);
    bs_free(l->kins.p);
    bs_free(l->kins.first);
    bs_free(l->ids);
    bs_free(l->errors);
    bs_free(l->out.pair);
    bs_free(l->out.language);
    md_batch_clear(&l->out.batch);
    free(l);
}

static long group_of(const dt_pair *p) { return p->group; }
static long kin_of(const dt_pair *p) { return p->kin; }

/* A counting sort of the pairs by what number_of says, below n; pairs of a negative number are left out. */
static int list_members(const dt_pairs *d, long n, long (*number_of)(const dt_pair *), dt_members *m, oc_err *err)
{
    m->first = bs_calloc((size_t)n + 2, sizeof *m->first, "the groups", err);
    m->p = bs_calloc((size_t)d->n, sizeof *m->p, "the groups", err);
    if (!m->first || !m->p)
        return -1;
    for (long i = 0; i < d->n; i++)
        if (number_of(&d->p[i]) >= 0)
            m->first[number_of(&d->p[i]) + 2]++;
    for (long g = 0; g < n; g++)
        m->first[g + 2] += m->first[g + 1];
    for (long i = 0; i < d->n; i++)
        if (number_of(&d->p[i]) >= 0)
            m->p[m->first[number_of(&d->p[i]) + 1]++] = i;
    return 0;
}

dt_loader *dt_loader_open(const dt_loader_options *o, oc_err *err)
{
    if (o->kin > 0 && !o->pairs->kins) {
        bs_err(err, "batches of one kin are asked for, but no pair has a \"kin\"");
        return NULL;
    }
    dt_loader *l = calloc(1, sizeof *l);
    if (!l) {
        bs_err(err, "out of memory: a loader");
        return NULL;
    }
    l->o = *o;
    l->o.texts = o->texts > 1 ? o->texts : 1;
    l->rows = l->o.batch * l->o.texts;
    if (!l->o.cache_bytes)
        l->o.cache_bytes = (size_t)4 << 30;
    o->model->family->sizes(o->model->m, &l->sizes);
    if (o->max_tokens > 0 && o->max_tokens < l->sizes.max_tokens)
        l->sizes.max_tokens = o->max_tokens;
    size_t n = (size_t)o->batch, rows = (size_t)l->rows, side = (size_t)l->sizes.image_size, picture = 3 * side * side;
    l->cache = bs_calloc((size_t)o->pairs->n, sizeof *l->cache, "decoded pictures", err);
    l->pixels = bs_calloc(n * picture, sizeof *l->pixels, "a batch of pictures", err);
    l->scratch = bs_calloc(n * picture, sizeof *l->scratch, "a batch of pictures", err);
    l->text_target = bs_calloc(rows * n, sizeof *l->text_target, "the targets of a batch", err);
    l->image_target = bs_calloc(n * rows, sizeof *l->image_target, "the targets of a batch", err);
    l->partner_target = bs_calloc(n * n, sizeof *l->partner_target, "the targets of a batch", err);
    l->ids = bs_calloc(rows, sizeof *l->ids, "a batch of texts", err);
    l->errors = bs_calloc(n, sizeof *l->errors, "a batch", err);
    l->out.pair = bs_calloc(n, sizeof *l->out.pair, "a batch", err);
    l->out.language = bs_calloc(rows, sizeof *l->out.language, "a batch", err);
    md_batch *b = &l->out.batch;
    b->target = calloc(rows, sizeof *b->target);
    if (!dt_order_open(&l->order, o->pairs->n, o->seed, err) && l->cache && l->pixels && l->scratch && l->text_target &&
        l->image_target && l->ids && l->errors && l->out.pair && l->out.language && l->partner_target && b->target &&
        !md_texts_open(b, o->model, l->rows, err) &&
        (o->partners <= 0 || !list_members(o->pairs, o->pairs->groups, group_of, &l->groups, err)) &&
        (o->kin <= 0 || !list_members(o->pairs, o->pairs->kins, kin_of, &l->kins, err)))
        return l;
    bs_err(err, "out of memory: a batch");
    dt_loader_close(l);
    return NULL;
}

/* ---- which pairs -------------------------------------------------------------------------------------------------- */

/* Another pair of the same group, or the pair itself where it is alone. */
static long partner_of(const dt_loader *l, long pair, bs_rng *r)
{
    long g = l->o.pairs->p[pair].group;
    long n = g < 0 ? 0 : l->groups.first[g + 1] - l->groups.first[g];
    if (n < 2)
        return pair;
    const long *all = l->groups.p + l->groups.first[g];
    long other = all[bs_rng_below(r, (uint32_t)n - 1)];
    return other == pair ? all[n - 1] : other;
}

/* The kin that a batch is drawn from, or -1: that of the pair whose turn it is, in this share of the batches. */
static long kin_of_batch(const dt_loader *l, long pair, bs_rng *r)
{
    return l->kins.p && bs_rng_float(r) < l->o.kin ? l->o.pairs->p[pair].kin : -1;
}

static long any_of_kin(const dt_loader *l, long kin, bs_rng *r)
{
    const long *first = l->kins.first + kin;
    return l->kins.p[first[0] + (long)bs_rng_below(r, (uint32_t)(first[1] - first[0]))];
}

static void choose_pairs(dt_loader *l, long step)
{
    bool partners = l->groups.p != NULL;
    long drawn = partners ? (l->o.batch + 1) / 2 : l->o.batch, kin = -1;
    bs_rng r;
    bs_rng_seed(&r, l->o.seed ^ 0x9e3779b97f4a7c15u, (uint64_t)step);
    for (long i = 0; i < drawn; i++) {
        l->out.pair[i] = i > 0 && kin >= 0 ? any_of_kin(l, kin, &r) : dt_order_at(&l->order, step * drawn + i);
        if (i == 0)
            kin = kin_of_batch(l, l->out.pair[0], &r);
        if (partners && drawn + i < l->o.batch)
            l->out.pair[drawn + i] = partner_of(l, l->out.pair[i], &r);
    }
}

static bool same_meaning(const dt_loader *l, long i, long k)
{
    long a = l->out.pair[i], b = l->out.pair[k];
    const dt_pair *p = l->o.pairs->p;
    return a == b || (p[a].group >= 0 && p[a].group == p[b].group);
}

/* Pairs of one group are each other's matches: a row's target is spread evenly over them. */
static void set_targets(dt_loader *l)
{
    long n = l->o.batch, texts = l->o.texts;
    bool shared = texts > 1;
    for (long i = 0; i < n; i++) {
        long equal = 0;
        for (long k = 0; k < n; k++)
            equal += same_meaning(l, i, k);
        shared |= equal > 1;
        for (long k = 0; k < n; k++) {
            l->partner_target[i * n + k] = k != i && same_meaning(l, i, k) ? 1 / (float)(equal - 1) : 0;
            float share = same_meaning(l, i, k) ? 1 / (float)equal : 0;
            for (long t = 0; t < texts; t++) {
                l->text_target[(i * texts + t) * n + k] = share;
                l->image_target[i * l->rows + k * texts + t] = share / (float)texts;
            }
        }
        l->out.batch.target[i] = (int)i;
    }
    l->out.batch.partner_target = l->partner_target;
    l->out.batch.partner_weight = l->o.partners;
    l->out.batch.text_target = shared ? l->text_target : NULL;
    l->out.batch.image_target = shared ? l->image_target : NULL;
}

/* ---- one item ------------------------------------------------------------------------------------------------------ */

/* Kept at half as many pixels again a side as the model takes: enough to zoom in, an eighth of a photograph's memory or less. */
static int shrink(dt_loader *l, const im_raster *in, im_raster *out, oc_err *err)
{
    const im_processor *p = l->o.processor;
    int side = (int)(l->sizes.image_size * 3 / 2), w = side, h = side;
    if (p->rule != IM_SIZE_EXACT) {
        int shorter = in->width < in->height ? in->width : in->height;
        side = shorter < side ? shorter : side;
        w = (int)((int64_t)in->width * side / shorter);
        h = (int)((int64_t)in->height * side / shorter);
    }
    out->rgb = bs_alloc(3 * (size_t)w * (size_t)h, "a picture", err);
    if (!out->rgb)
        return -1;
    out->width = w;
    out->height = h;
    return im_resize(out->rgb, in, w, h, p->resample, err);
}

static int fetch_picture(dt_loader *l, long pair, im_raster *out, oc_err *err)
{
    oc_picture picture = {0};
    oc_options options = {.max_pixels = l->o.max_pixels};
    if (oc_picture_read(&picture, l->o.pairs->p[pair].image, &options)) {
        bs_err(err, "%s", picture.err.text);
        return -1;
    }
    im_raster in = {picture.width, picture.height, picture.rgb};
    int result = shrink(l, &in, out, err);
    oc_picture_clear(&picture);
    return result;
}

/* Text number t of a picture: its language is drawn for the first, and the next ones take the languages in turn. */
static int add_text(dt_loader *l, long i, int t, int first, bs_rng *r, oc_err *err)
{
    const dt_pair *p = &l->o.pairs->p[l->out.pair[i]];
    int have = 0, pick = 0, cut = 0;
    for (int k = 0; k < l->o.pairs->languages; k++)
        have += p->language[k].n > 0;
    int wanted = (first + t) % have;
    for (int k = 0; k < l->o.pairs->languages; k++)
        if (p->language[k].n > 0 && wanted-- == 0)
            pick = k;
    long row = i * l->o.texts + t;
    l->out.language[row] = pick;
    const char *text = p->language[pick].p[bs_rng_below(r, (uint32_t)p->language[pick].n)];
    return rn_encode_text(l->o.tokenizer, text, strlen(text), l->sizes.max_tokens, &l->ids[row], &cut, err);
}

static void make_item(dt_loader *l, long i)
{
    bs_rng r;
    oc_err *err = &l->errors[i];
    long pair = l->out.pair[i], side = l->sizes.image_size;
    size_t picture = 3 * (size_t)side * (size_t)side;
    bs_rng_seed(&r, l->o.seed, 2 * (uint64_t)(l->step * l->o.batch + i));
    int first = (int)bs_rng_below(&r, DT_LANGUAGES * 105); /* divisible by every number of languages up to 8 */
    for (int t = 0; t < l->o.texts; t++)
        if (add_text(l, i, t, first, &r, err))
            return;
    im_raster *kept = &l->cache[pair], fresh = {0};
    if (!kept->rgb && fetch_picture(l, pair, &fresh, err))
        return;
    dt_augment_run(&l->o.augment, l->o.processor, kept->rgb ? kept : &fresh, (int)side, &r, l->scratch + (size_t)i * picture,
                   l->pixels + (size_t)i * picture);
    if (fresh.rgb) /* handed to the cache later: the same pair may stand twice in a batch */
        im_raster_clear(&fresh);
}

static void make_items(void *arg, long begin, long end, int worker)
{
    (void)worker;
    for (long i = begin; i < end; i++)
        make_item(arg, i);
}

/* Decodes what the batch needs and memory allows to keep, each picture once. */
static void fill_cache(void *arg, long begin, long end, int worker)
{
    (void)worker;
    dt_loader *l = arg;
    for (long i = begin; i < end; i++) {
        long pair = l->out.pair[i];
        bool first = true;
        for (long k = 0; k < i && first; k++)
            first = l->out.pair[k] != pair;
        if (!first || l->cache[pair].rgb || atomic_load(&l->cached) > l->o.cache_bytes)
            continue;
        if (!fetch_picture(l, pair, &l->cache[pair], &l->errors[i]))
            atomic_fetch_add(&l->cached, 3 * (size_t)l->cache[pair].width * (size_t)l->cache[pair].height);
    }
}

static int first_error(dt_loader *l, oc_err *err)
{
    for (long i = 0; i < l->o.batch; i++)
        if (l->errors[i].text[0])
            return bs_err(err, "%s", l->errors[i].text);
    return 0;
}

const dt_loaded *dt_loader_next(dt_loader *l, long step, bs_pool *pool, oc_err *err)
{
    md_batch *b = &l->out.batch;
    memset(l->errors, 0, (size_t)l->o.batch * sizeof *l->errors);
    l->step = step;
    choose_pairs(l, step);
    set_targets(l);
    bs_pool_for(pool, l->o.batch, 1, fill_cache, l);
    if (first_error(l, err))
        return NULL;
    bs_pool_for(pool, l->o.batch, 1, make_items, l);
    if (first_error(l, err))
        return NULL;
    md_texts_put(b, l->o.model, l->ids, l->rows, rn_pad(l->o.tokenizer));
    b->images = l->o.batch;
    b->channels = 3;
    b->height = b->width = l->sizes.image_size;
    b->pixel_values = l->pixels;
    return &l->out;
}
