// Bump allocator over a chain of chunks. Chunks behind `arena->chunk` are in use; those in front of it (its `newer`
// chain) are empty and wait for the next round, so that release and growth inside a step cause no heap traffic.
//
//     oldest <-older- ... <-older- arena->chunk -newer-> empty -newer-> empty
#include "base/arena.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/memory.h"

#define COUNTING_MOST ((size_t)32 << 40)   // addresses; fewer where the process may not have as many
#define COUNTING_LEAST ((size_t)64 << 30)
#define COUNTING_ZERO ((size_t)1 << 20)   // largest block that is written
#define CHUNK_MINIMUM ((size_t)64 << 10)

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_POISON 1
#endif
#endif
#ifdef ARENA_POISON
#include <sanitizer/asan_interface.h>
static void poison(const void *start, size_t size) {
    ASAN_POISON_MEMORY_REGION(start, size);
}
static void unpoison(const void *start, size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(start, size);
}
#else
static void poison(const void *start, size_t size) {
    (void)start, (void)size;
}
static void unpoison(const void *start, size_t size) {
    (void)start, (void)size;
}
#endif

struct arena_chunk {
    struct arena_chunk *older, *newer;
    size_t capacity, used;   // bytes of `data`
    bool counting;           // mapped, not on the heap
    _Alignas(MEMORY_ALIGNMENT) unsigned char data[];
};

static size_t round_up(size_t bytes) {
    return (bytes + MEMORY_ALIGNMENT - 1) & ~(size_t)(MEMORY_ALIGNMENT - 1);
}

void arena_init(struct arena *arena, const char *name) {
    *arena = (struct arena){.name = name, .numa_node = -1};
}

int arena_init_counting(struct arena *arena, const char *name, struct error *error) {
    arena_init(arena, name);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    size_t bytes = COUNTING_MOST;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    while (start == MAP_FAILED && bytes > COUNTING_LEAST) {   // a limit of the process, a sanitizer's layout
        bytes /= 2;
        start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    }
    if (start == MAP_FAILED) {
        return error_set_errno(error, "%s: cannot reserve %zu bytes of addresses", name, bytes);
    }
    arena->chunk = start;
    *arena->chunk = (struct arena_chunk){.capacity = bytes - sizeof *arena->chunk, .counting = true};
    return 0;
}

// Asks the kernel to take the chunk's pages from one node (mbind, preferred). Only a hint: a refusal changes nothing.
static void chunk_bind(struct arena_chunk *chunk, int numa_node) {
    enum { MODE_PREFERRED = 1, PAGE = 4096, NODES = 64 };
    uintptr_t start = ((uintptr_t)chunk->data + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    uintptr_t end = ((uintptr_t)chunk->data + chunk->capacity) & ~(uintptr_t)(PAGE - 1);
    if (numa_node < 0 || numa_node >= NODES || end <= start) {
        return;
    }
    unsigned long mask = 1UL << numa_node;
    syscall(SYS_mbind, start, end - start, MODE_PREFERRED, &mask, (unsigned long)NODES + 1, 0);
}

static struct arena_chunk *chunk_create(const struct arena *arena, size_t capacity, struct error *error) {
    struct arena_chunk *chunk = memory_allocate(1, sizeof *chunk + capacity, arena->name, error);
    if (chunk != NULL) {
        chunk->capacity = capacity;
        chunk_bind(chunk, arena->numa_node);
        poison(chunk->data, capacity);
    }
    return chunk;
}

// What is not handed out may not be read.
static void chunk_poison(const struct arena_chunk *chunk) {
    if (!chunk->counting) {
        poison(chunk->data + chunk->used, chunk->capacity - chunk->used);
    }
}

static void chunk_free(struct arena_chunk *chunk) {
    if (chunk->counting) {
        munmap(chunk, sizeof *chunk + chunk->capacity);
        return;
    }
    unpoison(chunk->data, chunk->capacity);
    memory_free(chunk);
}

static void chain_free(struct arena_chunk *chunk) {
    while (chunk != NULL) {
        struct arena_chunk *newer = chunk->newer;
        chunk_free(chunk);
        chunk = newer;
    }
}

// Makes arena->chunk a chunk with at least `bytes` free: the current one, a waiting one, or a new one.
static int chunk_require(struct arena *arena, size_t bytes, struct error *error) {
    struct arena_chunk *chunk = arena->chunk;
    while (chunk != NULL && chunk->capacity - chunk->used < bytes && chunk->newer != NULL) {
        chunk = chunk->newer;
    }
    if (chunk != NULL && chunk->capacity - chunk->used >= bytes) {
        arena->chunk = chunk;
        return 0;
    }
    size_t capacity = bytes > CHUNK_MINIMUM ? bytes : CHUNK_MINIMUM;
    if (chunk != NULL && capacity < 2 * chunk->capacity && chunk->capacity < ((size_t)256 << 20)) {
        capacity = 2 * chunk->capacity;
    }
    struct arena_chunk *fresh = chunk_create(arena, capacity, error);
    if (fresh == NULL) {
        return ERROR_MEMORY;
    }
    fresh->older = chunk;
    if (chunk != NULL) {
        chunk->newer = fresh;
    }
    arena->chunk = fresh;
    return 0;
}

int arena_reserve(struct arena *arena, size_t bytes, struct error *error) {
    // A reserve may be followed by any number of allocations, each rounded up; the caller rounds its own sum.
    if (bytes > SIZE_MAX / 4) {
        return error_set(error, ERROR_MEMORY, "%s: out of memory (%zu bytes)", arena->name, bytes);
    }
    return chunk_require(arena, round_up(bytes), error);
}

void *arena_allocate(struct arena *arena, size_t count, size_t size) {
    size_t bytes;
    CHECK(!__builtin_mul_overflow(count, size, &bytes) && bytes <= SIZE_MAX / 4, "%s: %zu times %zu bytes", arena->name,
          count, size);
    size_t rounded = round_up(bytes > 0 ? bytes : 1);
    struct error error = {0};
    CHECK(chunk_require(arena, rounded, &error) == 0, "%s", error.text);
    struct arena_chunk *chunk = arena->chunk;
    unsigned char *block = chunk->data + chunk->used;
    chunk->used += rounded;
    arena->used += (int64_t)rounded;
    arena->peak = arena->used > arena->peak ? arena->used : arena->peak;
    if (!chunk->counting) {
        unpoison(block, bytes);
    }
    return block;
}

void *arena_allocate_zero(struct arena *arena, size_t count, size_t size) {
    void *block = arena_allocate(arena, count, size);
    if (!arena->chunk->counting || count * size <= COUNTING_ZERO) {
        memset(block, 0, count * size);
    }
    return block;
}

struct arena_mark arena_mark(const struct arena *arena) {
    return (struct arena_mark){
        .chunk = arena->chunk,
        .chunk_used = arena->chunk != NULL ? arena->chunk->used : 0,
        .used = arena->used,
    };
}

void arena_release(struct arena *arena, struct arena_mark mark) {
    CHECK(mark.used <= arena->used, "%s: mark at %lld is above the arena at %lld", arena->name, (long long)mark.used,
          (long long)arena->used);
    while (arena->chunk != NULL && arena->chunk != mark.chunk) {
        struct arena_chunk *chunk = arena->chunk;
        chunk->used = 0;
        chunk_poison(chunk);
        if (chunk->older == NULL) {
            break;   // the mark is from before the first chunk
        }
        arena->chunk = chunk->older;
    }
    if (mark.chunk != NULL) {
        CHECK(arena->chunk == mark.chunk, "%s: mark of another round", arena->name);
        arena->chunk->used = mark.chunk_used;
        chunk_poison(arena->chunk);
    }
    arena->used = mark.used;
}

void arena_reset(struct arena *arena) {
    arena_release(arena, (struct arena_mark){0});
    struct arena_chunk *chunk = arena->chunk;
    if (chunk == NULL || chunk->newer == NULL) {
        return;
    }
    // Several chunks served the last round: one of their joint size serves the next. If the heap refuses, they stay.
    size_t capacity = 0;
    for (const struct arena_chunk *each = chunk; each != NULL; each = each->newer) {
        capacity += each->capacity;
    }
    struct arena_chunk *merged = chunk_create(arena, capacity, NULL);
    if (merged != NULL) {
        chain_free(chunk);
        arena->chunk = merged;
    }
}

void arena_destroy(struct arena *arena) {
    arena_release(arena, (struct arena_mark){0});
    chain_free(arena->chunk);
    arena->chunk = NULL;
}
