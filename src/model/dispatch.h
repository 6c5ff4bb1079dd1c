// The seam of expert parallelism: how the rows of an MoE layer reach their experts and come back.
//
//   plan       from the router's choice, which rows the expert slots here receive: rows sorted by slot, rows of one
//              slot in the canonical order of tokens (global token index ascending), so that a chain of wgrad does
//              not depend on the number of ranks
//   dispatch   rows[r] = x[token of r]                                      [T, d] -> [R, d]
//   combine    out[t] += chain over k (expert id ascending) of weight[t,k] * rows[row of (t,k)]
//
//   combine_backward    drows[r] = dout[token of r], not weighted: the gate value joins in SwiGLU's backward (moe.h)
//   combine_backward_tiles   the same rows, quantised to 1 x 128 and 128 x 1 tiles (op_quantize_both, powers of two)
//   weight_backward     dweight[t,k] = dweight of its row
//   dispatch_backward   dx[t] (+)= sum over k of drows[row of (t,k)], k ascending
//
// dispatch_local stays on one rank. An all-to-all version replaces the table, not the layer.
#ifndef MINKE_MODEL_DISPATCH_H
#define MINKE_MODEL_DISPATCH_H

#include "base/arena.h"
#include "op/ops.h"

struct routing {   // what the router decided for the tokens at hand
    int64_t tokens, top_k;
    int32_t *expert;   // [T, K] logical expert ids, ascending in each row
    float *weight;     // [T, K] gate values
};

// From logical expert ids to the slots that hold their weights. Replicas of busy experts will make this more than a
// renaming; sums go by logical id.
struct expert_map {
    int64_t slots;
    const int32_t *slot;   // [experts]; NULL = identity
};

struct dispatch_plan {   // lives as long as the saved activations of its layer
    int64_t tokens, top_k;
    int64_t rows;   // rows that the experts here receive
    int64_t slots;
    int32_t *offsets;      // [slots + 1] first row of each slot
    int32_t *token;        // [rows] where each row comes from
    int32_t *row;          // [T, K] where each choice went
    float *row_weight;     // [rows] gate value of each row
    const float *weight;   // [T, K] = routing.weight
};

struct dispatch {
    const char *name;
    void *state;   // the implementation's own (communicator, buffers); NULL for the local one
    void (*plan)(const struct dispatch *self, struct op_context *op, struct dispatch_plan *plan,
                 const struct routing *routing, const struct expert_map *map, struct arena *keep);
    void (*dispatch)(const struct dispatch *self, struct op_context *op, struct tensor *rows, const struct tensor *x,
                     const struct dispatch_plan *plan);
    void (*combine)(const struct dispatch *self, struct op_context *op, struct tensor *out, const struct tensor *rows,
                    const struct dispatch_plan *plan);
    void (*combine_backward)(const struct dispatch *self, struct op_context *op, struct tensor *drows,
                             const struct tensor *dout, const struct dispatch_plan *plan);
    void (*combine_backward_tiles)(const struct dispatch *self, struct op_context *op, struct tensor *tiles,
                                   struct tensor *column_tiles, const struct tensor *dout,
                                   const struct dispatch_plan *plan);
    void (*weight_backward)(const struct dispatch *self, struct op_context *op, float *dweight,
                            const float *drow_weight, const struct dispatch_plan *plan);
    void (*dispatch_backward)(const struct dispatch *self, struct op_context *op, struct tensor *dx, enum op_mode mode,
                              const struct tensor *drows, const struct dispatch_plan *plan);
};

extern const struct dispatch dispatch_local;

#endif
