// serve/api_key: which headers are let in.
#include "serve/api_key.h"

#include <string.h>

#include "support/test.h"

static void test_keys(void **state) {
    (void)state;
    char *directory = test_directory();
    const char *path = test_path(directory, "keys");
    static const char text[] = "# for the office\nsk-first\n\n  sk-second \r\nsk-third";
    test_write_file(path, text, sizeof text - 1);
    struct api_keys keys;
    struct error error = {0};
    assert_int_equal(api_keys_read(&keys, path, &error), 0);
    assert_int_equal(keys.count, 3);
    assert_true(api_keys_accept(&keys, "Bearer sk-first"));
    assert_true(api_keys_accept(&keys, "bearer  sk-second"));
    assert_true(api_keys_accept(&keys, "Bearer sk-third"));
    static const char *const refused[] = {"",
                                          "Bearer",
                                          "Bearer ",
                                          "sk-first",
                                          "Bearer sk-firs",
                                          "Bearer sk-firstsk-first",
                                          "Bearer sk-first ",
                                          "Bearer # for the office",
                                          "Basic sk-first"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_false(api_keys_accept(&keys, refused[i]));
    }
    assert_false(api_keys_accept(&keys, NULL));
    api_keys_destroy(&keys);
    assert_true(api_keys_accept(&keys, NULL));   // no keys: nobody is asked
    test_directory_remove(directory);
}

static void test_empty_file(void **state) {
    (void)state;
    char *directory = test_directory();
    const char *path = test_path(directory, "keys");
    test_write_file(path, "\n# none\n", 8);
    struct api_keys keys;
    struct error error = {0};
    test_assert_error(api_keys_read(&keys, path, &error), &error, ERROR_FORMAT, "found none");
    error = (struct error){0};
    test_assert_error(api_keys_read(&keys, test_path(directory, "missing"), &error), &error, ERROR_IO, "missing");
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keys), cmocka_unit_test(test_empty_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
