// See with_grammar.h.
#include "fuzz/with_grammar.h"

#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "serve/token_trie.h"

#define TOKENS 300
#define WORDS 64

void walker_open(struct walker *walker) {
    struct minke_error failure = {0};
    struct error error = {0};
    CHECK(minke_tokenizer_open(&walker->tokenizer, "tests/golden/text/small", &failure) == 0, "%s", failure.text);
    CHECK(token_vocabulary_create(&walker->vocabulary, walker->tokenizer, NULL, 0, &error) == 0, "%s", error.text);
    CHECK(walker->vocabulary->words <= WORDS, "a larger vocabulary");
    walker->eos = minke_tokenizer_eos(walker->tokenizer);
}

static void restrict_next(uint64_t allowed[WORDS], const struct minke_token_filter *filter,
                          const struct walker *walker) {
    memset(allowed, 0xFF, WORDS * sizeof *allowed);
    filter->restrict_tokens(filter->argument, allowed, walker->vocabulary->vocab_size);
}

// The first allowed token from a random one on; in the second half the end as soon as it is allowed, and before it what
// closes something, or few walks would end.
static int32_t choose(const uint64_t *allowed, const struct walker *walker, int64_t step, uint64_t seed) {
    static const char closing[] = "\"}]";
    int32_t size = walker->vocabulary->vocab_size;
    if (token_set_has(allowed, walker->eos) && (step > TOKENS / 4 || rng_below(seed, 2, (uint64_t)step, 3) == 0)) {
        return walker->eos;
    }
    for (int32_t id = 0; step > TOKENS / 4 && id < size; id++) {
        int32_t length;
        const char *spelling = token_vocabulary_spelling(&length, walker->vocabulary, id);
        if (length == 1 && strchr(closing, spelling[0]) != NULL && spelling[0] != '\0' && token_set_has(allowed, id) &&
            rng_below(seed, 3, (uint64_t)step, 4) > 0) {
            return id;
        }
    }
    int32_t first = (int32_t)rng_below(seed, 1, (uint64_t)step, (uint64_t)size);
    for (int32_t i = 0; i < size; i++) {
        int32_t id = (first + i) % size;
        if (token_set_has(allowed, id)) {
            return id;
        }
    }
    CHECK(false, "dead end at token %lld", (long long)step);
    return -1;
}

char *walker_walk(size_t *size, const struct walker *walker, const struct grammar *grammar, uint64_t seed) {
    struct grammar_state *state;
    uint64_t allowed[WORDS];
    int32_t ids[TOKENS];
    char *text = NULL;
    CHECK(grammar_state_create(&state, grammar, NULL) == 0, "memory");
    struct minke_token_filter filter = grammar_state_filter(state);
    for (int64_t step = 0; step < TOKENS; step++) {
        restrict_next(allowed, &filter, walker);
        CHECK(token_set_has(allowed, walker->eos) == grammar_state_is_complete(state), "the end");
        ids[step] = choose(allowed, walker, step, seed);
        filter.accept_token(filter.argument, ids[step]);
        if (ids[step] == walker->eos) {
            CHECK(minke_decode(&text, size, walker->tokenizer, ids, step, NULL) == 0, "decode");
            break;
        }
    }
    grammar_state_free(state);
    return text;
}

bool walker_accepts(const struct walker *walker, const struct grammar *grammar, const char *text, size_t size) {
    struct grammar_state *state;
    uint64_t allowed[WORDS];
    int32_t *ids;
    int64_t count, at = 0;
    CHECK(minke_encode(&ids, &count, walker->tokenizer, text, size, 0, NULL) == 0, "encode");
    CHECK(grammar_state_create(&state, grammar, NULL) == 0, "memory");
    struct minke_token_filter filter = grammar_state_filter(state);
    for (bool may = true; may; at += may) {
        int32_t id = at < count ? ids[at] : walker->eos;
        restrict_next(allowed, &filter, walker);
        may = token_set_has(allowed, id) && at <= count;
        if (may) {
            filter.accept_token(filter.argument, id);
        }
        if (at == count) {
            at += may;
            break;
        }
    }
    grammar_state_free(state);
    minke_free(ids);
    return at > count;
}
