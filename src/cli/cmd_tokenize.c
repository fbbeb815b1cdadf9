/* cmd_tokenize.c - lines in, arrays of ids out. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static void print_ids(const tx_ids *ids)
{
    putchar('[');
    for (size_t i = 0; i < ids->n; i++)
        printf("%s%d", i ? "," : "", (int)ids->p[i]);
    printf("]\n");
}

/* A line may hold any byte but LF, so it is not a C string. */
static int tokenize_lines(const tx_tokenizer *t, FILE *in, oc_err *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    tx_ids ids = {0};
    int result = 0;
    while (!result && (n = getline(&line, &cap, in)) >= 0) {
        if (n && line[n - 1] == '\n')
            n--;
        ids.n = 0;
        result = tx_encode(t, line, (size_t)n, true, &ids, err);
        if (!result)
            print_ids(&ids);
    }
    free(line);
    tx_ids_clear(&ids);
    return result;
}

static int run(const cl_command *self, int argc, char **argv)
{
    cl_common common = {0};
    cl_texts rest = {0};
    oc_err err = {0};
    int code = cl_parse(self, argc, argv, NULL, &common, &rest);
    if (code >= 0 || (rest.n && (code = cl_usage(self, "texts come on standard input, a line each")) >= 0))
        goto done;
    char *folder = rn_find_model(common.model ? common.model : "starter", NULL, &err);
    tx_tokenizer *t = folder ? tx_open(folder, &err) : NULL;
    code = cl_done(self, !t || tokenize_lines(t, stdin, &err) ? cl_fail(self, &err) : CL_OK);
    tx_close(t);
    free(folder);
done:
    cl_texts_clear(&rest);
    return code;
}

const cl_command cmd_tokenize = {
    "tokenize", "the token ids of lines of text", "--model M < lines",
    "  echo 'a photo of a cat' | ocelli tokenize --model starter     # [1,320,...]: never cut, special tokens added\n", run};
