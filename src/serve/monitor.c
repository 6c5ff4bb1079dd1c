// The monitor thread. libmicrohttpd does not look at a suspended connection, so nobody but us notices that its client
// has hung up. Several times a second the monitor looks at the sockets of all exchanges that wait for an answer.
//
// An exchange is in the list from the submission of its call until it is completed, which comes before its socket is
// closed: under the list's lock the descriptors are those of our clients.
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include "base/log.h"
#include "serve/api.h"
#include "serve/http.h"
#include "serve/server_private.h"

#define TICK_MILLISECONDS 100

// A client that has closed its side of the connection does not wait for an answer.
static bool has_left(int descriptor) {
    struct pollfd look = {.fd = descriptor, .events = POLLRDHUP};
    return descriptor >= 0 && poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

static void look_at(struct server *server, struct exchange *exchange, double now, bool engine_failed) {
    const struct server_options *options = &server->options;
    bool late = options->request_seconds > 0 && now - exchange->started > options->request_seconds;
    if (call_is_gone(exchange->call) || call_is_done(exchange->call)) {
        return;
    }
    if (has_left(exchange->descriptor)) {
        call_disconnect(exchange->call);
    } else if (engine_failed) {
        call_fail(exchange->call);
    } else if (late) {
        call_cancel(exchange->call);
    } else {
        call_keep_alive(exchange->call, options->keep_alive_seconds);
    }
}

static void *monitor_main(void *argument) {
    struct server *server = argument;
    pthread_mutex_lock(&server->lock);
    while (!server->closing) {
        if (server->first == NULL) {
            pthread_cond_wait(&server->changed, &server->lock);
            continue;
        }
        double now = clock_seconds();
        bool failed = worker_has_failed(&server->worker, NULL);
        for (struct exchange *exchange = server->first; exchange != NULL; exchange = exchange->next) {
            look_at(server, exchange, now, failed);
        }
        pthread_mutex_unlock(&server->lock);
        nanosleep(&(struct timespec){.tv_nsec = TICK_MILLISECONDS * 1000000L}, NULL);
        pthread_mutex_lock(&server->lock);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

int monitor_start(struct server *server, struct error *error) {
    if (pthread_create(&server->monitor, NULL, monitor_main, server) != 0) {
        return error_set(error, ERROR_IO, "server: cannot start the monitor thread");
    }
    server->monitor_runs = true;
    return 0;
}

void monitor_stop(struct server *server) {
    if (!server->monitor_runs) {
        return;
    }
    pthread_mutex_lock(&server->lock);
    server->closing = true;
    pthread_cond_signal(&server->changed);
    pthread_mutex_unlock(&server->lock);
    pthread_join(server->monitor, NULL);
    server->monitor_runs = false;
}

void monitor_add(struct exchange *exchange) {
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    exchange->next = server->first;
    exchange->previous = NULL;
    if (server->first != NULL) {
        server->first->previous = exchange;
    }
    server->first = exchange;
    exchange->listed = true;
    server->live_calls++;
    pthread_cond_signal(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

void monitor_remove(struct exchange *exchange) {
    struct server *server = exchange->server;
    if (!exchange->listed) {
        return;
    }
    pthread_mutex_lock(&server->lock);
    if (exchange->previous != NULL) {
        exchange->previous->next = exchange->next;
    } else {
        server->first = exchange->next;
    }
    if (exchange->next != NULL) {
        exchange->next->previous = exchange->previous;
    }
    server->live_calls--;
    pthread_mutex_unlock(&server->lock);
}
