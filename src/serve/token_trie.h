// What is behind struct token_vocabulary: a trie in preorder, so that a walk is one loop over an array that skips the
// subtrees of bytes that cannot come.
//
// An added token such as <｜tool▁call▁begin｜> stands in the trie as the byte 0xFF and its text. No UTF-8 text contains
// 0xFF, so a grammar names such a token by spelling it so, and can never allow it by accident. (Tokens of text that
// contain 0xFF, tokens of no bytes and those longer than TRIE_DEPTH are left out: they are never allowed.)
#ifndef MINKE_SERVE_TOKEN_TRIE_H
#define MINKE_SERVE_TOKEN_TRIE_H

#include <stdbool.h>

#include "serve/token_vocabulary.h"

#define TRIE_DEPTH 255
#define TRIE_MARKUP 0xFF

struct trie_exit {   // a node whose last byte is the closing quote of a string that began before the token
    int32_t node;
    int32_t characters;   // of the string, in front of the quote
};

struct token_vocabulary {
    int32_t vocab_size;
    // Node 0 is the root. A node's children follow it; skip[i] is the first node behind its subtree.
    int32_t node_count;
    uint8_t *byte;
    uint8_t *depth;   // bytes from the root
    int32_t *skip;
    int32_t *first;    // tokens[first[i] .. first[i + 1]) spell node i
    int32_t *tokens;   // ids in the order of their bytes
    // Spelling of id i: text[offset[i] .. offset[i + 1]), empty for what the trie leaves out.
    int32_t *offset;
    char *text;
    uint64_t *end_tokens;   // bits, as in struct minke_token_filter
    int64_t words;          // of such a set
    // Inside a JSON string: tokens that stay in it, in the order of the characters that they begin:
    // inside[inside_first[c] .. inside_first[c + 1]) begin c; and the nodes that leave it.
    uint64_t *inside_set;
    int32_t *inside;
    int32_t inside_first[TRIE_DEPTH + 2];
    struct trie_exit *exits;
    int32_t exit_count;
};

// The id of an added token, -1 = there is none with this text.
int32_t token_vocabulary_markup(const struct token_vocabulary *vocabulary, const char *text);
const char *token_vocabulary_spelling(int32_t *size, const struct token_vocabulary *vocabulary, int32_t id);

static inline bool token_set_has(const uint64_t *set, int32_t id) {
    return (set[id / 64] >> (id % 64) & 1) != 0;
}

static inline void token_set_add(uint64_t *set, int32_t id) {
    set[id / 64] |= (uint64_t)1 << (id % 64);
}

#endif
