/* speaker.h - a model that goes on with texts: its threads, memory and cache of keys, and passes over the sequences in it. */
#ifndef RN_SPEAKER_H
#define RN_SPEAKER_H

#include "engine.h"

/* Ids that follow what a sequence has; the logits behind its last `wanted` of them are asked for. */
typedef struct rn_feed {
    int sequence;
    const int32_t *ids;
    long n, wanted;
    int memory; /* what an encoder-decoder's answer is about, as rn_remember gave it; else not looked at */
} rn_feed;

/* The logits [vocab] behind id `index` of a feed; they may be changed, and live until the call returns. */
typedef void rn_hear(void *arg, int feed, long index, float *logits);

/* A sequence that was left in the cache, with its ids: a later one that begins alike goes on from there. */
typedef struct rn_kept {
    int sequence; /* -1: none */
    tx_ids ids;
    unsigned long used; /* when, by count */
} rn_kept;

enum { RN_KEPT = 4 };

/* Logits that a pass was asked for. */
typedef struct rn_asked {
    int feed;
    long index;
} rn_asked;

typedef struct rn_speaker {
    oc_engine *engine;
    bs_pool *pool;
    kn_work *work;
    tn_cache *cache, *memory; /* memory: of an encoder-decoder, else NULL */
    void *arena;
    size_t arena_bytes;
    tn_ctx cx;
    md_batch batch;   /* room for `rows` */
    tn_step *step;    /* [sequences] */
    rn_asked *asked;  /* [heard] */
    long rows, heard; /* of a pass, at most; and rows whose logits are asked for */
    int sequences;    /* of a pass, at most */
    long context;     /* positions of a sequence, at most */
    long remembered;  /* rows of a memory, at most */
    bool reads;       /* prompts are remembered (MD_PROMPT_READ), answers begin with the model's `start` */
    int32_t eos[16];  /* what ends a text */
    int eos_n;
    rn_kept kept[RN_KEPT];
    unsigned long uses;
} rn_speaker;

/* batch: sequences that go on at the same time (beams count), and as many as are kept come on top. heard: rows of a pass whose logits may be asked for; 0: 32,
 * or the sequences where those are more. */
int rn_speaker_open(rn_speaker *s, oc_engine *e, const oc_generator_options *options, long heard, oc_err *err);
void rn_speaker_close(rn_speaker *s);
/* Bytes of the arena that such a speaker would take, and of its caches when they are full, without taking them. The model's values are not looked at;
 * threads: 0 for one per core. */
int rn_speaker_needs(const md_model *m, int threads, const oc_generator_options *options, size_t *arena, size_t *cache, oc_err *err);
/* Runs all feeds, many in one pass; every sequence gets the bits that it gets alone. */
int rn_run_feeds(rn_speaker *s, const rn_feed *feed, int n, rn_hear *hear, void *arg, oc_err *err);
bool rn_ends(const rn_speaker *s, int32_t id);
/* No token that ends a text can be chosen from these logits. */
void rn_forbid_end(const rn_speaker *s, float *logits);

/* An encoder-decoder reads a prompt (where it does, `reads`) and looks at a picture (pixels as its processor gives them; NULL where it takes none): the number of what
 * it remembers of them, or -1; tn_sequence_close(s->memory, ..) forgets. */
int rn_remember(rn_speaker *s, const tx_ids *prompt, const float *pixels, oc_err *err);
/* A sequence that begins as `ids` do, as far as one that was kept does, and *have of them: at least one id is left to be fed. */
int rn_begin(rn_speaker *s, const tx_ids *ids, long *have, oc_err *err);
/* How many positions still hold when a sequence becomes `total` long: all it has, or none where a model turns longer texts by other frequencies from
 * the beginning on (then it is emptied, and all ids are to be fed again). */
long rn_still(rn_speaker *s, int sequence, long total);
/* Leaves a sequence that holds exactly `ids` to whoever comes next. Takes both. */
void rn_keep(rn_speaker *s, int sequence, tx_ids *ids);

#endif
