// Regular expressions of JSON schemas (the keyword pattern, and our own for formats and numbers) -> automata.
//
// The language is the regular part of ECMA-262 with Unicode: . [] () (?:) (?<name>) | * + ? {n,m} and their lazy forms,
// \d \w \s \D \W \S, \t \n \v \f \r \0, \xHH, \uHHHH, \u{H}. ^ and $ stand at the beginning and end of an alternative
// of the whole; without them the match may be anywhere, as the keyword says. Look-around, back references, \b and \p
// are errors. Compiling takes bounded time whatever the expression (automaton.h has the limits).
//
// Characters are spelled as JSON strings spell them: as they are, or escaped where they must be.
#ifndef MINKE_SERVE_PATTERN_H
#define MINKE_SERVE_PATTERN_H

#include "serve/automaton.h"

// Edges from state `from` to state `to` for any text that matches (between quotes if `quoted`). Returns nfa->code.
int pattern_add(struct nfa *nfa, int32_t from, int32_t to, const char *pattern, bool quoted);
// One character between two code points (inclusive).
void nfa_characters(struct nfa *nfa, int32_t from, int32_t to, uint32_t low, uint32_t high);
// The text as a JSON string writes it, without quotes.
void nfa_string(struct nfa *nfa, int32_t from, int32_t to, const char *text, size_t size);

#endif
