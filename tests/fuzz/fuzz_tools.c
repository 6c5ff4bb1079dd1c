// Any JSON as the tools of a request, in the six styles and under every tool_choice, with a response format beside it.
// What a random walk over the masks writes is taken apart by the answer parser: calls of tools that there are, whose
// arguments are JSON objects that follow the parameters of strict tools; as many as tool_choice says. Content under a
// response format is a value of it.
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "fuzz/fuzz.h"
#include "fuzz/with_grammar.h"
#include "fuzz/with_schema.h"
#include "serve/answer_parser.h"
#include "serve/text.h"

#define TEXT_LIMIT 4096
#define WALKS 3

const bool fuzz_leaves_memory = true;   // the tokenizer keeps the memory of its longest text

static struct walker walker;

void fuzz_open(void) {
    walker_open(&walker);
}

struct answer {
    const struct grammar_request *request;
    struct text content, name, arguments;
    int calls;
};

static const json_t *find_function(const json_t *tools, const struct text *name) {
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        const json_t *known = json_object_get(function, "name");
        if (json_string_length(known) == name->size && memcmp(json_string_value(known), name->data, name->size) == 0) {
            return function;
        }
    }
    return NULL;
}

static void check_call(const struct answer *answer) {
    const struct grammar_request *request = answer->request;
    const json_t *function = find_function(request->tools, &answer->name);
    CHECK(function != NULL, "no tool \"%s\"", answer->name.data);
    CHECK(request->tool_choice != TOOL_CHOICE_NAMED || strcmp(answer->name.data, request->tool_name) == 0,
          "\"%s\" instead of \"%s\"", answer->name.data, request->tool_name);
    json_t *value = json_loadb(answer->arguments.data, answer->arguments.size, 0, NULL);
    const json_t *parameters = json_object_get(function, "parameters");
    CHECK(json_is_object(value), "arguments %s", answer->arguments.data);
    CHECK(!json_is_true(json_object_get(function, "strict")) || parameters == NULL ||
              schema_accepts(parameters, parameters, value, 0),
          "arguments %s", answer->arguments.data);
    json_decref(value);
}

static void take(void *argument, const struct answer_event *event) {
    struct answer *answer = argument;
    switch (event->kind) {
    case ANSWER_REASONING:
        break;
    case ANSWER_CONTENT:
        text_append(&answer->content, event->text, event->size);
        break;
    case ANSWER_CALL_BEGIN:
        text_clear(&answer->name);
        text_clear(&answer->arguments);
        text_append(&answer->name, event->text, event->size);
        answer->calls++;
        break;
    case ANSWER_CALL_ARGUMENTS:
        text_append(&answer->arguments, event->text, event->size);
        break;
    case ANSWER_CALL_END:
        CHECK(!event->cut, "a call that is cut");
        check_call(answer);
        break;
    }
}

static void check_content(const struct answer *answer) {
    const struct grammar_request *request = answer->request;
    const char *type = json_string_value(json_object_get(request->response_format, "type"));
    if (answer->calls > 0 || type == NULL || strncmp(type, "json", 4) != 0) {
        return;
    }
    const json_t *schema = json_object_get(json_object_get(request->response_format, "json_schema"), "schema");
    json_t *value = json_loadb(answer->content.data, answer->content.size, JSON_DECODE_ANY, NULL);
    CHECK(value != NULL, "no JSON: %s", answer->content.data);
    CHECK(strcmp(type, "json_object") == 0 ? json_is_object(value) : schema_accepts(schema, schema, value, 0),
          "not of the response format: %s", answer->content.data);
    json_decref(value);
}

static bool is_blank(const struct text *text) {
    return text->size == 0 || strspn(text->data, " \t\n") == text->size;
}

static void check_walk(const struct grammar *grammar, const struct grammar_request *request, uint64_t seed) {
    const struct answer_options options = {request->style, request->reasoning,
                                           request->tools != NULL && request->tool_choice != TOOL_CHOICE_NONE};
    struct answer answer = {.request = request};
    struct answer_parser *parser;
    size_t size;
    char *text = walker_walk(&size, &walker, grammar, seed);
    if (text == NULL) {
        return;
    }
    CHECK(answer_parser_create(&parser, &options, take, &answer, NULL) == 0, "memory");
    answer_parser_push(parser, text, size);
    answer_parser_finish(parser);
    bool forced = request->tool_choice == TOOL_CHOICE_REQUIRED || request->tool_choice == TOOL_CHOICE_NAMED;
    CHECK(!forced || answer.calls > 0, "no call in %s", text);
    CHECK(!forced || is_blank(&answer.content), "text beside the calls in %s", text);
    CHECK(answer.calls <= 1 || !(request->single_call || request->tool_choice == TOOL_CHOICE_NAMED), "%d calls in %s",
          answer.calls, text);
    CHECK(answer.calls == 0 || request->tool_choice != TOOL_CHOICE_NONE, "a call in %s", text);
    check_content(&answer);
    answer_parser_free(parser);
    text_destroy(&answer.content);
    text_destroy(&answer.name);
    text_destroy(&answer.arguments);
    minke_free(text);
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    static struct fuzz_part tools, name, format;
    struct error error = {0};
    struct grammar *grammar;
    uint8_t mode = fuzz_take_byte(&input), flags = fuzz_take_byte(&input);
    tools = fuzz_take(&input);
    name = fuzz_take(&input);
    format = fuzz_take(&input);
    json_t *list = tools.size > TEXT_LIMIT ? NULL : json_loadb(tools.text, tools.size, 0, NULL);
    json_t *response_format = json_loadb(format.text, format.size, 0, NULL);
    if (json_is_array(list) && json_array_size(list) > 0) {   // what the server lets through to the grammar
        struct grammar_request request = {.style = (enum minke_chat_style)(mode % 6),
                                          .tool_choice = (enum tool_choice)(mode / 6 % 4),
                                          .reasoning = (enum answer_reasoning)(flags % 3),
                                          .single_call = (flags & 128) != 0,
                                          .response_format = response_format,
                                          .tools = list,
                                          .tool_name = name.text};
        int code = grammar_create(&grammar, &request, walker.vocabulary, &error);
        CHECK(code == error.code && (code == 0 || grammar == NULL), "code %d: %s", code, error.text);
        for (uint64_t seed = 0; code == 0 && grammar != NULL && seed < WALKS; seed++) {
            check_walk(grammar, &request, seed * 1000003 + size);
        }
        grammar_free(grammar);
    }
    json_decref(list);
    json_decref(response_format);
}
