// API keys from a file, one a line; empty lines and lines that begin with # do not count.
#ifndef MINKE_SERVE_API_KEY_H
#define MINKE_SERVE_API_KEY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct api_keys {
    char *file;   // the keys lie in it
    struct api_key {
        const char *text;
        size_t size;
    } * keys;
    size_t count;
};

int api_keys_read(struct api_keys *keys, const char *path, struct error *error);
void api_keys_destroy(struct api_keys *keys);
// Whether an Authorization header ("Bearer KEY", NULL = none) holds one of the keys. The time this takes depends on the
// length of what the client sent alone, not on how much of it is right.
bool api_keys_accept(const struct api_keys *keys, const char *authorization);

#endif
