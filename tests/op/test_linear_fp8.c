// Products of E4M3 operands on both sides, as training in FP8 needs them: every instruction set and number of threads
// against the plain loop of spec 6.3 (one chain of widened codes per 128 of the sum, promoted with the product of the
// two scales; with AMX, the chain is in blocks), bit by bit; any NaN equals any NaN.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "op/cpu/kernels.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

static uint64_t draws;

static int64_t draw(int64_t bound) {
    return (int64_t)rng_below(31, 7, draws++, (uint64_t)bound);
}

// Codes of all kinds (NaN rare, so that finite outputs are left) with `scale_rows` rows of scales.
static struct tensor draw_codes(enum format format, int64_t rows, int64_t columns, int64_t scale_rows, bool special) {
    struct tensor tensor = tensor_new_2d(format, rows, columns);
    uint8_t *codes = tensor.data;
    for (int64_t i = 0; i < rows * columns; i++) {
        codes[i] = (uint8_t)draw(256);
        if ((codes[i] & 0x7f) == 0x7f && (!special || draw(40) != 0)) {
            codes[i] = 0x80;
        }
    }
    int64_t count = scale_rows * tensor.scale_stride;
    tensor.scale = array_new(count, sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        int shift = special && draw(10) == 0 ? 60 : 0;   // products of scales that underflow, and sums that do
        tensor.scale[i] = ldexpf(1.0f + (float)draw(1000) * 1e-3f, (int)draw(9) - 12 - shift);
    }
    return tensor;
}

static void codes_free(struct tensor *tensor) {
    memory_free(tensor->scale);
    tensor_free(tensor);
}

static float code_at(const struct tensor *tensor, int64_t row, int64_t column) {
    return e4m3_widen(((const uint8_t *)tensor->data)[row * tensor->shape[1] + column]);
}

// Rows [begin, begin + depth) of a and b are summed when `columns`, whose tiles start with tile `tile`; else columns of
// a, and rows of b when `down`.
struct definition {
    const struct tensor *a, *b;
    int64_t begin, depth, tile;
    bool columns, down;
};

static float define(enum isa isa, const struct definition *d, float total, int64_t i, int64_t j) {
    const struct tensor *a = d->a, *b = d->b;
    for (int64_t block = 0; block * 128 < d->depth; block++) {
        float lefts[128], rights[128], sum = 0.0f, scale;
        int64_t count = d->depth - block * 128 < 128 ? d->depth - block * 128 : 128;
        for (int64_t n = 0; n < count; n++) {
            int64_t k = block * 128 + n;
            lefts[n] = d->columns ? code_at(a, d->begin + k, i) : code_at(a, i, k);
            rights[n] = d->columns ? code_at(b, d->begin + k, j) : d->down ? code_at(b, k, j) : code_at(b, j, k);
            sum = fmaf(lefts[n], rights[n], sum);
        }
        sum = isa == ISA_AMX ? linear_block_chain(0.0f, lefts, 1, rights, 1, count) : sum;
        if (d->columns) {
            scale = a->scale[(d->tile + block) * a->shape[1] + i] * b->scale[(d->tile + block) * b->shape[1] + j];
        } else {
            int64_t down = d->down ? block : j / 128, across = d->down ? j / 128 : block;
            scale = a->scale[i * a->scale_stride + block] * b->scale[down * b->scale_stride + across];
        }
        scale = fabsf(scale) < 0x1p-126f ? 0.0f : scale;   // flushed
        total = fmaf(sum, scale, total);
        total = fabsf(total) < 0x1p-126f ? copysignf(0.0f, total) : total;
    }
    return total;
}

enum product { FORWARD, INPUT, WEIGHT };
struct product_case {
    struct tensor c, start, a, b;
    enum op_mode mode;
    enum product product;
    float *expected[2];   // of AMX in the second
};

static void run_case(struct product_case *test, struct op_context *op, const char *name) {
    memcpy(test->c.data, test->start.data, (size_t)tensor_bytes(&test->c));
    if (test->product == FORWARD) {
        op_linear(op, &test->c, &test->a, &test->b, test->mode);
    } else if (test->product == INPUT) {
        op_linear_backward_input(op, &test->c, &test->a, &test->b, test->mode);
    } else {
        op_linear_backward_weight(op, &test->c, &test->a, &test->b, OP_ADD);
    }
    for (int64_t i = 0; i < tensor_elements(&test->c); i++) {
        float expected = test->expected[op->isa == ISA_AMX][i], found = element_get(&test->c, i);
        expected = test->c.format == FORMAT_BF16 ? bf16_widen(bf16_narrow(expected)) : expected;
        if (!same_floats(&found, &expected, 1)) {
            fail_msg("%s: element %lld is %a, expected %a", name, (long long)i, (double)found, (double)expected);
        }
    }
}

static void everywhere(void (*run)(struct op_context *op, const char *name, void *argument), void *argument) {
    static const int threads[] = {1, 3};
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        for (size_t t = 0; t < 2 && isa_available(isa); t++) {
            struct op_fixture fixture;
            char name[64];
            snprintf(name, sizeof name, "%s, %d threads", isa_name(isa), threads[t]);
            op_fixture_open(&fixture, isa, threads[t]);
            run(&fixture.op, name, argument);
            struct cpu_kernels other;
            if (op_other_pairs(&fixture.op, &other)) {
                run(&fixture.op, name, argument);
            }
            assert_int_equal(fixture.arena.used, 0);
            op_fixture_close(&fixture);
        }
    }
}

static void run_product(struct op_context *op, const char *name, void *argument) {
    run_case(argument, op, name);
}

static void check_product(enum product product, int64_t rows, int64_t columns, int64_t depth, bool special) {
    struct product_case test = {.product = product, .mode = product == WEIGHT || draw(2) == 0 ? OP_ADD : OP_SET};
    enum format format = test.mode == OP_SET && draw(2) == 0 ? FORMAT_BF16 : FORMAT_F32;
    int64_t tiles = (depth + 127) / 128;
    if (product == WEIGHT) {
        test.a = draw_codes(FORMAT_E4M3_COLUMN, depth, rows, tiles, special);
        test.b = draw_codes(FORMAT_E4M3_COLUMN, depth, columns, tiles, special);
    } else {
        test.a = draw_codes(FORMAT_E4M3_TILE, rows, depth, rows, special);
        test.b = product == FORWARD ? draw_codes(FORMAT_E4M3_BLOCK, columns, depth, (columns + 127) / 128, special)
                                    : draw_codes(FORMAT_E4M3_BLOCK, depth, columns, tiles, special);
    }
    test.start = tensor_new_2d(format, rows, columns);
    fill_uniform(&test.start, 10.0f, draws++);
    test.c = tensor_clone(&test.start);
    struct definition d = {&test.a, &test.b, 0, depth, 0, product == WEIGHT, product == INPUT};
    for (int amx = 0; amx < 2; amx++) {
        test.expected[amx] = array_new(rows * columns, sizeof(float));
        for (int64_t i = 0; i < rows * columns; i++) {
            float start = test.mode == OP_ADD ? element_get(&test.start, i) : 0.0f;
            test.expected[amx][i] = define(amx ? ISA_AMX : ISA_SCALAR, &d, start, i / columns, i % columns);
        }
    }
    everywhere(run_product, &test);
    memory_free(test.expected[0]);
    memory_free(test.expected[1]);
    tensor_free(&test.c);
    tensor_free(&test.start);
    codes_free(&test.a);
    codes_free(&test.b);
}

static void test_products(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 7, 9, 15, 17, 31, 33, 64, 127, 129, 140},
                         depths[] = {1, 2, 127, 128, 129, 255, 257, 300};
    for (int i = 0; i < 90; i++) {
        check_product((enum product)(i % 3), sizes[draw(12)], sizes[draw(12)], depths[draw(8)], i % 2 == 1);
    }
    for (int i = 0; i < 12; i++) {   // beyond one block of k of the driver
        check_product((enum product)(i % 3), 1 + draw(16), 1 + draw(70), 1000 + draw(1200), i % 2 == 1);
    }
    check_product(FORWARD, 530, 40, 140, false);
    check_product(WEIGHT, 530, 40, 140, false);
}

// Two calls whose first ends with a whole tile give the bits of one.
static void test_weight_continues(void **state) {
    (void)state;
    struct op_fixture fixture;
    op_fixture_open(&fixture, ISA_BEST, 2);
    struct tensor dy = draw_codes(FORMAT_E4M3_COLUMN, 300, 40, 3, false),
                  x = draw_codes(FORMAT_E4M3_COLUMN, 300, 50, 3, false);
    struct tensor one = tensor_new_2d(FORMAT_F32, 40, 50), two = tensor_new_2d(FORMAT_F32, 40, 50);
    op_linear_backward_weight(&fixture.op, &one, &dy, &x, OP_ADD);
    struct tensor dy0 = tensor_slice(&dy, 0, 0, 128), x0 = tensor_slice(&x, 0, 0, 128);
    struct tensor dy1 = tensor_slice(&dy, 0, 128, 172), x1 = tensor_slice(&x, 0, 128, 172);
    op_linear_backward_weight(&fixture.op, &two, &dy0, &x0, OP_ADD);
    op_linear_backward_weight(&fixture.op, &two, &dy1, &x1, OP_ADD);
    assert_true(same_bits(&one, &two));
    tensor_free(&one);
    tensor_free(&two);
    codes_free(&dy);
    codes_free(&x);
    op_fixture_close(&fixture);
}

#define GROUPS 5
struct grouped_case {
    int32_t offsets[GROUPS + 1];
    struct tensor x, dy, x_columns, dy_columns, w[GROUPS];
    struct tensor y, dx, dw[GROUPS];
};

static void run_grouped(struct op_context *op, const char *name, void *argument) {
    struct grouped_case *test = argument;
    const struct tensor *w = test->w;
    op_linear_grouped(op, &test->y, &test->x, w, test->offsets, GROUPS);
    op_linear_grouped_backward_input(op, &test->dx, &test->dy, w, test->offsets, GROUPS);
    for (int g = 0; g < GROUPS; g++) {
        memset(test->dw[g].data, 0xff, (size_t)tensor_bytes(&test->dw[g]));
    }
    op_linear_grouped_backward_weight(op, test->dw, &test->dy_columns, &test->x_columns, test->offsets, GROUPS, OP_SET);
    for (int g = 0; g < GROUPS; g++) {
        int64_t n = w[g].shape[0], k = w[g].shape[1], rows = test->offsets[g + 1] - test->offsets[g];
        struct definition forward = {&test->x, &w[g], 0, k, 0, false, false},
                          input = {&test->dy, &w[g], 0, n, 0, false, true};
        struct definition weight = {&test->dy_columns,
                                    &test->x_columns,
                                    test->offsets[g],
                                    rows,
                                    op_column_tiles(test->offsets, g),
                                    true,
                                    false};
        for (int64_t i = test->offsets[g]; i < test->offsets[g + 1]; i++) {
            for (int64_t j = 0; j < n; j++) {
                float expected = define(op->isa, &forward, 0.0f, i, j), found = element_get(&test->y, i * n + j);
                if (!same_floats(&expected, &found, 1)) {
                    fail_msg("%s: y (%lld, %lld)", name, (long long)i, (long long)j);
                }
            }
            for (int64_t j = 0; j < k; j++) {
                float expected = define(op->isa, &input, 0.0f, i, j), found = element_get(&test->dx, i * k + j);
                if (!same_floats(&expected, &found, 1)) {
                    fail_msg("%s: dx (%lld, %lld)", name, (long long)i, (long long)j);
                }
            }
        }
        for (int64_t i = 0; i < n * k; i++) {
            float expected = define(op->isa, &weight, 0.0f, i / k, i % k), found = element_get(&test->dw[g], i);
            if (!same_floats(&expected, &found, 1)) {
                fail_msg("%s: dw of group %d", name, g);
            }
        }
    }
}

static void test_grouped(void **state) {
    (void)state;
    enum { N = 70, K = 141, ROWS = 175 };
    struct grouped_case test = {.offsets = {0, 0, 5, 138, 139, ROWS}};
    int64_t tiles = op_column_tiles(test.offsets, GROUPS);
    assert_int_equal(tiles, 5);
    test.x = draw_codes(FORMAT_E4M3_TILE, ROWS, K, ROWS, false);
    test.dy = draw_codes(FORMAT_E4M3_TILE, ROWS, N, ROWS, false);
    test.x_columns = draw_codes(FORMAT_E4M3_COLUMN, ROWS, K, tiles, false);
    test.dy_columns = draw_codes(FORMAT_E4M3_COLUMN, ROWS, N, tiles, false);
    test.y = tensor_new_2d(FORMAT_F32, ROWS, N);
    test.dx = tensor_new_2d(FORMAT_F32, ROWS, K);
    for (int g = 0; g < GROUPS; g++) {
        test.w[g] = draw_codes(FORMAT_E4M3_BLOCK, N, K, 1, false);
        test.dw[g] = tensor_new_2d(FORMAT_F32, N, K);
    }
    everywhere(run_grouped, &test);
    struct tensor *all[] = {&test.x, &test.dy, &test.x_columns, &test.dy_columns};
    for (int i = 0; i < 4; i++) {
        codes_free(all[i]);
    }
    for (int g = 0; g < GROUPS; g++) {
        codes_free(&test.w[g]);
        tensor_free(&test.dw[g]);
    }
    tensor_free(&test.y);
    tensor_free(&test.dx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_weight_continues),
        cmocka_unit_test(test_grouped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
