// base/spelling.c: known distances, words that are too long.
#include "base/spelling.h"

#include <string.h>

#include "support/test.h"

static void test_distance(void **state) {
    (void)state;
    assert_int_equal(spelling_distance("train", "train"), 0);
    assert_int_equal(spelling_distance("trian", "train"), 2);
    assert_int_equal(spelling_distance("", "abc"), 3);
    assert_int_equal(spelling_distance("abc", ""), 3);
    assert_int_equal(spelling_distance("kitten", "sitting"), 3);
    assert_int_equal(spelling_distance("flaw", "lawn"), 2);
    char word[65];
    memset(word, 'a', 64);
    word[64] = '\0';
    assert_int_equal(spelling_distance(word, "a"), 63);
    word[63] = '\0';
    assert_int_equal(spelling_distance(word, word), 0);
    assert_int_equal(spelling_distance("", word), 63);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
