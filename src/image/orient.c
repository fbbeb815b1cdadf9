/* orient.c - which way is up, by EXIF or XMP, and turning a picture so. */
#include <string.h>

#include "codec.h"

/* ---- reading ------------------------------------------------------------------------------------------ */

/* A TIFF block: "II" or "MM", 42, the offset of the first directory; a directory is a count and entries of
 * 12 bytes: tag, type, number of values, value or offset (TIFF 6.0, section 2). */
typedef struct tiff_block {
    im_bytes data;
    bool big_endian;
} tiff_block;

enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, TYPE_LONG = 4 };

/* `size` bytes at `at`; *ok becomes false beyond the end. */
static uint32_t tiff_number(const tiff_block *t, size_t at, size_t size, bool *ok)
{
    uint32_t v = 0;
    if (at > t->data.n || t->data.n - at < size) {
        *ok = false;
        return 0;
    }
    for (size_t i = 0; i < size; i++)
        v = v << 8 | t->data.p[t->big_endian ? at + i : at + size - 1 - i];
    return v;
}

static int tiff_value(const tiff_block *t, size_t entry, bool *ok)
{
    uint32_t type = tiff_number(t, entry + 2, 2, ok), count = tiff_number(t, entry + 4, 4, ok);
    size_t size = type == TYPE_SHORT ? 2 : type == TYPE_LONG ? 4 : 0;
    uint32_t value = tiff_number(t, entry + 8, size, ok);
    return *ok && size && count == 1 && value >= 1 && value <= 8 ? (int)value : 1;
}

/* 1..8, or 0 when the block has no orientation at all. */
static int tiff_orientation(im_bytes data)
{
    if (data.n >= 6 && !memcmp(data.p, "Exif\0\0", 6)) {
        data.p += 6;
        data.n -= 6;
    }
    if (data.n < 8 || (memcmp(data.p, "II", 2) && memcmp(data.p, "MM", 2)))
        return 0;
    tiff_block t = {data, data.p[0] == 'M'};
    bool ok = true;
    size_t at = tiff_number(&t, 4, 4, &ok);
    uint32_t entries = tiff_number(&t, at, 2, &ok);
    for (uint32_t i = 0; ok && i < entries; i++) {
        size_t entry = at + 2 + (size_t)i * 12;
        if (tiff_number(&t, entry, 2, &ok) == TAG_ORIENTATION && ok)
            return tiff_value(&t, entry, &ok);
    }
    return 0;
}

/* tiff:Orientation="6" as an attribute or <tiff:Orientation>6 as an element. */
static int xmp_orientation(im_bytes xmp)
{
    static const char key[] = "tiff:Orientation";
    const size_t n = sizeof key - 1;
    for (size_t at = 0; at + n + 3 <= xmp.n; at++) {
        const uint8_t *p = xmp.p + at;
        if (p[0] != 't' || memcmp(p, key, n))
            continue;
        const uint8_t *digit = p[n] == '>' ? p + n + 1 : p[n] == '=' && p[n + 1] == '"' ? p + n + 2 : NULL;
        if (digit && *digit >= '0' && *digit <= '9')
            return *digit >= '1' && *digit <= '8' ? *digit - '0' : 1;
    }
    return 0;
}

int im_orientation(im_bytes exif, im_bytes xmp)
{
    int found = exif.p ? tiff_orientation(exif) : 0;
    if (!found && xmp.p)
        found = xmp_orientation(xmp);
    return found ? found : 1;
}

/* ---- turning ------------------------------------------------------------------------------------------ */

/* Copies one tile; the steps are between source pixels, in bytes. Tiles keep both sides in the cache when
 * rows become columns. */
static void copy_tile(uint8_t *to, size_t to_row, const uint8_t *from, ptrdiff_t step_x, ptrdiff_t step_y, int width, int height)
{
    for (int y = 0; y < height; y++) {
        uint8_t *t = to + (size_t)y * to_row;
        const uint8_t *f = from + y * step_y;
        for (int x = 0; x < width; x++, t += 3, f += step_x) {
            t[0] = f[0];
            t[1] = f[1];
            t[2] = f[2];
        }
    }
}

static void turn(im_raster *to, const im_raster *from, im_turn how)
{
    enum { TILE = 32 };
    ptrdiff_t right = 3, down = (ptrdiff_t)from->width * 3;
    const uint8_t *corner = from->rgb;
    if (how.flip_x) {
        corner += (from->width - 1) * right;
        right = -right;
    }
    if (how.flip_y) {
        corner += (from->height - 1) * down;
        down = -down;
    }
    ptrdiff_t step_x = how.swap ? down : right, step_y = how.swap ? right : down;
    size_t row = (size_t)to->width * 3;
    for (int y = 0; y < to->height; y += TILE)
        for (int x = 0; x < to->width; x += TILE) {
            int width = to->width - x < TILE ? to->width - x : TILE;
            int height = to->height - y < TILE ? to->height - y : TILE;
            copy_tile(to->rgb + (size_t)y * row + (size_t)x * 3, row, corner + x * step_x + y * step_y, step_x, step_y, width,
                      height);
        }
}

im_turn im_orientation_turn(int orientation)
{
    /* EXIF 2.3, table 6: what the stored rows and columns must undergo. */
    static const im_turn turns[9] = {{0}, {0}, {0, 1, 0}, {0, 1, 1}, {0, 0, 1}, {1, 0, 0}, {1, 0, 1}, {1, 1, 1}, {1, 1, 0}};
    return turns[orientation < 1 || orientation > 8 ? 1 : orientation];
}

int im_turn_upright(im_raster *r, int orientation, oc_err *err)
{
    im_turn how = im_orientation_turn(orientation);
    im_raster turned = {0};
    if (!how.swap && !how.flip_x && !how.flip_y)
        return 0;
    if (im_raster_alloc(&turned, how.swap ? r->height : r->width, how.swap ? r->width : r->height, err))
        return -1;
    turn(&turned, r, how);
    im_raster_clear(r);
    *r = turned;
    return 0;
}
