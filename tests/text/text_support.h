// Shared by the tests of src/text: golden files, texts in hexadecimal, random text.
#ifndef TESTS_TEXT_TEXT_SUPPORT_H
#define TESTS_TEXT_TEXT_SUPPORT_H

#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "text/tokenizer.h"

#define GOLDEN "tests/golden/text/"
#define SMALL GOLDEN "small"

#define assert_success(call, error)                  \
    do {                                             \
        if ((call) != 0) {                           \
            fail_msg("%s: %s", #call, (error).text); \
        }                                            \
    } while (0)

static inline json_t *golden_json(const char *name) {
    struct error error = {0};
    json_t *root;
    char path[256];
    snprintf(path, sizeof(path), GOLDEN "%s", name);
    assert_success(json_read(&root, path, 1 << 24, &error), error);
    return root;
}

static inline struct tokenizer *small_tokenizer(void) {
    struct error error = {0};
    struct tokenizer *tokenizer;
    assert_success(tokenizer_load(&tokenizer, SMALL, &error), error);
    return tokenizer;
}

static inline struct encoder *encoder_new(const struct tokenizer *tokenizer) {
    struct error error = {0};
    struct encoder *encoder;
    assert_success(encoder_create(&encoder, tokenizer, &error), error);
    return encoder;
}

// Appends the bytes that a string of hexadecimal digits stands for.
static inline void hexadecimal_decode(struct byte_buffer *out, const char *digits) {
    struct error error = {0};
    for (; digits[0] != '\0'; digits += 2) {
        char pair[3] = {digits[0], digits[1], 0};
        uint8_t byte = (uint8_t)strtoul(pair, NULL, 16);
        assert_success(byte_buffer_append(out, &byte, 1, &error), error);
    }
}

// The ids of `cases` ([{"text": hexadecimal, "ids": [...]}]) equal what the tokenizer gives, and decode to the text.
static inline void assert_cases(const struct tokenizer *tokenizer, const json_t *cases, const char *what) {
    struct error error = {0};
    struct encoder *encoder = encoder_new(tokenizer);
    struct byte_buffer text = {0}, decoded = {0};
    struct token_buffer ids = {0};
    assert_true(json_array_size(cases) > 0);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *item = json_array_get(cases, i), *expected = json_object_get(item, "ids");
        text.size = decoded.size = ids.count = 0;
        hexadecimal_decode(&text, json_string_value(json_object_get(item, "text")));
        assert_success(encoder_encode(&ids, encoder, text.data, text.size, ENCODE_ADDED_TOKENS, &error), error);
        for (int64_t k = 0; k < ids.count && k < (int64_t)json_array_size(expected); k++) {
            if (ids.ids[k] != json_integer_value(json_array_get(expected, (size_t)k))) {
                fail_msg("%s: text %zu, id %lld: %d instead of %lld", what, i, (long long)k, ids.ids[k],
                         (long long)json_integer_value(json_array_get(expected, (size_t)k)));
            }
        }
        assert_int_equal(ids.count, json_array_size(expected));
    }
    byte_buffer_destroy(&text);
    byte_buffer_destroy(&decoded);
    token_buffer_destroy(&ids);
    encoder_free(encoder);
}

// Random bytes with a taste for trouble: ASCII, pieces of UTF-8, corners of the classes, broken sequences.
static inline int64_t random_text(uint8_t *out, int64_t size, uint64_t seed) {
    static const char *const corners[] = {" ",
                                          "  ",
                                          "\n",
                                          "\r\n",
                                          "\t",
                                          "\xC2\xA0",
                                          "\xE3\x80\x80",
                                          "\xE1\xA0\x8E",
                                          "\xE2\x80\x8B",
                                          "\xC2\x85",
                                          "a",
                                          "Z",
                                          "\xC3\xA9",
                                          "\xD0\x96",
                                          "\xCC\x81",
                                          "1",
                                          "42",
                                          "1234",
                                          "\xD9\xA3",
                                          "\xE2\x85\xA7",
                                          "'",
                                          "'s",
                                          "-",
                                          "_",
                                          "$",
                                          "+",
                                          "^",
                                          "\xE2\x82\xAC",
                                          "\xE4\xB8\x80",
                                          "\xE9\xBE\xA5",
                                          "\xE9\xBE\xA6",
                                          "\xE3\x81\x82",
                                          "\xE3\x83\xBB",
                                          "\xE3\x82\xA0",
                                          "\xE3\x82\x9B",
                                          "\xE3\x81\x80",
                                          "\xE3\x82\x99",
                                          "\xE3\x82\x97",
                                          "\xE2\x80\x8D",
                                          "\xEF\xB8\x8F",
                                          "\xF0\x9F\x98\x80",
                                          "\xEE\x80\x80",
                                          "\xC9\x8F",
                                          "\xE0\xA2\x8F",
                                          "\xF0\x9C\xB3\xB0",
                                          "\xE2\x90\xA7",
                                          "\xC3",
                                          "\xE2\x80",
                                          "\xF0\x9F",
                                          "\x80",
                                          "\xFF",
                                          "\xED\xA0\x80",
                                          "\xC0\xAF",
                                          "\xF4\x90\x80\x80",
                                          "\x01",
                                          "\x7F",
                                          "hello",
                                          " World",
                                          "\xE1\xB2\x89",
                                          "\xF1\x80\x80\x80",
                                          "\xF3\xA0\x84\x80"};
    int64_t used = 0;
    for (uint64_t draw = 0; used + 8 < size; draw++) {
        uint64_t value = rng_u64(seed, 77, draw);
        if (value % 8 == 0) {
            out[used++] = (uint8_t)(value >> 8);
        } else if (value % 8 == 1) {   // any character, three or four bytes
            uint32_t code = (uint32_t)(value >> 8) % 0x110000;
            out[used++] = (uint8_t)(0xE0 | (code >> 12 & 0xF));
            out[used++] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
            out[used++] = (uint8_t)(0x80 | (code & 0x3F));
        } else {
            const char *corner = corners[(value >> 8) % (sizeof(corners) / sizeof(corners[0]))];
            memcpy(out + used, corner, strlen(corner));
            used += (int64_t)strlen(corner);
        }
    }
    return used;
}

#endif
