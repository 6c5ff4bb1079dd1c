// Files cut into documents: separators, sizes, JSON lines, folders, ill-formed text, and every failure on the way.
#include "support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/corpus.h"

static struct corpus_options default_options(void) {
    return (struct corpus_options){.text_key = "text", .document_bytes = 100};
}

// All documents of some inputs, cleaned, each followed by a 0x01 byte; or the error's code.
struct result {
    struct byte_buffer text;
    int64_t documents, replaced;
    struct error error;
    int code;
};

static void read_into(struct result *result, struct corpus *corpus) {
    struct byte_buffer raw = {0};
    struct corpus_record record;
    while (result->code == 0) {
        raw.size = 0;
        int found = corpus_next(&record, &raw, corpus, &result->error);
        if (found <= 0) {
            result->code = found;
            break;
        }
        assert_int_equal(record.begin, 0);
        assert_int_equal(record.size, raw.size);
        result->code = corpus_clean(&result->text, &result->replaced, corpus, &record, raw.data, &result->error);
        if (result->code == 0) {
            result->code = byte_buffer_append(&result->text, "\1", 1, &result->error);
        }
        result->documents++;
    }
    byte_buffer_destroy(&raw);
}

static struct result read_corpus(const struct corpus_options *options, const char *const *paths, int count) {
    struct result result = {0};
    struct corpus *corpus = NULL;
    result.code = corpus_create(&corpus, options, &result.error);
    for (int i = 0; i < count && result.code == 0; i++) {
        result.code = corpus_add(corpus, paths[i], false, NULL, &result.error);
    }
    if (result.code == 0) {
        read_into(&result, corpus);
    }
    corpus_free(corpus);
    return result;
}

static void result_free(struct result *result) {
    byte_buffer_destroy(&result->text);
}

// Expects the documents of one file; `expected` has a \1 behind each.
static void check_size(const struct corpus_options *options, const char *name, const char *text, size_t size,
                       const char *expected, size_t expected_size) {
    char *directory = test_directory();
    const char *path = test_path(directory, name);
    test_write_file(path, text, size);
    struct result result = read_corpus(options, &path, 1);
    if (result.code != 0) {
        fail_msg("%s", result.error.text);
    }
    assert_int_equal(result.text.size, expected_size);
    assert_memory_equal(result.text.data, expected, expected_size);
    result_free(&result);
    test_directory_remove(directory);
}

static void check(const struct corpus_options *options, const char *name, const char *text, const char *expected) {
    check_size(options, name, text, strlen(text), expected, strlen(expected));
}

static void check_error(const struct corpus_options *options, const char *name, const char *text, size_t size, int code,
                        const char *fragment) {
    char *directory = test_directory();
    const char *path = test_path(directory, name);
    test_write_file(path, text, size);
    struct result result = read_corpus(options, &path, 1);
    test_assert_error(result.code, &result.error, code, fragment);
    assert_non_null(strstr(result.error.text, name));
    result_free(&result);
    test_directory_remove(directory);
}

static void test_cut(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t most, cut;
    } cases[] = {
        {"one two\n\nthree four\nfive six", 26, 20},    // the blank line is in the first half
        {"one two\nthree\n\nfour\nfive six", 26, 15},   // a blank line before a later line
        {"one two three\nfour five\n\nsix seven eight", 30, 25},
        {"one two three\nfour five\n \t\r\nsix seven", 31, 28},   // a line of blanks is a blank line
        {"one two three\nfour\n\n\n\nfive six se", 28, 22},       // behind the whole run
        {"one two three four\nfive six seven", 25, 19},
        {"one two three four five six seven", 25, 24},
        {"onetwothreefourfivesixseven", 20, 20},
        {"aaaaaaaaa\xC3\xA9zzz", 10, 9},   // not inside a character
        {"aaaaaaaa\xF0\x9F\x98\x80zzz", 11, 8},
        {"\x80\x80\x80\x80\x80\x80\x80\x80", 6, 3},   // no text at all: somewhere
        {"ab", 1, 1},
        {"\n\n", 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(corpus_cut(cases[i].text, cases[i].most), cases[i].cut);
    }
}

static void test_text_by_size(void **state) {
    (void)state;
    struct corpus_options options = default_options();
    options.document_bytes = 16;
    check(&options, "a.txt", "short", "short\1");
    check(&options, "a.txt", "twenty bytes of text", "twenty bytes of text\1");   // a quarter more is not cut
    check(&options, "a.txt", "twenty-one bytes text", "twenty-one \1bytes text\1");
    check(&options, "a.txt", "first line\n\nsecond line\n\nthird", "first line\n\n\1second line\n\nthird\1");
    check(&options, "a.txt", "", "");
    check(&options, "a.txt",
          "\xEF\xBB\xBF"
          "text",
          "text\1");
    check(&options, "a.txt", "\xEF\xBB\xBF", "");
    options.document_bytes = 0;
    check(&options, "a.txt", "first line\n\nsecond line\n\nthird and more",
          "first line\n\nsecond line\n\nthird and more\1");
}

// Whatever the sizes: the documents laid end to end are the file, and none is much longer than asked for.
static void test_nothing_lost(void **state) {
    (void)state;
    enum { SIZE = 3 << 20 };
    static const char *const words[] = {"a", " ",   "the ", "whale\n", "\n\n", "caf\xC3\xA9 ", "\xE9\xAF\xA8",
                                        ".", "\r\n"};
    char *text = malloc(SIZE), *directory = test_directory();
    assert_non_null(text);
    uint32_t random = 1;
    size_t size = 0;
    for (; size < SIZE - 8;) {
        random = random * 1664525 + 1013904223;
        const char *word = words[(random >> 16) % 9];
        memcpy(text + size, word, strlen(word));
        size += strlen(word);
    }
    const char *path = test_path(directory, "whale.txt");
    test_write_file(path, text, size);
    static const int64_t sizes[] = {1, 2, 7, 100, 4096, 100000, 1 << 20, 5 << 20, 0};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct corpus_options options = {.ill_formed = CORPUS_KEEP, .document_bytes = sizes[i]};
        struct result result = read_corpus(&options, &path, 1);
        assert_int_equal(result.code, 0);
        size_t at = 0;
        int64_t length = 0;
        for (int64_t k = 0; k < result.text.size; k++) {
            if (result.text.data[k] == '\1') {
                assert_true(length > 0);
                assert_true(sizes[i] == 0 || length <= sizes[i] + sizes[i] / 4);
                length = 0;
                continue;
            }
            length++;
            if (text[at++] != result.text.data[k]) {
                fail_msg("byte %zu differs with documents of %lld bytes", at - 1, (long long)sizes[i]);
            }
        }
        assert_int_equal(at, size);
        assert_true(sizes[i] == 0 || sizes[i] > SIZE || result.documents >= (int64_t)size / (sizes[i] + sizes[i] / 4));
        result_free(&result);
    }
    free(text);
    test_directory_remove(directory);
}

static void test_separator(void **state) {
    (void)state;
    struct corpus_options options = default_options();
    options.separator = "\f";
    options.separator_size = 1;
    check(&options, "a.txt", "one\ftwo\f\fthree", "one\1two\1\1three\1");
    check(&options, "a.txt", "one\f", "one\1");
    options.separator = "<|end|>";
    options.separator_size = 7;
    check(&options, "a.txt", "one<|end|>two<|end<|end|>three", "one\1two<|end\1three\1");
    // Separators that stand across every multiple of the size of one read, cut at each of their bytes.
    enum { READ = 1 << 20, SEPARATORS = 6, SIZE = (SEPARATORS + 1) * READ };
    char *text = malloc(SIZE), *expected = malloc(SIZE);
    assert_true(text != NULL && expected != NULL);
    memset(text, 'a', SIZE);
    size_t size = SIZE, expected_size = 0;
    for (int i = 1; i <= SEPARATORS; i++) {
        memcpy(text + i * READ - i, "<|end|>", 7);
    }
    for (size_t at = 0; at < size;) {
        bool separator = text[at] == '<';
        expected[expected_size++] = separator ? '\1' : 'a';
        at += separator ? 7 : 1;
    }
    expected[expected_size++] = '\1';
    check_size(&options, "a.txt", text, size, expected, expected_size);
    free(text);
    free(expected);
}

static void test_jsonl(void **state) {
    (void)state;
    struct corpus_options options = default_options();
    options.document_bytes = 2;   // of plain text only
    check(&options, "a.jsonl",
          "{\"text\":\"one and more\"}\n\n  \r\n{\"id\":3,\"text\":\"t\\u00e9\\n\"}\r\n{\"text\":\"\"}",
          "one and more\1t\xC3\xA9\n\1\1");
    check(&options, "a.ndjson", "{\"text\":\"one\"}\n", "one\1");
    check_size(&options, "a.jsonl", "{\"text\":\"a\\u0000b\"}", 19, "a\0b\1", 4);
    options.text_key = "body";
    options.format = CORPUS_JSONL;
    check(&options, "a.txt", "{\"text\":1,\"body\":\"one\"}\n", "one\1");
    options.format = CORPUS_TEXT;
    options.document_bytes = 0;
    check(&options, "a.jsonl", "{\"text\":\"one\"}\n", "{\"text\":\"one\"}\n\1");

    options = default_options();
    static const struct {
        const char *text, *fragment;
    } cases[] = {
        {"{\"text\":\"one\"}\n{\"body\":\"x\"}", "line 2: key \"text\": expected a string, found nothing"},
        {"\n\n{\"text\":17}", "line 3: key \"text\": expected a string, found an integer"},
        {"[1,2]", "line 1: expected an object, found an array"},
        {"{\"text\":\"one\"}\n{\"text\":\"two\n", "line 2, column"},
        {"{\"text\":\"one\"} {}", "line 1, column"},
        {"\n{\"text\":\"one\",\"text\":\"two\"}", "line 2, column"},
        {"{\"text\":\"\\ud800\"}", "line 1, column"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_error(&options, "bad.jsonl", cases[i].text, strlen(cases[i].text), ERROR_FORMAT, cases[i].fragment);
    }
}

// A line beyond the limit is refused without being held in memory; sparse, so that the test costs little.
static void test_endless_line(void **state) {
    (void)state;
    char *directory = test_directory();
    const char *path = test_path(directory, "long.jsonl");
    test_write_file(path, "{\"text\":\"one\"}\n", 15);
    assert_int_equal(truncate(path, CORPUS_DOCUMENT_LIMIT * 4), 0);
    struct corpus_options options = default_options();
    struct result result = read_corpus(&options, &path, 1);
    test_assert_error(result.code, &result.error, ERROR_LIMIT, "line 2: more than 268435456 bytes");
    assert_true(memory_statistics_get().peak_bytes < CORPUS_DOCUMENT_LIMIT * 4);
    result_free(&result);
    test_directory_remove(directory);
}

static void test_ill_formed(void **state) {
    (void)state;
#define FFFD "\xEF\xBF\xBD"
    static const struct {
        const char *text, *expected;
        int64_t replaced;
    } cases[] = {
        {"plain caf\xC3\xA9 \xF0\x9F\x98\x80 \xED\x9F\xBF\xEE\x80\x80 \xF4\x8F\xBF\xBF", NULL, 0},
        {"\x80", FFFD "\1", 1},
        {"a\xC3", "a" FFFD "\1", 1},
        {"\xC3"
         "a",
         FFFD "a\1", 1},
        {"\xE2\x82"
         "a",
         FFFD "a\1", 1},   // a cut character is one
        {"\xF0\x9F\x98"
         "a",
         FFFD "a\1", 1},
        {"\xC0\xAF", FFFD FFFD "\1", 2},   // overlong: no byte of it begins a character
        {"\xE0\x80\x80", FFFD FFFD FFFD "\1", 3},
        {"\xED\xA0\x80", FFFD FFFD FFFD "\1", 3},   // surrogate
        {"\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD "\1", 4},
        {"\xFE\xFF", FFFD FFFD "\1", 2},
        {"\xF0\x9F\xC3\xA9", FFFD "\xC3\xA9\1", 1},
        {"12345678\x80"
         "12345678\x80",
         "12345678" FFFD "12345678" FFFD "\1", 2},
    };
    struct corpus_options options = default_options();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *directory = test_directory();
        const char *path = test_path(directory, "a.txt"), *text = cases[i].text;
        test_write_file(path, text, strlen(text));
        for (int how = CORPUS_REPLACE; how <= CORPUS_REFUSE; how++) {
            options.ill_formed = (enum corpus_ill_formed)how;
            struct result result = read_corpus(&options, &path, 1);
            if (how == CORPUS_REFUSE && cases[i].replaced > 0) {
                test_assert_error(result.code, &result.error, ERROR_FORMAT, "ill-formed UTF-8: found byte 0x");
            } else if (how == CORPUS_REPLACE && cases[i].expected != NULL) {
                assert_int_equal(result.replaced, cases[i].replaced);
                assert_int_equal(result.text.size, strlen(cases[i].expected));
                assert_memory_equal(result.text.data, cases[i].expected, strlen(cases[i].expected));
            } else {
                assert_int_equal(result.code, 0);
                assert_int_equal(result.text.size, strlen(text) + 1);
                assert_memory_equal(result.text.data, text, strlen(text));
            }
            result_free(&result);
        }
        test_directory_remove(directory);
    }
    options.ill_formed = CORPUS_REPLACE;
    check(&options, "a.jsonl",
          "{\"text\":\"a\xFF"
          "b\"}",
          "a" FFFD "b\1");
    options.ill_formed = CORPUS_REFUSE;
    check_error(&options, "a.jsonl", "\n{\"text\":\"a\xFF\"}", 14, ERROR_FORMAT,
                "line 2: ill-formed UTF-8: found byte 0xff at its byte 10");
}

static void test_line_feeds(void **state) {
    (void)state;
    struct corpus_options options = default_options();
    check(&options, "a.txt", "one\r\ntwo\rthree\r\r\n", "one\r\ntwo\rthree\r\r\n\1");
    options.line_feeds = true;
    check(&options, "a.txt", "one\r\ntwo\rthree\r\r\n", "one\ntwo\nthree\n\n\1");
    check(&options, "a.jsonl", "{\"text\":\"a\\r\\nb\"}\r\n", "a\nb\1");
}

static void test_folders(void **state) {
    (void)state;
    char *directory = test_directory();
    struct error error = {0};
    assert_int_equal(file_make_directory(test_path(directory, "books/old"), &error), 0);
    test_write_file(test_path(directory, "books/b.txt"), "b", 1);
    test_write_file(test_path(directory, "books/B.txt"), "B", 1);
    test_write_file(test_path(directory, "books/a.jsonl"), "{\"text\":\"a\"}", 12);
    test_write_file(test_path(directory, "books/old/c"), "c", 1);
    test_write_file(test_path(directory, "books/.hidden"), "h", 1);
    test_write_file(test_path(directory, "books/binary"), "x\0y", 3);
    assert_int_equal(mkfifo(test_path(directory, "books/pipe"), 0600), 0);
    struct corpus_options options = default_options();
    const char *paths[] = {test_path(directory, "books"), test_path(directory, "books/binary")};
    struct result result = read_corpus(&options, paths, 2);
    assert_int_equal(result.code, 0);
    assert_int_equal(result.text.size, 12);
    assert_memory_equal(result.text.data, "B\1a\1b\1c\1x\0y\1", 12);   // the binary file only where it was named
    result_free(&result);

    struct corpus *corpus;
    assert_int_equal(corpus_create(&corpus, &options, &error), 0);
    assert_int_equal(corpus_add(corpus, paths[0], true, NULL, &error), 0);
    assert_int_equal(corpus_files(corpus), 5);
    assert_int_equal(corpus_bytes(corpus), 1 + 1 + 12 + 1 + 3);
    for (int round = 0; round < 2; round++) {
        struct corpus_record record;
        struct byte_buffer raw = {0};
        int count = 0;
        while (corpus_next(&record, &raw, corpus, &error) == 1) {
            assert_true(record.held_out);
            count++;
        }
        assert_int_equal(count, 4);
        assert_int_equal(corpus_binary_files(corpus), 1);
        assert_int_equal(corpus_position(corpus), corpus_bytes(corpus));
        byte_buffer_destroy(&raw);
        corpus_rewind(corpus);
    }
    corpus_free(corpus);

    assert_int_equal(symlink("..", test_path(directory, "books/old/up")), 0);
    result = read_corpus(&options, paths, 1);
    assert_true(result.code != 0);   // ELOOP or our own limit: never without end
    result_free(&result);
    paths[0] = test_path(directory, "books/pipe");
    result = read_corpus(&options, paths, 1);
    test_assert_error(result.code, &result.error, ERROR_ARGUMENT, "pipe: found a special file");
    paths[0] = test_path(directory, "missing");
    result = read_corpus(&options, paths, 1);
    test_assert_error(result.code, &result.error, ERROR_IO, "missing: cannot open");
    test_directory_remove(directory);
}

static void test_standard_input(void **state) {
    (void)state;
    char *directory = test_directory();
    struct error error = {0};
    const char *path = test_path(directory, "input"), *spool = test_path(directory, "spool");
    test_write_file(path, "one\n\ntwo", 8);
    int kept = dup(STDIN_FILENO), file = open(path, O_RDONLY);
    assert_true(kept >= 0 && file >= 0);
    assert_int_equal(dup2(file, STDIN_FILENO), STDIN_FILENO);
    close(file);
    struct corpus_options options = default_options();
    struct corpus *corpus;
    assert_int_equal(corpus_create(&corpus, &options, &error), 0);
    assert_int_equal(corpus_add(corpus, "-", false, spool, &error), 0);
    assert_int_equal(corpus_bytes(corpus), 8);
    assert_string_equal(corpus_source_name(corpus, 0), "standard input");
    for (int round = 0; round < 2; round++) {
        struct result result = {0};
        read_into(&result, corpus);
        assert_int_equal(result.code, 0);
        assert_int_equal(result.text.size, 9);
        assert_memory_equal(result.text.data, "one\n\ntwo\1", 9);
        result_free(&result);
        corpus_rewind(corpus);
    }
    corpus_free(corpus);
    assert_int_equal(dup2(kept, STDIN_FILENO), STDIN_FILENO);
    close(kept);
    test_directory_remove(directory);
}

static int read_again(void *argument, struct error *error) {
    const char *paths[] = {argument};
    struct corpus_options options = default_options();
    options.document_bytes = 20;
    struct result result = read_corpus(&options, paths, 1);
    result_free(&result);
    *error = result.error;
    return result.code;
}

static void test_failures(void **state) {
    (void)state;
    char *directory = test_directory();
    struct error error = {0};
    assert_int_equal(file_make_directory(test_path(directory, "corpus"), &error), 0);
    test_write_file(test_path(directory, "corpus/a.txt"), "some text\n\nthat is long enough to be cut", 40);
    test_write_file(test_path(directory, "corpus/b.jsonl"), "{\"text\":\"one\"}\n{\"text\":\"two\"}", 29);
    char *folder = file_join(directory, "corpus", &error);
    assert_non_null(folder);
    assert_true(test_failing_memory(read_again, folder) > 10);
    int code;
    int64_t n = 0;
    do {
        error = (struct error){0};
        file_fail_at(++n, EIO);
        code = read_again(folder, &error);
        file_fail_at(0, 0);
        assert_true(code == 0 || (code == ERROR_IO && strstr(error.text, folder) != NULL));
    } while (code != 0);
    assert_true(n > 6);
    memory_free(folder);
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),          cmocka_unit_test(test_text_by_size),
        cmocka_unit_test(test_nothing_lost), cmocka_unit_test(test_separator),
        cmocka_unit_test(test_jsonl),        cmocka_unit_test(test_endless_line),
        cmocka_unit_test(test_ill_formed),   cmocka_unit_test(test_line_feeds),
        cmocka_unit_test(test_folders),      cmocka_unit_test(test_standard_input),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
