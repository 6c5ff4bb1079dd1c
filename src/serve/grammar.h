// Constrained output: which tokens may come next so that an answer is JSON, follows a JSON schema, or is a tool call.
//
//     struct token_vocabulary *vocabulary;            once for a tokenizer        (token_vocabulary.h)
//     struct grammar *grammar;                        once for a request, shared by its choices
//     struct grammar_state *state;                    one for each choice (n of them), lives until its last event
//     token_vocabulary_create(&vocabulary, tokenizer, end_tokens, end_count, &error);
//     grammar_create(&grammar, &request, vocabulary, &error);          a failure is the client's: HTTP 400
//     if (grammar != NULL) {                                           NULL: nothing is to be restricted
//         grammar_state_create(&state, grammar, &error);
//         filter = grammar_state_filter(state);                        goes into struct minke_request
//     }
//
// A grammar restricts every token to those after which the answer can still be completed; end tokens are allowed
// exactly when it is complete. It never runs into a dead end. docs/constrained-decoding.md has the supported keywords,
// the limits and the rules for white space and order.
//
// Threads: grammar_create from any thread. A state belongs to one request: its filter is called by the engine only.
// Nothing is allocated by the filter.
#ifndef MINKE_SERVE_GRAMMAR_H
#define MINKE_SERVE_GRAMMAR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "minke.h"
#include "serve/token_vocabulary.h"

struct grammar;
struct grammar_state;

enum tool_choice {
    TOOL_CHOICE_AUTO,       // free text until the model opens a call by itself; from there on the call is constrained
    TOOL_CHOICE_NONE,       // the token that opens calls is forbidden
    TOOL_CHOICE_REQUIRED,   // the answer is one or more calls
    TOOL_CHOICE_NAMED,      // the answer is one call of `tool_name`
};

// Where an answer stands when it begins (answer_reasoning of answer_parser.h tells).
enum answer_reasoning {
    REASONING_NONE,       // this model does not reason: "<think>" is text
    REASONING_POSSIBLE,   // the model may open <think> by itself, as the first thing of its answer
    REASONING_OPEN,       // the prompt ends inside <think>: the answer begins with reasoning
};

struct grammar_request {               // all zero: nothing is restricted
    enum minke_chat_style style;       // how calls are written; used with tools only
    enum answer_reasoning reasoning;   // reasoning is free; the constraint begins behind </think>
    const json_t *response_format;     // NULL, or {"type": "text" | "json_object"} or {"type": "json_schema",
                                       // "json_schema": {"name", "schema", "strict", "description"}} as in OpenAI's API
    const json_t *tools;               // NULL, or an array of {"type": "function", "function": {"name", "description",
                                       // "parameters", "strict"}}. strict true: arguments follow the schema
                                       // `parameters`; otherwise they are any JSON object
    enum tool_choice tool_choice;
    const char *tool_name;   // TOOL_CHOICE_NAMED
    bool single_call;        // parallel_tool_calls false: no second call
};
// Nothing of the request is needed afterwards; the vocabulary is, as long as the grammar. *grammar is NULL with return
// 0 if the request restricts nothing. Errors are ERROR_ARGUMENT (or ERROR_LIMIT, ERROR_MEMORY); the text starts with
// the request's key and names the place and the keyword:
//   response_format: #/properties/a/not: keyword "not" is not supported
//   tools[2]: #/properties/b: ...
int grammar_create(struct grammar **grammar, const struct grammar_request *request, struct token_vocabulary *vocabulary,
                   struct error *error);
void grammar_free(struct grammar *grammar);   // NULL is fine; after its states

int grammar_state_create(struct grammar_state **state, const struct grammar *grammar, struct error *error);
void grammar_state_free(struct grammar_state *state);   // NULL is fine
// The filter's argument is the state.
struct minke_token_filter grammar_state_filter(struct grammar_state *state);
// Whether the answer so far is complete (an end token may come, or has come). A constrained answer that ends otherwise
// was cut (finish_reason "length").
bool grammar_state_is_complete(const struct grammar_state *state);

#endif
