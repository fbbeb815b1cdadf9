/* eval_captions.c - captions and answers against what people wrote. */
#include "eval_captions.h"

#include <string.h>

#include "../eval/captions.h"
#include "../eval/neighbour.h"
#include "../eval/questions.h"

/* ---- what is printed --------------------------------------------------------------------------------------------- */

static void print_scores(const cl_captioning *c, const ev_caption_scores *s, long failed)
{
    if (c->common->json) {
        for (int k = EV_GRAMS; k > 0; k--)
            printf("%c\"bleu%d\":%.9g", k == EV_GRAMS ? '{' : ',', k, s->bleu[k - 1]);
        printf(",\"cider_d\":%.9g,\"pictures\":%ld,\"references\":%ld,\"failed\":%ld}\n", s->cider_d, s->pictures, s->references,
               failed);
        return;
    }
    printf("CIDEr-D %.4f, BLEU-4 %.4f, BLEU-3 %.4f, BLEU-2 %.4f, BLEU-1 %.4f, %ld pictures, %ld references", s->cider_d,
           s->bleu[3], s->bleu[2], s->bleu[1], s->bleu[0], s->pictures, s->references);
    if (failed)
        printf("; %ld pictures could not be read", failed);
    putchar('\n');
}

static void tell_unknown(const cl_captioning *c, long unknown)
{
    if (unknown)
        cl_say(c->common, "ocelli %s: %ld lines of '%s' are of nothing that '%s' asks for\n", c->self->name, unknown,
               c->predictions, c->data);
}

/* ---- captions ------------------------------------------------------------------------------------------------------ */

static int copy_captions(const ev_eyes *eyes, const dt_pairs *train, const cl_captioning *c, ev_pictures *p, cl_talk *talk,
                         oc_err *err)
{
    ev_gallery known = {0};
    int result = ev_gallery_init(&known, eyes, train, c->language, &talk->talk, err);
    if (!result)
        result = ev_pictures_say(p, ev_gallery_say, &known, eyes->batch, &talk->talk, err);
    ev_gallery_clear(&known);
    return result;
}

static int copy_by_looks(const dt_pairs *train, const cl_captioning *c, ev_pictures *p, cl_talk *talk, oc_err *err)
{
    oc_options options = {.threads = c->common->threads, .max_pixels = c->common->max_pixels};
    ev_plain_eyes plain;
    int result = ev_plain_eyes_open(&plain, &options, err);
    if (!result) {
        ev_eyes eyes = ev_eyes_of(&plain);
        result = copy_captions(&eyes, train, c, p, talk, err);
    }
    ev_plain_eyes_close(&plain);
    return result;
}

static int copy_by_model(const dt_pairs *train, const cl_captioning *c, ev_pictures *p, cl_talk *talk, oc_err *err)
{
    int result = -1;
    oc_engine *e = cl_open(c->common, err);
    oc_session *s = e ? oc_session_open(e, err) : NULL;
    if (s) {
        ev_eyes eyes = ev_session_eyes(s);
        result = copy_captions(&eyes, train, c, p, talk, err);
    }
    cl_talk_pause(talk);
    oc_session_close(s);
    oc_engine_close(e);
    return result;
}

static int copy_nearest(const cl_captioning *c, ev_pictures *p, cl_talk *talk, oc_err *err)
{
    dt_pairs train;
    if (dt_pairs_read(&train, c->train, err))
        return -1;
    bool model = !strcmp(c->baseline, "embedding");
    int result = model ? copy_by_model(&train, c, p, talk, err) : copy_by_looks(&train, c, p, talk, err);
    dt_pairs_clear(&train);
    cl_talk_pause(talk);
    return result;
}

static int all_captions(const cl_captioning *c, ev_pictures *p, cl_talk *talk, oc_err *err)
{
    long unknown = 0;
    int result = c->predictions ? ev_predictions_read(p->asked, p->n, c->predictions, c->data, &unknown, err)
                                : copy_nearest(c, p, talk, err);
    if (!result && c->out)
        result = ev_pictures_write(p, c->out, err);
    if (!result)
        tell_unknown(c, unknown);
    return result;
}

int cl_eval_captions(const cl_captioning *c, cl_talk *talk, oc_err *err)
{
    dt_pairs pairs;
    ev_pictures pictures = {0};
    ev_caption_scores scores;
    if (dt_pairs_read(&pairs, c->data, err))
        return -1;
    int language = dt_language(&pairs, c->language);
    int result = language < 0 ? bs_err(err, "'%s' has no texts in '%s'", c->data, c->language)
                              : ev_pictures_init(&pictures, &pairs, language, err);
    if (!result)
        result = all_captions(c, &pictures, talk, err) || ev_pictures_score(&pictures, &scores, err) ? -1 : 0;
    if (!result)
        print_scores(c, &scores, talk->talk.failed);
    ev_pictures_clear(&pictures);
    dt_pairs_clear(&pairs);
    return result;
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

int cl_eval_answers(const cl_captioning *c, cl_talk *talk, oc_err *err)
{
    (void)talk;
    ev_questions q;
    long unknown;
    double accuracy;
    if (ev_questions_read(&q, c->data, err))
        return -1;
    int result =
        ev_predictions_read(q.asked, q.n, c->predictions, c->data, &unknown, err) || ev_questions_score(&q, &accuracy, err) ? -1
                                                                                                                            : 0;
    if (!result) {
        tell_unknown(c, unknown);
        printf(c->common->json ? "{\"accuracy\":%.9g,\"questions\":%ld}\n" : "accuracy %.4f, %ld questions\n", accuracy, q.n);
    }
    ev_questions_clear(&q);
    return result;
}
