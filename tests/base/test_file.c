// base/file.c: reads, maps, atomic writes, directories, and a failure at every single system call and allocation.
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/memory.h"
#include "support/test.h"

static char *root;   // a fresh directory for this program

static int setup(void **state) {
    (void)state;
    root = test_directory();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(root);
    return 0;
}

static int64_t count_entries(const char *directory) {
    char **names;
    int64_t count;
    assert_int_equal(file_list(&names, &count, directory, NULL), 0);
    file_list_free(names, count);
    return count;
}

static void test_map(void **state) {
    (void)state;
    const char *path = test_path(root, "map");
    test_write_file(path, "0123456789", 10);
    struct mapped_file file;
    struct error error = {0};
    assert_int_equal(file_map(&file, path, &error), 0);
    assert_int_equal(file.size, 10);
    assert_memory_equal(file.data, "0123456789", 10);
    assert_string_equal(file.path, path);
    assert_string_equal(file_mapped_path(file.data + 9), path);
    assert_null(file_mapped_path(file.data + 10));
    assert_null(file_mapped_path(&file));
    const uint8_t *data = file.data;
    file_unmap(&file);
    assert_null(file_mapped_path(data));
    file_unmap(&file);
    test_write_file(path, "", 0);
    assert_int_equal(file_map(&file, path, &error), 0);
    assert_null(file.data);
    assert_int_equal(file.size, 0);
    file_unmap(&file);
    test_assert_error(file_map(&file, test_path(root, "absent"), &error), &error, ERROR_IO, "absent: cannot open");
    error_clear(&error);
    test_assert_error(file_map(&file, root, &error), &error, ERROR_IO, "found a directory, expected a regular file");
    unlink(path);
}

static void test_read(void **state) {
    (void)state;
    const char *path = test_path(root, "read");
    char *text;
    int64_t size;
    struct error error = {0};
    test_write_file(path, "some text\0more", 14);
    assert_int_equal(file_read(&text, &size, path, 14, &error), 0);
    assert_int_equal(size, 14);
    assert_memory_equal(text, "some text\0more", 15);   // and the zero behind it
    memory_free(text);
    test_assert_error(file_read(&text, &size, path, 13, &error), &error, ERROR_LIMIT, "more than 13 bytes");
    assert_null(text);
    test_write_file(path, "", 0);
    assert_int_equal(file_read(&text, &size, path, 0, NULL), 0);
    assert_int_equal(size, 0);
    assert_string_equal(text, "");
    memory_free(text);
    // A file whose size the system does not tell.
    assert_int_equal(file_read(&text, &size, "/proc/self/status", 1 << 20, NULL), 0);
    assert_true(size > 100 && strlen(text) == (size_t)size);
    memory_free(text);
    error_clear(&error);
    test_assert_error(file_read(&text, &size, root, 100, &error), &error, ERROR_IO, "cannot read: Is a directory");
    unlink(path);
}

static void *feed_pipe(void *argument) {
    int descriptor = *(int *)argument;
    for (int i = 0; i < 10000; i++) {
        if (write(descriptor, "0123456789abcdef", 16) != 16) {
            break;
        }
    }
    close(descriptor);
    return NULL;
}

static void test_standard_input(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int saved = dup(STDIN_FILENO);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, feed_pipe, &ends[1]), 0);
    char *text;
    int64_t size;
    int code = file_read(&text, &size, "-", 1 << 20, NULL);
    pthread_join(thread, NULL);
    dup2(saved, STDIN_FILENO);
    close(saved);
    assert_int_equal(code, 0);
    assert_int_equal(size, 160000);
    assert_memory_equal(text + 159984, "0123456789abcdef", 16);
    memory_free(text);
}

static void test_writer(void **state) {
    (void)state;
    const char *path = test_path(root, "written");
    struct file_writer writer;
    struct error error = {0};
    assert_int_equal(file_writer_open(&writer, path, &error), 0);
    assert_false(file_exists(path));
    // Small, larger than the buffer, and everything around its border.
    static const size_t sizes[] = {1, 0, 17, (1 << 20) - 18, 1, 3 << 20, (1 << 20) - 1, 1, 1 << 20, 5};
    size_t total = 0;
    unsigned char *data = malloc(8 << 20);
    for (size_t i = 0; i < 8 << 20; i++) {
        data[i] = (unsigned char)(i * 2654435761u >> 13);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(file_writer_append(&writer, data + total, sizes[i], &error), 0);
        total += sizes[i];
    }
    assert_int_equal(writer.written, total);
    assert_false(file_exists(path));
    assert_int_equal(file_writer_commit(&writer, &error), 0);
    assert_int_equal(writer.written, total);
    assert_int_equal(writer.checksum, XXH3_64bits(data, total));
    uint64_t checksum;
    assert_int_equal(file_checksum(path, &checksum, &error), 0);
    assert_int_equal(checksum, writer.checksum);
    size_t size;
    char *text = test_read_file(path, &size);
    assert_int_equal(size, total);
    assert_memory_equal(text, data, total);
    free(text);
    free(data);
    assert_int_equal(count_entries(root), 1);
    // Abort leaves the old file alone.
    assert_int_equal(file_writer_open(&writer, path, &error), 0);
    assert_int_equal(file_writer_append(&writer, "new", 3, &error), 0);
    file_writer_abort(&writer);
    file_writer_abort(&writer);
    assert_int_equal(count_entries(root), 1);
    assert_int_equal(file_checksum(path, &checksum, &error), 0);
    assert_int_not_equal(checksum, XXH3_64bits("new", 3));
    assert_int_equal(file_write_text(path, "replaced", &error), 0);
    text = test_read_file(path, NULL);
    assert_string_equal(text, "replaced");
    free(text);
    unlink(path);
}

static void test_full_disk(void **state) {
    (void)state;
    struct file_writer writer;
    struct error error = {0};
    // A file size limit is the disk that is full without being root; SIGXFSZ off gives EFBIG.
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 100000;
    setrlimit(RLIMIT_FSIZE, &limit);
    const char *path = test_path(root, "limited");
    char *data = calloc(1, 3 << 20);
    assert_int_equal(file_writer_open(&writer, path, &error), 0);
    int code = file_writer_append(&writer, data, 3 << 20, &error);
    setrlimit(RLIMIT_FSIZE, &before);
    test_assert_error(code, &error, ERROR_IO, "limited: cannot write");
    assert_int_equal(count_entries(root), 0);
    free(data);
    // /dev/full refuses every byte with ENOSPC.
    error_clear(&error);
    assert_int_equal(file_writer_open(&writer, path, &error), 0);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(full >= 0);
    dup2(full, writer.descriptor);
    close(full);
    assert_int_equal(file_writer_append(&writer, "12345", 5, &error), 0);
    test_assert_error(file_writer_commit(&writer, &error), &error, ERROR_IO, "cannot write 5 bytes");
    assert_non_null(strstr(error.text, "No space left on device"));
    assert_int_equal(count_entries(root), 0);
}

static void on_alarm(int number) {
    (void)number;
}

static void *drain_slowly(void *argument) {
    char block[3000];
    uint64_t total = 0;
    ssize_t count;
    struct timespec pause = {.tv_nsec = 100000};
    while ((count = read(*(int *)argument, block, sizeof block)) > 0) {
        total += (uint64_t)count;
        nanosleep(&pause, NULL);
    }
    return (void *)(uintptr_t)total;
}

// Writes into a pipe that drains slowly while a timer interrupts: short writes and EINTR lose nothing.
static void test_interrupted_writes(void **state) {
    (void)state;
    struct file_writer writer;
    assert_int_equal(file_writer_open(&writer, test_path(root, "pipe"), NULL), 0);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], writer.descriptor);
    close(ends[1]);
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarms, NULL);   // the reader inherits it: the writer takes the signals
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drain_slowly, &ends[0]), 0);
    pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
    struct sigaction action = {.sa_handler = on_alarm}, old;   // no SA_RESTART
    sigaction(SIGALRM, &action, &old);
    struct itimerval timer = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
    char *data = calloc(1, 1500000);
    setitimer(ITIMER_REAL, &timer, NULL);
    int code = file_writer_append(&writer, data, 1500000, NULL);
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &old, NULL);
    assert_int_equal(code, 0);
    file_writer_abort(&writer);
    void *total;
    pthread_join(thread, &total);
    assert_int_equal((uintptr_t)total, 1500000);
    close(ends[0]);
    free(data);
}

static int write_something(void *argument, struct error *error) {
    struct file_writer writer;
    int code = file_writer_open(&writer, argument, error);
    for (int i = 0; i < 3 && code == 0; i++) {
        static const char block[700000];
        code = file_writer_append(&writer, block, sizeof block, error);
    }
    return code != 0 ? code : file_writer_commit(&writer, error);
}

// The n-th system call fails, for every n: the old file stays whole, no temporary file stays behind, one clear line.
static void test_write_failures(void **state) {
    (void)state;
    const char *path = test_path(root, "target");
    int failures = 0;
    for (int n = 1;; n++) {
        test_write_file(path, "old", 3);
        struct error error = {0};
        int64_t live = memory_statistics_get().live_blocks;
        file_fail_at(n, ENOSPC);
        int code = write_something((void *)path, &error);
        file_fail_at(0, 0);
        assert_int_equal(memory_statistics_get().live_blocks, live);
        assert_int_equal(count_entries(root), 1);
        if (code == 0) {
            break;
        }
        failures++;
        assert_int_equal(code, ERROR_IO);
        assert_non_null(strstr(error.text, "No space left on device"));
        assert_non_null(strstr(error.text, root));
        size_t size;
        char *text = test_read_file(path, &size);
        assert_true(size == 3 || size == 2100000);   // the whole old file or the whole new one
        free(text);
    }
    assert_true(failures >= 6);   // open, two writes, fsync, rename, directory
    assert_true(test_failing_memory(write_something, (void *)path) >= 4);
    unlink(path);
}

static int read_everything(void *argument, struct error *error) {
    char *text = NULL;
    int64_t size;
    struct mapped_file file = {0};
    uint64_t checksum;
    char **names = NULL;
    int64_t count = 0;
    int code = file_read(&text, &size, argument, 1 << 20, error);
    code = code != 0 ? code : file_map(&file, argument, error);
    code = code != 0 ? code : file_checksum(argument, &checksum, error);
    code = code != 0 ? code : file_list(&names, &count, root, error);
    memory_free(text);
    file_unmap(&file);
    file_list_free(names, count);
    return code;
}

static void test_read_failures(void **state) {
    (void)state;
    const char *path = test_path(root, "source");
    test_write_file(path, "content", 7);
    int failures = 0;
    for (int n = 1;; n++) {
        struct error error = {0};
        int64_t live = memory_statistics_get().live_blocks;
        file_fail_at(n, EIO);
        int code = read_everything((void *)path, &error);
        file_fail_at(0, 0);
        assert_int_equal(memory_statistics_get().live_blocks, live);
        if (code == 0) {
            break;
        }
        failures++;
        test_assert_error(code, &error, ERROR_IO, "Input/output error");
    }
    assert_true(failures >= 9);
    assert_true(test_failing_memory(read_everything, (void *)path) >= 5);
    unlink(path);
}

static void test_directories(void **state) {
    (void)state;
    struct error error = {0};
    const char *deep = test_path(root, "a/b//c/");
    assert_int_equal(file_make_directory(deep, &error), 0);
    assert_int_equal(file_make_directory(deep, &error), 0);
    assert_true(file_is_directory(test_path(root, "a/b/c")));
    test_write_file(test_path(root, "a/file"), "x", 1);
    assert_false(file_is_directory(test_path(root, "a/file")));
    assert_true(file_exists(test_path(root, "a/file")));
    test_assert_error(file_make_directory(test_path(root, "a/file/d"), &error), &error, ERROR_IO,
                      "cannot create directory");
    assert_int_equal(symlink("..", test_path(root, "a/loop")), 0);
    char **names;
    int64_t count;
    error_clear(&error);
    assert_int_equal(file_list(&names, &count, test_path(root, "a"), &error), 0);
    assert_int_equal(count, 3);
    assert_string_equal(names[0], "b");
    assert_string_equal(names[1], "file");
    assert_string_equal(names[2], "loop");
    file_list_free(names, count);
    assert_int_equal(file_rename(test_path(root, "a/file"), test_path(root, "a/b/moved"), &error), 0);
    assert_true(file_exists(test_path(root, "a/b/moved")));
    assert_int_equal(file_rename(test_path(root, "a/b/"), test_path(root, "a/e/"), &error), 0);
    assert_true(file_exists(test_path(root, "a/e/moved")));
    test_assert_error(file_rename(test_path(root, "no"), test_path(root, "yes"), &error), &error, ERROR_IO,
                      "cannot rename");
    // A link to a directory above is removed as a link: what it points to stays.
    error_clear(&error);
    test_write_file(test_path(root, "keep"), "x", 1);
    assert_int_equal(file_remove_tree(test_path(root, "a"), &error), 0);
    assert_false(file_exists(test_path(root, "a")));
    assert_true(file_exists(test_path(root, "keep")));
    unlink(test_path(root, "keep"));
    test_assert_error(file_remove_tree(test_path(root, "a"), &error), &error, ERROR_IO, "cannot remove");
    static const char *const refused[] = {"", "/", ".", "..", "./", "//", "x/..", "x/../"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        error_clear(&error);
        test_assert_error(file_remove_tree(refused[i], &error), &error, ERROR_ARGUMENT, "refusing");
    }
    char *joined = file_join("a/", "b", NULL), *plain = file_join("a", "b", NULL), *empty = file_join("", "b", NULL);
    assert_string_equal(joined, "a/b");
    assert_string_equal(plain, "a/b");
    assert_string_equal(empty, "b");
    memory_free(joined);
    memory_free(plain);
    memory_free(empty);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_standard_input),
        cmocka_unit_test(test_writer),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_interrupted_writes),
        cmocka_unit_test(test_write_failures),
        cmocka_unit_test(test_read_failures),
        cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
