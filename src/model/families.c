/* families.c - the families there are. A new one is a file NAME.c beside this one, with its descriptor md_NAME, and a line FAMILY(NAME) here;
 * src/meson.build reads the same lines. */
#include "model.h"

#define FAMILIES \
    FAMILY(clip) \
    FAMILY(chinese_clip) \
    FAMILY(siglip) \
    FAMILY(blip) \
    FAMILY(bert) \
    FAMILY(llama) \
    FAMILY(mistral) \
    FAMILY(phi3) \
    FAMILY(t5) \
    FAMILY(gpt2) \
    FAMILY(opt) \
    FAMILY(blocks)

#define FAMILY(name) extern const md_family md_##name;
FAMILIES
#undef FAMILY

#define FAMILY(name) &md_##name,
const md_family *const md_families[] = {FAMILIES NULL};
