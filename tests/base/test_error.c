// base/error.c: first error wins, one clean line, prefixes, CHECK.
#include "base/error.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "support/test.h"

static void test_first_error_wins(void **state) {
    (void)state;
    struct error error = {0};
    assert_int_equal(error_set(&error, ERROR_FORMAT, "%s: %d", "a", 7), ERROR_FORMAT);
    assert_int_equal(error_set(&error, ERROR_LIMIT, "later"), ERROR_LIMIT);
    assert_int_equal(error.code, ERROR_FORMAT);
    assert_string_equal(error.text, "a: 7");
    errno = ENOENT;
    assert_int_equal(error_set_errno(&error, "later"), ERROR_IO);
    assert_string_equal(error.text, "a: 7");
    error_clear(&error);
    assert_int_equal(error.code, 0);
    assert_int_equal(error_set(&error, ERROR_LIMIT, "now"), ERROR_LIMIT);
    assert_string_equal(error.text, "now");
}

static void test_null_error(void **state) {
    (void)state;
    assert_int_equal(error_set(NULL, ERROR_STATE, "x"), ERROR_STATE);
    errno = ENOMEM;
    assert_int_equal(error_set_errno(NULL, "x"), ERROR_MEMORY);
    assert_int_equal(error_prefix(NULL, "x"), 0);
    error_clear(NULL);
}

static void test_errno(void **state) {
    (void)state;
    struct error error = {0};
    errno = ENOENT;
    assert_int_equal(error_set_errno(&error, "%s: cannot open", "f"), ERROR_IO);
    assert_string_equal(error.text, "f: cannot open: No such file or directory");
    error_clear(&error);
    errno = ENOMEM;
    assert_int_equal(error_set_errno(&error, "map"), ERROR_MEMORY);
    assert_string_equal(error.text, "map: Cannot allocate memory");
}

static void test_prefix(void **state) {
    (void)state;
    struct error error = {0};
    assert_int_equal(error_prefix(&error, "nothing"), 0);
    assert_int_equal(error.code, 0);
    error_set(&error, ERROR_FORMAT, "bad key");
    assert_int_equal(error_prefix(&error, "file %d", 3), ERROR_FORMAT);
    assert_string_equal(error.text, "file 3: bad key");
}

static void test_one_line(void **state) {
    (void)state;
    struct error error = {0};
    error_set(&error, ERROR_IO, "a\nb\tc\033[31md\177 \xc3\xa9");
    assert_string_equal(error.text, "a b c?[31md? \xc3\xa9");
}

static void test_long_text(void **state) {
    (void)state;
    char path[2000];
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = '\0';
    struct error error = {0};
    errno = ENOSPC;
    error_set_errno(&error, "%s", path);
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
    assert_non_null(strstr(error.text, ": No space left on device"));
    error_prefix(&error, "%s", path);
    assert_int_equal(strlen(error.text), sizeof error.text - 1);

    // A two-byte character that the end of the buffer splits disappears as a whole.
    struct error cut = {0};
    path[0] = 'x';
    for (size_t i = 1; i + 2 < sizeof path; i += 2) {
        memcpy(path + i, "\xc3\xa9", 2);
    }
    path[sizeof path - 2] = '\0';
    error_set(&cut, ERROR_IO, "%s", path);
    size_t length = strlen(cut.text);
    assert_int_equal(length % 2, 1);   // the x and whole characters
    assert_true(length >= sizeof cut.text - 3);
    error_clear(&cut);
    error_set(&cut, ERROR_IO, "y%s", path);   // shifted by one: now the end fits
    assert_int_equal(strlen(cut.text) % 2, 0);
}

static void fail_check(void *argument) {
    int rows = *(int *)argument;
    CHECK(rows > 0, "%d rows", rows);
}

static void test_check(void **state) {
    (void)state;
    char text[512];
    int rows = 3;
    assert_int_equal(test_child_signal(fail_check, &rows, text, sizeof text), 0);
    rows = -2;
    assert_int_equal(test_child_signal(fail_check, &rows, text, sizeof text), SIGABRT);
    assert_non_null(strstr(text, "test_error.c"));
    assert_non_null(strstr(text, "rows > 0: -2 rows"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_error_wins),
        cmocka_unit_test(test_null_error),
        cmocka_unit_test(test_errno),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_one_line),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
