/* adapter.c - adapter_model.safetensors: factors put together by module, every key accounted for. */
#include <stdlib.h>
#include <string.h>

#include "adapter_parts.h"

static const char prefix[] = "base_model.model.";
static const char config_name[] = "adapter_config.json", weights_name[] = "adapter_model.safetensors";

/* ---- one key ------------------------------------------------------------------------------------------- */

/* What the end of a key says. */
typedef enum part_role { ROLE_A, ROLE_B, ROLE_B_BIAS, ROLE_EMBEDDING_A, ROLE_EMBEDDING_B, ROLE_MAGNITUDE, ROLE_OTHER } part_role;

static const struct {
    const char *end;
    part_role role;
} ends[] = {
    {".lora_A.weight", ROLE_A},
    {".lora_B.weight", ROLE_B},
    {".lora_B.bias", ROLE_B_BIAS},
    {".lora_embedding_A", ROLE_EMBEDDING_A},
    {".lora_embedding_B", ROLE_EMBEDDING_B},
    {".lora_magnitude_vector", ROLE_MAGNITUDE},
    {".lora_magnitude_vector.weight", ROLE_MAGNITUDE},
};

/* The role of a key (without the prefix), and how long its module's path is. */
static part_role role_of(const char *key, size_t *module_n)
{
    size_t n = strlen(key);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t m = strlen(ends[i].end);
        if (n > m && !strcmp(key + n - m, ends[i].end)) {
            *module_n = n - m;
            return ends[i].role;
        }
    }
    *module_n = n;
    return ROLE_OTHER;
}

static const ck_tensor **field_of(ck_adapter_target *t, part_role role)
{
    switch (role) {
    case ROLE_A: return &t->a;
    case ROLE_B: return &t->b;
    case ROLE_B_BIAS: return &t->b_bias;
    case ROLE_EMBEDDING_A: return &t->embedding_a;
    case ROLE_EMBEDDING_B: return &t->embedding_b;
    default: return &t->magnitude;
    }
}

static char *copy_of(const char *text, size_t n, oc_err *err)
{
    char *copy = malloc(n + 1);
    if (!copy) {
        bs_err(err, "out of memory: a name in an adapter");
        return NULL;
    }
    memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

/* The target of a module. Keys come sorted, so those of one module follow each other. */
static ck_adapter_target *target_of(ck_adapter *a, const char *module, size_t n, oc_err *err)
{
    ck_adapter_target *last = a->targets_n ? &a->targets[a->targets_n - 1] : NULL;
    if (last && strlen(last->module) == n && !memcmp(last->module, module, n))
        return last;
    ck_adapter_target *grown = realloc(a->targets, ((size_t)a->targets_n + 1) * sizeof *grown);
    if (!grown) {
        bs_err(err, "out of memory: the modules of an adapter");
        return NULL;
    }
    a->targets = grown;
    last = &grown[a->targets_n];
    memset(last, 0, sizeof *last);
    last->module = copy_of(module, n, err);
    if (!last->module)
        return NULL;
    a->targets_n++;
    last->rank = ck_adapter_rank(&a->config, last->module);
    last->scale = ck_adapter_scale(&a->config, last->module);
    return last;
}

static int add_saved(ck_adapter *a, const char *name, const ck_tensor *tensor, oc_err *err)
{
    ck_adapter_saved *grown = realloc(a->saved, ((size_t)a->saved_n + 1) * sizeof *grown);
    if (!grown)
        return bs_err(err, "out of memory: the weights of an adapter");
    a->saved = grown;
    grown[a->saved_n].tensor = tensor;
    grown[a->saved_n].name = copy_of(name, strlen(name), err);
    if (!grown[a->saved_n].name)
        return -1;
    a->saved_n++;
    return 0;
}

/* An adapted layer's own weights are filed under base_layer; in the base model that step is not there. */
static void drop_base_layer(char *name)
{
    static const char step[] = ".base_layer.";
    char *at = strstr(name, step);
    if (at)
        memmove(at + 1, at + sizeof step - 1, strlen(at + sizeof step - 1) + 1);
}

/* A whole weight: wanted when modules_to_save or bias says so, or when it is the base of an adapted
 * embedding. */
static int place_whole(ck_adapter *a, const char *key, const ck_tensor *tensor, oc_err *err)
{
    bool bias = strcmp(a->config.bias, "none") != 0, wanted = false;
    char *name = copy_of(key, strlen(key), err), *dot = NULL;
    if (!name)
        return -1;
    drop_base_layer(name);
    dot = strrchr(name, '.');
    if (dot) {
        *dot = 0;
        wanted = ck_adapter_saves(&a->config, name) || (bias && !strcmp(dot + 1, "bias"));
        wanted |= strlen(name) + strlen(dot + 1) + 1 < strlen(key) && ck_adapter_targets(&a->config, name);
        *dot = '.';
    }
    int result = wanted ? add_saved(a, name, tensor, err) : ck_names_add(&a->unplaced, tensor->name, err);
    free(name);
    return result;
}

static int place(ck_adapter *a, const ck_tensor *tensor, oc_err *err)
{
    size_t n;
    if (strncmp(tensor->name, prefix, sizeof prefix - 1))
        return ck_names_add(&a->unplaced, tensor->name, err);
    const char *key = tensor->name + sizeof prefix - 1;
    part_role what = role_of(key, &n);
    if (what == ROLE_OTHER)
        return place_whole(a, key, tensor, err);
    char *module = copy_of(key, n, err);
    if (!module)
        return -1;
    bool wanted = ck_adapter_targets(&a->config, module) && (what != ROLE_MAGNITUDE || a->config.dora) &&
                  (what != ROLE_B_BIAS || a->config.lora_bias);
    free(module);
    if (!wanted)
        return ck_names_add(&a->unplaced, tensor->name, err);
    ck_adapter_target *t = target_of(a, key, n, err);
    if (!t)
        return -1;
    const ck_tensor **field = field_of(t, what);
    if (*field)
        return bs_err(err, "cannot load '%s': '%s' and '%s' are the same", ck_path(a->store), (*field)->name, tensor->name);
    *field = tensor;
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static int by_tensor_name(const void *a, const void *b)
{
    const ck_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int by_module(const void *a, const void *b)
{
    const ck_adapter_target *x = a, *y = b;
    return strcmp(x->module, y->module);
}

/* Whether f [r, ...] (r_first) or [..., r, then ones] is a factor of this rank. */
static int check_factor(const ck_adapter *a, const ck_tensor *f, int rank, bool r_first, oc_err *err)
{
    char shape[CK_SHAPE_TEXT];
    const char *file = ck_path(a->store);
    if (!ck_dtype_is_float(f->dtype))
        return bs_err(err, "cannot load '%s': tensor '%s' is %s, expected a float type", file, f->name, ck_dtype_name(f->dtype));
    bool fits = f->rank == 2 || f->rank == 4;
    fits = fits && f->shape[r_first ? 0 : 1] == rank && f->count > 0;
    if (!r_first && f->rank == 4)
        fits = fits && f->shape[2] == 1 && f->shape[3] == 1;
    if (fits)
        return 0;
    return bs_err(err, "cannot load '%s': tensor '%s' is %s, expected %s for rank %d", file, f->name,
                  ck_shape_text(f->rank, f->shape, shape), r_first ? "[r,in]" : "[out,r]", rank);
}

/* A vector as long as the output. */
static int check_vector(const ck_adapter *a, const ck_tensor *v, int64_t length, oc_err *err)
{
    char shape[CK_SHAPE_TEXT];
    if (v->count == length && ck_dtype_is_float(v->dtype))
        return 0;
    return bs_err(err, "cannot load '%s': tensor '%s' is %s %s, expected %lld floats", ck_path(a->store), v->name,
                  ck_dtype_name(v->dtype), ck_shape_text(v->rank, v->shape, shape), (long long)length);
}

static int check_target(const ck_adapter *a, const ck_adapter_target *t, oc_err *err)
{
    const char *file = ck_path(a->store);
    bool linear = t->a && t->b && !t->embedding_a && !t->embedding_b;
    bool embedding = t->embedding_a && t->embedding_b && !t->a && !t->b && !t->b_bias;
    if (!linear && !embedding)
        return bs_err(err, "cannot load '%s': module '%s' has not one factor A and one factor B", file, t->module);
    const ck_tensor *down = linear ? t->a : t->embedding_a, *up = linear ? t->b : t->embedding_b;
    if (check_factor(a, down, t->rank, true, err) || check_factor(a, up, t->rank, false, err))
        return -1;
    if (down->rank != up->rank || (embedding && up->rank != 2))
        return bs_err(err, "cannot load '%s': the factors of module '%s' have %d and %d dimensions", file, t->module, down->rank,
                      up->rank);
    if (a->config.dora && !t->magnitude)
        return bs_err(err, "cannot load '%s': module '%s' has no lora_magnitude_vector, which use_dora wants", file, t->module);
    if (t->b_bias && check_vector(a, t->b_bias, up->shape[0], err))
        return -1;
    /* The magnitude of an embedding counts rows of the table turned on its side: the table's width. */
    return t->magnitude ? check_vector(a, t->magnitude, up->shape[0], err) : 0;
}

static int place_all(ck_adapter *a, oc_err *err)
{
    size_t n = ck_count(a->store);
    int result = -1;
    const ck_tensor **list = bs_calloc(n, sizeof *list, "the keys of an adapter", err);
    if (!list)
        return -1;
    for (size_t i = 0; i < n; i++)
        list[i] = ck_at(a->store, i);
    qsort(list, n, sizeof *list, by_tensor_name);
    for (size_t i = 0; i < n; i++)
        if (place(a, list[i], err))
            goto done;
    if (a->targets_n)
        qsort(a->targets, (size_t)a->targets_n, sizeof *a->targets, by_module);
    for (int i = 0; i < a->targets_n; i++)
        if (check_target(a, &a->targets[i], err))
            goto done;
    result = 0;
done:
    bs_free(list);
    return result;
}

static int refuse_unplaced(const ck_adapter *a, oc_err *err)
{
    if (a->unplaced.n)
        return bs_err(err, "cannot load '%s': key '%s' belongs to nothing in its %s (%d such keys)", ck_path(a->store),
                      a->unplaced.p[0], config_name, a->unplaced.n);
    if (!a->targets_n && !a->saved_n)
        return bs_err(err, "cannot load '%s': it holds no factors", ck_path(a->store));
    return 0;
}

static int take_config(ck_adapter *a, const char *path, oc_err *err)
{
    ck_config *file = ck_config_read(path, err);
    int result = !file || ck_adapter_config_init(&a->config, err) || ck_adapter_config_take(&a->config, file, path, err);
    ck_config_free(file);
    return result ? -1 : 0;
}

/* PEFT's older files are pickles, whose name ck_open refuses with the reason. */
static ck_store *open_weights(const char *folder, oc_err *err)
{
    char *path = bs_join(folder, weights_name), *old = bs_join(folder, "adapter_model.bin");
    ck_store *s = NULL;
    if (!path || !old)
        bs_err(err, "out of memory: the name of '%s'", folder);
    else
        s = ck_open(!bs_is_file(path) && bs_is_file(old) ? old : path, err);
    free(path);
    free(old);
    return s;
}

int ck_adapter_open_lax(ck_adapter *a, const char *folder, oc_err *err)
{
    memset(a, 0, sizeof *a);
    char *path = bs_join(folder, config_name);
    a->folder = bs_strdup(folder);
    bool good = path && a->folder;
    if (!good)
        bs_err(err, "out of memory: the name of '%s'", folder);
    good = good && !take_config(a, path, err) && (a->store = open_weights(folder, err)) && !place_all(a, err);
    free(path);
    if (good)
        return 0;
    ck_adapter_close(a);
    return -1;
}

int ck_adapter_open(ck_adapter *a, const char *folder, oc_err *err)
{
    if (ck_adapter_open_lax(a, folder, err))
        return -1;
    if (!refuse_unplaced(a, err))
        return 0;
    ck_adapter_close(a);
    return -1;
}

int ck_adapter_open_bytes(ck_adapter *a, const void *config, size_t config_n, const void *weights, size_t weights_n, oc_err *err)
{
    memset(a, 0, sizeof *a);
    ck_config *file = ck_config_parse(config, config_n, config_name, err);
    bool good = file && !ck_adapter_config_init(&a->config, err) && !ck_adapter_config_take(&a->config, file, config_name, err) &&
                (a->store = ck_open_bytes(weights, weights_n, weights_name, err)) && !place_all(a, err) &&
                !refuse_unplaced(a, err);
    ck_config_free(file);
    if (good)
        return 0;
    ck_adapter_close(a);
    return -1;
}

void ck_adapter_close(ck_adapter *a)
{
    for (int i = 0; i < a->targets_n; i++)
        free(a->targets[i].module);
    for (int i = 0; i < a->saved_n; i++)
        free(a->saved[i].name);
    free(a->targets);
    free(a->saved);
    free(a->folder);
    ck_names_clear(&a->unplaced);
    ck_adapter_config_clear(&a->config);
    ck_close(a->store);
    memset(a, 0, sizeof *a);
}

const ck_adapter_target *ck_adapter_find(const ck_adapter *a, const char *module)
{
    ck_adapter_target key = {.module = (char *)(uintptr_t)module};
    return a->targets_n ? bsearch(&key, a->targets, (size_t)a->targets_n, sizeof key, by_module) : NULL;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static int write_weights(const char *path, const ck_tensor *tensors, size_t n, oc_err *err)
{
    int result = -1;
    ck_tensor *list = bs_calloc(n, sizeof *list, "the keys of an adapter", err);
    if (!list)
        return -1;
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(tensors[i].name);
        char *name = malloc(length + sizeof prefix);
        if (!name) {
            bs_err(err, "out of memory: a name in an adapter");
            goto done;
        }
        memcpy(name, prefix, sizeof prefix - 1);
        memcpy(name + sizeof prefix - 1, tensors[i].name, length + 1);
        list[i] = tensors[i];
        list[i].name = name;
    }
    result = ck_write(path, list, n, 0, err);
done:
    for (size_t i = 0; i < n; i++)
        free((char *)(uintptr_t)list[i].name);
    bs_free(list);
    return result;
}

int ck_adapter_write(const char *folder, const ck_adapter_config *c, const ck_tensor *tensors, size_t n, oc_err *err)
{
    bs_buf text = {0};
    int result = -1;
    char *config_path = bs_join(folder, config_name), *weights_path = bs_join(folder, weights_name);
    if (!config_path || !weights_path) {
        bs_err(err, "out of memory: the name of '%s'", folder);
        goto done;
    }
    if (ck_adapter_config_check(c, config_path, err) || bs_mkdirs(folder, err) || ck_adapter_config_put(&text, c, err) ||
        write_weights(weights_path, tensors, n, err) || bs_write_file(config_path, text.p, text.n, err))
        goto done;
    result = 0;
done:
    bs_buf_clear(&text);
    free(config_path);
    free(weights_path);
    return result;
}
