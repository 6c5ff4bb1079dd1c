// Growing text for bodies and events, and the pieces of JSON that are written into it.
//
// Starts as all zero. An allocation that fails sets `failed` and turns everything that follows into nothing, so that a
// writer checks once, at the end.
#ifndef MINKE_SERVE_TEXT_H
#define MINKE_SERVE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct text {
    char *data;   // zero-terminated when size > 0
    size_t size, capacity;
    bool failed;
};

void text_append(struct text *text, const void *data, size_t size);
void text_string(struct text *text, const char *string);
void text_format(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
// A JSON string with its quotes; what is not well-formed UTF-8 becomes U+FFFD.
void text_json(struct text *text, const char *data, size_t size);
void text_json_string(struct text *text, const char *string);
// A JSON number with which a double reads back as it is; what is not finite becomes -9999 (as OpenAI writes log 0).
void text_number(struct text *text, double value);
void text_boolean(struct text *text, bool value);
// Takes `size` bytes off the front.
void text_drop(struct text *text, size_t size);
void text_clear(struct text *text);   // keeps the memory
void text_destroy(struct text *text);

// Length of the well-formed UTF-8 character at data[0..size), 0 if there is none.
size_t utf8_length(const unsigned char *data, size_t size);
bool utf8_is_valid(const char *data, size_t size);
size_t utf8_count(const char *data, size_t size);   // characters: bytes that do not continue one

#endif
