// Load on a running `minke serve`: load PORT CLIENTS SECONDS
//
// First every good request is sent alone and its answer kept. Then CLIENTS threads send good requests, streams and
// whole answers, for SECONDS; every answer has to equal the one that was computed alone. Mixed in: clients that leave
// in the middle, clients that read slowly, and hostile requests, which must be refused and never bring the server
// down. Prints counts; exit status 1 if any answer was missing or wrong.
#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GOOD 24
#define ANSWER_SECONDS 300   // an answer that takes longer is lost

struct buffer {
    char *data;
    size_t size, capacity;
};

static void buffer_add(struct buffer *buffer, const char *data, size_t size) {
    if (buffer->size + size + 1 > buffer->capacity) {
        buffer->capacity = (buffer->size + size + 1) * 2;
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (buffer->data == NULL) {
            abort();
        }
    }
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    buffer->data[buffer->size] = '\0';
}

static int port;
static double start, deadline;
static char *bodies[GOOD], *answers[GOOD];
static bool chats[GOOD];
static atomic_int good_count, wrong_count, lost_count, left_count, hostile_count, unrefused_count, slow_count,
    busy_count;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static uint64_t next_random(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

// ---- HTTP -----------------------------------------------------------------------------------------------------------

static int open_connection(int receive_bytes) {
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval limit = {.tv_sec = ANSWER_SECONDS};
    setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (receive_bytes > 0) {
        setsockopt(handle, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    }
    if (connect(handle, (struct sockaddr *)&address, sizeof address) != 0) {
        close(handle);
        return -1;
    }
    return handle;
}

static bool send_all(int handle, const char *data, size_t size) {
    while (size > 0) {
        ssize_t count = send(handle, data, size, MSG_NOSIGNAL);
        if (count <= 0) {
            return false;
        }
        data += count;
        size -= (size_t)count;
    }
    return true;
}

// Announces `size` bytes of body and sends the first `sent` of them.
static bool send_request(int handle, const char *path, const char *body, size_t size, size_t sent) {
    char head[256];
    int length = snprintf(
        head, sizeof head,
        "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\n\r\n",
        path, size);
    return send_all(handle, head, (size_t)length) && send_all(handle, body, sent);
}

// The body in pieces of a few bytes, `pause` microseconds apart; 0 = at once.
static bool send_slowly(int handle, const char *path, const char *body, useconds_t pause) {
    size_t size = strlen(body), first = pause > 0 ? size / 2 : size;
    bool good = send_request(handle, path, body, size, first);
    for (size_t at = first; at < size && good; at += 7) {
        usleep(pause);
        good = send_all(handle, body + at, size - at < 7 ? size - at : 7);
    }
    return good;
}

// Reads until the server closes. `most` > 0: stops after so many bytes. `pause`: microseconds between small reads.
static void receive(struct buffer *out, int handle, size_t most, useconds_t pause) {
    char piece[4096];
    for (;;) {
        ssize_t count = recv(handle, piece, pause > 0 ? 64 : sizeof piece, 0);
        if (count <= 0) {
            return;
        }
        buffer_add(out, piece, (size_t)count);
        if (most > 0 && out->size >= most) {
            return;
        }
        if (pause > 0) {
            usleep(pause);
        }
    }
}

static int status_of(const struct buffer *response) {
    return response->size > 12 && memcmp(response->data, "HTTP/1.1 ", 9) == 0 ? atoi(response->data + 9) : 0;
}

// The body without its chunks; false if it is not complete.
static bool take_body(struct buffer *body, const struct buffer *response) {
    const char *head = response->data != NULL ? strstr(response->data, "\r\n\r\n") : NULL;
    if (head == NULL) {
        return false;
    }
    const char *at = head + 4, *end = response->data + response->size;
    const char *chunked = strstr(response->data, "Transfer-Encoding: chunked");
    if (chunked == NULL || chunked > head) {
        const char *length = strstr(response->data, "Content-Length: ");
        buffer_add(body, at, (size_t)(end - at));
        return length != NULL && length < head && strtoull(length + 16, NULL, 10) == body->size;
    }
    while (at < end) {
        char *rest;
        size_t size = strtoull(at, &rest, 16);
        at = rest + 2;
        if (size == 0) {
            return true;
        }
        if (at + size + 2 > end) {
            return false;
        }
        buffer_add(body, at, size);
        at += size + 2;
    }
    return false;
}

// ---- Answers --------------------------------------------------------------------------------------------------------

// What matters of an answer, the same for streams and whole answers: for every choice text, reason and logprobs.
static void add_choice(struct buffer *texts, const json_t *choice, char **reasons) {
    size_t index = (size_t)json_integer_value(json_object_get(choice, "index"));
    const json_t *message = json_object_get(choice, "delta");
    message = message != NULL ? message : json_object_get(choice, "message");
    const json_t *text = message != NULL ? json_object_get(message, "content") : json_object_get(choice, "text");
    const json_t *values = json_object_get(json_object_get(choice, "logprobs"), "token_logprobs");
    const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
    if (index >= 4) {
        return;
    }
    if (json_is_string(text)) {
        buffer_add(&texts[index], json_string_value(text), json_string_length(text));
    }
    for (size_t i = 0; i < json_array_size(values); i++) {
        char number[64];
        int length = snprintf(number, sizeof number, "[%.17g]", json_number_value(json_array_get(values, i)));
        buffer_add(&texts[4 + index], number, (size_t)length);
    }
    if (reason != NULL) {
        free(reasons[index]);
        reasons[index] = strdup(reason);
    }
}

static bool read_event(struct buffer *texts, char **reasons, const char *text, size_t size) {
    json_t *root = json_loadb(text, size, JSON_ALLOW_NUL, NULL);
    const json_t *choices = json_object_get(root, "choices");
    bool good = json_is_array(choices);
    for (size_t i = 0; i < json_array_size(choices); i++) {
        add_choice(texts, json_array_get(choices, i), reasons);
    }
    json_decref(root);
    return good;
}

// One line of text that says everything about an answer, or NULL if it is not a complete one.
static char *digest(const struct buffer *response) {
    struct buffer body = {0}, texts[8] = {0};
    char *reasons[4] = {0};
    bool good = status_of(response) == 200 && take_body(&body, response), done = false;
    bool stream = body.size > 0 && (body.data[0] == ':' || body.data[0] == 'd');
    if (good && stream) {
        char *rest = body.data, *line;
        while (good && (line = strsep(&rest, "\n")) != NULL) {
            if (strcmp(line, "data: [DONE]") == 0) {
                done = true;
            } else if (strncmp(line, "data: ", 6) == 0) {
                good = read_event(texts, reasons, line + 6, strlen(line + 6));
            }
        }
        good = good && done;
    } else if (good) {
        good = read_event(texts, reasons, body.data, body.size);
    }
    struct buffer out = {0};
    for (int i = 0; i < 8; i++) {
        buffer_add(&out, texts[i].data != NULL ? texts[i].data : "", texts[i].size);
        buffer_add(&out, "|", 1);
        free(texts[i].data);
    }
    for (int i = 0; i < 4; i++) {
        buffer_add(&out, reasons[i] != NULL ? reasons[i] : "-", strlen(reasons[i] != NULL ? reasons[i] : "-"));
        free(reasons[i]);
    }
    free(body.data);
    if (!good) {
        free(out.data);
        return NULL;
    }
    return out.data;
}

static const char *path_of(int number) {
    return chats[number] ? "/v1/chat/completions" : "/v1/completions";
}

// The same request as a stream or as a whole.
static char *with_stream(int number, bool stream) {
    struct buffer body = {0};
    buffer_add(&body, bodies[number], strlen(bodies[number]) - 1);
    buffer_add(&body, stream ? ",\"stream\":true}" : "}", stream ? 15 : 1);
    return body.data;
}

static void make_requests(void) {
    static const char *const words[] = {"The quick",    "brown fox", "Line 7:", "jumps over the lazy dog and then",
                                        "W\\u00f6rter", "12 times"};
    for (int i = 0; i < GOOD; i++) {
        char text[1024];
        chats[i] = i % 2 == 0;
        const char *word = words[i % 6];
        int at = chats[i] ? snprintf(text, sizeof text, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s %s\"}]",
                                     word, words[(i / 6) % 6])
                          : snprintf(text, sizeof text, "{\"prompt\":\"%s %s\"", word, words[(i / 6) % 6]);
        at += snprintf(text + at, sizeof text - (size_t)at, ",\"max_tokens\":%d,\"temperature\":%s,\"seed\":%d",
                       4 + i * 2, i % 3 == 0 ? "0" : "1.0", i);
        if (i % 5 == 1) {
            at += snprintf(text + at, sizeof text - (size_t)at, ",\"n\":2");
        }
        if (i % 4 == 3) {
            at += snprintf(text + at, sizeof text - (size_t)at, ",\"stop\":[\"e\",\"times; W\"]");
        }
        if (!chats[i] && i % 3 == 0) {
            at += snprintf(text + at, sizeof text - (size_t)at, ",\"logprobs\":2,\"echo\":true");
        }
        snprintf(text + at, sizeof text - (size_t)at, "}");
        bodies[i] = strdup(text);
    }
}

// ---- Clients --------------------------------------------------------------------------------------------------------

// `pause` > 0: microseconds between small pieces, sending and reading.
static char *ask(int *status, int number, bool stream, useconds_t pause) {
    struct buffer response = {0};
    char *body = with_stream(number, stream);
    int handle = open_connection(pause > 0 ? 2048 : 0);
    *status = 0;
    char *answer = NULL;
    if (handle >= 0 && send_slowly(handle, path_of(number), body, pause)) {
        receive(&response, handle, 0, pause);
        *status = status_of(&response);
        answer = digest(&response);
    }
    if (handle >= 0) {
        close(handle);
    }
    free(body);
    free(response.data);
    return answer;
}

static void good_client(uint64_t *random, useconds_t pause) {
    int number = (int)(next_random(random) % GOOD), status = 0;
    bool stream = next_random(random) % 4 != 0;
    char *answer = ask(&status, number, stream, pause);
    if (answer == NULL && status == 503) {
        atomic_fetch_add(&busy_count, 1);   // refused in the open: the client may try again
        usleep(20000);
    } else if (answer == NULL) {
        atomic_fetch_add(&lost_count, 1);
        usleep(200000);   // a server that is gone is not asked a thousand times a second
        fprintf(stderr, "load: after %.1f s no answer (status %d) to %s\n", now() - start, status, bodies[number]);
    } else if (strcmp(answer, answers[number]) != 0) {
        atomic_fetch_add(&wrong_count, 1);
        fprintf(stderr, "load: %s\n  alone: %s\n  now:   %s\n", bodies[number], answers[number], answer);
    } else {
        atomic_fetch_add(pause > 0 ? &slow_count : &good_count, 1);
    }
    free(answer);
}

// Leaves while the request is sent, while the answer is computed, or while it is read.
static void leaving_client(uint64_t *random) {
    int number = (int)(next_random(random) % GOOD);
    int handle = open_connection(0);
    char *body = with_stream(number, next_random(random) % 2 == 0);
    struct buffer response = {0};
    if (handle >= 0) {
        size_t size = strlen(body);
        switch (next_random(random) % 3) {
        case 0:
            send_request(handle, path_of(number), body, size / 2, size / 2);
            break;
        case 1:
            send_request(handle, path_of(number), body, size, size);
            usleep((useconds_t)(next_random(random) % 30000));
            break;
        default:
            send_request(handle, path_of(number), body, size, size);
            receive(&response, handle, 300, 0);
        }
        if (next_random(random) % 2 == 0) {
            struct linger reset = {.l_onoff = 1};
            setsockopt(handle, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        close(handle);
    }
    free(body);
    free(response.data);
    atomic_fetch_add(&left_count, 1);
}

static void hostile_deep(struct buffer *out) {
    buffer_add(out, "{\"prompt\":", 10);
    for (int i = 0; i < 100000; i++) {
        buffer_add(out, "[", 1);
    }
}

// Patterns that would take for ever, or for ever grow, if they were taken as they are.
static void hostile_schema(struct buffer *out, uint64_t which) {
    static const char head[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{\"type\":\"json_schema\","
        "\"json_schema\":{\"name\":\"x\",\"schema\":";
    static const char *const schemas[] = {
        "{\"type\":\"string\",\"pattern\":\"((a+)+)+$(?=b)\"}",
        "{\"type\":\"string\",\"pattern\":\"^(((a{1,9999}){1,9999}){1,9999}){1,9999}$\"}",
        "{\"type\":\"string\",\"pattern\":\"^(.*a.{30}|.*b.{30}){30}$\"}",
        "{\"type\":\"string\",\"pattern\":\"((((((((((\"}",
        "{\"type\":\"string\",\"minLength\":1000000000,\"maxLength\":2000000000}",
        "{\"type\":\"array\",\"items\":{},\"minItems\":1000000000}",
        "{\"$ref\":\"#\"}",
        "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}}}",
    };
    const char *schema = schemas[which % (sizeof schemas / sizeof schemas[0])];
    buffer_add(out, head, sizeof head - 1);
    buffer_add(out, schema, strlen(schema));
    buffer_add(out, "}}}", 3);
}

// More than the server takes.
static void hostile_size(struct buffer *out) {
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                               "Content-Length: 99999999999\r\n\r\n{\"prompt\":\"";
    buffer_add(out, head, sizeof head - 1);
}

// Messages, tools and ids of wrong kinds.
static const char *const hostile_chats[] = {
    "{\"messages\":[]}",
    "{\"messages\":[{\"role\":\"nobody\",\"content\":\"x\"}]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"\xed\xa0\x80\"}]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\"}]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"n\":1e300}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":99}",
    "{\"messages\":\"x\",\"stream\":\"maybe\"}",
};

static void hostile_headers(struct buffer *out) {
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX-Junk: ";
    buffer_add(out, head, sizeof head - 1);
    for (int i = 0; i < 20000; i++) {
        buffer_add(out, "0123456789", 10);
    }
    buffer_add(out, "\r\n\r\n{}", 6);
}

static const char *const hostile_bodies[] = {
    "{\"prompt\":\"x\",\"n\":1000000000}",
    "{\"prompt\":\"x\",\"n\":-1}",
    "{\"prompt\":\"x\",\"n\":99999999999999999999999}",
    "{\"prompt\":\"x\",\"best_of\":1000000}",
    "{\"prompt\":\"x\",\"max_tokens\":-5}",
    "{\"prompt\":\"x\",\"temperature\":1e999}",
    "{\"prompt\":\"x\",\"temperature\":\"hot\"}",
    "{\"prompt\":[1,2,999999999]}",
    "{\"prompt\":[[1],[]]}",
    "{\"prompt\":{\"a\":1}}",
    "{\"prompt\":\"\xff\xfe\"}",
    "{\"prompt\":\"x\",\"prompt\":\"y\"}",
    "{\"prompt\":\"x\",\"logprobs\":1000}",
    "{\"prompt\":\"x\",\"logit_bias\":{\"-1\":5}}",
    "{\"prompt\":\"x\",\"stop\":[1]}",
    "{\"prompt\":\"x\",\"model\":\"../../etc/passwd\"}",
    "{\"prompt\":\"x\"",
    "nonsense",
    "",
    "[]",
};

// Every kind has to be refused with a status of 4xx; what is no HTTP may also find the connection closed.
static void hostile_client(uint64_t *random) {
    static const size_t bodies_count = sizeof hostile_bodies / sizeof hostile_bodies[0];
    static const size_t chats_count = sizeof hostile_chats / sizeof hostile_chats[0];
    uint64_t kind = next_random(random) % (bodies_count + chats_count + 12), other = kind - bodies_count - chats_count;
    struct buffer out = {0}, response = {0};
    int handle = open_connection(0);
    bool sent = false, http = true;
    if (handle < 0) {
        return;
    }
    if (kind < bodies_count) {
        sent = send_request(handle, "/v1/completions", hostile_bodies[kind], strlen(hostile_bodies[kind]),
                            strlen(hostile_bodies[kind]));
    } else if (kind < bodies_count + chats_count) {
        const char *body = hostile_chats[kind - bodies_count];
        sent = send_request(handle, "/v1/chat/completions", body, strlen(body), strlen(body));
    } else if (other < 8) {
        hostile_schema(&out, other);
        sent = send_request(handle, "/v1/chat/completions", out.data, out.size, out.size);
    } else if (other == 8) {
        hostile_deep(&out);
        sent = send_request(handle, "/v1/completions", out.data, out.size, out.size);
    } else if (other == 9) {
        hostile_size(&out);
        sent = send_all(handle, out.data, out.size);
    } else {
        http = false;
        if (other == 10) {
            hostile_headers(&out);
        } else {
            for (int i = 0; i < 500; i++) {
                char byte = (char)(next_random(random) & 0xff);
                buffer_add(&out, &byte, 1);
            }
            buffer_add(&out, "\r\n\r\n", 4);
        }
        sent = send_all(handle, out.data, out.size);
        shutdown(handle, SHUT_WR);
    }
    receive(&response, handle, 0, 0);
    int status = status_of(&response);
    if (sent && (http || status != 0) && (status < 400 || status > 499)) {
        atomic_fetch_add(&unrefused_count, 1);
        fprintf(stderr, "load: status %d for hostile request %d: %.300s\n", status, (int)kind,
                response.data != NULL ? response.data : "");
    }
    atomic_fetch_add(&hostile_count, 1);
    close(handle);
    free(out.data);
    free(response.data);
}

static void *client_main(void *argument) {
    uint64_t random = 1000 + (uint64_t)(uintptr_t)argument;
    while (now() < deadline) {
        uint64_t what = next_random(&random) % 20;
        if (what < 12) {
            good_client(&random, 0);
        } else if (what < 15) {
            leaving_client(&random);
        } else if (what < 16) {
            good_client(&random, 300);
        } else {
            hostile_client(&random);
        }
    }
    return NULL;
}

static int compute_alone(void) {
    for (int i = 0; i < GOOD; i++) {
        int status;
        answers[i] = ask(&status, i, false, 0);
        char *stream = ask(&status, i, true, 0);
        if (answers[i] == NULL || stream == NULL || strcmp(answers[i], stream) != 0) {
            fprintf(stderr, "load: alone, status %d: %s\n  whole:  %s\n  stream: %s\n", status, bodies[i],
                    answers[i] != NULL ? answers[i] : "-", stream != NULL ? stream : "-");
            return 1;
        }
        free(stream);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: load PORT CLIENTS SECONDS\n");
        return 2;
    }
    port = atoi(argv[1]);
    size_t clients = strtoul(argv[2], NULL, 10);
    make_requests();
    if (compute_alone() != 0) {
        return 1;
    }
    start = now();
    deadline = start + strtod(argv[3], NULL);
    pthread_t *threads = calloc(clients, sizeof *threads);
    for (size_t i = 0; threads != NULL && i < clients; i++) {
        if (pthread_create(&threads[i], NULL, client_main, (void *)(uintptr_t)i) != 0) {
            fprintf(stderr, "load: cannot start %zu clients\n", clients);
            return 1;
        }
    }
    for (size_t i = 0; threads != NULL && i < clients; i++) {
        pthread_join(threads[i], NULL);
    }
    free(threads);
    printf("%d good answers, %d to slow readers, %d clients left, %d hostile requests, %d refused as busy, %.1f s\n"
           "%d wrong, %d lost, %d hostile requests not refused\n",
           good_count, slow_count, left_count, hostile_count, busy_count, now() - start, wrong_count, lost_count,
           unrefused_count);
    for (int i = 0; i < GOOD; i++) {
        free(bodies[i]);
        free(answers[i]);
    }
    return wrong_count + lost_count + unrefused_count > 0 || good_count == 0;
}
