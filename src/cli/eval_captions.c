/* eval_captions.c - captions and answers against what people wrote. */
#include "eval_captions.h"

#include <string.h>

#include "../eval/captions.h"
#include "../eval/neighbour.h"
#include "../eval/questions.h"
#include "../eval/teller.h"
#include "labels.h"
#include "telling.h"

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

/* ---- a model's own ------------------------------------------------------------------------------------------------- */

enum { BATCH = 8, TOGETHER = 32 /* answers to choose from */ };

static int batch_of(const cl_captioning *c) { return c->common->batch ? c->common->batch : BATCH; }

static int caption_all(const cl_captioning *c, ev_pictures *p, cl_talk *talk, oc_err *err)
{
    int result = -1;
    oc_engine *e = cl_open(c->common, err);
    ev_teller t = {.how = c->how, .prompt = c->prompt, .talk = &talk->talk};
    if (e && !cl_check_teller(e, false, c->prompt != NULL, err))
        t.generator = cl_teller_open(e, false, &c->prompt, 1, c->how, batch_of(c), err);
    if (t.generator)
        result = ev_pictures_say(p, ev_teller_caption, &t, batch_of(c), &talk->talk, err);
    cl_talk_pause(talk);
    oc_generator_close(t.generator);
    oc_engine_close(e);
    return result;
}

/* One that the model cannot read fails before any is answered: its accuracy would be of other questions. */
static int all_fit(const cl_captioning *c, const oc_generator *g, const ev_questions *q, oc_err *err)
{
    tx_ids ids = {0};
    int result = 0;
    for (long i = 0; i < q->n && !result; i++)
        if ((result = rn_encode_prompt(g, q->asked[i].question, c->how->cut, &ids, err)))
            bs_err_prefix(err, "'%s': the question about '%s': ", c->data, q->asked[i].image);
    tx_ids_clear(&ids);
    return result;
}

/* With the longest question in mind, and the longest answer to choose from. */
static oc_generator *open_answering(const cl_captioning *c, oc_engine *e, const ev_questions *q, oc_err *err)
{
    const cl_texts *choices = c->choices;
    oc_generation how = *c->how;
    const char **texts = bs_alloc((size_t)q->n * sizeof *texts, "questions", err);
    oc_generator *g = NULL;
    for (long i = 0; texts && i < q->n; i++)
        texts[i] = q->asked[i].question;
    if (choices->n)
        how.max_new_tokens = rn_context_for(e, choices->p, choices->n, 1, err);
    if (texts && how.max_new_tokens)
        g = cl_teller_open(e, true, texts, (int)q->n, &how, choices->n ? TOGETHER : batch_of(c), err);
    bs_free(texts);
    return g;
}

static int answer_all(const cl_captioning *c, ev_questions *q, cl_talk *talk, oc_err *err)
{
    int result = -1;
    oc_engine *e = cl_open(c->common, err);
    ev_teller t = {.how = c->how, .talk = &talk->talk, .choices = c->choices->p, .choices_n = c->choices->n};
    if (e && !cl_check_teller(e, true, true, err))
        t.generator = open_answering(c, e, q, err);
    if (t.generator && !all_fit(c, t.generator, q, err))
        result = ev_teller_answer(&t, q->asked, q->n, batch_of(c), err);
    cl_talk_pause(talk);
    oc_generator_close(t.generator);
    oc_engine_close(e);
    return result;
}

static int all_captions(const cl_captioning *c, ev_pictures *p, cl_talk *talk, oc_err *err)
{
    long unknown = 0;
    int result = c->predictions ? ev_predictions_read(p->asked, p->n, c->predictions, c->data, &unknown, err)
                 : c->baseline  ? copy_nearest(c, p, talk, err)
                                : caption_all(c, p, talk, err);
    if (!result)
        tell_unknown(c, unknown);
    return result;
}

int cl_eval_captions(const cl_captioning *c, cl_talk *talk, oc_err *err)
{
    dt_pairs pairs;
    ev_pictures pictures = {0};
    ev_caption_scores scores;
    if (c->out && (cl_same_place(c->out, c->data) || (c->train && cl_same_place(c->out, c->train))))
        return bs_err(err, "--out '%s' is what is read", c->out);
    if (dt_pairs_read(&pairs, c->data, err))
        return -1;
    int language = dt_language(&pairs, c->language);
    int result = language < 0 ? bs_err(err, "'%s' has no texts in '%s'", c->data, c->language)
                              : ev_pictures_init(&pictures, &pairs, language, err);
    if (!result)
        result = all_captions(c, &pictures, talk, err) || ev_pictures_score(&pictures, &scores, err) ||
                         (c->out && ev_pictures_write(&pictures, c->out, err))
                     ? -1
                     : 0;
    if (!result)
        print_scores(c, &scores, talk->talk.failed);
    ev_pictures_clear(&pictures);
    dt_pairs_clear(&pairs);
    return result;
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

int cl_eval_answers(const cl_captioning *c, cl_talk *talk, oc_err *err)
{
    ev_questions q;
    long unknown = 0;
    double accuracy;
    if (ev_questions_read(&q, c->data, err))
        return -1;
    int result = c->predictions                 ? ev_predictions_read(q.asked, q.n, c->predictions, c->data, &unknown, err)
                 : answer_all(c, &q, talk, err) ? -1
                                                : ev_questions_keep_answered(&q, err);
    if (!result)
        result = ev_questions_score(&q, &accuracy, err);
    if (!result) {
        tell_unknown(c, unknown);
        printf(c->common->json ? "{\"accuracy\":%.9g,\"questions\":%ld" : "accuracy %.4f, %ld questions", accuracy, q.n);
        if (c->common->json)
            printf(",\"failed\":%ld}\n", talk->talk.failed);
        else if (talk->talk.failed)
            printf("; %ld pictures could not be read\n", talk->talk.failed);
        else
            putchar('\n');
    }
    ev_questions_clear(&q);
    return result;
}
