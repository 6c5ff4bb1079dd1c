// Clients of a server on this machine, for `minke bench serve`: one thread keeps many requests under way, each on a
// connection of its own, reads their streams, and notes when tokens arrive.
#ifndef MINKE_APP_BENCH_CLIENT_H
#define MINKE_APP_BENCH_CLIENT_H

#include <stdint.h>

#include "base/error.h"

struct client_options {
    int64_t port, clients, requests;   // requests in all; `clients` of them at a time
    int64_t prompt, shared, answer;    // tokens; of a prompt the first `shared` are the same for all
    int64_t vocab_size, seed;          // prompts are random ids
};

// Times in seconds. first: from connecting to the first event with text; next: between later ones.
struct client_times {
    double *values;
    int64_t count, capacity;
};
struct client_result {
    double seconds;
    int64_t prompt_tokens, cached_tokens, answer_tokens;   // as the server's usage says
    struct client_times first, next;
};

// Adds to *result, all zero before the first call. An answer that is no complete stream is an error.
int clients_run(struct client_result *result, const struct client_options *options, struct error *error);
void clients_free(struct client_result *result);

// The sums of the lists "drafted" and "accepted" of GET /engine.
int clients_read_drafts(int64_t *drafted, int64_t *accepted, int64_t port, struct error *error);

// Prompt number `request`; ids[prompt].
void client_prompt(int32_t *ids, const struct client_options *options, int64_t request);

#endif
