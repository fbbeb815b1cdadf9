/* cmd_train.c - `train` (a dual encoder, BLIP, a language or a sentence model, from nothing or further) and `finetune` (LoRA, or whole). */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../run/generate.h"
#include "../train/trainer.h"
#include "adapter_options.h"
#include "batch_dump.h"
#include "cli.h"
#include "objective_options.h"
#include "run_lines.h"

/* What there is to learn from: pairs of pictures and texts that are told apart, or by more objectives; texts that are gone on with, or that mean the same. */
typedef enum learning { PAIRS, OBJECTIVES, TEXTS, SENTENCES } learning;
static const char *const items_named[] = {"pairs", "pairs", "rows of text", "lines"};

typedef struct job {
    const cl_command *self;
    cl_common common;
    bool finetune;
    const char *config, *from, *freeze, *data, *out, *metrics, *save, *dump;
    int steps, epochs, micro, stop_after, texts, context;
    float temperature, partners, kin, hue, muon_lr, embedding_lr;
    float lr, final_lr, warmup, decay, beta1, beta2, clip, ema, augment, minutes;
    cl_adapter adapter; /* a new one */
    cl_objectives objectives;
    bool export_too, fresh, full, dumped, answers;
    FILE *log;
    double shown;
    char *folder; /* where the model's files come from */
    bs_claim claim;
    md_model *model;
    tx_tokenizer *tokenizer;
    im_processor processor;
    learning learns;
    long items;    /* of an epoch */
    uint64_t hash; /* of the data: a run that goes on must see the same */
    dt_pairs pairs;
    dt_corpus corpus;
    dt_sentences sentences;
    dt_anchors anchors;
    tr_ranking ranking;
    md_lora lora;
    bs_pool *pool;
    kn_work *work;
    dt_loader *loader;
    dt_rows *rows;
    tr_contrastive contrastive;
    tr_next_token next_token;
    tr_grounded *ground;
    tr_task task;
} job;

static bool looks(const job *j) { return j->learns == PAIRS || j->learns == OBJECTIVES; }

/* ---- talk ------------------------------------------------------------------------------------------------------ */

static void on_report(void *arg, const tr_report *r)
{
    job *j = arg;
    fprintf(j->log, "{\"step\":%ld,\"loss\":%.6f,\"lr\":%.6g,\"%s_per_s\":%.2f,\"grad_norm\":%.5g", r->step, r->loss, r->lr,
            j->task.unit, r->per_s, r->norm);
    if (looks(j))
        fprintf(j->log, ",\"logit_scale\":%.4f", r->scale);
    for (int i = 0; j->ground && i < TR_OBJECTIVES; i++)
        if (isfinite(tr_grounded_losses(j->ground)[i]))
            fprintf(j->log, ",\"loss_%s\":%.6f", tr_objective_names[i], tr_grounded_losses(j->ground)[i]);
    fprintf(j->log, "}\n");
    double now = bs_now();
    bool terminal = isatty(2);
    if (j->common.quiet || (now - j->shown < (terminal ? 0.5 : 30) && r->step < r->steps))
        return;
    fflush(j->log);
    j->shown = now;
    fprintf(stderr, "%sstep %ld of %ld  loss %.4f  %.0f %s/s  %.0f min left%s", terminal ? "\r" : "", r->step, r->steps, r->loss,
            r->per_s, j->task.unit, r->left_s / 60, terminal ? "\033[K" : "\n");
    if (terminal && r->step == r->steps)
        fputc('\n', stderr);
}

static void on_say(void *arg, const char *text)
{
    cl_say(&((job *)arg)->common, "ocelli %s: %s\n", ((job *)arg)->self->name, text);
}

static int on_batch(void *arg, long step, const md_batch *b, oc_err *err)
{
    job *j = arg;
    if (!j->dumped && cl_dump_start(j->dump, j->model, j->finetune && !j->full ? &j->lora : NULL, err))
        return -1;
    j->dumped = true;
    return cl_dump_batch(j->dump, step, b, err);
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

static void set_temperature(job *j)
{
    const md_family *f = j->model->family;
    const tn_param *p = f->logit_scale ? f->logit_scale(j->model->m) : NULL;
    if (p)
        j->model->slots[p->id].own[0] = logf(1 / j->temperature);
}

static int start_from(job *j, oc_err *err)
{
    char *folder = rn_find_model(j->from, NULL, err);
    int taken = folder ? md_start_from(j->model, folder, err) : -1;
    if (taken >= 0)
        cl_say(&j->common, "ocelli %s: %d of %d weights are those of '%s'\n", j->self->name, taken, j->model->n, folder);
    free(folder);
    return taken < 0 ? -1 : 0;
}

/* Weights whose names begin with one of a list learn nothing, and a tower that holds nothing else costs its forward alone. */
static int freeze(job *j, oc_err *err)
{
    for (const char *at = j->freeze; *at;) {
        size_t n = strcspn(at, ",");
        int frozen = 0;
        for (int i = 0; i < j->model->n; i++)
            if (!strncmp(j->model->slots[i].name, at, n)) {
                j->model->slots[i].flags |= TN_BUFFER;
                frozen++;
            }
        if (!frozen || !n)
            return bs_err(err, "--freeze: no weight's name begins with '%.*s'", (int)n, at);
        at += n + (at[n] == ',');
    }
    return 0;
}

static int choose_learning(job *j, oc_err *err)
{
    unsigned can = md_can(j->model), pairs = MD_EMBEDS_IMAGES | MD_EMBEDS_TEXTS;
    if (tr_grounded_can(j->model))
        j->learns = OBJECTIVES;
    else if (can & MD_GENERATES)
        j->learns = TEXTS;
    else if (tr_ranking_can(j->model))
        j->learns = SENTENCES;
    else if (j->model->family->pair_loss && (can & pairs) == pairs)
        j->learns = PAIRS;
    else
        return bs_err(err, "'%s' neither tells pictures and texts apart nor embeds or goes on with texts", j->model->folder);
    const char *given = j->learns == OBJECTIVES ? NULL : cl_objectives_given(&j->objectives);
    return given ? bs_err(err, "--%s is for BLIP and its like, which '%s' is not", given, j->model->folder) : 0;
}

static int open_model(job *j, oc_err *err)
{
    j->folder = rn_find_model(j->config ? j->config : j->common.model, NULL, err);
    j->model = j->folder ? j->config ? md_create(j->folder, err) : md_open(j->folder, err) : NULL;
    if (!j->model)
        return -1;
    if (cl_same_place(j->folder, j->out))
        return bs_err(err, "--out '%s' is the model's own folder, which training would overwrite", j->out);
    if (choose_learning(j, err))
        return -1;
    if (!j->common.batch)
        j->common.batch = j->learns == TEXTS ? 8 : j->finetune ? 32 : 128;
    if ((j->learns == PAIRS || j->learns == SENTENCES) && tr_check_others(j->common.batch, err))
        return -1;
    if ((!j->finetune || j->full) && (md_need_floats(j->model, err) || md_own(j->model, err)))
        return -1;
    if (j->config && md_init(j->model, j->common.seed, err))
        return -1;
    if (j->config && j->temperature > 0)
        set_temperature(j);
    if ((j->from && start_from(j, err)) || (j->freeze && freeze(j, err)))
        return -1;
    j->tokenizer = tx_open(j->folder, err);
    return !j->tokenizer ? -1 : looks(j) ? im_processor_read(&j->processor, j->folder, err) : 0;
}

/* The last of what is opened, so that a run that cannot start leaves nothing. */
static int open_out(job *j, oc_err *err)
{
    if (bs_claim_folder(&j->claim, j->out, err))
        return -1;
    j->log = j->metrics ? cl_metrics_open(j->metrics, err) : stdout;
    if (!j->log)
        return -1;
    if (j->finetune && !j->full)
        return 0;
    return cl_copy_model_files(j->folder, j->out, err) || (j->answers && cl_say_it_answers(j->model, j->out, err)) ? -1 : 0;
}

static int on_resume(void *arg, long step, oc_err *err)
{
    const char *path = ((job *)arg)->metrics;
    return path ? cl_metrics_cut(path, step, err) : 0;
}

static int open_adapter(job *j, oc_err *err)
{
    if (j->common.lora && cl_same_place(j->common.lora, j->out))
        return bs_err(err, "--out '%s' is the adapter's own folder, which training would overwrite", j->out);
    if (j->common.lora) /* at its own scale: a scale on top could not be written down with it */
        return md_lora_open(&j->lora, j->model, j->common.lora, 1, err);
    ck_adapter_config c = {0};
    int result =
        cl_adapter_config(&j->adapter, j->model, &c, err) ? -1 : md_lora_create(&j->lora, j->model, &c, j->common.seed, err);
    ck_adapter_config_clear(&c);
    return result;
}

static int open_texts(job *j, oc_err *err)
{
    md_sizes s = {0};
    j->model->family->sizes(j->model->m, &s);
    if (j->context > s.context)
        return bs_err(err, "--context is %d, the model has %ld positions", j->context, s.context);
    if (dt_corpus_read(&j->corpus, j->data, j->tokenizer, s.eos, err) || rn_check_ids(j->model, &j->corpus.ids, err))
        return -1;
    long length = j->context ? j->context : s.context < 1024 ? s.context : 1024;
    j->rows = dt_rows_open(&j->corpus, j->model, j->common.batch, length, j->common.seed, err);
    if (!j->rows)
        return -1;
    j->items = dt_rows_count(j->rows);
    j->hash = j->corpus.hash;
    return tr_next_token_open(&j->next_token, j->rows, j->micro, &j->task, err);
}

static int open_sentences(job *j, oc_err *err)
{
    md_sizes s = {0};
    j->model->family->sizes(j->model->m, &s);
    if (j->context > s.max_tokens)
        return bs_err(err, "--context is %d, the model takes %ld tokens of a text", j->context, s.max_tokens);
    if (j->micro && j->micro != j->common.batch)
        return bs_err(err, "'%s' compares all texts of a batch: --micro is for models of pictures or of what comes next",
                      j->folder);
    if (dt_sentences_read(&j->sentences, j->data, j->tokenizer, j->context ? j->context : s.max_tokens, err) ||
        rn_check_ids(j->model, &j->sentences.ids, err))
        return -1;
    if (j->sentences.cut)
        cl_say(&j->common, "ocelli %s: %d texts lost their ends\n", j->self->name, j->sentences.cut);
    if (dt_anchors_open(&j->anchors, &j->sentences, j->model, rn_pad(j->tokenizer), j->common.batch, j->common.seed, err))
        return -1;
    j->items = j->sentences.n;
    j->hash = j->sentences.hash;
    return tr_ranking_open(&j->ranking, &j->anchors, j->temperature > 0 ? j->temperature : 0.05f, &j->task, err);
}

static int open_grounded(job *j, oc_err *err)
{
    tr_grounded_options o;
    if (j->texts > 1 || j->partners > 0 || (j->micro && j->micro != j->common.batch))
        return bs_err(
            err, "'%s' learns from one text a picture and whole batches: --texts, --partners and --micro are for dual encoders",
            j->folder);
    if (cl_objectives_read(&j->objectives, j->model, j->pairs.n, j->common.batch, j->common.seed, j->finetune && !j->full, &o,
                           err))
        return -1;
    j->answers = o.weight[TR_VQA] > 0;
    j->ground = tr_grounded_open(&o, j->loader, &j->pairs, j->tokenizer, j->model, j->common.batch, &j->task, err);
    return j->ground ? 0 : -1;
}

/* Of the list of pairs. */
static int hash_of_file(const char *path, uint64_t *hash, oc_err *err)
{
    bs_map m;
    if (bs_map_open(&m, path, err))
        return -1;
    *hash = bs_hash(BS_HASH_START, m.p, m.n);
    bs_map_close(&m);
    return 0;
}

static int open_pairs(job *j, oc_err *err)
{
    if (dt_pairs_read(&j->pairs, j->data, err) || hash_of_file(j->data, &j->hash, err))
        return -1;
    j->items = j->pairs.n;
    dt_loader_options o = {.pairs = &j->pairs,
                           .processor = &j->processor,
                           .tokenizer = j->tokenizer,
                           .model = j->model,
                           .seed = j->common.seed,
                           .batch = j->common.batch,
                           .texts = j->texts,
                           .partners = j->partners,
                           .kin = j->kin,
                           .max_pixels = j->common.max_pixels,
                           .max_tokens = j->learns == OBJECTIVES ? j->objectives.length : 0};
    dt_augment_default(&o.augment, j->augment);
    if (j->hue >= 0)
        o.augment.hue = j->hue;
    j->loader = dt_loader_open(&o, err);
    if (!j->loader)
        return -1;
    return j->learns == OBJECTIVES ? open_grounded(j, err)
                                   : tr_contrastive_open(&j->contrastive, j->loader, j->model, j->common.batch, j->micro,
                                                         j->texts, j->partners, &j->task, err);
}

static int open_rest(job *j, oc_err *err)
{
    const kn_table *kn = kn_best(err);
    j->pool = kn ? bs_pool_open(j->common.threads, err) : NULL;
    j->work = j->pool ? kn_work_open(kn, j->pool, err) : NULL;
    static int (*const open[])(job *, oc_err *) = {open_pairs, open_pairs, open_texts, open_sentences};
    return j->work ? open[j->learns](j, err) : -1;
}

static void close_all(job *j)
{
    if (j->log && j->log != stdout)
        fclose(j->log);
    tr_contrastive_close(&j->contrastive);
    tr_ranking_close(&j->ranking);
    tr_grounded_close(j->ground);
    cl_texts_clear(&j->objectives.prompts);
    dt_loader_close(j->loader);
    dt_rows_close(j->rows);
    dt_corpus_clear(&j->corpus);
    dt_anchors_close(&j->anchors);
    dt_sentences_clear(&j->sentences);
    kn_work_close(j->work);
    bs_pool_close(j->pool);
    dt_pairs_clear(&j->pairs);
    md_lora_clear(&j->lora);
    tx_close(j->tokenizer);
    md_close(j->model);
    bs_claim_end(&j->claim);
    free(j->folder);
}

/* ---- the run ------------------------------------------------------------------------------------------------------ */

/* Everything that the bits of the result depend on: a checkpoint of other settings is not taken up. */
static int say_settings(job *j, long steps, long warmup, bs_buf *to, oc_err *err)
{
    bool adapter = j->finetune && !j->full;
    if (bs_buf_printf(
            to, err, "model %s data %016llx pairs %ld steps %ld batch %d micro %d texts %d partners %g seed %llu dtype %s",
            j->config ? j->config : j->common.model, (unsigned long long)j->hash, j->items, steps, j->common.batch, j->micro,
            j->texts, (double)j->partners, (unsigned long long)j->common.seed, j->common.dtype ? j->common.dtype : "fp32") ||
        bs_buf_printf(
            to, err,
            " lr %g final %g warmup %ld decay %g betas %g %g clip %g ema %g augment %g muon %g embedding %g temperature %g",
            (double)j->lr, (double)j->final_lr, warmup, (double)j->decay, (double)j->beta1, (double)j->beta2, (double)j->clip,
            (double)j->ema, (double)j->augment, (double)j->muon_lr, (double)j->embedding_lr, (double)j->temperature) ||
        (j->kin > 0 && bs_buf_printf(to, err, " kin %g", (double)j->kin)) ||
        (j->hue >= 0 && bs_buf_printf(to, err, " hue %g", (double)j->hue)) ||
        (j->from && bs_buf_printf(to, err, " start %s", j->from)) ||
        (j->freeze && bs_buf_printf(to, err, " freeze %s", j->freeze)) ||
        (j->learns == OBJECTIVES && cl_objectives_say(&j->objectives, to, err)))
        return -1;
    if (!adapter)
        return 0;
    return cl_adapter_say(&j->adapter, to, err) || bs_buf_printf(to, err, " from %s", j->common.lora ? j->common.lora : "nothing")
               ? -1
               : 0;
}

static int train(job *j, oc_err *err)
{
    if (open_model(j, err) || (j->finetune && !j->full && open_adapter(j, err)) || open_rest(j, err) || open_out(j, err))
        return -1;
    long steps = j->steps ? j->steps : (long)j->epochs * ((j->items + j->common.batch - 1) / j->common.batch);
    long warmup = j->warmup < 1 ? (long)((double)steps * (double)j->warmup) : (long)j->warmup;
    bs_buf settings = {0};
    if (say_settings(j, steps, warmup, &settings, err)) {
        bs_buf_clear(&settings);
        return -1;
    }
    tr_options o = {.out = j->out,
                    .checkpoint_minutes = j->minutes,
                    .export_too = j->export_too,
                    .bf16 = j->common.dtype && !strcmp(j->common.dtype, "bf16"),
                    .fresh = j->fresh,
                    .settings = settings.p,
                    .stop_after = j->stop_after,
                    .batch_seen = j->dump ? on_batch : NULL,
                    .resumed = on_resume,
                    .report = on_report,
                    .say = on_say,
                    .arg = j,
                    .save_dtype = !strcmp(j->save, "fp16")   ? CK_F16
                                  : !strcmp(j->save, "bf16") ? CK_BF16
                                                             : CK_F32,
                    .optimizer = {.lr = j->lr,
                                  .final_lr = j->final_lr,
                                  .warmup = warmup,
                                  .steps = steps,
                                  .beta1 = j->beta1,
                                  .beta2 = j->beta2,
                                  .eps = 1e-8f,
                                  .decay = j->decay,
                                  .clip = j->clip,
                                  .ema = j->ema,
                                  .muon_lr = j->muon_lr,
                                  .bf16 = j->common.dtype && !strcmp(j->common.dtype, "bf16"),
                                  .embedding_lr = j->embedding_lr}};
    cl_say(&j->common, "ocelli %s: %ld %s, %ld steps of %d, %s kernels, %d threads\n", j->self->name, j->items,
           items_named[j->learns], steps, j->common.batch, kn_work_table(j->work)->name, bs_pool_threads(j->pool));
    bs_stop_on_signal();
    int result = tr_train(j->model, j->finetune && !j->full ? &j->lora : NULL, &j->task, j->work, &o, err);
    bs_buf_clear(&settings);
    if (result >= 0 && (fflush(j->log) || ferror(j->log)))
        result = bs_err(err, "cannot write the metrics to '%s'", j->metrics ? j->metrics : "standard output");
    if (result == 1)
        cl_say(&j->common, "\nocelli %s: stopped; the same command goes on from '%s'\n", j->self->name, j->out);
    return result;
}

static int check(job *j, const cl_texts *rest)
{
    if (!j->data || !j->out || (!j->config && !j->common.model) || (j->config && j->common.model) || rest->n)
        return cl_usage(j->self, "expected --data, --out and %s", j->finetune ? "--model" : "either --config or --model");
    bool adapter = j->finetune && !j->full;
    if (j->finetune && j->config)
        return cl_usage(j->self, "--config starts from nothing: that is what train does");
    if (j->from && !j->config)
        return cl_usage(j->self, "--start-from goes with --config: --model goes on with a model as it is");
    if (!adapter && j->common.lora)
        return cl_usage(j->self, "--lora goes on with an adapter: finetune without --full does that");
    if (adapter && j->muon_lr > 0)
        return cl_usage(j->self, "--muon-lr is for whole weights, not for an adapter's factors");
    oc_err err = {0};
    if (cl_objectives_check(&j->objectives, &err))
        return cl_usage(j->self, "%s", err.text);
    if (!j->steps == !j->epochs)
        return cl_usage(j->self, "expected --steps or --epochs");
    if (strcmp(j->save, "fp32") != 0 && strcmp(j->save, "fp16") != 0 && strcmp(j->save, "bf16") != 0)
        return cl_usage(j->self, "--save-dtype: '%s' is not fp32, fp16 or bf16", j->save);
    return -1;
}

static int run(const cl_command *self, int argc, char **argv)
{
    job j = {.self = self,
             .finetune = !strcmp(self->name, "finetune"),
             .save = "fp32",
             .adapter = {.rank = 8},
             .objectives = cl_objectives_default(),
             .warmup = 0.05f,
             .beta1 = 0.9f,
             .beta2 = 0.98f,
             .clip = 1,
             .augment = 1,
             .hue = -1,
             .minutes = 10,
             .texts = 1};
    cl_texts rest = {0};
    oc_err err = {0};
    j.lr = j.finetune ? 1e-4f : 1e-3f;
    j.decay = j.finetune ? 0 : 0.1f;
    const cl_option options[] = {
        {"data", "FILE", CL_TEXT, &j.data,
         "pairs: .jsonl of {\"image\",\"text\",\"group\"} or .tsv; texts: .txt, .jsonl of {\"text\"} or "
         "{\"prompt\",\"answer\"}, or a folder; texts of one meaning: .jsonl of {\"anchor\",\"positive\",\"negative\"} or .tsv",
         0, 0},
        {"out", "DIR", CL_TEXT, &j.out, "where the checkpoint and the result go", 0, 0},
        {"config", "DIR", CL_TEXT, &j.config, "start from nothing: config.json, tokenizer and preprocessor_config.json", 0, 0},
        {"start-from", "M", CL_TEXT, &j.from,
         "with --config: not from nothing but from this model's weights of the same names; other picture sizes are bridged", 0,
         0},
        {"steps", "N", CL_INT, &j.steps, "updates in all", 1, 1e9},
        {"epochs", "N", CL_INT, &j.epochs, "instead: times through the pairs", 1, 1e6},
        {"micro", "N", CL_INT, &j.micro, "rows at once, a divisor of --batch; less memory, the same loss", 1, 65536},
        {"lr", "X", CL_FLOAT, &j.lr, "learning rate at the top (train 1e-3, finetune 1e-4)", 0, 10},
        {"final-lr", "X", CL_FLOAT, &j.final_lr, "share of it at the end (0)", 0, 1},
        {"warmup", "X", CL_FLOAT, &j.warmup, "steps of warm-up, or a share of all below 1 (0.05)", 0, 1e9},
        {"weight-decay", "X", CL_FLOAT, &j.decay, "decoupled; none on gains, biases, temperature (train 0.1)", 0, 10},
        {"context", "N", CL_INT, &j.context,
         "language models: tokens of a row (the model's, at most 1024); sentence models: of a text", 1, 1 << 28},
        {"texts", "N", CL_INT, &j.texts, "texts of each picture in a batch, in different languages where there are (1)", 1, 8},
        {"kin", "X", CL_FLOAT, &j.kin, "this share of the batches holds pairs of one \"kin\" each, which are easily mixed up (0)",
         0, 1},
        {"hue", "X", CL_FLOAT, &j.hue, "degrees that colours are turned by at most (54 times --augment)", 0, 180},
        {"partners", "X", CL_FLOAT, &j.partners,
         "fill half of each batch with other pictures of the same groups, which find each other by a loss of this weight (0)", 0,
         100},
        {"temperature", "X", CL_FLOAT, &j.temperature,
         "start of the temperature of a fresh model (0.07); sentence models: what cosines are divided by (0.05)", 0.01, 1},
        {"muon-lr", "X", CL_FLOAT, &j.muon_lr, "linear layers learn by Muon at this rate, the rest by AdamW (0: all by AdamW)", 0,
         1},
        {"embedding-lr", "X", CL_FLOAT, &j.embedding_lr, "factor on the rate of token embeddings and temperature (1)", 0, 100},
        {"beta1", "X", CL_FLOAT, &j.beta1, "AdamW (0.9)", 0, 0.999999},
        {"beta2", "X", CL_FLOAT, &j.beta2, "AdamW (0.98)", 0, 0.999999},
        {"clip", "X", CL_FLOAT, &j.clip, "largest norm of the gradients, 0 for any (1)", 0, 1e9},
        {"ema", "X", CL_FLOAT, &j.ema, "keep a moving average of the weights and write that (0: no)", 0, 1},
        {"augment", "X", CL_FLOAT, &j.augment, "strength of changes to the pictures, 0 for none (1)", 0, 3},
        {"rank", "N", CL_INT, &j.adapter.rank, "finetune: rank of the adapter (8)", 1, 4096},
        {"alpha", "X", CL_FLOAT, &j.adapter.alpha, "finetune: lora_alpha (twice the rank)", 0, 1e6},
        {"targets", "A,B", CL_TEXT, &j.adapter.targets, "finetune: modules, or all-linear (those of attention and MLP)", 0, 0},
        {"rank-pattern", "A=N,B=N", CL_TEXT, &j.adapter.rank_pattern, "finetune: other ranks for some modules", 0, 0},
        {"alpha-pattern", "A=X,B=X", CL_TEXT, &j.adapter.alpha_pattern, "finetune: other alphas for some modules", 0, 0},
        {"rslora", NULL, CL_FLAG, &j.adapter.rslora, "finetune: scale by alpha / sqrt(rank) instead of alpha / rank", 0, 0},
        {"dora", NULL, CL_FLAG, &j.adapter.dora, "finetune: learn the lengths of the weights' rows apart (DoRA)", 0, 0},
        {"modules-to-save", "A,B", CL_TEXT, &j.adapter.saved, "finetune: modules that learn whole, beside the factors", 0, 0},
        {"full", NULL, CL_FLAG, &j.full, "finetune: all weights instead of an adapter", 0, 0},
        {"objectives", "A=W,B", CL_TEXT, &j.objectives.list,
         "BLIP: which of itc, itm, lm, mlm, vqa are learned, with weights (itc,itm,lm as far as the model has them)", 0, 0},
        {"momentum", "X", CL_FLOAT, &j.objectives.momentum,
         "BLIP: of the teacher that itc compares with, 0 for none (0.995; adapters have none)", 0, 1},
        {"queue", "N", CL_INT, &j.objectives.queue, "BLIP: earlier pairs that itc compares with (57600, or as the data allows)",
         0, 1 << 24},
        {"itc-alpha", "X", CL_FLOAT, &j.objectives.alpha, "BLIP: the teacher's share of itc's targets, after two epochs (0.4)", 0,
         1},
        {"text-length", "N", CL_INT, &j.objectives.length, "BLIP: tokens of a text at most (30)", 4, 4096},
        {"row-noise", "X", CL_FLOAT, &j.objectives.row_noise,
         "BLIP: noise on what an eye that learns nothing sees, in sizes of a row (0)", 0, 10},
        {"row-drop", "X", CL_FLOAT, &j.objectives.row_drop, "BLIP: the share of its rows that is taken away (0)", 0, 0.95},
        {"prompt", "KEY=S", CL_TEXTS, &j.objectives.prompts,
         "BLIP: what captions of a language begin with (text_zh=...), not learned itself; may be given again", 0, 0},
        {"freeze", "A,B", CL_TEXT, &j.freeze, "weights whose names begin so learn nothing", 0, 0},
        {"checkpoint-minutes", "X", CL_FLOAT, &j.minutes, "how often the run is saved (10)", 0, 1e6},
        {"export", NULL, CL_FLAG, &j.export_too, "each checkpoint writes the model as well", 0, 0},
        {"fresh", NULL, CL_FLAG, &j.fresh, "start over instead of going on", 0, 0},
        {"stop-after", "N", CL_INT, &j.stop_after, "stop after so many steps of this run, as Ctrl-C would", 1, 1e9},
        {"metrics", "FILE", CL_TEXT, &j.metrics, "JSON lines are added here (standard output)", 0, 0},
        {"dump", "DIR", CL_TEXT, &j.dump,
         "write the weights this run starts from and every batch, for another framework to repeat it", 0, 0},
        {"save-dtype", "TYPE", CL_TEXT, &j.save, "fp32, fp16 or bf16 of the weights written (fp32)", 0, 0},
        {0},
    };
    int code = cl_parse(self, argc, argv, options, &j.common, &rest);
    if (code < 0)
        code = check(&j, &rest);
    if (code < 0) {
        int result = train(&j, &err);
        code = cl_done(self, result < 0 ? cl_fail(self, &err) : result ? CL_FAILED : CL_OK);
    }
    close_all(&j);
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_train = {
    "train", "train a dual encoder, BLIP, a language or a sentence model",
    "(--config DIR | --model M) --data FILE --out DIR (--steps N | --epochs N)",
    "  ocelli train --config my-config --data pairs.jsonl --out my-clip --steps 5000 --batch 256\n"
    "  ocelli train --config my-config --data pairs.jsonl --out my-clip --steps 5000 --batch 256   # again: goes on\n"
    "  ocelli train --config my-gpt2 --data books/ --out my-gpt2-trained --epochs 3 --context 256 --batch 16\n"
    "  ocelli train --model my-blip --data pairs.jsonl --out my-blip-more --epochs 5 --objectives itc,itm,lm   # BLIP: any of "
    "its losses\n",
    run};

const cl_command cmd_finetune = {
    "finetune", "adapt a model by LoRA (or whole)", "--model M --data FILE --out DIR (--steps N | --epochs N)",
    "  ocelli finetune --model starter --data mine.jsonl --out my-adapter --epochs 10 --rank 8\n"
    "  ocelli search --lora my-adapter 'my dog'\n"
    "  ocelli finetune --model my-blip --data questions.jsonl --out my-answers --epochs 5 --objectives vqa\n"
    "  ocelli finetune --model llama --data mine.jsonl --out my-llama --epochs 3 --dora\n"
    "  ocelli finetune --model all-MiniLM-L6-v2 --data same.jsonl --out my-sentences --epochs 3\n",
    run};
