// SwiGLU feed-forward network (spec 1.2): the FFN of dense layers and the shared experts of MoE layers.
//
//   x [T, d] -> out [T, d] = W_down (silu(W_gate x) * W_up x)
//
// gate and up stand side by side in one [T, 2I] buffer; backward turns that buffer into [dgate, dup] in place.
// In FP8 training (x is E4M3_TILE) gate_up is kept as tiles, hidden never: backward computes it from what the tiles
// hold.
#ifndef MINKE_MODEL_FFN_H
#define MINKE_MODEL_FFN_H

#include "model/mla.h"
#include "model/params.h"

struct ffn_saved {           // slot lifetime
    struct tensor x;         // [T, d] (set again before backward when the block recomputes its norm)
    struct tensor gate_up;   // [T, 2I]
    struct tensor hidden;    // [T, I] = silu(gate) * up; absent when recompute.swiglu or FP8
};
struct ffn_kept {
    struct linear_kept gate, up, down;
};

// `keep` holds what saved points to; out belongs to the caller.
void ffn_forward(struct op_context *op, struct tensor *out, const struct tensor *x, const struct mlp_params *params,
                 struct ffn_saved *saved, bool recompute_swiglu, struct arena *keep);
// dx f32 [T, d] = (or +=) W_gate^T dgate + W_up^T dup. dout must live until W.
void ffn_backward_input(struct op_context *op, struct tensor *dx, enum op_mode mode, struct ffn_kept *kept,
                        const struct tensor *dout, const struct mlp_params *params, struct ffn_saved *saved,
                        struct arena *slot);
void ffn_backward_weight(struct op_context *op, struct mlp_params *dparams, const struct ffn_kept *kept,
                         enum op_mode mode);

#endif
