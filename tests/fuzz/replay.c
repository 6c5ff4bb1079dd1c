// A fuzzer without libFuzzer: gives it every file of its folder in tests/fuzz/corpus, or the files named as arguments.
// What crashes stops the program; otherwise one line in the form of cmocka's, which scripts/test.sh counts.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "fuzz/fuzz.h"

#define INPUT_LIMIT (1 << 20)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run_file(const char *path) {
    struct error error = {0};
    char *data;
    int64_t size;
    CHECK(file_read(&data, &size, path, INPUT_LIMIT, &error) == 0, "%s", error.text);
    // A copy of exactly these bytes: a sanitizer then sees a read behind them.
    uint8_t *exact = malloc((size_t)size + (size == 0));
    CHECK(exact != NULL, "memory");
    memcpy(exact, data, (size_t)size);
    memory_free(data);
    LLVMFuzzerTestOneInput(exact, (size_t)size);
    free(exact);
}

static int run_folder(const char *folder) {
    DIR *list = opendir(folder);
    const struct dirent *entry;
    int count = 0;
    while (list != NULL && (entry = readdir(list)) != NULL) {
        char path[1024];
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            fprintf(stderr, "%s\n", entry->d_name);   // the last line names the input that crashed
            run_file(path);
            count++;
        }
    }
    if (list != NULL) {
        closedir(list);
    }
    return count;
}

int main(int argc, char **argv) {
    const char *name = strstr(argv[0], "replay_");
    char folder[256];
    CHECK(name != NULL, "the program's name is not replay_<fuzzer>");
    name += strlen("replay_");
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        run_file(argv[i]);
    }
    snprintf(folder, sizeof folder, "tests/fuzz/corpus/%s", name);
    int count = argc > 1 ? argc - 1 : run_folder(folder);
    if (count == 0) {
        printf("%s: no inputs\n", folder);
        return 1;
    }
    printf("[       OK ] fuzz_%s: %d inputs\n", name, count);
    return 0;
}
