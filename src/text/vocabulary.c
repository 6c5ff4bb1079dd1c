// "vocab" and "merges" of tokenizer.json -> tokens, the table from bytes to ids, and the table of merges.
#include <string.h>
#include <xxhash.h>

#include "base/memory.h"
#include "text/tokenizer_private.h"
#include "text/unicode.h"

static uint64_t hash(const uint8_t *bytes, int64_t size) {
    return XXH3_64bits(bytes, (size_t)size);
}

// Slot of the token with these bytes, or the free one where it would stand. Tokens outside the byte alphabet live in
// the same table and are another key.
static uint32_t slot_find(const struct tokenizer *tokenizer, const uint8_t *bytes, int64_t size, bool alphabet) {
    uint32_t mask = ((uint32_t)1 << tokenizer->by_bytes_bits) - 1;
    uint32_t at = (uint32_t)hash(bytes, size) & mask;
    for (;; at = (at + 1) & mask) {
        int32_t id = tokenizer->by_bytes[at];
        if (id < 0) {
            return at;
        }
        const struct token *token = &tokenizer->tokens[id];
        if (token->size == size && token->alphabet == alphabet &&
            memcmp(tokenizer->bytes.data + token->offset, bytes, (size_t)size) == 0) {
            return at;
        }
    }
}

int32_t tokenizer_find_bytes(const struct tokenizer *tokenizer, const uint8_t *bytes, int64_t size) {
    return tokenizer->by_bytes[slot_find(tokenizer, bytes, size, true)];
}

// Text in the byte alphabet -> bytes at out (no longer than the text). -1 = some character is not in the alphabet.
static int64_t alphabet_decode(uint8_t *out, const char *text, size_t size) {
    int64_t count = 0;
    for (size_t at = 0; at < size;) {
        uint32_t character;
        at += unicode_decode(&character, (const uint8_t *)text + at, size - at);
        int byte = bpe_character_byte(character);
        if (byte < 0) {
            return -1;
        }
        out[count++] = (uint8_t)byte;
    }
    return count;
}

int vocabulary_find(int32_t *id, const struct tokenizer *tokenizer, const char *content, struct error *error) {
    struct byte_buffer buffer = {0};
    size_t length = strlen(content);
    int code = byte_buffer_reserve(&buffer, (int64_t)length + 1, error);
    if (code == 0) {
        int64_t size = alphabet_decode((uint8_t *)buffer.data, content, length);
        uint32_t slot = size >= 0 ? slot_find(tokenizer, (const uint8_t *)buffer.data, size, true)
                                  : slot_find(tokenizer, (const uint8_t *)content, (int64_t)length, false);
        *id = tokenizer->by_bytes[slot];
    }
    byte_buffer_destroy(&buffer);
    return code;
}

// ---- vocabulary ----

static int tokens_grow(struct tokenizer *tokenizer, int32_t id, struct error *error) {
    if (id >= tokenizer->capacity) {
        int32_t capacity = id < TOKENIZER_ID_LIMIT / 2 ? id * 2 + 1024 : TOKENIZER_ID_LIMIT;
        struct token *tokens = memory_resize(tokenizer->tokens, (size_t)capacity, sizeof(*tokens), "vocabulary", error);
        if (tokens == NULL) {
            return ERROR_MEMORY;
        }
        memset(tokens + tokenizer->capacity, 0, (size_t)(capacity - tokenizer->capacity) * sizeof(*tokens));
        tokenizer->tokens = tokens;
        tokenizer->capacity = capacity;
    }
    tokenizer->size = id >= tokenizer->size ? id + 1 : tokenizer->size;
    return 0;
}

int vocabulary_take_id(struct tokenizer *tokenizer, int64_t id, const char *content, size_t length,
                       struct error *error) {
    if (id < 0 || id >= TOKENIZER_ID_LIMIT) {
        return error_set(error, ERROR_FORMAT, "%s: id of token \"%.*s\": expected 0 to %d, found %lld", tokenizer->name,
                         (int)(length < 80 ? length : 80), content, TOKENIZER_ID_LIMIT - 1, (long long)id);
    }
    return tokens_grow(tokenizer, (int32_t)id, error);
}

// Twice the slots, all tokens entered anew; keeps the table at most half full.
static int table_grow(struct tokenizer *tokenizer, int bits, struct error *error) {
    size_t slots = (size_t)1 << bits;
    int32_t *old = tokenizer->by_bytes;
    int32_t *table = memory_allocate(slots, sizeof(*table), "vocabulary", error);
    if (table == NULL) {
        return ERROR_MEMORY;
    }
    memset(table, 0xFF, slots * sizeof(*table));
    size_t old_slots = old == NULL ? 0 : (size_t)1 << tokenizer->by_bytes_bits;
    tokenizer->by_bytes = table;
    tokenizer->by_bytes_bits = bits;
    for (size_t i = 0; i < old_slots; i++) {
        if (old[i] >= 0) {
            const struct token *token = &tokenizer->tokens[old[i]];
            const uint8_t *bytes = (const uint8_t *)tokenizer->bytes.data + token->offset;
            table[slot_find(tokenizer, bytes, token->size, token->alphabet)] = old[i];
        }
    }
    memory_free(old);
    return 0;
}

static int token_add(struct tokenizer *tokenizer, const char *content, size_t length, int64_t id, struct error *error) {
    int code = vocabulary_take_id(tokenizer, id, content, length, error);
    if (code != 0) {
        return code;
    }
    struct token *token = &tokenizer->tokens[id];
    int shown = (int)(length < 80 ? length : 80);
    if (length == 0 || length > INT32_MAX) {
        return error_set(error, ERROR_FORMAT, "%s: key \"vocab\": token %d is empty", tokenizer->name, (int)id);
    }
    if (token->kind != TOKEN_NONE) {
        return error_set(error, ERROR_FORMAT, "%s: key \"vocab\": id %d is given to two tokens, one is \"%.*s\"",
                         tokenizer->name, (int)id, shown, content);
    }
    if ((code = byte_buffer_reserve(&tokenizer->bytes, (int64_t)length, error)) != 0) {
        return code;
    }
    uint8_t *bytes = (uint8_t *)tokenizer->bytes.data + tokenizer->bytes.size;
    int64_t size = alphabet_decode(bytes, content, length);
    bool alphabet = size >= 0;
    if (!alphabet) {
        size = (int64_t)length;
        memcpy(bytes, content, length);
    }
    uint32_t slot = slot_find(tokenizer, bytes, size, alphabet);
    if (tokenizer->by_bytes[slot] >= 0) {
        return error_set(error, ERROR_FORMAT, "%s: key \"vocab\": token \"%.*s\" is given twice", tokenizer->name,
                         shown, content);
    }
    *token = (struct token){tokenizer->bytes.size, (int32_t)size, alphabet ? TOKEN_BYTES : TOKEN_OUTSIDE, alphabet};
    tokenizer->bytes.size += size;
    tokenizer->by_bytes[slot] = (int32_t)id;
    return 0;
}

int vocabulary_read(struct tokenizer *tokenizer, struct json_cursor *cursor, struct error *error) {
    struct byte_buffer buffer = {0};
    const char *content;
    size_t length;
    int64_t id, count = 0;
    int code = table_grow(tokenizer, 12, error);
    if (code == 0) {
        code = json_cursor_expect(cursor, '{', error);
    }
    bool more = code == 0 && !json_cursor_accept(cursor, '}');
    while (more && code == 0) {
        if ((code = json_cursor_string(&content, &length, cursor, &buffer, error)) != 0 ||
            (code = json_cursor_expect(cursor, ':', error)) != 0 ||
            (code = json_cursor_integer(&id, cursor, error)) != 0 ||
            (code = token_add(tokenizer, content, length, id, error)) != 0) {
            break;
        }
        if (++count * 2 > (int64_t)1 << tokenizer->by_bytes_bits) {
            code = table_grow(tokenizer, tokenizer->by_bytes_bits + 1, error);
        }
        more = json_cursor_accept(cursor, ',');
        if (code == 0 && !more) {
            code = json_cursor_expect(cursor, '}', error);
        }
    }
    byte_buffer_destroy(&buffer);
    for (int byte = 0; code == 0 && byte < 256; byte++) {
        uint8_t one = (uint8_t)byte;
        tokenizer->bpe.byte_ids[byte] = tokenizer_find_bytes(tokenizer, &one, 1);
        if (tokenizer->bpe.byte_ids[byte] < 0) {
            code = error_set(error, ERROR_FORMAT,
                             "%s: key \"vocab\": no token for byte 0x%02X (U+%04X in the byte alphabet)",
                             tokenizer->name, (unsigned)byte, (unsigned)bpe_byte_character(one));
        }
    }
    return code;
}

// ---- merges ----

// One entry, "left right" or ["left", "right"]: its bytes at out, all of it `sizes[0] + sizes[1]` long; sizes -1 = a
// character outside the alphabet.
static int merge_read(struct byte_buffer *out, int64_t sizes[2], struct json_cursor *cursor, struct byte_buffer *buffer,
                      struct error *error) {
    const char *text;
    size_t length;
    int code;
    out->size = sizes[0] = sizes[1] = 0;
    if (json_cursor_accept(cursor, '[')) {
        for (int i = 0; i < 2; i++) {
            if ((code = json_cursor_string(&text, &length, cursor, buffer, error)) != 0 ||
                (code = byte_buffer_reserve(out, (int64_t)length, error)) != 0 ||
                (code = json_cursor_expect(cursor, i == 0 ? ',' : ']', error)) != 0) {
                return code;
            }
            sizes[i] = alphabet_decode((uint8_t *)out->data + out->size, text, length);
            out->size += sizes[i] > 0 ? sizes[i] : 0;
        }
        return 0;
    }
    if ((code = json_cursor_string(&text, &length, cursor, buffer, error)) != 0 ||
        (code = byte_buffer_reserve(out, (int64_t)length + 1, error)) != 0) {
        return code;
    }
    const char *space = memchr(text, ' ', length);
    size_t left = space == NULL ? 0 : (size_t)(space - text);
    if (space == NULL || memchr(space + 1, ' ', length - left - 1) != NULL) {
        return json_cursor_fail(cursor, "expected a merge \"left right\" with one space before this", error);
    }
    sizes[0] = alphabet_decode((uint8_t *)out->data, text, left);
    sizes[1] = sizes[0] < 0 ? -1 : alphabet_decode((uint8_t *)out->data + sizes[0], space + 1, length - left - 1);
    return 0;
}

struct merge_ids {
    int32_t left, right, merged;
};

static int merge_find(struct merge_ids *ids, const struct tokenizer *tokenizer, const uint8_t *bytes,
                      const int64_t sizes[2], int64_t rank, struct error *error) {
    const char *missing = NULL;
    if (sizes[0] <= 0 || (ids->left = tokenizer_find_bytes(tokenizer, bytes, sizes[0])) < 0) {
        missing = "left side";
    } else if (sizes[1] <= 0 || (ids->right = tokenizer_find_bytes(tokenizer, bytes + sizes[0], sizes[1])) < 0) {
        missing = "right side";
    } else if ((ids->merged = tokenizer_find_bytes(tokenizer, bytes, sizes[0] + sizes[1])) < 0) {
        missing = "result";
    }
    return missing == NULL ? 0
                           : error_set(error, ERROR_FORMAT, "%s: merges[%lld]: its %s is not in the vocabulary",
                                       tokenizer->name, (long long)rank, missing);
}

int merges_read(struct tokenizer *tokenizer, struct json_cursor *cursor, struct error *error) {
    struct byte_buffer buffer = {0}, bytes = {0};
    struct merge_ids *merges = NULL;
    int64_t count = 0, capacity = 0, sizes[2];
    int code = json_cursor_expect(cursor, '[', error);
    bool more = code == 0 && !json_cursor_accept(cursor, ']');
    while (more && code == 0) {
        if (count == capacity) {
            capacity = capacity == 0 ? 4096 : capacity * 2;
            struct merge_ids *grown = memory_resize(merges, (size_t)capacity, sizeof(*merges), "merges", error);
            if (grown == NULL) {
                code = ERROR_MEMORY;
                break;
            }
            merges = grown;
        }
        if ((code = merge_read(&bytes, sizes, cursor, &buffer, error)) != 0 ||
            (code = merge_find(&merges[count], tokenizer, (const uint8_t *)bytes.data, sizes, count, error)) != 0) {
            break;
        }
        if (++count == INT32_MAX - 1) {
            code = error_set(error, ERROR_LIMIT, "%s: more than %lld merges", tokenizer->name, (long long)count);
        }
        more = json_cursor_accept(cursor, ',');
        if (code == 0 && !more) {
            code = json_cursor_expect(cursor, ']', error);
        }
    }
    if (code == 0 && (code = bpe_create(&tokenizer->bpe, count, error)) == 0) {
        for (int64_t i = 0; i < count; i++) {
            bpe_add(&tokenizer->bpe, merges[i].left, merges[i].right, (int32_t)i, merges[i].merged);
        }
    }
    memory_free(merges);
    byte_buffer_destroy(&buffer);
    byte_buffer_destroy(&bytes);
    return code;
}
