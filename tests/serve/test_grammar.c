// serve/grammar: masks of schemas and calls against texts that are allowed or not, random walks that must be JSON of
// the schema, errors of unsupported schemas, limits, phases of reasoning and of tool_choice.
#include "serve/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "serve/answer_parser.h"
#include "serve/markers.h"
#include "serve/token_trie.h"
#include "support/test.h"
#include "text/chat_template.h"

#define TOKENIZER "tests/golden/text/small"

static struct minke_tokenizer *tokenizer;
static struct token_vocabulary *vocabulary;
static int64_t vocab_size;
static uint64_t *allowed;
static int32_t eos;

static int setup(void **state) {
    (void)state;
    struct minke_error failure = {0};
    struct error error = {0};
    if (minke_tokenizer_open(&tokenizer, TOKENIZER, &failure) != 0 ||
        token_vocabulary_create(&vocabulary, tokenizer, NULL, 0, &error) != 0) {
        return -1;
    }
    // A model has more rows than the tokenizer has tokens.
    vocab_size = minke_tokenizer_vocab_size(tokenizer) + 100;
    allowed = memory_allocate((size_t)vocab_size / 64 + 1, 8, "test", NULL);
    eos = minke_tokenizer_eos(tokenizer);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    memory_free(allowed);
    token_vocabulary_free(vocabulary);
    minke_tokenizer_close(tokenizer);
    return 0;
}

static json_t *parse_json(const char *text) {
    json_error_t error;
    json_t *json = json_loads(text, JSON_DECODE_ANY, &error);
    if (json == NULL) {
        fail_msg("%s: %s", text, error.text);
    }
    return json;
}

static void restrict_next(struct grammar_state *state) {
    struct minke_token_filter filter = grammar_state_filter(state);
    memset(allowed, 0xFF, ((size_t)vocab_size / 64 + 1) * 8);
    memory_guard(true);
    filter.restrict_tokens(filter.argument, allowed, vocab_size);
    memory_guard(false);
}

// Encodes a text and feeds it; how many tokens are allowed, count + 1 if the end is allowed behind them.
static int64_t feed(int64_t *count, struct grammar_state *state, const char *text) {
    int32_t *ids;
    int64_t accepted = 0;
    struct minke_token_filter filter = grammar_state_filter(state);
    assert_int_equal(minke_encode(&ids, count, tokenizer, text, strlen(text), 0, NULL), 0);
    for (int64_t i = 0; i <= *count; i++) {
        int32_t id = i < *count ? ids[i] : eos;
        restrict_next(state);
        assert_int_equal(token_set_has(allowed, eos), grammar_state_is_complete(state));
        if (!token_set_has(allowed, id)) {
            break;
        }
        filter.accept_token(filter.argument, id);
        accepted++;
    }
    minke_free(ids);
    return accepted;
}

static bool accepts(const struct grammar *grammar, const char *text) {
    struct grammar_state *state;
    int64_t count;
    assert_int_equal(grammar_state_create(&state, grammar, NULL), 0);
    bool all = feed(&count, state, text) == count + 1;
    grammar_state_free(state);
    return all;
}

static int schema_grammar(struct grammar **grammar, const char *schema, struct error *error) {
    json_t *format = json_pack("{s:s, s:{s:s, s:o}}", "type", "json_schema", "json_schema", "name", "t", "schema",
                               parse_json(schema));
    struct grammar_request request = {.response_format = format};
    int code = grammar_create(grammar, &request, vocabulary, error);
    json_decref(format);
    return code;
}

struct example {
    const char *schema;
    const char *good[6], *bad[8];
};

static const struct example examples[] = {
    {"{\"type\":\"object\"}",
     {"{}", "{ }", "{\"a\": [1, {\"b\": null}]}", "\n{\n    \"a\": -1.5e-3\n}"},
     {"[]", "{\"a\"}", "{a:1}", "{\"a\":01}", "{\"a\":1,}", "{\"a\" :1}", "{\"\\ud800\":1}", "{}{}"}},
    {"true", {"1", "\"x\"", "null", "[[]]", "{\"a\":\"\\ud83d\\ude00\"}"}, {"", "nul", "\"\n\"", "+1", ".5", "1."}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"},"
     "\"c\":{\"type\":\"boolean\"}},\"required\":[\"b\"],\"additionalProperties\":false}",
     {"{\"b\":\"\"}", "{\"a\":1,\"b\":\"x\",\"c\":true}", "{\"b\": \"x\", \"c\": false}"},
     {"{}", "{\"a\":1}", "{\"b\":\"\",\"a\":1}", "{\"b\":\"\",\"d\":1}", "{\"a\":1.5,\"b\":\"\"}",
      "{\"b\":\"\",\"b\":\"\"}"}},
    {"{\"properties\":{\"aa\":{\"type\":\"integer\"},\"ab\":{\"type\":\"integer\"}},"
     "\"additionalProperties\":{\"type\":\"null\"}}",
     {"{\"aa\":1,\"ab\":2,\"a\":null}", "{\"aaa\":null}", "{\"\":null,\"é\":null}", "{\"b\\n\":null}"},
     {"{\"aa\":null}", "{\"x\":1}", "{\"a\\u0061\":null}", "{\"x\":null,\"aa\":1}"}},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":4}",
     {"\"ab\"", "\"日本語é\"", "\"\\n\\u00e9\\ud83d\\ude00\\\"\""},
     {"\"a\"", "\"abcde\"", "\"\\n\"", "ab"}},
    {"{\"type\":\"string\",\"pattern\":\"^a+(b|c)?$\",\"maxLength\":3}",
     {"\"a\"", "\"aab\"", "\"aaa\""},
     {"\"\"", "\"aaaa\"", "\"ba\"", "\"abc\""}},
    {"{\"type\":\"string\",\"pattern\":\"x\\\\d\"}", {"\"x1\"", "\"yyx1zz\""}, {"\"x\"", "\"1x\""}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-29\"", "\"1999-12-31\""},
     {"\"2023-02-29\"", "\"1999-13-01\"", "\"1999-04-31\"", "\"1900-02-29\""}},
    {"{\"type\":\"integer\",\"minimum\":-12,\"exclusiveMaximum\":205}",
     {"-12", "-3", "0", "99", "204"},
     {"-13", "205", "1000", "1.0", "-100"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":-0.25,\"maximum\":12.5}",
     {"-0.2", "0.0", "12.5", "12.4999", "7"},
     {"-0.25", "12.51", "13", "-1", "1e1", "12.500000001"}},
    {"{\"type\":\"integer\",\"multipleOf\":7}", {"0", "14", "-49"}, {"1", "15"}},
    {"{\"type\":\"number\",\"multipleOf\":0.01}", {"0.5", "12.25", "3"}, {"0.125"}},
    {"{\"enum\":[\"x\\\"y\",1,2.5,null,{\"a\":[true]}]}",
     {"\"x\\\"y\"", "1", "2.5", "null", "{ \"a\": [true] }"},
     {"2", "\"x\"", "{}", "true"}},
    {"{\"type\":[\"string\",\"null\"],\"enum\":[\"a\",null,3]}", {"\"a\"", "null"}, {"3"}},
    {"{\"const\":\"on\"}", {"\"on\""}, {"\"off\"", "\"o\""}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
     {"[1]", "[1, 2,3]"},
     {"[]", "[1,2,3,4]", "[null]", "[1,]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"null\"},{\"type\":\"boolean\"}],"
     "\"items\":{\"type\":\"string\"}}",
     {"[]", "[null]", "[null,true]", "[null,true,\"a\",\"b\"]"},
     {"[true]", "[null,true,1]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"null\"}],\"items\":false,\"minItems\":1}",
     {"[null]"},
     {"[]", "[null,1]"}},
    {"{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":1}},\"required\":[\"k\"],"
     "\"additionalProperties\":false},"
     "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":2},\"x\":{}},\"required\":[\"k\",\"x\"],"
     "\"additionalProperties\":false}]}",
     {"{\"k\":1}", "{\"k\":2,\"x\":[]}"},
     {"{\"k\":2}", "{\"k\":1,\"x\":1}"}},
    {"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
     "\"n\":{\"anyOf\":[{\"$ref\":\"#/$defs/n\"},"
     "{\"type\":\"null\"}]}},\"required\":[\"v\",\"n\"],\"additionalProperties\":false}},\"$ref\":\"#/$defs/n\"}",
     {"{\"v\":1,\"n\":null}", "{\"v\":1,\"n\":{\"v\":2,\"n\":{\"v\":3,\"n\":null}}}"},
     {"{\"v\":1}", "null"}},
    {"{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"number\"}},"
     "\"required\":[\"a\"]},{\"properties\":{\"a\":{\"type\":\"integer\"},"
     "\"b\":{\"minimum\":3}}}]}",
     {"{\"a\":1}", "{\"a\":1,\"b\":3}"},
     {"{\"a\":1.5}", "{\"b\":3}", "{\"a\":1,\"b\":2}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"string\"}},"
     "\"additionalProperties\":false,"
     "\"anyOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
     {"{\"a\":\"\"}", "{\"b\":\"\"}", "{\"a\":\"\",\"b\":\"\"}"},
     {"{}"}},
    {"{\"type\":\"string\",\"nullable\":true,\"title\":\"t\",\"default\":\"x\"}", {"null", "\"\""}, {"1"}},
};

static void test_examples(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
        struct grammar *grammar;
        struct error error = {0};
        if (schema_grammar(&grammar, examples[i].schema, &error) != 0) {
            fail_msg("%s: %s", examples[i].schema, error.text);
        }
        for (int k = 0; k < 6 && examples[i].good[k] != NULL; k++) {
            if (!accepts(grammar, examples[i].good[k])) {
                fail_msg("%s refuses %s", examples[i].schema, examples[i].good[k]);
            }
        }
        for (int k = 0; k < 8 && examples[i].bad[k] != NULL; k++) {
            if (accepts(grammar, examples[i].bad[k])) {
                fail_msg("%s accepts %s", examples[i].schema, examples[i].bad[k]);
            }
        }
        grammar_free(grammar);
    }
}

// ---- walks ----

static uint64_t draws;

// A random allowed token: from 40 on one that ends something, if there is one.
static int32_t draw(int64_t step) {
    static const char *const closers[] = {"\"", "}", "]", "0", "1", "x"};
    bool closing = token_set_has(allowed, eos) || step > 40 || rng_below(1, 3, draws++, 4) == 0;
    for (size_t i = 0; i < 6 && closing; i++) {
        size_t which = i == 0 ? 0 : 1 + (size_t)rng_below(1, 3, draws++, 5);
        int32_t *ids;
        int64_t count;
        assert_int_equal(minke_encode(&ids, &count, tokenizer, closers[which], 1, MINKE_ENCODE_PLAIN, NULL), 0);
        int32_t id = ids[0];
        minke_free(ids);
        if (token_set_has(allowed, eos)) {
            return eos;
        }
        if (token_set_has(allowed, id)) {
            return id;
        }
    }
    for (;;) {
        int32_t id = (int32_t)rng_below(1, 4, draws++, (uint64_t)vocab_size);
        for (int32_t i = 0; i < vocab_size; i++, id = (int32_t)((id + 1) % vocab_size)) {
            if (token_set_has(allowed, id)) {
                return id;
            }
        }
        fail_msg("nothing is allowed");
    }
}

// Writes until the end; the text is allocated.
static char *walk(const struct grammar *grammar, size_t *size) {
    struct grammar_state *state;
    int32_t ids[2000];
    int64_t count = 0;
    char *text;
    assert_int_equal(grammar_state_create(&state, grammar, NULL), 0);
    struct minke_token_filter filter = grammar_state_filter(state);
    for (;; count++) {
        restrict_next(state);
        for (int64_t id = minke_tokenizer_vocab_size(tokenizer); id < vocab_size; id++) {
            assert_false(token_set_has(allowed, (int32_t)id));
        }
        assert_int_equal(token_set_has(allowed, eos), grammar_state_is_complete(state));
        ids[count] = draw(count);
        filter.accept_token(filter.argument, ids[count]);
        if (ids[count] == eos) {
            break;
        }
        if (count == 1998) {
            fail_msg("no end");
        }
    }
    assert_int_equal(minke_decode(&text, size, tokenizer, ids, count, NULL), 0);
    grammar_state_free(state);
    return text;
}

// Whatever the masks let through is JSON and follows the same schema: read back token by token, and as JSON.
static void test_walks(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
        struct grammar *grammar;
        assert_int_equal(schema_grammar(&grammar, examples[i].schema, NULL), 0);
        for (int k = 0; k < 6; k++) {
            size_t size;
            json_error_t error;
            char *text = walk(grammar, &size);
            json_t *value = json_loadb(text, size, JSON_DECODE_ANY, &error);
            if (value == NULL) {
                fail_msg("%s lets through %s: %s", examples[i].schema, text, error.text);
            }
            assert_true(accepts(grammar, text));
            json_decref(value);
            minke_free(text);
        }
        grammar_free(grammar);
    }
}

static void test_walk_values(void **unused) {
    (void)unused;
    struct grammar *grammar;
    assert_int_equal(
        schema_grammar(&grammar,
                       "{\"type\":\"array\",\"minItems\":2,\"maxItems\":4,\"items\":{\"type\":\"object\","
                       "\"properties\":{\"n\":{\"type\":\"integer\",\"minimum\":-37,\"maximum\":1203},"
                       "\"s\":{\"type\":\"string\",\"minLength\":3,\"maxLength\":5},\"d\":{\"type\":\"number\","
                       "\"minimum\":0.125,\"maximum\":2}},\"required\":[\"n\",\"s\",\"d\"],"
                       "\"additionalProperties\":false}}",
                       NULL),
        0);
    for (int k = 0; k < 60; k++) {
        size_t size, index;
        char *text = walk(grammar, &size);
        json_t *list = json_loadb(text, size, 0, NULL), *item;
        assert_in_range(json_array_size(list), 2, 4);
        json_array_foreach(list, index, item) {
            json_int_t number = json_integer_value(json_object_get(item, "n"));
            const char *string = json_string_value(json_object_get(item, "s"));
            double decimal = json_number_value(json_object_get(item, "d"));
            int characters = 0;
            for (const char *at = string; *at != 0; at++) {
                characters += ((unsigned char)*at & 0xC0) != 0x80;
            }
            assert_true(json_object_size(item) == 3 && number >= -37 && number <= 1203);
            assert_in_range(characters, 3, 5);
            assert_true(decimal >= 0.125 && decimal <= 2);
        }
        json_decref(list);
        minke_free(text);
    }
    grammar_free(grammar);
}

// ---- errors ----

static void test_unsupported(void **unused) {
    (void)unused;
    static const struct {
        const char *schema, *message;
        int code;
    } cases[] = {
        {"{\"properties\":{\"a\":{\"not\":{}}}}", "#/properties/a: keyword \"not\"", ERROR_ARGUMENT},
        {"{\"anyOf\":[true,{\"items\":{\"uniqueItems\":true}}]}", "#/anyOf/1/items: keyword \"uniqueItems\"",
         ERROR_ARGUMENT},
        {"{\"patternProperties\":{}}", "patternProperties", ERROR_ARGUMENT},
        {"{\"if\":{}}", "\"if\"", ERROR_ARGUMENT},
        {"{\"type\":\"strin\"}", "keyword \"type\"", ERROR_ARGUMENT},
        {"{\"type\":\"string\",\"format\":\"regex\"}", "\"regex\" is not supported", ERROR_ARGUMENT},
        {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "keyword \"pattern\"", ERROR_ARGUMENT},
        {"{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", "escape \\1", ERROR_ARGUMENT},
        {"{\"type\":\"string\",\"pattern\":\"a(\"}", "keyword \"pattern\"", ERROR_ARGUMENT},
        {"{\"type\":\"string\",\"pattern\":\"(a|b)*a(a|b){40}\"}", "too complex", ERROR_LIMIT},
        {"{\"type\":\"string\",\"pattern\":\"((((a{999}){999}){999}){999}){999}\"}", "too large", ERROR_LIMIT},
        {"{\"type\":\"string\",\"pattern\":\"^(((((a*)*)*)*)*)*$\",\"minLength\":99999,\"maxLength\":100000}", "too",
         ERROR_LIMIT},
        {"{\"type\":\"array\",\"minItems\":1000000}", "at most", ERROR_ARGUMENT},
        {"{\"$ref\":\"#\"}", "refers to itself", ERROR_ARGUMENT},
        {"{\"$ref\":\"#/$defs/x\"}", "nothing is at", ERROR_ARGUMENT},
        {"{\"$ref\":\"https://example.org/x.json\"}", "expected \"#\"", ERROR_ARGUMENT},
        {"{\"anyOf\":[{\"$ref\":\"#\"},{\"$ref\":\"#\"}]}", "refers to itself", ERROR_ARGUMENT},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no value can satisfy", ERROR_ARGUMENT},
        {"false", "no value can satisfy", ERROR_ARGUMENT},
        {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "no value can satisfy", ERROR_ARGUMENT},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "no value can satisfy", ERROR_ARGUMENT},
        {"{\"type\":\"number\",\"multipleOf\":0.3}", "multipleOf", ERROR_ARGUMENT},
        {"{\"enum\":[1],\"minimum\":3}", "beside", ERROR_ARGUMENT},
        {"{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", "cannot be combined", ERROR_ARGUMENT},
        {"[]", "expected a schema", ERROR_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct grammar *grammar;
        struct error error = {0};
        int code = schema_grammar(&grammar, cases[i].schema, &error);
        if (code == 0) {
            fail_msg("%s is accepted", cases[i].schema);
        }
        test_assert_error(code, &error, cases[i].code, cases[i].message);
        assert_non_null(strstr(error.text, "response_format: "));
        assert_null(grammar);
    }
}

// Many patterns, each just below the limit, do not add up to minutes.
static void test_much_work(void **unused) {
    (void)unused;
    json_t *properties = json_object();
    for (int i = 0; i < 2000; i++) {
        char name[20], pattern[60];
        snprintf(name, sizeof name, "p%d", i);
        snprintf(pattern, sizeof pattern, "^(a{0,%d}){0,40}$", 60 + i % 3);
        snprintf(pattern + strlen(pattern) - 1, 20, "|b%d$", i);
        json_object_set_new(properties, name, json_pack("{s:s, s:s}", "type", "string", "pattern", pattern));
    }
    json_t *format = json_pack("{s:s, s:{s:{s:o}}}", "type", "json_schema", "json_schema", "schema", "properties",
                               properties);
    struct grammar_request request = {.response_format = format};
    struct grammar *grammar;
    struct error error = {0};
    test_assert_error(grammar_create(&grammar, &request, vocabulary, &error), &error, ERROR_LIMIT, "too complex");
    json_decref(format);
}

static int create_grammar(void *argument, struct error *error) {
    struct grammar *grammar;
    struct grammar_state *state;
    int code = schema_grammar(&grammar, argument, error);
    if (code == 0 && (code = grammar_state_create(&state, grammar, error)) == 0) {
        grammar_state_free(state);
    }
    grammar_free(grammar);
    return code;
}

// ---- tools and reasoning ----

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_time\",\"strict\":true,\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"zone\":{\"type\":\"string\"}},\"required\":[\"zone\"],\"additionalProperties\":false}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"stop\"}}]";
#define CSB MARKER_CALLS_BEGIN
#define CSE MARKER_CALLS_END
#define CB MARKER_CALL_BEGIN
#define CE MARKER_CALL_END
#define SEP MARKER_SEPARATOR
#define ZONE "{\"zone\": \"UTC\"}"

static struct grammar *tool_grammar(enum minke_chat_style style, enum tool_choice choice, const char *name,
                                    enum answer_reasoning reasoning, bool single) {
    struct grammar *grammar;
    struct error error = {0};
    json_t *tools = parse_json(tools_text);
    struct grammar_request request = {.style = style,
                                      .reasoning = reasoning,
                                      .tools = tools,
                                      .tool_choice = choice,
                                      .tool_name = name,
                                      .single_call = single};
    if (grammar_create(&grammar, &request, vocabulary, &error) != 0) {
        fail_msg("%s", error.text);
    }
    json_decref(tools);
    return grammar;
}

static void test_tools(void **unused) {
    (void)unused;
    static const char v3_1[] = CSB CB "get_time" SEP ZONE CE CSE,
                      v3_1_two[] = CSB CB "stop" SEP "{}" CE CB "get_time" SEP ZONE CE CSE;
    static const char v3[] = CSB CB "function" SEP "get_time\n```json\n" ZONE "\n```" CE CSE;
    static const char v3_two[] = CSB CB "function" SEP "stop\n```json\n{\"any\": 1}\n```" CE "\n" CB "function" SEP
                                        "get_time\n```json\n" ZONE "\n```" CE CSE;
    struct grammar *grammar = tool_grammar(MINKE_CHAT_V3_1, TOOL_CHOICE_AUTO, NULL, REASONING_NONE, false);
    assert_true(accepts(grammar, v3_1));
    assert_true(accepts(grammar, v3_1_two));
    assert_true(accepts(grammar, "Just text, no call."));
    assert_true(accepts(grammar, CSB CB "stop" SEP "{\"anything\": [1]}" CE CSE));
    assert_false(accepts(grammar, CSB CB "get_time" SEP "{\"zones\": 1}" CE CSE));
    assert_false(accepts(grammar, CSB CB "got_time" SEP ZONE CE CSE));
    assert_false(accepts(grammar, CSB CB "get_time" SEP ZONE CE));
    assert_false(accepts(grammar, CSB CB "get_time" SEP ZONE CE CSE "more"));
    grammar_free(grammar);
    grammar = tool_grammar(MINKE_CHAT_V3_0324, TOOL_CHOICE_REQUIRED, NULL, REASONING_NONE, false);
    assert_true(accepts(grammar, v3));
    assert_true(accepts(grammar, v3_two));
    assert_false(accepts(grammar, "Just text."));
    assert_false(accepts(grammar, v3_1));
    grammar_free(grammar);
    grammar = tool_grammar(MINKE_CHAT_V3_0324, TOOL_CHOICE_REQUIRED, NULL, REASONING_NONE, true);
    assert_true(accepts(grammar, v3));
    assert_false(accepts(grammar, v3_two));
    grammar_free(grammar);
    grammar = tool_grammar(MINKE_CHAT_V3_1, TOOL_CHOICE_NAMED, "stop", REASONING_NONE, false);
    assert_false(accepts(grammar, v3_1));
    assert_true(accepts(grammar, CSB CB "stop" SEP "{}" CE CSE));
    grammar_free(grammar);
    grammar = tool_grammar(MINKE_CHAT_V3_1, TOOL_CHOICE_NONE, NULL, REASONING_NONE, false);
    assert_true(accepts(grammar, "text"));
    assert_false(accepts(grammar, v3_1));
    grammar_free(grammar);
}

static void test_reasoning(void **unused) {
    (void)unused;
    struct grammar *grammar = tool_grammar(MINKE_CHAT_V3_1, TOOL_CHOICE_REQUIRED, NULL, REASONING_OPEN, false);
    assert_true(accepts(grammar, "I should < call. </thin </think>" CSB CB "stop" SEP "{}" CE CSE));
    assert_false(accepts(grammar, "I think."));
    assert_false(accepts(grammar, "Hm.</think>Text"));
    grammar_free(grammar);
    grammar = tool_grammar(MINKE_CHAT_V3_1, TOOL_CHOICE_AUTO, NULL, REASONING_OPEN, false);
    assert_true(accepts(grammar, "Hm " CSB " no </think>Well" CSB CB "stop" SEP "{}" CE CSE));
    assert_true(accepts(grammar, "Hm</think>Text"));
    assert_false(accepts(grammar, "Hm</think>Text" CSB "!"));
    grammar_free(grammar);
    json_t *format = parse_json("{\"type\":\"json_object\"}");
    struct grammar_request request = {.response_format = format, .reasoning = REASONING_POSSIBLE};
    assert_int_equal(grammar_create(&grammar, &request, vocabulary, NULL), 0);
    assert_true(accepts(grammar, "{\"a\":1}"));
    if (token_vocabulary_markup(vocabulary, MARKER_THINK) >= 0) {
        assert_true(accepts(grammar, "<think>\nHm {</think>\n\n{\"a\":1}"));
        assert_false(accepts(grammar, "<think>\nHm</think>\n\nHere"));
    }
    assert_false(accepts(grammar, "Here"));
    grammar_free(grammar);
    json_decref(format);
}

// A schema and tools at once: either of both.
static void test_schema_and_tools(void **unused) {
    (void)unused;
    struct grammar *grammar;
    json_t *format = parse_json("{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":\"integer\"}}}");
    json_t *tools = parse_json(tools_text);
    struct grammar_request request = {.style = MINKE_CHAT_V3_1, .response_format = format, .tools = tools};
    assert_int_equal(grammar_create(&grammar, &request, vocabulary, NULL), 0);
    assert_true(accepts(grammar, "12"));
    assert_true(accepts(grammar, CSB CB "stop" SEP "{}" CE CSE));
    assert_false(accepts(grammar, "Text"));
    grammar_free(grammar);
    struct error error = {0};
    request.tool_choice = TOOL_CHOICE_NAMED;
    request.tool_name = "nobody";
    test_assert_error(grammar_create(&grammar, &request, vocabulary, &error), &error, ERROR_ARGUMENT, "nobody");
    request = (struct grammar_request){0};
    assert_int_equal(grammar_create(&grammar, &request, vocabulary, NULL), 0);
    assert_null(grammar);
    json_decref(format);
    json_decref(tools);
}

static void collect_calls(void *argument, const struct answer_event *event) {
    char *arguments = argument;
    if (event->kind == ANSWER_CALL_ARGUMENTS) {
        strncat(arguments, event->text, event->size);
    } else if (event->kind == ANSWER_CALL_END) {
        assert_false(event->cut);
        json_error_t error;
        json_t *value = json_loads(arguments, 0, &error);
        if (value == NULL) {
            fail_msg("%s: %s", arguments, error.text);
        }
        json_decref(value);
        arguments[0] = 0;
    } else {
        assert_int_equal(event->kind, ANSWER_CALL_BEGIN);
    }
}

// What the masks of forced calls let through, the parser reads as calls with JSON arguments and nothing else.
static void test_walks_of_calls(void **unused) {
    (void)unused;
    for (int style = MINKE_CHAT_V3; style <= MINKE_CHAT_V3_1; style++) {
        struct grammar *grammar = tool_grammar((enum minke_chat_style)style, TOOL_CHOICE_REQUIRED, NULL, REASONING_NONE,
                                               true);
        for (int k = 0; k < 10; k++) {
            size_t size, blanks = 0;
            char arguments[20000] = "", *text = walk(grammar, &size);
            struct answer_options options = {(enum minke_chat_style)style, REASONING_NONE, true};
            struct answer_parser *parser;
            while (strchr(" \n\t", text[blanks]) != NULL) {
                blanks++;
            }
            assert_int_equal(answer_parser_create(&parser, &options, collect_calls, arguments, NULL), 0);
            answer_parser_push(parser, text + blanks, size - blanks);
            answer_parser_finish(parser);
            assert_int_equal(answer_parser_calls(parser), 1);
            answer_parser_free(parser);
            minke_free(text);
        }
        grammar_free(grammar);
    }
}

static void count_calls(void *argument, const struct answer_event *event) {
    char *log = argument;
    assert_true(event->kind != ANSWER_CONTENT && event->kind != ANSWER_REASONING && !event->cut);
    if (event->size > 0) {
        strncat(log, event->text, event->size);
    }
    strcat(log, event->kind == ANSWER_CALL_ARGUMENTS ? "" : event->kind == ANSWER_CALL_BEGIN ? "(" : ")");
}

// Calls as the chat templates write them into a conversation are what the grammar lets through and the parser reads.
static void test_calls_of_templates(void **unused) {
    (void)unused;
    const struct chat_tool_call calls[2] = {{.name = "stop", .arguments = "{}"},
                                            {.name = "get_time", .arguments = ZONE}};
    const struct chat_message messages[2] = {{.role = "user", .content = "Time?"},
                                             {.role = "assistant", .tool_calls = calls, .tool_call_count = 2}};
    for (int style = MINKE_CHAT_V3; style <= MINKE_CHAT_V3_1; style++) {
        struct chat_prompt prompt = {0};
        struct chat_options chat = {0};
        char text[2000], log[200] = "";
        assert_int_equal(chat_render(&prompt, (enum chat_style)style, messages, 2, &chat, NULL), 0);
        snprintf(text, sizeof text, "%.*s", (int)prompt.text.size, prompt.text.data);
        char *begin = strstr(text, CSB), *end = strstr(text, "<｜end▁of▁sentence｜>");
        assert_true(begin != NULL && end != NULL && end > begin);
        *end = 0;
        struct grammar *grammar = tool_grammar((enum minke_chat_style)style, TOOL_CHOICE_REQUIRED, NULL, REASONING_NONE,
                                               false);
        if (!accepts(grammar, begin)) {
            fail_msg("style %d: %s", style, begin);
        }
        struct answer_options options = {(enum minke_chat_style)style, REASONING_NONE, true};
        struct answer_parser *parser;
        assert_int_equal(answer_parser_create(&parser, &options, count_calls, log, NULL), 0);
        answer_parser_push(parser, begin, strlen(begin));
        answer_parser_finish(parser);
        assert_string_equal(log, "stop({})get_time(" ZONE ")");
        answer_parser_free(parser);
        grammar_free(grammar);
        chat_prompt_destroy(&prompt);
    }
}

// Nesting has an end: of two states behind many opening brackets, the deeper one must close.
static void test_depth(void **unused) {
    (void)unused;
    struct grammar *grammar;
    struct grammar_state *state;
    char text[402];
    int64_t count;
    assert_int_equal(schema_grammar(&grammar, "{\"type\":\"array\"}", NULL), 0);
    assert_int_equal(grammar_state_create(&state, grammar, NULL), 0);
    memset(text, '[', 400);
    text[400] = 0;
    assert_true(feed(&count, state, text) < count);
    restrict_next(state);
    int32_t *ids;
    assert_int_equal(minke_encode(&ids, &count, tokenizer, "]", 1, 0, NULL), 0);
    assert_true(token_set_has(allowed, ids[0]));
    minke_free(ids);
    grammar_state_free(state);
    grammar_free(grammar);
}

static void test_memory(void **unused) {
    (void)unused;
    static char schema[] =
        "{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^.*b$\"}}},{\"properties\":"
        "{\"b\":{\"items\":{\"$ref\":\"#\"}}}}]}";
    struct grammar *grammar;
    int64_t before = memory_statistics_get().live_blocks;
    assert_int_equal(create_grammar(schema, NULL), 0);
    assert_int_equal(memory_statistics_get().live_blocks, before);
    // The compiler's own allocations: the request is parsed outside.
    json_t *format = json_pack("{s:s, s:{s:o}}", "type", "json_schema", "json_schema", "schema", parse_json(schema));
    struct grammar_request request = {.response_format = format};
    before = memory_statistics_get().live_blocks;
    int failures = 0;
    for (int64_t n = 1;; n++, failures++) {
        struct error error = {0};
        memory_fail_at(n);
        int code = grammar_create(&grammar, &request, vocabulary, &error);
        memory_fail_at(0);
        if (code == 0) {
            break;
        }
        if (code != ERROR_MEMORY) {
            fail_msg("allocation %lld: %s", (long long)n, error.text);
        }
        assert_int_equal(error.code, ERROR_MEMORY);
        assert_int_equal(memory_statistics_get().live_blocks, before);
    }
    assert_true(failures > 20);
    grammar_free(grammar);
    json_decref(format);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),       cmocka_unit_test(test_walks),
        cmocka_unit_test(test_walk_values),    cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_much_work),      cmocka_unit_test(test_tools),
        cmocka_unit_test(test_reasoning),      cmocka_unit_test(test_schema_and_tools),
        cmocka_unit_test(test_walks_of_calls), cmocka_unit_test(test_calls_of_templates),
        cmocka_unit_test(test_depth),          cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
