// Linear operations: every instruction set, number of threads, layout and format against the chain that op/ops.h
// defines, bit by bit (any NaN equals any NaN), on shapes round the edges of tiles and blocks and on ordinary and
// special values.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/pool.h"
#include "base/rng.h"
#include "op/cpu/kernels.h"
#include "op/ops.h"
#include "support/op_fixture.h"
#include "tensor/formats.h"

enum values { ORDINARY, SPECIAL };
enum layout { PACKED, PADDED, TRANSPOSED, SPARSE };   // SPARSE: neither stride is 1

#define THREAD_COUNTS 4
static const int thread_counts[THREAD_COUNTS] = {1, 2, 3, 7};
static struct pool *pools[THREAD_COUNTS];
static struct arena scratch;
static struct arena memory;   // of one test case
static uint64_t draws;

static int64_t draw_below(int64_t bound) {
    return (int64_t)rng_below(20240607, 1, draws++, (uint64_t)bound);
}

static int64_t draw_size(int64_t limit) {
    static const int64_t edges[] = {1,  2,  3,  5,  7,  8,  9,  13, 14, 15,  16,  17,  27,  28,  29,
                                    31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256, 257};
    int64_t size = draw_below(3) == 0 ? 1 + draw_below(300)
                                      : edges[draw_below((int64_t)(sizeof edges / sizeof *edges))];
    return size <= limit ? size : 1 + draw_below(limit);
}

static float draw_value(enum values values) {
    static const float small[] = {0.0f,   -0.0f,   1e-39f, -1e-40f, 1.18e-38f, -1.2e-38f,
                                  1e-20f, -3e-19f, 1e-3f,  -7.0f,   1.0f};
    static const float large[] = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 2.5e19f};
    if (values == ORDINARY) {
        return ldexpf((float)(draw_below(8191) - 4095), -12);
    }
    if (draw_below(4) == 0) {
        return small[draw_below((int64_t)(sizeof small / sizeof *small))];
    }
    if (draw_below(2000) == 0) {   // rare, so that finite outputs are left
        return large[draw_below((int64_t)(sizeof large / sizeof *large))];
    }
    return ldexpf((float)(draw_below(511) - 255),
                  (int)draw_below(50) - 85);   // products round the smallest normal number
}

// A matrix in memory and its elements as floats, row-major (for E4M3 without the scales).
struct matrix {
    struct tensor tensor;
    float *values;
};

static int64_t element_offset(const struct tensor *tensor, int64_t row, int64_t column) {
    return row * tensor->stride[0] + column * tensor->stride[1];
}

static void put(const struct matrix *matrix, int64_t row, int64_t column, float value) {
    const struct tensor *tensor = &matrix->tensor;
    char *to = (char *)tensor->data + element_offset(tensor, row, column) * format_info(tensor->format)->bytes;
    if (tensor->format == FORMAT_F32) {
        memcpy(to, &value, sizeof value);
    } else if (tensor->format == FORMAT_BF16) {
        uint16_t bits = bf16_narrow(value);
        value = bf16_widen(bits);
        memcpy(to, &bits, sizeof bits);
    } else {
        uint8_t bits = e4m3_narrow(value);
        value = e4m3_widen(bits);
        memcpy(to, &bits, sizeof bits);
    }
    matrix->values[row * tensor->shape[1] + column] = value;
}

static struct matrix draw_matrix(enum format format, int64_t rows, int64_t columns, enum layout layout,
                                 enum values values) {
    if (format == FORMAT_E4M3_BLOCK) {
        layout = PACKED;
    }
    int64_t gap = layout == PADDED ? 1 + draw_below(20) : layout == SPARSE ? 3 : 0, spread = layout == SPARSE ? 2 : 1;
    int64_t bytes = format_info(format)->bytes,
            offset = draw_below(8);   // of elements: no alignment but the element's own
    int64_t extent = rows * (columns * spread + gap) + offset;
    char *data = arena_allocate(&memory, (size_t)(extent + 1), (size_t)bytes);
    memset(data, 0x5a, (size_t)(extent * bytes));
    struct matrix matrix = {.tensor = tensor_2d(format, data + offset * bytes, rows, columns)};
    matrix.values = arena_allocate(&memory, (size_t)(rows * columns + 1), sizeof(float));
    matrix.tensor.stride[0] = layout == TRANSPOSED ? 1 : columns * spread + gap;
    matrix.tensor.stride[1] = layout == TRANSPOSED ? rows : spread;
    float factor = format == FORMAT_E4M3_BLOCK && values == ORDINARY ? 100.0f : 1.0f;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++) {
            put(&matrix, i, j, draw_value(values) * factor);
        }
    }
    if (format == FORMAT_E4M3_BLOCK) {
        int64_t count = (rows + 127) / 128 * ((columns + 127) / 128);
        matrix.tensor.scale = arena_allocate(&memory, (size_t)count, sizeof(float));
        for (int64_t i = 0; i < count; i++) {
            matrix.tensor.scale[i] = ldexpf(1.0f + (float)draw_below(1000) * 1e-3f, (int)draw_below(6) - 8);
        }
    }
    return matrix;
}

// ---- The definition: one chain per output; E4M3: one chain per 128 of k and a chain of promotions. With AMX, chains
// of
// ---- products of pairs are in blocks. -------------------------------------------------------------------------------

struct side {
    const float *values;
    int64_t row_stride, k_stride;
    const float *scale;
    int64_t scale_row_stride, scale_k_stride;
    enum format format;
};

static float reference(enum isa isa, float c, const struct side *a, int64_t row, const struct side *b, int64_t column,
                       int64_t depth) {
    const bool blocks = isa == ISA_AMX && a->format != FORMAT_F32 && b->format != FORMAT_F32;
    float total = c;
    for (int64_t begin = 0; begin < depth; begin += 128) {
        int64_t end = begin + 128 < depth ? begin + 128 : depth;
        float sum = b->scale != NULL ? 0.0f : total;
        if (blocks) {
            sum = linear_block_chain(sum, a->values + row * a->row_stride + begin * a->k_stride, a->k_stride,
                                     b->values + column * b->row_stride + begin * b->k_stride, b->k_stride,
                                     end - begin);
        }
        for (int64_t k = blocks ? end : begin; k < end; k++) {
            sum = fmaf(a->values[row * a->row_stride + k * a->k_stride],
                       b->values[column * b->row_stride + k * b->k_stride], sum);
        }
        if (b->scale != NULL) {
            total = fmaf(sum, b->scale[column / 128 * b->scale_row_stride + begin / 128 * b->scale_k_stride], total);
        } else {
            total = sum;
        }
    }
    return total;
}

static struct side side_of(const struct matrix *matrix, int row_axis) {
    int64_t columns = matrix->tensor.shape[1], blocks = matrix->tensor.scale_stride;
    return (struct side){.values = matrix->values,
                         .row_stride = row_axis == 0 ? columns : 1,
                         .k_stride = row_axis == 0 ? 1 : columns,
                         .scale = matrix->tensor.scale,
                         .scale_row_stride = row_axis == 0 ? blocks : 1,
                         .scale_k_stride = row_axis == 0 ? 1 : blocks,
                         .format = (enum format)matrix->tensor.format};
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void expect_element(const struct tensor *c, int64_t row, int64_t column, float expected, const char *what) {
    const char *from = (const char *)c->data + element_offset(c, row, column) * format_info(c->format)->bytes;
    float found;
    if (c->format == FORMAT_F32) {
        memcpy(&found, from, sizeof found);
    } else {
        uint16_t bits;
        memcpy(&bits, from, sizeof bits);
        found = bf16_widen(bits);
        expected = bf16_widen(bf16_narrow(expected));
    }
    if (isnan(found) && isnan(expected)) {
        return;
    }
    if (float_bits(found) != float_bits(expected)) {
        fail_msg("%s: (%lld, %lld) is %a, expected %a", what, (long long)row, (long long)column, (double)found,
                 (double)expected);
    }
}

// Calls `run` for every instruction set and number of threads.
static void for_each_context(void (*run)(struct op_context *op, const char *name, void *argument), void *argument) {
    for (int isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        for (int t = 0; t < THREAD_COUNTS && isa_available((enum isa)isa); t++) {
            struct op_context op;
            struct error error = {0};
            assert_int_equal(op_context_init(&op, (enum isa)isa, pools[t], &scratch, &error), 0);
            char name[64];
            snprintf(name, sizeof name, "%s, %d threads", isa_name((enum isa)isa), thread_counts[t]);
            run(&op, name, argument);
            struct cpu_kernels other;
            if (op_other_pairs(&op, &other)) {
                run(&op, name, argument);
            }
            assert_int_equal(scratch.used, 0);
        }
    }
}

// ---- One product ----------------------------------------------------------------------------------------------------

enum product { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, PRODUCTS };
static const char *const product_names[] = {"forward", "backward input", "backward weight"};

struct product_case {
    enum product product;
    enum op_mode mode;
    struct matrix left, right, out;   // out.values: before the call
    float *expected[2];               // of AMX in the second
    char text[200];
};

static void run_product(struct op_context *op, const char *name, void *argument) {
    struct product_case *test = argument;
    struct tensor *c = &test->out.tensor;
    for (int64_t i = 0; i < c->shape[0]; i++) {
        for (int64_t j = 0; j < c->shape[1]; j++) {
            put(&test->out, i, j, test->out.values[i * c->shape[1] + j]);
        }
    }
    if (test->product == FORWARD) {
        op_linear(op, c, &test->left.tensor, &test->right.tensor, test->mode);
    } else if (test->product == BACKWARD_INPUT) {
        op_linear_backward_input(op, c, &test->left.tensor, &test->right.tensor, test->mode);
    } else {
        op_linear_backward_weight(op, c, &test->left.tensor, &test->right.tensor, OP_ADD);
    }
    char what[300];
    snprintf(what, sizeof what, "%s (%s)", test->text, name);
    for (int64_t i = 0; i < c->shape[0]; i++) {
        for (int64_t j = 0; j < c->shape[1]; j++) {
            expect_element(c, i, j, test->expected[op->isa == ISA_AMX][i * c->shape[1] + j], what);
        }
    }
}

static enum layout draw_layout(void) {
    static const enum layout often[] = {PACKED, PACKED, PACKED, PADDED, PADDED, TRANSPOSED, SPARSE};
    return often[draw_below(7)];
}

static void check_formats(enum product product, int64_t rows, int64_t columns, int64_t depth, enum format left,
                          enum format right, enum format out, enum values values) {
    struct product_case test = {.product = product};
    if (product == BACKWARD_WEIGHT) {
        test.left = draw_matrix(left, depth, rows, draw_layout(), values);
        test.right = draw_matrix(right, depth, columns, draw_layout(), values);
    } else {
        test.left = draw_matrix(left, rows, depth, draw_layout(), values);
        test.right = product == FORWARD ? draw_matrix(right, columns, depth, draw_layout(), values)
                                        : draw_matrix(right, depth, columns, draw_layout(), values);
    }
    test.mode = product == BACKWARD_WEIGHT || (out == FORMAT_F32 && draw_below(2) == 0) ? OP_ADD : OP_SET;
    test.out = draw_matrix(out, rows, columns,
                           draw_below(4) == 0   ? SPARSE
                           : draw_below(2) == 0 ? PADDED
                                                : PACKED,
                           values);
    struct side a = side_of(&test.left, product == BACKWARD_WEIGHT ? 1 : 0);
    struct side b = side_of(&test.right, product == FORWARD ? 0 : 1);
    for (int amx = 0; amx < 2; amx++) {
        test.expected[amx] = arena_allocate(&memory, (size_t)(rows * columns), sizeof(float));
        for (int64_t i = 0; i < rows * columns; i++) {
            float before = test.mode == OP_ADD ? test.out.values[i] : 0.0f;
            test.expected[amx][i] = reference(amx ? ISA_AMX : ISA_SCALAR, before, &a, i / columns, &b, i % columns,
                                              depth);
        }
    }
    snprintf(test.text, sizeof test.text, "%s %lldx%lldx%lld %s x %s -> %s, %s, %s values", product_names[product],
             (long long)rows, (long long)columns, (long long)depth, format_info(left)->name, format_info(right)->name,
             format_info(out)->name, test.mode == OP_ADD ? "add" : "set", values == SPECIAL ? "special" : "ordinary");
    for_each_context(run_product, &test);
    arena_reset(&memory);
}

static void check_product(enum product product, int64_t rows, int64_t columns, int64_t depth) {
    enum values values = draw_below(3) == 0 ? SPECIAL : ORDINARY;
    enum format left = draw_below(2) == 0 ? FORMAT_F32 : FORMAT_BF16,
                right = draw_below(2) == 0 ? FORMAT_F32 : FORMAT_BF16;
    enum format out = product == BACKWARD_WEIGHT || draw_below(2) == 0 ? FORMAT_F32 : FORMAT_BF16;
    right = product != BACKWARD_WEIGHT && draw_below(3) == 0 ? FORMAT_E4M3_BLOCK : right;
    check_formats(product, rows, columns, depth, left, right, out, values);
}

static void test_products(void **state) {
    (void)state;
    for (int i = 0; i < 240; i++) {
        int64_t rows = draw_size(300), columns = draw_size(300), most = 1 + 300000 / (rows * columns);
        check_product((enum product)(i % PRODUCTS), rows, columns, draw_size(most < 300 ? most : 300));
    }
}

// Depths beyond one block of k, where chains pass through memory, with every kind of output.
static void test_deep_products(void **state) {
    (void)state;
    static const int64_t depths[] = {511, 512, 513, 1023, 1024, 1025, 1100, 2049, 2561};
    for (int i = 0; i < 54; i++) {
        check_product((enum product)(i % PRODUCTS), i % 2 == 0 ? 1 + draw_below(20) : 1 + draw_below(10),
                      1 + draw_below(40), depths[i / 6]);
    }
}

static void test_many_rows(void **state) {
    (void)state;
    check_product(FORWARD, 1100, 9, 40);
    check_product(FORWARD, 513, 33, 70);
    check_product(BACKWARD_INPUT, 700, 17, 33);
    check_product(BACKWARD_WEIGHT, 520, 40, 21);
    check_product(FORWARD, 5, 2100, 65);
    check_product(BACKWARD_INPUT, 3, 1500, 31);
    check_formats(FORWARD, 515, 5, 2100, FORMAT_BF16, FORMAT_BF16, FORMAT_BF16, ORDINARY);
    check_formats(FORWARD, 520, 3, 1030, FORMAT_F32, FORMAT_F32, FORMAT_BF16, ORDINARY);
    check_formats(FORWARD, 1030, 17, 1101, FORMAT_BF16, FORMAT_BF16, FORMAT_BF16, ORDINARY);
    check_formats(BACKWARD_WEIGHT, 1024, 33, 41, FORMAT_BF16, FORMAT_BF16, FORMAT_F32, SPECIAL);
}

// Short depths, of which a task takes many panels of columns.
static void test_many_columns(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        check_product((enum product)(i % PRODUCTS), 33 + draw_below(30), 1000 + draw_below(300), 1 + draw_below(80));
    }
    check_formats(FORWARD, 40, 1300, 300, FORMAT_BF16, FORMAT_E4M3_BLOCK, FORMAT_BF16, ORDINARY);
    check_formats(BACKWARD_INPUT, 40, 1300, 129, FORMAT_BF16, FORMAT_E4M3_BLOCK, FORMAT_F32, ORDINARY);
}

// Underflow leaves -0 in an accumulator, and the missing partner of a lone last k must not turn it into +0.
static void test_odd_depth_keeps_signed_zero(void **state) {
    (void)state;
    for (int i = 0; i < 60; i++) {
        int64_t rows = i % 2 == 0 ? 1 + draw_below(8) : 9 + draw_below(30);
        check_formats((enum product)(i % PRODUCTS), rows, 1 + draw_below(50), 1 + 2 * draw_below(3), FORMAT_BF16,
                      FORMAT_BF16, FORMAT_F32, SPECIAL);
    }
}

static void test_empty(void **state) {
    (void)state;
    struct op_context op;
    assert_int_equal(op_context_init(&op, ISA_BEST, pools[1], &scratch, NULL), 0);
    float y[6] = {1, 2, 3, 4, 5, 6}, x[1] = {0};
    struct tensor ty = tensor_2d(FORMAT_F32, y, 2, 3), tx = tensor_2d(FORMAT_F32, x, 2, 0),
                  tw = tensor_2d(FORMAT_F32, x, 3, 0);
    op_linear(&op, &ty, &tx, &tw, OP_ADD);
    assert_true(y[0] == 1 && y[5] == 6);
    op_linear(&op, &ty, &tx, &tw, OP_SET);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(float_bits(y[i]), 0);
    }
    struct tensor no_y = tensor_2d(FORMAT_F32, NULL, 0, 3), no_x = tensor_2d(FORMAT_F32, NULL, 0, 4);
    struct tensor wide = tensor_2d(FORMAT_F32, NULL, 3, 4);
    op_linear(&op, &no_y, &no_x, &wide, OP_SET);
    struct tensor dw = tensor_2d(FORMAT_F32, y, 3, 1), dy = tensor_2d(FORMAT_F32, NULL, 0, 3);
    struct tensor rows = tensor_2d(FORMAT_F32, NULL, 0, 1);
    y[0] = 7;
    op_linear_backward_weight(&op, &dw, &dy, &rows, OP_ADD);
    assert_true(y[0] == 7);
    op_linear_grouped(&op, &no_y, &no_x, &wide, (int32_t[]){0}, 0);
    assert_int_equal(scratch.used, 0);
}

// The reference itself, against double precision within the bound of a chain of roundings.
static void test_rounding_bound(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        int64_t depth = 1 + draw_below(700);
        enum format format = i % 2 == 0 ? FORMAT_BF16 : FORMAT_F32;
        struct matrix x = draw_matrix(format, 5, depth, PACKED, ORDINARY),
                      w = draw_matrix(format, 40, depth, PACKED, ORDINARY);
        struct matrix y = draw_matrix(FORMAT_F32, 5, 40, PACKED, ORDINARY);
        struct op_context op;
        assert_int_equal(op_context_init(&op, ISA_BEST, pools[0], &scratch, NULL), 0);
        op_linear(&op, &y.tensor, &x.tensor, &w.tensor, OP_SET);
        for (int64_t m = 0; m < 5; m++) {
            for (int64_t n = 0; n < 40; n++) {
                double sum = 0, size = 0;
                for (int64_t k = 0; k < depth; k++) {
                    double term = (double)x.values[m * depth + k] * (double)w.values[n * depth + k];
                    sum += term;
                    size += fabs(term);
                }
                double found = (double)((const float *)y.tensor.data)[m * 40 + n];
                assert_true(fabs(found - sum) <= 0x1p-24 * (double)depth * size + 1e-30);
            }
        }
        arena_reset(&memory);
    }
}

// Rows of y in several calls, and rows of a weight gradient in several calls, give the bits of one call; with AMX,
// these if they end with whole blocks.
static void check_splits(enum isa isa) {
    for (int i = 0; i < 12; i++) {
        enum format format = i % 2 == 0 ? FORMAT_BF16 : FORMAT_F32;
        int64_t rows = 50 + draw_below(100), n = draw_size(100), k = draw_size(150);
        struct matrix x = draw_matrix(format, rows, k, PACKED, i % 3 == 0 ? SPECIAL : ORDINARY);
        struct matrix w = draw_matrix(i % 4 == 2 ? FORMAT_E4M3_BLOCK : format, n, k, PACKED, ORDINARY);
        struct matrix dy = draw_matrix(format, rows, n, PACKED, ORDINARY);
        struct matrix y = draw_matrix(FORMAT_F32, rows, n, PACKED, ORDINARY),
                      dw = draw_matrix(FORMAT_F32, n, k, PACKED, ORDINARY);
        struct matrix y_cut = draw_matrix(FORMAT_F32, rows, n, PACKED, ORDINARY);
        struct matrix dw_cut = draw_matrix(FORMAT_F32, n, k, PACKED, ORDINARY);
        memcpy(dw_cut.tensor.data, dw.tensor.data, (size_t)(n * k) * sizeof(float));
        struct op_context op;
        assert_int_equal(op_context_init(&op, isa, pools[i % THREAD_COUNTS], &scratch, NULL), 0);
        op_linear(&op, &y.tensor, &x.tensor, &w.tensor, OP_SET);
        op_linear_backward_weight(&op, &dw.tensor, &dy.tensor, &x.tensor, OP_ADD);
        for (int64_t begin = 0, count; begin < rows; begin += count) {
            count = 1 + draw_below(17);
            count = count < rows - begin ? count : rows - begin;
            struct tensor part_x = tensor_slice(&x.tensor, 0, begin, count),
                          part_y = tensor_slice(&y_cut.tensor, 0, begin, count);
            op_linear(&op, &part_y, &part_x, &w.tensor, OP_SET);
        }
        for (int64_t begin = 0, count; begin < rows; begin += count) {
            count = isa == ISA_AMX ? LINEAR_BLOCK * (1 + draw_below(2)) : 1 + draw_below(17);
            count = count < rows - begin ? count : rows - begin;
            struct tensor part_x = tensor_slice(&x.tensor, 0, begin, count),
                          part_dy = tensor_slice(&dy.tensor, 0, begin, count);
            op_linear_backward_weight(&op, &dw_cut.tensor, &part_dy, &part_x, OP_ADD);
        }
        for (int64_t j = 0; j < rows * n; j++) {
            expect_element(&y_cut.tensor, j / n, j % n, ((const float *)y.tensor.data)[j], "rows in several calls");
        }
        for (int64_t j = 0; j < n * k; j++) {
            expect_element(&dw_cut.tensor, j / k, j % k, ((const float *)dw.tensor.data)[j],
                           "weight gradient in several calls");
        }
        arena_reset(&memory);
    }
}

static void test_splits(void **state) {
    (void)state;
    check_splits(ISA_BEST);
    if (isa_available(ISA_AMX)) {
        check_splits(ISA_AMX);
    }
}

// Every tail of k, of rows and of columns, where AMX has ways of its own.
static void test_block_tails(void **state) {
    (void)state;
    if (!isa_available(ISA_AMX)) {
        print_message("skipped: no AMX (%s)\n", cpu_amx_missing());
        skip();
    }
    for (int i = 1; i <= 70; i++) {
        enum product product = (enum product)(i % PRODUCTS);
        enum values values = i % 2 == 0 ? SPECIAL : ORDINARY;
        enum format right = product != BACKWARD_WEIGHT && draw_below(2) == 0 ? FORMAT_E4M3_BLOCK : FORMAT_BF16;
        enum format out = product == BACKWARD_WEIGHT || draw_below(2) == 0 ? FORMAT_F32 : FORMAT_BF16;
        check_formats(product, 1 + draw_below(40), 1 + draw_below(70), i, FORMAT_BF16, right, out, values);
        check_formats(FORWARD, 1 + draw_below(40), 1 + draw_below(70), 64 + i, FORMAT_BF16, right, out, values);
        check_formats(FORWARD, i, 1 + draw_below(70), 1 + draw_below(300), FORMAT_BF16, right, out, values);
        check_formats(FORWARD, 1 + draw_below(40), i, 1 + draw_below(300), FORMAT_BF16, right, out, values);
    }
}

// ---- Groups and heads -----------------------------------------------------------------------------------------------

#define GROUPS 9
struct grouped_case {
    struct matrix x, dy, y, dx, weights[GROUPS], gradients[GROUPS];
    int32_t offsets[GROUPS + 1];
    enum op_mode mode;   // of the gradients
};

static void run_grouped(struct op_context *op, const char *name, void *argument) {
    struct grouped_case *test = argument;
    struct tensor w[GROUPS], dw[GROUPS];
    int64_t n = test->y.tensor.shape[1], k = test->x.tensor.shape[1];
    for (int g = 0; g < GROUPS; g++) {
        w[g] = test->weights[g].tensor;
        dw[g] = test->gradients[g].tensor;
        memcpy(dw[g].data, test->gradients[g].values, (size_t)(n * k) * sizeof(float));
    }
    op_linear_grouped(op, &test->y.tensor, &test->x.tensor, w, test->offsets, GROUPS);
    op_linear_grouped_backward_input(op, &test->dx.tensor, &test->dy.tensor, w, test->offsets, GROUPS);
    op_linear_grouped_backward_weight(op, dw, &test->dy.tensor, &test->x.tensor, test->offsets, GROUPS, test->mode);
    struct side x = side_of(&test->x, 0), dy = side_of(&test->dy, 0);
    for (int g = 0; g < GROUPS; g++) {
        struct side w_rows = side_of(&test->weights[g], 0), w_columns = side_of(&test->weights[g], 1);
        for (int64_t row = test->offsets[g]; row < test->offsets[g + 1]; row++) {
            for (int64_t j = 0; j < n; j++) {
                expect_element(&test->y.tensor, row, j, reference(op->isa, 0.0f, &x, row, &w_rows, j, k), name);
            }
            for (int64_t j = 0; j < k; j++) {
                expect_element(&test->dx.tensor, row, j, reference(op->isa, 0.0f, &dy, row, &w_columns, j, n), name);
            }
        }
        struct side left = side_of(&test->dy, 1), right = side_of(&test->x, 1);
        left.values += test->offsets[g] * n;
        right.values += test->offsets[g] * k;
        int64_t rows = test->offsets[g + 1] - test->offsets[g];
        for (int64_t i = 0; i < n * k; i++) {
            float before = test->mode == OP_ADD ? test->gradients[g].values[i] : 0.0f;
            float expected = reference(op->isa, before, &left, i / k, &right, i % k, rows);
            expect_element(&dw[g], i / k, i % k, expected, name);
        }
    }
}

static void test_grouped(void **state) {
    (void)state;
    static const int32_t sizes[GROUPS] = {0, 1, 8, 9, 0, 30, 2, 15, 1};
    for (int i = 0; i < 6; i++) {
        enum format activation = i % 3 == 0 ? FORMAT_F32 : FORMAT_BF16;
        enum format weight = i % 3 == 2 ? FORMAT_E4M3_BLOCK : i == 3 ? FORMAT_BF16 : activation;
        int64_t n = i < 3 ? 70 : draw_size(140), k = i < 3 ? 33 : draw_size(140);
        struct grouped_case test = {.offsets = {0}, .mode = i < 3 ? OP_ADD : OP_SET};
        for (int g = 0; g < GROUPS; g++) {
            test.offsets[g + 1] = test.offsets[g] + sizes[(g + i) % GROUPS];
            test.weights[g] = draw_matrix(weight, n, k, PACKED, ORDINARY);
            test.gradients[g] = draw_matrix(FORMAT_F32, n, k, PACKED, ORDINARY);
        }
        int64_t rows = test.offsets[GROUPS];
        test.x = draw_matrix(activation, rows, k, PADDED, ORDINARY);
        test.dy = draw_matrix(activation, rows, n, PACKED, ORDINARY);
        test.y = draw_matrix(i % 2 == 0 ? FORMAT_BF16 : FORMAT_F32, rows, n, PACKED, ORDINARY);
        test.dx = draw_matrix(i % 2 == 0 ? FORMAT_F32 : FORMAT_BF16, rows, k, PADDED, ORDINARY);
        for_each_context(run_grouped, &test);
        arena_reset(&memory);
    }
}

struct heads_case {
    struct matrix x, w, y;   // x [T, H * k], w [H * n, k] or, transposed in each head, [H * k, n], y [T, H * n]
    int64_t heads;
    bool transposed;
};

static void run_heads(struct op_context *op, const char *name, void *argument) {
    struct heads_case *test = argument;
    int64_t heads = test->heads, n = test->y.tensor.shape[1] / heads, k = test->x.tensor.shape[1] / heads;
    struct tensor x = tensor_split_columns(&test->x.tensor, heads), y = tensor_split_columns(&test->y.tensor, heads);
    struct tensor w = tensor_reshape(&test->w.tensor, 3,
                                     test->transposed ? (int64_t[]){heads, k, n} : (int64_t[]){heads, n, k});
    if (test->transposed) {
        w = tensor_transpose(&w, 1, 2);
    }
    op_linear_heads(op, &y, &x, &w);
    for (int64_t t = 0; t < x.shape[0]; t++) {
        for (int64_t head = 0; head < heads; head++) {
            enum format format = (enum format)x.format;
            struct side a = {
                .values = test->x.values + head * k, .row_stride = heads * k, .k_stride = 1, .format = format};
            struct side b = {.values = test->w.values + head * n * k,
                             .row_stride = test->transposed ? 1 : k,
                             .k_stride = test->transposed ? n : 1,
                             .format = format};
            for (int64_t j = 0; j < n; j++) {
                expect_element(&test->y.tensor, t, head * n + j, reference(op->isa, 0.0f, &a, t, &b, j, k), name);
            }
        }
    }
}

static void test_heads(void **state) {
    (void)state;
    for (int i = 0; i < 8; i++) {
        struct heads_case test = {.heads = 1 + draw_below(6), .transposed = i % 2 == 1};
        int64_t tokens = i < 4 ? 1 + draw_below(4) : 9 + draw_below(40), n = draw_size(140), k = draw_size(140);
        enum format format = i % 4 < 2 ? FORMAT_BF16 : FORMAT_F32;
        test.x = draw_matrix(format, tokens, test.heads * k, PADDED, ORDINARY);
        test.w = draw_matrix(format, test.heads * (test.transposed ? k : n), test.transposed ? n : k, PACKED, ORDINARY);
        test.y = draw_matrix(format, tokens, test.heads * n, PACKED, ORDINARY);
        for_each_context(run_heads, &test);
        arena_reset(&memory);
    }
}

static void test_context(void **state) {
    (void)state;
    struct op_context op;
    struct error error = {0};
    assert_int_equal(op_context_init(&op, ISA_BEST, NULL, &scratch, &error), 0);
    assert_int_equal(op.isa, cpu_isa_best());
    assert_ptr_equal(op.kernels, cpu_kernels_get(op.isa));
    assert_int_equal(op_context_init(&op, ISA_SCALAR, NULL, &scratch, &error), 0);
    assert_int_equal(op.kernels->isa, ISA_SCALAR);
    assert_string_equal(isa_name(op.isa), "scalar");
    assert_int_equal(op_context_init(&op, (enum isa)17, NULL, &scratch, &error), ERROR_ARGUMENT);
    if (cpu_isa_best() < ISA_AVX512) {
        error_clear(&error);
        assert_int_equal(op_context_init(&op, ISA_AVX512, NULL, &scratch, &error), ERROR_ARGUMENT);
        assert_non_null(strstr(error.text, "avx512"));
    }
}

static int setup(void **state) {
    (void)state;
    arena_init(&scratch, "scratch");
    arena_init(&memory, "test data");
    for (int i = 0; i < THREAD_COUNTS; i++) {
        if (pool_create(&pools[i], thread_counts[i], NULL) != 0) {
            return -1;
        }
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int i = 0; i < THREAD_COUNTS; i++) {
        pool_destroy(pools[i]);
    }
    arena_destroy(&memory);
    arena_destroy(&scratch);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_deep_products),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_many_columns),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_rounding_bound),
        cmocka_unit_test(test_grouped),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_odd_depth_keeps_signed_zero),
        cmocka_unit_test(test_block_tails),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
