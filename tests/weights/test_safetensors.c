// weights/safetensors.c: what is written is read back, the bytes are reproducible, and no malformed header gets
// through.
#include "weights/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/test.h"

static char *root;

static int setup(void **state) {
    (void)state;
    root = test_directory();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(root);
    return 0;
}

// A file of an 8-byte length, `header` (header_size bytes) and `data_size` bytes of data that count up.
static void write_file(const char *path, uint64_t length, const char *header, size_t header_size, size_t data_size) {
    uint8_t *bytes = calloc(8 + header_size + data_size + 1, 1);
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(length >> (8 * i));
    }
    memcpy(bytes + 8, header, header_size);
    for (size_t i = 0; i < data_size; i++) {
        bytes[8 + header_size + i] = (uint8_t)i;
    }
    test_write_file(path, bytes, 8 + header_size + data_size);
    free(bytes);
}

static void assert_rejected(const char *header, size_t data_size, const char *fragment) {
    const char *path = test_path(root, "bad.safetensors");
    struct safetensors file;
    struct error error = {0};
    write_file(path, strlen(header), header, strlen(header), data_size);
    int64_t blocks = memory_statistics_get().live_blocks;
    test_assert_error(safetensors_open(&file, path, &error), &error, ERROR_FORMAT, fragment);
    assert_non_null(strstr(error.text, "bad.safetensors"));
    assert_int_equal(memory_statistics_get().live_blocks, blocks);
}

static void assert_accepted(struct safetensors *file, const char *header, size_t data_size) {
    const char *path = test_path(root, "good.safetensors");
    struct error error = {0};
    write_file(path, strlen(header), header, strlen(header), data_size);
    if (safetensors_open(file, path, &error) != 0) {
        fail_msg("%s", error.text);
    }
}

static int write_example(const char *path, struct error *error) {
    struct safetensors_writer *writer = NULL;
    static const float numbers[6] = {1, 2, 3, 4, 5, 6};
    int code;
    if ((code = safetensors_writer_create(&writer, error)) != 0 ||
        (code = safetensors_writer_declare(writer, "a.weight", "F32", 2, (int64_t[]){2, 3}, error)) != 0 ||
        (code = safetensors_writer_declare(writer, "quoted \"\\\n\xc3\xa9", "BF16", 1, (int64_t[]){3}, error)) != 0 ||
        (code = safetensors_writer_declare(writer, "empty", "F32", 2, (int64_t[]){0, 5}, error)) != 0 ||
        (code = safetensors_writer_declare(writer, "scalar", "F32", 0, NULL, error)) != 0 ||
        (code = safetensors_writer_metadata(writer, "format", "pt", error)) != 0 ||
        (code = safetensors_writer_begin(writer, path, error)) != 0 ||
        (code = safetensors_writer_append(writer, numbers, 20, error)) != 0 ||
        (code = safetensors_writer_append(writer, (const char *)numbers + 20, 4, error)) != 0 ||
        (code = safetensors_writer_append(writer, numbers, 6, error)) != 0 ||
        (code = safetensors_writer_append(writer, numbers, 0, error)) != 0 ||
        (code = safetensors_writer_append(writer, numbers + 5, 4, error)) != 0) {
        safetensors_writer_abort(writer);
        return code;
    }
    return safetensors_writer_commit(writer, NULL, error);
}

static void test_round_trip(void **state) {
    (void)state;
    const char *path = test_path(root, "round.safetensors");
    struct safetensors file;
    struct error error = {0};
    assert_int_equal(write_example(path, &error), 0);
    assert_int_equal(safetensors_open(&file, path, &error), 0);
    assert_int_equal(file.count, 4);
    assert_string_equal(file.metadata, "{\"format\":\"pt\"}");
    assert_string_equal(file.entries[0].name, "a.weight");
    assert_string_equal(file.entries[0].dtype, "F32");
    assert_int_equal(file.entries[0].tensor.format, FORMAT_F32);
    assert_int_equal(file.entries[0].tensor.rank, 2);
    assert_int_equal(file.entries[0].tensor.shape[1], 3);
    float value;
    memcpy(&value, (const char *)file.entries[0].tensor.data + 16, sizeof value);
    assert_true(value == 5.0f);
    assert_string_equal(file.entries[1].name, "quoted \"\\\n\xc3\xa9");
    assert_int_equal(file.entries[1].end - file.entries[1].begin, 6);
    // The empty tensor begins where the scalar does; it comes first.
    assert_string_equal(file.entries[2].name, "empty");
    assert_int_equal(tensor_elements(&file.entries[2].tensor), 0);
    assert_int_equal(file.entries[3].tensor.rank, 0);
    assert_int_equal(tensor_elements(&file.entries[3].tensor), 1);
    // The header is padded to 8 bytes with spaces, and data follows at once.
    uint64_t length;
    memcpy(&length, file.file.data, sizeof length);
    assert_int_equal(length % 8, 0);
    assert_int_equal(file.file.size, 8 + (int64_t)length + 34);
    safetensors_close(&file);
    assert_null(file.entries);
}

static void test_same_bytes(void **state) {
    (void)state;
    size_t first_size, second_size;
    assert_int_equal(write_example(test_path(root, "one.safetensors"), NULL), 0);
    assert_int_equal(write_example(test_path(root, "two.safetensors"), NULL), 0);
    char *first = test_read_file(test_path(root, "one.safetensors"), &first_size);
    char *second = test_read_file(test_path(root, "two.safetensors"), &second_size);
    assert_int_equal(first_size, second_size);
    assert_memory_equal(first, second, first_size);
    free(first);
    free(second);
}

static void test_accepts(void **state) {
    (void)state;
    struct safetensors file;
    assert_accepted(&file, "{}", 0);
    assert_int_equal(file.count, 0);
    safetensors_close(&file);
    // Any order of keys and tensors, white space, escapes, no alignment of the data, dtypes that we do not compute
    // with.
    assert_accepted(&file,
                    "{ \"b\\u00e9\\ud83d\\ude00\" : {\"shape\":[3],\"data_offsets\":[1,7],\"dtype\":\"F16\"},\r\n\t"
                    "\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}  ",
                    7);
    assert_int_equal(file.count, 2);
    assert_string_equal(file.entries[0].name, "a");
    assert_string_equal(file.entries[1].name, "b\xc3\xa9\xf0\x9f\x98\x80");
    assert_int_equal(file.entries[1].tensor.format, FORMAT_NONE);
    assert_string_equal(file.entries[1].dtype, "F16");
    safetensors_close(&file);
    // FP8 that is no matrix has no blocks, and four bits an element fill whole bytes.
    assert_accepted(&file,
                    "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2,1],\"data_offsets\":[0,4]},"
                    "\"b\":{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[4,7]}}",
                    7);
    assert_int_equal(file.entries[0].tensor.format, FORMAT_NONE);
    safetensors_close(&file);
    assert_accepted(&file, "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2],\"data_offsets\":[0,4]}}", 4);
    assert_int_equal(file.entries[0].tensor.format, FORMAT_E4M3_BLOCK);
    assert_null(file.entries[0].tensor.scale);
    safetensors_close(&file);
}

static void test_rejects_files(void **state) {
    (void)state;
    const char *path = test_path(root, "bad.safetensors");
    struct safetensors file;
    struct error error = {0};
    test_write_file(path, "", 0);
    test_assert_error(safetensors_open(&file, path, &error), &error, ERROR_FORMAT, "only 0 bytes");
    error_clear(&error);
    test_write_file(path, "\2\0\0\0\0\0\0", 7);
    test_assert_error(safetensors_open(&file, path, &error), &error, ERROR_FORMAT, "only 7 bytes");
    error_clear(&error);
    write_file(path, 100000001, "{}", 2, 0);
    test_assert_error(safetensors_open(&file, path, &error), &error, ERROR_FORMAT,
                      "at most 100000000 bytes, found length 100000001");
    error_clear(&error);
    write_file(path, UINT64_MAX, "{}", 2, 0);
    test_assert_error(safetensors_open(&file, path, &error), &error, ERROR_FORMAT, "found length 18446744073709551615");
    error_clear(&error);
    write_file(path, 3, "{}", 2, 0);
    test_assert_error(safetensors_open(&file, path, &error), &error, ERROR_FORMAT, "truncated");
    error_clear(&error);
    write_file(path, 0, "", 0, 0);
    test_assert_error(safetensors_open(&file, path, &error), &error, ERROR_FORMAT, "expected '{'");
    error_clear(&error);
    test_assert_error(safetensors_open(&file, test_path(root, "none"), &error), &error, ERROR_IO, "none: cannot open");
}

#define TENSOR(dtype, shape, offsets) \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_rejects_tensors(void **state) {
    (void)state;
    assert_rejected(TENSOR("F32", "[2]", "[0,8]"), 7, "outside the 7 bytes of data (the file is truncated)");
    assert_rejected(TENSOR("F32", "[2]", "[0,8]"), 9, "1 bytes follow the last tensor");
    assert_rejected(TENSOR("F32", "[2]", "[8,0]"), 8, "outside");
    assert_rejected(TENSOR("F32", "[3]", "[0,8]"), 8, "need 12 bytes, data_offsets give 8");
    assert_rejected(TENSOR("F32", "[2]", "[4,12]"), 12, "begins at data byte 4, expected 0: a gap");
    assert_rejected(TENSOR("F33", "[2]", "[0,8]"), 8, "unknown dtype \"F33\"");
    assert_rejected(TENSOR("F3333333333333333", "[2]", "[0,8]"), 8, "unknown dtype of 17 characters");
    assert_rejected(TENSOR("F32", "[4611686018427387904,4]", "[0,8]"), 8, "too large");
    assert_rejected(TENSOR("F32", "[0,4611686018427387904,4]", "[0,0]"), 0, "too large");
    assert_rejected(TENSOR("F32", "[9223372036854775808]", "[0,8]"), 8, "below 2^63");
    assert_rejected(TENSOR("F32", "[1,1,1,1,2]", "[0,8]"), 8, "at most 4 dimensions");
    assert_rejected(TENSOR("F32", "[-2]", "[0,8]"), 8, "a non-negative integer");
    assert_rejected(TENSOR("F32", "[2.0]", "[0,8]"), 8, "a non-negative integer");
    assert_rejected(TENSOR("F32", "[02]", "[0,8]"), 8, "a non-negative integer");
    assert_rejected(TENSOR("F32", "[2]", "[0,8,9]"), 8, "expected ']'");
    assert_rejected(TENSOR("F32", "[2]", "[0]"), 8, "expected ','");
    assert_rejected(TENSOR("F32", "2", "[0,8]"), 8, "expected '['");
    assert_rejected(TENSOR("F4", "[3]", "[0,1]"), 1, "does not fill whole bytes");
    assert_rejected("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "missing key \"data_offsets\"");
    assert_rejected("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                    "duplicate key \"dtype\"");
    assert_rejected("{\"a\":{\"dtype\":\"F32\",\"strides\":[1],\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                    "unknown key \"strides\"");
    assert_rejected("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
                    16, "duplicate tensor \"a\"");
    assert_rejected("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                    "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
                    12, "\"b\" begins at data byte 4, expected 8: it overlaps \"a\"");
    assert_rejected("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                    "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
                    16, "a gap behind \"a\"");
}

static void test_rejects_json(void **state) {
    (void)state;
    assert_rejected("[]", 0, "expected '{'");
    assert_rejected("{", 0, "JSON byte 1: expected a string, found the end");
    assert_rejected("{\"a\"", 0, "expected ':', found the end");
    assert_rejected("{\"a\":{}", 0, "expected a string, found '}'");
    assert_rejected("{\"a\":{\"dtype\"}}", 0, "expected ':'");
    assert_rejected("{} x", 0, "expected nothing more, found 'x'");
    assert_rejected("{,}", 0, "expected a string, found ','");
    assert_rejected("{\"a", 0, "the end of a string");
    assert_rejected("{\"a\\", 0, "a valid escape");
    assert_rejected("{\"a\\x\":1}", 0, "a valid escape");
    assert_rejected("{\"a\\u00\":1}", 0, "a valid escape");
    assert_rejected("{\"a\\u0000\":1}", 0, "a valid escape");
    assert_rejected("{\"a\\ud800\":1}", 0, "a valid escape");
    assert_rejected("{\"a\\ud800\\u0041\":1}", 0, "a valid escape");
    assert_rejected("{\"a\\udc00\":1}", 0, "a valid escape");
    assert_rejected("{\"\xff\":1}", 0, "well-formed UTF-8, found byte 0xff");
    assert_rejected("{\"\xc0\x80\":1}", 0, "well-formed UTF-8");
    assert_rejected("{\"\xed\xa0\x80\":1}", 0, "well-formed UTF-8");
    assert_rejected("{\"\xf4\x90\x80\x80\":1}", 0, "well-formed UTF-8");
    assert_rejected("{\"a\nb\":1}", 0, "no bare control character");
    assert_rejected("{\"__metadata__\":[]}", 0, "expected '{'");
    assert_rejected("{\"__metadata__\":{\"a\":1}}", 0, "expected a string");
    assert_rejected("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate key \"__metadata__\"");
}

// Every prefix of a sound file, and the file with every single byte replaced: never a crash; a prefix is never
// accepted.
static void test_damage(void **state) {
    (void)state;
    size_t size;
    assert_int_equal(write_example(test_path(root, "whole.safetensors"), NULL), 0);
    char *whole = test_read_file(test_path(root, "whole.safetensors"), &size);
    char *copy = malloc(size);
    struct safetensors file;
    for (size_t length = 0; length < size; length++) {
        memcpy(copy, whole, length);
        file = (struct safetensors){
            .file = {.data = (const uint8_t *)copy, .size = (int64_t)length, .path = (char *)"prefix"}};
        struct error error = {0};
        assert_int_equal(safetensors_parse(&file, &error), ERROR_FORMAT);
        assert_true(error.text[0] != 0);
    }
    static const char replacements[] = {0, ' ', '"', '\\', '9', '-', '{', '}', ']', (char)0xff};
    for (size_t at = 0; at < size; at++) {
        for (size_t i = 0; i < sizeof replacements; i++) {
            memcpy(copy, whole, size);
            copy[at] = replacements[i];
            file = (struct safetensors){
                .file = {.data = (const uint8_t *)copy, .size = (int64_t)size, .path = (char *)"damaged"}};
            if (safetensors_parse(&file, NULL) == 0) {
                file.file = (struct mapped_file){0};
                safetensors_close(&file);
            }
        }
    }
    free(whole);
    free(copy);
}

static void test_duplicate_declaration(void **state) {
    (void)state;
    struct safetensors_writer *writer;
    struct error error = {0};
    assert_int_equal(safetensors_writer_create(&writer, &error), 0);
    assert_int_equal(safetensors_writer_declare(writer, "a", "F32", 0, NULL, &error), 0);
    assert_int_equal(safetensors_writer_declare(writer, "a", "F32", 0, NULL, &error), 0);
    test_assert_error(safetensors_writer_begin(writer, test_path(root, "twice.safetensors"), &error), &error,
                      ERROR_FORMAT, "duplicate tensor \"a\"");
    safetensors_writer_abort(writer);
    assert_false(file_exists(test_path(root, "twice.safetensors")));
}

static int write_and_read(void *argument, struct error *error) {
    const char *path = argument;
    struct safetensors file;
    int code = write_example(path, error);
    if (code == 0 && (code = safetensors_open(&file, path, error)) == 0) {
        safetensors_close(&file);
    }
    return code;
}

static void test_failing_calls(void **state) {
    (void)state;
    char *directory = test_directory();
    char path[512];
    snprintf(path, sizeof path, "%s/fail.safetensors", directory);
    assert_true(test_failing_memory(write_and_read, path) > 5);
    remove(path);
    int failures = 0;
    for (int64_t n = 1;; n++) {
        struct error error = {0};
        char **names;
        int64_t count;
        file_fail_at(n, ENOSPC);
        int code = write_example(path, &error);
        file_fail_at(0, 0);
        if (code == 0) {
            break;
        }
        failures++;
        assert_int_equal(code, ERROR_IO);
        assert_non_null(strstr(error.text, "No space left"));
        remove(path);   // there only if the sync of the folder failed, after the rename
        assert_int_equal(file_list(&names, &count, directory, NULL), 0);
        assert_int_equal(count, 0);
        file_list_free(names, count);
    }
    assert_true(failures >= 4);
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_accepts),         cmocka_unit_test(test_rejects_files),
        cmocka_unit_test(test_rejects_tensors), cmocka_unit_test(test_rejects_json),
        cmocka_unit_test(test_damage),          cmocka_unit_test(test_duplicate_declaration),
        cmocka_unit_test(test_failing_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
