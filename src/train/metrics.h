// What is measured of each step, and OUT/metrics.jsonl: one JSON object a line, one line a step.
//
//    step, tokens                      after the step
//    seconds, tokens_per_second        of this step (without validation and checkpoint)
//    loss                              main + lambda * mean of MTP + alpha * balance: what the gradient is of
//    main_loss, mtp_loss [D]           nats per target; MTP by depth
//    balance_loss                      sum over MoE layers of sum_i f_i P_i, mean over sequences, without alpha
//    learning_rate, batch (sequences), lambda, gamma, alpha
//    gradient_norm, clipped (was it above the limit), skipped (nothing was learned from this step)
//    max_violation                     mean over MoE layers of (max load - mean load) / mean load (spec 4.3)
//    max_violation_layers [L]          the same of each MoE layer in order, those of MTP last; also in the next two
//    bias_range [[min, max]]           of each router's biases; null without
//    expert_load [[E]]                 tokens routed to each expert over the batch
//    memory_peak                       bytes of heap at most so far
//    validation_loss, validation_mtp_loss [D], validation_bits_per_byte,
//    validation_average_loss           on steps with a validation only (the last with optimizer.ema_decay only)
//
// A number that is not finite is null. seconds, tokens_per_second and memory_peak are of this machine and moment; all
// other fields are the same in every repetition of the run, and a resumed run leaves the file as the uninterrupted one
// would have.
#ifndef MINKE_TRAIN_METRICS_H
#define MINKE_TRAIN_METRICS_H

#include "model/model.h"
#include "train/optimizer.h"

struct validation_result {
    double loss, mtp_loss[MODEL_MAX_DEPTH], bits_per_byte;
    double average_loss;   // of the moving average of the weights; NAN when there is none
};

struct step_metrics {
    int64_t step, tokens, batch;
    double seconds, tokens_per_second;
    double loss, main_loss, mtp_loss[MODEL_MAX_DEPTH], balance_loss;
    double learning_rate, lambda, gamma, alpha;
    double gradient_norm;
    bool clipped, skipped, validated;
    struct validation_result validation;
    const int64_t *expert_load;   // [layers, experts]
    double max_violation;
};

// (max - mean) / mean of one layer's load.
double load_violation(const int64_t *load, int64_t experts);
// Mean over layers; 0 without MoE layers.
double load_violation_mean(const int64_t *load, int64_t layers, int64_t experts);

struct metrics_file {
    int descriptor;
    char *path;
    char *line;   // room for the longest line: writing allocates nothing
    size_t capacity;
    const struct model_config *config;
    int64_t layers;   // MoE layers
};
// Opens OUT/metrics.jsonl for appending after dropping every line beyond `last_step` (0 = all) and a torn last one.
int metrics_open(struct metrics_file *file, const char *out, const struct model_config *config, int64_t last_step,
                 struct error *error);
int metrics_write(struct metrics_file *file, const struct step_metrics *metrics, const struct param_tree *masters,
                  struct error *error);
int metrics_sync(struct metrics_file *file,
                 struct error *error);   // to the disk: a checkpoint's lines must not be behind it
void metrics_close(struct metrics_file *file);

#endif
