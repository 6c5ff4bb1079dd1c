// One transformer block; see block.h.
#include "model/block.h"

#include "model/experts.h"

// RMSNorm as the Linears of a half take it.
static struct tensor norm_rows(const struct pass *pass, float *rstd, const struct tensor *h,
                               const struct tensor *weight, enum linear_precision precision, struct arena *arena) {
    struct op_context *op = pass->op;
    float epsilon = (float)pass->config->rms_norm_eps;
    if (precision == LINEAR_PLAIN) {
        struct tensor normed = matrix_allocate(arena, pass->compute, h->shape[0], h->shape[1]);
        op_rms_norm(op, &normed, rstd, h, weight, epsilon);
        return normed;
    }
    struct tensor tiles = linear_tiles(arena, h->shape[0], h->shape[1]);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor normed = matrix_allocate(op->scratch, pass->compute, h->shape[0], h->shape[1]);
    op_rms_norm(op, &normed, rstd, h, weight, epsilon);
    op_quantize_rows(op, &tiles, &normed, precision == LINEAR_FP8_POWER);
    arena_release(op->scratch, mark);
    return tiles;
}

// Of attention and dense FFNs; an MoE layer quantises its input itself, since its router takes it as it is.
static enum linear_precision half_precision(const struct pass *pass, bool is_moe) {
    return pass->fp8 && !is_moe ? LINEAR_FP8 : LINEAR_PLAIN;
}

// FP8 always computes norms again (report 3.2.3); BF16 and F32 do when told to.
static bool recomputes_norm(const struct pass *pass) {
    return pass->training && (pass->recompute->rms_norm || pass->fp8);
}

// The normalised input of one half: kept for W, or computed again in backward (then the slot holds only rstd).
static struct tensor half_norm(const struct pass *pass, float **rstd, const struct tensor *h,
                               const struct tensor *weight, enum linear_precision precision) {
    *rstd = pass->training ? floats_allocate(pass->keep, h->shape[0]) : NULL;
    return norm_rows(pass, *rstd, h, weight, precision, recomputes_norm(pass) ? pass->op->scratch : pass->keep);
}

// In backward: the same bits again, now in the slot.
static void half_norm_restore(const struct pass *pass, struct tensor *normed, const struct tensor *h,
                              const struct tensor *weight, enum linear_precision precision) {
    if (!tensor_present(normed)) {
        *normed = norm_rows(pass, NULL, h, weight, precision, pass->keep);
    }
}

// The gradient of a half's output as its Linears take it; W needs it, so it stays in the slot.
static struct tensor half_dout(const struct pass *pass, const struct tensor *dh) {
    struct tensor dout = matrix_allocate(pass->keep, pass->compute, dh->shape[0], dh->shape[1]);
    op_copy(pass->op, &dout, dh);
    return dout;
}

// The residual stream between the halves, added up as forward did.
static struct tensor stream_restore(const struct pass *pass, const struct block_saved *saved) {
    struct tensor h = matrix_allocate(pass->op->scratch, FORMAT_F32, saved->h.shape[0], saved->h.shape[1]);
    op_sum(pass->op, &h, &saved->h, &saved->attention_out);
    return h;
}

// ---- Forward ------------------------------------------------------------------------------------

void block_attention_forward(const struct pass *pass, struct tensor *h, const struct block_params *params,
                             struct layer_cache *cache, struct block_saved *saved) {
    struct op_context *op = pass->op;
    struct arena_mark mark = arena_mark(op->scratch);
    saved->h = tensor_absent();
    if (pass->training) {
        saved->h = matrix_allocate(pass->keep, FORMAT_F32, h->shape[0], h->shape[1]);
        op_copy(op, &saved->h, h);
    }
    struct tensor normed = half_norm(pass, &saved->attention_rstd, h, &params->input_layernorm,
                                     half_precision(pass, false));
    saved->attention_out = matrix_allocate(pass->training ? pass->keep : op->scratch, pass->compute, h->shape[0],
                                           h->shape[1]);
    mla_forward(op, &saved->attention_out, &normed, &params->self_attn, pass->config, pass->batch, pass->rope_table,
                cache, pass->training ? &saved->attention : NULL, pass->recompute, pass->keep);
    op_add(op, h, &saved->attention_out);
    if (recomputes_norm(pass)) {
        saved->attention.x = tensor_absent();
    }
    arena_release(op->scratch, mark);
}

void block_dispatch_forward(const struct pass *pass, struct block_transit *transit, const struct tensor *h,
                            const struct block_params *params, struct block_saved *saved) {
    transit->normed = half_norm(pass, &saved->ffn_rstd, h, &params->post_attention_layernorm,
                                half_precision(pass, params->is_moe));
    if (params->is_moe) {
        moe_dispatch_forward(pass, &saved->moe, &transit->normed, &params->moe);
        if (params->moe.streamed != NULL) {
            expert_read_ahead(pass, params->moe.streamed, h);
        }
    }
}

void block_experts_forward(const struct pass *pass, struct block_transit *transit, const struct block_params *params,
                           struct block_saved *saved) {
    if (params->is_moe) {
        moe_experts_forward(pass, &transit->moe, &params->moe, &saved->moe);
        return;
    }
    bool recompute = pass->training && pass->recompute->swiglu;
    transit->out = matrix_allocate(pass->op->scratch, pass->compute, transit->normed.shape[0],
                                   transit->normed.shape[1]);
    ffn_forward(pass->op, &transit->out, &transit->normed, &params->mlp, &saved->mlp, recompute, pass->keep);
}

void block_combine_forward(const struct pass *pass, struct tensor *h, const struct block_transit *transit,
                           const struct block_params *params, struct block_saved *saved) {
    if (params->is_moe) {
        moe_combine_forward(pass, h, &transit->moe, &saved->moe);
    } else {
        op_add(pass->op, h, &transit->out);
    }
    if (recomputes_norm(pass)) {
        saved->mlp.x = saved->moe.x = saved->moe.tiles = tensor_absent();
    }
}

void block_forward(const struct pass *pass, struct tensor *h, const struct block_params *params,
                   struct layer_cache *cache, struct block_saved *saved) {
    struct arena_mark mark = arena_mark(pass->op->scratch);
    struct block_transit transit = {0};
    block_attention_forward(pass, h, params, cache, saved);
    block_dispatch_forward(pass, &transit, h, params, saved);
    block_experts_forward(pass, &transit, params, saved);
    block_combine_forward(pass, h, &transit, params, saved);
    arena_release(pass->op->scratch, mark);
}

// ---- Backward -----------------------------------------------------------------------------------

void block_combine_backward(const struct pass *pass, struct block_transit *transit, struct block_kept *kept,
                            const struct tensor *dh, const struct block_params *params, struct block_saved *saved) {
    struct tensor *normed = params->is_moe ? &saved->moe.x : &saved->mlp.x;
    transit->h = stream_restore(pass, saved);
    half_norm_restore(pass, normed, &transit->h, &params->post_attention_layernorm,
                      half_precision(pass, params->is_moe));
    if (params->is_moe) {
        moe_restore(pass, &saved->moe);
    }
    transit->dout = half_dout(pass, dh);
    transit->dx = matrix_allocate(pass->op->scratch, FORMAT_F32, dh->shape[0], dh->shape[1]);
    if (params->is_moe) {
        moe_combine_backward(pass, &transit->moe, &kept->moe, &transit->dout, &saved->moe);
    }
}

void block_experts_backward(const struct pass *pass, struct block_transit *transit, struct block_kept *kept,
                            const struct block_params *params, struct block_saved *saved) {
    if (params->is_moe) {
        moe_experts_backward(pass, &transit->dx, &transit->moe, &kept->moe, &transit->dout, &params->moe, &saved->moe);
    } else {
        ffn_backward_input(pass->op, &transit->dx, OP_SET, &kept->mlp, &transit->dout, &params->mlp, &saved->mlp,
                           pass->keep);
    }
}

void block_dispatch_backward(const struct pass *pass, struct tensor *dh, struct block_transit *transit,
                             struct block_kept *kept, struct block_params *dparams, const struct block_params *params,
                             struct block_saved *saved) {
    if (params->is_moe) {
        moe_dispatch_backward(pass, &transit->dx, &transit->moe, &kept->moe, &params->moe, &saved->moe);
    }
    op_rms_norm_backward(pass->op, dh, OP_ADD, &dparams->post_attention_layernorm, &transit->dx, &transit->h,
                         &params->post_attention_layernorm, saved->ffn_rstd);
}

void block_attention_backward(const struct pass *pass, struct tensor *dh, struct block_kept *kept,
                              struct block_params *dparams, const struct block_params *params,
                              struct block_saved *saved) {
    struct op_context *op = pass->op;
    half_norm_restore(pass, &saved->attention.x, &saved->h, &params->input_layernorm, half_precision(pass, false));
    struct tensor dout = half_dout(pass, dh);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dx = matrix_allocate(op->scratch, FORMAT_F32, dh->shape[0], dh->shape[1]);
    mla_backward_input(op, &dx, &kept->attention, &dparams->self_attn, &dout, &params->self_attn, pass->config,
                       pass->batch, pass->rope_table, &saved->attention, pass->keep);
    op_rms_norm_backward(op, dh, OP_ADD, &dparams->input_layernorm, &dx, &saved->h, &params->input_layernorm,
                         saved->attention_rstd);
    arena_release(op->scratch, mark);
}

void block_backward_input(const struct pass *pass, struct tensor *dh, struct block_kept *kept,
                          struct block_params *dparams, const struct block_params *params, struct block_saved *saved) {
    struct arena_mark mark = arena_mark(pass->op->scratch);
    struct block_transit transit = {0};
    block_combine_backward(pass, &transit, kept, dh, params, saved);
    block_experts_backward(pass, &transit, kept, params, saved);
    block_dispatch_backward(pass, dh, &transit, kept, dparams, params, saved);
    arena_release(pass->op->scratch, mark);
    block_attention_backward(pass, dh, kept, dparams, params, saved);
}

void block_backward_weight(struct op_context *op, struct block_params *dparams, const struct block_kept *kept,
                           enum op_mode mode) {
    mla_backward_weight(op, &dparams->self_attn, &kept->attention, mode);
    if (dparams->is_moe) {
        moe_backward_weight(op, &dparams->moe, &kept->moe, mode);
    } else {
        ffn_backward_weight(op, &dparams->mlp, &kept->mlp, mode);
    }
}
