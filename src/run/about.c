/* about.c - texts about pictures: captions, answers to questions. */
#include "generate.h"

#include <string.h>

static int check_eye(const oc_generator *g, oc_err *err)
{
    const oc_engine *e = g->speaker.engine;
    return e->sizes.picture_rows ? 0 : bs_err(err, "the model '%s' (%s) does not look at pictures", e->model->folder, oc_family(e));
}

static size_t floats_of_picture(const oc_generator *g)
{
    const md_sizes *s = &g->speaker.engine->sizes;
    return (size_t)(s->channels * s->image_size * s->image_size);
}

float *rn_load_pictures(oc_generator *g, const char *const *paths, int n, oc_err *errors, oc_err *err)
{
    const oc_engine *e = g->speaker.engine;
    if (check_eye(g, err))
        return NULL;
    float *pixels = bs_alloc((size_t)n * floats_of_picture(g) * sizeof *pixels, "a batch of pictures", err);
    im_load options = {{.max_pixels = e->options.max_pixels}, e->options.fast_pixels, g->speaker.pool};
    if (pixels)
        im_processor_load_files(&e->processor, paths, n, &options, pixels, errors, NULL);
    return pixels;
}

/* The prompts whose pictures could be read close ranks; at[k] is the number of the k-th of them. */
static int keep_good(const char *const *texts, const float *pixels, size_t each, int n, const oc_err *errors, rn_prompt *to, int *at)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (!errors[i].text[0]) {
            to[kept] = (rn_prompt){texts && texts[i] ? texts[i] : "", pixels + (size_t)i * each};
            at[kept++] = i;
        }
    return kept;
}

int rn_tell_files(oc_generator *g, const char *const *paths, const char *const *texts, int n, const oc_generation *how,
                  oc_answer *answers, oc_err *errors, oc_err *err)
{
    int result = -1;
    memset(answers, 0, (size_t)n * sizeof *answers);
    memset(errors, 0, (size_t)n * sizeof *errors);
    float *pixels = rn_load_pictures(g, paths, n, errors, err);
    rn_prompt *prompts = pixels ? bs_calloc((size_t)n, sizeof *prompts, "prompts", err) : NULL;
    oc_answer *found = prompts ? bs_calloc((size_t)n, sizeof *found, "answers", err) : NULL;
    int *at = found ? bs_calloc((size_t)n, sizeof *at, "prompts", err) : NULL;
    if (!at)
        goto done;
    int kept = keep_good(texts, pixels, floats_of_picture(g), n, errors, prompts, at);
    result = kept ? rn_generate(g, prompts, kept, 0, how, NULL, NULL, found, err) : 0;
    for (int k = 0; k < kept; k++)
        answers[at[k]] = found[k];
done:
    bs_free(at);
    bs_free(found);
    bs_free(prompts);
    bs_free(pixels);
    return result;
}

int oc_generate_about(oc_generator *g, const oc_picture *pictures, const char *const *prompts, int n, const oc_generation *how,
                      oc_heard *heard, void *arg, oc_answer *answers, oc_err *err)
{
    int result = -1;
    size_t each = floats_of_picture(g);
    if (check_eye(g, err))
        return -1;
    memset(answers, 0, (size_t)n * sizeof *answers);
    float *pixels = bs_alloc((size_t)n * each * sizeof *pixels, "a batch of pictures", err);
    rn_prompt *all = pixels ? bs_calloc((size_t)n, sizeof *all, "prompts", err) : NULL;
    if (!all)
        goto done;
    for (int i = 0; i < n; i++) {
        if (!pictures[i].rgb) {
            bs_err(err, "picture %d has no pixels: %s", i, pictures[i].err.text);
            goto done;
        }
        all[i] = (rn_prompt){prompts && prompts[i] ? prompts[i] : "", pixels + (size_t)i * each};
        if (im_processor_run(&g->speaker.engine->processor, &pictures[i], pixels + (size_t)i * each, err))
            goto done;
    }
    result = rn_generate(g, all, n, 0, how, heard, arg, answers, err);
done:
    bs_free(all);
    bs_free(pixels);
    return result;
}
