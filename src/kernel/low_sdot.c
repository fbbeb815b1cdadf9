/* low_sdot.c - int8 and int4 weights on ARM CPUs with dotprod (ARMv8.2, optional; all since 8.4): SDOT multiplies bytes and adds four
 * products to a sum of 32 bits. Weights lie as for NEON without it. */
#include "low_neon.h"

#define MR8 12
#define MR4 4
enum { DEPTH = 4, UNIT8 = VW * DEPTH, BIAS = 0, LIFT = 0 };

static inline vi load8(const uint8_t *b) { return vi_load(b); }
static inline vi dot8(vi s, vi b, vi a) { return vdotq_s32(s, vreinterpretq_s8_s32(b), vreinterpretq_s8_s32(a)); }
static inline vi dot8_from(vi s, vi b, const int32_t *a) { return dot8(s, b, vi_set(*a)); }
static inline vi dot4(vi s, vi b, vi a) { return dot8(s, b, a); }
static inline vi sums4(vi s) { return s; }

#include "low_tmpl.h"

KN_LOW_INT(kn_low_int_sdot);
