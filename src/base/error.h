// Errors that a user can cause or meet: files, sockets, configuration, input.
//
// A function at an edge returns 0 on success or one of the negative codes below, and fills `struct error` with one
// line that names the file, the key, what was found and what was expected. Inside, CHECK states invariants whose
// violation is a bug of ours: it prints the place and aborts.
#ifndef MINKE_BASE_ERROR_H
#define MINKE_BASE_ERROR_H

#include <stdarg.h>

enum error_code {
    ERROR_NONE = 0,
    ERROR_IO = -1,         // the operating system refused: open, read, write, map, rename, disk full
    ERROR_MEMORY = -2,     // an allocation failed
    ERROR_FORMAT = -3,     // a file or request is malformed or contradicts itself
    ERROR_ARGUMENT = -4,   // the caller asked for something impossible (range, unknown name, missing option)
    ERROR_LIMIT = -5,      // a stated limit would be exceeded
    ERROR_STATE = -6,      // not now: wrong order, cancelled, interrupted
    ERROR_NUMERIC = -7,    // a loss or gradient stopped being finite
};

struct error {
    int code;         // 0 or enum error_code
    char text[512];   // one line, no trailing newline; valid when code != 0
};

// Fills *error (which may be NULL) and returns `code`, so that a caller can write `return error_set(...)`.
// The first error wins: a filled error is not overwritten.
int error_set(struct error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
// The same, with ": <strerror(errno)>" appended; saves errno on entry. Code is ERROR_IO (ERROR_MEMORY for ENOMEM).
int error_set_errno(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Puts "<context>: " in front of an error that is already set; returns its code.
int error_prefix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
void error_clear(struct error *error);

// States an invariant, always with a message: CHECK(rows > 0, "%d rows", rows). Always on (also in optimised builds): a
// wrong shape must stop, not corrupt.
#define CHECK(condition, ...)                                             \
    do {                                                                  \
        if (__builtin_expect(!(condition), 0)) {                          \
            check_failed(__FILE__, __LINE__, #condition, "" __VA_ARGS__); \
        }                                                                 \
    } while (0)
void check_failed(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5), noreturn, cold));

#endif
