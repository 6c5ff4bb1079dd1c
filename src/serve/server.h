// The server as the program sees it: a model behind OpenAI's HTTP API.
#ifndef MINKE_SERVE_SERVER_H
#define MINKE_SERVE_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "minke.h"

struct server;

struct server_options {
    const char *host;   // a numeric address, "127.0.0.1" or "::1"; or "localhost"
    int64_t port;       // 0 = any free one
    const char *name;   // of the model
    const char *model_directory;
    const char *api_key_file;   // NULL = no key is asked for
    const char *cors;           // NULL = none, "*", or an origin
    bool access_log, thinking, reuse_ids;
    int64_t http_threads;
    int64_t body_bytes, json_depth, header_bytes, connections;
    int64_t queue, n, max_tokens;   // of requests that wait; answers to one request; tokens of an answer (0 = context)
    double keep_alive_seconds, connection_seconds, request_seconds;   // request_seconds 0 = no limit
    struct minke_engine_options engine;
};
void server_defaults(struct server_options *options);

// Starts answering. Model and tokenizer are borrowed; nobody else may use the model until server_close.
int server_open(struct server **server, const struct server_options *options, struct minke_model *model,
                struct minke_tokenizer *tokenizer, struct error *error);
int64_t server_port(const struct server *server);
int64_t server_cache_tokens(struct server *server);
int64_t server_context(const struct server *server);
// Refuses new work with 503; what runs goes on.
void server_drain(struct server *server);
// Cancels what runs.
void server_cancel(struct server *server);
// Whether any call is being answered.
bool server_is_idle(struct server *server);
// Whether the engine has failed for good.
bool server_has_failed(struct server *server);
void server_close(struct server *server);   // cancels what still runs

#endif
