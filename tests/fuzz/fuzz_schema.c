// Any text as a JSON schema, and a value behind it. What compiles never runs into a dead end: random walks over the
// masks find an allowed token until the value is complete. What a walk writes is JSON and a value of the schema
// (with_schema.h); and so is the given value if the masks let it through.
#include "base/json.h"
#include "fuzz/fuzz.h"
#include "fuzz/with_grammar.h"
#include "fuzz/with_schema.h"

#define TEXT_LIMIT 4096
#define WALKS 3

const bool fuzz_leaves_memory = true;   // the tokenizer keeps the memory of its longest text

static struct walker walker;

void fuzz_open(void) {
    walker_open(&walker);
}

static void check_value(const json_t *schema, const char *text, size_t size) {
    json_t *value = json_loadb(text, size, JSON_DECODE_ANY, NULL);
    CHECK(value != NULL, "no JSON: %.*s", (int)size, text);
    CHECK(schema_accepts(schema, schema, value, 0), "not of the schema: %.*s", (int)size, text);
    json_decref(value);
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    static struct fuzz_part part, value;
    struct error error = {0};
    struct grammar *grammar;
    part = fuzz_take(&input);
    value = fuzz_take(&input);
    json_t *schema = part.size > TEXT_LIMIT ? NULL : json_loadb(part.text, part.size, JSON_DECODE_ANY, NULL);
    if (schema == NULL) {
        return;
    }
    json_t *format = json_pack("{s:s, s:{s:o}}", "type", "json_schema", "json_schema", "schema", schema);
    struct grammar_request request = {.response_format = format};
    int code = grammar_create(&grammar, &request, walker.vocabulary, &error);
    CHECK(code == error.code && (code == 0) == (grammar != NULL), "code %d: %s", code, error.text);
    for (uint64_t seed = 0; code == 0 && seed < WALKS; seed++) {
        size_t length;
        char *text = walker_walk(&length, &walker, grammar, seed * 1000003 + size);
        if (text != NULL) {
            check_value(schema, text, length);
            minke_free(text);
        }
    }
    if (code == 0 && walker_accepts(&walker, grammar, value.text, value.size)) {
        check_value(schema, value.text, value.size);
    }
    grammar_free(grammar);
    json_decref(format);
}
