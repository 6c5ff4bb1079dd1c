// Router forward and backward; see router.h.
#include "model/router.h"

// Mapped biases may be unaligned or BF16: the op takes plain floats.
static float *bias_floats(const struct pass *pass, const struct tensor *bias) {
    if (!tensor_present(bias)) {
        return NULL;
    }
    float *values = floats_allocate(pass->op->scratch, bias->shape[0]);
    struct tensor copy = tensor_1d(FORMAT_F32, values, bias->shape[0]);
    op_copy(pass->op, &copy, bias);
    return values;
}

static void balance_forward(const struct pass *pass, struct router_saved *saved, const struct router_rule *rule) {
    saved->share = NULL;
    int64_t length = pass->batch->sequence_length;
    if (length == 0 || pass->balance_scale == 0.0f || pass->balance_loss == NULL) {
        return;
    }
    int64_t sequences = pass->batch->tokens / length;
    saved->share = floats_allocate(pass->keep, sequences * rule->experts);
    struct arena_mark mark = arena_mark(pass->op->scratch);
    float *loss = floats_allocate(pass->op->scratch, sequences);
    op_balance_loss(pass->op, loss, saved->share, saved->score, sequences, length, rule);
    for (int64_t s = 0; s < sequences; s++) {
        *pass->balance_loss += (double)loss[s];
    }
    arena_release(pass->op->scratch, mark);
}

void router_forward(const struct pass *pass, struct router_saved *saved, const struct tensor *x,
                    const struct moe_params *params) {
    struct router_rule rule = model_router_rule(pass->config);
    int64_t tokens = x->shape[0];
    *saved = (struct router_saved){
        .score = floats_allocate(pass->keep, tokens * rule.experts),
        .routing =
            {
                .tokens = tokens,
                .top_k = rule.top_k,
                .expert = arena_allocate(pass->keep, (size_t)(tokens * rule.top_k), sizeof(int32_t)),
                .weight = floats_allocate(pass->keep, tokens * rule.top_k),
            },
    };
    struct arena_mark mark = arena_mark(pass->op->scratch);
    struct tensor logits = matrix_allocate(pass->op->scratch, FORMAT_F32, tokens, rule.experts);
    op_linear(pass->op, &logits, x, &params->gate, OP_SET);
    const float *bias = bias_floats(pass, &params->e_score_correction_bias);
    op_router(pass->op, saved->score, saved->routing.expert, saved->routing.weight, &logits, bias, &rule);
    arena_release(pass->op->scratch, mark);

    if (pass->expert_load) {
        for (int64_t i = 0; i < tokens * rule.top_k; i++) {
            pass->expert_load[saved->routing.expert[i]]++;
        }
    }
    balance_forward(pass, saved, &rule);
}

void router_backward_input(const struct pass *pass, struct tensor *dx, struct linear_kept *kept, const float *dweight,
                           const struct tensor *x, const struct moe_params *params, const struct router_saved *saved) {
    struct router_rule rule = model_router_rule(pass->config);
    int64_t length = pass->batch->sequence_length;
    struct tensor dlogits = matrix_allocate(pass->keep, FORMAT_F32, x->shape[0], rule.experts);
    struct arena_mark mark = arena_mark(pass->op->scratch);
    float *dshare = NULL;
    if (saved->share) {
        // L = scale * sum_i f_i P_i and P_i = 1/T * sum_t s'_i: every token of a sequence gets scale * f_i / T.
        int64_t count = x->shape[0] / length * rule.experts;
        float scale = pass->balance_scale / (float)length;
        dshare = floats_allocate(pass->op->scratch, count);
        for (int64_t i = 0; i < count; i++) {
            dshare[i] = scale * saved->share[i];
        }
    }
    op_router_backward(pass->op, &dlogits, dweight, saved->score, saved->routing.expert, &rule, dshare, length);
    arena_release(pass->op->scratch, mark);
    op_linear_backward_input(pass->op, dx, &dlogits, &params->gate, OP_ADD);
    *kept = (struct linear_kept){*x, dlogits, LINEAR_PLAIN};
}
