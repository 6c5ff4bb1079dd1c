// Answers of /v1/completions: chunks of a stream, whole bodies, and log-probabilities as four lists side by side.
#include <inttypes.h>
#include <string.h>

#include "serve/api.h"
#include "serve/chunk.h"
#include "serve/server_private.h"

enum { TOKENS, TOKEN_VALUES, TOP_VALUES, OFFSETS };

// A token as a JSON string: its text, or "bytes:\xe2\x80" where the bytes alone are no text. (A zero byte would be,
// but not every JSON parser takes it in a key.)
static void write_token(struct text *out, const struct call *call, int32_t id) {
    char *bytes;
    size_t size;
    token_bytes(&bytes, &size, call, id);
    if (size == 0 || (utf8_is_valid(bytes, size) && memchr(bytes, '\0', size) == NULL)) {
        text_json(out, bytes, size);
    } else {
        text_string(out, "\"bytes:");
        for (size_t i = 0; i < size; i++) {
            text_format(out, "\\\\x%02x", (unsigned char)bytes[i]);
        }
        text_string(out, "\"");
    }
    minke_free(bytes);
}

struct top_list {
    struct text names[TOP_LOG_PROBABILITIES_MAX + 1];
    float values[TOP_LOG_PROBABILITIES_MAX + 1];
    int count;
};

// An object has each key once: of tokens that look alike the likelier one stays.
static void add_top(struct top_list *list, const struct call *call, int32_t id, float value) {
    struct text name = {0};
    write_token(&name, call, id);
    for (int i = 0; i < list->count; i++) {
        if (list->names[i].size == name.size && memcmp(list->names[i].data, name.data, name.size) == 0) {
            list->values[i] = value > list->values[i] ? value : list->values[i];
            text_destroy(&name);
            return;
        }
    }
    list->names[list->count] = name;
    list->values[list->count++] = value;
}

// The likeliest tokens and the one that was chosen.
static void write_top(struct text *out, const struct call *call, const struct pending_entry *entry) {
    struct top_list list = {0};
    for (int i = 0; i < entry->record.top_count; i++) {
        add_top(&list, call, entry->tops[i].id, entry->tops[i].log_probability);
    }
    add_top(&list, call, entry->record.id, entry->record.log_probability);
    text_string(out, "{");
    for (int i = 0; i < list.count; i++) {
        text_string(out, i > 0 ? "," : "");
        text_append(out, list.names[i].data, list.names[i].size);
        text_string(out, ":");
        text_number(out, (double)list.values[i]);
        text_destroy(&list.names[i]);
    }
    text_string(out, "}");
}

static void completions_entry(struct choice *choice, const struct pending_entry *entry) {
    const char *separator = choice->entries[TOKENS].size > 0 ? "," : "";
    for (int i = 0; i < ENTRY_LISTS; i++) {
        text_string(&choice->entries[i], separator);
    }
    const struct token_record *record = &entry->record;
    write_token(&choice->entries[TOKENS], choice->call, record->id);
    if (record->has_value) {
        text_number(&choice->entries[TOKEN_VALUES], (double)record->log_probability);
        write_top(&choice->entries[TOP_VALUES], choice->call, entry);
    } else {
        text_string(&choice->entries[TOKEN_VALUES], "null");
        text_string(&choice->entries[TOP_VALUES], "null");
    }
    text_format(&choice->entries[OFFSETS], "%zu", choice->offset);
    if (record->prompt && !record->has_value && choice->call->bos_added) {
        return;   // a token of ours in front of the client's text
    }
    char *bytes;
    size_t size;
    token_bytes(&bytes, &size, choice->call, record->id);
    choice->offset += utf8_count(bytes, size);
    minke_free(bytes);
}

static void write_entries(struct text *out, struct choice *choice) {
    if (!choice->call->generation.log_probabilities) {
        text_string(out, "null");
        return;
    }
    static const char *const names[ENTRY_LISTS] = {
        [TOKENS] = "{\"tokens\":[",
        [TOKEN_VALUES] = "],\"token_logprobs\":[",
        [TOP_VALUES] = "],\"top_logprobs\":[",
        [OFFSETS] = "],\"text_offset\":[",
    };
    for (int i = 0; i < ENTRY_LISTS; i++) {
        text_string(out, names[i]);
        text_append(out, choice->entries[i].data, choice->entries[i].size);
        text_clear(&choice->entries[i]);
    }
    text_string(out, "]}");
}

static void write_choice(struct text *out, struct choice *choice, const char *data, size_t size, bool end) {
    text_format(out, "{\"index\":%" PRId64 ",\"text\":", choice->index);
    text_json(out, data, size);
    text_string(out, ",\"logprobs\":");
    write_entries(out, choice);
    if (end) {
        text_format(out, ",\"finish_reason\":\"%s\"}", finish_reason(choice));
    } else {
        text_string(out, ",\"finish_reason\":null}");
    }
}

static void write_chunk(struct choice *choice, const char *data, size_t size, bool end) {
    struct call *call = choice->call;
    text_string(&call->output, "data: ");
    chunk_head(&call->output, call, "");
    text_string(&call->output, ",\"choices\":[");
    write_choice(&call->output, choice, data, size, end);
    text_string(&call->output, call->generation.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

// With echo the prompt stands in front of the answer.
static void write_echo(struct choice *choice) {
    struct call *call = choice->call;
    if (!call->echo || choice->begun) {
        return;
    }
    choice->begun = true;
    const struct prompt *prompt = &call->prompts[choice->prompt];
    char *text = NULL;
    size_t size = 0, skip = call->bos_added ? 1 : 0;
    struct minke_error error = {0};
    if (minke_decode(&text, &size, call->server->tokenizer, prompt->ids + skip, prompt->count - (int64_t)skip,
                     &error) != 0) {
        failure_set(&call->failure, 500, NULL, NULL, "%s", error.text);
        return;
    }
    if (call->generation.stream) {
        write_chunk(choice, text, size, false);
    } else {
        text_append(&choice->content, text, size);
    }
    minke_free(text);
}

static void completions_text(struct choice *choice, const char *data, size_t size) {
    write_echo(choice);
    if (choice->call->generation.stream) {
        write_chunk(choice, data, size, false);
    } else {
        text_append(&choice->content, data, size);
    }
}

static void completions_end(struct choice *choice) {
    write_echo(choice);
    if (choice->call->generation.stream) {
        write_chunk(choice, "", 0, true);
    }
}

static void completions_usage(struct call *call) {
    text_string(&call->output, "data: ");
    chunk_head(&call->output, call, "");
    text_string(&call->output, ",\"choices\":[],\"usage\":");
    usage_write(&call->output, call);
    text_string(&call->output, "}\n\n");
}

static void completions_whole(struct call *call) {
    struct text *out = &call->output;
    chunk_head(out, call, "");
    text_string(out, ",\"choices\":[");
    for (int64_t i = 0; i < call->choice_count; i++) {
        struct choice *choice = &call->choices[i];
        text_string(out, i > 0 ? "," : "");
        write_choice(out, choice, choice->content.data, choice->content.size, true);
        out->failed |= choice->content.failed;
    }
    text_string(out, "],\"usage\":");
    usage_write(out, call);
    text_string(out, "}");
}

const struct answer_format completions_format = {
    .text = completions_text,
    .entry = completions_entry,
    .end = completions_end,
    .usage = completions_usage,
    .whole = completions_whole,
    .object = "text_completion",
    .id_prefix = "cmpl-",
    .end_tokens = true,
};
