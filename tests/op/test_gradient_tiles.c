// Why output gradients are quantised in tiles of one token and not in 128 x 128 blocks (report B.2): the magnitudes of
// tokens differ, and what is small beside another token of its block is lost. One Linear, gradients whose tokens are
// spread log-normally, input and weight gradient against the products of the unquantised ones; the weights are the same
// in all three. docs/numerics-fp8.md quotes the figures that this prints.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

enum { TOKENS = 512, OUTPUTS = 256, INPUTS = 384 };

// Relative distance of the whole, and the mean over rows of the relative distance of a row.
struct error_of {
    double whole, row;
};

static struct error_of distance(const struct tensor *found, const struct tensor *expected) {
    struct error_of error = {0};
    double difference = 0, norm = 0;
    int64_t columns = found->shape[1];
    for (int64_t i = 0; i < found->shape[0]; i++) {
        double row_difference = 0, row_norm = 0;
        for (int64_t j = 0; j < columns; j++) {
            double a = (double)element_get(found, i * columns + j), b = (double)element_get(expected, i * columns + j);
            row_difference += (a - b) * (a - b);
            row_norm += b * b;
        }
        difference += row_difference;
        norm += row_norm;
        error.row += sqrt(row_difference / row_norm) / (double)found->shape[0];
    }
    error.whole = sqrt(difference / norm);
    return error;
}

static struct tensor scaled_new(enum format format, int64_t rows, int64_t columns, int64_t scale_rows) {
    struct tensor tensor = tensor_new_2d(format, rows, columns);
    tensor.scale = array_new(scale_rows * tensor.scale_stride, sizeof(float));
    return tensor;
}

static void scaled_free(struct tensor *tensor) {
    memory_free(tensor->scale);
    tensor_free(tensor);
}

struct study {
    struct tensor x, dy, w;                // BF16; w is what its blocks hold
    struct tensor w_blocks, dy_tiles;      // E4M3
    struct tensor dy_columns, x_columns;   // E4M3, of the weight gradient
    struct tensor dy_blocks, x_wide;       // what 128 x 128 blocks of dy hold, and columns of x: F32
    struct tensor dx[3], dw[3];            // F32: unquantised, tiles, blocks
};

static void widen(struct tensor *out, const struct tensor *codes) {
    for (int64_t i = 0; i < codes->shape[0]; i++) {
        float line[INPUTS];
        format_info(codes->format)->widen(line, codes, i, 0, codes->shape[1]);
        format_info(out->format)->narrow(out, line, i, 0, codes->shape[1]);
    }
}

static void study_open(struct study *study, struct op_context *op, double spread) {
    *study = (struct study){
        .x = tensor_new_2d(FORMAT_BF16, TOKENS, INPUTS),
        .dy = tensor_new_2d(FORMAT_BF16, TOKENS, OUTPUTS),
        .w = tensor_new_2d(FORMAT_BF16, OUTPUTS, INPUTS),
        .w_blocks = scaled_new(FORMAT_E4M3_BLOCK, OUTPUTS, INPUTS, OUTPUTS / 128),
        .dy_tiles = scaled_new(FORMAT_E4M3_TILE, TOKENS, OUTPUTS, TOKENS),
        .dy_columns = scaled_new(FORMAT_E4M3_COLUMN, TOKENS, OUTPUTS, TOKENS / 128),
        .x_columns = scaled_new(FORMAT_E4M3_COLUMN, TOKENS, INPUTS, TOKENS / 128),
        .dy_blocks = tensor_new_2d(FORMAT_F32, TOKENS, OUTPUTS),
        .x_wide = tensor_new_2d(FORMAT_F32, TOKENS, INPUTS),
    };
    float line[INPUTS];
    for (int64_t t = 0; t < TOKENS; t++) {
        double size = exp(spread * (double)rng_normal(1, 1, (uint64_t)t));
        for (int64_t j = 0; j < INPUTS; j++) {
            line[j] = rng_normal(1, 2, (uint64_t)(t * INPUTS + j));
        }
        format_info(FORMAT_BF16)->narrow(&study->x, line, t, 0, INPUTS);
        for (int64_t j = 0; j < OUTPUTS; j++) {
            line[j] = (float)size * rng_normal(1, 3, (uint64_t)(t * OUTPUTS + j));
        }
        format_info(FORMAT_BF16)->narrow(&study->dy, line, t, 0, OUTPUTS);
    }
    struct tensor blocks = scaled_new(FORMAT_E4M3_BLOCK, TOKENS, OUTPUTS, TOKENS / 128);
    fill_uniform(&study->w, 0.05f, 4);
    op_quantize_blocks(op, &study->w_blocks, &study->w, true);
    widen(&study->w, &study->w_blocks);   // exact: scales are powers of two
    op_quantize_rows(op, &study->dy_tiles, &study->dy, false);
    op_quantize_columns(op, &study->dy_columns, &study->dy, NULL, 0, false);
    op_quantize_columns(op, &study->x_columns, &study->x, NULL, 0, false);
    op_quantize_blocks(op, &blocks, &study->dy, false);
    widen(&study->dy_blocks, &blocks);
    widen(&study->x_wide, &study->x_columns);
    scaled_free(&blocks);
    for (int i = 0; i < 3; i++) {
        study->dx[i] = tensor_new_2d(FORMAT_F32, TOKENS, INPUTS);
        study->dw[i] = tensor_new_2d(FORMAT_F32, OUTPUTS, INPUTS);
        memset(study->dw[i].data, 0, OUTPUTS * INPUTS * sizeof(float));
    }
}

static void study_close(struct study *study) {
    struct tensor *plain[] = {&study->x, &study->dy, &study->w, &study->dy_blocks, &study->x_wide};
    struct tensor *scaled[] = {&study->w_blocks, &study->dy_tiles, &study->dy_columns, &study->x_columns};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        tensor_free(plain[i]);
    }
    for (size_t i = 0; i < sizeof scaled / sizeof scaled[0]; i++) {
        scaled_free(scaled[i]);
    }
    for (int i = 0; i < 3; i++) {
        tensor_free(&study->dx[i]);
        tensor_free(&study->dw[i]);
    }
}

static void test_spread(void **state) {
    (void)state;
    static const double spreads[] = {0, 1, 2, 3};
    for (size_t s = 0; s < sizeof spreads / sizeof spreads[0]; s++) {
        struct op_fixture fixture;
        struct study study;
        op_fixture_open(&fixture, ISA_BEST, 2);
        struct op_context *op = &fixture.op;
        study_open(&study, op, spreads[s]);
        op_linear_backward_input(op, &study.dx[0], &study.dy, &study.w, OP_SET);
        op_linear_backward_input(op, &study.dx[1], &study.dy_tiles, &study.w_blocks, OP_SET);
        op_linear_backward_input(op, &study.dx[2], &study.dy_blocks, &study.w, OP_SET);
        op_linear_backward_weight(op, &study.dw[0], &study.dy, &study.x, OP_ADD);
        op_linear_backward_weight(op, &study.dw[1], &study.dy_columns, &study.x_columns, OP_ADD);
        op_linear_backward_weight(op, &study.dw[2], &study.dy_blocks, &study.x_wide, OP_ADD);
        struct error_of dx[2] = {distance(&study.dx[1], &study.dx[0]), distance(&study.dx[2], &study.dx[0])};
        struct error_of dw[2] = {distance(&study.dw[1], &study.dw[0]), distance(&study.dw[2], &study.dw[0])};
        print_message(
            "spread %g: dx %.2f %% in tiles, %.2f %% in blocks; of a token %.2f %%, %.2f %%; dw %.2f %%, %.2f %%\n",
            spreads[s], 100 * dx[0].whole, 100 * dx[1].whole, 100 * dx[0].row, 100 * dx[1].row, 100 * dw[0].whole,
            100 * dw[1].whole);
        assert_true(dx[0].whole < 0.04 && dx[0].row < 0.04 && dw[0].whole < 0.06);   // tiles: whatever the spread
        assert_true(spreads[s] < 3 || dx[1].row > 2 * dx[0].row);                    // blocks lose the small tokens
        study_close(&study);
        op_fixture_close(&fixture);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_spread)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
