// base/json.c: messages that name place, key and type; writing and reading back; failing memory.
#include "base/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "support/test.h"

static json_t *parse(const char *text) {
    json_t *root;
    struct error error = {0};
    if (json_parse(&root, text, strlen(text), "test.json", &error) != 0) {
        fail_msg("%s", error.text);
    }
    return root;
}

static void test_malformed(void **state) {
    (void)state;
    static const struct {
        const char *text, *fragment;
    } cases[] = {
        {"", "c.json: line 1, column 0:"},
        {"{\"a\": 1,\n \"b\" 2}", "c.json: line 2, column 6:"},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{\"a\": 123456789012345678901234567890}", "too big integer"},
        {"[\"\xff\"]", "unable to decode byte 0xff"},
        {"{\"a\": NaN}", "invalid token"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *root;
        struct error error = {0};
        int code = json_parse(&root, cases[i].text, strlen(cases[i].text), "c.json", &error);
        test_assert_error(code, &error, ERROR_FORMAT, cases[i].fragment);
        assert_null(root);
        assert_null(strchr(error.text, '\n'));
    }
    // Deep nesting is refused, not a stack overflow.
    char deep[20001];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    json_t *root;
    struct error error = {0};
    test_assert_error(json_parse(&root, deep, strlen(deep), "deep", &error), &error, ERROR_FORMAT, "depth");
}

static void test_typed_access(void **state) {
    (void)state;
    json_t *root = parse("{\"i\": 7, \"r\": 0.5, \"s\": \"text\", \"t\": true, \"n\": null, \"a\": [], \"o\": {}}");
    int64_t integer;
    double number;
    bool boolean;
    const char *string;
    struct error error = {0};
    assert_int_equal(json_get_integer(&integer, root, "i", "f", &error), 0);
    assert_int_equal(integer, 7);
    assert_int_equal(json_get_number(&number, root, "i", "f", &error), 0);
    assert_true(number == 7);
    assert_int_equal(json_get_number(&number, root, "r", "f", &error), 0);
    assert_true(number == 0.5);
    assert_int_equal(json_get_string(&string, root, "s", "f", &error), 0);
    assert_string_equal(string, "text");
    assert_int_equal(json_get_boolean_or(&boolean, false, root, "t", "f", &error), 0);
    assert_true(boolean);
    // Fallbacks for what is missing or null.
    assert_int_equal(json_get_integer_or(&integer, 3, root, "x", "f", &error), 0);
    assert_int_equal(integer, 3);
    assert_int_equal(json_get_number_or(&number, 1.5, root, "n", "f", &error), 0);
    assert_true(number == 1.5);
    assert_int_equal(json_get_boolean_or(&boolean, true, root, "x", "f", &error), 0);
    assert_true(boolean);
    assert_int_equal(json_get_string_or(&string, "other", root, "n", "f", &error), 0);
    assert_string_equal(string, "other");
    // Wrong types: one message each.
    test_assert_error(json_get_integer(&integer, root, "s", "f.json", &error), &error, ERROR_FORMAT,
                      "f.json: key \"s\": expected an integer, found a string");
    error_clear(&error);
    test_assert_error(json_get_integer(&integer, root, "x", "f", &error), &error, ERROR_FORMAT, "found nothing");
    error_clear(&error);
    test_assert_error(json_get_integer_or(&integer, 1, root, "r", "f", &error), &error, ERROR_FORMAT,
                      "found a real number");
    error_clear(&error);
    test_assert_error(json_get_number_or(&number, 1, root, "a", "f", &error), &error, ERROR_FORMAT, "found an array");
    error_clear(&error);
    test_assert_error(json_get_boolean_or(&boolean, true, root, "i", "f", &error), &error, ERROR_FORMAT,
                      "true or false");
    error_clear(&error);
    test_assert_error(json_get_string_or(&string, "", root, "o", "f", &error), &error, ERROR_FORMAT, "found an object");
    error_clear(&error);
    test_assert_error(json_get_string(&string, root, "t", "f", &error), &error, ERROR_FORMAT, "found true");
    json_decref(root);
}

static void test_write(void **state) {
    (void)state;
    char *directory = test_directory();
    const char *path = test_path(directory, "out.json");
    json_t *root = parse("{\"z\": 1, \"eps\": 1e-06, \"a\": [0.1, \"\xc3\xa9\"], \"e\": {}}");
    struct error error = {0};
    assert_int_equal(json_write(root, path, &error), 0);
    char *text = test_read_file(path, NULL);
    assert_string_equal(
        text, "{\n  \"z\": 1,\n  \"eps\": 1e-6,\n  \"a\": [\n    0.1,\n    \"\xc3\xa9\"\n  ],\n  \"e\": {}\n}\n");
    free(text);
    json_t *again;
    assert_int_equal(json_read(&again, path, 1 << 20, &error), 0);
    assert_true(json_equal(root, again));
    json_decref(again);
    // A value that needs 17 digits keeps its bits.
    json_t *third = json_pack("{s:f}", "x", 1.0 / 3.0 + 1e-16);
    assert_int_equal(json_write(third, path, &error), 0);
    assert_int_equal(json_read(&again, path, 1 << 20, &error), 0);
    assert_true(json_equal(third, again));
    json_decref(again);
    json_decref(third);
    test_assert_error(json_read(&again, path, 5, &error), &error, ERROR_LIMIT, "more than 5 bytes");
    error_clear(&error);
    test_assert_error(json_write(root, test_path(directory, "no/out.json"), &error), &error, ERROR_IO, "cannot create");
    for (int n = 1; n < 5; n++) {
        error_clear(&error);
        file_fail_at(n, EIO);
        assert_int_equal(json_write(root, test_path(directory, "new.json"), &error), ERROR_IO);
        file_fail_at(0, 0);
        assert_non_null(strstr(error.text, "Input/output error"));
        unlink(test_path(directory, "new.json"));
    }
    json_decref(root);
    test_directory_remove(directory);
}

static int parse_and_write(void *argument, struct error *error) {
    static const char text[] = "{\"a\": [1, 2.5, \"three\", {\"four\": null}], \"b\": {\"c\": \"d\"}}";
    json_t *root;
    int code = json_parse(&root, text, sizeof text - 1, "test", error);
    if (code == 0) {
        code = json_write(root, argument, error);
    }
    json_decref(root);
    return code;
}

static void test_failing_allocations(void **state) {
    (void)state;
    char *directory = test_directory();
    assert_true(test_failing_memory(parse_and_write, (void *)test_path(directory, "m.json")) > 10);
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_typed_access),
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
