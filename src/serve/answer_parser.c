// A state machine that takes one byte after the other (see answer_parser.h). `held` has the bytes, as they came, that
// are not decided yet. In a text state they are the beginning of a marker; within the head of a call they are all of
// the head, so that it can still become content.
#include "serve/answer_parser.h"

#include <string.h>

#include "base/memory.h"
#include "serve/markers.h"

#define HELD_LIMIT 512   // the head of a call: two markers, separator, type and name
#define NAME_LIMIT 256
#define TYPE_LIMIT 64
#define BLANKS_LIMIT 64   // white space held back at a time
#define OUT_LIMIT 4096

enum parser_state {
    STATE_BEFORE,            // <think> may come
    STATE_OPENED,            // inside <think>, which the model may write once more
    STATE_REASONING_BEGIN,   // line breaks behind <think>
    STATE_REASONING,
    STATE_REASONING_END,   // line breaks behind </think>
    STATE_CONTENT,
    STATE_CALLS,       // behind calls-begin: a call must come
    STATE_TYPE,        // call-begin ... separator
    STATE_NAME,        // ... line break (v3.1: separator)
    STATE_FENCE,       // ```json
    STATE_ARGUMENTS,   // ... end of fence, call-end
    STATE_BETWEEN,     // behind call-end: another call or calls-end
};

struct answer_parser {
    struct answer_options options;
    answer_callback callback;
    void *argument;
    enum parser_state state;
    int64_t calls;
    bool fenced;
    char held[HELD_LIMIT];
    size_t held_size;
    size_t mark;   // head of a call: where in `held` the type or name begins
    enum answer_event_kind out_kind;
    char out[OUT_LIMIT];
    size_t out_size;
};

static void feed(struct answer_parser *parser, char byte);

enum answer_reasoning answer_reasoning(enum minke_chat_style style, const char *last_role, bool thinking) {
    bool after_tool = strcmp(last_role, "tool") == 0;
    switch (style) {
    case MINKE_CHAT_R1:
    case MINKE_CHAT_R1_0528:
        return REASONING_POSSIBLE;
    case MINKE_CHAT_R1_THINK:
        return after_tool ? REASONING_POSSIBLE : REASONING_OPEN;
    case MINKE_CHAT_V3_1:
        return thinking && strcmp(last_role, "user") == 0 ? REASONING_OPEN : REASONING_NONE;
    case MINKE_CHAT_V3:
    case MINKE_CHAT_V3_0324:
        break;
    }
    return REASONING_NONE;
}

int answer_parser_create(struct answer_parser **out, const struct answer_options *options, answer_callback callback,
                         void *argument, struct error *error) {
    struct answer_parser *parser = memory_allocate(1, sizeof *parser, "answer parser", error);
    *out = parser;
    if (parser == NULL) {
        return ERROR_MEMORY;
    }
    parser->options = *options;
    parser->callback = callback;
    parser->argument = argument;
    parser->state = options->reasoning == REASONING_OPEN       ? STATE_OPENED
                    : options->reasoning == REASONING_POSSIBLE ? STATE_BEFORE
                                                               : STATE_CONTENT;
    return 0;
}

void answer_parser_free(struct answer_parser *parser) {
    memory_free(parser);
}

int64_t answer_parser_calls(const struct answer_parser *parser) {
    return parser->calls;
}

// ---- events ----

static void event_send(struct answer_parser *parser, enum answer_event_kind kind, const char *text, size_t size,
                       bool cut) {
    bool of_call = kind != ANSWER_REASONING && kind != ANSWER_CONTENT;
    struct answer_event event = {kind, of_call ? parser->calls - 1 : -1, text, size, cut};
    parser->callback(parser->argument, &event);
}

static void flush(struct answer_parser *parser) {
    if (parser->out_size > 0) {
        event_send(parser, parser->out_kind, parser->out, parser->out_size, false);
        parser->out_size = 0;
    }
}

// Joins text of one kind; a full buffer is sent before a byte that begins a character.
static void put(struct answer_parser *parser, enum answer_event_kind kind, char byte) {
    bool begins = ((unsigned char)byte & 0xC0) != 0x80;
    if (parser->out_kind != kind || parser->out_size == OUT_LIMIT || (parser->out_size > OUT_LIMIT - 4 && begins)) {
        flush(parser);
    }
    parser->out_kind = kind;
    parser->out[parser->out_size++] = byte;
}

static void call_begin(struct answer_parser *parser, const char *name, size_t size) {
    flush(parser);
    parser->calls++;
    parser->fenced = false;
    event_send(parser, ANSWER_CALL_BEGIN, name, size, false);
}

static void call_end(struct answer_parser *parser, bool cut) {
    flush(parser);
    event_send(parser, ANSWER_CALL_END, NULL, 0, cut);
}

// ---- markers ----

static bool held_is(const struct answer_parser *parser, const char *marker) {
    return parser->held_size == strlen(marker) && memcmp(parser->held, marker, parser->held_size) == 0;
}

static bool held_begins(const struct answer_parser *parser, size_t from, const char *marker) {
    size_t size = parser->held_size - from;
    return size <= strlen(marker) && memcmp(parser->held + from, marker, size) == 0;
}

static bool held_ends(const struct answer_parser *parser, const char *marker) {
    size_t size = strlen(marker);
    return parser->held_size >= size && memcmp(parser->held + parser->held_size - size, marker, size) == 0;
}

static size_t held_blanks(const struct answer_parser *parser) {
    size_t count = 0;
    while (count < parser->held_size && strchr(" \n\r\t", parser->held[count]) != NULL && parser->held[count] != 0) {
        count++;
    }
    return count;
}

// Forgets the held bytes: they were markup.
static void enter(struct answer_parser *parser, enum parser_state state) {
    parser->state = state;
    parser->held_size = 0;
}

// The held bytes from `from` on are looked at anew in another state; those before are content.
static void reconsider(struct answer_parser *parser, size_t from, enum parser_state state) {
    char copy[HELD_LIMIT];
    size_t size = parser->held_size;
    memcpy(copy, parser->held, size);
    enter(parser, state);
    for (size_t i = 0; i < size; i++) {
        if (i < from) {
            put(parser, ANSWER_CONTENT, copy[i]);
        } else {
            feed(parser, copy[i]);
        }
    }
}

// What was held does not become a call. A calls-begin at its start is no marker any more, one behind may be.
static void not_a_call(struct answer_parser *parser) {
    bool opened = parser->held_size >= strlen(MARKER_CALLS_BEGIN) &&
                  memcmp(parser->held, MARKER_CALLS_BEGIN, strlen(MARKER_CALLS_BEGIN)) == 0;
    reconsider(parser, opened ? strlen(MARKER_CALLS_BEGIN) : 0, STATE_CONTENT);
}

// ---- text: reasoning, content, arguments ----

// The first held byte is text: it is given away, the others are considered again.
static void release_first(struct answer_parser *parser, enum answer_event_kind kind) {
    put(parser, kind, parser->held[0]);
    parser->held_size--;
    memmove(parser->held, parser->held + 1, parser->held_size);
}

static void feed_reasoning(struct answer_parser *parser) {
    while (parser->held_size > 0) {
        size_t breaks = 0;
        while (breaks < parser->held_size && parser->held[breaks] == '\n') {
            breaks++;
        }
        if (breaks <= BLANKS_LIMIT && held_begins(parser, breaks, MARKER_THINK_END)) {
            if (parser->held_size - breaks == strlen(MARKER_THINK_END)) {
                enter(parser, STATE_REASONING_END);
            }
            return;
        }
        release_first(parser, ANSWER_REASONING);
    }
}

static void feed_content(struct answer_parser *parser) {
    while (parser->held_size > 0) {
        if (parser->options.tools && held_begins(parser, 0, MARKER_CALLS_BEGIN)) {
            if (held_is(parser, MARKER_CALLS_BEGIN)) {
                parser->state = STATE_CALLS;
                parser->mark = parser->held_size;
            }
            return;
        }
        release_first(parser, ANSWER_CONTENT);
    }
}

// What ends the arguments: the first two need an open fence.
static const char *const argument_ends[] = {
    MARKER_FENCE_END MARKER_CALL_END,
    MARKER_FENCE_END "\n" MARKER_CALL_END,
    MARKER_FENCE_END MARKER_CALLS_END,
    MARKER_CALL_END,
    MARKER_CALLS_END,
    MARKER_CALL_BEGIN,
};
#define FENCED_ENDS 3
#define ARGUMENT_ENDS (sizeof argument_ends / sizeof argument_ends[0])

static void feed_arguments(struct answer_parser *parser) {
    while (parser->held_size > 0) {
        bool may_end = false;
        for (size_t i = parser->fenced ? 0 : FENCED_ENDS; i < ARGUMENT_ENDS; i++) {
            if (held_is(parser, argument_ends[i])) {
                call_end(parser, false);
                if (held_ends(parser, MARKER_CALL_BEGIN)) {
                    parser->mark = parser->held_size;
                    parser->state = parser->options.style == MINKE_CHAT_V3_1 ? STATE_NAME : STATE_TYPE;
                } else {
                    enter(parser, held_ends(parser, MARKER_CALL_END) ? STATE_BETWEEN : STATE_CONTENT);
                }
                return;
            }
            may_end = may_end || held_begins(parser, 0, argument_ends[i]);
        }
        if (may_end) {
            return;
        }
        release_first(parser, ANSWER_CALL_ARGUMENTS);
    }
}

// ---- the head of a call ----

// Behind calls-begin (at `mark`) or call-end (mark 0): white space, then a call or the end of the calls.
static void feed_next_call(struct answer_parser *parser) {
    size_t at = parser->mark;
    while (at < parser->held_size && (parser->held[at] == '\n' || parser->held[at] == ' ')) {
        at++;
    }
    if (at - parser->mark <= BLANKS_LIMIT) {
        if (held_begins(parser, at, MARKER_CALL_BEGIN)) {
            if (parser->held_size - at == strlen(MARKER_CALL_BEGIN)) {
                parser->mark = parser->held_size;
                parser->state = parser->options.style == MINKE_CHAT_V3_1 ? STATE_NAME : STATE_TYPE;
            }
            return;
        }
        if (parser->state == STATE_BETWEEN && held_begins(parser, at, MARKER_CALLS_END)) {
            if (parser->held_size - at == strlen(MARKER_CALLS_END)) {
                enter(parser, STATE_CONTENT);
            }
            return;
        }
    }
    not_a_call(parser);
}

static bool head_is_broken(const struct answer_parser *parser) {
    return held_ends(parser, MARKER_CALL_BEGIN) || held_ends(parser, MARKER_CALL_END) ||
           held_ends(parser, MARKER_CALLS_BEGIN) || held_ends(parser, MARKER_CALLS_END);
}

static void feed_type(struct answer_parser *parser) {
    size_t size = parser->held_size - parser->mark;
    if (held_ends(parser, MARKER_SEPARATOR) && size >= strlen(MARKER_SEPARATOR)) {
        parser->mark = parser->held_size;
        parser->state = STATE_NAME;
    } else if (size > TYPE_LIMIT || parser->held[parser->held_size - 1] == '\n' || head_is_broken(parser)) {
        not_a_call(parser);
    }
}

// The name ends `end_size` bytes before the end of what is held.
static void name_finish(struct answer_parser *parser, size_t end_size, enum parser_state state) {
    char name[HELD_LIMIT];
    size_t begin = parser->mark, end = parser->held_size - end_size;
    while (begin < end && strchr(" \n\r\t", parser->held[begin]) != NULL) {
        begin++;
    }
    while (end > begin && strchr(" \n\r\t", parser->held[end - 1]) != NULL) {
        end--;
    }
    if (begin == end) {
        not_a_call(parser);
        return;
    }
    memcpy(name, parser->held + begin, end - begin);
    enter(parser, state);
    call_begin(parser, name, end - begin);
    if (state == STATE_BETWEEN) {
        parser->mark = 0;
        call_end(parser, false);
    }
}

static void feed_name(struct answer_parser *parser) {
    bool v3_1 = parser->options.style == MINKE_CHAT_V3_1;
    if (v3_1 && held_ends(parser, MARKER_SEPARATOR)) {
        name_finish(parser, strlen(MARKER_SEPARATOR), STATE_ARGUMENTS);
    } else if (!v3_1 && parser->held[parser->held_size - 1] == '\n') {
        name_finish(parser, 1, STATE_FENCE);
    } else if (!v3_1 && held_ends(parser, MARKER_CALL_END)) {
        name_finish(parser, strlen(MARKER_CALL_END), STATE_BETWEEN);   // a call without arguments
    } else if (parser->held_size - parser->mark > NAME_LIMIT || head_is_broken(parser)) {
        not_a_call(parser);
    }
}

static void feed_fence(struct answer_parser *parser) {
    if (held_is(parser, MARKER_FENCE) || held_is(parser, "```\n")) {
        parser->fenced = true;
        enter(parser, STATE_ARGUMENTS);
    } else if (!held_begins(parser, 0, MARKER_FENCE) && !held_begins(parser, 0, "```\n")) {
        reconsider(parser, 0, STATE_ARGUMENTS);
    }
}

// ---- the beginning ----

static void feed_think(struct answer_parser *parser) {
    size_t blanks = held_blanks(parser);
    bool opened = parser->state == STATE_OPENED;
    if (blanks <= BLANKS_LIMIT && held_begins(parser, blanks, MARKER_THINK)) {
        if (parser->held_size - blanks == strlen(MARKER_THINK)) {
            enter(parser, STATE_REASONING_BEGIN);
        }
    } else {
        reconsider(parser, 0, opened ? STATE_REASONING_BEGIN : STATE_CONTENT);
    }
}

// Line breaks next to a marker are dropped.
static void feed_breaks(struct answer_parser *parser, enum parser_state next) {
    if (parser->held[0] == '\n') {
        parser->held_size = 0;
    } else {
        reconsider(parser, 0, next);
    }
}

static void feed(struct answer_parser *parser, char byte) {
    CHECK(parser->held_size < HELD_LIMIT, "%zu bytes held in state %d", parser->held_size, (int)parser->state);
    parser->held[parser->held_size++] = byte;
    switch (parser->state) {
    case STATE_BEFORE:
    case STATE_OPENED:
        feed_think(parser);
        break;
    case STATE_REASONING_BEGIN:
        feed_breaks(parser, STATE_REASONING);
        break;
    case STATE_REASONING:
        feed_reasoning(parser);
        break;
    case STATE_REASONING_END:
        feed_breaks(parser, STATE_CONTENT);
        break;
    case STATE_CONTENT:
        feed_content(parser);
        break;
    case STATE_CALLS:
        feed_next_call(parser);
        break;
    case STATE_TYPE:
        feed_type(parser);
        break;
    case STATE_NAME:
        feed_name(parser);
        break;
    case STATE_FENCE:
        feed_fence(parser);
        break;
    case STATE_ARGUMENTS:
        feed_arguments(parser);
        break;
    case STATE_BETWEEN:
        parser->mark = 0;
        feed_next_call(parser);
        break;
    }
}

void answer_parser_push(struct answer_parser *parser, const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        feed(parser, text[i]);
    }
    flush(parser);
}

static void put_held(struct answer_parser *parser, enum answer_event_kind kind) {
    for (size_t i = 0; i < parser->held_size; i++) {
        put(parser, kind, parser->held[i]);
    }
    parser->held_size = 0;
}

void answer_parser_finish(struct answer_parser *parser) {
    size_t fence = strlen(MARKER_FENCE_END);
    switch (parser->state) {
    case STATE_FENCE:
        call_end(parser, true);   // a part of a fence is no argument
        break;
    case STATE_ARGUMENTS:
        if (!parser->fenced || parser->held_size < fence || memcmp(parser->held, MARKER_FENCE_END, fence) != 0) {
            put_held(parser, ANSWER_CALL_ARGUMENTS);
        }
        call_end(parser, true);
        break;
    case STATE_OPENED:
    case STATE_REASONING:
    case STATE_REASONING_BEGIN:
        put_held(parser, ANSWER_REASONING);
        break;
    case STATE_BETWEEN:
        if (held_blanks(parser) < parser->held_size) {
            put_held(parser, ANSWER_CONTENT);
        }
        break;
    default:
        put_held(parser, ANSWER_CONTENT);
        break;
    }
    parser->held_size = 0;
    flush(parser);
}
