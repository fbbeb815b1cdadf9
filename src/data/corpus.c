/* corpus.c - see corpus.h. */
#include "corpus.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "order.h"

/* ---- documents -------------------------------------------------------------------------------------------- */

typedef struct reader {
    dt_corpus *c;
    const tx_tokenizer *t;
    int eos;
    long room; /* of c->first and c->given */
} reader;

static int make_room(reader *r, oc_err *err)
{
    dt_corpus *c = r->c;
    if (c->documents + 2 <= r->room)
        return 0;
    long room = r->room ? 2 * r->room : 1024;
    long *first = realloc(c->first, (size_t)room * sizeof *first), *given = NULL;
    if (first) {
        c->first = first;
        given = realloc(c->given, (size_t)room * sizeof *given);
    }
    if (!given)
        return bs_err(err, "out of memory: a corpus");
    c->given = given;
    r->room = room;
    return 0;
}

/* prompt NULL: there is none. */
static int add_document(reader *r, const char *prompt, const char *text, size_t n, oc_err *err)
{
    dt_corpus *c = r->c;
    size_t begin = c->ids.n;
    if (make_room(r, err) || (prompt && tx_encode(r->t, prompt, strlen(prompt), true, &c->ids, err)))
        return -1;
    c->given[c->documents] = (long)(c->ids.n - begin);
    c->prompts += prompt != NULL;
    if (tx_encode(r->t, text, n, !prompt, &c->ids, err))
        return -1;
    bool ended = c->ids.n > begin && c->ids.p[c->ids.n - 1] == r->eos;
    if (r->eos >= 0 && (!ended || prompt) && tx_ids_put(&c->ids, r->eos, err))
        return -1;
    c->first[c->documents++] = (long)begin;
    c->first[c->documents] = (long)c->ids.n;
    return 0;
}

static int add_line(reader *r, const char *path, long number, const char *line, size_t n, oc_err *err)
{
    char name[64];
    const char *text = NULL, *prompt = NULL;
    snprintf(name, sizeof name, "line %ld", number);
    ck_config *c = ck_config_parse(line, n, name, err);
    const char *key = c && ck_has(c, "prompt") ? "answer" : "text";
    int result = -1;
    if (c && !ck_string(c, "prompt", &prompt, err) && !ck_config_need(c, key, "a string", err) && !ck_string(c, key, &text, err))
        result = add_document(r, prompt, text, strlen(text), err);
    ck_config_free(c);
    return result ? bs_err_prefix(err, "'%s': ", path) : 0;
}

static bool ends(const char *name, const char *tail)
{
    size_t n = strlen(name), k = strlen(tail);
    return n >= k && !strcmp(name + n - k, tail);
}

static int read_file(reader *r, const char *path, oc_err *err)
{
    bs_map m;
    if (bs_map_open(&m, path, err))
        return -1;
    const char *p = (const char *)m.p, *end = p + m.n;
    int result = 0;
    if (!ends(path, ".jsonl"))
        result = add_document(r, NULL, p, m.n, err);
    else
        for (long number = 1; p < end && !result; number++) {
            const char *stop = memchr(p, '\n', (size_t)(end - p));
            size_t n = (size_t)((stop ? stop : end) - p);
            if (n)
                result = add_line(r, path, number, p, n, err);
            p += n + 1;
        }
    bs_map_close(&m);
    return result;
}

static int is_text(const struct dirent *e) { return ends(e->d_name, ".txt") || ends(e->d_name, ".jsonl"); }

static int read_folder(reader *r, const char *path, oc_err *err)
{
    struct dirent **list = NULL;
    int n = scandir(path, &list, is_text, alphasort), result = n < 0 ? bs_err(err, "cannot read the folder '%s'", path) : 0;
    for (int i = 0; i < n; i++) {
        char *file = result ? NULL : bs_join(path, list[i]->d_name);
        if (file)
            result = read_file(r, file, err);
        free(file);
        free(list[i]);
    }
    free(list);
    return result;
}

int dt_corpus_read(dt_corpus *c, const char *path, const tx_tokenizer *t, int eos, oc_err *err)
{
    *c = (dt_corpus){0};
    reader r = {.c = c, .t = t, .eos = eos};
    int result = bs_is_dir(path) ? read_folder(&r, path, err) : read_file(&r, path, err);
    if (!result && !c->ids.n)
        result = bs_err(err, "'%s' has no text: expected a .txt, a .jsonl of {\"text\": ...} or a folder of them", path);
    if (result) {
        dt_corpus_clear(c);
        return -1;
    }
    c->hash = bs_hash(BS_HASH_START, c->ids.p, c->ids.n * sizeof *c->ids.p);
    c->hash = bs_hash(c->hash, c->first, (size_t)c->documents * sizeof *c->first);
    c->hash = bs_hash(c->hash, c->given, (size_t)c->documents * sizeof *c->given);
    return 0;
}

void dt_corpus_clear(dt_corpus *c)
{
    tx_ids_clear(&c->ids);
    free(c->first);
    free(c->given);
    *c = (dt_corpus){0};
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

typedef struct piece {
    long begin, end; /* tokens of the corpus */
    long document;   /* that begins there, or goes on */
} piece;

struct dt_rows {
    const dt_corpus *c;
    const md_model *m;
    bool answers; /* an encoder-decoder's */
    long n;       /* rows of an epoch */
    piece *piece; /* [n] */
    dt_order order;
    long *chosen; /* [batch] rows of this batch */
    long length;  /* of a row at most */
    md_batch batch;
};

/* Where a row that begins at `at` ends: where it is full or, if documents may not be cut, behind the last that fits whole. */
static long end_of_row(const dt_corpus *c, long at, long document, long length, bool whole)
{
    long end = at + length < (long)c->ids.n ? at + length : (long)c->ids.n, best = end;
    for (long d = document; whole && d < c->documents && c->first[d + 1] <= end; d++)
        best = c->first[d + 1];
    return best;
}

/* Counts the rows and, when there is room, writes them down. */
static long cut_rows(const dt_corpus *c, long length, bool alone, piece *to)
{
    long n = 0, document = 0;
    for (long at = 0; at < (long)c->ids.n; n++) {
        while (c->first[document + 1] <= at)
            document++;
        long end = alone ? c->first[document + 1] : end_of_row(c, at, document, length, c->prompts > 0);
        if (to)
            to[n] = (piece){at, end, document};
        at = end;
    }
    return n;
}

static int take_batch(dt_rows *r, oc_err *err)
{
    md_batch *b = &r->batch;
    size_t n = (size_t)(b->texts * b->length);
    b->input_ids = malloc(n * sizeof *b->input_ids);
    b->target = malloc(n * sizeof *b->target);
    b->positions = r->answers ? NULL : malloc(n * sizeof *b->positions);
    b->from = r->answers ? NULL : malloc(n * sizeof *b->from);
    b->attention_mask = r->answers ? malloc(n) : NULL;
    b->decoder_ids = r->answers ? malloc(n * sizeof *b->decoder_ids) : NULL;
    bool parts = r->answers ? b->attention_mask && b->decoder_ids : b->positions && b->from;
    return b->input_ids && b->target && parts ? 0 : bs_err(err, "out of memory: batches of text");
}

dt_rows *dt_rows_open(const dt_corpus *c, const md_model *m, long batch, long length, uint64_t seed, oc_err *err)
{
    dt_rows *r = bs_calloc(1, sizeof *r, "batches of text", err);
    if (!r)
        return NULL;
    *r = (dt_rows){.c = c, .m = m, .answers = m->family->remember != NULL, .length = length};
    if (r->answers && c->prompts < c->documents) {
        bs_err(err, "'%s' answers what it reads: every text must be a line of {\"prompt\": ..., \"answer\": ...}", m->folder);
        goto failed;
    }
    r->batch = (md_batch){.texts = batch, .length = length, .furthest = length, .want_loss = true};
    r->batch.decoder_length = r->answers ? length : 0;
    r->n = cut_rows(c, length, r->answers, NULL);
    r->piece = bs_alloc((size_t)r->n * sizeof *r->piece, "the rows of a text", err);
    r->chosen = bs_alloc((size_t)batch * sizeof *r->chosen, "the rows of a text", err);
    if (!r->piece || !r->chosen || dt_order_open(&r->order, r->n, seed, err) || take_batch(r, err))
        goto failed;
    cut_rows(c, length, r->answers, r->piece);
    return r;
failed:
    dt_rows_close(r);
    return NULL;
}

void dt_rows_close(dt_rows *r)
{
    if (!r)
        return;
    md_batch_clear(&r->batch);
    bs_free(r->piece);
    dt_order_clear(&r->order);
    bs_free(r->chosen);
    bs_free(r);
}

long dt_rows_count(const dt_rows *r) { return r->n; }

const md_batch *dt_rows_shape(const dt_rows *r) { return &r->batch; }

/* A piece as row `row`; behind its end stands what nothing is learned from. */
static void put_row(dt_rows *r, const piece *p, long row)
{
    const dt_corpus *c = r->c;
    md_batch *b = &r->batch;
    const md_family *f = r->m->family;
    long d = p->document, from = 0;
    for (long k = 0; k < b->length; k++) {
        long at = p->begin + k, i = row * b->length + k;
        while (at < p->end && at >= c->first[d + 1]) {
            d++;
            from = k;
        }
        bool real = at < p->end, next = real && at + 1 < c->first[d + 1] && at + 1 >= c->first[d] + c->given[d];
        b->input_ids[i] = real ? c->ids.p[at] : 0;
        b->positions[i] = f->place ? f->place(r->m->m, k - from) : (int)(k - from);
        b->from[i] = (int)from;
        b->target[i] = next ? c->ids.p[at + 1] : -100;
    }
}

static long least(long a, long b) { return a < b ? a : b; }

/* A document as a row that is read and a row that is written: both lose their ends where they are too long. */
static void put_answer(dt_rows *r, long document, long row, int start)
{
    const dt_corpus *c = r->c;
    md_batch *b = &r->batch;
    const int32_t *prompt = c->ids.p + c->first[document], *answer = prompt + c->given[document];
    long asked = c->given[document], said = c->first[document + 1] - c->first[document] - asked;
    for (long k = 0; k < b->length; k++) {
        b->input_ids[row * b->length + k] = k < asked ? prompt[k] : 0;
        b->attention_mask[row * b->length + k] = k < asked;
    }
    for (long k = 0; k < b->decoder_length; k++) {
        long i = row * b->decoder_length + k;
        b->decoder_ids[i] = k == 0 ? start : k - 1 < said ? answer[k - 1] : 0;
        b->target[i] = k < said ? answer[k] : -100;
    }
}

/* As long as the longest of the batch. */
static void put_answers(dt_rows *r)
{
    md_batch *b = &r->batch;
    md_sizes s = {0};
    r->m->family->sizes(r->m->m, &s);
    b->length = b->decoder_length = 1;
    for (long i = 0; i < b->texts; i++) {
        long d = r->piece[r->chosen[i]].document, asked = r->c->given[d], said = r->c->first[d + 1] - r->c->first[d] - asked;
        b->length = asked > b->length ? least(asked, r->length) : b->length;
        b->decoder_length = said > b->decoder_length ? least(said, r->length) : b->decoder_length;
    }
    for (long i = 0; i < b->texts; i++)
        put_answer(r, r->piece[r->chosen[i]].document, i, s.start);
}

const md_batch *dt_rows_next(dt_rows *r, long step)
{
    long n = r->batch.texts;
    for (long i = 0; i < n; i++) {
        r->chosen[i] = dt_order_at(&r->order, step * n + i);
        if (!r->answers)
            put_row(r, &r->piece[r->chosen[i]], i);
    }
    if (r->answers)
        put_answers(r);
    return &r->batch;
}
