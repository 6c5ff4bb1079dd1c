// jansson with error messages that name file, key, what was found and what was expected.
// jansson's own allocation goes through base/memory.h, from before main on.
#ifndef MINKE_BASE_JSON_H
#define MINKE_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

// Parse; duplicate keys are an error, depth is limited by jansson (2048). `name` is used in messages.
int json_parse(json_t **root, const char *text, size_t size, const char *name, struct error *error);
// One line of a JSON lines file: "\u0000" is allowed in strings, messages give the line's number.
int json_parse_line(json_t **root, const char *text, size_t size, const char *name, int64_t line, struct error *error);
int json_read(json_t **root, const char *path, int64_t limit, struct error *error);
// Pretty, two spaces, keys in insertion order, ends with a newline; atomic.
int json_write(const json_t *root, const char *path, struct error *error);

// Typed access. A missing key or null gives the fallback where there is one; a wrong type is ERROR_FORMAT:
// "<name>: key \"<key>\": expected an integer, found a string".
int json_get_integer(int64_t *value, const json_t *object, const char *key, const char *name, struct error *error);
int json_get_integer_or(int64_t *value, int64_t fallback, const json_t *object, const char *key, const char *name,
                        struct error *error);
int json_get_number(double *value, const json_t *object, const char *key, const char *name,
                    struct error *error);   // integers allowed
int json_get_number_or(double *value, double fallback, const json_t *object, const char *key, const char *name,
                       struct error *error);
int json_get_boolean_or(bool *value, bool fallback, const json_t *object, const char *key, const char *name,
                        struct error *error);
// Borrowed from the object.
int json_get_string(const char **value, const json_t *object, const char *key, const char *name, struct error *error);
int json_get_string_or(const char **value, const char *fallback, const json_t *object, const char *key,
                       const char *name, struct error *error);
const char *json_type_text(const json_t *value);   // "an integer", "a string", "nothing"

#endif
