// The heap, counted. Each block has a 64-byte header in front of it:
//
//     raw ... | struct header (64 bytes) | block: `size` bytes, 64-byte aligned
//
// Small blocks come from posix_memalign, whose end is exact, so that an address sanitizer sees the first byte too far.
// Large blocks come from calloc, which gets zero pages from the kernel without touching them: the first thread that
// writes decides the NUMA node, and nothing is paid for what is never used.
#include "base/memory.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGE_BLOCK ((size_t)1 << 20)
#define HUGE_PAGE ((size_t)2 << 20)
#define HEADER_LIVE 0x6d696e6b65206f6bULL
#define HEADER_DEAD 0x6d696e6b652078edULL

struct header {
    void *raw;        // what the C library gave
    size_t size;      // what the caller asked for
    uint64_t state;   // HEADER_LIVE, or HEADER_DEAD after the free: catches a double free and an underflow
    uint64_t padding[5];
};
_Static_assert(sizeof(struct header) == MEMORY_ALIGNMENT, "a header keeps the block aligned");

static _Atomic int64_t live_bytes, peak_bytes, live_blocks, calls;
static _Atomic int64_t fail_countdown;   // 0 = off; n = the n-th call from now fails; 1 stays: all later calls fail too
static atomic_bool guarded;

static struct header *header_of(void *pointer) {
    struct header *header = (struct header *)pointer - 1;
    CHECK(header->state == HEADER_LIVE, "%s", header->state == HEADER_DEAD ? "block freed twice" : "not a live block");
    return header;
}

static void count_bytes(int64_t change) {
    int64_t live = atomic_fetch_add_explicit(&live_bytes, change, memory_order_relaxed) + change;
    int64_t peak = atomic_load_explicit(&peak_bytes, memory_order_relaxed);
    while (live > peak && !atomic_compare_exchange_weak_explicit(&peak_bytes, &peak, live, memory_order_relaxed,
                                                                 memory_order_relaxed)) {
    }
}

// Applies the test hooks; returns true if this call has to fail.
static bool call_must_fail(const char *what) {
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    CHECK(!atomic_load_explicit(&guarded, memory_order_relaxed), "heap call for %s where none is allowed", what);
    int64_t countdown = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (countdown > 1 && !atomic_compare_exchange_weak_explicit(&fail_countdown, &countdown, countdown - 1,
                                                                   memory_order_relaxed, memory_order_relaxed)) {
    }
    return countdown == 1;
}

// Aligns a raw block from calloc or realloc; the slack behind the header's size is at most 63 bytes.
static unsigned char *align_up(void *raw) {
    uintptr_t address = ((uintptr_t)raw + MEMORY_ALIGNMENT - 1) & ~(uintptr_t)(MEMORY_ALIGNMENT - 1);
    return (unsigned char *)raw + (address - (uintptr_t)raw) + sizeof(struct header);
}

static void *block_start(void *raw, unsigned char *block, size_t size) {
    struct header *header = (struct header *)(void *)block - 1;
    header->raw = raw;
    header->size = size;
    header->state = HEADER_LIVE;
    return block;
}

// Weights and activations are walked in long rows: large pages save most of the address translation misses. Only a
// hint.
static void advise_huge_pages(void *block, size_t size) {
    uintptr_t first = ((uintptr_t)block + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    uintptr_t last = ((uintptr_t)block + size) & ~(uintptr_t)(HUGE_PAGE - 1);
    if (last > first) {
        madvise((unsigned char *)block + (first - (uintptr_t)block), last - first, MADV_HUGEPAGE);
    }
}

static void *block_create(size_t size) {
    if (size > SIZE_MAX - 2 * MEMORY_ALIGNMENT - sizeof(struct header)) {
        return NULL;
    }
    if (size >= LARGE_BLOCK) {
        void *raw = calloc(1, size + sizeof(struct header) + MEMORY_ALIGNMENT - 1);
        if (raw == NULL) {
            return NULL;
        }
        unsigned char *block = align_up(raw);
        advise_huge_pages(block, size);
        return block_start(raw, block, size);
    }
    void *raw = NULL;
    if (posix_memalign(&raw, MEMORY_ALIGNMENT, size + sizeof(struct header)) != 0) {
        return NULL;
    }
    memset(raw, 0, size + sizeof(struct header));
    return block_start(raw, align_up(raw), size);
}

static int report_failure(const char *what, size_t count, size_t size, struct error *error) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        return error_set(error, ERROR_MEMORY, "%s: out of memory (%zu times %zu bytes)", what, count, size);
    }
    return error_set(error, ERROR_MEMORY, "%s: out of memory (%zu bytes)", what, bytes);
}

void *memory_allocate(size_t count, size_t size, const char *what, struct error *error) {
    size_t bytes;
    bool overflow = __builtin_mul_overflow(count, size, &bytes);
    void *block = call_must_fail(what) || overflow ? NULL : block_create(bytes);
    if (block == NULL) {
        report_failure(what, count, size, error);
        return NULL;
    }
    count_bytes((int64_t)bytes);
    atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    return block;
}

void *memory_resize(void *pointer, size_t count, size_t size, const char *what, struct error *error) {
    if (pointer == NULL) {
        return memory_allocate(count, size, what, error);
    }
    size_t bytes;
    bool overflow = __builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2;
    struct header *header = header_of(pointer);
    size_t old_bytes = header->size;
    void *block = NULL;
    if (call_must_fail(what) || overflow) {
        report_failure(what, count, size, error);
        return NULL;
    }
    if (bytes >= LARGE_BLOCK && old_bytes >= LARGE_BLOCK) {
        // realloc moves pages instead of bytes, but may change the distance to the next 64-byte line.
        size_t old_offset = (size_t)((unsigned char *)pointer - (unsigned char *)header->raw);
        void *raw = realloc(header->raw, bytes + sizeof(struct header) + MEMORY_ALIGNMENT - 1);
        if (raw != NULL) {
            unsigned char *start = align_up(raw);
            unsigned char *data = (unsigned char *)raw + old_offset;
            if (start != data) {
                memmove(start, data, bytes < old_bytes ? bytes : old_bytes);
            }
            block = block_start(raw, start, bytes);
        }
    } else {
        block = block_create(bytes);
        if (block != NULL) {
            memcpy(block, pointer, bytes < old_bytes ? bytes : old_bytes);
            header->state = HEADER_DEAD;
            free(header->raw);
        }
    }
    if (block == NULL) {
        report_failure(what, count, size, error);
        return NULL;
    }
    count_bytes((int64_t)bytes - (int64_t)old_bytes);
    return block;
}

void memory_free(void *pointer) {
    if (pointer == NULL) {
        return;
    }
    struct header *header = header_of(pointer);
    count_bytes(-(int64_t)header->size);
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    header->state = HEADER_DEAD;
    free(header->raw);
}

void memory_free_foreign(void *pointer) {
    free(pointer);
}

char *memory_copy_string(const char *text, struct error *error) {
    size_t length = strlen(text);
    char *copy = memory_allocate(length + 1, 1, "string", error);
    if (copy != NULL) {
        memcpy(copy, text, length);
    }
    return copy;
}

char *memory_format(struct error *error, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    CHECK(length >= 0, "bad format \"%s\"", format);
    char *text = memory_allocate((size_t)length + 1, 1, "string", error);
    if (text != NULL) {
        vsnprintf(text, (size_t)length + 1, format, again);
    }
    va_end(again);
    return text;
}

void *memory_reserve(size_t bytes, const char *what, struct error *error) {
    void *pages = MAP_FAILED;
    if (!call_must_fail(what)) {
        pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (pages == MAP_FAILED) {
        report_failure(what, 1, bytes, error);
        return NULL;
    }
    advise_huge_pages(pages, bytes);
    return pages;
}

void memory_discard(void *pages, size_t bytes) {
    CHECK(((uintptr_t)pages | bytes) % MEMORY_PAGE == 0, "%zu bytes at %p", bytes, pages);
    madvise(pages, bytes, MADV_DONTNEED);
}

void memory_unreserve(void *pages, size_t bytes) {
    if (pages != NULL) {
        munmap(pages, bytes);
    }
}

struct memory_statistics memory_statistics_get(void) {
    return (struct memory_statistics){
        .live_bytes = atomic_load(&live_bytes),
        .peak_bytes = atomic_load(&peak_bytes),
        .live_blocks = atomic_load(&live_blocks),
        .calls = atomic_load(&calls),
    };
}

// A "<key>  <number> kB" line of a file of /proc, in bytes.
static int64_t status_bytes(const char *path, const char *key) {
    FILE *status = fopen(path, "re");
    if (status == NULL) {
        return 0;
    }
    char line[256];
    int64_t bytes = 0;
    size_t length = strlen(key);
    while (fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, key, length) == 0) {
            bytes = strtoll(line + length, NULL, 10) * 1024;
            break;
        }
    }
    fclose(status);
    return bytes;
}

int64_t memory_resident_peak(void) {
    return status_bytes("/proc/self/status", "VmHWM:");
}

int64_t memory_resident(void) {
    return status_bytes("/proc/self/status", "VmRSS:");
}

int64_t memory_available(void) {
    int64_t available = status_bytes("/proc/meminfo", "MemAvailable:");
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "re");
    if (file != NULL) {
        long long limit;
        if (fscanf(file, "%lld", &limit) == 1 && limit < available) {   // else "max"
            available = limit;
        }
        fclose(file);
    }
    return available;
}

void memory_fail_at(int64_t n) {
    CHECK(n >= 0, "n is %lld", (long long)n);
    atomic_store(&fail_countdown, n);
}

void memory_guard(bool on) {
    atomic_store(&guarded, on);
}
