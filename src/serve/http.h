// HTTP on libmicrohttpd: connections, bodies, limits, keys, CORS, responses and streams. What a request means is
// decided by its route's handler.
#ifndef MINKE_SERVE_HTTP_H
#define MINKE_SERVE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "serve/call.h"
#include "serve/failure.h"
#include "serve/text.h"

struct route;

// One request and its response; made with the first header, freed when the response has been sent or the client has
// left.
struct exchange {
    struct server *server;
    struct MHD_Connection *connection;
    const struct route *route;   // NULL until found
    const char *path;            // of the request; lives as long as the exchange
    struct text body;            // of the request
    bool body_too_large;
    struct failure failure;

    // What a handler leaves behind: a reply, a failure, or a call that runs.
    int status;   // of the reply
    const char *content_type;
    struct text reply;
    const void *fixed;   // or a reply that lies in the program (page.h)
    size_t fixed_size;
    const char *etag;   // literal or part of the exchange
    char etag_text[24];
    struct call *call;

    bool queued, listed;
    int descriptor;
    double started;
    int64_t sent;
    struct exchange *next, *previous;   // in the server's list
};

// Starts and stops the listening daemon.
struct error;
int http_start(struct server *server, struct error *error);
void http_stop(struct server *server);
// Whether the request's If-None-Match names `etag`.
bool http_matches(const struct exchange *exchange, const char *etag);

// The monitor thread: notices clients that have left, asks for signs of life, ends calls that take too long.
int monitor_start(struct server *server, struct error *error);
void monitor_stop(struct server *server);
void monitor_add(struct exchange *exchange);
void monitor_remove(struct exchange *exchange);

#endif
