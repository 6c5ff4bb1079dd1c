// src/app/options.c: every form of an option, ranges, choices, positionals, one-line errors, help.
#include "app/options.h"

#include <string.h>

#include "app/formats.h"
#include "support/test.h"

static struct {
    bool verbose, seed_given;
    int64_t count, seed;
    double temperature;
    const char *dtype, *model, *file;
    char **rest;
    int rest_count;
} values;

static const struct command_option options[] = {
    {.name = "verbose", .letter = 'v', .help = "say more", .flag = &values.verbose},
    {.name = "tokens",
     .letter = 'n',
     .argument = "N",
     .help = "how many",
     .integer = &values.count,
     .minimum = 1,
     .maximum = 100},
    {.name = "seed", .argument = "S", .help = "seed", .integer = &values.seed, .given = &values.seed_given},
    {.name = "temp", .argument = "T", .help = "temperature", .number = &values.temperature, .least = 0, .most = 2},
    {.name = "dtype", .argument = "D", .help = "format", .text = &values.dtype, .choices = "bf16|fp8|f32"},
    {0},
};
static const struct command_positional one_or_two[] = {
    {.name = "MODEL_DIR", .help = "a model", .text = &values.model},
    {.name = "FILE", .help = "a file", .text = &values.file, .optional = true},
    {0},
};
static const struct command_positional many[] = {
    {.name = "OUT", .help = "output", .text = &values.model},
    {.name = "FILES", .help = "inputs", .list = &values.rest, .count = &values.rest_count, .minimum = 1},
    {0},
};
static struct common_options common;

static int read_line(const struct command_positional *positionals, const char *line, struct error *error) {
    static char text[512];
    static char *argv[32];
    memset(&values, 0, sizeof values);
    memset(&common, 0, sizeof common);
    *error = (struct error){0};
    strcpy(text, "command ");
    strncat(text, line, sizeof text - 10);
    int argc = 0;
    for (char *word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    const struct command_syntax syntax = {
        .name = "command", .summary = "Tests.", .options = options, .positionals = positionals, .common = &common};
    return options_read(&syntax, argc, argv, error);
}

static void test_forms(void **state) {
    (void)state;
    struct error error;
    assert_int_equal(
        read_line(one_or_two, "-v -n 5 dir --seed=-3 --temp 0.5 --dtype=fp8 --threads 2 --isa avx2 --quiet", &error),
        0);
    assert_true(values.verbose && values.seed_given && common.quiet);
    assert_int_equal(values.count, 5);
    assert_int_equal(values.seed, -3);
    assert_true(values.temperature == 0.5);
    assert_string_equal(values.dtype, "fp8");
    assert_string_equal(values.model, "dir");
    assert_null(values.file);
    assert_int_equal(common.threads, 2);
    assert_int_equal(common.isa, ISA_AVX2);
    assert_int_equal(read_line(one_or_two, "a -n7 b", &error), 0);
    assert_int_equal(values.count, 7);
    assert_string_equal(values.file, "b");
    assert_false(values.verbose || values.seed_given);
    assert_int_equal(common.isa, ISA_BEST);
    assert_int_equal(read_line(one_or_two, "-n 1 --tokens 2 -- -v", &error), 0);
    assert_int_equal(values.count, 2);   // the last one counts
    assert_string_equal(values.model, "-v");
    assert_int_equal(read_line(one_or_two, "-", &error), 0);
    assert_string_equal(values.model, "-");
    assert_int_equal(read_line(many, "out a -v b --temp 2 c", &error), 0);
    assert_int_equal(values.rest_count, 3);
    assert_string_equal(values.rest[0], "a");
    assert_string_equal(values.rest[2], "c");
    assert_int_equal(read_line(many, "out --help", &error), 1);
    assert_int_equal(read_line(many, "-h", &error), 1);
}

static void test_mistakes(void **state) {
    (void)state;
    static const struct {
        const char *line, *fragment;
    } cases[] = {
        {"", "MODEL_DIR is missing (a model)"},
        {"a b c", "unexpected argument \"c\""},
        {"a --tokns 3", "unknown option \"--tokns\"; did you mean --tokens?"},
        {"a --thread 3", "did you mean --threads?"},
        {"a --elephant", "unknown option \"--elephant\""},
        {"a -x", "unknown option \"-x\""},
        {"a --tokens", "--tokens: found nothing, expected N"},
        {"a --tokens x", "--tokens: found \"x\", expected an integer"},
        {"a --tokens=", "--tokens: found \"\", expected an integer"},
        {"a -n 0", "--tokens: found 0, expected 1 to 100"},
        {"a -n 101", "--tokens: found 101, expected 1 to 100"},
        {"a --seed 99999999999999999999", "expected an integer"},
        {"a --temp 3", "--temp: found 3, expected 0 to 2"},
        {"a --temp nan", "--temp: found \"nan\", expected a number"},
        {"a --temp 1e999", "expected a number"},
        {"a --dtype f", "--dtype: found \"f\", expected one of bf16|fp8|f32"},
        {"a --dtype bf16|fp8", "expected one of"},
        {"a --verbose=1", "--verbose: found \"1\", expected no value"},
        {"a --isa sse2", "expected one of scalar|avx2|avx512|amx"},
        {"a --threads -1", "--threads: found -1, expected 0 to 1024"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error;
        int code = read_line(one_or_two, cases[i].line, &error);
        test_assert_error(code, &error, ERROR_ARGUMENT, cases[i].fragment);
    }
    struct error error;
    test_assert_error(read_line(many, "out", &error), &error, ERROR_ARGUMENT, "FILES: found 0, expected at least 1");
}

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int kilo;
        int64_t bytes;   // 0: refused
    } cases[] = {
        {"1", 1000, 1},
        {"64K", 1000, 64000},
        {"64K", 1024, 65536},
        {"1.5G", 1000, 1500000000},
        {"2MB", 1024, 2 << 20},
        {"2MiB", 1000, 2 << 20},
        {"3T", 1024, (int64_t)3 << 40},
        {"0", 1000, 0},
        {"-1", 1000, 0},
        {"", 1000, 0},
        {"K", 1000, 0},
        {"5X", 1000, 0},
        {"5KBB", 1000, 0},
        {"5Ki", 1000, 0},
        {"1e30", 1000, 0},
        {"nan", 1000, 0},
        {" 5", 1000, 0},
        {"0.5", 1000, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t bytes = 0;
        struct error error = {0};
        int code = app_parse_size(&bytes, cases[i].text, "--size", cases[i].kilo, &error);
        assert_int_equal(code == 0, cases[i].bytes > 0);
        assert_int_equal(bytes, cases[i].bytes);
        assert_true(code == 0 || strstr(error.text, "--size: expected a size such as") != NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
