// One automaton for the form of a number, one for each bound, and their intersection (see number_rule.h).
#include "serve/number_rule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/pattern.h"

#define FORM_INTEGER "^-?(0|[1-9]\\d{0,17})$"
#define FORM_NUMBER "^-?(0|[1-9]\\d{0,17})(\\.\\d{1,20})?([eE]([+-]?(\\d{1,2}|1\\d\\d|2[0-8]\\d)|-(29\\d|30\\d)))?$"
#define FORM_LIMIT 1024
#define EXACT_DIGITS 15   // decimal numbers of so many digits are different doubles
#define MULTIPLE_LIMIT 1024
#define DIGITS_LIMIT 700

// A bound in decimal: whole.fraction, no leading zeros but "0", no trailing zeros in the fraction.
struct decimal {
    bool negative;
    char whole[DIGITS_LIMIT], fraction[DIGITS_LIMIT];
    int whole_size, fraction_size;
};

enum relation { LESS = 1, EQUAL = 2, GREATER = 4 };   // of a number to the bound

void number_shortest_text(char text[40], double value) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, 40, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            return;
        }
    }
}

static void decimal_from_json(struct decimal *decimal, const json_t *value) {
    char text[40], digits[40] = "";
    int count = 0, point = -1;   // point: how many of the digits stand in front of it
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    } else {
        number_shortest_text(text, json_real_value(value));
    }
    const char *at = text + (text[0] == '-' ? 1 : 0);
    *decimal = (struct decimal){.negative = text[0] == '-'};
    for (; *at != 0 && *at != 'e'; at++) {
        if (*at == '.') {
            point = count;
        } else {
            digits[count++] = *at;
        }
    }
    point = (point < 0 ? count : point) + (*at == 'e' ? (int)strtol(at + 1, NULL, 10) : 0);
    for (int i = point < 0 ? point : 0; i < count || i < point; i++) {
        char digit = i < 0 || i >= count ? '0' : digits[i];
        if (i >= point) {
            decimal->fraction[decimal->fraction_size++] = digit;
        } else if (digit != '0' || decimal->whole_size > 0) {
            decimal->whole[decimal->whole_size++] = digit;
        }
    }
    if (decimal->whole_size == 0) {
        decimal->whole[decimal->whole_size++] = '0';
    }
    while (decimal->fraction_size > 0 && decimal->fraction[decimal->fraction_size - 1] == '0') {
        decimal->fraction_size--;
    }
    if (decimal->whole[0] == '0' && decimal->fraction_size == 0) {
        decimal->negative = false;
    }
}

// ---- comparing ----

struct comparison {
    struct nfa *nfa;
    const struct decimal *bound;
    int wanted;   // relations that are accepted
    int32_t to;
};

static void accept_if(const struct comparison *it, int32_t state, enum relation relation) {
    if ((it->wanted & (int)relation) != 0) {
        nfa_empty(it->nfa, state, it->to);
    }
}

// Digits that change nothing any more.
static int32_t add_decided(const struct comparison *it, enum relation relation) {
    int32_t state = nfa_state(it->nfa);
    nfa_bytes(it->nfa, state, state, '0', '9');
    accept_if(it, state, relation);
    return state;
}

// From `state`, digits below, equal to and above one of the bound's.
static void add_digit(struct nfa *nfa, int32_t state, char digit, int32_t less, int32_t equal, int32_t greater) {
    if (digit > '0') {
        nfa_bytes(nfa, state, less, '0', (uint8_t)(digit - 1));
    }
    nfa_bytes(nfa, state, equal, (uint8_t)digit, (uint8_t)digit);
    if (digit < '9') {
        nfa_bytes(nfa, state, greater, (uint8_t)(digit + 1), '9');
    }
}

// Behind a point, the digits in front of it being equal.
static int32_t add_fraction(const struct comparison *it, int32_t less, int32_t greater) {
    int32_t first = nfa_state(it->nfa), state = first;
    for (int i = 0; i < it->bound->fraction_size && it->nfa->code == 0; i++) {
        int32_t next = nfa_state(it->nfa);
        accept_if(it, state, LESS);
        add_digit(it->nfa, state, it->bound->fraction[i], less, next, greater);
        state = next;
    }
    add_digit(it->nfa, state, '0', less, state, greater);
    accept_if(it, state, EQUAL);
    return first;
}

// Numbers without sign against the bound without sign. Without leading zeros the longer one is greater.
static void add_comparison(const struct comparison *it, int32_t from) {
    struct nfa *nfa = it->nfa;
    int32_t less = add_decided(it, LESS), greater = add_decided(it, GREATER);
    int32_t fraction = add_fraction(it, less, greater), longer = nfa_state(nfa);
    int32_t state[3] = {from, from, from};   // the digits so far are less, equal, greater
    for (int i = 0; i < it->bound->whole_size && nfa->code == 0; i++) {
        int32_t next[3] = {nfa_state(nfa), nfa_state(nfa), nfa_state(nfa)};
        add_digit(nfa, state[1], it->bound->whole[i], next[0], next[1], next[2]);
        if (i > 0) {
            nfa_bytes(nfa, state[0], next[0], '0', '9');
            nfa_bytes(nfa, state[2], next[2], '0', '9');
            for (int k = 0; k < 3; k++) {   // ends here: it is shorter than the bound
                accept_if(it, state[k], LESS);
                nfa_bytes(nfa, state[k], less, '.', '.');
            }
        }
        memcpy(state, next, sizeof state);
    }
    for (int k = 0; k < 3; k++) {
        nfa_bytes(nfa, state[k], longer, '0', '9');
    }
    nfa_bytes(nfa, state[0], less, '.', '.');
    nfa_bytes(nfa, state[1], fraction, '.', '.');
    nfa_bytes(nfa, state[2], greater, '.', '.');
    accept_if(it, state[0], LESS);
    accept_if(it, state[1], it->bound->fraction_size > 0 ? LESS : EQUAL);
    accept_if(it, state[2], GREATER);
    nfa_bytes(nfa, longer, longer, '0', '9');
    nfa_bytes(nfa, longer, greater, '.', '.');
    accept_if(it, longer, GREATER);
}

// Any number without sign.
static void add_any(const struct comparison *it, int32_t from) {
    int32_t state = nfa_state(it->nfa);
    nfa_bytes(it->nfa, from, state, '0', '9');
    nfa_bytes(it->nfa, state, state, '0', '9');
    nfa_bytes(it->nfa, state, state, '.', '.');
    nfa_empty(it->nfa, state, it->to);
}

static int mirrored(int wanted) {
    return (wanted & EQUAL) | (wanted & LESS ? GREATER : 0) | (wanted & GREATER ? LESS : 0);
}

static int bound_rule(int32_t *row, struct automaton *automaton, const json_t *value, int wanted, struct error *error) {
    struct decimal bound;
    struct nfa nfa;
    nfa_init(&nfa, error);
    decimal_from_json(&bound, value);
    bool zero = bound.whole[0] == '0' && bound.fraction_size == 0;
    struct comparison above = {&nfa, &bound, wanted, 1}, below = {&nfa, &bound, mirrored(wanted), 1};
    int32_t minus = nfa_state(&nfa);
    nfa_bytes(&nfa, 0, minus, '-', '-');
    if (!bound.negative) {
        add_comparison(&above, 0);
    } else if (wanted & GREATER) {
        add_any(&above, 0);
    }
    if (bound.negative || zero) {
        add_comparison(&below, minus);
    } else if (wanted & LESS) {
        add_any(&below, minus);
    }
    int code = automaton_from_nfa(row, automaton, &nfa);
    nfa_destroy(&nfa);
    return code;
}

// ---- multiples ----

static int integer_multiple_rule(int32_t *row, struct automaton *automaton, int32_t divisor, struct error *error) {
    struct nfa nfa;
    nfa_init(&nfa, error);
    int32_t first = nfa.state_count, minus = first + divisor;
    for (int32_t i = 0; i <= divisor; i++) {
        nfa_state(&nfa);
    }
    nfa_bytes(&nfa, 0, minus, '-', '-');
    for (int32_t digit = 0; digit < 10; digit++) {
        uint8_t byte = (uint8_t)('0' + digit);
        nfa_bytes(&nfa, 0, first + digit % divisor, byte, byte);
        nfa_bytes(&nfa, minus, first + digit % divisor, byte, byte);
        for (int32_t rest = 0; rest < divisor; rest++) {
            nfa_bytes(&nfa, first + rest, first + (rest * 10 + digit) % divisor, byte, byte);
        }
    }
    nfa_empty(&nfa, first, 1);
    int code = automaton_from_nfa(row, automaton, &nfa);
    nfa_destroy(&nfa);
    return code;
}

static int form_rule(int32_t *row, struct automaton *automaton, const char *form, struct error *error) {
    struct nfa nfa;
    nfa_init(&nfa, error);
    pattern_add(&nfa, 0, 1, form, false);
    int code = automaton_from_nfa(row, automaton, &nfa);
    nfa_destroy(&nfa);
    return code;
}

// Decimals of at most EXACT_DIGITS digits, `places` of them behind the point: a bound is then a bound of the doubles
// that they are read as.
static void decimal_form(char form[FORM_LIMIT], int places) {
    size_t used = (size_t)snprintf(form, FORM_LIMIT, "^-?(0(\\.\\d{1,%d})?", places);
    for (int whole = 1; whole <= EXACT_DIGITS; whole++) {
        int rest = EXACT_DIGITS - whole < places ? EXACT_DIGITS - whole : places;
        used += (size_t)snprintf(form + used, FORM_LIMIT - used, "|[1-9]\\d{%d}", whole - 1);
        if (rest > 0) {
            used += (size_t)snprintf(form + used, FORM_LIMIT - used, "(\\.\\d{1,%d})?", rest);
        }
    }
    snprintf(form + used, FORM_LIMIT - used, ")$");
}

// The form of the number, given what it must be a multiple of: 1 to 1024 leave a divisor, 0.1, 0.01, ... limit the
// digits behind the point.
static int choose_form(char form[FORM_LIMIT], int32_t *divisor, bool integer, const struct number_limits *limits,
                       struct error *error) {
    struct decimal multiple;
    bool bounded = limits->minimum != NULL || limits->maximum != NULL || limits->exclusive_minimum != NULL ||
                   limits->exclusive_maximum != NULL;
    *divisor = 1;
    snprintf(form, FORM_LIMIT, "%s", integer ? FORM_INTEGER : FORM_NUMBER);
    if (bounded && !integer) {
        decimal_form(form, EXACT_DIGITS);
    }
    if (limits->multiple_of == NULL) {
        return 0;
    }
    decimal_from_json(&multiple, limits->multiple_of);
    if (!multiple.negative && multiple.fraction_size == 0 && multiple.whole_size <= 4 &&
        (*divisor = (int32_t)strtol(multiple.whole, NULL, 10)) > 0 && *divisor <= MULTIPLE_LIMIT) {
        snprintf(form, FORM_LIMIT, FORM_INTEGER);
        return 0;
    }
    bool power = !multiple.negative && multiple.fraction_size > 0 && multiple.fraction_size < EXACT_DIGITS &&
                 strcmp(multiple.whole, "0") == 0 &&
                 strspn(multiple.fraction, "0") == (size_t)multiple.fraction_size - 1 &&
                 multiple.fraction[multiple.fraction_size - 1] == '1';
    if (!power) {
        return error_set(error, ERROR_ARGUMENT, "keyword \"multipleOf\": only 1 to %d and 0.1, 0.01, ... are supported",
                         MULTIPLE_LIMIT);
    }
    *divisor = 1;
    if (!integer) {
        decimal_form(form, multiple.fraction_size);
    }
    return 0;
}

int number_rule(int32_t *row, struct automaton *automaton, bool integer, const struct number_limits *limits,
                struct error *error) {
    const struct {
        const json_t *value;
        int wanted;
    } bounds[] = {{limits->minimum, GREATER | EQUAL},
                  {limits->maximum, LESS | EQUAL},
                  {limits->exclusive_minimum, GREATER},
                  {limits->exclusive_maximum, LESS}};
    struct automaton parts = {0};   // of which only the last result is wanted
    char form[FORM_LIMIT];
    int32_t divisor, at, other;
    int code = choose_form(form, &divisor, integer, limits, error);
    if (code == 0) {
        code = form_rule(&at, &parts, form, error);
    }
    for (int i = 0; i < 4 && code == 0; i++) {
        if (bounds[i].value != NULL &&
            (code = bound_rule(&other, &parts, bounds[i].value, bounds[i].wanted, error)) == 0) {
            code = automaton_intersect(&at, &parts, &parts, at, &parts, other, error);
        }
    }
    if (code == 0 && divisor > 1 && (code = integer_multiple_rule(&other, &parts, divisor, error)) == 0) {
        code = automaton_intersect(&at, &parts, &parts, at, &parts, other, error);
    }
    if (code == 0) {
        code = automaton_intersect(row, automaton, &parts, at, &parts, at, error);   // a copy
    }
    automaton_destroy(&parts);
    return code;
}
