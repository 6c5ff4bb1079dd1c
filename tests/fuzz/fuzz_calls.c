// An answer made of reasoning, content and calls in one of the six styles, read by the answer parser in pieces: what
// comes out is what went in. Input: style, size of the pieces, number of line breaks; then reasoning, content, and name
// and arguments of each call, in parts. Parts that contain a marker are left out: they would be read as one.
#include <string.h>

#include "fuzz/fuzz.h"
#include "serve/answer_parser.h"
#include "serve/markers.h"
#include "serve/text.h"

#define CALLS 4

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
}

struct answer {
    struct text reasoning, content, names[CALLS], arguments[CALLS];
    int calls;
    bool open;
};

static void destroy(struct answer *answer) {
    text_destroy(&answer->reasoning);
    text_destroy(&answer->content);
    for (int i = 0; i < CALLS; i++) {
        text_destroy(&answer->names[i]);
        text_destroy(&answer->arguments[i]);
    }
}

static void take(void *argument, const struct answer_event *event) {
    struct answer *answer = argument;
    switch (event->kind) {
    case ANSWER_REASONING:
        text_append(&answer->reasoning, event->text, event->size);
        break;
    case ANSWER_CONTENT:
        text_append(&answer->content, event->text, event->size);
        break;
    case ANSWER_CALL_BEGIN:
        CHECK(!answer->open && answer->calls < CALLS && event->call == answer->calls, "call %lld",
              (long long)event->call);
        answer->open = true;
        text_append(&answer->names[answer->calls], event->text, event->size);
        break;
    case ANSWER_CALL_ARGUMENTS:
        CHECK(answer->open, "arguments without a call");
        text_append(&answer->arguments[answer->calls], event->text, event->size);
        break;
    case ANSWER_CALL_END:
        CHECK(answer->open && !event->cut, "the end of a call");
        answer->open = false;
        answer->calls++;
        break;
    }
}

// Text that a marker could begin or end in would be read together with its neighbours.
static bool is_plain(const struct fuzz_part *part) {
    return part->size > 0 && part->size < 200 && strpbrk(part->text, "<`") == NULL &&
           memmem(part->text, part->size, "\xEF\xBD\x9C", 3) == NULL;
}

static bool is_name(const struct fuzz_part *part) {
    return is_plain(part) && strpbrk(part->text, " \n\r\t") == NULL;
}

static void add_call(struct text *whole, const struct fuzz_part *name, const struct fuzz_part *arguments, bool v3_1,
                     bool first) {
    if (v3_1) {
        text_format(whole, MARKER_CALL_BEGIN "%s" MARKER_SEPARATOR, name->text);
        text_append(whole, arguments->text, arguments->size);
    } else {
        text_format(whole, "%s" MARKER_CALL_BEGIN "function" MARKER_SEPARATOR "%s\n" MARKER_FENCE, first ? "" : "\n",
                    name->text);
        text_append(whole, arguments->text, arguments->size);
        text_string(whole, MARKER_FENCE_END);
    }
    text_string(whole, MARKER_CALL_END);
}

static bool same(const struct text *text, const struct fuzz_part *part) {
    return text->size == part->size && (part->size == 0 || memcmp(text->data, part->text, part->size) == 0);
}

void fuzz_one(const uint8_t *data, size_t size) {
    static struct fuzz_part reasoning, content, names[CALLS], arguments[CALLS];
    struct fuzz_input input = {data, size};
    uint8_t mode = fuzz_take_byte(&input);
    unsigned piece = fuzz_take_byte(&input) % 31 + 1u, breaks = fuzz_take_byte(&input) % 3;
    const struct answer_options options = {(enum minke_chat_style)(mode % 6), (enum answer_reasoning)(mode / 6 % 3),
                                           true};
    bool v3_1 = options.style == MINKE_CHAT_V3_1;
    struct text whole = {0};
    struct answer answer = {0};
    reasoning = fuzz_take(&input);
    content = fuzz_take(&input);
    int calls = 0;
    bool thinks = options.reasoning != REASONING_NONE && is_plain(&reasoning) && reasoning.text[0] != '\n' &&
                  reasoning.text[reasoning.size - 1] != '\n';
    if (thinks) {
        text_format(&whole, "%s%.*s", options.reasoning == REASONING_OPEN ? "" : MARKER_THINK, (int)breaks, "\n\n");
        text_append(&whole, reasoning.text, reasoning.size);
        text_format(&whole, "%.*s" MARKER_THINK_END "%.*s", (int)breaks, "\n\n", (int)breaks, "\n\n");
    } else if (options.reasoning == REASONING_OPEN) {
        text_string(&whole, MARKER_THINK_END);
    }
    bool speaks = is_plain(&content) && strpbrk(content.text, " \n\r\t") != content.text;
    if (speaks) {
        text_append(&whole, content.text, content.size);
    }
    while (calls < CALLS && input.size > 0) {
        names[calls] = fuzz_take(&input);
        arguments[calls] = fuzz_take(&input);
        if (is_name(&names[calls]) && is_plain(&arguments[calls]) && strchr(arguments[calls].text, '\n') == NULL) {
            text_string(&whole, calls == 0 ? MARKER_CALLS_BEGIN : "");
            add_call(&whole, &names[calls], &arguments[calls], v3_1, calls == 0);
            calls++;
        }
    }
    text_string(&whole, calls > 0 ? MARKER_CALLS_END : "");

    struct answer_parser *parser;
    CHECK(answer_parser_create(&parser, &options, take, &answer, NULL) == 0, "memory");
    for (size_t at = 0; at < whole.size;) {
        size_t step = piece < whole.size - at ? piece : whole.size - at;
        answer_parser_push(parser, whole.data + at, step);
        at += step;
        piece = piece * 5 % 31 + 1;
    }
    answer_parser_finish(parser);
    CHECK(answer_parser_calls(parser) == calls && answer.calls == calls && !answer.open, "%d calls of %d in %s",
          answer.calls, calls, whole.data);
    CHECK(thinks ? same(&answer.reasoning, &reasoning) : answer.reasoning.size == 0, "reasoning of %s", whole.data);
    CHECK(speaks ? same(&answer.content, &content) : answer.content.size == 0, "content of %s", whole.data);
    for (int i = 0; i < calls; i++) {
        CHECK(same(&answer.names[i], &names[i]) && same(&answer.arguments[i], &arguments[i]), "call %d of %s", i,
              whole.data);
    }
    answer_parser_free(parser);
    text_destroy(&whole);
    destroy(&answer);
}
