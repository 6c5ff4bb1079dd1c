// Answers of /v1/chat/completions: the text goes through the answer parser, whose events become deltas of a stream or
// the fields of a message.
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "serve/api.h"
#include "serve/chunk.h"
#include "serve/server_private.h"

// ---- Log-probabilities: {"token", "logprob", "bytes", "top_logprobs"} a token ---------------------------------------

static void write_probability(struct text *out, const struct call *call, int32_t id, float value) {
    char *bytes;
    size_t size;
    token_bytes(&bytes, &size, call, id);
    text_string(out, "{\"token\":");
    text_json(out, bytes, size);
    text_string(out, ",\"logprob\":");
    text_number(out, (double)value);
    text_string(out, ",\"bytes\":[");
    for (size_t i = 0; i < size; i++) {
        text_format(out, i > 0 ? ",%u" : "%u", (unsigned)(unsigned char)bytes[i]);
    }
    text_string(out, "]");
    minke_free(bytes);
}

static void chat_entry(struct choice *choice, const struct pending_entry *entry) {
    struct text *out = &choice->entries[0];
    text_string(out, out->size > 0 ? "," : "");
    write_probability(out, choice->call, entry->record.id, entry->record.log_probability);
    text_string(out, ",\"top_logprobs\":[");
    for (int i = 0; i < entry->record.top_count; i++) {
        text_string(out, i > 0 ? "," : "");
        write_probability(out, choice->call, entry->tops[i].id, entry->tops[i].log_probability);
        text_string(out, "}");
    }
    text_string(out, "]}");
}

static void write_entries(struct text *out, struct choice *choice) {
    if (!choice->call->generation.log_probabilities) {
        text_string(out, "null");
        return;
    }
    text_string(out, "{\"content\":[");
    text_append(out, choice->entries[0].data, choice->entries[0].size);
    text_string(out, "],\"refusal\":null}");
    text_clear(&choice->entries[0]);
}

// ---- Chunks ---------------------------------------------------------------------------------------------------------

static void chunk_open(struct choice *choice) {
    struct call *call = choice->call;
    text_string(&call->output, "data: ");
    chunk_head(&call->output, call, ".chunk");
    text_format(&call->output, ",\"choices\":[{\"index\":%" PRId64 ",\"delta\":{", choice->index);
}

static void chunk_close(struct choice *choice, const char *finish) {
    struct call *call = choice->call;
    text_string(&call->output, "},\"logprobs\":");
    write_entries(&call->output, choice);
    if (finish != NULL) {
        text_format(&call->output, ",\"finish_reason\":\"%s\"", finish);
    } else {
        text_string(&call->output, ",\"finish_reason\":null");
    }
    text_string(&call->output, call->generation.include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
}

static void send_role(struct choice *choice) {
    if (choice->begun) {
        return;
    }
    choice->begun = true;
    struct call *call = choice->call;
    text_string(&call->output, "data: ");
    chunk_head(&call->output, call, ".chunk");
    text_format(&call->output,
                ",\"choices\":[{\"index\":%" PRId64 ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"
                ",\"logprobs\":null,\"finish_reason\":null}]%s}\n\n",
                choice->index, call->generation.include_usage ? ",\"usage\":null" : "");
}

static void write_call_id(struct text *out, const struct choice *choice, int64_t call) {
    text_format(out, "\"call_%s_%" PRId64 "_%" PRId64 "\"", choice->call->id + strlen(choice->call->format->id_prefix),
                choice->index, call);
}

static void stream_event(struct choice *choice, const struct answer_event *event) {
    struct text *out = &choice->call->output;
    if (event->kind == ANSWER_CALL_END) {
        return;
    }
    send_role(choice);
    chunk_open(choice);
    switch (event->kind) {
    case ANSWER_REASONING:
        text_string(out, "\"reasoning_content\":");
        text_json(out, event->text, event->size);
        break;
    case ANSWER_CONTENT:
        text_string(out, "\"content\":");
        text_json(out, event->text, event->size);
        break;
    case ANSWER_CALL_BEGIN:
        text_format(out, "\"tool_calls\":[{\"index\":%" PRId64 ",\"id\":", event->call);
        write_call_id(out, choice, event->call);
        text_string(out, ",\"type\":\"function\",\"function\":{\"name\":");
        text_json(out, event->text, event->size);
        text_string(out, ",\"arguments\":\"\"}}]");
        break;
    case ANSWER_CALL_ARGUMENTS:
        text_format(out, "\"tool_calls\":[{\"index\":%" PRId64 ",\"function\":{\"arguments\":", event->call);
        text_json(out, event->text, event->size);
        text_string(out, "}}]");
        break;
    case ANSWER_CALL_END:
        break;
    }
    chunk_close(choice, NULL);
}

static bool add_tool(struct choice *choice) {
    struct tool_call_output *grown = memory_resize(choice->tools, (size_t)choice->tool_count + 1, sizeof *grown,
                                                   "tool calls", NULL);
    if (grown == NULL) {
        failure_set(&choice->call->failure, 500, NULL, NULL, "out of memory");
        return false;
    }
    choice->tools = grown;
    choice->tools[choice->tool_count++] = (struct tool_call_output){0};
    return true;
}

// A piece of the answer: into the stream, or into the message.
static void on_answer(void *argument, const struct answer_event *event) {
    struct choice *choice = argument;
    if (event->kind == ANSWER_CALL_BEGIN && !add_tool(choice)) {
        return;
    }
    if (event->kind == ANSWER_REASONING) {
        choice->reasoning_tokens = choice->tokens;
    }
    if (choice->call->generation.stream) {
        stream_event(choice, event);
        return;
    }
    struct tool_call_output *tool = choice->tool_count > 0 ? &choice->tools[choice->tool_count - 1] : NULL;
    switch (event->kind) {
    case ANSWER_REASONING:
        text_append(&choice->reasoning, event->text, event->size);
        break;
    case ANSWER_CONTENT:
        text_append(&choice->content, event->text, event->size);
        break;
    case ANSWER_CALL_BEGIN:
        text_append(&tool->name, event->text, event->size);
        break;
    case ANSWER_CALL_ARGUMENTS:
        if (tool != NULL) {
            text_append(&tool->arguments, event->text, event->size);
        }
        break;
    case ANSWER_CALL_END:
        break;
    }
}

// ---- The format -----------------------------------------------------------------------------------------------------

static int chat_start(struct choice *choice, struct failure *failure) {
    const struct call *call = choice->call;
    const struct answer_options options = {
        .style = (enum minke_chat_style)call->server->chat_style, .reasoning = call->reasoning, .tools = call->tools};
    struct error error = {0};
    if (answer_parser_create(&choice->parser, &options, on_answer, choice, &error) != 0) {
        return failure_set(failure, 500, NULL, NULL, "%s", error.text);
    }
    return 0;
}

static void chat_text(struct choice *choice, const char *data, size_t size) {
    answer_parser_push(choice->parser, data, size);
}

static void chat_end(struct choice *choice) {
    answer_parser_finish(choice->parser);
    if (choice->call->generation.stream) {
        send_role(choice);
        chunk_open(choice);
        chunk_close(choice, finish_reason(choice));
    }
    if (choice->call->server->options.reuse_ids && choice->index == 0) {
        reuse_remember(&choice->call->server->reuse, choice->call->server->tokenizer, &choice->call->prompts[0],
                       choice->ids, choice->id_count);
    }
}

static void chat_usage(struct call *call) {
    text_string(&call->output, "data: ");
    chunk_head(&call->output, call, ".chunk");
    text_string(&call->output, ",\"choices\":[],\"usage\":");
    usage_write(&call->output, call);
    text_string(&call->output, "}\n\n");
}

static void write_tools(struct text *out, const struct choice *choice) {
    text_string(out, ",\"tool_calls\":[");
    for (int64_t i = 0; i < choice->tool_count; i++) {
        text_string(out, i > 0 ? ",{\"id\":" : "{\"id\":");
        write_call_id(out, choice, i);
        text_string(out, ",\"type\":\"function\",\"function\":{\"name\":");
        text_json(out, choice->tools[i].name.data, choice->tools[i].name.size);
        text_string(out, ",\"arguments\":");
        text_json(out, choice->tools[i].arguments.data, choice->tools[i].arguments.size);
        text_string(out, "}}");
    }
    text_string(out, "]");
}

static void write_message(struct text *out, struct choice *choice) {
    text_format(out, "{\"index\":%" PRId64 ",\"message\":{\"role\":\"assistant\",\"content\":", choice->index);
    if (choice->content.size == 0 && choice->tool_count > 0) {
        text_string(out, "null");
    } else {
        text_json(out, choice->content.data, choice->content.size);
    }
    text_string(out, ",\"refusal\":null");
    if (choice->reasoning.size > 0) {
        text_string(out, ",\"reasoning_content\":");
        text_json(out, choice->reasoning.data, choice->reasoning.size);
    }
    if (choice->tool_count > 0) {
        write_tools(out, choice);
    }
    text_string(out, "},\"logprobs\":");
    write_entries(out, choice);
    text_format(out, ",\"finish_reason\":\"%s\"}", finish_reason(choice));
    out->failed |= choice->content.failed || choice->reasoning.failed;
}

static void chat_whole(struct call *call) {
    struct text *out = &call->output;
    chunk_head(out, call, "");
    text_string(out, ",\"choices\":[");
    for (int64_t i = 0; i < call->choice_count; i++) {
        text_string(out, i > 0 ? "," : "");
        write_message(out, &call->choices[i]);
    }
    text_string(out, "],\"usage\":");
    usage_write(out, call);
    text_string(out, "}");
}

const struct answer_format chat_format = {
    .start = chat_start,
    .text = chat_text,
    .entry = chat_entry,
    .end = chat_end,
    .usage = chat_usage,
    .whole = chat_whole,
    .object = "chat.completion",
    .id_prefix = "chatcmpl-",
};
