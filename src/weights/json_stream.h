// Strict reading and writing of large, flat JSON texts (safetensors headers, index files) without building a tree: a
// header of 100 MB is read once, front to back, with no memory beyond what the caller keeps. Configuration files use
// base/json.h.
#ifndef MINKE_WEIGHTS_JSON_STREAM_H
#define MINKE_WEIGHTS_JSON_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct json_reader {
    const char *text;   // not zero-terminated
    int64_t size, position;
    const char *name;   // for messages: the file
};

// Every function skips white space first. Errors (ERROR_FORMAT) name the file, the byte, what was expected and found.
bool json_reader_accept(struct json_reader *reader, char character);   // consumes it if it comes next
int json_reader_expect(struct json_reader *reader, char character, struct error *error);
// Decodes a string to UTF-8 with a terminating zero; `out` needs at most as many bytes as the quoted text has (NULL:
// check only). Rejects malformed UTF-8, lone surrogates, bare control characters and U+0000 (names become C strings).
// *length may be NULL.
int json_reader_string(struct json_reader *reader, char *out, int64_t *length, struct error *error);
// An integer in [0, 2^63), without sign, fraction or exponent.
int json_reader_integer(struct json_reader *reader, int64_t *value, struct error *error);
int json_reader_skip(struct json_reader *reader, struct error *error);   // any value, at most 64 levels deep
int json_reader_end(struct json_reader *reader, struct error *error);    // nothing but white space is left

// Growing text. After a failed allocation all further appends do nothing and json_text_finish reports it.
struct json_text {
    char *text;
    int64_t size, capacity;
    bool failed;
};
void json_text_append(struct json_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void json_text_string(struct json_text *text, const char *string);   // quoted and escaped
int json_text_finish(const struct json_text *text, const char *what, struct error *error);
void json_text_free(struct json_text *text);

#endif
