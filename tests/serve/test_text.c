// serve/text: JSON strings and numbers, UTF-8, growth, failing memory.
#include "serve/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/test.h"

static void expect_json(const char *data, size_t size, const char *expected) {
    struct text text = {0};
    text_json(&text, data, size);
    assert_string_equal(text.data, expected);
    text_destroy(&text);
}

static void test_strings(void **state) {
    (void)state;
    expect_json("", 0, "\"\"");
    expect_json(NULL, 0, "\"\"");
    expect_json("a\"b\\c\n\r\t\x01\x7f", 10, "\"a\\\"b\\\\c\\n\\r\\t\\u0001\x7f\"");
    expect_json("a\0b", 3, "\"a\\u0000b\"");
    expect_json("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"");
}

static void test_bad_utf8(void **state) {
    (void)state;
    expect_json("\xff", 1, "\"\xef\xbf\xbd\"");
    expect_json("a\xe2\x82", 3, "\"a\xef\xbf\xbd\xef\xbf\xbd\"");                 // cut
    expect_json("\xc0\x80", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");                   // overlong
    expect_json("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");   // a surrogate
    assert_int_equal(utf8_length((const unsigned char *)"\xf4\x90\x80\x80", 4), 0);
    assert_int_equal(utf8_length((const unsigned char *)"\xf4\x8f\xbf\xbf", 4), 4);
    assert_int_equal(utf8_length((const unsigned char *)"\xe0\x9f\xbf", 3), 0);
    assert_true(utf8_is_valid("\xc3\xa4", 2));
    assert_false(utf8_is_valid("\xc3\xa4\xc3", 3));
    assert_int_equal(utf8_count("a\xc3\xa4\xe2\x82\xac", 6), 3);
}

static void test_numbers(void **state) {
    (void)state;
    struct text text = {0};
    float value = -0.1234567f;
    text_number(&text, (double)value);
    assert_true(strtod(text.data, NULL) == (double)value);
    text_clear(&text);
    text_number(&text, -INFINITY);
    assert_string_equal(text.data, "-9999.0");
    text_destroy(&text);
}

static void test_growth(void **state) {
    (void)state;
    struct text text = {0};
    char long_word[2000];
    memset(long_word, 'x', sizeof long_word - 1);
    long_word[sizeof long_word - 1] = '\0';
    text_format(&text, "%s|%d", long_word, 7);
    assert_int_equal(text.size, 2001);
    assert_string_equal(text.data + 1999, "|7");
    text_drop(&text, 2000);
    assert_string_equal(text.data, "7");
    text_destroy(&text);
}

static void test_failing_memory_is_kept(void **state) {
    (void)state;
    struct text text = {0};
    text_string(&text, "begin");
    memory_fail_at(1);
    text_format(&text, "%1000d", 1);
    memory_fail_at(0);
    assert_true(text.failed);
    text_string(&text, "more");
    assert_string_equal(text.data, "begin");
    text_destroy(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_bad_utf8),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_failing_memory_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
