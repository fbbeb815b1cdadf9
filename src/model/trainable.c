/* trainable.c - which tensors learn, and where their gradients lie. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const char PEFT[] = "base_model.model.";

static md_trainable *next(md_trainables *t, long count, float *value, bool decay)
{
    md_trainable *p = &t->p[t->n++];
    *p = (md_trainable){.value = value, .count = count, .decay = decay};
    t->total += (count + 15) / 16 * 16; /* each starts on its own cache line */
    return p;
}

static void list_weights(md_trainables *t, const md_model *m)
{
    for (int i = 0; i < m->n; i++) {
        const md_slot *s = &m->slots[i];
        if (s->flags & TN_BUFFER || s->p->id < 0)
            continue;
        md_trainable *p = next(t, s->count, s->own, !(s->flags & TN_NO_DECAY));
        p->rows = s->flags & TN_LINEAR ? s->p->shape[0] : 0;
        snprintf(p->name, sizeof p->name, "%s", s->name);
    }
}

static void list_factors(md_trainables *t, const md_model *m, const md_lora *lora)
{
    for (int i = 0; i < m->n; i++) {
        const tn_lora *lo = &lora->by_id[i];
        const md_slot *s = &m->slots[i];
        if (!lo->r)
            continue;
        int module = (int)(strlen(s->name) - strlen(".weight"));
        for (int k = 0; k < 2; k++) {
            long count = k ? s->p->shape[0] * lo->r : lo->r * s->p->shape[1];
            md_trainable *p = next(t, count, (float *)(uintptr_t)(k ? lo->b : lo->a), true);
            snprintf(p->name, sizeof p->name, "%s%.*s.lora_%c.weight", PEFT, module, s->name, k ? 'B' : 'A');
        }
    }
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
        if (lora && lora->by_id[i].r) {
            lora->by_id[i].ga = t->p[k++].grad;
            lora->by_id[i].gb = t->p[k++].grad;
        } else if (!lora && !(m->slots[i].flags & TN_BUFFER) && m->slots[i].p->id >= 0)
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
    t->p = bs_calloc((size_t)m->n * 2 + 1, sizeof *t->p, "the list of gradients", err);
    if (!t->p)
        goto failed;
    if (lora)
        list_factors(t, m, lora);
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

void md_trainables_zero(md_trainables *t) { memset(t->memory, 0, (size_t)t->total * sizeof(float)); }

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
