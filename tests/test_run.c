/* test_run.c - texts that go on: however a prompt comes in, alone or among others, at once or in pieces, behind a beginning that is shared, its logits are the same
 * bits; nothing is allocated for a token, and the plan is what is used; what is drawn is drawn from the right tokens. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "count_allocations.h"
#include "run/generate.h"
#include "run/match.h"

static const char *const folders[] = {"tests/reference/mistral/model", "tests/reference/gpt2/model",
                                      "tests/reference/llama_gqa/model", "tests/reference/opt/model",
                                      "tests/reference/phi3/model"};
enum { MODELS = sizeof folders / sizeof *folders, TEXT = 48, WIDEST = 1024 };

static oc_engine *open_engine(const char *folder, int threads)
{
    oc_err err = {0};
    oc_options o = {.threads = threads};
    oc_engine *e = oc_engine_open(folder, &o, &err);
    if (!e)
        fail_msg("%s", err.text);
    return e;
}

static void open_speaker(rn_speaker *s, oc_engine *e, long context, int sequences, oc_kv_type type)
{
    oc_err err = {0};
    oc_generator_options o = {.context = (int)context, .batch = sequences, .kv = type};
    if (rn_speaker_open(s, e, &o, 0, &err))
        fail_msg("%s", err.text);
}

static void make_ids(int32_t *ids, long n, uint64_t seed)
{
    bs_rng r;
    bs_rng_seed(&r, seed, 1);
    for (long i = 0; i < n; i++)
        ids[i] = 3 + (int32_t)bs_rng_below(&r, 200);
}

/* ---- the same bits ------------------------------------------------------------------------------------------ */

/* The logits behind every id of one text. */
typedef struct record {
    float v[TEXT][WIDEST];
    long vocab, before; /* ids that were fed before this feed */
    long heard;
} record;

static void note(void *arg, int feed, long index, float *logits)
{
    record *r = (record *)arg + feed;
    memcpy(r->v[r->before + index], logits, (size_t)r->vocab * sizeof *logits);
    r->heard++;
}

static void feed_one(rn_speaker *s, int sequence, const int32_t *ids, long n, record *r)
{
    oc_err err = {0};
    r->vocab = s->engine->sizes.vocab;
    assert_true(r->vocab <= WIDEST);
    r->before = tn_sequence_length(s->cache, sequence);
    if (rn_run_feeds(s, &(rn_feed){sequence, ids + r->before, n, n, 0}, 1, note, r, &err))
        fail_msg("%s", err.text);
}

static int open_sequence(rn_speaker *s)
{
    int i = tn_sequence_open(s->cache, NULL);
    assert_true(i >= 0);
    return i;
}

static void assert_same(const record *a, const record *b, long from, long to)
{
    for (long i = from; i < to; i++)
        assert_memory_equal(a->v[i], b->v[i], (size_t)a->vocab * sizeof(float));
}

static void pieces_and_beginnings_change_nothing(void **state)
{
    (void)state;
    static record whole, other;
    static const long piece[] = {1, 3, 7, 16, 31};
    int32_t ids[TEXT];
    make_ids(ids, TEXT, 1);
    for (int m = 0; m < MODELS; m++)
        for (int threads = 1; threads <= 3; threads += 2) {
            oc_engine *e = open_engine(folders[m], threads);
            rn_speaker s;
            open_speaker(&s, e, 0, 5, OC_KV_FP32);
            int first = open_sequence(&s);
            feed_one(&s, first, ids, TEXT, &whole);
            for (size_t k = 0; k < sizeof piece / sizeof *piece; k++) {
                int i = open_sequence(&s);
                for (long at = 0; at < TEXT; at += piece[k])
                    feed_one(&s, i, ids, at + piece[k] < TEXT ? piece[k] : TEXT - at, &other);
                assert_same(&whole, &other, 0, TEXT);
                tn_sequence_close(s.cache, i);
                i = tn_sequence_fork(s.cache, first, piece[k], NULL);
                feed_one(&s, i, ids, TEXT - piece[k], &other);
                assert_same(&whole, &other, piece[k], TEXT);
                tn_sequence_close(s.cache, i);
            }
            rn_speaker_close(&s);
            oc_engine_close(e);
        }
}

static void texts_in_one_pass_are_as_alone(void **state)
{
    (void)state;
    enum { TEXTS = 4 };
    static record alone[TEXTS], together[TEXTS];
    static const long length[TEXTS] = {1, 33, 12, TEXT};
    static const long wanted[TEXTS] = {1, 5, 12, 1};
    for (int m = 0; m < MODELS; m++) {
        oc_engine *e = open_engine(folders[m], 2);
        rn_speaker s;
        oc_err err = {0};
        int32_t ids[TEXTS][TEXT];
        rn_feed feed[TEXTS];
        open_speaker(&s, e, 0, 2 * TEXTS, OC_KV_FP32);
        for (int i = 0; i < TEXTS; i++) {
            make_ids(ids[i], TEXT, (uint64_t)i);
            feed_one(&s, open_sequence(&s), ids[i], length[i], &alone[i]);
            together[i] = (record){.vocab = alone[i].vocab};
            feed[i] = (rn_feed){open_sequence(&s), ids[i], length[i], wanted[i], 0};
        }
        assert_int_equal(rn_run_feeds(&s, feed, TEXTS, note, together, &err), 0);
        for (int i = 0; i < TEXTS; i++) {
            assert_int_equal(together[i].heard, wanted[i]);
            assert_same(&alone[i], &together[i], length[i] - wanted[i], length[i]);
        }
        rn_speaker_close(&s);
        oc_engine_close(e);
    }
}

/* Two that began as one write where both look: neither sees the other. */
static void forks_are_independent(void **state)
{
    (void)state;
    static record expected, got;
    oc_engine *e = open_engine(folders[0], 2);
    for (oc_kv_type type = OC_KV_FP32; type <= OC_KV_INT8; type++)
        for (long begin = 1; begin < TEXT - 4; begin += 5) {
            rn_speaker s;
            open_speaker(&s, e, 0, 4, type);
            int32_t ids[3][TEXT];
            int sequence[3];
            for (int i = 0; i < 3; i++) {
                make_ids(ids[i], TEXT, (uint64_t)i);
                memcpy(ids[i], ids[0], (size_t)begin * sizeof **ids);
            }
            sequence[0] = open_sequence(&s);
            feed_one(&s, sequence[0], ids[0], begin, &got);
            for (int i = 1; i < 3; i++)
                sequence[i] = tn_sequence_fork(s.cache, sequence[0], begin, NULL);
            for (int i = 0; i < 3; i++)
                feed_one(&s, sequence[i], ids[i], 2, &got); /* all have written beside each other now */
            for (int i = 0; i < 3; i++) {
                feed_one(&s, sequence[i], ids[i], 2, &got);
                int fresh = open_sequence(&s);
                feed_one(&s, fresh, ids[i], begin + 4, &expected);
                assert_same(&expected, &got, begin + 2, begin + 4);
                tn_sequence_close(s.cache, fresh);
            }
            rn_speaker_close(&s);
        }
    oc_engine_close(e);
}

static void a_full_cache_is_an_error_and_no_more(void **state)
{
    (void)state;
    static record first, again;
    oc_engine *e = open_engine(folders[0], 2);
    rn_speaker s;
    int32_t ids[TEXT];
    int opened = 0, failed = 0;
    make_ids(ids, TEXT, 3);
    open_speaker(&s, e, TEXT, 1, OC_KV_FP32);
    int kept = open_sequence(&s), last = kept;
    feed_one(&s, kept, ids, 40, &first);
    for (; !failed && opened < 100; opened++) {
        oc_err err = {0};
        last = open_sequence(&s);
        failed = rn_run_feeds(&s, &(rn_feed){last, ids, TEXT, 1, 0}, 1, note, &again, &err);
        assert_true(!failed || strstr(err.text, "the cache is full"));
    }
    assert_true(failed && opened > 2);
    tn_sequence_close(s.cache, last);
    feed_one(&s, kept, ids, 8, &first); /* what was there goes on */
    for (int i = 0; i < last; i++)
        if (i != kept)
            tn_sequence_close(s.cache, i);
    feed_one(&s, open_sequence(&s), ids, TEXT, &again);
    assert_same(&first, &again, 0, TEXT);
    rn_speaker_close(&s);
    oc_engine_close(e);
}

static double largest_difference(const record *a, const record *b)
{
    double most = 0, top = 0;
    for (long i = 0; i < TEXT; i++)
        for (long k = 0; k < a->vocab; k++) {
            most = fmax(most, fabs((double)a->v[i][k] - (double)b->v[i][k]));
            top = fmax(top, fabs((double)a->v[i][k]));
        }
    return most / top;
}

static void smaller_caches_stay_near(void **state)
{
    (void)state;
    static record exact, other;
    static const double most[] = {[OC_KV_FP16] = 2e-3, [OC_KV_BF16] = 2e-2, [OC_KV_INT8] = 4e-2};
    int32_t ids[TEXT];
    make_ids(ids, TEXT, 4);
    for (int m = 0; m < MODELS; m++) {
        oc_engine *e = open_engine(folders[m], 2);
        for (oc_kv_type type = OC_KV_FP32; type <= OC_KV_INT8; type++) {
            rn_speaker s;
            open_speaker(&s, e, 0, 1, type);
            feed_one(&s, open_sequence(&s), ids, TEXT, type == OC_KV_FP32 ? &exact : &other);
            double off = type == OC_KV_FP32 ? 0 : largest_difference(&exact, &other);
            if (off > most[type] || (type != OC_KV_FP32 && off == 0))
                fail_msg("%s, cache of type %d: %g", folders[m], type, off);
            rn_speaker_close(&s);
        }
        oc_engine_close(e);
    }
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static void hear_nothing(void *arg, int feed, long index, float *logits) { (void)arg, (void)feed, (void)index, (void)logits; }

static size_t peak_of(rn_speaker *s, const rn_feed *feed, int n)
{
    oc_err err = {0};
    if (rn_run_feeds(s, feed, n, hear_nothing, NULL, &err))
        fail_msg("%s", err.text);
    return s->cx.peak;
}

/* `long_rows` more of a text and one more of each of the others, to the end of the context. */
static size_t peak_at_end(rn_speaker *s, const int32_t *ids, int n, long long_rows, int memory)
{
    rn_feed feed[16];
    for (int i = 0; i < n; i++) {
        long rows = i ? 1 : long_rows, before = s->context - rows, room = s->heard - (i ? 0 : n - 1);
        feed[i] = (rn_feed){open_sequence(s), ids, rows, rows < room ? rows : room, memory};
        if (before)
            peak_of(s, &(rn_feed){feed[i].sequence, ids, before, 0, memory}, 1);
    }
    size_t peak = peak_of(s, feed, n);
    for (int i = 0; i < n; i++)
        tn_sequence_close(s->cache, feed[i].sequence);
    return peak;
}

static void planned_bytes_are_used_bytes(void **state)
{
    (void)state;
    int32_t ids[128];
    make_ids(ids, 128, 5);
    for (int m = 0; m < MODELS; m++)
        for (int threads = 1; threads <= 2; threads++) {
            oc_engine *e = open_engine(folders[m], threads);
            long most = e->sizes.context < 128 ? e->sizes.context : 128;
            for (long context = 1; context <= most; context += context < 2 ? 1 : 42)
                for (int sequences = 1; sequences <= 9; sequences += 4) {
                    rn_speaker s;
                    open_speaker(&s, e, context, sequences, OC_KV_FP32);
                    long together = s.rows - sequences + 1 < context ? s.rows - sequences + 1 : context;
                    size_t alone = peak_at_end(&s, ids, 1, context, 0), many = peak_at_end(&s, ids, sequences, 1, 0),
                           both = peak_at_end(&s, ids, sequences, together, 0), peak = alone > many ? alone : many;
                    peak = peak > both ? peak : both;
                    if (peak > s.arena_bytes || (context >= s.heard && peak != s.arena_bytes))
                        fail_msg("%s, context %ld, %d sequences: %zu bytes are used, %zu planned", folders[m], context, sequences,
                                 peak, s.arena_bytes);
                    rn_speaker_close(&s);
                }
            oc_engine_close(e);
        }
}

static void tokens_take_no_memory(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        oc_engine *e = open_engine(folders[m], 2);
        rn_speaker s;
        int32_t ids[TEXT];
        make_ids(ids, TEXT, 6);
        open_speaker(&s, e, 0, 3, OC_KV_FP32);
        int a = open_sequence(&s), b = open_sequence(&s);
        long before = 0;
        for (long i = 0; i < TEXT; i++) {
            before = i == 2 ? allocations : before; /* weights are packed when they are read a second time */
            rn_feed feed[] = {{a, ids + i, 1, 1, 0}, {b, ids + i, 1, 1, 0}};
            peak_of(&s, feed, 2);
        }
        assert_int_equal(allocations, before);
        assert_true(before > 0);
        rn_speaker_close(&s);
        oc_engine_close(e);
    }
}

/* ---- whole answers -------------------------------------------------------------------------------------------- */

typedef struct ear {
    char text[4096];
    size_t n, limit; /* bytes after which it wants no more; 0: none */
    int calls, late; /* calls after it said so */
} ear;

static bool hear_text(void *arg, int i, const char *bytes, size_t n)
{
    ear *e = (ear *)arg + i;
    assert_true(n > 0 && e->n + n < sizeof e->text);
    assert_true(((unsigned char)bytes[0] & 0xC0) != 0x80); /* a character's beginning */
    e->late += e->limit && e->n >= e->limit;
    memcpy(e->text + e->n, bytes, n);
    e->n += n;
    e->calls++;
    return !e->limit || e->n < e->limit;
}

static void what_is_heard_is_the_text(void **state)
{
    (void)state;
    static const char *const prompts[] = {"a", "The old clock", "two dogs"};
    static const char *const stops[] = {"e", "ab", "\xc3", "th"};
    oc_engine *e = open_engine(folders[0], 2);
    oc_err err = {0};
    oc_generator *g = oc_generator_open(e, 0, 2, &err);
    for (uint64_t seed = 0; seed < 60; seed++) {
        static ear ears[3];
        memset(ears, 0, sizeof ears);
        oc_answer a[3];
        oc_generation how = oc_generation_default();
        how.temperature = 3;
        how.seed = seed;
        how.max_new_tokens = 40;
        how.stop = stops;
        how.stops = seed % 2 ? 4 : 0;
        ears[1].limit = seed % 3 ? 5 : 0;
        if (oc_generate(g, prompts, 3, &how, hear_text, ears, a, &err))
            fail_msg("%s", err.text);
        for (int i = 0; i < 3; i++) {
            ears[i].text[ears[i].n] = 0;
            assert_int_equal(ears[i].late, 0);
            if (!ears[i].limit)
                assert_string_equal(ears[i].text, a[i].text);
            for (int k = 0; k < how.stops; k++)
                assert_null(strstr(a[i].text, stops[k]));
            oc_answer_clear(&a[i]);
        }
    }
    oc_generator_close(g);
    oc_engine_close(e);
}

static double scored(oc_engine *e, oc_kv_type kv)
{
    oc_err err = {0};
    oc_generator_options o = {.kv = kv};
    oc_generator *g = oc_generator_open_with(e, &o, &err);
    double logprob = 0;
    int tokens = 0;
    if (!g || oc_score(g, "The old clock stood in the hall", " and two dogs", &logprob, &tokens, &err))
        fail_msg("%s", err.text);
    assert_true(tokens > 0);
    oc_generator_close(g);
    return logprob;
}

/* Smaller caches are used, and stay near; what cannot be is refused in words. */
static void options_of_a_generator(void **state)
{
    (void)state;
    oc_engine *e = open_engine(folders[0], 1);
    oc_err err = {0};
    double exact = scored(e, OC_KV_FP32);
    oc_generator *plain = oc_generator_open_with(e, NULL, &err);
    assert_non_null(plain);
    oc_generator_close(plain);
    for (oc_kv_type kv = OC_KV_FP16; kv <= OC_KV_INT8; kv++) {
        double other = scored(e, kv);
        if (other == exact || fabs(other - exact) > 0.05 * fabs(exact))
            fail_msg("kv %d: %g instead of %g", (int)kv, other, exact);
    }
    const struct {
        oc_generator_options o;
        const char *says;
    } bad[] = {{{.asks = true}, "does not answer questions"},
               {{.kv = (oc_kv_type)9}, "oc_kv_type"},
               {{.context = -1}, "0 or more"},
               {{.batch = -1}, "0 or more"},
               {{.context = 1 << 20}, "the model has"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (oc_err){0};
        assert_null(oc_generator_open_with(e, &bad[i].o, &err));
        if (!strstr(err.text, bad[i].says))
            fail_msg("'%s' does not say '%s'", err.text, bad[i].says);
    }
    oc_engine_close(e);
}

/* A generator that has answered before says what a fresh one says. */
static void what_was_kept_changes_nothing(void **state)
{
    (void)state;
    static const char *const prompts[] = {
        "The old clock", "The old clock stood", "The old", "a", "The old clock stood", "b", "c", "d", "a"};
    oc_engine *e = open_engine(folders[0], 2);
    oc_err err = {0};
    oc_generator *used = oc_generator_open(e, 0, 1, &err);
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        oc_generator *fresh = oc_generator_open(e, 0, 1, &err);
        oc_answer a, b;
        oc_generation how = oc_generation_default();
        double x, y;
        how.max_new_tokens = 20;
        assert_int_equal(oc_generate(used, &prompts[i], 1, &how, NULL, NULL, &a, &err), 0);
        assert_int_equal(oc_generate(fresh, &prompts[i], 1, &how, NULL, NULL, &b, &err), 0);
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.ids, b.ids, (size_t)a.n * sizeof *a.ids);
        assert_memory_equal(&a.logprob, &b.logprob, sizeof a.logprob);
        assert_int_equal(oc_score(used, prompts[i], " and", &x, NULL, &err), 0);
        assert_int_equal(oc_score(fresh, prompts[i], " and", &y, NULL, &err), 0);
        assert_memory_equal(&x, &y, sizeof x);
        oc_answer_clear(&a);
        oc_answer_clear(&b);
        oc_generator_close(fresh);
    }
    oc_generator_close(used);
    oc_engine_close(e);
}

static void more_beams_than_room(void **state)
{
    (void)state;
    const char *prompt = "a";
    oc_engine *e = open_engine(folders[0], 1);
    oc_err err = {0};
    oc_generator *g = oc_generator_open(e, 0, 2, &err);
    oc_generation how = oc_generation_default();
    oc_answer a;
    how.num_beams = 3;
    assert_int_equal(oc_generate(g, &prompt, 1, &how, NULL, NULL, &a, &err), -1);
    assert_non_null(strstr(err.text, "3 beams are more than the 2 sequences"));
    oc_generator_close(g);
    oc_engine_close(e);
}

/* ---- texts about pictures ------------------------------------------------------------------------------------- */

static const char *const seers[] = {"tests/reference/blip_caption/model", "tests/reference/blip_vqa/model",
                                    "tests/reference/blip_pretrain_tied/model"};
enum { SEERS = sizeof seers / sizeof *seers, PICTURES = 5 };
static const char *const picture_names[PICTURES] = {"wide.png", "tall.png", "square.png", "photo.jpg", "gray.png"};
static const char *const questions[PICTURES] = {"a photo of", "what color is the dog?", "is it", "", "how many trees are there?"};

static void read_pictures(oc_picture *p)
{
    char path[96];
    for (int i = 0; i < PICTURES; i++) {
        snprintf(path, sizeof path, "tests/reference/images/%s", picture_names[i]);
        assert_int_equal(oc_picture_read(&p[i], path, NULL), 0);
    }
}

static void clear_pictures(oc_picture *p)
{
    for (int i = 0; i < PICTURES; i++)
        oc_picture_clear(&p[i]);
}

static oc_generator *open_generator(oc_engine *e, int context, int batch)
{
    oc_err err = {0};
    oc_generator *g = oc_generator_open(e, context, batch, &err);
    if (!g)
        fail_msg("%s", err.text);
    return g;
}

static void tell(oc_generator *g, const oc_picture *p, const char *const *prompts, int n, const oc_generation *how, oc_answer *a)
{
    oc_err err = {0};
    if (oc_generate_about(g, p, prompts, n, how, NULL, NULL, a, &err))
        fail_msg("%s", err.text);
}

static void assert_same_answer(const oc_answer *a, const oc_answer *b)
{
    assert_true(a->n == b->n && a->n > 0);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n * sizeof *a->ids);
    assert_memory_equal(&a->logprob, &b->logprob, sizeof a->logprob);
    assert_string_equal(a->text, b->text);
}

/* Greedy and by beams. */
static void pictures_in_a_batch_are_as_alone(void **state)
{
    (void)state;
    oc_picture p[PICTURES];
    read_pictures(p);
    for (int m = 0; m < SEERS; m++)
        for (int beams = 1; beams <= 3; beams += 2) {
            oc_engine *e = open_engine(seers[m], 2);
            oc_generator *one = open_generator(e, 40, beams), *many = open_generator(e, 40, 4), *threads = NULL;
            oc_engine *other = open_engine(seers[m], 3);
            threads = open_generator(other, 40, 4);
            oc_generation how = oc_generation_default();
            how.max_new_tokens = 12;
            how.num_beams = beams;
            oc_answer together[PICTURES], alone, third[PICTURES];
            tell(many, p, questions, PICTURES, &how, together);
            tell(threads, p, questions, PICTURES, &how, third);
            for (int i = 0; i < PICTURES; i++) {
                tell(one, &p[i], &questions[i], 1, &how, &alone);
                assert_same_answer(&alone, &together[i]);
                assert_same_answer(&alone, &third[i]);
                oc_answer_clear(&alone);
                oc_answer_clear(&together[i]);
                oc_answer_clear(&third[i]);
            }
            oc_generator_close(one);
            oc_generator_close(many);
            oc_generator_close(threads);
            oc_engine_close(e);
            oc_engine_close(other);
        }
    clear_pictures(p);
}

/* One picture is remembered once, however many beams look at it; afterwards nothing is left open: the next sequence is number 0 again. */
static void beams_share_what_is_remembered(void **state)
{
    (void)state;
    oc_picture p[PICTURES];
    read_pictures(p);
    oc_engine *e = open_engine(seers[0], 2);
    oc_generator *g = open_generator(e, 30, 5);
    rn_speaker *s = &g->speaker;
    oc_generation how = oc_generation_default();
    how.max_new_tokens = 10;
    how.num_beams = 5;
    oc_answer a;
    /* room for one picture and no more: a beam that remembered by itself would fail */
    int held[8], n = 0;
    long pages = (s->remembered + tn_page_keys() - 1) / tn_page_keys() * tn_page_keys();
    long positions = tn_cache_shape_of(s->memory)->positions;
    long room = (positions + tn_page_keys() - 1) / tn_page_keys() * tn_page_keys();
    held[n] = tn_sequence_open(s->memory, NULL);
    assert_int_equal(tn_sequence_resize(s->memory, held[n++], room - pages, NULL), 0);
    tell(g, p, NULL, 1, &how, &a);
    assert_true(a.n > 0);
    oc_answer_clear(&a);
    tn_sequence_close(s->memory, held[0]);
    assert_int_equal(tn_sequence_open(s->memory, NULL), held[0]);
    oc_generator_close(g);
    oc_engine_close(e);
    clear_pictures(p);
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Reading a picture and the longest prompt, and passes at the end of the context. */
static size_t peak_of_all(rn_speaker *s, const float *pixels, int sequences)
{
    oc_err err = {0};
    tx_ids ids = {0};
    for (long i = 0; i < s->context; i++)
        assert_int_equal(tx_ids_put(&ids, 5 + (int32_t)i, &err), 0);
    int memory = rn_remember(s, &ids, pixels, &err);
    if (memory < 0)
        fail_msg("%s", err.text);
    size_t peak = s->cx.peak;
    long together = s->rows - sequences + 1 < s->context ? s->rows - sequences + 1 : s->context;
    peak = larger(peak, peak_at_end(s, ids.p, 1, s->context, memory));
    peak = larger(peak, peak_at_end(s, ids.p, sequences, 1, memory));
    peak = larger(peak, peak_at_end(s, ids.p, sequences, together, memory));
    tx_ids_clear(&ids);
    return peak;
}

static void looking_takes_what_was_planned(void **state)
{
    (void)state;
    oc_picture p[PICTURES];
    oc_err err = {0};
    read_pictures(p);
    for (int m = 0; m < SEERS; m++)
        for (int threads = 1; threads <= 2; threads++)
            for (int sequences = 1; sequences <= 13; sequences += 6) {
                oc_engine *e = open_engine(seers[m], threads);
                float *pixels = bs_alloc((size_t)(3 * e->sizes.image_size * e->sizes.image_size) * sizeof(float), "pixels", &err);
                assert_int_equal(im_processor_run(&e->processor, &p[0], pixels, &err), 0);
                for (int context = 4; context <= 40; context += 9) {
                    rn_speaker s;
                    open_speaker(&s, e, context, sequences, OC_KV_FP32);
                    size_t peak = peak_of_all(&s, pixels, sequences);
                    if (peak > s.arena_bytes || (context >= s.heard && peak != s.arena_bytes))
                        fail_msg("%s, context %d, %d sequences: %zu bytes are used, %zu planned", seers[m], context, sequences,
                                 peak, s.arena_bytes);
                    rn_speaker_close(&s);
                }
                bs_free(pixels);
                oc_engine_close(e);
            }
    clear_pictures(p);
}

/* Logits of a text about a picture: its beginning at once, then token by token beside another text. *bytes: of a page of what is remembered. */
static void write_about(oc_engine *e, long context, const float *pixels, const int32_t *ids, long begin, long n, record *r, size_t *bytes)
{
    rn_speaker s;
    oc_err err = {0};
    tx_ids prompt = {.p = (int32_t *)(uintptr_t)ids, .n = (size_t)begin};
    open_speaker(&s, e, context, 2, OC_KV_FP32);
    int memory = rn_remember(&s, &prompt, pixels, &err), a = open_sequence(&s), b = open_sequence(&s);
    if (memory < 0)
        fail_msg("%s", err.text);
    static record other;
    r->vocab = other.vocab = e->sizes.vocab;
    r->before = 0;
    rn_feed first = {a, ids, begin, begin, memory};
    assert_int_equal(rn_run_feeds(&s, &first, 1, note, r, &err), 0);
    for (r->before = begin; r->before < n; r->before++) {
        rn_feed feed[] = {{a, ids + r->before, 1, 1, memory}, {b, ids + r->before, 1, 0, memory}};
        assert_int_equal(rn_run_feeds(&s, feed, 2, note, r, &err), 0);
    }
    tn_cache_shape page = *tn_cache_shape_of(s.memory);
    page.positions = tn_page_keys();
    *bytes = tn_cache_needs(&page);
    rn_speaker_close(&s);
}

/* Where few tokens can come, the rows that are looked at are remembered in place of keys and values: to the same logits, in less room. */
static void rows_stand_for_keys_and_values(void **state)
{
    (void)state;
    enum { BEGIN = 6 };
    static record by_rows, made;
    oc_picture p[PICTURES];
    oc_err err = {0};
    int32_t ids[TEXT];
    read_pictures(p);
    make_ids(ids, TEXT, 8);
    for (int m = 0; m < SEERS; m += 2) /* the one between reads questions */
        for (int threads = 1; threads <= 3; threads += 2) {
            oc_engine *e = open_engine(seers[m], threads);
            float *pixels = bs_alloc((size_t)(3 * e->sizes.image_size * e->sizes.image_size) * sizeof(float), "pixels", &err);
            tn_cache_shape shape = {.type = KN_KV_F32};
            size_t less, more;
            assert_int_equal(im_processor_run(&e->processor, &p[1], pixels, &err), 0);
            e->model->family->cache(e->model->m, &shape);
            write_about(e, shape.key, pixels, ids, BEGIN, shape.key, &by_rows, &less);
            write_about(e, shape.key + 1, pixels, ids, BEGIN, shape.key, &made, &more);
            assert_true(less < more);
            for (long i = 0; i < shape.key; i++)
                for (long k = 0; k < made.vocab; k++)
                    if (!(fabsf(by_rows.v[i][k] - made.v[i][k]) <= 1e-4f * (1 + fabsf(made.v[i][k]))))
                        fail_msg("%s: logit %ld of token %ld is %.9g, not %.9g", seers[m], k, i, (double)by_rows.v[i][k], (double)made.v[i][k]);
            bs_free(pixels);
            oc_engine_close(e);
        }
    clear_pictures(p);
}

/* What an encoder remembered, of a picture or of a prompt, is not asked for again: a token behind it takes no memory either. */
static void tokens_about_something_take_no_memory(void **state)
{
    (void)state;
    static const char *const listeners[] = {"tests/reference/blip_caption/model", "tests/reference/blip_vqa/model",
                                            "tests/reference/blip_pretrain_tied/model", "tests/reference/t5_small/model"};
    oc_picture p[PICTURES];
    read_pictures(p);
    for (int m = 0; m < SEERS + 1; m++) {
        oc_engine *e = open_engine(listeners[m], 2);
        rn_speaker s;
        oc_err err = {0};
        int32_t ids[TEXT];
        tx_ids prompt = {0};
        float *pixels = NULL;
        make_ids(ids, TEXT, 6);
        for (int i = 0; i < 5; i++)
            assert_int_equal(tx_ids_put(&prompt, ids[i], &err), 0);
        if (m < SEERS) {
            pixels = bs_alloc((size_t)(3 * e->sizes.image_size * e->sizes.image_size) * sizeof(float), "pixels", &err);
            assert_int_equal(im_processor_run(&e->processor, &p[0], pixels, &err), 0);
        }
        open_speaker(&s, e, 40, 3, OC_KV_FP32);
        int memory = rn_remember(&s, &prompt, pixels, &err), a = open_sequence(&s), b = open_sequence(&s);
        if (memory < 0)
            fail_msg("%s: %s", listeners[m], err.text);
        long before = 0;
        for (long i = 0; i < 40; i++) {
            before = i == 2 ? allocations : before; /* weights are packed when they are read a second time */
            rn_feed feed[] = {{a, ids + i, 1, 1, memory}, {b, ids + i, 1, 1, memory}};
            peak_of(&s, feed, 2);
        }
        if (allocations != before)
            fail_msg("%s: %ld allocations", listeners[m], allocations - before);
        rn_speaker_close(&s);
        tx_ids_clear(&prompt);
        bs_free(pixels);
        oc_engine_close(e);
    }
    clear_pictures(p);
}

/* Many answers at once are scored as each by itself, and a whole answer's score is its tokens' and the end's. */
static void choices_are_scored_as_alone(void **state)
{
    (void)state;
    static const char *const choices[] = {"two", "a red dog", "no", "yes", "the cat on the table", "x"};
    enum { CHOICES = sizeof choices / sizeof *choices };
    oc_picture p[PICTURES];
    read_pictures(p);
    for (int m = 0; m < SEERS; m++) {
        oc_engine *e = open_engine(seers[m], 2);
        oc_err err = {0};
        float *pixels = bs_alloc((size_t)(3 * e->sizes.image_size * e->sizes.image_size) * sizeof(float), "pixels", &err);
        assert_int_equal(im_processor_run(&e->processor, &p[1], pixels, &err), 0);
        rn_prompt prompt = {"is it", pixels, 0};
        for (int batch = 1; batch <= 8; batch += batch < 4 ? 3 : 4) {
            oc_generator *g = open_generator(e, 40, batch);
            for (int whole = 0; whole < 2; whole++) {
                double together[CHOICES], alone;
                int tokens[CHOICES], count;
                if (rn_score_all(g, &prompt, choices, CHOICES, whole, together, tokens, &err))
                    fail_msg("%s", err.text);
                for (int i = 0; i < CHOICES; i++) {
                    assert_int_equal(rn_score(g, &prompt, choices[i], whole, &alone, &count, &err), 0);
                    assert_memory_equal(&alone, &together[i], sizeof alone);
                    assert_true(count == tokens[i] && alone < 0);
                }
            }
            double whole, part, nothing = 1;
            int n, with_end;
            assert_int_equal(rn_score(g, &prompt, "two", true, &whole, &with_end, &err), 0);
            assert_int_equal(rn_score(g, &prompt, "two", false, &part, &n, &err), 0);
            assert_true(with_end == n + 1 && whole < part);
            assert_int_equal(rn_score(g, &prompt, "", false, &nothing, &n, &err), 0);
            assert_true(n == 0 && nothing == 0);
            oc_generator_close(g);
        }
        bs_free(pixels);
        oc_engine_close(e);
    }
    clear_pictures(p);
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */

static const char *const matchers[] = {"tests/reference/blip_retrieval/model", "tests/reference/blip_pretrain_tied/model"};

static oc_engine *open_matcher(const char *folder, int batch, bool enc)
{
    oc_err err = {0};
    oc_options o = {.threads = 2, .max_batch = batch, .enc_token = enc};
    oc_engine *e = oc_engine_open(folder, &o, &err);
    if (!e)
        fail_msg("%s", err.text);
    return e;
}

static void pairs_in_a_batch_are_as_alone(void **state)
{
    (void)state;
    static const char *const texts[PICTURES] = {"a cat", "a photo of a small red cat on the table", "", "two dogs", "x"};
    oc_picture p[PICTURES];
    oc_err err = {0};
    read_pictures(p);
    for (int m = 0; m < 2; m++)
        for (int batch = 1; batch <= 8; batch += batch == 1 ? 1 : 6) {
            oc_engine *e = open_matcher(matchers[m], batch, false);
            oc_session *s = oc_session_open(e, &err), *fresh = oc_session_open(e, &err);
            float itc[PICTURES], itm[PICTURES], c, t;
            assert_true(s && fresh && oc_can_match(e));
            if (oc_match(s, p, texts, PICTURES, itc, itm, &err))
                fail_msg("%s", err.text);
            for (int i = 0; i < PICTURES; i++) {
                assert_int_equal(oc_match(fresh, &p[i], &texts[i], 1, &c, &t, &err), 0);
                assert_memory_equal(&c, &itc[i], sizeof c);
                assert_memory_equal(&t, &itm[i], sizeof t);
                assert_true(t > 0 && t < 1 && c > -1 && c < 1);
            }
            oc_session_close(s);
            oc_session_close(fresh);
            oc_engine_close(e);
        }
    clear_pictures(p);
}

/* One picture with many texts is each pair by itself, and the arena is what was planned for it. */
static void one_picture_for_many_texts(void **state)
{
    (void)state;
    enum { TEXTS = 4 };
    static const char *const texts[TEXTS] = {"a cat", "two dogs run", "x", "a photo of the table"};
    oc_picture p[PICTURES];
    oc_err err = {0};
    read_pictures(p);
    for (int enc = 0; enc < 2; enc++) {
        oc_engine *e = open_matcher(matchers[0], TEXTS, enc);
        oc_session *s = oc_session_open(e, &err);
        size_t before = s->arena_bytes;
        tx_ids ids[TEXTS] = {{0}};
        float logits[2 * TEXTS], alone[2 * TEXTS];
        int cut = 0;
        assert_int_equal(rn_take_pictures(s, &p[2], 1, &err), 0);
        for (int i = 0; i < TEXTS; i++) {
            assert_int_equal(rn_encode_pair(e, texts[i], &ids[i], &cut, &err), 0);
            assert_int_equal(ids[i].p[0] == e->sizes.enc, enc);
            assert_int_equal(rn_match_pixels(s, s->pixels, 1, &ids[i], 1, alone + 2 * i, &err), 0);
        }
        if (rn_match_pixels(s, s->pixels, 1, ids, TEXTS, logits, &err))
            fail_msg("%s", err.text);
        assert_memory_equal(logits, alone, sizeof logits);
        assert_true(s->arena_bytes >= before && s->cx.peak <= s->arena_bytes);
        if (s->arena_bytes > before)
            assert_int_equal(s->cx.peak, s->arena_bytes);
        for (int i = 0; i < TEXTS; i++)
            tx_ids_clear(&ids[i]);
        oc_session_close(s);
        oc_engine_close(e);
    }
    clear_pictures(p);
}

static void who_has_no_head_says_so(void **state)
{
    (void)state;
    const char *text = "a cat";
    oc_picture p[PICTURES];
    oc_err err = {0};
    float itc, itm;
    read_pictures(p);
    oc_engine *e = open_engine("tests/reference/clip/model", 1);
    oc_session *s = oc_session_open(e, &err);
    assert_false(oc_can_match(e));
    assert_int_equal(oc_match(s, p, &text, 1, &itc, NULL, &err), 0);
    assert_int_equal(oc_match(s, p, &text, 1, &itc, &itm, &err), -1);
    assert_non_null(strstr(err.text, "no head that matches"));
    oc_session_close(s);
    oc_engine_close(e);
    clear_pictures(p);
}

/* ---- choosing ------------------------------------------------------------------------------------------------- */

enum { WORDS = 40, DRAWS = 6000 };

typedef struct word {
    double p;
    int id;
} word;

static int by_share(const void *a, const void *b)
{
    const word *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : x->id - y->id;
}

/* The chances by definition: sorted, cut by top_k, then top_p, then min_p, each of what the one before left. */
static void expected_shares(const float *x, const oc_generation *g, double *share)
{
    word w[WORDS];
    double sum = 0, before = 0;
    for (int i = 0; i < WORDS; i++)
        sum += (w[i] = (word){exp((double)x[i] / (double)g->temperature), i}).p;
    qsort(w, WORDS, sizeof *w, by_share);
    int n = g->top_k > 0 && g->top_k < WORDS ? g->top_k : WORDS, kept = 0;
    for (int i = 0, all = n; i < all; i++)
        sum = i ? sum + w[i].p : w[i].p;
    while (kept < n && (!kept || g->top_p >= 1 || before < (double)g->top_p * sum))
        before += w[kept++].p;
    while (kept > 1 && w[kept - 1].p < (double)g->min_p * w[0].p)
        before -= w[--kept].p;
    memset(share, 0, WORDS * sizeof *share);
    for (int i = 0; i < kept; i++)
        share[w[i].id] = w[i].p / before;
}

static void draws_follow_the_chances(void **state)
{
    (void)state;
    static const int top_k[] = {0, 1, 7, WORDS, 1000};
    static const float top_p[] = {1, 0.9f, 0.3f, 1e-6f}, min_p[] = {0, 0.05f, 1}, heat[] = {0.3f, 1, 4};
    bs_rng r;
    rn_chooser c;
    bs_rng_seed(&r, 7, 7);
    assert_int_equal(rn_chooser_open(&c, kn_best(NULL), WORDS, 9, NULL), 0);
    for (int k = 0; k < 5 * 4 * 3 * 3; k++) {
        oc_generation g = oc_generation_default();
        g.top_k = top_k[k % 5];
        g.top_p = top_p[k / 5 % 4];
        g.min_p = min_p[k / 20 % 3];
        g.temperature = heat[k / 60];
        float x[WORDS], y[WORDS];
        double share[WORDS], logprob, off = 0, cells = 0;
        int count[WORDS] = {0};
        for (int i = 0; i < WORDS; i++)
            x[i] = 2 * bs_rng_normal(&r);
        expected_shares(x, &g, share);
        for (int n = 0; n < DRAWS; n++) {
            memcpy(y, x, sizeof y);
            count[rn_choose(&c, y, &g, &logprob)]++;
        }
        for (int i = 0; i < WORDS; i++) {
            assert_true(share[i] > 0 || !count[i]);
            if (share[i] * DRAWS < 5)
                continue;
            off += pow(count[i] - share[i] * DRAWS, 2) / (share[i] * DRAWS);
            cells++;
        }
        if (off > cells + 5 * sqrt(2 * cells)) /* chi-square's mean and deviation */
            fail_msg("top_k %d, top_p %g, min_p %g, temperature %g: chi-square %g of %g cells", g.top_k, (double)g.top_p,
                     (double)g.min_p, (double)g.temperature, off, cells);
    }
    rn_chooser_close(&c);
}

static void log_probabilities_are_the_models(void **state)
{
    (void)state;
    bs_rng r;
    rn_chooser c;
    bs_rng_seed(&r, 8, 8);
    assert_int_equal(rn_chooser_open(&c, kn_best(NULL), WORDS, 9, NULL), 0);
    static const float heat[] = {0, 1e-38f, 0.5f, 1, 1e30f};
    for (int k = 0; k < 500; k++) {
        float x[WORDS], y[WORDS];
        double sum = 0, logprob;
        oc_generation g = oc_generation_default();
        g.temperature = heat[k % 5];
        for (int i = 0; i < WORDS; i++)
            sum += exp((double)(x[i] = 3 * bs_rng_normal(&r)));
        memcpy(y, x, sizeof y);
        int32_t id = rn_choose(&c, y, &g, &logprob);
        assert_true(fabs(logprob - ((double)x[id] - log(sum))) < 1e-5);
        for (int i = 0; k % 5 < 2 && i < WORDS; i++)
            assert_true(x[i] <= x[id]);
    }
    rn_chooser_close(&c);
}

static void penalties_count_a_token_once(void **state)
{
    (void)state;
    rn_chooser c;
    assert_int_equal(rn_chooser_open(&c, kn_best(NULL), 4, 9, NULL), 0);
    for (int again = 0; again < 2; again++) {
        float x[] = {2, -2, 3, 1};
        rn_penalise(&c, x, (const int32_t[]){0, 1, 0, 0, 1, 7, -1}, 7, 2);
        assert_memory_equal(x, ((float[]){1, -4, 3, 1}), sizeof x);
    }
    rn_chooser_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_and_beginnings_change_nothing),
        cmocka_unit_test(texts_in_one_pass_are_as_alone),
        cmocka_unit_test(forks_are_independent),
        cmocka_unit_test(a_full_cache_is_an_error_and_no_more),
        cmocka_unit_test(smaller_caches_stay_near),
        cmocka_unit_test(planned_bytes_are_used_bytes),
        cmocka_unit_test(tokens_take_no_memory),
        cmocka_unit_test(what_is_heard_is_the_text),
        cmocka_unit_test(what_was_kept_changes_nothing),
        cmocka_unit_test(options_of_a_generator),
        cmocka_unit_test(more_beams_than_room),
        cmocka_unit_test(pictures_in_a_batch_are_as_alone),
        cmocka_unit_test(beams_share_what_is_remembered),
        cmocka_unit_test(looking_takes_what_was_planned),
        cmocka_unit_test(rows_stand_for_keys_and_values),
        cmocka_unit_test(tokens_about_something_take_no_memory),
        cmocka_unit_test(choices_are_scored_as_alone),
        cmocka_unit_test(pairs_in_a_batch_are_as_alone),
        cmocka_unit_test(one_picture_for_many_texts),
        cmocka_unit_test(who_has_no_head_says_so),
        cmocka_unit_test(draws_follow_the_chances),
        cmocka_unit_test(log_probabilities_are_the_models),
        cmocka_unit_test(penalties_count_a_token_once),
    };
    return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
