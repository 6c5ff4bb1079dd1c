// The renderers (see chat_template.h): each style is what it does with a message, and how a prompt ends.
#include "text/chat_template.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"
#define CALLS_BEGIN "<｜tool▁calls▁begin｜>"
#define CALLS_END "<｜tool▁calls▁end｜>"
#define CALL_BEGIN "<｜tool▁call▁begin｜>"
#define CALL_END "<｜tool▁call▁end｜>"
#define OUTPUTS_BEGIN "<｜tool▁outputs▁begin｜>"
#define OUTPUTS_END "<｜tool▁outputs▁end｜>"
#define OUTPUT_BEGIN "<｜tool▁output▁begin｜>"
#define OUTPUT_END "<｜tool▁output▁end｜>"
#define SEPARATOR "<｜tool▁sep｜>"
#define THINK "<think>"
#define THINK_END "</think>"

static const char *const style_names[CHAT_STYLES] = {"v3", "v3-0324", "r1", "r1-think", "r1-0528", "v3.1"};

const char *chat_style_name(enum chat_style style) {
    return style_names[style];
}

int chat_style_from_name(enum chat_style *style, const char *name, struct error *error) {
    for (int i = 0; i < CHAT_STYLES; i++) {
        if (strcmp(name, style_names[i]) == 0) {
            *style = (enum chat_style)i;
            return 0;
        }
    }
    return error_set(error, ERROR_ARGUMENT,
                     "chat template: found \"%s\", expected v3, v3-0324, r1, r1-think, r1-0528 or v3.1", name);
}

int chat_style_detect(enum chat_style *style, bool *assumed, const struct tokenizer *tokenizer, struct error *error) {
    const char *text = tokenizer_chat_template(tokenizer);
    *assumed = text == NULL;
    if (tokenizer_find_string(tokenizer, USER) < 0 || tokenizer_find_string(tokenizer, ASSISTANT) < 0) {
        return error_set(error, ERROR_FORMAT,
                         "the tokenizer has no " USER " and " ASSISTANT " tokens: not a DeepSeek chat model");
    }
    if (text == NULL) {
        *style = tokenizer_find_string(tokenizer, THINK) >= 0 ? CHAT_V3_1 : CHAT_V3_0324;
        return 0;
    }
    if (strstr(text, USER) == NULL || strstr(text, ASSISTANT) == NULL || strstr(text, CALLS_BEGIN) == NULL) {
        return error_set(error, ERROR_FORMAT,
                         "the chat template of the tokenizer is not one of DeepSeek's; name one of v3, "
                         "v3-0324, r1, r1-think, r1-0528, v3.1");
    }
    bool strips_reasoning = strstr(text, "'" THINK_END "' in") != NULL;
    // Only v3.1 has the variable `thinking`; v3-0324 and r1-0528 end the user's turn with the assistant marker.
    if (strstr(text, "set thinking") != NULL) {
        *style = CHAT_V3_1;
    } else if (strstr(text, "+ '" ASSISTANT "'") != NULL) {
        *style = strips_reasoning ? CHAT_R1_0528 : CHAT_V3_0324;
    } else if (strips_reasoning) {
        *style = strstr(text, ASSISTANT THINK) != NULL ? CHAT_R1_THINK : CHAT_R1;
    } else {
        *style = CHAT_V3;
    }
    return 0;
}

// ---- output ----

struct renderer {
    struct chat_prompt *prompt;
    enum chat_style style;
    const struct chat_options *options;
    struct error *error;
    int code;               // the first failure; later output does nothing
    bool is_tool;           // the last thing was a tool's output
    bool is_first;          // a call has been written (since it was last reset: style)
    bool is_output_first;   // no output has been written
    bool is_last_user;
};

static void segment_extend(struct renderer *renderer, const char *text, size_t size, bool markup) {
    struct chat_prompt *prompt = renderer->prompt;
    if (renderer->code != 0 || size == 0) {
        return;
    }
    int64_t begin = prompt->text.size;
    renderer->code = byte_buffer_append(&prompt->text, text, (int64_t)size, renderer->error);
    bool joins = !markup && prompt->count > 0 && !prompt->segments[prompt->count - 1].markup;
    if (renderer->code != 0) {
        return;
    }
    if (joins) {
        prompt->segments[prompt->count - 1].end = prompt->text.size;
        return;
    }
    if (prompt->count == prompt->capacity) {
        int64_t capacity = prompt->capacity == 0 ? 32 : prompt->capacity * 2;
        struct chat_segment *segments = memory_resize(prompt->segments, (size_t)capacity, sizeof(*segments),
                                                      "chat prompt", renderer->error);
        if (segments == NULL) {
            renderer->code = ERROR_MEMORY;
            return;
        }
        prompt->segments = segments;
        prompt->capacity = capacity;
    }
    prompt->segments[prompt->count++] = (struct chat_segment){begin, prompt->text.size, markup};
}

static void put(struct renderer *renderer, const char *text) {
    segment_extend(renderer, text, strlen(text), false);
}

static void mark(struct renderer *renderer, const char *token) {
    segment_extend(renderer, token, strlen(token), true);
}

// What stands behind the last (or first) "</think>" of an answer.
static const char *without_reasoning(const char *content, bool first) {
    const char *found;
    while ((found = strstr(content, THINK_END)) != NULL) {
        content = found + strlen(THINK_END);
        if (first) {
            break;
        }
    }
    return content;
}

// ---- parts that styles share ----

// type SEP name, then the arguments in a code fence.
static void put_fenced_call(struct renderer *renderer, const struct chat_tool_call *call) {
    mark(renderer, CALL_BEGIN);
    put(renderer, call->type != NULL ? call->type : "function");
    mark(renderer, SEPARATOR);
    put(renderer, call->name);
    put(renderer, "\n```json\n");
    put(renderer, call->arguments);
    put(renderer, "\n```");
    mark(renderer, CALL_END);
}

static void put_output(struct renderer *renderer, const char *content, const char *between) {
    if (renderer->is_output_first) {
        mark(renderer, OUTPUTS_BEGIN);
        renderer->is_output_first = false;
    } else {
        put(renderer, between);
    }
    mark(renderer, OUTPUT_BEGIN);
    put(renderer, content);
    mark(renderer, OUTPUT_END);
    renderer->is_tool = true;
}

// ---- v3, r1 ----

static void v3_calls(struct renderer *renderer, const struct chat_message *message) {
    renderer->is_tool = false;
    for (int64_t i = 0; i < message->tool_call_count; i++) {
        if (!renderer->is_first) {
            mark(renderer, ASSISTANT);
            if (message->content != NULL) {
                put(renderer, message->content);   // r1 only: v3 has none here
            }
            mark(renderer, CALLS_BEGIN);
            put_fenced_call(renderer, &message->tool_calls[i]);
            renderer->is_first = true;
        } else {
            put(renderer, "\n");
            put_fenced_call(renderer, &message->tool_calls[i]);
            if (renderer->style == CHAT_V3) {
                mark(renderer, CALLS_END);
                mark(renderer, EOS);
            }
        }
    }
    if (renderer->style != CHAT_V3) {
        mark(renderer, CALLS_END);
        mark(renderer, EOS);
    }
}

static void v3_message(struct renderer *renderer, const struct chat_message *message) {
    bool r1 = renderer->style != CHAT_V3;
    if (strcmp(message->role, "user") == 0) {
        renderer->is_tool = false;
        mark(renderer, USER);
        put(renderer, message->content);
    } else if (strcmp(message->role, "tool") == 0) {
        put_output(renderer, message->content, r1 ? "" : "\n");
    } else if (r1 ? message->tool_call_count > 0 : message->content == NULL) {
        v3_calls(renderer, message);
    } else if (message->content != NULL) {
        if (renderer->is_tool) {
            mark(renderer, OUTPUTS_END);
            put(renderer, message->content);
            renderer->is_tool = false;
        } else {
            mark(renderer, ASSISTANT);
            put(renderer, r1 ? without_reasoning(message->content, false) : message->content);
        }
        mark(renderer, EOS);
    }
}

static void v3_end(struct renderer *renderer) {
    if (renderer->is_tool) {
        mark(renderer, OUTPUTS_END);
    } else if (renderer->options->add_generation_prompt) {
        mark(renderer, ASSISTANT);
        if (renderer->style == CHAT_R1_THINK) {
            mark(renderer, THINK);
            put(renderer, "\n");
        }
    }
}

// ---- v3-0324, r1-0528 ----

static void v3_0324_message(struct renderer *renderer, const struct chat_message *message) {
    if (strcmp(message->role, "user") == 0) {
        renderer->is_tool = false;
        renderer->is_last_user = true;
        mark(renderer, USER);
        put(renderer, message->content);
        mark(renderer, ASSISTANT);
        return;
    }
    renderer->is_last_user = false;
    if (strcmp(message->role, "tool") == 0) {
        put_output(renderer, message->content, "\n");
        return;
    }
    const char *content = message->content;
    if (content != NULL && renderer->style == CHAT_R1_0528) {
        content = without_reasoning(content, false);
    }
    if (renderer->is_tool) {
        mark(renderer, OUTPUTS_END);
        renderer->is_tool = false;
    }
    if (content != NULL) {
        put(renderer, content);
    }
    if (message->tool_call_count > 0) {
        renderer->is_output_first = true;
        mark(renderer, CALLS_BEGIN);
        for (int64_t i = 0; i < message->tool_call_count; i++) {
            put(renderer, i > 0 ? "\n" : "");
            put_fenced_call(renderer, &message->tool_calls[i]);
        }
        mark(renderer, CALLS_END);
    }
    mark(renderer, EOS);
}

static void v3_0324_end(struct renderer *renderer) {
    if (renderer->is_tool) {
        mark(renderer, OUTPUTS_END);
    } else if (renderer->options->add_generation_prompt && !renderer->is_last_user) {
        mark(renderer, ASSISTANT);
    }
}

// ---- v3.1 ----

static void v3_1_message(struct renderer *renderer, const struct chat_message *message) {
    bool after_user = renderer->is_last_user, after_tool = renderer->is_tool;
    renderer->is_last_user = strcmp(message->role, "user") == 0;
    renderer->is_tool = strcmp(message->role, "tool") == 0;
    if (renderer->is_last_user) {
        mark(renderer, USER);
        put(renderer, message->content);
        return;
    }
    if (renderer->is_tool) {
        mark(renderer, OUTPUT_BEGIN);
        put(renderer, message->content);
        mark(renderer, OUTPUT_END);
        return;
    }
    bool calls = message->tool_call_count > 0;
    if (after_user) {
        mark(renderer, ASSISTANT);
        mark(renderer, !calls && message->prefix && renderer->options->thinking ? THINK : THINK_END);
    }
    if (message->content != NULL) {
        put(renderer, calls || after_tool ? message->content : without_reasoning(message->content, true));
    }
    for (int64_t i = 0; i < message->tool_call_count; i++) {
        mark(renderer, i == 0 ? CALLS_BEGIN : CALL_BEGIN);
        if (i == 0) {
            mark(renderer, CALL_BEGIN);
        }
        put(renderer, message->tool_calls[i].name);
        mark(renderer, SEPARATOR);
        put(renderer, message->tool_calls[i].arguments);
        mark(renderer, CALL_END);
    }
    if (calls) {
        mark(renderer, CALLS_END);
    }
    mark(renderer, EOS);
}

static void v3_1_end(struct renderer *renderer) {
    if (renderer->options->add_generation_prompt && renderer->is_last_user && !renderer->is_tool) {
        mark(renderer, ASSISTANT);
        mark(renderer, renderer->options->thinking ? THINK : THINK_END);
    }
}

// One tool of the JSON array: its name, description and parameters.
static int tool_put(struct renderer *renderer, const json_t *tool, struct error *error) {
    const json_t *function = json_object_get(tool, "function");
    const char *name, *description;
    function = function != NULL ? function : tool;
    int code = json_get_string(&name, function, "name", "tools", error);
    if (code != 0 || (code = json_get_string_or(&description, "", function, "description", "tools", error)) != 0) {
        return code;
    }
    const json_t *parameters = json_object_get(function, "parameters");
    char *text = parameters != NULL ? json_dumps(parameters, JSON_ENCODE_ANY) : memory_copy_string("{}", error);
    if (text == NULL) {
        return error_set(error, ERROR_MEMORY, "tools: out of memory");
    }
    put(renderer, "\n### ");
    put(renderer, name);
    put(renderer, "\nDescription: ");
    put(renderer, description);
    put(renderer, "\n\nParameters: ");
    put(renderer, text);
    put(renderer, "\n");
    memory_free(text);
    return renderer->code;
}

static int tools_put(struct renderer *renderer, const char *tools, bool has_system, struct error *error) {
    json_t *list;
    int code = json_parse(&list, tools, strlen(tools), "tools", error);
    if (code != 0) {
        return code;
    }
    if (!json_is_array(list)) {
        code = error_set(error, ERROR_FORMAT, "tools: expected an array, found %s", json_type_text(list));
    }
    if (code == 0 && json_array_size(list) > 0) {
        put(renderer, has_system ? "\n\n" : "");
        put(renderer, "## Tools\nYou have access to the following tools:\n");
        for (size_t i = 0; code == 0 && i < json_array_size(list); i++) {
            code = tool_put(renderer, json_array_get(list, i), error);
        }
        put(renderer, "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n");
        mark(renderer, CALLS_BEGIN);
        mark(renderer, CALL_BEGIN);
        put(renderer, "tool_call_name");
        mark(renderer, SEPARATOR);
        put(renderer, "tool_call_arguments");
        mark(renderer, CALL_END);
        put(renderer, "{additional_tool_calls}");
        mark(renderer, CALLS_END);
        put(renderer, "\n\nWhere:\n"
                      "- `tool_call_name` must be an exact match to one of the available tools\n"
                      "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
                      "- For multiple tool calls, chain them directly without separators or spaces\n");
    }
    json_decref(list);
    return code != 0 ? code : renderer->code;
}

// ---- whole ----

static int message_check(const struct chat_message *message, int64_t number, struct error *error) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    int role = 0;
    while (role < 4 && (message->role == NULL || strcmp(message->role, roles[role]) != 0)) {
        role++;
    }
    if (role == 4) {
        return error_set(error, ERROR_ARGUMENT,
                         "message %lld: role: found \"%.40s\", expected system, user, assistant or tool",
                         (long long)number, message->role != NULL ? message->role : "");
    }
    if (message->tool_call_count > 0 && role != 2) {
        return error_set(error, ERROR_ARGUMENT, "message %lld: only an assistant calls tools, found role \"%s\"",
                         (long long)number, message->role);
    }
    if (message->content == NULL && message->tool_call_count == 0) {
        return error_set(error, ERROR_ARGUMENT, "message %lld: role \"%s\" without content", (long long)number,
                         message->role);
    }
    for (int64_t i = 0; i < message->tool_call_count; i++) {
        if (message->tool_calls[i].name == NULL || message->tool_calls[i].arguments == NULL) {
            return error_set(error, ERROR_ARGUMENT, "message %lld: tool call %lld lacks a name or arguments",
                             (long long)number, (long long)i);
        }
    }
    return 0;
}

int chat_render(struct chat_prompt *prompt, enum chat_style style, const struct chat_message *messages, int64_t count,
                const struct chat_options *options, struct error *error) {
    struct renderer renderer = {
        .prompt = prompt, .style = style, .options = options, .error = error, .is_output_first = true};
    bool has_system = false;
    prompt->text.size = prompt->count = 0;
    for (int64_t i = 0; i < count; i++) {
        int code = message_check(&messages[i], i, error);
        if (code != 0) {
            return code;
        }
    }
    if (style != CHAT_V3_1 && (options->tools != NULL || options->thinking)) {
        return error_set(error, ERROR_ARGUMENT, "chat template %s has no %s, v3.1 has", style_names[style],
                         options->tools != NULL ? "form for tool descriptions" : "thinking mode");
    }
    mark(&renderer, BOS);
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(messages[i].role, "system") == 0) {
            put(&renderer, has_system ? "\n\n" : "");
            put(&renderer, messages[i].content);
            has_system = true;
        }
    }
    if (options->tools != NULL) {
        int code = tools_put(&renderer, options->tools, has_system, error);
        if (code != 0) {
            return code;
        }
    }
    bool newer = style == CHAT_V3_0324 || style == CHAT_R1_0528;
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(messages[i].role, "system") == 0) {
            continue;
        }
        if (style == CHAT_V3_1) {
            v3_1_message(&renderer, &messages[i]);
        } else if (newer) {
            v3_0324_message(&renderer, &messages[i]);
        } else {
            v3_message(&renderer, &messages[i]);
        }
    }
    if (style == CHAT_V3_1) {
        v3_1_end(&renderer);
    } else if (newer) {
        v3_0324_end(&renderer);
    } else {
        v3_end(&renderer);
    }
    return renderer.code;
}

int chat_encode(struct token_buffer *out, struct encoder *encoder, const struct chat_prompt *prompt,
                struct error *error) {
    int code = 0;
    for (int64_t i = 0; i < prompt->count && code == 0; i++) {
        const struct chat_segment *segment = &prompt->segments[i];
        const char *text = prompt->text.data + segment->begin;
        int64_t size = segment->end - segment->begin;
        if (!segment->markup) {
            code = encoder_encode(out, encoder, text, size, 0, error);
            continue;
        }
        int32_t id = tokenizer_find(encoder_tokenizer(encoder), text, size);
        code = id >= 0 ? token_buffer_append(out, id, error)
                       : error_set(error, ERROR_FORMAT,
                                   "the tokenizer has no token \"%.*s\" that the chat template needs", (int)size, text);
    }
    return code;
}

void chat_prompt_destroy(struct chat_prompt *prompt) {
    byte_buffer_destroy(&prompt->text);
    memory_free(prompt->segments);
    *prompt = (struct chat_prompt){0};
}
