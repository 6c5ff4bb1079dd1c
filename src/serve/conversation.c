// Messages in OpenAI's form -> messages of the template, and tools described in words for templates without a place
// for them.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/api.h"
#include "serve/fields.h"

#define MESSAGES_MAX 65536

static int fail_at(struct failure *failure, size_t message, const char *key, const char *text) {
    char param[64];
    snprintf(param, sizeof param, "messages[%zu]%s%s", message, key[0] != '\0' ? "." : "", key);
    return failure_set(failure, 400, NULL, param, "'%s': %s", param, text);
}

static const char *known_role(const char *role) {
    static const char *const roles[][2] = {
        {"system", "system"}, {"developer", "system"}, {"user", "user"}, {"assistant", "assistant"}, {"tool", "tool"}};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(role, roles[i][0]) == 0) {
            return roles[i][1];
        }
    }
    return NULL;
}

// Joins the text parts of a content that is a list.
static int join_parts(struct text *out, const json_t *parts, size_t message, struct failure *failure) {
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (type != NULL && strcmp(type, "text") != 0) {
            return fail_at(failure, message, "content", "expected parts of type \"text\": this model reads text only");
        }
        if (!json_is_string(text)) {
            return fail_at(failure, message, "content", "expected parts {\"type\": \"text\", \"text\": \"...\"}");
        }
        text_append(out, json_string_value(text), json_string_length(text));
    }
    return out->failed ? failure_set(failure, 500, NULL, NULL, "out of memory") : 0;
}

static int read_content(const char **content, struct conversation *conversation, const json_t *message, size_t index,
                        struct failure *failure) {
    const json_t *value = field_value(message, "content");
    *content = NULL;
    if (value == NULL) {
        return 0;
    }
    size_t size;
    if (json_is_array(value)) {
        struct text *text = &conversation->texts[conversation->text_count++];
        if (join_parts(text, value, index, failure) != 0) {
            return failure->status;
        }
        *content = text->size > 0 ? text->data : "";
        size = text->size;
    } else if (json_is_string(value)) {
        *content = json_string_value(value);
        size = json_string_length(value);
    } else {
        return fail_at(failure, index, "content", "expected a string or an array of text parts");
    }
    return strlen(*content) == size ? 0 : fail_at(failure, index, "content", "expected text without zero bytes");
}

// NULL for anything but a string without zero bytes.
static const char *plain_string(const json_t *value) {
    const char *text = json_string_value(value);
    return text != NULL && strlen(text) == json_string_length(value) ? text : NULL;
}

static int read_tool_calls(struct minke_message *message, struct minke_tool_call *calls, const json_t *list,
                           size_t index, struct failure *failure) {
    message->tool_calls = calls;
    message->tool_call_count = (int64_t)json_array_size(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *function = json_object_get(json_array_get(list, i), "function");
        calls[i].name = plain_string(json_object_get(function, "name"));
        calls[i].arguments = plain_string(json_object_get(function, "arguments"));
        if (calls[i].name == NULL || calls[i].arguments == NULL) {
            return fail_at(failure, index, "tool_calls",
                           "expected calls {\"type\": \"function\", \"function\": {\"name\": \"...\", \"arguments\": "
                           "\"...\"}} with strings");
        }
    }
    return 0;
}

static int read_message(struct conversation *conversation, struct minke_tool_call **calls, const json_t *value,
                        size_t index, struct failure *failure) {
    if (!json_is_object(value)) {
        return fail_at(failure, index, "", "expected an object");
    }
    const char *role = json_string_value(json_object_get(value, "role"));
    if (role == NULL || (role = known_role(role)) == NULL) {
        return fail_at(failure, index, "role", "expected system, developer, user, assistant or tool");
    }
    if (json_is_true(json_object_get(value, "prefix"))) {
        return fail_at(failure, index, "prefix", "answers that begin with a given text are not supported");
    }
    struct minke_message *message = &conversation->messages[conversation->message_count];
    *message = (struct minke_message){.role = role};
    if (read_content(&message->content, conversation, value, index, failure) != 0) {
        return failure->status;
    }
    const json_t *list = field_value(value, "tool_calls");
    if (list != NULL && (!json_is_array(list) || strcmp(role, "assistant") != 0)) {
        return fail_at(failure, index, "tool_calls", "expected an array, in a message of the assistant");
    }
    if (json_array_size(list) > 0) {
        if (read_tool_calls(message, *calls, list, index, failure) != 0) {
            return failure->status;
        }
        *calls += json_array_size(list);
    } else if (message->content == NULL && strcmp(role, "assistant") == 0) {
        message->content = "";
    } else if (message->content == NULL) {
        return fail_at(failure, index, "content", "expected a string or an array of text parts, found nothing");
    }
    conversation->message_count++;
    conversation->last_role = role;
    return 0;
}

// Puts the description of the tools behind the system message, or makes one of it.
static int add_tools_text(struct conversation *conversation, const char *tools_text, struct failure *failure) {
    struct text *text = &conversation->texts[conversation->text_count++];
    struct minke_message *first = conversation->messages;
    if (conversation->message_count > 0 && strcmp(first->role, "system") == 0) {
        text_string(text, first->content);
        text_string(text, "\n\n");
    } else {
        memmove(first + 1, first, (size_t)conversation->message_count * sizeof *first);
        *first = (struct minke_message){.role = "system"};
        conversation->message_count++;
    }
    text_string(text, tools_text);
    first->content = text->data;
    return text->failed ? failure_set(failure, 500, NULL, NULL, "out of memory") : 0;
}

int conversation_parse(struct conversation *conversation, const json_t *messages, const char *tools_text,
                       struct failure *failure) {
    *conversation = (struct conversation){0};
    size_t count = json_array_size(messages), call_count = 0;
    if (!json_is_array(messages) || count == 0 || count > MESSAGES_MAX) {
        return failure_set(failure, 400, NULL, "messages", "'messages': expected an array of 1..%d messages",
                           MESSAGES_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        call_count += json_array_size(json_object_get(json_array_get(messages, i), "tool_calls"));
    }
    conversation->messages = memory_allocate(count + 1, sizeof *conversation->messages, "messages", NULL);
    conversation->calls = memory_allocate(call_count + 1, sizeof *conversation->calls, "tool calls", NULL);
    conversation->texts = memory_allocate(count + 1, sizeof *conversation->texts, "messages", NULL);
    if (conversation->messages == NULL || conversation->calls == NULL || conversation->texts == NULL) {
        return failure_set(failure, 500, NULL, NULL, "out of memory");
    }
    struct minke_tool_call *calls = conversation->calls;
    for (size_t i = 0; i < count; i++) {
        if (read_message(conversation, &calls, json_array_get(messages, i), i, failure) != 0) {
            return failure->status;
        }
    }
    return tools_text != NULL ? add_tools_text(conversation, tools_text, failure) : 0;
}

void conversation_destroy(struct conversation *conversation) {
    for (int64_t i = 0; i < conversation->text_count; i++) {
        text_destroy(&conversation->texts[i]);
    }
    memory_free(conversation->texts);
    memory_free(conversation->calls);
    memory_free(conversation->messages);
    *conversation = (struct conversation){0};
}

int tools_describe(struct text *out, const json_t *tools, struct failure *failure) {
    text_string(out, "## Tools\nYou have access to the following functions:\n");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        char *text = json_is_object(function) ? json_dumps(function, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
        if (text == NULL) {
            return failure_set(failure, 400, NULL, "tools",
                               "'tools[%zu]': expected {\"type\": \"function\", \"function\": {...}}", i);
        }
        text_format(out, "\n%s\n", text);
        memory_free(text);
    }
    text_string(out, "\nTo call functions, write\n"
                     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n"
                     "ARGUMENTS\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>\n"
                     "with the name of a function and its arguments as JSON that follows its parameters.");
    return out->failed ? failure_set(failure, 500, NULL, NULL, "out of memory") : 0;
}
