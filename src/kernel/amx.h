/* amx.h - what the micro-kernels for AMX share: how its eight tile registers are shaped. A register holds up to 16 rows of 64 bytes. */
#ifndef KN_AMX_H
#define KN_AMX_H

#include <immintrin.h>
#include <stdint.h>

enum { KN_AMX_ROWS = 16, KN_AMX_BYTES = 64, KN_AMX_TILE = KN_AMX_ROWS * KN_AMX_BYTES };

/* The first n of a vector's numbers; none for n <= 0. */
static inline __mmask16 kn_amx_first(long n) { return (__mmask16)(n >= KN_AMX_ROWS ? 0xffff : n > 0 ? (1u << n) - 1 : 0); }

typedef struct kn_amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} kn_amx_config;

/* C of `rows` (1 to 32) by 32 in registers 0 to 3, A's rows in 4 and 5, B's whole squares in 6 and 7. What is shaped has no value yet. */
static inline void kn_amx_shape(int rows)
{
    static const uint8_t lower[8] = {[2] = 1, [3] = 1, [5] = 1};
    kn_amx_config c = {.palette = 1};
    int upper = rows < KN_AMX_ROWS ? rows : KN_AMX_ROWS;
    for (int i = 0; i < 8; i++) {
        c.rows[i] = (uint8_t)(i > 5 ? KN_AMX_ROWS : lower[i] ? rows - upper : upper);
        c.bytes_per_row[i] = c.rows[i] ? KN_AMX_BYTES : 0;
    }
    __asm__ volatile("" : : "r"(&c) : "memory"); /* GCC's intrinsic says that it reads eight bytes of it */
    _tile_loadconfig(&c);
}

static _Thread_local int kn_amx_shaped; /* rows that this thread's registers are shaped to, for this file's tiles */

static inline void kn_amx_reshape(int rows)
{
    if (kn_amx_shaped != rows)
        kn_amx_shape(rows);
    kn_amx_shaped = rows;
}

/* One thread asks for tiles between these. */
static inline void kn_amx_begin(void) { kn_amx_shaped = 0; }

/* Registers that are not released slow down every switch between threads. */
static inline void kn_amx_end(void) { _tile_release(); }

#endif
