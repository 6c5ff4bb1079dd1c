// Lines for people on stderr: messages, progress bars, and the units both print. Every line is formatted first and then
// written by one call under one lock, so lines of several threads do not mix, and a bar is wiped before a message.
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define DRAW_SECONDS 0.1
#define PLAIN_SECONDS 10.0   // a plain line this often when the total is unknown

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum log_level level_limit = LOG_INFO;   // under lock
static bool bar_on_line;                        // a bar stands on the terminal's last line; under lock

static void write_stderr(const char *text, size_t size) {
    while (size > 0) {
        ssize_t count = write(STDERR_FILENO, text, size);
        if (count <= 0) {
            return;   // nowhere left to complain
        }
        text += count;
        size -= (size_t)count;
    }
}

void log_set_level(enum log_level level) {
    pthread_mutex_lock(&lock);
    level_limit = level;
    pthread_mutex_unlock(&lock);
}

static bool level_shown(enum log_level level) {
    pthread_mutex_lock(&lock);
    bool shown = level <= level_limit;
    pthread_mutex_unlock(&lock);
    return shown;
}

void log_write(enum log_level level, const char *format, ...) {
    if (!level_shown(level)) {
        return;
    }
    static const char *const prefix[] = {
        [LOG_ERROR] = "error: ", [LOG_WARNING] = "warning: ", [LOG_INFO] = "", [LOG_DEBUG] = ""};
    char line[2048];
    int at = snprintf(line, sizeof line, "minke: %s", prefix[level]);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + at, sizeof line - (size_t)at - 1, format, arguments);
    va_end(arguments);
    size_t length = strlen(line);
    for (size_t i = 0; i < length; i++) {   // what a client sent may not forge lines or steer the terminal
        line[i] = (unsigned char)line[i] < 0x20 || line[i] == 0x7f ? ' ' : line[i];
    }
    line[length++] = '\n';
    pthread_mutex_lock(&lock);
    if (bar_on_line) {
        write_stderr("\r\033[K", 4);
        bar_on_line = false;
    }
    write_stderr(line, length);
    pthread_mutex_unlock(&lock);
}

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

char *text_bytes(char buffer[32], int64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while ((value >= 1023.95 || value <= -1023.95) && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    snprintf(buffer, 32, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buffer;
}

char *text_count(char buffer[32], double count) {
    static const char *const units[] = {"", " k", " M", " B", " T"};
    double magnitude = count < 0 ? -count : count;
    size_t unit = 0;
    while (magnitude >= 999.95 && unit + 1 < sizeof units / sizeof units[0]) {
        count /= 1000;
        magnitude /= 1000;
        unit++;
    }
    bool whole = unit == 0 && (count == (double)(int64_t)count || magnitude >= 100);
    snprintf(buffer, 32, whole ? "%.0f%s" : "%.1f%s", count, units[unit]);
    return buffer;
}

char *text_duration(char buffer[32], double seconds) {
    if (!(seconds >= 0 && seconds < 1e9)) {
        snprintf(buffer, 32, "unknown");
    } else if (seconds < 9.95) {
        snprintf(buffer, 32, "%.1fs", seconds);
    } else {
        long long whole = (long long)(seconds + 0.5);
        long long hours = whole / 3600, minutes = whole / 60 % 60;
        if (hours > 0) {
            snprintf(buffer, 32, "%lldh %02lldm %02llds", hours, minutes, whole % 60);
        } else if (minutes > 0) {
            snprintf(buffer, 32, "%lldm %02llds", minutes, whole % 60);
        } else {
            snprintf(buffer, 32, "%llds", whole);
        }
    }
    return buffer;
}

void progress_begin(struct progress *progress, const char *title, const char *unit, int64_t total) {
    *progress = (struct progress){
        .title = title,
        .unit = unit,
        .total = total,
        .started = clock_seconds(),
        .terminal = isatty(STDERR_FILENO) == 1,
    };
    progress->drawn = progress->started;
}

void progress_note(struct progress *progress, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(progress->note, sizeof progress->note, format, arguments);
    va_end(arguments);
}

static char *amount(char buffer[32], const struct progress *progress, double value) {
    return strcmp(progress->unit, "bytes") == 0 ? text_bytes(buffer, (int64_t)value) : text_count(buffer, value);
}

// "12.0 k tokens, 3.4 k tokens/s, 1m 02s left, loss 3.21"
static int describe(char *text, size_t capacity, const struct progress *progress, bool ended) {
    char done[32], rate[32], time[32];
    double seconds = clock_seconds() - progress->started;
    double per_second = seconds > 1e-9 ? (double)progress->done / seconds : 0;
    bool bytes = strcmp(progress->unit, "bytes") == 0;
    amount(done, progress, (double)progress->done);
    amount(rate, progress, per_second);
    int at = bytes ? snprintf(text, capacity, "%s, %s/s", done, rate)
                   : snprintf(text, capacity, "%s %s, %s %s/s", done, progress->unit, rate, progress->unit);
    if (ended) {
        at += snprintf(text + at, capacity - (size_t)at, ", %s", text_duration(time, seconds));
    } else if (progress->total > 0 && progress->done > 0) {
        double left = seconds * (double)(progress->total - progress->done) / (double)progress->done;
        at += snprintf(text + at, capacity - (size_t)at, ", %s left", text_duration(time, left < 0 ? 0 : left));
    }
    if (progress->note[0] != '\0') {
        at += snprintf(text + at, capacity - (size_t)at, ", %s", progress->note);
    }
    return at;
}

static int percent(const struct progress *progress) {
    double share = progress->total > 0 ? (double)progress->done / (double)progress->total : 0;
    return share <= 0 ? 0 : share >= 1 ? 100 : (int)(100 * share);
}

static int terminal_columns(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void draw_bar(struct progress *progress, bool ended) {
    enum { CELLS = 24 };
    char text[512], line[1024];
    describe(text, sizeof text, progress, ended);
    char bar[CELLS + 1] = "";
    if (progress->total > 0) {
        int filled = percent(progress) * CELLS / 100;
        memset(bar, '-', CELLS);
        memset(bar, '#', (size_t)filled);
        bar[CELLS] = '\0';
    }
    int columns = terminal_columns() - 1;
    int room = columns < (int)sizeof line - 16 ? columns : (int)sizeof line - 16;
    char body[800];
    if (progress->total > 0) {
        snprintf(body, sizeof body, "%s [%s] %3d%%  %s", progress->title, bar, percent(progress), text);
    } else {
        snprintf(body, sizeof body, "%s  %s", progress->title, text);
    }
    int length = snprintf(line, sizeof line, "\r%.*s\033[K%s", room, body, ended ? "\n" : "");
    pthread_mutex_lock(&lock);
    if (level_limit >= LOG_INFO) {
        write_stderr(line, (size_t)length);
        bar_on_line = !ended;
    }
    pthread_mutex_unlock(&lock);
}

static void draw_plain(const struct progress *progress, bool ended) {
    char text[512];
    describe(text, sizeof text, progress, ended);
    if (progress->total > 0) {
        log_info("%s: %d%%, %s", progress->title, percent(progress), text);
    } else {
        log_info("%s: %s", progress->title, text);
    }
}

void progress_update(struct progress *progress, int64_t done) {
    progress->done = done;
    double now = clock_seconds();
    if (progress->terminal) {
        if (now - progress->drawn >= DRAW_SECONDS) {
            progress->drawn = now;
            draw_bar(progress, false);
        }
        return;
    }
    int decile = percent(progress) / 10;
    bool due = progress->total > 0 ? decile > progress->drawn_decile && decile < 10
                                   : now - progress->drawn >= PLAIN_SECONDS;
    if (due) {
        progress->drawn = now;
        progress->drawn_decile = decile;
        draw_plain(progress, false);
    }
}

void progress_end(struct progress *progress) {
    if (progress->terminal) {
        draw_bar(progress, true);
    } else {
        draw_plain(progress, true);
    }
}
