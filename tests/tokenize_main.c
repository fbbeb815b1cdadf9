/* tokenize_main.c - the tokenizer without the rest of the program, for tests/tokenizer_parity.py.
 *
 *     tokenize_main DIR [-p] [-0] < texts      ids of each text, a JSON array a line; -p: no special tokens
 *     tokenize_main DIR -d [-p] < arrays       the text of each array of ids, ended by a 0 byte; -p: special
 * tokens too
 *
 * A text ends at LF or, with -0, at a 0 byte, so that it may hold line ends. */
#include <stdlib.h>
#include <string.h>

#include "../src/text/tokenizer.h"

static int encode_line(const tx_tokenizer *t, const char *s, size_t n, bool special, oc_err *err)
{
    tx_ids ids = {0};
    int result = tx_encode(t, s, n, special, &ids, err);
    if (!result) {
        putchar('[');
        for (size_t i = 0; i < ids.n; i++)
            printf("%s%d", i ? "," : "", ids.p[i]);
        puts("]");
    }
    tx_ids_clear(&ids);
    return result;
}

static int decode_line(const tx_tokenizer *t, const char *s, bool skip, oc_err *err)
{
    tx_ids ids = {0};
    bs_buf text = {0};
    int result = 0;
    for (char *end; *s && !result; s = end) {
        long id = strtol(s, &end, 10);
        if (end == s)
            end++;
        else
            result = tx_ids_put(&ids, (int32_t)id, err);
    }
    if (!result)
        result = tx_decode(t, ids.p, ids.n, skip, &text, err);
    if (!result) {
        fwrite(text.p ? text.p : "", 1, text.n, stdout);
        putchar(0);
    }
    tx_ids_clear(&ids);
    bs_buf_clear(&text);
    return result;
}

int main(int argc, char **argv)
{
    oc_err err = {0};
    bool plain = false, decode = false;
    char *line = NULL;
    size_t cap = 0;
    int end = '\n', result = 0;
    for (int i = 2; i < argc; i++) {
        plain = plain || strcmp(argv[i], "-p") == 0;
        decode = decode || strcmp(argv[i], "-d") == 0;
        end = strcmp(argv[i], "-0") == 0 ? 0 : end;
    }
    tx_tokenizer *t = argc > 1 ? tx_open(argv[1], &err) : NULL;
    if (!t)
        result = bs_err(&err, "usage: tokenize_main DIR [-p] [-0] [-d]");
    for (ssize_t n; !result && (n = getdelim(&line, &cap, end, stdin)) >= 0;) {
        if (n > 0 && line[n - 1] == end)
            line[--n] = 0;
        result = decode ? decode_line(t, line, !plain, &err) : encode_line(t, line, (size_t)n, !plain, &err);
    }
    if (result)
        fprintf(stderr, "error: %s\n", err.text);
    free(line);
    tx_close(t);
    return result ? 1 : 0;
}
