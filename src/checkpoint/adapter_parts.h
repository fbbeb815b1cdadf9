/* adapter_parts.h - what the two files of the adapter reader share; not for other folders. */
#ifndef CK_ADAPTER_PARTS_H
#define CK_ADAPTER_PARTS_H

#include "adapter.h"
#include "config.h"

/* Fills an initialised c from the parsed adapter_config.json and checks it; `name` stands in errors. */
int ck_adapter_config_take(ck_adapter_config *c, const ck_config *file, const char *name, oc_err *err);
/* Appends the file's text as PEFT 0.21 writes it: every field, sorted. */
int ck_adapter_config_put(bs_buf *b, const ck_adapter_config *c, oc_err *err);

#endif
