// Tables of splittable tokens, and that the loader's stream keeps the text when it splits them.
#include "support/test.h"

#include <string.h>

#include "base/memory.h"
#include "data/dataset_writer.h"
#include "data/loader.h"
#include "data/token_split.h"
#include "text/bpe_train.h"

struct fixture {
    char *directory;
    struct tokenizer *tokenizer;
};

// A vocabulary with many tokens of signs and line breaks.
static int fixture_setup(void **state) {
    static struct fixture fixture;
    static const char text[] =
        "one.\n\ntwo.\n\nthree.\ntwo.\n one;\r\n\r\ntwo;\r\n\r\nif (a) {\n};\n};\n} \n\n\n\"one.\"\n\"two.\"\n "
        "\xE2\x80\xA6\n\xE2\x80\xA6\n \xE2\x80\xA6\n\xE3\x80\x82\n\xE3\x80\x82\n\n\n one?!\n two?!\n";
    struct error error = {0};
    struct bpe_trainer *trainer;
    struct bpe_train_result result;
    fixture.directory = test_directory();
    assert_int_equal(bpe_trainer_create(&trainer, NULL, &error), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(bpe_trainer_add(trainer, text, sizeof text - 1, &error), 0);
    }
    assert_int_equal(bpe_trainer_finish(&result, trainer, 400, fixture.directory, NULL, &error), 0);
    bpe_trainer_free(trainer);
    assert_int_equal(tokenizer_load(&fixture.tokenizer, fixture.directory, &error), 0);
    *state = &fixture;
    return 0;
}

static int fixture_teardown(void **state) {
    struct fixture *fixture = *state;
    tokenizer_free(fixture->tokenizer);
    test_directory_remove(fixture->directory);
    return 0;
}

static void check_token(const struct fixture *fixture, const struct token_split *split, const char *text,
                        int64_t place) {
    int32_t id = tokenizer_find_string(fixture->tokenizer, text);
    if (id < 0) {
        fail_msg("the vocabulary lacks \"%s\"", text);
    }
    int32_t begin = split->offsets[id], end = split->offsets[id + 1];
    assert_int_equal(end > begin, place > 0);
    struct byte_buffer joined = {0};
    struct error error = {0};
    for (int32_t i = begin; i < end; i++) {
        assert_int_equal(tokenizer_decode(&joined, fixture->tokenizer, &split->pieces[i], 1, 0, &error), 0);
        assert_true(joined.size <= place || i > begin);
    }
    assert_int_equal(joined.size, place > 0 ? (int64_t)strlen(text) : 0);
    assert_memory_equal(joined.data != NULL ? joined.data : "", text, (size_t)joined.size);
    byte_buffer_destroy(&joined);
}

static void test_tables(void **state) {
    const struct fixture *fixture = *state;
    struct error error = {0};
    struct token_split split;
    assert_int_equal(token_split_create(&split, fixture->tokenizer, &error), 0);
    check_token(fixture, &split, ".\n\n", 1);
    check_token(fixture, &split, ".\n", 1);
    check_token(fixture, &split, ";\r\n\r\n", 1);
    check_token(fixture, &split, " {\n", 2);
    check_token(fixture, &split, "};\n", 2);
    check_token(fixture, &split, ".\"\n", 2);
    check_token(fixture, &split, "\xE2\x80\xA6\n", 3);   // ellipsis
    check_token(fixture, &split, "?!\n", 2);
    check_token(fixture, &split, ".", 0);
    check_token(fixture, &split, "\n", 0);
    check_token(fixture, &split, " ", 0);
    check_token(fixture, &split, "two", 0);
    check_token(fixture, &split,
                "<\xEF\xBD\x9C"
                "fim\xE2\x96\x81hole\xEF\xBD\x9C>",
                0);
    int32_t vocabulary = tokenizer_vocabulary_size(fixture->tokenizer);
    int64_t tokens = 0;
    for (int32_t id = 0; id < vocabulary; id++) {
        int32_t count = split.offsets[id + 1] - split.offsets[id];
        assert_true(count == 0 || count >= 2);
        tokens += count > 0;
    }
    assert_int_equal(tokens, split.tokens);
    assert_true(tokens >= 8);
    token_split_destroy(&split);
}

static int create_again(void *argument, struct error *error) {
    const struct fixture *fixture = argument;
    struct token_split split;
    int code = token_split_create(&split, fixture->tokenizer, error);
    token_split_destroy(&split);
    return code;
}

static void test_no_memory(void **state) {
    assert_true(test_failing_memory(create_again, *state) >= 3);
}

// Through a dataset and the loader, at a rate of one half: other ids, the same text.
static void test_stream_keeps_text(void **state) {
    const struct fixture *fixture = *state;
    static const char text[] = "two.\n\none;\r\n\r\nif (two) {\n};\n\"one.\"\n\xE2\x80\xA6\nthree?!\n";
    enum { DOCUMENTS = 50, LENGTH = 2000 };
    struct error error = {0};
    struct encoder *encoder;
    struct token_buffer ids = {0};
    struct token_split split;
    struct dataset_writer *writer;
    struct dataset *dataset;
    struct loader *loader;
    char *directory = test_directory();
    json_t *properties = json_object();
    assert_int_equal(encoder_create(&encoder, fixture->tokenizer, &error), 0);
    assert_int_equal(encoder_encode(&ids, encoder, text, sizeof text - 1, 0, &error), 0);
    struct dataset_writer_options writer_options = {.directory = directory,
                                                    .vocab_size = tokenizer_vocabulary_size(fixture->tokenizer),
                                                    .bos = 0,
                                                    .eos = 1,
                                                    .shard_bytes = 1 << 20};
    assert_int_equal(dataset_writer_create(&writer, &writer_options, &error), 0);
    for (int i = 0; i < DOCUMENTS; i++) {
        assert_int_equal(dataset_writer_append(writer, DATA_TRAIN, ids.ids, ids.count, sizeof text - 1, &error), 0);
    }
    assert_int_equal(dataset_writer_finish(writer, properties, &error), 0);
    dataset_writer_free(writer);
    json_decref(properties);
    assert_int_equal(dataset_open(&dataset, directory, DATA_TRAIN, &error), 0);
    assert_int_equal(token_split_create(&split, fixture->tokenizer, &error), 0);
    struct loader_options options = {.seed = 5,
                                     .length = LENGTH,
                                     .extra = 0,
                                     .split_rate = 0.5,
                                     .fim_begin = -1,
                                     .fim_hole = -1,
                                     .fim_end = -1,
                                     .split_offsets = split.offsets,
                                     .split_pieces = split.pieces,
                                     .shuffle = true};
    assert_int_equal(loader_create(&loader, dataset, &options, &error), 0);
    int32_t *stream = memory_allocate(LENGTH, sizeof *stream, "stream", &error);
    int64_t count, documents = 0, different = 0;
    assert_int_equal(loader_next(stream, &count, loader), 0);
    for (int64_t at = 0; at < LENGTH;) {
        int64_t end = at + 1;
        while (end < LENGTH && stream[end] != 1) {
            end++;
        }
        if (end == LENGTH) {
            break;
        }
        struct byte_buffer decoded = {0};
        assert_int_equal(tokenizer_decode(&decoded, fixture->tokenizer, stream + at + 1, end - at - 1, 0, &error), 0);
        assert_int_equal(decoded.size, sizeof text - 1);
        assert_memory_equal(decoded.data, text, sizeof text - 1);
        byte_buffer_destroy(&decoded);
        different += end - at - 1 != ids.count;
        documents++;
        at = end + 1;
    }
    assert_true(documents > 20);
    assert_true(different > documents / 2);
    memory_free(stream);
    loader_destroy(loader);
    token_split_destroy(&split);
    dataset_close(dataset);
    token_buffer_destroy(&ids);
    encoder_free(encoder);
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_stream_keeps_text),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
