// One transformer block (spec 1.2), main layer or MTP layer, dense or MoE.
//
//   h f32 [T, d], in place:   h += MLA(RMSNorm(h));   h += FFN(RMSNorm(h))
//
// Cut into attention, dispatch, experts, combine, forward and backward (DESIGN section 3): a schedule may run the parts
// of two micro-batches in turn, so that one's communication hides behind the other's computation. block_forward and
// block_backward_input run them in order. A dense layer has its norm in dispatch, its FFN in experts and its sum in
// combine.
#ifndef MINKE_MODEL_BLOCK_H
#define MINKE_MODEL_BLOCK_H

#include "model/moe.h"

struct block_saved {   // slot lifetime; without training only until the block's end
    struct tensor h;   // f32 [T, d] residual stream before the block; kept in training only
    struct tensor
        attention_out;   // [T, d] what attention adds to it: h + attention_out is the stream between the halves
    float *attention_rstd, *ffn_rstd;   // [T]
    struct mla_saved attention;
    struct ffn_saved mlp;   // dense layers
    struct moe_saved moe;   // MoE layers
};
struct block_kept {
    struct mla_kept attention;
    struct ffn_kept mlp;
    struct moe_kept moe;
};

// What passes from cut to cut; op->scratch (and the slot for dout, which W needs).
struct block_transit {
    struct moe_transit moe;
    struct tensor normed;   // forward: input of the FFN [T, d]
    struct tensor h;        // backward: residual stream between the halves, f32 [T, d]
    struct tensor out;      // forward: output of a dense FFN [T, d]
    struct tensor dout;     // backward: gradient of the FFN's output [T, d]
    struct tensor dx;       // backward: gradient of the FFN's input, f32 [T, d]
};

void block_attention_forward(const struct pass *pass, struct tensor *h, const struct block_params *params,
                             struct layer_cache *cache, struct block_saved *saved);
void block_dispatch_forward(const struct pass *pass, struct block_transit *transit, const struct tensor *h,
                            const struct block_params *params, struct block_saved *saved);
void block_experts_forward(const struct pass *pass, struct block_transit *transit, const struct block_params *params,
                           struct block_saved *saved);
void block_combine_forward(const struct pass *pass, struct tensor *h, const struct block_transit *transit,
                           const struct block_params *params, struct block_saved *saved);

void block_combine_backward(const struct pass *pass, struct block_transit *transit, struct block_kept *kept,
                            const struct tensor *dh, const struct block_params *params, struct block_saved *saved);
void block_experts_backward(const struct pass *pass, struct block_transit *transit, struct block_kept *kept,
                            const struct block_params *params, struct block_saved *saved);
void block_dispatch_backward(const struct pass *pass, struct tensor *dh, struct block_transit *transit,
                             struct block_kept *kept, struct block_params *dparams, const struct block_params *params,
                             struct block_saved *saved);
void block_attention_backward(const struct pass *pass, struct tensor *dh, struct block_kept *kept,
                              struct block_params *dparams, const struct block_params *params,
                              struct block_saved *saved);

// saved is needed without training too (it is then filled with pointers into scratch); cache NULL = this batch's own
// keys.
void block_forward(const struct pass *pass, struct tensor *h, const struct block_params *params,
                   struct layer_cache *cache, struct block_saved *saved);
// B: dh f32 [T, d] in place. Norm gradients are added to dparams.
void block_backward_input(const struct pass *pass, struct tensor *dh, struct block_kept *kept,
                          struct block_params *dparams, const struct block_params *params, struct block_saved *saved);
// W: sets (or adds to) the gradients of the Linears.
void block_backward_weight(struct op_context *op, struct block_params *dparams, const struct block_kept *kept,
                           enum op_mode mode);

#endif
