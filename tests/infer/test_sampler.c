// infer/sampler: greedy ties, exactness of the drawn distribution, the nucleus rule against a sorted reference,
// reproducibility.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "infer/sampler.h"
#include "support/op_fixture.h"

#define VOCAB 300
#define DRAWS 60000

static void fill_logits(float *logits, uint64_t seed, float spread) {
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = spread * rng_normal(seed, 1, (uint64_t)i);
    }
}

static struct op_fixture fixture;

static int32_t choose(struct sampler *sampler, const float *logits, const struct minke_sampling *sampling,
                      int64_t position) {
    struct sampler_text text = {.count = position};
    return sampler_choose(sampler, &fixture.op, logits, sampling, &text, NULL);
}

static void test_greedy(void **state) {
    (void)state;
    float logits[5] = {1, 3, NAN, 3, -INFINITY};
    struct sampler sampler;
    assert_int_equal(sampler_create(&sampler, 5, NULL), 0);
    struct minke_sampling greedy = {.temperature = 0, .top_p = 1, .seed = 7};
    assert_int_equal(choose(&sampler, logits, &greedy, 0), 1);
    float all_nan[5] = {NAN, NAN, NAN, NAN, NAN};
    assert_int_equal(choose(&sampler, all_nan, &greedy, 0), 0);
    struct minke_sampling warm = {.temperature = 1, .top_p = 0.9f, .seed = 7};
    assert_int_equal(choose(&sampler, all_nan, &warm, 0), 0);
    for (int64_t position = 0; position < 1000; position++) {
        int32_t id = choose(&sampler, logits, &warm, position);
        assert_true(id == 1 || id == 3 || id == 0);   // never the NaN, never probability zero
    }
    sampler_destroy(&sampler);
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

// Probabilities after temperature and top-p, by sorting, in double precision.
static void reference(double *probability, const float *logits, double temperature, double top_p) {
    double sorted[VOCAB], total = 0, maximum = -INFINITY, edge = 0, mass = 0;
    for (int i = 0; i < VOCAB; i++) {
        maximum = fmax(maximum, (double)logits[i]);
    }
    for (int i = 0; i < VOCAB; i++) {
        total += sorted[i] = probability[i] = exp(((double)logits[i] - maximum) / temperature);
    }
    qsort(sorted, VOCAB, sizeof sorted[0], descending);
    for (int i = 0; i < VOCAB && mass < top_p * total; i++) {
        mass += edge = sorted[i];
    }
    for (int i = 0; i < VOCAB; i++) {
        probability[i] = probability[i] >= edge ? probability[i] / mass : 0;
    }
}

static void check_distribution(float temperature, float top_p, uint64_t seed) {
    float logits[VOCAB];
    double wanted[VOCAB];
    static int64_t counts[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        counts[i] = 0;
    }
    fill_logits(logits, seed, 2.0f);
    reference(wanted, logits, (double)temperature, (double)top_p);
    struct sampler sampler;
    assert_int_equal(sampler_create(&sampler, VOCAB, NULL), 0);
    struct minke_sampling sampling = {.temperature = temperature, .top_p = top_p, .seed = seed};
    for (int64_t draw = 0; draw < DRAWS; draw++) {
        counts[choose(&sampler, logits, &sampling, draw)]++;
    }
    sampler_destroy(&sampler);
    for (int i = 0; i < VOCAB; i++) {
        double expected = wanted[i] * DRAWS, deviation = fabs((double)counts[i] - expected);
        if (wanted[i] == 0) {
            assert_int_equal(counts[i], 0);
        }
        // Five standard deviations of a binomial count (plus one draw for tiny expectations).
        assert_true(deviation <= 5 * sqrt(expected) + 1);
    }
}

static void test_distribution(void **state) {
    (void)state;
    check_distribution(1.0f, 1.0f, 1);
    check_distribution(0.6f, 1.0f, 2);
    check_distribution(1.0f, 0.9f, 3);
    check_distribution(1.5f, 0.5f, 4);
    check_distribution(1.0f, 0.0f, 5);   // only the likeliest token
}

static void test_reproducible(void **state) {
    (void)state;
    float logits[VOCAB];
    fill_logits(logits, 9, 1.0f);
    struct sampler sampler;
    assert_int_equal(sampler_create(&sampler, VOCAB, NULL), 0);
    struct minke_sampling a = {.temperature = 1, .top_p = 0.95f, .seed = 11}, b = a;
    b.seed = 12;
    int same = 0;
    for (int64_t position = 0; position < 200; position++) {
        int32_t first = choose(&sampler, logits, &a, position);
        same += choose(&sampler, logits, &b, position) == first;
        assert_int_equal(choose(&sampler, logits, &a, position), first);
    }
    assert_true(same < 60);   // another seed is another text
    sampler_destroy(&sampler);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_reproducible),
    };
    op_fixture_open(&fixture, ISA_BEST, 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    op_fixture_close(&fixture);
    return failed;
}
