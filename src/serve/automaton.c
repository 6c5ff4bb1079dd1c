// Storage of automata, the trimming of what leads nowhere, and the construction of nondeterministic ones.
#include "serve/automaton.h"

#include <string.h>

#include "base/memory.h"

// Room for one more element of an array that doubles; returns a negative code when it cannot.
static int array_grow(void **array, int32_t count, int32_t *capacity, size_t size, int32_t limit, struct error *error) {
    if (count < *capacity) {
        return 0;
    }
    if (count >= limit) {
        return error_set(error, ERROR_LIMIT, "the grammar is too large (more than %d parts)", (int)limit);
    }
    int32_t larger = *capacity == 0 ? 64 : *capacity * 2;
    void *grown = memory_resize(*array, (size_t)larger, size, "grammar", error);
    if (grown == NULL) {
        return ERROR_MEMORY;
    }
    *array = grown;
    *capacity = larger;
    return 0;
}

void automaton_destroy(struct automaton *automaton) {
    memory_free(automaton->rows);
    memory_free(automaton->edges);
    memory_free(automaton->calls);
    memory_free(automaton->rules);
    *automaton = (struct automaton){0};
}

int automaton_add_rule(int32_t *rule, struct automaton *automaton, struct error *error) {
    int code = array_grow((void **)&automaton->rules, automaton->rule_count, &automaton->rule_capacity,
                          sizeof *automaton->rules, AUTOMATON_ROWS, error);
    if (code == 0) {
        *rule = automaton->rule_count++;
        automaton->rules[*rule] = -1;
    }
    return code;
}

int automaton_add_row(int32_t *row, struct automaton *automaton, bool accept, struct error *error) {
    int code = array_grow((void **)&automaton->rows, automaton->row_count, &automaton->row_capacity,
                          sizeof *automaton->rows, AUTOMATON_ROWS, error);
    if (code == 0) {
        *row = automaton->row_count++;
        automaton->rows[*row] = (struct automaton_row){
            .edges = automaton->edge_count, .calls = automaton->call_count, .accept = accept};
    }
    return code;
}

int automaton_add_edge(struct automaton *automaton, uint8_t low, uint8_t high, int32_t to, struct error *error) {
    int code = array_grow((void **)&automaton->edges, automaton->edge_count, &automaton->edge_capacity,
                          sizeof *automaton->edges, 8 * AUTOMATON_ROWS, error);
    if (code == 0) {
        automaton->edges[automaton->edge_count++] = (struct automaton_edge){to, low, high};
        automaton->rows[automaton->row_count - 1].edge_count++;
    }
    return code;
}

int automaton_add_call(struct automaton *automaton, struct automaton_call call, struct error *error) {
    int code = array_grow((void **)&automaton->calls, automaton->call_count, &automaton->call_capacity,
                          sizeof *automaton->calls, 8 * AUTOMATON_ROWS, error);
    if (code == 0) {
        automaton->calls[automaton->call_count++] = call;
        automaton->rows[automaton->row_count - 1].call_count++;
    }
    return code;
}

int32_t automaton_next(const struct automaton *automaton, int32_t row, uint8_t byte) {
    const struct automaton_edge *edges = automaton->edges + automaton->rows[row].edges;
    int32_t low = 0, high = automaton->rows[row].edge_count;
    while (low < high) {   // the first edge whose range does not end before the byte
        int32_t middle = (low + high) / 2;
        if (edges[middle].high < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < automaton->rows[row].edge_count && edges[low].low <= byte ? edges[low].to : -1;
}

// ---- trimming ----

struct trim {
    struct automaton *automaton;
    int32_t *reverse_first, *reverse;   // rows with a byte edge to a row
    int32_t *queue;
    int32_t queued;
};

static void trim_mark(struct trim *trim, int32_t row, int16_t need) {
    if (trim->automaton->rows[row].need == AUTOMATON_NEVER) {
        trim->automaton->rows[row].need = need;
        trim->queue[trim->queued++] = row;
    }
}

// Everything from which byte edges lead to a marked row needs no more than that.
static void trim_spread(struct trim *trim, int32_t from, int16_t need) {
    for (int32_t i = from; i < trim->queued; i++) {
        int32_t row = trim->queue[i];
        for (int32_t k = trim->reverse_first[row]; k < trim->reverse_first[row + 1]; k++) {
            trim_mark(trim, trim->reverse[k], need);
        }
    }
}

// Rows that can go on by a call whose rule needs less than `need` levels. Repeats while it finds some.
static void trim_level(struct trim *trim, int16_t need) {
    struct automaton *automaton = trim->automaton;
    int32_t before;
    do {
        before = trim->queued;
        for (int32_t row = automaton->row_count - 1; row >= 0; row--) {
            if (automaton->rows[row].need != AUTOMATON_NEVER) {
                continue;
            }
            for (int32_t i = 0; i < automaton->rows[row].call_count; i++) {
                const struct automaton_call *call = &automaton->calls[automaton->rows[row].calls + i];
                if (automaton->rows[automaton->rules[call->rule]].need < need &&
                    automaton->rows[call->to].need <= need) {
                    int32_t from = trim->queued;
                    trim_mark(trim, row, need);
                    trim_spread(trim, from, need);
                    break;
                }
            }
        }
    } while (trim->queued > before);
}

static void trim_reverse(struct trim *trim) {
    struct automaton *automaton = trim->automaton;
    for (int32_t i = 0; i < automaton->edge_count; i++) {
        trim->reverse_first[automaton->edges[i].to + 1]++;
    }
    for (int32_t row = 0; row < automaton->row_count; row++) {
        trim->reverse_first[row + 1] += trim->reverse_first[row];
        trim->queue[row] = trim->reverse_first[row];
    }
    for (int32_t row = 0; row < automaton->row_count; row++) {
        for (int32_t i = 0; i < automaton->rows[row].edge_count; i++) {
            trim->reverse[trim->queue[automaton->edges[automaton->rows[row].edges + i].to]++] = row;
        }
    }
}

static void trim_cut(struct automaton *automaton) {
    for (int32_t at = 0; at < automaton->row_count; at++) {
        struct automaton_row *row = &automaton->rows[at];
        int32_t edges = 0, calls = 0;
        for (int32_t i = 0; i < row->edge_count; i++) {
            struct automaton_edge edge = automaton->edges[row->edges + i];
            if (automaton->rows[edge.to].need != AUTOMATON_NEVER) {
                automaton->edges[row->edges + edges++] = edge;
            }
        }
        for (int32_t i = 0; i < row->call_count; i++) {
            struct automaton_call call = automaton->calls[row->calls + i];
            if (automaton->rows[call.to].need != AUTOMATON_NEVER &&
                automaton->rows[automaton->rules[call.rule]].need != AUTOMATON_NEVER) {
                automaton->calls[row->calls + calls++] = call;
            }
        }
        row->edge_count = edges;
        row->call_count = calls;
    }
}

int automaton_trim(struct automaton *automaton, struct error *error) {
    struct trim trim = {.automaton = automaton};
    size_t rows = (size_t)automaton->row_count;
    trim.reverse_first = memory_allocate(rows + 2, sizeof(int32_t), "grammar", error);
    trim.reverse = memory_allocate((size_t)automaton->edge_count + 1, sizeof(int32_t), "grammar", error);
    trim.queue = memory_allocate(rows + 1, sizeof(int32_t), "grammar", error);
    int code = trim.reverse_first == NULL || trim.reverse == NULL || trim.queue == NULL ? ERROR_MEMORY : 0;
    if (code == 0) {
        trim_reverse(&trim);
        for (int32_t row = 0; row < automaton->row_count; row++) {
            automaton->rows[row].need = AUTOMATON_NEVER;
        }
        for (int32_t row = 0; row < automaton->row_count; row++) {
            if (automaton->rows[row].accept) {
                trim_mark(&trim, row, 0);
            }
        }
        trim_spread(&trim, 0, 0);
        for (int16_t need = 1; need <= AUTOMATON_NEED_LIMIT; need++) {
            int32_t before = trim.queued;
            trim_level(&trim, need);
            if (trim.queued == before) {
                break;
            }
        }
        trim_cut(automaton);
    }
    memory_free(trim.reverse_first);
    memory_free(trim.reverse);
    memory_free(trim.queue);
    return code;
}

// ---- building ----

void nfa_init(struct nfa *nfa, struct error *error) {
    *nfa = (struct nfa){.state_count = 2, .error = error};
}

void nfa_destroy(struct nfa *nfa) {
    memory_free(nfa->edges);
    *nfa = (struct nfa){0};
}

int32_t nfa_state(struct nfa *nfa) {
    if (nfa->code == 0 && nfa->state_count >= NFA_EDGES) {
        nfa->code = error_set(nfa->error, ERROR_LIMIT, "too large (more than %d states)", NFA_EDGES);
    }
    return nfa->code == 0 ? nfa->state_count++ : 0;
}

static void nfa_add(struct nfa *nfa, struct nfa_edge edge) {
    if (nfa->code == 0) {
        nfa->code = array_grow((void **)&nfa->edges, nfa->edge_count, &nfa->edge_capacity, sizeof *nfa->edges,
                               NFA_EDGES, nfa->error);
    }
    if (nfa->code == 0) {
        nfa->edges[nfa->edge_count++] = edge;
    }
}

void nfa_bytes(struct nfa *nfa, int32_t from, int32_t to, uint8_t low, uint8_t high) {
    nfa_add(nfa, (struct nfa_edge){from, to, NFA_BYTES, 0, 0, low, high});
}

void nfa_empty(struct nfa *nfa, int32_t from, int32_t to) {
    nfa_add(nfa, (struct nfa_edge){from, to, NFA_EMPTY, 0, 0, 0, 0});
}

void nfa_call(struct nfa *nfa, int32_t from, int32_t to, int32_t rule, int32_t min, int32_t max) {
    nfa_add(nfa, (struct nfa_edge){from, to, rule, min, max, 0, 0});
}

void nfa_text(struct nfa *nfa, int32_t from, int32_t to, const char *text, size_t size) {
    if (size == 0) {
        nfa_empty(nfa, from, to);
    }
    for (size_t i = 0; i < size && nfa->code == 0; i++) {
        int32_t next = i + 1 == size ? to : nfa_state(nfa);
        nfa_bytes(nfa, from, next, (uint8_t)text[i], (uint8_t)text[i]);
        from = next;
    }
}
