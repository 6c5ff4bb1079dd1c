// Finds the wide rows of an automaton and the tokens that stay in their rules (see matcher.h).
#include <string.h>

#include "base/memory.h"
#include "serve/json_string.h"
#include "serve/matcher.h"

static int next_bytes(const struct automaton *automaton, int32_t row) {
    int count = 0;
    for (int32_t i = 0; i < automaton->rows[row].edge_count; i++) {
        const struct automaton_edge *edge = &automaton->edges[automaton->rows[row].edges + i];
        count += edge->high - edge->low + 1;
    }
    return count;
}

// Counts, or stores, the nodes at which the rule may end; tokens that fit enter `inside` when storing.
// *plain: nothing on the way calls a rule or is a string's body, so that rows alone tell where a place stands.
static int32_t walk_row(struct wide_row *wide, bool *plain, const struct automaton *automaton,
                        const struct token_vocabulary *vocabulary, bool store) {
    int32_t rows[TRIE_DEPTH + 1] = {wide->row}, exits = 0;
    *plain = true;
    for (int32_t node = 1; node < vocabulary->node_count && *plain;) {
        int depth = vocabulary->depth[node];
        int32_t next = automaton_next(automaton, rows[depth - 1], vocabulary->byte[node]);
        if (next < 0) {
            node = vocabulary->skip[node];
            continue;
        }
        rows[depth] = next;
        *plain = automaton->rows[next].call_count == 0 && next >= STRING_STATES && automaton->rows[next].need == 0;
        for (int32_t i = vocabulary->first[node]; store && i < vocabulary->first[node + 1]; i++) {
            token_set_add(wide->inside, vocabulary->tokens[i]);
        }
        if (automaton->rows[next].accept) {
            if (store) {
                wide->exits[exits] = node;
            }
            exits++;
        }
        node++;
    }
    return exits;
}

int wide_rows_create(struct wide_rows *wide, const struct automaton *automaton,
                     const struct token_vocabulary *vocabulary, struct error *error) {
    for (int32_t row = STRING_STATES; row < automaton->row_count && wide->count < MATCHER_WIDE_ROWS; row++) {
        const struct automaton_row *at = &automaton->rows[row];
        struct wide_row *found = &wide->rows[wide->count];
        bool plain = at->need == 0 && at->call_count == 0;
        if (!plain || at->edge_count == 0 || next_bytes(automaton, row) < MATCHER_WIDE_BYTES) {
            continue;
        }
        found->row = row;
        found->exit_count = walk_row(found, &plain, automaton, vocabulary, false);
        if (!plain) {
            continue;
        }
        wide->count++;
        found->inside = memory_allocate((size_t)vocabulary->words, sizeof(uint64_t), "grammar", error);
        found->exits = memory_allocate((size_t)found->exit_count + 1, sizeof(int32_t), "grammar", error);
        if (found->inside == NULL || found->exits == NULL) {
            return ERROR_MEMORY;
        }
        walk_row(found, &plain, automaton, vocabulary, true);
    }
    return 0;
}

void wide_rows_destroy(struct wide_rows *wide) {
    for (int32_t i = 0; i < wide->count; i++) {
        memory_free(wide->rows[i].inside);
        memory_free(wide->rows[i].exits);
    }
    wide->count = 0;
}
