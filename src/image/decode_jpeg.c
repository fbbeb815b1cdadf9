/* decode_jpeg.c - JPEG by libjpeg-turbo, with the settings that Pillow uses (slow integer DCT, smooth
 * upsampling), so that pixels are equal where the library is. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include "codec.h"

/* Lives across longjmp: nothing that the jump could clobber is a local variable. */
typedef struct jpeg_reader {
    im_reader reader; /* first: the one is cast to the other */
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    im_window window;
    size_t shift; /* bytes of a decoded row in front of the window */
    oc_err *err;  /* of the call that runs */
} jpeg_reader;

/* A progressive file may hold any number of scans over all its pixels in a few bytes each. */
enum { MAX_SCANS = 500 };

static void on_error(j_common_ptr c)
{
    jpeg_reader *job = c->client_data;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    bs_err(job->err, "libjpeg says: %s", text);
    longjmp(job->escape, 1);
}

/* libjpeg goes on after damaged data, as Pillow lets it; it must not talk about it. */
static void on_message(j_common_ptr c, int level) { (void)c, (void)level; }

static boolean on_end_of_data(j_decompress_ptr c)
{
    jpeg_reader *job = c->client_data;
    bs_err(job->err, "the file is truncated");
    longjmp(job->escape, 1);
}

static void on_progress(j_common_ptr c)
{
    jpeg_reader *job = c->client_data;
    if (job->c.input_scan_number > MAX_SCANS) {
        bs_err(job->err, "more than %d scans", MAX_SCANS);
        longjmp(job->escape, 1);
    }
}

/* Without a byte on the heap before the jump's place is known: jpeg_create_decompress may fail, too. */
static void create(jpeg_reader *job, const uint8_t *bytes, size_t n)
{
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
static int jpeg_orientation(const jpeg_reader *job)
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

static int choose_colours(jpeg_reader *job)
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

/* ---- as a reader of rows ------------------------------------------------------------------------------ */

/* Of a row's time so much is the unpacking of Huffman codes, which has to be done for rows that are passed over, too (measured for 4:2:0
 * of high quality). A progressive file is unpacked as a whole before its first row. */
static double passing(jpeg_reader *job, int eighths)
{
    if (jpeg_has_multiple_scans(&job->c) || eighths < 4)
        return 1;
    return eighths < DCTSIZE ? 0.75 : 0.65;
}

static int set_size(jpeg_reader *job, int eighths)
{
    job->c.scale_num = (unsigned)eighths;
    job->c.scale_denom = DCTSIZE;
    jpeg_calc_output_dimensions(&job->c);
    job->reader.passing = passing(job, eighths);
    job->reader.width = (int)job->c.output_width;
    job->reader.height = (int)job->c.output_height;
    job->reader.extent_x = job->c.image_width * eighths / (double)DCTSIZE;
    job->reader.extent_y = job->c.image_height * eighths / (double)DCTSIZE;
    return 0;
}

static int jpeg_scale(im_reader *r, int eighths, oc_err *err)
{
    jpeg_reader *job = (jpeg_reader *)r;
    job->err = err;
    return setjmp(job->escape) ? -1 : set_size(job, eighths);
}

/* Smooth upsampling looks at neighbours, which are missing at the edges of what is decoded: so one block of the most coarsely sampled
 * colour more is decoded on every side, and what it leaves in the window is as if nothing had been cut. */
static void crop_columns(jpeg_reader *job)
{
    const im_window *w = &job->window;
    unsigned block = (unsigned)(job->c.max_h_samp_factor * job->c.min_DCT_scaled_size), x = (unsigned)w->x;
    unsigned end = x + (unsigned)w->width + block, width = job->c.output_width;
    x = x > block ? x - block : 0;
    if (x >= block || end + block <= width) {
        width = (end < width ? end : width) - x;
        jpeg_crop_scanline(&job->c, &x, &width);
    } else {
        x = 0;
    }
    job->shift = ((size_t)w->x - x) * 3;
}

/* Rows far in front of the window are only unpacked; the nearest are decoded for their neighbours' sake. */
static void pass_rows(jpeg_reader *job, uint8_t *room)
{
    unsigned block = (unsigned)(job->c.max_v_samp_factor * job->c.min_DCT_scaled_size), y = (unsigned)job->window.y;
    if (y / block > 1)
        jpeg_skip_scanlines(&job->c, (y / block - 1) * block);
    while (job->c.output_scanline < y)
        jpeg_read_scanlines(&job->c, &room, 1);
}

static int jpeg_start(im_reader *r, im_window window, oc_err *err)
{
    jpeg_reader *job = (jpeg_reader *)r;
    job->err = err;
    job->window = window;
    if (setjmp(job->escape))
        return -1;
    jpeg_start_decompress(&job->c);
    crop_columns(job);
    r->room = (size_t)job->c.output_width * (size_t)job->c.output_components;
    pass_rows(job, job->c.mem->alloc_large((j_common_ptr)&job->c, JPOOL_IMAGE, r->room));
    return 0;
}

static const uint8_t *jpeg_next(im_reader *r, uint8_t *room, oc_err *err)
{
    jpeg_reader *job = (jpeg_reader *)r;
    job->err = err;
    if (setjmp(job->escape))
        return NULL;
    jpeg_read_scanlines(&job->c, &room, 1);
    if (job->c.output_components == 4)
        cmyk_to_rgb(room, (int)job->c.output_width);
    return room + job->shift;
}

/* What is left of the entropy-coded data need not be unpacked to know that it is not cut off: it ends in front of the end's marker, and
 * holds none itself. */
static bool end_follows(jpeg_reader *job)
{
    const uint8_t *p = job->c.src->next_input_byte, *end = p + job->c.src->bytes_in_buffer;
    while (p && (p = memchr(p, 0xff, (size_t)(end - p))) && ++p < end)
        if (*p == JPEG_EOI)
            return true;
    return job->c.unread_marker == JPEG_EOI || jpeg_input_complete(&job->c);
}

static int jpeg_finish(im_reader *r, oc_err *err)
{
    jpeg_reader *job = (jpeg_reader *)r;
    job->err = err;
    if (setjmp(job->escape))
        return -1;
    if (job->c.output_scanline == job->c.output_height)
        jpeg_finish_decompress(&job->c); /* reads on to the end marker: a file without one is truncated */
    else if (!end_follows(job))
        return bs_err(err, "the file is truncated");
    return 0;
}

static void jpeg_close(im_reader *r)
{
    jpeg_reader *job = (jpeg_reader *)r;
    jpeg_destroy_decompress(&job->c);
    bs_free(job);
}

static int open_header(jpeg_reader *job, const uint8_t *bytes, size_t n, const im_decode_options *options)
{
    if (setjmp(job->escape))
        return -1;
    create(job, bytes, n);
    jpeg_read_header(&job->c, TRUE);
    if (im_check_size(job->c.image_width, job->c.image_height, options, job->err) || choose_colours(job))
        return -1;
    job->reader.orientation = jpeg_orientation(job);
    return set_size(job, DCTSIZE);
}

im_reader *im_jpeg_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err)
{
    jpeg_reader *job = bs_calloc(1, sizeof *job, "a JPEG decoder", err);
    if (!job)
        return NULL;
    job->reader.scale = jpeg_scale;
    job->reader.start = jpeg_start;
    job->reader.next = jpeg_next;
    job->reader.finish = jpeg_finish;
    job->reader.close = jpeg_close;
    job->err = err;
    job->c.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = on_error;
    job->errors.emit_message = on_message;
    job->c.client_data = job;
    if (open_header(job, bytes, n, options)) {
        jpeg_close(&job->reader);
        return NULL;
    }
    return &job->reader;
}
