/* test_image.c - pixels equal to Pillow's, and nothing but an error from a file that is broken.
 *
 * tests/data/images is written by tools/make_image_cases.py, which says what each file holds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jpeglib.h>

#include "../src/image/image.h"
#include "../src/image/preprocess.h"

#ifndef OCELLI_TEST_DATA
#define OCELLI_TEST_DATA "tests/data"
#endif

/* ---- helpers ------------------------------------------------------------------------------------------ */

static const char *data_path(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/images/%s", OCELLI_TEST_DATA, name);
    return path;
}

static bs_buf data_file(const char *name)
{
    bs_buf b = {0};
    oc_err err = {0};
    if (bs_read_file(&b, data_path(name), 0, &err))
        fail_msg("%s", err.text);
    return b;
}

static uint64_t fnv(const uint8_t *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static size_t raster_bytes(const im_raster *r) { return (size_t)r->width * (size_t)r->height * 3; }

/* The formula of `pixels` in tools/make_image_cases.py. */
static im_raster make_picture(uint32_t seed, int width, int height)
{
    oc_err err = {0};
    im_raster r = {width, height, NULL};
    r.rgb = bs_alloc(raster_bytes(&r), "a test picture", &err);
    assert_non_null(r.rgb);
    for (uint32_t i = 0; i < raster_bytes(&r); i++) {
        uint32_t h = i * 2654435761u + seed * 40503u;
        h ^= h >> 15;
        h *= 2246822519u;
        h ^= h >> 13;
        uint32_t x = i / 3 % (uint32_t)width, y = i / 3 / (uint32_t)width, c = i % 3;
        uint32_t noise = (h >> 8) & (seed % 2 ? 255u : 31u);
        r.rgb[i] = (uint8_t)(x * 3 + y * 5 + c * 40 + noise);
    }
    return r;
}

static im_raster decode_or_fail(const void *bytes, size_t n, const char *name)
{
    oc_err err = {0};
    im_raster r;
    if (im_decode(&r, bytes, n, NULL, &err))
        fail_msg("%s: %s", name, err.text);
    return r;
}

static im_raster decode_file(const char *name)
{
    bs_buf b = data_file(name);
    im_raster r = decode_or_fail(b.p, b.n, name);
    bs_buf_clear(&b);
    return r;
}

static void assert_same(const im_raster *a, const im_raster *b, int tolerance, const char *name)
{
    if (a->width != b->width || a->height != b->height)
        fail_msg("%s: %d x %d, expected %d x %d", name, a->width, a->height, b->width, b->height);
    for (size_t i = 0; i < raster_bytes(a); i++)
        if (abs(a->rgb[i] - b->rgb[i]) > tolerance)
            fail_msg("%s: byte %zu is %d, expected %d", name, i, a->rgb[i], b->rgb[i]);
}

/* One line with both parts in it, of which the second may be NULL. */
static void assert_says(const oc_err *err, const char *part, const char *other)
{
    if (!strstr(err->text, part) || (other && !strstr(err->text, other)) || strchr(err->text, '\n'))
        fail_msg("the error is '%s', expected '%s' and '%s'", err->text, part, other ? other : "");
}

/* ---- files as Pillow decodes them --------------------------------------------------------------------- */

static void lossless_files_equal_pillow(void **state)
{
    (void)state;
    bs_buf list = data_file("pictures.txt");
    int cases = 0;
    for (char *line = strtok(list.p, "\n"); line; line = strtok(NULL, "\n"), cases++) {
        char name[64];
        int width, height;
        unsigned long long hash;
        assert_int_equal(sscanf(line, "%63s %d %d %llx", name, &width, &height, &hash), 4);
        im_raster r = decode_file(name);
        if (r.width != width || r.height != height || fnv(r.rgb, raster_bytes(&r)) != hash)
            fail_msg("%s: %d x %d, pixels %llx, expected %s", name, r.width, r.height,
                     (unsigned long long)fnv(r.rgb, raster_bytes(&r)), line);
        im_raster_clear(&r);
    }
    assert_true(cases >= 36);
    bs_buf_clear(&list);
}

/* Decoders of other makes and versions may round the inverse DCT otherwise, by a level or two. */
static void lossy_files_equal_pillow(void **state)
{
    (void)state;
    static const char *names[] = {"yuv420.jpg", "yuv422_progressive.jpg",
                                  "yuv444.jpg", "gray.jpg",
                                  "rgb.jpg",    "restarts.jpg",
                                  "cmyk.jpg",   "ycck.jpg",
                                  "exif6.jpg",  "xmp4.jpg",
                                  "lossy.webp", "lossy_alpha.webp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char expected[80];
        snprintf(expected, sizeof expected, "%s.png", names[i]);
        im_raster got = decode_file(names[i]), want = decode_file(expected);
        assert_same(&got, &want, 2, names[i]);
        im_raster_clear(&got);
        im_raster_clear(&want);
    }
}

/* Where pixel (x, y) of the upright picture lies in the stored one of width * height (EXIF 2.3, 4.6.4). */
static void stored_place(int orientation, int x, int y, int width, int height, int *sx, int *sy)
{
    bool swap = orientation >= 5;
    int a = swap ? y : x, b = swap ? x : y;
    bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    *sx = from_right ? width - 1 - a : a;
    *sy = from_bottom ? height - 1 - b : b;
}

static void check_turned(const im_raster *stored, const im_raster *r, int orientation)
{
    assert_int_equal(r->width, orientation < 5 ? stored->width : stored->height);
    assert_int_equal(r->height, orientation < 5 ? stored->height : stored->width);
    for (int y = 0; y < r->height; y++)
        for (int x = 0; x < r->width; x++) {
            int sx, sy;
            stored_place(orientation, x, y, stored->width, stored->height, &sx, &sy);
            if (memcmp(r->rgb + 3 * (y * r->width + x), stored->rgb + 3 * (sy * stored->width + sx), 3))
                fail_msg("orientation %d: pixel %d, %d is wrong", orientation, x, y);
        }
}

static size_t find_bytes(const bs_buf *b, const char *what, size_t n)
{
    for (size_t i = 0; i + n <= b->n; i++)
        if (!memcmp(b->p + i, what, n))
            return i;
    fail_msg("no such bytes");
    return 0;
}

static void all_orientations(void **state)
{
    (void)state;
    bs_buf b = data_file("exif6.jpg");
    size_t value = find_bytes(&b, "II*\0", 4) + 18;
    assert_int_equal(b.p[value], 6);
    b.p[value] = 1;
    im_raster stored = decode_or_fail(b.p, b.n, "exif6.jpg");
    for (int orientation = 0; orientation <= 9; orientation++) {
        b.p[value] = (char)orientation;
        im_raster r = decode_or_fail(b.p, b.n, "exif6.jpg");
        check_turned(&stored, &r, orientation < 1 || orientation > 8 ? 1 : orientation);
        im_raster_clear(&r);
    }
    im_raster_clear(&stored);
    bs_buf_clear(&b);
}

/* ---- broken files ------------------------------------------------------------------------------------- */

static const char *const kinds[] = {"yuv420.jpg",       "yuv422_progressive.jpg", "cmyk.jpg",     "rgb8.png",
                                    "palette4.png",     "interlaced_gray16.png",  "exif6.png",    "lossy.webp",
                                    "lossy_alpha.webp", "lossless.webp",          "animated.webp"};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* The bytes are copied to a block of their very size, so that a sanitizer sees a read beyond them. */
static int decode_copy(const char *bytes, size_t n, oc_err *err)
{
    im_raster r;
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    int result = im_decode(&r, copy, n, NULL, err);
    assert_true(result ? !r.rgb && err->text[0] : r.rgb && !err->text[0]);
    im_raster_clear(&r);
    free(copy);
    return result;
}

static void truncated_files_fail(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        bs_buf b = data_file(kinds[k]);
        for (size_t n = 0; n < b.n; n += 1 + b.n / 200) {
            oc_err err = {0};
            if (!decode_copy(b.p, n, &err))
                fail_msg("%s: the first %zu of %zu bytes are taken for a picture", kinds[k], n, b.n);
        }
        oc_err err = {0};
        assert_int_equal(decode_copy(b.p, b.n - 1, &err), -1);
        assert_says(&err, "truncated", NULL);
        bs_buf_clear(&b);
    }
}

static void damaged_files_never_crash(void **state)
{
    (void)state;
    bs_rng rng;
    bs_rng_seed(&rng, 7, 1);
    for (int k = 0; k < KINDS; k++) {
        bs_buf b = data_file(kinds[k]);
        int failed = 0;
        for (int i = 0; i < 150; i++) {
            bs_buf damaged = {0};
            oc_err err = {0};
            assert_int_equal(bs_buf_put(&damaged, b.p, b.n, &err), 0);
            for (uint32_t hits = 1 + bs_rng_below(&rng, 4); hits > 0; hits--)
                damaged.p[bs_rng_below(&rng, (uint32_t)b.n)] ^= (char)(1 << bs_rng_below(&rng, 8));
            failed += decode_copy(damaged.p, damaged.n, &err) != 0;
            bs_buf_clear(&damaged);
        }
        assert_true(failed > 0);
        bs_buf_clear(&b);
    }
}

static void assert_refused(const void *bytes, size_t n, const char *part)
{
    oc_err err = {0};
    assert_int_equal(decode_copy(bytes, n, &err), -1);
    assert_says(&err, part, NULL);
}

/* A literal that may hold zeros, and its length. */
#define LITERAL(s) s, sizeof(s) - 1

static void other_formats_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        const char *name;
    } cases[] = {
        {LITERAL("\0\0\0\x18"
                 "ftypheic\0\0\0\0"),
         "it is HEIC"},
        {LITERAL("\0\0\0\x18"
                 "ftypmif1\0\0\0\0"),
         "it is HEIF"},
        {LITERAL("\0\0\0\x1c"
                 "ftypavif\0\0\0\0"),
         "it is AVIF"},
        {LITERAL("GIF89a\1\0\1\0"), "it is GIF"},
        {LITERAL("II*\0\x08\0\0\0"), "it is TIFF"},
        {LITERAL("MM\0*\0\0\0\x08"), "it is TIFF"},
        {LITERAL("BM\x46\0\0\0\0\0"), "it is BMP"},
        {LITERAL("<svg xmlns=''/>"), "it is SVG"},
        {LITERAL("\xef\xbb\xbf <?xml version='1.0'?>\n<!-- a --> <svg/>"), "it is SVG"},
        {LITERAL("<!DOCTYPE html>\n<html><body>404"), "it is HTML"},
        {LITERAL("%PDF-1.4"), "it is PDF"},
        {LITERAL("\xff\x0a\0\0"), "it is JPEG XL"},
        {LITERAL("hello"), "not a picture that is known"},
        {LITERAL("<a><b></b></a>"), "not a picture that is known"},
        {LITERAL("\x89PNG"), "not a picture that is known"},
        {LITERAL(""), "it is empty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].bytes, cases[i].n, cases[i].name);
    assert_refused(LITERAL("\xff\xd8\xff\xd9"), "libjpeg says");
    assert_refused(LITERAL("\xff\xd8\xff"), "truncated");
    assert_refused(LITERAL("\x89PNG\r\n\x1a\n"), "truncated");
    assert_refused(LITERAL("RIFF\4\0\0\0WEBP"), "damaged");
    assert_refused(LITERAL("riff\4\0\0\0WEBPxxxxxxxxxxxxxxxxxxxx"), "damaged");
}

/* A header may promise anything: it is refused before memory is taken. */
static void bombs_are_refused(void **state)
{
    (void)state;
    bs_buf jpeg = data_file("yuv444.jpg");
    size_t sof = find_bytes(&jpeg, "\xff\xc0\0\x11\x08", 5) + 5;
    memcpy(jpeg.p + sof, "\xfe\xff\xfe\xff", 4);
    assert_refused(jpeg.p, jpeg.n, "65279 x 65279 pixels, more than the limit of 178956970");
    bs_buf_clear(&jpeg);

    /* libpng looks at the checksum first, so it has to fit. */
    static const char png[] = "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0\x39\x67\x4e\x07"
                              "\0\0\0\0IDAT\x35\xaf\x06\x1e";
    assert_refused(png, sizeof png - 1, "65535 x 65535 pixels, more than the limit of 178956970");

    bs_buf webp = data_file("animated.webp");
    size_t canvas = find_bytes(&webp, "VP8X", 4) + 12;
    memcpy(webp.p + canvas, "\xfe\x3f\0\xfe\x3f\0", 6);
    assert_refused(webp.p, webp.n, "16383 x 16383 pixels, more than the limit of 178956970");
    bs_buf_clear(&webp);
}

static void max_pixels_is_obeyed(void **state)
{
    (void)state;
    static const char *names[] = {"rgb8.png", "yuv420.jpg", "lossless.webp"};
    static const uint64_t pixels[] = {12 * 7, 37 * 29, 21 * 15};
    for (int i = 0; i < 3; i++) {
        oc_options options = {.max_pixels = pixels[i]};
        oc_picture picture;
        assert_int_equal(oc_picture_read(&picture, data_path(names[i]), &options), 0);
        oc_picture_clear(&picture);
        options.max_pixels--;
        assert_int_equal(oc_picture_read(&picture, data_path(names[i]), &options), -1);
        assert_null(picture.rgb);
        assert_says(&picture.err, "more than the limit of", names[i]);
        oc_picture_clear(&picture);
    }
}

static void picture_errors_name_the_file(void **state)
{
    (void)state;
    oc_picture picture;
    assert_int_equal(oc_picture_read(&picture, "/nowhere/a.jpg", NULL), -1);
    assert_says(&picture.err, "'/nowhere/a.jpg'", "No such file");
    assert_int_equal(oc_picture_read(&picture, "/", NULL), -1);
    assert_says(&picture.err, "'/'", NULL);
    assert_int_equal(oc_picture_decode(&picture, "GIF89a", 6, "x.jpg", NULL), -1);
    assert_string_equal(picture.err.text, "cannot decode 'x.jpg': it is GIF, which is not supported: expected JPEG, PNG or WebP");
    assert_null(picture.rgb);
    oc_picture_clear(&picture);
    assert_int_equal(picture.err.text[0], 0);
}

/* ---- resizing ----------------------------------------------------------------------------------------- */

static void resizes_equal_pillow(void **state)
{
    (void)state;
    bs_buf list = data_file("resize.txt");
    int cases = 0;
    for (char *line = strtok(list.p, "\n"); line; line = strtok(NULL, "\n"), cases++) {
        unsigned seed;
        int width, height, filter;
        im_raster out = {0};
        unsigned long long hash;
        oc_err err = {0};
        assert_int_equal(sscanf(line, "%u %d %d %d %d %d %llx", &seed, &width, &height, &out.width, &out.height, &filter, &hash),
                         7);
        im_raster in = make_picture(seed, width, height);
        out.rgb = bs_alloc(raster_bytes(&out), "a resized picture", &err);
        assert_non_null(out.rgb);
        assert_int_equal(im_resize(out.rgb, &in, out.width, out.height, (im_filter)filter, &err), 0);
        if (fnv(out.rgb, raster_bytes(&out)) != hash)
            fail_msg("not Pillow's pixels: %s", line);
        im_raster_clear(&in);
        im_raster_clear(&out);
    }
    assert_true(cases >= 130);
    bs_buf_clear(&list);
}

static int random_side(bs_rng *rng, int max) { return 1 + (int)bs_rng_below(rng, (uint32_t)max); }

static void check_window(const im_raster *in, const im_raster *whole, im_window w, im_filter filter)
{
    oc_err err = {0};
    size_t row = (size_t)w.width * 3;
    uint8_t *part = malloc(row * (size_t)w.height);
    assert_non_null(part);
    assert_int_equal(im_resize_window(part, w, in, whole->width, whole->height, filter, &err), 0);
    for (int y = 0; y < w.height; y++)
        assert_memory_equal(part + (size_t)y * row, whole->rgb + 3 * ((w.y + y) * whole->width + w.x), row);
    free(part);
}

static void windows_are_parts_of_the_whole(void **state)
{
    (void)state;
    bs_rng rng;
    oc_err err = {0};
    bs_rng_seed(&rng, 11, 1);
    for (unsigned i = 0; i < 300; i++) {
        im_raster in = make_picture(i, random_side(&rng, 60), random_side(&rng, 150));
        im_raster whole = {random_side(&rng, 60), random_side(&rng, 60), NULL};
        whole.rgb = bs_alloc(raster_bytes(&whole), "a resized picture", &err);
        assert_non_null(whole.rgb);
        im_filter filter = (im_filter)(i % 6);
        assert_int_equal(im_resize(whole.rgb, &in, whole.width, whole.height, filter, &err), 0);
        im_window w = {.width = random_side(&rng, whole.width), .height = random_side(&rng, whole.height)};
        w.x = random_side(&rng, whole.width - w.width + 1) - 1;
        w.y = random_side(&rng, whole.height - w.height + 1) - 1;
        check_window(&in, &whole, w, filter);
        im_raster_clear(&in);
        im_raster_clear(&whole);
    }
}

static void wrong_resizes_are_refused(void **state)
{
    (void)state;
    uint8_t out[12];
    im_raster in = make_picture(1, 4, 4), empty = {0};
    static const struct {
        im_window window;
        int width, height, filter;
    } cases[] = {
        {{0, 0, 1, 1}, 0, 4, IM_BICUBIC},   {{0, 0, 1, 1}, 4, -1, IM_BICUBIC}, {{0, 0, 1, 1}, 4, 4, 6},
        {{0, 0, 1, 1}, 4, 4, -1},           {{-1, 0, 1, 1}, 4, 4, IM_BOX},     {{0, 4, 1, 1}, 4, 4, IM_BOX},
        {{3, 0, 2, 1}, 4, 4, IM_BOX},       {{0, 0, 0, 1}, 4, 4, IM_BOX},      {{1, 0, 0x7fffffff, 1}, 4, 4, IM_BOX},
        {{0, 0, 1, 1}, 1 << 30, 4, IM_BOX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        oc_err err = {0};
        assert_int_equal(
            im_resize_window(out, cases[i].window, &in, cases[i].width, cases[i].height, (im_filter)cases[i].filter, &err), -1);
        assert_says(&err, "cannot resize", NULL);
    }
    oc_err err = {0};
    assert_int_equal(im_resize(out, &empty, 2, 2, IM_BICUBIC, &err), -1);
    im_raster_clear(&in);
}

/* ---- preprocessing ------------------------------------------------------------------------------------ */

static char folder[256];

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ocelli-image-XXXXXX", base ? base : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static void write_config(const char *file, const char *text)
{
    oc_err err = {0};
    char *path = bs_join(folder, file);
    assert_int_equal(bs_write_file(path, text, strlen(text), &err), 0);
    free(path);
}

static void drop_config(const char *file)
{
    char *path = bs_join(folder, file);
    unlink(path);
    free(path);
}

static int drop_folder(void **state)
{
    (void)state;
    static const char *files[] = {"preprocessor_config.json", "processor_config.json", "open_clip_config.json", "config.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        drop_config(files[i]);
    return rmdir(folder);
}

static im_processor read_processor(void)
{
    oc_err err = {0};
    im_processor p;
    if (im_processor_read(&p, folder, &err))
        fail_msg("%s", err.text);
    return p;
}

/* Without scale and mean the floats are the resized and cropped bytes themselves. */
static void check_preprocess_case(const char *line)
{
    unsigned seed;
    int width, height, out_width, out_height, got_width, got_height, config;
    unsigned long long hash;
    oc_err err = {0};
    assert_int_equal(sscanf(line, "%u %d %d %d %d %llx %n", &seed, &width, &height, &out_width, &out_height, &hash, &config), 6);
    write_config("preprocessor_config.json", line + config);
    im_processor p = read_processor();
    im_raster raster = make_picture(seed, width, height);
    oc_picture picture = {.width = width, .height = height, .rgb = raster.rgb};
    assert_int_equal(im_processor_output_size(&p, &picture, &got_height, &got_width, &err), 0);
    if (got_width != out_width || got_height != out_height)
        fail_msg("%d x %d from %s", got_width, got_height, line);
    size_t n = (size_t)out_width * (size_t)out_height * 3;
    float *floats = malloc(n * sizeof *floats);
    uint8_t *bytes = malloc(n);
    assert_true(floats && bytes);
    assert_int_equal(im_processor_run(&p, &picture, floats, &err), 0);
    for (size_t i = 0; i < n; i++) {
        assert_true(floats[i] >= 0 && floats[i] <= 255);
        bytes[i] = (uint8_t)floats[i];
    }
    if (fnv(bytes, n) != hash)
        fail_msg("wrong pixels: %s", line);
    free(floats);
    free(bytes);
    im_raster_clear(&raster);
}

static void preprocessing_equals_hugging_face(void **state)
{
    (void)state;
    bs_buf list = data_file("preprocess.txt");
    int cases = 0;
    for (char *line = strtok(list.p, "\n"); line; line = strtok(NULL, "\n"), cases++)
        check_preprocess_case(line);
    assert_true(cases >= 40);
    bs_buf_clear(&list);
}

static void numbers_are_scaled_and_normalised(void **state)
{
    (void)state;
    static const double mean[3] = {0.48145466, 0.4578275, 0.40821073}, std[3] = {0.26862954, 0.26130258, 0.27577711};
    oc_err err = {0};
    im_processor p;
    assert_int_equal(im_processor_default(&p, "clip", &err), 0);
    p.do_resize = false;
    p.crop_height = 3;
    p.crop_width = 258; /* a column of padding on each side */
    im_raster raster = make_picture(2, 256, 3);
    for (int i = 0; i < 256 * 3 * 3; i++)
        raster.rgb[i] = (uint8_t)(i / 3);
    oc_picture picture = {.width = 256, .height = 3, .rgb = raster.rgb};
    float *out = malloc(sizeof(float) * 3 * 3 * 258);
    assert_non_null(out);
    assert_int_equal(im_processor_run(&p, &picture, out, &err), 0);
    for (int i = 0; i < 3 * 3 * 258; i++) {
        int c = i / (3 * 258), x = i % 258 - 1, v = x < 0 || x > 255 ? 0 : x;
        double want = (v / 255.0 - mean[c]) / std[c];
        if (!(fabs(out[i] - want) < 1e-6))
            fail_msg("channel %d, column %d: %g, expected %g", c, x, out[i], want);
    }
    free(out);
    im_raster_clear(&raster);
}

static void processors_are_found(void **state)
{
    (void)state;
    oc_err err = {0};
    im_processor p;
    drop_config("preprocessor_config.json");
    assert_int_equal(im_processor_read(&p, folder, &err), -1);
    assert_says(&err, "expected preprocessor_config.json", folder);

    write_config("config.json", "{\"model_type\":\"clip\",\"vision_config\":{\"image_size\":96}}");
    p = read_processor();
    assert_true(p.rule == IM_SIZE_SHORTEST && p.shortest == 96 && p.crop_height == 96 && p.do_center_crop);
    write_config("config.json", "{\"model_type\":\"siglip\",\"vision_config\":{\"image_size\":48}}");
    p = read_processor();
    assert_true(p.rule == IM_SIZE_EXACT && p.height == 48 && p.width == 48 && !p.do_center_crop);
    assert_true(p.mean[0] == 0.5 && p.std[2] == 0.5);

    write_config("open_clip_config.json",
                 "{\"model_cfg\":{\"vision_cfg\":{\"image_size\":40}},\"preprocess_cfg\":{\"mean\":[0.5,0.25,0.125],"
                 "\"std\":[1,2,3],\"interpolation\":\"bilinear\",\"resize_mode\":\"shortest\"}}");
    p = read_processor();
    assert_true(p.shortest == 40 && p.crop_width == 40 && p.crop_rounds && p.resample == IM_BILINEAR);
    assert_true(p.mean[1] == 0.25 && p.std[2] == 3);

    write_config("processor_config.json", "{\"image_seq_length\":5}"); /* says nothing about pictures */
    assert_int_equal(read_processor().shortest, 40);
    write_config("processor_config.json", "{\"image_processor\":{\"image_processor_type\":"
                                          "\"CLIPImageProcessor\",\"size\":{\"shortest_edge\":7},"
                                          "\"crop_size\":null,\"do_center_crop\":false,\"image_mean\":0.5}}");
    p = read_processor();
    assert_true(p.shortest == 7 && !p.do_center_crop && p.mean[2] == 0.5);
    int height, width;
    assert_false(im_processor_fixed_size(&p, &height, &width));
}

/* round((H - h) / 2) as Python rounds, where Hugging Face floors: they differ at (H - h) % 4 == 3. */
static void crops_round_as_torchvision(void **state)
{
    (void)state;
    oc_err err = {0};
    im_processor p;
    assert_int_equal(im_processor_default(&p, "clip", &err), 0);
    p.do_resize = p.do_rescale = p.do_normalize = false;
    p.crop_width = p.crop_height = 1;
    static const int floors[] = {0, 0, 1, 1, 2, 2, 3, 3, 4}, rounds[] = {0, 0, 1, 2, 2, 2, 3, 4, 4};
    for (int over = 0; over < 9; over++) {
        im_raster raster = make_picture(0, over + 1, 1);
        for (int i = 0; i < (over + 1) * 3; i++)
            raster.rgb[i] = (uint8_t)(i / 3);
        oc_picture picture = {.width = over + 1, .height = 1, .rgb = raster.rgb};
        float out[3];
        for (int r = 0; r < 2; r++) {
            p.crop_rounds = r;
            assert_int_equal(im_processor_run(&p, &picture, out, &err), 0);
            assert_int_equal((int)out[0], r ? rounds[over] : floors[over]);
        }
        im_raster_clear(&raster);
    }
}

/* A crop larger than the picture: one pixel in a row of four. */
static void crops_pad(void **state)
{
    (void)state;
    oc_err err = {0};
    im_processor p;
    uint8_t rgb[3] = {200, 201, 202};
    oc_picture picture = {.width = 1, .height = 1, .rgb = rgb};
    assert_int_equal(im_processor_default(&p, "clip", &err), 0);
    p.do_resize = p.do_rescale = p.do_normalize = false;
    p.crop_width = 4;
    p.crop_height = 1;
    for (int r = 0; r < 2; r++) {
        float out[12];
        p.crop_rounds = r;
        assert_int_equal(im_processor_run(&p, &picture, out, &err), 0);
        for (int i = 0; i < 12; i++)
            assert_int_equal((int)out[i], i % 4 == (r ? 1 : 2) ? 200 + i / 4 : 0);
    }
}

static void wrong_configs_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *field;
    } cases[] = {
        {"", "line"},
        {"[1]", "expected a JSON object"},
        {"{\"size\":", "line"},
        {"{\"image_processor_type\":\"FooImageProcessor\"}", "'Foo' is not supported"},
        {"{\"image_processor_type\":3}", "image_processor_type"},
        {"{\"size\":0}", "size"},
        {"{\"size\":-5}", "size"},
        {"{\"size\":8193}", "size"},
        {"{\"size\":1e3}", "size"},
        {"{\"size\":\"big\"}", "size"},
        {"{\"size\":{}}", "size"},
        {"{\"size\":{\"height\":3}}", "size"},
        {"{\"size\":{\"shortest_edge\":99999999999}}", "shortest_edge"},
        {"{\"size\":[1,2,3]}", "size"},
        {"{\"crop_size\":{\"height\":0,\"width\":3}}", "crop_size"},
        {"{\"crop_size\":{\"height\":3}}", "crop_size"},
        {"{\"do_resize\":\"yes\"}", "do_resize"},
        {"{\"do_pad\":true}", "do_pad"},
        {"{\"resample\":9}", "resample"},
        {"{\"resample\":\"bicubic\"}", "resample"},
        {"{\"rescale_factor\":0}", "rescale_factor"},
        {"{\"rescale_factor\":-1}", "rescale_factor"},
        {"{\"rescale_factor\":\"1/255\"}", "rescale_factor"},
        {"{\"image_mean\":[1,2]}", "image_mean"},
        {"{\"image_mean\":[1,2,\"3\"]}", "image_mean"},
        {"{\"image_mean\":[1e30,0,0]}", "image_mean"},
        {"{\"image_std\":[1,0,1]}", "image_std"},
        {"{\"image_std\":[1,1,-1]}", "image_std"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        oc_err err = {0};
        im_processor p;
        write_config("preprocessor_config.json", cases[i].text);
        if (!im_processor_read(&p, folder, &err))
            fail_msg("accepted: %s", cases[i].text);
        assert_says(&err, "preprocessor_config.json", cases[i].field);
    }
    drop_config("preprocessor_config.json");
}

/* The shape of a picture must not make memory: a thin line cropped to a square is computed only where it is
 * used; without a crop it is refused. */
static void thin_pictures(void **state)
{
    (void)state;
    oc_err err = {0};
    im_processor p;
    int height, width;
    assert_int_equal(im_processor_default(&p, "clip", &err), 0);
    im_raster raster = make_picture(5, 100000, 1);
    oc_picture picture = {.width = 100000, .height = 1, .rgb = raster.rgb};
    float *out = malloc(sizeof(float) * 3 * 224 * 224);
    assert_non_null(out);
    assert_int_equal(im_processor_run(&p, &picture, out, &err), 0);
    assert_true(isfinite(out[0]));
    p.do_center_crop = false;
    assert_int_equal(im_processor_output_size(&p, &picture, &height, &width, &err), -1);
    assert_says(&err, "100000 x 1 pixels would be resized to 22400000 x 224", NULL);
    free(out);
    im_raster_clear(&raster);
    oc_picture empty = {0};
    memset(&err, 0, sizeof err);
    assert_int_equal(im_processor_run(&p, &empty, NULL, &err), -1);
    assert_says(&err, "holds no pixels", NULL);
}

/* ---- from a file's bytes to numbers in one go --------------------------------------------------------- */

/* A JPEG of a soft picture with noise on it, as the settings say; free() it. */
typedef struct jpeg_kind {
    const char *name;
    int components, across, down; /* sampling of the first component; the others have 1 x 1 */
    bool progressive;
    int restart; /* rows of blocks */
} jpeg_kind;

static const jpeg_kind jpeg_kinds[] = {
    {"4:2:0", 3, 2, 2, false, 0},      {"4:2:2", 3, 2, 1, false, 0}, {"4:4:4", 3, 1, 1, false, 0},
    {"4:4:0", 3, 1, 2, false, 0},      {"grey", 1, 1, 1, false, 0},  {"4:1:1", 3, 4, 1, false, 0},
    {"CMYK", 4, 1, 1, false, 0},       {"YCCK", 4, 2, 2, false, 3},  {"restarts", 3, 2, 2, false, 1},
    {"progressive", 3, 2, 2, true, 0},
};
enum { JPEG_KINDS = sizeof jpeg_kinds / sizeof *jpeg_kinds };

static bs_buf make_jpeg(const jpeg_kind *kind, int width, int height, int orientation)
{
    static const uint8_t exif[] = "Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\0\0\0\0\0\0\0\0";
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    uint8_t app1[sizeof exif - 1], *bytes = NULL;
    unsigned long n = 0;
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &bytes, &n);
    c.image_width = (unsigned)width;
    c.image_height = (unsigned)height;
    c.input_components = kind->components;
    c.in_color_space = kind->components == 1 ? JCS_GRAYSCALE : kind->components == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&c);
    if (kind->components == 4 && kind->across == 2)
        jpeg_set_colorspace(&c, JCS_YCCK);
    jpeg_set_quality(&c, 85, TRUE);
    c.comp_info[0].h_samp_factor = kind->across;
    c.comp_info[0].v_samp_factor = kind->down;
    if (kind->progressive)
        jpeg_simple_progression(&c);
    c.restart_in_rows = kind->restart;
    jpeg_start_compress(&c, TRUE);
    memcpy(app1, exif, sizeof app1);
    app1[24] = (uint8_t)orientation;
    jpeg_write_marker(&c, JPEG_APP0 + 1, app1, sizeof app1);
    size_t row = (size_t)width * (size_t)kind->components;
    uint8_t *line = malloc(row);
    assert_non_null(line);
    for (int y = 0; y < height; y++) {
        for (int i = 0; i < (int)row; i++) {
            uint32_t noise = ((uint32_t)(y * (int)row + i) * 2654435761u) >> 27;
            line[i] = (uint8_t)(128 + 90 * sin(i / 31.0 + y / 17.0) + noise);
        }
        jpeg_write_scanlines(&c, &line, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    free(line);
    bs_buf b = {0};
    assert_int_equal(bs_buf_put(&b, bytes, n, NULL), 0);
    free(bytes);
    return b;
}

static im_processor square_processor(int side, int crop)
{
    im_processor p;
    oc_err err = {0};
    assert_int_equal(im_processor_default(&p, "clip", &err), 0);
    p.shortest = side;
    p.crop_width = p.crop_height = crop;
    return p;
}

static float *load_or_fail(const im_processor *p, const bs_buf *file, bool fast, bs_pool *pool, const char *name)
{
    oc_err err = {0};
    im_load options = {{0}, fast, pool};
    size_t n = 3 * (size_t)p->crop_width * (size_t)p->crop_height;
    float *out = malloc(n * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++)
        out[i] = NAN;
    if (im_processor_load(p, file->p, file->n, &options, out, &err))
        fail_msg("%s: %s", name, err.text);
    return out;
}

/* Decoded as a whole, then prepared: what loading must equal. */
static float *decode_and_run(const im_processor *p, const bs_buf *file, const char *name)
{
    oc_err err = {0};
    im_raster r = decode_or_fail(file->p, file->n, name);
    oc_picture picture = {.width = r.width, .height = r.height, .rgb = r.rgb};
    float *out = malloc(3 * (size_t)p->crop_width * (size_t)p->crop_height * sizeof *out);
    assert_non_null(out);
    assert_int_equal(im_processor_run(p, &picture, out, &err), 0);
    im_raster_clear(&r);
    return out;
}

static void check_load(const im_processor *p, const bs_buf *file, bs_pool *const *pools, int count, const char *name)
{
    float *want = decode_and_run(p, file, name);
    size_t n = 3 * (size_t)p->crop_width * (size_t)p->crop_height;
    for (int k = 0; k < count; k++) {
        float *got = load_or_fail(p, file, false, pools[k], name);
        for (size_t i = 0; i < n; i++)
            if (memcmp(&got[i], &want[i], sizeof *got))
                fail_msg("%s on %d threads: number %zu is %g, expected %g", name, bs_pool_threads(pools[k]), i, (double)got[i],
                         (double)want[i]);
        free(got);
    }
    free(want);
}

static void loading_equals_decoding_of_small_files(void **state)
{
    (void)state;
    bs_pool *alone = NULL;
    bs_buf list = data_file("pictures.txt");
    im_processor p = square_processor(9, 7);
    for (char *line = strtok(list.p, "\n"); line; line = strtok(NULL, "\n")) {
        line[strcspn(line, " ")] = 0;
        bs_buf file = data_file(line);
        check_load(&p, &file, &alone, 1, line);
        bs_buf_clear(&file);
    }
    bs_buf_clear(&list);
}

/* Every kind and orientation in shapes that are cropped on all sides, in parts that begin anywhere. */
static void loading_equals_decoding_of_jpegs(void **state)
{
    (void)state;
    static const int sizes[][2] = {{701, 467}, {467, 701}, {640, 480}, {333, 900}, {1500, 301}, {17, 1100}, {8, 8}, {1, 1}};
    bs_pool *pools[] = {NULL, bs_pool_open(2, NULL), bs_pool_open(3, NULL), bs_pool_open(7, NULL)};
    im_processor p = square_processor(56, 56), wide = square_processor(90, 40);
    for (int k = 0; k < JPEG_KINDS; k++)
        for (int i = 0; i < 8; i++) {
            char name[64];
            int orientation = (k + 3 * i) % 8 + 1;
            snprintf(name, sizeof name, "%s, %d x %d, orientation %d", jpeg_kinds[k].name, sizes[i][0], sizes[i][1], orientation);
            bs_buf file = make_jpeg(&jpeg_kinds[k], sizes[i][0], sizes[i][1], orientation);
            check_load(i % 2 ? &wide : &p, &file, pools, 4, name);
            bs_buf_clear(&file);
        }
    for (int i = 1; i < 4; i++)
        bs_pool_close(pools[i]);
}

/* The other way of asking, too: both sides given, whatever the shape, and every filter. */
static void loading_keeps_every_filter(void **state)
{
    (void)state;
    bs_pool *pool = bs_pool_open(2, NULL);
    for (int orientation = 1; orientation <= 8; orientation++) {
        bs_buf file = make_jpeg(&jpeg_kinds[0], 500, 333, orientation);
        for (int filter = 0; filter <= IM_HAMMING; filter++) {
            im_processor p = square_processor(0, 31);
            p.rule = IM_SIZE_EXACT;
            p.width = 45;
            p.height = 600;
            p.resample = (im_filter)filter;
            check_load(&p, &file, &pool, 1, "a stretched picture");
        }
        bs_buf_clear(&file);
    }
    bs_pool_close(pool);
}

static double mean_difference(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)a[i] - (double)b[i]);
    return sum / (double)n;
}

/* Levels of 0..255; turned pictures must not be a pixel off, which soft pictures would show, too. */
static void fast_loading_is_close(void **state)
{
    (void)state;
    bs_pool *pools[] = {NULL, bs_pool_open(3, NULL)};
    im_processor p = square_processor(56, 50);
    size_t n = 3 * 50 * 50;
    p.do_rescale = p.do_normalize = false;
    for (int orientation = 1; orientation <= 8; orientation++)
        for (int k = 0; k < JPEG_KINDS; k++) {
            bs_buf file = make_jpeg(&jpeg_kinds[k], 1003, 805, orientation);
            float *exact = load_or_fail(&p, &file, false, NULL, "exactly");
            float *fast = load_or_fail(&p, &file, true, pools[0], "fast"),
                  *shared = load_or_fail(&p, &file, true, pools[1], "fast");
            assert_memory_equal(fast, shared, n * sizeof *fast);
            double off = mean_difference(exact, fast, n);
            if (off > 3.5 || off == 0)
                fail_msg("%s, orientation %d: off by %.2f levels", jpeg_kinds[k].name, orientation, off);
            free(exact);
            free(fast);
            free(shared);
            bs_buf_clear(&file);
        }
    bs_pool_close(pools[1]);
}

/* What the scale would take away below the size that is wanted, it leaves: small pictures are exact. */
static void fast_loading_never_enlarges(void **state)
{
    (void)state;
    im_processor p = square_processor(224, 224);
    bs_buf file = make_jpeg(&jpeg_kinds[0], 447, 600, 1);
    float *exact = load_or_fail(&p, &file, false, NULL, "exactly"), *fast = load_or_fail(&p, &file, true, NULL, "fast");
    assert_memory_equal(exact, fast, sizeof *fast * 3 * 224 * 224);
    free(exact);
    free(fast);
    bs_buf_clear(&file);
}

/* Also where nothing of what is cut off would be needed. */
static void truncated_files_do_not_load(void **state)
{
    (void)state;
    bs_pool *pools[] = {NULL, bs_pool_open(2, NULL)};
    im_processor p = square_processor(20, 20);
    float out[3 * 20 * 20];
    for (int k = 0; k < JPEG_KINDS; k++) {
        bs_buf file = make_jpeg(&jpeg_kinds[k], 300, 1400, 1);
        for (size_t cut = 1; cut <= file.n; cut += 1 + cut / 3 + file.n / 50)
            for (int i = 0; i < 2; i++) {
                oc_err err = {0};
                im_load options = {{0}, false, pools[i]};
                if (!im_processor_load(&p, file.p, file.n - cut, &options, out, &err))
                    fail_msg("%s: %zu bytes less of %zu are taken for a picture", jpeg_kinds[k].name, cut, file.n);
                assert_true(err.text[0] && (cut > 1 || strstr(err.text, "truncated")));
            }
        bs_buf_clear(&file);
    }
    bs_pool_close(pools[1]);
}

static void damaged_files_load_or_fail(void **state)
{
    (void)state;
    bs_pool *pool = bs_pool_open(2, NULL);
    im_processor p = square_processor(20, 20);
    float out[3 * 20 * 20];
    bs_rng rng;
    bs_rng_seed(&rng, 8, 1);
    for (int k = 0; k < JPEG_KINDS; k++) {
        bs_buf file = make_jpeg(&jpeg_kinds[k], 420, 420, 6);
        for (int i = 0; i < 40; i++) {
            size_t at = bs_rng_below(&rng, (uint32_t)file.n);
            char was = file.p[at];
            oc_err err = {0};
            im_load options = {{0}, i % 3 == 0, i % 2 ? pool : NULL};
            file.p[at] = (char)bs_rng_below(&rng, 256);
            int result = im_processor_load(&p, file.p, file.n, &options, out, &err);
            assert_true(result ? err.text[0] : !err.text[0]);
            file.p[at] = was;
        }
        bs_buf_clear(&file);
    }
    bs_pool_close(pool);
}

static void many_files_at_once(void **state)
{
    (void)state;
    enum { FILES = 5 };
    static const char *const names[FILES] = {"yuv420.jpg", "rgb8.png", "nowhere.jpg", "pictures.txt", "lossy.webp"};
    char paths[FILES][1024];
    const char *list[FILES];
    for (int i = 0; i < FILES; i++) {
        snprintf(paths[i], sizeof paths[i], "%s", data_path(names[i]));
        list[i] = paths[i];
    }
    im_processor p = square_processor(8, 8);
    float out[FILES * 192];
    for (int threads = 1; threads <= 4; threads++) {
        oc_err errors[FILES];
        bool unread[FILES];
        im_load options = {.pool = bs_pool_open(threads, NULL)};
        im_processor_load_files(&p, list, FILES, &options, out, errors, unread);
        bs_pool_close(options.pool);
        for (int i = 0; i < FILES; i++)
            assert_true((errors[i].text[0] != 0) == (i == 2 || i == 3) && unread[i] == (i == 2));
        assert_says(&errors[3], "cannot decode", "pictures.txt");
        for (int i = 0; i < FILES; i++) {
            bs_buf file = {0};
            if (errors[i].text[0] || bs_read_file(&file, list[i], 0, NULL))
                continue;
            float *want = decode_and_run(&p, &file, names[i]);
            assert_memory_equal(out + 192 * i, want, 192 * sizeof *want);
            free(want);
            bs_buf_clear(&file);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lossless_files_equal_pillow),
        cmocka_unit_test(lossy_files_equal_pillow),
        cmocka_unit_test(all_orientations),
        cmocka_unit_test(truncated_files_fail),
        cmocka_unit_test(damaged_files_never_crash),
        cmocka_unit_test(other_formats_are_named),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(max_pixels_is_obeyed),
        cmocka_unit_test(picture_errors_name_the_file),
        cmocka_unit_test(resizes_equal_pillow),
        cmocka_unit_test(windows_are_parts_of_the_whole),
        cmocka_unit_test(wrong_resizes_are_refused),
        cmocka_unit_test_setup_teardown(preprocessing_equals_hugging_face, make_folder, drop_folder),
        cmocka_unit_test(numbers_are_scaled_and_normalised),
        cmocka_unit_test_setup_teardown(processors_are_found, make_folder, drop_folder),
        cmocka_unit_test(crops_round_as_torchvision),
        cmocka_unit_test(crops_pad),
        cmocka_unit_test_setup_teardown(wrong_configs_are_refused, make_folder, drop_folder),
        cmocka_unit_test(thin_pictures),
        cmocka_unit_test(loading_equals_decoding_of_small_files),
        cmocka_unit_test(loading_equals_decoding_of_jpegs),
        cmocka_unit_test(loading_keeps_every_filter),
        cmocka_unit_test(fast_loading_is_close),
        cmocka_unit_test(fast_loading_never_enlarges),
        cmocka_unit_test(truncated_files_do_not_load),
        cmocka_unit_test(damaged_files_load_or_fail),
        cmocka_unit_test(many_files_at_once),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
