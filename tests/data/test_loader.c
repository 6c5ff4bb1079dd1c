// The training stream: every token once, in an order that the seed alone decides, from any cursor.
#include "support/test.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/dataset_maker.h"
#include "data/loader.h"

enum { VOCAB = 300, DOCUMENTS = 57, FIM_BEGIN = 290, FIM_HOLE = 291, FIM_END = 292, TEXT_VOCAB = 280 };

struct fixture {
    char *directory;
    struct dataset *dataset;
};

// Text ids stay below TEXT_VOCAB, so that the markers are seen.
static int fixture_setup(void **state) {
    static struct fixture fixture;
    struct error error = {0};
    fixture.directory = test_directory();
    struct dataset_writer_options options = {
        .directory = fixture.directory, .vocab_size = VOCAB, .bos = 0, .eos = 1, .shard_bytes = 900};
    struct dataset_writer *writer;
    json_t *properties = json_object();
    assert_int_equal(dataset_writer_create(&writer, &options, &error), 0);
    for (int64_t document = 0; document < DOCUMENTS; document++) {
        int32_t ids[128];
        for (int64_t i = 0; i < maker_length(document); i++) {
            ids[i] = maker_id(document, i, TEXT_VOCAB);
        }
        assert_int_equal(dataset_writer_append(writer, DATA_TRAIN, ids, maker_length(document), 1, &error), 0);
    }
    assert_int_equal(dataset_writer_finish(writer, properties, &error), 0);
    dataset_writer_free(writer);
    json_decref(properties);
    assert_int_equal(dataset_open(&fixture.dataset, fixture.directory, DATA_TRAIN, &error), 0);
    *state = &fixture;
    return 0;
}

static int fixture_teardown(void **state) {
    struct fixture *fixture = *state;
    dataset_close(fixture->dataset);
    test_directory_remove(fixture->directory);
    return 0;
}

// Splits: id % 5 == 0 falls into two pieces, id % 5 == 1 (above 1) into three. Pieces of t: 100000 * (k + 1) + t,
// outside the vocabulary, so that a piece can be told from a token.
static int32_t split_offsets[VOCAB + 1], split_pieces[3 * VOCAB];

static int split_count(int32_t id) {
    return id < 2 || id >= TEXT_VOCAB ? 0 : id % 5 == 0 ? 2 : id % 5 == 1 ? 3 : 0;
}

static void build_splits(void) {
    int32_t used = 0;
    for (int32_t id = 0; id < VOCAB; id++) {
        split_offsets[id] = used;
        for (int k = 0; k < split_count(id); k++) {
            split_pieces[used++] = 100000 * (k + 1) + id;
        }
    }
    split_offsets[VOCAB] = used;
}

static struct loader_options plain_options(int64_t length, int64_t extra, bool shuffle) {
    return (struct loader_options){.seed = 1234,
                                   .length = length,
                                   .extra = extra,
                                   .fim_begin = -1,
                                   .fim_hole = -1,
                                   .fim_end = -1,
                                   .shuffle = shuffle};
}

static struct loader_options full_options(int64_t length, int64_t extra) {
    struct loader_options options = plain_options(length, extra, true);
    build_splits();
    options.fim_rate = 0.4;
    options.split_rate = 0.3;
    options.fim_begin = FIM_BEGIN;
    options.fim_hole = FIM_HOLE;
    options.fim_end = FIM_END;
    options.split_offsets = split_offsets;
    options.split_pieces = split_pieces;
    return options;
}

static struct loader *make_loader(const struct fixture *fixture, const struct loader_options *options) {
    struct error error = {0};
    struct loader *loader;
    assert_int_equal(loader_create(&loader, fixture->dataset, options, &error), 0);
    return loader;
}

// The first `count` tokens of the stream, through sequences of the given sizes; checks the overlap on the way.
static int32_t *read_stream(const struct fixture *fixture, struct loader_options options, int64_t count) {
    struct loader *loader = make_loader(fixture, &options);
    int64_t total = options.length + options.extra;
    int32_t *stream = malloc((size_t)(count + total) * sizeof *stream), *ids = malloc((size_t)total * sizeof *ids);
    assert_true(stream != NULL && ids != NULL);
    for (int64_t at = 0; at < count; at += options.length) {
        int64_t delivered;
        assert_int_equal(loader_next(ids, &delivered, loader), 0);
        assert_int_equal(delivered, total);
        if (at > 0) {
            assert_memory_equal(ids, stream + at, (size_t)options.extra * sizeof *ids);
        }
        memcpy(stream + at, ids, (size_t)total * sizeof *ids);
        assert_int_equal(loader_cursor(loader).tokens, at + options.length);
        assert_int_equal(loader_cursor(loader).sequences, at / options.length + 1);
    }
    free(ids);
    loader_destroy(loader);
    return stream;
}

// Without shuffling: one pass in order, the last sequence partly filled, then nothing.
static void check_single_pass(const struct fixture *fixture, int64_t length, int64_t extra) {
    struct loader_options options = plain_options(length, extra, false);
    struct loader *loader = make_loader(fixture, &options);
    int64_t tokens = dataset_tokens(fixture->dataset), total = length + extra, at = 0, filled = 0, document = 0;
    int32_t *all = malloc((size_t)tokens * sizeof *all), *ids = malloc((size_t)total * sizeof *ids);
    assert_true(all != NULL && ids != NULL);
    for (; document < DOCUMENTS; document++) {
        dataset_document_read(all + filled, fixture->dataset, document);
        filled += dataset_document_length(fixture->dataset, document);
    }
    assert_int_equal(filled, tokens);
    for (int over = 0; !over; at += length) {
        int64_t count;
        over = loader_next(ids, &count, loader);
        assert_int_equal(over, at + total > tokens);
        assert_int_equal(count, over ? tokens - at : total);
        assert_memory_equal(ids, all + at, (size_t)count * sizeof *ids);
        for (int64_t i = count; i < total; i++) {
            assert_int_equal(ids[i], 0);
        }
    }
    assert_int_equal(loader_cursor(loader).tokens, tokens);
    for (int again = 0; again < 2; again++) {
        struct loader_cursor cursor = loader_cursor(loader);
        struct error error = {0};
        int64_t count;
        assert_int_equal(loader_next(ids, &count, loader), 1);
        assert_int_equal(count, 0);
        assert_int_equal(cursor.document, DOCUMENTS);
        assert_int_equal(loader_seek(loader, &cursor, &error), 0);
    }
    struct error error = {0};
    assert_int_equal(loader_seek(loader, &(struct loader_cursor){0}, &error), 0);
    int64_t count;
    loader_next(ids, &count, loader);
    assert_memory_equal(ids, all, (size_t)count * sizeof *ids);
    free(all);
    free(ids);
    loader_destroy(loader);
}

static void test_single_pass(void **state) {
    static const int64_t sizes[][2] = {{64, 2}, {64, 0}, {1, 1}, {3, 9}, {1, 0}, {100000, 5}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_single_pass(*state, sizes[i][0], sizes[i][1]);
    }
    int64_t tokens = dataset_tokens(((struct fixture *)*state)->dataset);
    check_single_pass(*state, tokens, 0);
    check_single_pass(*state, tokens - 2, 2);
    check_single_pass(*state, tokens - 2, 3);
}

// Cuts one document off the stream and puts it back into its original form; returns the tokens taken. *number is the
// document it was, found by its text.
struct parsed {
    int32_t text[256];
    int64_t length;
    bool fim;
    int64_t prefix, middle;   // in tokens
    int64_t splittable, split;
};

static int64_t parse_token(struct parsed *parsed, int32_t *out, const int32_t *stream) {
    int32_t id = stream[0];
    if (id < 100000) {
        parsed->splittable += split_count(id) > 0;
        *out = id;
        return 1;
    }
    id -= 100000;
    parsed->splittable++;
    parsed->split++;
    assert_in_range(id, 2, VOCAB - 1);
    for (int k = 0; k < split_count(id); k++) {
        assert_int_equal(stream[k], 100000 * (k + 1) + id);
    }
    *out = id;
    return split_count(id);
}

static int64_t parse_document(struct parsed *parsed, const int32_t *stream) {
    *parsed = (struct parsed){0};
    int32_t parts[3][256];
    int64_t lengths[3] = {0};   // plain: [0]; FIM: prefix, suffix, middle as they stand
    int part = 0;
    int64_t at = 1;
    assert_int_equal(stream[0], 0);
    if (stream[at] == FIM_BEGIN) {
        parsed->fim = true;
        at++;
    }
    while (stream[at] != 1) {
        if (parsed->fim && (stream[at] == FIM_HOLE || stream[at] == FIM_END)) {
            assert_int_equal(stream[at], part == 0 ? FIM_HOLE : FIM_END);
            part++;
            at++;
            continue;
        }
        assert_true(lengths[part] < 256);
        at += parse_token(parsed, &parts[part][lengths[part]], stream + at);
        lengths[part]++;
    }
    assert_int_equal(part, parsed->fim ? 2 : 0);
    static const int plain_order[] = {0, 1, 2}, fim_order[] = {0, 2, 1};
    for (int i = 0; i < 3; i++) {
        int which = parsed->fim ? fim_order[i] : plain_order[i];
        memcpy(parsed->text + parsed->length, parts[which], (size_t)lengths[which] * sizeof(int32_t));
        parsed->length += lengths[which];
    }
    parsed->prefix = lengths[0];
    parsed->middle = lengths[2];
    return at + 1;
}

static void assert_near(double found, double expected, double tolerance) {
    if (!(found >= expected - tolerance && found <= expected + tolerance)) {
        fail_msg("found %g, expected %g +- %g", found, expected, tolerance);
    }
}

static int64_t find_document(const struct fixture *fixture, const struct parsed *parsed) {
    for (int64_t document = 0; document < DOCUMENTS; document++) {
        int32_t ids[256];
        if (dataset_document_length(fixture->dataset, document) != parsed->length + 2) {
            continue;
        }
        dataset_document_read(ids, fixture->dataset, document);
        if (memcmp(ids + 1, parsed->text, (size_t)parsed->length * sizeof *ids) == 0) {
            return document;
        }
    }
    fail_msg("a document of %lld tokens that is in no shard", (long long)parsed->length);
    return -1;
}

// Epoch after epoch, every document once, whole, whatever was rearranged and split; rates and cuts as asked for.
static void test_every_token_once(void **state) {
    const struct fixture *fixture = *state;
    enum { EPOCHS = 200, MOST = EPOCHS * DOCUMENTS * 120 };
    struct loader_options options = full_options(97, 3);
    int32_t *stream = read_stream(fixture, options, MOST);
    int64_t at = 0, fim = 0, splittable = 0, split = 0, empty_text = 0, empty_prefix = 0, same_order = 0;
    double prefix_share = 0, middle_share = 0, long_fim = 0;
    int64_t order[2][DOCUMENTS];
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        bool seen[DOCUMENTS] = {false};
        for (int64_t i = 0; i < DOCUMENTS; i++) {
            struct parsed parsed;
            at += parse_document(&parsed, stream + at);
            assert_true(at < MOST);
            int64_t document = find_document(fixture, &parsed);
            assert_false(seen[document]);
            seen[document] = true;
            order[epoch & 1][i] = document;
            same_order += epoch > 0 && order[0][i] == order[1][i];
            empty_text += parsed.length == 0;
            fim += parsed.fim;
            splittable += parsed.splittable;
            split += parsed.split;
            assert_true(!parsed.fim || parsed.middle > 0);
            empty_prefix += parsed.fim && parsed.prefix == 0;
            if (parsed.fim && parsed.length > 20) {
                long_fim += 1;
                prefix_share += (double)parsed.prefix / (double)parsed.length;
                middle_share += (double)parsed.middle / (double)parsed.length;
            }
        }
    }
    free(stream);
    double documents = EPOCHS * DOCUMENTS - (double)empty_text;   // an empty one is never rearranged
    assert_near((double)fim / documents, 0.4, 5 * 0.49 / __builtin_sqrt(documents));
    assert_near((double)split / (double)splittable, 0.3, 5 * 0.46 / __builtin_sqrt((double)splittable));
    // Two uniform cuts: thirds on average.
    assert_near(prefix_share / long_fim, 1.0 / 3, 0.02);
    assert_near(middle_share / long_fim, 1.0 / 3, 0.02);
    assert_true(empty_prefix > 0);
    assert_true((double)same_order / (EPOCHS * DOCUMENTS) < 0.05);   // 1 / 57 by chance
}

// The stream knows nothing of how it is cut, and everything of the seed.
static void test_stream_independent_of_length(void **state) {
    enum { COUNT = 20000 };
    int32_t *reference = read_stream(*state, full_options(97, 3), COUNT);
    static const int64_t sizes[][2] = {{1, 0}, {1, 1}, {2, 7}, {512, 2}, {4096, 0}, {5, 400}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int32_t *stream = read_stream(*state, full_options(sizes[i][0], sizes[i][1]), COUNT);
        assert_memory_equal(stream, reference, COUNT * sizeof *stream);
        free(stream);
    }
    struct loader_options other = full_options(97, 3);
    other.seed++;
    int32_t *stream = read_stream(*state, other, COUNT);
    assert_memory_not_equal(stream, reference, COUNT * sizeof *stream);
    free(stream);
    // Splitting and FIM do not disturb the order of documents or each other.
    struct loader_options plain = full_options(97, 3);
    plain.fim_rate = plain.split_rate = 0;
    stream = read_stream(*state, plain, COUNT);
    struct parsed left, right;
    int64_t left_at = 0, right_at = 0;
    for (int i = 0; i < 100; i++) {
        left_at += parse_document(&left, reference + left_at);
        right_at += parse_document(&right, stream + right_at);
        assert_false(right.fim);
        assert_int_equal(right.split, 0);
        assert_int_equal(left.length, right.length);
        assert_memory_equal(left.text, right.text, (size_t)left.length * sizeof(int32_t));
    }
    free(stream);
    free(reference);
}

// A loader that is moved to a cursor continues as the one it was taken from.
static void check_cursors(const struct fixture *fixture, struct loader_options options, int sequences) {
    int64_t total = options.length + options.extra;
    struct loader *loader = make_loader(fixture, &options), *other = make_loader(fixture, &options);
    int32_t *all = malloc((size_t)(sequences * total) * sizeof *all), *ids = malloc((size_t)total * sizeof *ids);
    struct loader_cursor *cursors = malloc((size_t)(sequences + 1) * sizeof *cursors);
    assert_true(all != NULL && ids != NULL && cursors != NULL);
    int64_t count;
    for (int i = 0; i < sequences; i++) {
        cursors[i] = loader_cursor(loader);
        assert_int_equal(loader_next(all + i * total, &count, loader), 0);
    }
    cursors[sequences] = loader_cursor(loader);
    assert_true(cursors[sequences].epoch >= 3);
    uint32_t random = 7;
    for (int round = 0; round < 200; round++) {
        random = random * 1664525 + 1013904223;
        int at = (int)(random >> 8) % sequences;
        struct error error = {0};
        assert_int_equal(loader_seek(other, &cursors[at], &error), 0);
        struct loader_cursor found = loader_cursor(other);
        assert_memory_equal(&found, &cursors[at], sizeof found);
        for (int i = at; i < sequences && i < at + 12; i++) {
            assert_int_equal(loader_next(ids, &count, other), 0);
            assert_memory_equal(ids, all + i * total, (size_t)total * sizeof *ids);
            struct loader_cursor now = loader_cursor(other);
            assert_memory_equal(&now, &cursors[i + 1], sizeof now);
        }
    }
    free(all);
    free(ids);
    free(cursors);
    loader_destroy(loader);
    loader_destroy(other);
}

static void test_cursor(void **state) {
    check_cursors(*state, full_options(64, 2), 250);
    check_cursors(*state, full_options(37, 0), 400);
    check_cursors(*state, full_options(5, 23), 3000);
    check_cursors(*state, full_options(1, 1), 15000);
    check_cursors(*state, full_options(4000, 2), 8);
    check_cursors(*state, plain_options(64, 2, true), 250);
}

static void test_bad_cursor(void **state) {
    const struct fixture *fixture = *state;
    static const struct loader_cursor bad[] = {
        {.epoch = -1},     {.document = -1},        {.document = DOCUMENTS},
        {.offset = -1},    {.offset = 100000},      {.tokens = -1},
        {.sequences = -1}, {.document = INT64_MAX}, {.epoch = 2, .document = 5, .offset = INT64_MAX},
    };
    struct loader_options options = full_options(64, 2);
    struct loader *loader = make_loader(fixture, &options), *untouched = make_loader(fixture, &options);
    int32_t ids[66], expected[66];
    int64_t count;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct error error = {0};
        test_assert_error(loader_seek(loader, &bad[i], &error), &error, ERROR_ARGUMENT, "data cursor: found ");
        loader_next(ids, &count, loader);
        loader_next(expected, &count, untouched);
        assert_memory_equal(ids, expected, sizeof ids);
    }
    loader_destroy(loader);
    loader_destroy(untouched);
    options = plain_options(64, 2, false);
    loader = make_loader(fixture, &options);
    struct error error = {0};
    test_assert_error(loader_seek(loader, &(struct loader_cursor){.epoch = 1}, &error), &error, ERROR_ARGUMENT,
                      "epoch 1");
    loader_destroy(loader);
}

static void test_bad_options(void **state) {
    const struct fixture *fixture = *state;
    struct loader_options bad[7];
    for (int i = 0; i < 7; i++) {
        bad[i] = full_options(64, 2);
    }
    bad[0].length = 0;
    bad[1].extra = -1;
    bad[2].fim_rate = 1.5;
    bad[3].split_rate = __builtin_nan("");
    bad[4].fim_hole = -1;
    bad[5].fim_end = VOCAB;
    bad[6].length = INT64_MAX;
    for (int i = 0; i < 7; i++) {
        struct error error = {0};
        struct loader *loader;
        test_assert_error(loader_create(&loader, fixture->dataset, &bad[i], &error), &error, ERROR_ARGUMENT,
                          "data loader: ");
        assert_null(loader);
    }
    // A split without documents.
    struct error error = {0};
    struct dataset *empty;
    struct loader *loader;
    assert_int_equal(dataset_open(&empty, fixture->directory, DATA_VALIDATION, &error), 0);
    assert_int_equal(dataset_documents(empty), 0);
    struct loader_options options = plain_options(64, 2, true);
    test_assert_error(loader_create(&loader, empty, &options, &error), &error, ERROR_ARGUMENT, "has no tokens");
    dataset_close(empty);
}

static int create_again(void *state, struct error *error) {
    const struct fixture *fixture = state;
    struct loader_options options = full_options(64, 2);
    struct loader *loader;
    int code = loader_create(&loader, fixture->dataset, &options, error);
    loader_destroy(loader);
    return code;
}

static void test_memory(void **state) {
    assert_true(test_failing_memory(create_again, *state) >= 3);
    struct loader_options options = full_options(64, 2);
    struct loader *loader = make_loader(*state, &options);
    int32_t ids[66];
    int64_t count;
    memory_guard(true);   // aborts on any allocation
    for (int i = 0; i < 2000; i++) {
        loader_next(ids, &count, loader);
    }
    struct loader_cursor cursor = loader_cursor(loader);
    int code = loader_seek(loader, &cursor, NULL);
    memory_guard(false);
    assert_int_equal(code, 0);
    loader_destroy(loader);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_pass),
        cmocka_unit_test(test_every_token_once),
        cmocka_unit_test(test_stream_independent_of_length),
        cmocka_unit_test(test_cursor),
        cmocka_unit_test(test_bad_cursor),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
