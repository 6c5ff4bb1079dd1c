// JSON schemas read a second time, without automata: whether a value is one of a schema. For fuzzers.
#ifndef MINKE_TESTS_FUZZ_WITH_SCHEMA_H
#define MINKE_TESTS_FUZZ_WITH_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>

// True as well where it cannot be told: of the keywords `pattern` and `format`, and of references that go too deep.
// oneOf is read as anyOf (docs/constrained-decoding.md).
bool schema_accepts(const json_t *schema, const json_t *root, const json_t *value, int depth);

#endif
