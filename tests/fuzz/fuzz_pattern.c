// libFuzzer: any text as a regular expression of a schema, behind a length and a text to match. Compiling ends in time
// (-timeout); what compiles accepts only JSON strings.
#include <string.h>

#include "base/error.h"
#include "serve/json_string.h"
#include "serve/pattern.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Along any accepted way, a string's own automaton must go along.
static void check_way(const struct automaton *automaton, int32_t row, uint64_t noise) {
    int state = STRING_START;
    for (int step = 0; step < 200; step++) {
        const struct automaton_row *at = &automaton->rows[row];
        CHECK(!at->accept || state == STRING_END, "accepts no string: state %d", state);
        if (at->edge_count == 0) {
            return;
        }
        const struct automaton_edge *edge = &automaton->edges[at->edges + (int32_t)(noise % (uint64_t)at->edge_count)];
        uint8_t byte = (uint8_t)(edge->low + noise / 7 % (uint64_t)(edge->high - edge->low + 1));
        CHECK(automaton_next(automaton, row, byte) == edge->to, "edges overlap");
        state = string_next(state, byte);
        CHECK(state >= 0, "byte 0x%02x is not of a string", byte);
        row = edge->to;
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        noise ^= noise >> 29;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char pattern[257] = "";
    struct automaton automaton = {0};
    struct error error = {0};
    struct nfa nfa;
    int32_t row;
    if (size > 256) {
        return 0;
    }
    memcpy(pattern, data, size);
    for (size_t i = 0; i < strlen(pattern); i++) {
        pattern[i] = (char)(pattern[i] & 0x7F);   // schemas come as well-formed UTF-8
    }
    nfa_init(&nfa, &error);
    int code = pattern_add(&nfa, 0, 1, pattern, true);
    if (code == 0) {
        code = automaton_from_nfa(&row, &automaton, &nfa);
    }
    CHECK(code == error.code, "code %d: %s", code, error.text);
    if (code == 0) {
        for (uint64_t noise = 1; noise < 9; noise++) {
            check_way(&automaton, row, noise * 0x9E3779B97F4A7C15u);
        }
    }
    nfa_destroy(&nfa);
    automaton_destroy(&automaton);
    return 0;
}
