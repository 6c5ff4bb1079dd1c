// libFuzzer: any text as a JSON schema. What compiles never runs into a dead end: a walk over the masks, steered by the
// input's hash, always finds an allowed token until the value is complete, and what it wrote is JSON. Run from the root
// of the checkout (the tokenizer is a golden file).
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "serve/grammar.h"
#include "serve/token_trie.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define TOKENS 300
#define TEXT_LIMIT 4096

static struct minke_tokenizer *tokenizer;
static struct token_vocabulary *vocabulary;
static int32_t eos;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    struct minke_error failure = {0};
    struct error error = {0};
    (void)argc;
    (void)argv;
    CHECK(minke_tokenizer_open(&tokenizer, "tests/golden/text/small", &failure) == 0, "%s", failure.text);
    CHECK(token_vocabulary_create(&vocabulary, tokenizer, NULL, 0, &error) == 0, "%s", error.text);
    eos = minke_tokenizer_eos(tokenizer);
    return 0;
}

// The first allowed token from a random one on; the end as soon as it is allowed in the second half.
static int32_t choose(const uint64_t *allowed, int64_t step, uint64_t seed) {
    if (token_set_has(allowed, eos) && step > TOKENS / 2) {
        return eos;
    }
    int32_t size = vocabulary->vocab_size, first = (int32_t)rng_below(seed, 1, (uint64_t)step, (uint64_t)size);
    for (int32_t i = 0; i < size; i++) {
        int32_t id = (first + i) % size;
        if (token_set_has(allowed, id)) {
            return id;
        }
    }
    CHECK(false, "dead end at token %lld", (long long)step);
    return -1;
}

static void walk(const struct grammar *grammar, uint64_t seed) {
    struct grammar_state *state;
    uint64_t allowed[64];
    int32_t ids[TOKENS];
    CHECK(grammar_state_create(&state, grammar, NULL) == 0 && vocabulary->words <= 64, "setup");
    struct minke_token_filter filter = grammar_state_filter(state);
    for (int64_t step = 0; step < TOKENS; step++) {
        memset(allowed, 0xFF, sizeof allowed);
        filter.restrict_tokens(filter.argument, allowed, vocabulary->vocab_size);
        ids[step] = choose(allowed, step, seed);
        filter.accept_token(filter.argument, ids[step]);
        if (ids[step] == eos) {
            char *text;
            size_t size;
            CHECK(minke_decode(&text, &size, tokenizer, ids, step, NULL) == 0, "decode");
            json_t *value = json_loadb(text, size, JSON_DECODE_ANY, NULL);
            CHECK(value != NULL, "%s", text);
            json_decref(value);
            minke_free(text);
            break;
        }
    }
    grammar_state_free(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    struct grammar *grammar;
    json_t *schema = size > TEXT_LIMIT ? NULL : json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL);
    if (schema == NULL) {
        return 0;
    }
    json_t *format = json_pack("{s:s, s:{s:o}}", "type", "json_schema", "json_schema", "schema", schema);
    struct grammar_request request = {.response_format = format};
    int64_t blocks = memory_statistics_get().live_blocks;
    int code = grammar_create(&grammar, &request, vocabulary, &error);
    CHECK(code == error.code && (code == 0) == (grammar != NULL), "code %d: %s", code, error.text);
    if (code == 0) {
        for (uint64_t seed = 0; seed < 3; seed++) {
            walk(grammar, seed * 1000003 + size);
        }
    }
    grammar_free(grammar);
    CHECK(memory_statistics_get().live_blocks == blocks, "left behind");
    json_decref(format);
    return 0;
}
