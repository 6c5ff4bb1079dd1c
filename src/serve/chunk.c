// See chunk.h.
#include "serve/chunk.h"

#include <inttypes.h>

#include "serve/server_private.h"

void chunk_head(struct text *out, const struct call *call, const char *suffix) {
    text_format(out, "{\"id\":\"%s\",\"object\":\"%s%s\",\"created\":%" PRId64 ",\"model\":", call->id,
                call->format->object, suffix, call->created);
    text_json_string(out, call->model);
    text_string(out, ",\"system_fingerprint\":\"minke-" MINKE_VERSION "\"");
}

const char *finish_reason(const struct choice *choice) {
    if (choice->tool_count > 0) {
        return "tool_calls";
    }
    return choice->finish == MINKE_FINISH_LENGTH && !choice->stopped ? "length" : "stop";
}

void usage_write(struct text *out, const struct call *call) {
    int64_t prompt = 0, cached = 0, answer = 0, reasoning = 0;
    for (int64_t i = 0; i < call->choice_count; i++) {
        const struct choice *choice = &call->choices[i];
        if (choice->index % call->generation.n == 0) {
            prompt += call->prompts[choice->prompt].count;
            cached += choice->cached_tokens;
        }
        answer += choice->answer_tokens;
        reasoning += choice->reasoning_tokens;
    }
    text_format(out,
                "{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64
                ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64
                "},\"completion_tokens_details\":{\"reasoning_tokens\":%" PRId64
                "},\"prompt_cache_hit_tokens\":%" PRId64 ",\"prompt_cache_miss_tokens\":%" PRId64 "}",
                prompt, answer, prompt + answer, cached, reasoning, cached, prompt - cached);
}

void token_bytes(char **text, size_t *size, const struct call *call, int32_t id) {
    struct minke_error error = {0};
    if (minke_decode(text, size, call->server->tokenizer, &id, 1, &error) != 0) {
        *text = NULL;
        *size = 0;
    }
}
