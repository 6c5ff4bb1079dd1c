// model/convert.c: values, bytes and files of a converted directory, refusals, and failure at every call.
#include "model/convert.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "support/test.h"
#include "support/tiny.h"
#include "tensor/formats.h"
#include "weights/cast.h"

static char *root;
static char bf16_directory[600];   // written by us, with a tokenizer and an unknown key in config.json

static void edit_config(const char *directory, void (*edit)(json_t *root)) {
    json_t *json;
    assert_int_equal(json_read(&json, test_path(directory, "config.json"), 1 << 20, NULL), 0);
    edit(json);
    assert_int_equal(json_write(json, test_path(directory, "config.json"), NULL), 0);
    json_decref(json);
}

static void add_unknown_key(json_t *json) {
    json_object_set_new(json, "house_style", json_pack("{s:[f,i]}", "numbers", 1e-6, 3));
}

static int setup(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny tiny;
    root = tiny_directory();
    snprintf(bf16_directory, sizeof bf16_directory, "%s/bf16", root);
    tiny_open(&tiny, &config, FORMAT_F32, 0);
    tiny_save(&tiny, bf16_directory, FORMAT_BF16, false, 30000);
    tiny_close(&tiny);
    test_write_file(test_path(bf16_directory, "tokenizer.json"), "{}", 2);
    edit_config(bf16_directory, add_unknown_key);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(root);
    return 0;
}

static char *name_of(char *buffer, const char *name) {
    snprintf(buffer, 600, "%s/%s", root, name);
    return buffer;
}

static void convert(const char *to, const char *from, enum format format, bool power_of_two, int64_t shard_bytes,
                    int threads) {
    struct convert_options options = {.format = format, .power_of_two = power_of_two, .shard_bytes = shard_bytes};
    struct convert_result result;
    struct error error = {0};
    if (threads > 0) {
        assert_int_equal(pool_create(&options.pool, threads, NULL), 0);
    }
    if (model_convert(&result, to, from, &options, &error) != 0) {
        fail_msg("%s", error.text);
    }
    pool_destroy(options.pool);
    assert_true(result.tensors > 50);
}

static void assert_same_files(const char *left, const char *right) {
    char **names, **others;
    int64_t count, other_count;
    assert_int_equal(file_list(&names, &count, left, NULL), 0);
    assert_int_equal(file_list(&others, &other_count, right, NULL), 0);
    assert_int_equal(count, other_count);
    for (int64_t i = 0; i < count; i++) {
        uint64_t a, b;
        assert_string_equal(names[i], others[i]);
        assert_int_equal(file_checksum(test_path(left, names[i]), &a, NULL), 0);
        assert_int_equal(file_checksum(test_path(right, names[i]), &b, NULL), 0);
        if (a != b) {
            fail_msg("%s differs between %s and %s", names[i], left, right);
        }
    }
    file_list_free(names, count);
    file_list_free(others, other_count);
}

// Each tensor of `to` is the cast of the one in `from`; the FP8 ones are those that the official checkpoints store so.
static void check_values(const char *to, const char *from, enum format format, bool power_of_two) {
    struct checkpoint *target, *source;
    struct cast_buffer buffer = {0};
    assert_int_equal(checkpoint_open(&target, to, NULL), 0);
    assert_int_equal(checkpoint_open(&source, from, NULL), 0);
    for (int64_t i = 0; i < checkpoint_count(target); i++) {
        const char *name = checkpoint_name(target, i);
        struct tensor found, original, expected;
        if (checkpoint_name_is_scale(name)) {
            continue;
        }
        assert_int_equal(checkpoint_find(target, &found, name, NULL), 0);
        assert_int_equal(checkpoint_find(source, &original, name, NULL), 0);
        bool bias = strstr(name, "e_score_correction_bias") != NULL;
        enum format wanted = bias                           ? FORMAT_F32
                             : format != FORMAT_E4M3_BLOCK  ? format
                             : checkpoint_name_is_fp8(name) ? format
                                                            : FORMAT_BF16;
        assert_int_equal(found.format, wanted);
        assert_int_equal(tensor_cast_buffered(&expected, &buffer, wanted, &original, power_of_two, NULL, NULL), 0);
        size_t data_bytes = (size_t)(tensor_elements(&found) * format_info(found.format)->bytes);
        assert_memory_equal(found.data, expected.data, data_bytes);
        if (found.format == FORMAT_E4M3_BLOCK) {
            assert_memory_equal(found.scale, expected.scale, (size_t)tensor_bytes(&found) - data_bytes);
        }
    }
    cast_buffer_free(&buffer);
    checkpoint_close(target);
    checkpoint_close(source);
}

static json_t *read_config(const char *directory) {
    json_t *json;
    assert_int_equal(json_read(&json, test_path(directory, "config.json"), 1 << 20, NULL), 0);
    assert_true(json_real_value(json_array_get(json_object_get(json_object_get(json, "house_style"), "numbers"), 0)) ==
                1e-6);
    return json;
}

static void test_there_and_back(void **state) {
    (void)state;
    char fp8[600], ue8m0[600], again[600], back[600], f32[600], same[600];
    convert(name_of(fp8, "fp8"), bf16_directory, FORMAT_E4M3_BLOCK, false, 30000, 2);
    check_values(fp8, bf16_directory, FORMAT_E4M3_BLOCK, false);
    assert_true(file_exists(test_path(fp8, "tokenizer.json")));
    json_t *json = read_config(fp8);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(json, "quantization_config"), "quant_method")), "fp8");
    assert_null(json_object_get(json_object_get(json, "quantization_config"), "scale_fmt"));
    json_decref(json);

    convert(name_of(ue8m0, "ue8m0"), bf16_directory, FORMAT_E4M3_BLOCK, true, 0, 0);
    check_values(ue8m0, bf16_directory, FORMAT_E4M3_BLOCK, true);
    assert_true(file_exists(test_path(ue8m0, "model.safetensors")));
    json = read_config(ue8m0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "quantization_config"), "scale_fmt")),
                        "ue8m0");
    json_decref(json);

    // FP8 again: nothing changes, whatever the scales; another number of threads: neither.
    convert(name_of(again, "fp8-again"), fp8, FORMAT_E4M3_BLOCK, false, 30000, 3);
    assert_same_files(again, fp8);
    convert(name_of(same, "ue8m0-again"), ue8m0, FORMAT_E4M3_BLOCK, false, 0, 0);
    assert_same_files(same, ue8m0);

    convert(name_of(back, "back"), fp8, FORMAT_BF16, false, 30000, 0);
    check_values(back, fp8, FORMAT_BF16, false);
    json = read_config(back);
    assert_null(json_object_get(json, "quantization_config"));
    assert_string_equal(json_string_value(json_object_get(json, "torch_dtype")), "bfloat16");
    json_decref(json);

    convert(name_of(f32, "f32"), fp8, FORMAT_F32, false, 0, 2);
    check_values(f32, fp8, FORMAT_F32, false);
    json = read_config(f32);
    assert_string_equal(json_string_value(json_object_get(json, "torch_dtype")), "float32");
    json_decref(json);

    // F32 of BF16 values is exact: the way back gives the same directory.
    char wide[600], narrow[600];
    convert(name_of(wide, "wide"), bf16_directory, FORMAT_F32, false, 30000, 0);
    convert(name_of(narrow, "narrow"), wide, FORMAT_BF16, false, 30000, 3);
    assert_same_files(narrow, bf16_directory);
}

static int try_convert(const char *to, const char *from, struct convert_options options, struct error *error) {
    struct convert_result result;
    error_clear(error);
    return model_convert(&result, to, from, &options, error);
}

static void remove_second_shard(const char *directory) {
    char **names;
    int64_t count, removed = 0;
    assert_int_equal(file_list(&names, &count, directory, NULL), 0);
    for (int64_t i = 0; i < count; i++) {
        if (strncmp(names[i], "model-00002-of", 14) == 0) {
            assert_int_equal(unlink(test_path(directory, names[i])), 0);
            removed++;
        }
    }
    assert_int_equal(removed, 1);
    file_list_free(names, count);
}

static void test_refusals(void **state) {
    (void)state;
    struct convert_options to_fp8 = {.format = FORMAT_E4M3_BLOCK}, to_bf16 = {.format = FORMAT_BF16};
    struct error error = {0};
    char target[700], source[600];
    name_of(target, "refused");
    test_assert_error(try_convert(bf16_directory, bf16_directory, to_fp8, &error), &error, ERROR_ARGUMENT,
                      "the same directory");
    snprintf(target, sizeof target, "%s/../bf16/.", bf16_directory);
    test_assert_error(try_convert(target, bf16_directory, to_fp8, &error), &error, ERROR_ARGUMENT,
                      "the same directory");
    name_of(target, "refused");
    test_assert_error(try_convert(target, name_of(source, "nothing"), to_fp8, &error), &error, ERROR_IO,
                      "nothing: expected a model directory, found nothing");
    assert_false(file_exists(target));
    assert_int_equal(file_make_directory(target, NULL), 0);
    test_write_file(test_path(target, "notes.txt"), "x", 1);
    test_assert_error(try_convert(target, bf16_directory, to_fp8, &error), &error, ERROR_ARGUMENT,
                      "expected an empty or new directory, found 1 files (the first is notes.txt)");
    assert_true(file_exists(test_path(target, "notes.txt")));
    test_assert_error(try_convert(test_path(target, "notes.txt"), bf16_directory, to_fp8, &error), &error, ERROR_IO,
                      "notes.txt");
    // FP8 weights have their scales already.
    char fp8[600];
    convert(name_of(fp8, "refuse-fp8"), bf16_directory, FORMAT_E4M3_BLOCK, false, 0, 0);
    struct convert_options other = {.format = FORMAT_E4M3_BLOCK, .power_of_two = true, .scale_format_given = true};
    name_of(target, "refused-scales");
    test_assert_error(try_convert(target, fp8, other, &error), &error, ERROR_ARGUMENT,
                      "holds FP8 weights with float scales already");
    assert_false(file_exists(target));
    // Interrupted: nothing is left.
    static const volatile sig_atomic_t stop = 1;
    struct convert_options stopped = {.format = FORMAT_BF16, .stop = &stop};
    test_assert_error(try_convert(target, fp8, stopped, &error), &error, ERROR_STATE, "interrupted");
    assert_false(file_exists(target));
    // A source that lacks a file: nothing is left.
    char lacking[600];
    convert(name_of(lacking, "lacking"), bf16_directory, FORMAT_BF16, false, 30000, 0);
    remove_second_shard(lacking);
    test_assert_error(try_convert(target, lacking, to_bf16, &error), &error, ERROR_IO, ".safetensors: cannot open");
    assert_false(file_exists(target));
}

struct attempt {
    char target[600];
    struct convert_options options;
};

static int convert_and_remove(void *argument, struct error *error) {
    struct attempt *attempt = argument;
    struct convert_result result;
    int code = model_convert(&result, attempt->target, bf16_directory, &attempt->options, error);
    if (code == 0) {
        char command[700];
        snprintf(command, sizeof command, "rm -r %s", attempt->target);
        assert_int_equal(system(command), 0);
    }
    struct stat status;
    assert_int_not_equal(stat(attempt->target, &status), 0);   // a failed conversion leaves no directory
    return code;
}

static void test_failing_memory_calls(void **state) {
    (void)state;
    struct attempt attempt = {.options = {.format = FORMAT_E4M3_BLOCK, .shard_bytes = 200000}};
    name_of(attempt.target, "memory");
    assert_true(test_failing_memory(convert_and_remove, &attempt) > 100);
}

static void test_failing_file_calls(void **state) {
    (void)state;
    struct attempt attempt = {.options = {.format = FORMAT_E4M3_BLOCK, .shard_bytes = 30000}};
    int failures = 0;
    name_of(attempt.target, "files");
    for (int64_t n = 1;; n++) {
        struct error error = {0};
        file_fail_at(n, ENOSPC);
        int code = convert_and_remove(&attempt, &error);
        file_fail_at(0, 0);
        if (code == 0) {
            break;
        }
        failures++;
        assert_int_equal(code, ERROR_IO);
        assert_non_null(strstr(error.text, "No space left"));
    }
    assert_true(failures > 50);
    // Into a directory that was there: it stays, empty.
    struct error error = {0};
    assert_int_equal(file_make_directory(attempt.target, NULL), 0);
    file_fail_at(60, ENOSPC);
    assert_int_equal(try_convert(attempt.target, bf16_directory, attempt.options, &error), ERROR_IO);
    file_fail_at(0, 0);
    assert_int_equal(rmdir(attempt.target), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_failing_memory_calls),
        cmocka_unit_test(test_failing_file_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
