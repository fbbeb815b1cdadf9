/* rerank.c - candidates of both directions, judged picture by picture. */
#include "rerank.h"

#include <string.h>

#include "../run/match.h"
#include "metrics.h"

/* The candidates of one direction: of query q number k is best[q * most + k], with its logit. */
typedef struct side {
    long *best;
    float *logit;
} side;

typedef struct judging {
    oc_session *s;
    const ev_ranking *r;
    long width, most;
    side words, pictures; /* of text queries: pictures; of picture queries: texts */
    long *start, *entry;  /* [n + 1], [n * most]: which places of `words` are of picture p: entry[start[p] .. start[p + 1]) */
    tx_ids *ids, *some;   /* [n] of all texts; [n] of those that one picture is judged with, only looked at */
    long *list, *place;   /* [n] which those are; [n] where a text is among them, or -1 */
    float *logits;        /* [n, 2] */
} judging;

/* ---- memory ------------------------------------------------------------------------------------------------------- */

static int open_all(judging *j, oc_err *err)
{
    size_t n = (size_t)j->r->n, all = n * (size_t)j->most;
    j->words = (side){bs_alloc(all * sizeof(long), "candidates", err), bs_alloc(all * sizeof(float), "candidates", err)};
    j->pictures = (side){bs_alloc(all * sizeof(long), "candidates", err), bs_alloc(all * sizeof(float), "candidates", err)};
    j->start = bs_calloc(n + 1, sizeof *j->start, "candidates", err);
    j->entry = bs_alloc(all * sizeof *j->entry, "candidates", err);
    j->ids = bs_calloc(n, sizeof *j->ids, "texts", err);
    j->some = bs_alloc(n * sizeof *j->some, "texts", err);
    j->list = bs_alloc(n * sizeof *j->list, "texts", err);
    j->place = bs_alloc(n * sizeof *j->place, "texts", err);
    j->logits = bs_alloc(2 * n * sizeof *j->logits, "scores", err);
    if (!j->words.best || !j->words.logit || !j->pictures.best || !j->pictures.logit || !j->start || !j->entry || !j->ids ||
        !j->some || !j->list || !j->place || !j->logits)
        return -1;
    memset(j->place, -1, n * sizeof *j->place);
    return 0;
}

static void close_all(judging *j)
{
    for (long i = 0; j->ids && i < j->r->n; i++)
        tx_ids_clear(&j->ids[i]);
    bs_free(j->words.best);
    bs_free(j->words.logit);
    bs_free(j->pictures.best);
    bs_free(j->pictures.logit);
    bs_free(j->start);
    bs_free(j->entry);
    bs_free(j->ids);
    bs_free(j->some);
    bs_free(j->list);
    bs_free(j->place);
    bs_free(j->logits);
}

/* ---- candidates ------------------------------------------------------------------------------------------------------ */

enum { ROWS = 256 }; /* of scores in memory */

static int find_best(const judging *j, const float *queries, const float *answers, long *best, oc_err *err)
{
    long n = j->r->n;
    float *scores = bs_alloc((size_t)ROWS * (size_t)n * sizeof *scores, "scores", err);
    for (long at = 0; scores && at < n; at += ROWS) {
        long part = n - at < ROWS ? n - at : ROWS;
        ev_scores(j->s->work, queries + at * j->width, part, answers, n, j->width, scores);
        for (long i = 0; i < part; i++)
            ev_best(scores + i * n, n, j->most, best + (at + i) * j->most);
    }
    bs_free(scores);
    return scores ? 0 : -1;
}

/* The candidates of texts, by picture. */
static void list_by_picture(judging *j)
{
    long all = j->r->n * j->most;
    for (long i = 0; i < all; i++)
        j->start[j->words.best[i] + 1]++;
    for (long p = 0; p < j->r->n; p++)
        j->start[p + 1] += j->start[p];
    for (long i = all; i-- > 0;) /* backwards: start[p + 1] falls to where p's begin */
        j->entry[--j->start[j->words.best[i] + 1]] = i;
    for (long p = 0; p < j->r->n; p++)
        j->start[p] = j->start[p + 1];
    j->start[j->r->n] = all;
}

static void add_text(judging *j, long text, long *n)
{
    if (j->place[text] >= 0)
        return;
    j->place[text] = *n;
    j->some[*n] = j->ids[text];
    j->list[(*n)++] = text;
}

/* ---- judging ---------------------------------------------------------------------------------------------------------- */

static float together(const judging *j, long text) { return j->logits[2 * j->place[text] + 1]; }

static int judge_picture(judging *j, long p, oc_err *err)
{
    const long *mine = j->pictures.best + p * j->most, *theirs = j->entry + j->start[p];
    long n = 0, other = j->start[p + 1] - j->start[p];
    oc_err why = {0};
    for (long k = 0; k < j->most; k++)
        add_text(j, mine[k], &n);
    for (long k = 0; k < other; k++)
        add_text(j, theirs[k] / j->most, &n);
    if (rn_match_texts_of_file(j->s, j->r->image[p], j->some, (int)n, j->logits, &why, err))
        return -1;
    if (why.text[0])
        return bs_err(err, "%s", why.text);
    for (long k = 0; k < j->most; k++)
        j->pictures.logit[p * j->most + k] = together(j, mine[k]);
    for (long k = 0; k < other; k++)
        j->words.logit[theirs[k]] = together(j, theirs[k] / j->most);
    for (long k = 0; k < n; k++)
        j->place[j->list[k]] = -1;
    return 0;
}

static int judge_all(judging *j, ev_talk *talk, oc_err *err)
{
    int cut = 0; /* the same texts were told of when they were embedded */
    for (long i = 0; i < j->r->n; i++)
        if (rn_encode_pair(j->s->engine, j->r->text[i], &j->ids[i], &cut, err))
            return -1;
    for (long p = 0; p < j->r->n; p++) {
        if (judge_picture(j, p, err))
            return -1;
        if (talk && talk->progress)
            talk->progress(talk->arg, "judging", p + 1, j->r->n);
    }
    return 0;
}

/* ---- ranks ------------------------------------------------------------------------------------------------------------- */

/* Of one query's cosines those of its candidates get their logits; the others fall behind all of them, as far as in BLIP's own program. */
static void put_logits(const judging *j, const side *c, long query, float *scores)
{
    static const float BEHIND = 100;
    const long *best = c->best + query * j->most;
    float *logit = c->logit + query * j->most;
    for (long k = 0; k < j->most; k++)
        logit[k] += scores[best[k]];
    for (long i = 0; i < j->r->n; i++)
        scores[i] -= BEHIND;
    for (long k = 0; k < j->most; k++)
        scores[best[k]] = logit[k];
}

static int rank(const judging *j, const float *queries, const float *answers, const side *c, ev_direction *out, oc_err *err)
{
    long n = j->r->n, *ranks = bs_alloc((size_t)n * sizeof *ranks, "ranks", err);
    float *scores = ranks ? bs_alloc((size_t)ROWS * (size_t)n * sizeof *scores, "scores", err) : NULL;
    for (long at = 0; scores && at < n; at += ROWS) {
        long part = n - at < ROWS ? n - at : ROWS;
        ev_scores(j->s->work, queries + at * j->width, part, answers, n, j->width, scores);
        for (long i = 0; i < part; i++)
            put_logits(j, c, at + i, scores + i * n);
        ev_ranks(scores, part, n, j->r->keys + 2 * at, j->r->keys, 2, ranks + at, NULL);
    }
    for (int k = 0; scores && k < EV_KS; k++)
        out->recall[k] = ev_recall(ranks, n, ev_ks[k]);
    out->median_rank = scores ? ev_median(ranks, n, err) : -1;
    bs_free(scores);
    bs_free(ranks);
    return out->median_rank < 0 ? -1 : 0;
}

int ev_rerank(oc_session *s, const ev_ranking *r, long most, ev_retrieval *out, ev_talk *talk, oc_err *err)
{
    judging j = {.s = s, .r = r, .width = oc_embedding_width(s->engine), .most = most < r->n ? most : r->n};
    int result = -1;
    if (ev_retrieval_of(s->work, r->pictures, r->texts, r->n, j.width, r->keys, out, err)) /* what chance would do stays */
        return -1;
    if (open_all(&j, err) || find_best(&j, r->texts, r->pictures, j.words.best, err) ||
        find_best(&j, r->pictures, r->texts, j.pictures.best, err))
        goto done;
    list_by_picture(&j);
    if (!judge_all(&j, talk, err))
        result = rank(&j, r->texts, r->pictures, &j.words, &out->text_to_image, err) ||
                         rank(&j, r->pictures, r->texts, &j.pictures, &out->image_to_text, err)
                     ? -1
                     : 0;
done:
    close_all(&j);
    return result;
}
