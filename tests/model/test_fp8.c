// Training in FP8: losses and gradients near those of the same weights in BF16, other bits than those (so FP8 is what
// ran), and the same bits whatever the threads, the instruction set, the time of W and what is computed again.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "op/cpu/kernels.h"
#include "support/model_fixture.h"
#include "support/test.h"

// Without group-limited routing: there a small difference moves tokens to other groups of experts, in these tiny models
// many.
static const char *const cases[] = {"v3_one_group", "v3_no_q_lora", "v3_ragged", "v3_mtp2"};
#define CASES (sizeof cases / sizeof *cases)

static struct fixture_options options_of(enum format weights, enum isa isa, int threads) {
    return (struct fixture_options){.compute = FORMAT_BF16,
                                    .weights = weights,
                                    .through_fp8 = weights != FORMAT_E4M3_BLOCK,
                                    .threads = threads,
                                    .isa = isa};
}

static void test_near_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct fixture_options plain = options_of(FORMAT_BF16, ISA_BEST, 2),
                               fp8 = options_of(FORMAT_E4M3_BLOCK, ISA_BEST, 2);
        struct fixture a, b;
        fixture_open(&a, cases[i], &plain);
        fixture_open(&b, cases[i], &fp8);
        b.model.fp8 = true;
        struct micro_batch_result left = fixture_step(&a, a.sequences, false),
                                  right = fixture_step(&b, b.sequences, false);
        assert_true(left.main_loss != right.main_loss);
        assert_true(fabs(right.main_loss / left.main_loss - 1) < 0.01);
        int64_t count;
        const float *x = fixture_gradients_copy(&a, &count), *y = fixture_gradients_copy(&b, &count);
        double distance = 0, norm = 0;
        for (int64_t e = 0; e < count; e++) {
            distance += ((double)x[e] - (double)y[e]) * ((double)x[e] - (double)y[e]);
            norm += (double)x[e] * (double)x[e];
        }
        if (!(sqrt(distance / norm) <
              0.25)) {   // 2.6 % for each of some thirty roundings in a row, added in squares: 0.14
            fail_msg("%s: gradients are off by %g", cases[i], sqrt(distance / norm));
        }
        fixture_close(&a);
        fixture_close(&b);
    }
}

static void expect_same(const float *expected, int64_t count, struct fixture *f, const char *what) {
    int64_t found_count;
    const float *found = fixture_gradients_copy(f, &found_count);
    assert_int_equal(found_count, count);
    if (memcmp(found, expected, (size_t)count * sizeof(float)) != 0) {
        fail_msg("%s: other gradients", what);
    }
}

static void check_same_bits(enum isa first, enum isa last) {
    for (size_t i = 0; i < CASES; i++) {
        struct fixture_options options = options_of(FORMAT_E4M3_BLOCK, first, 1);
        struct fixture reference;
        fixture_open(&reference, cases[i], &options);
        reference.model.fp8 = true;
        struct micro_batch_result expected = fixture_step(&reference, reference.sequences, false);
        int64_t count;
        const float *gradients = fixture_gradients_copy(&reference, &count);
        for (enum isa isa = first; isa <= last; isa++) {
            for (int bits = 0; bits < 8; bits += isa == ISA_SCALAR ? 7 : 1) {
                struct fixture f;
                options = options_of(FORMAT_E4M3_BLOCK, isa, 1 + bits % 4);
                fixture_open(&f, cases[i], &options);
                f.model.fp8 = true;
                f.model.recompute = (struct recompute){(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0};
                struct micro_batch_result found = fixture_step(&f, f.sequences, bits % 3 == 1);
                assert_memory_equal(&found, &expected, sizeof found);
                expect_same(gradients, count, &f, cases[i]);
                fixture_close(&f);
            }
        }
        fixture_close(&reference);
    }
}

static void test_same_bits(void **state) {
    (void)state;
    check_same_bits(ISA_SCALAR, cpu_isa_best());
    if (fixture_amx(true)) {
        check_same_bits(ISA_AMX, ISA_AMX);
        fixture_amx(false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_bf16),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
