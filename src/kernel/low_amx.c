/* low_amx.c - bf16 and int8 weights on AMX (Sapphire Rapids and later): activations are rounded to bf16 too, or are the bytes that they are elsewhere.
 *
 * A register of A is 16 rows of 64 bytes along k, so that a tile of A is cut into squares: 64 bytes along k of row i at (square * 32 + i) * 64. A register of
 * B is 16 units along k (pairs of bf16, fours of bytes) of 16 columns, which is how strips of weights lie already (low.h), 32 columns wide.
 * Registers are shaped to the rows there are, so that one row costs little more than reading the weights; a row's bits do not depend on its company. */
#include "amx.h"
#include "low.h"

enum {
    MR = 2 * KN_AMX_ROWS,
    NR = 2 * KN_AMX_ROWS,
    UNITS = KN_AMX_ROWS,
    B_ROW = NR * 4,
    A_SQUARES = MR * KN_AMX_BYTES,
    B_SQUARES = UNITS * B_ROW
};
enum { BF16, BYTES };

/* Squares of A by the strip of B; `lower`: there are more than 16 rows. */
static inline __attribute__((always_inline)) void multiply(const int kind, const bool lower, long squares, const uint8_t *a,
                                                           const uint8_t *b, kn_soon next)
{
    long lines = kn_lines_a_step(next, squares);
    for (; squares > 0; squares--, a += A_SQUARES, b += B_SQUARES) {
        kn_ask(&next, lines);
        _tile_loadd(6, b, B_ROW);
        _tile_loadd(4, a, KN_AMX_BYTES);
        _tile_loadd(7, b + KN_AMX_BYTES, B_ROW);
        if (kind == BF16) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        } else {
            _tile_dpbsud(0, 4, 6);
            _tile_dpbsud(1, 4, 7);
        }
        if (!lower)
            continue;
        _tile_loadd(5, a + KN_AMX_TILE, KN_AMX_BYTES);
        if (kind == BF16) {
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        } else {
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
    }
}

static void begin_sums(const void *sum, long ld, bool lower, bool accumulate)
{
    const char *up = sum, *down = up + KN_AMX_ROWS * ld * 4;
    if (!accumulate) {
        _tile_zero(0);
        _tile_zero(1);
    } else {
        _tile_loadd(0, up, ld * 4);
        _tile_loadd(1, up + KN_AMX_BYTES, ld * 4);
    }
    if (!lower)
        return;
    if (!accumulate) {
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(2, down, ld * 4);
        _tile_loadd(3, down + KN_AMX_BYTES, ld * 4);
    }
}

static void store_sums(void *sum, long ld, bool lower)
{
    char *up = sum, *down = up + KN_AMX_ROWS * ld * 4;
    _tile_stored(0, up, ld * 4);
    _tile_stored(1, up + KN_AMX_BYTES, ld * 4);
    if (!lower)
        return;
    _tile_stored(2, down, ld * 4);
    _tile_stored(3, down + KN_AMX_BYTES, ld * 4);
}

static inline __attribute__((always_inline)) void tile_of(const int kind, long squares, const void *a, const void *b, void *sum,
                                                          long ld, int m, bool accumulate, kn_soon next)
{
    bool lower = m > KN_AMX_ROWS;
    kn_amx_reshape(m);
    begin_sums(sum, ld, lower, accumulate);
    if (lower)
        multiply(kind, true, squares, a, b, next);
    else
        multiply(kind, false, squares, a, b, next);
    store_sums(sum, ld, lower);
}

static void tile16(long k, const float *a, long sa, const uint16_t *b, float *sum, long ld, int m, bool accumulate, kn_soon next)
{
    (void)sa;
    tile_of(BF16, (k + 2 * UNITS - 1) / (2 * UNITS), a, b, sum, ld, m, accumulate, next);
}

static void tile8(long units, const int32_t *a, long sa, const uint8_t *b, const int32_t *start, int32_t *sum, long ld, int m,
                  kn_soon next)
{
    (void)sa;
    for (int i = 0; start && i < m; i++)
        for (int j = 0; j < NR; j += UNITS)
            _mm512_storeu_si512(sum + i * ld + j, _mm512_set1_epi32(start[i]));
    tile_of(BYTES, (units + UNITS - 1) / UNITS, a, b, sum, ld, m, true, next);
}

static void pack(long k, long w, long width, const float *x, long ld, bool transpose, float *p)
{
    kn_amx_bf16.pack_a(k, w, width, x, ld, transpose, p);
}

const kn_low_bf16 kn_low_bf16_amx = {
    .nr = NR, .mr = MR, .pair = 1, .squares = true, .pack = pack, .tile = tile16, .begin = kn_amx_begin, .end = kn_amx_end};

void kn_low_int_by_amx(kn_low_int *u)
{
    u->mr8 = MR;
    u->squares = true;
    u->tile8 = tile8;
    u->strips8 = NULL;
    u->begin = kn_amx_begin;
    u->end = kn_amx_end;
}
