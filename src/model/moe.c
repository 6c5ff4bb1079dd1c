// Mixture of experts; see moe.h.
#include "model/moe.h"

#include "model/experts.h"

static enum linear_precision expert_precision(const struct pass *pass) {
    return pass->fp8 ? LINEAR_FP8_POWER : LINEAR_PLAIN;
}

// The experts' input, from tokens in their order.
static void gather_rows(const struct pass *pass, struct moe_saved *saved, struct arena *arena) {
    int64_t rows = saved->plan.rows, width = saved->tiles.shape[1];
    saved->rows = pass->fp8 ? linear_tiles(arena, rows, width)
                            : matrix_allocate(arena, (enum format)saved->tiles.format, rows, width);
    pass->dispatch->dispatch(pass->dispatch, pass->op, &saved->rows, &saved->tiles, &saved->plan);
}

void moe_dispatch_forward(const struct pass *pass, struct moe_saved *saved, const struct tensor *x,
                          const struct moe_params *params) {
    saved->x = *x;
    router_forward(pass, &saved->router, x, params);
    pass->dispatch->plan(pass->dispatch, pass->op, &saved->plan, &saved->router.routing, pass->expert_map, pass->keep);
    saved->tiles = linear_input(pass->op, x, expert_precision(pass), pass->op->scratch);
    gather_rows(pass, saved, pass->fp8 ? pass->op->scratch : pass->keep);
    if (params->streamed != NULL) {
        expert_request(pass->op, params->streamed, &saved->plan);
    }
}

void moe_restore(const struct pass *pass, struct moe_saved *saved) {
    if (!tensor_present(&saved->tiles)) {
        saved->tiles = linear_input(pass->op, &saved->x, expert_precision(pass), pass->keep);
    }
    if (pass->fp8) {
        gather_rows(pass, saved, pass->keep);
    }
    saved->shared.x = saved->tiles;
}

// The products of a run of experts: its rows of gate_up (and, in FP8, saved->gate_up), hidden and results.
static void run_forward(const struct pass *pass, struct tensor *results, struct tensor *gate_up, struct tensor *hidden,
                        const struct moe_params *params, struct moe_saved *saved, const struct expert_run *run) {
    struct op_context *op = pass->op;
    const int32_t *offsets = saved->plan.offsets + run->begin;
    int64_t count = run->end - run->begin, row = offsets[0], rows = offsets[count] - row, width = hidden->shape[1];
    struct tensor gate = columns(gate_up, 0, width), up = columns(gate_up, width, width);
    op_linear_grouped_pair(op, &gate, &up, &saved->rows, params->gate_proj + run->begin, params->up_proj + run->begin,
                           offsets, count);
    if (pass->fp8) {   // in one run
        struct arena_mark tiles = arena_mark(op->scratch);
        struct tensor input = linear_tiles(op->scratch, saved->plan.rows, width);
        op_swiglu_tiles(op, &input, &saved->gate_up, gate_up, true);
        op_linear_grouped(op, results, &input, params->down_proj + run->begin, offsets, count);
        arena_release(op->scratch, tiles);
        return;
    }
    struct tensor gate_rows = tensor_slice(&gate, 0, row, rows), up_rows = tensor_slice(&up, 0, row, rows),
                  hidden_rows = tensor_slice(hidden, 0, row, rows);
    op_swiglu(op, &hidden_rows, &gate_rows, &up_rows, NULL);
    op_linear_grouped(op, results, hidden, params->down_proj + run->begin, offsets, count);
}

void moe_experts_forward(const struct pass *pass, struct moe_transit *transit, const struct moe_params *params,
                         struct moe_saved *saved) {
    struct op_context *op = pass->op;
    const struct dispatch_plan *plan = &saved->plan;
    int64_t hidden_size = saved->x.shape[1], width = params->gate_proj[0].shape[0];
    enum format format = saved->x.format;
    saved->gate_up = pass->fp8 ? linear_tiles(pass->keep, plan->rows, 2 * width)
                               : matrix_allocate(pass->keep, format, plan->rows, 2 * width);
    transit->results = matrix_allocate(op->scratch, format, plan->rows, hidden_size);

    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor gate_up = pass->fp8 ? matrix_allocate(op->scratch, format, plan->rows, 2 * width) : saved->gate_up;
    struct tensor hidden = tensor_2d(format, NULL, plan->rows, width);   // FP8: never in BF16
    if (!pass->fp8) {
        hidden = matrix_allocate(op->scratch, format, plan->rows, width);
    }
    struct expert_run run = {0, plan->slots};
    if (params->streamed == NULL) {
        run_forward(pass, &transit->results, &gate_up, &hidden, params, saved, &run);
    } else {
        while (expert_acquire(op, &run, params->streamed, plan)) {
            run_forward(pass, &transit->results, &gate_up, &hidden, params, saved, &run);
            expert_release(params->streamed, &run, plan);
        }
        if (op->error.code != 0) {
            op_zero(op, &transit->results);
        }
    }
    arena_release(op->scratch, mark);

    transit->shared = tensor_absent();
    if (tensor_present(&params->shared_experts.gate_proj)) {
        bool recompute = pass->training && pass->recompute->swiglu;
        transit->shared = matrix_allocate(op->scratch, format, saved->x.shape[0], hidden_size);
        ffn_forward(op, &transit->shared, &saved->tiles, &params->shared_experts, &saved->shared, recompute,
                    pass->keep);
    }
}

void moe_combine_forward(const struct pass *pass, struct tensor *h, const struct moe_transit *transit,
                         const struct moe_saved *saved) {
    pass->dispatch->combine(pass->dispatch, pass->op, h, &transit->results, &saved->plan);
    if (tensor_present(&transit->shared)) {
        op_add(pass->op, h, &transit->shared);
    }
}

void moe_combine_backward(const struct pass *pass, struct moe_transit *transit, struct moe_kept *kept,
                          const struct tensor *dout, const struct moe_saved *saved) {
    const struct dispatch_plan *plan = &saved->plan;
    kept->plan = plan;
    transit->drows = matrix_allocate(pass->op->scratch, dout->format, plan->rows, dout->shape[1]);
    transit->dweight = floats_allocate(pass->op->scratch, plan->rows);
    if (pass->fp8) {
        transit->dresults = linear_tiles(pass->op->scratch, plan->rows, dout->shape[1]);
        kept->down.dy = linear_column_tiles(pass->keep, plan->rows, dout->shape[1], plan->slots);
        pass->dispatch->combine_backward_tiles(pass->dispatch, pass->op, &transit->dresults, &kept->down.dy, dout,
                                               plan);
        return;
    }
    kept->down.dy = matrix_allocate(pass->keep, dout->format, plan->rows, dout->shape[1]);
    pass->dispatch->combine_backward(pass->dispatch, pass->op, &kept->down.dy, dout, plan);
    transit->dresults = kept->down.dy;
}

// drows = W_gate^T dgate + W_up^T dup, summed in f32 and rounded once to the format in which rows travel.
static void rows_backward(const struct pass *pass, struct tensor *drows, const struct tensor *dgate,
                          const struct tensor *dup, const struct moe_params *params, const struct dispatch_plan *plan) {
    struct op_context *op = pass->op;
    struct arena_mark mark = arena_mark(op->scratch);
    bool narrow = drows->format != FORMAT_F32;
    struct tensor sum = narrow ? matrix_allocate(op->scratch, FORMAT_F32, plan->rows, drows->shape[1]) : *drows;
    struct tensor part = matrix_allocate(op->scratch, FORMAT_F32, plan->rows, drows->shape[1]);
    op_linear_grouped_backward_input(op, &sum, dgate, params->gate_proj, plan->offsets, plan->slots);
    op_linear_grouped_backward_input(op, &part, dup, params->up_proj, plan->offsets, plan->slots);
    op_sum(op, drows, &sum, &part);
    arena_release(op->scratch, mark);
}

// Of the routed experts, gate_up as it is: hidden, dgate, dup, and from these drows.
static void routed_backward(const struct pass *pass, struct moe_transit *transit, struct moe_kept *kept,
                            const struct moe_params *params, struct moe_saved *saved) {
    struct op_context *op = pass->op;
    const struct dispatch_plan *plan = &saved->plan;
    int64_t width = params->gate_proj[0].shape[0];
    enum format format = kept->down.dy.format;
    struct tensor gate = columns(&saved->gate_up, 0, width), up = columns(&saved->gate_up, width, width);
    kept->down.x = matrix_allocate(pass->keep, format, plan->rows, width);
    op_swiglu(op, &kept->down.x, &gate, &up, plan->row_weight);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dhidden = matrix_allocate(op->scratch, format, plan->rows, width);
    op_linear_grouped_backward_input(op, &dhidden, &transit->dresults, params->down_proj, plan->offsets, plan->slots);
    op_swiglu_backward(op, &gate, &up, transit->dweight, &dhidden, &gate, &up, plan->row_weight);   // now dgate, dup
    arena_release(op->scratch, mark);
    kept->gate.dy = gate;
    kept->up.dy = up;
    rows_backward(pass, &transit->drows, &gate, &up, params, plan);
}

// The same with gate_up in tiles: W gets its operands as it takes them.
static void routed_backward_fp8(const struct pass *pass, struct moe_transit *transit, struct moe_kept *kept,
                                const struct moe_params *params, const struct moe_saved *saved) {
    struct op_context *op = pass->op;
    const struct dispatch_plan *plan = &saved->plan;
    int64_t width = params->gate_proj[0].shape[0];
    kept->gate.dy = linear_column_tiles(pass->keep, plan->rows, width, plan->slots);
    kept->up.dy = linear_column_tiles(pass->keep, plan->rows, width, plan->slots);
    kept->down.x = linear_column_tiles(pass->keep, plan->rows, width, plan->slots);
    struct arena_mark mark = arena_mark(op->scratch);
    struct swiglu_tiles tiles = {.dgate = linear_tiles(op->scratch, plan->rows, width),
                                 .dup = linear_tiles(op->scratch, plan->rows, width),
                                 .dgate_columns = kept->gate.dy,
                                 .dup_columns = kept->up.dy,
                                 .hidden_columns = kept->down.x};
    struct arena_mark inner = arena_mark(op->scratch);
    struct tensor dhidden = matrix_allocate(op->scratch, pass->compute, plan->rows, width);
    op_linear_grouped_backward_input(op, &dhidden, &transit->dresults, params->down_proj, plan->offsets, plan->slots);
    op_swiglu_backward_tiles(op, &tiles, transit->dweight, &dhidden, &saved->gate_up, plan->row_weight, plan->offsets,
                             plan->slots, true);
    arena_release(op->scratch, inner);
    rows_backward(pass, &transit->drows, &tiles.dgate, &tiles.dup, params, plan);
    arena_release(op->scratch, mark);
}

void moe_experts_backward(const struct pass *pass, struct tensor *dx, struct moe_transit *transit,
                          struct moe_kept *kept, const struct tensor *dout, const struct moe_params *params,
                          struct moe_saved *saved) {
    CHECK(params->streamed == NULL, "training with experts on disk");
    kept->gate.x = kept->up.x = saved->rows;
    kept->gate.precision = kept->up.precision = kept->down.precision = expert_precision(pass);
    if (pass->fp8) {
        routed_backward_fp8(pass, transit, kept, params, saved);
    } else {
        routed_backward(pass, transit, kept, params, saved);
    }
    if (tensor_present(&params->shared_experts.gate_proj)) {
        ffn_backward_input(pass->op, dx, OP_SET, &kept->shared, dout, &params->shared_experts, &saved->shared,
                           pass->keep);
    }
}

void moe_dispatch_backward(const struct pass *pass, struct tensor *dx, const struct moe_transit *transit,
                           struct moe_kept *kept, const struct moe_params *params, const struct moe_saved *saved) {
    struct op_context *op = pass->op;
    const struct dispatch_plan *plan = &saved->plan;
    enum op_mode mode = tensor_present(&params->shared_experts.gate_proj) ? OP_ADD : OP_SET;
    pass->dispatch->dispatch_backward(pass->dispatch, op, dx, mode, &transit->drows, plan);
    struct arena_mark mark = arena_mark(op->scratch);
    float *dweight = floats_allocate(op->scratch, plan->tokens * plan->top_k);
    pass->dispatch->weight_backward(pass->dispatch, op, dweight, transit->dweight, plan);
    router_backward_input(pass, dx, &kept->router, dweight, &saved->x, params, &saved->router);
    arena_release(op->scratch, mark);
}

void moe_backward_weight(struct op_context *op, struct moe_params *dparams, const struct moe_kept *kept,
                         enum op_mode mode) {
    const struct dispatch_plan *plan = kept->plan;
    op_linear_backward_weight(op, &dparams->gate, &kept->router.dy, &kept->router.x, mode);
    linear_grouped_backward_weight_pair(op, dparams->gate_proj, dparams->up_proj, &kept->gate, &kept->up, plan->offsets,
                                        plan->slots, mode);
    linear_grouped_backward_weight(op, dparams->down_proj, &kept->down, plan->offsets, plan->slots, mode);
    if (tensor_present(&dparams->shared_experts.gate_proj)) {
        ffn_backward_weight(op, &dparams->shared_experts, &kept->shared, mode);
    }
}
