// Dispatch on one rank: a stable counting sort of the (token, k) pairs by expert slot, and row gathers.
#include "model/dispatch.h"

#include <string.h>

static void local_plan(const struct dispatch *self, struct op_context *op, struct dispatch_plan *plan,
                       const struct routing *routing, const struct expert_map *map, struct arena *keep) {
    (void)self;
    int64_t pairs = routing->tokens * routing->top_k;
    CHECK(pairs <= INT32_MAX, "%lld token-expert pairs in one micro-batch", (long long)pairs);
    *plan = (struct dispatch_plan){
        .tokens = routing->tokens,
        .top_k = routing->top_k,
        .rows = pairs,
        .slots = map->slots,
        .weight = routing->weight,
        .offsets = arena_allocate_zero(keep, (size_t)map->slots + 1, sizeof(int32_t)),
        .token = arena_allocate(keep, (size_t)pairs, sizeof(int32_t)),
        .row = arena_allocate(keep, (size_t)pairs, sizeof(int32_t)),
        .row_weight = arena_allocate(keep, (size_t)pairs, sizeof(float)),
    };
    for (int64_t i = 0; i < pairs; i++) {
        int32_t slot = map->slot ? map->slot[routing->expert[i]] : routing->expert[i];
        plan->offsets[slot + 1]++;
    }
    for (int64_t s = 0; s < map->slots; s++) {
        plan->offsets[s + 1] += plan->offsets[s];
    }
    struct arena_mark mark = arena_mark(op->scratch);
    int32_t *next = arena_allocate(op->scratch, (size_t)map->slots, sizeof(int32_t));
    memcpy(next, plan->offsets, (size_t)map->slots * sizeof(int32_t));
    for (int64_t i = 0; i < pairs; i++) {
        int32_t slot = map->slot ? map->slot[routing->expert[i]] : routing->expert[i];
        int32_t row = next[slot]++;
        plan->row[i] = row;
        plan->token[row] = (int32_t)(i / routing->top_k);
        plan->row_weight[row] = routing->weight[i];
    }
    arena_release(op->scratch, mark);
}

static void local_dispatch(const struct dispatch *self, struct op_context *op, struct tensor *rows,
                           const struct tensor *x, const struct dispatch_plan *plan) {
    (void)self;
    op_gather_rows(op, rows, x, plan->token);
}

static void local_combine(const struct dispatch *self, struct op_context *op, struct tensor *out,
                          const struct tensor *rows, const struct dispatch_plan *plan) {
    (void)self;
    op_combine_rows(op, out, rows, plan->row, plan->weight, plan->top_k, OP_ADD);
}

static void local_combine_backward(const struct dispatch *self, struct op_context *op, struct tensor *drows,
                                   const struct tensor *dout, const struct dispatch_plan *plan) {
    (void)self;
    op_gather_rows(op, drows, dout, plan->token);
}

static void local_combine_backward_tiles(const struct dispatch *self, struct op_context *op, struct tensor *tiles,
                                         struct tensor *column_tiles, const struct tensor *dout,
                                         const struct dispatch_plan *plan) {
    (void)self;
    op_quantize_both(op, tiles, column_tiles, dout, plan->token, plan->offsets, plan->slots, true);
}

static void local_weight_backward(const struct dispatch *self, struct op_context *op, float *dweight,
                                  const float *drow_weight, const struct dispatch_plan *plan) {
    (void)self;
    (void)op;
    for (int64_t i = 0; i < plan->tokens * plan->top_k; i++) {
        dweight[i] = drow_weight[plan->row[i]];
    }
}

static void local_dispatch_backward(const struct dispatch *self, struct op_context *op, struct tensor *dx,
                                    enum op_mode mode, const struct tensor *drows, const struct dispatch_plan *plan) {
    (void)self;
    op_combine_rows(op, dx, drows, plan->row, NULL, plan->top_k, mode);
}

const struct dispatch dispatch_local = {
    .name = "local",
    .plan = local_plan,
    .dispatch = local_dispatch,
    .combine = local_combine,
    .combine_backward = local_combine_backward,
    .combine_backward_tiles = local_combine_backward_tiles,
    .weight_backward = local_weight_backward,
    .dispatch_backward = local_dispatch_backward,
};
