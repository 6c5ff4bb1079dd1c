// Bodies of requests: parsing, the fields of a generation, messages and the description of tools. Whatever comes in,
// nothing crashes and a refusal says why.
#include <stdint.h>
#include <stdlib.h>

#include "serve/api.h"
#include "serve/fields.h"
#include "serve/generation.h"

static void require(bool condition) {
    if (!condition) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct generation_limits limits = {.n = 16, .max_tokens = 100, .vocab_size = 512};
    static const struct minke_sampling defaults = {.top_p = 1};
    json_t *body;
    struct failure failure = {0};
    if (fields_parse(&body, (const char *)data, size, 32, &failure) != 0) {
        require(failure.status == 400 && failure.message[0] != '\0' && body == NULL);
        return 0;
    }
    struct generation generation;
    if (generation_parse(&generation, body, &defaults, &limits, &failure) == 0) {
        require(generation.n >= 1 && generation.n <= 16 && generation.max_tokens >= 0 && generation.max_tokens <= 100);
        require(generation.sampling.top_p >= 0 && generation.sampling.top_p <= 1);
    } else {
        require(failure.status == 400 && failure.message[0] != '\0');
    }
    generation_destroy(&generation);
    struct text tools = {0};
    struct failure tools_failure = {0}, messages_failure = {0};
    tools_describe(&tools, json_object_get(body, "tools"), &tools_failure);
    struct conversation conversation;
    if (conversation_parse(&conversation, json_object_get(body, "messages"), tools.data, &messages_failure) == 0) {
        require(conversation.message_count > 0 && conversation.messages[0].role != NULL);
    }
    conversation_destroy(&conversation);
    text_destroy(&tools);
    json_decref(body);
    return 0;
}
