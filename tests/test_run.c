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

static const char *const folders[] = {"tests/reference/mistral/model", "tests/reference/gpt2/model",
                                      "tests/reference/llama_gqa/model", "tests/reference/opt/model"};
enum { MODELS = sizeof folders / sizeof *folders, TEXT = 48, WIDEST = 512 };

static oc_engine *open_engine(const char *folder, int threads)
{
    oc_err err = {0};
    oc_options o = {.threads = threads};
    oc_engine *e = oc_engine_open(folder, &o, &err);
    if (!e)
        fail_msg("%s", err.text);
    return e;
}

static void open_speaker(rn_speaker *s, oc_engine *e, long context, int sequences, kn_kv_type type)
{
    oc_err err = {0};
    if (rn_speaker_open(s, e, context, sequences, 0, type, &err))
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
            open_speaker(&s, e, 0, 5, KN_KV_F32);
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
        open_speaker(&s, e, 0, 2 * TEXTS, KN_KV_F32);
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
    for (kn_kv_type type = KN_KV_F32; type <= KN_KV_I8; type++)
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
    open_speaker(&s, e, TEXT, 1, KN_KV_F32);
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
    static const double most[] = {[KN_KV_F16] = 2e-3, [KN_KV_BF16] = 2e-2, [KN_KV_I8] = 4e-2};
    int32_t ids[TEXT];
    make_ids(ids, TEXT, 4);
    for (int m = 0; m < MODELS; m++) {
        oc_engine *e = open_engine(folders[m], 2);
        for (kn_kv_type type = KN_KV_F32; type <= KN_KV_I8; type++) {
            rn_speaker s;
            open_speaker(&s, e, 0, 1, type);
            feed_one(&s, open_sequence(&s), ids, TEXT, type == KN_KV_F32 ? &exact : &other);
            double off = type == KN_KV_F32 ? 0 : largest_difference(&exact, &other);
            if (off > most[type] || (type != KN_KV_F32 && off == 0))
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
static size_t peak_at_end(rn_speaker *s, const int32_t *ids, int n, long long_rows)
{
    rn_feed feed[16];
    for (int i = 0; i < n; i++) {
        long rows = i ? 1 : long_rows, before = s->context - rows, room = s->heard - (i ? 0 : n - 1);
        feed[i] = (rn_feed){open_sequence(s), ids, rows, rows < room ? rows : room, 0};
        if (before)
            peak_of(s, &(rn_feed){feed[i].sequence, ids, before, 0, 0}, 1);
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
                    open_speaker(&s, e, context, sequences, KN_KV_F32);
                    long together = s.rows - sequences + 1 < context ? s.rows - sequences + 1 : context;
                    size_t alone = peak_at_end(&s, ids, 1, context), many = peak_at_end(&s, ids, sequences, 1),
                           both = peak_at_end(&s, ids, sequences, together), peak = alone > many ? alone : many;
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
        open_speaker(&s, e, 0, 3, KN_KV_F32);
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
        cmocka_unit_test(more_beams_than_room),
        cmocka_unit_test(draws_follow_the_chances),
        cmocka_unit_test(log_probabilities_are_the_models),
        cmocka_unit_test(penalties_count_a_token_once),
    };
    return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
