// Quantisers: every instruction set and number of threads against the definition of spec 6.2 written out in double
// precision (scale by frexp, code by search among all codes), on ordinary and special values, tail tiles, views, groups
// and both kinds of scale.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

static double code_value(int magnitude) {
    int exponent = magnitude >> 3, mantissa = magnitude & 7;
    return exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
}

// Nearest finite code, ties to even, NaN to NaN, the infinite and the large to 448.
static uint8_t nearest(float value) {
    uint8_t sign = signbit(value) ? 0x80 : 0;
    if (isnan(value)) {
        return (uint8_t)(sign | 0x7f);
    }
    int best = 0;
    for (int code = 1; code < 127; code++) {
        double old = fabs(fabs((double)value) - code_value(best)), now = fabs(fabs((double)value) - code_value(code));
        if (now < old || (now == old && code % 2 == 0)) {
            best = code;
        }
    }
    return (uint8_t)(sign | (isinf(value) ? 126 : best));
}

static float definition_scale(float amax, bool power_of_two) {
    float scale = (amax > 1e-4f ? amax : 1e-4f) / 448.0f;
    if (power_of_two) {
        int exponent;
        double mantissa = isinf(scale) ? 1.0 : frexp((double)scale, &exponent);
        scale = isinf(scale) ? 0x1p127f : (float)ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent);
    }
    return scale;
}

// A matrix of codes with its scales, and what they should be.
struct coded {
    struct tensor tensor;
    uint8_t *codes;
    float *scales;
    int64_t scale_count;
};

static struct coded coded_new(enum format format, int64_t rows, int64_t columns, int64_t scale_rows) {
    struct coded coded = {.tensor = tensor_new_2d(format, rows, columns)};
    coded.scale_count = scale_rows * coded.tensor.scale_stride;
    coded.tensor.scale = array_new(coded.scale_count, sizeof(float));
    coded.codes = array_new(rows * columns, 1);
    coded.scales = array_new(coded.scale_count, sizeof(float));
    return coded;
}

static void coded_free(struct coded *coded) {
    memory_free(coded->tensor.scale);
    memory_free(coded->codes);
    memory_free(coded->scales);
    tensor_free(&coded->tensor);
}

// Fills in what a tile should be: rows x columns elements of `x`, [rows, columns] floats of the whole matrix.
static void define_tile(struct coded *coded, int64_t scale_index, const float *x, int64_t row, int64_t rows,
                        int64_t column, int64_t columns, bool power_of_two) {
    int64_t stride = coded->tensor.shape[1];
    float amax = 0.0f;
    for (int64_t i = row; i < row + rows; i++) {
        for (int64_t j = column; j < column + columns; j++) {
            float magnitude = fabsf(x[i * stride + j]);
            amax = isnan(magnitude) || magnitude < amax ? amax : magnitude;
        }
    }
    float scale = definition_scale(amax, power_of_two);
    coded->scales[scale_index] = scale;
    for (int64_t i = row; i < row + rows; i++) {
        for (int64_t j = column; j < column + columns; j++) {
            float value = x[i * stride + j];
            value = fabsf(value) < 0x1p-126f ? copysignf(0.0f, value) : value;   // subnormals count as zeros
            coded->codes[i * stride + j] = nearest(value / scale);
        }
    }
}

static void expect_codes(struct coded *coded, enum isa isa, int threads) {
    const uint8_t *found = coded->tensor.data;
    for (int64_t i = 0; i < tensor_elements(&coded->tensor); i++) {
        bool both_nan = (found[i] & 0x7f) == 0x7f &&
                        (coded->codes[i] & 0x7f) == 0x7f;   // the sign of a NaN is not defined
        if (found[i] != coded->codes[i] && !both_nan) {
            fail_msg("%s, %d threads: code %lld is %02x, expected %02x", isa_name(isa), threads, (long long)i, found[i],
                     coded->codes[i]);
        }
    }
    if (memcmp(coded->tensor.scale, coded->scales, (size_t)coded->scale_count * sizeof(float)) != 0) {
        fail_msg("%s, %d threads: scales differ", isa_name(isa), threads);
    }
    memset(coded->tensor.data, 0x55, (size_t)tensor_elements(&coded->tensor));
    memset(coded->tensor.scale, 0x55, (size_t)coded->scale_count * sizeof(float));
}

static int64_t up(int64_t n) {
    return (n + 127) / 128;
}

#define GROUPS 5
struct quantize_case {
    struct tensor x, view;   // view: without the last `gap` columns of x
    float *values;           // of the view
    struct coded rows, columns, grouped, again, blocks;
    int32_t offsets[GROUPS + 1];
    bool power_of_two;
};

static void define(struct quantize_case *test) {
    int64_t rows = test->view.shape[0], columns = test->view.shape[1];
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j += 128) {
            define_tile(&test->rows, i * up(columns) + j / 128, test->values, i, 1, j,
                        columns - j < 128 ? columns - j : 128, test->power_of_two);
        }
    }
    float *widened = array_new(rows * columns, sizeof(float));
    for (int64_t i = 0; i < rows * columns; i++) {
        uint8_t code = test->rows.codes[i];
        float value = (code & 0x7f) == 0x7f ? NAN : (float)(code < 128 ? code_value(code) : -code_value(code - 128));
        widened[i] = value * test->rows.scales[i / columns * up(columns) + i % columns / 128];
    }
    for (int64_t j = 0; j < columns; j++) {
        for (int64_t i = 0; i < rows; i += 128) {
            int64_t height = rows - i < 128 ? rows - i : 128;
            define_tile(&test->columns, i / 128 * columns + j, test->values, i, height, j, 1, test->power_of_two);
            define_tile(&test->again, i / 128 * columns + j, widened, i, height, j, 1, test->power_of_two);
        }
        int64_t tile = 0;
        for (int g = 0; g < GROUPS; g++) {
            for (int64_t i = test->offsets[g]; i < test->offsets[g + 1]; i += 128) {
                int64_t left = test->offsets[g + 1] - i;
                define_tile(&test->grouped, tile++ * columns + j, test->values, i, left < 128 ? left : 128, j, 1,
                            test->power_of_two);
            }
        }
    }
    for (int64_t i = 0; i < rows; i += 128) {
        for (int64_t j = 0; j < columns; j += 128) {
            define_tile(&test->blocks, i / 128 * up(columns) + j / 128, test->values, i,
                        rows - i < 128 ? rows - i : 128, j, columns - j < 128 ? columns - j : 128, test->power_of_two);
        }
    }
    memory_free(widened);
}

static void run_case(struct quantize_case *test, struct op_context *op, int threads) {
    bool power = test->power_of_two;
    op_quantize_columns(op, &test->columns.tensor, &test->view, NULL, 0, power);
    expect_codes(&test->columns, op->isa, threads);
    op_quantize_columns(op, &test->grouped.tensor, &test->view, test->offsets, GROUPS, power);
    expect_codes(&test->grouped, op->isa, threads);
    op_quantize_blocks(op, &test->blocks.tensor, &test->view, power);
    expect_codes(&test->blocks, op->isa, threads);
    op_quantize_rows(op, &test->rows.tensor, &test->view, power);
    op_quantize_columns(op, &test->again.tensor, &test->rows.tensor, NULL, 0, power);
    expect_codes(&test->again, op->isa, threads);
    expect_codes(&test->rows, op->isa, threads);
}

static void check_case(int64_t rows, int64_t columns, enum format format, bool power_of_two, bool special,
                       uint64_t stream) {
    struct quantize_case test = {.x = tensor_new_2d(format, rows, columns + 3), .power_of_two = power_of_two};
    if (special) {
        fill_edges(&test.x, 3e-3f, stream, 97);
    } else {
        fill_uniform(&test.x, 5.0f, stream);
    }
    test.view = tensor_slice(&test.x, 1, 1, columns);
    test.values = array_new(rows * columns, sizeof(float));
    for (int64_t i = 0; i < rows * columns; i++) {
        test.values[i] = element_get(&test.x, i / columns * (columns + 3) + 1 + i % columns);
    }
    test.offsets[0] = 0;
    for (int g = 1; g < GROUPS; g++) {
        test.offsets[g] = g == 3 ? test.offsets[2] : (int32_t)(rows * g * g / (GROUPS * GROUPS));
    }
    test.offsets[GROUPS] = (int32_t)rows;
    test.rows = coded_new(FORMAT_E4M3_TILE, rows, columns, rows);
    test.columns = coded_new(FORMAT_E4M3_COLUMN, rows, columns, up(rows));
    test.again = coded_new(FORMAT_E4M3_COLUMN, rows, columns, up(rows));
    test.grouped = coded_new(FORMAT_E4M3_COLUMN, rows, columns, op_column_tiles(test.offsets, GROUPS));
    test.blocks = coded_new(FORMAT_E4M3_BLOCK, rows, columns, up(rows));
    define(&test);
    static const int threads[] = {1, 3};
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        for (size_t t = 0; t < 2 && isa_available(isa); t++) {
            struct op_fixture fixture;
            op_fixture_open(&fixture, isa, threads[t]);
            run_case(&test, &fixture.op, threads[t]);
            assert_int_equal(fixture.arena.used, 0);
            op_fixture_close(&fixture);
        }
    }
    coded_free(&test.rows);
    coded_free(&test.columns);
    coded_free(&test.again);
    coded_free(&test.grouped);
    coded_free(&test.blocks);
    memory_free(test.values);
    tensor_free(&test.x);
}

static void test_quantisers(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {3, 130}, {128, 33}, {130, 17}, {260, 9}};
    uint64_t stream = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int mode = 0; mode < 8; mode++) {
            check_case(shapes[i][0], shapes[i][1], mode & 1 ? FORMAT_BF16 : FORMAT_F32, (mode & 2) != 0,
                       (mode & 4) != 0, stream++);
        }
    }
}

// Every E4M3 code comes back from op_dequantize_rows as code * scale, in both formats.
static void test_dequantize(void **state) {
    (void)state;
    uint8_t codes[256];
    float scales[2] = {0.37f, 0x1p-9f}, found[256];
    uint16_t narrow[256];
    for (int i = 0; i < 256; i++) {
        codes[i] = (uint8_t)(i * 7);
    }
    struct tensor x = tensor_2d(FORMAT_E4M3_TILE, codes, 1, 256);
    struct tensor y = tensor_2d(FORMAT_F32, found, 1, 256), z = tensor_2d(FORMAT_BF16, narrow, 1, 256);
    x.scale = scales;
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST && isa_available(isa); isa++) {
        struct op_fixture fixture;
        op_fixture_open(&fixture, isa, 2);
        op_dequantize_rows(&fixture.op, &y, &x);
        op_dequantize_rows(&fixture.op, &z, &x);
        for (int i = 0; i < 256; i++) {
            int magnitude = codes[i] & 0x7f;
            float value = (float)(codes[i] < 128 ? code_value(magnitude) : -code_value(magnitude)) * scales[i / 128];
            assert_true(magnitude == 0x7f ? isnan(found[i]) : found[i] == value);
            assert_true(magnitude == 0x7f ? isnan(bf16_widen(narrow[i])) : narrow[i] == bf16_narrow(value));
        }
        op_fixture_close(&fixture);
    }
}

// E5M6 tiles: every instruction set against the conversions of tensor/formats.h; multiplied out, and as tiles of
// columns, they are what the widened matrix is.
struct e5m6_case {
    struct tensor x, wide, narrow;   // wide: what the tiles hold
    struct tensor found, expected;
    int64_t bytes, scales;
    struct coded columns;
    bool special;
};

static void define_e5m6(struct e5m6_case *test) {
    int64_t rows = test->x.shape[0], columns = test->x.shape[1];
    float line[128];
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j += 128) {
            int64_t count = columns - j < 128 ? columns - j : 128;
            float amax = 0.0f;
            for (int64_t k = 0; k < count; k++) {
                line[k] = element_get(&test->x, i * columns + j + k);
                line[k] = fabsf(line[k]) < 0x1p-126f ? copysignf(0.0f, line[k]) : line[k];
                amax = fabsf(line[k]) > amax ? fabsf(line[k]) : amax;
            }
            test->expected.scale[i * up(columns) + j / 128] = e5m6_scale(amax);
            format_info(FORMAT_E5M6_TILE)->narrow(&test->expected, line, i, j, count);
            format_info(FORMAT_E5M6_TILE)
                ->widen((float *)test->wide.data + i * columns + j, &test->expected, i, j, count);
        }
    }
}

static void run_e5m6(struct e5m6_case *test, struct op_context *op) {
    int64_t elements = tensor_elements(&test->x);
    memset(test->found.data, 0x55, (size_t)test->bytes);
    op_quantize_rows(op, &test->found, &test->x, true);
    assert_memory_equal(test->found.scale, test->expected.scale, (size_t)test->scales * sizeof(float));
    const uint8_t *codes = test->found.data, *wanted = test->expected.data;
    for (int64_t i = 0; i < test->bytes; i++) {
        if (codes[i] != wanted[i] &&
            (i < elements || !test->special)) {   // high halves of a NaN have an undefined sign
            fail_msg("%s: byte %lld of %lld is %02x, expected %02x", isa_name(op->isa), (long long)i,
                     (long long)test->bytes, codes[i], wanted[i]);
        }
    }
    op_dequantize_rows(op, &test->narrow, &test->found);
    for (int64_t i = 0; i < elements; i++) {
        float value = element_get(&test->wide, i), back = element_get(&test->narrow, i);
        assert_true(isnan(value) ? isnan(back) : back == value && signbit(back) == signbit(value));
    }
    op_quantize_columns(op, &test->columns.tensor, &test->wide, NULL, 0, true);
    memcpy(test->columns.codes, test->columns.tensor.data, (size_t)elements);
    memcpy(test->columns.scales, test->columns.tensor.scale, (size_t)test->columns.scale_count * sizeof(float));
    op_quantize_columns(op, &test->columns.tensor, &test->found, NULL, 0, true);
    expect_codes(&test->columns, op->isa, 2);
}

static void check_e5m6(int64_t rows, int64_t columns, enum format format, bool special, uint64_t stream) {
    struct e5m6_case test = {.x = tensor_new_2d(format, rows, columns),
                             .wide = tensor_new_2d(FORMAT_F32, rows, columns),
                             .narrow = tensor_new_2d(FORMAT_BF16, rows, columns),
                             .bytes = rows * (columns + (columns + 1) / 2),
                             .scales = rows * up(columns),
                             .columns = coded_new(FORMAT_E4M3_COLUMN, rows, columns, up(rows)),
                             .special = special};
    if (special) {
        fill_edges(&test.x, 3e-3f, stream, 89);
    } else {
        fill_uniform(&test.x, 5.0f, stream);
    }
    test.found = test.expected = tensor_2d(FORMAT_E5M6_TILE, NULL, rows, columns);
    test.found.data = array_new(test.bytes, 1);
    test.found.scale = array_new(test.scales, sizeof(float));
    test.expected.data = array_new(test.bytes, 1);
    test.expected.scale = array_new(test.scales, sizeof(float));
    define_e5m6(&test);
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST && isa_available(isa); isa++) {
        struct op_fixture fixture;
        op_fixture_open(&fixture, isa, 2);
        run_e5m6(&test, &fixture.op);
        op_fixture_close(&fixture);
    }
    coded_free(&test.columns);
    memory_free(test.found.data);
    memory_free(test.found.scale);
    memory_free(test.expected.data);
    memory_free(test.expected.scale);
    tensor_free(&test.x);
    tensor_free(&test.wide);
    tensor_free(&test.narrow);
}

static void test_e5m6(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {3, 130}, {128, 33}, {140, 257}};
    for (uint64_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int mode = 0; mode < 4; mode++) {
            check_e5m6(shapes[i][0], shapes[i][1], mode & 1 ? FORMAT_BF16 : FORMAT_F32, (mode & 2) != 0, 100 + i);
        }
    }
}

static void test_gather(void **state) {
    (void)state;
    struct op_fixture fixture;
    op_fixture_open(&fixture, ISA_BEST, 2);
    struct coded from = coded_new(FORMAT_E4M3_TILE, 9, 200, 9), to = coded_new(FORMAT_E4M3_TILE, 4, 200, 4);
    struct tensor x = tensor_new_2d(FORMAT_F32, 9, 200);
    fill_uniform(&x, 2.0f, 77);
    op_quantize_rows(&fixture.op, &from.tensor, &x, false);
    const int32_t rows[4] = {8, 0, 3, 3};
    op_gather_rows(&fixture.op, &to.tensor, &from.tensor, rows);
    for (int i = 0; i < 4; i++) {
        assert_memory_equal((uint8_t *)to.tensor.data + i * 200, (uint8_t *)from.tensor.data + rows[i] * 200, 200);
        assert_memory_equal(to.tensor.scale + (ptrdiff_t)i * 2, from.tensor.scale + (ptrdiff_t)rows[i] * 2, 8);
    }
    tensor_free(&x);
    coded_free(&from);
    coded_free(&to);
    op_fixture_close(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantisers),
        cmocka_unit_test(test_dequantize),
        cmocka_unit_test(test_e5m6),
        cmocka_unit_test(test_gather),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
