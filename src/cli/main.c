/* main.c - the table of commands. To add one: its file, its line here and in meson.build. */
#include <string.h>

#include "cli.h"

extern const cl_command cmd_ask, cmd_bench, cmd_caption, cmd_classify, cmd_embed, cmd_eval, cmd_finetune, cmd_forward, cmd_generate, cmd_index,
    cmd_info, cmd_match, cmd_merge, cmd_preprocess, cmd_quantize, cmd_search, cmd_tokenize, cmd_tokenizer, cmd_train;

const cl_command *const cl_commands[] = {
    &cmd_info,      &cmd_generate,   &cmd_caption,   &cmd_ask, &cmd_match, &cmd_embed,    &cmd_classify, &cmd_index,    &cmd_search,
    &cmd_eval,      &cmd_train,      &cmd_finetune, &cmd_merge,    &cmd_quantize, &cmd_tokenize,
    &cmd_tokenizer, &cmd_preprocess, &cmd_forward,  &cmd_bench,    NULL,
};

static int help(FILE *to)
{
    fprintf(
        to,
        "ocelli %s - vision-language models on ordinary CPUs\n\nusage: ocelli COMMAND ...   (ocelli COMMAND --help explains)\n\n",
        OC_VERSION);
    for (int i = 0; cl_commands[i]; i++)
        fprintf(to, "  %-12s %s\n", cl_commands[i]->name, cl_commands[i]->summary);
    return to == stdout ? CL_OK : CL_USAGE;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return help(stderr);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return help(stdout);
    if (!strcmp(argv[1], "--version")) {
        printf("ocelli %s\n", OC_VERSION);
        return CL_OK;
    }
    for (int i = 0; cl_commands[i]; i++)
        if (!strcmp(argv[1], cl_commands[i]->name))
            return cl_commands[i]->run(cl_commands[i], argc - 2, argv + 2);
    fprintf(stderr, "ocelli: there is no command '%s' (see ocelli --help)\n", argv[1]);
    return CL_USAGE;
}
