// See api_key.h.
#include "serve/api_key.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/memory.h"

#define KEY_FILE_BYTES ((int64_t)1 << 20)

int api_keys_read(struct api_keys *keys, const char *path, struct error *error) {
    int64_t size;
    *keys = (struct api_keys){0};
    int code = file_read(&keys->file, &size, path, KEY_FILE_BYTES, error);
    if (code != 0) {
        return code;
    }
    size_t lines = 1;
    for (int64_t i = 0; i < size; i++) {
        lines += keys->file[i] == '\n';
    }
    keys->keys = memory_allocate(lines, sizeof *keys->keys, "API keys", error);
    if (keys->keys == NULL) {
        api_keys_destroy(keys);
        return ERROR_MEMORY;
    }
    char *rest = keys->file, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        line += strspn(line, " \t\r");
        size_t length = strlen(line);
        while (length > 0 && strchr(" \t\r", line[length - 1]) != NULL) {
            length--;
        }
        if (length > 0 && line[0] != '#') {
            keys->keys[keys->count++] = (struct api_key){.text = line, .size = length};
        }
    }
    if (keys->count == 0) {
        api_keys_destroy(keys);
        return error_set(error, ERROR_FORMAT, "%s: expected API keys, one a line, found none", path);
    }
    return 0;
}

void api_keys_destroy(struct api_keys *keys) {
    memory_free(keys->keys);
    memory_free(keys->file);
    *keys = (struct api_keys){0};
}

// Looks at every byte of `text`, whatever the key is. Volatile, so that no compiler ends the loop early.
static bool equal_constant_time(const struct api_key *key, const char *text, size_t size) {
    volatile unsigned char difference = key->size != size;
    for (size_t i = 0; i < size; i++) {
        unsigned char expected = (unsigned char)key->text[i % key->size];
        difference = (unsigned char)(difference | (expected ^ (unsigned char)text[i]));
    }
    return difference == 0;
}

bool api_keys_accept(const struct api_keys *keys, const char *authorization) {
    if (keys->count == 0) {
        return true;
    }
    if (authorization == NULL || strncasecmp(authorization, "Bearer ", 7) != 0) {
        return false;
    }
    const char *text = authorization + 7 + strspn(authorization + 7, " ");
    size_t size = strlen(text);
    bool accepted = false;
    for (size_t i = 0; i < keys->count; i++) {
        accepted |= equal_constant_time(&keys->keys[i], text, size);
    }
    return accepted;
}
