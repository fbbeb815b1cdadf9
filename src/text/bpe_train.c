/* bpe_train.c - to come */
#include "text_parts.h"
int32_t tx_train_bpe(const char *const *files, size_t n_files, const tx_train_options *options, const char *out_dir, oc_err *err)
{ (void)files;(void)n_files;(void)options;(void)out_dir; return bs_err(err,"to come"); }
