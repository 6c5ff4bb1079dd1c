// Random walks over what a grammar allows, and texts led along it. For fuzzers.
#ifndef MINKE_TESTS_FUZZ_WITH_GRAMMAR_H
#define MINKE_TESTS_FUZZ_WITH_GRAMMAR_H

#include "serve/grammar.h"

struct walker {
    struct minke_tokenizer *tokenizer;
    struct token_vocabulary *vocabulary;
    int32_t eos;
};
void walker_open(struct walker *walker);   // with the tokenizer of tests/golden/text/small
// What a walk wrote, markup included, to be freed with minke_free; NULL = it was not complete after its last token.
// A dead end is a failed CHECK.
char *walker_walk(size_t *size, const struct walker *walker, const struct grammar *grammar, uint64_t seed);
// Whether every token of the text is allowed in its turn and the end behind it.
bool walker_accepts(const struct walker *walker, const struct grammar *grammar, const char *text, size_t size);

#endif
