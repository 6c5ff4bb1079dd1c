// The program that constrain.py drives: constrained decoding with a random sampler in place of a model.
//
//     constrain TOKENIZER_DIR      one JSON object a line on stdin, one a line on stdout
//
// {"request": {...}, "walks": N, "seed": S, "texts": [...]}   request: response_format, tools, tool_choice, style, ...
// {"error": "..."} or {"walks": ["text", ...], "texts": ["" or what was refused, ...], "mask_us": [mean, max], ...}
//
// A walk chooses at random among the allowed tokens, with a liking for those that lead to the end. A text is encoded
// and every token of it must be allowed, and the end behind it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "serve/grammar.h"
#include "serve/token_trie.h"

#define TOKENS_LIMIT 1000

static struct minke_tokenizer *tokenizer;
static struct token_vocabulary *vocabulary;
static int64_t vocab_size, words;
static uint64_t *allowed;
static double mask_seconds, mask_longest;
static int64_t mask_count;
static uint64_t draws;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void restrict_next(const struct minke_token_filter *filter) {
    memset(allowed, 0xFF, (size_t)words * 8);
    double begin = now();
    filter->restrict_tokens(filter->argument, allowed, vocab_size);
    double taken = now() - begin;
    mask_seconds += taken;
    mask_longest = taken > mask_longest ? taken : mask_longest;
    mask_count++;
}

// The k-th allowed token, k drawn at random; -1 = none is allowed.
static int32_t draw(uint64_t seed) {
    int64_t count = 0;
    for (int64_t i = 0; i < words; i++) {
        count += __builtin_popcountll(allowed[i]);
    }
    if (count == 0) {
        return -1;
    }
    int64_t k = (int64_t)rng_below(seed, 7, draws++, (uint64_t)count);
    for (int32_t id = 0; id < vocab_size; id++) {
        if (token_set_has(allowed, id) && k-- == 0) {
            return id;
        }
    }
    return -1;
}

// Mostly any token; in between, one that closes something, so that walks end.
static int32_t choose(uint64_t seed, int64_t step) {
    static const char *const closers[] = {"\"", "}", "]", "\"}", "\",", "0", "t", "n"};
    int32_t eos = minke_tokenizer_eos(tokenizer);
    uint64_t dice = rng_below(seed, 8, draws++, 100);
    if (token_set_has(allowed, eos) && dice < 60) {
        return eos;
    }
    if (dice < (uint64_t)(step > 60 ? 95 : 30)) {
        size_t first = step > 60 ? 0 : (size_t)rng_below(seed, 9, draws++, 8);
        for (size_t i = 0; i < 8; i++) {
            const char *closer = closers[(first + i) % 8];
            int32_t *ids;
            int64_t count;
            if (minke_encode(&ids, &count, tokenizer, closer, strlen(closer), MINKE_ENCODE_PLAIN, NULL) != 0) {
                continue;
            }
            int32_t id = count == 1 ? ids[0] : -1;
            minke_free(ids);
            if (id >= 0 && token_set_has(allowed, id)) {
                return id;
            }
        }
    }
    return draw(seed);
}

static json_t *walk(const struct grammar *grammar, uint64_t seed) {
    static int32_t ids[TOKENS_LIMIT];
    struct grammar_state *state;
    struct minke_error error = {0};
    int32_t eos = minke_tokenizer_eos(tokenizer);
    int64_t count = 0;
    const char *end = "";
    if (grammar_state_create(&state, grammar, NULL) != 0) {
        return json_null();
    }
    struct minke_token_filter filter = grammar_state_filter(state);
    for (;;) {
        restrict_next(&filter);
        int32_t id = choose(seed, count);
        if (id < 0 || count == TOKENS_LIMIT) {
            end = id < 0 ? "DEAD END" : "TOO LONG";
            break;
        }
        filter.accept_token(filter.argument, id);
        if (id == eos) {
            break;
        }
        ids[count++] = id;
    }
    char *text;
    size_t size;
    if (minke_decode(&text, &size, tokenizer, ids, count, &error) != 0) {
        fprintf(stderr, "%s\n", error.text);
        exit(1);
    }
    json_t *result = json_stringn(text, size);
    if (result == NULL || *end != 0) {
        json_decref(result);
        json_t *shown = json_stringn_nocheck(text, size);
        result = json_pack("{s:s, s:o}", "end", *end != 0 ? end : "BAD UTF-8", "text", shown);
    }
    minke_free(text);
    grammar_state_free(state);
    return result;
}

static json_t *check(const struct grammar *grammar, const char *text) {
    struct grammar_state *state;
    int32_t *ids;
    int64_t count;
    char message[200] = "";
    if (grammar_state_create(&state, grammar, NULL) != 0 ||
        minke_encode(&ids, &count, tokenizer, text, strlen(text), 0, NULL) != 0) {
        return json_null();
    }
    struct minke_token_filter filter = grammar_state_filter(state);
    for (int64_t i = 0; i <= count && message[0] == 0; i++) {
        int32_t id = i < count ? ids[i] : minke_tokenizer_eos(tokenizer);
        restrict_next(&filter);
        if (!token_set_has(allowed, id)) {
            snprintf(message, sizeof message, "token %lld of %lld, id %d", (long long)i, (long long)count, (int)id);
        }
        filter.accept_token(filter.argument, id);
    }
    minke_free(ids);
    grammar_state_free(state);
    return json_string(message);
}

static void request_read(struct grammar_request *request, const json_t *json) {
    static const char *const choices[] = {"auto", "none", "required", "named"};
    const char *choice = json_string_value(json_object_get(json, "tool_choice"));
    *request = (struct grammar_request){
        .style = (enum minke_chat_style)json_integer_value(json_object_get(json, "style")),
        .reasoning = (enum answer_reasoning)json_integer_value(json_object_get(json, "reasoning")),
        .response_format = json_object_get(json, "response_format"),
        .tools = json_object_get(json, "tools"),
        .tool_name = json_string_value(json_object_get(json, "tool_name")),
        .single_call = json_is_true(json_object_get(json, "single_call")),
    };
    for (int i = 0; i < 4 && choice != NULL; i++) {
        if (strcmp(choice, choices[i]) == 0) {
            request->tool_choice = (enum tool_choice)i;
        }
    }
}

static json_t *answer(const json_t *job) {
    struct grammar_request request;
    struct grammar *grammar;
    struct error error = {0};
    request_read(&request, json_object_get(job, "request"));
    double begin = now();
    int code = grammar_create(&grammar, &request, vocabulary, &error);
    double compile = now() - begin;
    if (code != 0) {
        return json_pack("{s:s, s:f}", "error", error.text, "compile_ms", 1e3 * compile);
    }
    if (grammar == NULL) {
        return json_pack("{s:s}", "error", "");
    }
    json_t *walks = json_array(), *texts = json_array(), *item;
    size_t index;
    uint64_t seed = (uint64_t)json_integer_value(json_object_get(job, "seed"));
    mask_seconds = mask_longest = 0;
    mask_count = 0;
    for (json_int_t i = 0; i < json_integer_value(json_object_get(job, "walks")); i++) {
        json_array_append_new(walks, walk(grammar, seed + (uint64_t)i));
    }
    json_array_foreach(json_object_get(job, "texts"), index, item) {
        json_array_append_new(texts, check(grammar, json_string_value(item)));
    }
    grammar_free(grammar);
    return json_pack("{s:o, s:o, s:f, s:f, s:f, s:I}", "walks", walks, "texts", texts, "compile_ms", 1e3 * compile,
                     "mask_mean_us", mask_count > 0 ? 1e6 * mask_seconds / (double)mask_count : 0.0, "mask_max_us",
                     1e6 * mask_longest, "masks", (json_int_t)mask_count);
}

int main(int argc, char **argv) {
    struct minke_error failure = {0};
    struct error error = {0};
    static char line[4 << 20];
    if (argc < 2 || minke_tokenizer_open(&tokenizer, argv[1], &failure) != 0) {
        fprintf(stderr, "%s\n", argc < 2 ? "usage: constrain TOKENIZER_DIR" : failure.text);
        return 1;
    }
    double begin = now();
    if (token_vocabulary_create(&vocabulary, tokenizer, NULL, 0, &error) != 0) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    fprintf(stderr, "vocabulary: %.1f ms, %d nodes, %d leave a string\n", 1e3 * (now() - begin),
            (int)vocabulary->node_count, (int)vocabulary->exit_count);
    vocab_size = minke_tokenizer_vocab_size(tokenizer);
    words = vocab_size / 64 + 1;
    allowed = calloc((size_t)words, 8);
    while (fgets(line, sizeof line, stdin) != NULL) {
        json_t *job = json_loads(line, 0, NULL), *result = answer(job);
        char *text = json_dumps(result, JSON_COMPACT);
        puts(text);
        fflush(stdout);
        minke_free(text);
        json_decref(result);
        json_decref(job);
    }
    free(allowed);
    token_vocabulary_free(vocabulary);
    minke_tokenizer_close(tokenizer);
    return 0;
}
