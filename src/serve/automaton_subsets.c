// Nondeterministic -> deterministic (subsets of states), and the intersection of two deterministic automata (pairs of
// rows). Both discover the new rows from the first one on; a table finds those that are known.
#include <string.h>

#include "base/memory.h"
#include "serve/automaton.h"

// A known subset or pair: members[begin .. begin + size), sorted.
struct subset {
    int32_t begin, size;
};

struct subset_table {
    struct error *error;
    int32_t *members;
    struct subset *subsets;   // in the order of discovery
    int32_t *slots;           // hash table of subset + 1, 0 = free
    int32_t member_count, member_capacity, count, capacity, slot_count;
};

static void table_destroy(struct subset_table *table) {
    memory_free(table->members);
    memory_free(table->subsets);
    memory_free(table->slots);
}

static uint32_t members_hash(const int32_t *members, int32_t size) {
    uint32_t hash = 2166136261u;
    for (int32_t i = 0; i < size; i++) {
        hash = (hash ^ (uint32_t)members[i]) * 16777619u;
        hash ^= hash >> 15;
    }
    return hash;
}

static int table_reserve(struct subset_table *table, int32_t size) {
    if (table->count * 2 >= table->slot_count) {
        int32_t slot_count = table->slot_count == 0 ? 256 : table->slot_count * 2;
        int32_t *slots = memory_allocate((size_t)slot_count, sizeof *slots, "grammar", table->error);
        struct subset *subsets = memory_resize(table->subsets, (size_t)slot_count, sizeof *subsets, "grammar",
                                               table->error);
        table->subsets = subsets != NULL ? subsets : table->subsets;
        if (slots == NULL || subsets == NULL) {
            memory_free(slots);
            return ERROR_MEMORY;
        }
        for (int32_t i = 0; i < table->count; i++) {
            const struct subset *subset = &table->subsets[i];
            uint32_t at = members_hash(table->members + subset->begin, subset->size);
            while (slots[at & (uint32_t)(slot_count - 1)] != 0) {
                at++;
            }
            slots[at & (uint32_t)(slot_count - 1)] = i + 1;
        }
        memory_free(table->slots);
        table->slots = slots;
        table->slot_count = slot_count;
    }
    if (table->members == NULL || table->member_capacity - table->member_count < size) {
        int32_t capacity = table->member_capacity * 2 + size + 1024;
        int32_t *members = memory_resize(table->members, (size_t)capacity, sizeof *members, "grammar", table->error);
        if (members == NULL) {
            return ERROR_MEMORY;
        }
        table->members = members;
        table->member_capacity = capacity;
    }
    return 0;
}

// The number of a subset, entered if it is new.
static int table_find(int32_t *number, struct subset_table *table, const int32_t *members, int32_t size) {
    if (table->member_count > NFA_WORK || table->count >= AUTOMATON_ROWS) {
        return error_set(table->error, ERROR_LIMIT, "too complex: more than %d states", (int)table->count - 1);
    }
    int code = table_reserve(table, size);
    if (code != 0) {
        return code;
    }
    uint32_t mask = (uint32_t)(table->slot_count - 1);
    uint32_t at = members_hash(members, size) & mask;
    for (; table->slots[at] != 0; at = (at + 1) & mask) {
        const struct subset *known = &table->subsets[table->slots[at] - 1];
        if (known->size == size &&
            memcmp(table->members + known->begin, members, (size_t)size * sizeof *members) == 0) {
            *number = table->slots[at] - 1;
            return 0;
        }
    }
    *number = table->count++;
    table->slots[at] = *number + 1;
    table->subsets[*number] = (struct subset){table->member_count, size};
    memcpy(table->members + table->member_count, members, (size_t)size * sizeof *members);
    table->member_count += size;
    return 0;
}

// ---- subsets ----

struct determinizer {
    const struct nfa *nfa;
    struct automaton *automaton;
    struct subset_table table;
    int32_t *first, *order;   // edges of state s: nfa->edges[order[first[s] .. first[s + 1])]
    int32_t *seen, round;     // seen[s] == round: in the closure that is being made
    int32_t *closure, closure_size;
    int32_t *edges, edge_count;   // edges of the subset at hand that are not empty
    int64_t work;
};

static void index_edges(struct determinizer *it) {
    const struct nfa *nfa = it->nfa;
    for (int32_t i = 0; i < nfa->edge_count; i++) {
        it->first[nfa->edges[i].from + 1]++;
    }
    for (int32_t s = 0; s < nfa->state_count; s++) {
        it->first[s + 1] += it->first[s];
        it->seen[s] = it->first[s];
    }
    for (int32_t i = 0; i < nfa->edge_count; i++) {
        it->order[it->seen[nfa->edges[i].from]++] = i;
    }
    memset(it->seen, 0, (size_t)nfa->state_count * sizeof *it->seen);
}

static void closure_add(struct determinizer *it, int32_t state) {
    if (it->seen[state] != it->round) {
        it->seen[state] = it->round;
        it->closure[it->closure_size++] = state;
    }
}

static void closure_begin(struct determinizer *it) {
    it->round++;
    it->closure_size = 0;
}

static void sort_numbers(int32_t *numbers, int32_t count) {   // Shell's, with gaps of Ciura
    static const int32_t gaps[] = {200000, 77000, 29000, 11000, 4000, 1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t g = 0; g < sizeof gaps / sizeof gaps[0]; g++) {
        for (int32_t i = gaps[g]; i < count; i++) {
            int32_t number = numbers[i], at = i;
            for (; at >= gaps[g] && numbers[at - gaps[g]] > number; at -= gaps[g]) {
                numbers[at] = numbers[at - gaps[g]];
            }
            numbers[at] = number;
        }
    }
}

// Follows empty edges; keeps the end and the states that have other edges.
static int closure_finish(int32_t *number, struct determinizer *it) {
    int32_t kept = 0;
    for (int32_t i = 0; i < it->closure_size; i++) {
        int32_t state = it->closure[i];
        for (int32_t k = it->first[state]; k < it->first[state + 1]; k++) {
            const struct nfa_edge *edge = &it->nfa->edges[it->order[k]];
            it->work++;
            if (edge->rule == NFA_EMPTY) {
                closure_add(it, edge->to);
            }
        }
    }
    for (int32_t i = 0; i < it->closure_size; i++) {
        int32_t state = it->closure[i];
        bool useful = state == 1;
        for (int32_t k = it->first[state]; k < it->first[state + 1] && !useful; k++) {
            useful = it->nfa->edges[it->order[k]].rule != NFA_EMPTY;
        }
        if (useful) {
            it->closure[kept++] = state;
        }
    }
    if (it->work > NFA_WORK || it->automaton->work + it->work > AUTOMATON_WORK) {
        return error_set(it->nfa->error, ERROR_LIMIT, "too complex to be compiled");
    }
    sort_numbers(it->closure, kept);
    return table_find(number, &it->table, it->closure, kept);
}

// Ranges of bytes that behave alike in the subset: each with all the states behind it.
static int subset_edges(struct determinizer *it, int32_t base) {
    bool cut[257] = {false};
    for (int32_t i = 0; i < it->edge_count; i++) {
        const struct nfa_edge *edge = &it->nfa->edges[it->edges[i]];
        if (edge->rule == NFA_BYTES) {
            cut[edge->low] = cut[edge->high + 1] = true;
        }
    }
    int32_t pending = -1, pending_low = 0;
    for (int32_t low = 0, high; low < 256; low = high) {
        for (high = low + 1; high < 256 && !cut[high]; high++) {
        }
        closure_begin(it);
        for (int32_t i = 0; i < it->edge_count; i++) {
            const struct nfa_edge *edge = &it->nfa->edges[it->edges[i]];
            it->work++;
            if (edge->rule == NFA_BYTES && edge->low <= low && low <= edge->high) {
                closure_add(it, edge->to);
            }
        }
        int32_t to = -1;
        int code = it->closure_size == 0 ? 0 : closure_finish(&to, it);
        if (code == 0 && to != pending && pending >= 0) {
            code = automaton_add_edge(it->automaton, (uint8_t)pending_low, (uint8_t)(low - 1), base + pending,
                                      it->nfa->error);
        }
        if (code == 0 && high == 256 && to >= 0) {
            code = automaton_add_edge(it->automaton, (uint8_t)(to == pending ? pending_low : low), 255, base + to,
                                      it->nfa->error);
        }
        if (code != 0) {
            return code;
        }
        pending_low = to == pending ? pending_low : low;
        pending = to;
    }
    return 0;
}

static bool same_call(const struct nfa_edge *a, const struct nfa_edge *b) {
    return a->rule == b->rule && a->min == b->min && a->max == b->max;
}

static int subset_calls(struct determinizer *it, int32_t base) {
    for (int32_t i = 0; i < it->edge_count; i++) {
        const struct nfa_edge *call = &it->nfa->edges[it->edges[i]];
        bool is_new = call->rule >= 0;
        for (int32_t k = 0; k < i && is_new; k++) {
            it->work++;
            is_new = !same_call(call, &it->nfa->edges[it->edges[k]]);
        }
        if (!is_new) {
            continue;
        }
        closure_begin(it);
        for (int32_t k = i; k < it->edge_count; k++) {
            if (same_call(call, &it->nfa->edges[it->edges[k]])) {
                closure_add(it, it->nfa->edges[it->edges[k]].to);
            }
        }
        int32_t to;
        int code = closure_finish(&to, it);
        if (code == 0) {
            code = automaton_add_call(
                it->automaton, (struct automaton_call){call->rule, base + to, call->min, call->max}, it->nfa->error);
        }
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

static int subset_row(struct determinizer *it, int32_t number, int32_t base) {
    struct subset subset = it->table.subsets[number];
    bool accept = false;
    int32_t row;
    it->edge_count = 0;
    for (int32_t i = 0; i < subset.size; i++) {
        int32_t state = it->table.members[subset.begin + i];
        accept = accept || state == 1;
        for (int32_t k = it->first[state]; k < it->first[state + 1]; k++) {
            if (it->nfa->edges[it->order[k]].rule != NFA_EMPTY) {
                it->edges[it->edge_count++] = it->order[k];
            }
        }
    }
    int code = automaton_add_row(&row, it->automaton, accept, it->nfa->error);
    if (code == 0) {
        CHECK(row == base + number, "row %d", (int)row);
        code = subset_edges(it, base);
    }
    return code == 0 ? subset_calls(it, base) : code;
}

int automaton_from_nfa(int32_t *row, struct automaton *automaton, const struct nfa *nfa) {
    struct determinizer it = {.nfa = nfa, .automaton = automaton, .table.error = nfa->error};
    size_t states = (size_t)nfa->state_count, edges = (size_t)nfa->edge_count + 1;
    int32_t base = automaton->row_count, number;
    int code = nfa->code;
    if (code != 0) {
        return code;
    }
    it.first = memory_allocate(states + 1, sizeof(int32_t), "grammar", nfa->error);
    it.order = memory_allocate(edges, sizeof(int32_t), "grammar", nfa->error);
    it.seen = memory_allocate(states, sizeof(int32_t), "grammar", nfa->error);
    it.closure = memory_allocate(states, sizeof(int32_t), "grammar", nfa->error);
    it.edges = memory_allocate(edges, sizeof(int32_t), "grammar", nfa->error);
    if (it.first == NULL || it.order == NULL || it.seen == NULL || it.closure == NULL || it.edges == NULL) {
        code = ERROR_MEMORY;
        goto out;
    }
    index_edges(&it);
    it.work = nfa->edge_count;
    closure_begin(&it);
    closure_add(&it, 0);
    code = closure_finish(&number, &it);
    for (int32_t i = 0; code == 0 && i < it.table.count; i++) {
        code = subset_row(&it, i, base);
    }
    *row = base;
out:
    automaton->work += it.work;
    memory_free(it.first);
    memory_free(it.order);
    memory_free(it.seen);
    memory_free(it.closure);
    memory_free(it.edges);
    table_destroy(&it.table);
    return code;
}

// ---- pairs ----

static int pair_row(struct automaton *automaton, struct subset_table *table, int32_t number, int32_t base,
                    const struct automaton *a, const struct automaton *b) {
    int32_t row_a = table->members[table->subsets[number].begin],
            row_b = table->members[table->subsets[number].begin + 1];
    int32_t row;
    int code = automaton_add_row(&row, automaton, a->rows[row_a].accept && b->rows[row_b].accept, table->error);
    int32_t edges_a = a->rows[row_a].edges, edges_b = b->rows[row_b].edges;
    int32_t end_a = edges_a + a->rows[row_a].edge_count, end_b = edges_b + b->rows[row_b].edge_count;
    while (code == 0 && edges_a < end_a && edges_b < end_b) {
        struct automaton_edge left = a->edges[edges_a], right = b->edges[edges_b];
        uint8_t low = left.low > right.low ? left.low : right.low;
        uint8_t high = left.high < right.high ? left.high : right.high;
        if (low <= high) {
            int32_t pair[2] = {left.to, right.to}, to;
            code = table_find(&to, table, pair, 2);
            code = code == 0 ? automaton_add_edge(automaton, low, high, base + to, table->error) : code;
        }
        edges_a += left.high <= high ? 1 : 0;
        edges_b += right.high <= high ? 1 : 0;
    }
    return code;
}

int automaton_intersect(int32_t *row, struct automaton *automaton, const struct automaton *a, int32_t row_a,
                        const struct automaton *b, int32_t row_b, struct error *error) {
    struct subset_table table = {.error = error};
    int32_t base = automaton->row_count, number, pair[2] = {row_a, row_b};
    int code = table_find(&number, &table, pair, 2);
    for (int32_t i = 0; code == 0 && i < table.count; i++) {
        automaton->work += 16;
        code = pair_row(automaton, &table, i, base, a, b);
    }
    *row = base;
    table_destroy(&table);
    return code;
}
