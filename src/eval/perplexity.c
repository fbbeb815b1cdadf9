/* perplexity.c - see perplexity.h. */
#include "perplexity.h"

#include <math.h>

typedef struct window {
    const int32_t *ids;
    long n, counted; /* the last tokens, that no window had before */
} window;

typedef struct reading {
    rn_speaker *s;
    window *w; /* [sequences] */
    rn_feed *feed;
    int n; /* windows that wait */
    double sum;
    long tokens;
} reading;

static void hear(void *arg, int feed, long index, float *logits)
{
    reading *r = arg;
    const oc_engine *e = r->s->engine;
    double next = (double)logits[r->w[feed].ids[index + 1]];
    r->sum += (double)e->kn->softmax(e->sizes.vocab, logits, logits) - next;
    r->tokens++;
}

static int read_windows(reading *r, oc_err *err)
{
    int opened = 0, result = 0;
    for (; opened < r->n && !result; opened += !result) {
        int sequence = tn_sequence_open(r->s->cache, err);
        r->feed[opened] = (rn_feed){sequence, r->w[opened].ids, r->w[opened].n - 1, r->w[opened].counted, 0};
        result = sequence < 0 ? -1 : 0;
    }
    if (!result)
        result = rn_run_feeds(r->s, r->feed, r->n, hear, r, err);
    for (int i = 0; i < opened; i++)
        tn_sequence_close(r->s->cache, r->feed[i].sequence);
    r->n = 0;
    return result;
}

static int read_document(reading *r, const int32_t *ids, long length, long stride, oc_err *err)
{
    long context = r->s->context, seen = 1; /* the first token is given */
    for (long begin = 0; seen < length; begin += stride) {
        long end = begin + context < length ? begin + context : length, from = seen > begin + 1 ? seen : begin + 1;
        if (end > from)
            r->w[r->n++] = (window){ids + begin, end - begin, end - from};
        seen = end;
        if (r->n == r->s->sequences && read_windows(r, err))
            return -1;
    }
    return 0;
}

int ev_perplexity_run(rn_speaker *s, const dt_corpus *c, long stride, ev_perplexity *p, ev_talk *talk, oc_err *err)
{
    reading r = {.s = s};
    int result = -1;
    r.feed = bs_calloc((size_t)s->sequences, sizeof *r.feed, "windows of a text", err);
    r.w = bs_calloc((size_t)s->sequences, sizeof *r.w, "windows of a text", err);
    if (!r.feed || !r.w)
        goto done;
    for (long d = 0; d < c->documents; d++) {
        if (read_document(&r, c->ids.p + c->first[d], c->first[d + 1] - c->first[d],
                          stride > 0 && stride < s->context ? stride : s->context, err))
            goto done;
        if (talk && talk->progress)
            talk->progress(talk->arg, "reading", c->first[d + 1], (long)c->ids.n);
    }
    if (r.n && read_windows(&r, err))
        goto done;
    if (!r.tokens) {
        bs_err(err, "there is no token to foretell: each document needs two");
        goto done;
    }
    *p = (ev_perplexity){r.sum / (double)r.tokens, exp(r.sum / (double)r.tokens), r.tokens, c->documents};
    result = 0;
done:
    bs_free(r.feed);
    bs_free(r.w);
    return result;
}
