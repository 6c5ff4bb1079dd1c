// Messages to people, on stderr, one line each. Results of a command go to stdout.
#ifndef MINKE_BASE_LOG_H
#define MINKE_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);   // default LOG_INFO
// Writes "minke: <text>" (warning/error get "warning: "/"error: "); clears a progress bar that stands on the line
// first.
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

// A progress bar: drawn on a terminal at most ten times a second, on a pipe as a plain line every ten per cent (and
// never when quiet). `unit` is shown with the rate ("tokens", "bytes" is printed in binary multiples).
struct progress {
    const char *title, *unit;
    int64_t total, done;     // total 0 = unknown
    double started, drawn;   // seconds, monotonic
    int drawn_decile;
    bool terminal;
    char note[160];   // free text behind the bar, e.g. "loss 3.21 lr 2.2e-4"
};
void progress_begin(struct progress *progress, const char *title, const char *unit, int64_t total);
void progress_note(struct progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
void progress_update(struct progress *progress, int64_t done);
void progress_end(struct progress *progress);

double clock_seconds(void);   // monotonic

// "1.5 GiB", "3.2 M", "1h 02m 03s" into buffer; returns buffer.
char *text_bytes(char buffer[32], int64_t bytes);
char *text_count(char buffer[32], double count);
char *text_duration(char buffer[32], double seconds);

#endif
