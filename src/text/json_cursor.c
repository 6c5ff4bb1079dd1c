// JSON read from left to right without a tree (see json_cursor.h).
#include "text/json_cursor.h"

#include <string.h>

#include "text/unicode.h"

int json_cursor_fail(const struct json_cursor *cursor, const char *what, struct error *error) {
    int64_t line = cursor->first_line;
    size_t end = cursor->at < cursor->size ? cursor->at : cursor->size;
    for (size_t i = 0; i < end; i++) {
        line += cursor->text[i] == '\n';
    }
    if (cursor->at >= cursor->size) {
        return error_set(error, ERROR_FORMAT, "%s: line %lld: %s, found the end", cursor->name, (long long)line, what);
    }
    return error_set(error, ERROR_FORMAT, "%s: line %lld: %s, found '%.*s'", cursor->name, (long long)line, what,
                     (int)(cursor->size - cursor->at < 12
                               ? strnlen(cursor->text + cursor->at, cursor->size - cursor->at)
                               : strnlen(cursor->text + cursor->at, 12)),
                     cursor->text + cursor->at);
}

char json_cursor_peek(struct json_cursor *cursor) {
    while (cursor->at < cursor->size) {
        char byte = cursor->text[cursor->at];
        if (byte != ' ' && byte != '\n' && byte != '\r' && byte != '\t') {
            return byte;
        }
        cursor->at++;
    }
    return 0;
}

bool json_cursor_accept(struct json_cursor *cursor, char wanted) {
    if (json_cursor_peek(cursor) != wanted || cursor->at >= cursor->size) {
        return false;
    }
    cursor->at++;
    return true;
}

int json_cursor_expect(struct json_cursor *cursor, char wanted, struct error *error) {
    char what[] = "expected '?'";
    if (json_cursor_accept(cursor, wanted)) {
        return 0;
    }
    what[sizeof(what) - 3] = wanted;
    return json_cursor_fail(cursor, what, error);
}

static int hexadecimal(uint32_t *value, struct json_cursor *cursor, struct error *error) {
    *value = 0;
    for (int i = 0; i < 4; i++, cursor->at++) {
        char digit = cursor->at < cursor->size ? cursor->text[cursor->at] : 0;
        uint32_t nibble = digit >= '0' && digit <= '9'   ? (uint32_t)(digit - '0')
                          : digit >= 'a' && digit <= 'f' ? (uint32_t)(digit - 'a' + 10)
                          : digit >= 'A' && digit <= 'F' ? (uint32_t)(digit - 'A' + 10)
                                                         : 16;
        if (nibble == 16) {
            return json_cursor_fail(cursor, "expected a hexadecimal digit", error);
        }
        *value = *value << 4 | nibble;
    }
    return 0;
}

// One escape sequence, the cursor behind the backslash.
static int escape_read(struct byte_buffer *buffer, struct json_cursor *cursor, struct error *error) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char kind = cursor->at < cursor->size ? cursor->text[cursor->at] : 0;
    const char *found = kind != 0 ? strchr(names, kind) : NULL;
    uint8_t bytes[4];
    if (found != NULL) {
        cursor->at++;
        return byte_buffer_append(buffer, &values[found - names], 1, error);
    }
    if (kind != 'u') {
        return json_cursor_fail(cursor, "expected an escape sequence", error);
    }
    cursor->at++;
    uint32_t code, low;
    if (hexadecimal(&code, cursor, error) != 0) {
        return ERROR_FORMAT;
    }
    if (code >= 0xD800 && code < 0xDC00 && cursor->size - cursor->at >= 2 && cursor->text[cursor->at] == '\\' &&
        cursor->text[cursor->at + 1] == 'u') {
        cursor->at += 2;
        if (hexadecimal(&low, cursor, error) != 0) {
            return ERROR_FORMAT;
        }
        code = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) : code;
    }
    if (code == 0 || (code >= 0xD800 && code < 0xE000)) {
        return json_cursor_fail(cursor, "expected no \\u0000 and no unpaired surrogate before this", error);
    }
    return byte_buffer_append(buffer, bytes, unicode_encode(bytes, code), error);
}

int json_cursor_string(const char **string, size_t *length, struct json_cursor *cursor, struct byte_buffer *buffer,
                       struct error *error) {
    if (json_cursor_peek(cursor) != '"') {
        return json_cursor_fail(cursor, "expected a string", error);
    }
    size_t begin = ++cursor->at;
    bool copied = false;
    buffer->size = 0;
    while (cursor->at < cursor->size) {
        uint8_t byte = (uint8_t)cursor->text[cursor->at];
        if (byte == '"') {
            *string = cursor->text + begin;
            *length = cursor->at++ - begin;
            if (copied) {
                if (byte_buffer_append(buffer, *string, (int64_t)*length, error) != 0) {
                    return ERROR_MEMORY;
                }
                *string = buffer->data;
                *length = (size_t)buffer->size;
            }
            return 0;
        }
        if (byte == '\\') {
            if (byte_buffer_append(buffer, cursor->text + begin, (int64_t)(cursor->at - begin), error) != 0) {
                return ERROR_MEMORY;
            }
            copied = true;
            cursor->at++;
            int code = escape_read(buffer, cursor, error);
            if (code != 0) {
                return code;
            }
            begin = cursor->at;
            continue;
        }
        uint32_t code = byte;
        cursor->at += byte < 0x80 ? 1
                                  : unicode_decode(&code, (const uint8_t *)cursor->text + cursor->at,
                                                   cursor->size - cursor->at);
        if (byte < 0x20 || code == UNICODE_ILL_FORMED) {
            cursor->at--;
            return json_cursor_fail(cursor, "expected well-formed UTF-8 without control characters in a string", error);
        }
    }
    return json_cursor_fail(cursor, "expected the end of a string", error);
}

int json_cursor_integer(int64_t *value, struct json_cursor *cursor, struct error *error) {
    char byte = json_cursor_peek(cursor);
    bool negative = byte == '-';
    size_t begin = cursor->at, digits = cursor->at + negative, at = digits;
    *value = 0;
    while (at < cursor->size && cursor->text[at] >= '0' && cursor->text[at] <= '9' && at - digits < 18) {
        *value = *value * 10 + (cursor->text[at++] - '0');
    }
    char after = at < cursor->size ? cursor->text[at] : 0;
    bool leading_zero = at - digits > 1 && cursor->text[digits] == '0';
    if (at == digits || leading_zero || after == '.' || after == 'e' || after == 'E' ||
        (after >= '0' && after <= '9')) {
        cursor->at = begin;
        return json_cursor_fail(cursor, "expected an integer", error);
    }
    *value = negative ? -*value : *value;
    cursor->at = at;
    return 0;
}

// ---- cutting ----

// Skips a string or a whole value without looking closely. False = the text ends first.
static bool skip_string(struct json_cursor *cursor) {
    for (cursor->at++; cursor->at < cursor->size; cursor->at++) {
        if (cursor->text[cursor->at] == '\\') {
            cursor->at++;
        } else if (cursor->text[cursor->at] == '"') {
            cursor->at++;
            return true;
        }
    }
    return false;
}

static bool skip_value(struct json_cursor *cursor) {
    int64_t depth = 0;
    for (json_cursor_peek(cursor); cursor->at < cursor->size;) {
        char byte = cursor->text[cursor->at];
        if (byte == '"') {
            if (!skip_string(cursor)) {
                return false;
            }
            if (depth == 0) {
                return true;
            }
            continue;
        }
        if (depth == 0 && (byte == ',' || byte == '}' || byte == ']')) {
            return true;   // behind a number or a literal
        }
        depth += byte == '{' || byte == '[';
        depth -= byte == '}' || byte == ']';
        cursor->at++;
        if (depth == 0 && (byte == '}' || byte == ']')) {
            return true;
        }
    }
    return false;
}

// The cursor behind '{' or ',': goes to the value of the next key. False = no further key, or not JSON.
static bool next_key(const char **key, size_t *length, struct json_cursor *cursor) {
    if (json_cursor_peek(cursor) != '"') {
        return false;
    }
    *key = cursor->text + cursor->at + 1;
    if (!skip_string(cursor)) {
        return false;
    }
    *length = (size_t)(cursor->text + cursor->at - *key) - 1;
    return json_cursor_accept(cursor, ':');
}

static bool same(const char *key, size_t length, const char *name) {
    return strlen(name) == length && memcmp(key, name, length) == 0;
}

// Notes where the values of the keys stand in the object at the cursor.
static void find_values(size_t spans[2][2], struct json_cursor *cursor, const char *const *keys) {
    const char *key;
    size_t length;
    if (!json_cursor_accept(cursor, '{')) {
        return;
    }
    while (next_key(&key, &length, cursor)) {
        json_cursor_peek(cursor);
        size_t begin = cursor->at;
        if (!skip_value(cursor)) {
            return;
        }
        for (int i = 0; i < 2 && keys[i] != NULL; i++) {
            if (same(key, length, keys[i]) && spans[i][1] == 0) {
                spans[i][0] = begin;
                spans[i][1] = cursor->at;
            }
        }
        if (!json_cursor_accept(cursor, ',')) {
            return;
        }
    }
}

int json_cursor_cut(struct byte_buffer *rest, struct json_cursor cursors[2], const char *parent,
                    const char *const *keys, const char *text, size_t size, const char *name, struct error *error) {
    struct json_cursor cursor = {.text = text, .size = size, .first_line = 1, .name = name};
    const char *key;
    size_t length, spans[2][2] = {{0, 0}, {0, 0}};
    rest->size = 0;
    cursors[0] = cursors[1] = (struct json_cursor){.name = name};
    bool more = json_cursor_accept(&cursor, '{');
    while (more && next_key(&key, &length, &cursor)) {
        json_cursor_peek(&cursor);
        if (same(key, length, parent) && cursor.at < size && text[cursor.at] == '{') {
            find_values(spans, &cursor, keys);
            break;
        }
        more = skip_value(&cursor) && json_cursor_accept(&cursor, ',');
    }
    // In the order of the text.
    int first = spans[1][1] != 0 && (spans[0][1] == 0 || spans[1][0] < spans[0][0]);
    size_t done = 0;
    int64_t line = 1;
    for (int k = 0; k < 2; k++) {
        const size_t *span = spans[k == 0 ? first : 1 - first];
        if (span[1] == 0) {
            continue;
        }
        for (size_t i = done; i < span[0]; i++) {
            line += text[i] == '\n';
        }
        cursors[span == spans[0] ? 0 : 1] = (struct json_cursor){
            .text = text + span[0], .size = span[1] - span[0], .first_line = line, .name = name};
        int code = byte_buffer_append(rest, text + done, (int64_t)(span[0] - done), error);
        if (code != 0 || (code = byte_buffer_append_string(rest, "null", error)) != 0) {
            return code;
        }
        for (size_t i = span[0]; i < span[1]; i++) {
            line += text[i] == '\n';
        }
        done = span[1];
    }
    return byte_buffer_append(rest, text + done, (int64_t)(size - done), error);
}
