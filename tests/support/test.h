// What every test program includes: cmocka with the headers it needs, and a few helpers.
#ifndef MINKE_TESTS_SUPPORT_TEST_H
#define MINKE_TESTS_SUPPORT_TEST_H

// cmocka.h needs these first, in this order.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"

// A fresh directory under TMPDIR or /tmp; test_directory_remove deletes it with all it holds and frees the name.
char *test_directory(void);
void test_directory_remove(char *path);

// "<directory>/<name>" in a ring of static buffers: valid for the next seven calls, nothing to free.
const char *test_path(const char *directory, const char *name);

// Writes / reads a whole file with stdio, independent of base/file.h. The text is malloc'ed, zero-terminated.
void test_write_file(const char *path, const void *data, size_t size);
char *test_read_file(const char *path, size_t *size);

// Runs function(argument) in a child process with stderr caught; returns the signal that ended it (0 = it returned) and
// copies what it printed into text.
int test_child_signal(void (*function)(void *argument), void *argument, char *text, size_t capacity);

// Fails the test unless `code` is the expected error code and the message contains `fragment`.
void test_assert_error(int code, const struct error *error, int expected, const char *fragment);

// Calls function(argument, &error) with the n-th allocation failing, n = 1, 2, 3, ... until it succeeds. Every failure
// must give ERROR_MEMORY with a message and leave no block behind. Returns the number of failures seen.
int test_failing_memory(int (*function)(void *argument, struct error *error), void *argument);

#endif
