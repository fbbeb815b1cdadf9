/* speaker.c - see speaker.h. */
#include "speaker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256, HEARD = 32 }; /* of a pass: products are at full speed long before, and the arena stays small */

/* ---- opening ---------------------------------------------------------------------------------------------- */

static int add_eos(rn_speaker *s, const ck_config *value, oc_err *err)
{
    int id = -1;
    if (s->eos_n == (int)(sizeof s->eos / sizeof *s->eos))
        return ck_config_wrong(value, NULL, err, "at most %d tokens that end a text", s->eos_n);
    if (ck_int(value, NULL, &id, -1, 1 << 28, err))
        return -1;
    if (id >= 0)
        s->eos[s->eos_n++] = id;
    return 0;
}

/* generation_config.json knows better than config.json, as chat models end with another token than they were trained with. */
static int read_eos(rn_speaker *s, oc_err *err)
{
    const md_model *m = s->engine->model;
    char *path = bs_join(m->folder, "generation_config.json");
    ck_config *file = path && bs_is_file(path) && !s->engine->sizes.own_eos ? ck_config_read(path, err) : NULL;
    const ck_config *eos = file ? ck_get(file, "eos_token_id") : NULL;
    int result = path && (file || !bs_is_file(path) || s->engine->sizes.own_eos) ? 0 : -1;
    if (!result && eos && ck_config_kind(eos) == CK_ARRAY)
        for (size_t i = 0; !result && i < ck_config_size(eos); i++)
            result = add_eos(s, ck_config_at(eos, i), err);
    else if (!result && eos && ck_config_kind(eos) != CK_NULL)
        result = add_eos(s, eos, err);
    if (!result && !s->eos_n && s->engine->sizes.eos >= 0)
        s->eos[s->eos_n++] = s->engine->sizes.eos;
    ck_config_free(file);
    free(path);
    return result;
}

bool rn_ends(const rn_speaker *s, int32_t id)
{
    for (int i = 0; i < s->eos_n; i++)
        if (s->eos[i] == id)
            return true;
    return false;
}

static size_t plan(rn_speaker *s, int n, long first)
{
    const oc_engine *e = s->engine;
    tn_ctx cx;
    tn_plan(&cx, e->kn, bs_threads_of(e->options.threads), false);
    tn_steps steps = {.cache = s->cache, .memory = s->memory, .step = s->step, .n = n};
    md_batch b = s->batch;
    b.texts = 1;
    b.length = first + n - 1;
    b.wanted_n = s->heard;
    for (int i = 0; i < n; i++)
        s->step[i] = (tn_step){
            .position = s->context - (i ? 1 : first), .count = i ? 1 : first, .memory_length = s->memory ? s->remembered : 0};
    cx.steps = &steps;
    cx.lora = e->lora.by_id;
    e->model->family->logits(&cx, e->model->m, &b);
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

void rn_forbid_end(const rn_speaker *s, float *logits)
{
    for (int i = 0; i < s->eos_n; i++)
        if (s->eos[i] < s->engine->sizes.vocab)
            logits[s->eos[i]] = -INFINITY;
}

/* What is read or looked at, as a batch of one. */
static md_batch reading(const rn_speaker *s, long length, const float *pixels)
{
    const md_sizes *z = &s->engine->sizes;
    md_batch b = s->batch;
    b.texts = 1;
    b.length = b.furthest = length;
    b.images = z->picture_rows > 0;
    b.channels = z->channels;
    b.height = b.width = z->image_size;
    b.pixel_values = pixels;
    b.asks = s->reads;
    return b;
}

/* Reading the longest prompt. */
static size_t plan_memory(rn_speaker *s)
{
    const oc_engine *e = s->engine;
    tn_ctx cx;
    if (!s->memory)
        return 1;
    tn_plan(&cx, e->kn, bs_threads_of(e->options.threads), false);
    tn_steps steps = {.cache = s->cache, .memory = s->memory, .step = s->step, .n = 1};
    md_batch b = reading(s, s->context, NULL);
    s->step[0] = (tn_step){.memory_length = s->remembered};
    cx.steps = &steps;
    cx.lora = e->lora.by_id;
    e->model->family->remember(&cx, e->model->m, &b);
    return cx.failed ? 0 : tn_plan_bytes(&cx);
}

static int take_batch(rn_speaker *s, oc_err *err)
{
    md_batch *b = &s->batch;
    size_t rows = (size_t)(s->memory && s->context > s->rows ? s->context : s->rows); /* a whole prompt is read, or a pass is filled */
    b->input_ids = malloc(rows * sizeof *b->input_ids);
    b->positions = malloc(rows * sizeof *b->positions);
    b->wanted = malloc((size_t)s->heard * sizeof *b->wanted);
    s->asked = malloc((size_t)s->heard * sizeof *s->asked);
    s->step = calloc((size_t)s->sequences, sizeof *s->step);
    return b->input_ids && b->positions && b->wanted && s->asked && s->step ? 0 : bs_err(err, "out of memory: a batch");
}

static void need(rn_speaker *s, size_t bytes) { s->arena_bytes = s->arena_bytes > bytes ? s->arena_bytes : bytes; }

/* One sequence alone, many with a row each, both, and reading. */
static void plan_all(rn_speaker *s)
{
    size_t needs[] = {plan(s, 1, s->rows), plan(s, s->sequences, 1), plan(s, s->sequences, s->rows - s->sequences + 1), plan_memory(s)};
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
        need(s, needs[i]);
    /* Scratch of attention to rows stops growing with a text's rows, lists of pages grow with every text: any number of them may need the most. */
    for (int n = 2; s->memory && n < s->sequences; n++)
        need(s, plan(s, n, s->rows - n + 1));
}

static int check_options(const oc_engine *e, const oc_generator_options *o, oc_err *err)
{
    const char *folder = e->model->folder;
    if (!(md_can(e->model) & MD_GENERATES))
        return bs_err(err, "the model '%s' (%s) does not generate text", folder, oc_family(e));
    if (o->context < 0 || o->batch < 0 || o->kv < OC_KV_FP32 || o->kv > OC_KV_INT8)
        return bs_err(err, "expected context and batch of 0 or more, and a kv of oc_kv_type");
    if (o->context > e->sizes.context)
        return bs_err(err, "a context of %d positions is asked for, the model has %ld", o->context, e->sizes.context);
    if (o->asks && !e->sizes.answers)
        return bs_err(err, "the model '%s' (%s) does not answer questions about pictures", folder, oc_family(e));
    return 0;
}

/* Positions that a cache holds of so many for each sequence. */
static long positions_for(const rn_speaker *s, long each) { return (each + 2 * tn_page_keys()) * ((long)s->sequences + 1); }

/* Shapes of a speaker's caches. */
typedef struct shapes {
    tn_cache_shape cache, memory; /* a memory's only where the model has one */
} shapes;

/* What it remembers of a picture: its rows themselves where no text can have more tokens than a head is wide, as keys and values of all layers then cost more to make
 * than to do without (of several texts about one picture, as beams are, each would read them). Else those; so of questions too, which are short, and may have any
 * number of answers. */
static tn_cache_shape shape_memory(const rn_speaker *s, const tn_cache_shape *cache)
{
    const oc_engine *e = s->engine;
    const md_family *f = e->model->family;
    tn_cache_shape memory = *cache;
    bool floats = e->options.dtype == OC_FP32 || (e->options.dtype == OC_AUTO && md_file_dtype(e->model) == KN_F32);
    bool plain = cache->type == KN_KV_F32 && floats;
    if (s->reads || !plain || s->context > cache->key || !f->look_at_rows || !f->look_at_rows(e->model->m, e->lora.by_id, &memory))
        memory = *cache;
    memory.positions = positions_for(s, s->remembered);
    return memory;
}

/* All numbers, and the shapes of caches. */
static int settle(rn_speaker *s, oc_engine *e, const oc_generator_options *options, long heard, shapes *of, oc_err *err)
{
    static const kn_kv_type types[] = {
        [OC_KV_FP32] = KN_KV_F32, [OC_KV_FP16] = KN_KV_F16, [OC_KV_BF16] = KN_KV_BF16, [OC_KV_INT8] = KN_KV_I8};
    int sequences = options->batch > 0 ? options->batch : 1;
    *s = (rn_speaker){.engine = e, .sequences = sequences};
    for (int i = 0; i < RN_KEPT; i++)
        s->kept[i].sequence = -1;
    if (check_options(e, options, err))
        return -1;
    s->reads = options->asks || e->sizes.prompt == MD_PROMPT_READ;
    s->context = options->context ? options->context : e->sizes.context;
    s->rows = s->context < ROWS ? s->context : ROWS;
    s->rows = s->rows < sequences ? sequences : s->rows;
    s->heard = heard ? heard : sequences < HEARD ? HEARD : sequences;
    s->heard = s->heard < s->rows ? s->heard : s->rows;
    s->remembered = s->reads ? s->context : e->sizes.picture_rows;
    of->cache = (tn_cache_shape){.type = types[options->kv], .positions = positions_for(s, s->context)};
    e->model->family->cache(e->model->m, &of->cache);
    of->memory = shape_memory(s, &of->cache);
    return 0;
}

/* Caches, and whatever a plan needs. */
static int open_caches(rn_speaker *s, const shapes *of, oc_err *err)
{
    s->cache = tn_cache_open(&of->cache, err);
    if (s->cache && s->engine->model->family->remember && !(s->memory = tn_cache_open(&of->memory, err)))
        return -1;
    return s->cache ? take_batch(s, err) : -1;
}

int rn_speaker_open(rn_speaker *s, oc_engine *e, const oc_generator_options *options, long heard, oc_err *err)
{
    shapes of;
    if (settle(s, e, options, heard, &of, err) || read_eos(s, err) || open_caches(s, &of, err))
        goto failed;
    plan_all(s);
    s->pool = bs_pool_open(e->options.threads, err);
    s->work = s->pool ? kn_work_open(e->kn, s->pool, err) : NULL;
    s->arena = s->work ? bs_alloc(s->arena_bytes, "the arena", err) : NULL;
    if (s->arena)
        return 0;
failed:
    rn_speaker_close(s);
    return -1;
}

static int add_cache(const tn_cache_shape *shape, size_t *sum, oc_err *err)
{
    size_t bytes = tn_cache_needs(shape);
    return bytes && bs_add_size(*sum, bytes, sum) ? 0 : bs_err(err, "a cache of %ld positions is larger than memory can be", shape->positions);
}

int rn_speaker_needs(const md_model *m, int threads, const oc_generator_options *options, size_t *arena, size_t *cache, oc_err *err)
{
    oc_engine e = {.model = (md_model *)(uintptr_t)m, .kn = kn_best(err), .options = {.threads = threads}};
    rn_speaker s;
    shapes of;
    *arena = *cache = 0;
    if (!e.kn)
        return -1;
    m->family->sizes(m->m, &e.sizes);
    int result = settle(&s, &e, options, 0, &of, err);
    shapes small = of;
    small.cache.positions = small.memory.positions = tn_page_keys();
    if (!result && !(result = open_caches(&s, &small, err))) {
        plan_all(&s);
        *arena = s.arena_bytes;
        result = add_cache(&of.cache, cache, err);
    }
    if (!result && s.memory)
        result = add_cache(&of.memory, cache, err);
    rn_speaker_close(&s);
    return result;
}

void rn_speaker_close(rn_speaker *s)
{
    for (int i = 0; i < RN_KEPT; i++)
        tx_ids_clear(&s->kept[i].ids);
    tn_cache_close(s->cache);
    tn_cache_close(s->memory);
    kn_work_close(s->work);
    bs_pool_close(s->pool);
    bs_free(s->arena);
    free(s->step);
    free(s->asked);
    md_batch_clear(&s->batch);
    memset(s, 0, sizeof *s);
}

/* ---- passes ----------------------------------------------------------------------------------------------- */

/* How far the feeds are: feed `at`, of which `done` ids have been run. */
typedef struct place {
    int at;
    long done;
} place;

/* Some positions are turned by other frequencies when a text is long: one pass takes one kind. */
static bool is_far(const rn_speaker *s, const rn_feed *f, long before)
{
    long far = s->engine->sizes.far;
    return far && before + f->n > far;
}

long rn_still(rn_speaker *s, int sequence, long total)
{
    long far = s->engine->sizes.far, has = tn_sequence_length(s->cache, sequence);
    if (!far || has > far || total <= far)
        return has;
    tn_sequence_resize(s->cache, sequence, 0, NULL); /* gives pages back, which cannot fail */
    return 0;
}

/* Puts as many ids as fit into the batch; what was fed of a feed before this pass is in its sequence already. */
static int fill(rn_speaker *s, const rn_feed *feed, int n, place *p, tn_steps *steps, oc_err *err)
{
    const md_family *f = s->engine->model->family;
    md_batch *b = &s->batch;
    bool far = false;
    b->length = b->wanted_n = b->furthest = 0;
    for (; p->at < n && b->length < s->rows && steps->n < s->sequences && b->wanted_n < s->heard; p->at++, p->done = 0) {
        const rn_feed *now = &feed[p->at];
        long position = tn_sequence_length(s->cache, now->sequence), total = position - p->done + now->n;
        if (b->length && is_far(s, now, position - p->done) != far)
            return 0;
        far = is_far(s, now, position - p->done);
        b->furthest = b->furthest > total ? b->furthest : total;
        long count = 0;
        while (p->done + count < now->n && b->length < s->rows) {
            long index = p->done + count;
            bool heard = index >= now->n - now->wanted;
            if (heard && b->wanted_n == s->heard)
                break;
            if (heard) {
                s->asked[b->wanted_n] = (rn_asked){p->at, index};
                b->wanted[b->wanted_n++] = (int)b->length;
            }
            b->input_ids[b->length] = now->ids[index];
            b->positions[b->length++] = f->place ? f->place(s->engine->model->m, position + count) : (int)(position + count);
            count++;
        }
        if (tn_sequence_resize(s->cache, now->sequence, position + count, err))
            return -1;
        tn_step *step = &steps->step[steps->n++];
        *step = (tn_step){.sequence = now->sequence, .position = position, .count = count};
        if (s->memory) {
            step->memory = now->memory;
            step->memory_length = tn_sequence_length(s->memory, now->memory);
        }
        p->done += count;
        if (p->done < now->n)
            return 0;
    }
    return 0;
}

static void start(rn_speaker *s, const tn_steps *steps)
{
    tn_run(&s->cx, s->work, s->arena, s->arena_bytes, false);
    s->cx.lora = s->engine->lora.by_id;
    s->cx.steps = steps;
    md_packed_attach(s->engine->packed, &s->cx);
}

/* What an answer is about goes into the sequence `number` of s->memory, n positions long. */
static int read_into(rn_speaker *s, int number, long n, const tx_ids *prompt, const float *pixels, oc_err *err)
{
    const md_model *m = s->engine->model;
    long length = s->reads ? (long)prompt->n : 0;
    tn_steps steps = {.cache = s->cache, .memory = s->memory, .step = s->step, .n = 1};
    s->step[0] = (tn_step){.memory = number, .memory_length = n};
    md_batch b = reading(s, length, pixels);
    for (long i = 0; i < length; i++) {
        b.input_ids[i] = prompt->p[i];
        b.positions[i] = (int)i;
    }
    start(s, &steps);
    m->family->remember(&s->cx, m->m, &b);
    return s->cx.failed ? bs_err(err, "%s", s->cx.err.text) : 0;
}

int rn_remember(rn_speaker *s, const tx_ids *prompt, const float *pixels, oc_err *err)
{
    const md_model *m = s->engine->model;
    long n = s->reads ? (long)prompt->n : s->remembered;
    if (s->engine->sizes.picture_rows && !pixels)
        return bs_err(err, "the model '%s' writes about a picture, and there is none", m->folder);
    int number = tn_sequence_open(s->memory, err);
    if (number < 0)
        return -1;
    if (!tn_sequence_resize(s->memory, number, n, err) && !read_into(s, number, n, prompt, pixels, err))
        return number;
    tn_sequence_close(s->memory, number);
    return -1;
}

static int pass(rn_speaker *s, const tn_steps *steps, tn_t *y, oc_err *err)
{
    oc_engine *e = s->engine;
    int nothing = 0;
    start(s, steps);
    md_batch b = s->batch;
    b.texts = 1;
    if (!b.wanted_n) /* keys and values are all that is asked for: the head runs for one row */
        b.wanted = &nothing, b.wanted_n = 1;
    *y = e->model->family->logits(&s->cx, e->model->m, &b);
    return s->cx.failed ? bs_err(err, "%s", s->cx.err.text) : 0;
}

static bool all_finite(const kn_table *t, const float *x, long n)
{
    if (isfinite(t->sum(n, x)))
        return true;
    float sum = 0; /* large ones may add up to infinity, but 0 * x is NaN exactly for what is not finite */
    for (long i = 0; i < n; i++)
        sum += 0 * x[i];
    return sum == 0;
}

int rn_run_feeds(rn_speaker *s, const rn_feed *feed, int n, rn_hear *hear, void *arg, oc_err *err)
{
    for (place p = {0}; p.at < n;) {
        tn_steps steps = {.cache = s->cache, .memory = s->memory, .step = s->step};
        tn_t y;
        if (fill(s, feed, n, &p, &steps, err) || pass(s, &steps, &y, err))
            return -1;
        for (long i = 0; i < s->batch.wanted_n; i++) {
            float *logits = y.v + i * tn_last(y);
            if (!all_finite(s->engine->kn, logits, tn_last(y)))
                return md_check_finite(s->engine->model, err)
                           ? -1
                           : bs_err(err, "the model '%s' gives values that are not finite", s->engine->model->folder);
            hear(arg, s->asked[i].feed, s->asked[i].index, logits);
        }
    }
    return 0;
}

/* ---- what is kept ----------------------------------------------------------------------------------------- */

static long common(const tx_ids *a, const tx_ids *b)
{
    size_t n = 0, most = a->n < b->n ? a->n : b->n;
    while (n < most && a->p[n] == b->p[n])
        n++;
    return (long)n;
}

static void drop(rn_speaker *s, rn_kept *k)
{
    if (k->sequence >= 0)
        tn_sequence_close(s->cache, k->sequence);
    tx_ids_clear(&k->ids);
    k->sequence = -1;
}

int rn_begin(rn_speaker *s, const tx_ids *ids, long *have, oc_err *err)
{
    rn_kept *best = NULL;
    *have = 0;
    for (int i = 0; i < RN_KEPT; i++) {
        long n = s->kept[i].sequence >= 0 ? common(&s->kept[i].ids, ids) : 0;
        if (n > *have) {
            best = &s->kept[i];
            *have = n;
        }
    }
    *have = *have < (long)ids->n ? *have : (long)ids->n - 1;
    if (!best || *have <= 0 || is_far(s, &(rn_feed){.n = (long)ids->n}, 0)) {
        *have = 0;
        return tn_sequence_open(s->cache, err);
    }
    best->used = ++s->uses;
    return tn_sequence_fork(s->cache, best->sequence, *have, err);
}

void rn_keep(rn_speaker *s, int sequence, tx_ids *ids)
{
    rn_kept *slot = &s->kept[0];
    long positions = tn_sequence_length(s->cache, sequence), far = s->engine->sizes.far;
    if (far && positions > far) { /* its beginning was turned as that of a long text */
        tn_sequence_close(s->cache, sequence);
        tx_ids_clear(ids);
        return;
    }
    for (int i = 0; i < RN_KEPT; i++) {
        rn_kept *k = &s->kept[i];
        if (k->sequence >= 0 && common(&k->ids, ids) == (long)k->ids.n)
            drop(s, k); /* the new one holds all of it */
        if (k->sequence < 0 || (slot->sequence >= 0 && k->used < slot->used))
            slot = k;
    }
    drop(s, slot);
    for (int i = 0; i < RN_KEPT; i++)
        positions += s->kept[i].sequence >= 0 ? tn_sequence_length(s->cache, s->kept[i].sequence) : 0;
    for (int i = 0; i < RN_KEPT && positions > s->context; i++) /* those that go on need their own room */
        if (s->kept[i].sequence >= 0) {
            positions -= tn_sequence_length(s->cache, s->kept[i].sequence);
            drop(s, &s->kept[i]);
        }
    *slot = (rn_kept){sequence, *ids, ++s->uses};
    *ids = (tx_ids){0};
}
