/* safetensors.h - weights on disk: mapped for reading, streamed for writing.
 *
 * The format (Hugging Face, https://huggingface.co/docs/safetensors): 8 bytes little-endian length N, N
 * bytes of JSON {"name":{"dtype","shape","data_offsets":[begin,end]},...}, then the data without holes. A
 * sharded model is several such files and model.safetensors.index.json. Everything a file says is checked
 * before it is used. */
#ifndef CK_SAFETENSORS_H
#define CK_SAFETENSORS_H

#include "../base/base.h"

enum { CK_MAX_RANK = 8 };

/* Numbers as they lie in the file, little-endian. CK_BOOL is one byte, 0 or 1. */
typedef enum ck_dtype { CK_F32, CK_F16, CK_BF16, CK_F64, CK_I64, CK_I32, CK_I16, CK_I8, CK_U8, CK_BOOL, CK_DTYPES } ck_dtype;

size_t ck_dtype_size(ck_dtype dtype);      /* bytes of one element */
const char *ck_dtype_name(ck_dtype dtype); /* "F32", as the file spells it */
bool ck_dtype_is_float(ck_dtype dtype);

/* One tensor of a store, or one to be written. */
typedef struct ck_tensor {
    const char *name; /* UTF-8; owned by the store */
    ck_dtype dtype;
    int rank;                   /* 0 (a scalar) to CK_MAX_RANK */
    int64_t shape[CK_MAX_RANK]; /* row-major, the last is contiguous; a 0 is allowed */
    int64_t count;              /* product of the shape */
    const void *data;           /* into the map: read-only, NOT always aligned to the type */
    size_t bytes;               /* count * ck_dtype_size(dtype) */
    int file;                   /* which shard */
} ck_tensor;

/* Elements [first, first + n) as floats: any float type (F64 is rounded), no other. -1 and an error
 * otherwise. */
int ck_to_f32(const ck_tensor *t, int64_t first, int64_t n, float *out, oc_err *err);
/* The same for I64, I32, I16, I8, U8 and BOOL. */
int ck_to_i64(const ck_tensor *t, int64_t first, int64_t n, int64_t *out, oc_err *err);
/* n floats to `dtype` (a float type), rounded to nearest even as PyTorch does; out holds n * size bytes. */
int ck_from_f32(ck_dtype dtype, const float *in, int64_t n, void *out, oc_err *err);
/* "[768,512]" into text, which it returns. */
enum { CK_SHAPE_TEXT = 192 };
const char *ck_shape_text(int rank, const int64_t *shape, char text[CK_SHAPE_TEXT]);

/* ---- reading ------------------------------------------------------------------------------------------ */

typedef struct ck_store ck_store;

/* path: a folder (with model.safetensors, else model.safetensors.index.json, else
 * open_clip_model.safetensors), any single .safetensors file, or an index file. Pickles are refused. NULL
 * and an error when anything is wrong. */
ck_store *ck_open(const char *path, oc_err *err);
/* A single file's bytes in memory, which the caller keeps; `name` stands in errors. For tests and fuzzing. */
ck_store *ck_open_bytes(const void *bytes, size_t n, const char *name, oc_err *err);
void ck_close(ck_store *s); /* NULL is fine */

size_t ck_count(const ck_store *s);
const ck_tensor *ck_at(const ck_store *s, size_t i);           /* files by name, tensors in the order of their data */
const ck_tensor *ck_find(const ck_store *s, const char *name); /* NULL when there is none */
/* Like ck_find, with an error that names the file and the tensor. */
const ck_tensor *ck_need(const ck_store *s, const char *name, oc_err *err);
/* -1 and an error naming file, tensor, found and expected shape, unless t has this very shape. */
int ck_check_shape(const ck_store *s, const ck_tensor *t, int rank, const int64_t *shape, oc_err *err);
/* -1 and an error with the place of the first NaN or infinity; integers always pass. Reads all the data. */
int ck_check_finite(const ck_store *s, const ck_tensor *t, oc_err *err);
const char *ck_path(const ck_store *s);                     /* what was opened, for errors */
const char *ck_file(const ck_store *s, const ck_tensor *t); /* path of the file that holds t */
/* A string of the (first) file's __metadata__, or NULL. */
const char *ck_metadata(const ck_store *s, const char *key);
/* Gives the mapped pages of t's data back to the system; they are read again from disk when touched. */
void ck_release(const ck_store *s, const ck_tensor *t);
/* Of n bytes from `at` on alone. */
void ck_release_part(const ck_store *s, const ck_tensor *t, size_t at, size_t n);

/* ---- writing ------------------------------------------------------------------------------------------ */

/* Use: open, (meta), add every tensor, (sort), start, then the data in order by put, commit, free. Nothing
 * appears under the final name before commit; free without commit leaves no file. After a failure every
 * call fails. */
typedef struct ck_writer ck_writer;

/* path: "DIR/model.safetensors". With max_shard > 0 and more data than that, the files are
 * DIR/model-00001-of-0000N.safetensors and DIR/model.safetensors.index.json, as transformers names them,
 * and a stale DIR/model.safetensors is removed. A tensor is never split. */
ck_writer *ck_writer_open(const char *path, uint64_t max_shard, oc_err *err);
/* __metadata__ besides "format": "pt", which is always there. */
int ck_writer_meta(ck_writer *w, const char *key, const char *value, oc_err *err);
/* Declares the next tensor; the name is copied. */
int ck_writer_add(ck_writer *w, const char *name, ck_dtype dtype, int rank, const int64_t *shape, oc_err *err);
/* Puts the declared tensors into the order of the reference library: wide types first, then by name.
 * Before start. */
void ck_writer_sort(ck_writer *w);
/* Checks names for duplicates, writes the headers. */
int ck_writer_start(ck_writer *w, oc_err *err);
/* The tensor whose data is due, data NULL; NULL when all is there. Valid until the next put. */
const ck_tensor *ck_writer_next(const ck_writer *w);
/* The next n bytes of that tensor: pieces may be of any size but end at the tensor's end at the latest. */
int ck_writer_put(ck_writer *w, const void *bytes, size_t n, oc_err *err);
int ck_writer_commit(ck_writer *w, oc_err *err);
void ck_writer_free(ck_writer *w); /* NULL is fine */

/* All at once, sorted: name, dtype, rank, shape and data of each tensor are read, the rest is not. */
int ck_write(const char *path, const ck_tensor *tensors, size_t n, uint64_t max_shard, oc_err *err);

#endif
