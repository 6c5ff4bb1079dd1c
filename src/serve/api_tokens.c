// POST /tokenize and /detokenize, GET /tokenizer_info: as vLLM has them, so that evaluation tools can use the server's
// tokenizer.
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/api.h"
#include "serve/fields.h"
#include "serve/server_private.h"

static void reply_json(struct exchange *exchange) {
    exchange->status = 200;
    exchange->content_type = "application/json";
}

// ---- /tokenize ------------------------------------------------------------------------------------------------------

struct tokenize_request {
    const json_t *prompt, *messages;
    bool special, generation_prompt, strings;
};

static int encode_messages(struct prompt *prompt, const struct server *server, const struct tokenize_request *request,
                           struct failure *failure) {
    struct conversation conversation;
    struct minke_error error = {0};
    if (conversation_parse(&conversation, request->messages, NULL, failure) == 0 &&
        minke_encode_chat(&prompt->ids, &prompt->count, server->tokenizer, conversation.messages,
                          conversation.message_count, NULL,
                          request->generation_prompt ? MINKE_CHAT_GENERATION_PROMPT : 0, &error) != 0) {
        failure_set(failure, 400, NULL, "messages", "%s", error.text);
    }
    conversation_destroy(&conversation);
    return failure->status;
}

static int encode(struct prompt *prompt, const struct server *server, const struct tokenize_request *request,
                  struct failure *failure) {
    if (request->messages != NULL) {
        return encode_messages(prompt, server, request, failure);
    }
    if (!json_is_string(request->prompt)) {
        return field_mismatch("prompt", "a string", request->prompt, failure);
    }
    struct minke_error error = {0};
    if (minke_encode(&prompt->ids, &prompt->count, server->tokenizer, json_string_value(request->prompt),
                     json_string_length(request->prompt), request->special && server->add_bos ? MINKE_ENCODE_BOS : 0,
                     &error) != 0) {
        return failure_set(failure, 400, NULL, "prompt", "%s", error.text);
    }
    return 0;
}

static void write_token_strings(struct text *out, const struct server *server, const struct prompt *prompt) {
    text_string(out, ",\"token_strs\":[");
    for (int64_t i = 0; i < prompt->count; i++) {
        char *text = NULL;
        size_t size = 0;
        struct minke_error error = {0};
        text_string(out, i > 0 ? "," : "");
        if (minke_decode(&text, &size, server->tokenizer, &prompt->ids[i], 1, &error) == 0) {
            text_json(out, text, size);
        } else {
            text_string(out, "\"\"");
        }
        minke_free(text);
    }
    text_string(out, "]");
}

static int tokenize(struct exchange *exchange, const json_t *body) {
    const struct server *server = exchange->server;
    struct failure *failure = &exchange->failure;
    struct tokenize_request request = {.special = true, .generation_prompt = true};
    const char *name;
    int ignored;
    request.messages = field_value(body, "messages");
    request.prompt = field_value(body, "prompt");
    if (request.prompt == NULL) {
        request.prompt = field_value(body, "content");   // llama.cpp's name
        request.special = request.prompt == NULL;
    }
    if (api_check_model(&name, &ignored, server, body, failure) != 0 ||
        field_boolean(&request.special, body, "add_special_tokens", failure) != 0 ||
        field_boolean(&request.special, body, "add_special", failure) != 0 ||
        field_boolean(&request.generation_prompt, body, "add_generation_prompt", failure) != 0 ||
        field_boolean(&request.strings, body, "return_token_strs", failure) != 0) {
        return failure->status;
    }
    struct prompt prompt = {0};
    if (encode(&prompt, server, &request, failure) != 0) {
        return failure->status;
    }
    struct text *out = &exchange->reply;
    text_format(out, "{\"count\":%" PRId64 ",\"max_model_len\":%" PRId64 ",\"tokens\":[", prompt.count,
                server->context);
    for (int64_t i = 0; i < prompt.count; i++) {
        text_format(out, i > 0 ? ",%" PRId32 : "%" PRId32, prompt.ids[i]);
    }
    text_string(out, "]");
    if (request.strings) {
        write_token_strings(out, server, &prompt);
    }
    text_string(out, "}");
    memory_free(prompt.ids);
    reply_json(exchange);
    return 0;
}

static void with_body(struct exchange *exchange, int (*handle)(struct exchange *exchange, const json_t *body)) {
    json_t *body;
    if (fields_parse(&body, exchange->body.data, exchange->body.size, exchange->server->options.json_depth,
                     &exchange->failure) == 0) {
        handle(exchange, body);
        json_decref(body);
    }
}

void api_tokenize(struct exchange *exchange) {
    with_body(exchange, tokenize);
}

// ---- /detokenize ----------------------------------------------------------------------------------------------------

static int detokenize(struct exchange *exchange, const json_t *body) {
    const struct server *server = exchange->server;
    const json_t *tokens = field_value(body, "tokens");
    int32_t *ids = NULL;
    int64_t count = 0;
    if (!json_is_array(tokens)) {
        return field_mismatch("tokens", "an array of token ids", tokens, &exchange->failure);
    }
    int64_t size = minke_tokenizer_vocab_size(server->tokenizer);
    if (field_ids(&ids, &count, tokens, "tokens", size, &exchange->failure) != 0) {
        return exchange->failure.status;
    }
    char *text = NULL;
    size_t length = 0;
    struct minke_error error = {0};
    if (minke_decode(&text, &length, server->tokenizer, ids, count, &error) != 0) {
        failure_set(&exchange->failure, 400, NULL, "tokens", "%s", error.text);
    } else {
        text_string(&exchange->reply, "{\"prompt\":");
        text_json(&exchange->reply, text, length);
        text_string(&exchange->reply, ",\"content\":");
        text_json(&exchange->reply, text, length);
        text_string(&exchange->reply, "}");
        reply_json(exchange);
    }
    minke_free(text);
    memory_free(ids);
    return exchange->failure.status;
}

void api_detokenize(struct exchange *exchange) {
    with_body(exchange, detokenize);
}

// ---- /tokenizer_info ------------------------------------------------------------------------------------------------

static json_t *token_text(const struct server *server, int32_t id) {
    char *text = NULL;
    size_t size = 0;
    struct minke_error error = {0};
    if (id < 0 || minke_decode(&text, &size, server->tokenizer, &id, 1, &error) != 0) {
        return json_null();
    }
    json_t *string = json_stringn(text, size);
    minke_free(text);
    return string;
}

// tokenizer_config.json, with the special tokens as plain strings (the file may have objects there).
void api_tokenizer_info(struct exchange *exchange) {
    const struct server *server = exchange->server;
    json_t *info = json_copy(server->tokenizer_config);
    json_t *pad = json_object_get(info, "pad_token");
    pad = json_is_object(pad) ? json_object_get(pad, "content") : pad;
    bool good = info != NULL &&
                json_object_set_new(info, "bos_token", token_text(server, minke_tokenizer_bos(server->tokenizer))) ==
                    0 &&
                json_object_set_new(info, "eos_token", token_text(server, minke_tokenizer_eos(server->tokenizer))) ==
                    0 &&
                json_object_set(info, "pad_token", json_is_string(pad) ? pad : json_null()) == 0 &&
                json_object_set_new(info, "max_model_len", json_integer(server->context)) == 0;
    char *text = good ? json_dumps(info, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    if (text != NULL) {
        text_string(&exchange->reply, text);
        reply_json(exchange);
    } else {
        failure_set(&exchange->failure, 500, NULL, NULL, "out of memory");
    }
    memory_free(text);
    json_decref(info);
}
