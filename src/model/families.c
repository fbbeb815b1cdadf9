/* families.c - the families there are. A new one adds its file and a line here. */
#include "model.h"

extern const md_family md_clip, md_blocks;

const md_family *const md_families[] = {
    &md_clip,
    &md_blocks,
    NULL,
};
