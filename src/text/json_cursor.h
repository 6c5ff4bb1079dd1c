// Reads the two large parts of tokenizer.json, "vocab" and "merges", where they stand: a tree of 250,000 JSON values
// costs more time than all the rest of loading. json_cursor_cut takes the two parts out of the text; what remains goes
// to jansson as usual. Strict: strings must be well-formed UTF-8 without NUL, as jansson has it.
#ifndef MINKE_TEXT_JSON_CURSOR_H
#define MINKE_TEXT_JSON_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/buffer.h"

struct json_cursor {
    const char *text;
    size_t at, size;      // next byte, end
    int64_t first_line;   // line number of text[0]
    const char *name;     // file, for messages
};

// Finds the values of `keys` (a NULL-terminated list of two at most) in the object that `parent` names in the top-level
// object. Each becomes cursors[i] (text NULL = not there), and `rest` the text with "null" in their place. Errors in
// the text outside the found values are left for the parser of `rest` to report.
int json_cursor_cut(struct byte_buffer *rest, struct json_cursor cursors[2], const char *parent,
                    const char *const *keys, const char *text, size_t size, const char *name, struct error *error);

// Next significant byte, 0 at the end.
char json_cursor_peek(struct json_cursor *cursor);
// Takes the byte `wanted` if it is next.
bool json_cursor_accept(struct json_cursor *cursor, char wanted);
int json_cursor_expect(struct json_cursor *cursor, char wanted, struct error *error);
// The string is valid until the next call with this buffer; it is not terminated.
int json_cursor_string(const char **string, size_t *length, struct json_cursor *cursor, struct byte_buffer *buffer,
                       struct error *error);
int json_cursor_integer(int64_t *value, struct json_cursor *cursor, struct error *error);
// "<file>: line N: <what>"
int json_cursor_fail(const struct json_cursor *cursor, const char *what, struct error *error);

#endif
