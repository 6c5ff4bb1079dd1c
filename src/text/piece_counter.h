// How often each piece of text occurs: a hash table from byte strings to counts.
#ifndef MINKE_TEXT_PIECE_COUNTER_H
#define MINKE_TEXT_PIECE_COUNTER_H

#include <stdint.h>

#include "base/error.h"
#include "text/buffer.h"

struct piece_entry {
    int64_t offset, size;   // in bytes
    int64_t count;
    uint64_t hash;
};

struct piece_counter {   // starts as all zero
    struct piece_entry *entries;
    int64_t count, capacity;
    int64_t *table;   // entry numbers, -1 = free; 2^bits slots, at most half full
    int bits;
    struct byte_buffer bytes;
};

int piece_counter_add(struct piece_counter *counter, const uint8_t *piece, int64_t size, int64_t times,
                      struct error *error);
// Entry number, or -1.
int64_t piece_counter_find(const struct piece_counter *counter, const uint8_t *piece, int64_t size);
// Adds all counts of `from`.
int piece_counter_merge(struct piece_counter *counter, const struct piece_counter *from, struct error *error);
void piece_counter_destroy(struct piece_counter *counter);

#endif
