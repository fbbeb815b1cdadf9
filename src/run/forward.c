/* forward.c - plan, run, differentiate, write. */
#include "engine.h"
#include "forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    const rn_forward_args *args;
    md_model *model;
    md_packed *packed; /* NULL: gradients are wanted */
    md_lora lora;
    md_values inputs;
    md_batch batch;
    md_trainables train;
    md_outputs out;
    const kn_table *kn;
    bs_pool *pool;
    kn_work *work;
    tn_ctx cx;
    void *arena;
} job;

static void clear(job *j)
{
    md_trainables_close(&j->train);
    md_lora_clear(&j->lora);
    md_batch_clear(&j->batch);
    md_values_clear(&j->inputs);
    md_packed_close(j->packed);
    md_close(j->model);
    kn_work_close(j->work);
    bs_pool_close(j->pool);
    bs_free(j->arena);
}

static int open_all(job *j, oc_err *err)
{
    const rn_forward_args *a = j->args;
    j->kn = kn_best(err);
    j->model = !j->kn ? NULL : a->grad ? md_open(a->model, err) : md_open_lean(a->model, err);
    if (j->model && !a->grad && !(j->packed = rn_pack(j->model, j->kn, a->dtype, err)))
        return -1;
    if (!j->model || (a->lora && md_lora_open(&j->lora, j->model, a->lora, a->lora_scale != 0 ? a->lora_scale : 1, err)) ||
        md_values_read(&j->inputs, a->in, err))
        return -1;
    if (a->grad ? md_trainables_open(&j->train, j->model, a->lora ? &j->lora : NULL, err)
                : md_buffers_open(&j->train, j->model, err))
        return -1;
    j->batch.want_loss = a->grad;
    j->batch.want_hidden = true;
    if (j->model->family->prepare(j->model->m, &j->inputs, &j->batch, err))
        return bs_err_prefix(err, "'%s': ", a->in);
    j->pool = bs_pool_open(a->threads, err);
    j->work = j->pool ? kn_work_open(j->kn, j->pool, err) : NULL;
    return j->work ? 0 : -1;
}

static int pass(job *j, oc_err *err)
{
    j->cx.lora = j->args->lora ? j->lora.by_id : NULL;
    if (j->packed)
        md_packed_attach(j->packed, &j->cx);
    j->cx.grads = j->train.grads;
    j->cx.buffers = j->train.buffers;
    j->out.n = 0;
    j->out.loss = (tn_t){0};
    j->model->family->forward(&j->cx, j->model->m, &j->batch, &j->out);
    if (!j->cx.failed && j->args->grad && !j->out.loss.rank)
        tn_fail(&j->cx, "these inputs have no loss, so there are no gradients");
    return j->cx.failed ? bs_err(err, "%s", j->cx.err.text) : 0;
}

/* Values that are not finite come from weights that are not, as a rule: then the first of those is named. */
static int check_outputs(job *j, oc_err *err)
{
    for (int i = 0; i < j->out.n; i++) {
        tn_t x = j->out.item[i].value;
        for (long k = 0, n = tn_size(x); k < n; k++)
            if (!isfinite(x.v[k]))
                return md_check_finite(j->model, err);
    }
    return 0;
}

static int run(job *j, oc_err *err)
{
    tn_plan(&j->cx, j->kn, bs_pool_threads(j->pool), j->args->grad);
    if (pass(j, err))
        return -1;
    size_t bytes = tn_plan_bytes(&j->cx);
    j->arena = bs_alloc(bytes, "the arena", err);
    if (!j->arena)
        return -1;
    tn_run(&j->cx, j->work, j->arena, bytes, j->args->grad);
    if (pass(j, err) || check_outputs(j, err))
        return -1;
    if (!j->args->grad)
        return 0;
    tn_seed(&j->cx, j->out.loss, NULL);
    return tn_backward(&j->cx) ? bs_err(err, "%s", j->cx.err.text) : 0;
}

static int add(ck_tensor *t, int *n, const char *name, const float *data, int rank, const long *shape, bs_buf *names, oc_err *err)
{
    ck_tensor *x = &t[(*n)++];
    *x = (ck_tensor){.name = name, .dtype = CK_F32, .rank = rank, .count = 1, .data = data};
    for (int i = 0; i < rank; i++) {
        x->shape[i] = shape[i];
        x->count *= shape[i];
    }
    x->bytes = (size_t)x->count * sizeof(float);
    return bs_buf_printf(names, err, "%s\n", name);
}

static int add_gradients(job *j, ck_tensor *t, int *n, char (*text)[640], bs_buf *names, oc_err *err)
{
    for (int i = 0; i < j->train.n; i++) {
        const md_trainable *p = &j->train.p[i];
        snprintf(text[i], sizeof text[i], "grad.%s", p->name);
        if (add(t, n, text[i], p->grad, p->rank, p->shape, names, err))
            return -1;
    }
    return 0;
}

static int write_outputs(job *j, bs_buf *names, oc_err *err)
{
    int result = -1, n = 0;
    ck_tensor *t = calloc((size_t)(j->out.n + j->train.n + 1), sizeof *t);
    char(*text)[640] = calloc((size_t)j->train.n + 1, sizeof *text);
    if (!t || !text) {
        bs_err(err, "out of memory: the outputs");
        goto done;
    }
    for (int i = 0; i < j->out.n; i++) {
        tn_t x = j->out.item[i].value;
        const char *name = j->out.item[i].name;
        bool gradient = !strncmp(name, "grad.", 5);
        if (add(t, &n, name, gradient ? tn_gradient(&j->cx, x) : x.v, j->out.item[i].scalar ? 0 : x.rank, x.shape, names, err))
            goto done;
    }
    if (j->out.loss.rank && add(t, &n, "loss", j->out.loss.v, 0, NULL, names, err))
        goto done;
    if (j->args->grad && add_gradients(j, t, &n, text, names, err))
        goto done;
    result = ck_write(j->args->out, t, (size_t)n, 0, err);
done:
    free(t);
    free(text);
    return result;
}

int rn_forward(const rn_forward_args *args, bs_buf *names, oc_err *err)
{
    job *j = calloc(1, sizeof *j);
    if (!j)
        return bs_err(err, "out of memory: a forward");
    j->args = args;
    int result = open_all(j, err) || run(j, err) || write_outputs(j, names, err) ? -1 : 0;
    clear(j);
    free(j);
    return result;
}
