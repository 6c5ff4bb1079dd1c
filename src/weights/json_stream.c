// Strict JSON, read front to back and written by appending (RFC 8259). See json_stream.h.
#include "weights/json_stream.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "weights/grow.h"

#define JSON_DEPTH_LIMIT 64

static void json_reader_space(struct json_reader *reader) {
    while (reader->position < reader->size) {
        char c = reader->text[reader->position];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
            break;
        }
        reader->position++;
    }
}

// What stands at the position, for messages: "'x'", "byte 0xff", "the end".
static const char *json_reader_found(char buffer[16], const struct json_reader *reader) {
    if (reader->position >= reader->size) {
        return "the end";
    }
    unsigned char c = (unsigned char)reader->text[reader->position];
    if (c >= 0x20 && c < 0x7f) {
        snprintf(buffer, 16, "'%c'", c);
    } else {
        snprintf(buffer, 16, "byte 0x%02x", c);
    }
    return buffer;
}

static int json_reader_fail(struct json_reader *reader, const char *expected, struct error *error) {
    char found[16];
    return error_set(error, ERROR_FORMAT, "%s: JSON byte %lld: expected %s, found %s", reader->name,
                     (long long)reader->position, expected, json_reader_found(found, reader));
}

bool json_reader_accept(struct json_reader *reader, char character) {
    json_reader_space(reader);
    if (reader->position < reader->size && reader->text[reader->position] == character) {
        reader->position++;
        return true;
    }
    return false;
}

int json_reader_expect(struct json_reader *reader, char character, struct error *error) {
    if (json_reader_accept(reader, character)) {
        return 0;
    }
    char expected[4] = {'\'', character, '\'', 0};
    return json_reader_fail(reader, expected, error);
}

// Length of the well-formed UTF-8 sequence at `text` (Unicode 15, table 3-7), 0 if malformed.
static int utf8_sequence(const unsigned char *text, int64_t left) {
    unsigned char c = text[0];
    if (c < 0x80) {
        return 1;
    }
    int length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || left < length) {
        return 0;
    }
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (text[1] < low || text[1] > high) {
        return 0;
    }
    for (int i = 2; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return length;
}

static int utf8_encode(char *out, uint32_t code) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | (code >> 6));
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | (code >> 12));
        out[1] = (char)(0x80 | ((code >> 6) & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | (code >> 18));
    out[1] = (char)(0x80 | ((code >> 12) & 0x3f));
    out[2] = (char)(0x80 | ((code >> 6) & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

// The four hexadecimal digits of \uXXXX; -1 if there are fewer.
static int32_t json_reader_hex4(struct json_reader *reader) {
    if (reader->size - reader->position < 4) {
        return -1;
    }
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = reader->text[reader->position + i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    reader->position += 4;
    return value;
}

// After a backslash: writes the character to `out` (at most 4 bytes), returns its length or 0 if malformed.
static int json_reader_escape(struct json_reader *reader, char out[4]) {
    static const char plain[] = "\"\\/bfnrt";
    static const char meaning[] = "\"\\/\b\f\n\r\t";
    if (reader->position >= reader->size) {
        return 0;
    }
    char c = reader->text[reader->position];
    const char *match = c != 0 ? strchr(plain, c) : NULL;
    if (match != NULL) {
        reader->position++;
        out[0] = meaning[match - plain];
        return 1;
    }
    if (c != 'u') {
        return 0;
    }
    reader->position++;
    int32_t code = json_reader_hex4(reader);
    if (code <= 0 || (code >= 0xdc00 && code <= 0xdfff)) {
        return 0;
    }
    if (code >= 0xd800 && code <= 0xdbff) {
        if (reader->size - reader->position < 2 || memcmp(reader->text + reader->position, "\\u", 2) != 0) {
            return 0;
        }
        reader->position += 2;
        int32_t second = json_reader_hex4(reader);
        if (second < 0xdc00 || second > 0xdfff) {
            return 0;
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
    }
    return utf8_encode(out, (uint32_t)code);
}

int json_reader_string(struct json_reader *reader, char *out, int64_t *length, struct error *error) {
    json_reader_space(reader);
    if (reader->position >= reader->size || reader->text[reader->position] != '"') {
        return json_reader_fail(reader, "a string", error);
    }
    reader->position++;
    int64_t used = 0;
    while (reader->position < reader->size) {
        const unsigned char *at = (const unsigned char *)reader->text + reader->position;
        char decoded[4];
        const char *piece = (const char *)at;
        int bytes;
        if (*at == '"') {
            reader->position++;
            if (out != NULL) {
                out[used] = 0;
            }
            if (length != NULL) {
                *length = used;
            }
            return 0;
        }
        if (*at < 0x20) {
            return json_reader_fail(reader, "no bare control character in a string", error);
        }
        if (*at == '\\') {
            reader->position++;
            bytes = json_reader_escape(reader, decoded);
            if (bytes == 0) {
                return json_reader_fail(reader, "a valid escape sequence", error);
            }
            piece = decoded;
        } else {
            bytes = utf8_sequence(at, reader->size - reader->position);
            if (bytes == 0) {
                return json_reader_fail(reader, "well-formed UTF-8", error);
            }
            reader->position += bytes;
        }
        if (out != NULL) {
            memcpy(out + used, piece, (size_t)bytes);
        }
        used += bytes;
    }
    return json_reader_fail(reader, "the end of a string", error);
}

int json_reader_integer(struct json_reader *reader, int64_t *value, struct error *error) {
    json_reader_space(reader);
    int64_t start = reader->position, result = 0;
    while (reader->position < reader->size) {
        char c = reader->text[reader->position];
        if (c < '0' || c > '9') {
            break;
        }
        if (__builtin_mul_overflow(result, 10, &result) || __builtin_add_overflow(result, c - '0', &result)) {
            return json_reader_fail(reader, "an integer below 2^63", error);
        }
        reader->position++;
    }
    bool leading_zero = reader->position - start > 1 && reader->text[start] == '0';
    bool fraction = reader->position < reader->size && strchr(".eE", reader->text[reader->position]) != NULL &&
                    reader->text[reader->position] != 0;
    if (reader->position == start || leading_zero || fraction) {
        return json_reader_fail(reader, "a non-negative integer", error);
    }
    *value = result;
    return 0;
}

static bool json_reader_digits(struct json_reader *reader) {
    int64_t start = reader->position;
    while (reader->position < reader->size && reader->text[reader->position] >= '0' &&
           reader->text[reader->position] <= '9') {
        reader->position++;
    }
    return reader->position > start;
}

static bool json_reader_one_of(struct json_reader *reader, const char *characters) {
    if (reader->position < reader->size && reader->text[reader->position] != 0 &&
        strchr(characters, reader->text[reader->position]) != NULL) {
        reader->position++;
        return true;
    }
    return false;
}

static int json_reader_skip_number(struct json_reader *reader, struct error *error) {
    (void)json_reader_one_of(reader, "-");
    bool good = json_reader_one_of(reader, "0") || json_reader_digits(reader);
    if (good && json_reader_one_of(reader, ".")) {
        good = json_reader_digits(reader);
    }
    if (good && json_reader_one_of(reader, "eE")) {
        (void)json_reader_one_of(reader, "+-");
        good = json_reader_digits(reader);
    }
    return good ? 0 : json_reader_fail(reader, "a value", error);
}

static int json_reader_skip_deep(struct json_reader *reader, int depth, struct error *error) {
    static const char *const words[] = {"true", "false", "null"};
    int code = 0;
    json_reader_space(reader);
    if (depth > JSON_DEPTH_LIMIT) {
        return json_reader_fail(reader, "at most 64 levels of nesting", error);
    }
    if (reader->position < reader->size && reader->text[reader->position] == '"') {
        return json_reader_string(reader, NULL, NULL, error);
    }
    bool object = json_reader_accept(reader, '{');
    if (object || json_reader_accept(reader, '[')) {
        char close = object ? '}' : ']';
        if (json_reader_accept(reader, close)) {
            return 0;
        }
        do {
            if (object && ((code = json_reader_string(reader, NULL, NULL, error)) != 0 ||
                           (code = json_reader_expect(reader, ':', error)) != 0)) {
                return code;
            }
            if ((code = json_reader_skip_deep(reader, depth + 1, error)) != 0) {
                return code;
            }
        } while (json_reader_accept(reader, ','));
        return json_reader_expect(reader, close, error);
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        int64_t length = (int64_t)strlen(words[i]);
        if (reader->size - reader->position >= length &&
            memcmp(reader->text + reader->position, words[i], (size_t)length) == 0) {
            reader->position += length;
            return 0;
        }
    }
    return json_reader_skip_number(reader, error);
}

int json_reader_skip(struct json_reader *reader, struct error *error) {
    return json_reader_skip_deep(reader, 1, error);
}

int json_reader_end(struct json_reader *reader, struct error *error) {
    json_reader_space(reader);
    return reader->position == reader->size ? 0 : json_reader_fail(reader, "nothing more", error);
}

void json_text_append(struct json_text *text, const char *format, ...) {
    va_list arguments;
    for (int attempt = 0; attempt < 2 && !text->failed; attempt++) {
        int64_t room = text->capacity - text->size;
        va_start(arguments, format);
        int needed = vsnprintf(room > 0 ? text->text + text->size : NULL, (size_t)room, format, arguments);
        va_end(arguments);
        CHECK(needed >= 0, "format %s", format);
        if (needed < room) {
            text->size += needed;
            return;
        }
        text->failed = array_grow((void **)&text->text, &text->capacity, text->size + needed + 1, 1, "JSON text",
                                  NULL) != 0;
    }
}

void json_text_string(struct json_text *text, const char *string) {
    json_text_append(text, "\"");
    for (const char *at = string; *at != 0;) {
        size_t plain = 0;
        while ((unsigned char)at[plain] >= 0x20 && at[plain] != '"' && at[plain] != '\\') {
            plain++;
        }
        json_text_append(text, "%.*s", (int)plain, at);
        at += plain;
        if (*at == '"' || *at == '\\') {
            json_text_append(text, "\\%c", *at++);
        } else if (*at != 0) {
            json_text_append(text, "\\u%04x", (unsigned)*at++);
        }
    }
    json_text_append(text, "\"");
}

int json_text_finish(const struct json_text *text, const char *what, struct error *error) {
    return text->failed ? error_set(error, ERROR_MEMORY, "%s: out of memory", what) : 0;
}

void json_text_free(struct json_text *text) {
    memory_free(text->text);
    *text = (struct json_text){0};
}
