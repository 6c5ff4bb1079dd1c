// A request's constraint: its grammar, and the free parts of an answer around it.
//
//   reasoning   free text up to </think>             (the model reasons)
//   free        free text up to calls-begin          (tool_choice auto)
//   bound       the grammar's rule: a value, calls, or either
//
// A state is in one of these; the grammar's rule depends on where the bound part begins.
#include "serve/grammar.h"

#include <string.h>

#include "base/memory.h"
#include "serve/json_schema.h"
#include "serve/markers.h"
#include "serve/matcher.h"

#define TOOLS_LIMIT 512
#define NAME_LIMIT 128   // of a function: letters, digits, '_', '-', '.', '/'

struct grammar {
    const struct token_vocabulary *vocabulary;
    struct automaton automaton;
    struct wide_rows wide;
    enum answer_reasoning reasoning;
    int32_t rule;         // the whole bound part; -1 = the answer is free up to calls-begin
    int32_t calls_rule;   // behind a calls-begin in free text; -1 = none
    bool forbids_calls;
    int32_t think, think_end, calls_begin;   // ids, -1 = the tokenizer writes them as text
};

enum phase { PHASE_START, PHASE_REASONING, PHASE_FREE, PHASE_BOUND };

struct grammar_state {
    const struct grammar *grammar;
    enum phase phase;
    bool ended;       // an end token came
    size_t matched;   // bytes of the marker that ends a free part, at the end of the text
    struct matcher matcher;
};

// ---- building ----

struct builder {
    struct grammar *grammar;
    const struct grammar_request *request;
    struct schema_compiler schema;
    struct error *error;
    json_t *any_object;
};

// A marker as its token if there is one.
static void add_marker(struct nfa *nfa, const struct grammar *grammar, int32_t from, int32_t to, const char *marker) {
    if (token_vocabulary_markup(grammar->vocabulary, marker) >= 0) {
        int32_t next = nfa_state(nfa);
        nfa_bytes(nfa, from, next, TRIE_MARKUP, TRIE_MARKUP);
        from = next;
    }
    nfa_text(nfa, from, to, marker, strlen(marker));
}

static int tool_check_name(const char *name, size_t index, struct error *error) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./";
    size_t size = name == NULL ? 0 : strlen(name);
    if (size == 0 || size > NAME_LIMIT || strspn(name, allowed) != size) {
        return error_set(error, ERROR_ARGUMENT,
                         "tools[%zu]: key \"function.name\": expected 1 to %d letters, digits, '_', '-', '.' or '/'",
                         index, NAME_LIMIT);
    }
    return 0;
}

// The rule of a tool's arguments: its schema if it is strict, any object otherwise.
static int tool_arguments(int32_t *rule, struct builder *builder, const json_t *function, size_t index) {
    const json_t *strict = json_object_get(function, "strict"), *schema = json_object_get(function, "parameters");
    int code;
    if (strict != NULL && !json_is_boolean(strict) && !json_is_null(strict)) {
        return error_set(builder->error, ERROR_ARGUMENT, "tools[%zu]: key \"function.strict\": expected true or false",
                         index);
    }
    if (!json_is_true(strict) || schema == NULL || json_is_null(schema)) {
        return schema_rule(rule, &builder->schema, builder->any_object);
    }
    if ((code = schema_rule(rule, &builder->schema, schema)) == 0) {
        code = schema_compile(&builder->schema);
    }
    if (code != 0) {
        error_prefix(builder->error, "tools[%zu]", index);
    }
    return code;
}

// Edges for the calls that a tool allows: from behind call-begin to behind call-end.
static void add_call(struct builder *builder, struct nfa *nfa, int32_t from, int32_t to, const char *name,
                     int32_t arguments) {
    const struct grammar *grammar = builder->grammar;
    bool v3_1 = builder->request->style == MINKE_CHAT_V3_1;
    int32_t begin = nfa_state(nfa), separator = nfa_state(nfa), inside = nfa_state(nfa), end = nfa_state(nfa);
    if (v3_1) {
        nfa_text(nfa, from, separator, name, strlen(name));
        add_marker(nfa, grammar, separator, inside, MARKER_SEPARATOR);
    } else {
        int32_t line = nfa_state(nfa);
        nfa_text(nfa, from, separator, "function", strlen("function"));
        add_marker(nfa, grammar, separator, begin, MARKER_SEPARATOR);
        nfa_text(nfa, begin, line, name, strlen(name));
        nfa_text(nfa, line, inside, "\n" MARKER_FENCE, strlen("\n" MARKER_FENCE));
    }
    nfa_call(nfa, inside, end, arguments, 0, NO_MAXIMUM);
    if (!v3_1) {
        int32_t fence = nfa_state(nfa);
        nfa_text(nfa, end, fence, MARKER_FENCE_END, strlen(MARKER_FENCE_END));
        end = fence;
    }
    add_marker(nfa, grammar, end, to, MARKER_CALL_END);
}

// All tools that may be called, as one alternative each.
static int add_tools(struct builder *builder, struct nfa *nfa, int32_t from, int32_t to) {
    const struct grammar_request *request = builder->request;
    size_t index, count = 0;
    const json_t *tool;
    json_array_foreach(request->tools, index, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        const char *type = json_string_value(json_object_get(tool, "type"));
        int32_t arguments;
        int code = tool_check_name(name, index, builder->error);
        if (code == 0 && type != NULL && strcmp(type, "function") != 0) {
            code = error_set(builder->error, ERROR_ARGUMENT,
                             "tools[%zu]: key \"type\": found \"%.40s\", expected \"function\"", index, type);
        }
        if (code == 0 && (code = tool_arguments(&arguments, builder, function, index)) == 0 &&
            (request->tool_choice != TOOL_CHOICE_NAMED || strcmp(name, request->tool_name) == 0)) {
            add_call(builder, nfa, from, to, name, arguments);
            count++;
        }
        if (code != 0) {
            return code;
        }
    }
    if (count == 0) {
        return error_set(builder->error, ERROR_ARGUMENT, "tool_choice: no tool is named \"%.80s\"", request->tool_name);
    }
    return nfa->code;
}

// Calls from behind calls-begin to the end of the answer.
static int calls_rule(int32_t *rule, struct builder *builder) {
    struct grammar *grammar = builder->grammar;
    bool fenced = builder->request->style != MINKE_CHAT_V3_1;
    bool single = builder->request->single_call || builder->request->tool_choice == TOOL_CHOICE_NAMED;
    struct nfa nfa;
    int32_t row;
    nfa_init(&nfa, builder->error);
    int32_t before = 0, begun = nfa_state(&nfa), ended = nfa_state(&nfa);
    add_marker(&nfa, grammar, before, begun, MARKER_CALL_BEGIN);
    int code = add_tools(builder, &nfa, begun, ended);
    if (code == 0) {
        if (!single) {
            int32_t next = nfa_state(&nfa);
            nfa_text(&nfa, ended, next, "\n", fenced ? 1 : 0);
            add_marker(&nfa, grammar, next, begun, MARKER_CALL_BEGIN);
        }
        add_marker(&nfa, grammar, ended, 1, MARKER_CALLS_END);
        if (builder->request->style == MINKE_CHAT_V3) {
            nfa_empty(&nfa, ended, 1);   // its template leaves a single call open
        }
        code = automaton_from_nfa(&row, &grammar->automaton, &nfa);
    }
    if (code == 0 && (code = automaton_add_rule(rule, &grammar->automaton, builder->error)) == 0) {
        grammar->automaton.rules[*rule] = row;
    }
    nfa_destroy(&nfa);
    return code;
}

// The schema of response_format; NULL = free text.
static int response_schema(const json_t **schema, struct builder *builder) {
    const json_t *format = builder->request->response_format;
    const char *type = json_string_value(json_object_get(format, "type"));
    *schema = NULL;
    if (format == NULL || json_is_null(format) || (type != NULL && strcmp(type, "text") == 0)) {
        return 0;
    }
    if (type != NULL && strcmp(type, "json_object") == 0) {
        *schema = builder->any_object;
        return 0;
    }
    if (type == NULL || strcmp(type, "json_schema") != 0) {
        return error_set(builder->error, ERROR_ARGUMENT,
                         "response_format: key \"type\": found \"%.40s\", expected text, json_object or json_schema",
                         type != NULL ? type : "");
    }
    *schema = json_object_get(json_object_get(format, "json_schema"), "schema");
    return *schema != NULL ? 0
                           : error_set(builder->error, ERROR_ARGUMENT,
                                       "response_format: key \"json_schema.schema\": expected a schema, found nothing");
}

// The bound part: white space and a value, calls, or either of both.
static int whole_rule(int32_t *rule, struct builder *builder, const json_t *schema, bool calls) {
    struct grammar *grammar = builder->grammar;
    struct nfa nfa;
    int32_t value, row;
    int code = 0;
    nfa_init(&nfa, builder->error);
    int32_t start = nfa_state(&nfa);
    nfa_empty(&nfa, 0, start);
    nfa_call(&nfa, 0, start, builder->schema.blank_rule, 0, NO_MAXIMUM);
    if (schema != NULL) {
        code = schema_rule(&value, &builder->schema, schema);
        code = code == 0 ? schema_compile(&builder->schema) : code;
        if (code != 0) {
            error_prefix(builder->error, "response_format");
        }
        nfa_call(&nfa, start, 1, value, 0, NO_MAXIMUM);
    }
    if (code == 0 && calls) {
        int32_t begun = nfa_state(&nfa);
        add_marker(&nfa, grammar, start, begun, MARKER_CALLS_BEGIN);
        nfa_call(&nfa, begun, 1, grammar->calls_rule, 0, NO_MAXIMUM);
    }
    if (code == 0) {
        code = automaton_from_nfa(&row, &grammar->automaton, &nfa);
    }
    if (code == 0 && (code = automaton_add_rule(rule, &grammar->automaton, builder->error)) == 0) {
        grammar->automaton.rules[*rule] = row;
    }
    nfa_destroy(&nfa);
    return code;
}

static bool rule_is_possible(const struct grammar *grammar, int32_t rule) {
    return rule < 0 || grammar->automaton.rows[grammar->automaton.rules[rule]].need != AUTOMATON_NEVER;
}

static int grammar_build(struct builder *builder) {
    struct grammar *grammar = builder->grammar;
    const struct grammar_request *request = builder->request;
    const json_t *schema;
    bool tools = json_array_size(request->tools) > 0 && request->tool_choice != TOOL_CHOICE_NONE;
    int code = response_schema(&schema, builder);
    if (code == 0 && tools) {
        code = calls_rule(&grammar->calls_rule, builder);
    }
    if (code == 0 && (schema != NULL || (tools && request->tool_choice != TOOL_CHOICE_AUTO))) {
        bool forced = tools && request->tool_choice != TOOL_CHOICE_AUTO;
        code = whole_rule(&grammar->rule, builder, forced ? NULL : schema, tools);
    }
    if (code == 0) {
        code = schema_compile(&builder->schema);
    }
    if (code == 0) {
        code = automaton_trim(&grammar->automaton, builder->error);
    }
    if (code == 0 && !(rule_is_possible(grammar, grammar->rule) && rule_is_possible(grammar, grammar->calls_rule))) {
        code = error_set(builder->error, ERROR_ARGUMENT,
                         "%s: no value can satisfy the schema, or none that is nested less than %d deep",
                         tools ? "tools" : "response_format", AUTOMATON_NEED_LIMIT);
    }
    return code == 0 ? wide_rows_create(&grammar->wide, &grammar->automaton, grammar->vocabulary, builder->error)
                     : code;
}

static int request_check(const struct grammar_request *request, struct error *error) {
    size_t count = json_array_size(request->tools);
    bool forced = request->tool_choice == TOOL_CHOICE_REQUIRED || request->tool_choice == TOOL_CHOICE_NAMED;
    if (request->tools != NULL && !json_is_array(request->tools) && !json_is_null(request->tools)) {
        return error_set(error, ERROR_ARGUMENT, "tools: expected an array");
    }
    if (count > TOOLS_LIMIT) {
        return error_set(error, ERROR_LIMIT, "tools: found %zu, at most %d are supported", count, TOOLS_LIMIT);
    }
    if (forced && count == 0) {
        return error_set(error, ERROR_ARGUMENT, "tool_choice: a call is required, but there are no tools");
    }
    if (request->tool_choice == TOOL_CHOICE_NAMED && request->tool_name == NULL) {
        return error_set(error, ERROR_ARGUMENT, "tool_choice: expected the name of a function");
    }
    return 0;
}

static bool restricts_nothing(const struct grammar_request *request) {
    const char *type = json_string_value(json_object_get(request->response_format, "type"));
    bool free_text = request->response_format == NULL || json_is_null(request->response_format) ||
                     (type != NULL && strcmp(type, "text") == 0);
    return free_text && json_array_size(request->tools) == 0;
}

int grammar_create(struct grammar **out, const struct grammar_request *request, struct token_vocabulary *vocabulary,
                   struct error *error) {
    *out = NULL;
    int code = request_check(request, error);
    if (code != 0 || restricts_nothing(request)) {
        return code;
    }
    struct grammar *grammar = memory_allocate(1, sizeof *grammar, "grammar", error);
    if (grammar == NULL) {
        return ERROR_MEMORY;
    }
    *grammar = (struct grammar){
        .vocabulary = vocabulary, .reasoning = request->reasoning, .rule = -1, .calls_rule = -1};
    grammar->think = token_vocabulary_markup(vocabulary, MARKER_THINK);
    grammar->think_end = token_vocabulary_markup(vocabulary, MARKER_THINK_END);
    grammar->calls_begin = token_vocabulary_markup(vocabulary, MARKER_CALLS_BEGIN);
    grammar->forbids_calls = request->tool_choice == TOOL_CHOICE_NONE && json_array_size(request->tools) > 0;
    struct builder builder = {.grammar = grammar, .request = request, .error = error};
    builder.any_object = json_pack("{s:s}", "type", "object");
    code = builder.any_object == NULL ? error_set(error, ERROR_MEMORY, "grammar: out of memory")
                                      : schema_compiler_init(&builder.schema, &grammar->automaton, error);
    if (code == 0) {
        code = grammar_build(&builder);
    }
    schema_compiler_destroy(&builder.schema);
    json_decref(builder.any_object);
    if (code != 0) {
        grammar_free(grammar);
        return code;
    }
    *out = grammar;
    return 0;
}

void grammar_free(struct grammar *grammar) {
    if (grammar != NULL) {
        automaton_destroy(&grammar->automaton);
        wide_rows_destroy(&grammar->wide);
        memory_free(grammar);
    }
}

// ---- running ----

static void enter_bound(struct grammar_state *state, int32_t rule) {
    const struct grammar *grammar = state->grammar;
    state->phase = PHASE_BOUND;
    matcher_start(&state->matcher, &grammar->automaton, grammar->vocabulary, &grammar->wide, rule);
}

// What comes when reasoning is over, or at the beginning if there is none.
static void enter_answer(struct grammar_state *state) {
    state->matched = 0;
    if (state->grammar->rule >= 0) {
        enter_bound(state, state->grammar->rule);
    } else {
        state->phase = PHASE_FREE;
    }
}

int grammar_state_create(struct grammar_state **out, const struct grammar *grammar, struct error *error) {
    struct grammar_state *state = memory_allocate(1, sizeof *state, "grammar state", error);
    *out = state;
    if (state == NULL) {
        return ERROR_MEMORY;
    }
    state->grammar = grammar;
    if (grammar->reasoning == REASONING_OPEN) {
        state->phase = PHASE_REASONING;
    } else {
        enter_answer(state);
        state->phase = grammar->reasoning == REASONING_POSSIBLE && grammar->think >= 0 ? PHASE_START : state->phase;
    }
    return 0;
}

void grammar_state_free(struct grammar_state *state) {
    memory_free(state);
}

bool grammar_state_is_complete(const struct grammar_state *state) {
    if (state->ended || state->phase == PHASE_FREE) {
        return true;
    }
    if (state->phase == PHASE_BOUND) {
        return state->matcher.complete || !matcher_is_alive(&state->matcher);
    }
    return state->grammar->rule < 0;   // reasoning may end a free answer
}

static void forbid(uint64_t *allowed, int64_t vocab_size, int32_t id) {
    if (id >= 0 && id < vocab_size) {
        allowed[id / 64] &= ~((uint64_t)1 << (id % 64));
    }
}

// The tokens of the grammar; ids that the tokenizer does not have stay forbidden.
static void restrict_bound(struct grammar_state *state, uint64_t *allowed, int64_t vocab_size) {
    const struct token_vocabulary *vocabulary = state->grammar->vocabulary;
    memset(allowed, 0, (size_t)((vocab_size + 63) / 64) * sizeof *allowed);
    if (vocab_size < vocabulary->vocab_size) {
        return;   // not the model's own tokenizer: nothing can be allowed
    }
    matcher_allow(&state->matcher, allowed);
    if (state->phase == PHASE_START) {
        token_set_add(allowed, state->grammar->think);
    }
    for (int64_t word = 0; word < (vocab_size + 63) / 64 && word < vocabulary->words; word++) {
        allowed[word] = grammar_state_is_complete(state) ? allowed[word] | vocabulary->end_tokens[word]
                                                         : allowed[word] & ~vocabulary->end_tokens[word];
    }
}

static void restrict_tokens(void *argument, uint64_t *allowed, int64_t vocab_size) {
    struct grammar_state *state = argument;
    const struct grammar *grammar = state->grammar;
    if (state->phase == PHASE_BOUND || (state->phase == PHASE_START && grammar->rule >= 0)) {
        restrict_bound(state, allowed, vocab_size);
        return;
    }
    if (grammar->forbids_calls) {
        forbid(allowed, vocab_size, grammar->calls_begin);
    }
    for (int64_t word = 0;
         !grammar_state_is_complete(state) && word < grammar->vocabulary->words && word < (vocab_size + 63) / 64;
         word++) {
        allowed[word] &= ~grammar->vocabulary->end_tokens[word];
    }
}

// Looks for a marker in free text, over the borders of tokens. Returns how many bytes of the token it ends behind, 0 =
// not in this token.
static int32_t find_marker(struct grammar_state *state, const char *marker, const char *text, int32_t size) {
    size_t length = strlen(marker);
    for (int32_t i = 0; i < size; i++) {
        if ((uint8_t)text[i] == TRIE_MARKUP) {
            continue;   // a marker written as a token is found by its text
        }
        while (state->matched > 0 && marker[state->matched] != text[i]) {
            // The longest shorter beginning of the marker that the text ends with.
            size_t shorter = state->matched - 1;
            while (shorter > 0 && memcmp(marker, marker + state->matched - shorter, shorter) != 0) {
                shorter--;
            }
            state->matched = shorter;
        }
        state->matched += marker[state->matched] == text[i] ? 1 : 0;
        if (state->matched == length) {
            state->matched = 0;
            return i + 1;
        }
    }
    return 0;
}

// Bytes of a token go into the grammar. What stands behind a marker in the same token may not fit: then it is left out.
static void accept_rest(struct grammar_state *state, const char *text, int32_t size) {
    int32_t rule = state->grammar->rule >= 0 ? state->grammar->rule : state->grammar->calls_rule;
    for (int32_t i = 0; i < size; i++) {
        if (!matcher_accept_byte(&state->matcher, (uint8_t)text[i])) {
            enter_bound(state, rule);
            return;
        }
    }
}

static void accept_free(struct grammar_state *state, const char *text, int32_t size) {
    const struct grammar *grammar = state->grammar;
    if (state->phase == PHASE_REASONING) {
        int32_t used = find_marker(state, MARKER_THINK_END, text, size);
        if (used == 0) {
            return;
        }
        text += used;
        size -= used;
        enter_answer(state);
        if (state->phase == PHASE_BOUND) {
            accept_rest(state, text, size);
            return;
        }
    }
    int32_t used = grammar->calls_rule >= 0 ? find_marker(state, MARKER_CALLS_BEGIN, text, size) : 0;
    if (used > 0) {
        enter_bound(state, grammar->calls_rule);
        accept_rest(state, text + used, size - used);
    }
}

static void accept_token(void *argument, int32_t id) {
    struct grammar_state *state = argument;
    const struct token_vocabulary *vocabulary = state->grammar->vocabulary;
    int32_t size;
    const char *text = token_vocabulary_spelling(&size, vocabulary, id);
    if (text != NULL && token_set_has(vocabulary->end_tokens, id)) {
        state->ended = true;
        return;
    }
    if (state->phase == PHASE_START) {
        if (id == state->grammar->think) {
            state->phase = PHASE_REASONING;
            return;
        }
        enter_answer(state);
    }
    if (state->phase != PHASE_BOUND) {
        accept_free(state, text, size);
        return;
    }
    for (int32_t i = 0; i < size && matcher_accept_byte(&state->matcher, (uint8_t)text[i]); i++) {
    }
}

struct minke_token_filter grammar_state_filter(struct grammar_state *state) {
    return (struct minke_token_filter){state, restrict_tokens, accept_token};
}
