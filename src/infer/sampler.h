// Logits -> one token id. The noise is a function of (seed, choice, position) alone, so a sampled text does not depend
// on batching, drafting or how often a position was computed.
#ifndef MINKE_INFER_SAMPLER_H
#define MINKE_INFER_SAMPLER_H

#include <stdint.h>

#include "base/error.h"
#include "minke.h"
#include "op/ops.h"

struct sampler {   // working memory of one thread, vocab_size entries each
    float *probability, *scratch;
    int32_t *id;
    int32_t *generated, *seen;   // occurrences while penalties are applied; zero in between
    uint64_t *allowed;           // bits, for filters
    int64_t vocab_size;
};
int sampler_create(struct sampler *sampler, int64_t vocab_size, struct error *error);
void sampler_destroy(struct sampler *sampler);

// The text before the token that is chosen: ids[0 .. prompt_count) were given, ids[prompt_count .. count) generated.
// The token's position is `count`.
struct sampler_text {
    const int32_t *ids;
    int64_t prompt_count, count;
};

// The largest logit, ties to the lowest id; NaN never wins. 0 if every logit is NaN.
int32_t sampler_argmax(const struct op_context *op, const float *logits, int64_t vocab_size);
// The order is that of struct minke_sampling. `text` may be without ids when no penalty is set; `filter` may be NULL.
// -1 if nothing is allowed. Runs on the calling thread.
int32_t sampler_choose(struct sampler *sampler, const struct op_context *op, const float *logits,
                       const struct minke_sampling *sampling, const struct sampler_text *text,
                       const struct minke_token_filter *filter);

// What an answer reports of a row of logits: log p(id) of the model itself, with the bits of op_cross_entropy.
struct row_probabilities {
    float maximum, log_sum;
};
struct row_probabilities row_probabilities(const struct op_context *op, const float *logits, int64_t vocab_size);
float row_log_probability(const struct row_probabilities *row, const float *logits, int32_t id);
// The `count` likeliest tokens, likeliest first, ties to the lowest id; returns how many there are.
int64_t row_likeliest(struct minke_token_probability *top, int64_t count, const struct row_probabilities *row,
                      const float *logits, int64_t vocab_size);

#endif
