// The whole way from files to a dataset: what stands where, the same bytes whatever the threads, nothing half-written.
#include "support/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/prepare.h"
#include "text/tokenizer.h"

enum { DOCUMENTS = 240, VOCABULARY = 400 };

struct fixture {
    char *directory;
    char *corpus;      // folder with DOCUMENTS documents: one jsonl file and text files
    char *tokenizer;   // folder
};

static char *document_text(char buffer[256], int number) {
    static const char *const words[] = {"whale", "sea", "captain", "white",   "and",
                                        "the",   "of",  "ship",    "harpoon", "night"};
    uint32_t random = (uint32_t)number * 2654435761u + 1;
    int at = snprintf(buffer, 256, "Document %d:", number);
    for (int i = 0; i < 3 + number % 17; i++) {
        random = random * 1664525 + 1013904223;
        at += snprintf(buffer + at, (size_t)(256 - at), " %s%s", words[(random >> 16) % 10],
                       random >> 30 == 3 ? ".\n" : "");
    }
    return buffer;
}

// Documents first..last - 1: every third in a jsonl file, the others in text files of their own.
static void write_corpus(const char *folder, int first, int last) {
    struct error error = {0};
    char text[256], name[64];
    assert_int_equal(file_make_directory(folder, &error), 0);
    struct byte_buffer lines = {0};
    for (int i = first; i < last; i++) {
        document_text(text, i);
        if (i % 3 == 0) {
            json_t *object = json_pack("{s:s}", "text", text);
            char *line = json_dumps(object, 0);
            assert_int_equal(byte_buffer_append_string(&lines, line, &error), 0);
            assert_int_equal(byte_buffer_append_string(&lines, "\n", &error), 0);
            memory_free(line);
            json_decref(object);
        } else {
            snprintf(name, sizeof name, "%03d.txt", i);
            test_write_file(test_path(folder, name), text, strlen(text));
        }
    }
    test_write_file(test_path(folder, "lines.jsonl"), lines.data, (size_t)lines.size);
    byte_buffer_destroy(&lines);
}

static struct prepare_options make_options(const struct fixture *fixture, const char *output, char *const *inputs,
                                           int64_t input_count) {
    struct prepare_options options = prepare_options_default();
    options.output = output;
    options.inputs = inputs;
    options.input_count = input_count;
    options.tokenizer = fixture->tokenizer;
    options.validation_rate = 0.1;
    options.shard_bytes = 2500;
    options.validation_text = true;
    return options;
}

static int fixture_setup(void **state) {
    static struct fixture fixture;
    struct error error = {0};
    log_set_level(LOG_ERROR);
    fixture.directory = test_directory();
    fixture.corpus = file_join(fixture.directory, "corpus", &error);
    fixture.tokenizer = file_join(fixture.directory, "tokenizer", &error);
    assert_true(fixture.corpus != NULL && fixture.tokenizer != NULL);
    write_corpus(fixture.corpus, 0, DOCUMENTS);
    // Trained once; also written to the folder named as the tokenizer.
    char *output = file_join(fixture.directory, "first", &error);
    struct prepare_options options = make_options(&fixture, output, &fixture.corpus, 1);
    struct prepare_result result;
    options.train_vocabulary = VOCABULARY;
    int code = prepare_run(&result, &options, NULL, &error);
    memory_free(output);
    if (code != 0) {
        print_error("%s\n", error.text);
        return -1;
    }
    *state = &fixture;
    return result.vocab_size == VOCABULARY ? 0 : -1;
}

static int fixture_teardown(void **state) {
    struct fixture *fixture = *state;
    memory_free(fixture->corpus);
    memory_free(fixture->tokenizer);
    test_directory_remove(fixture->directory);
    return 0;
}

static struct prepare_result run_or_fail(const struct prepare_options *options, struct pool *pool) {
    struct error error = {0};
    struct prepare_result result;
    if (prepare_run(&result, options, pool, &error) != 0) {
        fail_msg("%s", error.text);
    }
    return result;
}

static void check_fails(const struct prepare_options *options, int code, const char *fragment) {
    struct error error = {0};
    struct prepare_result result;
    test_assert_error(prepare_run(&result, options, NULL, &error), &error, code, fragment);
}

// Two folders with the same files and the same bytes.
static void check_same_folder(const char *left, const char *right) {
    struct error error = {0};
    char **names, **other;
    int64_t count, other_count;
    assert_int_equal(file_list(&names, &count, left, &error), 0);
    assert_int_equal(file_list(&other, &other_count, right, &error), 0);
    assert_int_equal(count, other_count);
    assert_true(count > 6);
    for (int64_t i = 0; i < count; i++) {
        uint64_t first, second;
        assert_string_equal(names[i], other[i]);
        assert_int_equal(file_checksum(test_path(left, names[i]), &first, &error), 0);
        assert_int_equal(file_checksum(test_path(right, names[i]), &second, &error), 0);
        assert_true(first == second);
    }
    file_list_free(names, count);
    file_list_free(other, other_count);
}

static void test_threads(void **state) {
    const struct fixture *fixture = *state;
    char *reference = NULL;
    static const int threads[] = {1, 2, 3, 7};
    for (int i = 0; i < 4; i++) {
        struct error error = {0};
        struct pool *pool;
        char *output = memory_format(&error, "%s/threads-%d", fixture->directory, threads[i]);
        struct prepare_options options = make_options(fixture, output, (char *[]){fixture->corpus}, 1);
        options.tokenizer = NULL;
        options.train_vocabulary = VOCABULARY;
        assert_int_equal(pool_create(&pool, threads[i], &error), 0);
        run_or_fail(&options, pool);
        pool_destroy(pool);
        if (reference == NULL) {
            reference = output;
            continue;
        }
        check_same_folder(reference, output);
        memory_free(output);
    }
    memory_free(reference);
}

// Decodes every document of one side and marks its number in seen[]; returns how many there are.
static int64_t collect(int *seen, const char *directory, enum data_split split) {
    struct error error = {0};
    struct dataset *dataset;
    struct tokenizer *tokenizer;
    struct byte_buffer text = {0};
    assert_int_equal(dataset_open(&dataset, directory, split, &error), 0);
    assert_int_equal(tokenizer_load(&tokenizer, directory, &error), 0);
    int64_t count = dataset_documents(dataset), bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t ids[1024];
        int64_t length = dataset_document_length(dataset, i);
        assert_in_range(length, 3, 1024);
        dataset_document_read(ids, dataset, i);
        assert_int_equal(ids[0], tokenizer_roles(tokenizer).bos);
        assert_int_equal(ids[length - 1], tokenizer_roles(tokenizer).eos);
        text.size = 0;
        assert_int_equal(tokenizer_decode(&text, tokenizer, ids + 1, length - 2, 0, &error), 0);
        assert_int_equal(dataset_document_bytes(dataset, i), text.size);
        assert_int_equal(byte_buffer_append(&text, "", 1, &error), 0);
        char expected[256];
        int number = atoi(text.data + strlen("Document "));
        assert_string_equal(text.data, document_text(expected, number));
        seen[number]++;
        bytes += text.size - 1;
    }
    assert_int_equal(bytes, dataset_bytes(dataset));
    byte_buffer_destroy(&text);
    tokenizer_free(tokenizer);
    dataset_close(dataset);
    return count;
}

static void test_every_document_once(void **state) {
    const struct fixture *fixture = *state;
    char *output = memory_format(NULL, "%s/once", fixture->directory);
    struct prepare_options options = make_options(fixture, output, (char *[]){fixture->corpus}, 1);
    struct prepare_result result = run_or_fail(&options, NULL);
    int train[DOCUMENTS] = {0}, validation[DOCUMENTS] = {0};
    assert_int_equal(collect(train, output, DATA_TRAIN), result.train.documents);
    assert_int_equal(collect(validation, output, DATA_VALIDATION), result.validation.documents);
    for (int i = 0; i < DOCUMENTS; i++) {
        assert_int_equal(train[i] + validation[i], 1);
    }
    assert_in_range(result.validation.documents, 8, 48);   // a tenth of 240
    struct error error = {0};
    assert_int_equal(dataset_verify(output, &error), 0);
    // The held-out text stands in validation.txt, and nothing else.
    size_t size;
    char *text = test_read_file(test_path(output, "validation.txt"), &size);
    assert_int_equal(size, result.validation.bytes);
    for (int i = 0; i < DOCUMENTS; i++) {
        char expected[256];
        assert_int_equal(strstr(text, document_text(expected, i)) != NULL, validation[i]);
    }
    free(text);
    // The choice depends on the documents alone: the same with half of the corpus in another place and order.
    char *second = memory_format(NULL, "%s/once-more", fixture->directory);
    char *parts[] = {memory_format(NULL, "%s/second", fixture->directory),
                     memory_format(NULL, "%s/half", fixture->directory)};
    write_corpus(parts[0], DOCUMENTS / 2, DOCUMENTS);
    write_corpus(parts[1], 0, DOCUMENTS / 2);
    options = make_options(fixture, second, parts, 2);
    run_or_fail(&options, NULL);
    int again[DOCUMENTS] = {0};
    collect(again, second, DATA_VALIDATION);
    assert_memory_equal(again, validation, sizeof again);
    memory_free(parts[0]);
    memory_free(parts[1]);
    memory_free(second);
    memory_free(output);
}

static void test_duplicates(void **state) {
    const struct fixture *fixture = *state;
    char *output = memory_format(NULL, "%s/twice", fixture->directory);
    char *part = memory_format(NULL, "%s/part", fixture->directory);
    write_corpus(part, 100, 130);
    test_write_file(test_path(part, "blank.txt"), " \n\t\r\n\f\v", 7);
    struct prepare_options options = make_options(fixture, output, (char *[]){fixture->corpus, part}, 2);
    struct prepare_result result = run_or_fail(&options, NULL);
    assert_int_equal(result.duplicates, 30);
    assert_int_equal(result.empty, 1);
    assert_int_equal(result.train.documents + result.validation.documents, DOCUMENTS);
    options.keep_duplicates = options.overwrite = true;
    result = run_or_fail(&options, NULL);
    assert_int_equal(result.duplicates, 0);
    int train[DOCUMENTS] = {0}, validation[DOCUMENTS] = {0};
    collect(train, output, DATA_TRAIN);
    collect(validation, output, DATA_VALIDATION);
    for (int i = 0; i < DOCUMENTS; i++) {
        int times = i >= 100 && i < 130 ? 2 : 1;
        assert_true((train[i] == times && validation[i] == 0) || (train[i] == 0 && validation[i] == times));
    }
    // Held-out files: their documents leave the training side even when duplicates are kept.
    options.held_out_inputs = (char *[]){part};
    options.held_out_count = 1;
    options.input_count = 1;
    result = run_or_fail(&options, NULL);
    assert_int_equal(result.duplicates, 30);
    memset(train, 0, sizeof train);
    memset(validation, 0, sizeof validation);
    assert_int_equal(collect(train, output, DATA_TRAIN), DOCUMENTS - 30);
    assert_int_equal(collect(validation, output, DATA_VALIDATION), 30);
    for (int i = 0; i < DOCUMENTS; i++) {
        assert_int_equal(validation[i], i >= 100 && i < 130);
        assert_int_equal(train[i] + validation[i], 1);
    }
    memory_free(part);
    memory_free(output);
}

static void test_validation_bytes(void **state) {
    const struct fixture *fixture = *state;
    char *output = memory_format(NULL, "%s/bytes", fixture->directory);
    struct prepare_options options = make_options(fixture, output, (char *[]){fixture->corpus}, 1);
    options.validation_bytes = 3000;
    struct prepare_result result = run_or_fail(&options, NULL);
    assert_in_range(result.validation.bytes, 3000, 3256);
    assert_int_equal(result.train.documents + result.validation.documents, DOCUMENTS);
    // By rate 0 nothing, by a tiny rate one document.
    options.overwrite = true;
    options.validation_bytes = 0;
    options.validation_rate = 0;
    result = run_or_fail(&options, NULL);
    assert_int_equal(result.validation.documents, 0);
    assert_int_equal(result.train.documents, DOCUMENTS);
    options.validation_rate = 1e-9;
    result = run_or_fail(&options, NULL);
    assert_int_equal(result.validation.documents, 1);
    // A single document is always for training.
    char *single = memory_format(NULL, "%s/single.txt", fixture->directory);
    test_write_file(single, "all there is", 12);
    options.inputs = &single;
    options.validation_rate = 0.99999;
    result = run_or_fail(&options, NULL);
    assert_int_equal(result.train.documents, 1);
    memory_free(single);
    options.inputs = (char *[]){fixture->corpus};
    options.validation_rate = 0.1;
    options.validation_bytes = 1 << 30;
    check_fails(&options, ERROR_ARGUMENT, "all of the 240 documents are held out");
    memory_free(output);
}

// Two corpora that differ in the held-out text alone train the same tokenizer.
static void test_tokenizer_sees_no_validation(void **state) {
    const struct fixture *fixture = *state;
    char *output[2], *held_out[2];
    for (int i = 0; i < 2; i++) {
        output[i] = memory_format(NULL, "%s/blind-%d", fixture->directory, i);
        held_out[i] = memory_format(NULL, "%s/held-out-%d.txt", fixture->directory, i);
        test_write_file(held_out[i], i == 0 ? "zyzzyva zyzzyva zyzzyva zyzzyva" : "qoph qoph qoph qoph qoph qoph", 29);
        struct prepare_options options = make_options(fixture, output[i], (char *[]){fixture->corpus}, 1);
        options.tokenizer = NULL;
        options.train_vocabulary = 500;
        options.held_out_inputs = &held_out[i];
        options.held_out_count = 1;
        run_or_fail(&options, NULL);
    }
    uint64_t first, second;
    struct error error = {0};
    assert_int_equal(file_checksum(test_path(output[0], "tokenizer.json"), &first, &error), 0);
    assert_int_equal(file_checksum(test_path(output[1], "tokenizer.json"), &second, &error), 0);
    assert_true(first == second);
    for (int i = 0; i < 2; i++) {
        memory_free(output[i]);
        memory_free(held_out[i]);
    }
}

// Text that spells a special token stays text.
static void test_special_tokens_in_text(void **state) {
    const struct fixture *fixture = *state;
    char *output = memory_format(NULL, "%s/special", fixture->directory);
    char *file = memory_format(NULL, "%s/special.txt", fixture->directory);
    static const char text[] = "before <\xEF\xBD\x9C"
                               "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C> after";
    test_write_file(file, text, strlen(text));
    struct prepare_options options = make_options(fixture, output, &file, 1);
    options.validation_rate = 0;
    run_or_fail(&options, NULL);
    struct error error = {0};
    struct dataset *dataset;
    assert_int_equal(dataset_open(&dataset, output, DATA_TRAIN, &error), 0);
    int32_t ids[256];
    int64_t length = dataset_document_length(dataset, 0);
    assert_true(length < 256);
    dataset_document_read(ids, dataset, 0);
    for (int64_t i = 0; i < length - 1; i++) {
        assert_int_not_equal(ids[i], dataset_eos(dataset));
    }
    dataset_close(dataset);
    memory_free(file);
    memory_free(output);
}

static void test_bad_input(void **state) {
    const struct fixture *fixture = *state;
    char *output = memory_format(NULL, "%s/bad", fixture->directory);
    char *empty = memory_format(NULL, "%s/empty.txt", fixture->directory);
    test_write_file(empty, "\n \n", 3);
    struct prepare_options options = make_options(fixture, output, &empty, 1);
    check_fails(&options, ERROR_ARGUMENT, "the corpus is empty: found 1 files with 3 bytes");
    options = make_options(fixture, output, (char *[]){"/nonexistent.txt"}, 1);
    check_fails(&options, ERROR_IO, "/nonexistent.txt: cannot open: No such file");
    options = make_options(fixture, output, (char *[]){fixture->corpus}, 1);
    options.tokenizer = fixture->corpus;
    check_fails(&options, ERROR_IO, "tokenizer.json: cannot open");
    options.tokenizer = empty;
    check_fails(&options, ERROR_FORMAT, "tokenizer.json");
    options.tokenizer = NULL;
    check_fails(&options, ERROR_ARGUMENT, "no tokenizer");
    options.train_vocabulary = 100;
    check_fails(&options, ERROR_ARGUMENT, "vocabulary to train: found 100, expected ");
    options = make_options(fixture, output, (char *[]){fixture->corpus}, 1);
    options.validation_rate = 1;
    check_fails(&options, ERROR_ARGUMENT, "validation: found rate 1");
    options.validation_rate = 0.1;
    options.corpus.separator = "\xff";
    options.corpus.separator_size = 1;
    check_fails(&options, ERROR_ARGUMENT, "separator: expected UTF-8");
    options.corpus.separator = NULL;
    static const volatile sig_atomic_t stop = 1;
    options.corpus.stop = &stop;
    check_fails(&options, ERROR_STATE, "interrupted");
    options.corpus.stop = NULL;
    // What stands in the way stays.
    assert_false(file_exists(output));
    test_write_file(output, "mine", 4);
    check_fails(&options, ERROR_ARGUMENT, "bad: found a file, expected a folder");
    char *folder = memory_format(NULL, "%s/folder", fixture->directory);
    struct error error = {0};
    assert_int_equal(file_make_directory(folder, &error), 0);
    test_write_file(test_path(folder, "mine"), "mine", 4);
    options.output = folder;
    options.overwrite = true;
    check_fails(&options, ERROR_ARGUMENT, "folder: the folder exists and is not empty");
    assert_true(file_exists(test_path(folder, "mine")));
    assert_int_equal(file_remove_tree(test_path(folder, "mine"), &error), 0);
    run_or_fail(&options, NULL);   // an empty folder is no obstacle
    options.overwrite = false;
    check_fails(&options, ERROR_ARGUMENT, "(--overwrite replaces a dataset)");
    options.overwrite = true;
    run_or_fail(&options, NULL);
    memory_free(folder);
    memory_free(empty);
    memory_free(output);
    // None of it left a trace.
    char **names;
    int64_t count;
    assert_int_equal(file_list(&names, &count, fixture->directory, &error), 0);
    for (int64_t i = 0; i < count; i++) {
        assert_null(strstr(names[i], ".tmp"));
        assert_null(strstr(names[i], ".old"));
    }
    file_list_free(names, count);
}

static struct prepare_options small_options(const struct fixture *fixture, char **output, char **input) {
    *output = memory_format(NULL, "%s/small", fixture->directory);
    *input = memory_format(NULL, "%s/small.txt", fixture->directory);
    test_write_file(*input, "one\n\ntwo\n\nthree\n\nfour\n\nfive", 27);
    struct prepare_options options = make_options(fixture, *output, input, 1);
    options.corpus.separator = "\n\n";
    options.corpus.separator_size = 2;
    return options;
}

// The n-th allocation fails, and all later ones: an error, no dataset, no memory lost. Steps grow, the sites repeat.
static void test_no_memory(void **state) {
    const struct fixture *fixture = *state;
    char *output, *input;
    struct prepare_options options = small_options(fixture, &output, &input);
    int64_t failures = 0;
    int code = 0;
    for (int64_t n = 1;; n += 1 + n / 40) {
        struct error error = {0};
        struct prepare_result result;
        int64_t before = memory_statistics_get().live_blocks;
        memory_fail_at(n);
        code = prepare_run(&result, &options, NULL, &error);
        memory_fail_at(0);
        assert_int_equal(memory_statistics_get().live_blocks, before);
        if (code == 0) {
            break;
        }
        failures++;
        test_assert_error(code, &error, ERROR_MEMORY, "");
        assert_false(file_exists(output));
    }
    assert_true(failures > 30);
    struct error error = {0};
    assert_int_equal(dataset_verify(output, &error), 0);
    assert_int_equal(file_remove_tree(output, &error), 0);
    memory_free(output);
    memory_free(input);
}

// The n-th system call fails with a full disk: the dataset is complete or absent.
static void test_full_disk(void **state) {
    const struct fixture *fixture = *state;
    char *output, *input;
    struct prepare_options options = small_options(fixture, &output, &input);
    int64_t failures = 0;
    for (int64_t n = 1;; n++) {
        struct error error = {0}, none = {0};
        struct prepare_result result;
        file_fail_at(n, ENOSPC);
        int code = prepare_run(&result, &options, NULL, &error);
        file_fail_at(0, 0);
        if (code != 0) {
            failures++;
            test_assert_error(code, &error, ERROR_IO, "No space left on device");
        }
        if (file_exists(output)) {
            assert_int_equal(dataset_verify(output, &none), 0);
            assert_int_equal(file_remove_tree(output, &none), 0);
        }
        if (code == 0) {
            break;
        }
        // The hook also stops the cleaning up, which a full disk does not.
        char **names;
        int64_t count;
        assert_int_equal(file_list(&names, &count, fixture->directory, &none), 0);
        for (int64_t i = 0; i < count; i++) {
            if (strstr(names[i], "small.tmp") != NULL) {
                assert_int_equal(file_remove_tree(test_path(fixture->directory, names[i]), &none), 0);
            }
        }
        file_list_free(names, count);
    }
    assert_true(failures > 20);
    memory_free(output);
    memory_free(input);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_every_document_once),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_validation_bytes),
        cmocka_unit_test(test_tokenizer_sees_no_validation),
        cmocka_unit_test(test_special_tokens_in_text),
        cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
