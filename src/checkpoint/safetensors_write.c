/* safetensors_write.c - writing as a stream: the header from what was declared, then the data as it comes.
 *
 * All shards wait under temporary names, synced, until commit: a full disk or a kill leaves nothing
 * half-written. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "safetensors.h"

typedef struct part {
    size_t first, n; /* its tensors */
    uint64_t bytes;  /* of data */
    char *path;
    bs_out out;
} part;

struct ck_writer {
    char *path;
    uint64_t max_shard;
    bs_buf meta; /* members of __metadata__ */
    ck_tensor *tensors;
    size_t n, cap;
    part *parts;
    size_t parts_n;
    size_t at;    /* the tensor that is due */
    size_t in;    /* the part it is in */
    size_t given; /* bytes of it that came */
    bool started, failed;
};

/* Every entry goes through this, so that a writer that failed once never commits. */
static int note(ck_writer *w, int result)
{
    w->failed |= result != 0;
    return result;
}

static int check_open(const ck_writer *w, bool started, oc_err *err)
{
    if (w->failed)
        return bs_err(err, "cannot write '%s': it failed before", w->path);
    if (w->started != started)
        return bs_err(err, "cannot write '%s': called %s start", w->path, started ? "before" : "after");
    return 0;
}

ck_writer *ck_writer_open(const char *path, uint64_t max_shard, oc_err *err)
{
    ck_writer *w = bs_calloc(1, sizeof *w, "a writer of tensors", err);
    if (!w)
        return NULL;
    w->max_shard = max_shard;
    w->path = bs_strdup(path);
    if (!w->path || ck_writer_meta(w, "format", "pt", err)) {
        bs_err(err, "out of memory: the name of '%s'", path);
        ck_writer_free(w);
        return NULL;
    }
    return w;
}

static int put_meta(ck_writer *w, const char *key, const char *value, oc_err *err)
{
    if (w->meta.n && bs_buf_put(&w->meta, ",", 1, err))
        return -1;
    return ck_json_string(&w->meta, key, err) || bs_buf_put(&w->meta, ":", 1, err) || ck_json_string(&w->meta, value, err) ? -1
                                                                                                                           : 0;
}

int ck_writer_meta(ck_writer *w, const char *key, const char *value, oc_err *err)
{
    if (check_open(w, false, err))
        return -1;
    return note(w, put_meta(w, key, value, err));
}

static int measure(ck_tensor *t, const char *path, oc_err *err)
{
    size_t count = 1;
    bool fits = t->rank >= 0 && t->rank <= CK_MAX_RANK;
    for (int i = 0; fits && i < t->rank; i++)
        fits = t->shape[i] >= 0 && bs_mul_size(count, (size_t)t->shape[i], &count);
    if (!fits || !bs_mul_size(count, ck_dtype_size(t->dtype), &t->bytes) || t->bytes > INT64_MAX)
        return bs_err(err, "cannot write '%s': tensor '%s' has an impossible shape", path, t->name);
    t->count = (int64_t)count;
    return 0;
}

static int add_tensor(ck_writer *w, const ck_tensor *wanted, oc_err *err)
{
    if (!wanted->name[0] || !strcmp(wanted->name, "__metadata__") || !ck_is_utf8(wanted->name))
        return bs_err(err, "cannot write '%s': '%s' is no name for a tensor", w->path, wanted->name);
    if (w->n == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 64;
        ck_tensor *grown = realloc(w->tensors, cap * sizeof *grown);
        if (!grown)
            return bs_err(err, "out of memory: the list of %zu tensors", cap);
        w->tensors = grown;
        w->cap = cap;
    }
    ck_tensor *t = &w->tensors[w->n];
    *t = *wanted;
    if (measure(t, w->path, err))
        return -1;
    t->name = bs_strdup(wanted->name);
    if (!t->name)
        return bs_err(err, "out of memory: the name of a tensor");
    w->n++;
    return 0;
}

int ck_writer_add(ck_writer *w, const char *name, ck_dtype dtype, int rank, const int64_t *shape, oc_err *err)
{
    if (check_open(w, false, err))
        return -1;
    ck_tensor t = {.name = name, .dtype = dtype, .rank = rank};
    for (int i = 0; i < rank && i < CK_MAX_RANK; i++)
        t.shape[i] = shape[i];
    return note(w, add_tensor(w, &t, err));
}

/* The reference library's rank of each type: wide ones first keeps every tensor aligned. */
static int order_of(ck_dtype dtype)
{
    static const int order[CK_DTYPES] = {
        [CK_I64] = 0, [CK_F64] = 1, [CK_F32] = 2, [CK_I32] = 3, [CK_BF16] = 4,
        [CK_F16] = 5, [CK_I16] = 6, [CK_I8] = 7,  [CK_U8] = 8,  [CK_BOOL] = 9,
    };
    return order[dtype];
}

static int by_type_and_name(const void *a, const void *b)
{
    const ck_tensor *x = a, *y = b;
    int difference = order_of(x->dtype) - order_of(y->dtype);
    return difference ? difference : strcmp(x->name, y->name);
}

void ck_writer_sort(ck_writer *w)
{
    if (w->n && !w->started)
        qsort(w->tensors, w->n, sizeof *w->tensors, by_type_and_name);
}

/* ---- start: names, shards, headers --------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const ck_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The tensors by name, to be freed by bs_free; an error when two share one. */
static const ck_tensor **names_in_order(const ck_writer *w, oc_err *err)
{
    const ck_tensor **list = bs_calloc(w->n, sizeof *list, "the list of tensors", err);
    if (!list)
        return NULL;
    for (size_t i = 0; i < w->n; i++)
        list[i] = &w->tensors[i];
    qsort(list, w->n, sizeof *list, by_name);
    for (size_t i = 1; i < w->n; i++)
        if (!strcmp(list[i]->name, list[i - 1]->name)) {
            bs_err(err, "cannot write '%s': two tensors are named '%s'", w->path, list[i]->name);
            bs_free(list);
            return NULL;
        }
    return list;
}

/* A part is full when the next tensor would not fit; one that is larger than all gets a part of its own. */
static int cut_parts(ck_writer *w, oc_err *err)
{
    w->parts = calloc(w->n + 1, sizeof *w->parts);
    if (!w->parts)
        return bs_err(err, "out of memory: the list of shards");
    w->parts_n = 1;
    for (size_t i = 0; i < w->n; i++) {
        part *last = &w->parts[w->parts_n - 1];
        uint64_t size = w->tensors[i].bytes;
        if (size > INT64_MAX - last->bytes)
            return bs_err(err, "cannot write '%s': more data than a file can hold", w->path);
        if (w->max_shard && size && last->bytes && size + last->bytes > w->max_shard) {
            last = &w->parts[w->parts_n++];
            last->first = i;
        }
        last->n++;
        last->bytes += size;
    }
    return 0;
}

/* "DIR/model.safetensors" becomes "DIR/model-00001-of-00002.safetensors". */
static int name_parts(ck_writer *w, oc_err *err)
{
    static const char end[] = ".safetensors";
    size_t n = strlen(w->path), stem = n - (sizeof end - 1);
    if (w->parts_n > 1 && (n < sizeof end || strcmp(w->path + stem, end)))
        return bs_err(err, "cannot write '%s': the name of a sharded file must end in %s", w->path, end);
    for (size_t i = 0; i < w->parts_n; i++) {
        char *path = malloc(n + 64);
        if (!path)
            return bs_err(err, "out of memory: the name of a shard");
        if (w->parts_n == 1)
            memcpy(path, w->path, n + 1);
        else
            snprintf(path, n + 64, "%.*s-%05zu-of-%05zu%s", (int)stem, w->path, i + 1, w->parts_n, end);
        w->parts[i].path = path;
    }
    return 0;
}

static int put_entry(bs_buf *b, const ck_tensor *t, uint64_t begin, oc_err *err)
{
    char shape[CK_SHAPE_TEXT];
    if (ck_json_string(b, t->name, err))
        return -1;
    return bs_buf_printf(b, err, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%llu,%llu]}", ck_dtype_name(t->dtype),
                         ck_shape_text(t->rank, t->shape, shape), (unsigned long long)begin,
                         (unsigned long long)begin + t->bytes);
}

/* Length and JSON, padded with spaces so that the data begins at a multiple of 8. */
static int build_header(bs_buf *b, const ck_writer *w, const part *p, oc_err *err)
{
    uint64_t at = 0;
    b->max = 100000000 + 8;
    if (bs_buf_put(b, "\0\0\0\0\0\0\0\0", 8, err) || bs_buf_printf(b, err, "{\"__metadata__\":{%s}", w->meta.p))
        return -1;
    for (size_t i = p->first; i < p->first + p->n; i++) {
        if (bs_buf_put(b, ",", 1, err) || put_entry(b, &w->tensors[i], at, err))
            return -1;
        at += w->tensors[i].bytes;
    }
    if (bs_buf_put(b, "}", 1, err) || bs_buf_put(b, "       ", (8 - b->n % 8) % 8, err))
        return -1;
    uint64_t length = b->n - 8;
    for (int i = 0; i < 8; i++)
        b->p[i] = (char)(length >> 8 * i);
    return 0;
}

static int start_part(ck_writer *w, oc_err *err)
{
    part *p = &w->parts[w->in];
    bs_buf header = {0};
    int result = build_header(&header, w, p, err);
    if (!result)
        result = bs_out_open(&p->out, p->path, err);
    if (!result)
        result = bs_out_write(&p->out, header.p, header.n, err);
    bs_buf_clear(&header);
    return result;
}

/* On disk before the next part is begun: what commit has left to do is renaming. */
static int finish_part(part *p, oc_err *err)
{
    if (fflush(p->out.f) || fsync(fileno(p->out.f)))
        return bs_err(err, "cannot write '%s': %s", p->path, strerror(errno));
    return 0;
}

/* Passes over tensors without data, and into the next part when this one is full. */
static int advance(ck_writer *w, oc_err *err)
{
    while (w->at < w->n && w->given == w->tensors[w->at].bytes) {
        w->at++;
        w->given = 0;
        const part *p = &w->parts[w->in];
        if (w->at < p->first + p->n || w->in + 1 == w->parts_n)
            continue;
        if (finish_part(&w->parts[w->in], err))
            return -1;
        w->in++;
        if (start_part(w, err))
            return -1;
    }
    return 0;
}

static int start(ck_writer *w, oc_err *err)
{
    const ck_tensor **list = names_in_order(w, err);
    if (!list)
        return -1;
    bs_free(list);
    w->started = true;
    if (cut_parts(w, err) || name_parts(w, err) || start_part(w, err))
        return -1;
    return advance(w, err);
}

int ck_writer_start(ck_writer *w, oc_err *err)
{
    if (check_open(w, false, err))
        return -1;
    return note(w, start(w, err));
}

/* ---- data and commit ----------------------------------------------------------------------------------- */

const ck_tensor *ck_writer_next(const ck_writer *w)
{
    return w->started && !w->failed && w->at < w->n ? &w->tensors[w->at] : NULL;
}

static int put(ck_writer *w, const void *bytes, size_t n, oc_err *err)
{
    if (!n)
        return 0;
    if (w->at == w->n)
        return bs_err(err, "cannot write '%s': %zu bytes more than were declared", w->path, n);
    const ck_tensor *t = &w->tensors[w->at];
    if (n > t->bytes - w->given)
        return bs_err(err, "cannot write '%s': tensor '%s' has %zu bytes, given %zu", w->path, t->name, t->bytes, w->given + n);
    if (bs_out_write(&w->parts[w->in].out, bytes, n, err))
        return -1;
    w->given += n;
    return advance(w, err);
}

int ck_writer_put(ck_writer *w, const void *bytes, size_t n, oc_err *err)
{
    if (check_open(w, true, err))
        return -1;
    return note(w, put(w, bytes, n, err));
}

static int put_weight_map(bs_buf *b, const ck_writer *w, const ck_tensor **list, oc_err *err)
{
    uint64_t total = 0;
    for (size_t i = 0; i < w->n; i++)
        total += w->tensors[i].bytes;
    if (bs_buf_printf(b, err, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
                      (unsigned long long)total))
        return -1;
    for (size_t i = 0; i < w->n; i++) {
        size_t which = (size_t)(list[i] - w->tensors), in = 0;
        while (which >= w->parts[in].first + w->parts[in].n)
            in++;
        const char *path = w->parts[in].path, *slash = strrchr(path, '/');
        if (bs_buf_put(b, i ? ",\n    " : "\n    ", i ? 6 : 5, err) || ck_json_string(b, list[i]->name, err) ||
            bs_buf_put(b, ": ", 2, err) || ck_json_string(b, slash ? slash + 1 : path, err))
            return -1;
    }
    return bs_buf_put(b, "\n  }\n}\n", 7, err);
}

static char *index_path(const ck_writer *w, oc_err *err)
{
    size_t n = strlen(w->path) + 16;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s.index.json", w->path);
    else
        bs_err(err, "out of memory: the name of '%s'", w->path);
    return path;
}

/* The old index goes first: shards of two models under one index would look sound. Until the new one is
 * there the folder holds its old single file or no model, which a reader says. */
static int commit_sharded(ck_writer *w, oc_err *err)
{
    bs_buf text = {0};
    bs_out index = {0};
    int result = -1;
    char *path = index_path(w, err);
    const ck_tensor **list = names_in_order(w, err);
    if (!path || !list || put_weight_map(&text, w, list, err) || bs_out_open(&index, path, err) ||
        bs_out_write(&index, text.p, text.n, err))
        goto done;
    if (fflush(index.f)) {
        bs_err(err, "cannot write '%s': %s", path, strerror(errno));
        goto done;
    }
    if (unlink(path) && errno != ENOENT) {
        bs_err(err, "cannot replace '%s': %s", path, strerror(errno));
        goto done;
    }
    for (size_t i = 0; i < w->parts_n; i++)
        if (bs_out_commit(&w->parts[i].out, err))
            goto done;
    if (bs_out_commit(&index, err))
        goto done;
    result = 0;
    if (unlink(w->path) && errno != ENOENT)
        result = bs_err(err, "cannot remove the old '%s': %s", w->path, strerror(errno));
done:
    bs_out_abort(&index);
    bs_buf_clear(&text);
    bs_free(list);
    free(path);
    return result;
}

int ck_writer_commit(ck_writer *w, oc_err *err)
{
    if (check_open(w, true, err))
        return -1;
    int result;
    if (w->at < w->n)
        result = bs_err(err, "cannot write '%s': the data of tensor '%s' is not complete", w->path, w->tensors[w->at].name);
    else if (finish_part(&w->parts[w->in], err))
        result = -1;
    else
        result = w->parts_n > 1 ? commit_sharded(w, err) : bs_out_commit(&w->parts[0].out, err);
    w->failed = true; /* nothing may follow a commit, good or bad */
    return result;
}

void ck_writer_free(ck_writer *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->parts_n; i++) {
        bs_out_abort(&w->parts[i].out);
        free(w->parts[i].path);
    }
    for (size_t i = 0; i < w->n; i++)
        free((char *)(uintptr_t)w->tensors[i].name);
    free(w->parts);
    free(w->tensors);
    free(w->path);
    bs_buf_clear(&w->meta);
    bs_free(w);
}

static int write_all(ck_writer *w, const ck_tensor *tensors, size_t n, oc_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (add_tensor(w, &tensors[i], err)) /* keeps the data's address beside the shape */
            return -1;
    ck_writer_sort(w);
    if (ck_writer_start(w, err))
        return -1;
    for (const ck_tensor *t; (t = ck_writer_next(w));) {
        if (!t->data)
            return bs_err(err, "cannot write '%s': tensor '%s' has no data", w->path, t->name);
        if (ck_writer_put(w, t->data, t->bytes, err))
            return -1;
    }
    return ck_writer_commit(w, err);
}

int ck_write(const char *path, const ck_tensor *tensors, size_t n, uint64_t max_shard, oc_err *err)
{
    ck_writer *w = ck_writer_open(path, max_shard, err);
    if (!w)
        return -1;
    int result = write_all(w, tensors, n, err);
    ck_writer_free(w);
    return result;
}
