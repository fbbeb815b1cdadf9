/* trainable.c - which tensors learn, and where their gradients lie. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const char PEFT[] = "base_model.model.";

static md_trainable *next(md_trainables *t, float *value, int rank, const long *shape, bool decay)
{
    md_trainable *p = &t->p[t->n++];
    *p = (md_trainable){.value = value, .rank = rank, .count = 1, .decay = decay};
    for (int i = 0; i < rank; i++) {
        p->shape[i] = shape[i];
        p->count *= shape[i];
    }
    t->total += (p->count + 15) / 16 * 16; /* each starts on its own cache line */
    return p;
}

static void list_weight(md_trainables *t, const md_slot *s, const char *before, const char *name)
{
    md_trainable *p = next(t, s->own, s->p->rank, s->p->shape, !(s->flags & TN_NO_DECAY));
    p->rows = s->flags & TN_LINEAR ? s->p->shape[0] : 0; /* as it lies: Muon's update does not mind which way */
    snprintf(p->name, sizeof p->name, "%s%s", before, name);
}

static bool is_listed(const md_slot *s) { return !(s->flags & TN_BUFFER) && s->p->id >= 0; }

static void list_weights(md_trainables *t, const md_model *m)
{
    for (int i = 0; i < m->n; i++)
        if (is_listed(&m->slots[i]))
            list_weight(t, &m->slots[i], "", m->slots[i].name);
}

/* The factors of one layer, which move from now on. */
static void list_layer(md_trainables *t, const md_slot *s, tn_lora *lo, const char *module)
{
    const float *value[] = {lo->a, lo->b, lo->m};
    static const char *const part[] = {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"};
    const long shape[][2] = {{lo->r, md_in_of(s)}, {md_out_of(s), lo->r}, {md_out_of(s), 0}};
    for (int k = 0; k < 3 && value[k]; k++) {
        md_trainable *p = next(t, (float *)(uintptr_t)value[k], k < 2 ? 2 : 1, shape[k], k < 2);
        snprintf(p->name, sizeof p->name, "%s%s.%s", PEFT, module, part[k]);
    }
    bs_free((void *)(uintptr_t)lo->f);
    lo->f = NULL;
}

static void list_adapter(md_trainables *t, const md_model *m, const md_lora *lora)
{
    for (int i = 0; i < m->n; i++)
        if (lora->by_id[i].r)
            list_layer(t, &m->slots[i], &lora->by_id[i], lora->name[i]);
        else if (lora->whole[i])
            list_weight(t, &m->slots[i], PEFT, lora->name[i]);
}

/* Hands every gradient its place, in the order of the list. */
static void place_gradients(md_trainables *t, const md_model *m, md_lora *lora)
{
    float *at = t->memory;
    for (int i = 0; i < t->n; i++) {
        t->p[i].grad = at;
        at += (t->p[i].count + 15) / 16 * 16;
    }
    int k = 0;
    for (int i = 0; i < m->n; i++) {
        tn_lora *lo = lora && lora->by_id[i].r ? &lora->by_id[i] : NULL;
        if (lo) {
            lo->ga = t->p[k++].grad;
            lo->gb = t->p[k++].grad;
            lo->gm = lo->m ? t->p[k++].grad : NULL;
        } else if (lora ? lora->whole[i] : is_listed(&m->slots[i]))
            t->grads[i] = t->p[k++].grad;
    }
}

static int copy_buffers(md_trainables *t, const md_model *m, oc_err *err)
{
    for (int i = 0; i < m->n; i++) {
        const md_slot *s = &m->slots[i];
        if (!(s->flags & TN_BUFFER) || s->p->id < 0)
            continue;
        t->buffers[i] = bs_alloc((size_t)s->count * sizeof(float), s->name, err);
        if (!t->buffers[i])
            return -1;
        memcpy(t->buffers[i], s->p->v, (size_t)s->count * sizeof(float));
    }
    return 0;
}

int md_buffers_open(md_trainables *t, const md_model *m, oc_err *err)
{
    memset(t, 0, sizeof *t);
    t->slots = m->n;
    t->grads = bs_calloc((size_t)m->n + 1, sizeof *t->grads, "the list of gradients", err);
    t->buffers = bs_calloc((size_t)m->n + 1, sizeof *t->buffers, "the list of buffers", err);
    if (t->grads && t->buffers && !copy_buffers(t, m, err))
        return 0;
    md_trainables_close(t);
    return -1;
}

int md_trainables_open(md_trainables *t, const md_model *m, md_lora *lora, oc_err *err)
{
    if (md_buffers_open(t, m, err))
        return -1;
    t->p = bs_calloc((size_t)m->n * 3 + 1, sizeof *t->p, "the list of gradients", err);
    if (!t->p)
        goto failed;
    if (lora)
        list_adapter(t, m, lora);
    else
        list_weights(t, m);
    t->memory = bs_calloc((size_t)t->total + 1, sizeof(float), "the gradients", err);
    if (!t->memory)
        goto failed;
    place_gradients(t, m, lora);
    return 0;
failed:
    md_trainables_close(t);
    return -1;
}

void md_trainables_zero(md_trainables *t, kn_work *w) { kn_zero(w, t->total, t->memory); }

void md_trainables_close(md_trainables *t)
{
    for (int i = 0; t->buffers && i < t->slots; i++)
        bs_free(t->buffers[i]);
    bs_free(t->buffers);
    bs_free(t->grads);
    bs_free(t->p);
    bs_free(t->memory);
    memset(t, 0, sizeof *t);
}
