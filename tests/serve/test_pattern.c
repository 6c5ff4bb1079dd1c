// serve/pattern, number_rule: random expressions against PCRE2 on random texts; classes and escapes of ECMA-262; bounds
// of numbers against doubles; intersections.
#include "serve/pattern.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/rng.h"
#include "serve/number_rule.h"
#include "support/test.h"

static uint64_t draws;

static uint64_t below(uint64_t bound) {
    return rng_below(3, 1, draws++, bound);
}

static int compile(struct automaton *automaton, int32_t *row, const char *pattern, bool quoted, struct error *error) {
    struct nfa nfa;
    nfa_init(&nfa, error);
    pattern_add(&nfa, 0, 1, pattern, quoted);
    int code = automaton_from_nfa(row, automaton, &nfa);
    nfa_destroy(&nfa);
    return code;
}

static bool matches(const struct automaton *automaton, int32_t row, const char *text) {
    for (; *text != 0 && row >= 0; text++) {
        row = automaton_next(automaton, row, (uint8_t)*text);
    }
    return row >= 0 && automaton->rows[row].accept;
}

// ---- random expressions ----

static void add_term(char *pattern, int depth);

static void add_alternatives(char *pattern, int depth) {
    for (uint64_t i = 0, count = 1 + below(2); i <= count; i++) {
        add_term(pattern, depth);
        if (i < count && below(4) == 0) {
            strcat(pattern, "|");
        }
    }
}

static void add_term(char *pattern, int depth) {
    static const char *const atoms[] = {"a", "b", "ab", "é", ".", "[ab]", "[^a]", "[b-é]", "\\w", "\\d", "1", "\\x61"};
    static const char *const repeats[] = {"*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "{0,2}"};
    if (depth < 3 && below(4) == 0) {
        strcat(pattern, below(2) ? "(" : "(?:");
        add_alternatives(pattern, depth + 1);
        strcat(pattern, ")");
    } else {
        strcat(pattern, atoms[below(12)]);
    }
    if (below(3) == 0) {
        strcat(pattern, repeats[below(8)]);
    }
}

static void test_against_pcre(void **state) {
    (void)state;
    static const char *const pieces[] = {"a", "b", "é", "1", "c", "z", "日"};
    int hits = 0, misses = 0;
    for (int round = 0; round < 1500; round++) {
        char pattern[2000] = "";
        struct automaton automaton = {0};
        int32_t row;
        strcat(pattern, below(2) ? "^" : "");
        add_alternatives(pattern, 0);
        strcat(pattern, below(2) ? "$" : "");
        struct error error = {0};
        if (compile(&automaton, &row, pattern, false, &error) != 0) {
            fail_msg("%s: %s", pattern, error.text);
        }
        int number;
        PCRE2_SIZE offset;
        pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_DOLLAR_ENDONLY,
                                         &number, &offset, NULL);
        pcre2_match_data *match = pcre2_match_data_create(1, NULL);
        assert_non_null(code);
        for (int i = 0; i < 20; i++) {
            char text[100] = "";
            for (uint64_t k = below(8); k > 0; k--) {
                strcat(text, pieces[below(7)]);
            }
            bool expected = pcre2_match(code, (PCRE2_SPTR)text, strlen(text), 0, 0, match, NULL) >= 0;
            if (matches(&automaton, row, text) != expected) {
                fail_msg("%s %s %s", pattern, expected ? "does not match" : "matches", text);
            }
            hits += expected;
            misses += !expected;
        }
        pcre2_match_data_free(match);
        pcre2_code_free(code);
        automaton_destroy(&automaton);
    }
    assert_true(hits > 3000 && misses > 3000);
}

static void test_spelling(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool expected;
    } cases[] = {
        {"^\\s$", "\"\\t\"", true},
        {"^\\s$", "\"\\u0009\"", true},
        {"^\\s$", "\"\xE3\x80\x80\"", true},
        {"^\\S$", "\"\\t\"", false},
        {"^.$", "\"\\n\"", false},
        {"^[^]$", "\"\\n\"", true},
        {"^[^]$", "\"\\u0000\"", false},
        {"^[]$", "\"a\"", false},
        {"^[\\]\\-\\\\]$", "\"\\\\\"", true},
        {"^[\\]\\-\\\\]$", "\"-\"", true},
        {"^\\u00e9$", "\"é\"", true},
        {"^\\ud83d\\ude00$", "\"😀\"", true},
        {"^\\u{1F600}$", "\"😀\"", true},
        {"^.$", "\"😀\"", true},
        {"^[\\b]$", "\"\\b\"", true},
        {"^\"$", "\"\\\"\"", true},
        {"^(?<name>a)$", "\"a\"", true},
        {"^a{0}$", "\"\"", true},
        {"^a{0}$", "\"a\"", false},
        {"^[\\d-x]$", "\"-\"", true},
        {"", "\"anything\"", true},
        {"^$", "\"\"", true},
        {"^[À-ÿ]$", "\"é\"", true},
        {"^[ -~]*$", "\"a\\\"b\\\\\"", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct automaton automaton = {0};
        struct error error = {0};
        int32_t row;
        int code = compile(&automaton, &row, cases[i].pattern, true, &error);
        if (strcmp(cases[i].pattern, "^[\\d-x]$") == 0) {
            test_assert_error(code, &error, ERROR_ARGUMENT, "range of a class");   // as in ECMA-262 with Unicode
        } else if (code != 0 || matches(&automaton, row, cases[i].text) != cases[i].expected) {
            fail_msg("%s and %s: %s", cases[i].pattern, cases[i].text, error.text);
        }
        automaton_destroy(&automaton);
    }
}

static void test_unsupported(void **state) {
    (void)state;
    static const char *const cases[] = {"(?=a)", "(?!a)", "(?<=a)",      "\\1",  "\\bx",      "\\p{L}",
                                        "a**",   "(",     ")",           "[a",   "a{2,1}",    "a{x}",
                                        "[b-a]", "a^b",   "(a$)b",       "\\",   "\\xg1",     "\\u12",
                                        "*",     "a{1",   "\\u{110000}", "(^a)", "a{999999}", "\\k<a>"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct automaton automaton = {0};
        struct error error = {0};
        int32_t row;
        int code = compile(&automaton, &row, cases[i], true, &error);
        if (code == 0) {
            fail_msg("%s compiles", cases[i]);
        }
        test_assert_error(code, &error, ERROR_ARGUMENT, "is not supported");
        automaton_destroy(&automaton);
    }
}

// ---- numbers ----

static void test_bounds(void **state) {
    (void)state;
    static const double bounds[] = {-1000, -99.5, -1, -0.125, 0,   0.001,     0.1, 1,
                                    1.5,   9,     10, 99.99,  100, 12345.678, 1e10};
    int inside = 0;
    for (int round = 0; round < 300; round++) {
        double low = bounds[below(15)], high = bounds[below(15)];
        bool exclusive = below(2), integer = below(2);
        json_t *minimum = json_real(low), *maximum = json_real(high);
        struct number_limits limits = {exclusive ? NULL : minimum, maximum, exclusive ? minimum : NULL, NULL, NULL};
        struct automaton automaton = {0};
        int32_t row;
        assert_int_equal(number_rule(&row, &automaton, integer, &limits, NULL), 0);
        for (int i = 0; i < 100; i++) {
            char text[40];
            double base = below(2) ? bounds[below(15)] : (double)below(2000) / 8 - 100;
            if (integer) {
                snprintf(text, sizeof text, "%.0f", base + (double)below(3) - 1);
            } else {
                snprintf(text, sizeof text, "%.*f", (int)below(4), base + ((double)below(3) - 1) / 1000);
            }
            double value = strtod(text, NULL);
            bool expected = (exclusive ? value > low : value >= low) && value <= high;
            if (strchr(text, '.') == NULL && strncmp(text, "-0", 2) == 0) {
                continue;
            }
            if (matches(&automaton, row, text) != expected) {
                fail_msg("%s in %s%g, %g]", text, exclusive ? "(" : "[", low, high);
            }
            inside += expected;
        }
        automaton_destroy(&automaton);
        json_decref(minimum);
        json_decref(maximum);
    }
    assert_true(inside > 2000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_pcre),
        cmocka_unit_test(test_spelling),
        cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
