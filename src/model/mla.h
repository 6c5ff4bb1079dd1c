// Multi-head latent attention (report 2.1.1, spec 2).
//
//   x [T, d] normalised block input -> out [T, d]
//   q     = q_b RMSNorm(q_a x)  or  q_proj x                      [T, H, dn+dr]
//   c, kr = split(kv_a x); c = RMSNorm(c); kr = RoPE(kr)          [T, kv_lora], [T, dr] (one key for all heads)
//   q's last dr columns of each head = RoPE
//   expanded: k, v = split(kv_b c)                                [S, H, dn], [S, H, dv]
//             o = attention(q, [k; kr], v)
//   absorbed: qa_h = W_UK_h^T q_h ; ctx = attention([qa; qr], [c; kr], c) ; o_h = W_UV_h ctx_h
//   out = o_proj o
//
// The formats of x and of the activations between are one and the same (F32 or BF16). In FP8 training x comes as
// E4M3_TILE, activations between are BF16, and every Linear's input is quantised: LINEAR_FP8, o_proj LINEAR_FP8_POWER.
#ifndef MINKE_MODEL_MLA_H
#define MINKE_MODEL_MLA_H

#include "model/batch.h"
#include "model/linear.h"
#include "model/params.h"

struct recompute {   // what backward computes again instead of keeping (report 3.2.3)
    bool rms_norm, swiglu, mla_up;
};

struct mla_saved {               // what backward needs from forward; slot lifetime
    struct tensor x;             // [T, d] (absent when the block recomputes its norm and sets it again before backward)
    struct tensor q_latent;      // q_a output before its norm [T, q_lora]
    struct tensor kv_latent;     // kv_a output, before norm and rotation [T, kv_lora + dr]
    struct tensor q_normed, c;   // [T, q_lora], [T, kv_lora]; absent when recompute.rms_norm or FP8
    struct tensor q, kv,
        rope_key;      // [T, H*(dn+dr)] rotated, [T, H*(dn+dv)], [T, dr] rotated; q and kv absent when recompute.mla_up
    struct tensor o;   // attention output [T, H*dv]; FP8: E5M6_TILE (spec 6.4)
    float *q_rstd, *kv_rstd, *lse;   // [T], [T], [T, H]
};

struct mla_kept {
    struct linear_kept q, q_a, q_b, kv_a, kv_b, o;
};

// saved == NULL: inference. cache == NULL: keys and values are this batch's own (training).
void mla_forward(struct op_context *op, struct tensor *out, const struct tensor *x, const struct mla_params *params,
                 const struct model_config *config, const struct token_batch *batch, const struct tensor *rope_table,
                 struct layer_cache *cache, struct mla_saved *saved, const struct recompute *recompute,
                 struct arena *slot);
// dx f32 [T, d]: a sum of two products, set. dout [T, d] of the format of x must live until W. What recompute left out
// is seen by its absence in saved. Norm gradients (q_a_layernorm, kv_a_layernorm) are added to dparams here: they are
// cheap and need no kept tensors.
void mla_backward_input(struct op_context *op, struct tensor *dx, struct mla_kept *kept, struct mla_params *dparams,
                        const struct tensor *dout, const struct mla_params *params, const struct model_config *config,
                        const struct token_batch *batch, const struct tensor *rope_table, struct mla_saved *saved,
                        struct arena *slot);
void mla_backward_weight(struct op_context *op, struct mla_params *dparams, const struct mla_kept *kept,
                         enum op_mode mode);

#endif
