// One API call that generates: n answers to one or more prompts, each a request of the engine.
//
//     HTTP thread                                inference thread
//     parse, encode, call_create, call_submit
//     suspend the connection                     minke_engine_step -> call_on_event: append a record,
//                                                wake the connection
//     call_collect: take the records, decode,
//     find stop strings, format, send
//
// The two sides meet in `incoming` of a choice, under the call's lock; everything else of a choice belongs to the side
// named beside it. A call lives until the HTTP side has let go of it (call_abandon) and the engine has finished all its
// requests.
#ifndef MINKE_SERVE_CALL_H
#define MINKE_SERVE_CALL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "minke.h"
#include "serve/answer_parser.h"
#include "serve/failure.h"
#include "serve/generation.h"
#include "serve/grammar.h"
#include "serve/stop.h"
#include "serve/text.h"

struct MHD_Connection;
struct call;
struct choice;
struct server;

// One token as the engine reported it; its likeliest tokens are tops[top_first .. top_first + top_count).
struct token_record {
    int32_t id;
    float log_probability;
    bool prompt;      // a token of the prompt was scored
    bool end;         // an end token: no text
    bool has_value;   // false: the first token of a prompt has no probability
    uint8_t top_count;
    int64_t top_first;
};
struct record_batch {
    struct token_record *records;
    struct minke_token_probability *tops;
    int64_t count, capacity, top_count, top_capacity;
};

// A token whose place in the text is not yet certain, because a stop string might begin there.
struct pending_entry {
    struct token_record record;
    struct minke_token_probability tops[TOP_LOG_PROBABILITIES_MAX];
    size_t begin, end;   // bytes of the answer's text
};

struct tool_call_output {
    struct text name, arguments;
};

enum { ENTRY_LISTS = 4 };

struct choice {
    struct call *call;
    int64_t index, prompt;   // which answer, to which prompt
    int64_t number;          // the engine's
    bool submitted;

    // Between the two sides, under the call's lock.
    struct record_batch incoming;
    bool finished, out_of_memory;
    enum minke_finish finish;
    int64_t prompt_tokens, cached_tokens, answer_tokens;
    struct failure failure;

    // Inference thread.
    struct minke_decoder watch_decoder;   // stop strings are looked for here too, so that the engine stops at once
    struct stop_scanner watch;
    struct grammar_state *grammar_state;
    double first_token, last_token;

    // HTTP side: the answer so far.
    struct record_batch taken;
    struct minke_decoder decoder;
    struct stop_scanner scanner;
    struct answer_parser *parser;   // chat only
    struct text piece, released;    // scratch
    struct text content, reasoning;
    struct tool_call_output *tools;
    int64_t tool_count;
    struct text entries[ENTRY_LISTS];   // log-probabilities, as the format writes them
    int64_t entry_count;
    struct pending_entry *pending;
    int64_t pending_count, pending_capacity;
    size_t seen, certain;               // bytes of text decoded, and of them released
    size_t offset;                      // characters in front of the token that comes next
    int64_t tokens, reasoning_tokens;   // of the answer, and until reasoning ended
    bool begun, stopped, ended;         // begun: the role, or with echo the prompt, has been written
    int32_t *ids;                       // of the answer, kept for reuse
    int64_t id_count, id_capacity;
};

// How an API writes its answers; every function appends to the call's output or to the choice.
struct answer_format {
    int (*start)(struct choice *choice, struct failure *failure);   // may be NULL
    void (*text)(struct choice *choice, const char *data, size_t size);
    void (*entry)(struct choice *choice, const struct pending_entry *entry);
    void (*end)(struct choice *choice);   // the answer is complete
    void (*usage)(struct call *call);     // stream: the last chunk
    void (*whole)(struct call *call);     // not a stream: the body
    const char *object, *id_prefix;
    bool end_tokens;   // log-probabilities of end tokens are reported
};

struct prompt {
    int32_t *ids;
    int64_t count;
};

struct call {
    struct server *server;
    const struct answer_format *format;
    struct generation generation;
    struct prompt *prompts;   // owned
    int64_t prompt_count;
    struct choice *choices;   // prompt_count * n
    int64_t choice_count;
    bool echo, score_prompt, bos_added;   // completions; bos_added: in front of prompts that came as text
    bool tools;                           // chat: calls are looked for
    bool is_chat;
    enum answer_reasoning reasoning;   // chat
    struct grammar *grammar;
    char id[48];
    char *model;   // as the client called it
    int64_t created;

    // Under the lock.
    pthread_mutex_t lock;
    struct MHD_Connection *connection;
    int64_t references;   // the HTTP side and every request that is not finished
    int64_t unfinished;
    bool suspended;
    bool news;             // something was delivered since call_collect
    bool gone;             // the client has left, or the time of the call is over
    bool keep_alive_due;   // the monitor asks for a sign of life

    // HTTP side.
    struct text output;   // what is to be sent
    size_t sent;          // of it
    bool finished;        // everything is in `output`
    struct failure failure;
    double started, last_output;   // last_output: under the lock
};

// Takes over the prompts and the generation (both become empty). The grammar, which may be NULL, stays the caller's
// until 0 is returned.
int call_create(struct call **call, struct server *server, const struct answer_format *format,
                struct generation *generation, struct prompt *prompts, int64_t prompt_count, struct failure *failure);
// Hands all choices to the engine. After a failure the call is to be abandoned.
int call_submit(struct call *call, struct failure *failure);
// The HTTP side is through, or the client has gone: cancels what still runs.
void call_abandon(struct call *call);
// Asks the engine to stop what still runs; the requests end with MINKE_FINISH_CANCELLED.
void call_cancel(struct call *call);
// The engine has failed for good: what still runs is answered with an error.
void call_fail(struct call *call);
// The client has left: nothing more is sent.
void call_disconnect(struct call *call);
// Suspends the connection until there is something to do. Returns false, without suspending, if there is something to
// do already.
bool call_wait(struct call *call, struct MHD_Connection *connection);
// Asks for a sign of life from a connection that has been silent for `seconds`.
void call_keep_alive(struct call *call, double seconds);
bool call_is_gone(struct call *call);
// Takes what the engine has delivered and formats it into call->output; sets call->finished with the last of it.
void call_collect(struct call *call);
// Whether all choices are finished.
bool call_is_done(struct call *call);

int call_on_event(void *argument, const struct minke_event *event);   // argument: the choice

#endif
