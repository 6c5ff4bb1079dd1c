// What one step does to the weights (report 4.2, spec 4.3, 6.1, 8.2): gradient norm and clipping, AdamW on FP32 masters
// with BF16 (or FP32) moments, the moving average of the weights, and the router biases of auxiliary-loss-free
// balancing.
#ifndef MINKE_TRAIN_OPTIMIZER_H
#define MINKE_TRAIN_OPTIMIZER_H

#include "train/param_tree.h"
#include "train/run_config.h"

struct optimizer {
    struct param_tree masters;   // f32, router biases among them
    struct param_tree m, v;      // moments
    struct param_tree average;   // f32, all parameters; empty list when optimizer.ema_decay is 0
    // What the model computes with: the masters themselves (fp32) or BF16 copies whose small tensors are the masters';
    // fp8: the Linears as E4M3 blocks.
    struct param_tree weights;
    bool power_of_two;   // scales of the blocks
    int64_t updates;     // AdamW steps so far (skipped steps do not count)
};
// Masters and moments are zeroed.
int optimizer_create(struct optimizer *optimizer, const struct model_config *config, const struct run_config *run,
                     struct arena *arena, struct error *error);
// After the masters were filled (random, from a model): the average starts there, the compute weights are made from
// them.
void optimizer_start(struct optimizer *optimizer, struct op_context *op);
// After a checkpoint was read: the compute weights are made from the masters.
void optimizer_refresh(struct optimizer *optimizer, struct op_context *op);

// The compute weights of the moving average (until optimizer_weights is called, nothing may be learned), and the run's
// own again.
struct model_params optimizer_average_weights(struct optimizer *optimizer, struct op_context *op);
struct model_params optimizer_weights(struct optimizer *optimizer, struct op_context *op);

// Root of the sum of squares of all gradients: op_sum_squares per tensor, added in list order. Not finite when any
// gradient is not.
double gradient_norm(struct op_context *op, const struct param_tree *gradients);

// One AdamW step with gradients / scale (a power of two), times min(1, clip / norm) (clip 0: no clipping); norm is that
// of gradients / scale. Then the average:
// a = d * a + (1 - d) * w with d = min(ema_decay, (1 + n) / (10 + n)) after n updates, so that it forgets the random
// start of a short run.
void optimizer_update(struct optimizer *optimizer, struct op_context *op, const struct param_tree *gradients,
                      const struct optimizer_section *section, double scale, double learning_rate, double norm);

// bias_i += gamma * sign(mean load - load_i) for every router that has a bias. expert_load: [MoE layers incl. MTP,
// experts] in layer order, counts of the whole global batch.
void router_bias_update(struct optimizer *optimizer, const struct model_config *config, const int64_t *expert_load,
                        double gamma);

// MoE layers including those of MTP modules: the rows of an expert load.
int64_t moe_layer_count(const struct model_config *config);
// The bias of each of them; NULL where the router has none.
const float *router_bias(const struct param_tree *masters, int64_t moe_layer);

#endif
