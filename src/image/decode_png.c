/* decode_png.c - PNG by libpng, every kind brought to 8-bit RGB as Pillow and transformers do. */
#include <setjmp.h>
#include <string.h>

#include <png.h>

#include "codec.h"

typedef struct png_job {
    png_structp png;
    png_infop info;
    const uint8_t *bytes;
    size_t n, at;
    const im_decode_options *options;
    im_raster *out;
    oc_err *err;
} png_job;

static void on_error(png_structp png, png_const_charp text)
{
    png_job *job = png_get_error_ptr(png);
    bs_err(job->err, "libpng says: %s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) { (void)png, (void)text; }

static void on_read(png_structp png, png_bytep to, size_t n)
{
    png_job *job = png_get_io_ptr(png);
    if (n > job->n - job->at) {
        bs_err(job->err, "the file is truncated");
        png_longjmp(png, 1);
    }
    memcpy(to, job->bytes + job->at, n);
    job->at += n;
}

static bool is_gray16(const png_job *job)
{
    return png_get_color_type(job->png, job->info) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(job->png, job->info) == 16;
}

/* Asks libpng for RGB of 8 bits. 16-bit samples keep their high byte, but for plain grey: gray16_to_rgb. */
static void ask_for_rgb(png_job *job)
{
    if (is_gray16(job))
        return;
    png_set_strip_16(job->png);
    if (png_get_color_type(job->png, job->info) == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(job->png);
    else if (png_get_bit_depth(job->png, job->info) < 8)
        png_set_expand_gray_1_2_4_to_8(job->png);
    png_set_strip_alpha(job->png); /* also what a palette's tRNS became */
    png_set_gray_to_rgb(job->png);
}

/* Pillow's convert of mode "I;16" saturates: 300 becomes 255, not 1. The samples are 2 bytes, high first, at
 * the start of a row with room for 3 bytes a pixel; going from the right never overwrites what is unread. */
static void gray16_to_rgb(uint8_t *row, int width)
{
    for (int x = width - 1; x >= 0; x--) {
        uint8_t v = row[2 * x] ? 255 : row[2 * x + 1];
        memset(row + 3 * x, v, 3);
    }
}

/* ---- the transparent colour --------------------------------------------------------------------------- */

typedef struct png_key {
    bool found;
    uint8_t rgb[3];
} png_key;

/* The one palette entry that tRNS makes transparent, if the others are opaque; else -1. */
static int lone_transparent(const png_byte *alpha, int n)
{
    int found = -1;
    for (int i = 0; i < n; i++) {
        if (alpha[i] == 255)
            continue;
        if (alpha[i] != 0 || found >= 0)
            return -1;
        found = i;
    }
    return found;
}

/* Palettes may be shorter than an index; what is missing is black. */
static png_key palette_key(png_job *job, const png_byte *alpha, int n)
{
    png_key key = {0};
    png_colorp palette = NULL;
    int entries = 0, lone = lone_transparent(alpha, n);
    png_get_PLTE(job->png, job->info, &palette, &entries);
    key.found = lone >= 0;
    if (lone >= 0 && lone < entries) {
        key.rgb[0] = palette[lone].red;
        key.rgb[1] = palette[lone].green;
        key.rgb[2] = palette[lone].blue;
    }
    return key;
}

/* Pillow carries a single transparent colour of a PNG through convert("RGB"), and transformers then puts it
 * on white; alpha channels and palettes with several alphas are just dropped. The odd cases (grey of 1 and 16
 * bits as a red, 16-bit colours by their low bytes) are theirs. */
static png_key transparent_colour(png_job *job)
{
    png_key key = {0};
    png_bytep alpha = NULL;
    png_color_16p colour = NULL;
    int n = 0, depth = png_get_bit_depth(job->png, job->info);
    if (!png_get_tRNS(job->png, job->info, &alpha, &n, &colour))
        return key;
    switch (png_get_color_type(job->png, job->info)) {
    case PNG_COLOR_TYPE_PALETTE: return palette_key(job, alpha, n);
    case PNG_COLOR_TYPE_RGB: return (png_key){true, {(uint8_t)colour->red, (uint8_t)colour->green, (uint8_t)colour->blue}};
    case PNG_COLOR_TYPE_GRAY:
        if (depth == 16)
            return (png_key){true, {(uint8_t)colour->gray, 0, 0}};
        if (depth == 1)
            return (png_key){true, {colour->gray ? 255 : 0, 0, 0}};
        key.found = true;
        memset(key.rgb, colour->gray > 255 ? 255 : colour->gray, 3);
        return key;
    default: return key;
    }
}

static void put_on_white(im_raster *r, const png_key *key)
{
    size_t n = (size_t)r->width * (size_t)r->height;
    for (uint8_t *p = r->rgb; key->found && n > 0; n--, p += 3)
        if (p[0] == key->rgb[0] && p[1] == key->rgb[1] && p[2] == key->rgb[2])
            memset(p, 255, 3);
}

/* ---- decoding ----------------------------------------------------------------------------------------- */

static int check_layout(png_job *job)
{
    size_t want = (size_t)png_get_image_width(job->png, job->info) * (is_gray16(job) ? 2 : 3);
    if (png_get_rowbytes(job->png, job->info) != want)
        return bs_err(job->err, "its rows become %zu bytes, expected %zu", (size_t)png_get_rowbytes(job->png, job->info), want);
    return 0;
}

static void read_rows(png_job *job, int passes)
{
    size_t row = (size_t)job->out->width * 3;
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < job->out->height; y++)
            png_read_row(job->png, job->out->rgb + (size_t)y * row, NULL);
    if (is_gray16(job))
        for (int y = 0; y < job->out->height; y++)
            gray16_to_rgb(job->out->rgb + (size_t)y * row, job->out->width);
}

static int decode(png_job *job)
{
    if (setjmp(png_jmpbuf(job->png)))
        return -1;
    png_set_read_fn(job->png, job, on_read);
    /* Texts and profiles change no pixel, and skipped they cannot unpack to gigabytes. */
    png_set_keep_unknown_chunks(job->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(job->png, job->info);
    png_uint_32 width = png_get_image_width(job->png, job->info);
    png_uint_32 height = png_get_image_height(job->png, job->info);
    if (im_check_size(width, height, job->options, job->err))
        return -1;
    png_key key = transparent_colour(job);
    ask_for_rgb(job);
    int passes = png_set_interlace_handling(job->png);
    png_read_update_info(job->png, job->info);
    if (check_layout(job) || im_raster_alloc(job->out, (int)width, (int)height, job->err))
        return -1;
    read_rows(job, passes);
    put_on_white(job->out, &key);
    png_read_end(job->png, NULL);
    return 0;
}

/* ---- orientation -------------------------------------------------------------------------------------- */

static size_t be32(const uint8_t *p) { return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]; }

static bool is_xmp(im_bytes data)
{
    static const char keyword[] = "XML:com.adobe.xmp";
    return data.n > sizeof keyword && !memcmp(data.p, keyword, sizeof keyword) && data.p[sizeof keyword] == 0;
}

/* Chunks are length, type, data, checksum. EXIF may also follow the pixels; the last one counts. */
static int png_orientation(const uint8_t *bytes, size_t n)
{
    im_bytes exif = {0}, xmp = {0};
    for (size_t at = 8; at <= n && n - at >= 12;) {
        size_t length = be32(bytes + at);
        if (length > n - at - 12)
            break;
        const uint8_t *type = bytes + at + 4;
        im_bytes data = {bytes + at + 8, length};
        if (!memcmp(type, "eXIf", 4))
            exif = data;
        else if (!memcmp(type, "iTXt", 4) && is_xmp(data))
            xmp = data;
        at += 12 + length;
    }
    return im_orientation(exif, xmp);
}

int im_png_decode(im_raster *out, int *orientation, const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err)
{
    png_job job = {.bytes = bytes, .n = n, .options = options, .out = out, .err = err};
    int result = -1;
    job.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, on_error, on_warning);
    job.info = job.png ? png_create_info_struct(job.png) : NULL;
    if (!job.info)
        bs_err(err, "out of memory: a PNG decoder");
    else
        result = decode(&job);
    png_destroy_read_struct(&job.png, &job.info, NULL);
    *orientation = png_orientation(bytes, n);
    return result;
}
