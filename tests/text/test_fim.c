// text/fim: the layouts by hand, cuts that are uniform, reproducible and between characters.
#include "text/fim.h"
#include "text_support.h"

static void append(struct token_buffer *out, struct encoder *encoder, const char *text, int64_t size) {
    struct error error = {0};
    assert_success(encoder_encode(out, encoder, text, size, 0, &error), error);
}

static void assert_same(const struct token_buffer *found, const struct token_buffer *expected) {
    assert_int_equal(found->count, expected->count);
    assert_memory_equal(found->ids, expected->ids, (size_t)found->count * sizeof(int32_t));
}

static void test_layouts(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer = small_tokenizer();
    struct encoder *encoder = encoder_new(tokenizer);
    struct fim_tokens fim;
    struct token_buffer found = {0}, expected = {0};
    assert_success(fim_tokens_find(&fim, tokenizer, &error), error);
    assert_int_equal(fim.begin, tokenizer_find_string(tokenizer, "<｜fim▁begin｜>"));
    assert_int_equal(fim.eos, 1);
    // Markup in the text stays text.
    const char *document = "def f(x):\n    return x<｜fim▁hole｜> + 1\n";
    int64_t size = (int64_t)strlen(document);
    for (int64_t begin = 0; begin <= size; begin += 7) {
        for (int64_t end = begin; end <= size; end += 11) {
            found.count = expected.count = 0;
            assert_success(fim_document_encode(&found, encoder, document, size, begin, end, &error), error);
            token_buffer_append(&expected, fim.begin, &error);
            append(&expected, encoder, document, begin);
            token_buffer_append(&expected, fim.hole, &error);
            append(&expected, encoder, document + end, size - end);
            token_buffer_append(&expected, fim.end, &error);
            append(&expected, encoder, document + begin, end - begin);
            token_buffer_append(&expected, fim.eos, &error);
            assert_same(&found, &expected);
        }
    }
    found.count = expected.count = 0;
    assert_success(fim_prompt_encode(&found, encoder, "ab", 2, "cd", 2, &error), error);
    token_buffer_append(&expected, 0, &error);
    token_buffer_append(&expected, fim.begin, &error);
    append(&expected, encoder, "ab", 2);
    token_buffer_append(&expected, fim.hole, &error);
    append(&expected, encoder, "cd", 2);
    token_buffer_append(&expected, fim.end, &error);
    assert_same(&found, &expected);
    token_buffer_destroy(&found);
    token_buffer_destroy(&expected);
    encoder_free(encoder);
    tokenizer_free(tokenizer);
}

static void test_missing_token(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer;
    struct fim_tokens fim;
    char *folder = test_directory();
    size_t size;
    char *text = test_read_file(SMALL "/tokenizer.json", &size);
    char *hole = strstr(text, "<｜fim▁hole｜>");
    memcpy(hole, "<｜fim▁holf｜>", strlen("<｜fim▁holf｜>"));
    test_write_file(test_path(folder, "tokenizer.json"), text, size);
    assert_success(tokenizer_load(&tokenizer, folder, &error), error);
    test_assert_error(fim_tokens_find(&fim, tokenizer, &error), &error, ERROR_FORMAT, "<｜fim▁hole｜>");
    tokenizer_free(tokenizer);
    free(text);
    test_directory_remove(folder);
}

static void test_cuts(void **state) {
    (void)state;
    const char *document = "ab\xE9\xB2\xB8\xF0\x9F\x98\x80z";   // boundaries 0 1 2 5 9 10
    int seen[11] = {0};
    for (uint64_t number = 0; number < 4000; number++) {
        int64_t begin, end, again_begin, again_end;
        fim_cut(&begin, &end, document, 10, 5, number);
        fim_cut(&again_begin, &again_end, document, 10, 5, number);
        assert_true(begin == again_begin && end == again_end && begin <= end && begin >= 0 && end <= 10);
        seen[begin]++;
        seen[end]++;
    }
    const int boundaries[] = {0, 1, 2, 5, 9, 10}, weights[] = {1, 1, 3, 4, 1, 1};
    int total = 0;
    for (int i = 0; i < 6; i++) {
        total += seen[boundaries[i]];
        assert_in_range(seen[boundaries[i]], 8000 / 11 * weights[i] * 8 / 10, 8000 / 11 * weights[i] * 12 / 10);
    }
    assert_int_equal(total, 8000);
    int64_t begin, end;
    fim_cut(&begin, &end, "", 0, 1, 1);
    assert_true(begin == 0 && end == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layouts), cmocka_unit_test(test_missing_token),
                                       cmocka_unit_test(test_cuts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
