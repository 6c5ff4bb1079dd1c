// Growable outputs of this folder: token ids and bytes. Start as all zero; free with *_destroy; reuse by count = 0 /
// size = 0.
#ifndef MINKE_TEXT_BUFFER_H
#define MINKE_TEXT_BUFFER_H

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

struct token_buffer {
    int32_t *ids;
    int64_t count, capacity;
};

struct byte_buffer {
    char *data;   // not terminated
    int64_t size, capacity;
};

// Room for `more` further elements. Growth is geometric.
static inline int token_buffer_reserve(struct token_buffer *buffer, int64_t more, struct error *error) {
    if (buffer->capacity - buffer->count >= more) {
        return 0;
    }
    int64_t capacity = buffer->capacity * 2 > buffer->count + more ? buffer->capacity * 2 : buffer->count + more;
    int32_t *ids = memory_resize(buffer->ids, (size_t)capacity, sizeof(*ids), "token ids", error);
    if (ids == NULL) {
        return ERROR_MEMORY;
    }
    buffer->ids = ids;
    buffer->capacity = capacity;
    return 0;
}

static inline int token_buffer_append(struct token_buffer *buffer, int32_t id, struct error *error) {
    int code = token_buffer_reserve(buffer, 1, error);
    if (code == 0) {
        buffer->ids[buffer->count++] = id;
    }
    return code;
}

static inline void token_buffer_destroy(struct token_buffer *buffer) {
    memory_free(buffer->ids);
    *buffer = (struct token_buffer){0};
}

static inline int byte_buffer_reserve(struct byte_buffer *buffer, int64_t more, struct error *error) {
    if (buffer->capacity - buffer->size >= more) {
        return 0;
    }
    int64_t capacity = buffer->capacity * 2 > buffer->size + more ? buffer->capacity * 2 : buffer->size + more;
    char *data = memory_resize(buffer->data, (size_t)capacity, 1, "text", error);
    if (data == NULL) {
        return ERROR_MEMORY;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

static inline int byte_buffer_append(struct byte_buffer *buffer, const void *data, int64_t size, struct error *error) {
    int code = byte_buffer_reserve(buffer, size, error);
    if (code == 0 && size > 0) {
        memcpy(buffer->data + buffer->size, data, (size_t)size);
        buffer->size += size;
    }
    return code;
}

static inline int byte_buffer_append_string(struct byte_buffer *buffer, const char *text, struct error *error) {
    return byte_buffer_append(buffer, text, (int64_t)strlen(text), error);
}

static inline void byte_buffer_destroy(struct byte_buffer *buffer) {
    memory_free(buffer->data);
    *buffer = (struct byte_buffer){0};
}

#endif
