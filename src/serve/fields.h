// Fields of a request body: JSON values -> typed values in their ranges, or a failure with status 400 that names the
// field, what was expected and what was found. An absent field and null leave the value as it is.
#ifndef MINKE_SERVE_FIELDS_H
#define MINKE_SERVE_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "serve/failure.h"

// Parses a body; nesting deeper than `depth`, more than a million values and anything but an object at the top is a
// failure.
int fields_parse(json_t **body, const char *text, size_t size, int64_t depth, struct failure *failure);

// The value of a key, NULL if it is absent or null.
const json_t *field_value(const json_t *body, const char *key);
int field_integer(int64_t *value, const json_t *body, const char *key, int64_t least, int64_t most,
                  struct failure *failure);
int field_number(double *value, const json_t *body, const char *key, double least, double most,
                 struct failure *failure);
int field_float(float *value, const json_t *body, const char *key, double least, double most, struct failure *failure);
int field_boolean(bool *value, const json_t *body, const char *key, struct failure *failure);
// Borrowed; a string with a zero byte is a failure.
int field_string(const char **value, const json_t *body, const char *key, struct failure *failure);
// "`param`: expected X, found an array"
int field_mismatch(const char *param, const char *expected, const json_t *found, struct failure *failure);
// Ids of a vocabulary: an array of integers in 0..vocab_size-1. *ids is the caller's (memory_free).
int field_ids(int32_t **ids, int64_t *count, const json_t *array, const char *param, int64_t vocab_size,
              struct failure *failure);

#endif
