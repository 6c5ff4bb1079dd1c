// serve/stop: however a text is cut into pieces, the same is released, and it ends in front of the first stop string.
#include "serve/stop.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/test.h"

static void add(struct stop_list *list, const char *string) {
    list->strings[list->count] = memory_copy_string(string, NULL);
    list->sizes[list->count++] = strlen(string);
}

// Feeds the text in pieces of `step` bytes (0 = of random sizes).
static bool scan(struct text *out, const struct stop_list *list, const char *text, size_t step) {
    struct stop_scanner scanner = {0};
    size_t size = strlen(text);
    for (size_t at = 0; at < size;) {
        size_t piece = step > 0 ? step : (size_t)(rand() % 5 + 1);
        piece = piece < size - at ? piece : size - at;
        stop_scanner_push(out, &scanner, list, text + at, piece);
        at += piece;
    }
    bool matched = scanner.matched;
    if (!matched) {
        stop_scanner_finish(out, &scanner);
    }
    stop_scanner_destroy(&scanner);
    return matched;
}

static void expect(const struct stop_list *list, const char *text, const char *released, bool matched) {
    for (size_t step = 0; step < 9; step++) {
        struct text out = {0};
        assert_int_equal(scan(&out, list, text, step), matched);
        assert_string_equal(out.data != NULL ? out.data : "", released);
        text_destroy(&out);
    }
}

static void test_matches(void **state) {
    (void)state;
    struct stop_list list = {0};
    add(&list, "END");
    add(&list, "\n\n");
    add(&list, "ENOUGH");
    expect(&list, "text ENOENOUGH and more", "text ENO", true);
    expect(&list, "text EN", "text EN", false);
    expect(&list, "one\ntwo\n\nthree END", "one\ntwo", true);
    expect(&list, "END", "", true);
    expect(&list, "EEEND", "EE", true);
    expect(&list, "", "", false);
    stop_list_destroy(&list);
}

static void test_overlaps(void **state) {
    (void)state;
    struct stop_list list = {0};
    add(&list, "abab");
    add(&list, "bac");
    expect(&list, "xababab", "x", true);
    expect(&list, "xabac", "xa", true);
    expect(&list, "xabaab", "xabaab", false);
    stop_list_destroy(&list);
}

// The string that is complete first ends the answer, also inside a longer one that began before; of two that end
// together the longer one.
static void test_one_inside_another(void **state) {
    (void)state;
    struct stop_list list = {0};
    add(&list, "xyz");
    add(&list, "y");
    add(&list, "cab");
    add(&list, "b");
    expect(&list, "wxyz", "wx", true);
    expect(&list, "wx", "wx", false);
    expect(&list, "acab", "a", true);
    stop_list_destroy(&list);
}

static void test_holds_back_no_more_than_needed(void **state) {
    (void)state;
    struct stop_list list = {0};
    add(&list, "STOP");
    struct stop_scanner scanner = {0};
    struct text out = {0};
    stop_scanner_push(&out, &scanner, &list, "all of this S", 13);
    assert_string_equal(out.data, "all of this ");
    stop_scanner_push(&out, &scanner, &list, "T", 1);
    assert_string_equal(out.data, "all of this ");
    stop_scanner_push(&out, &scanner, &list, "x", 1);
    assert_string_equal(out.data, "all of this STx");
    assert_false(stop_scanner_push(&out, &scanner, &list, "ST", 2));
    assert_true(stop_scanner_push(&out, &scanner, &list, "OPmore", 6));
    assert_true(stop_scanner_push(&out, &scanner, &list, "even more", 9));
    assert_string_equal(out.data, "all of this STx");
    stop_scanner_destroy(&scanner);
    text_destroy(&out);
    stop_list_destroy(&list);
}

static void test_nothing_to_look_for(void **state) {
    (void)state;
    struct stop_list list = {0};
    expect(&list, "any text", "any text", false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches),
        cmocka_unit_test(test_overlaps),
        cmocka_unit_test(test_one_inside_another),
        cmocka_unit_test(test_holds_back_no_more_than_needed),
        cmocka_unit_test(test_nothing_to_look_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
