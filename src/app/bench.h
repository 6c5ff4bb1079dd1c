// What the parts of `minke bench` share: options, teams of threads, one buffer of operands, and the measurement itself.
//
// A measurement is the median of several timed runs. Its limit is measured between those runs, by the same threads: of
// compute limits the best value of the whole run counts (a disturbance can only lower them), of memory limits the
// median (memory has faster and slower spells of seconds, which should meet both alike).
#ifndef MINKE_APP_BENCH_H
#define MINKE_APP_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "infer/session.h"
#include "model/config.h"
#include "model/load.h"
#include "op/ops.h"

#define BENCH_ROTATION ((int64_t)256 << 20)   // bytes over which operands rotate at least
#define BENCH_NAME 64

// LIMIT_PAIRS: products of BF16, the faster of their own instruction (LIMIT_BF16) and multiply-adds (LIMIT_F32).
// LIMIT_VECTORS: the same without AMX, for what does not use it.
enum bench_limit { LIMIT_NONE, LIMIT_F32, LIMIT_BF16, LIMIT_PAIRS, LIMIT_VECTORS, LIMIT_READ, LIMIT_COPY, LIMIT_COUNT };
enum bench_team { TEAM_ONE, TEAM_ALL, TEAM_COUNT };

struct bench_options {
    bool json;
    double seconds;                 // of one measurement, about
    int64_t batch, length, depth;   // sequences and tokens of a training step, tokens before decoding; 0 = default
    int64_t clients, requests, tokens, shared;   // serve: at a time, in all, of an answer, of all prompts; 0 = default
    const char *directory;                       // --model; NULL = none
    int64_t ram_bytes;                           // --ram: memory limit for it
    const char *weights;                         // the one format of prefill and decode; NULL = all
    const char *precision;                       // the one precision of train; NULL = all
    const char *cache;                           // --cache-format of prefill and decode; NULL = bf16
    int64_t rows, columns, inner;                // --shape of gemm; rows 0 = the built-in list
    enum bench_team teams[TEAM_COUNT];           // those that peaks and square products are measured with
    int team_count;
};

struct bench {
    struct bench_options options;
    struct model_config config;
    struct op_context op[TEAM_COUNT];
    struct pool *pool[TEAM_COUNT];
    struct arena scratch[TEAM_COUNT];
    struct arena arena;                     // tables of operands, models
    double best[LIMIT_COUNT][TEAM_COUNT];   // 1e9 operations or bytes a second
    char *memory;                           // operands; also what the memory limits read and copy
    int64_t memory_bytes, memory_used;
    double last_rate, last_limit, last_spread;   // of the measurement before: calls, 1e9 units of work a second
};

// Opens teams and memory; `threads` and `isa` as in common_options. bench_close is fine after a failure.
int bench_open(struct bench *bench, int64_t threads, enum isa isa, struct error *error);
void bench_close(struct bench *bench);

// ---- Measuring (bench_measure.c) ------------------------------------------------------------------------------------
struct bench_case {
    char name[BENCH_NAME];
    const char *unit;   // e.g. "GFLOP/s"
    double amount;      // units that one call does
    double work;        // 1e9 operations or bytes that one call needs: the limit in `unit` is its rate * amount / work
    enum bench_limit limit;
    enum bench_team team;
    bool evict;                                                          // sweep the caches before each call
    void (*run)(void *argument, struct op_context *op, int64_t round);   // round 0, 1, ...: picks the operands
    void *argument;
};
// Runs and prints one line. Returns the median seconds of a call.
double bench_measure(struct bench *bench, const struct bench_case *measured);
// One more line about the measurement before, in the unit of this one.
void bench_measure_again(struct bench *bench, const struct bench_case *measured);
void bench_print_heading(const struct bench *bench, const char *title);   // of the table; nothing in JSON
void bench_print_note(const struct bench *bench, const char *format, ...) __attribute__((format(printf, 2, 3)));
void bench_peaks(struct bench *bench);
// What bench_measure is made of, for subjects that time themselves: one line of output (limit 0 = none; spread is
// (largest - smallest) / median of the runs), a sample of a limit in 1e9 operations or bytes a second, and the median
// of values, which are sorted.
void bench_print_line(const struct bench *bench, const char *name, const char *unit, double value, double limit,
                      double spread, enum bench_team team);
double bench_limit_sample(struct bench *bench, enum bench_limit limit, enum bench_team team);
double bench_median(double *values, int count);

// ---- Operands (bench_measure.c) -------------------------------------------------------------------------------------
// How many sets of `bytes` bytes make a rotation; makes room for them and forgets the operands before.
int bench_sets(struct bench *bench, int64_t *sets, int64_t bytes, struct error *error);
// A packed tensor in that room, filled with values of magnitude 0.5 to 1 of either sign (E4M3: with scales).
struct tensor bench_tensor(struct bench *bench, enum format format, int rank, const int64_t *shape);
struct tensor bench_matrix(struct bench *bench, enum format format, int64_t rows, int64_t columns);
int64_t bench_tensor_bytes(enum format format, int64_t rows, int64_t columns);   // what it takes there

// ---- Subjects: 0 or an error ----------------------------------------------------------------------------------------
int bench_gemm(struct bench *bench, struct error *error);
int bench_attention(struct bench *bench, struct error *error);
int bench_ops(struct bench *bench, struct error *error);
int bench_train(struct bench *bench, struct error *error);
int bench_prefill(struct bench *bench, struct error *error);
int bench_decode(struct bench *bench, struct error *error);
int bench_directory(struct bench *bench, struct error *error);

int bench_mtp(struct bench *bench, struct error *error);
int bench_serve(struct bench *bench, struct error *error);

// The model of --model, all zero before; bench_directory_close is fine after a failure (bench_directory.c).
struct bench_directory {
    struct arena arena;
    struct checkpoint *checkpoint;
    struct model model;
    struct expert_store *store;   // with --ram
};
int bench_directory_open(struct bench_directory *directory, struct bench *bench, int64_t positions,
                         struct error *error);
void bench_directory_close(struct bench_directory *directory);

// Bytes that a token at `depth` reads in absorbed form: active weights, cache, kv_b_proj without blocks.
struct model_params;
double bench_token_bytes(struct model_params *params, const struct model_config *config, enum cache_kind cache,
                         int64_t depth);

#endif
