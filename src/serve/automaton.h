// Automata over bytes, of which a grammar is made.
//
// struct automaton holds rules. A rule is a deterministic automaton with edges over ranges of bytes and, besides,
// calls: "here stands whatever rule r spells, then go on at `to`". It accepts in its accepting rows. Rules call each
// other recursively, so that all of them together are a pushdown automaton (matcher.h runs it).
//
// struct nfa is what a rule is built from: states, edges over bytes, empty edges, calls. rule_from_nfa makes it
// deterministic (subsets of states; calls of the same rule are one symbol). Every size has a limit, and so has the
// work: a hostile pattern or schema is an error, never a long wait.
#ifndef MINKE_SERVE_AUTOMATON_H
#define MINKE_SERVE_AUTOMATON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define AUTOMATON_ROWS 400000       // of one grammar
#define NFA_EDGES 400000            // of one rule
#define NFA_WORK (16 << 20)         // states looked at while making one rule deterministic
#define AUTOMATON_WORK (64 << 20)   // ... and all rules of a grammar
#define AUTOMATON_NEED_LIMIT 96     // nesting of calls that a grammar may need to spell its shortest text

struct automaton_row {
    int32_t edges, calls;   // the first of them
    int32_t edge_count, call_count;
    bool accept;
    int16_t need;   // calls inside one another that reaching acceptance takes at least; AUTOMATON_NEVER = it cannot
};
#define AUTOMATON_NEVER 32767

struct automaton_edge {   // a row's edges are in the order of their bytes and do not overlap
    int32_t to;
    uint8_t low, high;
};

struct automaton_call {
    int32_t rule, to;
    int32_t min, max;   // characters, if the rule is a JSON string (json_string.h); otherwise 0 and NO_MAXIMUM
};
#define NO_MAXIMUM INT32_MAX

struct automaton {   // starts as all zero
    struct automaton_row *rows;
    struct automaton_edge *edges;
    struct automaton_call *calls;
    int32_t *rules;   // first row of a rule, -1 = not built yet
    int32_t row_count, edge_count, call_count, rule_count;
    int32_t row_capacity, edge_capacity, call_capacity, rule_capacity;
    int64_t work;   // spent on making rules deterministic
};

void automaton_destroy(struct automaton *automaton);
int automaton_add_rule(int32_t *rule, struct automaton *automaton, struct error *error);
// Rows are filled one after the other: edges and calls that are added belong to the row added last.
int automaton_add_row(int32_t *row, struct automaton *automaton, bool accept, struct error *error);
int automaton_add_edge(struct automaton *automaton, uint8_t low, uint8_t high, int32_t to, struct error *error);
int automaton_add_call(struct automaton *automaton, struct automaton_call call, struct error *error);
// The row behind a byte, -1 = none.
int32_t automaton_next(const struct automaton *automaton, int32_t row, uint8_t byte);

// Computes `need` of all rows and cuts what cannot lead to acceptance.
int automaton_trim(struct automaton *automaton, struct error *error);

// ---- building ----

struct nfa_edge {
    int32_t from, to;
    int32_t rule;   // NFA_BYTES, NFA_EMPTY, or a rule that is called
    int32_t min, max;
    uint8_t low, high;
};
#define NFA_BYTES (-1)
#define NFA_EMPTY (-2)

struct nfa {   // starts as all zero but for `error`; state 0 is the start, state 1 the end
    struct nfa_edge *edges;
    int32_t edge_count, edge_capacity, state_count;
    int code;   // the first failure: later calls do nothing
    struct error *error;
};

void nfa_init(struct nfa *nfa, struct error *error);
void nfa_destroy(struct nfa *nfa);
int32_t nfa_state(struct nfa *nfa);
void nfa_bytes(struct nfa *nfa, int32_t from, int32_t to, uint8_t low, uint8_t high);
void nfa_empty(struct nfa *nfa, int32_t from, int32_t to);
void nfa_call(struct nfa *nfa, int32_t from, int32_t to, int32_t rule, int32_t min, int32_t max);
void nfa_text(struct nfa *nfa, int32_t from, int32_t to, const char *text, size_t size);

// Appends the rows of the deterministic form; *row is the first.
int automaton_from_nfa(int32_t *row, struct automaton *automaton, const struct nfa *nfa);
// Texts that both automata accept; neither calls. `a` and `b` may be the automaton itself.
int automaton_intersect(int32_t *row, struct automaton *automaton, const struct automaton *a, int32_t row_a,
                        const struct automaton *b, int32_t row_b, struct error *error);

#endif
