/* augment.c - one affine map, one colour map, a blur, a hole. */
#include "augment.h"

#include <math.h>
#include <string.h>

void dt_augment_default(dt_augment *a, float strength)
{
    *a = (dt_augment){.rotate = 20,
                      .scale_lo = 0.7f,
                      .scale_hi = 1.2f,
                      .aspect = 0.2f,
                      .shear = 0.15f,
                      .shift = 0.12f,
                      .flip = 0.25f,
                      .color = 0.8f,
                      .hue = 54,
                      .saturation = 0.5f,
                      .contrast = 0.3f,
                      .channel = 0.15f,
                      .gray = 0.1f,
                      .blur = 0.3f,
                      .cutout = 0.5f,
                      .hole_lo = 0.1f,
                      .hole_hi = 0.4f};
    if (strength <= 0)
        *a = (dt_augment){0};
    a->rotate *= strength;
    a->scale_lo = powf(a->scale_lo, strength);
    a->scale_hi = powf(a->scale_hi, strength);
    float *linear[] = {&a->aspect,   &a->shear,   &a->shift, &a->flip, &a->hue,   &a->saturation,
                       &a->contrast, &a->channel, &a->gray,  &a->blur, &a->cutout};
    for (size_t i = 0; i < sizeof linear / sizeof linear[0]; i++)
        *linear[i] *= strength;
}

static float spread(bs_rng *r, float x) { return x > 0 ? bs_rng_range(r, -x, x) : 0; }
static bool chance(bs_rng *r, float p) { return p > 0 && bs_rng_float(r) < p; }

/* Output position (-1..1) to input position (-1..1): m[0..1] x + m[2]. */
static void affine(const dt_augment *a, bs_rng *r, float m[2][3])
{
    float angle = spread(r, a->rotate) * 0.017453293f, shear = spread(r, a->shear), aspect = expf(spread(r, a->aspect));
    float size = a->scale_hi > a->scale_lo ? expf(bs_rng_range(r, logf(a->scale_lo), logf(a->scale_hi))) : 1;
    float c = cosf(angle), s = sinf(angle);
    float sx = (chance(r, a->flip) ? -1.0f : 1.0f) / (size * sqrtf(aspect)), sy = sqrtf(aspect) / size;
    m[0][0] = sx * c;
    m[0][1] = sx * (shear * c - s);
    m[1][0] = sy * s;
    m[1][1] = sy * (c + shear * s);
    m[0][2] = spread(r, a->shift);
    m[1][2] = spread(r, a->shift);
}

/* Ink (1 - light) of the three colours at a place between pixels; none beyond the edge. */
static void ink_at(const im_raster *in, float x, float y, float ink[3])
{
    int x0 = (int)floorf(x), y0 = (int)floorf(y);
    float fx = x - (float)x0, fy = y - (float)y0;
    ink[0] = ink[1] = ink[2] = 0;
    for (int k = 0; k < 4; k++) {
        int xi = x0 + (k & 1), yi = y0 + (k >> 1);
        if (xi < 0 || yi < 0 || xi >= in->width || yi >= in->height)
            continue;
        float w = (k & 1 ? fx : 1 - fx) * (k >> 1 ? fy : 1 - fy) / 255;
        const uint8_t *p = in->rgb + 3 * ((size_t)yi * (size_t)in->width + (size_t)xi);
        for (int c = 0; c < 3; c++)
            ink[c] += w * (float)(255 - p[c]);
    }
}

static void warp(const im_raster *in, float m[2][3], int side, float *out)
{
    float half = 0.5f * (float)(in->width < in->height ? in->width : in->height);
    float cx = 0.5f * (float)in->width - 0.5f, cy = 0.5f * (float)in->height - 0.5f;
    size_t plane = (size_t)side * (size_t)side;
    for (int j = 0; j < side; j++)
        for (int i = 0; i < side; i++) {
            float u = ((float)i + 0.5f) * 2 / (float)side - 1, v = ((float)j + 0.5f) * 2 / (float)side - 1, ink[3];
            ink_at(in, cx + half * (m[0][0] * u + m[0][1] * v + m[0][2]), cy + half * (m[1][0] * u + m[1][1] * v + m[1][2]), ink);
            for (size_t c = 0; c < 3; c++)
                out[c * plane + (size_t)(j * side + i)] = ink[c];
        }
}

/* Hue turns round the grey axis (Rodrigues' formula), saturation mixes with luma, then contrast and each channel's own factor. */
static void color_matrix(const dt_augment *a, bs_rng *r, float m[3][3])
{
    static const float luma[3] = {0.299f, 0.587f, 0.114f};
    bool on = chance(r, a->color);
    float hue = on && chance(r, 0.5f) ? spread(r, a->hue) * 0.017453293f : 0;
    float saturation = on ? 1 + spread(r, a->saturation) : 1, contrast = on ? 1 + spread(r, a->contrast) : 1, turned[3][3];
    if (chance(r, a->gray))
        saturation = 0;
    float c = cosf(hue), s = sinf(hue) / sqrtf(3), third = (1 - c) / 3;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            turned[i][j] = third + (i == j ? c : (j - i + 3) % 3 == 1 ? -s : s);
    for (int i = 0; i < 3; i++) {
        float channel = on ? contrast * (1 + spread(r, a->channel)) : contrast;
        for (int j = 0; j < 3; j++) {
            float gray = luma[0] * turned[0][j] + luma[1] * turned[1][j] + luma[2] * turned[2][j];
            m[i][j] = channel * (luma[j] + saturation * (turned[i][j] - gray));
        }
    }
}

static float clamp01(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

static void recolor(float m[3][3], size_t plane, float *ink)
{
    for (size_t i = 0; i < plane; i++) {
        float a = ink[i], b = ink[plane + i], c = ink[2 * plane + i];
        for (size_t k = 0; k < 3; k++)
            ink[k * plane + i] = clamp01(m[k][0] * a + m[k][1] * b + m[k][2] * c);
    }
}

/* ink + t (mean of 3 x 3 - ink): t > 0 blurs, t < 0 sharpens. */
static void blur(float t, int side, const float *in, float *out)
{
    for (int c = 0; c < 3; c++, in += side * side, out += side * side)
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++) {
                float sum = 0;
                for (int k = 0; k < 9; k++) {
                    int yy = y + k / 3 - 1, xx = x + k % 3 - 1;
                    yy = yy < 0 ? 0 : yy >= side ? side - 1 : yy;
                    xx = xx < 0 ? 0 : xx >= side ? side - 1 : xx;
                    sum += in[yy * side + xx];
                }
                out[y * side + x] = clamp01(in[y * side + x] + t * (sum / 9 - in[y * side + x]));
            }
}

static void cut_hole(const dt_augment *a, bs_rng *r, int side, float *ink)
{
    float h = bs_rng_range(r, a->hole_lo, a->hole_hi) * (float)side / 2,
          w = bs_rng_range(r, a->hole_lo, a->hole_hi) * (float)side / 2;
    float cy = bs_rng_float(r) * (float)side, cx = bs_rng_float(r) * (float)side;
    bool colored = chance(r, 0.5f);
    for (int c = 0; c < 3; c++, ink += side * side) {
        float fill = colored ? bs_rng_float(r) : 0;
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++)
                if (fabsf((float)y - cy) < h && fabsf((float)x - cx) < w)
                    ink[y * side + x] = fill;
    }
}

void dt_augment_run(const dt_augment *a, const im_processor *p, const im_raster *in, int side, bs_rng *rng, float *scratch,
                    float *out)
{
    size_t plane = (size_t)side * (size_t)side;
    float place[2][3], color[3][3];
    affine(a, rng, place);
    color_matrix(a, rng, color);
    warp(in, place, side, scratch);
    recolor(color, plane, scratch);
    if (chance(rng, a->blur))
        blur(bs_rng_range(rng, -0.7f, 1), side, scratch, out);
    else
        memcpy(out, scratch, 3 * plane * sizeof *out);
    if (chance(rng, a->cutout))
        cut_hole(a, rng, side, out);
    for (size_t c = 0; c < 3; c++) {
        float mean = p->do_normalize ? (float)p->mean[c] : 0, scale = p->do_normalize ? (float)(1 / p->std[c]) : 1;
        for (size_t i = 0; i < plane; i++)
            out[c * plane + i] = (1 - out[c * plane + i] - mean) * scale;
    }
}
