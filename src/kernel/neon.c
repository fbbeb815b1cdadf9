/* neon.c - the NEON tier (aarch64): 12 rows by 2 vectors of sums, 2 vectors of B and 3 of A fill 29 of the 32 registers. */
#include "scalar.h"
#include "simd_neon.h"
#include "tiers.h"

#define MR 12
enum { NR = 2 * VW, MC = 10 * MR };

#include "tile_tmpl.h"

#include "rows_tmpl.h"

#include "pixels_neon.h"

const kn_table kn_neon = {
    .name = "neon",
    .mr = MR,
    .nr = NR,
    .mc = MC,
#include "table.h"
};
