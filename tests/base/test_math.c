// base/math.c against the double functions of libm: error bounds in units in the last place, edges, and that the
// results do not depend on the flush-to-zero mode. By default every 997th float is tried; `make test-long` tries all
// (LONG_TESTS).
#include "base/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "support/test.h"

#ifdef LONG_TESTS
enum { STRIDE = 1 };
#else
enum { STRIDE = 997 };
#endif

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// |result - exact| in units of the last place that a float of the exact value's size has.
static double ulps(float result, double exact) {
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)result - exact) / ldexp(1.0, exponent - 24);
}

static void test_exp(void **state) {
    (void)state;
    double worst = 0;
    for (uint64_t i = 0; i < (uint64_t)1 << 32; i += STRIDE) {
        float x = float_of((uint32_t)i);
        float result = math_exp(x);
        if (isnan(x)) {
            assert_int_equal(bits_of(result), 0x7fc00000);
        } else if (x >= 88.72284f) {
            assert_true(isinf(result) && result > 0);
        } else if (x <= -87.33654f) {
            assert_int_equal(bits_of(result), 0);
        } else {
            double error = ulps(result, exp((double)x));
            worst = error > worst ? error : worst;
        }
    }
    assert_true(worst > 0.4 && worst < 0.92);
}

static void test_log(void **state) {
    (void)state;
    double worst = 0;
    for (uint64_t i = 0; i < (uint64_t)1 << 32; i += STRIDE) {
        float x = float_of((uint32_t)i);
        float result = math_log(x);
        uint32_t magnitude = (uint32_t)i & 0x7fffffff;
        if (magnitude < 0x00800000) {   // zero and subnormals of either sign
            assert_true(isinf(result) && result < 0);
        } else if (isnan(x) || x < 0) {
            assert_int_equal(bits_of(result), 0x7fc00000);
        } else if (isinf(x)) {
            assert_true(isinf(result) && result > 0);
        } else if (i == 0x3f800000) {
            assert_int_equal(bits_of(result), 0);
        } else {
            double error = ulps(result, log((double)x));
            worst = error > worst ? error : worst;
        }
    }
    assert_true(worst > 0.4 && worst < 0.83);
}

static void test_edges(void **state) {
    (void)state;
    assert_true(math_exp(0.0f) == 1.0f && math_exp(-0.0f) == 1.0f);
    assert_true(math_exp(float_of(0x42b17217)) > 3.4e38f && !isinf(math_exp(float_of(0x42b17217))));
    assert_true(isinf(math_exp(float_of(0x42b17218))));
    assert_true(math_exp(float_of(0xc2aeac4e)) >= 0x1p-126f);
    assert_true(math_exp(float_of(0xc2aeac4f)) == 0.0f);
    assert_true(isinf(math_exp(INFINITY)) && math_exp(-INFINITY) == 0.0f);
    assert_true(math_log(1.0f) == 0.0f);
    assert_true(isinf(math_log(0.0f)) && isinf(math_log(-0.0f)) && isinf(math_log(INFINITY)));
    assert_int_equal(bits_of(math_log(-1.0f)), 0x7fc00000);
    assert_int_equal(bits_of(math_log(-INFINITY)), 0x7fc00000);
    assert_int_equal(bits_of(math_log(NAN)), 0x7fc00000);
    assert_int_equal(bits_of(math_exp(-NAN)), 0x7fc00000);
}

// Same bits with and without FTZ/DAZ, so that a caller outside the pool gets what a worker gets.
static void test_mode_independent(void **state) {
    (void)state;
    enum { COUNT = 200000 };
    uint32_t *before = malloc(2 * COUNT * sizeof *before);
    unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode & ~0x8040u);
    for (uint32_t i = 0; i < COUNT; i++) {
        before[2 * i] = bits_of(math_exp(float_of(i * 21474u)));
        before[2 * i + 1] = bits_of(math_log(float_of(i * 21474u)));
    }
    pool_set_flush_to_zero();
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(bits_of(math_exp(float_of(i * 21474u))), before[2 * i]);
        assert_int_equal(bits_of(math_log(float_of(i * 21474u))), before[2 * i + 1]);
    }
    __builtin_ia32_ldmxcsr(mode);
    free(before);
}

static void test_sigmoid_silu(void **state) {
    (void)state;
    double worst = 0, worst_silu = 0;
    for (int i = -8000; i <= 8000; i++) {
        float x = (float)i * 0.01f;
        double exact = 1 / (1 + exp(-(double)x));
        double error = ulps(math_sigmoid(x), exact), error_silu = i == 0 ? 0 : ulps(math_silu(x), (double)x * exact);
        worst = error > worst ? error : worst;
        worst_silu = error_silu > worst_silu ? error_silu : worst_silu;
    }
    assert_true(worst < 2.0 && worst_silu < 2.6);
    assert_true(math_sigmoid(0.0f) == 0.5f && math_silu(0.0f) == 0.0f);
    assert_true(math_sigmoid(200.0f) == 1.0f && math_sigmoid(-200.0f) == 0.0f);
    assert_true(math_silu(200.0f) == 200.0f && math_silu(-200.0f) == 0.0f);
    assert_true(isnan(math_sigmoid(NAN)) && isnan(math_silu(NAN)));
}

static double ulps_double(double result, double exact) {
    return fabs(result - exact) / ldexp(1.0, ilogb(exact) - 52);
}

static double next_random(uint64_t *state) {   // [0, 1)
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

static void test_sincos(void **state) {
    (void)state;
    uint64_t random = 1;
    double worst = 0;
    for (int i = 0; i < 300000; i++) {
        double x = (2 * next_random(&random) - 1) * pow(10, 18 * next_random(&random) - 9);
        double sine, cosine;
        math_sincos(x, &sine, &cosine);
        double error = fmax(ulps_double(sine, sin(x)), ulps_double(cosine, cos(x)));
        worst = fmax(worst, error);
    }
    for (int n = -2000; n < 2000; n++) {   // next to the zeros, where the reduction cancels
        for (int step = -2; step <= 2; step++) {
            double x = (n * 9999.0) * 1.5707963267948966 * (1 + step * 0x1p-52), sine, cosine;
            math_sincos(x, &sine, &cosine);
            worst = fmax(worst, sin(x) == 0 ? 0 : ulps_double(sine, sin(x)));
            worst = fmax(worst, ulps_double(cosine, cos(x)));
        }
    }
    assert_true(worst <= 2.0);
    double sine, cosine;
    math_sincos(0.0, &sine, &cosine);
    assert_true(sine == 0 && cosine == 1);
}

static void test_double_exp_log(void **state) {
    (void)state;
    uint64_t random = 2;
    double worst_log = 0, worst_exp = 0, worst_pow = 0;
    for (int i = 0; i < 300000; i++) {
        double x = exp(1400 * next_random(&random) - 700), y = 1416 * next_random(&random) - 708;
        double near = 0.5 + next_random(&random);
        worst_log = fmax(worst_log,
                         fmax(ulps_double(math_log_double(x), log(x)), ulps_double(math_log_double(near), log(near))));
        worst_exp = fmax(worst_exp, ulps_double(math_exp_double(y), exp(y)));
        double base = exp(14 * next_random(&random)), exponent = -next_random(&random);
        worst_pow = fmax(worst_pow, fabs(math_pow_double(base, exponent) / pow(base, exponent) - 1));
    }
    assert_true(worst_log <= 2.0 && worst_exp <= 2.0 && worst_pow < 4e-15);
    assert_true(math_log_double(1.0) == 0 && math_exp_double(0.0) == 1);
    assert_true(isinf(math_log_double(0.0)) && isnan(math_log_double(-1.0)) && isnan(math_log_double(NAN)));
    assert_true(isinf(math_log_double(INFINITY)) && isinf(math_exp_double(710.0)) && math_exp_double(-800.0) == 0);
    assert_true(ulps_double(math_exp_double(709.78), exp(709.78)) <= 2 && isnan(math_exp_double(NAN)));
    assert_true(math_exp_double(INFINITY) > 1e308 && math_exp_double(-INFINITY) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_mode_independent),
        cmocka_unit_test(test_sigmoid_silu),
        cmocka_unit_test(test_sincos),
        cmocka_unit_test(test_double_exp_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
