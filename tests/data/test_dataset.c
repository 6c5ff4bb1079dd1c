// Shards written and read back, refused when they are damaged, and never half-written.
#include "support/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/dataset_maker.h"

static void check_document(const struct dataset *dataset, int64_t document, int64_t number, int64_t vocab_size) {
    int32_t ids[256];
    int64_t length = dataset_document_length(dataset, document);
    assert_int_equal(length, maker_length(number) + 2);
    assert_int_equal(dataset_document_bytes(dataset, document), 3 * maker_length(number) + 1);
    dataset_document_read(ids, dataset, document);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[length - 1], 1);
    for (int64_t i = 0; i < length - 2; i++) {
        assert_int_equal(ids[i + 1], maker_id(number, i, vocab_size));
    }
}

static void check_round_trip(int64_t vocab_size, int64_t shard_bytes, bool many_shards) {
    enum { DOCUMENTS = 57 };
    char *directory = test_directory();
    struct error error = {0};
    assert_int_equal(maker_write(directory, vocab_size, DOCUMENTS, shard_bytes, &error), 0);
    assert_int_equal(file_exists(test_path(directory, "train-00002.safetensors")), many_shards);
    // A shard ends with the document that reaches shard_bytes.
    int64_t shards = 0, filled = 0;
    for (int64_t document = 0; document < DOCUMENTS; document++) {
        filled += (maker_length(document) + 2) * (vocab_size <= 65536 ? 2 : 4);
        if (filled >= shard_bytes || document == DOCUMENTS - 1) {
            shards++;
            filled = 0;
        }
    }
    char name[64];
    for (int64_t shard = shards; shard <= shards + 1; shard++) {
        snprintf(name, sizeof name, "train-%05lld.safetensors", (long long)shard);
        assert_int_equal(file_exists(test_path(directory, name)), shard == shards);
    }
    struct dataset *dataset;
    assert_int_equal(dataset_open(&dataset, directory, DATA_TRAIN, &error), 0);
    assert_int_equal(dataset_documents(dataset), DOCUMENTS);
    assert_int_equal(dataset_vocab_size(dataset), vocab_size);
    assert_int_equal(dataset_bos(dataset), 0);
    assert_int_equal(dataset_eos(dataset), 1);
    int64_t tokens = 0;
    for (int64_t document = 0; document < DOCUMENTS; document++) {
        check_document(dataset, document, document, vocab_size);
        tokens += maker_length(document) + 2;
    }
    assert_int_equal(dataset_tokens(dataset), tokens);
    assert_int_equal(dataset_bytes(dataset), 3 * (tokens - 2 * DOCUMENTS) + DOCUMENTS);
    dataset_close(dataset);
    assert_int_equal(dataset_open(&dataset, directory, DATA_VALIDATION, &error), 0);
    assert_int_equal(dataset_documents(dataset), 1);
    check_document(dataset, 0, DOCUMENTS, vocab_size);
    dataset_close(dataset);
    test_directory_remove(directory);
}

static void test_round_trip(void **state) {
    (void)state;
    check_round_trip(300, 1 << 20, false);
    check_round_trip(300, 500, true);
    check_round_trip(65536, 1000, true);
    check_round_trip(65537, 1000, true);
    check_round_trip(129280, 1 << 20, false);
}

static void test_same_documents_same_bytes(void **state) {
    (void)state;
    static const char *const names[] = {"dataset.json", "train-00001.safetensors", "train-00003.safetensors",
                                        "validation-00001.safetensors"};
    char *first = test_directory(), *second = test_directory();
    struct error error = {0};
    assert_int_equal(maker_write(first, 1000, 40, 700, &error), 0);
    assert_int_equal(maker_write(second, 1000, 40, 700, &error), 0);
    for (size_t i = 0; i < 4; i++) {
        size_t first_size, second_size;
        char *first_text = test_read_file(test_path(first, names[i]), &first_size);
        char *second_text = test_read_file(test_path(second, names[i]), &second_size);
        assert_int_equal(first_size, second_size);
        assert_memory_equal(first_text, second_text, first_size);
        free(first_text);
        free(second_text);
    }
    struct dataset *one, *other;
    assert_int_equal(dataset_open(&one, first, DATA_TRAIN, &error), 0);
    assert_int_equal(maker_write(second, 1000, 41, 700, &error), 0);
    assert_int_equal(dataset_open(&other, second, DATA_TRAIN, &error), 0);
    assert_true(dataset_fingerprint(one) != dataset_fingerprint(other));
    dataset_close(one);
    dataset_close(other);
    test_directory_remove(first);
    test_directory_remove(second);
}

// Replaces the first `from` in a text file by `to`.
static void edit(const char *path, const char *from, const char *to) {
    size_t size;
    char *text = test_read_file(path, &size);
    char *place = strstr(text, from);
    assert_non_null(place);
    char *changed = malloc(size + strlen(to) + 1);
    assert_non_null(changed);
    size_t before = (size_t)(place - text), after = size - before - strlen(from);
    memcpy(changed, text, before);
    memcpy(changed + before, to, strlen(to));
    memcpy(changed + before + strlen(to), place + strlen(from), after);
    test_write_file(path, changed, before + strlen(to) + after);
    free(changed);
    free(text);
}

static void check_refused(const char *directory, int expected, const char *fragment) {
    struct error error = {0};
    struct dataset *dataset = NULL;
    int code = dataset_open(&dataset, directory, DATA_TRAIN, &error);
    test_assert_error(code, &error, expected, fragment);
    assert_null(dataset);
}

static void test_description_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *fragment;
    } cases[] = {
        {"minke-dataset", "other", "key \"format\": expected \"minke-dataset\", found \"other\""},
        {"\"version\": 1", "\"version\": 2", "key \"version\": expected 1, found 2"},
        {"\"vocab_size\": 300", "\"vocab_size\": 0", "key \"vocab_size\""},
        {"\"vocab_size\": 300", "\"vocab_size\": 70000", "tensor \"tokens\": expected a vector of I32"},
        {"\"eos\": 1", "\"eos\": 300", "key \"eos\": expected -1 or an id below 300, found 300"},
        {"\"train\"", "\"other\"", "key \"train\": expected an object, found nothing"},
        {"\"train-00001.safetensors\"", "\"../x\"", "expected a plain file name, found \"../x\""},
        {"\"train-00001.safetensors\"", "\"missing\"", "missing: cannot open"},
        {"\"documents\": ", "\"documents\": 1", "key \"documents\": says"},
        {"safetensors\",\n        \"checksum\": \"", "safetensors\", \"checksum\": \"zz",
         "expected 16 hexadecimal digits"},
        {"\"checksum\": \"0123456789abcdef\"", "\"x\": 1", NULL},
        {"{", "[", "line"},
    };
    char *directory = test_directory();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        assert_int_equal(maker_write(directory, 300, 5, 1 << 20, &error), 0);
        edit(test_path(directory, "dataset.json"), cases[i].from, cases[i].to);
        if (cases[i].fragment != NULL) {
            check_refused(directory,
                          cases[i].fragment == strstr(cases[i].fragment, "missing:") ? ERROR_IO : ERROR_FORMAT,
                          cases[i].fragment);
        } else {
            test_assert_error(dataset_verify(directory, &error), &error, ERROR_FORMAT, "checksum");
        }
    }
    test_directory_remove(directory);
    check_refused("/nonexistent", ERROR_IO, "/nonexistent/dataset.json: cannot open");
}

// The bytes of one shard with the value at `index` of a tensor replaced.
static void set_i64(const char *path, int64_t index, int64_t value) {
    size_t size;
    char *text = test_read_file(path, &size);
    uint64_t header;
    memcpy(&header, text, 8);
    memcpy(text + 8 + header + 8 * index, &value, 8);
    test_write_file(path, text, size);
    free(text);
}

static void test_shard_refused(void **state) {
    (void)state;
    enum { DOCUMENTS = 5, STARTS = DOCUMENTS + 1 };
    static const struct {
        int64_t index, value;
        const char *fragment;
    } cases[] = {
        {0, 1, "tensor \"documents\": entry 0: expected 0 to 0, found 1"},
        {2, -1, "tensor \"documents\": entry 2: expected "},
        {2, 1 << 20, "tensor \"documents\": entry 2: expected "},
        {DOCUMENTS, 3, "tensor \"documents\": entry 5: expected "},
        {STARTS, -5, "tensor \"bytes\": entry 0: found -5"},
        {STARTS + 1, INT64_MAX, "tensor \"bytes\": entry 1: found 9223372036854775807"},
        {STARTS + 2, 77, "key \"bytes\": says"},
        {STARTS + DOCUMENTS, 300, "tensor \"tokens\": entry 0: id 300 is out of range, expected 0 to 299"},
        {STARTS + DOCUMENTS + 1, INT64_MIN / 32768, "tensor \"tokens\": entry 7: id 65535 is out of range"},
    };
    char *directory = test_directory();
    const char *path = "train-00001.safetensors";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        assert_int_equal(maker_write(directory, 300, DOCUMENTS, 1 << 20, &error), 0);
        set_i64(test_path(directory, path), cases[i].index, cases[i].value);
        check_refused(directory, ERROR_FORMAT, cases[i].fragment);
        check_refused(directory, ERROR_FORMAT, path);
    }
    struct error error = {0};
    assert_int_equal(maker_write(directory, 70000, DOCUMENTS, 1 << 20, &error), 0);
    set_i64(test_path(directory, path), STARTS + DOCUMENTS, -1);
    check_refused(directory, ERROR_FORMAT, "tensor \"tokens\": entry 0: id -1 is out of range, expected 0 to 69999");
    test_directory_remove(directory);
}

static void test_verify(void **state) {
    (void)state;
    char *directory = test_directory();
    struct error error = {0};
    assert_int_equal(maker_write(directory, 300, 9, 200, &error), 0);
    test_write_file(test_path(directory, "tokenizer.json"), "{}", 2);
    uint64_t checksum;
    char text[24];
    assert_int_equal(file_checksum(test_path(directory, "tokenizer.json"), &checksum, &error), 0);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)checksum);
    edit(test_path(directory, "dataset.json"), "0123456789abcdef", text);
    assert_int_equal(dataset_verify(directory, &error), 0);
    // A text size that no other check looks at beyond its sum: swap two of them.
    size_t size;
    char *shard = test_read_file(test_path(directory, "validation-00001.safetensors"), &size);
    shard[size - 1] ^= 1;
    test_write_file(test_path(directory, "validation-00001.safetensors"), shard, size);
    free(shard);
    test_assert_error(dataset_verify(directory, &error), &error, ERROR_FORMAT,
                      "validation-00001.safetensors: checksum: expected");
    test_directory_remove(directory);
}

// Opens and reads everything: an error or documents, never a crash.
static void open_and_read(const char *directory, int64_t *opened) {
    struct error error = {0};
    struct dataset *dataset;
    if (dataset_open(&dataset, directory, DATA_TRAIN, &error) != 0) {
        assert_int_not_equal(error.code, 0);
        assert_int_not_equal(error.text[0], 0);
        return;
    }
    ++*opened;
    for (int64_t document = 0; document < dataset_documents(dataset); document++) {
        int64_t length = dataset_document_length(dataset, document);
        int32_t *ids = malloc((size_t)length * sizeof *ids + 1);
        assert_non_null(ids);
        dataset_document_read(ids, dataset, document);
        for (int64_t i = 0; i < length; i++) {
            assert_in_range(ids[i], 0, dataset_vocab_size(dataset) - 1);
        }
        free(ids);
    }
    dataset_close(dataset);
}

static void test_damage(void **state) {
    (void)state;
    static const char *const names[] = {"dataset.json", "train-00001.safetensors"};
    char *directory = test_directory();
    struct error error = {0};
    for (int which = 0; which < 2; which++) {
        assert_int_equal(maker_write(directory, 300, 4, 1 << 20, &error), 0);
        const char *path = test_path(directory, names[which]);
        size_t size;
        char *good = test_read_file(path, &size), *bad = malloc(size);
        assert_non_null(bad);
        int64_t opened = 0;
        for (size_t length = 0; length < size; length += length < 200 ? 1 : 7) {
            test_write_file(test_path(directory, names[which]), good, length);
            open_and_read(directory, &opened);
        }
        if (which == 1) {
            assert_int_equal(opened, 0);   // a truncated shard never passes
        }
        uint64_t random = 88172645463325252u;
        for (int round = 0; round < 1500; round++) {
            memcpy(bad, good, size);
            for (int flips = round % 3; flips >= 0; flips--) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                bad[random % size] = (char)(bad[random % size] ^ (1 << (random >> 40) % 8));
            }
            test_write_file(test_path(directory, names[which]), bad, size);
            open_and_read(directory, &opened);
        }
        free(good);
        free(bad);
    }
    test_directory_remove(directory);
}

static int write_again(void *directory, struct error *error) {
    return maker_write(directory, 300, 20, 500, error);
}

static int open_again(void *directory, struct error *error) {
    struct dataset *dataset;
    int code = dataset_open(&dataset, directory, DATA_TRAIN, error);
    dataset_close(code == 0 ? dataset : NULL);
    return code;
}

static void test_no_memory(void **state) {
    (void)state;
    char *directory = test_directory();
    assert_true(test_failing_memory(write_again, directory) > 10);
    assert_true(test_failing_memory(open_again, directory) > 10);
    test_directory_remove(directory);
}

// Every system call fails in turn: an error each time, and no file that was not complete before.
static void test_failing_files(void **state) {
    (void)state;
    int64_t failures = 0;
    for (int64_t n = 1;; n++) {
        char *directory = test_directory();
        struct error error = {0};
        file_fail_at(n, ENOSPC);
        int code = write_again(directory, &error);
        file_fail_at(0, 0);
        if (code == 0) {
            test_directory_remove(directory);
            break;
        }
        failures++;
        test_assert_error(code, &error, ERROR_IO, "No space left on device");
        char **names;
        int64_t count;
        struct error none = {0};
        assert_int_equal(file_list(&names, &count, directory, &none), 0);
        for (int64_t i = 0; i < count; i++) {
            assert_null(strstr(names[i], ".tmp"));
        }
        file_list_free(names, count);
        test_directory_remove(directory);
    }
    assert_true(failures > 10);
    char *directory = test_directory();
    struct error error = {0};
    assert_int_equal(write_again(directory, &error), 0);
    int code;
    int64_t n = 0;
    do {
        error = (struct error){0};
        file_fail_at(++n, EIO);
        code = open_again(directory, &error);
        file_fail_at(0, 0);
        assert_true(code == 0 || (code == ERROR_IO && error.text[0] != '\0'));
    } while (code != 0);
    assert_true(n > 4);
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_same_documents_same_bytes),
        cmocka_unit_test(test_description_refused),
        cmocka_unit_test(test_shard_refused),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_failing_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
