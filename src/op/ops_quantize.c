// Quantisation to E4M3: shape and format checks, then the device's function.
#include "base/error.h"
#include "op/cpu/cpu_ops.h"
#include "op/ops.h"

static void check_source(const struct tensor *x, bool tiles_too) {
    CHECK(x->rank == 2 && x->device == DEVICE_CPU, "quantize: rank %d", x->rank);
    CHECK(x->format == FORMAT_F32 || x->format == FORMAT_BF16 ||
              (tiles_too && (x->format == FORMAT_E4M3_TILE || x->format == FORMAT_E5M6_TILE)),
          "quantize: format %d", x->format);
    CHECK(x->stride[1] == 1 || x->shape[1] <= 1, "quantize: innermost stride");
}

static void check_codes(const struct tensor *out, enum format format, const struct tensor *like) {
    char found[96], expected[96];
    CHECK(out->format == format && out->device == DEVICE_CPU, "quantize: format %d, expected %d", out->format,
          (int)format);
    CHECK(tensor_same_shape(out, like), "quantize: %s, expected %s", tensor_shape_text(found, out),
          tensor_shape_text(expected, like));
    CHECK(out->stride[1] == 1 && (out->scale != NULL || tensor_elements(out) == 0), "quantize: layout of the codes");
}

void op_quantize_rows(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two) {
    enum format format = out->format == FORMAT_E5M6_TILE ? FORMAT_E5M6_TILE : FORMAT_E4M3_TILE;
    check_source(x, false);
    check_codes(out, format, x);
    CHECK(format == FORMAT_E4M3_TILE || (power_of_two && tensor_packed(out)), "quantize: E5M6 with other scales");
    cpu_quantize_rows(op, out, x, power_of_two);
}

void op_dequantize_rows(struct op_context *op, struct tensor *y, const struct tensor *x) {
    check_source(y, false);
    check_codes(x, x->format == FORMAT_E5M6_TILE ? FORMAT_E5M6_TILE : FORMAT_E4M3_TILE, y);
    cpu_dequantize_rows(op, y, x);
}

int64_t op_column_tiles(const int32_t *offsets, int64_t groups) {
    int64_t count = 0;
    for (int64_t g = 0; g < groups; g++) {
        count += (offsets[g + 1] - offsets[g] + BLOCK_SIZE - 1) / BLOCK_SIZE;
    }
    return count;
}

int64_t op_column_tiles_most(int64_t rows, int64_t groups) {
    int64_t whole = rows / BLOCK_SIZE, parts = groups < rows ? groups : rows;
    return whole + parts;
}

static void check_groups(const int32_t *offsets, int64_t groups, int64_t rows) {
    CHECK(rows <= INT32_MAX, "%lld rows", (long long)rows);
    CHECK(groups == 0 || (offsets[0] >= 0 && offsets[groups] <= rows), "quantize: rows %d..%d", offsets[0],
          offsets[groups]);
}

void op_quantize_columns(struct op_context *op, struct tensor *out, const struct tensor *x, const int32_t *offsets,
                         int64_t groups, bool power_of_two) {
    int32_t whole[2] = {0, (int32_t)x->shape[0]};
    check_source(x, true);
    check_codes(out, FORMAT_E4M3_COLUMN, x);
    if (offsets == NULL) {
        offsets = whole;
        groups = 1;
    }
    check_groups(offsets, groups, x->shape[0]);
    cpu_quantize_columns(op, out, x, offsets, groups, power_of_two);
}

void op_quantize_blocks(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two) {
    check_source(x, false);
    check_codes(out, FORMAT_E4M3_BLOCK, x);
    cpu_quantize_blocks(op, out, x, power_of_two);
}

void op_quantize_both(struct op_context *op, struct tensor *tiles, struct tensor *out, const struct tensor *x,
                      const int32_t *rows, const int32_t *offsets, int64_t groups, bool power_of_two) {
    check_source(x, false);
    check_codes(tiles, FORMAT_E4M3_TILE, rows != NULL ? tiles : x);
    check_codes(out, FORMAT_E4M3_COLUMN, tiles);
    CHECK(tiles->shape[1] == x->shape[1], "quantize: %lld columns of %lld", (long long)tiles->shape[1],
          (long long)x->shape[1]);
    check_groups(offsets, groups, tiles->shape[0]);
    cpu_quantize_both(op, tiles, out, x, rows, offsets, groups, power_of_two);
}

void op_swiglu_tiles(struct op_context *op, struct tensor *hidden, struct tensor *tiles, const struct tensor *gate_up,
                     bool power_of_two) {
    check_source(gate_up, false);
    check_codes(tiles, FORMAT_E4M3_TILE, gate_up);
    check_codes(hidden, FORMAT_E4M3_TILE, hidden);
    CHECK(gate_up->format == FORMAT_BF16 && hidden->shape[0] == gate_up->shape[0] &&
              2 * hidden->shape[1] == gate_up->shape[1],
          "SwiGLU: format %d, %lld of %lld columns", gate_up->format, (long long)hidden->shape[1],
          (long long)gate_up->shape[1]);
    cpu_swiglu_tiles(op, hidden, tiles, gate_up, power_of_two);
}

void op_swiglu_backward_tiles(struct op_context *op, struct swiglu_tiles *out, float *dweight, const struct tensor *dy,
                              const struct tensor *gate_up, const float *weight, const int32_t *offsets, int64_t groups,
                              bool power_of_two) {
    check_source(dy, false);
    check_codes(gate_up, FORMAT_E4M3_TILE, gate_up);
    CHECK(dy->format == FORMAT_BF16 && gate_up->shape[0] == dy->shape[0] && gate_up->shape[1] == 2 * dy->shape[1],
          "SwiGLU: format %d, %lld of %lld columns", dy->format, (long long)dy->shape[1], (long long)gate_up->shape[1]);
    check_codes(&out->dgate, FORMAT_E4M3_TILE, dy);
    check_codes(&out->dup, FORMAT_E4M3_TILE, dy);
    check_codes(&out->dgate_columns, FORMAT_E4M3_COLUMN, dy);
    check_codes(&out->dup_columns, FORMAT_E4M3_COLUMN, dy);
    check_codes(&out->hidden_columns, FORMAT_E4M3_COLUMN, dy);
    check_groups(offsets, groups, dy->shape[0]);
    cpu_swiglu_backward_tiles(op, out, dweight, dy, gate_up, weight, offsets, groups, power_of_two);
}
