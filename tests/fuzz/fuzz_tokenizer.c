// A tokenizer.json and a tokenizer_config.json. Input: one byte of mode, then parts. Bit 0 clear: the whole file, the
// configuration, a text. Bit 0 set: more "vocab" beside the 256 bytes, "merges", "added_tokens", "pre_tokenizer",
// "post_processor", the configuration, a text; bit 1: ignore_merges.
//
// What loads gives every text back: decode(encode(x)) = x, also in a chat template and token by token, with ids that
// the vocabulary has, the same when asked again.
#include <stdio.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "serve/text.h"
#include "text/bpe.h"
#include "text/chat_template.h"
#include "text/fim.h"
#include "text/unicode.h"

#define TOKENS_LOOKED_AT 1000
#define TEXT_LIMIT 2048

const bool fuzz_leaves_memory = true;   // the table of characters that text/regex.c builds once

static char bytes_of_vocab[8192];

void fuzz_open(void) {
    size_t at = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t character[5] = {0};
        unicode_encode(character, bpe_byte_character((uint8_t)byte));
        const char *escape = character[0] == '"' || character[0] == '\\' ? "\\" : "";
        at += (size_t)snprintf(bytes_of_vocab + at, sizeof bytes_of_vocab - at, "%s\"%s%s\":%u", byte > 0 ? "," : "",
                               escape, (char *)character, byte);
    }
}

// ---- The file -------------------------------------------------------------------------------------------------------

static void write_composed(struct fuzz_input *input, bool ignore_merges) {
    static const char *const keys[] = {"merges", "added_tokens", "pre_tokenizer", "post_processor"};
    static struct fuzz_part parts[4], vocabulary;
    struct text file = {0};
    vocabulary = fuzz_take(input);
    for (int i = 0; i < 4; i++) {
        parts[i] = fuzz_take(input);
    }
    text_format(&file, "{\"version\":\"1.0\",\"decoder\":{\"type\":\"ByteLevel\"}");
    for (int i = 1; i < 4; i++) {
        text_format(&file, ",\"%s\":", keys[i]);
        text_append(&file, parts[i].text, parts[i].size);
    }
    text_format(&file,
                ",\"model\":{\"type\":\"BPE\",\"ignore_merges\":%s,\"merges\":", ignore_merges ? "true" : "false");
    text_append(&file, parts[0].text, parts[0].size);
    text_string(&file, ",\"vocab\":{");
    text_string(&file, bytes_of_vocab);
    if (vocabulary.size > 2 && vocabulary.text[0] == '{') {   // its braces are dropped
        text_string(&file, ",");
        text_append(&file, vocabulary.text + 1, vocabulary.size - 2);
    }
    text_string(&file, "}}}");
    (void)fuzz_file("tokenizer.json", file.data, file.size);
    text_destroy(&file);
}

// ---- What must hold -------------------------------------------------------------------------------------------------

static void check_tokens(const struct tokenizer *tokenizer) {
    int32_t size = tokenizer_vocabulary_size(tokenizer);
    struct tokenizer_roles roles = tokenizer_roles(tokenizer);
    CHECK(roles.bos < size && roles.eos < size && roles.pad < size && roles.bos >= -1, "roles");
    CHECK(!roles.add_bos || roles.bos >= 0, "a BOS that is not there");
    for (int32_t id = 0; id < size && id < TOKENS_LOOKED_AT; id++) {
        int64_t length, other;
        const uint8_t *bytes = tokenizer_token(&length, tokenizer, id);
        if (bytes == NULL) {
            CHECK(length == 0, "bytes of a hole");
            continue;
        }
        int32_t found = tokenizer_find(tokenizer, (const char *)bytes, length);
        const uint8_t *same = tokenizer_token(&other, tokenizer, found);
        // A token outside the byte alphabet is found by nobody.
        CHECK(found < 0 || (other == length && memcmp(bytes, same, (size_t)length) == 0), "token %d found as %d", id,
              found);
    }
}

static void check_stream(const struct tokenizer *tokenizer, const struct token_buffer *ids) {
    struct byte_buffer out = {0};
    struct decode_stream stream = {0};
    struct error error = {0};
    for (int64_t i = 0; i < ids->count; i++) {
        CHECK(decode_stream_push(&out, &stream, tokenizer, ids->ids[i], 0, &error) == 0, "%s", error.text);
        CHECK(stream.held_count < 4, "%d bytes held", stream.held_count);
    }
    CHECK(decode_stream_finish(&out, &stream, &error) == 0, "%s", error.text);
    CHECK(utf8_is_valid(out.data, (size_t)out.size), "a stream that is no UTF-8");
    byte_buffer_destroy(&out);
}

static void check_decoded(const struct tokenizer *tokenizer, const struct token_buffer *ids, const char *text,
                          int64_t size) {
    struct byte_buffer out = {0};
    struct error error = {0};
    CHECK(tokenizer_decode(&out, tokenizer, ids->ids, ids->count, 0, &error) == 0, "%s", error.text);
    CHECK(out.size == size && (size == 0 || memcmp(out.data, text, (size_t)size) == 0), "\"%.*s\" became \"%.*s\"",
          (int)size, text, (int)out.size, out.data);
    byte_buffer_destroy(&out);
}

// False = the regular expressions of the file gave up.
static bool check_text(struct encoder *encoder, const char *text, int64_t size, unsigned flags, bool strips) {
    const struct tokenizer *tokenizer = encoder_tokenizer(encoder);
    struct token_buffer ids = {0}, again = {0};
    struct error error = {0};
    int code = encoder_encode(&ids, encoder, text, size, flags, &error);
    CHECK(code == 0 || code == ERROR_LIMIT || ((flags & ENCODE_BOS) && tokenizer_roles(tokenizer).bos < 0), "%s",
          error.text);
    if (code == 0) {
        CHECK(encoder_encode(&again, encoder, text, size, flags, &error) == 0, "%s", error.text);
        CHECK(ids.count == again.count && (ids.count == 0 || memcmp(ids.ids, again.ids, (size_t)ids.count * 4) == 0),
              "other ids the second time");
        if (!strips && !(flags & ENCODE_BOS)) {
            check_decoded(tokenizer, &ids, text, size);
        }
        check_stream(tokenizer, &ids);
    }
    token_buffer_destroy(&ids);
    token_buffer_destroy(&again);
    return code != ERROR_LIMIT;
}

static void check_chat(struct encoder *encoder, const char *text) {
    static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"g\"}}]";
    const struct chat_tool_call call = {.name = "f", .arguments = text};
    const struct chat_message messages[] = {{.role = "system", .content = text},
                                            {.role = "user", .content = text},
                                            {.role = "assistant", .tool_calls = &call, .tool_call_count = 1},
                                            {.role = "tool", .content = text},
                                            {.role = "assistant", .content = text},
                                            {.role = "user", .content = text}};
    const struct tokenizer *tokenizer = encoder_tokenizer(encoder);
    struct error error = {0};
    enum chat_style style;
    bool assumed;
    if (chat_style_detect(&style, &assumed, tokenizer, &error) != 0) {
        CHECK(error.text[0] != '\0', "no reason");
        return;
    }
    bool hybrid = style == CHAT_V3_1;   // the only one with a place for these
    const struct chat_options options = {
        .add_generation_prompt = true, .thinking = hybrid, .tools = hybrid ? tools : NULL};
    for (int64_t count = 1; count <= 6; count++) {
        struct chat_prompt prompt = {0};
        struct token_buffer ids = {0};
        struct error trouble = {0};
        if (chat_render(&prompt, style, messages, count, &options, &trouble) == 0 &&
            chat_encode(&ids, encoder, &prompt, &trouble) == 0) {
            check_decoded(tokenizer, &ids, prompt.text.data, prompt.text.size);
        }
        CHECK(trouble.code == 0 || trouble.text[0] != '\0', "no reason");
        token_buffer_destroy(&ids);
        chat_prompt_destroy(&prompt);
    }
}

static void check_fim(struct encoder *encoder, const char *text, int64_t size) {
    struct token_buffer ids = {0};
    struct error error = {0};
    int code = fim_prompt_encode(&ids, encoder, text, size / 2, text + size / 2, size - size / 2, &error);
    CHECK(code == error.code && (code == 0 || error.text[0] != '\0'), "code %d", code);
    token_buffer_destroy(&ids);
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    static struct fuzz_part part, text;
    struct error error = {0};
    struct tokenizer *tokenizer;
    struct encoder *encoder;
    uint8_t mode = fuzz_take_byte(&input);
    if (mode & 1) {
        write_composed(&input, (mode & 2) != 0);
    } else {
        part = fuzz_take(&input);
        (void)fuzz_file("tokenizer.json", part.text, part.size);
    }
    part = fuzz_take(&input);
    (void)fuzz_file("tokenizer_config.json", part.text, part.size);
    int code = tokenizer_load(&tokenizer, fuzz_directory(), &error);
    CHECK(code == error.code && (code == 0) == (tokenizer != NULL), "code %d: %s", code, error.text);
    if (code != 0) {
        return;
    }
    check_tokens(tokenizer);
    CHECK(encoder_create(&encoder, tokenizer, &error) == 0, "%s", error.text);
    const char *whole = input.size > 0 ? (const char *)input.data : "";
    int64_t length = (int64_t)(input.size < TEXT_LIMIT ? input.size : TEXT_LIMIT);
    bool strips = memmem(data, size, "strip", 5) != NULL || memmem(data, size, "\\u", 2) != NULL;
    if (check_text(encoder, whole, length, 0, false) &&
        check_text(encoder, whole, length, ENCODE_ADDED_TOKENS, strips)) {
        check_text(encoder, whole, length, ENCODE_ADDED_TOKENS | ENCODE_BOS, strips);
        check_fim(encoder, whole, length);
        text = fuzz_take(&input);
        check_chat(encoder, text.text);
    }
    encoder_free(encoder);
    tokenizer_free(tokenizer);
}
