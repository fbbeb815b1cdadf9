/* corpus.c - see corpus.h. */
#include "corpus.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* ---- documents -------------------------------------------------------------------------------------------- */

typedef struct reader {
    dt_corpus *c;
    const tx_tokenizer *t;
    int eos;
    long room; /* of c->first */
} reader;

static int add_document(reader *r, const char *text, size_t n, oc_err *err)
{
    dt_corpus *c = r->c;
    if (c->documents + 2 > r->room) {
        long room = r->room ? 2 * r->room : 1024;
        long *more = realloc(c->first, (size_t)room * sizeof *more);
        if (!more)
            return bs_err(err, "out of memory: a corpus");
        c->first = more;
        r->room = room;
    }
    size_t begin = c->ids.n;
    if (tx_encode(r->t, text, n, true, &c->ids, err))
        return -1;
    bool ended = c->ids.n > begin && c->ids.p[c->ids.n - 1] == r->eos;
    if (r->eos >= 0 && !ended && tx_ids_put(&c->ids, r->eos, err))
        return -1;
    c->first[c->documents++] = (long)begin;
    c->first[c->documents] = (long)c->ids.n;
    return 0;
}

static int add_line(reader *r, const char *path, long number, const char *line, size_t n, oc_err *err)
{
    char name[64];
    const char *text = NULL;
    snprintf(name, sizeof name, "line %ld", number);
    ck_config *c = ck_config_parse(line, n, name, err);
    int result = c && !ck_config_need(c, "text", "a string", err) && !ck_string(c, "text", &text, err)
                     ? add_document(r, text, strlen(text), err)
                     : -1;
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
        result = add_document(r, p, m.n, err);
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

/* FNV-1a. */
static void hash(uint64_t *h, const void *p, size_t n)
{
    const unsigned char *bytes = p;
    for (size_t i = 0; i < n; i++)
        *h = (*h ^ bytes[i]) * 1099511628211u;
}

int dt_corpus_read(dt_corpus *c, const char *path, const tx_tokenizer *t, int eos, oc_err *err)
{
    *c = (dt_corpus){.hash = 14695981039346656037u};
    reader r = {.c = c, .t = t, .eos = eos};
    int result = bs_is_dir(path) ? read_folder(&r, path, err) : read_file(&r, path, err);
    if (!result && !c->ids.n)
        result = bs_err(err, "'%s' has no text: expected a .txt, a .jsonl of {\"text\": ...} or a folder of them", path);
    if (result) {
        dt_corpus_clear(c);
        return -1;
    }
    hash(&c->hash, c->ids.p, c->ids.n * sizeof *c->ids.p);
    hash(&c->hash, c->first, (size_t)c->documents * sizeof *c->first);
    return 0;
}

void dt_corpus_clear(dt_corpus *c)
{
    tx_ids_clear(&c->ids);
    free(c->first);
    *c = (dt_corpus){0};
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

struct dt_rows {
    const dt_corpus *c;
    const md_model *m;
    uint64_t seed;
    long n, epoch; /* rows of an epoch; that `order` belongs to, -1: none */
    long *order;   /* [n] */
    md_batch batch;
};

dt_rows *dt_rows_open(const dt_corpus *c, const md_model *m, long batch, long length, uint64_t seed, oc_err *err)
{
    dt_rows *r = bs_calloc(1, sizeof *r, "batches of text", err);
    if (!r)
        return NULL;
    *r = (dt_rows){.c = c, .m = m, .seed = seed, .epoch = -1, .n = ((long)c->ids.n + length - 1) / length};
    md_batch *b = &r->batch;
    size_t n = (size_t)(batch * length);
    b->texts = batch;
    b->length = b->furthest = length;
    b->want_loss = true;
    b->input_ids = malloc(n * sizeof *b->input_ids);
    b->positions = malloc(n * sizeof *b->positions);
    b->from = malloc(n * sizeof *b->from);
    b->target = malloc(n * sizeof *b->target);
    r->order = malloc((size_t)r->n * sizeof *r->order);
    if (b->input_ids && b->positions && b->from && b->target && r->order)
        return r;
    bs_err(err, "out of memory: batches of text");
    dt_rows_close(r);
    return NULL;
}

void dt_rows_close(dt_rows *r)
{
    if (!r)
        return;
    md_batch_clear(&r->batch);
    free(r->order);
    bs_free(r);
}

long dt_rows_count(const dt_rows *r) { return r->n; }

const md_batch *dt_rows_shape(const dt_rows *r) { return &r->batch; }

/* Fisher, Yates. */
static void shuffle(dt_rows *r, long epoch)
{
    bs_rng rng;
    bs_rng_seed(&rng, r->seed, 2 * (uint64_t)epoch + 1);
    for (long i = 0; i < r->n; i++)
        r->order[i] = i;
    for (long i = r->n - 1; i > 0; i--) {
        long k = (long)bs_rng_below(&rng, (uint32_t)i + 1), t = r->order[i];
        r->order[i] = r->order[k];
        r->order[k] = t;
    }
    r->epoch = epoch;
}

/* The document that token `at` is of. */
static long document_of(const dt_corpus *c, long at)
{
    long low = 0, high = c->documents - 1;
    while (low < high) {
        long middle = (low + high + 1) / 2;
        if (c->first[middle] <= at)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Piece number `piece` as row `row`; behind the corpus's end stands what nothing is learned from. */
static void put_row(dt_rows *r, long piece, long row)
{
    const dt_corpus *c = r->c;
    md_batch *b = &r->batch;
    const md_family *f = r->m->family;
    long begin = piece * b->length, end = (long)c->ids.n, d = document_of(c, begin), from = 0;
    for (long k = 0; k < b->length; k++) {
        long at = begin + k, i = row * b->length + k;
        while (at < end && at >= c->first[d + 1]) {
            d++;
            from = k;
        }
        bool real = at < end, next = at + 1 < end && at + 1 < c->first[d + 1];
        b->input_ids[i] = real ? c->ids.p[at] : 0;
        b->positions[i] = f->place ? f->place(r->m->m, k - from) : (int)(k - from);
        b->from[i] = (int)from;
        b->target[i] = real && next ? c->ids.p[at + 1] : -100;
    }
}

const md_batch *dt_rows_next(dt_rows *r, long step)
{
    for (long i = 0; i < r->batch.texts; i++) {
        long at = step * r->batch.texts + i;
        if (at / r->n != r->epoch)
            shuffle(r, at / r->n);
        put_row(r, r->order[at % r->n], i);
    }
    return &r->batch;
}
