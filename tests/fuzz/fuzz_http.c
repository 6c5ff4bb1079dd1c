// Any bytes to the socket of a live server with an API key, a small random model and narrow limits. Input: how the
// bytes are cut in two; the bytes. The server answers in HTTP or closes the connection, what it calls JSON is JSON, and
// it is still healthy thereafter.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "fuzz/fuzz.h"
#include "fuzz/with_server.h"

#define ANSWER_LIMIT (1 << 20)
#define HEALTH_EVERY 256   // inputs

const bool fuzz_leaves_memory = true;   // of other threads

static struct server *server;

void fuzz_open(void) {
    struct minke_model *model;
    struct minke_error failure = {0};
    struct error error = {0};
    const struct minke_model_options threads = {.threads = 1};
    struct server_options options;
    CHECK(minke_model_open(&model, server_model(), &threads, &failure) == 0, "%s", failure.text);
    server_defaults(&options);
    options.port = 0;
    options.name = "fuzz";
    options.model_directory = fuzz_directory();
    options.api_key_file = fuzz_file("keys", "secret\n", 7);
    options.cors = "http://x";
    options.access_log = false;
    options.http_threads = 1;
    options.body_bytes = 4096;
    options.header_bytes = 4096;
    options.connections = 16;
    options.connection_seconds = 1;   // libmicrohttpd may not see a client leave in the middle of a request until then
    options.max_tokens = 4;
    options.engine = (struct minke_engine_options){.context = SERVER_CONTEXT, .cache_tokens = 2048, .batch = 8};
    struct minke_tokenizer *tokenizer = server_tokenizer(MINKE_CHAT_V3_1);
    CHECK(server_open(&server, &options, model, tokenizer, &error) == 0, "%s", error.text);
}

// ---- One connection -------------------------------------------------------------------------------------------------

static int dial(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server_port(server))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(handle >= 0 && connect(handle, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    return handle;
}

static void send_all(int handle, const uint8_t *data, size_t size) {
    while (size > 0) {
        ssize_t count = send(handle, data, size, MSG_NOSIGNAL);
        if (count <= 0) {
            return;   // the server may refuse to hear the rest
        }
        data += count;
        size -= (size_t)count;
    }
}

// Reads until the server closes or nothing has come for so many milliseconds.
static size_t receive(char *answer, int handle, int milliseconds) {
    struct timeval limit = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};
    size_t size = 0;
    ssize_t count = 1;
    setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (size < ANSWER_LIMIT && count > 0) {
        count = recv(handle, answer + size, ANSWER_LIMIT - size, 0);
        size += count > 0 ? (size_t)count : 0;
    }
    return size;
}

static void check_answer(const char *answer, size_t size) {
    if (size == 0) {
        return;
    }
    CHECK(size > 12 && memcmp(answer, "HTTP/1.1 ", 9) == 0, "%.*s", (int)size, answer);
    int status = atoi(answer + 9);
    CHECK(status >= 100 && status < 600 && status != 500, "%.*s", (int)size, answer);
    const char *head = memmem(answer, size, "\r\n\r\n", 4);
    const char *length = memmem(answer, size, "Content-Length: ", 16),
               *type = memmem(answer, size, "application/json", 16);
    if (head == NULL || length == NULL || type == NULL || length > head || type > head) {
        return;
    }
    size_t bytes = strtoull(length + 16, NULL, 10);
    if (head + 4 + bytes <= answer + size && bytes > 0 && memcmp(head + 4, "HTTP/", 5) != 0) {
        json_t *body = json_loadb(head + 4, bytes, JSON_ALLOW_NUL, NULL);
        CHECK(json_is_object(body), "%.*s", (int)size, answer);
        json_decref(body);
    }
}

// A client that asks to be closed is given time for its answer; others say that they are through, and leave soon.
static size_t talk(char *answer, const uint8_t *data, size_t size, size_t cut, int milliseconds) {
    int handle = dial();
    bool patient = memmem(data, size, "lose\r\n", 6) != NULL;
    cut = cut < size ? cut : size;
    send_all(handle, data, cut);
    send_all(handle, data + cut, size - cut);
    if (!patient) {
        shutdown(handle, SHUT_WR);
    }
    size = receive(answer, handle, patient ? milliseconds : 5);
    close(handle);
    return size;
}

void fuzz_one(const uint8_t *data, size_t size) {
    static char answer[ANSWER_LIMIT + 1];
    static int64_t count;
    static const char health[] = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    struct fuzz_input input = {data, size};
    size_t cut = fuzz_take_byte(&input) * (size_t)4;
    check_answer(answer, talk(answer, input.data, input.size, cut, 60));
    if (count++ % HEALTH_EVERY == 0) {
        size_t length = 0;
        for (int tries = 0; tries < 5 && length == 0;
             tries++) {   // all connections may be taken by those who have left
            length = talk(answer, (const uint8_t *)health, sizeof health - 1, sizeof health, 300000);
        }
        CHECK(length > 12 && memcmp(answer, "HTTP/1.1 200", 12) == 0, "%.*s", (int)length, answer);
    }
}
