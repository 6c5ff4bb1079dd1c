// Schedules against the numbers of the report (spec 8.2) and closed forms written out here.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/schedule.h"

#define T 1000000000000

// The report's run: 14.8T tokens of 15360 sequences of 4096.
static struct run_config report(void) {
    static const char *const keys[] = {
        "model.config=c",
        "data.path=d",
        "train.out=o",
        "train.tokens=14.8T",
        "train.batch=15360",
        "train.reduction_shards=128",
        "schedule.warmup=2K steps",
        "schedule.decay_start=10T tokens",
        "schedule.decay_end=14.3T tokens",
        "schedule.tail_start=14.633T tokens",
        "schedule.batch_start=3072",
        "schedule.batch_ramp=469B tokens",
        "schedule.gamma_end=14.3T tokens",
        "schedule.lambda_switch=10T tokens",
    };
    struct run_config config;
    struct error error = {0};
    run_config_defaults(&config);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        assert_int_equal(run_config_override(&config, keys[i], &error), 0);
    }
    assert_int_equal(run_config_finish(&config, &error), 0);
    return config;
}

static void near(double found, double expected) {
    if (!(fabs(found - expected) <= 1e-12 * fabs(expected))) {
        fail_msg("found %.17g, expected %.17g", found, expected);
    }
}

static void test_learning_rate(void **state) {
    (void)state;
    struct run_config config = report();
    const struct schedule_section *s = &config.schedule;
    near(schedule_learning_rate(s, (struct schedule_position){0, 0}), 0);
    near(schedule_learning_rate(s, (struct schedule_position){1, 12582912}), 2.2e-4 / 2000);
    near(schedule_learning_rate(s, (struct schedule_position){1000, T / 100}), 1.1e-4);
    near(schedule_learning_rate(s, (struct schedule_position){2000, T / 50}), 2.2e-4);
    near(schedule_learning_rate(s, (struct schedule_position){90000, 5 * (int64_t)T}), 2.2e-4);
    near(schedule_learning_rate(s, (struct schedule_position){170000, 10 * (int64_t)T}), 2.2e-4);
    // Half way through the cosine: the mean of both ends.
    near(schedule_learning_rate(s, (struct schedule_position){200000, 12150000000000}), 0.5 * (2.2e-4 + 2.2e-5));
    for (int64_t x = 10 * (int64_t)T; x <= 14300000000000; x += 43 * (int64_t)T / 100) {
        double expected = 2.2e-5 +
                          0.5 * (2.2e-4 - 2.2e-5) * (1 + cos(acos(-1) * (double)(x - 10 * (int64_t)T) / 4.3e12));
        near(schedule_learning_rate(s, (struct schedule_position){200000, x}), expected);
    }
    near(schedule_learning_rate(s, (struct schedule_position){220000, 14300000000000}), 2.2e-5);
    near(schedule_learning_rate(s, (struct schedule_position){225000, 14500000000000}), 2.2e-5);
    near(schedule_learning_rate(s, (struct schedule_position){227000, 14633000000000}), 2.2e-5);
    near(schedule_learning_rate(s, (struct schedule_position){227001, 14633000000001}), 7.3e-6);
    near(schedule_learning_rate(s, (struct schedule_position){230000, 14700000000000}), 7.3e-6);
}

static void test_constant_rate(void **state) {
    (void)state;
    struct run_config config = report();
    struct schedule_section s = config.schedule;
    s.decay_start.unit = s.tail_start.unit = DURATION_NEVER;   // decay_end alone must not decay
    near(schedule_learning_rate(&s, (struct schedule_position){230000, 14700000000000}), 2.2e-4);
    s.warmup.unit = DURATION_NEVER;
    near(schedule_learning_rate(&s, (struct schedule_position){0, 0}), 2.2e-4);
}

static void test_batch_ramp(void **state) {
    (void)state;
    struct run_config config = report();
    assert_int_equal(schedule_batch(&config, (struct schedule_position){0, 0}), 3072);
    // Half way 9216 sequences, which is a multiple of 128; elsewhere cut down to one.
    assert_int_equal(schedule_batch(&config, (struct schedule_position){9000, 234500000000}), 9216);
    assert_int_equal(schedule_batch(&config, (struct schedule_position){9000, 234499999999}), 9216 - 128);
    assert_int_equal(schedule_batch(&config, (struct schedule_position){9000, 469000000000}), 15360);
    assert_int_equal(schedule_batch(&config, (struct schedule_position){9000, 14 * (int64_t)T}), 15360);
    int64_t last = 0;
    for (int64_t x = 0; x < 500000000000; x += 7000000000) {
        int64_t batch = schedule_batch(&config, (struct schedule_position){1, x});
        assert_true(batch >= last && batch % 128 == 0);
        last = batch;
    }
    config.schedule.batch_start = 0;
    assert_int_equal(schedule_batch(&config, (struct schedule_position){0, 0}), 15360);
}

static void test_milestones(void **state) {
    (void)state;
    struct run_config config = report();
    const struct schedule_section *s = &config.schedule;
    near(schedule_gamma(s, (struct schedule_position){1, 1}), 0.001);
    near(schedule_gamma(s, (struct schedule_position){1, 14300000000000}), 0.001);
    near(schedule_gamma(s, (struct schedule_position){1, 14300000000001}), 0);
    near(schedule_lambda(s, (struct schedule_position){1, 1}), 0.3);
    near(schedule_lambda(s, (struct schedule_position){1, 10 * (int64_t)T}), 0.3);
    near(schedule_lambda(s, (struct schedule_position){1, 10 * (int64_t)T + 1}), 0.1);
    near(s->alpha, 0.0001);
}

static void test_end(void **state) {
    (void)state;
    struct train_section train = {.steps = 10};
    assert_false(schedule_ended(&train, (struct schedule_position){9, 1 << 30}));
    assert_true(schedule_ended(&train, (struct schedule_position){10, 1}));
    train = (struct train_section){.tokens = 1000};
    assert_false(schedule_ended(&train, (struct schedule_position){100, 999}));
    assert_true(schedule_ended(&train, (struct schedule_position){1, 1000}));
    near(schedule_fraction(&train, (struct schedule_position){1, 250}), 0.25);
    near(schedule_fraction(&train, (struct schedule_position){1, 2500}), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learning_rate), cmocka_unit_test(test_constant_rate), cmocka_unit_test(test_batch_ramp),
        cmocka_unit_test(test_milestones),    cmocka_unit_test(test_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
