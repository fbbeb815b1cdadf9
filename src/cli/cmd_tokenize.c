/* cmd_tokenize.c - lines in, arrays of ids out. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static void print_ids(const tx_ids *ids)
{
    putchar('[');
    for (size_t i = 0; i < ids->n; i++)
        printf("%s%d", i ? "," : "", (int)ids->p[i]);
    putchar(']');
}

/* A line may hold any byte but LF, so it is not a C string. */
static int tokenize_line(const tx_tokenizer *t, const char *line, size_t n, tx_ids *ids, oc_err *err)
{
    ids->n = 0;
    if (tx_encode(t, line, n, true, ids, err))
        return -1;
    print_ids(ids);
    return 0;
}

static int tokenize_pair(const tx_tokenizer *t, const char *line, size_t n, tx_ids *ids, tx_ids *types, oc_err *err)
{
    const char *tab = n ? memchr(line, '\t', n) : NULL;
    if (!tab)
        return bs_err(err, "a line has no tab between two texts: '%.*s'", (int)(n < 60 ? n : 60), line);
    size_t a_n = (size_t)(tab - line);
    ids->n = types->n = 0;
    if (tx_encode_pair(t, line, a_n, tab + 1, n - a_n - 1, ids, types, err))
        return -1;
    printf("{\"input_ids\":");
    print_ids(ids);
    printf(",\"token_type_ids\":");
    print_ids(types);
    putchar('}');
    return 0;
}

static int tokenize_lines(const tx_tokenizer *t, FILE *in, bool pairs, oc_err *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    tx_ids ids = {0}, types = {0};
    int result = 0;
    while (!result && (n = getline(&line, &cap, in)) >= 0) {
        if (n && line[n - 1] == '\n')
            n--;
        result = pairs ? tokenize_pair(t, line, (size_t)n, &ids, &types, err) : tokenize_line(t, line, (size_t)n, &ids, err);
        if (!result)
            putchar('\n');
    }
    free(line);
    tx_ids_clear(&ids);
    tx_ids_clear(&types);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts rest = {0};
    oc_err err = {0};
    bool pairs = false;
    const cl_option options[] = {
        {"pairs", NULL, CL_FLAG, &pairs, "a line is two texts with a tab between: their ids as one, and token types", 0, 0}, {0}};
    int code = cl_parse(self, argc, argv, options, &common, &rest);
    if (code >= 0 || (rest.n && (code = cl_usage(self, "texts come on standard input, a line each")) >= 0))
        goto done;
    char *folder = rn_find_model(common.model ? common.model : "starter", NULL, &err);
    tx_tokenizer *t = folder ? tx_open(folder, &err) : NULL;
    code = cl_done(self, !t || tokenize_lines(t, stdin, pairs, &err) ? cl_fail(self, &err) : CL_OK);
    tx_close(t);
    free(folder);
done:
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_tokenize = {
    "tokenize", "the token ids of lines of text", "--model M < lines",
    "  echo 'a photo of a cat' | ocelli tokenize --model starter     # [1,320,...]: never cut, special tokens added\n", run};
