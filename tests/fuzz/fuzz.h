// What a fuzzer is: fuzz_one takes any bytes, gives them to a parser and states with CHECK what must hold of the
// result. fuzz.c calls it for libFuzzer and for replay.c, and checks of every input that it takes a bounded time and
// leaves no memory behind.
//
// Fuzzers run in the root of the checkout.
#ifndef MINKE_TESTS_FUZZ_FUZZ_H
#define MINKE_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// What a fuzzer defines.
void fuzz_open(void);   // once
void fuzz_one(const uint8_t *data, size_t size);
extern const bool fuzz_leaves_memory;   // fuzz_one may leave memory allocated: a cache that it keeps

// What fuzz.c gives it. A part is what stands in front of the next zero byte, or the rest; copied and terminated.
struct fuzz_input {
    const uint8_t *data;
    size_t size;
};
#define FUZZ_PART 16384
struct fuzz_part {
    char text[FUZZ_PART + 1];
    size_t size;
};
struct fuzz_part fuzz_take(struct fuzz_input *input);
uint8_t fuzz_take_byte(struct fuzz_input *input);   // 0 at the end

// A file in a directory of this process, in memory where the system has such a file system; removed at exit. The paths
// live as long as the process. NULL data: the file is removed.
const char *fuzz_directory(void);
const char *fuzz_file(const char *name, const void *data, size_t size);

#endif
