// RoPE: the rotation in double, its inverse, gradient as transpose, formats, positions, views.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"

enum { TOKENS = 23, HEADS = 3, POSITIONS = 40 };

struct rotation {
    struct tensor table;
    int32_t positions[TOKENS];
    bool inverse;
};

static struct rotation rotation_new(int64_t pairs) {
    struct rotation r = {.table = tensor_new_3d(FORMAT_F32, POSITIONS, pairs, 2)};
    for (int64_t i = 0; i < POSITIONS * pairs; i++) {
        double angle = (double)(i / pairs) * pow(10000, -(double)(i % pairs) / (double)pairs);
        element_set(&r.table, 2 * i, (float)cos(angle));
        element_set(&r.table, 2 * i + 1, (float)sin(angle));
    }
    for (int i = 0; i < TOKENS; i++) {
        r.positions[i] = (i * 17 + 3) % POSITIONS;
    }
    return r;
}

static void run(struct op_context *op, struct tensor *outputs, void *argument) {
    struct rotation *r = argument;
    op_rope(op, &outputs[0], r->positions, &r->table, r->inverse);
}

static void test_rotation(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 4, 8, 11, 32};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        int64_t pairs = widths[k], elements = TOKENS * HEADS * 2 * pairs;
        struct rotation r = rotation_new(pairs);
        struct tensor x = tensor_new_3d(FORMAT_F32, TOKENS, HEADS, 2 * pairs);
        fill_uniform(&x, 2.0f, k + 1);
        double *before = array_new(elements, sizeof *before), *expected = array_new(elements, sizeof *expected);
        for (int64_t i = 0; i < elements; i += 2) {
            const int64_t angle = (r.positions[i / (HEADS * 2 * pairs)] * pairs + i % (2 * pairs) / 2) * 2;
            double c = (double)element_get(&r.table, angle), s = (double)element_get(&r.table, angle + 1);
            double x0 = (double)element_get(&x, i), x1 = (double)element_get(&x, i + 1);
            before[i] = x0;
            before[i + 1] = x1;
            expected[i] = x0 * c - x1 * s;
            expected[i + 1] = x0 * s + x1 * c;
        }
        assert_same_everywhere(run, &x, 1, &r);
        assert_true(relative_error(&x, expected) < 2e-7);
        r.inverse = true;
        assert_same_everywhere(run, &x, 1, &r);
        assert_true(relative_error(&x, before) < 4e-7);
        memory_free(before);
        memory_free(expected);
        tensor_free(&x);
        tensor_free(&r.table);
    }
}

static void test_edges_and_formats(void **state) {
    (void)state;
    for (int64_t pairs = 1; pairs <= 35; pairs += 2) {
        for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
            struct rotation r = rotation_new(pairs);
            struct tensor x = tensor_new_3d(format, TOKENS, HEADS, 2 * pairs);
            fill_edges(&x, 2.0f, (uint64_t)pairs, 6);
            r.inverse = pairs % 4 == 1;
            assert_same_everywhere(run, &x, 1, &r);
            tensor_free(&x);
            tensor_free(&r.table);
        }
    }
}

// The rope part of wider query rows: only the view changes, and to the same bits.
static void test_view(void **state) {
    (void)state;
    enum { NOPE = 13, PAIRS = 6, WIDTH = NOPE + 2 * PAIRS };
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        struct rotation r = rotation_new(PAIRS);
        struct tensor wide = tensor_new_3d(format, TOKENS, HEADS, WIDTH),
                      packed = tensor_new_3d(format, TOKENS, HEADS, 2 * PAIRS);
        fill_uniform(&wide, 1.0f, 5);
        struct tensor before = tensor_clone(&wide), view = tensor_slice(&wide, 2, NOPE, 2 * PAIRS);
        struct op_fixture fixture;
        op_fixture_open(&fixture, ISA_BEST, 2);
        op_copy(&fixture.op, &packed, &view);
        op_rope(&fixture.op, &packed, r.positions, &r.table, false);
        op_rope(&fixture.op, &view, r.positions, &r.table, false);
        op_fixture_close(&fixture);
        for (int64_t i = 0; i < TOKENS * HEADS * WIDTH; i++) {
            int64_t row = i / WIDTH, d = i % WIDTH;
            float expected = d < NOPE ? element_get(&before, i) : element_get(&packed, row * 2 * PAIRS + d - NOPE);
            assert_true(element_get(&wide, i) == expected);
        }
        tensor_free(&wide);
        tensor_free(&packed);
        tensor_free(&before);
        tensor_free(&r.table);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_edges_and_formats),
        cmocka_unit_test(test_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
