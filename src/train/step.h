// The gradient of one global batch (DESIGN section 4, order of sums).
//
// S sequences are cut into R = reduction_shards parts of S / R consecutive sequences. Inside a part gradients continue
// their chains from one micro-batch to the next, sequence by sequence, so the cut into micro-batches leaves no trace in
// the bits. The sums of the parts are added by a binary tree, ((0+1)+(2+3))+..., which a binary counter of buffers
// walks: part i is summed in buffer popcount(i), then for every trailing one bit of i the buffer is added to the one
// below it. R = 1 needs one buffer, otherwise log2(R) + 1. Losses go the same way, in double.
#ifndef MINKE_TRAIN_STEP_H
#define MINKE_TRAIN_STEP_H

#include "data/loader.h"
#include "model/model.h"
#include "train/param_tree.h"

struct batch_gradient {
    struct model *model;
    struct model_slot *slot;
    struct loader *loader;
    struct param_tree *buffers;   // [buffer_count]; the result stands in the first
    int64_t buffer_count;
    int32_t *ids;           // [micro_batch, length + 1 + depths]
    int64_t *expert_load;   // [MoE layers, experts]: counts of the whole batch; NULL without MoE layers
    int64_t expert_load_count;
    int64_t length, depths, micro_batch, reduction_shards;
};

int64_t gradient_buffer_count(int64_t reduction_shards);
// Consumes `sequences` sequences of the loader (a multiple of reduction_shards). *sums: totals of the batch, not
// divided.
void batch_gradient_compute(struct batch_gradient *batch, struct micro_batch_result *sums, struct op_context *op,
                            int64_t sequences, const struct loss_weights *weights);

#endif
