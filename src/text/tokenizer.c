// Encoding and decoding with a loaded tokenizer (see tokenizer.h).
#include "text/tokenizer.h"

#include <string.h>

#include "base/memory.h"
#include "text/tokenizer_private.h"
#include "text/unicode.h"

// ---- the vocabulary ----

int32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer) {
    return tokenizer->size;
}

struct tokenizer_roles tokenizer_roles(const struct tokenizer *tokenizer) {
    return tokenizer->roles;
}

const char *tokenizer_chat_template(const struct tokenizer *tokenizer) {
    return tokenizer->chat_template;
}

const uint8_t *tokenizer_token(int64_t *size, const struct tokenizer *tokenizer, int32_t id) {
    *size = 0;
    if (id < 0 || id >= tokenizer->size || tokenizer->tokens[id].kind == TOKEN_NONE) {
        return NULL;
    }
    *size = tokenizer->tokens[id].size;
    return (const uint8_t *)tokenizer->bytes.data + tokenizer->tokens[id].offset;
}

static int32_t trie_exact(const struct trie *trie, const char *bytes, int64_t size) {
    struct trie_match match;
    if (size > 0 && trie_find(&match, trie, (const uint8_t *)bytes, 0, size) && match.begin == 0 && match.end == size) {
        return match.id;
    }
    return -1;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *bytes, int64_t size) {
    int32_t id = trie_exact(&tokenizer->raw, bytes, size);
    if (id < 0) {
        id = trie_exact(&tokenizer->normalized, bytes, size);
    }
    return id >= 0 ? id : tokenizer_find_bytes(tokenizer, (const uint8_t *)bytes, size);
}

int32_t tokenizer_find_string(const struct tokenizer *tokenizer, const char *text) {
    return tokenizer_find(tokenizer, text, (int64_t)strlen(text));
}

bool tokenizer_is_added(const struct tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < tokenizer->size &&
           (tokenizer->tokens[id].kind == TOKEN_ADDED || tokenizer->tokens[id].kind == TOKEN_SPECIAL);
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < tokenizer->size && tokenizer->tokens[id].kind == TOKEN_SPECIAL;
}

// ---- encoding ----

#define CACHE_SLOTS 65536
#define CACHE_KEY 24   // bytes of the longest cached piece
#define CACHE_IDS 9

// One cache line. A piece that does not fit is encoded anew each time; a collision replaces.
struct cache_slot {
    uint64_t key[3];   // the piece, padded with zero bytes
    uint8_t size;      // 0 = free
    uint8_t count;
    int32_t ids[CACHE_IDS];
};

struct encoder {
    const struct tokenizer *tokenizer;
    struct cache_slot *cache;
    struct bpe_scratch bpe;
    struct pretokenize_scratch pretokenize;
};

int encoder_create(struct encoder **out, const struct tokenizer *tokenizer, struct error *error) {
    *out = NULL;
    struct encoder *encoder = memory_allocate(1, sizeof(*encoder), "encoder", error);
    if (encoder == NULL) {
        return ERROR_MEMORY;
    }
    encoder->tokenizer = tokenizer;
    encoder->cache = memory_allocate(CACHE_SLOTS, sizeof(*encoder->cache), "cache of pieces", error);
    if (encoder->cache == NULL) {
        encoder_free(encoder);
        return ERROR_MEMORY;
    }
    *out = encoder;
    return 0;
}

void encoder_free(struct encoder *encoder) {
    if (encoder != NULL) {
        memory_free(encoder->cache);
        bpe_scratch_destroy(&encoder->bpe);
        pretokenize_scratch_destroy(&encoder->pretokenize);
        memory_free(encoder);
    }
}

const struct tokenizer *encoder_tokenizer(const struct encoder *encoder) {
    return encoder->tokenizer;
}

static int piece_encode(struct token_buffer *out, struct encoder *encoder, const uint8_t *piece, int64_t size,
                        struct error *error) {
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->ignore_merges) {
        int32_t id = tokenizer_find_bytes(tokenizer, piece, size);
        if (id >= 0) {
            return token_buffer_append(out, id, error);
        }
    }
    return bpe_encode(out, &tokenizer->bpe, &encoder->bpe, piece, size, error);
}

// `readable`: bytes from `piece` on that may be read, at least size.
static inline int piece_encode_cached(struct token_buffer *out, struct encoder *encoder, const uint8_t *piece,
                                      int64_t size, int64_t readable, struct error *error) {
    if (size > CACHE_KEY) {
        return piece_encode(out, encoder, piece, size, error);
    }
    uint64_t key[3] = {0, 0, 0};
    if (readable >= CACHE_KEY) {
        memcpy(key, piece, CACHE_KEY);
        // Zero the bytes behind the piece: of word w it has clamp(size - 8 w, 0, 8).
        key[0] &= size >= 8 ? UINT64_MAX : ((uint64_t)1 << (8 * size)) - 1;
        key[1] &= size >= 16 ? UINT64_MAX : size <= 8 ? 0 : ((uint64_t)1 << (8 * (size - 8))) - 1;
        key[2] &= size >= 24 ? UINT64_MAX : size <= 16 ? 0 : ((uint64_t)1 << (8 * (size - 16))) - 1;
    } else {
        memcpy(key, piece, (size_t)size);
    }
    uint64_t mixed = (key[0] ^ (uint64_t)size << 56) * 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ mixed >> 32 ^ key[1]) * 0xC2B2AE3D27D4EB4Fu;
    mixed = (mixed ^ mixed >> 29 ^ key[2]) * 0x165667B19E3779F9u;
    struct cache_slot *slot = &encoder->cache[mixed >> 48];
    if (token_buffer_reserve(out, CACHE_IDS, error) != 0) {
        return ERROR_MEMORY;
    }
    int32_t *ids = out->ids + out->count;
    if (slot->size == size && slot->key[0] == key[0] && slot->key[1] == key[1] && slot->key[2] == key[2]) {
        memcpy(ids, slot->ids, sizeof(slot->ids));
        out->count += slot->count;
        return 0;
    }
    int64_t before = out->count;
    int code = piece_encode(out, encoder, piece, size, error);
    int64_t count = out->count - before;
    if (code == 0 && count <= CACHE_IDS) {
        memcpy(slot->key, key, sizeof(key));
        slot->size = (uint8_t)size;
        slot->count = (uint8_t)count;
        memcpy(slot->ids, out->ids + before, (size_t)count * sizeof(int32_t));
    }
    return code;
}

_Static_assert(sizeof(struct cache_slot) == 64 && CACHE_SLOTS == 1 << 16,
               "a slot is a cache line; the hash has 16 bits");

// Text without added tokens.
static int plain_encode(struct token_buffer *out, struct encoder *encoder, const uint8_t *text, int64_t size,
                        struct error *error) {
    int code = 0;
    if (encoder->tokenizer->deepseek_scanner) {
        const uint8_t *classes = unicode_classes();
        for (int64_t begin = 0; code == 0 && begin < size;) {
            int64_t end = (int64_t)pretokenize_deepseek_next(classes, text, (size_t)size, (size_t)begin);
            code = piece_encode_cached(out, encoder, text + begin, end - begin, size - begin, error);
            begin = end;
        }
        return code;
    }
    const struct piece_list *pieces;
    code = pretokenizer_split(&pieces, &encoder->pretokenize, encoder->tokenizer->pretokenizer, text, size, error);
    int64_t begin = 0;
    for (int64_t i = 0; code == 0 && i < pieces->count; i++) {
        code = piece_encode_cached(out, encoder, text + begin, pieces->ends[i] - begin, size - begin, error);
        begin = pieces->ends[i];
    }
    return code;
}

// Cuts out the tokens of one trie; what lies between goes on to the next trie, or to plain_encode.
static int added_encode(struct token_buffer *out, struct encoder *encoder, const struct trie *trie, const uint8_t *text,
                        int64_t size, struct error *error) {
    int64_t done = 0;
    int code = 0;
    struct trie_match match;
    while (code == 0 && done < size) {
        bool found = trie_find(&match, trie, text, done, size);
        int64_t end = found ? match.begin : size;
        if (end > done) {
            if (trie == &encoder->tokenizer->raw) {
                code = added_encode(out, encoder, &encoder->tokenizer->normalized, text + done, end - done, error);
            } else {
                code = plain_encode(out, encoder, text + done, end - done, error);
            }
        }
        if (code == 0 && found) {
            code = token_buffer_append(out, match.id, error);
        }
        done = found ? match.end : size;
    }
    return code;
}

int encoder_encode(struct token_buffer *out, struct encoder *encoder, const char *text, int64_t size, unsigned flags,
                   struct error *error) {
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (flags & ENCODE_BOS) {
        if (tokenizer->roles.bos < 0) {
            return error_set(error, ERROR_ARGUMENT, "%s: a BOS is asked for, but the tokenizer has none",
                             tokenizer->name);
        }
        if (token_buffer_append(out, tokenizer->roles.bos, error) != 0) {
            return ERROR_MEMORY;
        }
    }
    const uint8_t *bytes = (const uint8_t *)text;
    return flags & ENCODE_ADDED_TOKENS ? added_encode(out, encoder, &tokenizer->raw, bytes, size, error)
                                       : plain_encode(out, encoder, bytes, size, error);
}

// ---- decoding ----

int tokenizer_decode(struct byte_buffer *out, const struct tokenizer *tokenizer, const int32_t *ids, int64_t count,
                     unsigned flags, struct error *error) {
    for (int64_t i = 0; i < count; i++) {
        int64_t size;
        if (ids[i] < 0 || ids[i] >= tokenizer->size) {
            return error_set(error, ERROR_ARGUMENT, "token id %d at position %lld is out of range, expected 0 to %d",
                             ids[i], (long long)i, tokenizer->size - 1);
        }
        if ((flags & DECODE_SKIP_SPECIAL) && tokenizer->tokens[ids[i]].kind == TOKEN_SPECIAL) {
            continue;
        }
        const uint8_t *bytes = tokenizer_token(&size, tokenizer, ids[i]);
        if (byte_buffer_append(out, bytes, size, error) != 0) {
            return ERROR_MEMORY;
        }
    }
    return 0;
}

// How many bytes of text[0..size) are the longest prefix of some character: 0 = the first byte starts none, and whether
// the character is complete. size is at most 4.
static int character_prefix(bool *complete, const uint8_t *text, int size) {
    uint8_t first = text[0];
    int length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    // The second byte is narrower after E0 (overlong), ED (surrogates), F0 (overlong) and F4 (beyond U+10FFFF).
    uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    int found = length > 0;
    while (found > 0 && found < length && found < size && text[found] >= low && text[found] <= high) {
        found++;
        low = 0x80;
        high = 0xBF;
    }
    *complete = found > 0 && found == length;
    return found;
}

static int replacement_append(struct byte_buffer *out, struct error *error) {
    return byte_buffer_append(out, "\xEF\xBF\xBD", 3, error);
}

int decode_stream_push(struct byte_buffer *out, struct decode_stream *stream, const struct tokenizer *tokenizer,
                       int32_t id, unsigned flags, struct error *error) {
    int64_t size;
    const uint8_t *bytes = tokenizer_token(&size, tokenizer, id);
    if ((flags & DECODE_SKIP_SPECIAL) && tokenizer_is_special(tokenizer, id)) {
        return 0;
    }
    int code = 0;
    for (int64_t i = 0; code == 0 && i < size; i++) {
        stream->held[stream->held_count++] = bytes[i];
        // One byte more: the held ones are a whole character, still a prefix, or a broken prefix and this byte.
        bool complete;
        while (code == 0 && stream->held_count > 0) {
            int found = character_prefix(&complete, stream->held, stream->held_count);
            if (found == stream->held_count && !complete) {
                break;
            }
            code = complete ? byte_buffer_append(out, stream->held, found, error) : replacement_append(out, error);
            found = found > 0 ? found : 1;
            stream->held_count -= found;
            memmove(stream->held, stream->held + found, (size_t)stream->held_count);
        }
    }
    return code;
}

int decode_stream_finish(struct byte_buffer *out, struct decode_stream *stream, struct error *error) {
    int code = stream->held_count > 0 ? replacement_append(out, error) : 0;
    stream->held_count = 0;
    return code;
}
