// What the generating endpoints check alike: the model's name, and room for the request.
#include <inttypes.h>
#include <string.h>

#include "serve/api.h"
#include "serve/fields.h"
#include "serve/server_private.h"

// The last part of a path.
static const char *last_part(const char *name, size_t *size) {
    *size = strlen(name);
    while (*size > 1 && name[*size - 1] == '/') {
        --*size;
    }
    size_t at = *size;
    while (at > 0 && name[at - 1] != '/') {
        at--;
    }
    *size -= at;
    return name + at;
}

int api_check_model(const char **name, int *reasoner, const struct server *server, const json_t *body,
                    struct failure *failure) {
    const char *served = server->options.name;
    *name = served;
    *reasoner = -1;
    if (field_string(name, body, "model", failure) != 0) {
        return failure->status;
    }
    if (strcmp(*name, served) == 0) {
        return 0;
    }
    // The names of DeepSeek's own API: clients made for it need no change.
    if (strcmp(*name, "deepseek-chat") == 0 || strcmp(*name, "deepseek-reasoner") == 0) {
        *reasoner = strcmp(*name, "deepseek-reasoner") == 0;
        return 0;
    }
    // "deepseek-ai/NAME", or the model's directory, which tools take for a name.
    size_t size, served_size;
    const char *part = last_part(*name, &size), *served_part = last_part(served, &served_size);
    if (size == served_size && memcmp(part, served_part, size) == 0) {
        return 0;
    }
    return failure_set(failure, 404, "model_not_found", "model", "the model '%.100s' is not served here, '%s' is",
                       *name, served);
}

int api_check_room(struct server *server, const struct prompt *prompts, int64_t count,
                   const struct generation *generation, bool score_only, struct failure *failure) {
    for (int64_t i = 0; i < count; i++) {
        // A prompt that is only to be scored may fill the context.
        int64_t limit = server->context - (score_only ? 0 : 1);
        if (prompts[i].count > limit) {
            return failure_set(failure, 400, "context_length_exceeded", NULL,
                               "the prompt has %" PRId64 " tokens, and the context holds %" PRId64, prompts[i].count,
                               server->context);
        }
    }
    int64_t answers = count * generation->n;
    int64_t limit = server->options.queue + (server->options.engine.batch > 0 ? server->options.engine.batch : 64);
    if (answers > limit) {
        return failure_set(failure, 400, NULL, "n", "%" PRId64 " answers in one request: expected at most %" PRId64,
                           answers, limit);
    }
    if (atomic_load(&server->active) + answers > limit) {
        return failure_set(failure, 503, "queue_full", NULL, "too many requests are waiting, try again later");
    }
    if (worker_has_failed(&server->worker, NULL)) {
        return failure_set(failure, 500, NULL, NULL, "the engine has failed, see the server's log");
    }
    return 0;
}
