// Multi-token prediction module k = 1..D (report 2.2, spec 5): predicts token i+k+1 at position i.
//
//   e = RMSNorm(Embed[t_{i+k}], enorm); g = RMSNorm(hidden^{k-1}_i, hnorm)
//   h = eh_proj [e ; g];   h = block(h), attention over positions i with RoPE index i
//   hidden^k = RMSNorm(h, shared_head.norm);   logits = lm_head hidden^k
//
// hidden^0 is the main model's hidden state after the final norm, and hidden^k the same of module k: what the head
// takes is what the next module takes (docs/numerics.md). Both are in the format of activations, rounded once, so that
// inference and training agree.
#ifndef MINKE_MODEL_MTP_H
#define MINKE_MODEL_MTP_H

#include "model/block.h"

struct mtp_saved {             // slot lifetime
    struct tensor hidden_in;   // [T, d] hidden^{k-1}
    const int32_t *ids;        // [T] token i+k of each row
    float *e_rstd, *h_rstd, *out_rstd;
    struct tensor joined;   // [T, 2d] = [e ; g]; absent when recompute.rms_norm
    struct block_saved block;
    struct tensor h_out;   // f32 [T, d] residual stream after the block
};
struct mtp_kept {
    struct linear_kept eh_proj;
    struct block_kept block;
};

// hidden_out [T, d] belongs to the caller. ids: token i+k of each row (pass->batch->ids is not used).
void mtp_forward(const struct pass *pass, struct tensor *hidden_out, const struct tensor *hidden_in, const int32_t *ids,
                 const struct mtp_params *params, const struct tensor *embed_tokens, struct layer_cache *cache,
                 struct mtp_saved *saved);
// From dhidden_out f32 [T, d]: dhidden_in f32 [T, d] is added to, dembedding f32 [T, d] (of Embed[ids]) is set.
void mtp_backward_input(const struct pass *pass, struct tensor *dhidden_in, struct tensor *dembedding,
                        struct mtp_kept *kept, struct mtp_params *dparams, const struct tensor *dhidden_out,
                        const struct mtp_params *params, const struct tensor *embed_tokens, struct mtp_saved *saved);
void mtp_backward_weight(struct op_context *op, struct mtp_params *dparams, const struct mtp_kept *kept,
                         enum op_mode mode);

#endif
