// Damaged tokenizer.json and tokenizer_config.json: one clear line, never a crash, never a tokenizer that is half
// right.
#include "text_support.h"

static char *folder;

static int make_folder(void **state) {
    (void)state;
    folder = test_directory();
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    test_directory_remove(folder);
    return 0;
}

static char *small_text(size_t *size) {
    return test_read_file(SMALL "/tokenizer.json", size);
}

static int load_text(const char *text, size_t size, struct error *error) {
    struct tokenizer *tokenizer;
    test_write_file(test_path(folder, "tokenizer.json"), text, size);
    error_clear(error);
    int code = tokenizer_load(&tokenizer, folder, error);
    if (code != 0) {
        assert_null(tokenizer);
        assert_true(error->code == code && error->text[0] != '\0' && strchr(error->text, '\n') == NULL);
    } else {   // what loads must work
        struct encoder *encoder = encoder_new(tokenizer);
        struct token_buffer ids = {0};
        struct byte_buffer back = {0};
        static const char sample[] = "The whale <think> 12345 \xFF\xE4\xB8\x80";
        assert_int_equal(encoder_encode(&ids, encoder, sample, sizeof(sample), ENCODE_ADDED_TOKENS, error), 0);
        assert_int_equal(tokenizer_decode(&back, tokenizer, ids.ids, ids.count, 0, error), 0);
        token_buffer_destroy(&ids);
        byte_buffer_destroy(&back);
        encoder_free(encoder);
    }
    tokenizer_free(tokenizer);
    return code;
}

// Every prefix on a grid, and all near both ends of the parts that are read by hand.
static void test_truncated(void **state) {
    (void)state;
    struct error error = {0};
    size_t size;
    char *text = small_text(&size);
    for (size_t cut = 0; cut + 2 < size; cut += cut % 97 == 0 ? 41 : 1 + cut % 53) {
        assert_int_equal(load_text(text, cut, &error), ERROR_FORMAT);
        assert_non_null(strstr(error.text, "tokenizer.json"));
    }
    free(text);
}

// One byte changed, or a run removed: an error or a working tokenizer.
static void test_random_damage(void **state) {
    (void)state;
    struct error error = {0};
    size_t size;
    char *text = small_text(&size), *copy = malloc(size);
    int refused = 0;
    static const char poison[] = "\"\\{}[],: 0-9eE.x\xFF\x00\n";
    for (uint64_t round = 0; round < 600; round++) {
        memcpy(copy, text, size);
        size_t at = rng_below(3, 0, round, size), length = size;
        if (round % 3 == 0) {
            size_t gone = 1 + rng_below(3, 1, round, 40);
            gone = gone < size - at ? gone : size - at;
            memmove(copy + at, copy + at + gone, size - at - gone);
            length -= gone;
        } else {
            copy[at] = poison[rng_below(3, 2, round, sizeof(poison) - 1)];
        }
        refused += load_text(copy, length, &error) != 0;
    }
    assert_true(refused > 300);
    free(text);
    free(copy);
}

// Replaces the first occurrence of a string in small/tokenizer.json and expects this message.
static void assert_replaced(const char *from, const char *to, const char *message) {
    struct error error = {0};
    size_t size;
    char *text = small_text(&size), *found = strstr(text, from);
    if (found == NULL) {
        fail_msg("small/tokenizer.json has no %s", from);
    }
    size_t before = (size_t)(found - text), length = before + strlen(to) + (size - before - strlen(from));
    char *changed = malloc(length + 1);
    memcpy(changed, text, before);
    memcpy(changed + before, to, strlen(to));
    memcpy(changed + before + strlen(to), found + strlen(from), size - before - strlen(from));
    int code = load_text(changed, length, &error);
    if (code != ERROR_FORMAT || strstr(error.text, message) == NULL || strstr(error.text, "tokenizer.json") == NULL) {
        fail_msg("%s -> %s: code %d, \"%s\"", from, to, code, error.text);
    }
    free(text);
    free(changed);
}

static void test_named_mistakes(void **state) {
    (void)state;
    assert_replaced("\"BPE\"", "\"Unigram\"", "model \"Unigram\" is not supported");
    assert_replaced("\"BPE\"", "7", "key \"type\"");
    assert_replaced("\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback");
    assert_replaced("\"dropout\": null", "\"dropout\": 0.5", "dropout");
    assert_replaced("\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"",
                    "continuing_subword_prefix");
    assert_replaced("\"normalizers\": []", "\"normalizers\": [{\"type\": \"NFC\"}]",
                    "normalizer \"NFC\" is not supported");
    assert_replaced("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []}",
                    "\"normalizer\": {\"type\": \"NFKC\"}", "normalizer \"NFKC\" is not supported");
    assert_replaced("\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"Metaspace\"",
                    "decoder \"Metaspace\"");
    assert_replaced("\"post_processor\": {\"type\": \"ByteLevel\"", "\"post_processor\": {\"type\": \"BertProcessing\"",
                    "post_processor \"BertProcessing\"");
    assert_replaced("\"type\": \"Split\"", "\"type\": \"Whitespace\"", "pre-tokenizer \"Whitespace\"");
    assert_replaced("\"vocab\"", "\"vocabulary\"", "no key \"vocab\"");
    assert_replaced("\"merges\"", "\"merge\"", "no key \"merges\"");
    assert_replaced("\"vocab\": {", "\"vocab\": [", "expected");
    assert_replaced("\"!\": 3", "\"!\": -3", "expected 0 to");
    assert_replaced("\"!\": 3", "\"!\": 3.5", "expected an integer");
    assert_replaced("\"!\": 3", "\"!\": \"3\"", "expected an integer");
    assert_replaced("\"!\": 3", "\"!\": 99999999999", "expected 0 to");
    assert_replaced("\"!\": 3", "\"!\": 999999999999999999999", "expected an integer");
    assert_replaced("\"!\": 3", "\"!\": 4", "id 4 is given to two tokens");
    assert_replaced("\"!\": 3", "\"$\": 3", "token \"$\" is given twice");
    assert_replaced("\"!\": 3", "\"\": 3", "token 3 is empty");
    assert_replaced("\"!\": 3,", "", "no token for byte 0x21");
    assert_replaced("\"!\": 3", "\"\\u0000\": 3", "\\u0000");
    assert_replaced("\"!\": 3", "\"\\ud800\": 3", "surrogate");
    assert_replaced("\"!\": 3", "\"\xFF\": 3", "UTF-8");
    assert_replaced("\"merges\": [", "\"merges\": [\"a\",", "one space");
    assert_replaced("\"merges\": [", "\"merges\": [\"a b c\",", "one space");
    assert_replaced("\"merges\": [", "\"merges\": [\"a \",", "right side");
    assert_replaced("\"merges\": [", "\"merges\": [\"\xE4\xB8\x80 a\",", "left side");
    assert_replaced("\"merges\": [", "\"merges\": [[\"z\", \"q\"],", "result is not in the vocabulary");
    assert_replaced("\"merges\": [", "\"merges\": [[\"z\"],", "expected ','");
    assert_replaced("\"merges\": [", "\"merges\": [5,", "expected a string");
}

static void test_added_token_mistakes(void **state) {
    (void)state;
    assert_replaced("{\"id\": 699, ", "{\"id\": 3, ", "id 3 belongs to another token");
    assert_replaced("{\"id\": 699, ", "{\"id\": 698, ", "id 698 belongs to another token");
    assert_replaced("{\"id\": 699, ", "{\"id\": 4194304, ", "expected 0 to");
    assert_replaced("{\"id\": 699, ", "{\"id\": -1, ", "expected 0 to");
    assert_replaced("{\"id\": 699, ", "{\"id\": \"699\", ", "key \"id\"");
    assert_replaced("{\"id\": 699, ", "{", "key \"id\"");
    assert_replaced("{\"id\": 0, ", "{\"id\": 5, ", "expected 0 as in \"vocab\"");
    assert_replaced("\"content\": \"</think>\"", "\"content\": \"<think>\"", "given twice");
    assert_replaced("\"content\": \"</think>\"", "\"content\": \"\"", "empty");
    assert_replaced("\"content\": \"</think>\"", "\"content\": null", "content");
    assert_replaced("\"single_word\": false", "\"single_word\": true", "single_word");
    assert_replaced("\"special\": true", "\"special\": 1", "special");
    assert_replaced("\"added_tokens\": [", "\"added_tokens\": [17, ", "added_tokens[0]");
}

static void test_not_a_tokenizer(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer;
    static const char *const texts[] = {
        "", "[]", "null", "{}", "{\"model\": {}}", "{\"model\": 3}", "not json", "\"", "{\"model\": {\"vocab\": {"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(load_text(texts[i], strlen(texts[i]), &error), ERROR_FORMAT);
    }
    error_clear(&error);
    test_assert_error(tokenizer_load(&tokenizer, "/nonexistent/tokenizer.json", &error), &error, ERROR_IO,
                      "/nonexistent/tokenizer.json");
    error_clear(&error);
    test_assert_error(tokenizer_load(&tokenizer, "/proc", &error), &error, ERROR_IO, "/proc/tokenizer.json");
}

static void assert_config(const char *config, const char *message) {
    struct error error = {0};
    struct tokenizer *tokenizer;
    test_write_file(test_path(folder, "tokenizer_config.json"), config, strlen(config));
    int code = tokenizer_load(&tokenizer, folder, &error);
    if (message != NULL) {
        test_assert_error(code, &error, ERROR_FORMAT, message);
        assert_non_null(strstr(error.text, "tokenizer_config.json"));
    } else {
        assert_int_equal(code, 0);
    }
    tokenizer_free(tokenizer);
}

static void test_config(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer;
    size_t size;
    char *text = small_text(&size);
    test_write_file(test_path(folder, "tokenizer.json"), text, size);
    free(text);
    assert_config("{\"bos_token\": \"<none>\"}", "\"<none>\" is not a token");
    assert_config("{\"bos_token\": 5}", "key \"bos_token\"");
    assert_config("{\"add_bos_token\": \"yes\"}", "add_bos_token");
    assert_config("{\"chat_template\": 1}", "chat_template");
    assert_config("[]", "expected an object");
    assert_config("{", "line 1");
    assert_config("{\"eos_token\": {\"content\": \"<|EOT|>\"}, \"bos_token\": null, \"add_bos_token\": true}", NULL);
    assert_int_equal(tokenizer_load(&tokenizer, folder, &error), 0);
    struct tokenizer_roles roles = tokenizer_roles(tokenizer);
    assert_int_equal(roles.bos, -1);
    assert_false(roles.add_bos);
    assert_int_equal(roles.eos, tokenizer_find_string(tokenizer, "<|EOT|>"));
    struct encoder *encoder = encoder_new(tokenizer);
    struct token_buffer ids = {0};
    test_assert_error(encoder_encode(&ids, encoder, "a", 1, ENCODE_BOS, &error), &error, ERROR_ARGUMENT, "BOS");
    encoder_free(encoder);
    tokenizer_free(tokenizer);
    // A list of templates: the default one. A file beside it comes first.
    assert_config("{\"chat_template\": [{\"name\": \"tool\", \"template\": \"t\"}, "
                  "{\"name\": \"default\", \"template\": \"d\"}]}",
                  NULL);
    assert_int_equal(tokenizer_load(&tokenizer, test_path(folder, "tokenizer.json"), &error), 0);
    assert_string_equal(tokenizer_chat_template(tokenizer), "d");
    tokenizer_free(tokenizer);
    test_write_file(test_path(folder, "chat_template.jinja"), "j", 1);
    error_clear(&error);
    assert_success(tokenizer_load(&tokenizer, folder, &error), error);
    assert_string_equal(tokenizer_chat_template(tokenizer), "j");
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_truncated, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_random_damage, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_named_mistakes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_added_token_mistakes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_not_a_tokenizer, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_config, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
