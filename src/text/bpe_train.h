// Training a byte-level BPE with DeepSeek-V3's pre-tokenizer: documents in -> tokenizer.json + tokenizer_config.json
// out.
//
// Layout of a vocabulary of V tokens: 0 BOS, 1 EOS, 2 pad, 3-258 the bytes (order of bpe_byte_in_order), then the
// merges in the order found, then, when the text has not enough pairs that occur twice, `<｜place▁holder▁no▁n｜>`
// tokens, and last the 17 added tokens of bpe_train_added_tokens (FIM, roles, tools, thinking). V counts all of them.
//
// Algorithm: count the pieces of the text; repeatedly merge the pair of neighbouring tokens with the highest count, of
// equals the one with the smallest left id, then the smallest right id. A pair is counted inside pieces only, weighted
// by the piece. The result depends on the multiset of documents alone, not on their order or the number of threads.
#ifndef MINKE_TEXT_BPE_TRAIN_H
#define MINKE_TEXT_BPE_TRAIN_H

#include <stdint.h>

#include "base/error.h"
#include "base/log.h"
#include "base/pool.h"

#define BPE_TRAIN_FIRST_TOKENS 3
#define BPE_TRAIN_ADDED_TOKENS 17
#define BPE_TRAIN_VOCABULARY_MINIMUM (BPE_TRAIN_FIRST_TOKENS + 256 + BPE_TRAIN_ADDED_TOKENS)
#define BPE_TRAIN_VOCABULARY_MAXIMUM (1 << 20)

struct bpe_trainer;

struct bpe_train_result {
    int64_t bytes;      // of text counted
    int64_t pieces;     // occurrences
    int64_t distinct;   // different pieces
    int64_t merges;
    int64_t placeholders;   // tokens of the vocabulary that the text gave no merge for
};

// The pool counts pieces; NULL = the calling thread alone. It must outlive the trainer.
int bpe_trainer_create(struct bpe_trainer **trainer, struct pool *pool, struct error *error);
// Adds one document. Text is copied and counted in batches of a few megabytes.
int bpe_trainer_add(struct bpe_trainer *trainer, const char *text, int64_t size, struct error *error);
// Finds the merges and writes the two files into `directory`, which is made when missing. Call once. `progress` may be
// NULL; it is updated with the number of merges found (progress_begin and progress_end are the caller's).
int bpe_trainer_finish(struct bpe_train_result *result, struct bpe_trainer *trainer, int64_t vocabulary_size,
                       const char *directory, struct progress *progress, struct error *error);
void bpe_trainer_free(struct bpe_trainer *trainer);   // NULL is fine

#endif
