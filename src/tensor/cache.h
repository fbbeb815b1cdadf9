/* cache.h - keys and values of the positions that were seen, kept in pages that sequences share (Kwon et al. 2023): what beams, prompts with a
 * common beginning and turns of a conversation have in common is held, and was computed, once. */
#ifndef TN_CACHE_H
#define TN_CACHE_H

#include "../kernel/kernel.h"

typedef struct tn_cache_shape {
    long layers;     /* self-attentions whose keys are kept */
    long kv_heads;   /* of each */
    long key, value; /* widths of a head */
    bool rows;       /* values are the keys, which are held once: rows that are looked at as they are, of one layer and one head, in fp32 */
    long positions;  /* that all sequences may hold together; memory is taken as it is used */
    kn_kv_type type;
} tn_cache_shape;

typedef struct tn_cache tn_cache;

tn_cache *tn_cache_open(const tn_cache_shape *shape, oc_err *err);
void tn_cache_close(tn_cache *c); /* NULL is fine */
const tn_cache_shape *tn_cache_shape_of(const tn_cache *c);
/* Bytes of all positions. */
size_t tn_cache_bytes(const tn_cache *c);
/* The same of one that is not open; 0: more than memory can be. */
size_t tn_cache_needs(const tn_cache_shape *shape);
long tn_page_keys(void); /* positions of a page */

/* A sequence without positions: its number, or -1. */
int tn_sequence_open(tn_cache *c, oc_err *err);
/* A new one that begins with the first `length` positions of another. Nothing is copied before one of the two writes. */
int tn_sequence_fork(tn_cache *c, int from, long length, oc_err *err);
void tn_sequence_close(tn_cache *c, int sequence);
long tn_sequence_length(const tn_cache *c, int sequence);
/* Makes it `length` long: positions behind are forgotten, or new ones made to be written. -1 and an error when the cache is full. */
int tn_sequence_resize(tn_cache *c, int sequence, long length, oc_err *err);

/* ---- for attention ---- */

/* Rows of k [n, kv_heads * key] and v [n, kv_heads * value] (not read where values are the keys) become the positions from `position` on, which must have been made. Layers
 * count from 0. */
void tn_cache_write(tn_cache *c, const kn_table *t, int sequence, long layer, long position, long n, const float *k,
                    const float *v);
/* The pages of its positions, as attention reads them: ceil(length / tn_page_keys()) of them into `to`. */
void tn_cache_pages(const tn_cache *c, int sequence, long layer, long length, kn_page *to);

#endif
