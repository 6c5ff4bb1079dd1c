// serve/fields, generation and conversation: what a body says, and what is said about a bad one.
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "serve/api.h"
#include "serve/fields.h"
#include "serve/generation.h"
#include "support/test.h"

static const struct generation_limits limits = {.n = 8, .vocab_size = 512};
static const struct minke_sampling defaults = {.temperature = 0.6f, .top_p = 0.95f};

static json_t *body_of(const char *text) {
    json_t *body;
    struct failure failure = {0};
    fields_parse(&body, text, strlen(text), 64, &failure);
    assert_non_null(body);
    return body;
}

static struct generation generation_of(const char *text, struct failure *failure) {
    json_t *body = body_of(text);
    struct generation generation;
    generation_parse(&generation, body, &defaults, &limits, failure);
    json_decref(body);
    return generation;
}

static void expect_refusal(const char *text, const char *param, const char *fragment) {
    struct failure failure = {0};
    struct generation generation = generation_of(text, &failure);
    if (failure.status != 400 || strcmp(failure.param, param) != 0 || strstr(failure.message, fragment) == NULL) {
        fail_msg("%s: status %d, param \"%s\": %s", text, failure.status, failure.param, failure.message);
    }
    generation_destroy(&generation);
}

static void test_bodies(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      "[]",
                                      "{",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"a\":\"\xff\"}",
                                      "{\"a\":\"\\ud800\"}",
                                      "null",
                                      "{\"a\":1}x",
                                      "{\"a\":123456789012345678901234567890}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *body;
        struct failure failure = {0};
        assert_int_equal(fields_parse(&body, bad[i], strlen(bad[i]), 64, &failure), 400);
        assert_null(body);
        assert_true(failure.message[0] != '\0');
    }
}

static void test_depth(void **state) {
    (void)state;
    json_t *body;
    struct failure failure = {0};
    const char *four = "{\"a\":[[[\"[[[[[[\\\"[[\"]]]}";
    assert_int_equal(fields_parse(&body, four, strlen(four), 4, &failure), 0);
    json_decref(body);
    assert_int_equal(fields_parse(&body, four, strlen(four), 3, &failure), 400);
    assert_non_null(strstr(failure.message, "nests deeper than 3"));
}

// Sixteen megabytes of "0,": refused before each value takes its memory.
static void test_number_of_values(void **state) {
    (void)state;
    enum { VALUES = 1 << 20 };
    static char text[2 * VALUES + 64];
    for (int more = 0; more < 2; more++) {
        struct failure failure = {0};
        json_t *body;
        int at = snprintf(text, sizeof text, "{\"a,,,,,,\":[0");
        for (int i = 0; i < VALUES - 3 + more; i++) {
            text[at++] = ',';
            text[at++] = '0';
        }
        snprintf(text + at, sizeof text - (size_t)at, "]}");
        assert_int_equal(fields_parse(&body, text, strlen(text), 64, &failure), more ? 413 : 0);
        json_decref(body);
    }
}

static void test_zero_bytes(void **state) {
    (void)state;
    struct failure failure = {0};
    const char *suffix = NULL;
    json_t *body = body_of("{\"suffix\":\"a\\u0000b\"}");
    assert_int_equal(field_string(&suffix, body, "suffix", &failure), 400);
    assert_null(suffix);
    assert_string_equal(failure.param, "suffix");
    json_decref(body);
}

static void test_defaults(void **state) {
    (void)state;
    struct failure failure = {0};
    struct generation one = generation_of("{}", &failure), two = generation_of("{\"temperature\":null}", &failure);
    assert_int_equal(failure.status, 0);
    assert_true(one.sampling.temperature == 0.6f && one.sampling.top_p == 0.95f);
    assert_int_equal(one.n, 1);
    assert_int_equal(one.max_tokens, -1);
    assert_true(one.sampling.seed != two.sampling.seed);   // random unless it is given
    generation_destroy(&one);
    generation_destroy(&two);
}

static void test_everything(void **state) {
    (void)state;
    struct failure failure = {0};
    struct generation generation = generation_of(
        "{\"n\":3,\"seed\":-7,\"temperature\":0,\"top_p\":0,\"top_k\":-1,\"min_p\":0.1,\"frequency_penalty\":-1.5,"
        "\"presence_penalty\":2,\"repetition_penalty\":1.1,\"max_completion_tokens\":9,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true},\"stop\":[\"a\",\"bb\",\"\",\"c\",\"d\",\"e\"],"
        "\"logit_bias\":{\"5\":-100,\"511\":1.5},\"user\":\"somebody\",\"unknown\":{}}",
        &failure);
    assert_int_equal(failure.status, 0);
    assert_int_equal(generation.n, 3);
    assert_true(generation.sampling.seed == (uint64_t)-7);
    assert_true(generation.sampling.temperature == 0 && generation.sampling.top_p == 0);
    assert_int_equal(generation.sampling.top_k, 0);
    assert_int_equal(generation.max_tokens, 9);
    assert_true(generation.stream && generation.include_usage);
    assert_int_equal(generation.stop.count, 5);
    assert_string_equal(generation.stop.strings[1], "bb");
    assert_int_equal(generation.sampling.logit_bias_count, 2);
    assert_int_equal(generation.sampling.logit_bias[1].id, 511);
    generation_destroy(&generation);
}

static void test_refusals(void **state) {
    (void)state;
    expect_refusal("{\"n\":9}", "n", "in 1..8, found 9");
    expect_refusal("{\"n\":0}", "n", "found 0");
    expect_refusal("{\"n\":\"1\"}", "n", "found a string");
    expect_refusal("{\"n\":1,\"best_of\":2}", "best_of", "not supported");
    expect_refusal("{\"temperature\":-1}", "temperature", "found -1");
    expect_refusal("{\"top_p\":1.5}", "top_p", "0..1");
    expect_refusal("{\"top_p\":[1]}", "top_p", "found an array");
    expect_refusal("{\"max_tokens\":-1}", "max_tokens", "found -1");
    expect_refusal("{\"max_tokens\":1.5}", "max_tokens", "expected an integer");
    expect_refusal("{\"stop\":5}", "stop", "expected a string");
    expect_refusal("{\"stop\":[\"a\",null]}", "stop", "expected a string");
    expect_refusal("{\"logit_bias\":{\"512\":1}}", "logit_bias", "0..511");
    expect_refusal("{\"logit_bias\":{\"5\":101}}", "logit_bias", "-100..100");
    expect_refusal("{\"logit_bias\":{\"5x\":1}}", "logit_bias", "5x");
    expect_refusal("{\"stream_options\":{}}", "stream_options", "needs");
    expect_refusal("{\"functions\":[]}", "functions", "use 'tools'");
    expect_refusal("{\"guided_regex\":\"a\"}", "guided_regex", "not supported");
    expect_refusal("{\"min_tokens\":5}", "min_tokens", "not supported");
    struct failure failure = {0};
    struct generation generation = generation_of("{\"min_tokens\":0,\"use_beam_search\":false,\"best_of\":1}",
                                                 &failure);
    assert_int_equal(failure.status, 0);   // harmless values of what is not supported
    generation_destroy(&generation);
}

static void test_failure_text(void **state) {
    (void)state;
    struct failure failure = {0};
    struct text out = {0};
    failure_set(&failure, 400, NULL, "a\"b", "found %d \n", 5);
    failure_set(&failure, 500, "later", NULL, "not this one");
    failure_write(&out, &failure);
    assert_string_equal(out.data,
                        "{\"error\":{\"message\":\"found 5 \\n\",\"type\":\"invalid_request_error\",\"param\":"
                        "\"a\\\"b\",\"code\":null}}");
    text_destroy(&out);
}

// ---- Messages -------------------------------------------------------------------------------------------------------

static void test_conversation(void **state) {
    (void)state;
    json_t *body = body_of(
        "{\"m\":[{\"role\":\"developer\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":[{\"type\":"
        "\"text\",\"text\":\"one \"},{\"type\":\"text\",\"text\":\"two\"}],\"name\":\"x\"},{\"role\":"
        "\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":"
        "{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":"
        "\"42\"}]}");
    struct conversation conversation;
    struct failure failure = {0};
    assert_int_equal(conversation_parse(&conversation, json_object_get(body, "m"), "TOOLS", &failure), 0);
    assert_int_equal(conversation.message_count, 4);
    assert_string_equal(conversation.messages[0].role, "system");
    assert_string_equal(conversation.messages[0].content, "Be kind.\n\nTOOLS");
    assert_string_equal(conversation.messages[1].content, "one two");
    assert_null(conversation.messages[2].content);
    assert_string_equal(conversation.messages[2].tool_calls[0].name, "f");
    assert_string_equal(conversation.last_role, "tool");
    conversation_destroy(&conversation);
    json_decref(body);
}

static void test_conversation_without_system(void **state) {
    (void)state;
    json_t *body = body_of("{\"m\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    struct conversation conversation;
    struct failure failure = {0};
    assert_int_equal(conversation_parse(&conversation, json_object_get(body, "m"), "TOOLS", &failure), 0);
    assert_int_equal(conversation.message_count, 2);
    assert_string_equal(conversation.messages[0].content, "TOOLS");
    assert_string_equal(conversation.messages[1].content, "hi");
    conversation_destroy(&conversation);
    json_decref(body);
}

static void test_bad_messages(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"{\"m\":[]}", "messages"},
        {"{\"m\":\"hi\"}", "messages"},
        {"{\"m\":[5]}", "messages[0]"},
        {"{\"m\":[{\"content\":\"x\"}]}", "messages[0].role"},
        {"{\"m\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"robot\",\"content\":\"x\"}]}", "messages[1].role"},
        {"{\"m\":[{\"role\":\"user\"}]}", "messages[0].content"},
        {"{\"m\":[{\"role\":\"user\",\"content\":5}]}", "messages[0].content"},
        {"{\"m\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}", "messages[0].content"},
        {"{\"m\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
         "messages[0].content"},
        {"{\"m\":[{\"role\":\"user\",\"content\":\"x\",\"tool_calls\":[]}]}", "messages[0].tool_calls"},
        {"{\"m\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]}",
         "messages[0].tool_calls"},
        {"{\"m\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
         "\"{}\\u0000\"}}]}]}",
         "messages[0].tool_calls"},
        {"{\"m\":[{\"role\":\"assistant\",\"content\":\"x\",\"prefix\":true}]}", "messages[0].prefix"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *body = body_of(bad[i][0]);
        struct conversation conversation;
        struct failure failure = {0};
        assert_int_equal(conversation_parse(&conversation, json_object_get(body, "m"), NULL, &failure), 400);
        assert_string_equal(failure.param, bad[i][1]);
        conversation_destroy(&conversation);
        json_decref(body);
    }
}

static void test_routes(void **state) {
    (void)state;
    struct failure failure = {0};
    char allowed[64];
    const struct route *route = route_find("POST", "/v1/chat/completions", allowed, &failure);
    assert_true(route != NULL && route->generates && !route->open);
    assert_true(route_find("HEAD", "/health", allowed, &failure)->open);
    assert_non_null(route_find("GET", "/v1/models/a/b", allowed, &failure));
    assert_int_equal(failure.status, 0);
    assert_null(route_find("GET", "/v1/completions", allowed, &failure));
    assert_int_equal(failure.status, 405);
    assert_string_equal(allowed, "POST");
    failure = (struct failure){0};
    assert_null(route_find("GET", "/../etc/passwd", allowed, &failure));
    assert_int_equal(failure.status, 404);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies),           cmocka_unit_test(test_depth),
        cmocka_unit_test(test_number_of_values), cmocka_unit_test(test_zero_bytes),
        cmocka_unit_test(test_defaults),         cmocka_unit_test(test_everything),
        cmocka_unit_test(test_refusals),         cmocka_unit_test(test_failure_text),
        cmocka_unit_test(test_conversation),     cmocka_unit_test(test_conversation_without_system),
        cmocka_unit_test(test_bad_messages),     cmocka_unit_test(test_routes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
