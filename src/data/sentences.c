/* sentences.c - see sentences.h. */
#include "sentences.h"

#include <stdlib.h>
#include <string.h>

#include "../model/reading.h"

/* ---- lines --------------------------------------------------------------------------------------------------- */

typedef struct reader {
    dt_sentences *s;
    const tx_tokenizer *t;
    const char *path;
    long line, most;
    size_t room; /* of s->first */
    tx_ids text; /* the one at hand */
} reader;

static int make_room(reader *r, oc_err *err)
{
    dt_sentences *s = r->s;
    size_t needed = (size_t)(s->n + 1) * DT_SIDES + 1;
    if (needed <= r->room)
        return 0;
    size_t room = 2 * needed + 1024, *first = realloc(s->first, room * sizeof *first);
    if (!first)
        return bs_err(err, "out of memory: the texts of '%s'", r->path);
    if (!r->room)
        first[0] = 0;
    s->first = first;
    r->room = room;
    return 0;
}

static int add_text(reader *r, long at, const char *text, oc_err *err)
{
    dt_sentences *s = r->s;
    int result = rn_encode_text(r->t, text, strlen(text), r->most, &r->text, &s->cut, err);
    for (size_t i = 0; i < r->text.n && !result; i++)
        result = tx_ids_put(&s->ids, r->text.p[i], err);
    s->longest = (long)r->text.n > s->longest ? (long)r->text.n : s->longest;
    s->first[at + 1] = s->ids.n;
    return result;
}

static int add_line(reader *r, const char *const *text, oc_err *err)
{
    static const char *const names[] = {"anchor", "positive", "negative"};
    dt_sentences *s = r->s;
    int sides = text[DT_NEGATIVE] ? 3 : 2;
    for (int i = 0; i < sides; i++)
        if (!text[i] || !*text[i])
            return bs_err(err, "'%s' line %ld: no \"%s\", expected a text", r->path, r->line, names[i]);
    if (s->n && sides != s->sides)
        return bs_err(err, "'%s' line %ld: a \"negative\" stands in every line or in none", r->path, r->line);
    s->sides = sides;
    if (make_room(r, err))
        return -1;
    for (int i = 0; i < sides; i++)
        if (add_text(r, s->n * sides + i, text[i], err))
            return -1;
    s->n++;
    return 0;
}

static int add_json(void *arg, char *line, size_t n, long number, oc_err *err)
{
    reader *r = arg;
    char name[600];
    r->line = number;
    const char *text[DT_SIDES] = {0};
    snprintf(name, sizeof name, "%s line %ld", r->path, r->line);
    ck_config *c = ck_config_parse(line, n, name, err);
    int result = !c || ck_string(c, "anchor", &text[DT_ANCHOR], err) || ck_string(c, "positive", &text[DT_POSITIVE], err) ||
                         ck_string(c, "negative", &text[DT_NEGATIVE], err)
                     ? -1
                     : add_line(r, text, err);
    ck_config_free(c);
    return result;
}

static int add_tsv(void *arg, char *line, size_t n, long number, oc_err *err)
{
    (void)n;
    reader *r = arg;
    r->line = number;
    const char *text[DT_SIDES] = {0};
    line[strcspn(line, "\r")] = 0;
    for (int i = 0; line && i < DT_SIDES; i++) {
        char *tab = strchr(line, '\t');
        text[i] = line;
        if (tab)
            *tab++ = 0;
        line = tab;
    }
    return add_line(r, text, err);
}

static int read_lines(reader *r, bs_buf *b, oc_err *err)
{
    const char *dot = strrchr(r->path, '.');
    bool json = dot && !strcmp(dot, ".jsonl"), tsv = dot && !strcmp(dot, ".tsv");
    if (!json && !tsv)
        return bs_err(err, "'%s': expected a .jsonl of {\"anchor\", \"positive\"} or a .tsv of texts that mean the same",
                      r->path);
    if (bs_buf_lines(b, json ? add_json : add_tsv, r, err))
        return -1;
    return r->s->n ? 0 : bs_err(err, "'%s': holds no texts", r->path);
}

int dt_sentences_read(dt_sentences *s, const char *path, const tx_tokenizer *t, long most, oc_err *err)
{
    *s = (dt_sentences){0};
    reader r = {.s = s, .t = t, .path = path, .most = most};
    bs_buf b = {0};
    int result = bs_read_file(&b, path, (size_t)8 << 30, err) || read_lines(&r, &b, err) ? -1 : 0;
    bs_buf_clear(&b);
    tx_ids_clear(&r.text);
    if (result) {
        dt_sentences_clear(s);
        return -1;
    }
    s->hash = bs_hash(BS_HASH_START, s->ids.p, s->ids.n * sizeof *s->ids.p);
    s->hash = bs_hash(s->hash, s->first, (size_t)(s->n * s->sides + 1) * sizeof *s->first);
    return 0;
}

void dt_sentences_clear(dt_sentences *s)
{
    tx_ids_clear(&s->ids);
    free(s->first);
    *s = (dt_sentences){0};
}

/* ---- batches --------------------------------------------------------------------------------------------------- */

int dt_anchors_open(dt_anchors *l, const dt_sentences *s, const md_model *m, int pad, long n, uint64_t seed, oc_err *err)
{
    size_t texts = (size_t)(n * s->sides);
    *l = (dt_anchors){.s = s, .m = m, .n = n, .pad = pad};
    l->ids = bs_calloc(texts, sizeof *l->ids, "a batch of texts", err);
    l->rows = bs_calloc(texts, sizeof *l->rows, "a batch of texts", err);
    l->target = bs_calloc((size_t)n * texts, sizeof *l->target, "the targets of a batch", err);
    if (!l->ids || !l->rows || !l->target || dt_order_open(&l->order, s->n, seed, err) ||
        md_texts_open(&l->batch, m, (long)texts, err)) {
        dt_anchors_close(l);
        return -1;
    }
    for (size_t i = 0; i < texts; i++)
        l->rows[i] = (int)i;
    return 0;
}

void dt_anchors_close(dt_anchors *l)
{
    md_batch_clear(&l->batch);
    dt_order_clear(&l->order);
    bs_free(l->ids);
    bs_free(l->rows);
    bs_free(l->target);
    *l = (dt_anchors){0};
}

static bool equal(const tx_ids *a, const tx_ids *b) { return a->n == b->n && !memcmp(a->p, b->p, a->n * sizeof *a->p); }

/* Two lines may say the same: an anchor must not be driven away from another line's text that is its own word by word. */
static void set_targets(dt_anchors *l)
{
    long candidates = l->n * (l->s->sides - 1);
    for (long i = 0; i < l->n; i++) {
        float *row = l->target + i * candidates;
        const tx_ids *other = l->ids + l->n;
        int same = 0;
        for (long k = 0; k < candidates; k++) {
            row[k] = k == i || equal(&other[i], &other[k]);
            same += row[k] > 0;
        }
        for (long k = 0; k < candidates; k++)
            row[k] /= (float)same;
    }
}

const md_batch *dt_anchors_next(dt_anchors *l, long step)
{
    const dt_sentences *s = l->s;
    for (long i = 0; i < l->n; i++) {
        long line = dt_order_at(&l->order, step * l->n + i);
        for (int side = 0; side < s->sides; side++) {
            const size_t *first = s->first + line * s->sides + side;
            l->ids[side * l->n + i] = (tx_ids){.p = s->ids.p + first[0], .n = first[1] - first[0]};
        }
    }
    set_targets(l);
    md_texts_put(&l->batch, l->m, l->ids, l->n * s->sides, l->pad);
    return &l->batch;
}
