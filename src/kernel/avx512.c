/* avx512.c - the AVX-512 tier (F, BW, DQ, VL): 14 rows by 2 vectors of sums fill 28 of the 32 registers. */
#include "scalar.h"
#include "simd_avx512.h"
#include "tiers.h"

#define MR 14
enum { NR = 2 * VW, MC = 16 * MR };

#include "tile_tmpl.h"

#include "rows_tmpl.h"

#include "pixels_x86.h"

const kn_table kn_avx512 = {
    .name = "avx512",
    .mr = MR,
    .nr = NR,
    .mc = MC,
#include "table.h"
};
