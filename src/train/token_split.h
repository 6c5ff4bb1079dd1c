// Which tokens of a tokenizer combine punctuation with line breaks, and what they are made of (spec 8.1, U10): such tokens are now and then
// split in training, so that a prompt that ends before the line break is no stranger to the model.
//
// A token counts when its bytes are punctuation or symbols (no ASCII letter, digit or blank alone) followed by line breaks (\n, \r) up to its end, and
// both halves are tokens of their own.
#ifndef MINKE_TRAIN_TOKEN_SPLIT_H
#define MINKE_TRAIN_TOKEN_SPLIT_H

#include "text/tokenizer.h"

struct token_split {
    int32_t *offsets;   // [vocab_size + 1]
    int32_t *pieces;    // pieces of token t: offsets[t] .. offsets[t+1]-1; none = never split
    int64_t count;      // tokens that can be split
};
// vocab_size: of the model's data, at least the tokenizer's.
int token_split_create(struct token_split *split, const struct tokenizer *tokenizer, int64_t vocab_size, struct error *error);
void token_split_destroy(struct token_split *split);

#endif
