// The table of every configuration key, in the order in which files and help show them. The defaults are the recipe of
// the report (spec 8.2); its milestones stand as percentages of the report's 14.8T tokens, so that a run of any length
// follows the same curve.
#include "train/run_config_keys.h"

#define PLACE(section, field) offsetof(struct run_config, section.field)
#define PATH(section, field, text) \
    { #section "." #field, KEY_PATH, PLACE(section, field), "", 0, 0, NULL, false, text }
#define COUNT(section, field, standard, low, high, is_fixed, text) \
    { #section "." #field, KEY_COUNT, PLACE(section, field), standard, low, high, NULL, is_fixed, text }
#define NUMBER(section, field, standard, low, high, text) \
    { #section "." #field, KEY_NUMBER, PLACE(section, field), standard, low, high, NULL, true, text }
#define BOOLEAN(section, field, standard, text) \
    { #section "." #field, KEY_BOOLEAN, PLACE(section, field), standard, 0, 0, NULL, false, text }
#define CHOICE(section, field, standard, words, is_fixed, text) \
    { #section "." #field, KEY_CHOICE, PLACE(section, field), standard, 0, 0, words, is_fixed, text }
#define DURATION(section, field, standard, text) \
    { #section "." #field, KEY_DURATION, PLACE(section, field), standard, 0, 0, NULL, true, text }

const struct run_config_key run_config_keys[] = {
    PATH(model, config, "config.json of the architecture, or a directory that has one"),
    PATH(model, init_from,
         "model directory whose weights the run starts from (its FP32 masters where it is a checkpoint\n"
         "of ours); moments, schedule and data start anew. Empty: random weights"),
    PATH(model, tokenizer, "directory with tokenizer.json, copied into every checkpoint. Empty: data.path"),
    NUMBER(model, init_std, "0.006", 0, 1, "standard deviation of random weights (norms are 1)"),
    COUNT(model, init_ulps, "0", 0, 1e6, false,
          "units in the last place (FP32) by which each initial weight is moved, up or down at random: how far two\n"
          "runs drift apart by rounding alone"),

    PATH(data, path, "folder written by `minke prepare`"),
    COUNT(data, seed, "1", 0, 9e15, true, "order of documents, FIM and token splitting"),
    NUMBER(data, fim_rate, "0.1", 0, 1, "share of documents rearranged as prefix, suffix, middle (fill-in-middle)"),
    NUMBER(data, split_rate, "0.1", 0, 1, "share of combined punctuation+newline tokens that are split"),

    PATH(train, out, "run folder: metrics.jsonl, run.ini, checkpoints/"),
    COUNT(train, steps, "0", 0, 1e15, false,
          "length of the run in steps; give this or train.tokens (the later one counts)"),
    COUNT(train, tokens, "0", 0, 1e18, false, "length of the run in tokens"),
    COUNT(train, sequence_length, "4096", 1, 1048576, true, "tokens of a training sequence"),
    COUNT(train, batch, "8", 1, 1048576, true, "sequences of a step (after the ramp), a multiple of reduction_shards"),
    COUNT(train, micro_batch, "1", 1, 1048576, false,
          "sequences computed together: memory and speed only, the results are the same bits; with precision = fp8\n"
          "or isa = amx it decides about the last bits and is fixed for the run"),
    COUNT(train, reduction_shards, "1", 1, 4096, true,
          "parts of the batch whose gradients are summed one after the other inside and by a binary tree\n"
          "across; a power of two, at least the number of data-parallel ranks to come. Costs log2 + 1\n"
          "gradient buffers"),
    CHOICE(train, precision, "bf16", "fp32|bf16|fp8", true,
           "format of activations and compute weights; masters and gradients are always FP32; with fp8 all Linears\n"
           "but the embedding, the head and eh_proj multiply E4M3"),
    COUNT(train, seed, "1", 0, 9e15, true, "random weights"),
    COUNT(train, threads, "0", 0, 1024, false, "threads, 0 = one per CPU"),
    CHOICE(train, isa, "best", "scalar|avx2|avx512|amx|best", false,
           "instruction set: speed only, but for amx, which sums in\n"
           "another order: a run has it from its first step to its last or never"),
    COUNT(train, skip_limit, "5", 1, 1e9, false,
          "steps skipped in a row, because their loss or gradient was not finite, after which the run stops"),

    BOOLEAN(recompute, rms_norm, "false", "compute RMSNorm outputs again in backward instead of keeping them"),
    BOOLEAN(recompute, swiglu, "false", "the same for SwiGLU outputs"),
    BOOLEAN(recompute, mla_up, "false", "the same for the MLA up-projections (q, k, v)"),

    NUMBER(schedule, learning_rate, "2.2e-4", 0, 10, "after the warm-up"),
    DURATION(schedule, warmup, "1%", "linear from 0 to learning_rate (report: 2K steps)"),
    DURATION(schedule, decay_start, "67.5676%", "until here learning_rate, then a cosine (report: 10T tokens)"),
    DURATION(schedule, decay_end, "96.6216%", "end of the cosine (report: 14.3T)"),
    NUMBER(schedule, decay_learning_rate, "2.2e-5", 0, 10, "end value of the cosine, held until tail_start"),
    DURATION(schedule, tail_start, "98.8716%", "from here tail_learning_rate (report: 14.633T)"),
    NUMBER(schedule, tail_learning_rate, "7.3e-6", 0, 10, "constant of the second tail"),
    COUNT(schedule, batch_start, "0", 0, 1048576, true,
          "sequences of the first step, 0 = no ramp (report: 3072 to 15360)"),
    DURATION(schedule, batch_ramp, "never", "the batch grows linearly until here (report: 469B)"),
    NUMBER(schedule, gamma, "0.001", 0, 1, "speed of the router bias (auxiliary-loss-free balancing)"),
    DURATION(schedule, gamma_end, "96.6216%", "from here gamma is 0 (report: 14.3T)"),
    NUMBER(schedule, lambda, "0.3", 0, 100, "weight of the multi-token prediction loss"),
    DURATION(schedule, lambda_switch, "67.5676%", "from here lambda_late (report: 10T)"),
    NUMBER(schedule, lambda_late, "0.1", 0, 100, "lambda after lambda_switch"),
    NUMBER(schedule, alpha, "0.0001", 0, 100, "weight of the sequence-wise balance loss"),

    NUMBER(optimizer, beta1, "0.9", 0, 0.999999, "AdamW: decay of the first moment"),
    NUMBER(optimizer, beta2, "0.95", 0, 0.999999, "AdamW: decay of the second moment"),
    NUMBER(optimizer, epsilon, "1e-8", 1e-20, 1, "AdamW: added to the root of the second moment"),
    NUMBER(optimizer, weight_decay, "0.1", 0, 10, "on matrices and embeddings; norms and router bias have none"),
    NUMBER(optimizer, clip, "1.0", 0, 1e9, "largest norm of the gradient, 0 = no clipping"),
    NUMBER(optimizer, ema_decay, "0", 0, 0.9999999, "exponential moving average of the weights, 0 = none kept"),
    CHOICE(optimizer, moments, "bf16", "bf16|f32", true, "format of both moments"),

    COUNT(validation, every, "0", 0, 1e15, false, "steps between validations, 0 = at the end of the run only"),
    COUNT(validation, sequences, "0", 0, 1e15, false,
          "sequences of a validation during the run, 0 = the whole split; at the end it is always the whole split"),

    COUNT(checkpoint, every, "0", 0, 1e15, false, "steps between checkpoints, 0 = at the end of the run only"),
    COUNT(checkpoint, keep, "3", 0, 1e9, false, "newest checkpoints kept, 0 = all"),
    CHOICE(checkpoint, dtype, "bf16", "bf16|f32|fp8", false,
           "format of the exported weights (the masters are kept beside them in FP32)"),
    COUNT(checkpoint, shard_size, "5B", 1, 1e15, false, "bytes of a weight file at most"),
};
const int run_config_key_count = sizeof run_config_keys / sizeof run_config_keys[0];
