// Multi-token prediction module; see mtp.h.
#include "model/mtp.h"

#include "model/embedding.h"

// [RMSNorm(embedding) ; RMSNorm(hidden)]: columns 0..d-1 of eh_proj multiply the embedding (spec 5.1, the column-order
// trap).
static struct tensor join(const struct pass *pass, float *e_rstd, float *h_rstd, const struct tensor *hidden_in,
                          const int32_t *ids, const struct mtp_params *params, const struct tensor *embed_tokens,
                          struct arena *arena) {
    struct op_context *op = pass->op;
    int64_t tokens = hidden_in->shape[0], hidden = hidden_in->shape[1];
    float epsilon = (float)pass->config->rms_norm_eps;
    struct tensor joined = matrix_allocate(arena, pass->compute, tokens, 2 * hidden);
    struct tensor left = columns(&joined, 0, hidden), right = columns(&joined, hidden, hidden);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor embedding = matrix_allocate(op->scratch, FORMAT_F32, tokens, hidden);
    embedding_forward(op, &embedding, ids, embed_tokens);
    op_rms_norm(op, &left, e_rstd, &embedding, &params->enorm, epsilon);
    op_rms_norm(op, &right, h_rstd, hidden_in, &params->hnorm, epsilon);
    arena_release(op->scratch, mark);
    return joined;
}

void mtp_forward(const struct pass *pass, struct tensor *hidden_out, const struct tensor *hidden_in, const int32_t *ids,
                 const struct mtp_params *params, const struct tensor *embed_tokens, struct layer_cache *cache,
                 struct mtp_saved *saved) {
    struct op_context *op = pass->op;
    struct arena_mark mark = arena_mark(op->scratch);
    int64_t tokens = hidden_in->shape[0], hidden = hidden_in->shape[1];
    bool recompute = pass->training && pass->recompute->rms_norm;
    saved->hidden_in = *hidden_in;
    saved->ids = ids;
    saved->e_rstd = pass->training ? floats_allocate(pass->keep, tokens) : NULL;
    saved->h_rstd = pass->training ? floats_allocate(pass->keep, tokens) : NULL;
    saved->out_rstd = pass->training ? floats_allocate(pass->keep, tokens) : NULL;
    saved->h_out = matrix_allocate(pass->keep, FORMAT_F32, tokens, hidden);
    saved->joined = join(pass, saved->e_rstd, saved->h_rstd, hidden_in, ids, params, embed_tokens,
                         recompute ? op->scratch : pass->keep);
    op_linear(op, &saved->h_out, &saved->joined, &params->eh_proj, OP_SET);
    block_forward(pass, &saved->h_out, &params->block, cache, &saved->block);
    op_rms_norm(op, hidden_out, saved->out_rstd, &saved->h_out, &params->shared_head_norm,
                (float)pass->config->rms_norm_eps);
    if (recompute) {
        saved->joined = tensor_absent();
    }
    arena_release(op->scratch, mark);
}

void mtp_backward_input(const struct pass *pass, struct tensor *dhidden_in, struct tensor *dembedding,
                        struct mtp_kept *kept, struct mtp_params *dparams, const struct tensor *dhidden_out,
                        const struct mtp_params *params, const struct tensor *embed_tokens, struct mtp_saved *saved) {
    struct op_context *op = pass->op;
    struct arena_mark mark = arena_mark(op->scratch);
    int64_t tokens = dhidden_out->shape[0], hidden = dhidden_out->shape[1];
    if (!tensor_present(&saved->joined)) {
        saved->joined = join(pass, NULL, NULL, &saved->hidden_in, saved->ids, params, embed_tokens, pass->keep);
    }
    struct tensor dh = matrix_allocate(op->scratch, FORMAT_F32, tokens, hidden);
    op_rms_norm_backward(op, &dh, OP_SET, &dparams->shared_head_norm, dhidden_out, &saved->h_out,
                         &params->shared_head_norm, saved->out_rstd);
    block_backward_input(pass, &dh, &kept->block, &dparams->block, &params->block, &saved->block);

    struct tensor dout = matrix_allocate(pass->keep, pass->compute, tokens, hidden);
    op_copy(op, &dout, &dh);
    kept->eh_proj = (struct linear_kept){saved->joined, dout, LINEAR_PLAIN};
    struct tensor djoined = matrix_allocate(op->scratch, FORMAT_F32, tokens, 2 * hidden);
    op_linear_backward_input(op, &djoined, &dout, &params->eh_proj, OP_SET);
    struct tensor dleft = columns(&djoined, 0, hidden), dright = columns(&djoined, hidden, hidden);
    struct tensor embedding = matrix_allocate(op->scratch, FORMAT_F32, tokens, hidden);
    embedding_forward(op, &embedding, saved->ids, embed_tokens);
    op_rms_norm_backward(op, dembedding, OP_SET, &dparams->enorm, &dleft, &embedding, &params->enorm, saved->e_rstd);
    op_rms_norm_backward(op, dhidden_in, OP_ADD, &dparams->hnorm, &dright, &saved->hidden_in, &params->hnorm,
                         saved->h_rstd);
    arena_release(op->scratch, mark);
}

void mtp_backward_weight(struct op_context *op, struct mtp_params *dparams, const struct mtp_kept *kept,
                         enum op_mode mode) {
    op_linear_backward_weight(op, &dparams->eh_proj, &kept->eh_proj.dy, &kept->eh_proj.x, mode);
    block_backward_weight(op, &dparams->block, &kept->block, mode);
}
