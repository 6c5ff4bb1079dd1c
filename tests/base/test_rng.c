// base/rng.c: the published Philox vectors, ranges, moments, and that rng_permute is a bijection.
#include "base/rng.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "support/test.h"

// Known answers of the Random123 distribution for philox4x32-10 (counter words, key words -> output words).
static void test_philox(void **state) {
    (void)state;
    static const struct {
        uint64_t seed, stream, counter;
        uint32_t word[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct rng_block block = rng_philox(known[i].seed, known[i].stream, known[i].counter);
        assert_memory_equal(block.word, known[i].word, sizeof block.word);
    }
    assert_int_equal(rng_u64(0, 0, 0), 0xe169c58d6627e8d5);
}

static void test_uniform(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    double sum = 0, sum_double = 0;
    int buckets[16] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        float value = rng_uniform(1, 2, i);
        double fine = rng_uniform_double(1, 3, i);
        assert_true(value >= 0 && value < 1 && fine >= 0 && fine < 1);
        sum += (double)value;
        sum_double += fine;
        buckets[(int)(value * 16)]++;
    }
    assert_true(sum / COUNT > 0.495 && sum / COUNT < 0.505);
    assert_true(sum_double / COUNT > 0.495 && sum_double / COUNT < 0.505);
    for (int i = 0; i < 16; i++) {
        assert_true(abs(buckets[i] - COUNT / 16) < 400);   // five standard deviations
    }
}

static void test_below(void **state) {
    (void)state;
    int seen[7] = {0};
    for (uint64_t i = 0; i < 7000; i++) {
        uint64_t value = rng_below(5, 6, i, 7);
        assert_true(value < 7);
        seen[value]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_true(abs(seen[i] - 1000) < 150);
    }
    assert_int_equal(rng_below(5, 6, 7, 1), 0);
    assert_true(rng_below(5, 6, 7, UINT64_MAX) < UINT64_MAX);
}

static void below_zero(void *argument) {
    (void)argument;
    rng_below(0, 0, 0, 0);
}

static void permute_outside(void *argument) {
    (void)argument;
    rng_permute(0, 0, 5, 5);
}

static void test_misuse(void **state) {
    (void)state;
    char text[256];
    assert_int_equal(test_child_signal(below_zero, NULL, text, sizeof text), SIGABRT);
    assert_int_equal(test_child_signal(permute_outside, NULL, text, sizeof text), SIGABRT);
}

static void test_normal(void **state) {
    (void)state;
    enum { COUNT = 200000 };
    double sum = 0, squares = 0, fourth = 0;
    int beyond = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        double value = (double)rng_normal(11, rng_hash_string("normal"), i);
        sum += value;
        squares += value * value;
        fourth += value * value * value * value;
        beyond += value > 1.959964 || value < -1.959964;
    }
    assert_true(sum / COUNT > -0.012 && sum / COUNT < 0.012);
    assert_true(squares / COUNT > 0.98 && squares / COUNT < 1.02);
    assert_true(fourth / COUNT > 2.85 && fourth / COUNT < 3.15);
    assert_true(beyond > COUNT * 0.0475 && beyond < COUNT * 0.0525);
}

static void test_streams_differ(void **state) {
    (void)state;
    assert_true(rng_u64(1, 2, 3) != rng_u64(2, 2, 3));
    assert_true(rng_u64(1, 2, 3) != rng_u64(1, 3, 3));
    assert_true(rng_u64(1, 2, 3) != rng_u64(1, 2, 4));
    assert_int_equal(rng_hash_string(""), 0xcbf29ce484222325);
    assert_int_equal(rng_hash_string("a"), 0xaf63dc4c8601ec8c);   // published FNV-1a value
}

static void test_permute(void **state) {
    (void)state;
    static const uint64_t counts[] = {1, 2, 3, 4, 5, 16, 17, 1000, 4097, 65536};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        uint64_t count = counts[c];
        unsigned char *seen = calloc(count, 1);
        uint64_t in_place = 0;
        for (uint64_t i = 0; i < count; i++) {
            uint64_t image = rng_permute(9, 1, i, count);
            assert_true(image < count);
            assert_int_equal(seen[image], 0);
            seen[image] = 1;
            in_place += image == i;
        }
        assert_true(count < 16 || in_place < 12);   // a random permutation fixes one point on average
        free(seen);
    }
    assert_true(rng_permute(9, 1, UINT64_MAX - 5, UINT64_MAX - 1) < UINT64_MAX - 1);
    int same = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        same += rng_permute(9, 1, i, 1000) == rng_permute(9, 2, i, 1000);
    }
    assert_true(same < 15);   // another stream, another shuffle
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),  cmocka_unit_test(test_uniform), cmocka_unit_test(test_below),
        cmocka_unit_test(test_misuse),  cmocka_unit_test(test_normal),  cmocka_unit_test(test_streams_differ),
        cmocka_unit_test(test_permute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
