/* bench.h - what the parts of `ocelli bench` share: its switches, a clock, and the machine's limits. */
#ifndef CL_BENCH_H
#define CL_BENCH_H

#include "cli.h"

typedef struct cl_bench {
    const cl_command *self;
    cl_common common;
    const char *batches, *cpu, *in, *out;
    float seconds; /* of measuring, a line */
    int context;   /* 0: the most there may be */
    bool texts, whole, from_stdin;
    cl_texts words; /* which sections; all when empty */
} cl_bench;

/* Each prints its lines on stdout; -1 and an error. */
int cl_bench_kernels(cl_bench *b, oc_err *err);
int cl_bench_model(cl_bench *b, oc_err *err);
int cl_bench_speak(cl_bench *b, oc_err *err);
int cl_bench_train(cl_bench *b, oc_err *err);

/* Answers the lines on standard input one by one, until one fails. */
int cl_listen(int (*answer)(void *arg, const char *line, oc_err *err), void *arg, oc_err *err);

/* Random pictures [rows, channels, side, side], bs_free() them; random ids [rows, max_tokens], free() them: texts as long as the model takes them,
 * with the end token last. */
float *cl_draw_pixels(const md_sizes *s, long rows, bs_rng *rng, oc_err *err);
int *cl_draw_ids(const md_sizes *s, long rows, bs_rng *rng, oc_err *err);

/* What a limit of the machine allows at this moment: `rate` runs all the pool's threads at it for about so many seconds, and says how many of its units
 * a second that were. */
typedef struct cl_yardstick {
    double (*rate)(void *self, double seconds);
    void *self;
} cl_yardstick;

/* Seconds of one call: the median of the rounds, and the best; and what the yardstick's limit would have allowed in that time, in its units (0: there is
 * none): measured right before and after each round, as a core that is shared with others is not as fast in one millisecond as in the next. */
typedef struct cl_timing {
    double median, best, possible;
    int rounds;
} cl_timing;
/* Calls run(arg) once to warm up, then in rounds of equally many calls until `seconds` are over, at least five rounds (one where there is no time). */
cl_timing cl_time(double seconds, void (*run)(void *), void *arg, const cl_yardstick *yardstick);
double cl_median(double *x, int n); /* sorts x */

/* Fused multiply-adds on registers alone, with the tier's vectors: flops a second, which no kernel of the tier can exceed but those that AMX computes. bs_free() it. */
typedef struct cl_spinner cl_spinner;
cl_spinner *cl_spinner_open(const kn_table *t, bs_pool *pool, oc_err *err);
double cl_spinner_rate(void *spinner, double seconds);
/* Reading memory far beyond the caches, from end to end or in several streams at once, whichever is faster: bytes a second. */
typedef struct cl_reader cl_reader;
cl_reader *cl_reader_open(const kn_table *t, bs_pool *pool, oc_err *err);
void cl_reader_close(cl_reader *r);
double cl_reader_rate(void *reader, double seconds);
/* The best of a few rounds of about so many seconds, in 1e9 units a second; of multiply-adds a burst will do, memory is read from end to end. */
#define CL_BURST 5e-3
#define CL_ROUND 1.0
double cl_best(const cl_yardstick *y, double seconds);
/* The same where nothing else is measured by it: GFLOP/s, GB/s; 0 and an error without memory for it. */
double cl_fma_peak(const kn_table *t, bs_pool *pool, oc_err *err);
double cl_read_rate(const kn_table *t, bs_pool *pool, oc_err *err);
/* As the system calls it; "" when it does not say. */
void cl_cpu_name(char *name, size_t n);

#endif
