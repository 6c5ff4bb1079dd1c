// Creation, draining and end of the server. See server.h.
#include "serve/server.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "serve/http.h"
#include "serve/server_private.h"

#define CONFIG_BYTES ((int64_t)64 << 20)
#define END_TOKENS 16

void server_defaults(struct server_options *options) {
    *options = (struct server_options){
        .host = "127.0.0.1",
        .port = 8080,
        .access_log = true,
        .http_threads = 4,
        .body_bytes = (int64_t)16 << 20,
        .json_depth = 64,
        .header_bytes = 32768,
        .connections = 1000,
        .queue = 512,
        .n = 128,
        .keep_alive_seconds = 5,
        .connection_seconds = 60,
    };
}

static int read_tokenizer_config(struct server *server, struct error *error) {
    char *path = file_join(server->options.model_directory, "tokenizer_config.json", error);
    if (path == NULL) {
        return ERROR_MEMORY;
    }
    int code = 0;
    if (file_exists(path)) {
        code = json_read(&server->tokenizer_config, path, CONFIG_BYTES, error);
    } else {
        server->tokenizer_config = json_object();
    }
    if (code == 0 && !json_is_object(server->tokenizer_config)) {
        code = error_set(error, ERROR_FORMAT, "%s: expected an object", path);
    }
    memory_free(path);
    // As the tokenizer reads it: absent means that a tokenizer with such a token puts it in front.
    bool has_bos = minke_tokenizer_bos(server->tokenizer) >= 0;
    const json_t *add = code == 0 ? json_object_get(server->tokenizer_config, "add_bos_token") : NULL;
    server->add_bos = has_bos && !json_is_false(add);
    return code;
}

static int create_vocabulary(struct server *server, struct error *error) {
    int32_t ends[END_TOKENS];
    int64_t count = 0;
    for (int32_t id = 0; id < server->vocab_size && count < END_TOKENS; id++) {
        if (minke_model_is_end(server->model, id)) {
            ends[count++] = id;
        }
    }
    return token_vocabulary_create(&server->vocabulary, server->tokenizer, ends, count, error);
}

static int create_engine(struct server *server, struct error *error) {
    struct minke_error outer = {0};
    if (minke_engine_create(&server->engine, server->model, &server->options.engine, &outer) != 0) {
        return error_set(error, outer.code, "%s", outer.text);
    }
    int64_t limit = minke_model_context(server->model);
    server->context = server->options.engine.context;
    if (server->context == 0 || server->context > limit) {
        server->context = limit;
    }
    return 0;
}

int server_open(struct server **out, const struct server_options *options, struct minke_model *model,
                struct minke_tokenizer *tokenizer, struct error *error) {
    struct server *server = memory_allocate(1, sizeof *server, "server", error);
    *out = NULL;
    if (server == NULL) {
        return ERROR_MEMORY;
    }
    server->options = *options;
    server->model = model;
    server->tokenizer = tokenizer;
    server->sampling = minke_model_sampling(model);
    server->vocab_size = minke_model_vocab_size(model);
    server->chat_style = minke_tokenizer_chat_style(tokenizer);
    server->started = (int64_t)time(NULL);
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    server_metrics_init(&server->metrics);
    reuse_init(&server->reuse);
    int code = 0;
    if (getrandom(&server->id_seed, sizeof server->id_seed, 0) != (ssize_t)sizeof server->id_seed) {
        code = error_set_errno(error, "server: no random number");
    } else if (options->api_key_file != NULL) {
        code = api_keys_read(&server->keys, options->api_key_file, error);
    }
    if (code != 0 || (code = read_tokenizer_config(server, error)) != 0 ||
        (code = create_vocabulary(server, error)) != 0 || (code = create_engine(server, error)) != 0 ||
        (code = worker_start(&server->worker, server->engine, error)) != 0 ||
        (code = monitor_start(server, error)) != 0 || (code = http_start(server, error)) != 0) {
        server_close(server);
        return code;
    }
    *out = server;
    return 0;
}

int64_t server_port(const struct server *server) {
    return server->port;
}

int64_t server_context(const struct server *server) {
    return server->context;
}

int64_t server_cache_tokens(struct server *server) {
    struct worker_view view;
    worker_look(&view, &server->worker, NULL, 0);
    return view.stats.cache_tokens_total;
}

void server_drain(struct server *server) {
    atomic_store(&server->draining, true);
}

void server_cancel(struct server *server) {
    atomic_store(&server->draining, true);
    pthread_mutex_lock(&server->lock);
    for (struct exchange *exchange = server->first; exchange != NULL; exchange = exchange->next) {
        call_cancel(exchange->call);
    }
    pthread_mutex_unlock(&server->lock);
}

bool server_is_idle(struct server *server) {
    pthread_mutex_lock(&server->lock);
    bool idle = server->live_calls == 0;
    pthread_mutex_unlock(&server->lock);
    return idle;
}

bool server_has_failed(struct server *server) {
    return worker_has_failed(&server->worker, NULL);
}

// Until no connection is suspended any more: libmicrohttpd cannot stop before.
static void disconnect_all(struct server *server) {
    for (bool left = true; left;) {
        pthread_mutex_lock(&server->lock);
        for (struct exchange *exchange = server->first; exchange != NULL; exchange = exchange->next) {
            call_disconnect(exchange->call);
        }
        left = server->first != NULL;
        pthread_mutex_unlock(&server->lock);
        if (left) {
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        }
    }
}

void server_close(struct server *server) {
    if (server == NULL) {
        return;
    }
    server_drain(server);
    if (server->daemon != NULL) {
        disconnect_all(server);
    }
    http_stop(server);
    monitor_stop(server);
    worker_stop(&server->worker);
    minke_engine_close(server->engine);
    token_vocabulary_free(server->vocabulary);
    json_decref(server->tokenizer_config);
    api_keys_destroy(&server->keys);
    reuse_destroy(&server->reuse);
    server_metrics_destroy(&server->metrics);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    memory_free(server);
}
