/* cmd_eval.c - how good is a model, and how good is a baseline that knows no words? */
#include <stdlib.h>
#include <string.h>

#include "../eval/neighbour.h"
#include "../eval/perplexity.h"
#include "../eval/retrieval.h"
#include "../eval/zeroshot.h"
#include "eval_captions.h"
#include "labels.h"
#include "telling.h"

enum { RERANKED = 100 };

typedef struct job {
    const cl_command *self;
    cl_common common;
    const char *data_path, *train_path, *predictions, *baseline, *out, *set, *prompt, *choices_from;
    cl_labels choices;
    oc_generation how; /* of captions and answers */
    bool rerank;
    int judged; /* of the nearest are ordered anew */
    cl_texts words, given, languages, templates;
    bs_buf template_bytes;
    dt_pairs pairs;
    oc_session *session;
    int context, stride;
    cl_talk talk;
    float *rows; /* [pairs, width] */
    bool *ok;    /* [pairs] */
} job;

/* ---- what is printed ---------------------------------------------------------------------------------------------- */

/* Members before this one: the language, when several are asked for. */
static void open_line(const job *j, int language)
{
    if (j->common.json)
        putchar('{');
    if (j->languages.n > 1 && j->common.json) {
        printf("\"language\":");
        cl_json_text(j->pairs.language[language]);
        putchar(',');
    } else if (j->languages.n > 1)
        printf("%s: ", j->pairs.language[language]);
}

/* Pictures that were left out never go unsaid. */
static void close_line(const job *j)
{
    if (j->common.json)
        printf(",\"failed\":%ld}\n", j->talk.talk.failed);
    else if (j->talk.talk.failed)
        printf("; %ld pictures could not be read\n", j->talk.talk.failed);
    else
        printf("\n");
}

static void print_zeroshot(const job *j, int language, const ev_zeroshot *z)
{
    open_line(j, language);
    printf(j->common.json ? "\"top1\":%.6g,\"top5\":%.6g,\"classes\":%ld,\"pictures\":%ld,\"chance_top1\":%.6g"
                          : "top-1 %.4f, top-5 %.4f, %ld classes, %ld pictures, chance %.4f",
           z->top1, z->top5, z->classes, z->pictures, z->chance_top1);
    close_line(j);
}

static void print_recalls(const job *j, const char *name, const double recall[EV_KS])
{
    if (!j->common.json)
        printf("%s ", name);
    for (int k = 0; k < EV_KS; k++)
        if (j->common.json)
            printf("\"%s_r%d\":%.6g,", name, ev_ks[k], recall[k]);
        else
            printf("R@%d %.4f, ", ev_ks[k], recall[k]);
}

static void print_direction(const job *j, const char *name, const ev_direction *d)
{
    print_recalls(j, name, d->recall);
    if (j->common.json)
        printf("\"%s_median_rank\":%.9g,", name, d->median_rank);
    else
        printf("median rank %g; ", d->median_rank);
}

static void print_retrieval(const job *j, int language, const ev_retrieval *r)
{
    open_line(j, language);
    print_direction(j, j->common.json ? "t2i" : "text to image", &r->text_to_image);
    print_direction(j, j->common.json ? "i2t" : "image to text", &r->image_to_text);
    print_recalls(j, "chance", r->chance);
    printf(j->common.json ? "\"pairs\":%ld" : "%ld pairs", r->pairs);
    if (j->rerank)
        printf(j->common.json ? ",\"rerank\":\"itm+itc\",\"rerank_top\":%ld" : ", the first %ld by ITM logit + ITC cosine",
               j->judged < r->pairs ? (long)j->judged : r->pairs);
    close_line(j);
}

/* ---- zeroshot and retrieval --------------------------------------------------------------------------------------- */

static int one_language(job *j, bool zeroshot, int language, oc_err *err)
{
    ev_zeroshot z;
    ev_retrieval r;
    ev_talk *talk = &j->talk.talk;
    if (zeroshot ? ev_zeroshot_run(j->session, &j->pairs, j->rows, j->ok, language, j->templates.p, j->templates.n, &z, talk, err)
                 : ev_retrieval_rerun(j->session, &j->pairs, j->rows, j->ok, language, j->judged, &r, talk, err))
        return -1;
    cl_talk_end(&j->talk, j->session->engine->sizes.max_tokens);
    if (zeroshot)
        print_zeroshot(j, language, &z);
    else
        print_retrieval(j, language, &r);
    fflush(stdout);
    return 0;
}

static int all_languages(job *j, bool zeroshot, oc_err *err)
{
    size_t width = (size_t)oc_embedding_width(j->session->engine), n = (size_t)j->pairs.n;
    j->rows = bs_alloc(n * width * sizeof *j->rows, "the vectors of pictures", err);
    j->ok = bs_alloc(n * sizeof *j->ok, "the vectors of pictures", err);
    if (!j->rows || !j->ok || ev_embed_pairs(j->session, &j->pairs, j->rows, j->ok, &j->talk.talk, err))
        return -1;
    for (int i = 0; i < j->languages.n; i++)
        if (one_language(j, zeroshot, dt_language(&j->pairs, j->languages.p[i]), err))
            return -1;
    return 0;
}

/* Before minutes are spent on pictures. */
static int check_languages(job *j, oc_err *err)
{
    if (!j->languages.n && cl_texts_add(&j->languages, dt_language(&j->pairs, "text") >= 0 ? "text" : j->pairs.language[0]))
        return bs_err(err, "out of memory: a list of languages");
    for (int i = 0; i < j->languages.n; i++)
        if (dt_language(&j->pairs, j->languages.p[i]) < 0)
            return bs_err(err, "'%s' has no texts in '%s'", j->data_path, j->languages.p[i]);
    return 0;
}

static int eval_model(job *j, bool zeroshot, oc_err *err)
{
    int result = -1;
    oc_engine *e = NULL;
    if (dt_pairs_read(&j->pairs, j->data_path, err) || check_languages(j, err))
        return -1;
    e = cl_open(&j->common, err);
    if (e && j->rerank && !oc_can_match(e))
        bs_err(err, "--rerank: the model '%s' (%s) has no head that matches a picture with a text", e->model->folder,
               oc_family(e));
    else
        j->session = e ? oc_session_open(e, err) : NULL;
    if (j->session)
        result = all_languages(j, zeroshot, err);
    cl_talk_pause(&j->talk);
    oc_session_close(j->session);
    oc_engine_close(e);
    return result;
}

static int eval_zeroshot(job *j, oc_err *err) { return eval_model(j, true, err); }

static int eval_retrieval(job *j, oc_err *err) { return eval_model(j, false, err); }

/* ---- neighbour ------------------------------------------------------------------------------------------------------ */

static int eval_neighbour(job *j, oc_err *err)
{
    oc_options options = {.threads = j->common.threads, .max_pixels = j->common.max_pixels};
    dt_pairs train = {0};
    ev_neighbour n;
    int result = -1;
    if (!dt_pairs_read(&j->pairs, j->data_path, err) && !dt_pairs_read(&train, j->train_path, err))
        result =
            ev_neighbour_run(&train, &j->pairs, j->languages.n ? j->languages.p[0] : "text", &options, &n, &j->talk.talk, err);
    cl_talk_pause(&j->talk);
    if (!result) {
        open_line(j, 0);
        printf(j->common.json
                   ? "\"top1\":%.6g,\"top5\":%.6g,\"classes\":%ld,\"pictures\":%ld,\"chance_top1\":%.6g,\"train_pictures\":%ld"
                   : "top-1 %.4f, top-5 %.4f, %ld names, %ld pictures, chance %.4f, %ld pictures to learn from",
               n.top1, n.top5, n.names, n.pictures, n.chance_top1, n.train);
        close_line(j);
    }
    dt_pairs_clear(&train);
    return result;
}

/* ---- perplexity ----------------------------------------------------------------------------------------------------- */

static int eval_perplexity(job *j, oc_err *err)
{
    enum { WINDOWS = 8 };
    rn_speaker s = {0};
    dt_corpus corpus = {0};
    ev_perplexity p;
    int result = -1;
    oc_engine *e = cl_open(&j->common, err);
    const tx_tokenizer *t = e ? rn_tokenizer(e, err) : NULL;
    oc_generator_options o = {.context = j->context, .batch = j->common.batch ? j->common.batch : WINDOWS};
    if (t && !rn_speaker_open(&s, e, &o, 128, err)) {
        if (s.memory)
            bs_err(err, "%s: it writes about what it reads or sees, expected a decoder alone", j->common.model);
        else if (!dt_corpus_read(&corpus, j->data_path, t, e->sizes.eos, err))
            result = ev_perplexity_run(&s, &corpus, j->stride, &p, &j->talk.talk, err);
        rn_speaker_close(&s);
    }
    cl_talk_pause(&j->talk);
    if (!result)
        printf(j->common.json ? "{\"perplexity\":%.9g,\"loss\":%.9g,\"tokens\":%ld,\"documents\":%ld}\n"
                              : "perplexity %.4f, loss %.5f, %ld tokens, %ld documents\n",
               p.perplexity, p.loss, p.tokens, p.documents);
    dt_corpus_clear(&corpus);
    oc_engine_close(e);
    return result;
}

/* ---- captions and answers ------------------------------------------------------------------------------------------ */

static int eval_caption(job *j, oc_err *err)
{
    cl_captioning c = {.self = j->self,
                       .common = &j->common,
                       .data = j->data_path,
                       .language = j->languages.n ? j->languages.p[0] : "text",
                       .predictions = j->predictions,
                       .baseline = j->baseline,
                       .train = j->train_path,
                       .out = j->out,
                       .prompt = j->prompt,
                       .how = &j->how};
    return cl_eval_captions(&c, &j->talk, err);
}

static int eval_vqa(job *j, oc_err *err)
{
    cl_captioning c = {.self = j->self,
                       .common = &j->common,
                       .data = j->data_path,
                       .predictions = j->predictions,
                       .choices = &j->choices.texts,
                       .how = &j->how};
    return cl_eval_answers(&c, &j->talk, err);
}

/* ---- the command ------------------------------------------------------------------------------------------------------ */

typedef struct kind {
    const char *name;
    int (*run)(job *j, oc_err *err);
} kind;

static const kind *find_kind(const char *name)
{
    static const kind kinds[] = {{"zeroshot", eval_zeroshot}, {"retrieval", eval_retrieval}, {"caption", eval_caption},
                                 {"vqa", eval_vqa},           {"neighbour", eval_neighbour}, {"perplexity", eval_perplexity}};
    for (size_t i = 0; name && i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    return NULL;
}

/* What is wrong with switches of `caption` and `vqa`; NULL: nothing. */
static const char *caption_usage(const job *j)
{
    bool embeds = j->baseline && !strcmp(j->baseline, "embedding");
    if ((j->predictions != NULL) + (j->baseline != NULL) + (j->common.model && !embeds) != 1)
        return "caption takes --model M, --predictions FILE.jsonl or --baseline neighbour|embedding";
    if (j->baseline && !embeds && strcmp(j->baseline, "neighbour") != 0)
        return "--baseline: expected neighbour or embedding";
    if (!j->baseline != !j->train_path)
        return j->baseline ? "expected --train FILE.jsonl beside --baseline" : "--train goes with --baseline";
    if (j->predictions && j->out)
        return "--out goes with --model and --baseline";
    if (j->prompt && (j->predictions || j->baseline))
        return "--prompt goes with --model";
    return j->languages.n > 1 ? "caption takes one --language" : NULL;
}

static const char *vqa_usage(const job *j)
{
    if (!j->predictions == !j->common.model)
        return "vqa takes --model M or --predictions FILE.jsonl";
    if (j->predictions && j->choices_from)
        return "--choices goes with --model";
    return j->languages.n ? "vqa takes no --language" : NULL;
}

/* The same of all kinds. */
static const char *wrong_with(const job *j, const kind *k)
{
    bool caption = k->run == eval_caption, vqa = k->run == eval_vqa, neighbour = k->run == eval_neighbour;
    const char *wrong = caption ? caption_usage(j) : vqa ? vqa_usage(j) : NULL;
    if (!j->data_path || wrong)
        return j->data_path ? wrong : "expected --data FILE";
    if (!caption && !vqa && j->predictions)
        return "--predictions goes with caption and vqa only";
    if ((j->prompt && !caption) || (j->choices_from && !vqa))
        return j->choices_from && !vqa ? "--choices goes with vqa only" : "--prompt goes with caption only";
    if (k->run != eval_retrieval && (j->rerank || j->judged))
        return "--rerank goes with retrieval only";
    if (j->judged && !j->rerank)
        return "--rerank-top goes with --rerank";
    if (k->run == eval_retrieval && j->common.enc && !j->rerank)
        return "--enc-token goes with --rerank";
    if (!caption && (j->baseline || j->out))
        return j->baseline ? "--baseline goes with caption only" : "--out goes with caption only";
    if (!caption && neighbour != (j->train_path != NULL))
        return neighbour ? "expected --train FILE.jsonl" : "--train goes with neighbour and caption only";
    if (neighbour && j->languages.n > 1)
        return "neighbour takes one --language";
    return k->run != eval_zeroshot && (j->given.n || j->set) ? "templates go with zeroshot only" : NULL;
}

/* -1 to go on, or the exit code of wrong usage. */
static int check_usage(job *j, const kind *k)
{
    oc_err err = {0};
    if (!k)
        return cl_usage(j->self, "expected one of zeroshot, retrieval, caption, vqa, neighbour, perplexity%s%s%s",
                        j->words.n ? ", not '" : "", j->words.n ? j->words.p[0] : "", j->words.n ? "'" : "");
    const char *wrong = wrong_with(j, k);
    if (wrong)
        return cl_usage(j->self, "%s", wrong);
    const char *how = k->run == eval_caption || k->run == eval_vqa ? cl_telling_wrong(&j->how) : NULL;
    if (how)
        return cl_usage(j->self, "%s", how);
    if (j->choices_from && cl_labels_read(&j->choices, "choices", "answer", j->choices_from, &err))
        return cl_usage(j->self, "%s", err.text);
    if (cl_templates(&j->given, j->set, &j->templates, &j->words, &j->template_bytes, &err))
        return cl_usage(j->self, "%s", err.text);
    return j->words.n > 1 ? cl_usage(j->self, "'%s' is one word too many", j->words.p[1]) : -1;
}

static void clear(job *j)
{
    cl_labels_clear(&j->choices);
    cl_texts_clear(&j->words);
    cl_texts_clear(&j->given);
    cl_texts_clear(&j->languages);
    cl_texts_clear(&j->templates);
    bs_buf_clear(&j->template_bytes);
    dt_pairs_clear(&j->pairs);
    bs_free(j->rows);
    bs_free(j->ok);
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self, .how = cl_telling_start()};
    oc_err err = {0};
    const cl_option options[] = {
        {"data", "FILE", CL_TEXT, &j.data_path,
         "pictures with words: .jsonl, or .tsv (path, tab, text); vqa: .jsonl of {\"image\",\"question\",\"answers\"}; "
         "perplexity: texts, "
         ".txt, .jsonl of {\"text\"} or a folder",
         0, 0},
        {"predictions", "FILE", CL_TEXT, &j.predictions,
         "caption: lines of {\"image\",\"text\"}; vqa: of {\"image\",\"question\",\"text\"} (-: standard input)", 0, 0},
        {"baseline", "NAME", CL_TEXT, &j.baseline,
         "caption: neighbour copies the caption of the picture in --train that looks most alike, embedding of the one that is "
         "nearest "
         "to --model",
         0, 0},
        {"train", "FILE", CL_TEXT, &j.train_path, "neighbour, caption --baseline: the pictures to learn from", 0, 0},
        {"out", "FILE", CL_TEXT, &j.out, "caption: writes the captions as lines of {\"image\",\"text\"}", 0, 0},
        {"prompt", "S", CL_TEXT, &j.prompt, "caption --model: what a caption goes on with, as BLIP's 'a picture of '", 0, 0},
        {"choices", "FILE|a,b,c", CL_TEXT, &j.choices_from, "vqa --model: the likeliest of these is the answer", 0, 0},
        CL_TELLING_OPTIONS(j.how),
        {"rerank", NULL, CL_FLAG, &j.rerank,
         "retrieval: the model's matching head (ITM) orders the first hits anew, with the cosine (ITC) added", 0, 0},
        {"rerank-top", "N", CL_INT, &j.judged, "so many of them (100; BLIP's paper: 256 on COCO, 128 on Flickr30k)", 1, 1e9},
        {"enc-token", NULL, CL_FLAG, &j.common.enc, CL_ENC_HELP, 0, 0},
        {"language", "KEY...", CL_MORE, &j.languages, "texts to use, by their key in the data (text); several print a line each",
         0, 0},
        {"context", "N", CL_INT, &j.context, "perplexity: tokens of a window (the model's context)", 2, 1 << 28},
        {"stride", "N", CL_INT, &j.stride, "perplexity: how far the next window begins (the window)", 1, 1 << 28},
        {"template", "S...", CL_MORE, &j.given, "zeroshot: sentences with {} where the name goes; their vectors are averaged", 0,
         0},
        {"templates", "NAME|FILE", CL_TEXT, &j.set, "zeroshot: " CL_TEMPLATES_HELP, 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &j.words);
    const kind *k = find_kind(j.words.n ? j.words.p[0] : NULL);
    cl_telling_end(&j.how, &j.common);
    if (code < 0)
        code = check_usage(&j, k);
    if (code < 0) {
        j.judged = j.judged || !j.rerank ? j.judged : RERANKED;
        cl_talk_start(&j.talk, self, &j.common);
        code = cl_done(self, k->run(&j, &err) ? cl_fail(self, &err) : j.talk.talk.failed ? CL_FAILED : CL_OK);
    }
    clear(&j);
    return code;
}

const cl_command cmd_eval = {
    "eval", "how good a model is at naming, finding and describing pictures, or at foretelling texts",
    "zeroshot|retrieval|caption|vqa|neighbour|perplexity --model M --data FILE [...]",
    "  ocelli eval zeroshot --data emoji.jsonl --language text text_zh --json\n"
    "  ocelli eval zeroshot --data emoji.jsonl --templates drawing\n  ocelli eval retrieval --data photos.jsonl --json\n"
    "  ocelli eval retrieval --model blip-itm-base-coco --rerank --enc-token --data photos.jsonl\n"
    "  ocelli eval caption --model starter-caption --data photos.jsonl --num-beams 3 --out said.jsonl\n"
    "  ocelli eval vqa --model blip-vqa-base --data questions.jsonl\n"
    "  ocelli eval caption --predictions said.jsonl --data photos.jsonl --json\n"
    "  ocelli eval caption --baseline neighbour --train known.jsonl --data photos.jsonl --language text_zh --out copied.jsonl\n"
    "  ocelli eval vqa --predictions answers.jsonl --data questions.jsonl --json\n"
    "  ocelli eval neighbour --train known.jsonl --data emoji.jsonl\n"
    "  ocelli eval perplexity --model gpt2 --data books/ --context 1024 --stride 512\n\n"
    "zeroshot   names each picture by the nearest class; the classes are the groups of the data, called by their first text\n"
    "retrieval  finds pictures by their first text and the other way round; equal texts or groups are right answers to each "
    "other\n"
    "caption    all texts of a picture are references, those of other lines with its path too. BLEU-1 to 4 (0 to 1) and CIDEr-D\n"
    "           (0 to 10; 1.0 is what papers print as 100) as the COCO evaluation has them, without Java; how rare words are is\n"
    "           counted in the references of this data\n"
    "vqa        the official accuracy (0 to 1): answers in plain form, min(1, others who said so / 3), each answer left out in "
    "turn\n"
    "neighbour  no model: the names of the pictures that look most alike by edges and colours\n"
    "perplexity a language model: the exponential of the mean loss of each next token; a longer look back (--stride) costs time "
    "and is kinder\n",
    run};
