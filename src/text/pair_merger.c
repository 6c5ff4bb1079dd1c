// Incremental pair counts and a lazy heap (see pair_merger.h).
#include "text/pair_merger.h"

#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "text/bpe.h"

struct pair {
    int64_t count;
    int32_t left, right;
    int64_t places;   // first node of its list, -1 = empty
};

struct place {   // one piece where a pair may stand
    int64_t next;
    int32_t piece;
};

struct candidate {   // a pair in the heap, with the count it had when it was put there
    int64_t count;
    int64_t pair;
};

struct merger {
    int32_t *symbols;   // of all pieces; a piece shrinks in place
    int64_t *begins;    // [pieces]
    int32_t *lengths;   // [pieces] symbols left
    const struct piece_entry *entries;
    int64_t piece_count;
    struct pair *pairs;
    int64_t pair_count, pair_capacity;
    int64_t *table;   // pair numbers by hash, -1 = free; 2^bits slots, at most half full
    int bits;
    struct place *places;
    int64_t place_count, place_capacity, place_free;   // place_free: list of nodes to use again, -1 = empty
    struct candidate *heap;
    int64_t heap_count, heap_capacity;
};

// ---- arrays ----

// Makes room for element number `count`.
static int array_grow(void *array, int64_t *capacity, int64_t count, size_t size, struct error *error) {
    if (count < *capacity) {
        return 0;
    }
    int64_t larger = *capacity == 0 ? 4096 : *capacity * 2;
    void *old;
    memcpy(&old, array, sizeof(old));
    void *grown = memory_resize(old, (size_t)larger, size, "pair counts", error);
    if (grown == NULL) {
        return ERROR_MEMORY;
    }
    memcpy(array, &grown, sizeof(grown));
    *capacity = larger;
    return 0;
}

// ---- pairs ----

static int64_t slot_find(const struct merger *merger, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    int64_t mask = ((int64_t)1 << merger->bits) - 1;
    int64_t at = (int64_t)(key * 0x9E3779B97F4A7C15u >> (64 - merger->bits));
    for (;; at = (at + 1) & mask) {
        int64_t pair = merger->table[at];
        if (pair < 0 || (merger->pairs[pair].left == left && merger->pairs[pair].right == right)) {
            return at;
        }
    }
}

static int table_grow(struct merger *merger, struct error *error) {
    int bits = merger->bits == 0 ? 16 : merger->bits + 1;
    int64_t *table = memory_resize(merger->table, (size_t)1 << bits, sizeof(*table), "pair counts", error);
    if (table == NULL) {
        return ERROR_MEMORY;
    }
    merger->table = table;
    merger->bits = bits;
    memset(table, 0xFF, sizeof(*table) << bits);
    for (int64_t i = 0; i < merger->pair_count; i++) {
        table[slot_find(merger, merger->pairs[i].left, merger->pairs[i].right)] = i;
    }
    return 0;
}

// Adds `times` to the count of a pair, and the piece to its list when the count grows.
static int pair_count(struct merger *merger, int32_t left, int32_t right, int64_t times, int32_t piece,
                      struct error *error) {
    int code = 0;
    int64_t slot = slot_find(merger, left, right), number = merger->table[slot];
    if (number < 0) {
        number = merger->pair_count;
        if ((code = array_grow(&merger->pairs, &merger->pair_capacity, number, sizeof(*merger->pairs), error)) != 0) {
            return code;
        }
        merger->pairs[number] = (struct pair){.left = left, .right = right, .places = -1};
        merger->pair_count++;
        merger->table[slot] = number;
        if (merger->pair_count * 2 > (int64_t)1 << merger->bits && (code = table_grow(merger, error)) != 0) {
            return code;
        }
    }
    struct pair *pair = &merger->pairs[number];
    pair->count += times;
    if (times < 0 || (pair->places >= 0 && merger->places[pair->places].piece == piece)) {
        return 0;
    }
    int64_t place = merger->place_free;
    if (place >= 0) {
        merger->place_free = merger->places[place].next;
    } else {
        place = merger->place_count;
        if ((code = array_grow(&merger->places, &merger->place_capacity, place, sizeof(*merger->places), error)) != 0) {
            return code;
        }
        merger->place_count++;
    }
    merger->places[place] = (struct place){pair->places, piece};
    pair->places = place;
    return 0;
}

// ---- heap ----

// Whether a comes before b: higher count, then smaller left, then smaller right.
static bool before(const struct merger *merger, struct candidate a, struct candidate b) {
    if (a.count != b.count) {
        return a.count > b.count;
    }
    const struct pair *x = &merger->pairs[a.pair], *y = &merger->pairs[b.pair];
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static int heap_push(struct merger *merger, struct candidate candidate, struct error *error) {
    if (array_grow(&merger->heap, &merger->heap_capacity, merger->heap_count, sizeof(*merger->heap), error) != 0) {
        return ERROR_MEMORY;
    }
    struct candidate *heap = merger->heap;
    int64_t at = merger->heap_count++;
    while (at > 0 && before(merger, candidate, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = candidate;
    return 0;
}

// Puts `candidate` in the place of the top and restores the order.
static void heap_replace_top(struct merger *merger, struct candidate candidate) {
    struct candidate *heap = merger->heap;
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < merger->heap_count; at = child) {
        if (child + 1 < merger->heap_count && before(merger, heap[child + 1], heap[child])) {
            child++;
        }
        if (!before(merger, heap[child], candidate)) {
            break;
        }
        heap[at] = heap[child];
    }
    heap[at] = candidate;
}

static void heap_pop(struct merger *merger) {
    merger->heap_count--;
    if (merger->heap_count > 0) {
        heap_replace_top(merger, merger->heap[merger->heap_count]);
    }
}

// The best pair with a count of at least 2, or -1.
static int64_t best_pair(struct merger *merger) {
    while (merger->heap_count > 0) {
        struct candidate top = merger->heap[0];
        int64_t count = merger->pairs[top.pair].count;
        if (count < 2) {
            heap_pop(merger);
        } else if (count != top.count) {
            heap_replace_top(merger, (struct candidate){count, top.pair});
        } else {
            heap_pop(merger);
            return top.pair;
        }
    }
    return -1;
}

// ---- one merge ----

static int piece_merge(struct merger *merger, int32_t piece, int32_t left, int32_t right, int32_t merged,
                       struct error *error) {
    int32_t *symbols = merger->symbols + merger->begins[piece];
    int32_t length = merger->lengths[piece], out = 0;
    int64_t times = merger->entries[piece].count;
    int code = 0;
    // symbols[0..out) is done; symbols[i..length) is not.
    for (int32_t i = 0; i < length && code == 0; i++, out++) {
        if (symbols[i] != left || i + 1 == length || symbols[i + 1] != right) {
            symbols[out] = symbols[i];
            continue;
        }
        if (out > 0 && ((code = pair_count(merger, symbols[out - 1], left, -times, piece, error)) != 0 ||
                        (code = pair_count(merger, symbols[out - 1], merged, times, piece, error)) != 0)) {
            return code;
        }
        i++;
        if (i + 1 < length && ((code = pair_count(merger, right, symbols[i + 1], -times, piece, error)) != 0 ||
                               (code = pair_count(merger, merged, symbols[i + 1], times, piece, error)) != 0)) {
            return code;
        }
        symbols[out] = merged;
    }
    merger->lengths[piece] = out;
    return code;
}

// Merges a pair everywhere; its own count becomes 0, the pairs that this makes enter the heap.
static int pair_merge(struct merger *merger, int64_t number, int32_t merged, struct error *error) {
    int64_t known = merger->pair_count, place = merger->pairs[number].places;
    int32_t left = merger->pairs[number].left, right = merger->pairs[number].right;
    int code = 0;
    merger->pairs[number].places = -1;
    while (place >= 0 && code == 0) {
        code = piece_merge(merger, merger->places[place].piece, left, right, merged, error);
        int64_t next = merger->places[place].next;
        merger->places[place].next = merger->place_free;
        merger->place_free = place;
        place = next;
    }
    merger->pairs[number].count = 0;
    // `merged` is a new symbol, so every pair with it is a new pair.
    for (int64_t i = known; i < merger->pair_count && code == 0; i++) {
        if (merger->pairs[i].count > 1) {
            code = heap_push(merger, (struct candidate){merger->pairs[i].count, i}, error);
        }
    }
    return code;
}

// ---- whole ----

static int merger_create(struct merger *merger, const struct piece_counter *pieces, struct error *error) {
    int32_t symbol_of[256];
    for (int i = 0; i < 256; i++) {
        symbol_of[bpe_byte_in_order(i)] = i;
    }
    *merger = (struct merger){.entries = pieces->entries, .piece_count = pieces->count, .place_free = -1};
    if (pieces->count >= INT32_MAX) {
        return error_set(error, ERROR_LIMIT, "the text has %lld different pieces, the limit is %d",
                         (long long)pieces->count, INT32_MAX - 1);
    }
    int64_t total = pieces->bytes.size;
    merger->symbols = memory_allocate((size_t)total + 1, sizeof(*merger->symbols), "pieces", error);
    merger->begins = memory_allocate((size_t)pieces->count + 1, sizeof(*merger->begins), "pieces", error);
    merger->lengths = memory_allocate((size_t)pieces->count + 1, sizeof(*merger->lengths), "pieces", error);
    int code = merger->symbols == NULL || merger->begins == NULL || merger->lengths == NULL ? ERROR_MEMORY
                                                                                            : table_grow(merger, error);
    for (int64_t p = 0; code == 0 && p < pieces->count; p++) {
        const struct piece_entry *entry = &pieces->entries[p];
        const uint8_t *bytes = (const uint8_t *)pieces->bytes.data + entry->offset;
        int32_t *symbols = merger->symbols + entry->offset;
        if (entry->size >= INT32_MAX) {
            return error_set(error, ERROR_LIMIT, "a piece of text has %lld bytes, the limit is %d",
                             (long long)entry->size, INT32_MAX - 1);
        }
        merger->begins[p] = entry->offset;
        merger->lengths[p] = (int32_t)entry->size;
        for (int64_t i = 0; i < entry->size && code == 0; i++) {
            symbols[i] = symbol_of[bytes[i]];
            if (i > 0) {
                code = pair_count(merger, symbols[i - 1], symbols[i], entry->count, (int32_t)p, error);
            }
        }
    }
    for (int64_t i = 0; i < merger->pair_count && code == 0; i++) {
        code = heap_push(merger, (struct candidate){merger->pairs[i].count, i}, error);
    }
    return code;
}

static void merger_destroy(struct merger *merger) {
    memory_free(merger->symbols);
    memory_free(merger->begins);
    memory_free(merger->lengths);
    memory_free(merger->pairs);
    memory_free(merger->table);
    memory_free(merger->places);
    memory_free(merger->heap);
}

static int merge_list_create(struct merge_list *merges, int64_t wanted, struct error *error) {
    *merges = (struct merge_list){0};
    merges->pairs = memory_allocate((size_t)wanted + 1, sizeof(*merges->pairs), "merges", error);
    merges->offsets = memory_allocate((size_t)wanted + 257, sizeof(*merges->offsets), "merges", error);
    if (merges->pairs == NULL || merges->offsets == NULL || byte_buffer_reserve(&merges->bytes, 256, error) != 0) {
        return ERROR_MEMORY;
    }
    for (int i = 0; i < 256; i++) {
        merges->bytes.data[i] = (char)bpe_byte_in_order(i);
        merges->offsets[i + 1] = i + 1;
    }
    merges->bytes.size = 256;
    return 0;
}

// Appends the text of a pair to merges->bytes unless it is the text of a symbol already. 1 = appended, 0 = known.
static int symbol_append(struct merge_list *merges, struct piece_counter *texts, int32_t left, int32_t right,
                         struct error *error) {
    int64_t start = merges->bytes.size, left_size = merges->offsets[left + 1] - merges->offsets[left];
    int64_t right_size = merges->offsets[right + 1] - merges->offsets[right];
    if (byte_buffer_reserve(&merges->bytes, left_size + right_size, error) != 0) {
        return ERROR_MEMORY;
    }
    uint8_t *text = (uint8_t *)merges->bytes.data + start;
    memcpy(text, merges->bytes.data + merges->offsets[left], (size_t)left_size);
    memcpy(text + left_size, merges->bytes.data + merges->offsets[right], (size_t)right_size);
    if (piece_counter_find(texts, text, left_size + right_size) >= 0) {
        return 0;
    }
    if (piece_counter_add(texts, text, left_size + right_size, 1, error) != 0) {
        return ERROR_MEMORY;
    }
    merges->bytes.size += left_size + right_size;
    merges->offsets[256 + merges->count + 1] = merges->bytes.size;
    return 1;
}

int pair_merger_run(struct merge_list *merges, const struct piece_counter *pieces, int64_t wanted,
                    struct progress *progress, struct error *error) {
    struct merger merger = {0};
    struct piece_counter texts = {0};
    int code = merge_list_create(merges, wanted, error);
    if (code == 0) {
        code = merger_create(&merger, pieces, error);
    }
    while (code == 0 && merges->count < wanted) {
        int64_t number = best_pair(&merger);
        if (number < 0) {
            break;
        }
        int32_t left = merger.pairs[number].left, right = merger.pairs[number].right;
        int appended = symbol_append(merges, &texts, left, right, error);
        if (appended <= 0) {
            merger.pairs[number].count = 0;   // decrements make it negative later; it never returns
            code = appended;
            continue;
        }
        merges->pairs[merges->count][0] = left;
        merges->pairs[merges->count][1] = right;
        code = pair_merge(&merger, number, (int32_t)(256 + merges->count), error);
        merges->count++;
        if (progress != NULL) {
            progress_update(progress, merges->count);
        }
    }
    merger_destroy(&merger);
    piece_counter_destroy(&texts);
    return code;
}

void merge_list_destroy(struct merge_list *merges) {
    memory_free(merges->pairs);
    memory_free(merges->offsets);
    byte_buffer_destroy(&merges->bytes);
    *merges = (struct merge_list){0};
}
