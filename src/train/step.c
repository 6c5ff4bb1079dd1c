// The gradient of a global batch: see step.h.
#include "train/step.h"

#include <string.h>

#define MAX_BUFFERS 13   // reduction_shards <= 4096

int64_t gradient_buffer_count(int64_t reduction_shards) {
    int64_t count = 1;
    for (; reduction_shards > 1; reduction_shards /= 2) {
        count++;
    }
    return count;
}

static void sums_add(struct micro_batch_result *to, const struct micro_batch_result *from) {
    to->main_loss += from->main_loss;
    for (int64_t k = 0; k < MODEL_MAX_DEPTH; k++) {
        to->mtp_loss[k] += from->mtp_loss[k];
    }
    to->balance_loss += from->balance_loss;
    to->targets += from->targets;
}

static void read_sequences(struct batch_gradient *batch, int64_t sequences) {
    int64_t stride = batch->length + 1 + batch->depths, count;
    for (int64_t s = 0; s < sequences; s++) {
        loader_next(batch->ids + s * stride, &count, batch->loader);
    }
}

// One part of the batch into one buffer: its micro-batches one after the other.
static void shard_compute(struct batch_gradient *batch, struct micro_batch_result *sums, struct param_tree *buffer,
                          struct op_context *op, int64_t sequences, const struct loss_weights *weights) {
    param_tree_zero_added(op, buffer);
    *sums = (struct micro_batch_result){0};
    for (int64_t done = 0; done < sequences;) {
        int64_t now = sequences - done < batch->micro_batch ? sequences - done : batch->micro_batch;
        struct micro_batch micro = {.sequences = now, .length = batch->length, .ids = batch->ids, .first = done == 0};
        struct micro_batch_result result;
        read_sequences(batch, now);
        model_forward(op, &result, batch->slot, batch->model, &buffer->params, &micro, weights, batch->expert_load);
        model_backward(op, batch->slot, batch->model, &buffer->params);
        sums_add(sums, &result);
        done += now;
    }
}

void batch_gradient_compute(struct batch_gradient *batch, struct micro_batch_result *sums, struct op_context *op,
                            int64_t sequences, const struct loss_weights *weights) {
    int64_t shards = batch->reduction_shards;
    CHECK(sequences % shards == 0 && batch->buffer_count <= MAX_BUFFERS, "%lld sequences in %lld shards",
          (long long)sequences, (long long)shards);
    struct micro_batch_result levels[MAX_BUFFERS] = {0};
    if (batch->expert_load != NULL) {
        memset(batch->expert_load, 0, (size_t)batch->expert_load_count * sizeof *batch->expert_load);
    }
    for (int64_t shard = 0; shard < shards; shard++) {
        int64_t level = __builtin_popcountll((unsigned long long)shard);
        shard_compute(batch, &levels[level], &batch->buffers[level], op, sequences / shards, weights);
        for (int64_t bits = shard; (bits & 1) != 0; bits >>= 1) {
            level--;
            param_tree_add(op, &batch->buffers[level], &batch->buffers[level + 1]);
            sums_add(&levels[level], &levels[level + 1]);
        }
    }
    *sums = levels[0];
}
