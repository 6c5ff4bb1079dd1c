// Heap memory: the only place in the project that calls malloc. Counts what is live, can be told to fail at the n-th
// call (tests) and to abort on any call (the guard round a training or decode step after warm-up).
//
// All functions are safe from any thread. Memory is 64-byte aligned (a cache line, an AVX-512 register).
#ifndef MINKE_BASE_MEMORY_H
#define MINKE_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define MEMORY_ALIGNMENT 64

// Returns zeroed memory of `count * size` bytes or NULL (out of memory, or the product overflows) with *error filled
// ("<what>: out of memory (N bytes)"). error may be NULL.
void *memory_allocate(size_t count, size_t size, const char *what, struct error *error);
// Grows or shrinks; new bytes are NOT zeroed. On failure returns NULL and leaves `pointer` valid.
void *memory_resize(void *pointer, size_t count, size_t size, const char *what, struct error *error);
void memory_free(void *pointer);           // NULL is fine
void memory_free_foreign(void *pointer);   // what a C library function allocated (getline, readline)
char *memory_copy_string(const char *text, struct error *error);
char *memory_format(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Address space without memory: a page takes memory when it is first written, until it is discarded (it is zero again
// then). Page-aligned; not in the statistics, since only the owner knows what is written. NULL as memory_allocate.
#define MEMORY_PAGE 4096
void *memory_reserve(size_t bytes, const char *what, struct error *error);
void memory_discard(void *pages, size_t bytes);     // both multiples of MEMORY_PAGE
void memory_unreserve(void *pages, size_t bytes);   // NULL is fine

// Statistics since the start of the process.
struct memory_statistics {
    int64_t live_bytes, peak_bytes;   // as asked for, without the allocator's own overhead
    int64_t live_blocks, calls;
};
struct memory_statistics memory_statistics_get(void);

// Peak resident set of the process in bytes (Linux VmHWM), and its current size; 0 if unknown.
int64_t memory_resident_peak(void);
int64_t memory_resident(void);
// What the system could still give to this process without swapping (MemAvailable, at most the limit of the control
// group); 0 if unknown.
int64_t memory_available(void);

// Test hooks. fail_at(n): the n-th allocation from now (1 = the next) and all later ones fail; 0 switches it off.
void memory_fail_at(int64_t n);
// Between guard(true) and guard(false) any allocation on any thread aborts with the name it was asked for.
void memory_guard(bool on);

#endif
