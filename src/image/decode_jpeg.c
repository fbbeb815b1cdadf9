/* decode_jpeg.c - JPEG by libjpeg-turbo, with the settings that Pillow uses (slow integer DCT, smooth
 * upsampling), so that pixels are equal where the library is. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include "codec.h"

/* Lives across longjmp: nothing that the jump could clobber is a local variable. */
typedef struct jpeg_job {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    const im_decode_options *options;
    im_raster *out;
    int *orientation;
    oc_err *err;
} jpeg_job;

/* A progressive file may hold any number of scans over all its pixels in a few bytes each. */
enum { MAX_SCANS = 500 };

static void on_error(j_common_ptr c)
{
    jpeg_job *job = c->client_data;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    bs_err(job->err, "libjpeg says: %s", text);
    longjmp(job->escape, 1);
}

/* libjpeg goes on after damaged data, as Pillow lets it; it must not talk about it. */
static void on_message(j_common_ptr c, int level) { (void)c, (void)level; }

static boolean on_end_of_data(j_decompress_ptr c)
{
    jpeg_job *job = c->client_data;
    bs_err(job->err, "the file is truncated");
    longjmp(job->escape, 1);
}

static void on_progress(j_common_ptr c)
{
    jpeg_job *job = c->client_data;
    if (job->c.input_scan_number > MAX_SCANS) {
        bs_err(job->err, "more than %d scans", MAX_SCANS);
        longjmp(job->escape, 1);
    }
}

static void open_job(jpeg_job *job, const uint8_t *bytes, size_t n)
{
    job->c.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = on_error;
    job->errors.emit_message = on_message;
    job->c.client_data = job;
    jpeg_create_decompress(&job->c);
    job->progress.progress_monitor = on_progress;
    job->c.progress = &job->progress;
    jpeg_mem_src(&job->c, bytes, (unsigned long)n);
    job->c.src->fill_input_buffer = on_end_of_data;
    jpeg_save_markers(&job->c, JPEG_APP0 + 1, 0xffff);
}

static bool marker_starts(const struct jpeg_marker_struct *m, const char *magic, size_t n)
{
    return m->marker == JPEG_APP0 + 1 && m->data_length >= n && !memcmp(m->data, magic, n);
}

/* APP1 holds EXIF or XMP. Of several the first EXIF and the last XMP count, as with Pillow. */
static int jpeg_orientation(const jpeg_job *job)
{
    static const char exif_magic[] = "Exif\0", xmp_magic[] = "http://ns.adobe.com/xap/1.0/";
    im_bytes exif = {0}, xmp = {0};
    for (const struct jpeg_marker_struct *m = job->c.marker_list; m; m = m->next) {
        if (!exif.p && marker_starts(m, exif_magic, sizeof exif_magic))
            exif = (im_bytes){m->data, m->data_length};
        else if (marker_starts(m, xmp_magic, sizeof xmp_magic))
            xmp = (im_bytes){m->data, m->data_length};
    }
    return im_orientation(exif, xmp);
}

/* The strongest of 1/8, 1/4, 1/2 that keeps min_side: the sizes that the DCT itself can give. */
static void choose_scale(jpeg_job *job)
{
    unsigned shorter = job->c.image_width < job->c.image_height ? job->c.image_width : job->c.image_height;
    unsigned denominator = 8;
    if (job->options->min_side <= 0)
        return;
    while (denominator > 1 && (shorter + denominator - 1) / denominator < (unsigned)job->options->min_side)
        denominator /= 2;
    job->c.scale_num = 1;
    job->c.scale_denom = denominator;
}

static int choose_colours(jpeg_job *job)
{
    switch (job->c.num_components) {
    case 1:
    case 3: job->c.out_color_space = JCS_RGB; return 0;
    case 4:
        job->c.out_color_space = JCS_CMYK; /* YCCK too: libjpeg goes half the way */
        return 0;
    default: return bs_err(job->err, "%d colour components, expected 1, 3 or 4", job->c.num_components);
    }
}

/* Pillow takes every 4-colour JPEG for Adobe's inverted kind, then uses R = (255 - C)(255 - K) / 255 in
 * integers, rounded: 255 - k is the stored byte. In place, from 4 to 3 bytes a pixel. */
static void cmyk_to_rgb(uint8_t *line, int width)
{
    for (int x = 0; x < width; x++) {
        int white = line[4 * x + 3];
        uint8_t rgb[3];
        for (int i = 0; i < 3; i++) {
            int product = (255 - line[4 * x + i]) * white + 128;
            rgb[i] = (uint8_t)(white - (((product >> 8) + product) >> 8));
        }
        memcpy(line + 3 * x, rgb, 3);
    }
}

/* Lines of 4 bytes a pixel do not fit in the raster, so they come through one of their own. */
static void read_lines(jpeg_job *job)
{
    JSAMPARRAY line = job->c.mem->alloc_sarray((j_common_ptr)&job->c, JPOOL_IMAGE, job->c.output_width * 4, 1);
    size_t row = (size_t)job->out->width * 3;
    while (job->c.output_scanline < job->c.output_height) {
        JSAMPROW to = job->out->rgb + job->c.output_scanline * row;
        if (job->c.output_components == 3) {
            jpeg_read_scanlines(&job->c, &to, 1);
            continue;
        }
        jpeg_read_scanlines(&job->c, line, 1);
        cmyk_to_rgb(line[0], job->out->width);
        memcpy(to, line[0], row);
    }
}

static int decode(jpeg_job *job, const uint8_t *bytes, size_t n)
{
    if (setjmp(job->escape))
        return -1;
    open_job(job, bytes, n);
    jpeg_read_header(&job->c, TRUE);
    if (im_check_size(job->c.image_width, job->c.image_height, job->options, job->err) || choose_colours(job))
        return -1;
    *job->orientation = jpeg_orientation(job);
    choose_scale(job);
    jpeg_start_decompress(&job->c);
    if (im_raster_alloc(job->out, (int)job->c.output_width, (int)job->c.output_height, job->err))
        return -1;
    read_lines(job);
    jpeg_finish_decompress(&job->c); /* reads on to the end marker: a file without one is truncated */
    return 0;
}

int im_jpeg_decode(im_raster *out, int *orientation, const uint8_t *bytes, size_t n, const im_decode_options *options,
                   oc_err *err)
{
    jpeg_job job = {.options = options, .out = out, .orientation = orientation, .err = err};
    int result = decode(&job, bytes, n);
    jpeg_destroy_decompress(&job.c);
    return result;
}
