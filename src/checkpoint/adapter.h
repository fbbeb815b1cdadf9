/* adapter.h - LoRA adapters in PEFT's files, both ways: adapter_config.json + adapter_model.safetensors.
 *
 * Follows PEFT 0.21 (https://huggingface.co/docs/peft): keys base_model.model.MODULE.lora_A.weight [r,in] and
 * .lora_B.weight [out,r]; what is added to a weight is scale * B A (transposed when fan_in_fan_out), with
 * scale = alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023). Hu et al. 2021, arXiv 2106.09685. */
#ifndef CK_ADAPTER_H
#define CK_ADAPTER_H

#include "safetensors.h"

/* A list of strings, owned. */
typedef struct ck_names {
    char **p;
    int n;
} ck_names;
int ck_names_add(ck_names *names, const char *name, oc_err *err);
void ck_names_clear(ck_names *names);

/* Exceptions by module: the first pattern that matches all of the module's path, or all of it after a dot. */
typedef struct ck_pattern {
    char *key; /* a regular expression */
    double value;
} ck_pattern;
typedef struct ck_patterns {
    ck_pattern *p;
    int n;
} ck_patterns;
int ck_patterns_add(ck_patterns *patterns, const char *key, double value, oc_err *err);

/* adapter_config.json. Strings are owned (malloc); NULL stands for null. */
typedef struct ck_adapter_config {
    int rank;       /* r */
    double alpha;   /* lora_alpha */
    double dropout; /* lora_dropout */
    bool rslora, dora, fan_in_fan_out;
    bool lora_bias;          /* lora_B has a bias */
    char *bias;              /* "none", "all", "lora_only" */
    ck_names target_modules; /* exact, or the end of the path after a dot */
    char *target_regex;      /* instead of the list: matches the whole path */
    bool all_linear;         /* instead of both: "all-linear" */
    ck_names exclude_modules;
    char *exclude_regex;
    int *layers_to_transform;
    int layers_n; /* 0: all layers */
    ck_names layers_pattern;
    ck_patterns rank_pattern, alpha_pattern;
    ck_names modules_to_save;        /* whole modules that are stored next to the factors */
    char *base_model;                /* base_model_name_or_path */
    char *base_class, *base_library; /* auto_mapping: "CLIPModel", "transformers.models.clip.modeling_clip" */
    char *task_type;
} ck_adapter_config;

/* r 8, alpha 8, no dropout, bias "none", nothing targeted: PEFT's defaults. -1 when memory is short. */
int ck_adapter_config_init(ck_adapter_config *c, oc_err *err);
void ck_adapter_config_clear(ck_adapter_config *c);
/* Numbers in range, every regular expression compiles, something is targeted. Called by read, write. */
int ck_adapter_config_check(const ck_adapter_config *c, const char *name, oc_err *err);

/* Whether the adapter belongs on this module ("text_model.encoder.layers.0.self_attn.q_proj"):
 * exclude_modules first, then target_modules, then layers_to_transform, with PEFT's rules. With all_linear
 * every module that is asked about is one, so ask about linear layers only and leave the output head out. */
bool ck_adapter_targets(const ck_adapter_config *c, const char *module);
/* Whether the module, or one that it lies in, ends with one of modules_to_save. */
bool ck_adapter_saves(const ck_adapter_config *c, const char *module);
int ck_adapter_rank(const ck_adapter_config *c, const char *module);
double ck_adapter_alpha(const ck_adapter_config *c, const char *module);
double ck_adapter_scale(const ck_adapter_config *c, const char *module);

/* One adapted module. Tensors are views into the adapter's store; a and b, or embedding_a and embedding_b. */
typedef struct ck_adapter_target {
    char *module;                 /* path without "base_model.model." */
    const ck_tensor *a;           /* [r,in], or [r,in,kh,kw] on a convolution */
    const ck_tensor *b;           /* [out,r], or [out,r,1,1] */
    const ck_tensor *b_bias;      /* [out] with lora_bias, else NULL */
    const ck_tensor *embedding_a; /* [r,rows] */
    const ck_tensor *embedding_b; /* [width,r] */
    const ck_tensor *magnitude;   /* [out], DoRA; else NULL */
    int rank;
    double scale;
} ck_adapter_target;

/* A weight that the adapter replaces as a whole (modules_to_save, trained biases). */
typedef struct ck_adapter_saved {
    char *name; /* the weight's name in the base model */
    const ck_tensor *tensor;
} ck_adapter_saved;

typedef struct ck_adapter {
    char *folder;
    ck_adapter_config config;
    ck_store *store;
    ck_adapter_target *targets; /* sorted by module */
    int targets_n;
    ck_adapter_saved *saved;
    int saved_n;
    ck_names unplaced; /* keys of the file that nothing in the config accounts for: refuse the adapter */
} ck_adapter;

/* Reads a folder. Fails on anything but LoRA, on what is not supported (named), on a factor without its
 * partner, on ranks that differ from the config, on keys that no config accounts for. unplaced is empty
 * after success. */
int ck_adapter_open(ck_adapter *a, const char *folder, oc_err *err);
/* The same, but unplaced keys are left in a->unplaced for the caller to report. */
int ck_adapter_open_lax(ck_adapter *a, const char *folder, oc_err *err);
/* Both files' contents in memory, for tests and fuzzing; the weights stay the caller's. */
int ck_adapter_open_bytes(ck_adapter *a, const void *config, size_t config_n, const void *weights, size_t weights_n, oc_err *err);
void ck_adapter_close(ck_adapter *a);                                              /* a zeroed one is fine */
const ck_adapter_target *ck_adapter_find(const ck_adapter *a, const char *module); /* NULL when there is none */

/* Writes both files into folder (made when absent). Tensors are named as in the base model,
 * MODULE.lora_A.weight, MODULE.lora_B.weight, ...; "base_model.model." is put in front. */
int ck_adapter_write(const char *folder, const ck_adapter_config *c, const ck_tensor *tensors, size_t n, oc_err *err);

#endif
