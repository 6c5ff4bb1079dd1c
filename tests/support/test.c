// Helpers of the test programs (tests/support/test.h).
#include "support/test.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

char *test_directory(void) {
    const char *root = getenv("TMPDIR");
    char text[512];
    snprintf(text, sizeof text, "%s/minke-test-XXXXXX", root != NULL && root[0] != '\0' ? root : "/tmp");
    assert_non_null(mkdtemp(text));
    char *path = strdup(text);
    assert_non_null(path);
    return path;
}

void test_directory_remove(char *path) {
    struct error error = {0};
    if (file_remove_tree(path, &error) != 0) {
        fail_msg("%s", error.text);
    }
    free(path);
}

const char *test_path(const char *directory, const char *name) {
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ & 7];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

void test_write_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

char *test_read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail_msg("%s: %s", path, strerror(errno));
    }
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *text = calloc((size_t)length + 1, 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)length, file), length);
    fclose(file);
    if (size != NULL) {
        *size = (size_t)length;
    }
    return text;
}

int test_child_signal(void (*function)(void *argument), void *argument, char *text, size_t capacity) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        function(argument);
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t count;
    char overflow[256];
    while ((count = used + 1 < capacity ? read(ends[0], text + used, capacity - 1 - used)
                                        : read(ends[0], overflow, sizeof overflow)) > 0) {
        used += used + 1 < capacity ? (size_t)count : 0;
    }
    if (capacity > 0) {
        text[used] = '\0';
    }
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

void test_assert_error(int code, const struct error *error, int expected, const char *fragment) {
    if (code != expected || error->code != expected || strstr(error->text, fragment) == NULL) {
        fail_msg("returned %d, error %d \"%s\"; expected %d with \"%s\"", code, error->code, error->text, expected,
                 fragment);
    }
}

int test_failing_memory(int (*function)(void *argument, struct error *error), void *argument) {
    for (int n = 1;; n++) {
        int64_t live = memory_statistics_get().live_blocks;
        struct error error = {0};
        memory_fail_at(n);
        int code = function(argument, &error);
        memory_fail_at(0);
        if (code == 0) {
            return n - 1;
        }
        if (code != ERROR_MEMORY || error.code != ERROR_MEMORY || error.text[0] == '\0') {
            fail_msg("allocation %d failed: returned %d, error %d \"%s\"", n, code, error.code, error.text);
        }
        if (memory_statistics_get().live_blocks != live) {
            fail_msg("allocation %d failed: %lld blocks before, %lld after", n, (long long)live,
                     (long long)memory_statistics_get().live_blocks);
        }
        assert_true(n < 100000);
    }
}
