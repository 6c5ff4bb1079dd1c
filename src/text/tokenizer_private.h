// What is inside a loaded tokenizer; for tokenizer.c, tokenizer_load.c and vocabulary.c.
#ifndef MINKE_TEXT_TOKENIZER_PRIVATE_H
#define MINKE_TEXT_TOKENIZER_PRIVATE_H

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/json_cursor.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

#define TOKENIZER_ID_LIMIT (1 << 22)   // ids are below it: a damaged file must not make us allocate without end

enum token_kind {
    TOKEN_NONE = 0,
    TOKEN_BYTES = 1,   // made by merges
    TOKEN_ADDED = 2,
    TOKEN_SPECIAL = 3,   // added and flagged special
    TOKEN_OUTSIDE = 4,   // in the vocabulary, but not written in the byte alphabet and not added: cannot be encoded
};

struct token {
    int64_t offset;   // into bytes
    int32_t size;
    uint8_t kind;
    bool alphabet;   // of "vocab" and written in the byte alphabet
};

struct tokenizer {
    char *name;             // path of tokenizer.json, for messages
    struct token *tokens;   // [size]
    int32_t size, capacity;
    struct byte_buffer bytes;   // of all tokens
    int32_t *by_bytes;          // ids of "vocab" by hash of their bytes, -1 = free; 2^by_bytes_bits slots
    int by_bytes_bits;
    struct bpe bpe;
    bool ignore_merges;
    struct pretokenizer *pretokenizer;
    bool deepseek_scanner;         // pretokenizer_is_deepseek
    struct trie raw, normalized;   // added tokens
    struct tokenizer_roles roles;
    char *chat_template;
};

// ---- vocabulary.c ----
// Fills tokens, by_bytes and bpe.byte_ids; merges_read then fills the rest of bpe.
int vocabulary_read(struct tokenizer *tokenizer, struct json_cursor *cursor, struct error *error);
int merges_read(struct tokenizer *tokenizer, struct json_cursor *cursor, struct error *error);
// Checks an id of the file and makes room for it.
int vocabulary_take_id(struct tokenizer *tokenizer, int64_t id, const char *content, size_t length,
                       struct error *error);
// The id of a token of "vocab" as it is written there, or -1.
int vocabulary_find(int32_t *id, const struct tokenizer *tokenizer, const char *content, struct error *error);
// The token of "vocab" that stands for these bytes, or -1.
int32_t tokenizer_find_bytes(const struct tokenizer *tokenizer, const uint8_t *bytes, int64_t size);

#endif
