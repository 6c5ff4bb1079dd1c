// See fuzz.h.
#include "fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

#define CPU_SECONDS 10.0   // for one input, under sanitizers; not of the clock on the wall: a fuzzer may be stopped
#define NAMES 16

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static double cpu_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    fuzz_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int64_t blocks = memory_statistics_get().live_blocks;
    double begin = cpu_seconds();
    fuzz_one(data, size);
    double taken = cpu_seconds() - begin;
    int64_t left = memory_statistics_get().live_blocks - blocks;
    CHECK(taken < CPU_SECONDS, "%.1f seconds for %zu bytes", taken, size);
    CHECK(left == 0 || fuzz_leaves_memory, "%lld blocks left behind", (long long)left);
    return 0;
}

// ---- Parts ----------------------------------------------------------------------------------------------------------

struct fuzz_part fuzz_take(struct fuzz_input *input) {
    struct fuzz_part part;
    const uint8_t *end = input->size > 0 ? memchr(input->data, 0, input->size) : NULL;
    size_t size = end != NULL ? (size_t)(end - input->data) : input->size, step = end != NULL ? size + 1 : size;
    part.size = size < FUZZ_PART ? size : FUZZ_PART;
    if (part.size > 0) {
        memcpy(part.text, input->data, part.size);
    }
    part.text[part.size] = '\0';
    if (step > 0) {
        input->data += step;
        input->size -= step;
    }
    return part;
}

uint8_t fuzz_take_byte(struct fuzz_input *input) {
    if (input->size == 0) {
        return 0;
    }
    input->size--;
    return *input->data++;
}

// ---- Files ----------------------------------------------------------------------------------------------------------

static char directory[64];
static pid_t owner;

static void remove_directory(void) {
    if (getpid() == owner) {
        (void)file_remove_tree(directory, NULL);
    }
}

const char *fuzz_directory(void) {
    if (directory[0] == '\0') {
        const char *root = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(directory, sizeof directory, "%s/minke-fuzz-XXXXXX", root);
        CHECK(mkdtemp(directory) != NULL, "%s", directory);
        owner = getpid();
        atexit(remove_directory);
    }
    return directory;
}

const char *fuzz_file(const char *name, const void *data, size_t size) {
    static char paths[NAMES][128];
    int at = 0;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_directory(), name);
    while (at < NAMES && paths[at][0] != '\0' && strcmp(paths[at], path) != 0) {
        at++;
    }
    CHECK(at < NAMES, "more than %d files", NAMES);
    memcpy(paths[at], path, sizeof path);
    if (data == NULL) {
        (void)unlink(path);
        return paths[at];
    }
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL, "%s", path);
    CHECK(fwrite(data, 1, size, file) == size && fclose(file) == 0, "%s", path);
    return paths[at];
}
