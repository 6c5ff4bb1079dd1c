// Whole bodies through the real endpoints, parsing to answer, with a small random model. Input: endpoint, style of the
// chat template, body. A refusal has a status and says why; an answer is well-formed JSON (a stream: events) with the
// parts that clients rely on, and a stream carries the same text as the whole answer to the same request. A request
// that is abandoned half-way leaves nothing behind.
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "fuzz/fuzz.h"
#include "fuzz/with_server.h"
#include "serve/api.h"

#define STEPS 5000

const bool fuzz_leaves_memory = true;   // caches of the engine, ids that are kept for reuse

static const char *const endpoints[][2] = {
    {"POST", "/v1/chat/completions"},
    {"POST", "/v1/completions"},
    {"POST", "/tokenize"},
    {"POST", "/detokenize"},
    {"GET", "/tokenizer_info"},
    {"GET", "/v1/models"},
    {"GET", "/v1/models/fuzz"},
    {"GET", "/health"},
    {"GET", "/metrics"},
    {"GET", "/engine"},
    {"POST", "/beta/completions"},
};
#define ENDPOINTS (sizeof endpoints / sizeof endpoints[0])

static struct server *servers[SERVER_STYLES];

void fuzz_open(void) {
    struct minke_model *model;
    struct minke_error error = {0};
    const struct minke_model_options options = {.threads = 1};
    CHECK(minke_model_open(&model, server_model(), &options, &error) == 0, "%s", error.text);
    for (int style = 0; style < SERVER_STYLES; style++) {
        servers[style] = server_make(model, (enum minke_chat_style)style);
    }
}

// ---- One exchange ---------------------------------------------------------------------------------------------------

struct result {
    int status;
    bool stream;
    struct text body;
};

static void step_engine(struct server *server) {
    struct minke_error error = {0};
    int64_t left = minke_engine_step(server->engine, &error);
    CHECK(left >= 0, "%s", error.text);
}

// Steps until the call is answered, or for `most` steps; then the client is gone.
static void run_call(struct result *result, struct exchange *exchange, int most) {
    struct call *call = exchange->call;
    result->stream = call->generation.stream;
    for (int step = 0; step < most && !call->finished; step++) {
        CHECK(step < STEPS, "no end");
        step_engine(exchange->server);
        if (call->generation.stream || call_is_done(call)) {   // as http.c does
            call_collect(call);
        }
    }
    if (call->finished) {
        result->status = call->failure.status != 0 && !result->stream ? call->failure.status : 200;
        text_append(&result->body, call->output.data, call->output.size);
        CHECK(!call->output.failed, "memory");
    }
    call_abandon(call);
    while (atomic_load(&exchange->server->active) > 0) {
        step_engine(exchange->server);
    }
}

static struct result ask(struct server *server, size_t endpoint, const char *body, size_t size, int most) {
    struct exchange exchange = {.server = server, .path = endpoints[endpoint][1]};
    struct result result = {0};
    char allowed[64];
    exchange.route = route_find(endpoints[endpoint][0], exchange.path, allowed, &exchange.failure);
    CHECK(exchange.route != NULL, "%s", exchange.failure.message);
    text_append(&exchange.body, body, size);
    exchange.route->handle(&exchange);
    if (exchange.failure.status != 0) {
        CHECK(exchange.failure.message[0] != '\0' && exchange.failure.status >= 400, "status %d",
              exchange.failure.status);
        CHECK(exchange.failure.status < 500 || endpoint >= 2 || exchange.failure.status == 503, "status %d: %s",
              exchange.failure.status, exchange.failure.message);
        result.status = exchange.failure.status;
        failure_write(&result.body, &exchange.failure);
        if (exchange.call != NULL) {
            call_abandon(exchange.call);
            while (atomic_load(&server->active) > 0) {
                step_engine(server);
            }
        }
    } else if (exchange.call != NULL) {
        run_call(&result, &exchange, most);
    } else {
        result.status = exchange.status;
        text_append(&result.body, exchange.reply.data, exchange.reply.size);
    }
    text_destroy(&exchange.body);
    text_destroy(&exchange.reply);
    return result;
}

// ---- What an answer says --------------------------------------------------------------------------------------------

struct said {
    struct text content, reasoning, calls, reasons;
};

static void add(struct text *text, const json_t *value) {
    if (json_is_string(value)) {
        text_append(text, json_string_value(value), json_string_length(value));
    }
}

// Choices come in turns in a stream: only those of the first one are kept.
static void read_choice(struct said *said, const json_t *choice) {
    const json_t *message = json_object_get(choice, "delta");
    message = message != NULL ? message : json_object_get(choice, "message");
    CHECK(json_is_integer(json_object_get(choice, "index")), "a choice without its index");
    if (json_integer_value(json_object_get(choice, "index")) != 0) {
        return;
    }
    add(&said->content, message != NULL ? json_object_get(message, "content") : json_object_get(choice, "text"));
    add(&said->reasoning, json_object_get(message, "reasoning_content"));
    add(&said->reasons, json_object_get(choice, "finish_reason"));
    const json_t *calls = json_object_get(message, "tool_calls");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = json_object_get(json_array_get(calls, i), "function");
        add(&said->calls, json_object_get(function, "name"));
        add(&said->calls, json_object_get(function, "arguments"));
    }
}

static void read_json(struct said *said, const char *text, size_t size) {
    json_t *root = json_loadb(text, size, JSON_ALLOW_NUL, NULL);
    CHECK(json_is_object(root), "no JSON object: %.*s", (int)size, text);
    const json_t *choices = json_object_get(root, "choices");
    CHECK(json_is_array(choices), "no choices: %.*s", (int)size, text);
    for (size_t i = 0; i < json_array_size(choices); i++) {
        read_choice(said, json_array_get(choices, i));
    }
    json_decref(root);
}

static void read_events(struct said *said, const struct text *body) {
    const char *at = body->data, *end = body->data + body->size;
    bool done = false;
    while (at < end) {
        const char *stop = memmem(at, (size_t)(end - at), "\n\n", 2);
        CHECK(stop != NULL && !done, "an event without its end, or behind the last");
        if (*at != ':') {
            CHECK(memcmp(at, "data: ", 6) == 0, "event %.*s", (int)(stop - at), at);
            done = stop - at == 12 && memcmp(at, "data: [DONE]", 12) == 0;
            if (!done) {
                read_json(said, at + 6, (size_t)(stop - at) - 6);
            }
        }
        at = stop + 2;
    }
    CHECK(done, "no [DONE]");
}

static void said_destroy(struct said *said) {
    text_destroy(&said->content);
    text_destroy(&said->reasoning);
    text_destroy(&said->calls);
    text_destroy(&said->reasons);
}

static bool same(const struct text *a, const struct text *b) {
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

// The same request, once as a stream and once whole.
static void check_both_ways(struct server *server, size_t endpoint, json_t *body) {
    struct said said[2] = {0};
    struct result results[2];
    for (int stream = 0; stream < 2; stream++) {
        json_object_set_new(body, "stream", json_boolean(stream));
        json_object_set_new(body, "seed", json_integer(1));
        if (!stream) {
            json_object_del(body, "stream_options");
        }
        char *text = json_dumps(body, JSON_COMPACT);
        CHECK(text != NULL, "memory");
        results[stream] = ask(server, endpoint, text, strlen(text), STEPS + 1);
        memory_free(text);
    }
    CHECK(results[0].status == results[1].status, "%d whole and %d as a stream: %s", results[0].status,
          results[1].status, results[0].body.data);
    if (results[0].status == 200) {
        read_json(&said[0], results[0].body.data, results[0].body.size);
        read_events(&said[1], &results[1].body);
        CHECK(same(&said[0].content, &said[1].content) && same(&said[0].reasoning, &said[1].reasoning) &&
                  same(&said[0].calls, &said[1].calls) && same(&said[0].reasons, &said[1].reasons),
              "%s\n%s", results[0].body.data, results[1].body.data);
    }
    for (int stream = 0; stream < 2; stream++) {
        said_destroy(&said[stream]);
        text_destroy(&results[stream].body);
    }
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    size_t endpoint = fuzz_take_byte(&input) % ENDPOINTS;
    uint8_t mode = fuzz_take_byte(&input);
    struct server *server = servers[mode % SERVER_STYLES];
    const char *text = input.size > 0 ? (const char *)input.data : "";
    // As it came: answered to the end, or abandoned after some steps.
    struct result result = ask(server, endpoint, text, input.size, mode >= 128 ? mode % 8 : STEPS + 1);
    bool json = result.status != 0 && !result.stream && endpoint != 8;
    json_t *root = json ? json_loadb(result.body.data, result.body.size, JSON_ALLOW_NUL, NULL) : NULL;
    CHECK(!json || json_is_object(root), "status %d: %s", result.status, result.body.data);
    json_decref(root);
    text_destroy(&result.body);
    json_t *body = endpoint < 2 ? json_loadb(text, input.size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (json_is_object(body)) {
        check_both_ways(server, endpoint, body);
    }
    json_decref(body);
    CHECK(atomic_load(&server->active) == 0, "a request is left");
}
