// Runs an automaton with calls over the bytes of tokens: where an answer stands, and which tokens may come next.
//
// A place is a row, the calls that it is inside of (a stack of rows to return to) and, inside a JSON string, how many
// characters may and must still come. An answer stands at several places at once where the grammar has alternatives
// that begin alike; at most MATCHER_PLACES, more are dropped (each place can be completed by itself, so dropping some
// never leads to a dead end or to a wrong answer; it forgoes alternatives).
//
// Depth: a place is taken only if it can be completed within MATCHER_DEPTH calls inside one another (`need`).
#ifndef MINKE_SERVE_MATCHER_H
#define MINKE_SERVE_MATCHER_H

#include "serve/automaton.h"
#include "serve/token_trie.h"

#define MATCHER_PLACES 64
#define MATCHER_DEPTH 128
#define MATCHER_FRAMES 12288   // of the places at hand: at most PLACES * DEPTH; the rest for a walk
#define MATCHER_WALK 4096      // places of all bytes of a token

struct place {
    int32_t row, stack;   // stack: the frame on top, -1 = none
    int32_t min, max;     // characters of the string
};

struct frame {
    int32_t row, below;   // where to go on; the next frame or -1
    int32_t depth;        // frames below this one, and this one
};

struct place_set {
    struct place *places;
    int32_t count, capacity;
    bool complete;   // the whole may end here
};

// Rows at which most tokens may come, such as those of a pattern with ".*": the tokens that stay within the rule, found
// once for a grammar. The body of a JSON string is known to the vocabulary already.
struct wide_row {
    int32_t row;
    uint64_t *inside;   // tokens whose bytes all fit
    int32_t *exits;     // nodes of the trie at which the rule may end
    int32_t exit_count;
};
#define MATCHER_WIDE_ROWS 16
#define MATCHER_WIDE_BYTES 64    // next bytes that make a row a wide one
#define MATCHER_WORK (1 << 19)   // places looked at for one set of tokens; beyond, only the first place counts

struct wide_rows {   // starts as all zero
    struct wide_row rows[MATCHER_WIDE_ROWS];
    int32_t count;
};
int wide_rows_create(struct wide_rows *wide, const struct automaton *automaton,
                     const struct token_vocabulary *vocabulary, struct error *error);
void wide_rows_destroy(struct wide_rows *wide);

struct matcher {
    const struct automaton *automaton;
    const struct token_vocabulary *vocabulary;
    const struct wide_rows *wide;
    struct place places[MATCHER_PLACES];   // where the answer stands
    int32_t place_count;
    bool complete;
    int32_t frame_count;
    struct frame frames[MATCHER_FRAMES];
    struct place walk[MATCHER_WALK];   // scratch of a walk over the trie
    int32_t remap[MATCHER_FRAMES];     // scratch
};

// Puts the answer at the beginning of a rule.
void matcher_start(struct matcher *matcher, const struct automaton *automaton,
                   const struct token_vocabulary *vocabulary, const struct wide_rows *wide, int32_t rule);
// Adds to `allowed` the tokens of text and markup that may come next; not the end tokens.
void matcher_allow(struct matcher *matcher, uint64_t *allowed);
// Goes on by one byte; false = it may not come (the places are empty then).
bool matcher_accept_byte(struct matcher *matcher, uint8_t byte);
// The answer can be completed: false only after a byte that was not allowed.
bool matcher_is_alive(const struct matcher *matcher);

#endif
