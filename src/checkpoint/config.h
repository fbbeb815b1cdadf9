/* config.h - JSON files read with types, ranges and errors that name the place:
 * 'DIR/config.json': text_config.hidden_size is "abc", expected an integer from 1 to 65536
 *
 * The getters take the default in *value and leave it there when the key is absent or null, so a struct is
 * filled with its family's defaults first and then laid over. key NULL means the node itself (an element of
 * an array).
 *
 *     ck_config *c = ck_config_read("DIR/config.json", err);
 *     const ck_config *text = NULL;
 *     bool bad = !c || ck_object(c, "text_config", &text, err) ||
 *                (text && ck_int(text, "hidden_size", &width, 1, 65536, err)); */
#ifndef CK_CONFIG_H
#define CK_CONFIG_H

#include "../base/base.h"

/* A whole file (the root) or a place in it. Places belong to the root and live as long. One thread. */
typedef struct ck_config ck_config;

/* At most 64 MiB of UTF-8 JSON, the root an object or an array; duplicate keys, NaN and Infinity are
 * errors. */
ck_config *ck_config_read(const char *path, oc_err *err);
ck_config *ck_config_parse(const void *bytes, size_t n, const char *name, oc_err *err);
void ck_config_free(ck_config *root); /* NULL is fine; never a place */

bool ck_has(const ck_config *c, const char *key); /* there and not null */

/* 0, with *value as it was when absent or null; -1 and an error when of another type or out of [lo, hi]. */
int ck_int(const ck_config *c, const char *key, int *value, int lo, int hi, oc_err *err);
int ck_int64(const ck_config *c, const char *key, int64_t *value, int64_t lo, int64_t hi, oc_err *err);
int ck_double(const ck_config *c, const char *key, double *value, double lo, double hi, oc_err *err);
int ck_float(const ck_config *c, const char *key, float *value, float lo, float hi, oc_err *err);
int ck_bool(const ck_config *c, const char *key, bool *value, oc_err *err);
/* The string belongs to the root. */
int ck_string(const ck_config *c, const char *key, const char **value, oc_err *err);
/* A string that must be one of `names` (ends with NULL): its index. */
int ck_choice(const ck_config *c, const char *key, int *value, const char *const *names, oc_err *err);
int ck_object(const ck_config *c, const char *key, const ck_config **value, oc_err *err);
int ck_array(const ck_config *c, const char *key, const ck_config **value, oc_err *err);
/* An array of exactly n numbers (a single number stands for n equal ones). */
int ck_ints(const ck_config *c, const char *key, int *value, int n, int lo, int hi, oc_err *err);
int ck_floats(const ck_config *c, const char *key, float *value, int n, float lo, float hi, oc_err *err);

/* Any kind of value: NULL when absent (a JSON null is there, of kind CK_NULL). */
typedef enum ck_kind { CK_NULL, CK_TRUTH, CK_INTEGER, CK_REAL, CK_STRING, CK_ARRAY, CK_OBJECT } ck_kind;
const ck_config *ck_get(const ck_config *c, const char *key);
ck_kind ck_config_kind(const ck_config *c);
size_t ck_config_size(const ck_config *c);                   /* elements or members; 0 for a plain value */
const ck_config *ck_config_at(const ck_config *c, size_t i); /* in the file's order; NULL beyond the end */
const char *ck_config_key(const ck_config *c);               /* of a member; NULL otherwise */

/* The error of a value that is well-formed but wrong: "'FILE': a.b is 7, expected EXPECTED". Returns -1. */
int ck_config_wrong(const ck_config *c, const char *key, oc_err *err, const char *expected, ...)
    __attribute__((format(printf, 4, 5)));
/* Fails when the key is absent or null: "'FILE': a.b is missing, expected WHAT". */
int ck_config_need(const ck_config *c, const char *key, const char *what, oc_err *err);

/* Copies a JSON object's file with member `key` set to what `json` spells (in its place when it was there, else last). */
int ck_config_copy_with(const char *from, const char *to, const char *key, const char *json, oc_err *err);

bool ck_is_utf8(const char *text);
/* Appends a JSON string with its quotes; text must be UTF-8 (what is not becomes U+FFFD). */
int ck_json_string(bs_buf *out, const char *text, oc_err *err);

#endif
