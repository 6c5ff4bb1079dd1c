// Bump allocator for one lifetime (a run, a micro-batch slot, a step). Memory is taken with arena_allocate, given back
// all at once with arena_reset or down to a mark with arena_release. Grows by chunks; after a reset the chunks are
// merged into one large enough for the last round, so that from the second or third round on no heap call happens.
//
// Not thread-safe: one owner. Out of memory is fatal inside a step (CHECK): plan with arena_reserve, which reports it.
#ifndef MINKE_BASE_ARENA_H
#define MINKE_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct arena_chunk;

struct arena {
    const char *name;            // for messages and memory reports
    struct arena_chunk *chunk;   // newest first
    int64_t used, peak;          // bytes handed out now; most ever since arena_init
    int numa_node;               // -1 = wherever the touching thread runs
};

struct arena_mark {
    struct arena_chunk *chunk;
    size_t chunk_used;
    int64_t used;
};

void arena_init(struct arena *arena, const char *name);
// An arena that is only to be measured: its blocks are addresses that take no memory until they are written, as many as
// anybody wants, and not part of the heap. arena_allocate_zero does not write large blocks.
int arena_init_counting(struct arena *arena, const char *name, struct error *error);
// Makes room for `bytes` more without a further heap call.
int arena_reserve(struct arena *arena, size_t bytes, struct error *error);
// 64-byte aligned, not zeroed. count * size is overflow-checked. Never returns NULL (CHECK on failure).
void *arena_allocate(struct arena *arena, size_t count, size_t size);
void *arena_allocate_zero(struct arena *arena, size_t count, size_t size);
struct arena_mark arena_mark(const struct arena *arena);
void arena_release(struct arena *arena, struct arena_mark mark);
void arena_reset(struct arena *arena);
void arena_destroy(struct arena *arena);

#endif
