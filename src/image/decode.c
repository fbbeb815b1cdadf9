/* decode.c - which decoder a file needs, told from its first bytes. */
#include <string.h>

#include "codec.h"

static const uint64_t default_max_pixels = 178956970; /* Pillow's DecompressionBombError */

void im_raster_clear(im_raster *r)
{
    bs_free(r->rgb);
    memset(r, 0, sizeof *r);
}

int im_check_size(uint64_t width, uint64_t height, const im_decode_options *options, oc_err *err)
{
    uint64_t max = options->max_pixels ? options->max_pixels : default_max_pixels;
    if (width < 1 || height < 1)
        return bs_err(err, "its header says %llu x %llu pixels", (unsigned long long)width, (unsigned long long)height);
    if (width > IM_MAX_SIDE || height > IM_MAX_SIDE)
        return bs_err(err, "its header says %llu x %llu pixels, expected at most %d a side", (unsigned long long)width,
                      (unsigned long long)height, IM_MAX_SIDE);
    if (width * height > max)
        return bs_err(err, "its header says %llu x %llu pixels, more than the limit of %llu", (unsigned long long)width,
                      (unsigned long long)height, (unsigned long long)max);
    return 0;
}

int im_raster_alloc(im_raster *out, int width, int height, oc_err *err)
{
    size_t bytes;
    if (!bs_mul_size((size_t)width * 3, (size_t)height, &bytes))
        return bs_err(err, "out of memory: a picture of %d x %d pixels", width, height);
    out->rgb = bs_alloc(bytes, "a picture", err);
    if (!out->rgb)
        return -1;
    out->width = width;
    out->height = height;
    return 0;
}

/* ---- names of formats --------------------------------------------------------------------------------- */

typedef struct im_magic {
    const char *name;
    size_t at, n;
    const char *bytes;
} im_magic;

/* clang-format off */
static const im_magic magics[] = {
    {"JPEG", 0, 3, "\xff\xd8\xff"},
    {"PNG", 0, 8, "\x89PNG\r\n\x1a\n"},
    {"WebP", 8, 4, "WEBP"}, /* the RIFF in front is tested by the decoder */
    {"GIF", 0, 4, "GIF8"},
    {"TIFF", 0, 4, "II*\0"},
    {"TIFF", 0, 4, "MM\0*"},
    {"BMP", 0, 2, "BM"},
    {"AVIF", 4, 8, "ftypavif"},
    {"AVIF", 4, 8, "ftypavis"},
    {"HEIC", 4, 7, "ftyphei"},
    {"HEIC", 4, 7, "ftyphev"},
    {"HEIF", 4, 8, "ftypmif1"},
    {"HEIF", 4, 8, "ftypmsf1"},
    {"MP4 video", 4, 4, "ftyp"},
    {"JPEG XL", 0, 2, "\xff\x0a"},
    {"JPEG XL", 4, 4, "JXL "},
    {"JPEG 2000", 4, 4, "jP  "},
    {"Photoshop", 0, 4, "8BPS"},
    {"PDF", 0, 5, "%PDF-"},
    {"ICO", 0, 4, "\0\0\1\0"},
};
/* clang-format on */

static bool starts_with_tag(const uint8_t *text, size_t n, const char *tag)
{
    for (size_t i = 0; tag[i]; i++)
        if (i >= n || (text[i] | 0x20) != (uint8_t)tag[i])
            return false;
    return true;
}

/* SVG and a web page in a picture's place (a failed download) have no magic bytes: the first tag tells. */
static const char *markup_name(const uint8_t *bytes, size_t n)
{
    size_t end = n < 4096 ? n : 4096, at = 0;
    if (n >= 3 && !memcmp(bytes, "\xef\xbb\xbf", 3))
        at = 3;
    while (at < end && (bytes[at] == ' ' || (bytes[at] >= '\t' && bytes[at] <= '\r')))
        at++;
    if (at >= end || bytes[at] != '<')
        return NULL;
    for (; at < end; at++) {
        if (starts_with_tag(bytes + at, end - at, "<svg"))
            return "SVG";
        if (starts_with_tag(bytes + at, end - at, "<html"))
            return "HTML";
    }
    return NULL;
}

const char *im_format(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++) {
        const im_magic *m = &magics[i];
        if (n >= m->at + m->n && !memcmp(bytes + m->at, m->bytes, m->n))
            return m->name;
    }
    return markup_name(bytes, n);
}

/* ---- decoding ----------------------------------------------------------------------------------------- */

im_reader *im_reader_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err)
{
    const char *format = im_format(bytes, n);
    if (n == 0)
        bs_err(err, "it is empty");
    else if (!format)
        bs_err(err, "not a picture that is known, expected JPEG, PNG or WebP");
    else if (!strcmp(format, "JPEG"))
        return im_jpeg_open(bytes, n, options, err);
    else if (!strcmp(format, "PNG"))
        return im_png_open(bytes, n, options, err);
    else if (!strcmp(format, "WebP"))
        return im_webp_open(bytes, n, options, err);
    else
        bs_err(err, "it is %s, which is not supported: expected JPEG, PNG or WebP", format);
    return NULL;
}

void im_reader_close(im_reader *r)
{
    if (!r)
        return;
    im_raster_clear(&r->whole);
    r->close(r);
}

/* Every row goes straight to its place, if the decoder works by rows. */
static int read_rows(im_raster *out, im_reader *r, oc_err *err)
{
    size_t row = (size_t)r->width * 3;
    if (im_raster_alloc(out, r->width, r->height, err))
        return -1;
    uint8_t *room = r->room > row ? bs_alloc(r->room, "a row", err) : NULL;
    int result = r->room > row && !room ? -1 : 0;
    for (int y = 0; !result && y < r->height; y++) {
        uint8_t *to = out->rgb + (size_t)y * row;
        const uint8_t *got = r->next(r, room ? room : to, err);
        if (!got)
            result = -1;
        else if (got != to)
            memcpy(to, got, row);
    }
    bs_free(room);
    return result;
}

static int read_all(im_raster *out, im_reader *r, oc_err *err)
{
    if (r->start(r, (im_window){0, 0, r->width, r->height}, err))
        return -1;
    if (!r->whole.rgb)
        return read_rows(out, r, err) || r->finish(r, err) ? -1 : 0;
    *out = r->whole;
    r->whole = (im_raster){0};
    return r->finish(r, err);
}

int im_decode(im_raster *out, const void *bytes, size_t n, const im_decode_options *options, oc_err *err)
{
    static const im_decode_options defaults;
    memset(out, 0, sizeof *out);
    im_reader *r = im_reader_open(bytes, n, options ? options : &defaults, err);
    int result = !r || read_all(out, r, err) || im_turn_upright(out, r->orientation, err) ? -1 : 0;
    if (result)
        im_raster_clear(out);
    im_reader_close(r);
    return result;
}
