// Products with int8 and int4 weights: every instruction set and number of threads, one row or many, grouped or not,
// against the plain loop of op/ops.h (one chain of codes per group, promoted with the group's scale), bit by bit; and
// the error against unrounded weights, which docs/numerics.md states.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "op/cpu/kernels.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"

#define GROUPS 3

static uint64_t draws;

static int64_t draw(int64_t bound) {
    return (int64_t)rng_below(41, 3, draws++, (uint64_t)bound);
}

static int64_t draw_size(int64_t limit) {
    static const int64_t edges[] = {1,  2,  7,  8,  9,   15,  16,  17,  31,  32, 33,
                                    48, 63, 64, 65, 127, 128, 129, 255, 257, 300};
    int64_t size = edges[draw((int64_t)(sizeof edges / sizeof edges[0]))];
    return size <= limit ? size : 1 + draw(limit);
}

static struct tensor int_new(enum format format, const struct tensor *source) {
    struct tensor tensor = tensor_2d(format, NULL, source->shape[0], source->shape[1]);
    tensor.data = array_new(int_bytes(&tensor), 1);
    for (int64_t tile = 0; tile < int_tiles(&tensor); tile++) {
        int_quantize(&tensor, source, tile);
    }
    return tensor;
}

// Weights with groups of very different sizes, some zero, one NaN.
static struct tensor draw_weight(enum format format, int64_t rows, int64_t columns, bool special) {
    struct tensor source = tensor_new_2d(FORMAT_F32, rows, columns);
    float *values = source.data;
    for (int64_t i = 0; i < rows * columns; i++) {
        values[i] = (float)rng_normal(5, 11, draws++) * ldexpf(1.0f, (int)(i / 32 % 7) - 5);
        values[i] = special && i / 32 % 5 == 2 ? values[i] * 0x1p-90f : values[i];   // sums that underflow
        values[i] = special && i / 32 % 11 == 4 ? 0.0f : values[i];
    }
    if (special) {
        values[draw(rows * columns)] = NAN;
    }
    struct tensor weight = int_new(format, &source);
    tensor_free(&source);
    return weight;
}

struct product_case {
    struct tensor c, start, x, w[GROUPS];
    int32_t offsets[GROUPS + 1];
    float *expected;
    enum op_mode mode;
    bool grouped;
};

static void define(struct product_case *test) {
    const int64_t columns = test->c.shape[1], depth = test->x.shape[1], group = int_group(test->w[0].format);
    const char *x = test->x.data;
    for (int64_t row = 0, owner = 0; row < test->c.shape[0]; row++) {
        while (test->grouped && row >= test->offsets[owner + 1]) {
            owner++;
        }
        const struct tensor *w = &test->w[owner];
        for (int64_t column = 0; column < columns; column++) {
            float total = test->mode == OP_ADD ? element_get(&test->start, row * columns + column) : 0.0f;
            for (int64_t begin = 0; begin < depth; begin += group) {
                float sum = 0.0f;
                for (int64_t k = begin; k < depth && k < begin + group; k++) {
                    float value;
                    int64_t at = row * test->x.stride[0] + k;
                    if (test->x.format == FORMAT_F32) {
                        memcpy(&value, x + 4 * at, sizeof value);
                    } else {
                        uint16_t bits;
                        memcpy(&bits, x + 2 * at, sizeof bits);
                        value = bf16_widen(bits);
                    }
                    sum = fmaf(value, (float)int_code(w, column, k), sum);
                }
                total = fmaf(sum, int_scale(w, column, begin), total);
            }
            test->expected[row * columns + column] = total;
        }
    }
}

static void run_case(struct product_case *test, struct op_context *op, const char *name) {
    memcpy(test->c.data, test->start.data, (size_t)tensor_bytes(&test->c));
    if (test->grouped) {
        op_linear_grouped(op, &test->c, &test->x, test->w, test->offsets, GROUPS);
    } else {
        op_linear(op, &test->c, &test->x, &test->w[0], test->mode);
    }
    for (int64_t i = 0; i < tensor_elements(&test->c); i++) {
        float expected = test->c.format == FORMAT_BF16 ? bf16_widen(bf16_narrow(test->expected[i])) : test->expected[i];
        float found = element_get(&test->c, i);
        if (!same_floats(&found, &expected, 1)) {
            fail_msg("%s: %lld x %lld x %lld, x %s, w %s: element %lld is %a, expected %a", name,
                     (long long)test->c.shape[0], (long long)test->c.shape[1], (long long)test->x.shape[1],
                     format_info(test->x.format)->name, format_info(test->w[0].format)->name, (long long)i,
                     (double)found, (double)expected);
        }
    }
}

static void run_everywhere(struct product_case *test) {
    static const int threads[] = {1, 3};
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        for (size_t t = 0; t < 2 && isa_available(isa); t++) {
            struct op_fixture fixture;
            char name[64];
            snprintf(name, sizeof name, "%s, %d threads", isa_name(isa), threads[t]);
            op_fixture_open(&fixture, isa, threads[t]);
            if (isa == ISA_SCALAR && t == 0) {
                define(test);   // here, because the fixture sets flush to zero
            }
            run_case(test, &fixture.op, name);
            struct cpu_kernels other;
            if (op_other_pairs(&fixture.op, &other)) {
                run_case(test, &fixture.op, name);
            }
            assert_int_equal(fixture.arena.used, 0);
            op_fixture_close(&fixture);
        }
    }
}

static void check_product(enum format format, int64_t rows, int64_t columns, int64_t depth, bool grouped,
                          bool special) {
    struct product_case test = {.grouped = grouped, .mode = !grouped && draw(3) == 0 ? OP_ADD : OP_SET};
    enum format c = test.mode == OP_ADD || draw(2) == 0 ? FORMAT_F32 : FORMAT_BF16;
    int64_t gap = draw(2) * 5;
    struct tensor whole = tensor_new_2d(draw(3) == 0 ? FORMAT_F32 : FORMAT_BF16, rows, depth + gap);
    test.c = tensor_new_2d(c, rows, columns);
    test.expected = array_new(rows * columns, sizeof(float));
    if (special) {
        fill_edges(&whole, 1.0f, draws++, 400);
    } else {
        fill_uniform(&whole, 1.0f, draws++);
    }
    fill_uniform(&test.c, 1.0f, draws++);
    test.start = tensor_clone(&test.c);
    test.x = tensor_slice(&whole, 1, 0, depth);
    for (int64_t g = 0; g < GROUPS; g++) {
        test.w[g] = draw_weight(format, columns, depth, special);
    }
    test.offsets[1] = (int32_t)draw(rows + 1);
    test.offsets[2] = test.offsets[1] + (int32_t)draw(rows - test.offsets[1] + 1);
    test.offsets[3] = (int32_t)rows;
    run_everywhere(&test);
    for (int64_t g = 0; g < GROUPS; g++) {
        tensor_free(&test.w[g]);
    }
    tensor_free(&whole);
    tensor_free(&test.c);
    tensor_free(&test.start);
    memory_free(test.expected);
}

static void test_few_rows(void **state) {
    (void)state;
    for (int64_t rows = 1; rows <= 9; rows++) {
        for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
            const int64_t columns = rows <= 2 ? 300 : 80;   // the fewer rows, the more columns at a time
            check_product(format, rows, draw_size(columns), draw_size(300), false, false);
            check_product(format, rows, draw_size(columns), draw_size(300), true, false);
            check_product(format, rows, draw_size(40), draw_size(300), rows % 2 == 0, true);
        }
    }
}

static void test_many_rows(void **state) {
    (void)state;
    for (int round = 0; round < 6; round++) {
        for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
            check_product(format, 10 + draw(60), draw_size(130), draw_size(300), round % 2 == 0, round % 3 == 2);
        }
    }
}

// Deeper than one block of k of the driver, and taller than a piece of rows.
static void test_deep_and_tall(void **state) {
    (void)state;
    for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
        check_product(format, 1, 33, 4133, false, false);
        check_product(format, 17, 33, 4133, false, false);
        check_product(format, 530, 33, 70, false, false);
        check_product(format, 530, 17, 70, true, false);
    }
}

// The promise of batching, with one check that does not go through the definition above.
static void test_rows_alone_or_together(void **state) {
    (void)state;
    struct op_fixture fixture;
    op_fixture_open(&fixture, ISA_BEST, 2);
    for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
        const int64_t rows = 40, columns = 96, depth = 320;
        struct tensor x = tensor_new_2d(FORMAT_BF16, rows, depth), w = draw_weight(format, columns, depth, false);
        struct tensor together = tensor_new_2d(FORMAT_F32, rows, columns), alone = tensor_clone(&together);
        fill_uniform(&x, 1.0f, draws++);
        op_linear(&fixture.op, &together, &x, &w, OP_SET);
        for (int64_t row = 0; row < rows; row++) {
            struct tensor one = tensor_slice(&x, 0, row, 1), y = tensor_slice(&alone, 0, row, 1);
            op_linear(&fixture.op, &y, &one, &w, OP_SET);
        }
        assert_memory_equal(together.data, alone.data, (size_t)tensor_bytes(&together));
        tensor_free(&x);
        tensor_free(&w);
        tensor_free(&together);
        tensor_free(&alone);
    }
    op_fixture_close(&fixture);
}

// Relative RMS error of a product with normally distributed weights and inputs: docs/numerics.md, "Integer weights".
static void test_error_of_a_product(void **state) {
    (void)state;
    const int64_t rows = 16, columns = 128, depth = 1024;
    const double least[] = {0.004, 0.06}, most[] = {0.0075, 0.085};
    struct op_fixture fixture;
    op_fixture_open(&fixture, ISA_BEST, 1);
    struct tensor x = tensor_new_2d(FORMAT_F32, rows, depth), w = tensor_new_2d(FORMAT_F32, columns, depth);
    for (int64_t i = 0; i < tensor_elements(&x); i++) {
        element_set(&x, i, (float)rng_normal(1, 1, (uint64_t)i));
    }
    for (int64_t i = 0; i < tensor_elements(&w); i++) {
        element_set(&w, i, 0.02f * (float)rng_normal(1, 2, (uint64_t)i));
    }
    struct tensor exact = tensor_new_2d(FORMAT_F32, rows, columns), y = tensor_clone(&exact);
    op_linear(&fixture.op, &exact, &x, &w, OP_SET);
    for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
        struct tensor integers = int_new(format, &w);
        op_linear(&fixture.op, &y, &x, &integers, OP_SET);
        double error = 0, size = 0;
        for (int64_t i = 0; i < tensor_elements(&y); i++) {
            double difference = (double)element_get(&y, i) - (double)element_get(&exact, i);
            error += difference * difference;
            size += (double)element_get(&exact, i) * (double)element_get(&exact, i);
        }
        double relative = sqrt(error / size);
        print_message("%s: relative RMS error of a product %.4f\n", format_info(format)->name, relative);
        assert_true(relative > least[format - FORMAT_INT8] && relative < most[format - FORMAT_INT8]);
        tensor_free(&integers);
    }
    tensor_free(&x);
    tensor_free(&w);
    tensor_free(&exact);
    tensor_free(&y);
    op_fixture_close(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_rows),           cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_deep_and_tall),      cmocka_unit_test(test_rows_alone_or_together),
        cmocka_unit_test(test_error_of_a_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
