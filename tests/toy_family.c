/* toy_family.c - the smallest family there can be, as CONTRIBUTING.md adds it: a two-layer MLP over pixels.
 *
 *   pixels [B,3,S,S] -> flat [B,3*S*S] -> fc1 [B,H] -> gelu -> fc2 [B,K] -> logits;  loss = cross-entropy with labels [B]
 *
 * Not a part of Ocelli: toy_family.py copies it to src/model/ of a copy of the tree. */
#include <stdlib.h>

#include "model.h"

typedef struct toy {
    int image_size, hidden, labels;
    tn_linear_w fc1; /* [H, 3*S*S] */
    tn_linear_w fc2; /* [K, H] */
} toy;

static void *create(const ck_config *c, oc_err *err)
{
    toy *m = calloc(1, sizeof *m);
    if (!m) {
        bs_err(err, "out of memory: a model");
        return NULL;
    }
    *m = (toy){.image_size = 8, .hidden = 16, .labels = 2};
    if (!ck_int(c, "image_size", &m->image_size, 1, 1024, err) && !ck_int(c, "hidden_size", &m->hidden, 1, 65536, err) &&
        !ck_int(c, "num_labels", &m->labels, 1, 65536, err))
        return m;
    free(m);
    return NULL;
}

static void visit(void *p, tn_visitor *v)
{
    toy *m = p;
    tn_visit_linear(v, &m->fc1, "fc1", m->hidden, 3L * m->image_size * m->image_size, true);
    tn_visit_linear(v, &m->fc2, "fc2", m->labels, m->hidden, true);
}

static void sizes(const void *p, md_sizes *s)
{
    const toy *m = p;
    *s = (md_sizes){.image_size = m->image_size, .channels = 3, .bos = -1, .eos = -1, .pad = -1};
}

static int prepare(const void *p, const md_values *in, md_batch *b, oc_err *err)
{
    const toy *m = p;
    const md_value *x = md_values_find(in, "pixel_values"), *labels = md_values_find(in, "labels");
    if (!x || x->is_int || x->rank != 4 || x->shape[1] != 3 || x->shape[2] != m->image_size || x->shape[3] != m->image_size)
        return bs_err(err, "pixel_values: expected floats [B,3,%d,%d]", m->image_size, m->image_size);
    if (labels ? !labels->is_int || labels->count != x->shape[0] : b->want_loss)
        return bs_err(err, "labels: expected %ld integers", x->shape[0]);
    b->images = x->shape[0];
    b->pixel_values = x->f;
    b->values = in;
    return 0;
}

static void forward(tn_ctx *cx, const void *p, const md_batch *b, md_outputs *out)
{
    const toy *m = p;
    tn_t x = tn_input(cx, b->pixel_values, false, 2, (long[]){b->images, 3L * m->image_size * m->image_size});
    tn_t logits = tn_linear(cx, tn_linear_act(cx, x, &m->fc1, KN_GELU), &m->fc2);
    md_emit(cx, out, logits, "logits");
    if (b->want_loss)
        out->loss = tn_cross_entropy(cx, logits, md_values_find(b->values, "labels")->i, 0);
}

static const char *const architectures[] = {"ToyForImageClassification", NULL};

const md_family md_toy = {.model_type = "toy",
                          .architectures = architectures,
                          .create = create,
                          .destroy = free,
                          .visit = visit,
                          .sizes = sizes,
                          .prepare = prepare,
                          .forward = forward};
