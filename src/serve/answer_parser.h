// The text of an answer, piece by piece -> what it consists of: reasoning, content, tool calls.
//
//     <think> reasoning </think> content CALLS_BEGIN CALL_BEGIN ... CALL_END CALLS_END
//
//   v3, v3-0324, r1 (all three)   CALL_BEGIN type SEPARATOR name "\n```json\n" arguments "\n```" CALL_END, next after
//   "\n" v3.1                          CALL_BEGIN name SEPARATOR arguments CALL_END, next directly
//
// Every byte is looked at once, in order: however a text is cut into pieces, the events, joined, are the same. Bytes
// that may begin a marker are held back until it is clear (at most 512 bytes: a marker, or the head of a call).
//
// Nothing is lost. What does not become a call arrives as content, markers included: a calls-begin without a call, a
// call without separator or name, text between or behind calls. A call whose name is known is delivered as far as it
// comes: arguments are passed on as the model wrote them, valid JSON or not; a missing fence, call-end or calls-end is
// forgiven. Only the markers, the fence and the white space between well-formed parts are left out, and the line
// breaks next to <think> and </think>. Markers count also inside the arguments' strings: models write them as tokens,
// never as text. Rules in full: docs/constrained-decoding.md.
#ifndef MINKE_SERVE_ANSWER_PARSER_H
#define MINKE_SERVE_ANSWER_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "minke.h"
#include "serve/grammar.h"

struct answer_parser;

enum answer_event_kind {
    ANSWER_REASONING,        // text: a piece of reasoning_content
    ANSWER_CONTENT,          // text: a piece of content
    ANSWER_CALL_BEGIN,       // text: the name of the function, whole
    ANSWER_CALL_ARGUMENTS,   // text: a piece of the arguments
    ANSWER_CALL_END,         // no text
};
struct answer_event {
    enum answer_event_kind kind;
    int64_t call;       // number of the call in this answer, from 0; -1 for reasoning and content
    const char *text;   // not terminated; valid during the callback. Whole characters if the pushed pieces are
    size_t size;        // never 0 but for CALL_END
    bool cut;           // CALL_END: the answer ended before the call did
};
typedef void (*answer_callback)(void *argument, const struct answer_event *event);

// What the answer to a prompt begins with. last_role: the role of the last message of the conversation. thinking:
// MINKE_CHAT_THINKING was given. Styles r1-think and v3.1 open <think> in the prompt, but not after a tool's result.
enum answer_reasoning answer_reasoning(enum minke_chat_style style, const char *last_role, bool thinking);

struct answer_options {
    enum minke_chat_style style;
    enum answer_reasoning reasoning;
    bool tools;   // calls are looked for; without it their markers are content
};
int answer_parser_create(struct answer_parser **parser, const struct answer_options *options, answer_callback callback,
                         void *argument, struct error *error);
void answer_parser_free(struct answer_parser *parser);   // NULL is fine
// Calls back for what became clear, neighbouring text of one kind joined into one event. Does not allocate.
void answer_parser_push(struct answer_parser *parser, const char *text, size_t size);
// The end of the answer: what was held back, and the end of an open call. To be called once.
void answer_parser_finish(struct answer_parser *parser);
// How many calls have begun (finish_reason "tool_calls" if any).
int64_t answer_parser_calls(const struct answer_parser *parser);

#endif
