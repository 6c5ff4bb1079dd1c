// Which tokens the loader may split: tokenizer in -> tables of pieces out (loader_options.split_offsets, split_pieces).
//
// A token that joins punctuation with the line break behind it (" .\n\n") makes a prompt that ends at the punctuation
// unlike anything the model has seen. The report splits a share of them in training (spec 8.1, U10). Splittable is
// every token of the form  [space] (punctuation or symbols)+ (CR or LF)+ ; its pieces are the ids of the text before
// the first line break and the ids of the line breaks, each encoded alone. Bytes stay the same.
#ifndef MINKE_DATA_TOKEN_SPLIT_H
#define MINKE_DATA_TOKEN_SPLIT_H

#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"

#define TOKEN_SPLIT_RATE 0.1   // default: V3's "certain proportion" is not published

struct token_split {
    int32_t *offsets;   // [vocabulary + 1] into pieces; an empty range = never split
    int32_t *pieces;
    int64_t tokens;   // that can be split
};

int token_split_create(struct token_split *split, const struct tokenizer *tokenizer, struct error *error);
void token_split_destroy(struct token_split *split);

#endif
