// Open addressing over XXH3 (see piece_counter.h).
#include "text/piece_counter.h"

#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

#include "base/memory.h"

static int64_t slot_find(const struct piece_counter *counter, const uint8_t *piece, int64_t size, uint64_t hash) {
    int64_t mask = ((int64_t)1 << counter->bits) - 1;
    int64_t at = (int64_t)hash & mask;
    for (;; at = (at + 1) & mask) {
        if (counter->table[at] < 0) {
            return at;
        }
        const struct piece_entry *entry = &counter->entries[counter->table[at]];
        if (entry->hash == hash && entry->size == size &&
            memcmp(counter->bytes.data + entry->offset, piece, (size_t)size) == 0) {
            return at;
        }
    }
}

static int grow(struct piece_counter *counter, struct error *error) {
    int64_t capacity = counter->capacity == 0 ? 1024 : counter->capacity * 2;
    int bits = counter->capacity == 0 ? 11 : counter->bits + 1;
    struct piece_entry *entries = memory_resize(counter->entries, (size_t)capacity, sizeof(*entries), "piece counts",
                                                error);
    if (entries == NULL) {
        return ERROR_MEMORY;
    }
    counter->entries = entries;
    int64_t *table = memory_resize(counter->table, (size_t)1 << bits, sizeof(*table), "piece counts", error);
    if (table == NULL) {
        return ERROR_MEMORY;
    }
    counter->table = table;
    counter->bits = bits;
    counter->capacity = capacity;
    memset(table, 0xFF, sizeof(*table) << bits);
    int64_t mask = ((int64_t)1 << bits) - 1;
    for (int64_t i = 0; i < counter->count; i++) {
        int64_t at = (int64_t)entries[i].hash & mask;
        while (table[at] >= 0) {
            at = (at + 1) & mask;
        }
        table[at] = i;
    }
    return 0;
}

int piece_counter_add(struct piece_counter *counter, const uint8_t *piece, int64_t size, int64_t times,
                      struct error *error) {
    uint64_t hash = XXH3_64bits(piece, (size_t)size);
    if (counter->count == counter->capacity && grow(counter, error) != 0) {
        return ERROR_MEMORY;
    }
    int64_t slot = slot_find(counter, piece, size, hash);
    if (counter->table[slot] < 0) {
        int64_t offset = counter->bytes.size;
        if (byte_buffer_append(&counter->bytes, piece, size, error) != 0) {
            return ERROR_MEMORY;
        }
        counter->entries[counter->count] = (struct piece_entry){offset, size, 0, hash};
        counter->table[slot] = counter->count++;
    }
    counter->entries[counter->table[slot]].count += times;
    return 0;
}

int64_t piece_counter_find(const struct piece_counter *counter, const uint8_t *piece, int64_t size) {
    return counter->capacity == 0 ? -1
                                  : counter->table[slot_find(counter, piece, size, XXH3_64bits(piece, (size_t)size))];
}

int piece_counter_merge(struct piece_counter *counter, const struct piece_counter *from, struct error *error) {
    int code = 0;
    for (int64_t i = 0; code == 0 && i < from->count; i++) {
        const struct piece_entry *entry = &from->entries[i];
        code = piece_counter_add(counter, (const uint8_t *)from->bytes.data + entry->offset, entry->size, entry->count,
                                 error);
    }
    return code;
}

void piece_counter_destroy(struct piece_counter *counter) {
    memory_free(counter->entries);
    memory_free(counter->table);
    byte_buffer_destroy(&counter->bytes);
    *counter = (struct piece_counter){0};
}
