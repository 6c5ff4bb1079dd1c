// Logits -> one token id. The noise is a function of (seed, position) alone, so a sampled text does not depend on
// batching, drafting or how often a position was computed.
#ifndef MINKE_INFER_SAMPLER_H
#define MINKE_INFER_SAMPLER_H

#include <stdint.h>

#include "base/error.h"

struct sampling {
    float temperature;   // <= 0: greedy
    float top_p;         // >= 1: off; else the smallest set of likeliest tokens whose probability reaches top_p
    uint64_t seed;
};

struct sampler {   // candidates of one choice, vocab_size entries
    float *probability;
    int32_t *id;
    int64_t vocab_size;
};
int sampler_create(struct sampler *sampler, int64_t vocab_size, struct error *error);
void sampler_destroy(struct sampler *sampler);

// The largest logit, ties to the lowest id; NaN never wins. 0 if every logit is NaN.
int32_t sampler_argmax(const float *logits, int64_t vocab_size);
int32_t sampler_choose(struct sampler *sampler, const float *logits, const struct sampling *sampling, int64_t position);

#endif
