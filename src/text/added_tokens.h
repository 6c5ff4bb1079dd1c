// Finding added tokens in raw text, as Hugging Face tokenizers do: leftmost, of those the longest, by bytes. Tokens
// with normalized = false are cut out first; the others are looked for in what remains (there is no normalizer here, so
// their text is the same either way).
#ifndef MINKE_TEXT_ADDED_TOKENS_H
#define MINKE_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct trie_node {
    int32_t child, sibling;         // node numbers, 0 = none (0 is the root)
    int32_t id;                     // token that ends here, -1 = none
    uint8_t byte;                   // on the edge into this node
    bool strip_left, strip_right;   // the match takes the white space beside it along
};

struct trie {
    struct trie_node *nodes;
    int32_t count, capacity;
    bool starts[256];   // first bytes of the tokens
    int single_start;   // the one first byte, or -1 when there are several or none
    bool has_strip;
};

struct trie_match {
    int64_t begin, end;
    int32_t id;
};

int trie_create(struct trie *trie, struct error *error);
void trie_destroy(struct trie *trie);
// ERROR_FORMAT when the text is there already.
int trie_add(struct trie *trie, const char *text, int64_t size, int32_t id, bool strip_left, bool strip_right,
             const char *name, struct error *error);
// The first match in [from, size); text before `from` is neither matched nor stripped. False = none.
bool trie_find(struct trie_match *match, const struct trie *trie, const uint8_t *text, int64_t from, int64_t size);

#endif
