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
static int decode_first(im_raster *out, WebPDemuxer *demuxer, const im_decode_options *options, oc_err *err)
{
    uint32_t width = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH);
    uint32_t height = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT);
    WebPIterator frame;
    int result = -1;
    if (im_check_size(width, height, options, err) || im_raster_alloc(out, (int)width, (int)height, err))
        return -1;
    if (!WebPDemuxGetFrame(demuxer, 1, &frame))
        return bs_err(err, "it holds no picture");
    if (frame.width < out->width || frame.height < out->height)
        memset(out->rgb, 0, (size_t)width * 3 * height);
    if (frame.complete)
        result = decode_frame(out, &frame, err);
    else
        bs_err(err, "the file is truncated");
    WebPDemuxReleaseIterator(&frame);
    return result;
}

int im_webp_decode(im_raster *out, int *orientation, const uint8_t *bytes, size_t n, const im_decode_options *options,
                   oc_err *err)
{
    WebPData data = {bytes, n};
    WebPDemuxState state;
    WebPDemuxer *demuxer = WebPDemuxPartial(&data, &state);
    int result = -1;
    if (!demuxer || state == WEBP_DEMUX_PARSE_ERROR)
        bs_err(err, "libwebp says: %s", "damaged data");
    else if (state != WEBP_DEMUX_DONE)
        bs_err(err, "the file is truncated");
    else
        result = decode_first(out, demuxer, options, err);
    if (result == 0)
        *orientation = im_orientation(chunk(demuxer, "EXIF"), chunk(demuxer, "XMP "));
    WebPDemuxDelete(demuxer);
    return result;
}
