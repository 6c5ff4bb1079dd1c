// Operations that quantise in the pass that computes: on every instruction set and number of threads the bits of the
// operations that they join, which are tested by themselves.
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

#define GROUPS 6
static const int32_t offsets[GROUPS + 1] = {0, 5, 5, 133, 134, 390, 401};   // of rows; one group is empty
enum { ROWS = 401, TOKENS = 150 };

// Codes and scales of a format with tiles, room for those of columns.
static struct tensor tiles_new(enum format format, int64_t rows, int64_t columns) {
    struct tensor tiles = tensor_new_2d(format, rows, columns);
    int64_t scales = format == FORMAT_E4M3_COLUMN ? op_column_tiles(offsets, GROUPS) * columns
                                                  : rows * tiles.scale_stride;
    tiles.scale = array_new(scales, sizeof(float));
    memset(tiles.data, 0x55, (size_t)(rows * columns));
    memset(tiles.scale, 0x55, (size_t)scales * sizeof(float));
    return tiles;
}

static void tiles_free(struct tensor *tiles) {
    memory_free(tiles->scale);
    tensor_free(tiles);
}

// Also where nothing should have been written. The sign of a NaN is not defined.
static void expect_tiles(const struct tensor *found, const struct tensor *expected, const char *what) {
    int64_t elements = tensor_elements(found);
    int64_t scales = found->format == FORMAT_E4M3_COLUMN ? op_column_tiles(offsets, GROUPS) * found->shape[1]
                                                         : found->shape[0] * found->scale_stride;
    const uint8_t *a = found->data, *b = expected->data;
    for (int64_t i = 0; i < elements; i++) {
        if (a[i] != b[i] && ((a[i] & 0x7f) != 0x7f || (b[i] & 0x7f) != 0x7f)) {
            fail_msg("%s: code %lld is %02x, expected %02x", what, (long long)i, a[i], b[i]);
        }
    }
    if (memcmp(found->scale, expected->scale, (size_t)scales * sizeof(float)) != 0) {
        fail_msg("%s: scales differ", what);
    }
}

static void for_each_kernel(void (*run)(struct op_context *op, int64_t width, bool power_of_two, bool edges)) {
    static const int64_t widths[] = {1, 33, 128, 200, 256, 390, 640};
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST && isa_available(isa); isa++) {
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            struct op_fixture fixture;
            op_fixture_open(&fixture, isa, 1 + (int)i % 3);
            run(&fixture.op, widths[i], i % 2 == 0, i % 3 == 2);
            op_fixture_close(&fixture);
        }
    }
}

static struct tensor values_new(enum format format, int64_t rows, int64_t columns, bool edges, uint64_t seed) {
    struct tensor tensor = tensor_new_2d(format, rows, columns);
    if (edges) {
        fill_edges(&tensor, 4.0f, seed, 50);
    } else {
        fill_uniform(&tensor, 4.0f, seed);
    }
    return tensor;
}

static void both(struct op_context *op, int64_t width, bool power_of_two, bool edges) {
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        struct tensor x = values_new(format, ROWS, width, edges, 1);
        struct tensor tokens = values_new(format, TOKENS, width, edges, 2),
                      gathered = tensor_new_2d(format, ROWS, width);
        struct tensor rows = tiles_new(FORMAT_E4M3_TILE, ROWS, width),
                      rows_expected = tiles_new(FORMAT_E4M3_TILE, ROWS, width);
        struct tensor out = tiles_new(FORMAT_E4M3_COLUMN, ROWS, width),
                      expected = tiles_new(FORMAT_E4M3_COLUMN, ROWS, width);
        int32_t from[ROWS];
        for (int32_t i = 0; i < ROWS; i++) {
            from[i] = i * 7 % TOKENS;
        }
        op_gather_rows(op, &gathered, &tokens, from);
        for (int g = 0; g < 2; g++) {
            op_quantize_rows(op, &rows_expected, g == 0 ? &x : &gathered, power_of_two);
            op_quantize_columns(op, &expected, g == 0 ? &x : &gathered, offsets, GROUPS, power_of_two);
            op_quantize_both(op, &rows, &out, g == 0 ? &x : &tokens, g == 0 ? NULL : from, offsets, GROUPS,
                             power_of_two);
            expect_tiles(&rows, &rows_expected, "rows");
            expect_tiles(&out, &expected, "columns");
        }
        tensor_free(&x);
        tensor_free(&tokens);
        tensor_free(&gathered);
        tiles_free(&rows);
        tiles_free(&rows_expected);
        tiles_free(&out);
        tiles_free(&expected);
    }
}

static void test_both(void **state) {
    (void)state;
    for_each_kernel(both);
}

static void forward(struct op_context *op, int64_t width, bool power_of_two, bool edges) {
    struct tensor gate_up = values_new(FORMAT_BF16, ROWS, 2 * width, edges, 1);
    struct tensor gate = tensor_slice(&gate_up, 1, 0, width), up = tensor_slice(&gate_up, 1, width, width);
    struct tensor y = tensor_new_2d(FORMAT_BF16, ROWS, width);
    struct tensor hidden[2], tiles[2];
    for (int i = 0; i < 2; i++) {
        hidden[i] = tiles_new(FORMAT_E4M3_TILE, ROWS, width);
        tiles[i] = tiles_new(FORMAT_E4M3_TILE, ROWS, 2 * width);
    }
    op_swiglu_tiles(op, &hidden[0], &tiles[0], &gate_up, power_of_two);
    op_quantize_rows(op, &tiles[1], &gate_up, power_of_two);
    op_swiglu(op, &y, &gate, &up, NULL);
    op_quantize_rows(op, &hidden[1], &y, power_of_two);
    expect_tiles(&hidden[0], &hidden[1], "hidden");
    expect_tiles(&tiles[0], &tiles[1], "gate_up");
    for (int i = 0; i < 2; i++) {
        tiles_free(&hidden[i]);
        tiles_free(&tiles[i]);
    }
    tensor_free(&y);
    tensor_free(&gate_up);
}

static void test_swiglu(void **state) {
    (void)state;
    for_each_kernel(forward);
}

static struct swiglu_tiles outputs_new(int64_t width) {
    return (struct swiglu_tiles){.dgate = tiles_new(FORMAT_E4M3_TILE, ROWS, width),
                                 .dup = tiles_new(FORMAT_E4M3_TILE, ROWS, width),
                                 .dgate_columns = tiles_new(FORMAT_E4M3_COLUMN, ROWS, width),
                                 .dup_columns = tiles_new(FORMAT_E4M3_COLUMN, ROWS, width),
                                 .hidden_columns = tiles_new(FORMAT_E4M3_COLUMN, ROWS, width)};
}

// The operations one by one.
static void compose(struct op_context *op, struct swiglu_tiles *out, float *dweight, const struct tensor *dy,
                    const struct tensor *gate_up, const float *weight, bool power_of_two) {
    int64_t width = dy->shape[1];
    struct tensor wide = tensor_new_2d(FORMAT_BF16, ROWS, 2 * width), hidden = tensor_new_2d(FORMAT_BF16, ROWS, width);
    struct tensor gate = tensor_slice(&wide, 1, 0, width), up = tensor_slice(&wide, 1, width, width);
    op_dequantize_rows(op, &wide, gate_up);
    op_swiglu(op, &hidden, &gate, &up, weight);
    op_swiglu_backward(op, &gate, &up, dweight, dy, &gate, &up, weight);
    op_quantize_rows(op, &out->dgate, &gate, power_of_two);
    op_quantize_rows(op, &out->dup, &up, power_of_two);
    op_quantize_columns(op, &out->dgate_columns, &gate, offsets, GROUPS, power_of_two);
    op_quantize_columns(op, &out->dup_columns, &up, offsets, GROUPS, power_of_two);
    op_quantize_columns(op, &out->hidden_columns, &hidden, offsets, GROUPS, power_of_two);
    tensor_free(&wide);
    tensor_free(&hidden);
}

static void backward(struct op_context *op, int64_t width, bool power_of_two, bool edges) {
    struct tensor values = values_new(FORMAT_BF16, ROWS, 2 * width, edges, 1);
    struct tensor dy = values_new(FORMAT_BF16, ROWS, width, edges, 2);
    struct tensor gate_up = tiles_new(FORMAT_E4M3_TILE, ROWS, 2 * width);
    struct tensor weight = tensor_new_1d(FORMAT_F32, ROWS);
    fill_uniform(&weight, 2.0f, 3);
    op_quantize_rows(op, &gate_up, &values, power_of_two);
    for (int weighted = 0; weighted < 2; weighted++) {
        struct swiglu_tiles found = outputs_new(width), expected = outputs_new(width);
        struct tensor dweight = tensor_new_1d(FORMAT_F32, ROWS), dweight_expected = tensor_new_1d(FORMAT_F32, ROWS);
        const float *weights = weighted ? weight.data : NULL;
        op_swiglu_backward_tiles(op, &found, weighted ? dweight.data : NULL, &dy, &gate_up, weights, offsets, GROUPS,
                                 power_of_two);
        compose(op, &expected, weighted ? dweight_expected.data : NULL, &dy, &gate_up, weights, power_of_two);
        struct tensor *a[] = {&found.dgate, &found.dup, &found.dgate_columns, &found.dup_columns,
                              &found.hidden_columns},
                      *b[] = {&expected.dgate, &expected.dup, &expected.dgate_columns, &expected.dup_columns,
                              &expected.hidden_columns};
        static const char *const names[] = {"dgate", "dup", "columns of dgate", "columns of dup", "columns of hidden"};
        for (int i = 0; i < 5; i++) {
            expect_tiles(a[i], b[i], names[i]);
            tiles_free(a[i]);
            tiles_free(b[i]);
        }
        assert_true(same_bits(&dweight, &dweight_expected));
        tensor_free(&dweight);
        tensor_free(&dweight_expected);
    }
    tensor_free(&values);
    tensor_free(&dy);
    tiles_free(&gate_up);
    tensor_free(&weight);
}

static void test_swiglu_backward(void **state) {
    (void)state;
    for_each_kernel(backward);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_swiglu_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
