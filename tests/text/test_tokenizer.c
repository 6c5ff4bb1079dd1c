// text/tokenizer: ids equal to Hugging Face's (golden), lossless decoding of any bytes, streaming, sharing between
// threads.
#include <pthread.h>

#include "base/memory.h"
#include "text/unicode.h"
#include "text_support.h"

static void test_golden_ids(void **state) {
    (void)state;
    struct tokenizer *tokenizer = small_tokenizer();
    json_t *cases = golden_json("encode.json");
    assert_cases(tokenizer, cases, "encode.json");
    json_decref(cases);
    tokenizer_free(tokenizer);
}

// Other pre-tokenizers, ignore_merges, flags of added tokens: small/tokenizer.json with replaced parts.
static void test_golden_variants(void **state) {
    (void)state;
    struct error error = {0};
    char *folder = test_directory();
    json_t *variants = golden_json("variants.json"), *root = golden_json("small/tokenizer.json");
    assert_int_equal(json_array_size(variants), 7);
    for (size_t i = 0; i < json_array_size(variants); i++) {
        const json_t *variant = json_array_get(variants, i);
        struct tokenizer *tokenizer;
        json_object_set(root, "pre_tokenizer", json_object_get(variant, "pre_tokenizer"));
        json_object_set(root, "added_tokens", json_object_get(variant, "added_tokens"));
        json_object_set(json_object_get(root, "model"), "ignore_merges", json_object_get(variant, "ignore_merges"));
        assert_success(json_write(root, test_path(folder, "tokenizer.json"), &error), error);
        assert_success(tokenizer_load(&tokenizer, folder, &error), error);
        assert_cases(tokenizer, json_object_get(variant, "cases"), json_string_value(json_object_get(variant, "name")));
        tokenizer_free(tokenizer);
    }
    json_decref(root);
    json_decref(variants);
    test_directory_remove(folder);
}

static void test_any_bytes_come_back(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer = small_tokenizer();
    struct encoder *encoder = encoder_new(tokenizer);
    struct token_buffer ids = {0};
    struct byte_buffer text = {0};
    static uint8_t bytes[70000];
    for (uint64_t seed = 0; seed < 200; seed++) {
        int64_t size = random_text(bytes, seed == 0 ? 60000 : 20 + (int64_t)seed * 5, seed);
        ids.count = text.size = 0;
        assert_success(encoder_encode(&ids, encoder, (char *)bytes, size, seed % 2, &error), error);
        assert_success(tokenizer_decode(&text, tokenizer, ids.ids, ids.count, 0, &error), error);
        assert_int_equal(text.size, size);
        assert_memory_equal(text.data, bytes, (size_t)size);
    }
    // One piece of 60000 bytes takes the long way; the ids must be those of the short way on a repeated unit.
    memset(bytes, 'x', 60000);
    ids.count = text.size = 0;
    assert_success(encoder_encode(&ids, encoder, (char *)bytes, 60000, 0, &error), error);
    assert_success(tokenizer_decode(&text, tokenizer, ids.ids, ids.count, 0, &error), error);
    assert_int_equal(text.size, 60000);
    token_buffer_destroy(&ids);
    byte_buffer_destroy(&text);
    encoder_free(encoder);
    tokenizer_free(tokenizer);
}

// The heap for long pieces and the scan for short ones merge alike: a long word is cut by no merge when its parts are
// known to end in a byte that joins nothing.
static void test_long_pieces(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer = small_tokenizer();
    struct encoder *encoder = encoder_new(tokenizer);
    struct token_buffer whole = {0}, part = {0}, parts = {0};
    static const char *const words[] = {"whaleprintf",      "portunderthe", "aaaaaaaaaaaa",
                                        "returnthatnobody", "zzqx",         "ing"};
    char text[4096] = "";
    // U+A4D0 (Lisu) does not occur in the training text, so its three bytes merge with nothing around them.
    for (int i = 0; i < 120; i++) {
        const char *word = words[rng_below(1, 2, (uint64_t)i, 6)];
        strcat(text, word);
        strcat(text, "\uA4D0");
        part.count = 0;
        assert_success(encoder_encode(&part, encoder, word, (int64_t)strlen(word), 0, &error), error);
        assert_success(encoder_encode(&part, encoder, "\uA4D0", 3, 0, &error), error);
        assert_success(token_buffer_reserve(&parts, part.count, &error), error);
        memcpy(parts.ids + parts.count, part.ids, (size_t)part.count * sizeof(int32_t));
        parts.count += part.count;
    }
    assert_success(encoder_encode(&whole, encoder, text, (int64_t)strlen(text), 0, &error), error);
    assert_int_equal(whole.count, parts.count);
    assert_memory_equal(whole.ids, parts.ids, (size_t)whole.count * sizeof(int32_t));
    token_buffer_destroy(&whole);
    token_buffer_destroy(&part);
    token_buffer_destroy(&parts);
    encoder_free(encoder);
    tokenizer_free(tokenizer);
}

static void test_added_tokens_and_roles(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer = small_tokenizer();
    struct encoder *encoder = encoder_new(tokenizer);
    struct tokenizer_roles roles = tokenizer_roles(tokenizer);
    assert_int_equal(tokenizer_vocabulary_size(tokenizer), 700);
    assert_int_equal(roles.bos, 0);
    assert_int_equal(roles.eos, 1);
    assert_int_equal(roles.pad, 2);
    assert_true(roles.add_bos);
    assert_int_equal(tokenizer_find_string(tokenizer, "</think>"), 699);
    assert_int_equal(tokenizer_find_string(tokenizer, "!"), 3);
    assert_int_equal(tokenizer_find_string(tokenizer, "no such token"), -1);
    assert_int_equal(tokenizer_find_string(tokenizer, ""), -1);
    assert_true(tokenizer_is_special(tokenizer, 0) && tokenizer_is_added(tokenizer, 0));
    assert_true(!tokenizer_is_special(tokenizer, 699) && tokenizer_is_added(tokenizer, 699));
    assert_true(!tokenizer_is_added(tokenizer, 3) && !tokenizer_is_added(tokenizer, -1) &&
                !tokenizer_is_added(tokenizer, 700));
    int64_t size;
    assert_memory_equal(tokenizer_token(&size, tokenizer, 698), "<think>", 7);
    assert_int_equal(size, 7);
    assert_null(tokenizer_token(&size, tokenizer, 700));
    assert_int_equal(size, 0);

    struct token_buffer ids = {0};
    static const char text[] = "<think></think><|EOT|>";
    assert_success(encoder_encode(&ids, encoder, text, sizeof(text) - 1, ENCODE_ADDED_TOKENS | ENCODE_BOS, &error),
                   error);
    const int32_t expected[] = {0, 698, 699, tokenizer_find_string(tokenizer, "<|EOT|>")};
    assert_int_equal(ids.count, 4);
    assert_memory_equal(ids.ids, expected, sizeof(expected));
    struct byte_buffer out = {0};
    assert_success(tokenizer_decode(&out, tokenizer, ids.ids, 4, DECODE_SKIP_SPECIAL, &error), error);
    assert_int_equal(out.size, 15);
    assert_memory_equal(out.data, "<think></think>", 15);
    // As plain text no added token appears, and the text comes back all the same.
    ids.count = out.size = 0;
    assert_success(encoder_encode(&ids, encoder, text, sizeof(text) - 1, 0, &error), error);
    for (int64_t i = 0; i < ids.count; i++) {
        assert_false(tokenizer_is_added(tokenizer, ids.ids[i]));
    }
    assert_success(tokenizer_decode(&out, tokenizer, ids.ids, ids.count, 0, &error), error);
    assert_memory_equal(out.data, text, sizeof(text) - 1);
    // Ids out of range are named.
    const int32_t bad[] = {3, 700};
    test_assert_error(tokenizer_decode(&out, tokenizer, bad, 2, 0, &error), &error, ERROR_ARGUMENT,
                      "id 700 at position 1");
    token_buffer_destroy(&ids);
    byte_buffer_destroy(&out);
    encoder_free(encoder);
    tokenizer_free(tokenizer);
}

// Token by token the stream gives well-formed UTF-8; for well-formed text exactly the text.
static void test_decode_stream(void **state) {
    (void)state;
    struct error error = {0};
    struct tokenizer *tokenizer = small_tokenizer();
    struct byte_buffer out = {0};
    struct decode_stream stream = {0};
    const char *text = "a\xC3\xA9\xE4\xB8\x80\xF0\x9F\x98\x80z";
    for (const char *c = text; *c != '\0'; c++) {
        int32_t id = tokenizer_find(tokenizer, c, 1);
        assert_true(id >= 0);
        assert_success(decode_stream_push(&out, &stream, tokenizer, id, 0, &error), error);
        int64_t at = 0;
        while (at < out.size) {
            uint32_t code;
            at += unicode_decode(&code, (uint8_t *)out.data + at, (size_t)(out.size - at));
            assert_int_not_equal(code, UNICODE_ILL_FORMED);
        }
    }
    assert_success(decode_stream_finish(&out, &stream, &error), error);
    assert_int_equal(out.size, strlen(text));
    assert_memory_equal(out.data, text, strlen(text));
    // Broken sequences: one U+FFFD for each maximal prefix, as Unicode recommends (table 3-8).
    static const char broken[] = "\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64\xE2\x82";
    static const char fixed[] = "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                                "b\xEF\xBF\xBD"
                                "c\xEF\xBF\xBD\xEF\xBF\xBD"
                                "d\xEF\xBF\xBD";
    out.size = 0;
    for (size_t i = 0; i < sizeof(broken) - 1; i++) {
        assert_success(
            decode_stream_push(&out, &stream, tokenizer, tokenizer_find(tokenizer, &broken[i], 1), 0, &error), error);
    }
    assert_success(decode_stream_finish(&out, &stream, &error), error);
    assert_int_equal(out.size, sizeof(fixed) - 1);
    assert_memory_equal(out.data, fixed, sizeof(fixed) - 1);
    // Special tokens can be left out, unknown ids are nothing.
    out.size = 0;
    assert_success(decode_stream_push(&out, &stream, tokenizer, 1, DECODE_SKIP_SPECIAL, &error), error);
    assert_success(decode_stream_push(&out, &stream, tokenizer, 123456, 0, &error), error);
    assert_success(decode_stream_push(&out, &stream, tokenizer, -5, 0, &error), error);
    assert_int_equal(out.size, 0);
    byte_buffer_destroy(&out);
    tokenizer_free(tokenizer);
}

struct sharing {
    const struct tokenizer *tokenizer;
    const uint8_t *text;
    int64_t size;
    struct token_buffer ids;
    int code;
};

static void *encode_thread(void *argument) {
    struct sharing *sharing = argument;
    struct encoder *encoder;
    sharing->code = encoder_create(&encoder, sharing->tokenizer, NULL);
    for (int i = 0; i < 20 && sharing->code == 0; i++) {
        sharing->ids.count = 0;
        sharing->code = encoder_encode(&sharing->ids, encoder, (const char *)sharing->text, sharing->size,
                                       ENCODE_ADDED_TOKENS, NULL);
    }
    encoder_free(encoder);
    return NULL;
}

static void test_shared_between_threads(void **state) {
    (void)state;
    struct tokenizer *tokenizer = small_tokenizer();
    static uint8_t text[20000];
    int64_t size = random_text(text, sizeof(text), 5);
    struct sharing sharing[4] = {0};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        sharing[i] = (struct sharing){.tokenizer = tokenizer, .text = text, .size = size};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_thread, &sharing[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(sharing[i].code, 0);
        assert_int_equal(sharing[i].ids.count, sharing[0].ids.count);
        assert_memory_equal(sharing[i].ids.ids, sharing[0].ids.ids, (size_t)sharing[0].ids.count * sizeof(int32_t));
    }
    for (int i = 0; i < 4; i++) {
        token_buffer_destroy(&sharing[i].ids);
    }
    tokenizer_free(tokenizer);
}

// Once its buffers have grown, encoding takes no memory: the guard would abort.
static void test_no_allocation_when_warm(void **state) {
    (void)state;
    struct tokenizer *tokenizer = small_tokenizer();
    struct encoder *encoder = encoder_new(tokenizer);
    struct token_buffer ids = {0};
    static uint8_t text[20000];
    int64_t size = random_text(text, sizeof(text), 6);
    for (int round = 0; round < 2; round++) {
        ids.count = 0;
        memory_guard(round == 1);
        int code = encoder_encode(&ids, encoder, (const char *)text, size, ENCODE_ADDED_TOKENS, NULL);
        memory_guard(false);
        assert_int_equal(code, 0);
    }
    token_buffer_destroy(&ids);
    encoder_free(encoder);
    tokenizer_free(tokenizer);
}

static int load_and_encode(void *argument, struct error *error) {
    struct tokenizer *tokenizer;
    struct encoder *encoder = NULL;
    struct token_buffer ids = {0};
    struct byte_buffer text = {0};
    static char word[200];
    memset(word, 'a', sizeof(word));
    int code = tokenizer_load(&tokenizer, argument, error);
    if (code == 0 && (code = encoder_create(&encoder, tokenizer, error)) == 0 &&
        (code = encoder_encode(&ids, encoder, word, sizeof(word), ENCODE_ADDED_TOKENS | ENCODE_BOS, error)) == 0) {
        code = tokenizer_decode(&text, tokenizer, ids.ids, ids.count, 0, error);
    }
    encoder_free(encoder);
    tokenizer_free(tokenizer);
    token_buffer_destroy(&ids);
    byte_buffer_destroy(&text);
    return code;
}

// The smallest tokenizer: bytes only. Failing at every allocation of the 700-token one would take too long.
static void test_failing_memory_everywhere(void **state) {
    (void)state;
    struct error error = {0};
    char *folder = test_directory();
    json_t *root = golden_json("small/tokenizer.json");
    json_t *model = json_object_get(root, "model");
    json_array_clear(json_object_get(model, "merges"));
    json_t *pretokenizers = json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers");
    json_array_insert_new(pretokenizers, 0, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    assert_success(json_write(root, test_path(folder, "tokenizer.json"), &error), error);
    json_decref(root);
    assert_true(test_failing_memory(load_and_encode, folder) > 50);
    test_directory_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_ids),
        cmocka_unit_test(test_golden_variants),
        cmocka_unit_test(test_any_bytes_come_back),
        cmocka_unit_test(test_long_pieces),
        cmocka_unit_test(test_added_tokens_and_roles),
        cmocka_unit_test(test_decode_stream),
        cmocka_unit_test(test_shared_between_threads),
        cmocka_unit_test(test_no_allocation_when_warm),
        cmocka_unit_test(test_failing_memory_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
