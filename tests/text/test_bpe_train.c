// text/bpe_train: merges equal to a naive trainer's, the same bytes for any threads and any order of documents, the
// golden tokenizer, vocabularies that the text cannot fill, bad arguments, failing memory and files.
#include "base/pool.h"
#include "text/bpe.h"
#include "text/bpe_train.h"
#include "text/pair_merger.h"
#include "text_support.h"

static void train(const char *directory, int threads, int64_t vocabulary, const char *const *documents,
                  const int64_t *sizes, int count, struct bpe_train_result *result) {
    struct error error = {0};
    struct pool *pool = NULL;
    struct bpe_trainer *trainer;
    if (threads > 0) {
        assert_success(pool_create(&pool, threads, &error), error);
    }
    assert_success(bpe_trainer_create(&trainer, pool, &error), error);
    for (int i = 0; i < count; i++) {
        assert_success(bpe_trainer_add(trainer, documents[i], sizes[i], &error), error);
    }
    assert_success(bpe_trainer_finish(result, trainer, vocabulary, directory, NULL, &error), error);
    bpe_trainer_free(trainer);
    pool_destroy(pool);
}

static void assert_same_file(const char *left, const char *right) {
    size_t left_size, right_size;
    char *a = test_read_file(left, &left_size), *b = test_read_file(right, &right_size);
    assert_int_equal(left_size, right_size);
    assert_memory_equal(a, b, left_size);
    free(a);
    free(b);
}

static void test_golden_tokenizer(void **state) {
    (void)state;
    size_t size;
    char *text = test_read_file(GOLDEN "train.txt", &size);
    for (int threads = 0; threads <= 7; threads = threads * 2 + 1) {
        char *folder = test_directory();
        struct bpe_train_result result;
        train(folder, threads, 700, (const char *const[]){text}, (int64_t[]){(int64_t)size}, 1, &result);
        assert_int_equal(result.bytes, size);
        assert_int_equal(result.merges, 700 - BPE_TRAIN_VOCABULARY_MINIMUM);
        assert_int_equal(result.placeholders, 0);
        assert_same_file(test_path(folder, "tokenizer.json"), SMALL "/tokenizer.json");
        assert_same_file(test_path(folder, "tokenizer_config.json"), SMALL "/tokenizer_config.json");
        test_directory_remove(folder);
    }
    free(text);
}

// Long documents are counted in spans cut at line ends: many copies behind one another give the merges of one, with the
// same counts as many documents.
static void test_documents_spans_and_order(void **state) {
    (void)state;
    static const char *const lines[] = {"The whale swam past the harbour.\n",
                                        "  int main(void) {\n",
                                        "12345 67 8\n\n",
                                        "\xE9\xB2\xB8\xE9\xB1\xBC\xE5\x9C\xA8\n",
                                        "\t\treturn 0;\r\n",
                                        "}\n \n",
                                        "no newline here, ",
                                        "\xFF\x80 bytes\n"};
    int64_t capacity = 300000, size = 0, count = 0;
    char *text = malloc((size_t)capacity);
    const char **documents = calloc(100000, sizeof(*documents));
    int64_t *sizes = calloc(100000, sizeof(*sizes));
    for (uint64_t i = 0; size + 64 < capacity; i++) {
        const char *line = lines[rng_below(9, 0, i, 8)];
        documents[count] = text + size;
        memcpy(text + size, line, strlen(line));
        size += sizes[count++] = (int64_t)strlen(line);
    }
    char *first = test_directory(), *second = test_directory();
    struct bpe_train_result one, other;
    train(first, 3, 400, (const char *const[]){text}, &size, 1, &one);
    train(second, 0, 400, (const char *const[]){text}, &size, 1, &other);
    assert_int_equal(one.pieces, other.pieces);
    assert_int_equal(one.distinct, other.distinct);
    assert_same_file(test_path(first, "tokenizer.json"), test_path(second, "tokenizer.json"));
    // As documents, forwards and backwards.
    train(first, 2, 400, documents, sizes, (int)count, &one);
    for (int64_t i = 0; i < count / 2; i++) {
        const char *document = documents[i];
        int64_t length = sizes[i];
        documents[i] = documents[count - 1 - i];
        sizes[i] = sizes[count - 1 - i];
        documents[count - 1 - i] = document;
        sizes[count - 1 - i] = length;
    }
    train(second, 5, 400, documents, sizes, (int)count, &other);
    assert_int_equal(one.pieces, other.pieces);
    assert_same_file(test_path(first, "tokenizer.json"), test_path(second, "tokenizer.json"));
    test_directory_remove(first);
    test_directory_remove(second);
    free(text);
    free(documents);
    free(sizes);
}

// ---- the naive trainer: counts all pairs anew for every merge ----

struct naive {
    int32_t symbols[64][32];
    int lengths[64];
    int64_t counts[64];
    int pieces;
};

static int64_t naive_count(const struct naive *naive, int32_t left, int32_t right) {
    int64_t count = 0;
    for (int p = 0; p < naive->pieces; p++) {
        for (int i = 0; i + 1 < naive->lengths[p]; i++) {
            count += naive->symbols[p][i] == left && naive->symbols[p][i + 1] == right ? naive->counts[p] : 0;
        }
    }
    return count;
}

static void naive_merge(struct naive *naive, int32_t left, int32_t right, int32_t merged) {
    for (int p = 0; p < naive->pieces; p++) {
        int out = 0;
        for (int i = 0; i < naive->lengths[p]; i++, out++) {
            bool here = i + 1 < naive->lengths[p] && naive->symbols[p][i] == left && naive->symbols[p][i + 1] == right;
            naive->symbols[p][out] = here ? merged : naive->symbols[p][i];
            i += here;
        }
        naive->lengths[p] = out;
    }
}

static void test_against_naive_trainer(void **state) {
    (void)state;
    struct error error = {0};
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct naive naive = {0};
        struct piece_counter pieces = {0};
        uint64_t letters = 2 +
                           seed % 4;   // few letters: many overlaps ("aaa"), many ties, the same text by several ways
        for (int p = 0; p < 40; p++) {
            uint8_t piece[24];
            int length = 1 + (int)rng_below(seed, 1, (uint64_t)p, sizeof(piece));
            for (int i = 0; i < length; i++) {
                piece[i] = (uint8_t)('a' + rng_below(seed, 2, (uint64_t)(p * 64 + i), letters));
            }
            assert_success(
                piece_counter_add(&pieces, piece, length, (int64_t)(1 + rng_below(seed, 3, (uint64_t)p, 5)), &error),
                error);
        }
        naive.pieces = (int)pieces.count;
        for (int p = 0; p < naive.pieces; p++) {
            const struct piece_entry *entry = &pieces.entries[p];
            naive.lengths[p] = (int)entry->size;
            naive.counts[p] = entry->count;
            for (int i = 0; i < naive.lengths[p]; i++) {
                naive.symbols[p][i] = (uint8_t)pieces.bytes.data[entry->offset + i] -
                                      0x21;   // symbol of a printable byte
            }
        }
        struct merge_list merges;
        assert_success(pair_merger_run(&merges, &pieces, 60, NULL, &error), error);
        for (int64_t m = 0; m < 60; m++) {
            int32_t best_left = -1, best_right = -1;
            int64_t best = 1;
            for (int32_t left = 0; left < 256 + m; left++) {
                for (int32_t right = 0; right < 256 + m; right++) {
                    if (left < 256 && right < 256 && (left > 'z' - 0x21 || left < 'a' - 0x21 || right > 'z' - 0x21)) {
                        continue;
                    }
                    int64_t count = naive_count(&naive, left, right);
                    if (count <= best) {
                        continue;
                    }
                    // The text of the pair must be new.
                    char text[64];
                    int64_t sizes[2], length = 0;
                    const int32_t sides[2] = {left, right};
                    for (int s = 0; s < 2; s++) {
                        sizes[s] = merges.offsets[sides[s] + 1] - merges.offsets[sides[s]];
                        memcpy(text + length, merges.bytes.data + merges.offsets[sides[s]], (size_t)sizes[s]);
                        length += sizes[s];
                    }
                    bool known = false;
                    for (int64_t k = 256; k < 256 + m && !known; k++) {
                        known = merges.offsets[k + 1] - merges.offsets[k] == length &&
                                memcmp(merges.bytes.data + merges.offsets[k], text, (size_t)length) == 0;
                    }
                    if (!known) {
                        best = count;
                        best_left = left;
                        best_right = right;
                    }
                }
            }
            if (best_left < 0) {
                assert_int_equal(merges.count, m);
                break;
            }
            assert_true(m < merges.count);
            if (merges.pairs[m][0] != best_left || merges.pairs[m][1] != best_right) {
                fail_msg("seed %d, merge %d: (%d, %d) instead of (%d, %d)", (int)seed, (int)m, merges.pairs[m][0],
                         merges.pairs[m][1], best_left, best_right);
            }
            naive_merge(&naive, best_left, best_right, (int32_t)(256 + m));
        }
        merge_list_destroy(&merges);
        piece_counter_destroy(&pieces);
    }
}

// Too little text: placeholders fill the vocabulary, and the tokenizer still works.
static void test_placeholders(void **state) {
    (void)state;
    struct error error = {0};
    char *folder = test_directory();
    struct bpe_train_result result;
    struct tokenizer *tokenizer;
    train(folder, 0, 300, (const char *const[]){"ab ab abc"}, (int64_t[]){9}, 1, &result);
    assert_int_equal(result.merges, 2);   // "ab", then " ab" (2) and "abc" (1, too rare)
    assert_int_equal(result.placeholders, 300 - BPE_TRAIN_VOCABULARY_MINIMUM - 2);
    assert_success(tokenizer_load(&tokenizer, folder, &error), error);
    assert_int_equal(tokenizer_vocabulary_size(tokenizer), 300);
    int32_t id = tokenizer_find_string(tokenizer, "<｜place▁holder▁no▁0｜>");
    assert_int_equal(id, 261);
    assert_true(tokenizer_is_special(tokenizer, id));
    assert_int_equal(tokenizer_find_string(tokenizer, "</think>"), 299);
    tokenizer_free(tokenizer);
    train(folder, 0, BPE_TRAIN_VOCABULARY_MINIMUM, (const char *const[]){"x"}, (int64_t[]){1}, 1, &result);
    assert_int_equal(result.merges + result.placeholders, 0);
    assert_success(tokenizer_load(&tokenizer, folder, &error), error);
    assert_int_equal(tokenizer_vocabulary_size(tokenizer), BPE_TRAIN_VOCABULARY_MINIMUM);
    tokenizer_free(tokenizer);
    test_directory_remove(folder);
}

static void test_bad_arguments(void **state) {
    (void)state;
    struct error error = {0};
    struct bpe_trainer *trainer;
    struct bpe_train_result result;
    assert_success(bpe_trainer_create(&trainer, NULL, &error), error);
    test_assert_error(bpe_trainer_finish(&result, trainer, 275, "/tmp", NULL, &error), &error, ERROR_ARGUMENT,
                      "found 275, expected 276");
    error_clear(&error);
    test_assert_error(bpe_trainer_finish(&result, trainer, 2000000, "/tmp", NULL, &error), &error, ERROR_ARGUMENT,
                      "vocabulary size");
    error_clear(&error);
    assert_success(bpe_trainer_add(trainer, "", 0, &error), error);
    test_assert_error(bpe_trainer_finish(&result, trainer, 300, "/tmp", NULL, &error), &error, ERROR_ARGUMENT,
                      "no text");
    error_clear(&error);
    assert_success(bpe_trainer_add(trainer, "text", 4, &error), error);
    test_assert_error(bpe_trainer_finish(&result, trainer, 300, "/proc/none", NULL, &error), &error, ERROR_IO,
                      "/proc/none");
    bpe_trainer_free(trainer);
}

static int train_small(void *argument, struct error *error) {
    struct bpe_trainer *trainer;
    struct bpe_train_result result;
    int code = bpe_trainer_create(&trainer, NULL, error);
    if (code == 0 && (code = bpe_trainer_add(trainer, "the whale and the whale\nthe\n", 28, error)) == 0) {
        code = bpe_trainer_finish(&result, trainer, 290, argument, NULL, error);
    }
    bpe_trainer_free(trainer);
    return code;
}

static void test_failing_memory_and_files(void **state) {
    (void)state;
    char *folder = test_directory();
    assert_true(test_failing_memory(train_small, folder) > 20);
    // Failing reads, writes, renames: an error, and what is in the folder is whole.
    struct error error = {0};
    test_directory_remove(folder);
    int64_t n = 1;
    for (; n < 100; n++) {
        folder = test_directory();
        error_clear(&error);
        file_fail_at(n, 28);
        int code = train_small(folder, &error);
        file_fail_at(0, 0);
        if (file_exists(test_path(folder, "tokenizer.json"))) {
            struct tokenizer *tokenizer;
            struct error load = {0};
            assert_success(tokenizer_load(&tokenizer, folder, &load), load);
            tokenizer_free(tokenizer);
        }
        char **names;
        int64_t count;
        struct error list = {0};
        assert_success(file_list(&names, &count, folder, &list), list);
        for (int64_t i = 0; i < count; i++) {
            assert_null(strstr(names[i], ".tmp"));
        }
        file_list_free(names, count);
        test_directory_remove(folder);
        if (code == 0) {
            break;
        }
        assert_int_equal(code, ERROR_IO);
    }
    assert_true(n > 4 && n < 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_tokenizer),      cmocka_unit_test(test_documents_spans_and_order),
        cmocka_unit_test(test_against_naive_trainer), cmocka_unit_test(test_placeholders),
        cmocka_unit_test(test_bad_arguments),         cmocka_unit_test(test_failing_memory_and_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
