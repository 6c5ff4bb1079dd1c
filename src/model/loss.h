// Output head and cross-entropy of the main model and of each MTP depth.
//
//   logits = hidden lm_head^T (F32), LOSS_ROWS rows at a time; loss of row t = logsumexp(logits_t) - logits_t[target_t]
//   backward at once, while the logits are there: dlogits = scale * (softmax - onehot), in the format of activations;
//   dhidden (f32) = dlogits lm_head, dlm_head += dlogits^T hidden
//
// Order: sequences ascending; in each the main model, then depth 1..D; rows ascending. lm_head's gradient is one chain
// in that order, so any split of a batch into micro-batches between sequences gives the same bits. When the embedding
// is the same tensor, its rows would come between: then dlm_head waits for B, which computes the logits again, and each
// sequence adds its head's part, then its embedding's.
#ifndef MINKE_MODEL_LOSS_H
#define MINKE_MODEL_LOSS_H

#include "op/ops.h"

#define LOSS_ROWS 256

struct loss_head {            // one user of the head: the main model or an MTP depth
    struct tensor hidden;     // [T, d] after its final norm
    struct tensor dhidden;    // f32 [T, d], set; absent = not wanted
    const int32_t *targets;   // [T]; -1 = none
    float scale;              // weight of a target's loss in the total
    double *loss;             // += sum of -log p, in double; NULL = not wanted
};
// dlm_head f32 [V, d], set or added to, or NULL (not wanted, or later).
void loss_forward_backward(struct op_context *op, const struct loss_head *heads, int64_t head_count,
                           struct tensor *dlm_head, enum op_mode mode, const struct tensor *lm_head, int64_t sequences,
                           int64_t length);
// The part of dlm_head that rows first..first+length-1 (one sequence) of all heads add.
void loss_backward_weight(struct op_context *op, const struct loss_head *heads, int64_t head_count,
                          struct tensor *dlm_head, const struct tensor *lm_head, int64_t first, int64_t length);

#endif
