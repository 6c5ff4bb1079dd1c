// The whole model: embedding, blocks, final norm, MTP modules, head and loss; forward, backward for inputs (B),
// backward for weights (W).
//
// The residual stream is F32 in every precision; "activation" tensors (inputs and outputs of Linears, attention) are
// F32 or BF16 (`compute`). Lifetimes: model (params, rope table), micro-batch slot (struct model_slot: from its forward
// to its W), step (gradients).
#ifndef MINKE_MODEL_MODEL_H
#define MINKE_MODEL_MODEL_H

#include "model/batch.h"
#include "model/dispatch.h"
#include "model/mla.h"
#include "model/params.h"

#define MODEL_MAX_DEPTH 8   // MTP modules

struct model {
    struct model_config config;
    struct model_params params;   // compute weights: as mapped, or the trainer's F32/BF16 copies
    struct tensor rope_table;     // f32[positions, dr/2, 2]
    enum format compute;          // FORMAT_F32 or FORMAT_BF16: format of activations
    bool fp8;   // training and its validation multiply E4M3 in all PARAM_LINEARs (linear.h): their weights are
                // E4M3_BLOCK, compute is BF16
    struct recompute recompute;
    const struct dispatch *dispatch;   // NULL until model_prepare, which puts the local one and the identity map
    struct expert_map expert_map;
    struct arena *arena;    // of model_prepare
    bool absorbed_panels;   // absorbed attention takes its weights in panels (absorbed.h), where op_interleaves says so
    bool prepared_absorbed;   // they are there, or kv_b_dense
};
// config, params and compute must be set. Builds the rope table for `positions` positions in `arena`, which must live
// as long as the model: what absorbed attention needs of kv_b_proj (absorbed.h) is made there when it first runs.
void model_prepare(struct model *model, int64_t positions, struct arena *arena);

// At once; model_infer does it when it is needed.
void model_prepare_absorbed(struct model *model, struct op_context *op);

// ---- Training -----------------------------------------------------------------------------------
struct loss_weights {
    float main_scale;      // 1 / (targets of the global batch)
    float mtp_scale;       // lambda / D / (targets of the global batch)
    float balance_scale;   // alpha / (sequences of the global batch)
};
struct micro_batch {
    int64_t sequences, length;   // rows = sequences * length
    const int32_t *ids;   // [sequences, length + 1 + D]: inputs are 0..length-1, depth k predicts column i + 1 + k
    bool first;   // of those that add to the same gradients: it sets those of Linears (model_gradient_is_set), whatever
                  // they hold; the others must be zero. Its forward and its W come before all others'
};
// Whether the first micro-batch sets the gradient of a parameter.
bool model_gradient_is_set(const struct param *param);
struct micro_batch_result {             // sums, in canonical (sequence, position) order, in double; not yet divided
    double main_loss;                   // sum over targets of -log p
    double mtp_loss[MODEL_MAX_DEPTH];   // the same per depth
    double balance_loss;                // sum over sequences and MoE layers (main and MTP) of sum_i f_i P_i
    int64_t targets;
};
struct model_slot;   // opaque: saved activations and kept pairs of one micro-batch
int model_slot_create(struct model_slot **slot, const struct model *model, struct error *error);
void model_slot_destroy(struct model_slot *slot);
int64_t model_slot_bytes(const struct model_slot *slot);   // peak of its arena
struct arena *model_slot_arena(struct model_slot *slot);   // to reserve its memory, or to replace it while it is empty

// Forward of everything, the loss, and the head's own gradients: the logits live only chunk by chunk, sequence by
// sequence (main, then each MTP depth), so the head's dW is added here (a tied head's in B, see loss.h) and is the one
// weight gradient that is not deferred (docs/numerics.md). expert_load (int64 [MoE layers incl. MTP, E], added to; may
// be NULL) counts routed tokens once, whatever is recomputed. gradients == NULL: loss only (validation).
void model_forward(struct op_context *op, struct micro_batch_result *result, struct model_slot *slot,
                   struct model *model, struct model_params *gradients, const struct micro_batch *batch,
                   const struct loss_weights *weights, int64_t *expert_load);
// B and W together, layer by layer: the bits of the two below, with less memory.
void model_backward(struct op_context *op, struct model_slot *slot, struct model *model,
                    struct model_params *gradients);
// B: everything but the Linear weight gradients (embedding and norm gradients are added here).
void model_backward_input(struct op_context *op, struct model_slot *slot, struct model *model,
                          struct model_params *gradients);
// W: the Linear weight gradients; any time after B and before the slot is used again.
void model_backward_weight(struct op_context *op, struct model_slot *slot, struct model *model,
                           struct model_params *gradients);

// ---- Inference ----------------------------------------------------------------------------------
// hidden [tokens, d], F32 or `compute`: the residual stream after the final norm, rounded to `compute` (what the head
// and the MTP module take). caches: one per layer, or NULL (then keys are this batch's own). Uses op->scratch for all
// intermediate tensors.
void model_infer(struct op_context *op, struct tensor *hidden, struct model *model, const struct token_batch *batch,
                 struct layer_cache *caches);
// MTP module `depth` (0-based) at rows i: from hidden_in_i (of the main model for depth 0, of the module before for
// others) and the embedding of ids[i] = token i+depth+1. hidden_out is after shared_head.norm: what its logits and the
// next module take. cache: this module's own.
void model_mtp_infer(struct op_context *op, struct tensor *hidden_out, struct model *model, int64_t depth,
                     const struct tensor *hidden_in, const struct token_batch *batch, struct layer_cache *cache);
// logits f32[rows, V] of rows from model_infer, or from model_mtp_infer.
void model_logits(struct op_context *op, struct tensor *logits, struct model *model, const struct tensor *hidden);
void model_mtp_logits(struct op_context *op, struct tensor *logits, struct model *model, int64_t depth,
                      const struct tensor *hidden_out);

#endif
