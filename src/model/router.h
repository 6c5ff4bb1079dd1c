// The router of an MoE layer (spec 4.2, 4.4): which experts a token meets, and with which gate values.
//
//   logits = x gate^T (F32 always)   score = sigmoid or softmax(logits)
//   experts chosen by score + e_score_correction_bias, gate values from score alone
//
// Gradients reach the logits from the gate values and from the sequence-wise balance loss; the bias has none.
#ifndef MINKE_MODEL_ROUTER_H
#define MINKE_MODEL_ROUTER_H

#include "model/dispatch.h"
#include "model/pass.h"

struct router_saved {   // slot lifetime
    float *score;       // [T, E]
    struct routing routing;
    float *share;   // [sequences, E] f of the balance loss; NULL without one
};

void router_forward(const struct pass *pass, struct router_saved *saved, const struct tensor *x,
                    const struct moe_params *params);
// dx f32 [T, d] += gate^T dlogits. kept: x and dlogits for W. dweight [T, K].
void router_backward_input(const struct pass *pass, struct tensor *dx, struct linear_kept *kept, const float *dweight,
                           const struct tensor *x, const struct moe_params *params, const struct router_saved *saved);

#endif
