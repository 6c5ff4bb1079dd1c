// Run configurations: every kind of value, every kind of mistake, and that what is written reads back the same.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/config.h"
#include "train/run_config.h"

static char path[64];

static int read_text(struct run_config *config, const char *text, struct error *error) {
    *error = (struct error){0};
    assert_int_equal(file_write_text(path, text, NULL), 0);
    run_config_defaults(config);
    return run_config_read(config, path, error);
}

static const char *minimal = "[model]\nconfig = c\n[data]\npath = d\n[train]\nout = o\nsteps = 200\n";

static void test_values(void **state) {
    (void)state;
    struct run_config config;
    struct error error;
    int code = read_text(
        &config,
        "; a comment\n[model]\nconfig = some where/config.json ; inline\n[train]\nsteps = 2K\nbatch=3.5K\n"
        "precision = fp32\n  micro_batch = 2\n[recompute]\nswiglu = yes\n"
        "[schedule]\ndecay_start = 10T tokens\ndecay_end = 14.3T tokens\nwarmup = 2K steps\ntail_start = never\n"
        "gamma_end = 12.5%\nalpha = 0\n",
        &error);
    assert_string_equal(error.text, "");
    assert_int_equal(code, 0);
    assert_string_equal(config.model.config, "some where/config.json");
    assert_int_equal(config.train.steps, 2000);
    assert_int_equal(config.train.batch, 3500);
    assert_int_equal(config.train.micro_batch, 2);
    assert_int_equal(config.train.precision, PRECISION_FP32);
    assert_true(config.recompute.swiglu);
    assert_false(config.recompute.rms_norm);
    assert_int_equal(config.schedule.decay_start.unit, DURATION_TOKENS);
    assert_int_equal(config.schedule.decay_start.count, 10000000000000);
    assert_int_equal(config.schedule.decay_end.count, 14300000000000);
    assert_int_equal(config.schedule.warmup.unit, DURATION_STEPS);
    assert_int_equal(config.schedule.warmup.count, 2000);
    assert_int_equal(config.schedule.tail_start.unit, DURATION_NEVER);
    assert_int_equal(config.schedule.gamma_end.unit, DURATION_PERCENT);
    assert_true(config.schedule.alpha == 0);
    // Untouched keys keep the report's values.
    assert_true(config.optimizer.beta2 == 0.95);
    assert_true(config.schedule.learning_rate == 2.2e-4);
    assert_true(config.model.init_std == 0.006);
}

static void test_last_length_counts(void **state) {
    (void)state;
    struct run_config config;
    struct error error;
    assert_int_equal(read_text(&config, minimal, &error), 0);
    assert_int_equal(run_config_override(&config, "train.tokens=1M", &error), 0);
    assert_int_equal(config.train.steps, 0);
    assert_int_equal(config.train.tokens, 1000000);
    assert_int_equal(run_config_override(&config, "train.steps=7", &error), 0);
    assert_int_equal(config.train.steps, 7);
    assert_int_equal(config.train.tokens, 0);
}

// Every line: a file, and a piece of the one line that must come.
static void test_mistakes(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"[train]\nbatsh = 3\n", ":2: unknown key \"train.batsh\"; the nearest is \"train.batch\""},
        {"[train]\ngamma = 3\n", "unknown key \"train.gamma\"; the nearest is \"schedule.gamma\""},
        {"[trian]\nbatch = 3\n", "the nearest is \"train.batch\""},
        {"batch = 3\n", "unknown key \"batch\""},
        {"[train]\nbatch = abc\n", ":2: train.batch: found \"abc\", expected a whole number from 1 to 1048576"},
        {"[train]\nbatch = 0\n", "train.batch: found \"0\""},
        {"[train]\nbatch = 1.5\n", "train.batch: found \"1.5\""},
        {"[train]\nbatch = 8 sequences\n", "train.batch: found \"8 sequences\""},
        {"[train]\nsteps = 99999999999999999999\n", "train.steps: found"},
        {"[train]\nsteps = -1\n", "train.steps: found \"-1\""},
        {"[train]\nbatch =\n", "train.batch: found \"\""},
        {"[train]\nprecision = fp16\n", "expected one of fp32|bf16|fp8"},
        {"[optimizer]\nbeta1 = 1.5\n", "optimizer.beta1: found \"1.5\", expected a number from 0 to 0.999999"},
        {"[optimizer]\nbeta1 = nan\n", "optimizer.beta1: found \"nan\""},
        {"[recompute]\nswiglu = maybe\n", "expected true or false"},
        {"[schedule]\nwarmup = 10 bananas\n", "schedule.warmup: found \"10 bananas\", expected a duration"},
        {"[schedule]\nwarmup = 40\n", "schedule.warmup: found \"40\", expected a duration such as \"2K steps\""},
        {"[schedule]\nwarmup = 101%\n", "schedule.warmup: found \"101%\""},
        {"[train]\nbatch = 8\nbatch = 9\n", ":3: train.batch: given a second time"},
        {"[train]\nnonsense\n", ":2: expected \"[section]\" or \"key = value\""},
        {"[train\nbatch = 2\n", ":1: expected \"[section]\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct run_config config;
        struct error error;
        int code = read_text(&config, cases[i][0], &error);
        if (code >= 0 || strstr(error.text, cases[i][1]) == NULL || strstr(error.text, path) != error.text) {
            fail_msg("case %zu: code %d, \"%s\" does not have \"%s\"", i, code, error.text, cases[i][1]);
        }
        assert_null(strchr(error.text, '\n'));
    }
    struct run_config config;
    struct error error = {0};
    assert_int_equal(run_config_read(&config, "/nowhere/run.ini", &error), ERROR_IO);
    assert_non_null(strstr(error.text, "/nowhere/run.ini"));
}

static void test_long_line(void **state) {
    (void)state;
    char text[4096] = "[model]\nconfig = ";
    memset(text + strlen(text), 'x', 3000);
    struct run_config config;
    struct error error;
    assert_true(read_text(&config, text, &error) < 0);
    assert_non_null(strstr(error.text, ":2: "));
}

static void test_contradictions(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"model.config=", "model.config: expected a path"},
        {"data.path=", "data.path"},
        {"train.out=", "train.out"},
        {"train.steps=0", "train.steps or train.tokens"},
        {"train.reduction_shards=3", "expected a power of two"},
        {"train.reduction_shards=16", "train.batch: found 8, expected a multiple of train.reduction_shards, 16"},
        {"schedule.batch_start=4", "schedule.batch_ramp"},
        {"schedule.batch_start=16", "schedule.batch_start: found 16"},
        {"schedule.decay_start=10T tokens", "schedule.decay_end"},
        {"schedule.decay_end=1 steps", "schedule.decay_end"},
        {"nonsense", "command line: found \"nonsense\", expected section.key=value"},
        {"a.b=c", "command line: unknown key \"a.b\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct run_config config;
        struct error error;
        assert_int_equal(read_text(&config, minimal, &error), 0);
        int code = run_config_override(&config, cases[i][0], &error);
        code = code != 0 ? code : run_config_finish(&config, &error);
        if (code >= 0 || strstr(error.text, cases[i][1]) == NULL) {
            fail_msg("case %zu: code %d, \"%s\" does not have \"%s\"", i, code, error.text, cases[i][1]);
        }
    }
}

static void test_percent_of_the_run(void **state) {
    (void)state;
    struct run_config config;
    struct error error;
    assert_int_equal(read_text(&config, minimal, &error), 0);
    assert_int_equal(run_config_finish(&config, &error), 0);
    assert_int_equal(config.schedule.warmup.unit, DURATION_STEPS);
    assert_int_equal(config.schedule.warmup.count, 2);
    // The report's own milestones come back from its own length.
    assert_int_equal(read_text(&config, minimal, &error), 0);
    assert_int_equal(run_config_override(&config, "train.tokens=14.8T", &error), 0);
    assert_int_equal(run_config_finish(&config, &error), 0);
    assert_int_equal(config.schedule.decay_start.unit, DURATION_TOKENS);
    assert_true(llabs(config.schedule.decay_start.count - 10000000000000) < 10000000);
    assert_true(llabs(config.schedule.decay_end.count - 14300000000000) < 10000000);
    assert_true(llabs(config.schedule.tail_start.count - 14633000000000) < 10000000);
}

static void test_text_reads_back(void **state) {
    (void)state;
    struct run_config config, again;
    struct error error;
    assert_int_equal(read_text(&config, minimal, &error), 0);
    assert_int_equal(run_config_override(&config, "schedule.gamma_end=33.3333%", &error), 0);
    assert_int_equal(run_config_override(&config, "optimizer.epsilon=1.2345678901234567e-9", &error), 0);
    assert_int_equal(run_config_override(&config, "recompute.mla_up=true", &error), 0);
    char *text = run_config_text(&config, &error);
    assert_non_null(text);
    assert_int_equal(read_text(&again, text, &error), 0);
    memory_free(text);
    assert_memory_equal(&config, &again, sizeof config);
}

static void test_reference_is_the_defaults(void **state) {
    (void)state;
    struct error error = {0};
    struct run_config config, defaults;
    char *text = run_config_reference(&error);
    assert_non_null(text);
    assert_non_null(strstr(text, "[schedule]"));
    assert_non_null(strstr(text, "; speed of the router bias"));
    assert_int_equal(read_text(&config, text, &error), 0);
    memory_free(text);
    run_config_defaults(&defaults);
    assert_memory_equal(&config, &defaults, sizeof config);
}

// The run files in examples/ are valid, and so are the models they name.
static void test_examples(void **state) {
    (void)state;
    struct error error = {0};
    char **names;
    int64_t count;
    int runs = 0;
    assert_int_equal(file_list(&names, &count, "examples", &error), 0);
    for (int64_t i = 0; i < count; i++) {
        struct run_config config;
        struct model_config model;
        char file[512];
        const char *dot = strrchr(names[i], '.');
        snprintf(file, sizeof file, "examples/%s", names[i]);
        if (dot != NULL && strcmp(dot, ".ini") == 0) {
            run_config_defaults(&config);
            if (run_config_read(&config, file, &error) != 0 || run_config_finish(&config, &error) != 0 ||
                model_config_read(&model, config.model.config, &error) != 0) {
                fail_msg("%s: %s", file, error.text);
            }
            assert_true(config.train.sequence_length <= model.max_position_embeddings);
            runs++;
        }
    }
    file_list_free(names, count);
    assert_true(runs >= 4);
}

static void test_fixed_keys(void **state) {
    (void)state;
    struct run_config config;
    run_config_defaults(&config);
    const char *name;
    char value[RUN_CONFIG_VALUE];
    bool batch = false;
    for (int i = 0; run_config_fixed(&config, i, &name, value); i++) {
        assert_string_not_equal(name, "train.threads");
        assert_string_not_equal(name, "train.micro_batch");
        assert_string_not_equal(name, "train.steps");
        if (strcmp(name, "train.batch") == 0) {
            batch = true;
            assert_string_equal(value, "8");
        }
    }
    assert_true(batch);
    config.train.precision = PRECISION_FP8;   // whose bits depend on the micro-batch
    bool micro_batch = false;
    for (int i = 0; run_config_fixed(&config, i, &name, value); i++) {
        micro_batch = micro_batch || strcmp(name, "train.micro_batch") == 0;
    }
    assert_true(micro_batch);
}

int main(void) {
    snprintf(path, sizeof path, "/tmp/minke-test-run-config-%ld.ini", (long)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),          cmocka_unit_test(test_last_length_counts),
        cmocka_unit_test(test_mistakes),        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_contradictions),  cmocka_unit_test(test_percent_of_the_run),
        cmocka_unit_test(test_text_reads_back), cmocka_unit_test(test_reference_is_the_defaults),
        cmocka_unit_test(test_fixed_keys),      cmocka_unit_test(test_examples),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
