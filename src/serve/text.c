// See text.h.
#include "serve/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static bool text_reserve(struct text *text, size_t more) {
    if (text->failed) {
        return false;
    }
    size_t needed = text->size + more + 1;
    if (needed <= text->capacity) {
        return true;
    }
    size_t capacity = needed > 2 * text->capacity ? needed : 2 * text->capacity;
    char *data = memory_resize(text->data, capacity, 1, "text", NULL);
    if (data == NULL) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void text_append(struct text *text, const void *data, size_t size) {
    if (size > 0 && text_reserve(text, size)) {
        memcpy(text->data + text->size, data, size);
        text->size += size;
        text->data[text->size] = '\0';
    }
}

void text_string(struct text *text, const char *string) {
    text_append(text, string, strlen(string));
}

void text_format(struct text *text, const char *format, ...) {
    char piece[512];
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    if (length >= 0 && (size_t)length < sizeof piece) {
        text_append(text, piece, (size_t)length);
    } else if (length >= 0 && text_reserve(text, (size_t)length)) {
        vsnprintf(text->data + text->size, (size_t)length + 1, format, again);
        text->size += (size_t)length;
    }
    va_end(again);
}

size_t utf8_length(const unsigned char *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    if (data[0] < 0x80) {
        return 1;
    }
    size_t length = data[0] >= 0xf0 ? 4 : data[0] >= 0xe0 ? 3 : 2;
    if (data[0] < 0xc2 || data[0] > 0xf4 || length > size) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((data[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    // Overlong forms, surrogates, and what lies above U+10FFFF.
    bool bad = (data[0] == 0xe0 && data[1] < 0xa0) || (data[0] == 0xed && data[1] > 0x9f) ||
               (data[0] == 0xf0 && data[1] < 0x90) || (data[0] == 0xf4 && data[1] > 0x8f);
    return bad ? 0 : length;
}

bool utf8_is_valid(const char *data, size_t size) {
    for (size_t at = 0; at < size;) {
        size_t length = utf8_length((const unsigned char *)data + at, size - at);
        if (length == 0) {
            return false;
        }
        at += length;
    }
    return true;
}

size_t utf8_count(const char *data, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < size; i++) {
        count += ((unsigned char)data[i] & 0xc0) != 0x80;
    }
    return count;
}

static void append_escaped(struct text *text, unsigned char byte) {
    switch (byte) {
    case '"':
        text_append(text, "\\\"", 2);
        break;
    case '\\':
        text_append(text, "\\\\", 2);
        break;
    case '\n':
        text_append(text, "\\n", 2);
        break;
    case '\r':
        text_append(text, "\\r", 2);
        break;
    case '\t':
        text_append(text, "\\t", 2);
        break;
    default:
        text_format(text, "\\u%04x", byte);
    }
}

void text_json(struct text *text, const char *data, size_t size) {
    const unsigned char *bytes = (const unsigned char *)data;
    if (size == 0) {
        text_string(text, "\"\"");
        return;
    }
    text_append(text, "\"", 1);
    size_t from = 0, at = 0;
    while (at < size) {
        size_t length = utf8_length(bytes + at, size - at);
        if (length > 1 || (length == 1 && bytes[at] >= 0x20 && bytes[at] != '"' && bytes[at] != '\\')) {
            at += length;
            continue;
        }
        text_append(text, data + from, at - from);
        if (length == 0) {
            text_string(text, "\xef\xbf\xbd");
        } else {
            append_escaped(text, bytes[at]);
        }
        from = ++at;
    }
    text_append(text, data + from, at - from);
    text_append(text, "\"", 1);
}

void text_json_string(struct text *text, const char *string) {
    text_json(text, string, strlen(string));
}

void text_number(struct text *text, double value) {
    if (!isfinite(value)) {
        text_string(text, "-9999.0");
    } else {
        text_format(text, "%.17g", value);
    }
}

void text_boolean(struct text *text, bool value) {
    text_string(text, value ? "true" : "false");
}

void text_drop(struct text *text, size_t size) {
    if (size > 0) {
        memmove(text->data, text->data + size, text->size - size);
        text->size -= size;
        text->data[text->size] = '\0';
    }
}

void text_clear(struct text *text) {
    text->size = 0;
    text->failed = false;
    if (text->data != NULL) {
        text->data[0] = '\0';
    }
}

void text_destroy(struct text *text) {
    memory_free(text->data);
    *text = (struct text){0};
}
