/* tiers.h - the tables that exist; each is defined in a file compiled for its instruction set. */
#ifndef KN_TIERS_H
#define KN_TIERS_H

#include "kernel.h"

extern const kn_table kn_generic;
#if defined(__x86_64__)
extern const kn_table kn_avx2, kn_avx512;
#elif defined(__aarch64__)
extern const kn_table kn_neon;
#endif

#endif
