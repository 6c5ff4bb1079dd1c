// The routes: path and method -> handler. A new endpoint is a row in routes.c and a handler.
#ifndef MINKE_SERVE_API_H
#define MINKE_SERVE_API_H

#include <stdbool.h>

#include "serve/http.h"

struct route {
    const char *method, *path;   // a path that ends with '*' stands for everything that begins so
    void (*handle)(struct exchange *exchange);
    bool open;        // no API key is asked for
    bool generates;   // refused while the server drains
};
// The route, or NULL with a failure of 404, or of 405 with the methods that there are in `allowed`.
const struct route *route_find(const char *method, const char *path, char allowed[64], struct failure *failure);

extern const struct answer_format chat_format, completions_format;

void api_chat(struct exchange *exchange);
void api_completions(struct exchange *exchange);
void api_tokenize(struct exchange *exchange);
void api_detokenize(struct exchange *exchange);
void api_tokenizer_info(struct exchange *exchange);
void api_models(struct exchange *exchange);
void api_model(struct exchange *exchange);
void api_health(struct exchange *exchange);
void api_metrics(struct exchange *exchange);
void api_engine(struct exchange *exchange);
void api_page(struct exchange *exchange);

// What the generating handlers share.

// Whether `model` of the body is one of ours; *name is what the client called it, *reasoner whether that name asks for
// thinking (1), asks for none (0) or does not say (-1).
int api_check_model(const char **name, int *reasoner, const struct server *server, const json_t *body,
                    struct failure *failure);
// Whether the prompts fit and the queue has room for so many answers.
int api_check_room(struct server *server, const struct prompt *prompts, int64_t count,
                   const struct generation *generation, bool score_only, struct failure *failure);
void prompts_destroy(struct prompt *prompts, int64_t count);

// Messages of a conversation: JSON -> struct minke_message.
struct conversation {
    struct minke_message *messages;
    struct minke_tool_call *calls;
    struct text *texts;   // contents that were put together of parts
    int64_t message_count, text_count;
    const char *last_role;
};
// `tools_text`: descriptions of tools for templates that have no place for them, NULL = none; they go into the system
// message.
int conversation_parse(struct conversation *conversation, const json_t *messages, const char *tools_text,
                       struct failure *failure);
void conversation_destroy(struct conversation *conversation);
// Describes tools in words, with the form of a call.
int tools_describe(struct text *out, const json_t *tools, struct failure *failure);

#endif
