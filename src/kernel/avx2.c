/* avx2.c - the AVX2 tier (with FMA and F16C): 6 rows by 2 vectors of sums fill 12 of the 16 registers. */
#include "scalar.h"
#include "simd_avx2.h"
#include "tiers.h"

#define MR 6
enum { NR = 2 * VW, MC = 24 * MR };

#include "tile_tmpl.h"

#include "rows_tmpl.h"

#include "pixels_x86.h"

const kn_table kn_avx2 = {
    .name = "avx2",
    .mr = MR,
    .nr = NR,
    .mc = MC,
#include "table.h"
};
