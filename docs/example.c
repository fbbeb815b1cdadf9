/* example.c - which of some sentences fits a picture?   example MODEL PICTURE SENTENCE...
 *
 *   cc example.c $(pkg-config --cflags --libs --static ocelli) -o example && ./example starter cat.jpg "a cat" "一只狗" */
#include <ocelli.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc < 4)
        return fprintf(stderr, "usage: %s MODEL PICTURE SENTENCE...\n", argv[0]), 2;
    oc_err err = {0};
    oc_picture picture = {0};
    int texts = argc - 3, result = 1;
    oc_engine *engine = oc_engine_open(argv[1], NULL, &err);             /* the weights: one for all threads */
    oc_session *session = engine ? oc_session_open(engine, &err) : NULL; /* working memory: one a thread */
    int width = engine ? oc_embedding_width(engine) : 0;
    float *rows = malloc((size_t)(texts + 1) * (size_t)width * sizeof *rows), *text = rows + width;
    if (!session || !rows || oc_picture_read(&picture, argv[2], NULL) || oc_embed_pictures(session, &picture, 1, rows, &err) ||
        oc_embed_texts(session, (const char *const *)argv + 3, texts, text, &err))
        goto done;
    for (int i = 0; i < texts; i++) {
        float cosine = 0; /* rows have length 1 */
        for (int k = 0; k < width; k++)
            cosine += rows[k] * text[i * width + k];
        printf("%.4f %s\n", (double)cosine, argv[i + 3]);
    }
    result = 0;
done:
    if (result)
        fprintf(stderr, "%s\n", picture.err.text[0] ? picture.err.text : err.text);
    free(rows);
    oc_picture_clear(&picture);
    oc_session_close(session);
    oc_engine_close(engine);
    return result;
}
