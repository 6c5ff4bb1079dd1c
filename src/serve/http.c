// See http.h. Threads: libmicrohttpd's pool calls on_request, on_body and on_completed; one exchange is never in two of
// them at once.
#include "serve/http.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "serve/api.h"
#include "serve/page.h"
#include "serve/server_private.h"

#define STREAM_BLOCK 16384
#define DISCARD_FACTOR 4   // a body that is too large is read so many times its limit before the connection is cut

// ---- Responses ------------------------------------------------------------------------------------------------------

static void add_header(struct MHD_Response *response, const char *name, const char *value) {
    if (MHD_add_response_header(response, name, value) != MHD_YES) {
        log_debug("header %s was not accepted", name);
    }
}

static void add_cors(const struct exchange *exchange, struct MHD_Response *response) {
    const char *allowed = exchange->server->options.cors;
    if (allowed == NULL) {
        return;
    }
    add_header(response, "Access-Control-Allow-Origin", allowed);
    add_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    add_header(response, "Access-Control-Allow-Headers", "authorization, content-type, *");
    add_header(response, "Access-Control-Max-Age", "86400");
    if (strcmp(allowed, "*") != 0) {
        add_header(response, "Vary", "Origin");
    }
}

static enum MHD_Result queue(struct exchange *exchange, struct MHD_Response *response, int status) {
    if (response == NULL) {
        return MHD_NO;
    }
    add_cors(exchange, response);
    if (status == 401) {
        add_header(response, "WWW-Authenticate", "Bearer");
    }
    if (status == 503) {
        add_header(response, "Retry-After", "1");
    }
    if (status == 413 || atomic_load(&exchange->server->draining)) {
        add_header(response, "Connection", "close");
    }
    exchange->status = status;
    exchange->queued = true;
    enum MHD_Result result = MHD_queue_response(exchange->connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result queue_text(struct exchange *exchange, struct text *body, const char *type, int status) {
    if (body->failed) {
        return MHD_NO;
    }
    exchange->sent = (int64_t)body->size;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        body->size, body->size > 0 ? body->data : (char *)(uintptr_t) "", MHD_RESPMEM_MUST_COPY);
    if (response != NULL && type != NULL) {
        add_header(response, "Content-Type", type);
    }
    return queue(exchange, response, status);
}

static enum MHD_Result queue_failure(struct exchange *exchange, const struct failure *failure) {
    struct text body = {0};
    failure_write(&body, failure);
    enum MHD_Result result = queue_text(exchange, &body, "application/json", failure->status);
    text_destroy(&body);
    return result;
}

// A file of the page: bytes in the program, with the page's own headers.
static enum MHD_Result queue_fixed(struct exchange *exchange) {
    exchange->sent = (int64_t)exchange->fixed_size;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        exchange->fixed_size, (void *)(uintptr_t)exchange->fixed, MHD_RESPMEM_PERSISTENT);
    if (response != NULL) {
        add_header(response, "Content-Type", exchange->content_type);
        add_header(response, "ETag", exchange->etag_text);
        for (int i = 0; i < PAGE_HEADERS; i++) {
            add_header(response, page_headers[i].name, page_headers[i].value);
        }
    }
    return queue(exchange, response, exchange->status);
}

bool http_matches(const struct exchange *exchange, const char *etag) {
    const char *wanted = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "If-None-Match");
    return wanted != NULL && strstr(wanted, etag) != NULL;
}

// ---- Calls ----------------------------------------------------------------------------------------------------------

static void note_output(struct call *call) {
    pthread_mutex_lock(&call->lock);
    call->last_output = clock_seconds();
    pthread_mutex_unlock(&call->lock);
}

// Gives libmicrohttpd the next bytes of an answer; suspends the connection while there are none.
static ssize_t read_answer(void *argument, uint64_t position, char *buffer, size_t capacity) {
    (void)position;
    struct exchange *exchange = argument;
    struct call *call = exchange->call;
    if (call_is_gone(call)) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (call->sent == call->output.size) {
        text_clear(&call->output);
        call->sent = 0;
        if (call->finished) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        call_collect(call);
        if (call->output.failed) {
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
    }
    size_t size = call->output.size - call->sent;
    if (size == 0) {
        if (call->finished) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        call_wait(call, exchange->connection);
        return 0;   // called again when something has come
    }
    size = size < capacity ? size : capacity;
    memcpy(buffer, call->output.data + call->sent, size);
    call->sent += size;
    exchange->sent += (int64_t)size;
    note_output(call);
    return (ssize_t)size;
}

static enum MHD_Result queue_stream(struct exchange *exchange, const char *type) {
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_answer,
                                                                      exchange, NULL);
    if (response != NULL) {
        add_header(response, "Content-Type", type);
        add_header(response, "Cache-Control", "no-cache");
        add_header(response, "X-Accel-Buffering", "no");   // or a proxy in front would collect the events
    }
    return queue(exchange, response, 200);
}

// A call that runs: its stream begins at once; a whole answer is waited for. When that takes long, the headers go out
// early, and line breaks in front of the JSON show that we are alive.
static enum MHD_Result continue_call(struct exchange *exchange) {
    struct call *call = exchange->call;
    if (call_is_gone(call)) {
        return MHD_NO;
    }
    if (call->generation.stream) {
        text_string(&call->output, ": keep-alive\n\n");
        return queue_stream(exchange, "text/event-stream; charset=utf-8");
    }
    if (call_wait(call, exchange->connection)) {
        return MHD_YES;
    }
    call_collect(call);
    if (!call->finished) {
        return queue_stream(exchange, "application/json");
    }
    return queue_text(exchange, &call->output, "application/json",
                      call->failure.status != 0 ? call->failure.status : 200);
}

// ---- Requests -------------------------------------------------------------------------------------------------------

static struct exchange *exchange_create(struct server *server, struct MHD_Connection *connection, const char *path) {
    struct exchange *exchange = memory_allocate(1, sizeof *exchange, "request", NULL);
    if (exchange == NULL) {
        return NULL;
    }
    exchange->server = server;
    exchange->connection = connection;
    exchange->path = path;
    exchange->started = clock_seconds();
    exchange->descriptor = -1;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info != NULL) {
        exchange->descriptor = info->connect_fd;
    }
    return exchange;
}

static void check_access(struct exchange *exchange, const char *method) {
    struct server *server = exchange->server;
    char allowed[64];
    if (strcmp(method, "OPTIONS") == 0 && server->options.cors != NULL) {
        exchange->status = 204;   // the browser asks before it asks
        return;
    }
    exchange->route = route_find(method, exchange->path, allowed, &exchange->failure);
    if (exchange->route != NULL && !exchange->route->open &&
        !api_keys_accept(&server->keys,
                         MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "Authorization"))) {
        failure_set(&exchange->failure, 401, "invalid_api_key", NULL,
                    "expected an API key as \"Authorization: Bearer KEY\"");
    }
}

static void append_body(struct exchange *exchange, const char *data, size_t size) {
    int64_t limit = exchange->server->options.body_bytes;
    if (exchange->failure.status != 0) {
        exchange->sent += (int64_t)size;   // only counted
        return;
    }
    if ((int64_t)(exchange->body.size + size) > limit) {
        failure_set(&exchange->failure, 413, NULL, NULL, "the body: expected at most %" PRId64 " bytes", limit);
        text_destroy(&exchange->body);
        return;
    }
    text_append(&exchange->body, data, size);
    if (exchange->body.failed) {
        failure_set(&exchange->failure, 500, NULL, NULL, "out of memory");
    }
}

static enum MHD_Result respond(struct exchange *exchange) {
    if (exchange->failure.status == 0 && exchange->status != 204) {
        if (exchange->route->generates && atomic_load(&exchange->server->draining)) {
            failure_set(&exchange->failure, 503, "shutting_down", NULL, "the server is shutting down");
        } else {
            exchange->route->handle(exchange);
        }
        text_destroy(&exchange->body);
    }
    if (exchange->failure.status != 0) {
        return queue_failure(exchange, &exchange->failure);
    }
    if (exchange->call != NULL) {
        monitor_add(exchange);
        return continue_call(exchange);
    }
    if (exchange->fixed != NULL) {
        return queue_fixed(exchange);
    }
    return queue_text(exchange, &exchange->reply, exchange->content_type, exchange->status);
}

// Whether the request announces a body that is too large even to be read and thrown away: the refusal then goes out
// before it, and the connection is closed.
static bool announces_too_much(struct exchange *exchange) {
    int64_t limit = exchange->server->options.body_bytes;
    const char *text = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "Content-Length");
    if (text == NULL || strtoull(text, NULL, 10) <= (uint64_t)(DISCARD_FACTOR * limit)) {
        return false;
    }
    failure_set(&exchange->failure, 413, NULL, NULL, "the body: expected at most %" PRId64 " bytes, found %.20s", limit,
                text);
    return true;
}

static enum MHD_Result on_request(void *argument, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data, size_t *size,
                                  void **state) {
    (void)version;
    struct exchange *exchange = *state;
    if (exchange == NULL) {
        exchange = exchange_create(argument, connection, path);
        *state = exchange;
        if (exchange == NULL) {
            return MHD_NO;
        }
        check_access(exchange, method);
        return announces_too_much(exchange) ? respond(exchange) : MHD_YES;
    }
    if (*size > 0) {
        const struct server_options *options = &exchange->server->options;
        append_body(exchange, data, *size);
        *size = 0;
        // A body that comes byte by byte never looks idle: it has a time for the whole of it.
        bool late = clock_seconds() - exchange->started > options->connection_seconds;
        return !late && exchange->sent <= DISCARD_FACTOR * options->body_bytes ? MHD_YES : MHD_NO;
    }
    exchange->sent = 0;
    return exchange->call != NULL ? continue_call(exchange) : respond(exchange);
}

static void log_access(const struct exchange *exchange) {
    char peer[INET6_ADDRSTRLEN] = "-";
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(exchange->connection,
                                                                   MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info != NULL && info->client_addr->sa_family == AF_INET) {
        struct sockaddr_in address;
        memcpy(&address, info->client_addr, sizeof address);
        inet_ntop(AF_INET, &address.sin_addr, peer, sizeof peer);
    } else if (info != NULL && info->client_addr->sa_family == AF_INET6) {
        struct sockaddr_in6 address;
        memcpy(&address, info->client_addr, sizeof address);
        inet_ntop(AF_INET6, &address.sin6_addr, peer, sizeof peer);
    }
    int64_t prompt = 0, answer = 0;
    for (int64_t i = 0; exchange->call != NULL && i < exchange->call->choice_count; i++) {
        pthread_mutex_lock(&exchange->call->lock);
        prompt += exchange->call->choices[i].prompt_tokens;
        answer += exchange->call->choices[i].answer_tokens;
        pthread_mutex_unlock(&exchange->call->lock);
    }
    log_info("%s %s %d %" PRId64 " bytes %.3f s, %" PRId64 " + %" PRId64 " tokens%s%s", peer,
             exchange->route != NULL ? exchange->route->path : "(no route)", exchange->status, exchange->sent,
             clock_seconds() - exchange->started, prompt, answer, exchange->failure.message[0] != '\0' ? ": " : "",
             exchange->failure.message);
}

static void on_completed(void *argument, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code) {
    (void)connection;
    struct server *server = argument;
    struct exchange *exchange = *state;
    if (exchange == NULL) {
        return;
    }
    *state = NULL;
    monitor_remove(exchange);
    server_metrics_count_response(&server->metrics, exchange->route != NULL ? exchange->route->path : "(none)",
                                  exchange->status);
    if (exchange->call != NULL && code != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
        server_metrics_count_disconnect(&server->metrics);
    }
    if (server->options.access_log) {
        log_access(exchange);
    }
    if (exchange->call != NULL) {
        call_abandon(exchange->call);
    }
    text_destroy(&exchange->body);
    text_destroy(&exchange->reply);
    memory_free(exchange);
}

// ---- The daemon -----------------------------------------------------------------------------------------------------

static void on_log(void *argument, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));
static void on_log(void *argument, const char *format, va_list arguments) {
    (void)argument;
    char text[512];
    vsnprintf(text, sizeof text, format, arguments);
    text[strcspn(text, "\r\n")] = '\0';
    log_debug("http: %s", text);   // clients cause these: never louder
}

static int parse_address(struct sockaddr_storage *address, const char *host, int64_t port, struct error *error) {
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    const char *name = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, name, &four.sin_addr) == 1) {
        memcpy(address, &four, sizeof four);
    } else if (inet_pton(AF_INET6, name, &six.sin6_addr) == 1) {
        memcpy(address, &six, sizeof six);
    } else {
        return error_set(error, ERROR_ARGUMENT,
                         "host \"%s\": expected a numeric address such as 127.0.0.1, 0.0.0.0 or ::1", host);
    }
    return 0;
}

int http_start(struct server *server, struct error *error) {
    const struct server_options *options = &server->options;
    struct sockaddr_storage address;
    if (parse_address(&address, options->host, options->port, error) != 0) {
        return error->code;
    }
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (address.ss_family == AF_INET6) {
        flags |= MHD_USE_IPv6;
    }
    // The header limit is what a connection may hold in memory: headers, and a buffer for what is sent.
    const struct MHD_OptionItem items[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_log, NULL},
        {MHD_OPTION_SOCK_ADDR, 0, &address},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, server},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)(options->header_bytes + 2 * STREAM_BLOCK), NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)options->connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)options->connection_seconds, NULL},
        {MHD_OPTION_LISTENING_ADDRESS_REUSE, 1, NULL},
        {MHD_OPTION_LISTEN_BACKLOG_SIZE, 1024, NULL},
        {options->http_threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)options->http_threads,
         NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    server->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, server, MHD_OPTION_ARRAY, items,
                                      MHD_OPTION_END);
    if (server->daemon == NULL) {
        return error_set_errno(error, "cannot listen on %s port %" PRId64, options->host, options->port);
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_BIND_PORT);
    server->port = info != NULL ? info->port : options->port;
    return 0;
}

void http_stop(struct server *server) {
    if (server->daemon != NULL) {
        MHD_stop_daemon(server->daemon);
        server->daemon = NULL;
    }
}
