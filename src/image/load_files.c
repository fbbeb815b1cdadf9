/* load_files.c - many picture files at once. */
#include <string.h>

#include "preprocess.h"

typedef struct job {
    const im_processor *p;
    const char *const *paths;
    const im_load *options;
    float *out;
    size_t each; /* floats of a picture */
    oc_err *errors;
    bool *unread;
} job;

/* `pool`: threads that may share this one picture. */
static void load(const job *j, long i, bs_pool *pool)
{
    im_load options = *j->options;
    oc_err *err = &j->errors[i];
    bs_buf file = {0};
    options.pool = pool;
    bool unread = bs_read_file(&file, j->paths[i], 0, err) != 0;
    if (!unread && im_processor_load(j->p, file.p, file.n, &options, j->out + (size_t)i * j->each, err))
        bs_err_prefix(err, "cannot decode '%s': ", j->paths[i]);
    if (j->unread)
        j->unread[i] = unread;
    bs_buf_clear(&file);
}

static void load_some(void *arg, long begin, long end, int worker)
{
    (void)worker;
    for (long i = begin; i < end; i++)
        load(arg, i, NULL);
}

/* A thread a file wastes the least; only one that is left alone at the end is shared. */
void im_processor_load_files(const im_processor *p, const char *const *paths, int n, const im_load *options, float *out,
                             oc_err *errors, bool *unread)
{
    int height, width, apart = n - (n % bs_pool_threads(options->pool) == 1);
    im_processor_fixed_size(p, &height, &width);
    job j = {p, paths, options, out, 3 * (size_t)height * (size_t)width, errors, unread};
    memset(errors, 0, (size_t)n * sizeof *errors);
    bs_pool_for(options->pool, apart, 1, load_some, &j);
    if (apart < n)
        load(&j, apart, options->pool);
}
