/* tokenize_main.c - lines on standard input to ids, or back with -d: the tokenizer without the rest of the program. */
#include <stdlib.h>
#include <string.h>

#include "../src/text/tokenizer.h"

static void print_ids(const tx_ids *ids)
{
    putchar('[');
    for (size_t i = 0; i < ids->n; i++)
        printf("%s%d", i ? "," : "", ids->p[i]);
    puts("]");
}

int main(int argc, char **argv)
{
    oc_err err = {0};
    bool plain = argc > 2 && strcmp(argv[2], "-p") == 0; /* without special tokens */
    tx_tokenizer *t = argc > 1 ? tx_open(argv[1], &err) : NULL;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    if (!t) {
        fprintf(stderr, "error: %s\n", err.text);
        return 1;
    }
    while ((n = getline(&line, &cap, stdin)) >= 0) {
        tx_ids ids = {0};
        if (n && line[n - 1] == '\n')
            n--;
        if (tx_encode(t, line, (size_t)n, !plain, &ids, &err)) {
            fprintf(stderr, "error: %s\n", err.text);
            return 1;
        }
        print_ids(&ids);
        tx_ids_clear(&ids);
    }
    free(line);
    tx_close(t);
    return 0;
}
