// text/pretokenize: the scanner against the regex engine on random text, stages by hand, refused specifications.
#include "text/pretokenize.h"
#include "text/unicode.h"
#include "text_support.h"

static struct pretokenizer *create(const char *specification) {
    struct error error = {0};
    struct pretokenizer *pretokenizer;
    json_t *root;
    assert_success(json_parse(&root, specification, strlen(specification), "test", &error), error);
    assert_success(pretokenizer_create(&pretokenizer, root, "test", &error), error);
    json_decref(root);
    return pretokenizer;
}

static struct pretokenizer *create_deepseek(void) {
    struct error error = {0};
    struct pretokenizer *pretokenizer;
    json_t *root;
    assert_success(json_read(&root, SMALL "/tokenizer.json", 1 << 24, &error), error);
    assert_success(pretokenizer_create(&pretokenizer, json_object_get(root, "pre_tokenizer"), "test", &error), error);
    json_decref(root);
    assert_true(pretokenizer_is_deepseek(pretokenizer));
    return pretokenizer;
}

static void compare(const struct pretokenizer *pretokenizer, struct pretokenize_scratch *scratch, const uint8_t *text,
                    int64_t size) {
    struct error error = {0};
    const struct piece_list *pieces;
    assert_success(pretokenizer_split(&pieces, scratch, pretokenizer, text, size, &error), error);
    int64_t begin = 0;
    for (int64_t i = 0; i < pieces->count; i++) {
        int64_t end = (int64_t)pretokenize_deepseek_next(unicode_classes(), text, (size_t)size, (size_t)begin);
        if (end != pieces->ends[i]) {
            fail_msg("piece %lld from byte %lld ends at %lld, the regexes say %lld: %.*s", (long long)i,
                     (long long)begin, (long long)end, (long long)pieces->ends[i], (int)(pieces->ends[i] - begin + 8),
                     text + begin);
        }
        begin = end;
    }
    assert_int_equal(begin, size);
}

static void test_scanner_random(void **state) {
    (void)state;
    struct pretokenizer *pretokenizer = create_deepseek();
    struct pretokenize_scratch scratch = {0};
    static uint8_t text[4096 + 16];
    for (uint64_t seed = 0; seed < 300; seed++) {
        int64_t size = random_text(text, seed % 3 == 0 ? 4096 : seed % 3 == 1 ? 64 : 20, seed);
        compare(pretokenizer, &scratch, text, size);
    }
    pretokenize_scratch_destroy(&scratch);
    pretokenizer_free(pretokenizer);
}

// Every code point, framed so that it meets letters, numbers, spaces, punctuation and Han.
static void test_scanner_all_characters(void **state) {
    (void)state;
    struct pretokenizer *pretokenizer = create_deepseek();
    struct pretokenize_scratch scratch = {0};
    static const char *const frames[] = {"a?b ", " ?\xE4\xB8\x80-?1"};
    static uint8_t text[1 << 16];
    for (size_t f = 0; f < 2; f++) {
        for (uint32_t code = 0, next; code < 0x110000; code = next) {
            size_t size = 0;
            for (next = code; next < 0x110000 && size < sizeof(text) - 32; next++) {
                for (const char *c = frames[f]; *c != '\0'; c++) {
                    if (*c == '?') {
                        size += unicode_encode(text + size, next);
                    } else {
                        text[size++] = (uint8_t)*c;
                    }
                }
            }
            compare(pretokenizer, &scratch, text, (int64_t)size);
        }
    }
    pretokenize_scratch_destroy(&scratch);
    pretokenizer_free(pretokenizer);
}

// Pieces of `text` joined by "|".
static void assert_pieces(const struct pretokenizer *pretokenizer, const char *text, const char *expected) {
    struct error error = {0};
    struct pretokenize_scratch scratch = {0};
    const struct piece_list *pieces;
    char joined[256] = "";
    assert_success(
        pretokenizer_split(&pieces, &scratch, pretokenizer, (const uint8_t *)text, (int64_t)strlen(text), &error),
        error);
    for (int64_t i = 0, begin = 0; i < pieces->count; begin = pieces->ends[i++]) {
        strcat(joined, i > 0 ? "|" : "");
        strncat(joined, text + begin, (size_t)(pieces->ends[i] - begin));
    }
    assert_string_equal(joined, expected);
    pretokenize_scratch_destroy(&scratch);
}

static void test_pieces_by_hand(void **state) {
    (void)state;
    struct pretokenizer *deepseek = create_deepseek();
    assert_pieces(deepseek, "Hello, world!\n\nI've 1234567 a  1", "Hello|,| world|!\n\n|I|'ve| |123|456|7| a|  |1");
    assert_pieces(deepseek, "x\u3042\u30fb\u4e00y\u200d\u200dz \t\n  k",
                  "x|\u3042|\u30fb|\u4e00|y|\u200d|\u200dz| \t\n| | k");
    assert_pieces(deepseek, "", "");
    assert_pieces(deepseek, "  ", "  ");
    pretokenizer_free(deepseek);
    struct pretokenizer *digits = create(
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true},"
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}");
    assert_pieces(digits, "ab12 \u0663c", "ab|1|2| |\u0663|c");
    pretokenizer_free(digits);
    // $ is the end of every line, \s does not match U+180E.
    struct pretokenizer *lines = create(
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": \"Isolated\", "
        "\"pattern\": {\"Regex\": \"[a-z]$|\\\\s+\"}, \"invert\": false}, {\"type\": \"ByteLevel\", "
        "\"add_prefix_space\": false, \"use_regex\": false}]}");
    assert_pieces(lines, "xab\u180e\ncd e", "xab\u180e|\n|cd| |e");
    pretokenizer_free(lines);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *specification, *message;
    } cases[] = {
        {"{\"type\": \"Metaspace\"}", "pre-tokenizer \"Metaspace\" is not supported"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": []}", "expected a ByteLevel stage"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": {}}", "expected an array, found an object"},
        {"{\"type\": \"ByteLevel\"}", "add_prefix_space"},
        {"[]", "expected an object"},
        {"{\"type\": 3}", "key \"type\""},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Removed\"}", "Isolated"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": 1}, \"behavior\": \"Isolated\"}", "pattern"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\"}, \"behavior\": \"Isolated\"}", "empty"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}", "regular expression"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a\"}, \"behavior\": \"Isolated\"}", "unclosed"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\w+\"}, \"behavior\": \"Isolated\"}", "this escape"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\p{Han}\"}, \"behavior\": \"Isolated\"}",
         "general category"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}, \"behavior\": \"Isolated\"}", "intersected"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a[b]]\"}, \"behavior\": \"Isolated\"}", "nested"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a{1,2}+\"}, \"behavior\": \"Isolated\"}", "this brace"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?m)a\"}, \"behavior\": \"Isolated\"}", "this group"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\\\\\"}, \"behavior\": \"Isolated\"}", "this escape"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct error error = {0};
        struct pretokenizer *pretokenizer;
        json_t *root;
        assert_success(json_parse(&root, cases[i].specification, strlen(cases[i].specification), "test", &error),
                       error);
        assert_int_equal(pretokenizer_create(&pretokenizer, root, "file.json", &error), ERROR_FORMAT);
        assert_null(pretokenizer);
        if (strstr(error.text, cases[i].message) == NULL || strstr(error.text, "file.json") == NULL) {
            fail_msg("%s: %s", cases[i].specification, error.text);
        }
        json_decref(root);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scanner_random),
                                       cmocka_unit_test(test_scanner_all_characters),
                                       cmocka_unit_test(test_pieces_by_hand), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
