// SwiGLU: formula in double, gradient by finite differences, weights per row, aliases, edges.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"

struct swiglu {
    struct tensor gate, up, dy;
    struct tensor weight;   // f32 [rows]; absent: NULL is passed
};

static struct swiglu swiglu_new(enum format format, int64_t rows, int64_t width, bool weighted, int edges) {
    struct swiglu s = {.gate = tensor_new_2d(format, rows, width),
                       .up = tensor_new_2d(format, rows, width),
                       .dy = tensor_new_2d(format, rows, width)};
    struct tensor *all[] = {&s.gate, &s.up, &s.dy, &s.weight};
    if (weighted) {
        s.weight = tensor_new_1d(FORMAT_F32, rows);
    }
    for (uint64_t i = 0; i < (weighted ? 4u : 3u); i++) {
        if (edges > 0) {
            fill_edges(all[i], 4.0f, i + 1, edges);
        } else {
            fill_uniform(all[i], 4.0f, i + 1);
        }
    }
    return s;
}

static void swiglu_free(struct swiglu *s) {
    tensor_free(&s->gate);
    tensor_free(&s->up);
    tensor_free(&s->dy);
    tensor_free(&s->weight);
}

static void run_forward(struct op_context *op, struct tensor *outputs, void *argument) {
    struct swiglu *s = argument;
    op_swiglu(op, &outputs[0], &s->gate, &s->up, s->weight.data);
}

static void run_backward(struct op_context *op, struct tensor *outputs, void *argument) {
    struct swiglu *s = argument;
    op_swiglu_backward(op, &outputs[0], &outputs[1], outputs[2].data, &s->dy, &s->gate, &s->up, s->weight.data);
}

static double naive(double weight, double gate, double up) {
    return weight * gate / (1 + exp(-gate)) * up;
}

static void test_formula_and_gradient(void **state) {
    (void)state;
    enum { ROWS = 19, WIDTH = 53, ELEMENTS = ROWS * WIDTH };
    for (int weighted = 0; weighted < 2; weighted++) {
        struct swiglu s = swiglu_new(FORMAT_F32, ROWS, WIDTH, weighted == 1, 0);
        struct tensor y = tensor_new_2d(FORMAT_F32, ROWS, WIDTH);
        struct tensor gradient[] = {tensor_new_2d(FORMAT_F32, ROWS, WIDTH), tensor_new_2d(FORMAT_F32, ROWS, WIDTH),
                                    tensor_new_1d(FORMAT_F32, ROWS)};
        static double expected[ELEMENTS], dgate[ELEMENTS], dup[ELEMENTS];
        double dweight[ROWS] = {0}, step = 1e-5;
        for (int64_t i = 0; i < ELEMENTS; i++) {
            double gate = (double)element_get(&s.gate, i), up = (double)element_get(&s.up, i),
                   dy = (double)element_get(&s.dy, i);
            double weight = weighted ? (double)element_get(&s.weight, i / WIDTH) : 1;
            expected[i] = naive(weight, gate, up);
            dgate[i] = dy * (naive(weight, gate + step, up) - naive(weight, gate - step, up)) / (2 * step);
            dup[i] = dy * (naive(weight, gate, up + step) - naive(weight, gate, up - step)) / (2 * step);
            dweight[i / WIDTH] += dy * naive(1, gate, up);
        }
        assert_same_everywhere(run_forward, &y, 1, &s);
        assert_same_everywhere(run_backward, gradient, 3, &s);
        assert_true(relative_error(&y, expected) < 4e-7);
        assert_true(relative_error(&gradient[0], dgate) < 1e-6);
        assert_true(relative_error(&gradient[1], dup) < 1e-6);
        assert_true(relative_error(&gradient[2], dweight) < 1e-6);
        tensor_free(&y);
        for (int i = 0; i < 3; i++) {
            tensor_free(&gradient[i]);
        }
        swiglu_free(&s);
    }
}

static void test_edges(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 16, 31, 96, 1033};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
            for (int weighted = 0; weighted < 2; weighted++) {
                struct swiglu s = swiglu_new(format, 37, widths[k], weighted == 1, k % 2 ? 4 : 900);
                struct tensor y = tensor_new_2d(format, 37, widths[k]);
                struct tensor gradient[] = {tensor_new_2d(format, 37, widths[k]), tensor_new_2d(format, 37, widths[k]),
                                            tensor_new_1d(FORMAT_F32, 37)};
                assert_same_everywhere(run_forward, &y, 1, &s);
                assert_same_everywhere(run_backward, gradient, 3, &s);
                tensor_free(&y);
                for (int i = 0; i < 3; i++) {
                    tensor_free(&gradient[i]);
                }
                swiglu_free(&s);
            }
        }
    }
}

static void test_aliases(void **state) {
    (void)state;
    enum { ROWS = 9, WIDTH = 45 };
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST && isa_available(isa); isa++) {
        for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
            struct swiglu s = swiglu_new(format, ROWS, WIDTH, true, 0);
            struct tensor dgate = tensor_new_2d(format, ROWS, WIDTH), dup = tensor_new_2d(format, ROWS, WIDTH);
            struct op_fixture fixture;
            op_fixture_open(&fixture, isa, 2);
            op_swiglu_backward(&fixture.op, &dgate, &dup, NULL, &s.dy, &s.gate, &s.up, s.weight.data);
            op_swiglu_backward(&fixture.op, &s.gate, &s.up, NULL, &s.dy, &s.gate, &s.up, s.weight.data);
            op_fixture_close(&fixture);
            assert_true(same_bits(&dgate, &s.gate) && same_bits(&dup, &s.up));
            tensor_free(&dgate);
            tensor_free(&dup);
            swiglu_free(&s);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula_and_gradient),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_aliases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
