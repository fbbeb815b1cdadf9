/* emulated_tiers.c - in place of dispatch.c: every AVX-512 kernel for low precision as a tier of its own, emulated by SIMDe on
 * this CPU; and a single row whose weights nobody asks for ahead, as on Zen 5. */
#include <stdlib.h>

#include "kernel/thirds.h"
#include "kernel/tiers.h"

static kn_table vnni;
static const kn_table *const tiers[] = {&kn_generic, &kn_avx512, &vnni};

const kn_table *const *kn_all(int *count)
{
    vnni = kn_avx512;
    vnni.name = "avx512 with vnni and bf16";
    *count = sizeof tiers / sizeof *tiers;
    return tiers;
}

const kn_table *kn_best(oc_err *err)
{
    (void)err;
    return &vnni;
}

const kn_micro *kn_bf16_micro(const kn_table *t)
{
    (void)t;
    return NULL;
}

const kn_thirds *kn_thirds_of(const kn_table *t)
{
    (void)t;
    return NULL;
}

const kn_low_int *kn_low_int_of(const kn_table *t)
{
    return t == &vnni ? &kn_low_int_vnni : t == &kn_avx512 ? &kn_low_int_avx512 : &kn_low_int_generic;
}

const kn_low_bf16 *kn_low_bf16_of(const kn_table *t)
{
    return t == &vnni ? &kn_low_bf16_dot : t == &kn_avx512 ? &kn_low_bf16_avx512 : &kn_low_bf16_generic;
}

long kn_rows_unasked(void) { return 1; }
long kn_rows_by_strips(void) { return 0; }
