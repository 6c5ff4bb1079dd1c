// Fill-in-the-middle: the model sees what stands before and after a gap and writes the gap.
#ifndef MINKE_TEXT_FIM_H
#define MINKE_TEXT_FIM_H

#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"

struct fim_tokens {
    int32_t begin, hole, end, eos;   // <｜fim▁begin｜> <｜fim▁hole｜> <｜fim▁end｜>, end of sentence
};

// ERROR_FORMAT names the token that the tokenizer lacks.
int fim_tokens_find(struct fim_tokens *tokens, const struct tokenizer *tokenizer, struct error *error);

// Prompt: appends [BOS] FIM-begin prefix FIM-hole suffix FIM-end; the model goes on with the middle. Text is plain:
// added tokens in it are not recognised. BOS when the tokenizer's roles say so.
int fim_prompt_encode(struct token_buffer *out, struct encoder *encoder, const char *prefix, int64_t prefix_size,
                      const char *suffix, int64_t suffix_size, struct error *error);

// Training (prefix-suffix-middle, at document level): FIM-begin prefix FIM-hole suffix FIM-end middle EOS. The middle
// is [begin, end) of the document, 0 <= begin <= end <= size; each part is encoded alone.
int fim_document_encode(struct token_buffer *out, struct encoder *encoder, const char *document, int64_t size,
                        int64_t begin, int64_t end, struct error *error);

// Two uniform cut points of a document, moved back to starts of UTF-8 characters; a pure function of its arguments.
void fim_cut(int64_t *begin, int64_t *end, const char *document, int64_t size, uint64_t seed, uint64_t document_number);

#endif
