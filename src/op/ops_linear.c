// Linear operations: shape and format checks, and what is called row, column and k in each product (op/cpu/linear.h).
#include "base/error.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"
#include "op/op_times.h"
#include "op/ops.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"
#include "tensor/panels.h"

static bool is_activation(const struct tensor *tensor) {
    return tensor->format == FORMAT_F32 || tensor->format == FORMAT_BF16;
}

static void multiply(struct op_context *op, const struct linear_group *groups, int64_t count, enum format c_format,
                     enum op_mode mode) {
    double began = op_times_begin(op);
    linear_run(op, groups, count, c_format, mode);
    op_times_end(op, OP_PRODUCTS, began);
}

// A matrix as one side of a product: its axes `row_axis` and `k_axis` become row and k.
static struct linear_operand operand(const struct tensor *tensor, int row_axis, int k_axis) {
    if (format_is_int(tensor->format)) {
        return (struct linear_operand){.k_stride = 1, .integers = tensor, .format = (enum format)tensor->format};
    }
    struct linear_operand result = {.data = tensor->data,
                                    .row_stride = tensor->stride[row_axis],
                                    .k_stride = tensor->stride[k_axis],
                                    .panels = format_is_panels(tensor->format),
                                    .format = (enum format)tensor->format};
    if (result.panels) {
        result.format = panels_elements(tensor->format);
    }
    if (result.format != FORMAT_F32 && result.format != FORMAT_BF16) {
        CHECK(tensor->scale != NULL || tensor_elements(tensor) == 0, "E4M3 without scales");
        CHECK(tensor_scale_edge(tensor->format, k_axis) == BLOCK_SIZE, "tiles of format %d do not lie along the sum",
              tensor->format);
        result.scale = tensor->scale;
        result.scale_rows = tensor_scale_edge(tensor->format, row_axis);
        result.scale_row_stride = row_axis == 0 ? tensor->scale_stride : 1;
        result.scale_k_stride = k_axis == 0 ? tensor->scale_stride : 1;
    }
    return result;
}

static bool is_operand(const struct tensor *tensor, enum format scaled) {
    return is_activation(tensor) || tensor->format == scaled;
}

static char *row_address(const struct tensor *tensor, int64_t row) {
    return (char *)tensor->data + row * tensor->stride[0] * format_info(tensor->format)->bytes;
}

// out[rows, columns], left[rows, depth] and right, whose axis `right_depth_axis` is summed over and whose other axis
// gives the columns.
static struct linear_group multiply_rows(const struct tensor *out, const struct tensor *left,
                                         const struct tensor *right, int right_depth_axis, int64_t begin,
                                         int64_t rows) {
    struct linear_group group = {.a = operand(left, 0, 1),
                                 .b = operand(right, 1 - right_depth_axis, right_depth_axis),
                                 .c = row_address(out, begin),
                                 .c_row_stride = out->stride[0],
                                 .c_column_stride = out->stride[1],
                                 .rows = rows,
                                 .columns = out->shape[1],
                                 .depth = left->shape[1]};
    group.a.data = row_address(left, begin);
    group.a.scale = left->format == FORMAT_E4M3_TILE ? left->scale + begin * left->scale_stride : NULL;
    return group;
}

static void check_rows(const struct tensor *out, const struct tensor *left, const struct tensor *right,
                       int right_depth_axis, enum op_mode mode) {
    char a[96], b[96], c[96];
    CHECK(out->rank == 2 && left->rank == 2 && right->rank == 2 && out->shape[0] == left->shape[0] &&
              right->shape[right_depth_axis] == left->shape[1] && right->shape[1 - right_depth_axis] == out->shape[1],
          "%s from %s and weight %s", tensor_shape_text(a, out), tensor_shape_text(b, left),
          tensor_shape_text(c, right));
    bool made = (format_is_int(right->format) || format_is_panels(right->format)) && is_activation(left) &&
                right_depth_axis == 1;
    CHECK(is_activation(out) && is_operand(left, FORMAT_E4M3_TILE) && (is_operand(right, FORMAT_E4M3_BLOCK) || made),
          "formats %d, %d, %d", out->format, left->format, right->format);
    CHECK(mode == OP_SET || out->format == FORMAT_F32, "only an F32 output can be added to");
}

void op_linear(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w,
               enum op_mode mode) {
    check_rows(y, x, w, 1, mode);
    struct linear_group group = multiply_rows(y, x, w, 1, 0, x->shape[0]);
    multiply(op, &group, 1, y->format, mode);
}

// Most rows of a pair that is one run (of each group): then the second packing of the rows costs less than a run.
#define PAIR_ROWS 8

void op_linear_pair(struct op_context *op, struct tensor *y_first, struct tensor *y_second, const struct tensor *x,
                    const struct tensor *w_first, const struct tensor *w_second) {
    if (x->shape[0] > PAIR_ROWS || w_first->format != w_second->format || y_first->format != y_second->format) {
        op_linear(op, y_first, x, w_first, OP_SET);
        op_linear(op, y_second, x, w_second, OP_SET);
        return;
    }
    check_rows(y_first, x, w_first, 1, OP_SET);
    check_rows(y_second, x, w_second, 1, OP_SET);
    const struct linear_group groups[] = {multiply_rows(y_first, x, w_first, 1, 0, x->shape[0]),
                                          multiply_rows(y_second, x, w_second, 1, 0, x->shape[0])};
    multiply(op, groups, 2, y_first->format, OP_SET);
}

void op_linear_backward_input(struct op_context *op, struct tensor *dx, const struct tensor *dy, const struct tensor *w,
                              enum op_mode mode) {
    check_rows(dx, dy, w, 0, mode);
    struct linear_group group = multiply_rows(dx, dy, w, 0, 0, dy->shape[0]);
    multiply(op, &group, 1, dx->format, mode);
}

// dw[n, k] (+)= sum over rows m in [begin, begin + rows) of dy[m, n] * x[m, k].
// `tile`: the tile of 128 rows that `begin` starts.
static struct linear_group multiply_weight(const struct tensor *dw, const struct tensor *dy, const struct tensor *x,
                                           int64_t begin, int64_t rows, int64_t tile) {
    char a[96], b[96], c[96];
    CHECK(dw->rank == 2 && dy->rank == 2 && x->rank == 2 && dy->shape[0] == x->shape[0] &&
              dw->shape[0] == dy->shape[1] && dw->shape[1] == x->shape[1],
          "dw %s from dy %s and x %s", tensor_shape_text(a, dw), tensor_shape_text(b, dy), tensor_shape_text(c, x));
    CHECK(dw->format == FORMAT_F32 && is_operand(dy, FORMAT_E4M3_COLUMN) && is_operand(x, FORMAT_E4M3_COLUMN),
          "formats %d, %d, %d", dw->format, dy->format, x->format);
    struct linear_group group = {.a = operand(dy, 1, 0),
                                 .b = operand(x, 1, 0),
                                 .c = dw->data,
                                 .c_row_stride = dw->stride[0],
                                 .c_column_stride = dw->stride[1],
                                 .rows = dw->shape[0],
                                 .columns = dw->shape[1],
                                 .depth = rows};
    group.a.data = row_address(dy, begin);
    group.b.data = row_address(x, begin);
    group.a.scale = dy->format == FORMAT_E4M3_COLUMN ? dy->scale + tile * dy->scale_stride : NULL;
    group.b.scale = x->format == FORMAT_E4M3_COLUMN ? x->scale + tile * x->scale_stride : NULL;
    return group;
}

void op_linear_backward_weight(struct op_context *op, struct tensor *dw, const struct tensor *dy,
                               const struct tensor *x, enum op_mode mode) {
    struct linear_group group = multiply_weight(dw, dy, x, 0, x->shape[0], 0);
    multiply(op, &group, 1, FORMAT_F32, mode);
}

static void check_offsets(const int32_t *offsets, int64_t groups, int64_t rows) {
    CHECK(groups >= 0, "%lld groups", (long long)groups);
    if (groups == 0) {
        return;
    }
    CHECK(offsets[0] >= 0 && offsets[groups] <= rows, "rows %d..%d of %lld", offsets[0], offsets[groups],
          (long long)rows);
    for (int64_t g = 0; g < groups; g++) {
        CHECK(offsets[g] <= offsets[g + 1], "offsets of group %lld descend", (long long)g);
    }
}

// The groups that have rows, of which a token has few: the weights of all others are not looked at. Returns how many.
static int64_t list_groups(struct linear_group *list, struct tensor *out, const struct tensor *left,
                           const struct tensor *right, int right_depth_axis, const int32_t *offsets, int64_t groups) {
    const struct tensor *first = NULL;
    int64_t count = 0;
    check_offsets(offsets, groups, left->shape[0]);
    for (int64_t g = 0; g < groups; g++) {
        if (offsets[g] == offsets[g + 1]) {
            continue;
        }
        first = first == NULL ? &right[g] : first;
        check_rows(out, left, &right[g], right_depth_axis, OP_SET);
        CHECK(right[g].format == first->format, "experts of formats %d and %d", right[g].format, first->format);
        list[count++] = multiply_rows(out, left, &right[g], right_depth_axis, offsets[g], offsets[g + 1] - offsets[g]);
    }
    return count;
}

static void multiply_rows_grouped(struct op_context *op, struct tensor *out, const struct tensor *left,
                                  const struct tensor *right, int right_depth_axis, const int32_t *offsets,
                                  int64_t groups) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct linear_group *list = arena_allocate(op->scratch, (size_t)groups, sizeof *list);
    int64_t count = list_groups(list, out, left, right, right_depth_axis, offsets, groups);
    multiply(op, list, count, out->format, OP_SET);
    arena_release(op->scratch, mark);
}

void op_linear_grouped(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w,
                       const int32_t *offsets, int64_t groups) {
    multiply_rows_grouped(op, y, x, w, 1, offsets, groups);
}

void op_linear_grouped_pair(struct op_context *op, struct tensor *y_first, struct tensor *y_second,
                            const struct tensor *x, const struct tensor *w_first, const struct tensor *w_second,
                            const int32_t *offsets, int64_t groups) {
    bool alike = groups > 0 && w_first[0].format == w_second[0].format && y_first->format == y_second->format;
    if (!alike || offsets[groups] - offsets[0] > PAIR_ROWS * groups) {
        op_linear_grouped(op, y_first, x, w_first, offsets, groups);
        op_linear_grouped(op, y_second, x, w_second, offsets, groups);
        return;
    }
    struct arena_mark mark = arena_mark(op->scratch);
    struct linear_group *list = arena_allocate(op->scratch, (size_t)(2 * groups), sizeof *list);
    int64_t count = list_groups(list, y_first, x, w_first, 1, offsets, groups);
    count += list_groups(list + count, y_second, x, w_second, 1, offsets, groups);
    multiply(op, list, count, y_first->format, OP_SET);
    arena_release(op->scratch, mark);
}

void op_linear_grouped_backward_input(struct op_context *op, struct tensor *dx, const struct tensor *dy,
                                      const struct tensor *w, const int32_t *offsets, int64_t groups) {
    multiply_rows_grouped(op, dx, dy, w, 0, offsets, groups);
}

void op_linear_grouped_backward_weight(struct op_context *op, struct tensor *dw, const struct tensor *dy,
                                       const struct tensor *x, const int32_t *offsets, int64_t groups,
                                       enum op_mode mode) {
    check_offsets(offsets, groups, x->shape[0]);
    struct arena_mark mark = arena_mark(op->scratch);
    struct linear_group *list = arena_allocate(op->scratch, (size_t)groups, sizeof *list);
    for (int64_t g = 0; g < groups; g++) {
        list[g] = multiply_weight(&dw[g], dy, x, offsets[g], offsets[g + 1] - offsets[g], op_column_tiles(offsets, g));
    }
    multiply(op, list, groups, FORMAT_F32, mode);
    arena_release(op->scratch, mark);
}

// The weight of head `head`: w [H, N, K], or panels of [H * N, K].
static struct linear_operand head_operand(const struct tensor *w, int64_t head, int64_t columns) {
    if (format_is_panels(w->format)) {
        struct linear_operand panels = operand(w, 0, 1);
        panels.data += head * columns / PANEL_ROWS * panel_bytes(FORMAT_BF16, w->shape[1]);
        return panels;
    }
    struct linear_operand rows = operand(w, 1, 2);
    rows.data += head * w->stride[0] * format_info(w->format)->bytes;
    return rows;
}

static void check_heads(const struct tensor *y, const struct tensor *x, const struct tensor *w) {
    char a[96], b[96], c[96];
    const bool panels = w->format == FORMAT_BF16_PANELS;
    bool sizes = panels ? w->rank == 2 && y->shape[1] * y->shape[2] == w->shape[0] && x->shape[2] == w->shape[1] &&
                              y->shape[2] % PANEL_ROWS == 0
                        : w->rank == 3 && y->shape[1] == w->shape[0] && y->shape[2] == w->shape[1] &&
                              x->shape[2] == w->shape[2];
    CHECK(y->rank == 3 && x->rank == 3 && y->shape[0] == x->shape[0] && y->shape[1] == x->shape[1] && sizes,
          "y %s from x %s and w %s", tensor_shape_text(a, y), tensor_shape_text(b, x), tensor_shape_text(c, w));
    CHECK(is_activation(y) && is_activation(x) && (is_activation(w) || panels), "formats %d, %d, %d", y->format,
          x->format, w->format);
}

void op_linear_heads(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w) {
    check_heads(y, x, w);
    if (cpu_linear_heads_served(op, y, x, w)) {
        double began = op_times_begin(op);
        cpu_linear_heads(op, y, x, w);
        op_times_end(op, OP_PRODUCTS, began);
        return;
    }
    int64_t heads = y->shape[1];
    struct arena_mark mark = arena_mark(op->scratch);
    struct linear_group *list = arena_allocate(op->scratch, (size_t)heads, sizeof *list);
    for (int64_t head = 0; head < heads; head++) {
        list[head] = (struct linear_group){.a = operand(x, 0, 2),
                                           .b = head_operand(w, head, y->shape[2]),
                                           .c_row_stride = y->stride[0],
                                           .c_column_stride = y->stride[2],
                                           .rows = y->shape[0],
                                           .columns = y->shape[2],
                                           .depth = x->shape[2]};
        list[head].a.data += head * x->stride[1] * format_info(x->format)->bytes;
        list[head].c = (char *)y->data + head * y->stride[1] * format_info(y->format)->bytes;
    }
    multiply(op, list, heads, y->format, OP_SET);
    arena_release(op->scratch, mark);
}

bool op_interleaves(const struct op_context *op) {
    return op->kernels->linear.tile_panel != NULL;
}

void op_interleave(struct op_context *op, struct tensor *out, const struct tensor *x) {
    CHECK(op_interleaves(op) && format_is_panels(out->format) && panels_format(x->format) == out->format &&
              tensor_same_shape(out, x) && x->rank == 2 && x->stride[1] == 1,
          "panels of format %d from format %d", out->format, x->format);
    cpu_interleave(op, out, x);
}
