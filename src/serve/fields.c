// See fields.h.
#include "serve/fields.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

// A parsed value takes a hundred times the bytes that it is written with: a body of nothing but values is limited by
// their number.
#define VALUES_MAX ((int64_t)1 << 20)

// Looks at a body before memory is spent on it. Brackets and commas inside strings do not count. What is malformed
// otherwise is left to the parser.
static int check_size(const char *text, size_t size, int64_t depth, struct failure *failure) {
    int64_t level = 0, values = 1;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                quoted = false;
            }
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            level++;
            values++;
        } else if (c == '}' || c == ']') {
            level--;
        } else {
            values += c == ',';
        }
        if (level > depth) {
            return failure_set(failure, 400, NULL, NULL, "the body nests deeper than %" PRId64 " levels", depth);
        }
        if (values > VALUES_MAX) {
            return failure_set(failure, 413, NULL, NULL, "the body: expected at most %" PRId64 " values", VALUES_MAX);
        }
    }
    return 0;
}

int fields_parse(json_t **body, const char *text, size_t size, int64_t depth, struct failure *failure) {
    struct error error = {0};
    *body = NULL;
    if (check_size(text, size, depth, failure) != 0) {
        return failure->status;
    }
    int code = json_parse_line(body, text, size, "body", 1, &error);
    if (code == ERROR_MEMORY) {
        return failure_set(failure, 500, NULL, NULL, "%s", error.text);
    }
    if (code != 0) {
        return failure_set(failure, 400, NULL, NULL, "the body is not valid JSON: %s", error.text);
    }
    if (!json_is_object(*body)) {
        failure_set(failure, 400, NULL, NULL, "the body: expected a JSON object, found %s", json_type_text(*body));
        json_decref(*body);
        *body = NULL;
        return failure->status;
    }
    return 0;
}

const json_t *field_value(const json_t *body, const char *key) {
    const json_t *value = json_object_get(body, key);
    return json_is_null(value) ? NULL : value;
}

int field_mismatch(const char *param, const char *expected, const json_t *found, struct failure *failure) {
    return failure_set(failure, 400, NULL, param, "'%s': expected %s, found %s", param, expected,
                       json_type_text(found));
}

int field_integer(int64_t *value, const json_t *body, const char *key, int64_t least, int64_t most,
                  struct failure *failure) {
    const json_t *found = field_value(body, key);
    if (found == NULL) {
        return 0;
    }
    if (!json_is_integer(found)) {
        return field_mismatch(key, "an integer", found, failure);
    }
    int64_t number = json_integer_value(found);
    if (number < least || number > most) {
        return failure_set(failure, 400, NULL, key,
                           "'%s': expected an integer in %" PRId64 "..%" PRId64 ", found %" PRId64, key, least, most,
                           number);
    }
    *value = number;
    return 0;
}

int field_number(double *value, const json_t *body, const char *key, double least, double most,
                 struct failure *failure) {
    const json_t *found = field_value(body, key);
    if (found == NULL) {
        return 0;
    }
    if (!json_is_number(found)) {
        return field_mismatch(key, "a number", found, failure);
    }
    double number = json_number_value(found);
    if (!(number >= least && number <= most)) {
        return failure_set(failure, 400, NULL, key, "'%s': expected a number in %g..%g, found %g", key, least, most,
                           number);
    }
    *value = number;
    return 0;
}

int field_float(float *value, const json_t *body, const char *key, double least, double most, struct failure *failure) {
    double number = (double)*value;
    int status = field_number(&number, body, key, least, most, failure);
    *value = (float)number;
    return status;
}

int field_boolean(bool *value, const json_t *body, const char *key, struct failure *failure) {
    const json_t *found = field_value(body, key);
    if (found == NULL) {
        return 0;
    }
    if (!json_is_boolean(found)) {
        return field_mismatch(key, "true or false", found, failure);
    }
    *value = json_is_true(found);
    return 0;
}

int field_string(const char **value, const json_t *body, const char *key, struct failure *failure) {
    const json_t *found = field_value(body, key);
    if (found == NULL) {
        return 0;
    }
    if (!json_is_string(found)) {
        return field_mismatch(key, "a string", found, failure);
    }
    if (strlen(json_string_value(found)) != json_string_length(found)) {
        return failure_set(failure, 400, NULL, key, "'%s': expected text without zero bytes", key);
    }
    *value = json_string_value(found);
    return 0;
}

int field_ids(int32_t **ids, int64_t *count, const json_t *array, const char *param, int64_t vocab_size,
              struct failure *failure) {
    size_t size = json_array_size(array);
    *count = 0;
    *ids = memory_allocate(size + 1, sizeof **ids, "token ids", NULL);
    if (*ids == NULL) {
        return failure_set(failure, 500, NULL, param, "out of memory");
    }
    for (size_t i = 0; i < size; i++) {
        const json_t *item = json_array_get(array, i);
        int64_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= vocab_size) {
            memory_free(*ids);
            *ids = NULL;
            return json_is_integer(item)
                       ? failure_set(failure, 400, NULL, param,
                                     "'%s': id %zu: expected an integer in 0..%" PRId64 ", found %" JSON_INTEGER_FORMAT,
                                     param, i, vocab_size - 1, json_integer_value(item))
                       : failure_set(failure, 400, NULL, param, "'%s': id %zu: expected an integer, found %s", param, i,
                                     json_type_text(item));
        }
        (*ids)[i] = (int32_t)id;
    }
    *count = (int64_t)size;
    return 0;
}
