// Losses and the gradient of every parameter against torch (tests/golden/model/make_goldens.py), and the bits that training promises: whatever the
// split into micro-batches, the recompute switches, the time of W, the threads and the instruction set.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/model_fixture.h"

static const char *const cases[] = {"v3_groups", "v3_one_group", "v3_no_q_lora",     "v2_lite",
                                    "v3_yarn",   "v3_ragged",    "v2_group_limited", "v3_mtp2"};
#define CASES (sizeof cases / sizeof *cases)

static const struct fixture_options plain = {FORMAT_F32, FORMAT_F32, 1, ISA_BEST};

static void check_losses(struct fixture *f, const struct micro_batch_result *result, double bound) {
    struct tensor losses = fixture_golden(f, "losses");
    const float *expected = losses.data;
    assert_int_equal(result->targets, f->sequences * f->length);
    assert_true(fabs(result->main_loss / (double)expected[0] - 1) < bound);
    for (int64_t k = 0; k < f->depths; k++) {
        assert_true(fabs(result->mtp_loss[k] / (double)expected[1 + k] - 1) < bound);
    }
    assert_true(fabs(result->balance_loss / (double)expected[1 + f->depths] - 1) < bound);
}

// The largest relative distance over all gradient tensors; says which one is beyond `bound`.
static double check_gradients(struct fixture *f, const char *name, double bound) {
    double worst = 0;
    for (int64_t i = 0; i < f->gradient_list.count; i++) {
        const struct param *param = &f->gradient_list.items[i];
        if (!param->trained) {
            continue;
        }
        char key[160];
        snprintf(key, sizeof key, "grad.%s", param->name);
        struct tensor expected = fixture_golden(f, key);
        double distance = relative_difference(param->tensor, &expected);
        if (!(distance < bound)) {
            fail_msg("%s: gradient of %s is off by %g", name, param->name, distance);
        }
        worst = distance > worst ? distance : worst;
    }
    return worst;
}

static void test_gradients_against_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct fixture f;
        fixture_open(&f, cases[i], &plain);
        struct micro_batch_result result = fixture_step(&f, f.sequences, false);
        check_losses(&f, &result, 1e-5);
        double worst = check_gradients(&f, cases[i], 1e-4);
        print_message("%s: gradients within %.1e\n", cases[i], worst);
        fixture_close(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_against_torch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
