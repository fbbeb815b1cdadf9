/* trainer.c - the loop: batch, gradients, update, report, checkpoint. */
#include "trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"

typedef struct run {
    md_model *m;
    md_lora *lora;
    const tr_task *task;
    kn_work *work;
    const tr_options *o;
    md_trainables t;
    tr_optimizer a;
    tr_state state;
    tr_pass pass;
    char *checkpoint, tier[32];
    double saved; /* when the last checkpoint was written */
} run;

static void say(const run *r, const char *format, const char *a, long b)
{
    char text[512];
    snprintf(text, sizeof text, format, a, b);
    if (r->o->say)
        r->o->say(r->o->arg, text);
}

static int open_run(run *r, oc_err *err)
{
    const kn_table *kn = kn_work_table(r->work);
    if (md_trainables_open(&r->t, r->m, r->lora, err) || tr_optimizer_open(&r->a, &r->o->optimizer, &r->t, err))
        return -1;
    r->pass = (tr_pass){.m = r->m, .lora = r->lora, .t = &r->t, .work = r->work, .bf16 = r->o->bf16};
    r->pass.bytes = r->task->plan(r->task->arg, &r->pass, kn, bs_pool_threads(kn_work_pool(r->work)));
    r->pass.arena = bs_alloc(r->pass.bytes, "the arena of a training step", err);
    r->checkpoint = bs_join(r->o->out, "checkpoint.safetensors");
    if (!r->pass.arena || !r->checkpoint)
        return bs_err(err, "out of memory: a training run");
    bool low = r->o->bf16 && kn_work_has_bf16(r->work);
    if (r->o->bf16 && !low)
        say(r, "this CPU does not multiply bf16 faster%s: products stay fp32", "", 0);
    snprintf(r->tier, sizeof r->tier, "%s%s", kn->name, low ? "+bf16" : "");
    r->state = (tr_state){&r->a, 0, r->o->settings, r->tier, r->task->kept, r->task->kept_n};
    return 0;
}

static void close_run(run *r)
{
    tr_optimizer_close(&r->a);
    md_trainables_close(&r->t);
    bs_free(r->pass.arena);
    free(r->checkpoint);
}

static int resume(run *r, oc_err *err)
{
    if (r->o->fresh || !bs_is_file(r->checkpoint))
        return 0;
    int other = tr_checkpoint_read(&r->state, r->checkpoint, err);
    if (other < 0)
        return -1;
    say(r, "going on from '%s' after step %ld", r->checkpoint, r->state.step);
    if (other)
        say(r, "that run used other kernels than these (%s): it goes on, but not bit by bit the same", r->state.tier, 0);
    return r->o->resumed ? r->o->resumed(r->o->arg, r->state.step, err) : 0;
}

/* The weights (the average, where one is kept) or the adapter. */
static int export_model(run *r, oc_err *err)
{
    if (r->lora)
        return md_lora_save(r->lora, r->m, r->o->out, err);
    char *path = bs_join(r->o->out, "model.safetensors");
    const float **values = calloc((size_t)r->m->n + 1, sizeof *values);
    int result = -1;
    if (!path || !values) {
        bs_err(err, "out of memory: the weights' names");
        goto done;
    }
    for (int i = 0; r->a.average && i < r->m->n; i++)
        if (r->t.grads[i])
            values[i] = r->a.average + (r->t.grads[i] - r->t.memory);
    result = md_save(r->m, path, r->o->save_dtype, values, err);
done:
    free(path);
    free(values);
    return result;
}

static int save(run *r, bool export_now, oc_err *err)
{
    if (tr_checkpoint_write(&r->state, r->checkpoint, err) || (export_now && export_model(r, err)))
        return -1;
    r->saved = bs_now();
    return 0;
}

static void clamp(float *x, float low, float high) { *x = *x < low ? low : *x > high ? high : *x; }

/* The temperature stays where the family wants it: CLIP's logits never pass 100 times a cosine (Radford 2021), BLIP's cosines are divided by 0.001 to 0.5. */
static double clamp_scale(const run *r)
{
    const md_family *f = r->m->family;
    const tn_param *p = f->logit_scale ? f->logit_scale(r->m->m) : NULL, *t = f->temperature ? f->temperature(r->m->m) : NULL;
    const tn_param *any = p ? p : t;
    if (!any || any->id < 0)
        return 1;
    float *own = r->lora ? NULL : r->m->slots[any->id].own;
    if (own && p && f->max_logit_scale > 0)
        clamp(own, 0, f->max_logit_scale);
    if (own && t)
        clamp(own, 0.001f, 0.5f);
    return p ? exp((double)p->v[0]) : 1 / (double)t->v[0];
}

static int one_step(run *r, tr_report *report, oc_err *err)
{
    double began = bs_now();
    const md_batch *b = r->task->next(r->task->arg, r->state.step, kn_work_pool(r->work), err);
    if (!b || (r->o->batch_seen && r->o->batch_seen(r->o->arg, r->state.step + 1, b, err)))
        return -1;
    md_trainables_zero(&r->t, r->work);
    report->loss = r->task->gradients(r->task->arg, &r->pass, b, err);
    if (!isfinite(report->loss) || tr_optimizer_step(&r->a, r->work, r->state.step, &report->norm, err))
        return -1;
    report->lr = tr_rate(&r->o->optimizer, r->state.step);
    report->scale = clamp_scale(r);
    if (!isfinite(report->scale))
        return bs_err(err, "the temperature is no longer finite after step %ld: try a lower learning rate", r->state.step + 1);
    report->step = ++r->state.step;
    double rate = (double)r->task->units / (bs_now() - began);
    report->per_s = report->per_s > 0 ? 0.95 * report->per_s + 0.05 * rate : rate;
    report->left_s = (double)((report->steps - report->step) * r->task->units) / report->per_s;
    if (r->o->report)
        r->o->report(r->o->arg, report);
    return 0;
}

static int loop(run *r, oc_err *err)
{
    tr_report report = {.steps = r->o->optimizer.steps};
    long first = r->state.step;
    r->saved = bs_now();
    while (r->state.step < report.steps) {
        if (one_step(r, &report, err))
            return -1;
        bool stop = bs_stop_asked() || (r->o->stop_after && r->state.step - first >= r->o->stop_after);
        bool due = r->o->checkpoint_minutes > 0 && bs_now() - r->saved > (double)r->o->checkpoint_minutes * 60;
        if (r->state.step < report.steps && (stop || due) && save(r, r->o->export_too, err))
            return -1;
        if (stop && r->state.step < report.steps)
            return 1;
    }
    return save(r, true, err);
}

static void attach(const tr_pass *p, tn_ctx *cx)
{
    cx->lora = p->lora ? p->lora->by_id : NULL;
    cx->grads = p->t->grads;
    cx->buffers = p->t->buffers;
    cx->training = true;
    cx->bf16 = p->bf16;
}

void tr_begin(const tr_pass *p, tn_ctx *cx, bool train)
{
    tn_run(cx, p->work, p->arena, p->bytes, train);
    attach(p, cx);
}

void tr_begin_plan(const tr_pass *p, const kn_table *kn, int threads, tn_ctx *cx, bool train)
{
    tn_plan(cx, kn, threads, train);
    attach(p, cx);
}

tn_t tr_embed_texts(tn_ctx *cx, const md_model *m, md_unfilled *u, const md_batch *b)
{
    b = md_unfill(u, m, b);
    cx->branches = b->branches;
    tn_t y = tn_l2_normalize(cx, m->family->embed_texts(cx, m->m, b));
    cx->branches = NULL;
    return y;
}

int tr_train(md_model *m, md_lora *lora, const tr_task *task, kn_work *work, const tr_options *o, oc_err *err)
{
    run r = {.m = m, .lora = lora, .task = task, .work = work, .o = o};
    int result = bs_mkdirs(o->out, err) || open_run(&r, err) || resume(&r, err) ? -1 : loop(&r, err);
    close_run(&r);
    return result;
}
