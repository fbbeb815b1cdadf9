/* bert.c - BERT (Devlin 2019) as an encoder of texts, and the sentence embeddings made with it (Reimers 2019).
 *
 *   ids [B,T], types [B,T] -> word + type + position -> N post-norm layers -> last_hidden_state [B,T,width]
 *                       row of the first token -> dense -> tanh -> pooler_output [B,width]
 *                       mean (or maximum, or first) of the rows that the mask keeps -> sentence_embedding [B,width], of length 1
 *
 * Names are those of Hugging Face's BertModel; BertForMaskedLM and BertLMHeadModel have it below "bert.", their heads are not used. A folder of
 * sentence-transformers also says how rows are pooled and how long a text may be. */
#include <stdlib.h>
#include <string.h>

#include "reading.h"

enum pooling { BY_MEAN, BY_MAX, BY_FIRST };

typedef struct bert {
    bl_bert encoder;
    tn_linear_w pooler; /* [width, width], may be absent */
    bool causal;        /* a token sees itself and those before it */
    int longest;        /* ids of a text that embeddings are made of */
    bool below;         /* its names start with "bert." */
    enum pooling pooling;
    bool normalizes; /* embeddings are of length 1 */
} bert;

/* ---- configuration ------------------------------------------------------------------------------------------------ */

static void destroy(void *p)
{
    bert *m = p;
    if (m)
        free(m->encoder.layer);
    free(m);
}

static void *create(const ck_config *c, oc_err *err)
{
    bert *m = calloc(1, sizeof *m);
    const char *architecture = "BertModel";
    if (!m || md_read_architecture(c, &architecture, err) || md_read_bert(c, &m->encoder, err) ||
        ck_int(c, "pad_token_id", &m->encoder.pad, 0, MD_MOST_TOKENS, err) || ck_bool(c, "is_decoder", &m->causal, err))
        goto failed;
    m->below = strcmp(architecture, "BertModel") != 0;
    m->longest = m->encoder.positions;
    m->encoder.layer = calloc((size_t)m->encoder.layers, sizeof *m->encoder.layer);
    if (m->encoder.layer)
        return m;
failed:
    bs_err(err, "out of memory: a model"); /* unless something was said already */
    destroy(m);
    return NULL;
}

static void sizes(const void *p, md_sizes *s)
{
    const bert *m = p;
    *s = (md_sizes){.max_tokens = m->longest,
                    .vocab = m->encoder.vocab,
                    .embedding = m->encoder.shape.width,
                    .bos = -1,
                    .eos = -1,
                    .pad = m->encoder.pad,
                    .padding = MD_PADDING_HIDDEN};
}

/* ---- what sentence-transformers keeps beside ---------------------------------------------------------------------------- */

/* The file below `folder`; *c NULL when there is none. */
static int read_beside(const char *folder, const char *name, ck_config **c, oc_err *err)
{
    char *path = bs_join(folder, name);
    int result = path ? 0 : bs_err(err, "out of memory: a file's name");
    *c = NULL;
    if (path && bs_is_file(path) && !(*c = ck_config_read(path, err)))
        result = -1;
    free(path);
    return result;
}

/* One flag for each kind of pooling, or since version 5 one word. Several at once would be put side by side. */
static int read_pooling(const ck_config *c, bert *m, oc_err *err)
{
    static const char *const flags[] = {"pooling_mode_mean_tokens",         "pooling_mode_max_tokens",
                                        "pooling_mode_cls_token",           "pooling_mode_mean_sqrt_len_tokens",
                                        "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"};
    static const char *const words[] = {"mean", "max", "cls", NULL};
    int chosen = BY_MEAN, on = 0;
    if (ck_choice(c, "pooling_mode", &chosen, words, err))
        return -1;
    for (int i = 0; i < 6 && !ck_has(c, "pooling_mode"); i++) {
        bool flag = false;
        if (ck_bool(c, flags[i], &flag, err))
            return -1;
        on += flag;
        chosen = flag ? i : chosen;
        if (flag && (on > 1 || i > BY_FIRST))
            return ck_config_wrong(c, flags[i], err, "one of mean, max and cls pooling alone");
    }
    m->pooling = (enum pooling)chosen;
    return 0;
}

static int read_pooling_below(const char *folder, const char *name, bert *m, oc_err *err)
{
    ck_config *c = NULL;
    char *below = bs_join(name, "config.json");
    int result = below ? read_beside(folder, below, &c, err) : bs_err(err, "out of memory: a file's name");
    if (!result && c)
        result = read_pooling(c, m, err);
    ck_config_free(c);
    free(below);
    return result;
}

/* modules.json: what runs one behind the other. */
static int read_module(const ck_config *c, const char *folder, bert *m, oc_err *err)
{
    const char *type = "", *path = "1_Pooling";
    if (ck_string(c, "type", &type, err) || ck_string(c, "path", &path, err))
        return -1;
    const char *name = strrchr(type, '.') ? strrchr(type, '.') + 1 : type;
    if (!strcmp(name, "Pooling"))
        return read_pooling_below(folder, path, m, err);
    m->normalizes |= !strcmp(name, "Normalize");
    if (strcmp(name, "Normalize") != 0 && strcmp(name, "Transformer") != 0)
        return ck_config_wrong(c, "type", err, "Transformer, Pooling or Normalize");
    return strcmp(name, "Transformer") || !*path ? 0 : ck_config_wrong(c, "path", err, "the folder itself");
}

static int read_modules(const ck_config *list, const char *folder, bert *m, oc_err *err)
{
    for (size_t i = 0; i < ck_config_size(list); i++)
        if (read_module(ck_config_at(list, i), folder, m, err))
            return -1;
    return 0;
}

static int read_folder(void *p, const char *folder, oc_err *err)
{
    bert *m = p;
    ck_config *modules = NULL, *limits = NULL;
    int longest = m->encoder.positions;
    int result = read_beside(folder, "modules.json", &modules, err) ||
                         (modules ? read_modules(modules, folder, m, err) : read_pooling_below(folder, "1_Pooling", m, err)) ||
                         read_beside(folder, "sentence_bert_config.json", &limits, err) ||
                         (limits && ck_int(limits, "max_seq_length", &longest, 1, MD_LONGEST, err))
                     ? -1
                     : 0;
    m->longest = longest < m->longest ? longest : m->longest;
    ck_config_free(modules);
    ck_config_free(limits);
    return result;
}

/* ---- weights -------------------------------------------------------------------------------------------------------------- */

static void visit(void *p, tn_visitor *v)
{
    bert *m = p;
    long width = m->encoder.shape.width;
    bl_visit_bert(v, &m->encoder, m->below ? "bert." : "");
    size_t mark = tn_enter(v, "%s", m->below ? "bert.pooler.dense." : "pooler.dense.");
    tn_visit(v, &m->pooler.weight, "weight", TN_LINEAR | TN_OPTIONAL, 2, width, width, 0, 0);
    tn_visit(v, &m->pooler.bias, "bias", TN_NO_DECAY | TN_OPTIONAL, 1, width, 0, 0, 0);
    tn_leave(v, mark);
}

/* The first files were converted from TensorFlow, whose norms have gamma and beta. */
static const ck_renaming of_model[] = {
    {"bert.**.LayerNorm.gamma", "**.LayerNorm.weight", false},
    {"bert.**.LayerNorm.beta", "**.LayerNorm.bias", false},
    {"bert.**", "**", false},
    {"**.LayerNorm.gamma", "**.LayerNorm.weight", false},
    {"**.LayerNorm.beta", "**.LayerNorm.bias", false},
    {0},
};

static const ck_renaming of_heads[] = {
    {"bert.**.LayerNorm.gamma", "bert.**.LayerNorm.weight", false},
    {"bert.**.LayerNorm.beta", "bert.**.LayerNorm.bias", false},
    {"embeddings.**", "bert.embeddings.**", false},
    {"encoder.**", "bert.encoder.**", false},
    {"pooler.**", "bert.pooler.**", false},
    {0},
};

static const ck_renaming *renamings(const void *p) { return ((const bert *)p)->below ? of_heads : of_model; }

static void init(const void *p, const char *name, long n, float *values, bs_rng *rng)
{
    (void)p;
    md_draw(name, n, values, rng, 0.02f);
}

/* ---- forward --------------------------------------------------------------------------------------------------------------- */

static bl_bert_view view_of(const bert *m, const md_batch *b)
{
    return (bl_bert_view){.types = b->token_types, .key_mask = b->attention_mask, .causal = m->causal};
}

static tn_t rows_of(tn_ctx *cx, const bert *m, const md_batch *b)
{
    bl_bert_view view = view_of(m, b);
    return bl_bert_rows(cx, &m->encoder, b->input_ids, b->texts, b->length, &view);
}

static tn_t pool(tn_ctx *cx, const bert *m, tn_t rows, const md_batch *b)
{
    if (m->pooling == BY_FIRST)
        return tn_select(cx, rows, NULL);
    return tn_pool(cx, rows, b->attention_mask, m->pooling == BY_MAX ? TN_POOL_MAX : TN_POOL_MEAN);
}

static tn_t embed_texts(tn_ctx *cx, const void *p, const md_batch *b)
{
    const bert *m = p;
    bl_bert_view view = view_of(m, b);
    tn_t hidden, y = m->pooling == BY_FIRST && !m->causal ? bl_bert_first(cx, &m->encoder, b->input_ids, b->texts, b->length,
                                                                          &view, b->want_hidden ? &hidden : NULL)
                                                          : pool(cx, m, rows_of(cx, m, b), b);
    return m->normalizes ? tn_l2_normalize(cx, y) : y;
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    const bert *m = p;
    tn_t rows = rows_of(cx, m, b);
    md_emit(cx, out, rows, "last_hidden_state");
    if (tn_has(&m->pooler.weight))
        md_emit(cx, out, tn_linear_act(cx, tn_select(cx, rows, NULL), &m->pooler, KN_TANH), "pooler_output");
    md_emit(cx, out, tn_l2_normalize(cx, pool(cx, m, rows, b)), "sentence_embedding");
}

/* ---- batches ----------------------------------------------------------------------------------------------------------------- */

static int pool_position(const void *p, const int *ids, long n)
{
    (void)p, (void)ids, (void)n;
    return 0;
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const bert *m = p;
    if (!md_values_find(in, "input_ids"))
        return bs_err(err, "nothing to run: expected input_ids");
    if (b->want_loss)
        return bs_err(err, "an encoder alone has no loss");
    return md_take_texts(b, in, pool_position, m, m->encoder.positions, err);
}

static const char *const architectures[] = {"BertModel", "BertForMaskedLM", "BertLMHeadModel", "BertForPreTraining", NULL};

const md_family md_bert = {
    .model_type = "bert",
    .architectures = architectures,
    .can = MD_EMBEDS_TEXTS,
    .create = create,
    .read_folder = read_folder,
    .destroy = destroy,
    .visit = visit,
    .renamings = renamings,
    .sizes = sizes,
    .prepare = prepare,
    .forward = forward,
    .embed_texts = embed_texts,
    .pool_position = pool_position,
    .lora_targets = "query,key,value,attention.output.dense,intermediate.dense,output.dense",
    .init = init,
};
