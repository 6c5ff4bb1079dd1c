// What all layers of one forward or backward pass share, and where their tensors live.
//
//   keep          what backward needs: the micro-batch slot in training; op->scratch otherwise, until the block's end
//   op->scratch   everything else; each layer gives back what it took
#ifndef MINKE_MODEL_PASS_H
#define MINKE_MODEL_PASS_H

#include "base/arena.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/mla.h"

struct dispatch;
struct expert_map;

struct pass {
    struct op_context *op;
    const struct model_config *config;
    const struct token_batch *batch;
    const struct tensor *rope_table;
    const struct recompute *recompute;
    const struct dispatch *dispatch;
    const struct expert_map *expert_map;
    struct arena *keep;
    enum format compute;    // of activations: F32 or BF16
    bool fp8;               // Linears multiply E4M3 (linear.h); compute is BF16
    bool training;          // saved activations stay for backward
    float balance_scale;    // alpha / (sequences of the global batch); 0 = no balance loss
    double *balance_loss;   // added to by each MoE layer; NULL = not wanted
    int64_t *expert_load;   // [E] of the layer at hand, added to by the router's forward; NULL = not wanted
};

// Memory of `arena` as a packed matrix, not zeroed.
static inline struct tensor matrix_allocate(struct arena *arena, enum format format, int64_t rows, int64_t columns) {
    size_t width = format == FORMAT_BF16 ? 2 : 4;
    void *data = arena_allocate(arena, (size_t)(rows * columns), width);
    return tensor_2d(format, data, rows, columns);
}

static inline float *floats_allocate(struct arena *arena, int64_t count) {
    return arena_allocate(arena, (size_t)count, sizeof(float));
}

static inline struct tensor tensor_absent(void) {
    return (struct tensor){0};
}

// Columns begin..begin+count-1 of a matrix, and the same of every head of a rank 3 view.
static inline struct tensor columns(const struct tensor *matrix, int64_t begin, int64_t count) {
    return tensor_slice(matrix, matrix->rank - 1, begin, count);
}

#endif
