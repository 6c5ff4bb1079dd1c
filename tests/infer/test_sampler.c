// infer/sampler: greedy ties, exactness of the drawn distribution, the nucleus rule against a sorted reference,
// reproducibility.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static int descending_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
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

// top-k, min-p and their order with top-p against lists made by sorting.
static void test_cuts(void **state) {
    (void)state;
    float logits[VOCAB], sorted[VOCAB];
    fill_logits(logits, 21, 2.0f);
    logits[40] = logits[17];   // a tie
    memcpy(sorted, logits, sizeof sorted);
    qsort(sorted, VOCAB, sizeof sorted[0], descending_floats);
    struct sampler sampler;
    assert_int_equal(sampler_create(&sampler, VOCAB, NULL), 0);
    for (int64_t k = 1; k <= VOCAB; k += 1 + k / 4) {
        bool seen[VOCAB] = {false};
        int64_t distinct = 0;
        struct minke_sampling sampling = {.temperature = 50, .top_p = 1, .seed = 3, .top_k = k};   // nearly flat
        for (int64_t draw = 0; draw < 40 * k + 200; draw++) {
            int32_t id = choose(&sampler, logits, &sampling, draw);
            assert_true(logits[id] >= sorted[k - 1]);
            distinct += !seen[id];
            seen[id] = true;
        }
        assert_true(distinct <= k && (k > 20 || distinct == k));
    }
    // Of two equal ones at the edge the lower id stays.
    int64_t rank = 1;
    while (sorted[rank - 1] > logits[17]) {
        rank++;
    }
    struct minke_sampling edge = {.temperature = 50, .top_p = 1, .seed = 3, .top_k = rank};
    bool lower = false;
    for (int64_t draw = 0; draw < 60 * rank; draw++) {
        int32_t id = choose(&sampler, logits, &edge, draw);
        assert_int_not_equal(id, 40);
        lower = lower || id == 17;
    }
    assert_true(lower);
    // min-p after temperature: logits at least max + T ln(min_p).
    struct minke_sampling least = {.temperature = 2, .top_p = 1, .seed = 5, .min_p = 0.1f};
    bool near_edge = false;
    for (int64_t draw = 0; draw < 4000; draw++) {
        float gap = sorted[0] - logits[choose(&sampler, logits, &least, draw)];
        assert_true(gap <= 2 * 2.302586f);
        near_edge = near_edge || gap > 2 * 2.0f;
    }
    assert_true(near_edge);
    // top-k 1 and top-p 0 are greedy; top_p is of what top_k left.
    struct minke_sampling one = {.temperature = 1, .top_p = 1, .seed = 5, .top_k = 1};
    struct minke_sampling both = {.temperature = 50, .top_p = 0.5f, .seed = 5, .top_k = 4};
    for (int64_t draw = 0; draw < 200; draw++) {
        assert_true(logits[choose(&sampler, logits, &one, draw)] == sorted[0]);
        assert_true(logits[choose(&sampler, logits, &both, draw)] >= sorted[2]);
    }
    sampler_destroy(&sampler);
}

// Bias, then repetition, frequency and presence penalties, then the filter.
static void forbid(void *argument, uint64_t *allowed, int64_t vocab_size) {
    (void)vocab_size;
    int64_t id = *(const int64_t *)argument;
    allowed[id / 64] &= ~(1ull << (id % 64));
}

static void test_penalties(void **state) {
    (void)state;
    float logits[6] = {2.0f, 1.9f, 1.5f, -1.0f, -1.2f, 0.0f};
    const int32_t ids[] = {0, 3, 1, 1, 5};   // two of the prompt, three generated
    struct sampler_text text = {ids, 2, 5};
    struct sampler sampler;
    assert_int_equal(sampler_create(&sampler, 6, NULL), 0);
    struct minke_sampling plain = {.top_p = 1}, tried = plain;
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &plain, &text, NULL), 0);
    tried.repetition_penalty = 1.2f;   // 1.67, 1.58, 1.5, -1.2, -1.2, 0
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &tried, &text, NULL), 0);
    tried.repetition_penalty = 1.5f;   // 1.33, 1.27, 1.5, ...
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &tried, &text, NULL), 2);
    tried = plain;
    tried.presence_penalty = 5;   // of generated tokens only: 0 is of the prompt
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &tried, &text, NULL), 0);
    struct minke_logit_bias bias[] = {{1, 0.3f}, {0, -1}};
    tried = plain;
    tried.logit_bias = bias;
    tried.logit_bias_count = 2;   // 1.0, 2.2, 1.5
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &tried, &text, NULL), 1);
    tried.frequency_penalty = 0.3f;   // 1 was generated twice: 1.6
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &tried, &text, NULL), 1);
    tried.frequency_penalty = 0.4f;   // 1.4
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &tried, &text, NULL), 2);
    int64_t forbidden = 2;
    struct minke_token_filter filter = {&forbidden, forbid, NULL};
    assert_int_equal(sampler_choose(&sampler, &fixture.op, logits, &tried, &text, &filter), 1);
    for (int i = 0; i < 6; i++) {   // nothing is left of the counts
        assert_int_equal(sampler.seen[i], 0);
        assert_int_equal(sampler.generated[i], 0);
    }
    sampler_destroy(&sampler);
}

// The likeliest tokens: order, ties, NaN, fewer than asked for; log-probabilities against double precision.
static void test_likeliest(void **state) {
    (void)state;
    float logits[VOCAB];
    fill_logits(logits, 33, 3.0f);
    logits[9] = logits[200];
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) {
        sum += exp((double)logits[i]);
    }
    struct minke_token_probability top[20];
    struct row_probabilities row = row_probabilities(&fixture.op, logits, VOCAB);
    for (int64_t count = 0; count <= 20; count += 5) {
        assert_int_equal(row_likeliest(top, count, &row, logits, VOCAB), count);
        for (int64_t t = 0; t < count; t++) {
            int64_t before = 0;
            for (int i = 0; i < VOCAB; i++) {
                before += logits[i] > logits[top[t].id] || (logits[i] == logits[top[t].id] && i < top[t].id);
            }
            assert_int_equal(before, t);
            assert_true(fabs((double)top[t].log_probability - ((double)logits[top[t].id] - log(sum))) < 2e-6);
        }
    }
    float few[3] = {1, NAN, 2};
    assert_int_equal(row_likeliest(top, 20, &row, few, 3), 2);
    assert_int_equal(top[0].id, 2);
    assert_int_equal(top[1].id, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_distribution), cmocka_unit_test(test_reproducible),
        cmocka_unit_test(test_cuts),   cmocka_unit_test(test_penalties),    cmocka_unit_test(test_likeliest),
    };
    op_fixture_open(&fixture, ISA_BEST, 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    op_fixture_close(&fixture);
    return failed;
}
