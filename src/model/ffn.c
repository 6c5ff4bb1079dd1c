// SwiGLU feed-forward network; see ffn.h.
#include "model/ffn.h"

#include "model/pass.h"

void ffn_forward(struct op_context *op, struct tensor *out, const struct tensor *x, const struct mlp_params *params,
                 struct ffn_saved *saved, bool recompute_swiglu, struct arena *keep) {
    int64_t tokens = x->shape[0], width = params->gate_proj.shape[0];
    bool fp8 = x->format == FORMAT_E4M3_TILE, drop_hidden = recompute_swiglu || fp8;
    enum format format = fp8 ? FORMAT_BF16 : (enum format)x->format;
    saved->x = *x;
    saved->gate_up = fp8 ? linear_tiles(keep, tokens, 2 * width) : matrix_allocate(keep, format, tokens, 2 * width);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor gate_up = fp8 ? matrix_allocate(op->scratch, format, tokens, 2 * width) : saved->gate_up;
    struct tensor gate = columns(&gate_up, 0, width), up = columns(&gate_up, width, width);
    op_linear_pair(op, &gate, &up, x, &params->gate_proj, &params->up_proj);

    struct tensor hidden;
    if (fp8) {
        hidden = linear_tiles(op->scratch, tokens, width);
        op_swiglu_tiles(op, &hidden, &saved->gate_up, &gate_up, false);
    } else {
        hidden = matrix_allocate(drop_hidden ? op->scratch : keep, format, tokens, width);
        op_swiglu(op, &hidden, &gate, &up, NULL);
    }
    op_linear(op, out, &hidden, &params->down_proj, OP_SET);
    saved->hidden = drop_hidden ? tensor_absent() : hidden;
    if (drop_hidden) {
        arena_release(op->scratch, mark);
    }
}

// gate_up in tiles. What W needs goes to the slot as it takes it.
static void backward_input_fp8(struct op_context *op, struct tensor *dx, enum op_mode mode, struct ffn_kept *kept,
                               const struct tensor *dout, const struct mlp_params *params,
                               const struct ffn_saved *saved, struct arena *slot) {
    int64_t tokens = dout->shape[0], width = params->gate_proj.shape[0];
    const int32_t offsets[2] = {0, (int32_t)tokens};
    struct swiglu_tiles tiles = {.dgate_columns = linear_column_tiles(slot, tokens, width, 1),
                                 .dup_columns = linear_column_tiles(slot, tokens, width, 1),
                                 .hidden_columns = linear_column_tiles(slot, tokens, width, 1)};
    struct arena_mark mark = arena_mark(op->scratch);
    tiles.dgate = linear_tiles(op->scratch, tokens, width);
    tiles.dup = linear_tiles(op->scratch, tokens, width);
    *kept = (struct ffn_kept){.gate = {saved->x, tiles.dgate_columns, LINEAR_FP8},
                              .up = {saved->x, tiles.dup_columns, LINEAR_FP8},
                              .down = {tiles.hidden_columns, *dout, LINEAR_FP8}};
    struct tensor dhidden = matrix_allocate(op->scratch, dout->format, tokens, width);
    linear_backward_input(op, &dhidden, &kept->down, &params->down_proj, OP_SET);
    op_swiglu_backward_tiles(op, &tiles, NULL, &dhidden, &saved->gate_up, NULL, offsets, 1, false);
    op_linear_backward_input(op, dx, &tiles.dgate, &params->gate_proj, mode);
    op_linear_backward_input(op, dx, &tiles.dup, &params->up_proj, OP_ADD);
    arena_release(op->scratch, mark);
}

void ffn_backward_input(struct op_context *op, struct tensor *dx, enum op_mode mode, struct ffn_kept *kept,
                        const struct tensor *dout, const struct mlp_params *params, struct ffn_saved *saved,
                        struct arena *slot) {
    if (saved->x.format == FORMAT_E4M3_TILE) {
        backward_input_fp8(op, dx, mode, kept, dout, params, saved, slot);
        return;
    }
    int64_t tokens = dout->shape[0], width = params->gate_proj.shape[0];
    struct tensor gate = columns(&saved->gate_up, 0, width), up = columns(&saved->gate_up, width, width);
    if (!tensor_present(&saved->hidden)) {
        saved->hidden = matrix_allocate(slot, dout->format, tokens, width);
        op_swiglu(op, &saved->hidden, &gate, &up, NULL);
    }
    *kept = (struct ffn_kept){.gate = {saved->x, gate, LINEAR_PLAIN},
                              .up = {saved->x, up, LINEAR_PLAIN},
                              .down = {saved->hidden, *dout, LINEAR_PLAIN}};
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dhidden = matrix_allocate(op->scratch, dout->format, tokens, width);
    linear_backward_input(op, &dhidden, &kept->down, &params->down_proj, OP_SET);
    op_swiglu_backward(op, &gate, &up, NULL, &dhidden, &gate, &up, NULL);   // the buffer now holds dgate, dup
    arena_release(op->scratch, mark);

    linear_backward_input(op, dx, &kept->gate, &params->gate_proj, mode);
    linear_backward_input(op, dx, &kept->up, &params->up_proj, OP_ADD);
}

void ffn_backward_weight(struct op_context *op, struct mlp_params *dparams, const struct ffn_kept *kept,
                         enum op_mode mode) {
    linear_backward_weight_pair(op, &dparams->gate_proj, &dparams->up_proj, &kept->gate, &kept->up, mode);
    linear_backward_weight(op, &dparams->down_proj, &kept->down, mode);
}
