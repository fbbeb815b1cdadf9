/* fuzz_image.c - any bytes as a picture, or as preprocessor_config.json when they begin with '{': an error,
 * or pixels of the size that was promised, all of which can be read and prepared for a model. */
#include <stdlib.h>
#include <string.h>

#include "../src/image/image.h"
#include "../src/image/preprocess.h"

static void demand(int what)
{
    if (!what)
        abort();
}

/* Small enough that memory and time of one run stay small. */
enum { MAX_PIXELS = 1 << 18, MAX_OUTPUT = 1 << 16 };

static void prepare(const im_processor *p, const oc_picture *picture)
{
    oc_err err = {0};
    int height, width;
    if (im_processor_output_size(p, picture, &height, &width, &err)) {
        demand(err.text[0] != 0);
        return;
    }
    demand(height >= 1 && width >= 1);
    if ((long)height * width > MAX_OUTPUT)
        return;
    float *out = malloc(sizeof(float) * 3 * (size_t)height * (size_t)width);
    demand(out != NULL);
    if (!im_processor_run(p, picture, out, &err)) {
        float sum = 0;
        for (long i = 0; i < 3L * height * width; i++)
            sum += out[i];
        demand(sum == sum);
    }
    free(out);
}

static void fuzz_config(const uint8_t *data, size_t size)
{
    uint8_t rgb[5 * 3 * 3];
    oc_picture picture = {.width = 5, .height = 3, .rgb = rgb};
    oc_err err = {0};
    im_processor p;
    memset(rgb, 77, sizeof rgb);
    int failed = im_processor_parse(&p, (const char *)data, size, "fuzz", &err);
    demand(!failed == !err.text[0]);
    if (!failed)
        prepare(&p, &picture);
}

static void fuzz_picture(const uint8_t *data, size_t size)
{
    im_decode_options options = {.max_pixels = MAX_PIXELS, .min_side = size % 3 ? 0 : 8};
    oc_err err = {0};
    im_raster r;
    im_processor p;
    int failed = im_decode(&r, data, size, &options, &err);
    demand(!failed == !err.text[0] && !failed == (r.rgb != NULL));
    if (!failed) {
        demand(r.width >= 1 && r.height >= 1 && (uint64_t)r.width * (uint64_t)r.height <= MAX_PIXELS);
        oc_picture picture = {.width = r.width, .height = r.height, .rgb = r.rgb};
        demand(!im_processor_default(&p, "clip", &err));
        p.shortest = p.crop_height = p.crop_width = 16;
        p.resample = (im_filter)(size % (IM_HAMMING + 1));
        prepare(&p, &picture);
    }
    im_raster_clear(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size && data[0] == '{')
        fuzz_config(data, size);
    else
        fuzz_picture(data, size);
    return 0;
}

#ifdef OCELLI_REPLAY
/* Without libFuzzer: runs the files given as arguments. */
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bs_buf file = {0};
        oc_err err = {0};
        demand(!bs_read_file(&file, argv[i], 0, &err));
        LLVMFuzzerTestOneInput((const uint8_t *)file.p, file.n);
        bs_buf_clear(&file);
    }
    return 0;
}
#endif
