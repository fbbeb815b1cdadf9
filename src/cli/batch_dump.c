/* batch_dump.c - a run's starting weights and batches as safetensors. */
#include "batch_dump.h"

#include <stdlib.h>
#include <string.h>

#include "cli.h"

int cl_dump_start(const char *folder, const md_model *m, const md_lora *lora, oc_err *err)
{
    if (bs_mkdirs(folder, err))
        return -1;
    if (lora)
        return md_lora_save(lora, m, folder, err);
    char *path = bs_join(folder, "model.safetensors");
    int result = !path ? bs_err(err, "out of memory: the name of '%s'", folder)
                 : cl_copy_model_files(m->folder, folder, err) || md_save(m, path, CK_F32, NULL, err) ? -1
                                                                                                      : 0;
    free(path);
    return result;
}

static void add(ck_tensor *t, size_t *n, const char *name, ck_dtype dtype, const void *data, int rank, const long *shape)
{
    if (!data)
        return;
    ck_tensor *x = &t[(*n)++];
    *x = (ck_tensor){.name = name, .dtype = dtype, .rank = rank, .count = 1, .data = data};
    for (int i = 0; i < rank; i++) {
        x->shape[i] = shape[i];
        x->count *= shape[i];
    }
    x->bytes = (size_t)x->count * ck_dtype_size(dtype);
}

int cl_dump_batch(const char *folder, long step, const md_batch *b, oc_err *err)
{
    char name[64];
    ck_tensor t[9];
    size_t n = 0, ids = (size_t)(b->texts * b->length);
    const int *integers[] = {b->input_ids, b->positions, b->from, b->positions ? b->target : NULL};
    static const char *const names[] = {"input_ids", "position_ids", "from", "target"};
    snprintf(name, sizeof name, "step-%06ld.safetensors", step);
    char *path = bs_join(folder, name);
    int64_t *wide = malloc(5 * ids * sizeof *wide); /* PyTorch's embedding wants 64 bits */
    int result = -1;
    if (!path || !wide) {
        bs_err(err, "out of memory: a batch's copy");
        goto done;
    }
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; integers[k] && i < ids; i++)
            wide[k * ids + i] = integers[k][i];
        add(t, &n, names[k], CK_I64, integers[k] ? wide + k * ids : NULL, 2, (long[]){b->texts, b->length});
    }
    for (size_t i = 0; b->attention_mask && i < ids; i++)
        wide[4 * ids + i] = b->attention_mask[i];
    add(t, &n, "attention_mask", CK_I64, b->attention_mask ? wide + 4 * ids : NULL, 2, (long[]){b->texts, b->length});
    add(t, &n, "pixel_values", CK_F32, b->pixel_values, 4, (long[]){b->images, b->channels, b->height, b->width});
    add(t, &n, "text_target", CK_F32, b->text_target, 2, (long[]){b->texts, b->images});
    add(t, &n, "image_target", CK_F32, b->image_target, 2, (long[]){b->images, b->texts});
    if (b->partner_weight > 0)
        add(t, &n, "partner_target", CK_F32, b->partner_target, 2, (long[]){b->images, b->images});
    result = ck_write(path, t, n, 0, err);
done:
    free(path);
    free(wide);
    return result;
}
