/* safetensors.c - reading: every claim of a header is checked before a pointer is made of it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "renaming.h"

enum { HEADER_MAX = 100000000 }; /* the reference library's limit */

typedef struct shard {
    char *path;
    bs_map map;
    bool mapped; /* false: the caller's bytes */
    void *own;   /* or the store's: a tensor that was turned round */
    json_t *metadata;
} shard;

struct ck_store {
    char *path;
    shard *shards;
    size_t shards_n;
    ck_tensor *tensors;
    size_t n, cap;
    size_t *slots;  /* open addressing: index + 1 of a tensor, 0 empty */
    size_t slots_n; /* a power of two */
};

/* ---- the table by name --------------------------------------------------------------------------------- */

/* FNV-1a, 64 bits. */
static uint64_t hash(const char *name)
{
    uint64_t h = 0xcbf29ce484222325;
    for (const char *c = name; *c; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3;
    return h ^ h >> 32;
}

/* The slot of the name, or the empty one where it would go. */
static size_t *slot_of(const ck_store *s, const char *name)
{
    size_t at = hash(name) & (s->slots_n - 1);
    while (s->slots[at] && strcmp(s->tensors[s->slots[at] - 1].name, name))
        at = (at + 1) & (s->slots_n - 1);
    return &s->slots[at];
}

static int build_table(ck_store *s, oc_err *err)
{
    s->slots_n = 16;
    while (s->slots_n < 2 * s->n)
        s->slots_n *= 2;
    s->slots = bs_calloc(s->slots_n, sizeof *s->slots, "the table of tensor names", err);
    if (!s->slots)
        return -1;
    for (size_t i = 0; i < s->n; i++) {
        size_t *slot = slot_of(s, s->tensors[i].name);
        if (*slot)
            return bs_err(err, "cannot load '%s': tensor '%s' is also in '%s'", ck_file(s, &s->tensors[i]), s->tensors[i].name,
                          ck_file(s, &s->tensors[*slot - 1]));
        *slot = i + 1;
    }
    return 0;
}

/* ---- one file ------------------------------------------------------------------------------------------ */

static ck_tensor *new_tensor(ck_store *s, const char *name, oc_err *err)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64, bytes;
        ck_tensor *grown = bs_mul_size(cap, sizeof *grown, &bytes) ? realloc(s->tensors, bytes) : NULL;
        if (!grown) {
            bs_err(err, "out of memory: the list of %zu tensors", cap);
            return NULL;
        }
        s->tensors = grown;
        s->cap = cap;
    }
    ck_tensor *t = &s->tensors[s->n];
    memset(t, 0, sizeof *t);
    t->name = bs_strdup(name);
    if (!t->name) {
        bs_err(err, "out of memory: the name of a tensor");
        return NULL;
    }
    s->n++;
    return t;
}

static int read_dtype(ck_tensor *t, const json_t *value, const char *file, oc_err *err)
{
    const char *name = json_string_value(value);
    if (!name)
        return bs_err(err, "cannot load '%s': tensor '%s' has no dtype", file, t->name);
    for (int i = 0; i < CK_DTYPES; i++)
        if (!strcmp(name, ck_dtype_name((ck_dtype)i))) {
            t->dtype = (ck_dtype)i;
            return 0;
        }
    return bs_err(err,
                  "cannot load '%s': tensor '%s' has dtype '%.32s', expected F64, F32, F16, BF16, I64, I32, "
                  "I16, I8, U8 or BOOL",
                  file, t->name, name);
}

static int read_shape(ck_tensor *t, const json_t *value, const char *file, oc_err *err)
{
    size_t count = 1, rank = json_array_size(value);
    if (!json_is_array(value))
        return bs_err(err, "cannot load '%s': tensor '%s' has no shape", file, t->name);
    if (rank > CK_MAX_RANK)
        return bs_err(err, "cannot load '%s': tensor '%s' has %zu dimensions, expected at most %d", file, t->name, rank,
                      CK_MAX_RANK);
    t->rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *d = json_array_get(value, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return bs_err(err, "cannot load '%s': dimension %zu of tensor '%s' is not a whole number from 0", file, i, t->name);
        t->shape[i] = json_integer_value(d);
        if (!bs_mul_size(count, (size_t)t->shape[i], &count))
            return bs_err(err, "cannot load '%s': tensor '%s' has a shape beyond any memory", file, t->name);
    }
    if (!bs_mul_size(count, ck_dtype_size(t->dtype), &t->bytes) || t->bytes > INT64_MAX)
        return bs_err(err, "cannot load '%s': tensor '%s' has a shape beyond any memory", file, t->name);
    t->count = (int64_t)count;
    return 0;
}

/* The place in the data, which is `size` bytes from `data` on. */
static int read_offsets(ck_tensor *t, const json_t *value, const uint8_t *data, size_t size, const char *file, oc_err *err)
{
    const json_t *b = json_array_get(value, 0), *e = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return bs_err(err, "cannot load '%s': tensor '%s' has no data_offsets of two whole numbers", file, t->name);
    json_int_t begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin || (uint64_t)end > size)
        return bs_err(err, "cannot load '%s': tensor '%s' lies at bytes %lld to %lld of the data, which has %zu", file, t->name,
                      (long long)begin, (long long)end, size);
    if ((uint64_t)(end - begin) != t->bytes) {
        char text[CK_SHAPE_TEXT];
        return bs_err(err, "cannot load '%s': tensor '%s' has %lld bytes, expected %zu for %s %s", file, t->name,
                      (long long)(end - begin), t->bytes, ck_dtype_name(t->dtype), ck_shape_text(t->rank, t->shape, text));
    }
    t->data = data + begin;
    return 0;
}

static int read_tensor(ck_store *s, size_t at, const char *name, const json_t *entry, size_t header, oc_err *err)
{
    const shard *file = &s->shards[at];
    if (!name[0] || !json_is_object(entry))
        return bs_err(err, "cannot load '%s': entry '%s' of the header is not a tensor", file->path, name);
    ck_tensor *t = new_tensor(s, name, err);
    if (!t)
        return -1;
    t->file = (int)at;
    if (read_dtype(t, json_object_get(entry, "dtype"), file->path, err) ||
        read_shape(t, json_object_get(entry, "shape"), file->path, err))
        return -1;
    return read_offsets(t, json_object_get(entry, "data_offsets"), file->map.p + header, file->map.n - header, file->path, err);
}

static int read_metadata(shard *file, json_t *value, oc_err *err)
{
    const char *key;
    json_t *text;
    if (!json_is_object(value))
        return bs_err(err, "cannot load '%s': __metadata__ is not an object", file->path);
    json_object_foreach(value, key, text) if (!json_is_string(text)) return bs_err(
        err, "cannot load '%s': __metadata__ '%s' is not a string", file->path, key);
    file->metadata = json_incref(value);
    return 0;
}

/* In the order of the data; an empty tensor before the one that starts at the same place. Names make it
 * total. */
static int by_place(const void *a, const void *b)
{
    const ck_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The format wants the data covered from the first to the last byte, each byte once. */
static int check_cover(const ck_store *s, size_t first, const shard *file, size_t header, oc_err *err)
{
    const uint8_t *data = file->map.p + header, *at = data, *end = file->map.p + file->map.n;
    for (size_t i = first; i < s->n; i++) {
        const ck_tensor *t = &s->tensors[i];
        const uint8_t *p = t->data;
        if (p < at)
            return bs_err(err, "cannot load '%s': tensor '%s' overlaps '%s'", file->path, t->name, s->tensors[i - 1].name);
        if (p > at)
            return bs_err(err, "cannot load '%s': %td bytes before tensor '%s' belong to no tensor", file->path, p - at, t->name);
        at = p + t->bytes;
    }
    if (at != end)
        return bs_err(err, "cannot load '%s': it has %zu bytes, expected %zu by its header", file->path, file->map.n,
                      header + (size_t)(at - data));
    return 0;
}

/* What people have instead of the file they mean. */
static int wrong_content(const shard *file, uint64_t length, oc_err *err)
{
    const uint8_t *p = file->map.p;
    if (!memcmp(p, "version ", 8))
        return bs_err(err, "cannot load '%s': it is a Git LFS pointer, fetch the file itself with 'git lfs pull'", file->path);
    if (!memcmp(p, "PK\3\4", 4) || (p[0] == 0x80 && p[1] >= 2 && p[1] <= 5))
        return bs_err(err, "cannot load '%s': it is a pickle: convert it to safetensors", file->path);
    if (!memcmp(p, "GGUF", 4))
        return bs_err(err, "cannot load '%s': it is a GGUF file, expected safetensors", file->path);
    return bs_err(err, "cannot load '%s': its header claims %llu bytes, expected at most %d within the file's %zu", file->path,
                  (unsigned long long)length, HEADER_MAX, file->map.n);
}

/* The header's JSON; *header is where the data begins. */
static json_t *read_header(const shard *file, size_t *header, oc_err *err)
{
    const bs_map *m = &file->map;
    if (m->n < 8) {
        bs_err(err, "cannot load '%s': it has %zu bytes, too few for safetensors", file->path, m->n);
        return NULL;
    }
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | m->p[i];
    if (length > HEADER_MAX || length > m->n - 8) {
        wrong_content(file, length, err);
        return NULL;
    }
    *header = 8 + (size_t)length;
    json_error_t why;
    json_t *root = NULL;
    if (length && m->p[8] == '{')
        root = json_loadb((const char *)m->p + 8, (size_t)length, JSON_REJECT_DUPLICATES, &why);
    else
        snprintf(why.text, sizeof why.text, "it does not start with '{'");
    if (!root)
        bs_err(err, "cannot load '%s': its header is not valid JSON: %s", file->path, why.text[0] ? why.text : "out of memory");
    return root;
}

static int read_shard(ck_store *s, size_t at, oc_err *err)
{
    shard *file = &s->shards[at];
    size_t header = 0, first = s->n;
    json_t *root = read_header(file, &header, err), *entry;
    if (!root)
        return -1;
    const char *name;
    int result = 0;
    json_object_foreach(root, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            result = read_metadata(file, entry, err);
        else
            result = read_tensor(s, at, name, entry, header, err);
        if (result)
            goto done;
    }
    if (s->n > first)
        qsort(s->tensors + first, s->n - first, sizeof *s->tensors, by_place);
    result = check_cover(s, first, file, header, err);
done:
    json_decref(root);
    return result;
}

/* ---- a folder ------------------------------------------------------------------------------------------ */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static int refuse_pickle(const char *path, oc_err *err)
{
    return bs_err(err, "cannot load '%s': it is a pickle: convert it to safetensors", path);
}

static bool is_pickle_name(const char *path)
{
    static const char *const ends[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(path, ends[i]))
            return true;
    return false;
}

/* The file in a folder to open first, to be freed. */
static char *find_in_folder(const char *folder, oc_err *err)
{
    static const char *const names[] = {
        "model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors",
        "pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin",
        "adapter_model.bin",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = bs_join(folder, names[i]);
        if (!path) {
            bs_err(err, "out of memory: the name of '%s'", folder);
            return NULL;
        }
        if (bs_is_file(path))
            return path;
        free(path);
    }
    bs_err(err,
           "cannot load '%s': it holds no model.safetensors, model.safetensors.index.json or "
           "open_clip_model.safetensors",
           folder);
    return NULL;
}

static int add_shard(ck_store *s, char *path, oc_err *err)
{
    shard *grown = path ? realloc(s->shards, (s->shards_n + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(path);
        return bs_err(err, "out of memory: the list of files");
    }
    s->shards = grown;
    memset(&grown[s->shards_n], 0, sizeof *grown);
    grown[s->shards_n++].path = path;
    return 0;
}

static int map_shard(ck_store *s, size_t at, oc_err *err)
{
    if (bs_map_open(&s->shards[at].map, s->shards[at].path, err))
        return -1;
    s->shards[at].mapped = true;
    return read_shard(s, at, err);
}

/* A shard lies beside its index: a name that leads elsewhere is an attack or a mistake. */
static bool is_plain_name(const char *name)
{
    return name && name[0] && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\') && !strstr(name, "..") &&
           ends_with(name, ".safetensors");
}

static int by_name(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static int add_shards_of(ck_store *s, const json_t *map, const char *index, const char *folder, oc_err *err)
{
    size_t n = json_object_size(map), at = 0;
    const char **names = bs_calloc(n, sizeof *names, "the names of shards", err), *key;
    int result = -1;
    json_t *value;
    if (!names)
        return -1;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        names[at] = json_string_value(value);
        if (!is_plain_name(names[at++])) {
            bs_err(err, "cannot load '%s': the shard of tensor '%s' is not the name of a .safetensors file beside it", index,
                   key);
            goto done;
        }
    }
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++)
        if ((!i || strcmp(names[i], names[i - 1])) && add_shard(s, bs_join(folder, names[i]), err))
            goto done;
    result = 0;
done:
    bs_free(names);
    return result;
}

static int check_index(const ck_store *s, const json_t *map, const char *index, oc_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        const ck_tensor *t = ck_find(s, key);
        const char *shard_name = json_string_value(value);
        if (!t)
            return bs_err(err, "cannot load '%s': tensor '%s' is missing, expected in '%s'", index, key, shard_name);
        const char *path = ck_file(s, t), *slash = strrchr(path, '/');
        if (strcmp(slash ? slash + 1 : path, shard_name))
            return bs_err(err, "cannot load '%s': tensor '%s' is in '%s', expected in '%s'", index, key, path, shard_name);
    }
    return 0;
}

static int open_index(ck_store *s, const char *index, oc_err *err)
{
    bs_buf text = {0};
    json_error_t why;
    json_t *root = NULL;
    const json_t *map;
    int result = -1;
    char *folder = bs_strdup(index), *slash = folder ? strrchr(folder, '/') : NULL;
    if (!folder) {
        bs_err(err, "out of memory: the name of '%s'", index);
        goto done;
    }
    folder[slash ? slash - folder + (slash == folder) : 0] = 0;
    if (bs_read_file(&text, index, HEADER_MAX, err))
        goto done;
    root = json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        bs_err(err, "cannot load '%s': not valid JSON: %s (line %d)", index, why.text[0] ? why.text : "out of memory", why.line);
        goto done;
    }
    map = json_object_get(root, "weight_map");
    if (!json_is_object(map)) {
        bs_err(err, "cannot load '%s': it has no weight_map", index);
        goto done;
    }
    if (add_shards_of(s, map, index, folder[0] ? folder : NULL, err))
        goto done;
    for (size_t i = 0; i < s->shards_n; i++)
        if (map_shard(s, i, err)) {
            bs_err_prefix(err, "cannot load '%s': ", index);
            goto done;
        }
    result = build_table(s, err) || check_index(s, map, index, err) ? -1 : 0;
done:
    json_decref(root);
    bs_buf_clear(&text);
    free(folder);
    return result;
}

/* ---- the store ----------------------------------------------------------------------------------------- */

static ck_store *new_store(const char *path, oc_err *err)
{
    ck_store *s = bs_calloc(1, sizeof *s, "a store of tensors", err);
    if (s && !(s->path = bs_strdup(path))) {
        bs_err(err, "out of memory: the name of '%s'", path);
        ck_close(s);
        return NULL;
    }
    return s;
}

ck_store *ck_open(const char *path, oc_err *err)
{
    bool good = false;
    char *file = NULL;
    ck_store *s = new_store(path, err);
    if (!s)
        return NULL;
    file = bs_is_dir(path) ? find_in_folder(path, err) : bs_strdup(path);
    if (!file)
        goto done;
    if (is_pickle_name(file))
        refuse_pickle(file, err);
    else if (ends_with(file, ".json"))
        good = !open_index(s, file, err);
    else
        good = !add_shard(s, bs_strdup(file), err) && !map_shard(s, 0, err) && !build_table(s, err);
done:
    free(file);
    if (good)
        return s;
    bs_err(err, "cannot load '%s': out of memory", path);
    ck_close(s);
    return NULL;
}

ck_store *ck_open_bytes(const void *bytes, size_t n, const char *name, oc_err *err)
{
    ck_store *s = new_store(name, err);
    if (!s)
        return NULL;
    if (!add_shard(s, bs_strdup(name), err)) {
        s->shards[0].map = (bs_map){.p = bytes, .n = n};
        if (!read_shard(s, 0, err) && !build_table(s, err))
            return s;
    }
    ck_close(s);
    return NULL;
}

void ck_close(ck_store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        free((char *)(uintptr_t)s->tensors[i].name);
    for (size_t i = 0; i < s->shards_n; i++) {
        json_decref(s->shards[i].metadata);
        if (s->shards[i].mapped)
            bs_map_close(&s->shards[i].map);
        free(s->shards[i].path);
        bs_free(s->shards[i].own);
    }
    free(s->shards);
    free(s->tensors);
    free(s->path);
    bs_free(s->slots);
    bs_free(s);
}

/* ---- other names --------------------------------------------------------------------------------------- */

static int set_name(ck_tensor *t, const ck_renaming *line, const char *old, char third, oc_err *err)
{
    bool failed = false;
    char *name = ck_renamed(line, old, third, &failed);
    if (!name)
        return bs_err(err, "out of memory: the name of a tensor");
    free((char *)(uintptr_t)t->name);
    t->name = name;
    return 0;
}

/* The tensor becomes its first third; the others are new. */
static int split(ck_store *s, size_t at, const ck_renaming *line, oc_err *err)
{
    ck_tensor whole = s->tensors[at];
    char *old = bs_strdup(whole.name);
    int result = -1;
    if (!old)
        return bs_err(err, "out of memory: the name of a tensor");
    if (!whole.rank || whole.shape[0] % 3) {
        bs_err(err, "cannot load '%s': tensor '%s' cannot be cut in three", ck_file(s, &whole), old);
        goto done;
    }
    for (int k = 0; k < 3; k++) {
        ck_tensor *t = k ? new_tensor(s, old, err) : &s->tensors[at];
        if (!t || set_name(t, line, old, "qkv"[k], err))
            goto done;
        const char *name = t->name;
        *t = whole;
        t->name = name;
        t->shape[0] /= 3;
        t->count /= 3;
        t->bytes /= 3;
        t->data = (const uint8_t *)whole.data + (size_t)k * t->bytes;
    }
    result = 0;
done:
    free(old);
    return result;
}

/* The turned copy is a shard of its own, so that nobody lets go of its pages. */
static int turn(ck_store *s, size_t at, oc_err *err)
{
    ck_tensor *t = &s->tensors[at];
    if (t->rank != 2)
        return bs_err(err, "cannot load '%s': tensor '%s' has %d dimensions, expected 2", ck_file(s, t), t->name, t->rank);
    size_t rows = (size_t)t->shape[0], columns = (size_t)t->shape[1], each = ck_dtype_size(t->dtype);
    uint8_t *copy = bs_alloc(t->bytes, t->name, err);
    if (!copy || add_shard(s, bs_strdup(ck_file(s, t)), err)) {
        bs_free(copy);
        return -1;
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            memcpy(copy + (j * rows + i) * each, (const uint8_t *)t->data + (i * columns + j) * each, each);
    ck_release(s, t);
    s->shards[s->shards_n - 1].own = copy;
    t->file = (int)s->shards_n - 1;
    t->data = copy;
    t->shape[0] = (int64_t)columns;
    t->shape[1] = (int64_t)rows;
    return 0;
}

static int rename_one(ck_store *s, size_t at, const ck_renaming *table, oc_err *err)
{
    bool failed = false;
    for (const ck_renaming *line = table; line->from; line++) {
        char *name = ck_renamed(line, s->tensors[at].name, 'q', &failed);
        if (failed)
            return bs_err(err, "out of memory: the name of a tensor");
        if (!name)
            continue;
        if (ck_find(s, name)) { /* a copy under another name, of a tensor that has its own already */
            free(name);
            return 0;
        }
        if (strchr(line->to, '%')) {
            free(name);
            return split(s, at, line, err);
        }
        free((char *)(uintptr_t)s->tensors[at].name);
        s->tensors[at].name = name;
        return line->transpose ? turn(s, at, err) : 0;
    }
    return 0;
}

int ck_rename(ck_store *s, const ck_renaming *table, oc_err *err)
{
    for (size_t i = 0, n = s->n; i < n; i++)
        if (rename_one(s, i, table, err))
            return -1;
    bs_free(s->slots);
    s->slots = NULL;
    return build_table(s, err);
}

/* ---- looking up ---------------------------------------------------------------------------------------- */

size_t ck_count(const ck_store *s) { return s->n; }

const ck_tensor *ck_at(const ck_store *s, size_t i) { return i < s->n ? &s->tensors[i] : NULL; }

const ck_tensor *ck_find(const ck_store *s, const char *name)
{
    size_t found = *slot_of(s, name);
    return found ? &s->tensors[found - 1] : NULL;
}

const ck_tensor *ck_need(const ck_store *s, const char *name, oc_err *err)
{
    const ck_tensor *t = ck_find(s, name);
    if (!t)
        bs_err(err, "cannot load '%s': tensor '%s' is missing", s->path, name);
    return t;
}

int ck_check_shape(const ck_store *s, const ck_tensor *t, int rank, const int64_t *shape, oc_err *err)
{
    if (t->rank == rank && !memcmp(t->shape, shape, (size_t)rank * sizeof *shape))
        return 0;
    char found[CK_SHAPE_TEXT], wanted[CK_SHAPE_TEXT];
    return bs_err(err, "cannot load '%s': tensor '%s' is %s, the model wants %s", ck_file(s, t), t->name,
                  ck_shape_text(t->rank, t->shape, found), ck_shape_text(rank, shape, wanted));
}

const char *ck_path(const ck_store *s) { return s->path; }

const char *ck_file(const ck_store *s, const ck_tensor *t) { return s->shards[t->file].path; }

const char *ck_metadata(const ck_store *s, const char *key)
{
    return s->shards_n ? json_string_value(json_object_get(s->shards[0].metadata, key)) : NULL;
}

void ck_release_part(const ck_store *s, const ck_tensor *t, size_t at, size_t n)
{
    const shard *file = &s->shards[t->file];
    if (file->mapped)
        bs_map_release(&file->map, (size_t)((const uint8_t *)t->data - file->map.p) + at, n);
}

void ck_release(const ck_store *s, const ck_tensor *t) { ck_release_part(s, t, 0, t->bytes); }
