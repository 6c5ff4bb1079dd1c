// One-line error records and the invariant check. Data in: a code and a printf format; data out: struct error.
// Names of files and keys come from outside, so control characters in a message become '?' and the line stays one line.
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Replaces control characters (UTF-8 bytes stay) and cuts a character that the buffer's end has split.
static void text_clean(char *text, size_t capacity) {
    size_t length = 0;
    for (; text[length] != '\0'; length++) {
        unsigned char byte = (unsigned char)text[length];
        if (byte == '\n' || byte == '\t' || byte == '\r') {
            text[length] = ' ';
        } else if (byte < 0x20 || byte == 0x7f) {
            text[length] = '?';
        }
    }
    if (length + 1 < capacity) {
        return;
    }
    size_t start = length;
    while (start > 0 && length - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80) {
        start--;
    }
    if (start > 0 && (unsigned char)text[start - 1] >= 0xc0) {
        unsigned char lead = (unsigned char)text[start - 1];
        size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
        if (length - (start - 1) < need) {
            text[start - 1] = '\0';
        }
    }
}

int error_set(struct error *error, int code, const char *format, ...) {
    if (error == NULL || error->code != 0) {
        return code;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    text_clean(error->text, sizeof error->text);
    error->code = code;
    return code;
}

int error_set_errno(struct error *error, const char *format, ...) {
    int saved = errno;
    int code = saved == ENOMEM ? ERROR_MEMORY : ERROR_IO;
    if (error == NULL || error->code != 0) {
        return code;
    }
    char reason[128];
    // The GNU form returns a pointer that may or may not be the buffer.
    const char *reason_text = strerror_r(saved, reason, sizeof reason);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    // The reason matters more than the end of a very long path.
    size_t room = sizeof error->text - strlen(reason_text) - 3;
    size_t at = length < 0 ? 0 : (size_t)length < room ? (size_t)length : room;
    snprintf(error->text + at, sizeof error->text - at, ": %s", reason_text);
    text_clean(error->text, sizeof error->text);
    error->code = code;
    return code;
}

int error_prefix(struct error *error, const char *format, ...) {
    if (error == NULL || error->code == 0) {
        return error == NULL ? 0 : error->code;
    }
    char text[sizeof error->text];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t at = length < 0 ? 0 : (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
    // What does not fit is cut at the end.
    size_t room = sizeof text - 1 - at;
    size_t separator = room < 2 ? room : 2;
    memcpy(text + at, ": ", separator);
    size_t rest = strnlen(error->text, room - separator);
    memcpy(text + at + separator, error->text, rest);
    text[at + separator + rest] = '\0';
    text_clean(text, sizeof text);
    memcpy(error->text, text, sizeof text);
    return error->code;
}

void error_clear(struct error *error) {
    if (error != NULL) {
        error->code = 0;
        error->text[0] = '\0';
    }
}

void check_failed(const char *file, int line, const char *condition, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fflush(stdout);
    fprintf(stderr, "minke: internal error at %s:%d: %s%s%s\n", file, line, condition, text[0] != '\0' ? ": " : "",
            text);
    abort();
}
