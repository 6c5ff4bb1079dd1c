// A trained vocabulary -> tokenizer.json + tokenizer_config.json, in the form of DeepSeek-V3's.
#ifndef MINKE_TEXT_TOKENIZER_WRITE_H
#define MINKE_TEXT_TOKENIZER_WRITE_H

#include <stdint.h>

#include "base/error.h"
#include "text/pair_merger.h"

// Ids: 0 BOS, 1 EOS, 2 pad, 3 + symbol, then `placeholders`, then the other added tokens. Makes the directory when
// missing; each file is written whole or not at all.
int tokenizer_write(const char *directory, const struct merge_list *merges, int64_t placeholders, struct error *error);

#endif
