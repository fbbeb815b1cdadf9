/* dispatch.c - which tiers this CPU can run. Compiled with base flags: nothing here may use what it looks for. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "thirds.h"
#include "tiers.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TIER_NAMES "generic, avx2, avx512, amx"
#elif defined(__aarch64__)
#include <sys/auxv.h>
#define TIER_NAMES "generic, neon"
#else
#define TIER_NAMES "generic"
#endif

enum { MAX_TIERS = 4 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const kn_table *tiers[MAX_TIERS];
static int tier_count;
#if defined(__x86_64__)
static kn_table amx; /* kn_avx512 by another name, and what lies beside that */
static kn_low_int int_by_amx;
static const kn_low_int *low_int = &kn_low_int_avx512; /* beside AVX-512 */
static const kn_low_bf16 *low_bf16 = &kn_low_bf16_avx512;
#elif defined(__aarch64__)
static bool dotprod;
#endif

#if defined(__x86_64__)
static bool says(const char *variable, const char *value)
{
    const char *said = getenv(variable);
    return said && !strcmp(said, value);
}

/* Asked of the CPU itself, as not every compiler's __builtin_cpu_supports knows the name. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* AVX-512 came in parts: VNNI (bit 11 of ecx, leaf 7) and BF16 (bit 5 of eax, leaf 7.1) are asked for where they are used. */
static bool has_vnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & 1u << 11);
}

/* Intel's cores with BF16 (Cooper Lake to Emerald Rapids) multiply pairs of bf16 at half the rate of floats, AMD's at twice: there widened weights are
 * faster, and exact besides. OCELLI_DOT16=1 takes the instruction wherever it is beside AVX-512, so that it can be checked. */
static bool has_fast_bf16(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5) && (!__builtin_cpu_is("intel") || says("OCELLI_DOT16", "1"));
}

/* AMX keeps 8 KB of registers, which Linux saves for a process only after it has asked (arch_prctl, since 5.16). */
static bool may_use_amx(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25, ALL = BF16 | TILE | INT8 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & ALL) != ALL)
        return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5))
        return false;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#endif

#if defined(__x86_64__)
/* Once, as every product asks. */
static void find_tiers_from_avx512(void)
{
    tiers[tier_count++] = &kn_avx512;
    bool vnni = has_vnni();
    if (vnni)
        low_int = &kn_low_int_vnni;
    if (has_fast_bf16())
        low_bf16 = &kn_low_bf16_dot;
    if (!vnni || !may_use_amx())
        return;
    amx = kn_avx512;
    amx.name = "amx";
    int_by_amx = kn_low_int_vnni;
    kn_low_int_by_amx(&int_by_amx);
    tiers[tier_count++] = &amx;
}
#endif

#if defined(__x86_64__)
enum { ZEN3 = 25, ZEN5 = 26 };

/* Of AMD's cores; 0: another's. */
static unsigned amd_family(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_is("amd") && __get_cpuid(1, &a, &b, &c, &d) ? (a >> 8 & 15) + (a >> 20 & 255) : 0;
}

/* Zen 5 reads the weights of one row faster when nobody asks for them ahead; more rows and Intel's cores are helped by asking (measured; docs/speed.md, "Few rows" and
 * "Zen 5"). */
long kn_rows_unasked(void) { return amd_family() == ZEN5 ? 1 : 0; }

/* Zen 3 fetches several streams faster than one ("Few rows"). Zen 4 has its number and AVX-512, and was never measured. */
long kn_rows_by_strips(void) { return amd_family() == ZEN3 && !__builtin_cpu_supports("avx512f") ? KN_IN_TURNS : 0; }
#else
long kn_rows_unasked(void) { return 0; }
long kn_rows_by_strips(void) { return 0; }
#endif

/* Every tier of this build, slowest first, and whether the CPU and the system (which must save the registers) have it. */
static void find_tiers(void)
{
    tiers[tier_count++] = &kn_generic;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx2)
        tiers[tier_count++] = &kn_avx2;
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        find_tiers_from_avx512();
#elif defined(__aarch64__)
    tiers[tier_count++] = &kn_neon; /* no aarch64 is without it */
    dotprod = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#endif
}

const kn_table *const *kn_all(int *count)
{
    pthread_once(&once, find_tiers);
    *count = tier_count;
    return tiers;
}

const kn_table *kn_best(oc_err *err)
{
    int count;
    const kn_table *const *all = kn_all(&count);
    const char *name = getenv("OCELLI_CPU");
    if (!name || !*name)
        return all[count - 1];
    for (int i = 0; i < count; i++)
        if (!strcmp(name, all[i]->name))
            return all[i];
    bs_err(err, "OCELLI_CPU: this CPU cannot run '%s'; it can run up to '%s' (tiers: " TIER_NAMES ")", name,
           all[count - 1]->name);
    return NULL;
}

#if defined(__x86_64__)
const kn_micro *kn_bf16_micro(const kn_table *t) { return t == &amx ? &kn_amx_bf16 : NULL; }

const kn_thirds *kn_thirds_of(const kn_table *t) { return t == &amx ? &kn_thirds_amx : NULL; }
#else
const kn_thirds *kn_thirds_of(const kn_table *t)
{
    (void)t;
    return NULL;
}

const kn_micro *kn_bf16_micro(const kn_table *t)
{
    (void)t;
    return NULL;
}
#endif

#if defined(__x86_64__)
const kn_low_int *kn_low_int_of(const kn_table *t)
{
    pthread_once(&once, find_tiers);
    if (t == &amx)
        return &int_by_amx;
    if (t == &kn_avx512)
        return low_int;
    return t == &kn_avx2 ? &kn_low_int_avx2 : &kn_low_int_generic;
}

const kn_low_bf16 *kn_low_bf16_of(const kn_table *t)
{
    pthread_once(&once, find_tiers);
    if (t == &amx)
        return &kn_low_bf16_amx;
    if (t == &kn_avx512)
        return low_bf16;
    return t == &kn_avx2 ? &kn_low_bf16_avx2 : &kn_low_bf16_generic;
}
#elif defined(__aarch64__)
const kn_low_int *kn_low_int_of(const kn_table *t)
{
    pthread_once(&once, find_tiers);
    if (t != &kn_neon)
        return &kn_low_int_generic;
    return dotprod ? &kn_low_int_sdot : &kn_low_int_neon;
}

const kn_low_bf16 *kn_low_bf16_of(const kn_table *t) { return t == &kn_neon ? &kn_low_bf16_neon : &kn_low_bf16_generic; }
#else
const kn_low_int *kn_low_int_of(const kn_table *t)
{
    (void)t;
    return &kn_low_int_generic;
}

const kn_low_bf16 *kn_low_bf16_of(const kn_table *t)
{
    (void)t;
    return &kn_low_bf16_generic;
}
#endif
