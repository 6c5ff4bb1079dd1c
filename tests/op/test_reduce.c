// Sum of squares and the test for finite values; the vector exp and logistic function against base/math.h.
//
// test_reduce --all compares exp and sigmoid on all 2^32 inputs (a minute or two) instead of a sample.
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/math.h"
#include "base/math_constants.h"
#include "base/memory.h"
#include "base/rng.h"
#include "op/cpu/kernels.h"
#include "support/op_fixture.h"
#include "support/test.h"

static bool all_inputs;

struct reduction {
    struct tensor x;
};

static void run_sum(struct op_context *op, struct tensor *outputs, void *argument) {
    struct reduction *r = argument;
    double sum = op_sum_squares(op, &r->x);
    memcpy(outputs[0].data, &sum, sizeof sum);
}

static void run_finite(struct op_context *op, struct tensor *outputs, void *argument) {
    struct reduction *r = argument;
    ((uint8_t *)outputs[0].data)[0] = op_all_finite(op, &r->x);
}

static void test_sum_squares(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 15, 16, 17, 4095, 4096, 4097, 100001};
    struct tensor sum = tensor_new_1d(FORMAT_I64, 1);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct reduction r = {.x = tensor_new_1d(FORMAT_F32, sizes[k])};
        double expected = 0, found;
        fill_uniform(&r.x, 2.0f, k + 1);
        for (int64_t i = 0; i < sizes[k]; i++) {
            expected += (double)element_get(&r.x, i) * (double)element_get(&r.x, i);
        }
        assert_same_everywhere(run_sum, &sum, 1, &r);
        memcpy(&found, sum.data, sizeof found);
        assert_true(fabs(found - expected) <= 1e-6 * expected);
        fill_edges(&r.x, 2.0f, k + 1, 10000);
        for (int64_t i = 0; i < sizes[k]; i++) {   // a NaN has no defined bits
            element_set(&r.x, i, fabsf(element_get(&r.x, i)) <= 1e15f ? element_get(&r.x, i) : 1e30f);
        }
        assert_same_everywhere(run_sum, &sum, 1, &r);
        tensor_free(&r.x);
    }
    tensor_free(&sum);
}

static void test_all_finite(void **state) {
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    struct tensor finite = tensor_new_1d(FORMAT_U8, 1);
    for (int64_t elements = 1; elements < 40000; elements = elements * 5 + 2) {
        struct reduction r = {.x = tensor_new_1d(FORMAT_F32, elements)};
        fill_uniform(&r.x, 3e38f, 1);
        assert_same_everywhere(run_finite, &finite, 1, &r);
        assert_int_equal(((uint8_t *)finite.data)[0], 1);
        for (uint64_t i = 0; i < 8; i++) {
            int64_t at = i == 0 ? elements - 1 : (int64_t)rng_below(1, 2, i, (uint64_t)elements);
            float before = element_get(&r.x, at);
            element_set(&r.x, at, bad[i % 4]);
            assert_same_everywhere(run_finite, &finite, 1, &r);
            assert_int_equal(((uint8_t *)finite.data)[0], 0);
            element_set(&r.x, at, before);
        }
        tensor_free(&r.x);
    }
    tensor_free(&finite);
}

static void test_vector_functions(void **state) {
    (void)state;
    enum { BATCH = 4096 };
    static float x[BATCH], y[BATCH], expected[BATCH];
    static const float borders[] = {
        EXP_OVERFLOW, EXP_UNDERFLOW, 0x1.62e42ep+6f, -0x1.5d58a0p+6f, 0.0f,    -0.0f,   INFINITY,
        -INFINITY,    NAN,           0x1p-126f,      -0x1p-140f,      FLT_MAX, -FLT_MAX};
    pool_set_flush_to_zero();
    uint64_t batches = all_inputs ? (UINT64_C(1) << 32) / BATCH : 64;
    for (uint64_t batch = 0; batch < batches; batch++) {
        for (uint64_t i = 0; i < BATCH; i++) {
            // A sample: half of it all bit patterns alike, half the range where exp is neither 0 nor infinite.
            uint32_t bits = (uint32_t)(all_inputs ? batch * BATCH + i : rng_u64(5, 6, batch * BATCH + i) >> 32);
            memcpy(&x[i], &bits, sizeof bits);
            if (!all_inputs && i % 2 == 0) {
                x[i] = 100.0f * (2.0f * rng_uniform(5, 7, batch * BATCH + i) - 1.0f);
            }
            if (!all_inputs && batch == 0 && i < 3 * sizeof borders / sizeof *borders) {   // each with its neighbours
                x[i] = nextafterf(borders[i / 3], i % 3 == 0 ? borders[i / 3] : i % 3 == 1 ? INFINITY : -INFINITY);
            }
        }
        for (enum isa isa = ISA_SCALAR; isa < ISA_BEST && isa_available(isa); isa++) {
            const struct row_kernels *kernels = &cpu_kernels_get(isa)->row;
            kernels->exp_sum(y, x, 0.0f, BATCH);
            for (int i = 0; i < BATCH; i++) {
                expected[i] = math_exp(x[i]);
            }
            assert_true(same_floats(y, expected, BATCH));
            kernels->sigmoid(y, x, BATCH);
            for (int i = 0; i < BATCH; i++) {
                expected[i] = math_sigmoid(x[i]);
            }
            assert_true(same_floats(y, expected, BATCH));
        }
    }
}

int main(int count, char **arguments) {
    all_inputs = count > 1 && strcmp(arguments[1], "--all") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_all_finite),
        cmocka_unit_test(test_vector_functions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
