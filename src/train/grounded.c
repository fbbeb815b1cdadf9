/* grounded.c - see grounded.h. One batch:
 *
 *   eye:     pictures -> rows, kept for both where no gradient flows to them   (no tape)
 *   teacher: pictures, texts -> features of both -> keys [batch | queue]        (no tape)
 *   model:   pictures -> rows;  rows, texts -> features -> itc -> which others are hard -> itm;  rows, texts -> lm, mlm, vqa -> weighted sum */
#include "grounded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const tr_objective_names[] = {"itc", "itm", "lm", "mlm", "vqa", NULL};

/* Texts of a batch as one objective takes them, with what follows or stands at each place. */
typedef struct text_rows {
    int *ids, *target; /* [rows, length]; target -100: counts for nothing */
    uint8_t *mask;
    long length; /* of this batch */
} text_rows;

struct tr_grounded {
    tr_grounded_options o;
    dt_loader *loader;
    const dt_loaded *now;
    const dt_pairs *pairs;
    const tx_tokenizer *tokenizer;
    const md_model *m;
    md_model *teacher; /* NULL: there is none */
    md_sizes sizes;
    const md_objectives *does;
    long batch, keys, room; /* keys: batch + queue; room: of a text with what stands before it */
    tx_ids prompt[DT_LANGUAGES];
    text_rows read, pairs_read, written, hidden, asked; /* asked: questions; pairs_read [3 batch] */
    int *pair_picture, *pair_target;                    /* [3 batch * rows of a picture], [3 batch] */
    float *image_key, *text_key;                        /* [keys, embedding], the batch's first */
    float *key_group;                                   /* [keys]: pairs of one group mean the same; -1: of no group */
    float *to_text, *to_image;                          /* targets [batch, keys] */
    double *chance;                                     /* [batch] */
    bool still;                                         /* the eye learns nothing: its rows are seen once, by no tape */
    long rows_shape[3];                                 /* of all pictures */
    float *rows;                                        /* own; NULL: not needed, or not yet */
    float cursor;                                       /* where the queue is written next */
    long step, filled;
    double lost[TR_OBJECTIVES];
    tr_kept *kept;
};

unsigned tr_grounded_can(const md_model *m)
{
    const md_objectives *d = m->family->objectives ? m->family->objectives(m->m) : NULL;
    md_sizes s;
    m->family->sizes(m->m, &s);
    if (!d)
        return 0;
    return (d->text_features ? 1u << TR_ITC : 0u) | (d->match ? 1u << TR_ITM : 0u) |
           (d->write && s.prompt == MD_PROMPT_BEGINS ? 1u << TR_LM : 0u) | (d->find_words ? 1u << TR_MLM : 0u) |
           (d->write && s.answers ? 1u << TR_VQA : 0u);
}

/* ---- memory ------------------------------------------------------------------------------------------------- */

static int open_rows(text_rows *t, long rows, long length, oc_err *err)
{
    size_t n = (size_t)(rows * length);
    t->ids = bs_calloc(n, sizeof *t->ids, "a batch of texts", err);
    t->target = bs_calloc(n, sizeof *t->target, "a batch of texts", err);
    t->mask = bs_calloc(n, 1, "a batch of texts", err);
    t->length = length;
    return t->ids && t->target && t->mask ? 0 : -1;
}

static void close_rows(text_rows *t)
{
    bs_free(t->ids);
    bs_free(t->target);
    bs_free(t->mask);
}

void tr_grounded_close(tr_grounded *g)
{
    if (!g)
        return;
    text_rows *all[] = {&g->read, &g->pairs_read, &g->written, &g->hidden, &g->asked};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        close_rows(all[i]);
    for (int i = 0; i < DT_LANGUAGES; i++)
        tx_ids_clear(&g->prompt[i]);
    bs_free(g->pair_picture);
    bs_free(g->pair_target);
    bs_free(g->image_key);
    bs_free(g->text_key);
    bs_free(g->key_group);
    bs_free(g->to_text);
    bs_free(g->to_image);
    bs_free(g->chance);
    bs_free(g->rows);
    bs_free(g->kept);
    md_close(g->teacher);
    free(g);
}

static int open_arrays(tr_grounded *g, oc_err *err)
{
    size_t n = (size_t)g->batch, keys = (size_t)g->keys, width = (size_t)g->sizes.embedding;
    g->pair_picture = bs_calloc(3 * n * (size_t)g->sizes.picture_rows, sizeof *g->pair_picture, "pairs", err);
    g->pair_target = bs_calloc(3 * n, sizeof *g->pair_target, "pairs", err);
    g->image_key = bs_calloc(keys * width + 1, sizeof *g->image_key, "the queue", err);
    g->text_key = bs_calloc(keys * width + 1, sizeof *g->text_key, "the queue", err);
    g->key_group = bs_calloc(keys, sizeof *g->key_group, "the queue", err);
    g->to_text = bs_calloc(n * keys, sizeof *g->to_text, "targets", err);
    g->to_image = bs_calloc(n * keys, sizeof *g->to_image, "targets", err);
    g->chance = bs_calloc(n, sizeof *g->chance, "targets", err);
    if (!g->pair_picture || !g->pair_target || !g->image_key || !g->text_key || !g->key_group || !g->to_text || !g->to_image ||
        !g->chance)
        return -1;
    return open_rows(&g->read, g->batch, g->room, err) || open_rows(&g->pairs_read, 3 * g->batch, g->room, err) ||
                   open_rows(&g->written, g->batch, g->room, err) || open_rows(&g->hidden, g->batch, g->room, err) ||
                   open_rows(&g->asked, g->batch, g->room, err)
               ? -1
               : 0;
}

/* The teacher starts as the model; a queue of random directions is as good as one of strangers. */
static int open_teacher(tr_grounded *g, oc_err *err)
{
    if (g->o.weight[TR_ITC] <= 0 || g->o.momentum <= 0)
        return 0;
    g->teacher = md_create(g->m->folder, err);
    if (!g->teacher || md_own(g->teacher, err))
        return -1;
    tr_grounded_start(g);
    bs_rng r;
    bs_rng_seed(&r, g->o.seed, 0x9e3779b9u);
    long width = g->sizes.embedding;
    for (long i = g->batch; i < g->keys; i++) {
        float *row[] = {g->image_key + i * width, g->text_key + i * width};
        for (int k = 0; k < 2; k++) {
            double length = 0;
            for (long c = 0; c < width; c++) {
                row[k][c] = bs_rng_normal(&r);
                length += (double)row[k][c] * (double)row[k][c];
            }
            for (long c = 0; c < width; c++)
                row[k][c] = (float)((double)row[k][c] / sqrt(length));
        }
        g->key_group[i] = -1;
    }
    return 0;
}

static int list_kept(tr_grounded *g, tr_task *task, oc_err *err)
{
    int n = 0;
    if (!g->teacher)
        return 0;
    long width = g->sizes.embedding, queued = g->keys - g->batch;
    g->kept = bs_calloc((size_t)g->teacher->n + 4, sizeof *g->kept, "what is kept", err);
    if (!g->kept)
        return -1;
    for (int i = 0; i < g->teacher->n; i++)
        if (g->teacher->slots[i].own)
            g->kept[n++] = (tr_kept){g->teacher->slots[i].name, g->teacher->slots[i].own, g->teacher->slots[i].count};
    if (queued) {
        g->kept[n++] = (tr_kept){"queue.images", g->image_key + g->batch * width, queued * width};
        g->kept[n++] = (tr_kept){"queue.texts", g->text_key + g->batch * width, queued * width};
        g->kept[n++] = (tr_kept){"queue.groups", g->key_group + g->batch, queued};
    }
    g->kept[n++] = (tr_kept){"queue.cursor", &g->cursor, 1};
    task->kept = g->kept;
    task->kept_n = n;
    return 0;
}

void tr_grounded_start(tr_grounded *g)
{
    for (int i = 0; g->teacher && i < g->teacher->n; i++)
        if (g->teacher->slots[i].own && g->m->slots[i].p->v)
            memcpy(g->teacher->slots[i].own, g->m->slots[i].p->v, (size_t)g->m->slots[i].count * sizeof(float));
}

const double *tr_grounded_losses(const tr_grounded *g) { return g->lost; }

/* ---- texts of a batch --------------------------------------------------------------------------------------- */

/* Row i of t: `first` in place of the text's first id (-1: it stays), and what follows each token. */
static void put_text(text_rows *t, long i, const int *ids, long n, int first)
{
    int *to = t->ids + i * t->length, *target = t->target + i * t->length;
    for (long k = 0; k < t->length; k++) {
        to[k] = k >= n ? 0 : k == 0 && first >= 0 ? first : ids[k];
        target[k] = k + 1 < n ? ids[k + 1] : -100;
        t->mask[i * t->length + k] = k < n;
    }
}

static long length_of(const md_batch *b, long i)
{
    long n = 0;
    while (n < b->length && b->attention_mask[i * b->length + n])
        n++;
    return n;
}

/* [DEC] prompt text [SEP], of which the prompt is not learned. */
static void put_written(tr_grounded *g, long i, const int *ids, long n)
{
    const tx_ids *before = &g->prompt[g->now->language[i]];
    text_rows *t = &g->written;
    int *to = t->ids + i * t->length, *target = t->target + i * t->length;
    long p = (long)before->n, all = n + p;
    for (long k = 0; k < t->length; k++) {
        to[k] = k >= all ? 0 : k == 0 ? g->sizes.start : k <= p ? before->p[k - 1] : ids[k - p];
        t->mask[i * t->length + k] = k < all;
    }
    for (long k = 0; k < t->length; k++)
        target[k] = k >= p && k + 1 < all ? to[k + 1] : -100;
}

/* Any word, in the place of `id`; what a special token would be put for stays. */
static int draw_word(const tr_grounded *g, int id, bs_rng *r)
{
    int drawn = (int)bs_rng_below(r, (uint32_t)g->sizes.vocab);
    return !tx_token_name(g->tokenizer, drawn) || tx_is_special(g->tokenizer, drawn) ? id : drawn;
}

/* A seventh of the words, at least one: four of five are hidden, one of ten is another, one of ten stays (Devlin 2019). */
static void put_hidden(tr_grounded *g, long i, const int *ids, long n, bs_rng *r)
{
    text_rows *t = &g->hidden;
    put_text(t, i, ids, n, g->sizes.enc);
    int *to = t->ids + i * t->length, *target = t->target + i * t->length;
    long inner = n - 2, sure = inner > 0 ? 1 + (long)bs_rng_below(r, (uint32_t)inner) : 0;
    for (long k = 0; k < t->length; k++)
        target[k] = -100;
    for (long k = 1; k + 1 < n; k++) {
        if (k != sure && bs_rng_below(r, 100) >= 15)
            continue;
        uint32_t how = bs_rng_below(r, 10);
        target[k] = ids[k];
        to[k] = how < 8 ? g->sizes.mask : how == 8 ? draw_word(g, ids[k], r) : ids[k];
    }
}

static long longest_of(const md_batch *b)
{
    long most = 1;
    for (long i = 0; i < b->texts; i++)
        most = length_of(b, i) > most ? length_of(b, i) : most;
    return most;
}

static int put_question(tr_grounded *g, long i, oc_err *err)
{
    const dt_pair *p = &g->pairs->p[g->now->pair[i]];
    tx_ids ids = {0};
    int cut = 0;
    if (!p->question)
        return bs_err(err, "'%s' has no \"question\": the objective vqa learns from them", p->image);
    int result = rn_encode_text(g->tokenizer, p->question, strlen(p->question), g->o.length, &ids, &cut, err);
    if (!result)
        put_text(&g->asked, i, ids.p, (long)ids.n, g->sizes.enc);
    tx_ids_clear(&ids);
    return result;
}

static int put_texts(tr_grounded *g, const md_batch *b, oc_err *err)
{
    long most = longest_of(b), before = 0;
    for (int i = 0; i < DT_LANGUAGES; i++)
        before = (long)g->prompt[i].n > before ? (long)g->prompt[i].n : before;
    g->read.length = g->hidden.length = g->pairs_read.length = most;
    g->written.length = most + before;
    g->asked.length = g->o.length;
    bs_rng r;
    bs_rng_seed(&r, g->o.seed ^ 0x6d6c6d, (uint64_t)g->step);
    for (long i = 0; i < b->texts; i++) {
        const int *ids = b->input_ids + i * b->length;
        long n = length_of(b, i);
        put_text(&g->read, i, ids, n, -1);
        put_written(g, i, ids, n);
        if (g->o.weight[TR_MLM] > 0)
            put_hidden(g, i, ids, n, &r);
        if (g->o.weight[TR_VQA] > 0 && put_question(g, i, err))
            return -1;
    }
    return 0;
}

static md_words words_of(const text_rows *t, long rows) { return (md_words){t->ids, t->mask, rows, t->length}; }

/* ---- itc ---------------------------------------------------------------------------------------------------- */

/* Of group a and b: do they mean the same? Pairs of no group only themselves. */
static bool same(float a, float b, bool self) { return self || (a >= 0 && a == b); }

/* The teacher's weights move towards the model's. */
static void follow(const tr_grounded *g, kn_work *w)
{
    const kn_table *kn = kn_work_table(w);
    for (int i = 0; i < g->teacher->n; i++) {
        const md_slot *s = &g->teacher->slots[i];
        if (!s->own || !g->m->slots[i].p->v)
            continue;
        kn->scale(s->count, g->o.momentum, s->own, s->own);
        kn->axpy(s->count, 1 - g->o.momentum, g->m->slots[i].p->v, s->own);
    }
}

/* Rows of the batch's pictures, as m sees them; an eye that learns nothing has seen them already, and is its own teacher. */
static tn_t look(tn_ctx *cx, const tr_grounded *g, const md_model *m, const md_batch *b)
{
    return g->still ? tn_input(cx, g->rows, false, 3, g->rows_shape) : g->does->see(cx, m->m, b);
}

typedef struct shaking {
    const tr_grounded *g;
    const kn_table *kn;
} shaking;

/* See row_noise and row_drop. The same for any number of threads. */
static void shake_rows(void *arg, long begin, long end, int worker)
{
    const tr_grounded *g = ((shaking *)arg)->g;
    const kn_table *kn = ((shaking *)arg)->kn;
    long rows = g->rows_shape[1], width = g->rows_shape[2];
    (void)worker;
    for (long i = begin; i < end; i++) {
        bs_rng r;
        bs_rng_seed(&r, g->o.seed ^ 0x726f7773, (uint64_t)(g->step * g->batch + i));
        for (long k = 0; k < rows; k++) {
            float *row = g->rows + (i * rows + k) * width;
            float size = (float)sqrt(kn->sum_squares(width, row) / (double)width);
            if (k > 0 && bs_rng_float(&r) < g->o.row_drop)
                memset(row, 0, (size_t)width * sizeof *row);
            else if (g->o.row_noise > 0)
                for (long c = 0; c < width; c++)
                    row[c] += g->o.row_noise * size * bs_rng_normal(&r);
        }
    }
}

static int look_once(tr_grounded *g, const tr_pass *p, tn_ctx *cx, const md_batch *b, oc_err *err)
{
    size_t bytes = (size_t)(g->rows_shape[0] * g->rows_shape[1] * g->rows_shape[2]) * sizeof *g->rows;
    if (!g->rows && !(g->rows = bs_alloc(bytes, "the rows of a batch of pictures", err)))
        return -1;
    tr_begin(p, cx, false);
    tn_t rows = g->does->see(cx, g->m->m, b);
    if (cx->failed)
        return bs_err(err, "%s", cx->err.text);
    memcpy(g->rows, rows.v, bytes);
    shaking s = {g, kn_work_table(p->work)};
    if (g->o.row_noise > 0 || g->o.row_drop > 0)
        bs_pool_for(kn_work_pool(p->work), g->batch, 4, shake_rows, &s);
    return 0;
}

/* The teacher's features of the batch become the first keys. */
static int put_keys(tr_grounded *g, tn_ctx *cx, const md_batch *b)
{
    size_t bytes = (size_t)(g->batch * g->sizes.embedding) * sizeof(float);
    md_words w = words_of(&g->read, g->batch);
    tn_t image = g->does->image_features(cx, g->teacher->m, look(cx, g, g->teacher, b));
    tn_t text = g->does->text_features(cx, g->teacher->m, &w);
    if (cx->failed)
        return -1;
    if (!tn_live(cx))
        return 0;
    memcpy(g->image_key, image.v, bytes);
    memcpy(g->text_key, text.v, bytes);
    for (long i = 0; i < g->batch; i++)
        g->key_group[i] = (float)g->pairs->p[g->now->pair[i]].group;
    return 0;
}

/* target[i] = (1 - alpha) (evenly over what means the same as i) + alpha softmax(mine[i] . keys / temperature). */
static void put_target(const tr_grounded *g, long i, const float *mine, const float *keys, float temperature, float *target)
{
    const kn_table *kn = kn_best(NULL);
    long width = g->sizes.embedding, equal = 0;
    double ramp = g->o.ramp > 0 && g->step < g->o.ramp ? (double)g->step / (double)g->o.ramp : 1;
    float alpha = (float)((double)g->o.alpha * ramp);
    for (long k = 0; k < g->keys; k++) {
        target[k] = kn->dot(width, mine + i * width, keys + k * width) / temperature;
        equal += same(g->key_group[i], g->key_group[k], i == k);
    }
    kn->softmax(g->keys, target, target);
    for (long k = 0; k < g->keys; k++)
        target[k] = alpha * target[k] + (same(g->key_group[i], g->key_group[k], i == k) ? (1 - alpha) / (float)equal : 0);
}

static float temperature_of(const tr_grounded *g, const md_model *m)
{
    const tn_param *p = g->m->family->temperature ? g->m->family->temperature(m->m) : NULL;
    return p && p->v ? p->v[0] : 0.07f;
}

static void put_some_targets(void *arg, long begin, long end, int worker)
{
    (void)worker;
    tr_grounded *g = arg;
    float t = temperature_of(g, g->m);
    for (long i = begin; i < end; i++) {
        put_target(g, i, g->image_key, g->text_key, t, g->to_text + i * g->keys);
        put_target(g, i, g->text_key, g->image_key, t, g->to_image + i * g->keys);
    }
}

/* Scores of the batch's pictures and texts: pictures by keys of texts [B, keys], and the other way round. */
typedef struct scored {
    tn_t loss, per_image, per_text;
} scored;

static scored contrast(tn_ctx *cx, const tr_grounded *g, tn_t rows, const md_batch *b)
{
    md_words w = words_of(&g->read, g->batch);
    tn_t image = g->does->image_features(cx, g->m->m, rows), text = g->does->text_features(cx, g->m->m, &w);
    long shape[] = {g->keys, g->sizes.embedding};
    scored s;
    if (g->teacher) {
        s.per_image = g->does->scores(cx, g->m->m, tn_matmul_nt(cx, image, tn_input(cx, g->text_key, false, 2, shape)));
        s.per_text = g->does->scores(cx, g->m->m, tn_matmul_nt(cx, text, tn_input(cx, g->image_key, false, 2, shape)));
        s.loss = tn_sum2(cx, tn_soft_cross_entropy(cx, s.per_image, g->to_text, false), 0.5f,
                         tn_soft_cross_entropy(cx, s.per_text, g->to_image, false), 0.5f);
        return s;
    }
    s.loss = g->m->family->pair_loss(cx, g->m->m, image, text, b);
    s.per_text = g->does->scores(cx, g->m->m, tn_matmul_nt(cx, text, image));
    s.per_image = tn_transpose(cx, s.per_text);
    return s;
}

/* The oldest of the queue are overwritten. */
static void enqueue(tr_grounded *g)
{
    long width = g->sizes.embedding, queued = g->keys - g->batch;
    for (long i = 0; g->teacher && queued && i < g->batch; i++) {
        long at = g->batch + ((long)g->cursor + i) % queued;
        memcpy(g->image_key + at * width, g->image_key + i * width, (size_t)width * sizeof(float));
        memcpy(g->text_key + at * width, g->text_key + i * width, (size_t)width * sizeof(float));
        g->key_group[at] = g->key_group[i];
    }
    if (queued)
        g->cursor = (float)(((long)g->cursor + g->batch) % queued);
}

/* ---- itm ---------------------------------------------------------------------------------------------------- */

/* chance[k] = softmax(scores)[k]; 1 where there are none. */
static void likely(const float *scores, long n, double *chance)
{
    double max = -INFINITY, all = 0;
    for (long k = 0; scores && k < n; k++)
        max = fmax(max, (double)scores[k]);
    for (long k = 0; k < n; k++)
        all += chance[k] = scores ? exp((double)scores[k] - max) : 1;
    for (long k = 0; scores && k < n; k++)
        chance[k] /= all;
}

/* One that does not belong to i, the likelier the higher it scores (scores NULL: any); i itself where there is none. BLIP's weights: softmax + 1e-4. */
static long draw_other(tr_grounded *g, long i, const float *scores, bs_rng *r)
{
    double sum = 0;
    const dt_pair *p = g->pairs->p;
    likely(scores, g->batch, g->chance);
    for (long k = 0; k < g->batch; k++) {
        float a = (float)p[g->now->pair[i]].group, b = (float)p[g->now->pair[k]].group;
        bool apart = !same(a, b, g->now->pair[i] == g->now->pair[k]);
        g->chance[k] = apart ? g->chance[k] + 1e-4 : 0;
        sum += g->chance[k];
    }
    double at = sum * (double)bs_rng_float(r);
    long last = i;
    for (long k = 0; k < g->batch; k++)
        if (g->chance[k] > 0) {
            last = k;
            at -= g->chance[k];
            if (at < 0)
                break;
        }
    return last;
}

static void put_pair(tr_grounded *g, const md_batch *b, long pair, long picture, long text, bool together)
{
    long rows = g->sizes.picture_rows;
    for (long k = 0; k < rows; k++)
        g->pair_picture[pair * rows + k] = (int)(picture * rows + k);
    put_text(&g->pairs_read, pair, b->input_ids + text * b->length, length_of(b, text), g->sizes.enc);
    g->pair_target[pair] = together;
}

static void put_pairs(tr_grounded *g, const md_batch *b, const scored *s)
{
    bs_rng r;
    bs_rng_seed(&r, g->o.seed ^ 0x69746d, (uint64_t)g->step);
    for (long i = 0; i < g->batch; i++) {
        const float *of_text = s->per_text.v ? s->per_text.v + i * tn_last(s->per_text) : NULL,
                    *of_image = s->per_image.v ? s->per_image.v + i * tn_last(s->per_image) : NULL;
        long picture = draw_other(g, i, of_text, &r), text = draw_other(g, i, of_image, &r);
        put_pair(g, b, i, i, i, true);
        put_pair(g, b, g->batch + i, picture, i, picture == i);
        put_pair(g, b, 2 * g->batch + i, i, text, text == i);
    }
}

static tn_t match(tn_ctx *cx, const tr_grounded *g, tn_t rows)
{
    long n = 3 * g->batch;
    md_words w = words_of(&g->pairs_read, n);
    tn_t seen = tn_pick(cx, rows, g->pair_picture, n * g->sizes.picture_rows);
    seen = tn_reshape(cx, seen, 3, (long[]){n, g->sizes.picture_rows, tn_last(rows)});
    return tn_cross_entropy(cx, g->does->match(cx, g->m->m, &w, seen), g->pair_target, 0);
}

/* ---- lm, mlm, vqa ------------------------------------------------------------------------------------------- */

static tn_t token_loss(tn_ctx *cx, tn_t y, const int *target, float smoothing)
{
    return tn_cross_entropy(cx, tn_reshape(cx, y, 2, (long[]){tn_rows(y), tn_last(y)}), target, smoothing);
}

static tn_t write_texts(tn_ctx *cx, const tr_grounded *g, tn_t seen, const uint8_t *seen_mask)
{
    md_words w = words_of(&g->written, g->batch);
    return token_loss(cx, g->does->write(cx, g->m->m, &w, seen, seen_mask), g->written.target, g->does->smoothing(g->m->m));
}

static tn_t find_words(tn_ctx *cx, const tr_grounded *g, tn_t rows)
{
    md_words w = words_of(&g->hidden, g->batch);
    return token_loss(cx, g->does->find_words(cx, g->m->m, &w, rows), g->hidden.target, 0);
}

/* What fills up a question is not looked at: who asks later fills up nothing. */
static tn_t answer(tn_ctx *cx, const tr_grounded *g, tn_t rows)
{
    md_words q = words_of(&g->asked, g->batch);
    return write_texts(cx, g, g->does->read_question(cx, g->m->m, &q, rows), q.mask);
}

/* ---- all of them -------------------------------------------------------------------------------------------- */

static tn_t add_loss(tn_ctx *cx, tn_t sum, tn_t loss, float weight)
{
    return sum.rank ? tn_sum2(cx, sum, 1, loss, weight) : tn_scale(cx, loss, weight);
}

static tn_t losses(tn_ctx *cx, tr_grounded *g, const md_batch *b)
{
    const float *w = g->o.weight;
    tn_t rows = look(cx, g, g->m, b), loss[TR_OBJECTIVES] = {{0}}, sum = {0};
    scored s = {{0}, {0}, {0}};
    if (w[TR_ITC] > 0) {
        s = contrast(cx, g, rows, b);
        loss[TR_ITC] = s.loss;
    }
    if (w[TR_ITM] > 0) {
        if (tn_live(cx))
            put_pairs(g, b, &s);
        loss[TR_ITM] = match(cx, g, rows);
    }
    if (w[TR_LM] > 0)
        loss[TR_LM] = write_texts(cx, g, rows, NULL);
    if (w[TR_MLM] > 0)
        loss[TR_MLM] = find_words(cx, g, rows);
    if (w[TR_VQA] > 0)
        loss[TR_VQA] = answer(cx, g, rows);
    for (int i = 0; i < TR_OBJECTIVES; i++) {
        if (w[i] > 0)
            sum = add_loss(cx, sum, loss[i], w[i]);
        g->lost[i] = tn_live(cx) && w[i] > 0 ? (double)loss[i].v[0] : (double)NAN;
    }
    return sum;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t plan(void *arg, const tr_pass *p, const kn_table *kn, int threads)
{
    tr_grounded *g = arg;
    tn_ctx cx;
    md_batch b = {.images = g->batch,
                  .texts = g->batch,
                  .length = g->o.length,
                  .channels = g->sizes.channels,
                  .height = g->sizes.image_size,
                  .width = g->sizes.image_size};
    text_rows *all[] = {&g->read, &g->pairs_read, &g->written, &g->hidden, &g->asked};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        all[i]->length = g->room;
    tr_begin_plan(p, kn, threads, &cx, true);
    g->still = false;
    tn_t rows = g->does->see(&cx, g->m->m, &b);
    g->still = !rows.grad;
    memcpy(g->rows_shape, rows.shape, sizeof g->rows_shape);
    tr_begin_plan(p, kn, threads, &cx, false);
    g->does->see(&cx, g->m->m, &b);
    size_t most = tn_plan_bytes(&cx);
    tr_begin_plan(p, kn, threads, &cx, false);
    if (g->teacher)
        put_keys(g, &cx, &b);
    most = larger(most, cx.failed ? 0 : tn_plan_bytes(&cx));
    tr_begin_plan(p, kn, threads, &cx, true);
    losses(&cx, g, &b);
    return cx.failed ? 0 : larger(most, tn_plan_bytes(&cx));
}

static double gradients(void *arg, const tr_pass *p, const md_batch *b, oc_err *err)
{
    tr_grounded *g = arg;
    tn_ctx cx;
    if (!g->still && (g->o.row_noise > 0 || g->o.row_drop > 0)) {
        bs_err(err, "--row-noise and --row-drop are for an eye that learns nothing (--freeze vision_model.)");
        return (double)NAN;
    }
    if (put_texts(g, b, err) || (g->still && look_once(g, p, &cx, b, err)))
        return (double)NAN;
    if (g->teacher) {
        follow(g, p->work);
        tr_begin(p, &cx, false);
        cx.lora = NULL;
        if (put_keys(g, &cx, b))
            return tr_checked(p, &cx, 0, err);
        bs_pool_for(kn_work_pool(p->work), g->batch, 4, put_some_targets, g);
    }
    tr_begin(p, &cx, true);
    tn_t loss = losses(&cx, g, b);
    tn_seed(&cx, loss, NULL);
    double value = tn_backward(&cx) ? (double)NAN : (double)loss.v[0];
    enqueue(g);
    return tr_checked(p, &cx, value, err);
}

static const md_batch *next(void *arg, long step, bs_pool *pool, oc_err *err)
{
    tr_grounded *g = arg;
    g->step = step;
    g->now = dt_loader_next(g->loader, step, pool, err);
    return g->now ? &g->now->batch : NULL;
}

/* KEY=TEXT of every language that has one. */
static int read_prompts(tr_grounded *g, oc_err *err)
{
    for (int i = 0; i < g->o.prompts_n; i++) {
        const char *equals = strchr(g->o.prompts[i], '=');
        char key[64];
        snprintf(key, sizeof key, "%.*s", equals ? (int)(equals - g->o.prompts[i]) : 0, g->o.prompts[i]);
        int language = equals ? dt_language(g->pairs, key) : -1;
        if (language < 0)
            return bs_err(
                err, "--prompt '%s': expected KEY=TEXT with the key of a language of the data, such as text=", g->o.prompts[i]);
        if (tx_encode(g->tokenizer, equals + 1, strlen(equals + 1), false, &g->prompt[language], err))
            return -1;
        if ((long)g->prompt[language].n > g->room)
            g->room = (long)g->prompt[language].n;
    }
    return 0;
}

/* What words are hidden behind: the model says, or its tokenizer. */
static int find_mask(tr_grounded *g, oc_err *err)
{
    if (g->sizes.mask < 0)
        g->sizes.mask = tx_roles_of(g->tokenizer)->mask;
    if (g->sizes.mask < 0)
        g->sizes.mask = tx_token_id(g->tokenizer, "[MASK]");
    return g->sizes.mask >= 0 && g->sizes.mask < g->sizes.vocab
               ? 0
               : bs_err(err,
                        "the tokenizer of '%s' has no [MASK] that the model knows, which the objective mlm hides words behind",
                        g->m->folder);
}

static int check(tr_grounded *g, oc_err *err)
{
    unsigned can = tr_grounded_can(g->m);
    bool any = false;
    for (int i = 0; i < TR_OBJECTIVES; i++) {
        any |= g->o.weight[i] > 0;
        if (g->o.weight[i] > 0 && !(can & 1u << i))
            return bs_err(err, "the model '%s' has no part for the objective '%s'%s", g->m->folder, tr_objective_names[i],
                          i == TR_VQA ? ", which takes an encoder as wide as the eye and a decoder" : "");
    }
    if ((g->o.weight[TR_ITC] > 0 || g->o.weight[TR_ITM] > 0) && tr_check_others(g->batch, err))
        return -1;
    if (g->o.weight[TR_VQA] > 0 && g->o.weight[TR_LM] > 0)
        return bs_err(err, "lm and vqa do not go together: a text is either said of a picture or answers a question");
    if (!any)
        return bs_err(err, "no objective is left");
    return g->o.weight[TR_MLM] > 0 ? find_mask(g, err) : 0;
}

tr_grounded *tr_grounded_open(const tr_grounded_options *o, dt_loader *loader, const dt_pairs *pairs,
                              const tx_tokenizer *tokenizer, const md_model *m, long batch, tr_task *task, oc_err *err)
{
    tr_grounded *g = calloc(1, sizeof *g);
    if (!g) {
        bs_err(err, "out of memory: a task");
        return NULL;
    }
    *g = (tr_grounded){.o = *o, .loader = loader, .pairs = pairs, .tokenizer = tokenizer, .m = m, .batch = batch};
    g->does = m->family->objectives ? m->family->objectives(m->m) : NULL;
    m->family->sizes(m->m, &g->sizes);
    if (check(g, err) || read_prompts(g, err))
        goto failed;
    g->keys = batch + (o->weight[TR_ITC] > 0 && o->momentum > 0 ? o->queue : 0);
    g->room += o->length; /* so far the longest prompt */
    if (g->room > g->sizes.max_tokens) {
        bs_err(err, "texts of %ld tokens with what stands before them are longer than the model's %ld positions", g->room,
               g->sizes.max_tokens);
        goto failed;
    }
    *task = (tr_task){.arg = g, .unit = "pairs", .units = batch, .next = next, .plan = plan, .gradients = gradients};
    if (!open_arrays(g, err) && !open_teacher(g, err) && !list_kept(g, task, err))
        return g;
failed:
    tr_grounded_close(g);
    return NULL;
}
