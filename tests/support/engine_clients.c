// See engine_clients.h.
#include "support/engine_clients.h"

#include "support/test.h"

#include <string.h>

#include "base/rng.h"

static int on_event(void *argument, const struct minke_event *event) {
    struct client *client = argument;
    struct transcript *t = &client->transcript;
    assert_false(client->finished);
    assert_int_equal(event->request, client->number);
    switch (event->kind) {
    case MINKE_EVENT_PROMPT:
        assert_int_equal(event->index, t->prompt_count);
        assert_int_equal(event->id, client->prompt[event->index]);
        t->prompt_log_probability[t->prompt_count] = event->log_probability;
        memcpy(t->prompt_top[t->prompt_count], event->top, (size_t)event->top_count * sizeof *event->top);
        t->prompt_count++;
        return 0;
    case MINKE_EVENT_TOKEN:
        assert_int_equal(event->index, t->answer_count);
        assert_int_equal(event->top_count, client->request.log_probabilities);
        t->answer[t->answer_count] = event->id;
        t->log_probability[t->answer_count] = event->log_probability;
        memcpy(t->top[t->answer_count], event->top, (size_t)event->top_count * sizeof *event->top);
        t->answer_count++;
        return client->stop_after > 0 && t->answer_count == client->stop_after;
    default:
        client->finished = true;
        t->finish = event->finish;
        client->cached = event->cached_tokens;
        client->drafted = event->drafted_tokens;
        client->accepted = event->accepted_tokens;
        assert_int_equal(event->answer_tokens, t->answer_count);
        return 0;
    }
}

void make_clients(struct client *clients, int64_t count, const struct fixture *fixture) {
    memset(clients, 0, (size_t)count * sizeof *clients);
    for (int64_t c = 0; c < count; c++) {
        struct client *client = &clients[c];
        int64_t length = 1 + (c * 37) % MAX_PROMPT;
        for (int64_t i = 0; i < length; i++) {
            uint64_t stream = i < 130 ? (uint64_t)(c % 3) : (uint64_t)c;   // three beginnings
            client->prompt[i] = (int32_t)rng_below(5, stream, (uint64_t)i, (uint64_t)fixture->model.config.vocab_size);
        }
        client->request = (struct minke_request){
            .ids = client->prompt,
            .count = length,
            .max_tokens = c % 6 == 4 ? 140 : 1 + (c * 11) % 40,
            .sampling = {.top_p = 1},
            .log_probabilities = c % 4 == 0 ? TOP : 0,
            .prompt_log_probabilities = c % 5 == 2,
            .ignore_end = 1,
            .callback = on_event,
            .argument = client,
        };
        struct minke_sampling *sampling = &client->request.sampling;
        if (c % 2 == 1) {
            *sampling = (struct minke_sampling){
                .temperature = 0.8f, .top_p = c % 3 == 0 ? 0.9f : 1.0f, .seed = (uint64_t)c, .choice = c % 7};
            sampling->top_k = c % 3 == 1 ? 7 : 0;
            sampling->min_p = c % 5 == 1 ? 0.05f : 0;
            sampling->frequency_penalty = c % 7 == 3 ? 0.5f : 0;
            sampling->repetition_penalty = c % 9 == 5 ? 1.2f : 0;
        }
    }
}

void make_client(struct client *client, const struct fixture *fixture, int64_t length, uint64_t stream,
                 int64_t answer) {
    *client = (struct client){0};
    for (int64_t i = 0; i < length; i++) {
        client->prompt[i] = (int32_t)rng_below(6, stream, (uint64_t)i, (uint64_t)fixture->model.config.vocab_size);
    }
    client->request = (struct minke_request){.ids = client->prompt,
                                             .count = length,
                                             .max_tokens = answer,
                                             .sampling = {.top_p = 1},
                                             .ignore_end = 1,
                                             .callback = on_event,
                                             .argument = client};
}

struct engine_options default_options(void) {
    return (struct engine_options){.context = CONTEXT,
                                   .cache_tokens = 64 * CONTEXT,
                                   .batch = 32,
                                   .chunk = 512,
                                   .form = SESSION_ABSORBED,
                                   .prefix_cache = true,
                                   .drafts = DRAFTS_NEVER};
}

struct engine *open_engine(struct fixture *fixture, const struct engine_options *options) {
    struct engine *engine;
    struct error error = {0};
    assert_int_equal(engine_create(&engine, &fixture->model, &fixture->op, options, &error), 0);
    return engine;
}

void submit_client(struct engine *engine, struct client *client) {
    struct error error = {0};
    assert_int_equal(engine_submit(&client->number, engine, &client->request, &error), 0);
}

void run_engine(struct engine *engine) {
    struct error error = {0};
    for (int64_t step = 0; engine_step(engine, &error) != 0; step++) {
        assert_int_equal(error.code, 0);
        assert_true(step < 20000);
    }
}

void open_engine_fixture(struct fixture *fixture, const char *name, int threads) {
    struct fixture_options options = {
        .compute = FORMAT_BF16, .weights = FORMAT_BF16, .threads = threads, .isa = ISA_BEST};
    fixture_open(fixture, name, &options);
    model_prepare(&fixture->model, CONTEXT, &fixture->arena);
}
