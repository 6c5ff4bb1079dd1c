// A JSON string as an automaton over bytes: well-formed UTF-8, the escapes of RFC 8259, surrogates in pairs only, no
// U+0000. One character of the string is one way from STRING_BODY back to STRING_BODY.
#ifndef MINKE_SERVE_JSON_STRING_H
#define MINKE_SERVE_JSON_STRING_H

#include <stdint.h>

enum string_state {
    STRING_START,   // before the opening quote
    STRING_BODY,
    STRING_END,      // behind the closing quote
    STRING_TAIL_1,   // bytes of a character that are still to come
    STRING_TAIL_2,
    STRING_TAIL_3,
    STRING_AFTER_E0,   // first bytes that restrict the second
    STRING_AFTER_ED,
    STRING_AFTER_F0,
    STRING_AFTER_F4,
    STRING_ESCAPE,   // behind the backslash
    STRING_HEX_4,    // digits of \u that are still to come
    STRING_HEX_3,
    STRING_HEX_2,
    STRING_HEX_1,
    STRING_ZERO_3,   // the same, all zero so far
    STRING_ZERO_2,
    STRING_ZERO_1,
    STRING_HEX_D,    // behind \ud
    STRING_HIGH_2,   // digits of a high surrogate
    STRING_HIGH_1,
    STRING_PAIR,   // behind a high surrogate: \u, d, c to f and two digits
    STRING_PAIR_U,
    STRING_LOW_4,
    STRING_LOW_3,
    STRING_STATES
};

// The state behind a byte, -1 = the byte cannot come.
int string_next(int state, uint8_t byte);

#endif
