// jansson behind typed accessors. Data in: text or a file; data out: json_t trees, or one line that says where the text
// is wrong ("<name>: line 3, column 9: ...") or which key has the wrong type.
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

// jansson reports a failed allocation in the middle of a text as a syntax error: this tells which it was.
static _Thread_local bool allocation_failed;

static void *json_allocate(size_t size) {
    void *block = memory_allocate(1, size, "JSON", NULL);
    allocation_failed |= block == NULL;
    return block;
}

// Before main: jansson must have our allocator before its first value exists, also for a value that a caller builds
// with json_object() before it has parsed anything, because it will be freed with whatever is set then.
__attribute__((constructor)) static void json_setup(void) {
    json_set_alloc_funcs(json_allocate, memory_free);
}

static int parse(json_t **root, const char *text, size_t size, size_t flags, const char *name, int64_t line,
                 struct error *error) {
    json_error_t reason;
    allocation_failed = false;
    *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | flags, &reason);
    if (*root != NULL) {
        return 0;
    }
    if (allocation_failed) {
        return error_set(error, ERROR_MEMORY, "%s: out of memory while reading JSON", name);
    }
    return error_set(error, ERROR_FORMAT, "%s: line %lld, column %d: %s", name, (long long)(line + reason.line),
                     reason.column, reason.text);
}

int json_parse(json_t **root, const char *text, size_t size, const char *name, struct error *error) {
    return parse(root, text, size, 0, name, 0, error);
}

int json_parse_line(json_t **root, const char *text, size_t size, const char *name, int64_t line, struct error *error) {
    return parse(root, text, size, JSON_ALLOW_NUL, name, line - 1, error);
}

int json_read(json_t **root, const char *path, int64_t limit, struct error *error) {
    *root = NULL;
    char *text = NULL;
    int64_t size;
    int code = file_read(&text, &size, path, limit, error);
    if (code == 0) {
        code = json_parse(root, text, (size_t)size, path, error);
    }
    memory_free(text);
    return code;
}

// The fewest digits, 15 to 17, with which every real of the tree reads back as the same double: 1e-06 stays 1e-06.
static int digits_needed(const json_t *value, int digits) {
    if (json_is_real(value)) {
        char text[64];
        for (; digits < 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, json_real_value(value));
            if (strtod(text, NULL) == json_real_value(value)) {
                break;
            }
        }
    } else if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value) && digits < 17; i++) {
            digits = digits_needed(json_array_get(value, i), digits);
        }
    } else if (json_is_object(value)) {
        const char *key;
        json_t *member;
        // The iterator takes a non-const object, though it changes nothing.
        json_object_foreach((json_t *)value, key, member) {
            digits = digits_needed(member, digits);
        }
    }
    return digits;
}

struct json_output {
    struct file_writer writer;
    struct error *error;
};

static int output_append(const char *text, size_t size, void *argument) {
    struct json_output *output = argument;
    return file_writer_append(&output->writer, text, size, output->error);
}

int json_write(const json_t *root, const char *path, struct error *error) {
    struct error local = {0};
    struct json_output output = {.error = error != NULL ? error : &local};
    int code = file_writer_open(&output.writer, path, output.error);
    if (code != 0) {
        return code;
    }
    size_t digits = (size_t)digits_needed(root, 15);
    size_t flags = JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits);
    if (json_dump_callback(root, output_append, &output, flags) != 0) {
        // Either the writer has said why, or jansson has run out of memory.
        code = output.error->code != 0
                   ? output.error->code
                   : error_set(output.error, ERROR_MEMORY, "%s: out of memory while writing JSON", path);
        goto out;
    }
    code = file_writer_append(&output.writer, "\n", 1, output.error);
    if (code == 0) {
        code = file_writer_commit(&output.writer, output.error);
    }

out:
    if (code != 0) {
        file_writer_abort(&output.writer);
    }
    return code;
}

const char *json_type_text(const json_t *value) {
    if (value == NULL) {
        return "nothing";
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "something unknown";
}

static int wrong_type(const json_t *value, const char *key, const char *name, const char *expected,
                      struct error *error) {
    return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected %s, found %s", name, key, expected,
                     json_type_text(value));
}

static bool absent(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return value == NULL || json_is_null(value);
}

int json_get_integer(int64_t *value, const json_t *object, const char *key, const char *name, struct error *error) {
    const json_t *found = json_object_get(object, key);
    if (!json_is_integer(found)) {
        return wrong_type(found, key, name, "an integer", error);
    }
    *value = json_integer_value(found);
    return 0;
}

int json_get_integer_or(int64_t *value, int64_t fallback, const json_t *object, const char *key, const char *name,
                        struct error *error) {
    *value = fallback;
    return absent(object, key) ? 0 : json_get_integer(value, object, key, name, error);
}

int json_get_number(double *value, const json_t *object, const char *key, const char *name, struct error *error) {
    const json_t *found = json_object_get(object, key);
    if (!json_is_number(found)) {
        return wrong_type(found, key, name, "a number", error);
    }
    *value = json_number_value(found);
    return 0;
}

int json_get_number_or(double *value, double fallback, const json_t *object, const char *key, const char *name,
                       struct error *error) {
    *value = fallback;
    return absent(object, key) ? 0 : json_get_number(value, object, key, name, error);
}

int json_get_boolean_or(bool *value, bool fallback, const json_t *object, const char *key, const char *name,
                        struct error *error) {
    *value = fallback;
    if (absent(object, key)) {
        return 0;
    }
    const json_t *found = json_object_get(object, key);
    if (!json_is_boolean(found)) {
        return wrong_type(found, key, name, "true or false", error);
    }
    *value = json_is_true(found);
    return 0;
}

int json_get_string(const char **value, const json_t *object, const char *key, const char *name, struct error *error) {
    const json_t *found = json_object_get(object, key);
    if (!json_is_string(found)) {
        return wrong_type(found, key, name, "a string", error);
    }
    *value = json_string_value(found);
    return 0;
}

int json_get_string_or(const char **value, const char *fallback, const json_t *object, const char *key,
                       const char *name, struct error *error) {
    *value = fallback;
    return absent(object, key) ? 0 : json_get_string(value, object, key, name, error);
}
