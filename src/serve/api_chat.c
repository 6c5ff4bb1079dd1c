// POST /v1/chat/completions: request -> conversation, template, constraints, call.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/api.h"
#include "serve/fields.h"
#include "serve/server_private.h"

struct chat_request {
    const char *model;
    struct generation generation;
    struct conversation conversation;
    const json_t *tools;   // NULL = none, or tool_choice "none"
    struct grammar_request constraint;
    struct grammar *grammar;
    struct text tools_text;
    bool thinking;
    struct prompt prompt;
};

static void chat_request_destroy(struct chat_request *request) {
    generation_destroy(&request->generation);
    conversation_destroy(&request->conversation);
    grammar_free(request->grammar);
    text_destroy(&request->tools_text);
    memory_free(request->prompt.ids);
}

static int read_log_probabilities(struct generation *generation, const json_t *body, struct failure *failure) {
    if (field_boolean(&generation->log_probabilities, body, "logprobs", failure) != 0 ||
        field_integer(&generation->top, body, "top_logprobs", 0, TOP_LOG_PROBABILITIES_MAX, failure) != 0) {
        return failure->status;
    }
    if (generation->top > 0 && !generation->log_probabilities) {
        return failure_set(failure, 400, NULL, "top_logprobs", "'top_logprobs' needs \"logprobs\": true");
    }
    return 0;
}

// ---- Thinking -------------------------------------------------------------------------------------------------------

// What the request says: 1, 0, or -1 = nothing. DeepSeek's field, vLLM's, and OpenAI's effort.
static int wanted_thinking(int *wanted, const json_t *body, struct failure *failure) {
    const json_t *thinking = field_value(body, "thinking");
    const json_t *variables = field_value(body, "chat_template_kwargs");
    const char *type = json_string_value(json_object_get(thinking, "type"));
    *wanted = -1;
    if (thinking != NULL) {
        if (type == NULL || (strcmp(type, "enabled") != 0 && strcmp(type, "disabled") != 0)) {
            return failure_set(failure, 400, NULL, "thinking",
                               "'thinking': expected {\"type\": \"enabled\"} or {\"type\": \"disabled\"}");
        }
        *wanted = strcmp(type, "enabled") == 0;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)variables, key, value) {
        if ((strcmp(key, "thinking") != 0 && strcmp(key, "enable_thinking") != 0) || !json_is_boolean(value)) {
            return failure_set(failure, 400, "unsupported_parameter", "chat_template_kwargs",
                               "'chat_template_kwargs': expected \"thinking\": true or false, found \"%.40s\"", key);
        }
        *wanted = json_is_true(value);
    }
    return 0;
}

static int choose_thinking(bool *thinking, const struct server *server, const json_t *body, int by_name,
                           struct failure *failure) {
    int wanted;
    if (wanted_thinking(&wanted, body, failure) != 0) {
        return failure->status;
    }
    bool hybrid = server->chat_style == MINKE_CHAT_V3_1;
    bool reasons = server->chat_style == MINKE_CHAT_R1 || server->chat_style == MINKE_CHAT_R1_THINK ||
                   server->chat_style == MINKE_CHAT_R1_0528;
    if (!hybrid && wanted >= 0 && (wanted == 1) != reasons) {
        return failure_set(failure, 400, "unsupported_parameter", "thinking",
                           reasons ? "this model always thinks" : "this model has no thinking mode");
    }
    const char *effort = json_string_value(field_value(body, "reasoning_effort"));
    int by_effort = effort == NULL ? -1 : strcmp(effort, "none") != 0 && strcmp(effort, "minimal") != 0;
    *thinking = hybrid && (wanted >= 0      ? wanted == 1
                           : by_effort >= 0 ? by_effort == 1
                           : by_name >= 0   ? by_name == 1
                                            : server->options.thinking);
    return 0;
}

// ---- Tools and constraints ------------------------------------------------------------------------------------------

static int read_tool_choice(struct grammar_request *constraint, const json_t *body, struct failure *failure) {
    static const struct {
        const char *name;
        enum tool_choice choice;
    } choices[] = {{"auto", TOOL_CHOICE_AUTO}, {"none", TOOL_CHOICE_NONE}, {"required", TOOL_CHOICE_REQUIRED}};
    const json_t *value = field_value(body, "tool_choice");
    if (value == NULL) {
        return 0;
    }
    const char *text = json_string_value(value);
    for (size_t i = 0; text != NULL && i < sizeof choices / sizeof choices[0]; i++) {
        if (strcmp(text, choices[i].name) == 0) {
            constraint->tool_choice = choices[i].choice;
            return 0;
        }
    }
    constraint->tool_name = json_string_value(json_object_get(json_object_get(value, "function"), "name"));
    if (constraint->tool_name == NULL) {
        return failure_set(failure, 400, NULL, "tool_choice",
                           "'tool_choice': expected \"auto\", \"none\", \"required\" or {\"type\": \"function\", "
                           "\"function\": {\"name\": \"...\"}}");
    }
    constraint->tool_choice = TOOL_CHOICE_NAMED;
    return 0;
}

static int read_tools(struct chat_request *request, const json_t *body, struct failure *failure) {
    struct grammar_request *constraint = &request->constraint;
    const json_t *tools = field_value(body, "tools");
    bool parallel = true;
    if (tools != NULL && !json_is_array(tools)) {
        return field_mismatch("tools", "an array", tools, failure);
    }
    tools = json_array_size(tools) > 0 ? tools : NULL;
    if (read_tool_choice(constraint, body, failure) != 0 ||
        field_boolean(&parallel, body, "parallel_tool_calls", failure) != 0) {
        return failure->status;
    }
    if (tools == NULL) {
        bool needs = constraint->tool_choice == TOOL_CHOICE_REQUIRED || constraint->tool_choice == TOOL_CHOICE_NAMED;
        constraint->tool_choice = TOOL_CHOICE_AUTO;
        return needs ? failure_set(failure, 400, NULL, "tool_choice", "'tool_choice' needs 'tools'") : 0;
    }
    constraint->tools = tools;
    constraint->single_call = !parallel;
    request->tools = constraint->tool_choice == TOOL_CHOICE_NONE ? NULL : tools;
    return 0;
}

// The key that the message of a grammar begins with.
static int fail_grammar(struct failure *failure, const struct error *error) {
    char param[64];
    snprintf(param, sizeof param, "%.*s", (int)strcspn(error->text, ":"), error->text);
    int status = error->code == ERROR_MEMORY ? 500 : 400;
    return failure_set(failure, status, NULL, param, "%s", error->text);
}

static int create_grammar(struct chat_request *request, const struct server *server, const json_t *body,
                          struct failure *failure) {
    struct error error = {0};
    request->constraint.style = (enum minke_chat_style)server->chat_style;
    request->constraint.reasoning = answer_reasoning((enum minke_chat_style)server->chat_style,
                                                     request->conversation.last_role, request->thinking);
    request->constraint.response_format = field_value(body, "response_format");
    if (grammar_create(&request->grammar, &request->constraint, server->vocabulary, &error) != 0) {
        return fail_grammar(failure, &error);
    }
    return 0;
}

// ---- The prompt -----------------------------------------------------------------------------------------------------

static int encode_prompt(struct chat_request *request, struct server *server, struct failure *failure) {
    bool own_form = server->chat_style == MINKE_CHAT_V3_1;
    char *tools = NULL;
    if (request->tools != NULL && own_form) {
        tools = json_dumps(request->tools, JSON_COMPACT | JSON_PRESERVE_ORDER);
        if (tools == NULL) {
            return failure_set(failure, 500, NULL, NULL, "out of memory");
        }
    }
    struct minke_error error = {0};
    unsigned flags = MINKE_CHAT_GENERATION_PROMPT | (request->thinking ? MINKE_CHAT_THINKING : 0);
    int code = minke_encode_chat(&request->prompt.ids, &request->prompt.count, server->tokenizer,
                                 request->conversation.messages, request->conversation.message_count, tools, flags,
                                 &error);
    memory_free(tools);
    if (code != 0) {
        return failure_set(failure, code == ERROR_MEMORY ? 500 : 400, NULL, "messages", "%s", error.text);
    }
    if (server->options.reuse_ids) {
        reuse_substitute(&request->prompt, &server->reuse, server->tokenizer);
    }
    return 0;
}

static int parse(struct chat_request *request, struct server *server, const json_t *body, struct failure *failure) {
    const struct generation_limits limits = {
        .n = server->options.n, .max_tokens = server->options.max_tokens, .vocab_size = server->vocab_size};
    int by_name;
    if (server->chat_style < 0) {
        return failure_set(failure, 400, NULL, NULL,
                           "the model has no chat template that is known here; use /v1/completions");
    }
    if (api_check_model(&request->model, &by_name, server, body, failure) != 0 ||
        generation_parse(&request->generation, body, &server->sampling, &limits, failure) != 0 ||
        read_log_probabilities(&request->generation, body, failure) != 0 ||
        choose_thinking(&request->thinking, server, body, by_name, failure) != 0 ||
        read_tools(request, body, failure) != 0) {
        return failure->status;
    }
    bool in_words = request->tools != NULL && server->chat_style != MINKE_CHAT_V3_1;
    if (in_words && tools_describe(&request->tools_text, request->tools, failure) != 0) {
        return failure->status;
    }
    if (conversation_parse(&request->conversation, json_object_get(body, "messages"),
                           in_words ? request->tools_text.data : NULL, failure) != 0 ||
        create_grammar(request, server, body, failure) != 0 || encode_prompt(request, server, failure) != 0) {
        return failure->status;
    }
    return api_check_room(server, &request->prompt, 1, &request->generation, false, failure);
}

static int start(struct exchange *exchange, struct chat_request *request) {
    struct failure *failure = &exchange->failure;
    struct prompt *prompts = memory_allocate(1, sizeof *prompts, "prompts", NULL);
    char *name = memory_copy_string(request->model, NULL);
    if (prompts == NULL || name == NULL ||
        call_create(&exchange->call, exchange->server, &chat_format, &request->generation, prompts, 1, failure) != 0) {
        memory_free(prompts);
        memory_free(name);
        return failure_set(failure, 500, NULL, NULL, "out of memory");
    }
    prompts[0] = request->prompt;
    request->prompt = (struct prompt){0};
    exchange->call->model = name;
    exchange->call->grammar = request->grammar;
    exchange->call->reasoning = request->constraint.reasoning;
    exchange->call->tools = request->tools != NULL;
    request->grammar = NULL;
    return call_submit(exchange->call, failure);
}

void api_chat(struct exchange *exchange) {
    json_t *body;
    const struct server_options *options = &exchange->server->options;
    struct chat_request request = {0};
    if (fields_parse(&body, exchange->body.data, exchange->body.size, options->json_depth, &exchange->failure) != 0) {
        return;
    }
    if (parse(&request, exchange->server, body, &exchange->failure) == 0) {
        start(exchange, &request);
    }
    chat_request_destroy(&request);
    json_decref(body);
}
