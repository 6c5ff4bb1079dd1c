// Integers and decimal numbers in JSON, within bounds -> automata. Decimal digits are compared one after the other, so
// that bounds are exact whatever their size.
//
// Integers have at most 18 digits. Numbers have at most 18 digits in front of the point and 20 behind, and an exponent
// from -309 to 289; with bounds or multiple_of at most 15 digits in all and no exponent, so that a number that keeps a
// bound in decimal keeps it as a double too.
#ifndef MINKE_SERVE_NUMBER_RULE_H
#define MINKE_SERVE_NUMBER_RULE_H

#include <jansson.h>

#include "serve/automaton.h"

struct number_limits {   // NULL = none; JSON numbers
    const json_t *minimum, *maximum, *exclusive_minimum, *exclusive_maximum, *multiple_of;
};

// Appends the rows; *row is the first.
int number_rule(int32_t *row, struct automaton *automaton, bool integer, const struct number_limits *limits,
                struct error *error);
// The shortest digits that give the double back: 0.1 is 0.1, not 0.1000000000000000055.
void number_shortest_text(char text[40], double value);

#endif
