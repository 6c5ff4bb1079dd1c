// Mixture of experts (report 2.1.2, spec 4).
//
//   x [T, d] normalised block input; h f32 [T, d] residual stream
//   h += sum over k (expert id ascending) of weight[t,k] * FFN_{expert[t,k]}(x_t), then += shared experts' FFN(x)
//
// in three parts, so that communication can overlap with the computation of another micro-batch:
//   moe_dispatch_forward   route; rows[R, d] = x of each (token, choice), sorted by expert
//   moe_experts_forward    results[R, d] = W_down (silu(W_gate row) * W_up row), grouped by expert; shared experts
//   moe_combine_forward    the weighted sum, and the shared output
//
// Backward keeps no expert output. With g = gate value of a row and dy = dh of its token (not weighted):
//   dhidden = W_down^T dy ; dg = <dhidden, hidden> ; dgate, dup of g * dhidden ; dW_down = dy (g * hidden)^T
// since d(g * W_down hidden) = g * W_down dhidden. op_swiglu(weight = g) makes g * hidden, op_swiglu_backward the rest.
//
// In FP8 training rows travel to the experts as tiles with scales that are powers of two (spec 6.4); results and their
// gradients as BF16.
#ifndef MINKE_MODEL_MOE_H
#define MINKE_MODEL_MOE_H

#include "model/dispatch.h"
#include "model/ffn.h"
#include "model/pass.h"
#include "model/router.h"

struct moe_saved {         // slot lifetime
    struct tensor x;       // [T, d] (set again before backward when the block recomputes its norm)
    struct tensor tiles;   // FP8: x as dispatch and experts take it; absent until backward, as x
    struct router_saved router;
    struct dispatch_plan plan;
    struct tensor rows;      // [R, d]; FP8: tiles, gathered again in backward
    struct tensor gate_up;   // [R, 2I]; becomes [dgate, dup] in backward (FP8: tiles, which stay)
    struct ffn_saved shared;
};
struct moe_kept {
    struct linear_kept router, gate, up, down;   // gate, up, down: rows grouped by plan->offsets
    const struct dispatch_plan *plan;
    struct ffn_kept shared;
};

// What passes from one part to the next; op->scratch, released by the block.
struct moe_transit {
    struct tensor results;    // forward: expert outputs [R, d]
    struct tensor shared;     // forward: shared experts' output [T, d]; absent without shared experts
    struct tensor dresults;   // backward: of the results [R, d], as the product with W_down takes it
    struct tensor drows;      // backward: of the rows [R, d]
    float *dweight;           // backward: [R]
};

void moe_dispatch_forward(const struct pass *pass, struct moe_saved *saved, const struct tensor *x,
                          const struct moe_params *params);
void moe_experts_forward(const struct pass *pass, struct moe_transit *transit, const struct moe_params *params,
                         struct moe_saved *saved);
void moe_combine_forward(const struct pass *pass, struct tensor *h, const struct moe_transit *transit,
                         const struct moe_saved *saved);

// After x was set again: what else recompute left out.
void moe_restore(const struct pass *pass, struct moe_saved *saved);
// dout [T, d] (compute format, lives until W) -> dx f32 [T, d] (set).
void moe_combine_backward(const struct pass *pass, struct moe_transit *transit, struct moe_kept *kept,
                          const struct tensor *dout, const struct moe_saved *saved);
void moe_experts_backward(const struct pass *pass, struct tensor *dx, struct moe_transit *transit,
                          struct moe_kept *kept, const struct tensor *dout, const struct moe_params *params,
                          struct moe_saved *saved);
void moe_dispatch_backward(const struct pass *pass, struct tensor *dx, const struct moe_transit *transit,
                           struct moe_kept *kept, const struct moe_params *params, const struct moe_saved *saved);
void moe_backward_weight(struct op_context *op, struct moe_params *dparams, const struct moe_kept *kept,
                         enum op_mode mode);

#endif
