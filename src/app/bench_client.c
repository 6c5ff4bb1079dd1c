// See bench_client.h. A stream is read byte by byte through two layers: the chunks of HTTP, and the lines of the event
// stream; only the last event, which holds the usage, is parsed as JSON.
#include "app/bench_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"

#define HEAD_BYTES 8192
#define LINE_BYTES 16384   // of an event; longer ones are cut, which no token makes
#define ID_BYTES 12        // of an id in JSON, with its comma
#define REQUEST_BYTES 512
#define SILENCE_MS 120000   // a server that says nothing for so long is stuck

enum phase { PHASE_HEAD, PHASE_SIZE, PHASE_DATA, PHASE_DATA_END, PHASE_TRAILER, PHASE_COMPLETE };

struct stream {
    int handle;   // -1: none
    enum phase phase;
    char head[HEAD_BYTES], line[LINE_BYTES];
    size_t head_size, line_size;
    uint64_t chunk;    // bytes left of it, or its size so far
    bool size_ended;   // of the size line only what is behind the number is left
    double began, last;
    bool done;                                             // [DONE] was seen
    int64_t prompt_tokens, cached_tokens, answer_tokens;   // -1: no usage yet
};

struct team {
    const struct client_options *options;
    struct client_result *result;
    struct stream *streams;
    struct pollfd *polls;
    int32_t *ids;
    char *text;   // of a request
    size_t text_bytes;
};

// ---- Requests -------------------------------------------------------------------------------------------------------

void client_prompt(int32_t *ids, const struct client_options *options, int64_t request) {
    for (int64_t i = 0; i < options->prompt; i++) {
        uint64_t stream = i < options->shared ? 0 : (uint64_t)request + 1;
        ids[i] = (int32_t)rng_below((uint64_t)options->seed, stream, (uint64_t)i, (uint64_t)options->vocab_size);
    }
}

static int connect_to(int *handle, int64_t port, struct error *error) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*handle < 0 || connect(*handle, (struct sockaddr *)&address, sizeof address) != 0) {
        return error_set_errno(error, "client: port %" PRId64, port);
    }
    setsockopt(*handle, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return 0;
}

static int send_all(int handle, const char *data, size_t size, struct error *error) {
    while (size > 0) {
        ssize_t count = send(handle, data, size, MSG_NOSIGNAL);
        if (count <= 0) {
            return error_set_errno(error, "client: sending a request");
        }
        data += count;
        size -= (size_t)count;
    }
    return 0;
}

// Head and body stand in team->text, the head right before the body, which is written first.
static int send_request(struct team *team, struct stream *stream, int64_t request, struct error *error) {
    const struct client_options *options = team->options;
    char *body = team->text + REQUEST_BYTES, head[REQUEST_BYTES];
    size_t room = team->text_bytes - REQUEST_BYTES, at = 0;
    client_prompt(team->ids, options, request);
    at += (size_t)snprintf(body, room, "{\"prompt\":");
    for (int64_t i = 0; i < options->prompt; i++) {
        at += (size_t)snprintf(body + at, room - at, "%c%d", i == 0 ? '[' : ',', team->ids[i]);
    }
    at += (size_t)snprintf(body + at, room - at,
                           "],\"max_tokens\":%" PRId64 ",\"ignore_eos\":true,\"seed\":%" PRId64
                           ",\"temperature\":0.6,\"top_p\":0.95,\"stream\":true,"
                           "\"stream_options\":{\"include_usage\":true}}",
                           options->answer, request);
    int size = snprintf(head, sizeof head,
                        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                        at);
    memcpy(body - size, head, (size_t)size);
    return send_all(stream->handle, body - size, (size_t)size + at, error);
}

static int stream_start(struct team *team, struct stream *stream, int64_t request, struct error *error) {
    stream->phase = PHASE_HEAD;
    stream->head_size = stream->line_size = 0;
    stream->done = false;
    stream->answer_tokens = -1;
    stream->began = clock_seconds();
    stream->last = 0.0;
    int code = connect_to(&stream->handle, team->options->port, error);
    return code == 0 ? send_request(team, stream, request, error) : code;
}

// ---- Answers --------------------------------------------------------------------------------------------------------

static int add_time(struct client_times *times, double seconds, struct error *error) {
    if (times->count == times->capacity) {
        int64_t capacity = 2 * times->capacity + 1024;
        double *values = memory_resize(times->values, (size_t)capacity, sizeof *values, "times", error);
        if (values == NULL) {
            return ERROR_MEMORY;
        }
        times->values = values;
        times->capacity = capacity;
    }
    times->values[times->count++] = seconds;
    return 0;
}

static int read_usage(struct stream *stream, const char *text, struct error *error) {
    json_t *root = NULL;
    int code = json_parse(&root, text, strlen(text), "event", error);
    if (code == 0) {
        const json_t *usage = json_object_get(root, "usage");
        const json_t *details = json_object_get(usage, "prompt_tokens_details");
        stream->prompt_tokens = json_integer_value(json_object_get(usage, "prompt_tokens"));
        stream->answer_tokens = json_integer_value(json_object_get(usage, "completion_tokens"));
        stream->cached_tokens = json_integer_value(json_object_get(details, "cached_tokens"));
    }
    json_decref(root);
    return code;
}

// A whole line of the event stream, ended by a zero.
static int take_line(struct team *team, struct stream *stream, double now, struct error *error) {
    const char *line = stream->line;
    if (strncmp(line, "data: ", 6) != 0) {
        return 0;
    }
    if (strcmp(line + 6, "[DONE]") == 0) {
        stream->done = true;
        return 0;
    }
    if (strstr(line, "\"usage\":{") != NULL) {
        return read_usage(stream, line + 6, error);
    }
    if (strncmp(line + 6, "{\"error\"", 8) == 0) {
        return error_set(error, ERROR_STATE, "client: the server says %.200s", line + 6);
    }
    if (strstr(line, "\"text\":\"\"") != NULL) {
        return 0;   // the end, or a token that is not text yet
    }
    bool first = stream->last == 0.0;
    int code = add_time(first ? &team->result->first : &team->result->next,
                        now - (first ? stream->began : stream->last), error);
    stream->last = now;
    return code;
}

static int take_byte(struct team *team, struct stream *stream, char byte, double now, struct error *error) {
    if (byte != '\n') {
        if (stream->line_size + 1 < LINE_BYTES) {
            stream->line[stream->line_size++] = byte;
        }
        return 0;
    }
    stream->line[stream->line_size] = '\0';
    stream->line_size = 0;
    return take_line(team, stream, now, error);
}

static int take_head(struct stream *stream, char byte, struct error *error) {
    if (stream->head_size + 1 < HEAD_BYTES) {
        stream->head[stream->head_size++] = byte;
    }
    stream->head[stream->head_size] = '\0';
    if (stream->head_size < 4 || strcmp(stream->head + stream->head_size - 4, "\r\n\r\n") != 0) {
        return 0;
    }
    if (strncmp(stream->head, "HTTP/1.1 200", 12) != 0 || strstr(stream->head, "chunked") == NULL) {
        return error_set(error, ERROR_STATE, "client: expected a stream, found \"%.60s\"", stream->head);
    }
    stream->phase = PHASE_SIZE;
    stream->chunk = 0;
    stream->size_ended = false;
    return 0;
}

// A byte of the line that holds a chunk's size in hexadecimal digits.
static void take_size(struct stream *stream, char byte) {
    static const char digits[] = "0123456789abcdef";
    const char *digit = byte != '\0' ? strchr(digits, byte >= 'A' && byte <= 'F' ? byte - 'A' + 'a' : byte) : NULL;
    if (byte == '\n') {
        stream->phase = stream->chunk > 0 ? PHASE_DATA : PHASE_TRAILER;
    } else if (digit != NULL && !stream->size_ended) {
        stream->chunk = stream->chunk << 4 | (uint64_t)(digit - digits);
    } else {
        stream->size_ended = true;
    }
}

static int take_bytes(struct team *team, struct stream *stream, const char *data, ssize_t count, struct error *error) {
    double now = clock_seconds();
    int code = 0;
    for (ssize_t i = 0; i < count && code == 0; i++) {
        switch (stream->phase) {
        case PHASE_HEAD:
            code = take_head(stream, data[i], error);
            break;
        case PHASE_SIZE:
            take_size(stream, data[i]);
            break;
        case PHASE_DATA:
            code = take_byte(team, stream, data[i], now, error);
            stream->phase = --stream->chunk > 0 ? PHASE_DATA : PHASE_DATA_END;
            break;
        case PHASE_DATA_END:
            stream->phase = data[i] == '\n' ? PHASE_SIZE : PHASE_DATA_END;
            stream->size_ended = false;
            break;
        case PHASE_TRAILER:
            stream->phase = data[i] == '\n' ? PHASE_COMPLETE : PHASE_TRAILER;
            break;
        case PHASE_COMPLETE:
            break;
        }
    }
    return code;
}

// ---- Many of them ---------------------------------------------------------------------------------------------------

static int stream_finish(struct team *team, struct stream *stream, struct error *error) {
    close(stream->handle);
    stream->handle = -1;
    if (stream->phase != PHASE_COMPLETE || !stream->done || stream->answer_tokens < 0) {
        return error_set(error, ERROR_STATE, "client: a stream ended early%s%.60s", stream->head_size > 0 ? ": " : "",
                         stream->head_size > 0 ? stream->head : "");
    }
    team->result->prompt_tokens += stream->prompt_tokens;
    team->result->cached_tokens += stream->cached_tokens;
    team->result->answer_tokens += stream->answer_tokens;
    return 0;
}

// What has arrived for a stream; *ended: it is over.
static int stream_read(struct team *team, struct stream *stream, bool *ended, struct error *error) {
    char data[16384];
    ssize_t count = recv(stream->handle, data, sizeof data, MSG_DONTWAIT);
    *ended = count == 0;
    if (count > 0) {
        return take_bytes(team, stream, data, count, error);
    }
    if (count < 0 && errno != EAGAIN && errno != EINTR) {
        return error_set_errno(error, "client: reading an answer");
    }
    return count == 0 ? stream_finish(team, stream, error) : 0;
}

static int run_all(struct team *team, struct error *error) {
    const struct client_options *options = team->options;
    int64_t started = 0, ended = 0;
    int code = 0;
    for (int64_t c = 0; c < options->clients && code == 0 && started < options->requests; c++) {
        code = stream_start(team, &team->streams[c], started++, error);
    }
    while (ended < options->requests && code == 0) {
        for (int64_t c = 0; c < options->clients; c++) {
            team->polls[c] = (struct pollfd){.fd = team->streams[c].handle, .events = POLLIN};
        }
        int ready = poll(team->polls, (nfds_t)options->clients, SILENCE_MS);
        if (ready == 0) {
            code = error_set(error, ERROR_STATE, "client: %d seconds without a word from the server",
                             SILENCE_MS / 1000);
        }
        for (int64_t c = 0; c < options->clients && code == 0 && ready > 0; c++) {
            bool over = false;
            if (team->polls[c].revents != 0) {
                code = stream_read(team, &team->streams[c], &over, error);
            }
            ended += over;
            if (over && code == 0 && started < options->requests) {
                code = stream_start(team, &team->streams[c], started++, error);
            }
        }
    }
    return code;
}

int clients_run(struct client_result *result, const struct client_options *options, struct error *error) {
    struct team team = {.options = options, .result = result};
    size_t clients = (size_t)options->clients;
    team.text_bytes = 2 * REQUEST_BYTES + ID_BYTES * (size_t)options->prompt;
    team.streams = memory_allocate(clients, sizeof *team.streams, "clients", error);
    team.polls = memory_allocate(clients, sizeof *team.polls, "clients", error);
    team.ids = memory_allocate((size_t)options->prompt + 1, sizeof *team.ids, "clients", error);
    team.text = memory_allocate(team.text_bytes, 1, "clients", error);
    int code = ERROR_MEMORY;
    if (team.streams != NULL && team.polls != NULL && team.ids != NULL && team.text != NULL) {
        for (size_t c = 0; c < clients; c++) {
            team.streams[c].handle = -1;
        }
        double began = clock_seconds();
        code = run_all(&team, error);
        result->seconds += clock_seconds() - began;
        for (size_t c = 0; c < clients; c++) {
            if (team.streams[c].handle >= 0) {
                close(team.streams[c].handle);
            }
        }
    }
    memory_free(team.streams);
    memory_free(team.polls);
    memory_free(team.ids);
    memory_free(team.text);
    return code;
}

void clients_free(struct client_result *result) {
    memory_free(result->first.values);
    memory_free(result->next.values);
    *result = (struct client_result){0};
}

// ---- The server's counters ------------------------------------------------------------------------------------------

static int64_t sum_of(const json_t *list) {
    int64_t sum = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        sum += json_integer_value(json_array_get(list, i));
    }
    return sum;
}

int clients_read_drafts(int64_t *drafted, int64_t *accepted, int64_t port, struct error *error) {
    static const char request[] = "GET /engine HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    const size_t capacity = (size_t)4 << 20;
    char *answer = memory_allocate(capacity, 1, "answer", error);
    size_t size = 0;
    int handle = -1;
    int code = answer == NULL ? ERROR_MEMORY : connect_to(&handle, port, error);
    if (code == 0 && (code = send_all(handle, request, sizeof request - 1, error)) == 0) {
        ssize_t count;
        while ((count = recv(handle, answer + size, capacity - 1 - size, 0)) > 0) {
            size += (size_t)count;
        }
        answer[size] = '\0';
        const char *body = strstr(answer, "\r\n\r\n");
        json_t *root = NULL;
        code = body == NULL ? error_set(error, ERROR_STATE, "client: no answer from /engine")
                            : json_parse(&root, body + 4, strlen(body + 4), "/engine", error);
        *drafted = sum_of(json_object_get(root, "drafted"));
        *accepted = sum_of(json_object_get(root, "accepted"));
        json_decref(root);
    }
    if (handle >= 0) {
        close(handle);
    }
    memory_free(answer);
    return code;
}
