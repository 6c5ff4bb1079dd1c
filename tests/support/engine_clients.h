// Requests with a transcript of everything they were told, for the tests of engines.
#ifndef MINKE_TESTS_SUPPORT_ENGINE_CLIENTS_H
#define MINKE_TESTS_SUPPORT_ENGINE_CLIENTS_H

#include "infer/engine.h"
#include "support/model_fixture.h"

#define CONTEXT 320
#define TOP 3
#define MAX_PROMPT 200
#define MAX_ANSWER 150

struct transcript {   // compared byte for byte
    int64_t prompt_count, answer_count;
    int32_t answer[MAX_ANSWER];
    float prompt_log_probability[MAX_PROMPT], log_probability[MAX_ANSWER];
    struct minke_token_probability top[MAX_ANSWER][TOP], prompt_top[MAX_PROMPT][TOP];
    enum minke_finish finish;
};

struct client {
    struct transcript transcript;
    int32_t prompt[MAX_PROMPT];
    struct minke_request request;
    int64_t number, stop_after;   // stop_after 0: never
    int64_t cached, drafted, accepted;
    bool finished;
};

// Requests of all kinds; many share the beginning of their prompt with others.
void make_clients(struct client *clients, int64_t count, const struct fixture *fixture);
// A greedy request of `length` tokens of the stream for `answer` tokens.
void make_client(struct client *client, const struct fixture *fixture, int64_t length, uint64_t stream, int64_t answer);
struct engine_options default_options(void);
struct engine *open_engine(struct fixture *fixture, const struct engine_options *options);
void submit_client(struct engine *engine, struct client *client);
void run_engine(struct engine *engine);   // until nothing is left
void open_engine_fixture(struct fixture *fixture, const char *name, int threads);

#endif
