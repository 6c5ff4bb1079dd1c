// Moving rows: gather, scatter, combine, copy, add, zero; formats, views, order of sums.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

enum { ROWS = 31, SOURCE = 19, WIDTH = 77, TOP_K = 4 };

struct moving {
    struct tensor x;
    int32_t rows[ROWS * TOP_K];
    float *weight;
    enum op_mode mode;
};

static void run_gather(struct op_context *op, struct tensor *outputs, void *argument) {
    struct moving *m = argument;
    op_gather_rows(op, &outputs[0], &m->x, m->rows);
}

static void run_scatter(struct op_context *op, struct tensor *outputs, void *argument) {
    struct moving *m = argument;
    op_scatter_rows(op, &outputs[0], &m->x, m->rows);
}

static void run_combine(struct op_context *op, struct tensor *outputs, void *argument) {
    struct moving *m = argument;
    op_combine_rows(op, &outputs[0], &m->x, m->rows, m->weight, TOP_K, m->mode);
}

static void run_copy(struct op_context *op, struct tensor *outputs, void *argument) {
    struct moving *m = argument;
    op_copy(op, &outputs[0], &m->x);
}

static void run_add(struct op_context *op, struct tensor *outputs, void *argument) {
    struct moving *m = argument;
    op_add(op, &outputs[0], &m->x);
}

struct sum {
    struct tensor a, b;
};

static void run_sum(struct op_context *op, struct tensor *outputs, void *argument) {
    struct sum *s = argument;
    op_sum(op, &outputs[0], &s->a, &s->b);
}

// One pass has the bits of op_add and op_copy, on ordinary and special values.
static void test_sum(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 255, 256, 600};
    for (int n = 0; n < 16; n++) {
        enum format to = n & 1 ? FORMAT_BF16 : FORMAT_F32, second = n & 2 ? FORMAT_BF16 : FORMAT_F32;
        int64_t rows = 37, width = widths[n / 4];
        struct sum s = {tensor_new_2d(FORMAT_F32, rows, width), tensor_new_2d(second, rows, width)};
        struct tensor y = tensor_new_2d(to, rows, width), expected = tensor_new_2d(to, rows, width);
        fill_edges(&s.a, 1.0f, 1, 50);
        fill_edges(&s.b, 1.0f, 2, 50);
        assert_same_everywhere(run_sum, &y, 1, &s);
        struct op_fixture fixture;
        op_fixture_open(&fixture, ISA_SCALAR, 1);
        op_add(&fixture.op, &s.a, &s.b);
        op_copy(&fixture.op, &expected, &s.a);
        assert_true(same_bits(&y, &expected));
        op_fixture_close(&fixture);
        tensor_free(&s.a);
        tensor_free(&s.b);
        tensor_free(&y);
        tensor_free(&expected);
    }
}

// What a value becomes in a format.
static float stored(enum format format, float value) {
    return format == FORMAT_BF16 ? bf16_widen(bf16_narrow(value)) : value;
}

static void test_gather_and_scatter(void **state) {
    (void)state;
    for (int formats = 0; formats < 4; formats++) {
        enum format from = formats & 1 ? FORMAT_BF16 : FORMAT_F32, to = formats & 2 ? FORMAT_BF16 : FORMAT_F32;
        struct moving m = {.x = tensor_new_2d(from, SOURCE, WIDTH)};
        struct tensor y = tensor_new_2d(to, ROWS, WIDTH);
        fill_edges(&m.x, 1.0f, 1, 6);
        for (int i = 0; i < ROWS; i++) {
            m.rows[i] = (i * 5 + 2) % SOURCE;
        }
        assert_same_everywhere(run_gather, &y, 1, &m);
        for (int64_t i = 0; i < ROWS * WIDTH; i++) {
            float found = element_get(&y, i),
                  expected = stored(to, element_get(&m.x, m.rows[i / WIDTH] * WIDTH + i % WIDTH));
            assert_true(same_floats(&found, &expected, 1));
        }
        for (int i = 0; i < SOURCE; i++) {
            m.rows[i] = (i * 9 + 4) % ROWS;   // distinct
        }
        fill_uniform(&y, 1.0f, 2);
        struct tensor expected = tensor_clone(&y);
        for (int64_t i = 0; i < SOURCE * WIDTH; i++) {
            element_set(&expected, m.rows[i / WIDTH] * WIDTH + i % WIDTH, element_get(&m.x, i));
        }
        assert_same_everywhere(run_scatter, &y, 1, &m);
        assert_true(same_bits(&y, &expected));
        tensor_free(&m.x);
        tensor_free(&y);
        tensor_free(&expected);
    }
}

static void test_combine(void **state) {
    (void)state;
    for (int variant = 0; variant < 16; variant++) {
        enum format format = variant & 1 ? FORMAT_BF16 : FORMAT_F32;
        struct moving m = {.x = tensor_new_2d(format, SOURCE, WIDTH), .mode = variant & 4 ? OP_ADD : OP_SET};
        struct tensor y = tensor_new_2d(FORMAT_F32, ROWS, WIDTH), weight = tensor_new_1d(FORMAT_F32, ROWS * TOP_K);
        if (variant & 8) {
            fill_edges(&m.x, 1.0f, 1, 9);
            fill_edges(&weight, 1.0f, 2, 9);
        } else {
            fill_uniform(&m.x, 1.0f, 1);
            fill_uniform(&weight, 1.0f, 2);
        }
        m.weight = variant & 2 ? weight.data : NULL;
        fill_uniform(&y, 1.0f, 3);
        struct tensor expected = tensor_clone(&y);
        for (int i = 0; i < ROWS * TOP_K; i++) {
            m.rows[i] = (i * 4) % (SOURCE + 2) - 2;   // -2 and -1 are skipped
        }
        for (int64_t i = 0; i < ROWS * WIDTH; i++) {
            float chain = m.mode == OP_ADD ? element_get(&expected, i) : 0.0f;
            for (int64_t k = i / WIDTH * TOP_K; k < (i / WIDTH + 1) * TOP_K; k++) {
                if (m.rows[k] >= 0) {
                    float value = element_get(&m.x, m.rows[k] * WIDTH + i % WIDTH);
                    chain = m.weight != NULL ? fmaf(m.weight[k], value, chain) : chain + value;
                }
            }
            element_set(&expected, i, chain);
        }
        assert_same_everywhere(run_combine, &y, 1, &m);
        if (!(variant & 8)) {   // the edges' expectation above was not computed with subnormals flushed
            assert_true(same_bits(&y, &expected));
        }
        tensor_free(&m.x);
        tensor_free(&y);
        tensor_free(&weight);
        tensor_free(&expected);
    }
}

static void test_copy_and_add(void **state) {
    (void)state;
    for (int formats = 0; formats < 4; formats++) {
        enum format from = formats & 1 ? FORMAT_BF16 : FORMAT_F32, to = formats & 2 ? FORMAT_BF16 : FORMAT_F32;
        for (int rank = 1; rank <= 3; rank++) {
            const int64_t shape[] = {rank == 1 ? 1000 : 5, rank == 2 ? 201 : 7, 67};
            struct moving m = {.x = tensor_new(from, rank, shape)};
            struct tensor y = tensor_new(to, rank, shape);
            fill_edges(&m.x, 1.0f, 1, 6);
            assert_same_everywhere(run_copy, &y, 1, &m);
            for (int64_t i = 0; i < tensor_elements(&y); i++) {
                float found = element_get(&y, i), expected = stored(to, element_get(&m.x, i));
                assert_true(same_floats(&found, &expected, 1));
            }
            if (to == FORMAT_F32) {
                fill_edges(&y, 1.0f, 3, 9);
                assert_same_everywhere(run_add, &y, 1, &m);
                fill_uniform(&y, 1.0f, 3);
                fill_uniform(&m.x, 1.0f, 4);
                struct tensor before = tensor_clone(&y);
                assert_same_everywhere(run_add, &y, 1, &m);
                for (int64_t i = 0; i < tensor_elements(&y); i++) {
                    assert_true(element_get(&y, i) == element_get(&before, i) + element_get(&m.x, i));
                }
                tensor_free(&before);
            }
            tensor_free(&m.x);
            tensor_free(&y);
        }
    }
}

static void test_copy_other_formats(void **state) {
    (void)state;
    struct moving m = {.x = tensor_new_2d(FORMAT_I64, 3, 5)};
    struct tensor y = tensor_new_2d(FORMAT_I64, 3, 5);
    for (int64_t i = 0; i < 15; i++) {
        ((int64_t *)m.x.data)[i] = i << 40;
    }
    assert_same_everywhere(run_copy, &y, 1, &m);
    assert_memory_equal(y.data, m.x.data, 15 * sizeof(int64_t));
    tensor_free(&m.x);
    tensor_free(&y);
    float scale[] = {0.5f, 0.25f};
    m.x = tensor_new_2d(FORMAT_E4M3_BLOCK, 3, 130);
    m.x.scale = scale;
    m.x.scale_stride = 2;
    y = tensor_new_2d(FORMAT_F32, 3, 130);
    for (int64_t i = 0; i < 390; i++) {
        ((uint8_t *)m.x.data)[i] = (uint8_t)(i % 127);
    }
    assert_same_everywhere(run_copy, &y, 1, &m);
    for (int64_t i = 0; i < 390; i++) {
        assert_true(element_get(&y, i) == e4m3_widen((uint8_t)(i % 127)) * scale[i % 130 / 128]);
    }
    tensor_free(&m.x);
    tensor_free(&y);
}

// A permuted view written to, and everything around it untouched; zero of a view.
static void test_views(void **state) {
    (void)state;
    struct op_fixture fixture;
    op_fixture_open(&fixture, ISA_BEST, 2);
    struct tensor x = tensor_new_3d(FORMAT_F32, 4, 3, 6), wide = tensor_new_3d(FORMAT_BF16, 3, 4, 9);
    fill_uniform(&x, 1.0f, 1);
    struct tensor inner = tensor_slice(&wide, 2, 2, 6), view = tensor_transpose(&inner, 0, 1);
    op_copy(&fixture.op, &view, &x);
    for (int64_t i = 0; i < 4 * 3 * 9; i++) {
        int64_t a = i / 9 % 4, b = i / 36, c = i % 9 - 2;
        float expected = c >= 0 && c < 6 ? stored(FORMAT_BF16, element_get(&x, (a * 3 + b) * 6 + c)) : 0.0f;
        assert_true(element_get(&wide, i) == expected);
    }
    fill_uniform(&wide, 1.0f, 2);
    struct tensor before = tensor_clone(&wide);
    op_zero(&fixture.op, &view);
    for (int64_t i = 0; i < 4 * 3 * 9; i++) {
        int64_t c = i % 9 - 2;
        assert_true(element_get(&wide, i) == (c >= 0 && c < 6 ? 0.0f : element_get(&before, i)));
    }
    op_fixture_close(&fixture);
    tensor_free(&x);
    tensor_free(&wide);
    tensor_free(&before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),          cmocka_unit_test(test_gather_and_scatter), cmocka_unit_test(test_combine),
        cmocka_unit_test(test_copy_and_add), cmocka_unit_test(test_copy_other_formats), cmocka_unit_test(test_views),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
