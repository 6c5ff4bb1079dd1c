// What chat and text completions have in common: the fields that say how to sample, how much, when to stop, and what to
// report. JSON in -> struct generation out, or a failure that names the field.
#ifndef MINKE_SERVE_GENERATION_H
#define MINKE_SERVE_GENERATION_H

#include <jansson.h>

#include "minke.h"
#include "serve/failure.h"
#include "serve/stop.h"

#define TOP_LOG_PROBABILITIES_MAX 20
#define LOGIT_BIAS_MAX 1024

struct generation {
    struct minke_sampling sampling;   // logit_bias points at `bias`
    struct minke_logit_bias *bias;    // owned
    struct stop_list stop;
    int64_t n;
    int64_t max_tokens;   // -1 = as many as the context holds
    bool stream, include_usage, ignore_end;
    bool log_probabilities;   // report those of the tokens chosen,
    int64_t top;              // and of so many of the likeliest
};
struct generation_limits {
    int64_t n, max_tokens, vocab_size;
};
// `defaults`: what the model's authors recommend. The seed is a random one unless the client gives one. Log
// probabilities are not read here: the two APIs spell them differently.
int generation_parse(struct generation *generation, const json_t *body, const struct minke_sampling *defaults,
                     const struct generation_limits *limits, struct failure *failure);
void generation_destroy(struct generation *generation);

#endif
