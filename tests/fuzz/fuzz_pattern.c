// Any text as a regular expression of a schema, and a text behind it. What compiles accepts only JSON strings, and
// those that match: PCRE2 says so of texts that random walks over the automaton write, and the other way round of the
// text that was given. Where the two languages differ, nothing is compared.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/json.h"
#include "fuzz/fuzz.h"
#include "serve/json_string.h"
#include "serve/pattern.h"
#include "serve/text.h"

#define PATTERN_LIMIT 256
#define WALKS 8
#define STEPS 200

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
}

// ---- The other engine -----------------------------------------------------------------------------------------------

struct judge {
    pcre2_code *code;
    pcre2_match_data *match;
    const char *pattern;
};

static void judge_open(struct judge *judge, const char *pattern) {
    int problem;
    PCRE2_SIZE where;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    pcre2_set_compile_extra_options(context, PCRE2_EXTRA_ALT_BSUX);
    // In (?<name> the name of a group may be longer here, in {,n} it is no quantifier, and \0 may begin an octal
    // number.
    bool other = strstr(pattern, "(?<") != NULL || strstr(pattern, "{,") != NULL || strstr(pattern, "\\0") != NULL ||
                 strstr(pattern, "(*") != NULL || strstr(pattern, "[:") != NULL || strstr(pattern, "[.") != NULL ||
                 strstr(pattern, "[=") != NULL;
    uint32_t options = PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX | PCRE2_ALLOW_EMPTY_CLASS;
    judge->pattern = pattern;
    judge->code = other ? NULL
                        : pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern), options, &problem, &where, context);
    judge->match = judge->code != NULL ? pcre2_match_data_create(1, NULL) : NULL;
    pcre2_compile_context_free(context);
}

static void judge_close(struct judge *judge) {
    pcre2_match_data_free(judge->match);
    pcre2_code_free(judge->code);
}

// 1 = matches, 0 = does not, -1 = it cannot be told. White space and line ends beyond ASCII are not the same in both.
static int judge_match(const struct judge *judge, const char *text, size_t size) {
    bool beyond = false, breaks = false;
    for (size_t i = 0; i < size; i++) {
        beyond = beyond || (text[i] & 0x80) != 0;
        breaks = breaks || text[i] == '\r';
    }
    bool spaces = strstr(judge->pattern, "\\s") != NULL || strstr(judge->pattern, "\\S") != NULL;
    bool any = strchr(judge->pattern, '.') != NULL;
    if (judge->code == NULL || (beyond && (spaces || any)) || (breaks && any) || memchr(text, 0, size) != NULL) {
        return -1;
    }
    int found = pcre2_match(judge->code, (PCRE2_SPTR)text, size, 0, 0, judge->match, NULL);
    return found >= 0 ? 1 : found == PCRE2_ERROR_NOMATCH ? 0 : -1;
}

// ---- The automaton --------------------------------------------------------------------------------------------------

static void check_accepted(const struct judge *judge, const char *string, size_t size) {
    json_t *value = json_loadb(string, size, JSON_DECODE_ANY, NULL);
    CHECK(json_is_string(value), "no JSON string: %.*s", (int)size, string);
    CHECK(judge_match(judge, json_string_value(value), json_string_length(value)) != 0, "%.*s does not match %s",
          (int)size, string, judge->pattern);
    json_decref(value);
}

// Along any way, a string's own automaton must go along.
static void check_way(const struct automaton *automaton, int32_t row, uint64_t noise, const struct judge *judge) {
    char string[STEPS];
    int state = STRING_START;
    for (size_t step = 0; step < STEPS; step++) {
        const struct automaton_row *at = &automaton->rows[row];
        CHECK(!at->accept || state == STRING_END, "accepts no string: state %d", state);
        if (at->accept) {
            check_accepted(judge, string, step);
        }
        if (at->edge_count == 0) {
            return;
        }
        const struct automaton_edge *edge = &automaton->edges[at->edges + (int32_t)(noise % (uint64_t)at->edge_count)];
        uint8_t byte = (uint8_t)(edge->low + noise / 7 % (uint64_t)(edge->high - edge->low + 1));
        CHECK(automaton_next(automaton, row, byte) == edge->to, "edges overlap");
        int32_t end = step > 20 && noise / 64 % 2 == 0 ? automaton_next(automaton, row, '"') : -1;
        byte = end >= 0 ? '"' : byte;   // a quote after some while, or few walks would end
        string[step] = (char)byte;
        state = string_next(state, byte);
        CHECK(state >= 0, "byte 0x%02x is not of a string", byte);
        row = end >= 0 ? end : edge->to;
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        noise ^= noise >> 29;
    }
}

// The text, as JSON writes it, is accepted exactly if it matches.
static void check_text(const struct automaton *automaton, int32_t row, const char *text, size_t size,
                       const struct judge *judge) {
    int wanted = judge_match(judge, text, size);
    if (wanted < 0 || !utf8_is_valid(text, size)) {
        return;
    }
    struct text string = {0};
    text_json(&string, text, size);
    for (size_t i = 0; i < string.size && row >= 0; i++) {
        row = automaton_next(automaton, row, (uint8_t)string.data[i]);
    }
    bool accepted = row >= 0 && automaton->rows[row].accept;
    CHECK(accepted == (wanted == 1), "%s and %s: accepted %d, expected %d", string.data, judge->pattern, accepted,
          wanted);
    text_destroy(&string);
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    static struct fuzz_part pattern, text;
    struct automaton automaton = {0};
    struct error error = {0};
    struct nfa nfa;
    int32_t row;
    pattern = fuzz_take(&input);
    text = fuzz_take(&input);
    if (pattern.size > PATTERN_LIMIT || !utf8_is_valid(pattern.text, pattern.size)) {
        return;
    }
    nfa_init(&nfa, &error);
    int code = pattern_add(&nfa, 0, 1, pattern.text, true);
    if (code == 0) {
        code = automaton_from_nfa(&row, &automaton, &nfa);
    }
    CHECK(code == error.code, "code %d: %s", code, error.text);
    if (code == 0) {
        struct judge judge;
        judge_open(&judge, pattern.text);
        for (uint64_t noise = 1; noise <= WALKS; noise++) {
            check_way(&automaton, row, noise * 0x9E3779B97F4A7C15u, &judge);
        }
        check_text(&automaton, row, text.text, text.size, &judge);
        judge_close(&judge);
    }
    nfa_destroy(&nfa);
    automaton_destroy(&automaton);
}
