// Linears in training; see linear.h.
#include "model/linear.h"

struct tensor linear_tiles(struct arena *arena, int64_t rows, int64_t columns) {
    struct tensor tiles = tensor_2d(FORMAT_E4M3_TILE, NULL, rows, columns);
    tiles.data = arena_allocate(arena, (size_t)(rows * columns), 1);
    tiles.scale = arena_allocate(arena, (size_t)(rows * tiles.scale_stride), sizeof(float));
    return tiles;
}

struct tensor linear_tiles_e5m6(struct arena *arena, int64_t rows, int64_t columns) {
    struct tensor tiles = tensor_2d(FORMAT_E5M6_TILE, NULL, rows, columns);
    tiles.data = arena_allocate(arena, (size_t)(rows * (columns + (columns + 1) / 2)), 1);
    tiles.scale = arena_allocate(arena, (size_t)(rows * tiles.scale_stride), sizeof(float));
    return tiles;
}

struct tensor linear_column_tiles(struct arena *arena, int64_t rows, int64_t columns, int64_t groups) {
    struct tensor tiles = tensor_2d(FORMAT_E4M3_COLUMN, NULL, rows, columns);
    tiles.data = arena_allocate(arena, (size_t)(rows * columns), 1);
    tiles.scale = arena_allocate(arena, (size_t)(op_column_tiles_most(rows, groups) * columns), sizeof(float));
    return tiles;
}

struct tensor linear_input(struct op_context *op, const struct tensor *x, enum linear_precision precision,
                           struct arena *arena) {
    if (precision == LINEAR_PLAIN || x->format == FORMAT_E4M3_TILE) {
        return *x;
    }
    struct tensor tiles = linear_tiles(arena, x->shape[0], x->shape[1]);
    op_quantize_rows(op, &tiles, x, precision == LINEAR_FP8_POWER);
    return tiles;
}

struct tensor linear_activation(struct op_context *op, const struct tensor *kept, struct arena *arena) {
    if (kept->format != FORMAT_E4M3_TILE && kept->format != FORMAT_E5M6_TILE) {
        return *kept;
    }
    int64_t rows = kept->shape[0], columns = kept->shape[1];
    void *data = arena_allocate(arena, (size_t)(rows * columns), sizeof(uint16_t));
    struct tensor activation = tensor_2d(FORMAT_BF16, data, rows, columns);
    op_dequantize_rows(op, &activation, kept);
    return activation;
}

void linear_backward_input(struct op_context *op, struct tensor *dx, const struct linear_kept *kept,
                           const struct tensor *w, enum op_mode mode) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dy = linear_input(op, &kept->dy, kept->precision, op->scratch);
    op_linear_backward_input(op, dx, &dy, w, mode);
    arena_release(op->scratch, mark);
}

// 128 x 1 tiles in scratch, which begin anew with every group.
static struct tensor column_tiles(struct op_context *op, const struct tensor *x, enum linear_precision precision,
                                  const int32_t *offsets, int64_t groups) {
    if (precision == LINEAR_PLAIN || x->format == FORMAT_E4M3_COLUMN) {
        return *x;
    }
    struct tensor tiles = linear_column_tiles(op->scratch, x->shape[0], x->shape[1], groups);
    op_quantize_columns(op, &tiles, x, offsets, groups, precision == LINEAR_FP8_POWER);
    return tiles;
}

// dw (+)= dy^T x with x in tiles already.
static void grouped_weight(struct op_context *op, struct tensor *dw, const struct linear_kept *kept,
                           const struct tensor *x, const int32_t *offsets, int64_t groups, enum op_mode mode) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dy = column_tiles(op, &kept->dy, kept->precision, offsets, groups);
    op_linear_grouped_backward_weight(op, dw, &dy, x, offsets, groups, mode);
    arena_release(op->scratch, mark);
}

void linear_grouped_backward_weight(struct op_context *op, struct tensor *dw, const struct linear_kept *kept,
                                    const int32_t *offsets, int64_t groups, enum op_mode mode) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor x = column_tiles(op, &kept->x, kept->precision, offsets, groups);
    grouped_weight(op, dw, kept, &x, offsets, groups, mode);
    arena_release(op->scratch, mark);
}

void linear_grouped_backward_weight_pair(struct op_context *op, struct tensor *dw_first, struct tensor *dw_second,
                                         const struct linear_kept *first, const struct linear_kept *second,
                                         const int32_t *offsets, int64_t groups, enum op_mode mode) {
    CHECK(first->x.data == second->x.data && first->precision == second->precision,
          "a pair of Linears with two inputs");
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor x = column_tiles(op, &first->x, first->precision, offsets, groups);
    grouped_weight(op, dw_first, first, &x, offsets, groups, mode);
    grouped_weight(op, dw_second, second, &x, offsets, groups, mode);
    arena_release(op->scratch, mark);
}

static void single_weight(struct op_context *op, struct tensor *dw, const struct linear_kept *kept,
                          const struct tensor *x, enum op_mode mode) {
    struct arena_mark mark = arena_mark(op->scratch);
    const int32_t offsets[2] = {0, (int32_t)kept->x.shape[0]};
    struct tensor dy = column_tiles(op, &kept->dy, kept->precision, offsets, 1);
    op_linear_backward_weight(op, dw, &dy, x, mode);
    arena_release(op->scratch, mark);
}

void linear_backward_weight(struct op_context *op, struct tensor *dw, const struct linear_kept *kept,
                            enum op_mode mode) {
    struct arena_mark mark = arena_mark(op->scratch);
    const int32_t offsets[2] = {0, (int32_t)kept->x.shape[0]};
    struct tensor x = column_tiles(op, &kept->x, kept->precision, offsets, 1);
    single_weight(op, dw, kept, &x, mode);
    arena_release(op->scratch, mark);
}

void linear_backward_weight_pair(struct op_context *op, struct tensor *dw_first, struct tensor *dw_second,
                                 const struct linear_kept *first, const struct linear_kept *second, enum op_mode mode) {
    CHECK(first->x.data == second->x.data && first->precision == second->precision,
          "a pair of Linears with two inputs");
    struct arena_mark mark = arena_mark(op->scratch);
    const int32_t offsets[2] = {0, (int32_t)first->x.shape[0]};
    struct tensor x = column_tiles(op, &first->x, first->precision, offsets, 1);
    single_weight(op, dw_first, first, &x, mode);
    single_weight(op, dw_second, second, &x, mode);
    arena_release(op->scratch, mark);
}
