// POST /v1/completions and /beta/completions: text or ids -> text; with `suffix` what stands in between.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/api.h"
#include "serve/fields.h"
#include "serve/server_private.h"

#define PROMPTS_MAX 2048
#define DEFAULT_TOKENS 16   // OpenAI's default of this API

struct text_request {
    const char *model;
    struct generation generation;
    struct prompt *prompts;
    int64_t prompt_count;
    bool echo, add_bos, from_text;   // from_text: prompts are strings
    const char *suffix;
    struct grammar *grammar;
};

void prompts_destroy(struct prompt *prompts, int64_t count) {
    for (int64_t i = 0; prompts != NULL && i < count; i++) {
        memory_free(prompts[i].ids);
    }
    memory_free(prompts);
}

static int read_log_probabilities(struct generation *generation, const json_t *body, struct failure *failure) {
    const json_t *value = field_value(body, "logprobs");
    if (value == NULL || json_is_false(value)) {
        return 0;
    }
    generation->log_probabilities = true;
    return field_integer(&generation->top, body, "logprobs", 0, TOP_LOG_PROBABILITIES_MAX, failure);
}

// ---- Prompts --------------------------------------------------------------------------------------------------------

static int encode_text(struct prompt *prompt, const struct text_request *request, const struct server *server,
                       const json_t *value, struct failure *failure) {
    const char *text = json_string_value(value);
    size_t size = json_string_length(value);
    struct minke_error error = {0};
    int code;
    if (request->suffix != NULL) {
        code = minke_encode_fim(&prompt->ids, &prompt->count, server->tokenizer, text, size, request->suffix,
                                strlen(request->suffix), &error);
    } else {
        code = minke_encode(&prompt->ids, &prompt->count, server->tokenizer, text, size,
                            request->add_bos ? MINKE_ENCODE_BOS : 0, &error);
    }
    if (code != 0) {
        return failure_set(failure, code == ERROR_MEMORY ? 500 : 400, NULL,
                           request->suffix != NULL ? "suffix" : "prompt", "%s", error.text);
    }
    return 0;
}

// One prompt: a string, or an array of ids.
static int read_prompt(struct prompt *prompt, const struct text_request *request, const struct server *server,
                       const json_t *value, struct failure *failure) {
    if (json_is_string(value) != request->from_text) {
        return failure_set(failure, 400, NULL, "prompt", "'prompt': expected either strings or token ids, found both");
    }
    if (json_is_string(value)) {
        return encode_text(prompt, request, server, value, failure);
    }
    if (!json_is_array(value)) {
        return field_mismatch("prompt", "a string, an array of token ids, or an array of either", value, failure);
    }
    if (request->suffix != NULL) {
        return failure_set(failure, 400, NULL, "suffix", "'suffix': the prompt has to be a string then");
    }
    return field_ids(&prompt->ids, &prompt->count, value, "prompt", server->vocab_size, failure);
}

static int read_prompts(struct text_request *request, const struct server *server, const json_t *body,
                        struct failure *failure) {
    const json_t *value = field_value(body, "prompt");
    if (value == NULL) {
        return failure_set(failure, 400, NULL, "prompt", "'prompt': expected a string or token ids, found nothing");
    }
    const json_t *first = json_array_get(value, 0);
    bool many = json_is_array(value) && (json_is_string(first) || json_is_array(first));
    size_t count = many ? json_array_size(value) : 1;
    request->from_text = json_is_string(many ? first : value);
    if (count > PROMPTS_MAX) {
        return failure_set(failure, 400, NULL, "prompt", "'prompt': expected at most %d prompts, found %zu",
                           PROMPTS_MAX, count);
    }
    request->prompts = memory_allocate(count, sizeof *request->prompts, "prompts", NULL);
    if (request->prompts == NULL) {
        return failure_set(failure, 500, NULL, NULL, "out of memory");
    }
    request->prompt_count = (int64_t)count;
    for (size_t i = 0; i < count; i++) {
        struct prompt *prompt = &request->prompts[i];
        if (read_prompt(prompt, request, server, many ? json_array_get(value, i) : value, failure) != 0) {
            return failure->status;
        }
        if (prompt->count == 0) {
            return failure_set(failure, 400, NULL, "prompt", "'prompt': expected at least one token, found none");
        }
    }
    return 0;
}

static int create_grammar(struct text_request *request, const struct server *server, const json_t *body,
                          struct failure *failure) {
    const struct grammar_request constraint = {.response_format = field_value(body, "response_format")};
    struct error error = {0};
    if (constraint.response_format != NULL &&
        grammar_create(&request->grammar, &constraint, server->vocabulary, &error) != 0) {
        return failure_set(failure, error.code == ERROR_MEMORY ? 500 : 400, NULL, "response_format", "%s", error.text);
    }
    return 0;
}

static int parse(struct text_request *request, struct server *server, const json_t *body, struct failure *failure) {
    const struct generation_limits limits = {
        .n = server->options.n, .max_tokens = server->options.max_tokens, .vocab_size = server->vocab_size};
    int ignored;
    request->add_bos = server->add_bos;
    if (api_check_model(&request->model, &ignored, server, body, failure) != 0 ||
        generation_parse(&request->generation, body, &server->sampling, &limits, failure) != 0 ||
        read_log_probabilities(&request->generation, body, failure) != 0 ||
        field_boolean(&request->echo, body, "echo", failure) != 0 ||
        field_boolean(&request->add_bos, body, "add_special_tokens", failure) != 0 ||
        field_string(&request->suffix, body, "suffix", failure) != 0) {
        return failure->status;
    }
    request->add_bos = request->add_bos && server->add_bos;
    if (request->suffix != NULL && request->suffix[0] == '\0') {
        request->suffix = NULL;
    }
    if (field_value(body, "max_tokens") == NULL && field_value(body, "max_completion_tokens") == NULL) {
        request->generation.max_tokens = DEFAULT_TOKENS;
    }
    if (request->echo && request->suffix != NULL) {
        return failure_set(failure, 400, NULL, "echo", "'echo' is not supported together with 'suffix'");
    }
    if (read_prompts(request, server, body, failure) != 0 || create_grammar(request, server, body, failure) != 0) {
        return failure->status;
    }
    return api_check_room(server, request->prompts, request->prompt_count, &request->generation, request->echo,
                          failure);
}

static int start(struct exchange *exchange, struct text_request *request) {
    struct failure *failure = &exchange->failure;
    char *name = memory_copy_string(request->model, NULL);
    if (name == NULL || call_create(&exchange->call, exchange->server, &completions_format, &request->generation,
                                    request->prompts, request->prompt_count, failure) != 0) {
        memory_free(name);
        return failure_set(failure, 500, NULL, NULL, "out of memory");
    }
    struct call *call = exchange->call;
    request->prompts = NULL;
    call->model = name;
    call->grammar = request->grammar;
    request->grammar = NULL;
    call->echo = request->echo;
    call->bos_added = request->add_bos && request->from_text;
    call->score_prompt = request->echo && call->generation.log_probabilities;
    return call_submit(call, failure);
}

void api_completions(struct exchange *exchange) {
    json_t *body;
    const struct server_options *options = &exchange->server->options;
    struct text_request request = {0};
    if (fields_parse(&body, exchange->body.data, exchange->body.size, options->json_depth, &exchange->failure) != 0) {
        return;
    }
    if (parse(&request, exchange->server, body, &exchange->failure) == 0) {
        start(exchange, &request);
    }
    generation_destroy(&request.generation);
    prompts_destroy(request.prompts, request.prompt_count);
    grammar_free(request.grammar);
    json_decref(body);
}
