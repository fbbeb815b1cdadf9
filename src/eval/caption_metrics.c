/* caption_metrics.c - runs of words as four numbers, sorted and counted. */
#include "caption_metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "metrics.h"

/* A run of 1 to 4 words by their numbers, which begin at 1; 0 behind its end. How often it comes in a caption, or in how many pictures. */
typedef struct gram {
    int32_t word[EV_GRAMS];
    int32_t count;
} gram;

/* Different runs, in order. */
typedef struct grams {
    gram *p;
    long n;
} grams;

typedef struct sentence {
    const int32_t *word;
    long n;
} sentence;

/* All captions as numbers: picture i said sentence first[i], its references are the sentences behind it, up to first[i + 1]. */
typedef struct corpus {
    bs_buf text;    /* every word ends with 0 */
    int32_t *words; /* of all sentences */
    sentence *sentence;
    long *first; /* [pictures + 1] */
    long pictures, count;
    grams common; /* of references; count: pictures whose references have it */
} corpus;

/* ---- words to numbers --------------------------------------------------------------------------------------------------- */

/* Adds a text's words to c->text, each with its end, and gives their number; -1: an error. */
static long add_words(corpus *c, const char *text, oc_err *err)
{
    long n = 0;
    for (text += strspn(text, " \t\r\n"); *text; text += strspn(text, " \t\r\n"), n++) {
        size_t length = strcspn(text, " \t\r\n");
        if (bs_buf_put(&c->text, text, length, err) || bs_buf_put(&c->text, "", 1, err))
            return -1;
        text += length;
    }
    return n;
}

static int add_sentence(corpus *c, const char *text, oc_err *err)
{
    long n = add_words(c, text, err);
    c->sentence[c->count++] = (sentence){NULL, n};
    return n < 0 ? -1 : 0;
}

/* Equal words get equal numbers. */
static int number_words(corpus *c, oc_err *err)
{
    long n = 0, distinct, at = 0;
    for (long i = 0; i < c->count; i++)
        n += c->sentence[i].n;
    const char **word = bs_alloc((size_t)(n + 1) * sizeof *word, "the words of captions", err);
    long *id = word ? bs_alloc((size_t)(n + 1) * sizeof *id, "the words of captions", err) : NULL;
    c->words = id ? bs_alloc((size_t)(n + 1) * sizeof *c->words, "the words of captions", err) : NULL;
    const char *p = c->text.p;
    for (long i = 0; c->words && i < n; i++, p += strlen(p) + 1)
        word[i] = p;
    int result = c->words && !ev_ids(word, n, id, &distinct, err) ? 0 : -1;
    for (long i = 0; !result && i < n; i++)
        c->words[i] = (int32_t)id[i] + 1;
    for (long i = 0; !result && i < c->count; at += c->sentence[i++].n)
        c->sentence[i].word = c->words + at;
    bs_free(word);
    bs_free(id);
    return result;
}

static int corpus_init(corpus *c, const ev_captioned *captions, long n, oc_err *err)
{
    long sentences = 0;
    for (long i = 0; i < n; i++)
        sentences += 1 + captions[i].n;
    *c = (corpus){.pictures = n, .text.max = (size_t)8 << 30};
    c->sentence = bs_alloc((size_t)sentences * sizeof *c->sentence, "captions", err);
    c->first = c->sentence ? bs_alloc((size_t)(n + 1) * sizeof *c->first, "captions", err) : NULL;
    if (!c->first)
        return -1;
    for (long i = 0; i < n; i++) {
        c->first[i] = c->count;
        if (add_sentence(c, captions[i].said, err))
            return -1;
        for (long k = 0; k < captions[i].n; k++)
            if (add_sentence(c, captions[i].references[k], err))
                return -1;
    }
    c->first[n] = c->count;
    return number_words(c, err);
}

static void corpus_clear(corpus *c)
{
    bs_buf_clear(&c->text);
    bs_free(c->words);
    bs_free(c->sentence);
    bs_free(c->first);
    bs_free(c->common.p);
}

/* ---- runs of words -------------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    const gram *x = a, *y = b;
    for (int k = 0; k < EV_GRAMS; k++)
        if (x->word[k] != y->word[k])
            return x->word[k] < y->word[k] ? -1 : 1;
    return 0;
}

static int length_of(const gram *g)
{
    int n = 1;
    while (n < EV_GRAMS && g->word[n])
        n++;
    return n;
}

static long all_runs(const sentence *s, gram *out)
{
    long n = 0;
    for (long at = 0; at < s->n; at++)
        for (int length = 1; length <= EV_GRAMS && at + length <= s->n; length++) {
            out[n] = (gram){.count = 1};
            memcpy(out[n++].word, s->word + at, (size_t)length * sizeof *s->word);
        }
    return n;
}

/* Sorts n runs and lays equal ones together: their counts are added, or with `most` the largest stays. How many are left. */
static long lay_together(gram *g, long n, bool most)
{
    long kept = 0;
    if (n)
        qsort(g, (size_t)n, sizeof *g, compare);
    for (long i = 0; i < n; i++)
        if (kept && !compare(&g[kept - 1], &g[i])) {
            int32_t *count = &g[kept - 1].count;
            *count = !most ? *count + g[i].count : *count > g[i].count ? *count : g[i].count;
        } else
            g[kept++] = g[i];
    return kept;
}

static int grams_of(grams *out, const sentence *s, oc_err *err)
{
    out->p = bs_alloc((size_t)(s->n * EV_GRAMS + 1) * sizeof *out->p, "runs of words", err);
    if (!out->p)
        return -1;
    out->n = lay_together(out->p, all_runs(s, out->p), false);
    return 0;
}

/* Those of all n sentences, each as often as in the sentence that has it most often. */
static int grams_of_any(grams *out, const sentence *s, long n, oc_err *err)
{
    long words = 0, runs = 0;
    for (long i = 0; i < n; i++)
        words += s[i].n;
    out->p = bs_alloc((size_t)(words * EV_GRAMS + 1) * sizeof *out->p, "runs of words", err);
    if (!out->p)
        return -1;
    for (long i = 0; i < n; i++)
        runs += lay_together(out->p + runs, all_runs(&s[i], out->p + runs), false);
    out->n = lay_together(out->p, runs, true);
    return 0;
}

static int32_t count_in(const grams *g, const gram *of)
{
    const gram *found = g->n ? bsearch(of, g->p, (size_t)g->n, sizeof *of, compare) : NULL;
    return found ? found->count : 0;
}

/* ---- BLEU --------------------------------------------------------------------------------------------------------------------- */

typedef struct bleu {
    double right[EV_GRAMS], all[EV_GRAMS], said,
        expected; /* runs that a reference has, all runs, words, words of the nearest reference */
} bleu;

/* The length among n sentences that is nearest to `to`; the shorter of two. */
static long nearest_length(const sentence *s, long n, long to)
{
    long best = s[0].n;
    for (long i = 1; i < n; i++) {
        long far = labs(s[i].n - to), so_far = labs(best - to);
        if (far < so_far || (far == so_far && s[i].n < best))
            best = s[i].n;
    }
    return best;
}

static int bleu_add(bleu *b, const sentence *said, const sentence *references, long n, oc_err *err)
{
    grams mine = {0}, theirs = {0};
    int result = grams_of(&mine, said, err) || grams_of_any(&theirs, references, n, err) ? -1 : 0;
    for (long i = 0; !result && i < mine.n; i++) {
        int32_t has = count_in(&theirs, &mine.p[i]), count = mine.p[i].count;
        b->right[length_of(&mine.p[i]) - 1] += has < count ? has : count;
        b->all[length_of(&mine.p[i]) - 1] += count;
    }
    b->said += (double)said->n;
    b->expected += (double)nearest_length(references, n, said->n);
    bs_free(mine.p);
    bs_free(theirs.p);
    return result;
}

/* The two small numbers keep a share of nothing from being no number; they are coco-caption's. */
static void bleu_end(const bleu *b, double score[EV_GRAMS])
{
    const double tiny = 1e-15, small = 1e-9;
    double product = 1, ratio = (b->said + tiny) / (b->expected + small);
    for (int k = 0; k < EV_GRAMS; k++) {
        product *= (b->right[k] + tiny) / (b->all[k] + small);
        score[k] = pow(product, 1.0 / (k + 1)) * (ratio < 1 ? exp(1 - 1 / ratio) : 1);
    }
}

/* ---- CIDEr-D ------------------------------------------------------------------------------------------------------------------- */

/* In how many pictures each run of words of the references comes. */
static int count_pictures(corpus *c, oc_err *err)
{
    size_t runs = 0;
    for (long i = 0; i < c->count; i++)
        runs += (size_t)c->sentence[i].n * EV_GRAMS;
    c->common.p = bs_alloc((runs + 1) * sizeof *c->common.p, "runs of words", err);
    if (!c->common.p)
        return -1;
    for (long i = 0; i < c->pictures; i++) {
        grams any = {0};
        if (grams_of_any(&any, c->sentence + c->first[i] + 1, c->first[i + 1] - c->first[i] - 1, err))
            return -1;
        for (long k = 0; k < any.n; k++) {
            c->common.p[c->common.n] = any.p[k];
            c->common.p[c->common.n++].count = 1;
        }
        bs_free(any.p);
    }
    c->common.n = lay_together(c->common.p, c->common.n, false);
    return 0;
}

/* A caption as a vector: the weight of each of its runs, and the length of the part of runs of k words. */
typedef struct vector {
    grams runs;
    double *weight, length[EV_GRAMS];
    double words;
} vector;

static int vector_init(vector *v, const corpus *c, const sentence *s, oc_err *err)
{
    *v = (vector){.words = (double)s->n};
    if (grams_of(&v->runs, s, err))
        return -1;
    v->weight = bs_alloc((size_t)(v->runs.n + 1) * sizeof *v->weight, "weights of words", err);
    for (long i = 0; v->weight && i < v->runs.n; i++) {
        int32_t in = count_in(&c->common, &v->runs.p[i]);
        v->weight[i] = v->runs.p[i].count * (log((double)c->pictures) - log(in > 1 ? in : 1));
        v->length[length_of(&v->runs.p[i]) - 1] += v->weight[i] * v->weight[i];
    }
    for (int k = 0; k < EV_GRAMS; k++)
        v->length[k] = sqrt(v->length[k]);
    return v->weight ? 0 : -1;
}

static void vector_clear(vector *v)
{
    bs_free(v->runs.p);
    bs_free(v->weight);
}

/* The mean over runs of 1 .. 4 words. Both lists are in order, so they are walked side by side. */
static double similarity(const vector *said, const vector *reference)
{
    const double sigma = 6, far = said->words - reference->words;
    double sum[EV_GRAMS] = {0}, mean = 0;
    for (long i = 0, k = 0; i < said->runs.n && k < reference->runs.n;) {
        int order = compare(&said->runs.p[i], &reference->runs.p[k]);
        if (!order)
            sum[length_of(&said->runs.p[i]) - 1] += fmin(said->weight[i], reference->weight[k]) * reference->weight[k];
        i += order <= 0;
        k += order >= 0;
    }
    for (int k = 0; k < EV_GRAMS; k++) {
        double lengths = said->length[k] * reference->length[k];
        mean += (lengths > 0 ? sum[k] / lengths : sum[k]) * exp(-far * far / (2 * sigma * sigma)) / EV_GRAMS;
    }
    return mean;
}

static int cider_of(const corpus *c, const sentence *said, long references, double *score, oc_err *err)
{
    vector mine, theirs;
    double sum = 0;
    int result = vector_init(&mine, c, said, err);
    for (long i = 1; !result && i <= references; i++) {
        result = vector_init(&theirs, c, said + i, err);
        if (!result)
            sum += similarity(&mine, &theirs);
        vector_clear(&theirs);
    }
    vector_clear(&mine);
    *score = 10 * sum / (double)references;
    return result;
}

/* ---- both ---------------------------------------------------------------------------------------------------------------------- */

static int score_corpus(corpus *c, ev_caption_scores *out, double *each, oc_err *err)
{
    bleu b = {0};
    if (count_pictures(c, err))
        return -1;
    *out = (ev_caption_scores){.pictures = c->pictures, .references = c->count - c->pictures};
    for (long i = 0; i < c->pictures; i++) {
        const sentence *said = c->sentence + c->first[i];
        long references = c->first[i + 1] - c->first[i] - 1;
        double cider;
        if (bleu_add(&b, said, said + 1, references, err) || cider_of(c, said, references, &cider, err))
            return -1;
        out->cider_d += cider / (double)c->pictures;
        if (each)
            each[i] = cider;
    }
    bleu_end(&b, out->bleu);
    return 0;
}

int ev_caption_score_words(const ev_captioned *captions, long n, ev_caption_scores *out, double *each, oc_err *err)
{
    corpus c;
    int result = corpus_init(&c, captions, n, err) || score_corpus(&c, out, each, err) ? -1 : 0;
    corpus_clear(&c);
    return result;
}

/* Replaces *text by its words, which are kept in a list that owns them. */
static int cut(const char **text, char **own, oc_err *err)
{
    bs_buf b = {0};
    if (ev_caption_tokens(&b, *text, err)) {
        bs_buf_clear(&b);
        return -1;
    }
    *text = *own = b.p;
    return 0;
}

static int cut_all(ev_captioned *words, const ev_captioned *captions, long n, const char **references, char **own, oc_err *err)
{
    for (long i = 0; i < n; i++) {
        words[i] = (ev_captioned){captions[i].said, references, captions[i].n};
        if (cut(&words[i].said, own++, err))
            return -1;
        for (long k = 0; k < captions[i].n; k++, references++) {
            *references = captions[i].references[k];
            if (cut(references, own++, err))
                return -1;
        }
    }
    return 0;
}

int ev_caption_score(const ev_captioned *captions, long n, ev_caption_scores *out, oc_err *err)
{
    size_t texts = 0;
    for (long i = 0; i < n; i++)
        texts += 1 + (size_t)captions[i].n;
    ev_captioned *words = bs_alloc((size_t)n * sizeof *words, "captions", err);
    const char **references = words ? bs_alloc(texts * sizeof *references, "captions", err) : NULL;
    char **own = references ? bs_calloc(texts, sizeof *own, "captions", err) : NULL;
    int result =
        own && !cut_all(words, captions, n, references, own, err) ? ev_caption_score_words(words, n, out, NULL, err) : -1;
    for (size_t i = 0; own && i < texts; i++)
        free(own[i]);
    bs_free(words);
    bs_free(references);
    bs_free(own);
    return result;
}
