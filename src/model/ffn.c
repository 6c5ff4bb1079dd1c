// SwiGLU feed-forward network; see ffn.h.
#include "model/ffn.h"

#include "model/pass.h"

void ffn_forward(struct op_context *op, struct tensor *out, const struct tensor *x, const struct mlp_params *params,
                 struct ffn_saved *saved, bool recompute_swiglu, struct arena *keep) {
    int64_t tokens = x->shape[0], width = params->gate_proj.shape[0];
    saved->x = *x;
    saved->gate_up = matrix_allocate(keep, x->format, tokens, 2 * width);
    struct tensor gate = columns(&saved->gate_up, 0, width), up = columns(&saved->gate_up, width, width);
    op_linear(op, &gate, x, &params->gate_proj, OP_SET);
    op_linear(op, &up, x, &params->up_proj, OP_SET);

    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor hidden = matrix_allocate(recompute_swiglu ? op->scratch : keep, x->format, tokens, width);
    op_swiglu(op, &hidden, &gate, &up, NULL);
    op_linear(op, out, &hidden, &params->down_proj, OP_SET);
    saved->hidden = recompute_swiglu ? tensor_absent() : hidden;
    if (recompute_swiglu) {
        arena_release(op->scratch, mark);
    }
}

void ffn_backward_input(struct op_context *op, struct tensor *dx, enum op_mode mode, struct ffn_kept *kept,
                        const struct tensor *dout, const struct mlp_params *params, struct ffn_saved *saved,
                        struct arena *slot) {
    int64_t tokens = dout->shape[0], width = params->gate_proj.shape[0];
    struct tensor gate = columns(&saved->gate_up, 0, width), up = columns(&saved->gate_up, width, width);
    if (!tensor_present(&saved->hidden)) {
        saved->hidden = matrix_allocate(slot, dout->format, tokens, width);
        op_swiglu(op, &saved->hidden, &gate, &up, NULL);
    }
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dhidden = matrix_allocate(op->scratch, dout->format, tokens, width);
    op_linear_backward_input(op, &dhidden, dout, &params->down_proj, OP_SET);
    op_swiglu_backward(op, &gate, &up, NULL, &dhidden, &gate, &up, NULL);   // the buffer now holds dgate, dup
    arena_release(op->scratch, mark);

    op_linear_backward_input(op, dx, &gate, &params->gate_proj, mode);
    op_linear_backward_input(op, dx, &up, &params->up_proj, OP_ADD);
    *kept = (struct ffn_kept){.gate = {saved->x, gate}, .up = {saved->x, up}, .down = {saved->hidden, *dout}};
}

void ffn_backward_weight(struct op_context *op, struct mlp_params *dparams, const struct ffn_kept *kept) {
    op_linear_backward_weight(op, &dparams->gate_proj, &kept->gate.dy, &kept->gate.x);
    op_linear_backward_weight(op, &dparams->up_proj, &kept->up.dy, &kept->up.x);
    op_linear_backward_weight(op, &dparams->down_proj, &kept->down.dy, &kept->down.x);
}
