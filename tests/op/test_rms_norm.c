// RMSNorm: formula in double, gradient by finite differences, formats, widths, row batching, aliases, continued chains.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"

#define EPSILON 1e-6f

struct norm {
    struct tensor x, w, dy;
    struct tensor rstd;   // f32 [T]
    enum op_mode mode;
};

static struct norm norm_new(enum format format, enum format weight_format, int64_t rows, int64_t width, int edges) {
    struct norm n = {.x = tensor_new_2d(format, rows, width),
                     .w = tensor_new_1d(weight_format, width),
                     .dy = tensor_new_2d(format, rows, width),
                     .rstd = tensor_new_1d(FORMAT_F32, rows)};
    struct tensor *all[] = {&n.x, &n.w, &n.dy};
    for (uint64_t i = 0; i < 3; i++) {
        if (edges > 0) {
            fill_edges(all[i], 2.0f, i + 1, edges);
        } else {
            fill_uniform(all[i], 2.0f, i + 1);
        }
    }
    return n;
}

static void norm_free(struct norm *n) {
    tensor_free(&n->x);
    tensor_free(&n->w);
    tensor_free(&n->dy);
    tensor_free(&n->rstd);
}

static void run_forward(struct op_context *op, struct tensor *outputs, void *argument) {
    struct norm *n = argument;
    op_rms_norm(op, &outputs[0], outputs[1].data, &n->x, &n->w, EPSILON);
}

static void run_backward(struct op_context *op, struct tensor *outputs, void *argument) {
    struct norm *n = argument;
    op_rms_norm_backward(op, &outputs[0], n->mode, &outputs[1], &n->dy, &n->x, &n->w, n->rstd.data);
}

static double naive_row(double *y, const double *x, const struct norm *n, int64_t width) {
    double sum = 0;
    for (int64_t i = 0; i < width; i++) {
        sum += x[i] * x[i];
    }
    double rstd = 1 / sqrt(sum / (double)width + (double)EPSILON);
    for (int64_t i = 0; i < width; i++) {
        y[i] = (double)element_get(&n->w, i) * x[i] * rstd;
    }
    return rstd;
}

static void test_forward(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 7, 16, 33, 257, 1536};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        for (int formats = 0; formats < 4; formats++) {
            enum format format = formats & 1 ? FORMAT_BF16 : FORMAT_F32;
            int64_t width = widths[k], rows = 21;
            struct norm n = norm_new(format, formats & 2 ? FORMAT_BF16 : FORMAT_F32, rows, width, 0);
            struct tensor outputs[] = {tensor_new_2d(FORMAT_F32, rows, width), tensor_new_1d(FORMAT_F32, rows)};
            struct tensor rounded[] = {tensor_new_2d(FORMAT_BF16, rows, width), tensor_new_1d(FORMAT_F32, rows)};
            double *x = array_new(width, sizeof *x), *y = array_new(rows * width, sizeof *y),
                   *rstd = array_new(rows, sizeof *rstd);
            for (int64_t t = 0; t < rows; t++) {
                for (int64_t i = 0; i < width; i++) {
                    x[i] = (double)element_get(&n.x, t * width + i);
                }
                rstd[t] = naive_row(y + t * width, x, &n, width);
            }
            assert_same_everywhere(run_forward, outputs, 2, &n);
            assert_same_everywhere(run_forward, rounded, 2, &n);
            assert_true(relative_error(&outputs[0], y) < 5e-7);
            assert_true(relative_error(&outputs[1], rstd) < 5e-7);
            for (int64_t i = 0; i < rows * width; i++) {   // a BF16 output is the F32 one rounded once
                struct tensor once = tensor_new_1d(FORMAT_BF16, 1);
                element_set(&once, 0, element_get(&outputs[0], i));
                assert_true(element_get(&once, 0) == element_get(&rounded[0], i));
                tensor_free(&once);
            }
            memory_free(x);
            memory_free(y);
            memory_free(rstd);
            for (int i = 0; i < 2; i++) {
                tensor_free(&outputs[i]);
                tensor_free(&rounded[i]);
            }
            norm_free(&n);
        }
    }
}

static double loss(const double *x, const struct norm *n, int64_t t, int64_t width, double *y) {
    double sum = 0;
    naive_row(y, x, n, width);
    for (int64_t i = 0; i < width; i++) {
        sum += y[i] * (double)element_get(&n->dy, t * width + i);
    }
    return sum;
}

static void test_gradient(void **state) {
    (void)state;
    enum { ROWS = 3, WIDTH = 37 };
    struct norm n = norm_new(FORMAT_F32, FORMAT_F32, ROWS, WIDTH, 0);
    struct tensor forward[] = {tensor_new_2d(FORMAT_F32, ROWS, WIDTH), tensor_new_1d(FORMAT_F32, ROWS)};
    assert_same_everywhere(run_forward, forward, 2, &n);
    memcpy(n.rstd.data, forward[1].data, ROWS * sizeof(float));
    struct tensor outputs[] = {tensor_new_2d(FORMAT_F32, ROWS, WIDTH), tensor_new_1d(FORMAT_F32, WIDTH)};
    assert_same_everywhere(run_backward, outputs, 2, &n);
    double expected[ROWS * WIDTH], weight[WIDTH] = {0};
    for (int64_t t = 0; t < ROWS; t++) {
        double x[WIDTH], y[WIDTH];
        for (int64_t i = 0; i < WIDTH; i++) {
            x[i] = (double)element_get(&n.x, t * WIDTH + i);
        }
        double rstd = naive_row(y, x, &n, WIDTH);
        for (int64_t i = 0; i < WIDTH; i++) {
            double value = x[i], step = 1e-5;
            x[i] = value + step;
            double up = loss(x, &n, t, WIDTH, y);
            x[i] = value - step;
            expected[t * WIDTH + i] = (up - loss(x, &n, t, WIDTH, y)) / (2 * step);
            x[i] = value;
            weight[i] += (double)element_get(&n.dy, t * WIDTH + i) * value * rstd;
        }
    }
    assert_true(relative_error(&outputs[0], expected) < 1e-6);
    assert_true(relative_error(&outputs[1], weight) < 1e-6);
    for (int i = 0; i < 2; i++) {
        tensor_free(&forward[i]);
        tensor_free(&outputs[i]);
    }
    norm_free(&n);
}

static void test_edges(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 15, 16, 48, 250, 1025};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        for (int formats = 0; formats < 4; formats++) {
            enum format format = formats & 1 ? FORMAT_BF16 : FORMAT_F32;
            struct norm n = norm_new(format, formats & 2 ? FORMAT_BF16 : FORMAT_F32, 40, widths[k],
                                     5 + 2000 * (k % 2 == 0));
            struct tensor outputs[] = {tensor_new_2d(format, 40, widths[k]), tensor_new_1d(FORMAT_F32, 40)};
            struct tensor gradients[] = {tensor_new_2d(format, 40, widths[k]), tensor_new_1d(FORMAT_F32, widths[k])};
            assert_same_everywhere(run_forward, outputs, 2, &n);
            fill_edges(&n.rstd, 1.0f, 9, 7);
            fill_edges(&gradients[0], 1.0f, 10, 7);
            fill_edges(&gradients[1], 1.0f, 11, 7);
            n.mode = format == FORMAT_F32 && formats & 2 ? OP_ADD : OP_SET;
            assert_same_everywhere(run_backward, gradients, 2, &n);
            for (int i = 0; i < 2; i++) {
                tensor_free(&outputs[i]);
                tensor_free(&gradients[i]);
            }
            norm_free(&n);
        }
    }
}

// Rows in two calls, dw continuing, give the bits of one call; dx may be dy or x; OP_ADD adds; dw may be absent.
static void test_batching_and_aliases(void **state) {
    (void)state;
    enum { ROWS = 29, WIDTH = 75 };
    struct norm n = norm_new(FORMAT_F32, FORMAT_BF16, ROWS, WIDTH, 0);
    struct op_fixture fixture;
    op_fixture_open(&fixture, ISA_BEST, 2);
    struct tensor y = tensor_new_2d(FORMAT_F32, ROWS, WIDTH), dx = tensor_new_2d(FORMAT_F32, ROWS, WIDTH);
    struct tensor dw = tensor_new_1d(FORMAT_F32, WIDTH), dx_split = tensor_clone(&dx), dw_split = tensor_clone(&dw);
    op_rms_norm(&fixture.op, &y, n.rstd.data, &n.x, &n.w, EPSILON);
    op_rms_norm_backward(&fixture.op, &dx, OP_SET, &dw, &n.dy, &n.x, &n.w, n.rstd.data);
    for (int64_t begin = 0; begin < ROWS; begin += 11) {
        int64_t count = ROWS - begin < 11 ? ROWS - begin : 11;
        struct tensor part = tensor_slice(&dx_split, 0, begin, count), x = tensor_slice(&n.x, 0, begin, count);
        struct tensor dy = tensor_slice(&n.dy, 0, begin, count);
        op_rms_norm_backward(&fixture.op, &part, OP_SET, &dw_split, &dy, &x, &n.w, (const float *)n.rstd.data + begin);
    }
    assert_true(same_bits(&dx, &dx_split) && same_bits(&dw, &dw_split));
    struct tensor added = tensor_clone(&y), alias = tensor_clone(&n.dy);
    op_rms_norm_backward(&fixture.op, &added, OP_ADD, NULL, &n.dy, &n.x, &n.w, n.rstd.data);
    for (int64_t i = 0; i < ROWS * WIDTH; i++) {
        assert_true(element_get(&added, i) == element_get(&y, i) + element_get(&dx, i));
    }
    memset(dw_split.data, 0, WIDTH * sizeof(float));
    op_rms_norm_backward(&fixture.op, &alias, OP_SET, &dw_split, &alias, &n.x, &n.w, n.rstd.data);
    assert_true(same_bits(&alias, &dx) && same_bits(&dw, &dw_split));
    op_fixture_close(&fixture);
    struct tensor *all[] = {&y, &dx, &dw, &dx_split, &dw_split, &added, &alias};
    for (int i = 0; i < 7; i++) {
        tensor_free(all[i]);
    }
    norm_free(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_batching_and_aliases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
