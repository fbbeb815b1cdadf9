/* decode_webp.c - WebP by libwebp: lossy, lossless, and the first picture of an animation. */
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "codec.h"

static const char *status_name(VP8StatusCode status)
{
    switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY: return "out of memory";
    case VP8_STATUS_BITSTREAM_ERROR: return "damaged data";
    case VP8_STATUS_UNSUPPORTED_FEATURE: return "a feature that it does not support";
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED: return "the file is truncated";
    default: return "the file cannot be read";
    }
}

/* The frame goes straight into its place; alpha is dropped by asking for RGB. */
static int decode_frame(im_raster *out, const WebPIterator *frame, oc_err *err)
{
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return bs_err(err, "libwebp is of another version than its header");
    VP8StatusCode status = WebPGetFeatures(frame->fragment.bytes, frame->fragment.size, &config.input);
    if (status != VP8_STATUS_OK)
        return bs_err(err, "libwebp says: %s", status_name(status));
    int width = config.input.width, height = config.input.height, x = frame->x_offset, y = frame->y_offset;
    if (x < 0 || y < 0 || width > out->width - x || height > out->height - y)
        return bs_err(err, "its first frame is %d x %d at %d, %d, outside of %d x %d", width, height, x, y, out->width,
                      out->height);
    size_t row = (size_t)out->width * 3, start = (size_t)y * row + (size_t)x * 3;
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = out->rgb + start;
    config.output.u.RGBA.stride = (int)row;
    config.output.u.RGBA.size = row * (size_t)out->height - start;
    status = WebPDecode(frame->fragment.bytes, frame->fragment.size, &config);
    WebPFreeDecBuffer(&config.output);
    return status == VP8_STATUS_OK ? 0 : bs_err(err, "libwebp says: %s", status_name(status));
}

static im_bytes chunk(WebPDemuxer *demuxer, const char *fourcc)
{
    WebPChunkIterator it;
    im_bytes found = {0};
    if (WebPDemuxGetChunk(demuxer, fourcc, 1, &it))
        found = (im_bytes){it.chunk.bytes, it.chunk.size}; /* points into the file */
    WebPDemuxReleaseChunkIterator(&it);
    return found;
}

/* What the first frame of an animation leaves uncovered is transparent black, so black. */
static int decode_first(im_raster *out, WebPDemuxer *demuxer, oc_err *err)
{
    WebPIterator frame;
    int result = -1;
    if (!WebPDemuxGetFrame(demuxer, 1, &frame))
        return bs_err(err, "it holds no picture");
    if (frame.width < out->width || frame.height < out->height)
        memset(out->rgb, 0, (size_t)out->width * 3 * (size_t)out->height);
    if (frame.complete)
        result = decode_frame(out, &frame, err);
    else
        bs_err(err, "the file is truncated");
    WebPDemuxReleaseIterator(&frame);
    return result;
}

/* ---- as a reader of rows ------------------------------------------------------------------------------ */

typedef struct webp_reader {
    im_reader reader; /* first: the one is cast to the other */
    WebPDemuxer *demuxer;
    im_window window;
    int y; /* of the next row */
} webp_reader;

static int webp_start(im_reader *r, im_window window, oc_err *err)
{
    webp_reader *job = (webp_reader *)r;
    job->window = window;
    job->y = window.y;
    return im_raster_alloc(&r->whole, r->width, r->height, err) || decode_first(&r->whole, job->demuxer, err) ? -1 : 0;
}

static const uint8_t *webp_next(im_reader *r, uint8_t *room, oc_err *err)
{
    webp_reader *job = (webp_reader *)r;
    (void)room, (void)err;
    return r->whole.rgb + ((size_t)job->y++ * (size_t)r->width + (size_t)job->window.x) * 3;
}

/* Opening has looked for the end. */
static int webp_finish(im_reader *r, oc_err *err)
{
    (void)r, (void)err;
    return 0;
}

static void webp_close(im_reader *r)
{
    webp_reader *job = (webp_reader *)r;
    WebPDemuxDelete(job->demuxer);
    bs_free(job);
}

static int open_header(webp_reader *job, WebPDemuxState state, const im_decode_options *options, oc_err *err)
{
    im_reader *r = &job->reader;
    if (!job->demuxer || state == WEBP_DEMUX_PARSE_ERROR)
        return bs_err(err, "libwebp says: %s", "damaged data");
    if (state != WEBP_DEMUX_DONE)
        return bs_err(err, "the file is truncated");
    uint32_t width = WebPDemuxGetI(job->demuxer, WEBP_FF_CANVAS_WIDTH);
    uint32_t height = WebPDemuxGetI(job->demuxer, WEBP_FF_CANVAS_HEIGHT);
    if (im_check_size(width, height, options, err))
        return -1;
    r->extent_x = r->width = (int)width;
    r->extent_y = r->height = (int)height;
    r->orientation = im_orientation(chunk(job->demuxer, "EXIF"), chunk(job->demuxer, "XMP "));
    return 0;
}

im_reader *im_webp_open(const uint8_t *bytes, size_t n, const im_decode_options *options, oc_err *err)
{
    WebPData data = {bytes, n};
    WebPDemuxState state;
    webp_reader *job = bs_calloc(1, sizeof *job, "a WebP decoder", err);
    if (!job)
        return NULL;
    job->reader = (im_reader){.passing = 1, .start = webp_start, .next = webp_next, .finish = webp_finish, .close = webp_close};
    job->demuxer = WebPDemuxPartial(&data, &state);
    if (open_header(job, state, options, err)) {
        webp_close(&job->reader);
        return NULL;
    }
    return &job->reader;
}
