// The model in inference: the same blocks, nothing kept, keys in caches; see model.h.
#include "model/embedding.h"
#include "model/model.h"
#include "model/mtp.h"

// Weights that only absorbed attention needs are made before it first runs.
static void prepare(struct op_context *op, struct model *model, const struct token_batch *batch) {
    if (batch->form == ATTENTION_ABSORBED || batch->absorbed_spans > 0) {
        model_prepare_absorbed(model, op);
    }
}

static const struct recompute recompute_nothing;

static struct pass inference_pass(struct op_context *op, const struct model *model, const struct token_batch *batch) {
    return (struct pass){
        .op = op,
        .config = &model->config,
        .batch = batch,
        .rope_table = &model->rope_table,
        .recompute = &recompute_nothing,
        .dispatch = model->dispatch,
        .expert_map = &model->expert_map,
        .keep = op->scratch,
        .compute = model->compute,
    };
}

// `hidden` in the format of activations: itself, or a copy in scratch (exact on the way back: the values were rounded
// when they were made).
static struct tensor as_activation(struct op_context *op, const struct model *model, const struct tensor *hidden) {
    if (hidden->format == model->compute) {
        return *hidden;
    }
    struct tensor copy = matrix_allocate(op->scratch, model->compute, hidden->shape[0], hidden->shape[1]);
    op_copy(op, &copy, hidden);
    return copy;
}

static struct tensor activation_for(struct op_context *op, const struct model *model, const struct tensor *hidden) {
    return hidden->format == model->compute
               ? *hidden
               : matrix_allocate(op->scratch, model->compute, hidden->shape[0], hidden->shape[1]);
}

static void hand_over(struct op_context *op, struct tensor *hidden, const struct tensor *activation) {
    if (hidden->format != activation->format) {
        op_copy(op, hidden, activation);
    }
}

void model_infer(struct op_context *op, struct tensor *hidden, struct model *model, const struct token_batch *batch,
                 struct layer_cache *caches) {
    prepare(op, model, batch);
    struct arena_mark mark = arena_mark(op->scratch);
    struct pass pass = inference_pass(op, model, batch);
    struct tensor h = matrix_allocate(op->scratch, FORMAT_F32, batch->tokens, model->config.hidden_size);
    embedding_forward(op, &h, batch->ids, &model->params.embed_tokens);
    pass.expert_load = batch->expert_load;
    for (int64_t l = 0; l < model->config.num_hidden_layers; l++) {
        struct block_saved saved = {0};
        block_forward(&pass, &h, &model->params.layers[l], caches ? &caches[l] : NULL, &saved);
        if (pass.expert_load != NULL && model->params.layers[l].is_moe) {
            pass.expert_load += model->config.n_routed_experts;
        }
    }
    struct tensor normed = activation_for(op, model, hidden);
    op_rms_norm(op, &normed, NULL, &h, &model->params.norm, (float)model->config.rms_norm_eps);
    hand_over(op, hidden, &normed);
    arena_release(op->scratch, mark);
}

void model_mtp_infer(struct op_context *op, struct tensor *hidden_out, struct model *model, int64_t depth,
                     const struct tensor *hidden_in, const struct token_batch *batch, struct layer_cache *cache) {
    prepare(op, model, batch);
    struct arena_mark mark = arena_mark(op->scratch);
    struct pass pass = inference_pass(op, model, batch);
    pass.expert_load = batch->expert_load;
    struct mtp_saved saved = {0};
    struct tensor in = as_activation(op, model, hidden_in), out = activation_for(op, model, hidden_out);
    mtp_forward(&pass, &out, &in, batch->ids, &model->params.mtp[depth], &model->params.embed_tokens, cache, &saved);
    hand_over(op, hidden_out, &out);
    arena_release(op->scratch, mark);
}

void model_logits(struct op_context *op, struct tensor *logits, struct model *model, const struct tensor *hidden) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor rows = as_activation(op, model, hidden);
    op_linear(op, logits, &rows, &model->params.lm_head, OP_SET);
    arena_release(op->scratch, mark);
}

void model_mtp_logits(struct op_context *op, struct tensor *logits, struct model *model, int64_t depth,
                      const struct tensor *hidden_out) {
    CHECK(depth >= 0 && depth < model->config.num_nextn_predict_layers, "MTP depth %lld", (long long)depth);
    model_logits(op, logits, model, hidden_out);   // shared_head.norm has been applied, the head is the main model's
}
