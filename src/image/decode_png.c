/* decode_png.c - PNG by libpng, every kind brought to 8-bit RGB as Pillow and transformers do. */
#include <setjmp.h>
#include <string.h>

#include <png.h>

#include "codec.h"

typedef struct png_key {
    bool found;
    uint8_t rgb[3];
} png_key;

typedef struct png_reader {
    im_reader reader; /* first: the one is cast to the other */
    png_structp png;
    png_infop info;
    const uint8_t *bytes;
    size_t n, at;
    int passes; /* over the picture: 7 when it is interlaced */
    png_key key;
    im_window window;
    int y;       /* rows that were read */
    oc_err *err; /* of the call that runs */
} png_reader;

static void on_error(png_structp png, png_const_charp text)
{
    png_reader *job = png_get_error_ptr(png);
    bs_err(job->err, "libpng says: %s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) { (void)png, (void)text; }

static void on_read(png_structp png, png_bytep to, size_t n)
{
    png_reader *job = png_get_io_ptr(png);
    if (n > job->n - job->at) {
        bs_err(job->err, "the file is truncated");
        png_longjmp(png, 1);
    }
    memcpy(to, job->bytes + job->at, n);
    job->at += n;
}

static bool is_gray16(const png_reader *job)
{
    return png_get_color_type(job->png, job->info) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(job->png, job->info) == 16;
}

/* Asks libpng for RGB of 8 bits. 16-bit samples keep their high byte, but for plain grey: gray16_to_rgb. */
static void ask_for_rgb(png_reader *job)
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
static png_key palette_key(png_reader *job, const png_byte *alpha, int n)
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
static png_key transparent_colour(png_reader *job)
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

static void put_on_white(uint8_t *row, int width, const png_key *key)
{
    for (uint8_t *p = row, *end = row + 3 * (size_t)width; key->found && p < end; p += 3)
        if (p[0] == key->rgb[0] && p[1] == key->rgb[1] && p[2] == key->rgb[2])
            memset(p, 255, 3);
}

/* ---- decoding ----------------------------------------------------------------------------------------- */

static int check_layout(png_reader *job)
{
    size_t want = (size_t)png_get_image_width(job->png, job->info) * (is_gray16(job) ? 2 : 3);
    if (png_get_rowbytes(job->png, job->info) != want)
        return bs_err(job->err, "its rows become %zu bytes, expected %zu", (size_t)png_get_rowbytes(job->png, job->info), want);
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

/* ---- as a reader of rows ------------------------------------------------------------------------------- */

static void finish_row(const png_reader *job, uint8_t *row)
{
    if (is_gray16(job))
        gray16_to_rgb(row, job->reader.width);
    put_on_white(row, job->reader.width, &job->key);
}

static int open_header(png_reader *job, const im_decode_options *options)
{
    if (setjmp(png_jmpbuf(job->png)))
        return -1;
    png_set_read_fn(job->png, job, on_read);
    /* Texts and profiles change no pixel, and skipped they cannot unpack to gigabytes. */
    png_set_keep_unknown_chunks(job->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(job->png, job->info);
    png_uint_32 width = png_get_image_width(job->png, job->info);
    png_uint_32 height = png_get_image_height(job->png, job->info);
    if (im_check_size(width, height, options, job->err))
        return -1;
    job->reader.extent_x = job->reader.width = (int)width;
    job->reader.extent_y = job->reader.height = (int)height;
    job->reader.room = (size_t)width * 3;
    job->reader.orientation = png_orientation(job->bytes, job->n);
    job->key = transparent_colour(job);
    ask_for_rgb(job);
    job->passes = png_set_interlace_handling(job->png);
    png_read_update_info(job->png, job->info);
    return check_layout(job);
}

/* The rows of an interlaced picture are whole only at the end. */
static int read_interlaced(png_reader *job)
{
    im_raster *whole = &job->reader.whole;
    if (im_raster_alloc(whole, job->reader.width, job->reader.height, job->err))
        return -1;
    for (int pass = 0; pass < job->passes; pass++)
        for (int y = 0; y < whole->height; y++)
            png_read_row(job->png, whole->rgb + (size_t)y * job->reader.room, NULL);
    for (int y = 0; y < whole->height; y++)
        finish_row(job, whole->rgb + (size_t)y * job->reader.room);
    return 0;
}

static int png_start(im_reader *r, im_window window, oc_err *err)
{
    png_reader *job = (png_reader *)r;
    job->err = err;
    job->window = window;
    job->y = window.y;
    if (setjmp(png_jmpbuf(job->png)))
        return -1;
    if (job->passes > 1)
        return read_interlaced(job);
    for (int y = 0; y < window.y; y++)
        png_read_row(job->png, NULL, NULL);
    return 0;
}

static const uint8_t *png_next(im_reader *r, uint8_t *room, oc_err *err)
{
    png_reader *job = (png_reader *)r;
    size_t shift = (size_t)job->window.x * 3;
    job->err = err;
    if (r->whole.rgb)
        return r->whole.rgb + (size_t)job->y++ * r->room + shift;
    if (setjmp(png_jmpbuf(job->png)))
        return NULL;
    png_read_row(job->png, room, NULL);
    finish_row(job, room);
    job->y++;
    return room + shift;
}

/* Reads on to the end: a damaged rest is an error, needed or not. */
static int png_finish(im_reader *r, oc_err *err)
{
    png_reader *job = (png_reader *)r;
    job->err = err;
    if (setjmp(png_jmpbuf(job->png)))
        return -1;
    for (; job->passes == 1 && job->y < r->height; job->y++)
        png_read_row(job->png, NULL, NULL);
    png_read_end(job->png, NULL);
    return 0;
}

static void png_close(im_reader *r)
{
    png_reader *job = (png_reader *)r;
    png_destroy_read_struct(&job->png, &job->info, NULL);
    bs_free(job);
}

im_reader *im_png_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err)
{
    png_reader *job = bs_calloc(1, sizeof *job, "a PNG decoder", err);
    if (!job)
        return NULL;
    job->reader = (im_reader){.passing = 1, .start = png_start, .next = png_next, .finish = png_finish, .close = png_close};
    job->bytes = bytes;
    job->n = n;
    job->err = err;
    job->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, job, on_error, on_warning);
    job->info = job->png ? png_create_info_struct(job->png) : NULL;
    if (!job->info || open_header(job, options)) {
        bs_err(err, "out of memory: a PNG decoder"); /* unless something was said already */
        png_close(&job->reader);
        return NULL;
    }
    return &job->reader;
}
