// The whole model in training: forward with loss, backward for inputs (B), backward for weights (W); see model.h.
#include "model/model.h"

#include "base/memory.h"
#include "model/absorbed.h"
#include "model/embedding.h"
#include "model/loss.h"
#include "model/mtp.h"
#include "tensor/formats.h"

struct model_slot {
    struct arena arena;
    int64_t layers, depths;
    struct block_saved *block_saved;   // [layers]
    struct block_kept *block_kept;
    struct mtp_saved *mtp_saved;   // [depths]
    struct mtp_kept *mtp_kept;

    // Of the micro-batch at hand, in `arena`.
    int64_t sequences, length;
    enum op_mode mode;   // of the gradients of Linears: a first micro-batch sets them
    struct loss_weights weights;
    struct token_batch batch;
    int32_t *ids[MODEL_MAX_DEPTH + 2];                     // [T] token i+k; depth k reads k and predicts k+1
    struct tensor h;                                       // f32 [T, d] residual stream, after the last block
    float *norm_rstd;                                      // [T]
    struct loss_head heads[MODEL_MAX_DEPTH + 1];           // hidden states after their norms and their gradients
    enum { SLOT_EMPTY, SLOT_FORWARD, SLOT_INPUT } stage;   // what has been done of F and B
};

// ---- Preparation --------------------------------------------------------------------------------

void model_prepare(struct model *model, int64_t positions, struct arena *arena) {
    const struct model_config *config = &model->config;
    int64_t pairs = config->qk_rope_head_dim / 2;
    CHECK(config->num_nextn_predict_layers <= MODEL_MAX_DEPTH, "%lld MTP modules",
          (long long)config->num_nextn_predict_layers);
    model->rope_table = tensor_3d(FORMAT_F32, floats_allocate(arena, positions * pairs * 2), positions, pairs, 2);
    model_rope_table(model->rope_table.data, positions, config);
    if (model->dispatch == NULL) {
        model->dispatch = &dispatch_local;
        model->expert_map = (struct expert_map){.slots = config->n_routed_experts};
    }
    model->arena = arena;
    CHECK(!model->fp8 || model->compute == FORMAT_BF16, "FP8 training with activations of format %d",
          (int)model->compute);
}

void model_prepare_absorbed(struct model *model, struct op_context *op) {
    const struct model_config *config = &model->config;
    if (model->prepared_absorbed) {
        return;
    }
    CHECK(!model->fp8, "absorbed attention with weights that change");
    model->prepared_absorbed = true;
    const int64_t layers = config->num_hidden_layers;
    for (int64_t l = 0; l < layers + config->num_nextn_predict_layers; l++) {
        struct mla_params *attention = l < layers ? &model->params.layers[l].self_attn
                                                  : &model->params.mtp[l - layers].block.self_attn;
        absorbed_prepare(op, attention, config, model->compute, model->absorbed_panels, model->arena);
    }
}

bool model_gradient_is_set(const struct param *param) {
    switch (param->kind) {
    case PARAM_LINEAR:
    case PARAM_EH_PROJ:
    case PARAM_ROUTER:
    case PARAM_HEAD:   // a tied one is visited as the embedding
        return true;
    default:
        return false;
    }
}

// ---- The slot of a micro-batch ------------------------------------------------------------------

int model_slot_create(struct model_slot **slot, const struct model *model, struct error *error) {
    struct model_slot *s = memory_allocate(1, sizeof *s, "micro-batch slot", error);
    *slot = s;
    if (s == NULL) {
        return ERROR_MEMORY;
    }
    arena_init(&s->arena, "micro-batch slot");
    s->layers = model->config.num_hidden_layers;
    s->depths = model->config.num_nextn_predict_layers;
    size_t layers = (size_t)s->layers, depths = (size_t)s->depths + 1;   // never an empty allocation
    s->block_saved = memory_allocate(layers, sizeof *s->block_saved, "saved activations", error);
    s->block_kept = memory_allocate(layers, sizeof *s->block_kept, "saved activations", error);
    s->mtp_saved = memory_allocate(depths, sizeof *s->mtp_saved, "saved activations", error);
    s->mtp_kept = memory_allocate(depths, sizeof *s->mtp_kept, "saved activations", error);
    if (!s->block_saved || !s->block_kept || !s->mtp_saved || !s->mtp_kept) {
        model_slot_destroy(s);
        *slot = NULL;
        return ERROR_MEMORY;
    }
    return 0;
}

void model_slot_destroy(struct model_slot *slot) {
    if (slot == NULL) {
        return;
    }
    arena_destroy(&slot->arena);
    memory_free(slot->block_saved);
    memory_free(slot->block_kept);
    memory_free(slot->mtp_saved);
    memory_free(slot->mtp_kept);
    memory_free(slot);
}

int64_t model_slot_bytes(const struct model_slot *slot) {
    return slot->arena.peak;
}

struct arena *model_slot_arena(struct model_slot *slot) {
    return &slot->arena;
}

// Column `shift` onwards of every sequence's ids, as rows of the batch.
static int32_t *shifted_ids(struct model_slot *slot, const struct micro_batch *micro, int64_t stride, int64_t shift) {
    int32_t *ids = arena_allocate(&slot->arena, (size_t)(micro->sequences * micro->length), sizeof(int32_t));
    for (int64_t s = 0; s < micro->sequences; s++) {
        for (int64_t i = 0; i < micro->length; i++) {
            ids[s * micro->length + i] = micro->ids[s * stride + i + shift];
        }
    }
    return ids;
}

static void slot_begin(struct model_slot *slot, const struct micro_batch *micro, const struct loss_weights *weights) {
    arena_reset(&slot->arena);
    int64_t tokens = micro->sequences * micro->length, stride = micro->length + 1 + slot->depths;
    slot->sequences = micro->sequences;
    slot->length = micro->length;
    slot->mode = micro->first ? OP_SET : OP_ADD;
    slot->weights = *weights;
    for (int64_t k = 0; k <= slot->depths + 1; k++) {
        slot->ids[k] = shifted_ids(slot, micro, stride, k);
    }
    int32_t *positions = arena_allocate(&slot->arena, (size_t)tokens, sizeof *positions);
    struct attention_span *spans = arena_allocate(&slot->arena, (size_t)micro->sequences, sizeof *spans);
    for (int64_t s = 0; s < micro->sequences; s++) {
        spans[s] = (struct attention_span){
            .query_row = s * micro->length, .count = micro->length, .key_row = s * micro->length};
        for (int64_t i = 0; i < micro->length; i++) {
            positions[s * micro->length + i] = (int32_t)i;
        }
    }
    slot->batch = (struct token_batch){.tokens = tokens,
                                       .ids = slot->ids[0],
                                       .positions = positions,
                                       .spans = spans,
                                       .span_count = micro->sequences,
                                       .sequence_length = micro->length,
                                       .form = ATTENTION_EXPANDED};
}

static struct pass slot_pass(struct op_context *op, struct model_slot *slot, const struct model *model, bool training) {
    return (struct pass){
        .op = op,
        .config = &model->config,
        .batch = &slot->batch,
        .rope_table = &model->rope_table,
        .recompute = &model->recompute,
        .dispatch = model->dispatch,
        .expert_map = &model->expert_map,
        .keep = training ? &slot->arena : op->scratch,
        .compute = model->compute,
        .fp8 = model->fp8,
        .training = training,
        .balance_scale = slot->weights.balance_scale,
    };
}

// ---- Forward ------------------------------------------------------------------------------------

// Points the pass at the load counters of the next MoE layer.
static void count_layer(struct pass *pass, const struct block_params *params, int64_t **expert_load) {
    pass->expert_load = NULL;
    if (params->is_moe && *expert_load) {
        pass->expert_load = *expert_load;
        *expert_load += pass->config->n_routed_experts;
    }
}

static void heads_begin(struct model_slot *slot, const struct model *model, struct micro_batch_result *result,
                        bool training) {
    int64_t tokens = slot->batch.tokens, width = model->config.hidden_size;
    for (int64_t k = 0; k <= slot->depths; k++) {
        slot->heads[k] = (struct loss_head){
            .hidden = matrix_allocate(&slot->arena, model->compute, tokens, width),
            .dhidden = training ? matrix_allocate(&slot->arena, FORMAT_F32, tokens, width) : tensor_absent(),
            .targets = slot->ids[k + 1],
            .scale = k == 0 ? slot->weights.main_scale : slot->weights.mtp_scale,
            .loss = k == 0 ? &result->main_loss : &result->mtp_loss[k - 1],
        };
    }
}

static void hidden_forward(struct pass *pass, struct model_slot *slot, struct model *model, int64_t *expert_load) {
    const struct model_params *params = &model->params;
    struct op_context *op = pass->op;
    struct loss_head *heads = slot->heads;
    slot->h = matrix_allocate(&slot->arena, FORMAT_F32, slot->batch.tokens, model->config.hidden_size);
    slot->norm_rstd = floats_allocate(&slot->arena, slot->batch.tokens);
    embedding_forward(op, &slot->h, slot->ids[0], &params->embed_tokens);
    for (int64_t l = 0; l < slot->layers; l++) {
        count_layer(pass, &params->layers[l], &expert_load);
        block_forward(pass, &slot->h, &params->layers[l], NULL, &slot->block_saved[l]);
    }
    op_rms_norm(op, &heads[0].hidden, slot->norm_rstd, &slot->h, &params->norm, (float)model->config.rms_norm_eps);
    for (int64_t k = 0; k < slot->depths; k++) {
        count_layer(pass, &params->mtp[k].block, &expert_load);
        mtp_forward(pass, &heads[k + 1].hidden, &heads[k].hidden, slot->ids[k + 1], &params->mtp[k],
                    &params->embed_tokens, NULL, &slot->mtp_saved[k]);
    }
}

// Whether embedding and head share one gradient (tie_word_embeddings).
static bool tied(const struct model_params *gradients) {
    return gradients->lm_head.data == gradients->embed_tokens.data;
}

void model_forward(struct op_context *op, struct micro_batch_result *result, struct model_slot *slot,
                   struct model *model, struct model_params *gradients, const struct micro_batch *batch,
                   const struct loss_weights *weights, int64_t *expert_load) {
    CHECK(batch->length <= model->rope_table.shape[0], "sequences of %lld tokens, positions prepared for %lld",
          (long long)batch->length, (long long)model->rope_table.shape[0]);
    bool training = gradients != NULL;
    slot_begin(slot, batch, weights);
    *result = (struct micro_batch_result){.targets = slot->batch.tokens};
    heads_begin(slot, model, result, training);
    struct pass pass = slot_pass(op, slot, model, training);
    pass.balance_loss = &result->balance_loss;
    hidden_forward(&pass, slot, model, expert_load);
    loss_forward_backward(op, slot->heads, slot->depths + 1, training && !tied(gradients) ? &gradients->lm_head : NULL,
                          slot->mode, &model->params.lm_head, slot->sequences, slot->length);
    slot->stage = training ? SLOT_FORWARD : SLOT_EMPTY;
}

// ---- Backward -----------------------------------------------------------------------------------

// Gradients of the tables of tokens, sequence by sequence.
static void tables_backward(struct op_context *op, const struct model_slot *slot, const struct model *model,
                            struct model_params *gradients, const struct embedding_use *uses) {
    for (int64_t s = 0; s < slot->sequences; s++) {
        int64_t first = s * slot->length;
        if (tied(gradients)) {
            loss_backward_weight(op, slot->heads, slot->depths + 1, &gradients->lm_head, &model->params.lm_head, first,
                                 slot->length);
        }
        embedding_backward(op, &gradients->embed_tokens, uses, slot->depths + 1, first, slot->length);
    }
}

// B, with each layer's W at once when `weights_now`: then what W needs is given back layer by layer.
static void backward(struct op_context *op, struct model_slot *slot, struct model *model,
                     struct model_params *gradients, bool weights_now) {
    CHECK(slot->stage == SLOT_FORWARD, "backward without a forward that kept its activations");
    const struct model_params *params = &model->params;
    struct pass pass = slot_pass(op, slot, model, true);
    struct arena_mark mark = arena_mark(op->scratch), kept = arena_mark(&slot->arena);
    int64_t tokens = slot->batch.tokens, width = model->config.hidden_size;
    struct embedding_use uses[MODEL_MAX_DEPTH + 1];
    for (int64_t k = slot->depths; k > 0; k--) {
        uses[k] = (struct embedding_use){slot->ids[k], matrix_allocate(op->scratch, FORMAT_F32, tokens, width)};
        mtp_backward_input(&pass, &slot->heads[k - 1].dhidden, &uses[k].dh, &slot->mtp_kept[k - 1],
                           &gradients->mtp[k - 1], &slot->heads[k].dhidden, &params->mtp[k - 1], &params->embed_tokens,
                           &slot->mtp_saved[k - 1]);
        if (weights_now) {
            mtp_backward_weight(op, &gradients->mtp[k - 1], &slot->mtp_kept[k - 1], slot->mode);
            arena_release(&slot->arena, kept);
        }
    }
    struct tensor dh = matrix_allocate(op->scratch, FORMAT_F32, tokens, width);
    op_rms_norm_backward(op, &dh, OP_SET, &gradients->norm, &slot->heads[0].dhidden, &slot->h, &params->norm,
                         slot->norm_rstd);
    for (int64_t l = slot->layers - 1; l >= 0; l--) {
        block_backward_input(&pass, &dh, &slot->block_kept[l], &gradients->layers[l], &params->layers[l],
                             &slot->block_saved[l]);
        if (weights_now) {
            block_backward_weight(op, &gradients->layers[l], &slot->block_kept[l], slot->mode);
            arena_release(&slot->arena, kept);
        }
    }
    uses[0] = (struct embedding_use){slot->ids[0], dh};
    tables_backward(op, slot, model, gradients, uses);
    arena_release(op->scratch, mark);
    slot->stage = weights_now ? SLOT_EMPTY : SLOT_INPUT;
}

void model_backward(struct op_context *op, struct model_slot *slot, struct model *model,
                    struct model_params *gradients) {
    backward(op, slot, model, gradients, true);
}

void model_backward_input(struct op_context *op, struct model_slot *slot, struct model *model,
                          struct model_params *gradients) {
    backward(op, slot, model, gradients, false);
}

void model_backward_weight(struct op_context *op, struct model_slot *slot, struct model *model,
                           struct model_params *gradients) {
    (void)model;
    CHECK(slot->stage == SLOT_INPUT, "W before B");
    for (int64_t k = slot->depths - 1; k >= 0; k--) {
        mtp_backward_weight(op, &gradients->mtp[k], &slot->mtp_kept[k], slot->mode);
    }
    for (int64_t l = slot->layers - 1; l >= 0; l--) {
        block_backward_weight(op, &gradients->layers[l], &slot->block_kept[l], slot->mode);
    }
    slot->stage = SLOT_EMPTY;
}
