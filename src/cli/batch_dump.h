/* batch_dump.h - what a training run starts from and what it is fed, as files: for another framework to do the same steps. */
#ifndef CL_BATCH_DUMP_H
#define CL_BATCH_DUMP_H

#include "../data/loader.h"

/* The model as it stands into `folder`, which transformers then opens: fp32 weights and the files beside them; with an adapter, its factors instead. */
int cl_dump_start(const char *folder, const md_model *m, const md_lora *lora, oc_err *err);

/* FOLDER/step-NNNNNN.safetensors, NNNNNN counting from 1 as the metrics do. pixel_values [images,3,S,S] F32 and input_ids [texts,T] I64, zeros behind
 * the end. Where the batch has more than one match a row: text_target [texts,images] and image_target [images,texts] F32, rows summing to 1; otherwise text
 * i matches picture i. With a loss between pictures: partner_target [images,images]. */
int cl_dump_batch(const char *folder, long step, const md_batch *b, oc_err *err);

#endif
