// `minke prepare`: a corpus and a tokenizer in -> a dataset folder out (dataset.h), complete or absent.
//
//   1. scan      every document is cleaned and hashed (XXH3-64 of its text). Documents of blanks alone are dropped, of
//                documents with equal text the first one stays. Some are held out for validation (below).
//   2. train     only when asked for: a BPE vocabulary from the training documents; held-out text is not looked at
//   3. encode    documents become token ids (text in them is plain text: it never becomes an added token) in shards
//
// Each pass reads the corpus again, in batches, so that memory does not grow with it but for 24 bytes per document. The
// work of a batch is spread over the pool and taken in document order: the result does not depend on the number of
// threads. The folder is written as "<output>.tmp-<pid>" and renamed.
//
// Held out is, in this order of precedence: the documents of the held-out inputs; with validation_bytes the documents
// of smallest hash until their text has so many bytes; else each document whose hash, read as a fraction of 2^64, is
// below validation_rate (at least one when the rate is not 0 and there are two). Equal documents never stand on both
// sides.
#ifndef MINKE_DATA_PREPARE_H
#define MINKE_DATA_PREPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"
#include "data/corpus.h"

#define PREPARE_SHARD_BYTES ((int64_t)128 << 20)
#define PREPARE_DOCUMENT_BYTES ((int64_t)32 << 10)
#define PREPARE_VALIDATION_RATE 0.02

struct prepare_options {
    const char *output;
    const char *tokenizer;      // tokenizer.json or its folder; NULL = the one trained
    int64_t train_vocabulary;   // 0 = do not train a tokenizer
    char *const *inputs;
    int64_t input_count;
    char *const *held_out_inputs;
    int64_t held_out_count;
    double validation_rate;
    int64_t validation_bytes;   // 0 = by rate
    int64_t shard_bytes;
    bool keep_duplicates;           // of training documents among each other
    bool validation_text;           // also writes validation.txt: the held-out documents laid end to end
    bool overwrite;                 // an existing dataset is replaced
    struct corpus_options corpus;   // with `stop`, which ends all of prepare
};

struct prepare_side {
    int64_t documents, tokens, bytes;
};

struct prepare_result {
    struct prepare_side train, validation;
    int64_t files, binary_files;
    int64_t empty, duplicates;   // documents dropped
    int64_t replaced;            // ill-formed UTF-8 sequences
    int64_t vocab_size;
};

// The defaults: everything but output, tokenizer and inputs.
struct prepare_options prepare_options_default(void);
int prepare_run(struct prepare_result *result, const struct prepare_options *options, struct pool *pool,
                struct error *error);

#endif
