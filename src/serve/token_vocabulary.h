// The tokens of a tokenizer as byte strings, arranged as a trie: what a grammar walks to find which tokens may come
// next. Built once for a tokenizer (tens of milliseconds, about 10 MB for 128,815 tokens) and shared by all requests;
// it never changes afterwards: use it from any thread.
#ifndef MINKE_SERVE_TOKEN_VOCABULARY_H
#define MINKE_SERVE_TOKEN_VOCABULARY_H

#include <stdint.h>

#include "base/error.h"
#include "minke.h"

struct token_vocabulary;

// end_tokens: the ids that end an answer (minke_model_is_end), copied; count 0 = the tokenizer's end-of-sentence
// token. The tokenizer is not needed afterwards.
int token_vocabulary_create(struct token_vocabulary **vocabulary, const struct minke_tokenizer *tokenizer,
                            const int32_t *end_tokens, int64_t end_count, struct error *error);
void token_vocabulary_free(struct token_vocabulary *vocabulary);   // NULL is fine

#endif
