// The configuration of a training run: an .ini file and `section.key=value` overrides -> struct run_config.
//
// One table (run_config_keys.c) has every key: name, type, default, range, help. Parsing, validation, `minke train
// --help-config`, the run.ini written into the run folder and the comparison made by --resume all walk that table.
//
// Values: integers and counts take the decimal suffixes K, M, B (or G) and T ("469B"); a duration is "2K steps", "10T
// tokens", "70%" of the run, or "never". Paths are relative to the working directory.
#ifndef MINKE_TRAIN_RUN_CONFIG_H
#define MINKE_TRAIN_RUN_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define RUN_CONFIG_PATH 512   // longest path, with its zero

enum duration_unit { DURATION_NEVER, DURATION_STEPS, DURATION_TOKENS, DURATION_PERCENT };
struct duration {
    enum duration_unit unit;
    int64_t count;    // steps or tokens
    double percent;   // of train.steps or train.tokens; gone after run_config_finish
};

enum precision { PRECISION_FP32, PRECISION_BF16, PRECISION_FP8 };
enum moment_format { MOMENTS_BF16, MOMENTS_F32 };
enum export_format { EXPORT_BF16, EXPORT_F32, EXPORT_FP8 };

struct model_section {
    char config[RUN_CONFIG_PATH];      // config.json, or a directory that has one
    char init_from[RUN_CONFIG_PATH];   // directory whose weights the run starts from
    char tokenizer[RUN_CONFIG_PATH];   // directory with tokenizer.json; empty = data.path
    double init_std;
    int64_t init_ulps;   // how far each initial weight is moved, in units in the last place of FP32
};
struct data_section {
    char path[RUN_CONFIG_PATH];   // folder written by `minke prepare`
    int64_t seed;
    double fim_rate, split_rate;
};
struct train_section {
    char out[RUN_CONFIG_PATH];
    int64_t steps, tokens;   // length of the run: one of them is 0
    int64_t sequence_length, batch, micro_batch, reduction_shards;
    int64_t precision;   // enum precision
    int64_t seed, threads, isa, skip_limit;
};
struct recompute_section {
    bool rms_norm, swiglu, mla_up;
};
struct schedule_section {   // spec 8.2; evaluated by train/schedule.h
    double learning_rate, decay_learning_rate, tail_learning_rate;
    struct duration warmup, decay_start, decay_end, tail_start;
    int64_t batch_start;
    struct duration batch_ramp;
    double gamma, lambda, lambda_late, alpha;
    struct duration gamma_end, lambda_switch;
};
struct optimizer_section {
    double beta1, beta2, epsilon, weight_decay, clip, ema_decay;
    int64_t moments;   // enum moment_format
};
struct validation_section {
    int64_t every, sequences;
};
struct checkpoint_section {
    int64_t every, keep, shard_size;
    int64_t dtype;   // enum export_format
};
struct run_config {
    struct model_section model;
    struct data_section data;
    struct train_section train;
    struct recompute_section recompute;
    struct schedule_section schedule;
    struct optimizer_section optimizer;
    struct validation_section validation;
    struct checkpoint_section checkpoint;
};

// Every key at its default.
void run_config_defaults(struct run_config *config);
// Reads an .ini file over the values that are there. Unknown section or key, a key given twice, a malformed value:
// ERROR_ARGUMENT naming file, line, key, found and expected (an unknown key also its nearest neighbour).
int run_config_read(struct run_config *config, const char *path, struct error *error);
// One "section.key=value" of the command line.
int run_config_override(struct run_config *config, const char *assignment, struct error *error);
// Checks the keys against each other and turns percentages into steps or tokens.
int run_config_finish(struct run_config *config, struct error *error);

// The configuration as an .ini file; owned by the caller (memory_free).
char *run_config_text(const struct run_config *config, struct error *error);
// The reference: every key with its help, type, range and default, itself a valid .ini file.
char *run_config_reference(struct error *error);

// Keys that decide the bits of the training state: a resumed run must have them as its checkpoint has (paths excepted:
// there the content counts). run_config_fixed(i) gives the i-th as "section.key" and its value as text, false past the
// last.
#define RUN_CONFIG_VALUE 64
bool run_config_fixed(const struct run_config *config, int index, const char **name, char value[RUN_CONFIG_VALUE]);

#endif
