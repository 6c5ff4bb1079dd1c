// serve/answer_parser: reasoning, content and calls of every style; broken calls; every way to cut a text.
#include "serve/answer_parser.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "serve/markers.h"
#include "support/test.h"

#define CSB MARKER_CALLS_BEGIN
#define CSE MARKER_CALLS_END
#define CB MARKER_CALL_BEGIN
#define CE MARKER_CALL_END
#define SEP MARKER_SEPARATOR

// Events as text: R(..) C(..) then for calls [name|arguments] or [name|arguments~ when cut.
struct recorder {
    char text[4096];
    size_t size;
    int kind;
};

static void record_text(struct recorder *recorder, const char *text, size_t size) {
    assert_true(recorder->size + size < sizeof recorder->text);
    memcpy(recorder->text + recorder->size, text, size);
    recorder->size += size;
    recorder->text[recorder->size] = 0;
}

static void record(void *argument, const struct answer_event *event) {
    struct recorder *recorder = argument;
    static const char *const opening[] = {"R(", "C(", "[", "|"};
    bool joins = (int)event->kind == recorder->kind && event->kind != ANSWER_CALL_BEGIN;
    bool text = event->kind == ANSWER_REASONING || event->kind == ANSWER_CONTENT;
    assert_int_equal(event->call >= 0, !text);
    assert_int_equal(event->size > 0, event->kind != ANSWER_CALL_END);
    if (!joins && (recorder->kind == ANSWER_REASONING || recorder->kind == ANSWER_CONTENT)) {
        record_text(recorder, ")", 1);
    }
    if (event->kind == ANSWER_CALL_END) {
        record_text(recorder, event->cut ? "~" : "]", 1);
    } else {
        if (!joins) {
            record_text(recorder, opening[event->kind], strlen(opening[event->kind]));
        }
        record_text(recorder, event->text, event->size);
    }
    recorder->kind = (int)event->kind;
}

struct example {
    enum minke_chat_style style;
    enum answer_reasoning reasoning;
    const char *text, *expected;
};

// Runs the text in pieces that end at cuts[].
static void parse(struct recorder *recorder, const struct example *example, const size_t *cuts, size_t cut_count) {
    struct answer_options options = {example->style, example->reasoning, true};
    struct answer_parser *parser;
    size_t size = strlen(example->text), at = 0;
    *recorder = (struct recorder){.kind = -1};
    assert_int_equal(answer_parser_create(&parser, &options, record, recorder, NULL), 0);
    for (size_t i = 0; i <= cut_count; i++) {
        size_t end = i < cut_count ? cuts[i] : size;
        answer_parser_push(parser, example->text + at, end - at);
        at = end;
    }
    answer_parser_finish(parser);
    answer_parser_free(parser);
    if (recorder->kind == ANSWER_REASONING || recorder->kind == ANSWER_CONTENT) {
        record_text(recorder, ")", 1);
    }
}

#define V3_CALL(name, arguments) CB "function" SEP name "\n```json\n" arguments "\n```" CE

static const struct example examples[] = {
    {MINKE_CHAT_V3, REASONING_NONE, "Hello", "C(Hello)"},
    {MINKE_CHAT_V3, REASONING_NONE, "", ""},
    {MINKE_CHAT_V3, REASONING_NONE, "a < b, <｜tool", "C(a < b, <｜tool)"},
    {MINKE_CHAT_V3, REASONING_NONE, "<think>x</think>y", "C(<think>x</think>y)"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB V3_CALL("f", "{\"a\": 1}") CSE, "[f|{\"a\": 1}]"},
    {MINKE_CHAT_V3_0324, REASONING_NONE, "Let me see." CSB V3_CALL("f", "{}") "\n" V3_CALL("g_2", "{\"x\":\"é\"}") CSE,
     "C(Let me see.)[f|{}][g_2|{\"x\":\"é\"}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB "\n" V3_CALL("f", "{}"), "[f|{}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB V3_CALL("f", "{}") CSE "after" CSB V3_CALL("g", "1") CSE,
     "[f|{}]C(after)[g|1]"},
    // Mistakes of a model.
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n{\"a\":1}" CE CSE, "[f|{\"a\":1}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```\n{}\n```" CE CSE, "[f|{}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```json\n{}" CE CSE, "[f|{}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```json\n{}\n```" CSE "x", "[f|{}]C(x)"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```json\n{\"a\":\"\n```\"\n```" CE,
     "[f|{\"a\":\"\n```\"]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f" CE CSE, "[f]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "\n```json\n{}\n```" CE CSE,
     "C(" CSB CB "function" SEP "\n```json\n{}\n```" CE CSE ")"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function\nf" CE CSE, "C(" CSB CB "function\nf" CE CSE ")"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB "hello" CSE, "C(" CSB "hello" CSE ")"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CSB V3_CALL("f", "{}") CSE, "C(" CSB ")[f|{}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB CSB V3_CALL("f", "{}") CSE, "C(" CSB CB ")[f|{}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB V3_CALL("f", "{}") " and more " CE, "[f|{}]C( and more " CE ")"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB V3_CALL("f", "nonsense {") CSE, "[f|nonsense {]"},
    {MINKE_CHAT_V3, REASONING_NONE, V3_CALL("f", "{}"), "C(" V3_CALL("f", "{}") ")"},
    // Cut by max_tokens.
    {MINKE_CHAT_V3, REASONING_NONE, CSB, "C(" CSB ")"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "get_wea", "C(" CSB CB "function" SEP "get_wea)"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n", "[f~"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```js", "[f~"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```json\n{\"a\": \"b", "[f|{\"a\": \"b~"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```json\n{}\n`", "[f|{}\n`~"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB CB "function" SEP "f\n```json\n{}\n```", "[f|{}~"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB V3_CALL("f", "{}") "\n", "[f|{}]"},
    {MINKE_CHAT_V3, REASONING_NONE, CSB V3_CALL("f", "{}") "\n" CB "func", "[f|{}]C(\n" CB "func)"},
    // v3.1
    {MINKE_CHAT_V3_1, REASONING_NONE, "Sure." CSB CB "f" SEP "{\"a\": [1]}" CE CB "g" SEP "{}" CE CSE,
     "C(Sure.)[f|{\"a\": [1]}][g|{}]"},
    {MINKE_CHAT_V3_1, REASONING_NONE, CSB CB "f" SEP "{\"a\": \"\n```\"}" CE CSE, "[f|{\"a\": \"\n```\"}]"},
    {MINKE_CHAT_V3_1, REASONING_NONE, CSB CB "f" SEP "{" CB "g" SEP "{}" CSE, "[f|{][g|{}]"},
    {MINKE_CHAT_V3_1, REASONING_NONE, CSB CB "f" CE CSE, "C(" CSB CB "f" CE CSE ")"},
    {MINKE_CHAT_V3_1, REASONING_NONE, CSB CB "f" SEP, "[f~"},
    {MINKE_CHAT_V3_1, REASONING_OPEN, "I think.</think>Yes.", "R(I think.)C(Yes.)"},
    {MINKE_CHAT_V3_1, REASONING_OPEN, "I think", "R(I think)"},
    {MINKE_CHAT_V3_1, REASONING_OPEN, "</think>Yes.", "C(Yes.)"},
    // r1
    {MINKE_CHAT_R1, REASONING_POSSIBLE, "<think>\nHm\n\n</think>\n\nYes\n", "R(Hm)C(Yes\n)"},
    {MINKE_CHAT_R1, REASONING_POSSIBLE, "\n<think>Hm</think>" CSB V3_CALL("f", "{}") CSE, "R(Hm)[f|{}]"},
    {MINKE_CHAT_R1, REASONING_POSSIBLE, "Yes <think>no</think>", "C(Yes <think>no</think>)"},
    {MINKE_CHAT_R1, REASONING_POSSIBLE, "  ", "C(  )"},
    {MINKE_CHAT_R1_THINK, REASONING_OPEN, "\nHm\n</thinking>\n</think>\n\n", "R(Hm\n</thinking>)"},
    {MINKE_CHAT_R1_THINK, REASONING_OPEN, "<think>\nHm </think> Yes", "R(Hm )C( Yes)"},
    {MINKE_CHAT_R1_THINK, REASONING_OPEN, "Hm" CSB "</think>" CSB V3_CALL("f", "{}") CSE, "R(Hm" CSB ")[f|{}]"},
    {MINKE_CHAT_R1_0528, REASONING_POSSIBLE, "<think></think>Yes", "C(Yes)"},
};
#define EXAMPLES (sizeof examples / sizeof examples[0])

static void test_examples(void **state) {
    (void)state;
    for (size_t i = 0; i < EXAMPLES; i++) {
        struct recorder recorder;
        parse(&recorder, &examples[i], NULL, 0);
        if (strcmp(recorder.text, examples[i].expected) != 0) {
            fail_msg("example %zu:\n%s\ngives\n%s\ninstead of\n%s", i, examples[i].text, recorder.text,
                     examples[i].expected);
        }
    }
}

static void test_every_cut(void **state) {
    (void)state;
    for (size_t i = 0; i < EXAMPLES; i++) {
        size_t size = strlen(examples[i].text);
        struct recorder recorder;
        for (size_t first = 0; first <= size; first++) {
            size_t cuts[2] = {first, first};
            parse(&recorder, &examples[i], cuts, 1);
            assert_string_equal(recorder.text, examples[i].expected);
            for (cuts[1] = first; cuts[1] <= size; cuts[1] += 7) {
                parse(&recorder, &examples[i], cuts, 2);
                assert_string_equal(recorder.text, examples[i].expected);
            }
        }
    }
}

static int compare_sizes(const void *a, const void *b) {
    size_t left = *(const size_t *)a, right = *(const size_t *)b;
    return (left > right) - (left < right);
}

// Texts stitched from markers and their pieces: any cuts give the same events, and no byte of text is lost.
static void test_random_texts(void **state) {
    (void)state;
    static const char *const parts[] = {CSB,         CSE,     CB,         CE,     SEP,         "\n",
                                        "```json\n", "\n```", "function", "name", "{\"a\":1}", "<think>",
                                        "</think>",  "<",     "\n\n",     " ",    "text",      "<｜tool▁call"};
    static const char many[] = "0123456789012345678901234567890123456789012345678901234567890123456789";
    uint64_t counter = 0;
    for (int round = 0; round < 3000; round++) {
        char text[1600] = "";
        struct example example = {.text = text};
        example.style = (enum minke_chat_style)rng_below(1, 1, counter++, 6);
        example.reasoning = (enum answer_reasoning)rng_below(1, 1, counter++, 3);
        uint64_t count = rng_below(1, 1, counter++, 20);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t part = rng_below(1, 1, counter++, 19);
            strcat(text, part < 18 ? parts[part] : many);
        }
        struct recorder whole, pieces;
        parse(&whole, &example, NULL, 0);
        size_t cuts[6], size = strlen(text);
        for (int i = 0; i < 6; i++) {
            cuts[i] = (size_t)rng_below(1, 1, counter++, size + 1);
        }
        qsort(cuts, 6, sizeof cuts[0], compare_sizes);
        parse(&pieces, &example, cuts, 6);
        assert_string_equal(whole.text, pieces.text);
        size_t cut_every_byte[1600];
        for (size_t i = 0; i < size; i++) {
            cut_every_byte[i] = i;
        }
        parse(&pieces, &example, cut_every_byte, size);
        assert_string_equal(whole.text, pieces.text);
    }
}

// Text of any length comes in pieces of whole characters; without tools, markers are text; a name that is too long is
// no call.
static void count_bytes(void *argument, const struct answer_event *event) {
    size_t *total = argument;
    *total += event->size;
    assert_true(((unsigned char)event->text[0] & 0xC0) != 0x80);
}

static void test_long_text(void **state) {
    (void)state;
    struct answer_options options = {MINKE_CHAT_V3_1, REASONING_NONE, false};
    struct answer_parser *parser;
    static char text[30001];
    size_t total = 0;
    for (int i = 0; i < 10000; i++) {
        memcpy(text + 3 * i, "｜", 3);
    }
    assert_int_equal(answer_parser_create(&parser, &options, count_bytes, &total, NULL), 0);
    answer_parser_push(parser, text, 30000);
    assert_int_equal(total, 30000);
    answer_parser_push(parser, CSB CB "f" SEP "{}" CE, strlen(CSB CB "f" SEP "{}" CE));
    answer_parser_finish(parser);
    assert_int_equal(answer_parser_calls(parser), 0);
    assert_int_equal(total, 30000 + strlen(CSB CB "f" SEP "{}" CE));
    answer_parser_free(parser);

    options.tools = true;
    total = 0;
    memset(text, 'n', 1000);
    assert_int_equal(answer_parser_create(&parser, &options, count_bytes, &total, NULL), 0);
    answer_parser_push(parser, CSB CB, strlen(CSB CB));
    answer_parser_push(parser, text, 1000);
    answer_parser_push(parser, SEP, strlen(SEP));
    answer_parser_finish(parser);
    assert_int_equal(answer_parser_calls(parser), 0);
    assert_int_equal(total, strlen(CSB CB SEP) + 1000);
    answer_parser_free(parser);
}

static void test_reasoning_of_prompts(void **state) {
    (void)state;
    assert_int_equal(answer_reasoning(MINKE_CHAT_V3, "user", true), REASONING_NONE);
    assert_int_equal(answer_reasoning(MINKE_CHAT_V3_1, "user", true), REASONING_OPEN);
    assert_int_equal(answer_reasoning(MINKE_CHAT_V3_1, "user", false), REASONING_NONE);
    assert_int_equal(answer_reasoning(MINKE_CHAT_V3_1, "tool", true), REASONING_NONE);
    assert_int_equal(answer_reasoning(MINKE_CHAT_R1_THINK, "user", false), REASONING_OPEN);
    assert_int_equal(answer_reasoning(MINKE_CHAT_R1_THINK, "tool", false), REASONING_POSSIBLE);
    assert_int_equal(answer_reasoning(MINKE_CHAT_R1_0528, "user", false), REASONING_POSSIBLE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_reasoning_of_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
